//! What every Rakit program logs with: one event, one line, one `write(2)`.
//!
//! All programs call [`start`] once, first thing; from then on the macros of the `log` crate (`info!`, `warn!`, …)
//! lead here. A line looks like this, and `grep` is all that is needed to follow an election:
//!
//! ```text
//! 2026-11-23T15:51:20.123Z [INFO] raft: node 2 became leader of term 7: 3 of 5 votes
//! ```
//!
//! The time is UTC, RFC 3339, to the millisecond; then the level and the room of the house that speaks (`raft`, `node`,
//! `daemon`, …: the module path without the crate's name). Lines go to standard error and, with `--log-file`, also to
//! the end of a file.
//!
//! simplelog writes the line's parts; what it does not do is done around it:
//! - *one event is one line*, whatever a peer, a client or a file put into the message ([`OneLine`]): otherwise a
//!   request path with a line break forges log lines, and an escape sequence rewrites the operator's terminal;
//! - a line has a bounded length and is written with one system call, so that lines of several processes that share
//!   a pipe or a file never mix (`sink.rs`);
//! - a terminal that was stopped with Ctrl-S, or a pipe that nobody reads, loses lines but never stops the node
//!   (`sink.rs`);
//! - the libraries' own chatter is let through from `warn` up only.
use std::fmt::Write as _;
use std::path::Path;

use log::{Level, LevelFilter, Log, Metadata, Record};

mod one_line;
mod rate_limit;
mod sink;

pub use one_line::{MESSAGE_BYTES_MAX, OneLine, one_line};
pub use rate_limit::RateLimit;
pub use sink::LINE_BYTES_MAX;

use sink::Sink;

/// Targets of this crate begin so; it is cut off, as every line would carry it.
const OWN_PREFIX: &str = "rakit::";

/// A target is a module path, chosen by code, not by a peer; the bound only keeps the length of a line a sum of bounds.
const TARGET_BYTES_MAX: usize = 64;

/// Starts logging for this process: lines of `level` and above go to standard error and to the end of `file`.
///
/// The file is made if need be, and its directory too. Called a second time in one process (tests do), it changes
/// nothing.
///
/// # Errors
/// When the file cannot be opened for appending: one line that names it and the mend.
pub fn start(level: LevelFilter, file: Option<&Path>) -> Result<(), String> {
    let file = file.map(sink::open).transpose()?;
    start_with(level, Sink::new(file));
    Ok(())
}

/// The same, but to the end of `file` alone: for a program that shows the user on the terminal what it logs, in another
/// form, and whose table would be torn by lines on standard error.
///
/// # Errors
/// As for [`start`].
pub fn start_in_file(level: LevelFilter, file: &Path) -> Result<(), String> {
    start_with(level, Sink::file_only(sink::open(file)?));
    Ok(())
}

fn start_with(level: LevelFilter, sink: Sink) {
    let logger = OneLineLogger { inner: simplelog::WriteLogger::new(level, layout(), sink) };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// How simplelog lays out a line.
fn layout() -> simplelog::Config {
    simplelog::ConfigBuilder::new()
        // simplelog's own RFC 3339 format shows as many digits of the second as happen not to be zero; columns that
        // jump are hard to read, and a millisecond is what an election is told apart by.
        .set_time_format_custom(time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        // "From this level on, show …": the target always, thread and source line never.
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// Makes every record one bounded line before simplelog sees it.
struct OneLineLogger {
    inner: Box<simplelog::WriteLogger<Sink>>,
}

impl Log for OneLineLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries (ureq, rustix, …) tell below `warn` is for their developers.
        let limit = if is_own(metadata.target()) { Level::Trace } else { Level::Warn };
        metadata.level() <= limit && self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut message = OneLine::new(MESSAGE_BYTES_MAX);
        // A `Display` that fails is a defect of whoever wrote it; what it gave until then is still worth a line.
        let _ = write!(message, "{}", record.args());
        let message = message.finish();
        let metadata = Metadata::builder().level(record.level()).target(room(record.target())).build();
        self.inner.log(&Record::builder().metadata(metadata).args(format_args!("{message}")).build());
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// Whether a target is a module of this project.
fn is_own(target: &str) -> bool {
    target == "rakit" || target.starts_with(OWN_PREFIX)
}

/// The short name of a target: `rakit::raft::election` speaks as `raft`.
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

    #[test]
    fn a_room_is_named_by_the_first_module() {
        assert_eq!(room("rakit::raft::election"), "raft");
        assert_eq!(room("rakit::daemon"), "daemon");
        assert_eq!(room("ureq::unversioned"), "ureq::unversioned");
        assert_eq!(room("rakitoid::x"), "rakitoid::x");
    }

    /// The whole way of a hostile record: through the logger and simplelog to the bytes of a file.
    #[test]
    fn one_event_is_one_line_with_time_level_and_room() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("logs/new/node.log");
        let sink = Sink::file_only(sink::open(&path).expect("makes the directories"));
        let logger = OneLineLogger { inner: simplelog::WriteLogger::new(LevelFilter::Info, layout(), sink) };
        let log = |target: &str, level: Level, text: &str| {
            let metadata = Metadata::builder().level(level).target(target).build();
            logger.log(&Record::builder().metadata(metadata).args(format_args!("{text}")).build());
        };
        log("rakit::raft::election", Level::Info, "asked for /1\n2026 [INFO] raft: forged\u{1b}[2J");
        log("rakit::raft", Level::Debug, "below the level");
        log("ureq::pool", Level::Info, "chatter of a library");
        log("ureq::pool", Level::Warn, "a warning of a library");
        log("rakit::node", Level::Error, &"x".repeat(3 * LINE_BYTES_MAX));

        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let (time, rest) = lines[0].split_once(' ').expect("a time and the rest");
        assert_eq!(rest, "[INFO] raft: asked for /1\\n2026 [INFO] raft: forged\\u{1b}[2J");
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z");
        assert!(lines[1].ends_with("[WARN] ureq::pool: a warning of a library"), "{}", lines[1]);
        assert!(lines[2].len() < LINE_BYTES_MAX, "{} bytes", lines[2].len());
        assert!(lines[2].ends_with("more bytes)"), "{}", lines[2]);
    }

    #[test]
    fn a_log_file_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let message = sink::open(directory.path()).expect_err("a directory is no log file");
        assert!(message.starts_with(&format!("--log-file {}:", directory.path().display())), "{message}");
        assert!(!message.contains('\n'));
    }
}
