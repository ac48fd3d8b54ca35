//! What nodes say to each other about nodes, and which of two claims holds.
//!
//! Invariant: [`Claim`]s are totally ordered and a node only ever goes over to a greater one, so the order, number and repetition of
//! messages do not matter: nodes that have heard the same claims believe the same.

use atoll_model::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Updates in one message, at most.
pub const UPDATES: usize = 16;

/// Bytes of an address, at most: a name of the domain name system and a port.
pub const ADDRESS_BYTES: usize = 260;

/// Where a node listens, as `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub String);

/// What a node is believed to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is heard, or others hear it.
    Alive,
    /// It is not; if it lives it will say so.
    Suspect,
    /// It did not say so in time.
    Down,
    /// It has said goodbye, or was removed. This run of it never comes back.
    Left,
}

/// One claim about a node. The greater one holds: of a later run; else that this run has left; else the one with the
/// later refutation; else the worse one (`run` and `refutation` together are SWIM's incarnation number: Das, Gupta, Motivala, *SWIM*, DSN 2002,
/// section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Claim {
    // The derived order compares the fields in this order.
    /// Which start of the node, counted durably by itself.
    pub run: u32,
    /// That run is over for good.
    pub left: bool,
    /// How often this run has contradicted a claim; only itself counts it up.
    pub refutation: u32,
    /// What somebody takes it for.
    pub seen: Seen,
}

/// What one node takes another for, as far as it can tell by listening.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    // The derived order: the worse is the greater.
    /// See [`State::Alive`].
    Alive,
    /// See [`State::Suspect`].
    Suspect,
    /// See [`State::Down`].
    Down,
}

impl Claim {
    /// What a node says of itself.
    pub fn alive(run: u32) -> Claim {
        Claim { run, left: false, refutation: 0, seen: Seen::Alive }
    }

    /// What it comes to.
    pub fn state(&self) -> State {
        match self.seen {
            _ if self.left => State::Left,
            Seen::Alive => State::Alive,
            Seen::Suspect => State::Suspect,
            Seen::Down => State::Down,
        }
    }

    /// The same run, seen so.
    pub(super) fn seen(self, seen: Seen) -> Claim {
        Claim { seen, ..self }
    }
}

/// Who a node is, and what is claimed of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The node.
    pub node: NodeId,
    /// Where it listens.
    pub address: Address,
    /// What is claimed.
    pub claim: Claim,
    /// How many of its runs ended without leaving.
    pub crashes: u32,
}

/// A record as part of a message of another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Update {
    /// The record.
    pub record: Record,
    /// The round trip between the sender and that node, smoothed, in microseconds.
    pub round_trip: Option<u32>,
}

/// What a node measures of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// How far behind what it has to apply is.
    pub lag: Duration,
    /// The part of its capacity that is in use, in thousandths.
    pub load: u16,
    /// What it takes to apply one change durably.
    pub apply: Duration,
}

/// The versions of messages that a node speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Versions {
    /// The one that it sends.
    pub newest: u16,
    /// The oldest that it understands.
    pub oldest: u16,
}

impl Versions {
    /// Whether each understands the other.
    pub fn fit(self, other: Versions) -> bool {
        self.newest >= other.oldest && other.newest >= self.oldest
    }
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender's versions.
    pub versions: Versions,
    /// The sender, as it sees itself.
    pub from: Record,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A heartbeat, to be answered with `Ack`.
    Ping(Heartbeat),
    /// The answer.
    Ack(Heartbeat),
    /// "I do not hear it: ping it for me."
    Probe {
        /// Whom.
        target: NodeId,
    },
    /// "It has answered me."
    Vouch {
        /// Who.
        target: NodeId,
        /// Which run of it.
        run: u32,
    },
    /// "I do not talk to you."
    Refused(Reason),
}

/// What pings and their answers carry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// For how long the sender has been up.
    pub uptime: Duration,
    /// What it measures of itself.
    pub told: Told,
    /// Who wants to know whether this is answered, if not the sender.
    pub asked_by: Option<NodeId>,
    /// At most [`UPDATES`].
    pub gossip: Vec<Update>,
}

/// Why a node does not talk to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// They belong to different clusters.
    #[error("cluster {theirs:016x} is not cluster {ours:016x}: the address belongs to another cluster")]
    Cluster {
        /// Of who refuses.
        ours: u64,
        /// Of who is refused.
        theirs: u64,
    },
    /// Neither understands the other.
    #[error(
        "messages of version {} are not understood by a node that speaks {} to {}: upgrade one version at a time",
        theirs.newest, ours.oldest, ours.newest
    )]
    Version {
        /// Of who refuses.
        ours: Versions,
        /// Of who is refused.
        theirs: Versions,
    },
    /// Another node has this id.
    #[error("node id {node} belongs to the node at {}: give each node an id of its own", address.0)]
    SameId {
        /// The id.
        node: NodeId,
        /// Who has it.
        address: Address,
    },
    /// A later run of the node is known.
    #[error("run {run} of node {node} is known: this is an older one, or its data directory was put back from a copy")]
    Superseded {
        /// The node.
        node: NodeId,
        /// Its later run.
        run: u32,
    },
    /// This run has left, or was removed.
    #[error("run {run} of node {node} has left the cluster: restart it to join again")]
    Left {
        /// The node.
        node: NodeId,
        /// The run.
        run: u32,
    },
    /// There is no room.
    #[error("the cluster has as many nodes as it can ({most}), those that have left included")]
    Full {
        /// The bound.
        most: usize,
    },
    /// It does not keep to the bounds.
    #[error("an address of {bytes} bytes; at most {ADDRESS_BYTES} are taken")]
    Address {
        /// How long it is.
        bytes: usize,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Alive => "alive",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Left => "left",
        })
    }
}

impl fmt::Display for Claim {
    /// `alive 3.1`: what, of which run, after how many refutations.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.state(), self.run, self.refutation)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Ping(heartbeat) => write!(f, "ping, {}{heartbeat}", self.from.claim),
            Body::Ack(heartbeat) => write!(f, "ack, {}{heartbeat}", self.from.claim),
            Body::Probe { target } => write!(f, "probe {target}"),
            Body::Vouch { target, run } => write!(f, "vouch for {target}, run {run}"),
            Body::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

impl fmt::Display for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = self.asked_by {
            write!(f, ", for {node}")?;
        }
        for (at, Update { record, .. }) in self.gossip.iter().enumerate() {
            let separator = if at == 0 { ": " } else { ", " };
            write!(f, "{separator}{} is {}", record.node, record.claim)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_claim_holds() {
        let claim = |run, left, refutation, seen| Claim { run, left, refutation, seen };
        let rising = [
            claim(1, false, 0, Seen::Alive),
            claim(1, false, 0, Seen::Suspect),
            claim(1, false, 0, Seen::Down),
            claim(1, false, 1, Seen::Alive),
            claim(1, false, 1, Seen::Suspect),
            claim(1, true, 0, Seen::Alive),
            claim(1, true, 9, Seen::Down),
            claim(2, false, 0, Seen::Alive),
        ];
        assert!(rising.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn versions_fit_if_each_understands_the_other() {
        let versions = |oldest, newest| Versions { newest, oldest };
        assert!(versions(1, 2).fit(versions(2, 3)));
        assert!(versions(2, 3).fit(versions(1, 2)));
        assert!(!versions(1, 2).fit(versions(3, 4)));
        assert!(!versions(3, 4).fit(versions(1, 2)));
    }
}
