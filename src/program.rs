//! The common flags, exit codes, and start and stop of all programs of this project.
//!
//! Each `main` does the same: [`parse`] the command line, [`start`] (log, descriptors, parent, signals), run
//! until [`Stop`] receives a signal, [`end`] with an exit code. The exit codes (docs/operations.md): 0 after
//! a clean stop by a signal; 2 on bad usage or bad configuration (one line on standard error says what is
//! wrong and how to mend it); 1 on any other failure.
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use log::{LevelFilter, info, warn};
use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::logging;

mod service_manager;
mod stop;

pub use service_manager::ServiceManager;
pub use stop::{Stop, StopSignal};

/// After a clean stop.
pub const EXIT_OK: u8 = 0;
/// After a failure that is neither bad usage nor bad configuration.
pub const EXIT_FAILURE: u8 = 1;
/// After bad usage or bad configuration: nothing was started, and starting again without a change is useless.
pub const EXIT_USAGE: u8 = 2;

/// The flags about the log that all programs share; include them with `#[command(flatten)]`.
#[derive(clap::Args, Clone, Debug)]
pub struct LogFlags {
    /// The least important lines to log
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true,
        global = true,
        value_parser = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
            .map(|word| word.parse::<LevelFilter>().expect("these are the words that LevelFilter knows"))
    )]
    pub log_level: LevelFilter,

    /// Append the log to this file (made if it is missing) and to standard error; `rakit up`: to this file alone
    #[arg(long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
}

/// The hidden flag with which `rakit up` starts its children; include it with `#[command(flatten)]`.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct ParentFlags {
    /// End at once when the process that started this one, PID, ends in whatever way
    #[arg(long, value_name = "PID", hide = true, num_args = 0..=1, default_missing_value = "0")]
    pub stop_with_parent: Option<i32>,
}

/// Parses a command line (the first argument is the program's name).
///
/// # Errors
/// The exit code to return at once: 0 after `--help` or `--version`, [`EXIT_USAGE`] after bad usage. The
/// output was printed.
pub fn parse<Cli: clap::Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(arguments).map_err(|error| {
        if error.use_stderr() {
            let name = Cli::command().get_name().to_owned();
            let reason = match error.kind() {
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
                _ => usage_line(&error.to_string()),
            };
            refuse(&name, &format!("{reason} (see {name} --help)"))
        } else {
            // A closed pipe (`rakit --help | head -1`) is no failure.
            let _ = error.print();
            ExitCode::from(EXIT_OK)
        }
    })
}

/// An error text of clap in one line: the error and its hints, without the usage that `--help` shows.
fn usage_line(text: &str) -> String {
    let complaint = text.split("\n\nUsage:").next().unwrap_or(text);
    let complaint = complaint.split("\n\nFor more information").next().unwrap_or(complaint);
    let words: Vec<&str> = complaint.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

/// Prints one line on standard error: why the program does not start. Returns [`EXIT_USAGE`].
pub fn refuse(program: &str, reason: &dyn fmt::Display) -> ExitCode {
    tell(program, reason);
    ExitCode::from(EXIT_USAGE)
}

/// Prints one line on standard error: why the program ends. Returns [`EXIT_FAILURE`].
pub fn fail(program: &str, reason: &dyn fmt::Display) -> ExitCode {
    tell(program, reason);
    ExitCode::from(EXIT_FAILURE)
}

fn tell(program: &str, reason: &dyn fmt::Display) {
    logging::show_last_line(&format!("{program}: {reason}"));
}

/// Writes the last lines of the log and returns `code`. The last step of every `main`.
pub fn end(code: ExitCode) -> ExitCode {
    logging::flush();
    code
}

/// The first steps of a program that runs until it is stopped: with `--stop-with-parent`, ask the kernel to
/// kill it with its parent; start the log; raise the limit of open descriptors; listen for signals.
///
/// # Errors
/// The exit code to return at once. The reason was printed on standard error.
pub fn start(program: &str, log: &LogFlags, parent: ParentFlags) -> Result<Stop, ExitCode> {
    // First: before this call, the death of the parent would have no effect.
    if let Some(pid) = parent.stop_with_parent {
        stop_with_parent(pid).map_err(|reason| fail(program, &reason))?;
    }
    logging::start(log.log_level, log.log_file.as_deref()).map_err(|reason| refuse(program, &reason))?;
    raise_descriptor_limit();
    Stop::on_signals().map_err(|error| fail(program, &format!("cannot listen for signals: {error}")))
}

/// Asks the kernel to kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), so
/// that no child remains even after `kill -9` of `rakit up`. `parent` is the parent's process id; 0 means the
/// present parent.
///
/// The signal is SIGKILL, because a child that is paused (SIGSTOP) or hangs would not end by SIGTERM. All
/// programs here survive SIGKILL without loss.
///
/// The kernel watches the *thread* that started the child, not the process. So `rakit up` starts its children
/// from its main thread.
///
/// # Errors
/// One line, when the parent died before the call, or the kernel refuses the request. The caller then ends.
pub fn stop_with_parent(parent: i32) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot bind this process to its parent: {error}"))?;
    // The kernel sends the signal only for later deaths. A process whose parent died earlier has a new
    // parent: process 1 or a "subreaper" (systemd --user, a container).
    parent_is(rustix::process::getppid().map_or(0, Pid::as_raw_pid), parent)
}

/// Whether the parent is still `parent`, if it is `now`.
fn parent_is(now: i32, parent: i32) -> Result<(), String> {
    let gone = if parent == 0 { now <= 1 } else { now != parent };
    match (gone, parent) {
        (false, _) => Ok(()),
        (true, 0) => Err("the parent process is gone".to_owned()),
        (true, _) => Err(format!("the parent process {parent} is gone")),
    }
}

/// Raises the number of descriptors that this process may open (getrlimit(2), RLIMIT_NOFILE) from the soft
/// limit, usually 1024, to the hard limit. Logs and returns the new limit.
///
/// The soft limit is low only for programs that use select(2). This one does not.
pub fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // `None` means unlimited.
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if soft >= hard {
        info!("this process may open {soft} descriptors");
        return soft;
    }
    match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => {
            info!("this process may open {hard} descriptors (raised from {soft})");
            hard
        }
        Err(error) => {
            warn!("this process may open {soft} descriptors; they could not be raised to {hard}: {error}");
            soft
        }
    }
}

/// How many descriptors this process may open now (getrlimit(2), RLIMIT_NOFILE).
pub fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    #[command(name = "sample", version)]
    struct Sample {
        #[arg(long)]
        id: u64,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        parent: ParentFlags,
    }

    fn arguments(words: &[&str]) -> Vec<OsString> {
        std::iter::once("sample").chain(words.iter().copied()).map(OsString::from).collect()
    }

    #[test]
    fn common_flags_have_their_defaults_and_words() {
        let sample: Sample = parse(arguments(&["--id", "3"])).expect("enough");
        assert_eq!(sample.log.log_level, LevelFilter::Info);
        assert_eq!((sample.log.log_file, sample.parent.stop_with_parent), (None, None));
        for (word, level) in
            [("off", LevelFilter::Off), ("WARN", LevelFilter::Warn), ("trace", LevelFilter::Trace)]
        {
            let sample: Sample = parse(arguments(&["--id", "3", "--log-level", word])).expect("a level");
            assert_eq!(sample.log.log_level, level);
        }
        let sample: Sample = parse(arguments(&["--stop-with-parent", "--id", "3"])).expect("no value needed");
        assert_eq!((sample.id, sample.parent.stop_with_parent), (3, Some(0)));
        let sample: Sample = parse(arguments(&["--stop-with-parent", "77", "--id", "3"])).expect("a value");
        assert_eq!(sample.parent.stop_with_parent, Some(77));
    }

    #[test]
    fn bad_usage_is_told_in_one_line() {
        for words in [&[][..], &["--id", "x"], &["--id", "1", "--log-level", "loud"], &["--idd", "1"]] {
            let error = <Sample as clap::Parser>::try_parse_from(arguments(words)).expect_err("bad usage");
            let line = usage_line(&error.to_string());
            assert!(!line.contains('\n') && !line.contains("Usage") && !line.starts_with("error"), "{line}");
            assert!(line.contains("--id") || line.contains("--log-level"), "{line}");
        }
    }

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        // The test's own parent lives; the next process id is not it. (The kernel's part is tested with real
        // processes in tests/system/daemon.rs; here nothing may be armed for long, as test threads come and
        // go.)
        let parent = rustix::process::getppid().expect("a test has a parent").as_raw_pid();
        let gone = stop_with_parent(parent + 1);
        rustix::process::set_parent_process_death_signal(None).expect("disarms");
        assert_eq!(gone, Err(format!("the parent process {} is gone", parent + 1)));
        assert_eq!(parent_is(1, 0), Err("the parent process is gone".to_owned()));
        assert_eq!(parent_is(parent, 0), Ok(()));
    }
}
