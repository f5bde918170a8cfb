//! A cluster of real `rakit-node`s, each a process of its own, which a test kills, pauses and starts again.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use rakit::raft::Founding;

use super::http::{self, Answer};
use super::ports::KeptPort;
use super::{LOOK_AGAIN, PATIENCE};

/// A node's id: 1, 2, …
pub type NodeId = u64;

/// The name of every cluster here.
pub const CLUSTER_NAME: &str = "systest";

/// So many lines of each node's log are shown when a test fails.
const LOG_TAIL_LINES: usize = 40;

/// What differs from cluster to cluster; the rest stays at the programs' defaults.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub nodes: u64,
    /// Signs everything on the cluster addresses.
    pub secret: Option<String>,
    pub heartbeat_ms: u64,
    pub election_timeout_ms: (u64, u64),
    pub snapshot_entries: u64,
    pub policy: &'static str,
    pub server_timeout_ms: u64,
    pub report_interval_ms: u64,
    pub request_timeout_ms: u64,
    pub stall_ms: u64,
    pub log_level: &'static str,
    /// What the shell's `ulimit` is given before it becomes a node, such as `-n 200`.
    pub ulimit: Option<&'static str>,
    /// Further tables of cluster.toml.
    pub tables: &'static str,
}

impl Default for ClusterOptions {
    /// Three nodes. Servers stay alive without reports for as long as a test may take, and nothing stalls, unless a test is
    /// about just that.
    fn default() -> Self {
        Self {
            nodes: 3,
            secret: None,
            heartbeat_ms: 100,
            election_timeout_ms: (500, 1_000),
            snapshot_entries: 10_000,
            policy: "lowest-cpu",
            server_timeout_ms: 600_000,
            report_interval_ms: 1_000,
            request_timeout_ms: 300_000,
            stall_ms: 600_000,
            log_level: "info",
            ulimit: None,
            tables: "",
        }
    }
}

impl ClusterOptions {
    /// The defaults with so many nodes.
    pub fn nodes(nodes: u64) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// So many nodes with long election timeouts: a loaded machine alone causes no election, so who leads leads on, and the
    /// term stays. A leader whose process dies is followed as soon as ever: its followers see that nobody listens.
    pub fn calm(nodes: u64) -> Self {
        Self { election_timeout_ms: (8_000, 16_000), ..Self::nodes(nodes) }
    }
}

/// What a node is doing as far as the test arranged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Runs,
    /// Paused by SIGSTOP.
    Stopped,
    /// Not started yet, killed, or ended.
    Dead,
}

#[derive(Debug)]
struct NodeProcess {
    public: KeptPort,
    cluster: KeptPort,
    log: PathBuf,
    /// If it is another one than the founders'.
    config: Option<PathBuf>,
    child: Option<Child>,
    doing: Doing,
}

/// A running cluster. When it is dropped, all its nodes are killed and the directory is removed.
#[derive(Debug)]
pub struct Cluster {
    pub options: ClusterOptions,
    directory: tempfile::TempDir,
    nodes: BTreeMap<NodeId, NodeProcess>,
}

impl Cluster {
    /// Starts all nodes and waits until each is ready: it knows a leader and has applied what is committed.
    ///
    /// The nodes end with the thread that starts them (`--stop-with-parent`), so that even a test that is killed leaves none
    /// behind: start and restart them on the test's own thread.
    pub fn start(options: ClusterOptions) -> Self {
        let mut cluster = Self::prepare(options);
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster.wait_until_ready();
        cluster
    }

    /// The directory, the configuration and the ports, but no process yet.
    pub fn prepare(options: ClusterOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("rakit-system-").tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("logs")).expect("an empty directory");
        let nodes = (1..=options.nodes)
            .map(|id| {
                let log = directory.path().join(format!("logs/node-{id}.log"));
                let (public, cluster) = (KeptPort::new(), KeptPort::new());
                (id, NodeProcess { public, cluster, log, config: None, child: None, doing: Doing::Dead })
            })
            .collect();
        let cluster = Self { options, directory, nodes };
        if let Some(secret) = &cluster.options.secret {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(cluster.path("cluster.key"));
            file.and_then(|mut file| file.write_all(secret.as_bytes())).expect("an empty directory");
        }
        std::fs::write(cluster.config(), cluster.toml()).expect("an empty directory");
        cluster
    }

    /// A machine for a node that the founding does not know: ports, and a configuration that names it. No process yet, and no
    /// other file changes.
    pub fn add_machine(&mut self, id: NodeId) {
        let log = self.path(&format!("logs/node-{id}.log"));
        let (public, cluster) = (KeptPort::new(), KeptPort::new());
        let mut text = std::fs::read_to_string(self.config()).expect("the founders' file");
        let _ = write!(
            text,
            "\n[[node]]\nid = {id}\npublic = \"{}\"\ncluster = \"{}\"\nfounder = false\n",
            public.address(),
            cluster.address()
        );
        let config = self.path(&format!("cluster-{id}.toml"));
        std::fs::write(&config, text).expect("our own directory");
        let node =
            NodeProcess { public, cluster, log, config: Some(config), child: None, doing: Doing::Dead };
        self.nodes.insert(id, node);
    }

    fn toml(&self) -> String {
        let ClusterOptions {
            nodes: _,
            secret,
            heartbeat_ms,
            election_timeout_ms: (low, high),
            snapshot_entries,
            policy,
            server_timeout_ms,
            report_interval_ms,
            request_timeout_ms,
            stall_ms,
            log_level: _,
            ulimit: _,
            tables,
        } = &self.options;
        let secret = if secret.is_some() { "secret_file = \"cluster.key\"\n" } else { "" };
        let mut text = format!(
            "[cluster]\nname = \"{CLUSTER_NAME}\"\n{secret}\n[raft]\nheartbeat_ms = {heartbeat_ms}\n\
             election_timeout_ms = [{low}, {high}]\nsnapshot_entries = {snapshot_entries}\n\n[balancer]\n\
             policy = \"{policy}\"\nserver_timeout_ms = {server_timeout_ms}\n\
             report_interval_ms = {report_interval_ms}\nrequest_timeout_ms = {request_timeout_ms}\n\
             stall_ms = {stall_ms}\n"
        );
        for (id, node) in &self.nodes {
            let (public, cluster) = (node.public.address(), node.cluster.address());
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[[node]]\nid = {id}\npublic = \"{public}\"\ncluster = \"{cluster}\"\n");
        }
        text.push_str(tables);
        text
    }

    // -------------------------------------------------------------------------------------------------- places

    /// A path in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("cluster.toml")
    }

    /// A node's log so far.
    pub fn log_text(&self, id: NodeId) -> String {
        std::fs::read_to_string(&self.node(id).log).unwrap_or_default()
    }

    /// Waits until a node's log has this text: a line reaches the file a moment after what it tells of.
    #[track_caller]
    pub fn wait_for_line(&self, id: NodeId, text: &str) {
        self.wait_for(&format!("node {id} logs: {text}"), || self.log_text(id).contains(text).then_some(()));
    }

    /// Where clients reach it.
    pub fn public(&self, id: NodeId) -> SocketAddr {
        self.node(id).public.address()
    }

    /// Where peers and daemons reach it.
    pub fn cluster_address(&self, id: NodeId) -> SocketAddr {
        self.node(id).cluster.address()
    }

    /// The founding that the configuration of all nodes names.
    pub fn founding(&self) -> Founding {
        Founding::new(CLUSTER_NAME, self.ids())
    }

    /// All nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The nodes that run: neither dead nor stopped.
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.doing == Doing::Runs).map(|(id, _)| *id).collect()
    }

    /// A node's process, if there is one.
    pub fn pid(&self, id: NodeId) -> Option<u32> {
        self.node(id).child.as_ref().map(Child::id)
    }

    fn node(&self, id: NodeId) -> &NodeProcess {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: NodeId) -> &mut NodeProcess {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    // ------------------------------------------------------------------------------------------- life and death

    /// Starts a dead node on what is in its directory. Does not wait for anything.
    pub fn restart(&mut self, id: NodeId) {
        self.restart_with(id, &[]);
    }

    /// The same with more flags.
    pub fn restart_with(&mut self, id: NodeId, flags: &[&str]) {
        let (config, level) = (self.config(), self.options.log_level);
        let program = env!("CARGO_BIN_EXE_rakit-node");
        let mut command = match self.options.ulimit {
            None => Command::new(program),
            Some(limit) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh", program]);
                command
            }
        };
        let config = self.node(id).config.clone().unwrap_or(config);
        let node = self.node_mut(id);
        assert_eq!(node.doing, Doing::Dead, "node {id} runs already");
        // The log goes to standard error, and so does what a panic says.
        let log = OpenOptions::new().create(true).append(true).open(&node.log).expect("our own directory");
        command
            .arg("--config")
            .arg(config)
            .args(["--id", &id.to_string(), "--log-level", level])
            .arg(format!("--stop-with-parent={}", std::process::id()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        node.child = Some(command.spawn().expect("rakit-node starts"));
        node.doing = Doing::Runs;
    }

    /// `kill -9`: the node has no time for anything. Returns when it is gone.
    pub fn kill9(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let mut child = node.child.take().unwrap_or_else(|| panic!("node {id} is dead already"));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        node.doing = Doing::Dead;
    }

    /// SIGSTOP: the node's threads stand still, its sockets stay open.
    pub fn stop(&mut self, id: NodeId) {
        assert!(self.node(id).doing == Doing::Runs, "node {id} is no process that runs");
        let pid = self.signal(id, Signal::STOP);
        // On a busy machine, some of its threads run on for a moment after the signal was sent.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("our own child, which lives");
        self.node_mut(id).doing = Doing::Stopped;
    }

    /// SIGCONT: it goes on as if no time had passed.
    pub fn cont(&mut self, id: NodeId) {
        self.signal(id, Signal::CONT);
        self.node_mut(id).doing = Doing::Runs;
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self, id: NodeId) -> ExitStatus {
        self.signal(id, Signal::TERM);
        self.wait_for_end(id)
    }

    /// Waits until the node's process ends by itself.
    pub fn wait_for_end(&mut self, id: NodeId) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let node = self.node_mut(id);
        let child = node.child.as_mut().unwrap_or_else(|| panic!("node {id} is dead already"));
        let status = loop {
            match child.try_wait().expect("our own child") {
                Some(status) => break status,
                None if Instant::now() >= deadline => panic!("node {id} does not end\n{}", self.story()),
                None => std::thread::sleep(LOOK_AGAIN),
            }
        };
        (node.child, node.doing) = (None, Doing::Dead);
        status
    }

    fn signal(&self, id: NodeId, signal: Signal) -> Pid {
        let pid = self.pid(id).unwrap_or_else(|| panic!("node {id} is dead already"));
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0");
        kill_process(pid, signal).expect("our own child, not yet waited for");
        pid
    }

    // ----------------------------------------------------------------------------------------------- questions

    /// `GET target` on a node's public address.
    pub fn get(&self, id: NodeId, target: &str) -> Answer {
        self.get_with(id, target, &[])
    }

    /// The same with header lines.
    pub fn get_with(&self, id: NodeId, target: &str, headers: &[&str]) -> Answer {
        http::get_with(self.public(id), target, headers)
            .unwrap_or_else(|error| panic!("GET {target} on node {id}: {error}\n{}", self.story()))
    }

    /// A value of `GET /metrics`, of a metric without labels.
    pub fn metric(&self, id: NodeId, name: &str) -> f64 {
        let page = self.get(id, "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// `GET /status` of a node that must answer.
    pub fn status(&self, id: NodeId) -> Value {
        self.get(id, "/status").json()
    }

    /// `GET /status`, `None` if the node does not answer.
    pub fn try_status(&self, id: NodeId) -> Option<Value> {
        let answer = http::get(self.public(id), "/status").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// What a node believes about a server; `None` if it knows none of that name.
    pub fn server(&self, id: NodeId, server: &str) -> Option<Value> {
        self.try_status(id)?["servers"].as_array()?.iter().find(|known| known["id"] == server).cloned()
    }

    /// The node's log after this index, all of it that is there (at most 1,000 entries).
    pub fn raft_log(&self, id: NodeId, after: u64) -> Vec<Value> {
        let answer = self.get(id, &format!("/log?after={after}&limit=1000"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json().as_array().expect("a list").clone()
    }

    /// The one leader that all running nodes name, if they do; and it says so itself.
    pub fn agreed_leader(&self) -> Option<NodeId> {
        self.agreed_leader_and_term().map(|(leader, _)| leader)
    }

    /// The same with the term that it leads. It may be deposed at any time: but whoever leads after it does so in a later term.
    pub fn agreed_leader_and_term(&self) -> Option<(NodeId, u64)> {
        let statuses: Option<Vec<Value>> = self.running().iter().map(|id| self.try_status(*id)).collect();
        let statuses = statuses?;
        let (leader, term) = (statuses.first()?["leader"].as_u64()?, &statuses[0]["term"]);
        let agreed = statuses.iter().all(|status| status["leader"] == leader && status["term"] == *term);
        let led = statuses.iter().filter(|status| status["role"] == "leader").count() == 1
            && statuses.iter().any(|status| status["node"] == leader && status["role"] == "leader");
        Some((leader, term.as_u64()?)).filter(|_| agreed && led)
    }

    // ------------------------------------------------------------------------------------------------ conditions

    /// Looks until `condition` returns something, for [`PATIENCE`] at most; then fails and prints what all nodes believe.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        self.wait_within(PATIENCE, what, condition)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn wait_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut condition: impl FnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = condition() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for: {what}\n{}", self.story());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until every running node answers `GET /readyz` with 200 and all name the same leader, which is returned.
    #[track_caller]
    pub fn wait_until_ready(&self) -> NodeId {
        self.wait_for("every running node is ready", || {
            let ready = |id: &NodeId| http::get(self.public(*id), "/readyz").is_ok_and(|a| a.status == 200);
            self.running().iter().all(ready).then_some(())
        });
        self.wait_for_leader()
    }

    /// Waits until all running nodes agree on a leader.
    #[track_caller]
    pub fn wait_for_leader(&self) -> NodeId {
        self.wait_for("all running nodes agree on a leader", || self.agreed_leader())
    }

    /// The same with the term that it leads.
    #[track_caller]
    pub fn wait_for_leader_and_term(&self) -> (NodeId, u64) {
        self.wait_for("all running nodes agree on a leader", || self.agreed_leader_and_term())
    }

    /// Waits until all running nodes have applied the same and show the same digest, which is returned.
    #[track_caller]
    pub fn wait_for_equal_digests(&self) -> String {
        self.wait_for("all running nodes show the same applied index and digest", || {
            let mut seen = self.running().into_iter().map(|id| {
                let status = self.try_status(id)?;
                Some((status["applied_index"].as_u64()?, status["state_digest"].as_str()?.to_owned()))
            });
            let first = seen.next()??;
            seen.all(|other| other.as_ref() == Some(&first)).then_some(first.1)
        })
    }

    /// Waits until the server looks so on every running node.
    #[track_caller]
    pub fn wait_for_server(&self, server: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
        self.wait_for(&format!("{server} is {what} on every running node"), || {
            self.running().iter().all(|id| self.server(*id, server).is_some_and(|s| wanted(&s))).then_some(())
        });
    }

    /// What every node believes and what it logged last, for a test's failure message.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for (id, node) in &self.nodes {
            let status = match node.doing {
                Doing::Runs => {
                    self.try_status(*id).map_or("no answer".to_owned(), |status| status.to_string())
                }
                doing => format!("{doing:?}"),
            };
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n    ");
            let _ = write!(story, "--- node {id}: {status}\n    {tail}\n");
        }
        story
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.directory.path().join("logs");
            show_failure(&logs);
        }
        for node in self.nodes.values_mut() {
            if let Some(mut child) = node.child.take() {
                // SIGKILL also ends a process that is stopped. One that has ended already is only waited for.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The last lines of all logs, for a test that failed by an assertion of its own. Must not panic: it is called in one.
fn show_failure(logs: &Path) {
    let Ok(entries) = std::fs::read_dir(logs) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let text = File::open(&path).and_then(std::io::read_to_string).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n    ");
        eprintln!("--- {}\n    {tail}", path.file_name().unwrap_or_default().to_string_lossy());
    }
}
