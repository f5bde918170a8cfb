//! The disk of one node, as far as Raft can see it: the fold of the records that were made durable.
//!
//! It does not model files (`tests/simulation/disk.rs` does), only their promise: after a crash, everything that was
//! synced is there, and of the rest the first records up to some point.

use std::sync::Arc;

use rakit::raft::{Durable, Entry, Founders, Founding, HardState, Index, Record, Snapshot, Term};

/// The durable state that a node finds when its process starts.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Term and vote.
    pub hard_state: HardState,
    /// With whom the node founded the cluster.
    pub founders: Founders,
    /// The newest snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The entries after it.
    pub entries: Vec<Entry>,
}

impl Disk {
    /// As a directory begins.
    pub fn fresh(founding: &Founding) -> Self {
        let mut disk = Self::default();
        founding.records().into_iter().for_each(|record| disk.write(&Durable::Record(record)));
        disk
    }

    /// One more record. The checks are those that `storage` makes of a log that it reads.
    pub fn write(&mut self, durable: &Durable) {
        match durable {
            Durable::Record(Record::HardState(hard_state)) => {
                assert!(hard_state.term >= self.hard_state.term, "the durable term went back");
                if hard_state.term == self.hard_state.term && self.hard_state.voted_for.is_some() {
                    assert_eq!(hard_state.voted_for, self.hard_state.voted_for, "the durable vote changed");
                }
                assert!(
                    !hard_state.joining || self.hard_state.joining || self.last_index() == 0,
                    "who counts joins again"
                );
                self.hard_state = *hard_state;
            }
            Durable::Record(Record::Truncate { from }) => {
                assert!(*from > self.snapshot_index(), "a truncation into the snapshot");
                assert!(*from <= self.last_index(), "a truncation of nothing");
                self.entries.retain(|entry| entry.index < *from);
            }
            Durable::Record(Record::Entry(entry)) => {
                assert_eq!(entry.index, self.last_index() + 1, "a gap in the durable log");
                self.entries.push(entry.clone());
            }
            Durable::Record(Record::Founders(founders)) => self.founders.clone_from(founders),
            Durable::Compact { snapshot, hard_state, retained } => {
                assert!(snapshot.last_index > self.snapshot_index(), "a snapshot older than the last one");
                assert_eq!(*hard_state, self.hard_state, "a compaction changes neither term nor vote");
                for (entry, index) in retained.iter().zip(snapshot.last_index + 1..) {
                    assert_eq!(entry.index, index, "a gap after the snapshot");
                }
                self.snapshot = Some(Arc::clone(snapshot));
                self.entries.clone_from(retained);
            }
        }
    }

    /// The last index that the snapshot replaces; 0 without one.
    pub fn snapshot_index(&self) -> Index {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_index)
    }

    /// The last index that would be there after a crash.
    pub fn last_index(&self) -> Index {
        self.snapshot_index() + self.entries.len() as u64
    }

    /// The term of the durable entry at `index`, if it is there and not inside the snapshot.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        match &self.snapshot {
            Some(snapshot) if snapshot.last_index == index => Some(snapshot.last_term),
            _ if index == 0 => Some(0),
            _ => {
                let position = index.checked_sub(self.snapshot_index() + 1)?;
                self.entries.get(usize::try_from(position).ok()?).map(|entry| entry.term)
            }
        }
    }

    /// Whether the entry (`index`, `term`) would survive a crash. What a snapshot replaces was committed.
    pub fn covers(&self, index: Index, term: Term) -> bool {
        index < self.snapshot_index() || self.term_at(index) == Some(term)
    }
}
