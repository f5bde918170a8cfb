//! One connection to a worker: a request goes out, bytes come back.
//!
//! Called by the worker client. A request on a kept connection costs one send(2) and, as a rule, one recv(2): the socket's
//! time-out (SO_RCVTIMEO, socket(7)) is set again only when the time for a request has changed by a millisecond.

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

/// An open connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Arc<TcpStream>,
    /// SO_RCVTIMEO as it stands.
    timeout_set: Option<Duration>,
    /// Whether TCP_USER_TIMEOUT is set: see [`Wire::settle`].
    settled: bool,
}

impl Wire {
    /// Connects within `timeout`, and lends the socket to `cancel` from the start.
    pub(super) fn open(worker: SocketAddr, timeout: Duration, cancel: &CancelHandle) -> io::Result<Self> {
        let stream = connect(&worker, timeout, Some(cancel))?;
        Ok(Self { stream, timeout_set: None, settled: false })
    }

    pub(super) fn lend_to(&self, cancel: &CancelHandle) -> io::Result<()> {
        cancel.lend(&self.stream)
    }

    /// Sends a request. It is short and the last one was answered, so there is room for it: nothing is waited for.
    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        match send(&self.stream, request, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
            sent if sent == request.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Waits for more bytes until `deadline` and adds them to `bytes`, which has room. Gives how many came; 0 is the orderly end.
    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>, deadline: Instant) -> Result<usize, Broken> {
        let stream = &self.stream;
        // A signal makes this a loop, since Linux does not restart a read that has a time-out (signal(7)); and so does a
        // time-out, which is rounded.
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

    /// Makes it fit to be kept. A machine that vanished does not say so on an open connection: a request that it does not
    /// acknowledge within [`CONNECT_TIMEOUT`] breaks the connection (TCP_USER_TIMEOUT, tcp(7)), as a handshake would.
    /// `false`: it cannot be kept.
    pub(super) fn settle(&mut self) -> bool {
        let timeout = u32::try_from(CONNECT_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        self.settled =
            self.settled || rustix::net::sockopt::set_tcp_user_timeout(&self.stream, timeout).is_ok();
        self.settled
    }

    /// Whether nothing has come since the last answer, no end either. A byte would be one that nobody asked for.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [0; 1];
        let look = recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(look, Err(Errno::AGAIN))
    }
}
