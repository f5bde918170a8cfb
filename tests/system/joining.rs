//! A node without memory: it does not count until a leader has filled it, and what was acknowledged stays.

use std::fs;

use crate::disk_trouble::{assert_ended, run_to_its_end};
use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::workers::Worker;

fn is_joining(cluster: &Cluster, id: NodeId) -> Option<bool> {
    cluster.try_status(id)?["joining"].as_bool()
}

/// Nodes 1 and 2 acknowledge a report. Node 2 loses its log, node 1 dies, and node 3, which lacks the report, comes back: the
/// two of them must not agree on anything.
#[test]
fn an_acknowledged_report_outlives_an_emptied_directory() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    cluster.kill9(3);
    cluster.wait_until_ready();
    let (_, promise) = cluster.report("s1", &worker, 10.0);
    cluster.kill9(2);
    fs::remove_file(cluster.path("data/node-2/log")).expect("its log");
    cluster.kill9(1);
    cluster.restart(2);
    cluster.restart(3);
    for id in [2, 3] {
        cluster.wait_for(&format!("node {id} answers"), || cluster.try_status(id));
    }
    let asked = || cluster.log_text(3).matches("node 3 is a pre-candidate").count();
    let before = asked();
    cluster.wait_for("node 3 has asked for votes five times", || (asked() >= before + 5).then_some(()));
    for id in [2, 3] {
        assert_eq!(cluster.status(id)["leader"], serde_json::Value::Null, "{}", cluster.story());
    }
    assert_eq!(is_joining(&cluster, 2), Some(true));
    for line in [
        "joining: node 2 begins with a new or emptied directory",
        "joining: node 2 founds no cluster yet: ",
        "node 3 lived before, so a leader has to admit node 2",
    ] {
        cluster.wait_for_line(2, line);
    }

    cluster.restart(1);
    cluster.wait_until_ready();
    cluster.wait_for("node 2 counts again", || is_joining(&cluster, 2).filter(|joining| !joining));
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        promise.assert_in(&cluster.raft_log(id, 0), id);
    }
    cluster.wait_for_line(2, "joining: node 2 counts from now on: node ");
}

#[test]
fn repair_sets_a_damaged_directory_aside_and_the_node_joins_again() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    let (_, promise) = cluster.report("s1", &worker, 10.0);
    cluster.wait_for_equal_digests();
    cluster.kill9(2);
    let path = cluster.path("data/node-2/log");
    let mut damaged = fs::read(&path).expect("its log");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x04;
    fs::write(&path, &damaged).expect("our own file");
    assert_ended(
        &run_to_its_end(&cluster, 2),
        1,
        &["node-2/log is damaged", "mend: start this node once with --repair"],
    );

    cluster.restart_with(2, &["--repair"]);
    cluster.wait_until_ready();
    cluster.wait_for("node 2 counts again", || is_joining(&cluster, 2).filter(|joining| !joining));
    cluster.wait_for_equal_digests();
    promise.assert_in(&cluster.raft_log(2, 0), 2);
    assert_eq!(fs::read(cluster.path("data/node-2.damaged-1/log")).expect("nothing is deleted"), damaged);

    // A sound directory is left alone.
    cluster.terminate(2);
    cluster.restart_with(2, &["--repair"]);
    cluster.wait_until_ready();
    assert_eq!(is_joining(&cluster, 2), Some(false));
    assert!(!cluster.path("data/node-2.damaged-2").exists());
}
