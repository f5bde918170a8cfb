//! Opens a node's directory, appends records to it and compacts it. `node/recovery.rs` opens it; from then on only the
//! node's Raft loop calls it.
//!
//! The order of the steps in this file is what makes a crash harmless. The comments say what a crash between
//! two steps leaves; `tests/storage/crash.rs` crashes at every step.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::compaction::{Compaction, Step};
use super::disk::Disk;
use super::fold::{Disorder, Shape, fold};
use super::hint::{self, COMMIT, CommitHint};
use super::line::{self, Header, HeaderLine, SnapshotLine};
use super::recovery::{
    Fresh, Reconciled, Recovered, Repair, Tail, read_log, read_snapshot, reconcile, snapshot_index,
    snapshot_name,
};
use super::whole_file::{self, UNFINISHED};
use super::{Identity, LOG, SUSPECT, StorageError};
use crate::raft::{Durable, Entry, HardState, Index, PROTOCOL_VERSION, Record, Snapshot};

/// The line buffer keeps at most this much memory between two calls, in bytes. A batch of reports is a few
/// tens of KiB; only a snapshot is larger.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A new log is written in pieces of about this size, in bytes, so that memory does not hold it twice.
const PIECE_BYTES: usize = 1 << 18;

/// The durable state of one node.
///
/// After any error it is *poisoned*: each later call fails and leaves the disk alone. After a failed write or
/// fsync it is unknown what the disk holds. A second fsync that "succeeds" proves nothing, because Linux
/// marks the pages clean after the failure. A node whose storage is poisoned must not vote or acknowledge
/// again; it stops.
#[derive(Debug)]
pub struct Storage<D: Disk> {
    disk: D,
    identity: Identity,
    incarnation: u64,
    /// The log without its commands, to check the next record before it is written.
    shape: Shape,
    /// Up to here the log was said to be committed: it is never truncated below.
    committed: Index,
    /// How long the log's file is, in bytes: where the next batch begins.
    log_length: u64,
    /// A compaction under way.
    compaction: Option<Compaction>,
    /// The lines of one append. Reused, so that an append allocates nothing.
    buffer: Vec<u8>,
    poisoned: Option<String>,
}

/// What an opening found in the directory and may have to repair.
struct Found<'a, Older> {
    names: &'a [String],
    /// The snapshots that the newest one replaces.
    older: Older,
    /// How the log ends; `None` if there is no log yet.
    tail: Option<Tail>,
    stale_log: bool,
    /// There is a commit hint that cannot be honoured.
    false_hint: bool,
    /// A write or an fsync failed in this directory: see [`Storage::finish`].
    suspect: bool,
}

impl<D: Disk> Storage<D> {
    /// Opens a node's directory: reads it, checks it, repairs what a crash left, and makes what was read
    /// durable.
    ///
    /// `fresh` says how an empty directory begins. Its log gets its name only when all of that is durable.
    ///
    /// # Errors
    /// The system's errors, a damaged directory, and a directory of another node, founding or version. A
    /// directory that is refused stays as it was found.
    pub fn open(disk: D, identity: &Identity, fresh: Fresh) -> Result<(Self, Recovered), StorageError> {
        let names = disk.list().map_err(|source| StorageError::Io {
            operation: "list",
            path: disk.place(""),
            source,
        })?;
        let mut snapshots: Vec<_> =
            names.iter().filter_map(|name| Some((snapshot_index(name)?, name))).collect();
        snapshots.sort_unstable();
        let newest = snapshots.pop();

        // First read and check, without changing anything.
        let mut is_fresh = false;
        let (header, log, tail) = if names.iter().any(|name| name == LOG) {
            let read = read_log(&disk, identity)?;
            (Some(read.header), read.state, read.tail)
        } else if let Some((_, snapshot)) = newest {
            // The log is made before the first snapshot, and its name always exists from then on.
            let what = format!("it is missing, although {snapshot} lies there");
            return Err(StorageError::Corrupt { file: disk.place(LOG), offset: 0, what });
        } else {
            is_fresh = true;
            let state = fold((0, 0), fresh.records).map_err(StorageError::Refused)?;
            (None, state, Tail::Clean { length: 0 })
        };
        // Only the newest snapshot counts. An older one in its place would lose committed entries.
        let snapshot = newest.map(|(index, name)| read_snapshot(&disk, identity, name, index)).transpose()?;
        let Reconciled { state, stale_log } = reconcile(&disk, log, snapshot.as_ref())?;
        let (shape, entries) = state.into_parts();
        // A hint that cannot be read is a hint that was lost: it must never stop a start.
        let has_hint = names.iter().any(|name| name == COMMIT);
        let hint = header
            .as_ref()
            .filter(|_| has_hint)
            .and_then(|header| hint::read(&disk.read(COMMIT).ok()?, header.incarnation));
        if let (Tail::Holed { keep, .. }, Some(CommitHint { index, .. })) = (tail, &hint)
            && *index > shape.last_index()
        {
            let what =
                format!("zeros stand there, and entry {index}, which {COMMIT} calls committed, is lost");
            return Err(StorageError::Corrupt { file: disk.place(LOG), offset: keep, what });
        }
        let commit = hint.filter(|hint| hint.is_in(&shape));

        let mut storage = Self {
            disk,
            identity: identity.clone(),
            incarnation: header.map_or(fresh.incarnation, |header| header.incarnation),
            committed: commit.as_ref().map_or(0, |hint| hint.index),
            log_length: 0,
            compaction: None,
            shape,
            buffer: Vec::new(),
            poisoned: None,
        };

        // Then repair. An error poisons the storage, as in each later call.
        let (older, suspect) =
            (snapshots.iter().map(|(_, name)| name.as_str()), names.iter().any(|name| name == SUSPECT));
        let false_hint = has_hint && commit.is_none();
        let found =
            Found { names: &names, older, tail: (!is_fresh).then_some(tail), stale_log, false_hint, suspect };
        let result = storage.mend(found, snapshot.as_ref(), &entries);
        let repaired = storage.finish(result)?;
        let recovered = Recovered {
            hard_state: storage.shape.hard_state(),
            snapshot,
            entries,
            commit,
            incarnation: storage.incarnation,
            founders: storage.shape.founders().clone(),
            repaired,
            fresh: is_fresh,
        };
        Ok((storage, recovered))
    }

    /// Removes unfinished files and completes an interrupted compaction. If another crash stops this, the
    /// next opening does it again.
    fn mend<'a>(
        &mut self,
        found: Found<'a, impl Iterator<Item = &'a str>>,
        snapshot: Option<&Snapshot>,
        entries: &[Entry],
    ) -> Result<Option<Repair>, StorageError> {
        for name in found.names.iter().filter(|name| is_unfinished(name)) {
            self.disk.remove(name).map_err(|error| self.io("remove", name, error))?;
        }
        if found.false_hint {
            self.disk.remove(COMMIT).map_err(|error| self.io("remove", COMMIT, error))?;
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
        // Older snapshots are removed last: until the log is replaced, it may still need one of them.
        for name in found.older {
            self.disk.remove(name).map_err(|error| self.io("remove", name, error))?;
        }
        Ok(repaired)
    }

    /// Cuts or completes the last record, and makes durable what was read.
    ///
    /// The fsync is needed even if nothing is repaired. A process that was killed before its fsync leaves
    /// data that is only in the kernel's page cache. A leader counts its own log as durable, so the data must
    /// be on the disk first.
    fn settle(&mut self, tail: Tail) -> Result<Option<Repair>, StorageError> {
        let file = self.disk.place(LOG);
        let repair = |offset, bytes_cut| Repair { file, offset, bytes_cut };
        let (keep, cut, add_newline) = match tail {
            Tail::Clean { length } => (length, 0, false),
            Tail::Torn { keep, cut } | Tail::Holed { keep, cut } => (keep, cut, false),
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
        self.log_length = keep + u64::from(add_newline);
        Ok(match tail {
            Tail::Clean { .. } => None,
            Tail::Torn { .. } | Tail::Holed { .. } => Some(repair(keep, cut)),
            // The zeros after a complete record were never a part of a record, so they do not count as cut.
            Tail::Unended { .. } => Some(repair(keep, 0)),
        })
    }

    /// Makes the records durable with one write and one fdatasync. Only after `Ok` may the node send what
    /// depends on them. Without records, this does nothing.
    ///
    /// If the node crashes during the call, any number of the records, counted from the first, may be
    /// durable. So the order within a batch matters: the term comes before an entry of that term, and a
    /// truncation before the entries that replace it.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the disk fails; [`StorageError::Refused`] if a record may not follow (a bug of
    /// the caller; nothing is written); [`StorageError::Poisoned`] after any of these.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.check_poison()?;
        if records.is_empty() {
            return Ok(());
        }
        let result = self.try_append(records);
        self.finish(result)
    }

    /// Makes everything durable that one output of the Raft core asks for, in its order. Consecutive records
    /// share one fdatasync.
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
                    while self.continue_compaction()? {}
                    if self.shape.term_at(snapshot.last_index) == Some(snapshot.last_term)
                        && hard_state == self.shape.hard_state()
                    {
                        self.begin_compaction(snapshot, hard_state, retained)?;
                    } else {
                        self.compact(&snapshot, hard_state, &retained)?;
                    }
                }
            }
        }
        self.append(&records)
    }

    /// Begins a compaction that only drops what the snapshot holds. The disk is not touched yet: the log holds
    /// everything.
    fn begin_compaction(
        &mut self,
        snapshot: Arc<Snapshot>,
        hard_state: HardState,
        retained: Vec<Entry>,
    ) -> Result<(), StorageError> {
        self.check_poison()?;
        let begun = self
            .shape_after(&snapshot, hard_state, &retained)
            .and_then(|_| Compaction::begin(snapshot, hard_state, retained))
            .map_err(StorageError::Refused);
        self.compaction = Some(self.finish(begun)?);
        Ok(())
    }

    /// Whether a compaction is under way: [`continue_compaction`](Self::continue_compaction) has something to do.
    pub fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// Does the next step of the compaction that is under way: two fsyncs at the most. Returns whether there is more to
    /// do.
    ///
    /// # Errors
    /// Those of [`compact`](Self::compact).
    pub fn continue_compaction(&mut self) -> Result<bool, StorageError> {
        self.check_poison()?;
        let Some(compaction) = self.compaction.take() else { return Ok(false) };
        let result = self.compaction_step(compaction);
        self.compaction = self.finish(result)?;
        Ok(self.compaction.is_some())
    }

    fn compaction_step(&mut self, mut compaction: Compaction) -> Result<Option<Compaction>, StorageError> {
        let name = snapshot_name(compaction.snapshot.last_index);
        let unfinished = format!("{name}{UNFINISHED}");
        compaction.step = match compaction.step {
            Step::WriteSnapshot => {
                self.write_unfinished_snapshot(&compaction.snapshot)?;
                whole_file::sync(&mut self.disk, &unfinished).map_err(|failed| failed.on(&self.disk))?;
                Step::NameSnapshot
            }
            Step::NameSnapshot => {
                let published = whole_file::publish(&mut self.disk, &unfinished, &name);
                published.map_err(|failed| failed.on(&self.disk))?;
                Step::ReplaceLog
            }
            Step::ReplaceLog => {
                let (shape, entries) = compaction.log.into_parts();
                self.shape = shape;
                self.write_log(&entries)?;
                self.remove_snapshots_before(compaction.snapshot.last_index)?;
                return Ok(None);
            }
        };
        Ok(Some(compaction))
    }

    fn try_append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.buffer.clear();
        for record in records {
            if let Record::Truncate { from } = record
                && *from <= self.committed
            {
                let what = format!(
                    "truncation from entry {from}, while entries up to {} are committed",
                    self.committed
                );
                return Err(StorageError::Refused(Disorder(what)));
            }
            // Checked before the write, and again when it is read. The shape is ahead of the disk until this
            // function succeeds: every error poisons the storage.
            self.shape.apply(record).map_err(StorageError::Refused)?;
            line::write_record(&mut self.buffer, self.log_length, record).map_err(no_json)?;
        }
        self.disk.append(LOG, &self.buffer).map_err(|error| self.io("append to", LOG, error))?;
        self.sync(LOG)?;
        self.log_length += self.buffer.len() as u64;
        if let Some(compaction) = &mut self.compaction {
            let added = records.iter().try_for_each(|record| compaction.log.apply(record.clone()));
            added.map_err(StorageError::Refused)?;
        }
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Remembers how far the log is committed, without a sync: the next process may find this hint, an older one, or
    /// none. To be called only when the entry that the hint names is durable.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the hint could not be written; the storage is none the worse for it.
    /// [`StorageError::Refused`] if the log does not hold that entry durably (a bug of the caller), and
    /// [`StorageError::Poisoned`] after any other error.
    pub fn remember(&mut self, hint: &CommitHint) -> Result<(), StorageError> {
        self.check_poison()?;
        if !hint.is_in(&self.shape) {
            let what =
                format!("a commit hint for entry {} of term {}, which it lacks", hint.index, hint.term);
            return self.finish(Err(StorageError::Refused(Disorder(what))));
        }
        let bytes = hint::write(self.incarnation, hint).map_err(no_json)?;
        self.committed = self.committed.max(hint.index);
        self.disk.overwrite(COMMIT, &bytes).map_err(|error| self.io("write", COMMIT, error))
    }

    /// Replaces the log up to `snapshot.last_index` by the snapshot. `retained` holds the entries after it,
    /// if any. Used for a node's own compaction and for a snapshot that a leader sent.
    ///
    /// All earlier records must have been appended. After each step, the directory is complete:
    ///
    /// 1. a changed term or vote is appended to the old log, because the snapshot must not be of a later
    ///    term;
    /// 2. the snapshot is written to a new file, made durable and renamed, and its name is made durable;
    /// 3. a new log, which continues after the snapshot, replaces the old log in the same way;
    /// 4. older snapshots are removed.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the disk fails. [`StorageError::Refused`] if the snapshot is older than the
    /// present one, if the entries do not follow it, or if entries after it would be lost (bugs of the
    /// caller; nothing is written). [`StorageError::Poisoned`] after any of these.
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
        self.remove_snapshots_before(snapshot.last_index)
    }

    fn remove_snapshots_before(&mut self, index: Index) -> Result<(), StorageError> {
        // A removal needs no fsync of the directory: if a crash undoes it, the next opening removes the file
        // again.
        let names = self.disk.list().map_err(|error| self.io("list", "", error))?;
        for name in names {
            if snapshot_index(&name).is_some_and(|older| older < index) {
                self.disk.remove(&name).map_err(|error| self.io("remove", &name, error))?;
            }
        }
        Ok(())
    }

    /// The shape of the log after a compaction, if that compaction loses nothing.
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
        // The rules for an appended record hold here, too.
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
        // If the log holds the snapshot's last entry, every later entry may have been acknowledged (Figure
        // 13, step 6).
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
        let unfinished = self.write_unfinished_snapshot(snapshot)?;
        self.complete(&unfinished, &snapshot_name(snapshot.last_index))
    }

    /// Writes the snapshot to a new file, whose name it returns. Nothing is durable yet.
    fn write_unfinished_snapshot(&mut self, snapshot: &Snapshot) -> Result<String, StorageError> {
        let name = snapshot_name(snapshot.last_index);
        let line = SnapshotLine { version: PROTOCOL_VERSION, founding: &self.identity.founding, snapshot };
        self.buffer.clear();
        write_line(&mut self.buffer, &line)?;
        let unfinished = self.begin(&name)?;
        self.write_piece(&unfinished)?;
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(unfinished)
    }

    /// Replaces the log by one with the current header, term and vote, and these entries.
    fn write_log(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (after_index, after_term) = self.shape.after();
        let header = Header {
            version: PROTOCOL_VERSION,
            founding: self.identity.founding.clone(),
            node: self.identity.node,
            incarnation: self.incarnation,
            after_index,
            after_term,
        };
        let unfinished = self.begin(LOG)?;
        let mut length = 0;
        self.buffer.clear();
        write_line(&mut self.buffer, &HeaderLine { header })?;
        let hard_state = self.shape.hard_state();
        if hard_state != HardState::default() {
            line::write_record(&mut self.buffer, 0, &Record::HardState(hard_state)).map_err(no_json)?;
        }
        if !self.shape.founders().is_empty() {
            let founders = Record::Founders(self.shape.founders().clone());
            line::write_record(&mut self.buffer, 0, &founders).map_err(no_json)?;
        }
        for entry in entries {
            if self.buffer.len() >= PIECE_BYTES {
                length += self.write_piece(&unfinished)?;
            }
            line::write_record(&mut self.buffer, 0, &Record::Entry(entry.clone())).map_err(no_json)?;
        }
        length += self.write_piece(&unfinished)?;
        self.complete(&unfinished, LOG)?;
        self.log_length = length;
        Ok(())
    }

    /// Writes what the buffer holds at the end of a file, and returns how many bytes that were.
    fn write_piece(&mut self, name: &str) -> Result<u64, StorageError> {
        self.disk.append(name, &self.buffer).map_err(|error| self.io("append to", name, error))?;
        let written = self.buffer.len() as u64;
        self.buffer.clear();
        Ok(written)
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
    /// After a failed fsync, the page cache can hold data that the disk lacks, and the kernel regards these
    /// pages as clean. The next process would read them, sync them without effect, and rely on them. So this
    /// function makes the empty file `suspect`; the next opening that finds it writes all files anew. The
    /// file need not be durable: a power cut that removes it also empties the page cache, and the next
    /// opening reads what the disk holds.
    fn finish<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.poisoned = Some(error.to_string());
            if matches!(error, StorageError::Io { .. }) {
                // If this fails, too, nothing more can be done. The first error is the one to report.
                let _ = self.disk.create(SUSPECT);
            }
        }
        result
    }

    /// What is durable, without the commands: term and vote, first and last index, terms of the entries.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The random number that was drawn when this directory was made.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The disk, for the simulator, which holds its size to a bound.
    pub fn disk(&self) -> &D {
        &self.disk
    }
}

/// Whether this is an unfinished file of this program. A foreign file is never removed.
fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(|name| name == LOG || snapshot_index(name).is_some())
}

fn write_line<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<(), StorageError> {
    line::write(buffer, value).map_err(no_json)
}

fn no_json(error: serde_json::Error) -> StorageError {
    StorageError::Refused(Disorder(error.to_string()))
}
