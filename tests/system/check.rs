//! `rakit check` at a cluster whose members and keys change: what it finds, and the mend that it names. What it says of machines
//! that `rakit init` has set up stands in `init.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::{LOOK_AGAIN, PATIENCE};
use crate::secret::{hang_up, write_key};

const SECRET: &str = "the first secret of this test, long enough";
const NEXT: &str = "the next secret of this test, long enough";

/// All lines of `rakit check` with this file.
fn check(config: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    let output = command.args(["check", "--config"]).arg(config).output().expect("rakit starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A line, by its beginning and words that it has.
type Line<'a> = (&'a str, &'a [&'a str]);

fn has(text: &str, (beginning, words): Line) -> bool {
    text.lines().any(|line| line.starts_with(beginning) && words.iter().all(|word| line.contains(word)))
}

/// Waits until one run of `rakit check` with this file says all these lines, and has none of these words. An answer may come too
/// late for it, and a follower may not have heard yet what is committed.
#[track_caller]
fn finds(config: &Path, lines: &[Line], nothing_of: &[&str]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = check(config);
        let missing: Vec<&Line> = lines.iter().filter(|line| !has(&text, **line)).collect();
        let unwanted: Vec<&&str> = nothing_of.iter().filter(|words| text.contains(**words)).collect();
        if missing.is_empty() && unwanted.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "missing {missing:?}, unwanted {unwanted:?}, in\n{text}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn members(cluster: &Cluster, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    command.arg("members").args(words).arg("--config").arg(cluster.config());
    let output = command.output().expect("rakit starts");
    assert!(output.status.success(), "{words:?}: {output:?}\n{}", cluster.story());
}

fn add(cluster: &Cluster, id: NodeId, wait_ms: &str) {
    let (at, public) = (cluster.cluster_address(id).to_string(), cluster.public(id).to_string());
    members(cluster, &["add", &id.to_string(), "--cluster", &at, "--public", &public, "--wait-ms", wait_ms]);
}

#[test]
fn check_compares_the_file_with_the_members_and_asks_those_that_only_the_log_has() {
    let options = ClusterOptions { secret: Some(SECRET.to_owned()), ..ClusterOptions::nodes(3) };
    let mut cluster = Cluster::start(options);
    cluster.wait_until_ready();
    let file = cluster.config();
    finds(&file, &[("ok: the members of the founding are those of the file: nodes 1, 2, 3", &[])], &[]);

    // Of a machine whose node nobody added yet: first silent, then running.
    cluster.add_machine(4);
    let other_file = cluster.path("cluster-4.toml");
    let silent: Line = ("finding: ", &["names node 4, which is no member", "; mend: take its section out"]);
    finds(&other_file, &[silent], &[]);
    cluster.restart(4);
    cluster.wait_for("node 4 serves", || cluster.try_status(4));
    let running: Line =
        ("finding: node 4 runs at ", &["nobody added it", "mend: rakit members add 4 --cluster"]);
    finds(&other_file, &[running], &[]);

    add(&cluster, 4, "60000");
    cluster.wait_until_ready();
    let note: Line = ("note: node 4 is a member, and ", &["[[node]] with id = 4", "founder = false"]);
    let at = cluster.public(4).to_string();
    finds(&file, &[note, ("ok: node 4 answers at ", &[&at])], &[]);
    finds(&other_file, &[("ok: the members of entry ", &["nodes 1, 2, 3, 4"])], &[]);

    // A learner that is not there.
    cluster.add_machine(5);
    add(&cluster, 5, "0");
    finds(&file, &[("finding: node 5 is a learner and does not answer at ", &["mend: start it"])], &[]);
    members(&cluster, &["remove", "5"]);

    // A founder that was removed: running, and stopped.
    let leader = cluster.wait_for_leader();
    let gone = (1..=3).find(|id| *id != leader).expect("three founders");
    members(&cluster, &["remove", &gone.to_string()]);
    let no_member = format!("finding: node {gone} is no member any more, by entry ");
    finds(&file, &[(&no_member, &["still runs", "mend: stop it"])], &["they follow different leaders"]);
    cluster.terminate(gone);
    let note = format!("note: node {gone} is no member any more; its section in ");
    finds(&file, &[(&note, &["stays"])], &[&format!("node {gone} does not answer")]);

    // It comes back at another address: the file is wrong about it, and the node is asked where the log has it.
    let before = cluster.public(gone);
    cluster.add_machine(gone);
    let after = cluster.public(gone);
    assert_ne!(before, after, "another machine");
    add(&cluster, gone, "0");
    let mend = format!("write public = \"{after}\" and cluster = \"{}\"", cluster.cluster_address(gone));
    let (other, silent) = (
        format!("has other addresses for node {gone}"),
        format!("finding: node {gone} does not answer at {after}"),
    );
    finds(&file, &[("finding: ", &[&other, &mend]), (&silent, &[])], &[]);
}

#[test]
fn check_sees_each_step_of_a_change_of_the_secret_that_is_half_done() {
    let options = ClusterOptions { secret: Some(SECRET.to_owned()), ..ClusterOptions::nodes(3) };
    let cluster = Cluster::start(options);
    cluster.wait_until_ready();
    let key = cluster.path("cluster.key");
    // The operator's file, with a key file of its own.
    let (file, own_key) = (cluster.path("own.toml"), cluster.path("own.key"));
    let text = std::fs::read_to_string(cluster.config()).expect("its configuration");
    std::fs::write(&file, text.replace("cluster.key", "own.key")).expect("our own directory");
    let with = |keys: &[&str], lines: &[Line]| {
        write_key(&own_key, keys);
        finds(&file, lines, &[]);
    };
    let mut reads: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut give = |cluster: &Cluster, ids: &[NodeId], lines: &[&str]| {
        write_key(&key, lines);
        for id in ids {
            let read = reads.entry(*id).or_default();
            *read += 1;
            hang_up(cluster.pid(*id).expect("it runs"));
            cluster.wait_for("the node has read it", || {
                (cluster.log_text(*id).matches("secret: read again: ").count() >= *read).then_some(())
            });
        }
    };
    let sound: [Line; 3] =
        [("ok: node 1 answers at ", &[]), ("ok: node 2 answers at ", &[]), ("ok: node 3 answers at ", &[])];
    with(&[SECRET], &sound);
    let other: Line = ("finding: node 1 does not work with this machine at ", &["altered", "cluster.key"]);
    with(&[NEXT], &[other]);

    // Step 2 is done at this machine and node 1 alone.
    give(&cluster, &[1], &[SECRET, NEXT]);
    let second_at_2: Line =
        ("finding: node 2 does not take the second key of this machine, ", &["mend: ", "SIGHUP"]);
    let second_at_3: Line = ("finding: node 3 does not take the second key of this machine, ", &[]);
    with(&[SECRET, NEXT], &[sound[0], second_at_2, second_at_3]);
    let first: Line = ("finding: node 2 does not take the first key of this machine, ", &["which signs"]);
    with(&[NEXT, SECRET], &[first]);
    give(&cluster, &[2, 3], &[SECRET, NEXT]);
    with(&[SECRET, NEXT], &sound);
    with(&[SECRET], &sound);

    // Step 3 is done at node 2 alone; then everywhere but at this machine.
    give(&cluster, &[2], &[NEXT, SECRET]);
    let swapped: Line = ("finding: node 2 has the two keys in the other order", &["mend: swap the lines"]);
    with(&[SECRET, NEXT], &[swapped, sound[0], sound[2]]);
    give(&cluster, &[1, 3], &[NEXT, SECRET]);
    with(&[NEXT, SECRET], &sound);
    with(&[SECRET], &[("finding: node 3 has another key in its first line", &["mend: give this machine"])]);

    // No key, and no digest of one, is shown to whoever asks a node.
    write_key(&own_key, &[SECRET, NEXT]);
    let names = check(&file);
    let name = names.split("it signs with ").nth(1).and_then(|rest| rest.get(..8)).expect("a name");
    for path in ["/status", "/metrics", "/ui/state", "/log"] {
        let page = cluster.get(1, path).body;
        assert!(!page.contains(name), "{name:?} in\n{page}");
    }
}
