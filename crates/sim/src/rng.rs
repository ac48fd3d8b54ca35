//! SplitMix64 (Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014): a small generator of random numbers.
//!
//! Invariant: the numbers of a seed never change, whatever becomes of other crates, so that a seed that is written down replays its run for
//! as long as the run draws in the same order.

/// The generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A seed that differs from run to run, and is easy to type.
    pub(crate) fn fresh_seed() -> u64 {
        use std::hash::{BuildHasher, Hasher};
        // The operating system seeds it.
        std::collections::hash_map::RandomState::new().build_hasher().finish() % 100_000_000
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number from `least` to `most`, both included. If that is less, it is `least`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        match most.saturating_sub(least).checked_add(1) {
            Some(range) => least + self.bits() % range,
            None => self.bits(),
        }
    }

    /// True in `n` of a thousand cases.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(1000) < n
    }

    /// One of them, if there are any.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the seed 1234567, by which implementations of SplitMix64 are usually compared.
    #[test]
    fn the_numbers_of_a_seed_are_those_that_are_published() {
        let mut rng = Rng::new(1_234_567);
        let numbers: Vec<u64> = (0..5).map(|_| rng.bits()).collect();
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(numbers, published);
    }

    #[test]
    fn numbers_are_within_their_bounds_and_all_of_them_come() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[rng.between(3, 7) as usize - 3] += 1);
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
        assert_eq!((rng.between(7, 7), rng.between(7, 3), rng.below(1)), (7, 7, 0));
        assert_ne!(rng.between(0, u64::MAX), rng.between(0, u64::MAX));
        assert_eq!((rng.chance(0), rng.chance(1000)), (false, true));
        assert_eq!((rng.pick::<u8>(&[]), rng.pick(&[5])), (None, Some(&5)));
    }
}
