//! What this node has counted and measured of its consensus since its start, for `/metrics`. The Raft loop adds to it
//! (`raft_loop.rs`); the core and the replica know nothing of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::durations::Durations;
use crate::raft::{self, RoleName};
use crate::replica::ReplicaNotice;

/// The upper bounds of the buckets for the disk and for commits, in microseconds: an SSD syncs in less than a
/// millisecond, a busy hard disk in tens, and an election timeout is the end of both.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Counts and durations.
#[derive(Debug)]
pub struct ConsensusCounts {
    /// Times that this node began to follow a leader, or to lead.
    pub leader_changes: AtomicU64,
    /// Elections that this node stood in.
    pub elections: AtomicU64,
    /// Proposals of this node that were committed.
    pub proposals_committed: AtomicU64,
    /// Proposals of this node that failed, or whose outcome it did not learn.
    pub proposals_failed: AtomicU64,
    /// From a proposal to its commit.
    pub commits: Durations,
    /// Writes to the log, each with one fdatasync.
    pub syncs: Durations,
}

impl Default for ConsensusCounts {
    fn default() -> Self {
        Self {
            leader_changes: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            proposals_committed: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            commits: Durations::new(&BOUNDS_US),
            syncs: Durations::new(&BOUNDS_US),
        }
    }
}

impl ConsensusCounts {
    /// A proposal of this node has ended, so long after it was made.
    pub fn proposal_ended(&self, took: Duration, committed: bool) {
        if committed {
            self.proposals_committed.fetch_add(1, Ordering::Relaxed);
            self.commits.add(took);
        } else {
            self.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something happened; counted if it is an election or another leader.
    pub fn happened(&self, notice: &ReplicaNotice) {
        match notice {
            ReplicaNotice::Raft(
                raft::Notice::Role { role: RoleName::Leader, .. } | raft::Notice::LeaderFound { .. },
            ) => {
                self.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            ReplicaNotice::Raft(raft::Notice::Role { role: RoleName::Candidate, .. }) => {
                self.elections.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
