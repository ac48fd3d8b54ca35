//! Finding and finishing in-doubt transactions: after a crash of the coordinator, of a site, or of the network between.
//!
//! Each participant is asked in turns ("rounds") which branches of ours are prepared there; for each one found, the verdict is
//!
//! | coordinator | decision | verdict |
//! |---|---|---|
//! | this run of this node, still active | | left to its coordinator |
//! | this run of this node, over | | abort: it would not be over before its commit was applied everywhere |
//! | an earlier run of this node, or a run that is known to be dead | in the log | commit |
//! | the same | in the ledger named by the branch | what the ledger says when asked |
//! | the same | nowhere | abort (presumed abort) |
//! | another node, or a later start of this node | | left alone |
//!
//! The last line covers coordinators that live and may still decide, and a data directory that was put back from an older copy. A
//! coordinator is dead only if its log is complete: nothing can be added to it any more. For earlier runs of this node the
//! lock on its data directory sees to that; for other nodes, whoever sends [`Input::Died`] has fenced them.
//!
//! What was prepared is read from the sites again and again, and a verdict never changes, so every step can be repeated, by any node:
//! there is no state here that a crash could lose. A site that is down is asked again, with growing pauses. Each is also looked at
//! every [`Options::sweep`], because a prepare of a dead coordinator may be carried out late.
//!
//! A decision is forgotten once each participant that it names was seen without the branch, in a round that was *begun* after the
//! decision was known: the answer to an older one may be older than the branch.
//!
//! Invariant: no branch is aborted whose transaction has, or may still get, a decision; no name of another cluster is touched.

use crate::decision::Decision;
use crate::gid::{Gid, Incarnation, TransactionId};
use crate::time::{Backoff, Time};
use atoll_model::{ClusterId, NodeId, ParticipantId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Branches finished at a time at one participant; the rest wait for the next round.
const AT_ONCE: usize = 64;

/// Whose transactions to look after, and how long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The cluster whose transactions are ours.
    pub cluster: ClusterId,
    /// This run of this node.
    pub me: Incarnation,
    /// For an answer.
    pub timeout: Duration,
    /// Between the rounds at a participant where all is well.
    pub sweep: Duration,
    /// Between attempts at one where it is not.
    pub retry: Backoff,
}

impl Options {
    /// The usual waits.
    pub fn new(cluster: ClusterId, me: Incarnation) -> Self {
        let (timeout, sweep) = (Duration::from_secs(30), Duration::from_secs(60));
        Options { cluster, me, timeout, sweep, retry: Backoff::default() }
    }
}

/// What recovery hears.
#[derive(Clone, Debug)]
pub enum Input {
    /// A participant to look after from now on.
    Add(ParticipantId),
    /// A participant is gone for good, and its branches with it.
    Remove(ParticipantId),
    /// A coordinator may have left something there.
    Sweep(ParticipantId),
    /// The answer to [`Effect::List`].
    Listed {
        /// Who answers.
        participant: ParticipantId,
        /// Which question.
        round: u64,
        /// Branches that are prepared there and have names of ours.
        in_doubt: Vec<Gid>,
        /// Decisions in its ledger, if it has one.
        recorded: Vec<Decision>,
        /// Which of these transactions are active in this process: looked up after the answer had come, so that a transaction
        /// which is not among them is over.
        active: BTreeSet<TransactionId>,
    },
    /// It cannot be listed now.
    ListFailed {
        /// Who.
        participant: ParticipantId,
        /// Which question.
        round: u64,
    },
    /// The answer to [`Effect::Ask`].
    Told {
        /// The branch for which the question was asked.
        gid: Gid,
        /// The record, if there is one; if there is none, there never will be.
        decision: Option<Decision>,
    },
    /// The branch is finished as asked, durably, or no branch of the name was there.
    Finished(Gid),
    /// The question or the order for this branch failed, or was lost.
    Failed(Gid),
    /// A node has died and can record no more decisions under these epochs; this was its log.
    Died {
        /// The node.
        node: NodeId,
        /// The last of its epochs that is dead.
        through: u32,
        /// Everything that its log held.
        log: Vec<Decision>,
    },
    /// Time has passed.
    Tick,
}

/// What recovery wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// List what is prepared (and recorded) at a participant.
    List {
        /// Where.
        participant: ParticipantId,
        /// To be repeated in the answer.
        round: u64,
    },
    /// Ask the ledger named by the branch for the decision. The answer must be final, as for [`crate::commit::Effect::AskLog`].
    Ask(Gid),
    /// Commit the prepared branch.
    Commit(Gid),
    /// Roll the prepared branch back.
    Abort(Gid),
    /// The participant is as the dead coordinators' decisions say: it may be read.
    Settled(ParticipantId),
    /// Delete the record.
    Forget(Decision),
}

/// What is to become of a branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was decided.
    Commit,
    /// It cannot be decided any more.
    Abort,
    /// A ledger knows.
    Ask,
    /// Its coordinator lives.
    Leave,
}

/// Recovery of all participants, by one node.
#[derive(Debug)]
pub struct Recovery {
    options: Options,
    sites: BTreeMap<ParticipantId, Site>,
    decided: BTreeMap<TransactionId, Decided>,
    dead: BTreeMap<NodeId, u32>,
}

#[derive(Debug)]
struct Decided {
    decision: Decision,
    /// Participants that may still have the branch, and the first round that can tell.
    left: BTreeMap<ParticipantId, u64>,
}

#[derive(Debug)]
struct Site {
    /// The last one begun.
    round: u64,
    state: State,
    failures: u32,
    settled: bool,
    /// Begin another round at once.
    again: bool,
    /// What the last round found.
    seen: Vec<(Gid, Verdict)>,
}

#[derive(Debug)]
enum State {
    Resting { until: Time },
    Listing { by: Time },
    Finishing { by: Time, left: BTreeSet<Gid>, end: End },
}

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Nothing is left to do there.
    Complete,
    /// There was more than is done at once.
    Partial,
    Failed,
}

impl Recovery {
    /// Begins, with everything that this node's log holds from its earlier runs: before the log is read there is no recovery.
    pub fn begin(
        now: Time,
        options: Options,
        participants: impl IntoIterator<Item = ParticipantId>,
        log: Vec<Decision>,
    ) -> (Recovery, Vec<Effect>) {
        let mut recovery =
            Recovery { options, sites: BTreeMap::new(), decided: BTreeMap::new(), dead: BTreeMap::new() };
        let mut out = vec![];
        recovery.sites.extend(participants.into_iter().map(|p| (p, Site::new(now))));
        for decision in log {
            recovery.adopt(now, decision, &mut out);
        }
        recovery.tick(now, &mut out);
        (recovery, out)
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        match input {
            Input::Add(p) => {
                self.sites.entry(p).or_insert_with(|| Site::new(now));
            }
            Input::Remove(p) => {
                self.sites.remove(&p);
                self.without(&|gid| gid.participant == p, &mut out);
            }
            Input::Sweep(p) => {
                if let Some(site) = self.sites.get_mut(&p) {
                    site.hurry(now + self.options.retry.first);
                }
            }
            Input::Listed { participant, round, in_doubt, recorded, active } => {
                if self.is_listing(participant, round) {
                    self.listed(now, participant, &in_doubt, recorded, &active, &mut out);
                }
            }
            Input::ListFailed { participant, round } => {
                if self.is_listing(participant, round) {
                    self.rest(now, participant, End::Failed, &mut out);
                }
            }
            Input::Told { gid, decision } => self.told(now, gid, decision, &mut out),
            Input::Finished(gid) => {
                self.without(&|found| *found == gid, &mut out);
                self.answered(now, gid, true, &mut out);
            }
            Input::Failed(gid) => self.answered(now, gid, false, &mut out),
            Input::Died { node, through, log } => {
                let dead = self.dead.entry(node).or_insert(through);
                *dead = through.max(*dead);
                for decision in log {
                    self.adopt(now, decision, &mut out);
                }
                self.sites.values_mut().for_each(|site| site.hurry(now));
            }
            Input::Tick => {}
        }
        self.tick(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        self.sites.values().map(Site::wake_at).min()
    }

    /// What the last round found at each participant, for the view of in-doubt transactions.
    pub fn in_doubt(&self) -> impl Iterator<Item = (Gid, Verdict)> {
        self.sites.values().flat_map(|site| site.seen.iter().copied())
    }

    /// Decisions that are not yet known to be carried out everywhere.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.decided.values().map(|decided| &decided.decision)
    }

    /// Whether a participant has been brought to where the dead coordinators' decisions say.
    pub fn is_settled(&self, participant: ParticipantId) -> bool {
        self.sites.get(&participant).is_some_and(|site| site.settled)
    }

    /// What is to become of a branch of the cluster's, of whose coordinator's transactions these are active.
    pub fn verdict(&self, gid: &Gid, active: impl Fn(TransactionId) -> bool) -> Verdict {
        let transaction = gid.transaction;
        if !self.is_over(transaction, active) {
            Verdict::Leave
        } else if self.decided.contains_key(&transaction) {
            Verdict::Commit
        } else if gid.ledger.is_some() {
            Verdict::Ask
        } else {
            Verdict::Abort
        }
    }

    /// Whether its coordinator has finished or died, so that there is a decision now, or never.
    fn is_over(&self, transaction: TransactionId, active: impl Fn(TransactionId) -> bool) -> bool {
        let Incarnation { node, epoch } = transaction.coordinator;
        let me = self.options.me;
        if transaction.coordinator == me {
            !active(transaction)
        } else {
            node == me.node && epoch < me.epoch || self.dead.get(&node).is_some_and(|through| epoch <= *through)
        }
    }

    /// Takes a decision over, to see it carried out and forgotten.
    fn adopt(&mut self, now: Time, decision: Decision, out: &mut Vec<Effect>) {
        if self.decided.contains_key(&decision.transaction) {
            return;
        }
        let mut left = BTreeMap::new();
        for p in &decision.prepared {
            let site = self.sites.get_mut(p);
            left.insert(*p, site.as_ref().map_or(1, |site| site.round + 1));
            if let Some(site) = site {
                site.hurry(now);
            }
        }
        if left.is_empty() {
            out.push(Effect::Forget(decision));
        } else {
            self.decided.insert(decision.transaction, Decided { decision, left });
        }
    }

    /// These branches are known not to be prepared any more.
    fn without(&mut self, gone: &dyn Fn(&Gid) -> bool, out: &mut Vec<Effect>) {
        self.decided.retain(|id, decided| {
            decided.left.retain(|p, _| !gone(&id.branch(*p, decided.decision.ledger)));
            if decided.left.is_empty() {
                out.push(Effect::Forget(decided.decision.clone()));
            }
            !decided.left.is_empty()
        });
    }

    fn is_listing(&self, p: ParticipantId, round: u64) -> bool {
        self.sites.get(&p).is_some_and(|site| site.round == round && matches!(site.state, State::Listing { .. }))
    }

    fn listed(
        &mut self,
        now: Time,
        p: ParticipantId,
        in_doubt: &[Gid],
        recorded: Vec<Decision>,
        active: &BTreeSet<TransactionId>,
        out: &mut Vec<Effect>,
    ) {
        let ours = |transaction: TransactionId| transaction.cluster == self.options.cluster;
        let is_active = |transaction: TransactionId| active.contains(&transaction);
        let in_doubt: BTreeSet<Gid> =
            in_doubt.iter().copied().filter(|gid| gid.participant == p && ours(gid.transaction)).collect();
        let recorded: Vec<Decision> = recorded
            .into_iter()
            .filter(|d| d.ledger == Some(p) && ours(d.transaction) && self.is_over(d.transaction, is_active))
            .collect();
        for decision in recorded {
            self.adopt(now, decision, out);
        }
        let round = self.sites.get(&p).map_or(0, |site| site.round);
        let settled: BTreeSet<TransactionId> = self
            .decided
            .iter()
            .filter(|(_, decided)| decided.left.get(&p).is_some_and(|first| *first <= round))
            .filter(|(id, decided)| !in_doubt.contains(&id.branch(p, decided.decision.ledger)))
            .map(|(id, _)| *id)
            .collect();
        self.without(&|gid| gid.participant == p && settled.contains(&gid.transaction), out);

        let seen: Vec<(Gid, Verdict)> = in_doubt.iter().map(|gid| (*gid, self.verdict(gid, is_active))).collect();
        let mut work = seen.iter().filter(|(_, verdict)| *verdict != Verdict::Leave);
        let mut left = BTreeSet::new();
        for (gid, verdict) in work.by_ref().take(AT_ONCE) {
            left.insert(*gid);
            out.extend(Effect::of(*verdict, *gid));
        }
        let end = if work.next().is_some() { End::Partial } else { End::Complete };
        let Some(site) = self.sites.get_mut(&p) else { return };
        site.seen = seen;
        let done = left.is_empty();
        site.state = State::Finishing { by: now + self.options.timeout, left, end };
        if done {
            self.rest(now, p, end, out);
        }
    }

    fn told(&mut self, now: Time, gid: Gid, decision: Option<Decision>, out: &mut Vec<Effect>) {
        if !self.is_finishing(gid) {
            return;
        }
        match decision {
            Some(decision) => {
                self.adopt(now, decision, out);
                out.push(Effect::Commit(gid));
            }
            None => out.push(Effect::Abort(gid)),
        }
    }

    fn is_finishing(&self, gid: Gid) -> bool {
        let site = self.sites.get(&gid.participant);
        site.is_some_and(|site| matches!(&site.state, State::Finishing { left, .. } if left.contains(&gid)))
    }

    fn answered(&mut self, now: Time, gid: Gid, ok: bool, out: &mut Vec<Effect>) {
        let Some(site) = self.sites.get_mut(&gid.participant) else { return };
        let State::Finishing { left, end, .. } = &mut site.state else { return };
        if !left.remove(&gid) {
            return;
        }
        if !ok {
            *end = End::Failed;
        }
        let (done, end) = (left.is_empty(), *end);
        if ok {
            site.seen.retain(|(seen, _)| *seen != gid);
        }
        if done {
            self.rest(now, gid.participant, end, out);
        }
    }

    /// Ends a round.
    fn rest(&mut self, now: Time, p: ParticipantId, end: End, out: &mut Vec<Effect>) {
        let Options { sweep, retry, .. } = self.options;
        let Some(site) = self.sites.get_mut(&p) else { return };
        site.failures = if end == End::Failed { site.failures.saturating_add(1) } else { 0 };
        let until = match end {
            End::Failed => now + retry.after(site.failures),
            End::Complete if !site.again => now + sweep,
            End::Complete | End::Partial => now,
        };
        site.state = State::Resting { until };
        if end == End::Complete && !std::mem::replace(&mut site.settled, true) {
            out.push(Effect::Settled(p));
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let late: Vec<ParticipantId> =
            self.sites.iter().filter(|(_, site)| site.is_late(now)).map(|(p, _)| *p).collect();
        for p in late {
            self.rest(now, p, End::Failed, out);
        }
        for (p, site) in &mut self.sites {
            if let State::Resting { until } = site.state
                && until <= now
            {
                site.round += 1;
                site.again = false;
                site.state = State::Listing { by: now + self.options.timeout };
                out.push(Effect::List { participant: *p, round: site.round });
            }
        }
    }
}

impl Site {
    fn new(now: Time) -> Self {
        let state = State::Resting { until: now };
        Site { round: 0, state, failures: 0, settled: false, again: false, seen: vec![] }
    }

    /// Begins the next round then, or as soon as this one is over; a site that failed keeps its pause.
    fn hurry(&mut self, at: Time) {
        match &mut self.state {
            State::Resting { until } if self.failures == 0 => *until = at.min(*until),
            State::Resting { .. } => {}
            State::Listing { .. } | State::Finishing { .. } => self.again = true,
        }
    }

    fn is_late(&self, now: Time) -> bool {
        match self.state {
            State::Resting { .. } => false,
            State::Listing { by } | State::Finishing { by, .. } => by <= now,
        }
    }

    fn wake_at(&self) -> Time {
        match self.state {
            State::Resting { until } => until,
            State::Listing { by } | State::Finishing { by, .. } => by,
        }
    }
}

impl Effect {
    fn of(verdict: Verdict, gid: Gid) -> Option<Effect> {
        match verdict {
            Verdict::Commit => Some(Effect::Commit(gid)),
            Verdict::Abort => Some(Effect::Abort(gid)),
            Verdict::Ask => Some(Effect::Ask(gid)),
            Verdict::Leave => None,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::List { participant, round } => write!(f, "list {participant} round {round}"),
            Effect::Ask(gid) => write!(f, "ask about {gid}"),
            Effect::Commit(gid) => write!(f, "commit {gid}"),
            Effect::Abort(gid) => write!(f, "abort {gid}"),
            Effect::Settled(p) => write!(f, "settled {p}"),
            Effect::Forget(decision) => write!(f, "forget {}", decision.transaction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_branches_are_finished_some_at_a_time() {
        let (now, cluster, p) = (Time(0), ClusterId(1), ParticipantId(4));
        let run = |epoch| Incarnation { node: NodeId(1), epoch };
        let (mut recovery, effects) = Recovery::begin(now, Options::new(cluster, run(2)), [p], vec![]);
        assert_eq!(effects, [Effect::List { participant: p, round: 1 }]);

        let branch = |sequence| TransactionId { cluster, coordinator: run(1), sequence }.branch(p, None);
        let mut prepared: BTreeSet<Gid> = (0..100).map(branch).collect();
        for (round, at_once) in [(1, 64), (2, 36)] {
            let in_doubt = prepared.iter().copied().collect();
            let (recorded, active) = (vec![], BTreeSet::new());
            let listed = Input::Listed { participant: p, round, in_doubt, recorded, active };
            let orders = recovery.step(now, listed);
            assert_eq!(orders.len(), at_once);
            assert!(!recovery.is_settled(p));
            for order in orders {
                let Effect::Abort(gid) = order else { panic!("{order}") };
                assert!(prepared.remove(&gid), "{gid} twice");
                recovery.step(now, Input::Finished(gid));
            }
        }
        assert!(recovery.is_settled(p) && prepared.is_empty());
    }
}
