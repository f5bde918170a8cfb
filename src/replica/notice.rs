//! What a person who reads the log file wants to know. The replica hands it out as values. The node writes the lines.

use std::fmt;

use super::agreement::Contradiction;
use crate::balancer::{Change, Dead, OrderEffect, ServerCommand, ServerOrder, ServerTable};
use crate::raft::{self, Entry, Index, NodeId, Resolution};

/// How many dead servers the line `recovered: …` names; of the rest it gives the number.
const NAMES_MAX: usize = 10;

/// Something worth a line in the log file: see [`line`](Self::line).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaNotice {
    /// The core's own.
    Raft(raft::Notice),
    /// A peer runs on another data directory than before.
    PeerReset {
        /// The peer.
        peer: NodeId,
        /// The incarnation of its directory until now.
        before: u64,
        /// The incarnation of its directory from now on.
        now: u64,
    },
    /// This leader proposes that a server is dead.
    Overdue(Dead),
    /// That proposal was not committed.
    VerdictLost {
        /// The proposed verdict.
        dead: Dead,
        /// What became of it.
        resolution: Resolution,
    },
    /// An applied entry changed more than a server's load.
    Applied {
        /// The entry.
        entry: Entry,
        /// What it changed.
        change: Change,
    },
    /// This node's state differs from the leader's, or from that of a majority.
    Contradiction(Contradiction),
    /// It is again the same as the leader's.
    Agrees {
        /// As of this index.
        index: Index,
    },
    /// The table is what it was before the start, or what the leader's snapshot says.
    Recovered {
        /// The table's applied index.
        index: Index,
        /// How many servers are alive.
        alive: usize,
        /// The dead ones, each with the index that decided it.
        dead: Vec<(String, Index)>,
    },
}

impl ReplicaNotice {
    /// The table has caught up with the past.
    pub(super) fn recovered(table: &ServerTable) -> Self {
        let dead: Vec<(String, Index)> = table
            .servers()
            .filter(|record| !record.alive)
            .map(|record| (record.report.server.clone(), record.decided_at))
            .collect();
        let (index, alive) = (table.applied_index(), table.servers().len() - dead.len());
        Self::Recovered { index, alive, dead }
    }

    /// The line for the log file of node `id`; docs/log-lines.md explains each.
    pub fn line(&self, id: NodeId) -> String {
        match self {
            Self::Raft(notice) => notice.line(id),
            Self::PeerReset { peer, before, now } => format!(
                "peer: node {id} hears from node {peer} on another data directory than before (incarnation \
                 {before:016x} is now {now:016x}), and forgets what it knew of the old one"
            ),
            Self::Overdue(dead) => format!(
                "server {} has sent no report for {} ms; node {id}, the leader, proposes that it is dead (last report \
                 {}/{})",
                dead.server, dead.silent_ms, dead.epoch, dead.sequence
            ),
            Self::VerdictLost { dead, resolution } => {
                format!("the proposal that server {} is dead was not committed: {resolution:?}", dead.server)
            }
            Self::Applied { entry, change } => applied(entry, change),
            Self::Contradiction(contradiction) => {
                format!("contradiction: {}", contradiction.text(id))
            }
            Self::Agrees { index } => {
                format!("contradiction: the state of node {id} is the leader's again, as of index {index}")
            }
            Self::Recovered { index, alive, dead } => {
                let are = if *alive == 1 { " is" } else { "s are" };
                format!(
                    "recovered: node {id} has the server table up to log index {index}: {alive} server{are} alive{}",
                    DeadServers(dead)
                )
            }
        }
    }
}

struct DeadServers<'a>(&'a [(String, Index)]);

impl fmt::Display for DeadServers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (server, index) in self.0.iter().take(NAMES_MAX) {
            write!(f, ", {server} is dead since log index {index}")?;
        }
        match self.0.len().saturating_sub(NAMES_MAX) {
            0 => Ok(()),
            more => write!(f, ", and {more} more are dead"),
        }
    }
}

fn applied(entry: &Entry, change: &Change) -> String {
    let index = entry.index;
    match (change, ServerCommand::parse(&entry.command)) {
        (Change::New { evicted: None }, Ok(ServerCommand::Report(report))) => {
            format!("server {} is new, its worker is {} (log index {index})", report.server, report.worker)
        }
        (Change::New { evicted: Some(evicted) }, Ok(ServerCommand::Report(report))) => format!(
            "server {} is new, its worker is {}; server {evicted} is forgotten, since the table is full (log index \
             {index})",
            report.server, report.worker
        ),
        (Change::NoRoom, Ok(ServerCommand::Report(report))) => format!(
            "server {} is not let in: the table is full of living servers (log index {index})",
            report.server
        ),
        (Change::Revived, Ok(ServerCommand::Report(report))) => {
            format!("server {} is alive again (log index {index})", report.server)
        }
        (Change::WorkerUp, Ok(ServerCommand::Report(report))) => {
            format!("server {} gets requests again: its worker listens (log index {index})", report.server)
        }
        (Change::WorkerDown, Ok(ServerCommand::Report(report))) => {
            format!(
                "server {} gets no requests: its worker does not listen (log index {index})",
                report.server
            )
        }
        (Change::Died, Ok(ServerCommand::Dead(dead))) => {
            format!("server {} is dead: no report for {} ms (log index {index})", dead.server, dead.silent_ms)
        }
        (Change::Ordered(effect), Ok(ServerCommand::Order(order))) => ordered(&order, *effect, index),
        (Change::Ignored(reason), _) => {
            format!("log entry {index} is no command of the server table, ignored: {reason}")
        }
        (change, _) => format!("log entry {index} applied: {change:?}"),
    }
}

fn ordered(order: &ServerOrder, effect: OrderEffect, index: Index) -> String {
    let server = order.server();
    let what = match (effect, order) {
        (OrderEffect::Done, ServerOrder::Drain(_)) => "is drained by order: it gets no new requests",
        (OrderEffect::Done, ServerOrder::Undrain(_)) => "is undrained by order: it may get requests again",
        (OrderEffect::Done, ServerOrder::Forget(_)) => "is forgotten by order: it was dead",
        (OrderEffect::AlreadySo, ServerOrder::Drain(_)) => "was drained already: the order changed nothing",
        (OrderEffect::AlreadySo, _) => "was not drained: the order changed nothing",
        (OrderEffect::NoSuchServer, _) => "is not in the table: the order changed nothing",
        (OrderEffect::StillAlive, _) => "lives: the order to forget it changed nothing",
    };
    format!("server {server} {what} (log index {index})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recovered_is_summed_up() {
        let dead = |count| (0..count).map(|number| (format!("s{number}"), number)).collect();
        let one = ReplicaNotice::Recovered { index: 3, alive: 1, dead: dead(1) };
        assert_eq!(
            one.line(4),
            "recovered: node 4 has the server table up to log index 3: 1 server is alive, s0 is dead since log index 0"
        );
        let many = ReplicaNotice::Recovered { index: 9, alive: 2, dead: dead(12) }.line(4);
        assert!(
            many.contains("2 servers are alive, s0") && many.ends_with(", and 2 more are dead"),
            "{many}"
        );
    }
}
