//! A histogram of durations: how many were at most so long. Whoever measures adds to it from any thread, with two
//! atomic additions and no lock; `metrics.rs` shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Durations, counted by the bucket that they fall into.
#[derive(Debug)]
pub struct Durations {
    /// The upper bounds of the buckets, in microseconds, growing.
    bounds_us: &'static [u64],
    /// How many durations each bucket holds. The last one has no upper bound.
    counts: Box<[AtomicU64]>,
    /// The sum of all durations. It would take 584 years to overflow.
    nanos: AtomicU64,
}

impl Durations {
    /// A histogram with these upper bounds, in microseconds, which must grow.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        let counts = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds_us, counts, nanos: AtomicU64::new(0) }
    }

    /// Adds one.
    pub fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds_us.partition_point(|bound| bound.saturating_mul(1_000) < nanos);
        // Relaxed: no other memory access depends on a counter.
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The upper bound of each bucket, in seconds, and how many it holds; the last bound is infinite.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds_us.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }

    /// The sum of all, in seconds.
    pub fn sum(&self) -> f64 {
        self.nanos.load(Ordering::Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_above_the_bound_before_it_and_not_above_its_own() {
        let durations = Durations::new(&[1_000, 2_000]);
        for micros in [0, 1_000, 1_001, 2_000, 2_001, 5_000_000] {
            durations.add(Duration::from_micros(micros));
        }
        assert_eq!(durations.buckets(), [(0.001, 2), (0.002, 2), (f64::INFINITY, 2)]);
        assert!((durations.sum() - 5.006_002).abs() < 1e-9, "{}", durations.sum());
    }
}
