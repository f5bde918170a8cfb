//! The log file: bounded in size, opened again on request, and the first to give way when its disk gets full.
//!
//! [`start`](super::start) opens it; then only the writer thread uses it, through `output.rs`. Three rules:
//!
//! - *Size.* When the file has reached its limit, it is renamed to `FILE.1` (an older `FILE.1` is lost), and a
//!   new file begins. So one log takes at most twice its limit.
//! - *The data come first.* The log and the data of a node are often on one disk. A write of data that fails
//!   ends the node; a lost log line does not. So the log leaves a part of the disk free: when less is left, it
//!   removes `FILE.1`, and if that is not enough, it loses lines until there is room again.
//! - *Reopening.* logrotate(8) renames the file and sends SIGHUP. The next line opens the file by its name
//!   again.
//!
//! A log "file" that is none (a terminal, /dev/null, a named pipe) is only written to.
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// The most bytes of a log file before it is renamed; one batch of lines may exceed it.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// On a small disk, a log file takes at most this part of it: one 128th. A local cluster of five nodes and three
/// servers has twelve logs, each with an older half, and still leaves four fifths of the disk.
const FILE_PART: u64 = 128;
/// The log leaves so many bytes of its disk free …
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// … but on a small disk only this part of it: one quarter.
const FREE_PART: u64 = 4;
/// How long a look at the disk's room is believed. statvfs(3) before each write would cost more than the write.
const ROOM_BELIEVED: Duration = Duration::from_millis(100);

/// Set by [`reopen`], cleared by the writer when it opens the file again.
static REOPEN: AtomicBool = AtomicBool::new(false);

/// The next line that is logged goes to a newly opened log file. Called on SIGHUP.
pub fn reopen() {
    REOPEN.store(true, Ordering::SeqCst);
}

/// The size of a file system and what is left of it, in bytes.
#[derive(Clone, Copy)]
struct Room {
    total: u64,
    free: u64,
}

impl Room {
    fn on_the_disk_of(file: &File) -> io::Result<Room> {
        let disk = rustix::fs::fstatvfs(file)?;
        Ok(Room { total: disk.f_blocks * disk.f_frsize, free: disk.f_bavail * disk.f_frsize })
    }

    fn file_bytes_max(self) -> u64 {
        FILE_BYTES_MAX.min(self.total / FILE_PART)
    }

    fn is_short(self) -> bool {
        self.free < FREE_BYTES_MIN.min(self.total / FREE_PART)
    }
}

/// An open log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Its length in bytes; `None` if it is no regular file, which has no limit.
    length: Option<u64>,
    /// Standard error leads to the same file, and must follow it to the next one: panics of the runtime and
    /// messages of libraries are written there.
    is_stderr: bool,
    /// Whether the file is to be opened again; in tests one for each file.
    reopen: &'static AtomicBool,
    /// Measures the disk's room; in tests a simulated disk.
    measure: fn(&File) -> io::Result<Room>,
    room: Option<(Room, Instant)>,
}

impl LogFile {
    /// Opens a log file for appending; makes it, and its directory, if need be.
    ///
    /// # Errors
    /// One line that names the file and the mend.
    pub(super) fn open(path: &Path) -> Result<LogFile, String> {
        let failed = |error: io::Error| {
            format!("--log-file {}: {error}; name a file that this user may write", path.display())
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = append_to(path).map_err(failed)?;
        let length = regular_length(&file);
        let is_stderr =
            length.is_some() && identity(&file).is_some_and(|file| Some(file) == stderr_identity());
        Ok(LogFile {
            path: path.to_owned(),
            file,
            length,
            is_stderr,
            reopen: &REOPEN,
            measure: Room::on_the_disk_of,
            room: None,
        })
    }

    /// Whether a line in this file is also in the file that standard error leads to.
    pub(super) fn is_stderr(&self) -> bool {
        self.is_stderr
    }

    fn old_path(&self) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(".1");
        name.into()
    }

    /// Opens the file by its name again. If that fails, the present file stays the log: a log in a renamed file is
    /// better than none.
    fn open_again(&mut self) -> io::Result<()> {
        self.file = append_to(&self.path)?;
        self.length = regular_length(&self.file);
        if self.is_stderr {
            rustix::stdio::dup2_stderr(&self.file)?;
        }
        Ok(())
    }

    /// Begins a new file; the full one becomes `FILE.1`.
    fn rotate(&mut self) -> io::Result<()> {
        // Another program may have renamed our file. Then the name is another file's, which is not ours to rename.
        if fs::metadata(&self.path).ok().map(|found| (found.dev(), found.ino())) == identity(&self.file) {
            fs::rename(&self.path, self.old_path())?;
        }
        self.open_again()
    }

    /// How much room the disk has, measured a moment ago at most. `None` if the system does not say.
    fn room(&mut self) -> Option<Room> {
        let now = Instant::now();
        if self.room.is_none_or(|(_, at)| now.saturating_duration_since(at) >= ROOM_BELIEVED) {
            self.room = (self.measure)(&self.file).ok().map(|room| (room, now));
        }
        self.room.map(|(room, _)| room)
    }

    /// Makes the disk's room for the data, as far as the log can.
    fn give_way(&mut self) -> io::Result<()> {
        if fs::remove_file(self.old_path()).is_ok() {
            self.room = None;
        }
        match self.room() {
            Some(room) if room.is_short() => Err(io::Error::other(format!(
                "the disk has only {} KiB left, which the log leaves to the data",
                room.free / 1024
            ))),
            _ => Ok(()),
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Ordering::SeqCst)
            && let Err(error) = self.open_again()
        {
            // The line waits for the next batch: the writer thread, which calls this, holds no lock of the queues.
            log::error!(
                "the log file {} cannot be opened again: {error}; the log goes on in the file that was open; mend \
                 that, then send SIGHUP again",
                self.path.display()
            );
        }
        if let Some(length) = self.length
            && let Some(room) = self.room()
        {
            if length >= room.file_bytes_max() && self.rotate().is_err() {
                // The directory may be another user's. The log goes on in this file, and tries again later.
                self.length = Some(0);
            }
            if room.is_short() {
                self.give_way()?;
            }
        }
        let written = self.file.write(lines)?;
        if let Some(length) = &mut self.length {
            *length += written as u64;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // Each write is one write(2); nothing waits in this process.
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens for appending. A named pipe that nobody reads is refused (ENXIO, open(2)), not waited for.
fn append_to(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)
}

fn regular_length(file: &File) -> Option<u64> {
    file.metadata().ok().filter(fs::Metadata::is_file).map(|found| found.len())
}

/// Device and inode: what makes two descriptors lead to one file.
fn identity(file: impl AsFd) -> Option<(u64, u64)> {
    rustix::fs::fstat(file).ok().map(|found| (found.st_dev, found.st_ino))
}

fn stderr_identity() -> Option<(u64, u64)> {
    identity(io::stderr())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log in a directory of its own, on a disk of a gigabyte with so many free bytes.
    fn log(measure: fn(&File) -> io::Result<Room>) -> (tempfile::TempDir, LogFile) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = LogFile::open(&directory.path().join("logs/node.log")).expect("makes the directory");
        (directory, LogFile { measure, reopen: Box::leak(Box::default()), ..file })
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("readable")
    }

    #[test]
    fn a_full_file_is_renamed_and_only_one_older_one_is_kept() {
        let (_directory, mut log) = log(|_| Ok(Room { total: 10 * FILE_PART, free: 9 * FILE_PART }));
        for line in ["0123456789\n", "second 456789\n", "third\n"] {
            log.write_all(line.as_bytes()).expect("room");
        }
        assert_eq!(text(&log.path), "third\n");
        assert_eq!(text(&log.old_path()), "second 456789\n");
        assert_eq!(fs::read_dir(log.path.parent().expect("logs")).expect("readable").count(), 2);
    }

    #[test]
    fn a_renamed_file_is_written_to_until_reopen_and_then_never_renamed_by_us() {
        let (_directory, mut log) = log(|_| Ok(Room { total: 10 * FILE_PART, free: 9 * FILE_PART }));
        let moved = log.path.with_extension("moved");
        fs::rename(&log.path, &moved).expect("our directory");
        fs::write(&log.path, "another program's").expect("our directory");
        log.write_all(b"a line of more than ten bytes\n").expect("room");
        log.write_all(b"next\n").expect("room");
        assert_eq!(text(&moved), "a line of more than ten bytes\n");
        assert_eq!(text(&log.path), "another program'snext\n");
        assert!(!log.old_path().exists());
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_costs_no_line() {
        let (_directory, mut log) = log(|_| Ok(Room { total: 1 << 30, free: 1 << 29 }));
        log.write_all(b"before\n").expect("room");
        let moved = log.path.with_extension("moved");
        fs::rename(&log.path, &moved).expect("our directory");
        fs::create_dir(&log.path).expect("our directory");
        log.reopen.store(true, Ordering::SeqCst);
        log.write_all(b"after\n").expect("the file that was open goes on");
        assert_eq!(text(&moved), "before\nafter\n");
        fs::remove_dir(&log.path).expect("our directory");
        log.reopen.store(true, Ordering::SeqCst);
        log.write_all(b"later\n").expect("room");
        assert_eq!(text(&log.path), "later\n");
    }

    #[test]
    fn the_log_gives_way_to_the_data_first_its_old_half_and_then_its_lines() {
        // The old half is what fills the disk; without it, there is room.
        let (_directory, mut log) = log(|file| {
            let log = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
            let old_half = log.with_extension("log.1").exists();
            Ok(Room { total: 1 << 30, free: if old_half { 1 << 20 } else { 1 << 29 } })
        });
        fs::write(log.old_path(), "old").expect("our directory");
        log.write_all(b"kept\n").expect("the old half gave way");
        assert!(!log.old_path().exists());
        log.measure = |_| Ok(Room { total: 1 << 30, free: 1 << 20 });
        log.room = None;
        let error = log.write_all(b"lost\n").expect_err("too little is left");
        assert_eq!(error.to_string(), "the disk has only 1024 KiB left, which the log leaves to the data");
        log.measure = |_| Ok(Room { total: 1 << 30, free: 1 << 29 });
        log.room = None;
        log.write_all(b"again\n").expect("room");
        assert_eq!(text(&log.path), "kept\nagain\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .expect("our directory");
        for path in [directory.path(), &pipe] {
            let message = LogFile::open(path).err().expect("no log file");
            assert!(message.starts_with(&format!("--log-file {}:", path.display())), "{message}");
            assert!(!message.contains('\n'));
        }
    }
}
