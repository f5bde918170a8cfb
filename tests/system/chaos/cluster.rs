//! The processes: six nodes, and on the hub two servers, each a real `worker.py` with a real `rakit-daemon`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::clients::CLUSTER;
use super::members::NEWCOMER;
use super::place::{Hosts, NODES, NodeId, Place};
use crate::programs::tracer::{Syncs, tracer};

/// Servers that are asked for primes.
pub const SERVERS: u8 = 2;

/// Signs everything on the cluster addresses. Not a secret at all.
pub const SECRET: &str = "a secret of the chaos test that anybody may read";

/// Default timeouts. Compaction is frequent, so that snapshots are taken and installed in the middle of it all. A server is
/// not called dead just because this machine is busy with other tests.
const CONFIGURATION: &str =
    "snapshot_entries = 300\n\n[balancer]\nserver_timeout_ms = 20000\nreport_interval_ms = 250\n";

/// All processes; they are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Where they run.
    pub hosts: Hosts,
    directory: PathBuf,
    nodes: BTreeMap<NodeId, Child>,
    servers: Vec<Child>,
    /// The tracers that make system calls fail.
    tracers: BTreeMap<NodeId, Child>,
}

impl Cluster {
    /// Writes the configuration; starts nothing.
    pub fn new(place: Place, directory: &Path) -> Self {
        let hosts = Hosts::new(place, directory);
        let mut key = OpenOptions::new();
        let key = key.write(true).create_new(true).mode(0o600).open(directory.join("cluster.key"));
        key.and_then(|mut key| key.write_all(SECRET.as_bytes())).expect("a directory of our own");
        let mut text = format!(
            "[cluster]\nname = \"{CLUSTER}\"\nsecret_file = \"cluster.key\"\n\n[raft]\n{CONFIGURATION}"
        );
        for id in 1..=NODES {
            let (public, cluster) = (hosts.public(id), hosts.cluster(id));
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[[node]]\nid = {id}\npublic = \"{public}\"\ncluster = \"{cluster}\"\n");
            if id == NEWCOMER {
                text.push_str("founder = false\n");
            }
        }
        std::fs::write(directory.join("cluster.toml"), text).expect("a directory of our own");
        Self {
            hosts,
            directory: directory.to_owned(),
            nodes: BTreeMap::new(),
            servers: Vec::new(),
            tracers: BTreeMap::new(),
        }
    }

    /// The nodes' cluster addresses.
    pub fn cluster_addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        (1..=NODES).map(|id| (id, self.hosts.cluster(id))).collect()
    }

    /// Starts a node that does not run. Its log goes on where it ended.
    pub fn start(&mut self, id: NodeId) {
        let command = self.hosts.command(id, env!("CARGO_BIN_EXE_rakit-node"));
        let child = self.spawn(command, &["--id", &id.to_string()], &format!("node-{id}"));
        assert!(self.nodes.insert(id, child).is_none(), "node {id} runs already");
    }

    /// Starts the workers and their daemons.
    pub fn start_servers(&mut self) {
        for number in 1..=SERVERS {
            let address = self.hosts.worker(number);
            let mut worker = Command::new("python3");
            worker.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.py"));
            worker.args(["--processes", "1", "--bind", &address.ip().to_string()]);
            worker.args(["--port", &address.port().to_string()]);
            let worker = self.log_to(worker, &format!("worker-{number}"));
            let measure = format!("process:{}", worker.id());
            self.servers.push(worker);
            let (name, address) = (format!("server-{number}"), address.to_string());
            let arguments = ["--server", &name, "--worker", &address, "--measure", &measure];
            let daemon = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"));
            let daemon = self.spawn(daemon, &arguments, &format!("daemon-{number}"));
            self.servers.push(daemon);
        }
    }

    /// Ends the workers and their daemons.
    pub fn stop_servers(&mut self) {
        for mut child in self.servers.drain(..) {
            let _ = child.kill(); // It may have ended already.
            let _ = child.wait();
        }
    }

    fn spawn(&self, mut command: Command, arguments: &[&str], log: &str) -> Child {
        command.arg("--config").arg(self.directory.join("cluster.toml")).args(arguments);
        self.log_to(command, log)
    }

    fn log_to(&self, mut command: Command, log: &str) -> Child {
        let log =
            OpenOptions::new().create(true).append(true).open(self.log(log)).expect("our own directory");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Where a process logs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("logs/{name}.log"))
    }

    /// `kill -9`; returns when the process is gone.
    pub fn kill(&mut self, id: NodeId) {
        let mut child = self.nodes.remove(&id).unwrap_or_else(|| panic!("node {id} does not run"));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// Sends SIGSTOP or SIGCONT.
    pub fn signal(&self, id: NodeId, signal: Signal) {
        let child = self.nodes.get(&id).unwrap_or_else(|| panic!("node {id} does not run"));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child, not yet waited for");
    }

    /// From a moment on, every fsync of a node fails.
    pub fn fail_syncs(&mut self, id: NodeId) {
        let child = self.nodes.get(&id).unwrap_or_else(|| panic!("node {id} does not run"));
        let strace = tracer(child.id(), Syncs::Fail, Path::new("/dev/null"));
        let tracer = self.log_to(strace, &format!("strace-{id}"));
        assert!(self.tracers.insert(id, tracer).is_none(), "node {id} is traced already");
    }

    /// Waits for the tracer of a node that has ended.
    pub fn end_trace(&mut self, id: NodeId) {
        let mut tracer = self.tracers.remove(&id).unwrap_or_else(|| panic!("node {id} is not traced"));
        tracer.wait().expect("our own child");
    }

    /// The nodes that ended by themselves since the last question.
    pub fn ended(&mut self) -> Vec<(NodeId, ExitStatus)> {
        let mut ended = Vec::new();
        for (id, child) in &mut self.nodes {
            if let Some(status) = child.try_wait().expect("our own child") {
                ended.push((*id, status));
            }
        }
        for (id, _) in &ended {
            self.nodes.remove(id);
        }
        ended
    }

    /// Whether the node's process exists, paused or not.
    pub fn runs(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_servers();
        for child in self.nodes.values_mut() {
            // SIGKILL also ends a process that is stopped.
            let _ = child.kill();
            let _ = child.wait();
        }
        for tracer in self.tracers.values_mut() {
            let _ = tracer.wait(); // It ends with whom it traces.
        }
    }
}
