//! Finds this machine's addresses with sockets that never send a packet. The daemon checks and chooses the
//! worker's address with it.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::{Node, is_loopback};

/// Whether an address belongs to this machine: the kernel binds a socket to no other (bind(2),
/// EADDRNOTAVAIL). With net.ipv4.ip_nonlocal_bind every address seems to belong to it; then nothing is
/// refused.
pub(super) fn is_own(ip: IpAddr) -> bool {
    is_loopback(ip) || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// The address from which this machine reaches the nodes. Connecting a UDP socket sends nothing, but the
/// kernel chooses a route and a source address (udp(7), ip(7)).
///
/// Nodes on other machines are tried first: the route to a node on this machine may be loopback, which other
/// machines cannot use.
///
/// # Errors
/// When there is no route.
pub(super) fn towards(nodes: &[Node]) -> io::Result<IpAddr> {
    let away = nodes.iter().find(|node| !is_own(node.cluster.ip()));
    let Some(node) = away.or(nodes.first()) else {
        return Err(io::Error::other("the configuration has no node"));
    };
    let any: IpAddr = match node.cluster {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(node.cluster)?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_a_documentation_address_is_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(is_own("127.77.1.2".parse().expect("an address")));
        // TEST-NET-1 (RFC 5737) is on no machine.
        assert!(!is_own("192.0.2.1".parse().expect("an address")));
    }

    #[test]
    fn nodes_on_loopback_are_reached_from_loopback() {
        let address = |text: &str| text.parse().expect("an address");
        let node = Node { id: 1, public: address("127.0.0.1:8001"), cluster: address("127.0.0.1:9001") };
        assert_eq!(towards(&[node]).expect("loopback is up"), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
