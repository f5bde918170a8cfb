//! Where log lines end up: standard error, and a file if one is wanted.
//!
//! simplelog hands over a line in pieces; they are gathered, and the whole line leaves with one `write(2)`. Called by
//! the logger alone, which holds simplelog's lock: lines never mix.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest line, with its line break: PIPE_BUF of Linux. pipe(7) promises that a write of so many bytes to a pipe
/// is never mixed with another process's, and poll(2) that it does not block once the pipe is said to be writable.
pub const LINE_BYTES_MAX: usize = 4_096;

/// How long one line waits for a standard error that takes nothing: a reader that is merely busy catches up in this time.
/// After one such wait, lines are dropped (and counted) until it takes bytes again: logging must never hold up an
/// election because somebody pressed Ctrl-S.
const STDERR_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Time, level and target take less than this; the rest of a line is the message's.
const HEAD_BYTES_MAX: usize = 160;
const CUT_MARK_BYTES_MAX: usize = 48;
const _: () = assert!(HEAD_BYTES_MAX + super::MESSAGE_BYTES_MAX + CUT_MARK_BYTES_MAX <= LINE_BYTES_MAX);

/// Opens a log file for appending; makes it, and its directory, if need be.
///
/// # Errors
/// One line that names the file and the mend.
pub(super) fn open(path: &Path) -> Result<File, String> {
    let failed = |error: io::Error| {
        format!("--log-file {}: {error}; name a file that this user may write", path.display())
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    OpenOptions::new().append(true).create(true).open(path).map_err(failed)
}

/// Gathers the pieces of one line and writes it to all places at once.
pub(super) struct Sink {
    line: Vec<u8>,
    file: Option<File>,
    /// Whether the last write to the file failed: a full disk is told once, not per line.
    file_failed: bool,
    /// Lines that standard error did not take since it last took one.
    dropped: u64,
    /// Whether standard error gets the lines too.
    stderr: bool,
}

impl Sink {
    pub(super) fn new(file: Option<File>) -> Self {
        Self { line: Vec::with_capacity(LINE_BYTES_MAX), file, file_failed: false, dropped: 0, stderr: true }
    }

    /// Writes to the file alone.
    pub(super) fn file_only(file: File) -> Self {
        Self { stderr: false, ..Self::new(Some(file)) }
    }

    /// Writes the gathered line everywhere. Nothing that goes wrong here may reach the program: there is nobody left
    /// to tell, and a closed terminal is no reason to stop balancing load.
    fn emit(&mut self) {
        // The file first: it is the record; standard error is for whoever happens to look.
        if let Some(file) = &mut self.file {
            let result = file.write_all(&self.line);
            if let (Err(error), false) = (&result, self.file_failed) {
                let told = format!("the log file takes no more lines: {error}; make room or mend it\n");
                to_stderr(told.as_bytes(), &mut self.dropped);
            }
            self.file_failed = result.is_err();
        }
        if self.stderr {
            to_stderr(&self.line, &mut self.dropped);
        }
        self.line.clear();
    }
}

impl Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(piece);
        // Messages hold no line break (see one_line.rs), so this one is the end that simplelog puts there.
        if piece.last() == Some(&b'\n') {
            self.emit();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one line to standard error if it takes bytes now or soon; counts the line as dropped otherwise.
fn to_stderr(line: &[u8], dropped: &mut u64) {
    if !takes_bytes(if *dropped == 0 { &STDERR_WAIT } else { &NO_WAIT }) {
        *dropped = dropped.saturating_add(1);
        return;
    }
    if *dropped > 0 {
        let told = format!("({} log lines are missing here: nobody read them)\n", std::mem::take(dropped));
        let _ = io::stderr().write_all(told.as_bytes());
        // That may have been the last room there was.
        if !takes_bytes(&NO_WAIT) {
            *dropped = 1;
            return;
        }
    }
    // Rust's standard error is not buffered: this is one write(2).
    let _ = io::stderr().write_all(line);
}

/// Whether standard error takes bytes within `wait`. A broken one (closed pipe) does: the write fails at once.
fn takes_bytes(wait: &Timespec) -> bool {
    let stderr = io::stderr();
    let mut descriptors = [PollFd::new(&stderr, PollFlags::OUT)];
    match poll(&mut descriptors, Some(wait)) {
        Ok(ready) => ready > 0,
        // Interrupted by a signal, or no memory for the question: try to write rather than lose the line.
        Err(_) => true,
    }
}
