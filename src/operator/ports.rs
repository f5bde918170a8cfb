//! Finds out whether a port of this machine is free, and if not, which process holds it.
//!
//! `rakit up` checks all ports before it starts anything, so that a taken port is one clear error and not
//! five nodes that fail in five log files. It also checks whether a worker listens yet. It does not connect
//! for that: a worker that serves one connection at a time would be kept busy. `rakit check` looks at the ports of the
//! nodes of this machine (`check/here.rs`).
//!
//! `src/linux/sockets.rs` reads the kernel's tables of sockets.

use std::net::{SocketAddr, TcpListener};

use procfs::net::{TcpNetEntry, TcpState};
use rakit::linux::{self, Holder};

/// Why no process can listen on `address`; `None` if one can. Binds the address for a moment, as the process
/// will.
pub fn obstacle(address: SocketAddr) -> Option<String> {
    match TcpListener::bind(address) {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let listened_on = || listening(&[address]) == [true];
            Some(in_use(holder(address), listened_on, || is_ending(address.port())))
        }
        Err(error) => Some(format!("can't be used: {error}")),
    }
}

/// What keeps an address in use. The process of another user can't be seen, but its socket that listens can. An old
/// connection of that port (TIME_WAIT) is then not the cause.
fn in_use(
    holder: Option<Holder>,
    listened_on: impl FnOnce() -> bool,
    is_ending: impl FnOnce() -> bool,
) -> String {
    match holder {
        Some(holder) => format!("is taken by {} (pid {})", holder.name, holder.pid),
        None if !listened_on() && is_ending() => {
            "is kept by a connection that has just ended (TIME_WAIT), for a minute at most".to_string()
        }
        None => "is taken by a process of another user".to_string(),
    }
}

/// The process that holds the port of this address; `None` if it is not found or belongs to another user. Programs on other
/// addresses of this machine may have the same port; one on the wildcard address has it on all of them.
pub fn holder(address: SocketAddr) -> Option<Holder> {
    let ip = address.ip().to_canonical();
    let is_in_the_way = |entry: &TcpNetEntry| {
        let bound = entry.local_address.ip().to_canonical();
        entry.local_address.port() == address.port()
            && (bound == ip || bound.is_unspecified() || ip.is_unspecified())
    };
    let mut sockets: Vec<TcpNetEntry> =
        linux::all_sockets().into_iter().filter(|entry| is_in_the_way(entry) && entry.inode != 0).collect();
    // Prefer the listening socket. A connection that it accepted has the same port.
    sockets.sort_by_key(|entry| entry.state != TcpState::Listen);
    sockets.iter().find_map(|entry| linux::holder(entry.inode))
}

/// Whether a connection of this port has ended and the kernel still keeps its address (TIME_WAIT, RFC 9293,
/// 3.3.2).
fn is_ending(port: u16) -> bool {
    let ending = |entry: &TcpNetEntry| entry.state == TcpState::TimeWait;
    linux::all_sockets().iter().any(|entry| entry.local_address.port() == port && ending(entry))
}

/// Which of these addresses have a listener. Reads the tables once for all addresses.
pub fn listening(addresses: &[SocketAddr]) -> Vec<bool> {
    let sockets = linux::listening_sockets().unwrap_or_default();
    addresses.iter().map(|address| linux::listening_on(*address, &sockets).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_port_without_a_known_process_is_another_user_s_if_anybody_listens() {
        let another = "is taken by a process of another user";
        assert_eq!(in_use(None, || true, || true), another);
        assert_eq!(in_use(None, || false, || false), another);
        assert!(in_use(None, || false, || true).contains("(TIME_WAIT)"));
    }

    #[test]
    fn a_taken_port_names_its_holder_and_a_released_one_is_free() {
        // An address of loopback that no other test uses: nobody takes the port in the meantime.
        let listener = TcpListener::bind("127.83.9.4:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let said = obstacle(address).expect("the port is taken");
        assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
        assert_eq!(listening(&[address]), [true]);
        let elsewhere = SocketAddr::from(([127, 83, 9, 8], address.port()));
        assert_eq!(holder(elsewhere), None, "the same port on another address is another one's");
        drop(listener);
        // A child that another test starts just now has our listener until its execve(2).
        let until = Instant::now() + Duration::from_secs(60);
        while obstacle(address).is_some() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(listening(&[address]), [false]);
        assert_eq!(obstacle(address), None);
    }
}
