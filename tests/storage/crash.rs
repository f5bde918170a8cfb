//! Everything that was acknowledged is there after a crash at any point: the real storage on a simulated disk.
//!
//! A workload of appends and compactions is drawn from a seed and run against a model that is nothing but a vector. The
//! process is killed, or the machine's power is cut, at each operation of the disk in turn, also inside the recovery that
//! follows; or an operation fails. Then the directory is opened again, and what is recovered must be what the model had
//! acknowledged, plus at most a first part of what was in flight.

use crate::disk::{Coverage, Failure, SimDisk};
use rakit::linux::BootMoment;
use rakit::raft::Random;
use std::sync::Arc;

use rakit::raft::{Command, Durable, Entry, Founding, HardState, Record, Snapshot};
use rakit::storage::{CommitHint, Fresh, Identity, Recovered, Storage, StorageError};

/// Steps of one workload.
const STEPS: u64 = 12;

/// The number with which each test's directory is made.
const INCARNATION: u64 = 42;

/// The model: what a node must remember, in the simplest form.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    snapshot: Option<Snapshot>,
    entries: Vec<Entry>,
}

impl Model {
    fn of(recovered: Recovered) -> Self {
        Self { hard_state: recovered.hard_state, snapshot: recovered.snapshot, entries: recovered.entries }
    }

    fn after(&self) -> (u64, u64) {
        self.snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.last_index, snapshot.last_term))
    }

    fn last(&self) -> (u64, u64) {
        self.entries.last().map_or(self.after(), |entry| (entry.index, entry.term))
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::HardState(hard_state) => self.hard_state = *hard_state,
            Record::Truncate { from } => self.entries.retain(|entry| entry.index < *from),
            Record::Entry(entry) => self.entries.push(entry.clone()),
            Record::Founders(_) => unreachable!("this model draws none"),
        }
    }
}

/// A step of a workload: one operation of a node on its disk.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Compact(Snapshot, HardState, Vec<Entry>),
    /// The same, as the Raft loop does it: begun, and then continued step by step.
    CompactGradually(Snapshot, HardState, Vec<Entry>),
    Remember(CommitHint),
}

impl Step {
    /// What was said to be committed, up to the index `committed`, is never truncated.
    fn draw(model: &Model, committed: u64, random: &mut Random) -> Self {
        match random.below(6) {
            0 => match (random.below(2), Self::draw_compaction(model, random)) {
                (0, Self::Compact(snapshot, hard_state, retained)) => {
                    Self::CompactGradually(snapshot, hard_state, retained)
                }
                (_, step) => step,
            },
            1 if model.last().0 > 0 => {
                let (index, term) = model.last();
                Self::Remember(CommitHint { index, term, fresh_at: BootMoment { boot: "1".into(), ms: 5 } })
            }
            _ => Self::Append(draw_records(model, committed, random)),
        }
    }

    fn draw_compaction(model: &Model, random: &mut Random) -> Self {
        let (last_index, last_term) = model.last();
        let mut hard_state = model.hard_state;
        if last_index == 0 || random.below(3) == 0 {
            // A leader sends its snapshot: beyond the log, or into it with another term.
            hard_state = HardState { term: hard_state.term + 1, voted_for: None, joining: false };
            let after = model.after().0;
            let index = if random.below(2) == 0 && last_index > after {
                after + 1 + random.below(last_index - after)
            } else {
                last_index + 1 + random.below(5)
            };
            let state = Command::from_value(&format!("sent {index} {}", random.below(1000))).expect("a text");
            return Self::Compact(
                Snapshot { last_index: index, last_term: hard_state.term, state, members: None },
                hard_state,
                Vec::new(),
            );
        }
        let (after, _) = model.after();
        let index = after + random.below(last_index - after + 1);
        if index == after {
            // Nothing was applied since the last snapshot: the same snapshot again. A caller may ask for that.
            if let Some(snapshot) = &model.snapshot {
                return Self::Compact(snapshot.clone(), hard_state, model.entries.clone());
            }
        }
        let index = index.max(after + 1);
        let (covered, retained): (Vec<_>, Vec<_>) =
            model.entries.iter().cloned().partition(|entry| entry.index <= index);
        let term = covered.last().map_or(last_term, |entry| entry.term);
        let state = Command::from_value(&format!("state {index}")).expect("a text");
        Self::Compact(
            Snapshot { last_index: index, last_term: term, state, members: None },
            hard_state,
            retained,
        )
    }

    fn perform(&self, storage: &mut Storage<SimDisk>) -> Result<(), StorageError> {
        match self {
            Self::Append(records) => storage.append(records),
            Self::Compact(snapshot, hard_state, retained) => storage.compact(snapshot, *hard_state, retained),
            Self::CompactGradually(snapshot, hard_state, retained) => {
                let (snapshot, retained) = (Arc::new(snapshot.clone()), retained.clone());
                storage.make_durable(vec![Durable::Compact {
                    snapshot,
                    hard_state: *hard_state,
                    retained,
                }])?;
                while storage.continue_compaction()? {}
                Ok(())
            }
            Self::Remember(hint) => storage.remember(hint),
        }
    }

    /// The models after each durable part of this step: nothing first, everything last.
    fn stages(&self, model: &Model) -> Vec<Model> {
        let mut stages = vec![model.clone()];
        match self {
            Self::Remember(_) => {}
            Self::Append(records) => {
                for record in records {
                    let mut next = stages.last().expect("never empty").clone();
                    next.apply(record);
                    stages.push(next);
                }
            }
            Self::Compact(snapshot, hard_state, retained)
            | Self::CompactGradually(snapshot, hard_state, retained) => {
                stages.push(Model { hard_state: *hard_state, ..model.clone() });
                stages.push(Model {
                    hard_state: *hard_state,
                    snapshot: Some(snapshot.clone()),
                    entries: retained.clone(),
                });
            }
        }
        stages
    }
}

fn draw_records(model: &Model, committed: u64, random: &mut Random) -> Vec<Record> {
    let mut model = model.clone();
    let kept = |model: &Model| model.after().0.max(committed);
    let mut records = Vec::new();
    for _ in 0..=random.below(4) {
        let (last_index, _) = model.last();
        let HardState { term, voted_for, .. } = model.hard_state;
        let record = match random.below(8) {
            0 => Record::HardState(HardState { term: term + 1, voted_for: None, joining: false }),
            1 if term > 0 && voted_for.is_none() => {
                Record::HardState(HardState { term, voted_for: Some(1 + random.below(5)), joining: false })
            }
            2 if last_index > kept(&model) => {
                Record::Truncate { from: kept(&model) + 1 + random.below(last_index - kept(&model)) }
            }
            _ if term > 0 => {
                let text = "x".repeat(usize::try_from(random.below(30)).expect("small"));
                let command = Command::from_value(&text).expect("a text");
                Record::Entry(Entry { index: last_index + 1, term, command })
            }
            _ => Record::HardState(HardState { term: term + 1, voted_for: Some(1), joining: false }),
        };
        model.apply(&record);
        records.push(record);
    }
    records
}

fn identity() -> Identity {
    Identity { founding: Founding::new("lab", [1, 2, 3]), node: 1 }
}

fn open(disk: &SimDisk) -> Result<(Storage<SimDisk>, Recovered), StorageError> {
    Storage::open(disk.clone(), &identity(), Fresh { incarnation: INCARNATION, records: Vec::new() })
}

/// How the process ends after a fault.
fn end(disk: &SimDisk, random: &mut Random) {
    if random.below(3) == 0 {
        disk.kill();
    } else {
        disk.power_cut(random.next_u64());
    }
}

/// Opens after a fault, perhaps through further faults within the recovery, and checks what is found.
fn recover(
    disk: &SimDisk,
    random: &mut Random,
    allowed: &[Model],
    context: &str,
) -> (Storage<SimDisk>, Model) {
    for attempt in 0..3 {
        if attempt < 2 && random.below(3) == 0 {
            let failure =
                [Failure::Crash, Failure::Crash, Failure::Sync, Failure::Write][random.below(4) as usize];
            disk.plan(failure, random.below(8));
        }
        match open(disk) {
            Ok((storage, recovered)) => {
                disk.call_off();
                assert_eq!(recovered.incarnation, INCARNATION, "{context}");
                let commit = recovered.commit.clone();
                let model = Model::of(recovered);
                assert!(allowed.contains(&model), "{context}: recovered {model:#?}\nallowed {allowed:#?}");
                if let Some(hint) = commit {
                    let entries = model.entries.iter().map(|entry| (entry.index, entry.term));
                    let mut held = entries.chain([model.after()]);
                    assert!(held.any(|held| held == (hint.index, hint.term)), "{context}: honoured {hint:?}");
                }
                return (storage, model);
            }
            Err(error @ StorageError::Io { .. }) => {
                disk.call_off();
                assert!(attempt < 2, "{context}: {error}");
                end(disk, random);
            }
            Err(error) => panic!("{context}: {error}\n{:#?}", readable(disk)),
        }
    }
    unreachable!("the third attempt has no planned failure")
}

fn readable(disk: &SimDisk) -> Vec<(String, String)> {
    disk.contents()
        .into_iter()
        .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}

/// One workload with one planned failure per life. Returns how many operations the disk saw.
fn run(seed: u64, failure: Option<(Failure, u64)>, coverage: &mut Coverage) -> u64 {
    let context = format!("seed {seed}, {failure:?}");
    let mut random = Random::new(seed);
    let disk = SimDisk::new(seed);
    if let Some((failure, skip)) = failure {
        disk.plan(failure, skip);
    }
    // What may be found by the next opening. The directory itself may not have been made when the first one ends.
    let (mut storage, mut model) = match open(&disk) {
        Ok((storage, recovered)) => {
            assert!(recovered.fresh);
            (storage, Model::of(recovered))
        }
        Err(_) => {
            end(&disk, &mut random);
            recover(&disk, &mut random, &[Model::default()], &context)
        }
    };
    let mut committed = 0;
    for _ in 0..STEPS {
        let step = Step::draw(&model, committed, &mut random);
        if let Step::Remember(hint) = &step {
            committed = committed.max(hint.index);
        }
        let stages = step.stages(&model);
        match step.perform(&mut storage) {
            Ok(()) => {
                assert!(!disk.is_crashed(), "{context}: acknowledged by a dead process");
                model = stages.last().expect("never empty").clone();
            }
            Err(error) => {
                assert!(matches!(error, StorageError::Io { .. }), "{context}: {step:?}: {error}");
                if matches!(step, Step::Remember(_)) && !disk.is_crashed() {
                    continue; // A hint that was not written is a hint that was lost.
                }
                if !matches!(step, Step::Remember(_)) {
                    assert_poisoned(&mut storage, &disk);
                }
                drop(storage);
                end(&disk, &mut random);
                (storage, model) = recover(&disk, &mut random, &stages, &context);
            }
        }
    }
    disk.call_off();
    // Everything acknowledged is durable: the power cut that ends every run finds it.
    drop(storage);
    disk.power_cut(random.next_u64());
    recover(&disk, &mut random, std::slice::from_ref(&model), &context);
    coverage.add(&disk.coverage());
    disk.operations()
}

fn assert_poisoned(storage: &mut Storage<SimDisk>, disk: &SimDisk) {
    let (operations, contents) = (disk.operations(), disk.contents());
    let vote = Record::HardState(HardState { term: u64::MAX, voted_for: None, joining: false });
    assert!(matches!(storage.append(&[vote]), Err(StorageError::Poisoned { .. })));
    assert!(matches!(storage.append(&[]), Err(StorageError::Poisoned { .. })));
    let snapshot = Snapshot { last_index: u64::MAX, last_term: 1, state: Command::noop(), members: None };
    assert!(matches!(
        storage.compact(&snapshot, HardState::default(), &[]),
        Err(StorageError::Poisoned { .. })
    ));
    assert_eq!(disk.operations(), operations, "a poisoned storage leaves the disk alone");
    assert_eq!(disk.contents(), contents);
}

#[test]
fn a_crash_at_each_operation_loses_nothing_that_was_acknowledged() {
    let mut coverage = Coverage::default();
    for seed in 0..60 {
        let operations = run(seed, None, &mut Coverage::default());
        for crash in 0..operations {
            run(seed, Some((Failure::Crash, crash)), &mut coverage);
        }
    }
    println!("{coverage}");
    for fault in coverage.missing() {
        assert!(fault == crate::disk::Fault::FullDisk, "{fault:?} never came to pass");
    }
}

#[test]
fn a_failed_write_or_fsync_at_each_operation_poisons_and_loses_nothing() {
    let mut coverage = Coverage::default();
    for seed in 100..130 {
        let operations = run(seed, None, &mut Coverage::default());
        for skip in 0..operations {
            run(seed, Some((Failure::Sync, skip)), &mut coverage);
            run(seed, Some((Failure::Write, skip)), &mut coverage);
        }
    }
    println!("{coverage}");
    for fault in [crate::disk::Fault::FailedSync, crate::disk::Fault::FailedWrite] {
        assert!(coverage.0.get(&fault).is_some_and(|&count| count > 500), "{fault:?} hardly came to pass");
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let trace = |seed| {
        let mut coverage = Coverage::default();
        (run(seed, Some((Failure::Crash, 17)), &mut coverage), coverage)
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed));
    }
}

fn entry(index: u64, text: &str) -> Record {
    Record::Entry(Entry { index, term: 1, command: Command::from_value(&text).expect("a text") })
}

fn first_term() -> Record {
    Record::HardState(HardState { term: 1, voted_for: Some(1), joining: false })
}

#[test]
fn a_full_disk_acknowledges_nothing_and_loses_nothing_wherever_it_ends() {
    let mut coverage = Coverage::default();
    let records = [entry(2, "second"), entry(3, "third")];
    for room in 0..400 {
        let disk = SimDisk::new(room);
        let (mut storage, _) = open(&disk).expect("a fresh directory");
        storage.append(&[first_term(), entry(1, "first")]).expect("there is room");
        disk.set_capacity(Some(disk.bytes() + room));
        let done = storage.append(&records);
        let snapshot = Snapshot { last_index: 1, last_term: 1, state: Command::noop(), members: None };
        let hard_state = HardState { term: 1, voted_for: Some(1), joining: false };
        let compacted = storage.compact(&snapshot, hard_state, &retained(&records));
        disk.kill();
        let poisoned = matches!(storage.append(&[]), Err(StorageError::Poisoned { .. }));
        drop(storage);
        disk.set_capacity(None);
        let (_, recovered) = open(&disk).expect("with room again, it opens");
        let model = Model::of(recovered);
        assert_eq!(model.hard_state, hard_state);
        match (done, compacted) {
            (Ok(()), Ok(())) => {
                assert!(!poisoned);
                assert_eq!((model.after(), model.last()), ((1, 1), (3, 1)), "room {room}");
            }
            (Ok(()), Err(error)) => {
                assert!(matches!(error, StorageError::Io { .. }), "{error}");
                assert!(poisoned);
                assert_eq!(model.last(), (3, 1), "room {room}");
            }
            (Err(error), compacted) => {
                assert!(error.to_string().contains("has room"), "{error}");
                assert!(matches!(compacted, Err(StorageError::Poisoned { .. })));
                assert!(model.last().0 >= 1 && model.last().0 <= 3, "room {room}");
            }
        }
        coverage.add(&disk.coverage());
    }
    assert!(coverage.0[&crate::disk::Fault::FullDisk] > 100, "{coverage}");
}

fn retained(records: &[Record]) -> Vec<Entry> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Entry(entry) => Some(entry.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_a_failed_fsync_left_in_the_page_cache_is_written_anew_before_it_is_relied_on() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).expect("a fresh directory");
    storage.append(&[first_term(), entry(1, "first")]).expect("a sound disk");
    disk.plan(Failure::Sync, 0);
    storage.append(&[entry(2, "second")]).expect_err("the fsync fails");
    drop(storage);
    // The process starts again, the machine does not: the second entry is visible, and believed to be on the disk.
    disk.kill();
    let (mut storage, recovered) = open(&disk).expect("it opens");
    assert_eq!(recovered.entries.len(), 2);
    storage.append(&[entry(3, "third")]).expect("the disk is sound again");
    drop(storage);
    for seed in 0..10 {
        disk.power_cut(seed);
        let (_, recovered) = open(&disk).expect("what was acknowledged is on the disk");
        assert_eq!(recovered.entries.len(), 3);
        assert!(!disk.contents().contains_key("suspect"), "the sign is taken away");
    }
}

fn hint(index: u64, term: u64) -> CommitHint {
    CommitHint { index, term, fresh_at: BootMoment { boot: "a boot".into(), ms: 1234 } }
}

#[test]
fn a_commit_hint_is_one_write_and_comes_back_with_its_entry_alone() {
    let disk = SimDisk::new(1);
    let (mut storage, recovered) = open(&disk).expect("a fresh directory");
    assert_eq!(recovered.commit, None);
    storage.append(&[first_term(), entry(1, "first"), entry(2, "second")]).expect("a sound disk");
    storage.remember(&hint(2, 1)).expect("a sound disk");
    let before = disk.operations();
    storage.remember(&hint(2, 1)).expect("a sound disk");
    assert_eq!(disk.operations(), before + 1, "one write, no sync");
    storage.append(&[entry(3, "third")]).expect("a sound disk");
    drop(storage);
    let file = disk.contents()["commit"].clone();
    let commit = |disk: &SimDisk| open(disk).expect("a hint never stops a start").1.commit;
    assert_eq!(commit(&disk), Some(hint(2, 1)));
    let mut behind_a_longer_one = file.clone();
    behind_a_longer_one.extend(b"987}}}\n");
    disk.put("commit", &behind_a_longer_one);
    assert_eq!(commit(&disk), Some(hint(2, 1)), "the first line counts");
    // Torn at any byte, flipped at any byte: lost.
    for byte in 0..file.len() - 1 {
        disk.put("commit", &file[..byte]);
        assert_eq!(commit(&disk), None, "cut to {byte} bytes");
        assert!(!disk.contents().contains_key("commit"), "what is not honoured is removed");
        let mut flipped = file.clone();
        flipped[byte] ^= 1;
        disk.put("commit", &flipped);
        assert_eq!(commit(&disk), None, "byte {byte}");
    }
}

#[test]
fn a_commit_hint_without_its_entry_is_not_honoured() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).expect("a fresh directory");
    storage.append(&[first_term(), entry(1, "first"), entry(2, "second")]).expect("a sound disk");
    let shorter = disk.contents()["log"].clone();
    storage.append(&[entry(3, "third")]).expect("a sound disk");
    storage.remember(&hint(3, 1)).expect("a sound disk");
    drop(storage);
    let file = disk.contents()["commit"].clone();
    // An older copy of the log was put back.
    disk.put("log", &shorter);
    assert_eq!(open(&disk).expect("it opens").1.commit, None);
    // The log was removed: the directory is a new one, and has another incarnation.
    let mut without = disk.clone();
    rakit::storage::Disk::remove(&mut without, "log").expect("it is there");
    disk.put("commit", &file);
    let another = Fresh { incarnation: INCARNATION + 1, records: Vec::new() };
    let (mut storage, recovered) = Storage::open(disk.clone(), &identity(), another).expect("fresh");
    assert!(recovered.fresh && recovered.commit.is_none());
    storage
        .append(&[first_term(), entry(1, "another"), entry(2, "another"), entry(3, "another")])
        .expect("a sound disk");
    drop(storage);
    disk.put("commit", &file);
    assert_eq!(open(&disk).expect("it opens").1.commit, None, "another directory's hint");
}

#[test]
fn what_was_said_to_be_committed_is_never_truncated_and_what_is_not_there_never_said() {
    let disk = SimDisk::new(1);
    let open_with = || {
        let (mut storage, _) = open(&disk).expect("it opens");
        if storage.shape().last_index() == 0 {
            storage.append(&[first_term(), entry(1, "first"), entry(2, "second")]).expect("a sound disk");
        }
        storage
    };
    for wrong in [hint(3, 1), hint(2, 2)] {
        assert!(matches!(open_with().remember(&wrong), Err(StorageError::Refused(_))), "{wrong:?}");
    }
    open_with().remember(&hint(2, 1)).expect("a sound disk");
    // The next process knows it, too.
    let refused = open_with().append(&[Record::Truncate { from: 2 }]);
    assert!(matches!(refused, Err(StorageError::Refused(_))), "{refused:?}");
}

#[test]
fn an_append_is_one_write_and_one_fsync_and_nothing_is_none() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).expect("a fresh directory");
    let before = disk.operations();
    storage.append(&[]).expect("nothing to do");
    assert_eq!(disk.operations(), before);
    let records: Vec<_> =
        std::iter::once(first_term()).chain((1..=256).map(|index| entry(index, "x"))).collect();
    storage.append(&records).expect("a sound disk");
    assert_eq!(disk.operations(), before + 2);
}

#[test]
fn a_compaction_of_the_own_log_is_done_in_small_steps_and_what_is_appended_meanwhile_is_kept() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).expect("a fresh directory");
    storage.append(&[first_term(), entry(1, "first"), entry(2, "second")]).expect("a sound disk");
    let snapshot = Arc::new(Snapshot { last_index: 1, last_term: 1, state: Command::noop(), members: None });
    let hard_state = HardState { term: 1, voted_for: Some(1), joining: false };
    let retained = retained(&[entry(2, "second")]);
    let before = disk.operations();
    storage.make_durable(vec![Durable::Compact { snapshot, hard_state, retained }]).expect("a sound disk");
    assert_eq!(disk.operations(), before, "nothing waits for it: the log holds everything");
    for index in 3.. {
        storage.append(&[entry(index, "meanwhile")]).expect("a sound disk");
        let before = disk.operations();
        let goes_on = storage.continue_compaction().expect("a sound disk");
        assert!(disk.operations() - before <= 6, "a step is small");
        if !goes_on {
            assert_eq!(index, 5, "in three steps");
            break;
        }
    }
    storage.append(&[entry(6, "afterwards")]).expect("a sound disk");
    drop(storage);
    disk.power_cut(1);
    let (_, recovered) = open(&disk).expect("it opens");
    assert_eq!(recovered.snapshot.expect("it is there").last_index, 1);
    assert_eq!(recovered.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    let names: Vec<_> = disk.contents().into_keys().collect();
    assert_eq!(names, ["log", "snapshot-00000000000000000001.json"]);
}

#[test]
fn the_disk_stays_bounded_when_it_is_compacted() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).expect("a fresh directory");
    storage.append(&[first_term()]).expect("a sound disk");
    let hard_state = HardState { term: 1, voted_for: Some(1), joining: false };
    for index in 1..=1000 {
        storage.append(&[entry(index, "report")]).expect("a sound disk");
        if index % 10 == 0 {
            let snapshot =
                Snapshot { last_index: index, last_term: 1, state: Command::noop(), members: None };
            storage.compact(&snapshot, hard_state, &[]).expect("a sound disk");
            let names: Vec<_> = disk.contents().into_keys().collect();
            assert_eq!(names, ["log".to_owned(), format!("snapshot-{index:020}.json")]);
        }
        assert!(disk.bytes() < 2000, "{} bytes after entry {index}", disk.bytes());
    }
}
