//! The four roles, and what exists only in each. How a node changes from one to another is in
//! `transitions.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::{Index, NodeId, ProposalId};

/// The name of a role, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could be won (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// A role, and what exists only in it.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Who would vote for this node, and who would not. Sets, not counters: duplicates count once.
    PreCandidate {
        granted: BTreeSet<NodeId>,
        refused: BTreeSet<NodeId>,
    },
    /// Who votes for this node; itself only once its own vote is durable.
    Candidate {
        granted: BTreeSet<NodeId>,
    },
    Leader(Leader),
}

/// What a leader keeps (Figure 2, "Volatile state on leaders").
#[derive(Clone, Debug)]
pub(super) struct Leader {
    /// Who elected it: for people who watch. Nothing depends on it.
    pub(super) elected_by: BTreeSet<NodeId>,
    /// One for each other node.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// The proposals that wait for their entry to be committed, by index.
    pub(super) proposals: BTreeMap<Index, ProposalId>,
    /// The transfer of leadership that is under way, if any.
    pub(super) transfer: Option<Transfer>,
}

/// A transfer of leadership that is under way (thesis 3.10).
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    /// When the leader gives up and takes proposals again: after the upper election timeout (thesis 3.10).
    pub(super) deadline: Duration,
    /// The successor was sent TimeoutNow: it is sent once.
    pub(super) timeout_now_sent: bool,
}

impl Transfer {
    /// See `fingerprint.rs`.
    pub(super) fn fingerprint(&self, now: Duration, hasher: &mut impl Hasher) {
        (self.to, self.timeout_now_sent, self.deadline.saturating_sub(now)).hash(hasher);
    }
}
