//! `GET /metrics`: what this node counts and measures, in the text format of Prometheus, version 0.0.4. Called by
//! `public_service.rs`. docs/operations.md lists every metric; docs/alerts.yml and docs/grafana.json use them.
//!
//! The names follow Prometheus' conventions (<https://prometheus.io/docs/practices/naming/>), and etcd's and HAProxy's
//! where these have the same thing: base units, `_total` for counters. The parts of the node count in plain atomic
//! numbers, and most of what is shown here is known anyway. All of it is read when somebody asks: a request pays for no
//! metric but its own counters. Labels have few values: statuses, reasons, and the nodes and servers that are known at
//! present.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::cluster_service::ClusterCounters;
use super::consensus_counts::ConsensusCounts;
use super::durations::Durations;
use super::forwarding::Forwarder;
use super::live;
use super::process_figures::ProcessFigures;
use super::request_counts::RequestCounts;
use super::status::NodeStatus;
use crate::http::message::{Response, text, with_body};
use crate::http::{Counters, CountersOf};
use crate::logging::lines_dropped;
use crate::protocol::PROTOCOL_VERSION;
use crate::signing::Gate;

/// The server in the labels of a request that no server answered, as HAProxy writes it. No server can have this name.
pub const NO_SERVER: &str = "<NOSRV>";

/// The listeners of this node, once they listen: which address, and its counters.
pub type Listeners = Arc<OnceLock<[(&'static str, CountersOf); 2]>>;

/// The page.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A page of these.
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sources));
        Self { registry }
    }

    /// The answer to `GET /metrics`.
    pub fn page(&self) -> Response {
        let mut page = String::new();
        match prometheus_text::encode(&mut page, &self.registry) {
            Ok(()) => with_body(200, prometheus_text::CONTENT_TYPE, page.into_bytes()),
            Err(error) => text(500, &format!("the metrics could not be written: {error}; a bug")),
        }
    }
}

/// What is counted and measured in this node.
pub struct Sources {
    /// How this node stands, and its table.
    pub status: Arc<NodeStatus>,
    /// Requests for primes.
    pub requests: Arc<RequestCounts>,
    /// Requests to servers.
    pub forwarder: Arc<Forwarder>,
    /// Elections, proposals, the disk.
    pub consensus: Arc<ConsensusCounts>,
    /// Reports.
    pub cluster: Arc<ClusterCounters>,
    /// What was refused on the cluster address.
    pub gate: Arc<Gate>,
    /// What the two addresses took and refused.
    pub listeners: Listeners,
    /// When the process started, by the machine's clock.
    pub started_at: SystemTime,
}

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sources").field("node", &self.status.id).finish_non_exhaustive()
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(&mut encoder);
        self.consensus(&mut page)?;
        self.peers(&mut page)?;
        self.servers(&mut page)?;
        self.requests(&mut page)?;
        self.refusals(&mut page)?;
        self.listeners(&mut page)?;
        self.process(&mut page)
    }
}

impl Sources {
    fn consensus(&self, page: &mut Page) -> fmt::Result {
        let (node, counts) = (&self.status, &self.consensus);
        let (standing, now) = (node.standing.get(), node.started.elapsed());
        let is = u64::from;
        page.gauge("rakit_ready", "1 if /readyz answers 200", is(node.unready().is_none()))?;
        page.gauge("rakit_raft_has_leader", "1 if this node knows a leader", is(standing.leader.is_some()))?;
        page.gauge("rakit_raft_is_leader", "1 on the leader", is(standing.leader == Some(node.id)))?;
        page.gauge(
            "rakit_raft_joining",
            "1 if this node began without memory and does not count yet",
            is(standing.joining),
        )?;
        page.gauge(
            "rakit_raft_contradiction",
            "1 if the state of this node differs from that of the others",
            is(standing.contradiction.is_some()),
        )?;
        page.gauge(
            "rakit_raft_stuck",
            "1 if the disk or the Raft loop has been stuck for longer than the upper election timeout",
            is(node.standing.stuck().is_some()),
        )?;
        page.gauge(
            "rakit_raft_last_contact_seconds",
            "How long ago this node had word of a working leader, or as leader of a majority: the age of what it serves from",
            standing.age(now).as_secs_f64(),
        )?;
        page.gauge("rakit_raft_term", "The current term", standing.term)?;
        page.gauge("rakit_raft_commit_index", "Up to here the log is committed", standing.commit_index)?;
        page.gauge("rakit_raft_applied_index", "Up to here it is applied", standing.applied_index)?;
        page.gauge("rakit_raft_last_index", "The end of the log", standing.last_index)?;
        page.gauge("rakit_raft_snapshot_index", "The end of the snapshot", standing.snapshot_index)?;
        page.counter(
            "rakit_raft_leader_changes",
            "Times that this node began to follow a leader, or to lead",
            &counts.leader_changes,
        )?;
        page.counter("rakit_raft_elections", "Elections that this node stood in", &counts.elections)?;
        page.gauge(
            "rakit_raft_proposals_pending",
            "Proposals of this node that wait for their commit",
            standing.proposals_pending,
        )?;
        page.counter(
            "rakit_raft_proposals_committed",
            "Proposals of this node that were committed",
            &counts.proposals_committed,
        )?;
        page.counter(
            "rakit_raft_proposals_failed",
            "Proposals of this node that failed, or whose outcome it did not learn",
            &counts.proposals_failed,
        )?;
        page.histogram(
            "rakit_raft_commit_duration_seconds",
            "From a proposal of this node to its commit",
            &counts.commits,
        )?;
        page.histogram(
            "rakit_disk_fsync_duration_seconds",
            "Writes to the log: each one write and one fdatasync",
            &counts.syncs,
        )
    }

    /// What a leader knows of the other nodes. Nobody else knows it, and a loop that is stuck does not tell.
    fn peers(&self, page: &mut Page) -> fmt::Result {
        let standing = self.status.standing.get();
        let leads = standing.leader == Some(self.status.id);
        let picture = if leads { live::picture(&self.status) } else { None };
        let followers = picture.map(|picture| picture.followers).unwrap_or_default();
        let last_index = standing.last_index;
        let peers: Vec<(String, _)> = followers.into_iter().map(|one| (one.node.to_string(), one)).collect();
        page.gauges(
            "rakit_raft_peer_lag_entries",
            "On the leader: log entries that this node is not known to have on its disk",
            peers.iter().map(|(id, one)| ([("peer", id)], last_index.saturating_sub(one.match_index))),
        )?;
        page.gauges(
            "rakit_raft_peer_last_contact_seconds",
            "On the leader: how long ago it sent what this node answered last",
            peers.iter().map(|(id, one)| ([("peer", id)], one.contact_ms as f64 / 1e3)),
        )
    }

    fn servers(&self, page: &mut Page) -> fmt::Result {
        let (view, now) = (self.status.published.view(), self.status.started.elapsed());
        let local = self.status.chooser.local_states(&view, now);
        let servers: Vec<_> =
            view.servers().iter().zip(local).map(|(one, local)| (&one.report().server, one, local)).collect();
        page.gauge(
            "rakit_servers_eligible",
            "Servers that may be chosen: alive, not drained, and their worker is up",
            view.servers().iter().filter(|server| server.is_eligible()).count(),
        )?;
        page.gauges(
            "rakit_server_alive",
            "1 if the server is agreed to be alive",
            servers.iter().map(|(name, one, _)| ([("server", *name)], u64::from(one.record.alive))),
        )?;
        page.gauges(
            "rakit_server_drained",
            "1 if an operator drained the server: it gets no new requests",
            servers
                .iter()
                .map(|(name, one, _)| ([("server", *name)], u64::from(one.record.drained_at.is_some()))),
        )?;
        page.gauges(
            "rakit_server_worker_up",
            "1 if its daemon says that its worker listens",
            servers.iter().map(|(name, one, _)| ([("server", *name)], u64::from(one.report().worker_up))),
        )?;
        page.gauges(
            "rakit_server_cpu_ratio",
            "The agreed load of its processors, 0 to 1",
            // Of a load that nobody knows, no number would be true.
            servers
                .iter()
                .filter(|(_, one, _)| one.report().cpu_known)
                .map(|(name, one, _)| ([("server", *name)], one.report().cpu / 100.0)),
        )?;
        page.gauges(
            "rakit_server_cores",
            "Its processors",
            servers.iter().map(|(name, one, _)| ([("server", *name)], u64::from(one.report().cores))),
        )?;
        page.gauges(
            "rakit_server_report_age_seconds",
            "How long ago this node applied its newest report",
            servers.iter().map(|(name, one, _)| {
                ([("server", *name)], now.saturating_sub(one.applied_at).as_secs_f64())
            }),
        )?;
        page.gauges(
            "rakit_server_stalled",
            "1 if it is passed over because it owes this node an answer for too long",
            servers.iter().map(|(name, _, local)| ([("server", *name)], u64::from(local.stalled))),
        )?;
        page.gauges(
            "rakit_server_in_flight",
            "Requests from this node that it owes an answer",
            servers.iter().map(|(name, _, local)| ([("server", *name)], local.in_flight)),
        )?;
        page.gauges(
            "rakit_server_in_flight_elsewhere",
            "Requests from the other nodes that it owes an answer, as far as this node knows",
            servers.iter().map(|(name, _, local)| ([("server", *name)], local.in_flight_elsewhere)),
        )?;
        page.counters(
            "rakit_server_chosen",
            "Attempts that this node sent to it",
            servers.iter().map(|(name, _, local)| ([("server", *name)], local.chosen)),
        )
    }

    fn requests(&self, page: &mut Page) -> fmt::Result {
        let view = self.status.published.view();
        let names = view.servers().iter().map(|server| server.report().server.as_str());
        let counted: Vec<(&str, String, u64)> = names
            .flat_map(|name| self.requests.by_server(name).into_iter().map(move |(code, n)| (name, code, n)))
            .chain(self.requests.by_none().into_iter().map(|(code, n)| (NO_SERVER, code, n)))
            .collect();
        page.counters(
            "rakit_requests",
            "Requests for primes that have ended, by the status of the answer and the server that gave it",
            counted.iter().map(|(server, code, n)| ([("code", code.as_str()), ("server", *server)], *n)),
        )?;
        page.histogram(
            "rakit_request_duration_seconds",
            "From a request's head to its answer, as far as this node sees it",
            &self.requests.durations,
        )?;
        let forward = &self.forwarder.counters;
        page.counters(
            "rakit_retries",
            "Attempts at another server, by why the one before brought no answer",
            forward.retries.each().map(|(reason, n)| ([("reason", reason)], n)),
        )?;
        page.counter(
            "rakit_failed_attempts",
            "Attempts that a server failed, whether or not another one was tried; busy is not failed",
            &forward.failed_attempts,
        )?;
        page.counter(
            "rakit_hedges",
            "Requests also sent to another server, since the first had stalled",
            &forward.hedges,
        )?;
        page.counter(
            "rakit_hedges_denied",
            "Requests not sent to another server, since all helper threads were busy",
            &forward.hedges_denied,
        )
    }

    fn refusals(&self, page: &mut Page) -> fmt::Result {
        page.counter("rakit_reports", "Well-formed reports that reached this node", &self.cluster.reports)?;
        page.counter(
            "rakit_reports_turned_away",
            "Reports answered 503 since too many waited",
            &self.cluster.reports_turned_away,
        )?;
        page.counters(
            "rakit_refusals",
            "Requests on the cluster address that were refused, by reason",
            self.gate.refusals().map(|(kind, n)| ([("reason", kind.name())], n)),
        )?;
        page.counters(
            "rakit_requests_with_second_key",
            "Requests signed with the second key of the secret file: their sender still has that key first",
            [([("", ""); 0], self.gate.signed_with_second_key())],
        )?;
        page.counters(
            "rakit_log_lines_dropped",
            "Lines that are missing in the log",
            [([("", ""); 0], lines_dropped())],
        )
    }

    fn listeners(&self, page: &mut Page) -> fmt::Result {
        let all = self.listeners.get().map(|all| all.as_slice()).unwrap_or_default();
        let read: Vec<_> = all.iter().filter_map(|(name, one)| Some((*name, one.read()?))).collect();
        let of = |value: fn(&Counters) -> u64| {
            read.iter().map(move |(name, counters)| ([("address", *name)], value(counters)))
        };
        page.gauges("rakit_http_connections_open", "Connections that are open", of(|c| c.connections_open))?;
        page.gauges("rakit_http_threads", "Threads that serve connections", of(|c| c.threads))?;
        for (name, help, values) in [
            ("rakit_http_connections_accepted", "Connections accepted", of(|c| c.accepted)),
            (
                "rakit_http_connections_turned_away",
                "Connections answered 503: the limit was reached, or no thread or descriptor was left",
                of(|c| c.turned_away),
            ),
            (
                "rakit_http_connections_cut_for_room",
                "Connections cut off since a new one needed their place",
                of(|c| c.cut_for_room),
            ),
            (
                "rakit_http_connections_idle_closed",
                "Connections closed since nothing came for too long",
                of(|c| c.idle_closed),
            ),
            ("rakit_http_requests", "Requests with a valid head", of(|c| c.requests)),
            (
                "rakit_http_requests_refused",
                "Requests refused for breaking the protocol or a limit",
                of(|c| c.refusals),
            ),
            (
                "rakit_http_handler_panics",
                "Requests answered 500 because of a bug in their handler",
                of(|c| c.panics),
            ),
            ("rakit_http_accept_errors", "Times that accepting failed", of(|c| c.accept_errors)),
        ] {
            page.counters(name, help, values)?;
        }
        Ok(())
    }

    fn process(&self, page: &mut Page) -> fmt::Result {
        let (version, protocol) = (env!("CARGO_PKG_VERSION"), PROTOCOL_VERSION.to_string());
        page.gauges(
            "rakit_build_info",
            "Always 1; the labels tell the build",
            [([("version", version), ("protocol", protocol.as_str())], 1_u64)],
        )?;
        page.gauge(
            "rakit_uptime_seconds",
            "Since the process started, by a clock that is never set",
            self.status.started.elapsed().as_secs_f64(),
        )?;
        let since_1970 = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge(
            "process_start_time_seconds",
            "When the process started, since 1970",
            since_1970.as_secs_f64(),
        )?;
        // Without /proc, the page is shorter.
        let Some(figures) = ProcessFigures::read() else { return Ok(()) };
        page.counters(
            "process_cpu_seconds",
            "Time of processors that the process used",
            [([("", ""); 0], figures.cpu_seconds)],
        )?;
        page.gauge("process_resident_memory_bytes", "Memory that it holds", figures.resident_bytes)?;
        page.gauge("process_virtual_memory_bytes", "Addresses that it has mapped", figures.virtual_bytes)?;
        page.gauge("process_open_fds", "Descriptors that are open", figures.open_fds)?;
        page.gauge("process_max_fds", "Descriptors that it may open", figures.max_fds)?;
        page.gauge("process_threads", "Its threads", figures.threads)
    }
}

/// A page of metrics under construction.
struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

/// Labels of one time series.
type Labels<const N: usize, V> = [(&'static str, V); N];

impl Page<'_, '_> {
    /// `name` is without `_total`, which the crate adds.
    fn counter(&mut self, name: &str, help: &str, counter: &AtomicU64) -> fmt::Result {
        self.counters(name, help, [([("", ""); 0], counter.load(Ordering::Relaxed))])
    }

    /// `name` is without `_total`, which the crate adds.
    fn counters<const N: usize, L, V>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<N, L>, V)>,
    ) -> fmt::Result
    where
        (&'static str, L): prometheus_client::encoding::EncodeLabel,
        V: prometheus_client::encoding::EncodeCounterValue,
    {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(name, help, [([("", ""); 0], value)])
    }

    fn gauges<const N: usize, L, V>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<N, L>, V)>,
    ) -> fmt::Result
    where
        (&'static str, L): prometheus_client::encoding::EncodeLabel,
        V: EncodeGaugeValue,
    {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &Durations) -> fmt::Result {
        let buckets = durations.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(durations.sum(), count, &buckets, None)
    }
}

/// An exemplar would be the id of one request among those that are counted; the text format has no place for it.
const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
