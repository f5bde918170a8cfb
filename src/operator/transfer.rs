//! `rakit transfer`: asks the leader to hand leadership over (thesis 3.10), to a chosen node or to the node
//! whose log is furthest along. Use it before a planned stop of the leader's machine: nobody waits for an
//! election timeout, and no report is lost.
//!
//! It needs cluster.toml: the request goes to the leader's cluster address, and is signed if there is a
//! secret.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rakit::config::{Config, Node};
use rakit::http::client::{Client, ClientTimeouts};
use rakit::program::{EXIT_OK, LogFlags};
use rakit::protocol::{OPERATOR, Purpose, TransferRequest, node_name, path, to_json};
use rakit::raft::{NodeId, Term};
use rakit::signing::{Recipient, Seal, Secret};

use super::asking::{Poller, ask_all};
use super::comparison::Asked;
use super::layout::DIRECTORY_DEFAULT;
use super::screen::say;
use super::{Failure, load_config};

/// How long each phase of the request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The leader gives up a transfer after an election timeout. This program waits that long and this much
/// longer.
const GRACE: Duration = Duration::from_secs(5);

/// How often each node is asked who leads.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest answer that is read, in bytes. The answer is one line.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Flags of `rakit transfer`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 if the chosen node leads now; 1 if not; 2 on bad usage or configuration."
)]
pub struct TransferFlags {
    /// The node that is to lead [default: the one whose log is furthest along]
    #[arg(long, value_name = "ID")]
    to: Option<NodeId>,

    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(DIRECTORY_DEFAULT).join("cluster.toml"))]
    config: PathBuf,
}

/// Runs `rakit transfer`.
///
/// # Errors
/// There is no leader, the leader refuses, or no other node became leader in time.
pub fn run(flags: &TransferFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let config = load_config(&flags.config)?;
    if let Some(to) = flags.to {
        config.node(to).map_err(|error| Failure::usage(error.to_string()))?;
    }
    let public: Vec<SocketAddr> = config.nodes.iter().map(|node| node.public).collect();
    let (before, term) = leader(&config, &ask_all(&public)).ok_or_else(|| {
        Failure::other("no node that answers knows a leader; see `rakit status`".to_string())
    })?;
    if flags.to == Some(before.id) {
        say(&format!("node {} leads already", before.id));
        return Ok(ExitCode::from(EXIT_OK));
    }
    order(&config, before, flags.to)?;
    let (sender, answers) = bounded(public.len());
    let deliver = move |_, answer| sender.send(answer).is_ok();
    let _poller = Poller::start(&public, ASK_INTERVAL, deliver)
        .map_err(|error| Failure::other(format!("can't start a thread: {error}")))?;
    let patience = config.election_timeout.1 + GRACE;
    let deadline = Instant::now() + patience;
    while let Ok(answer) = answers.recv_deadline(deadline) {
        // A node that lags may still name an earlier leader. Only a newer term counts.
        let after = leader(&config, &[answer]).filter(|(_, newer)| *newer > term);
        let Some((after, _)) = after.filter(|(after, _)| after.id != before.id) else { continue };
        if flags.to.is_some_and(|to| to != after.id) {
            return Err(Failure::other(format!(
                "node {} leads now, not the chosen one; try again",
                after.id
            )));
        }
        say(&format!("node {} has handed over to node {}", before.id, after.id));
        return Ok(ExitCode::from(EXIT_OK));
    }
    Err(Failure::other(format!(
        "node {} still leads after {} ms; its log says why (grep 'transfer:')",
        before.id,
        patience.as_millis()
    )))
}

/// The newest term among the answers of the nodes, and its leader.
fn leader<'a>(config: &'a Config, answers: &[Asked]) -> Option<(&'a Node, Term)> {
    let believed = answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    let newest = believed.filter(|status| status.leader.is_some()).max_by_key(|status| status.term)?;
    let node = config.nodes.iter().find(|node| Some(node.id) == newest.leader)?;
    Some((node, newest.term))
}

fn order(config: &Config, leader: &Node, to: Option<NodeId>) -> Result<(), Failure> {
    let secret = config.secret.as_deref().map(Secret::parse).transpose();
    let secret = secret
        .and_then(|secret| secret.map(Secret::whole).transpose())
        .map_err(|error| Failure::usage(format!("{}: secret_file: {error}", config.path.display())))?;
    let mut seal = Seal::new(&config.cluster_name, OPERATOR, secret.as_ref())
        .map_err(|error| Failure::other(format!("no randomness for signing: {error}")))?
        .founded(&config.founding());
    let body = to_json(&TransferRequest { to });
    let mut client = Client::new(ClientTimeouts {
        connect: REQUEST_TIMEOUT,
        send: REQUEST_TIMEOUT,
        receive: REQUEST_TIMEOUT,
    });
    let to = Recipient { name: node_name(leader.id), address: leader.cluster };
    let answer = seal
        .post(&mut client, &to, Purpose::Admin, path::TRANSFER, &body, ANSWER_BYTES_MAX)
        .map_err(|error| Failure::other(error.to_string()))?;
    if answer.status == 202 {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.body);
    Err(Failure::other(format!("node {} refused with {}: {}", leader.id, answer.status, said.trim())))
}
