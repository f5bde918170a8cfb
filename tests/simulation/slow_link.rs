//! A follower that lacks more than its slow link carries in an election timeout catches up, and deposes nobody: appends carry
//! what gets through well within an election timeout.

use std::time::Duration;

use rakit::raft::{NodeId, Term};

use super::behaviour::Behaviour;
use super::plan::{DiskMode, MS, Plan, Time, Transport};
use super::process::Process;
use super::trace::Trace;
use super::world::World;

/// 1 Mbit/s. What comes together in an absence takes two seconds, and election timeouts are at most one.
const BYTES_PER_MS: u64 = 125;

/// Meanwhile the servers' reports make a quarter of a megabyte of entries.
const ABSENCE: Time = 10_000 * MS;

/// That, and the reports that come meanwhile, take 3 s over the slow link: there is time for some detours.
const CATCHES_UP: Time = 10_000 * MS;

/// Three nodes on a network without other faults, ten servers that report ten times in a second, and a leader.
fn world(change: impl FnOnce(&mut Plan)) -> (World, [NodeId; 3], Term) {
    let mut plan = Plan::draw(1).fixed();
    plan.strikes.clear();
    (plan.nodes, plan.servers, plan.servers_max) = (3, 10, 1_024);
    (plan.transport, plan.disk_mode) = (Transport::Http, DiskMode::Waits);
    (plan.loss, plan.duplicates, plan.slow, plan.late) = (0, 0, 0, 0);
    plan.heartbeat = Duration::from_millis(100);
    plan.election_timeout = (Duration::from_millis(500), Duration::from_millis(1_000));
    plan.server_timeout = Duration::from_millis(5_000);
    plan.report_interval = 100 * MS;
    (plan.append_entries_max, plan.append_bytes_max) = (4_096, 1 << 20);
    (plan.snapshot_entries, plan.trailing_entries, plan.uncommitted_entries_max) = (1 << 20, 0, 16_384);
    (plan.batch_max, plan.consensus_inbox_max, plan.report_inbox_max) = (1_024, 1_024, 4_096);
    plan.disk_latency_max = 2_000;
    change(&mut plan);
    let mut world = World::new(plan, Trace::off(), Behaviour::default());
    world.run_until(3_000 * MS);
    let leader = *world.leaders().last().expect("nothing hinders an election");
    let term = world.process(leader).expect("nobody dies").replica.raft().hard_state().term;
    let others: Vec<NodeId> = (1..=3).filter(|id| *id != leader).collect();
    (world, [leader, others[0], others[1]], term)
}

/// Keeps a node away from the others for so long.
fn absent(world: &mut World, node: NodeId, length: Time) {
    let others = (1..=3).filter(|other| *other != node);
    world.network.cut(1, others.flat_map(|other| [(other, node), (node, other)]).collect());
    world.run_until(world.now + length);
    world.network.mend(1);
}

fn slow(world: &mut World, node: NodeId, bytes_per_ms: u64) {
    for other in (1..=3).filter(|other| *other != node) {
        world.network.set_rate((node, other), Some(bytes_per_ms));
        world.network.set_rate((other, node), Some(bytes_per_ms));
    }
}

/// The follower must have applied, within the time, all that the leader has at the end but the last second's; and the leader
/// leads all the time.
fn catches_up(world: &mut World, leader: NodeId, follower: NodeId, term: Term) {
    let end = world.now + CATCHES_UP;
    let mut second_ago = 0;
    while world.now < end {
        let raft = world.process(leader).expect("nobody dies").replica.raft();
        second_ago = raft.log().last_index();
        world.run_until(world.now + 1_000 * MS);
        let raft = world.process(leader).expect("nobody dies").replica.raft();
        let (leads, now) = (raft.is_leader(), raft.hard_state().term);
        assert!(leads && now == term, "node {leader} led term {term} and was deposed; the term is {now}");
    }
    let applied = world.process(follower).expect("nobody dies").replica.raft().applied_index();
    assert!(applied >= second_ago, "node {follower} has {applied} entries, of {second_ago}");
}

/// The leader loses the third node: now it needs the one behind the slow link.
fn leave_only(world: &mut World, other: NodeId) {
    let peers = (1..=3).filter(|peer| *peer != other);
    world.network.cut(2, peers.flat_map(|peer| [(peer, other), (other, peer)]).collect());
}

#[test]
fn a_follower_behind_a_slow_link_catches_up_and_does_not_depose_the_leader_that_needs_it() {
    let (mut world, [leader, follower, other], term) = world(|_| {});
    absent(&mut world, follower, ABSENCE);
    slow(&mut world, follower, BYTES_PER_MS);
    leave_only(&mut world, other);
    catches_up(&mut world, leader, follower, term);
}

#[test]
fn a_follower_whose_link_becomes_slow_is_not_left_behind() {
    let (mut world, [leader, follower, _], term) = world(|_| {});
    // It catches up over the fast link. So the leader learns that this much gets through at once.
    absent(&mut world, follower, ABSENCE);
    world.run_until(world.now + 1_000 * MS);
    absent(&mut world, follower, ABSENCE);
    slow(&mut world, follower, BYTES_PER_MS);
    catches_up(&mut world, leader, follower, term);
}

#[test]
fn a_snapshot_gets_over_a_slow_link_too() {
    let (mut world, [leader, follower, other], term) = world(|plan| {
        (plan.servers, plan.report_interval) = (64, 1_000 * MS);
        (plan.snapshot_entries, plan.snapshot_chunk_bytes) = (200, 256 << 10);
    });
    absent(&mut world, follower, ABSENCE);
    // The snapshot has some 16 kB. No report comes meanwhile, since this link has no room for both.
    world.daemons.iter_mut().for_each(|daemon| daemon.is_running = false);
    slow(&mut world, follower, 15);
    leave_only(&mut world, other);
    catches_up(&mut world, leader, follower, term);
    let (leader, follower) = (world.process(leader), world.process(follower));
    let snapshot = |process: Option<&Process>| process.expect("nobody dies").replica.raft().snapshot_index();
    assert!(snapshot(leader) > 0 && snapshot(follower) > 0);
}
