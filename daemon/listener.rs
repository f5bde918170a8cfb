//! Whether the worker listens, read from `/proc/net/tcp` and `tcp6` (proc_pid_net(5)) and never by connecting to it: the
//! course's worker serves one connection at a time, and a probe would take its turn.
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use log::debug;
use procfs::net::TcpNetEntries;
use procfs::prelude::*;
use procfs::process::{FDTarget, all_processes};

use super::local_address;

/// The state of a listening socket in these files: TCP_LISTEN, hexadecimal.
const LISTEN: &str = "0A";

/// No machine listens on more sockets; the bound ends a reading that does not.
const LINES_MAX: usize = 65_536;

/// Watches one worker's address.
pub(super) struct Listener {
    worker: SocketAddr,
    /// Whether the worker is on this machine; otherwise it is assumed to be up, and the nodes find out.
    is_here: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// A socket listens there; its inode names it in `/proc/PID/fd`.
    Socket { inode: u64 },
    /// None does.
    Nobody,
    /// It cannot be seen from here.
    Unknown,
}

impl Listening {
    /// What the report says.
    pub(super) fn is_up(self) -> bool {
        self != Self::Nobody
    }
}

impl Listener {
    pub(super) fn new(worker: SocketAddr) -> Self {
        Self { worker, is_here: local_address::is_own(worker.ip()) }
    }

    /// Looks now.
    pub(super) fn look(&self) -> Listening {
        if !self.is_here {
            return Listening::Unknown;
        }
        let mut readable = false;
        let mut found = Vec::new();
        // tcp6 is not there where IPv6 is turned off.
        for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
            match listening_sockets(path) {
                Ok(sockets) => {
                    readable = true;
                    found.extend(sockets);
                }
                Err(error) => debug!("{path}: {error}"),
            }
        }
        if readable { find(&found, self.worker) } else { Listening::Unknown }
    }
}

/// The socket among these that takes connections to `worker`.
fn find(sockets: &[(SocketAddr, u64)], worker: SocketAddr) -> Listening {
    let ip = worker.ip().to_canonical();
    sockets
        .iter()
        .filter(|(address, _)| address.port() == worker.port())
        .find(|(address, _)| {
            let bound = address.ip().to_canonical();
            // [::] takes IPv4 too, unless asked not to, which cannot be seen here; 0.0.0.0 takes no IPv6.
            bound == ip || (bound.is_unspecified() && (bound.is_ipv6() || ip.is_ipv4()))
        })
        .map_or(Listening::Nobody, |&(_, inode)| Listening::Socket { inode })
}

/// Address and inode of every listening socket in such a file.
fn listening_sockets(path: &str) -> io::Result<Vec<(SocketAddr, u64)>> {
    let text = listening_part(BufReader::new(std::fs::File::open(path)?))?;
    let entries = TcpNetEntries::from_buf_read(text.as_bytes(), procfs::current_system_info())
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(entries.0.into_iter().map(|entry| (entry.local_address, entry.inode)).collect())
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

/// The process that holds the socket with this inode; of several (a server and its forked children), the one that
/// the others descend from. `None` when it belongs to another user, whose descriptors cannot be seen.
///
/// It looks at every descriptor of the machine: for rare occasions only.
pub(super) fn owner(inode: u64) -> Option<i32> {
    let holders: Vec<(i32, i32)> = all_processes()
        .ok()?
        .flatten()
        .filter(|process| {
            process.fd().is_ok_and(|mut descriptors| {
                descriptors.any(|descriptor| {
                    descriptor
                        .is_ok_and(|open| matches!(open.target, FDTarget::Socket(socket) if socket == inode))
                })
            })
        })
        .filter_map(|process| process.stat().ok().map(|stat| (stat.pid, stat.ppid)))
        .collect();
    holders.iter().find(|(_, parent)| holders.iter().all(|(pid, _)| pid != parent)).map(|&(pid, _)| pid)
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
            let found = find(&[(address(bound), 7)], address(worker));
            let expected = if takes { Listening::Socket { inode: 7 } } else { Listening::Nobody };
            assert_eq!(found, expected, "{bound} for {worker}");
        }
    }

    #[test]
    fn a_real_listener_is_seen_with_its_owner_and_missed_when_it_is_gone() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listener = Listener::new(socket.local_addr().expect("bound"));
        let Listening::Socket { inode } = listener.look() else { panic!("not seen") };
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(owner(inode), Some(me));
        drop(socket);
        assert_eq!(listener.look(), Listening::Nobody);
        assert_eq!(owner(inode), None);
    }

    #[test]
    fn a_worker_on_another_machine_is_not_judged() {
        let listener = Listener::new("192.0.2.1:13337".parse().expect("an address"));
        assert_eq!(listener.look(), Listening::Unknown);
        assert!(Listening::Unknown.is_up());
    }
}
