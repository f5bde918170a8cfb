//! Part `idle`: what five nodes and three daemons cost while nobody asks for anything.

use std::time::{Duration, Instant};

use crate::Fallible;
use crate::members::{Programs, System};
use crate::part::{Figure, Layout, Part, Setup};
use crate::process::cost;
use crate::results::Results;
use crate::stack::{Stack, THREE};

pub const PART: Part = Part {
    name: "idle",
    about: "processor time and memory of nodes, daemons and workers while nobody asks",
    layout: Layout::OneTable,
    figures: &[Figure::new("% of a core", 2), Figure::new("memory MB", 1)],
    plots: &[],
    run,
};

pub const SETTING: &str = "five nodes, three servers, no requests";

const ROUNDS: usize = 2;
const SECONDS: u64 = 30;
const SECONDS_QUICK: u64 = 10;

/// The time after a start in which the start itself still costs processor time.
const SETTLING: Duration = Duration::from_secs(5);

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let stack = start(setup, System::rakit(&setup.programs), &setup.programs, "stack")?;
    let time = Duration::from_secs(setup.quick_or(SECONDS_QUICK, SECONDS));
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("round {}", round + 1));
        for (system, percent, bytes) in measure(&stack, time)? {
            results.record(SETTING, system, "% of a core", percent);
            results.record(SETTING, system, "memory MB", bytes as f64 / 1e6);
        }
    }
    Ok(())
}

/// Starts a stack of this build and waits until it is idle.
///
/// # Errors
/// When something does not start.
pub fn start(setup: &Setup, system: System, programs: &Programs, name: &str) -> Fallible<Stack> {
    let directory = setup.fresh_directory(name)?;
    let stack = Stack::start(system, programs, 5, THREE, &directory)?;
    std::thread::sleep(SETTLING);
    Ok(stack)
}

/// The processor time of each node and daemon over this time, in percent of a core, and its resident bytes.
///
/// # Errors
/// When one of them ended.
pub fn measure(stack: &Stack, time: Duration) -> Fallible<Vec<(&'static str, f64, u64)>> {
    let leader = stack.cluster.await_whole()?;
    let mut watched = Vec::new();
    for id in stack.cluster.ids() {
        watched.push((if id == leader { "the leader" } else { "a follower" }, stack.cluster.pid(id)?));
    }
    watched.extend(stack.daemons.iter().map(|daemon| ("a daemon", daemon.pid())));
    let started = Instant::now();
    let before = watched.iter().map(|(_, pid)| cost(*pid)).collect::<Fallible<Vec<_>>>()?;
    std::thread::sleep(time);
    let seconds = started.elapsed().as_secs_f64();
    let mut all = Vec::new();
    for ((name, pid), before) in watched.into_iter().zip(before) {
        let after = cost(pid)?;
        let percent = 100.0 * (after.processor_seconds - before.processor_seconds) / seconds;
        all.push((name, percent, after.resident_bytes));
    }
    Ok(all)
}
