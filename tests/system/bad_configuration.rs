//! What the three programs say to bad usage and to a bad configuration: exit code 2, and one line that names the file,
//! the key and the mend. (`config.rs` goes through all rules of the file; here it is shown that each program follows
//! them.)
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const NODE: &str = env!("CARGO_BIN_EXE_rakit-node");
const DAEMON: &str = env!("CARGO_BIN_EXE_rakit-daemon");
const RAKIT: &str = env!("CARGO_BIN_EXE_rakit");

const GOOD: &str = "[cluster]\nname = \"lab\"\n[[node]]\nid = 1\npublic = \"127.0.0.1:18001\"\ncluster = \"127.0.0.1:19001\"\n";

fn run(program: &str, arguments: &[&str], directory: &Path) -> Output {
    Command::new(program).args(arguments).current_dir(directory).output().expect("it starts")
}

#[track_caller]
fn assert_refused(output: &Output, program: &str, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{program}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{program}: {said}");
    assert!(said.starts_with(&format!("{program}: ")), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?}: {said}");
    }
}

/// The node, the daemon and `rakit up` refuse the `cluster.toml` in this directory. (`rakit up` keeps a configuration that
/// is there, and so must refuse a bad one.)
#[track_caller]
fn refused_by_all(directory: &Path, words: &[&str]) {
    let node = ["--config", "cluster.toml", "--id", "1"];
    let daemon = ["--config", "cluster.toml", "--server", "a", "--worker", "127.0.0.1:13337"];
    assert_refused(&run(NODE, &node, directory), "rakit-node", words);
    assert_refused(&run(DAEMON, &daemon, directory), "rakit-daemon", words);
    assert_refused(&run(RAKIT, &["up", "--dir", "."], directory), "rakit", words);
}

#[test]
fn each_program_explains_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    for program in [RAKIT, NODE, DAEMON] {
        for (flag, word) in [("--help", "Usage:"), ("-h", "Usage:"), ("--version", env!("CARGO_PKG_VERSION"))]
        {
            let output = run(program, &[flag], directory.path());
            assert_eq!(output.status.code(), Some(0), "{program} {flag}");
            assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{program} {flag}: {output:?}");
            assert!(output.stderr.is_empty(), "{program} {flag}: {output:?}");
        }
        let help = run(program, &["--help"], directory.path());
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for flag in ["--log-level", "--log-file", "--version"] {
            assert!(help.contains(flag), "{program}: {help}");
        }
    }
}

/// The key that daemons may have instead of the secret does not make a node, nor a transfer.
#[test]
fn a_report_key_is_no_secret_for_a_node() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("report.key");
    std::fs::write(&key, format!("report-key:{}", "ab".repeat(32))).expect("our own directory");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    let text = GOOD.replace("[[node]]", "secret_file = \"report.key\"\n[[node]]");
    std::fs::write(directory.path().join("cluster.toml"), text).expect("our own directory");
    let output = run(NODE, &["--config", "cluster.toml", "--id", "1"], directory.path());
    let words = ["cluster.toml", "secret_file", "report key", "name the file with the cluster's secret"];
    assert_refused(&output, "rakit-node", &words);
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().expect("a directory");
    for (program, name, arguments, word) in [
        (NODE, "rakit-node", &[][..], "--config"),
        (NODE, "rakit-node", &["--config", "x", "--id", "one"], "--id"),
        (NODE, "rakit-node", &["--config", "x", "--id", "1", "--log-level", "loud"], "--log-level"),
        (NODE, "rakit-node", &["--nonsense"], "--nonsense"),
        (DAEMON, "rakit-daemon", &[][..], "--config"),
        (DAEMON, "rakit-daemon", &["--config", "x", "--server", "a b"], "--server"),
        (DAEMON, "rakit-daemon", &["--config", "x", "--server", "a", "--worker", "nowhere"], "--worker"),
        (DAEMON, "rakit-daemon", &["--config", "x", "--server", "a", "--measure", "mood"], "--measure"),
        (RAKIT, "rakit", &["fly"], "fly"),
        (RAKIT, "rakit", &["up", "--nodes", "none"], "--nodes"),
        (RAKIT, "rakit", &["up", "--base-port", "99999"], "--base-port"),
    ] {
        assert_refused(&run(program, arguments, directory.path()), name, &[word, "--help"]);
    }
}

#[test]
fn a_bad_file_is_named_with_key_and_mend_by_each_program() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cluster.toml");
    let node = |more: &str| format!("{GOOD}{more}");
    for (text, words) in [
        (String::new(), &["cluster"][..]),
        ("not = [toml".to_owned(), &["cluster.toml"][..]),
        (GOOD.replace("name", "nome"), &["nome"]),
        (node("[raft]\nheartbeat = 100\n"), &["heartbeat", "heartbeat_ms"]),
        (node("[raft]\nelection_timeout_ms = [1000, 500]\n"), &["election_timeout_ms"]),
        (node("[raft]\nheartbeat_ms = -1\n"), &["heartbeat_ms"]),
        (node("[balancer]\npolicy = \"luck\"\n"), &["policy", "lowest-cpu"]),
        (node("[[node]]\nid = 1\npublic = \"127.0.0.1:18002\"\ncluster = \"127.0.0.1:19002\"\n"), &["id"]),
        (
            node("[[node]]\nid = 2\npublic = \"127.0.0.1:18001\"\ncluster = \"127.0.0.1:19002\"\n"),
            &["127.0.0.1:18001"],
        ),
        (GOOD.replace("127.0.0.1:18001", "localhost:18001"), &["public", "localhost:18001"]),
        (
            GOOD.replace(
                "[[node]]\nid = 1\npublic = \"127.0.0.1:18001\"\ncluster = \"127.0.0.1:19001\"\n",
                "",
            ),
            &["node"],
        ),
        (
            GOOD.replace("[[node]]", "secret_file = \"missing.key\"\n[[node]]"),
            &["secret_file", "missing.key", "chmod 600"],
        ),
    ] {
        std::fs::write(&file, &text).expect("our own file");
        let mut words = words.to_vec();
        words.push("cluster.toml");
        refused_by_all(directory.path(), &words);
    }
    // The program refuses a file that is no regular file. Opening a named pipe would wait for a writer.
    std::fs::remove_file(&file).expect("our own file");
    let pipe = || assert!(Command::new("mkfifo").arg(&file).status().expect("it starts").success());
    let folder = || std::fs::create_dir(&file).expect("our own directory");
    for make in [&pipe as &dyn Fn(), &folder] {
        make();
        let words = ["cluster.toml", "no regular file"];
        refused_by_all(directory.path(), &words);
        assert_refused(
            &run(RAKIT, &["status", "--config", "cluster.toml"], directory.path()),
            "rakit",
            &words,
        );
        std::fs::remove_dir(&file).or_else(|_| std::fs::remove_file(&file)).expect("our own file");
    }
    std::fs::write(&file, GOOD).expect("our own file");
    let output = run(NODE, &["--config", "cluster.toml", "--id", "2"], directory.path());
    assert_refused(&output, "rakit-node", &["cluster.toml", "no node has id 2", "give one of 1"]);
    let output = run(NODE, &["--config", "nowhere.toml", "--id", "1"], directory.path());
    assert_refused(&output, "rakit-node", &["nowhere.toml"]);
}
