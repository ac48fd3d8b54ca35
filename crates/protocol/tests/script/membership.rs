//! Scripts about [`Membership`]: one node, and what it hears.
//!
//! Nodes listen at `n1`, `n2` and so on. `2/1.0 ping: 3 suspect 1.0` is a message of node 2, in its run 1 with no refutation, which says that node 3 is suspected.
//! Words before that change the message: `cluster b`, `versions 3-4`, `at n9` (the sender's address), `left`. `+5s` plays all alarms up to then; in `pause 5s`
//! the node sleeps through them.

use super::{CLUSTER, incarnation, parse, pause};
use atoll_model::{ClusterId, NodeId};
use atoll_protocol::Time;
use atoll_protocol::membership::{
    Address, Body, Claim, Effect, Heartbeat, Input, Membership, Message, Options, Record, Seen, Told, Update, Versions,
    View,
};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    machine: Option<Membership>,
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "begin" {
            let me = incarnation(rest)?;
            let options = Options::default();
            self.machine = Some(Membership::begin(self.now, options, CLUSTER, me, address(me.node), 0));
            return Ok(vec![]);
        }
        if let Some(time) = pause(line) {
            return self.play(self.now + time);
        }
        let machine = self.machine.as_mut().ok_or("begin first")?;
        let node = || parse(Some(rest)).map(NodeId);
        let input = match verb {
            "view" => return Ok(view(machine, self.now)),
            "pause" => {
                self.now = self.now + pause(&format!("+{rest}")).ok_or("how long?")?;
                Input::Tick
            }
            "join" => Input::Join(rest.split(' ').map(|word| Address(word.into())).collect()),
            "leave" => Input::Leave,
            "remove" => Input::Remove(node()?),
            "absent" => Input::Absent(node()?),
            "took" => {
                let (node, micros) = rest.split_once(' ').ok_or("node and microseconds")?;
                Input::RoundTrip(NodeId(parse(Some(node))?), Duration::from_micros(parse(Some(micros))?))
            }
            "tell" => Input::Tell(Told { lag: Duration::from_millis(parse(Some(rest))?), ..Told::default() }),
            _ => Input::Received(message(line)?),
        };
        Ok(machine.step(self.now, input).iter().map(Effect::to_string).collect())
    }

    fn wake_at(&self) -> Option<Time> {
        self.machine.as_ref().and_then(Membership::wake_at)
    }
}

impl Subject {
    fn play(&mut self, until: Time) -> Result<Vec<String>, String> {
        let machine = self.machine.as_mut().ok_or("begin first")?;
        let mut out = vec![];
        while let Some(alarm) = machine.wake_at().filter(|alarm| *alarm <= until) {
            self.now = alarm.max(self.now);
            out.extend(machine.step(self.now, Input::Tick).iter().map(|effect| format!("{} {effect}", self.now)));
        }
        self.now = until;
        Ok(out)
    }
}

fn view(machine: &Membership, now: Time) -> Vec<String> {
    let line = |node: View| {
        let heard = if node.heard { "heard" } else { "not heard" };
        let trip = node.round_trip.map_or("unknown".into(), |trip| format!("{trip:?}"));
        format!(
            "{} is {} in run {}, {heard}, silent for {:?} (phi {:.1}), {} crashes, up for {:?}, lag {:?}, round trip {trip}",
            node.node, node.state, node.run, node.silent, node.phi, node.crashes, node.uptime, node.told.lag
        )
    };
    machine.nodes(now).map(line).collect()
}

fn address(node: NodeId) -> Address {
    Address(format!("n{node}"))
}

fn message(line: &str) -> Result<Message, String> {
    let (head, said) = line.split_once(": ").unwrap_or((line, ""));
    let mut words = head.split(' ');
    let (mut cluster, mut versions, mut at, mut left) = (CLUSTER, Versions { newest: 1, oldest: 1 }, None, false);
    let sender = loop {
        match words.next().ok_or("no such input")? {
            "cluster" => {
                let word = words.next().ok_or("which cluster?")?;
                cluster = ClusterId(u64::from_str_radix(word, 16).map_err(|e| e.to_string())?);
            }
            "versions" => {
                let (oldest, newest) = words.next().and_then(|word| word.split_once('-')).ok_or("oldest-newest")?;
                versions = Versions { newest: parse(Some(newest))?, oldest: parse(Some(oldest))? };
            }
            "at" => at = words.next().map(|word| Address(word.into())),
            "left" => left = true,
            sender => break sender,
        }
    };
    let (node, run) = sender.split_once('/').ok_or("no such input")?;
    let node = NodeId(parse(Some(node))?);
    let claim = Claim { left, ..claim("alive", run)? };
    let from = Record { node, address: at.unwrap_or_else(|| address(node)), claim, crashes: 0 };
    let what = words.next();
    let mut number = || parse::<u16>(words.next().filter(|word| *word != "for").or_else(|| words.next()));
    let body = match what {
        Some("ping" | "ack") => {
            let asked_by = if head.contains(" for ") { Some(NodeId(number()?)) } else { None };
            let gossip = said.split(", ").filter(|word| !word.is_empty()).map(update).collect::<Result<_, _>>()?;
            let heartbeat = Heartbeat { uptime: Duration::from_secs(60), told: Told::default(), asked_by, gossip };
            if what == Some("ping") { Body::Ping(heartbeat) } else { Body::Ack(heartbeat) }
        }
        Some("probe") => Body::Probe { target: NodeId(number()?) },
        Some("vouch") => Body::Vouch { target: NodeId(number()?), run: number()?.into() },
        Some("refused") => Body::Refused(serde_json::from_str(said).map_err(|e| e.to_string())?),
        _ => return Err("no such message".into()),
    };
    Ok(Message { cluster, versions, from, body })
}

/// `3 suspect 1.0`
fn update(text: &str) -> Result<Update, String> {
    let [node, state, run] = text.split(' ').collect::<Vec<_>>()[..] else { return Err("node state run".into()) };
    let node = NodeId(parse(Some(node))?);
    let record = Record { node, address: address(node), claim: claim(state, run)?, crashes: 0 };
    Ok(Update { record, round_trip: None })
}

/// `suspect` and `1.0`: run and refutation.
fn claim(state: &str, run: &str) -> Result<Claim, String> {
    let (run, refutation) = run.split_once('.').ok_or("run.refutation")?;
    let (run, refutation) = (parse(Some(run))?, parse(Some(refutation))?);
    let seen = match state {
        "suspect" => Seen::Suspect,
        "down" => Seen::Down,
        "alive" | "left" => Seen::Alive,
        _ => return Err(format!("{state}: no such state")),
    };
    Ok(Claim { run, left: state == "left", refutation, seen })
}
