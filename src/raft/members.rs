//! The members of the cluster, and how they change: chapter 4 of the thesis, one node at a time.
//!
//! The founding names the first members. From then on, an entry of the log may carry a whole new list. A node goes by the
//! newest list *in its log*, whether or not the entry is committed (4.1). If the entry is truncated, the node goes back
//! to the list before. A snapshot carries the list as of its last entry.
//!
//! Two lists that follow each other differ in at most one voter. So any majority of one and any majority of the other
//! have a node in common, and two leaders cannot both commit. Three rules keep it so; only a leader needs them
//! ([`Raft::change_members`]):
//! * A change begins only after the change before it is committed. Otherwise lists that differ in two voters could be in
//!   use at the same time.
//! * A change begins only after an entry of the leader's own term is committed. This is the correction that Ongaro published
//!   in 2015: a change of an earlier leader, which this leader never saw, could be in use elsewhere. The own entry on a
//!   majority makes sure that it can never be committed.
//! * The last voter cannot be removed. Nor can a voter without which the others could commit nothing, since too few of them
//!   answer: this is no matter of safety, but the cluster would stand still.
//!
//! **A new member** begins as a *learner* (4.2.1): it gets all entries, and does not count. When it has caught up, the
//! leader itself proposes the list in which it votes. It has caught up when it is admitted (`joining.rs`), and a *round*
//! took no longer than the lower election timeout. A round brings it all entries that the leader had when the round began.
//! A learner does vote when it is asked: whoever asks may know of the newer list, in which it counts (4.2.2).
//!
//! **A removed member** is sent the entries on, until it has the list without it and knows that this is committed: so it is
//! told, and campaigns no more ([`Raft::farewell`]). A leader that removes itself leads on until then, without counting
//! itself (4.2.2). Then it hands over, or steps down.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::Raft;
use super::progress::Progress;
use super::role::Role;
use super::{Configuration, MEMBERS_MAX, Member, Members, NodeId, Notice, ProposalId, Resolution};

/// A removed node is sent entries for at most so many upper election timeouts. It may be dead.
const FAREWELL_TIMEOUTS: u32 = 10;

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberChange {
    /// A new member, first as a learner.
    Add {
        /// Its id.
        id: NodeId,
        /// Its cluster address.
        cluster: String,
        /// Its public address.
        public: String,
    },
    /// A member less.
    Remove {
        /// Its id.
        id: NodeId,
    },
}

/// Why a leader does not begin a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeRefused {
    /// No entry of the leader's own term is committed yet.
    TermNotCommitted,
    /// The change before is not committed yet.
    UnderWay,
    /// There is such a member already.
    AlreadyMember,
    /// A member has one of the addresses already.
    AddressTaken(NodeId),
    /// There is no such member.
    NoMember,
    /// Without it, nobody would vote.
    LastVoter,
    /// Of the voters that are left, fewer than a majority answer.
    TooFewLeft,
    /// There are [`MEMBERS_MAX`] members.
    TooMany,
}

/// How a node stands to the list that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It votes and counts.
    Voter,
    /// It gets the entries, and does not count.
    Learner,
    /// It was never a member, as far as it knows.
    NotYet,
    /// It was removed, and this is not committed yet, as far as it knows.
    Leaving,
    /// It was removed.
    Removed,
}

impl Raft {
    /// The list that this node goes by, and the index of its entry.
    pub fn configuration(&self) -> &Configuration {
        self.configurations.latest()
    }

    /// The members, as this node goes by them.
    pub fn members(&self) -> &Members {
        &self.configuration().members
    }

    /// How this node stands to them.
    pub fn membership(&self) -> Membership {
        let Configuration { index, members } = self.configuration();
        match members.get(self.settings.id) {
            Some(member) if member.voter => Membership::Voter,
            Some(_) => Membership::Learner,
            None if *index == 0 => Membership::NotYet,
            None if *index > self.commit_index => Membership::Leaving,
            None => Membership::Removed,
        }
    }

    /// Whether the list that this node goes by is committed, as far as it knows.
    fn is_change_committed(&self) -> bool {
        self.configuration().index <= self.commit_index
    }

    /// Whether this node may ask for votes. A voter may. So may one that is being removed, as long as that is not committed:
    /// perhaps nobody else can win (4.2.2, Figure 4.6). It does not count itself then.
    pub(super) fn may_campaign(&self) -> bool {
        let id = self.settings.id;
        let was_voter = || self.configurations.former().is_some_and(|former| former.members.is_voter(id));
        self.members().is_voter(id) || self.membership() == Membership::Leaving && was_voter()
    }

    /// How many of these nodes are voters.
    pub(super) fn count_voters(&self, nodes: &BTreeSet<NodeId>) -> usize {
        nodes.iter().filter(|node| self.members().is_voter(**node)).count()
    }

    /// The other voters: whom a candidate asks.
    pub(super) fn voting_peers(&self) -> Vec<NodeId> {
        self.members().voters().filter(|voter| *voter != self.settings.id).collect()
    }

    /// Who was removed, and is still to be told by this leader.
    pub fn leaving(&self) -> Vec<NodeId> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        leader.progress.keys().copied().filter(|peer| !self.members().contains(*peer)).collect()
    }

    // ------------------------------------------------------------------------------------------- as a leader

    /// An operator asks for a change. Exactly one resolution follows.
    pub(super) fn change_members(&mut self, id: ProposalId, change: &MemberChange) {
        let next = match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Err(Resolution::Busy),
            Role::Leader(_) => self.next_members(change).map_err(Resolution::Refused),
            _ => Err(Resolution::NotLeader { leader: self.leader }),
        };
        match next {
            Err(resolution) => self.output.resolved.push((id, resolution)),
            Ok(members) => {
                let index = self.append(members.to_command());
                if let Role::Leader(leader) = &mut self.role {
                    leader.proposals.insert(index, id);
                }
            }
        }
    }

    /// The list after a change, if the change may begin now.
    fn next_members(&self, change: &MemberChange) -> Result<Members, ChangeRefused> {
        self.may_change()?;
        let members = self.members();
        match change {
            MemberChange::Add { id, cluster, public } => {
                if members.contains(*id) {
                    return Err(ChangeRefused::AlreadyMember);
                }
                let taken = |member: &&Member| {
                    [&member.cluster, &member.public]
                        .into_iter()
                        .any(|used| used == cluster || used == public)
                };
                if let Some(other) = members.iter().find(taken) {
                    return Err(ChangeRefused::AddressTaken(other.id));
                }
                if members.count() >= MEMBERS_MAX {
                    return Err(ChangeRefused::TooMany);
                }
                let (id, cluster, public) = (*id, cluster.clone(), public.clone());
                Ok(members.with(Member { id, cluster, public, voter: false }))
            }
            MemberChange::Remove { id } => {
                let member = members.get(*id).ok_or(ChangeRefused::NoMember)?;
                if member.voter && members.voters().count() == 1 {
                    return Err(ChangeRefused::LastVoter);
                }
                let rest = members.without(*id);
                if member.voter && self.answering(&rest) < rest.majority() {
                    return Err(ChangeRefused::TooFewLeft);
                }
                Ok(rest)
            }
        }
    }

    /// How many of these voters count and have answered this leader within the upper election timeout, itself included. Without a
    /// majority of them, a change could never be committed, and the cluster would stand still.
    fn answering(&self, members: &Members) -> usize {
        let Role::Leader(leader) = &self.role else { return 0 };
        let since = self.now.saturating_sub(self.settings.election_timeout.1);
        let answers = |voter: &NodeId| {
            *voter == self.settings.id
                || leader.progress.get(voter).is_some_and(|progress| {
                    progress.counts() && progress.incarnation.is_some() && progress.last_acknowledged >= since
                })
        };
        members.voters().filter(answers).count()
    }

    /// 4.1, and the correction of 2015.
    fn may_change(&self) -> Result<(), ChangeRefused> {
        if !self.is_change_committed() {
            return Err(ChangeRefused::UnderWay);
        }
        if self.log.term_at(self.commit_index) != Some(self.hard_state.term) {
            return Err(ChangeRefused::TermNotCommitted);
        }
        Ok(())
    }

    /// The peer has acknowledged. If it is a learner that has caught up, it votes from now on.
    pub(super) fn promote_if_caught_up(&mut self, peer: NodeId) {
        let Some(member) = self.members().get(peer).filter(|member| !member.voter).cloned() else { return };
        let (now, last_index, quick) = (self.now, self.log.last_index(), self.settings.election_timeout.0);
        let may = self.may_change().is_ok() && !self.is_handing_over();
        let Some(progress) = self.progress_mut(peer) else { return };
        if !progress.counts() {
            return; // It is joining: it has to be admitted first.
        }
        match progress.round {
            Some((target, _)) if progress.match_index < target => return,
            Some((_, began)) if may && now.saturating_sub(began) <= quick => {}
            _ => {
                progress.round = Some((last_index, now));
                return;
            }
        }
        let members = self.members().with(Member { voter: true, ..member });
        self.output.notices.push(Notice::CaughtUp { peer });
        self.append(members.to_command());
    }

    /// The list in the log is another one. A leader begins to talk to new members, and goes on for a while with those that
    /// left.
    pub(super) fn members_changed(&mut self) {
        let Configuration { index, members } = self.configuration().clone();
        self.output.notices.push(Notice::Members { index, members: members.to_string() });
        let (own, last_index, now) = (self.settings.id, self.log.last_index(), self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        for member in members.iter().filter(|member| member.id != own) {
            let progress = leader.progress.entry(member.id).or_insert_with(|| Progress::new(last_index, now));
            if progress.leaving_since.take().is_some() {
                // It comes back. It may have another directory by now.
                *progress = Progress::new(last_index, now);
            }
        }
        for (_, progress) in leader.progress.iter_mut().filter(|(peer, _)| !members.contains(**peer)) {
            progress.leaving_since.get_or_insert(now);
        }
    }

    /// A node that is no member has acknowledged. When it has the list without it, and knows that the list is committed, it is
    /// sent nothing more.
    pub(super) fn farewell(&mut self, peer: NodeId) {
        let index = self.configuration().index;
        if self.members().contains(peer) || index > self.commit_index {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&peer) else { return };
        if progress.match_index >= index && progress.commit_sent >= index {
            leader.progress.remove(&peer);
        } else {
            progress.heartbeat_due = true;
        }
    }

    /// Removed nodes that never answer are given up.
    pub(super) fn give_up_farewells(&mut self) {
        let (now, patience) = (self.now, self.farewell_patience());
        if let Role::Leader(leader) = &mut self.role {
            leader
                .progress
                .retain(|_, progress| progress.leaving_since.is_none_or(|since| now < since + patience));
        }
    }

    fn farewell_patience(&self) -> Duration {
        self.settings.election_timeout.1 * FAREWELL_TIMEOUTS
    }

    /// A node that is no member campaigns: it does not know yet that it was removed. The leader tells it.
    pub(super) fn tell_removed(&mut self, node: NodeId) {
        let (last_index, now) = (self.log.last_index(), self.now);
        if self.members().contains(node) || !self.is_change_committed() || self.configuration().index == 0 {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.progress.len() < 2 * MEMBERS_MAX {
            let mut progress = Progress::new(last_index, now);
            progress.leaving_since = Some(now);
            leader.progress.entry(node).or_insert(progress);
        }
    }

    /// Something was committed: perhaps the list without this node.
    pub(super) fn leave_if_removed(&mut self) {
        if self.members().contains(self.settings.id) {
            self.told_removed = false;
            return;
        }
        if self.membership() != Membership::Removed || !self.has_all_committed() || self.told_removed {
            return;
        }
        self.told_removed = true;
        self.output.notices.push(Notice::Removed { index: self.configuration().index });
        if self.is_leader() {
            self.start_transfer(None);
        }
    }
}
