//! The world: nodes with processes, and everything between them, one event after the other.
//!
//! Invariant: events are taken in the order of their moments, and those of one moment in the order in which they were made; every
//! choice is drawn from one generator. So a seed is a run.

use crate::clock::LocalClock;
use crate::network::{Network, between};
use crate::process::{Boot, Effect, EffectOf, Event, EventOf, Process};
use crate::{Disk, Faults, Moment, Rng, Trace};
use atoll_model::NodeId;
use atoll_protocol::Incarnation;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

/// What whoever watches is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News<R> {
    /// A process says something.
    Report(NodeId, R),
    /// A node has crashed, and what its process knew is gone.
    Crashed(NodeId),
    /// A node has started.
    Started(NodeId),
}

/// What has happened, to see that a run was worth its while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages that arrived.
    pub arrived: u64,
    /// Messages that were lost.
    pub lost: u64,
    /// Crashes.
    pub crashes: u64,
    /// Pauses of processes.
    pub pauses: u64,
    /// Cuts of one link or more.
    pub cuts: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.arrived += other.arrived;
        self.lost += other.lost;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.failed_syncs += other.failed_syncs;
    }
}

/// A world of processes.
pub struct World<P: Process> {
    now: Moment,
    rng: Rng,
    faults: Faults,
    network: Network,
    nodes: Vec<Node<P>>,
    queue: BinaryHeap<Scheduled<P>>,
    scheduled: u64,
    news: VecDeque<News<P::Report>>,
    counts: Counts,
    trace: Trace,
    /// Of what was told, if it was hashed.
    told: DefaultHasher,
}

struct Node<P: Process> {
    settings: P::Settings,
    disk: Disk,
    /// Counts its starts.
    epoch: u32,
    running: Option<Running<P>>,
    paused_until: Moment,
}

struct Running<P> {
    process: P,
    clock: LocalClock,
    /// The next alarm that is scheduled.
    alarm: Option<Moment>,
}

struct Scheduled<P: Process> {
    at: Moment,
    number: u64,
    what: What<P>,
}

enum What<P: Process> {
    /// Reaches whichever run of a node is there.
    Message {
        from: Incarnation,
        to: NodeId,
        message: P::Message,
    },
    /// For this run of a node alone.
    Event(NodeId, u32, EventOf<P>),
    /// A sync ends.
    Sync {
        node: NodeId,
        epoch: u32,
        number: u64,
        through: u64,
    },
    /// After a crash of this run: if it was started meanwhile, there is nothing to do.
    Start(NodeId, u32),
    Mend(Vec<(NodeId, NodeId)>),
    Trouble(Trouble),
}

#[derive(Clone, Copy)]
enum Trouble {
    Crash,
    Pause,
    Cut,
}

impl<P: Process> World<P> {
    /// A world with a node for each of the settings, all of them running.
    pub fn new(seed: u64, faults: Faults, settings: Vec<P::Settings>, trace: Trace) -> World<P> {
        let node = |settings| Node {
            settings,
            disk: Disk::default(),
            epoch: 0,
            running: None,
            paused_until: Moment::default(),
        };
        let mut world = World {
            now: Moment::default(),
            rng: Rng::new(seed),
            faults,
            network: Network::new(faults.weather),
            nodes: settings.into_iter().map(node).collect(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            news: VecDeque::new(),
            counts: Counts::default(),
            trace,
            told: DefaultHasher::new(),
        };
        world.ids().for_each(|node| world.start(node));
        [Trouble::Crash, Trouble::Pause, Trouble::Cut].into_iter().for_each(|trouble| world.expect(trouble));
        world
    }

    /// The world's time.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// With [`Trace::Hashed`], a number that differs between worlds in which different things have happened.
    pub fn fingerprint(&self) -> Option<u64> {
        (self.trace == Trace::Hashed).then(|| self.told.finish())
    }

    /// All nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<P> {
        (0..).map(NodeId).take(self.nodes.len())
    }

    /// Whether a process runs there.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[usize::from(node.0)].running.is_some()
    }

    /// The world's generator, for what whoever watches wants to draw.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Somebody at a node wants something, now. If nobody is there, nothing comes of it.
    pub fn command(&mut self, node: NodeId, command: P::Command) {
        let epoch = self.nodes[usize::from(node.0)].epoch;
        self.schedule(Duration::ZERO, What::Event(node, epoch, Event::Command(command)));
    }

    /// The next thing that whoever watches has not been told yet.
    pub fn news(&mut self) -> Option<News<P::Report>> {
        self.news.pop_front()
    }

    /// Takes the next event, if it comes before this moment; otherwise time goes on to it. Whether there was one.
    pub fn step(&mut self, until: Moment) -> bool {
        if self.queue.peek().is_none_or(|next| next.at > until) {
            self.now = self.now.max(until);
            return false;
        }
        let Some(next) = self.queue.pop() else { return false };
        self.now = self.now.max(next.at);
        match next.what {
            What::Message { from, to, message } => self.arrives(from, to, message),
            What::Event(node, epoch, event) => self.event(node, epoch, event),
            What::Sync { node, epoch, number, through } => self.sync_ends(node, epoch, number, through),
            What::Start(node, epoch) => {
                if self.nodes[usize::from(node.0)].epoch == epoch {
                    self.start(node);
                }
            }
            What::Mend(links) => links.into_iter().for_each(|(from, to)| self.network.mend(from, to, self.now)),
            What::Trouble(trouble) => self.trouble(trouble),
        }
        true
    }

    /// Nothing goes wrong from now on: links are mended, nodes that are down start. Pauses run out.
    pub fn heal(&mut self) {
        self.say(format_args!("all is well again"));
        self.faults = self.faults.healed();
        self.network.heal();
        self.ids().for_each(|node| self.start(node));
    }

    /// The node's power fails.
    pub fn crash(&mut self, node: NodeId) {
        let at = usize::from(node.0);
        if self.nodes[at].running.take().is_none() {
            return;
        }
        self.nodes[at].paused_until = self.now;
        self.nodes[at].disk.crash(&mut self.rng);
        self.counts.crashes += 1;
        self.say(format_args!("{node} crashes"));
        self.news.push_back(News::Crashed(node));
    }

    /// The node starts, if it is down.
    pub fn start(&mut self, node: NodeId) {
        let at = usize::from(node.0);
        if self.nodes[at].running.is_some() {
            return;
        }
        let clock = LocalClock::start(self.now, self.faults.drift, &mut self.rng);
        let seed = self.rng.bits();
        let Node { settings, disk, epoch, running, .. } = &mut self.nodes[at];
        *epoch += 1;
        let run = Incarnation { node, epoch: *epoch };
        let now = clock.read(self.now);
        let (process, effects) = P::start(Boot { now, run, settings, disk, seed });
        *running = Some(Running { process, clock, alarm: None });
        self.say(format_args!("{node} starts as {run}"));
        self.news.push_back(News::Started(node));
        self.carry_out(node, effects);
    }

    fn schedule(&mut self, after: Duration, what: What<P>) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at: self.now + after, number: self.scheduled, what });
    }

    fn say(&mut self, what: fmt::Arguments<'_>) {
        match self.trace {
            Trace::Off => {}
            Trace::Printed => println!("{} {what}", self.now),
            Trace::Hashed => {
                self.told.write_u64(self.now.0);
                // A hasher takes whatever it is given.
                let _ = fmt::write(&mut Hashed(&mut self.told), what);
            }
        }
    }

    // Processes.

    /// A message reaches a node.
    fn arrives(&mut self, from: Incarnation, to: NodeId, message: P::Message) {
        let node = &self.nodes[usize::from(to.0)];
        if node.running.is_none() {
            return self.refuse(from, to, message);
        }
        if self.now < node.paused_until {
            let rest = node.paused_until - self.now;
            return self.schedule(rest, What::Message { from, to, message });
        }
        if self.network.is_cut(from.node, to) {
            self.counts.lost += 1;
            return;
        }
        self.counts.arrived += 1;
        self.take(to, Event::Message(from.node, message));
    }

    /// Nobody is there to take it. In half of the cases the run that sent it notices.
    fn refuse(&mut self, from: Incarnation, to: NodeId, message: P::Message) {
        self.counts.lost += 1;
        if self.rng.chance(500)
            && let Some(delay) = self.network.delays(to, from.node, &mut self.rng).first()
        {
            self.schedule(*delay, What::Event(from.node, from.epoch, Event::Refused(to, message)));
        }
    }

    /// Something happens to a run of a node, if that is still there.
    fn event(&mut self, id: NodeId, epoch: u32, event: EventOf<P>) {
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(running) = node.running.as_mut().filter(|_| node.epoch == epoch) else { return };
        if self.now < node.paused_until {
            let rest = node.paused_until - self.now;
            return self.schedule(rest, What::Event(id, epoch, event));
        }
        if matches!(event, Event::Alarm) {
            // One that an earlier alarm has taken the place of; if it were taken for the next, that would be set a second time.
            if running.alarm.is_some_and(|alarm| alarm > self.now) {
                return;
            }
            running.alarm = None;
            let now = running.clock.read(self.now);
            if running.process.wake_at().is_none_or(|due| due > now) {
                return self.set_alarm(id);
            }
        }
        self.take(id, event);
    }

    /// The node's process takes an event.
    fn take(&mut self, id: NodeId, event: EventOf<P>) {
        self.say(format_args!("{id} <- {}", Told(&event)));
        let Some(running) = &mut self.nodes[usize::from(id.0)].running else { return };
        let effects = running.process.step(running.clock.read(self.now), event);
        self.carry_out(id, effects);
    }

    fn carry_out(&mut self, id: NodeId, effects: Vec<EffectOf<P>>) {
        for effect in effects {
            match effect {
                Effect::Send(to, message) => self.send(id, to, message),
                Effect::Write(name, bytes) => self.nodes[usize::from(id.0)].disk.write(name, bytes),
                Effect::Sync(number) => {
                    let node = &self.nodes[usize::from(id.0)];
                    let (epoch, through) = (node.epoch, node.disk.last_write());
                    let after = between(self.faults.sync_fastest, self.faults.sync_slowest, &mut self.rng);
                    self.schedule(after, What::Sync { node: id, epoch, number, through });
                }
                Effect::Report(report) => {
                    self.say(format_args!("{id}: {report}"));
                    self.news.push_back(News::Report(id, report));
                }
            }
        }
        self.set_alarm(id);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: P::Message) {
        let delays = self.network.delays(from, to, &mut self.rng);
        if delays.is_empty() {
            self.counts.lost += 1;
            self.say(format_args!("{from} -> {to} lost: {message}"));
        }
        let from = Incarnation { node: from, epoch: self.nodes[usize::from(from.0)].epoch };
        for delay in delays {
            self.schedule(delay, What::Message { from, to, message: message.clone() });
        }
    }

    /// An alarm that is scheduled for earlier stays, and is set anew when it goes off.
    fn set_alarm(&mut self, id: NodeId) {
        let node = &mut self.nodes[usize::from(id.0)];
        let Some(running) = &mut node.running else { return };
        let Some(due) = running.process.wake_at() else { return };
        let at = running.clock.when(due).max(self.now);
        if running.alarm.is_none_or(|alarm| at < alarm) {
            running.alarm = Some(at);
            let epoch = node.epoch;
            self.schedule(at - self.now, What::Event(id, epoch, Event::Alarm));
        }
    }

    /// The disk does not stand still when the process does.
    fn sync_ends(&mut self, id: NodeId, epoch: u32, number: u64, through: u64) {
        let failed = self.rng.chance(self.faults.sync_failures);
        let node = &mut self.nodes[usize::from(id.0)];
        // After a crash there is nothing left to make durable.
        if node.epoch != epoch || node.running.is_none() {
            return;
        }
        let event = if failed {
            self.counts.failed_syncs += 1;
            node.disk.sync_failed(through);
            Event::SyncFailed(number)
        } else {
            node.disk.synced(through);
            Event::Synced(number)
        };
        self.event(id, epoch, event);
    }

    // Trouble.

    /// The next trouble of a kind.
    fn expect(&mut self, trouble: Trouble) {
        let often = match trouble {
            Trouble::Crash => self.faults.crashes,
            Trouble::Pause => self.faults.pauses,
            Trouble::Cut => self.faults.cuts,
        };
        if let Some(often) = often {
            let pause = often.pause(&mut self.rng);
            self.schedule(pause, What::Trouble(trouble));
        }
    }

    fn trouble(&mut self, trouble: Trouble) {
        let node = self.any_node();
        match trouble {
            Trouble::Crash => {
                if let Some(often) = self.faults.crashes {
                    let node = self.victim().unwrap_or(node);
                    let length = often.length(&mut self.rng);
                    if self.is_up(node) {
                        self.crash(node);
                        self.schedule(length, What::Start(node, self.nodes[usize::from(node.0)].epoch));
                    }
                }
            }
            Trouble::Pause => {
                if let Some(often) = self.faults.pauses {
                    let length = often.length(&mut self.rng);
                    if self.is_up(node) {
                        self.say(format_args!("{node} pauses for {length:?}"));
                        self.counts.pauses += 1;
                        let paused = &mut self.nodes[usize::from(node.0)].paused_until;
                        *paused = (*paused).max(self.now + length);
                    }
                }
            }
            Trouble::Cut => {
                if let Some(often) = self.faults.cuts {
                    let length = often.length(&mut self.rng);
                    let links = self.any_links(node);
                    if !links.is_empty() {
                        self.say(format_args!("cut for {length:?}: {links:?}"));
                        self.counts.cuts += 1;
                        let until = self.now + length;
                        links.iter().for_each(|(from, to)| self.network.cut(*from, *to, until));
                        self.schedule(length, What::Mend(links));
                    }
                }
            }
        }
        self.expect(trouble);
    }

    /// Half of the crashes look for a node that has something to lose.
    fn victim(&mut self) -> Option<NodeId> {
        let unsynced = |node: &NodeId| self.nodes[usize::from(node.0)].disk.has_unsynced();
        let nodes: Vec<NodeId> = self.ids().filter(unsynced).collect();
        self.rng.pick(&nodes).copied().filter(|_| self.rng.chance(500))
    }

    fn any_node(&mut self) -> NodeId {
        let node = self.rng.below(self.nodes.len());
        // A world has fewer nodes than a cluster may have.
        NodeId(u16::try_from(node).unwrap_or(u16::MAX))
    }

    /// All links of a node, those to it, those from it, or one of them. A node alone has none.
    fn any_links(&mut self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let others: Vec<NodeId> = self.ids().filter(|other| *other != node).collect();
        let (to, from) = (others.iter().map(|other| (*other, node)), others.iter().map(|other| (node, *other)));
        match self.rng.below(4) {
            0 => to.chain(from).collect(),
            1 => to.collect(),
            2 => from.collect(),
            _ => self.rng.pick(&others).map(|other| (node, *other)).into_iter().collect(),
        }
    }
}

/// Text that is hashed as it is written.
struct Hashed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// An event as a trace has it.
struct Told<'a, M, C>(&'a Event<M, C>);

impl<M: fmt::Display, C: fmt::Display> fmt::Display for Told<'_, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Message(from, message) => write!(f, "{from}: {message}"),
            Event::Refused(to, message) => write!(f, "{to} is down, and did not get: {message}"),
            Event::Command(command) => write!(f, "{command}"),
            Event::Synced(number) => write!(f, "sync {number} has ended"),
            Event::SyncFailed(number) => write!(f, "sync {number} has failed"),
            Event::Alarm => write!(f, "alarm"),
        }
    }
}

// A heap gives its greatest first: the earliest, and of those the one that was made first.
impl<P: Process> Ord for Scheduled<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<P: Process> PartialOrd for Scheduled<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Process> PartialEq for Scheduled<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P: Process> Eq for Scheduled<P> {}
