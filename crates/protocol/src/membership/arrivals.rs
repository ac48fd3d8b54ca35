//! When the next heartbeat is overdue: the phi-accrual failure detector (Hayashibara, Défago, Yared, Katayama, *The φ Accrual Failure
//! Detector*, SRDS 2004).
//!
//! φ = −log10 of the probability that a heartbeat comes later than the silence has lasted by now, if the gaps between heartbeats
//! are normally distributed as the last [`WINDOW`] of them were. A threshold of 8 is wrong once in 10⁸ gaps, as far as they are.
//!
//! Invariant: the deviation is never taken for less than a tenth of the interval, so that a network which has been regular for long
//! is not held to it to the millisecond; a gap counts as no less than half an interval and no more than the time-out, so
//! that neither a burst after a pause nor an outage decides about the time after it.

use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Gaps that are remembered.
const WINDOW: usize = 100;

/// The gaps between one node's heartbeats.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    interval: f64,
    longest: f64,
    gaps: VecDeque<f64>,
    /// Of those gaps, worked out when the last one came.
    mean: f64,
    deviation: f64,
    last: Option<Time>,
}

impl Arrivals {
    /// Nothing is known but the interval at which heartbeats are sent. Until more is, the deviation is taken for a quarter of it.
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        let interval = millis(interval);
        let (mean, deviation) = (interval, interval / 4.0);
        let gaps = VecDeque::from([mean - deviation, mean + deviation]);
        Arrivals { interval, longest: millis(timeout), gaps, mean, deviation, last: None }
    }

    /// A heartbeat has come.
    pub(super) fn heartbeat(&mut self, now: Time) {
        if let Some(last) = self.last.replace(now) {
            if self.gaps.len() == WINDOW {
                self.gaps.pop_front();
            }
            self.gaps.push_back(millis(now.since(last)).clamp(self.interval / 2.0, self.longest));
            self.learn();
        }
    }

    /// The gap that is under way says nothing about the network: this node was not awake.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }

    /// φ after such a silence.
    pub(super) fn phi(&self, silence: Duration) -> f64 {
        -tail((millis(silence) - self.mean) / self.deviation).log10()
    }

    /// The silence after which φ is so many deviations ([`deviations`]) beyond the mean.
    pub(super) fn overdue_after(&self, deviations: f64) -> Duration {
        Duration::from_millis((self.mean + deviations * self.deviation).ceil() as u64)
    }

    fn learn(&mut self) {
        let count = self.gaps.len() as f64;
        self.mean = self.gaps.iter().sum::<f64>() / count;
        let variance = self.gaps.iter().map(|gap| (gap - self.mean).powi(2)).sum::<f64>() / count;
        self.deviation = variance.sqrt().max(self.interval / 10.0);
    }
}

/// How many standard deviations beyond the mean φ reaches the threshold.
pub(super) fn deviations(threshold: f64) -> f64 {
    let probability = 10_f64.powf(-threshold);
    let (mut low, mut high) = (0.0, 40.0);
    // `tail` falls, so halving finds the place; 60 times give more digits than there are.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if tail(middle) > probability { low = middle } else { high = middle }
    }
    high
}

/// The probability that a standard normal variable is greater: half of erfc(deviations / √2), by the Chebyshev fit of Press and others
/// (*Numerical Recipes*, 2nd edition, section 6.2), which is right to 1.2·10⁻⁷ of its value however small that is. It falls, and is never 0.
fn tail(deviations: f64) -> f64 {
    const FIT: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let z = deviations.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + z / 2.0);
    let fit = FIT.iter().fold(0.0, |sum, coefficient| sum * t + coefficient);
    let beyond = t * (fit - z * z).exp() / 2.0;
    if deviations < 0.0 { 1.0 - beyond } else { beyond.max(f64::MIN_POSITIVE) }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(gaps: &[u64]) -> Arrivals {
        let mut arrivals = Arrivals::new(Duration::from_millis(1000), Duration::from_millis(3000));
        let mut now = Time(0);
        arrivals.heartbeat(now);
        for gap in gaps {
            now = now + Duration::from_millis(*gap);
            arrivals.heartbeat(now);
        }
        arrivals
    }

    fn patience(arrivals: &Arrivals) -> u128 {
        arrivals.overdue_after(deviations(8.0)).as_millis()
    }

    #[test]
    fn phi_is_what_the_tail_of_the_normal_distribution_says() {
        // Φ(-1.2816) = 0.1, Φ(-2.3263) = 0.01, Φ(-3.0902) = 0.001, Φ(-5.6120) = 10^-8
        for (sigma, phi) in [(-1.2816, 0.0458), (0.0, 0.301), (1.2816, 1.0), (2.3263, 2.0), (3.0902, 3.0), (5.612, 8.0)]
        {
            assert!((-tail(sigma).log10() - phi).abs() < 0.001, "{sigma}: {}", -tail(sigma).log10());
        }
        let arrivals = after(&[1000; 50]);
        let silence = arrivals.overdue_after(deviations(8.0));
        assert!((arrivals.phi(silence) - 8.0).abs() < 0.1, "{}", arrivals.phi(silence));
    }

    #[test]
    fn patience_follows_the_network() {
        let regular = after(&[1000; 200]);
        let lossy: Vec<u64> = (0..200).map(|n| if n % 10 == 0 { 2000 } else { 1000 }).collect();
        assert_eq!(patience(&regular), 1562);
        assert_eq!(patience(&after(&lossy)), 2784);
    }

    #[test]
    fn neither_bursts_nor_outages_decide() {
        assert!(patience(&after(&[0; 200])) >= 1000, "a burst makes impatient");
        assert!(patience(&after(&[3_600_000; 1])) < 8000, "an outage makes patient");
        let mut interrupted = after(&[1000; 200]);
        interrupted.interrupt();
        interrupted.heartbeat(Time(9_000_000));
        assert_eq!(patience(&interrupted), patience(&after(&[1000; 200])));
    }
}
