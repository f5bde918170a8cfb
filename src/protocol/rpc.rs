//! The messages between nodes: the RPCs of Raft, and the watch of the leader.
//!
//! The arguments and results are [`RpcRequest`] and [`RpcReply`] of the Raft core. An unknown field in the
//! envelope or in a message is refused: it cannot happen between two builds of one version.

use serde::{Deserialize, Serialize};

use crate::raft::{NodeId, RpcReply, RpcRequest};

/// The body of an RPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestEnvelope {
    /// The random number that the sender's data directory got when it was made. When the number of a node
    /// changes, the node has lost its disk.
    pub incarnation: u64,
    /// The request.
    pub request: RpcRequest,
}

/// The body of the answer to an RPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyEnvelope {
    /// The incarnation of the replier's data directory.
    pub incarnation: u64,
    /// The reply.
    pub reply: RpcReply,
}

/// The body of the request that a follower keeps open at its leader: `{}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {}

/// Names the leader. The answer to [`WatchRequest`], and to a [`TransferRequest`](super::TransferRequest) if
/// the node that received it does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownLeader {
    /// The leader's id; null if the node that answers knows none.
    pub leader: Option<NodeId>,
}
