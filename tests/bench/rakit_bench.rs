//! `rakit-bench`: every measurement of this project, beside the peers, by one command.
//!
//! ```text
//! cargo bench --bench rakit-bench -- --help
//! cargo bench --bench rakit-bench                       # everything but `compare`
//! cargo bench --bench rakit-bench -- balance forwarding # these parts
//! cargo bench --bench rakit-bench -- page               # docs/benchmarks.md again, from the stored results
//! ```
//!
//! A part measures, stores its values in `tests/bench/results/`, and then docs/benchmarks.md and the tables of docs/balancing.md
//! are made from the results of all parts, with their pictures. A part that fails says so there, and the next one runs. There is one
//! file for each part; what they share is in [`members`] (clusters), [`peers`], [`statistics`] and [`page`].
//!
//! Everything runs in network, mount and process namespaces of its own (unshare(1)), if the system allows it: then no address is
//! taken, hosts can be cut off from each other, and nothing can be left behind.

mod age;
mod aims;
mod balance;
mod closed_loop;
mod compare;
mod consensus;
mod edge;
mod failover;
mod fleet;
mod forwarding;
mod grpc;
mod idle;
mod machine;
mod members;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../system/network.rs"]
mod network;
mod page;
mod part;
mod peers;
#[allow(dead_code, reason = "the chaos test uses the rest of it")]
#[path = "../system/chaos/place.rs"]
mod place;
mod plot;
mod poll;
mod process;
mod random;
mod ready;
mod results;
mod scale;
mod service;
mod stack;
mod statistics;
mod wire;
mod worker;
mod wrk;

use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser as _;
use clap::builder::PossibleValuesParser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use members::Programs;
use part::{Part, Setup};
use results::Results;

/// An error ends the part, and its text is for a person.
pub type Fallible<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// In the order of the page.
const PARTS: [&Part; 13] = [
    &balance::simulate::PART,
    &balance::choice::PART,
    &balance::PART,
    &forwarding::PART,
    &consensus::PART,
    &failover::PART,
    &scale::PART,
    &age::PART,
    &worker::PART,
    &service::PART,
    &idle::PART,
    &edge::PART,
    &compare::PART,
];

/// Makes the page again and measures nothing.
const PAGE: &str = "page";

/// The limit of open files: this process holds both ends of a thousand clients' connections.
const FILES: u64 = 65_536;

/// Measures Rakit beside nginx, HAProxy, etcd and primesieve, and writes docs/benchmarks.md
#[derive(clap::Parser, Debug)]
#[command(name = "rakit-bench", after_help = parts_help())]
struct Flags {
    /// The parts to run [default: all but `compare`]
    #[arg(value_name = "PART", value_parser = PossibleValuesParser::new(names()))]
    parts: Vec<String>,
    /// Rounds of each measurement
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// A look: one round, shorter runs, fewer settings
    #[arg(long)]
    quick: bool,
    /// Every combination of settings where a part usually takes some
    #[arg(long)]
    full: bool,
    /// compare: the target directory of the older release build
    #[arg(long, value_name = "DIR", requires = "after")]
    before: Option<PathBuf>,
    /// compare: the target directory of the newer release build
    #[arg(long, value_name = "DIR", requires = "before")]
    after: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn names() -> Vec<&'static str> {
    PARTS.iter().map(|part| part.name).chain([PAGE]).collect()
}

fn parts_help() -> String {
    let width = PARTS.iter().map(|part| part.name.len()).max().unwrap_or(0);
    let line = |name: &str, about: &str| format!("  {name:width$}  {about}\n");
    let mut text = "Parts:\n".to_owned();
    PARTS.iter().for_each(|part| text.push_str(&line(part.name, part.about)));
    text + &line(PAGE, "measure nothing, make docs/benchmarks.md from the stored results")
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rakit-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Fallible {
    let asked = |part: &&Part| {
        let named = flags.parts.iter().any(|name| name == part.name);
        named || (flags.parts.is_empty() && part.name != compare::PART.name)
    };
    let parts: Vec<&Part> = PARTS.into_iter().filter(asked).collect();
    if parts.iter().any(|part| part.name == compare::PART.name) && flags.before.is_none() {
        return Err(
            "compare needs --before DIR and --after DIR, two target directories of release builds".into()
        );
    }
    if parts.is_empty() {
        return page::write(&PARTS);
    }
    let isolated = std::env::var_os(network::INSIDE).is_some();
    if !isolated {
        peers::install()?;
        // It returns only if the system allows no namespaces.
        let reason = isolate();
        eprintln!("rakit-bench: no namespaces ({reason}): cuts are left out");
    }
    let failed = measure(flags, &parts, isolated)?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed, and said so on the page: {}", failed.join(", ")).into())
}

/// Becomes the same program inside namespaces of its own; gives the reason if that is not possible.
fn isolate() -> String {
    let inside = network::unshared().and_then(|way| {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok((way, this))
    });
    let (way, this) = match inside {
        Ok(found) => found,
        Err(reason) => return reason,
    };
    let mut command = Command::new(way[0]);
    command.args(&way[1..]).arg(this).args(std::env::args_os().skip(1)).env(network::INSIDE, "1");
    command.exec().to_string()
}

/// Runs the parts one after the other, also after one has failed. Gives the names of those that failed.
fn measure(flags: &Flags, parts: &[&Part], isolated: bool) -> Fallible<Vec<&'static str>> {
    if isolated {
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        if !status.success() {
            return Err("ip link set lo up: failed".into());
        }
    }
    raise_file_limit()?;
    // On the disk that holds the build: what is measured with fsync must not land on a disk in memory.
    let directory =
        tempfile::Builder::new().prefix("rakit-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    end_on_signals(directory.path().to_owned())?;
    let compared = match (&flags.before, &flags.after) {
        (Some(before), Some(after)) => {
            Some((Programs::in_directory(before)?, Programs::in_directory(after)?))
        }
        _ => None,
    };
    let setup = Setup {
        programs: Programs::ours(),
        compared,
        quick: flags.quick,
        full: flags.full,
        rounds_asked: flags.rounds,
        isolated,
        directory: directory.path().to_owned(),
    };
    let mut failed = Vec::new();
    for part in parts {
        println!("{}: {}", part.name, part.about);
        let mut results = Results {
            date: machine::date(),
            command: command_line(flags, part),
            quick: flags.quick,
            machine: machine::description()?,
            load_average: machine::load_average()?,
            versions: std::iter::once(("Rakit".to_owned(), env!("CARGO_PKG_VERSION").to_owned()))
                .chain(peers::versions())
                .collect(),
            ..Results::default()
        };
        if cfg!(debug_assertions) {
            results.note("**A debug build: no figure here is Rakit's**");
        }
        let started = Instant::now();
        // A panic is a defect of the benchmark, and must not end the other parts either.
        let ended = catch_unwind(AssertUnwindSafe(|| (part.run)(&setup, &mut results)));
        results.failed = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a defect of the benchmark: its output says where".to_owned()),
        };
        results.seconds = started.elapsed().as_secs_f64();
        println!("\n{}({:.0} s)\n", page::tables(part, &results), results.seconds);
        if let Some(why) = &results.failed {
            eprintln!("rakit-bench: {} failed: {why}", part.name);
            failed.push(part.name);
        }
        // After each part: whoever ends the run has what was measured until then.
        results.store(part.name)?;
        page::write(&PARTS)?;
    }
    Ok(failed)
}

/// On Ctrl-C and SIGTERM: no data stays behind, and with this process, the first of its namespace, all others end.
fn end_on_signals(directory: PathBuf) -> Fallible {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // What still runs may write while this removes: the rest is in cargo's directory for such things.
            let _ = std::fs::remove_dir_all(directory);
            std::process::exit(1);
        }
    });
    Ok(())
}

/// What repeats this part.
fn command_line(flags: &Flags, part: &Part) -> String {
    let mut line = format!("cargo bench --bench rakit-bench -- {}", part.name);
    if let Some(rounds) = flags.rounds {
        line.push_str(&format!(" --rounds {rounds}"));
    }
    for (given, flag) in [(flags.quick, " --quick"), (flags.full, " --full")] {
        line.push_str(if given { flag } else { "" });
    }
    if part.name == compare::PART.name {
        line.push_str(" --before DIR --after DIR");
    }
    line
}

fn raise_file_limit() -> Fallible {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(limit.maximum.map_or(FILES, |maximum| maximum.min(FILES)));
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}
