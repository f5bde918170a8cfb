//! The files of a directory as text, and who may open it. docs/storage.md shows the same text: whoever changes the format
//! changes this file, that page, and the format's version.

use std::fs;
use std::path::Path;
use std::time::Instant;

use rakit::raft::{Command, Entry, Founders, Founding, HardState, Record, Snapshot};
use rakit::storage::{DirectoryDisk, Fresh, Identity, Recovered, Storage, StorageError};

fn identity(cluster: &str, node: u64) -> Identity {
    Identity { founding: Founding::new(cluster, [1, 2, 3]), node }
}

fn fresh(incarnation: u64) -> Fresh {
    Fresh { incarnation, records: Vec::new() }
}

fn open(path: &Path, identity: &Identity) -> Result<(Storage<DirectoryDisk>, Recovered), StorageError> {
    Storage::open(DirectoryDisk::open(path)?, identity, fresh(8_231_946_170_233))
}

fn report(index: u64, term: u64) -> Entry {
    let json = serde_json::json!({ "report": { "server": "lab-01", "cpu": 37.5, "sequence": index } });
    Entry { index, term, command: Command::from_value(&json).expect("it has a JSON form") }
}

/// The log after a few steps. The checksums were computed by another program (zlib).
const LOG: &str = r#"01e1e665 {"header":{"version":5,"founding":{"cluster":"lab","members":[1,2,3]},"node":1,"incarnation":8231946170233,"after_index":0,"after_term":0}}
02ecbad8 149 {"hard_state":{"term":1,"voted_for":3}}
f9a323c2 202 {"entry":{"index":1,"term":1,"command":null}}
51a688fe 202 {"entry":{"index":2,"term":1,"command":{"report":{"cpu":37.5,"sequence":2,"server":"lab-01"}}}}
9989f4df 370 {"hard_state":{"term":2,"voted_for":null}}
c6d6eb33 370 {"truncate":{"from":2}}
2fc7879c 370 {"entry":{"index":2,"term":2,"command":{"report":{"cpu":37.5,"sequence":2,"server":"lab-01"}}}}
755b3252 370 {"entry":{"index":3,"term":2,"command":{"report":{"cpu":37.5,"sequence":3,"server":"lab-01"}}}}
"#;

/// The log after a compaction up to entry 2.
const COMPACTED_LOG: &str = r#"07b15988 {"header":{"version":5,"founding":{"cluster":"lab","members":[1,2,3]},"node":1,"incarnation":8231946170233,"after_index":2,"after_term":2}}
674ae034 0 {"hard_state":{"term":2,"voted_for":null}}
c748e977 0 {"entry":{"index":3,"term":2,"command":{"report":{"cpu":37.5,"sequence":3,"server":"lab-01"}}}}
"#;

/// The snapshot of that compaction.
const SNAPSHOT: &str = r#"1950d616 {"version":5,"founding":{"cluster":"lab","members":[1,2,3]},"snapshot":{"last_index":2,"last_term":2,"state":{"servers":[]}}}
"#;

#[test]
fn the_files_can_be_read_by_a_person() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let lab = identity("lab", 1);
    let (mut storage, recovered) = open(place.path(), &lab).expect("a fresh directory");
    assert!(recovered.fresh);
    let noop = Entry { index: 1, term: 1, command: Command::noop() };
    let hard_state = HardState { term: 2, voted_for: None, joining: false };
    storage
        .append(&[Record::HardState(HardState { term: 1, voted_for: Some(3), joining: false })])
        .expect("append");
    storage.append(&[Record::Entry(noop), Record::Entry(report(2, 1))]).expect("append");
    storage
        .append(&[
            Record::HardState(hard_state),
            Record::Truncate { from: 2 },
            Record::Entry(report(2, 2)),
            Record::Entry(report(3, 2)),
        ])
        .expect("append");
    let read = |name: &str| fs::read_to_string(place.path().join(name)).expect("it is a text");
    assert_eq!(read("log"), LOG);

    let state = Command::from_value(&serde_json::json!({ "servers": [] })).expect("it has a JSON form");
    let snapshot = Snapshot { last_index: 2, last_term: 2, state, members: None };
    storage.compact(&snapshot, hard_state, &[report(3, 2)]).expect("compact");
    assert_eq!(read("log"), COMPACTED_LOG);
    assert_eq!(read("snapshot-00000000000000000002.json"), SNAPSHOT);
    assert_eq!(read("lock"), format!("{}\n", std::process::id()));

    drop(storage);
    let (_, recovered) = open(place.path(), &lab).expect("it opens again");
    let expected = Recovered {
        hard_state,
        snapshot: Some(snapshot),
        entries: vec![report(3, 2)],
        commit: None,
        incarnation: 8_231_946_170_233,
        founders: Founders::new(),
        repaired: None,
        fresh: false,
    };
    assert_eq!(recovered, expected);
}

#[test]
fn a_directory_of_another_node_cluster_or_version_is_refused_and_left_alone() {
    let place = tempfile::tempdir().expect("a temporary directory");
    drop(open(place.path(), &identity("lab", 1)).expect("a fresh directory"));
    let log = place.path().join("log");
    let before = fs::read(&log).expect("it can be read");
    let larger = Identity { founding: Founding::new("lab", [1, 2, 3, 4, 5]), node: 1 };
    for stranger in [identity("lab", 2), identity("lab2", 1), larger] {
        let error = open(place.path(), &stranger).expect_err("not its directory");
        let line = error.to_string();
        assert!(matches!(error, StorageError::WrongDirectory { .. }), "{line}");
        for part in [log.display().to_string(), identity("lab", 1).to_string(), stranger.to_string()] {
            assert!(line.contains(&part), "{line} lacks {part}");
        }
    }
    assert_eq!(fs::read(&log).expect("it can be read"), before);

    let json = r#"{"header":{"version":9,"news":true}}"#;
    fs::write(&log, format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))).expect("it can be written");
    let error = open(place.path(), &identity("lab", 1)).expect_err("a later version's");
    assert!(matches!(error, StorageError::OtherVersion { version: 9, .. }), "{error}");
}

#[test]
fn a_directory_in_use_is_refused_until_its_holder_is_gone() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let lab = identity("lab", 1);
    let first = open(place.path(), &lab).expect("a fresh directory");
    let line = open(place.path(), &lab).expect_err("in use").to_string();
    assert!(line.contains(&format!("pid {}", std::process::id())), "{line}");
    drop(first);
    open(place.path(), &lab).expect("free again");
}

#[test]
fn the_incarnation_is_of_the_directory_not_of_the_process() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let lab = identity("lab", 1);
    let mut incarnations = Vec::new();
    for fresh_incarnation in [1, 2] {
        let disk = DirectoryDisk::open(place.path()).expect("it opens");
        let (storage, recovered) = Storage::open(disk, &lab, fresh(fresh_incarnation)).expect("it opens");
        assert_eq!((recovered.fresh, storage.incarnation()), (fresh_incarnation == 1, recovered.incarnation));
        incarnations.push(recovered.incarnation);
    }
    assert_eq!(incarnations, [1, 1]);
}

#[test]
fn what_may_not_be_on_a_disk_is_refused_before_it_is_written() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let refused = |what: &str, call: &dyn Fn(&mut Storage<DirectoryDisk>) -> Result<(), StorageError>| {
        let path = place.path().join(what);
        let (mut storage, _) = open(&path, &identity("lab", 1)).expect("a fresh directory");
        let start = [Record::HardState(HardState { term: 2, voted_for: Some(1), joining: false })];
        storage.append(&start).expect("append");
        storage.append(&[report(1, 1), report(2, 1), report(3, 2)].map(Record::Entry)).expect("append");
        let before = fs::read(path.join("log")).expect("it can be read");
        let error = call(&mut storage).expect_err(what);
        assert!(matches!(error, StorageError::Refused(_)), "{what}: {error}");
        let next = storage.append(&[]);
        let poisoned = matches!(next, Err(StorageError::Poisoned { .. }));
        assert!(poisoned, "a caller with such a bug is not to be trusted any more");
        assert_eq!(fs::read(path.join("log")).expect("it can be read"), before, "{what}");
        assert_eq!(
            fs::read_dir(&path).expect("it can be read").count(),
            2,
            "{what}: nothing but log and lock"
        );
    };
    let snapshot =
        |last_index, last_term| Snapshot { last_index, last_term, state: Command::noop(), members: None };
    let now = HardState { term: 2, voted_for: Some(1), joining: false };
    refused("a gap", &|storage| storage.append(&[Record::Entry(report(5, 2))]));
    refused("half a good batch", &|storage| {
        storage.append(&[Record::Entry(report(4, 2)), Record::Entry(report(4, 2))])
    });
    refused("a second vote", &|storage| {
        storage.append(&[Record::HardState(HardState { term: 2, voted_for: Some(2), joining: false })])
    });
    refused("a vote changed by a compaction", &|storage| {
        let vote = HardState { term: 2, voted_for: Some(2), joining: false };
        storage.compact(&snapshot(2, 1), vote, &[report(3, 2)])
    });
    refused("entries lost by a compaction", &|storage| storage.compact(&snapshot(2, 1), now, &[]));
    refused("a gap after the snapshot", &|storage| storage.compact(&snapshot(1, 1), now, &[report(3, 2)]));
    refused("a snapshot of nothing", &|storage| storage.compact(&snapshot(0, 0), now, &[]));
    refused("a snapshot of a later term", &|storage| storage.compact(&snapshot(9, 3), now, &[]));
}

/// One append against one bare write and fdatasync of the same bytes. Not a check but a measurement; docs/storage.md has
/// its result: `cargo test --release --test storage format:: -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_append() {
    use std::io::Write;
    const ROUNDS: usize = 1000;
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on a real disk");
    let (mut storage, _) =
        open(&place.path().join("node-1"), &identity("lab", 1)).expect("a fresh directory");
    storage
        .append(&[Record::HardState(HardState { term: 1, voted_for: Some(1), joining: false })])
        .expect("append");
    let log_bytes = || fs::metadata(place.path().join("node-1/log")).expect("it is there").len();
    let mut bare = fs::File::create(place.path().join("bare")).expect("it can be made");
    let mut index = 0;
    for batch in [1, 256] {
        let (mut appends, mut syncs, mut serialising) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let records: Vec<_> = (0..batch)
                .map(|_| {
                    index += 1;
                    Record::Entry(report(index, 1))
                })
                .collect();
            let before = log_bytes();
            let start = Instant::now();
            storage.append(&records).expect("append");
            appends.push(start.elapsed());
            // Measured in turns, so that a change of the machine's load meets both.
            let bytes = vec![b'x'; usize::try_from(log_bytes() - before).expect("small")];
            let start = Instant::now();
            bare.write_all(&bytes).expect("write");
            let written = start.elapsed();
            bare.sync_data().expect("fdatasync");
            syncs.push(start.elapsed());
            serialising.push(written);
        }
        for times in [&mut appends, &mut syncs, &mut serialising] {
            times.sort_unstable();
        }
        let (append, sync) = (appends[ROUNDS / 2], syncs[ROUNDS / 2]);
        println!(
            "{batch:>4} records: append {append:?}, bare write + fdatasync {sync:?} (write alone {:?}), ratio {:.2}",
            serialising[ROUNDS / 2],
            append.as_secs_f64() / sync.as_secs_f64()
        );
    }
}
