//! One node's process: the real core, table, silence detector and storage, driven step by step as `node/raft_loop.rs`
//! drives them. Where the real loop blocks (on its disk, on its inboxes) this one returns and is called again.
//!
//! Keep it beside `node/raft_loop.rs`: whatever is changed there in the order of things belongs here too.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rakit::balancer::{Change, Report, ServerCommand, ServerTable, SilenceDetector, Stamp};
use rakit::raft::{
    Apply, Command, Durable, Event, Index, NodeId, Output, ProposalId, Raft, Record, Reply, ReplyToken,
    Request, Resolution, RpcId, SendOnceDurable, Settings,
};
use rakit::storage::{Identity, Storage, StorageError};

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

/// What consensus waits for.
#[derive(Clone, Debug)]
pub enum Mail {
    Request {
        from: NodeId,
        incarnation: u64,
        request: Request,
        back: Back,
    },
    Reply {
        from: NodeId,
        incarnation: u64,
        rpc: RpcId,
        reply: Reply,
    },
    Lost {
        to: NodeId,
        rpc: RpcId,
    },
    LeaderGone {
        leader: NodeId,
    },
    Transfer {
        to: Option<NodeId>,
    },
    /// Not the loop's own (that is made of incarnations): a false one, from nowhere.
    PeerReset {
        peer: NodeId,
    },
}

/// A daemon's report, and how it was sent.
#[derive(Clone, Debug)]
pub struct ReportMail {
    pub report: Report,
    pub forward: bool,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    Committed { index: Index, stale: bool },
    NotLeader { leader: Option<NodeId> },
    Unknown,
    Busy,
}

/// What a process does to the world.
#[derive(Debug)]
pub enum Effect {
    Send { to: NodeId, rpc: RpcId, request: Request },
    Answer { back: Back, reply: Reply },
    Outcome { mail: ReportMail, outcome: ReportOutcome },
}

/// What the world lends to a process for one call.
pub struct Context<'a> {
    pub now: Time,
    pub oracle: &'a mut Oracle,
    pub trace: &'a Trace,
    pub effects: &'a mut Vec<Effect>,
    pub steps: &'a mut u64,
    /// How long the next write takes.
    pub latency: Time,
}

enum Waiting {
    Daemons(Vec<(ReportMail, bool)>),
    Verdict(rakit::balancer::Dead),
}

/// An output whose `durable` is being written, or waits to be.
struct Write {
    output: Output,
    compaction: bool,
}

type Newest = BTreeMap<String, (Stamp, Command, Vec<(ReportMail, bool)>)>;

/// A node's process. Its disk outlives it.
pub struct Process {
    pub id: NodeId,
    pub life: u64,
    pub wipes: u64,
    pub raft: Raft,
    pub storage: Storage<SimDisk>,
    pub table: ServerTable,
    silence: SilenceDetector,
    pub consensus: VecDeque<Mail>,
    pub service: VecDeque<ReportMail>,
    waiting: BTreeMap<ProposalId, Waiting>,
    next_proposal: ProposalId,
    pub replies: BTreeMap<ReplyToken, Back>,
    next_token: ReplyToken,
    pub incarnations: BTreeMap<NodeId, u64>,
    led: bool,
    tick_put_off: bool,
    started: Time,
    /// How far its clock has jumped ahead.
    pub ahead: Time,
    writes: VecDeque<Write>,
    /// When the write at the front is done. Waits for it to be started when `None`.
    pub write_done: Option<Time>,
    disk_mode: DiskMode,
    batch_max: usize,
    snapshot_entries: u64,
    server_timeout: Duration,
    /// What the silence detector is judged by: the newest sign of life of each server, and since when this node leads.
    signs: BTreeMap<String, (Stamp, Duration)>,
    leads_since: Option<Duration>,
    idle_wakes: u32,
    woke_at: Time,
}

/// The loop may wake up so often in a row without mail and without anything to do, and no more: it blocks, it does not spin.
const IDLE_WAKES_MAX: u32 = 50;

impl Process {
    /// As `node/node.rs` puts a node together: from what its disk remembers.
    pub fn start(
        plan: &Plan,
        id: NodeId,
        life: u64,
        wipes: u64,
        disk: SimDisk,
        now: Time,
        seed: u64,
        oracle: &mut Oracle,
    ) -> Result<Self, StorageError> {
        let identity = Identity { cluster: "sim".to_owned(), node: id };
        let (storage, recovered) = Storage::open(disk, &identity, seed)?;
        let table = recovered.snapshot.as_ref().map_or_else(ServerTable::new, |snapshot| {
            ServerTable::from_snapshot(&snapshot.state).expect("the snapshot was made from a table")
        });
        let mut settings = Settings::new(
            id,
            (1..=plan.nodes).collect(),
            plan.election_timeout,
            plan.heartbeat,
            seed ^ 0xe1ec,
        );
        settings.append_entries_max = plan.append_entries_max;
        settings.append_bytes_max = plan.append_bytes_max;
        settings.snapshot_chunk_bytes = plan.snapshot_chunk_bytes;
        settings.uncommitted_entries_max = plan.uncommitted_entries_max;
        settings.trailing_entries = plan.trailing_entries;
        settings.state_is_valid = ServerTable::check_snapshot;
        let entries = recovered.entries.clone();
        let raft =
            Raft::new(settings, recovered.hard_state, recovered.snapshot, recovered.entries, Duration::ZERO);
        oracle.started(id, wipes, &raft, &entries);
        oracle.table(id, &table);
        Ok(Self {
            id,
            life,
            wipes,
            raft,
            storage,
            table,
            silence: SilenceDetector::new(plan.server_timeout),
            consensus: VecDeque::new(),
            service: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_proposal: 1,
            replies: BTreeMap::new(),
            next_token: 1,
            incarnations: BTreeMap::new(),
            led: false,
            tick_put_off: false,
            started: now,
            ahead: 0,
            writes: VecDeque::new(),
            write_done: None,
            disk_mode: plan.disk_mode,
            batch_max: plan.batch_max,
            snapshot_entries: plan.snapshot_entries,
            server_timeout: plan.server_timeout,
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
        self.disk_mode == DiskMode::Waits && !self.writes.is_empty()
    }

    /// Whether something is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// When the loop wakes up by itself, in the world's time.
    pub fn wakes_at(&self, now: Time) -> Time {
        if !self.consensus.is_empty() || !self.service.is_empty() {
            return now;
        }
        let silence = self.silence.deadline().unwrap_or(Duration::MAX);
        let deadline = u64::try_from(self.raft.deadline().min(silence).as_micros()).unwrap_or(u64::MAX);
        deadline.saturating_add(self.started).saturating_sub(self.ahead).max(now)
    }

    /// One turn of the loop.
    pub fn wake(&mut self, context: &mut Context<'_>) -> Result<(), StorageError> {
        assert!(!self.is_blocked(), "the loop waits for its disk");
        let (before, had_mail) = (*context.steps, !self.consensus.is_empty() || !self.service.is_empty());
        let mut newest = Newest::new();
        for _ in 0..self.batch_max {
            let Some(mail) = self.consensus.pop_front() else { break };
            self.take(mail, context);
        }
        while let Some(mail) = self.service.pop_front() {
            self.report(mail, &mut newest, context);
        }
        for (_, (_, command, waiting)) in newest {
            self.propose(command, Waiting::Daemons(waiting), context);
        }
        self.judge_silence(context);
        // The clock comes last, after all mail was read; but mail that never ends puts it off only once.
        let due = self.clock(context.now) >= self.raft.deadline();
        let put_off = due && !self.consensus.is_empty() && !self.tick_put_off;
        if due && !put_off {
            self.step(Event::Tick, context);
        }
        self.tick_put_off = put_off;
        // Without mail, and without a step or without any time that passed.
        let idle = !had_mail && (*context.steps == before || self.woke_at == context.now);
        self.woke_at = context.now;
        self.idle_wakes = if idle { self.idle_wakes + 1 } else { 0 };
        assert!(self.idle_wakes < IDLE_WAKES_MAX, "node {}: the loop spins", self.id);
        self.carry_out(context)
    }

    fn step(&mut self, event: Event, context: &mut Context<'_>) {
        *context.steps += 1;
        let now = self.clock(context.now);
        self.raft.step(now, event);
        context.oracle.stepped(&self.raft);
        self.leads_since = if self.raft.is_leader() { self.leads_since.or(Some(now)) } else { None };
    }

    fn take(&mut self, mail: Mail, context: &mut Context<'_>) {
        let event = match mail {
            Mail::Request { from, incarnation, request, back } => {
                self.note_incarnation(from, incarnation, context);
                let token = self.next_token;
                self.next_token += 1;
                self.replies.insert(token, back);
                Event::Request { from, token, request }
            }
            Mail::Reply { from, incarnation, rpc, reply } => {
                self.note_incarnation(from, incarnation, context);
                Event::Reply { from, rpc, reply }
            }
            Mail::Lost { to, rpc } => Event::Lost { to, rpc },
            Mail::LeaderGone { leader } => Event::LeaderGone { leader },
            Mail::Transfer { to } => Event::Transfer { to },
            Mail::PeerReset { peer } => Event::PeerReset { peer },
        };
        self.step(event, context);
    }

    fn note_incarnation(&mut self, peer: NodeId, incarnation: u64, context: &mut Context<'_>) {
        if let Some(before) = self.incarnations.insert(peer, incarnation)
            && before != incarnation
        {
            context.oracle.count(Seen::PeerReset);
            context
                .trace
                .line(context.now, || format!("node {}: peer {peer} has another incarnation", self.id));
            self.step(Event::PeerReset { peer }, context);
        }
    }

    fn report(&mut self, mail: ReportMail, newest: &mut Newest, context: &mut Context<'_>) {
        let (stamp, now) = (mail.report.stamp(), self.clock(context.now));
        let server = mail.report.server.clone();
        self.silence.heard(&server, stamp, now);
        let is_news = self.table.is_newer(&server, stamp)
            && self.signs.get(&server).is_none_or(|(newest, _)| stamp > *newest);
        if is_news {
            self.signs.insert(server.clone(), (stamp, now));
        }
        if !self.raft.is_leader() {
            let outcome = ReportOutcome::NotLeader { leader: self.raft.leader() };
            return context.effects.push(Effect::Outcome { mail, outcome });
        }
        if let Some(record) = self.table.get(&server)
            && !self.table.is_newer(&server, stamp)
        {
            let outcome = ReportOutcome::Committed { index: record.reported_at, stale: true };
            return context.effects.push(Effect::Outcome { mail, outcome });
        }
        let command = ServerCommand::Report(mail.report.clone()).to_command();
        match newest.get_mut(&server) {
            None => {
                newest.insert(server, (stamp, command, vec![(mail, false)]));
            }
            Some((best, best_command, waiting)) => {
                let newer = stamp > *best;
                if newer {
                    (*best, *best_command) = (stamp, command);
                    for (_, stale) in waiting.iter_mut() {
                        *stale = true;
                    }
                }
                waiting.push((mail, !newer));
            }
        }
    }

    fn propose(&mut self, command: Command, waiting: Waiting, context: &mut Context<'_>) {
        let id = self.next_proposal;
        self.next_proposal += 1;
        self.waiting.insert(id, waiting);
        self.step(Event::Propose { id, command }, context);
    }

    fn judge_silence(&mut self, context: &mut Context<'_>) {
        let (now, leads) = (self.clock(context.now), self.raft.is_leader());
        if leads != self.led {
            self.led = leads;
            self.silence.lead_since(leads.then_some(now));
        }
        for dead in self.silence.overdue(&self.table, now) {
            let id = self.id;
            context.trace.line(context.now, || format!("node {id}: proposes {dead:?}"));
            // Traps 36 to 38: no verdict but by a leader that has led and heard nothing for the whole time.
            let since = self.leads_since.expect("only a leader judges");
            assert!(
                now >= since + self.server_timeout,
                "node {id} leads only since {since:?}, and at {now:?} declares {} dead",
                dead.server
            );
            if let Some((stamp, heard)) = self.signs.get(&dead.server) {
                assert!(
                    now >= *heard + self.server_timeout,
                    "node {id} heard {stamp:?} of {} at {heard:?}, and at {now:?} declares it dead",
                    dead.server
                );
            }
            assert!(self.service.is_empty(), "a verdict while reports wait to be read");
            let command = ServerCommand::Dead(dead.clone()).to_command();
            self.propose(command, Waiting::Verdict(dead), context);
        }
    }

    // ---------------------------------------------------------------------------------------- what was decided

    /// Carries out what the core wants, until it wants nothing more or the disk has to be waited for.
    fn carry_out(&mut self, context: &mut Context<'_>) -> Result<(), StorageError> {
        loop {
            let output = self.raft.take_output();
            if output.is_empty() {
                break;
            }
            self.begin(output, false, context);
            if self.is_blocked() {
                return Ok(());
            }
        }
        if self.compaction_due() {
            let (at, state) = (self.raft.applied_index(), self.table.to_snapshot());
            self.step(Event::Compact { at, state }, context);
            let output = self.raft.take_output();
            self.begin(output, true, context);
        }
        if !self.is_blocked() {
            self.rest();
        }
        Ok(())
    }

    fn compaction_due(&self) -> bool {
        self.writes.is_empty()
            && self.raft.applied_index() - self.raft.snapshot_index() >= self.snapshot_entries
    }

    /// The first half: what may leave at once leaves, and the write begins.
    fn begin(&mut self, mut output: Output, compaction: bool, context: &mut Context<'_>) {
        context.oracle.decided(&self.raft, &output);
        for notice in &output.notices {
            context.trace.line(context.now, || notice.line(self.id));
        }
        for message in std::mem::take(&mut output.send_now) {
            if let Request::TimeoutNow(arguments) = &message.request {
                context.oracle.handed_over(message.to, arguments.term);
            }
            context.effects.push(Effect::Send { to: message.to, rpc: message.rpc, request: message.request });
        }
        let write = Write { output, compaction };
        if self.writes.is_empty() && write.output.durable.is_empty() {
            return self.finish(write.output, context);
        }
        self.writes.push_back(write);
        if self.write_done.is_none() {
            self.write_done = Some(context.now + context.latency);
        }
    }

    /// The disk is done with what was begun first; in the mode where it lags behind, with several at once.
    pub fn disk_done(&mut self, at_once: usize, context: &mut Context<'_>) -> Result<(), StorageError> {
        self.write_done = None;
        let count = if self.disk_mode == DiskMode::Waits { 1 } else { at_once.max(1) };
        let mut compacted = false;
        for _ in 0..count {
            let Some(Write { mut output, compaction }) = self.writes.pop_front() else { break };
            compacted |= compaction;
            if !output.durable.is_empty() {
                let durable = std::mem::take(&mut output.durable);
                self.make_durable(durable)?;
                self.step(Event::Persisted { mark: output.mark }, context);
            }
            self.finish(output, context);
        }
        if !self.writes.is_empty() {
            self.write_done = Some(context.now + context.latency);
        }
        // After a compaction, the real loop goes to sleep.
        if compacted && self.disk_mode == DiskMode::Waits {
            self.rest();
            return Ok(());
        }
        self.carry_out(context)
    }

    fn make_durable(&mut self, durable: Vec<Durable>) -> Result<(), StorageError> {
        let mut records: Vec<Record> = Vec::with_capacity(durable.len());
        for step in durable {
            match step {
                Durable::Record(record) => records.push(record),
                Durable::Compact { snapshot, hard_state, retained } => {
                    self.storage.append(&std::mem::take(&mut records))?;
                    self.storage.compact(&snapshot, hard_state, &retained)?;
                    // Now nothing older than the snapshot takes room any more.
                    let bytes = self.storage.disk().bytes();
                    let bound = DISK_BYTES_FIXED + DISK_BYTES_PER_ENTRY * retained.len() as u64;
                    assert!(
                        bytes <= bound,
                        "node {}: {bytes} bytes after a compaction, more than {bound}",
                        self.id
                    );
                }
            }
        }
        self.storage.append(&records)
    }

    /// The second half: what depends on the disk.
    fn finish(&mut self, output: Output, context: &mut Context<'_>) {
        for message in output.send_once_durable {
            context.oracle.promised(self.id, self.wipes, &message);
            match message {
                SendOnceDurable::Request { to, rpc, request } => {
                    context.effects.push(Effect::Send { to, rpc, request });
                }
                SendOnceDurable::Reply { token, reply, .. } => {
                    let back = self.replies.remove(&token).expect("one reply for each request");
                    context.effects.push(Effect::Answer { back, reply });
                }
            }
        }
        let mut stale_at = Vec::new();
        let changed = !output.apply.is_empty();
        for step in output.apply {
            match step {
                Apply::Entry(entry) => {
                    if self.table.apply(entry.index, &entry.command) == Change::Stale {
                        stale_at.push(entry.index);
                    }
                }
                Apply::Restore(snapshot) => {
                    let table = ServerTable::from_snapshot(&snapshot.state).expect("a leader's table");
                    assert!(
                        table.applied_index() > self.table.applied_index(),
                        "a snapshot went back (trap 28)"
                    );
                    self.table = table;
                }
            }
        }
        if changed {
            context.oracle.table(self.id, &self.table);
        }
        for (id, resolution) in output.resolved {
            self.resolve(id, resolution, &stale_at, context);
        }
    }

    fn resolve(
        &mut self,
        id: ProposalId,
        resolution: Resolution,
        stale_at: &[Index],
        context: &mut Context<'_>,
    ) {
        let waiting = self.waiting.remove(&id);
        match waiting.unwrap_or_else(|| panic!("node {}: proposal {id} was resolved twice", self.id)) {
            Waiting::Verdict(dead) => {
                if !matches!(resolution, Resolution::Committed { .. }) {
                    self.silence.lost(&dead);
                }
            }
            Waiting::Daemons(daemons) => {
                for (mail, superseded) in daemons {
                    let outcome = match resolution {
                        Resolution::Committed { index, .. } => {
                            ReportOutcome::Committed { index, stale: superseded || stale_at.contains(&index) }
                        }
                        Resolution::NotLeader { leader } => ReportOutcome::NotLeader { leader },
                        Resolution::Busy => ReportOutcome::Busy,
                        Resolution::Unknown => ReportOutcome::Unknown,
                    };
                    context.effects.push(Effect::Outcome { mail, outcome });
                }
            }
        }
    }

    /// The loop is about to block: nothing may be left over.
    fn rest(&self) {
        let (id, raft) = (self.id, &self.raft);
        if self.writes.is_empty() {
            assert!(
                raft.is_leader() || self.waiting.is_empty(),
                "node {id}: {} proposals wait, and it does not lead (trap 33)",
                self.waiting.len()
            );
            assert_eq!(self.table.applied_index(), raft.applied_index(), "node {id}: not all was applied");
            self.assert_bounded();
        }
        let log = raft.log();
        assert!(
            self.waiting.len() as u64 <= 1 + log.last_index() - raft.commit_index()
                || !self.writes.is_empty(),
            "node {id}: more proposals wait than entries"
        );
    }

    /// Memory and disk, at any age.
    fn assert_bounded(&self) {
        let raft = &self.raft;
        let applied = raft.applied_index();
        // A compaction comes as soon as it is due, and leaves nothing older than the trailing entries.
        let since_snapshot = applied - raft.snapshot_index();
        assert!(
            since_snapshot < self.snapshot_entries,
            "node {}: {since_snapshot} applied, not compacted",
            self.id
        );
        let bytes = self.storage.disk().bytes();
        assert!(
            bytes <= DISK_BYTES_MAX,
            "node {}: {bytes} bytes on disk, more than {DISK_BYTES_MAX}",
            self.id
        );
    }

    /// How many entries are in memory that a compaction should have dropped.
    pub fn entries_in_memory(&self) -> u64 {
        self.raft.log().last_index() + 1 - self.raft.log().first_index()
    }

    /// What was asked of this process and not answered: its connections close when it dies.
    pub fn unanswered(&self) -> Vec<Back> {
        let waiting = self.consensus.iter().filter_map(|mail| match mail {
            Mail::Request { back, .. } => Some(*back),
            _ => None,
        });
        self.replies.values().copied().chain(waiting).collect()
    }
}

/// What a node's directory holds right after a compaction: the snapshot (six servers of some 250 bytes), the header, term and
/// vote, ...
const DISK_BYTES_FIXED: u64 = 4 << 10;

/// ... and the entries after the snapshot.
const DISK_BYTES_PER_ENTRY: u64 = 300;

/// And at any other time. A leader without a majority may collect entries until it steps down, and what was truncated stays in
/// the file until the next compaction.
const DISK_BYTES_MAX: u64 = 1 << 20;
