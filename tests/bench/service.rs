//! Part `service`: primes per second of the whole service, nodes, daemons and workers on one machine, beside nginx and HAProxy in
//! front of the same workers. Clients that each wait for their answer; the N are drawn, the same for everybody.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Fallible;
use crate::closed_loop::{self, Gets, Until};
use crate::members::{Site, System};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::peers::{self, Size, Upstream};
use crate::random::Random;
use crate::results::Results;
use crate::stack::{Stack, THREE};

pub const PART: Part = Part {
    name: "service",
    about: "primes per second of five nodes and three workers, beside nginx and HAProxy",
    layout: Layout::OneTable,
    figures: &[Figure::new("primes/s", 0), Figure::new("median ms", 2), Figure::new("p99 ms", 2)],
    plots: &[Plot { title: "Primes per second", figure: "primes/s", settings: &[], shape: Shape::Bars }],
    run,
};

const ROUNDS: usize = 3;
const SECONDS: u64 = 5;
const SECONDS_QUICK: u64 = 3;

/// The powers of ten between which log N is drawn evenly, and the clients.
const SETTINGS: [(&str, f64, f64, usize); 3] = [
    ("N from 1 to 10^5, 32 clients", 0.0, 5.0, 32),
    ("N from 10^3 to 10^8, 16 clients", 3.0, 8.0, 16),
    ("N from 10^6 to 10^9, 8 clients", 6.0, 9.0, 8),
];

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let directory = setup.fresh_directory("stack")?;
    let stack = Stack::start(System::rakit(&setup.programs), &setup.programs, 5, THREE, &directory)?;
    let upstreams: Vec<Upstream> = stack.workers.iter().copied().map(Upstream::plain).collect();
    let listen = || SocketAddr::new(Site::loopback().ip(1), 8_000);
    let (nginx_address, haproxy_address) = (listen(), listen());
    let nginx = peers::nginx(&setup.fresh_directory("nginx")?, nginx_address, &upstreams, Size::Auto)?;
    let directory = setup.fresh_directory("haproxy")?;
    let haproxy = peers::haproxy(&directory, haproxy_address, &upstreams, 1_000, Size::Auto)?;
    let systems = [
        ("nginx least_conn", vec![nginx_address]),
        ("HAProxy leastconn", vec![haproxy_address]),
        ("Rakit, 5 nodes", stack.publics()),
    ];
    let time = Duration::from_secs(setup.quick_or(SECONDS_QUICK, SECONDS));
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("round {}", round + 1));
        for (setting, low, high, clients) in SETTINGS {
            for (system, addresses) in &systems {
                let client = |number: usize| {
                    let mut random = Random::new((round * clients + number) as u64);
                    let draw = move || format!("/{:.0}", 10_f64.powf(low + (high - low) * random.uniform()));
                    (addresses[number % addresses.len()], Gets::new(std::iter::repeat_with(draw)))
                };
                let outcome = closed_loop::run((0..clients).map(client).collect(), Until::After(time))
                    .map_err(|error| format!("{system}, {setting}: {error}"))?;
                results.record(setting, system, "primes/s", outcome.per_second());
                results.record(setting, system, "median ms", outcome.quantile_ms(0.5));
                results.record(setting, system, "p99 ms", outcome.quantile_ms(0.99));
            }
        }
    }
    drop((nginx, haproxy));
    Ok(())
}
