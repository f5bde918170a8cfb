//! A million reports: how many a second, how late each answer, and that neither memory nor disk grow with the age of the
//! cluster. Then how long a restart takes after all that. Figures, not part of `cargo test`:
//!
//! ```text
//! cargo test --release --test bench reports:: -- --ignored --nocapture
//! RAKIT_REPORTS=100000 RAKIT_NODES=3 cargo test --release --test bench reports:: -- --ignored --nocapture
//! ```
//!
//! The programs run with the default configuration. What is asserted is no speed but the bounds of docs/storage.md.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::load;
use crate::programs::load::Outcome;
use crate::programs::reports::Report;

/// Connections at the leader, each of one server.
const CONNECTIONS: usize = 256;

/// Rows of the table over time.
const ROWS: u64 = 10;

/// Reports of the single client whose latency is measured.
const SINGLE_REPORTS: u64 = 2_000;

/// Between two looks at the sizes of the directories.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// docs/storage.md, "The bound": entries in a log beyond `snapshot_entries`: those not committed, and one append.
const ENTRIES_BEYOND: u64 = 16_384 + 4_096;

/// docs/storage.md, "The bound": the longest line of one entry, and of one server in a snapshot, in bytes.
const LINE_BYTES_MAX: u64 = 400;

/// The table's servers at most.
const SERVERS_MAX: u64 = 1_024;

/// docs/storage.md, "The bound": what a node's directory may take, in bytes.
fn disk_bytes_max(snapshot_entries: u64) -> u64 {
    let old_log = (snapshot_entries + ENTRIES_BEYOND) * LINE_BYTES_MAX;
    let new_log = ENTRIES_BEYOND * LINE_BYTES_MAX;
    old_log + new_log + 2 * SERVERS_MAX * LINE_BYTES_MAX + 64 * 1024
}

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")),
        Err(_) => default,
    }
}

/// Bytes of all files in a node's directory.
fn directory_bytes(cluster: &Cluster, id: NodeId) -> u64 {
    let Ok(files) = std::fs::read_dir(cluster.path(&format!("data/node-{id}"))) else { return 0 };
    // A file may be renamed between the two calls.
    files.flatten().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// A line of /proc/PID/status, in KiB.
fn memory_kib(cluster: &Cluster, id: NodeId, name: &str) -> u64 {
    let pid = cluster.pid(id).expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = status.lines().find(|line| line.starts_with(name)).expect("proc(5) has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn per_node(cluster: &Cluster, figure: impl Fn(NodeId) -> String) -> String {
    cluster.ids().into_iter().map(figure).collect::<Vec<_>>().join(" ")
}

/// Posts `count` reports to whoever leads, through changes of leader.
fn post(cluster: &Cluster, connections: usize, count: u64) -> Outcome {
    let mut all = Outcome::default();
    let (names, never) = (load::names("load-", connections), AtomicBool::new(false));
    while all.acknowledged < count {
        let leader = cluster.wait_for_leader();
        let left = count - all.acknowledged;
        let outcome = load::post(cluster.cluster_address(leader), &names, left, &never);
        if let Some(why) = &outcome.ended_by {
            println!("      (the leader, node {leader}, ended it: {why}; going on)");
        }
        all.acknowledged += outcome.acknowledged;
        all.elapsed += outcome.elapsed;
        all.latencies.extend(outcome.latencies);
        all.promises = outcome.promises;
    }
    all
}

fn long_run(nodes: u64, reports: u64) {
    let options = ClusterOptions::nodes(nodes);
    let (entries_max, bytes_max) =
        (options.snapshot_entries + ENTRIES_BEYOND, disk_bytes_max(options.snapshot_entries));
    let mut cluster = Cluster::start(options);
    println!(
        "\n{nodes} nodes, {reports} reports, {CONNECTIONS} connections; bound of a directory: {bytes_max} bytes"
    );

    let single = post(&cluster, 1, SINGLE_REPORTS.min(reports));
    println!(
        "one client: median {:.2} ms, 99 % {:.2} ms",
        single.quantile(0.5).as_secs_f64() * 1e3,
        single.quantile(0.99).as_secs_f64() * 1e3
    );

    println!(
        "reports   per second  median ms  99 % ms  VmRSS MiB of each node   KiB on disk, highest of each node"
    );
    let highest: Vec<(NodeId, AtomicU64)> =
        cluster.ids().into_iter().map(|id| (id, AtomicU64::new(0))).collect();
    let mut total = Duration::ZERO;
    for row in 1..=ROWS {
        let done = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            // The peak is during a compaction, when the old pair and the new one lie side by side.
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    for (id, peak) in &highest {
                        peak.fetch_max(directory_bytes(&cluster, *id), Ordering::SeqCst);
                    }
                    std::thread::sleep(LOOK_INTERVAL);
                }
            });
            let outcome = post(&cluster, CONNECTIONS, reports / ROWS);
            done.store(true, Ordering::SeqCst);
            outcome
        });
        total += outcome.elapsed;
        println!(
            "{:>8}  {:>10.0}  {:>9.2}  {:>7.2}  {:<23}  {}",
            row * (reports / ROWS),
            outcome.rate(),
            outcome.quantile(0.5).as_secs_f64() * 1e3,
            outcome.quantile(0.99).as_secs_f64() * 1e3,
            per_node(&cluster, |id| format!("{:.1}", memory_kib(&cluster, id, "VmRSS:") as f64 / 1024.0)),
            highest
                .iter()
                .map(|(_, peak)| (peak.load(Ordering::SeqCst) / 1024).to_string())
                .collect::<Vec<_>>()
                .join(" "),
        );
        for (id, peak) in &highest {
            let peak = peak.load(Ordering::SeqCst);
            assert!(peak <= bytes_max, "node {id} took {peak} bytes on disk, more than {bytes_max}");
            let status = cluster.status(*id);
            let index = |name: &str| status[name].as_u64().expect("a number");
            let held = index("last_index") - index("snapshot_index");
            assert!(held <= entries_max, "node {id} holds {held} entries after its snapshot");
        }
    }
    println!("in all: {:.0} reports per second", (reports / ROWS * ROWS) as f64 / total.as_secs_f64());
    println!(
        "VmHWM MiB: {}",
        per_node(&cluster, |id| format!("{:.1}", memory_kib(&cluster, id, "VmHWM:") as f64 / 1024.0))
    );
    cluster.wait_for_equal_digests();
    restart(&mut cluster);
}

/// How long one node, and all of them, take to come back with what the reports left.
fn restart(cluster: &mut Cluster) {
    let leader = cluster.wait_for_leader();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("more than one node");
    cluster.kill9(follower);
    let goal = cluster.status(leader)["applied_index"].as_u64().expect("a number");
    let started = Instant::now();
    cluster.restart(follower);
    await_closely(|| cluster.try_status(follower).is_some_and(|s| s["applied_index"].as_u64() >= Some(goal)));
    println!(
        "one follower killed: has applied all again after {:.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );

    for id in cluster.ids() {
        cluster.kill9(id);
    }
    let started = Instant::now();
    for id in cluster.ids() {
        cluster.restart(id);
    }
    let mut report = Report::new("load-0000", "127.0.0.1:13337".parse().expect("an address"), 50.0);
    await_closely(|| {
        report.sequence = crate::programs::reports::next_sequence();
        cluster.try_report(&report).is_some()
    });
    println!("all killed: first commit after {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    cluster.wait_for_equal_digests();
}

/// Asks at a pace that the figure does not hide behind.
fn await_closely(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + crate::programs::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "a measurement of minutes; docs/benchmarks.md says how to run it"]
fn a_million_reports() {
    let reports = from_environment("RAKIT_REPORTS", 1_000_000);
    match from_environment("RAKIT_NODES", 0) {
        0 => [3, 5].into_iter().for_each(|nodes| long_run(nodes, reports)),
        nodes => long_run(nodes, reports),
    }
}
