//! Machines whose cluster.toml names other members: nothing is agreed across the difference, both sides say it in words, and
//! a directory of another founding is refused.

use std::fs;
use std::process::Command;

use rakit::protocol::{Status, path};

use crate::disk_trouble::{assert_ended, run_to_its_end};
use crate::programs::cluster::{CLUSTER_NAME, Cluster, ClusterOptions, NodeId};
use crate::programs::workers::Worker;

const FIVE: &str = "systest: 1, 2, 3, 4, 5";
const THREE: &str = "systest: 1, 2, 3";

/// The text of the configuration with its first `count` nodes only.
fn shortened(text: &str, count: usize) -> String {
    let ends = text.match_indices("\n[[node]]").map(|(at, _)| at);
    let end = ends.collect::<Vec<_>>()[count];
    text[..end].to_owned() + "\n"
}

fn status(cluster: &Cluster, id: NodeId) -> Option<Status> {
    serde_json::from_value(cluster.try_status(id)?).ok()
}

/// Whether this node says that it does not work with that one, since the one was founded as `ours` and the other as `theirs`.
fn says_the_difference(cluster: &Cluster, id: NodeId, peer: NodeId, ours: &str, theirs: &str) -> bool {
    let words = [
        "wrong-founding".to_owned(),
        format!("this node was founded as {ours}; node {peer} says {theirs}; give every machine the same"),
    ];
    status(cluster, id).is_some_and(|status| {
        let refusal = status.refusals.iter().find(|refusal| refusal.node == peer);
        refusal.is_some_and(|refusal| words.iter().all(|word| refusal.reason.contains(word)))
    })
}

#[test]
fn nodes_with_other_members_agree_on_nothing_and_both_sides_say_why() {
    let mut cluster = Cluster::prepare(ClusterOptions::calm(5));
    let five = fs::read_to_string(cluster.config()).expect("our own file");
    for id in [3, 4, 5] {
        cluster.restart(id);
    }
    let leader = cluster.wait_until_ready();
    let worker = Worker::good(1);
    let promises: Vec<_> = (0..5).map(|_| cluster.report("s1", &worker, 10.0).1).collect();
    let before = cluster.status(leader);

    fs::write(cluster.config(), shortened(&five, 3)).expect("our own file");
    for id in [1, 2] {
        cluster.restart(id);
    }
    cluster.wait_for("both sides say the difference", || {
        let told = says_the_difference(&cluster, leader, 1, FIVE, THREE)
            && says_the_difference(&cluster, leader, 2, FIVE, THREE)
            && says_the_difference(&cluster, 1, 3, THREE, FIVE)
            && says_the_difference(&cluster, 2, 3, THREE, FIVE);
        told.then_some(())
    });
    let counted = |id| cluster.metric(id, "rakit_refusals_total{reason=\"wrong-founding\"}") > 0.0;
    cluster.wait_for("both sides count it", || [1, 2, 3].into_iter().all(counted).then_some(()));
    // An exchange that ends otherwise, such as by its time-out, takes a refusal out of the list until the next one.
    cluster.wait_for("rakit status shows it", || {
        let asked = Command::new(env!("CARGO_BIN_EXE_rakit"))
            .args(["status", &cluster.public(leader).to_string()])
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&asked.stdout);
        let shown = said.contains(&format!("node {leader} does not work with node 1: "))
            && said.contains(&format!("this node was founded as {FIVE}; node 1 says {THREE}"));
        shown.then_some(())
    });

    // Nothing went over: nodes 1 and 2 have nothing of it, and the others go on as if they were not there.
    for id in [1, 2] {
        assert_eq!(cluster.server(id, "s1"), None);
    }
    let after = cluster.status(leader);
    assert_eq!((&after["leader"], &after["term"]), (&before["leader"], &before["term"]));
    let log = cluster.raft_log(leader, 0);
    promises.iter().for_each(|promise| promise.assert_in(&log, leader));
}

#[test]
fn a_node_with_fewer_members_in_its_file_refuses_its_old_directory() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(5));
    let five = fs::read_to_string(cluster.config()).expect("our own file");
    cluster.terminate(1);
    let log = cluster.path("data/node-1/log");
    let before = fs::read(&log).expect("our own file");

    fs::write(cluster.config(), shortened(&five, 3)).expect("our own file");
    let found = format!(
        "{} belongs to node 1, founded as {FIVE}; this is node 1, founded as {THREE}; mend: ",
        log.display()
    );
    assert_ended(&run_to_its_end(&cluster, 1), 2, &[&found, "[[node]] list"]);
    assert_eq!(fs::read(&log).expect("our own file"), before);

    // Another name is another founding, too.
    let renamed = five.replace(&format!("name = \"{CLUSTER_NAME}\""), "name = \"other\"");
    fs::write(cluster.config(), renamed).expect("our own file");
    assert_ended(
        &run_to_its_end(&cluster, 1),
        2,
        &["this is node 1, founded as other: 1, 2, 3, 4, 5; mend: "],
    );

    // Other addresses are the same founding.
    fs::write(cluster.config(), five).expect("our own file");
    cluster.restart(1);
    cluster.wait_until_ready();
    let founding = cluster.get(1, &format!("{}?limit=1", path::LOG)).body;
    assert!(
        founding.contains(
            r#"{"index":1,"term":1,"command":{"founding":{"cluster":"systest","members":[1,2,3,4,5]}}}"#
        ),
        "{founding}"
    );
}
