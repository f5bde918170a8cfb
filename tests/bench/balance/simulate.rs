//! Part `simulate`: the rules of the choice in virtual time, over many seeds: Rakit's own code (`choosers.rs`) beside the peers'
//! rules and an oracle, with other servers, loads, mixes and rhythms, and without each of its parts in turn. It needs a minute,
//! opens no socket, and gives the same figures on every machine.
//!
//! docs/balancing.md shows the tables: [`tables`] makes them, and `page.rs` puts them there.

use std::fmt::Write as _;

use rakit::balancer::Policy;

use super::choosers::{Choosers, Without};
use super::figures;
use super::least_connections::{LeastConnections, Weight};
use super::oracle::Oracle;
use super::virtual_time::{self, Spreader};
use super::workload::{self, Event, Mix, Rhythm, SMALL, Servers, Setting, work_of};
use crate::Fallible;
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::results::Results;
use crate::statistics::mean;

pub const PART: Part = Part {
    name: "simulate",
    about: "the rules of the choice in virtual time, over many seeds, beside the peers' rules and an oracle",
    layout: Layout::Own(tables),
    figures: &[
        Figure::new("mean s", 3),
        Figure::new("p99 s", 2),
        Figure::new("p99 of small s", 3),
        Figure::new("slowdown p99", 1),
        Figure::new("makespan s", 1),
    ],
    plots: &[
        Plot {
            title: "Mean time of a request, in virtual time",
            figure: "mean s",
            settings: super::HEADLINES,
            shape: Shape::Bars,
        },
        Plot {
            title: "Slowdown at the 99th percentile, in virtual time",
            figure: "slowdown p99",
            settings: super::HEADLINES,
            shape: Shape::LogBars,
        },
    ],
    run,
};

/// Requests come for so long.
const SECONDS: f64 = 20.0;

const SEEDS: usize = 20;
const SEEDS_QUICK: usize = 4;

/// Who chooses.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Oracle,
    /// So many balancers that know nothing of each other.
    Least(Weight, usize),
    /// So many nodes.
    Rakit(Policy, usize, Without),
}

const ORACLE: &str = "oracle";
const LEAST: &str = "least connections";
const LEAST_BY_CORES: &str = "least connections, cores as weights";
const LEAST_BY_AGENT: &str = "least connections, agent-check";
const LEAST_OF_FIVE: &str = "least connections, 5 balancers";
const LOWEST_CPU: &str = "Rakit lowest-cpu, 5 nodes";
const ONE: &str = "Rakit projected, 1 node";
const THREE: &str = "Rakit projected, 3 nodes";
const FIVE: &str = "Rakit projected, 5 nodes";
const NO_EXCHANGE: &str = "Rakit projected, 5 nodes, without the exchange";
const NO_WATER: &str = "Rakit projected, 5 nodes, without the water";
const NO_LOAD: &str = "Rakit projected, 5 nodes, without the agreed load";

const RULES: [(&str, Rule); 12] = [
    (ORACLE, Rule::Oracle),
    (LEAST, Rule::Least(Weight::One, 1)),
    (LEAST_BY_CORES, Rule::Least(Weight::Cores, 1)),
    (LEAST_BY_AGENT, Rule::Least(Weight::IdlePart, 1)),
    (LEAST_OF_FIVE, Rule::Least(Weight::One, 5)),
    (LOWEST_CPU, Rule::Rakit(Policy::LowestCpu, 5, Without::Nothing)),
    (ONE, Rule::Rakit(Policy::Projected, 1, Without::Nothing)),
    (THREE, Rule::Rakit(Policy::Projected, 3, Without::Nothing)),
    (FIVE, Rule::Rakit(Policy::Projected, 5, Without::Nothing)),
    (NO_EXCHANGE, Rule::Rakit(Policy::Projected, 5, Without::Exchange)),
    (NO_WATER, Rule::Rakit(Policy::Projected, 5, Without::Water)),
    (NO_LOAD, Rule::Rakit(Policy::Projected, 5, Without::Load)),
];

impl Rule {
    fn spreader(self, setting: &Setting, seed: u64) -> Box<dyn Spreader> {
        let specs = setting.specs();
        match self {
            Self::Oracle => Box::new(Oracle),
            Self::Least(weight, balancers) => Box::new(LeastConnections::new(weight, balancers, &specs)),
            Self::Rakit(policy, nodes, without) => {
                Box::new(Choosers::new(policy, nodes, without, specs, seed))
            }
        }
    }
}

/// The headline, and what differs from it in one thing or two.
fn settings() -> Vec<Setting> {
    let headline = Setting::HEADLINE;
    let mut all = vec![headline, Setting { servers: 16, ..headline }];
    for servers in [4, 16] {
        all.extend([0.5, 0.95].map(|load| Setting { servers, load, ..headline }));
        all.extend([500, 2_000].map(|report_interval_ms| Setting {
            servers,
            report_interval_ms,
            ..headline
        }));
    }
    all.extend([
        Setting { kind: Servers::Equal, ..headline },
        Setting { kind: Servers::Occupied, ..headline },
        Setting { mix: Mix::Small, ..headline },
        Setting { servers: 16, mix: Mix::Small, ..headline },
        Setting { mix: Mix::HeavyTail, ..headline },
        Setting { rhythm: Rhythm::Bursts, ..headline },
        Setting { event: Event::NodeDies, ..headline },
        Setting::SLOWING,
    ]);
    all
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let seeds = setup.rounds_asked.unwrap_or(setup.quick_or(SEEDS_QUICK, SEEDS));
    for setting in settings() {
        let name = setting.name();
        setup.say(&format!("{name}, {seeds} seeds"));
        // Each processor takes its share of the seeds.
        let threads = std::thread::available_parallelism()?.get();
        let shares = std::thread::scope(|scope| -> Fallible<Vec<_>> {
            let start = |first: usize| {
                scope.spawn(move || -> Vec<_> {
                    let seeds = (first..seeds).step_by(threads);
                    seeds.flat_map(|seed| one_seed(&setting, seed as u64)).collect()
                })
            };
            let started: Vec<_> = (0..threads).map(start).collect();
            started.into_iter().map(|thread| thread.join().map_err(|_| "a round failed".into())).collect()
        })?;
        let all: Vec<_> = shares.into_iter().flatten().collect();
        for (system, _) in RULES {
            for figure in PART.figures {
                let of_this = all.iter().filter(|(name, known, _)| *name == system && *known == figure.name);
                let values: Vec<f64> = of_this.map(|(.., value)| *value).collect();
                if let Some(mean) = mean(&values) {
                    results.record(&name, system, figure.name, mean);
                }
            }
        }
    }
    results.note(format!("Each figure is the mean over {seeds} seeds"));
    Ok(())
}

/// What each rule makes of the same arrivals: system, figure and value.
fn one_seed(setting: &Setting, seed: u64) -> Vec<(&'static str, &'static str, f64)> {
    let arrivals = workload::arrivals(setting, SECONDS, seed);
    let mut all = Vec::new();
    for (system, rule) in RULES {
        let mut spreader = rule.spreader(setting, seed);
        let outcome = virtual_time::run(setting, SECONDS, &arrivals, seed, &mut *spreader);
        let figures = figures(&outcome, &work_of, SMALL);
        all.extend(figures.into_iter().map(|(figure, value)| (system, figure, value)));
    }
    all
}

/// A column of a table with all settings: its head, and whose figures stand in it.
type Column = (&'static str, &'static str);

const BESIDE: [Column; 8] = [
    ("oracle", ORACLE),
    ("least connections", LEAST),
    ("…, cores as weights", LEAST_BY_CORES),
    ("…, agent-check", LEAST_BY_AGENT),
    ("…, 5 balancers", LEAST_OF_FIVE),
    ("`lowest-cpu`, 5 nodes", LOWEST_CPU),
    ("`projected`, 1 node", ONE),
    ("5 nodes", FIVE),
];

const PARTS: [Column; 4] = [
    ("`projected`, 5 nodes", FIVE),
    ("without the exchange", NO_EXCHANGE),
    ("without the water", NO_WATER),
    ("without the agreed load", NO_LOAD),
];

/// One table for each figure, with all settings.
fn tables(results: &Results) -> String {
    let measured = results.settings();
    let names: Vec<String> = settings().iter().map(Setting::name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| measured.contains(name)).collect();
    let mut text = String::new();
    for (heading, figure, columns) in [
        ("Mean time of a request, in seconds", "mean s", &BESIDE[..]),
        ("The slowest hundredth: p99 of the time, in seconds", "p99 s", &BESIDE),
        ("Slowdown at p99: time taken over time alone", "slowdown p99", &BESIDE),
        ("From the first request to the last answer, in seconds", "makespan s", &BESIDE),
        ("What each part of `projected` is good for: mean time, in seconds", "mean s", &PARTS),
        ("The same: slowdown at p99", "slowdown p99", &PARTS),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "**{heading}**\n");
        text.push_str(&matrix(results, &names, figure, columns));
    }
    text
}

fn matrix(results: &Results, settings: &[&str], figure: &str, columns: &[Column]) -> String {
    let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    let mut text = format!("| | {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len() + 1));
    let decimals = PART.figures.iter().find(|known| known.name == figure).map_or(0, |known| known.decimals);
    for setting in settings {
        let cell = |(_, system): &Column| {
            let median = results.spread(setting, system, figure).map(|spread| spread.median);
            median.map_or(String::new(), |value| format!("{value:.decimals$}"))
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        let _ = writeln!(text, "| {setting} | {} |", cells.join(" | "));
    }
    text + "\n"
}
