//! Joining: how a node without memory becomes a member that counts.
//!
//! A node's votes and acknowledgements stand on its disk. If the disk is emptied, the node has forgotten what others
//! rely on: it could vote twice in a term, or help to elect a leader that lacks a committed entry. So a fresh
//! directory begins with a durable mark, `joining` in [`HardState`], and the node with this mark is there but does not
//! count: it never votes, never campaigns, and a leader does not count its acknowledgements. A majority stays a
//! majority of *all* members. The mark goes in one of two ways.
//!
//! **A leader admits the node** ([`Raft::hear_life`], [`Raft::accept_admission`]). The leader of term T hears that the
//! node is joining, and appends an entry, the *barrier*. When a majority without any joining node has the barrier, the
//! leader commits it; when the node has it, too, the leader admits the node. Why is nothing lost?
//! * *Entries that the node had acknowledged.* To this leader: they are before the barrier, since the leader appended the
//!   barrier after the node's return. To leaders of earlier terms: if such an entry can still be committed, the leader of T has it.
//! * *Votes that the node had given.* For T or an earlier term: the node votes for the leader of T when it is admitted,
//!   so it cannot vote otherwise there again. For a later term T': that election can no longer succeed. A majority has
//!   stored the barrier in term T. Whoever of it had voted in T' before would have refused the barrier, and whoever is
//!   asked for its vote afterwards refuses a candidate that lacks the barrier.
//!
//! This is also why the barrier must be a *new* entry: an older one may have been stored before the vote.
//!
//! **The node helps to found the cluster** ([`Raft::ask_who_lived`]). On the first day, all nodes are joining, and no
//! leader can admit them. A *fresh* node, which has promised nothing to anybody, asks all others how they stand, round
//! after round. If a majority, itself included, was joining and fresh in two rounds one after the other, and nobody that
//! answered has lived or has another founding, these nodes are the founders. The node writes down who they are, clears
//! its mark, and tells it to the other founders when they ask: they clear theirs.
//! * *Why two rounds?* Then there was a moment at which a majority was joining at the same time. Once a node of the
//!   cluster has voted, a majority counts, and as long as a majority goes on counting, there is no such moment again. So
//!   a node with an emptied disk cannot slip through, even if it reaches only others that are new.
//!   (If *all* members answer and are fresh, there is nothing to forget, and they need not all be joining.)
//! * *Why write the founders down?* A founder that has promised nothing yet must know its fellows from a node whose disk was
//!   emptied meanwhile, also after a crash. It knows them by the incarnations of their directories.
//!
//! docs/raft.md says what can *not* be told apart. `tests/raft/explore.rs` checks the rules with disks that are emptied
//! at any moment.

use super::core::Raft;
use super::founding_round::FoundingRound;
use super::progress::Progress;
use super::role::Role;
use super::{
    Admission, Command, Durable, FOUNDING_INDEX, FOUNDING_TERM, Founders, FoundingQuestion, FoundingReply,
    HardState, Index, Life, NodeId, Notice, Record, RpcId, RpcRequest,
};

impl Raft {
    /// Whether this node is there but does not count yet.
    pub fn is_joining(&self) -> bool {
        self.hard_state.joining
    }

    /// Whether this node has never promised anything to anybody: it stands where a directory begins.
    fn is_fresh(&self) -> bool {
        self.hard_state.term <= FOUNDING_TERM
            && self.hard_state.voted_for.is_none()
            && self.log.last_index() <= FOUNDING_INDEX
            && self.snapshot.is_none()
    }

    /// What every acknowledgement says of its sender.
    pub(super) fn life(&self) -> Life {
        Life { incarnation: self.settings.incarnation, joining: self.hard_state.joining }
    }

    // ------------------------------------------------------------------------------------------- as a leader

    /// An acknowledgement says in which life of the peer it was given. Asked before anything else in it is taken in.
    pub(super) fn hear_life(&mut self, peer: NodeId, life: Life) {
        let (last_index, now) = (self.log.last_index(), self.now);
        let is_member = self.members().contains(peer);
        let Some(progress) = self.progress_mut(peer) else { return };
        if progress.incarnation.is_some_and(|known| known != life.incarnation) {
            // Another directory: what was known of the old one's log says nothing about this one's.
            *progress = Progress::new(last_index, now);
        }
        progress.incarnation = Some(life.incarnation);
        if !life.joining || !is_member {
            progress.barrier = None; // Who was removed does not count anyway, and is not admitted.
        } else if progress.barrier.is_none() {
            let barrier = self.append(Command::noop());
            let progress = self.progress_mut(peer).expect("it was there a moment ago");
            progress.barrier = Some(barrier);
            self.output.notices.push(Notice::PeerJoining { peer, barrier });
        }
    }

    /// The commit index has grown from `before`. If that commits the barrier of a joining peer, the peer gets a heartbeat
    /// at once, and with it its admission.
    pub(super) fn hurry_admissions(&mut self, before: Index) {
        let committed = self.commit_index;
        let Role::Leader(leader) = &mut self.role else { return };
        for progress in leader.progress.values_mut() {
            if progress.barrier.is_some_and(|barrier| before < barrier && barrier <= committed) {
                progress.heartbeat_due = true;
            }
        }
    }

    /// The admission that goes with an append to this peer whose last entry has the index `last`.
    pub(super) fn admission(&self, peer: NodeId, last: Index) -> Option<Admission> {
        let progress = self.progress_of(peer)?;
        let (barrier, incarnation) = (progress.barrier?, progress.incarnation?);
        (barrier <= self.commit_index.min(last)).then_some(Admission { incarnation, barrier })
    }

    /// The life of a peer that this leader heard last, and whether it counts the peer. For the simulator and tests.
    pub fn known_life(&self, peer: NodeId) -> Option<Life> {
        let progress = self.progress_of(peer)?;
        Some(Life { incarnation: progress.incarnation?, joining: !progress.counts() })
    }

    // ------------------------------------------------------------------------------------ as a joining node

    /// The leader of the current term admits a node; `last_verified` is up to where the append showed that the logs are
    /// equal. An admission that was meant for an earlier life of this node means nothing: this life has its own barrier.
    pub(super) fn accept_admission(&mut self, leader: NodeId, admission: Admission, last_verified: Index) {
        let meant = admission.incarnation == self.settings.incarnation && admission.barrier <= last_verified;
        if !self.hard_state.joining || !meant {
            return;
        }
        assert_eq!(self.leader, Some(leader), "an append was accepted, so its sender leads");
        // The vote: an earlier life may have voted for this leader, and this one must not vote for another candidate of
        // the same term.
        let term = self.hard_state.term;
        self.set_hard_state(HardState { term, voted_for: Some(leader), joining: false });
        self.output.notices.push(Notice::Admitted { leader, barrier: admission.barrier });
    }

    /// The clock of a joining node. It never campaigns. If it is fresh, it asks whether the cluster is to be founded.
    pub(super) fn joining_tick(&mut self) {
        self.lose_leader("it heard no leader for a whole election timeout");
        if self.founding.is_some() {
            self.close_founding_round();
        } else {
            self.ask_who_lived();
        }
    }

    /// Begins a round of questions.
    fn ask_who_lived(&mut self) {
        self.reset_election_timer();
        if !self.is_fresh() {
            return; // There is a cluster: some leader will come back and fill this node.
        }
        if !self.settings.founding.contains(self.settings.id) {
            return; // It founds nothing: it waits until it is added, and a leader comes.
        }
        // Whoever has not answered after the longest election timeout is not reachable.
        self.election_deadline = self.now + self.settings.election_timeout.1;
        let incarnation = self.settings.incarnation;
        let mut round = FoundingRound::default();
        let own = self.settings.id;
        let others: Vec<NodeId> = self.settings.founding.voters().filter(|peer| *peer != own).collect();
        for peer in others {
            let question = RpcRequest::Founding(FoundingQuestion { incarnation });
            round.asked.insert(peer, self.send_now(peer, question));
        }
        self.founding = Some(round);
        self.close_founding_round_if_complete();
    }

    /// Another node asks how this one stands.
    pub(super) fn receive_founding_question(&self) -> FoundingReply {
        match (self.is_fresh(), self.is_joining()) {
            (false, _) => FoundingReply::Lived,
            (true, true) => FoundingReply::Joining { incarnation: self.settings.incarnation },
            (true, false) => FoundingReply::Counting {
                incarnation: self.settings.incarnation,
                founders: self.settings.founders.clone(),
            },
        }
    }

    pub(super) fn receive_founding_reply(&mut self, from: NodeId, rpc: RpcId, reply: FoundingReply) {
        let own = (self.settings.id, self.settings.incarnation);
        let Some(round) = &mut self.founding else { return };
        if round.asked.get(&from) != Some(&rpc) {
            return; // A late answer to an earlier round.
        }
        round.asked.remove(&from);
        match reply {
            FoundingReply::Joining { incarnation } => {
                round.joining.insert(from, incarnation);
            }
            FoundingReply::Counting { founders, .. } if founders.get(&own.0) == Some(&own.1) => {
                self.founding = None;
                return self.found(founders);
            }
            FoundingReply::Counting { incarnation, .. } => {
                round.counting.insert(from, incarnation);
            }
            FoundingReply::Lived => {
                round.lived.insert(from);
            }
        }
        self.close_founding_round_if_complete();
    }

    /// A question got no answer; `refused`: the peer is there, and has another founding.
    pub(super) fn founding_question_lost(&mut self, to: NodeId, rpc: RpcId, refused: bool) {
        let Some(round) = &mut self.founding else { return };
        if round.asked.get(&to) == Some(&rpc) {
            round.asked.remove(&to);
            if refused {
                round.refused.insert(to);
            }
            self.close_founding_round_if_complete();
        }
    }

    fn close_founding_round_if_complete(&mut self) {
        if self.founding.as_ref().is_some_and(|round| round.asked.is_empty()) {
            self.close_founding_round();
        }
    }

    /// The round is over: who has not answered is not reachable.
    fn close_founding_round(&mut self) {
        let FoundingRound { mut joining, counting, lived, refused, .. } =
            self.founding.take().expect("only an open round is closed");
        self.election_deadline = self.now + self.settings.heartbeat;
        joining.insert(self.settings.id, self.settings.incarnation);
        let before = self.fresh_before.take();
        let (new, majority) = (joining.len(), self.settings.founding.majority());
        // Enough, if all of them stand as they stood in the round before?
        let fresh: Founders =
            joining.into_iter().chain(counting.iter().map(|(id, life)| (*id, *life))).collect();
        let is_enough = |known: &Founders| {
            known.len() == self.settings.founding.count() || counting.is_empty() && known.len() >= majority
        };
        if !lived.is_empty() || !refused.is_empty() || !is_enough(&fresh) {
            let lived = lived.into_iter().chain(counting.into_keys()).collect();
            return self.founding_waits(Notice::FoundingWaits { new, majority, lived, refused });
        }
        let mut both = fresh.clone();
        both.retain(|node, life| before.as_ref().is_some_and(|before| before.get(node) == Some(life)));
        if is_enough(&both) {
            self.found(both);
        } else {
            self.fresh_before = Some(fresh);
            self.ask_who_lived();
        }
    }

    /// One line for each new reason.
    fn founding_waits(&mut self, notice: Notice) {
        if self.waits_because.as_ref() != Some(&notice) {
            self.waits_because = Some(notice.clone());
            self.output.notices.push(notice);
        }
    }

    /// This node is a founder, and counts from now on.
    fn found(&mut self, founders: Founders) {
        if !self.is_joining() || !self.is_fresh() {
            return; // A leader was faster.
        }
        assert!(founders.len() >= self.settings.founding.majority(), "a majority founds a cluster");
        self.settings.founders.clone_from(&founders);
        self.output.durable.push(Durable::Record(Record::Founders(founders.clone())));
        self.set_hard_state(HardState { joining: false, ..self.hard_state });
        self.output.notices.push(Notice::Founded { founders: founders.into_keys().collect() });
        self.first_timeout();
    }
}
