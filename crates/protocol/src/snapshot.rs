//! Reads over several sites that never see half of a commit, although each site takes its snapshot by itself.
//!
//! A commit over several participants becomes visible at one after the other, between the moment in which its second phase is admitted
//! and the moment in which each participant has acknowledged: its *window*. Snapshots that are all taken while no window
//! is open see, of each commit, everything or nothing: everything if the window closed before, because what is acknowledged is
//! visible, nothing if it opened later. Only commits that have two or more participants in common with the read count.
//!
//! * *Optimistic*: wait until the windows that are open have closed, take the snapshots, and look whether one was opened meanwhile. If so,
//!   the snapshots may be torn: take them again. (The count of commits in flight before and after, except that the
//!   commits are known by name, so that those at other sites do not disturb.)
//! * *The gate*: after [`Options::attempts`] such failures the reader holds new windows up, waits for those that are open, takes its
//!   snapshots, and lets the commits go. Readers at the gate do not disturb each other. Turns are taken in order, so
//!   that neither side starves, and nobody holds commits up for longer than [`Options::gate`].
//!
//! A commit that was acknowledged to its client before all sites had applied it ([`Input::Overdue`]) is waited for even by a read of one
//! site; and so is a participant where the decisions of a coordinator that died have yet to be carried out ([`Input::Settled`]).
//! When they cannot be finished, the read fails: it never reads around them.
//!
//! Invariant: between [`Effect::Open`] and [`Effect::Use`] of a reader, no window was open at two of its participants.
//!
//! What this does not give: two commits, each at one site, may be seen in another order than they were made in, because
//! the snapshots are not of one moment. And it knows only the commits that pass through it: those of one coordinator,
//! not of writers that go around it.

use crate::gid::TransactionId;
use crate::names::Names;
use crate::time::Time;
use atoll_model::{Error, ErrorKind, ParticipantId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How hard a reader tries.
#[derive(Clone, Debug)]
pub struct Options {
    /// Optimistic attempts before the gate.
    pub attempts: u32,
    /// Longest time for which one reader holds commits up.
    pub gate: Duration,
    /// Longest time from the first attempt to the last.
    pub timeout: Duration,
    /// For what readers are told.
    pub names: Names,
}

impl Default for Options {
    fn default() -> Self {
        Options { attempts: 3, gate: Duration::from_secs(5), timeout: Duration::from_secs(30), names: Names::default() }
    }
}

/// One read that wants snapshots of several sites. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReaderId(pub u64);

/// What happens to commits and readers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A commit asks to begin its second phase ([`crate::commit::Effect::Enter`]).
    Enter(TransactionId, Vec<ParticipantId>),
    /// A participant shows it to every snapshot taken from now on.
    Applied(TransactionId, ParticipantId),
    /// Its second phase will not take place.
    Withdraw(TransactionId),
    /// Its client has been told that it is committed, before it was applied everywhere.
    Overdue(TransactionId),
    /// Recovery has carried out there what dead coordinators decided.
    Settled(ParticipantId),
    /// A reader wants snapshots of these participants.
    Read(ReaderId, Vec<ParticipantId>),
    /// All its snapshots are taken.
    Opened(ReaderId),
    /// It wants them no more: cancelled, or a site failed.
    Leave(ReaderId),
    /// Time has passed.
    Tick,
}

/// What follows from it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The commit may begin its second phase.
    Admit(TransactionId),
    /// Take the snapshots, in place of those of an earlier attempt.
    Open {
        /// Who.
        reader: ReaderId,
        /// Counts from 1.
        attempt: u32,
        /// Commits are held up meanwhile.
        gated: bool,
    },
    /// The snapshots are not torn.
    Use(ReaderId),
    /// There are none to be had.
    Fail(ReaderId, Error),
}

/// All commits and readers of one coordinator.
#[derive(Debug)]
pub struct Snapshots {
    options: Options,
    unsettled: BTreeSet<ParticipantId>,
    commits: BTreeMap<TransactionId, Window>,
    readers: BTreeMap<ReaderId, Reader>,
    /// Commits that wait for a gate, and readers at the gate, in the order in which they came.
    turns: u64,
}

#[derive(Debug)]
struct Window {
    participants: BTreeSet<ParticipantId>,
    unapplied: BTreeSet<ParticipantId>,
    /// Not admitted yet: its turn.
    waits: Option<u64>,
    overdue: bool,
}

#[derive(Debug)]
struct Reader {
    participants: BTreeSet<ParticipantId>,
    attempt: u32,
    state: State,
    /// At the gate: its turn.
    gate: Option<u64>,
    fails_at: Time,
}

#[derive(Debug)]
enum State {
    /// For these to close; then it is tried.
    Waiting { windows: BTreeSet<TransactionId> },
    /// Snapshots are being taken; torn if a window was opened meanwhile.
    Opening { torn: bool },
}

impl Snapshots {
    /// Begins, at participants that recovery has yet to look at.
    pub fn new(options: Options, unsettled: impl IntoIterator<Item = ParticipantId>) -> Self {
        let unsettled = unsettled.into_iter().collect();
        Snapshots { options, unsettled, commits: BTreeMap::new(), readers: BTreeMap::new(), turns: 0 }
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        match input {
            Input::Enter(id, participants) => {
                let waits = Some(self.turn());
                let participants: BTreeSet<_> = participants.into_iter().collect();
                let window = Window { unapplied: participants.clone(), participants, waits, overdue: false };
                self.commits.entry(id).or_insert(window);
            }
            Input::Applied(id, p) => {
                if let Some(window) = self.commits.get_mut(&id) {
                    window.unapplied.remove(&p);
                    if window.unapplied.is_empty() {
                        self.commits.remove(&id);
                    }
                }
            }
            Input::Withdraw(id) => {
                self.commits.remove(&id);
            }
            Input::Overdue(id) => {
                if let Some(window) = self.commits.get_mut(&id) {
                    window.overdue = true;
                    // It has been at the gate all this time, and from now on nobody may miss it.
                    if window.waits.is_some() {
                        self.admit(id, &mut out);
                    }
                }
            }
            Input::Settled(p) => {
                self.unsettled.remove(&p);
            }
            Input::Read(id, participants) => {
                let participants: BTreeSet<_> = participants.into_iter().collect();
                let state = State::Waiting { windows: self.windows(&participants) };
                let fails_at = now + self.options.timeout;
                self.readers.entry(id).or_insert(Reader { participants, attempt: 0, state, gate: None, fails_at });
            }
            Input::Opened(id) => self.opened(now, id, &mut out),
            Input::Leave(id) => {
                self.readers.remove(&id);
            }
            Input::Tick => {}
        }
        self.expire(now, &mut out);
        self.proceed(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        self.readers.values().map(|reader| reader.fails_at).min()
    }

    /// Whether a read of this one participant can begin without further ado.
    pub fn is_clear(&self, participant: ParticipantId) -> bool {
        !self.unsettled.contains(&participant)
            && !self.commits.values().any(|window| window.overdue && window.unapplied.contains(&participant))
    }

    fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Windows that must close before these participants can be read.
    fn windows(&self, participants: &BTreeSet<ParticipantId>) -> BTreeSet<TransactionId> {
        let disturbing = self.commits.iter().filter(|(_, window)| window.disturbs(participants));
        disturbing.map(|(id, _)| *id).collect()
    }

    fn opened(&mut self, now: Time, id: ReaderId, out: &mut Vec<Effect>) {
        let Some(Reader { state: State::Opening { torn }, participants, .. }) = self.readers.get(&id) else { return };
        if !torn {
            self.readers.remove(&id);
            out.push(Effect::Use(id));
            return;
        }
        let windows = self.windows(participants);
        self.missed(now, id, windows);
    }

    /// An attempt has failed: wait for these windows and try again, or go to the gate.
    fn missed(&mut self, now: Time, id: ReaderId, windows: BTreeSet<TransactionId>) {
        let turn = self.turn();
        let Options { attempts, gate, .. } = self.options;
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.state = State::Waiting { windows };
        if reader.attempt >= attempts && reader.gate.is_none() {
            reader.gate = Some(turn);
            reader.fails_at = reader.fails_at.min(now + gate);
        }
    }

    fn expire(&mut self, now: Time, out: &mut Vec<Effect>) {
        let late: Vec<ReaderId> = self.readers.iter().filter(|(_, r)| r.fails_at <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(reader) = self.readers.remove(&id) else { continue };
            out.push(Effect::Fail(id, self.reason(&reader)));
        }
    }

    /// Why it has waited for too long.
    fn reason(&self, reader: &Reader) -> Error {
        let message = if let State::Opening { .. } = reader.state {
            "the sites' snapshots could not be opened in time".to_string()
        } else if let Some(p) = reader.participants.intersection(&self.unsettled).next() {
            format!("{} has transactions in doubt that could not be finished yet", self.options.names.of(*p))
        } else if let Some(id) = self.windows(&reader.participants).first() {
            format!("transaction {id} is being committed and could not be applied everywhere yet")
        } else {
            "commits were under way all the time".to_string()
        };
        Error::new(ErrorKind::SiteUnavailable, message)
            .hint("Read one site at a time, or SET atoll.read_consistency = 'site'.")
    }

    /// Lets everybody go on who can.
    fn proceed(&mut self, now: Time, out: &mut Vec<Effect>) {
        loop {
            let commits: Vec<TransactionId> =
                self.commits.iter().filter(|(_, window)| self.may_enter(window)).map(|(id, _)| *id).collect();
            for id in commits {
                self.admit(id, out);
            }
            let ready: Vec<ReaderId> =
                self.readers.iter().filter(|(_, reader)| self.is_over(reader)).map(|(id, _)| *id).collect();
            if ready.is_empty() {
                return;
            }
            for id in ready {
                self.attempt(now, id, out);
            }
        }
    }

    fn may_enter(&self, window: &Window) -> bool {
        let Some(turn) = window.waits else { return false };
        !self.readers.values().any(|r| r.gate.is_some_and(|gate| gate < turn) && window.overlaps(&r.participants))
    }

    fn admit(&mut self, id: TransactionId, out: &mut Vec<Effect>) {
        let Some(window) = self.commits.get_mut(&id) else { return };
        window.waits = None;
        for reader in self.readers.values_mut() {
            if let State::Opening { torn } = &mut reader.state {
                *torn |= window.overlaps(&reader.participants);
            }
        }
        out.push(Effect::Admit(id));
    }

    /// Whether what the reader waits for is over.
    fn is_over(&self, reader: &Reader) -> bool {
        let State::Waiting { windows } = &reader.state else { return false };
        let closed = |id: &TransactionId| self.commits.get(id).is_none_or(|w| !w.disturbs(&reader.participants));
        windows.iter().all(closed)
            && reader.participants.is_disjoint(&self.unsettled)
            && (reader.gate.is_none() || self.is_quiet(reader))
    }

    /// At the gate: no window is open, and no commit waits that came earlier.
    fn is_quiet(&self, reader: &Reader) -> bool {
        let before = |turn: u64| reader.gate.is_some_and(|gate| turn < gate);
        let earlier = |w: &Window| w.waits.is_some_and(before) && w.overlaps(&reader.participants);
        !self.commits.values().any(|window| window.disturbs(&reader.participants) || earlier(window))
    }

    fn attempt(&mut self, now: Time, id: ReaderId, out: &mut Vec<Effect>) {
        let Some(reader) = self.readers.get(&id) else { return };
        let windows = self.windows(&reader.participants);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.attempt += 1;
        if windows.is_empty() {
            reader.state = State::Opening { torn: false };
            out.push(Effect::Open { reader: id, attempt: reader.attempt, gated: reader.gate.is_some() });
        } else {
            // Those it waited for have closed, but others have opened since.
            self.missed(now, id, windows);
        }
    }
}

impl Window {
    /// Whether a read of these participants could see part of the commit.
    fn overlaps(&self, participants: &BTreeSet<ParticipantId>) -> bool {
        self.participants.intersection(participants).nth(1).is_some()
    }

    /// Whether a read that begins now could, or would miss what its client knows to be committed.
    fn disturbs(&self, participants: &BTreeSet<ParticipantId>) -> bool {
        self.waits.is_none()
            && !self.unapplied.is_disjoint(participants)
            && (self.overdue || self.overlaps(participants))
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Admit(id) => write!(f, "admit {id}"),
            Effect::Open { reader, attempt, gated } => {
                write!(f, "open {} attempt {attempt}{}", reader.0, if *gated { " at the gate" } else { "" })
            }
            Effect::Use(reader) => write!(f, "use {}", reader.0),
            Effect::Fail(reader, error) => write!(f, "fail {} {} {error}", reader.0, error.kind().sqlstate()),
        }
    }
}
