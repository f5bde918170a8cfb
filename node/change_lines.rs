//! What a node writes to its log about the entries that it applies: one line for each change that a person wants to see,
//! none for a report that only brought a new load. Called by the Raft loop, after the table has applied the entry.
//!
//! A node that starts applies again what its log holds from before the start. Those changes are old: a line for each would
//! tell old deaths as new ones. So there is one line, `recovered: …`, when the last of them is applied.

use log::{debug, error, info, warn};

use crate::balancer::{Change, ServerCommand, ServerTable};
use crate::raft::{Entry, Index, NodeId};

/// How many dead servers the line `recovered: …` names; of the rest it gives the number.
const NAMES_MAX: usize = 10;

/// Writes the lines of one node.
#[derive(Debug)]
pub struct ChangeLines {
    node: NodeId,
    /// Entries up to this one are from before the start. `None` when they have all been applied.
    recovering_to: Option<Index>,
}

impl ChangeLines {
    /// For a node that starts with a log up to `last_index`, and with `table`, that of its snapshot.
    pub fn new(node: NodeId, last_index: Index, table: &ServerTable) -> Self {
        let mut lines = Self { node, recovering_to: (last_index > 0).then_some(last_index) };
        lines.log_recovered(table);
        lines
    }

    /// The log was cut: entries from `from` on were never committed, and what comes in their place is new.
    pub fn truncated(&mut self, from: Index, table: &ServerTable) {
        if let Some(last) = &mut self.recovering_to {
            *last = (*last).min(from - 1);
        }
        self.log_recovered(table);
    }

    /// A leader's snapshot has taken the table's place.
    pub fn restored(&mut self, table: &ServerTable) {
        self.recovering_to = Some(table.applied_index());
        self.log_recovered(table);
    }

    /// `table` has applied this entry, which changed this.
    pub fn applied(&mut self, entry: &Entry, change: &Change, table: &ServerTable) {
        if self.recovering_to.is_some() {
            debug!("log entry {} of before the start applied: {change:?}", entry.index);
            self.log_recovered(table);
        } else {
            log_change(entry, change);
        }
    }

    fn log_recovered(&mut self, table: &ServerTable) {
        if let Some(line) = self.recovered(table) {
            info!("{line}");
        }
    }

    /// The line `recovered: …`, once, when `table` has applied all that is from before the start.
    fn recovered(&mut self, table: &ServerTable) -> Option<String> {
        let applied = table.applied_index();
        self.recovering_to.take_if(|last| applied >= *last)?;
        let (node, servers) = (self.node, summary(table));
        Some(format!("recovered: node {node} has the server table up to log index {applied}: {servers}"))
    }
}

/// How many servers of a table are alive, and which are dead since when.
fn summary(table: &ServerTable) -> String {
    let dead: Vec<_> = table.servers().filter(|record| !record.alive).collect();
    let alive = table.servers().len() - dead.len();
    let mut text = format!("{alive} server{} alive", if alive == 1 { " is" } else { "s are" });
    for record in dead.iter().take(NAMES_MAX) {
        text += &format!(", {} is dead since log index {}", record.report.server, record.decided_at);
    }
    if dead.len() > NAMES_MAX {
        text += &format!(", and {} more are dead", dead.len() - NAMES_MAX);
    }
    text
}

/// The line for one change that is new.
fn log_change(entry: &Entry, change: &Change) {
    let index = entry.index;
    // What gives no line is not parsed: this is called for every entry.
    if matches!(change, Change::Noop | Change::Updated | Change::Stale) {
        return debug!("log entry {index} applied: {change:?}");
    }
    let Ok(command) = ServerCommand::parse(&entry.command) else {
        if let Change::Ignored(reason) = change {
            error!("log entry {index} is no command of the server table, ignored: {reason}");
        }
        return;
    };
    match (change, command) {
        (Change::New { evicted }, ServerCommand::Report(report)) => {
            info!("server {} is new, its worker is {} (log index {index})", report.server, report.worker);
            if let Some(evicted) = evicted {
                warn!("server {evicted} is forgotten, since the table is full (log index {index})");
            }
        }
        (Change::Revived, ServerCommand::Report(report)) => {
            info!("server {} is alive again (log index {index})", report.server);
        }
        (Change::WorkerUp, ServerCommand::Report(report)) => {
            info!("server {} gets requests again: its worker listens (log index {index})", report.server);
        }
        (Change::WorkerDown, ServerCommand::Report(report)) => {
            warn!(
                "server {} gets no requests: its worker does not listen (log index {index})",
                report.server
            );
        }
        (Change::Died, ServerCommand::Dead(dead)) => {
            let (server, ms) = (dead.server, dead.silent_ms);
            warn!("server {server} is dead: no report for {ms} ms (log index {index})");
        }
        (Change::Ignored(reason), _) => error!("log entry {index} was ignored: {reason}"),
        _ => debug!("log entry {index} applied: {change:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Dead, Report};

    fn report(server: &str) -> Report {
        let worker = "127.0.0.1:10001".parse().expect("an address");
        Report { server: server.into(), worker, cpu: 0.0, cores: 2, epoch: 1, sequence: 1, worker_up: true }
    }

    /// Two servers that report, and one of them that dies: three entries.
    fn table_up_to(index: Index) -> ServerTable {
        let dead = Dead { server: "b".into(), epoch: 1, sequence: 1, silent_ms: 5000 };
        let commands = [
            ServerCommand::Report(report("a")),
            ServerCommand::Report(report("b")),
            ServerCommand::Dead(dead),
        ];
        let mut table = ServerTable::new();
        for (index, command) in (1..=index).zip(commands) {
            table.apply(index, &command.to_command());
        }
        table
    }

    #[test]
    fn what_the_log_held_at_the_start_is_summed_up_once_when_all_of_it_is_applied() {
        let mut lines = ChangeLines::new(4, 3, &table_up_to(0));
        assert_eq!(lines.recovered(&table_up_to(2)), None);
        assert_eq!(
            lines.recovered(&table_up_to(3)).as_deref(),
            Some(
                "recovered: node 4 has the server table up to log index 3: 1 server is alive, b is dead since log \
                 index 3"
            )
        );
        assert_eq!(lines.recovered(&table_up_to(3)), None);
        assert_eq!(lines.recovering_to, None);
    }

    #[test]
    fn a_fresh_node_recovers_nothing_and_one_that_needs_only_its_snapshot_does_so_at_once() {
        assert_eq!(ChangeLines::new(4, 0, &table_up_to(0)).recovering_to, None);
        assert_eq!(ChangeLines::new(4, 3, &table_up_to(3)).recovering_to, None);
        assert_eq!(ChangeLines::new(4, 3, &table_up_to(2)).recovering_to, Some(3));
    }

    #[test]
    fn what_takes_the_place_of_entries_that_were_never_committed_is_new() {
        let mut lines = ChangeLines::new(4, 9, &table_up_to(0));
        lines.truncated(4, &table_up_to(2));
        assert_eq!(lines.recovering_to, Some(3));
        lines.truncated(3, &table_up_to(2));
        assert_eq!(lines.recovering_to, None);
    }
}
