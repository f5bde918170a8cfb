//! Finds the address from which this machine reaches the nodes, with a socket that never sends a packet. The daemon
//! reports it as the worker's unless it is given one.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::Node;
use crate::linux::is_own_address;

/// The address from which this machine reaches the nodes. Connecting a UDP socket sends nothing, but the
/// kernel chooses a route and a source address (udp(7), ip(7)).
///
/// Nodes on other machines are tried first: the route to a node on this machine may be loopback, which other
/// machines cannot use.
///
/// # Errors
/// When there is no route.
pub(super) fn towards(nodes: &[Node]) -> io::Result<IpAddr> {
    let away = nodes.iter().find(|node| !is_own_address(node.cluster.ip()));
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
    fn nodes_on_loopback_are_reached_from_loopback() {
        let address = |text: &str| text.parse().expect("an address");
        let node = Node { id: 1, public: address("127.0.0.1:8001"), cluster: address("127.0.0.1:9001") };
        assert_eq!(towards(&[node]).expect("loopback is up"), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
