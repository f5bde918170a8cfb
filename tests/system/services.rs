//! What node, daemon and worker tell the service manager that starts them. The test is the service manager: it listens on a
//! socket as systemd does (sd_notify(3)), and reads standard error as the journal does.

use std::io::{Read as _, pipe};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::PATIENCE;
use crate::programs::ports::KeptPort;

/// How often the watchdog wants a sign of life, in microseconds.
const WATCHDOG_USEC: &str = "100000";

/// A program that a service manager has started. It is killed when this is dropped.
struct Service {
    child: Child,
    manager: UnixDatagram,
}

impl Service {
    fn start(directory: &Path, command: &mut Command) -> Self {
        let socket = directory.join("notify");
        let manager = UnixDatagram::bind(&socket).expect("our own directory");
        manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", WATCHDOG_USEC);
        let child = command.current_dir(directory).stdout(Stdio::null()).spawn().expect("the program starts");
        Self { child, manager }
    }

    /// The next datagram.
    fn hears(&self) -> String {
        let mut datagram = [0; 1024];
        let length = self.manager.recv(&mut datagram).expect("the service manager is told something");
        String::from_utf8(datagram[..length].to_vec()).expect("text")
    }

    fn stop(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("it runs");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with the configuration of one node, and its ports.
fn cluster_of_one() -> (tempfile::TempDir, [KeptPort; 2]) {
    let directory = tempfile::tempdir().expect("a directory");
    let ports = [KeptPort::new(), KeptPort::new()];
    let [public, cluster] = [ports[0].address(), ports[1].address()];
    let toml = format!(
        "[cluster]\nname = \"services\"\n[balancer]\nreport_interval_ms = 60000\nserver_timeout_ms = 300000\n\
         [[node]]\nid = 1\npublic = \"{public}\"\ncluster = \"{cluster}\"\n"
    );
    std::fs::write(directory.path().join("cluster.toml"), toml).expect("our own directory");
    (directory, ports)
}

fn node() -> Command {
    let mut node = Command::new(env!("CARGO_BIN_EXE_rakit-node"));
    node.args(["--config", "cluster.toml", "--id", "1"]);
    node
}

fn daemon() -> Command {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"));
    daemon.args(["--config", "cluster.toml", "--server", "a", "--worker", "127.0.0.1:13337"]);
    daemon
}

fn worker() -> Command {
    let mut worker = Command::new("python3");
    worker.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.py")).args(["--bind", "127.0.0.1"]);
    worker.args(["--port", "0"]);
    worker
}

/// The daemon makes a report once a minute here: the signs of life do not wait for that.
#[test]
fn the_service_manager_hears_that_a_program_serves_lives_and_stops() {
    for (mut program, said, has_watchdog) in [
        (node(), "node 1 serves clients at 127.0.0.1:", true),
        (daemon(), "reports server a to 1 nodes", true),
        (worker(), "serves at 127.0.0.1:", false),
    ] {
        let (directory, _ports) = cluster_of_one();
        let mut service = Service::start(directory.path(), program.stderr(Stdio::null()));
        let first = service.hears();
        assert!(first.starts_with("READY=1\nSTATUS=") && first.contains(said), "{first}");
        if has_watchdog {
            assert_eq!([service.hears(), service.hears()], ["WATCHDOG=1\n", "WATCHDOG=1\n"], "{said}");
        }
        service.stop();
        let last = std::iter::repeat_with(|| service.hears()).find(|words| words != "WATCHDOG=1\n");
        assert_eq!(last.as_deref(), Some("STOPPING=1\n"), "{said}");
        assert!(service.child.wait().expect("a child").success(), "{said}");
    }
}

#[test]
fn lines_for_the_journal_begin_with_their_priority_and_no_others_do() {
    for (mut program, to_journal) in
        [(node(), true), (node(), false), (worker(), true), (worker(), false), (daemon(), true)]
    {
        let (mut lines, stream) = pipe().expect("a pipe");
        let found = rustix::fs::fstat(&stream).expect("our own pipe");
        // A terminal below a service has inherited the variable, and is another stream.
        let inode = if to_journal { found.st_ino } else { found.st_ino + 1 };
        let (directory, _ports) = cluster_of_one();
        program.env("JOURNAL_STREAM", format!("{}:{inode}", found.st_dev)).stderr(stream);
        let service = Service::start(directory.path(), &mut program);
        drop(program); // It holds the writing end.
        assert!(service.hears().starts_with("READY=1\n"));
        service.stop();
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("text");
        assert!(text.lines().count() > 1, "{text}");
        for line in text.lines() {
            let priority = ["<3>", "<4>", "<6>"].iter().any(|priority| line.starts_with(priority));
            assert_eq!(priority, to_journal, "{line}");
            assert!(!to_journal || line.starts_with("<6>") == line.contains("INFO"), "{line}");
        }
    }
}

/// The last word of a program that does not start.
#[test]
fn a_program_that_does_not_start_says_so_with_the_priority_of_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut lines, stream) = pipe().expect("a pipe");
    let found = rustix::fs::fstat(&stream).expect("our own pipe");
    let mut node = node();
    node.env("JOURNAL_STREAM", format!("{}:{}", found.st_dev, found.st_ino)).stderr(stream);
    let status = node.current_dir(directory.path()).status().expect("the program starts");
    drop(node);
    let mut text = String::new();
    lines.read_to_string(&mut text).expect("text");
    assert_eq!(status.code(), Some(2));
    assert!(text.starts_with("<3>rakit-node: ") && text.lines().count() == 1, "{text}");
}
