//! Every kind of bytes that somebody else writes, changed at random: a request's head, bodies, the files of a node, cluster.toml,
//! seals. `targets.rs` says what must hold; `corpus/` has sound examples, and all that was ever found.
//!
//! In `cargo test` it is a bounded number of inputs, the same ones in each run. For more, and others:
//!
//! ```text
//! RAKIT_FUZZ_INPUTS=1000000 RAKIT_FUZZ_SEED=7 cargo test --release --test fuzz -- log
//! ```
//!
//! An input that breaks a promise is kept in `target/fuzz`. With a nightly compiler, libFuzzer looks for new paths through
//! the code: docs/testing.md, "Fuzzing".

mod memory_disk;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rakit::raft::Random;

/// How many inputs of each target in `cargo test`.
const INPUTS: u64 = 10_000;
/// At most so many changes to one seed. One alone is as likely as all others together: several seldom leave a sound input.
const CHANGES_MAX: u64 = 5;
/// No input is longer, in bytes.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// No piece that is copied from a seed is longer, in bytes.
const PIECE_BYTES_MAX: u64 = 64;

/// What a parser may have forgotten.
const WORDS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "255",
    "65536",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "-0.0",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\\u0000",
    "\r\n",
    "\n",
    "\0",
    "\u{1b}[2J",
    "\u{feff}",
    ": ",
    "é",
];

#[test]
fn head() {
    run("head");
}

#[test]
fn chunked() {
    run("chunked");
}

#[test]
fn report() {
    run("report");
}

#[test]
fn rpc() {
    run("rpc");
}

#[test]
fn log() {
    run("log");
}

#[test]
fn snapshot() {
    run("snapshot");
}

/// But for those that say so in their names: a seed that is refused at its first line would lead nowhere.
#[test]
fn a_node_starts_with_the_seeds_of_the_disk() {
    for (path, seed) in seeds("log").into_iter().chain(seeds("snapshot")) {
        let is_log = path.parent().is_some_and(|directory| directory.ends_with("log"));
        let is_refused = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("refused"));
        let taken = if is_log { targets::log_is_taken } else { targets::snapshot_is_taken };
        assert_eq!(taken(&seed), !is_refused, "{}", path.display());
    }
}

#[test]
fn configuration() {
    run("configuration");
}

#[test]
fn seal() {
    run("seal");
}

#[track_caller]
fn run(name: &str) {
    let (_, target) = targets::ALL.into_iter().find(|(known, _)| *known == name).expect("a target");
    let (paths, seeds): (Vec<PathBuf>, Vec<Vec<u8>>) = seeds(name).into_iter().unzip();
    for (path, seed) in paths.iter().zip(&seeds) {
        assert!(holds(target, seed), "{} breaks a promise: the panic above says which", path.display());
    }
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().expect("a number"));
    let inputs = number("RAKIT_FUZZ_INPUTS").unwrap_or(INPUTS);
    let mut random = Random::new(number("RAKIT_FUZZ_SEED").unwrap_or(1));
    for _ in 0..inputs {
        let mut input = pick(&seeds, &mut random).clone();
        let changes = if random.below(2) == 0 { 1 } else { 2 + random.below(CHANGES_MAX - 1) };
        for _ in 0..changes {
            change(&mut input, &seeds, &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        if !holds(target, &input) {
            panic!("{} breaks a promise: the panic above says which", kept(name, &input).display());
        }
    }
}

/// The corpus of a target, in the order of its names.
fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let files = std::fs::read_dir(&corpus).expect("the seeds").map(|file| file.expect("readable").path());
    let mut seeds: Vec<_> =
        files.map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect();
    seeds.sort();
    seeds
}

fn holds(target: fn(&[u8]), input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(input))).is_ok()
}

/// Writes an input to a file of its own.
fn kept(name: &str, input: &[u8]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../fuzz");
    std::fs::create_dir_all(&directory).expect("our own directory");
    let path = directory.join(format!("{name}-{:08x}", crc32fast::hash(input)));
    std::fs::write(&path, input).expect("our own directory");
    path
}

fn pick<'a, T>(from: &'a [T], random: &mut Random) -> &'a T {
    &from[random.below(from.len() as u64) as usize]
}

/// A place in so many bytes, or behind them.
fn place(bytes: usize, random: &mut Random) -> usize {
    random.below(bytes as u64 + 1) as usize
}

/// A short range in so many bytes.
fn range(bytes: usize, random: &mut Random) -> std::ops::Range<usize> {
    let start = place(bytes, random);
    start..(start + 1 + random.below(PIECE_BYTES_MAX) as usize).min(bytes)
}

/// One change.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = place(input.len(), random);
    match random.below(10) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next_u64() as u8,
        2 => drop(input.drain(range(input.len(), random))),
        3 => {
            let piece = input[range(input.len(), random)].to_vec();
            drop(input.splice(at..at, piece));
        }
        4 => {
            let other = pick(seeds, random);
            let piece = other[range(other.len(), random)].to_vec();
            drop(input.splice(at..at, piece));
        }
        5 => drop(input.splice(at..at, pick::<&str>(&WORDS, random).bytes())),
        6..=8 => replace_number(input, random),
        _ => input.truncate(at),
    }
}

/// Puts a word in the place of one of the numbers, or of a null.
fn replace_number(input: &mut Vec<u8>, random: &mut Random) {
    let is_null = |at: usize| input[at..].starts_with(b"null");
    let begins = |at: &usize| input[*at].is_ascii_digit() && (*at == 0 || !input[*at - 1].is_ascii_digit());
    let starts: Vec<usize> = (0..input.len()).filter(|at| begins(at) || is_null(*at)).collect();
    if starts.is_empty() {
        return;
    }
    let start = *pick(&starts, random);
    let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = if is_null(start) { "null".len() } else { digits };
    drop(input.splice(start..start + length, pick::<&str>(&WORDS, random).bytes()));
}
