//! What a node says of itself to everyone: its status and its log.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::path;
use crate::raft::{Entry, Index, NodeId, RoleName, Term};

/// The answer to `GET /status`: this node's own view. Keys in the order of docs/protocol.md.
///
/// Unknown keys are passed over, so that `rakit status` can ask nodes of a later build and say that they are.
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
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// Whom it voted for in `term`.
    pub voted_for: Option<NodeId>,
    /// Up to here the log is committed, as far as it knows.
    pub commit_index: Index,
    /// Up to here the log is in the server table.
    pub applied_index: Index,
    /// The end of its log.
    pub last_index: Index,
    /// The end of its snapshot.
    pub snapshot_index: Index,
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
    /// Other nodes that it does not work with at present.
    pub refusals: Vec<PeerRefusal>,
    /// The server table, by name.
    pub servers: Vec<ServerStatus>,
}

/// Another node, and why the two do not work together: one of them refuses what the other one says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRefusal {
    /// The other node.
    pub node: NodeId,
    /// What the difference is and how to mend it, in one line.
    pub reason: String,
}

/// One server: what is agreed, and (`in_flight`, `stalled`, `avoided`) what the node that answers knows alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub id: String,
    /// Where its worker listens.
    pub worker: SocketAddr,
    /// Percent of its processors that was busy at its last committed report.
    pub cpu: f64,
    /// How many processors it has.
    pub cores: u32,
    /// Whether it lives, by consensus.
    pub alive: bool,
    /// Whether its worker listened at its last committed report: without, no request goes there.
    pub worker_up: bool,
    /// When its daemon started, in milliseconds since 1970.
    pub epoch: u64,
    /// Which report since then the last committed one is.
    pub sequence: u64,
    /// Requests of this node that it has not answered yet.
    pub in_flight: usize,
    /// Whether this node passes it over since it swallows requests.
    pub stalled: bool,
    /// Whether this node avoids it for a moment since it failed.
    pub avoided: bool,
}

/// One element of the answer to `GET /log`.
pub type LogEntry = Entry;

/// The most entries that `GET /log` gives at once.
pub const LOG_LIMIT_MAX: usize = 1_000;

/// How many it gives if it is not told.
const LOG_LIMIT_DEFAULT: usize = 100;

/// Which entries of the log are asked for: the query of `GET /log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Those after this index.
    pub after: Index,
    /// At most so many; 1 to [`LOG_LIMIT_MAX`].
    pub limit: usize,
}

impl LogQuery {
    /// Reads a query such as `after=7&limit=2`; `None` if it is not one.
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
