//! The server table: the state machine that Raft replicates (paper, section 2). Each node applies the same
//! committed commands in the same order and so holds the same table. `GET /status` shows its digest, so that
//! the tables can be compared.
//!
//! Only the replica (`src/replica/`) changes the table, once for every committed entry. Nothing here may
//! depend on a clock, on chance, or on the order of a hash map. These are all the rules:
//!
//! 1. While a server is alive, a report counts if its stamp `(epoch, sequence)` is above the committed one. If
//!    the server is dead, a report of any other epoch counts, too: so no stamp, not even the greatest, keeps a
//!    server dead for ever. Any other report changes nothing.
//! 2. A report that counts makes its server alive. The name then belongs to the daemon whose `instance` the report
//!    names: while the server is alive, a report of another instance changes nothing, whatever its stamp. A report
//!    without an instance counts as before, and leaves the name to nobody.
//! 3. A verdict names the newest report that the leader had applied. If the table still holds that report,
//!    the server becomes dead. If a newer report was committed before the verdict, the verdict changes
//!    nothing.
//! 4. The table holds at most `servers_max` servers. If it is full, a new server replaces the one that has
//!    been dead the longest. If all are alive, the new server is refused: a living server is never removed.
//!    The bound is replicated: it is part of the snapshot and of the digest.
//! 5. An operator's order: a drained server is in no node's choice, until it is undrained or leaves the table; its
//!    reports and verdicts count as before, and it stays drained through them. Only a dead server is forgotten. After
//!    that, a report of its name is that of a new server.
//! 6. An unknown command is ignored and counted, on all nodes alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::command::{Dead, OrderEffect, ServerCommand, ServerOrder};
use super::report::{Report, told};
use crate::raft::{Command, Entry, FOUNDING_INDEX, Founding, Index, Members, Term};

/// The most servers of any table; a node uses this value. It bounds memory, the snapshot (some 300 KiB), and
/// the time of a choice.
pub const SERVERS_MAX: usize = 1_024;

/// How many bytes of the SHA-256 the digest shows: 16, as 32 hexadecimal characters. Different tables
/// practically never share it.
const DIGEST_BYTES: usize = 16;

/// The agreed state of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRecord {
    /// Its newest committed report.
    pub report: Report,
    /// False from a committed verdict until the next newer report.
    pub alive: bool,
    /// The log index of `report`.
    pub reported_at: Index,
    /// The term of the entry at that index. Stored here, because compaction removes the entry.
    pub reported_term: Term,
    /// The log index of the entry that last changed `alive`: the first report, a verdict, or a report after
    /// one.
    pub decided_at: Index,
    /// The log index of the order that drained it; `None` if it may be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Index>,
}

/// What the table would do with a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It counts.
    News,
    /// It is not newer than the committed one.
    Stale,
    /// The name belongs to another daemon, which runs.
    OtherDaemon,
}

impl ServerRecord {
    /// What becomes of a report of this server: rules 1 and 2.
    pub fn fit(&self, report: &Report) -> Fit {
        let (stamp, committed) = (report.stamp(), self.report.stamp());
        let of_another =
            self.report.instance.zip(report.instance).is_some_and(|(owner, other)| owner != other);
        if self.alive && of_another {
            Fit::OtherDaemon
        } else if stamp > committed || (!self.alive && stamp.epoch != committed.epoch) {
            Fit::News
        } else {
            Fit::Stale
        }
    }
}

/// What one applied entry changed. The answer to a report, log lines and counters follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A leader's no-op, the founding of the cluster, or a list of its members: nothing.
    Noop,
    /// The first report of a server.
    New {
        /// The dead server that it replaced, if the table was full.
        evicted: Option<String>,
    },
    /// A newer report of a server that was alive.
    Updated,
    /// A newer report of a server that was alive; its worker, which was down, listens again.
    WorkerUp,
    /// A newer report of a server that was alive; its worker does not listen any more. It is alive, but
    /// cannot be chosen.
    WorkerDown,
    /// A newer report of a server that was dead.
    Revived,
    /// A verdict that took effect: the server is dead.
    Died,
    /// A report of a server that another daemon reports: nothing changed.
    OtherDaemon,
    /// A report that is not newer, a verdict that came after a newer report, or a second verdict: nothing
    /// changed.
    Stale,
    /// The first report of a server, while the table is full of living servers: nothing changed.
    NoRoom,
    /// An operator's order, and what it came to.
    Ordered(OrderEffect),
    /// Not a command: only the counter grew. The reason, one line.
    Ignored(String),
}

impl Change {
    /// Whether the entry was a report that the table holds now.
    pub fn took_report(&self) -> bool {
        match self {
            Self::New { .. } | Self::Updated | Self::WorkerUp | Self::WorkerDown | Self::Revived => true,
            Self::Noop
            | Self::Died
            | Self::OtherDaemon
            | Self::Stale
            | Self::NoRoom
            | Self::Ordered(_)
            | Self::Ignored(_) => false,
        }
    }
}

/// The replicated state. Readers use [`View`](super::View) and do not clone the table.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTable {
    servers_max: usize,
    servers: BTreeMap<String, Arc<ServerRecord>>,
    applied_index: Index,
    ignored: u64,
}

/// The form of a table in a snapshot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<'a> {
    applied_index: Index,
    servers_max: usize,
    ignored: u64,
    servers: Vec<std::borrow::Cow<'a, ServerRecord>>,
}

impl ServerTable {
    /// The table before the first entry, with room for `servers_max` servers.
    ///
    /// # Panics
    /// When `servers_max` is not from 1 to [`SERVERS_MAX`].
    pub fn new(servers_max: usize) -> Self {
        assert!((1..=SERVERS_MAX).contains(&servers_max), "room for 1 to {SERVERS_MAX} servers");
        Self { servers_max, servers: BTreeMap::new(), applied_index: 0, ignored: 0 }
    }

    /// Applies a committed entry.
    ///
    /// # Panics
    /// When its index is not above the applied index: applying an entry twice is a bug of the caller.
    pub fn apply(&mut self, entry: &Entry) -> Change {
        let Entry { index, term, command } = entry;
        assert!(*index > self.applied_index, "entry {index} applied after {}", self.applied_index);
        self.applied_index = *index;
        let is_founding = *index == FOUNDING_INDEX && Founding::of_command(command).is_some();
        // Who is a member is the consensus' own business.
        if command.is_noop() || is_founding || Members::of_command(command).is_some() {
            return Change::Noop;
        }
        let change = match ServerCommand::parse(command) {
            Ok(ServerCommand::Report(report)) => self.apply_report(*index, *term, report),
            Ok(ServerCommand::Dead(dead)) => self.apply_dead(*index, &dead),
            Ok(ServerCommand::Order(order)) => Change::Ordered(self.apply_order(*index, &order)),
            Err(reason) => {
                self.ignored += 1;
                Change::Ignored(reason)
            }
        };
        assert!(self.servers.len() <= self.servers_max, "the table outgrew its bound");
        change
    }

    fn apply_report(&mut self, index: Index, term: Term, report: Report) -> Change {
        let Some(slot) = self.servers.get_mut(&report.server) else {
            return self.apply_first_report(index, term, report);
        };
        match slot.fit(&report) {
            Fit::News => {}
            Fit::Stale => return Change::Stale,
            Fit::OtherDaemon => return Change::OtherDaemon,
        }
        let change = match (slot.alive, slot.report.worker_up, report.worker_up) {
            (false, _, _) => Change::Revived,
            (true, false, true) => Change::WorkerUp,
            (true, true, false) => Change::WorkerDown,
            (true, _, _) => Change::Updated,
        };
        let decided_at = if slot.alive { slot.decided_at } else { index };
        // A new record, not a change in place: readers hold the old one, and detect the new one by its
        // address.
        *slot = Arc::new(ServerRecord {
            report,
            alive: true,
            reported_at: index,
            reported_term: term,
            decided_at,
            drained_at: slot.drained_at,
        });
        change
    }

    fn apply_first_report(&mut self, index: Index, term: Term, report: Report) -> Change {
        let mut evicted = None;
        if self.servers.len() >= self.servers_max {
            // Each `decided_at` belongs to one server, so exactly one has been dead the longest.
            let dead =
                self.servers.values().filter(|record| !record.alive).min_by_key(|record| record.decided_at);
            let Some(dead) = dead else { return Change::NoRoom };
            let name = dead.report.server.clone();
            self.servers.remove(&name);
            evicted = Some(name);
        }
        let name = report.server.clone();
        let record = ServerRecord {
            report,
            alive: true,
            reported_at: index,
            reported_term: term,
            decided_at: index,
            drained_at: None,
        };
        self.servers.insert(name, Arc::new(record));
        Change::New { evicted }
    }

    fn apply_dead(&mut self, index: Index, dead: &Dead) -> Change {
        let Some(slot) = self.servers.get_mut(&dead.server) else {
            return Change::Stale;
        };
        // Equal, not "at least": a correct leader names a report that it has applied, so this table holds
        // that report or a newer one.
        if !slot.alive || slot.report.stamp() != dead.stamp() {
            return Change::Stale;
        }
        *slot = Arc::new(ServerRecord { alive: false, decided_at: index, ..(**slot).clone() });
        Change::Died
    }

    fn apply_order(&mut self, index: Index, order: &ServerOrder) -> OrderEffect {
        let Some(slot) = self.servers.get_mut(order.server()) else { return OrderEffect::NoSuchServer };
        let drained_at = match order {
            ServerOrder::Drain(_) if slot.drained_at.is_none() => Some(index),
            ServerOrder::Undrain(_) if slot.drained_at.is_some() => None,
            ServerOrder::Drain(_) | ServerOrder::Undrain(_) => return OrderEffect::AlreadySo,
            ServerOrder::Forget(_) if slot.alive => return OrderEffect::StillAlive,
            ServerOrder::Forget(server) => {
                self.servers.remove(server);
                return OrderEffect::Done;
            }
        };
        *slot = Arc::new(ServerRecord { drained_at, ..(**slot).clone() });
        OrderEffect::Done
    }

    /// The index of the last applied entry.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The most servers that it may hold.
    pub fn servers_max(&self) -> usize {
        self.servers_max
    }

    /// How many committed commands were ignored: see [`Change::Ignored`].
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The agreed state of a server.
    pub fn get(&self, server: &str) -> Option<&Arc<ServerRecord>> {
        self.servers.get(server)
    }

    /// All servers, by name.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &Arc<ServerRecord>> {
        self.servers.values()
    }

    /// What the table would do with a report now. The leader proposes only what counts.
    pub fn fit(&self, report: &Report) -> Fit {
        self.servers.get(&report.server).map_or(Fit::News, |record| record.fit(report))
    }

    /// Whether the table would accept a report of this server now: the server is known, there is room, or a
    /// dead server can be replaced. Entries that are not applied yet may change the answer.
    pub fn has_room_for(&self, server: &str) -> bool {
        self.servers.len() < self.servers_max
            || self.servers.contains_key(server)
            || self.servers.values().any(|record| !record.alive)
    }

    /// The digest of the replicated state: 32 hexadecimal characters. Equal on all nodes with the same
    /// applied index.
    pub fn digest(&self) -> String {
        digest(self.servers_max, self.ignored, self.servers.values().map(|record| &**record))
    }

    /// The whole state as one JSON text: the state of a Raft snapshot.
    pub fn to_snapshot(&self) -> Command {
        let servers = self.servers.values().map(|record| std::borrow::Cow::Borrowed(&**record)).collect();
        let (applied_index, servers_max, ignored) = (self.applied_index, self.servers_max, self.ignored);
        let saved = Saved { applied_index, servers_max, ignored, servers };
        Command::from_value(&saved).expect("a struct of strings and finite numbers always has a JSON form")
    }

    /// Checks that `state` is a table as of `index`. The Raft core calls this before it accepts a snapshot.
    ///
    /// # Errors
    /// The reason, one line.
    pub fn check_snapshot(index: Index, state: &Command) -> Result<(), String> {
        let applied_index = Self::from_snapshot(state)?.applied_index;
        if applied_index != index {
            return Err(format!("a server table as of index {applied_index}, not {index}"));
        }
        Ok(())
    }

    /// Reads the output of [`to_snapshot`](Self::to_snapshot). The result is an equal table with an equal
    /// digest.
    ///
    /// # Errors
    /// One line, when the text is not the snapshot of a table that [`apply`](Self::apply) could have made.
    pub fn from_snapshot(state: &Command) -> Result<Self, String> {
        let saved: Saved<'_> = serde_json::from_str(state.as_json())
            .map_err(|error| format!("not a server table: {}", told(&error)))?;
        let (count, servers_max) = (saved.servers.len(), saved.servers_max);
        if !(1..=SERVERS_MAX).contains(&servers_max) || count > servers_max {
            return Err(format!("not a server table: {count} servers, with room for {servers_max}"));
        }
        let mut servers = BTreeMap::new();
        for record in saved.servers {
            let ServerRecord { report, alive, reported_at, reported_term, decided_at, drained_at } =
                record.into_owned();
            let report = report.check().map_err(|error| format!("not a server table: {error}"))?;
            let name = report.server.clone();
            if !(1..=saved.applied_index).contains(&reported_at)
                || !(1..=saved.applied_index).contains(&decided_at)
                || drained_at.is_some_and(|index| !(1..=saved.applied_index).contains(&index))
                || reported_term == 0
            {
                return Err(format!("not a server table: {name} was decided by no applied entry"));
            }
            let record =
                Arc::new(ServerRecord { report, alive, reported_at, reported_term, decided_at, drained_at });
            if servers.insert(name, record).is_some() {
                return Err("not a server table: a server stands in it twice".to_owned());
            }
        }
        Ok(Self { servers_max, servers, applied_index: saved.applied_index, ignored: saved.ignored })
    }
}

/// The digest of a state: the first 16 bytes of SHA-256 over its canonical form, in hexadecimal. `servers`
/// are sorted by name.
///
/// The canonical form has one encoding per state: numbers are big-endian in eight bytes (`cpu` by its IEEE
/// 754 bits), and each text follows its length. It leaves out the applied index, so that an entry without
/// effect does not change the digest.
pub(super) fn digest<'a>(
    servers_max: usize,
    ignored: u64,
    servers: impl ExactSizeIterator<Item = &'a ServerRecord>,
) -> String {
    fn number(hash: &mut Sha256, value: u64) {
        hash.update(value.to_be_bytes());
    }
    fn text(hash: &mut Sha256, value: &str) {
        number(hash, value.len() as u64);
        hash.update(value.as_bytes());
    }
    let mut hash = Sha256::new();
    text(&mut hash, "rakit server table, version 1");
    number(&mut hash, servers_max as u64);
    number(&mut hash, ignored);
    number(&mut hash, servers.len() as u64);
    for ServerRecord { report, alive, reported_at, reported_term, decided_at, drained_at } in servers {
        // Without `..`, so that the compiler reports a new field that is missing here.
        let Report {
            server,
            worker,
            cpu,
            cores,
            cpu_known,
            epoch,
            sequence,
            worker_up,
            worker_active,
            instance,
        } = report;
        text(&mut hash, server);
        text(&mut hash, &worker.to_string());
        let active = worker_active.map_or(0, |active| 1 + u64::from(active));
        let flags = u64::from(*worker_up) | u64::from(*alive) << 1 | active << 2 | u64::from(*cpu_known) << 4;
        // 0 stands for "not drained": no entry of a log has index 0.
        let decided = [*reported_at, *reported_term, *decided_at, drained_at.unwrap_or(0)];
        for value in [cpu.to_bits(), u64::from(*cores), *epoch, *sequence, flags, instance.unwrap_or(0)]
            .into_iter()
            .chain(decided)
        {
            number(&mut hash, value);
        }
    }
    let mut hex = String::with_capacity(2 * DIGEST_BYTES);
    for byte in &hash.finalize()[..DIGEST_BYTES] {
        write!(hex, "{byte:02x}").expect("a String takes all that is written to it");
    }
    hex
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::report::{COUNTER_MAX, Stamp};
    use super::*;
    use crate::balancer::view::ServerView;
    use proptest::prelude::*;
    use std::time::Duration;

    /// A report of a server with four cores.
    pub(in crate::balancer) fn report(server: &str, cpu: f64, epoch: u64, sequence: u64) -> Report {
        let worker = "10.0.0.11:13337".parse().expect("an address");
        Report {
            server: server.to_owned(),
            worker,
            cpu,
            cores: 4,
            cpu_known: true,
            epoch,
            sequence,
            worker_up: true,
            worker_active: None,
            instance: None,
        }
    }

    /// A living server, as a node sees it that applied this report at this time.
    pub(in crate::balancer) fn seen_at(report: Report, applied_at: Duration) -> ServerView {
        let record = ServerRecord {
            report,
            alive: true,
            reported_at: 1,
            reported_term: 1,
            decided_at: 1,
            drained_at: None,
        };
        ServerView { record: Arc::new(record), applied_at }
    }

    fn order(order: ServerOrder) -> Command {
        ServerCommand::Order(order).to_command()
    }

    fn dead(server: &str, epoch: u64, sequence: u64) -> Command {
        ServerCommand::Dead(Dead { server: server.to_owned(), epoch, sequence, silent_ms: 5_000 })
            .to_command()
    }

    /// A table to which commands are applied at the next index.
    pub(in crate::balancer) struct Log(pub(in crate::balancer) ServerTable);

    impl Default for Log {
        fn default() -> Self {
            Self(ServerTable::new(SERVERS_MAX))
        }
    }

    impl Log {
        pub(in crate::balancer) fn apply(&mut self, command: &Command) -> Change {
            let index = self.0.applied_index() + 1;
            self.0.apply(&Entry { index, term: 1, command: command.clone() })
        }

        pub(in crate::balancer) fn report(&mut self, report: Report) -> Change {
            self.apply(&ServerCommand::Report(report).to_command())
        }
    }

    #[test]
    fn the_newest_report_wins() {
        let mut log = Log::default();
        assert_eq!(log.report(report("a", 10.0, 5, 3)), Change::New { evicted: None });
        let digest = log.0.digest();
        for (epoch, sequence) in [(5, 3), (5, 2), (4, 99)] {
            assert_eq!(log.report(report("a", 99.0, epoch, sequence)), Change::Stale);
        }
        assert_eq!(log.0.digest(), digest, "a report that is not newer changes nothing");
        assert_eq!(log.report(report("a", 20.0, 5, 4)), Change::Updated);
        assert_eq!(
            log.report(report("a", 30.0, 6, 0)),
            Change::Updated,
            "a daemon started anew counts from the beginning"
        );
        let record = log.0.get("a").expect("there");
        assert_eq!(
            (record.report.cpu, record.alive, record.reported_at, record.decided_at),
            (30.0, true, 6, 1)
        );
        assert!(
            log.0.fit(&report("a", 1.0, 6, 1)) == Fit::News
                && log.0.fit(&report("a", 1.0, 6, 0)) == Fit::Stale
        );
        assert_eq!(log.0.fit(&report("b", 1.0, 1, 0)), Fit::News);
    }

    #[test]
    fn a_verdict_kills_and_the_next_report_revives() {
        let mut log = Log::default();
        log.report(report("a", 10.0, 5, 3));
        assert_eq!(log.apply(&dead("a", 5, 3)), Change::Died);
        assert_eq!(log.0.get("a").map(|record| (record.alive, record.decided_at)), Some((false, 2)));
        assert_eq!(log.apply(&dead("a", 5, 3)), Change::Stale, "one dies but once");
        assert_eq!(log.report(report("a", 10.0, 5, 3)), Change::Stale, "an old report is no sign of life");
        assert!(!log.0.get("a").expect("there").alive);
        assert_eq!(log.report(report("a", 11.0, 5, 4)), Change::Revived);
        assert_eq!(log.0.get("a").map(|record| (record.alive, record.decided_at)), Some((true, 5)));
    }

    #[test]
    fn a_dead_server_comes_back_with_any_other_epoch_whatever_its_last_stamp() {
        let mut log = Log::default();
        log.report(report("a", 10.0, COUNTER_MAX, COUNTER_MAX));
        assert_eq!(log.report(report("a", 1.0, 7, 1)), Change::Stale, "alive, and nothing is above it");
        log.apply(&dead("a", COUNTER_MAX, COUNTER_MAX));
        assert_eq!(log.report(report("a", 1.0, COUNTER_MAX, 1)), Change::Stale, "the same epoch, delayed");
        assert_eq!(log.report(report("a", 1.0, 7, 1)), Change::Revived);
        assert_eq!(log.report(report("a", 1.0, 6, 9)), Change::Stale, "alive again: only what is above");
        assert_eq!(log.report(report("a", 1.0, 7, 2)), Change::Updated);
    }

    #[test]
    fn a_name_belongs_to_the_running_daemon_until_it_is_silent_or_stops() {
        let mut log = Log::default();
        let of = |instance, epoch, sequence| Report { instance, ..report("a", 1.0, epoch, sequence) };
        log.report(of(Some(7), 5, 1));
        assert_eq!(log.report(of(Some(8), 9, 1)), Change::OtherDaemon, "though its stamp is greater");
        assert_eq!(log.report(of(Some(8), 4, 1)), Change::OtherDaemon, "and not only stale");
        assert_eq!(log.report(of(Some(7), 5, 2)), Change::Updated);
        // It is silent: the first to report gets the name.
        log.apply(&dead("a", 5, 2));
        assert_eq!(log.report(of(Some(8), 4, 1)), Change::Revived);
        assert_eq!(log.report(of(Some(7), 5, 3)), Change::OtherDaemon);
        // It stops, and says so by a report without an instance.
        assert_eq!(log.report(of(None, 4, 2)), Change::Updated);
        assert_eq!(log.report(of(Some(7), 5, 3)), Change::Updated);
        assert_eq!(log.report(of(None, 6, 0)), Change::Updated, "a report by hand");
    }

    #[test]
    fn a_verdict_yields_to_a_newer_report() {
        let mut log = Log::default();
        log.report(report("a", 10.0, 5, 3));
        log.report(report("a", 10.0, 5, 4));
        let digest = log.0.digest();
        assert_eq!(log.apply(&dead("a", 5, 3)), Change::Stale);
        assert_eq!(log.apply(&dead("a", 5, 5)), Change::Stale, "about a report that nobody committed");
        assert_eq!(log.apply(&dead("b", 5, 3)), Change::Stale, "about nobody");
        assert_eq!(log.0.digest(), digest);
    }

    #[test]
    fn a_worker_that_goes_and_comes_is_told() {
        let mut log = Log::default();
        log.report(report("a", 1.0, 1, 1));
        let down = |sequence| Report { worker_up: false, ..report("a", 1.0, 1, sequence) };
        assert_eq!(log.report(down(2)), Change::WorkerDown);
        assert_eq!(log.report(down(3)), Change::Updated);
        assert!(log.0.get("a").expect("there").alive);
        assert_eq!(log.report(report("a", 1.0, 1, 4)), Change::WorkerUp);
    }

    #[test]
    fn what_is_no_command_is_ignored_and_counted() {
        let mut log = Log::default();
        assert_eq!(log.apply(&Command::noop()), Change::Noop);
        let before = log.0.digest();
        let alien = Command::from_value(&"hello").expect("JSON");
        assert!(matches!(log.apply(&alien), Change::Ignored(_)));
        assert_eq!((log.0.ignored(), log.0.applied_index(), log.0.servers().len()), (1, 2, 0));
        assert_ne!(log.0.digest(), before, "the counter is replicated too");
    }

    #[test]
    fn a_full_table_lets_the_longest_dead_go_and_nobody_alive() {
        let mut log = Log(ServerTable::new(10));
        for number in 0..10 {
            log.report(report(&format!("s{number}"), 1.0, 1, 1));
        }
        let digest = log.0.digest();
        assert_eq!(log.report(report("new", 1.0, 1, 1)), Change::NoRoom, "all are alive");
        assert_eq!(log.0.digest(), digest, "what found no room changed nothing");
        assert!(!log.0.has_room_for("new") && log.0.has_room_for("s7"));
        assert_eq!(log.report(report("s7", 2.0, 1, 2)), Change::Updated, "those inside still report");
        log.apply(&dead("s9", 1, 1));
        assert!(log.0.has_room_for("new"), "in the place of the dead one");
        log.apply(&dead("s3", 1, 1));
        assert_eq!(log.report(report("new", 1.0, 1, 1)), Change::New { evicted: Some("s9".to_owned()) });
        assert_eq!(log.report(report("newer", 1.0, 1, 1)), Change::New { evicted: Some("s3".to_owned()) });
        assert_eq!(log.report(report("newest", 1.0, 1, 1)), Change::NoRoom);
        assert!(log.0.get("s9").is_none() && log.0.get("newer").is_some());
        assert_eq!(ServerTable::from_snapshot(&log.0.to_snapshot()), Ok(log.0));
    }

    #[test]
    fn a_drained_server_stays_drained_until_it_is_undrained() {
        let mut log = Log::default();
        let drain = || order(ServerOrder::Drain("a".into()));
        assert_eq!(log.apply(&drain()), Change::Ordered(OrderEffect::NoSuchServer));
        log.report(report("a", 1.0, 1, 1));
        assert_eq!(log.apply(&drain()), Change::Ordered(OrderEffect::Done));
        assert_eq!(log.apply(&drain()), Change::Ordered(OrderEffect::AlreadySo));
        // Through reports, death, another process of its daemon, and a snapshot.
        assert_eq!(log.report(report("a", 1.0, 1, 2)), Change::Updated);
        assert_eq!(log.apply(&dead("a", 1, 2)), Change::Died);
        assert_eq!(log.report(report("a", 1.0, 2, 1)), Change::Revived);
        log.0 = ServerTable::from_snapshot(&log.0.to_snapshot()).expect("our own words");
        let record = log.0.get("a").expect("there");
        assert_eq!((record.alive, record.drained_at), (true, Some(3)));
        let undrain = || order(ServerOrder::Undrain("a".into()));
        assert_eq!(log.apply(&undrain()), Change::Ordered(OrderEffect::Done));
        assert_eq!(log.apply(&undrain()), Change::Ordered(OrderEffect::AlreadySo));
        assert_eq!(log.0.get("a").expect("there").drained_at, None);
    }

    #[test]
    fn a_dead_server_is_forgotten_and_a_living_one_is_not() {
        let mut log = Log::default();
        log.report(report("a", 1.0, 5, 5));
        log.apply(&order(ServerOrder::Drain("a".into())));
        let forget = || order(ServerOrder::Forget("a".into()));
        let digest = log.0.digest();
        assert_eq!(log.apply(&forget()), Change::Ordered(OrderEffect::StillAlive));
        assert_eq!(log.0.digest(), digest);
        log.apply(&dead("a", 5, 5));
        assert_eq!(log.apply(&forget()), Change::Ordered(OrderEffect::Done));
        assert!(log.0.get("a").is_none());
        assert_eq!(log.apply(&forget()), Change::Ordered(OrderEffect::NoSuchServer));
        // A verdict that was under way finds nobody. A report with any stamp is that of a new server.
        assert_eq!(log.apply(&dead("a", 5, 5)), Change::Stale);
        assert_eq!(log.report(report("a", 1.0, 1, 1)), Change::New { evicted: None });
        assert_eq!(log.0.get("a").expect("there").drained_at, None);
    }

    #[test]
    fn a_record_remembers_the_term_of_its_report() {
        let mut table = ServerTable::new(SERVERS_MAX);
        let command = ServerCommand::Report(report("a", 1.0, 1, 1)).to_command();
        table.apply(&Entry { index: 3, term: 7, command });
        table.apply(&Entry { index: 4, term: 8, command: dead("a", 1, 1) });
        let restored = ServerTable::from_snapshot(&table.to_snapshot()).expect("our own words");
        let record = restored.get("a").expect("there");
        assert_eq!((record.reported_at, record.reported_term, record.alive), (3, 7, false));
    }

    #[test]
    fn every_part_of_the_state_is_in_the_digest() {
        let base = ServerRecord {
            report: report("a", 1.0, 1, 1),
            alive: true,
            reported_at: 4,
            reported_term: 2,
            decided_at: 3,
            drained_at: None,
        };
        let of = |record: &ServerRecord| digest(10, 0, std::iter::once(record));
        let mut seen = std::collections::BTreeSet::from([
            of(&base),
            digest(11, 0, std::iter::once(&base)),
            digest(10, 1, std::iter::once(&base)),
            digest(10, 0, [].iter()),
        ]);
        let changes: [fn(&mut ServerRecord); 17] = [
            |r| r.report.server = "b".into(),
            |r| r.report.worker.set_port(1),
            |r| r.report.cpu = 1.0 + f64::EPSILON,
            |r| r.report.cores = 5,
            |r| r.report.cpu_known = false,
            |r| r.report.epoch = 2,
            |r| r.report.sequence = 2,
            |r| r.report.worker_up = false,
            |r| r.report.worker_active = Some(false),
            |r| r.report.worker_active = Some(true),
            |r| r.report.instance = Some(1),
            |r| r.alive = false,
            |r| r.reported_at = 5,
            |r| r.reported_term = 3,
            |r| r.decided_at = 4,
            |r| r.drained_at = Some(3),
            |r| r.drained_at = Some(4),
        ];
        let all = seen.len() + changes.len();
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            seen.insert(of(&other));
        }
        assert_eq!(seen.len(), all);
        assert!(seen.iter().all(|hex| hex.len() == 32));
    }

    #[test]
    fn a_snapshot_that_no_log_could_make_is_refused() {
        let mut log = Log::default();
        log.report(report("a", 1.0, 1, 1));
        let good = log.0.to_snapshot().as_json().to_owned();
        let record =
            good.split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("a list").0.to_owned();
        for (what, bad) in [
            ("not JSON of ours", "[]".to_owned()),
            ("twice", good.replace(&record, &format!("{record},{record}"))),
            ("from the future", good.replace("\"applied_index\":1", "\"applied_index\":0")),
            ("out of range", good.replace("\"cpu\":1.0", "\"cpu\":101.0")),
            ("unknown", good.replace("\"ignored\"", "\"more\":1,\"ignored\"")),
            ("no room", good.replace("\"servers_max\":1024", "\"servers_max\":0")),
            ("too much room", good.replace("\"servers_max\":1024", "\"servers_max\":1025")),
            (
                "drained by an entry to come",
                good.replace("\"decided_at\":1", "\"decided_at\":1,\"drained_at\":2"),
            ),
            ("drained by none", good.replace("\"decided_at\":1", "\"decided_at\":1,\"drained_at\":0")),
            ("of no term", good.replace("\"reported_term\":1", "\"reported_term\":0")),
        ] {
            assert_ne!(bad, good);
            let state: Command = serde_json::from_str(&bad).expect("JSON");
            assert!(ServerTable::from_snapshot(&state).is_err(), "{what}: {bad}");
        }
    }

    #[test]
    #[should_panic(expected = "applied after")]
    fn an_entry_is_applied_once() {
        let mut table = ServerTable::new(SERVERS_MAX);
        let entry = Entry { index: 4, term: 1, command: Command::noop() };
        table.apply(&entry);
        table.apply(&entry);
    }

    /// Reports and verdicts of few servers with few stamps, so that they meet; sometimes noise.
    fn commands() -> impl Strategy<Value = Vec<Command>> {
        let stamp = || ("[abc]", 1..3u64, 0..4u64);
        let one = prop_oneof![
            4 => (stamp(), 0.0f64..=100.0, any::<(bool, bool)>()).prop_map(
                |((server, epoch, sequence), cpu, (worker_up, cpu_known))| {
                    let report = Report { worker_up, cpu_known, ..report(&server, cpu, epoch, sequence) };
                    ServerCommand::Report(report).to_command()
                }
            ),
            2 => stamp().prop_map(|(server, epoch, sequence)| dead(&server, epoch, sequence)),
            2 => ("[abc]", 0..3u8).prop_map(|(server, kind)| order(match kind {
                0 => ServerOrder::Drain(server),
                1 => ServerOrder::Undrain(server),
                _ => ServerOrder::Forget(server),
            })),
            1 => Just(Command::noop()),
            1 => Just(Command::from_value(&7).expect("JSON")),
        ];
        proptest::collection::vec(one, 0..60)
    }

    #[test]
    fn who_is_not_there_cannot_be_forgotten_and_is_new_with_its_first_report_all_the_same() {
        let mut log = Log::default();
        let forget = ServerCommand::Order(ServerOrder::Forget("a".into())).to_command();
        log.apply(&forget);
        assert!(log.0.get("a").is_none());
        for sequence in [0, 0, 3, 0] {
            log.report(report("a", 0.0, 1, sequence));
        }
        log.apply(&forget);
        let record = log.0.get("a").expect("it lives, so it is not forgotten");
        assert_eq!((record.report.sequence, record.alive, record.drained_at), (3, true, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the order and however often, each entry does to each server what the rules on stamps, verdicts and orders
        /// say. No report here names an instance.
        #[test]
        fn any_order_ends_as_defined(log in commands(), twice in any::<prop::sample::Index>(), order: u64) {
            let mut log = log;
            if !log.is_empty() {
                log.push(log[twice.index(log.len())].clone());
                // Some order of the same multiset.
                let places = log.len();
                for place in 0..places {
                    log.swap(place, (order.rotate_left(place as u32) % places as u64) as usize);
                }
            }
            let mut table = Log::default();
            for command in &log {
                table.apply(command);
            }
            for server in ["a", "b", "c"] {
                let mut expected: Option<(Stamp, bool)> = None;
                let mut drained = false;
                for command in log.iter().filter_map(|command| ServerCommand::parse(command).ok()) {
                    expected = match (command, expected) {
                        (ServerCommand::Report(r), held) if r.server == server => {
                            let counts = held.is_none_or(|(stamp, alive)| {
                                r.stamp() > stamp || (!alive && r.epoch != stamp.epoch)
                            });
                            if counts { Some((r.stamp(), true)) } else { held }
                        }
                        (ServerCommand::Dead(d), Some((stamp, _))) if d.server == server && d.stamp() == stamp => {
                            Some((stamp, false))
                        }
                        (ServerCommand::Order(order), Some(held)) if order.server() == server => {
                            match order {
                                ServerOrder::Drain(_) => drained = true,
                                ServerOrder::Undrain(_) => drained = false,
                                ServerOrder::Forget(_) if held.1 => {}
                                ServerOrder::Forget(_) => {
                                    drained = false;
                                    expected = None;
                                    continue;
                                }
                            }
                            Some(held)
                        }
                        (_, held) => held,
                    };
                }
                let got = table.0.get(server).map(|record| (record.report.stamp(), record.alive));
                prop_assert_eq!(got, expected);
                let got = table.0.get(server).is_some_and(|record| record.drained_at.is_some());
                prop_assert_eq!(got, drained);
            }
        }

        /// Replicas that apply the same log agree at every index: one from the beginning, one from a snapshot
        /// of any moment.
        #[test]
        fn replicas_agree_at_every_index(log in commands(), restart in any::<prop::sample::Index>()) {
            let restart = restart.index(log.len() + 1);
            let mut one = Log::default();
            let mut other = Log::default();
            for (place, command) in log.iter().enumerate() {
                if place == restart {
                    other.0 = ServerTable::from_snapshot(&other.0.to_snapshot()).expect("our own words");
                }
                prop_assert_eq!(one.apply(command), other.apply(command));
                prop_assert_eq!(one.0.digest(), other.0.digest());
                prop_assert_eq!(&one.0, &other.0);
            }
        }
    }
}
