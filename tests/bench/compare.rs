//! Part `compare`: two builds of Rakit in one run, round by round: failover, acknowledgements, forwarding and idle cost. What a
//! change of the source was to leave as it is, is seen here.

use std::time::Duration;

use crate::Fallible;
use crate::closed_loop::Until;
use crate::consensus;
use crate::failover::{self, Fault};
use crate::forwarding::{self, Forwarder};
use crate::idle;
use crate::members::{Cluster, Options, Programs, Site, System};
use crate::part::{Figure, Layout, Part, Setup};
use crate::results::Results;

pub const BEFORE: &str = "before";
pub const AFTER: &str = "after";

pub const PART: Part = Part {
    name: "compare",
    about: "two builds, --before DIR and --after DIR: failover, acknowledgements, forwarding, idle cost",
    layout: Layout::BeforeAfter,
    figures: &[
        Figure::new("ms", 1),
        Figure::new("reports/s", 0),
        Figure::new("median ms", 2),
        Figure::new("p99 ms", 2),
        Figure::new("requests/s", 0),
        Figure::new("p50 µs", 0),
        Figure::new("p99 µs", 0),
        Figure::new("processor µs per request", 1),
        Figure::new("errors", 0),
        Figure::new("% of a core", 2),
        Figure::new("memory MB", 1),
    ],
    plots: &[],
    run,
};

const FAILOVERS: usize = 30;
const FAILOVERS_QUICK: usize = 3;
const ROUNDS: usize = 5;
const CLIENTS: [usize; 3] = [1, 64, 256];
const LOAD_SECONDS: u64 = 4;
const LOAD_SECONDS_QUICK: u64 = 1;
const IDLE_SECONDS: u64 = 60;
const IDLE_SECONDS_QUICK: u64 = 10;

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let (before, after) = setup.compared.as_ref().ok_or("compare needs --before DIR and --after DIR")?;
    let builds = [(BEFORE, before), (AFTER, after)];
    let load_seconds = setup.quick_or(LOAD_SECONDS_QUICK, LOAD_SECONDS);

    let mut clusters = start_both(setup, builds, false)?;
    fail_over(setup, &mut clusters, results)?;
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("acknowledgements, round {}", round + 1));
        clusters.reverse();
        for clients in CLIENTS {
            let plural = if clients == 1 { "" } else { "s" };
            let setting = format!("reports of {clients} server{plural}");
            for (name, cluster) in &mut clusters {
                let time = Until::After(Duration::from_secs(load_seconds));
                let outcome = consensus::load(cluster, clients, time)?;
                results.record(&setting, name, "reports/s", outcome.per_second());
                results.record(&setting, name, "median ms", outcome.quantile_ms(0.5));
                results.record(&setting, name, "p99 ms", outcome.quantile_ms(0.99));
            }
        }
    }
    drop(clusters);

    let (worker, upstream) = forwarding::instant_worker(&setup.fresh_directory("worker")?)?;
    let mut forwarders = Vec::new();
    for (name, programs) in builds {
        let directory = setup.fresh_directory(&format!("forwarder-{name}"))?;
        forwarders.push(Forwarder::rakit(name, programs, 5, "info", upstream, &directory)?);
    }
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("forwarding, round {}", round + 1));
        forwarders.reverse();
        for setting in forwarding::SETTINGS {
            for forwarder in &forwarders {
                forwarder.measure(setting, load_seconds, results)?;
            }
        }
    }
    drop(forwarders);
    drop(worker);

    fail_over(setup, &mut start_both(setup, builds, true)?, results)?;
    for is_signed in [false, true] {
        rest(setup, builds, is_signed, results)?;
    }
    Ok(())
}

/// What is set in front of the names of what a signed cluster does.
fn prefix(is_signed: bool) -> &'static str {
    if is_signed { "signed, " } else { "" }
}

/// A cluster of each build.
fn start_both(
    setup: &Setup,
    builds: [(&'static str, &Programs); 2],
    is_signed: bool,
) -> Fallible<Vec<(&'static str, Cluster)>> {
    let mut clusters = Vec::new();
    for (name, programs) in builds {
        let directory =
            setup.fresh_directory(&format!("cluster-{}{name}", if is_signed { "signed-" } else { "" }))?;
        let system = System::Rakit(Options { is_signed, ..Options::new(programs) });
        clusters.push((name, Cluster::start(system, 5, Site::loopback(), &directory)?));
    }
    Ok(clusters)
}

/// Kills and pauses the leaders, in turn.
fn fail_over(setup: &Setup, clusters: &mut [(&'static str, Cluster)], results: &mut Results) -> Fallible {
    for fault in [Fault::Kill, Fault::Pause] {
        let rounds = setup.rounds_asked.unwrap_or(setup.quick_or(FAILOVERS_QUICK, FAILOVERS));
        setup.say(&format!("{}: {rounds} rounds", fault.name()));
        for _ in 0..rounds {
            // The builds take turns in being first.
            clusters.reverse();
            for (name, cluster) in &mut *clusters {
                let took = failover::one_round(cluster, fault)?;
                let setting = format!("{}{}", prefix(cluster.is_signed()), fault.name());
                results.record(&setting, name, "ms", took.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(())
}

/// Nobody asks for anything; the daemons report.
fn rest(
    setup: &Setup,
    builds: [(&'static str, &Programs); 2],
    is_signed: bool,
    results: &mut Results,
) -> Fallible {
    let mut stacks = Vec::new();
    for (name, programs) in builds {
        let system = System::Rakit(Options { is_signed, ..Options::new(programs) });
        stacks.push((name, idle::start(setup, system, programs, &format!("idle-{is_signed}-{name}"))?));
    }
    let time = Duration::from_secs(setup.quick_or(IDLE_SECONDS_QUICK, IDLE_SECONDS));
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("idle, round {}", round + 1));
        stacks.reverse();
        for (name, stack) in &stacks {
            for (process, percent, bytes) in idle::measure(stack, time)? {
                let setting = format!("{}idle: {process}", prefix(is_signed));
                results.record(&setting, name, "% of a core", percent);
                results.record(&setting, name, "memory MB", bytes as f64 / 1e6);
            }
        }
    }
    Ok(())
}
