//! Handing leadership over: section 3.10 of the thesis. Before a leader stops on purpose, it brings a follower fully up
//! to date and tells it to campaign at once, so that nobody waits for an election timeout.

use super::core::Raft;
use super::progress::Progress;
use super::role::{Role, Transfer};
use super::{NodeId, Notice, RpcRequest, TimeoutNow, TimeoutNowReply};

impl Raft {
    /// "1. The prior leader stops accepting new client requests."
    pub(super) fn start_transfer(&mut self, to: Option<NodeId>) {
        let deadline = self.now + self.settings.election_timeout.1;
        let heard_since = self.now.saturating_sub(self.settings.election_timeout.0);
        let own = self.settings.id;
        let members = self.members().clone();
        let Role::Leader(leader) = &mut self.role else {
            return self.transfer_notice(format!("node {own} hands nothing over: it does not lead"));
        };
        if let Some(transfer) = &leader.transfer {
            let text =
                format!("node {own} begins no second transfer: one to node {} is under way", transfer.to);
            return self.transfer_notice(text);
        }
        // Of those that are alive (they answered within the shortest election timeout), the one that is furthest along: it needs
        // the least before it can take over. A dead one would only block proposals until the transfer is given up.
        let best = leader
            .progress
            .iter()
            .filter(|(peer, progress)| members.is_voter(**peer) && progress.counts())
            .max_by_key(|(_, progress)| {
                let alive = progress.last_acknowledged >= heard_since;
                (alive, progress.match_index, progress.last_acknowledged)
            })
            .map(|(peer, _)| *peer);
        let can =
            |to: &NodeId| members.is_voter(*to) && leader.progress.get(to).is_some_and(Progress::counts);
        let Some(to) = to.or(best).filter(can) else {
            return self.transfer_notice(format!(
                "node {own} hands nothing over: there is no such other node, or it does not vote"
            ));
        };
        leader.transfer = Some(Transfer { to, deadline, timeout_now_sent: false });
        self.transfer_notice(format!("node {own} hands leadership over to node {to}"));
        self.continue_transfer(to);
    }

    /// "2. The prior leader fully updates the target server's log to match its own [...]. 3. The prior leader sends a
    /// TimeoutNow request to the target server."
    pub(super) fn continue_transfer(&mut self, peer: NodeId) {
        let (last_index, term, leader_id) = (self.log.last_index(), self.hard_state.term, self.settings.id);
        let Role::Leader(leader) = &mut self.role else { return };
        let (Some(transfer), Some(progress)) = (&mut leader.transfer, leader.progress.get(&peer)) else {
            return;
        };
        if transfer.to == peer && !transfer.timeout_now_sent && progress.match_index == last_index {
            transfer.timeout_now_sent = true;
            self.send_now(peer, RpcRequest::TimeoutNow(TimeoutNow { term, leader_id }));
        }
    }

    /// If the target has not taken over after about an election timeout, the old leader gives the transfer up, and takes
    /// proposals again (thesis 3.10).
    pub(super) fn transfer_tick(&mut self) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(transfer) = leader.transfer.take_if(|transfer| now >= transfer.deadline) {
            let (to, own, term) = (transfer.to, self.settings.id, self.hard_state.term);
            if self.is_barred {
                let reason =
                    format!("its state contradicts that of a majority, and node {to} did not take over");
                return self.become_follower(term, None, reason);
            }
            if self.told_removed {
                let reason = format!("it was removed from the cluster, and node {to} did not take over");
                return self.become_follower(term, None, reason);
            }
            self.transfer_notice(format!("node {to} did not take over in time; node {own} leads on"));
        }
    }

    /// At the target: "this request has the same effect as the target server's election timer firing". No PreVote: the leader
    /// itself asks for this election, and the voters are told so.
    pub(super) fn receive_timeout_now(&mut self, from: NodeId, arguments: TimeoutNow) -> TimeoutNowReply {
        let current = !self.is_barred
            && self.may_campaign()
            && from == arguments.leader_id
            && arguments.term == self.hard_state.term
            && self.leader == Some(from)
            && !matches!(self.role, Role::Leader(_))
            && !self.is_joining();
        if current {
            self.begin_election(true, format!("node {from}, the leader, hands over to it"));
        }
        TimeoutNowReply { term: self.hard_state.term, accepted: current }
    }

    /// Whether this node leads and hands leadership over.
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_some())
    }

    fn transfer_notice(&mut self, text: String) {
        self.output.notices.push(Notice::Transfer { text });
    }
}
