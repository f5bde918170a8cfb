//! Part `worker`: what one prime costs, beside primesieve, and how long a small N waits while big ones are computed.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::members::{Site, System};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::results::Results;
use crate::stack::{Stack, THREE, start_worker};
use crate::statistics::quantile;
use crate::wire::Kept;

pub const PART: Part = Part {
    name: "worker",
    about: "the time for one prime, beside primesieve, and small N while big ones are computed",
    layout: Layout::OneTable,
    figures: &[
        Figure::new("ms", 2),
        Figure::new("p50 ms", 1),
        Figure::new("p95 ms", 1),
        Figure::new("greatest ms", 1),
    ],
    plots: &[Plot { title: "Time for the Nth prime", figure: "ms", settings: &[], shape: Shape::Lines }],
    run,
};

const ROUNDS: usize = 3;

/// Powers of ten. The last one takes more than half a minute. primesieve needs about p(N) steps, so it stops earlier.
const EXPONENT_MIN: u32 = 3;
const EXPONENT_MAX: u32 = 11;
const EXPONENT_MAX_FULL: u32 = 12;
const EXPONENT_MAX_QUICK: u32 = 9;
const SIEVE_EXPONENT_MAX: u32 = 9;

/// The small N and the big one.
const SMALL: u64 = 1_000_000;
const BIG: u64 = 100_000_000_000;

/// How many big N run on three servers of one machine, and how many for each core of one worker.
const BIG_ON_THREE: usize = 6;
const BIG_PER_CORE: usize = 2;

/// Questions for the small N, one after the other.
const QUESTIONS: usize = 100;
const QUESTIONS_QUICK: usize = 20;

/// Questions before anything is measured.
const WARMING_UP: usize = 10;

/// After this time no further small N is asked for: if each waited for big ones, the part would take hours.
const ASKING_MAX: Duration = Duration::from_secs(60);

/// From the moment when the big ones are sent until they are computed everywhere.
const SETTLING: Duration = Duration::from_secs(2);

/// The setting, in the words of the aim.
pub const LOADED: &str = "N = 10^6 while six N = 10^11 run on three servers";

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let log = setup.directory.join("worker.log");
    let address = SocketAddr::new(Site::loopback().ip(100), 13_337);
    let worker = start_worker(address, &[], &log)?;
    // The first requests find cold caches.
    ask_small(&[address], WARMING_UP)?;
    let usual = if setup.full { EXPONENT_MAX_FULL } else { EXPONENT_MAX };
    let last = setup.quick_or(EXPONENT_MAX_QUICK, usual);
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("round {}", round + 1));
        let mut worker = Kept::new(address);
        for exponent in EXPONENT_MIN..=last {
            let n = 10_u64.pow(exponent);
            let setting = format!("{} (10^{exponent})", crate::page::thousands(&n.to_string()));
            let started = Instant::now();
            let prime = worker.prime(n)?;
            results.record(&setting, "worker.py", "ms", started.elapsed().as_secs_f64() * 1e3);
            if exponent <= SIEVE_EXPONENT_MAX {
                let started = Instant::now();
                let sieved = primesieve(n)?;
                results.record(
                    &setting,
                    "primesieve, one thread",
                    "ms",
                    started.elapsed().as_secs_f64() * 1e3,
                );
                if sieved != prime {
                    return Err(format!("prime {n}: worker.py says {prime}, primesieve says {sieved}").into());
                }
            }
        }
        let big = BIG_PER_CORE * std::thread::available_parallelism()?.get();
        let loaded = "N = 10^6 while two N = 10^11 per core run there";
        wait_while_loaded(setup, results, &[address], big, "one worker", loaded)?;
    }
    drop(worker);
    let system = System::rakit(&setup.programs);
    let directory = setup.fresh_directory("stack")?;
    let stack = Stack::start(system, &setup.programs, 5, THREE, &directory)?;
    for _ in 0..setup.rounds(ROUNDS) {
        let publics = stack.publics();
        wait_while_loaded(setup, results, &publics, BIG_ON_THREE, "five nodes", LOADED)?;
    }
    Ok(())
}

/// How long the small N takes alone, and while so many big ones are under way.
fn wait_while_loaded(
    setup: &Setup,
    results: &mut Results,
    addresses: &[SocketAddr],
    big: usize,
    system: &str,
    loaded: &str,
) -> Fallible {
    let questions = setup.quick_or(QUESTIONS_QUICK, QUESTIONS);
    record(results, "N = 10^6 alone", system, &ask_small(addresses, questions)?);
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        for number in 0..big {
            let (address, over) = (addresses[number % addresses.len()], &over);
            scope.spawn(move || -> Fallible {
                let mut client = Kept::new(address);
                while !over.load(Ordering::SeqCst) {
                    client.prime(BIG)?;
                }
                Ok(())
            });
        }
        std::thread::sleep(SETTLING);
        let times = ask_small(addresses, questions);
        over.store(true, Ordering::SeqCst);
        times
    })?;
    record(results, loaded, system, &times);
    Ok(())
}

fn record(results: &mut Results, setting: &str, system: &str, sorted_ms: &[f64]) {
    for (figure, part) in [("p50 ms", 0.5), ("p95 ms", 0.95), ("greatest ms", 1.0)] {
        if let Some(value) = quantile(sorted_ms, part) {
            results.record(setting, system, figure, value);
        }
    }
}

/// Milliseconds for the small N, sorted; the addresses in turn, each on a kept connection.
fn ask_small(addresses: &[SocketAddr], questions: usize) -> Fallible<Vec<f64>> {
    let mut clients: Vec<Kept> = addresses.iter().copied().map(Kept::new).collect();
    let (mut times, turns) = (Vec::new(), clients.len());
    let began = Instant::now();
    for number in (0..questions).take_while(|_| began.elapsed() < ASKING_MAX) {
        let started = Instant::now();
        clients[number % turns].prime(SMALL)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn primesieve(n: u64) -> Fallible<u64> {
    let mut command = Command::new("primesieve");
    let output = command.args([&n.to_string(), "--nth-prime", "--threads=1", "--quiet"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.split_whitespace().last().ok_or("primesieve says nothing")?;
    Ok(last.parse()?)
}
