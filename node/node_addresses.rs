//! The addresses of all nodes, in every spelling under which they are reached. A report must not name one of them as
//! its worker: that node would send requests to itself until no connection is left. `cluster_service.rs` asks here.

use std::net::{IpAddr, SocketAddr};

use crate::config::Node;
use crate::linux::is_own_address;
use crate::raft::NodeId;

/// Where the nodes listen.
#[derive(Clone, Debug)]
pub struct NodeAddresses {
    /// This node.
    id: NodeId,
    nodes: Vec<Node>,
}

impl NodeAddresses {
    /// Of these nodes; this one is `id`.
    pub fn new(id: NodeId, nodes: &[Node]) -> Self {
        Self { id, nodes: nodes.to_vec() }
    }

    /// The node that would get what is sent to `worker`, if there is one.
    pub fn owner(&self, worker: SocketAddr) -> Option<NodeId> {
        let is_at = |node: &&Node| {
            let listens =
                |at: SocketAddr| at.port() == worker.port() && self.reaches(node, at.ip(), worker.ip());
            listens(node.public) || listens(node.cluster)
        };
        self.nodes.iter().find(is_at).map(|node| node.id)
    }

    /// Whether a connection to `to` arrives at a socket of `node` that is bound to `bound`, if the port is right.
    fn reaches(&self, node: &Node, bound: IpAddr, to: IpAddr) -> bool {
        // 127.0.0.1 and ::ffff:127.0.0.1 are one address.
        let (bound, to) = (bound.to_canonical(), to.to_canonical());
        if bound.is_unspecified() {
            // All addresses of its machine. Those of another machine are not known here, but for one.
            let is_known =
                if node.id == self.id { is_own_address(to) } else { node.cluster.ip().to_canonical() == to };
            return is_known || to.is_loopback();
        }
        // All of 127.0.0.0/8 is the machine itself. No worker needs a node's port there.
        bound == to || (bound.is_loopback() && to.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn node(id: NodeId, public: &str, cluster: &str) -> Node {
        Node { id, public: address(public), cluster: address(cluster), founder: true }
    }

    #[test]
    fn a_node_is_recognised_in_every_spelling() {
        let nodes = [
            node(1, "0.0.0.0:8001", "127.0.0.1:9001"),
            node(2, "[::]:8002", "192.0.2.2:9002"),
            node(3, "192.0.2.3:8003", "192.0.2.3:9003"),
        ];
        let addresses = NodeAddresses::new(1, &nodes);
        for (worker, owner) in [
            ("127.0.0.1:9001", Some(1)),
            ("[::ffff:127.0.0.1]:9001", Some(1)),
            ("127.5.5.5:9001", Some(1)),
            ("[::1]:9001", Some(1)),
            ("127.0.0.1:8001", Some(1)),
            ("127.5.5.5:8001", Some(1)),
            ("192.0.2.9:8001", None),
            ("192.0.2.2:8002", Some(2)),
            ("[::ffff:192.0.2.2]:8002", Some(2)),
            ("127.0.0.1:8002", Some(2)),
            ("192.0.2.9:8002", None),
            ("192.0.2.3:8003", Some(3)),
            ("127.0.0.1:8003", None),
            ("192.0.2.3:13337", None),
            ("127.0.0.1:13337", None),
        ] {
            assert_eq!(addresses.owner(address(worker)), owner, "{worker}");
        }
    }

    /// Bound to the wildcard, a node is reached under each address of its machine.
    #[test]
    fn a_wildcard_stands_for_the_addresses_of_the_machine() {
        let away = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // No packet is sent, but the kernel chooses a source address, if it has a route.
        let own = away
            .connect("192.0.2.1:9")
            .and_then(|()| away.local_addr())
            .map_or(IpAddr::from([127, 0, 0, 1]), |own| own.ip());
        let addresses = NodeAddresses::new(1, &[node(1, "0.0.0.0:8001", "127.0.0.1:9001")]);
        assert_eq!(addresses.owner(SocketAddr::new(own, 8001)), Some(1));
        assert_eq!(addresses.owner(SocketAddr::new(own, 8002)), None);
    }
}
