//! `GET /N` on the public address: parses N, has the request forwarded, and says how it ended: to the client, in the
//! log, in the counters. Called by `public_service.rs`; `forwarding.rs` does the work.

use std::borrow::Cow;
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
use crate::http::worker_client::{Answered, HEADER_HOP, WorkerAnswer};
use crate::protocol::{HEADER_NODE, HEADER_REQUEST_ID, HEADER_SERVER, HEADER_SERVER_TIMING, HEADER_STALE_MS};
use crate::raft::NodeId;
use request_line::{RequestLine, RequestTimes};

mod request_line;

/// The longest `X-Request-Id` that is taken from a client.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// `Retry-After`, in seconds, of an answer for which no server was asked. One second is the usual report interval.
const RETRY_AFTER_S: &str = "1";

/// The answer to a request whose N is none. A worker may have a smaller limit of its own, and says so itself: without
/// the last part, the two messages would contradict each other.
const N_RULE: &str = "N must be a whole number from 1 to 18446744073709551615, in decimal digits, as in /10001 for the \
                      10001st prime; a worker may take less (worker.py: up to 1000000000000)";

/// How a request ended.
struct Ended {
    answer: Response,
    /// Who answered, and its load when it was chosen.
    server: Option<(String, Option<f64>)>,
    took: Duration,
    times: RequestTimes,
    /// How many servers were asked.
    tries: usize,
    /// What else the log says.
    note: Cow<'static, str>,
}

impl Ended {
    /// Without asking a server.
    fn at_once(answer: Response, note: &'static str, began: Instant) -> Self {
        let took = began.elapsed();
        let times = RequestTimes::unanswered(took);
        Self { answer, server: None, took, times, tries: 0, note: note.into() }
    }
}

/// The route of the primes.
pub struct Primes {
    /// This node.
    pub id: NodeId,
    /// After so long without a leader, what is served is marked with its age.
    pub election_timeout_max: Duration,
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
        let id = self.request_id(request);
        let n = parse_n(segment);
        let Ended { answer, server, took, times, tries, note } = match (n, self.standing.get().contradiction)
        {
            _ if request.header(HEADER_HOP).is_some() => {
                // Some address that was reported as a worker's leads to this node. Passing the request on once more
                // might go on in a circle until no connection is left.
                let mend =
                    "a node has passed this request on already: the address of some worker is a node's own";
                Ended::at_once(text(508, mend), "it came back from a node", began)
            }
            (None, _) => Ended::at_once(text(400, N_RULE), "N is no whole number from 1 on", began),
            (Some(_), Some(contradiction)) => {
                let why = contradiction.text(self.id);
                let answer = text(503, &why).with_header(header("Retry-After", RETRY_AFTER_S));
                Ended::at_once(answer, "the state of this node contradicts another one", began)
            }
            (Some(n), None) => self.forward(n, &id, request, began),
        };
        let status = answer.status_code().0;
        let (client, by) = (request.peer, server.as_ref().map(|(name, load)| (name.as_str(), *load)));
        info!(
            "{}",
            RequestLine { id: &id, n, client, server: by, status, times: &times, tries, note: &note }
        );
        let answer = answer
            .with_header(header(HEADER_NODE, &self.id.to_string()))
            .with_header(header(HEADER_REQUEST_ID, &id))
            .with_header(header(HEADER_SERVER_TIMING, &times.server_timing()));
        let is_known = |name: &str| self.published.view().get(name).is_some();
        self.counts.count(status, by.map(|(name, _)| name), took, is_known);
        match self.standing.get().stale_for(self.started.elapsed(), self.election_timeout_max) {
            Some(age) => answer.with_header(header(HEADER_STALE_MS, &age.as_millis().to_string())),
            None => answer,
        }
    }

    /// Has the request forwarded, and makes its answer of what came of it.
    fn forward(&self, n: u64, id: &str, request: &Request, began: Instant) -> Ended {
        let (outcome, tries) = self.forwarder.prime(n, id, request.client());
        let took = began.elapsed();
        let ms = took.as_secs_f64() * 1e3;
        match outcome {
            Ok(delivered) => {
                self.recent.answered(n, delivered.status(), &delivered, tries, ms);
                let Delivered { answered, server, load, hedged, .. } = delivered;
                let Answered { answer, asked_at, connect, first_byte } = answered;
                let queue = asked_at.saturating_duration_since(began);
                let times = RequestTimes::answered(queue, connect, first_byte, took);
                let answer = match answer {
                    WorkerAnswer::Prime(digits) => with_body(200, "text/plain", digits),
                    // As text, whatever the worker calls it: a browser must not run a page of the worker as the node's.
                    WorkerAnswer::ClientError { status, body } => with_body(status, "text/plain", body),
                };
                let answer = answer.with_header(header(HEADER_SERVER, &server));
                let note = if hedged { "another server had stalled" } else { "" };
                Ended { answer, server: Some((server, load)), took, times, tries, note: note.into() }
            }
            Err(failure) => {
                self.recent.failed(n, failure.status(), tries, ms);
                let (answer, note) = self.failed(failure);
                Ended { answer, server: None, took, times: RequestTimes::unanswered(took), tries, note }
            }
        }
    }

    /// The answer to a request that no server answered, and why, for the log.
    fn failed(&self, failure: ForwardFailure) -> (Response, Cow<'static, str>) {
        let status = failure.status();
        match failure {
            ForwardFailure::NoServer => {
                let (why, mend) = self.forwarder.why_no_server();
                let answer = text(status, &format!("{why}; {mend}"));
                (answer.with_header(header("Retry-After", RETRY_AFTER_S)), why.into())
            }
            ForwardFailure::AllBusy { retry_after_s } => {
                let why = "all servers are busy";
                let answer = text(status, &format!("{why}; try again later"));
                (answer.with_header(header("Retry-After", &retry_after_s.to_string())), why.into())
            }
            ForwardFailure::AllFailed(failures) => {
                let each: Vec<_> =
                    failures.iter().map(|(server, error)| format!("{server} {error}")).collect();
                let each = each.join("; ");
                let answer = text(status, &format!("every server that was tried failed: {each}"));
                (answer, format!("every server failed: {each}").into())
            }
            ForwardFailure::DeadlinePassed => (
                text(status, "no server answered within request_timeout_ms"),
                "no server answered in time".into(),
            ),
            // The answer is for one that has closed its sending side only.
            ForwardFailure::ClientGone => (
                text(status, "you closed your side of the connection, and this took long"),
                "given up: its client closed the connection".into(),
            ),
        }
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
