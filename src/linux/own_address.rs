//! Whether an address belongs to this machine. Called by the daemon, to choose and check the worker's address, by the
//! node, to find its own address and to recognise one in a report, and by `rakit check`, to find the nodes of this
//! machine.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Whether an address belongs to this machine: the kernel binds a socket to no other (bind(2), EADDRNOTAVAIL). No
/// packet is sent. With net.ipv4.ip_nonlocal_bind every address seems to belong to it.
pub fn is_own_address(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_a_documentation_address_is_not() {
        for own in ["127.0.0.1", "127.77.1.2", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own_address(own.parse().expect("an address")), "{own}");
        }
        // TEST-NET-1 (RFC 5737) is on no machine.
        assert!(!is_own_address("192.0.2.1".parse().expect("an address")));
    }
}
