//! What a cluster may cost, and what it must survive: the topics of the Raft labs of MIT's course 6.5840, with their limits, on
//! the harness's virtual clock. Written from the labs' descriptions.

use std::time::Duration;

use crate::harness::lone::{Lone, appends};
use crate::harness::{Cluster, Counts, HEARTBEAT, command};
use rakit::raft::{AppendReply, AppendResult, Event, Life, Random, RpcReply};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster with a leader that has committed its no-op everywhere.
fn settled(count: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(count);
    assert!(cluster.run_until(20 * SECOND, Cluster::is_settled));
    let leader = cluster.leader().expect("a settled cluster has one");
    (cluster, leader)
}

fn commit(cluster: &mut Cluster, leader: u64, commands: u64) {
    for _ in 0..commands {
        let proposal = cluster.propose_next(leader);
        let committed = |cluster: &Cluster| cluster.properties.committed_index_of(proposal).is_some();
        assert!(cluster.run_until(5 * SECOND, committed), "a command was not committed in five seconds");
    }
}

/// Lab: "too many or few RPCs to elect initial leader": 1 to 30.
#[test]
fn the_initial_election_takes_1_to_30_requests() {
    for seed in 0..200 {
        let mut cluster = Cluster::new(3).seeded(seed);
        assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some()), "seed {seed}");
        let requests = cluster.counts.requests;
        assert!((1..=30).contains(&requests), "seed {seed}: {requests} requests");
    }
}

/// Lab: ten entries, at most (10 + 1 + 3) * 3 = 42 requests with three nodes; one after the other, and all at once.
#[test]
fn ten_entries_take_at_most_42_requests() {
    let (mut cluster, leader) = settled(3);
    cluster.counts = Counts::default();
    commit(&mut cluster, leader, 10);
    assert!(cluster.counts.requests <= 42, "one after the other: {:?}", cluster.counts);

    cluster.counts = Counts::default();
    for _ in 0..10 {
        cluster.propose_next(leader);
    }
    assert!(cluster.run_until(SECOND, Cluster::is_settled));
    assert!(cluster.counts.requests <= 42, "all at once: {:?}", cluster.counts);
}

/// Lab: an idle second, at most 3 * 20 = 60 requests with three nodes. Here it is 20: two followers, ten heartbeats.
#[test]
fn an_idle_second_takes_at_most_60_requests() {
    let (mut cluster, _) = settled(3);
    cluster.counts = Counts::default();
    cluster.run_for(SECOND);
    let requests = cluster.counts.requests;
    assert!(
        (18..=22).contains(&requests),
        "{requests}: two followers are to hear from the leader each 100 ms"
    );
}

/// Lab: "each command is sent to each peer just once": the bytes that are sent are those of the commands, times the peers.
#[test]
fn each_entry_is_sent_to_each_peer_just_once() {
    let (mut cluster, leader) = settled(3);
    cluster.counts = Counts::default();
    let mut bytes = 0;
    for round in 0..10 {
        let text = round.to_string().repeat(5000);
        bytes += text.len() as u64 + 2;
        cluster.propose(leader, command(&text));
        cluster.run_for(Duration::from_millis(round)); // Sometimes while the last one is still under way.
    }
    assert!(cluster.run_until(SECOND, Cluster::is_settled));
    assert_eq!((cluster.counts.entries, cluster.counts.bytes), (20, 2 * bytes));
}

/// Lab: "leader backs up quickly over incorrect follower logs": groups that diverge by 50 entries, again and again. Bounded
/// here: the requests until all logs are equal.
#[test]
fn repeated_divergences_of_50_entries_are_mended_in_few_requests() {
    let mut cluster = Cluster::new(5);
    assert!(cluster.run_until(20 * SECOND, Cluster::is_settled));
    let mut dice = Random::new(5);
    for round in 0..20 {
        // A leader with one companion: its entries will never commit.
        let leader = cluster.leader().expect("settled");
        let companion = cluster.ids().into_iter().find(|id| *id != leader).expect("five nodes");
        let minority = [leader, companion];
        for id in cluster.ids() {
            for inside in minority.into_iter().filter(|_| !minority.contains(&id)) {
                cluster.cut.extend([(inside, id), (id, inside)]);
            }
        }
        for _ in 0..50 {
            cluster.propose_next(leader);
        }
        // The majority elects another, who commits 50 of its own, in some batches.
        let elected = |cluster: &Cluster| cluster.leader().is_some_and(|other| !minority.contains(&other));
        assert!(cluster.run_until(20 * SECOND, elected), "round {round}");
        let other = cluster.leader().expect("elected");
        for _ in 0..50 {
            cluster.propose_next(other);
            cluster.run_for(Duration::from_millis(dice.below(3)));
        }
        cluster.run_for(SECOND);
        cluster.heal();
        cluster.counts = Counts::default();
        let healed_at = cluster.now;
        assert!(cluster.run_until(5 * SECOND, Cluster::is_settled), "round {round}");
        let beats = (cluster.now - healed_at).as_millis() as u64 / HEARTBEAT.as_millis() as u64 + 1;
        let repairs = cluster.counts.requests.saturating_sub(4 * beats);
        // Two followers to mend; for each: the append that is refused, a probe for each term they disagree in, the entries.
        assert!(repairs <= 16, "round {round}: {repairs} requests beside the heartbeats");
    }
}

/// Lab: "Figure 8 (unreliable)": 1,000 rounds in which leaders come and go, messages are lost, late and out of order. At the
/// end, all is mended, and the cluster must agree.
#[test]
fn a_thousand_rounds_of_figure_8_in_an_unreliable_network() {
    let mut cluster = Cluster::new(5).seeded(8);
    cluster.network.latency = (Duration::from_millis(1), Duration::from_millis(150));
    cluster.network.loss_per_mille = 100;
    let mut dice = Random::new(88);
    let mut down = Vec::new();
    for _ in 0..1000 {
        for id in cluster.ids() {
            cluster.propose_next(id);
        }
        let short = dice.below(10) > 0;
        cluster.run_for(Duration::from_millis(dice.below(if short { 13 } else { 500 }) + 1));
        if let Some(leader) = cluster.leader().filter(|_| dice.below(1000) < 500) {
            cluster.crash(leader, dice.below(4) as usize);
            down.push(leader);
        }
        if down.len() >= 3 || (dice.below(10) == 0 && !down.is_empty()) {
            let position = dice.below(down.len() as u64) as usize;
            cluster.restart(down.swap_remove(position));
        }
    }
    assert!(cluster.properties.leaders() > 15, "only {} leaders", cluster.properties.leaders());
    // Half of all leaders die within a few milliseconds of being elected: few entries make it, but some must.
    let committed = cluster.properties.committed_index();
    assert!(committed > 10, "only {committed} entries were committed");
    cluster.demand_progress();
}

/// Lab: "churn": three clients propose without pause, nodes crash, are cut off and come back.
#[test]
fn churn_loses_nothing_that_was_acknowledged() {
    for unreliable in [false, true] {
        let mut cluster = Cluster::new(5).seeded(77);
        if unreliable {
            cluster.network.latency = (Duration::from_millis(1), Duration::from_millis(30));
            cluster.network.loss_per_mille = 50;
        }
        let mut dice = Random::new(7);
        let mut proposals = Vec::new();
        for _ in 0..200 {
            for _ in 0..3 {
                if let Some(leader) = cluster.leader() {
                    proposals.push(cluster.propose_next(leader));
                }
                cluster.run_for(Duration::from_millis(20));
            }
            let victim = dice.below(5) + 1;
            match dice.below(10) {
                0 => cluster.isolate(victim),
                1 => cluster.heal(),
                2 => cluster.crash(victim, 0),
                3..=5 => cluster.ids().into_iter().for_each(|id| cluster.restart(id)),
                _ => cluster.run_for(Duration::from_millis(100)),
            }
        }
        cluster.demand_progress();
        let committed: Vec<u64> =
            proposals.iter().filter_map(|id| cluster.properties.committed_index_of(*id)).collect();
        assert!(committed.len() > 100, "only {} of {}", committed.len(), proposals.len());
        assert!(
            committed.is_sorted(),
            "the order of the log is the order of the proposals at one leader at a time"
        );
        for id in cluster.ids() {
            assert!(cluster.node(id).machine.index >= *committed.last().expect("there are many"));
        }
    }
}

/// Lab: snapshots with crashes, cuts and losses, and "the log always under its bound": no node ever holds more than the
/// interval of snapshots, the trailing entries and what is not yet applied.
#[test]
fn the_log_stays_under_its_bound_with_snapshots() {
    const INTERVAL: u64 = 10;
    const TRAILING: u64 = 5;
    const UNCOMMITTED_MAX: u64 = 20;
    for (crash, cut, loss) in
        [(false, false, 0), (false, true, 0), (false, true, 100), (true, false, 0), (true, true, 100)]
    {
        let mut cluster = Cluster::with(3, |settings| {
            settings.trailing_entries = TRAILING;
            settings.snapshot_chunk_bytes = 10;
            settings.uncommitted_entries_max = UNCOMMITTED_MAX;
        });
        cluster.network.loss_per_mille = loss;
        let mut dice = Random::new(u64::from(crash) + 2 * u64::from(cut));
        let (mut longest, mut installed) = (0, 0);
        for round in 0..60 {
            let victim = round % 3 + 1;
            if cut {
                cluster.isolate(victim);
            }
            if crash {
                cluster.crash(victim, 0);
            }
            for _ in 0..30 {
                if let Some(leader) = cluster.leader() {
                    cluster.propose_next(leader);
                }
                cluster.run_for(Duration::from_millis(dice.below(40) + 1));
                for id in cluster.ids() {
                    let node = cluster.node(id);
                    if node.raft.is_some() && node.machine.index >= node.disk.snapshot_index() + INTERVAL {
                        cluster.compact(id);
                    }
                    if let Some(raft) = &cluster.node(id).raft {
                        longest = longest.max(raft.log().last_index() + 1 - raft.log().first_index());
                        let disk = cluster.node(id).disk.entries.len() as u64;
                        assert!(disk <= INTERVAL + 2 * UNCOMMITTED_MAX, "the disk holds {disk} entries");
                    }
                }
            }
            cluster.heal();
            cluster.restart(victim);
            let before = cluster.node(victim).disk.snapshot_index();
            cluster.run_until(3 * SECOND, Cluster::is_settled);
            installed += u64::from(cluster.node(victim).disk.snapshot_index() > before);
        }
        let bound = INTERVAL + TRAILING + 2 * UNCOMMITTED_MAX;
        assert!(longest <= bound, "a log of {longest} entries; the bound is {bound}");
        assert!(cluster.properties.committed_index() > 300, "hardly anything was committed");
        assert!(installed > 5 || !(crash || cut), "only {installed} snapshots were installed");
        cluster.demand_progress();
    }
}

/// A follower that refuses its leader's snapshot for good (another version of the program does) costs as much as an idle one:
/// the snapshot goes out with the heartbeats, not as fast as the network can carry it.
#[test]
fn a_snapshot_that_is_refused_is_not_sent_faster_than_heartbeats() {
    let mut cluster = Cluster::with(3, |settings| {
        settings.trailing_entries = 0;
        settings.state_is_valid = |_, _| Err("another version".into());
    });
    assert!(cluster.run_until(20 * SECOND, Cluster::is_settled));
    let leader = cluster.leader().expect("a settled cluster has one");
    let behind = leader % 3 + 1;
    cluster.isolate(behind);
    commit(&mut cluster, leader, 10);
    cluster.compact(leader);
    cluster.heal();
    cluster.run_for(SECOND); // It is found to be behind.
    cluster.counts = Counts::default();
    cluster.run_for(SECOND);
    assert_eq!(cluster.node(behind).disk.snapshot_index(), 0, "it was refused");
    assert!(cluster.counts.requests <= 60, "{:?}", cluster.counts);
}

/// Likewise an append that a follower of the same term calls stale: it will do so again.
#[test]
fn an_append_that_is_called_stale_waits_for_the_next_heartbeat() {
    let mut leader = Lone::new(3, 1, &[]).elected(&[2]);
    let term = leader.raft.hard_state().term;
    let rpc = leader.under_way[&3];
    let reply =
        RpcReply::AppendEntries(AppendReply { term, life: Life::default(), result: AppendResult::StaleTerm });
    let output = leader.step(Event::Reply { from: 3, rpc, reply });
    assert!(!appends(output).contains_key(&3), "sent again at once");
    leader.now += HEARTBEAT;
    assert!(appends(leader.step(Event::Tick)).contains_key(&3), "never sent again");
}

/// Lab: "a leader in a minority commits nothing, and its clients learn of it"; after healing, it is a follower.
#[test]
fn a_minority_commits_nothing() {
    let (mut cluster, leader) = settled(5);
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    for id in others.iter().take(3) {
        cluster.crash(*id, 0);
    }
    let proposal = cluster.propose_next(leader);
    let before = cluster.raft(leader).commit_index();
    cluster.run_for(5 * SECOND);
    assert_eq!(cluster.raft(leader).commit_index(), before);
    let unknown = Some(rakit::raft::Resolution::Unknown);
    assert_eq!(
        cluster.properties.resolution_of(proposal),
        unknown,
        "it may commit later: and nothing else is true"
    );
    assert_eq!(cluster.leader(), None, "nobody believes to lead");
    cluster.demand_progress();
}
