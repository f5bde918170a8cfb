//! Asks the kernel for the TCP sockets that listen on one port, over a netlink socket: sock_diag(7), as `ss` does.
//!
//! Called by `sockets.rs`. The tables in `/proc/net` tell the same. But there, the kernel also walks through its whole
//! table of connections, which has hundreds of thousands of places: a daemon that looked there each second spent most
//! of its time on it. Here the kernel looks only at listening sockets. A kernel may be built without this
//! (CONFIG_INET_DIAG).
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The length of `struct nlmsghdr`, which begins every message: netlink(7).
const HEADER_BYTES: usize = 16;
/// The same with `struct inet_diag_req_v2`, our request.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// The same with `struct inet_diag_msg`, which tells of one socket. Attributes may follow.
const SOCKET_BYTES: usize = HEADER_BYTES + 72;
/// The kernel fills at most this for one recv(2).
const ANSWER_BYTES: usize = 32 * 1024;

/// Types of messages.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP: a request for all that match.
const DUMP_REQUEST: u16 = 0x1 | 0x300;

const IPPROTO_TCP: u8 = 6;
/// The states of sockets are bits; this one is TCP_LISTEN.
const LISTENING: u32 = 1 << 10;

/// A socket that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Where it takes them; the wildcard address if everywhere.
    pub address: SocketAddr,
    /// Its name in `/proc/PID/fd`.
    pub inode: u64,
}

/// The sockets that listen on this port, for IPv4 and for IPv6.
///
/// # Errors
/// When the kernel does not offer this, or gives no socket.
pub(super) fn listening_on_port(port: u16) -> io::Result<Vec<ListeningSocket>> {
    let kernel =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    let mut found = Vec::new();
    let mut answer = vec![0; ANSWER_BYTES];
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        // A netlink socket that is not connected sends to the kernel.
        send(&kernel, &request(family, port), SendFlags::empty())?;
        // The kernel has its answer, or the next part of it, ready: there is nothing to wait for.
        while {
            let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::DONTWAIT)?;
            more_follows(&answer[..length], port, &mut found)?
        } {}
    }
    Ok(found)
}

fn request(family: AddressFamily, port: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend((REQUEST_BYTES as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // Sequence number and sender: one request at a time needs neither.
    bytes.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(REQUEST_BYTES, 0); // Any address, any interface.
    bytes
}

/// Adds the sockets of one part of an answer to `found`. Tells whether another part follows.
fn more_follows(mut part: &[u8], port: u16, found: &mut Vec<ListeningSocket>) -> io::Result<bool> {
    while let Some(kind) = part.get(4..6) {
        let length = u32::from_ne_bytes([part[0], part[1], part[2], part[3]]) as usize;
        let message = part.get(..length).filter(|message| message.len() >= HEADER_BYTES);
        let message = message.ok_or_else(|| io::Error::other("a netlink message of a wrong length"))?;
        match u16::from_ne_bytes([kind[0], kind[1]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = message.get(HEADER_BYTES..HEADER_BYTES + 4).unwrap_or(&[0; 4]);
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                return Err(io::Error::from_raw_os_error(-code));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(socket(message).filter(|one| one.address.port() == port)),
            _ => {}
        }
        // Messages begin at multiples of four.
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The socket that a message tells of.
fn socket(message: &[u8]) -> Option<ListeningSocket> {
    let told = message.get(HEADER_BYTES..SOCKET_BYTES)?;
    let address: [u8; 16] = told[8..24].try_into().ok()?;
    let ip = match i32::from(told[0]) {
        family if family == i32::from(AddressFamily::INET.as_raw()) => {
            IpAddr::V4(Ipv4Addr::new(address[0], address[1], address[2], address[3]))
        }
        _ => IpAddr::V6(Ipv6Addr::from(address)),
    };
    let port = u16::from_be_bytes([told[4], told[5]]);
    let inode = u32::from_ne_bytes([told[68], told[69], told[70], told[71]]);
    Some(ListeningSocket { address: SocketAddr::new(ip, port), inode: inode.into() })
}

#[cfg(test)]
mod tests {
    use super::super::listening_sockets;
    use super::*;
    use std::net::TcpListener;

    /// What the tables of `/proc/net` tell of this port.
    fn by_table(port: u16) -> Vec<ListeningSocket> {
        let all = listening_sockets().expect("Linux shows its sockets");
        all.into_iter().filter(|one| one.address.port() == port).collect()
    }

    #[test]
    fn it_tells_what_the_tables_tell() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.starts_with('['), "there is IPv4");
                continue; // IPv6 is turned off here.
            };
            let address = listener.local_addr().expect("bound");
            // A connection from and to this port is no listener.
            let _connection = std::net::TcpStream::connect(address).expect("it listens");
            let port = address.port();
            let told = listening_on_port(port).expect("the kernel offers it");
            let ours = |all: &[ListeningSocket]| all.iter().copied().find(|one| one.address == address);
            assert!(ours(&told).is_some(), "{address}: {told:?}");
            assert_eq!(ours(&told), ours(&by_table(port)));
            drop(listener);
            let told = || listening_on_port(port).expect("as before");
            super::super::let_go::wait_until(|| told().iter().all(|one| one.address != address));
        }
    }

    #[test]
    fn an_answer_that_is_none_is_an_error_and_no_panic() {
        let mut refusal = [36_u32.to_ne_bytes(), [0; 4]].concat();
        refusal[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        refusal.resize(36, 0);
        refusal[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        let error = more_follows(&refusal, 1, &mut Vec::new()).expect_err("ENOENT");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for length in [0_u32, 15, 17, u32::MAX] {
            let message = [&length.to_ne_bytes()[..], &[0; 12]].concat();
            assert!(more_follows(&message, 1, &mut Vec::new()).is_err(), "{length}");
        }
    }
}
