//! Time as the state machines see it: an input.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment, in milliseconds since one that the driver chose. It never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// How long ago an earlier moment was; nothing, for a later one.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// How long to wait before trying again: twice as long after each failure, up to a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Backoff {
    /// The pause after so many failures in a row.
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.most)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let backoff = Backoff::default();
        let pauses: Vec<u128> = [1, 2, 3, 7, 8, 40, u32::MAX].map(|n| backoff.after(n).as_millis()).into();
        assert_eq!(pauses, [100, 200, 400, 6400, 10_000, 10_000, 10_000]);
    }
}
