//! Ports that belong to a test for as long as it runs.
//!
//! If a test only asked the kernel for a free port and released it, another program could take the port; and while a
//! node is dead, the kernel may give its port to any outgoing connection of the machine. So a port is *kept*: a socket
//! stays bound to it without listening. Then the kernel gives the port only to a program that asks for its number. With
//! SO_REUSEADDR (which std's `TcpListener` sets) such a program may listen on it, because the keeper does not listen. A
//! connection to a port that is only kept is refused. See socket(7), SO_REUSEADDR, and `inet_csk_bind_conflict` in
//! Linux.
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

/// A port of loopback that nobody else gets.
#[derive(Debug)]
pub struct KeptPort {
    address: SocketAddr,
    /// Bound, never listening.
    _keeper: Socket,
}

impl KeptPort {
    /// A free port.
    pub fn new() -> Self {
        let keeper = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // Bound without SO_REUSEADDR, so that no two keepers get the same; set afterwards, so that others may listen.
        keeper.bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        keeper.set_reuse_address(true).expect("an option that every socket has");
        let address = keeper.local_addr().expect("it is bound").as_socket().expect("an IP address");
        Self { address, _keeper: keeper }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
