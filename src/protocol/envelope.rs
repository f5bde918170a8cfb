//! The envelope of a request on a cluster address, and of its answer: headers that name sender, recipient,
//! purpose and version. With a secret, a signature covers them and a digest of the body ([`crate::signing`], which also
//! lists the headers that are signed).

use crate::raft::NodeId;

/// The version of the protocol, of a request and of an answer: [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION),
/// decimal.
pub const HEADER_VERSION: &str = "X-Rakit-Version";
/// The sender: `node-1`, `daemon:lab-01`, `operator`.
pub const HEADER_SENDER: &str = "X-Rakit-Sender";
/// The cluster's name.
pub const HEADER_CLUSTER: &str = "X-Rakit-Cluster";
/// The founding of the cluster, on a request and on an answer: its name, and the ids of its first members. As in
/// `lab:1,2,3`.
pub const HEADER_FOUNDING: &str = "X-Rakit-Founding";
/// The node that the request is for.
pub const HEADER_RECIPIENT: &str = "X-Rakit-Recipient";
/// See [`Purpose`].
pub const HEADER_PURPOSE: &str = "X-Rakit-Purpose";
/// The stream that the request belongs to: the sender's nonce (32 digits) and the node's ticket (48 digits), hexadecimal,
/// lower case. A request that opens a stream has no ticket yet.
pub const HEADER_STREAM: &str = "X-Rakit-Stream";
/// The request's number in its stream, decimal: above all earlier ones. 0 in a request that opens a stream.
pub const HEADER_NUMBER: &str = "X-Rakit-Number";
/// SHA-256 of the body: 64 digits, hexadecimal, lower case.
pub const HEADER_DIGEST: &str = "X-Rakit-Digest";
/// The HMAC of the request: 64 digits, hexadecimal, lower case.
pub const HEADER_SIGNATURE: &str = "X-Rakit-Signature";
/// The HMAC of the answer: 64 digits, hexadecimal, lower case.
pub const HEADER_ANSWER_SIGNATURE: &str = "X-Rakit-Answer-Signature";

/// On an answer to a client: which node routed the request.
pub const HEADER_NODE: &str = "X-Rakit-Node";
/// On an answer to a client: which server computed the prime.
pub const HEADER_SERVER: &str = "X-Rakit-Server";
/// On an answer to a client, while the node has had no leader for longer than the upper election timeout: the
/// age of its table, in milliseconds.
pub const HEADER_STALE_MS: &str = "X-Rakit-Stale-Ms";
/// The request's id: the client's own, or one that the node made.
pub const HEADER_REQUEST_ID: &str = "X-Request-Id";

/// On an answer to a client: where the time went, in milliseconds (W3C, Server Timing).
pub const HEADER_SERVER_TIMING: &str = "Server-Timing";

/// What a request is for. Each purpose has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Node to node: Raft's RPCs, the watch of the leader, counts in flight, and a report that a follower hands on.
    Raft,
    /// Daemon to node: a report, and the question who the members are.
    Report,
    /// The operator's commands, such as a transfer of leadership.
    Admin,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raft, Self::Report, Self::Admin];

    /// The name, as it stands in [`HEADER_PURPOSE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Report => "report",
            Self::Admin => "admin",
        }
    }

    /// The purpose with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }
}

/// The name under which the operator's program sends.
pub const OPERATOR: &str = "operator";

/// The name of a node as a sender and as a recipient.
pub fn node_name(id: NodeId) -> String {
    format!("node-{id}")
}

/// The id in a node's name; `None` for any other name.
pub fn node_id(name: &str) -> Option<NodeId> {
    name.strip_prefix("node-")?.parse().ok()
}

/// The name under which the daemon of a server sends.
pub fn daemon_name(server: &str) -> String {
    format!("daemon:{server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_of_nodes_convert_into_each_other() {
        assert_eq!(node_id(&node_name(12)), Some(12));
        assert_eq!((node_id(&daemon_name("1")), node_id("node-x"), node_id("node-")), (None, None, None));
    }

    #[test]
    fn names_and_purposes_convert_into_each_other() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::of_name(purpose.name()), Some(purpose));
        }
        assert_eq!(Purpose::of_name("Raft"), None);
    }
}
