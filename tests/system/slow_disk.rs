//! A real node on a disk whose every fsync takes long: strace(1) holds the calls up. It costs time, and no election.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http;
use crate::programs::load::{Steady, assert_kept};
use crate::programs::tracer::{self, Syncs};
use serde_json::Value;

/// So much longer does an fsync take: four of them in a row are as long as the lower election timeout.
const FSYNC: Duration = Duration::from_millis(800);

/// A compaction every so many entries.
const SNAPSHOT_ENTRIES: u64 = 20;

/// So many compactions on the slow disk are watched.
const COMPACTIONS: usize = 2;

/// As with fsyncs of 120 ms and the default time-outs, but with more room for a machine that does other things as well.
fn options() -> ClusterOptions {
    ClusterOptions {
        heartbeat_ms: 100,
        election_timeout_ms: (3_200, 4_000),
        snapshot_entries: SNAPSHOT_ENTRIES,
        ..ClusterOptions::nodes(3)
    }
}

/// The tracer of one node, which ends with this.
struct SlowDisk {
    strace: Child,
    calls: PathBuf,
}

impl SlowDisk {
    /// From now on, the node's disk is slow.
    fn of(cluster: &Cluster, id: NodeId) -> Self {
        let (process, calls) = (cluster.pid(id).expect("it runs"), cluster.path(&format!("syncs-{id}")));
        let strace =
            tracer::tracer(process, Syncs::Take(FSYNC), &calls).spawn().expect("it was tried before");
        cluster.wait_for("its threads are traced", || tracer::is_traced(process).then_some(()));
        Self { strace, calls }
    }

    /// How many fsyncs it held up.
    fn held_up(&self) -> usize {
        fs::read_to_string(&self.calls).expect("strace made it").matches("(DELAYED)").count()
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.strace.kill().expect("our own child");
        self.strace.wait().expect("our own child");
    }
}

/// Whether strace may be used here; says so if not.
fn is_possible() -> bool {
    let possible = tracer::is_possible();
    if let Err(why) = &possible {
        eprintln!("SKIPPED: a slow disk is tested only where strace can attach itself to a process: {why}");
    }
    possible.is_ok()
}

/// The leader and the term that each of these nodes sees.
fn order(cluster: &Cluster, ids: &[NodeId]) -> Vec<(Option<u64>, Option<u64>)> {
    let seen = ids.iter().map(|id| cluster.status(*id));
    seen.map(|status| (status["leader"].as_u64(), status["term"].as_u64())).collect()
}

fn times(cluster: &Cluster, id: NodeId, what: &str) -> usize {
    cluster.log_text(id).matches(what).count()
}

/// A compaction has four fsyncs. Between them, the leader sends heartbeats.
#[test]
fn compactions_of_a_leader_with_a_slow_disk_cost_no_election() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::start(options());
    let (leader, before) = cluster.wait_for("all follow one leader", || {
        let leader = cluster.agreed_leader()?;
        let order = order(&cluster, &cluster.ids());
        order.iter().all(|one| *one == (Some(leader), order[0].1)).then_some((leader, order))
    });
    let compacted = || times(&cluster, leader, "compacts its log");
    let began = compacted();
    let disk = SlowDisk::of(&cluster, leader);
    let load = Steady::start(&cluster, 16);
    for done in 1..=COMPACTIONS {
        load.wait_for(&cluster, SNAPSHOT_ENTRIES);
        cluster.wait_for("it compacts", || (compacted() >= began + done).then_some(()));
        assert_eq!(order(&cluster, &cluster.ids()), before, "an election took place\n{}", cluster.story());
    }
    let promises = load.end();
    assert!(disk.held_up() >= 4 * COMPACTIONS, "{} fsyncs were held up", disk.held_up());
    assert_eq!(order(&cluster, &cluster.ids()), before, "an election took place\n{}", cluster.story());
    drop(disk);
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
}

/// An installed snapshot costs four fsyncs in a row: nothing may be acknowledged between them. The follower hears nobody for
/// longer than its election timeout. That does no harm to the leader, also when it needs this follower for its majority afterwards.
#[test]
fn a_follower_that_installs_a_snapshot_on_a_slow_disk_costs_no_election() {
    if !is_possible() {
        return;
    }
    // The leader waits as long as with the default time-outs, in proportion.
    let mut cluster = Cluster::start(ClusterOptions { election_timeout_ms: (3_200, 6_400), ..options() });
    let (leader, before) = cluster.wait_for("all follow one leader", || {
        let leader = cluster.agreed_leader()?;
        let order = order(&cluster, &[leader]);
        (order[0].0 == Some(leader)).then_some((leader, order))
    });
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (follower, third) = (others[0], others[1]);
    cluster.kill9(follower);
    let load = Steady::start(&cluster, 16);
    load.wait_for(&cluster, 10 * SNAPSHOT_ENTRIES);
    let promises = load.end();
    // It hears nobody until its disk is slow.
    cluster.restart_with(follower, &[&format!("--deaf-to={leader},{third}")]);
    cluster.wait_for("it runs", || cluster.try_status(follower));
    let disk = SlowDisk::of(&cluster, follower);
    let (json, nobody) = ("Content-Type: application/json", br#"{"deaf_to":[]}"#);
    let heard =
        http::request(cluster.public(follower), "POST", "/ui/cuts", &[json], nobody).expect("an answer");
    assert_eq!(heard.status, 200, "{heard:?}");
    cluster.wait_for("its disk has the snapshot", || {
        let holds = |status: Value| status["snapshot_index"].as_u64() > Some(SNAPSHOT_ENTRIES);
        cluster.try_status(follower).is_some_and(holds).then_some(())
    });
    cluster.wait_for_line(follower, "has installed the leader's snapshot");
    // From here on, the leader needs this follower for each commit.
    cluster.kill9(third);
    let load = Steady::start(&cluster, 16);
    load.wait_for(&cluster, 2 * SNAPSHOT_ENTRIES);
    assert_kept(&cluster, &load.end());
    assert!(disk.held_up() >= 4, "{} fsyncs were held up", disk.held_up());
    assert_eq!(
        order(&cluster, &[leader, follower]),
        [before[0]; 2],
        "an election took place\n{}",
        cluster.story()
    );
    cluster.restart(third);
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
}
