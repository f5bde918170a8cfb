//! Which other nodes this one does not work with at present, and why: one of the two refuses what the other says, since
//! the versions, the foundings, or the secrets differ. Written by the peer senders and the cluster listener, shown by
//! `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::PeerRefusal;
use crate::raft::NodeId;

/// The newest reason for each such node.
#[derive(Debug, Default)]
pub struct PeerRefusals(Mutex<BTreeMap<NodeId, String>>);

impl PeerRefusals {
    /// An exchange with this node ended with a refusal.
    pub fn refused(&self, node: NodeId, reason: &str) {
        let mut reasons = self.lock();
        if reasons.get(&node).is_none_or(|known| known != reason) {
            reasons.insert(node, reason.to_owned());
        }
    }

    /// An exchange with this node ended in another way.
    pub fn not_refused(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<PeerRefusal> {
        self.lock().iter().map(|(node, reason)| PeerRefusal { node: *node, reason: reason.clone() }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        // An insertion or removal is complete or did not happen, also if its thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reason_counts_until_an_exchange_ends_otherwise() {
        let refusals = PeerRefusals::default();
        refusals.refused(3, "version");
        refusals.refused(3, "cluster");
        refusals.refused(2, "version");
        let node = |node, reason: &str| PeerRefusal { node, reason: reason.to_owned() };
        assert_eq!(refusals.list(), [node(2, "version"), node(3, "cluster")]);
        refusals.not_refused(3);
        refusals.not_refused(4);
        assert_eq!(refusals.list(), [node(2, "version")]);
    }
}
