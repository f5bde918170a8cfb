//! How this node stands in the consensus, as the loop last saw it: for `/status`, `/readyz`, the routing of reports and the
//! age of the state that requests are served from.
//!
//! Written by the Raft loop after each batch, read by the listeners' threads. A few numbers behind one lock,
//! which is held only while they are copied.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::raft::{NodeId, RoleName};
use crate::replica::Standing;

/// Where the loop shows its standing.
#[derive(Debug)]
pub struct StandingBoard {
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl Default for StandingBoard {
    fn default() -> Self {
        let standing = Mutex::new(Standing {
            role: RoleName::Follower,
            term: 0,
            leader: None,
            voted_for: None,
            commit_index: 0,
            applied_index: 0,
            settled: false,
            last_index: 0,
            snapshot_index: 0,
            contradiction: None,
            last_contact: None,
            age_at_start: Duration::ZERO,
        });
        Self { standing, changed: Condvar::new() }
    }
}

impl StandingBoard {
    /// The newest standing.
    pub fn get(&self) -> Standing {
        *self.lock()
    }

    /// Shows a new one. Called by the loop alone.
    pub fn set(&self, standing: Standing) {
        let before = std::mem::replace(&mut *self.lock(), standing);
        if before.leader != standing.leader {
            self.changed.notify_all();
        }
    }

    /// Waits until the leader is as wished, or the time is over; tells whether it is.
    pub fn wait_for_leader(&self, patience: Duration, wished: impl Fn(Option<NodeId>) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut standing = self.lock();
        while !wished(standing.leader) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            standing = self.changed.wait_timeout(standing, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        // A thread that panicked cannot have left half a `Standing`: it is copied as a whole.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_called_stale_only_after_the_patience() {
        let board = StandingBoard::default();
        board.set(Standing { last_contact: Some(Duration::from_millis(500)), ..board.get() });
        let patience = Duration::from_millis(1000);
        assert_eq!(board.get().stale_for(Duration::from_millis(1500), patience), None);
        let stale = board.get().stale_for(Duration::from_millis(1501), patience);
        assert_eq!(stale, Some(Duration::from_millis(1001)));
    }

    #[test]
    fn before_the_first_word_of_a_leader_the_age_from_before_the_start_counts_on() {
        let board = StandingBoard::default();
        board.set(Standing { age_at_start: Duration::from_secs(5), ..board.get() });
        let age = |standing: Standing| standing.stale_for(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(age(board.get()), Some(Duration::from_secs(7)));
        board.set(Standing { last_contact: Some(Duration::from_secs(2)), ..board.get() });
        assert_eq!(age(board.get()), None, "from then on, the leader's word counts");
    }
}
