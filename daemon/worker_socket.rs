//! Finds out whether the worker listens, for the daemon's main loop. Unless it is told otherwise (`--worker-check`), it
//! asks the kernel for the listening sockets and never connects: a worker may serve one connection at a time, and a
//! probe would occupy it.
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::linux;

/// How the daemon finds out whether the worker is up.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerCheck {
    /// Look in the kernel's list for a socket that listens there; nothing is sent. Of an address of another machine,
    /// nothing can be said: the worker is taken to be up
    Listen,
    /// Open a connection to it before each report, and close it
    Connect,
    /// Take it to be up
    None,
}

/// The address of the worker that is watched.
pub(super) struct WorkerSocket {
    worker: SocketAddr,
    check: WorkerCheck,
    /// How long a connection may take to be accepted.
    connect_max: Duration,
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
    /// `connect_max` is the longest that [`look`](Self::look) waits with [`WorkerCheck::Connect`].
    pub(super) fn new(worker: SocketAddr, check: WorkerCheck, connect_max: Duration) -> Self {
        Self { worker, check, connect_max, is_here: linux::is_own_address(worker.ip()) }
    }

    /// The present state, by the check that was asked for.
    pub(super) fn look(&self) -> Listening {
        // Whose socket it is says whom to measure, whether or not it says who is up.
        match (self.check, self.look_in_the_list()) {
            (WorkerCheck::Listen, found) => found,
            (WorkerCheck::Connect, _)
                if TcpStream::connect_timeout(&self.worker, self.connect_max).is_err() =>
            {
                Listening::Nobody
            }
            (_, Listening::Nobody) => Listening::Unknown,
            (_, found) => found,
        }
    }

    fn look_in_the_list(&self) -> Listening {
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
        let address = socket.local_addr().expect("bound");
        let by = |check| WorkerSocket::new(address, check, Duration::from_secs(30)).look();
        let all = [WorkerCheck::Listen, WorkerCheck::Connect, WorkerCheck::None];
        assert!(all.iter().all(|check| matches!(by(*check), Listening::Socket { .. })));
        drop(socket);
        linux::let_go::wait_until(|| by(WorkerCheck::Listen) == Listening::Nobody);
        assert_eq!(all.map(by), [Listening::Nobody, Listening::Nobody, Listening::Unknown]);
        assert!(!Listening::Nobody.is_up());
    }

    #[test]
    fn a_worker_on_another_machine_is_not_judged() {
        let worker = "192.0.2.1:13337".parse().expect("an address");
        let worker = WorkerSocket::new(worker, WorkerCheck::Listen, Duration::ZERO);
        assert_eq!(worker.look(), Listening::Unknown);
        assert!(Listening::Unknown.is_up());
    }
}
