//! One node of the load balancer: its command line, its beginning and its end.
//!
//! | file | holds |
//! | --- | --- |
//! | `address_wait.rs` | the wait for the machine's address, at boot |
//! | `wiring.rs` | makes the threads and channels |
//! | `shared.rs` | what the threads share |
//! | `recovery.rs` | what the disk remembers |
//! | `running.rs`, `ending.rs` | how a node stops, and why it may have to |
//! | `request_counts.rs`, `consensus_counts.rs`, `durations.rs`, `process_figures.rs` | what is counted and measured for `metrics.rs` |
//! | `connection_limits.rs` | how many connections the listeners take |
//! | `inbox.rs`, `slot.rs` | how one thread hands something to another |
//! | `roster.rs`, `standing.rs`, `recent.rs`, `refusals.rs`, `rivals.rs` | what some threads write and others read |
//! | `relays.rs`, `node_addresses.rs`, `cuts.rs` | reports handed on to the leader; the nodes' addresses; cut cables |
//!
//! The other files are named in the table of threads at the head of `wiring.rs`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use log::{error, info, warn};

use crate::config::{Config, follow_secret};
use crate::program::{self, EXIT_OK, LogFlags, ParentFlags, ServiceManager};
use crate::raft::NodeId;
use crate::signing::Secret;

mod address_wait;
mod cluster_service;
mod connection_limits;
mod consensus_counts;
mod cuts;
mod durations;
mod ending;
mod exchange;
mod forwarding;
mod inbox;
mod leader_watch;
mod live;
mod metrics;
mod node_addresses;
pub mod page;
mod peers;
mod primes;
mod process_figures;
mod public_service;
mod raft_loop;
mod recent;
mod recovery;
mod refusals;
mod relays;
mod request_counts;
mod rivals;
mod roster;
mod running;
mod shared;
mod slot;
mod standing;
mod status;
mod wiring;

use cuts::Cuts;
use ending::Ending;

/// The program's name in messages.
const PROGRAM: &str = "rakit-node";

/// One node of the Rakit load balancer.
///
/// It serves primes, status and metrics on its public address, and talks to the other nodes and to the daemons on its
/// cluster address, both from cluster.toml.
#[derive(clap::Parser, Debug)]
#[command(name = PROGRAM, version, max_term_width = 100)]
struct NodeFlags {
    /// The cluster's configuration, the same file on every machine
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Which [[node]] of it this is
    #[arg(long, value_name = "ID")]
    id: NodeId,

    /// Run without a secret although an address is not on loopback: anybody who reaches it can take the cluster over
    #[arg(long)]
    insecure: bool,

    /// Take orders to cut cables (docs/page.md), and begin with these: nothing arrives from these nodes
    #[arg(long, value_name = "IDS", hide = true, value_delimiter = ',', num_args = 0..=1)]
    deaf_to: Option<Vec<NodeId>>,

    /// If the data directory is damaged, move it aside (nothing is deleted) and begin with an empty one: the node
    /// counts again when a leader has filled it
    #[arg(long)]
    repair: bool,

    #[command(flatten)]
    log: LogFlags,

    #[command(flatten)]
    parent: ParentFlags,
}

/// The command line of `rakit-node`, for manual pages and completions.
pub fn command() -> clap::Command {
    <NodeFlags as clap::CommandFactory>::command()
}

/// Runs the program `rakit-node` with these arguments (the first is the program's name) until it is stopped.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags: NodeFlags = match program::parse(arguments) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let prepared = Config::load(&flags.config).and_then(|config| {
        let warning = config.check_exposure(flags.insecure)?;
        let node = config.node(flags.id)?.clone();
        Ok((config, node, warning))
    });
    let (config, node, exposure) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return program::refuse(PROGRAM, &error),
    };
    let cuts = match Cuts::new(flags.deaf_to.as_deref(), [node.public, node.cluster]) {
        Ok(cuts) => cuts,
        Err(reason) => return program::refuse(PROGRAM, &reason),
    };
    let secret = config.secret.as_deref().map(Secret::parse).transpose();
    let secret = match secret.and_then(|secret| secret.map(Secret::whole).transpose()) {
        Ok(secret) => secret,
        Err(error) => {
            return program::refuse(PROGRAM, &format!("{}: secret_file: {error}", flags.config.display()));
        }
    };
    let stop = match program::start(PROGRAM, &flags.log, flags.parent) {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    info!(
        "start: rakit-node {} as node {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        node.id,
        config.cluster_name
    );
    for warning in config.warnings(None).into_iter().chain(exposure) {
        warn!("configuration: {warning}");
    }
    if !address_wait::wait_for_addresses(&node, stop.receiver()) {
        info!("stop: node {} has stopped before its addresses were on this machine", node.id);
        return ExitCode::from(EXIT_OK);
    }
    let manager = ServiceManager::from_environment();
    let ended = wiring::start(&config, &node, secret.as_ref(), flags.repair, cuts).and_then(|running| {
        manager.ready(&format!("node {} serves clients at {}", node.id, running.public.local_addr()));
        follow_secret(&config, stop.hangups(), running.shared.secret_taker())
            .map_err(|error| Ending::Failed(format!("no thread to read the secret again: {error}")))?;
        running.run_until_stopped(&stop, &manager)
    });
    match ended {
        Ok(()) => {
            info!("stop: node {} has stopped cleanly", node.id);
            ExitCode::from(EXIT_OK)
        }
        Err(Ending::Misconfigured(reason)) => {
            error!("stop: {reason}");
            program::refuse(PROGRAM, &reason)
        }
        Err(Ending::Failed(reason)) => {
            error!("stop: {reason}");
            program::fail(PROGRAM, &reason)
        }
    }
}
