//! The peers as rules, for virtual time: the server with the fewest requests in flight from this one balancer, as nginx and HAProxy
//! choose. Called by `simulate.rs`.

use std::collections::BTreeMap;

use super::server::{Server, Spec};
use super::virtual_time::Spreader;

/// What makes a server count as wider than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    One,
    /// An operator wrote down the cores.
    Cores,
    /// The part that was idle by the newest report: HAProxy's agent-check.
    IdlePart,
}

/// One or more balancers that know nothing of each other.
pub struct LeastConnections {
    weight: Weight,
    weights: Vec<f64>,
    balancers: Vec<Balancer>,
    /// The balancer and the server of each request in flight.
    sent: BTreeMap<usize, (usize, usize)>,
}

#[derive(Clone)]
struct Balancer {
    in_flight: Vec<f64>,
    /// When each server was chosen last, in choices: among equals, the one that has waited longest.
    chosen: Vec<usize>,
}

/// HAProxy takes no weight of zero from an agent for a server that shall go on: `farm.rs` tells it at least 1 %.
const IDLE_MIN: f64 = 0.01;

impl LeastConnections {
    pub fn new(weight: Weight, balancers: usize, specs: &[Spec]) -> Self {
        let weights =
            specs.iter().map(|spec| if weight == Weight::Cores { f64::from(spec.cores) } else { 1.0 });
        let fresh = Balancer { in_flight: vec![0.0; specs.len()], chosen: vec![0; specs.len()] };
        Self { weight, weights: weights.collect(), balancers: vec![fresh; balancers], sent: BTreeMap::new() }
    }
}

impl Spreader for LeastConnections {
    fn choose(&mut self, request: usize, _: f64, servers: &[Server<usize>], _: f64) -> usize {
        let turn = request % self.balancers.len();
        let balancer = &mut self.balancers[turn];
        let load = |place: usize| (balancer.in_flight[place] + 1.0) / self.weights[place];
        let places = 0..servers.len();
        let best = places
            .min_by(|&a, &b| load(a).total_cmp(&load(b)).then(balancer.chosen[a].cmp(&balancer.chosen[b])));
        let best = best.expect("there are servers");
        balancer.in_flight[best] += 1.0;
        balancer.chosen[best] = request + 1;
        self.sent.insert(request, (turn, best));
        best
    }

    fn ended(&mut self, request: usize, _: f64) {
        let (balancer, server) = self.sent.remove(&request).expect("it was sent");
        self.balancers[balancer].in_flight[server] -= 1.0;
    }

    fn reported(&mut self, server: usize, cpu: f64, _: f64) {
        if self.weight == Weight::IdlePart {
            self.weights[server] = (1.0 - cpu / 100.0).max(IDLE_MIN);
        }
    }
}
