//! The network between nodes: what becomes of a message.
//!
//! Messages overtake each other as their delays have it. A link can be cut in one direction alone. A node's messages to itself always
//! arrive, at once.

use crate::moment::micros;
use crate::{Moment, Rng};
use atoll_model::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What links do to messages. Chances are per mille.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The least time that a message takes.
    pub fastest: Duration,
    /// The most, usually.
    pub slowest: Duration,
    /// The chance that it is lost.
    pub loss: usize,
    /// The chance that it arrives twice.
    pub copies: usize,
    /// The chance that it takes much longer.
    pub strays: usize,
    /// How much longer, at most.
    pub astray: Duration,
}

impl Weather {
    /// A local network in which nothing goes wrong.
    pub fn fair() -> Weather {
        Weather {
            fastest: Duration::from_micros(450),
            slowest: Duration::from_micros(550),
            loss: 0,
            copies: 0,
            strays: 0,
            astray: Duration::ZERO,
        }
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// By link: until when it is cut.
    cuts: BTreeMap<(NodeId, NodeId), Moment>,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Network {
        Network { weather, cuts: BTreeMap::new() }
    }

    /// After how long the copies of a message arrive. None: it is lost.
    pub(crate) fn delays(&self, from: NodeId, to: NodeId, rng: &mut Rng) -> Vec<Duration> {
        if from == to {
            return vec![Duration::ZERO];
        }
        if self.is_cut(from, to) || rng.chance(self.weather.loss) {
            return vec![];
        }
        let copies = if rng.chance(self.weather.copies) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let usual = between(self.weather.fastest, self.weather.slowest, rng);
        if rng.chance(self.weather.strays) { usual + between(Duration::ZERO, self.weather.astray, rng) } else { usual }
    }

    /// Of cuts that overlap the last end counts.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId, until: Moment) {
        let cut = self.cuts.entry((from, to)).or_default();
        *cut = until.max(*cut);
    }

    /// One of its cuts has ended.
    pub(crate) fn mend(&mut self, from: NodeId, to: NodeId, now: Moment) {
        if self.cuts.get(&(from, to)).is_some_and(|until| *until <= now) {
            self.cuts.remove(&(from, to));
        }
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        from != to && self.cuts.contains_key(&(from, to))
    }

    /// All is well from now on.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.weather = Weather { loss: 0, copies: 0, strays: 0, ..self.weather };
    }
}

/// A time between two, both included.
pub(crate) fn between(least: Duration, most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.between(micros(least), micros(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: (NodeId, NodeId) = (NodeId(1), NodeId(2));

    #[test]
    fn of_cuts_that_overlap_the_last_end_counts() {
        for ends in [[100, 300], [300, 100]] {
            let mut network = Network::new(Weather::fair());
            ends.into_iter().for_each(|end| network.cut(LINK.0, LINK.1, Moment(end)));
            assert!(network.is_cut(LINK.0, LINK.1) && !network.is_cut(LINK.1, LINK.0));
            network.mend(LINK.0, LINK.1, Moment(100));
            assert!(network.is_cut(LINK.0, LINK.1));
            network.mend(LINK.0, LINK.1, Moment(300));
            assert!(!network.is_cut(LINK.0, LINK.1));
        }
    }
}
