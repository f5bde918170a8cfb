//! Who listens where on this machine, without connecting to anybody: a worker of one connection at a time would be kept
//! busy by the question.
//!
//! The path from a port to a process is that of `netstat -p`: /proc/net/tcp and tcp6 list each socket with its inode
//! (proc_pid_net(5)), and /proc/PID/fd/ links descriptors to `socket:[inode]` (proc_pid_fd(5)). For a single port, the
//! kernel is asked first through netlink, as `ss` does (`sock_diag.rs`).
//!
//! The daemon asks whether its worker listens; `rakit up` asks whether a port is free, and who has it if not.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use log::debug;
use procfs::net::{TcpNetEntries, TcpNetEntry};
use procfs::prelude::*;
use procfs::process::{FDTarget, all_processes};

use super::sock_diag::{self, ListeningSocket};

/// One table for each family of addresses. tcp6 is not there where IPv6 is turned off.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The state of a listening socket in these files: TCP_LISTEN, hexadecimal.
const LISTEN: &str = "0A";

/// No machine listens on more sockets; the bound ends a reading that does not.
const LINES_MAX: usize = 65_536;

/// The process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

/// Every listening TCP socket of this machine; `None` if the kernel shows none of its tables.
pub fn listening_sockets() -> Option<Vec<ListeningSocket>> {
    let tables = TABLES.map(|path| {
        let read = || entries(&listening_part(BufReader::new(std::fs::File::open(path)?))?);
        read().inspect_err(|error| debug!("{path}: {error}")).ok()
    });
    if tables.iter().all(Option::is_none) {
        return None;
    }
    let sockets = tables.into_iter().flatten().flatten();
    Some(sockets.map(|one| ListeningSocket { address: one.local_address, inode: one.inode }).collect())
}

/// Every TCP socket of this machine that listens on this port; `None` if the kernel does not tell. It costs little, and
/// may be called each second. Where there is no sock_diag(7), the listening sockets of all ports are returned: look at
/// the port of each, as [`listening_on`] does.
pub fn listening_on_port(port: u16) -> Option<Vec<ListeningSocket>> {
    let told = sock_diag::listening_on_port(port);
    told.inspect_err(|error| debug!("sock_diag(7): {error}")).ok().or_else(listening_sockets)
}

/// Every TCP socket of this machine, in any state; a table that cannot be read counts as empty.
pub fn all_sockets() -> Vec<TcpNetEntry> {
    let mut sockets = procfs::net::tcp().unwrap_or_default();
    sockets.extend(procfs::net::tcp6().unwrap_or_default());
    sockets
}

/// The socket among these that takes connections to `address`.
pub fn listening_on(address: SocketAddr, sockets: &[ListeningSocket]) -> Option<ListeningSocket> {
    let ip = address.ip().to_canonical();
    let takes = |socket: &&ListeningSocket| {
        let bound = socket.address.ip().to_canonical();
        // [::] takes IPv4 too, unless asked not to, which cannot be seen here; 0.0.0.0 takes no IPv6.
        socket.address.port() == address.port()
            && (bound == ip || (bound.is_unspecified() && (bound.is_ipv6() || ip.is_ipv4())))
    };
    sockets.iter().find(takes).copied()
}

/// The process that holds the socket with this inode; of several (a server and its forked children), the one that
/// the others descend from. `None` when it belongs to another user, whose descriptors cannot be seen.
///
/// It looks at every descriptor of the machine: for rare occasions only.
pub fn holder(inode: u64) -> Option<Holder> {
    let holders: Vec<_> = all_processes()
        .ok()?
        .flatten()
        .filter(|process| {
            process.fd().is_ok_and(|descriptors| {
                descriptors
                    .flatten()
                    .any(|open| matches!(open.target, FDTarget::Socket(socket) if socket == inode))
            })
        })
        // One that has ended since is passed over.
        .filter_map(|process| process.stat().ok())
        .collect();
    let first = holders.iter().find(|one| holders.iter().all(|other| other.pid != one.ppid))?;
    Some(Holder { pid: first.pid, name: first.comm.clone() })
}

fn entries(table: &str) -> io::Result<Vec<TcpNetEntry>> {
    TcpNetEntries::from_buf_read(table.as_bytes(), procfs::current_system_info())
        .map(|entries| entries.0)
        .map_err(|error| io::Error::other(error.to_string()))
}

/// The header and the listening sockets. The kernel lists these first; on a busy machine, tens of thousands of
/// connections follow, which it need not even write if nobody reads them.
fn listening_part(file: impl BufRead) -> io::Result<String> {
    let mut part = String::new();
    for (number, line) in file.lines().take(LINES_MAX).enumerate() {
        let line = line?;
        if number > 0 && line.split_whitespace().nth(3) != Some(LISTEN) {
            break;
        }
        part.push_str(&line);
        part.push('\n');
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[test]
    fn only_the_listening_sockets_are_read() {
        let text = format!(
            "{HEADER}   0: 0100007F:3419 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n\
             \u{20}  1: 00000000:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100\n\
             \u{20}  2: 0100007F:1F41 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100\n\
             \u{20}  3: garbage that is never reached\n"
        );
        let part = listening_part(text.as_bytes()).expect("memory can be read");
        assert_eq!(part.lines().count(), 3);
    }

    #[test]
    fn an_address_is_matched_by_itself_or_by_a_wildcard_on_its_port() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (bound, worker, takes) in [
            ("127.0.0.1:13337", "127.0.0.1:13337", true),
            ("0.0.0.0:13337", "127.0.0.1:13337", true),
            ("[::]:13337", "127.0.0.1:13337", true),
            ("[::]:13337", "[::1]:13337", true),
            ("[::ffff:127.0.0.1]:13337", "127.0.0.1:13337", true),
            ("0.0.0.0:13337", "[::1]:13337", false),
            ("127.0.0.2:13337", "127.0.0.1:13337", false),
            ("[::1]:13337", "127.0.0.1:13337", false),
            ("127.0.0.1:13338", "127.0.0.1:13337", false),
        ] {
            let socket = ListeningSocket { address: address(bound), inode: 7 };
            let found = listening_on(address(worker), &[socket]);
            assert_eq!(found, takes.then_some(socket), "{bound} for {worker}");
        }
    }

    #[test]
    fn a_real_listener_is_seen_with_its_holder_and_missed_when_it_is_gone() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        let look = || listening_on(address, &listening_sockets().expect("Linux shows its sockets"));
        let seen = look().expect("it listens");
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(holder(seen.inode).map(|holder| holder.pid), Some(me));
        drop(socket);
        super::super::let_go::wait_until(|| look().is_none());
        assert_eq!(holder(seen.inode), None);
    }
}
