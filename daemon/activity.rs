//! Finds out whether the worker did something since the last report, for the field `worker_active`. By this field a
//! node that waits for an answer distinguishes a slow worker from one that swallows requests (docs/balancing.md, "The
//! stall").
//!
//! The worker is the process that holds the listening socket, with its children. It is active if one of these processes
//! used a tick of the processor, or is runnable now. A runnable worker that gets no processor, because other programs
//! take them all, is slow and not stalled. If the worker belongs to another user or another machine, nothing is known.

use super::process_load::{self, ProcessIdentity, Tree};
use super::worker_socket::Listening;
use crate::linux;

/// Watches the worker's processes from report to report.
#[derive(Default)]
pub(super) struct Activity {
    /// The socket whose owner was searched last. Each is searched once, because the search reads all descriptors.
    socket: Option<u64>,
    root: Option<ProcessIdentity>,
    /// The last reading of its processes.
    tree: Option<Tree>,
}

impl Activity {
    /// The worker's processes, as the last look found them.
    pub(super) fn worker(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    /// Whether the worker was active since the last look; `None` if that cannot be known.
    pub(super) fn look(&mut self, listening: Listening) -> Option<bool> {
        let Listening::Socket { inode } = listening else {
            *self = Self::default();
            return None;
        };
        if self.socket != Some(inode) {
            let root = linux::holder(inode).and_then(|holder| ProcessIdentity::of(holder.pid));
            *self = Self { socket: Some(inode), root, tree: None };
        }
        let Some(tree) = process_load::read(self.root?) else {
            // The process has ended, but its socket still listens: another process holds it. Search that one next time.
            *self = Self::default();
            return None;
        };
        let used = self.tree.as_ref().map(|before| tree.ticks_since(before) > 0);
        let active = if used == Some(true) || tree.is_runnable() { Some(true) } else { used };
        self.tree = Some(tree);
        active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::worker_socket::{WorkerCheck, WorkerSocket};
    use std::io::{BufRead, BufReader, Write};
    use std::net::SocketAddr;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// A worker that starts to compute, in a thread of its own, at each line of its standard input.
    const WORKER: &str = "
import socket, sys, threading
s = socket.create_server(('127.0.0.1', 0))
print(s.getsockname()[1], flush=True)
def compute():
    while True: pass
for line in sys.stdin: threading.Thread(target=compute, daemon=True).start()
";

    struct Worker(Child);

    impl Drop for Worker {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_worker_is_active_while_it_computes_and_not_while_it_is_stopped() {
        let mut child = Command::new("python3")
            .args(["-c", WORKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("its port");
        let address: SocketAddr = format!("127.0.0.1:{}", line.trim()).parse().expect("a port");
        let mut stdin = child.stdin.take().expect("piped");
        let worker = Worker(child);
        let pid = rustix::process::Pid::from_child(&worker.0);

        let listening = WorkerSocket::new(address, WorkerCheck::Listen, Duration::ZERO).look();
        let mut activity = Activity::default();
        wait_for("it is idle", || activity.look(listening) == Some(false));
        stdin.write_all(b"compute\n").expect("it reads");
        wait_for("it computes", || activity.look(listening) == Some(true));
        for _ in 0..20 {
            assert_eq!(activity.look(listening), Some(true), "whether or not a tick has passed");
        }
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("our own child");
        wait_for("it is stopped", || activity.look(listening) == Some(false));
        drop(worker);
        assert_eq!(activity.look(listening), None, "it has ended");
        assert_eq!(activity.look(Listening::Nobody), None);
        assert_eq!(activity.look(Listening::Unknown), None);
    }
}
