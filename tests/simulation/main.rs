//! A whole cluster in one thread: real cores, the real server table, the real storage, on a simulated disk, network and
//! clock, all of it driven by one seed. docs/testing.md ("The simulator") tells what is simulated, which faults there
//! are and what is checked.
//!
//! ```text
//! cargo test --test simulation                                               a few hundred seeds
//! RAKIT_SIM_SEEDS=10000 cargo test --release --test simulation -- --nocapture     any number
//! RAKIT_SIM_FIRST=4711 RAKIT_SIM_SEEDS=1 cargo test --test simulation -- --nocapture   just this one
//! ```

#![allow(clippy::too_many_arguments)]

mod agreement;
mod behaviour;
mod compaction;
mod coverage;
mod daemon;
mod disk;
mod faults;
mod network;
mod oracle;
mod phases;
mod plan;
mod process;
mod slow_link;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use behaviour::Behaviour;
use phases::{Done, run};
use plan::Plan;
use trace::Trace;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 300;

/// With fewer seeds than this, a rare kind of fault may never happen.
const SEEDS_FOR_COVERAGE: u64 = 200;

/// Seeds are independent of each other; so many are run at a time. Each has one thread to itself.
const THREADS_MAX: usize = 2;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Why a seed failed, if it did.
fn attempt(seed: u64, trace: Trace) -> Result<Done, String> {
    record(Plan::draw(seed), trace, Behaviour::default())
}

fn record(plan: Plan, trace: Trace, behaviour: Behaviour) -> Result<Done, String> {
    catch_unwind(AssertUnwindSafe(|| run(plan, trace, behaviour))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no reason given".to_owned())
    })
}

/// A failed seed, for a person to read: run once more, this time with a transcript.
fn explain(seed: u64, reason: &str) -> String {
    let trace = Trace::on();
    let again = attempt(seed, trace.clone()).err();
    format!(
        "{}\n\nseed {seed} failed: {reason}\n{}rerun just this one: RAKIT_SIM_FIRST={seed} RAKIT_SIM_SEEDS=1 cargo test \
         --test simulation -- --nocapture seeds",
        trace.tail(),
        if again.as_deref() == Some(reason) { "" } else { "AND DIFFERENTLY THE SECOND TIME\n" },
    )
}

#[test]
fn seeds_break_nothing_and_make_progress() {
    let (first, count) = (number("RAKIT_SIM_FIRST").unwrap_or(1), number("RAKIT_SIM_SEEDS").unwrap_or(SEEDS));
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let total = Mutex::new(Done::default());
    let failure = Mutex::new(None::<(u64, String)>);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            match attempt(seed, Trace::off()) {
                Ok(done) => {
                    let mut total = total.lock().expect("no holder panics");
                    total.steps += done.steps;
                    total.committed += done.committed;
                    total.simulated += done.simulated;
                    total.progress = total.progress.max(done.progress);
                    total.coverage.add(&done.coverage);
                }
                Err(reason) => {
                    failed.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().expect("no holder panics");
                    if failure.as_ref().is_none_or(|(earlier, _)| seed < *earlier) {
                        *failure = Some((seed, reason));
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some((seed, reason)) = failure.into_inner().expect("no holder panics") {
        let tried = next.load(Ordering::Relaxed).min(first + count) - first;
        panic!("{}\n(after {tried} seeds)", explain(seed, &reason));
    }
    let total = total.into_inner().expect("no holder panics");
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", total.coverage);
    println!(
        "{count} seeds from {first} in {seconds:.1} s on {threads} threads: {:.1} seeds/s, {:.0} steps/s; {} steps, {} entries \
         committed, {:.0} s simulated; progress at the latest {} ms after the healing",
        count as f64 / seconds,
        total.steps as f64 / seconds,
        total.steps,
        total.committed,
        total.simulated as f64 / 1e6,
        total.progress / 1_000
    );
    let missing = total.coverage.missing(count);
    assert!(count < SEEDS_FOR_COVERAGE || missing.is_empty(), "these never happened: {missing:#?}");
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    let first = number("RAKIT_SIM_FIRST").unwrap_or(1);
    let mut fingerprints = Vec::new();
    for seed in first..first + 10 {
        let fingerprint = || {
            let trace = Trace::on();
            let outcome = attempt(seed, trace.clone()).map(|done| (done.steps, done.committed));
            (trace.fingerprint(), outcome)
        };
        let (one, other) = (fingerprint(), fingerprint());
        assert_eq!(one, other, "seed {seed}");
        assert!(one.0.0 > 10, "a transcript with something in it (a node that is alone says little)");
        fingerprints.push(one.0.1);
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 10, "another seed is another world");
}

/// Writes what each seed did for the specification in docs/spec, one file for each. `python3 tests/spec.py traces` runs this, and
/// then TLC. A seed that fails is written up to where it failed: what the specification says of it may be the reason.
#[test]
#[ignore = "writes files for TLC: python3 tests/spec.py traces"]
fn traces_for_the_specification() {
    let directory = std::env::var("RAKIT_SIM_TRACES").expect("RAKIT_SIM_TRACES names a directory");
    let (first, count) = (number("RAKIT_SIM_FIRST").unwrap_or(1), number("RAKIT_SIM_SEEDS").unwrap_or(SEEDS));
    for seed in first..first + count {
        let plan = Plan::draw(seed);
        let (founders, nodes, behaviour) = (plan.nodes, plan.machines(), Behaviour::on(&plan));
        if let Err(reason) = record(plan, Trace::off(), behaviour.clone()) {
            println!("seed {seed} failed: {reason}");
        }
        let file = format!("{directory}/seed-{seed}-founders-{founders}-nodes-{nodes}.trace");
        std::fs::write(&file, behaviour.lines()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
