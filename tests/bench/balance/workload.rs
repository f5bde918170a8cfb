//! What everybody has to bear in one round: the servers, when which request comes, and what happens meanwhile. Made from a seed,
//! so that every system bears the same.

use super::server::Spec;
use crate::random::Random;

/// N is the work in millionths of a second: so a request needs no table to say what it costs.
const WORK_PER_SECOND: f64 = 1e6;

/// Requests of this much work and less are the small ones, in seconds.
pub const SMALL: f64 = 0.02;

/// The headline's mix: seconds of work, and the part of the requests that have it.
const MIX: [(f64, f64); 3] = [(0.02, 0.80), (0.2, 0.18), (2.0, 0.02)];

/// One quarter of all servers each.
const SERVERS: [Spec; 4] = [
    Spec { cores: 4, speed: 1.0, foreign: 0 },
    Spec { cores: 2, speed: 1.0, foreign: 0 },
    Spec { cores: 2, speed: 1.0, foreign: 2 },
    Spec { cores: 1, speed: 0.5, foreign: 0 },
];

/// The foreign load comes after so many seconds, stays as long, goes, and so on.
pub const FOREIGN_SECONDS: f64 = 7.0;

/// What a server that slows down is left with.
pub const SLOWED: f64 = 0.25;

/// What happens in the middle of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Nothing,
    /// One node of each cluster is killed and stays dead.
    NodeDies,
    /// The first server's cores become slow.
    ServerSlows,
}

/// One row of the experiment's design.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    pub servers: usize,
    /// Of the capacity of all servers.
    pub load: f64,
    pub report_interval_ms: u64,
    pub event: Event,
}

impl Setting {
    pub const HEADLINE: Self =
        Self { servers: 4, load: 0.8, report_interval_ms: 1_000, event: Event::Nothing };

    /// As it stands above its table.
    pub fn name(&self) -> String {
        let interval = self.report_interval_ms as f64 / 1e3;
        let event = match self.event {
            Event::Nothing => "",
            Event::NodeDies => ", one node dies in the middle",
            Event::ServerSlows => ", one server slows down in the middle",
        };
        format!("{} servers, load {}, reports each {interval} s{event}", self.servers, self.load)
    }

    pub fn specs(&self) -> Vec<Spec> {
        (0..self.servers).map(|number| SERVERS[number % SERVERS.len()]).collect()
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
    let mean: f64 = MIX.iter().map(|(work, part)| work * part).sum();
    let mix = MIX.map(|(work, part)| ((work * WORK_PER_SECOND).round() as u64, part));
    poisson(setting.load * capacity / mean, &mix, seconds, seed)
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
