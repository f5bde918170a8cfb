//! How much one append, or one piece of a snapshot, may carry to a peer: as much as gets through well within an election
//! timeout. A follower takes a request in only when all of it has arrived. So a request that is under way for longer than the
//! follower's election timeout makes a living leader look dead. Part of a leader's `Progress`; not in the papers.
//!
//! The leader begins small (as TCP does), doubles what gets through quickly, and cuts down what took too long. It compares with
//! a request of a few entries: what that one takes is no matter of size (a long way, a slow disk), and smaller requests would
//! not help against it.

use std::hash::{Hash, Hasher};
use std::time::Duration;

/// What a request may carry at the beginning, and at any time: some 16 reports, which need 130 ms at 256 kbit/s.
const BYTES_MIN: usize = 4 << 10;

/// What the leader knows of the way to one peer.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    bytes_max: usize,
    /// What the last small request with entries took.
    small_took: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { bytes_max: BYTES_MIN, small_took: Duration::ZERO }
    }

    /// So many bytes the next request may carry.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The reply to a request of so many bytes came after `took`. The size may cost it `allowed`.
    pub(super) fn answered(&mut self, bytes: usize, took: Duration, allowed: Duration) {
        if bytes == 0 {
            return; // The peer's disk had no part in it.
        }
        if bytes <= BYTES_MIN {
            self.small_took = took;
        }
        self.cut_down(bytes, took, allowed);
        // A request that was not full says nothing about a larger one.
        if bytes >= self.bytes_max / 2 && took.saturating_sub(self.small_took) <= allowed / 2 {
            self.bytes_max *= 2;
        }
    }

    /// A request of so many bytes found no answer for so long, as the sender says.
    pub(super) fn lost(&mut self, bytes: usize, waited: Duration, allowed: Duration) {
        self.cut_down(bytes, waited, allowed);
    }

    /// To what would have taken `allowed`, if the request took longer than that for its size.
    fn cut_down(&mut self, bytes: usize, took: Duration, allowed: Duration) {
        let for_its_size = took.saturating_sub(self.small_took);
        if for_its_size > allowed {
            let fits = bytes as u128 * allowed.as_nanos() / for_its_size.as_nanos();
            let fits = usize::try_from(fits).expect("less than `bytes`");
            self.bytes_max = self.bytes_max.min(fits).max(BYTES_MIN);
        }
    }

    /// See `fingerprint.rs`.
    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.bytes_max, self.small_took).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_millis(125);

    /// Sends so many full requests over a way with this time for any request, and this rate in bytes per millisecond.
    fn after(pace: &mut Pace, requests: u32, constant_ms: u64, rate: usize) -> usize {
        for _ in 0..requests {
            let bytes = pace.bytes_max().min(1 << 20);
            let took = Duration::from_millis(constant_ms + (bytes / rate) as u64);
            pace.answered(bytes, took, ALLOWED);
        }
        pace.bytes_max()
    }

    #[test]
    fn on_a_fast_way_requests_grow_to_what_the_settings_allow() {
        assert!(after(&mut Pace::new(), 9, 1, 100_000) >= 1 << 20);
        let settled = after(&mut Pace::new(), 100, 1, 100_000);
        assert_eq!(settled, after(&mut Pace::new(), 200, 1, 100_000), "and not for ever");
    }

    #[test]
    fn on_a_slow_way_no_request_takes_longer_than_allowed_from_the_first_on() {
        for rate in [50, 100, 500, 5_000] {
            let mut pace = Pace::new();
            for _ in 0..50 {
                let longest = 126 + BYTES_MIN / rate;
                assert!(pace.bytes_max() / rate <= longest, "{} bytes at {rate} a ms", pace.bytes_max());
                after(&mut pace, 1, 2, rate);
            }
            assert!(pace.bytes_max() / rate >= 60 || rate < 100, "{} bytes at {rate}", pace.bytes_max());
        }
    }

    #[test]
    fn a_way_that_becomes_slow_is_noticed_by_one_request_and_one_that_recovers_by_a_few() {
        let mut pace = Pace::new();
        after(&mut pace, 20, 1, 100_000);
        let slow = after(&mut pace, 1, 1, 500);
        assert!((50_000..=63_000).contains(&slow), "{slow}");
        assert!(after(&mut pace, 6, 1, 100_000) >= 1 << 20);
        pace.lost(1 << 20, Duration::from_secs(1), ALLOWED);
        assert!((100_000..=132_000).contains(&pace.bytes_max()), "{}", pace.bytes_max());
        pace.lost(1 << 20, Duration::from_millis(1), ALLOWED);
        assert!(pace.bytes_max() >= 100_000, "a refused connection says nothing about size");
    }

    #[test]
    fn a_long_way_or_a_slow_disk_makes_no_request_small() {
        assert!(after(&mut Pace::new(), 9, 300, 100_000) >= 1 << 20);
        // The disk becomes slow later: the requests become small, which does not help, and grow again.
        let mut pace = Pace::new();
        after(&mut pace, 9, 1, 100_000);
        assert!(after(&mut pace, 60, 300, 100_000) >= 1 << 20);
    }

    #[test]
    fn requests_without_entries_and_small_ones_teach_nothing_about_large_ones() {
        let mut pace = Pace::new();
        pace.answered(0, Duration::from_secs(1), ALLOWED);
        (0..50).for_each(|_| pace.answered(300, Duration::from_millis(1), ALLOWED));
        assert_eq!(pace.bytes_max(), BYTES_MIN);
    }
}
