//! The command line of each process of a local cluster, for `rakit up` and for a user who restarts a process
//! by hand.
//!
//! The program `rakit` contains all programs of the project, so that all processes are of the same build:
//! `cargo run -- up` builds only `rakit`, and a `rakit-node` beside it may be older.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;
use super::children::{Invocation, leashed};
use super::layout::{DIRECTORY_DEFAULT, Layout, Part, server_name, shown};

/// The file of the running program, even after a newer build replaced it (man 5 proc_pid_exe).
const SELF: &str = "/proc/self/exe";
/// The interpreter of `worker.py`, found by PATH.
const PYTHON: &str = "python3";
/// The source of the worker. It is written into DIR, so that `rakit` needs no other file to run a cluster.
pub const WORKER_SOURCE: &str = include_str!("../../worker.py");

/// The programs on this machine.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The path of this program, to start it again.
    own: PathBuf,
    /// How a user in the current directory calls it.
    own_by_hand: PathBuf,
}

impl Programs {
    /// Finds this program and a Python that can run the worker.
    ///
    /// # Errors
    /// There is no Python 3.
    pub fn find() -> Result<Programs, Failure> {
        let python = Command::new(PYTHON)
            .args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !python.is_ok_and(|status| status.success()) {
            return Err(Failure::other(
                "python3, version 3.9 or later, is needed for the workers and was not found; install it (Debian, \
                 Ubuntu: apt install python3; Fedora: dnf install python3)"
                    .to_string(),
            ));
        }
        let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(SELF));
        let own = if same_file(&path, Path::new(SELF)) { path.clone() } else { PathBuf::from(SELF) };
        let here = std::env::current_dir().unwrap_or_default();
        let own_by_hand = path.strip_prefix(&here).map_or(path.clone(), Path::to_path_buf);
        Ok(Programs { own, own_by_hand })
    }

    /// How `rakit up` starts this part. A daemon measures the process `worker_pid`; a node takes orders to cut cables,
    /// and begins with nothing arriving from the nodes `deaf_to`. Other parts ignore both.
    ///
    /// Standard error goes to the log file, too, see [`super::children::Children::start`].
    pub fn invocation(&self, layout: &Layout, part: Part, worker_pid: u32, deaf_to: &[u16]) -> Invocation {
        let mut arguments = arguments(layout, part, worker_pid);
        let shown_as = match part {
            Part::Node(_) => {
                let ids: Vec<String> = deaf_to.iter().map(u16::to_string).collect();
                arguments.push("--deaf-to".into());
                arguments.extend((!ids.is_empty()).then(|| ids.join(",").into()));
                "rakit-node"
            }
            Part::Daemon(_) => "rakit-daemon",
            // Its name is an argument, since `rakit` itself is the program.
            Part::Burner(_) => {
                return Invocation { program: self.own.clone(), shown_as: None, arguments };
            }
            Part::Worker(_) => {
                // It limits the file's length, which standard error alone would not.
                arguments.extend(["--log-file".into(), layout.log_file(part).into_os_string()]);
                let worker = Invocation { program: PYTHON.into(), shown_as: None, arguments };
                return leashed(&self.own, &worker);
            }
        };
        arguments.extend(["--log-file".into(), layout.log_file(part).into_os_string()]);
        arguments.push(format!("--stop-with-parent={}", std::process::id()).into());
        Invocation { program: self.own.clone(), shown_as: Some(shown_as), arguments }
    }

    /// The shell command that gives this order to the running cluster.
    pub fn ctl(&self, layout: &Layout, order: &str) -> String {
        let mut arguments: Vec<OsString> = vec!["ctl".into()];
        arguments.extend(order.split(' ').map(OsString::from));
        if layout.dir != Path::new(DIRECTORY_DEFAULT) {
            arguments.extend(["--dir".into(), layout.dir.clone().into_os_string()]);
        }
        Invocation { program: self.own_by_hand.clone(), shown_as: None, arguments }.shell_line()
    }

    /// The shell command with which the user starts this part without `rakit up`.
    pub fn by_hand(&self, layout: &Layout, part: Part, worker_pid: u32) -> String {
        let mut arguments = arguments(layout, part, worker_pid);
        arguments.extend(["--log-file".into(), layout.log_file(part).into_os_string()]);
        let (program, word) = match part {
            Part::Node(_) => (self.own_by_hand.clone(), Some("node")),
            Part::Daemon(_) => (self.own_by_hand.clone(), Some("daemon")),
            Part::Worker(_) => (PathBuf::from(PYTHON), None),
            Part::Burner(_) => (self.own_by_hand.clone(), None),
        };
        if let Some(word) = word {
            arguments.insert(0, word.into());
        }
        Invocation { program, shown_as: None, arguments }.shell_line()
    }
}

/// The arguments that this part needs however it is started.
fn arguments(layout: &Layout, part: Part, worker_pid: u32) -> Vec<OsString> {
    let config = layout.config_file().into_os_string();
    match part {
        Part::Node(id) => vec!["--config".into(), config, "--id".into(), id.to_string().into()],
        Part::Worker(j) => {
            let address = layout.worker(j);
            vec![
                layout.worker_script().into_os_string(),
                "--bind".into(),
                address.ip().to_string().into(),
                "--port".into(),
                address.port().to_string().into(),
            ]
        }
        Part::Daemon(j) => vec![
            "--config".into(),
            config,
            "--server".into(),
            server_name(j).into(),
            "--worker".into(),
            layout.worker(j).to_string().into(),
            "--measure".into(),
            format!("process:{worker_pid}").into(),
            "--measure-also".into(),
            layout.load_file(j).into_os_string(),
        ],
        Part::Burner(_) => vec!["burner".into()],
    }
}

/// Whether both paths lead to one file.
pub fn same_file(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Writes the embedded worker into the cluster's directory.
///
/// # Errors
/// The file can't be written.
pub fn write_worker(layout: &Layout) -> Result<(), Failure> {
    let path = layout.worker_script();
    rakit::storage::replace(&path, WORKER_SOURCE.as_bytes())
        .map_err(|error| Failure::other(format!("{}: can't be written: {error}", shown(&path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command lines that the README shows.
    #[test]
    fn the_lines_for_a_user_s_hand_are_the_documented_ones() {
        let layout = Layout { dir: "rakit-cluster".into(), nodes: 5, servers: 3, base_port: 8000 };
        let programs = Programs { own: SELF.into(), own_by_hand: "target/release/rakit".into() };
        let lines =
            [Part::Node(3), Part::Worker(2), Part::Daemon(2)].map(|part| programs.by_hand(&layout, part, 77));
        assert_eq!(
            lines,
            [
                "target/release/rakit node --config rakit-cluster/cluster.toml --id 3 \
                 --log-file rakit-cluster/logs/node-3.log",
                "python3 rakit-cluster/worker.py --bind 127.0.0.1 --port 10002 \
                 --log-file rakit-cluster/logs/server-2-worker.log",
                "target/release/rakit daemon --config rakit-cluster/cluster.toml --server server-2 \
                 --worker 127.0.0.1:10002 --measure process:77 --measure-also rakit-cluster/server-2.load \
                 --log-file rakit-cluster/logs/server-2-daemon.log",
            ]
        );
        assert_eq!(programs.ctl(&layout, "start node-3"), "target/release/rakit ctl start node-3");
        let elsewhere = Layout { dir: "my cluster".into(), ..layout };
        assert_eq!(
            programs.ctl(&elsewhere, "kill server-1/worker"),
            "target/release/rakit ctl kill server-1/worker --dir 'my cluster'"
        );
    }
}
