//! `GET /N` on the public address: parses N, has the request forwarded, and says how it ended: to the client, in the log, in
//! the counters. Called by `public_service.rs`; `forwarding.rs` does the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::info;

use super::forwarding::{Delivered, ForwardFailure, Forwarder};
use super::recent::Recent;
use super::request_counts::RequestCounts;
use super::standing::StandingBoard;
use crate::balancer::Published;
use crate::http::message::{Request, Response, header, text, with_body};
use crate::http::worker_client::{HEADER_HOP, WorkerAnswer};
use crate::protocol::{HEADER_NODE, HEADER_REQUEST_ID, HEADER_SERVER, HEADER_STALE_MS};
use crate::raft::NodeId;

/// The longest `X-Request-Id` that is taken from a client.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// The answer to a request whose N is none. A worker may have a smaller limit of its own, and says so itself: without
/// the last part, the two messages would contradict each other.
const N_RULE: &str = "N must be a whole number from 1 to 18446744073709551615, in decimal digits, as in /10001 for the \
                      10001st prime; a worker may take less (worker.py: up to 1000000000000)";

/// The route of the primes.
pub struct Primes {
    /// This node.
    pub id: NodeId,
    /// After so long without a leader, what is served is marked with its age.
    pub patience: Duration,
    /// The clock's beginning.
    pub started: Instant,
    /// Sends requests to servers.
    pub forwarder: Arc<Forwarder>,
    /// How this node stands.
    pub standing: Arc<StandingBoard>,
    /// The agreed table.
    pub published: Arc<Published>,
    /// For `/metrics`.
    pub counts: Arc<RequestCounts>,
    /// Numbers the requests that came without an id.
    pub next_request: AtomicU64,
    /// For the page.
    pub recent: Arc<Recent>,
}

impl Primes {
    /// Answers `GET /segment`.
    pub fn prime(&self, segment: &str, request: &Request) -> Response {
        let began = Instant::now();
        if request.header(HEADER_HOP).is_some() {
            // Some address that was reported as a worker's leads to this node. Passing the request on once more might go on in a
            // circle until no connection is left.
            let mend =
                "a node has passed this request on already: the address of some worker is a node's own";
            self.count(508, None, began.elapsed());
            return text(508, mend).with_header(header(HEADER_NODE, &self.id.to_string()));
        }
        let request_id = self.request_id(request);
        let answer = match (parse_n(segment), self.standing.get().contradiction) {
            (None, _) => {
                self.count(400, None, began.elapsed());
                text(400, N_RULE)
            }
            (Some(_), Some(contradiction)) => {
                self.count(503, None, began.elapsed());
                text(503, &contradiction.text(self.id))
                    .with_header(header("Retry-After", &self.retry_after()))
            }
            (Some(n), None) => {
                let outcome = self.forwarder.prime(n, &request_id, request.client());
                let took = began.elapsed();
                let (status, server) = match &outcome {
                    Ok(delivered) => (delivered.status(), Some(delivered.server.as_str())),
                    Err(failure) => (failure.status(), None),
                };
                self.count(status, server, took);
                self.deliver(n, &request_id, outcome, took)
            }
        };
        let answer = answer
            .with_header(header(HEADER_NODE, &self.id.to_string()))
            .with_header(header(HEADER_REQUEST_ID, &request_id));
        match self.standing.get().stale_for(self.started.elapsed(), self.patience) {
            Some(age) => answer.with_header(header(HEADER_STALE_MS, &age.as_millis().to_string())),
            None => answer,
        }
    }

    fn count(&self, status: u16, server: Option<&str>, took: Duration) {
        self.counts.count(status, server, took, |name| self.published.view().get(name).is_some());
    }

    fn deliver(
        &self,
        n: u64,
        request_id: &str,
        outcome: Result<Delivered, ForwardFailure>,
        took: Duration,
    ) -> Response {
        let ms = took.as_secs_f64() * 1e3;
        match &outcome {
            Ok(delivered) => self.recent.answered(n, delivered.status(), delivered, ms),
            Err(failure) => self.recent.failed(n, failure.status(), failure.failures(), ms),
        }
        match outcome {
            Ok(Delivered { answer, server, load, retries, hedged, .. }) => {
                let how = if hedged { ", another server had stalled" } else { "" };
                info!(
                    "request {request_id}: N={n} answered by {server} (load when chosen {load:.1} %) in {ms:.1} ms, \
                     retries {retries}{how}"
                );
                let response = match answer {
                    WorkerAnswer::Prime(digits) => with_body(200, "text/plain", digits),
                    // As text, whatever the worker calls it: a browser must not run a page of the worker as the node's.
                    WorkerAnswer::ClientError { status, body } => with_body(status, "text/plain", body),
                };
                response.with_header(header(HEADER_SERVER, &server))
            }
            Err(ForwardFailure::NoServer) => {
                info!("request {request_id}: N={n} answered 503: no server is alive with its worker up");
                text(503, "no server is alive with its worker up; try again when one reports")
                    .with_header(header("Retry-After", &self.retry_after()))
            }
            Err(ForwardFailure::AllBusy { retry_after_s }) => {
                info!("request {request_id}: N={n} answered 503 after {ms:.1} ms: all servers are busy");
                text(503, "all servers are busy; try again later")
                    .with_header(header("Retry-After", &retry_after_s.to_string()))
            }
            Err(ForwardFailure::AllFailed(failures)) => {
                let each: Vec<_> =
                    failures.iter().map(|(server, error)| format!("{server} {error}")).collect();
                let each = each.join("; ");
                info!(
                    "request {request_id}: N={n} answered 502 after {ms:.1} ms, every server failed: {each}"
                );
                text(502, &format!("every server that was tried failed: {each}"))
            }
            Err(ForwardFailure::DeadlinePassed) => {
                info!(
                    "request {request_id}: N={n} answered 504 after {ms:.1} ms: no server answered in time"
                );
                text(504, "no server answered within request_timeout_ms")
            }
            Err(ForwardFailure::ClientGone) => {
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
        match request.header(HEADER_REQUEST_ID).filter(valid) {
            Some(id) => id.to_owned(),
            None => {
                let number = self.next_request.fetch_add(1, Ordering::Relaxed);
                format!("{}-{:x}-{number}", self.id, self.started.elapsed().as_millis())
            }
        }
    }
}

/// N, if the segment is decimal digits that stand for a number from 1 to 2^64 - 1.
fn parse_n(segment: &str) -> Option<u64> {
    let digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| segment.parse().ok()).flatten().filter(|n| *n >= 1)
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
}
