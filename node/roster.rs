//! Who the members are and where, as the Raft loop last said: for the threads that call or check other nodes.
//!
//! In the beginning the members are those of the founding, as cluster.toml has them. Later the log's list counts
//! (`src/raft/members.rs`). The loop writes it before the first message to a new member leaves; `leader_watch.rs`,
//! `cluster_service.rs`, `status.rs` and `live.rs` read it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{info, warn};

use crate::config::Node;
use crate::protocol::{MemberStatus, MembersAnswer};
use crate::raft::{Configuration, Index, Member, Members, NodeId};

/// The members, and every address that this node was ever told.
#[derive(Debug)]
pub struct Roster {
    id: NodeId,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    index: Index,
    members: Vec<MemberStatus>,
    /// Cluster addresses, also of nodes that cluster.toml names beside the founders, and of such that left.
    addresses: BTreeMap<NodeId, SocketAddr>,
}

/// The founders of cluster.toml as members, with their addresses.
pub fn founders(nodes: &[Node]) -> Members {
    nodes
        .iter()
        .filter(|node| node.founder)
        .map(|node| Member {
            id: node.id,
            cluster: node.cluster.to_string(),
            public: node.public.to_string(),
            voter: true,
        })
        .collect()
}

impl Roster {
    /// Of node `id`, which read these nodes in cluster.toml and goes by `configuration`.
    pub fn new(id: NodeId, nodes: &[Node], configuration: &Configuration) -> Self {
        let addresses = nodes.iter().map(|node| (node.id, node.cluster)).collect();
        let roster = Self { id, known: Mutex::new(Known { addresses, ..Known::default() }) };
        roster.set(configuration);
        roster
    }

    /// Another list counts. Called by the loop alone.
    pub fn set(&self, configuration: &Configuration) {
        let members: Vec<MemberStatus> = configuration.members.iter().filter_map(read).collect();
        let mut known = self.lock();
        known.index = configuration.index;
        known.addresses.extend(members.iter().map(|member| (member.id, member.cluster)));
        known.members = members;
    }

    /// Where a node's cluster address is, also if it is no member (any more).
    pub fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.lock().addresses.get(&node).copied()
    }

    /// Whether this is another member.
    pub fn is_peer(&self, node: NodeId) -> bool {
        node != self.id && self.lock().members.iter().any(|member| member.id == node)
    }

    /// Whether there is another member that votes.
    pub fn has_other_voters(&self) -> bool {
        self.lock().members.iter().any(|member| member.voter && member.id != self.id)
    }

    /// The other members, and these other nodes as far as their addresses are known: whom the senders reach.
    pub fn reached(&self, also: &[NodeId]) -> Vec<(NodeId, SocketAddr)> {
        let known = self.lock();
        let members = known.members.iter().map(|member| (member.id, member.cluster));
        let others = also.iter().filter_map(|id| Some((*id, *known.addresses.get(id)?)));
        members.chain(others).filter(|(id, _)| *id != self.id).collect()
    }

    /// The members as nodes of cluster.toml. The list does not say who founded the cluster: `founder` is true for all.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |member: &MemberStatus| Node {
            id: member.id,
            public: member.public,
            cluster: member.cluster,
            founder: true,
        };
        self.lock().members.iter().map(node).collect()
    }

    /// The ids of the members.
    pub fn ids(&self) -> Vec<NodeId> {
        self.lock().members.iter().map(|member| member.id).collect()
    }

    /// The list, for `/status`, daemons and the operator.
    pub fn answer(&self) -> MembersAnswer {
        let known = self.lock();
        MembersAnswer { index: known.index, members: known.members.clone() }
    }

    /// The index of the list.
    pub fn index(&self) -> Index {
        self.lock().index
    }

    /// At the start: says where cluster.toml differs from the list that counts.
    pub fn tell_differences(&self, nodes: &[Node]) {
        let known = self.lock();
        if known.index == 0 {
            return;
        }
        let differs = |member: &&MemberStatus| {
            !nodes.iter().any(|node| {
                (node.id, node.cluster, node.public) == (member.id, member.cluster, member.public)
            })
        };
        let missing: Vec<String> = known
            .members
            .iter()
            .filter(differs)
            .map(|member| format!("node {} at {} and {}", member.id, member.cluster, member.public))
            .collect();
        let gone: Vec<String> = nodes
            .iter()
            .filter(|node| !known.members.iter().any(|member| member.id == node.id))
            .map(|node| format!("node {}", node.id))
            .collect();
        let (id, index) = (self.id, known.index);
        if missing.is_empty() && gone.is_empty() {
            return info!(
                "members: node {id} goes by entry {index} of the log, and cluster.toml names the same nodes"
            );
        }
        let mut text = format!(
            "members: cluster.toml differs from the log of node {id}, and the log counts (entry {index})"
        );
        if !missing.is_empty() {
            text.push_str(&format!("; the log has {}", missing.join(", ")));
        }
        if !gone.is_empty() {
            text.push_str(&format!("; {} of the file: no member now", gone.join(", ")));
        }
        warn!("{text}; `rakit members list` shows what counts");
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A list is replaced as a whole, so it is sound even if a holder panicked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member of the log, with addresses that can be used. Only nodes write the log, and they check what an operator
/// gives.
fn read(member: &Member) -> Option<MemberStatus> {
    let parsed = member.cluster.parse().ok().zip(member.public.parse().ok());
    let Some((cluster, public)) = parsed else {
        warn!(
            "members: the log names no usable addresses of node {}: {:?}, {:?}",
            member.id, member.cluster, member.public
        );
        return None;
    };
    Some(MemberStatus { id: member.id, cluster, public, voter: member.voter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_those_who_left_are_still_known() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let node = |id: NodeId| Node {
            id,
            public: at(8000 + id as u16),
            cluster: at(9000 + id as u16),
            founder: id < 3,
        };
        let nodes = [node(1), node(2), node(3)];
        let founding = Configuration { index: 0, members: founders(&nodes) };
        let roster = Roster::new(1, &nodes, &founding);
        assert_eq!(
            (roster.ids(), roster.is_peer(2), roster.is_peer(3), roster.is_peer(1)),
            (vec![1, 2], true, false, false)
        );
        assert_eq!(roster.address_of(3), Some(at(9003)), "cluster.toml names it");
        roster.set(&Configuration { index: 7, members: Members::default() });
        assert_eq!((roster.ids(), roster.index(), roster.has_other_voters()), (vec![], 7, false));
        assert_eq!(roster.reached(&[2, 9]), [(2, at(9002))]);
    }
}
