//! The coordinator of one transaction: two-phase commit with presumed abort, as a state machine.
//!
//! ```text
//!            all voted              admitted           recorded                all applied
//!  Voting ───────────────► Entering ────────► Logging ─────────► Applying ───────────────────► Over
//!    │  no, lost, late        │                  │ lost                                          ▲
//!    ├────────────────────────┘                  ▼        it is there: Applying                  │
//!    │                                        Asking ────► it will never be: Aborting            │
//!    ▼                                                                                           │
//!  Aborting ─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! * *Nobody wrote*: branches end, and that is all. *One wrote*: its commit is the transaction's, with no other message.
//! * *Several wrote*: all prepare in parallel. When the last has voted yes, the decision is recorded durably, and not
//!   before that record is known to be durable is any prepared branch committed. Commits are repeated until each participant
//!   has acknowledged; then the record is forgotten. An abort is recorded nowhere.
//! * *Last agent*: the one participant that records decisions itself does not prepare. Once the others have, its commit writes
//!   the record in the same durable write, and so is the decision.
//! * Branches that only read are let go at once, or vote by ending if their engine validates reads.
//!
//! Invariant: after [`Effect::Log`] was asked for, nothing is aborted unless it is certain that the record is not there and never
//! will be; before [`Input::Logged`], no prepared branch is committed.
//!
//! The second phase begins with [`Effect::Enter`], which [`crate::snapshot`] admits, so that a read over several sites can
//! keep it out of the moment in which it opens its snapshots. With a last agent that comes before the record, because the record
//! makes the agent's writes visible; otherwise after it, to keep the time short.
//!
//! The client is answered when the outcome is the same at all sites, or when `timeout` has passed since the beginning: with the decision
//! if there is one, with 40003 if nobody can know.

mod plan;
mod text;

pub use plan::{CannotPrepare, Participant, Records, Work};

use crate::attempt::Attempt;
use crate::decision::Decision;
use crate::gid::{Gid, TransactionId};
use crate::names::Names;
use crate::time::{Backoff, Time};
use atoll_model::{Error, ErrorKind, ParticipantId, Result};
use plan::Plan;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a commit waits.
#[derive(Clone, Debug)]
pub struct Options {
    /// For the votes; for the answer to any one request; and the client, for its answer, since the beginning.
    pub timeout: Duration,
    /// Between attempts.
    pub retry: Backoff,
    /// For what the client is told.
    pub names: Names,
}

impl Default for Options {
    fn default() -> Self {
        Options { timeout: Duration::from_secs(30), retry: Backoff::default(), names: Names::default() }
    }
}

/// What the coordinator hears. What does not fit its state, such as the second copy of an answer, changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// A validated read-only branch has ended well.
    Ended(ParticipantId),
    /// The branch is prepared: durable, and able to commit whatever happens.
    Prepared(ParticipantId),
    /// The branch could not end, prepare or commit in one phase, and is rolled back for certain.
    Refused(ParticipantId, Error),
    /// No answer to the last request will come, so nobody knows what it did.
    Lost(ParticipantId),
    /// The branch is committed, durably, and seen by every snapshot opened from now on.
    Committed(ParticipantId),
    /// The branch is rolled back.
    Aborted(ParticipantId),
    /// There is no prepared branch of this name.
    Missing(ParticipantId),
    /// The second phase may begin.
    Admitted,
    /// The decision is recorded durably; with a last agent, its branch is committed as well.
    Logged,
    /// The decision is not recorded and never will be (and the last agent's branch is rolled back).
    LogRefused(Error),
    /// Nobody knows whether the decision is recorded.
    LogLost,
    /// The answer to [`Effect::AskLog`]: whether the decision is recorded.
    LogHas(bool),
    /// The client would rather have it aborted. Without effect once the decision may be recorded.
    Cancel,
    /// Time has passed.
    Tick,
}

/// What the coordinator wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Let the read-only branch go. No answer is expected.
    Release(ParticipantId),
    /// End the read-only branch: `Ended`, `Refused` or `Lost`.
    End(ParticipantId),
    /// Prepare the branch under [`Commit::gid`]: `Prepared`, `Refused` or `Lost`.
    Prepare(ParticipantId),
    /// Commit the branch, which is not prepared: `Committed`, `Refused` or `Lost`. Without an answer in time its connection is of no more use.
    CommitOnePhase(ParticipantId),
    /// Ask for the beginning of the second phase, at these participants: `Admitted`.
    Enter(Vec<ParticipantId>),
    /// Record the decision durably, together with the commit of the last agent if there is one: `Logged`, `LogRefused` or `LogLost`.
    Log {
        /// The record.
        decision: Decision,
        /// The participant whose branch commits in the same durable write.
        with: Option<ParticipantId>,
    },
    /// Find out whether the decision is recorded: `LogHas`, or `LogLost` if that cannot be found out now. The answer must be final: if it is "no", a write that is still under way must
    /// never succeed. The node's own log orders the question behind the write; a ledger is asked by writing the opposite
    /// record under the same key, which waits for the write under way or makes it fail.
    AskLog(Decision),
    /// Commit the prepared branch: `Committed`, `Missing` or `Lost`.
    Commit(ParticipantId),
    /// Roll the branch back, whether it is prepared or not: `Aborted`, `Missing` or `Lost`.
    Abort(ParticipantId),
    /// The participant shows the transaction to every snapshot opened from now on.
    Applied(ParticipantId),
    /// The second phase will not take place.
    Withdraw,
    /// Tell the client.
    Answer(Result<Committed>),
    /// Somebody else has finished the prepared branch, nobody knows how: to be reported to the operator.
    FinishedElsewhere(ParticipantId),
    /// A prepared branch may be left here, or come up late: recovery should look.
    Sweep(ParticipantId),
    /// Delete the record. Need not be durable.
    Forget(Decision),
    /// Nothing more will come: the transaction leaves the set of active ones.
    Done,
}

/// A committed transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    /// Participants that have yet to apply it. It is durable, and commits there as soon as they can be reached.
    pub pending: Vec<ParticipantId>,
}

/// The coordinator of one transaction.
#[derive(Debug)]
pub struct Commit {
    id: TransactionId,
    options: Options,
    plan: Plan,
    branches: BTreeMap<ParticipantId, Branch>,
    phase: Phase,
    deadline: Time,
    answered: bool,
    finished_elsewhere: bool,
}

#[derive(Debug)]
enum Phase {
    Voting,
    Entering { logged: bool },
    Logging,
    Asking(Attempt),
    Applying,
    Aborting { cause: Error, until: Time },
    Single,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Branch {
    /// Its commit is the decision.
    Deciding,
    /// Asked to end.
    Ending,
    /// Asked to prepare.
    Preparing,
    Prepared,
    Committing(Attempt),
    /// Asked to roll back; it may turn out to be prepared later if its vote never came.
    Aborting {
        voted: bool,
    },
    Finished,
}

impl Commit {
    /// Begins. The transaction belongs to the set of active ones from before this call until [`Effect::Done`].
    ///
    /// # Errors
    /// Several participants wrote, and not all but one of them can prepare. Nothing was done; the caller rolls back.
    pub fn begin(
        now: Time,
        id: TransactionId,
        participants: &[Participant],
        options: Options,
    ) -> Result<(Commit, Vec<Effect>), CannotPrepare> {
        let plan = Plan::of(participants)?;
        let deadline = now + options.timeout;
        let mut commit = Commit {
            id,
            options,
            plan,
            branches: BTreeMap::new(),
            phase: Phase::Voting,
            deadline,
            answered: false,
            finished_elsewhere: false,
        };
        let mut out = vec![];
        for participant in participants {
            let p = participant.id;
            let branch = match participant.work {
                Work::Read => {
                    out.push(Effect::Release(p));
                    continue;
                }
                Work::ValidatedRead => {
                    out.push(Effect::End(p));
                    Branch::Ending
                }
                Work::Wrote if commit.decider() == Some(p) => Branch::Deciding,
                Work::Wrote => {
                    out.push(Effect::Prepare(p));
                    Branch::Preparing
                }
            };
            commit.branches.insert(p, branch);
        }
        commit.decide_if_all_voted(&mut out);
        Ok((commit, out))
    }

    /// The name under which a branch is prepared.
    pub fn gid(&self, participant: ParticipantId) -> Gid {
        self.id.branch(participant, self.ledger())
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        match input {
            Input::Ended(p) => self.voted(p, Branch::Ending, Branch::Finished, &mut out),
            Input::Prepared(p) => self.voted(p, Branch::Preparing, Branch::Prepared, &mut out),
            Input::Refused(p, error) => self.refused(now, p, error, &mut out),
            Input::Lost(p) => self.lost(now, p, &mut out),
            Input::Committed(p) => self.committed(p, &mut out),
            Input::Aborted(p) => self.aborted(p, false, &mut out),
            Input::Missing(p) => self.missing(p, &mut out),
            Input::Admitted => self.admitted(now, &mut out),
            Input::Logged => self.logged(now, &mut out),
            Input::LogRefused(error) => self.log_refused(now, error, &mut out),
            Input::LogLost => self.log_lost(now, &mut out),
            Input::LogHas(found) => match (&self.phase, found) {
                (Phase::Asking(_), true) => self.logged(now, &mut out),
                (Phase::Asking(_), false) => self.abort(now, text::not_recorded(), &mut out),
                _ => {}
            },
            Input::Cancel => {
                if matches!(self.phase, Phase::Voting | Phase::Entering { logged: false }) {
                    self.abort(now, Error::new(ErrorKind::QueryCanceled, "the commit was cancelled"), &mut out);
                }
            }
            Input::Tick => self.tick(now, &mut out),
        }
        out
    }

    /// When time alone changes something: [`Input::Tick`] is due then, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        let answer = (!self.answered).then_some(self.deadline);
        let attempt = match &self.phase {
            Phase::Over => return None,
            Phase::Voting | Phase::Entering { .. } | Phase::Logging | Phase::Single => None,
            Phase::Asking(attempt) => Some(attempt.wake_at()),
            Phase::Aborting { until, .. } => Some(*until),
            Phase::Applying => self.branches.values().filter_map(Branch::wake_at).min(),
        };
        answer.into_iter().chain(attempt).min()
    }

    fn decider(&self) -> Option<ParticipantId> {
        match self.plan {
            Plan::OnePhase(p) | Plan::LastAgent(p, _) => Some(p),
            Plan::Nothing | Plan::Prepared => None,
        }
    }

    fn ledger(&self) -> Option<ParticipantId> {
        match self.plan {
            Plan::LastAgent(p, Records::Ledger) => Some(p),
            _ => None,
        }
    }

    fn decision(&self) -> Decision {
        let prepared = self.branches.keys().copied().filter(|p| self.decider() != Some(*p));
        Decision { transaction: self.id, prepared: prepared.collect(), ledger: self.ledger() }
    }

    fn voted(&mut self, p: ParticipantId, was: Branch, is: Branch, out: &mut Vec<Effect>) {
        if let (Phase::Voting, Some(branch)) = (&self.phase, self.branches.get_mut(&p))
            && *branch == was
        {
            *branch = is;
            self.decide_if_all_voted(out);
        }
    }

    fn decide_if_all_voted(&mut self, out: &mut Vec<Effect>) {
        if self.branches.values().any(|b| matches!(b, Branch::Ending | Branch::Preparing)) {
            return;
        }
        // What has ended has no further part in this.
        self.branches.retain(|_, branch| *branch != Branch::Finished);
        match self.plan {
            Plan::Nothing => self.finish(Ok(Committed::default()), out),
            Plan::OnePhase(p) => {
                self.phase = Phase::Single;
                out.push(Effect::CommitOnePhase(p));
            }
            Plan::LastAgent(..) => self.enter(false, out),
            Plan::Prepared => self.log(out),
        }
    }

    fn enter(&mut self, logged: bool, out: &mut Vec<Effect>) {
        self.phase = Phase::Entering { logged };
        out.push(Effect::Enter(self.branches.keys().copied().collect()));
    }

    fn admitted(&mut self, now: Time, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Entering { logged: false } => self.log(out),
            Phase::Entering { logged: true } => self.apply(now, out),
            _ => {}
        }
    }

    fn log(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Logging;
        out.push(Effect::Log { decision: self.decision(), with: self.decider() });
    }

    fn logged(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Logging | Phase::Asking(_)) {
            return;
        }
        match self.decider() {
            Some(decider) => {
                self.branches.insert(decider, Branch::Finished);
                out.push(Effect::Applied(decider));
                self.apply(now, out);
            }
            None => self.enter(true, out),
        }
    }

    fn log_refused(&mut self, now: Time, error: Error, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Logging | Phase::Asking(_)) {
            if let Some(decider) = self.decider() {
                self.branches.insert(decider, Branch::Finished);
            }
            self.abort(now, error, out);
        }
    }

    fn log_lost(&mut self, now: Time, out: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Logging => {
                self.phase = Phase::Asking(Attempt::sent(now, self.options.timeout));
                out.push(Effect::AskLog(self.decision()));
            }
            Phase::Asking(attempt) => attempt.lost(now, self.options.retry),
            _ => {}
        }
    }

    fn apply(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.phase = Phase::Applying;
        for (p, branch) in &mut self.branches {
            if *branch == Branch::Prepared {
                *branch = Branch::Committing(Attempt::sent(now, self.options.timeout));
                out.push(Effect::Commit(*p));
            }
        }
    }

    fn committed(&mut self, p: ParticipantId, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Single if self.decider() == Some(p) => self.finish(Ok(Committed::default()), out),
            Phase::Applying => self.applied(p, out),
            _ => {}
        }
    }

    fn missing(&mut self, p: ParticipantId, out: &mut Vec<Effect>) {
        match (&self.phase, self.branches.get(&p)) {
            (Phase::Applying, Some(Branch::Committing(attempt))) => {
                // If an earlier attempt was lost, it was that one which committed the branch.
                if attempt.is_first() {
                    self.finished_elsewhere = true;
                    out.push(Effect::FinishedElsewhere(p));
                }
                self.applied(p, out);
            }
            (Phase::Aborting { .. }, _) => self.aborted(p, true, out),
            _ => {}
        }
    }

    fn applied(&mut self, p: ParticipantId, out: &mut Vec<Effect>) {
        let Some(branch @ Branch::Committing(_)) = self.branches.get_mut(&p) else { return };
        *branch = Branch::Finished;
        out.push(Effect::Applied(p));
        if self.branches.values().all(|b| *b == Branch::Finished) {
            out.push(Effect::Forget(self.decision()));
            let answer =
                if self.finished_elsewhere { Err(text::finished_elsewhere()) } else { Ok(Committed::default()) };
            self.finish(answer, out);
        }
    }

    fn refused(&mut self, now: Time, p: ParticipantId, error: Error, out: &mut Vec<Effect>) {
        match (&self.phase, self.branches.get_mut(&p)) {
            (Phase::Voting, Some(branch @ (Branch::Ending | Branch::Preparing))) => {
                *branch = Branch::Finished;
                self.abort(now, error, out);
            }
            (Phase::Single, Some(Branch::Deciding)) => self.finish(Err(error), out),
            (Phase::Aborting { .. }, _) => self.aborted(p, false, out),
            _ => {}
        }
    }

    fn lost(&mut self, now: Time, p: ParticipantId, out: &mut Vec<Effect>) {
        match (&self.phase, self.branches.get_mut(&p)) {
            (Phase::Voting, Some(Branch::Ending | Branch::Preparing)) => {
                self.abort(now, text::lost(&self.options.names.of(p)), out)
            }
            (Phase::Single, Some(Branch::Deciding)) => self.finish(Err(text::unknown()), out),
            (Phase::Applying, Some(Branch::Committing(attempt))) => attempt.lost(now, self.options.retry),
            (Phase::Aborting { .. }, Some(branch @ Branch::Aborting { .. })) => {
                *branch = Branch::Finished;
                out.push(Effect::Sweep(p));
                self.finish_abort(out);
            }
            _ => {}
        }
    }

    fn abort(&mut self, now: Time, cause: Error, out: &mut Vec<Effect>) {
        if let (Plan::LastAgent(..), Phase::Entering { .. } | Phase::Logging | Phase::Asking(_)) =
            (self.plan, &self.phase)
        {
            out.push(Effect::Withdraw);
        }
        for (p, branch) in &mut self.branches {
            if *branch != Branch::Finished {
                *branch = Branch::Aborting { voted: *branch != Branch::Preparing };
                out.push(Effect::Abort(*p));
            }
        }
        if now >= self.deadline {
            self.answer(Err(cause.clone()), out);
        }
        self.phase = Phase::Aborting { cause, until: now + self.options.timeout };
        self.finish_abort(out);
    }

    /// The branch is rolled back, or (`missing`) was not found prepared, which a late prepare could still change.
    fn aborted(&mut self, p: ParticipantId, missing: bool, out: &mut Vec<Effect>) {
        if let (Phase::Aborting { .. }, Some(branch)) = (&self.phase, self.branches.get_mut(&p))
            && let Branch::Aborting { voted } = *branch
        {
            *branch = Branch::Finished;
            if missing && !voted {
                out.push(Effect::Sweep(p));
            }
            self.finish_abort(out);
        }
    }

    fn finish_abort(&mut self, out: &mut Vec<Effect>) {
        if let Phase::Aborting { cause, .. } = &self.phase
            && self.branches.values().all(|b| *b == Branch::Finished)
        {
            let cause = cause.clone();
            self.finish(Err(cause), out);
        }
    }

    fn finish(&mut self, answer: Result<Committed>, out: &mut Vec<Effect>) {
        self.answer(answer, out);
        self.phase = Phase::Over;
        out.push(Effect::Done);
    }

    fn answer(&mut self, answer: Result<Committed>, out: &mut Vec<Effect>) {
        if !self.answered {
            self.answered = true;
            out.push(Effect::Answer(answer));
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Options { timeout, retry, .. } = self.options;
        let late = now >= self.deadline;
        match &mut self.phase {
            Phase::Voting if late => self.abort(now, self.no_votes(), out),
            Phase::Entering { logged: false } if late => self.abort(now, text::not_admitted(timeout), out),
            Phase::Entering { logged: true } if late => self.answer_pending(out),
            Phase::Logging if late => {
                self.answer(Err(text::unknown()), out);
                self.log_lost(now, out);
            }
            Phase::Single if late => self.finish(Err(text::unknown()), out),
            Phase::Asking(attempt) => {
                if attempt.poll(now, timeout, retry) {
                    out.push(Effect::AskLog(self.decision()));
                }
                if late {
                    self.answer(Err(text::unknown()), out);
                }
            }
            Phase::Applying => {
                for (p, branch) in &mut self.branches {
                    if let Branch::Committing(attempt) = branch
                        && attempt.poll(now, timeout, retry)
                    {
                        out.push(Effect::Commit(*p));
                    }
                }
                if late {
                    self.answer_pending(out);
                }
            }
            Phase::Aborting { cause, until } => {
                let (cause, over) = (cause.clone(), now >= *until);
                if late {
                    self.answer(Err(cause), out);
                }
                if over {
                    self.give_up_aborting(out);
                }
            }
            Phase::Voting | Phase::Entering { .. } | Phase::Logging | Phase::Single | Phase::Over => {}
        }
    }

    fn answer_pending(&mut self, out: &mut Vec<Effect>) {
        let pending = self.branches.iter().filter(|(_, b)| **b != Branch::Finished).map(|(p, _)| *p).collect();
        self.answer(Ok(Committed { pending }), out);
    }

    /// Recovery finds what is left: without a record, it is aborted.
    fn give_up_aborting(&mut self, out: &mut Vec<Effect>) {
        for (p, branch) in &mut self.branches {
            if *branch != Branch::Finished {
                *branch = Branch::Finished;
                out.push(Effect::Sweep(*p));
            }
        }
        self.finish_abort(out);
    }

    fn no_votes(&self) -> Error {
        let silent = self.branches.iter().filter(|(_, b)| matches!(b, Branch::Ending | Branch::Preparing));
        text::no_votes(silent.map(|(p, _)| self.options.names.of(*p)), self.options.timeout)
    }
}

impl Branch {
    fn wake_at(&self) -> Option<Time> {
        match self {
            Branch::Committing(attempt) => Some(attempt.wake_at()),
            _ => None,
        }
    }
}
