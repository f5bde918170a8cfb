//! Part `consensus`: how many writes a cluster commits a second, and how long one waits for its majority. A report to Rakit beside a
//! put into etcd, both on kept connections to the leader; and what a single fdatasync(2) costs here: no durable write is faster.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::closed_loop::{self, Dialogue, Outcome, Until};
use crate::grpc::Put;
use crate::members::{Cluster, Site, System, is_committed, report};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::results::Results;
use crate::statistics::quantile;
use crate::wire::{self, Answers};

pub const PART: Part = Part {
    name: "consensus",
    about: "writes committed per second by 3 and 5 members, beside etcd",
    layout: Layout::OneTable,
    figures: &[Figure::new("writes/s", 0), Figure::new("median ms", 2), Figure::new("p99 ms", 2)],
    plots: &[Plot {
        title: "Writes committed per second",
        figure: "writes/s",
        settings: &[
            "3 members, 64 clients",
            "3 members, 256 clients",
            "5 members, 64 clients",
            "5 members, 256 clients",
        ],
        shape: Shape::Bars,
    }],
    run,
};

/// The row of the disk without any cluster.
pub const SYNC: &str = "one write and fdatasync(2)";
pub const DISK: &str = "the disk alone";

const ROUNDS: usize = 3;
const SECONDS: u64 = 3;
const SECONDS_QUICK: u64 = 1;
const CLIENTS: [usize; 3] = [1, 64, 256];

/// Writes to disk, one after the other, that tell what one costs.
const SYNCS: usize = 500;
/// As long as a report in the log.
const SYNC_BYTES: [u8; 200] = [b'#'; 200];

/// A daemon that reports as fast as its reports are committed.
pub struct Reports {
    server: String,
    sequence: u64,
    answers: Answers,
}

impl Reports {
    /// `count` daemons, each of a server of its own. `first` is above every sequence that the cluster has seen of these servers.
    pub fn new(count: usize, first: u64) -> Vec<Self> {
        let one = |number| Self {
            server: format!("load-{number:04}"),
            sequence: first,
            answers: Answers::default(),
        };
        (0..count).map(one).collect()
    }
}

impl Dialogue for Reports {
    fn request(&mut self) -> Vec<u8> {
        self.sequence += 1;
        wire::post("/report", &report(&self.server, self.sequence, true))
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Fallible<bool> {
        self.answers.push(bytes);
        let Some(answer) = self.answers.next()? else { return Ok(false) };
        if !is_committed(&answer) {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(format!("a report was answered {}: {said}", answer.status).into());
        }
        Ok(true)
    }
}

/// Loads the leader with this many clients.
///
/// # Errors
/// When a write is refused or lost.
pub fn load(cluster: &mut Cluster, clients: usize, until: Until) -> Fallible<Outcome> {
    let leader = cluster.await_whole()?;
    let address = cluster.writes(leader);
    match cluster.system {
        System::Rakit(_) => {
            let reports = Reports::new(clients, cluster.reserve_sequences());
            closed_loop::run(reports.into_iter().map(|client| (address, client)).collect(), until)
        }
        System::Etcd => {
            let put = |number| (address, Put::new(format!("load-{number:04}")));
            closed_loop::run((0..clients).map(put).collect(), until)
        }
    }
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let rounds = setup.rounds(ROUNDS);
    for size in [3, 5] {
        let mut clusters = Vec::new();
        for system in [System::rakit(&setup.programs), System::Etcd] {
            let directory = setup.fresh_directory(&format!("{}-{size}", system.name()))?;
            clusters.push(Cluster::start(system, size, Site::loopback(), &directory)?);
        }
        for round in 1..=rounds {
            setup.say(&format!("{size} members, round {round}"));
            for clients in CLIENTS {
                let plural = if clients == 1 { "" } else { "s" };
                let setting = format!("{size} members, {clients} client{plural}");
                for cluster in &mut clusters {
                    let time = Duration::from_secs(setup.quick_or(SECONDS_QUICK, SECONDS));
                    let outcome = load(cluster, clients, Until::After(time))?;
                    let name = cluster.system.name();
                    results.record(&setting, name, "writes/s", outcome.per_second());
                    results.record(&setting, name, "median ms", outcome.quantile_ms(0.5));
                    results.record(&setting, name, "p99 ms", outcome.quantile_ms(0.99));
                }
            }
            time_syncs(setup, results)?;
        }
    }
    Ok(())
}

/// What the disk takes for one small durable write.
fn time_syncs(setup: &Setup, results: &mut Results) -> Fallible {
    let mut file = File::create(setup.directory.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&SYNC_BYTES)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    for (figure, part) in [("median ms", 0.5), ("p99 ms", 0.99)] {
        if let Some(time) = quantile(&times, part) {
            results.record(SYNC, DISK, figure, time);
        }
    }
    Ok(())
}
