//! Connections to workers that wait for the next request.
//!
//! Called by the worker client: before a request, and after an answer that offered to keep the connection. The
//! connection that was used last is used next. So connections that are no longer needed stay idle until they are
//! closed. The lock is held only while the list is read or changed, never during a system call that may wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use super::super::connect::lock;
use super::wire::Wire;

/// The most idle connections from this node to one worker. Any further one is closed after its answer.
///
/// Requests often end in a burst, and the next ones begin in a burst. With a lower bound than a usual burst, each burst
/// closes connections, and the next one opens as many. Some servers accept only one connection per turn of their loop
/// (nginx does), so the new connections wait long: with 64, one request in a hundred of 256 clients took a tenth of a
/// second and more.
const IDLE_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct KeptConnections {
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    until: Instant,
}

impl KeptConnections {
    /// A connection to this worker that seems to be alive.
    pub(super) fn take(&self, worker: SocketAddr, now: Instant) -> Option<Wire> {
        loop {
            let idle = lock(&self.idle).get_mut(&worker)?.pop()?;
            if now < idle.until && idle.wire.is_silent() {
                return Some(idle.wire);
            }
        }
    }

    /// Keeps a connection whose answer was whole, at most `until`.
    pub(super) fn put(&self, worker: SocketAddr, mut wire: Wire, until: Instant) {
        if !wire.settle() {
            return;
        }
        let mut idle = lock(&self.idle);
        let idle = idle.entry(worker).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { wire, until });
        }
    }

    /// Closes the connections whose time is over.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut over = Vec::new();
        lock(&self.idle).retain(|_, idle| {
            over.extend(idle.extract_if(.., |idle| idle.until <= now));
            !idle.is_empty()
        });
        drop(over); // They are closed here, without the lock.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::worker_client::CancelHandle;
    use crate::linux::let_go;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// The worker's ends of `count` connections, which were kept one after the other, each until the same moment.
    fn keep(kept: &KeptConnections, count: usize, until: Instant) -> (SocketAddr, Vec<std::net::TcpStream>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let worker = listener.local_addr().expect("it is bound");
        let ends = (0..count).map(|_| {
            let wire = Wire::open(worker, 60 * SECOND, &CancelHandle::new()).expect("it listens");
            let (end, _) = listener.accept().expect("it has connected");
            kept.put(worker, wire, until);
            end
        });
        (worker, ends.collect())
    }

    /// Whether our side has closed this connection.
    fn is_closed(mut end: &std::net::TcpStream) -> bool {
        end.set_nonblocking(true).expect("our own socket");
        matches!(std::io::Read::read(&mut end, &mut [0; 1]), Ok(0))
    }

    #[test]
    fn those_beyond_the_bound_are_closed() {
        let kept = KeptConnections::default();
        let (_, ends) = keep(&kept, IDLE_MAX + 3, Instant::now() + SECOND);
        let closed = || ends.iter().filter(|end| is_closed(end)).count();
        let_go::wait_until(|| closed() >= 3);
        assert_eq!(closed(), 3);
    }

    #[test]
    fn old_ones_are_not_used_and_are_closed_although_nobody_asks() {
        let kept = KeptConnections::default();
        let now = Instant::now();
        let (worker, ends) = keep(&kept, 3, now + SECOND);
        assert!(kept.take(worker, now).is_some());
        kept.close_idle(now);
        let closed = || ends.iter().filter(|end| is_closed(end)).count();
        let_go::wait_until(|| closed() >= 1);
        assert_eq!(closed(), 1, "only the one that was taken and dropped");
        kept.close_idle(now + SECOND);
        let_go::wait_until(|| closed() == 3);
        let (worker, _ends) = keep(&kept, 3, now + SECOND);
        assert!(kept.take(worker, now + SECOND).is_none());
    }

    #[test]
    fn one_that_the_worker_has_closed_is_not_used() {
        let kept = KeptConnections::default();
        let now = Instant::now();
        let (worker, mut ends) = keep(&kept, 2, now + SECOND);
        // The one that was kept last would be used first. On loopback, the end is there when shutdown(2) returns;
        // close(2) says nothing while a child that another test starts has the socket, too.
        let last = ends.pop().expect("there are two");
        last.shutdown(std::net::Shutdown::Both).expect("it is connected");
        assert!(kept.take(worker, now).is_some());
        assert!(kept.take(worker, now).is_none());
    }
}
