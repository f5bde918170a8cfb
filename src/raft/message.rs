//! Raft's messages, and what one node must keep on its disk.
//!
//! Names and meanings are those of Figure 2 (and Figure 13 for snapshots) of the Raft paper; `PreVote` is from
//! section 9.6 and `TimeoutNow` from section 3.10 of Ongaro's thesis. Each request has one reply, as in HTTP,
//! so a reply need not name its request. But it names the replier's term and what it acknowledges. So a reply
//! does no harm if it arrives late, or twice.
//!
//! Used by the core beside this file, by `storage` (records on disk) and by `node` (HTTP). The JSON form of
//! these types is what goes over the network; docs/protocol.md shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::configuration::Configuration;

/// The version of everything that two builds must have in common: what goes over the wire, what stands on disk, and the
/// rules by which every node makes the same table of the same log. Requests, answers, logs and snapshots carry it, and
/// another one is refused by name (docs/protocol.md, "The version").
///
/// To be raised by one whenever an earlier build could read something wrongly, or make another table of the same log: a
/// change of a path, a key or its meaning, a header, the frame of a signature, the form of a record, the check of a
/// report, or a rule of the server table. Not for what only one node decides for itself, such as time-outs, log lines or
/// the choice of a server.
pub const PROTOCOL_VERSION: u32 = 5;

/// Names a node: the `id` of its `[[node]]` in cluster.toml. At least 1.
pub type NodeId = u64;

/// Raft's logical clock: at most one leader per term. 0 before the first election.
pub type Term = u64;

/// The position of an entry in the log. The first entry has index 1; 0 means "before the first".
pub type Index = u64;

/// What an entry asks the state machine to do: one JSON text, opaque to Raft.
///
/// It is JSON so that the log on disk and `GET /log` can be read by a person, and raw, so that Raft neither parses nor
/// copies it. `null` is the no-op with which a leader begins its term (paper, section 8).
#[derive(Clone)]
pub struct Command(Arc<RawValue>);

impl Command {
    /// The no-op of a new leader: JSON `null`.
    pub fn noop() -> Self {
        Self(Arc::from(RawValue::NULL.to_owned()))
    }

    /// A command with the JSON form of `value`, on one line.
    ///
    /// # Errors
    /// When `value` has no JSON form (a map whose keys are not strings).
    pub fn from_value<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self(Arc::from(serde_json::value::to_raw_value(value)?)))
    }

    /// A command from its JSON text.
    ///
    /// # Errors
    /// When the text is not one JSON value on one line.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        if text.bytes().any(is_line_break) {
            return Err(serde::de::Error::custom(LINE_BREAK));
        }
        Ok(Self(Arc::from(RawValue::from_string(text)?)))
    }

    /// The JSON text. It holds no line break.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Whether this is the no-op of a new leader.
    pub fn is_noop(&self) -> bool {
        self.as_json() == "null"
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Command {}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        // The log on disk has one record per line. Commands are written without line breaks by us; a peer that sends
        // one with line breaks is not one of us.
        if raw.get().bytes().any(is_line_break) {
            return Err(serde::de::Error::custom(LINE_BREAK));
        }
        Ok(Self(Arc::from(raw)))
    }
}

const LINE_BREAK: &str = "a command must stand on one line";

fn is_line_break(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its position in the log, from 1.
    pub index: Index,
    /// The term of the leader that received it.
    pub term: Term,
    /// What the state machine shall do.
    pub command: Command,
}

/// What a node must never forget besides its log (Figure 2, "Persistent state on all servers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// The candidate that got this node's vote in `term`, if any.
    pub voted_for: Option<NodeId>,
    /// The node began without memory and does not count yet: see `joining.rs`. Goes from true to false, never back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
}

/// The state machine's whole state as of one index: it replaces the log up to there (paper, section 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The last entry that the snapshot replaces.
    pub last_index: Index,
    /// That entry's term.
    pub last_term: Term,
    /// The state, opaque to Raft, as JSON.
    pub state: Command,
    /// The newest list of members up to there; `None`: that of the founding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Configuration>,
}

/// One change of what the disk must hold. A node's durable state is the fold of its records, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// The term or the vote changed.
    HardState(HardState),
    /// All entries from `from` on are gone: they conflicted with the leader's.
    Truncate {
        /// The first index that is gone. It is above the snapshot's last index.
        from: Index,
    },
    /// One entry at the end of the log: its index is the last index plus one.
    Entry(Entry),
    /// With whom this node founded the cluster.
    Founders(Founders),
}

/// The nodes that founded a cluster together, each with the incarnation of its directory (`joining.rs`).
pub type Founders = BTreeMap<NodeId, u64>;

/// A request from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RpcRequest {
    /// "Would you vote for me?" Asked before the term is raised (thesis 9.6).
    PreVote(RequestVote),
    /// "Vote for me." (Figure 2)
    RequestVote(RequestVote),
    /// New entries, or none: a heartbeat. (Figure 2)
    AppendEntries(AppendEntries),
    /// A part of a snapshot, for a follower that is too far behind. (Figure 13)
    InstallSnapshot(InstallSnapshot),
    /// "Start an election at once": the last step of a transfer of leadership (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// "My state has this digest." It is the replica's business, not the core's: `src/replica/agreement.rs`.
    CompareState(CompareState),
    /// "Have you lived?" A fresh node asks before it helps to found the cluster (`joining.rs`).
    Founding(FoundingQuestion),
}

/// The answer to an [`RpcRequest`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RpcReply {
    /// To `PreVote`.
    PreVote(VoteReply),
    /// To `RequestVote`.
    RequestVote(VoteReply),
    /// To `AppendEntries`.
    AppendEntries(AppendReply),
    /// To `InstallSnapshot`.
    InstallSnapshot(InstallReply),
    /// To `TimeoutNow`.
    TimeoutNow(TimeoutNowReply),
    /// To `CompareState`.
    CompareState(CompareStateReply),
    /// To `Founding`.
    Founding(FoundingReply),
}

/// Arguments of `RequestVote`, and of `PreVote`, where `term` is the term that the sender would campaign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestVote {
    /// The candidate's term; for `PreVote` its current term plus one.
    pub term: Term,
    /// Who asks for the vote.
    pub candidate_id: NodeId,
    /// Index of the candidate's last log entry.
    pub last_log_index: Index,
    /// Term of the candidate's last log entry.
    pub last_log_term: Term,
    /// Set when a leader asked for this election (`TimeoutNow`): the voter then does not protect its leader.
    pub leadership_transfer: bool,
}

/// Result of `RequestVote` and `PreVote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteReply {
    /// The voter's current term, for the candidate to update itself.
    pub term: Term,
    /// The term that was asked about: this shows a late reply to an earlier campaign.
    pub for_term: Term,
    /// True means that the candidate received the vote.
    pub vote_granted: bool,
}

/// Arguments of `AppendEntries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The sender. In the paper, so that a follower can redirect clients; here every node serves its clients itself.
    pub leader_id: NodeId,
    /// Index of the entry immediately before the new ones.
    pub prev_log_index: Index,
    /// Term of that entry.
    pub prev_log_term: Term,
    /// The entries to store; none for a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub leader_commit: Index,
    /// The follower, which is joining, may count from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admit: Option<Admission>,
}

/// A leader's word to a joining node that it has what it needs (`joining.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Which directory of the node is meant.
    pub incarnation: u64,
    /// The entry that the node must have: the leader appended it after it had heard of this directory, and it is committed.
    pub barrier: Index,
}

/// Which life of a node speaks: each directory is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// The random number that was drawn when the directory was made.
    pub incarnation: u64,
    /// The node does not count yet ([`HardState::joining`]).
    pub joining: bool,
}

/// Result of `AppendEntries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendReply {
    /// The follower's current term, for the leader to update itself.
    pub term: Term,
    /// The follower's life.
    pub life: Life,
    /// The outcome.
    pub result: AppendResult,
}

/// The outcome of an `AppendEntries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AppendResult {
    /// The follower's log, durably, equals the leader's up to and including this index: just what *this* request
    /// verified or brought, never "my last index now".
    Success {
        /// prev_log_index plus the number of entries.
        match_index: Index,
    },
    /// The request's term is older than the follower's.
    StaleTerm,
    /// The follower has no entry at prev_log_index with prev_log_term (paper, end of section 5.3).
    Conflict {
        /// The request's `prev_log_index`: this shows a late refusal of an earlier probe.
        prev_log_index: Index,
        /// The term of the follower's entry at `prev_log_index`; `None` if its log is shorter.
        conflict_term: Option<Term>,
        /// The first index that the follower has of `conflict_term`; or, if its log is shorter, its last index + 1.
        conflict_index: Index,
    },
}

/// Arguments of `InstallSnapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// The sender. In the paper, so that a follower can redirect clients; here every node serves its clients itself.
    pub leader_id: NodeId,
    /// The snapshot replaces all entries up to and including this index.
    pub last_included_index: Index,
    /// Term of `last_included_index`.
    pub last_included_term: Term,
    /// Where this chunk begins in the snapshot's JSON text, in bytes.
    pub offset: u64,
    /// The chunk.
    pub data: String,
    /// True if this is the last chunk.
    pub done: bool,
    /// CRC-32 of the whole snapshot's JSON text: chunks of two snapshots never mix.
    pub checksum: u32,
    /// The newest list of members up to there; `None`: that of the founding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Configuration>,
}

/// Result of `InstallSnapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallReply {
    /// The follower's current term, for the leader to update itself.
    pub term: Term,
    /// The follower's life.
    pub life: Life,
    /// The snapshot that was spoken of.
    pub last_included_index: Index,
    /// The offset from which the follower wants the next chunk; 0 to start over.
    pub next_offset: u64,
    /// The follower's log, durably, covers the snapshot.
    pub installed: bool,
}

/// Arguments of `TimeoutNow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
    /// The leader that hands over.
    pub leader_id: NodeId,
}

/// Result of `TimeoutNow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutNowReply {
    /// The receiver's current term.
    pub term: Term,
    /// Whether it starts an election.
    pub accepted: bool,
}

/// Arguments of `CompareState`: a leader names the digest of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareState {
    /// The leader's term.
    pub term: Term,
    /// Who leads.
    pub leader_id: NodeId,
    /// The applied index that the digest belongs to.
    pub index: Index,
    /// The digest of the leader's state as of `index`.
    pub digest: String,
    /// A majority of the nodes, the leader included, has this same digest.
    pub by_majority: bool,
}

/// Result of `CompareState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareStateReply {
    /// The follower's current term.
    pub term: Term,
    /// The index that was spoken of.
    pub index: Index,
    /// What the follower found.
    pub verdict: StateVerdict,
}

/// How a follower's state compares with its leader's at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateVerdict {
    /// The digests are equal.
    Same,
    /// The digests differ: one of the two nodes has a wrong state.
    Differs,
    /// The follower knows no digest of its own at that index, or does not follow the sender.
    Unknown,
}

/// Arguments of `Founding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundingQuestion {
    /// The incarnation of the directory of the node that asks.
    pub incarnation: u64,
}

/// Result of `Founding`: how the answerer stands. "Fresh" means that it has promised nothing to anybody: no vote, no
/// term, no entry beyond the founding's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FoundingReply {
    /// It is joining, and fresh.
    Joining {
        /// The incarnation of its directory.
        incarnation: u64,
    },
    /// It counts, and is fresh.
    Counting {
        /// The incarnation of its directory.
        incarnation: u64,
        /// The founders, as far as it knows.
        founders: Founders,
    },
    /// It is not fresh.
    Lived,
}
