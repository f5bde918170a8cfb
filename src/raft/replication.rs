//! Replication: sections 5.3 and 5.4.2 of the paper, both sides of AppendEntries, and the leader's clock: heartbeats and
//! CheckQuorum (thesis 6.2).

use std::time::Duration;

use super::core::Raft;
use super::progress::Progress;
use super::role::{Leader, Role};
use super::{
    AppendEntries, AppendReply, AppendResult, Command, Entry, Index, NodeId, ProposalId, Resolution, RpcId,
    RpcRequest, Term,
};

/// After so many heartbeats without a reply, a request may be lost, and the next one leaves.
const UNANSWERED_HEARTBEATS: u32 = 2;

/// The size of a request may cost it this part of the lower election timeout: see `pace.rs`.
const SIZE_TIME_DIVISOR: u32 = 4;

impl Raft {
    // ------------------------------------------------------------------------------------------- as a leader

    /// 5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel". The
    /// appends leave with the next output, so that all proposals of one batch share one request and one sync.
    pub(super) fn propose(&mut self, id: ProposalId, command: Command) {
        let uncommitted = self.log.last_index() - self.commit_index;
        let resolution = match &self.role {
            Role::Leader(leader) => {
                let busy = leader.transfer.is_some() || uncommitted >= self.settings.uncommitted_entries_max;
                busy.then_some(Resolution::Busy)
            }
            _ => Some(Resolution::NotLeader { leader: self.leader }),
        };
        if let Some(resolution) = resolution {
            self.output.resolved.push((id, resolution));
            return;
        }
        let index = self.append(command);
        if let Role::Leader(leader) = &mut self.role {
            leader.proposals.insert(index, id);
        }
    }

    /// Sends every follower the entries that it lacks, one request at a time. A follower that is up to date
    /// gets nothing, unless a heartbeat is due.
    pub(super) fn send_appends(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let (now, last_index) = (self.now, self.log.last_index());
        let due: Vec<NodeId> = leader
            .progress
            .iter()
            .filter(|(_, progress)| progress.in_flight.is_none() && now >= progress.pause_until)
            .filter(|(_, progress)| progress.heartbeat_due || progress.next_index <= last_index)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.send_append(peer);
        }
    }

    fn send_append(&mut self, peer: NodeId) {
        let progress = self.progress_of(peer).expect("only peers are asked for");
        let (next_index, probing) = (progress.next_index, progress.probing);
        if progress.snapshot.is_some() {
            return self.send_snapshot_chunk(peer);
        }
        let prev_log_index = next_index - 1;
        let Some(prev_log_term) = self.log.term_at(prev_log_index) else {
            return self.start_snapshot(peer);
        };
        // After a refusal, the leader looks with empty appends for the place where the logs differ. Entries would only be
        // refused again. After a loss, they might only queue up behind those that are still on a slow link.
        let entries = if probing {
            Vec::new()
        } else {
            let bytes_max = self.settings.append_bytes_max.min(progress.pace.bytes_max());
            self.log.slice(next_index, self.settings.append_entries_max, bytes_max)
        };
        let admit = self.admission(peer, prev_log_index + entries.len() as u64);
        let bytes = entries.iter().map(Entry::bytes_in_append).sum();
        let commit_sent = self.commit_index.min(prev_log_index + entries.len() as u64);
        let request = RpcRequest::AppendEntries(AppendEntries {
            term: self.hard_state.term,
            leader_id: self.settings.id,
            prev_log_index,
            prev_log_term,
            entries,
            leader_commit: self.commit_index,
            admit,
        });
        let rpc = self.send_now(peer, request);
        self.note_sent(peer, rpc, bytes);
        if let Some(progress) = self.progress_mut(peer) {
            progress.commit_sent = progress.commit_sent.max(commit_sent);
        }
    }

    pub(super) fn note_sent(&mut self, peer: NodeId, rpc: RpcId, bytes: usize) {
        let now = self.now;
        if let Some(progress) = self.progress_mut(peer) {
            progress.sent(rpc, bytes, now);
        }
    }

    /// What its size may cost a request: a small part of any election timeout.
    pub(super) fn time_for_size(&self) -> Duration {
        self.settings.election_timeout.0 / SIZE_TIME_DIVISOR
    }

    pub(super) fn receive_append_reply(&mut self, from: NodeId, rpc: RpcId, reply: AppendReply) {
        if reply.term < self.hard_state.term {
            return; // A late reply to a leader of an earlier term.
        }
        self.hear_life(from, reply.life);
        let (own_term, last_index) = (self.hard_state.term, self.log.last_index());
        let (now, allowed) = (self.now, self.time_for_size());
        let Some(progress) = self.progress_mut(from) else { return };
        let own_request = progress.answered(rpc, now, allowed);
        match reply.result {
            AppendResult::Success { match_index } if match_index <= last_index => {
                progress.matched(match_index);
                progress.probing = false;
                self.advance_commit();
                self.continue_transfer(from);
                self.promote_if_caught_up(from);
                self.farewell(from);
            }
            AppendResult::Success { match_index } => {
                self.suspicious(format!(
                    "node {from} acknowledges index {match_index}, but the log ends at {last_index}"
                ));
            }
            AppendResult::Conflict { prev_log_index, conflict_term, conflict_index } => {
                self.receive_conflict(from, prev_log_index, conflict_term, conflict_index);
            }
            // This node sent the request as leader of an earlier term. It arrived after the peer had voted in
            // the current term.
            AppendResult::StaleTerm if !own_request => {}
            AppendResult::StaleTerm => {
                self.suspicious(format!("node {from} calls term {own_term} stale, and has no newer one"));
                // The peer will refuse the same append again, so this node sends it no faster than heartbeats.
                let next_try = self.now + self.settings.heartbeat;
                if let Some(progress) = self.progress_mut(from) {
                    progress.pause_until = next_try;
                }
            }
        }
    }

    /// End of section 5.3: "the follower can include the term of the conflicting entry and the first index it stores for
    /// that term. With this information, the leader can decrement nextIndex to bypass all of the conflicting entries in
    /// that term".
    fn receive_conflict(
        &mut self,
        from: NodeId,
        prev_log_index: Index,
        conflict_term: Option<Term>,
        conflict_index: Index,
    ) {
        let Some(progress) = self.progress_of(from) else { return };
        let (match_index, next_index) = (progress.match_index, progress.next_index);
        if prev_log_index != next_index - 1 {
            return; // A late refusal of an earlier probe.
        }
        if prev_log_index <= match_index {
            // The peer's disk has lost entries that the peer had acknowledged: a file that lost its end looks
            // like a file after a crash. This node cannot undo that. (An entry that was on a bare majority may
            // even be lost.) But it logs it, and fills the peer's log again. If it kept the old match index,
            // the peer would never catch up. A match index that is too low only costs a second transmission.
            self.suspicious(format!(
                "node {from} refuses index {prev_log_index}, which it acknowledged: its disk has lost entries; filling \
                 its log again"
            ));
            return self.peer_reset(from);
        }
        let hint = match conflict_term {
            // The follower's log ends before.
            None => conflict_index,
            // An entry of a higher term than the follower's entry there cannot match. The last one that may:
            Some(term) => {
                let candidate = self.log.last_index_not_above_term(prev_log_index, term);
                if self.log.term_at(candidate) == Some(term) {
                    candidate + 1 // The logs may agree up to the end of this term here.
                } else {
                    candidate.min(conflict_index.saturating_sub(1)) + 1 // The leader never had that term.
                }
            }
        };
        let next_index = hint.clamp(match_index + 1, prev_log_index.max(match_index + 1));
        if let Some(progress) = self.progress_mut(from) {
            progress.next_index = next_index;
            progress.probing = true;
            progress.heartbeat_due = true; // The next probe leaves at once.
        }
    }

    /// Figure 2, "Leaders": "If there exists an N such that N > commitIndex, a majority of matchIndex[i] >= N, and
    /// log[N].term == currentTerm: set commitIndex = N (5.3, 5.4)". The leader itself counts with what its own disk has.
    /// The condition on the term is the lesson of Figure 8: an entry of an earlier term may still be replaced. Joining
    /// nodes do not count, but a majority is more than half of all voters, those that are joining included.
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let mut matches: Vec<Index> = self.counting(leader).map(Progress::counted_match).collect();
        if self.members().is_voter(self.settings.id) {
            matches.push(self.durable_index());
        }
        matches.sort_unstable_by(|a, b| b.cmp(a));
        let on_majority = matches[self.majority() - 1];
        if on_majority > self.commit_index && self.log.term_at(on_majority) == Some(self.hard_state.term) {
            self.commit_to(on_majority);
        }
    }

    /// A peer came back with another data directory: the leader begins to look for the end of its log again.
    pub(super) fn peer_reset(&mut self, peer: NodeId) {
        let last_index = self.log.last_index();
        let now = self.now;
        if let Some(progress) = self.progress_mut(peer) {
            *progress = Progress::new(last_index, now);
        }
    }

    // ---------------------------------------------------------------------------------------- a leader's clock

    pub(super) fn leader_tick(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (now, heartbeat) = (self.now, self.settings.heartbeat);
        for progress in leader.progress.values_mut() {
            let Some(last_sent) = progress.last_sent else { continue };
            if now >= last_sent + heartbeat {
                progress.heartbeat_due = true;
            }
            // The request may be lost. The next one goes out, without entries, since the old ones
            // may still be on their way. A late reply still counts.
            if now >= last_sent + UNANSWERED_HEARTBEATS * heartbeat && progress.in_flight.take().is_some() {
                progress.probing = true;
            }
        }
        // CheckQuorum (thesis 6.2): "a leader steps down if an election timeout elapses without a successful round of
        // heartbeats to a majority of its cluster". Otherwise it would keep its clients waiting for ever.
        let Role::Leader(leader) = &self.role else { return };
        let silent_since = self.quorum_contact(leader);
        if now >= silent_since + self.settings.election_timeout.1 {
            let term = self.hard_state.term;
            let silence_ms = (now - silent_since).as_millis();
            let reason = format!("as leader it had no answer from a majority for {silence_ms} ms");
            return self.become_follower(term, None, reason);
        }
        self.give_up_farewells();
        self.transfer_tick();
    }

    pub(super) fn leader_deadline(&self, leader: &Leader) -> Duration {
        let heartbeat = self.settings.heartbeat;
        let quorum = self.quorum_contact(leader) + self.settings.election_timeout.1;
        let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
        let peers = leader.progress.values().map(|progress| {
            let last_sent = progress.last_sent.unwrap_or(self.now);
            match (progress.in_flight, progress.heartbeat_due) {
                (_, false) => last_sent + heartbeat,
                (Some(_), true) => last_sent + UNANSWERED_HEARTBEATS * heartbeat,
                (None, true) => progress.pause_until,
            }
        });
        peers.chain(transfer).fold(quorum, Duration::min)
    }

    /// The latest time at which a majority, this leader included, certainly listened to it.
    pub(super) fn quorum_contact(&self, leader: &Leader) -> Duration {
        let mut contacts: Vec<Duration> = self.counting(leader).map(Progress::counted_contact).collect();
        if self.members().is_voter(self.settings.id) {
            contacts.push(self.now);
        }
        contacts.sort_unstable_by(|a, b| b.cmp(a));
        contacts[self.majority() - 1]
    }

    /// What the leader knows of the other voters. Learners do not count, and who was removed does not either.
    fn counting<'a>(&'a self, leader: &'a Leader) -> impl Iterator<Item = &'a Progress> {
        leader
            .progress
            .iter()
            .filter(|(peer, _)| self.members().is_voter(**peer))
            .map(|(_, progress)| progress)
    }

    pub(super) fn progress_of(&self, peer: NodeId) -> Option<&Progress> {
        match &self.role {
            Role::Leader(leader) => leader.progress.get(&peer),
            _ => None,
        }
    }

    pub(super) fn progress_mut(&mut self, peer: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.progress.get_mut(&peer),
            _ => None,
        }
    }

    // ----------------------------------------------------------------------------------------- as a follower

    /// Figure 2, AppendEntries, receiver.
    pub(super) fn receive_append_entries(&mut self, from: NodeId, arguments: AppendEntries) -> AppendReply {
        let stale = |raft: &Self| AppendReply {
            term: raft.hard_state.term,
            life: raft.life(),
            result: AppendResult::StaleTerm,
        };
        // 1. Reply false if term < currentTerm (5.1).
        if !self.accept_leader(from, arguments.leader_id, arguments.term)
            || !self.well_formed(from, &arguments)
        {
            return stale(self);
        }
        let AppendEntries { prev_log_index, prev_log_term, entries, leader_commit, admit, .. } = arguments;
        let last_verified = prev_log_index + entries.len() as u64;
        self.leader_commit = self.leader_commit.max(leader_commit);

        // 2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm (5.3).
        // An entry that was compacted away is committed, so it matches.
        if prev_log_index + 1 >= self.log.first_index() {
            let own_term = self.log.term_at(prev_log_index);
            if own_term != Some(prev_log_term) {
                let conflict_index = match own_term {
                    // At least 1, because the hint is the index of an entry.
                    Some(_) => self.log.first_index_of_term_at(prev_log_index).max(1),
                    None => self.log.last_index() + 1,
                };
                let result =
                    AppendResult::Conflict { prev_log_index, conflict_term: own_term, conflict_index };
                return AppendReply { term: self.hard_state.term, life: self.life(), result };
            }
        }
        for entry in entries {
            match self.log.term_at(entry.index) {
                // Compacted, so committed long ago. The term of the last of them is still known, and it is
                // compared like the rest: an invented entry must not follow an entry of a later term.
                _ if entry.index + 1 < self.log.first_index() => {}
                Some(term) if term == entry.term => {} // Already here. An old append truncates nothing.
                Some(_) if entry.index <= self.commit_index => {
                    self.suspicious(format!(
                        "node {from} contradicts the committed entry {}; refused",
                        entry.index
                    ));
                    return stale(self);
                }
                // 3. If an existing entry conflicts with a new one (same index but different terms), delete the existing
                //    entry and all that follow it (5.3).
                Some(_) => {
                    self.truncate(entry.index);
                    self.push(entry);
                }
                // 4. Append any new entries not already in the log.
                None => self.push(entry),
            }
        }
        // 5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry):
        // entries after it may still be those of another leader.
        self.commit_to(leader_commit.min(last_verified));
        if let Some(admission) = admit {
            self.accept_admission(from, admission, last_verified);
        }
        let result = AppendResult::Success { match_index: last_verified };
        AppendReply { term: self.hard_state.term, life: self.life(), result }
    }

    /// Whether `from` is the leader of the current term, or of a newer one, which this node then enters. If
    /// so, this resets the election timer. Shared by AppendEntries and InstallSnapshot.
    pub(super) fn accept_leader(&mut self, from: NodeId, leader_id: NodeId, term: Term) -> bool {
        if from != leader_id || from == self.settings.id {
            self.suspicious(format!("node {from} claims to speak for leader {leader_id}; refused"));
            return false;
        }
        // There is no election in term 0.
        if term < self.hard_state.term.max(1) || !self.plausible_term(from, term) {
            return false;
        }
        if term == self.hard_state.term {
            // Election Safety (Figure 3): at most one leader can be elected in a given term.
            let other = match self.role {
                Role::Leader(_) => Some(self.settings.id),
                _ => self.leader.filter(|leader| *leader != from),
            };
            if let Some(other) = other {
                self.suspicious(format!("node {from} claims to lead term {term}, which node {other} leads"));
                return false;
            }
        }
        if self.leader != Some(from) || !matches!(self.role, Role::Follower) || term > self.hard_state.term {
            self.become_follower(term, Some(from), format!("node {from} leads term {term}"));
        }
        self.leader_contact = Some(self.now);
        self.quick_rounds = 0;
        self.reset_election_timer();
        true
    }

    /// Whether a leader can have sent these entries: their indexes follow `prev_log_index` without a gap, and
    /// their terms are at least 1, never decrease, and are not above the request's term.
    fn well_formed(&mut self, from: NodeId, arguments: &AppendEntries) -> bool {
        let mut previous = (arguments.prev_log_index, arguments.prev_log_term);
        let ends = arguments.prev_log_index.checked_add(arguments.entries.len() as u64 + 1).is_some();
        let ordered = ends
            && arguments.entries.iter().all(|entry| {
                let fits = entry.index == previous.0 + 1 && entry.term >= previous.1.max(1);
                previous = (entry.index, entry.term);
                fits
            });
        let well_formed = ordered && previous.1 <= arguments.term;
        if !well_formed {
            self.suspicious(format!("node {from} sent entries that do not follow each other; refused"));
        }
        well_formed
    }
}
