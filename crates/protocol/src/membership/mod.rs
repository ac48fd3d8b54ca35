//! Which nodes there are, and which of them live: heartbeats from each to each, and gossip.
//!
//! * A node is doubted when its heartbeats are overdue (the phi-accrual failure detector, `arrivals.rs`). It is pinged out of turn then, and others are asked to do so, so that
//!   a path which is cut between two nodes, or in one direction, makes nobody dead (SWIM: Das, Gupta, Motivala, *SWIM: Scalable Weakly-consistent Infection-style
//!   Process Group Membership Protocol*, DSN 2002). Only when nobody reaches it is it suspected, and told so; only when it does not
//!   refute is it down. `options.rs` has the times.
//! * Claims travel with heartbeats (`gossip.rs`). Of two about a node the greater holds ([`Claim`]). A node that hears another does not
//!   go over to "suspect" or "down" because somebody says so; it lets the accused know, whose refutation is greater.
//! * A node that restarts has a later run, which is greater than anything said of earlier ones. A run that has left is left for ever.
//! * A node that was not awake itself ([`Effect::Paused`]) draws no conclusions from having heard nothing: all silences begin anew.
//! * Nodes that are down are still sent heartbeats, so that two halves of a cluster find together again.
//!
//! Heartbeats go from each node to each, so the messages of a cluster grow with the square of its nodes: this is meant for hundreds,
//! and takes [`MEMBERS`]. What a node is to be trusted with never follows from this module: being taken for alive or down changes
//! who is asked first, and epochs decide the rest ([`crate::election`]).
//!
//! Invariant: what is believed of a node only moves to greater claims; nobody but the node itself counts its refutations and runs up.

mod arrivals;
mod gossip;
mod member;
mod message;
mod options;
mod text;
mod watch;

pub use gossip::TURN;
pub use member::View;
pub use message::{
    ADDRESS_BYTES, Address, Body, Claim, Heartbeat, Message, Reason, Record, Seen, State, Told, UPDATES, Update,
    Versions,
};
pub use options::{BadOptions, Options};

use crate::gid::Incarnation;
use crate::time::Time;
use atoll_model::{ClusterId, NodeId};
use member::{Member, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Nodes that are known, at most, those that have left included.
pub const MEMBERS: usize = 1000;

/// Addresses to join by, at most; and refusals that are remembered.
const SEEDS: usize = 64;

/// How often goodbye is said.
const GOODBYES: u32 = 3;

/// What the machine hears.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A message has come.
    Received(Message),
    /// Find the cluster by these addresses, and keep trying.
    Join(Vec<Address>),
    /// This run of this node leaves the cluster for good.
    Leave,
    /// An operator says that this run of a node, as it is known now, will not come back.
    Remove(NodeId),
    /// The node's host answers that nobody listens at its address ("connection refused"): the process is gone, or the way to it goes through somebody
    /// who says so.
    Absent(NodeId),
    /// A request to the node and its answer took so long. Time as this machine counts it is too coarse for that.
    RoundTrip(NodeId, Duration),
    /// What this node measures of itself, for its heartbeats.
    Tell(Told),
}

/// What it wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send it, without waiting, and without repeating it if that fails.
    Send(Address, Message),
    /// Another thing is believed of a node than before, or of another run.
    Changed(Incarnation, State),
    /// Somebody is not talked to, and has been told why.
    Refuse(NodeId, Address, Reason),
    /// Somebody does not talk to this node.
    RefusedBy(NodeId, Address, Reason),
    /// This node was not awake for so long beyond what it had asked for.
    Paused(Duration),
    /// This run is no member any more, and this is the last that comes from it: it has left, was removed, or a later run took its place.
    Over,
}

/// One node's view of all.
#[derive(Debug)]
pub struct Membership {
    options: Options,
    cluster: ClusterId,
    me: Record,
    told: Told,
    started: Time,
    now: Time,
    phase: Phase,
    members: BTreeMap<NodeId, Member>,
    seeds: BTreeSet<Address>,
    last_round: Time,
    next_round: Time,
    /// Counts, so that not always the same nodes are asked for help.
    turn: usize,
    /// What was last reported, by address, to report it once.
    refused: BTreeMap<Address, Reason>,
    refused_by: BTreeMap<Address, Reason>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Up,
    /// Who has yet to acknowledge that this node has left.
    Leaving {
        waiting: BTreeSet<NodeId>,
        /// How often it is still to be said.
        goodbyes: u32,
        again: Time,
    },
    Over,
}

impl Membership {
    /// Begins one run of a node, alone. Its number is greater than that of every run before, which is durable before this is called.
    /// `crashes` is how many of those are known to have ended without leaving, as far as this node remembers.
    pub fn begin(
        now: Time,
        options: Options,
        cluster: ClusterId,
        me: Incarnation,
        address: Address,
        crashes: u32,
    ) -> Membership {
        let claim = Claim::alive(me.epoch);
        Membership {
            options,
            cluster,
            me: Record { node: me.node, address, claim, crashes },
            told: Told::default(),
            started: now,
            now,
            phase: Phase::Up,
            members: BTreeMap::new(),
            seeds: BTreeSet::new(),
            last_round: now,
            next_round: now + options.interval(),
            turn: 0,
            refused: BTreeMap::new(),
            refused_by: BTreeMap::new(),
        }
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        if self.phase == Phase::Over {
            return out;
        }
        let now = self.awake(now, &mut out);
        match input {
            Input::Tick => {}
            Input::Received(message) => self.received(now, message, &mut out),
            Input::Join(seeds) => self.join(now, seeds, &mut out),
            Input::Leave => self.leave(now),
            Input::Remove(node) => {
                if let Some(claim) = self.members.get(&node).map(|member| member.record.claim) {
                    self.believe(now, node, Claim { left: true, ..claim }, &mut out);
                }
            }
            Input::Absent(node) => self.absent(now, node, &mut out),
            Input::RoundTrip(node, sample) => {
                if let Some(member) = self.members.get_mut(&node) {
                    member.measured(sample);
                }
            }
            Input::Tell(told) => self.told = told,
        }
        self.tick(now, &mut out);
        out
    }

    /// All nodes: this one first, and those included that have left.
    pub fn nodes(&self, now: Time) -> impl Iterator<Item = View> {
        let others = self.members.values().map(move |member| member.view(now, &self.options));
        std::iter::once(self.view_of_me(now)).chain(others)
    }

    fn view_of_me(&self, now: Time) -> View {
        let micros = |n: u32| Duration::from_micros(n.into());
        let round_trip = |(node, member): (&NodeId, &Member)| Some((*node, micros(member.round_trip?)));
        View {
            node: self.me.node,
            run: self.me.claim.run,
            address: self.me.address.0.clone(),
            state: self.me.claim.state(),
            uptime: now.since(self.started),
            told: self.told,
            crashes: self.me.crashes,
            round_trip: None,
            round_trips: self.members.iter().filter_map(round_trip).collect(),
            silent: Duration::ZERO,
            heard: true,
            phi: 0.0,
        }
    }

    /// This node as others see it.
    pub fn me(&self) -> &Record {
        &self.me
    }

    /// What is believed of a node, and of which run.
    pub fn claim(&self, node: NodeId) -> Option<Claim> {
        if node == self.me.node {
            return Some(self.me.claim);
        }
        self.members.get(&node).map(|member| member.record.claim)
    }

    /// Where a node listens.
    pub fn address(&self, node: NodeId) -> Option<&Address> {
        self.members.get(&node).map(|member| &member.record.address)
    }

    fn join(&mut self, now: Time, seeds: Vec<Address>, out: &mut Vec<Effect>) {
        let fresh: Vec<Address> =
            seeds.into_iter().filter(|seed| *seed != self.me.address && seed.0.len() <= ADDRESS_BYTES).collect();
        for seed in fresh {
            if self.seeds.len() < SEEDS && self.seeds.insert(seed.clone()) {
                self.ping_seed(now, seed, out);
            }
        }
    }

    fn leave(&mut self, now: Time) {
        if self.phase != Phase::Up {
            return;
        }
        self.me.claim.left = true;
        let living = |(_, member): &(&NodeId, &Member)| matches!(member.state(), State::Alive | State::Suspect);
        let waiting = self.members.iter().filter(living).map(|(node, _)| *node).collect();
        self.phase = Phase::Leaving { waiting, goodbyes: GOODBYES, again: now };
    }

    fn end(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        out.push(Effect::Over);
    }

    // What others say.

    fn received(&mut self, now: Time, message: Message, out: &mut Vec<Effect>) {
        let Message { from, body, .. } = &message;
        let (node, address) = (from.node, from.address.clone());
        if message.cluster == self.cluster && self.is_me(from) {
            // One of the addresses to join by leads here by another name, as it does where all nodes are given the same ones.
            return;
        }
        if let Body::Refused(reason) = body {
            let is_ours = message.cluster == self.cluster;
            return self.refused_by(node, address, reason.clone(), is_ours, out);
        }
        if let Some(reason) = self.objection(&message) {
            return self.refuse(node, address, reason, out);
        }
        self.refused.remove(&address);
        self.refused_by.remove(&address);
        let Message { from, body, .. } = message;
        self.learn(now, from, out);
        if let Some(member) = self.members.get_mut(&node) {
            member.alive(now);
            member.direct = Some(now);
        }
        match body {
            Body::Ping(heartbeat) => {
                let asked_by = heartbeat.asked_by;
                if let Some(member) = self.members.get_mut(&node)
                    && asked_by.is_none()
                {
                    member.arrivals.heartbeat(now);
                }
                self.heartbeat_from(now, node, heartbeat, out);
                if self.phase == Phase::Over {
                    return;
                }
                let answer = self.heartbeat(now, Some(node), asked_by);
                self.send(address, Body::Ack(answer), out);
            }
            Body::Ack(heartbeat) => {
                let asked_by = heartbeat.asked_by;
                // Who has heard the goodbye says so, as all are told what is said of them; other answers are to earlier pings.
                let knows = heartbeat.gossip.iter().take(UPDATES).any(|update| self.is_goodbye(&update.record));
                self.heartbeat_from(now, node, heartbeat, out);
                if self.phase == Phase::Over {
                    return;
                }
                self.vouch(node, asked_by, out);
                if let Phase::Leaving { waiting, .. } = &mut self.phase
                    && knows
                {
                    waiting.remove(&node);
                }
            }
            Body::Probe { target } => self.ping(now, target, Some(node), out),
            Body::Vouch { target, run } => {
                if let Some(member) = self.members.get_mut(&target)
                    && member.record.claim.run == run
                {
                    member.alive(now);
                }
            }
            Body::Refused(_) => {}
        }
    }

    fn is_me(&self, from: &Record) -> bool {
        (from.node, from.claim.run, &from.address) == (self.me.node, self.me.claim.run, &self.me.address)
    }

    /// Whether it says that this run has left.
    fn is_goodbye(&self, record: &Record) -> bool {
        (record.node, record.claim.run, record.claim.left) == (self.me.node, self.me.claim.run, true)
    }

    /// Why the sender is not talked to.
    fn objection(&self, message: &Message) -> Option<Reason> {
        let Message { cluster, versions, from, .. } = message;
        let (node, run) = (from.node, from.claim.run);
        if *cluster != self.cluster {
            return Some(Reason::Cluster { ours: self.cluster.0, theirs: cluster.0 });
        }
        if !self.options.versions.fit(*versions) {
            return Some(Reason::Version { ours: self.options.versions, theirs: *versions });
        }
        if from.address.0.len() > ADDRESS_BYTES {
            return Some(Reason::Address { bytes: from.address.0.len() });
        }
        if node == self.me.node {
            return Some(Reason::SameId { node, address: self.me.address.clone() });
        }
        let Some(known) = self.members.get(&node).map(|member| &member.record) else {
            return (self.members.len() >= MEMBERS).then_some(Reason::Full { most: MEMBERS });
        };
        if run < known.claim.run {
            Some(Reason::Superseded { node, run: known.claim.run })
        } else if run > known.claim.run {
            None
        } else if known.claim.left && !from.claim.left {
            Some(Reason::Left { node, run })
        } else if known.address != from.address {
            Some(Reason::SameId { node, address: known.address.clone() })
        } else {
            None
        }
    }

    fn refuse(&mut self, node: NodeId, mut address: Address, reason: Reason, out: &mut Vec<Effect>) {
        if matches!(reason, Reason::Address { .. }) {
            // Nobody can be told there; what is left of it is for the log.
            address.0 = address.0.chars().take(ADDRESS_BYTES / 4).collect();
        } else {
            self.send(address.clone(), Body::Refused(reason.clone()), out);
        }
        if remember(&mut self.refused, &address, &reason) {
            out.push(Effect::Refuse(node, address, reason));
        }
    }

    fn refused_by(&mut self, node: NodeId, address: Address, reason: Reason, is_ours: bool, out: &mut Vec<Effect>) {
        let me = (self.me.node, self.me.claim.run);
        // What is meant for an earlier run may come to this one, which listens at the same address.
        let ends = match reason {
            Reason::Superseded { node, run } if node != me.0 || run <= me.1 => return,
            Reason::Left { node, run } if (node, run) != me || self.me.claim.left => return,
            Reason::Superseded { .. } | Reason::Left { .. } => is_ours,
            _ => false,
        };
        if address.0.len() <= ADDRESS_BYTES && remember(&mut self.refused_by, &address, &reason) {
            out.push(Effect::RefusedBy(node, address, reason));
        }
        if ends {
            self.end(out);
        }
    }

    /// What a heartbeat carries.
    fn heartbeat_from(&mut self, now: Time, from: NodeId, heartbeat: Heartbeat, out: &mut Vec<Effect>) {
        let gossip = heartbeat.gossip.into_iter().take(UPDATES);
        for Update { record, round_trip } in gossip {
            if let (Some(sender), Some(round_trip)) = (self.members.get_mut(&from), round_trip)
                && (sender.round_trips.len() < MEMBERS || sender.round_trips.contains_key(&record.node))
            {
                sender.round_trips.insert(record.node, round_trip);
            }
            self.learn(now, record, out);
            if self.phase == Phase::Over {
                return;
            }
        }
        if let Some(sender) = self.members.get_mut(&from) {
            sender.uptime = heartbeat.uptime;
            sender.told = heartbeat.told;
        }
    }

    /// The answer to a ping for somebody else.
    fn vouch(&mut self, target: NodeId, asked_by: Option<NodeId>, out: &mut Vec<Effect>) {
        let run = self.members.get(&target).map(|member| member.record.claim.run);
        let asker = asked_by.and_then(|node| self.members.get(&node)).map(|member| member.record.address.clone());
        if let (Some(run), Some(asker)) = (run, asker) {
            self.send(asker, Body::Vouch { target, run }, out);
        }
    }

    // Claims.

    fn learn(&mut self, now: Time, record: Record, out: &mut Vec<Effect>) {
        let (node, claim) = (record.node, record.claim);
        if node == self.me.node {
            return self.accused(now, &record, out);
        }
        if record.address.0.len() > ADDRESS_BYTES {
            return;
        }
        let Some(member) = self.members.get_mut(&node) else {
            if self.members.len() < MEMBERS {
                self.admit(now, record, out);
            }
            return;
        };
        let known = member.record.claim;
        if claim.run == known.run {
            member.record.crashes = record.crashes.max(member.record.crashes);
        }
        if claim.run > known.run {
            let crashed = member.record.crashes.saturating_add(u32::from(!known.left));
            self.admit(now, Record { crashes: record.crashes.max(crashed), ..record }, out);
        } else if claim > known {
            let is_bad = matches!(claim.state(), State::Suspect | State::Down);
            if is_bad && member.is_heard(now, &self.options) {
                self.warn(now, record, out);
            } else {
                self.believe(now, node, claim, out);
            }
        }
    }

    /// A run that was not known: nothing that is known of an earlier one is true of it.
    fn admit(&mut self, now: Time, record: Record, out: &mut Vec<Effect>) {
        let mut member = Member::new(now, record, &self.options);
        member.sends = gossip::sends(self.members.len() + 1);
        out.push(Effect::Changed(member.run(), member.state()));
        self.members.insert(member.record.node, member);
    }

    /// Goes over to a greater claim about the same run.
    fn believe(&mut self, now: Time, node: NodeId, claim: Claim, out: &mut Vec<Effect>) {
        let sends = gossip::sends(self.members.len());
        let Some(member) = self.members.get_mut(&node) else { return };
        let (before, after) = (member.state(), claim.state());
        member.record.claim = claim;
        member.sends = sends;
        member.watch = Watch::of(after, now);
        if after == State::Alive {
            // To refute, it must have been alive a moment ago.
            member.last_sign = now;
        }
        if before != after {
            out.push(Effect::Changed(member.run(), after));
        }
    }

    /// Lets a node that is heard know what is said of it.
    fn warn(&mut self, now: Time, accused: Record, out: &mut Vec<Effect>) {
        let (node, probe) = (accused.node, self.options.probe());
        let Some(member) = self.members.get_mut(&node) else { return };
        if now < member.asked + probe {
            return;
        }
        member.asked = now;
        let address = member.record.address.clone();
        let mut heartbeat = self.heartbeat(now, Some(node), None);
        heartbeat.gossip.truncate(UPDATES - 1);
        heartbeat.gossip.push(Update { record: accused, round_trip: None });
        self.send(address, Body::Ping(heartbeat), out);
    }

    /// Something is said of this node.
    fn accused(&mut self, now: Time, record: &Record, out: &mut Vec<Effect>) {
        let Claim { run, left, refutation, seen } = record.claim;
        let mine = self.me.claim;
        if run < mine.run {
            let crashed = record.crashes.saturating_add(u32::from(!left));
            self.me.crashes = self.me.crashes.max(crashed);
            return;
        }
        self.me.crashes = self.me.crashes.max(record.crashes);
        if run > mine.run {
            self.end(out);
        } else if left && !mine.left {
            self.me.claim.left = true;
            out.push(Effect::Changed(Incarnation { node: self.me.node, epoch: run }, State::Left));
            self.end(out);
        } else if refutation > mine.refutation || refutation == mine.refutation && seen != Seen::Alive {
            self.me.claim.refutation = refutation.saturating_add(u32::from(seen != Seen::Alive));
            self.hurry(now);
        }
    }

    // Sending.

    fn heartbeat(&mut self, now: Time, to: Option<NodeId>, asked_by: Option<NodeId>) -> Heartbeat {
        let gossip = gossip::select(&mut self.members, to);
        Heartbeat { uptime: now.since(self.started), told: self.told, asked_by, gossip }
    }

    fn ping(&mut self, now: Time, to: NodeId, asked_by: Option<NodeId>, out: &mut Vec<Effect>) {
        let Some(address) = self.members.get(&to).filter(|member| member.state() != State::Left) else { return };
        let address = address.record.address.clone();
        let heartbeat = self.heartbeat(now, Some(to), asked_by);
        self.send(address, Body::Ping(heartbeat), out);
    }

    fn ping_seed(&mut self, now: Time, seed: Address, out: &mut Vec<Effect>) {
        let heartbeat = self.heartbeat(now, None, None);
        self.send(seed, Body::Ping(heartbeat), out);
    }

    fn send(&self, to: Address, body: Body, out: &mut Vec<Effect>) {
        let message = Message { cluster: self.cluster, versions: self.options.versions, from: self.me.clone(), body };
        out.push(Effect::Send(to, message));
    }
}

/// Whether this is news; it is remembered then.
fn remember(reported: &mut BTreeMap<Address, Reason>, address: &Address, reason: &Reason) -> bool {
    if reported.get(address) == Some(reason) {
        return false;
    }
    if reported.len() >= SEEDS {
        reported.clear();
    }
    reported.insert(address.clone(), reason.clone());
    true
}
