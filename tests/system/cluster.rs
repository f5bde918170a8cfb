//! Real nodes agree: one leader, the same state everywhere, and nothing that was acknowledged is lost, whichever node
//! is killed or paused. The tests hold the programs to docs/protocol.md.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http;
use crate::programs::reports::{Acknowledged, EPOCH, Report, Reporter, next_sequence};
use crate::programs::workers::Worker;

/// How often the played daemons report: often, so that much is under way when a node dies.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// Clients that never rest, each at one node; every failure is kept.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// One client for each of these nodes; any of the `workers` may answer.
    fn start(cluster: &Cluster, nodes: &[NodeId], workers: &[&Worker]) -> Self {
        const N: u64 = 7;
        let good: Vec<String> = workers.iter().map(|worker| worker.answer(N) + "\n").collect();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let client = |id: &NodeId| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let (failures, good) = (Arc::clone(&failures), good.clone());
            let (id, address) = (*id, cluster.public(*id));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    match http::get(address, &format!("/{N}")) {
                        Ok(answer) if answer.status == 200 && good.contains(&answer.body) => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        other => {
                            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                            failures.push(format!("node {id}: {other:?}"));
                        }
                    }
                    // The pace of this client. Other tests share the machine: the load must be steady, not heavy.
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let clients = nodes.iter().map(client).collect();
        Self { stop, answered, failures, clients }
    }

    /// Waits until so many more requests were answered.
    fn wait_for_more(&self, cluster: &Cluster, more: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        cluster.wait_for("clients are answered", || {
            (self.answered.load(Ordering::SeqCst) >= before + more).then_some(())
        });
    }

    /// Ends the clients; none of their requests may have failed.
    #[track_caller]
    fn assert_never_failed(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("clients do not panic");
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failures.is_empty(), "{} requests failed, such as {}", failures.len(), failures[0]);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Every promise is kept on every node that runs: the very entry is in its log, and its table shows that report or a
/// newer one.
#[track_caller]
fn assert_nothing_lost(cluster: &Cluster, server: &str, promises: &[Acknowledged]) {
    let last = promises.iter().max_by_key(|promise| promise.index).expect("some promises");
    let newest = promises.iter().map(|promise| promise.sequence).max().expect("some promises");
    for id in cluster.running() {
        cluster.wait_for(&format!("node {id} has applied up to index {}", last.index), || {
            (cluster.try_status(id)?["applied_index"].as_u64()? >= last.index).then_some(())
        });
        let shown = cluster.server(id, server).expect("a server that was reported");
        assert!(
            shown["sequence"].as_u64() >= Some(newest),
            "node {id} shows {shown}, {newest} was committed"
        );
        // The log has more entries than one answer may give.
        let mut log = Vec::new();
        loop {
            let after = log.last().and_then(|entry: &Value| entry["index"].as_u64()).unwrap_or(0);
            let more = cluster.raft_log(id, after);
            if more.is_empty() {
                break;
            }
            log.extend(more);
        }
        for promise in promises {
            promise.assert_in(&log, id);
        }
    }
}

/// Waits until all nodes have the same log, to the last entry; gives it. (The leader of a moment ago may have a successor whose
/// first entry is under way.)
#[track_caller]
fn wait_for_equal_logs(cluster: &Cluster) -> Vec<Value> {
    cluster.wait_for("all nodes have the same log", || {
        let mut logs: Vec<_> = cluster.ids().into_iter().map(|id| cluster.raft_log(id, 0)).collect();
        let last = logs.pop()?;
        logs.iter().all(|log| *log == last).then_some(last)
    })
}

fn is_alive(server: &Value) -> bool {
    server["alive"] == true
}

// ------------------------------------------------------------------------------------------------------ agreement

#[test]
fn five_nodes_elect_one_leader_and_a_report_reaches_the_same_digest_on_all() {
    let cluster = Cluster::start(ClusterOptions::calm(5));
    let leader = cluster.wait_for_leader();
    let before = cluster.wait_for_equal_digests();
    let worker = Worker::good(1);
    let (report, promise) = cluster.report("s1", &worker, 12.5);
    let after = cluster.wait_for_equal_digests();
    assert_ne!(before, after, "the digest is one over the state");

    for id in cluster.ids() {
        let status = cluster.status(id);
        let fields = [
            "cluster",
            "node",
            "role",
            "term",
            "leader",
            "voted_for",
            "commit_index",
            "applied_index",
            "last_index",
            "snapshot_index",
            "state_digest",
            "policy",
            "uptime_ms",
            "version",
            "servers",
        ];
        for field in fields {
            assert!(status.get(field).is_some(), "{field} is missing: {status}");
        }
        assert_eq!(status["cluster"], "systest");
        assert_eq!(status["node"], id);
        assert_eq!(status["role"], if id == leader { "leader" } else { "follower" }, "{status}");
        assert_eq!(status["policy"], "lowest-cpu");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        let server = &status["servers"][0];
        assert_eq!(
            (&server["id"], &server["worker"], &server["cpu"], &server["cores"], &server["alive"]),
            (&json!("s1"), &json!(worker.address().to_string()), &json!(12.5), &json!(2), &json!(true)),
        );
        assert_eq!(
            (&server["epoch"], &server["sequence"], &server["in_flight"]),
            (&json!(EPOCH), &json!(report.sequence), &json!(0)),
        );

        let log = cluster.raft_log(id, 0);
        promise.assert_in(&log, id);
        for (place, entry) in log.iter().enumerate() {
            assert_eq!(entry["index"], place + 1, "a log without gaps: {log:?}");
            let mut keys: Vec<_> = entry.as_object().expect("an object").keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["command", "index", "term"]);
        }
        let one = cluster.get(id, &format!("/log?after={}&limit=1", promise.index - 1)).json();
        assert_eq!(one.as_array().map(Vec::len), Some(1));
        assert_eq!(one[0]["index"], promise.index);
        assert_eq!(cluster.get(id, "/log?limit=1001").status, 400);
        assert_eq!(cluster.get(id, "/log?after=x").status, 400);

        assert_eq!(cluster.get(id, "/healthz").status, 200);
        assert_eq!(cluster.get(id, "/readyz").status, 200);
        let metrics = cluster.get(id, "/metrics");
        assert_eq!(metrics.status, 200);
        assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
        assert!(metrics.body.contains("rakit_server_cpu_ratio{server=\"s1\"} 0.125\n"), "{}", metrics.body);
        for line in metrics.body.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            assert!(value.is_some(), "not a line of Prometheus: {line:?}");
        }
    }
}

#[test]
fn a_node_alone_is_alive_but_not_ready_and_takes_no_report() {
    let mut cluster = Cluster::prepare(ClusterOptions::nodes(3));
    cluster.restart(1);
    cluster.wait_for("node 1 serves", || http::get(cluster.public(1), "/healthz").ok());
    let ready = cluster.get(1, "/readyz");
    assert_eq!(ready.status, 503, "{ready:?}");
    let worker = Worker::good(1);
    let before = cluster.status(1);
    let (status, _) = cluster.post_report(1, &Report::new("s1", worker.address(), 1.0)).expect("an answer");
    assert_eq!(status, 503);
    assert_eq!(cluster.status(1)["state_digest"], before["state_digest"]);
    // No server is known: the client hears when to try again.
    let none = cluster.get(1, "/5");
    assert_eq!(none.status, 503);
    assert!(none.header("retry-after").and_then(|after| after.parse::<u32>().ok()).is_some(), "{none:?}");
}

// --------------------------------------------------------------------------------------------------------- reports

#[test]
fn the_leader_commits_a_report_and_a_follower_names_the_leader_or_asks_it() {
    let cluster = Cluster::start(ClusterOptions::calm(3));
    let leader = cluster.wait_for_leader();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    let worker = Worker::good(1);
    let report = |cpu| Report::new("s1", worker.address(), cpu);

    // On a follower: who leads, and nothing is committed.
    let (status, body) = cluster.post_report(follower, &report(10.0)).expect("an answer");
    assert_eq!((status, &body), (202, &json!({"leader": leader})));
    assert!(cluster.server(leader, "s1").is_none(), "a follower adds nothing to the log");

    // On the leader: committed, and where.
    let first = report(20.0);
    let (status, body) = cluster.post_report(leader, &first).expect("an answer");
    assert_eq!(status, 200, "{body}");
    assert!(body["committed"].is_u64() && body["term"].is_u64() && body.get("stale").is_none(), "{body}");
    let entry = &cluster.raft_log(leader, body["committed"].as_u64().expect("an index") - 1)[0];
    assert_eq!(entry["command"]["report"]["sequence"], first.sequence);
    assert_eq!(entry["term"], body["term"]);

    // Asked to forward, a follower gives the leader's own answer.
    let forwarded = Report { forward: true, ..report(30.0) };
    let (status, body) = cluster.post_report(follower, &forwarded).expect("an answer");
    assert_eq!(status, 200, "{body}");
    assert!(body["committed"].is_u64() && body["term"].is_u64(), "{body}");
    cluster.wait_for_server("s1", "as it was forwarded", |server| server["cpu"] == 30.0);

    // The same again, an older one, an older epoch: 200, stale, and nothing changes. The digest is over the state alone, and
    // what is stale does not even enter the log.
    let digest = cluster.wait_for_equal_digests();
    let last_index = cluster.status(leader)["last_index"].clone();
    let older_epoch = Report { epoch: EPOCH - 1, ..report(99.0) };
    for stale in [&forwarded, &Report { cpu: 99.0, ..first.clone() }, &older_epoch] {
        for id in [leader, follower] {
            let asked = Report { forward: true, ..stale.clone() };
            let (status, body) = cluster.post_report(id, &asked).expect("an answer");
            assert_eq!((status, &body["stale"]), (200, &json!(true)), "{body}");
        }
    }
    assert_eq!(cluster.wait_for_equal_digests(), digest);
    assert_eq!(cluster.status(leader)["last_index"], last_index);

    // A daemon that was started anew counts from the beginning, in a later epoch.
    let reborn = Report { epoch: EPOCH + 1, sequence: 0, ..report(40.0) };
    let (status, body) = cluster.post_report(leader, &reborn).expect("an answer");
    assert_eq!(status, 200);
    assert!(body.get("stale").is_none(), "{body}");
    cluster.wait_for_server("s1", "reborn", |server| server["cpu"] == 40.0 && server["sequence"] == 0);
}

/// Two machines with one name in their units: the second is told, and changes nothing.
#[test]
fn a_name_belongs_to_the_running_daemon_that_reports_it() {
    let cluster = Cluster::start(ClusterOptions::calm(3));
    let (worker, other) = (Worker::good(1), Worker::good(2));
    let leader = cluster.wait_for_leader();
    let post = |worker: &Worker, instance: Option<u64>, epoch: u64| {
        let mut report = Report { epoch, ..Report::new("s1", worker.address(), 10.0) }.json();
        if let Some(instance) = instance {
            report["instance"] = json!(instance);
        }
        let body = report.to_string();
        let post =
            |id| http::post(cluster.cluster_address(id), "/report", body.as_bytes()).expect("an answer");
        let answers: Vec<_> = cluster.ids().into_iter().map(|id| (id, post(id))).collect();
        answers.into_iter().find(|(id, _)| *id == leader).expect("it runs").1
    };
    assert_eq!(post(&worker, Some(7), EPOCH).status, 200);
    cluster.wait_for_server("s1", "there", |server| server["alive"] == true);
    let refused = post(&other, Some(8), EPOCH + 9);
    assert_eq!((refused.status, refused.body.trim_end().lines().count()), (409, 1), "{refused:?}");
    assert!(refused.body.contains(&worker.address().to_string()), "it says whose the name is: {refused:?}");
    let second = other.address().to_string();
    for id in cluster.ids() {
        let server = &cluster.status(id)["servers"][0];
        assert_eq!(
            (&server["worker"], &server["also_reported"]),
            (&json!(worker.address().to_string()), &json!(second))
        );
        cluster.wait_for("both sides log it", || {
            cluster.log_text(id).contains("two daemons report server s1").then_some(())
        });
    }
    assert_eq!(post(&worker, Some(7), EPOCH).status, 200, "the first goes on");
    // It stops. Its last report names no instance.
    assert_eq!(post(&worker, None, EPOCH).status, 200);
    assert_eq!(post(&other, Some(8), EPOCH + 9).status, 200);
    cluster.wait_for_server("s1", "the other's", |server| server["worker"] == second.as_str());
}

#[test]
fn a_bad_report_is_refused_in_one_line_and_touches_nothing() {
    let cluster = Cluster::start(ClusterOptions::calm(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let digest = cluster.wait_for_equal_digests();
    let last: Vec<Value> = cluster.ids().iter().map(|id| cluster.status(*id)["last_index"].clone()).collect();

    let good = Report::new("s1", worker.address(), 50.0).json();
    let with = |field: &str, value: Value| {
        let mut report = good.clone();
        report[field] = value;
        report.to_string()
    };
    let without = |field: &str| {
        let mut report = good.clone();
        report.as_object_mut().expect("an object").remove(field);
        report.to_string()
    };
    let mut bad = vec![
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "nonsense".into(),
        "\u{1}".into(),
        format!("{good}{good}"),
        with("nonsense", json!(1)),
        with("server", json!("")),
        with("server", json!("a b")),
        with("server", json!("a/b")),
        with("server", json!("ü")),
        with("server", json!("a\nb")),
        with("server", json!("x".repeat(65))),
        with("server", json!(7)),
        with("worker", json!("")),
        with("worker", json!("host:1")),
        with("worker", json!("127.0.0.1")),
        with("worker", json!("127.0.0.1:0")),
        with("worker", json!("127.0.0.1:65536")),
        with("worker", json!("127.0.0.1:1023")),
        with("worker", json!("0.0.0.0:8000")),
        with("worker", json!("169.254.169.254:8000")),
        with("worker", json!("[fe80::1]:8000")),
        with("worker", json!("127.0.0.1:80/path")),
        with("cpu", json!(-0.1)),
        with("cpu", json!(100.1)),
        with("cpu", json!("50")),
        with("cpu", json!(null)),
        good.to_string().replace("50.0", "1e999"),
        good.to_string().replace("50.0", "NaN"),
        with("cores", json!(0)),
        with("cores", json!(-1)),
        with("cores", json!(1.5)),
        with("epoch", json!(-1)),
        with("epoch", json!(1.5)),
        with("epoch", json!("now")),
        with("sequence", json!(-1)),
        with("sequence", json!(u64::MAX)),
        with("worker_up", json!(1)),
        with("forward", json!("yes")),
    ];
    bad.extend(["server", "worker", "cpu", "cores", "epoch", "sequence"].map(without));
    // A node's own addresses, in other words: a node would send requests to itself until no connection is left.
    for id in cluster.ids() {
        for port in [cluster.public(id).port(), cluster.cluster_address(id).port()] {
            for ip in ["127.0.0.1", "[::ffff:127.0.0.1]", "127.7.7.7", "[::1]"] {
                bad.push(with("worker", json!(format!("{ip}:{port}"))));
            }
        }
    }
    for body in &bad {
        for id in cluster.ids() {
            let answer =
                http::post(cluster.cluster_address(id), "/report", body.as_bytes()).expect("an answer");
            assert_eq!(answer.status, 400, "node {id} took {body:?}: {answer:?}");
            assert_eq!(answer.body.trim_end().lines().count(), 1, "one line: {answer:?}");
        }
    }
    // The largest body, and one byte more.
    let mut large = good.to_string();
    large.push_str(&" ".repeat(64 * 1024 + 1 - large.len()));
    let answer = http::post(cluster.cluster_address(1), "/report", large.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 413, "{answer:?}");

    assert_eq!(cluster.wait_for_equal_digests(), digest);
    for (id, last) in cluster.ids().into_iter().zip(last) {
        assert_eq!(cluster.status(id)["last_index"], last, "nothing entered the log");
    }
    // And it still takes a good one, of the largest size.
    large.pop();
    let leader = cluster.wait_for_leader();
    let answer = http::post(cluster.cluster_address(leader), "/report", large.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster.wait_for_server("s1", "as it was reported", |server| server["cpu"] == 50.0);
}

#[test]
fn a_signed_cluster_elects_reports_and_routes_and_an_unsigned_report_changes_nothing() {
    let secret = Some("0123456789abcdef0123456789abcdef".to_owned());
    let cluster = Cluster::start(ClusterOptions { secret, ..ClusterOptions::nodes(3) });
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let digest = cluster.wait_for_equal_digests();
    let unsigned = Report::new("s1", worker.address(), 99.0).json().to_string();
    for id in cluster.ids() {
        let answer =
            http::post(cluster.cluster_address(id), "/report", unsigned.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    assert_eq!(cluster.wait_for_equal_digests(), digest);
    for id in cluster.ids() {
        assert_eq!(cluster.get(id, "/5").body, worker.answer(5) + "\n");
        // By its reason: a peer may have been refused, too, when it went on in a stream that this node had not opened.
        let refusals = cluster.metric(id, "rakit_refusals_total{reason=\"unsigned\"}");
        assert_eq!(refusals, 1.0, "it is counted");
    }
}

// --------------------------------------------------------------------------------------------------------- failures

#[test]
fn leaders_are_killed_under_load_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(5));
    let (one, two) = (Worker::good(1), Worker::good(2));
    cluster.report("s1", &one, 10.0);
    cluster.report("s2", &two, 10.0);
    let daemon = Reporter::start(&cluster, "s1", one.address(), 10.0, REPORT_INTERVAL);
    daemon.wait_for_commits(&cluster, 5);

    // Twice in a row, the leader dies; two of five are dead then, and the three still commit.
    for dead in 1..=2 {
        let (leader, term) = cluster.wait_for_leader_and_term();
        let survivors: Vec<NodeId> = cluster.running().into_iter().filter(|id| *id != leader).collect();
        let load = Load::start(&cluster, &survivors, &[&one, &two]);
        load.wait_for_more(&cluster, 20);
        cluster.kill9(leader);
        let promises = daemon.acknowledged();
        let (next, next_term) = cluster.wait_for_leader_and_term();
        assert!(survivors.contains(&next) && next_term > term);
        daemon.wait_for_commits(&cluster, 5);
        load.wait_for_more(&cluster, 20);
        load.assert_never_failed();
        assert_nothing_lost(&cluster, "s1", &promises);
        assert_eq!(cluster.running().len(), 5 - dead);
    }

    // Three dead: the two that are left commit nothing, say so, and serve primes from what was agreed last.
    let third = cluster.wait_for_leader();
    let left: Vec<NodeId> = cluster.running().into_iter().filter(|id| *id != third).collect();
    let load = Load::start(&cluster, &left, &[&one, &two]);
    cluster.kill9(third);
    for id in &left {
        cluster.wait_for(&format!("node {id} says that it is without a leader"), || {
            let answer = cluster.get(*id, "/5");
            assert_eq!(answer.status, 200, "{answer:?}");
            let age = answer.header("x-rakit-stale-ms")?;
            let age: u64 = age.parse().expect("milliseconds");
            assert!(age >= 1_000, "older than the election timeout: {age}");
            Some(())
        });
        cluster.wait_for("it is not ready", || (cluster.get(*id, "/readyz").status == 503).then_some(()));
        assert_eq!(cluster.get(*id, "/healthz").status, 200);
    }
    // From here on: a campaign that had its pre-votes before the death may have raised the term once.
    let reports_from = next_sequence();
    let before: Vec<Value> = left.iter().map(|id| cluster.status(*id)).collect();
    for id in &left {
        for _ in 0..3 {
            let (status, _) =
                cluster.post_report(*id, &Report::new("s2", two.address(), 77.0)).expect("an answer");
            assert_eq!(status, 503, "two of five commit nothing");
        }
    }
    load.wait_for_more(&cluster, 20);
    load.assert_never_failed();
    for (id, before) in left.iter().zip(before) {
        let status = cluster.status(*id);
        assert_eq!(status["commit_index"], before["commit_index"], "{status}");
        assert_eq!(status["term"], before["term"], "without a majority, PreVote raises no term: {status}");
        assert_eq!(cluster.server(*id, "s2").expect("a server")["cpu"], 10.0);
    }
    // An answer of the dead leader may be read late. What was reported since then has no promise.
    let late = daemon.acknowledged().into_iter().find(|promise| promise.sequence >= reports_from);
    assert_eq!(late, None, "nothing is acknowledged without a majority");

    // The dead come back: all five equal again, and nothing that was acknowledged is lost.
    for id in cluster.ids() {
        if !left.contains(&id) {
            cluster.restart(id);
        }
    }
    cluster.wait_until_ready();
    daemon.wait_for_commits(&cluster, 5);
    let promises = daemon.acknowledged();
    drop(daemon);
    cluster.wait_for_equal_digests();
    assert_eq!(cluster.running().len(), 5);
    assert_nothing_lost(&cluster, "s1", &promises);
    cluster.wait_for("no age any more", || {
        let answer = cluster.get(left[0], "/5");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-rakit-stale-ms").is_none().then_some(())
    });
}

#[test]
fn all_nodes_are_killed_at_once_and_remember() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    let (_, promise) = cluster.report("s1", &worker, 33.0);
    let digest = cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        cluster.kill9(id);
    }
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.wait_until_ready();
    assert_eq!(cluster.wait_for_equal_digests(), digest);
    assert_nothing_lost(&cluster, "s1", &[promise]);
    assert_eq!(cluster.get(2, "/5").body, worker.answer(5) + "\n");
}

#[test]
fn a_leader_that_was_paused_finds_another_and_drops_what_it_had_proposed() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(5));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let (paused, term) = cluster.wait_for_leader_and_term();
    cluster.stop(paused);
    // What reaches the paused node waits in its socket: when it wakes up, it still believes that it leads.
    let address = cluster.cluster_address(paused);
    let ghost = Report::new("ghost", worker.address(), 99.0);
    let body = ghost.json().to_string();
    let waiting = std::thread::spawn(move || http::post(address, "/report", body.as_bytes()));
    let next = cluster.wait_for_leader();
    assert_ne!(next, paused);
    let (_, promise) = cluster.report("s1", &worker, 20.0);
    cluster.cont(paused);

    // One leader, in a later term, on all five; and all hold the same.
    let (leader, later) = cluster.wait_for_leader_and_term();
    assert!(later > term);
    cluster.wait_for_server("s1", "as it was reported to the others", |server| server["cpu"] == 20.0);
    let answer = waiting.join().expect("does not panic");
    cluster.wait_for_equal_digests();
    let log = wait_for_equal_logs(&cluster);
    promise.assert_in(&log, leader);
    // If the paused leader acknowledged the report of server `ghost`, all nodes have it. Otherwise it may be lost.
    let known = cluster.server(leader, "ghost").is_some();
    let promised = answer.is_ok_and(|answer| answer.status == 200);
    assert!(!promised || known, "a promise that was not kept");
}

/// Each follower watches the leader of *now*. A leader dies just after it took over: the followers notice it at once,
/// not after an election timeout, although the leader before it lives or hangs, and still holds the open requests by
/// which they watched it.
#[test]
fn the_death_of_a_leader_that_has_just_taken_over_is_noticed_at_once() {
    // Calm: it is long until an election timeout.
    let mut cluster = Cluster::start(ClusterOptions::calm(5));
    for predecessor_hangs in [false, true] {
        let first = cluster.wait_for_leader();
        if predecessor_hangs {
            cluster.stop(first);
        } else {
            let mut transfer = Command::new(env!("CARGO_BIN_EXE_rakit"));
            let output = transfer.args(["transfer", "--config"]).arg(cluster.config()).output();
            let output = output.expect("it starts");
            assert!(output.status.success(), "{output:?}");
        }
        let second =
            cluster.wait_for("another one leads", || cluster.agreed_leader().filter(|id| *id != first));
        let told = format!("the process of node {second}, the leader, seems to have died: nobody listens");
        let before: Vec<_> = cluster.ids().into_iter().map(|id| cluster.log_text(id).len()).collect();
        cluster.kill9(second);
        cluster.wait_for("a third one leads", || cluster.agreed_leader());
        let noticed = |id: &NodeId| cluster.log_text(*id)[before[*id as usize - 1]..].contains(&told);
        cluster.wait_for(&format!("a node beside {first} says that node {second} died"), || {
            cluster.ids().into_iter().filter(|id| *id != first).any(|id| noticed(&id)).then_some(())
        });
        if predecessor_hangs {
            cluster.cont(first);
        }
        cluster.restart(second);
        cluster.wait_until_ready();
    }
}

/// Makes a leader write this report into its log while both others are stopped. Gives the leader and the others.
fn write_alone(cluster: &mut Cluster, report: &Report) -> (NodeId, Vec<NodeId>) {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        let leader = cluster.wait_for_leader();
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        for id in &others {
            cluster.stop(*id);
        }
        let before = cluster.status(leader)["last_index"].as_u64();
        let answer = cluster.post_report(leader, report).expect("an answer");
        // 202: it had been deposed before the others were stopped, and names its successor.
        assert!(matches!(answer.0, 202 | 503), "not committed, so not acknowledged: {answer:?}");
        if cluster.status(leader)["last_index"].as_u64() > before {
            // The leader has written the report, so its answer must not be a refusal.
            let said = answer.1.as_str().unwrap_or_default();
            assert!(said.starts_with("unknown"), "{said}");
        }
        // On a busy machine the leader may notice that it is alone before it gets the report. Then the test tries again.
        if cluster.status(leader)["last_index"].as_u64() > before {
            return (leader, others);
        }
        for id in others {
            cluster.cont(id);
        }
    }
    panic!("no leader took a report before it noticed that it was alone");
}

#[test]
fn proposals_of_a_leader_that_died_alone_are_dropped_when_it_meets_its_successor() {
    proposals_of_a_leader_that_was_alone_are_dropped(Away::Dead);
}

#[test]
fn proposals_of_a_leader_that_was_paused_alone_are_dropped_when_it_meets_its_successor() {
    proposals_of_a_leader_that_was_alone_are_dropped(Away::Paused);
}

/// How the leader is away while the others elect another one.
enum Away {
    Dead,
    Paused,
}

fn proposals_of_a_leader_that_was_alone_are_dropped(away: Away) {
    // The others are paused while the leader appends alone; then it is away while they elect and commit.
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let (old, others) = write_alone(&mut cluster, &Report::new("ghost", worker.address(), 1.0));
    // The leader has written the entry, and from here on it cannot send it.
    match away {
        Away::Dead => cluster.kill9(old),
        Away::Paused => cluster.stop(old),
    }
    for id in &others {
        // A copy of the entry may wait in their sockets. A process that is killed and started again has lost it.
        cluster.kill9(*id);
        cluster.restart(*id);
    }
    cluster.wait_for_leader();
    let (_, promise) = cluster.report("s1", &worker, 20.0);
    match away {
        Away::Dead => cluster.restart(old),
        Away::Paused => cluster.cont(old),
    }
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
    let log = wait_for_equal_logs(&cluster);
    for id in cluster.ids() {
        assert!(cluster.server(id, "ghost").is_none(), "node {id} applied what was never committed");
        promise.assert_in(&log, id);
    }
    let ghost = log.iter().find(|entry| entry["command"]["report"]["server"] == "ghost");
    assert_eq!(ghost, None, "it is in no log any more");
}

// ---------------------------------------------------------------------------------------------------------- silence

/// Servers die after three seconds without a report: soon, but on a busy machine no played daemon is late by so much.
fn impatient(nodes: u64) -> ClusterOptions {
    ClusterOptions { server_timeout_ms: 3_000, report_interval_ms: 100, ..ClusterOptions::nodes(nodes) }
}

/// The verdicts in the log: (index, server).
fn verdicts(cluster: &Cluster, id: NodeId) -> Vec<(u64, String)> {
    let mut log = Vec::new();
    while let Some(more) = Some(cluster.raft_log(id, log.len() as u64)).filter(|more| !more.is_empty()) {
        log.extend(more);
    }
    let verdict = |entry: &Value| {
        Some((entry["index"].as_u64()?, entry["command"]["dead"]["server"].as_str()?.to_owned()))
    };
    log.iter().filter_map(verdict).collect()
}

#[test]
fn a_silent_server_dies_by_the_log_gets_no_request_and_its_next_report_revives_it() {
    let mut cluster = Cluster::start(impatient(5));
    let (quiet, living) = (Worker::good(1), Worker::good(2));
    // The quiet one has the lower load: it would draw every request.
    let quiet_daemon = Reporter::start(&cluster, "quiet", quiet.address(), 1.0, REPORT_INTERVAL);
    let _living_daemon = Reporter::start(&cluster, "living", living.address(), 90.0, REPORT_INTERVAL);
    for server in ["quiet", "living"] {
        cluster.wait_for_server(server, "alive", is_alive);
    }
    cluster.wait_for("a request goes there", || (cluster.get(1, "/5").server() == "quiet").then_some(()));

    quiet_daemon.set_silent(true);
    cluster.wait_for_server("quiet", "dead", |server| server["alive"] == false);
    let found: Vec<_> = cluster.ids().into_iter().map(|id| verdicts(&cluster, id)).collect();
    let of_quiet =
        |found: &[(u64, String)]| found.iter().filter(|(_, s)| s == "quiet").cloned().collect::<Vec<_>>();
    for verdicts in &found {
        assert_eq!(
            of_quiet(verdicts),
            of_quiet(&found[0]),
            "the same verdict at the same index on every node"
        );
        assert!(!of_quiet(verdicts).is_empty(), "dead by an entry of the log");
    }
    let before = quiet.requests();
    for id in cluster.ids() {
        for _ in 0..3 {
            // The test itself reports for the living one. If it stands still for three seconds, no server is there for a moment.
            cluster.wait_for("the living one answers", || {
                let answer = cluster.get(id, "/5");
                (answer.status == 200).then(|| assert_eq!(answer.server(), "living"))
            });
        }
    }
    assert_eq!(quiet.requests(), before, "no request goes to the dead");

    // A node that starts again does not log the old death as a new one.
    let logged = cluster.log_text(3).len();
    cluster.kill9(3);
    cluster.restart(3);
    let said = cluster.wait_for("node 3 has recovered", || {
        Some(cluster.log_text(3)[logged..].to_owned())
            .filter(|said| said.contains("recovered: node 3 has the"))
    });
    let (index, _) = of_quiet(&found[0])[0];
    assert!(said.contains(&format!("quiet is dead since log index {index}")), "{said}");
    assert!(!said.contains("server quiet is dead"), "an old death is told as a new one: {said}");

    quiet_daemon.set_silent(false);
    cluster.wait_for_server("quiet", "alive again", is_alive);
    cluster.wait_for("requests go there again", || (cluster.get(1, "/5").server() == "quiet").then_some(()));
}

#[test]
fn when_all_servers_are_dead_the_answer_is_503_with_retry_after() {
    let cluster = Cluster::start(impatient(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 1.0);
    cluster.wait_for_server("s1", "dead", |server| server["alive"] == false);
    let before = worker.requests();
    for id in cluster.ids() {
        let answer = cluster.get(id, "/5");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{answer:?}");
        assert_eq!(answer.body.trim_end().lines().count(), 1, "{answer:?}");
    }
    assert_eq!(worker.requests(), before);
}

#[test]
fn a_change_of_leader_in_the_silence_kills_no_living_server_and_keeps_no_dead_one() {
    // Long enough that on a busy machine a played daemon is not late by so much: nothing but its reports says that it lives.
    // Each leader counts the silence anew, so none may follow before that time is over. (The death of a leader's process is noticed
    // at once all the same.)
    let options =
        ClusterOptions { server_timeout_ms: 15_000, report_interval_ms: 100, ..ClusterOptions::calm(5) };
    let mut cluster = Cluster::start(options);
    let (quiet, living) = (Worker::good(1), Worker::good(2));
    let _living_daemon = Reporter::start(&cluster, "living", living.address(), 50.0, REPORT_INTERVAL);
    cluster.wait_for_server("living", "alive", is_alive);
    // The last report of the quiet daemon: from here on it is silent.
    cluster.report("quiet", &quiet, 10.0);
    for _ in 0..2 {
        let leader = cluster.wait_for_leader();
        cluster.kill9(leader);
        cluster.wait_for_leader();
    }
    cluster.wait_for_server("quiet", "dead", |server| server["alive"] == false);
    cluster.wait_for_server("living", "alive", is_alive);
    for id in cluster.running() {
        let dead: Vec<String> = verdicts(&cluster, id).into_iter().map(|(_, server)| server).collect();
        assert_eq!(dead, ["quiet"], "the living was never declared dead, the dead once");
    }
}
