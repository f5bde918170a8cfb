//! A core's state as one number, for a model checker: two cores with equal fingerprints do the same from now on.
//!
//! Time is abstract there: all moments are hashed relative to the core's own `now`, so that states which differ only by
//! when they were reached count as one. For the same reason, what cannot matter any more is left out: the numbers of
//! requests that no message carries, and marks (writes are finished in order). The dice are left out too, so the
//! explorer must use election timeouts that leave nothing to draw (both ends of the range equal), and no hints of death.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::RpcId;
use super::core::Raft;
use super::role::Role;

impl Raft {
    /// Feeds the state to `hasher`. `rpc_name` gives the name under which the explorer knows a request of this node that
    /// is still under way (the request or its reply), `None` for one that is not: the numbers themselves depend on the
    /// path by which a state was reached.
    ///
    /// The entries are hashed by index and term, which determine the command (Log Matching, which the explorer asserts).
    pub fn fingerprint(&self, rpc_name: &dyn Fn(RpcId) -> Option<u64>, hasher: &mut impl Hasher) {
        let since = |moment: Duration| (self.now.saturating_sub(moment), moment.saturating_sub(self.now));
        (self.hard_state.term, self.hard_state.voted_for, self.hard_state.joining, self.leader).hash(hasher);
        (self.settings.incarnation, &self.settings.founders, &self.fresh_before).hash(hasher);
        if let Some(round) = &self.founding {
            round.fingerprint(rpc_name, hasher);
        }
        (self.commit_index, self.applied_index, self.snapshot_index(), self.durable_index()).hash(hasher);
        self.log.first_index().hash(hasher);
        (self.configuration(), self.configurations.former(), self.told_removed).hash(hasher);
        for index in self.log.first_index().saturating_sub(1)..=self.log.last_index() {
            self.log.term_at(index).hash(hasher);
        }
        self.leader_contact.map(since).hash(hasher);
        self.quick_rounds.hash(hasher);
        if let Some(incoming) = &self.incoming_snapshot {
            incoming.fingerprint(hasher);
        }
        for (last_index, last_term, hard_state) in self.unfinished_writes() {
            (last_index, last_term, hard_state.term, hard_state.voted_for).hash(hasher);
        }
        match &self.role {
            Role::Follower => (0, since(self.election_deadline)).hash(hasher),
            Role::PreCandidate { granted, refused } => {
                (1, since(self.election_deadline), granted, refused).hash(hasher);
            }
            Role::Candidate { granted } => (2, since(self.election_deadline), granted).hash(hasher),
            Role::Leader(leader) => {
                3.hash(hasher);
                for (peer, progress) in &leader.progress {
                    peer.hash(hasher);
                    progress.fingerprint(self.now, rpc_name, hasher);
                }
                leader.proposals.hash(hasher);
                if let Some(transfer) = &leader.transfer {
                    transfer.fingerprint(self.now, hasher);
                }
            }
        }
    }
}
