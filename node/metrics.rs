//! `GET /metrics`: counters and gauges in the text format of Prometheus, version 0.0.4. Called by `public_service.rs`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::cluster_service::ClusterCounters;
use super::forwarding::Forwarder;
use super::primes::PrimeCounters;
use super::standing::StandingBoard;
use crate::balancer::{Chooser, Published};
use crate::http::message::{Response, with_body};
use crate::logging::lines_dropped;
use crate::raft::NodeId;
use crate::signing::Gate;

/// What is counted and measured in this node.
pub struct Metrics {
    /// This node.
    pub id: NodeId,
    /// The clock's beginning.
    pub started: Instant,
    /// Requests for primes.
    pub primes: Arc<PrimeCounters>,
    /// Requests to servers.
    pub forwarder: Arc<Forwarder>,
    /// Reports.
    pub cluster: Arc<ClusterCounters>,
    /// What was refused on the cluster address.
    pub gate: Arc<Gate>,
    /// How this node stands.
    pub standing: Arc<StandingBoard>,
    /// This node's memory of its requests.
    pub chooser: Arc<Chooser>,
    /// The agreed table.
    pub published: Arc<Published>,
}

impl Metrics {
    /// The whole page.
    pub fn page(&self) -> Response {
        let standing = self.standing.get();
        let view = self.published.view();
        let local = self.chooser.local_states(&view, self.started.elapsed());
        let mut page = Page(String::new());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        page.head("rakit_requests_total", "counter", "Requests for primes, by the status they ended with.");
        for (status, answered) in self.primes.answered() {
            let status = status.map_or("other".to_owned(), |status| status.to_string());
            page.line("rakit_requests_total", &format!("{{status=\"{status}\"}}"), answered);
        }
        page.head("rakit_request_seconds_sum", "counter", "All time that requests for primes took.");
        page.line("rakit_request_seconds_sum", "", self.primes.seconds());
        let forward = &self.forwarder.counters;
        for (name, help, counter) in [
            ("rakit_failed_attempts_total", "Servers that failed a request.", &forward.failed_attempts),
            ("rakit_hedges_total", "Requests also sent to a second server.", &forward.hedges),
            (
                "rakit_hedges_denied_total",
                "Requests that had too many before them for that.",
                &forward.hedges_denied,
            ),
            ("rakit_reports_total", "Well-formed reports that reached this node.", &self.cluster.reports),
            (
                "rakit_reports_turned_away_total",
                "Reports answered 503 since too many waited.",
                &self.cluster.reports_turned_away,
            ),
        ] {
            page.head(name, "counter", help);
            page.line(name, "", count(counter));
        }
        page.head("rakit_log_lines_dropped_total", "counter", "Lines that are missing in this node's log.");
        page.line("rakit_log_lines_dropped_total", "", lines_dropped());
        page.head(
            "rakit_refusals_total",
            "counter",
            "Requests on the cluster address that were refused, by reason.",
        );
        for (kind, refused) in self.gate.refusals() {
            page.line("rakit_refusals_total", &format!("{{reason=\"{}\"}}", kind.name()), refused);
        }
        for (name, help, value) in [
            ("rakit_raft_term", "The current term.", standing.term),
            ("rakit_raft_is_leader", "1 on the leader.", u64::from(standing.leader == Some(self.id))),
            ("rakit_raft_commit_index", "Up to here the log is committed.", standing.commit_index),
            ("rakit_raft_applied_index", "Up to here it is applied.", standing.applied_index),
            ("rakit_raft_last_index", "The end of the log.", standing.last_index),
            ("rakit_raft_snapshot_index", "The end of the snapshot.", standing.snapshot_index),
            ("rakit_uptime_seconds", "Since the process started.", self.started.elapsed().as_secs()),
        ] {
            page.head(name, "gauge", help);
            page.line(name, "", value);
        }
        page.head("rakit_server_cpu_percent", "gauge", "The agreed load of a server.");
        for server in view.servers() {
            let report = server.report();
            page.line("rakit_server_cpu_percent", &format!("{{server=\"{}\"}}", report.server), report.cpu);
        }
        page.head("rakit_server_alive", "gauge", "1 if the server is agreed to be alive.");
        for server in view.servers() {
            let labels = format!("{{server=\"{}\"}}", server.report().server);
            page.line("rakit_server_alive", &labels, u8::from(server.record.alive));
        }
        page.head("rakit_server_in_flight", "gauge", "Requests from this node that a server owes an answer.");
        for (server, local) in view.servers().iter().zip(&local) {
            let labels = format!("{{server=\"{}\"}}", server.report().server);
            page.line("rakit_server_in_flight", &labels, local.in_flight);
        }
        page.head(
            "rakit_server_in_flight_elsewhere",
            "gauge",
            "Requests from the other nodes that a server owes an answer, as far as this node knows.",
        );
        for (server, local) in view.servers().iter().zip(&local) {
            let labels = format!("{{server=\"{}\"}}", server.report().server);
            page.line("rakit_server_in_flight_elsewhere", &labels, local.in_flight_elsewhere);
        }
        with_body(200, "text/plain; version=0.0.4", page.0.into_bytes())
    }
}

/// A page of metrics under construction. Server names are `[A-Za-z0-9._-]`, so no label needs escaping.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
