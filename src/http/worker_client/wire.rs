//! One connection to a worker: a request goes out, bytes come back.
//!
//! Called by the worker client. A request on a kept connection costs one send(2) and, as a rule, one recv(2): the
//! socket's time-out (SO_RCVTIMEO, socket(7)) is set again only when the time for a request has changed by a
//! millisecond.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::connect::{CancelHandle, apply_timeout, connect};
use super::CONNECT_TIMEOUT;
use super::answer::Broken;

/// One open connection to a worker.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Arc<TcpStream>,
    /// The present value of SO_RCVTIMEO.
    timeout_set: Option<Duration>,
    /// Whether TCP_USER_TIMEOUT is set: see [`Wire::settle`].
    settled: bool,
}

impl Wire {
    /// Connects within `timeout`, and lends the socket to `cancel` from the start.
    pub(super) fn open(worker: SocketAddr, timeout: Duration, cancel: &CancelHandle) -> io::Result<Self> {
        let stream = connect(&worker, None, timeout, Some(cancel))?;
        Ok(Self { stream, timeout_set: None, settled: false })
    }

    pub(super) fn lend_to(&self, cancel: &CancelHandle) -> io::Result<()> {
        cancel.lend(&self.stream)
    }

    /// Sends a request without waiting. The request is short and the one before it was answered, so the send buffer has
    /// room.
    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        match send(&self.stream, request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
            sent if sent == request.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Waits for more bytes until `deadline` and adds them to `bytes`, which has room. Returns how many came; 0 means
    /// that the worker closed its side.
    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>, deadline: Instant) -> Result<usize, Broken> {
        let stream = &self.stream;
        // A loop for two reasons: Linux does not restart a read with a time-out after a signal (signal(7)); and the
        // kernel rounds the time-out, so it may end before the deadline.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Broken::DeadlinePassed);
            }
            apply_timeout(Some(left), &mut self.timeout_set, |timeout| stream.set_read_timeout(timeout))
                .map_err(|_| Broken::Cut)?;
            match recv(stream, spare_capacity(bytes), RecvFlags::empty()) {
                Ok((_, received)) => return Ok(received),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return Err(Broken::Cut),
            }
        }
    }

    /// Prepares the connection to be kept. A machine that vanishes closes no connection. So the kernel breaks the
    /// connection when the machine does not acknowledge a request within [`CONNECT_TIMEOUT`] (TCP_USER_TIMEOUT,
    /// tcp(7)), the time that a fresh connection would have. `false`: the option could not be set, and the connection
    /// must not be kept.
    pub(super) fn settle(&mut self) -> bool {
        let timeout = u32::try_from(CONNECT_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        self.settled =
            self.settled || rustix::net::sockopt::set_tcp_user_timeout(&self.stream, timeout).is_ok();
        self.settled
    }

    /// Whether neither a byte nor the end of the stream has come since the last answer. A byte that came without a
    /// request would be taken for the next answer.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [0; 1];
        let look = recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(look, Err(Errno::AGAIN))
    }
}
