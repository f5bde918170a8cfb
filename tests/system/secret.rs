//! A cluster with a secret. A program without it is refused on every route of the cluster address and changes nothing:
//! not with a forged, altered, repeated or delayed request. Forged *answers* count as no vote.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::cluster::{CLUSTER_NAME, Cluster, ClusterOptions, NodeId};
use crate::programs::reports::Report;
use crate::programs::workers::Worker;
use crate::programs::{http, impostor};
use rakit::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_DIGEST, HEADER_NUMBER, HEADER_SENDER, HEADER_SIGNATURE, HEADER_STREAM,
    HEADER_VERSION, PROTOCOL_VERSION, Purpose, path,
};
use rakit::signing::{Gate, Seal, Secret};
use serde_json::{Value, json};

const SECRET: &str = "the secret of the whole cluster, 32 bytes or more";
const REPORT: &str = r#"{"server":"evil","worker":"127.0.0.1:6666","cpu":0.0,"cores":64,"epoch":1,"sequence":1,"worker_up":true,"forward":false}"#;

/// Every route of the cluster address, its purpose, and a body that would change something if it were taken.
const ROUTES: [(&str, Purpose, &str); 10] = [
    ("/report", Purpose::Report, REPORT),
    ("/raft/pre-vote", Purpose::Raft, r#"{"incarnation":9,"request":{"pre_vote":VOTE}}"#),
    ("/raft/request-vote", Purpose::Raft, r#"{"incarnation":9,"request":{"request_vote":VOTE}}"#),
    (
        "/raft/append-entries",
        Purpose::Raft,
        r#"{"incarnation":9,"request":{"append_entries":{"term":9000,"leader_id":2,"prev_log_index":0,"prev_log_term":0,"entries":[],"leader_commit":0}}}"#,
    ),
    (
        "/raft/install-snapshot",
        Purpose::Raft,
        r#"{"incarnation":9,"request":{"install_snapshot":{"term":9000,"leader_id":2,"last_included_index":900,"last_included_term":9000,"offset":0,"data":"x","done":false,"checksum":0}}}"#,
    ),
    (
        "/raft/timeout-now",
        Purpose::Raft,
        r#"{"incarnation":9,"request":{"timeout_now":{"term":9000,"leader_id":2}}}"#,
    ),
    ("/raft/watch", Purpose::Raft, "{}"),
    ("/raft/transfer", Purpose::Admin, "{}"),
    ("/servers", Purpose::Admin, r#"{"drain":"lab-01"}"#),
    (
        "/raft/compare-state",
        Purpose::Raft,
        r#"{"incarnation":9,"request":{"compare_state":{"term":9000,"leader_id":2,"index":16,"digest":"00","by_majority":true}}}"#,
    ),
];

const VOTE: &str =
    r#"{"term":9000,"candidate_id":2,"last_log_index":9000,"last_log_term":8999,"leadership_transfer":true}"#;

fn calm(nodes: u64) -> ClusterOptions {
    ClusterOptions { secret: Some(SECRET.to_owned()), ..ClusterOptions::calm(nodes) }
}

fn secret(text: &str) -> Secret {
    Secret::parse(text.as_bytes()).expect("long enough")
}

/// Posts with these headers: the status and the one line.
fn post(address: SocketAddr, path: &str, headers: &[(&'static str, String)], body: &str) -> (u16, String) {
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("Content-Type: application/json");
    let answer = http::request(address, "POST", path, &lines, body.as_bytes()).expect("an answer");
    (answer.status, answer.body)
}

/// Opens a stream at the node `me`: its name, for the next requests.
fn open_stream(address: SocketAddr, seal: &Seal, me: &str, purpose: Purpose) -> String {
    let nonce = seal.nonce();
    let (status, ticket) = post(address, path::STREAM, &seal.opening(me, purpose, &nonce).headers, "");
    assert_eq!(status, 200, "{ticket}");
    nonce + ticket.trim()
}

/// What a refused request must leave as it was.
fn state(cluster: &Cluster) -> Vec<Value> {
    let keys = [
        "role",
        "term",
        "leader",
        "voted_for",
        "last_index",
        "commit_index",
        "snapshot_index",
        "state_digest",
    ];
    let of = |id: NodeId| {
        let status = cluster.status(id);
        keys.iter().map(|key| status[*key].clone()).collect()
    };
    cluster.ids().into_iter().map(of).collect()
}

/// The same, once all have the same: what was committed just now has then reached everybody.
fn settled_state(cluster: &Cluster) -> Vec<Value> {
    cluster.wait_for("all nodes have committed the same", || {
        cluster.wait_for_equal_digests();
        let state = state(cluster);
        // From the last index on; role, term, leader and vote may differ.
        let same = state
            .iter()
            .all(|node| node.as_array().zip(state[0].as_array()).is_some_and(|(a, b)| a[4..] == b[4..]));
        let committed = state.iter().all(|node| node[4] == node[5]);
        (same && committed).then_some(state)
    })
}

/// How many requests a node has refused for this reason.
fn refused(cluster: &Cluster, id: NodeId, reason: &str) -> u64 {
    let page = cluster.get(id, "/metrics").body;
    let name = format!("rakit_refusals_total{{reason=\"{reason}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(name.as_str()));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[test]
fn every_route_refuses_what_is_not_signed_for_it_and_changes_nothing() {
    let cluster = Cluster::start(calm(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let (before, founding) = (settled_state(&cluster), cluster.founding());
    let whole = secret(SECRET);
    for id in cluster.ids() {
        let (me, address) = (format!("node-{id}"), cluster.cluster_address(id));
        // Another node speaks, so that with the right signature each would be taken.
        let other = format!("node-{}", id % 3 + 1);
        let seal = |name: &str, secret: Option<&Secret>| {
            Seal::new(name, &other, secret).expect("randomness").founded(&founding)
        };
        let good = seal(CLUSTER_NAME, Some(&whole));
        for (path, purpose, body) in ROUTES {
            let body = &body.replace("VOTE", VOTE).replace(":2", &format!(":{}", id % 3 + 1));
            let name = open_stream(address, &good, &me, purpose);
            let sealed = |seal: &Seal, to: &str, purpose, path: &str, body: &str| {
                seal.request(to, purpose, "POST", path, body.as_bytes(), &name, 1).headers
            };
            let with = |mut headers: Vec<(&'static str, String)>, name: &str, value: &str| {
                headers.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, v)| *v = value.to_owned());
                headers
            };
            // A node may report, too: it hands on what a daemon said.
            let wrong_purpose = match purpose {
                Purpose::Raft => Purpose::Report,
                Purpose::Report => Purpose::Admin,
                Purpose::Admin => Purpose::Raft,
            };
            let other_path = if path == "/raft/watch" { "/raft/pre-vote" } else { "/raft/watch" };
            let fresh = || sealed(&good, &me, purpose, path, body);
            let stranger = seal(CLUSTER_NAME, Some(&secret("another secret altogether")));
            let forged: Vec<(&str, Vec<(&'static str, String)>)> = vec![
                ("unsigned", Vec::new()),
                ("unsigned", sealed(&seal(CLUSTER_NAME, None), &me, purpose, path, body)),
                ("altered", sealed(&stranger, &me, purpose, path, body)),
                ("altered", sealed(&good, &me, purpose, other_path, body)),
                ("altered", with(fresh(), HEADER_SENDER, "node-9")),
                ("altered", with(fresh(), HEADER_STREAM, &"0".repeat(80))),
                ("altered", with(fresh(), HEADER_NUMBER, "2")),
                ("altered", with(fresh(), HEADER_DIGEST, &"0".repeat(64))),
                ("altered", with(fresh(), HEADER_SIGNATURE, &"0".repeat(64))),
                ("wrong-version", with(fresh(), HEADER_VERSION, &(PROTOCOL_VERSION + 1).to_string())),
                ("wrong-purpose", sealed(&good, &me, wrong_purpose, path, body)),
                ("wrong-recipient", sealed(&good, &other, purpose, path, body)),
                ("wrong-cluster", sealed(&seal("other", Some(&whole)), &me, purpose, path, body)),
                // A stream that this node has not opened; and the body of another request, which comes last, since it uses
                // up the number.
                (
                    "unknown-stream",
                    good.request(&me, purpose, "POST", path, body.as_bytes(), &"0".repeat(80), 1).headers,
                ),
                ("altered", sealed(&good, &me, purpose, path, &format!("{body} "))),
            ];
            for (reason, headers) in forged {
                let count = refused(&cluster, id, reason);
                let (status, said) = post(address, path, &headers, body);
                assert_eq!(status, 401, "{path} {reason} {headers:?}: {said}");
                assert!(
                    said.starts_with(reason) && said.trim_end().lines().count() == 1,
                    "{path} {reason}: {said}"
                );
                let counted = refused(&cluster, id, reason) - count;
                // A peer, too, may go on in a stream that this node has not opened.
                let is_counted = if reason == "unknown-stream" { counted >= 1 } else { counted == 1 };
                assert!(is_counted, "{path} {reason} is counted {counted} times");
            }
            let count = refused(&cluster, id, "malformed");
            let malformed = with(fresh(), HEADER_SIGNATURE, "00");
            assert_eq!(post(address, path, &malformed, body).0, 401, "{path}");
            assert_eq!(refused(&cluster, id, "malformed"), count + 1, "{path}");
        }
    }
    assert_eq!(state(&cluster), before);
    assert_eq!(cluster.server(1, "evil"), None);
}

#[test]
fn what_was_said_once_is_refused_when_it_is_said_again() {
    let cluster = Cluster::start(calm(3));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    let leader = cluster.wait_for_leader();
    let peer = leader % 3 + 1;
    let seal = Seal::new(CLUSTER_NAME, &format!("node-{peer}"), Some(&secret(SECRET))).expect("randomness");
    let seal = seal.founded(&cluster.founding());
    let (me, address) = (format!("node-{leader}"), cluster.cluster_address(leader));
    let harmless_vote = VOTE.replace("9000", "1").replace(":2", &format!(":{peer}")).replace("true", "false");
    for (path, purpose, body) in [
        ("/report", Purpose::Report, REPORT.to_owned()),
        ("/raft/pre-vote", Purpose::Raft, ROUTES[1].2.replace("VOTE", &harmless_vote)),
        ("/raft/request-vote", Purpose::Raft, ROUTES[2].2.replace("VOTE", &harmless_vote)),
        (
            "/raft/append-entries",
            Purpose::Raft,
            ROUTES[3].2.replace("9000", "0").replace(":2", &format!(":{peer}")),
        ),
        (
            "/raft/timeout-now",
            Purpose::Raft,
            ROUTES[5].2.replace("9000", "0").replace(":2", &format!(":{peer}")),
        ),
        ("/raft/transfer", Purpose::Admin, r#"{"to":99}"#.to_owned()),
    ] {
        let name = open_stream(address, &seal, &me, purpose);
        let headers = seal.request(&me, purpose, "POST", path, body.as_bytes(), &name, 1).headers;
        let (first, said) = post(address, path, &headers, &body);
        assert!(matches!((path, first), ("/raft/transfer", 400) | (_, 200)), "{path}: {first} {said}");
        let before = settled_state(&cluster);
        for _ in 0..3 {
            let count = refused(&cluster, leader, "replayed");
            let (status, said) = post(address, path, &headers, &body);
            assert!(status == 401 && said.starts_with("replayed"), "{path}: {status} {said}");
            assert_eq!(refused(&cluster, leader, "replayed"), count + 1);
        }
        assert_eq!(state(&cluster), before, "{path}");
    }
}

#[test]
fn the_signed_cluster_elects_hears_daemons_and_routes() {
    let mut cluster =
        Cluster::start(ClusterOptions { secret: Some(SECRET.to_owned()), ..ClusterOptions::nodes(3) });
    let worker = Worker::good(1);
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"))
        .arg("--config")
        .arg(cluster.config())
        .args(["--server", "lab-01", "--worker", &worker.address().to_string(), "--stop-with-parent"])
        .args(["--log-level", "warn"])
        .spawn()
        .expect("rakit-daemon starts");
    let up = |server: &Value| server["alive"] == true && server["worker_up"] == true;
    cluster.wait_for_server("lab-01", "alive", up);
    for id in cluster.ids() {
        assert_eq!(cluster.get(id, "/7").body, worker.answer(7) + "\n", "node {id}");
    }
    let leader = cluster.wait_for_leader();
    cluster.kill9(leader);
    cluster.wait_for("another leads", || cluster.agreed_leader().filter(|id| *id != leader));
    let sequence = cluster.server(leader % 3 + 1, "lab-01").expect("known")["sequence"].as_u64();
    cluster.wait_for_server("lab-01", "heard by the new leader", |server| {
        server["sequence"].as_u64() > sequence
    });
    cluster.restart(leader);
    cluster.wait_until_ready();
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        for reason in ["altered", "replayed", "wrong-purpose", "malformed"] {
            assert_eq!(refused(&cluster, id, reason), 0, "node {id} refused its own: {reason}");
        }
    }
    daemon.kill().expect("our own child");
    daemon.wait().expect("our own child");
}

// ------------------------------------------------------------------------------------------------- another secret

const NEXT: &str = "the next secret of the whole cluster, as long";

/// A secret file is replaced as an editor does it.
pub(crate) fn write_key(file: &Path, lines: &[&str]) {
    let new = file.with_extension("new");
    std::fs::write(&new, lines.join("\n") + "\n").expect("our own directory");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    std::fs::rename(&new, file).expect("our own directory");
}

/// A daemon whose log is read.
struct Logged {
    child: Child,
    log: PathBuf,
}

impl Logged {
    fn start(cluster: &Cluster, config: &Path, server: &str) -> Self {
        let log = cluster.path(&format!("{server}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_rakit-daemon"))
            .arg("--config")
            .arg(config)
            .args(["--server", server, "--worker", "127.0.0.1:13337", "--stop-with-parent", "--log-file"])
            .arg(&log)
            .stderr(Stdio::null())
            .spawn()
            .expect("rakit-daemon starts");
        Self { child, log }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn hang_up(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::HUP).expect("our own child");
}

/// The steps of docs/operations.md, "Changing the secret", on a running cluster under reports: nobody is refused, and nobody
/// is elected.
#[test]
fn the_secret_is_changed_under_reports_without_a_refusal_or_an_election() {
    let mut cluster = Cluster::start(ClusterOptions { report_interval_ms: 50, ..calm(3) });
    // One daemon with the secret, one with the key for reports alone.
    let (key, report_key) = (cluster.path("cluster.key"), cluster.path("report.key"));
    let only_reports = cluster.path("reports.toml");
    let text = std::fs::read_to_string(cluster.config()).expect("its configuration");
    std::fs::write(&only_reports, text.replace("cluster.key", "report.key")).expect("our own directory");
    let write_report_key = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
        let output =
            command.args(["report-key", "--config"]).arg(cluster.config()).output().expect("rakit starts");
        assert!(output.status.success(), "{output:?}");
        write_key(&report_key, &String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>());
    };
    write_report_key();
    let daemons = [
        Logged::start(&cluster, &cluster.config(), "whole"),
        Logged::start(&cluster, &only_reports, "reports"),
    ];
    let (leader, term) = (cluster.wait_for_leader(), cluster.status(1)["term"].clone());
    let reported = |cluster: &Cluster| {
        for name in ["whole", "reports"] {
            let sequence = cluster.server(leader, name).and_then(|server| server["sequence"].as_u64());
            cluster.wait_for_server(name, "reported again", |server| {
                server["sequence"].as_u64() > sequence.map(|n| n + 2)
            });
        }
    };
    reported(&cluster);

    for (number, lines) in [&[SECRET, NEXT][..], &[NEXT, SECRET], &[NEXT]].into_iter().enumerate() {
        write_key(&key, lines);
        write_report_key();
        // One after the other, so that the step is half done for a while.
        for id in cluster.ids() {
            hang_up(cluster.pid(id).expect("it runs"));
            cluster.wait_for("the node has read it", || {
                (cluster.log_text(id).matches("secret: read again: ").count() > number).then_some(())
            });
            reported(&cluster);
        }
        for daemon in &daemons {
            hang_up(daemon.child.id());
            cluster.wait_for("the daemon has read it", || {
                (daemon.text().matches("secret: read again: ").count() > number).then_some(())
            });
            reported(&cluster);
        }
    }

    for id in cluster.ids() {
        assert_eq!(cluster.status(id)["term"], term, "an election\n{}", cluster.story());
        for reason in ["unsigned", "altered", "replayed", "wrong-purpose", "malformed", "unknown-stream"] {
            assert_eq!(refused(&cluster, id, reason), 0, "node {id}: {reason}\n{}", cluster.story());
        }
        assert!(cluster.metric(id, "rakit_requests_with_second_key_total") > 0.0);
    }
    for daemon in &daemons {
        assert!(!daemon.text().contains("refuses reports"), "{}", daemon.text());
        assert!(!daemon.text().contains("does not take reports"), "{}", daemon.text());
    }
    // The old secret is worth nothing any more, and the new one all.
    let worker = "127.0.0.1:13337".parse().expect("an address");
    let refusal = cluster.post_report(leader, &Report::new("late", worker, 1.0)).expect_err("the old secret");
    assert!(refusal.contains("altered"), "{refusal}");
    cluster.options.secret = Some(NEXT.to_owned());
    assert_eq!(cluster.post_report(leader, &Report::new("late", worker, 1.0)).expect("an answer").0, 200);
    // What is no secret changes nothing.
    write_key(&key, &["short"]);
    hang_up(cluster.pid(leader).expect("it runs"));
    cluster.wait_for("the node says that it keeps its keys", || {
        cluster.log_text(leader).contains("secret: the keys stay as they are: ").then_some(())
    });
    reported(&cluster);
}

/// A file of root's that the service's group may read: the service uses its key, and cannot change it.
#[test]
fn a_secret_of_root_s_may_be_readable_by_the_service_s_own_group() {
    // Ids that nobody has.
    const SERVICE: u32 = 64_001;
    const OTHERS: u32 = 64_002;
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give files away");
    }
    let cluster =
        Cluster::prepare(ClusterOptions { secret: Some(SECRET.to_owned()), ..ClusterOptions::nodes(1) });
    let (key, config) = (cluster.path("cluster.key"), cluster.config());
    let directory = config.parent().expect("in its directory");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
    // In a place that everybody can reach.
    let program = directory.join("rakit");
    std::fs::copy(env!("CARGO_BIN_EXE_rakit"), &program).expect("our own directory");
    // Nobody answers there: exit code 1. A secret that is not used: 2.
    let exit_code = |owner: u32, group: u32, mode: u32| {
        std::os::unix::fs::chown(&key, Some(owner), Some(group)).expect("root may");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("our own file");
        let mut command = Command::new(&program);
        command.args(["status", "--config"]).arg(&config).uid(SERVICE).gid(SERVICE);
        let output = command.output().expect("rakit starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(exit_code(0, SERVICE, 0o640).0, Some(1));
    assert_eq!(exit_code(0, SERVICE, 0o440).0, Some(1));
    assert_eq!(exit_code(SERVICE, SERVICE, 0o600).0, Some(1));
    for (owner, group, mode) in [
        (0, SERVICE, 0o660),
        (0, SERVICE, 0o644),
        (0, OTHERS, 0o644),
        (SERVICE, SERVICE, 0o640),
        (OTHERS, SERVICE, 0o640),
    ] {
        let (code, said) = exit_code(owner, group, mode);
        assert_eq!(code, Some(2), "{owner}:{group} {mode:o}: {said}");
        assert!(said.contains("chmod 600"), "{said}");
    }
}

// ------------------------------------------------------------------------------------------------- forged answers

#[test]
fn a_vote_that_is_forged_is_not_counted() {
    // Without a secret the forged vote counts: this shows that the test can fail.
    for secret in [None, Some(SECRET.to_owned())] {
        let signed = secret.is_some();
        let gate = secret.as_deref().map(|text| {
            Gate::new(CLUSTER_NAME, "node-3", Some(&self::secret(text))).expect("the whole secret")
        });
        let mut cluster = Cluster::prepare(ClusterOptions { secret, ..ClusterOptions::nodes(3) });
        let granted = impostor::start(cluster.cluster_address(3), gate, |granted| {
            let mut headers = vec![(HEADER_VERSION, PROTOCOL_VERSION.to_string())];
            if granted.is_multiple_of(2) {
                headers.push((HEADER_ANSWER_SIGNATURE, "0".repeat(64)));
            }
            headers
        });
        cluster.restart(1); // Node 2 is never started: the impostor's vote is the one that is missing.
        if signed {
            cluster.wait_for("it was offered forged votes ten times", || {
                (granted.load(Ordering::SeqCst) >= 10).then_some(())
            });
            let status = cluster.status(1);
            assert!(status["role"] == "pre-candidate" || status["role"] == "follower", "{status}");
            assert_eq!((&status["term"], &status["leader"]), (&json!(1), &Value::Null), "{status}");
            assert_eq!(status["commit_index"], 0, "{status}");
        } else {
            cluster.wait_for("it is elected by the impostor", || {
                (cluster.try_status(1)?["role"] == "leader").then_some(())
            });
        }
    }
}

// ------------------------------------------------------------------------------------------------- what is refused at
// the start

/// Runs a program that must refuse to start; gives its one line.
#[track_caller]
fn refusal(program: &str, arguments: &[&str], config: &Path) -> String {
    let Output { status, stderr, .. } =
        Command::new(program).arg("--config").arg(config).args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{program}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{program}: {said}");
    said
}

const NODE: &str = env!("CARGO_BIN_EXE_rakit-node");
const DAEMON: &str = env!("CARGO_BIN_EXE_rakit-daemon");

#[test]
fn off_loopback_a_secret_is_required_unless_the_operator_insists() {
    let cluster = Cluster::prepare(ClusterOptions::nodes(1));
    let text = std::fs::read_to_string(cluster.config()).expect("its configuration");
    // A documentation address: nobody has it (RFC 5737), so a node that goes on ends at its listener.
    let open = text.replace(&cluster.cluster_address(1).to_string(), "192.0.2.1:9001");
    std::fs::write(cluster.config(), open).expect("our own file");
    for (program, arguments) in
        [(NODE, &["--id", "1"][..]), (DAEMON, &["--server", "a", "--worker", "192.0.2.2:13337"][..])]
    {
        let said = refusal(program, arguments, &cluster.config());
        for word in ["cluster.toml", "secret_file", "192.0.2.1:9001", "--insecure", "chmod 600"] {
            assert!(said.contains(word), "no {word}: {said}");
        }
    }
    // It goes on, and waits for the address that nobody has.
    let mut insists = Command::new(NODE)
        .arg("--config")
        .arg(cluster.config())
        .args(["--id", "1", "--insecure"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stderr = BufReader::new(insists.stderr.take().expect("it is piped"));
    let mut said = String::new();
    for line in stderr.lines().map_while(Result::ok) {
        said.push_str(&line);
        if line.contains("the node waits for it") {
            break;
        }
    }
    insists.kill().expect("it runs");
    insists.wait().expect("our own child");
    assert!(said.contains("192.0.2.1") && said.contains("the node waits for it"), "{said}");
    assert!(said.contains("anybody who reaches a cluster address"), "loudly: {said}");
}

#[test]
fn a_secret_that_others_may_read_is_not_used() {
    let cluster = Cluster::prepare(calm(1));
    let key = cluster.path("cluster.key");
    for mode in [0o644, 0o640, 0o604, 0o666] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("our own file");
        for (program, arguments) in
            [(NODE, &["--id", "1"][..]), (DAEMON, &["--server", "a", "--worker", "127.0.0.1:13337"][..])]
        {
            let said = refusal(program, arguments, &cluster.config());
            for word in ["cluster.toml", "secret_file", "cluster.key", &format!("{mode:04o}"), "chmod 600"] {
                assert!(said.contains(word), "no {word}: {said}");
            }
        }
    }
}

/// Whoever holds only the key for reports must not make the nodes send requests to other machines.
#[test]
fn a_daemon_reports_a_worker_at_its_own_address_or_at_one_that_is_allowed() {
    let tables = "\n[[server]]\nid = \"allowed\"\nworker = \"192.0.2.9:13337\"\n";
    let options = ClusterOptions { tables, ..calm(3) };
    let cluster = Cluster::start(options);
    let leader = cluster.wait_for_leader();
    // TEST-NET-1 (RFC 5737): on no machine, so it is not the sender's.
    let away = "192.0.2.9:13337".parse().expect("an address");
    for id in cluster.ids() {
        let (status, body) =
            cluster.post_report(id, &Report::new("elsewhere", away, 1.0)).expect("an answer");
        assert_eq!(status, 400, "node {id}: {body}");
        assert!(body.as_str().is_some_and(|line| line.contains("[[server]]")), "it says the mend: {body}");
    }
    assert_eq!(cluster.post_report(leader, &Report::new("allowed", away, 1.0)).expect("an answer").0, 200);
    // Handed on by a follower, which has checked it: the leader does not take the follower for the daemon.
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
    let handed_on = Report { forward: true, ..Report::new("allowed", away, 2.0) };
    assert_eq!(cluster.post_report(follower, &handed_on).expect("an answer").0, 200);
}
