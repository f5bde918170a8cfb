//! What can happen to a node: the only way into the core. The driver hands each event to [`Raft::step`](super::Raft::step).

use super::{Command, Index, MemberChange, NodeId, ProposalId, ReplyToken, RpcId, RpcReply, RpcRequest};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. The driver steps this at [`Raft::deadline`](super::Raft::deadline) at the latest, and only
    /// after all messages that had arrived. Otherwise a process that was paused would believe that its leader
    /// had been silent.
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
    /// A peer refused a request of this node, since it has another founding. It gets no other reply.
    Refused {
        /// Who refused.
        from: NodeId,
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
    /// An operator wants other members. Exactly one [`Resolution`](super::Resolution) will follow.
    ChangeMembers {
        /// Given back with the outcome.
        id: ProposalId,
        /// The change.
        change: MemberChange,
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
    /// A hint, not proof, that the leader's process has died (docs/raft.md, "The death hint").
    LeaderGone {
        /// The leader that was watched.
        leader: NodeId,
    },
    /// The peer runs on another data directory than before. What this node believed about the peer's log is no
    /// longer true.
    PeerReset {
        /// The peer.
        peer: NodeId,
    },
    /// Whether this node's state contradicts that of a majority. A node that is barred votes and stores as before, but never
    /// campaigns; a leader hands over or steps down.
    Barred {
        /// From now on.
        barred: bool,
    },
    /// Hand leadership over: to this node, or to the one that is furthest along.
    Transfer {
        /// The wished successor.
        to: Option<NodeId>,
    },
}
