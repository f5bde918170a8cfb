//! The operator's program `rakit`: it runs a whole cluster on this machine ([`up`]), shows what the nodes of
//! any cluster answer ([`status`]), and moves leadership ([`transfer`]).
//!
//! | file | holds |
//! | --- | --- |
//! | `up` | `rakit up`: the checks before anything starts |
//! | `session` | the running cluster: start, ready, live table, stop |
//! | `layout`, `programs`, `configuration` | ports and files, command lines, `cluster.toml` |
//! | `children`, `ports` | processes; whether a port is free |
//! | `order`, `ctl` | what a person may do to the running cluster; `rakit ctl` |
//! | `control_room`, `steering`, `under_way`, `traffic`, `burner` | the same at `rakit up`: taking orders, carrying them out; requests at a rate; load |
//! | `check` | `rakit check`: what is not as it should be, and the mend |
//! | `report_key` | `rakit report-key`: the key for reports |
//! | `manual` | `rakit manual`: manual pages, completions |
//! | `init` | `rakit init`: files and commands for several machines |
//! | `status` | `rakit status` |
//! | `leader` | who leads, and signed orders to it: for the commands that change a cluster |
//! | `transfer` | `rakit transfer` |
//! | `servers` | `rakit servers`: the servers, and orders about them |
//! | `members` | `rakit members` |
//! | `story` | `rakit story`: all logs as one |
//! | `demo` | `rakit demo`: a demonstration that runs itself |
//! | `play` | `rakit play`: recorded schedules of the Raft core, step by step |
//! | `asking`, `comparison`, `changes` | `GET /status`, how the answers differ, what has changed |
//! | `contact` | members, and how long ago which node was heard, for `rakit status` |
//! | `lookout` | asks the nodes for what the live table and the page of the control room show |
//! | `live_table`, `headline`, `sentences` | what a person who watches sees: who leads, nodes, servers, what happened |
//! | `live_screen`, `screen` | a table redrawn in place, and lines; lines alone |
//! | `table`, `line` | text in columns; text with a style |
//!
//! `rakit node` and `rakit daemon` run the other two programs of the project (see [`programs`]).

mod asking;
mod burner;
mod changes;
mod check;
mod children;
mod comparison;
mod configuration;
mod contact;
mod control_room;
mod ctl;
mod demo;
mod headline;
mod init;
mod layout;
mod leader;
mod line;
mod live_screen;
mod live_table;
mod lookout;
mod manual;
mod members;
mod order;
mod play;
mod ports;
mod programs;
mod report_key;
mod screen;
mod sentences;
mod servers;
mod session;
mod status;
mod steering;
mod story;
mod table;
mod traffic;
mod transfer;
mod under_way;
mod up;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rakit::config::Config;
use rakit::program::{self, EXIT_FAILURE, EXIT_USAGE, LogFlags};

/// Name of the program in its messages.
const NAME: &str = "rakit";

const EXAMPLES: &str = "\
Examples:
  rakit up                          five nodes and three servers on this machine, until Ctrl-C
  curl http://127.0.0.1:8001/1000   the 1000th prime, from node 1; nodes 2 to 5 are at 8002 to 8005
  rakit status                      the status of each of these nodes, and where they differ
  rakit ctl kill node-1             end a process of that cluster; see rakit ctl --help
  rakit story --follow              all its logs as one, as it happens
  rakit play figure-8               Figure 8 of the Raft paper, step by step; rakit play lists all
  rakit transfer --to 2             have the leader hand over to node 2
  rakit servers drain server-2      send it no new requests; see rakit servers --help
  rakit up --nodes 3 --base-port 8100 --dir /tmp/second
  rakit status --watch http://10.0.0.1:8001 http://10.0.0.2:8001
  rakit init --nodes 10.0.0.1,10.0.0.2,10.0.0.3 --servers 10.0.0.4,10.0.0.5   a cluster of several machines
  rakit members add 4 --cluster 10.0.0.4:9000 --public 10.0.0.4:8000   a node more
  rakit check                       what is not as it should be, and the mend
  rakit node --help                 one node of it

Exit codes: 0 after a clean stop, 1 after a failure, 2 on bad usage or configuration.";

/// A load balancer of several nodes that agree, by Raft, on how busy each server is and whether it is alive
#[derive(Parser, Debug)]
#[command(name = NAME, version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand, Debug)]
enum CliCommand {
    /// Run a whole cluster on this machine, until Ctrl-C
    Up(up::UpFlags),
    /// Write all that several machines need to be one cluster
    Init(init::InitFlags),
    /// Find what is not as it should be, on this machine and in the cluster, and say the mend
    Check(check::CheckFlags),
    /// Show the status of every node, and where they differ
    Status(status::StatusFlags),
    /// Steer a cluster that `rakit up` runs: kill, pause, start, …
    Ctl(ctl::CtlFlags),
    /// Show all log files of a cluster that `rakit up` runs as one, in the order of events
    Story(story::StoryFlags),
    /// Play a demonstration on a local cluster: elections, failures, partitions, each explained and checked
    Demo(demo::DemoFlags),
    /// Step through recorded schedules of the Raft core: Figures 7 and 8 of the paper, a split vote, …
    Play(play::PlayFlags),
    /// Have the leader hand leadership over to another node
    Transfer(transfer::TransferFlags),
    /// Show the servers; drain, undrain or forget one
    Servers(servers::ServersFlags),
    /// Print the key for reports: what the secret file of a machine holds that may only report
    ReportKey(report_key::ReportKeyFlags),
    /// Show the members of a cluster, and add, remove or replace one
    Members(members::MembersFlags),
    /// Write manual pages and completions
    #[command(hide = true)]
    Manual(manual::ManualFlags),
    /// Run one node of the load balancer: the program rakit-node
    #[command(disable_help_flag = true)]
    Node(Rest),
    /// Run the load monitor of one server: the program rakit-daemon
    #[command(disable_help_flag = true)]
    Daemon(Rest),
}

/// Arguments that another program reads.
#[derive(clap::Args, Debug)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<OsString>,
}

/// Why the program failed.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong and how to mend it; one line.
    pub line: String,
    /// [`EXIT_FAILURE`] or [`EXIT_USAGE`].
    pub exit_code: u8,
}

impl Failure {
    /// Bad usage or bad configuration.
    pub fn usage(line: String) -> Failure {
        Failure { line, exit_code: EXIT_USAGE }
    }

    /// Anything else.
    pub fn other(line: String) -> Failure {
        Failure { line, exit_code: EXIT_FAILURE }
    }

    fn tell(self) -> ExitCode {
        if self.exit_code == EXIT_USAGE {
            program::refuse(NAME, &self.line)
        } else {
            program::fail(NAME, &self.line)
        }
    }
}

/// Reads a `cluster.toml`.
fn load_config(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|error| Failure::usage(error.to_string()))
}

/// Runs the program with these arguments (the first is its name) to its end.
///
/// Under the name `rakit-node` or `rakit-daemon` it runs that program. `rakit up` starts its children under
/// these names, so that `ps` shows which process is which.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new("rakit-node")) {
        return rakit::node::main(arguments);
    } else if name == Some(OsStr::new("rakit-daemon")) {
        return rakit::daemon::main(arguments);
    }
    // These parse their own arguments, or have none. The parser below lists the first two only for `--help`.
    let rest = |name: &str| std::iter::once(name.into()).chain(arguments.iter().skip(2).cloned());
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("node") => return rakit::node::main(rest("rakit-node")),
        Some("daemon") => return rakit::daemon::main(rest("rakit-daemon")),
        Some("leash") => return leash(&arguments[2..]),
        Some("burner") => {
            return burner::run()
                .map_or_else(|error| Failure::other(error.to_string()).tell(), |()| ExitCode::SUCCESS);
        }
        _ => {}
    }
    let cli: Cli = match program::parse(arguments.iter().cloned()) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let result = match cli.command {
        CliCommand::Up(flags) => up::run(&flags, &cli.log),
        CliCommand::Init(flags) => init::run(&flags, &cli.log),
        CliCommand::Check(flags) => check::run(&flags, &cli.log),
        CliCommand::Status(flags) => status::run(&flags, &cli.log),
        CliCommand::Ctl(flags) => ctl::run(&flags, &cli.log),
        CliCommand::Story(flags) => story::run(&flags, &cli.log),
        CliCommand::Demo(flags) => demo::run(&flags, &cli.log),
        CliCommand::Play(flags) => play::run(&flags, &cli.log),
        CliCommand::ReportKey(flags) => report_key::run(&flags),
        CliCommand::Manual(flags) => manual::run(&flags),
        CliCommand::Servers(flags) => servers::run(&flags, &cli.log),
        CliCommand::Transfer(flags) => transfer::run(&flags, &cli.log),
        CliCommand::Members(flags) => members::run(&flags, &cli.log),
        CliCommand::Node(_) | CliCommand::Daemon(_) => Err(Failure::usage(
            "the flags of `rakit node` and `rakit daemon` come after that word, not before it".to_string(),
        )),
    };
    result.unwrap_or_else(Failure::tell)
}

/// `rakit leash PARENT -- PROGRAM …`. Only `rakit up` uses it; see [`children::leash`].
fn leash(arguments: &[OsString]) -> ExitCode {
    let [parent, dashes, program, arguments @ ..] = arguments else {
        return Failure::usage("leash: PARENT -- PROGRAM … expected".to_string()).tell();
    };
    match parent.to_str().and_then(|parent| parent.parse().ok()) {
        Some(parent) if dashes == "--" => {
            let error = children::leash(parent, program, arguments);
            Failure::other(format!("{}: can't be started: {error}", program.to_string_lossy())).tell()
        }
        _ => Failure::usage("leash: PARENT -- PROGRAM … expected".to_string()).tell(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
