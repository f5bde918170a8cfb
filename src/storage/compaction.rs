//! A compaction that has begun: what is left to do, one fsync or two at a time, so that the Raft loop answers and sends
//! heartbeats in between. `store` carries the steps out.
//!
//! Nothing is lost while it lasts, and nobody waits for it: the old log holds everything. Records that are appended
//! meanwhile go to the old log, and are kept here, too, for the new one.

use std::sync::Arc;

use super::fold::{Disorder, State};
use crate::raft::{Entry, HardState, Record, Snapshot};

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the snapshot to a new file and make its contents durable.
    WriteSnapshot,
    /// Give the new file its name, and make that durable.
    NameSnapshot,
    /// Replace the log by one that continues after the snapshot, and remove older snapshots.
    ReplaceLog,
}

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compaction {
    pub snapshot: Arc<Snapshot>,
    /// What the new log will hold.
    pub log: State,
    pub step: Step,
}

impl Compaction {
    /// One that has done nothing yet.
    ///
    /// # Errors
    /// When the entries may not follow the snapshot.
    pub(super) fn begin(
        snapshot: Arc<Snapshot>,
        hard_state: HardState,
        retained: Vec<Entry>,
    ) -> Result<Self, Disorder> {
        let mut log = State::new((snapshot.last_index, snapshot.last_term));
        log.apply(Record::HardState(hard_state))?;
        retained.into_iter().try_for_each(|entry| log.apply(Record::Entry(entry)))?;
        Ok(Self { snapshot, log, step: Step::WriteSnapshot })
    }
}
