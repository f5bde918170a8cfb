//! Cuts the files of a directory at every byte, and changes every byte. The storage must recover all that was
//! acknowledged, or refuse and name file and byte offset. It must never start with a part of what was acknowledged.

use crate::disk::SimDisk;
use rakit::linux::BootMoment;
use rakit::raft::{Command, Entry, Founding, HardState, Record, Snapshot};
use rakit::storage::{
    CommitHint, DirectoryDisk, Disk, Fresh, Identity, LOG, Recovered, Storage, StorageError,
};

/// The changes of each byte: every single bit, all bits, and the characters that mean something in the format.
fn damages(byte: u8) -> Vec<u8> {
    let mut damages: Vec<u8> = (0..8).map(|bit| byte ^ 1 << bit).collect();
    damages.extend([byte ^ 0xff, 0, b'\n', b' ', b'0', b'"', b'}']);
    damages.retain(|&damaged| damaged != byte);
    damages
}

fn identity() -> Identity {
    Identity { founding: Founding::new("lab", [1, 2, 3]), node: 1 }
}

fn open<D: Disk>(disk: D) -> Result<(Storage<D>, Recovered), StorageError> {
    Storage::open(disk, &identity(), Fresh { incarnation: 7, records: Vec::new() })
}

fn hard_state(term: u64, voted_for: Option<u64>) -> Record {
    Record::HardState(HardState { term, voted_for, joining: false })
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, command: Command::from_value(&format!("report {index}")).expect("a text") }
}

/// The history that the tests damage: it has every kind of record.
fn write_history(storage: &mut Storage<impl Disk>) {
    let batches = [
        vec![hard_state(1, None)],
        vec![hard_state(1, Some(2)), Record::Entry(entry(1, 1)), Record::Entry(entry(2, 1))],
        vec![hard_state(3, Some(1)), Record::Truncate { from: 2 }, Record::Entry(entry(2, 3))],
        vec![Record::Entry(entry(3, 3))],
    ];
    for batch in batches {
        storage.append(&batch).expect("a sound disk");
    }
}

fn compact(storage: &mut Storage<impl Disk>) {
    let state = Command::from_value(&"the table").expect("a text");
    let snapshot = Snapshot { last_index: 2, last_term: 3, state, members: None };
    let hard_state = HardState { term: 3, voted_for: Some(1), joining: false };
    storage.compact(&snapshot, hard_state, &[entry(3, 3)]).expect("a sound disk");
}

/// A directory with a log, or with a snapshot and a log after it, and what it means.
fn directory(compacted: bool) -> (SimDisk, Recovered) {
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(disk.clone()).expect("a fresh directory");
    write_history(&mut storage);
    if compacted {
        compact(&mut storage);
    }
    drop(storage);
    let (_, recovered) = open(disk.clone()).expect("it is sound");
    assert!(recovered.repaired.is_none() && !recovered.fresh);
    (disk, recovered)
}

/// The same files on a disk of their own, with `bytes` as the contents of `name`.
fn copy_with(disk: &SimDisk, name: &str, bytes: &[u8]) -> SimDisk {
    let copy = SimDisk::new(0);
    for (other, contents) in disk.contents() {
        copy.put(&other, if other == name { bytes } else { &contents });
    }
    copy
}

/// Where the line that holds the byte at `offset` begins. A newline belongs to the line that it ends.
fn line_start(bytes: &[u8], offset: usize) -> u64 {
    bytes[..offset].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline as u64 + 1)
}

/// Where the line that begins at `start` ends, with its newline.
fn line_end(bytes: &[u8], start: usize) -> usize {
    start + bytes[start..].iter().position(|&byte| byte == b'\n').expect("a whole line") + 1
}

fn assert_refused(
    result: Result<(Storage<SimDisk>, Recovered), StorageError>,
    name: &str,
    start: u64,
    context: &str,
) {
    match result {
        Err(StorageError::Corrupt { file, offset, .. }) => {
            assert_eq!((file.as_str(), offset), (name, start), "{context}");
        }
        Err(error) => panic!("{context}: refused for another reason: {error}"),
        Ok((_, recovered)) => panic!("{context}: accepted as {recovered:#?}"),
    }
}

#[test]
fn each_flipped_byte_is_refused_with_file_and_offset_and_nothing_is_touched() {
    for compacted in [false, true] {
        let (disk, recovered) = directory(compacted);
        for (name, bytes) in disk.contents() {
            for offset in 0..bytes.len() {
                for damaged in damages(bytes[offset]) {
                    let mut with_damage = bytes.clone();
                    with_damage[offset] = damaged;
                    let copy = copy_with(&disk, &name, &with_damage);
                    let before = copy.contents();
                    let context =
                        format!("{name}, byte {offset} from {:#04x} to {damaged:#04x}", bytes[offset]);
                    let result = open(copy.clone());
                    if name == LOG && offset + 1 == bytes.len() && damaged == 0 {
                        // After a power cut there may be a zero in place of the last newline: the record is whole and
                        // is kept.
                        let (_, mut found) = result.expect(&context);
                        assert!(found.repaired.take().is_some_and(|repair| repair.bytes_cut == 0));
                        assert_eq!(found, recovered, "{context}");
                        continue;
                    }
                    // The snapshot is one line, whatever newlines the damage puts into it.
                    let start = if name == LOG { line_start(&bytes, offset) } else { 0 };
                    assert_refused(result, &name, start, &context);
                    assert_eq!(copy.contents(), before, "{context}: a refused directory is left as it was");
                }
            }
        }
    }
}

#[test]
fn each_cut_of_the_log_keeps_every_whole_record() {
    for compacted in [false, true] {
        let (disk, _) = directory(compacted);
        let bytes = disk.contents()[LOG].clone();
        let (header, term) = (line_end(&bytes, 0), line_end(&bytes, line_end(&bytes, 0)));
        for length in 0..bytes.len() {
            let context = format!("cut to {length} bytes");
            let cut = &bytes[..length];
            let copy = copy_with(&disk, LOG, cut);
            // A log gets its name after its header is durable, and after a snapshot also its term: no crash cuts them.
            if length < header || (compacted && length < term - 1) {
                assert_refused(open(copy), LOG, 0, &context);
                continue;
            }
            // A record whose newline alone is missing is whole.
            let whole = if bytes[length] == b'\n' { length + 1 } else { line_start(&bytes, length) as usize };
            let expected = open(copy_with(&disk, LOG, &bytes[..whole])).expect("whole lines").1;
            assert_eq!(expected.repaired, None);

            let (mut storage, mut found) = open(copy.clone()).expect(&context);
            match found.repaired.take() {
                None => assert_eq!(whole, length, "{context}"),
                Some(repair) if repair.bytes_cut == 0 => {
                    assert_eq!((repair.offset, whole), (length as u64, length + 1), "{context}");
                }
                Some(repair) => {
                    assert_eq!((repair.offset, repair.bytes_cut), (whole as u64, (length - whole) as u64));
                    assert!(repair.to_string().contains("never acknowledged"), "{repair}");
                }
            }
            assert_eq!(found, expected, "{context}");
            // The next record connects, and the next opening has nothing to mend.
            storage.append(&[hard_state(9, Some(4))]).expect("a sound disk");
            drop(storage);
            copy.power_cut(1);
            let (_, again) = open(copy).expect(&context);
            assert_eq!(again.hard_state, HardState { term: 9, voted_for: Some(4), joining: false });
            assert_eq!((again.entries, again.repaired), (expected.entries, None), "{context}");
        }
    }
}

#[test]
fn each_cut_of_a_snapshot_is_refused() {
    let (disk, _) = directory(true);
    let (name, bytes) =
        disk.contents().into_iter().find(|(name, _)| name.starts_with("snapshot")).expect("there is one");
    for length in 0..bytes.len() {
        assert_refused(
            open(copy_with(&disk, &name, &bytes[..length])),
            &name,
            0,
            &format!("cut to {length} bytes"),
        );
    }
    let mut longer = bytes.clone();
    longer.push(b'\n');
    assert_refused(open(copy_with(&disk, &name, &longer)), &name, 0, "a line more");
}

#[test]
fn zeros_at_the_end_are_what_a_power_cut_leaves() {
    let (disk, recovered) = directory(false);
    let bytes = disk.contents()[LOG].clone();
    let last = line_start(&bytes, bytes.len() - 1) as usize;
    let before_last = open(copy_with(&disk, LOG, &bytes[..last])).expect("whole lines").1;
    for zeros in [1, 2, 512, 5000] {
        for (kept, expected, cut) in [
            // Behind the last newline; in place of it; from the middle of the last record.
            (bytes.len(), &recovered, zeros),
            (bytes.len() - 1, &recovered, 0),
            (bytes.len() - 5, &before_last, bytes.len() - 5 - last + zeros),
        ] {
            let mut contents = bytes[..kept].to_vec();
            contents.resize(kept + zeros, 0);
            let copy = copy_with(&disk, LOG, &contents);
            let (_, mut found) = open(copy.clone()).expect("it is mended");
            let repair = found.repaired.take().expect("something was mended");
            assert_eq!(repair.bytes_cut, cut as u64, "{zeros} zeros after {kept} bytes");
            assert_eq!(&found, expected);
            assert!(!copy.contents()[LOG].contains(&0));
        }
    }
    // Zeros in the middle are not.
    let mut contents = bytes.clone();
    contents[last - 4..last].fill(0);
    assert_refused(
        open(copy_with(&disk, LOG, &contents)),
        LOG,
        line_start(&bytes, last - 1),
        "zeros in the middle",
    );
}

const SECTOR: usize = 512;

/// A log whose last append spans several sectors; where that append begins; and what was there before it.
fn with_a_long_last_append() -> (SimDisk, Vec<u8>, usize, Recovered) {
    let (disk, _) = directory(false);
    let (mut storage, before) = open(disk.clone()).expect("it is sound");
    let start = disk.contents()[LOG].len();
    let long: Vec<_> = (4..40).map(|index| Record::Entry(entry(index, 3))).collect();
    storage.append(&long).expect("a sound disk");
    let bytes = disk.contents()[LOG].clone();
    assert!(bytes.len() > start + 3 * SECTOR);
    (disk, bytes, start, before)
}

#[test]
fn zeros_before_whole_lines_of_the_last_append_are_cut_with_what_follows_them() {
    let (disk, bytes, start, before) = with_a_long_last_append();
    let sectors: Vec<usize> = (start..bytes.len()).filter(|at| at % SECTOR == 0).collect();
    for (from, to) in
        [(start, sectors[0]), (start, sectors[1]), (sectors[0], sectors[1]), (sectors[1], sectors[2])]
    {
        let mut holed = bytes.clone();
        holed[from..to].fill(0);
        let copy = copy_with(&disk, LOG, &holed);
        let (mut storage, mut found) = open(copy.clone()).expect("nobody acknowledged it");
        let keep = line_start(&bytes, from);
        let repair = found.repaired.take().expect("it says so");
        assert_eq!((repair.offset, repair.bytes_cut), (keep, bytes.len() as u64 - keep), "{from} to {to}");
        // What was acknowledged, and what is whole before the zeros.
        assert_eq!(found.entries[..before.entries.len()], before.entries);
        assert_eq!(copy.contents()[LOG], bytes[..keep as usize]);
        let next = found.entries.last().expect("some").index + 1;
        storage.append(&[Record::Entry(entry(next, 3))]).expect("it goes on");
        drop(storage);
        let (_, again) = open(copy).expect("it is sound");
        assert_eq!((again.entries.last().expect("some").index, again.repaired), (next, None));
    }
}

#[test]
fn zeros_in_what_was_durable_are_refused() {
    let (disk, bytes, start, _) = with_a_long_last_append();
    let sector = start.next_multiple_of(SECTOR);
    let mut holed = bytes.clone();
    holed[sector..sector + SECTOR].fill(0);
    let refused = |disk: &SimDisk, holed: &[u8], at: usize, why: &str| {
        let copy = copy_with(disk, LOG, holed);
        let before = copy.contents();
        assert_refused(open(copy.clone()), LOG, line_start(&bytes, at), why);
        assert_eq!(copy.contents(), before, "{why}: it is left as it was");
    };
    // A later append stands behind it.
    let (mut storage, _) = open(disk.clone()).expect("it is sound");
    let shape = storage.shape().last_index();
    storage.append(&[Record::Entry(entry(shape + 1, 3))]).expect("a sound disk");
    let mut longer = disk.contents()[LOG].clone();
    longer[sector..sector + SECTOR].fill(0);
    refused(&disk, &longer, sector, "a later append");
    // Also if the zeros end where its one line begins.
    let mut longer = disk.contents()[LOG].clone();
    longer[sector..bytes.len()].fill(0);
    if bytes.len().is_multiple_of(SECTOR) {
        refused(&disk, &longer, sector, "zeros up to the later append");
    }

    // The commit hint names an entry behind it.
    let (disk, _, _, _) = with_a_long_last_append();
    let (mut storage, _) = open(disk.clone()).expect("it is sound");
    let fresh_at = BootMoment { boot: String::new(), ms: 0 };
    storage.remember(&CommitHint { index: 39, term: 3, fresh_at }).expect("a sound disk");
    refused(&disk, &holed, sector, "said to be committed");

    // It stood there when the log got its name.
    let (disk, ..) = with_a_long_last_append();
    let (mut storage, recovered) = open(disk.clone()).expect("it is sound");
    let snapshot = Snapshot { last_index: 1, last_term: 1, state: Command::noop(), members: None };
    storage.compact(&snapshot, recovered.hard_state, &recovered.entries[1..]).expect("a sound disk");
    let compacted = disk.contents()[LOG].clone();
    let mut holed = compacted.clone();
    holed[SECTOR..2 * SECTOR].fill(0);
    assert_refused(
        open(copy_with(&disk, LOG, &holed)),
        LOG,
        line_start(&compacted, SECTOR),
        "a log that was written whole",
    );
}

/// All checksums in these are right, but the lines contradict each other.
#[test]
fn whole_lines_that_cannot_follow_each_other_are_refused() {
    let (disk, _) = directory(false);
    let bytes = disk.contents()[LOG].clone();
    let text = String::from_utf8(bytes).expect("it is text");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for removed in 1..lines.len() - 1 {
        let rest: Vec<&str> =
            lines.iter().enumerate().filter(|(at, _)| *at != removed).map(|(_, line)| *line).collect();
        let result = open(copy_with(&disk, LOG, rest.concat().as_bytes()));
        // Some records can be lost without a trace in what follows: an intermediate term, for one.
        let can_be_told = !lines[removed].contains("hard_state");
        assert!(result.is_err() || !can_be_told, "without line {removed}: {}", lines[removed]);
    }
    for doubled in 1..lines.len() {
        if lines[doubled].contains("entry") || lines[doubled].contains("truncate") {
            let mut more = lines.clone();
            more.insert(doubled, lines[doubled]);
            let offset: usize = lines[..=doubled].iter().map(|line| line.len()).sum();
            let result = open(copy_with(&disk, LOG, more.concat().as_bytes()));
            if lines[doubled].contains("truncate") {
                assert!(result.is_err());
            } else {
                assert_refused(result, LOG, offset as u64, lines[doubled]);
            }
        }
    }
    // A second header, an unknown record, JSON that is none.
    for json in
        [&lines[0][9..lines[0].len() - 1], r#"{"entry":{"index":4,"term":3}}"#, r#"{"vote":1}"#, "{", ""]
    {
        let body = format!("{} {json}", text.len());
        let line = format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes()));
        let result = open(copy_with(&disk, LOG, (text.clone() + &line).as_bytes()));
        assert_refused(result, LOG, text.len() as u64, json);
    }
}

#[test]
fn a_log_without_its_snapshot_and_a_snapshot_without_its_log_are_refused() {
    let (disk, _) = directory(true);
    let name = "snapshot-00000000000000000002.json";
    let mut without = disk.clone();
    without.remove(name).expect("it is there");
    assert_refused(open(without), LOG, 0, "no snapshot");

    let (disk, _) = directory(true);
    let mut without = disk.clone();
    without.remove(LOG).expect("it is there");
    assert_refused(open(without), LOG, 0, "no log");

    // Also when the log holds no entry that would not connect.
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(disk.clone()).expect("a fresh directory");
    write_history(&mut storage);
    let snapshot = Snapshot { last_index: 3, last_term: 3, state: Command::noop(), members: None };
    storage
        .compact(&snapshot, HardState { term: 3, voted_for: Some(1), joining: false }, &[])
        .expect("a sound disk");
    drop(storage);
    disk.clone().remove("snapshot-00000000000000000003.json").expect("it is there");
    assert_refused(open(disk), LOG, 0, "no snapshot, and an empty log");
}

#[test]
fn a_damaged_newest_snapshot_is_not_replaced_by_an_older_one() {
    let (disk, recovered) = directory(true);
    let older = "snapshot-00000000000000000001.json";
    let contents = disk.contents()["snapshot-00000000000000000002.json"].clone();
    disk.put(older, b"whatever an older one holds");
    let newest = "snapshot-00000000000000000002.json";
    assert_refused(open(copy_with(&disk, newest, &contents[..20])), newest, 0, "damaged");
    // Whole, it counts, and the older one is removed.
    let (_, found) = open(disk.clone()).expect("the newest is sound");
    assert_eq!(found, recovered);
    assert!(!disk.contents().contains_key(older));
    // A snapshot under another one's name would take the node to another index than its name says.
    disk.put("snapshot-00000000000000000003.json", &contents);
    assert_refused(open(disk), "snapshot-00000000000000000003.json", 0, "another's name");
}

#[test]
fn unfinished_files_are_removed_and_foreign_ones_left_alone() {
    let (disk, recovered) = directory(true);
    for name in
        ["log.new", "snapshot-00000000000000000009.json.new", "notes.txt", "notes.new", "snapshot-1.json"]
    {
        disk.put(name, b"half");
    }
    let (_, found) = open(disk.clone()).expect("it is sound");
    assert_eq!(found, recovered);
    let names: Vec<_> = disk.contents().into_keys().collect();
    assert_eq!(
        names,
        ["log", "notes.new", "notes.txt", "snapshot-00000000000000000002.json", "snapshot-1.json"]
    );
}

/// The same on a real file system, with fewer damages.
#[test]
fn cuts_and_flips_on_a_real_directory() {
    let (disk, recovered) = directory(true);
    let bytes = disk.contents()[LOG].clone();
    let place = tempfile::tempdir().expect("a temporary directory");
    let write = |contents: &[u8]| {
        for (name, sound) in disk.contents() {
            let contents = if name == LOG { contents } else { &sound };
            std::fs::write(place.path().join(name), contents).expect("the file system takes it");
        }
    };
    let open_real = || DirectoryDisk::open(place.path()).and_then(open);
    for length in (0..bytes.len()).step_by(7).chain([bytes.len() - 1, bytes.len()]) {
        write(&bytes[..length]);
        match open_real() {
            Err(StorageError::Corrupt { file, offset, .. }) => {
                assert_eq!((file, offset), (place.path().join(LOG).display().to_string(), 0));
                let term = line_end(&bytes, line_end(&bytes, 0));
                assert!(
                    length < term - 1,
                    "only a header or a term can be missed after a cut, not {length} bytes"
                );
            }
            Err(error) => panic!("{error}"),
            Ok((mut storage, _)) => {
                storage.append(&[hard_state(9, None)]).expect("the file system is sound");
                drop(storage);
                let (_, again) = open_real().expect("it was mended");
                assert_eq!((again.hard_state.term, again.repaired), (9, None));
            }
        }
    }
    for offset in (0..bytes.len()).step_by(11).chain([bytes.len() - 1]) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        write(&damaged);
        let Err(StorageError::Corrupt { offset: found, .. }) = open_real() else {
            panic!("byte {offset} accepted")
        };
        assert_eq!(found, line_start(&bytes, offset));
        assert_eq!(std::fs::read(place.path().join(LOG)).expect("it can be read"), damaged, "left as it was");
    }
    write(&bytes);
    assert_eq!(open_real().expect("undamaged").1, recovered);
}
