//! A node whose state is another one than the others': found while it runs, told to everybody, not served from.

use std::fs;
use std::time::Duration;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::reports::Reporter;
use crate::programs::workers::Worker;

/// Changes a number in the node's snapshot and makes its checksum right again, as no disk does it by accident.
fn change_the_snapshot(cluster: &Cluster, id: NodeId) {
    let directory = cluster.path(&format!("data/node-{id}"));
    let name = fs::read_dir(&directory)
        .expect("its directory")
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "json"))
        .expect("it has compacted");
    let text = fs::read_to_string(&name).expect("text");
    let json = text.trim_end()[9..].replace("\"ignored\":", "\"ignored\":7");
    assert_ne!(json, text.trim_end()[9..]);
    fs::write(name, format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))).expect("our own file");
}

#[test]
fn a_node_with_another_state_says_so_serves_nothing_never_leads_and_the_cluster_goes_on() {
    let mut cluster = Cluster::start(ClusterOptions { snapshot_entries: 50, ..ClusterOptions::calm(3) });
    let worker = Worker::good(1);
    let reporter = Reporter::start(&cluster, "s1", worker.address(), 10.0, Duration::from_millis(5));
    let victim = cluster.wait_for_leader() % 3 + 1;
    cluster.wait_for("it has compacted", || {
        let mut names = fs::read_dir(cluster.path(&format!("data/node-{victim}"))).ok()?.flatten();
        names.any(|entry| entry.path().extension().is_some_and(|extension| extension == "json")).then_some(())
    });
    cluster.kill9(victim);
    change_the_snapshot(&cluster, victim);
    cluster.restart(victim);
    cluster.wait_for("it says that its state differs", || {
        let status = cluster.try_status(victim)?;
        status["contradiction"].as_str()?.contains("a majority of the nodes").then_some(())
    });
    let ready = cluster.get(victim, "/readyz");
    assert!(ready.status == 503 && ready.body.contains("differs from that of"), "{ready:?}");
    let prime = cluster.get(victim, "/7");
    assert!(prime.status == 503 && prime.body.contains("differs from that of"), "{prime:?}");
    cluster.wait_for_line(victim, "contradiction: the state of node");
    // It goes on storing; the others serve.
    let stored = cluster.status(victim)["last_index"].as_u64();
    reporter.wait_for_commits(&cluster, 20);
    cluster
        .wait_for("it stores on", || (cluster.status(victim)["last_index"].as_u64() > stored).then_some(()));
    for id in cluster.ids().into_iter().filter(|id| *id != victim) {
        assert_eq!(cluster.get(id, "/7").body, worker.answer(7) + "\n");
        assert!(cluster.status(id)["contradiction"].is_null());
    }
    // Its vote counts, and it does not lead. If it alone had the last entry, nobody could: so nothing is under way.
    reporter.set_silent(true);
    cluster.wait_for("all have the same entries", || {
        let ends: Vec<_> =
            cluster.ids().into_iter().map(|id| cluster.status(id)["last_index"].as_u64()).collect();
        ends.iter().all(|end| *end == ends[0]).then_some(())
    });
    let leader = cluster.wait_for_leader();
    cluster.kill9(leader);
    let next = cluster.wait_for_leader();
    assert_ne!(next, victim);
    reporter.set_silent(false);
    reporter.wait_for_commits(&cluster, 5);
}
