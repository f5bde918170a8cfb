//! Where log lines end up: standard error, and a file if one is wanted.
//!
//! Called by the writer thread (`writer.rs`). Each output may fail by itself: a full disk, a file at its size
//! limit, a terminal that was stopped with Ctrl-S, a pipe that nobody reads. Then the output loses lines and
//! counts them. As soon as it takes bytes again, it logs how many are missing.
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;

use super::layout::{LINE_BYTES_MAX, LineLayout};
use super::priority;

/// How long the writer waits for a pipe or a terminal that takes nothing: a busy reader catches up in this
/// time. After one such wait, the writer does not wait again until the output takes bytes.
const READER_PATIENCE: Duration = Duration::from_millis(50);

/// What an output writes to: a file or standard error; in tests also a simulated broken disk.
pub(super) trait LogTarget: Write + AsFd + Send {}

impl<P: Write + AsFd + Send> LogTarget for P {}

/// One place, and the lines that it has lost.
pub(super) struct LogOutput {
    place: Box<dyn LogTarget>,
    /// A pipe, a socket or a terminal: it may take nothing for as long as nobody reads it.
    has_reader: bool,
    /// It is the journal's stream, where each line begins with its priority.
    is_journal: bool,
    /// How many lines are lost and not yet reported in the output, and why.
    lost: u64,
    why: String,
    /// It took the last line only in part: a line break must come before the next line.
    torn: bool,
}

/// How many lines of a write were lost, and why.
struct Unwritten {
    lines: u64,
    why: String,
}

impl LogOutput {
    pub(super) fn new(place: impl LogTarget + 'static) -> Self {
        let kind = rustix::fs::fstat(&place).map(|status| FileType::from_raw_mode(status.st_mode));
        let has_reader = !matches!(kind, Ok(FileType::RegularFile));
        let is_journal = priority::is_journal(&place);
        Self { place: Box::new(place), has_reader, is_journal, lost: 0, why: String::new(), torn: false }
    }

    /// An output that is written without poll(2) first, as for a disk.
    #[cfg(test)]
    pub(super) fn on_disk(place: impl LogTarget + 'static) -> Self {
        Self { has_reader: false, ..Self::new(place) }
    }

    /// Writes whole lines. Returns how many were lost.
    pub(super) fn write(&mut self, lines: &[u8], layout: &LineLayout) -> u64 {
        let missed = if self.lost > 0 && !self.tell(layout) {
            line_count(lines)
        } else if let Err(Unwritten { lines, why }) = self.put(lines, READER_PATIENCE) {
            self.why = why;
            lines
        } else {
            0
        };
        self.lost += missed;
        missed
    }

    /// Counts lines that were lost before they reached this output.
    pub(super) fn lose(&mut self, lines: u64, why: &str) {
        if lines > 0 {
            self.lost += lines;
            why.clone_into(&mut self.why);
        }
    }

    /// Whether it has lost lines and has not reported them yet.
    pub(super) fn is_behind(&self) -> bool {
        self.lost > 0
    }

    /// Logs how many lines are missing, if any are. `false` if the output does not take that line either.
    pub(super) fn tell(&mut self, layout: &LineLayout) -> bool {
        if self.lost == 0 {
            return true;
        }
        let message = format!("{} log lines are missing here: {}", self.lost, self.why);
        let written = layout.line(Level::Warn, "logging", &message, |line| self.put(line, Duration::ZERO));
        match written {
            Ok(()) => self.lost = 0,
            Err(unwritten) => self.why = unwritten.why,
        }
        self.lost == 0
    }

    /// Writes all lines, and waits for a reader for `patience` at most. An error here must not stop the
    /// program: a closed terminal is no reason to stop balancing load.
    fn put(&mut self, lines: &[u8], patience: Duration) -> Result<(), Unwritten> {
        let deadline = Instant::now() + patience;
        let with_priorities = if self.is_journal { priority::before_each(lines) } else { Vec::new() };
        let lines = if self.is_journal { &with_priorities } else { lines };
        let unwritten = |written: usize| move |why| Unwritten { lines: line_count(&lines[written..]), why };
        if self.torn {
            self.put_piece(b"\n", deadline).map_err(unwritten(0))?;
        }
        let mut written = 0;
        while written < lines.len() {
            let piece = self.piece(&lines[written..]);
            written += self.put_piece(piece, deadline).map_err(unwritten(written))?;
        }
        Ok(())
    }

    /// The lines for one write: all of them for a file; for a reader, at most `LINE_BYTES_MAX` bytes, which
    /// do not block and are not mixed with another process's lines.
    fn piece<'a>(&self, lines: &'a [u8]) -> &'a [u8] {
        if !self.has_reader || lines.len() <= LINE_BYTES_MAX {
            return lines;
        }
        let whole = lines[..LINE_BYTES_MAX].iter().rposition(|byte| *byte == b'\n');
        &lines[..whole.map_or(LINE_BYTES_MAX, |end| end + 1)]
    }

    /// One write(2); returns how many bytes were written.
    fn put_piece(&mut self, piece: &[u8], deadline: Instant) -> Result<usize, String> {
        if self.has_reader && !self.takes_bytes_by(deadline) {
            return Err("nobody read them".to_owned());
        }
        loop {
            match self.place.write(piece) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).to_string()),
                Ok(taken) => {
                    self.torn = piece[taken - 1] != b'\n';
                    return Ok(taken);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Whether it can take bytes before `deadline`. True for a closed pipe, too: its write fails at once.
    fn takes_bytes_by(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.place, PollFlags::OUT)], Some(&left)) {
            Ok(ready) => ready > 0,
            // Interrupted by a signal, or no memory for poll(2): try to write rather than lose the line.
            Err(_) => true,
        }
    }
}

/// Writes one line to standard error, and waits for its reader for `patience` at most. For a program that
/// ends.
pub(super) fn write_to_stderr(line: &str, patience: Duration) {
    // Ignored: standard error is the last place where an error could be shown.
    let _ = LogOutput::new(io::stderr()).put(line.as_bytes(), patience);
}

fn line_count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::BorrowedFd;
    use std::sync::{Arc, Mutex};

    /// A disk that takes `room` bytes and is full then.
    #[derive(Clone)]
    struct SmallDisk {
        file: Arc<File>,
        taken: Arc<Mutex<Vec<u8>>>,
        room: Arc<Mutex<usize>>,
    }

    impl SmallDisk {
        fn new(room: usize) -> Self {
            let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
            Self { file, taken: Arc::default(), room: Arc::new(Mutex::new(room)) }
        }

        fn make_room(&self, bytes: usize) {
            *self.room.lock().expect("not poisoned") += bytes;
        }

        /// The written lines, without their times.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.taken.lock().expect("not poisoned").clone()).expect("text");
            text.lines()
                .map(|line| line.split_once("Z [").map_or(line, |(_, rest)| rest).to_owned())
                .collect()
        }
    }

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().expect("not poisoned");
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= taken;
            self.taken.lock().expect("not poisoned").extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for SmallDisk {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many_when_it_has_room_again() {
        let disk = SmallDisk::new(8);
        let mut output = LogOutput::new(disk.clone());
        let layout = LineLayout::new();
        assert_eq!(output.write(b"one\ntwo\nthree\nfour\n", &layout), 2);
        assert_eq!(output.write(b"five\n", &layout), 1);
        assert!(output.is_behind() && !output.tell(&layout));
        disk.make_room(10_000);
        assert_eq!(output.write(b"six\n", &layout), 0);
        assert!(!output.is_behind());
        let told = format!(
            "WARN] logging: 3 log lines are missing here: {}",
            io::Error::from(ErrorKind::StorageFull)
        );
        assert_eq!(disk.lines(), ["one", "two", &told, "six"]);
    }

    #[test]
    fn a_line_that_was_cut_short_counts_as_lost_and_the_next_begins_a_new_line() {
        let disk = SmallDisk::new(6);
        let mut output = LogOutput::new(disk.clone());
        let layout = LineLayout::new();
        assert_eq!(output.write(b"one\ntwo\nthree\n", &layout), 2);
        disk.make_room(10_000);
        assert!(output.tell(&layout));
        let lines = disk.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[..2], ["one", "tw"]);
        assert!(lines[2].starts_with("WARN] logging: 2 log lines are missing here: "), "{lines:?}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_loses_lines_but_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut output = LogOutput::new(writer);
        let layout = LineLayout::new();
        let line = format!("{}\n", "x".repeat(999));
        // More than any pipe holds without asking (pipe(7): 64 KiB); a write that blocked would never end.
        let missed = output.write(line.repeat(2_000).as_bytes(), &layout);
        assert!((1..2_000).contains(&missed), "{missed}");
        let mut held = vec![0; (2_000 - missed as usize) * line.len()];
        reader.read_exact(&mut held).expect("whole lines");
        assert_eq!(output.write(b"again\n", &layout), 0);
        drop(output);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let lines: Vec<&str> = rest.lines().collect();
        assert_eq!(lines.len(), 2, "{rest}");
        assert!(
            lines[0]
                .ends_with(&format!("[WARN] logging: {missed} log lines are missing here: nobody read them"))
        );
        assert_eq!(lines[1], "again");
    }
}
