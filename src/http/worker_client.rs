//! Asking a worker for a prime.
//!
//! Who calls it: the public side of a node, once per attempt at forwarding `GET /N`. It follows docs/protocol.md: the path
//! is rebuilt from the number, nothing of the client's reaches the worker, and a 200 counts only if its whole body is
//! decimal digits.
//!
//! The worker that the course handed out shapes this file. It speaks HTTP/1.0, sends its status line *before* it
//! computes, gives no Content-Length, closes, and serves one connection at a time without a time-out. Therefore:
//! - every call opens its own connection and announces `Connection: close`; none is kept or opened ahead of time,
//!   since a single idle one would block such a worker for everybody;
//! - a status line proves nothing: only a whole body of digits is an answer, and a slow answer is no failure;
//! - a connection that cannot be made within [`CONNECT_TIMEOUT`] may mean "busy" (its accept queue holds about seven),
//!   which is told apart from "refused", which means dead. Who has nobody else to ask can wait for its turn
//!   ([`WorkerClient::ask_patiently`]).
//!
//! What cannot be seen: a worker without Content-Length that is killed *between* two writes of one number, and whose
//! kernel closes in an orderly way, leaves a shorter number. A reset (which is what a kill with unread input or a
//! vanished process usually gives) is noticed, a short body under a Content-Length is, and `worker.py` sends one.
//!
//! The wait can be ended by another thread through a [`CancelHandle`] (the same request may be running at a second
//! worker, and the first whole answer wins; or the client has gone). There is no thread per call.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use ureq::Agent;
use ureq::config::AutoHeaderValue;

pub use super::dial::CancelHandle;
use super::dial::{BUFFER_BYTES, Dialer, HEAD_BYTES_MAX, Journal, NumericResolver, Order};

/// The longest wait for a worker's connection, if there may be another worker. On a network of one building a handshake takes less
/// than a millisecond; three seconds leave room for one lost SYN, which the kernel repeats after one second, and for the stall
/// rule: with the default `stall_ms` of two seconds, a worker that hangs with a full queue is found stalled by its reports
/// first, and passed over from then on.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longer than any `request_timeout_ms`: then the deadline ends the wait.
const CONNECT_TIMEOUT_PATIENT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest body of a 200, in bytes. The largest prime that a u64 can number has 21 digits.
pub const PRIME_BYTES_MAX: usize = 64;

/// The longest body of a 4xx that is passed on to the client, in bytes.
pub const CLIENT_ERROR_BYTES_MAX: usize = 16 * 1024;

/// The longest Content-Type of a 4xx that is passed on, in bytes; a longer one is left out.
const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// What a worker answered, where the answer is the client's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A 200 whose whole body is digits: the bytes as the worker sent them, with their newline if there was one.
    Prime(Vec<u8>),
    /// A 4xx, to be passed on as it is.
    ClientError {
        /// 400 to 499.
        status: u16,
        /// Whole, at most [`CLIENT_ERROR_BYTES_MAX`] bytes.
        body: Vec<u8>,
        /// The worker's Content-Type, if it gave one that is printable.
        content_type: Option<String>,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerError {
    /// Nobody listens there.
    Refused,
    /// No way there (no route, no descriptor left, …), in the system's words.
    Unreachable(String),
    /// The connection was not accepted within [`CONNECT_TIMEOUT`]: gone, or too busy to accept.
    ConnectTimeout,
    /// Closed or reset before a whole answer came.
    Closed,
    /// An answer that is none: not HTTP, or a 200 whose body is not a number. The reason in words.
    BadBody(String),
    /// Any status besides 200 and 4xx.
    ServerError(u16),
    /// The caller's deadline passed. Not the worker's failure.
    DeadlinePassed,
    /// [`CancelHandle::cancel`] was called. Not the worker's failure.
    Cancelled,
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => write!(f, "refused the connection"),
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::ConnectTimeout => {
                write!(f, "did not accept the connection within {} ms", CONNECT_TIMEOUT.as_millis())
            }
            Self::Closed => write!(f, "closed the connection before a whole answer came"),
            Self::BadBody(reason) => write!(f, "sent no prime: {reason}"),
            Self::ServerError(status) => write!(f, "answered {status}"),
            Self::DeadlinePassed => write!(f, "had not answered when the time for the request ran out"),
            Self::Cancelled => write!(f, "was no longer needed"),
        }
    }
}

impl std::error::Error for WorkerError {}

/// Asks workers, one call at a time. Each serving thread has its own.
#[derive(Debug)]
pub struct WorkerClient {
    agent: Agent,
    journal: Arc<Journal>,
}

impl Default for WorkerClient {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerClient {
    /// A client without any connection.
    pub fn new() -> Self {
        let journal = Arc::new(Journal::default());
        let dialer = Dialer { journal: Arc::clone(&journal), connect_timeout: CONNECT_TIMEOUT };
        // No time-out of ureq's: each phase would have its own, while the caller has one deadline for the whole call.
        // `Dialer` and its connections hold every wait to that deadline.
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(AutoHeaderValue::None)
            .accept(AutoHeaderValue::None)
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(HEAD_BYTES_MAX)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .build();
        Self { agent: Agent::with_parts(config, dialer, NumericResolver), journal }
    }

    /// Asks the worker at `worker` for the `n`th prime and waits for the whole answer until `deadline` at most.
    ///
    /// # Errors
    /// Every [`WorkerError`]. Whether another worker is tried next is the caller's policy.
    pub fn ask(
        &mut self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        cancel: &CancelHandle,
    ) -> Result<Answer, WorkerError> {
        self.call(worker, n, deadline, CONNECT_TIMEOUT, cancel)
    }

    /// The same, but waits for the connection as for the answer, until `deadline`: never [`WorkerError::ConnectTimeout`].
    ///
    /// # Errors
    /// Every other [`WorkerError`].
    pub fn ask_patiently(
        &mut self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        cancel: &CancelHandle,
    ) -> Result<Answer, WorkerError> {
        loop {
            // The system gives up by itself after some two minutes (tcp_syn_retries, tcp(7)).
            match self.call(worker, n, deadline, CONNECT_TIMEOUT_PATIENT, cancel) {
                Err(WorkerError::ConnectTimeout) => {}
                outcome => return outcome,
            }
        }
    }

    fn call(
        &mut self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        connect_timeout: Duration,
        cancel: &CancelHandle,
    ) -> Result<Answer, WorkerError> {
        if cancel.is_cancelled() {
            return Err(WorkerError::Cancelled);
        }
        self.journal.begin(Order {
            deadline: Some(deadline),
            connect_timeout: Some(connect_timeout),
            cancel: Some(cancel.clone()),
        });
        let outcome = self.exchange(worker, n);
        cancel.take_back();
        // A shutdown by `cancel` looks like an orderly end of the stream, and so like the regular end of a body
        // without Content-Length: after a cancel, nothing that was read can be believed.
        if cancel.is_cancelled() {
            return Err(WorkerError::Cancelled);
        }
        outcome.map_err(|failure| match failure {
            Failure::Worker(e) => e,
            Failure::Ureq(e) => self.explain(e, deadline),
        })
    }

    fn exchange(&self, worker: SocketAddr, n: u64) -> Result<Answer, Failure> {
        let request = ureq::http::Request::get(format!("http://{worker}/{n}"))
            .header("connection", "close")
            .body(())
            .map_err(|e| Failure::Ureq(e.into()))?;
        let mut answer = self.agent.run(request).map_err(Failure::Ureq)?;
        match answer.status().as_u16() {
            200 => {
                let body = read_whole(answer.body_mut(), PRIME_BYTES_MAX)?;
                // ureq takes a reset for the end of a body whose length was not announced.
                if self.journal.was_reset() {
                    return Err(Failure::Worker(WorkerError::Closed));
                }
                check_prime(&body).map_err(|reason| Failure::Worker(WorkerError::BadBody(reason)))?;
                Ok(Answer::Prime(body))
            }
            status @ 400..=499 => {
                let content_type = answer
                    .headers()
                    .get("content-type")
                    .and_then(|value| value.to_str().ok())
                    .filter(|value| value.len() <= CONTENT_TYPE_BYTES_MAX)
                    .map(str::to_owned);
                let body = read_whole(answer.body_mut(), CLIENT_ERROR_BYTES_MAX)?;
                if self.journal.was_reset() {
                    return Err(Failure::Worker(WorkerError::Closed));
                }
                Ok(Answer::ClientError { status, body, content_type })
            }
            // The body of any other answer is of no use to anybody: dropping it closes the connection.
            status => Err(Failure::Worker(WorkerError::ServerError(status))),
        }
    }

    /// What an error of ureq means for the caller.
    fn explain(&self, error: ureq::Error, deadline: Instant) -> WorkerError {
        match error {
            ureq::Error::Timeout(_) if Instant::now() >= deadline => WorkerError::DeadlinePassed,
            ureq::Error::Timeout(_) => WorkerError::ConnectTimeout,
            ureq::Error::Io(e) if !self.journal.had_connection() => match e.kind() {
                io::ErrorKind::ConnectionRefused => WorkerError::Refused,
                // A listener whose accept queue was thrown away answers the handshake with a reset.
                io::ErrorKind::ConnectionReset => WorkerError::Closed,
                _ => WorkerError::Unreachable(e.to_string()),
            },
            ureq::Error::Io(_) => WorkerError::Closed,
            other => WorkerError::BadBody(format!("not a whole HTTP answer: {other}")),
        }
    }
}

/// Either this file's verdict or an error of ureq's that is still to be explained.
enum Failure {
    Worker(WorkerError),
    Ureq(ureq::Error),
}

/// Reads the body to its end; more than `bytes_max` is an error, and so is an end before the announced length.
fn read_whole(body: &mut ureq::Body, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let too_long =
        || Failure::Worker(WorkerError::BadBody(format!("the body is longer than {bytes_max} bytes")));
    let announced = body.content_length();
    if announced.is_some_and(|announced| announced > bytes_max as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(bytes_max.min(PRIME_BYTES_MAX) + 1);
    let outcome = body.as_reader().take(bytes_max as u64 + 1).read_to_end(&mut bytes);
    match (outcome, announced) {
        (Ok(_), _) if bytes.len() > bytes_max => Err(too_long()),
        (Ok(_), _) => Ok(bytes),
        (Err(e), Some(announced)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Failure::Worker(WorkerError::BadBody(format!(
                "the connection ended after {} of the {announced} bytes it announced",
                bytes.len()
            ))))
        }
        (Err(e), _) => Err(Failure::Ureq(e.into())),
    }
}

/// Whether the whole body is one decimal number, with at most one newline after it.
fn check_prime(body: &[u8]) -> Result<(), String> {
    let digits = body.strip_suffix(b"\n").unwrap_or(body);
    if digits.is_empty() {
        return Err("the body is empty".to_owned());
    }
    match digits.iter().find(|byte| !byte.is_ascii_digit()) {
        Some(byte) => Err(format!("the body holds a byte that is no digit: '{}'", byte.escape_ascii())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
