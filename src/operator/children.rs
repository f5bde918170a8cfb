//! The processes of the cluster: started, watched, and stopped so that none is left.
//!
//! Only the main thread of `rakit up` uses it. Three decisions make "none is left" true:
//! - Each child leads a process group of its own (man 2 setpgid). Ctrl-C on the terminal therefore reaches `rakit up`
//!   alone, which can stop them in order; and a worker's pool of processes can be killed as a whole.
//! - When a child has died, its group is killed *before* the child is reaped: until then the kernel keeps its process id,
//!   and with it the group's id, from being given to a stranger. So a pool never outlives its worker, even after a
//!   kill -9 of the worker.
//! - If `rakit up` itself dies, the kernel tells each child (`PR_SET_PDEATHSIG`, man 2 prctl): nodes and daemons ask for it
//!   with `--stop-with-parent`; the worker, which can't, is started on a [`leash`]. The signal comes when the *thread* that
//!   started the child ends, hence the main thread.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::layout::Part;

/// How long a daemon may take to stop after SIGTERM.
const DAEMON_GRACE: Duration = Duration::from_secs(2);
/// How long a node may take: it finishes the requests that it has accepted.
const NODE_GRACE: Duration = Duration::from_secs(5);
/// How long a worker may take: it ends its pool.
const WORKER_GRACE: Duration = Duration::from_secs(2);
/// How long to wait for a process that was sent SIGKILL. Only one that hangs in the kernel, on a dead disk, takes longer.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How one process is started: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Found by PATH if it has no slash.
    pub program: PathBuf,
    /// `argv[0]`, if it is to differ from the program's path: what `ps` shows.
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

/// The word as a POSIX shell reads it back: bare where that is safe, else in single quotes.
fn shell_word(word: &str) -> String {
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

    /// Sends the signal to the process. Only while it is not reaped: the id is then certainly its own.
    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // The only error is that it has just ended, which the next look at it will find.
            let _ = rustix::process::kill_process(self.id(), signal);
        }
    }

    /// Whether it has ended; if so, takes what is left of its group with it and reaps it.
    fn reap(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(self.id()), look) {
            Ok(None) => false,
            // Ended, or (an error, ECHILD) not ours to wait for: `wait` tells, and doesn't block in either case.
            Ok(Some(_)) | Err(_) => {
                let _ = rustix::process::kill_process_group(self.id(), Signal::KILL);
                self.ended = Some(self.handle.wait().unwrap_or_else(|_| ExitStatus::from_raw(0)));
                true
            }
        }
    }
}

/// How it ended, in words that follow the name of a process: "was killed by signal 9", "exited with code 2".
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

/// Whether a process belongs to a stage of stopping.
type Member = fn(Part) -> bool;

/// Every process that was started, in the order of starting. Dropping it kills all of them: not even a panic leaves one.
#[derive(Debug, Default)]
pub struct Children {
    list: Vec<Child>,
}

impl Children {
    /// Starts `invocation` as `part`, its standard error going to the end of the file `log`. That is where a program logs
    /// unless it is told a `--log-file` besides; this way, what it says before its log is set up, and a panic's last
    /// words, stand in the same file, and no line is written twice.
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
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().append(true).create(true).open(log)?)
            .process_group(0)
            .spawn()?;
        let pid = handle.id();
        self.list.push(Child { part, pid, ended: None, handle });
        Ok(pid)
    }

    /// All of them, also those that have ended.
    pub fn iter(&self) -> impl Iterator<Item = &Child> {
        self.list.iter()
    }

    /// The one that is this part, if it was started.
    pub fn get(&self, part: Part) -> Option<&Child> {
        self.list.iter().find(|child| child.part == part)
    }

    /// Looks which children have ended since the last look, and reaps them; doesn't block. To be called on SIGCHLD, which
    /// may stand for several.
    pub fn reap(&mut self) -> Vec<Part> {
        self.list.iter_mut().filter_map(|child| child.reap().then_some(child.part)).collect()
    }

    /// Stops all of them: first the daemons (so that no report tells of a dying worker), then the nodes, then the workers
    /// (so that what a node still owes its clients is computed). `wait(until)` must return when a child may have ended, and
    /// at `until` at the latest; its answer `true` means that the user is out of patience: everything is killed at once.
    pub fn stop(&mut self, mut wait: impl FnMut(Instant) -> bool) {
        let stages: [(Member, Duration); 3] = [
            (|part| matches!(part, Part::Daemon(_)), DAEMON_GRACE),
            (|part| matches!(part, Part::Node(_)), NODE_GRACE),
            (|part| matches!(part, Part::Worker(_)), WORKER_GRACE),
        ];
        let mut impatient = false;
        for (member, grace) in stages {
            for child in self.list.iter().filter(|child| member(child.part)) {
                child.signal(Signal::TERM);
                // One that somebody paused with SIGSTOP would not see it.
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

    /// Kills every group that still has its leader, and reaps the leaders.
    fn kill(&mut self, mut wait: impl FnMut(Instant)) {
        for child in self.list.iter().filter(|child| child.ended.is_none()) {
            log::warn!("{} (pid {}) did not stop in time: killed", child.part.name(), child.pid);
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

/// The words before a program that make it stop when `rakit up` dies: `rakit leash PARENT -- PROGRAM …`.
pub fn leashed(own_program: &Path, invocation: &Invocation) -> Invocation {
    let mut arguments: Vec<OsString> =
        vec!["leash".into(), std::process::id().to_string().into(), "--".into()];
    arguments.push(invocation.program.clone().into_os_string());
    arguments.extend(invocation.arguments.iter().cloned());
    Invocation { program: own_program.to_path_buf(), shown_as: None, arguments }
}

/// `rakit leash`: asks the kernel for its end when the parent dies, then becomes `program` (the request survives exec,
/// man 2 PR_SET_PDEATHSIG). Returns only if that failed, with the reason.
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
        let mut impatience = 0;
        children.stop(|until| {
            // The user's second Ctrl-C, once the daemon's stage is over: no need to sit out the node's grace.
            impatience += 1;
            wait(until) || impatience > 20
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
