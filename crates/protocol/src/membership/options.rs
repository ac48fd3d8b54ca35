//! How often nodes are heard, and how long they may be silent.
//!
//! ```text
//! last sign      φ reaches the threshold         nobody vouches                  no refutation
//!  of life ─────────────────────────────► doubted ──────────────► suspect ───────────────────► down
//!    │◄─── at most timeout·2/3 − interval/5 ──►│◄── interval/5 ──►│◄── at least timeout/3 ──►│
//!    │◄────────────────────────────────────── timeout ─────────────────────────────────────►│
//! ```
//!
//! If it is suspected because others say so, the time to refute counts from when that was heard, and so may end later.

use super::arrivals::{Arrivals, deviations};
use super::message::Versions;
use std::time::Duration;

/// How often, how long, and how many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Options {
    interval: Duration,
    timeout: Duration,
    deviations: f64,
    /// Others that are asked to ping a node which is not heard.
    pub helpers: usize,
    /// The versions of messages spoken.
    pub versions: Versions,
}

/// Settings that cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadOptions {
    /// Heartbeats would be all that the nodes do.
    #[error("a heartbeat interval of {0:?} is too short: at least 10 ms")]
    Interval(Duration),
    /// One lost heartbeat would be enough.
    #[error("a heartbeat time-out of {timeout:?} is too short for an interval of {interval:?}: at least twice as long")]
    Timeout {
        /// The interval.
        interval: Duration,
        /// The time-out.
        timeout: Duration,
    },
}

impl Options {
    /// A heartbeat to every node at this interval; a node that is silent for as long as the time-out is down.
    ///
    /// # Errors
    /// The time-out must be twice the interval, and that 10 ms, at least.
    pub fn new(interval: Duration, timeout: Duration) -> Result<Options, BadOptions> {
        if interval < Duration::from_millis(10) {
            return Err(BadOptions::Interval(interval));
        }
        if timeout < interval * 2 {
            return Err(BadOptions::Timeout { interval, timeout });
        }
        let versions = Versions { newest: 1, oldest: 1 };
        Ok(Options { interval, timeout, deviations: deviations(THRESHOLD), helpers: 3, versions })
    }

    /// With another threshold of φ than 8: lower is quicker to ask others, and to suspect.
    #[must_use]
    pub fn with_threshold(self, phi: f64) -> Options {
        Options { deviations: deviations(phi), ..self }
    }

    /// Between two heartbeats.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Without a sign of life for so long, a node is down.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Once messages arrive again, all of so many nodes believe the same of each within this time: whoever missed the news hears them in turn
    /// (the second term), silence begun at the last of these takes its time (the first), and another suspicion may begin at its end.
    pub fn agreement(&self, nodes: usize) -> Duration {
        let turns = nodes.div_ceil(super::TURN) as u32;
        self.timeout + self.suspicion() + self.probe() * 2 + self.interval * (turns + 2)
    }

    /// How long an answer is waited for, also one by way of another node; and how late this node may be before it takes itself to have been paused.
    pub(super) fn probe(&self) -> Duration {
        self.interval / 5
    }

    /// How long a suspected node has to refute, at least.
    pub(super) fn suspicion(&self) -> Duration {
        self.timeout / 3
    }

    /// The silence after which a node is doubted.
    pub(super) fn patience(&self, arrivals: &Arrivals) -> Duration {
        let most = self.timeout - self.suspicion() - self.probe();
        arrivals.overdue_after(self.deviations).min(most)
    }
}

/// A gap that is this improbable (10⁻⁸) is taken for silence.
const THRESHOLD: f64 = 8.0;

impl Default for Options {
    /// Every 5 s, and down after 15 s. That a process was killed is known sooner, as its host refuses connections ([`super::Input::Absent`]).
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(15));
        Options::new(interval, timeout).expect("the time-out is three times the interval")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let of = |interval, timeout| Options::new(Duration::from_millis(interval), Duration::from_millis(timeout));
        assert_eq!(of(5, 100).map(|_| ()), Err(BadOptions::Interval(Duration::from_millis(5))));
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(1999));
        assert_eq!(of(1000, 1999).map(|_| ()), Err(BadOptions::Timeout { interval, timeout }));
        assert!(of(1000, 2000).is_ok());
    }
}
