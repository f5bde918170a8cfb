//! A cluster of Rakit or of etcd, each member a process of its own, which is killed, paused, cut off and started again.
//!
//! The cluster of the whole-system tests (`tests/system/programs`) knows one build of Rakit, no etcd, and no network that can be cut.
//! Here both systems have the same methods, so that a part does the same to both.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::Fallible;
use crate::place::Hosts;
use crate::process::Process;
use crate::wire::{self, Answer, PATIENCE};

/// The pause between two looks at a condition that can only be asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where a node of Rakit has its public and its cluster address, and a member of etcd its clients' and its peers'.
const PUBLIC_PORT: u16 = 8_000;
const INNER_PORT: u16 = 9_000;

/// More reports than one loader sends of one server in one run.
const SEQUENCES_PER_RUN: u64 = 1_000_000_000;

/// The epoch of every report that the benchmark itself writes: an arbitrary moment.
const EPOCH: u64 = 1_795_000_000_000;

/// The secret of a signed cluster: any bytes, as long as those that README tells to make.
const SECRET: &str = "a secret of the benchmark's own, which nobody has to guess";

/// One build of Rakit.
#[derive(Clone, Debug)]
pub struct Programs {
    pub node: PathBuf,
    pub daemon: PathBuf,
}

impl Programs {
    /// Those that were built with the benchmark.
    pub fn ours() -> Self {
        Self {
            node: env!("CARGO_BIN_EXE_rakit-node").into(),
            daemon: env!("CARGO_BIN_EXE_rakit-daemon").into(),
        }
    }

    /// Those of a directory: cargo's target directory, or its `release`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn in_directory(directory: &Path) -> Fallible<Self> {
        let nested = directory.join("release");
        let directory = if nested.is_dir() { &nested } else { directory };
        let find = |name: &str| -> Fallible<PathBuf> {
            std::fs::canonicalize(directory.join(name))
                .map_err(|error| format!("{}/{name}: {error}", directory.display()).into())
        };
        Ok(Self { node: find("rakit-node")?, daemon: find("rakit-daemon")? })
    }
}

/// Which system, and what is not at its default.
#[derive(Clone, Debug)]
pub enum System {
    Rakit(Options),
    Etcd,
}

/// A build of Rakit, and what may differ from its default configuration.
#[derive(Clone, Debug)]
pub struct Options {
    pub programs: Programs,
    pub policy: &'static str,
    pub report_interval_ms: u64,
    pub log_level: &'static str,
    /// The cluster has a secret. Then only its own nodes and daemons can report.
    pub is_signed: bool,
}

impl Options {
    /// The defaults.
    pub fn new(programs: &Programs) -> Self {
        Self {
            programs: programs.clone(),
            policy: "projected",
            report_interval_ms: 1_000,
            log_level: "info",
            is_signed: false,
        }
    }
}

impl System {
    /// Rakit with the default configuration.
    pub fn rakit(programs: &Programs) -> Self {
        Self::Rakit(Options::new(programs))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Rakit(_) => "Rakit",
            Self::Etcd => "etcd",
        }
    }
}

/// Where the members run.
#[derive(Debug)]
pub enum Site {
    /// On loopback, with addresses that no other cluster of this run has.
    Loopback([u8; 3]),
    /// Each in a network namespace of its own, all joined by a bridge: what is between them can be cut.
    Hosts(Hosts),
}

impl Site {
    /// Fresh addresses on loopback.
    pub fn loopback() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        Self::Loopback([127, 77, NEXT.fetch_add(1, Ordering::Relaxed)])
    }

    /// The address of a host, from 1.
    pub fn ip(&self, host: u8) -> IpAddr {
        match self {
            Self::Loopback([a, b, c]) => Ipv4Addr::new(*a, *b, *c, host).into(),
            Self::Hosts(hosts) => hosts.public(host).ip(),
        }
    }

    fn command(&self, host: u8, program: &Path) -> Command {
        match self {
            Self::Loopback(_) => Command::new(program),
            Self::Hosts(hosts) => hosts.command(host, &program.display().to_string()),
        }
    }
}

/// A running cluster. When it is dropped, all its members are killed.
#[derive(Debug)]
pub struct Cluster {
    pub system: System,
    pub site: Site,
    directory: PathBuf,
    /// By number, from 1: the first place stays empty.
    members: Vec<Option<Process>>,
    sequence: u64,
}

impl Cluster {
    /// Starts all members and waits until they agree.
    ///
    /// # Errors
    /// When they do not.
    pub fn start(system: System, size: u8, site: Site, directory: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(directory)?;
        let members = (0..=size).map(|_| None).collect();
        let mut cluster = Self { system, site, directory: directory.to_owned(), members, sequence: 0 };
        if let System::Rakit(Options { policy, report_interval_ms, is_signed, .. }) = &cluster.system {
            let mut text = "[cluster]\nname = \"bench\"\n".to_owned();
            if *is_signed {
                let key = cluster.directory.join("cluster.key");
                std::fs::write(&key, SECRET)?;
                std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
                text += "secret_file = \"cluster.key\"\n";
            }
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[balancer]\npolicy = \"{policy}\"\nreport_interval_ms = {report_interval_ms}\n"
            );
            for id in cluster.ids() {
                let (public, inner) = (cluster.public(id), cluster.inner(id));
                // Writing to a String cannot fail.
                let _ = write!(text, "[[node]]\nid = {id}\npublic = \"{public}\"\ncluster = \"{inner}\"\n");
            }
            std::fs::write(cluster.configuration(), text)?;
        }
        for id in cluster.ids() {
            cluster.restart(id)?;
        }
        cluster.await_whole()?;
        Ok(cluster)
    }

    /// All members.
    pub fn ids(&self) -> Vec<u8> {
        (1..self.members.len()).map(|id| id as u8).collect()
    }

    /// All but one.
    pub fn others(&self, one: u8) -> Vec<u8> {
        self.ids().into_iter().filter(|id| *id != one).collect()
    }

    /// Rakit: where primes are asked for. etcd: where clients write.
    pub fn public(&self, id: u8) -> SocketAddr {
        SocketAddr::new(self.site.ip(id), PUBLIC_PORT)
    }

    /// Rakit: where reports go. etcd: where peers meet.
    pub fn inner(&self, id: u8) -> SocketAddr {
        SocketAddr::new(self.site.ip(id), INNER_PORT)
    }

    /// Where a write goes.
    pub fn writes(&self, id: u8) -> SocketAddr {
        match self.system {
            System::Rakit(_) => self.inner(id),
            System::Etcd => self.public(id),
        }
    }

    /// Rakit's cluster.toml.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("cluster.toml")
    }

    /// Where a member keeps its state.
    pub fn data(&self, id: u8) -> PathBuf {
        self.directory.join(format!("data/node-{id}"))
    }

    /// What a member logged.
    pub fn log(&self, id: u8) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    fn member(&self, id: u8) -> Fallible<&Process> {
        self.members[usize::from(id)].as_ref().ok_or_else(|| format!("member {id} does not run").into())
    }

    pub fn pid(&self, id: u8) -> Fallible<u32> {
        Ok(self.member(id)?.pid())
    }

    // ------------------------------------------------------------------------------------------- life and death

    /// Starts a member that does not run, on whatever it left on its disk. Waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, id: u8) -> Fallible {
        let command = match &self.system {
            System::Rakit(Options { programs, log_level, .. }) => {
                let mut command = self.site.command(id, &programs.node);
                command.arg("--config").arg(self.configuration());
                command.args(["--id", &id.to_string(), "--log-level", log_level]);
                if matches!(self.site, Site::Hosts(_)) {
                    // These networks are the benchmark's own; etcd is asked without a secret, too.
                    command.arg("--insecure");
                }
                command
            }
            System::Etcd => self.etcd(id),
        };
        self.members[usize::from(id)] = Some(Process::start(&command, &self.log(id))?);
        Ok(())
    }

    fn etcd(&self, id: u8) -> Command {
        let (clients, peers) =
            (format!("http://{}", self.public(id)), |id| format!("http://{}", self.inner(id)));
        let everybody: Vec<String> =
            self.ids().into_iter().map(|id| format!("m{id}={}", peers(id))).collect();
        let mut command = self.site.command(id, Path::new("etcd"));
        command.args(["--name", &format!("m{id}"), "--data-dir"]).arg(self.data(id));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers(id), "--initial-advertise-peer-urls", &peers(id)]);
        command.args(["--initial-cluster", &everybody.join(","), "--initial-cluster-state", "new"]);
        command
    }

    /// `kill -9`. Gives the moment before the signal; the process is gone when this returns.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, id: u8) -> Fallible<Instant> {
        let since = Instant::now();
        self.member(id)?.kill()?;
        self.members[usize::from(id)] = None;
        Ok(since)
    }

    /// # Errors
    /// When it does not run.
    pub fn pause(&self, id: u8) -> Fallible<Instant> {
        let since = Instant::now();
        self.member(id)?.signal(Signal::STOP)?;
        Ok(since)
    }

    /// # Errors
    /// When it does not run.
    pub fn resume(&self, id: u8) -> Fallible {
        self.member(id)?.signal(Signal::CONT)
    }

    /// Cuts a member off from all others, or heals that: no packet passes in either direction, and nobody is told.
    ///
    /// # Errors
    /// When nothing can be cut here.
    pub fn cut_off(&mut self, id: u8, cut: bool) -> Fallible<Instant> {
        let others = self.others(id);
        let Site::Hosts(hosts) = &mut self.site else { return Err("loopback cannot be cut".into()) };
        let since = Instant::now();
        for other in others {
            for (from, to) in [(id, other), (other, id)] {
                if cut { hosts.cut(from, to) } else { hosts.mend(from, to) }
            }
        }
        Ok(since)
    }

    // ------------------------------------------------------------------------------------------------ questions

    /// Whether a write can only come from the cluster's own programs.
    pub fn is_signed(&self) -> bool {
        matches!(self.system, System::Rakit(Options { is_signed: true, .. }))
    }

    /// Waits until every member answers, all name the same leader, and all have applied the same. Gives the leader.
    ///
    /// # Errors
    /// When that does not come true.
    pub fn await_whole(&self) -> Fallible<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.leader_if_whole() {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => "they do not agree".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                let log = std::fs::read_to_string(self.log(1)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                let (name, tail) =
                    (self.system.name(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                return Err(format!("{name} is not whole after {PATIENCE:?}: {error}\n{tail}").into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn leader_if_whole(&self) -> Fallible<Option<u8>> {
        match self.system {
            System::Rakit(_) => {
                let mut seen = Vec::new();
                for id in self.ids() {
                    let status = self.status(id)?;
                    seen.push(
                        ["leader", "term", "commit_index", "applied_index"].map(|key| status[key].clone()),
                    );
                }
                let same = seen.iter().all(|other| *other == seen[0]);
                Ok(seen[0][0].as_u64().filter(|_| same).and_then(|leader| u8::try_from(leader).ok()))
            }
            System::Etcd => {
                let (mut seen, mut leaders) = (Vec::new(), Vec::new());
                for id in self.ids() {
                    let request = wire::post("/v3/maintenance/status", "{}");
                    let status = wire::ask_json(self.public(id), &request)?;
                    seen.push(["leader", "raftTerm", "raftAppliedIndex"].map(|key| status[key].clone()));
                    if status["leader"] == status["header"]["member_id"] {
                        leaders.push(id);
                    }
                }
                let same = seen.iter().all(|other| *other == seen[0]);
                Ok(leaders.first().copied().filter(|_| same && leaders.len() == 1))
            }
        }
    }

    /// A node's `/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self, id: u8) -> Fallible<Value> {
        Ok(wire::ask_json(self.public(id), &wire::get("/status"))?)
    }

    /// A number above which a run of a loader finds sequences that were not used before.
    pub fn reserve_sequences(&mut self) -> u64 {
        let first = self.sequence;
        self.sequence += SEQUENCES_PER_RUN;
        first
    }

    /// The bytes of a write that any member takes, each with a value that was not written before. Over HTTP in both systems.
    pub fn write_request(&mut self, name: &str) -> Vec<u8> {
        self.sequence += 1;
        match self.system {
            System::Rakit(_) => wire::post("/report", &report(name, self.sequence, true)),
            // Base64 of anything will do; the lengths are about those of a report.
            System::Etcd => {
                let body = format!("{{\"key\":\"cHJvYmU=\",\"value\":\"{:0160}\"}}", self.sequence);
                wire::post("/v3/kv/put", &body)
            }
        }
    }
}

/// Bytes of all files in a directory and below. What vanishes meanwhile, such as an older snapshot, is left out.
pub fn directory_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |path: PathBuf| match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&path),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(|entry| size(entry.path())).sum()
}

/// The body of a report of a server whose worker is said not to listen, so that nobody is sent there.
pub fn report(server: &str, sequence: u64, forward: bool) -> String {
    let cpu = sequence % 100;
    format!(
        "{{\"server\":\"{server}\",\"worker\":\"127.0.0.1:13337\",\"cpu\":{cpu}.5,\"cores\":2,\"epoch\":{EPOCH},\
         \"sequence\":{sequence},\"worker_up\":false,\"forward\":{forward}}}"
    )
}

/// Whether an answer says that the write is committed.
pub fn is_committed(answer: &Answer) -> bool {
    let says = |what: &[u8]| answer.body.windows(what.len()).any(|window| window == what);
    answer.status == 200 && (says(b"\"committed\"") || says(b"\"revision\""))
}
