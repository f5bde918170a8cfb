//! A real node in trouble: killed in the middle of a write, with torn or changed records, with a full disk, with a directory
//! that belongs to another node or is in use, with a port that is taken; and the signals that stop it.
//!
//! `tests/storage/` tries every cut and every changed byte on the library. Here it is shown that the program, too,
//! either has all that it acknowledged or ends with one line that names file, offset and mend.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::reports::{Acknowledged, Report, Reporter};
use crate::programs::workers::{Behaviour, Worker};
use crate::programs::{PATIENCE, http};
use rustix::process::{Pid, Signal, kill_process};

/// How much a small disk holds.
const SMALL_DISK: &str = "size=96k";

fn log_file(cluster: &Cluster, id: NodeId) -> PathBuf {
    cluster.path(&format!("data/node-{id}/log"))
}

/// Runs a node that must end by itself.
pub fn run_to_its_end(cluster: &Cluster, id: NodeId) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rakit-node"))
        .arg("--config")
        .arg(cluster.config())
        .args(["--id", &id.to_string(), "--log-file"])
        .arg(cluster.path("second.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rakit-node starts");
    let pid = Pid::from_child(&child);
    let (ended, end) = crossbeam_channel::bounded::<()>(1);
    let guard = std::thread::spawn(move || {
        // A node that does not end by itself is killed: the test then fails on the exit code.
        if end.recv_timeout(PATIENCE) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let stderr = child.stderr.take().map(std::io::read_to_string).expect("it is piped").expect("text");
    let status = child.wait().expect("our own child");
    drop(ended);
    guard.join().expect("it cannot panic");
    Output { status, stdout: Vec::new(), stderr: stderr.into_bytes() }
}

/// Fails unless the program ended with this code and said all of `words` in its last line.
#[track_caller]
pub fn assert_ended(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("rakit-node: "), "{said}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last:?}");
    }
}

/// So many nodes whose logs are looked at as a whole: no flood of reports is long enough for a compaction.
fn uncompacted(nodes: u64) -> ClusterOptions {
    ClusterOptions { snapshot_entries: 1_000_000, ..ClusterOptions::nodes(nodes) }
}

#[track_caller]
fn assert_kept(cluster: &Cluster, id: NodeId, promises: &[Acknowledged]) {
    let log = cluster.raft_log(id, 0);
    assert!(!promises.is_empty(), "nothing was acknowledged");
    promises.iter().for_each(|promise| promise.assert_in(&log, id));
}

#[test]
fn what_one_node_acknowledged_survives_kill_9_and_a_torn_record() {
    let mut cluster = Cluster::start(uncompacted(1));
    let worker = Worker::good(1);
    let mut promises = Vec::new();
    for torn in ["", "0", "8d3f", "8d3f11ab ", "8d3f11ab {\"entry\":{\"index\":", "\0\0\0\0\0\0\0\0"] {
        let reporter = Reporter::start(&cluster, "s1", worker.address(), 10.0, Duration::from_millis(1));
        reporter.wait_for_commits(&cluster, 20);
        cluster.kill9(1);
        promises.extend(reporter.acknowledged());
        drop(reporter);
        let mut file = fs::OpenOptions::new().append(true).open(log_file(&cluster, 1)).expect("its log");
        file.write_all(torn.as_bytes()).expect("room on the disk");
        cluster.restart(1);
        cluster.wait_until_ready();
        assert_kept(&cluster, 1, &promises[..promises.len().min(900)]);
        assert_eq!(
            cluster.get(1, "/7").body,
            worker.answer(7) + "\n",
            "the table is there, without a new report"
        );
    }
}

#[test]
fn a_tail_that_was_cut_off_is_filled_again_by_the_others() {
    // Calm: what a follower has lost is with the leader and not with the third one alone.
    let mut cluster = Cluster::start(ClusterOptions::calm(3));
    let worker = Worker::good(1);
    let reporter = Reporter::start(&cluster, "s1", worker.address(), 10.0, Duration::from_millis(5));
    for cut in [1, 7, 40] {
        reporter.wait_for_commits(&cluster, 10);
        let victim = cluster.wait_for_leader() % 3 + 1;
        cluster.kill9(victim);
        let path = log_file(&cluster, victim);
        let length = fs::metadata(&path).expect("its log").len();
        let file = fs::OpenOptions::new().write(true).open(&path).expect("its log");
        file.set_len(length - cut).expect("our own file");
        cluster.restart(victim);
        cluster.wait_until_ready();
        let mended = if cut == 1 {
            "lacked its newline"
        } else {
            "the end of the last append was incomplete and is cut"
        };
        cluster.wait_for_line(victim, mended);
    }
    reporter.set_silent(true);
    let promises = reporter.acknowledged();
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        assert_kept(&cluster, id, &promises[..promises.len().min(400)]);
    }
}

#[test]
fn a_changed_byte_stops_the_node_with_file_offset_and_mend_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    cluster.report("s1", &worker, 20.0);
    let victim = cluster.wait_for_leader();
    cluster.kill9(victim);
    let path = log_file(&cluster, victim);
    let sound = fs::read(&path).expect("its log");
    let lines: Vec<usize> = std::iter::once(0)
        .chain(sound.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1))
        .collect();
    for (line, within) in [(0, 12), (1, 0), (1, 20), (2, 9)] {
        let mut damaged = sound.clone();
        damaged[lines[line] + within] ^= 0x04;
        fs::write(&path, &damaged).expect("our own file");
        let offset = format!("at byte {}", lines[line]);
        let output = run_to_its_end(&cluster, victim);
        assert_ended(&output, 1, &[&format!("node-{victim}/log"), &offset, "damaged", "mend: "]);
        assert_eq!(fs::read(&path).expect("its log"), damaged, "what is refused is left as it was found");
    }
    // Meanwhile the others went on; and the sound log is taken back.
    cluster.wait_for_leader();
    cluster.report("s1", &worker, 30.0);
    fs::write(&path, &sound).expect("our own file");
    cluster.restart(victim);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
}

/// A node whose directory was wiped comes back under its old id and has forgotten all its promises. The leader fills its log
/// again. The other nodes log that the directory is another one, so that the operator learns of it.
#[test]
fn a_wiped_directory_is_noticed_by_the_leader_and_filled_again() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    let (_, promise) = cluster.report("s1", &worker, 10.0);
    let leader = cluster.wait_for_leader();
    let wiped = leader % 3 + 1;
    cluster.kill9(wiped);
    fs::remove_dir_all(cluster.path(&format!("data/node-{wiped}"))).expect("the directory of a dead node");
    cluster.restart(wiped);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
    promise.assert_in(&cluster.raft_log(wiped, 0), wiped);
    let told = |id: NodeId| {
        let line = format!(
            "peer: node {id} hears from node {wiped} on another data directory than before (incarnation "
        );
        cluster.log_text(id).contains(&line)
    };
    cluster.wait_for("a node says that the directory is another", || {
        cluster.ids().into_iter().any(told).then_some(())
    });
}

#[test]
fn a_directory_belongs_to_one_process_and_one_node() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(1));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let pid = cluster.pid(1).expect("it runs").to_string();
    assert_ended(&run_to_its_end(&cluster, 1), 1, &["node-1 is in use by another process", &pid, "mend: "]);
    assert_eq!(cluster.get(1, "/7").body, worker.answer(7) + "\n", "the first one lives on");

    // Another cluster's directory, and another node's.
    cluster.kill9(1);
    let foreign = Cluster::prepare(ClusterOptions::nodes(2));
    copy(&cluster.path("data/node-1"), &foreign.path("data/node-2"));
    assert_ended(&run_to_its_end(&foreign, 2), 2, &["node-2/log belongs to node 1", "mend: "]);
    let text = fs::read_to_string(foreign.config()).expect("its configuration");
    fs::write(foreign.config(), text.replace("name = \"", "name = \"other-")).expect("our own file");
    copy(&cluster.path("data/node-1"), &foreign.path("data/node-1"));
    assert_ended(&run_to_its_end(&foreign, 1), 2, &["node-1/log belongs to", "the cluster's name", "mend: "]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("our own directory");
    fs::copy(from.join("log"), to.join("log")).expect("a log");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let cluster = Cluster::prepare(ClusterOptions::nodes(1));
    for (which, address) in [("public", cluster.public(1)), ("cluster", cluster.cluster_address(1))] {
        let taken = TcpListener::bind(address).expect("a port that is kept for us");
        assert_ended(&run_to_its_end(&cluster, 1), 1, &[which, &address.to_string(), "another program"]);
        drop(taken);
    }
}

#[test]
fn a_log_file_that_takes_nothing_costs_lines_and_no_request_and_says_so_when_it_can() {
    // No file of it may grow beyond some tens of kilobytes (the unit is the shell's own).
    let mut cluster = Cluster::start(ClusterOptions { ulimit: Some("-f 64"), ..ClusterOptions::nodes(1) });
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let dropped = || cluster.metric(1, "rakit_log_lines_dropped_total");
    let mut requests = 0;
    while dropped() == 0.0 {
        assert_eq!(cluster.get(1, "/7").body, worker.answer(7) + "\n", "request {requests}");
        requests += 1;
        assert!(requests < 10_000, "the file has no limit: {} bytes", cluster.log_text(1).len());
    }
    // It still agrees, too: that line of its log was lost, the entry of its Raft log was not.
    cluster.report("s2", &worker, 20.0);

    // A log rotation empties the file (logrotate's copytruncate).
    let log = fs::OpenOptions::new().write(true).open(cluster.path("logs/node-1.log")).expect("its log");
    log.set_len(0).expect("our own file");
    cluster.wait_for("it says how many lines are missing", || {
        let said = cluster.log_text(1);
        let line = said.lines().find(|line| line.contains("log lines are missing here: File too large"))?;
        assert!(line.contains("[WARN] logging: "), "{line}");
        Some(())
    });
    assert_eq!(cluster.terminate(1).code(), Some(0));
}

/// A small file system of its own. Dropping it unmounts it, also while a node uses it (umount(8), `-l`). Declare it after the
/// cluster, so that it is dropped before it: a directory in which something is mounted cannot be removed.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a line on the test's output, when this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("our own directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SMALL_DISK, "rakit-test"]).arg(&at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            other => {
                eprintln!(
                    "SKIPPED: a full disk is tested only by a user who may mount a tmpfs (root): {other:?}"
                );
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_node_whose_disk_is_full_acknowledges_nothing_more_and_ends() {
    let mut cluster = Cluster::prepare(uncompacted(3));
    let Some(disk) = SmallDisk::mount(cluster.path("data/node-2")) else { return };
    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    cluster.wait_until_ready();
    let worker = Worker::good(1);
    let reporter = Reporter::start(&cluster, "s1", worker.address(), 10.0, Duration::from_millis(1));
    let status = cluster.wait_for_end(2);
    assert_eq!(status.code(), Some(1));
    let log = cluster.log_text(2);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("No space left on device") && last.contains("mend: see that the disk"), "{last}");
    assert!(!log.contains("panicked"), "{log}");

    // The cluster goes on, and nothing that was acknowledged is missing on those who live.
    cluster.wait_for_leader();
    reporter.wait_for_commits(&cluster, 10);
    reporter.set_silent(true);
    cluster.wait_for_equal_digests();
    let promises = reporter.acknowledged();
    drop(reporter);
    for id in [1, 3] {
        assert_kept(&cluster, id, &promises[..promises.len().min(400)]);
        assert_eq!(cluster.get(id, "/7").body, worker.answer(7) + "\n");
    }
    // Once there is room again, it catches up from where it was.
    let made = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.0).status();
    assert!(made.is_ok_and(|status| status.success()), "what could be mounted can be made larger");
    cluster.restart(2);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
}

#[test]
fn told_to_stop_a_node_answers_what_it_has_begun_and_starts_again() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::start(uncompacted(1));
        let worker = Worker::start(1, Behaviour::Holds);
        let reporter = Reporter::start(&cluster, "s1", worker.address(), 10.0, Duration::from_millis(2));
        reporter.wait_for_commits(&cluster, 5);
        let address = cluster.public(1);
        let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || http::get(address, "/7"))).collect();
        worker.wait_for_held(8);
        let pid = Pid::from_raw(cluster.pid(1).expect("it runs") as i32).expect("not 0");
        kill_process(pid, signal).expect("our own child");
        // It accepts no new connection, and waits for the open requests.
        cluster.wait_for("it listens no more", || http::get(address, "/healthz").is_err().then_some(()));
        assert_eq!(worker.release(), 8);
        for client in clients {
            let answer = client.join().expect("it cannot panic").expect("a whole answer");
            assert_eq!((answer.status, answer.body), (200, worker.answer(7) + "\n"), "{signal:?}");
        }
        assert_eq!(cluster.wait_for_end(1).code(), Some(0), "{signal:?}: {}", cluster.log_text(1));
        let promises = reporter.acknowledged();
        drop(reporter);
        cluster.restart(1);
        cluster.wait_until_ready();
        assert_kept(&cluster, 1, &promises[..promises.len().min(900)]);
    }
}

/// A report that nobody acknowledged may be lost; one that was refused must be.
#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let leader = cluster.wait_for_leader();
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.kill9(id);
    }
    let report = Report::new("s1", worker.address(), 50.0);
    cluster.wait_for("it is refused", || match cluster.post_report(leader, &report) {
        Ok((503, _)) => Some(()),
        // It had been deposed before the others died, and names its successor for a while.
        Ok((202, _)) => None,
        answer => panic!("{answer:?}"),
    });
    assert_eq!(cluster.server(leader, "s1").expect("known")["cpu"], 10.0);
}

/// A file system of its own in a file, which can be frozen (fsfreeze(8)). Declare it after the cluster, as a [`SmallDisk`].
struct FreezableDisk(PathBuf);

impl FreezableDisk {
    /// `None`, and a line on the test's output, when this user may not mount.
    fn mount(image: &Path, at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("our own directory");
        let file = fs::File::create(image).expect("our own directory");
        file.set_len(8 << 20).expect("a sparse file");
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let mounted = run(Command::new("mkfs.ext4").arg("-q").arg(image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at));
        if !mounted {
            eprintln!("SKIPPED: a frozen disk is tested only by a user who may mount a loop device (root)");
        }
        mounted.then_some(Self(at))
    }

    fn freeze(&self, freeze: bool) {
        let flag = if freeze { "--freeze" } else { "--unfreeze" };
        let status = Command::new("fsfreeze").arg(flag).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "fsfreeze {flag} {}", self.0.display());
    }
}

impl Drop for FreezableDisk {
    fn drop(&mut self) {
        // A node whose disk is frozen cannot even be killed.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_leader_whose_disk_hangs_is_not_ready_says_why_and_is_no_leader_any_more() {
    let mut cluster = Cluster::prepare(ClusterOptions::nodes(3));
    let mount = |id| {
        FreezableDisk::mount(&cluster.path(&format!("disk-{id}")), cluster.path(&format!("data/node-{id}")))
    };
    let Some(disks) = (1..=3).map(mount).collect::<Option<Vec<_>>>() else { return };
    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    cluster.wait_until_ready();
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    cluster.wait_for_equal_digests();
    let (leader, term) = cluster.wait_for_leader_and_term();
    let disk = &disks[usize::try_from(leader).expect("one of three") - 1];
    disk.freeze(true);
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.wait_for("another leads", || {
        let named = |id: &NodeId| cluster.status(*id)["leader"].as_u64().filter(|named| *named != leader);
        others.iter().all(|id| named(id).is_some() && named(id) == named(&others[0])).then_some(())
    });
    cluster.wait_for("it is not ready, and says why", || {
        let answer = cluster.get(leader, "/readyz");
        (answer.status == 503 && answer.body.contains("has not finished a write for")).then_some(())
    });
    let status = cluster.status(leader);
    assert_eq!((&status["role"], status["leader"].is_null()), (&"follower".into(), true), "{status}");
    assert!(status["stuck_ms"].as_u64() >= Some(1_000), "{status}");
    // It serves on, and says how old what it knows is.
    cluster.wait_for("its primes are marked with their age", || {
        let answer = cluster.get(leader, "/5");
        assert_eq!(answer.body, worker.answer(5) + "\n");
        answer.header("x-rakit-stale-ms").map(drop)
    });
    disk.freeze(false);
    cluster.wait_until_ready();
    let (_, later) = cluster.wait_for_leader_and_term();
    assert!(later > term, "it was deposed");
    cluster.wait_for("it writes again", || cluster.status(leader)["stuck_ms"].is_null().then_some(()));
    for id in cluster.ids() {
        cluster.kill9(id);
    }
}
