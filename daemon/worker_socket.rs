//! Finds out whether the worker listens, for the daemon's main loop. It asks the kernel for the listening
//! sockets and never connects: a worker may serve one connection at a time, and a probe would occupy it.
use std::net::SocketAddr;

use crate::linux;

/// The address of the worker that is watched.
pub(super) struct WorkerSocket {
    worker: SocketAddr,
    /// Whether the worker is on this machine. A worker elsewhere is assumed to listen; the nodes find out if
    /// it does not.
    is_here: bool,
}

/// Whether a socket listens at the worker's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// A socket listens; `/proc/PID/fd` names it by this inode.
    Socket { inode: u64 },
    /// No socket listens.
    Nobody,
    /// This machine cannot tell.
    Unknown,
}

impl Listening {
    /// The value of `worker_up` in the report.
    pub(super) fn is_up(self) -> bool {
        self != Self::Nobody
    }
}

impl WorkerSocket {
    pub(super) fn new(worker: SocketAddr) -> Self {
        Self { worker, is_here: linux::is_own_address(worker.ip()) }
    }

    /// Reads the present state.
    pub(super) fn look(&self) -> Listening {
        if !self.is_here {
            return Listening::Unknown;
        }
        let Some(sockets) = linux::listening_on_port(self.worker.port()) else { return Listening::Unknown };
        match linux::listening_on(self.worker, &sockets) {
            Some(socket) => Listening::Socket { inode: socket.inode },
            None => Listening::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_up_while_its_socket_listens() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let worker = WorkerSocket::new(socket.local_addr().expect("bound"));
        assert!(matches!(worker.look(), Listening::Socket { .. }));
        drop(socket);
        assert_eq!(worker.look(), Listening::Nobody);
        assert!(!Listening::Nobody.is_up());
    }

    #[test]
    fn a_worker_on_another_machine_is_not_judged() {
        let worker = WorkerSocket::new("192.0.2.1:13337".parse().expect("an address"));
        assert_eq!(worker.look(), Listening::Unknown);
        assert!(Listening::Unknown.is_up());
    }
}
