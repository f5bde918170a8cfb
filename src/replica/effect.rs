//! What a replica wants done, told apart by type. The order in which effects come out is the order in which they are safe.

use std::net::SocketAddr;
use std::time::Duration;

use super::agreement::Contradiction;
use super::notice::ReplicaNotice;
use crate::balancer::{OrderEffect, Stamp};
use crate::raft::{
    ChangeRefused, Configuration, Durable, Index, Membership, NodeId, RoleName, RpcId, RpcReply, RpcRequest,
    Term,
};

/// One thing to do. `P` and `D` are the callers' tokens: see [`replica`](super).
#[derive(Clone, Debug)]
pub enum Effect<P, D> {
    /// Hand a request to the network. If it is a promise, it came out only after it was durable.
    Send {
        /// The receiver.
        to: NodeId,
        /// Comes back with the reply, or with word of the loss.
        rpc: RpcId,
        /// The request.
        request: RpcRequest,
    },
    /// Make this durable, then call [`Replica::durable`](super::Replica::durable) with its mark. If that fails, the node must stop.
    Write(Write),
    /// Hand a reply to the peer that waits for it. It came out only after what it promises was durable.
    Reply {
        /// Who waits.
        caller: P,
        /// The reply.
        reply: RpcReply,
    },
    /// Show [`Replica::table`](super::Replica::table) and [`Replica::standing`](super::Replica::standing) to everybody else.
    Publish,
    /// Write down, without a sync, that the log is committed up to here: `Storage::remember`. The entry is durable.
    Remember {
        /// Its index.
        index: Index,
        /// Its term.
        term: Term,
    },
    /// Watch the process of this leader from now on; `None`: nobody's.
    Watch(Option<NodeId>),
    /// Go by these members from now on: reach them, and for a while the nodes in `leaving`, which were removed.
    Members {
        /// The members, and the index of their entry.
        configuration: Configuration,
        /// Who left, and is still to be told.
        leaving: Vec<NodeId>,
    },
    /// Tell a daemon what became of its report, or an operator what became of his order.
    Answer {
        /// Who waits.
        caller: D,
        /// What became of it.
        outcome: ReportOutcome,
    },
    /// A proposal of this node has ended. It comes before the answers that it causes. For whoever counts.
    ProposalEnded {
        /// How long ago it was proposed.
        took: Duration,
        /// Whether it is committed. If not, it may still be committed later, by another leader.
        committed: bool,
    },
    /// Something that a person who reads the log file wants to know.
    Notice(ReplicaNotice),
}

/// What the disk must hold.
#[derive(Clone, Debug)]
pub struct Write {
    /// Names this write. Marks grow.
    pub mark: u64,
    /// To be made durable in this order: `Storage::make_durable`.
    pub steps: Vec<Durable>,
}

/// What became of a report, or of an operator's order, also of one to change the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    /// It is committed. (A report: and the server table took it.)
    Committed {
        /// Its index in the log.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
    },
    /// The report is not newer than one of the same server that is committed: it changed nothing.
    Stale {
        /// The index of the newest committed report of that server.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
        /// The epoch and sequence of that report.
        newest: Stamp,
    },
    /// The order is committed and applied.
    Ordered {
        /// Its index in the log.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
        /// What it came to.
        effect: OrderEffect,
    },
    /// The name belongs to another daemon, which runs: the report changed nothing.
    OtherDaemon {
        /// Where that daemon's worker is.
        worker: SocketAddr,
    },
    /// This node does not lead. It remembers that the server reported, in case it leads soon.
    NotLeader {
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// This node lost leadership before the report was committed: the report may or may not be committed.
    Unknown,
    /// This node leads, and does not begin this change of members.
    Refused(ChangeRefused),
    /// It was not written: leadership is being handed over, or too many entries wait for a majority.
    Busy,
    /// The server table did not take the report: it is full of other, living servers.
    TableFull,
}

/// How a node stands in the consensus: for `/status`, `/readyz` and the age of the state that requests are served from.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Whom it follows (itself, if it leads).
    pub leader: Option<NodeId>,
    /// Whom it voted for in `term`.
    pub voted_for: Option<NodeId>,
    /// Up to here the log is committed, as far as it knows.
    pub commit_index: Index,
    /// Up to here the log is in the server table.
    pub applied_index: Index,
    /// The newest entry in the server table is of the current term: what earlier leaders committed is in it as well (a
    /// leader begins with a no-op of its own). A node that has just started knows of commits only from then on.
    pub settled: bool,
    /// The end of its log.
    pub last_index: Index,
    /// The end of its snapshot.
    pub snapshot_index: Index,
    /// How many of its proposals wait for their commit.
    pub proposals_pending: usize,
    /// How it stands to the members that it goes by.
    pub membership: Membership,
    /// The index of their entry; 0 for the founding.
    pub members_index: Index,
    /// It began without memory and does not count yet: it does not vote, and its acknowledgements do not count.
    pub joining: bool,
    /// Its state contradicts another one: it serves nothing.
    pub contradiction: Option<Contradiction>,
    /// When it last had word of a working leader (as leader: of a majority), since the node's start; `None` before the
    /// first word.
    pub last_contact: Option<Duration>,
    /// How old the state was, by the same measure, at the node's start.
    pub age_at_start: Duration,
}

impl Standing {
    /// For how long this node has been without a leader, if that is longer than the upper election timeout: what it
    /// serves from may be out of date by so much.
    pub fn stale_for(&self, now: Duration, election_timeout_max: Duration) -> Option<Duration> {
        let age = self.age(now);
        (age > election_timeout_max).then_some(age)
    }

    /// How long ago this node, or its process before the last restart, had word of a working leader.
    pub fn age(&self, now: Duration) -> Duration {
        match self.last_contact {
            Some(contact) => now.saturating_sub(contact),
            None => self.age_at_start + now,
        }
    }
}
