//! A small deterministic world: nodes that coordinate, participants, a network that delays, reorders, loses and repeats, and
//! crashes of everything; with the checks that no run may fail.
//!
//! One step is one message delivered, one moment passed, or one fault. All choices come from one generator, so a seed is a run.

mod checks;
mod node;
mod site;

use atoll_model::{ParticipantId, Result};
use atoll_protocol::commit::{self, Committed, Participant, Records, Work};
use atoll_protocol::snapshot::ReaderId;
use atoll_protocol::{Decision, Incarnation, Time, TransactionId, recovery};
use atoll_sim::Rng;
use node::{About, Event, Node, Output, Reading};
use site::{Mood, Reply, Request, Site};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Messages lost, and repeated, in a thousand.
    pub(crate) loss: usize,
    pub(crate) copies: usize,
    /// Refusals by participants, in a thousand requests.
    pub(crate) refusals: usize,
    /// Crashes, in a thousand steps.
    pub(crate) crashes: usize,
    /// One crash, of everything together or of one participant, at this step.
    pub(crate) crash_at: Option<(usize, Option<usize>)>,
    /// A second node coordinates as well; with `mortal`, its first crash is its last.
    pub(crate) two_nodes: bool,
    /// Time-outs run out although answers are on their way.
    pub(crate) haste: bool,
    pub(crate) mortal: bool,
}

const STEPS: usize = 250;
const TRANSACTIONS: usize = 8;
/// After this many quiet steps everything must be finished.
const HEALING: usize = 20_000;

const STOCK: [ParticipantId; 2] = [ParticipantId(2), ParticipantId(3)];
/// Cannot prepare, keeps a ledger.
const LEDGER: ParticipantId = ParticipantId(4);

#[derive(Debug)]
struct Message {
    asked_by: Incarnation,
    about: About,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Request(ParticipantId, Request),
    Answer(ParticipantId, Reply),
    /// The requester learns that there will be no answer.
    Lost(ParticipantId),
}

/// What is known of a transaction, by nobody within the world.
#[derive(Debug)]
struct Truth {
    writers: BTreeSet<ParticipantId>,
    answer: Option<Result<Committed>>,
}

/// The world.
pub(crate) struct World {
    rng: Rng,
    faults: Faults,
    now: Time,
    net: Vec<Message>,
    nodes: Vec<Option<Node>>,
    epochs: Vec<u32>,
    sites: BTreeMap<ParticipantId, Site>,
    truth: BTreeMap<TransactionId, Truth>,
    readers: u64,
    healed: bool,
    pub(crate) counts: Counts,
    /// What happens is told.
    traced: bool,
}

/// What happened, to see that a run was worth its while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) committed: usize,
    pub(crate) aborted: usize,
    pub(crate) unknown: usize,
    pub(crate) reads: usize,
    pub(crate) crashes: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.crashes += other.crashes;
    }
}

impl World {
    /// Trouble first, then health, in which everything has to come to its end.
    pub(crate) fn run(&mut self) {
        for step in 0..STEPS {
            self.trouble(step);
            self.check();
        }
        self.heal();
    }

    pub(crate) fn new(seed: u64, faults: Faults, traced: bool) -> World {
        let nodes = if faults.two_nodes { 2 } else { 1 };
        let homes = (0..nodes).map(home);
        let mut world = World {
            rng: Rng::new(seed),
            faults,
            now: Time(0),
            net: vec![],
            nodes: (0..nodes).map(|_| None).collect(),
            epochs: vec![0; nodes],
            sites: homes.chain(STOCK).chain([LEDGER]).map(|p| (p, Site::new(p))).collect(),
            truth: BTreeMap::new(),
            readers: 0,
            healed: false,
            counts: Counts::default(),
            traced,
        };
        world.say(format_args!("{faults:?}"));
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.traced {
            println!("{} {what}", self.now);
        }
    }

    // Troubled times.

    fn trouble(&mut self, step: usize) {
        if let Some((at, whom)) = self.faults.crash_at
            && at == step
        {
            match whom {
                None => self.crash_node(0),
                Some(nth) => self.crash_site(nth),
            }
        }
        if self.rng.chance(self.faults.crashes) {
            self.crash_something();
        }
        match self.rng.below(100) {
            0..8 => self.begin_transaction(),
            8..12 => self.begin_read(),
            12..18 => self.restart_something(),
            18 => self.bury(),
            19..25 => self.let_time_pass(),
            _ if self.net.is_empty() => self.let_time_pass(),
            _ => self.deliver(),
        }
    }

    fn crash_something(&mut self) {
        if self.rng.chance(400) {
            let node = self.rng.below(self.nodes.len());
            self.crash_node(node);
        } else {
            let nth = self.rng.below(self.sites.len());
            self.crash_site(nth);
        }
    }

    fn crash_node(&mut self, node: usize) {
        let Some(dead) = self.nodes[node].take() else { return };
        self.counts.crashes += 1;
        self.say(format_args!("CRASH node {node}"));
        // Its own disk had got as far as it had.
        let (own, rest): (Vec<Message>, Vec<Message>) = std::mem::take(&mut self.net)
            .into_iter()
            .partition(|m| matches!(m.what, What::Request(to, _) if to == dead.home) && m.asked_by == dead.me);
        self.net = rest;
        for message in own {
            if let What::Request(to, request) = message.what
                && self.rng.chance(500)
                && let Some(site) = self.sites.get_mut(&to)
            {
                site.handle(&request, Mood::Obliging);
            }
        }
        if let Some(site) = self.sites.get_mut(&dead.home) {
            site.crash();
        }
        // The others notice sooner or later that its connections are gone.
        let mut hangups = vec![];
        for site in self.sites.values() {
            let orphans = site.active.iter().filter(|(_, (owner, _))| *owner == dead.me);
            hangups.extend(orphans.map(|(id, _)| (site.id, Request::Hangup(*id))));
        }
        for (to, request) in hangups {
            let what = What::Request(to, request);
            self.net.push(Message { asked_by: dead.me, about: About::Nothing, what });
        }
    }

    fn crash_site(&mut self, nth: usize) {
        let Some(p) = self.sites.keys().nth(nth).copied() else { return };
        if let Some(node) = (0..self.nodes.len()).find(|node| home(*node) == p) {
            return self.crash_node(node);
        }
        self.counts.crashes += 1;
        self.say(format_args!("CRASH site {p}"));
        if let Some(site) = self.sites.get_mut(&p) {
            site.crash();
        }
    }

    fn restart_something(&mut self) {
        let down: Vec<ParticipantId> = self.sites.values().filter(|site| !site.up).map(|site| site.id).collect();
        if !down.is_empty() {
            let p = down[self.rng.below(down.len())];
            self.restart(p);
        }
    }

    fn restart(&mut self, p: ParticipantId) {
        let node = (0..self.nodes.len()).find(|node| home(*node) == p);
        if node == Some(1) && self.faults.mortal {
            return;
        }
        if let Some(site) = self.sites.get_mut(&p) {
            site.up = true;
        }
        self.say(format_args!("RESTART {p}"));
        node.into_iter().for_each(|node| self.start(node));
    }

    fn start(&mut self, at: usize) {
        self.epochs[at] += 1;
        let me = node::run(at, self.epochs[at]);
        let log = self.sites[&home(at)].decisions().filter(|decision| decision.ledger.is_none()).cloned().collect();
        let sites: Vec<ParticipantId> = self.sites.keys().copied().collect();
        let (node, out) = Node::start(self.now, me, home(at), &sites, log);
        self.nodes[at] = Some(node);
        self.send(me, out);
    }

    fn let_time_pass(&mut self) {
        let alarm = self.nodes.iter().flatten().filter_map(Node::wake_at).min();
        self.now = match alarm {
            Some(alarm) if (self.faults.haste || self.net.is_empty()) && self.rng.chance(500) => alarm.max(self.now),
            _ => self.now + Duration::from_millis(self.rng.below(200) as u64),
        };
        self.tick();
    }

    fn tick(&mut self) {
        for at in 0..self.nodes.len() {
            if let Some(node) = &mut self.nodes[at] {
                let (me, out) = (node.me, node.tick(self.now));
                self.send(me, out);
            }
        }
    }

    // The network.

    fn send(&mut self, from: Incarnation, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(to, request, about) => {
                    self.net.push(Message { asked_by: from, about, what: What::Request(to, request) });
                }
                Output::Answered(id, answer) => self.answered(id, answer),
                Output::Read(reader, reading) => self.read(reader, &reading),
                Output::Failed(reader, error) => self.say(format_args!("READ {} fails: {error}", reader.0)),
            }
        }
    }

    fn deliver(&mut self) {
        let at = self.rng.below(self.net.len());
        let message = self.net.swap_remove(at);
        // The way to the disk of one's own process loses nothing, and a closed connection is noticed in the end.
        let own = (0..self.nodes.len()).any(|n| message.is_about(home(n)) && message.asked_by == self.run_of(n));
        let certain = own || matches!(message.what, What::Request(_, Request::Hangup(_)) | What::Lost(_));
        if !certain && !self.healed && self.rng.chance(self.faults.loss) {
            self.say(format_args!("LOSE {}", message.what));
            return self.lose(message);
        }
        match &message.what {
            What::Request(to, request) => {
                if !certain && !self.healed && request.may_repeat() && self.rng.chance(self.faults.copies) {
                    self.net.push(Message { what: message.what.clone(), ..message });
                }
                self.ask(*to, request.clone(), message);
            }
            What::Answer(from, reply) => self.hear(&message, *from, Some(reply.clone())),
            What::Lost(from) => self.hear(&message, *from, None),
        }
    }

    fn run_of(&self, node: usize) -> Incarnation {
        node::run(node, self.epochs[node])
    }

    /// Half of the losses are noticed.
    fn lose(&mut self, message: Message) {
        let (What::Request(p, _) | What::Answer(p, _) | What::Lost(p)) = message.what;
        if self.healed || self.rng.chance(500) {
            self.net.push(Message { what: What::Lost(p), ..message });
        }
    }

    fn ask(&mut self, to: ParticipantId, request: Request, message: Message) {
        let mood = match self.rng.chance(self.faults.refusals) && !self.healed {
            true if self.rng.chance(500) => Mood::Refusing,
            true => Mood::Strange,
            false => Mood::Obliging,
        };
        let Some(site) = self.sites.get_mut(&to).filter(|site| site.up) else { return self.lose(message) };
        let is_log = matches!(request, Request::Record { .. });
        // A log may fail to say what it did, and may not have done it.
        if is_log && mood == Mood::Strange {
            let done = self.rng.chance(500);
            if done {
                site.handle(&request, Mood::Obliging);
            }
            self.say(format_args!("{to}: {request} -> lost, {}", if done { "done" } else { "not done" }));
            self.net.push(Message { what: What::Lost(to), ..message });
            return;
        }
        let reply = site.handle(&request, mood);
        self.say(format_args!("{to}: {request} (by {}) -> {reply}", message.asked_by));
        if !matches!(reply, Reply::Nothing) {
            self.net.push(Message { what: What::Answer(to, reply), ..message });
        }
    }

    /// An answer arrives at the run that asked, if that still lives.
    fn hear(&mut self, message: &Message, p: ParticipantId, reply: Option<Reply>) {
        let Some(event) = event(message.about, p, reply) else { return };
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().flatten().find(|node| node.me == message.asked_by) {
            let (me, out) = (node.me, node.hear(now, event));
            self.send(me, out);
        }
    }

    // Clients.

    fn begin_transaction(&mut self) {
        if self.truth.len() >= TRANSACTIONS {
            return;
        }
        let at = self.rng.below(self.nodes.len());
        let Some(node) = &mut self.nodes[at] else { return };
        let (me, id) = (node.me, node.next_transaction());
        let mut participants = vec![];
        for site in self.sites.values_mut().filter(|site| site.up) {
            let mortal = site.id == home(1) && self.faults.mortal;
            if mortal || self.rng.chance(350) {
                continue;
            }
            let work = match self.rng.below(8) {
                0 => Work::Read,
                1 => Work::ValidatedRead,
                _ => Work::Wrote,
            };
            site.active.insert(id, (me, work == Work::Wrote));
            participants.push(taking_part(site.id, home(at), work));
        }
        self.commit(at, id, &participants);
    }

    fn commit(&mut self, at: usize, id: TransactionId, participants: &[Participant]) {
        let writers: BTreeSet<_> = participants.iter().filter(|p| p.work == Work::Wrote).map(|p| p.id).collect();
        self.say(format_args!("BEGIN {id} writes at {writers:?}"));
        let Some(node) = &mut self.nodes[at] else { return };
        self.truth.insert(id, Truth { writers, answer: None });
        let (me, out) = (node.me, node.commit(self.now, id, participants));
        self.send(me, out);
    }

    fn begin_read(&mut self) {
        // Nothing is promised for the commits of other coordinators.
        if self.faults.two_nodes {
            return;
        }
        let sites: BTreeSet<_> = self.sites.keys().copied().collect();
        let sites: BTreeSet<_> = sites.into_iter().filter(|_| self.rng.chance(600)).collect();
        if !sites.is_empty() {
            self.start_read(sites);
        }
    }

    fn start_read(&mut self, sites: BTreeSet<ParticipantId>) {
        let acknowledged = |truth: &Truth| matches!(truth.answer, Some(Ok(_)));
        let known = self.truth.iter().filter(|(_, truth)| acknowledged(truth)).map(|(id, _)| *id).collect();
        self.readers += 1;
        let reader = ReaderId(self.readers);
        self.say(format_args!("READ {} at {sites:?}", reader.0));
        let Some(node) = &mut self.nodes[0] else { return };
        let (me, out) = (node.me, node.read(self.now, reader, Reading { sites, known, ..Reading::default() }));
        self.send(me, out);
    }

    // Better times.

    fn heal(&mut self) {
        self.healed = true;
        self.say(format_args!("HEAL"));
        let down: Vec<ParticipantId> = self.sites.values().filter(|site| !site.up).map(|site| site.id).collect();
        down.into_iter().for_each(|p| self.restart(p));
        self.bury();
        self.come_to_rest();

        // And life goes on.
        let all: Vec<ParticipantId> = self.sites.values().filter(|site| site.up).map(|site| site.id).collect();
        let Some(node) = &mut self.nodes[0] else { panic!("node 0 is down") };
        let (me, id) = (node.me, node.next_transaction());
        all.iter().for_each(|p| {
            self.sites.get_mut(p).map(|site| site.active.insert(id, (me, true)));
        });
        let participants: Vec<Participant> = all.iter().map(|p| taking_part(*p, home(0), Work::Wrote)).collect();
        self.commit(0, id, &participants);
        self.come_to_rest();
        let answer = &self.truth[&id].answer;
        assert!(matches!(answer, Some(Ok(committed)) if committed.pending.is_empty()), "{id} ends with {answer:?}");
        if !self.faults.two_nodes {
            let before = self.counts.reads;
            self.start_read(all.into_iter().collect());
            self.come_to_rest();
            assert_eq!(self.counts.reads, before + 1, "the last read did not succeed");
        }
    }

    /// The other node learns that this one is dead, once its log can grow no more.
    fn bury(&mut self) {
        if !self.faults.mortal || self.nodes.get(1).is_none_or(Option::is_some) {
            return;
        }
        let log: Vec<Decision> = self.sites[&home(1)].decisions().cloned().collect();
        let dead = self.run_of(1);
        let died = recovery::Input::Died { node: dead.node, through: dead.epoch, log };
        for input in [recovery::Input::Remove(home(1)), died] {
            if let Some(node) = &mut self.nodes[0] {
                let (me, out) = (node.me, node.hear(self.now, Event::Recovery(input)));
                self.send(me, out);
            }
        }
    }

    fn come_to_rest(&mut self) {
        for _ in 0..HEALING {
            if !self.net.is_empty() {
                self.deliver();
            } else if self.is_at_rest() {
                return self.check_rest();
            } else {
                let alarm = self.nodes.iter().flatten().filter_map(Node::wake_at).min();
                self.now = alarm.map_or(self.now, |alarm| alarm.max(self.now));
                self.tick();
            }
            self.check();
        }
        let left: Vec<_> = self.sites.values().map(|site| (site.id, &site.prepared, &site.records)).collect();
        panic!("no rest after {HEALING} steps: {left:?} {:?}", self.nodes);
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Request(to, request) => write!(f, "{to}: {request}"),
            What::Answer(from, reply) => write!(f, "{from}: -> {reply}"),
            What::Lost(from) => write!(f, "{from}: -> lost"),
        }
    }
}

impl Message {
    fn is_about(&self, p: ParticipantId) -> bool {
        let (What::Request(q, _) | What::Answer(q, _) | What::Lost(q)) = &self.what;
        *q == p
    }
}

/// The embedded participant of a node.
fn home(node: usize) -> ParticipantId {
    ParticipantId(if node == 0 { 0 } else { 1 })
}

fn taking_part(p: ParticipantId, home: ParticipantId, work: Work) -> Participant {
    let records = if p == home {
        Records::Log
    } else if p == LEDGER {
        Records::Ledger
    } else {
        Records::Nowhere
    };
    Participant { id: p, work, prepares: p != LEDGER, records }
}

/// What an answer, or the news that there will be none, means to who asked.
fn event(about: About, p: ParticipantId, reply: Option<Reply>) -> Option<Event> {
    use commit::Input;
    Some(match (about, reply) {
        (About::Nothing, _) | (_, Some(Reply::Nothing)) => return None,
        (About::Commit(id) | About::Log(id), Some(Reply::Did(input))) => Event::Commit(id, input),
        (About::Commit(id), None) => Event::Commit(id, Input::Lost(p)),
        (About::Log(id), Some(Reply::Recorded(decision))) => Event::Commit(id, Input::LogHas(decision.is_some())),
        (About::Log(id), None) => Event::Commit(id, Input::LogLost),
        (About::List(round), Some(Reply::Listed { in_doubt, recorded })) => {
            let active = BTreeSet::new();
            Event::Recovery(recovery::Input::Listed { participant: p, round, in_doubt, recorded, active })
        }
        (About::List(round), None) => Event::Recovery(recovery::Input::ListFailed { participant: p, round }),
        (About::Branch(gid), Some(Reply::Recorded(decision))) => {
            Event::Recovery(recovery::Input::Told { gid, decision })
        }
        (About::Branch(gid), Some(Reply::Did(_))) => Event::Recovery(recovery::Input::Finished(gid)),
        (About::Branch(gid), None) => Event::Recovery(recovery::Input::Failed(gid)),
        (About::Snapshot(reader, attempt), Some(Reply::Snapshot(seen))) => Event::Seen(reader, attempt, p, Some(seen)),
        (About::Snapshot(reader, attempt), None) => Event::Seen(reader, attempt, p, None),
        (about, Some(reply)) => panic!("{p} answers {about:?} with {reply:?}"),
    })
}
