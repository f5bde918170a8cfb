//! Does the cluster follow an operator's orders about servers: drain, undrain, forget? With `rakit servers`, real nodes, and
//! a secret.
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::programs::cluster::{Cluster, ClusterOptions};
use super::programs::http;
use super::programs::reports::Reporter;
use super::programs::workers::{Behaviour, Worker};

const SECRET: &str = "0rdersfeedf00dfeedf00dfeedf00dfeedf00d";

/// `rakit servers ORDER [NAME]`.
fn servers(cluster: &Cluster, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    command.arg("servers").args(words).arg("--config").arg(cluster.config());
    command.output().expect("rakit starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn obeyed(cluster: &Cluster, words: &[&str], wanted: &str) {
    let output = servers(cluster, words);
    assert!(output.status.success(), "{words:?}: {}\n{}", said(&output), cluster.story());
    assert!(said(&output).contains(wanted), "{words:?}: {}", said(&output));
}

#[track_caller]
fn refused(cluster: &Cluster, words: &[&str], wanted: &str) {
    let output = servers(cluster, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}\n{}", said(&output), cluster.story());
    assert!(said(&output).contains(wanted), "{words:?}: {}", said(&output));
}

fn is_drained(server: &Value) -> bool {
    server["drained"] == true
}

#[test]
fn a_drained_server_gets_no_new_request_from_any_node_and_stays_alive_through_restarts() {
    let mut cluster = Cluster::start(ClusterOptions {
        secret: Some(SECRET.into()),
        // So few that the order is soon in a snapshot alone.
        snapshot_entries: 8,
        ..ClusterOptions::nodes(3)
    });
    let (one, two) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    cluster.report("s1", &one, 5.0);
    cluster.report("s2", &two, 50.0);

    // A request is under way at the server that is drained.
    let (address, waiting) = (cluster.public(1), "/7");
    let running = std::thread::spawn(move || http::get(address, waiting));
    one.wait_for_held(1);
    obeyed(&cluster, &["drain", "s1"], "s1 is drained");
    for id in cluster.ids() {
        cluster.wait_for("the order shows", || cluster.server(id, "s1").filter(is_drained));
        let server = cluster.server(id, "s1").expect("known");
        assert_eq!(server["alive"], true, "{server}");
        for n in 1..=3 {
            let answer = cluster.get(id, &format!("/{n}"));
            assert_eq!(answer.header("x-rakit-server"), Some("s2"), "node {id}: {answer:?}");
        }
        let metrics = cluster.get(id, "/metrics").body;
        assert!(metrics.contains("rakit_server_drained{server=\"s1\"} 1"), "{metrics}");
        assert!(metrics.contains("rakit_servers_eligible 1"), "{metrics}");
    }
    assert_eq!(one.requests(), 1, "only the one from before");
    // What runs ends by itself.
    assert_eq!(one.release(), 1);
    let answer = running.join().expect("no panic").expect("an answer");
    assert_eq!((answer.status, answer.header("x-rakit-server")), (200, Some("s1")));

    // It is still reported, and the order outlives compaction and restarts.
    for _ in 0..12 {
        cluster.report("s1", &one, 5.0);
    }
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        cluster.wait_for("it is compacted", || {
            (cluster.status(id)["snapshot_index"].as_u64() > Some(0)).then_some(())
        });
        cluster.kill9(id);
    }
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.wait_until_ready();
    let digests = cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        assert!(cluster.server(id, "s1").is_some_and(|server| is_drained(&server)), "{digests:?}");
        assert_eq!(cluster.get(id, "/5").header("x-rakit-server"), Some("s2"));
    }
    cluster.wait_for("the list shows the order", || {
        said(&servers(&cluster, &["list"])).contains("alive, drained").then_some(())
    });

    // All drained.
    obeyed(&cluster, &["drain", "s2"], "s2 is drained");
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        let none = cluster.get(id, "/5");
        assert_eq!(none.status, 503, "{none:?}");
        assert!(none.header("retry-after").is_some(), "{none:?}");
        assert!(none.body.contains("drained by an operator"), "{none:?}");
    }
    obeyed(&cluster, &["undrain", "s1"], "may get requests again");
    obeyed(&cluster, &["undrain", "s1"], "s1 is not drained");
    cluster.wait_for_equal_digests();
    one.behave(Behaviour::Good);
    for id in cluster.ids() {
        assert_eq!(cluster.get(id, "/5").header("x-rakit-server"), Some("s1"));
    }
    refused(&cluster, &["drain", "s9"], "there is no server s9");
}

#[test]
fn a_dead_server_is_forgotten_and_its_daemon_makes_it_new() {
    let mut cluster = Cluster::start(ClusterOptions {
        secret: Some(SECRET.into()),
        server_timeout_ms: 2_000,
        ..ClusterOptions::nodes(3)
    });
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 5.0);
    obeyed(&cluster, &["drain", "s1"], "s1 is drained");
    cluster.wait_for_server("s1", "dead", |server| server["alive"] == false);
    obeyed(&cluster, &["forget", "s1"], "s1 is forgotten");
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        assert_eq!(cluster.server(id, "s1"), None);
    }
    refused(&cluster, &["forget", "s1"], "there is no server s1");
    // The leader dies: `rakit servers` goes to the next one.
    let leader = cluster.wait_for_leader();
    cluster.kill9(leader);
    let reporter = Reporter::start(&cluster, "s1", worker.address(), 5.0, Duration::from_millis(100));
    // If its report is late, it is dead for a moment, and may be forgotten: then its daemon makes it new once more.
    cluster.wait_for("who is alive is not forgotten", || {
        cluster.wait_for_server("s1", "new and not drained", |server| {
            server["alive"] == true && server["drained"] == false
        });
        let output = servers(&cluster, &["forget", "s1"]);
        let refused = output.status.code() == Some(1) && said(&output).contains("s1 is alive");
        assert!(refused || said(&output).contains("s1 is forgotten"), "{}", said(&output));
        refused.then_some(())
    });
    // While reports come, no two nodes need to be equal at the moment of a look.
    drop(reporter);
    cluster.restart(leader);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
}

#[test]
fn an_order_needs_its_purpose_and_the_leader() {
    let cluster = Cluster::start(ClusterOptions::calm(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 5.0);
    let leader = cluster.wait_for_leader();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    let drain = |id: u64, purpose: &str| {
        let (names, purpose) = (http::operator_asks(id), format!("X-Rakit-Purpose: {purpose}"));
        let mut headers: Vec<&str> = names.iter().map(String::as_str).collect();
        headers.extend(["Content-Type: application/json", purpose.as_str()]);
        let body = br#"{"drain":"s1"}"#;
        http::request(cluster.cluster_address(id), "POST", "/servers", &headers, body).expect("an answer")
    };
    for id in [leader, follower] {
        let answer = drain(id, "report");
        assert_eq!(answer.status, 401, "a daemon gives no orders: {}", answer.body);
    }
    // A follower does not decide: it names the leader.
    let answer = drain(follower, "admin");
    assert_eq!((answer.status, answer.body.trim()), (409, format!("{{\"leader\":{leader}}}").as_str()));
    cluster.wait_for_equal_digests();
    assert!(!is_drained(&cluster.server(leader, "s1").expect("known")), "nobody took an order");
    assert_eq!(drain(leader, "admin").status, 200);
    cluster.wait_for_server("s1", "drained", |server| server["drained"] == true);
}

#[test]
fn an_order_needs_the_secret() {
    let worker = Worker::good(1);
    let signed = Cluster::start(ClusterOptions { secret: Some(SECRET.into()), ..ClusterOptions::nodes(3) });
    signed.report("s1", &worker, 5.0);
    let open = signed.path("open.toml");
    let text =
        std::fs::read_to_string(signed.config()).expect("our own").replace("secret_file", "# secret_file");
    std::fs::write(&open, text).expect("our own directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    let output =
        command.args(["servers", "drain", "s1", "--config"]).arg(&open).output().expect("rakit starts");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("401") && said(&output).contains("; mend: "), "{}", said(&output));
    assert_told_at_once(&signed, "a secret that no node of it has, and long enough");
    signed.wait_for_equal_digests();
    assert!(!is_drained(&signed.server(1, "s1").expect("known")));
}

/// With another secret: the first 401 ends each order. The election timeout of this file would let it go on for ten minutes.
#[track_caller]
fn assert_told_at_once(cluster: &Cluster, secret: &str) {
    let (toml, key) = (cluster.path("other.toml"), cluster.path("other.key"));
    std::fs::write(&key, secret).expect("our own directory");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("our own file");
    let text = std::fs::read_to_string(cluster.config()).expect("our own");
    let text: Vec<&str> = text
        .lines()
        .map(|line| match line.split(" = ").next() {
            Some("secret_file") => "secret_file = \"other.key\"",
            Some("election_timeout_ms") => "election_timeout_ms = [300000, 600000]",
            _ => line,
        })
        .collect();
    std::fs::write(&toml, text.join("\n")).expect("our own directory");
    let refused = || -> f64 {
        let counts = cluster
            .ids()
            .into_iter()
            .map(|id| cluster.metric(id, "rakit_refusals_total{reason=\"altered\"}"));
        counts.sum()
    };
    for words in [
        &["servers", "drain", "s1"][..],
        &["members", "remove", "2"],
        &["members", "add", "4", "--cluster", "127.0.0.1:4", "--public", "127.0.0.1:5"],
        &["transfer"],
    ] {
        let before = refused();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
        let output = command.args(words).arg("--config").arg(&toml).output().expect("rakit starts");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(
            text.contains("401") && text.contains("mend: order with the cluster.toml"),
            "{words:?}: {text}"
        );
        assert_eq!(refused(), before + 1.0, "{words:?} asked once: {text}");
    }
}
