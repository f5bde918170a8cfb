//! Asking a worker for a prime.
//!
//! Who calls it: the public side of a node, once per attempt at forwarding `GET /N`. It follows docs/protocol.md: the
//! path is rebuilt from the number, nothing of the client's reaches the worker, and a 200 counts only if its whole body
//! is decimal digits.
//!
//! The worker that the course handed out shapes this file. It speaks HTTP/1.0, sends its status line *before* it
//! computes, gives no Content-Length, closes, and serves one connection at a time without a time-out. Therefore:
//! - the client opens a connection only when it has a request, and keeps it only if the worker offers that in a header
//!   (`kept.rs`): one idle connection would block the course's worker for everybody;
//! - a status line proves nothing: only a whole body of digits is an answer, and a slow answer is no failure;
//! - a connection that cannot be made within [`CONNECT_TIMEOUT`] may mean "busy" (the worker's accept queue holds about
//!   seven). A refused connection means "dead". If no other server is left, the node can wait until the worker accepts
//!   ([`WorkerClient::ask_patiently`]).
//!
//! One failure cannot be seen: a worker without Content-Length is killed *between* two writes of one number, and its
//! kernel closes the connection without a reset. Then the number is too short. A reset is noticed (usual when a process
//! is killed with unread input), and so is a body that is shorter than its Content-Length. `worker.py` sends a
//! Content-Length.
//!
//! Another thread can end the wait through a [`CancelHandle`]: a second worker has answered the same request first, or
//! the client has gone. There is no thread per call.
//!
//! ureq serves the requests between nodes, but not these: it took more time than everything else that a node does for a
//! request. Without it there is little to do: write a request of one line, and find the end of a small answer
//! (`answer.rs`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fmt, io};

pub use super::connect::CancelHandle;
use answer::{Broken, RawAnswer};
use kept::KeptConnections;
use wire::Wire;

mod answer;
mod kept;
mod wire;

/// The longest wait for a worker's connection, if there may be another worker. On a network of one building a handshake
/// takes less than a millisecond; three seconds leave room for one lost SYN, which the kernel repeats after one second,
/// and for the stall rule: with the default `stall_ms` of two seconds, a worker that hangs with a full queue is found
/// stalled by its reports first, and passed over from then on.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest body of a 200, in bytes. The largest prime that a u64 can number has 21 digits.
pub const PRIME_BYTES_MAX: usize = 64;

/// The longest body of a 4xx that is passed on to the client, in bytes.
pub const CLIENT_ERROR_BYTES_MAX: usize = 16 * 1024;

/// The header that every request to a worker carries. If one comes back to a node, because a node stands where a worker
/// was said to be, the node sees that it was passed on already.
pub const HEADER_HOP: &str = "X-Rakit-Hop";

/// An answer of the worker that is passed on to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerAnswer {
    /// A 200 whose whole body is digits: the bytes as the worker sent them, with their newline if there was one.
    Prime(Vec<u8>),
    /// A 4xx, to be passed on as it is.
    ClientError {
        /// 400 to 499.
        status: u16,
        /// Whole, at most [`CLIENT_ERROR_BYTES_MAX`] bytes.
        body: Vec<u8>,
    },
}

/// An answer, and how long its parts took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What the worker said.
    pub answer: WorkerAnswer,
    /// When this client turned to the worker.
    pub asked_at: Instant,
    /// From then until there was a connection; nothing on one that was kept.
    pub connect: Duration,
    /// From the connection until the first byte of the answer. A worker that sends its status line before it computes
    /// is quick with it.
    pub first_byte: Duration,
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
    /// The worker sent something else than an answer: not HTTP, or a 200 whose body is not a number. The reason in
    /// words.
    BadBody(String),
    /// 503 with `Retry-After`: the worker is in order, but too many requests wait there already.
    Busy {
        /// The value of `Retry-After`, in seconds.
        retry_after_s: u32,
    },
    /// A status other than 200 and 4xx.
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
            Self::Busy { retry_after_s } => write!(f, "is busy for {retry_after_s} s"),
            Self::ServerError(status) => write!(f, "answered {status}"),
            Self::DeadlinePassed => write!(f, "had not answered when the time for the request ran out"),
            Self::Cancelled => write!(f, "was no longer needed"),
        }
    }
}

impl std::error::Error for WorkerError {}

/// Asks workers. One per node, shared by all its request threads.
#[derive(Debug, Default)]
pub struct WorkerClient {
    kept: KeptConnections,
}

impl WorkerClient {
    /// A client without any connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the worker at `worker` for the `n`th prime and waits for the whole answer until `deadline` at most.
    ///
    /// # Errors
    /// Every [`WorkerError`]. Whether another worker is tried next is the caller's policy.
    pub fn ask(
        &self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        cancel: &CancelHandle,
    ) -> Result<Answered, WorkerError> {
        self.call(worker, n, deadline, Some(CONNECT_TIMEOUT), cancel)
    }

    /// The same, but the connection, too, may take until `deadline`: never [`WorkerError::ConnectTimeout`].
    ///
    /// # Errors
    /// Every other [`WorkerError`].
    pub fn ask_patiently(
        &self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        cancel: &CancelHandle,
    ) -> Result<Answered, WorkerError> {
        loop {
            // The kernel gives up by itself after about two minutes (tcp_syn_retries, tcp(7)). Then ask again.
            match self.call(worker, n, deadline, None, cancel) {
                Err(WorkerError::ConnectTimeout) => {}
                outcome => return outcome,
            }
        }
    }

    /// Closes the kept connections that have been idle for too long. Call it regularly: otherwise the connections to a
    /// worker that gets no more requests would stay open.
    pub fn close_idle(&self) {
        self.kept.close_idle(Instant::now());
    }

    fn call(
        &self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        connect_timeout: Option<Duration>,
        cancel: &CancelHandle,
    ) -> Result<Answered, WorkerError> {
        if cancel.is_cancelled() {
            return Err(WorkerError::Cancelled);
        }
        let outcome = self.exchange(worker, n, deadline, connect_timeout, cancel);
        cancel.take_back();
        // A shutdown by `cancel` looks like the end of the stream, which is the regular end of a body without
        // Content-Length. So after a cancel the answer may be cut, and is not used.
        if cancel.is_cancelled() { Err(WorkerError::Cancelled) } else { outcome }
    }

    fn exchange(
        &self,
        worker: SocketAddr,
        n: u64,
        deadline: Instant,
        connect_timeout: Option<Duration>,
        cancel: &CancelHandle,
    ) -> Result<Answered, WorkerError> {
        let request = format!("GET /{n} HTTP/1.1\r\nHost: {worker}\r\n{HEADER_HOP}: 1\r\n\r\n");
        let asked_at = Instant::now();
        let mut first_byte_at = None;
        let kept = self.kept.take(worker, asked_at).map(|mut wire| {
            let answer = wire
                .lend_to(cancel)
                .and_then(|()| wire.send(request.as_bytes()))
                .map_err(|_| Broken::Unheard)
                .and_then(|()| answer::read(|bytes| timed(&mut wire, bytes, deadline, &mut first_byte_at)));
            (wire, asked_at, answer)
        });
        let (wire, connected_at, answer) = match kept {
            // The worker closed the kept connection while it was idle. That is no failure: a fresh one is tried.
            Some((_, _, Err(Broken::Unheard))) | None => {
                let mut wire = open(worker, deadline, connect_timeout, cancel)?;
                let connected_at = Instant::now();
                first_byte_at = None;
                wire.send(request.as_bytes()).map_err(|_| WorkerError::Closed)?;
                let answer = answer::read(|bytes| timed(&mut wire, bytes, deadline, &mut first_byte_at));
                (wire, connected_at, answer)
            }
            Some(exchanged) => exchanged,
        };
        let answer = answer.map_err(|broken| match broken {
            Broken::Unheard | Broken::Cut => WorkerError::Closed,
            Broken::DeadlinePassed => WorkerError::DeadlinePassed,
            Broken::NotHttp(reason) => WorkerError::BadBody(reason),
        })?;
        if let Some(lifetime) = answer.kept_for {
            cancel.take_back();
            self.kept.put(worker, wire, Instant::now() + lifetime);
        }
        let answer = judge(answer)?;
        let connect = connected_at.saturating_duration_since(asked_at);
        let first_byte = first_byte_at.unwrap_or(connected_at).saturating_duration_since(connected_at);
        Ok(Answered { answer, asked_at, connect, first_byte })
    }
}

/// Receives, and notes when the first bytes came.
fn timed(
    wire: &mut Wire,
    bytes: &mut Vec<u8>,
    deadline: Instant,
    first_byte_at: &mut Option<Instant>,
) -> Result<usize, Broken> {
    let received = wire.receive(bytes, deadline)?;
    first_byte_at.get_or_insert_with(Instant::now);
    Ok(received)
}

/// Opens a connection within the time that is left.
fn open(
    worker: SocketAddr,
    deadline: Instant,
    connect_timeout: Option<Duration>,
    cancel: &CancelHandle,
) -> Result<Wire, WorkerError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(WorkerError::DeadlinePassed);
    }
    let timeout = connect_timeout.map_or(left, |timeout| timeout.min(left));
    Wire::open(worker, timeout, cancel).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut if Instant::now() >= deadline => WorkerError::DeadlinePassed,
        io::ErrorKind::TimedOut => WorkerError::ConnectTimeout,
        io::ErrorKind::ConnectionRefused => WorkerError::Refused,
        // The worker's process ended while the connection waited in its accept queue: the kernel resets it.
        io::ErrorKind::ConnectionReset => WorkerError::Closed,
        _ => WorkerError::Unreachable(error.to_string()),
    })
}

/// Decides what a whole answer means.
fn judge(answer: RawAnswer) -> Result<WorkerAnswer, WorkerError> {
    match answer.status {
        200 => {
            check_prime(&answer.body).map_err(WorkerError::BadBody)?;
            Ok(WorkerAnswer::Prime(answer.body))
        }
        status @ 400..=499 => Ok(WorkerAnswer::ClientError { status, body: answer.body }),
        status => Err(match (status, answer.retry_after_s) {
            (503, Some(retry_after_s)) => WorkerError::Busy { retry_after_s },
            _ => WorkerError::ServerError(status),
        }),
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
