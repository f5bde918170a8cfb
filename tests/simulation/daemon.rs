//! The servers' daemons: each reports to all nodes at its interval, with a growing (epoch, sequence).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rakit::balancer::report::COUNTER_MAX;
use rakit::balancer::{Report, Stamp};

use rakit::raft::Random;

/// The instances of daemons that a test does not run are above those of the others.
const FIRST_STRANGER: u64 = 1_000_000;

/// One daemon.
pub struct Daemon {
    pub name: String,
    worker: SocketAddr,
    pub stamp: Stamp,
    /// The number of its process.
    instance: u64,
    pub is_running: bool,
    /// The last of its reports that a leader answered.
    answered: Stamp,
    /// What it has sent since the healing.
    pub sent_since_healing: BTreeSet<Stamp>,
    /// Grows at each stop, and at the healing. A planned start or stop with an older number is void.
    pub turns: u64,
}

impl Daemon {
    pub fn new(number: u64) -> Self {
        Self {
            name: format!("server-{number}"),
            worker: SocketAddr::from(([10, 0, 0, 1], 13_000 + u16::try_from(number).expect("a few"))),
            stamp: Stamp { epoch: 1, sequence: 0 },
            instance: 1,
            is_running: true,
            answered: Stamp::default(),
            sent_since_healing: BTreeSet::new(),
            turns: 0,
        }
    }

    /// A process started anew counts from the beginning, in the epoch that its clock says.
    pub fn restart(&mut self, epoch: u64) {
        self.stamp = Stamp { epoch, sequence: 0 };
        self.instance += 1;
    }

    /// A leader answered its report. If a report with this stamp is committed, the daemon goes on above it, as the real one does.
    /// Returns whether it had to.
    pub fn answered(&mut self, answered: Stamp, committed: Stamp) -> bool {
        self.answered = answered;
        let epoch = committed.epoch_above(self.stamp);
        self.stamp.epoch = epoch.unwrap_or(self.stamp.epoch);
        epoch.is_some()
    }

    /// The next report, and whether a follower shall hand it on: no leader has answered the last one.
    pub fn report(&mut self, random: &mut Random) -> (Report, bool) {
        let forward = self.answered != self.stamp && self.stamp.sequence > 0;
        self.stamp.sequence += 1;
        self.sent_since_healing.insert(self.stamp);
        (self.report_as(self.stamp, Some(self.instance), random), forward)
    }

    /// Somebody else's report of this server, with a stamp that no clock gave.
    pub fn false_report(&self, random: &mut Random) -> Report {
        let stamp = match random.below(4) {
            0 => Stamp { epoch: COUNTER_MAX, sequence: COUNTER_MAX },
            1 => Stamp { epoch: COUNTER_MAX, sequence: random.below(20) },
            2 => Stamp { epoch: COUNTER_MAX - 1, sequence: COUNTER_MAX },
            _ => Stamp {
                epoch: (self.stamp.epoch + random.below(3)).min(COUNTER_MAX),
                sequence: random.below(100),
            },
        };
        // By hand, or by a second daemon with this name.
        let instance = (random.below(2) == 0).then(|| FIRST_STRANGER + random.below(3));
        self.report_as(stamp, instance, random)
    }

    fn report_as(&self, stamp: Stamp, instance: Option<u64>, random: &mut Random) -> Report {
        let half_percents = u32::try_from(random.below(201)).expect("small");
        Report {
            server: self.name.clone(),
            worker: self.worker,
            cpu: f64::from(half_percents) / 2.0,
            cores: 2,
            // Some machines do not tell their load.
            cpu_known: half_percents % 20 != 0,
            epoch: stamp.epoch,
            sequence: stamp.sequence,
            worker_up: random.below(10) > 0,
            worker_active: None,
            instance,
        }
    }
}
