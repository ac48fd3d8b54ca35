//! Snapshots of reads over several participants: the driver of [`atoll_protocol::snapshot`].
//!
//! A reader's task hands the machine what happens to it and takes its turns from a channel; there is no task of the machine's own. What a
//! commit is waiting for, its admission, goes to the commit's channel.
//!
//! Invariant: a reader that is gone, however it went, is known to be gone, so it holds no commit up.

use super::Coordinator;
use super::ledger::{Ledger, Moment};
use atoll_model::{Error, ErrorKind, ParticipantId, Result};
use atoll_protocol::TransactionId;
use atoll_protocol::snapshot::{Effect, Input, Options, ReaderId, Snapshots};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// The machine, and who waits for what it says.
pub(super) struct Reads {
    snapshots: Snapshots,
    ledger: Ledger,
    commits: HashMap<TransactionId, UnboundedSender<()>>,
    readers: HashMap<ReaderId, UnboundedSender<Turn>>,
    next: u64,
}

/// What a reader is to do.
enum Turn {
    Open { attempt: u32 },
    Use,
    Fail(Error),
}

impl Reads {
    pub(super) fn new(options: Options, unsettled: impl IntoIterator<Item = ParticipantId>) -> Self {
        Reads {
            snapshots: Snapshots::new(options, unsettled),
            ledger: Ledger::default(),
            commits: HashMap::new(),
            readers: HashMap::new(),
            next: 0,
        }
    }

    /// Tells the machine, and passes on what it says. The channels hold a few messages per commit and per attempt of a reader.
    fn step(&mut self, now: atoll_protocol::Time, input: Input) {
        match &input {
            Input::Enter(id, participants) => self.ledger.enter(*id, participants),
            Input::Applied(id, participant) => self.ledger.applied(*id, *participant),
            Input::Withdraw(id) => self.ledger.withdraw(*id),
            _ => {}
        }
        for effect in self.snapshots.step(now, input) {
            match effect {
                Effect::Admit(id) => {
                    self.ledger.admit(id);
                    // A commit that is not there any more has panicked; its window stays open.
                    if let Some(commit) = self.commits.remove(&id) {
                        let _ = commit.send(());
                    }
                }
                Effect::Open { reader, attempt, .. } => self.tell(reader, Turn::Open { attempt }),
                Effect::Use(reader) => self.tell(reader, Turn::Use),
                Effect::Fail(reader, error) => self.tell(reader, Turn::Fail(error)),
            }
        }
    }

    fn tell(&self, reader: ReaderId, turn: Turn) {
        // One that has left is not told.
        if let Some(reader) = self.readers.get(&reader) {
            let _ = reader.send(turn);
        }
    }
}

impl Coordinator {
    /// Tells the machine.
    pub(super) fn read(&self, input: Input) {
        let mut reads = self.reads.lock();
        reads.step(self.now(), input);
    }

    /// A commit asks for its second phase; the channel is told once.
    pub(super) fn enter(&self, id: TransactionId, participants: Vec<ParticipantId>, admitted: UnboundedSender<()>) {
        let mut reads = self.reads.lock();
        reads.commits.insert(id, admitted);
        reads.step(self.now(), Input::Enter(id, participants));
    }

    pub(super) fn withdraw(&self, id: TransactionId) {
        let mut reads = self.reads.lock();
        reads.commits.remove(&id);
        reads.step(self.now(), Input::Withdraw(id));
    }

    /// Waits until a participant shows everything that clients were told to be committed there.
    ///
    /// # Errors
    /// `SiteUnavailable`, at once if the site is down.
    pub(crate) async fn clear(self: &Arc<Self>, participant: ParticipantId) -> Result<()> {
        if self.is_alone() || self.reads.lock().snapshots.is_clear(participant) {
            return Ok(());
        }
        if let Some(site) = self.site(participant) {
            site.in_doubt().await?;
        }
        self.open(vec![participant], |_| async { Ok(()) }).await
    }

    /// Now, as [`Coordinator::fits`] wants it.
    pub(crate) fn moment(&self) -> Moment {
        self.reads.lock().ledger.now()
    }

    /// Whether a snapshot of `new` that was just taken goes with those of others, taken since a moment.
    pub(crate) fn fits(&self, others: &[ParticipantId], new: ParticipantId, since: Moment) -> bool {
        self.reads.lock().ledger.fits(others, new, since)
    }

    /// Has snapshots of several participants taken, again and again (`take` is told which attempt it is), until no commit was half done
    /// meanwhile.
    ///
    /// # Errors
    /// Those of `take`; `SiteUnavailable` when a commit cannot be waited for.
    pub(crate) async fn open<F>(
        self: &Arc<Self>,
        participants: Vec<ParticipantId>,
        take: impl Fn(u32) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let (mut reader, mut turns) = self.reader(participants);
        loop {
            match self.turn(&mut turns).await? {
                Turn::Open { attempt } => {
                    let mut taking = pin!(take(attempt));
                    // A failure that the machine tells ends the taking.
                    let taken = loop {
                        tokio::select! {
                            taken = &mut taking => break taken,
                            turn = self.turn(&mut turns) => match turn? {
                                Turn::Fail(error) => break Err(error),
                                Turn::Open { .. } | Turn::Use => {}
                            },
                        }
                    };
                    taken?;
                    self.read(Input::Opened(reader.id));
                }
                Turn::Use => {
                    reader.done = true;
                    return Ok(());
                }
                Turn::Fail(error) => return Err(error),
            }
        }
    }

    fn reader(self: &Arc<Self>, participants: Vec<ParticipantId>) -> (Reader, UnboundedReceiver<Turn>) {
        let (sender, turns) = mpsc::unbounded_channel();
        let mut reads = self.reads.lock();
        let id = ReaderId(reads.next);
        reads.next += 1;
        reads.readers.insert(id, sender);
        reads.step(self.now(), Input::Read(id, participants));
        (Reader { id, coordinator: self.clone(), done: false }, turns)
    }

    /// The next turn, while time goes on.
    async fn turn(&self, turns: &mut UnboundedReceiver<Turn>) -> Result<Turn> {
        loop {
            let wake = self.reads.lock().snapshots.wake_at();
            tokio::select! {
                turn = turns.recv() => {
                    return turn.ok_or_else(|| Error::internal("a reader was forgotten"));
                }
                () = self.until(wake) => self.read(Input::Tick),
            }
        }
    }
}

/// A reader that the machine knows.
struct Reader {
    id: ReaderId,
    coordinator: Arc<Coordinator>,
    /// The machine has let it go.
    done: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut reads = self.coordinator.reads.lock();
        reads.readers.remove(&self.id);
        if !self.done {
            let now = self.coordinator.now();
            reads.step(now, Input::Leave(self.id));
        }
    }
}

/// Snapshots that were to be added to others do not go with them.
pub(crate) fn torn() -> Error {
    Error::new(
        ErrorKind::SerializationFailure,
        "could not serialize access: a transaction over several sites has committed since the first of them was read",
    )
    .hint("The transaction might succeed if retried.")
}
