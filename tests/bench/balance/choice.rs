//! Part `choice`: the processor time of the code that every request and every report passes: a choice, an applied report, a view of
//! the table, and its digest. One thread; docs/balancing.md shows the table.

use std::time::{Duration, Instant};

use rakit::balancer::{
    Chooser, Outcome, Policy, Published, Report, SERVERS_MAX, ServerCommand, ServerTable, View,
};
use rakit::raft::Entry;

use super::choosers::{STALL, report};
use crate::Fallible;
use crate::page::thousands;
use crate::part::{Figure, Layout, Part, Setup};
use crate::results::Results;

pub const PART: Part = Part {
    name: "choice",
    about: "the processor time of a choice, an applied report, a view of the table and its digest",
    layout: Layout::OneTable,
    figures: &[
        Figure::new(LOWEST_CPU, 2),
        Figure::new(PROJECTED, 2),
        Figure::new(APPLY, 2),
        Figure::new(PUBLISH, 2),
        Figure::new(DIGEST, 2),
    ],
    plots: &[],
    run,
};

const LOWEST_CPU: &str = "choice and end, `lowest-cpu`, µs";
const PROJECTED: &str = "choice and end, `projected`, µs";
const APPLY: &str = "apply one report, µs";
const PUBLISH: &str = "publish a view, µs";
const DIGEST: &str = "digest of a view, µs";

const ROUNDS: usize = 5;

/// Each is done so often in a round.
const TIMES: u32 = 3_000;

/// In the table.
const SERVERS: [usize; 3] = [3, 30, SERVERS_MAX];

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    for servers in SERVERS {
        let setting = format!("{} servers", thousands(&servers.to_string()));
        setup.say(&setting);
        let mut table = ServerTable::new(SERVERS_MAX);
        for server in 0..servers {
            let entry = next_entry(&table, server, 1);
            table.apply(&entry);
        }
        let published = Published::new(&table, Duration::ZERO);
        let chooser = Chooser::new(STALL, 1);
        let mut sequence = 1;
        for _ in 0..setup.rounds(ROUNDS) {
            let mut record = |figure, time: Duration| {
                let each = time.as_secs_f64() * 1e6 / f64::from(TIMES);
                results.record(&setting, "one thread", figure, each);
            };
            for (policy, figure) in [(Policy::LowestCpu, LOWEST_CPU), (Policy::Projected, PROJECTED)] {
                let (view, started) = (published.view(), Instant::now());
                for _ in 0..TIMES {
                    let chosen = chooser.choose(&view, policy, Duration::ZERO, &[]);
                    chosen.ok_or("no server was chosen")?.ticket.end(Outcome::Answered, Duration::ZERO);
                }
                record(figure, started.elapsed());
            }
            let (mut applying, mut publishing, mut digesting) = <(Duration, Duration, Duration)>::default();
            for _ in 0..TIMES {
                sequence += 1;
                let entry = next_entry(&table, 0, sequence);
                let started = Instant::now();
                table.apply(&entry);
                let applied = Instant::now();
                published.publish(&table, Duration::ZERO);
                let shown = Instant::now();
                std::hint::black_box(View::digest(&published.view()));
                applying += applied - started;
                publishing += shown - applied;
                digesting += shown.elapsed();
            }
            record(APPLY, applying);
            record(PUBLISH, publishing);
            record(DIGEST, digesting);
        }
    }
    Ok(())
}

/// A report as it comes out of the log.
fn next_entry(table: &ServerTable, server: usize, sequence: u64) -> Entry {
    let report = Report { sequence, ..report(server, server as f64 / 100.0, 4) };
    let (index, command) = (table.applied_index() + 1, ServerCommand::Report(report).to_command());
    Entry { index, term: 1, command }
}
