//! `rakit up`: checks everything before the first process of a local cluster starts, and then runs the
//! cluster.
//!
//! The order matters: the directory is locked before anything in it is read, and nothing in it is changed
//! before all checks have passed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rakit::linux::{FileLock, LockError};
use rakit::logging;
use rakit::program::LogFlags;

use super::Failure;
use super::configuration::{self, SettledCluster, Wish};
use super::layout::{self, Layout, Part, shown};
use super::ports;
use super::programs::{self, Programs};
use super::session::Session;

/// To propose a free base port, this many are tried, at this distance from each other.
const PROPOSAL_STEP: u16 = 100;
const PROPOSALS_MAX: u16 = 50;

/// Flags of `rakit up`.
#[derive(clap::Args, Debug)]
#[command(after_help = UP_HELP)]
pub struct UpFlags {
    /// How many nodes [default: 5, or as many as DIR holds]
    #[arg(long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(layout::NODES_MAX)))]
    nodes: Option<u16>,

    /// How many servers, each a worker and a daemon; 0 if you start your own [default: 3]
    #[arg(long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u16).range(0..=i64::from(layout::SERVERS_MAX)))]
    servers: Option<u16>,

    /// Node i: this port + i for clients, + 1000 + i for the cluster; worker j: + 2000 + j [default: 8000, or
    /// as in DIR]
    #[arg(long, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(layout::BASE_PORT_MAX)))]
    base_port: Option<u16>,

    /// Where the cluster's configuration, data and logs are; made if it is missing
    #[arg(long, value_name = "DIR", default_value = layout::DIRECTORY_DEFAULT)]
    dir: PathBuf,
}

const UP_HELP: &str = "\
DIR/cluster.toml  the configuration; written once, then kept: change what you like but [[node]]
DIR/data          what the nodes have agreed on; the next `rakit up` continues from it
DIR/logs          a log per process
DIR/pids.json     the processes that run now: {\"node-1\": 123, …}
DIR/control.json  lets `rakit ctl` steer the cluster

Prints `ready` when every node that runs answers (a majority at least), a leader is known and every
server is alive. If a process dies, it is not started again by itself; a line gives the command for
that. Ctrl-C, SIGTERM or SIGHUP stops all processes; a second Ctrl-C kills them.";

/// Runs a cluster until the user stops it.
///
/// # Errors
/// The cluster cannot be started as the user asked.
pub fn run(flags: &UpFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    let programs = Programs::find()?;
    let dir = &flags.dir;
    let new = |path: PathBuf| {
        fs::create_dir_all(&path)
            .map_err(|error| Failure::other(format!("{}: can't be made: {error}", shown(&path))))
    };
    new(dir.clone())?;
    let wish = Wish { nodes: flags.nodes, servers: flags.servers, base_port: flags.base_port };
    let _lock = lock(dir)?;
    let settled = configuration::settle(dir, wish)?;
    refuse_taken_ports(&settled)?;

    new(settled.layout.logs())?;
    let own_log = log.log_file.clone().unwrap_or_else(|| settled.layout.own_log_file());
    logging::start_in_file(log.log_level, &own_log).map_err(Failure::usage)?;
    settled.write()?;
    programs::write_worker(&settled.layout)?;
    // The old pids.json: its ids may belong to other processes by now.
    let _ = fs::remove_file(settled.layout.pids_file());

    let session = Session::start(settled.layout, programs, settled.resumed)?;
    Ok(session.run())
}

/// One `rakit up` at a time per directory: two would share log files, `pids.json` and the nodes' data.
fn lock(dir: &Path) -> Result<FileLock, Failure> {
    let path = dir.join(layout::LOCK_FILE);
    FileLock::take(&path).map_err(|error| {
        Failure::other(match error {
            LockError::Held { pid } => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                format!(
                    "{}: another `rakit up`{pid} runs this directory; stop that one, or give another --dir",
                    shown(&path)
                )
            }
            LockError::Io { operation, source } => {
                format!("{}: can't {operation} it: {source}", shown(&path))
            }
        })
    })
}

/// Checks that every port is free. The error names a taken port, its purpose and the process that holds it.
fn refuse_taken_ports(cluster: &SettledCluster) -> Result<(), Failure> {
    let layout = &cluster.layout;
    if let Some((part, pid)) = layout.parts().find_map(|part| Some((part, started_by_hand(layout, part)?))) {
        return Err(Failure::other(format!(
            "{} of this cluster runs already (pid {pid}); it was not started by this `rakit up`; stop it: kill {pid}",
            part.name()
        )));
    }
    let obstacles: Vec<String> = layout.addresses().into_iter().filter_map(obstacle).collect();
    let Some(first) = obstacles.first() else { return Ok(()) };
    let others = match obstacles.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    let mend = match free_base_port(layout) {
        _ if cluster.resumed => "its addresses stand in cluster.toml".to_string(),
        Some(port) => format!("give --base-port {port}, for example, where all are free"),
        None => "give another --base-port".to_string(),
    };
    let or = if cluster.resumed { "; " } else { ", or " };
    Err(Failure::other(format!("{first}{others}; free it{or}{mend}")))
}

/// The process that runs this part of the cluster although no `rakit up` does: somebody has started it by hand and
/// forgotten it.
fn started_by_hand(layout: &Layout, part: Part) -> Option<i32> {
    let (address, words) = match part {
        Part::Node(id) => (layout.public(id), ["--id".to_string(), id.to_string()]),
        Part::Worker(j) => (layout.worker(j), ["--port".to_string(), layout.worker(j).port().to_string()]),
        // A daemon holds no port, and disturbs nobody but the daemon that is started beside it.
        Part::Daemon(_) | Part::Burner(_) => return None,
    };
    let holder = ports::holder(address)?;
    let line = procfs::process::Process::new(holder.pid).ok()?.cmdline().ok()?;
    let file = if let Part::Worker(_) = part { layout.worker_script() } else { layout.config_file() };
    let is_ours = |word: &String| programs::same_file(Path::new(word), &file);
    (line.windows(2).any(|pair| pair == words) && line.iter().any(is_ours)).then_some(holder.pid)
}

fn obstacle((address, purpose): (SocketAddr, String)) -> Option<String> {
    ports::obstacle(address).map(|why| format!("port {}, for {purpose}, {why}", address.port()))
}

/// A base port near the given one at which every port of the cluster is free.
fn free_base_port(layout: &Layout) -> Option<u16> {
    let proposals = (1..=PROPOSALS_MAX).filter_map(|i| layout.base_port.checked_add(i * PROPOSAL_STEP));
    proposals
        .filter(|port| *port <= layout::BASE_PORT_MAX)
        .find(|port| layout.at_base_port(*port).addresses().into_iter().all(|one| obstacle(one).is_none()))
}
