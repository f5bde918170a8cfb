//! For unit tests: a descriptor that was closed here may live on elsewhere for a moment.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Waits until what a closed descriptor held (a lock, a listening socket, a connection) is let go. A child that another
/// test of this process starts has all our descriptors from its fork(2) to its execve(2).
#[track_caller]
pub fn wait_until(let_go: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !let_go() {
        assert!(Instant::now() < deadline, "what was closed is still held");
        std::thread::yield_now();
    }
}

/// An address that refuses connections for as long as the socket lives: it is bound, so that nobody else gets the port,
/// and does not listen.
pub fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("an IP address");
    (socket, address)
}
