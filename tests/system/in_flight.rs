//! What nodes know of each other's requests in flight, with real nodes: it counts in the choice, and no count outlives its
//! request, its client, its worker or its node. A count that leaked would keep a server without requests for ever.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http::{self, Answer};
use crate::programs::reports::Report;
use crate::programs::workers::{Behaviour, Worker};

/// Three nodes with the default policy.
fn cluster() -> Cluster {
    Cluster::start(ClusterOptions { policy: "projected", ..ClusterOptions::nodes(3) })
}

/// A request under way.
fn ask(cluster: &Cluster, id: NodeId, target: &str) -> JoinHandle<std::io::Result<Answer>> {
    let (address, target): (SocketAddr, String) = (cluster.public(id), target.to_owned());
    std::thread::spawn(move || http::get(address, &target))
}

/// Waits until node `id` knows that the other nodes have so many requests in flight at this server.
fn wait_for_elsewhere(cluster: &Cluster, id: NodeId, server: &str, count: u32) {
    let metric = format!("rakit_server_in_flight_elsewhere{{server=\"{server}\"}}");
    cluster.wait_for(&format!("node {id} knows of {count} requests at {server} from elsewhere"), || {
        (cluster.metric(id, &metric) == f64::from(count)).then_some(())
    });
}

/// Waits until node `id` sends a request to this server.
#[track_caller]
fn wait_for_choice(cluster: &Cluster, id: NodeId, target: &str, server: &str) {
    cluster.wait_for(&format!("node {id} chooses {server}"), || {
        let answer = cluster.get(id, target);
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.server() == server).then_some(())
    });
}

#[test]
fn requests_in_flight_from_other_nodes_count() {
    let cluster = cluster();
    let (one, two) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    // s1 has one core: a request counts 100 on top of its 10. That is more than the 40 of s2, and than the 90 of s2 with a request
    // of which a node still tells although it has ended.
    cluster.send_report(Report { cores: 1, ..Report::new("s1", one.address(), 10.0) });
    cluster.report("s2", &two, 40.0);
    let first = ask(&cluster, 1, "/3");
    one.wait_for_held(1);
    // It holds this one alone. What a node tells of itself is believed for two seconds: while node 1 stands still for longer, s1
    // may get a request.
    one.behave(Behaviour::Good);
    for id in [2, 3] {
        wait_for_elsewhere(&cluster, id, "s1", 1);
        wait_for_choice(&cluster, id, "/4", "s2"); // s1 has a request of node 1's.
        assert_eq!(cluster.server(id, "s1").expect("known")["in_flight"], 0, "each shows its own");
    }
    one.release();
    assert_eq!(first.join().expect("no panic").expect("an answer").server(), "s1");
    for id in [2, 3] {
        wait_for_elsewhere(&cluster, id, "s1", 0);
        wait_for_choice(&cluster, id, "/5", "s1"); // Nothing is in flight: the lowest load wins.
    }
}

#[test]
fn the_lowest_load_wins_on_every_node_right_after_the_requests_of_another() {
    let cluster = cluster();
    let (one, two, three) = (Worker::good(1), Worker::good(2), Worker::good(3));
    cluster.report("s1", &one, 30.0);
    cluster.report("s2", &two, 10.0);
    cluster.report("s3", &three, 20.0);
    for id in cluster.ids() {
        wait_for_elsewhere(&cluster, id, "s2", 0);
        // What a node told while it had a request may still be on its way. So many in a row go there by no chance.
        cluster.wait_for(&format!("node {id} sends twenty in a row to s2"), || {
            (1..=20).all(|n| cluster.get(id, &format!("/{n}")).server() == "s2").then_some(())
        });
    }
}

#[test]
fn no_count_outlives_its_client() {
    let cluster = cluster();
    let worker = Worker::start(1, Behaviour::Holds);
    cluster.report("s1", &worker, 10.0);
    let mut client = TcpStream::connect(cluster.public(1)).expect("a node");
    client.write_all(b"GET /5 HTTP/1.1\r\nHost: node\r\n\r\n").expect("it reads");
    worker.wait_for_held(1);
    wait_for_elsewhere(&cluster, 2, "s1", 1);
    drop(client);
    wait_for_elsewhere(&cluster, 2, "s1", 0);
}

#[test]
fn no_count_outlives_its_worker() {
    let cluster = cluster();
    let mut worker = Worker::start(1, Behaviour::Holds);
    cluster.report("s1", &worker, 10.0);
    let request = ask(&cluster, 1, "/5");
    worker.wait_for_held(1);
    wait_for_elsewhere(&cluster, 2, "s1", 1);
    worker.refuse();
    assert_eq!(request.join().expect("no panic").expect("an answer").status, 502);
    wait_for_elsewhere(&cluster, 2, "s1", 0);
}

#[test]
fn no_count_outlives_its_node() {
    let mut cluster = cluster();
    let worker = Worker::start(1, Behaviour::Holds);
    cluster.report("s1", &worker, 10.0);
    // Killed: no node reports any more that the request is in flight.
    let lost = ask(&cluster, 1, "/5");
    worker.wait_for_held(1);
    wait_for_elsewhere(&cluster, 2, "s1", 1);
    cluster.kill9(1);
    assert!(lost.join().expect("no panic").is_err(), "its node is dead");
    wait_for_elsewhere(&cluster, 2, "s1", 0);
    // Paused: the same, as long as it lasts; then it says so again.
    cluster.restart(1);
    cluster.wait_until_ready();
    let asked = ask(&cluster, 1, "/6");
    wait_for_elsewhere(&cluster, 2, "s1", 1);
    cluster.stop(1);
    wait_for_elsewhere(&cluster, 2, "s1", 0);
    cluster.cont(1);
    wait_for_elsewhere(&cluster, 2, "s1", 1);
    worker.behave(Behaviour::Good);
    worker.release();
    assert_eq!(asked.join().expect("no panic").expect("an answer").status, 200);
    wait_for_elsewhere(&cluster, 2, "s1", 0);
}
