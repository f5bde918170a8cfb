//! What a person who watches a node wants to see of its consensus, beside its role and term: who votes for it, when it would
//! call an election, what it knows of its followers, and its log.
//!
//! The Raft loop takes one when the page (`GET /ui/state`) or, on the leader, `GET /metrics` asks. It decides nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::Raft;
use super::role::Role;
use super::{Index, NodeId, Term};

/// The most entries at the end of the log that a picture shows.
pub const LOG_SHOWN_MAX: u64 = 48;

/// One node's consensus at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// Who would vote for this node (pre-candidate), votes for it (candidate), or elected it (leader).
    pub votes: Vec<NodeId>,
    /// In how many milliseconds this node calls an election, if it hears nothing; a leader does not.
    pub election_in_ms: Option<u64>,
    /// What a leader knows of each other node; empty for any other role.
    pub followers: Vec<FollowerPicture>,
    /// The index of the first shown entry.
    pub log_from: Index,
    /// The shown entries: runs of entries with the same term, as (term, count).
    pub log_terms: Vec<(Term, u64)>,
}

/// What a leader knows of one follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerPicture {
    /// The follower.
    pub node: NodeId,
    /// Up to here its log is durable and equal to the leader's (Figure 2, matchIndex).
    pub match_index: Index,
    /// How long ago the leader sent the newest request that the follower answered, in milliseconds; `None` if it has
    /// acknowledged no entry of this leader yet.
    pub acknowledged_ms: Option<u64>,
    /// How long ago the leader sent the newest request that the follower answered, in milliseconds. If it has answered none in
    /// this term: how long ago this node became the leader.
    pub contact_ms: u64,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Raft {
    /// The picture at `now`.
    pub fn picture(&self, now: Duration) -> Picture {
        let (votes, followers) = match &self.role {
            Role::Follower => (Vec::new(), Vec::new()),
            Role::PreCandidate { granted, .. } | Role::Candidate { granted } => {
                (granted.iter().copied().collect(), Vec::new())
            }
            Role::Leader(leader) => {
                let follower = |(node, progress): (&NodeId, &super::progress::Progress)| FollowerPicture {
                    node: *node,
                    match_index: progress.match_index,
                    contact_ms: ms(now.saturating_sub(progress.last_acknowledged)),
                    acknowledged_ms: (progress.match_index > 0)
                        .then(|| ms(now.saturating_sub(progress.last_acknowledged))),
                };
                (leader.elected_by.iter().copied().collect(), leader.progress.iter().map(follower).collect())
            }
        };
        let election_in_ms = (!self.is_leader()).then(|| ms(self.deadline().saturating_sub(now)));
        let last = self.log.last_index();
        let log_from = self.log.first_index().max((last + 1).saturating_sub(LOG_SHOWN_MAX));
        let mut log_terms: Vec<(Term, u64)> = Vec::new();
        for term in (log_from..=last).filter_map(|index| self.log.term_at(index)) {
            match log_terms.last_mut() {
                Some((of_run, count)) if *of_run == term => *count += 1,
                _ => log_terms.push((term, 1)),
            }
        }
        Picture { votes, election_in_ms, followers, log_from, log_terms }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, HardState, Settings};
    use super::*;

    #[test]
    fn a_leader_shows_who_elected_it_and_its_log_in_runs_of_terms() {
        let timeouts = (Duration::from_millis(100), Duration::from_millis(100));
        let settings = Settings::new(1, [1].into(), timeouts, Duration::from_millis(10), 7);
        let mut raft = Raft::new(settings, HardState::default(), None, Vec::new(), Duration::ZERO);
        let before = raft.picture(Duration::ZERO);
        assert_eq!((before.votes.len(), before.election_in_ms.is_some()), (0, true));
        let mut now = Duration::ZERO;
        while !raft.is_leader() {
            now = now.max(raft.deadline());
            raft.step(now, Event::Tick);
            let output = raft.take_output();
            if !output.durable.is_empty() {
                raft.step(now, Event::Persisted { mark: output.mark });
            }
        }
        let picture = raft.picture(now);
        assert_eq!((picture.votes.as_slice(), picture.election_in_ms), ([1].as_slice(), None));
        let shown: u64 = picture.log_terms.iter().map(|(_, count)| count).sum();
        assert_eq!(picture.log_from + shown, raft.log().last_index() + 1);
        assert_eq!(picture.log_terms.last().map(|(term, _)| *term), Some(raft.hard_state().term));
    }
}
