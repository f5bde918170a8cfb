//! Connections to nodes: the part of ureq that this project replaces, for two reasons.
//!
//! Who calls it: [`Client`](super::client::Client) (peers, daemon, status) gives a [`Dialer`] to its ureq
//! agent as its *connector*. ureq still does the request head, the answer head, the body framing of RFC 9112
//! and the pool of kept connections. This file moves the bytes.
//!
//! The two reasons:
//! 1. *Facts.* Whether a request may be sent again depends on facts that ureq's error does not hold. Was the
//!    connection a kept one? Did a byte of the answer arrive? Did the stream end by a reset? (ureq takes a
//!    reset for the regular end of a body without Content-Length, and so would accept half an answer.) A
//!    [`Journal`] notes these facts. And another thread must be able to cancel a call: the socket is lent to
//!    a [`CancelHandle`], which may shut it down.
//! 2. *Microseconds.* ureq writes head and body with one write(2) each, and so in two packets. It sets the
//!    receive time-out before nearly every read, since the remaining time differs each time. It probes a kept
//!    connection with three system calls, twice per request. Here a request of less than 56 KiB leaves in one write
//!    ([`WRITE_BYTES`]), a time-out is set only when it changes by a millisecond, and a kept connection is probed once,
//!    by recv(2) with MSG_PEEK and MSG_DONTWAIT.
//!
//! No name is resolved: every address in `cluster.toml` and in a report is an IP address and a port. So
//! [`NumericResolver`] never blocks, and ureq never starts its resolver thread.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, time,
};

use super::connect::{CancelHandle, apply_timeout, connect, is_timeout, lock};

/// The size in bytes of each of ureq's two buffers per connection. It bounds one read, and the head of a
/// request. ureq's default is 128 KiB each, for bulk transfers; our messages are a few hundred bytes.
pub(super) const BUFFER_BYTES: usize = 8 * 1024;

/// The longest answer head, in bytes. Less than the buffer: ureq notices a longer head only if the buffer can
/// hold it.
pub(super) const HEAD_BYTES_MAX: usize = BUFFER_BYTES - 1;

/// No write(2) is longer, in bytes. What is to be sent leaves as soon as one more piece of [`BUFFER_BYTES`] could
/// exceed this. So requests of up to 56 KiB, head included, leave in one write, and longer ones in several.
const WRITE_BYTES: usize = 64 * 1024;

// ---------------------------------------------------------------------------------------------------------------

/// What client and connection tell each other about *the call in progress*: the handle that may end the call,
/// and what happened on the connection. A client makes one call at a time and shares one journal with all its
/// connections.
///
/// Only the thread that makes the call reads and writes the atomics. They are atomics because ureq requires
/// `Sync`.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Ends the call, if the caller gave one.
    cancel: Mutex<Option<CancelHandle>>,
    dialled: AtomicBool,
    connected: AtomicBool,
    heard: AtomicBool,
    reset: AtomicBool,
}

impl Journal {
    /// Forgets the facts of the last call; the next one begins.
    pub(super) fn begin(&self, cancel: Option<CancelHandle>) {
        *lock(&self.cancel) = cancel;
        for fact in [&self.dialled, &self.connected, &self.heard, &self.reset] {
            fact.store(false, Ordering::Relaxed);
        }
    }

    /// The call tried to open a connection: the pool had none that looked open.
    pub(super) fn dialled(&self) -> bool {
        self.dialled.load(Ordering::Relaxed)
    }

    /// The call had a connection, fresh or kept.
    pub(super) fn had_connection(&self) -> bool {
        !self.dialled() || self.connected.load(Ordering::Relaxed)
    }

    /// At least one byte of the answer came.
    pub(super) fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// The stream ended by a reset, not by an orderly close.
    pub(super) fn was_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    fn note(fact: &AtomicBool) {
        fact.store(true, Ordering::Relaxed);
    }
}

// ---------------------------------------------------------------------------------------------------------------

/// Reads the address from the URI, where the client put it: no name, no wait, no thread.
#[derive(Debug)]
pub(super) struct NumericResolver;

impl Resolver for NumericResolver {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let address: SocketAddr = authority.parse().map_err(|_| ureq::Error::HostNotFound)?;
        let mut addresses = self.empty();
        addresses.push(address);
        Ok(addresses)
    }
}

/// Opens the connections of one client: ureq's *connector*.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) journal: Arc<Journal>,
    /// The longest that connect(2) may take, whatever time the call has left.
    pub(super) connect_timeout: Duration,
    /// The address of this machine from which the connections come; `None`: the kernel chooses one.
    pub(super) from: Option<IpAddr>,
}

impl Connector<()> for Dialer {
    type Out = UreqWire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<UreqWire>, ureq::Error> {
        Journal::note(&self.journal.dialled);
        let cancel = lock(&self.journal.cancel).clone();
        let address = details.addrs.iter().next().ok_or(ureq::Error::HostNotFound)?;
        let longest = self.connect_timeout;
        let timeout = time_left(end_of_wait(details.timeout), details.timeout)?
            .map_or(longest, |left| left.min(longest));
        let stream = match connect(address, self.from, timeout, cancel.as_ref()) {
            Ok(stream) => stream,
            Err(e) if is_timeout(&e) => return Err(ureq::Error::Timeout(ureq::Timeout::Connect)),
            Err(e) => return Err(e.into()),
        };
        // With one write per request, Nagle's algorithm gains nothing, and it would delay the end of a long
        // request.
        stream.set_nodelay(true)?;
        Journal::note(&self.journal.connected);
        Ok(Some(UreqWire {
            stream,
            journal: Arc::clone(&self.journal),
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            unsent: Vec::new(),
            send_timeout: NextTimeout::default(),
            timeout_set_read: None,
            timeout_set_write: None,
            probe_due: false,
        }))
    }
}

/// One connection: ureq's *transport*.
pub(super) struct UreqWire {
    stream: Arc<TcpStream>,
    journal: Arc<Journal>,
    buffers: LazyBuffers,
    /// Bytes that ureq handed over and that are not yet written, so that head and body leave together. They
    /// are written when they are many, or when ureq starts to wait for the answer: then the request is
    /// complete.
    unsent: Vec<u8>,
    /// The time-out that ureq gave with the newest piece of [`unsent`](Self::unsent).
    send_timeout: NextTimeout,
    /// The current time-outs of the socket (SO_RCVTIMEO, SO_SNDTIMEO), so that they are set only when they
    /// change.
    timeout_set_read: Option<Duration>,
    timeout_set_write: Option<Duration>,
    /// Whether [`Transport::is_open`] must probe the socket. ureq asks twice per request. When it puts the
    /// connection into the pool, an answer has just been read, and no probe is needed. When it takes it out
    /// again, a probe is.
    probe_due: bool,
}

/// When a wait that begins now must end. `None`: never.
fn end_of_wait(timeout: NextTimeout) -> Option<Instant> {
    match timeout.after {
        time::Duration::Exact(left) => Instant::now().checked_add(left),
        time::Duration::NotHappening => None,
    }
}

/// The time left until `end`; `None`: without limit. An error, with ureq's name for this wait, when no time
/// is left.
fn time_left(end: Option<Instant>, wait: NextTimeout) -> Result<Option<Duration>, ureq::Error> {
    match end.map(|end| end.saturating_duration_since(Instant::now())) {
        Some(Duration::ZERO) => Err(ureq::Error::Timeout(wait.reason)),
        left => Ok(left),
    }
}

impl UreqWire {
    /// Writes all of `unsent`.
    fn flush(&mut self) -> Result<(), ureq::Error> {
        // ureq gave the time-out with the bytes, microseconds ago. This write may use all of it.
        let wait = self.send_timeout;
        let end = end_of_wait(wait);
        let mut written = 0;
        while written < self.unsent.len() {
            apply_timeout(time_left(end, wait)?, &mut self.timeout_set_write, |t| {
                self.stream.set_write_timeout(t)
            })?;
            match (&*self.stream).write(&self.unsent[written..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Err(ureq::Error::Timeout(wait.reason)),
                Err(e) => return Err(e.into()),
            }
        }
        self.unsent.clear();
        Ok(())
    }
}

impl Transport for UreqWire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.unsent.extend_from_slice(&self.buffers.output()[..amount]);
        self.send_timeout = timeout;
        if self.unsent.len() + BUFFER_BYTES > WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if !self.unsent.is_empty() {
            self.flush()?;
        }
        self.probe_due = false;
        let end = end_of_wait(timeout);
        let into = self.buffers.input_append_buf();
        // Only a signal makes this a loop: Linux does not restart a read that has a time-out (signal(7)).
        let amount = loop {
            apply_timeout(time_left(end, timeout)?, &mut self.timeout_set_read, |t| {
                self.stream.set_read_timeout(t)
            })?;
            match (&*self.stream).read(into) {
                Ok(amount) => break amount,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Err(ureq::Error::Timeout(timeout.reason)),
                Err(e) => {
                    Journal::note(&self.journal.reset);
                    return Err(e.into());
                }
            }
        };
        if amount > 0 {
            Journal::note(&self.journal.heard);
        }
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        if !self.probe_due {
            self.probe_due = true;
            return true;
        }
        // Nothing to read and no end: open. A byte that came without a request makes the connection unusable,
        // too.
        let mut byte = [0u8; 1];
        let look = rustix::net::recv(&*self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(look, Err(Errno::AGAIN))
    }
}

impl fmt::Debug for UreqWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UreqWire").field("peer", &self.stream.peer_addr().ok()).finish()
    }
}
