//! The bound on the memory of all request bodies of a listener together. Used by `connection.rs`.
//!
//! A body takes its share as its bytes arrive, not as its length is announced, and gives it back when the request is
//! answered. Strangers may take half of the budget only: so their bodies can never keep out those of others.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that the bodies of a listener's requests may take together, and how many they take now.
#[derive(Debug)]
pub(super) struct BodyBudget {
    bytes_max: usize,
    taken: AtomicUsize,
}

/// What one body has taken. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct BodyShare<'a> {
    budget: &'a BodyBudget,
    bytes: usize,
    bytes_max: usize,
}

impl BodyBudget {
    pub(super) fn new(bytes_max: usize) -> BodyBudget {
        BodyBudget { bytes_max, taken: AtomicUsize::new(0) }
    }

    /// An empty share, for the body of a stranger or of somebody else.
    pub(super) fn share(&self, is_proven: bool) -> BodyShare<'_> {
        let bytes_max = if is_proven { self.bytes_max } else { self.bytes_max / 2 };
        BodyShare { budget: self, bytes: 0, bytes_max }
    }
}

impl BodyShare<'_> {
    /// Makes the share so many bytes large, if the budget allows that. It never shrinks.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let take = |taken: usize| taken.checked_add(more).filter(|taken| *taken <= self.bytes_max);
        // Relaxed: no other memory access depends on the count.
        let fits = self.budget.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if fits {
            self.bytes += more;
        }
        fits
    }
}

impl Drop for BodyShare<'_> {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_one_budget_and_give_it_back() {
        let budget = BodyBudget::new(100);
        let (mut first, mut second) = (budget.share(true), budget.share(true));
        assert!(first.grow_to(60) && second.grow_to(40));
        assert!(!second.grow_to(41) && !budget.share(true).grow_to(1));
        assert!(budget.share(true).grow_to(0), "a request without a body needs nothing");
        drop(first);
        assert!(second.grow_to(100));
    }

    #[test]
    fn strangers_leave_half_of_the_budget_to_others() {
        let budget = BodyBudget::new(100);
        let mut stranger = budget.share(false);
        assert!(stranger.grow_to(50) && !stranger.grow_to(51));
        assert!(!budget.share(false).grow_to(1));
        assert!(budget.share(true).grow_to(50));
    }
}
