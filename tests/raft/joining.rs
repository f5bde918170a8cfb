//! Nodes without memory: how a cluster begins, and how a node whose disk was emptied comes back, rule by rule
//! (`src/raft/joining.rs`). `explore.rs` looks for what these cases forgot.

use std::time::Duration;

use crate::harness::{Cluster, Message, Payload, command};
use rakit::raft::{Event, FoundingReply, HardState, NodeId, RpcReply, RpcRequest, Snapshot, Term};

/// Ample for a few elections.
const WHILE: Duration = Duration::from_secs(10);

fn is_settled_and_counts(cluster: &Cluster) -> bool {
    cluster.is_settled() && cluster.counting() == cluster.nodes.len()
}

/// Delivers what is under way and what follows from it, as long as `wanted`. The rest stays under way.
fn settle_if(cluster: &mut Cluster, wanted: impl Fn(&Message) -> bool) {
    for _ in 0..10_000 {
        let Some(position) = cluster.in_flight.iter().position(&wanted) else { return };
        cluster.deliver(position);
    }
    panic!("the messages never end");
}

fn among(nodes: &[NodeId]) -> impl Fn(&Message) -> bool {
    move |message| nodes.contains(&message.from) && nodes.contains(&message.to)
}

/// A cluster of so many whose node 1 leads term 2; all of them count.
fn led(count: u64) -> Cluster {
    let mut cluster = Cluster::founded(count, |_| {});
    cluster.elect(1);
    cluster.propose_next(1);
    cluster.settle();
    assert_eq!(cluster.term(1), 2, "{}", cluster.describe());
    cluster
}

// ------------------------------------------------------------------------------------------------- the founding

#[test]
fn fresh_nodes_found_a_cluster_by_themselves() {
    for count in 1..=5 {
        let mut cluster = Cluster::fresh(count, |_| {});
        assert_eq!(cluster.counting(), 0);
        let founded = cluster.run_until(Duration::from_secs(1), is_settled_and_counts);
        assert!(founded, "{count} nodes: {}", cluster.describe());
        cluster.demand_progress();
    }
}

#[test]
fn a_fresh_majority_founds_it_and_the_rest_is_admitted_when_it_comes() {
    let mut cluster = Cluster::fresh(5, |_| {});
    cluster.crash(4, 0);
    cluster.crash(5, 0);
    let led = cluster.run_until(WHILE, |cluster| cluster.leader().is_some());
    assert!(led && cluster.counting() == 3, "{}", cluster.describe());
    cluster.restart(4);
    cluster.restart(5);
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

#[test]
fn fewer_than_a_majority_found_nothing() {
    let mut cluster = Cluster::fresh(4, |_| {});
    cluster.crash(3, 0);
    cluster.crash(4, 0);
    cluster.run_for(WHILE);
    assert_eq!(cluster.counting(), 0, "{}", cluster.describe());
    cluster.restart(3);
    assert!(cluster.run_until(WHILE, |cluster| cluster.leader().is_some()), "{}", cluster.describe());
}

/// Node 3 has lived, but whatever it did was on a majority with one of the two that are empty now.
#[test]
fn nobody_founds_a_cluster_beside_one_that_has_lived() {
    for (voted_for, terms) in [(None, 2), (Some(3), 2), (Some(3), 7)] {
        let mut cluster = Cluster::fresh(3, |_| {});
        let entries = vec![cluster.founding().entry()];
        cluster.set_node(3, HardState { term: terms, voted_for, joining: false }, entries, 0);
        cluster.run_for(WHILE);
        assert_eq!((cluster.counting(), cluster.leader()), (1, None), "{}", cluster.describe());
    }
}

/// What a snapshot or an entry says of the past counts as well as a term.
#[test]
fn who_has_entries_or_a_snapshot_has_lived() {
    let mut cluster = led(3);
    cluster.compact(1);
    for id in [1, 2] {
        let token = 1 << 32 | 77;
        let question = RpcRequest::Founding(rakit::raft::FoundingQuestion { incarnation: 0 });
        cluster.step(id, Event::Request { from: 3, token, request: question });
        let lived = |message: &Message| {
            matches!(&message.payload, Payload::Reply { reply: RpcReply::Founding(FoundingReply::Lived), .. })
        };
        assert!(cluster.in_flight.iter().any(|message| message.from == id && lived(message)));
    }
}

#[test]
fn who_names_other_members_stops_the_founding() {
    let mut cluster = Cluster::fresh(3, |_| {});
    cluster.crash(3, 0);
    cluster.tick(1);
    let refuse = |cluster: &mut Cluster| {
        // Node 3 is there after all, and refuses.
        let asked = cluster.in_flight.iter().position(|message| message.to == 3).expect("node 1 asks all");
        let Payload::Request { rpc, .. } = cluster.in_flight.remove(asked).payload else {
            panic!("a question")
        };
        cluster.step(1, Event::Refused { from: 3, rpc });
    };
    refuse(&mut cluster);
    cluster.settle();
    assert!(cluster.raft(1).is_joining(), "{}", cluster.describe());
    // In the next round it is not reached any more.
    cluster.tick(1);
    cluster.settle();
    assert!(!cluster.raft(1).is_joining(), "{}", cluster.describe());
}

#[test]
fn an_answer_to_an_earlier_round_means_nothing() {
    let mut cluster = Cluster::fresh(3, |_| {});
    cluster.isolate(3);
    cluster.tick(1);
    let late = cluster.in_flight.clone();
    cluster.in_flight.clear();
    cluster.tick(1); // The round is over: nobody was reached.
    cluster.tick(1); // The next one begins.
    cluster.in_flight = late;
    cluster.settle();
    assert!(cluster.raft(1).is_joining(), "{}", cluster.describe());
}

/// Nodes 3 and 4 lead and have lived, and nobody reaches them. Node 2 counts, and has done nothing so far; node 5 is new. Node 1
/// has acknowledged an entry with 3 and 4, and loses its disk: it, 2 and 5 are a majority that remembers nothing.
#[test]
fn a_node_that_counts_is_not_taken_for_new() {
    let mut cluster = Cluster::founded(5, |_| {});
    cluster.wipe(5);
    cluster.isolate(2);
    cluster.isolate(5);
    cluster.elect(3);
    let report = cluster.propose(3, command("the report"));
    cluster.settle();
    assert!(cluster.properties.committed_index_of(report).is_some());
    cluster.wipe(1);
    cluster.heal();
    cluster.isolate(3);
    cluster.isolate(4);
    cluster.run_for(WHILE);
    assert!(cluster.raft(1).is_joining() && cluster.raft(5).is_joining(), "{}", cluster.describe());
    cluster.heal();
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

/// A founder loses its disk before anybody has voted, and what is left of the founders is no majority. Once all are there, and
/// nobody has anything to forget, they found the cluster all the same.
#[test]
fn a_founding_that_an_emptied_disk_interrupts_goes_on_when_all_are_there() {
    let mut cluster = Cluster::fresh(4, |_| {});
    cluster.isolate(4);
    for _ in 0..3 {
        cluster.tick(1);
        settle_if(&mut cluster, |message| message.from == 1 || message.to == 1);
    }
    assert!(!cluster.raft(1).is_joining() && cluster.counting() == 1, "{}", cluster.describe());
    cluster.wipe(2);
    cluster.wipe(3);
    cluster.run_for(WHILE);
    assert_eq!(cluster.counting(), 1, "{}", cluster.describe());
    cluster.heal();
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

/// In each of two rounds a majority is new, but perhaps never at the same time: node 2 lost its disk between its two answers.
#[test]
fn the_second_round_must_find_the_same_nodes() {
    let mut cluster = Cluster::fresh(3, |_| {});
    cluster.crash(3, 0);
    cluster.tick(1);
    settle_if(&mut cluster, |message| message.to == 3);
    let question = |message: &Message| message.to == 2;
    let answer = |message: &Message| message.to == 1;
    for _ in 0..5 {
        settle_if(&mut cluster, question);
        cluster.wipe(2);
        settle_if(&mut cluster, answer);
        settle_if(&mut cluster, |message| message.to == 3);
        assert!(cluster.raft(1).is_joining(), "{}", cluster.describe());
    }
    for _ in 0..2 {
        settle_if(&mut cluster, question);
        settle_if(&mut cluster, answer);
        settle_if(&mut cluster, |message| message.to == 3);
    }
    assert!(!cluster.raft(1).is_joining(), "{}", cluster.describe());
}

#[test]
fn a_founder_that_crashes_before_its_mark_is_cleared_is_joining_again() {
    let mut cluster = Cluster::fresh(3, |_| {});
    cluster.node_mut(1).disk_held = true;
    cluster.tick(1);
    cluster.settle();
    assert!(!cluster.raft(1).is_joining() && cluster.node(1).disk.hard_state.joining);
    // Before the disk is done, it says nothing to anybody.
    cluster.tick(2);
    cluster.tick(2);
    cluster.settle();
    cluster.crash(1, 0);
    cluster.node_mut(1).disk_held = false;
    cluster.restart(1);
    assert!(cluster.raft(1).is_joining());
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

// ------------------------------------------------------------------------------------- a disk that was emptied

/// A report is acknowledged by nodes 1 and 2. Node 2 loses its disk, node 1 dies, node 3 comes back: nobody may lead.
#[test]
fn a_node_without_memory_elects_nobody() {
    let mut cluster = led(3);
    cluster.crash(3, 0);
    let report = cluster.propose(1, command("the report"));
    cluster.settle();
    assert!(cluster.properties.committed_index_of(report).is_some());
    cluster.crash(1, 0);
    cluster.wipe(2);
    cluster.restart(3);
    cluster.run_for(WHILE);
    assert_eq!(cluster.leader(), None, "{}", cluster.describe());
    assert!(cluster.raft(2).is_joining() && cluster.term(2) == 1);
    cluster.restart(1);
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
    cluster.demand_progress();
}

#[test]
fn it_does_not_campaign_whatever_it_is_told() {
    let mut cluster = led(3);
    cluster.cut.extend([(2, 1)]); // The leader hears nothing of it, so it does not admit it.
    cluster.wipe(2);
    cluster.run_until(WHILE, |cluster| cluster.raft(2).leader() == Some(1));
    let term = cluster.term(1);
    cluster.step(2, Event::LeaderGone { leader: 1 });
    cluster.tick(2);
    cluster.step(
        2,
        Event::Request {
            from: 1,
            token: 1 << 32 | 77,
            request: RpcRequest::TimeoutNow(rakit::raft::TimeoutNow { term, leader_id: 1 }),
        },
    );
    cluster.tick(2);
    assert_eq!((cluster.raft(2).role_name(), cluster.term(2)), (rakit::raft::RoleName::Follower, term));
}

/// The leader fills the node, and does not count it: with the node alone, nothing is committed.
#[test]
fn its_acknowledgements_do_not_count() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.wipe(2);
    let report = cluster.propose(1, command("the report"));
    // As long as the leader leads (CheckQuorum counts the others only).
    let filled = |cluster: &Cluster| {
        cluster.leader() == Some(1)
            && cluster.raft(2).log().last_index() == cluster.raft(1).log().last_index()
            && cluster.raft(1).known_life(2).is_some_and(|life| life.joining)
    };
    assert!(cluster.run_until(WHILE, filled), "{}", cluster.describe());
    assert!(cluster.run_until(WHILE, |cluster| cluster.leader().is_none()), "{}", cluster.describe());
    assert_eq!(cluster.properties.committed_index_of(report), None);
    assert!(cluster.raft(2).is_joining());
    cluster.heal();
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

#[test]
fn it_is_admitted_by_an_entry_of_its_leader_and_has_voted_for_it_then() {
    let mut cluster = led(3);
    let before = cluster.raft(1).log().last_index();
    cluster.wipe(2);
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
    let leader = cluster.leader();
    assert_eq!(cluster.raft(2).hard_state(), HardState { term: 2, voted_for: leader, joining: false });
    assert!(cluster.raft(2).log().last_index() > before, "an entry that is newer than its return");
    assert_eq!(cluster.node(2).disk.hard_state, cluster.raft(2).hard_state(), "its disk knows it, too");
}

#[test]
fn it_is_admitted_after_a_snapshot_as_well() {
    let mut cluster = Cluster::founded(3, |settings| {
        settings.trailing_entries = 0;
        settings.snapshot_chunk_bytes = 24;
    });
    cluster.elect(1);
    for _ in 0..5 {
        cluster.propose_next(1);
        cluster.settle();
    }
    cluster.compact(1);
    cluster.wipe(2);
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
    assert!(
        cluster.node(2).disk.snapshot.as_deref().map(|Snapshot { last_index, .. }| *last_index) > Some(1)
    );
}

#[test]
fn leadership_is_not_handed_to_it() {
    let mut cluster = led(3);
    cluster.cut.extend([(1, 3), (3, 1)]); // So the barrier is not committed.
    cluster.wipe(2);
    cluster.run_until(WHILE, |cluster| cluster.raft(1).known_life(2).is_some_and(|life| life.joining));
    cluster.transcript = Some(Vec::new());
    cluster.step(1, Event::Transfer { to: Some(2) });
    let said = cluster.transcript.take().unwrap_or_default().join(" ");
    assert!(said.contains("node 1 hands nothing over"), "{said}");
}

// --------------------------------------------------------------------------- messages of an earlier life

/// Five nodes. Node 1 leads term 2. Nodes 2 and 4 vote for node 5 in term 3, and both votes are still under way.
/// Then node 2 loses its disk, and node 1, which knows nothing of term 3, hears of it.
fn forgotten_vote() -> Cluster {
    let mut cluster = led(5);
    cluster.now += crate::harness::ELECTION_TIMEOUT.1; // Nobody's patience with node 1 keeps it from voting.
    cluster.tick(5);
    settle_if(&mut cluster, |message| match &message.payload {
        Payload::Request { request: RpcRequest::PreVote(_), .. } => true,
        Payload::Reply { reply: RpcReply::PreVote(_), .. } => true,
        Payload::Request { request: RpcRequest::RequestVote(_), .. } => [2, 4].contains(&message.to),
        _ => false,
    });
    assert_eq!((cluster.term(5), cluster.term(4), cluster.term(2)), (3, 3, 3), "{}", cluster.describe());
    cluster.in_flight.retain(|message| message.to == 5);
    cluster.wipe(2);
    cluster
}

fn term_of(cluster: &Cluster, leader: NodeId) -> Option<Term> {
    cluster.raft(leader).is_leader().then(|| cluster.term(leader))
}

/// A majority with the barrier would have told the leader of term 3. So the leader of term 2 cannot admit the node, and nothing
/// that it says with the node's help is ever acknowledged.
#[test]
fn a_stale_leader_cannot_admit_a_node_that_has_voted_for_a_later_term() {
    let mut cluster = forgotten_vote();
    for _ in 0..4 {
        cluster.tick(1);
        settle_if(&mut cluster, among(&[1, 2, 3]));
        if term_of(&cluster, 1) == Some(2) {
            cluster.propose_next(1);
            settle_if(&mut cluster, among(&[1, 2, 3]));
        }
    }
    assert!(cluster.raft(2).is_joining(), "{}", cluster.describe());
    // The old votes arrive: node 5 leads, and has everything that was acknowledged (the harness asserts it).
    settle_if(&mut cluster, |message| message.to == 5 && [2, 4].contains(&message.from));
    assert_eq!(term_of(&cluster, 5), Some(3), "{}", cluster.describe());
    cluster.demand_progress();
    assert_eq!(cluster.counting(), 5);
}

/// With node 4 on its side, node 1 can admit node 2: but then node 5 has lost.
#[test]
fn a_vote_for_a_later_term_is_worth_nothing_once_the_node_is_admitted() {
    let mut cluster = led(5);
    cluster.now += crate::harness::ELECTION_TIMEOUT.1;
    cluster.tick(5);
    settle_if(&mut cluster, |message| match &message.payload {
        Payload::Request { request: RpcRequest::PreVote(_), .. } => true,
        Payload::Reply { reply: RpcReply::PreVote(_), .. } => true,
        Payload::Request { request: RpcRequest::RequestVote(_), .. } => message.to == 2,
        _ => false,
    });
    cluster.wipe(2);
    let ours = |message: &Message| among(&[1, 2, 3, 4])(message);
    for _ in 0..4 {
        cluster.tick(1);
        settle_if(&mut cluster, ours);
    }
    assert!(!cluster.raft(2).is_joining(), "{}", cluster.describe());
    cluster.now += crate::harness::ELECTION_TIMEOUT.1;
    settle_if(&mut cluster, |message| message.to == 5 || message.from == 5);
    assert_eq!(term_of(&cluster, 5), None, "{}", cluster.describe());
    cluster.demand_progress();
}

/// An admission that was meant for an earlier life arrives in a later one.
#[test]
fn an_admission_is_for_one_life() {
    let mut cluster = led(3);
    cluster.wipe(2);
    let is_admission = |message: &Message| matches!(&message.payload, Payload::Request { request: RpcRequest::AppendEntries(append), .. } if append.admit.is_some());
    assert!(cluster.run_until(WHILE, |cluster| cluster.in_flight.iter().any(is_admission)));
    let admission: Vec<Message> =
        cluster.in_flight.iter().filter(|message| is_admission(message)).cloned().collect();
    cluster.in_flight.clear();
    // All of it arrives in the next life, which has the entries already; its own barrier is not committed.
    cluster.wipe(2);
    cluster.cut.extend([(1, 3), (3, 1)]);
    let filled = |cluster: &Cluster| {
        let life = cluster.raft(1).known_life(2);
        life.is_some_and(|life| life.incarnation == 2)
            && cluster.raft(2).log().last_index() == cluster.raft(1).log().last_index()
    };
    assert!(cluster.run_until(Duration::from_millis(900), filled), "{}", cluster.describe());
    assert!(cluster.raft(2).is_joining() && cluster.raft(2).leader() == Some(1), "{}", cluster.describe());
    cluster.in_flight = admission;
    settle_if(&mut cluster, |message| message.to == 2);
    assert!(cluster.raft(2).is_joining(), "{}", cluster.describe());
    cluster.heal();
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

/// The leader takes what an earlier life acknowledged for what it is: of that life.
#[test]
fn acknowledgements_of_another_life_are_not_carried_over() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.propose_next(1);
    let is_reply = |message: &Message| message.from == 2 && matches!(message.payload, Payload::Reply { .. });
    settle_if(&mut cluster, |message| message.to == 2 && !is_reply(message));
    let late: Vec<Message> = cluster.in_flight.iter().filter(|message| is_reply(message)).cloned().collect();
    assert!(!late.is_empty(), "node 2 acknowledged the entry");
    cluster.in_flight.clear();
    cluster.wipe(2);
    cluster.run_until(WHILE, |cluster| cluster.raft(1).known_life(2).is_some_and(|life| life.joining));
    cluster.run_for(Duration::from_millis(150));
    let report = cluster.propose(1, command("the report"));
    settle_if(&mut cluster, among(&[1, 2]));
    // The old acknowledgement arrives after those of the new life.
    cluster.in_flight = late;
    settle_if(&mut cluster, |message| message.to == 1);
    assert_eq!(cluster.properties.committed_index_of(report), None, "{}", cluster.describe());
    cluster.heal();
    assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
}

// --------------------------------------------------------------------------------------------- one after another

/// Each node loses its disk once, while reports are acknowledged: nothing is lost.
#[test]
fn all_disks_may_be_emptied_one_after_another() {
    for count in [3, 5] {
        let mut cluster = led(count);
        let mut reports = Vec::new();
        for id in (1..=count).rev() {
            if let Some(leader) = cluster.leader() {
                reports.push(cluster.propose_next(leader));
            }
            cluster.run_until(WHILE, |cluster| {
                cluster.properties.committed_index_of(*reports.last().expect("one")).is_some()
            });
            cluster.wipe(id);
            assert!(cluster.run_until(WHILE, is_settled_and_counts), "{}", cluster.describe());
        }
        assert!(reports.iter().all(|report| cluster.properties.committed_index_of(*report).is_some()));
        cluster.demand_progress();
    }
}
