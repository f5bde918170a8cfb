//! The servers' daemons: each reports to all nodes at its interval, with a growing (epoch, sequence).

use std::net::SocketAddr;

use rakit::balancer::{Report, Stamp};

use rakit::raft::Random;

/// One daemon.
pub struct Daemon {
    pub name: String,
    worker: SocketAddr,
    pub stamp: Stamp,
    pub is_running: bool,
    /// The newest of its reports that a node acknowledged.
    pub acknowledged: Stamp,
    /// Set when a stop ended; an older word to start or stop means nothing.
    pub turns: u64,
}

impl Daemon {
    pub fn new(number: u64) -> Self {
        Self {
            name: format!("server-{number}"),
            worker: SocketAddr::from(([10, 0, 0, 1], 13_000 + u16::try_from(number).expect("a few"))),
            stamp: Stamp { epoch: 1, sequence: 0 },
            is_running: true,
            acknowledged: Stamp::default(),
            turns: 0,
        }
    }

    /// A process started anew counts from the beginning, in a newer epoch.
    pub fn restart(&mut self) {
        self.stamp = Stamp { epoch: self.stamp.epoch + 1, sequence: 0 };
    }

    /// The next report, and whether a follower shall hand it on: nobody has committed the last one.
    pub fn report(&mut self, random: &mut Random) -> (Report, bool) {
        let forward = self.acknowledged < self.stamp && self.stamp.sequence > 0;
        self.stamp.sequence += 1;
        let report = Report {
            server: self.name.clone(),
            worker: self.worker,
            cpu: f64::from(u32::try_from(random.below(201)).expect("small")) / 2.0,
            cores: 2,
            epoch: self.stamp.epoch,
            sequence: self.stamp.sequence,
            worker_up: random.below(10) > 0,
            worker_active: None,
        };
        (report, forward)
    }
}
