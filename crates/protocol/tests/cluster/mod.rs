//! A small deterministic cluster under membership: clocks that differ, a network that delays, loses, repeats and is cut in one direction
//! or both, and nodes that sleep, crash, restart and leave.
//!
//! True time is in milliseconds. All choices come from one generator, so a seed is a run.

mod checks;

use atoll_model::{ClusterId, NodeId};
use atoll_protocol::membership::{Address, Body, Claim, Effect, Input, Membership, Message, Options, State, UPDATES};
use atoll_protocol::{Incarnation, Time};
use atoll_sim::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What may go wrong in a run. Chances are in a thousand: messages, or node and second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: usize,
    pub(crate) copies: usize,
    /// Messages that take up to 3 s.
    pub(crate) slow: usize,
    /// Nodes that sleep for up to 20 s.
    pub(crate) sleeps: usize,
    /// Only this one does.
    pub(crate) sleeper: Option<usize>,
    pub(crate) crashes: usize,
    pub(crate) leaves: usize,
    pub(crate) cuts: usize,
    /// From the beginning.
    pub(crate) cut: Option<(usize, usize)>,
    /// Clock rates are wrong by up to so many millionths.
    pub(crate) skew: usize,
    /// Hosts refuse connections to processes that are gone.
    pub(crate) refusing: bool,
}

/// A run's size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) options: Options,
    /// Of trouble, in seconds.
    pub(crate) seconds: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    /// Somebody went over to "suspect", or "down", of a run that was up: found out by itself, or believed.
    pub(crate) wrongly_suspected: u64,
    pub(crate) wrongly_down: u64,
    /// The same, of nodes that had never slept.
    pub(crate) of_the_wakeful: u64,
    /// Suspect or down, and then alive.
    pub(crate) refuted: u64,
    pub(crate) rightly_down: u64,
    pub(crate) left: u64,
    pub(crate) restarts: u64,
    pub(crate) pauses: u64,
}

struct Flight {
    to: usize,
    message: Message,
    /// When the ping was sent that this is or answers.
    ping: u64,
}

struct Node {
    machine: Option<Membership>,
    run: u32,
    offset: u64,
    rate: u64,
    asleep: u64,
    has_slept: bool,
    goodbye: Option<Goodbye>,
    inbox: Vec<Flight>,
    believed: BTreeMap<NodeId, Claim>,
}

/// That a run leaves.
struct Goodbye {
    /// By its clock.
    at: Time,
    /// The nodes that it takes for living, and which run of each it knows.
    told: Vec<(usize, u32)>,
}

/// The cluster.
pub(crate) struct Cluster {
    rng: Rng,
    faults: Faults,
    size: Size,
    now: u64,
    nodes: Vec<Node>,
    flights: BTreeMap<(u64, u64), Flight>,
    sequence: u64,
    cuts: BTreeSet<(usize, usize)>,
    /// Runs that were told to leave.
    leavers: BTreeSet<Incarnation>,
    pub(crate) counts: Counts,
    traced: bool,
}

const CLUSTER: ClusterId = ClusterId(7);
const MILLION: u64 = 1_000_000;

impl Cluster {
    /// Trouble first, then health, in which all have to agree in time.
    pub(crate) fn run(&mut self) {
        for _ in 0..self.size.seconds {
            self.trouble();
            self.pass(1000);
        }
        self.heal();
        // The slowest message under way, and the slowest clock.
        let bound = self.size.options.agreement(self.size.nodes).as_millis() as u64;
        self.pass(3000 + bound + bound * self.faults.skew as u64 / MILLION + 100);
        self.check_agreement();
    }

    pub(crate) fn new(seed: u64, size: Size, faults: Faults, traced: bool) -> Cluster {
        let mut rng = Rng::new(seed);
        let node = |rng: &mut Rng| Node {
            machine: None,
            run: 0,
            offset: rng.below(1_000_000) as u64,
            rate: MILLION - faults.skew as u64 + rng.below(2 * faults.skew + 1) as u64,
            asleep: 0,
            has_slept: false,
            goodbye: None,
            inbox: vec![],
            believed: BTreeMap::new(),
        };
        let nodes = (0..size.nodes).map(|_| node(&mut rng)).collect();
        let mut cluster = Cluster {
            rng,
            faults,
            size,
            now: 0,
            nodes,
            flights: BTreeMap::new(),
            sequence: 0,
            cuts: faults.cut.into_iter().collect(),
            leavers: BTreeSet::new(),
            counts: Counts::default(),
            traced,
        };
        cluster.say(format_args!("{size:?} {faults:?}"));
        (0..size.nodes).for_each(|at| cluster.start(at));
        cluster
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.traced {
            println!("{:>9} {what}", self.now);
        }
    }

    // Trouble.

    fn trouble(&mut self) {
        for at in 0..self.nodes.len() {
            let may_sleep = self.faults.sleeper.is_none_or(|sleeper| sleeper == at);
            if may_sleep && self.rng.chance(self.faults.sleeps) {
                let most = if self.rng.chance(300) { 20_000 } else { 2_000 };
                self.sleep(at, most);
            }
            if self.nodes[at].machine.is_none() {
                if self.rng.chance(100) {
                    self.start(at);
                }
            } else if self.rng.chance(self.faults.crashes) {
                self.crash(at);
            } else if self.rng.chance(self.faults.leaves) {
                self.leave(at);
            }
        }
        if self.rng.chance(self.faults.cuts) {
            self.cut();
        } else if self.rng.chance(self.faults.cuts) {
            let cut: Vec<(usize, usize)> = self.cuts.iter().copied().collect();
            self.cuts = cut.into_iter().filter(|_| self.rng.chance(500)).collect();
        }
    }

    fn cut(&mut self) {
        let n = self.nodes.len();
        let (from, to) = (self.rng.below(n), self.rng.below(n));
        match self.rng.below(4) {
            0 => self.cuts.extend([(from, to)]),
            1 => self.cuts.extend([(from, to), (to, from)]),
            // It is heard by nobody.
            2 => self.cuts.extend((0..n).map(|to| (from, to))),
            // Two halves.
            _ => {
                let half: Vec<bool> = (0..n).map(|_| self.rng.chance(500)).collect();
                let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
                self.cuts.extend(pairs.filter(|(a, b)| half[*a] != half[*b]));
            }
        }
        let cuts = self.cuts.len();
        self.say(format_args!("CUT, {cuts} now"));
    }

    fn leave(&mut self, at: usize) {
        let (local, node) = (self.local(at), &self.nodes[at]);
        let Some(machine) = node.machine.as_ref().filter(|_| node.asleep <= self.now) else { return };
        if node.goodbye.is_none() {
            let claim = |n: usize| machine.claim(id(n)).filter(|claim| n != at && !is_gone(claim.state()));
            let told = (0..self.nodes.len()).filter_map(|n| Some((n, claim(n)?.run))).collect();
            self.leavers.insert(Incarnation { node: id(at), epoch: node.run });
            self.nodes[at].goodbye = Some(Goodbye { at: local, told });
        }
        self.say(format_args!("LEAVE {}", id(at)));
        self.step(at, Input::Leave);
    }

    fn sleep(&mut self, at: usize, most: usize) {
        let node = &mut self.nodes[at];
        node.asleep = node.asleep.max(self.now + self.rng.below(most) as u64);
        node.has_slept = true;
        let until = node.asleep;
        self.say(format_args!("SLEEP {} until {until}", id(at)));
    }

    pub(crate) fn crash(&mut self, at: usize) {
        self.say(format_args!("CRASH {}", id(at)));
        self.nodes[at].machine = None;
        self.nodes[at].inbox.clear();
        if self.faults.refusing {
            // Its host closes the connections, and refuses the new ones with which the others answer that.
            (0..self.nodes.len()).for_each(|other| self.step(other, Input::Absent(id(at))));
        }
    }

    fn start(&mut self, at: usize) {
        let seeds: Vec<Address> = (0..self.nodes.len()).map(address).collect();
        let (options, local) = (self.size.options, self.local(at));
        let node = &mut self.nodes[at];
        node.run += 1;
        node.goodbye = None;
        // What slept was the run before. This one would not hear by which addresses to join.
        node.asleep = node.asleep.min(self.now);
        node.believed.clear();
        let me = Incarnation { node: id(at), epoch: node.run };
        node.machine = Some(Membership::begin(local, options, CLUSTER, me, address(at), 0));
        self.counts.restarts += u64::from(me.epoch > 1);
        self.say(format_args!("START {}-{}", me.node, me.epoch));
        // All know the first node, and some know others.
        let seeds = seeds.into_iter().enumerate().filter(|(seed, _)| *seed == 0 || self.rng.chance(300));
        let seeds = seeds.map(|(_, seed)| seed).collect();
        self.step(at, Input::Join(seeds));
    }

    fn heal(&mut self) {
        self.say(format_args!("HEAL"));
        self.cuts.clear();
        let Faults { skew, refusing, .. } = self.faults;
        self.faults = Faults { skew, refusing, ..Faults::default() };
        for at in 0..self.nodes.len() {
            self.nodes[at].asleep = self.nodes[at].asleep.min(self.now);
            // Who left may come back; the first one does, as all know it.
            if self.nodes[at].machine.is_none() && (at == 0 || self.rng.chance(500)) {
                self.start(at);
            }
        }
    }

    // Time.

    fn local(&self, at: usize) -> Time {
        let node = &self.nodes[at];
        Time(node.offset + self.now * node.rate / MILLION)
    }

    /// When a node is to do something, if nothing comes.
    fn next_of(&self, at: usize) -> Option<u64> {
        let node = &self.nodes[at];
        let alarm = node.machine.as_ref()?.wake_at()?;
        let alarm = ((alarm.0.saturating_sub(node.offset)) * MILLION).div_ceil(node.rate);
        let inbox = if node.inbox.is_empty() { u64::MAX } else { node.asleep };
        Some(alarm.max(node.asleep).min(inbox).max(self.now))
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        loop {
            let node = (0..self.nodes.len()).filter_map(|at| Some((self.next_of(at)?, at))).min();
            let flight = self.flights.first_key_value().map(|(key, _)| key.0);
            match (node, flight) {
                (Some((time, at)), flight) if time <= end && flight.is_none_or(|flight| time <= flight) => {
                    self.now = time;
                    self.wake(at);
                }
                (_, Some(time)) if time <= end => {
                    self.now = time.max(self.now);
                    if let Some((_, flight)) = self.flights.pop_first() {
                        self.deliver(flight);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// An alarm, or the end of sleep: what came meanwhile is read before or after the clock.
    fn wake(&mut self, at: usize) {
        let clock_first = self.rng.chance(500);
        if clock_first {
            self.step(at, Input::Tick);
        }
        for flight in std::mem::take(&mut self.nodes[at].inbox) {
            self.deliver(flight);
        }
        self.step(at, Input::Tick);
    }

    fn deliver(&mut self, flight: Flight) {
        let at = flight.to;
        let node = &mut self.nodes[at];
        if node.machine.is_none() {
            return;
        }
        if node.asleep > self.now {
            node.inbox.push(flight);
            return;
        }
        let Flight { message, ping, .. } = flight;
        self.say(format_args!("{} -> {}: {message}", message.from.node, id(at)));
        self.counts.messages += 1;
        if let Body::Ack(_) = message.body {
            let trip = Duration::from_millis(self.now - ping);
            self.step_answering(at, Input::RoundTrip(message.from.node, trip), ping);
        }
        self.step_answering(at, Input::Received(message), ping);
    }

    fn step(&mut self, at: usize, input: Input) {
        let now = self.now;
        self.step_answering(at, input, now);
    }

    fn step_answering(&mut self, at: usize, input: Input, ping: u64) {
        let local = self.local(at);
        let asleep = self.nodes[at].asleep > self.now;
        let Some(machine) = self.nodes[at].machine.as_mut().filter(|_| !asleep) else { return };
        let effects = machine.step(local, input);
        for effect in effects {
            match effect {
                Effect::Send(to, message) => {
                    let ping = if matches!(message.body, Body::Ack(_)) { ping } else { self.now };
                    self.send(at, &to, message, ping);
                }
                Effect::Changed(run, state) => self.changed(at, run, state),
                Effect::Paused(_) => self.counts.pauses += 1,
                Effect::Over => {
                    self.say(format_args!("OVER {}", id(at)));
                    self.check_goodbye(at, local);
                    self.nodes[at].machine = None;
                }
                // Messages to or from earlier runs; nobody is of another cluster.
                Effect::Refuse(..) | Effect::RefusedBy(..) => {}
            }
        }
        self.check(at);
    }

    fn send(&mut self, from: usize, to: &Address, message: Message, ping: u64) {
        if let Body::Ping(heartbeat) | Body::Ack(heartbeat) = &message.body {
            assert!(heartbeat.gossip.len() <= UPDATES, "{} updates in a message", heartbeat.gossip.len());
        }
        let Some(to) = (0..self.nodes.len()).find(|at| address(*at) == *to) else { panic!("no node at {to}") };
        if self.cuts.contains(&(from, to)) || self.rng.chance(self.faults.loss) {
            return;
        }
        if self.faults.refusing && self.nodes[to].machine.is_none() {
            self.step(from, Input::Absent(id(to)));
            return;
        }
        let copies = 1 + usize::from(self.rng.chance(self.faults.copies));
        for _ in 0..copies {
            let most = if self.rng.chance(self.faults.slow) { 3000 } else { 20 };
            let at = self.now + 1 + self.rng.below(most) as u64;
            self.sequence += 1;
            self.flights.insert((at, self.sequence), Flight { to, message: message.clone(), ping });
        }
    }
}

fn id(at: usize) -> NodeId {
    NodeId(at as u16 + 1)
}

fn address(at: usize) -> Address {
    Address(format!("n{}", at + 1))
}

fn is_gone(state: State) -> bool {
    matches!(state, State::Down | State::Left)
}

fn is_bad(state: State) -> bool {
    matches!(state, State::Suspect | State::Down)
}
