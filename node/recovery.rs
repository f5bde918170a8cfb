//! What the disk remembers: a node that starts makes its replica of it. Called by `wiring.rs`.

use std::time::Instant;

use log::{info, warn};

use super::ending::Ending;
use super::raft_loop::NodeReplica;
use super::roster::founders;
use crate::balancer::SERVERS_MAX;
use crate::config::Config;
use crate::linux::{BootClock, random_u64};
use crate::raft::{self, NodeId};
use crate::replica::{Replica, ReplicaSettings};
use crate::storage::{DirectoryDisk, Fresh, Identity, Storage, set_aside};

/// A node as its process begins.
pub struct RecoveredNode {
    /// Its decisions, with the recovered state in them.
    pub replica: NodeReplica,
    /// Its directory, open and locked.
    pub storage: Storage<DirectoryDisk>,
    /// The random number that was drawn when the directory was made: by it, peers notice that it was replaced.
    pub incarnation: u64,
}

/// Opens the node's directory and makes a replica of what is in it. The replica's clock counts from `started`. With
/// `repair`, a directory that is damaged is set aside, and the node begins with an empty one.
///
/// # Errors
/// The directory is in use, damaged, another node's, or the disk fails.
pub fn recover(
    config: &Config,
    id: NodeId,
    repair: bool,
    started: Instant,
    boot_clock: &BootClock,
) -> Result<RecoveredNode, Ending> {
    let directory = config.node_dir(id);
    let founding = config.founding();
    let identity = Identity { founding: founding.clone(), node: id };
    let fresh = Fresh { incarnation: random_u64()?, records: founding.records() };
    let open = || Storage::open(DirectoryDisk::open(&directory)?, &identity, fresh.clone());
    let (storage, recovered) = match open() {
        Err(damage) if repair && damage.is_damage() => {
            let aside = set_aside(&directory)?;
            warn!(
                "recovery: node {id} sets its damaged directory aside as {}, and deletes nothing: {damage}",
                aside.display()
            );
            open()?
        }
        opened => opened?,
    };
    if let Some(repair) = &recovered.repaired {
        warn!("recovery: {repair}");
    }
    let snapshot_index = recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_index);
    let last_index = recovered.entries.last().map_or(snapshot_index, |entry| entry.index);
    let hard_state = recovered.hard_state;
    info!(
        "recovery: node {id} finds {} in {}: term {}, vote for {}, snapshot up to index {snapshot_index}, log up to \
         index {last_index}, incarnation {:016x}",
        if recovered.fresh { "nothing, and starts fresh," } else { "its state" },
        directory.display(),
        hard_state.term,
        hard_state.voted_for.map_or("nobody".to_owned(), |node| format!("node {node}")),
        recovered.incarnation,
    );
    let mut raft =
        raft::Settings::new(id, founding.members, config.election_timeout, config.heartbeat, random_u64()?);
    raft.founding = founders(&config.nodes);
    (raft.incarnation, raft.founders) = (recovered.incarnation, recovered.founders);
    raft.trailing_entries = raft.trailing_entries.min(config.snapshot_entries);
    let settings = ReplicaSettings {
        raft,
        server_timeout: config.server_timeout,
        snapshot_entries: config.snapshot_entries,
        servers_max: SERVERS_MAX,
    };
    let (snapshot, entries) = (recovered.snapshot, recovered.entries);
    let mut replica: NodeReplica = Replica::new(settings, hard_state, snapshot, entries, started.elapsed()).map_err(|reason| {
        format!(
            "{}: the snapshot up to index {snapshot_index} holds no server table: {reason}; mend: see docs/storage.md, \
             \"A node without memory\"",
            directory.display()
        )
    })?;
    if let Some(hint) = recovered.commit {
        let age = boot_clock.age_of(&hint.fresh_at);
        info!(
            "recovery: node {id} serves the state as of index {}, which it knows to be committed; that was {} ms ago",
            hint.index,
            age.as_millis()
        );
        replica.recall_commit(hint.index, age.saturating_sub(started.elapsed()));
    }
    Ok(RecoveredNode { replica, storage, incarnation: recovered.incarnation })
}
