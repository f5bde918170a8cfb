//! cluster.toml: what is accepted, with which defaults, and that each error names the file, the line, the key and the mend.
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rakit::balancer::Policy;
use rakit::config::{Config, NODES_MAX};

/// A file with every key given, each at its default.
const SAMPLE: &str = r#"
[cluster]
name = "lab"                     # nodes of another cluster are refused
secret_file = "cluster.key"      # optional while every address is loopback; else required

[raft]
heartbeat_ms = 100
election_timeout_ms = [500, 1000] # each timeout is drawn from this range
data_dir = "data"                # node i keeps its state in data/node-i; relative to this file
snapshot_entries = 10000         # compact the log after so many applied entries

[balancer]
policy = "projected"             # or "lowest-cpu"
server_timeout_ms = 5000         # no report for so long: dead, by consensus
report_interval_ms = 1000        # how often the daemons report
request_timeout_ms = 300000      # a big N takes a slow worker minutes
stall_ms = 2000                  # see "Choice of the server"

[[node]]
id = 1
public = "127.0.0.1:8001"        # clients: primes, status, metrics
cluster = "127.0.0.1:9001"       # peers and daemons
"#;

/// The least there can be; its `[[node]]` begins on line 3.
const LEAST: &str = "[cluster]\nname = \"lab\"\n[[node]]\nid = 1\npublic = \"127.0.0.1:8001\"\ncluster = \"127.0.0.1:9001\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("some/cluster.toml")).map_err(|error| error.to_string())
}

fn error_of(text: &str) -> String {
    parse(text).expect_err(text)
}

fn secret_at(path: &Path, content: &[u8], mode: u32) {
    std::fs::write(path, content).expect("writable");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("own file");
}

#[test]
fn the_sample_is_read_and_its_values_are_the_defaults() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    secret_at(&directory.path().join("cluster.key"), b"  0123456789abcdef\n", 0o600);
    let file = directory.path().join("cluster.toml");
    std::fs::write(&file, SAMPLE).expect("writable");
    let sample = Config::load(&file).expect("the sample");

    assert_eq!(sample.cluster_name, "lab");
    assert_eq!(sample.secret.as_deref(), Some(&b"0123456789abcdef"[..]));
    assert_eq!(sample.heartbeat, Duration::from_millis(100));
    assert_eq!(sample.election_timeout, (Duration::from_millis(500), Duration::from_millis(1000)));
    assert_eq!(sample.data_dir, directory.path().join("data"));
    assert_eq!(sample.node_dir(1), directory.path().join("data/node-1"));
    assert_eq!(sample.snapshot_entries, 10_000);
    assert_eq!(sample.policy, Policy::Projected);
    assert_eq!(sample.server_timeout, Duration::from_secs(5));
    assert_eq!(sample.report_interval, Duration::from_secs(1));
    assert_eq!(sample.request_timeout, Duration::from_secs(300));
    assert_eq!(sample.stall, Duration::from_secs(2));
    assert_eq!(sample.nodes[0].public, "127.0.0.1:8001".parse().expect("an address"));
    assert_eq!(sample.nodes[0].cluster, "127.0.0.1:9001".parse().expect("an address"));
    assert!(!format!("{sample:?}").contains("48, 49"), "the secret's bytes show");

    let least = Config::parse(LEAST, &file).expect("all other keys have defaults");
    assert_eq!(Config { secret: None, ..sample }, least);
}

#[test]
fn settings_of_a_hurried_test_and_of_the_raft_paper_pass() {
    for raft in [
        "heartbeat_ms = 20\nelection_timeout_ms = [100, 200]",
        "heartbeat_ms = 50\nelection_timeout_ms = [150, 300]",
        "heartbeat_ms = 1\nelection_timeout_ms = [2, 3]",
    ] {
        parse(&LEAST.replace("[[node]]", &format!("[raft]\n{raft}\n[[node]]"))).expect(raft);
    }
    parse(
        &LEAST.replace("[[node]]", "[balancer]\npolicy = \"projected\"\nserver_timeout_ms = 300\n[[node]]"),
    )
    .expect("a server timeout below the report interval is a warning, no error");
}

#[test]
fn nodes_are_sorted_and_found_by_id() {
    let config = parse(&format!(
        "{}\n[[node]]\nid = 12\npublic = \"[::1]:8002\"\ncluster = \"127.0.0.1:9002\"\n{}",
        LEAST.replace("id = 1\n", "id = 30\n"),
        "[[node]]\nid = 2\npublic = \"127.0.0.1:8003\"\ncluster = \"127.0.0.1:9003\"\n"
    ))
    .expect("three nodes");
    let ids: Vec<u64> = config.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, [2, 12, 30]);
    assert_eq!(config.node(12).expect("there").cluster.port(), 9002);
    let error = config.node(7).expect_err("no such node").to_string();
    assert_eq!(
        error,
        "some/cluster.toml: [[node]] id: no node has id 7; give one of 2, 12, 30, or add the node"
    );
}

/// What is wrong; the line it is on (0: the whole file); the key; a word of the mend.
#[test]
fn each_error_is_one_line_with_file_line_key_and_mend() {
    let raft = |text: &str| LEAST.replace("[[node]]", &format!("[raft]\n{text}\n[[node]]"));
    let balancer = |text: &str| LEAST.replace("[[node]]", &format!("[balancer]\n{text}\n[[node]]"));
    let second = |text: &str| format!("{LEAST}[[node]]\n{text}\n");
    let server = |text: &str| format!("{LEAST}[[server]]\n{text}\n");
    let addresses = |public: &str, cluster: &str| {
        second(&format!("id = 2\npublic = \"{public}\"\ncluster = \"{cluster}\""))
    };
    let many: String = (1..=NODES_MAX + 1)
        .map(|i| {
            format!(
                "[[node]]\nid = {i}\npublic = \"127.0.0.1:{}\"\ncluster = \"127.0.0.1:{}\"\n",
                1000 + i,
                2000 + i
            )
        })
        .collect();
    let cases: Vec<(String, usize, &str, &str)> = vec![
        // The form.
        (LEAST.replace("[[node]]", "colour = 1\n[[node]]"), 3, "cluster.colour", "unknown field"),
        (raft("hartbeat_ms = 5"), 4, "raft.hartbeat_ms", "heartbeat_ms"),
        (balancer("stall = 5"), 4, "balancer.stall", "stall_ms"),
        (server(""), 7, "[[server]] id", "missing"),
        (server("id = \"a\""), 7, "[[server]] worker", "missing"),
        (server("id = \"a\"\nwork = \"10.0.0.1:1024\""), 9, "server.work", "worker"),
        (server("id = \"a b\"\nworker = \"10.0.0.1:1024\""), 8, "[[server]] id", "--server"),
        (server("id = \"a\"\nworker = \"10.0.0.1:80\""), 9, "[[server]] worker", "1024"),
        (server("id = \"a\"\nworker = \"0.0.0.0:1024\""), 9, "[[server]] worker", "IP:PORT"),
        (
            server(
                "id = \"a\"\nworker = \"10.0.0.1:1024\"\n[[server]]\nid = \"a\"\nworker = \"10.0.0.2:1024\"",
            ),
            11,
            "[[server]] id",
            "already",
        ),
        (second("id = 2\npubic = \"127.0.0.1:1\""), 9, "node.pubic", "public"),
        (format!("{LEAST}[nodes]\n"), 7, "[nodes]", "unknown field"),
        (raft("heartbeat_ms = \"100\""), 4, "raft.heartbeat_ms", "mend"),
        (raft("heartbeat_ms = 1.5"), 4, "raft.heartbeat_ms", "mend"),
        (raft("heartbeat_ms = 99999999999999999999"), 4, "raft.heartbeat_ms", "mend"),
        (raft("heartbeat_ms = 1\nheartbeat_ms = 1"), 5, "raft.heartbeat_ms", "duplicate"),
        (raft("data_dir = \"x"), 4, "raft.data_dir", "mend"),
        // The cluster.
        (LEAST.replace("name = \"lab\"", ""), 0, "cluster.name", "write name ="),
        (LEAST.replace("\"lab\"", "\"\""), 2, "cluster.name", "letters"),
        (LEAST.replace("\"lab\"", "\"a b\""), 2, "cluster.name", "letters"),
        (LEAST.replace("\"lab\"", "\"-x\""), 2, "cluster.name", "letter or digit first"),
        (LEAST.replace("\"lab\"", &format!("{:?}", "x".repeat(65))), 2, "cluster.name", "1 to 64"),
        // Raft.
        (raft("heartbeat_ms = 0"), 4, "raft.heartbeat_ms", "give 1 to"),
        (raft("heartbeat_ms = -5"), 4, "raft.heartbeat_ms", "give 1 to"),
        (raft("heartbeat_ms = 251"), 4, "raft.heartbeat_ms", "at most 250"),
        (raft("heartbeat_ms = 600"), 4, "raft.heartbeat_ms", "at most 250"),
        (raft("election_timeout_ms = [150, 300]"), 4, "raft.heartbeat_ms", "at most 75"),
        (raft("election_timeout_ms = [1000, 500]"), 4, "raft.election_timeout_ms", "write [500, 1000]"),
        (raft("election_timeout_ms = [500, 500]"), 4, "raft.election_timeout_ms", "write [500, 1000]"),
        (raft("election_timeout_ms = [0, 500]"), 4, "raft.election_timeout_ms", "give 1 to"),
        (raft("election_timeout_ms = [500, 9999999]"), 4, "raft.election_timeout_ms", "give 1 to"),
        (raft("election_timeout_ms = [500]"), 4, "raft.election_timeout_ms", "give two"),
        (raft("election_timeout_ms = 500"), 4, "raft.election_timeout_ms", "mend"),
        (raft("data_dir = \"\""), 4, "raft.data_dir", "name a path"),
        (raft("snapshot_entries = 0"), 4, "raft.snapshot_entries", "give 1 to"),
        // The balancer.
        (balancer("policy = \"random\""), 4, "balancer.policy", "\"lowest-cpu\" or \"projected\""),
        (balancer("server_timeout_ms = 0"), 4, "balancer.server_timeout_ms", "give 1 to"),
        (balancer("report_interval_ms = 0"), 4, "balancer.report_interval_ms", "give 10 to"),
        (balancer("request_timeout_ms = 86400001"), 4, "balancer.request_timeout_ms", "give 1 to"),
        (balancer("stall_ms = -1"), 4, "balancer.stall_ms", "give 1 to"),
        // The nodes.
        ("[cluster]\nname = \"lab\"\n".to_owned(), 0, "[[node]]", "add one [[node]]"),
        (format!("[cluster]\nname = \"lab\"\n{many}"), 127, "[[node]]", "at most 31"),
        (LEAST.replace("id = 1\n", "\n"), 3, "[[node]] id", "add id = 1"),
        (LEAST.replace("public = \"127.0.0.1:8001\"\n", ""), 3, "[[node]] public", "add public ="),
        (LEAST.replace("cluster = \"127.0.0.1:9001\"\n", ""), 3, "[[node]] cluster", "add cluster ="),
        (LEAST.replace("id = 1\n", "id = 0\n"), 4, "[[node]] id", "give 1 to"),
        (LEAST.replace("id = 1\n", "id = -1\n"), 4, "[[node]] id", "give 1 to"),
        (second("id = 1\npublic = \"127.0.0.1:1\"\ncluster = \"127.0.0.1:2\""), 8, "[[node]] id", "its own"),
        (addresses("127.0.0.1:8001", "127.0.0.1:2"), 9, "[[node]] public", "another port"),
        (addresses("127.0.0.1:1", "127.0.0.1:9001"), 10, "[[node]] cluster", "another port"),
        (
            addresses("127.0.0.1:1", "127.0.0.1:1"),
            10,
            "[[node]] cluster",
            "public address 127.0.0.1:1 of node 2",
        ),
        (
            addresses("127.0.0.1:9001", "127.0.0.1:2"),
            9,
            "[[node]] public",
            "cluster address 127.0.0.1:9001 of node 1",
        ),
        (addresses("0.0.0.0:8001", "127.0.0.1:2"), 9, "[[node]] public", "another port"),
        (addresses("[::]:9001", "127.0.0.1:2"), 9, "[[node]] public", "another port"),
        (
            addresses("10.0.0.2:8001", "127.0.0.1:2").replace("127.0.0.1:8001", "0.0.0.0:8001"),
            9,
            "[[node]] public",
            "another port",
        ),
        (addresses("[::ffff:127.0.0.1]:8001", "127.0.0.1:2"), 9, "[[node]] public", "another port"),
        (addresses("localhost:1", "127.0.0.1:2"), 9, "[[node]] public", "IP:PORT"),
        (addresses("127.0.0.1", "127.0.0.1:2"), 9, "[[node]] public", "IP:PORT"),
        (addresses("127.0.0.1:1", "127.0.0.1:70000"), 10, "[[node]] cluster", "IP:PORT"),
        (addresses("127.0.0.1:0", "127.0.0.1:2"), 9, "[[node]] public", "1 to 65535"),
        (addresses("224.0.0.1:1", "127.0.0.1:2"), 9, "[[node]] public", "own"),
        (addresses("a\\u001b[2J\\n:1", "127.0.0.1:2"), 9, "[[node]] public", "IP:PORT"),
    ];
    for (text, line, key, mend) in cases {
        let error = error_of(&text);
        let place =
            if line == 0 { "some/cluster.toml: ".to_owned() } else { format!("some/cluster.toml:{line}: ") };
        assert!(error.starts_with(&place), "{place}… expected in: {error}");
        assert!(error[place.len()..].starts_with(key), "{key} expected in: {error}");
        assert!(error[place.len() + key.len()..].contains(mend), "{mend} expected in: {error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let missing = directory.path().join("none.toml");
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"name = \xff").expect("writable");
    let endless = directory.path().join("endless.toml");
    std::fs::write(&endless, vec![b'#'; 2 << 20]).expect("writable");
    for path in [missing.as_path(), binary.as_path(), endless.as_path(), directory.path()] {
        let error = Config::load(path).expect_err("unreadable").to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())) && error.contains("--config"), "{error}");
    }
}

#[test]
fn a_secret_must_be_private_long_and_a_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("cluster.toml");
    std::fs::write(&file, LEAST.replace("[[node]]", "secret_file = \"my.key\"\n[[node]]")).expect("writable");
    let key = directory.path().join("my.key");
    let told = || Config::load(&file).expect_err("a bad secret").to_string();
    let holds = |error: String, mend: &str| {
        let start = format!("{}:3: cluster.secret_file: {}", file.display(), key.display());
        assert!(error.starts_with(&start) && error.contains(mend), "{mend} expected in: {error}");
    };
    holds(told(), "chmod 600");
    for mode in [0o644, 0o640, 0o660, 0o606, 0o601] {
        secret_at(&key, b"0123456789abcdef", mode);
        holds(told(), &format!("run: chmod 600 {}", key.display()));
    }
    secret_at(&key, b" 0123456789abcde\n\n", 0o600);
    holds(told(), "at least 16");
    secret_at(&key, &[b'x'; 5000], 0o600);
    holds(told(), "longer than 4096");
    std::fs::remove_file(&key).expect("there");
    std::fs::create_dir(&key).expect("free");
    holds(told(), "no regular file");
    std::fs::remove_dir(&key).expect("there");
    for mode in [0o600, 0o400] {
        secret_at(&key, b"0123456789abcdef\r\n", mode);
        assert_eq!(
            Config::load(&file).expect("a good secret").secret.as_deref(),
            Some(&b"0123456789abcdef"[..])
        );
        std::fs::remove_file(&key).expect("there");
    }
}

#[test]
fn an_address_off_loopback_needs_a_secret_or_the_flag() {
    for (old, new) in [
        ("127.0.0.1:9001", "10.0.0.1:9001"),
        ("127.0.0.1:8001", "10.0.0.1:8001"),
        ("127.0.0.1:9001", "0.0.0.0:9001"),
        ("127.0.0.1:9001", "[::]:9001"),
        ("127.0.0.1:9001", "[::ffff:10.0.0.1]:9001"),
    ] {
        let exposed = parse(&LEAST.replace(old, new)).expect("a good file");
        let error = exposed.check_exposure(false).expect_err(new).to_string();
        assert!(error.starts_with("some/cluster.toml: cluster.secret_file: "), "{error}");
        assert!(
            error.contains(new) && error.contains("--insecure") && error.contains("chmod 600"),
            "{error}"
        );
        let warning = exposed.check_exposure(true).expect("allowed").expect("but warned of");
        assert!(warning.contains("--insecure") && warning.contains(new), "{warning}");
        let guarded = Config { secret: Some(b"0123456789abcdef".to_vec()), ..exposed };
        assert_eq!(guarded.check_exposure(false), Ok(None));
    }
    for address in ["127.0.0.1:9001", "127.8.9.1:9001", "[::1]:9001", "[::ffff:127.0.0.1]:9001"] {
        let inside = parse(&LEAST.replace("127.0.0.1:9001", address)).expect("a good file");
        assert_eq!(inside.check_exposure(false), Ok(None), "{address}");
    }
}
