//! Random draws from one seed, in the words of the faults.

use std::time::Duration;

use rakit::raft::Random;

/// A stream of draws.
#[derive(Clone, Debug)]
pub struct Dice(Random);

impl Dice {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// A stream of its own for somebody else.
    pub fn split(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// 0 to `bound` − 1. The bias of the remainder does not matter for numbers this small.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// A duration in this range of milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.0.below(high - low))
    }

    /// Shuffles (Fisher and Yates).
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}
