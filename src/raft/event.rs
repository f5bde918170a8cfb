//! What can happen to a node: the only way into the core. The driver hands each event to [`Raft::step`](super::Raft::step).

use super::{Command, Index, NodeId, ProposalId, ReplyToken, RpcId, RpcReply, RpcRequest};

/// Something that happened, as the driver tells it.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: at the latest at [`Raft::deadline`](super::Raft::deadline), and only after what had already arrived was stepped (a process
    /// that was paused must first read its mail, else it would take its own sleep for its leader's).
    Tick,
    /// A request from a peer came in. Exactly one reply with this token will be in an output.
    Request {
        /// The sender, as the transport knows it.
        from: NodeId,
        /// Given back with the reply.
        token: ReplyToken,
        /// What it asks.
        request: RpcRequest,
    },
    /// The reply to a request of this node came in.
    Reply {
        /// Who replies.
        from: NodeId,
        /// As it was sent.
        rpc: RpcId,
        /// The answer.
        reply: RpcReply,
    },
    /// A request of this node got no reply and will get none: refused, reset, timed out.
    Lost {
        /// To whom it was sent.
        to: NodeId,
        /// As it was sent.
        rpc: RpcId,
    },
    /// A client wants this command in the log. Exactly one [`Resolution`](super::Resolution) will follow.
    Propose {
        /// Given back with the outcome.
        id: ProposalId,
        /// The command.
        command: Command,
    },
    /// Everything in `durable` of the output with this mark, and of all before it, is durable.
    Persisted {
        /// [`Output::mark`](super::Output::mark).
        mark: u64,
    },
    /// The state machine's state as of the applied index `at`: the log up to there may go.
    Compact {
        /// The applied index at which the state was taken.
        at: Index,
        /// The state.
        state: Command,
    },
    /// A hint, not proof, that the leader's process has died (design: "Failover").
    LeaderGone {
        /// The leader that was watched.
        leader: NodeId,
    },
    /// The peer runs on another data directory than before: what was known of its log is void.
    PeerReset {
        /// The peer.
        peer: NodeId,
    },
    /// Hand leadership over: to this node, or to the one that is furthest along.
    Transfer {
        /// The wished successor.
        to: Option<NodeId>,
    },
}
