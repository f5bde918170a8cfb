//! One node's process: the node's own [`Replica`] and storage, on the simulator's disk, network and clock.
//!
//! The replica makes all decisions and orders them, here as in `node/raft_loop.rs`. This adapter carries its effects
//! out. It shows each of them to the oracle, which fails if an effect comes before it is safe. Where the real loop
//! blocks (on its disk, on its inboxes), this one returns and is called again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rakit::balancer::{Dead, Fit, Published, Report, ServerCommand, ServerOrder, Stamp};
use rakit::linux::BootMoment;
use rakit::raft::{
    self, Command, Durable, Founding, Index, NodeId, Record, RpcId, RpcReply, RpcRequest, Term,
    TimeoutNowReply,
};
use rakit::replica::{Effect, Input, Replica, ReplicaNotice, ReplicaSettings, ReportOutcome, Unread, Write};
use rakit::storage::{CommitHint, Fresh, Identity, Storage, StorageError};

use super::behaviour::Behaviour;
use super::coverage::Seen;
use super::oracle::Oracle;
use super::plan::{DiskMode, Plan, Time};
use super::trace::Trace;
use crate::disk::SimDisk;

/// Where the reply to a request goes: to the process that asked, and to no later one.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    pub node: NodeId,
    pub life: u64,
    pub rpc: RpcId,
    pub exchange: u64,
}

/// A daemon's report, and how it was sent.
#[derive(Clone, Debug)]
pub struct ReportMail {
    pub report: Report,
    pub forward: bool,
}

/// Who waits for an outcome.
#[derive(Clone, Debug)]
pub enum Caller {
    Daemon(ReportMail),
    Operator(ServerOrder),
    /// An operator who wants other members.
    Members,
}

/// What consensus waits for.
pub type Mail = Input<Back, Caller>;

/// A false report that a peer runs on another data directory.
pub fn spurious_reset(peer: NodeId) -> Mail {
    let reply = RpcReply::TimeoutNow(TimeoutNowReply { term: 0, accepted: false });
    Input::Reply { from: peer, incarnation: 0, rpc: 0, reply }
}

/// What a process asks the world to do.
#[derive(Debug)]
pub enum Deed {
    Send { to: NodeId, rpc: RpcId, request: RpcRequest },
    Reply { back: Back, reply: RpcReply },
    Answer { mail: ReportMail, outcome: ReportOutcome },
}

/// What the world lends to a process for one call.
pub struct Context<'a> {
    pub now: Time,
    pub oracle: &'a mut Oracle,
    pub trace: &'a Trace,
    pub behaviour: &'a Behaviour,
    pub deeds: &'a mut Vec<Deed>,
    pub steps: &'a mut u64,
    /// How long the next write takes.
    pub latency: Time,
}

/// A node's process. Its disk outlives it.
pub struct Process {
    pub id: NodeId,
    pub life: u64,
    pub wipes: u64,
    /// The disk says that the node counts: it is not joining (any more).
    pub counts: bool,
    pub replica: Replica<Back, Caller>,
    pub storage: Storage<SimDisk>,
    boot: String,
    /// What it remembered last to be committed; 0 if that write failed, and `None` if there was none.
    pub hinted: Option<Index>,
    published: Published,
    /// The inbox of consensus, and who waits for room in it (`node/inbox.rs`: a message waits, and is never lost).
    consensus: VecDeque<Mail>,
    at_the_door: VecDeque<Mail>,
    consensus_max: usize,
    /// The inbox of reports, each with its time of arrival. One that finds no room is turned away.
    reports: VecDeque<(Duration, ReportMail)>,
    reports_max: usize,
    started: Time,
    /// How far its clock has jumped ahead.
    pub ahead: Time,
    writes: VecDeque<Write>,
    /// When the write at the front is done. Waits for it to be started when `None`.
    pub write_done: Option<Time>,
    disk_mode: DiskMode,
    /// A step of a compaction is under way, and the loop waits for it.
    is_stepping: bool,
    batch_max: usize,
    snapshot_entries: u64,

    // What the adapter has seen from outside. The replica is checked against it.
    /// The incarnation of each peer, as last read.
    pub incarnations: BTreeMap<NodeId, u64>,
    /// Peers that wait for a reply.
    unanswered: Vec<Back>,
    /// Daemons that wait for an answer.
    waiting_daemons: usize,
    server_timeout: Duration,
    election_timeout_min: Duration,
    /// The newest sign of life of each server, and since when this node leads.
    signs: BTreeMap<String, (Stamp, Duration)>,
    leads_since: Option<Duration>,
    idle_wakes: u32,
    woke_at: Time,
}

/// How often in a row the loop may wake up with nothing to do. More often would mean that it spins instead of blocking.
const IDLE_WAKES_MAX: u32 = 50;

impl Process {
    /// As `node/recovery.rs` puts a node together: from what its disk remembers.
    pub fn start(
        plan: &Plan,
        id: NodeId,
        life: u64,
        wipes: u64,
        disk: SimDisk,
        now: Time,
        seed: u64,
        boot: &str,
        oracle: &mut Oracle,
    ) -> Result<Self, StorageError> {
        let founding = Founding::new("sim", 1..=plan.nodes);
        let identity = Identity { founding: founding.clone(), node: id };
        let fresh = Fresh { incarnation: seed, records: founding.records() };
        let (storage, recovered) = Storage::open(disk, &identity, fresh)?;
        let mut core =
            raft::Settings::new(id, founding.members, plan.election_timeout, plan.heartbeat, seed ^ 0xe1ec);
        (core.incarnation, core.founders) = (recovered.incarnation, recovered.founders.clone());
        core.append_entries_max = plan.append_entries_max;
        core.append_bytes_max = plan.append_bytes_max;
        core.snapshot_chunk_bytes = plan.snapshot_chunk_bytes;
        core.uncommitted_entries_max = plan.uncommitted_entries_max;
        core.trailing_entries = plan.trailing_entries;
        let settings = ReplicaSettings {
            raft: core,
            server_timeout: plan.server_timeout,
            snapshot_entries: plan.snapshot_entries,
            servers_max: plan.servers_max,
        };
        let entries = recovered.entries.clone();
        let mut recovered = recovered;
        if oracle.flipped.contains(&id)
            && let Some(snapshot) = &mut recovered.snapshot
        {
            // A bit flips on the way from the disk to the memory: no rule of the table looks at this count.
            let flipped = snapshot.state.as_json().replace("\"ignored\":", "\"ignored\":7");
            snapshot.state = Command::from_json(flipped).expect("it is JSON as before");
        }
        let mut replica = Replica::new(
            settings,
            recovered.hard_state,
            recovered.snapshot,
            recovered.entries,
            Duration::ZERO,
        )
        .expect("the snapshot was made from a table");
        if let Some(hint) = &recovered.commit {
            replica.recall_commit(hint.index, hint.fresh_at.age(boot, Duration::from_micros(now)));
        }
        oracle.started(id, wipes, replica.raft(), &entries);
        oracle.table(id, replica.table());
        let published = Published::new(replica.table(), Duration::ZERO);
        Ok(Self {
            id,
            life,
            wipes,
            counts: !recovered.hard_state.joining,
            replica,
            storage,
            boot: boot.to_owned(),
            hinted: None,
            published,
            consensus: VecDeque::new(),
            at_the_door: VecDeque::new(),
            consensus_max: plan.consensus_inbox_max,
            reports: VecDeque::new(),
            reports_max: plan.report_inbox_max,
            started: now,
            ahead: 0,
            writes: VecDeque::new(),
            write_done: None,
            disk_mode: plan.disk_mode,
            is_stepping: false,
            batch_max: plan.batch_max,
            snapshot_entries: plan.snapshot_entries,
            incarnations: BTreeMap::new(),
            unanswered: Vec::new(),
            waiting_daemons: 0,
            server_timeout: plan.server_timeout,
            election_timeout_min: plan.election_timeout.0,
            signs: BTreeMap::new(),
            leads_since: None,
            idle_wakes: 0,
            woke_at: 0,
        })
    }

    /// This process's monotonic clock.
    fn clock(&self, now: Time) -> Duration {
        Duration::from_micros(now - self.started + self.ahead)
    }

    /// Whether the loop stands still until its disk is done.
    pub fn is_blocked(&self) -> bool {
        self.is_stepping || self.disk_mode == DiskMode::Waits && !self.writes.is_empty()
    }

    /// Whether something is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// When the loop wakes up by itself, in the world's time.
    pub fn wakes_at(&self, now: Time) -> Time {
        if self.has_mail() || !self.reports.is_empty() || (self.storage.is_compacting() && !self.is_writing())
        {
            return now;
        }
        let deadline = u64::try_from(self.replica.deadline().as_micros()).unwrap_or(u64::MAX);
        deadline.saturating_add(self.started).saturating_sub(self.ahead).max(now)
    }

    // ------------------------------------------------------------------------------------------------ the inboxes

    /// Whether a message of consensus is unread.
    pub fn has_mail(&self) -> bool {
        !self.consensus.is_empty()
    }

    /// A message of consensus arrives. Returns whether it had to wait for room.
    pub fn deliver(&mut self, mail: Mail) -> bool {
        if let Input::Request { caller, .. } = &mail {
            self.unanswered.push(*caller);
        }
        let is_full = self.consensus.len() >= self.consensus_max;
        if is_full {
            self.at_the_door.push_back(mail)
        } else {
            self.consensus.push_back(mail)
        }
        is_full
    }

    /// A report arrives. Returns whether there was room.
    pub fn offer(&mut self, mail: ReportMail, now: Time) -> bool {
        let has_room = self.reports.len() < self.reports_max;
        if has_room {
            self.waiting_daemons += 1;
            self.reports.push_back((self.clock(now), mail));
        }
        has_room
    }

    fn next_message(&mut self) -> Option<Mail> {
        let mail = self.consensus.pop_front()?;
        self.consensus.extend(self.at_the_door.pop_front());
        Some(mail)
    }

    // ------------------------------------------------------------------------------------------------ one batch

    /// One turn of the loop.
    pub fn wake(&mut self, context: &mut Context<'_>) -> Result<(), StorageError> {
        assert!(!self.is_blocked(), "the loop waits for its disk");
        let had_mail = self.has_mail() || !self.reports.is_empty();
        let now = self.clock(context.now);
        for _ in 0..self.batch_max {
            let Some(mail) = self.next_message() else { break };
            self.receive(mail, context);
        }
        for _ in 0..self.batch_max {
            let Some((_, mail)) = self.reports.pop_front() else { break };
            self.note_sign(&mail, now);
            let command = ServerCommand::Report(mail.report.clone()).to_command();
            self.receive(
                Input::Report { report: mail.report.clone(), command, caller: Caller::Daemon(mail) },
                context,
            );
        }
        let unread = Unread { messages: self.consensus.len(), reports: self.reports.len() };
        self.replica.end_batch(now, unread);
        context.behaviour.batch_ended(self.replica.raft());
        *context.steps += 1;
        self.look(context);
        let is_idle = !had_mail && self.woke_at == context.now;
        self.woke_at = context.now;
        self.idle_wakes = if is_idle { self.idle_wakes + 1 } else { 0 };
        assert!(self.idle_wakes < IDLE_WAKES_MAX, "node {}: the loop spins", self.id);
        self.carry_out(context)
    }

    fn receive(&mut self, mail: Mail, context: &mut Context<'_>) {
        if let Input::Request { from, incarnation, .. } | Input::Reply { from, incarnation, .. } = &mail {
            let before = self.incarnations.insert(*from, *incarnation);
            if before.is_some_and(|before| before != *incarnation) {
                context.oracle.count(Seen::PeerReset);
            }
        }
        let now = self.clock(context.now);
        let arrival = context.behaviour.arrives(self.replica.raft(), &mail, now, self.election_timeout_min);
        self.replica.receive(now, mail);
        context.behaviour.taken_in(self.replica.raft(), arrival);
        *context.steps += 1;
        self.look(context);
    }

    /// Called after each call of the replica: shows the new state of its core to the oracle.
    fn look(&mut self, context: &mut Context<'_>) {
        context.oracle.stepped(self.replica.raft());
        let now = self.clock(context.now);
        self.leads_since =
            if self.replica.raft().is_leader() { self.leads_since.or(Some(now)) } else { None };
    }

    /// Carries out what the replica wants, until it wants nothing more or the disk has to be waited for.
    fn carry_out(&mut self, context: &mut Context<'_>) -> Result<(), StorageError> {
        let mut has_ticked = false;
        loop {
            while let Some(effect) = self.replica.next_effect() {
                context.behaviour.looked_at(self.replica.raft());
                self.look(context);
                self.do_one(effect, context)?;
                if self.is_blocked() {
                    return Ok(());
                }
            }
            if !self.storage.is_compacting() || self.is_writing() {
                self.rest();
                return Ok(());
            }
            // A heartbeat that is due goes out before the next step of a compaction.
            if std::mem::replace(&mut has_ticked, true) {
                self.is_stepping = true;
                self.write_done = Some(context.now + FSYNCS_PER_STEP * context.latency);
                return Ok(());
            }
            let unread = Unread { messages: self.consensus.len(), reports: self.reports.len() };
            self.replica.end_batch(self.clock(context.now), unread);
            context.behaviour.batch_ended(self.replica.raft());
            self.look(context);
        }
    }

    /// A step of a compaction is done.
    fn step_done(&mut self) -> Result<(), StorageError> {
        self.is_stepping = false;
        if !self.storage.continue_compaction()? {
            // Now nothing older than the snapshot takes room any more.
            let shape = self.storage.shape();
            let (bytes, retained) = (self.storage.disk().bytes(), shape.last_index() - shape.after().0);
            let servers = self.replica.table().servers().len() as u64;
            let bound = DISK_BYTES_FIXED + DISK_BYTES_PER_ENTRY * (servers + retained);
            assert!(bytes <= bound, "node {}: {bytes} bytes after a compaction, more than {bound}", self.id);
        }
        Ok(())
    }

    fn do_one(
        &mut self,
        effect: Effect<Back, Caller>,
        context: &mut Context<'_>,
    ) -> Result<(), StorageError> {
        match effect {
            // The simulated network reaches every machine.
            Effect::Members { .. } => {}
            Effect::Send { to, rpc, request } => {
                context.behaviour.sends(self.replica.raft(), to, &request);
                context.oracle.sends(self.replica.raft(), self.wipes, to, &request);
                context.deeds.push(Deed::Send { to, rpc, request });
            }
            Effect::Write(write) => {
                context.behaviour.writes(self.id, &write.steps);
                context.oracle.writes(self.replica.raft(), &write.steps);
                self.check_verdicts(&write.steps, context);
                self.writes.push_back(write);
                self.write_done.get_or_insert(context.now + context.latency);
            }
            Effect::Reply { caller, reply } => {
                context.behaviour.replies(self.id, caller, &reply);
                let place = self.unanswered.iter().position(|back| back.exchange == caller.exchange);
                self.unanswered.swap_remove(place.expect("one reply for each request"));
                context.oracle.replies(self.id, self.wipes, caller.node, &reply);
                context.deeds.push(Deed::Reply { back: caller, reply });
            }
            Effect::Publish => {
                let table = self.replica.table();
                if self.published.view().applied_index() < table.applied_index() {
                    context.oracle.table(self.id, table);
                }
                self.published.publish(table, self.clock(context.now));
            }
            Effect::Remember { index, term } => return self.remember(index, term, context),
            Effect::Watch(leader) => {
                context.trace.line(context.now, || format!("node {}: watches {leader:?}", self.id));
            }
            Effect::Answer { caller: Caller::Daemon(mail), outcome } => {
                self.waiting_daemons -= 1;
                context.oracle.answered(self.id, &mail.report, outcome, &self.published.view());
                context.deeds.push(Deed::Answer { mail, outcome });
            }
            Effect::Answer { caller: Caller::Members, outcome } => context.oracle.change_answered(outcome),
            Effect::Answer { caller: Caller::Operator(order), outcome } => {
                context.oracle.ordered(self.id, &order, outcome, &self.published.view());
            }
            // For the metrics of a real node.
            Effect::ProposalEnded { .. } => {}
            Effect::Notice(notice) => {
                context.trace.line(context.now, || notice.line(self.id));
                if let ReplicaNotice::Contradiction(_) = &notice {
                    assert!(
                        !context.oracle.flipped.is_empty(),
                        "{}, and no bit was flipped",
                        notice.line(self.id)
                    );
                }
                if let ReplicaNotice::Raft(notice) = &notice {
                    context.oracle.noticed(notice);
                }
            }
        }
        Ok(())
    }

    /// As `node/raft_loop.rs` does it: a hint that cannot be written is lost. But a disk that died ends its process.
    fn remember(&mut self, index: Index, term: Term, context: &Context<'_>) -> Result<(), StorageError> {
        let age = self.replica.standing().age(self.clock(context.now));
        let ms = Duration::from_micros(context.now).saturating_sub(age).as_millis();
        let fresh_at = BootMoment { boot: self.boot.clone(), ms: u64::try_from(ms).expect("some seconds") };
        let result = self.storage.remember(&CommitHint { index, term, fresh_at });
        self.hinted = Some(if result.is_ok() { index } else { 0 });
        match result {
            Err(StorageError::Io { .. }) if !self.storage.disk().is_crashed() => Ok(()),
            result => result,
        }
    }

    /// The disk is done with what was begun first; in the mode where it lags behind, with several at once.
    pub fn disk_done(&mut self, at_once: usize, context: &mut Context<'_>) -> Result<(), StorageError> {
        self.write_done = None;
        if self.is_stepping {
            return self.step_done();
        }
        let count = if self.disk_mode == DiskMode::Waits { 1 } else { at_once.max(1) };
        let (mut done, mut records) = (None, 0);
        for Write { mark, steps } in self.writes.drain(..count.min(self.writes.len())) {
            records += steps.len();
            self.storage.make_durable(steps)?;
            self.counts = !self.storage.shape().hard_state().joining;
            done = Some(mark);
        }
        if !self.writes.is_empty() {
            self.write_done = Some(context.now + context.latency);
        }
        if let Some(mark) = done {
            self.replica.durable(self.clock(context.now), mark);
            context.behaviour.durable(self.replica.raft(), records);
            *context.steps += 1;
            self.look(context);
        }
        self.carry_out(context)
    }

    // ------------------------------------------------------------------------------------------------ checks

    /// A report is read: is it a sign of life?
    fn note_sign(&mut self, mail: &ReportMail, now: Duration) {
        let (server, stamp) = (&mail.report.server, mail.report.stamp());
        if self.replica.table().fit(&mail.report) == Fit::News {
            self.signs.insert(server.clone(), (stamp, now));
        }
    }

    /// No verdict but by a leader that has led and heard nothing of that server for the whole time, and has read every
    /// report of it that had come by then.
    fn check_verdicts(&self, steps: &[Durable], context: &Context<'_>) {
        let (id, raft, now) = (self.id, self.replica.raft(), self.clock(context.now));
        for step in steps {
            let Durable::Record(Record::Entry(entry)) = step else { continue };
            if !raft.is_leader()
                || entry.term != raft.hard_state().term
                || !is_verdict(entry.command.as_json())
            {
                continue;
            }
            let Ok(ServerCommand::Dead(Dead { server, .. })) = ServerCommand::parse(&entry.command) else {
                panic!("a leader writes what it can read: {:?}", entry.command);
            };
            let since = self.leads_since.expect("only a leader judges");
            let (stamp, heard) = self.signs.get(&server).copied().unwrap_or_default();
            let due = heard.max(since) + self.server_timeout;
            assert!(
                now >= due,
                "node {id} heard {stamp:?} of {server} at {heard:?}, and at {now:?} declares it dead"
            );
            let unread = self.reports.iter().find(|(arrived, mail)| {
                mail.report.server == server
                    && self.replica.table().fit(&mail.report) == Fit::News
                    && *arrived < due
            });
            assert!(unread.is_none(), "node {id} declares {server} dead, and {unread:?} is unread");
        }
    }

    /// The loop is about to block: nothing may be left over.
    fn rest(&self) {
        if self.is_writing() {
            return;
        }
        let (id, raft) = (self.id, self.replica.raft());
        let unread = self.reports.len();
        assert!(
            raft.is_leader() || self.waiting_daemons == unread,
            "node {id}: {} daemons wait, {unread} reports are unread, and it does not lead",
            self.waiting_daemons
        );
        let applied = self.replica.table().applied_index();
        assert_eq!(applied, raft.applied_index(), "node {id}: not all was applied");
        assert_eq!(self.published.view().applied_index(), applied, "node {id}: not all was published");
        // Memory and disk, at any age. A compaction comes as soon as it is due.
        let since_snapshot = applied - raft.snapshot_index();
        let may_compact = self.replica.standing().contradiction.is_none();
        assert!(
            since_snapshot < self.snapshot_entries || !may_compact,
            "node {id}: {since_snapshot} applied, not compacted"
        );
        let bytes = self.storage.disk().bytes();
        let bound = DISK_BYTES_MAX + DISK_BYTES_PER_ENTRY * self.snapshot_entries;
        assert!(bytes <= bound, "node {id}: {bytes} bytes on disk, more than {bound}");
    }

    /// How many entries are in memory that a compaction should have dropped.
    pub fn entries_in_memory(&self) -> u64 {
        let log = self.replica.raft().log();
        log.last_index() + 1 - log.first_index()
    }

    /// The requests that this process has not answered: their connections close when it dies.
    pub fn unanswered(&self) -> &[Back] {
        &self.unanswered
    }
}

/// How many fsyncs a step of a compaction has at the most.
const FSYNCS_PER_STEP: Time = 2;

/// Whether a command is a verdict, without parsing every report for it.
fn is_verdict(json: &str) -> bool {
    json.starts_with("{\"dead\"")
}

/// What a node's directory holds right after a compaction: the header, term and vote, ...
const DISK_BYTES_FIXED: u64 = 2 << 10;

/// ... and the servers in the snapshot and the entries after it.
const DISK_BYTES_PER_ENTRY: u64 = 300;

/// And at any other time, besides what a compaction waits for. A leader without a majority may collect entries until it steps down, and what was truncated
/// stays in the file until the next compaction.
const DISK_BYTES_MAX: u64 = 1 << 20;
