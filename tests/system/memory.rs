//! What a node remembers over its own restart when no majority is left to tell it anything: the state that it had, and how old
//! that is.

use std::time::{Duration, Instant};

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http::Answer;
use crate::programs::workers::Worker;

/// A prime, as the node serves it without a leader, and its age.
fn stale_prime(cluster: &Cluster, id: NodeId) -> (Answer, Duration) {
    cluster.wait_for(&format!("node {id} serves a prime and says how old its state is"), || {
        let answer = cluster.get(id, "/5");
        let age = answer.header("x-rakit-stale-ms")?.parse().expect("milliseconds");
        (answer.status == 200).then_some((answer, Duration::from_millis(age)))
    })
}

#[test]
fn the_last_node_of_three_serves_the_state_it_had_after_its_own_restart_and_says_how_old_it_is() {
    for by_signal in [false, true] {
        let mut cluster = Cluster::start(ClusterOptions::nodes(3));
        let worker = Worker::good(1);
        cluster.report("s1", &worker, 10.0);
        cluster.report("s1", &worker, 20.0);
        let digest = cluster.wait_for_equal_digests();
        cluster.kill9(2);
        cluster.kill9(3);
        cluster.wait_for("node 1 has no leader", || cluster.status(1)["leader"].is_null().then_some(()));
        let without = Instant::now();
        let before = cluster.status(1);
        for _ in 0..2 {
            if by_signal {
                assert_eq!(cluster.terminate(1).code(), Some(0));
            } else {
                cluster.kill9(1);
            }
            cluster.restart(1);
            cluster.wait_for("node 1 answers", || cluster.try_status(1));
            let at_least = without.elapsed();
            let (answer, age) = stale_prime(&cluster, 1);
            assert_eq!(answer.body, worker.answer(5) + "\n");
            assert!(age >= at_least, "it has no leader for {at_least:?}, and calls its state {age:?} old");
            let after = cluster.status(1);
            assert_eq!(after["state_digest"], digest.as_str(), "by_signal {by_signal}: {before} {after}");
            assert_eq!(after["commit_index"], before["commit_index"]);
            assert_eq!(cluster.get(1, "/readyz").status, 503, "it serves, and is not ready");
        }
        // With a majority again, nothing is stale and nothing was lost.
        cluster.restart(2);
        cluster.wait_for("node 2 answers", || cluster.try_status(2));
        cluster.wait_until_ready();
        cluster.wait_for("no age any more", || {
            let answer = cluster.get(1, "/5");
            answer.header("x-rakit-stale-ms").is_none().then_some(())
        });
        cluster.report("s1", &worker, 30.0);
    }
}
