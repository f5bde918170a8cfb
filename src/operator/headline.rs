//! What the nodes say together, and the headline of the live table: who leads, and how many more may fail. Called by
//! `live_table.rs`, `sentences.rs` and `session.rs`; `contact.rs` takes [`span`] from it.
//!
//! The words and the rules are those of the page (`read` and `headline` in `node/page/page.js`), for the same [`PageState`]:
//! whoever changes one changes both. Only the page remembers how many votes the last election got.

use std::collections::BTreeSet;
use std::time::Duration;

use rakit::protocol::{NodeOnPage, NodeView, PageState, ProcessState};
use rakit::raft::{NodeId, RoleName};

use super::line::Style;

/// A view that is older than this is not taken for the present.
const OLD: Duration = Duration::from_secs(3);

/// How a node is, as far as somebody outside can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It answers, and has this role.
    Role(RoleName),
    /// Its process has ended, or was not started yet.
    Dead,
    /// Its process is stopped (SIGSTOP).
    Paused,
    /// It does not answer.
    Silent,
}

/// What the nodes say, put together.
pub struct Picture<'a> {
    /// Every node that was asked, in their order.
    pub asked: &'a [NodeOnPage],
    /// The ids of all members that anybody knows of.
    pub members: BTreeSet<NodeId>,
    /// Those of the newest list that vote: a majority is one of these.
    voters: BTreeSet<NodeId>,
    /// The views that are of the present.
    pub fresh: Vec<&'a NodeView>,
    /// The view of the node that leads the newest term.
    pub leader: Option<&'a NodeView>,
    /// The view with the newest server table, be it old.
    pub newest: Option<&'a NodeView>,
    state: &'a PageState,
}

/// Whether this node has just given its view.
pub fn is_fresh(node: &NodeOnPage) -> bool {
    node.view.is_some() && node.silent.is_none() && Duration::from_millis(node.age_ms) < OLD
}

impl<'a> Picture<'a> {
    /// Puts the views together.
    pub fn new(state: &'a PageState) -> Picture<'a> {
        let all = || state.nodes.iter().filter_map(|node| node.view.as_ref());
        let fresh: Vec<&NodeView> =
            state.nodes.iter().filter(|node| is_fresh(node)).filter_map(|node| node.view.as_ref()).collect();
        let leads = fresh.iter().copied().filter(|view| view.status.role == RoleName::Leader);
        let members: BTreeSet<NodeId> = all()
            .flat_map(|view| view.members.iter().copied())
            // 0: an address whose node has never answered.
            .chain(state.nodes.iter().map(|node| node.node).filter(|id| *id != 0))
            .collect();
        let list = all().max_by_key(|view| view.status.members_index).map(|view| &view.status.members);
        let voters = list.into_iter().flatten().filter(|member| member.voter).map(|member| member.id);
        let voters: BTreeSet<NodeId> = voters.collect();
        Picture {
            asked: &state.nodes,
            voters: if voters.is_empty() { members.clone() } else { voters },
            members,
            leader: leads.max_by_key(|view| view.status.term),
            newest: all().max_by_key(|view| view.status.applied_index),
            fresh,
            state,
        }
    }

    /// How a node is.
    pub fn shape(&self, node: &NodeOnPage) -> Shape {
        let processes = self.state.room.as_ref().map(|room| &room.processes);
        match (processes.and_then(|all| all.get(&format!("node-{}", node.node))), &node.view) {
            (Some(ProcessState::Paused), _) => Shape::Paused,
            (_, Some(view)) if is_fresh(node) => Shape::Role(view.status.role),
            (Some(ProcessState::Dead), _) => Shape::Dead,
            _ => Shape::Silent,
        }
    }

    /// Whether a follower that has answered the leader counts: it may have died since, or have no vote.
    fn counts(&self, follower: NodeId) -> bool {
        let votes = self.voters.contains(&follower);
        votes
            && self.asked.iter().find(|node| node.node == follower).is_none_or(|node| {
                let joining = node.view.as_ref().is_some_and(|view| view.status.joining);
                matches!(self.shape(node), Shape::Role(_)) && !joining
            })
    }

    /// How many voters may still fail: those that answer the leader, and itself, beyond a majority.
    fn spare(&self, leader: &NodeView) -> Option<usize> {
        let followers = &leader.consensus.as_ref()?.followers;
        let answer = followers.iter().filter(|follower| {
            follower.acknowledged_ms.is_some_and(|ms| ms <= leader.times.election_timeout_ms)
                && self.counts(follower.node)
        });
        // A leader that is to leave does not count itself.
        let itself = usize::from(self.voters.contains(&leader.status.node));
        Some((answer.count() + itself).saturating_sub(self.majority()))
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The state of the cluster in one sentence.
    pub fn headline(&self) -> (Style, String) {
        let (of, majority) = (self.voters.len(), self.majority());
        if let Some(leader) = self.leader {
            let elected_by = leader.consensus.as_ref().filter(|consensus| !consensus.votes.is_empty());
            let elected_by =
                elected_by.map(|one| format!(", elected by {}", listed(&one.votes))).unwrap_or_default();
            let (style, may_fail) = match self.spare(leader) {
                None => (Style::Strong, String::new()),
                Some(0) => (Style::Warn, " · no other node may fail".to_string()),
                Some(count) => (Style::Strong, format!(" · {count} of {of} may still fail")),
            };
            let status = &leader.status;
            return (style, format!("node {} leads term {}{elected_by}{may_fail}", status.node, status.term));
        }
        let Some(age_ms) = self.fresh.iter().map(|view| view.age_ms).min() else {
            return (Style::Bad, "No node answers.".to_string());
        };
        let all_asked = self.asked.len() >= self.members.len();
        let follows = self.fresh.iter().find_map(|view| Some((view.status.leader?, view.status.term)));
        if let (false, Some((leader, term))) = (all_asked, follows) {
            return (Style::Strong, format!("node {leader} leads term {term}"));
        }
        let served = format!("Primes are served from a state {} old", span(age_ms));
        let answer = self.fresh.iter().filter(|view| self.voters.contains(&view.status.node)).count();
        if all_asked && answer < majority {
            return (Style::Bad, format!("NO MAJORITY: {answer} of {of}. {served}"));
        }
        let asks = |role| self.fresh.iter().find(move |view| view.status.role == role);
        match asks(RoleName::Candidate).or_else(|| asks(RoleName::PreCandidate)) {
            Some(asks) if age_ms < 2 * asks.times.election_timeout_ms => {
                let votes = asks.consensus.as_ref().map_or(0, |consensus| consensus.votes.len());
                let (node, term) = (asks.status.node, asks.status.term);
                let sentence = format!(
                    "ELECTION: node {node} asks for votes in term {term} and has {votes} of the {majority} it needs."
                );
                (Style::Warn, sentence)
            }
            _ => (Style::Bad, format!("NO LEADER. {served}")),
        }
    }
}

/// "1, 3, 5".
pub fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// A span of time: "350 ms", "4.2 s", "12 s".
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..9_950 => format!("{}.{} s", (ms + 50) / 1_000, (ms + 50) % 1_000 / 100),
        _ => format!("{} s", (ms + 500) / 1_000),
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::comparison::tests::status;
    use super::*;
    use rakit::protocol::{MemberStatus, Room, ServerPicture, Times};
    use rakit::raft::{FollowerPicture, Picture as Consensus};

    /// The views of five nodes in term 2 under node 1, which nodes 1, 3 and 5 have elected.
    pub fn five() -> PageState {
        let view = |id: NodeId| {
            let mut status = status(id);
            status.voted_for = Some(1);
            let follower =
                |node| FollowerPicture { node, match_index: 9, acknowledged_ms: Some(20), contact_ms: 20 };
            let (votes, followers) = if id == 1 {
                (vec![1, 3, 5], (2..=5).map(follower).collect())
            } else {
                (Vec::new(), Vec::new())
            };
            NodeView {
                status,
                servers_hidden: 0,
                members: (1..=5).collect(),
                now_us: 0,
                age_ms: 30,
                stale_ms: None,
                times: Times {
                    heartbeat_ms: 100,
                    election_timeout_ms: 1_000,
                    report_interval_ms: 1_000,
                    server_timeout_ms: 5_000,
                },
                consensus: Some(Consensus {
                    votes,
                    election_in_ms: None,
                    followers,
                    log_from: 1,
                    log_terms: Vec::new(),
                }),
                servers: vec![ServerPicture {
                    decided_at: 4,
                    report_age_ms: 200,
                    chosen: 10 * id,
                    in_flight: [(id, 1)].into(),
                }],
                requests: Vec::new(),
                story: Vec::new(),
            }
        };
        let nodes = (1..=5)
            .map(|id| NodeOnPage { node: id, view: Some(view(id)), age_ms: 100, silent: None })
            .collect();
        let runs = |id| (format!("node-{id}"), ProcessState::Running);
        PageState { nodes, room: Some(Room { processes: (1..=5).map(runs).collect(), ..Room::default() }) }
    }

    /// These nodes die, and those that are left know of no leader for so long.
    pub fn without(dead: &[NodeId], leaderless_ms: Option<u64>) -> PageState {
        let mut state = five();
        for node in &mut state.nodes {
            if dead.contains(&node.node) {
                node.silent = Some("connection refused".to_string());
                let processes = &mut state.room.as_mut().expect("a room").processes;
                processes.insert(format!("node-{}", node.node), ProcessState::Dead);
            } else if let (Some(ms), Some(view)) = (leaderless_ms, &mut node.view) {
                (view.status.role, view.status.leader, view.age_ms) = (RoleName::Follower, None, ms);
            }
        }
        state
    }

    fn said(state: &PageState) -> String {
        Picture::new(state).headline().1
    }

    #[test]
    fn the_headline_says_who_leads_and_how_many_may_fail() {
        assert_eq!(said(&five()), "node 1 leads term 2, elected by 1, 3, 5 · 2 of 5 may still fail");
        assert_eq!(
            said(&without(&[2], None)),
            "node 1 leads term 2, elected by 1, 3, 5 · 1 of 5 may still fail"
        );
        let last = without(&[2, 3], None);
        assert_eq!(said(&last), "node 1 leads term 2, elected by 1, 3, 5 · no other node may fail");
        assert_eq!(Picture::new(&last).headline().0, Style::Warn);
        // A follower without memory has no vote.
        let mut joining = five();
        joining.nodes[1].view.as_mut().expect("a view").status.joining = true;
        assert!(said(&joining).ends_with("1 of 5 may still fail"));
        // Of two leaders the one of the newer term leads: the other has not heard of it yet.
        let mut two = five();
        let status = &mut two.nodes[3].view.as_mut().expect("a view").status;
        (status.role, status.term) = (RoleName::Leader, 3);
        assert!(said(&two).starts_with("node 4 leads term 3"), "{}", said(&two));
    }

    #[test]
    fn the_headline_says_that_there_is_no_majority_no_leader_or_nobody() {
        assert_eq!(
            said(&without(&[1, 2, 3], Some(12_000))),
            "NO MAJORITY: 2 of 5. Primes are served from a state 12 s old"
        );
        assert_eq!(said(&without(&[1], Some(12_000))), "NO LEADER. Primes are served from a state 12 s old");
        assert_eq!(said(&without(&[1, 2, 3, 4, 5], None)), "No node answers.");
        let mut election = without(&[1], Some(900));
        let view = election.nodes[3].view.as_mut().expect("a view");
        (view.status.role, view.status.term) = (RoleName::Candidate, 3);
        view.consensus.as_mut().expect("a picture").votes = vec![2, 4];
        assert_eq!(said(&election), "ELECTION: node 4 asks for votes in term 3 and has 2 of the 3 it needs.");
    }

    /// Of five members the first three vote; the others are learners.
    fn learners(mut state: PageState) -> PageState {
        for (node, view) in state.nodes.iter_mut().filter_map(|node| Some((node.node, node.view.as_mut()?))) {
            let member = |id: NodeId| MemberStatus {
                id,
                cluster: ([127, 0, 0, 1], 9_000).into(),
                public: ([127, 0, 0, 1], 8_000).into(),
                voter: id <= 3,
            };
            view.status.members = (1..=5).map(member).collect();
            // Node 5 goes by an older list, in which all vote.
            view.status.members_index = if node == 5 { 3 } else { 7 };
            if node == 5 {
                view.status.members.iter_mut().for_each(|member| member.voter = true);
            }
        }
        state
    }

    #[test]
    fn a_majority_is_one_of_those_that_vote() {
        assert!(said(&learners(five())).ends_with(" · 1 of 3 may still fail"), "{}", said(&learners(five())));
        let no_learner = learners(without(&[4, 5], None));
        assert!(said(&no_learner).ends_with(" · 1 of 3 may still fail"), "{}", said(&no_learner));
        let one_voter_less = learners(without(&[3], None));
        assert!(said(&one_voter_less).ends_with(" · no other node may fail"), "{}", said(&one_voter_less));
        // Two of three voters can elect a leader, also if no learner answers; one can't with any number of learners.
        assert_eq!(
            said(&learners(without(&[1, 4, 5], Some(12_000)))),
            "NO LEADER. Primes are served from a state 12 s old"
        );
        assert_eq!(
            said(&learners(without(&[1, 2], Some(12_000)))),
            "NO MAJORITY: 1 of 3. Primes are served from a state 12 s old"
        );
        // A leader that is to leave counts the others.
        let mut leaves = learners(five());
        for view in leaves.nodes.iter_mut().filter_map(|node| node.view.as_mut()) {
            view.status.members.retain(|member| member.id != 1);
            view.status.members_index += 1;
        }
        assert!(said(&leaves).ends_with(" · no other node may fail"), "{}", said(&leaves));
    }

    #[test]
    fn who_asks_only_some_nodes_is_told_what_those_say() {
        let mut some = five();
        some.nodes.drain(..3);
        assert_eq!(said(&some), "node 1 leads term 2");
        // Two of five were asked. That says nothing of a majority.
        let mut some = without(&[1], Some(12_000));
        some.nodes.drain(..3);
        assert_eq!(said(&some), "NO LEADER. Primes are served from a state 12 s old");
    }

    #[test]
    fn a_node_is_what_it_says_or_what_its_process_is() {
        let mut state = without(&[2], None);
        let room = state.room.as_mut().expect("a room");
        room.processes.insert("node-3".to_string(), ProcessState::Paused);
        state.nodes[3].age_ms = 60_000;
        // Started again by hand: it answers, and is no child of `rakit up`.
        state.room.as_mut().expect("a room").processes.insert("node-5".to_string(), ProcessState::Dead);
        let picture = Picture::new(&state);
        let shapes: Vec<Shape> = state.nodes.iter().map(|node| picture.shape(node)).collect();
        let role = Shape::Role;
        assert_eq!(
            shapes,
            [role(RoleName::Leader), Shape::Dead, Shape::Paused, Shape::Silent, role(RoleName::Follower)]
        );
    }

    #[test]
    fn a_span_is_short() {
        let spans = [0, 999, 1_000, 9_949, 9_950, 12_499].map(span);
        assert_eq!(spans, ["0 ms", "999 ms", "1.0 s", "9.9 s", "10 s", "12 s"]);
    }
}
