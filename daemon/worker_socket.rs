//! Whether the worker listens: seen in the kernel's tables of sockets, never by connecting to it, since the course's worker
//! serves one connection at a time, and a probe would take its turn.
use std::net::SocketAddr;

use super::local_address;
use crate::linux;

/// One worker's address, to be looked at again and again.
pub(super) struct WorkerSocket {
    worker: SocketAddr,
    /// Whether the worker is on this machine; otherwise it is assumed to be up, and the nodes find out.
    is_here: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// A socket listens there; its inode names it in `/proc/PID/fd`.
    Socket { inode: u64 },
    /// None does.
    Nobody,
    /// It cannot be seen from here.
    Unknown,
}

impl Listening {
    /// What the report says.
    pub(super) fn is_up(self) -> bool {
        self != Self::Nobody
    }
}

impl WorkerSocket {
    pub(super) fn new(worker: SocketAddr) -> Self {
        Self { worker, is_here: local_address::is_own(worker.ip()) }
    }

    /// Looks now.
    pub(super) fn look(&self) -> Listening {
        if !self.is_here {
            return Listening::Unknown;
        }
        let Some(sockets) = linux::listening_sockets() else { return Listening::Unknown };
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
