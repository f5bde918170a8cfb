//! Waits at the start of a node until its addresses are this machine's. `node.rs` calls [`wait_for_addresses`].
//!
//! At boot a service may start before DHCP or Wi-Fi has given the machine its address, whatever order the supervisor
//! was asked for. If the node ended then, it would depend on its supervisor's patience whether it ever comes back.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};

use crate::config::Node;
use crate::program::StopSignal;

/// The pause between two looks at the machine's addresses.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Returns when both addresses of the node are this machine's; false if a signal to stop came first.
pub fn wait_for_addresses(node: &Node, stop: &Receiver<StopSignal>) -> bool {
    let mut waited = false;
    while let Some(missing) =
        [node.public, node.cluster].map(|address| address.ip()).into_iter().find(is_missing)
    {
        if !waited {
            waited = true;
            warn!(
                "start: {missing}, the address of node {}, is not on this machine, or not yet; the node waits for it; if it \
                 should be there, compare `ip address` with [[node]] in cluster.toml",
                node.id
            );
        }
        if stop.recv_timeout(LOOK_AGAIN) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
    }
    if waited {
        info!("start: the addresses of node {} are on this machine now", node.id);
    }
    true
}

/// Whether the kernel has no such address (bind(2), EADDRNOTAVAIL); an IPv6 address that it still checks for duplicates
/// counts as missing, too. Any other error is left to the listener, which says more about it.
fn is_missing(ip: &IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(*ip, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    fn node(ip: &str) -> Node {
        let at = |port| SocketAddr::new(ip.parse().expect("an address"), port);
        Node { id: 1, public: at(8001), cluster: at(9001), founder: true }
    }

    #[test]
    fn a_node_waits_for_an_address_and_for_nothing_else() {
        let (sender, stop) = bounded(1);
        assert!(wait_for_addresses(&node("127.0.0.1"), &stop), "loopback is there");
        assert!(wait_for_addresses(&node("0.0.0.0"), &stop), "the wildcard, too");
        // A documentation address (RFC 5737) is on no machine: only the signal ends the wait.
        sender.send(StopSignal("SIGTERM")).expect("room for one");
        assert!(!wait_for_addresses(&node("192.0.2.1"), &stop));
    }
}
