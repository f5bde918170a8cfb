//! The oracle: it knows every server's speed, what runs there, and how much work each request brings. It sends each request to the
//! server that will answer it first. No real balancer can know that. Called by `mod.rs` and `simulate.rs`.

use super::server::Server;
use super::virtual_time::Spreader;

pub struct Oracle;

impl Spreader for Oracle {
    fn choose(&mut self, _: usize, work: f64, servers: &[Server<usize>], _: f64) -> usize {
        let time = |place: &usize| servers[*place].time_for(work);
        let best = (0..servers.len()).min_by(|a, b| time(a).total_cmp(&time(b)));
        best.expect("there are servers")
    }
}
