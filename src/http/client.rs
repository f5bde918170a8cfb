//! The client for requests to nodes: the peers' RPCs, the daemons' reports, the operator's commands.
//!
//! Who calls it: each thread that sends (one per peer and purpose, one per node in a daemon) owns one
//! [`Client`]. It keeps one connection per node between requests.
//!
//! How ureq is set up, and why: of its time-outs only connect, send and receive are used. The others
//! (`timeout_global`, `timeout_per_call`, `timeout_resolve`) make its own resolver start a thread per
//! request. No proxy: otherwise ureq would obey `http_proxy` from the environment, even for loopback. A 4xx
//! or 5xx is an answer, not an error. A redirect is an answer, too, and is never followed. `dial.rs` moves
//! the bytes.
//!
//! # When a kept connection turns out to be closed
//! A node closes a kept connection when it was idle for long, when the node stops, and when the node is
//! killed. Mostly ureq's pool notices the close beforehand (`UreqWire::is_open`) and opens a fresh connection.
//! But the close may cross the request on its way: then the request fails without a byte of answer. RFC 9112
//! (9.3.1) lets a client repeat such a request if it is idempotent. What nodes and daemons send is:
//! Raft's RPCs tolerate duplicates (Raft paper, 5.5: "Raft RPCs are idempotent"), and a report that is not newer
//! than the committed one changes nothing.
//! So the client sends the request once more on a fresh connection. It never does so after a time-out (the
//! node has the request and is slow), when the connection was fresh (then the failure says something about
//! the node), or when an answer had begun.
//!
//! An operator's orders are not idempotent: "remove node 3", carried out and repeated, is refused, since there is
//! no such member any more. Their client is [`Client::without_repetition`].
//!
//! The repetition has new headers, since a nonce may be used only once: the node may have accepted the first
//! request before the connection broke, and would refuse the same nonce as replayed.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ureq::config::AutoHeaderValue;
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, Method};
use ureq::{Agent, Body};

pub use super::connect::CancelHandle;
use super::dial::{BUFFER_BYTES, Dialer, HEAD_BYTES_MAX, Journal, NumericResolver};

/// Kept connections per node: a client makes one request at a time, so it can never use two.
const IDLE_PER_NODE_MAX: usize = 1;

/// Kept connections in all; more nodes than the largest cluster has.
const IDLE_MAX: usize = 64;

/// How long a connection is kept unused. Longer than the pause between two reports or heartbeats, which keep
/// it warm.
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);

/// The most memory, in bytes, that is reserved by the announced length of an answer's body. More memory is
/// taken only as bytes arrive, so that a false length cannot exhaust it.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// How long each phase of a request may take. None of them is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// To open a connection.
    pub connect: Duration,
    /// To hand the request to the kernel: the head, and again the body.
    pub send: Duration,
    /// To receive the head of the answer, and again its body.
    pub receive: Duration,
}

/// A whole answer, of whatever status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, in any case; `None` also if its value is not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The address that was called.
    pub address: SocketAddr,
    /// What happened.
    pub kind: CallErrorKind,
}

/// What happened to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallErrorKind {
    /// Nobody listens there.
    Refused,
    /// No connection could be opened (no route, no descriptor left, …), in the system's words.
    Unreachable(String),
    /// The connection could not be made in time.
    ConnectTimeout,
    /// Closed or reset before a whole answer came. The request may have been carried out.
    Closed,
    /// The request could not be written in time: the node reads nothing.
    SendTimeout,
    /// No whole answer in time. The request may have been carried out.
    ReceiveTimeout,
    /// The body of the answer is longer than this many bytes.
    AnswerTooLarge(usize),
    /// The answer is not HTTP, or its head is too long, or the request cannot be expressed in HTTP.
    Protocol(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match &self.kind {
            CallErrorKind::Refused => write!(f, "{address} refused the connection"),
            CallErrorKind::Unreachable(why) => write!(f, "{address} cannot be reached: {why}"),
            CallErrorKind::ConnectTimeout => write!(f, "{address} did not accept the connection in time"),
            CallErrorKind::Closed => write!(f, "{address} closed the connection before a whole answer came"),
            CallErrorKind::SendTimeout => write!(f, "{address} did not take the request in time"),
            CallErrorKind::ReceiveTimeout => write!(f, "{address} did not answer in time"),
            CallErrorKind::AnswerTooLarge(max) => {
                write!(f, "the answer of {address} is longer than {max} bytes")
            }
            CallErrorKind::Protocol(why) => write!(f, "{address} does not speak HTTP as expected: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Sends requests to nodes, one at a time. Each sending thread has its own.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    journal: Arc<Journal>,
    /// Whether it sends a request once more that met a kept connection which was closed: see the head of this file.
    repeats: bool,
    /// Ends its one call: see [`Client::for_one_call`].
    cancel: Option<CancelHandle>,
}

impl Client {
    /// A client without any connection.
    pub fn new(timeouts: ClientTimeouts) -> Self {
        Self::coming_from(None, timeouts)
    }

    /// The same, with connections that come from this address of the machine; `None`: the kernel chooses one.
    pub fn coming_from(from: Option<IpAddr>, timeouts: ClientTimeouts) -> Self {
        let journal = Arc::new(Journal::default());
        let dialer = Dialer { journal: Arc::clone(&journal), connect_timeout: timeouts.connect, from };
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(timeouts.connect))
            .timeout_send_request(Some(timeouts.send))
            .timeout_send_body(Some(timeouts.send))
            .timeout_recv_response(Some(timeouts.receive))
            .timeout_recv_body(Some(timeouts.receive))
            .user_agent(AutoHeaderValue::None)
            .accept(AutoHeaderValue::None)
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(HEAD_BYTES_MAX)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_PER_NODE_MAX)
            .max_idle_age(IDLE_AGE_MAX)
            .build();
        Self {
            agent: Agent::with_parts(config, dialer, NumericResolver),
            journal,
            repeats: true,
            cancel: None,
        }
    }

    /// A client that sends each request once at most, for requests that may not be carried out twice. If a kept
    /// connection was closed, the call fails, and whether the node has carried the request out is not known.
    pub fn without_repetition(timeouts: ClientTimeouts) -> Self {
        Self { repeats: false, ..Self::new(timeouts) }
    }

    /// A client for one call, which `cancel` can end in every phase. Then the handle says that the call was
    /// cancelled; the error does not. (The handle cannot end a second call on a kept connection.)
    pub fn for_one_call(timeouts: ClientTimeouts, cancel: CancelHandle) -> Self {
        Self { cancel: Some(cancel), ..Self::new(timeouts) }
    }

    /// Sends `GET path` with these headers.
    ///
    /// # Errors
    /// Every [`CallErrorKind`]. The answer's body may have `answer_bytes_max` bytes.
    pub fn get(
        &mut self,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        answer_bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let request = Call { address, method: Method::GET, path, body: &[], answer_bytes_max };
        self.call(&request, |builder| add_headers(builder, headers))
    }

    /// Sends `POST path` with this body, which is JSON. `headers` makes the other headers, anew for each attempt.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn post(
        &mut self,
        address: SocketAddr,
        path: &str,
        mut headers: impl FnMut() -> Vec<(&'static str, String)>,
        body: &[u8],
        answer_bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let request = Call { address, method: Method::POST, path, body, answer_bytes_max };
        self.call(&request, |builder| {
            add_headers(builder.header("Content-Type", "application/json"), &headers())
        })
    }

    /// Sends the request, and once more if it met a kept connection that was closed: see the head of this
    /// file. `dress` adds the headers, for each attempt anew.
    fn call(
        &mut self,
        request: &Call<'_>,
        mut dress: impl FnMut(Builder) -> Builder,
    ) -> Result<Answer, CallError> {
        let outcome = match self.attempt(request, &mut dress) {
            // The pool keeps one connection per node, and it is closed: the second attempt opens a fresh one.
            Err(CallErrorKind::Closed)
                if self.repeats && !self.journal.dialled() && !self.journal.heard() =>
            {
                self.attempt(request, &mut dress)
            }
            outcome => outcome,
        };
        if let Some(cancel) = &self.cancel {
            cancel.take_back();
        }
        outcome.map_err(|kind| CallError { address: request.address, kind })
    }

    fn attempt(
        &mut self,
        request: &Call<'_>,
        dress: &mut impl FnMut(Builder) -> Builder,
    ) -> Result<Answer, CallErrorKind> {
        self.journal.begin(self.cancel.clone());
        let Call { address, method, path, body, answer_bytes_max } = request;
        let builder = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        let builder = dress(builder);
        let answer = match *method {
            Method::GET => builder.body(()).map_err(ureq::Error::from).and_then(|r| self.agent.run(r)),
            _ => builder.body(*body).map_err(ureq::Error::from).and_then(|r| self.agent.run(r)),
        };
        let (head, body) = answer.map_err(|e| self.explain(e))?.into_parts();
        let body = self.read_whole(body, *answer_bytes_max)?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    fn read_whole(&self, mut body: Body, bytes_max: usize) -> Result<Vec<u8>, CallErrorKind> {
        let announced = body.content_length();
        if announced.is_some_and(|announced| announced > bytes_max as u64) {
            return Err(CallErrorKind::AnswerTooLarge(bytes_max));
        }
        let likely = announced.and_then(|announced| usize::try_from(announced).ok()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(likely.min(RESERVE_BYTES_MAX));
        body.as_reader()
            .take(bytes_max as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.explain(e.into()))?;
        if bytes.len() > bytes_max {
            return Err(CallErrorKind::AnswerTooLarge(bytes_max));
        }
        // ureq takes a reset for the end of a body whose length was not announced.
        if self.journal.was_reset() { Err(CallErrorKind::Closed) } else { Ok(bytes) }
    }

    /// What an error of ureq means for the caller.
    fn explain(&self, error: ureq::Error) -> CallErrorKind {
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => CallErrorKind::ConnectTimeout,
            ureq::Error::Timeout(ureq::Timeout::SendRequest | ureq::Timeout::SendBody) => {
                CallErrorKind::SendTimeout
            }
            ureq::Error::Timeout(_) => CallErrorKind::ReceiveTimeout,
            ureq::Error::Io(e) if !self.journal.had_connection() => match e.kind() {
                io::ErrorKind::ConnectionRefused => CallErrorKind::Refused,
                _ => CallErrorKind::Unreachable(e.to_string()),
            },
            ureq::Error::Io(_) => CallErrorKind::Closed,
            ureq::Error::LargeResponseHeader(..) => CallErrorKind::Protocol(format!(
                "the head of its answer is longer than {HEAD_BYTES_MAX} bytes"
            )),
            other => CallErrorKind::Protocol(other.to_string()),
        }
    }
}

/// One request without its headers.
struct Call<'a> {
    address: SocketAddr,
    method: Method,
    path: &'a str,
    body: &'a [u8],
    answer_bytes_max: usize,
}

fn add_headers(builder: Builder, headers: &[(&str, impl AsRef<str>)]) -> Builder {
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, value.as_ref()))
}

#[cfg(test)]
mod tests;
