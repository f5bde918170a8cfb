//! A rate limit for log lines about events that a stranger can cause: refused signatures, full queues, bad
//! requests.
//!
//! Without it, a flood of bad requests would become a flood of log lines. The disk would fill, and nobody
//! would find the line that matters. Each kind of event has its own limit, which may be a `static`:
//!
//! ```
//! use rakit::logging::RateLimit;
//! use std::time::{Duration, Instant};
//! static REFUSED: RateLimit = RateLimit::new(Duration::from_secs(10));
//! if let Some(suppressed) = REFUSED.allow(Instant::now()) {
//!     log::warn!("a request was refused: unsigned ({suppressed} more like it since the last such line)");
//! }
//! ```
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets the first event through at once (or the first few, see [`burst`](RateLimit::burst)), and then no more
/// until the interval is over.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    /// How many events are let through per interval; 1 or more.
    burst: u64,
    state: Mutex<RateState>,
}

#[derive(Debug)]
struct RateState {
    /// When the first event of the current interval was let through.
    last: Option<Instant>,
    /// How many were let through since then, that one included.
    passed: u64,
    /// How many were held back since then.
    suppressed: u64,
}

impl RateLimit {
    /// A limit that lets one event through per `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self::burst(1, interval)
    }

    /// A limit that lets `burst` events through per `interval`: for events that normally come in groups and
    /// are all of interest, such as the votes of an election.
    pub const fn burst(burst: u64, interval: Duration) -> Self {
        Self { interval, burst, state: Mutex::new(RateState { last: None, passed: 0, suppressed: 0 }) }
    }

    /// Whether an event that happens at `now` may be logged: `Some` with the number of events that were held
    /// back since the last logged one, or `None` when this one is held back, too.
    ///
    /// The count of held-back events comes only with the next logged event: nothing runs in the background.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.last {
            Some(last) if now.saturating_duration_since(last) < self.interval => {
                if state.passed < self.burst {
                    state.passed += 1;
                    return Some(std::mem::take(&mut state.suppressed));
                }
                state.suppressed = state.suppressed.saturating_add(1);
                None
            }
            _ => {
                state.last = Some(now);
                state.passed = 1;
                Some(std::mem::take(&mut state.suppressed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_then_one_per_interval_with_the_count_of_the_others() {
        let brake = RateLimit::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds: u64| brake.allow(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(1), None);
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some(2));
        assert_eq!(at(19), None);
        assert_eq!(at(50), Some(1));
        assert_eq!(at(61), Some(0));
    }

    #[test]
    fn times_out_of_order_are_held_back_not_a_panic() {
        // Two threads may read the clock in one order and come here in the other.
        let brake = RateLimit::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(brake.allow(start + Duration::from_secs(5)), Some(0));
        assert_eq!(brake.allow(start), None);
    }
}
