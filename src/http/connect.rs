//! Opening a connection that another thread may give up, and what its socket's time-outs mean.
//!
//! Called for every outgoing connection: by `dial.rs` (to nodes) and `worker_client/` (to workers). Another
//! thread can end a wait through a [`CancelHandle`]: the call lends its socket to the handle, and the handle
//! shuts the socket down. shutdown(2) wakes a blocked read, and on Linux also a handshake.

use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Socket time-outs are rounded up to whole milliseconds. The time left differs by microseconds from one
/// request to the next, and each different value would cost another setsockopt(2).
const TIMEOUT_STEP: Duration = Duration::from_millis(1);

/// Locks a mutex, even if a thread panicked while it held the lock: the data behind the mutexes of these
/// files is always replaced as a whole, never half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a call from another thread. Clones are the same handle.
///
/// The caller makes it, gives it to the call, and gives a clone to the thread that may cancel. A handle
/// serves one call at a time. Once cancelled, it stays cancelled: a later call with the same handle ends at
/// once.
#[derive(Clone, Default)]
pub struct CancelHandle(Arc<Cancel>);

#[derive(Default)]
struct Cancel {
    cancelled: AtomicBool,
    /// The socket of the call in progress. Taken back when the call ends, so that the descriptor is closed
    /// then, and not only when the last handle is dropped.
    socket: Mutex<Option<Arc<TcpStream>>>,
}

impl CancelHandle {
    /// A fresh handle, not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the call that uses this handle: it shuts the socket down, which wakes a blocked read, write or
    /// connect. Returns at once.
    pub fn cancel(&self) {
        // The flag first: a call that lends its socket later checks the flag under the same lock.
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(socket) = lock(&self.0.socket).as_ref() {
            // An error means that the connection is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Lends the socket of a call to the handle. Fails if the call was cancelled.
    pub(super) fn lend(&self, socket: &Arc<TcpStream>) -> io::Result<()> {
        let mut slot = lock(&self.0.socket);
        if self.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled"));
        }
        *slot = Some(Arc::clone(socket));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn holds_a_socket(&self) -> bool {
        lock(&self.0.socket).is_some()
    }

    /// Takes the socket back at the end of the call.
    pub(super) fn take_back(&self) {
        *lock(&self.0.socket) = None;
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Opens a connection as [`TcpStream::connect_timeout`] does, but lends the socket to `cancel` before it
/// waits for the handshake: on Linux, shutdown(2) ends a handshake, too. With `from`, it comes from that address of
/// this machine; else the kernel chooses one.
pub(super) fn connect(
    address: &SocketAddr,
    from: Option<IpAddr>,
    timeout: Duration,
    cancel: Option<&CancelHandle>,
) -> io::Result<Arc<TcpStream>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let stream = Arc::new(TcpStream::from(socket));
    if let Some(cancel) = cancel {
        cancel.lend(&stream)?;
    }
    if let Some(from) = from {
        rustix::net::bind(&*stream, &SocketAddr::new(from, 0))?;
    }
    match rustix::net::connect(&*stream, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => wait_for_handshake(&stream, timeout, cancel)?,
        Err(error) => return Err(error.into()),
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn wait_for_handshake(
    stream: &TcpStream,
    timeout: Duration,
    cancel: Option<&CancelHandle>,
) -> io::Result<()> {
    let end = Instant::now() + timeout;
    let mut watched = [PollFd::new(stream, PollFlags::OUT)];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("time-outs are far below the end of the clock");
        match poll(&mut watched, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if cancel.is_some_and(CancelHandle::is_cancelled) {
        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled"));
    }
    if !watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
        return Ok(());
    }
    Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}

/// Whether an error is a time-out: a socket returns EAGAIN after SO_RCVTIMEO or SO_SNDTIMEO (socket(7)), and
/// [`connect`] returns `TimedOut`.
pub(super) fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Sets a socket time-out, in whole steps, if it differs from the current one (`set`).
pub(super) fn apply_timeout(
    left: Option<Duration>,
    set: &mut Option<Duration>,
    apply: impl FnOnce(Option<Duration>) -> io::Result<()>,
) -> io::Result<()> {
    let step = TIMEOUT_STEP.as_nanos();
    let wanted = left.map(|left| {
        let steps = left.as_nanos().div_ceil(step).max(1);
        TIMEOUT_STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
    });
    if wanted != *set {
        apply(wanted)?;
        *set = wanted;
    }
    Ok(())
}
