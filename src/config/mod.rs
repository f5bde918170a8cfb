//! Reads and checks `cluster.toml`, which is the same file on every machine.
//!
//! Every program loads it with [`Config::load`] at its start and from then on has only checked values. An error is one
//! line that names the file, the line, the key and the mend. `file.rs` has the keys, `check.rs` the rules and defaults,
//! `secret.rs` the rules of the secret. After SIGHUP, `rotation.rs` loads it once more, for the secret alone.
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::balancer::Policy;
use crate::raft::{Founding, NodeId};

mod check;
mod file;
mod rotation;
mod secret;

pub use check::{ELECTION_TIMEOUT_MS_MAX, NODE_ID_MAX, NODES_MAX, SNAPSHOT_ENTRIES_MAX};
pub use rotation::follow_secret;
pub use secret::{SECRET_BYTES_MAX, SECRET_BYTES_MIN};

/// The longest file that is read, in bytes. 31 nodes and many comments take a few kilobytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The checked file: every value is in its range, and every path is absolute or relative to the working
/// directory.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// The path of the file as the user gave it, for messages.
    pub path: PathBuf,
    /// `[cluster] name`: nodes of another cluster are refused.
    pub cluster_name: String,
    /// The contents of `[cluster] secret_file`: the shared secret that signs requests on the cluster address, in a line
    /// of its own; perhaps, in a second one, another that is accepted, too.
    pub secret: Option<Vec<u8>>,
    /// `[raft] heartbeat_ms`.
    pub heartbeat: Duration,
    /// `[raft] election_timeout_ms`: each timeout is drawn from this range (both ends included).
    pub election_timeout: (Duration, Duration),
    /// `[raft] data_dir`, resolved against the file's directory. Node i keeps its state in `data_dir/node-i`.
    pub data_dir: PathBuf,
    /// `[raft] snapshot_entries`: the log is compacted after so many applied entries.
    pub snapshot_entries: u64,
    /// `[balancer] policy`.
    pub policy: Policy,
    /// `[balancer] server_timeout_ms`.
    pub server_timeout: Duration,
    /// `[balancer] report_interval_ms`.
    pub report_interval: Duration,
    /// `[balancer] request_timeout_ms`.
    pub request_timeout: Duration,
    /// `[balancer] stall_ms`.
    pub stall: Duration,
    /// `[[node]]`, sorted by id, at least one.
    pub nodes: Vec<Node>,
    /// `[[server]]`, in the order of the file; usually none.
    pub servers: Vec<Server>,
}

/// One `[[server]]`: with a secret, this server may report a worker at another address than its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name, unique.
    pub id: String,
    /// Where its worker is reached.
    pub worker: SocketAddr,
}

/// One `[[node]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// At least 1, unique.
    pub id: NodeId,
    /// The address for clients: primes, status, metrics.
    pub public: SocketAddr,
    /// The address for the other nodes and the daemons.
    pub cluster: SocketAddr,
    /// Whether it is a member since the founding. A node that was added later (`rakit members add`) is not.
    pub founder: bool,
}

/// What is wrong with a configuration and how to mend it, in one line. The program exits with code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    line: String,
}

impl ConfigError {
    /// An error in `path`, in line `number` if it is known, about `key`. `complaint` ends with the mend.
    fn new(path: &Path, number: Option<usize>, key: &str, complaint: impl fmt::Display) -> Self {
        let place = match number {
            Some(number) => format!("{}:{number}", path.display()),
            None => path.display().to_string(),
        };
        let text = if key.is_empty() {
            format!("{place}: {complaint}")
        } else {
            format!("{place}: {key}: {complaint}")
        };
        Self { line: crate::logging::one_line(&text) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file, and the secret it names.
    ///
    /// # Errors
    /// When a file cannot be read or breaks a rule; see [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |error: &dyn fmt::Display| {
            ConfigError::new(
                path,
                None,
                "",
                format!("{error}; give --config a cluster.toml that this user can read"),
            )
        };
        // Checked before the file is opened: opening a named pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(|error| failed(&error))?.is_file() {
            return Err(failed(&"this is no regular file"));
        }
        let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(failed(&format!("longer than {CONFIG_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            failed(&format!("not UTF-8 text at byte {}", error.utf8_error().valid_up_to()))
        })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file that is, or would be, at `path`, and reads the secret that it names.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file = file::File::parse(text, path)?;
        check::check(file, &file::Place { text, path })
    }

    /// The node with this id.
    ///
    /// # Errors
    /// When no node has this id. The error lists the ids that exist.
    pub fn node(&self, id: NodeId) -> Result<&Node, ConfigError> {
        self.nodes.iter().find(|node| node.id == id).ok_or_else(|| {
            let ids: Vec<String> = self.nodes.iter().map(|node| node.id.to_string()).collect();
            let complaint = format!("no node has id {id}; give one of {}, or add the node", ids.join(", "));
            ConfigError::new(&self.path, None, "[[node]] id", complaint)
        })
    }

    /// The founding of the cluster: its name, and the ids of its first members.
    pub fn founding(&self) -> Founding {
        Founding::new(&self.cluster_name, self.nodes.iter().filter(|node| node.founder).map(|node| node.id))
    }

    /// The directory in which this node keeps its state: `data_dir/node-ID`.
    pub fn node_dir(&self, id: NodeId) -> PathBuf {
        self.data_dir.join(format!("node-{id}"))
    }

    /// Checks that a cluster which other machines can reach has a secret. Without one, anybody who can
    /// connect to a cluster address can vote, report, and take the cluster over.
    ///
    /// Any address off loopback counts, public or cluster, of any node. The wildcard address is not loopback.
    ///
    /// With `insecure` (the flag `--insecure`), returns a warning to log in place of an error.
    ///
    /// # Errors
    /// When an address is off loopback, there is no secret, and `insecure` is not set.
    pub fn check_exposure(&self, insecure: bool) -> Result<Option<String>, ConfigError> {
        if self.secret.is_some() {
            return Ok(None);
        }
        let exposed = self.nodes.iter().find_map(|node| {
            [("public", node.public), ("cluster", node.cluster)]
                .into_iter()
                .find(|(_, address)| !is_loopback(address.ip()))
                .map(|(key, address)| (node.id, key, address))
        });
        let Some((id, key, address)) = exposed else { return Ok(None) };
        if insecure {
            return Ok(Some(format!(
                "--insecure: node {id} has the {key} address {address} and there is no secret: anybody who reaches a \
                 cluster address can take this cluster over"
            )));
        }
        Err(ConfigError::new(
            &self.path,
            None,
            "cluster.secret_file",
            format!(
                "missing, but the {key} address {address} of node {id} is not on loopback; give all machines the same \
                 secret file (`head -c 32 /dev/urandom | base64 > cluster.key; chmod 600 cluster.key`), or pass \
                 --insecure on a network where everybody is trusted"
            ),
        ))
    }

    /// What is allowed but probably a mistake, one line each. A program logs these lines at its start. `voters` is how
    /// many members vote, if that is known; else the founders count.
    pub fn warnings(&self, voters: Option<usize>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.server_timeout < self.report_interval * 2 {
            warnings.push(format!(
                "balancer.server_timeout_ms ({}) is less than twice report_interval_ms ({}): one late report makes a \
                 living server dead",
                self.server_timeout.as_millis(),
                self.report_interval.as_millis()
            ));
        }
        if self.nodes.len() > 1 {
            for node in self.nodes.iter().filter(|node| node.cluster.ip().is_unspecified()) {
                warnings.push(format!(
                    "the cluster address {} of node {} is a wildcard: other machines connect to themselves there",
                    node.cluster, node.id
                ));
            }
        }
        let voters = voters.unwrap_or_else(|| self.nodes.iter().filter(|node| node.founder).count());
        if voters > 0 && voters.is_multiple_of(2) {
            warnings.push(format!(
                "{voters} nodes survive no more losses than {} would: take an odd number",
                voters - 1
            ));
        }
        warnings
    }
}

/// The secret stays out of logs and test output.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("cluster_name", &self.cluster_name)
            .field("secret", &self.secret.as_ref().map(|_| "(not shown)"))
            .field("heartbeat", &self.heartbeat)
            .field("election_timeout", &self.election_timeout)
            .field("data_dir", &self.data_dir)
            .field("snapshot_entries", &self.snapshot_entries)
            .field("policy", &self.policy)
            .field("server_timeout", &self.server_timeout)
            .field("report_interval", &self.report_interval)
            .field("request_timeout", &self.request_timeout)
            .field("stall", &self.stall)
            .field("nodes", &self.nodes)
            .field("servers", &self.servers)
            .finish()
    }
}

/// Whether only this machine can reach the address. `::ffff:127.0.0.1` is 127.0.0.1, written as an IPv6
/// address.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
