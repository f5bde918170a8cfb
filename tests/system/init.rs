//! `rakit init` as a user meets it: what it writes is started as it says, by its own scripts, on addresses of loopback that
//! stand for machines. `rakit check` looks at the same cluster.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::programs::{PATIENCE, eventually, http};

const RAKIT: &str = env!("CARGO_BIN_EXE_rakit");

/// A directory of `rakit init`. When it is dropped, whatever its scripts have started is killed.
struct Setup {
    directory: tempfile::TempDir,
    machines: Vec<Ipv4Addr>,
    /// Of every node for clients; + 1000 for the cluster. + 2000 is every worker's.
    port: u16,
}

impl Setup {
    /// Some addresses of loopback, and ports that are free on all of them. They differ from process to process, and lie
    /// below the range from which the kernel gives ports to clients.
    fn new(machines: u8, distinct: u8) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        let machines: Vec<_> =
            (2..2 + machines).map(|i| Ipv4Addr::new(127, 10 + distinct, high ^ low, i)).collect();
        let free = |port: &u16| {
            let offsets = [0, 1_000, 2_000];
            machines.iter().all(|ip| offsets.iter().all(|more| TcpListener::bind((*ip, port + more)).is_ok()))
        };
        let first = 20_000 + u16::from(low) * 30;
        let port = (first..first + 900).find(free).expect("some port is free");
        Self { directory: tempfile::tempdir().expect("a directory"), machines, port }
    }

    fn dir(&self) -> PathBuf {
        self.directory.path().join("class")
    }

    fn folder(&self, machine: usize) -> PathBuf {
        self.dir().join("hosts").join(self.machines[machine].to_string())
    }

    fn public(&self, machine: usize) -> SocketAddr {
        SocketAddr::from((self.machines[machine], self.port))
    }

    fn cluster(&self, machine: usize) -> SocketAddr {
        SocketAddr::from((self.machines[machine], self.port + 1_000))
    }

    fn worker(&self, machine: usize) -> SocketAddr {
        SocketAddr::from((self.machines[machine], self.port + 2_000))
    }

    /// `rakit init` with nodes on the first machines and servers on others.
    fn init(&self, nodes: &[usize], servers: &[usize]) -> Output {
        let list = |which: &[usize], address: &dyn Fn(usize) -> SocketAddr| {
            which.iter().map(|machine| address(*machine).to_string()).collect::<Vec<_>>().join(",")
        };
        rakit(&[
            "init",
            "--dir",
            &self.dir().display().to_string(),
            "--nodes",
            &list(nodes, &|machine| self.public(machine)),
            "--servers",
            &list(servers, &|machine| self.worker(machine)),
        ])
    }

    fn script(&self, folder: &Path, script: &str) -> String {
        shell(&format!("'{}'", folder.join(script).display()), self.directory.path())
    }

    fn status(&self, machine: usize) -> Option<Value> {
        Some(http::get(self.public(machine), "/status").ok()?.json())
    }

    /// The ids of all processes that its scripts have started and not stopped.
    fn started(&self) -> Vec<i32> {
        let mut found = Vec::new();
        collect(self.directory.path(), &mut found);
        found
    }
}

/// The process ids in `run/*.pid` below a directory.
fn collect(directory: &Path, found: &mut Vec<i32>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "pid") {
            found.extend(fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()));
        }
    }
}

fn lives(pid: i32) -> bool {
    // A process that has ended and that its parent has not waited for yet has no command line.
    procfs::process::Process::new(pid)
        .and_then(|process| process.cmdline())
        .is_ok_and(|line| !line.is_empty())
}

impl Drop for Setup {
    fn drop(&mut self) {
        for pid in self.started() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn rakit(arguments: &[&str]) -> Output {
    Command::new(RAKIT).args(arguments).stdin(Stdio::null()).output().expect("rakit starts")
}

/// Runs a line of shell that must succeed; what it printed.
fn shell(line: &str, directory: &Path) -> String {
    let output =
        Command::new("sh").args(["-c", line]).current_dir(directory).output().expect("there is a shell");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_init_writes_becomes_a_cluster_as_it_says_and_a_server_joins_by_the_line() {
    let setup = Setup::new(5, 1);
    let output = setup.init(&[0, 1, 2], &[2, 3]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    let secret = fs::read_to_string(setup.dir().join("cluster.key")).expect("the secret");
    assert!(!said.contains(secret.trim()), "the secret was shown: {said}");

    // Each line that starts something, as it was printed.
    let starts: Vec<&str> =
        said.lines().filter(|line| line.ends_with("/start.sh") && !line.contains("init")).collect();
    assert_eq!(starts.len(), 4, "{said}");
    for line in starts {
        shell(line, setup.directory.path());
    }
    // The line for a further server, on a machine that has the program and nothing else. This machine is several ones here,
    // so that its host name would not do.
    let new = setup.directory.path().join("new");
    fs::create_dir(&new).expect("our own directory");
    symlink(RAKIT, new.join("rakit")).expect("our own directory");
    let line = said.lines().last().expect("the join line");
    let line = line.replacen("\"$(hostname)\"", &setup.worker(4).to_string(), 1);
    let line = line.replacen("\"$(hostname)\"", &setup.machines[4].to_string(), 1);
    shell(&line, &new);

    // Every node agrees on a leader and on three living servers, and routes to them.
    let names: Vec<String> = [2, 3, 4].map(|machine| setup.machines[machine].to_string()).to_vec();
    for machine in 0..3 {
        eventually("the servers are alive", || {
            let status = setup.status(machine)?;
            let servers = status["servers"].as_array()?.clone();
            let alive = servers.iter().filter(|one| one["alive"] == true && one["worker_up"] == true);
            let alive: Vec<String> = alive.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
            (status["leader"].is_u64() && alive == names).then_some(())
        });
        // No server lives for a moment, if all reports are late.
        eventually("a prime", || {
            let answer = http::get(setup.public(machine), "/1000").expect("an answer");
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            (answer.body == "7919\n").then_some(())
        });
        // Signed: a stranger is refused.
        let stranger = http::post(setup.cluster(machine), "/report", b"{}").expect("an answer");
        assert_eq!(stranger.status, 401, "{stranger:?}");
    }
    let key = |folder: PathBuf| fs::read_to_string(folder.join("cluster.key")).expect("a key");
    assert_eq!(key(setup.folder(2)), secret, "a node has the secret");
    for folder in [setup.folder(3), new.join("rakit-server/hosts").join(setup.machines[4].to_string())] {
        assert!(key(folder).starts_with("report-key:"), "a server alone has the report key");
    }

    check_finds_what_is_wrong_and_nothing_else(&setup);

    // Started again, it says what runs already, and starts nothing.
    let before = setup.started();
    let again = setup.script(&setup.folder(2), "start.sh");
    assert_eq!(again.matches("runs already").count(), 3, "{again}");
    assert_eq!(setup.started(), before);
    for machine in 0..4 {
        setup.script(&setup.folder(machine), "stop.sh");
    }
    setup.script(&new.join("rakit-server/hosts").join(setup.machines[4].to_string()), "stop.sh");
    for pid in before {
        eventually("all have stopped", || (!lives(pid)).then_some(()));
    }
}

/// Of the whole cluster, then with another key, then with a node stopped, which runs again at the end.
fn check_finds_what_is_wrong_and_nothing_else(setup: &Setup) {
    let config = setup.dir().join("cluster.toml");
    let check = |config: &Path| {
        let output = rakit(&["check", "--config", &config.display().to_string()]);
        (output.status.code(), text(&output.stdout))
    };
    // A busy machine may have a slow disk for a moment.
    let said = eventually("all is well", || {
        let (code, said) = check(&config);
        (code == Some(0)).then_some(said)
    });
    for line in ["ok: node 3 answers at ", "its worker at ", "the disk keeps a record in ", "\nall is well\n"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }

    let other = setup.directory.path().join("other");
    fs::create_dir(&other).expect("our own directory");
    fs::copy(&config, other.join("cluster.toml")).expect("our own directory");
    shell("umask 077; echo 'another secret altogether' > cluster.key", &other);
    // Of a node that is busy, it finds only that it does not answer.
    eventually("the other key is found", || {
        let (code, said) = check(&other.join("cluster.toml"));
        assert_eq!(code, Some(1), "{said}");
        (1..=3)
            .all(|id| said.contains(&format!("finding: node {id} does not work with this machine at ")))
            .then_some(())
    });

    let pid = fs::read_to_string(setup.folder(1).join("run/node-2.pid")).expect("node 2 was started");
    let pid: i32 = pid.trim().parse().expect("a process id");
    let process = Pid::from_raw(pid).expect("not 0");
    kill_process(process, Signal::STOP).expect("our own node");
    // On a busy machine, some of its threads run on for a moment after the signal was sent.
    let told = format!("finding: node 2 runs here (pid {pid}), but does not answer");
    eventually("the paused node is told", || check(&config).1.contains(&told).then_some(()));
    kill_process(process, Signal::CONT).expect("our own node");

    setup.script(&setup.folder(0), "stop.sh");
    eventually("node 1 has stopped", || setup.status(0).is_none().then_some(()));
    let (code, said) = check(&config);
    assert_eq!(code, Some(1), "{said}");
    let finding =
        said.lines().find(|line| line.starts_with("finding: node 1 does not answer")).unwrap_or_default();
    assert!(finding.contains("; mend: "), "{said}");
    setup.script(&setup.folder(0), "start.sh");
    eventually("node 1 is back", || setup.status(0));

    let (code, line) = {
        let nowhere = setup.directory.path().join("nowhere.toml").display().to_string();
        let output = rakit(&["check", "--config", &nowhere]);
        (output.status.code(), text(&output.stderr))
    };
    assert!(code == Some(2) && line.lines().count() == 1 && line.contains("nowhere.toml"), "{line}");
}

#[test]
fn init_keeps_what_is_there_and_asks_nobody_without_a_terminal() {
    let setup = Setup::new(1, 2);
    assert!(setup.init(&[0], &[]).status.success());
    let file = setup.dir().join("cluster.toml");
    let before = fs::read(&file).expect("written");
    let again = setup.init(&[0], &[]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let said = text(&again.stderr);
    assert!(said.lines().count() == 1 && said.contains("--dir"), "{said}");
    assert_eq!(fs::read(&file).expect("still there"), before);

    let other = setup.directory.path().join("other").display().to_string();
    for (arguments, said) in [
        (&["init", "--dir", &other][..], "--nodes"),
        (&["init", "--dir", &other, "--nodes", "10.0.0.1:0"], "10.0.0.1:0"),
        (&["init", "--dir", &other, "--nodes", "10.0.0.1,127.0.0.1"], "127.0.0.1"),
        (&["init", "--dir", &other, "--nodes", "10.0.0.1", "--name", "a b"], "--name"),
    ] {
        let output = rakit(arguments);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {line}");
        assert!(line.lines().count() == 1 && line.contains(said), "{arguments:?}: {line}");
        assert!(!Path::new(&other).exists(), "nothing is written: {arguments:?}");
    }
}

/// systemd itself reads the units, with the tested program in place of the installed one.
#[test]
fn systemd_takes_the_units() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let worker = root.join("worker.py").display().to_string();
    let mut units = Vec::new();
    for unit in ["node/rakit-node@.service", "daemon/rakit-daemon@.service", "daemon/rakit-worker@.service"] {
        let unit = root.join(unit);
        let text = fs::read_to_string(&unit).expect("a unit of this repository");
        let here = directory.path().join(unit.file_name().expect("a file"));
        let text = text.replace("/usr/bin/rakit", RAKIT).replace("/usr/lib/rakit/worker.py", &worker);
        fs::write(&here, text).expect("our own directory");
        units.push(here);
    }
    let verified = Command::new("systemd-analyze").arg("verify").args(&units).output();
    let Ok(verified) = verified else {
        eprintln!("not tested here: there is no systemd-analyze");
        return;
    };
    let said = text(&verified.stderr);
    // systemd tells of units of the machine, too.
    assert!(verified.status.success() && !said.contains("rakit-"), "{said}");
}

/// At boot, DHCP may be late. In a user's own network namespace the test can give an address when it wants.
#[test]
fn a_node_waits_for_its_address_and_starts_when_it_comes() {
    let directory = tempfile::tempdir().expect("a directory");
    let toml = "[cluster]\nname = \"boot\"\n[[node]]\nid = 1\npublic = \"10.99.0.1:8000\"\ncluster = \"10.99.0.1:9000\"\n";
    fs::write(directory.path().join("cluster.toml"), toml).expect("our own directory");
    // Each step waits for the line that says that the step before is done.
    let script = "ip link set lo up || exit 77
        \"$0\" node --insecure --config cluster.toml --id 1 2>log & node=$!
        wait_for() { while ! grep -q \"$1\" log; do kill -0 $node || exit 1; sleep 0.05; done; }
        wait_for 'not on this machine'
        ip address add 10.99.0.1/32 dev lo
        wait_for 'listens for clients at 10.99.0.1:8000'
        kill $node; wait $node";
    let output = Command::new("timeout")
        .args(["-k", "1", &PATIENCE.as_secs().to_string(), "unshare", "-rn", "sh", "-c", script, RAKIT])
        .current_dir(directory.path())
        .output()
        .expect("timeout is part of every system");
    if output.status.code() == Some(77) || text(&output.stderr).contains("unshare") {
        // A container may forbid namespaces. The wait itself is tested in node/address_wait.rs.
        eprintln!("not tested here: no network namespaces: {}", text(&output.stderr));
        return;
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{output:?}\n{log}");
}
