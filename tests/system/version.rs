//! Two builds whose wire format or replicated rules differ: each refuses the other by name, and nothing is agreed across the
//! difference. The other build is played by the test.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use rakit::protocol::{HEADER_VERSION, PROTOCOL_VERSION, PeerRefusal, Status, node_name, path};
use rakit::signing::Seal;
use serde_json::Value;

use crate::disk_trouble::{assert_ended, run_to_its_end};
use crate::programs::cluster::{CLUSTER_NAME, Cluster, ClusterOptions};
use crate::programs::reports::Report;
use crate::programs::workers::Worker;
use crate::programs::{PATIENCE, http, impostor};

/// The version of the other build.
const OTHER: u32 = PROTOCOL_VERSION + 1;

fn status(cluster: &Cluster, id: u64) -> Status {
    let answer = cluster.get(id, path::STATUS);
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[test]
fn what_another_version_sends_is_refused_by_name_and_changes_nothing() {
    let cluster = Cluster::start(ClusterOptions::calm(1));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let address = cluster.cluster_address(1);
    let before = status(&cluster, 1);
    let report = Report::new("s1", worker.address(), 99.0).json().to_string();
    let vote = r#"{"incarnation":1,"request":{"request_vote":{"term":90,"candidate_id":2,"last_log_index":90,"last_log_term":89,"leadership_transfer":true}}}"#;
    for (target, body) in
        [(path::REPORT, report.as_str()), (path::REQUEST_VOTE, vote), (path::TRANSFER, "{}")]
    {
        let purpose = path::purposes(target).expect("a path of the cluster address")[0];
        let seal =
            Seal::new(CLUSTER_NAME, &node_name(2), None).expect("randomness").founded(&cluster.founding());
        let mut headers =
            seal.request(&node_name(1), purpose, "POST", target, body.as_bytes(), "", 0).headers;
        headers.retain(|(name, _)| *name != HEADER_VERSION);
        headers.push((HEADER_VERSION, OTHER.to_string()));
        let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let counted = cluster.metric(1, "rakit_refusals_total{reason=\"wrong-version\"}");
        let answer = http::request(address, "POST", target, &lines, body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 401, "{answer:?}");
        let expected = format!(
            "wrong-version: the sender speaks version {OTHER} of the protocol, this program version {PROTOCOL_VERSION}; \
             run the same build of rakit on all machines\n"
        );
        assert_eq!(answer.body, expected);
        assert_eq!(answer.header("x-rakit-version"), Some(PROTOCOL_VERSION.to_string().as_str()));
        assert_eq!(cluster.metric(1, "rakit_refusals_total{reason=\"wrong-version\"}"), counted + 1.0);
    }
    let after = status(&cluster, 1);
    assert_eq!(
        (after.term, after.last_index, &after.state_digest),
        (before.term, before.last_index, &before.state_digest)
    );
    // All three are counted, and only the first is logged: many such requests make few lines.
    cluster.wait_for_line(1, "wrong-version");
    let log = cluster.log_text(1);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("wrong-version")).collect();
    assert!(lines[0].contains("refused POST /report from 127.0.0.1:"), "{lines:?}");
    // A report that names no version is taken for one of this version.
    assert_eq!(http::post(address, path::REPORT, report.as_bytes()).expect("an answer").status, 200);
    assert_eq!(status(&cluster, 1).servers[0].cpu, 99.0);
}

#[test]
fn a_peer_of_another_version_gets_no_vote_counted_and_is_named() {
    // With our version, its vote counts: this shows that the test can fail. It may also name no version.
    for version in [Some(PROTOCOL_VERSION), Some(OTHER), None] {
        let mut cluster = Cluster::prepare(ClusterOptions::nodes(3));
        let granted = impostor::start(cluster.cluster_address(3), None, move |_| {
            version.map(|version| (HEADER_VERSION, version.to_string())).into_iter().collect()
        });
        cluster.restart(1); // Node 2 is never started: the other build's vote is the one that is missing.
        if version == Some(PROTOCOL_VERSION) {
            cluster.wait_for("it is elected by the other build", || {
                (cluster.try_status(1)?["role"] == "leader").then_some(())
            });
            continue;
        }
        cluster.wait_for("it was offered votes ten times", || {
            (granted.load(Ordering::SeqCst) >= 10).then_some(())
        });
        let detail = match version {
            Some(version) => format!(
                "node-3 speaks version {version} of the protocol, this program version {PROTOCOL_VERSION}; run the same \
                 build of rakit on all machines"
            ),
            None => "node-3 names no version of the protocol; is a node of Rakit at that address?".to_owned(),
        };
        let reason = format!("{}: wrong-version: {detail}", cluster.cluster_address(3));
        // The impostor counts a vote before the node has read it. An exchange that ends otherwise, such as by its time-out, takes
        // the refusal out of the list until the next one.
        let refusals = [PeerRefusal { node: 3, reason: reason.clone() }];
        let seen = cluster.wait_for("it shows the refusal", || {
            Some(status(&cluster, 1)).filter(|seen| seen.refusals == refusals)
        });
        assert_eq!((seen.term, seen.leader, seen.commit_index), (1, None, 0));
        cluster.wait_for_line(1, &format!("peer: node 1 does not work with node 3: {reason}"));
        cluster.wait_for("rakit status shows it, too", || {
            let asked = Command::new(env!("CARGO_BIN_EXE_rakit"))
                .args(["status", &cluster.public(1).to_string()])
                .output()
                .expect("it starts");
            assert_eq!(asked.status.code(), Some(1));
            let said = String::from_utf8_lossy(&asked.stdout);
            said.contains(&format!("node 1 does not work with node 3: {reason}")).then_some(())
        });
    }
}

#[test]
fn a_daemon_names_a_node_of_another_version() {
    let cluster = Cluster::prepare(ClusterOptions::nodes(1));
    let server = tiny_http::Server::http(cluster.cluster_address(1)).expect("a port that is kept for us");
    let log = cluster.path("daemon.log");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"))
        .arg("--config")
        .arg(cluster.config())
        .args(["--server", "lab-01", "--worker", "127.0.0.1:1029", "--log-file"])
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()
        .expect("rakit-daemon starts");
    let mut request = server.recv().expect("a report");
    let version = |header: &tiny_http::Header| header.field.equiv(HEADER_VERSION);
    let named = request.headers().iter().find(|header| version(header)).expect("it names its version");
    assert_eq!(named.value.as_str(), PROTOCOL_VERSION.to_string());
    let header = tiny_http::Header::from_bytes(HEADER_VERSION, OTHER.to_string()).expect("a header");
    let answer = r#"{"committed":1,"term":1,"and":"something new"}"#;
    let line = format!(
        "refuses reports: wrong-version: node-1 speaks version {OTHER} of the protocol, this program"
    );
    // A daemon that has given up waiting for one answer gets the next.
    loop {
        let _ = request.respond(tiny_http::Response::from_string(answer).with_header(header.clone()));
        let said = || fs::read_to_string(&log).is_ok_and(|text| text.contains(&line));
        if said() {
            break;
        }
        let next = server.recv_timeout(PATIENCE).expect("it listens");
        request = next.unwrap_or_else(|| panic!("no further report, and it did not say: {line}"));
    }
    daemon.kill().expect("our own child");
    daemon.wait().expect("our own child");
}

#[test]
fn a_directory_of_another_version_is_refused_and_left_as_it_was() {
    let mut cluster = Cluster::start(ClusterOptions { snapshot_entries: 5, ..ClusterOptions::nodes(1) });
    let worker = Worker::good(1);
    for _ in 0..10 {
        cluster.report("s1", &worker, 10.0);
    }
    cluster.wait_for("it has compacted", || {
        (cluster.metric(1, "rakit_raft_snapshot_index") > 0.0).then_some(())
    });
    cluster.terminate(1);
    let directory = cluster.path("data/node-1");
    let names: Vec<_> = fs::read_dir(&directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    let snapshot = names.iter().find(|name| name.to_string_lossy().starts_with("snapshot-"));
    let snapshot = snapshot.expect("ten entries were enough for one").to_string_lossy().into_owned();
    for file in ["log", &snapshot] {
        let ours = fs::read_to_string(directory.join(file)).expect("it can be read");
        let (first, rest) = ours.split_once('\n').expect("a first line");
        let json =
            first[9..].replace(&format!("\"version\":{PROTOCOL_VERSION}"), &format!("\"version\":{OTHER}"));
        let theirs = format!("{:08x} {json}\n{rest}", crc32fast::hash(json.as_bytes()));
        assert_ne!(theirs, ours);
        fs::write(directory.join(file), &theirs).expect("our own file");
        let place = format!("{file} is of version {OTHER} of the protocol, this program speaks version");
        let mend = format!("mend: start a build of version {OTHER}");
        assert_ended(&run_to_its_end(&cluster, 1), 2, &[&place, &mend]);
        assert_eq!(fs::read_to_string(directory.join(file)).expect("it can be read"), theirs);
        fs::write(directory.join(file), ours).expect("our own file");
    }
    cluster.restart(1);
    cluster.wait_until_ready();
    cluster.wait_for_server("s1", "as it was", |server: &Value| server["cpu"] == 10.0);
}
