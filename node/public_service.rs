//! The node's public address: primes for clients; status, log, health and metrics for whoever looks after it.
//! docs/protocol.md describes every route with examples.
//!
//! Runs on the public listener's threads, one per open connection. Nothing here asks the leader or waits for consensus: a
//! request is routed from this node's own applied state, and `/status` tells this node's own view.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::info;
use serde::Serialize;
use tiny_http::Method;

use super::cluster_service::ClusterCounters;
use super::forwarding::{Delivered, Failure, Forwarder};
use super::inbox::{Inbox, ServiceInput, one_answer};
use super::standing::StandingBoard;
use crate::balancer::{Chooser, Policy, Published};
use crate::http::Service;
use crate::http::message::{Request, Response, header, json, text, with_body, with_headers};
use crate::http::worker_client::Answer;
use crate::logging::lines_dropped;
use crate::raft::{Index, NodeId, Term};
use crate::signing::Gate;

/// The most entries that `GET /log` gives at once (docs/protocol.md).
pub const LOG_LIMIT_MAX: usize = 1_000;

/// How many it gives if it is not told.
const LOG_LIMIT_DEFAULT: usize = 100;

/// The longest `X-Request-Id` that is taken from a client.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// How long `GET /log` waits for the loop.
const LOOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What N must be, for whoever sent something else.
const N_RULE: &str = "N must be a whole number from 1 to 18446744073709551615, in decimal digits, as in /10001 for the 10001st prime";

/// Counts since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct PublicCounters {
    /// Requests for primes, by how they ended: (status, count).
    answered: [AtomicU64; 6],
    /// All time that requests for primes took, in microseconds.
    micros: AtomicU64,
    /// Numbers the requests that came without an id.
    next_request: AtomicU64,
}

/// The statuses that a request for a prime can end with; `0` stands for any other 4xx of a worker.
const STATUSES: [u16; 6] = [200, 400, 502, 503, 504, 0];

impl PublicCounters {
    fn count(&self, status: u16, took: Duration) {
        let place = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        self.answered[place].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The public address's service.
pub struct PublicService {
    /// This node.
    pub id: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// How a server is chosen.
    pub policy: Policy,
    /// After so long without a leader, what is served is marked with its age.
    pub patience: Duration,
    /// The clock's beginning.
    pub started: Instant,
    /// Sends requests to servers.
    pub forwarder: Arc<Forwarder>,
    /// This node's memory of its requests.
    pub chooser: Arc<Chooser>,
    /// The agreed table.
    pub published: Arc<Published>,
    /// How this node stands.
    pub standing: Arc<StandingBoard>,
    /// To the loop, for `/log`.
    pub inbox: Inbox,
    /// For `/metrics`.
    pub gate: Arc<Gate>,
    /// For `/metrics`.
    pub cluster_counters: Arc<ClusterCounters>,
    /// For `/metrics`.
    pub counters: PublicCounters,
}

/// The answer to `GET /status`: the fields of docs/protocol.md, in its order.
#[derive(Serialize)]
struct Status<'a> {
    cluster: &'a str,
    node: NodeId,
    role: String,
    term: Term,
    leader: Option<NodeId>,
    voted_for: Option<NodeId>,
    commit_index: Index,
    applied_index: Index,
    last_index: Index,
    snapshot_index: Index,
    state_digest: &'a str,
    policy: &'static str,
    uptime_ms: u64,
    version: &'static str,
    servers: Vec<ServerStatus<'a>>,
}

/// One of its servers: what is agreed, and (`in_flight`, `stalled`, `avoided`) what this node alone knows.
#[derive(Serialize)]
struct ServerStatus<'a> {
    id: &'a str,
    worker: SocketAddr,
    cpu: f64,
    cores: u32,
    alive: bool,
    worker_up: bool,
    epoch: u64,
    sequence: u64,
    in_flight: usize,
    stalled: bool,
    avoided: bool,
}

/// What a path asks for.
enum Route<'a> {
    Usage,
    Status,
    Log,
    Healthz,
    Readyz,
    Metrics,
    /// A single segment: it should be N.
    Prime(&'a str),
}

fn route(path: &str) -> Option<Route<'_>> {
    Some(match path {
        "/" => Route::Usage,
        "/status" => Route::Status,
        "/log" => Route::Log,
        "/healthz" => Route::Healthz,
        "/readyz" => Route::Readyz,
        "/metrics" => Route::Metrics,
        // What browsers and robots ask for by themselves is not a mistaken N.
        "/favicon.ico" | "/robots.txt" => return None,
        _ => Route::Prime(path.strip_prefix('/').filter(|segment| !segment.contains('/'))?),
    })
}

/// N, if the segment is decimal digits that stand for a number from 1 to 2^64 - 1.
fn parse_n(segment: &str) -> Option<u64> {
    let digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| segment.parse().ok()).flatten().filter(|n| *n >= 1)
}

impl Service for PublicService {
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response> {
        if route(path).is_none() {
            return Err(text(
                404,
                "there is /N for the Nth prime here, and /status, /log, /healthz, /readyz, /metrics",
            ));
        }
        if !matches!(method, Method::Get | Method::Head) {
            return Err(text(405, "only GET").with_header(header("Allow", "GET, HEAD")));
        }
        Ok(0)
    }

    fn call(&self, request: Request) -> Response {
        match route(request.path()) {
            None => text(404, "nothing is here"),
            Some(Route::Usage) => self.usage(),
            Some(Route::Status) => self.status(),
            Some(Route::Log) => self.log(request.query().unwrap_or("")),
            Some(Route::Healthz) => text(200, "ok"),
            Some(Route::Readyz) => self.readyz(),
            Some(Route::Metrics) => self.metrics(),
            Some(Route::Prime(segment)) => self.prime(segment, &request),
        }
    }
}

impl PublicService {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    // ------------------------------------------------------------------------------------------------ primes

    fn prime(&self, segment: &str, request: &Request) -> Response {
        let began = Instant::now();
        let request_id = self.request_id(request);
        let answer = match parse_n(segment) {
            None => {
                self.counters.count(400, began.elapsed());
                text(400, N_RULE)
            }
            Some(n) => {
                let outcome = self.forwarder.prime(n, &request_id, request.client());
                let took = began.elapsed();
                let answer = self.answer(n, &request_id, outcome, took);
                self.counters.count(answer.status_code().0, took);
                answer
            }
        };
        let answer = answer
            .with_header(header("X-Rakit-Node", &self.id.to_string()))
            .with_header(header("X-Request-Id", &request_id));
        match self.standing.get().stale_for(self.now(), self.patience) {
            Some(age) => answer.with_header(header("X-Rakit-Stale-Ms", &age.as_millis().to_string())),
            None => answer,
        }
    }

    fn answer(
        &self,
        n: u64,
        request_id: &str,
        outcome: Result<Delivered, Failure>,
        took: Duration,
    ) -> Response {
        let ms = took.as_secs_f64() * 1e3;
        match outcome {
            Ok(Delivered { answer, server, load, retries, hedged }) => {
                let how = if hedged { ", another server had stalled" } else { "" };
                info!(
                    "request {request_id}: N={n} answered by {server} (load when chosen {load:.1} %) in {ms:.1} ms, \
                     retries {retries}{how}"
                );
                let response = match answer {
                    Answer::Prime(digits) => with_body(200, "text/plain", digits),
                    Answer::ClientError { status, body, content_type } => {
                        let kind = content_type.as_deref().unwrap_or("text/plain");
                        with_headers(status, vec![header("Content-Type", kind)], body)
                    }
                };
                response.with_header(header("X-Rakit-Server", &server))
            }
            Err(Failure::NoServer) => {
                info!("request {request_id}: N={n} answered 503: no server is alive with its worker up");
                text(503, "no server is alive with its worker up; try again when one reports")
                    .with_header(header("Retry-After", &self.retry_after()))
            }
            Err(Failure::AllFailed(failures)) => {
                let each: Vec<_> =
                    failures.iter().map(|(server, error)| format!("{server} {error}")).collect();
                let each = each.join("; ");
                info!(
                    "request {request_id}: N={n} answered 502 after {ms:.1} ms, every server failed: {each}"
                );
                text(502, &format!("every server that was tried failed: {each}"))
            }
            Err(Failure::DeadlinePassed) => {
                info!(
                    "request {request_id}: N={n} answered 504 after {ms:.1} ms: no server answered in time"
                );
                text(504, "no server answered within request_timeout_ms")
            }
            Err(Failure::ClientGone) => {
                info!(
                    "request {request_id}: N={n} given up after {ms:.1} ms: its client closed the connection"
                );
                // For one that has closed its sending side only.
                text(504, "you closed your side of the connection, and this took long")
            }
        }
    }

    /// Seconds until a dead server could have reported again.
    fn retry_after(&self) -> String {
        "1".into()
    }

    /// The client's own id if it is harmless to echo and to log; else a new one that tells the node and the time.
    fn request_id(&self, request: &Request) -> String {
        let valid = |id: &&str| {
            (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match request.header("X-Request-Id").filter(valid) {
            Some(id) => id.to_owned(),
            None => {
                let number = self.counters.next_request.fetch_add(1, Ordering::Relaxed);
                format!("{}-{:x}-{number}", self.id, self.now().as_millis())
            }
        }
    }

    // ------------------------------------------------------------------------------------------------ status

    fn usage(&self) -> Response {
        let id = self.id;
        text(
            200,
            &format!(
                "Rakit node {id} of cluster {}.\n\n\
                 GET /N        the Nth prime, computed by the server with the lowest load: curl http://HOST/10001\n\
                 GET /status   what this node believes, as JSON\n\
                 GET /log      its Raft log, as JSON: /log?after=INDEX&limit=COUNT\n\
                 GET /healthz  200 while the process serves\n\
                 GET /readyz   200 once it knows a leader and has applied the committed state\n\
                 GET /metrics  counters, for Prometheus",
                self.cluster
            ),
        )
    }

    fn status(&self) -> Response {
        let standing = self.standing.get();
        // The digest and the applied index come from one view, so that they always belong together; the standing may be one
        // batch older or newer.
        let view = self.published.view();
        let applied_index = view.applied_index();
        let local = self.chooser.local_states(&view, self.now());
        let servers = view.servers().iter().zip(local).map(|(server, local)| {
            let report = server.report();
            ServerStatus {
                id: &report.server,
                worker: report.worker,
                cpu: report.cpu,
                cores: report.cores,
                alive: server.record.alive,
                worker_up: report.worker_up,
                epoch: report.epoch,
                sequence: report.sequence,
                in_flight: local.in_flight,
                stalled: local.stalled,
                avoided: local.avoided,
            }
        });
        json(
            200,
            &Status {
                cluster: &self.cluster,
                node: self.id,
                role: standing.role.to_string(),
                term: standing.term,
                leader: standing.leader,
                voted_for: standing.voted_for,
                commit_index: standing.commit_index.max(applied_index),
                applied_index,
                last_index: standing.last_index.max(applied_index),
                snapshot_index: standing.snapshot_index,
                state_digest: view.digest(),
                policy: self.policy.name(),
                uptime_ms: u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX),
                version: env!("CARGO_PKG_VERSION"),
                servers: servers.collect(),
            },
        )
    }

    fn readyz(&self) -> Response {
        let standing = self.standing.get();
        if standing.leader.is_none() {
            unready("no leader is known")
        } else if standing.applied_index < standing.commit_index || !standing.settled {
            unready("the committed state is not applied yet")
        } else {
            text(200, "ready")
        }
    }

    fn log(&self, query: &str) -> Response {
        let (mut after, mut limit) = (0, LOG_LIMIT_DEFAULT);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let parsed = match pair.split_once('=') {
                Some(("after", value)) => value.parse().map(|value| after = value).is_ok(),
                Some(("limit", value)) => value.parse().map(|value| limit = value).is_ok(),
                _ => false,
            };
            if !parsed || !(1..=LOG_LIMIT_MAX).contains(&limit) {
                return text(
                    400,
                    &format!(
                        "use /log?after=INDEX&limit=COUNT, with whole numbers and COUNT from 1 to {LOG_LIMIT_MAX}"
                    ),
                );
            }
        }
        let (entries, waits) = one_answer();
        let asked = self.inbox.offer(ServiceInput::ReadLog { after, limit, entries });
        match asked.ok().and_then(|()| waits.recv_timeout(LOOP_TIMEOUT).ok()) {
            Some(entries) => json(200, &entries),
            None => unready("the Raft loop is busy"),
        }
    }

    // ----------------------------------------------------------------------------------------------- metrics

    /// The text format of Prometheus, version 0.0.4.
    fn metrics(&self) -> Response {
        let standing = self.standing.get();
        let view = self.published.view();
        let local = self.chooser.local_states(&view, self.now());
        let mut page = Page(String::new());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        page.head("rakit_requests_total", "counter", "Requests for primes, by the status they ended with.");
        for (status, counter) in STATUSES.iter().zip(&self.counters.answered) {
            let status = if *status == 0 { "other".to_owned() } else { status.to_string() };
            page.line("rakit_requests_total", &format!("{{status=\"{status}\"}}"), count(counter));
        }
        page.head("rakit_request_seconds_sum", "counter", "All time that requests for primes took.");
        page.line("rakit_request_seconds_sum", "", count(&self.counters.micros) as f64 / 1e6);
        let forward = &self.forwarder.counters;
        for (name, help, counter) in [
            ("rakit_failed_attempts_total", "Servers that failed a request.", &forward.failed_attempts),
            ("rakit_hedges_total", "Requests also sent to a second server.", &forward.hedges),
            (
                "rakit_hedges_denied_total",
                "Requests that had too many before them for that.",
                &forward.hedges_denied,
            ),
            (
                "rakit_reports_total",
                "Well-formed reports that reached this node.",
                &self.cluster_counters.reports,
            ),
            (
                "rakit_reports_turned_away_total",
                "Reports answered 503 since too many waited.",
                &self.cluster_counters.reports_turned_away,
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
            ("rakit_uptime_seconds", "Since the process started.", self.now().as_secs()),
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
        for (server, local) in view.servers().iter().zip(local) {
            let labels = format!("{{server=\"{}\"}}", server.report().server);
            page.line("rakit_server_in_flight", &labels, local.in_flight);
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

fn unready(why: &str) -> Response {
    text(503, why).with_header(header("Retry-After", "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_is_decimal_digits_from_one_on_and_nothing_else() {
        assert_eq!(parse_n("1"), Some(1));
        assert_eq!(parse_n("007"), Some(7));
        assert_eq!(parse_n("18446744073709551615"), Some(u64::MAX));
        for bad in
            ["", "0", "000", "-1", "+1", "1.5", "abc", "1e3", "%31", " 1", "1 ", "18446744073709551616", "٣"]
        {
            assert_eq!(parse_n(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_segment_should_be_n_and_anything_deeper_is_not_here() {
        assert!(matches!(route("/abc"), Some(Route::Prime("abc"))));
        assert!(matches!(route("/-1"), Some(Route::Prime("-1"))));
        assert!(route("/3/4").is_none() && route("/favicon.ico").is_none() && route("*").is_none());
    }
}
