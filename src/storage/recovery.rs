//! Reads a directory and decides whether it may be used: what a crash leaves can be repaired, anything else
//! is refused.
//!
//! [`super::Storage::open`] calls it. This file only reads. `store` repairs the disk after the decision, so
//! that a refused directory stays exactly as it was found.
//!
//! **What a crash leaves.** The log grows by appends. A crash or a full disk can stop an append anywhere, so
//! that the last line is incomplete. An append is acknowledged only after its fsync. The records of an
//! incomplete append were therefore never acknowledged, and the incomplete one may be cut. A power cut may even
//! leave zeros at the beginning of an append and whole lines behind them. The log is then cut at the zeros, unless a
//! record of a later append, or the commit hint, shows that the append was durable. Every other file but the hint is
//! written in the order *write a new file, fsync, rename, fsync the directory*, and is therefore complete or absent.
//!
//! **What no crash leaves.** A complete line with a wrong checksum means that the disk, a cable or a person
//! changed data that was durable and perhaps acknowledged. Cutting the log there would lose acknowledged
//! entries. Such a directory is refused, with file and byte offset.

use serde::Deserialize;

use super::disk::Disk;
use super::fold::{NUMBER_MAX, State};
use super::hint::CommitHint;
use super::line::{self, Header, HeaderLine, ReadSnapshotLine};
use super::{Identity, LOG, StorageError};
use crate::raft::{Entry, Founders, HardState, Index, PROTOCOL_VERSION, Record, Snapshot};

/// How an empty directory begins.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// A random number: see [`Recovered::incarnation`].
    pub incarnation: u64,
    /// The first records of the log.
    pub records: Vec<Record>,
}

/// The durable state that an opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The entries after the snapshot (or from the first one), in order and without a gap.
    pub entries: Vec<Entry>,
    /// How far the log was committed, if the directory remembers it and the log holds that entry.
    pub commit: Option<CommitHint>,
    /// The random number that was drawn when this directory was made.
    pub incarnation: u64,
    /// With whom the node founded the cluster: see [`Record::Founders`].
    pub founders: Founders,
    /// What was repaired, if anything: one line for the log file.
    pub repaired: Option<Repair>,
    /// The directory was empty: the node is new, or it has lost its disk.
    pub fresh: bool,
}

/// The repair of a log whose last append was incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The file.
    pub file: String,
    /// Where the file now ends, or ended before its last newline was added, in bytes.
    pub offset: u64,
    /// How many bytes were cut there. 0: the last record was whole, only its newline was missing, and it was
    /// kept.
    pub bytes_cut: u64,
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, offset, bytes_cut } = self;
        if *bytes_cut == 0 {
            write!(f, "{file}: the last record lacked its newline at byte {offset}; it was whole and is kept")
        } else {
            write!(
                f,
                "{file}: the end of the last append was incomplete and is cut: {bytes_cut} bytes at byte {offset}; \
                 it was never acknowledged"
            )
        }
    }
}

/// The log as it was found.
#[derive(Debug)]
pub(super) struct ReadLog {
    pub header: Header,
    pub state: State,
    pub tail: Tail,
}

/// How the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With a newline, at this length.
    Clean { length: u64 },
    /// With an incomplete record of `cut` bytes after `keep`.
    Torn { keep: u64, cut: u64 },
    /// With an append of which a power cut left some parts and zeros for others: whole lines may follow the zeros. It
    /// is cut from `keep` on, which is `cut` bytes.
    Holed { keep: u64, cut: u64 },
    /// With a whole record that lacks its newline: it ends at `keep`, and `cut` zero bytes follow.
    Unended { keep: u64, cut: u64 },
}

/// The name of the snapshot up to `last_index`, with leading zeros, so that `ls` sorts the snapshots by
/// index.
pub(super) fn snapshot_name(last_index: Index) -> String {
    format!("snapshot-{last_index:020}.json")
}

/// The index in a snapshot's name, if `name` is one.
pub(super) fn snapshot_index(name: &str) -> Option<Index> {
    let digits = name.strip_prefix("snapshot-")?.strip_suffix(".json")?;
    let index = digits.parse().ok()?;
    // Each index has exactly one name: "snapshot-7.json" and "snapshot-+007….json" are foreign files.
    (snapshot_name(index) == name).then_some(index)
}

/// Reads the log and checks every line of it.
pub(super) fn read_log(disk: &impl Disk, identity: &Identity) -> Result<ReadLog, StorageError> {
    let bytes = read(disk, LOG)?;
    let corrupt = |offset: usize, what: String| corrupt(disk, LOG, offset, what);

    let Some(header_end) = bytes.iter().position(|&byte| byte == b'\n') else {
        // The log got its name after its first line was durable. No crash leaves it without that line.
        return Err(corrupt(0, "the first line is not complete".to_owned()));
    };
    let json = line::verify(&bytes[..header_end]).map_err(|what| corrupt(0, what))?;
    check_version::<AnyHeaderLine>(disk, LOG, json)?;
    let HeaderLine { header } = parse(json).map_err(|what| corrupt(0, what))?;
    if header.identity() != *identity {
        return Err(StorageError::WrongDirectory {
            file: disk.place(LOG),
            found: Box::new(header.identity()),
            expected: Box::new(identity.clone()),
        });
    }

    let mut state = State::new((header.after_index, header.after_term));
    let mut offset = header_end + 1;
    let mut batch = 0;
    let tail = loop {
        let rest = &bytes[offset..];
        if rest.is_empty() {
            break Tail::Clean { length: length(offset) };
        }
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            let (record, tail) = judge_tail(rest, offset).map_err(|what| corrupt(offset, what))?;
            if let Some(body) = record {
                take_in(&mut state, body, offset, batch).map_err(|what| corrupt(offset, what))?;
            }
            break tail;
        };
        match line::verify(&rest[..end]) {
            Ok(body) => {
                batch = take_in(&mut state, body, offset, batch).map_err(|what| corrupt(offset, what))?;
            }
            Err(_) if is_unfinished_append(&bytes, offset) => {
                break Tail::Holed { keep: length(offset), cut: length(rest.len()) };
            }
            Err(what) => return Err(corrupt(offset, what)),
        }
        offset += end + 1;
    };
    Ok(ReadLog { header, state, tail })
}

/// Classifies the bytes after the last newline. They begin at `offset`, and there is at least one. Returns batch and
/// JSON of a complete record among them.
///
/// # Errors
/// When no crash can have left these bytes.
fn judge_tail(tail: &[u8], offset: usize) -> Result<(Option<&[u8]>, Tail), String> {
    // Some file systems extend a file before they write its data. After a power cut, the missing part reads
    // as zeros. No JSON ends with a zero byte, so the zeros cannot be a part of the record.
    let written = tail.len() - tail.iter().rev().take_while(|&&byte| byte == 0).count();
    let (record, zeros) = tail.split_at(written);
    if let Ok(json) = line::verify(record) {
        // Only the newline is missing: keep the record. If somebody cut the file by one byte, the record may
        // have been acknowledged. If a crash cut it, keeping the record is harmless: any append may survive a
        // crash unacknowledged.
        let tail = Tail::Unended { keep: length(offset + written), cut: length(zeros.len()) };
        return Ok((Some(json), tail));
    }
    // A complete record, and one other byte in place of the newline. An append writes a newline here or
    // nothing, so the byte changed after it was written, and the record may have been acknowledged. Cutting
    // it could lose an acknowledged entry.
    if let Some((last, whole)) = record.split_last()
        && line::verify(whole).is_ok()
    {
        return Err(format!("the last record ends with the byte {last:#04x} in place of a newline"));
    }
    Ok((None, Tail::Torn { keep: length(offset), cut: length(tail.len()) }))
}

/// Takes in the record that stands at `offset`, after one of the batch `before`. Returns its batch.
fn take_in(state: &mut State, body: &[u8], offset: usize, before: u64) -> Result<u64, String> {
    let (batch, json) = line::split_batch(body)?;
    if batch != before && batch != length(offset) {
        return Err(format!(
            "out of place: a record of the batch at byte {batch} after one of that at {before}"
        ));
    }
    let record: Record = parse(json)?;
    state.apply(record).map_err(|disorder| format!("out of order: {disorder}"))?;
    Ok(batch)
}

/// A disk writes whole sectors of at least this size. So what a power cut leaves unwritten begins and ends at a
/// multiple of it, or with the append itself.
const SECTOR_BYTES: usize = 512;

/// Whether a wrong line at `offset`, with more behind it, can be what a power cut left of the last append, which nobody
/// acknowledged: the kernel writes the pages of an append in any order, and the file reads as zeros where it did not
/// come to it. Two things must hold.
///
/// * Nothing behind it is proof that it was durable: no record of a later batch, none that stood there when the log got
///   its name.
/// * The line holds zeros as a disk leaves them out. A flipped bit or a changed byte does not look so, and no record
///   contains a zero.
fn is_unfinished_append(bytes: &[u8], offset: usize) -> bool {
    let rest = &bytes[offset..];
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some(before) = line.iter().position(|&byte| byte == 0) else { return false };
    let begin = offset + before;
    let end = begin + bytes[begin..].iter().take_while(|&&byte| byte == 0).count();
    let is_left_out = (begin == offset || begin.is_multiple_of(SECTOR_BYTES))
        && (end == bytes.len() || end.is_multiple_of(SECTOR_BYTES));
    // Zeros end a line, too: the first whole line behind them counts.
    let behind = rest.split(|&byte| byte == b'\n' || byte == 0);
    let mut batches =
        behind.filter_map(|line| line::verify(line).and_then(line::split_batch).ok()).map(|(batch, _)| batch);
    is_left_out && batches.all(|batch| batch != 0 && batch <= length(offset))
}

/// Reads the snapshot called `name`. Its last entry must be `index`.
pub(super) fn read_snapshot(
    disk: &impl Disk,
    identity: &Identity,
    name: &str,
    index: Index,
) -> Result<Snapshot, StorageError> {
    let bytes = read(disk, name)?;
    let corrupt = |what: String| corrupt(disk, name, 0, what);
    // The file has exactly one line. It got its name after it was durable, so no crash leaves it incomplete.
    let json = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) if end + 1 == bytes.len() => line::verify(&bytes[..end]).map_err(corrupt)?,
        Some(end) => return Err(corrupt(format!("{} bytes follow its only line", bytes.len() - end - 1))),
        None => return Err(corrupt("its line does not end with a newline".to_owned())),
    };
    check_version::<AnySnapshotLine>(disk, name, json)?;
    let ReadSnapshotLine { founding, snapshot, .. } = parse(json).map_err(corrupt)?;
    if founding != identity.founding {
        return Err(StorageError::WrongDirectory {
            file: disk.place(name),
            found: Box::new(Identity { founding, node: identity.node }),
            expected: Box::new(identity.clone()),
        });
    }
    let is_possible = (1..=NUMBER_MAX).contains(&index) && snapshot.last_term != 0;
    if snapshot.last_index != index || !is_possible {
        return Err(corrupt(format!(
            "it holds the state as of entry {} of term {}",
            snapshot.last_index, snapshot.last_term
        )));
    }
    if let Some(list) = snapshot.members.as_ref().filter(|list| !list.is_possible_at(index)) {
        return Err(corrupt(format!(
            "its list of members, of entry {}, is one that no leader can have made by entry {index}",
            list.index
        )));
    }
    Ok(snapshot)
}

/// The state that follows from the snapshot and the log.
#[derive(Debug)]
pub(super) struct Reconciled {
    /// The state after the snapshot.
    pub state: State,
    /// The log on disk begins before the snapshot. It must be replaced before the next append.
    pub stale_log: bool,
}

/// Combines snapshot and log.
///
/// A compaction first makes the snapshot durable and then replaces the log. A crash between these steps
/// leaves a log that begins before the snapshot; that is normal. A log that begins after the newest snapshot
/// means that a snapshot was lost, and with it a part of the state.
pub(super) fn reconcile(
    disk: &impl Disk,
    log: State,
    snapshot: Option<&Snapshot>,
) -> Result<Reconciled, StorageError> {
    let (after_index, after_term) = log.shape().after();
    let Some(snapshot) = snapshot else {
        if after_index == 0 {
            return Ok(Reconciled { state: log, stale_log: false });
        }
        return Err(corrupt(
            disk,
            LOG,
            0,
            format!("it begins after entry {after_index}, and the snapshot up to there is missing"),
        ));
    };
    let Snapshot { last_index, last_term, .. } = *snapshot;
    if last_index < after_index || (last_index == after_index && last_term != after_term) {
        return Err(corrupt(
            disk,
            LOG,
            0,
            format!(
                "it begins after entry {after_index} of term {after_term}, but the newest snapshot beside it ends with \
                 entry {last_index} of term {last_term}"
            ),
        ));
    }
    let hard_state = log.shape().hard_state();
    if last_term > hard_state.term {
        // A compaction writes the term into the log before it writes the snapshot.
        return Err(corrupt(
            disk,
            LOG,
            0,
            format!(
                "it ends in term {}, but the snapshot beside it ends with entry {last_index} of term {last_term}",
                hard_state.term
            ),
        ));
    }
    if last_index == after_index {
        return Ok(Reconciled { state: log, stale_log: false });
    }
    // Figure 13, steps 6 and 7: "If existing log entry has same index and term as snapshot's last included
    // entry, retain log entries following it"; otherwise "Discard the entire log".
    let connects = log.shape().term_at(last_index) == Some(last_term);
    let mut state = State::new((last_index, last_term));
    let refold = std::iter::once(Record::HardState(hard_state)).chain(
        log.into_parts()
            .1
            .into_iter()
            .filter(|entry| connects && entry.index > last_index)
            .map(Record::Entry),
    );
    for record in refold {
        state.apply(record).expect("the end of an ordered log is in order");
    }
    Ok(Reconciled { state, stale_log: true })
}

/// Checks the version before anything else, so that a file of another version is not reported as damaged.
fn check_version<T: for<'de> Deserialize<'de> + Into<u64>>(
    disk: &impl Disk,
    name: &str,
    json: &[u8],
) -> Result<(), StorageError> {
    match serde_json::from_slice::<T>(json).map(Into::into) {
        Ok(version) if version != u64::from(PROTOCOL_VERSION) => {
            Err(StorageError::OtherVersion { file: disk.place(name), version })
        }
        // Without a version it is no such line. Parsing it gives the better error.
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

#[derive(Deserialize)]
struct AnyHeaderLine {
    header: AnyVersion,
}

impl From<AnyHeaderLine> for u64 {
    fn from(line: AnyHeaderLine) -> Self {
        line.header.version
    }
}

type AnySnapshotLine = AnyVersion;

impl From<AnyVersion> for u64 {
    fn from(line: AnyVersion) -> Self {
        line.version
    }
}

fn parse<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json)
        .map_err(|error| format!("the checksum is right, the JSON is not ours: {error}"))
}

fn read(disk: &impl Disk, name: &str) -> Result<Vec<u8>, StorageError> {
    disk.read(name).map_err(|source| StorageError::Io { operation: "read", path: disk.place(name), source })
}

fn corrupt(disk: &impl Disk, name: &str, offset: usize, what: String) -> StorageError {
    StorageError::Corrupt { file: disk.place(name), offset: length(offset), what }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length in memory fits into 64 bits")
}
