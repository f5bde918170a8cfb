//! Ports that belong to a test for as long as it runs.
//!
//! To ask the kernel for a free port, note it and let it go is a race, and a worse one for nodes that are killed and started
//! again: while a node is dead, any outgoing connection of the machine may be given its port. So a port is *kept*: a socket
//! stays bound to it without listening. The kernel then gives the port to nobody who did not ask for it by number, and whoever
//! does, with SO_REUSEADDR (as std's `TcpListener` has), may listen on it all the same, since the keeper does not. To connect
//! to a port that is only kept is refused. See socket(7), SO_REUSEADDR, and `inet_csk_bind_conflict` in Linux.
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
    /// A free one.
    pub fn new() -> Self {
        let keeper = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // Bound without SO_REUSEADDR, so that no two keepers get the same; set afterwards, so that others may listen.
        keeper.bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        keeper.set_reuse_address(true).expect("an option that every socket has");
        let address = keeper.local_addr().expect("it is bound").as_socket().expect("an IP address");
        Self { address, _keeper: keeper }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
