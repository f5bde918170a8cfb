//! The ports and files of a local cluster: which process has which port, and which file in DIR holds what.
//!
//! `rakit up` uses it, and every command that finds the files of a cluster or names a path: so program, messages and
//! tests agree on the ports and names that users rely on. It opens no file and no socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rakit::raft::NodeId;
use serde::{Deserialize, Serialize};

/// Node i's public port is the base port + i. Its cluster port is its public port + this.
pub const CLUSTER_PORT_OFFSET: u16 = 1000;
/// The worker of server j listens on the base port + this + j.
pub const WORKER_PORT_OFFSET: u16 = 2000;
/// The directory of the cluster unless `--dir` names another.
pub const DIRECTORY_DEFAULT: &str = "rakit-cluster";
/// The number of nodes without `--nodes`: five survive the loss of two.
pub const NODES_DEFAULT: u16 = 5;
/// The number of servers without `--servers`.
pub const SERVERS_DEFAULT: u16 = 3;
/// The base port without `--base-port`: node 1 then has port 8001.
pub const BASE_PORT_DEFAULT: u16 = 8000;
/// The most nodes on one machine. More nodes would add nothing but connections: every node keeps one to every
/// other.
pub const NODES_MAX: u16 = 31;
/// The most servers on one machine: each is a Python process with a pool of its own.
pub const SERVERS_MAX: u16 = 64;
/// The highest base port at which every port of the largest cluster exists.
pub const BASE_PORT_MAX: u16 = u16::MAX - WORKER_PORT_OFFSET - SERVERS_MAX;

// The three ranges of ports do not overlap, for any permitted number of nodes and servers.
const _: () = assert!(NODES_MAX < CLUSTER_PORT_OFFSET);
const _: () = assert!(CLUSTER_PORT_OFFSET + NODES_MAX < WORKER_PORT_OFFSET);

/// The name of the file in DIR that a running `rakit up` locks.
pub const LOCK_FILE: &str = "up.lock";
/// The name of the directory of logs in DIR.
pub const LOGS_DIRECTORY: &str = "logs";
/// The name of the file in DIR that says where the control room is, and holds the token that it wants.
pub const CONTROL_FILE: &str = "control.json";

/// A cluster on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `--dir`: holds all files of the cluster.
    pub dir: PathBuf,
    /// 1 to [`NODES_MAX`].
    pub nodes: u16,
    /// 0 to [`SERVERS_MAX`].
    pub servers: u16,
    /// 1 to [`BASE_PORT_MAX`].
    pub base_port: u16,
}

/// One process of the cluster. As text, and in JSON, it is its name in `pids.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Part {
    /// `rakit-node` with this id, from 1.
    Node(u16),
    /// `worker.py` of server j, from 1.
    Worker(u16),
    /// `rakit-daemon` of server j, from 1.
    Daemon(u16),
    /// What keeps server j busy by order of `rakit ctl load`. No order names it, and `pids.json` does not.
    Burner(u16),
}

impl Part {
    /// Its name in `pids.json` and in messages: `node-1`, `server-1/worker`, `server-1/daemon`.
    pub fn name(self) -> String {
        match self {
            Part::Node(id) => format!("node-{id}"),
            Part::Worker(j) => format!("{}/worker", server_name(j)),
            Part::Daemon(j) => format!("{}/daemon", server_name(j)),
            Part::Burner(j) => format!("{}/burner", server_name(j)),
        }
    }

    /// The name of its files in DIR/logs, without an ending.
    fn stem(self) -> String {
        self.name().replace('/', "-")
    }
}

impl From<Part> for String {
    fn from(part: Part) -> String {
        part.name()
    }
}

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(name: String) -> Result<Part, String> {
        name.parse()
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Part, String> {
        let number = |text: &str| text.parse().ok().filter(|number: &u16| *number > 0);
        let node = name.strip_prefix("node-").and_then(number).map(Part::Node);
        let server = |process: &str| name.strip_prefix("server-")?.strip_suffix(process).and_then(number);
        node.or_else(|| server("/worker").map(Part::Worker))
            .or_else(|| server("/daemon").map(Part::Daemon))
            .ok_or_else(|| "give node-1, server-1/worker or server-1/daemon".to_string())
    }
}

/// The name of server j in the cluster's table.
pub fn server_name(j: u16) -> String {
    format!("server-{j}")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Layout {
    /// The public address of node `id`, for clients.
    pub fn public(&self, id: u16) -> SocketAddr {
        loopback(self.base_port + id)
    }

    /// Every node with its public address.
    pub fn public_nodes(&self) -> Vec<(NodeId, SocketAddr)> {
        self.node_ids().map(|id| (id.into(), self.public(id))).collect()
    }

    /// The cluster address of node `id`, for the other nodes and the daemons.
    pub fn cluster(&self, id: u16) -> SocketAddr {
        loopback(self.base_port + CLUSTER_PORT_OFFSET + id)
    }

    /// Where the worker of server `j` listens.
    pub fn worker(&self, j: u16) -> SocketAddr {
        loopback(self.base_port + WORKER_PORT_OFFSET + j)
    }

    /// The control room: where `rakit up` itself listens, for `rakit ctl` and a browser on this machine.
    pub fn control_room(&self) -> SocketAddr {
        loopback(self.base_port)
    }

    /// Ids of the nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    /// Numbers of the servers.
    pub fn server_numbers(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.servers
    }

    /// Every process of the cluster.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let servers = self.server_numbers().flat_map(|j| [Part::Worker(j), Part::Daemon(j)]);
        self.node_ids().map(Part::Node).chain(servers)
    }

    /// Every address of the cluster, with its purpose as a message to the user names it.
    pub fn addresses(&self) -> Vec<(SocketAddr, String)> {
        let nodes = self.node_ids().flat_map(|id| {
            [
                (self.public(id), format!("the clients of node {id}")),
                (self.cluster(id), format!("the peers of node {id}")),
            ]
        });
        let workers =
            self.server_numbers().map(|j| (self.worker(j), format!("the worker of {}", server_name(j))));
        let own = std::iter::once((self.control_room(), "the control room".to_string()));
        own.chain(nodes).chain(workers).collect()
    }

    /// The configuration that nodes and daemons read.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("cluster.toml")
    }

    /// The directory of the log files.
    pub fn logs(&self) -> PathBuf {
        self.dir.join(LOGS_DIRECTORY)
    }

    /// The log of this process. Its standard error goes there, so that the file also holds panics and Python
    /// tracebacks.
    pub fn log_file(&self, part: Part) -> PathBuf {
        self.logs().join(format!("{}.log", part.stem()))
    }

    /// The log of `rakit up` itself.
    pub fn own_log_file(&self) -> PathBuf {
        self.logs().join("up.log")
    }

    /// The file that lists the process ids.
    pub fn pids_file(&self) -> PathBuf {
        self.dir.join("pids.json")
    }

    /// Names the process that keeps server `j` busy; its daemon measures that process, too.
    pub fn load_file(&self, j: u16) -> PathBuf {
        self.dir.join(format!("{}.load", server_name(j)))
    }

    /// Where the control room is, and its token.
    pub fn control_file(&self) -> PathBuf {
        self.dir.join(CONTROL_FILE)
    }

    /// The worker's source, as embedded in this program.
    pub fn worker_script(&self) -> PathBuf {
        self.dir.join("worker.py")
    }

    /// The same cluster with other ports.
    pub fn at_base_port(&self, base_port: u16) -> Layout {
        Layout { base_port, ..self.clone() }
    }
}

/// The path as text for a message or a configuration file. Do not use it to open a file: it may be inexact.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn layout(nodes: u16, servers: u16, base_port: u16) -> Layout {
        Layout { dir: PathBuf::from("somewhere"), nodes, servers, base_port }
    }

    /// The addresses that `rakit up --help` promises, as numbers: users' scripts rely on them.
    #[test]
    fn ports_are_the_promised_ones() {
        let layout = layout(5, 3, 8000);
        assert_eq!(layout.public(1).to_string(), "127.0.0.1:8001");
        assert_eq!(layout.cluster(5).to_string(), "127.0.0.1:9005");
        assert_eq!(layout.worker(3).to_string(), "127.0.0.1:10003");
        assert_eq!(layout.control_room().to_string(), "127.0.0.1:8000");
        assert_eq!(layout.addresses().len(), 14);
    }

    #[test]
    fn the_largest_cluster_fits_below_the_last_port_without_collision() {
        let addresses = layout(NODES_MAX, SERVERS_MAX, BASE_PORT_MAX).addresses();
        let ports: BTreeSet<u16> = addresses.iter().map(|(address, _)| address.port()).collect();
        assert_eq!(ports.len(), addresses.len(), "two processes would share a port");
        assert_eq!(ports.last(), Some(&u16::MAX));
    }

    #[test]
    fn names_are_the_promised_ones() {
        assert_eq!(Part::Node(1).name(), "node-1");
        assert_eq!(Part::Worker(1).name(), "server-1/worker");
        assert_eq!(Part::Daemon(2).name(), "server-2/daemon");
        for part in [Part::Node(1), Part::Worker(12), Part::Daemon(2)] {
            assert_eq!(part.name().parse(), Ok(part));
        }
        let layout = layout(1, 1, 8000);
        assert_eq!(shown(&layout.log_file(Part::Node(1))), "somewhere/logs/node-1.log");
        assert_eq!(shown(&layout.log_file(Part::Worker(1))), "somewhere/logs/server-1-worker.log");
    }
}
