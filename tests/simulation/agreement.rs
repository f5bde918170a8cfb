//! A node whose state differs from the others' is found and stops leading and serving, and the cluster goes on.

use rakit::raft::NodeId;
use rakit::replica::Contradiction;

use super::behaviour::Behaviour;
use super::plan::{MS, Plan, Time};
use super::process::Mail;
use super::trace::Trace;
use super::world::World;

/// How long anything may take that must come: a digest is named each second, of a state of some entries ago.
const PATIENCE: Time = 60_000 * MS;

const STEP: Time = 50 * MS;

/// A cluster without faults, in which every node has a snapshot.
fn calm_world(seed: u64, nodes: u64, trace: Trace) -> World {
    let mut plan = Plan::draw(seed).fixed();
    plan.strikes.clear();
    (plan.nodes, plan.snapshot_entries, plan.servers_max) = (nodes, 20, 1_024);
    (plan.loss, plan.duplicates, plan.slow, plan.late) = (0, 0, 0, 0);
    plan.disk_latency_max = 2_000;
    // Who was away for a moment is filled with entries: a leader's snapshot would mend the state.
    plan.trailing_entries = 1_000;
    let mut world = World::new(plan, trace, Behaviour::default());
    wait(&mut world, "every node has a snapshot on its disk", |world| {
        (1..=nodes).all(|id| world.process(id).is_some_and(|process| process.storage.shape().after().0 > 0))
    });
    world
}

fn wait(world: &mut World, what: &str, mut condition: impl FnMut(&mut World) -> bool) {
    let end = world.now + PATIENCE;
    while !condition(world) {
        assert!(world.now < end, "waited in vain: {what}");
        world.run_until(world.now + STEP);
    }
}

fn contradiction(world: &World, id: NodeId) -> Option<Contradiction> {
    world.process(id)?.replica.standing().contradiction
}

fn leads(world: &World, id: NodeId) -> bool {
    world.process(id).is_some_and(|process| process.replica.raft().is_leader())
}

/// Restarts the node with another state than its disk holds.
fn flip(world: &mut World, id: NodeId) {
    world.oracle.flipped.insert(id);
    world.die(id, false);
    wait(world, "it runs again", |world| world.process(id).is_some());
}

/// The node is found, leads no more, and the others commit on.
fn is_found(world: &mut World, victim: NodeId) {
    let nodes = world.plan.nodes;
    wait(world, "the wrong state is found", |world| {
        contradiction(world, victim).is_some_and(|found| found.by_majority)
    });
    wait(world, "it leads no more", |world| !leads(world, victim));
    let snapshot =
        |world: &World| world.process(victim).map(|process| process.replica.raft().snapshot_index());
    let before = snapshot(world);
    let committed = world.oracle.commit_index();
    wait(world, "the others commit, and agree", |world| {
        assert!(!leads(world, victim), "a node with a wrong state leads again");
        world.oracle.commit_index() > committed + 50
            && (1..=nodes).all(|id| id == victim || contradiction(world, id).is_none())
    });
    assert!(contradiction(world, victim).is_some(), "what is wrong stays wrong");
    assert_eq!(snapshot(world), before, "a state that may be wrong takes the place of no log");
    let stored = world.process(victim).map(|process| process.storage.shape().last_index());
    assert!(stored > Some(committed), "it goes on storing");
}

fn each_seed(test: impl Fn(u64, u64, Trace)) {
    for seed in 1..=12 {
        let nodes = if seed % 2 == 0 { 3 } else { 5 };
        let trace = Trace::on();
        let run = std::panic::AssertUnwindSafe(|| test(seed, nodes, trace.clone()));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("{}\nseed {seed}, {nodes} nodes", trace.tail());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_follower_whose_state_differs_is_found_and_never_leads() {
    each_seed(|seed, nodes, trace| {
        let mut world = calm_world(seed, nodes, trace);
        let leader = *world.leaders().last().expect("a leader");
        let victim = leader % nodes + 1;
        flip(&mut world, victim);
        is_found(&mut world, victim);
        // Not even when its leader is gone.
        for _ in 0..3 {
            let leader = *world.leaders().last().expect("a leader");
            world.die(leader, false);
            is_found(&mut world, victim);
        }
    });
}

#[test]
fn a_leader_from_whom_a_majority_differs_gives_way() {
    each_seed(|seed, nodes, trace| {
        let mut world = calm_world(seed, nodes, trace);
        let leader = *world.leaders().last().expect("a leader");
        let victim = leader % nodes + 1;
        flip(&mut world, victim);
        wait(&mut world, "the wrong one leads", |world| {
            let leader = world.leaders().last().copied();
            if let Some(process) = leader.and_then(|leader| world.process(leader)) {
                let (leader, life) = (process.id, process.life);
                if contradiction(world, victim).is_some() {
                    return true; // It was found before it could lead.
                }
                if leader != victim {
                    world.deliver(leader, life, Mail::Transfer { to: Some(victim) });
                }
                return leader == victim;
            }
            false
        });
        is_found(&mut world, victim);
    });
}
