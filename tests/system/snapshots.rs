//! Snapshots, compaction and InstallSnapshot with the real programs (section 7 of the paper): the log
//! stays short, a node that fell behind gets the leader's snapshot, and a kill -9 at any moment of it loses nothing.
//!
//! The core's own rules are in `tests/raft/scripts/snapshot_*`; every crash point of the disk in `tests/storage/crash.rs`.
//! Here it is seen that the threads between them keep to both.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::programs::PATIENCE;
use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::load::{Outcome, Steady, assert_kept, names};
use crate::programs::reports::Report as ServerReport;
use rakit::balancer::{Report, ServerCommand};
use rakit::raft::{Entry, Record};

/// A compaction every so many reports.
const SNAPSHOT_ENTRIES: u64 = 50;

/// docs/storage.md, "The bound": the longest line of an entry on disk, and of a server in a snapshot, in bytes.
const LINE_BYTES_MAX: usize = 500;

/// A leader sends a snapshot in pieces of so many bytes at the most (`snapshot_chunk_bytes`).
const CHUNK_BYTES: u64 = 256 << 10;

/// Rounds of the tests that kill at random moments. Any number by `RAKIT_ROUNDS`.
const ROUNDS_DEFAULT: u64 = 10;

fn options(nodes: u64) -> ClusterOptions {
    ClusterOptions { snapshot_entries: SNAPSHOT_ENTRIES, ..ClusterOptions::nodes(nodes) }
}

fn rounds() -> u64 {
    std::env::var("RAKIT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS_DEFAULT)
}

/// Posts `count` reports to whoever leads, through changes of leader.
fn post(cluster: &Cluster, names: &[String], count: u64) -> Outcome {
    let (mut all, never) = (Outcome::default(), AtomicBool::new(false));
    while all.acknowledged < count {
        let leader = cluster.wait_for_leader();
        let outcome = crate::programs::load::post(
            cluster.cluster_address(leader),
            names,
            count - all.acknowledged,
            &never,
        );
        all.acknowledged += outcome.acknowledged;
        all.promises.extend(outcome.promises);
    }
    all
}

fn number(cluster: &Cluster, id: NodeId, name: &str) -> u64 {
    cluster.status(id)[name].as_u64().unwrap_or_else(|| panic!("{name} of node {id}"))
}

/// The files of a node's directory, by name, with their sizes.
fn files(cluster: &Cluster, id: NodeId) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(cluster.path(&format!("data/node-{id}")))
        .expect("the node has made it")
        .map(|file| file.expect("a directory of ours"))
        // A node that compacts may have renamed it since.
        .filter_map(|file| Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len())))
        .collect();
    files.sort();
    files
}

/// A moment between 0 and `max`, another one each time. The clock's nanoseconds are random enough for that.
fn random_moment(max: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .subsec_nanos();
    max.mul_f64(f64::from(nanos.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24))
}

/// Fails if a node's log tells of something that no crash excuses.
fn assert_sound(cluster: &Cluster) {
    for id in cluster.ids() {
        let log = cluster.log_text(id);
        for word in ["panicked", "is damaged", "a bug", "suspicious:"] {
            let line = log.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "node {id} says: {}\n{}", line.unwrap_or_default(), cluster.story());
        }
    }
}

/// The indexes up to which a node has installed leaders' snapshots, by its log.
fn installs(cluster: &Cluster, id: NodeId) -> Vec<u64> {
    let log = cluster.log_text(id);
    log.lines()
        .filter_map(|line| {
            line.split_once("the leader's snapshot up to index ")?.1.split(' ').next()?.parse().ok()
        })
        .collect()
}

/// Whether the compaction up to `index` has come to its end: snapshot and log are there, and nothing unfinished.
fn is_clean(cluster: &Cluster, id: NodeId, index: u64) -> bool {
    let names: Vec<String> = files(cluster, id).into_iter().map(|(name, _)| name).collect();
    names
        .iter()
        .filter(|name| name.starts_with("snapshot-"))
        .all(|name| *name >= format!("snapshot-{index:020}.json"))
        && names.iter().all(|name| !name.ends_with(".new"))
}

/// With the default configuration: far more reports than one snapshot is apart from the next.
#[test]
fn ten_thousand_reports_leave_every_digest_equal() {
    let cluster = Cluster::start(ClusterOptions::nodes(5));
    let names = names("lab-", 32);
    let outcome = post(&cluster, &names, 10_000);
    assert!(outcome.acknowledged >= 10_000, "{} were acknowledged", outcome.acknowledged);
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &outcome.promises);
    assert_sound(&cluster);
}

/// Two new servers report at the same moment, and the table has one place left: one server gets the place and a 200,
/// the other one a 503. When the table is full, a report of a further server costs no entry in the log.
#[test]
fn a_server_too_many_is_turned_away() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let names = names("lab-", 1_023);
    let mut rounds = 0;
    while cluster.status(1)["servers"].as_array().expect("a list").len() < names.len() {
        assert!(rounds < 60, "not every server was let in");
        rounds += 1;
        post(&cluster, &names, 1_023);
    }
    let worker = "127.0.0.1:1025".parse().expect("an address");
    let report =
        |name: &str| cluster.post_report(1, &ServerReport::new(name, worker, 1.0)).expect("an answer");
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| report("one"));
        let other = scope.spawn(|| report("other"));
        (one.join().expect("it does not panic"), other.join().expect("it does not panic"))
    });
    for (name, (status, said)) in [("one", &one), ("other", &other)] {
        assert_eq!(cluster.server(1, name).is_some(), *status == 200, "{name} was told {status}: {said}");
    }
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "{one:?}, {other:?}");

    let before = number(&cluster, 1, "last_index");
    let (status, said) = report("one-more");
    assert_eq!(status, 503, "{said}");
    assert!(said.as_str().is_some_and(|said| said.contains("1024 living servers")), "{said}");
    assert_eq!(number(&cluster, 1, "last_index"), before);
    let known = report(&names[0]);
    assert_eq!(known.0, 200, "who is in may report: {known:?}");
}

#[test]
fn log_and_directory_stay_short_however_many_reports_come() {
    let cluster = Cluster::start(options(3));
    let names = names("lab-", 8);
    let mut before = 0;
    for _ in 0..4 {
        post(&cluster, &names, 400);
        cluster.wait_for_equal_digests();
        for id in cluster.ids() {
            // The last report may just have made another compaction due. When it is done, the last one is less than
            // `snapshot_entries` ago, and there is one snapshot and nothing unfinished.
            let (snapshot, held) = cluster.wait_for("the last compaction is done", || {
                let snapshot = number(&cluster, id, "snapshot_index");
                let held = files(&cluster, id);
                let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
                let snapshot_file = format!("snapshot-{snapshot:020}.json");
                let done = number(&cluster, id, "applied_index") - snapshot < SNAPSHOT_ENTRIES
                    && names == ["commit", "lock", "log", &snapshot_file];
                done.then_some((snapshot, held))
            });
            assert!(snapshot >= before + 400 - 2 * SNAPSHOT_ENTRIES, "node {id} does not compact");
            // The header, term and vote (an election of a busy machine adds some) and less than `snapshot_entries` entries.
            let lines = std::fs::read_to_string(cluster.path(&format!("data/node-{id}/log")))
                .expect("text")
                .lines()
                .count();
            assert!(lines < 20 + SNAPSHOT_ENTRIES as usize, "node {id}: {lines} lines of log");
            let bytes: u64 = held.iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes < (20 + SNAPSHOT_ENTRIES + 8) * LINE_BYTES_MAX as u64, "node {id}: {bytes} bytes");
        }
        before =
            cluster.ids().into_iter().map(|id| number(&cluster, id, "snapshot_index")).min().expect("nodes");
    }
    // GET /log from the beginning gives what there still is, without a gap, to the end.
    for id in cluster.ids() {
        // Between the two looks, a new leader may have begun its term with an entry.
        let indexes = cluster.wait_for("the log goes on to the end", || {
            let log = cluster.raft_log(id, 0);
            let indexes: Vec<u64> =
                log.iter().map(|entry| entry["index"].as_u64().expect("a number")).collect();
            (indexes.last() == Some(&number(&cluster, id, "last_index"))).then_some(indexes)
        });
        let (first, last) = (indexes[0], *indexes.last().expect("not empty: some trail the snapshot"));
        assert!(
            first > 1 && first <= number(&cluster, id, "snapshot_index") + 1,
            "node {id} begins at {first}"
        );
        assert_eq!(indexes, (first..=last).collect::<Vec<_>>());
        // As many trail the snapshot in memory as there may be until the next.
        assert!(indexes.len() as u64 <= 2 * SNAPSHOT_ENTRIES, "node {id} holds {}", indexes.len());
    }
    assert_sound(&cluster);
}

#[test]
fn a_node_that_was_down_gets_the_snapshot_and_a_restart_finds_it_again() {
    let mut cluster = Cluster::start(options(3));
    post(&cluster, &names("early-", 4), 20);
    let leader = cluster.wait_for_leader();
    let down = cluster.ids().into_iter().find(|id| *id != leader).expect("two others");
    cluster.kill9(down);
    let promises = post(&cluster, &names("late-", 8), 500).promises;
    cluster.restart(down);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
    cluster.wait_for_line(down, "installed the leader's snapshot up to index");
    assert_kept(&cluster, &promises);
    let index = number(&cluster, down, "snapshot_index");
    assert!(index > 400);
    // From its own disk alone: the snapshot and the few entries after it.
    for id in cluster.ids() {
        cluster.kill9(id);
    }
    // Only now is all said of the life before, and no compaction under way any more.
    let said_before = cluster.log_text(down).len();
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.wait_until_ready();
    // What follows the snapshot counts as committed only with an entry of the new leader's term (5.4.2): this one.
    post(&cluster, &names("after-", 1), 1);
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
    let recovered = cluster.wait_for("it says what its disk holds", || {
        let log = cluster.log_text(down)[said_before..].to_owned();
        let rest = log.split_once("snapshot up to index ")?.1;
        let (recovered, rest) = rest.split_once(',')?;
        rest.starts_with(" log up to index").then(|| recovered.parse::<u64>().expect("an index"))
    });
    assert!(recovered >= index, "it had the snapshot up to {index}, and found the one up to {recovered}");
    let log = cluster.log_text(down)[said_before..].to_owned();
    assert!(!log.contains("the leader's snapshot up to index"), "there was nothing to install\n{log}");
    assert_sound(&cluster);
}

#[test]
fn kill_9_at_any_moment_of_compaction_or_install_loses_nothing() {
    let mut cluster = Cluster::start(ClusterOptions { snapshot_entries: 20, ..ClusterOptions::nodes(3) });
    let load = Steady::start(&cluster, 16);
    load.wait_for(&cluster, 100);
    let mut installs_cut = 0;
    for round in 0..rounds() {
        let leader = cluster.wait_for_leader();
        // By turns a follower, the leader, and a follower that is killed again while it installs the snapshot that it lacks.
        let victim = match round % 3 {
            1 => leader,
            _ => cluster.ids().into_iter().find(|id| *id != leader).expect("two others"),
        };
        std::thread::sleep(random_moment(Duration::from_millis(60)));
        cluster.kill9(victim);
        load.wait_for(&cluster, 100);
        if round % 3 == 2 {
            let installing = |cluster: &Cluster| installs(cluster, victim).last().copied();
            let before = installing(&cluster);
            cluster.restart(victim);
            // The node logs the install before it writes. Within the next milliseconds it writes and syncs a compaction.
            await_closely(&cluster, || installing(&cluster) > before);
            std::thread::sleep(random_moment(Duration::from_millis(4)));
            cluster.kill9(victim);
            let index = installing(&cluster).expect("it was awaited");
            installs_cut += usize::from(!is_clean(&cluster, victim, index));
        }
        cluster.restart(victim);
        load.wait_for(&cluster, 50);
    }
    let promises = load.end();
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
    assert_sound(&cluster);
    println!("{} rounds, {installs_cut} installs cut short, {} promises kept", rounds(), promises.len());
}

#[test]
fn a_large_snapshot_survives_a_change_of_leader_in_the_middle() {
    // Names of 64 bytes: the longest table there is, in two chunks of 256 KiB.
    let names = names(&"n".repeat(60), 1_024);
    let mut cluster = Cluster::start(ClusterOptions { snapshot_entries: 500, ..ClusterOptions::nodes(3) });
    let is_large = |cluster: &Cluster| {
        let snapshot = |(name, _): &(String, u64)| name.starts_with("snapshot-") && name.ends_with(".json");
        let leader = cluster.wait_for_leader();
        files(cluster, leader).into_iter().any(|file| snapshot(&file) && file.1 > CHUNK_BYTES)
    };
    // Which of a thousand connections are served first is the kernel's choice, and with it, after how many reports the last
    // name is in the table: reports go on until a compaction has seen enough of them.
    let (mut promises, mut rounds) = (Vec::new(), 0);
    while !is_large(&cluster) {
        assert!(rounds < 60, "no snapshot has more than one chunk\n{}", cluster.story());
        rounds += 1;
        promises = post(&cluster, &names, 1_024).promises;
    }
    // The test cannot choose the moment exactly: it tries until a kill hits the middle of an install.
    let mut hits = 0;
    for round in 1..=20 {
        let leader = cluster.wait_for_leader();
        let behind = cluster.ids().into_iter().find(|id| *id != leader).expect("two others");
        cluster.kill9(behind);
        promises = post(&cluster, &names, 1_200).promises;
        let leader = cluster.wait_for_leader();
        let third = cluster.ids().into_iter().find(|id| ![leader, behind].contains(id)).expect("three nodes");
        let (logged, third_logged) = (cluster.log_text(behind).len(), cluster.log_text(third).len());
        let said = |cluster: &Cluster, what: &str| cluster.log_text(behind)[logged..].contains(what);
        cluster.restart(behind);
        // The leader logs it before the first chunk, since it sends nothing else before.
        await_closely(&cluster, || said(&cluster, "leader found: "));
        cluster.kill9(leader);
        let installed = |cluster: &Cluster| said(cluster, "the leader's snapshot up to index");
        cluster.wait_for("the snapshot is installed", || installed(&cluster).then_some(()));
        cluster.wait_for_equal_digests();
        // Did the kill hit the middle? Then the third node led, since the one behind could not win, and began anew.
        let begun_anew = format!("log: node {behind} is too far behind");
        let hit = cluster.log_text(third)[third_logged..].contains(&begun_anew);
        assert_kept(&cluster, &promises);
        cluster.restart(leader);
        cluster.wait_until_ready();
        hits += usize::from(hit);
        if hits == 2 {
            println!("{hits} changes of leader in the middle of an install, in {round} rounds");
            break;
        }
    }
    assert!(hits > 0, "no kill hit the middle of an install, so nothing is proved");
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
    assert_sound(&cluster);
}

/// Awaits a condition that holds only for a short time: it looks every millisecond.
#[track_caller]
fn await_closely(cluster: &Cluster, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain\n{}", cluster.story());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The bound of docs/storage.md counts bytes by this.
#[test]
fn no_line_of_an_entry_or_a_server_is_longer_than_the_bound_says() {
    let body = format!(
        "{{\"server\":\"{}\",\"worker\":\"[2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535\",\"cpu\":33.333333333333336,\
         \"cores\":65536,\"cpu_known\":false,\"epoch\":9007199254740991,\"sequence\":9007199254740991,\"worker_up\":false,\
         \"worker_active\":false,\"instance\":9007199254740991}}",
        "n".repeat(64)
    );
    let report: Report =
        rakit::balancer::IncomingReport::parse(body.as_bytes()).expect("all within range").report;
    let command = ServerCommand::Report(report).to_command();
    let entry = Entry { index: u64::MAX, term: u64::MAX, command };
    let line = serde_json::to_string(&Record::Entry(entry.clone())).expect("JSON").len()
        + "CCCCCCCC ".len()
        + "\n".len();
    assert!(line <= LINE_BYTES_MAX, "an entry takes {line} bytes");

    let mut table = rakit::balancer::ServerTable::new(rakit::balancer::SERVERS_MAX);
    let empty = table.to_snapshot().as_json().len();
    table.apply(&entry);
    let server = table.to_snapshot().as_json().len() - empty;
    assert!(server <= LINE_BYTES_MAX, "a server takes {server} bytes of a snapshot");
}
