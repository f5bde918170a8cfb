//! The same measurement with nothing simulated: three `worker.py` compute N of three sizes. One of them has a processor for itself,
//! two share the other. All processes share these two processors, so one system is measured after the other.

use std::net::SocketAddr;
use std::time::Instant;

use super::replay::{Outcome, replay};
use super::{PEER_PORT, record, workload};
use crate::Fallible;
use crate::members::{Options, Site, System};
use crate::part::Setup;
use crate::peers::{self, Size, Upstream};
use crate::ready::await_fresh_reports;
use crate::results::Results;
use crate::stack::Stack;
use crate::statistics::Spread;
use crate::wire::Kept;

/// N, and the part of the requests that ask for it: about 20 ms, 0.4 s and 1.2 s of work.
const MIX: [(u64, f64); 3] = [(10_000_000, 0.80), (1_000_000_000, 0.18), (10_000_000_000, 0.02)];

/// Of the two processors.
const LOAD: f64 = 0.6;
const PROCESSORS: f64 = 2.0;

/// The first server has a processor for itself, the others share one.
const PINNED: [&[&str]; 3] = [&["taskset", "-c", "0"], &["taskset", "-c", "1"], &["taskset", "-c", "1"]];

const SECONDS: f64 = 15.0;
const SECONDS_QUICK: f64 = 10.0;
const ROUNDS: usize = 2;

/// How often each N is asked alone, to know its work.
const ALONE: usize = 3;

const SETTING: &str = "three worker.py on two processors, N = 10^7, 10^9 and 10^10, load 0.6";

/// The systems, and the policy of the cluster that is there.
const SYSTEMS: [(&str, &str); 4] = [
    ("nginx least_conn", "projected"),
    ("HAProxy leastconn", "projected"),
    ("Rakit lowest-cpu, 5 nodes", "lowest-cpu"),
    ("Rakit projected, 5 nodes", "projected"),
];

/// Measures all systems.
///
/// # Errors
/// When something does not start, or a worker does not answer.
pub fn run(setup: &Setup, results: &mut Results) -> Fallible {
    if std::thread::available_parallelism()?.get() < PROCESSORS as usize {
        results.note("the real workers are left out: they need two processors");
        return Ok(());
    }
    let mut works: Option<Vec<f64>> = None;
    for round in 0..setup.rounds(ROUNDS) {
        for (name, policy) in SYSTEMS {
            setup.say(&format!("{SETTING}, round {}: {name}", round + 1));
            let system = System::Rakit(Options { policy, ..Options::new(&setup.programs) });
            let directory = setup.fresh_directory("real")?;
            let stack = Stack::start(system, &setup.programs, 5, &PINNED, &directory)?;
            // Measured once: what N costs does not depend on the balancer.
            let works = match &works {
                Some(works) => works.clone(),
                None => works.insert(measure_alone(stack.workers[0])?).clone(),
            };
            let outcome = one_system(setup, &stack, name, &works, round as u64)?;
            let work = |n: u64| {
                let place = MIX.iter().position(|(known, _)| *known == n);
                works[place.expect("one of the mix")]
            };
            record(results, SETTING, name, &outcome, &work, works[0]);
        }
    }
    Ok(())
}

fn one_system(setup: &Setup, stack: &Stack, name: &str, works: &[f64], seed: u64) -> Fallible<Outcome> {
    let mean: f64 = MIX.iter().zip(works).map(|((_, part), work)| part * work).sum();
    let seconds = setup.quick_or(SECONDS_QUICK, SECONDS);
    let arrivals = workload::poisson(LOAD * PROCESSORS / mean, &MIX, seconds, seed);
    let upstreams: Vec<Upstream> = stack.workers.iter().copied().map(Upstream::plain).collect();
    let listen = SocketAddr::new(Site::loopback().ip(1), PEER_PORT);
    let place = setup.fresh_directory("peer")?;
    let peer = match name.split(' ').next() {
        Some("nginx") => Some(peers::nginx(&place, listen, &upstreams, Size::One)?),
        Some("HAProxy") => Some(peers::haproxy(&place, listen, &upstreams, 1_000, Size::One)?),
        _ => None,
    };
    let targets = if peer.is_some() { vec![listen] } else { stack.publics() };
    // What was asked before this shall not show in the servers' load.
    await_fresh_reports(&stack.cluster)?;
    let outcome = replay(&targets, &arrivals, Instant::now())?;
    drop(peer);
    Ok(outcome)
}

/// Seconds that each N of the mix takes on a server that does nothing else.
fn measure_alone(worker: SocketAddr) -> Fallible<Vec<f64>> {
    let mut worker = Kept::new(worker);
    let mut works = Vec::new();
    for (n, _) in MIX {
        let mut times = Vec::new();
        for _ in 0..ALONE {
            let started = Instant::now();
            worker.prime(n)?;
            times.push(started.elapsed().as_secs_f64());
        }
        works.push(Spread::of(&times).ok_or("nothing was measured")?.median);
    }
    Ok(works)
}
