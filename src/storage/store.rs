//! The door to the disk: open it, append to it, compact it. Called by the Raft loop of a node, and by nobody else.
//!
//! The order of the steps in this file is what the whole room is for. Each step says what a crash before it and after it
//! leaves behind; `tests/storage/crash.rs` crashes at every one of them.

use std::io;

use serde::Serialize;

use super::disk::Disk;
use super::fold::{Disorder, Shape};
use super::line::{self, Header, HeaderLine, SnapshotLine};
use super::recovery::{
    Reconciled, Recovered, Repair, Tail, read_log, read_snapshot, reconcile, snapshot_index, snapshot_name,
};
use super::whole_file::{self, UNFINISHED};
use super::{Identity, LOG, SUSPECT, StorageError};
use crate::raft::{Durable, Entry, HardState, PROTOCOL_VERSION, Record, Snapshot};

/// The buffer for lines is given back to the system when it grew beyond this, in bytes. A batch of reports is a few
/// tens of KiB; only a snapshot is larger.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A new log is written in pieces of about this size, in bytes, so that memory does not have to hold it twice.
const PIECE_BYTES: usize = 1 << 18;

/// The durable memory of one node.
///
/// After any error it is *poisoned*: each later call fails, without touching the disk. What a failed write or fsync
/// left behind is unknown, and a second fsync that "succeeds" says nothing about the first one's data (Linux
/// marks the pages clean after the failure). A node whose storage is poisoned must neither vote nor acknowledge again,
/// and stops.
#[derive(Debug)]
pub struct Storage<D: Disk> {
    disk: D,
    identity: Identity,
    incarnation: u64,
    /// The outline of what is in the log, to judge the next record before it is written.
    shape: Shape,
    /// The lines of one append. Reused, so that an append allocates nothing.
    buffer: Vec<u8>,
    poisoned: Option<String>,
}

/// What an opening found in the directory, and has to mend.
struct Found<'a, Older> {
    names: &'a [String],
    /// The snapshots that the newest one replaces.
    older: Older,
    /// How the log ends; `None` if there is no log yet.
    tail: Option<Tail>,
    stale_log: bool,
    /// A write or an fsync failed here: see [`Storage::finish`].
    suspect: bool,
}

impl<D: Disk> Storage<D> {
    /// Opens a node's directory: reads it, judges it, mends what a crash left, and makes what it says durable.
    ///
    /// `fresh_incarnation` is a random number from the caller; it is used only if the directory is empty.
    ///
    /// # Errors
    /// Everything in [`StorageError`]: the system's errors, a damaged directory, one of another node, cluster or version.
    /// A directory that is refused is left as it was found.
    pub fn open(
        disk: D,
        identity: &Identity,
        fresh_incarnation: u64,
    ) -> Result<(Self, Recovered), StorageError> {
        let names = disk.list().map_err(|source| StorageError::Io {
            operation: "list",
            path: disk.place(""),
            source,
        })?;
        let mut snapshots: Vec<_> =
            names.iter().filter_map(|name| Some((snapshot_index(name)?, name))).collect();
        snapshots.sort_unstable();
        let newest = snapshots.pop();

        // First read and judge, without changing anything.
        let mut fresh = false;
        let (header, log, tail) = if names.iter().any(|name| name == LOG) {
            let read = read_log(&disk, identity)?;
            (Some(read.header), read.state, read.tail)
        } else if let Some((_, snapshot)) = newest {
            // The log is made before the first snapshot and is never without its name since.
            let what = format!("it is missing, although {snapshot} lies there");
            return Err(StorageError::Corrupt { file: disk.place(LOG), offset: 0, what });
        } else {
            fresh = true;
            (None, super::State::new((0, 0)), Tail::Clean { length: 0 })
        };
        // The newest one counts. If it is damaged, an older one would be a step back in time: refused.
        let snapshot = newest.map(|(index, name)| read_snapshot(&disk, identity, name, index)).transpose()?;
        let Reconciled { state, stale_log } = reconcile(&disk, log, snapshot.as_ref())?;
        let (shape, entries) = state.into_parts();

        let mut storage = Self {
            disk,
            identity: identity.clone(),
            incarnation: header.map_or(fresh_incarnation, |header| header.incarnation),
            shape,
            buffer: Vec::new(),
            poisoned: None,
        };

        // Then mend, and with the same care for errors as in each later call.
        let (older, suspect) =
            (snapshots.iter().map(|(_, name)| name.as_str()), names.iter().any(|name| name == SUSPECT));
        let found = Found { names: &names, older, tail: (!fresh).then_some(tail), stale_log, suspect };
        let result = storage.mend(found, snapshot.as_ref(), &entries);
        let repaired = storage.finish(result)?;
        let recovered = Recovered {
            hard_state: storage.shape.hard_state(),
            snapshot,
            entries,
            incarnation: storage.incarnation,
            repaired,
            fresh,
        };
        Ok((storage, recovered))
    }

    /// Removes what a crash left unfinished and finishes what it interrupted. Each step may be cut short by another crash,
    /// and is then done again by the next opening.
    fn mend<'a>(
        &mut self,
        found: Found<'a, impl Iterator<Item = &'a str>>,
        snapshot: Option<&Snapshot>,
        entries: &[Entry],
    ) -> Result<Option<Repair>, StorageError> {
        for name in found.names.iter().filter(|name| is_unfinished(name)) {
            self.disk.remove(name).map_err(|error| self.io("remove", name, error))?;
        }
        let fresh = found.tail.is_none();
        let repaired = found.tail.map(|tail| self.settle(tail)).transpose()?.flatten();
        if found.suspect
            && let Some(snapshot) = snapshot
        {
            self.write_snapshot(snapshot)?;
        }
        if fresh || found.stale_log || found.suspect {
            self.write_log(entries)?;
        }
        if found.suspect {
            self.disk.remove(SUSPECT).map_err(|error| self.io("remove", SUSPECT, error))?;
        }
        // Last: until the log was replaced, an opening that found the newest one gone would need them.
        for name in found.older {
            self.disk.remove(name).map_err(|error| self.io("remove", name, error))?;
        }
        Ok(repaired)
    }

    /// Cuts or completes the last record, and makes durable what was read.
    ///
    /// The last part matters even if nothing is mended. What was read may be in the kernel's page cache only: written by
    /// a process that was killed before its fsync. The node is about to act on it (a leader counts its own log as
    /// durable), so it has to be on the disk first.
    fn settle(&mut self, tail: Tail) -> Result<Option<Repair>, StorageError> {
        let file = self.disk.place(LOG);
        let repair = |offset, bytes_cut| Repair { file, offset, bytes_cut };
        let (keep, cut, add_newline) = match tail {
            Tail::Clean { length } => (length, 0, false),
            Tail::Torn { keep, cut } => (keep, cut, false),
            Tail::Unended { keep, cut } => (keep, cut, true),
        };
        if cut > 0 {
            self.disk.truncate(LOG, keep).map_err(|error| self.io("truncate", LOG, error))?;
        }
        if add_newline {
            self.disk.append(LOG, b"\n").map_err(|error| self.io("append to", LOG, error))?;
        }
        self.sync(LOG)?;
        self.sync_directory()?;
        Ok(match tail {
            Tail::Clean { .. } => None,
            Tail::Torn { .. } => Some(repair(keep, cut)),
            // The zeros behind a whole record were never a part of anything: the record is what matters.
            Tail::Unended { .. } => Some(repair(keep, 0)),
        })
    }

    /// Makes the records durable: one write and one fdatasync for all of them. After `Ok`, and only then, what depends on
    /// them may be said. Without records, nothing is done.
    ///
    /// If the node crashes inside, any number of the records, from the first one on, may have become durable. So in a
    /// batch, too, the order is the promise: the term before an entry of that term, a truncation before what replaces it.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the disk fails, [`StorageError::Refused`] if a record may not follow what is there (a bug
    /// of the caller; nothing is written), and [`StorageError::Poisoned`] ever after.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.check_poison()?;
        if records.is_empty() {
            return Ok(());
        }
        let result = self.try_append(records);
        self.finish(result)
    }

    /// Makes everything durable that one output of the core asks for, in its order. Records in a row share one sync.
    ///
    /// # Errors
    /// Those of [`append`](Self::append) and [`compact`](Self::compact).
    pub fn make_durable(&mut self, steps: Vec<Durable>) -> Result<(), StorageError> {
        let mut records = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Durable::Record(record) => records.push(record),
                Durable::Compact { snapshot, hard_state, retained } => {
                    self.append(&std::mem::take(&mut records))?;
                    self.compact(&snapshot, hard_state, &retained)?;
                }
            }
        }
        self.append(&records)
    }

    fn try_append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.buffer.clear();
        for record in records {
            // Asserted here, before the write, and again when it is read. The shape runs ahead of the disk only until the
            // end of this function: every way out of it but the last one poisons.
            self.shape.apply(record).map_err(StorageError::Refused)?;
            write_line(&mut self.buffer, record)?;
        }
        self.disk.append(LOG, &self.buffer).map_err(|error| self.io("append to", LOG, error))?;
        self.sync(LOG)?;
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Replaces the log up to `snapshot.last_index` by the snapshot; `retained` are the entries after it, possibly none.
    /// For a node's own compaction and for a snapshot that a leader sent.
    ///
    /// Every record of earlier steps has been appended before. The steps, each of which leaves a directory from which
    /// everything is recovered:
    ///
    /// 1. the term and vote, if they changed, are appended to the old log: the snapshot must not be of a later term;
    /// 2. the snapshot is written beside, made durable, renamed, and its name made durable;
    /// 3. only then a new log, which continues after the snapshot, takes the old one's place in the same way;
    /// 4. only then older snapshots are removed.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the disk fails; [`StorageError::Refused`] if the snapshot is older than the one there, the
    /// entries do not follow it, or entries would be lost that connect to it (bugs of the caller; nothing is written);
    /// [`StorageError::Poisoned`] ever after.
    pub fn compact(
        &mut self,
        snapshot: &Snapshot,
        hard_state: HardState,
        retained: &[Entry],
    ) -> Result<(), StorageError> {
        self.check_poison()?;
        let result = self.try_compact(snapshot, hard_state, retained);
        self.finish(result)
    }

    fn try_compact(
        &mut self,
        snapshot: &Snapshot,
        hard_state: HardState,
        retained: &[Entry],
    ) -> Result<(), StorageError> {
        let shape = self.shape_after(snapshot, hard_state, retained).map_err(StorageError::Refused)?;
        if hard_state != self.shape.hard_state() {
            self.try_append(&[Record::HardState(hard_state)])?;
        }
        self.write_snapshot(snapshot)?;
        self.shape = shape;
        self.write_log(retained)?;
        // A removal needs no fsync of the directory: if a crash undoes it, the next opening removes the file again.
        let names = self.disk.list().map_err(|error| self.io("list", "", error))?;
        for name in names {
            if snapshot_index(&name).is_some_and(|index| index < snapshot.last_index) {
                self.disk.remove(&name).map_err(|error| self.io("remove", &name, error))?;
            }
        }
        Ok(())
    }

    /// The outline of the log after a compaction, if that compaction forgets nothing.
    fn shape_after(
        &self,
        snapshot: &Snapshot,
        hard_state: HardState,
        retained: &[Entry],
    ) -> Result<Shape, Disorder> {
        let Snapshot { last_index, last_term, .. } = *snapshot;
        let (after_index, after_term) = self.shape.after();
        if last_index == 0 || last_term == 0 || last_index < after_index || last_term < after_term {
            return Err(Disorder(format!(
                "a snapshot up to entry {last_index} of term {last_term} after one up to entry {after_index} of term \
                 {after_term}"
            )));
        }
        if last_index == after_index && last_term != after_term {
            return Err(Disorder(format!(
                "two snapshots up to entry {last_index}, of terms {after_term} and {last_term}"
            )));
        }
        // The same rules as for a record that is appended.
        self.shape.clone().apply(&Record::HardState(hard_state))?;
        if last_term > hard_state.term {
            return Err(Disorder(format!(
                "a snapshot up to an entry of term {last_term}, while the node is in term {}",
                hard_state.term
            )));
        }
        let mut shape = Shape::new((last_index, last_term));
        shape.apply(&Record::HardState(hard_state))?;
        for entry in retained {
            shape.apply_entry(entry)?;
        }
        // If the log holds the snapshot's last entry, all that follows it may have been acknowledged (Figure 13, step 6).
        if self.shape.term_at(last_index) == Some(last_term) && shape.last_index() < self.shape.last_index() {
            return Err(Disorder(format!(
                "a compaction that keeps entries up to {} and loses those up to {}",
                shape.last_index(),
                self.shape.last_index()
            )));
        }
        Ok(shape)
    }

    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let name = snapshot_name(snapshot.last_index);
        let line = SnapshotLine { version: PROTOCOL_VERSION, cluster: &self.identity.cluster, snapshot };
        self.buffer.clear();
        write_line(&mut self.buffer, &line)?;
        let unfinished = self.begin(&name)?;
        self.write_piece(&unfinished)?;
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.complete(&unfinished, &name)
    }

    /// Writes a log with the current header, term and vote and these entries, in place of the one that is there.
    fn write_log(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (after_index, after_term) = self.shape.after();
        let header = Header {
            version: PROTOCOL_VERSION,
            cluster: self.identity.cluster.clone(),
            node: self.identity.node,
            incarnation: self.incarnation,
            after_index,
            after_term,
        };
        let unfinished = self.begin(LOG)?;
        self.buffer.clear();
        write_line(&mut self.buffer, &HeaderLine { header })?;
        let hard_state = self.shape.hard_state();
        if hard_state != HardState::default() {
            write_line(&mut self.buffer, &Record::HardState(hard_state))?;
        }
        for entry in entries {
            if self.buffer.len() >= PIECE_BYTES {
                self.write_piece(&unfinished)?;
            }
            write_line(&mut self.buffer, &Record::Entry(entry.clone()))?;
        }
        self.write_piece(&unfinished)?;
        self.complete(&unfinished, LOG)
    }

    fn write_piece(&mut self, name: &str) -> Result<(), StorageError> {
        self.disk.append(name, &self.buffer).map_err(|error| self.io("append to", name, error))?;
        self.buffer.clear();
        Ok(())
    }

    fn begin(&mut self, name: &str) -> Result<String, StorageError> {
        whole_file::begin(&mut self.disk, name).map_err(|failed| failed.on(&self.disk))
    }

    fn complete(&mut self, unfinished: &str, name: &str) -> Result<(), StorageError> {
        whole_file::complete(&mut self.disk, unfinished, name).map_err(|failed| failed.on(&self.disk))
    }

    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        self.disk.sync(name).map_err(|error| self.io("sync", name, error))
    }

    fn sync_directory(&mut self) -> Result<(), StorageError> {
        self.disk.sync_directory().map_err(|error| self.io("sync the directory", "", error))
    }

    fn io(&self, operation: &'static str, name: &str, source: io::Error) -> StorageError {
        StorageError::Io { operation, path: self.disk.place(name), source }
    }

    fn check_poison(&self) -> Result<(), StorageError> {
        match &self.poisoned {
            None => Ok(()),
            Some(first) => Err(StorageError::Poisoned { first: first.clone() }),
        }
    }

    /// Poisons the storage if `result` is an error.
    ///
    /// After a failed fsync, the page cache shows data that the disk does not hold, and calls them clean: the next process
    /// would read them, sync them (in vain) and rely on them. So it is left a sign, the empty file `suspect`, and then
    /// writes all files anew, from the first byte. The sign need not be durable: a power cut that takes it takes the page
    /// cache, too, and what is read then is what the disk holds.
    fn finish<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
            if matches!(error, StorageError::Io { .. }) {
                // If it fails, too, there is nothing better to do, and the first error is the one to tell.
                let _ = self.disk.create(SUSPECT);
            }
        }
        result
    }

    /// The outline of what is durable: term and vote, first and last index, terms.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The random number of the day on which this directory was made.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The disk, for the simulator, which holds its size to a bound.
    pub fn disk(&self) -> &D {
        &self.disk
    }
}

/// Whether a crash left this file on its way to its name. Only names of ours: a foreign file is never removed.
fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(|name| name == LOG || snapshot_index(name).is_some())
}

fn write_line<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<(), StorageError> {
    line::write(buffer, value).map_err(|error| StorageError::Refused(Disorder(error.to_string())))
}
