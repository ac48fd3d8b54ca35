//! Who should be the holder: three policies, as functions of facts.
//!
//! | policy | nominates, of those that may be | the sitting holder |
//! |---|---|---|
//! | `raft` | whose time-out, drawn at random, is the shortest (Ongaro, Ousterhout, *In Search of an Understandable Consensus Algorithm*, 2014, section 5.2) | stays |
//! | `bully` | the highest id (Garcia-Molina, *Elections in a Distributed Computing System*, 1982) | yields to a higher id |
//! | `seer` | the lowest predicted mean commit delay (after *SEER: Performance-Aware Leader Election in Single-Leader Consensus*, arXiv 2104.01355) | stays unless another is better by a margin |
//!
//! The predicted delay, with q for the quorum: the (q−1)-th fastest of the others has received, applied and answered, or the candidate itself has
//! applied, whichever is later; applying takes a node longer the busier it is, as in a queue: apply / (1 − load). Added to it is what its
//! crashes cost: they came at the rate crashes / (uptime + 1 h), each stops commits for [`OUTAGE`], so that a commit at a random moment
//! waits rate · outage² / 2 on average. All is worked out from means, so it ranks candidates and does not forecast.
//!
//! Invariant: whoever is nominated is alive and has, of all that are alive, the latest position in the log; and nobody is nominated unless a
//! quorum is alive.

use crate::membership::{State, View};
use atoll_model::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

/// Which of the three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Any, at random.
    #[default]
    Raft,
    /// The highest id.
    Bully,
    /// The fastest.
    Seer,
}

/// For how long a crash of the holder is taken to stop commits.
pub const OUTAGE: Duration = Duration::from_secs(3);

/// Thousandths of its capacity that a node is taken to use at most: a queue at its limit would be endless.
const BUSIEST: u16 = 950;

/// How far a replica is in the log: positions are compared by epoch, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Of its last entry.
    pub epoch: u64,
    /// Of its last entry.
    pub index: u64,
}

/// What is known of a candidate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// As the failure detector says.
    pub state: State,
    /// Its position in the log.
    pub position: Position,
    /// For how long it has been up.
    pub uptime: Duration,
    /// How many of its runs ended without leaving.
    pub crashes: u32,
    /// Its round trips to others.
    pub round_trips: BTreeMap<NodeId, Duration>,
    /// What it takes to apply one change durably, when idle.
    pub apply: Duration,
    /// The part of its capacity in use, in thousandths.
    pub load: u16,
}

impl Candidate {
    /// As the failure detector knows the node. Its position is that of the log that is to be led.
    pub fn of(view: View, position: Position) -> Candidate {
        let View { node, state, uptime, told, crashes, round_trips, .. } = view;
        Candidate { node, state, position, uptime, crashes, round_trips, apply: told.apply, load: told.load }
    }
}

/// A nomination to be made.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// By which policy.
    pub policy: Policy,
    /// Of whom.
    pub candidates: &'a [Candidate],
    /// The holder, if it is not being replaced because it is lost.
    pub sitting: Option<NodeId>,
    /// Those that were nominated for this vacancy and did not take it.
    pub without: &'a BTreeSet<NodeId>,
    /// How many must have an entry for it to be committed.
    pub quorum: usize,
    /// For `raft`: any number, another each time and on each node.
    pub random: u64,
    /// For `raft`: the range of time-outs.
    pub timeouts: (Duration, Duration),
    /// For `seer`: by how many hundredths another must be better than the sitting holder.
    pub margin: u32,
}

/// Who is nominated, and how all scored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Nomination {
    /// By which policy.
    pub policy: Policy,
    /// Who, or why nobody.
    pub outcome: Outcome,
    /// Every candidate.
    pub candidates: Vec<Scored>,
}

/// The end of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The best of those that may be.
    Nominated(NodeId),
    /// The sitting holder is good enough.
    Stays(NodeId),
    /// No quorum is alive.
    TooFew {
        /// How many are.
        alive: usize,
        /// How many must be.
        quorum: usize,
    },
    /// Nobody is left who may be.
    Nobody,
}

/// How a candidate did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Scored {
    /// The node.
    pub node: NodeId,
    /// Its score, or why it has none.
    pub score: Score,
}

/// What a policy says of a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `raft`: its time-out; the shortest wins.
    Timeout(Duration),
    /// `bully`: its id; the highest wins.
    Id(NodeId),
    /// `seer`: the lowest sum wins.
    Delay {
        /// Until a quorum has an entry.
        commit: Duration,
        /// What its crashes add.
        crashes: Duration,
    },
    /// It is suspected, down, or has left.
    NotAlive(State),
    /// Others alive have entries that it has not.
    OutOfDate {
        /// The latest position.
        latest: Position,
    },
    /// It was nominated and did not take it.
    PassedOver,
}

impl Nomination {
    /// Makes it.
    pub fn of(question: &Question<'_>) -> Nomination {
        let candidates: Vec<Scored> = question
            .candidates
            .iter()
            .map(|candidate| Scored { node: candidate.node, score: question.score(candidate) })
            .collect();
        let alive = question.living().count();
        let outcome = if alive < question.quorum {
            Outcome::TooFew { alive, quorum: question.quorum }
        } else {
            question.choose(&candidates)
        };
        Nomination { policy: question.policy, outcome, candidates }
    }

    /// Who is to be the holder.
    pub fn nominee(&self) -> Option<NodeId> {
        match self.outcome {
            Outcome::Nominated(node) | Outcome::Stays(node) => Some(node),
            Outcome::TooFew { .. } | Outcome::Nobody => None,
        }
    }

    /// After which time this node is to stand, if at all. By `raft` every node that may be stands at the end of its own time-out, each
    /// having drawn for itself.
    pub fn stands_after(&self, me: NodeId) -> Option<Duration> {
        match (self.policy, self.outcome) {
            (_, Outcome::TooFew { .. } | Outcome::Nobody) => None,
            (Policy::Raft, Outcome::Nominated(_)) => {
                self.candidates.iter().find_map(|candidate| match candidate.score {
                    Score::Timeout(timeout) if candidate.node == me => Some(timeout),
                    _ => None,
                })
            }
            (Policy::Raft | Policy::Bully | Policy::Seer, Outcome::Nominated(node) | Outcome::Stays(node)) => {
                (node == me).then_some(Duration::ZERO)
            }
        }
    }
}

impl Score {
    /// The lowest of these wins; those without may not be.
    fn rank(&self) -> Option<i128> {
        match self {
            Score::Timeout(timeout) => Some(timeout.as_micros() as i128),
            Score::Id(node) => Some(-i128::from(node.0)),
            Score::Delay { commit, crashes } => Some(commit.saturating_add(*crashes).as_micros() as i128),
            Score::NotAlive(_) | Score::OutOfDate { .. } | Score::PassedOver => None,
        }
    }
}

impl Question<'_> {
    fn living(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| candidate.state == State::Alive)
    }

    fn score(&self, candidate: &Candidate) -> Score {
        let latest = self.living().map(|candidate| candidate.position).max().unwrap_or_default();
        if candidate.state != State::Alive {
            return Score::NotAlive(candidate.state);
        }
        if candidate.position < latest {
            return Score::OutOfDate { latest };
        }
        if self.without.contains(&candidate.node) {
            return Score::PassedOver;
        }
        match self.policy {
            Policy::Raft => Score::Timeout(self.timeout(candidate.node)),
            Policy::Bully => Score::Id(candidate.node),
            Policy::Seer => Score::Delay { commit: self.commit_delay(candidate), crashes: crash_delay(candidate) },
        }
    }

    fn choose(&self, candidates: &[Scored]) -> Outcome {
        let ranked = candidates.iter().filter_map(|scored| Some((scored.score.rank()?, scored.node)));
        let Some((best, node)) = ranked.clone().min() else { return Outcome::Nobody };
        let sitting = self.sitting.and_then(|sitting| ranked.clone().find(|(_, node)| *node == sitting));
        let Some((rank, sitting)) = sitting else { return Outcome::Nominated(node) };
        let stays = match self.policy {
            Policy::Raft => true,
            Policy::Bully => sitting == node,
            Policy::Seer => rank * 100 <= best * (100 + i128::from(self.margin)),
        };
        if stays { Outcome::Stays(sitting) } else { Outcome::Nominated(node) }
    }

    fn timeout(&self, node: NodeId) -> Duration {
        let (least, most) = self.timeouts;
        let range = most.saturating_sub(least).as_micros().max(1);
        let drawn = u128::from(mix(self.random ^ mix(u64::from(node.0)))) % range;
        least + Duration::from_micros(drawn as u64)
    }

    fn commit_delay(&self, candidate: &Candidate) -> Duration {
        let others = self.living().filter(|other| other.node != candidate.node);
        let mut answers: Vec<Duration> =
            others.map(|other| self.round_trip(candidate, other).saturating_add(busy_apply(other))).collect();
        answers.sort_unstable();
        // The candidate itself is one of the quorum.
        let needed = self.quorum.saturating_sub(1);
        let answered = needed.checked_sub(1).and_then(|last| answers.get(last)).copied().unwrap_or_default();
        answered.max(busy_apply(candidate))
    }

    /// As either of them measured it. Who was measured by nobody is taken for the farthest of all.
    fn round_trip(&self, a: &Candidate, b: &Candidate) -> Duration {
        let measured = a.round_trips.get(&b.node).or_else(|| b.round_trips.get(&a.node));
        let all = || self.candidates.iter().flat_map(|candidate| candidate.round_trips.values());
        measured.copied().unwrap_or_else(|| all().max().copied().unwrap_or_default())
    }
}

/// What a node tells of itself has no bound, and must not end an election at those that hear it.
fn busy_apply(candidate: &Candidate) -> Duration {
    candidate.apply.saturating_mul(1000) / u32::from(1000 - candidate.load.min(BUSIEST))
}

fn crash_delay(candidate: &Candidate) -> Duration {
    let seconds = candidate.uptime.as_secs_f64() + 3600.0;
    let waits = OUTAGE.as_secs_f64().powi(2) / 2.0;
    Duration::from_micros((f64::from(candidate.crashes) / seconds * waits * 1e6) as u64)
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Not a policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no election policy is called \"{0}\": there are raft, bully and seer")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Policy, UnknownPolicy> {
        match name {
            "raft" => Ok(Policy::Raft),
            "bully" => Ok(Policy::Bully),
            "seer" => Ok(Policy::Seer),
            _ => Err(UnknownPolicy(name.into())),
        }
    }
}
