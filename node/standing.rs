//! How this node stands in the consensus, as the loop last saw it: for `/status`, `/readyz`, the routing of reports and
//! the age of the state that requests are served from.
//!
//! Written by the Raft loop after each batch, read by the listeners' threads. A few numbers behind one lock,
//! which is held only while they are copied.
//!
//! The loop also shows what it is doing, and since when. If its disk, or the loop itself, has been stuck for longer
//! than the upper election timeout, its last word is old: the others have elected another leader by then. So a node
//! that is stuck is shown as a follower without a leader, as it would see itself if its loop ran on (CheckQuorum,
//! thesis 6.2).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::raft::{Membership, NodeId, RoleName};
use crate::replica::Standing;

/// What the loop is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It waits for messages or for its next deadline.
    Waiting,
    /// It reads messages, decides and sends.
    Working,
    /// It waits for its disk.
    Writing,
}

/// The loop has been doing one thing for longer than the upper election timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// What.
    pub doing: Doing,
    /// For so long.
    pub time: Duration,
}

impl Stuck {
    /// In words, for `/readyz` and `/status`.
    pub fn text(&self) -> String {
        let ms = self.time.as_millis();
        match self.doing {
            Doing::Writing => format!(
                "the disk of this node has not finished a write for {ms} ms; mend: look at the file system of its \
                 data directory (frozen, full, failing?)"
            ),
            Doing::Waiting | Doing::Working => {
                format!("the Raft loop of this node has been stuck for {ms} ms")
            }
        }
    }
}

/// Where the loop shows its standing.
#[derive(Debug)]
pub struct StandingBoard {
    standing: Mutex<Standing>,
    changed: Condvar,
    doing: Mutex<(Doing, Instant)>,
    election_timeout_max: Duration,
}

impl StandingBoard {
    /// A board on which nothing is shown yet. What takes longer than the upper election timeout is stuck.
    pub fn new(election_timeout_max: Duration) -> Self {
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
            proposals_pending: 0,
            membership: Membership::NotYet,
            members_index: 0,
            joining: false,
            contradiction: None,
            last_contact: None,
            age_at_start: Duration::ZERO,
        });
        let doing = Mutex::new((Doing::Waiting, Instant::now()));
        Self { standing, changed: Condvar::new(), doing, election_timeout_max }
    }

    /// The newest standing. A node that is stuck leads nobody and follows nobody.
    pub fn get(&self) -> Standing {
        let standing = *self.lock();
        match self.stuck() {
            None => standing,
            Some(_) => Standing { role: RoleName::Follower, leader: None, ..standing },
        }
    }

    /// What the loop does from now on. Called by the loop alone.
    pub fn does(&self, doing: Doing) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = (doing, Instant::now());
    }

    /// Whether the loop, or its disk, is stuck.
    pub fn stuck(&self) -> Option<Stuck> {
        let (doing, since) = *self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let time = since.elapsed();
        (doing != Doing::Waiting && time > self.election_timeout_max).then_some(Stuck { doing, time })
    }

    /// Whether the loop has taken a turn within this time, for the watchdog of the service manager. A loop that waits
    /// for its disk counts as well: no restart mends a disk, and as long as this process lives, it serves primes.
    pub fn makes_progress(&self, within: Duration) -> bool {
        let (doing, since) = *self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing == Doing::Writing || since.elapsed() < within
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
    fn the_state_is_called_stale_only_after_the_upper_election_timeout() {
        let board = StandingBoard::new(Duration::MAX);
        board.set(Standing { last_contact: Some(Duration::from_millis(500)), ..board.get() });
        let election_timeout_max = Duration::from_millis(1000);
        assert_eq!(board.get().stale_for(Duration::from_millis(1500), election_timeout_max), None);
        let stale = board.get().stale_for(Duration::from_millis(1501), election_timeout_max);
        assert_eq!(stale, Some(Duration::from_millis(1001)));
    }

    #[test]
    fn a_loop_that_takes_no_turn_makes_no_progress_unless_it_waits_for_its_disk() {
        let board = StandingBoard::new(Duration::MAX);
        for (doing, late) in [(Doing::Waiting, false), (Doing::Working, false), (Doing::Writing, true)] {
            board.does(doing);
            assert!(board.makes_progress(Duration::MAX), "{doing:?}");
            assert_eq!(board.makes_progress(Duration::ZERO), late, "{doing:?}");
        }
    }

    #[test]
    fn before_the_first_word_of_a_leader_the_age_from_before_the_start_counts_on() {
        let board = StandingBoard::new(Duration::MAX);
        board.set(Standing { age_at_start: Duration::from_secs(5), ..board.get() });
        let age = |standing: Standing| standing.stale_for(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(age(board.get()), Some(Duration::from_secs(7)));
        board.set(Standing { last_contact: Some(Duration::from_secs(2)), ..board.get() });
        assert_eq!(age(board.get()), None, "from then on, the leader's word counts");
    }
}
