//! Members that change, with the real programs: `rakit members`, as an operator types it (docs/operations.md, "Other members").

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http;
use crate::programs::workers::{Behaviour, Worker};

/// `rakit members …` with the founders' file.
fn members(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    command.arg("members").args(arguments).arg("--config").arg(cluster.config());
    command.output().expect("rakit starts")
}

/// It must succeed; what it printed.
#[track_caller]
fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = members(cluster, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{errors}\n{}", cluster.story());
    text
}

/// `rakit members add` or `replace`, at the node's own addresses.
fn place(cluster: &Cluster, what: &str, id: NodeId, wait_ms: &str) -> String {
    let (cluster_address, public) = (cluster.cluster_address(id).to_string(), cluster.public(id).to_string());
    let id = id.to_string();
    done(cluster, &[what, &id, "--cluster", &cluster_address, "--public", &public, "--wait-ms", wait_ms])
}

fn voters(status: &Value) -> Vec<NodeId> {
    let members = status["members"].as_array().expect("a list");
    members
        .iter()
        .filter(|member| member["voter"] == true)
        .filter_map(|member| member["id"].as_u64())
        .collect()
}

/// Waits until these nodes say that just these vote.
#[track_caller]
fn wait_for_voters(cluster: &Cluster, wanted: &[NodeId]) {
    cluster.wait_for(&format!("{wanted:?} vote, as all of them say"), || {
        let agrees = |id: &NodeId| cluster.try_status(*id).is_some_and(|status| voters(&status) == wanted);
        wanted.iter().filter(|id| cluster.running().contains(id)).all(agrees).then_some(())
    });
}

/// A program that runs beside the nodes, and what it says in a file. It ends with this.
struct Beside {
    process: Child,
    says: std::path::PathBuf,
}

impl Beside {
    /// A real daemon, which reports the server "lab-1" to the nodes of the founders' file.
    fn daemon(cluster: &Cluster, worker: &Worker) -> Self {
        let says = cluster.path("logs/daemon.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"));
        command
            .arg("--config")
            .arg(cluster.config())
            .args(["--server", "lab-1", "--worker", &worker.address().to_string()])
            .arg(format!("--stop-with-parent={}", std::process::id()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&says).expect("our own directory"));
        Self::start(command, says)
    }

    /// `rakit status --watch` without a terminal.
    fn watch(cluster: &Cluster) -> Self {
        let says = cluster.path("watch.txt");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
        command
            .args(["status", "--watch", "--config"])
            .arg(cluster.config())
            .stdout(std::fs::File::create(&says).expect("our own directory"))
            .stderr(Stdio::null());
        Self::start(command, says)
    }

    fn start(mut command: Command, says: std::path::PathBuf) -> Self {
        Self { process: command.stdin(Stdio::null()).spawn().expect("our own program"), says }
    }

    #[track_caller]
    fn wait_for_line(&self, cluster: &Cluster, words: &str) {
        cluster.wait_for(&format!("{} has {words:?}", self.says.display()), || {
            std::fs::read_to_string(&self.says).ok().filter(|text| text.contains(words)).map(|_| ())
        });
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reports go on: the sequence of the server grows on every running node.
#[track_caller]
fn assert_reports_go_on(cluster: &Cluster) {
    let sequence = |id: NodeId| cluster.server(id, "lab-1").and_then(|server| server["sequence"].as_u64());
    let before: Vec<(NodeId, u64)> =
        cluster.running().into_iter().map(|id| (id, sequence(id).unwrap_or(0))).collect();
    cluster.wait_for("newer reports on every running node", || {
        before.iter().all(|(id, before)| sequence(*id).is_some_and(|now| now > *before)).then_some(())
    });
}

#[track_caller]
fn assert_primes_go_on(cluster: &Cluster) {
    for id in cluster.running() {
        let answer = cluster.get(id, "/7");
        assert_eq!(answer.status, 200, "node {id}: {answer:?}");
    }
}

#[test]
fn a_cluster_grows_loses_its_leader_and_a_node_and_goes_on() {
    let secret = "a secret that is long enough for the nodes: 0123456789";
    let options = ClusterOptions {
        secret: Some(secret.to_owned()),
        report_interval_ms: 200,
        ..ClusterOptions::nodes(3)
    };
    let mut cluster = Cluster::start(options);
    let worker = Worker::good(1);
    let daemon = Beside::daemon(&cluster, &worker);
    cluster
        .wait_for_server("lab-1", "alive", |server| server["alive"] == true && server["worker_up"] == true);

    // Node 4 is added, and then started. The file that it needs is printed.
    cluster.add_machine(4);
    let said = place(&cluster, "add", 4, "0");
    assert!(said.contains("node 4 is a learner now") && said.contains("founder = false"), "{said}");
    // A node that is busy answers the list too late.
    cluster.wait_for("the list has the learner", || {
        String::from_utf8_lossy(&members(&cluster, &["list"]).stdout)
            .contains("node 4: learner")
            .then_some(())
    });
    cluster.restart(4);
    wait_for_voters(&cluster, &[1, 2, 3, 4]);
    cluster.wait_for_line(4, "joining: node 4 counts from now on");

    // Node 5 is started, waits, and is added.
    cluster.add_machine(5);
    cluster.restart(5);
    place(&cluster, "add", 5, "60000");
    wait_for_voters(&cluster, &[1, 2, 3, 4, 5]);
    cluster.wait_until_ready();
    daemon.wait_for_line(&cluster, "the nodes of the cluster are now 1, 2, 3, 4, 5");
    assert_reports_go_on(&cluster);
    assert_primes_go_on(&cluster);

    // The leader is removed: it hands over, is told, and serves on, marked as stale.
    let leader = cluster.wait_for_leader();
    done(&cluster, &["remove", &leader.to_string()]);
    let rest: Vec<NodeId> = (1..=5).filter(|id| *id != leader).collect();
    wait_for_voters(&cluster, &rest);
    cluster.wait_for("the removed node knows it", || {
        (cluster.status(leader)["membership"] == "removed").then_some(())
    });
    cluster.wait_for("its answers are marked as stale", || {
        let answer = cluster.get(leader, "/7");
        (answer.status == 200 && answer.header("x-rakit-stale-ms").is_some()).then_some(())
    });
    cluster.wait_for("it says that it is not ready, and why", || {
        let ready = cluster.get(leader, "/readyz");
        assert_eq!(ready.status, 503, "{ready:?}");
        ready.body.contains("removed").then_some(())
    });
    // It starts again as what it is, and disturbs nobody.
    cluster.terminate(leader);
    cluster.restart(leader);
    cluster.wait_for("it is there again", || cluster.try_status(leader));
    cluster.wait_for("it still knows that it was removed", || {
        (cluster.status(leader)["membership"] == "removed").then_some(())
    });
    cluster.wait_for_line(leader, "cluster.toml differs from the log");
    assert_eq!(cluster.terminate(leader).code(), Some(0));
    let second = cluster.wait_for_leader();

    // One more dies: three of four go on.
    let victim = rest.iter().copied().find(|id| *id != second && *id < 4).expect("a founder is left");
    cluster.kill9(victim);
    assert_reports_go_on(&cluster);
    assert_primes_go_on(&cluster);
    cluster.wait_for_equal_digests();
    wait_for_voters(&cluster, &rest);

    // It is replaced by one with an empty directory.
    std::fs::remove_dir_all(cluster.path(&format!("data/node-{victim}"))).expect("it was there");
    cluster.restart(victim);
    place(&cluster, "replace", victim, "60000");
    wait_for_voters(&cluster, &rest);
    cluster.wait_until_ready();
    assert_reports_go_on(&cluster);
    cluster.wait_for_equal_digests();

    // What cannot be is refused, with the mend.
    cluster.wait_for("a leader refuses to remove who is no member", || {
        let refused = members(&cluster, &["remove", "9"]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        String::from_utf8_lossy(&refused.stderr).contains("rakit members list").then_some(())
    });
    cluster.wait_for("the status says that all four agree", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
        let output =
            command.args(["status", "--config"]).arg(cluster.config()).output().expect("rakit starts");
        String::from_utf8_lossy(&output.stdout).contains("all 4 nodes agree").then_some(())
    });
}

#[test]
fn a_node_that_nobody_added_waits_and_changes_nothing() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    cluster.add_machine(4);
    cluster.restart(4);
    cluster.wait_for("node 4 serves", || cluster.try_status(4));
    cluster
        .wait_for("node 4 is no member yet", || (cluster.status(4)["membership"] == "not_yet").then_some(()));
    let answer = http::get(cluster.public(4), "/readyz").expect("it serves");
    assert_eq!(answer.status, 503);
    // Who is no member campaigns for nothing. A term may end here, if a heartbeat is late: then a member has begun the next one.
    cluster.wait_for("each term was begun by a member", || {
        let term = cluster.status(1)["term"].as_u64()?;
        let begun = |id: &NodeId| cluster.log_text(*id).contains(&format!("is a candidate in term {term}:"));
        [1, 2, 3].iter().any(begun).then_some(())
    });
    let log = cluster.log_text(4);
    assert!(!log.contains("node 4 is a candidate") && !log.contains("node 4 is a pre-candidate"), "{log}");
    for id in [1, 2, 3] {
        assert_eq!(voters(&cluster.status(id)), [1, 2, 3]);
    }
}

/// A node that the founders' file does not name is asked like the others, as soon as it is a member, and not any more when it
/// is none.
#[test]
fn the_watch_and_the_list_of_servers_ask_the_members() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let worker = Worker::start(1, Behaviour::Holds);
    cluster.report("lab-1", &worker, 5.0);
    let watch = Beside::watch(&cluster);
    watch.wait_for_line(&cluster, "node 3 answers");

    cluster.add_machine(4);
    cluster.restart(4);
    let address = cluster.public(4);
    place(&cluster, "add", 4, "60000");
    watch.wait_for_line(&cluster, &format!("node 4 at {address} is a member, and is asked from now on"));
    watch.wait_for_line(&cluster, "node 4 answers");
    cluster.wait_for("node 4 has the table", || cluster.server(4, "lab-1"));

    // Node 4 alone has a request in flight: the sum shows it only if node 4 was asked.
    let running = std::thread::spawn(move || http::get(address, "/7"));
    worker.wait_for_held(1);
    cluster.wait_for("the list shows the one request", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
        let output = command.args(["servers", "list", "--config"]).arg(cluster.config()).output();
        let text = String::from_utf8_lossy(&output.expect("rakit starts").stdout).into_owned();
        (column(&text, "in flight") == Some("1".to_owned())).then_some(())
    });
    assert_eq!(worker.release(), 1);
    let answer = running.join().expect("no panic").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");

    done(&cluster, &["remove", "4"]);
    watch.wait_for_line(&cluster, &format!("node 4 at {address} is no member, and is not asked any more"));
}

/// What stands below this heading in the only row; `None` if there is no table.
fn column(table: &str, heading: &str) -> Option<String> {
    let mut lines = table.lines();
    let (head, row) = (lines.next()?, lines.next()?);
    let end = head.find(heading)? + heading.len();
    row.chars().take(end).collect::<String>().split_whitespace().last().map(str::to_owned)
}
