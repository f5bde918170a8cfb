//! Which nodes a daemon reports to: those of cluster.toml, until a node tells a newer list of members.
//!
//! Each answer to a report names the index of the node's list. A sender that sees a newer one asks that node for it and
//! puts it here; the daemon's loop takes it before its next report, and starts and ends senders.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Node;
use crate::protocol::MembersAnswer;
use crate::raft::Index;

/// The newest list that a node told.
#[derive(Debug, Default)]
pub(super) struct NodeList(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    index: Index,
    /// What the loop has not taken yet.
    waiting: Option<Vec<Node>>,
}

impl NodeList {
    /// Whether a list with this index would be news.
    pub(super) fn is_news(&self, index: Index) -> bool {
        index > self.lock().index
    }

    /// A node told this list. An empty one is none.
    pub(super) fn put(&self, list: &MembersAnswer) {
        let mut newest = self.lock();
        if list.index <= newest.index || list.members.is_empty() {
            return;
        }
        let node = |member: &crate::protocol::MemberStatus| Node {
            id: member.id,
            public: member.public,
            cluster: member.cluster,
            founder: false,
        };
        *newest = Newest { index: list.index, waiting: Some(list.members.iter().map(node).collect()) };
    }

    /// The newest list, if it was not taken yet.
    pub(super) fn take(&self) -> Option<Vec<Node>> {
        self.lock().waiting.take()
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        // It is replaced as a whole, so it is sound even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MemberStatus;

    #[test]
    fn only_a_newer_list_counts_and_it_is_taken_once() {
        let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let list = |index, ids: &[u64]| MembersAnswer {
            index,
            members: ids
                .iter()
                .map(|&id| MemberStatus { id, cluster: at(9001), public: at(8001), voter: true })
                .collect(),
        };
        let known = NodeList::default();
        assert!(!known.is_news(0), "the founding is that of cluster.toml");
        known.put(&list(9, &[1, 2]));
        known.put(&list(7, &[1]));
        known.put(&list(12, &[]));
        assert!(known.is_news(10) && !known.is_news(9));
        assert_eq!(known.take().map(|nodes| nodes.len()), Some(2));
        assert_eq!(known.take(), None);
    }
}
