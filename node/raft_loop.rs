//! The one central loop of a node: everything that concerns consensus happens here, one batch after the other.
//!
//! ```text
//! listeners ──┐                             ┌─► peer senders        (may leave at once)
//! peers ──────┼─► inboxes ─► step the core ─┼─► storage: one write, one fdatasync
//! the clock ──┘                             ├─► peer senders, waiting listeners (once durable)
//!                                           └─► server table ─► published view ─► daemons that wait for their commit
//! ```
//!
//! The loop blocks on its inboxes and on the core's next deadline, and on nothing else: it never does network I/O, and
//! whatever it hands on goes into a slot that cannot make it wait. There are two inboxes, so that a flood of reports cannot
//! delay the consensus by more than one batch. Started by `node.rs`; fed by `cluster_service.rs`, `peers.rs`,
//! `public_service.rs` and `leader_watch.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, select};
use log::{debug, info, warn};

use crate::balancer::{Change, Dead, Published, Report, ServerCommand, ServerTable, SilenceDetector, Stamp};
use crate::logging::RateLimit;
use crate::node::change_lines::ChangeLines;
use crate::node::leader_watch::LeaderNews;
use crate::node::peers::Peers;
use crate::node::standing::{Standing, StandingBoard};
use crate::raft::{
    Apply, Command, Durable, Entry, Event, Index, NodeId, Notice, Output, ProposalId, Raft, Record, Reply,
    ReplyToken, Request, Resolution, RpcId, SendOnceDurable, Term,
};
use crate::storage::{Disk, Storage, StorageError};

/// How many messages of consensus may wait. Each peer has at most a few under way, so it never fills by honest means; a
/// listener that finds it full waits, and its peer with it.
pub const CONSENSUS_INBOX_MAX: usize = 1_024;

/// How many reports and questions may wait. When it is full, a daemon gets a 503 and reports again a second later.
pub const REPORT_INBOX_MAX: usize = 4_096;

/// How much of an inbox is taken in one batch: it bounds the time between two looks at the clock.
const BATCH_MAX: usize = 1_024;

/// Lines about suspicious messages: at most one in this time.
const SUSPICIOUS_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Lines about votes and transfers in the same time.
const VOTE_LINES_MAX: u64 = 100;

/// What consensus waits for.
pub enum ConsensusInput {
    /// A peer's request; the listener's thread waits for the reply.
    Request {
        /// Who asks.
        from: NodeId,
        /// Its data directory's incarnation.
        incarnation: u64,
        /// What it asks.
        request: Request,
        /// Where the reply goes. A channel of one place that is used once: sending never blocks.
        reply: Sender<Reply>,
    },
    /// The reply to a request of ours.
    Reply {
        /// Who replies.
        from: NodeId,
        /// Its data directory's incarnation.
        incarnation: u64,
        /// Which request it was.
        rpc: RpcId,
        /// The reply.
        reply: Reply,
    },
    /// No reply came and none will.
    Lost {
        /// Who was asked.
        to: NodeId,
        /// Which request it was.
        rpc: RpcId,
    },
    /// The leader's process seems to have died.
    LeaderGone {
        /// The leader that was watched.
        leader: NodeId,
    },
    /// An operator, or this node's own stop, wants leadership handed over.
    Transfer {
        /// The wished successor.
        to: Option<NodeId>,
    },
}

/// What daemons and readers wait for.
pub enum ServiceInput {
    /// A daemon's report.
    Report {
        /// The report.
        report: Report,
        /// It, as a command. Made by the listener's thread, so that the loop need not.
        command: Command,
        /// Where the outcome goes. A channel of one place that is used once.
        outcome: Sender<ReportOutcome>,
    },
    /// `GET /log`.
    ReadLog {
        /// Entries after this index.
        after: Index,
        /// At most so many.
        limit: usize,
        /// Where they go. A channel of one place that is used once.
        entries: Sender<Vec<Entry>>,
    },
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportOutcome {
    /// It is committed, or (`stale`) something newer of the same server is.
    Committed {
        /// The index in the log.
        index: Index,
        /// That entry's term.
        term: Term,
        /// Whether the report changed nothing because it was not newer.
        stale: bool,
    },
    /// This node does not lead. It remembers that the server spoke, for the case that it leads soon.
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
    },
    /// Leadership was lost in between: the report may or may not be committed.
    Unknown,
    /// Nothing was written: leadership is being handed over, or too much is waiting for a majority.
    Busy,
    /// Nothing was written: the table holds as many living servers as it can.
    TableFull,
}

/// Who waits for a proposal.
enum Waiting {
    /// Daemons: the first is the one whose report was proposed, the others sent older ones of the same server.
    Daemons(Vec<(Sender<ReportOutcome>, bool)>),
    /// The silence detector, with this verdict.
    Verdict(Dead),
}

/// Everything the loop owns.
pub struct RaftLoop<D: Disk> {
    /// The core.
    pub raft: Raft,
    /// Its memory.
    pub storage: Storage<D>,
    /// The replicated state, as of the applied index.
    pub table: ServerTable,
    /// Writes what applying it changes.
    pub change_lines: ChangeLines,
    /// When servers were last heard.
    pub silence: SilenceDetector,
    /// The senders to the other nodes.
    pub peers: Peers,
    /// Where the table is shown to the threads that route.
    pub published: Arc<Published>,
    /// Where role, term and indexes are shown.
    pub standing: Arc<StandingBoard>,
    /// Whom the death detector shall watch.
    pub leaders: LeaderNews,
    /// The moment that the loop's clock counts from.
    pub started: Instant,
    /// The log is compacted after so many applied entries.
    pub snapshot_entries: u64,
    /// What it remembers from batch to batch: [`Memory::default`].
    pub memory: Memory,
}

/// What the loop remembers from batch to batch.
pub struct Memory {
    waiting: BTreeMap<ProposalId, Waiting>,
    next_proposal: ProposalId,
    replies: BTreeMap<ReplyToken, Sender<Reply>>,
    next_token: ReplyToken,
    incarnations: BTreeMap<NodeId, u64>,
    led: bool,
    last_contact: Duration,
    watched: Option<NodeId>,
    tick_put_off: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_proposal: 1,
            replies: BTreeMap::new(),
            next_token: 1,
            incarnations: BTreeMap::new(),
            led: false,
            last_contact: Duration::ZERO,
            watched: None,
            tick_put_off: false,
        }
    }
}

/// Lines about messages that cannot be right: a stranger may cause them as often as he likes.
static SUSPICIOUS: RateLimit = RateLimit::new(SUSPICIOUS_LINE_INTERVAL);

/// Lines about peers that seem to have another data directory: so can he these.
static INCARNATIONS: RateLimit = RateLimit::new(SUSPICIOUS_LINE_INTERVAL);

/// Lines about votes asked for and transfers. Elections come in clusters of a few dozen at the most.
static VOTES: RateLimit = RateLimit::burst(VOTE_LINES_MAX, SUSPICIOUS_LINE_INTERVAL);

/// Reports of one batch, the newest of each server first in line.
type Newest = BTreeMap<String, (Stamp, Command, Vec<(Sender<ReportOutcome>, bool)>)>;

impl<D: Disk> RaftLoop<D> {
    /// Runs until `stop` is closed, or until the disk fails.
    ///
    /// # Errors
    /// Any error of the disk: from then on this node may neither vote nor acknowledge (trap 21), and its process ends.
    pub fn run(
        mut self,
        consensus: &Receiver<ConsensusInput>,
        service: &Receiver<ServiceInput>,
        stop: &Receiver<()>,
    ) -> Result<(), StorageError> {
        self.publish();
        loop {
            let deadline = self.started + self.raft.deadline().min(self.silence_deadline());
            let mut newest = Newest::new();
            // Wait for the first of: a message, the deadline, the end.
            select! {
                recv(consensus) -> input => if let Ok(input) = input { self.consensus(input) },
                recv(service) -> input => if let Ok(input) = input { self.service(input, &mut newest) },
                recv(stop) -> _ => return Ok(()),
                recv(at(deadline)) -> _ => {}
            }
            // Then take what else has arrived, without waiting: all of it shares one write and one sync.
            for input in consensus.try_iter().take(BATCH_MAX) {
                self.consensus(input);
            }
            for input in service.try_iter().take(BATCH_MAX) {
                self.service(input, &mut newest);
            }
            self.propose_reports(newest);
            self.judge_silence();
            // The clock comes last: a process that was paused must first read its mail, else it would take its own
            // sleep for its leader's.
            // But a flood that never lets the inbox run empty puts the clock off only once.
            let now = self.now();
            let due = now >= self.raft.deadline();
            let put_off = due && !consensus.is_empty() && !self.memory.tick_put_off;
            if due && !put_off {
                self.raft.step(now, Event::Tick);
            }
            self.memory.tick_put_off = put_off;
            self.carry_out()?;
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    // ------------------------------------------------------------------------------------------------ what comes in

    fn consensus(&mut self, input: ConsensusInput) {
        let now = self.now();
        let event = match input {
            ConsensusInput::Request { from, incarnation, request, reply } => {
                self.note_incarnation(from, incarnation);
                let token = self.memory.next_token;
                self.memory.next_token += 1;
                self.memory.replies.insert(token, reply);
                Event::Request { from, token, request }
            }
            ConsensusInput::Reply { from, incarnation, rpc, reply } => {
                self.note_incarnation(from, incarnation);
                Event::Reply { from, rpc, reply }
            }
            ConsensusInput::Lost { to, rpc } => Event::Lost { to, rpc },
            ConsensusInput::LeaderGone { leader } => Event::LeaderGone { leader },
            ConsensusInput::Transfer { to } => Event::Transfer { to },
        };
        self.raft.step(now, event);
    }

    /// Trap 26: a node that comes back with an empty directory under its old id may vote twice in a term. That cannot be undone,
    /// but it is noticed, said, and its log is filled again.
    fn note_incarnation(&mut self, peer: NodeId, incarnation: u64) {
        if let Some(before) = self.memory.incarnations.insert(peer, incarnation)
            && before != incarnation
        {
            if let Some(more) = INCARNATIONS.allow(Instant::now()) {
                warn!(
                    "peer node {peer}: runs on another data directory than before (incarnation {before:016x} is now \
                     {incarnation:016x}); if it was wiped, a vote it gave may be forgotten: wipe one node at a time, \
                     and only while all others are up{}",
                    more_like_it(more)
                );
            }
            self.raft.step(self.now(), Event::PeerReset { peer });
        }
    }

    fn service(&mut self, input: ServiceInput, newest: &mut Newest) {
        match input {
            ServiceInput::Report { report, command, outcome } => {
                self.report(report, command, outcome, newest)
            }
            ServiceInput::ReadLog { after, limit, entries } => {
                // The reader may have gone: then nobody needs the answer.
                let _ = entries.send(self.raft.log().slice(after.saturating_add(1), limit, usize::MAX));
            }
        }
    }

    fn report(
        &mut self,
        report: Report,
        command: Command,
        outcome: Sender<ReportOutcome>,
        newest: &mut Newest,
    ) {
        let stamp = report.stamp();
        // Every node keeps receipts, so that whoever leads next knows who lives (trap 38).
        self.silence.heard(&report.server, stamp, self.now());
        if !self.raft.is_leader() {
            let _ = outcome.send(ReportOutcome::NotLeader { leader: self.raft.leader() });
            return;
        }
        if let Some(record) = self.table.get(&report.server)
            && !self.table.is_newer(&report.server, stamp)
        {
            let index = record.reported_at;
            let term = self.raft.log().term_at(index).unwrap_or(self.raft.hard_state().term);
            let _ = outcome.send(ReportOutcome::Committed { index, term, stale: true });
            return;
        }
        if !self.table.has_room_for(&report.server) {
            let _ = outcome.send(ReportOutcome::TableFull);
            return;
        }
        // Of one server, the newest report of the batch goes into the log; whoever sent an older one gets its answer.
        match newest.get_mut(&report.server) {
            None => {
                newest.insert(report.server, (stamp, command, vec![(outcome, false)]));
            }
            Some((best, best_command, waiting)) => {
                let newer = stamp > *best;
                if newer {
                    (*best, *best_command) = (stamp, command);
                    for (_, stale) in waiting.iter_mut() {
                        *stale = true;
                    }
                }
                waiting.push((outcome, !newer));
            }
        }
    }

    fn propose_reports(&mut self, newest: Newest) {
        for (_, (_, command, waiting)) in newest {
            self.propose(command, Waiting::Daemons(waiting));
        }
    }

    fn propose(&mut self, command: Command, waiting: Waiting) {
        let id = self.memory.next_proposal;
        self.memory.next_proposal += 1;
        self.memory.waiting.insert(id, waiting);
        self.raft.step(self.now(), Event::Propose { id, command });
    }

    // -------------------------------------------------------------------------------------------------- silence

    fn silence_deadline(&self) -> Duration {
        self.silence.deadline().unwrap_or(Duration::MAX)
    }

    fn judge_silence(&mut self) {
        let (now, leads) = (self.now(), self.raft.is_leader());
        if leads != self.memory.led {
            self.memory.led = leads;
            self.silence.lead_since(leads.then_some(now));
        }
        for dead in self.silence.overdue(&self.table, now) {
            warn!(
                "server {} has sent no report for {} ms; node {}, the leader, proposes that it is dead (last report \
                 {}/{})",
                dead.server,
                dead.silent_ms,
                self.raft.id(),
                dead.epoch,
                dead.sequence
            );
            let command = ServerCommand::Dead(dead.clone()).to_command();
            self.propose(command, Waiting::Verdict(dead));
        }
    }

    // ---------------------------------------------------------------------------------------- what was decided

    /// Carries out what the core decided, in the one safe order (see `Output`), until it wants nothing more.
    fn carry_out(&mut self) -> Result<(), StorageError> {
        loop {
            let (mut resolved, mut stale) = (Vec::new(), Vec::new());
            loop {
                let output = self.raft.take_output();
                if output.is_empty() {
                    break;
                }
                self.carry_out_once(output, &mut resolved, &mut stale)?;
            }
            // Before the answers: whoever has learnt that a report is committed finds it here.
            self.publish();
            for (id, resolution) in resolved {
                self.resolve(id, resolution, &stale);
            }
            if !self.compact_if_due() {
                return Ok(());
            }
        }
    }

    /// Adds to `resolved` what became of proposals, and to `stale` the indexes at which a report turned out to be stale.
    fn carry_out_once(
        &mut self,
        output: Output,
        resolved: &mut Vec<(ProposalId, Resolution)>,
        stale: &mut Vec<Index>,
    ) -> Result<(), StorageError> {
        for notice in &output.notices {
            Self::log_notice(notice, self.raft.id());
            if let Notice::Truncated { from, .. } = notice {
                self.change_lines.truncated(*from, &self.table);
            }
        }
        for message in output.send_now {
            self.peers.send(message.to, message.rpc, message.request);
        }
        if !output.durable.is_empty() {
            self.make_durable(output.durable)?;
            self.raft.step(self.now(), Event::Persisted { mark: output.mark });
        }
        for message in output.send_once_durable {
            match message {
                SendOnceDurable::Request { to, rpc, request } => self.peers.send(to, rpc, request),
                SendOnceDurable::Reply { token, reply, .. } => {
                    if let Some(channel) = self.memory.replies.remove(&token) {
                        let _ = channel.send(reply); // The peer may have hung up.
                    }
                }
            }
        }
        stale.extend(self.apply(output.apply));
        resolved.extend(output.resolved);
        Ok(())
    }

    fn make_durable(&mut self, durable: Vec<Durable>) -> Result<(), StorageError> {
        let mut records: Vec<Record> = Vec::with_capacity(durable.len());
        for step in durable {
            match step {
                Durable::Record(record) => records.push(record),
                Durable::Compact { snapshot, hard_state, retained } => {
                    self.storage.append(&std::mem::take(&mut records))?;
                    self.storage.compact(&snapshot, hard_state, &retained)?;
                }
            }
        }
        self.storage.append(&records)
    }

    /// Applies what is committed; gives the indexes at which a report turned out to be stale.
    fn apply(&mut self, steps: Vec<Apply>) -> Vec<Index> {
        let mut stale = Vec::new();
        for step in steps {
            match step {
                Apply::Entry(entry) => {
                    let change = self.table.apply(entry.index, &entry.command);
                    if change == Change::Stale {
                        stale.push(entry.index);
                    }
                    self.change_lines.applied(&entry, &change, &self.table);
                }
                Apply::Restore(snapshot) => match ServerTable::from_snapshot(&snapshot.state) {
                    Ok(table) => {
                        self.table = table;
                        self.change_lines.restored(&self.table);
                    }
                    // Unreachable: the core asked `ServerTable::from_snapshot` before it took the snapshot
                    // (`Settings::state_is_valid`). Serving from a wrong table would be worse than stopping.
                    Err(reason) => panic!("the leader's snapshot holds no server table: {reason}"),
                },
            }
        }
        stale
    }

    fn resolve(&mut self, id: ProposalId, resolution: Resolution, stale_at: &[Index]) {
        let daemons = match self.memory.waiting.remove(&id) {
            Some(Waiting::Daemons(daemons)) => daemons,
            Some(Waiting::Verdict(dead)) => {
                if !matches!(resolution, Resolution::Committed { .. }) {
                    debug!(
                        "the proposal that server {} is dead was not committed: {resolution:?}",
                        dead.server
                    );
                    self.silence.lost(&dead);
                }
                return;
            }
            None => return,
        };
        for (outcome, superseded) in daemons {
            // The daemon may have hung up.
            let _ = outcome.send(match resolution {
                Resolution::Committed { index, term } => {
                    let stale = superseded || stale_at.contains(&index);
                    ReportOutcome::Committed { index, term, stale }
                }
                Resolution::NotLeader { leader } => ReportOutcome::NotLeader { leader },
                Resolution::Busy => ReportOutcome::Busy,
                Resolution::Unknown => ReportOutcome::Unknown,
            });
        }
    }

    /// Tells the core to compact its log, if it is time; returns whether it was.
    fn compact_if_due(&mut self) -> bool {
        let applied = self.raft.applied_index();
        let due = applied - self.raft.snapshot_index() >= self.snapshot_entries;
        if due {
            let state = self.table.to_snapshot();
            self.raft.step(self.now(), Event::Compact { at: applied, state });
        }
        due
    }

    // --------------------------------------------------------------------------------------------- what is shown

    fn publish(&mut self) {
        let now = self.now();
        self.published.publish(&self.table, now);
        if let Some(contact) = self.raft.leader_contact() {
            self.memory.last_contact = self.memory.last_contact.max(contact);
        }
        let hard_state = self.raft.hard_state();
        // A leader that is another node is worth watching.
        let watched = self.raft.leader().filter(|leader| *leader != self.raft.id());
        if watched != self.memory.watched {
            self.memory.watched = watched;
            self.leaders.tell(watched);
        }
        self.standing.set(Standing {
            role: self.raft.role_name(),
            term: hard_state.term,
            leader: self.raft.leader(),
            voted_for: hard_state.voted_for,
            commit_index: self.raft.commit_index(),
            applied_index: self.raft.applied_index(),
            settled: self.raft.log().term_at(self.raft.applied_index()) == Some(hard_state.term),
            last_index: self.raft.log().last_index(),
            snapshot_index: self.raft.snapshot_index(),
            last_contact: self.memory.last_contact,
        });
    }

    fn log_notice(notice: &Notice, id: NodeId) {
        let line = notice.line(id);
        match notice {
            Notice::Suspicious { .. } => {
                if let Some(more) = SUSPICIOUS.allow(Instant::now()) {
                    warn!("{line}{}", more_like_it(more));
                }
            }
            Notice::VoteReceived { .. } => debug!("{line}"),
            // A stranger can ask for votes, and for transfers, as often as he likes.
            Notice::VoteGranted { .. } | Notice::VoteRefused { .. } | Notice::Transfer { .. } => {
                match VOTES.allow(Instant::now()) {
                    Some(0) => info!("{line}"),
                    Some(more) => info!("{line} ({more} lines of this kind were left out before it)"),
                    None => {}
                }
            }
            _ => info!("{line}"),
        }
    }
}

/// What a line that is told at a bounded rate says of those that were not.
fn more_like_it(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" ({more} more like it since the last such line)") }
}

/// A pair of channels for one reply.
pub fn one_reply<T>() -> (Sender<T>, Receiver<T>) {
    bounded(1)
}
