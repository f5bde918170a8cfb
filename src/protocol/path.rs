//! The paths of a node's two addresses, and the purpose of each. Used by the node and by all who send to it.

use super::Purpose;
use crate::raft::RpcRequest;

/// Cluster address: a daemon's report.
pub const REPORT: &str = "/report";
/// Cluster address: opens a stream of signed requests, or keeps one ready.
pub const STREAM: &str = "/stream";
/// Cluster address: "Would you vote for me?"
pub const PRE_VOTE: &str = "/raft/pre-vote";
/// Cluster address: "Vote for me."
pub const REQUEST_VOTE: &str = "/raft/request-vote";
/// Cluster address: new entries, or a heartbeat.
pub const APPEND_ENTRIES: &str = "/raft/append-entries";
/// Cluster address: a part of a snapshot.
pub const INSTALL_SNAPSHOT: &str = "/raft/install-snapshot";
/// Cluster address: "Start an election at once."
pub const TIMEOUT_NOW: &str = "/raft/timeout-now";
/// Cluster address: "My state has this digest."
pub const COMPARE_STATE: &str = "/raft/compare-state";
/// Cluster address: "Have you lived?"
pub const FOUNDING: &str = "/raft/founding";
/// Cluster address: the request that a follower keeps open at its leader.
pub const WATCH: &str = "/raft/watch";
/// Cluster address: what a node has in flight at each server.
pub const IN_FLIGHT: &str = "/raft/in-flight";
/// Cluster address: the operator asks the leader to hand leadership over.
pub const TRANSFER: &str = "/raft/transfer";
/// Cluster address: the operator orders something about a server.
pub const SERVERS: &str = "/servers";

/// Cluster address: who the members are. Daemons and the operator ask.
pub const MEMBERS: &str = "/members";
/// Cluster address: the operator asks the leader for a change of members.
pub const CHANGE_MEMBERS: &str = "/raft/members";

/// Public address: a short usage text.
pub const USAGE: &str = "/";
/// Public address: this node's own view.
pub const STATUS: &str = "/status";
/// Public address: this node's Raft log.
pub const LOG: &str = "/log";
/// Public address: whether the process serves.
pub const HEALTHZ: &str = "/healthz";
/// Public address: whether the node knows a leader and has applied the committed state.
pub const READYZ: &str = "/readyz";
/// Public address: counters, for Prometheus.
pub const METRICS: &str = "/metrics";

/// Public address, and the control room of `rakit up`: what the page shows.
pub const PAGE_STATE: &str = "/ui/state";

/// Public address of a node that was started for it: from which nodes nothing arrives, in a demonstration.
pub const CUTS: &str = "/ui/cuts";

/// The path of an RPC of Raft. It names the kind of RPC, so that a person can read a log or a packet dump.
pub fn of_rpc(request: &RpcRequest) -> &'static str {
    match request {
        RpcRequest::PreVote(_) => PRE_VOTE,
        RpcRequest::RequestVote(_) => REQUEST_VOTE,
        RpcRequest::AppendEntries(_) => APPEND_ENTRIES,
        RpcRequest::InstallSnapshot(_) => INSTALL_SNAPSHOT,
        RpcRequest::TimeoutNow(_) => TIMEOUT_NOW,
        RpcRequest::CompareState(_) => COMPARE_STATE,
        RpcRequest::Founding(_) => FOUNDING,
    }
}

/// The purposes of requests to this path of the cluster address; `None` if there is no such path. A stream may be opened
/// for each purpose.
pub fn purposes(path: &str) -> Option<&'static [Purpose]> {
    match path {
        STREAM | MEMBERS => Some(&Purpose::ALL),
        // A node that hands a report on has checked it, and proves with the key of the nodes that it is one.
        REPORT => Some(&[Purpose::Report, Purpose::Raft]),
        TRANSFER | SERVERS | CHANGE_MEMBERS => Some(&[Purpose::Admin]),
        PRE_VOTE | REQUEST_VOTE | APPEND_ENTRIES | INSTALL_SNAPSHOT | TIMEOUT_NOW | COMPARE_STATE
        | FOUNDING | WATCH | IN_FLIGHT => Some(&[Purpose::Raft]),
        _ => None,
    }
}
