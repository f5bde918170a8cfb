//! Who cannot be beaten by much: it knows every server's speed, what runs there and how much work each request brings, and sends
//! each request where it will end first. Calculated, with the very servers of `server.rs`.

use super::replay::Outcome;
use super::server::Server;
use super::workload::{Arrival, Event, FOREIGN_SECONDS, SLOWED, Setting, work_of};

/// What becomes of these arrivals, known in advance one by one.
pub fn replay(setting: &Setting, seconds: f64, arrivals: &[Arrival]) -> Outcome {
    let mut servers: Vec<Server<usize>> = setting.specs().into_iter().map(Server::new).collect();
    let mut outcome = Outcome::default();
    let mut next = 0;
    let mut toggles = 0.0;
    let mut slows = (setting.event == Event::ServerSlows).then_some(seconds / 2.0);
    while next < arrivals.len() || servers.iter().any(|server| server.jobs() > 0) {
        let arrival = arrivals.get(next).copied();
        let toggle = (toggles + 1.0) * FOREIGN_SECONDS;
        let ends = servers.iter().filter_map(Server::next_end);
        let others = arrival.map(|arrival| arrival.at).into_iter().chain([toggle]).chain(slows);
        let now = ends.chain(others).fold(f64::INFINITY, f64::min);
        for server in &mut servers {
            for request in server.advance(now) {
                outcome.answered.push((arrivals[request].n, now - arrivals[request].at));
                outcome.makespan = now;
            }
        }
        if now >= toggle {
            toggles += 1.0;
            servers.iter_mut().for_each(|server| server.disturbed = !server.disturbed);
        }
        if slows.is_some_and(|at| now >= at) {
            slows = None;
            servers[0].spec.speed *= SLOWED;
        }
        if let Some(arrival) = arrival
            && now >= arrival.at
        {
            let work = work_of(arrival.n);
            let best = servers.iter_mut().min_by(|a, b| a.time_for(work).total_cmp(&b.time_for(work)));
            best.expect("there are servers").add(next, work);
            next += 1;
        }
    }
    outcome
}
