//! Counts what happened in all seeds. A fault that is planned but never happens tests nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::disk;

macro_rules! seen {
    ($($name:ident: $text:literal,)*) => {
        /// Something that must happen now and then: otherwise the simulator no longer tests it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Seen { $($name,)* }
        const ALL: &[(Seen, &str)] = &[$((Seen::$name, $text),)*];
    };
}

seen! {
    Lost: "network: message lost",
    LossTold: "network: the sender was told of the loss",
    LossSilent: "network: the sender was told nothing",
    Duplicated: "network: message delivered twice",
    Delayed: "network: message delayed by 1 to 60 ms",
    VeryLate: "network: message delayed up to 2.5 election time-outs",
    Reordered: "network: a later message overtook an earlier one",
    LateReply: "network: a reply came after its request was given up",
    Displaced: "network: a newer request took a waiting one's place",
    Refused: "network: request to a dead process refused",
    SlowLink: "network: a slow link held a message up",
    SlowLinkFull: "network: message lost, no room before a slow link",
    Storm: "network: a storm of loss, delay and duplicates",
    LeaderInMinority: "partition: leader in the minority",
    LeaderInMajority: "partition: leader in the majority",
    Isolated: "partition: one node alone",
    OneWay: "partition: one node heard but deaf, or the reverse",
    Partial: "partition: a single link between two nodes",
    Killed: "crash: process killed, page cache kept",
    PowerCut: "crash: power cut, unsynced writes at risk",
    CrashWhileWriting: "crash: between a write and its completion",
    RestartAll: "crash: all nodes at once",
    DeadInRecovery: "crash: inside the recovery",
    StoppedByDisk: "disk: node stopped by an error of its disk",
    MailWhileWriting: "disk: messages arrived during a write",
    ConsensusInboxFull: "inbox: full, a message of consensus waited for room",
    ReportInboxFull: "inbox: full, a report was turned away",
    SlowDisk: "disk: slow for a while",
    HintHonoured: "commit hint: honoured at a start",
    HintOld: "commit hint: honoured, and older than what was committed",
    HintLost: "commit hint: lost or torn in a power cut",
    HintFalse: "commit hint: about an entry that the log does not hold",
    Wiped: "disk: emptied, at any moment",
    WipedJoining: "disk: emptied before the node counted",
    WipeForbidden: "disk: not emptied, too few would remember",
    Founded: "joining: a node helped to found the cluster",
    FoundingWaits: "joining: a round of questions founded nothing",
    Admitted: "joining: a leader admitted a node",
    Paused: "time: process paused (SIGSTOP), its mail queued up",
    ClockJumped: "time: a node's clock jumped ahead",
    HintRight: "hint: the leader's process died, and a follower was told",
    HintWrong: "hint: the leader is said to be dead, and lives",
    ChangeAsked: "members: a change was asked for",
    ChangeCommitted: "members: a change was committed",
    ChangeRefused: "members: a change was refused",
    MemberPromoted: "members: a learner had caught up",
    MemberRemoved: "members: a removed node was told",
    ListTruncated: "members: a list was truncated",
    ReplacementAsked: "members: a removed node's place was taken by an empty directory, and it was asked for again",
    Replaced: "members: a replaced node votes",
    TransferAsked: "transfer: asked for at a leader",
    TransferElection: "transfer: the target campaigned",
    PeerReset: "reset: a peer came back with another incarnation",
    SpuriousReset: "reset: said of a peer that is as it was",
    DaemonSilent: "daemon: silent for a while",
    DaemonRestart: "daemon: restarted with a new epoch",
    DaemonCut: "daemon: cut off from some nodes",
    DaemonClock: "daemon: restarted, its clock far ahead or back",
    FalseReport: "daemon: a stranger reported its server with some stamp",
    WentAbove: "daemon: went on above a committed stamp",
    Forwarded: "daemon: report handed on by a follower",
    Acknowledged: "report: acknowledged as committed",
    AcknowledgedStale: "report: acknowledged as stale",
    Unknown: "report: outcome unknown, leadership lost",
    Busy: "report: turned away, busy",
    OtherDaemon: "report: refused, the name is another daemon's",
    NotLeader: "report: heard by a follower",
    TurnedAwayFull: "report: turned away, the table is full of living servers",
    TableFull: "table: no room for a new server",
    Evicted: "table: a dead server gave way to a new one",
    Drained: "order: a server was drained",
    Undrained: "order: a server was undrained",
    Forgotten: "order: a dead server was forgotten",
    ForgetRefused: "order: a living server was not forgotten",
    OrderVoid: "order: changed nothing",
    OrderAcknowledged: "order: acknowledged as applied",
    OrderLost: "order: refused, or its outcome unknown",
    ServerDied: "verdict: committed, the server is dead",
    ServerRevived: "verdict: undone by a newer report",
    LeaderElected: "raft: leader elected",
    TermWithoutLeader: "raft: an election that nobody won",
    SteppedDown: "raft: leader without a majority stepped down",
    Truncated: "raft: uncommitted entries gave way",
    Compacted: "raft: log compacted",
    SnapshotInstalled: "raft: snapshot installed",
    SnapshotRestarted: "raft: a snapshot begun by one leader and by another",
}

/// After so many seeds, even the rarest fault must have happened.
const SEEDS_FOR_THE_RAREST: u64 = 5_000;

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    seen: BTreeMap<Seen, u64>,
    disk: disk::Coverage,
}

impl Coverage {
    pub fn count(&mut self, seen: Seen) {
        *self.seen.entry(seen).or_default() += 1;
    }

    pub fn count_disk(&mut self, disk: &disk::Coverage) {
        self.disk.add(disk);
    }

    pub fn add(&mut self, other: &Self) {
        for (seen, count) in &other.seen {
            *self.seen.entry(*seen).or_default() += count;
        }
        self.disk.add(&other.disk);
    }

    /// What never happened in so many seeds, in words.
    pub fn missing(&self, seeds: u64) -> Vec<String> {
        let seen = ALL.iter().filter(|(seen, _)| !self.seen.contains_key(seen));
        let seen = seen.map(|(_, text)| (*text).to_owned());
        let mut faults = self.disk.missing();
        // Only a power cut in the middle of a recovery that cuts a torn record does this.
        // And only a long append in whose middle the power is cut leaves zeros before whole lines.
        let rarest = [disk::Fault::UndoneTruncation, disk::Fault::ZeroHole];
        faults.retain(|fault| !rarest.contains(fault) || seeds >= SEEDS_FOR_THE_RAREST);
        seen.chain(faults.into_iter().map(|fault| format!("disk: {fault:?}"))).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seen, text) in ALL {
            writeln!(f, "{:>9} {text}", self.seen.get(seen).copied().unwrap_or(0))?;
        }
        write!(f, "{}", self.disk)
    }
}
