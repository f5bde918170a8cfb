//! A small generator of random numbers with a seed: the same seed gives the same arrivals on every machine and for ever.

#[derive(Clone, Debug)]
pub struct Random(rakit::raft::Random);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(rakit::raft::Random::new(seed))
    }

    /// From 0 to below 1.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
