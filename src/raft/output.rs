//! What a step of the core decides, told apart by type so that a driver cannot do it in an unsafe order.
//!
//! A driver (the replica in `src/replica/`, the tests of the core in `tests/raft/`) takes an [`Output`] and must:
//! 1. hand every [`SendNow`] to the network, at any time from now on;
//! 2. make everything in `durable` durable, in its order;
//! 3. only then hand every [`SendOnceDurable`] to the network, and tell the core [`Event::Persisted`](super::Event);
//! 4. apply everything in `apply` to the state machine, in its order (not before step 2);
//! 5. answer the proposals in `resolved`, each after its entry was applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{
    ChangeRefused, Entry, HardState, Index, NodeId, Record, RoleName, RpcReply, RpcRequest, Snapshot, Term,
};

/// Names one request that this core sent: its reply, or word of its loss, comes back with it.
pub type RpcId = u64;

/// Names one request that this core received: the driver's own number, given back with the reply.
pub type ReplyToken = u64;

/// Names one proposal: the driver's own number, given back with its outcome.
pub type ProposalId = u64;

/// Everything that the core wants done since it was last asked.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// May be sent at once: it promises nothing that the disk must remember.
    pub send_now: Vec<SendNow>,
    /// Must be made durable, in this order, with one sync for all.
    pub durable: Vec<Durable>,
    /// Identifies `durable`; goes back in `Event::Persisted`. Marks grow.
    pub mark: u64,
    /// May be sent once `durable`, of this and all earlier outputs, is durable: votes and acknowledgements.
    pub send_once_durable: Vec<SendOnceDurable>,
    /// Committed: to be applied to the state machine.
    pub apply: Vec<Apply>,
    /// What became of proposals.
    pub resolved: Vec<(ProposalId, Resolution)>,
    /// What a person who reads the log file wants to know.
    pub notices: Vec<Notice>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send_now.is_empty()
            && self.durable.is_empty()
            && self.send_once_durable.is_empty()
            && self.apply.is_empty()
            && self.resolved.is_empty()
            && self.notices.is_empty()
    }
}

/// A request that promises nothing, so it may leave before the disk has finished: every request but RequestVote. A
/// leader writes in parallel with its followers (thesis 10.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendNow {
    /// The receiver.
    pub to: NodeId,
    /// Comes back with the reply.
    pub rpc: RpcId,
    /// What to send.
    pub request: RpcRequest,
}

/// A message that is a promise, or depends on one. It may leave only after the promise is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOnceDurable {
    /// RequestVote: the candidate's new term and its vote for itself must be durable.
    Request {
        /// The receiver.
        to: NodeId,
        /// Comes back with the reply.
        rpc: RpcId,
        /// What to send.
        request: RpcRequest,
    },
    /// The answer to a request: a vote, an acknowledgement.
    Reply {
        /// Who asked.
        to: NodeId,
        /// As it came with the request.
        token: ReplyToken,
        /// The answer.
        reply: RpcReply,
    },
}

/// One change of what the disk must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durable {
    /// One record at the end of the log file.
    Record(Record),
    /// The snapshot is to be made durable first, and only then everything before it to be dropped from the log file,
    /// which then holds the hard state and the retained entries (those after the snapshot).
    Compact {
        /// The state up to its `last_index`.
        snapshot: Arc<Snapshot>,
        /// Term and vote, as they stand.
        hard_state: HardState,
        /// The entries after `snapshot.last_index`.
        retained: Vec<Entry>,
    },
}

/// One step of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Apply this entry; its index is the applied index plus one.
    Entry(Entry),
    /// Replace the whole state: the applied index becomes the snapshot's `last_index`.
    Restore(Arc<Snapshot>),
}

/// What became of a proposal. Every proposal gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It is committed, and its entry is in `apply` of this same output.
    Committed {
        /// Its index in the log.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// This node does not lead; nothing was written.
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// This node leads, but cannot take more now (leadership is being handed over, or too much is uncommitted);
    /// nothing was written.
    Busy,
    /// This node leads, and does not begin this change of members; nothing was written.
    Refused(ChangeRefused),
    /// This node lost its leadership before the entry was committed: it may or may not commit.
    Unknown,
}

/// Something worth a line in the log file. [`Notice::line`] gives that line; docs/log-lines.md explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The role changed, or the term of a follower.
    Role {
        /// The new role.
        role: RoleName,
        /// The term it is held in.
        term: Term,
        /// Why; for a leader: who elected it.
        reason: String,
    },
    /// This node voted.
    VoteGranted {
        /// For whom.
        to: NodeId,
        /// In which term.
        term: Term,
        /// Whether it was only a pre-vote.
        pre: bool,
    },
    /// This node refused its vote.
    VoteRefused {
        /// To whom.
        to: NodeId,
        /// For which term.
        term: Term,
        /// Whether it was only a pre-vote.
        pre: bool,
        /// Why.
        reason: String,
    },
    /// A vote for this node came in.
    VoteReceived {
        /// From whom.
        from: NodeId,
        /// For which term.
        term: Term,
        /// Whether it was only a pre-vote.
        pre: bool,
        /// Votes so far, this node's own included.
        votes: usize,
        /// Votes needed.
        majority: usize,
    },
    /// A leader was found.
    LeaderFound {
        /// Who.
        leader: NodeId,
        /// In which term.
        term: Term,
    },
    /// The leader was lost.
    LeaderLost {
        /// Who led.
        leader: NodeId,
        /// In which term.
        term: Term,
        /// How it was noticed.
        reason: String,
    },
    /// Entries that were never committed gave way to the leader's.
    Truncated {
        /// The first index that is gone.
        from: Index,
        /// How many are gone.
        count: u64,
    },
    /// A snapshot of this node's own state has replaced the log's prefix.
    Compacted {
        /// Up to and including this index.
        index: Index,
    },
    /// A leader's snapshot has replaced this node's state.
    SnapshotInstalled {
        /// Up to and including this index.
        index: Index,
    },
    /// A follower needs a snapshot: the entries it lacks are compacted.
    SnapshotSent {
        /// The follower.
        to: NodeId,
        /// Up to and including this index.
        index: Index,
    },
    /// This node begins without memory: it does not count yet.
    Joining,
    /// A round of questions founded nothing, for other reasons than the round before.
    FoundingWaits {
        /// How many nodes, this one included, are joining.
        new: usize,
        /// How many are needed.
        majority: usize,
        /// Who has lived, or counts already.
        lived: BTreeSet<NodeId>,
        /// Who has another founding.
        refused: BTreeSet<NodeId>,
    },
    /// This node counts: it is a founder.
    Founded {
        /// All founders, this one included.
        founders: BTreeSet<NodeId>,
    },
    /// This node counts: its leader admitted it.
    Admitted {
        /// The leader.
        leader: NodeId,
        /// The entry that this node had to have.
        barrier: Index,
    },
    /// This leader does not count a peer, since it is joining.
    PeerJoining {
        /// The peer.
        peer: NodeId,
        /// The entry that the peer must have.
        barrier: Index,
    },
    /// This node goes by another list of members from now on.
    Members {
        /// The index of its entry; 0 for the founding.
        index: Index,
        /// The members, in words.
        members: String,
    },
    /// A learner has caught up: this leader proposes that it votes.
    CaughtUp {
        /// The learner.
        peer: NodeId,
    },
    /// This node was removed, and this is committed.
    Removed {
        /// The index of the list without it.
        index: Index,
    },
    /// Leadership is being handed over.
    Transfer {
        /// What happens with it.
        text: String,
    },
    /// A peer or its message cannot be right; it was ignored.
    Suspicious {
        /// What is wrong.
        text: String,
    },
}

impl Notice {
    /// The line that node `id`, whose notice this is, writes. It names every node, so that the lines of several nodes can
    /// be read in one listing, and each line alone.
    pub fn line(&self, id: NodeId) -> String {
        match self {
            Self::Role { role: RoleName::Leader, term, reason } => {
                format!("role: node {id} leads term {term}, {reason}")
            }
            Self::Role { role, term, reason } => {
                format!("role: node {id} is a {role} in term {term}: {reason}")
            }
            Self::VoteGranted { to, term, pre: true } => {
                format!("pre-vote: node {id} would vote for node {to} in term {term}")
            }
            Self::VoteGranted { to, term, pre: false } => {
                format!("vote: node {id} votes for node {to} in term {term}")
            }
            Self::VoteRefused { to, term, pre: true, reason } => {
                format!("pre-vote: node {id} would not vote for node {to} in term {term}: {reason}")
            }
            Self::VoteRefused { to, term, pre: false, reason } => {
                format!("vote: node {id} does not vote for node {to} in term {term}: {reason}")
            }
            Self::VoteReceived { from, term, pre, votes, majority } => {
                let kind = if *pre { "pre-vote" } else { "vote" };
                format!(
                    "{kind}: node {id} got the {kind} of node {from} in term {term}: {votes} of {majority} needed"
                )
            }
            Self::LeaderFound { leader, term } => {
                format!("leader found: node {id} follows node {leader}, which leads term {term}")
            }
            Self::LeaderLost { leader, term, reason } => {
                format!(
                    "leader lost: node {id} stops following node {leader}, which led term {term}: {reason}"
                )
            }
            Self::Truncated { from, count } => format!(
                "log: node {id} drops {count} uncommitted entries from index {from} on: the leader has others there"
            ),
            Self::Compacted { index } => {
                format!("log: node {id} compacts its log: a snapshot holds all up to index {index}")
            }
            Self::SnapshotInstalled { index } => {
                format!("log: node {id} has installed the leader's snapshot up to index {index}")
            }
            Self::SnapshotSent { to, index } => format!(
                "log: node {to} is too far behind; node {id}, the leader, sends it the snapshot up to index {index}"
            ),
            Self::Joining => format!(
                "joining: node {id} begins with a new or emptied directory; until it is filled or helps to found the cluster, \
                 it does not vote, and its acknowledgements do not count"
            ),
            Self::FoundingWaits { new, majority, lived, refused } => {
                let mut why = Vec::new();
                if new < majority {
                    why.push(format!("new nodes that it knows, itself included: {new}, needed: {majority}"));
                }
                if !lived.is_empty() {
                    why.push(format!("{} lived before, so a leader has to admit node {id}", named(lived)));
                }
                if !refused.is_empty() {
                    why.push(format!("{} refused it as one of another cluster", named(refused)));
                }
                format!("joining: node {id} founds no cluster yet: {}", why.join("; "))
            }
            Self::Founded { founders } => {
                format!("joining: node {id} counts from now on: {} founded the cluster", named(founders))
            }
            Self::Admitted { leader, barrier } => format!(
                "joining: node {id} counts from now on: node {leader}, the leader, has filled it up to index {barrier}"
            ),
            Self::PeerJoining { peer, barrier } => format!(
                "joining: node {peer} has a new or emptied directory; node {id}, the leader, does not count it before it \
                 has index {barrier}"
            ),
            Self::Members { index: 0, members } => {
                format!("members: node {id} goes back to the members of the founding: {members}")
            }
            Self::Members { index, members } => {
                format!("members: node {id} goes by the members of entry {index} from now on: {members}")
            }
            Self::CaughtUp { peer } => format!(
                "members: node {peer} has caught up; node {id}, the leader, proposes that it votes from now on"
            ),
            Self::Removed { index } => format!(
                "members: node {id} was removed from the cluster by entry {index}: it campaigns no more, and may be stopped"
            ),
            Self::Transfer { text } => format!("transfer: {text}"),
            Self::Suspicious { text } => format!("suspicious: {text}"),
        }
    }
}

/// These nodes, for a sentence: "nodes 1, 3, 4".
pub(super) fn named(nodes: &BTreeSet<NodeId>) -> String {
    let ids: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("node{} {}", if ids.len() == 1 { "" } else { "s" }, ids.join(", "))
}
