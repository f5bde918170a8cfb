//! What the page for browsers shows: the answer to `GET /ui/state`, on a node and on the control room of `rakit up`.
//!
//! A browser lets the page ask only the address that it came from. So a node gives its own view and what it knows of the
//! others by Raft and by their counts of requests in flight; the control room gives the views of all nodes. Both have one
//! form, and the page draws either. The page and the program are of one build: nothing here has to be compatible.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Status;
use crate::raft::{Index, NodeId, Picture, Term};

/// The answer to `GET /ui/state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageState {
    /// Of each node that is shown: its newest view, and why there is no newer one.
    pub nodes: Vec<NodeOnPage>,
    /// On the control room only.
    pub room: Option<Room>,
}

/// One node, and how it sees the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOnPage {
    /// Which one.
    pub node: NodeId,
    /// Its view; `None` if it has given none, or gives none any more.
    pub view: Option<NodeView>,
    /// How old the view is, in milliseconds. 0 on the node itself.
    pub age_ms: u64,
    /// Why there is no newer view.
    pub silent: Option<String>,
}

/// How one node sees the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// `GET /status` of this moment, with no more than [`SERVERS_SHOWN_MAX`] servers.
    pub status: Status,
    /// How many more servers there are.
    pub servers_hidden: usize,
    /// The ids of all nodes.
    pub members: Vec<NodeId>,
    /// This machine's clock, in microseconds since 1970: what `at_us` counts on, too.
    pub now_us: u64,
    /// How long ago it had word of a working leader, in milliseconds.
    pub age_ms: u64,
    /// The same, once it is so long that answers are marked with it (`X-Rakit-Stale-Ms`).
    pub stale_ms: Option<u64>,
    /// Times from cluster.toml.
    pub times: Times,
    /// Its consensus; `None` if the Raft loop did not answer in time.
    pub consensus: Option<Picture>,
    /// More about `status.servers`, in the same order.
    pub servers: Vec<ServerPicture>,
    /// The last requests for primes, oldest first: a sample, if there are many.
    pub requests: Vec<RequestPicture>,
    /// What happened last, oldest first.
    pub story: Vec<StoryEvent>,
}

/// The most servers of one view.
pub const SERVERS_SHOWN_MAX: usize = 64;

/// Times from cluster.toml that the page compares with, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    /// `heartbeat_ms`.
    pub heartbeat_ms: u64,
    /// The upper end of `election_timeout_ms`.
    pub election_timeout_ms: u64,
    /// `report_interval_ms`.
    pub report_interval_ms: u64,
    /// `server_timeout_ms`.
    pub server_timeout_ms: u64,
}

/// What the page shows of a server beside its status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerPicture {
    /// The log entry that decided whether it is alive.
    pub decided_at: Index,
    /// How long ago this node applied its newest report, in milliseconds.
    pub report_age_ms: u64,
    /// How many requests this node has sent there since its start.
    pub chosen: u64,
    /// Requests in flight there, by the node they come from: this node's own, and those that the others report.
    pub in_flight: BTreeMap<NodeId, u32>,
}

/// One request for a prime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestPicture {
    /// Grows with every kept request of this process.
    pub sequence: u64,
    /// When it ended.
    pub at_us: u64,
    /// N, in decimal digits: JavaScript's numbers are not exact above 2^53.
    pub n: String,
    /// The status of the answer.
    pub status: u16,
    /// Who answered.
    pub server: Option<String>,
    /// The loads that were compared, in percent, lowest first; `None` for a server that does not know its load.
    pub compared: Vec<(String, Option<f64>)>,
    /// How long it took.
    pub ms: f64,
    /// How many servers were asked.
    pub tries: usize,
    /// It was answered by a server that was asked because the first had stalled.
    pub hedged: bool,
}

/// Something that happened at this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryEvent {
    /// Grows with every event of this process.
    pub sequence: u64,
    /// When.
    pub at_us: u64,
    /// What.
    pub kind: StoryKind,
    /// The term that it is about.
    pub term: Option<Term>,
    /// The other node that it is about: who is voted for, who leads.
    pub other: Option<NodeId>,
    /// The server that it is about.
    pub server: Option<String>,
    /// The log index that decided it.
    pub index: Option<Index>,
    /// Why, in the words of the log file.
    pub reason: Option<String>,
    /// The line of the log file that says it.
    pub line: String,
}

impl StoryEvent {
    /// That this happened, and nothing else yet.
    pub fn new(kind: StoryKind) -> Self {
        Self {
            sequence: 0,
            at_us: 0,
            kind,
            term: None,
            other: None,
            server: None,
            index: None,
            reason: None,
            line: String::new(),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoryKind {
    /// This node leads.
    Leads,
    /// This node asks for votes.
    Candidate,
    /// This node asks whether it would get votes.
    PreCandidate,
    /// This node follows, in another term or after another role.
    Follower,
    /// This node votes for another.
    Vote,
    /// This node would vote for another.
    PreVote,
    /// This node follows a leader.
    LeaderFound,
    /// This node has lost its leader.
    LeaderLost,
    /// Entries that were never committed gave way to the leader's.
    Truncated,
    /// A leader's snapshot has replaced the state.
    SnapshotInstalled,
    /// This leader proposes that a silent server is dead.
    Overdue,
    /// A server is new.
    ServerNew,
    /// A server is dead.
    ServerDead,
    /// A server is alive again.
    ServerBack,
    /// A server's worker listens again.
    WorkerUp,
    /// A server's worker does not listen.
    WorkerDown,
    /// An operator drained a server.
    ServerDrained,
    /// An operator undrained a server.
    ServerUndrained,
    /// An operator had a dead server forgotten.
    ServerForgotten,
}

/// What only `rakit up` knows: its processes, and what was ordered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Room {
    /// Every process, by its name in `pids.json`.
    pub processes: BTreeMap<String, ProcessState>,
    /// Cut cables: what the first node sends does not arrive at the second.
    pub cut: Vec<(u16, u16)>,
    /// Requests per second that are being sent.
    pub requests_per_second: u32,
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It is stopped and can go on (SIGSTOP).
    Paused,
    /// It has ended, or was not started yet.
    Dead,
}
