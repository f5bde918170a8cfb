//! A compaction on a slow disk costs no election: its fsyncs are spread over turns of the loop, with heartbeats in between.

use std::time::Duration;

use super::behaviour::Behaviour;
use super::plan::{DiskMode, MS, Plan, Time};
use super::trace::Trace;
use super::world::World;

/// How long an fsync takes: four of them in a row are as long as an election timeout.
const FSYNC: Time = 120 * MS;

/// So many elections' worth of time.
const WATCHED: Time = 60_000 * MS;

#[test]
fn compactions_on_a_slow_disk_cost_no_election() {
    for seed in 1..=8 {
        let mut plan = Plan::draw(seed).fixed();
        plan.strikes.clear();
        (plan.nodes, plan.snapshot_entries, plan.disk_mode) = (3, 20, DiskMode::Waits);
        (plan.loss, plan.duplicates, plan.slow, plan.late) = (0, 0, 0, 0);
        plan.heartbeat = Duration::from_millis(100);
        plan.election_timeout = (Duration::from_millis(500), Duration::from_millis(1_000));
        (plan.batch_max, plan.consensus_inbox_max, plan.report_inbox_max) = (1_024, 1_024, 4_096);
        plan.fsync = Some(FSYNC);
        let mut world = World::new(plan, Trace::off(), Behaviour::default());
        world.run_until(10_000 * MS);
        let standing = |world: &World| {
            [1, 2, 3].map(|id| {
                let raft = world.process(id).expect("nobody dies").replica.raft();
                (raft.leader(), raft.hard_state().term)
            })
        };
        let compacted = |world: &World| {
            [1, 2, 3].map(|id| world.process(id).expect("nobody dies").storage.shape().after().0)
        };
        let (before, began) = (standing(&world), compacted(&world));
        assert!(before.iter().all(|one| one.0.is_some() && *one == before[0]), "seed {seed}: {before:?}");
        world.run_until(world.now + WATCHED);
        assert_eq!(standing(&world), before, "seed {seed}: an election took place");
        for (began, now) in began.into_iter().zip(compacted(&world)) {
            assert!(now >= began + 40, "seed {seed}: compacted up to {began}, then up to {now} only");
        }
    }
}
