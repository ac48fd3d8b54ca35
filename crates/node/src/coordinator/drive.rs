//! One commit over several participants: the driver of [`atoll_protocol::commit`], in a task of its own.
//!
//! The session that asked for the commit may go at any time: the task goes on until every participant has applied what was decided, and keeps
//! the transaction's locks for as long as its outcome is open. Requests run side by side within the task, one per participant.
//!
//! Invariant: what an answer of a site does not say for certain is passed on as lost; and a branch whose `prepare` is still
//! under way is not rolled back before that has ended, as there would be nothing to roll back yet.

use super::recover::name;
use super::{Coordinator, TransactionOptions, log};
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind, Outcome, ParticipantId, Result, Timestamp};
use atoll_ports::site::{Branch, BranchOptions, Finished, Site};
use atoll_protocol::commit::{Commit, Committed, Effect, Input, Options, Participant, Records, Work};
use atoll_protocol::{Decision, TransactionId, recovery, snapshot};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

/// A branch of the transaction.
pub(crate) struct Part {
    pub(crate) site: Arc<dyn Site>,
    pub(crate) branch: Arc<dyn Branch>,
    pub(crate) work: Work,
}

/// What follows from the outcome within the node: called once, when it is known, before the client hears of it.
#[async_trait]
pub(crate) trait Ending: Send {
    /// The transaction has committed, or is rolled back.
    async fn end(self: Box<Self>, committed: bool);
}

/// Commits a transaction over several participants.
///
/// # Errors
/// As [`atoll_ports::cluster::Transaction::commit`].
pub(crate) async fn commit(
    coordinator: &Arc<Coordinator>,
    number: u64,
    parts: BTreeMap<ParticipantId, Part>,
    ending: Box<dyn Ending>,
) -> Result<Timestamp> {
    let participants: Vec<Participant> = parts
        .iter()
        .map(|(id, part)| {
            let home = coordinator.is_home(*id);
            let records = if home { Records::Log } else { Records::Nowhere };
            Participant { id: *id, work: part.work, prepares: !home, records }
        })
        .collect();
    let id = coordinator.activate(number, parts.keys().copied().collect());
    let TransactionOptions { timeout, retry, .. } = coordinator.options;
    let options = Options { timeout, retry, names: coordinator.names.clone() };
    let (machine, effects) = match Commit::begin(coordinator.now(), id, &participants, options) {
        Ok(begun) => begun,
        Err(refused) => {
            coordinator.active.lock().remove(&id);
            parts.values().for_each(|part| part.branch.rollback());
            ending.end(false).await;
            return Err(Error::unsupported(refused.to_string()));
        }
    };
    let (client, answer) = oneshot::channel();
    let (admit, admitted) = mpsc::unbounded_channel();
    let drive = Drive {
        coordinator: coordinator.clone(),
        id,
        machine,
        parts,
        votes: BTreeMap::new(),
        decided: None,
        under_way: FuturesUnordered::new(),
        admit,
        admitted,
        client: Some(client),
        ending: Some(ending),
        failure: None,
        forgets: false,
        over: false,
    };
    tokio::spawn(drive.run(effects));
    // Only a task that has panicked answers nothing.
    answer.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::StatementCompletionUnknown, "the commit was given up; its outcome is not known")
            .hint("Look at its effects before running it again.")
            .indeterminate())
    })
}

/// How a prepare has ended.
#[derive(Clone, Debug)]
enum Vote {
    Yes,
    No(Error),
    Unknown,
}

struct Drive {
    coordinator: Arc<Coordinator>,
    id: TransactionId,
    machine: Commit,
    parts: BTreeMap<ParticipantId, Part>,
    /// Prepares, under way or ended.
    votes: BTreeMap<ParticipantId, Shared<BoxFuture<'static, Vote>>>,
    /// When the decision was recorded.
    decided: Option<Shared<BoxFuture<'static, Result<Timestamp>>>>,
    under_way: FuturesUnordered<BoxFuture<'static, Input>>,
    admit: UnboundedSender<()>,
    admitted: UnboundedReceiver<()>,
    client: Option<oneshot::Sender<Result<Timestamp>>>,
    ending: Option<Box<dyn Ending>>,
    /// Why it was rolled back.
    failure: Option<String>,
    /// Its end was noted, with its decision.
    forgets: bool,
    over: bool,
}

impl Drive {
    async fn run(mut self, effects: Vec<Effect>) {
        self.carry_out(effects).await;
        while !self.over {
            let input = tokio::select! {
                Some(input) = self.under_way.next(), if !self.under_way.is_empty() => input,
                Some(()) = self.admitted.recv() => Input::Admitted,
                () = self.coordinator.until(self.machine.wake_at()) => Input::Tick,
            };
            let effects = self.machine.step(self.coordinator.now(), input);
            self.carry_out(effects).await;
        }
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            tracing::trace!(transaction = %self.id, %effect);
            match effect {
                Effect::Release(p) => {
                    if let Some(part) = self.parts.remove(&p) {
                        part.branch.rollback();
                    }
                }
                Effect::End(p) => self.end(p),
                Effect::Prepare(p) => self.prepare(p),
                Effect::CommitOnePhase(p) => self.commit_one_phase(p),
                Effect::Enter(participants) => self.coordinator.enter(self.id, participants, self.admit.clone()),
                Effect::Log { decision, with } => self.log(&decision, with),
                Effect::AskLog(_) => self.ask_log(),
                Effect::Commit(p) => {
                    self.coordinator.decided(self.id, p, true);
                    self.finish(p, true);
                }
                Effect::Abort(p) => {
                    self.coordinator.decided(self.id, p, false);
                    self.abort(p);
                }
                Effect::Applied(p) => {
                    self.coordinator.applied(self.id, p);
                    self.coordinator.read(snapshot::Input::Applied(self.id, p));
                }
                Effect::Withdraw => self.coordinator.withdraw(self.id),
                Effect::Answer(answer) => self.answer(answer).await,
                Effect::FinishedElsewhere(p) => {
                    tracing::error!(
                        transaction = %self.machine.gid(p), participant = %p,
                        "a prepared transaction was finished by somebody else; compare the sites"
                    );
                }
                Effect::Sweep(p) => self.coordinator.recover(recovery::Input::Sweep(p)),
                Effect::Forget(decision) => {
                    self.coordinator.note_end(self.id, true, None);
                    self.forgets = true;
                    self.coordinator.forgotten.add(decision);
                }
                Effect::Done => self.done().await,
            }
        }
    }

    /// Has a request's answer come back as an input.
    fn ask(&mut self, request: impl Future<Output = Input> + Send + 'static) {
        self.under_way.push(request.boxed());
    }

    fn end(&mut self, p: ParticipantId) {
        let Some(branch) = self.branch(p) else { return };
        self.ask(async move {
            match branch.commit().await {
                Ok(_) => Input::Ended(p),
                Err(error) if is_lost(&error) => Input::Lost(p),
                Err(error) => Input::Refused(p, error),
            }
        });
    }

    fn prepare(&mut self, p: ParticipantId) {
        let Some(branch) = self.branch(p) else { return };
        let name = name(self.machine.gid(p));
        let vote = async move {
            let name = match name {
                Ok(name) => name,
                Err(error) => return Vote::No(error),
            };
            match branch.prepare(&name).await {
                Ok(()) => Vote::Yes,
                // Of an error that the site has no name for, nobody knows what it has ended.
                Err(error) if is_lost(&error) || error.kind() == ErrorKind::Internal => {
                    tracing::debug!(%name, %error, "no vote");
                    Vote::Unknown
                }
                Err(error) => Vote::No(error),
            }
        };
        let vote = vote.boxed().shared();
        self.votes.insert(p, vote.clone());
        self.ask(vote.map(move |vote| match vote {
            Vote::Yes => Input::Prepared(p),
            Vote::No(error) => Input::Refused(p, error),
            Vote::Unknown => Input::Lost(p),
        }));
    }

    fn commit_one_phase(&mut self, p: ParticipantId) {
        let Some(branch) = self.branch(p) else { return };
        let decided = async move { branch.commit().await }.boxed().shared();
        self.decided = Some(decided.clone());
        self.ask(decided.map(move |outcome| match outcome {
            Ok(_) => Input::Committed(p),
            Err(error) if error.outcome() == Outcome::Indeterminate => Input::Lost(p),
            Err(error) => Input::Refused(p, error),
        }));
    }

    /// Records the decision, in one write with the branch at home if there is one.
    fn log(&mut self, decision: &Decision, with: Option<ParticipantId>) {
        let (branch, home) = (with.and_then(|p| self.branch(p)), self.coordinator.home.clone());
        let decision = decision.clone();
        let decided = async move {
            let branch = match branch {
                Some(branch) => branch,
                None => home.begin(BranchOptions::default()).await?,
            };
            log::write(&*branch, &decision)?;
            branch.commit().await
        };
        let decided = decided.boxed().shared();
        self.decided = Some(decided.clone());
        self.ask(decided.map(|outcome| match outcome {
            Ok(_) => Input::Logged,
            Err(error) if error.outcome() == Outcome::Indeterminate => Input::LogLost,
            Err(error) => Input::LogRefused(error),
        }));
    }

    /// What became of the record: its write was given to the journal once, so the end of that write is the answer, and final. After an
    /// indeterminate end the journal takes no writes any more, and the next start of the node finds out.
    fn ask_log(&mut self) {
        let Some(decided) = self.decided.clone() else { return };
        self.ask(decided.map(|outcome| match outcome {
            Ok(_) => Input::LogHas(true),
            Err(error) if error.outcome() == Outcome::Indeterminate => Input::LogLost,
            Err(_) => Input::LogHas(false),
        }));
    }

    fn finish(&mut self, p: ParticipantId, commit: bool) {
        let Some(part) = self.parts.get(&p) else { return };
        // The site may be reached by other options than when the transaction began.
        let site = self.coordinator.site(p).unwrap_or_else(|| part.site.clone());
        let name = name(self.machine.gid(p));
        self.ask(async move {
            let finished = match name {
                Ok(name) => site.finish(&name, commit).await,
                Err(error) => Err(error),
            };
            match finished {
                Ok(Finished::Now) if commit => Input::Committed(p),
                Ok(Finished::Now) => Input::Aborted(p),
                Ok(Finished::Missing) => Input::Missing(p),
                Err(error) => {
                    tracing::debug!(participant = %p, %error, commit, "a prepared branch could not be finished");
                    Input::Lost(p)
                }
            }
        });
    }

    fn abort(&mut self, p: ParticipantId) {
        let Some(part) = self.parts.get(&p) else { return };
        let Some(vote) = self.votes.get(&p).cloned() else {
            part.branch.rollback();
            self.ask(std::future::ready(Input::Aborted(p)));
            return;
        };
        let (site, branch, name) = (part.site.clone(), part.branch.clone(), name(self.machine.gid(p)));
        self.ask(async move {
            if let Vote::No(_) = vote.await {
                branch.rollback();
                return Input::Aborted(p);
            }
            let Ok(name) = name else { return Input::Lost(p) };
            match site.finish(&name, false).await {
                Ok(Finished::Now) => Input::Aborted(p),
                Ok(Finished::Missing) => Input::Missing(p),
                Err(_) => Input::Lost(p),
            }
        });
    }

    fn branch(&self, p: ParticipantId) -> Option<Arc<dyn Branch>> {
        self.parts.get(&p).map(|part| part.branch.clone())
    }

    /// The commit's timestamp, once it is decided.
    fn committed(&self) -> Option<Timestamp> {
        self.decided.as_ref()?.peek()?.as_ref().ok().copied()
    }

    async fn answer(&mut self, answer: Result<Committed>) {
        let answer = match answer {
            Ok(committed) => {
                if !committed.pending.is_empty() {
                    tracing::warn!(
                        transaction = %self.id, pending = ?committed.pending,
                        "committed, and yet to be applied by some participants"
                    );
                    self.coordinator.read(snapshot::Input::Overdue(self.id));
                }
                Ok(self.committed().unwrap_or(Timestamp(0)))
            }
            Err(error) => {
                self.failure = Some(format!("{}: {}", error.kind().sqlstate(), error.message()));
                Err(error)
            }
        };
        let open = answer.as_ref().is_err_and(|e| e.outcome() == Outcome::Indeterminate) && self.committed().is_none();
        if !open {
            self.end_here().await;
        }
        if let Some(client) = self.client.take() {
            // Whoever waited may be gone.
            let _ = client.send(answer);
        }
    }

    /// The outcome is known.
    async fn end_here(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending.end(self.committed().is_some()).await;
        }
    }

    async fn done(&mut self) {
        self.end_here().await;
        if !self.forgets {
            self.coordinator.note_end(self.id, self.committed().is_some(), self.failure.take());
        }
        self.coordinator.active.lock().remove(&self.id);
        self.over = true;
    }
}

/// Whether nobody knows what a request did.
fn is_lost(error: &Error) -> bool {
    error.outcome() == Outcome::Indeterminate || error.kind() == ErrorKind::SiteUnavailable
}
