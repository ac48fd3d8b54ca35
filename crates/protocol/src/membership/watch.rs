//! What follows from time, and from silence.

use super::member::{Member, Watch};
use super::message::{Address, Body, Claim, Seen, State};
use super::{Effect, Membership, Phase};
use crate::time::Time;
use atoll_model::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

impl Membership {
    /// When [`super::Input::Tick`] is due. To be late by more than a fifth of the interval counts as having been paused.
    pub fn wake_at(&self) -> Option<Time> {
        match &self.phase {
            Phase::Over => None,
            Phase::Leaving { again, .. } => Some(*again),
            Phase::Up => {
                let members = self.members.values();
                let due = members.flat_map(|m| [m.due(&self.options), m.ask_at(&self.options)]).flatten().min();
                Some(due.map_or(self.next_round, |due| due.min(self.next_round)))
            }
        }
    }

    /// Whether this node has been awake. If not, nothing follows from what it did not hear.
    pub(super) fn awake(&mut self, now: Time, out: &mut Vec<Effect>) -> Time {
        let now = now.max(self.now);
        self.now = now;
        let late = self.wake_at().map_or(Duration::ZERO, |due| now.since(due));
        if late > self.options.probe() {
            out.push(Effect::Paused(late));
            for member in self.members.values_mut() {
                member.last_sign = now;
                member.asked = now;
                member.arrivals.interrupt();
                member.watch = Watch::of(member.state(), now);
            }
        }
        now
    }

    pub(super) fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Over => {}
            Phase::Leaving { waiting, goodbyes, again } => {
                if waiting.is_empty() || *goodbyes == 0 && *again <= now {
                    self.end(out);
                } else if *again <= now {
                    self.say_goodbye(now, out);
                }
            }
            Phase::Up => {
                let nodes: Vec<NodeId> = self.members.keys().copied().collect();
                nodes.into_iter().for_each(|node| self.look_at(now, node, out));
                if self.next_round <= now {
                    self.last_round = now;
                    self.next_round = now + self.options.interval();
                    self.round(now, out);
                }
            }
        }
    }

    fn say_goodbye(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Leaving { waiting, goodbyes, again } = &mut self.phase else { return };
        *goodbyes -= 1;
        *again = now + self.options.probe();
        for node in waiting.clone() {
            self.ping(now, node, None, out);
        }
    }

    /// A heartbeat to everybody.
    pub(super) fn round(&mut self, now: Time, out: &mut Vec<Effect>) {
        let nodes: Vec<NodeId> = self.members.keys().copied().collect();
        for node in nodes {
            self.ping(now, node, None, out);
        }
        // At the address of a node that has left another run of it may listen, which nobody has told of this cluster.
        let known: BTreeSet<&Address> = self
            .members
            .values()
            .filter(|member| member.state() != State::Left)
            .map(|member| &member.record.address)
            .collect();
        let unknown: Vec<Address> = self.seeds.iter().filter(|seed| !known.contains(seed)).cloned().collect();
        for seed in unknown {
            self.ping_seed(now, seed, out);
        }
    }

    fn look_at(&mut self, now: Time, node: NodeId, out: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.due(&self.options).is_some_and(|due| due <= now) {
            let claim = member.record.claim;
            match (member.state(), member.watch) {
                (State::Alive, Watch::Doubted { absent, .. }) => {
                    let seen = if absent { Seen::Down } else { Seen::Suspect };
                    self.find(now, node, claim.seen(seen), out);
                }
                (State::Alive, _) => self.doubt(now, node, false, out),
                _ => self.find(now, node, claim.seen(Seen::Down), out),
            }
        } else if member.ask_at(&self.options).is_some_and(|due| due <= now) {
            self.ask(now, node, out);
        }
    }

    /// There is something that all should hear soon. Rounds out of turn are bounded, whatever others say and however often.
    pub(super) fn hurry(&mut self, now: Time) {
        self.next_round = self.next_round.min(now.max(self.last_round + self.options.probe()));
    }

    /// Believes what this node has found out itself.
    fn find(&mut self, now: Time, node: NodeId, claim: Claim, out: &mut Vec<Effect>) {
        self.believe(now, node, claim, out);
        self.hurry(now);
        if let Some(member) = self.members.get_mut(&node) {
            member.asked = now;
        }
    }

    fn doubt(&mut self, now: Time, node: NodeId, absent: bool, out: &mut Vec<Effect>) {
        if let Some(member) = self.members.get_mut(&node) {
            member.watch = Watch::Doubted { since: now, absent };
            self.ask(now, node, out);
        }
    }

    /// Its host says that nobody listens. That is not believed without asking others, as something may stand between.
    pub(super) fn absent(&mut self, now: Time, node: NodeId, out: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(&node) else { return };
        match member.watch {
            _ if matches!(member.state(), State::Down | State::Left) => {}
            Watch::Calm => self.doubt(now, node, true, out),
            Watch::Doubted { since, .. } => member.watch = Watch::Doubted { since, absent: true },
            Watch::Suspected { .. } => {}
        }
    }

    /// Asks the node itself whether it lives, and others to ask it.
    fn ask(&mut self, now: Time, node: NodeId, out: &mut Vec<Effect>) {
        if let Some(member) = self.members.get_mut(&node) {
            member.asked = now;
        }
        self.ping(now, node, None, out);
        let can_help = |member: &&Member| member.state() == State::Alive && member.watch == Watch::Calm;
        let all: Vec<&Member> = self.members.values().filter(can_help).collect();
        let first = if all.is_empty() { 0 } else { self.turn % all.len() };
        let helpers = all.iter().cycle().skip(first).take(self.options.helpers.min(all.len()));
        let helpers: Vec<Address> = helpers.map(|member| member.record.address.clone()).collect();
        self.turn = self.turn.wrapping_add(helpers.len());
        for helper in helpers {
            self.send(helper, Body::Probe { target: node }, out);
        }
    }
}
