//! `rakit up`, `rakit ctl` and `rakit status` as a user meets them: the real programs, in temporary directories, on free ports.
//!
//! Every process of a cluster has the path of its temporary directory in its command line; that is how "leaving no process
//! behind" is looked at here, pools of processes included, without trusting what the program says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::programs::{http, within};

/// How long a condition may take to come true. Generous: a loaded machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The program under test.
pub(crate) const RAKIT: &str = env!("CARGO_BIN_EXE_rakit");

/// Waits until `what` holds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A base port at which a small cluster finds all its ports free, below the range from which the kernel gives ports to
/// clients. Tests of one process get different ones. Nobody else gets the same, either: who has a base port keeps a socket at the
/// last of its 16 ports, which no cluster here uses, until its process ends.
pub(crate) fn base_port(nodes: u16, servers: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static MARKS: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    assert!(nodes < 15 && servers < 15, "the last port is the mark");
    let window = 10_000 + 3_000 * (std::process::id() % 7) as u16;
    loop {
        let slot = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(slot < 60, "no free ports between {window} and {}", window + 3_000);
        let base = window + slot * 16;
        let Ok(mark) = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 15)) else { continue };
        let mut ports = std::iter::once(base)
            .chain((1..=nodes).flat_map(|i| [base + i, base + 1_000 + i]))
            .chain((1..=servers).map(|j| base + 2_000 + j));
        if ports.all(free) {
            MARKS.lock().expect("nobody panics with it").push(mark);
            return base;
        }
    }
}

/// Processes that have `dir` in their command line: pid and command line.
pub(crate) fn processes_of(dir: &Path) -> Vec<(i32, String)> {
    let dir = dir.display().to_string();
    let all = procfs::process::all_processes().expect("/proc can be read");
    all.flatten()
        .filter_map(|process| Some((process.pid, process.cmdline().ok()?.join(" "))))
        .filter(|(_, line)| line.contains(&dir))
        .collect()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("a process id is not zero"), signal)
        .expect("it can be signalled");
}

/// A running `rakit up`. Dropping it stops it, and kills every process that it has left.
pub(crate) struct Up {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    dir: std::path::PathBuf,
}

impl Up {
    pub(crate) fn start(dir: &Path, arguments: &[&str]) -> Up {
        let mut command = Command::new(RAKIT);
        command.args(["up", "--dir"]).arg(dir);
        Up::start_as(command, dir, arguments)
    }

    fn start_as(mut command: Command, dir: &Path, arguments: &[&str]) -> Up {
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("rakit starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Up { child, lines, said: Vec::new(), dir: dir.to_path_buf() }
    }

    /// Waits for a line of its output, from where the last wait has ended.
    pub(crate) fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_deadline(until) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(_) => panic!("no line {what}; it said:\n{}", self.said.join("\n")),
            }
        }
    }

    /// Waits until its newest line about whether a node answers says so. That line may have been read already: another thread
    /// sees it than the one that sees the end of a process, so either of their lines comes first.
    fn sees(&mut self, node: u16, answers: bool) {
        let (yes, no) = (format!("node {node} answers"), format!("node {node} does not answer"));
        let says = |line: &str| (line == yes || line.starts_with(&no)).then(|| line == yes);
        let what = format!("that says whether node {node} answers; wanted: {answers}");
        while self.said.iter().rev().find_map(|line| says(line)) != Some(answers) {
            self.line(&what, |line| says(line).is_some());
        }
    }

    pub(crate) fn ready(&mut self) {
        self.line("`ready`", |line| line == "ready");
    }

    pub(crate) fn pids(&self) -> BTreeMap<String, u32> {
        let text = fs::read_to_string(self.dir.join("pids.json")).expect("written before ready");
        serde_json::from_str(&text).expect("an object of numbers")
    }

    fn stop(&mut self, with: Signal) -> ExitStatus {
        signal(self.child.id(), with);
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("rakit up ends", || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (pid, _) in processes_of(&self.dir) {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// `GET path` on loopback; `None` if nobody answers it whole.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_string())
}

/// The prime that a node answers with. As long as no server lives, since the report of each is late, 503 is right: then it is
/// asked again.
#[track_caller]
fn prime(port: u16, n: u32) -> String {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually(&format!("a server lives, and port {port} answers /{n}"), || {
        let answer = http::get(address, &format!("/{n}")).expect("a whole answer");
        if answer.status == 503 && answer.header("retry-after").is_some() {
            return None;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        Some(answer.body.trim().to_owned())
    })
}

/// Waits until no process of the cluster in this directory is left: what was killed ends when it gets a processor.
#[track_caller]
pub(crate) fn nobody_is_left(dir: &Path) {
    eventually("no process is left", || processes_of(dir).is_empty().then_some(()));
}

pub(crate) fn status(port: u16) -> Option<Value> {
    serde_json::from_str(&get(port, "/status")?).ok()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(RAKIT).args(arguments).stdin(Stdio::null()).output().expect("rakit runs")
}

/// One line on standard error, and this exit code.
fn refused(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line is promised: {stderr}");
    stderr
}

pub(crate) fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_cluster_gets_ready_outlives_its_dead_and_leaves_nobody() {
    let dir = temporary();
    let base = base_port(5, 3);
    let mut up = Up::start(dir.path(), &["--base-port", &base.to_string()]);
    up.ready();

    for file in [
        "cluster.toml",
        "worker.py",
        "logs/up.log",
        "logs/node-5.log",
        "logs/server-3-worker.log",
        "data/node-1",
    ] {
        assert!(dir.path().join(file).exists(), "{file} is promised");
    }
    let pids = up.pids();
    let names: Vec<&str> = pids.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "node-1",
            "node-2",
            "node-3",
            "node-4",
            "node-5",
            "server-1/daemon",
            "server-1/worker",
            "server-2/daemon",
            "server-2/worker",
            "server-3/daemon",
            "server-3/worker"
        ]
    );
    let running: BTreeMap<i32, String> = processes_of(dir.path()).into_iter().collect();
    for (name, pid) in &pids {
        let line = running.get(&(*pid as i32)).unwrap_or_else(|| panic!("{name} (pid {pid}) does not run"));
        let expected = match name.split(['-', '/']).collect::<Vec<_>>()[..] {
            ["node", id] => format!("rakit-node --config {}/cluster.toml --id {id}", dir.path().display()),
            ["server", j, "daemon"] => format!(
                "--server server-{j} --worker 127.0.0.1:{}",
                base + 2000 + j.parse::<u16>().expect("a number")
            ),
            _ => format!("{}/worker.py", dir.path().display()),
        };
        assert!(line.contains(&expected), "{name} is {line}");
    }
    for id in 1..=5 {
        assert_eq!(prime(base + id, 10), "29", "from node {id}");
    }
    let config = dir.path().join("cluster.toml").display().to_string();
    eventually("all nodes agree", || {
        let output = run(&["status", "--config", &config]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code() == Some(0) && said.contains("all 5 nodes agree")).then_some(())
    });

    // Each kind of child is killed. For each, `up` prints one line with the command that starts it again.
    for name in ["node-2", "server-1/worker", "server-2/daemon"] {
        signal(pids[name], Signal::KILL);
        let start = format!("{name} (pid {}) was killed by signal 9; the cluster goes on", pids[name]);
        let line = up.line(&start, |line| line.starts_with(&start));
        if name == "node-2" {
            assert!(line.contains(" with 4 of 5 nodes; "), "{line}");
            let output = run(&["status", "--config", &config]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("node 2 at 127.0.0.1:{} does not answer", base + 2)), "{said}");
            // By its addresses alone: the other four know who is missing. The leader says when it heard it last; if
            // the dead one led, that is the next leader, once there is one.
            let urls: Vec<String> = (1..=5).map(|id| format!("http://127.0.0.1:{}", base + id)).collect();
            eventually("the status says who is missing, since when, and of what version each is", || {
                let urls = urls.iter().map(String::as_str);
                let output = run(&std::iter::once("status").chain(urls).collect::<Vec<_>>());
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                let missing = said.lines().find(|line| line.starts_with("   2     -  "))?;
                let first = said.lines().filter(|line| line.starts_with("   1  ")).nth(1)?;
                (said.contains("node 2 at 127.0.0.1:")
                    && missing.contains(" ago  ")
                    && first.contains(env!("CARGO_PKG_VERSION"))
                    && first.contains("1,2,3,4,5"))
                .then_some(())
            });
            // Only then: one that is back between two questions was never away, as far as anybody has seen.
            up.sees(2, false);
            eventually("pids.json names only what runs", || {
                (!up.pids().contains_key("node-2")).then_some(())
            });
            // The line is one for a shell, and it works.
            let (_, command) = line.split_once("to start it again: ").expect("the way back");
            let output = Command::new("sh").args(["-c", command]).output().expect("sh starts");
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            up.sees(2, true);
            assert_ne!(up.pids()["node-2"], pids["node-2"], "a child of `rakit up` again");
            eventually("all nodes agree again, the one started again too", || {
                (run(&["status", "--config", &config]).status.code() == Some(0)).then_some(())
            });
        }
    }
    let group = Pid::from_raw(pids["server-1/worker"] as i32).expect("a process id is not zero");
    eventually("the pool of the dead worker is gone too", || {
        rustix::process::test_kill_process_group(group).is_err().then_some(())
    });

    let status = up.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    nobody_is_left(dir.path());
    assert_eq!(up.pids(), BTreeMap::new(), "and pids.json is empty");
    for port in (1..=5).flat_map(|i| [base + i, base + 1000 + i]).chain((1..=3).map(|j| base + 2000 + j)) {
        assert!(free(port), "port {port} is still taken");
    }
}

#[test]
fn the_next_run_goes_on_from_the_data_of_the_last() {
    let dir = temporary();
    let base = base_port(3, 2);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "2", "--base-port", &base.to_string()]);
    up.ready();
    let before = status(base + 1).expect("node 1 answers");
    assert_eq!(up.stop(Signal::INT).code(), Some(0), "Ctrl-C is a clean stop");
    nobody_is_left(dir.path());

    // Membership is not changed in passing, and what is there stays as it is.
    let toml = fs::read_to_string(dir.path().join("cluster.toml")).expect("it is there");
    let path = dir.path().display().to_string();
    let line = refused(&run(&["up", "--dir", &path, "--nodes", "5"]), 2);
    assert!(line.contains("--nodes") && line.contains("--dir"), "{line}");
    assert_eq!(fs::read_to_string(dir.path().join("cluster.toml")).expect("it is there"), toml);

    // Nodes and ports come from the directory now.
    let mut up = Up::start(dir.path(), &["--servers", "2"]);
    up.line("that it resumes", |line| line.starts_with("resuming 3 nodes"));
    up.ready();
    // What it knew is there: a later term, and a longer log.
    eventually("node 1 goes on where it was", || {
        let now = status(base + 1)?;
        let more = |field: &str| now[field].as_u64() > before[field].as_u64();
        (more("term") && more("commit_index")).then_some(())
    });
    let log = fs::read_to_string(dir.path().join("logs/node-1.log")).expect("its log");
    assert_eq!(log.matches(": recovery: node 1 finds nothing, and starts fresh").count(), 1, "{log}");
    assert_eq!(log.matches(": recovery: node 1 finds its state").count(), 1, "{log}");

    // A second `up` in the same directory is refused, and its message names the first one.
    let line = refused(&run(&["up", "--dir", &path]), 1);
    assert!(line.contains(&format!("(pid {})", up.child.id())), "{line}");

    assert_eq!(up.stop(Signal::HUP).code(), Some(0), "a closed terminal is a clean stop");
    nobody_is_left(dir.path());
}

/// SIGSTOP closes nothing: the real worker takes connections into its queue and answers none, while its real daemon reports
/// that it is idle. Another server answers the requests that wait there.
#[test]
fn a_real_worker_that_is_paused_holds_up_nobody_while_its_daemon_lives() {
    let dir = temporary();
    let base = base_port(3, 2);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "2", "--base-port", &base.to_string()]);
    up.ready();
    let paused = up.pids()["server-1/worker"];
    signal(paused, Signal::STOP);
    let logs = || -> String {
        let log = |id: u16| fs::read_to_string(dir.path().join(format!("logs/node-{id}.log")));
        (1..=3).map(|id| log(id).expect("each node logs")).collect()
    };
    eventually("a request that waited at the paused worker is answered by the other", || {
        for id in 1..=3 {
            assert_eq!(prime(base + id, 1000), "7919", "node {id}");
        }
        logs().contains("waits at server-1, which has stalled; also sent to the next best").then_some(())
    });
    // Its report may be late.
    eventually("the daemon of the paused worker lives", || {
        let status = status(base + 1)?;
        status["servers"].as_array()?.iter().all(|server| server["alive"] == true).then_some(())
    });
    signal(paused, Signal::CONT);
    let by_it = || logs().matches("answered by server-1").count();
    let before = by_it();
    eventually("the worker that goes on is asked again", || {
        for id in 1..=3 {
            assert_eq!(prime(base + id, 1000), "7919", "node {id}");
        }
        (by_it() > before).then_some(())
    });
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn killing_rakit_up_itself_leaves_nobody() {
    let dir = temporary();
    let base = base_port(3, 2);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "2", "--base-port", &base.to_string()]);
    up.ready();
    up.child.kill().expect("it runs");
    up.child.wait().expect("it is our child");
    nobody_is_left(dir.path());
}

#[test]
fn stopping_before_ready_leaves_nobody_either() {
    let dir = temporary();
    let base = base_port(3, 2);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "2", "--base-port", &base.to_string()]);
    up.line("the first", |line| line.starts_with("starting 3 nodes and 2 servers"));
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
    nobody_is_left(dir.path());
}

#[test]
fn a_child_that_can_not_start_ends_the_attempt_with_its_last_words() {
    let dir = temporary();
    let base = base_port(1, 1);
    // No directory for the node's data can be made below a file.
    fs::write(dir.path().join("data"), "a file").expect("written");
    let mut up = Up::start(dir.path(), &["--nodes", "1", "--servers", "1", "--base-port", &base.to_string()]);
    up.line("that node-1 failed", |line| line.starts_with("node-1 ended before the cluster was ready"));
    let words = up.line("of its log", |line| line.starts_with("  "));
    assert!(!words.trim().is_empty());
    assert_eq!(up.ended().code(), Some(1));
    assert!(!up.said.iter().any(|line| line == "ready"));
    nobody_is_left(dir.path());
}

#[test]
fn a_node_that_can_not_start_is_named_with_its_own_reason_and_the_others_get_ready() {
    let dir = temporary();
    let base = base_port(3, 0);
    fs::create_dir(dir.path().join("data")).expect("our own directory");
    fs::write(dir.path().join("data/node-2"), "a file").expect("written");
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "0", "--base-port", &base.to_string()]);
    let line = up.line("that node-2 failed", |line| line.starts_with("node-2 (pid "));
    assert!(line.contains("data/node-2") && line.contains("goes on with 2 of 3 nodes"), "{line}");
    up.ready();
    fs::remove_file(dir.path().join("data/node-2")).expect("ours");
    ordered(dir.path(), "start node-2");
    up.line("node 2 answers", |line| line == "node 2 answers");
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn a_node_that_was_started_by_hand_and_forgotten_is_named() {
    let dir = temporary();
    let base = base_port(3, 0);
    let up = || Up::start(dir.path(), &["--nodes", "3", "--servers", "0", "--base-port", &base.to_string()]);
    let mut first = up();
    first.ready();
    assert_eq!(first.stop(Signal::TERM).code(), Some(0));
    let toml = fs::read_to_string(dir.path().join("cluster.toml")).expect("it is there");
    let mut by_hand = Command::new(RAKIT)
        .args(["node", "--id", "3", "--config"])
        .arg(dir.path().join("cluster.toml"))
        .stderr(Stdio::null())
        .spawn()
        .expect("rakit starts");
    eventually("node 3 answers", || get(base + 3, "/healthz"));
    let path = dir.path().display().to_string();
    let line = refused(&run(&["up", "--dir", &path]), 1);
    assert!(
        line.contains("node-3 of this cluster") && line.contains(&format!("kill {}", by_hand.id())),
        "{line}"
    );
    let line = refused(&run(&["up", "--dir", &path, "--base-port", &(base + 100).to_string()]), 2);
    assert!(line.contains("--base-port"), "{line}");
    assert_eq!(fs::read_to_string(dir.path().join("cluster.toml")).expect("it is there"), toml);
    by_hand.kill().expect("it runs");
    by_hand.wait().expect("it is our child");
}

/// What a container does: the program is process 1, and the kernel gives it every orphan.
#[test]
fn as_process_1_it_leaves_no_zombies() {
    let dir = temporary();
    let base = base_port(1, 1);
    let inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new(inside[0])
        .args(&inside[1..])
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!(
            "SKIPPED: only a user who may make a process namespace (root) can run a program as process 1"
        );
        return;
    }
    let mut command = Command::new(inside[0]);
    command.args(&inside[1..]).args([RAKIT, "up", "--dir"]).arg(dir.path());
    let flags = ["--nodes", "1", "--servers", "1", "--base-port", &base.to_string()];
    let mut up = Up::start_as(command, dir.path(), &flags);
    up.ready();
    let of_worker = || processes_of(dir.path()).iter().filter(|(_, line)| line.contains("worker.py")).count();
    // A big N: one of the worker's processes computes now. It and the fork server are orphans once the worker is killed.
    let mut asks = TcpStream::connect((Ipv4Addr::LOCALHOST, base + 2001)).expect("the worker listens");
    write!(asks, "GET /100000000000 HTTP/1.0\r\n\r\n").expect("it reads");
    eventually("a process computes", || {
        let pids = processes_of(dir.path()).into_iter().filter(|(_, line)| line.contains("worker.py"));
        let mut stats = pids.filter_map(|(pid, _)| procfs::process::Process::new(pid).ok()?.stat().ok());
        stats.any(|stat| stat.nice == 10).then_some(())
    });
    ordered(dir.path(), "kill server-1/worker");
    eventually("its children have ended, too", || (of_worker() == 0).then_some(()));
    let init =
        processes_of(dir.path()).into_iter().find(|(_, line)| line.starts_with(&format!("{RAKIT} up")));
    let init = init.expect("rakit up").0;
    eventually("no zombie is left", || {
        let all = procfs::process::all_processes().expect("/proc can be read").flatten();
        let mut children = all.filter_map(|process| process.stat().ok()).filter(|stat| stat.ppid == init);
        (!children.any(|stat| stat.state == 'Z')).then_some(())
    });
    signal(init as u32, Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
}

#[test]
fn without_servers_the_nodes_alone_are_the_cluster() {
    let dir = temporary();
    let base = base_port(3, 0);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "0", "--base-port", &base.to_string()]);
    up.ready();
    assert_eq!(up.pids().keys().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
    signal(up.child.id(), Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
    nobody_is_left(dir.path());
}

#[test]
fn a_taken_port_is_told_with_its_purpose_its_holder_and_a_way_out() {
    let dir = temporary();
    let base = base_port(3, 2);
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 1002)).expect("it was free");
    let path = dir.path().display().to_string();
    let line = refused(
        &run(&["up", "--nodes", "3", "--servers", "2", "--base-port", &base.to_string(), "--dir", &path]),
        1,
    );
    for part in [
        format!("port {}, for the peers of node 2,", base + 1002),
        format!("(pid {})", std::process::id()),
        "--base-port ".to_string(),
    ] {
        assert!(line.contains(&part), "{part} is not in: {line}");
    }
    assert!(!dir.path().join("cluster.toml").exists(), "nothing is begun that can't be ended");
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let dir = temporary();
    let path = dir.path().display().to_string();
    for flags in [
        ["--nodes", "0"],
        ["--nodes", "32"],
        ["--servers", "65"],
        ["--base-port", "65000"],
        ["--base-port", "x"],
    ] {
        let mut arguments = vec!["up", "--dir", &path];
        arguments.extend(flags);
        let line = refused(&run(&arguments), 2);
        assert!(line.contains(flags[0]), "{line}");
    }
    refused(&run(&["status", "https://127.0.0.1:8001"]), 2);
    refused(&run(&[]), 2);
    assert!(fs::read_dir(dir.path()).expect("it is there").next().is_none(), "nothing was written");
}

/// `rakit` is all three programs, and each shows its help.
#[test]
fn the_help_of_each_program_is_within_reach() {
    for (arguments, word) in [
        (vec!["--help"], "Examples:"),
        (vec!["up", "--help"], "--base-port"),
        (vec!["status", "--help"], "--watch"),
        (vec!["node", "--help"], "--id"),
        (vec!["daemon", "--help"], "--server"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

/// `rakit ctl` with these words, on the cluster in `dir`.
fn ctl(dir: &Path, words: &str) -> Output {
    let dir = dir.display().to_string();
    run(&["ctl", "--dir", &dir].into_iter().chain(words.split(' ')).collect::<Vec<_>>())
}

/// Gives an order that must be carried out; what was said. It is given again only if a node was too busy to hear of it: such an
/// order may be given twice.
#[track_caller]
pub(crate) fn ordered(dir: &Path, words: &str) -> String {
    eventually(&format!("the nodes hear: {words}"), || {
        let output = ctl(dir, words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains(" did not hear it: ") {
            return None;
        }
        assert_eq!(output.status.code(), Some(0), "rakit ctl {words}: {stderr}");
        Some(String::from_utf8(output.stdout).expect("text").trim_end().to_string())
    })
}

/// The state of a process: the letter of proc_pid_stat(5).
fn process_state(pid: u32) -> Option<char> {
    procfs::process::Process::new(pid as i32).ok()?.stat().ok().map(|stat| stat.state)
}

#[test]
fn every_process_is_steered_by_its_name_and_pids_json_is_true_at_any_time() {
    let dir = temporary();
    let base = base_port(3, 1);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "1", "--base-port", &base.to_string()]);
    up.ready();
    let before = up.pids();
    for name in ["node-2", "server-1/worker", "server-1/daemon"] {
        assert_eq!(ordered(dir.path(), &format!("kill {name}")), format!("{name} is dead"));
        assert!(!up.pids().contains_key(name), "{name}");
        let line = refused(&ctl(dir.path(), &format!("pause {name}")), 1);
        let way_back = format!("rakit ctl start {name} --dir {}`", dir.path().display());
        assert!(line.contains("does not run") && line.contains(&way_back), "{line}");
        let said = ordered(dir.path(), &format!("start {name}"));
        let pid = up.pids()[name];
        assert!(said.contains(&format!("(pid {pid})")) && pid != before[name], "{said}");
        assert!(refused(&ctl(dir.path(), &format!("start {name}")), 1).contains("runs already"));
        ordered(dir.path(), &format!("pause {name}"));
        // A signal is delivered when the process next gets a processor.
        eventually("it is paused", || (process_state(pid) == Some('T')).then_some(()));
        ordered(dir.path(), &format!("resume {name}"));
        eventually("it goes on", || (process_state(pid) != Some('T')).then_some(()));
        // A paused process can be restarted, too.
        ordered(dir.path(), &format!("pause {name}"));
        ordered(dir.path(), &format!("restart {name}"));
        assert!(process_state(pid).is_none() && process_state(up.pids()[name]).is_some(), "{name}");
    }
    eventually("the cluster works with what was started again", || {
        get(base + 2, "/10").filter(|prime| prime.trim() == "29")
    });
    for (words, why) in [
        ("kill node-4", "3 nodes"),
        ("start server-2/daemon", "1 servers"),
        ("cut 1 1", "itself"),
        ("load 9 10", "so no server-9\n"),
    ] {
        let line = refused(&ctl(dir.path(), words), 1);
        assert!(line.contains(why), "{line}");
    }
    refused(&ctl(dir.path(), "kill node"), 2);
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
    nobody_is_left(dir.path());
    assert!(refused(&ctl(dir.path(), "kill node-1"), 1).contains("no `rakit up` runs in"));
}

/// The node that all of these follow, and its term.
fn led(base: u16, nodes: &[u16]) -> Option<(u16, u64)> {
    let said = |id: &u16| {
        let status = status(base + *id)?;
        Some((status["leader"].as_u64()? as u16, status["term"].as_u64()?))
    };
    let all: Vec<_> = nodes.iter().map(said).collect();
    all[0].filter(|one| all.iter().all(|other| *other == Some(*one)))
}

#[test]
fn a_cut_leader_is_replaced_and_follows_when_the_cable_is_healed() {
    let dir = temporary();
    let base = base_port(3, 1);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "1", "--base-port", &base.to_string()]);
    up.ready();
    let led_by = |id: u16| status(base + id).and_then(|status| status["leader"].as_u64());
    let leader = eventually("a leader", || led_by(1)) as u16;
    let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    ordered(dir.path(), &format!("cut node-{leader}"));
    eventually("the other two have another leader", || {
        led_by(others[0]).filter(|next| *next != u64::from(leader) && led_by(others[1]) == Some(*next))
    });
    // The cut one knows that it leads nobody, and still serves primes. A connection that is cut is not closed.
    eventually("the old leader gives way", || {
        status(base + leader).filter(|status| status["role"] != "leader" && status["leader"].is_null())
    });
    assert_eq!(prime(base + leader, 10), "29");
    // A restarted node begins with the same cables cut.
    ordered(dir.path(), &format!("restart node-{leader}"));
    let cut = eventually("it answers again", || status(base + leader));
    assert_eq!(cut["deaf_to"], serde_json::json!(others));
    ordered(dir.path(), &format!("heal node-{leader}"));
    eventually("it follows", || {
        (led_by(leader) == led_by(others[0]) && led_by(leader).is_some()).then_some(())
    });
    assert_eq!(status(base + leader).expect("it answers")["deaf_to"], Value::Null);

    // One way: what the leader sends to one follower does not arrive. The follower can't win an election: the majority
    // hears the leader. Where the others have missed a heartbeat, too, since the machine stood still, that was no such case.
    eventually("a follower that has lost its leader costs no election", || {
        let (leader, term) = eventually("a leader of all", || led(base, &[1, 2, 3]));
        let follower = (1..=3).find(|id| *id != leader).expect("three nodes");
        // Of three nodes, this one hears both.
        let third = 6 - leader - follower;
        let refusals = || {
            let log = fs::read_to_string(dir.path().join(format!("logs/node-{third}.log"))).ok()?;
            Some(log.matches(&format!("would not vote for node {follower} ")).count())
        };
        let before = refusals()?;
        ordered(dir.path(), &format!("cut {leader} {follower} --one-way"));
        eventually("the follower has lost its leader, and is refused", || {
            let (follows, leads) = (status(base + follower)?, status(base + leader)?);
            let refused = follows["role"] == "pre-candidate" && refusals()? > before;
            (refused || leads["term"] != term).then_some(())
        });
        ordered(dir.path(), &format!("heal {leader} {follower} --one-way"));
        // The leader hears only now of a term that the follower has begun.
        let (_, now) = eventually("the follower has a leader again", || led(base, &[1, 2, 3]));
        (now == term).then_some(())
    });
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn lost_heartbeats_and_votes_show_the_rules_and_cost_no_more_than_an_election() {
    let dir = temporary();
    let base = base_port(3, 1);
    let mut up = Up::start(dir.path(), &["--nodes", "3", "--servers", "1", "--base-port", &base.to_string()]);
    up.ready();
    // Who hears no heartbeat asks for pre-votes, and is refused: the others hear the leader. Where they have missed a
    // heartbeat, too, since the machine stood still, that was no such case.
    eventually("a follower that misses its leader is refused, and no election takes place", || {
        let (leader, term) = eventually("a leader of all", || led(base, &[1, 2, 3]));
        let follower = (1..=3).find(|id| *id != leader).expect("three nodes");
        let refused = format!("would not vote for node {follower} ");
        let refusals = || {
            let log = fs::read_to_string(dir.path().join(format!("logs/node-{leader}.log"))).ok()?;
            Some(log.matches(&refused).count())
        };
        let before = refusals()?;
        let moved = || status(base + leader).is_some_and(|status| status["term"] != term);
        ordered(dir.path(), &format!("drop heartbeats node-{follower}"));
        eventually("the follower misses its leader", || {
            let status = status(base + follower)?;
            let lost = status["loses"] == serde_json::json!(["heartbeats"]);
            (lost && (status["role"] == "pre-candidate" || moved())).then_some(())
        });
        eventually("the leader refuses it", || (refusals()? > before || moved()).then_some(()));
        ordered(dir.path(), &format!("heal node-{follower}"));
        let after = eventually("it follows again", || led(base, &[1, 2, 3]));
        (after == (leader, term)).then_some(())
    });

    // That an election shall fail stands beside a newer order for the node, and ends with the order that heals it. An
    // election in between would end it, too.
    let loses = || status(base + 1).map(|status| status["loses"].clone());
    eventually("two orders stand", || {
        ordered(dir.path(), "fail vote node-1");
        ordered(dir.path(), "drop votes node-1");
        (loses()? == serde_json::json!(["votes", "next-vote"])).then_some(())
    });
    ordered(dir.path(), "heal node-1");
    assert_eq!(loses(), Some(Value::Null));

    // An election whose votes are lost costs a term, and the next one succeeds. No leader may be a newer one than the order.
    let (leader, term) = eventually("the order stands while this one leads", || {
        let (leader, term) = eventually("a leader of all", || led(base, &[1, 2, 3]));
        for id in 1..=3 {
            ordered(dir.path(), &format!("fail vote node-{id}"));
        }
        (led(base, &[1, 2, 3]) == Some((leader, term))).then_some((leader, term))
    });
    let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    ordered(dir.path(), &format!("kill node-{leader}"));
    let (next, later) =
        eventually("another leader", || led(base, &others).filter(|(next, _)| *next != leader));
    assert!(later >= term + 2, "term {term} was followed by {later}, and no election failed");
    assert_eq!(status(base + next).expect("it answers")["loses"], Value::Null, "the order is done");
    ordered(dir.path(), &format!("start node-{leader}"));
    let (_, later) = eventually("all follow", || led(base, &[1, 2, 3]));

    // As long as all votes are lost, candidates ask in vain. So whoever leads from now on is the last one.
    for id in 1..=3 {
        ordered(dir.path(), &format!("drop votes node-{id}"));
    }
    let term_of = |id: &u16| status(base + *id).and_then(|status| status["term"].as_u64());
    let next = eventually("whoever leads", || {
        let leads = |id: &u16| status(base + *id).is_some_and(|status| status["role"] == "leader");
        // Nobody: two elections have failed already, or will.
        let last = (1..=3).filter(leads).max_by_key(term_of);
        last.or_else(|| ((1..=3).filter_map(|id| term_of(&id)).max()? >= later + 2).then_some(1))
    });
    let others: Vec<u16> = (1..=3).filter(|id| *id != next).collect();
    ordered(dir.path(), &format!("kill node-{next}"));
    eventually("two elections fail", || {
        (others.iter().filter_map(term_of).max()? >= later + 2).then_some(())
    });
    for id in &others {
        ordered(dir.path(), &format!("heal node-{id}"));
    }
    eventually("a leader, now that votes arrive", || led(base, &others).filter(|(leads, _)| *leads != next));
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn requests_are_sent_at_a_rate_until_it_is_zero() {
    let dir = temporary();
    let base = base_port(1, 1);
    let mut up = Up::start(dir.path(), &["--nodes", "1", "--servers", "1", "--base-port", &base.to_string()]);
    up.ready();
    ordered(dir.path(), "requests 50 --n 1000");
    let answered = || {
        fs::read_to_string(dir.path().join("logs/node-1.log"))
            .expect("its log")
            .matches(": N=1000 from ")
            .count()
    };
    eventually("twenty requests are logged", || (answered() >= 20).then_some(()));
    ordered(dir.path(), "requests 0");
    // Two reports, a second apart, are the clock: some fifty requests would come from one to the other.
    let reports = || status(base + 1).and_then(|status| status["servers"][0]["sequence"].as_u64());
    eventually("no request comes any more", || {
        let (before, from) = (answered(), reports()?);
        eventually("two more reports", || (reports()? >= from + 2).then_some(()));
        (answered() == before).then_some(())
    });
    assert_eq!(up.stop(Signal::TERM).code(), Some(0));
}

/// The load is real, and the daemon measures it: the nodes agree on it, and choose the other server.
#[test]
fn load_on_a_server_is_agreed_on_and_sends_requests_elsewhere() {
    let dir = temporary();
    let base = base_port(1, 2);
    let mut up = Up::start(dir.path(), &["--nodes", "1", "--servers", "2", "--base-port", &base.to_string()]);
    up.ready();
    let pids = up.pids();
    let cpu = || status(base + 1).and_then(|status| status["servers"][0]["cpu"].as_f64());
    ordered(dir.path(), "load server-1 60");
    // On a busy machine it is less than asked for: whoever makes it competes with others.
    eventually("the load is agreed on", || cpu().filter(|cpu| *cpu > 5.0));
    assert_eq!(up.pids(), pids, "what makes the load is no part of the cluster");
    // Whoever makes the load may get no processor for a while. Each choice says by which loads it was made.
    let (mut newest, mut elsewhere) = (0, 0);
    eventually("five requests go to the less loaded server", || {
        assert_eq!(prime(base + 1, 1000), "7919");
        let state: Value = serde_json::from_str(&get(base + 1, "/ui/state")?).ok()?;
        let mut requests = state["nodes"][0]["view"]["requests"].as_array()?.clone();
        requests.retain(|request| request["sequence"].as_u64() > Some(newest));
        for request in &requests {
            newest = newest.max(request["sequence"].as_u64()?);
            let Some(compared) = request["compared"].as_array() else { continue };
            let load = |name: &str| compared.iter().find(|one| one[0] == name)?[1].as_f64();
            let (Some(busy), Some(other)) = (load("server-1"), load("server-2")) else { continue };
            let only_once = request["tries"] == 1 && request["hedged"] == false;
            if busy > other + 5.0 && only_once {
                assert_eq!(request["server"], "server-2", "{request}");
                elsewhere += 1;
            }
        }
        (elsewhere >= 5).then_some(())
    });
    let said = ordered(dir.path(), "load server-1 0");
    assert_eq!(said, "server-1 is not kept busy any more");
    eventually("the load is gone", || cpu().filter(|cpu| *cpu < 2.0));
    // Who kills what makes the load is told the order that starts it again.
    let burner = fs::read_to_string(dir.path().join("server-1.load")).expect("what makes the load");
    signal(burner.trim().parse().expect("a process id"), Signal::KILL);
    let line = up.line("the death of what makes the load", |line| line.contains("server-1/burner"));
    assert!(line.contains("rakit ctl load server-1 PERCENT --dir "), "{line}");
    // Whatever makes the load, it ends with `rakit up`.
    ordered(dir.path(), "load server-1 10");
    up.child.kill().expect("it runs");
    eventually("nobody is left", || processes_of(dir.path()).is_empty().then_some(()));
    let burners = || {
        let all = procfs::process::all_processes().expect("/proc can be read").flatten();
        all.filter_map(|process| process.cmdline().ok()).filter(|line| line == &[RAKIT, "burner"]).count()
    };
    eventually("the burner has ended", || (burners() == 0).then_some(()));
}
