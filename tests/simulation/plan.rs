//! What one seed means: the size of the cluster, its time-outs and limits, how bad the network and the disks are, and which
//! kinds of strikes come how often. Everything is drawn here, so that a failing seed can be described in a few lines.
//!
//! Each seed switches a random part of the kinds of faults off altogether ("swarm testing", Groce et al. 2012): a schedule
//! with *every* fault in it rarely gets far enough to reach the states that only calmer ones reach.

use std::collections::BTreeMap;
use std::time::Duration;

use rakit::raft::Random;

/// Simulated time, in microseconds since the start of the seed.
pub type Time = u64;

/// One millisecond of it.
pub const MS: Time = 1_000;

/// How requests and replies travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As `node/peers.rs` does it: two slots for each peer, and one request under way in each. A newer request replaces
    /// the one that waits. A reply after the time-out is dropped.
    Http,
    /// Each message on its own: several requests are under way to one peer, late replies count, and a reported loss may be
    /// false. This is more than HTTP does, but the core must stand it.
    Wild,
}

/// When the loop goes on after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMode {
    /// As `node/raft_loop.rs` does it: the loop waits for its disk; meanwhile its mail queues up.
    Waits,
    /// The core gets further inputs while the write is under way, and `Persisted` comes later, for several writes at once.
    Behind,
}

/// What strikes at a random moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    Partition,
    Kill,
    PowerCut,
    CrashInDisk,
    FailWrite,
    FailSync,
    FullDisk,
    SlowDisk,
    FalseCommitHint,
    Pause,
    ClockJump,
    RestartAll,
    Wipe,
    WrongHint,
    Transfer,
    SpuriousReset,
    Storm,
    SlowLink,
    DaemonSilent,
    DaemonRestart,
    DaemonCut,
    DaemonClock,
    FalseReport,
    Order,
    Members,
}

const STRIKES: [(Strike, u64); 25] = [
    (Strike::Partition, 8),
    (Strike::Kill, 4),
    (Strike::PowerCut, 3),
    (Strike::CrashInDisk, 4),
    (Strike::FailWrite, 2),
    (Strike::FailSync, 2),
    (Strike::FullDisk, 2),
    (Strike::SlowDisk, 2),
    (Strike::FalseCommitHint, 2),
    (Strike::Pause, 4),
    (Strike::ClockJump, 2),
    (Strike::RestartAll, 1),
    (Strike::Wipe, 6),
    (Strike::WrongHint, 4),
    (Strike::Transfer, 4),
    (Strike::SpuriousReset, 1),
    (Strike::Storm, 2),
    (Strike::SlowLink, 4),
    (Strike::DaemonSilent, 2),
    (Strike::DaemonRestart, 2),
    (Strike::DaemonCut, 3),
    (Strike::DaemonClock, 2),
    (Strike::FalseReport, 3),
    (Strike::Order, 8),
    (Strike::Members, 12),
];

/// The draw of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// The founders.
    pub nodes: u64,
    /// Further machines, which are no members in the beginning. Only where members change.
    pub spares: u64,
    pub servers: u64,
    pub heartbeat: Duration,
    pub election_timeout: (Duration, Duration),
    pub server_timeout: Duration,
    pub report_interval: Time,
    pub snapshot_entries: u64,
    pub trailing_entries: u64,
    pub append_entries_max: usize,
    pub append_bytes_max: usize,
    /// Appends carry only an entry or a few: then a follower may fall behind the load, and no promise of time holds.
    pub is_narrow: bool,
    pub snapshot_chunk_bytes: usize,
    pub uncommitted_entries_max: u64,
    /// How many messages of each kind the loop takes at once (1,024 in the real one).
    pub batch_max: usize,
    /// How many messages of consensus wait in a node's inbox (1,024 in the real one), and how many reports (4,096).
    pub consensus_inbox_max: usize,
    pub report_inbox_max: usize,
    /// How many servers fit into the table (1,024 in the real one).
    pub servers_max: usize,
    pub transport: Transport,
    pub disk_mode: DiskMode,
    /// How many of 1,000 messages are lost / come twice / take up to 60 ms / take up to 2.5 election time-outs.
    pub loss: u64,
    pub duplicates: u64,
    pub slow: u64,
    pub late: u64,
    /// A write and its fsync take exactly so long; a random time up to `disk_latency_max` if `None`.
    pub fsync: Option<Time>,
    /// A write and its fsync take up to this.
    pub disk_latency_max: Time,
    /// Between two strikes pass twice this at the most.
    pub strike_interval: Time,
    pub strikes: BTreeMap<Strike, u64>,
    /// How long the first phase takes.
    pub chaos: Time,
}

impl Plan {
    /// The meaning of a seed.
    pub fn draw(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5eed_0fa1_1cad_af01);
        let pick =
            |random: &mut Random, choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
        let heartbeat = pick(random, &[20, 50, 100]);
        let strikes: BTreeMap<Strike, u64> = STRIKES
            .into_iter()
            .filter_map(|(strike, weight)| {
                // Half of the kinds, each time others.
                let factor = pick(random, &[0, 0, 1, 2]);
                (factor > 0).then_some((strike, weight * factor))
            })
            .collect();
        let rates = pick(random, &[0, 1, 1, 4]);
        let append_entries_max = pick(random, &[1, 2, 16, 4096]) as usize;
        let append_bytes_max = pick(random, &[200, 1_000, 1 << 20]) as usize;
        // With one entry to an append, a backlog of thousands would take longer than the second phase.
        let is_narrow = append_entries_max < 16 || append_bytes_max < 1_000;
        Self {
            seed,
            // People run three or five nodes. The other sizes test the arithmetic of majorities.
            nodes: pick(random, &[1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7]),
            spares: if strikes.contains_key(&Strike::Members) { random.below(3) } else { 0 },
            servers: 3 + random.below(4),
            heartbeat: Duration::from_millis(heartbeat),
            election_timeout: (Duration::from_millis(heartbeat * 5), Duration::from_millis(heartbeat * 10)),
            server_timeout: Duration::from_millis(heartbeat * 25),
            report_interval: heartbeat * MS * pick(random, &[1, 2, 5]),
            snapshot_entries: 20 + random.below(41),
            trailing_entries: pick(random, &[0, 0, 5, 40]),
            append_entries_max,
            append_bytes_max,
            is_narrow,
            snapshot_chunk_bytes: pick(random, &[50, 300, 256 << 10]) as usize,
            uncommitted_entries_max: pick(random, &[4, 30, if is_narrow { 60 } else { 16_384 }]),
            batch_max: pick(random, &[1, 3, 1_024, 1_024]) as usize,
            consensus_inbox_max: pick(random, &[1, 4, 1_024, 1_024]) as usize,
            report_inbox_max: pick(random, &[2, 8, 4_096, 4_096]) as usize,
            servers_max: pick(random, &[2, 3, 4, 1_024, 1_024, 1_024]) as usize,
            transport: if random.below(2) == 0 { Transport::Http } else { Transport::Wild },
            disk_mode: if random.below(3) < 2 { DiskMode::Waits } else { DiskMode::Behind },
            loss: rates * random.below(30),
            duplicates: rates * random.below(30),
            slow: rates * random.below(100),
            late: rates * random.below(10),
            fsync: None,
            disk_latency_max: pick(random, &[200, 2_000, 2_000, 20_000]),
            strike_interval: heartbeat * MS * pick(random, &[2, 4, 8, 20]),
            strikes,
            chaos: heartbeat * MS * (60 + random.below(90)),
        }
    }

    /// Members do not change: for tests that are about something else.
    pub fn fixed(mut self) -> Self {
        self.strikes.remove(&Strike::Members);
        self.spares = 0;
        self
    }

    /// Whether members change.
    pub fn changes_members(&self) -> bool {
        self.strikes.contains_key(&Strike::Members)
    }

    /// All machines: the founders', then the spares.
    pub fn machines(&self) -> u64 {
        self.nodes + self.spares
    }

    /// The next strike.
    pub fn strike(&self, random: &mut Random) -> Option<Strike> {
        let total: u64 = self.strikes.values().sum();
        let mut left = random.below(total.max(1));
        self.strikes.iter().find_map(|(strike, weight)| {
            if left < *weight {
                return Some(*strike);
            }
            left -= weight;
            None
        })
    }

    pub fn heartbeat_us(&self) -> Time {
        micros(self.heartbeat)
    }

    /// The upper election time-out: after it, everybody has noticed.
    pub fn patience(&self) -> Time {
        micros(self.election_timeout.1)
    }

    /// No message takes longer, if it arrives.
    pub fn latest(&self) -> Time {
        self.patience() * 5 / 2
    }
}

/// A duration in simulated time.
pub fn micros(duration: Duration) -> Time {
    u64::try_from(duration.as_micros()).expect("a few seconds")
}
