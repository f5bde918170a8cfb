//! Logging for every Rakit program: one event, one line.
//!
//! Each program calls [`start`] once, before anything else. Then the macros of the `log` crate (`info!`,
//! `warn!`, …) write through this module. A line looks like this, and `grep` is enough to follow an election:
//!
//! ```text
//! 2026-11-23T15:51:20.123456Z [INFO] raft: node 2 became leader of term 7: 3 of 5 votes
//! ```
//!
//! First comes the time of the event: UTC, RFC 3339, to the microsecond. Then the level, and the first module
//! of the code that logs (`raft`, `node`, `daemon`, …). Lines go to standard error and, with `--log-file`,
//! also to the end of a file.
//!
//! The thread that logs makes the line and puts it into a queue; one other thread writes:
//!
//! ```text
//! info!(…) ─► one_line.rs ─► layout.rs ─► queue.rs ═► writer.rs ─► output.rs: the log file, standard error
//!             one line,      time,        bounded     many lines   counts lost lines
//!             escaped        level, room              per write    and logs the count
//! ```
//!
//! `file.rs` bounds the log file, gives way to the data when the disk gets full, and opens the file again after
//! SIGHUP ([`reopen`]). If standard error is the journal's (systemd), `priority.rs` puts the level in front as the
//! journal reads it.
//!
//! - *One event is one line*, whatever text of a peer, a client or a file is in the message ([`OneLine`]).
//!   Otherwise a request path with a line break could forge log lines, and an escape sequence could change
//!   the operator's terminal.
//! - *Logging never waits*, neither for a disk that is slow, full or frozen, nor for a pipe that nobody
//!   reads. It loses lines instead; lines of requests never push out other lines. The log itself and
//!   [`lines_dropped`] say how many are missing.
//! - *The last lines count most*: a program that ends calls [`flush`], and a panic is logged and flushed.
//! - Lines of libraries are logged only from `warn` up.
use std::cell::OnceCell;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use signal_hook::consts::SIGXFSZ;

mod file;
mod layout;
mod one_line;
mod output;
mod priority;
mod queue;
mod rate_limit;
mod writer;

pub use file::reopen;
pub use layout::LINE_BYTES_MAX;
pub use one_line::{MESSAGE_BYTES_MAX, OneLine, one_line};
pub use rate_limit::RateLimit;
pub use writer::lines_dropped;

use file::LogFile;
use layout::LineLayout;
use output::LogOutput;
use queue::{Class, Queues};
use writer::Writer;

/// Targets of this crate begin with this. It is cut off, since every line would have it.
const OWN_PREFIX: &str = "rakit::";

/// The longest target in a line, in bytes. A target is a module path, not a peer's text, but every part of a
/// line needs a bound.
const TARGET_BYTES_MAX: usize = 64;

/// How long a program that ends waits for its last lines to be written. A disk that takes longer does not
/// keep it alive.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Starts logging for this process: lines of `level` and above go to standard error and to the end of `file`.
///
/// The file is made if need be, and its directory too. If standard error leads to that very file, each line is
/// written once. Called a second time in one process (tests do), it changes nothing.
///
/// # Errors
/// When the file cannot be opened for appending, or the system gives no thread: one line that says so and the
/// mend.
pub fn start(level: LevelFilter, file: Option<&Path>) -> Result<(), String> {
    let file = file.map(LogFile::open).transpose()?;
    let stderr = file.as_ref().is_none_or(|file| !file.is_stderr()).then(|| LogOutput::new(io::stderr()));
    start_with(level, file.map(LogOutput::new).into_iter().chain(stderr).collect())
}

/// As [`start`], but to `file` alone: for a program that shows a table on the terminal, which lines on
/// standard error would break.
///
/// # Errors
/// As for [`start`].
pub fn start_in_file(level: LevelFilter, file: &Path) -> Result<(), String> {
    start_with(level, vec![LogOutput::new(LogFile::open(file)?)])
}

fn start_with(level: LevelFilter, outputs: Vec<LogOutput>) -> Result<(), String> {
    let queues = Arc::new(Queues::default());
    let logger = OneLineLogger { level, queues: Arc::clone(&queues) };
    if log::set_boxed_logger(Box::new(logger)).is_err() {
        return Ok(());
    }
    log::set_max_level(level);
    // Beyond RLIMIT_FSIZE, SIGXFSZ ends the process (setrlimit(2)). With any handler, only the write fails.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map_err(|error| format!("cannot ignore SIGXFSZ: {error}"))?;
    start_writer(queues, outputs)?;
    log_panics();
    Ok(())
}

fn start_writer(queues: Arc<Queues>, outputs: Vec<LogOutput>) -> Result<(), String> {
    let writer = Writer { queues: Arc::clone(&queues), outputs };
    let thread = std::thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.run())
        .map_err(|error| format!("the system gives no thread for the log: {error}"))?;
    queues.set_writer(thread.thread().clone());
    Ok(())
}

/// Logs each panic and flushes, since the process may end by it.
fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if log::max_level() < Level::Error {
            return usual(panic);
        }
        let thread = std::thread::current();
        log::error!("thread '{}': {panic}", thread.name().unwrap_or("without a name"));
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            backtrace.to_string().lines().for_each(|line| log::error!("{line}"));
        }
        flush();
    }));
}

/// Waits until every line that was logged before is written, for a second at most. For a program that ends.
pub fn flush() {
    log::logger().flush();
}

/// Writes one line of plain text to standard error, after all that was logged before. For a program that
/// ends. The line is dropped if standard error takes nothing for a second.
pub fn show_last_line(line: &str) {
    flush();
    output::write_to_stderr(&format!("{}\n", one_line(line)), FLUSH_PATIENCE);
}

thread_local! {
    static LAYOUT: OnceCell<LineLayout> = const { OnceCell::new() };
}

/// Makes every record one bounded line and leaves it to the writer.
struct OneLineLogger {
    level: LevelFilter,
    queues: Arc<Queues>,
}

impl Log for OneLineLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Lines of libraries (ureq, rustix, …) below `warn` are for their developers.
        let limit = if is_own(metadata.target()) { Level::Trace } else { Level::Warn };
        metadata.level() <= limit && metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut message = OneLine::new(MESSAGE_BYTES_MAX);
        // A `Display` that fails is a defect in the caller. The text until then is still logged.
        let _ = write!(message, "{}", record.args());
        let message = message.finish();
        let class = Class::of(record.target(), record.level());
        let lay_out = |layout: &LineLayout| {
            layout.line(record.level(), room(record.target()), &message, |line| {
                self.queues.push(class, line);
            });
        };
        // A thread that is ending has lost its thread-local layout, but may still log.
        if LAYOUT.try_with(|layout| lay_out(layout.get_or_init(LineLayout::new))).is_err() {
            lay_out(&LineLayout::new());
        }
    }

    fn flush(&self) {
        self.queues.flush(FLUSH_PATIENCE);
    }
}

/// Whether a target is a module of this project.
fn is_own(target: &str) -> bool {
    target == "rakit" || target.starts_with(OWN_PREFIX)
}

/// The short name of a target: `raft` for `rakit::raft::election`.
fn room(target: &str) -> &str {
    let short = match target.strip_prefix(OWN_PREFIX) {
        Some(inside) => inside.split("::").next().unwrap_or(inside),
        None => target,
    };
    // Module paths are ASCII, so that the cut falls between characters.
    short.get(..TARGET_BYTES_MAX).unwrap_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::mpsc;

    /// Longer than any passing test takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn logger(level: LevelFilter, outputs: Vec<LogOutput>) -> OneLineLogger {
        let queues = Arc::new(Queues::default());
        let logger = OneLineLogger { level, queues: Arc::clone(&queues) };
        start_writer(queues, outputs).expect("a thread");
        logger
    }

    fn log(logger: &OneLineLogger, target: &str, level: Level, text: &str) {
        let metadata = Metadata::builder().level(level).target(target).build();
        logger.log(&Record::builder().metadata(metadata).args(format_args!("{text}")).build());
    }

    #[test]
    fn a_room_is_named_by_the_first_module() {
        assert_eq!(room("rakit::raft::election"), "raft");
        assert_eq!(room("rakit::daemon"), "daemon");
        assert_eq!(room("ureq::unversioned"), "ureq::unversioned");
        assert_eq!(room("rakitoid::x"), "rakitoid::x");
    }

    /// A hostile record, through the logger and simplelog to the bytes of a file.
    #[test]
    fn one_event_is_one_line_with_time_level_and_room() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("logs/new/node.log");
        let file = LogOutput::new(LogFile::open(&path).expect("makes the directories"));
        let logger = logger(LevelFilter::Info, vec![file]);
        log(&logger, "rakit::raft::election", Level::Info, "asked for /1\n2026 [INFO] raft: forged\u{1b}[2J");
        log(&logger, "rakit::raft", Level::Debug, "below the level");
        log(&logger, "ureq::pool", Level::Info, "chatter of a library");
        log(&logger, "ureq::pool", Level::Warn, "a warning of a library");
        log(&logger, "rakit::node", Level::Error, &"x".repeat(3 * LINE_BYTES_MAX));
        logger.queues.flush(PATIENCE);

        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let (time, rest) = lines[0].split_once(' ').expect("a time and the rest");
        assert_eq!(rest, "[INFO] raft: asked for /1\\n2026 [INFO] raft: forged\\u{1b}[2J");
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        assert!(lines[1].ends_with("[WARN] ureq::pool: a warning of a library"), "{}", lines[1]);
        assert!(lines[2].len() < LINE_BYTES_MAX, "{} bytes", lines[2].len());
        assert!(lines[2].ends_with("more bytes)"), "{}", lines[2]);
    }

    /// A disk whose writes do not return before it is thawed. Then the test can read the written bytes.
    struct FrozenDisk {
        /// Hears of each write.
        begun: mpsc::Sender<()>,
        thawed: mpsc::Receiver<()>,
        pipe: PipeWriter,
    }

    fn frozen_disk() -> (LogOutput, mpsc::Receiver<()>, mpsc::Sender<()>, PipeReader) {
        let (begun, begins) = mpsc::channel();
        let (thaw, thawed) = mpsc::channel();
        let (written, pipe) = io::pipe().expect("a pipe");
        (LogOutput::on_disk(FrozenDisk { begun, thawed, pipe }), begins, thaw, written)
    }

    impl Write for FrozenDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(()); // Nobody may listen.
            let _ = self.thawed.recv(); // Thawed for good once the sender is gone.
            self.pipe.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for FrozenDisk {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.pipe.as_fd()
        }
    }

    #[test]
    fn a_frozen_disk_costs_lines_of_requests_holds_up_nobody_and_loses_nothing_else() {
        let (disk, begins, thaw, mut written) = frozen_disk();
        let logger = logger(LevelFilter::Info, vec![disk]);
        // From here on the writer hangs, and takes no line before the disk is thawed.
        log(&logger, "rakit::raft", Level::Info, "the first line");
        begins.recv().expect("the writer writes it");
        let dropped_before = lines_dropped();
        let long = "x".repeat(1_000);
        let requests = 2 * queue::REQUESTS_BYTES_MAX / long.len();
        for number in 0..requests {
            log(&logger, "rakit::node::forwarding", Level::Info, &format!("request {number} {long}"));
            if number % 100 == 0 {
                log(&logger, "rakit::raft", Level::Info, &format!("consensus {}", number / 100));
            }
        }
        logger.queues.flush(Duration::ZERO); // Returns, although nothing is written.

        drop(thaw);
        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut chunk = [0; 64 * 1024];
            // The note is the last line: it follows what waited.
            while !String::from_utf8_lossy(&text[text.len().saturating_sub(200)..])
                .contains("are missing here")
            {
                let count = written.read(&mut chunk).expect("readable");
                assert!(count > 0, "the note came before the end");
                text.extend_from_slice(&chunk[..count]);
            }
            (String::from_utf8(text).expect("text"), written)
        });
        let (text, _written) = reading.join().expect("whole lines");
        let with = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(with("raft: consensus "), requests / 100 + 1);
        let note = text.lines().find(|line| line.contains("are missing here")).expect("a note");
        let missing = requests - with("node: request ");
        assert!(
            missing > 0 && note.contains(&format!(" {missing} log lines are missing here")),
            "{note}, not {missing}"
        );
        logger.queues.flush(PATIENCE);
        assert!(lines_dropped() - dropped_before >= missing as u64);
    }
}
