//! Finds the address from which this machine reaches the nodes, with a socket that never sends a packet. The daemon
//! reports it as the worker's unless it is given one, and its connections to the nodes come from it.
//!
//! With IPv6, a machine may have a stable address and temporary ones, which change every day (RFC 8981). For a
//! connection that it opens, the kernel may prefer a temporary one. For a service that others look for, a stable one is
//! right.
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::Node;
use crate::linux::is_own_address;

/// This machine's IPv6 addresses.
const IF_INET6: &str = "/proc/net/if_inet6";

/// Flags of an address, as the kernel's linux/if_addr.h names them. This one: the address is temporary (RFC 8981).
const IFA_F_TEMPORARY: u8 = 0x01;
/// It is used before the kernel knows that no other machine has it.
const IFA_F_OPTIMISTIC: u8 = 0x04;
/// Another machine has it.
const IFA_F_DADFAILED: u8 = 0x08;
/// New connections should not use it (RFC 4862).
const IFA_F_DEPRECATED: u8 = 0x20;
/// The kernel does not know yet whether another machine has it.
const IFA_F_TENTATIVE: u8 = 0x40;

/// An address with one of these flags is not given to others.
const UNUSABLE: u8 = IFA_F_OPTIMISTIC | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE;

/// From where a connection of this machine to some address comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The kernel's own choice.
    chosen: IpAddr,
    /// The stable address in its place; the same, if that is stable.
    stable: IpAddr,
}

impl Source {
    /// Asks the kernel. Connecting a UDP socket sends nothing, but the kernel chooses a route and a source address
    /// (udp(7), ip(7)).
    ///
    /// # Errors
    /// When there is no route.
    pub(super) fn towards(to: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(to)?;
        let chosen = socket.local_addr()?.ip().to_canonical();
        let stable = match chosen {
            IpAddr::V4(_) => chosen,
            // Without the list, the kernel's choice is as good as any.
            IpAddr::V6(v6) => fs::read_to_string(IF_INET6).map_or(v6, |list| stable(v6, &list)).into(),
        };
        Ok(Self { chosen, stable })
    }

    /// The address to bind a socket to before it connects, if the kernel would choose another one.
    pub(super) fn to_bind(self) -> Option<IpAddr> {
        (self.stable != self.chosen).then_some(self.stable)
    }
}

/// The address from which this machine reaches the nodes.
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
    Ok(Source::towards(node.cluster)?.stable)
}

/// In place of a temporary address: a usable stable one of the same interface and network, if there is one. `list` is
/// the text of `/proc/net/if_inet6`: on each line address, index of the interface, length of the prefix, scope and
/// flags, in hexadecimal, and the interface's name.
fn stable(chosen: Ipv6Addr, list: &str) -> Ipv6Addr {
    let all: Vec<(u128, u32, u32, u8)> = list.lines().filter_map(entry).collect();
    let is_chosen = |one: &&(u128, u32, u32, u8)| one.0 == chosen.to_bits();
    let Some(&(address, interface, prefix_bits, flags)) = all.iter().find(is_chosen) else { return chosen };
    if flags & IFA_F_TEMPORARY == 0 {
        return chosen;
    }
    let network = |address: u128| address.checked_shr(128 - prefix_bits).unwrap_or(0);
    let neighbours = all.iter().filter(|one| {
        (one.1, one.2, network(one.0)) == (interface, prefix_bits, network(address))
            && one.3 & (IFA_F_TEMPORARY | UNUSABLE) == 0
    });
    neighbours.map(|one| one.0).min().map_or(chosen, Ipv6Addr::from_bits)
}

/// Address, interface, bits of the prefix, flags.
fn entry(line: &str) -> Option<(u128, u32, u32, u8)> {
    let mut words = line.split_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    let interface = u32::from_str_radix(words.next()?, 16).ok()?;
    let prefix_bits = u32::from_str_radix(words.next()?, 16).ok().filter(|bits| *bits <= 128)?;
    let _scope = words.next()?;
    let flags = u8::from_str_radix(words.next()?, 16).ok()?;
    Some((address, interface, prefix_bits, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn nodes_on_loopback_are_reached_from_loopback() {
        let node = Node {
            id: 1,
            public: address("127.0.0.1:8001"),
            cluster: address("127.0.0.1:9001"),
            founder: true,
        };
        assert_eq!(towards(&[node]).expect("loopback is up"), IpAddr::from(Ipv4Addr::LOCALHOST));
        let source = Source::towards(address("127.0.0.1:9001")).expect("loopback is up");
        assert_eq!(source.to_bind(), None, "the kernel's choice is right");
    }

    /// As Linux 6.18 prints it, of an interface with `use_tempaddr` = 2; and more.
    const LIST: &str = "\
fd880000000000000000000000000005 03 40 00 82     near
fd88000000000000701f3e364f1e4a4f 03 40 00 01     near
fd880000000000000000000000000004 03 40 00 a0     near
fd880000000000000000000000000003 03 40 00 c0     near
fd880000000000000000000000000002 04 40 00 80     other
fd990000000000000000000000000001 03 40 00 80     near
fd770000000000007777777777777777 03 40 00 01     near
fe800000000000007867dffffef62539 03 40 20 80     near
no line of the kernel
";

    #[test]
    fn a_stable_address_of_the_same_network_is_preferred_to_a_temporary_one() {
        for (chosen, expected) in [
            ("fd88::701f:3e36:4f1e:4a4f", "fd88::5"), // Not the deprecated, the tentative or the other interface's.
            ("fd88::5", "fd88::5"),
            ("fd99::1", "fd99::1"),
            ("fd77::7777:7777:7777:7777", "fd77::7777:7777:7777:7777"), // There is no stable one.
            ("fd66::1", "fd66::1"),                                     // The list does not know it.
        ] {
            let chosen: Ipv6Addr = chosen.parse().expect("an address");
            assert_eq!(stable(chosen, LIST).to_string(), expected);
            assert_eq!(stable(chosen, ""), chosen);
        }
    }
}
