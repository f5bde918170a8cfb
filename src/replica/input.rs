//! What a replica is told. The driver makes these of its messages.

use crate::balancer::{Report, ServerOrder};
use crate::raft::{Command, MemberChange, NodeId, RpcId, RpcReply, RpcRequest};

/// One message for the replica. `P` answers a peer, `D` answers a daemon or an operator: see [`replica`](super).
#[derive(Clone, Debug)]
pub enum Input<P, D> {
    /// A peer's request. It gets exactly one [`Effect::Reply`](super::Effect::Reply).
    Request {
        /// Who asks.
        from: NodeId,
        /// The incarnation of the peer's data directory.
        incarnation: u64,
        /// What it asks.
        request: RpcRequest,
        /// Who waits for the reply.
        caller: P,
    },
    /// The reply to a request of this node.
    Reply {
        /// Who replies.
        from: NodeId,
        /// The incarnation of the peer's data directory.
        incarnation: u64,
        /// Which request it was.
        rpc: RpcId,
        /// The reply.
        reply: RpcReply,
    },
    /// No reply came, and none will.
    Lost {
        /// Who was asked.
        to: NodeId,
        /// Which request it was.
        rpc: RpcId,
    },
    /// The peer does not work with this node: it refused the request, or this node its answer.
    Refused {
        /// Who was asked.
        from: NodeId,
        /// Which request it was.
        rpc: RpcId,
    },
    /// The leader's process seems to have died.
    LeaderGone {
        /// The leader that was watched.
        leader: NodeId,
    },
    /// An operator, or this node's own stop, wants leadership handed over.
    Transfer {
        /// The wished successor; the node that is furthest along if there is no wish.
        to: Option<NodeId>,
    },
    /// An operator wants other members. It gets exactly one [`Effect::Answer`](super::Effect::Answer).
    ChangeMembers {
        /// The change.
        change: MemberChange,
        /// Who waits for the outcome.
        caller: D,
    },
    /// An operator's order about a server. It gets exactly one [`Effect::Answer`](super::Effect::Answer).
    Order {
        /// The order.
        order: ServerOrder,
        /// Who waits for the outcome.
        caller: D,
    },
    /// A daemon's report. It gets exactly one [`Effect::Answer`](super::Effect::Answer).
    Report {
        /// The report.
        report: Report,
        /// The same report, as a command of the log. Whoever received the report makes it, so that the one Raft loop need not.
        command: Command,
        /// Who waits for the outcome.
        caller: D,
    },
}

/// How many inputs waited, unread, at the end of a batch. The driver looks at its clock first and counts then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Of consensus: everything but reports.
    pub messages: usize,
    /// Reports.
    pub reports: usize,
}
