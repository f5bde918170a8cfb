//! One test for each rule that the core takes from Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014) beyond the
//! paper: leader stickiness, transfer of leadership, CheckQuorum. (PreVote, 9.6, shows in `paper.rs`, where each election
//! begins with it, and in the transcripts `pre_vote_*`.)

use std::time::Duration;

use crate::harness::lone::{Lone, vote};
use crate::harness::{Cluster, ELECTION_TIMEOUT, HEARTBEAT, Payload};
use rakit::raft::{Event, RequestVote, RoleName, RpcReply, RpcRequest, TimeoutNow};

/// Section 6 / thesis 4.2.3: "servers disregard RequestVote RPCs when they believe a current leader exists", to the microsecond;
/// but not one that a leader itself asked for (thesis 3.10). That is a voter: node 9 is none, and is heard (4.1), but has been
/// asked by nobody.
#[test]
fn thesis_4_2_3_votes_are_refused_while_the_leader_was_heard_within_the_minimum_timeout() {
    for (elapsed, candidate, transfer, granted) in [
        (0, 3, false, false),
        (499_999, 3, false, false),
        (500_000, 3, false, true),
        (0, 3, true, true),
        (499_999, 9, true, false),
        (500_000, 9, false, true),
    ] {
        let mut lone = Lone::new(3, 1, &[]);
        lone.append(2, 1, (0, 0), &[], 0);
        lone.now += Duration::from_micros(elapsed);
        let arguments = RequestVote { leadership_transfer: transfer, ..vote(candidate, 2, (0, 0)) };
        let RpcReply::RequestVote(reply) = lone.request(candidate, RpcRequest::RequestVote(arguments)) else {
            panic!("another kind of reply")
        };
        assert_eq!(
            (reply.vote_granted, lone.raft.hard_state().term == 2),
            (granted, granted),
            "{elapsed} µs, node {candidate}"
        );
    }
}

/// Thesis 3.10: TimeoutNow is obeyed if it comes from the leader that the node follows, in the current term.
#[test]
fn thesis_3_10_timeout_now_is_obeyed_from_the_own_leader_alone() {
    for (from, leader_id, term, obeyed) in
        [(2, 2, 1, true), (3, 3, 1, false), (3, 2, 1, false), (2, 2, 0, false), (2, 2, 2, false)]
    {
        let mut lone = Lone::new(3, 1, &[]);
        lone.append(2, 1, (0, 0), &[], 0);
        let RpcReply::TimeoutNow(reply) =
            lone.request(from, RpcRequest::TimeoutNow(TimeoutNow { term, leader_id }))
        else {
            panic!("another kind of reply")
        };
        assert_eq!(reply.accepted, obeyed);
        assert_eq!(lone.raft.role_name() == RoleName::Candidate, obeyed);
    }
}

/// Thesis 3.10: without a wish, leadership goes to the follower that is furthest along, of those that are alive.
#[test]
fn thesis_3_10_leadership_goes_to_the_furthest_of_the_living() {
    let mut cluster = Cluster::new(4);
    cluster.elect(1);
    cluster.run_for(Duration::from_millis(250));
    // Node 4 is behind, though it was heard last; node 3 has all, and dies.
    cluster.cut.insert((1, 4));
    cluster.propose_next(1);
    cluster.settle();
    cluster.crash(3, 0);
    cluster.run_for(ELECTION_TIMEOUT.0 - HEARTBEAT);
    cluster.heal();
    cluster.node_mut(4).disk_held = true; // It listens again, but has not written what it lacks.
    cluster.run_for(2 * HEARTBEAT);
    cluster.step(1, Event::Transfer { to: None });
    let told = |message: &crate::harness::Message| match &message.payload {
        Payload::Request { request: RpcRequest::TimeoutNow(_), .. } => Some(message.to),
        _ => None,
    };
    let told: Vec<u64> = cluster.in_flight.iter().filter_map(told).collect();
    assert_eq!(told, [2], "{}", cluster.describe());
}

/// Thesis 6.2 (CheckQuorum): a leader with a majority stays; one with less steps down within the upper timeout of the last
/// message that a majority answered.
#[test]
fn thesis_6_2_a_leader_without_a_majority_steps_down_in_time() {
    for (count, dead, stays) in
        [(3, 1, true), (3, 2, false), (4, 1, true), (4, 2, false), (5, 2, true), (5, 3, false)]
    {
        let mut cluster = Cluster::new(count);
        cluster.elect(1);
        cluster.run_for(Duration::from_millis(350));
        for id in count - dead + 1..=count {
            cluster.crash(id, 0);
        }
        cluster.run_for(ELECTION_TIMEOUT.1 + HEARTBEAT);
        assert_eq!(cluster.raft(1).is_leader(), stays, "{dead} of {count} are dead");
    }
}
/// After a hint that the leader died, a few rounds follow each other quickly. A word from the living leader ends that: the next
/// timeout, and the rounds after it, are calm again.
#[test]
fn a_wrong_hint_of_death_leaves_no_haste_behind() {
    let mut lone = Lone::new(3, 1, &[]);
    lone.append(2, 1, (0, 0), &[], 0);
    lone.step(Event::LeaderGone { leader: 2 });
    assert!(lone.raft.deadline() < lone.now + HEARTBEAT, "a hint is acted upon at once");
    lone.append(2, 1, (0, 0), &[], 0);
    for _ in 0..3 {
        assert!(lone.raft.deadline() >= lone.now + ELECTION_TIMEOUT.0);
        lone.campaign(&[]);
    }
    assert_eq!((lone.raft.role_name(), lone.raft.leader()), (RoleName::PreCandidate, None));
}
