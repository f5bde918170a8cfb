//! One connection, from its first byte to its close: read a head, ask the service how much body it takes, read the
//! body, call the service, write the answer, and again while both sides keep the connection alive.
//!
//! Called by the threads of `server.rs`, each with one connection at a time. Requests that arrive together
//! ("pipelined") wait in the buffer. The thread takes one at a time, so the answers have the order of the requests.
//!
//! The usual request costs one `recv` and one `writev`. The socket's own time-out (`SO_RCVTIMEO`, set once) bounds the
//! idle pause. Only a request that arrives in pieces needs `poll`, which waits for the rest of the deadline. The
//! deadline is for the *whole* head or body: a client that sends a byte a second gains no time.
//!
//! Follows RFC 9112 section 9 (connections; 9.3 persistence, 9.6 closing) and RFC 9110 section 10.1.1 (100-continue);
//! `socket(7)` for the time-outs, `tcp(7)` for TCP_NODELAY.

use super::body_budget::{BodyBudget, BodyShare};
use super::chunked::{ChunkError, Chunks};
use super::head::{self, Head, RequestRefusal, Scanner};
use super::limits::Limits;
use super::message::{Connection, DateCache, Request, Response, header, print, text};
use super::open::Open;
use super::service::{Acceptance, Ruling, Service};
use super::tally::Tally;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiny_http::Method;

/// The buffer of a body grows in steps of at least this many bytes while the bytes arrive. So a request that only
/// claims a great length reserves no more than this.
pub const BODY_STEP_BYTES: usize = 16 * 1024;

/// A buffer for answers that grew beyond this shrinks again after the answer.
const KEPT_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A body that its route does not take.
const TOO_LONG: RequestRefusal = RequestRefusal { status: 413, line: "the body is too long for this path" };

/// What a connection needs of its server.
pub(super) struct Context<'a> {
    pub(super) name: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) service: &'a dyn Service,
    pub(super) tally: &'a Tally,
    pub(super) bodies: &'a BodyBudget,
    /// Called once: the client of this connection has proven that it is no stranger.
    pub(super) prove: &'a dyn Fn(),
    /// Set once the server stops: finish what has begun, begin nothing.
    pub(super) stopping: &'a AtomicBool,
}

/// Serves one connection until it ends. Returns when nothing more will be read or written; the caller closes it.
pub(super) fn serve(context: &Context<'_>, open: &Arc<Open>) {
    let mut session = ServedConnection {
        context,
        open,
        input: ReceivedBytes::new(context.limits.head_bytes_max),
        output: Vec::new(),
        date: DateCache::default(),
        pause: Duration::ZERO,
        is_proven: false,
    };
    if let Err(ConnectionEnd::Linger) = session.run() {
        session.linger();
    }
}

/// Why a connection ends.
enum ConnectionEnd {
    /// Nobody waits for an answer: close at once.
    Close,
    /// The answer was sent, but the client may still be sending: close in such a way that it can read the answer.
    Linger,
}

/// Why no more bytes came.
enum ReceiveEnd {
    Deadline,
    Gone,
}

/// A connection begins with a buffer of so many bytes. Nearly every request fits.
const BUFFER_BYTES: usize = 4 * 1024;

/// Bytes received and not yet used. The largest size of the buffer is the limit for a head.
struct ReceivedBytes {
    bytes: Vec<u8>,
    bytes_max: usize,
    start: usize,
    end: usize,
}

impl ReceivedBytes {
    fn new(bytes_max: usize) -> ReceivedBytes {
        ReceivedBytes { bytes: vec![0; BUFFER_BYTES.min(bytes_max)], bytes_max, start: 0, end: 0 }
    }

    fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn is_full(&self) -> bool {
        self.end - self.start == self.bytes_max
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "no more is used than was received");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The room behind what is held; moves that to the front, and makes the buffer larger, only when there is no other
    /// room.
    fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.bytes.len() {
                self.bytes.resize((2 * self.end).min(self.bytes_max), 0);
            }
        }
        &mut self.bytes[self.end..]
    }
}

/// How an answer is written, as its request asked.
#[derive(Clone, Copy)]
struct Manner {
    keep_alive: bool,
    of_http_10: bool,
    for_head: bool,
}

/// For a request that could not be parsed: its wishes are unknown.
const UNKNOWN_MANNER: Manner = Manner { keep_alive: false, of_http_10: false, for_head: false };

struct ServedConnection<'a> {
    context: &'a Context<'a>,
    open: &'a Arc<Open>,
    input: ReceivedBytes,
    /// The head of the answer being written; kept, so that a connection allocates it once.
    output: Vec<u8>,
    date: DateCache,
    /// The socket's time-out for receiving, to set it only when it changes.
    pause: Duration,
    is_proven: bool,
}

impl ServedConnection<'_> {
    fn run(&mut self) -> Result<(), ConnectionEnd> {
        let limits = self.context.limits;
        let stream = &self.open.stream;
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_write_timeout(Some(at_least_one_ms(limits.write_deadline))));
        prepared.map_err(|_| ConnectionEnd::Close)?;
        // The client of a fresh connection has a request to send: its first byte has the time of a head, not of an idle
        // pause.
        let mut pause = limits.head_deadline;
        loop {
            if self.input.held().is_empty() {
                self.await_first_bytes(pause)?;
            }
            let head = self.read_head()?;
            self.exchange(head)?;
            pause = limits.idle_deadline;
        }
    }

    /// One request from its head to its answer. `Err` if that was the last on this connection.
    fn exchange(&mut self, head: Head) -> Result<(), ConnectionEnd> {
        let tally = self.context.tally;
        tally.requests.add_one();
        let for_head = head.method == Method::Head;
        let manner = Manner { keep_alive: head.keep_alive, of_http_10: head.is_http_10, for_head };

        let service = self.context.service;
        let peer = self.open.peer;
        let ruling = self.guard(|| Ok(service.judge(&head, peer))).unwrap_or_else(Ruling::Answer);
        let Acceptance { body_bytes_max: limit, is_proven, note } = match ruling {
            Ruling::Accept(acceptance) => acceptance,
            // A body that is not read stands where the next request would begin. Only without a body may the connection
            // stay open.
            Ruling::Answer(answer) if !head.has_body() => return self.answer(answer, manner),
            Ruling::Answer(answer) | Ruling::Close(answer) => return Err(self.last_answer(answer, manner)),
        };
        self.prove_if(is_proven);
        let mut share = self.context.bodies.share(self.is_proven);
        let body = if head.is_chunked {
            self.read_chunks(limit, head.expects_continue, manner, &mut share)?
        } else {
            if limit > 0 && head.content_length.is_none() && brings_a_body(&head.method) {
                return Err(
                    self.refuse(RequestRefusal { status: 411, line: "send a Content-Length" }, manner)
                );
            }
            let length = usize::try_from(head.content_length.unwrap_or(0)).ok();
            let length =
                length.filter(|length| *length <= limit).ok_or_else(|| self.refuse(TOO_LONG, manner))?;
            self.read_body(length, head.expects_continue, manner, &mut share)?
        };

        let request = Request::new(head, body, peer, note, Arc::downgrade(self.open));
        let answer = self.guard(|| Ok(service.call(request))).unwrap_or_else(|panicked| panicked);
        drop(share);
        self.prove_if(answer.status_code().0 < 300);
        self.answer(answer, manner)
    }

    fn prove_if(&mut self, is_proven: bool) {
        if is_proven && !self.is_proven {
            self.is_proven = true;
            (self.context.prove)();
        }
    }

    /// Calls the service. If it panics, this request gets a 500 and the log a line; the connection and the node go on.
    /// The call borrows nothing of this connection, so a panic leaves nothing of it half changed. The service itself
    /// must keep its own data sound.
    fn guard<T>(&self, call: impl FnOnce() -> Result<T, Response>) -> Result<T, Response> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            self.context.tally.panics.add_one();
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            log::error!(
                "{}: a handler panicked on a request of {}: {said}",
                self.context.name,
                self.open.peer
            );
            Err(text(500, "a bug ended the request; the log of this program says more"))
        })
    }

    /// Waits for the next request. `Err` when the connection ends instead: the time is up, the client has gone, or the
    /// server stops.
    fn await_first_bytes(&mut self, pause: Duration) -> Result<(), ConnectionEnd> {
        // First set `idle`, then read `stopping`. `Server::stop` does it the other way round: it sets `stopping`, then
        // reads `idle`. So at least one of the two sees what the other has set.
        self.open.idle.store(true, Ordering::SeqCst);
        if self.context.stopping.load(Ordering::SeqCst) {
            // A request that has already arrived is served. There is no wait for another one.
            receive_by(&self.open.stream, self.input.room(), Instant::now())
                .map(|received| self.input.end += received)
                .map_err(|_| ConnectionEnd::Close)?;
        } else {
            if self.pause != pause {
                let pause = Some(at_least_one_ms(pause));
                self.open.stream.set_read_timeout(pause).map_err(|_| ConnectionEnd::Close)?;
            }
            self.pause = pause;
            self.input.end += loop {
                match (&self.open.stream).read(self.input.room()) {
                    Ok(0) => return Err(ConnectionEnd::Close),
                    Ok(received) => break received,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                            self.context.tally.idle_closed.add_one();
                        }
                        return Err(ConnectionEnd::Close);
                    }
                }
            };
        }
        self.open.idle.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn read_head(&mut self) -> Result<Head, ConnectionEnd> {
        let limits = self.context.limits;
        let mut scanner = Scanner::default();
        let mut deadline = None;
        loop {
            let found = match scanner.scan(self.input.held()) {
                Ok(None) if self.input.is_full() => {
                    Err(RequestRefusal { status: 431, line: "the head of the request is too large" })
                }
                Ok(Some(range)) => {
                    let end = range.end;
                    let head = head::parse(&self.input.held()[range], limits.headers_max);
                    self.input.consume(end);
                    head.map(Some)
                }
                Ok(None) => Ok(None),
                Err(refusal) => Err(refusal),
            };
            match found {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(refusal) => return Err(self.refuse(refusal, UNKNOWN_MANNER)),
            }
            // Only a head that comes in pieces needs the clock, and only once.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.head_deadline);
            let received = receive_by(&self.open.stream, self.input.room(), deadline);
            self.input.end += received.map_err(|stall| self.stalled(stall, UNKNOWN_MANNER))?;
        }
    }

    /// Reads a body of exactly `length` bytes; the route allows this length. The buffer, and its share of the memory
    /// for bodies, grow while the bytes arrive.
    fn read_body(
        &mut self,
        length: usize,
        expects_continue: bool,
        manner: Manner,
        share: &mut BodyShare<'_>,
    ) -> Result<Vec<u8>, ConnectionEnd> {
        let held = self.input.held();
        let mut filled = held.len().min(length);
        if !share.grow_to(filled) {
            return Err(self.no_memory(manner));
        }
        let held = self.input.held();
        let mut body = held[..filled].to_vec();
        self.input.consume(filled);
        if filled == length {
            return Ok(body);
        }
        if expects_continue && filled == 0 {
            self.tell_to_go_on()?;
        }
        let deadline = Instant::now() + self.context.limits.body_deadline;
        while filled < length {
            if filled == body.len() {
                // The buffer doubles, so that few copies are needed, but it never exceeds the announced length.
                let larger = length.min((2 * filled).max(BODY_STEP_BYTES));
                if !share.grow_to(larger) {
                    return Err(self.no_memory(manner));
                }
                body.resize(larger, 0);
            }
            filled += receive_by(&self.open.stream, &mut body[filled..], deadline)
                .map_err(|stall| self.stalled(stall, manner))?;
        }
        Ok(body)
    }

    /// Reads a body in chunks, with so many bytes of content at most. Its buffer, and with it its share of the memory
    /// for bodies, doubles as the bytes arrive.
    fn read_chunks(
        &mut self,
        bytes_max: usize,
        expects_continue: bool,
        manner: Manner,
        share: &mut BodyShare<'_>,
    ) -> Result<Vec<u8>, ConnectionEnd> {
        if expects_continue && self.input.held().is_empty() {
            self.tell_to_go_on()?;
        }
        let deadline = Instant::now() + self.context.limits.body_deadline;
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        loop {
            let held = self.input.held();
            let needed = bytes_max.min(body.len() + held.len());
            if needed > body.capacity() {
                let room = needed.max(bytes_max.min(2 * body.capacity()));
                if !share.grow_to(room) {
                    return Err(self.no_memory(manner));
                }
                body.reserve_exact(room - body.len());
            }
            let used = chunks.decode(held, &mut body, bytes_max).map_err(|error| match error {
                ChunkError::TooLong => self.refuse(TOO_LONG, manner),
                ChunkError::Malformed => {
                    let line = "the body is not made of chunks";
                    self.refuse(RequestRefusal { status: 400, line }, manner)
                }
            })?;
            self.input.consume(used);
            if chunks.is_whole() {
                return Ok(body);
            }
            if self.input.is_full() {
                let line = "a line between two chunks is too long";
                return Err(self.refuse(RequestRefusal { status: 400, line }, manner));
            }
            self.input.end += receive_by(&self.open.stream, self.input.room(), deadline)
                .map_err(|stall| self.stalled(stall, manner))?;
        }
    }

    /// RFC 9110 section 10.1.1: a client that expects this sends the body after it.
    fn tell_to_go_on(&mut self) -> Result<(), ConnectionEnd> {
        let go_on = &mut [IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n")];
        write_all(&self.open.stream, go_on, self.context.limits.write_deadline)
            .map_err(|_| ConnectionEnd::Close)
    }

    /// All bodies together are too large: this client may try again when others are done.
    fn no_memory(&mut self, manner: Manner) -> ConnectionEnd {
        self.context.tally.refusals.add_one();
        let answer = text(503, "too much memory is taken by other requests; try again in a second");
        self.last_answer(answer.with_header(header("Retry-After", "1")), manner)
    }

    fn stalled(&mut self, stall: ReceiveEnd, manner: Manner) -> ConnectionEnd {
        match stall {
            // The client closed in the middle of its request: there is nobody to answer.
            ReceiveEnd::Gone => ConnectionEnd::Close,
            ReceiveEnd::Deadline => self
                .refuse(RequestRefusal { status: 408, line: "the request did not arrive in time" }, manner),
        }
    }

    /// Answers a request that breaks the protocol or a limit. Then the connection ends.
    fn refuse(&mut self, refusal: RequestRefusal, manner: Manner) -> ConnectionEnd {
        self.context.tally.refusals.add_one();
        log::debug!(
            "{}: refused a request of {} with {}: {}",
            self.context.name,
            self.open.peer,
            refusal.status,
            refusal.line
        );
        self.last_answer(text(refusal.status, refusal.line), manner)
    }

    /// Writes an answer with `Connection: close`, for a client that may still be sending.
    fn last_answer(&mut self, answer: Response, manner: Manner) -> ConnectionEnd {
        match self.write(answer, Connection::Close, manner.for_head) {
            Ok(()) => ConnectionEnd::Linger,
            Err(_) => ConnectionEnd::Close,
        }
    }

    fn answer(&mut self, answer: Response, manner: Manner) -> Result<(), ConnectionEnd> {
        if !manner.keep_alive || self.context.stopping.load(Ordering::SeqCst) {
            let end = self.last_answer(answer, manner);
            // The whole request was read. If no further byte has come, the connection can close at once without a
            // reset. Of a client that did not ask for the close, more may have come while the service answered.
            let more_has_come =
                !self.input.held().is_empty() || manner.keep_alive && self.open.has_unread_bytes();
            return Err(if more_has_come { end } else { ConnectionEnd::Close });
        }
        let connection = if manner.of_http_10 { Connection::KeepAlive } else { Connection::Implied };
        self.write(answer, connection, manner.for_head).map_err(|_| ConnectionEnd::Close)
    }

    /// Writes head and body in one call. Two small writes would cost two calls and perhaps two packets.
    fn write(&mut self, answer: Response, connection: Connection, without_body: bool) -> io::Result<()> {
        self.output.clear();
        let body = print(answer, connection, without_body, &mut self.date, &mut self.output);
        let slices = &mut [IoSlice::new(&self.output), IoSlice::new(&body)];
        write_all(&self.open.stream, slices, self.context.limits.write_deadline)?;
        self.output.shrink_to(KEPT_BUFFER_BYTES_MAX);
        Ok(())
    }

    /// RFC 9112 section 9.6: a socket that is closed with unread input sends a reset, and the client's kernel may then
    /// throw the answer away unread. So the server shuts its sending side, then reads and drops what the client still
    /// sends, within limits, until the client closes too.
    fn linger(&mut self) {
        let limits = self.context.limits;
        if self.open.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + limits.linger_deadline;
        let mut drained = 0;
        (self.input.start, self.input.end) = (0, 0);
        while drained < limits.linger_bytes_max {
            match receive_by(&self.open.stream, self.input.room(), deadline) {
                Ok(received) => drained += received,
                Err(_) => return,
            }
        }
    }
}

/// Whether the method means nothing without a body (RFC 9110 section 9.3). Without a length, the body would be lost
/// unnoticed.
fn brings_a_body(method: &Method) -> bool {
    matches!(method, Method::Post | Method::Put | Method::Patch)
}

/// For `setsockopt`, a time of zero means "no time-out at all".
fn at_least_one_ms(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

/// Receives at least one byte, or returns why it cannot. Waits until bytes come, at most until the deadline.
fn receive_by(stream: &TcpStream, room: &mut [u8], deadline: Instant) -> Result<usize, ReceiveEnd> {
    assert!(!room.is_empty(), "to receive nothing would look like the end");
    loop {
        match recv(stream, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(ReceiveEnd::Gone),
            Ok((_, received)) => return Ok(received),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Err(ReceiveEnd::Gone),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReceiveEnd::Deadline);
        }
        let left = Timespec {
            tv_sec: left.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        // The result does not matter (ready, time up, interrupted, an error that `recv` will report): the loop tries
        // again.
        let _ = poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&left));
    }
}

/// Writes everything. The socket's own time-out bounds each call to `deadline`. A client that takes a part of the
/// answer has the same time once more for the rest; then it is given up.
fn write_all(mut stream: &TcpStream, slices: &mut [IoSlice<'_>], deadline: Duration) -> io::Result<()> {
    let mut slices = slices;
    IoSlice::advance_slices(&mut slices, 0);
    let mut first_short: Option<Instant> = None;
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !slices.is_empty() && first_short.get_or_insert_with(Instant::now).elapsed() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
