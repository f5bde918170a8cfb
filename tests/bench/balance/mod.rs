//! Part `balance`: how well the requests are spread over unequal servers, by Rakit and by the peers, beside an oracle.
//!
//! In each round all systems get the same arrivals at the same time. Each has servers of its own that only calculate (`farm.rs`). So
//! other work on the machine meets all systems alike, and a round with many systems takes no longer than with one.

pub mod choice;
mod choosers;
mod farm;
mod least_connections;
mod oracle;
mod real;
mod replay;
mod server;
pub mod simulate;
mod virtual_time;
mod workload;

use std::path::Path;
use std::time::{Duration, Instant};

use farm::Farm;
use replay::Outcome;
use workload::{Event, SMALL, Setting, work_of};

use crate::Fallible;
use crate::members::{Cluster, Options, Site, System};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::peers::{self, Size, Upstream};
use crate::process::{Process, machine_seconds};
use crate::ready::await_servers;
use crate::results::Results;
use crate::statistics::{mean, quantile};

pub const PART: Part = Part {
    name: "balance",
    about: "requests of mixed work spread over unequal servers, beside an oracle, nginx and HAProxy",
    layout: Layout::TablePerSetting,
    figures: &[
        Figure::new("mean s", 3),
        Figure::new("p99 s", 2),
        Figure::new("p99 of small s", 3),
        Figure::new("slowdown p99", 1),
        Figure::new("makespan s", 1),
        Figure::new("failed", 0),
    ],
    plots: &[
        Plot { title: "Mean time of a request", figure: "mean s", settings: HEADLINES, shape: Shape::Bars },
        Plot {
            title: "Slowdown at the 99th percentile: time taken over time alone",
            figure: "slowdown p99",
            settings: HEADLINES,
            shape: Shape::LogBars,
        },
    ],
    run,
};

const HEADLINES: &[&str] =
    &["4 servers, load 0.8, reports each 1 s", "16 servers, load 0.8, reports each 1 s"];

/// Requests come for so long in one round.
const SECONDS: f64 = 20.0;
const SECONDS_QUICK: f64 = 10.0;
/// Rounds of the headline with four and with sixteen servers, and of everything else.
const ROUNDS: usize = 3;
const ROUNDS_OF_OTHERS: usize = 2;

/// From the moment when all is ready until the first request: the clients' threads have started by then.
const LEAD: Duration = Duration::from_millis(300);

/// The port on which a peer listens.
const PEER_PORT: u16 = 8_000;

/// If more of the machine's processors is busy, the balancers wait for a processor, and not only for their servers.
const BUSY_PERCENT_MAX: f64 = 50.0;

/// Who spreads the requests.
#[derive(Clone, Copy, Debug)]
enum Balancer {
    Nginx { weights: bool },
    Haproxy { weights: bool, agent: bool },
    Rakit { policy: &'static str, nodes: u8 },
}

/// All of them, for the headline.
const BALANCERS: [Balancer; 11] = [
    Balancer::Nginx { weights: false },
    Balancer::Nginx { weights: true },
    Balancer::Haproxy { weights: false, agent: false },
    Balancer::Haproxy { weights: true, agent: false },
    Balancer::Haproxy { weights: false, agent: true },
    Balancer::Rakit { policy: "lowest-cpu", nodes: 1 },
    Balancer::Rakit { policy: "lowest-cpu", nodes: 3 },
    Balancer::Rakit { policy: "lowest-cpu", nodes: 5 },
    Balancer::Rakit { policy: "projected", nodes: 1 },
    Balancer::Rakit { policy: "projected", nodes: 3 },
    Balancer::Rakit { policy: "projected", nodes: 5 },
];

/// Those that need no hand-made weights, for what differs from the headline.
const FEWER: [Balancer; 6] = [
    Balancer::Nginx { weights: false },
    Balancer::Haproxy { weights: false, agent: false },
    Balancer::Haproxy { weights: false, agent: true },
    Balancer::Rakit { policy: "lowest-cpu", nodes: 5 },
    Balancer::Rakit { policy: "projected", nodes: 1 },
    Balancer::Rakit { policy: "projected", nodes: 5 },
];

impl Balancer {
    fn name(self) -> String {
        let by_hand = |weights| if weights { ", cores as weights" } else { "" };
        match self {
            Self::Nginx { weights } => format!("nginx least_conn{}", by_hand(weights)),
            Self::Haproxy { agent: true, .. } => "HAProxy leastconn, agent-check".to_owned(),
            Self::Haproxy { weights, .. } => format!("HAProxy leastconn{}", by_hand(weights)),
            Self::Rakit { policy, nodes: 1 } => format!("Rakit {policy}, 1 node"),
            Self::Rakit { policy, nodes } => format!("Rakit {policy}, {nodes} nodes"),
        }
    }
}

/// A balancer with its servers, ready for requests. All of it ends when it is dropped.
struct Running {
    name: String,
    farm: Farm,
    targets: Vec<std::net::SocketAddr>,
    cluster: Option<Cluster>,
    peer: Option<Process>,
}

impl Running {
    fn start(
        balancer: Balancer,
        setting: &Setting,
        seconds: f64,
        setup: &Setup,
        place: &Path,
    ) -> Fallible<Self> {
        let (name, site) = (balancer.name(), Site::loopback());
        let interval = setting.report_interval_ms;
        if let Balancer::Rakit { policy, nodes } = balancer {
            let options = Options::new(&setup.programs);
            let system = System::Rakit(Options { policy, report_interval_ms: interval, ..options });
            let cluster = Cluster::start(system, nodes, site, place)?;
            let inner = cluster.ids().into_iter().map(|id| cluster.inner(id)).collect();
            // The servers live beyond the nodes' addresses.
            let farm = Farm::start(setting, seconds, cluster.site.ip(100), inner)?;
            await_servers(&cluster, setting.servers)?;
            let targets = cluster.ids().into_iter().map(|id| cluster.public(id)).collect();
            return Ok(Self { name, farm, targets, cluster: Some(cluster), peer: None });
        }
        let farm = Farm::start(setting, seconds, site.ip(100), Vec::new())?;
        let listen = std::net::SocketAddr::new(site.ip(1), PEER_PORT);
        let upstreams = |weights: bool, agent: bool| -> Vec<Upstream> {
            let servers = farm.workers.iter().zip(&farm.agents).zip(setting.specs());
            let upstream = |((worker, told), spec): ((&_, &_), server::Spec)| Upstream {
                address: *worker,
                // With the agent's percent of it, a weight of 1 would round to 0 or 1.
                weight: if weights {
                    spec.cores
                } else if agent {
                    100
                } else {
                    1
                },
                agent: agent.then_some(*told),
            };
            servers.map(upstream).collect()
        };
        let peer = match balancer {
            Balancer::Nginx { weights } => {
                peers::nginx(place, listen, &upstreams(weights, false), Size::One)?
            }
            Balancer::Haproxy { weights, agent } => {
                peers::haproxy(place, listen, &upstreams(weights, agent), interval, Size::One)?
            }
            Balancer::Rakit { .. } => unreachable!("started above"),
        };
        Ok(Self { name, farm, targets: vec![listen], cluster: None, peer: Some(peer) })
    }

    /// In the middle: the node that leads dies.
    fn lose_a_node(&mut self) -> Fallible {
        match &mut self.cluster {
            Some(cluster) if self.targets.len() > 1 => {
                let leader = cluster.await_whole()?;
                cluster.kill(leader).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn end(self) -> Fallible {
        drop(self.peer);
        drop(self.cluster);
        self.farm.end()
    }
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let seconds = if setup.quick { SECONDS_QUICK } else { SECONDS };
    for setting in settings(setup) {
        let (usual, balancers) = match HEADLINES.contains(&setting.name().as_str()) {
            true => (ROUNDS, &BALANCERS[..]),
            false => (ROUNDS_OF_OTHERS, &FEWER[..]),
        };
        for round in 0..setup.rounds(usual) {
            setup.say(&format!("{}, round {}", setting.name(), round + 1));
            one_round(&setting, balancers, seconds, round as u64, setup, results)?;
        }
    }
    real::run(setup, results)
}

/// The headline and what is near it, or the whole cross product.
fn settings(setup: &Setup) -> Vec<Setting> {
    let headline = Setting::HEADLINE;
    let mut all = vec![headline];
    if setup.quick {
        return all;
    }
    all.push(Setting { servers: 16, ..headline });
    if setup.full {
        for servers in [4, 16] {
            for load in [0.5, 0.8, 0.95] {
                for report_interval_ms in [500, 1_000, 2_000] {
                    let setting = Setting { servers, load, report_interval_ms, ..headline };
                    if !all.contains(&setting) {
                        all.push(setting);
                    }
                }
            }
        }
    } else {
        all.extend([0.5, 0.95].map(|load| Setting { load, ..headline }));
        all.extend([500, 2_000].map(|report_interval_ms| Setting { report_interval_ms, ..headline }));
    }
    all.push(Setting { event: Event::NodeDies, ..headline });
    all.push(Setting::SLOWING);
    all
}

fn one_round(
    setting: &Setting,
    balancers: &[Balancer],
    seconds: f64,
    seed: u64,
    setup: &Setup,
    results: &mut Results,
) -> Fallible {
    let arrivals = workload::arrivals(setting, seconds, seed);
    let mut running = Vec::new();
    for (number, balancer) in balancers.iter().enumerate() {
        let place = setup.fresh_directory(&format!("{number}"))?;
        running.push(Running::start(*balancer, setting, seconds, setup, &place)?);
    }
    // All servers have reported, and nobody has asked them for anything yet.
    let begin = Instant::now() + LEAD;
    let (busy, all) = machine_seconds()?;
    running.iter().for_each(|system| system.farm.begin(begin));
    let outcomes = std::thread::scope(|scope| -> Fallible<Vec<Outcome>> {
        let mut clients = Vec::new();
        for system in &running {
            let (targets, arrivals) = (system.targets.clone(), &arrivals);
            clients.push(scope.spawn(move || replay::replay(&targets, arrivals, begin)));
        }
        if setting.event == Event::NodeDies {
            let middle = begin + Duration::from_secs_f64(seconds / 2.0);
            std::thread::sleep(middle.saturating_duration_since(Instant::now()));
            for system in &mut running {
                system.lose_a_node()?;
            }
        }
        clients.into_iter().map(|client| client.join().map_err(|_| "a client failed")?).collect()
    })?;
    let (busy_after, all_after) = machine_seconds()?;
    let percent = 100.0 * (busy_after - busy) / (all_after - all);
    if percent > BUSY_PERCENT_MAX {
        results.note(format!(
            "{}: the machine was busy to more than {BUSY_PERCENT_MAX} %: it took part in the times",
            setting.name()
        ));
    }
    let name = setting.name();
    let oracle = virtual_time::run(setting, seconds, &arrivals, seed, &mut oracle::Oracle);
    record(results, &name, "oracle", &oracle, &work_of, SMALL);
    for (system, outcome) in running.into_iter().zip(outcomes) {
        record(results, &name, &system.name, &outcome, &work_of, SMALL);
        system.end()?;
    }
    Ok(())
}

/// `work` tells what an N costs in seconds; requests of `small` and less are the small ones.
fn record(
    results: &mut Results,
    setting: &str,
    system: &str,
    outcome: &Outcome,
    work: &dyn Fn(u64) -> f64,
    small: f64,
) {
    for (figure, value) in figures(outcome, work, small) {
        results.record(setting, system, figure, value);
    }
}

/// The columns of the tables, as far as they are known.
fn figures(outcome: &Outcome, work: &dyn Fn(u64) -> f64, small: f64) -> Vec<(&'static str, f64)> {
    let sorted = |of: &dyn Fn(&(u64, f64)) -> Option<f64>| {
        let mut values: Vec<f64> = outcome.answered.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let times = sorted(&|(_, time)| Some(*time));
    let small = sorted(&|(n, time)| (work(*n) <= small).then_some(*time));
    let slowdowns = sorted(&|(n, time)| Some(time / work(*n)));
    let figures = [
        ("mean s", mean(&times)),
        ("p99 s", quantile(&times, 0.99)),
        ("p99 of small s", quantile(&small, 0.99)),
        ("slowdown p99", quantile(&slowdowns, 0.99)),
        ("makespan s", Some(outcome.makespan)),
        ("failed", Some(outcome.failed as f64)),
    ];
    figures.into_iter().filter_map(|(figure, value)| Some((figure, value?))).collect()
}
