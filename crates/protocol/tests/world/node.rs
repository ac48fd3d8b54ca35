//! A node: the three machines of one process, and how their effects become messages.

use super::site::Request;
use atoll_model::{ClusterId, Error, NodeId, ParticipantId, Result};
use atoll_protocol::commit::{self, Commit, Committed};
use atoll_protocol::recovery::{self, Recovery};
use atoll_protocol::snapshot::{self, ReaderId, Snapshots};
use atoll_protocol::{Decision, Gid, Incarnation, Time, TransactionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xa);

/// What a node hears.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Commit(TransactionId, commit::Input),
    Recovery(recovery::Input),
    Snapshots(snapshot::Input),
    /// A site's snapshot, for an attempt of a reader; `None`: it could not be taken.
    Seen(ReaderId, u32, ParticipantId, Option<BTreeSet<TransactionId>>),
}

/// What leaves a node.
#[derive(Debug)]
pub(crate) enum Output {
    /// A request to a participant, and what the node hears if it is lost and that is noticed.
    Send(ParticipantId, Request, About),
    Answered(TransactionId, Result<Committed>),
    Read(ReaderId, Reading),
    Failed(ReaderId, Error),
}

/// What a request is about, so that its answer finds its way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About {
    Nothing,
    Commit(TransactionId),
    Log(TransactionId),
    List(u64),
    Branch(Gid),
    Snapshot(ReaderId, u32),
}

/// A read over several sites.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) sites: BTreeSet<ParticipantId>,
    /// What its client knew to be committed when it began.
    pub(crate) known: BTreeSet<TransactionId>,
    pub(crate) attempt: u32,
    pub(crate) seen: BTreeMap<ParticipantId, BTreeSet<TransactionId>>,
}

/// One run of a node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) me: Incarnation,
    /// The embedded participant, which holds the log.
    pub(crate) home: ParticipantId,
    pub(crate) commits: BTreeMap<TransactionId, (Commit, BTreeSet<ParticipantId>)>,
    pub(crate) readers: BTreeMap<ReaderId, Reading>,
    pub(crate) recovery: Recovery,
    snapshots: Snapshots,
    sequence: u64,
    events: VecDeque<Event>,
    out: Vec<Output>,
}

impl Node {
    pub(crate) fn start(
        now: Time,
        me: Incarnation,
        home: ParticipantId,
        sites: &[ParticipantId],
        log: Vec<Decision>,
    ) -> (Node, Vec<Output>) {
        let options = recovery::Options::new(CLUSTER, me);
        let (recovery, effects) = Recovery::begin(now, options, sites.iter().copied(), log);
        let snapshots = Snapshots::new(snapshot::Options::default(), sites.iter().copied());
        let mut node = Node {
            me,
            home,
            commits: BTreeMap::new(),
            readers: BTreeMap::new(),
            recovery,
            snapshots,
            sequence: 0,
            events: VecDeque::new(),
            out: vec![],
        };
        node.recovery_effects(effects);
        let out = node.settle(now);
        (node, out)
    }

    pub(crate) fn next_transaction(&mut self) -> TransactionId {
        self.sequence += 1;
        TransactionId { cluster: CLUSTER, coordinator: self.me, sequence: self.sequence }
    }

    pub(crate) fn commit(&mut self, now: Time, id: TransactionId, participants: &[commit::Participant]) -> Vec<Output> {
        match Commit::begin(now, id, participants, commit::Options::default()) {
            Ok((machine, effects)) => {
                let all = participants.iter().map(|participant| participant.id).collect();
                self.commits.insert(id, (machine, all));
                self.commit_effects(id, effects);
            }
            Err(refusal) => panic!("{id}: {refusal}"),
        }
        self.settle(now)
    }

    pub(crate) fn read(&mut self, now: Time, id: ReaderId, reading: Reading) -> Vec<Output> {
        let sites = reading.sites.iter().copied().collect();
        self.readers.insert(id, reading);
        self.hear(now, Event::Snapshots(snapshot::Input::Read(id, sites)))
    }

    pub(crate) fn hear(&mut self, now: Time, event: Event) -> Vec<Output> {
        self.events.push_back(event);
        self.settle(now)
    }

    pub(crate) fn tick(&mut self, now: Time) -> Vec<Output> {
        let commits = self.commits.keys().map(|id| Event::Commit(*id, commit::Input::Tick));
        self.events.extend(commits);
        self.events.push_back(Event::Recovery(recovery::Input::Tick));
        self.events.push_back(Event::Snapshots(snapshot::Input::Tick));
        self.settle(now)
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        let commits = self.commits.values().filter_map(|(commit, _)| commit.wake_at());
        commits.chain(self.recovery.wake_at()).chain(self.snapshots.wake_at()).min()
    }

    fn settle(&mut self, now: Time) -> Vec<Output> {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Commit(id, input) => {
                    if let Some((machine, _)) = self.commits.get_mut(&id) {
                        let effects = machine.step(now, input);
                        self.commit_effects(id, effects);
                    }
                }
                Event::Recovery(mut input) => {
                    if let recovery::Input::Listed { in_doubt, recorded, active, .. } = &mut input {
                        let named =
                            in_doubt.iter().map(|gid| gid.transaction).chain(recorded.iter().map(|d| d.transaction));
                        *active = named.filter(|id| self.commits.contains_key(id)).collect();
                    }
                    let effects = self.recovery.step(now, input);
                    self.recovery_effects(effects);
                }
                Event::Snapshots(input) => {
                    let effects = self.snapshots.step(now, input);
                    effects.into_iter().for_each(|effect| self.snapshot_effect(effect));
                }
                Event::Seen(reader, attempt, p, seen) => self.seen(reader, attempt, p, seen),
            }
        }
        std::mem::take(&mut self.out)
    }

    fn commit_effects(&mut self, id: TransactionId, effects: Vec<commit::Effect>) {
        use commit::Effect;
        for effect in effects {
            let Some((machine, all)) = self.commits.get(&id) else { return };
            let gid = |p| machine.gid(p);
            let ledger = |decision: &Decision| decision.ledger.unwrap_or(self.home);
            let snapshots = |input| Event::Snapshots(input);
            let (to, request) = match effect {
                Effect::Release(p) => (p, Request::Hangup(id)),
                Effect::End(p) => (p, Request::End(id)),
                Effect::Prepare(p) => (p, Request::Prepare(gid(p))),
                Effect::CommitOnePhase(p) => (p, Request::CommitOnePhase(id)),
                Effect::Commit(p) => (p, Request::Commit(gid(p))),
                Effect::Abort(p) => (p, Request::Abort(gid(p))),
                Effect::Log { decision, with } => (
                    with.unwrap_or_else(|| ledger(&decision)),
                    Request::Record { decision, with_branch: with.is_some() },
                ),
                Effect::AskLog(decision) => (ledger(&decision), Request::IsRecorded(id)),
                Effect::Forget(decision) => (ledger(&decision), Request::Forget(id)),
                Effect::Enter(participants) => {
                    self.events.push_back(snapshots(snapshot::Input::Enter(id, participants)));
                    continue;
                }
                Effect::Applied(p) => {
                    self.events.push_back(snapshots(snapshot::Input::Applied(id, p)));
                    continue;
                }
                Effect::Withdraw => {
                    self.events.push_back(snapshots(snapshot::Input::Withdraw(id)));
                    continue;
                }
                Effect::Answer(answer) => {
                    if answer.as_ref().is_ok_and(|committed| !committed.pending.is_empty()) {
                        self.events.push_back(snapshots(snapshot::Input::Overdue(id)));
                    }
                    self.out.push(Output::Answered(id, answer));
                    continue;
                }
                Effect::Sweep(p) => {
                    self.events.push_back(Event::Recovery(recovery::Input::Sweep(p)));
                    continue;
                }
                // Only in a log: here, copies of messages may well look like somebody else.
                Effect::FinishedElsewhere(_) => continue,
                Effect::Done => {
                    let hangups = all.iter().map(|p| Output::Send(*p, Request::Hangup(id), About::Nothing));
                    self.out.extend(hangups);
                    self.commits.remove(&id);
                    continue;
                }
            };
            let is_log = matches!(request, Request::Record { .. } | Request::IsRecorded(_));
            self.out.push(Output::Send(to, request, if is_log { About::Log(id) } else { About::Commit(id) }));
        }
    }

    fn recovery_effects(&mut self, effects: Vec<recovery::Effect>) {
        use recovery::Effect;
        for effect in effects {
            let (to, request, about) = match effect {
                Effect::List { participant, round } => (participant, Request::List, About::List(round)),
                Effect::Ask(gid) => {
                    (gid.ledger.unwrap_or(self.home), Request::IsRecorded(gid.transaction), About::Branch(gid))
                }
                Effect::Commit(gid) => (gid.participant, Request::Commit(gid), About::Branch(gid)),
                Effect::Abort(gid) => (gid.participant, Request::Abort(gid), About::Branch(gid)),
                Effect::Forget(decision) => {
                    let to = decision.ledger.unwrap_or(self.home);
                    (to, Request::Forget(decision.transaction), About::Nothing)
                }
                Effect::Settled(p) => {
                    self.events.push_back(Event::Snapshots(snapshot::Input::Settled(p)));
                    continue;
                }
            };
            self.out.push(Output::Send(to, request, about));
        }
    }

    fn snapshot_effect(&mut self, effect: snapshot::Effect) {
        use snapshot::Effect;
        match effect {
            Effect::Admit(id) => self.events.push_back(Event::Commit(id, commit::Input::Admitted)),
            Effect::Open { reader, attempt, .. } => {
                let Some(reading) = self.readers.get_mut(&reader) else { return };
                reading.attempt = attempt;
                reading.seen.clear();
                let about = About::Snapshot(reader, attempt);
                self.out.extend(reading.sites.iter().map(|p| Output::Send(*p, Request::Snapshot, about)));
            }
            Effect::Use(reader) => {
                self.out.extend(self.readers.remove(&reader).map(|reading| Output::Read(reader, reading)));
            }
            Effect::Fail(reader, error) => {
                self.readers.remove(&reader);
                self.out.push(Output::Failed(reader, error));
            }
        }
    }

    fn seen(&mut self, reader: ReaderId, attempt: u32, p: ParticipantId, seen: Option<BTreeSet<TransactionId>>) {
        let Some(reading) = self.readers.get_mut(&reader).filter(|reading| reading.attempt == attempt) else { return };
        let input = match seen {
            Some(seen) => {
                reading.seen.insert(p, seen);
                if reading.seen.len() < reading.sites.len() {
                    return;
                }
                snapshot::Input::Opened(reader)
            }
            None => {
                self.readers.remove(&reader);
                snapshot::Input::Leave(reader)
            }
        };
        self.events.push_back(Event::Snapshots(input));
    }
}

pub(crate) fn run(node: usize, epoch: u32) -> Incarnation {
    Incarnation { node: NodeId(u16::try_from(node).unwrap_or(u16::MAX)), epoch }
}
