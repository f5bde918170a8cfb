//! How the reports of one batch become proposals: of each server, only the newest report goes into the log.
//!
//! A report replaces the one before it, so an older one of the same batch would be an entry that nobody needs. Whoever sent it is
//! answered together with the newest one. Used by `decisions.rs`.

use std::collections::BTreeMap;

use crate::balancer::Stamp;
use crate::raft::Command;

/// Somebody who waits for the outcome of a report.
#[derive(Debug)]
pub(super) struct Reporter<D> {
    pub(super) caller: D,
    /// Whether another report took the place of this one in the proposal.
    pub(super) superseded: bool,
}

/// What is proposed for one server.
#[derive(Debug)]
pub(super) struct Proposal<D> {
    stamp: Stamp,
    pub(super) command: Command,
    pub(super) reporters: Vec<Reporter<D>>,
}

/// The reports of one batch, by server.
#[derive(Debug)]
pub(super) struct Batch<D> {
    newest: BTreeMap<String, Proposal<D>>,
}

impl<D> Default for Batch<D> {
    fn default() -> Self {
        Self { newest: BTreeMap::new() }
    }
}

impl<D> Batch<D> {
    /// Takes a report in.
    pub(super) fn add(&mut self, server: String, stamp: Stamp, command: Command, caller: D) {
        let Some(proposal) = self.newest.get_mut(&server) else {
            let reporters = vec![Reporter { caller, superseded: false }];
            self.newest.insert(server, Proposal { stamp, command, reporters });
            return;
        };
        let is_newer = stamp > proposal.stamp;
        if is_newer {
            (proposal.stamp, proposal.command) = (stamp, command);
            proposal.reporters.iter_mut().for_each(|reporter| reporter.superseded = true);
        }
        proposal.reporters.push(Reporter { caller, superseded: !is_newer });
    }

    /// The proposals, in the order of the servers' names.
    pub(super) fn into_proposals(self) -> impl Iterator<Item = (String, Proposal<D>)> {
        self.newest.into_iter()
    }
}
