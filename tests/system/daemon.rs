//! The real `rakit-daemon` against stand-in nodes. Its reports reach every node even if the others hang, ask to be forwarded
//! when no node commits them, and say whether the worker listens.
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use rakit::balancer::Stamp;
use rakit::protocol::{Purpose, ReportAnswer, path, to_json};
use rakit::signing::{Gate, Secret, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::programs::eventually;
use crate::programs::ports::KeptPort;

/// Far more than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel chooses the port.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A stand-in node. The test sets its answer to every report, and gets the reports.
struct StandIn {
    address: SocketAddr,
    reports: Receiver<Value>,
    /// 200 (committed), 202, 503, …
    status: Arc<AtomicU16>,
    /// With 200: a report that is not above this `(epoch, sequence)` is stale.
    held: Arc<Mutex<(u64, u64)>>,
    server: Arc<tiny_http::Server>,
}

impl StandIn {
    fn start(status: u16) -> Self {
        Self::start_at(ANY_PORT, status)
    }

    fn start_at(address: SocketAddr, status: u16) -> Self {
        Self::start_with(address, None, true, status)
    }

    /// A stand-in that checks requests with this gate, and refuses what does not pass. Without `seals_answers`, somebody between
    /// it and the daemon lets the openings of streams through, and answers the reports himself.
    fn start_behind(gate: Option<Gate>, seals_answers: bool, status: u16) -> Self {
        Self::start_with(ANY_PORT, gate, seals_answers, status)
    }

    fn start_with(address: SocketAddr, gate: Option<Gate>, seals_answers: bool, status: u16) -> Self {
        let server = Arc::new(tiny_http::Server::http(address).expect("a free port"));
        let address = server.server_addr().to_ip().expect("an IP address");
        let status = Arc::new(AtomicU16::new(status));
        let (sender, reports) = unbounded();
        let (serving, told) = (Arc::clone(&server), Arc::clone(&status));
        let held = Arc::new(Mutex::new((0, 0)));
        let holds = Arc::clone(&held);
        std::thread::spawn(move || {
            let began = Instant::now();
            for mut request in serving.incoming_requests() {
                assert_eq!(request.method(), &tiny_http::Method::Post);
                let mut opened = None;
                if let Some(gate) = &gate {
                    let header = |name: &'static str| {
                        let found = request.headers().iter().find(|header| header.field.equiv(name));
                        found.map(|header| header.value.as_str())
                    };
                    let peer = *request.remote_addr().expect("a TCP connection");
                    opened = match gate.judge(
                        "POST",
                        request.url(),
                        header,
                        &[Purpose::Report],
                        peer,
                        began.elapsed(),
                    ) {
                        Verdict::Accepted(opened) => Some(opened),
                        Verdict::Answer { opened, status, line } => {
                            let mut response =
                                tiny_http::Response::from_data(line.clone()).with_status_code(status);
                            add_headers(&mut response, gate.seal_answer(&opened, status, line.as_bytes()));
                            let _ = request.respond(response);
                            continue;
                        }
                        Verdict::Refused(refusal) => panic!("{refusal}"),
                    };
                }
                assert_eq!(request.url(), path::REPORT);
                let mut body = String::new();
                request.as_reader().read_to_string(&mut body).expect("a body");
                let report: Value = serde_json::from_str(&body).expect("JSON");
                let status = told.load(Ordering::SeqCst);
                let answer = match status {
                    200 => {
                        let number = |key: &str| report[key].as_u64().expect("a number");
                        let (epoch, sequence) = *holds.lock().expect("no panic");
                        if (number("epoch"), number("sequence")) > (epoch, sequence) {
                            ReportAnswer::Committed { committed: number("sequence"), term: 1, members: 0 }
                        } else {
                            ReportAnswer::stale(1, 1, Stamp { epoch, sequence }, 0)
                        }
                    }
                    _ => ReportAnswer::NotLeader { leader: 9, members: 0 },
                };
                let answer = to_json(&answer);
                let mut response = tiny_http::Response::from_data(answer.clone()).with_status_code(status);
                if let (Some(gate), Some(opened), true) = (&gate, opened, seals_answers) {
                    add_headers(&mut response, gate.seal_answer(&opened, status, &answer));
                }
                // First the answer, then the test: so the daemon has its answer when the test acts on the report.
                let _ = request.respond(response);
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Self { address, reports, status, held, server }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// From now on a report with this stamp is committed.
    fn hold(&self, epoch: u64, sequence: u64) {
        *self.held.lock().expect("no panic") = (epoch, sequence);
    }

    /// The next report for which `wanted` holds.
    fn report_with(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.reports.recv_deadline(deadline).expect("a report in time");
            if wanted(&report) {
                return report;
            }
        }
    }
}

fn add_headers(
    response: &mut tiny_http::Response<std::io::Cursor<Vec<u8>>>,
    headers: Vec<(&'static str, String)>,
) {
    for (name, value) in headers {
        response.add_header(tiny_http::Header::from_bytes(name, value).expect("a header"));
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

/// A running daemon; killed if a test forgets (or fails before) stopping it.
struct Daemon(Child);

impl Daemon {
    fn start(config: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"));
        command.arg("--config").arg(config).args(["--server", "lab-01"]).args(arguments);
        Self(command.stdin(Stdio::null()).spawn().expect("the daemon starts"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")).expect("not 0");
        kill_process(pid, signal).expect("our own child");
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.0.try_wait().expect("our own child"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster.toml with nodes at these cluster addresses; their public addresses are never used by a daemon.
fn write_config(directory: &Path, cluster: &[SocketAddr], interval_ms: u64) -> PathBuf {
    let mut text = format!("[cluster]\nname = \"lab\"\n[balancer]\nreport_interval_ms = {interval_ms}\n");
    for (i, address) in cluster.iter().enumerate() {
        let id = i + 1;
        text.push_str(&format!(
            "[[node]]\nid = {id}\npublic = \"127.99.0.{id}:1\"\ncluster = \"{address}\"\n"
        ));
    }
    let path = directory.join("cluster.toml");
    std::fs::write(&path, text).expect("writable");
    path
}

/// While no report was committed. The first that reaches a node need not be the first of all: a newer one takes the place of one
/// that waits.
#[track_caller]
fn assert_forward_is_asked_from_the_second_on(report: &Value) {
    let sequence = report["sequence"].as_u64().expect("a number");
    assert!(sequence >= 1 && report["forward"] == (sequence > 1), "{report}");
}

#[test]
fn reports_reach_every_node_while_one_hangs_and_one_is_dead() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (leader, follower) = (StandIn::start(200), StandIn::start(202));
    // Accepts (the kernel does) and never answers; and one where nobody listens.
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hangs_at = hangs.local_addr().expect("bound");
    let dead = KeptPort::new();
    let nodes = [hangs_at, dead.address(), leader.address, follower.address];
    let config = write_config(directory.path(), &nodes, 100);
    let mut daemon = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);

    let first = leader.report_with(|_| true);
    assert_eq!(first["server"], "lab-01");
    assert_eq!(first["worker"], "127.0.0.1:1025");
    assert_forward_is_asked_from_the_second_on(&first);
    assert!(first["cpu"].as_f64().is_some_and(|cpu| (0.0..=100.0).contains(&cpu)), "{first}");
    assert!(first["cores"].as_u64().is_some_and(|cores| cores >= 1), "{first}");
    let epoch = first["epoch"].as_u64().expect("a number");
    assert!(epoch > 1_600_000_000_000, "Unix milliseconds: {epoch}");
    // Ten more at both: were the nodes served one after the other, the one that hangs would hold up the others.
    for node in [&leader, &follower] {
        let mut last = 0;
        for _ in 0..10 {
            let report = node.report_with(|_| true);
            let sequence = report["sequence"].as_u64().expect("a number");
            assert!(sequence > last, "{sequence} after {last}");
            assert_eq!(report["epoch"], epoch);
            last = sequence;
        }
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn forward_is_asked_for_while_nobody_commits() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(202);
    let config = write_config(directory.path(), &[node.address], 200);
    let mut daemon = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);
    assert_forward_is_asked_from_the_second_on(&node.report_with(|_| true));
    node.report_with(|report| report["forward"] == true);
    node.answer(200);
    node.report_with(|report| report["forward"] == false);
    node.answer(503);
    node.report_with(|report| report["forward"] == true);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// The process before this one had a clock that was seven hours ahead, or somebody reported by hand.
#[test]
fn a_daemon_goes_on_at_once_above_what_the_leader_holds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    // A minute between two reports: what comes at once is told apart from what comes with the next report.
    let config = write_config(directory.path(), &[node.address], 60_000);
    let ahead = 9_000_000_000_000;
    node.hold(ahead, 3);
    let mut daemon = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);
    let first = node.report_with(|_| true);
    assert!(first["epoch"].as_u64() < Some(ahead), "{first}");
    let second = node.report_with(|_| true);
    assert_eq!((&second["epoch"], &second["sequence"]), (&json!(ahead + 1), &json!(2)), "{second}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// So that a daemon that takes its place need not wait until this one counts as silent.
#[test]
fn a_daemon_that_stops_gives_its_name_free_with_a_last_report() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 100);
    let mut daemon = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);
    let first = node.report_with(|_| true);
    assert!(first["instance"].as_u64().is_some_and(|instance| instance > 0), "{first}");
    assert_eq!(node.report_with(|_| true)["instance"], first["instance"], "one process, one number");
    daemon.signal(Signal::TERM);
    node.report_with(|report| report.get("instance").is_none());
    assert_eq!(daemon.wait().code(), Some(0));
    // One whose reports are refused, since the name is another's, must not give that one's name free.
    node.answer(409);
    let mut second = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);
    // Its name is another's, as it knows once a report does not ask to be forwarded.
    node.report_with(|report| report["sequence"].as_u64() > Some(2) && report["forward"] == false);
    second.signal(Signal::TERM);
    assert_eq!(second.wait().code(), Some(0));
    assert!(node.reports.try_iter().all(|report| report.get("instance").is_some()));
}

#[test]
fn with_a_secret_reports_are_sealed_and_forged_answers_are_not_believed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = b"0123456789abcdef0123456789abcdef";
    let key = directory.path().join("cluster.key");
    std::fs::write(&key, secret).expect("writable");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    let sealed = |node: &StandIn| {
        let config = write_config(directory.path(), &[node.address], 100);
        let text = std::fs::read_to_string(&config).expect("just written");
        let text = text.replace("name = \"lab\"", "name = \"lab\"\nsecret_file = \"cluster.key\"");
        std::fs::write(&config, text).expect("writable");
        Daemon::start(&config, &["--worker", "127.0.0.1:1025"])
    };
    let gate = || {
        let secret = Secret::parse(secret).expect("long enough");
        Some(Gate::new("lab", "node-1", Some(&secret)).expect("the whole secret"))
    };
    let node = StandIn::start_behind(gate(), true, 200);
    let daemon = sealed(&node);
    let later = |report: &Value| report["sequence"].as_u64() > Some(2);
    node.report_with(|report| later(report) && report["forward"] == false);
    drop(daemon);
    // It says "committed" as well, but cannot sign that.
    let forger = StandIn::start_behind(gate(), false, 200);
    let _daemon = sealed(&forger);
    for _ in 0..5 {
        assert_eq!(forger.report_with(later)["forward"], true);
    }
}

#[test]
fn worker_up_follows_the_listening_socket_and_nobody_connects_to_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 50);
    let port = KeptPort::new();
    let address = port.address();
    let worker = TcpListener::bind(address).expect("a port that is kept for us");
    worker.set_nonblocking(true).expect("our own socket");
    let mut daemon = Daemon::start(&config, &["--worker", &address.to_string()]);
    assert_eq!(node.report_with(|_| true)["worker_up"], true, "from the first report on");
    node.report_with(|report| report["sequence"].as_u64() > Some(5));
    let nobody = worker.accept().expect_err("nobody may have connected");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    drop(worker);
    node.report_with(|report| report["worker_up"] == false);
    let _worker = TcpListener::bind(address).expect("a port that is kept for us");
    node.report_with(|report| report["worker_up"] == true);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// `/proc/stat` of the daemon alone is another file, in a mount namespace of its own.
#[test]
fn a_load_that_cannot_be_measured_is_reported_as_unknown() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let named = |name: &str| directory.path().join(name);
    std::fs::write(named("empty"), "").expect("writable");
    std::fs::copy("/proc/stat", named("frozen")).expect("Linux");
    let subset = "mount -t proc -o subset=pid proc /proc";
    let cases = [
        ("empty", format!("mount --bind {} /proc/stat", named("empty").display()), "cannot be read"),
        ("frozen", format!("mount --bind {} /proc/stat", named("frozen").display()), "stand still"),
        ("none", subset.to_owned(), "cannot be read"),
    ];
    for (case, mount, reason) in cases {
        let tried =
            Command::new("unshare").args(["--mount", "sh", "-c", &mount]).output().expect("unshare(1)");
        if !tried.status.success() {
            eprintln!("SKIPPED, {case}: {}", String::from_utf8_lossy(&tried.stderr));
            continue;
        }
        let node = StandIn::start(200);
        let config = write_config(directory.path(), &[node.address], 100);
        let log = named(&format!("{case}.log"));
        // unshare(1) and sh(1) both become the next program: the process that is started is the daemon.
        let script = format!("{mount}; exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_rakit-daemon"), "--config"]);
        command
            .arg(&config)
            .args(["--server", "lab-01", "--worker", "127.0.0.1:1025", "--log-file"])
            .arg(&log);
        let mut daemon = Daemon(command.stdin(Stdio::null()).spawn().expect("the daemon starts"));
        for _ in 0..10 {
            let report = node.report_with(|_| true);
            assert_eq!((&report["cpu_known"], &report["cpu"]), (&json!(false), &json!(100.0)), "{case}");
        }
        // The file is back.
        let pid = daemon.0.id().to_string();
        let target = if case == "none" { "/proc" } else { "/proc/stat" };
        let umount = ["-t", &pid, "--mount", "umount", target];
        assert!(Command::new("nsenter").args(umount).status().expect("nsenter(1)").success(), "{case}");
        let report = node.report_with(|report| report.get("cpu_known").is_none());
        assert!(report["cpu"].as_f64().is_some_and(|cpu| (0.0..=100.0).contains(&cpu)), "{report}");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let told = std::fs::read_to_string(&log).expect("its log");
        let times = |words: &str| told.lines().filter(|line| line.contains(words)).count();
        assert_eq!(times("the load of this server is not known ("), 1, "{told}");
        assert_eq!(times(reason), 1, "{told}");
        assert_eq!(times("the load of this server is known again: "), 1, "{told}");
    }
}

/// A control group that may use a fifth of a processor, made for a test and removed after it.
struct FifthOfAProcessor {
    directories: Vec<PathBuf>,
    /// The controller was handed down to groups for this test.
    gave_cpu: bool,
}

impl FifthOfAProcessor {
    /// Version 2 if it has the controller `cpu`, else version 1. An error: this system or this user may not.
    fn make() -> std::io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("rakit-test-{}", std::process::id());
        let has_cpu = std::fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|all| all.split_whitespace().any(|one| one == "cpu"));
        if has_cpu {
            let mut group = Self { directories: vec![root.join(&name)], gave_cpu: false };
            let control = root.join("cgroup.subtree_control");
            if !std::fs::read_to_string(&control)?.split_whitespace().any(|one| one == "cpu") {
                std::fs::write(&control, "+cpu")?;
                group.gave_cpu = true;
            }
            std::fs::create_dir(&group.directories[0])?;
            std::fs::write(group.directories[0].join("cpu.max"), "20000 100000")?;
            return Ok(group);
        }
        let mut group = Self { directories: Vec::new(), gave_cpu: false };
        for controller in ["cpu", "cpuacct"] {
            let directory = root.join(controller).join(&name);
            // Often one hierarchy has both.
            if !directory.exists() {
                std::fs::create_dir(&directory)?;
                group.directories.push(directory);
            }
        }
        std::fs::write(group.directories[0].join("cpu.cfs_quota_us"), "20000")?;
        Ok(group)
    }

    /// A command that runs this program in the group: a shell enters it and becomes the program.
    fn command(&self, program: &str) -> Command {
        let groups: String = self
            .directories
            .iter()
            .map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display()))
            .collect();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("set -e; {groups}exec \"$0\" \"$@\""), program]).stdin(Stdio::null());
        command
    }
}

impl Drop for FifthOfAProcessor {
    fn drop(&mut self) {
        for group in &self.directories {
            let deadline = Instant::now() + PATIENCE;
            // It can be removed as soon as the last process in it is gone.
            while std::fs::remove_dir(group).is_err() && group.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if self.gave_cpu {
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "-cpu");
        }
    }
}

/// On two idle processors, a worker that has used up its fifth of one would look 90 % idle.
#[test]
fn in_a_control_group_with_a_quota_the_load_is_in_percent_of_the_quota() {
    let group = match FifthOfAProcessor::make() {
        Ok(group) => group,
        Err(error) => {
            eprintln!("SKIPPED: no control group can be made here: {error}");
            return;
        }
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 100);
    let log = directory.path().join("daemon.log");
    let script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\nwhile True: pass";
    let worker = group.command("python3").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh(1)");
    let mut worker = Daemon(worker);
    let mut port = String::new();
    BufReader::new(worker.0.stdout.take().expect("piped")).read_line(&mut port).expect("its port");
    let address = format!("127.0.0.1:{}", port.trim());
    let mut epoch = Some(0);
    // In the group, and outside: the worker's group counts.
    for daemon in
        [group.command(env!("CARGO_BIN_EXE_rakit-daemon")), Command::new(env!("CARGO_BIN_EXE_rakit-daemon"))]
    {
        let mut daemon = daemon;
        daemon
            .arg("--config")
            .arg(&config)
            .args(["--server", "lab-01", "--worker", &address, "--log-file"])
            .arg(&log);
        let mut daemon = Daemon(daemon.stdin(Stdio::null()).spawn().expect("the daemon starts"));
        let report = node.report_with(|report| {
            // The last report of the daemon before may still be on its way.
            report["epoch"].as_u64() > epoch && report["cores"] == 1 && report["cpu"].as_f64() > Some(80.0)
        });
        epoch = report["epoch"].as_u64();
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
    let told = std::fs::read_to_string(&log).expect("its log");
    assert_eq!(told.matches("the worker may use 0.20 of ").count(), 2, "{told}");
}

#[test]
fn a_daemon_that_is_bound_to_one_processor_has_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 100);
    let own = procfs::process::Process::myself().and_then(|me| me.status()).expect("Linux");
    let (first, _) = own.cpus_allowed_list.expect("Linux")[0];
    let mut command = Command::new("taskset");
    command.args(["-c", &first.to_string(), env!("CARGO_BIN_EXE_rakit-daemon"), "--config"]).arg(&config);
    command.args(["--server", "lab-01", "--worker", "127.0.0.1:1025"]);
    let mut daemon = Daemon(command.stdin(Stdio::null()).spawn().expect("taskset(1)"));
    let report = node.report_with(|_| true);
    assert_eq!((&report["cores"], report.get("cpu_known")), (&json!(1), None), "{report}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn without_a_worker_the_own_address_and_the_usual_port_are_reported() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 50);
    let mut daemon = Daemon::start(&config, &["--measure", "process:1"]);
    assert_eq!(node.report_with(|_| true)["worker"], "127.0.0.1:13337");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// What logrotate does: rename the file, then SIGHUP.
#[test]
fn sighup_opens_the_log_file_again_and_stops_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 50);
    let (log, renamed) = (directory.path().join("daemon.log"), directory.path().join("daemon.log.1"));
    let mut daemon =
        Daemon::start(&config, &["--worker", "127.0.0.1:1025", "--log-file", log.to_str().expect("text")]);
    let before = node.report_with(|_| true)["sequence"].as_u64();
    std::fs::rename(&log, &renamed).expect("our own directory");
    daemon.signal(Signal::HUP);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let deadline = Instant::now() + PATIENCE;
    while !read(&log).contains("SIGHUP: the log file") {
        assert!(
            Instant::now() < deadline,
            "no line in a file of the old name; in the renamed one: {}",
            read(&renamed)
        );
        node.report_with(|_| true);
    }
    assert!(read(&renamed).contains("rakit-daemon"), "{}", read(&renamed));
    node.report_with(|report| report["sequence"].as_u64() > before);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(read(&log).contains("SIGTERM: stopping"), "{}", read(&log));
}

#[test]
fn a_daemon_outlives_all_its_nodes_and_is_heard_when_one_comes_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let port = KeptPort::new();
    let address = port.address();
    let node = StandIn::start_at(address, 200);
    let config = write_config(directory.path(), &[address], 50);
    let mut daemon = Daemon::start(&config, &["--worker", "127.0.0.1:1025"]);
    let before = node.report_with(|_| true);
    // A node goes away, and at its address something else listens for a while that speaks no HTTP.
    drop(node);
    node_is_gone(address);
    let garbage = bind_again(address);
    let (mut connection, _) = garbage.accept().expect("the daemon tries again");
    std::io::Write::write_all(&mut connection, b"\x16\x03\x01 not http\r\n\r\n").expect("it listens");
    drop((connection, garbage));
    assert!(daemon.0.try_wait().expect("our own child").is_none(), "it lives");
    let again = bind_again(address);
    again.accept().expect("the daemon tries again");
    assert!(before["sequence"].as_u64() >= Some(1));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// tiny_http's server closes its socket a moment after it is dropped.
fn node_is_gone(address: SocketAddr) {
    drop(bind_again(address));
}

fn bind_again(address: SocketAddr) -> TcpListener {
    eventually("the address is free again", || TcpListener::bind(address).ok())
}

#[test]
fn a_daemon_ends_with_the_parent_that_started_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = StandIn::start(200);
    let config = write_config(directory.path(), &[node.address], 50);
    // A shell in between is the parent; `kill -9` gives it no chance to clean up.
    let script = "\"$0\" --config \"$1\" --server lab-01 --worker 127.0.0.1:1025 --stop-with-parent $$ & echo $!; wait";
    let mut parent = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_rakit-daemon")])
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh(1)");
    let mut pid = String::new();
    BufReader::new(parent.stdout.take().expect("piped"))
        .read_line(&mut pid)
        .expect("the daemon's process id");
    node.report_with(|_| true);
    parent.kill().expect("our own child");
    parent.wait().expect("our own child");
    // It is no child of this test: there is nothing to wait on but its entry in /proc. Gone, or a zombie that nobody
    // here can take away, is ended.
    let stat = format!("/proc/{}/stat", pid.trim());
    let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    let deadline = Instant::now() + PATIENCE;
    while lives() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    if lives() {
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("not 0");
        kill_process(pid, Signal::KILL).expect("started by this test");
        panic!("the daemon outlived its parent");
    }
}

/// Arguments that a daemon refuses with exit code 2 and one line on standard error with these words.
#[test]
fn bad_usage_and_bad_configuration_are_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let local = write_config(directory.path(), &["127.0.0.1:9".parse().expect("an address")], 1000);
    let named = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path.display().to_string()
    };
    let node = "[[node]]\nid = 1\npublic = \"127.0.0.1:8001\"\ncluster = ";
    // TEST-NET-1 (RFC 5737): on no machine, so surely another one's.
    let away = named("away.toml", &format!("[cluster]\nname = \"lab\"\n{node}\"192.0.2.1:9001\"\n"));
    let typo =
        named("typo.toml", &format!("[cluster]\nname = \"lab\"\ncolour = 1\n{node}\"127.0.0.1:9001\"\n"));
    let local = local.display().to_string();
    let missing = directory.path().join("none.toml").display().to_string();
    let log = format!("{local}/x.log");
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (vec![], vec!["--config", "--server"]),
        (vec!["--config", &local], vec!["--server"]),
        (vec!["--config", &local, "--server", "a b"], vec!["--server", "letters"]),
        (
            vec!["--config", &local, "--server", "a", "--worker", "0.0.0.0:1025"],
            vec!["--worker", "no node takes that"],
        ),
        (vec!["--config", &local, "--server", "a", "--worker", "localhost:1"], vec!["--worker", "IP:PORT"]),
        (vec!["--config", &local, "--server", "a", "--measure", "disk"], vec!["--measure", "process:PID"]),
        (vec!["--config", &local, "--server", "a", "--log-level", "loud"], vec!["--log-level", "debug"]),
        (vec!["--config", &local, "--server", "a", "--log-file", &log], vec!["--log-file", &log]),
        (vec!["--config", &local, "--server", "a", "--sever"], vec!["--sever", "--help"]),
        (vec!["--config", &missing, "--server", "a"], vec![&missing, "--config"]),
        (vec!["--config", &typo, "--server", "a"], vec![&typo, ":3: cluster.colour", "unknown field"]),
        (vec!["--config", &away, "--server", "a"], vec![&away, "cluster.secret_file", "--insecure"]),
        (
            vec!["--config", &away, "--server", "a", "--insecure", "--worker", "127.0.0.1:13337"],
            vec!["--worker 127.0.0.1:13337", "192.0.2.1:9001", "another machine"],
        ),
    ];
    for (arguments, words) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"))
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the daemon starts");
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
        assert!(told.starts_with("rakit-daemon: ") && output.stdout.is_empty(), "{told}");
        for word in words {
            assert!(told.contains(word), "{word} expected in: {told}");
        }
    }
    for flag in ["--help", "--version"] {
        let output = Command::new(env!("CARGO_BIN_EXE_rakit-daemon")).arg(flag).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("rakit-daemon") && output.stderr.is_empty());
    }
}
