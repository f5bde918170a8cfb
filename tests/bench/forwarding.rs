//! Part `forwarding`: what a balancer adds to a request, how many it forwards, and what idle clients cost it. The worker behind it
//! answers at once, so that nothing but the balancer is measured. wrk sends the requests, on one thread.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::Fallible;
use crate::members::{Cluster, Options, Programs, Site, System};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::peers::{self, Size, Upstream};
use crate::process::{Process, cost};
use crate::ready::await_servers;
use crate::results::Results;
use crate::wire;
use crate::wrk;

pub const PART: Part = Part {
    name: "forwarding",
    about: "latency, rate and memory of forwarding to a worker that answers at once, beside nginx and HAProxy",
    layout: Layout::OneTable,
    figures: &[
        Figure::new("requests/s", 0),
        Figure::new("p50 µs", 0),
        Figure::new("p99 µs", 0),
        Figure::new("processor µs per request", 1),
        Figure::new("memory MB", 1),
        Figure::new("errors", 0),
    ],
    plots: &[
        Plot {
            title: "Requests forwarded per second",
            figure: "requests/s",
            settings: &["16 clients", "64 clients", "256 clients", NEW_CONNECTIONS],
            shape: Shape::Bars,
        },
        Plot {
            title: "Latency of a forwarded request, one client",
            figure: "p50 µs",
            settings: &["1 client"],
            shape: Shape::Bars,
        },
    ],
    run,
};

pub const NEW_CONNECTIONS: &str = "32 clients, each request on a new connection";
pub const IDLE: &str = "1,000 idle connections";
const IDLE_CONNECTIONS: usize = 1_000;

const ROUNDS: usize = 3;
/// Each run of wrk.
const SECONDS: u64 = 2;
const SECONDS_QUICK: u64 = 1;

/// The first prime: the worker answers at once whatever N is.
const PATH: &str = "/3";

/// The settings with their clients, and whether each request opens a connection.
pub const SETTINGS: [(&str, usize, bool); 5] = [
    ("1 client", 1, false),
    ("16 clients", 16, false),
    ("64 clients", 64, false),
    ("256 clients", 256, false),
    (NEW_CONNECTIONS, 32, true),
];

/// Who forwards.
pub struct Forwarder {
    pub name: String,
    pub address: SocketAddr,
    /// The process whose processor time and memory are measured; `None`: none is.
    pid: Option<u32>,
    /// They end when this is dropped.
    _processes: Vec<Process>,
    _cluster: Option<Cluster>,
}

impl Forwarder {
    /// A cluster of Rakit with one server and a real daemon. Clients ask a node that does not lead, if there is one.
    ///
    /// # Errors
    /// When something does not start.
    pub fn rakit(
        name: &str,
        programs: &Programs,
        nodes: u8,
        log_level: &'static str,
        worker: SocketAddr,
        directory: &Path,
    ) -> Fallible<Self> {
        let mut daemon = Command::new(&programs.daemon);
        let system = System::Rakit(Options { log_level, ..Options::new(programs) });
        let cluster = Cluster::start(system, nodes, Site::loopback(), directory)?;
        daemon.arg("--config").arg(cluster.configuration());
        daemon.args(["--server", "server-1", "--worker", &worker.to_string()]);
        let daemon = Process::start(&daemon, &directory.join("daemon.log"))?;
        await_servers(&cluster, 1)?;
        let leader = cluster.await_whole().unwrap_or(1);
        let asked = cluster.others(leader).first().copied().unwrap_or(leader);
        Ok(Self {
            name: name.to_owned(),
            address: cluster.public(asked),
            pid: Some(cluster.pid(asked)?),
            _processes: vec![daemon],
            _cluster: Some(cluster),
        })
    }

    fn peer(name: &str, address: SocketAddr, process: Process) -> Self {
        let pid = Some(process.pid());
        Self { name: name.to_owned(), address, pid, _processes: vec![process], _cluster: None }
    }

    /// Loads the forwarder once and records the figures.
    ///
    /// # Errors
    /// When wrk fails, or the forwarder is gone.
    pub fn measure(&self, setting: (&str, usize, bool), seconds: u64, results: &mut Results) -> Fallible {
        let (setting, clients, new_connections) = setting;
        let spent = || -> Fallible<f64> {
            self.pid.map_or(Ok(0.0), |pid| cost(pid).map(|cost| cost.processor_seconds))
        };
        let before = spent()?;
        let load = wrk::run(self.address, PATH, clients, seconds, new_connections)?;
        let spent = spent()? - before;
        let mut record = |figure: &str, value: f64| results.record(setting, &self.name, figure, value);
        record("requests/s", load.per_second);
        record("p50 µs", load.p50_us);
        record("p99 µs", load.p99_us);
        record("errors", load.errors);
        if self.pid.is_some() && load.requests > 0.0 {
            record("processor µs per request", spent * 1e6 / load.requests);
        }
        Ok(())
    }

    /// Records its memory while many connections, each with one answered request, stay open.
    fn measure_idle(&self, results: &mut Results) -> Fallible {
        let Some(pid) = self.pid else { return Ok(()) };
        let mut connections = Vec::new();
        for number in 0..IDLE_CONNECTIONS {
            let mut stream = TcpStream::connect(self.address)?;
            let answer = wire::exchange(&mut stream, &wire::get(PATH))
                .map_err(|error| format!("{}: idle connection {number}: {error}", self.name))?;
            if answer.status != 200 {
                return Err(format!("{}: idle connection {number}: {}", self.name, answer.status).into());
            }
            connections.push(stream);
        }
        results.record(IDLE, &self.name, "memory MB", cost(pid)?.resident_bytes as f64 / 1e6);
        Ok(())
    }
}

/// A worker that answers at once, in `directory`.
///
/// # Errors
/// When it cannot be started.
pub fn instant_worker(directory: &Path) -> Fallible<(Process, SocketAddr)> {
    let address = SocketAddr::new(Site::loopback().ip(100), 13_337);
    let worker = peers::instant_worker(directory, address)?;
    Ok((worker, address))
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let (worker, upstream) = instant_worker(&setup.fresh_directory("worker")?)?;
    let listen = || SocketAddr::new(Site::loopback().ip(1), 8_000);
    let upstreams = [Upstream::plain(upstream)];
    let mut forwarders = vec![Forwarder {
        name: "none: straight to the worker".to_owned(),
        address: upstream,
        pid: None,
        _processes: Vec::new(),
        _cluster: None,
    }];
    let address = listen();
    let nginx = peers::nginx(&setup.fresh_directory("nginx")?, address, &upstreams, Size::Auto)?;
    forwarders.push(Forwarder::peer("nginx", address, nginx));
    let address = listen();
    let haproxy = peers::haproxy(&setup.fresh_directory("haproxy")?, address, &upstreams, 1_000, Size::Auto)?;
    forwarders.push(Forwarder::peer("HAProxy", address, haproxy));
    for (name, nodes, log_level) in [
        ("Rakit, 5 nodes", 5, "info"),
        ("Rakit, 1 node", 1, "info"),
        ("Rakit, 1 node, logs warnings only", 1, "warn"),
    ] {
        let directory = setup.fresh_directory(&format!("rakit-{nodes}-{log_level}"))?;
        forwarders.push(Forwarder::rakit(name, &setup.programs, nodes, log_level, upstream, &directory)?);
    }
    for forwarder in &forwarders {
        forwarder.measure_idle(results)?;
    }
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("round {}", round + 1));
        for setting in SETTINGS {
            for forwarder in &forwarders {
                forwarder.measure(setting, setup.quick_or(SECONDS_QUICK, SECONDS), results)?;
            }
        }
    }
    drop(forwarders);
    drop(worker);
    Ok(())
}
