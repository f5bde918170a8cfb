//! A round in virtual time: no socket, no clock, no thread. The servers of `server.rs` compute, reports are taken, requests come, and
//! a [`Spreader`] says where each of them goes. A round of twenty seconds takes some milliseconds, and the same seed always gives the
//! same figures, whatever else the machine does.
//!
//! Called by `simulate.rs` for every rule, and by `mod.rs` for the oracle beside the real programs.

use super::replay::Outcome;
use super::server::Server;
use super::workload::{Arrival, Event, FOREIGN_SECONDS, JITTER, SLOWED, Setting, work_of};
use crate::random::Random;

/// Who chooses a server for each request. All times are in seconds from the beginning of the round.
pub trait Spreader {
    /// The place of the server that gets this request, which brings so many seconds of work.
    fn choose(&mut self, request: usize, work: f64, servers: &[Server<usize>], now: f64) -> usize;

    /// A request was answered.
    fn ended(&mut self, _request: usize, _now: f64) {}

    /// A server's daemon has measured so many percent.
    fn reported(&mut self, _server: usize, _cpu: f64, _now: f64) {}

    /// When [`step`](Self::step) is to be called next.
    fn next_step(&self) -> f64 {
        f64::INFINITY
    }

    /// That moment has come.
    fn step(&mut self, _now: f64) {}

    /// A node dies. Gives the requests that it had in flight: their clients ask again.
    fn lose_node(&mut self) -> Vec<usize> {
        Vec::new()
    }
}

/// Lets the requests come, and tells what became of them. `seed` is for the moments of the reports.
pub fn run(
    setting: &Setting,
    seconds: f64,
    arrivals: &[Arrival],
    seed: u64,
    spreader: &mut dyn Spreader,
) -> Outcome {
    let mut random = Random::new(seed);
    let interval = setting.report_interval_ms as f64 / 1e3;
    let mut servers: Vec<Server<usize>> = setting.specs().into_iter().map(Server::new).collect();
    let mut next_reports: Vec<f64> = servers.iter().map(|_| random.uniform() * interval).collect();
    let mut next_toggle = FOREIGN_SECONDS;
    let mut event = (setting.event != Event::Nothing).then_some(seconds / 2.0);
    let mut next = 0;
    let mut outcome = Outcome::default();
    while next < arrivals.len() || servers.iter().any(|server| server.jobs() > 0) {
        let ends = servers.iter().filter_map(Server::next_end);
        let arrival = arrivals.get(next).copied();
        let others = arrival.map(|arrival| arrival.at).into_iter().chain(event);
        let others = others.chain([next_toggle, spreader.next_step()]).chain(next_reports.iter().copied());
        let now = ends.chain(others).fold(f64::INFINITY, f64::min);
        for server in &mut servers {
            for request in server.advance(now) {
                spreader.ended(request, now);
                outcome.answered.push((arrivals[request].n, now - arrivals[request].at));
                outcome.makespan = now;
            }
        }
        if now >= next_toggle {
            next_toggle += FOREIGN_SECONDS;
            servers.iter_mut().for_each(|server| server.disturbed = !server.disturbed);
        }
        for (place, at) in next_reports.iter_mut().enumerate().filter(|(_, at)| now >= **at) {
            spreader.reported(place, servers[place].look_at_load(), now);
            *at = now + interval * (1.0 + JITTER * (2.0 * random.uniform() - 1.0));
        }
        if now >= spreader.next_step() {
            spreader.step(now);
        }
        let mut asking = Vec::new();
        if event.is_some_and(|at| now >= at) {
            event = None;
            match setting.event {
                Event::Nothing => {}
                Event::ServerSlows => servers[0].spec.speed *= SLOWED,
                Event::NodeDies => {
                    asking = spreader.lose_node();
                    let lost = |request| servers.iter_mut().for_each(|server| server.abandon(request));
                    asking.iter().copied().for_each(lost);
                }
            }
        }
        if arrival.is_some_and(|arrival| now >= arrival.at) {
            asking.push(next);
            next += 1;
        }
        for request in asking {
            let work = work_of(arrivals[request].n);
            let place = spreader.choose(request, work, &servers, now);
            servers[place].add(request, work);
        }
    }
    outcome
}
