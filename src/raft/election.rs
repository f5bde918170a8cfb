//! Elections: sections 5.2 and 5.4.1 of the paper, PreVote of the thesis (9.6), leader stickiness (4.2.3), and the quick
//! start after a hint that the leader's process died. CheckQuorum (6.2) is in `replication.rs`.

use std::time::Duration;

use super::core::Raft;
use super::output::named;
use super::role::Role;
use super::{HardState, NodeId, Notice, RequestVote, RpcRequest, Term, VoteReply};

/// After a hint that the leader died, a node waits for a random time in this range before it asks for
/// pre-votes, so that usually one node is first. A vote takes about a millisecond on a local network, and one
/// fsync.
const QUICK_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(15));

/// If that round fails (two nodes were first at once, or a peer had not noticed yet), the next one comes after
/// a pause in this range.
const QUICK_RETRY: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(60));

/// How long an election that was begun may take before the next round. It needs two fsyncs, one after the
/// other, and a busy disk takes ten or twenty milliseconds for each. A new round before that would only add
/// two more.
const QUICK_ELECTION: (Duration, Duration) = (Duration::from_millis(80), Duration::from_millis(160));

/// The number of quick rounds. After them, the election timeout of the configuration applies again.
const QUICK_ROUNDS_MAX: u32 = 6;

impl Raft {
    /// A new election timeout, drawn afresh each time (5.2: "randomized for each election").
    pub(super) fn reset_election_timer(&mut self) {
        self.election_deadline = self.now + self.random.between(self.settings.election_timeout);
    }

    /// 5.2: "If a follower receives no communication over a period of time called the election timeout, then it assumes
    /// there is no viable leader and begins an election". Here it first asks whether it could win one (thesis 9.6): a
    /// node that was cut off raises no terms and deposes nobody when it comes back.
    pub(super) fn election_timed_out(&mut self) {
        if self.is_joining() {
            return self.joining_tick();
        }
        if self.is_barred {
            return self.wait_barred();
        }
        if !self.may_campaign() {
            return self.wait_outside();
        }
        let reason = match (&self.role, self.quick_rounds, self.leader) {
            (Role::Follower, 1.., Some(leader)) => {
                format!("the process of node {leader}, the leader, seems to have died")
            }
            (Role::Follower, ..) => "it heard no leader for a whole election timeout".into(),
            (Role::PreCandidate { .. }, ..) => "it did not win its pre-vote in time".into(),
            (Role::Candidate { .. }, ..) => "it did not win its election in time".into(),
            (Role::Leader(_), ..) => unreachable!("a leader has no election timeout"),
        };
        self.begin_pre_vote(reason);
    }

    /// A node whose state contradicts that of a majority must not lead. It goes on voting and storing: the quorum must not
    /// die of it.
    pub(super) fn bar(&mut self, barred: bool) {
        self.is_barred = barred;
        if !barred {
            return;
        }
        match self.role {
            Role::Leader(_) => self.start_transfer(None),
            Role::PreCandidate { .. } | Role::Candidate { .. } => self.wait_barred(),
            Role::Follower => {}
        }
    }

    /// The time has come to campaign, and another node must do it.
    fn wait_barred(&mut self) {
        self.quick_rounds = 0;
        let reason = "its state contradicts that of a majority, so it does not campaign";
        self.become_follower(self.hard_state.term, None, reason.into());
        self.reset_election_timer();
    }

    /// The time has come to campaign, and this node is no voter.
    fn wait_outside(&mut self) {
        self.quick_rounds = 0;
        let reason =
            "it heard no leader for a whole election timeout, and it is no voter, so it does not campaign";
        self.become_follower(self.hard_state.term, None, reason.into());
        self.reset_election_timer();
    }

    /// The connection that watched the leader's process was closed, and nobody listens there any more. This is
    /// a hint, not proof: this node may now ask for pre-votes and grant them. It changes nothing on other
    /// nodes.
    pub(super) fn leader_gone(&mut self, leader: NodeId) {
        if self.leader != Some(leader) || !matches!(self.role, Role::Follower) || self.is_joining() {
            return;
        }
        // The hint is repeated for a while, because a last message of the dead leader may be read after the
        // hint. If no such message came, the hint brings nothing new, and the quick rounds do not begin again.
        if self.leader_contact.is_none() {
            return;
        }
        self.leader_contact = None;
        if !self.may_campaign() {
            return; // It may grant votes from now on.
        }
        self.quick_rounds = QUICK_ROUNDS_MAX;
        let pause = self.random.between(QUICK_PAUSE);
        self.election_deadline = self.election_deadline.min(self.now + pause);
    }

    /// Thesis 9.6: asks all others whether they would vote for this node.
    fn begin_pre_vote(&mut self, reason: String) {
        self.become_pre_candidate(reason);
        self.next_round_timer(QUICK_RETRY);
        let arguments = self.vote_arguments(self.hard_state.term + 1, false);
        for peer in self.voting_peers() {
            self.send_now(peer, RpcRequest::PreVote(arguments));
        }
        // Its own pre-vote is no promise, so it need not be durable.
        self.count_pre_vote(self.settings.id);
    }

    fn next_round_timer(&mut self, quick: (Duration, Duration)) {
        if self.quick_rounds > 0 {
            self.quick_rounds -= 1;
            self.election_deadline = self.now + self.random.between(quick);
        } else {
            self.reset_election_timer();
        }
    }

    /// 5.2: a candidate "votes for itself and issues RequestVote RPCs in parallel to each of the other servers".
    pub(super) fn begin_election(&mut self, transfer: bool, reason: String) {
        self.become_candidate(reason);
        self.next_round_timer(QUICK_ELECTION);
        let arguments = self.vote_arguments(self.hard_state.term, transfer);
        for peer in self.voting_peers() {
            self.send_once_durable(peer, RpcRequest::RequestVote(arguments));
        }
        // Its own vote counts when it is durable: see `persisted`. A cluster of one, too, waits for its disk.
    }

    fn vote_arguments(&self, term: Term, leadership_transfer: bool) -> RequestVote {
        RequestVote {
            term,
            candidate_id: self.settings.id,
            last_log_index: self.log.last_index(),
            last_log_term: self.log.last_term(),
            leadership_transfer,
        }
    }

    // ------------------------------------------------------------------------------------------- as a voter

    /// Why this voter would not vote for the candidate. PreVote and RequestVote share these rules.
    fn objection(&self, from: NodeId, arguments: &RequestVote) -> Option<String> {
        if from != arguments.candidate_id || from == self.settings.id {
            return Some(format!("node {from} asks in the name of node {}", arguments.candidate_id));
        }
        if self.is_joining() {
            return Some(format!("node {} is joining, and does not vote yet", self.settings.id));
        }
        if arguments.term == 0 {
            return Some("there is no election in term 0".into());
        }
        // Thesis 4.2.3: "if a server receives a RequestVote request within the minimum election timeout of hearing from
        // a current leader, it does not update its term or grant its vote". A leader that has its quorum hears itself.
        // A node that the leader asked to take over may disturb it. It must be a voter in this node's list of members.
        if !arguments.leadership_transfer || !self.members().is_voter(from) {
            let heard_recently = self
                .leader_contact
                .is_some_and(|contact| self.now < contact + self.settings.election_timeout.0);
            match self.leader {
                Some(leader) if leader == self.settings.id => {
                    return Some(format!("node {leader} leads term {}", self.hard_state.term));
                }
                Some(leader) if heard_recently => {
                    return Some(format!(
                        "node {} heard node {leader}, the leader, just now",
                        self.settings.id
                    ));
                }
                _ => {}
            }
        }
        None
    }

    /// 5.4.1: "If the logs have last entries with different terms, then the log with the later term is more up-to-date.
    /// If the logs end with the same term, then whichever log is longer is more up-to-date."
    fn candidate_is_up_to_date(&self, arguments: &RequestVote) -> bool {
        (arguments.last_log_term, arguments.last_log_index) >= (self.log.last_term(), self.log.last_index())
    }

    fn behind(&self, arguments: &RequestVote) -> String {
        format!(
            "the log of node {} ends with index {} of term {}, the log of node {} with index {} of term {}",
            arguments.candidate_id,
            arguments.last_log_index,
            arguments.last_log_term,
            self.settings.id,
            self.log.last_index(),
            self.log.last_term()
        )
    }

    fn in_term_already(&self) -> String {
        format!("node {} is in term {} already", self.settings.id, self.hard_state.term)
    }

    fn refuse(&mut self, arguments: &RequestVote, pre: bool, reason: String) -> VoteReply {
        let (to, term) = (arguments.candidate_id, arguments.term);
        self.output.notices.push(Notice::VoteRefused { to, term, pre, reason });
        // The refusal carries this node's term: otherwise a pre-candidate with an old term would ask for ever.
        VoteReply { term: self.hard_state.term, for_term: arguments.term, vote_granted: false }
    }

    /// PreVote, receiver (thesis 9.6). Term and vote stay as they are. Only in the quick rounds after a death, a node that
    /// grants puts its own round off (`give_way`).
    pub(super) fn receive_pre_vote(&mut self, from: NodeId, arguments: RequestVote) -> VoteReply {
        let objection = self.objection(from, &arguments).or_else(|| {
            if arguments.term <= self.hard_state.term {
                Some(self.in_term_already())
            } else if !self.candidate_is_up_to_date(&arguments) {
                Some(self.behind(&arguments))
            } else {
                None
            }
        });
        if let Some(reason) = objection {
            self.tell_removed(from);
            return self.refuse(&arguments, true, reason);
        }
        let (to, term) = (from, arguments.term);
        self.output.notices.push(Notice::VoteGranted { to, term, pre: true });
        self.give_way(&arguments);
        VoteReply { term: self.hard_state.term, for_term: arguments.term, vote_granted: true }
    }

    /// After a hint that the leader died, all followers ask at almost the same moment. If two of them get
    /// pre-votes, they split the votes: a wasted term, two fsyncs and a pause. So a node that grants a
    /// pre-vote in the quick rounds puts its own round off. If two nodes asked already, the node whose log is
    /// behind gives way; with equal logs, the node with the higher id. It loses only a moment: if the other
    /// node fails, its own next quick round comes. Outside of the quick rounds nothing changes, as thesis 9.6
    /// demands.
    fn give_way(&mut self, arguments: &RequestVote) {
        let theirs = (arguments.last_log_term, arguments.last_log_index);
        let behind = theirs > (self.log.last_term(), self.log.last_index());
        match self.role {
            _ if self.quick_rounds == 0 => return,
            Role::Follower => {}
            Role::PreCandidate { .. } if behind || arguments.candidate_id < self.settings.id => {
                self.give_up_pre_vote(format!(
                    "node {} asked for pre-votes, too, and goes first",
                    arguments.candidate_id
                ));
            }
            Role::PreCandidate { .. } | Role::Candidate { .. } | Role::Leader(_) => return,
        }
        let pause = self.random.between(QUICK_RETRY);
        self.election_deadline = self.election_deadline.max(self.now + pause);
    }

    /// Figure 2, RequestVote, receiver.
    pub(super) fn receive_request_vote(&mut self, from: NodeId, arguments: RequestVote) -> VoteReply {
        if let Some(reason) = self.objection(from, &arguments) {
            return self.refuse(&arguments, false, reason);
        }
        // 1. Reply false if term < currentTerm (5.1).
        if arguments.term < self.hard_state.term {
            let reason = self.in_term_already();
            return self.refuse(&arguments, false, reason);
        }
        if arguments.term > self.hard_state.term {
            if !self.plausible_term(from, arguments.term) {
                return self.refuse(&arguments, false, format!("term {} is too far ahead", arguments.term));
            }
            let reason = format!("node {from} asks for votes in term {}", arguments.term);
            self.become_follower(arguments.term, None, reason);
        }
        // 2. If votedFor is null or candidateId, and candidate's log is at least as up-to-date as receiver's log, grant
        //    vote (5.2, 5.4).
        if let Some(other) = self.hard_state.voted_for
            && other != from
        {
            let own = self.settings.id;
            let whom = if other == own { "itself".into() } else { format!("node {other}") };
            let reason = format!("node {own} has voted for {whom} in this term");
            return self.refuse(&arguments, false, reason);
        }
        if !self.candidate_is_up_to_date(&arguments) {
            let reason = self.behind(&arguments);
            return self.refuse(&arguments, false, reason);
        }
        if self.hard_state.voted_for.is_none() {
            self.set_hard_state(HardState { term: arguments.term, voted_for: Some(from), joining: false });
        }
        // Only a granted vote resets the timer (5.2). The quick rounds have served their purpose.
        self.quick_rounds = 0;
        self.reset_election_timer();
        self.output.notices.push(Notice::VoteGranted { to: from, term: arguments.term, pre: false });
        VoteReply { term: self.hard_state.term, for_term: arguments.term, vote_granted: true }
    }

    // --------------------------------------------------------------------------------------- as a candidate

    pub(super) fn receive_pre_vote_reply(&mut self, from: NodeId, reply: VoteReply) {
        // A late reply to an earlier round names another term.
        if reply.for_term != self.hard_state.term + 1 {
            return;
        }
        if reply.vote_granted {
            self.count_pre_vote(from);
        } else {
            self.count_refusal(from);
        }
    }

    pub(super) fn receive_vote_reply(&mut self, from: NodeId, reply: VoteReply) {
        if reply.for_term != self.hard_state.term {
            return;
        }
        if reply.vote_granted {
            self.count_vote(from);
        }
    }

    fn count_pre_vote(&mut self, from: NodeId) {
        let (majority, term, own) = (self.majority(), self.hard_state.term + 1, self.settings.id);
        let Role::PreCandidate { granted, .. } = &mut self.role else { return };
        if !granted.insert(from) {
            return;
        }
        let granted = granted.clone();
        let votes = self.count_voters(&granted);
        if from != own {
            self.output.notices.push(Notice::VoteReceived { from, term, pre: true, votes, majority });
        }
        if votes >= majority {
            let reason = format!("{} would vote for it", named(&granted));
            self.begin_election(false, reason);
        }
    }

    pub(super) fn count_vote(&mut self, from: NodeId) {
        let (majority, term, own) = (self.majority(), self.hard_state.term, self.settings.id);
        let Role::Candidate { granted, .. } = &mut self.role else { return };
        if !granted.insert(from) {
            return;
        }
        let granted = granted.clone();
        let votes = self.count_voters(&granted);
        if from != own {
            self.output.notices.push(Notice::VoteReceived { from, term, pre: false, votes, majority });
        }
        if votes >= majority {
            let elected_by = named(&granted);
            self.become_leader(votes, &elected_by);
        }
    }

    /// A round that too many nodes have refused cannot be won. If it began with a hint only, and the leader
    /// was not lost, the node follows its leader again; the next heartbeat ends the matter. If the leader is
    /// dead after all, and the other followers were only slower to notice, the next quick round is already
    /// planned.
    fn count_refusal(&mut self, from: NodeId) {
        let refusals_max = self.members().voters().count() - self.majority();
        let Role::PreCandidate { refused, .. } = &mut self.role else { return };
        refused.insert(from);
        let refused = refused.clone();
        if self.count_voters(&refused) > refusals_max
            && let Some(leader) = self.leader
        {
            self.give_up_pre_vote(format!("too many nodes refused; it goes on following node {leader}"));
        }
    }
}
