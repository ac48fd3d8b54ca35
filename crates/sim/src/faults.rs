//! What goes wrong in a world, how often and for how long.

use crate::Rng;
use crate::moment::micros;
use crate::network::{Weather, between};
use std::time::Duration;

/// A kind of trouble that comes again and again, at one node or link at a time.
#[derive(Clone, Copy, Debug)]
pub struct Often {
    /// The mean time between two.
    pub every: Duration,
    /// The least time that it lasts.
    pub least: Duration,
    /// The most.
    pub most: Duration,
}

impl Often {
    /// How long until the next one: never the same twice, and half of `every` as likely as three halves.
    pub(crate) fn pause(&self, rng: &mut Rng) -> Duration {
        Duration::from_micros(rng.between(0, micros(self.every).saturating_mul(2)))
    }

    pub(crate) fn length(&self, rng: &mut Rng) -> Duration {
        between(self.least, self.most, rng)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// What the network does to messages.
    pub weather: Weather,
    /// Nodes crash, lose what was not synced, and start again.
    pub crashes: Option<Often>,
    /// Processes stand still, and go on as if nothing had been.
    pub pauses: Option<Often>,
    /// Some links are cut: a node's links in one direction or both, or one.
    pub cuts: Option<Often>,
    /// The least time that a sync takes.
    pub sync_fastest: Duration,
    /// The most.
    pub sync_slowest: Duration,
    /// The chance, per mille, that a sync fails.
    pub sync_failures: usize,
    /// Clocks run apart by so many parts in a million.
    pub drift: u64,
}

impl Faults {
    /// None: a local network, disks that sync within a few milliseconds, good clocks.
    pub fn none() -> Faults {
        Faults {
            weather: Weather::fair(),
            crashes: None,
            pauses: None,
            cuts: None,
            sync_fastest: Duration::from_micros(500),
            sync_slowest: Duration::from_millis(3),
            sync_failures: 0,
            drift: 100,
        }
    }

    /// Some or all of everything, drawn anew for every run: with everything at once, all the time, little else would happen.
    pub fn drawn(rng: &mut Rng) -> Faults {
        let some = |most: usize, rng: &mut Rng| if rng.chance(500) { rng.below(most + 1) } else { 0 };
        let often = |rng: &mut Rng| {
            rng.chance(700).then(|| Often {
                // As often in tens of milliseconds as in hundreds.
                every: Duration::from_millis(20 << rng.below(6)),
                least: Duration::from_millis(1),
                most: Duration::from_millis(rng.between(5, 600)),
            })
        };
        Faults {
            weather: Weather {
                fastest: Duration::from_micros(100),
                slowest: Duration::from_micros(rng.between(200, 5000)),
                loss: some(150, rng),
                copies: some(150, rng),
                strays: some(100, rng),
                astray: Duration::from_millis(rng.between(1, 1000)),
            },
            crashes: often(rng),
            pauses: often(rng),
            cuts: often(rng),
            sync_fastest: Duration::from_micros(100),
            sync_slowest: Duration::from_millis(rng.between(1, 50)),
            sync_failures: some(100, rng),
            drift: some(200_000, rng) as u64,
        }
    }

    /// What is left of them when all is well again.
    pub(crate) fn healed(self) -> Faults {
        Faults { crashes: None, pauses: None, cuts: None, sync_failures: 0, ..self }
    }
}
