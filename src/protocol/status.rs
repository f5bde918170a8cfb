//! What a node shows to everyone on its public address: its status and its log.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::members::MemberStatus;
use super::path;
use crate::raft::{Index, Membership, NodeId, RoleName, Term};

/// The answer to `GET /status`: this node's own view. Keys in the order of docs/protocol.md.
///
/// Unknown keys are ignored, so that `rakit status` can read the status of a later build and name its
/// version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// The node's own id.
    pub node: NodeId,
    /// Its role in the consensus.
    pub role: RoleName,
    /// Its current term.
    pub term: Term,
    /// The leader of its term, if it knows one.
    pub leader: Option<NodeId>,
    /// The node that it voted for in `term`.
    pub voted_for: Option<NodeId>,
    /// The last index that it knows to be committed.
    pub commit_index: Index,
    /// The last index that it has applied to the server table.
    pub applied_index: Index,
    /// The end of its log.
    pub last_index: Index,
    /// The end of its snapshot.
    pub snapshot_index: Index,
    /// Whether it began without memory and does not count yet: it does not vote, and its acknowledgements do not count.
    pub joining: bool,
    /// How it stands to the members that it goes by: `voter`, `learner`, `not_yet`, `leaving`, `removed`.
    pub membership: Membership,
    /// The index of the list of members; 0 for that of the founding.
    pub members_index: Index,
    /// The members that it goes by.
    pub members: Vec<MemberStatus>,
    /// A hash over the replicated state at `applied_index`.
    pub state_digest: String,
    /// How it chooses a server.
    pub policy: String,
    /// How long its process has run, in milliseconds.
    pub uptime_ms: u64,
    /// The version of the program.
    pub version: String,
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the program.
    pub protocol: u32,
    /// Other nodes with which it cannot work at present.
    pub refusals: Vec<PeerRefusal>,
    /// For how long its disk or its Raft loop has been stuck, in milliseconds, if that is longer than the upper election
    /// timeout. Then role and leader are those of a node without a leader, and the rest is as old as this.
    #[serde(default)]
    pub stuck_ms: Option<u64>,
    /// Why this node serves nothing: its state differs from the leader's, or from that of a majority.
    #[serde(default)]
    pub contradiction: Option<String>,
    /// In a demonstration: the nodes from which nothing arrives, since somebody ordered so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deaf_to: Vec<NodeId>,
    /// In a demonstration: what is lost on its way to this node, whoever sends it, since somebody ordered so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loses: Vec<Lost>,
    /// The server table, by name.
    pub servers: Vec<ServerStatus>,
}

/// Another node, and why the two cannot work together: one of them refuses the other's messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRefusal {
    /// The other node.
    pub node: NodeId,
    /// What the difference is and how to mend it, in one line.
    pub reason: String,
}

/// One server. All nodes agree on these values, except `in_flight`, `stalled`, `avoided` and `also_reported`: those are
/// observations of the node that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub id: String,
    /// Where its worker listens.
    pub worker: SocketAddr,
    /// How much of its processor time was busy, in percent, by its last committed report.
    pub cpu: f64,
    /// How many processors its worker may use.
    pub cores: u32,
    /// Whether `cpu` was measured, by its last committed report. If not, it gets a request only if no other server is there.
    #[serde(default = "yes")]
    pub cpu_known: bool,
    /// Whether it is alive, as agreed by the nodes.
    pub alive: bool,
    /// Whether an operator drained it: no node sends it new requests.
    #[serde(default)]
    pub drained: bool,
    /// Whether its worker listened, by its last committed report. If not, no node sends it requests.
    pub worker_up: bool,
    /// When its daemon started, in milliseconds since 1970.
    pub epoch: u64,
    /// The sequence of its last committed report.
    pub sequence: u64,
    /// Requests of this node that it has not answered yet.
    pub in_flight: usize,
    /// Whether this node passes it over, since it owes an answer for long while its worker does nothing.
    pub stalled: bool,
    /// Whether this node avoids it for a moment, since a request to it failed.
    pub avoided: bool,
    /// The worker's address in the reports of a second daemon with this name, which this node heard lately and which are refused.
    pub also_reported: Option<SocketAddr>,
}

fn yes() -> bool {
    true
}

/// The most entries that `GET /log` gives at once.
pub const LOG_LIMIT_MAX: usize = 1_000;

/// How many entries it gives if the query has no `limit`.
const LOG_LIMIT_DEFAULT: usize = 100;

/// The query of `GET /log`: which entries the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// The entries after this index.
    pub after: Index,
    /// At most this many; 1 to [`LOG_LIMIT_MAX`].
    pub limit: usize,
}

impl LogQuery {
    /// Reads a query such as `after=7&limit=2`; `None` if it is not valid.
    pub fn parse(query: &str) -> Option<Self> {
        let mut parsed = Self { after: 0, limit: LOG_LIMIT_DEFAULT };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("after", value) => parsed.after = value.parse().ok()?,
                ("limit", value) => parsed.limit = value.parse().ok()?,
                _ => return None,
            }
        }
        (1..=LOG_LIMIT_MAX).contains(&parsed.limit).then_some(parsed)
    }

    /// The path and query that ask for these entries.
    pub fn target(&self) -> String {
        format!("{}?after={}&limit={}", path::LOG, self.after, self.limit)
    }
}

/// What a demonstration may lose on its way to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// AppendEntries, which are the heartbeats, and InstallSnapshot.
    Heartbeats,
    /// The answers to its RequestVote.
    Votes,
    /// The answers to its RequestVote of one term: of the next in which it is a candidate.
    NextVote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_it_was_written() {
        let query = LogQuery { after: u64::MAX, limit: LOG_LIMIT_MAX };
        let target = query.target();
        assert_eq!(LogQuery::parse(target.split_once('?').expect("a query").1), Some(query));
        let default = LogQuery { after: 0, limit: LOG_LIMIT_DEFAULT };
        assert_eq!((LogQuery::parse(""), LogQuery::parse("&after=0")), (Some(default), Some(default)));
        for bad in ["after", "after=x", "after=-1", "limit=0", "limit=1001", "until=3", "limit=+"] {
            assert_eq!(LogQuery::parse(bad), None, "{bad}");
        }
    }
}
