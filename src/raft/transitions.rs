//! Every change of a node's role (Figure 4 of the paper), one function each. No other file changes the role.
//!
//! ```text
//!            times out            majority would            majority
//!            without a leader     vote for it               votes for it
//!  follower ─────────────► pre-candidate ─────► candidate ─────────► leader
//!     ▲ ▲        gives up        │                  │                  │
//!     │ └────────────────────────┘                  │                  │
//!     └─────────────────────────────────────────────┴──────────────────┘
//!        hears of a newer term or of its term's leader; a leader: lost its majority
//! ```
//!
//! Each function asserts what must hold before the change, and what holds after it. What a node *does* in its new role
//! (asks for votes, sends appends) is in `election.rs`, `replication.rs` and `transfer.rs`, which call these functions.

use std::collections::{BTreeMap, BTreeSet};

use super::core::Raft;
use super::progress::Progress;
use super::role::{Leader, Role, RoleName};
use super::{Command, HardState, NodeId, Notice, Resolution, Term};

impl Raft {
    /// Any role → follower of `term`, of `leader` if that is known. This is the only place where another
    /// node's message raises the term.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>, reason: String) {
        assert!(term >= self.hard_state.term, "terms never decrease");
        assert!(leader != Some(self.settings.id), "a follower follows another node");
        let was = self.role_name();
        let was_term = self.hard_state.term;
        if term > self.hard_state.term {
            self.set_hard_state(HardState { term, voted_for: None, joining: self.hard_state.joining });
        }
        if let Some(old) = self.leader
            && (was_term != term || leader != Some(old))
        {
            self.leader = None;
            if was != RoleName::Leader {
                self.output.notices.push(Notice::LeaderLost {
                    leader: old,
                    term: was_term,
                    reason: reason.clone(),
                });
            }
        }
        if was != RoleName::Follower {
            self.drop_leadership();
            self.role = Role::Follower;
            // A leader or candidate needs a new election timer. A follower keeps its own: only the leader's
            // messages reset it.
            self.reset_election_timer();
        }
        if was != RoleName::Follower || was_term != term {
            self.output.notices.push(Notice::Role { role: RoleName::Follower, term, reason });
        }
        if let Some(leader) = leader
            && self.leader != Some(leader)
        {
            self.leader = Some(leader);
            self.output.notices.push(Notice::LeaderFound { leader, term });
        }
        assert_eq!(self.role_name(), RoleName::Follower);
        assert_eq!(
            (self.hard_state.term, self.leader),
            (term, leader),
            "it follows whom it was told to, in that term"
        );
    }

    /// Follower, pre-candidate or candidate → pre-candidate (thesis 9.6). Term and vote stay as they are.
    pub(super) fn become_pre_candidate(&mut self, reason: String) {
        assert!(!self.is_leader(), "a leader steps down first");
        assert!(!self.is_joining(), "a joining node never campaigns");
        let before = self.hard_state;
        // After a whole timeout of silence, this node gives its leader up. After a hint only, it keeps the
        // leader until a majority confirms the loss: a closed connection to a living leader must change
        // nothing.
        let silent = self.quick_rounds == 0;
        if silent {
            self.lose_leader(&reason);
        }
        self.role = Role::PreCandidate { granted: BTreeSet::new(), refused: BTreeSet::new() };
        self.output.notices.push(Notice::Role { role: RoleName::PreCandidate, term: before.term, reason });
        assert_eq!(self.hard_state, before, "a pre-vote raises no term and is no vote");
    }

    /// Pre-candidate → follower in the same term, of the same leader if it has one: its round cannot be won, or another
    /// node's goes first. The election timer runs on.
    pub(super) fn give_up_pre_vote(&mut self, reason: String) {
        assert_eq!(self.role_name(), RoleName::PreCandidate, "only who asked for pre-votes can give up");
        self.role = Role::Follower;
        let term = self.hard_state.term;
        self.output.notices.push(Notice::Role { role: RoleName::Follower, term, reason });
        assert!(!self.is_leader());
    }

    /// Any role but leader → candidate. 5.2: "To begin an election, a follower increments its current term and transitions
    /// to candidate state. It then votes for itself".
    pub(super) fn become_candidate(&mut self, reason: String) {
        assert!(!self.is_leader(), "a leader steps down first");
        assert!(!self.is_joining(), "a joining node never campaigns");
        let before = self.hard_state.term;
        self.lose_leader(&reason);
        self.leader_contact = None;
        let term = before.checked_add(1).expect("TERM_JUMP_MAX keeps terms far from their end");
        self.set_hard_state(HardState { term, voted_for: Some(self.settings.id), joining: false });
        self.role = Role::Candidate { granted: BTreeSet::new() };
        self.output.notices.push(Notice::Role { role: RoleName::Candidate, term, reason });
        assert_eq!(self.leader, None, "a candidate follows nobody");
        assert_eq!(self.hard_state.voted_for, Some(self.settings.id), "a candidate votes for itself");
    }

    /// Candidate → leader: it "receives votes from majority of servers".
    pub(super) fn become_leader(&mut self, votes: usize, elected_by: &str) {
        let Role::Candidate { granted } = &mut self.role else { panic!("only a candidate becomes leader") };
        let granted = std::mem::take(granted);
        assert!(votes >= self.majority(), "a leader has a majority");
        assert_eq!(self.hard_state.voted_for, Some(self.settings.id), "a leader voted for itself");
        let term = self.hard_state.term;
        let (last_index, now) = (self.log.last_index(), self.now);
        let mut progress: BTreeMap<_, _> =
            self.peers().map(|peer| (peer, Progress::new(last_index, now))).collect();
        // Who is being removed is to be told.
        let leaving = self.configurations.former().filter(|_| self.configuration().index > self.commit_index);
        for member in leaving.into_iter().flat_map(|former| former.members.iter()) {
            if member.id != self.settings.id && !self.members().contains(member.id) {
                let mut entry = Progress::new(last_index, now);
                entry.leaving_since = Some(now);
                progress.insert(member.id, entry);
            }
        }
        self.role = Role::Leader(Leader {
            elected_by: granted,
            progress,
            proposals: BTreeMap::new(),
            transfer: None,
        });
        self.leader = Some(self.settings.id);
        self.leader_contact = Some(self.now);
        self.quick_rounds = 0;
        self.output.notices.push(Notice::Role {
            role: RoleName::Leader,
            term,
            reason: format!("elected by {elected_by}"),
        });
        // Section 8 of the paper: a no-op at the start of the term, so that what earlier terms left behind commits
        // without waiting for a client (5.4.2 forbids to count replicas for it).
        self.append(Command::noop());
        assert_eq!(self.log.last_term(), term, "a leader's log ends with an entry of its own term");
        assert_eq!(self.hard_state.term, term, "to win an election raises no term");
    }

    /// Resolves every proposal that waits at a leader which steps down: nobody knows yet whether it will be
    /// committed.
    fn drop_leadership(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            let proposals = std::mem::take(&mut leader.proposals);
            self.output.resolved.extend(proposals.into_values().map(|id| (id, Resolution::Unknown)));
            self.leader_contact = None;
            self.leader = None;
        }
    }

    /// Gives up the leader that this node follows, if any.
    pub(super) fn lose_leader(&mut self, reason: &str) {
        if let Some(leader) = self.leader.take() {
            let term = self.hard_state.term;
            self.output.notices.push(Notice::LeaderLost { leader, term, reason: reason.into() });
        }
    }
}
