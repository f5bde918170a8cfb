//! The replica: what one node decides, batch after batch. See [`replica`](super) for how it is driven.
//!
//! The file follows one batch: inputs come in, the batch ends, effects go out, what is committed is applied and answered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::agreement::{Agreement, Contradiction, Judged, is_checkpoint};
use super::batch::{Batch, Reporter};
use super::effect::{Effect, ReportOutcome, Standing, Write};
use super::input::{Input, Unread};
use super::mail_first::MailFirst;
use super::notice::ReplicaNotice;
use super::recovery::Recovery;
use crate::balancer::{Change, Dead, Fit, Report, ServerCommand, ServerTable, SilenceDetector};
use crate::raft::{
    self, Apply, Command, CompareState, CompareStateReply, Configuration, Entry, Event, HardState, Index,
    Members, NodeId, Output, ProposalId, Raft, ReplyToken, Resolution, RpcId, RpcReply, RpcRequest, SendNow,
    SendOnceDurable, Snapshot, StateVerdict, Term,
};

/// Names the requests of the replica itself, which the core does not know. The core's own begin with 1.
const NO_RPC: RpcId = 0;

/// The commit hint is written no more often than this. It costs some microseconds, so a busy loop does not feel it; what
/// a killed node forgets is at most so old.
const HINT_INTERVAL: Duration = Duration::from_millis(100);

/// What a replica needs to know.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// The core's settings. `state_is_valid` is set by the replica: it knows what a state is.
    pub raft: raft::Settings,
    /// A server is dead after so long without a report.
    pub server_timeout: Duration,
    /// The log is compacted after so many applied entries.
    pub snapshot_entries: u64,
    /// How many servers the table holds. Equal on all nodes: it is part of the replicated rules.
    pub servers_max: usize,
}

/// One node's replica of the server table, with the core that keeps it equal on all nodes.
#[derive(Debug)]
pub struct Replica<P, D> {
    raft: Raft,
    /// The replicated state, as of its applied index.
    table: ServerTable,
    recovery: Recovery,
    agreement: Agreement,
    silence: SilenceDetector,
    snapshot_entries: u64,
    /// The newest time that the driver told.
    now: Duration,

    // Who waits.
    /// Peers that wait for a reply, by the token under which the core knows them.
    requests: BTreeMap<ReplyToken, P>,
    next_token: ReplyToken,
    /// What waits for its commit.
    proposals: BTreeMap<ProposalId, Proposed<D>>,
    next_proposal: ProposalId,
    /// The reports of the batch that is being read.
    batch: Batch<D>,
    /// The operators' orders of the same batch.
    orders: Vec<(Command, D)>,

    // What is known of the others.
    /// The incarnation of each peer's data directory, as last heard.
    incarnations: BTreeMap<NodeId, u64>,
    /// The term that this node leads, as the silence detector was told.
    leading: Option<Term>,
    /// Whom the driver was told to reach: the members, and who left and is still to be told.
    reached: Option<(Configuration, Vec<NodeId>)>,
    /// The leader that is being watched.
    watched: Option<NodeId>,
    last_contact: Option<Duration>,
    age_at_start: Duration,
    /// What was remembered last, and when.
    hinted: Option<(Index, Option<Duration>, Duration)>,
    tick: MailFirst,
    verdicts: MailFirst,

    // What goes out. The order among them is that of `next_effect`.
    /// May be carried out now.
    ready: VecDeque<Effect<P, D>>,
    /// Durable, and not yet applied.
    committed: VecDeque<Committed>,
    /// Answers that must not be given before the next picture is published.
    answers: VecDeque<Effect<P, D>>,
    /// Whether there may be something new to publish.
    unpublished: bool,
    /// Waits for the disk, oldest first.
    held: VecDeque<Held>,
    /// The mark of the newest write that was handed out.
    written: u64,
    /// The mark of the newest write that is durable.
    durable: u64,
}

/// A proposal that waits for its commit.
#[derive(Debug)]
struct Proposed<D> {
    at: Duration,
    waiting: Waiting<D>,
}

/// Who waits for a proposal.
#[derive(Debug)]
enum Waiting<D> {
    /// Daemons that reported this server.
    Reporters { server: String, reporters: Vec<Reporter<D>> },
    /// The silence detector, with this verdict.
    Verdict(Dead),
    /// An operator, with his order.
    Operator(D),
}

/// What one output of the core says is committed, and what became of proposals.
#[derive(Debug)]
struct Committed {
    steps: Vec<Apply>,
    resolved: Vec<(ProposalId, Resolution)>,
}

/// The part of an output that must wait until the disk has caught up.
#[derive(Debug)]
struct Held {
    /// The write that it waits for.
    mark: u64,
    sends: Vec<SendOnceDurable>,
    committed: Committed,
}

impl<P, D> Replica<P, D> {
    /// A replica as it is when its process starts: with what its disk remembers.
    ///
    /// # Errors
    /// One line, when the snapshot holds no server table.
    ///
    /// # Panics
    /// If the settings or the recovered state contradict themselves; configuration and storage check both first.
    pub fn new(
        settings: ReplicaSettings,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
        now: Duration,
    ) -> Result<Self, String> {
        let ReplicaSettings { raft: mut core, server_timeout, snapshot_entries, servers_max } = settings;
        core.state_is_valid = ServerTable::check_snapshot;
        let table = match &snapshot {
            Some(snapshot) => ServerTable::from_snapshot(&snapshot.state)?,
            None => ServerTable::new(servers_max),
        };
        let raft = Raft::new(core, hard_state, snapshot, entries, now);
        let mut replica = Self {
            recovery: Recovery::new(raft.log().last_index()),
            raft,
            table,
            agreement: Agreement::default(),
            silence: SilenceDetector::new(server_timeout),
            snapshot_entries,
            now,
            requests: BTreeMap::new(),
            next_token: 1,
            proposals: BTreeMap::new(),
            next_proposal: 1,
            batch: Batch::default(),
            orders: Vec::new(),
            incarnations: BTreeMap::new(),
            leading: None,
            reached: None,
            watched: None,
            last_contact: None,
            age_at_start: Duration::ZERO,
            hinted: None,
            tick: MailFirst::default(),
            verdicts: MailFirst::default(),
            ready: VecDeque::new(),
            committed: VecDeque::new(),
            answers: VecDeque::new(),
            unpublished: true,
            held: VecDeque::new(),
            written: 0,
            durable: 0,
        };
        replica.note_recovered();
        replica.reach_members();
        Ok(replica)
    }

    /// After a start: the disk remembers that the log is committed up to `index`, and that this was `age` ago. The state up
    /// to there is served also without a leader.
    ///
    /// # Panics
    /// If the log does not reach so far: the storage checks it first.
    pub fn recall_commit(&mut self, index: Index, age: Duration) {
        self.age_at_start = age;
        self.raft.recall_commit(index);
    }

    // -------------------------------------------------------------------------------------------- inputs come in

    /// Takes one input in. `now` is the time since any fixed moment on a monotonic clock.
    pub fn receive(&mut self, now: Duration, input: Input<P, D>) {
        self.now = self.now.max(now);
        self.unpublished = true;
        let event = match input {
            Input::Report { report, command, caller } => {
                self.verdicts.read_one();
                return self.receive_report(report, command, caller);
            }
            Input::Request { from, incarnation, request: RpcRequest::CompareState(said), caller } => {
                self.note_incarnation(from, incarnation);
                self.tick.read_one();
                return self.compare(from, &said, caller);
            }
            Input::Request { from, incarnation, request, caller } => {
                self.note_incarnation(from, incarnation);
                let token = self.next_token;
                self.next_token += 1;
                self.requests.insert(token, caller);
                Event::Request { from, token, request }
            }
            Input::Reply { from, incarnation, rpc, reply } => {
                self.note_incarnation(from, incarnation);
                if let RpcReply::CompareState(reply) = reply {
                    self.judged(from, reply);
                }
                Event::Reply { from, rpc, reply }
            }
            Input::ChangeMembers { change, caller } => {
                let id = self.wait_for(Waiting::Operator(caller));
                Event::ChangeMembers { id, change }
            }
            Input::Lost { to, rpc } => Event::Lost { to, rpc },
            Input::Refused { from, rpc } => Event::Refused { from, rpc },
            Input::LeaderGone { leader } => Event::LeaderGone { leader },
            Input::Order { order, caller } => {
                self.tick.read_one();
                return self.orders.push((ServerCommand::Order(order).to_command(), caller));
            }
            Input::Transfer { to } => Event::Transfer { to },
        };
        self.tick.read_one();
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        self.raft.step(self.now, event);
    }

    /// A peer runs on another data directory than before. A new directory begins as joining: the node does not vote until
    /// a leader admits it, or until it helps to found the cluster (`src/raft/joining.rs`). Here the change is logged, and
    /// a leader fills the empty log.
    fn note_incarnation(&mut self, peer: NodeId, incarnation: u64) {
        if let Some(before) = self.incarnations.insert(peer, incarnation)
            && before != incarnation
        {
            self.notice(ReplicaNotice::PeerReset { peer, before, now: incarnation });
            self.step(Event::PeerReset { peer });
        }
    }

    /// A leader names the digest of its state.
    fn compare(&mut self, from: NodeId, said: &CompareState, caller: P) {
        let term = self.raft.hard_state().term;
        let is_leader = self.raft.leader() == Some(from) && said.term == term && said.leader_id == from;
        let mut verdict = StateVerdict::Unknown;
        if is_leader {
            let before = self.agreement.contradiction(term);
            let (found, news) = self.agreement.compare(said);
            verdict = found;
            self.contradicted(news);
            if before.is_some() && verdict == StateVerdict::Same {
                self.step(Event::Barred { barred: false });
                self.notice(ReplicaNotice::Agrees { index: said.index });
            }
        }
        // It promises nothing that the disk must remember.
        let reply = RpcReply::CompareState(CompareStateReply { term, index: said.index, verdict });
        self.ready.push_back(Effect::Reply { caller, reply });
    }

    /// A follower has compared.
    fn judged(&mut self, from: NodeId, reply: CompareStateReply) {
        let term = self.raft.hard_state().term;
        if !self.raft.is_leader() || reply.term != term {
            return;
        }
        let leader = (self.raft.id(), term, self.raft.majority());
        if !self.raft.members().is_voter(from) {
            return; // A learner does not count.
        }
        match self.agreement.judged(from, reply.index, reply.verdict, leader) {
            Judged::Nothing => {}
            Judged::OwnStateIsWrong(found) => self.contradicted(Some(found)),
            Judged::TheirStateIsWrong(said) => self.send_comparison(from, said),
        }
    }

    fn contradicted(&mut self, news: Option<Contradiction>) {
        let Some(found) = news else { return };
        self.notice(ReplicaNotice::Contradiction(found));
        if found.by_majority {
            self.step(Event::Barred { barred: true });
        }
    }

    /// Not while leadership is handed over: nothing may take the place of the request that does it.
    fn send_comparison(&mut self, to: NodeId, said: CompareState) {
        if !self.raft.is_handing_over() {
            let request = RpcRequest::CompareState(said);
            self.ready.push_back(Effect::Send { to, rpc: NO_RPC, request });
        }
    }

    /// Asks all followers to compare their digest with this leader's, if it is time.
    fn compare_if_due(&mut self) {
        let (id, majority) = (self.raft.id(), self.raft.majority());
        if self.raft.is_leader()
            && let Some(said) =
                self.agreement.next_comparison(self.now, self.raft.hard_state().term, id, majority)
        {
            for peer in self.raft.peers() {
                self.send_comparison(peer, said.clone());
            }
        }
    }

    fn receive_report(&mut self, report: Report, command: Command, caller: D) {
        let stamp = report.stamp();
        let fit = self.table.fit(&report);
        // Every node keeps receipts, also a follower: whoever leads next must know who lives.
        if fit == Fit::News {
            self.silence.heard(&report.server, self.now);
        } else {
            self.silence.heard_nothing_new(self.now);
        }
        if !self.raft.is_leader() {
            // This promises nothing, so it need not wait for the picture.
            let outcome = ReportOutcome::NotLeader { leader: self.raft.leader() };
            self.ready.push_back(Effect::Answer { caller, outcome });
        } else if fit == Fit::OtherDaemon {
            let outcome = self.other_daemon(&report.server);
            self.answers.push_back(Effect::Answer { caller, outcome });
        } else if fit == Fit::Stale {
            // It would change nothing, so it costs no entry. The answer follows from the entry that was applied before.
            let outcome = self.stale(&report.server);
            self.answers.push_back(Effect::Answer { caller, outcome });
        } else if !self.table.has_room_for(&report.server) {
            // A refusal promises nothing, so it may be given beforehand: a server too many must not fill the log.
            self.answers.push_back(Effect::Answer { caller, outcome: ReportOutcome::TableFull });
        } else {
            self.batch.add(report.server, stamp, command, caller);
        }
    }

    /// The answer to a report of a server that another daemon reports: it names that one's worker.
    fn other_daemon(&self, server: &str) -> ReportOutcome {
        let record =
            self.table.get(server).expect("a name belongs to a daemon only while there is a record of it");
        ReportOutcome::OtherDaemon { worker: record.report.worker }
    }

    /// The answer to a report that is not newer than the table: it names the one that the table holds.
    fn stale(&self, server: &str) -> ReportOutcome {
        let record = self.table.get(server).expect("a report is stale only beside a record of its server");
        ReportOutcome::Stale {
            index: record.reported_at,
            term: record.reported_term,
            newest: record.report.stamp(),
        }
    }

    // ------------------------------------------------------------------------------------------- the batch ends

    /// The batch is read: its reports and orders are proposed, then the clock is looked at. `now` was read before `unread` was counted.
    pub fn end_batch(&mut self, now: Duration, unread: Unread) {
        self.now = self.now.max(now);
        self.unpublished = true;
        for (server, proposal) in std::mem::take(&mut self.batch).into_proposals() {
            self.propose(proposal.command, Waiting::Reporters { server, reporters: proposal.reporters });
        }
        // Also at a follower: its core answers that it does not lead.
        for (command, caller) in std::mem::take(&mut self.orders) {
            self.propose(command, Waiting::Operator(caller));
        }
        self.judge_silence(unread.reports);
        self.compare_if_due();
        let is_due = self.now >= self.raft.deadline();
        if self.tick.decide(self.now, is_due, unread.messages).is_some() {
            self.step(Event::Tick);
        }
    }

    fn propose(&mut self, command: Command, waiting: Waiting<D>) {
        let id = self.wait_for(waiting);
        self.step(Event::Propose { id, command });
    }

    /// The number under which the core will tell the outcome.
    fn wait_for(&mut self, waiting: Waiting<D>) -> ProposalId {
        let id = self.next_proposal;
        self.next_proposal += 1;
        self.proposals.insert(id, Proposed { at: self.now, waiting });
        id
    }

    fn judge_silence(&mut self, unread: usize) {
        let leading = self.raft.is_leader().then(|| self.raft.hard_state().term);
        if leading != self.leading {
            self.leading = leading;
            self.silence.lead_since(leading.map(|_| self.now));
        }
        let is_due = self.silence.deadline().is_some_and(|deadline| self.now >= deadline);
        let as_of = match self.verdicts.decide(self.now, is_due, unread) {
            Some(as_of) => as_of,
            None if is_due => return,
            // Nobody can be overdue. The detector wants to see the time pass all the same.
            None => self.now,
        };
        for dead in self.silence.overdue(&self.table, as_of) {
            self.notice(ReplicaNotice::Overdue(dead.clone()));
            let command = ServerCommand::Dead(dead.clone()).to_command();
            self.propose(command, Waiting::Verdict(dead));
        }
    }

    /// When [`end_batch`](Self::end_batch) must be called at the latest, on the clock of `now`.
    pub fn deadline(&self) -> Duration {
        self.raft.deadline().min(self.silence.deadline().unwrap_or(Duration::MAX))
    }

    // ------------------------------------------------------------------------------------------- effects go out

    /// The next thing to do; `None` when there is nothing more to do for now.
    pub fn next_effect(&mut self) -> Option<Effect<P, D>> {
        loop {
            if let Some(effect) = self.ready.pop_front() {
                return Some(effect);
            }
            if let Some(committed) = self.committed.pop_front() {
                self.apply(committed);
                continue;
            }
            let output = self.raft.take_output();
            if !output.is_empty() {
                self.order(output);
                continue;
            }
            // First the picture, then the answers: whoever learns that a report is committed finds it in the picture.
            if std::mem::take(&mut self.unpublished) {
                self.publish();
                self.ready.append(&mut self.answers);
            } else if let Some(remember) = self.hint_if_due() {
                return Some(remember);
            } else if !self.compact_if_due() {
                return None;
            }
        }
    }

    /// Sorts an output of the core by what it must wait for: see [`Output`].
    fn order(&mut self, output: Output) {
        let Output { send_now, durable, mark, send_once_durable, apply, resolved, notices } = output;
        for notice in notices {
            if let raft::Notice::Truncated { from, .. } = notice {
                self.recovery.truncated(from);
            }
            self.notice(ReplicaNotice::Raft(notice));
        }
        self.note_recovered();
        self.reach_members();
        self.ready.extend(send_now.into_iter().map(|SendNow { to, rpc, request }| Effect::Send {
            to,
            rpc,
            request,
        }));
        if !durable.is_empty() {
            self.written = mark;
            self.ready.push_back(Effect::Write(Write { mark, steps: durable }));
        }
        let committed = Committed { steps: apply, resolved };
        // Without a write of its own, it waits for the writes before it.
        self.held.push_back(Held { mark: self.written, sends: send_once_durable, committed });
        self.release();
    }

    /// The write of this mark is durable, and all writes before it.
    ///
    /// # Panics
    /// When no such write was handed out, or this was said before.
    pub fn durable(&mut self, now: Duration, mark: u64) {
        assert!(self.durable < mark && mark <= self.written, "write {mark} is not under way");
        self.now = self.now.max(now);
        self.unpublished = true;
        self.durable = mark;
        self.step(Event::Persisted { mark });
        self.release();
    }

    /// Lets go what waited for a write that is durable by now.
    fn release(&mut self) {
        let count = self.held.iter().take_while(|held| held.mark <= self.durable).count();
        for Held { sends, committed, .. } in self.held.drain(..count) {
            for send in sends {
                let effect = match send {
                    SendOnceDurable::Request { to, rpc, request } => Effect::Send { to, rpc, request },
                    SendOnceDurable::Reply { token, reply, .. } => {
                        let caller =
                            self.requests.remove(&token).expect("the core replies once to each request");
                        Effect::Reply { caller, reply }
                    }
                };
                self.ready.push_back(effect);
            }
            self.committed.push_back(committed);
        }
    }

    /// Before the first message to a new member, the driver learns where it is.
    fn reach_members(&mut self) {
        let (configuration, leaving) = (self.raft.configuration(), self.raft.leaving());
        let is_known =
            self.reached.as_ref().is_some_and(|(known, left)| known == configuration && *left == leaving);
        if !is_known {
            let configuration = configuration.clone();
            self.reached = Some((configuration.clone(), leaving.clone()));
            self.ready.push_back(Effect::Members { configuration, leaving });
        }
    }

    fn publish(&mut self) {
        self.last_contact = self.last_contact.max(self.raft.leader_contact());
        // Only the process of another node is worth watching.
        let watched = self.raft.leader().filter(|leader| *leader != self.raft.id());
        if watched != self.watched {
            self.watched = watched;
            self.ready.push_back(Effect::Watch(watched));
        }
        self.ready.push_back(Effect::Publish);
    }

    /// What to remember, if it is time. Heartbeats wake the loop often enough; the hint needs no deadline of its own.
    fn hint_if_due(&mut self) -> Option<Effect<P, D>> {
        let is_due = self.hinted.is_none_or(|(index, contact, at)| {
            (index, contact) != (self.table.applied_index(), self.last_contact)
                && self.now >= at + HINT_INTERVAL
        });
        if is_due { self.hint() } else { None }
    }

    /// The hint as it stands: for a clean end, at which it is written whatever the time.
    pub fn hint(&mut self) -> Option<Effect<P, D>> {
        let index = self.table.applied_index();
        // While a leader's snapshot is on its way to the disk, the core's log is ahead of the table.
        let term = self.raft.log().term_at(index).filter(|_| index > 0)?;
        self.hinted = Some((index, self.last_contact, self.now));
        Some(Effect::Remember { index, term })
    }

    /// Tells the core to compact its log, if it is time; returns whether it was.
    fn compact_if_due(&mut self) -> bool {
        let applied = self.raft.applied_index();
        // While something waits for the disk, the table may be behind the core's applied index.
        // A state that may be wrong must not take the place of the log that it came from.
        let is_due = self.held.is_empty()
            && applied - self.raft.snapshot_index() >= self.snapshot_entries
            && self.contradiction().is_none();
        if is_due {
            let state = self.table.to_snapshot();
            self.step(Event::Compact { at: applied, state });
            self.unpublished = true;
        }
        is_due
    }

    fn note_recovered(&mut self) {
        // A new cluster has agreed on nothing yet but its founding: there is nothing to tell.
        if self.recovery.ends(self.table.applied_index()) && self.table.servers().len() > 0 {
            self.notice(ReplicaNotice::recovered(&self.table));
        }
    }

    fn notice(&mut self, notice: ReplicaNotice) {
        self.ready.push_back(Effect::Notice(notice));
    }

    // ------------------------------------------------------------------------- what is committed is applied and answered

    /// Applies what is committed. The answer to a report follows from what applying its entry changed, and from nothing else.
    fn apply(&mut self, Committed { steps, resolved }: Committed) {
        let mut proposed: BTreeMap<Index, Waiting<D>> = BTreeMap::new();
        for (id, resolution) in resolved {
            let Proposed { at, waiting } =
                self.proposals.remove(&id).expect("the core resolves each proposal once");
            let committed = matches!(resolution, Resolution::Committed { .. });
            self.ready.push_back(Effect::ProposalEnded { took: self.now.saturating_sub(at), committed });
            match resolution {
                Resolution::Committed { index, .. } => {
                    proposed.insert(index, waiting);
                }
                lost => self.not_committed(waiting, lost),
            }
        }
        for step in steps {
            match step {
                Apply::Entry(entry) => {
                    let change = self.table.apply(&entry);
                    if is_checkpoint(entry.index, self.table.servers().len()) {
                        self.agreement.note(entry.index, self.table.digest());
                    }
                    match proposed.remove(&entry.index) {
                        Some(Waiting::Reporters { server, reporters }) => {
                            self.answer_applied(&entry, &change, &server, reporters);
                        }
                        Some(Waiting::Operator(caller)) if Members::of_command(&entry.command).is_some() => {
                            let outcome = ReportOutcome::Committed { index: entry.index, term: entry.term };
                            self.answers.push_back(Effect::Answer { caller, outcome });
                        }
                        Some(Waiting::Operator(caller)) => self.answer_order(&entry, &change, caller),
                        Some(Waiting::Verdict(_)) | None => {}
                    }
                    let is_worth_a_line = !matches!(
                        change,
                        Change::Noop | Change::Updated | Change::OtherDaemon | Change::Stale
                    );
                    if is_worth_a_line && !self.recovery.is_going_on() {
                        self.notice(ReplicaNotice::Applied { entry, change });
                    }
                }
                Apply::Restore(snapshot) => match ServerTable::from_snapshot(&snapshot.state) {
                    Ok(table) => {
                        self.table = table;
                        self.agreement.replaced();
                        self.recovery.restored(self.table.applied_index());
                    }
                    // Unreachable: the core asked `ServerTable::check_snapshot` before it took the snapshot
                    // (`raft::Settings::state_is_valid`). Serving from a wrong table would be worse than stopping.
                    Err(reason) => panic!("the leader's snapshot holds no server table: {reason}"),
                },
            }
            self.note_recovered();
        }
        assert!(proposed.is_empty(), "a committed entry comes together with its resolution");
    }

    fn answer_applied(&mut self, entry: &Entry, change: &Change, server: &str, reporters: Vec<Reporter<D>>) {
        for Reporter { caller, superseded } in reporters {
            let outcome = if change.took_report() && !superseded {
                ReportOutcome::Committed { index: entry.index, term: entry.term }
            } else if change.took_report() || *change == Change::Stale {
                self.stale(server)
            } else if *change == Change::OtherDaemon {
                self.other_daemon(server)
            } else {
                ReportOutcome::TableFull
            };
            self.answers.push_back(Effect::Answer { caller, outcome });
        }
    }

    fn answer_order(&mut self, entry: &Entry, change: &Change, caller: D) {
        let Change::Ordered(effect) = *change else {
            panic!("entry {} is an order, and applying it came to {change:?}", entry.index);
        };
        let outcome = ReportOutcome::Ordered { index: entry.index, term: entry.term, effect };
        self.answers.push_back(Effect::Answer { caller, outcome });
    }

    /// A proposal was not committed, as far as this node can know.
    fn not_committed(&mut self, waiting: Waiting<D>, resolution: Resolution) {
        match waiting {
            Waiting::Verdict(dead) => {
                self.silence.lost(&dead);
                self.notice(ReplicaNotice::VerdictLost { dead, resolution });
            }
            Waiting::Reporters { reporters, .. } => {
                for Reporter { caller, .. } in reporters {
                    self.answers.push_back(Effect::Answer { caller, outcome: without_commit(resolution) });
                }
            }
            Waiting::Operator(caller) => {
                self.answers.push_back(Effect::Answer { caller, outcome: without_commit(resolution) });
            }
        }
    }

    // ---------------------------------------------------------------------------------------------- what is shown

    /// The core: its role, term and log.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The server table, as applied on this node.
    pub fn table(&self) -> &ServerTable {
        &self.table
    }

    fn contradiction(&self) -> Option<Contradiction> {
        self.agreement.contradiction(self.raft.hard_state().term)
    }

    /// How this node stands in the consensus.
    pub fn standing(&self) -> Standing {
        let (raft, hard_state) = (&self.raft, self.raft.hard_state());
        Standing {
            role: raft.role_name(),
            term: hard_state.term,
            leader: raft.leader(),
            voted_for: hard_state.voted_for,
            commit_index: raft.commit_index(),
            applied_index: self.table.applied_index(),
            settled: raft.has_all_committed()
                && raft.log().term_at(self.table.applied_index()) == Some(hard_state.term),
            last_index: raft.log().last_index(),
            snapshot_index: raft.snapshot_index(),
            proposals_pending: self.proposals.len(),
            membership: raft.membership(),
            members_index: raft.configuration().index,
            joining: raft.is_joining(),
            contradiction: self.contradiction(),
            last_contact: self.last_contact,
            age_at_start: self.age_at_start,
        }
    }
}

/// What whoever waits is told of a proposal that was not committed.
fn without_commit(resolution: Resolution) -> ReportOutcome {
    match resolution {
        Resolution::NotLeader { leader } => ReportOutcome::NotLeader { leader },
        Resolution::Busy => ReportOutcome::Busy,
        Resolution::Refused(why) => ReportOutcome::Refused(why),
        Resolution::Unknown | Resolution::Committed { .. } => ReportOutcome::Unknown,
    }
}
