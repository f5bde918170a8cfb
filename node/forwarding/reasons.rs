//! Counts of attempts that brought no answer, by the reason. `forwarding.rs` counts, `metrics.rs` shows.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::worker_client::WorkerError;

/// The reasons in the order in which they are shown.
const REASONS: [&str; 7] =
    ["refused", "unreachable", "not-accepted", "closed", "no-prime", "server-error", "busy"];

/// One counter per reason.
#[derive(Debug, Default)]
pub struct ReasonCounts([AtomicU64; REASONS.len()]);

impl ReasonCounts {
    /// Counts an attempt that ended so. The request's own end is no attempt's fault, and not counted.
    pub fn count(&self, why: &WorkerError) {
        let place = match why {
            WorkerError::Refused => 0,
            WorkerError::Unreachable(_) => 1,
            WorkerError::ConnectTimeout => 2,
            WorkerError::Closed => 3,
            WorkerError::BadBody(_) => 4,
            WorkerError::ServerError(_) => 5,
            WorkerError::Busy { .. } => 6,
            WorkerError::DeadlinePassed | WorkerError::Cancelled => return,
        };
        // Relaxed: no other memory access depends on a counter.
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Each reason with its count.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
