//! A participant: what an engine does with branches, prepared transactions and records of decisions.

use atoll_model::{Error, ErrorKind, ParticipantId};
use atoll_protocol::commit::Input;
use atoll_protocol::{Decision, Gid, Incarnation, TransactionId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a participant is asked to do.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    End(TransactionId),
    Prepare(Gid),
    CommitOnePhase(TransactionId),
    /// Record a decision, if `with_branch` in one durable write with the branch's commit.
    Record {
        decision: Decision,
        with_branch: bool,
    },
    /// Is it recorded? If not, it never will be.
    IsRecorded(TransactionId),
    Forget(TransactionId),
    Commit(Gid),
    Abort(Gid),
    /// The connection on which the branch was opened is closed.
    Hangup(TransactionId),
    List,
    Snapshot,
}

impl Request {
    /// Whether it may reach the participant twice: what names a prepared transaction may, what belongs to a connection may not.
    pub(crate) fn may_repeat(&self) -> bool {
        matches!(
            self,
            Request::Prepare(_)
                | Request::IsRecorded(_)
                | Request::Forget(_)
                | Request::Commit(_)
                | Request::Abort(_)
                | Request::List
        )
    }
}

/// As runs are written down.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::End(id) => write!(f, "end {id}"),
            Request::Prepare(gid) => write!(f, "prepare {gid}"),
            Request::CommitOnePhase(id) => write!(f, "commit {id} in one phase"),
            Request::Record { decision, with_branch: true } => write!(f, "commit and record {}", decision.transaction),
            Request::Record { decision, with_branch: false } => write!(f, "record {}", decision.transaction),
            Request::IsRecorded(id) => write!(f, "is {id} recorded"),
            Request::Forget(id) => write!(f, "forget {id}"),
            Request::Commit(gid) => write!(f, "commit {gid}"),
            Request::Abort(gid) => write!(f, "abort {gid}"),
            Request::Hangup(id) => write!(f, "hang up {id}"),
            Request::List => write!(f, "list"),
            Request::Snapshot => write!(f, "snapshot"),
        }
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Nothing,
    /// In the terms of the coordinator.
    Did(Input),
    Recorded(Option<Decision>),
    Listed {
        in_doubt: Vec<Gid>,
        recorded: Vec<Decision>,
    },
    Snapshot(BTreeSet<TransactionId>),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Nothing => write!(f, "-"),
            Reply::Did(Input::Refused(..) | Input::LogRefused(_)) => write!(f, "refused"),
            Reply::Did(input) => write!(f, "{input:?}"),
            Reply::Recorded(decision) => write!(f, "{}", if decision.is_some() { "yes" } else { "no, never" }),
            Reply::Listed { in_doubt, recorded } => {
                in_doubt.iter().try_for_each(|gid| write!(f, "{gid} "))?;
                recorded.iter().try_for_each(|decision| write!(f, "recorded {} ", decision.transaction))
            }
            Reply::Snapshot(seen) => seen.iter().try_for_each(|id| write!(f, "{id} ")),
        }
    }
}

/// What an engine may do by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Obliging,
    /// Refuses to prepare, to end, to record.
    Refusing,
    /// Looks for a branch by its name only, as another connection does.
    Strange,
}

/// The durable and the volatile state of a participant.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: ParticipantId,
    pub(crate) up: bool,
    /// Branches that live on a connection, and whose it is. The flag: it has written.
    pub(crate) active: BTreeMap<TransactionId, (Incarnation, bool)>,
    pub(crate) prepared: BTreeMap<String, TransactionId>,
    /// Prepared by somebody else.
    pub(crate) foreign: BTreeSet<String>,
    /// How many of these were committed or rolled back.
    pub(crate) foreign_finished: usize,
    pub(crate) committed: BTreeSet<TransactionId>,
    /// Branches with writes that were rolled back.
    pub(crate) rolled_back: BTreeSet<TransactionId>,
    /// Decisions, or that there will be none.
    pub(crate) records: BTreeMap<TransactionId, Option<Decision>>,
    /// All that were ever recorded.
    pub(crate) ever_recorded: BTreeSet<TransactionId>,
}

impl Site {
    pub(crate) fn new(id: ParticipantId) -> Self {
        let foreign = [
            format!("atoll_000000000000000b_0-1_1_{id}"),
            format!("atoll_000000000000000a_0-1_1_{}", id.0 + 100),
            "atoll_000000000000000a_0-1_1".into(),
            "somebody else's".into(),
        ];
        Site {
            id,
            up: true,
            active: BTreeMap::new(),
            prepared: BTreeMap::new(),
            foreign: foreign.into(),
            foreign_finished: 0,
            committed: BTreeSet::new(),
            rolled_back: BTreeSet::new(),
            records: BTreeMap::new(),
            ever_recorded: BTreeSet::new(),
        }
    }

    /// A crash: connections and their branches are gone, the rest is on disk.
    pub(crate) fn crash(&mut self) {
        let active: Vec<TransactionId> = self.active.keys().copied().collect();
        for transaction in active {
            self.roll_back(transaction);
        }
        self.up = false;
    }

    pub(crate) fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.records.values().flatten()
    }

    fn roll_back(&mut self, transaction: TransactionId) -> bool {
        match self.active.remove(&transaction) {
            Some((_, wrote)) => {
                if wrote {
                    self.rolled_back.insert(transaction);
                }
                true
            }
            None => false,
        }
    }

    pub(crate) fn handle(&mut self, request: &Request, mood: Mood) -> Reply {
        let p = self.id;
        if let Request::Commit(gid) | Request::Abort(gid) = request {
            self.foreign_finished += usize::from(self.foreign.contains(&gid.to_string()));
        }
        match request {
            Request::Hangup(transaction) => {
                self.roll_back(*transaction);
                Reply::Nothing
            }
            Request::End(transaction) => Reply::Did(match (mood, self.active.remove(transaction)) {
                (Mood::Refusing, _) | (_, None) => Input::Refused(p, refusal()),
                (_, Some(_)) => Input::Ended(p),
            }),
            Request::Prepare(gid) => Reply::Did(self.prepare(*gid, mood)),
            Request::CommitOnePhase(transaction) => Reply::Did(match (mood, self.active.contains_key(transaction)) {
                (Mood::Obliging | Mood::Strange, true) => {
                    self.active.remove(transaction);
                    self.committed.insert(*transaction);
                    Input::Committed(p)
                }
                (Mood::Refusing, true) => {
                    self.roll_back(*transaction);
                    Input::Refused(p, refusal())
                }
                (_, false) => Input::Refused(p, refusal()),
            }),
            Request::Record { decision, with_branch } => Reply::Did(self.record(decision, *with_branch, mood)),
            Request::IsRecorded(transaction) => {
                Reply::Recorded(self.records.entry(*transaction).or_insert(None).clone())
            }
            Request::Forget(transaction) => {
                self.records.remove(transaction);
                Reply::Nothing
            }
            Request::Commit(gid) => Reply::Did(match self.prepared.remove(&gid.to_string()) {
                Some(transaction) => {
                    self.committed.insert(transaction);
                    Input::Committed(p)
                }
                None => Input::Missing(p),
            }),
            Request::Abort(gid) => Reply::Did(self.abort(*gid, mood)),
            Request::List => Reply::Listed {
                // An adapter reads names, and leaves out what is not one of ours.
                in_doubt: self.prepared.keys().chain(&self.foreign).filter_map(|name| name.parse().ok()).collect(),
                recorded: self.decisions().filter(|decision| decision.ledger == Some(p)).cloned().collect(),
            },
            Request::Snapshot => Reply::Snapshot(self.committed.clone()),
        }
    }

    fn prepare(&mut self, gid: Gid, mood: Mood) -> Input {
        if self.prepared.contains_key(&gid.to_string()) {
            return Input::Prepared(self.id);
        }
        if mood == Mood::Refusing {
            self.roll_back(gid.transaction);
        }
        match self.active.remove(&gid.transaction) {
            Some(_) => {
                self.prepared.insert(gid.to_string(), gid.transaction);
                Input::Prepared(self.id)
            }
            None => Input::Refused(self.id, refusal()),
        }
    }

    fn record(&mut self, decision: &Decision, with_branch: bool, mood: Mood) -> Input {
        let id = decision.transaction;
        let possible = self.records.get(&id).is_none_or(Option::is_some)
            && (!with_branch || self.active.contains_key(&id))
            && mood != Mood::Refusing;
        if !possible {
            if with_branch {
                self.roll_back(id);
            }
            return Input::LogRefused(refusal());
        }
        if with_branch {
            self.active.remove(&id);
            self.committed.insert(id);
        }
        self.records.insert(id, Some(decision.clone()));
        self.ever_recorded.insert(id);
        Input::Logged
    }

    fn abort(&mut self, gid: Gid, mood: Mood) -> Input {
        if let Some(transaction) = self.prepared.remove(&gid.to_string()) {
            self.rolled_back.insert(transaction);
            Input::Aborted(self.id)
        } else if mood != Mood::Strange && self.roll_back(gid.transaction) {
            Input::Aborted(self.id)
        } else {
            Input::Missing(self.id)
        }
    }
}

fn refusal() -> Error {
    Error::new(ErrorKind::SerializationFailure, "the engine refuses")
}
