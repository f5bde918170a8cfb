//! What one round consists of: the servers, the requests with their moments, and what happens in the middle. It is made from a seed,
//! so that every system gets the same. Called by `mod.rs`, `real.rs` and `simulate.rs`.

use super::server::Spec;
use crate::random::Random;

/// N is the work in millionths of a second: so a request needs no table to say what it costs.
const WORK_PER_SECOND: f64 = 1e6;

/// Requests of this much work and less are the small ones, in seconds.
pub const SMALL: f64 = 0.02;

/// A server without foreign load.
const fn alone(cores: u32, speed: f64) -> Spec {
    Spec { cores, speed, visiting: 0, lasting: 0 }
}

/// Servers that are not equal: one quarter of all servers each.
const UNEQUAL: [Spec; 4] =
    [alone(4, 1.0), alone(2, 1.0), Spec { visiting: 2, ..alone(2, 1.0) }, alone(1, 0.5)];

/// The same, but the foreign load is on the greatest server, and stays.
const OCCUPIED: [Spec; 4] =
    [Spec { lasting: 4, ..alone(4, 1.0) }, alone(2, 1.0), alone(2, 1.0), alone(1, 0.5)];

/// All servers are equal.
const EQUAL: [Spec; 1] = [alone(2, 1.0)];

/// The foreign load comes after so many seconds, stays as long, goes, and so on.
pub const FOREIGN_SECONDS: f64 = 7.0;

/// What a server that slows down is left with.
pub const SLOWED: f64 = 0.25;

/// A daemon's pause is longer or shorter by up to this part of it, as `rakit-daemon`'s is.
pub const JITTER: f64 = 0.1;

/// What happens in the middle of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Nothing,
    /// One node of each cluster is killed and stays dead.
    NodeDies,
    /// The first server's cores become slow.
    ServerSlows,
}

/// What the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Servers {
    Unequal,
    Occupied,
    Equal,
}

/// How much work the requests bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Many small ones, some of ten times their work, few of a hundred times.
    Mixed,
    /// The small ones alone.
    Small,
    /// The work of all requests of one size is about as much as that of any other size, from 5 ms to 5 s.
    HeavyTail,
}

impl Mix {
    /// Seconds of work, and the part of the requests that have it.
    fn classes(self) -> &'static [(f64, f64)] {
        match self {
            Self::Mixed => &[(0.02, 0.80), (0.2, 0.18), (2.0, 0.02)],
            Self::Small => &[(0.02, 1.0)],
            // Each size is four times the one before it, and comes 4.6 times more rarely: a Pareto distribution with index 1.1.
            Self::HeavyTail => &[
                (0.005, 0.7826),
                (0.02, 0.1703),
                (0.08, 0.0371),
                (0.32, 0.0081),
                (1.28, 0.0017),
                (5.12, 0.0002),
            ],
        }
    }

    fn mean(self) -> f64 {
        self.classes().iter().map(|(work, part)| work * part).sum()
    }
}

/// When the requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// At random moments: a Poisson process.
    Steady,
    /// For a second, three times as many; then, for two seconds, none.
    Bursts,
}

/// [`Rhythm::Bursts`]: the time from one burst to the next, and the part of it that a burst takes.
const BURST_SECONDS: f64 = 3.0;
const BURST_PART: f64 = 1.0 / 3.0;

/// One row of the experiment's design.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    pub servers: usize,
    pub kind: Servers,
    pub mix: Mix,
    pub rhythm: Rhythm,
    /// Of the capacity of all servers.
    pub load: f64,
    pub report_interval_ms: u64,
    pub event: Event,
}

impl Setting {
    pub const HEADLINE: Self = Self {
        servers: 4,
        kind: Servers::Unequal,
        mix: Mix::Mixed,
        rhythm: Rhythm::Steady,
        load: 0.8,
        report_interval_ms: 1_000,
        event: Event::Nothing,
    };

    /// The headline with a server that slows down: at this load, the servers that are left with less can still do the work.
    pub const SLOWING: Self = Self { load: 0.5, event: Event::ServerSlows, ..Self::HEADLINE };

    /// As it stands above its table.
    pub fn name(&self) -> String {
        let interval = self.report_interval_ms as f64 / 1e3;
        let kind = match self.kind {
            Servers::Unequal => "servers",
            Servers::Occupied => "servers, one of them always occupied",
            Servers::Equal => "equal servers",
        };
        let mix = match self.mix {
            Mix::Mixed => "",
            Mix::Small => ", small requests only",
            Mix::HeavyTail => ", heavy tail",
        };
        let rhythm = if self.rhythm == Rhythm::Bursts { ", in bursts" } else { "" };
        let event = match self.event {
            Event::Nothing => "",
            Event::NodeDies => ", one node dies in the middle",
            Event::ServerSlows => ", one server slows down in the middle",
        };
        let (servers, load) = (self.servers, self.load);
        format!("{servers} {kind}, load {load}, reports each {interval} s{mix}{rhythm}{event}")
    }

    pub fn specs(&self) -> Vec<Spec> {
        let specs: &[Spec] = match self.kind {
            Servers::Unequal => &UNEQUAL,
            Servers::Occupied => &OCCUPIED,
            Servers::Equal => &EQUAL,
        };
        specs.iter().copied().cycle().take(self.servers).collect()
    }
}

/// A request to come.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Seconds after the start.
    pub at: f64,
    pub n: u64,
}

/// Seconds of work that an N stands for.
pub fn work_of(n: u64) -> f64 {
    n as f64 / WORK_PER_SECOND
}

/// What everybody gets in one round of a setting.
pub fn arrivals(setting: &Setting, seconds: f64, seed: u64) -> Vec<Arrival> {
    let capacity: f64 = setting.specs().iter().map(Spec::capacity).sum();
    let per_second = setting.load * capacity / setting.mix.mean();
    let in_millionths = |&(work, part): &(f64, f64)| ((work * WORK_PER_SECOND).round() as u64, part);
    let mix: Vec<_> = setting.mix.classes().iter().map(in_millionths).collect();
    match setting.rhythm {
        Rhythm::Steady => poisson(per_second, &mix, seconds, seed),
        Rhythm::Bursts => {
            // The same process, on a clock that stands still between the bursts.
            let mut all = poisson(per_second / BURST_PART, &mix, seconds * BURST_PART, seed);
            let burst = BURST_SECONDS * BURST_PART;
            all.iter_mut().for_each(|arrival| {
                arrival.at += (arrival.at / burst).floor() * (BURST_SECONDS - burst);
            });
            all
        }
    }
}

/// Poisson arrivals at so many per second; the mix says which part of them has which N.
pub fn poisson(per_second: f64, mix: &[(u64, f64)], seconds: f64, seed: u64) -> Vec<Arrival> {
    let (mut random, mut at, mut all) = (Random::new(seed), 0.0, Vec::new());
    loop {
        // The exponential distribution by inversion; 1 - uniform is never 0.
        at -= (1.0 - random.uniform()).ln() / per_second;
        if at >= seconds {
            return all;
        }
        let (mut draw, mut n) = (random.uniform(), 0);
        for (class, part) in mix {
            n = *class;
            if draw < *part {
                break;
            }
            draw -= part;
        }
        all.push(Arrival { at, n });
    }
}
