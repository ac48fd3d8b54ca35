//! Nodes that may hold the cluster's duties, the replicated register between them, and things that a holder changes.
//!
//! True time is in milliseconds; each node's clock runs at a rate of its own, and while the node sleeps too. The register is one log: proposals reach it late,
//! twice or never, it stands still at times (no majority), and each node applies it in order, but as late as it likes. All
//! choices come from one generator, so a seed is a run.

mod checks;

use atoll_model::NodeId;
use atoll_protocol::election::Fence;
use atoll_protocol::election::holder::{Effect, Holder, Input, Options, Proposal, Register};
use atoll_protocol::election::nomination::{Candidate, Nomination, Policy, Position, Question};
use atoll_protocol::membership::State;
use atoll_protocol::{Incarnation, Time};
use atoll_sim::Rng;
use checks::Lease;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What may go wrong in a run. Chances are in a thousand: messages, or node and 100 ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) nodes: usize,
    pub(crate) policy: Policy,
    pub(crate) loss: usize,
    pub(crate) copies: usize,
    /// Messages, and entries applied, that take up to 10 s.
    pub(crate) slow: usize,
    pub(crate) sleeps: usize,
    pub(crate) crashes: usize,
    pub(crate) handovers: usize,
    /// Times without a majority, of up to 10 s.
    pub(crate) stops: usize,
    /// Clock rates are wrong by up to so many millionths.
    pub(crate) skew: u64,
    pub(crate) broken: Broken,
}

/// What does not keep its promise, to see that it is found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    Nothing,
    /// Takes whatever is proposed for a later epoch or renewal.
    Register,
    /// Admits everything.
    Fences,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) epochs: u64,
    pub(crate) renewals: u64,
    pub(crate) begun: u64,
    pub(crate) handed_over: u64,
    pub(crate) done: u64,
    pub(crate) fenced: u64,
}

pub(super) struct Node {
    machine: Option<Holder>,
    run: u32,
    offset: u64,
    rate: u64,
    asleep: u64,
    /// Entries of the register's log that it has applied, durably.
    applied: usize,
    /// What came while it slept.
    inbox: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Reaches the register.
    Proposal(Proposal),
    /// The next entry reaches a node.
    Entry(usize),
    /// Something for a run of a node.
    Input(usize, u32, Heard),
    /// Something done in a holder's name reaches what it changes.
    Act(usize, u64),
}

#[derive(Clone, Copy, Debug)]
enum Heard {
    Nominated { question: u64, nominee: Option<NodeId>, stands_after: Option<Duration> },
    CaughtUp(Incarnation),
}

/// The world.
pub(crate) struct Holders {
    rng: Rng,
    faults: Faults,
    options: Options,
    now: u64,
    nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    register: Option<Register>,
    log: Vec<Register>,
    /// Without a majority until then.
    stopped: u64,
    leases: Vec<Option<Lease>>,
    holders: BTreeMap<u64, Incarnation>,
    fences: Vec<(Fence, u64)>,
    pub(crate) counts: Counts,
    traced: bool,
}

const STEPS: usize = 600;
const MILLION: u64 = 1_000_000;

impl Holders {
    /// Trouble first, then health, in which there has to be a holder in time.
    pub(crate) fn run(&mut self) {
        for _ in 0..STEPS {
            self.trouble();
            self.pass(100);
        }
        self.heal();
        // What is under way arrives; then the last lease is waited for, and each node may be nominated in vain once: its view may be old.
        let lease = self.options.lease.as_millis() as u64;
        let wait = self.options.wait().as_millis() as u64;
        self.pass(10_000 + (wait + lease * (self.nodes.len() as u64 + 2)) * 11 / 10);
        self.check_held();
    }

    pub(crate) fn new(seed: u64, faults: Faults, options: Options, traced: bool) -> Holders {
        let mut rng = Rng::new(seed);
        let node = |rng: &mut Rng| Node {
            machine: None,
            run: 0,
            offset: rng.below(1_000_000) as u64,
            // The extremes are the interesting ones.
            rate: match rng.below(4) {
                0 => MILLION - faults.skew,
                1 => MILLION + faults.skew,
                _ => MILLION - faults.skew + rng.below(2 * faults.skew as usize + 1) as u64,
            },
            asleep: 0,
            applied: 0,
            inbox: vec![],
        };
        let nodes = (0..faults.nodes).map(|_| node(&mut rng)).collect();
        let mut world = Holders {
            rng,
            faults,
            options,
            now: 0,
            nodes,
            events: BTreeMap::new(),
            sequence: 0,
            register: None,
            log: vec![],
            stopped: 0,
            leases: vec![None; faults.nodes],
            holders: BTreeMap::new(),
            fences: vec![(Fence::default(), 0); 2],
            counts: Counts::default(),
            traced,
        };
        world.say(format_args!("{faults:?}"));
        (0..faults.nodes).for_each(|at| world.start(at));
        world
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.traced {
            println!("{:>8} {what}", self.now);
        }
    }

    // Trouble.

    fn trouble(&mut self) {
        for at in 0..self.nodes.len() {
            if self.rng.chance(self.faults.sleeps) {
                let until = self.now + self.rng.below(8000) as u64;
                self.nodes[at].asleep = until.max(self.nodes[at].asleep);
                self.say(format_args!("SLEEP {} until {until}", id(at)));
            }
            if self.nodes[at].machine.is_none() {
                if self.rng.chance(100) {
                    self.start(at);
                }
            } else if self.rng.chance(self.faults.crashes) {
                self.say(format_args!("CRASH {}", id(at)));
                let node = &mut self.nodes[at];
                node.machine = None;
                node.inbox.retain(|event| matches!(event, Event::Entry(_)));
                self.leases[at] = None;
            }
            if self.rng.chance(self.faults.handovers) {
                let to = self.rng.below(self.nodes.len());
                let successor = self.run_of(to);
                self.step(at, Input::HandOver(successor));
            }
            self.act(at);
        }
        if self.rng.chance(self.faults.stops) {
            self.stopped = self.now + self.rng.below(10_000) as u64;
            let stopped = self.stopped;
            self.say(format_args!("NO MAJORITY until {stopped}"));
        }
    }

    fn start(&mut self, at: usize) {
        let (local, options) = (self.local(at), self.options);
        let node = &mut self.nodes[at];
        node.run += 1;
        let register = node.applied.checked_sub(1).map(|last| self.log[last]);
        let me = Incarnation { node: id(at), epoch: node.run };
        node.machine = Some(Holder::begin(local, options, me, register));
        self.say(format_args!("START {}-{}", me.node, me.epoch));
        self.step(at, Input::Tick);
    }

    fn heal(&mut self) {
        self.say(format_args!("HEAL"));
        let quiet =
            Faults { loss: 0, copies: 0, slow: 0, sleeps: 0, crashes: 0, handovers: 0, stops: 0, ..self.faults };
        self.faults = quiet;
        self.stopped = self.now;
        for at in 0..self.nodes.len() {
            self.nodes[at].asleep = self.nodes[at].asleep.min(self.now);
            if self.nodes[at].machine.is_none() {
                self.start(at);
            }
        }
    }

    // Time.

    fn local(&self, at: usize) -> Time {
        let node = &self.nodes[at];
        Time(node.offset + self.now * node.rate / MILLION)
    }

    /// The first true moment at which a node's clock shows this.
    fn when(&self, at: usize, local: Time) -> u64 {
        let node = &self.nodes[at];
        (local.0.saturating_sub(node.offset) * MILLION).div_ceil(node.rate)
    }

    fn next_of(&self, at: usize) -> Option<u64> {
        let node = &self.nodes[at];
        let alarm = node.machine.as_ref()?.wake_at().map_or(u64::MAX, |alarm| self.when(at, alarm));
        let inbox = if node.inbox.is_empty() { u64::MAX } else { node.asleep };
        Some(alarm.max(node.asleep).min(inbox).max(self.now))
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        loop {
            let node = (0..self.nodes.len()).filter_map(|at| Some((self.next_of(at)?, at))).min();
            let event = self.events.first_key_value().map(|(key, _)| key.0);
            match (node, event) {
                (Some((time, at)), event) if time <= end && event.is_none_or(|event| time <= event) => {
                    self.now = time;
                    self.wake(at);
                }
                (_, Some(time)) if time <= end => {
                    self.now = time.max(self.now);
                    if let Some((_, event)) = self.events.pop_first() {
                        self.happen(event);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn wake(&mut self, at: usize) {
        // It goes on with what it was doing; what came meanwhile is read before or after the alarm.
        self.act(at);
        if self.rng.chance(500) {
            self.step(at, Input::Tick);
        }
        for event in std::mem::take(&mut self.nodes[at].inbox) {
            self.happen(event);
        }
        self.step(at, Input::Tick);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Proposal(proposal) if self.now < self.stopped => {
                let until = self.stopped;
                if self.rng.chance(500) {
                    self.at(until, Event::Proposal(proposal));
                }
            }
            Event::Proposal(proposal) => self.propose(&proposal),
            Event::Entry(at) if self.nodes[at].asleep > self.now => self.nodes[at].inbox.push(event),
            Event::Entry(at) => self.apply(at),
            Event::Input(at, run, heard) => {
                if self.nodes[at].run != run || self.nodes[at].machine.is_none() {
                    return;
                }
                if self.nodes[at].asleep > self.now {
                    return self.nodes[at].inbox.push(event);
                }
                let input = match heard {
                    Heard::Nominated { question, nominee, stands_after } => {
                        Input::Nominated { question, nominee, stands_after }
                    }
                    Heard::CaughtUp(successor) => Input::CaughtUp(successor),
                };
                self.step(at, input);
            }
            Event::Act(place, epoch) => self.acted(place, epoch),
        }
    }

    fn propose(&mut self, proposal: &Proposal) {
        let before = self.register;
        let broken = self.faults.broken == Broken::Register
            && before
                .is_some_and(|before| (before.epoch, before.renewal) < (proposal.value.epoch, proposal.value.renewal));
        if broken {
            self.register = Some(proposal.value);
        }
        if !broken && !Register::change(&mut self.register, proposal) {
            return;
        }
        self.log.push(proposal.value);
        self.say(format_args!("REGISTER {}", proposal.value));
        let value = proposal.value;
        if before.is_none_or(|before| before.epoch < value.epoch) {
            self.counts.epochs += 1;
            self.counts.handed_over += u64::from(value.holder != value.proposed_by);
        } else {
            self.counts.renewals += 1;
        }
        for at in 0..self.nodes.len() {
            self.later(Event::Entry(at));
        }
    }

    /// Whichever event said so: it is the next entry in the log's order that is applied.
    fn apply(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(register) = self.log.get(node.applied).copied() {
            node.applied += 1;
            self.step(at, Input::Applied(register));
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    fn later(&mut self, event: Event) {
        let most = if self.rng.chance(self.faults.slow) { 10_000 } else { 30 };
        let time = self.now + 1 + self.rng.below(most) as u64;
        self.at(time, event);
    }

    fn step(&mut self, at: usize, input: Input) {
        let local = self.local(at);
        let asleep = self.nodes[at].asleep > self.now;
        let run = self.nodes[at].run;
        let Some(machine) = self.nodes[at].machine.as_mut().filter(|_| !asleep) else { return };
        let effects = machine.step(local, input);
        self.check(at);
        for effect in effects {
            self.say(format_args!("{}: {effect}", id(at)));
            match effect {
                Effect::Propose(proposal) => {
                    for _ in 0..1 + usize::from(self.rng.chance(self.faults.copies)) {
                        if !self.rng.chance(self.faults.loss) {
                            self.later(Event::Proposal(proposal));
                        }
                    }
                }
                Effect::Begin { .. } => self.counts.begun += 1,
                Effect::Nominate { question, without } => {
                    let (nominee, stands_after) = self.nominate(at, &without);
                    self.later(Event::Input(at, run, Heard::Nominated { question, nominee, stands_after }));
                }
                Effect::CatchUp(successor) => {
                    if !self.rng.chance(self.faults.loss) {
                        self.later(Event::Input(at, run, Heard::CaughtUp(successor)));
                    }
                }
                Effect::Stop { .. } | Effect::HandOverFailed(_) => {}
            }
        }
    }

    /// As this node sees the others, which need not be how they are.
    fn nominate(&mut self, at: usize, without: &BTreeSet<NodeId>) -> (Option<NodeId>, Option<Duration>) {
        let mut candidates = vec![];
        for (n, node) in self.nodes.iter().enumerate() {
            let wrong = self.faults.loss > 0 && self.rng.chance(100);
            candidates.push(Candidate {
                node: id(n),
                state: if node.machine.is_some() != wrong { State::Alive } else { State::Down },
                position: Position::default(),
                uptime: Duration::ZERO,
                crashes: node.run.saturating_sub(1),
                round_trips: BTreeMap::new(),
                apply: Duration::from_micros(100),
                load: 0,
            });
        }
        let nomination = Nomination::of(&Question {
            policy: self.faults.policy,
            candidates: &candidates,
            sitting: None,
            without,
            quorum: self.nodes.len() / 2 + 1,
            random: self.rng.below(usize::MAX) as u64,
            timeouts: (Duration::from_millis(150), Duration::from_millis(300)),
            margin: 20,
        });
        (nomination.nominee(), nomination.stands_after(id(at)))
    }

    /// A holder looks whether it is one, and does something, which arrives at any time after.
    fn act(&mut self, at: usize) {
        let local = self.local(at);
        let asleep = self.nodes[at].asleep > self.now;
        let Some(machine) = self.nodes[at].machine.as_ref().filter(|_| !asleep) else { return };
        if let Some(epoch) = machine.holds(local) {
            self.check_acting(at);
            let place = self.rng.below(self.fences.len());
            self.later(Event::Act(place, epoch));
        }
    }

    fn run_of(&self, at: usize) -> Incarnation {
        Incarnation { node: id(at), epoch: self.nodes[at].run }
    }
}

fn id(at: usize) -> NodeId {
    NodeId(at as u16 + 1)
}
