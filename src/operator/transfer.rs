//! `rakit transfer`: asks the leader to hand leadership over (thesis 3.10), to a chosen node or to the node
//! whose log is furthest along. Use it before a planned stop of the leader's machine: nobody waits for an
//! election timeout, and no report is lost.
//!
//! It needs cluster.toml: the request goes to the leader's cluster address, and is signed if there is a
//! secret.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rakit::program::{EXIT_OK, LogFlags};
use rakit::protocol::{TransferRequest, path, to_json};
use rakit::raft::NodeId;

use super::Failure;
use super::asking::Poller;
use super::leader::{ClusterFlag, Leadership, leader, not_carried_out};
use super::members::is_member;
use super::screen::say;

/// The leader gives up a transfer after an election timeout. This program waits that long and this much
/// longer.
const GRACE: Duration = Duration::from_secs(5);

/// How often each node is asked who leads.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Flags of `rakit transfer`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 if the chosen node leads now; 1 if not; 2 on bad usage or configuration."
)]
pub struct TransferFlags {
    /// The node that is to lead [default: the one whose log is furthest along]
    #[arg(long, value_name = "ID")]
    to: Option<NodeId>,

    #[command(flatten)]
    cluster: ClusterFlag,
}

/// Runs `rakit transfer`.
///
/// # Errors
/// There is no leader, the leader refuses, or no other node became leader in time.
pub fn run(flags: &TransferFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let mut leadership = Leadership::new(&flags.cluster)?;
    if let Some(to) = flags.to {
        let named = leadership.config.node(to).map(drop).map_err(|error| Failure::usage(error.to_string()));
        named.or_else(|failure| if is_member(&leadership.config, to) { Ok(()) } else { Err(failure) })?;
    }
    let (before, term) = leadership.find()?;
    if flags.to == Some(before.id) {
        say(&format!("node {} leads already", before.id));
        return Ok(ExitCode::from(EXIT_OK));
    }
    let begun =
        leadership.order_once(&before, path::TRANSFER, &to_json(&TransferRequest { to: flags.to }))?;
    if begun.status != 202 {
        return Err(not_carried_out(&before, &begun));
    }
    let public = leadership.public();
    let (sender, answers) = bounded(public.len());
    let deliver = move |_, answer| sender.send(answer).is_ok();
    let _poller = Poller::start(&public, ASK_INTERVAL, deliver)
        .map_err(|error| Failure::other(format!("can't start a thread: {error}")))?;
    let patience = leadership.config.election_timeout.1 + GRACE;
    let deadline = Instant::now() + patience;
    while let Ok(answer) = answers.recv_deadline(deadline) {
        // A node that lags may still name an earlier leader. Only a newer term counts.
        let after = leader(&[answer]).filter(|(_, newer)| *newer > term);
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
        "no other node leads after {} ms; the log of node {} says why (grep 'transfer:')",
        patience.as_millis(),
        before.id
    )))
}
