//! The core: the whole consensus state of one node. It takes events in and gives decisions out.
//!
//! This file has the state (Figure 2, "State"), the entrance for events, time, and the invariants. The changes of role
//! (Figure 4) are in `transitions.rs`, the rules of each RPC in `election.rs`, `replication.rs`, `snapshot.rs` and
//! `transfer.rs`. Called by the replica (`src/replica/`), and by the model checker in `tests/`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::configuration::Configurations;
use super::event::Event;
use super::founding_round::FoundingRound;
use super::incoming::IncomingSnapshot;
use super::log::Log;
use super::random::Random;
use super::role::{Role, RoleName};
use super::settings::{Settings, TERM_JUMP_MAX};
use super::{
    Command, CompareStateReply, Durable, Entry, Founders, HardState, Index, NodeId, Notice, Output, Record,
    ReplyToken, Resolution, RpcId, RpcReply, RpcRequest, SendNow, SendOnceDurable, Snapshot, StateVerdict,
    Term,
};

/// What was in the log when an output with `durable` was handed out.
#[derive(Clone, Copy, Debug)]
struct Pending {
    mark: u64,
    last_index: Index,
    last_term: Term,
    hard_state: HardState,
}

/// One node's consensus.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(super) settings: Settings,
    /// Figure 2: currentTerm and votedFor.
    pub(super) hard_state: HardState,
    /// Figure 2: log[].
    pub(super) log: Log,
    /// The lists of members: what the node goes by, and what it may go back to (`members.rs`).
    pub(super) configurations: Configurations,
    /// This node was removed, and has said so.
    pub(super) told_removed: bool,
    /// The newest snapshot. The log may still hold some entries that it covers (`Settings::trailing_entries`).
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Figure 2: commitIndex.
    pub(super) commit_index: Index,
    /// Figure 2: lastApplied; here, what was handed out to be applied.
    pub(super) applied_index: Index,
    /// The greatest commit index that a leader has told, also if this node's log does not reach so far yet.
    pub(super) leader_commit: Index,
    pub(super) role: Role,
    /// Its state contradicts that of a majority: it must not lead.
    pub(super) is_barred: bool,
    /// The leader that this node follows (itself, if it leads).
    pub(super) leader: Option<NodeId>,
    /// When this node last heard from a living leader; `None` if never, or if it has reason to think it dead. While it
    /// is recent, votes are refused (thesis 4.2.3 and 9.6: leader stickiness).
    pub(super) leader_contact: Option<Duration>,
    pub(super) election_deadline: Duration,
    /// How many quick election rounds are left after a hint that the leader died.
    pub(super) quick_rounds: u32,
    pub(super) incoming_snapshot: Option<IncomingSnapshot>,
    /// What a fresh node asks the others before it helps to found the cluster (`joining.rs`).
    pub(super) founding: Option<FoundingRound>,
    /// Who was fresh in the round before this one, if nothing spoke against the founding then.
    pub(super) fresh_before: Option<Founders>,
    /// The last reason not to found the cluster, as it was logged.
    pub(super) waits_because: Option<Notice>,
    /// The log is durable up to here.
    durable_index: Index,
    pending: VecDeque<Pending>,
    pub(super) now: Duration,
    pub(super) random: Random,
    next_rpc: RpcId,
    next_mark: u64,
    pub(super) output: Output,
}

impl Raft {
    /// A node as it is when its process starts: with what its disk remembers, following nobody.
    ///
    /// # Panics
    /// If the settings or the recovered state contradict themselves; configuration and storage check both first.
    pub fn new(
        settings: Settings,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
        now: Duration,
    ) -> Self {
        assert!(settings.founding.is_sound(), "somebody founded the cluster");
        assert!(settings.election_timeout.0 <= settings.election_timeout.1, "a range the right way up");
        let (base_index, base_term) =
            snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.last_index, snapshot.last_term));
        let of_snapshot = snapshot.as_ref().and_then(|snapshot| snapshot.members.clone());
        let mut configurations = Configurations::new(settings.founding.clone(), of_snapshot);
        for entry in &entries {
            configurations.appended(entry.index, &entry.command);
        }
        let log = Log::new(base_index, base_term, entries);
        assert!(log.last_term() <= hard_state.term, "no entry is newer than the term");
        let mut raft = Self {
            random: Random::new(settings.seed),
            durable_index: log.last_index(),
            settings,
            hard_state,
            log,
            configurations,
            told_removed: false,
            snapshot: snapshot.map(Arc::new),
            // The snapshot's entries were committed. Whether the entries after it are committed, only a leader
            // can say.
            commit_index: base_index,
            applied_index: base_index,
            leader_commit: 0,
            role: Role::Follower,
            is_barred: false,
            leader: None,
            leader_contact: None,
            election_deadline: now,
            quick_rounds: 0,
            incoming_snapshot: None,
            founding: None,
            fresh_before: None,
            waits_because: None,
            pending: VecDeque::new(),
            now,
            next_rpc: 1,
            next_mark: 1,
            output: Output::default(),
        };
        if raft.is_joining() {
            // It campaigns for nothing, and may ask the others at once whether the cluster is to be founded.
            raft.output.notices.push(Notice::Joining);
        } else {
            raft.first_timeout();
        }
        raft.assert_invariants();
        raft
    }

    /// After a start: this node's disk remembers that everything up to `index` is committed.
    ///
    /// # Panics
    /// If the log does not reach so far: the storage checks it first.
    pub fn recall_commit(&mut self, index: Index) {
        self.commit_to(index);
        self.assert_invariants();
    }

    /// After a start of all nodes there is no leader to wait for. So the first timeout is drawn from a shorter
    /// range. A living leader still has time for two heartbeats. And if there is one, nothing disturbs it: the
    /// nodes that hear it refuse the pre-vote.
    pub(super) fn first_timeout(&mut self) {
        let low = (2 * self.settings.heartbeat).min(self.settings.election_timeout.0);
        self.election_deadline = self.now + self.random.between((low, self.settings.election_timeout.0));
    }

    /// Takes one event in. `now` is the time since any fixed moment on a monotonic clock; a step back is ignored.
    pub fn step(&mut self, now: Duration, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Tick => self.tick(),
            Event::Request { from, token, request } => self.receive_request(from, token, request),
            Event::Reply { from, rpc, reply } => self.receive_reply(from, rpc, reply),
            Event::Lost { to, rpc } => self.request_lost(to, rpc, false),
            Event::Refused { from, rpc } => self.request_lost(from, rpc, true),
            Event::Propose { id, command } => self.propose(id, command),
            Event::ChangeMembers { id, change } => self.change_members(id, &change),
            Event::Persisted { mark } => self.persisted(mark),
            Event::Compact { at, state } => self.compact(at, state),
            Event::LeaderGone { leader } => self.leader_gone(leader),
            Event::PeerReset { peer } => self.peer_reset(peer),
            Event::Transfer { to } => self.start_transfer(to),
            Event::Barred { barred } => self.bar(barred),
        }
        self.assert_invariants();
    }

    /// What is to be done now. All proposals since the last call leave as one append.
    pub fn take_output(&mut self) -> Output {
        self.send_appends();
        if !self.output.durable.is_empty() {
            self.output.mark = self.next_mark;
            self.next_mark += 1;
            self.pending.push_back(Pending {
                mark: self.output.mark,
                last_index: self.log.last_index(),
                last_term: self.log.last_term(),
                hard_state: self.hard_state,
            });
        }
        std::mem::take(&mut self.output)
    }

    /// When the next [`Event::Tick`] is due, on the clock of `now`.
    pub fn deadline(&self) -> Duration {
        match &self.role {
            Role::Leader(leader) => self.leader_deadline(leader),
            _ => self.election_deadline,
        }
    }

    fn tick(&mut self) {
        match self.role {
            Role::Leader(_) => self.leader_tick(),
            _ if self.now >= self.election_deadline => self.election_timed_out(),
            _ => {}
        }
    }

    fn receive_request(&mut self, from: NodeId, token: ReplyToken, request: RpcRequest) {
        let reply = match request {
            RpcRequest::PreVote(arguments) => RpcReply::PreVote(self.receive_pre_vote(from, arguments)),
            RpcRequest::RequestVote(arguments) => {
                RpcReply::RequestVote(self.receive_request_vote(from, arguments))
            }
            RpcRequest::AppendEntries(arguments) => {
                RpcReply::AppendEntries(self.receive_append_entries(from, arguments))
            }
            RpcRequest::InstallSnapshot(arguments) => {
                RpcReply::InstallSnapshot(self.receive_install_snapshot(from, arguments))
            }
            RpcRequest::TimeoutNow(arguments) => {
                RpcReply::TimeoutNow(self.receive_timeout_now(from, arguments))
            }
            // The core has no state to compare. The replica answers before it asks the core.
            RpcRequest::CompareState(arguments) => RpcReply::CompareState(CompareStateReply {
                term: self.hard_state.term,
                index: arguments.index,
                verdict: StateVerdict::Unknown,
            }),
            RpcRequest::Founding(_) => RpcReply::Founding(self.receive_founding_question()),
        };
        self.output.send_once_durable.push(SendOnceDurable::Reply { to: from, token, reply });
    }

    fn receive_reply(&mut self, from: NodeId, rpc: RpcId, reply: RpcReply) {
        if from == self.settings.id {
            return self.suspicious(format!("a reply from node {from}, which is this node itself"));
        }
        // Figure 2, "All Servers": if RPC request or response contains term T > currentTerm, set currentTerm = T,
        // convert to follower.
        let term = match &reply {
            RpcReply::PreVote(reply) | RpcReply::RequestVote(reply) => reply.term,
            RpcReply::AppendEntries(reply) => reply.term,
            RpcReply::InstallSnapshot(reply) => reply.term,
            RpcReply::TimeoutNow(reply) => reply.term,
            RpcReply::CompareState(reply) => reply.term,
            // It names no term.
            RpcReply::Founding(_) => 0,
        };
        if term > self.hard_state.term {
            if self.plausible_term(from, term) {
                self.become_follower(term, None, format!("node {from} replied with the newer term {term}"));
            }
            return;
        }
        match reply {
            RpcReply::PreVote(reply) => self.receive_pre_vote_reply(from, reply),
            RpcReply::RequestVote(reply) => self.receive_vote_reply(from, reply),
            RpcReply::AppendEntries(reply) => self.receive_append_reply(from, rpc, reply),
            RpcReply::InstallSnapshot(reply) => self.receive_install_reply(from, rpc, reply),
            RpcReply::TimeoutNow(_) | RpcReply::CompareState(_) => {}
            RpcReply::Founding(reply) => self.receive_founding_reply(from, rpc, reply),
        }
    }

    /// A peer's request did not arrive, or its reply did not, or the peer refused it.
    fn request_lost(&mut self, to: NodeId, rpc: RpcId, refused: bool) {
        self.founding_question_lost(to, rpc, refused);
        let (now, heartbeat, allowed) = (self.now, self.settings.heartbeat, self.time_for_size());
        let Some(progress) = self.progress_mut(to) else { return };
        progress.lost(rpc, now, allowed);
        if progress.in_flight == Some(rpc) {
            progress.in_flight = None;
            progress.probing = true;
            progress.pause_until = progress.last_sent.unwrap_or(now) + heartbeat;
        }
    }

    /// The disk has done everything up to the output with this mark.
    fn persisted(&mut self, mark: u64) {
        let mut newest = None;
        while self.pending.front().is_some_and(|pending| pending.mark <= mark) {
            newest = self.pending.pop_front();
        }
        let Some(pending) = newest else { return };
        // The disk reports the index and the term that it wrote. If the entry at that index has another term
        // by now, it was replaced meanwhile, and the new entry may not be durable yet.
        if self.log.term_at(pending.last_index) == Some(pending.last_term) {
            self.durable_index = self.durable_index.max(pending.last_index);
        }
        let own_vote_durable = pending.hard_state.term == self.hard_state.term
            && pending.hard_state.voted_for == Some(self.settings.id);
        if matches!(self.role, Role::Candidate { .. }) && own_vote_durable {
            self.count_vote(self.settings.id);
        }
        self.advance_commit();
    }

    /// The state machine's state as of the index `at` replaces the log up to there.
    fn compact(&mut self, at: Index, state: Command) {
        assert!(at <= self.applied_index, "only what is applied can be in a snapshot");
        if at <= self.snapshot_index() {
            return;
        }
        let last_term = self.log.term_at(at).expect("the log holds everything after the snapshot");
        let members = self.configurations.compacted(at);
        let snapshot = Arc::new(Snapshot { last_index: at, last_term, state, members });
        self.snapshot = Some(Arc::clone(&snapshot));
        self.output.durable.push(Durable::Compact {
            snapshot,
            hard_state: self.hard_state,
            retained: self.log.slice(at + 1, usize::MAX, usize::MAX),
        });
        let kept_from = at.saturating_sub(self.settings.trailing_entries);
        if kept_from >= self.log.first_index() {
            self.log.compact(kept_from);
        }
        self.output.notices.push(Notice::Compacted { index: at });
    }

    // ---------------------------------------------------------------------------------------------- small tools

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        assert!(hard_state.term >= self.hard_state.term, "terms never decrease");
        assert!(
            hard_state.term > self.hard_state.term
                || self.hard_state.voted_for.is_none()
                || self.hard_state.voted_for == hard_state.voted_for,
            "at most one vote per term"
        );
        assert!(self.hard_state.joining || !hard_state.joining, "who counts does so for ever");
        self.hard_state = hard_state;
        self.output.durable.push(Durable::Record(Record::HardState(hard_state)));
    }

    /// Appends a command of this leader's own term.
    pub(super) fn append(&mut self, command: Command) -> Index {
        let entry = Entry { index: self.log.last_index() + 1, term: self.hard_state.term, command };
        let index = entry.index;
        self.push(entry);
        index
    }

    /// An entry comes into the log. If it is a list of members, it counts from now on.
    pub(super) fn push(&mut self, entry: Entry) {
        self.log.push(entry.clone());
        let is_list = self.configurations.appended(entry.index, &entry.command);
        self.output.durable.push(Durable::Record(Record::Entry(entry)));
        if is_list {
            self.members_changed();
        }
    }

    /// Drops the entries from `from` on, which conflict with the leader's.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.commit_index, "a committed entry is never removed (Leader Completeness)");
        let count = self.log.last_index() + 1 - from;
        self.log.truncate(from);
        self.durable_index = self.durable_index.min(from - 1);
        self.output.durable.push(Durable::Record(Record::Truncate { from }));
        self.output.notices.push(Notice::Truncated { from, count });
        if self.configurations.truncated(from) {
            self.members_changed();
        }
    }

    pub(super) fn send_now(&mut self, to: NodeId, request: RpcRequest) -> RpcId {
        let rpc = self.take_rpc();
        self.output.send_now.push(SendNow { to, rpc, request });
        rpc
    }

    pub(super) fn send_once_durable(&mut self, to: NodeId, request: RpcRequest) {
        let rpc = self.take_rpc();
        self.output.send_once_durable.push(SendOnceDurable::Request { to, rpc, request });
    }

    fn take_rpc(&mut self) -> RpcId {
        self.next_rpc += 1;
        self.next_rpc - 1
    }

    /// Commits up to `index`, hands the entries out to be applied, and resolves the proposals they came from.
    pub(super) fn commit_to(&mut self, index: Index) {
        if index <= self.commit_index {
            return;
        }
        assert!(index <= self.log.last_index(), "only an entry that is there can be committed");
        let before = std::mem::replace(&mut self.commit_index, index);
        self.hurry_admissions(before);
        while self.applied_index < self.commit_index {
            let entry =
                self.log.get(self.applied_index + 1).expect("what is not applied is in the log").clone();
            self.applied_index = entry.index;
            if let Role::Leader(leader) = &mut self.role
                && let Some(id) = leader.proposals.remove(&entry.index)
            {
                let resolution = Resolution::Committed { index: entry.index, term: entry.term };
                self.output.resolved.push((id, resolution));
            }
            self.output.apply.push(super::Apply::Entry(entry));
        }
        self.leave_if_removed();
    }

    /// The other members, learners included.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let id = self.settings.id;
        self.members()
            .clone()
            .iter()
            .map(|member| member.id)
            .filter(|peer| *peer != id)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// How many nodes are a majority: more than half of all voters, the dead included.
    pub fn majority(&self) -> usize {
        self.members().majority()
    }

    pub(super) fn plausible_term(&mut self, from: NodeId, term: Term) -> bool {
        let plausible = term.saturating_sub(self.hard_state.term) <= TERM_JUMP_MAX;
        if !plausible {
            let own = self.hard_state.term;
            self.suspicious(format!("node {from} speaks of term {term}, absurdly far from {own}; ignored"));
        }
        plausible
    }

    pub(super) fn suspicious(&mut self, text: String) {
        self.output.notices.push(Notice::Suspicious { text });
    }

    /// Up to here, this node's log is durable, as far as it knows: what a leader counts for itself.
    pub fn durable_index(&self) -> Index {
        self.durable_index
    }

    /// The writes that the disk has not finished, oldest first: last index, its term, term and vote.
    pub(super) fn unfinished_writes(&self) -> impl Iterator<Item = (Index, Term, HardState)> {
        self.pending.iter().map(|pending| (pending.last_index, pending.last_term, pending.hard_state))
    }

    /// A snapshot took the place of the log up to `index`; `retains` tells whether entries after it stayed.
    pub(super) fn restored(&mut self, index: Index, retains: bool) {
        if !retains {
            // The snapshot is on its way to the disk. Until the disk reports it, only the old committed part
            // is certain.
            self.durable_index = self.durable_index.min(self.commit_index);
        }
        self.commit_index = index;
        self.applied_index = index;
    }

    // ------------------------------------------------------------------------------------------------ questions

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    /// The role it is in.
    pub fn role_name(&self) -> RoleName {
        match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate { .. } => RoleName::PreCandidate,
            Role::Candidate { .. } => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Term and vote.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// When this node last heard of a working leader. A follower hears its leader; a leader hears a majority.
    pub fn leader_contact(&self) -> Option<Duration> {
        match &self.role {
            Role::Leader(leader) => Some(self.quorum_contact(leader)),
            _ => self.leader_contact,
        }
    }

    /// Figure 2's commitIndex.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// Whether this node's table can be as new as its leader's, as far as the leader has told.
    pub fn has_all_committed(&self) -> bool {
        self.commit_index >= self.leader_commit
    }

    /// Up to here, entries were handed out to be applied.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The entries in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The last index that the snapshot holds; 0 without one.
    pub fn snapshot_index(&self) -> Index {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_index)
    }

    /// A leader's view of a follower: (match index, next index). For the simulator and tests.
    pub fn progress(&self, peer: NodeId) -> Option<(Index, Index)> {
        match &self.role {
            Role::Leader(leader) => {
                leader.progress.get(&peer).map(|progress| (progress.match_index, progress.next_index))
            }
            _ => None,
        }
    }

    // ----------------------------------------------------------------------------------------------- invariants

    /// What must hold between any two steps. The checks stay on in release builds: a node that contradicts
    /// itself must stop, not vote.
    fn assert_invariants(&self) {
        assert!(self.applied_index <= self.commit_index, "applied before it was committed");
        assert!(self.commit_index <= self.log.last_index(), "committed beyond the log's end");
        assert!(self.snapshot_index() <= self.applied_index, "a snapshot of what is not applied");
        assert!(self.log.first_index() <= self.snapshot_index() + 1, "a gap between snapshot and log");
        assert!(self.durable_index <= self.log.last_index(), "durable beyond the log's end");
        assert!(self.log.last_term() <= self.hard_state.term, "an entry of a term yet to come");
        if self.hard_state.joining {
            assert_eq!(self.hard_state.voted_for, None, "a joining node voted");
            assert!(matches!(self.role, Role::Follower), "a joining node campaigned");
        }
        assert!(self.configuration().index <= self.log.last_index(), "members of an entry that is not there");
        match &self.role {
            Role::Leader(leader) => {
                assert!(
                    self.peers().all(|peer| leader.progress.contains_key(&peer)),
                    "a leader knows each member"
                );
                assert_eq!(self.leader, Some(self.settings.id), "a leader follows itself");
                assert_eq!(self.hard_state.voted_for, Some(self.settings.id), "a leader voted for itself");
                for progress in leader.progress.values() {
                    assert!(progress.match_index < progress.next_index, "next is above match");
                    assert!(progress.match_index <= self.log.last_index(), "a match beyond the leader's log");
                }
                if let Some((index, _)) = leader.proposals.first_key_value() {
                    assert!(*index > self.commit_index, "a committed proposal was not resolved");
                }
            }
            Role::Candidate { .. } => {
                assert_eq!(self.leader, None, "a candidate follows nobody");
                assert_eq!(self.hard_state.voted_for, Some(self.settings.id), "a candidate votes for itself");
            }
            Role::PreCandidate { .. } | Role::Follower => {
                assert_ne!(self.leader, Some(self.settings.id), "only a leader follows itself");
            }
        }
    }
}
