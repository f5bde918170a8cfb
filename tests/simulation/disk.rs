//! A disk in memory that keeps only what POSIX promises, and forgets the rest when the power is cut.
//!
//! It implements [`Disk`] for the real [`rakit::storage::Storage`], so that what is tested is the real code and the real
//! format. Included by `#[path]` from the tests of the storage and from the simulator of the whole cluster.
//!
//! The model has two sides, as the kernel has. *Visible* is what the processes see: the page cache. *Durable* is what a
//! power cut leaves. `sync` copies a file's contents from visible to durable; `sync_directory` does it for the names.
//! Everything is drawn from the seed: the same seed and the same calls give the same bytes.

#![allow(dead_code, reason = "the storage's tests and the simulator each use a part of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use rakit::raft::Random;
use rakit::storage::Disk;

/// The faults of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A power cut took all bytes of a file that were not synced.
    LostUnsynced,
    /// A power cut left a part of the bytes that were not synced.
    TornTail,
    /// A power cut left the length of the bytes that were not synced, but zeros in place of some.
    ZeroTail,
    /// A power cut left zeros in place of some sectors of what was not synced, and wrote sectors behind them.
    ZeroHole,
    /// A power cut left the bytes that were cut off by a truncation that was not synced.
    UndoneTruncation,
    /// A power cut left a part of what was written over a file without a sync, and the rest of what was there before.
    TornOverwrite,
    /// A power cut took a name, a rename or a removal that was not synced.
    ForgottenName,
    /// The process died in the middle of an operation.
    Interrupted,
    /// A write failed, after a part of its bytes.
    FailedWrite,
    /// An fsync failed: the bytes stay visible and never reach the disk, not by a later fsync either.
    FailedSync,
    /// There was no room for all bytes of a write.
    FullDisk,
}

/// All of them, for a table of what a test has covered.
pub const FAULTS: [Fault; 11] = [
    Fault::LostUnsynced,
    Fault::TornTail,
    Fault::ZeroTail,
    Fault::ZeroHole,
    Fault::UndoneTruncation,
    Fault::TornOverwrite,
    Fault::ForgottenName,
    Fault::Interrupted,
    Fault::FailedWrite,
    Fault::FailedSync,
    Fault::FullDisk,
];

/// How an operation shall fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The next operation that changes something is done in part, and from then on every call fails, until
    /// [`SimDisk::power_cut`] or [`SimDisk::kill`].
    Crash,
    /// The next `create`, `append`, `truncate`, `rename` or `remove` fails.
    Write,
    /// The next `sync` or `sync_directory` fails.
    Sync,
}

/// How often each fault happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<Fault, u64>);

impl Coverage {
    /// Adds the counts of another disk.
    pub fn add(&mut self, other: &Coverage) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }

    /// The faults that never happened.
    pub fn missing(&self) -> Vec<Fault> {
        FAULTS.into_iter().filter(|fault| !self.0.contains_key(fault)).collect()
    }

    fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in FAULTS {
            writeln!(f, "{:>9} {fault:?}", self.0.get(&fault).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}

/// The disk. Clones are the same disk: the test keeps one, the storage owns another.
#[derive(Clone, Debug)]
pub struct SimDisk(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last `sync_directory`.
    pending: Vec<Change>,
    next_file: u64,
    /// The planned failure, and how many operations that it can hit come before it.
    failure: Option<(Failure, u64)>,
    crashed: bool,
    /// Room for the visible bytes of all files.
    capacity: Option<u64>,
    operations: u64,
    coverage: Coverage,
    random: Random,
}

#[derive(Clone, Debug, Default)]
struct File {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Parts of `visible` whose fsync failed: the kernel believes them clean and will never write them.
    lost: Vec<Range<usize>>,
    /// Whether it was written over.
    overwritten: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Link { name: String, file: u64 },
    Rename { from: String, to: String, file: u64 },
    Unlink { name: String },
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            next_file: 0,
            failure: None,
            crashed: false,
            capacity: None,
            operations: 0,
            coverage: Coverage::default(),
            random: Random::new(seed),
        })))
    }

    /// Lets `failure` happen at the operation after the next `skip` that it can hit. Replaces an earlier plan.
    pub fn plan(&self, failure: Failure, skip: u64) {
        self.0.borrow_mut().failure = Some((failure, skip));
    }

    /// Cancels the failure of [`SimDisk::plan`] if it has not happened yet.
    pub fn call_off(&self) {
        self.0.borrow_mut().failure = None;
    }

    /// The room for all files together, in bytes; `None` without end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.borrow_mut().capacity = bytes;
    }

    /// Bytes that all files hold now.
    pub fn bytes(&self) -> u64 {
        self.0.borrow().bytes()
    }

    /// Whether a planned crash has happened and nobody has started the disk again.
    pub fn is_crashed(&self) -> bool {
        self.0.borrow().crashed
    }

    /// Operations that changed something or were to make it durable, done and failed.
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// How often each fault happened on this disk.
    pub fn coverage(&self) -> Coverage {
        self.0.borrow().coverage.clone()
    }

    /// The process ends, the machine goes on: what was visible stays visible, synced or not.
    pub fn kill(&self) {
        let mut inner = self.0.borrow_mut();
        inner.crashed = false;
        inner.failure = None;
    }

    /// The machine loses its power: the seed decides how much is left of what was not synced.
    pub fn power_cut(&self, seed: u64) {
        self.kill();
        let mut inner = self.0.borrow_mut();
        inner.random = Random::new(seed);
        inner.power_cut();
    }

    /// An empty disk in place of this one, as after a replacement: all is gone, durably.
    pub fn wipe(&self) {
        self.kill();
        let mut inner = self.0.borrow_mut();
        inner.files.clear();
        inner.names.clear();
        inner.durable_names.clear();
        inner.pending.clear();
    }

    /// All files and what they show, to compare or to print.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.0.borrow();
        inner.names.iter().map(|(name, file)| (name.clone(), inner.files[file].visible.clone())).collect()
    }

    /// Puts a file there, durably, as a person with an editor would.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        let file = inner.next_file;
        inner.next_file += 1;
        inner
            .files
            .insert(file, File { visible: bytes.to_vec(), durable: bytes.to_vec(), ..File::default() });
        inner.names.insert(name.to_owned(), file);
        inner.durable_names.insert(name.to_owned(), file);
    }
}

impl Inner {
    fn bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[file].visible.len() as u64).sum()
    }

    /// Counts an operation down to the planned failure. `Some` says how this one fails.
    fn begin(&mut self, is_sync: bool) -> io::Result<Option<Failure>> {
        if self.crashed {
            return Err(io::Error::other("the process is dead"));
        }
        self.operations += 1;
        let Some((failure, skip)) = &mut self.failure else { return Ok(None) };
        let hit = match failure {
            Failure::Crash => true,
            Failure::Write => !is_sync,
            Failure::Sync => is_sync,
        };
        if !hit {
            return Ok(None);
        }
        if *skip > 0 {
            *skip -= 1;
            return Ok(None);
        }
        let failure = *failure;
        self.failure = None;
        self.coverage.count(match failure {
            Failure::Crash => Fault::Interrupted,
            Failure::Write => Fault::FailedWrite,
            Failure::Sync => Fault::FailedSync,
        });
        self.crashed = failure == Failure::Crash;
        Ok(Some(failure))
    }

    /// An operation that happens wholly or not at all. If it fails by a crash, the seed decides which of the two.
    fn whole(&mut self, is_sync: bool) -> io::Result<(bool, io::Result<()>)> {
        Ok(match self.begin(is_sync)? {
            None => (true, Ok(())),
            Some(Failure::Crash) => (self.random.below(2) == 0, Err(io::Error::other("the process died"))),
            Some(_) => (false, Err(eio())),
        })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let file = self.names.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.files.get_mut(file).expect("every name has its file"))
    }

    fn power_cut(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        // A journal keeps a first part of the changes; POSIX promises not even the order.
        let (mode, first) = (self.random.below(3), self.random.below(pending.len() as u64 + 1));
        for (number, change) in pending.into_iter().enumerate() {
            let survives = match mode {
                0 => false,
                1 => (number as u64) < first,
                _ => self.random.below(2) == 0,
            };
            if survives {
                apply(&mut self.durable_names, change);
            } else {
                self.coverage.count(Fault::ForgottenName);
            }
        }
        self.names = self.durable_names.clone();
        let held: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| held.contains(file));
        for file in self.files.values_mut() {
            let left = left_after_power_cut(file, &mut self.random, &mut self.coverage);
            *file = File { visible: left.clone(), durable: left, ..File::default() };
        }
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: Change) {
    match change {
        Change::Link { name, file } => {
            names.insert(name, file);
        }
        Change::Rename { from, to, file } => {
            // Atomic: either both or none. The old name may already point elsewhere, or be forgotten.
            names.retain(|name, held| *name != from || *held != file);
            names.insert(to, file);
        }
        Change::Unlink { name } => {
            names.remove(&name);
        }
    }
}

fn left_after_power_cut(file: &File, random: &mut Random, coverage: &mut Coverage) -> Vec<u8> {
    let written = with_holes(file);
    if written == file.durable {
        return written;
    }
    if file.overwritten {
        return left_of_overwritten(&written, &file.durable, random, coverage);
    }
    let common = written.iter().zip(&file.durable).take_while(|(one, other)| one == other).count();
    if common < file.durable.len() {
        // Cut (and perhaps written again) without a sync: the old contents, or the new ones.
        if random.below(2) == 0 {
            coverage.count(Fault::UndoneTruncation);
            return file.durable.clone();
        }
    }
    let tail = (written.len() - common) as u64;
    let kept = match random.below(3) {
        0 => 0,
        1 => tail,
        _ => random.below(tail + 1),
    };
    let mut left = written;
    let end = common + usize::try_from(kept).expect("a length in memory");
    if tail > 0 && random.below(4) == 0 {
        let holes = leave_sectors_out(&mut left[..], common, random);
        if holes {
            coverage.count(Fault::ZeroHole);
        }
        return left;
    }
    if kept < tail && random.below(4) == 0 {
        coverage.count(Fault::ZeroTail);
        left[end..].fill(0);
    } else {
        if kept == 0 {
            coverage.count(Fault::LostUnsynced);
        } else if kept < tail {
            coverage.count(Fault::TornTail);
        }
        left.truncate(end);
    }
    left
}

/// How much a disk writes at once.
const SECTOR_BYTES: usize = 512;

/// The kernel wrote only some of the sectors from `begin` on. Tells whether anything stands behind zeros.
fn leave_sectors_out(bytes: &mut [u8], begin: usize, random: &mut Random) -> bool {
    let (mut begin, mut has_zeros, mut has_holes) = (begin, false, false);
    while begin < bytes.len() {
        let end = (begin + 1).next_multiple_of(SECTOR_BYTES).min(bytes.len());
        let is_written = random.below(2) == 0;
        if !is_written {
            bytes[begin..end].fill(0);
        }
        has_holes |= has_zeros && is_written;
        has_zeros |= !is_written;
        begin = end;
    }
    has_holes
}

/// The old bytes, the new ones, or the beginning of the new ones over the old.
fn left_of_overwritten(new: &[u8], old: &[u8], random: &mut Random, coverage: &mut Coverage) -> Vec<u8> {
    let reached = usize::try_from(random.below(new.len() as u64 + 1)).expect("a length in memory");
    match random.below(3) {
        0 => old.to_vec(),
        1 => new.to_vec(),
        _ => {
            coverage.count(Fault::TornOverwrite);
            [&new[..reached], old.get(reached..).unwrap_or_default()].concat()
        }
    }
}

/// What the kernel would write: the visible bytes without those that it believes to have written already.
fn with_holes(file: &File) -> Vec<u8> {
    let mut bytes = file.visible.clone();
    for lost in &file.lost {
        let end = lost.end.min(bytes.len());
        if lost.start < end {
            bytes[lost.start..end].fill(0);
        }
    }
    bytes
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let inner = self.0.borrow();
        if inner.crashed {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(inner.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut inner = self.0.borrow_mut();
        if inner.crashed {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(inner.file(name)?.visible.clone())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let (done, result) = inner.whole(false)?;
        if done {
            if let Ok(file) = inner.file(name) {
                file.visible.clear();
                file.lost.clear();
            } else {
                let file = inner.next_file;
                inner.next_file += 1;
                inner.files.insert(file, File::default());
                inner.names.insert(name.to_owned(), file);
                inner.pending.push(Change::Link { name: name.to_owned(), file });
            }
        }
        result
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.file(name)?;
        let failure = inner.begin(false)?;
        let room = inner.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.bytes()));
        let (part, result) = if failure.is_some() {
            (inner.random.below(bytes.len() as u64 + 1), Err(eio()))
        } else if room < bytes.len() as u64 {
            inner.coverage.count(Fault::FullDisk);
            (room, Err(io::Error::from(io::ErrorKind::StorageFull)))
        } else {
            (bytes.len() as u64, Ok(()))
        };
        let part = usize::try_from(part).expect("a part of what is in memory");
        inner.file(name)?.visible.extend_from_slice(&bytes[..part]);
        result
    }

    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.0.borrow_mut().file(name).is_err() {
            self.create(name)?;
        }
        let mut inner = self.0.borrow_mut();
        let failure = inner.begin(false)?;
        let longer = (bytes.len() as u64).saturating_sub(inner.file(name)?.visible.len() as u64);
        if inner.capacity.is_some_and(|capacity| inner.bytes() + longer > capacity) {
            inner.coverage.count(Fault::FullDisk);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let part = failure.map_or(bytes.len() as u64, |_| inner.random.below(bytes.len() as u64 + 1));
        let part = usize::try_from(part).expect("a part of what is in memory");
        let file = inner.file(name)?;
        let rest = file.visible.get(part..).unwrap_or_default();
        file.visible = [&bytes[..part], rest].concat();
        file.overwritten = true;
        if failure.is_some() { Err(eio()) } else { Ok(()) }
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.file(name)?;
        let (done, result) = inner.whole(false)?;
        if done {
            let length = usize::try_from(length).expect("a length in memory");
            let file = inner.file(name)?;
            file.visible.truncate(length);
            file.lost.retain(|lost| lost.start < length);
            for lost in &mut file.lost {
                lost.end = lost.end.min(length);
            }
        }
        result
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.file(name)?;
        let (done, result) = inner.whole(true)?;
        let crashed = inner.crashed;
        let file = inner.file(name)?;
        if done {
            file.durable = with_holes(file);
        } else if !crashed {
            let durable = file.durable.len();
            if durable < file.visible.len() {
                let lost = durable..file.visible.len();
                file.lost.push(lost);
            }
        }
        result
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.file(from)?;
        let (done, result) = inner.whole(false)?;
        if done {
            let file = inner.names.remove(from).expect("it was found above");
            inner.names.insert(to.to_owned(), file);
            inner.pending.push(Change::Rename { from: from.to_owned(), to: to.to_owned(), file });
        }
        result
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        inner.file(name)?;
        let (done, result) = inner.whole(false)?;
        if done {
            inner.names.remove(name);
            inner.pending.push(Change::Unlink { name: name.to_owned() });
        }
        result
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let (done, result) = inner.whole(true)?;
        if done {
            inner.durable_names = inner.names.clone();
            inner.pending.clear();
        }
        result
    }
}

fn eio() -> io::Error {
    io::Error::other("input/output error (injected)")
}
