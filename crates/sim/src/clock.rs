//! A node's clock: it starts anywhere, runs too fast or too slow, and never goes back while the process lives.

use crate::{Moment, Rng};
use atoll_protocol::Time;

const MILLION: u128 = 1_000_000;

/// The clock of one run of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalClock {
    /// What it showed when the process started, in milliseconds.
    base: u64,
    started: Moment,
    /// Its microseconds in a million of the world's.
    rate: u64,
}

impl LocalClock {
    /// A clock that starts now, and runs apart by so many parts in a million at most.
    pub(crate) fn start(now: Moment, drift: u64, rng: &mut Rng) -> LocalClock {
        let drift = drift.min(900_000);
        LocalClock {
            base: rng.between(0, 1_000_000_000),
            started: now,
            rate: rng.between(1_000_000 - drift, 1_000_000 + drift),
        }
    }

    /// What it shows.
    pub(crate) fn read(&self, now: Moment) -> Time {
        let passed = u128::from(now.0.saturating_sub(self.started.0)) * u128::from(self.rate) / MILLION / 1000;
        Time(self.base.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// The first moment at which it shows that.
    pub(crate) fn when(&self, time: Time) -> Moment {
        let ahead = u128::from(time.0.saturating_sub(self.base)) * 1000 * MILLION;
        let passed = ahead.div_ceil(u128::from(self.rate));
        Moment(self.started.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_goes_off_at_the_first_moment_at_which_it_is_due() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            let clock = LocalClock::start(Moment(rng.between(0, 1_000_000)), 300_000, &mut rng);
            let due = Time(clock.base + rng.between(1, 100_000));
            let at = clock.when(due);
            assert_eq!(clock.read(at), due, "{clock:?}");
            assert!(clock.read(Moment(at.0 - 1)) < due, "{clock:?}");
        }
    }
}
