//! A small generator of random draws, seeded from outside: the same seed gives the same draws, on every machine.
//!
//! Raft needs randomness for one thing only: election timeouts that rarely collide (paper, section 5.2). The balancer
//! draws among equal servers with it (`src/balancer/choice.rs`), the daemon its pauses, and the tests their faults.
//! SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014) is five lines, passes the
//! usual statistical tests and is deterministic on every machine. It is not, and need not be, unpredictable.

use std::time::Duration;

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of draws of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0, included, to 1, excluded.
    pub fn unit(&mut self) -> f64 {
        // The upper bits, as many as an f64 holds.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`, which is at least 1. The modulo's bias is irrelevant for bounds far below 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// A duration from `low` to `high`, both included, in whole microseconds.
    pub fn between(&mut self, (low, high): (Duration, Duration)) -> Duration {
        debug_assert!(low <= high, "a range the right way up");
        let width = high.saturating_sub(low).as_micros() as u64;
        low + Duration::from_micros(self.below(width + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_draws_and_every_draw_lies_in_the_range() {
        let range = (Duration::from_millis(500), Duration::from_millis(1000));
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        let draws: Vec<_> = (0..1000).map(|_| one.between(range)).collect();
        assert!(draws.iter().all(|draw| *draw >= range.0 && *draw <= range.1));
        assert_eq!(draws, (0..1000).map(|_| two.between(range)).collect::<Vec<_>>());
        // Spread over the whole range, not clustered: each tenth of it is hit.
        for tenth in 0..10 {
            let low = range.0 + Duration::from_millis(50 * tenth);
            assert!(draws.iter().any(|draw| *draw >= low && *draw <= low + Duration::from_millis(50)));
        }
    }

    #[test]
    fn a_range_of_one_value_gives_that_value() {
        let only = Duration::from_millis(3);
        assert_eq!(Random::new(1).between((only, only)), only);
    }
}
