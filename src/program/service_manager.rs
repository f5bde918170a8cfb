//! Tells the service manager (systemd) what it cannot see from outside: that the program serves, that it goes on, and
//! that it stops. The protocol is sd_notify(3): one datagram to the socket that `$NOTIFY_SOCKET` names. Called by node
//! and daemon, whose units say `Type=notify` and `WatchdogSec=`. Started by hand, nobody has set the variable, and
//! nothing is sent.
//!
//! Written here, in a few lines, since the crate for it waits while the manager's queue is full: then a manager that
//! hangs would stop the program. Here such a datagram is lost.
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use log::{debug, warn};

/// So many signs of life are sent in the time within which the manager wants one: a late one is no death.
const SIGNS_PER_WATCHDOG: u32 = 2;

/// The service manager that started this program, if one did and wants to be told.
pub struct ServiceManager {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID`. A socket that cannot be used is logged, and the
    /// program goes on without.
    pub fn from_environment() -> Self {
        let named = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = named.and_then(|name| match connect(name.clone()) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!("NOTIFY_SOCKET={}: {error}; the service manager is told nothing", name.display());
                None
            }
        });
        let variable = |name: &str| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Self { watchdog: watchdog.filter(|_| manager.is_some()), manager }
    }

    /// The program serves from now on. `status` is shown by `systemctl status`: one line.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The program has begun to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// The program makes progress. If this is not said for long enough, the manager kills the program and starts it
    /// again.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1\n");
    }

    /// How often to call [`Self::alive`]; `None` if nobody waits for it.
    pub fn sign_interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / SIGNS_PER_WATCHDOG)
    }

    fn tell(&self, words: &str) {
        if let Some((socket, manager)) = &self.manager
            && let Err(error) = socket.send_to_addr(words.as_bytes(), manager)
        {
            debug!("the service manager does not take {words:?}: {error}");
        }
    }
}

/// A socket that does not wait, and the manager's address: a path, or with `@` in front a name in the abstract
/// namespace (unix(7)).
fn connect(name: OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let manager = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(OsString::from_vec(name.into_vec()))?,
    };
    Ok((socket, manager))
}

/// The time in `$WATCHDOG_USEC`, if `$WATCHDOG_PID` names this process or nobody (sd_watchdog_enabled(3)).
fn watchdog(usec: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    let usec = usec?.parse().ok().filter(|usec| *usec > 0)?;
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    is_ours.then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(Duration::from_secs(30)));
        for (usec, pid) in [
            (None, None),
            (text("0"), None),
            (text("x"), None),
            (text("1"), text("8")),
            (text("1"), text("")),
        ] {
            assert_eq!(watchdog(usec.clone(), pid.clone(), 7), None, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn a_manager_that_reads_nothing_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let listening = UnixDatagram::bind(&path).expect("our own directory");
        let abstract_name = format!("@rakit-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name.as_bytes()[1..]).expect("a short name");
        let listening_there = UnixDatagram::bind_addr(&address).expect("a name of this process");
        for (name, listening) in [(path.into_os_string(), listening), (abstract_name.into(), listening_there)]
        {
            let manager =
                ServiceManager { manager: Some(connect(name).expect("it listens")), watchdog: None };
            manager.ready("serves");
            // Many more than a queue of datagrams holds (net.unix.max_dgram_qlen).
            (0..10_000).for_each(|_| manager.alive());
            let mut first = [0; 100];
            let length = listening.recv(&mut first).expect("the first one was taken");
            assert_eq!(&first[..length], b"READY=1\nSTATUS=serves\n");
        }
    }
}
