//! Starts, watches and stops the processes of a local cluster, so that none remains.
//!
//! Only the main thread of `rakit up` uses it. Three decisions ensure that no process remains:
//! - Each child leads its own process group (man 2 setpgid). Ctrl-C on the terminal then reaches only `rakit
//!   up`, which stops the children in order. A worker can be killed together with its pool.
//! - When a child has died, its group is killed *before* the child is reaped. Until then the kernel gives its
//!   process id, which is also the group's id, to no other process. So a pool never outlives its worker, even
//!   after kill -9 of the worker.
//! - If `rakit up` itself dies, the kernel sends each child a signal (`PR_SET_PDEATHSIG`, man 2 prctl). Nodes
//!   and daemons request it with `--stop-with-parent`; for the worker, which has no such flag, [`leash`]
//!   requests it. The kernel sends the signal when the *thread* that started the child ends, so the main
//!   thread starts all children.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::layout::Part;

/// How long a daemon may take to stop after SIGTERM.
const DAEMON_GRACE: Duration = Duration::from_secs(2);
/// How long a node may take to stop. By itself it gives its clients' requests 10 s; here they are cut off earlier.
const NODE_GRACE: Duration = Duration::from_secs(5);
/// How long a worker may take to stop: it first ends its pool.
const WORKER_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for a process after SIGKILL. Only a process that hangs in the kernel, for example on a
/// dead disk, takes longer.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Found by PATH if it has no slash.
    pub program: PathBuf,
    /// `argv[0]`, which `ps` shows, if it differs from the program's path.
    pub shown_as: Option<&'static str>,
    /// Without `argv[0]`.
    pub arguments: Vec<OsString>,
}

impl Invocation {
    /// As a line for a POSIX shell.
    pub fn shell_line(&self) -> String {
        std::iter::once(self.program.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(|word| shell_word(&word.to_string_lossy()))
            .collect::<Vec<String>>()
            .join(" ")
    }
}

/// The word as a POSIX shell reads it: without quotes where that is safe, otherwise in single quotes.
pub fn shell_word(word: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(bare) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// One started process.
#[derive(Debug)]
pub struct Child {
    /// Which one it is.
    pub part: Part,
    /// Its process id, and its group's.
    pub pid: u32,
    /// How it ended; `None` while it runs.
    pub ended: Option<ExitStatus>,
    handle: std::process::Child,
}

impl Child {
    fn id(&self) -> Pid {
        Pid::from_child(&self.handle)
    }

    /// Sends the signal to the process, unless it was reaped: its id may then belong to another process.
    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // The only possible error is that the process has just ended. The next check finds that.
            let _ = rustix::process::kill_process(self.id(), signal);
        }
    }

    /// Sends the signal to the process and all of its group, as [`signal`](Child::signal) does: a worker computes in
    /// processes of its own.
    pub fn signal_group(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = rustix::process::kill_process_group(self.id(), signal);
        }
    }

    /// Whether the process has ended. If so, kills the rest of its group and reaps it.
    fn reap(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(self.id()), look) {
            Ok(None) => false,
            // It ended, or it is no child of this process (ECHILD). `wait` does not block in either case.
            Ok(Some(_)) | Err(_) => {
                let _ = rustix::process::kill_process_group(self.id(), Signal::KILL);
                self.ended = Some(self.handle.wait().unwrap_or_else(|_| ExitStatus::from_raw(0)));
                true
            }
        }
    }
}

/// How a process ended, in words that follow its name: "was killed by signal 9", "exited with code 2".
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

/// Whether a process belongs to a stage of stopping.
type Member = fn(Part) -> bool;

/// The process that was started last for each part, in the order of starting. Dropping this kills all of them, so that none
/// remains after a panic.
#[derive(Debug, Default)]
pub struct Children {
    list: Vec<Child>,
}

impl Children {
    /// Starts `invocation` as `part`. Its standard error is appended to the file `log`, so that the file also
    /// holds early errors and panics. A program whose `--log-file` is that file writes each line once.
    ///
    /// # Errors
    /// The program can't be started or the file can't be opened.
    pub fn start(&mut self, part: Part, invocation: &Invocation, log: &Path) -> io::Result<u32> {
        let mut command = Command::new(&invocation.program);
        if let Some(name) = invocation.shown_as {
            command.arg0(name);
        }
        let handle = command
            .args(&invocation.arguments)
            .stdin(if let Part::Burner(_) = part { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().append(true).create(true).open(log)?)
            .process_group(0)
            .spawn()?;
        let pid = handle.id();
        // Started again: the process that has ended gives up its place.
        self.list.retain(|child| child.part != part || child.ended.is_none());
        self.list.push(Child { part, pid, ended: None, handle });
        Ok(pid)
    }

    /// All children, also those that have ended.
    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.list.iter()
    }

    /// Writes a line to the standard input of this part, if it runs and has one.
    pub fn write_to(&mut self, part: Part, line: &str) -> io::Result<()> {
        let child = self.list.iter_mut().find(|child| child.part == part && child.ended.is_none());
        match child.and_then(|child| child.handle.stdin.as_mut()) {
            Some(stdin) => stdin.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The child that is this part, if it was started.
    pub fn get(&self, part: Part) -> Option<&Child> {
        self.list.iter().find(|child| child.part == part)
    }

    /// Reaps the children that have ended since the last call; does not block. Call it on SIGCHLD. One signal
    /// may stand for several children.
    pub fn reap(&mut self) -> Vec<Part> {
        self.list.iter_mut().filter_map(|child| child.reap().then_some(child.part)).collect()
    }

    /// Reaps the processes that the kernel has given to this one because their parents have ended. That happens to
    /// process 1 of a container; without it, each would stay a zombie.
    pub fn reap_orphans(&self) {
        if std::process::id() != 1 {
            return;
        }
        let zombies = procfs::process::all_processes().into_iter().flatten().flatten();
        let orphans = zombies.filter_map(|process| process.stat().ok()).filter(|stat| {
            stat.ppid == 1
                && stat.state == 'Z'
                && !self.list.iter().any(|child| child.id().as_raw_pid() == stat.pid)
        });
        for pid in orphans.filter_map(|stat| Pid::from_raw(stat.pid)) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }

    /// Stops all children: first the daemons, so that no report shows a stopping worker, and what makes load; then the
    /// nodes; then the workers, so that they still compute what the nodes' clients wait for. `wait(until)` must return
    /// when a child may have ended, and at `until` at the latest. If it returns `true`, the user wants a stop
    /// at once: everything is killed.
    pub fn stop(&mut self, mut wait: impl FnMut(Instant) -> bool) {
        let stages: [(Member, Duration); 3] = [
            (|part| matches!(part, Part::Daemon(_) | Part::Burner(_)), DAEMON_GRACE),
            (|part| matches!(part, Part::Node(_)), NODE_GRACE),
            (|part| matches!(part, Part::Worker(_)), WORKER_GRACE),
        ];
        let mut impatient = false;
        for (member, grace) in stages {
            for child in self.list.iter().filter(|child| member(child.part)) {
                child.signal(Signal::TERM);
                // A process that was paused with SIGSTOP handles SIGTERM only after SIGCONT.
                child.signal(Signal::CONT);
            }
            let until = Instant::now() + grace;
            while !impatient && self.runs(member) && Instant::now() < until {
                impatient = wait(until);
                self.reap();
            }
        }
        self.kill(|until| {
            wait(until);
        });
    }

    /// Kills every group whose leader was not reaped, and reaps the leaders.
    fn kill(&mut self, mut wait: impl FnMut(Instant)) {
        for child in self.list.iter().filter(|child| child.ended.is_none()) {
            log::warn!("{} (pid {}) did not stop: killed", child.part.name(), child.pid);
            let _ = rustix::process::kill_process_group(child.id(), Signal::KILL);
        }
        let until = Instant::now() + KILL_GRACE;
        while self.runs(|_| true) && Instant::now() < until {
            wait(until);
            self.reap();
        }
    }

    fn runs(&self, member: Member) -> bool {
        self.list.iter().any(|child| member(child.part) && child.ended.is_none())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.list.iter_mut().filter(|child| child.ended.is_none()) {
            let _ = rustix::process::kill_process_group(child.id(), Signal::KILL);
            let _ = child.handle.wait();
        }
    }
}

/// The arguments before a program that make it stop when `rakit up` dies: `rakit leash PARENT -- PROGRAM …`.
pub fn leashed(own_program: &Path, invocation: &Invocation) -> Invocation {
    let mut arguments: Vec<OsString> =
        vec!["leash".into(), std::process::id().to_string().into(), "--".into()];
    arguments.push(invocation.program.clone().into_os_string());
    arguments.extend(invocation.arguments.iter().cloned());
    Invocation { program: own_program.to_path_buf(), shown_as: None, arguments }
}

/// `rakit leash`: asks the kernel to kill this process when its parent dies, then becomes `program`. The
/// setting survives exec (man 2 PR_SET_PDEATHSIG). Returns only after a failure, with the reason.
pub fn leash(parent: i32, program: &OsString, arguments: &[OsString]) -> String {
    match rakit::program::stop_with_parent(parent) {
        Ok(()) => Command::new(program).args(arguments).exec().to_string(),
        Err(reason) => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::after;

    /// Waits as `rakit up` does, but woken by the clock: unit tests share their process's SIGCHLD.
    fn wait(until: Instant) -> bool {
        let tick = Duration::from_millis(5);
        let _ = after(tick.min(until.saturating_duration_since(Instant::now()))).recv();
        false
    }

    fn shell(script: &str) -> Invocation {
        Invocation { program: "sh".into(), shown_as: None, arguments: vec!["-c".into(), script.into()] }
    }

    fn started(children: &mut Children, part: Part, script: &str, dir: &Path) -> u32 {
        children.start(part, &shell(script), &dir.join(part.name().replace('/', "-"))).expect("sh starts")
    }

    fn group_is_empty(pid: u32) -> bool {
        let pid = Pid::from_raw(pid as i32).expect("a process id is not zero");
        rustix::process::test_kill_process_group(pid) == Err(rustix::io::Errno::SRCH)
    }

    fn eventually(mut condition: impl FnMut() -> bool, what: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < until, "{what}");
            wait(until);
        }
    }

    #[test]
    fn a_group_ends_with_its_leader_even_if_that_was_killed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut children = Children::default();
        let flag = dir.path().join("pool");
        let script = format!("(trap '' TERM; echo > {}; sleep 1000 & wait; wait) & wait", flag.display());
        let pid = started(&mut children, Part::Worker(1), &script, dir.path());
        eventually(|| flag.exists(), "the pool never started");
        children.list[0].signal(Signal::KILL);
        let mut ended = Vec::new();
        eventually(
            || {
                ended.extend(children.reap());
                !ended.is_empty()
            },
            "the death was never seen",
        );
        assert_eq!(ended, [Part::Worker(1)]);
        assert_eq!(how(children.list[0].ended.expect("it ended")), "was killed by signal 9");
        eventually(|| group_is_empty(pid), "the pool outlived its leader");
    }

    #[test]
    fn the_stubborn_and_the_paused_are_stopped_too() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut children = Children::default();
        let flag = dir.path().join("stubborn");
        let script = format!("trap '' TERM; echo > {}; while :; do sleep 1000; done", flag.display());
        let stubborn = started(&mut children, Part::Node(1), &script, dir.path());
        eventually(|| flag.exists(), "the trap was never set");
        let paused = started(&mut children, Part::Daemon(1), "exec sleep 1000", dir.path());
        children.list[1].signal(Signal::STOP);
        children.stop(|until| {
            // The user's second Ctrl-C, once the daemon's stage is over: no need to sit out the node's grace.
            wait(until) || group_is_empty(paused)
        });
        // What its leader left in it is killed with it, and reaped by the init process a moment later.
        eventually(|| group_is_empty(stubborn), "the stubborn one lives");
        eventually(|| group_is_empty(paused), "the paused one lives");
        assert_eq!(how(children.list[0].ended.expect("it ended")), "was killed by signal 9");
        assert_eq!(how(children.list[1].ended.expect("it ended")), "was killed by signal 15");
    }

    #[test]
    fn dropping_the_children_leaves_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut children = Children::default();
        let pid = started(&mut children, Part::Node(1), "trap '' TERM; sleep 1000 & wait", dir.path());
        drop(children);
        eventually(|| group_is_empty(pid), "it outlived its owner");
    }

    #[test]
    fn a_shell_reads_the_line_back_as_it_was() {
        let mut invocation = shell("it's $HOME");
        invocation.arguments.push("".into());
        invocation.arguments.push("--measure".into());
        invocation.arguments.push("process:12".into());
        assert_eq!(invocation.shell_line(), r"sh -c 'it'\''s $HOME' '' --measure process:12");
    }
}
