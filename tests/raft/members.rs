//! Members that change, rule by rule (thesis, chapter 4, and the correction of 2015; `src/raft/members.rs`). `properties.rs` has
//! the same under random schedules, `explore.rs` every interleaving of small cases.

use std::time::Duration;

use crate::harness::{Cluster, HEARTBEAT};
use rakit::raft::{ChangeRefused, Membership, NodeId, Resolution};

/// Ample for a change, or for an election.
const WHILE: Duration = Duration::from_secs(10);

/// So many founders, node 1 leads, and so many more machines, which are no members.
fn led(founders: u64, spares: u64) -> Cluster {
    let mut cluster = Cluster::founded(founders, |_| {});
    for spare in 1..=spares {
        cluster.add_machine(founders + spare);
    }
    cluster.elect(1);
    cluster.settle();
    cluster
}

fn voters(cluster: &Cluster, id: NodeId) -> Vec<NodeId> {
    cluster.raft(id).members().voters().collect()
}

fn refused(why: ChangeRefused) -> Option<Resolution> {
    Some(Resolution::Refused(why))
}

fn committed(cluster: &Cluster, change: u64) -> bool {
    matches!(cluster.properties.change_of(change), Some(Resolution::Committed { .. }))
}

#[test]
fn a_new_node_is_a_learner_first_and_votes_when_it_has_caught_up() {
    let mut cluster = led(3, 1);
    let change = cluster.add(1, 4);
    assert_eq!(cluster.raft(1).membership(), Membership::Voter);
    assert_eq!(voters(&cluster, 1), [1, 2, 3], "a learner does not vote");
    assert!(cluster.raft(1).members().contains(4), "the list counts as soon as it is in the log");
    assert_eq!(cluster.properties.change_of(change), None, "and it is not committed yet");
    let votes = |cluster: &Cluster| cluster.ids().iter().all(|id| voters(cluster, *id) == [1, 2, 3, 4]);
    assert!(cluster.run_until(WHILE, votes), "{}", cluster.describe());
    assert!(committed(&cluster, change));
    cluster.demand_progress();
    assert_eq!((cluster.raft(4).membership(), cluster.raft(4).is_joining()), (Membership::Voter, false));
}

#[test]
fn a_learner_counts_for_nothing() {
    let mut cluster = led(2, 1);
    // Node 2 is away: only node 1 and the learner have the entries.
    cluster.isolate(2);
    cluster.add(1, 3);
    cluster.settle();
    let proposal = cluster.propose_next(1);
    for _ in 0..3 {
        cluster.tick(1);
        cluster.settle();
    }
    assert!(cluster.raft(3).log().last_index() == cluster.raft(1).log().last_index());
    assert_eq!(cluster.properties.committed_index_of(proposal), None, "{}", cluster.describe());
    // Nor does its word keep the leader in office.
    assert!(cluster.run_until(WHILE, |cluster| !cluster.raft(1).is_leader()), "{}", cluster.describe());
}

#[test]
fn a_learner_that_lags_stays_a_learner() {
    let mut cluster = led(3, 1);
    cluster.crash(4, 0);
    let change = cluster.add(1, 4);
    cluster.run_for(WHILE);
    assert!(committed(&cluster, change));
    assert_eq!(voters(&cluster, 1), [1, 2, 3]);
    cluster.restart(4);
    assert!(cluster.run_until(WHILE, |cluster| voters(cluster, 1) == [1, 2, 3, 4]), "{}", cluster.describe());
}

#[test]
fn one_change_at_a_time() {
    let mut cluster = led(5, 0);
    cluster.remove(1, 5);
    let second = cluster.remove(1, 4);
    assert_eq!(cluster.properties.change_of(second), refused(ChangeRefused::UnderWay));
    cluster.settle();
    let third = cluster.remove(1, 4);
    cluster.run_for(HEARTBEAT);
    assert!(committed(&cluster, third), "{}", cluster.describe());
    assert_eq!(voters(&cluster, 1), [1, 2, 3]);
}

/// The bug of the thesis, as Ongaro described it in 2015: without this rule, a leader could begin a change while one of an
/// earlier leader is in use elsewhere.
#[test]
fn no_change_before_an_entry_of_the_own_term_is_committed() {
    let mut cluster = Cluster::founded(4, |_| {});
    cluster.isolate(4);
    cluster.elect(1);
    assert_eq!(cluster.raft(1).commit_index(), cluster.raft(1).log().last_index());
    let mut fresh = Cluster::founded(3, |_| {});
    fresh.elect(1);
    fresh.settle();
    // Node 2 leads, and its no-op reaches nobody.
    fresh.now += Duration::from_secs(2);
    fresh.tick(2);
    while !fresh.raft(2).is_leader() {
        fresh.deliver(0);
    }
    let change = fresh.remove(2, 3);
    assert_eq!(fresh.properties.change_of(change), refused(ChangeRefused::TermNotCommitted));
    fresh.settle();
    let change = fresh.remove(2, 3);
    fresh.settle();
    assert!(committed(&fresh, change), "{}", fresh.describe());
}

#[test]
fn what_cannot_be_changed_is_refused_with_the_reason() {
    let mut cluster = led(1, 1);
    let why = |cluster: &mut Cluster, change| cluster.properties.change_of(change);
    let change = cluster.add(1, 1);
    assert_eq!(why(&mut cluster, change), refused(ChangeRefused::AlreadyMember));
    let change = cluster.remove(1, 7);
    assert_eq!(why(&mut cluster, change), refused(ChangeRefused::NoMember));
    let change = cluster.remove(1, 1);
    assert_eq!(why(&mut cluster, change), refused(ChangeRefused::LastVoter));
    let change = cluster.add(2, 3);
    assert_eq!(why(&mut cluster, change), Some(Resolution::NotLeader { leader: None }));
    // Of five, two are away: without a third one, two of four would be left.
    let mut cluster = led(5, 0);
    for id in [4, 5] {
        cluster.crash(id, 0);
    }
    cluster.run_for(WHILE);
    let change = cluster.remove(1, 3);
    assert_eq!(why(&mut cluster, change), refused(ChangeRefused::TooFewLeft));
    let change = cluster.remove(1, 5);
    cluster.run_for(WHILE);
    assert!(committed(&cluster, change), "{}", cluster.describe());
}

#[test]
fn a_removed_follower_is_told_and_campaigns_no_more() {
    let mut cluster = led(3, 0);
    let change = cluster.remove(1, 3);
    cluster.settle();
    cluster.run_for(WHILE);
    assert!(committed(&cluster, change));
    assert_eq!(cluster.raft(3).membership(), Membership::Removed, "{}", cluster.describe());
    assert_eq!(cluster.term(3), cluster.term(1), "it raises no term");
    assert_eq!((cluster.leader(), cluster.raft(3).leader()), (Some(1), None));
    assert_eq!(cluster.raft(1).leaving(), [0; 0], "it is sent nothing more");
    // Also after a restart of its process.
    cluster.crash(3, 0);
    cluster.restart(3);
    cluster.run_for(WHILE);
    assert_eq!((cluster.leader(), cluster.term(3)), (Some(1), cluster.term(1)));
}

#[test]
fn a_node_that_was_removed_while_it_was_away_is_told_when_it_asks_for_votes() {
    let mut cluster = led(3, 0);
    cluster.isolate(3);
    cluster.remove(1, 3);
    // Longer than the leader tries to reach it.
    cluster.run_for(3 * WHILE);
    assert_eq!(cluster.raft(1).leaving(), [0; 0]);
    cluster.heal();
    let told = |cluster: &Cluster| cluster.raft(3).membership() == Membership::Removed;
    assert!(cluster.run_until(WHILE, told), "{}", cluster.describe());
    cluster.run_for(WHILE);
    assert_eq!((cluster.leader(), cluster.raft(1).leaving()), (Some(1), vec![]));
}

#[test]
fn a_leader_that_removes_itself_leads_until_the_commit_and_then_hands_over() {
    let mut cluster = led(3, 0);
    let term = cluster.term(1);
    cluster.isolate(3);
    let change = cluster.remove(1, 1);
    // Node 2 alone is no majority of {2, 3}, and node 1 does not count itself.
    cluster.settle();
    assert!(
        cluster.raft(1).is_leader() && cluster.properties.change_of(change).is_none(),
        "{}",
        cluster.describe()
    );
    cluster.heal();
    let gave_way = |cluster: &Cluster| cluster.leader().is_some_and(|leader| leader != 1);
    assert!(cluster.run_until(WHILE, gave_way), "{}", cluster.describe());
    assert!(committed(&cluster, change));
    assert_eq!(
        cluster.leader().map(|leader| cluster.term(leader)),
        Some(term + 1),
        "by a transfer, without a wait"
    );
    cluster.run_for(WHILE);
    assert_eq!(cluster.raft(1).membership(), Membership::Removed);
    cluster.demand_progress();
}

/// Thesis, Figure 4.6: of two nodes, the leader removes itself and crashes before the entry reaches the other one. Only the
/// removed node can win an election.
#[test]
fn a_node_that_is_being_removed_campaigns_as_long_as_that_is_not_committed() {
    let mut cluster = led(2, 0);
    cluster.cut.insert((1, 2));
    cluster.remove(1, 1);
    cluster.settle();
    cluster.crash(1, 0);
    cluster.heal();
    cluster.restart(1);
    assert_eq!(cluster.raft(1).membership(), Membership::Leaving);
    let done = |cluster: &Cluster| cluster.leader() == Some(2) && voters(cluster, 2) == [2];
    assert!(cluster.run_until(WHILE, done), "{}", cluster.describe());
    cluster.demand_progress();
}

#[test]
fn a_list_that_is_truncated_counts_no_more() {
    let mut cluster = led(3, 0);
    cluster.isolate(1);
    cluster.remove(1, 3);
    assert_eq!(voters(&cluster, 1), [1, 2]);
    let led = |cluster: &Cluster| cluster.raft(2).is_leader() || cluster.raft(3).is_leader();
    assert!(cluster.run_until(WHILE, led), "{}", cluster.describe());
    cluster.heal();
    cluster.demand_progress();
    assert_eq!(voters(&cluster, 1), [1, 2, 3], "node 1 went back");
}

#[test]
fn the_list_survives_a_restart_and_a_snapshot() {
    let mut cluster = Cluster::founded(3, |settings| settings.trailing_entries = 0);
    for id in [4, 5] {
        cluster.add_machine(id);
    }
    cluster.elect(1);
    cluster.settle();
    cluster.add(1, 4);
    assert!(cluster.run_until(WHILE, |cluster| voters(cluster, 1) == [1, 2, 3, 4]), "{}", cluster.describe());
    cluster.demand_progress();
    for id in 1..=4 {
        cluster.compact(id);
        cluster.crash(id, 0);
        cluster.restart(id);
        assert_eq!(voters(&cluster, id), [1, 2, 3, 4], "node {id} after its restart");
    }
    cluster.demand_progress();
    // Node 5 gets the snapshot, with the list in it.
    let leader = cluster.leader().expect("there is one");
    cluster.add(leader, 5);
    cluster.compact(leader);
    let joined = |cluster: &Cluster| voters(cluster, 5) == [1, 2, 3, 4, 5];
    assert!(cluster.run_until(WHILE, joined), "{}", cluster.describe());
    assert!(cluster.node(5).disk.snapshot_index() > 1);
    cluster.demand_progress();
}

/// The same id on another machine: it forgets nothing that anybody counts on, since it was no member in between.
#[test]
fn a_member_is_replaced_by_one_with_an_empty_directory() {
    let mut cluster = led(3, 0);
    cluster.crash(3, 0);
    cluster.remove(1, 3);
    cluster.settle();
    cluster.wipe(3);
    cluster.run_for(WHILE);
    assert!(cluster.raft(3).is_joining(), "nobody knows it, and it founds nothing: {}", cluster.describe());
    cluster.add(1, 3);
    assert!(cluster.run_until(WHILE, |cluster| voters(cluster, 3) == [1, 2, 3]), "{}", cluster.describe());
    cluster.demand_progress();
    assert_eq!(cluster.counting(), 3);
}

#[test]
fn a_node_that_the_founding_does_not_know_founds_nothing() {
    let mut cluster = Cluster::fresh(3, |_| {});
    for id in 1..=3 {
        cluster.crash(id, 0);
    }
    for id in [4, 5, 6] {
        cluster.add_machine(id);
    }
    cluster.run_for(WHILE);
    assert_eq!((cluster.counting(), cluster.leader()), (0, None));
    assert!(cluster.up().all(|(_, raft)| raft.is_joining() && raft.membership() == Membership::NotYet));
}

/// Node 4's vote is needed, and it does not know yet that it has one (thesis 4.2.2).
#[test]
fn a_learner_votes_for_a_candidate_whose_list_counts_it() {
    let mut cluster = led(3, 1);
    cluster.add(1, 4);
    let proposed = |cluster: &Cluster| voters(cluster, 1) == [1, 2, 3, 4];
    assert!(cluster.run_until(WHILE, proposed), "{}", cluster.describe());
    // The list in which node 4 votes reaches nodes 2 and 3, not node 4.
    cluster.in_flight.retain(|message| message.to != 4);
    cluster.cut.insert((1, 4));
    cluster.settle();
    assert_eq!(voters(&cluster, 4), [1, 2, 3], "{}", cluster.describe());
    cluster.crash(1, 0);
    let led = |cluster: &Cluster| cluster.leader().is_some_and(|leader| leader != 1);
    cluster.crash(3, 0);
    cluster.run_for(WHILE);
    assert_eq!(cluster.leader(), None, "two of four are no majority");
    cluster.restart(3);
    assert!(cluster.run_until(WHILE, led), "three of four are, node 4 among them: {}", cluster.describe());
}

#[test]
fn a_dead_follower_changes_nothing_by_itself() {
    let mut cluster = led(3, 0);
    cluster.crash(3, 0);
    cluster.run_for(10 * WHILE);
    assert_eq!(voters(&cluster, 1), [1, 2, 3]);
    assert_eq!(cluster.raft(1).majority(), 2);
}

/// Node 3 was a member before, so nothing but its log keeps it from voting.
#[test]
fn a_learner_does_not_vote_before_it_has_what_the_leader_had() {
    let mut cluster = Cluster::founded(3, |settings| settings.append_entries_max = 1);
    cluster.elect(1);
    cluster.settle();
    cluster.remove(1, 3);
    cluster.settle();
    cluster.crash(3, 0);
    for _ in 0..50 {
        cluster.propose_next(1);
    }
    cluster.settle();
    let had = cluster.raft(1).log().last_index();
    cluster.restart(3);
    cluster.add(1, 3);
    assert!(cluster.run_until(WHILE, |cluster| voters(cluster, 1) == [1, 2, 3]), "{}", cluster.describe());
    let (matched, _) = cluster.raft(1).progress(3).expect("a member");
    assert!(matched >= had, "it has {matched} of {had} entries");
}
