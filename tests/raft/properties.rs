//! The properties of the paper's Figure 3 under random schedules: loss, duplication, reordering, cuts, crashes with loss of
//! what was not synced, slow disks, snapshots, transfers, hints of death right and wrong.
//!
//! A schedule is a list of actions drawn by proptest, which also shrinks a failing one to its essence. After every step, the
//! harness asserts everything in `harness/properties.rs`. At the end all is healed, and progress is demanded.
//!
//! `RAKIT_PROPERTY_CASES=20000 cargo test --test raft properties::` runs more cases than the default. A failing case
//! prints its actions; `proptest-regressions/` is not kept: make a transcript of what it teaches.

use std::time::Duration;

use crate::harness::Cluster;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rakit::raft::{Event, NodeId, Raft};

/// How many cases `cargo test` runs of each property.
const CASES_DEFAULT: u32 = 400;
/// A schedule's length.
const ACTIONS: std::ops::Range<usize> = 50..400;

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Action {
    /// The oldest messages arrive, so many.
    Deliver(u8),
    /// Any message arrives, past all others.
    Overtake(u16),
    /// It arrives, and will arrive again.
    Double(u16),
    /// It is lost, without a word or with one.
    Drop(u16),
    Lose(u16),
    /// The network and the clocks run for so many milliseconds.
    Run(u16),
    /// A node's timer fires, whatever else is due.
    Tick(u8),
    /// Only time passes: timers fire late.
    Sleep(u16),
    Propose(u8),
    ProposeToLeader(u8),
    /// The disk of a node becomes slow; finishes one write; is fast again.
    HoldDisk(u8),
    Persist(u8),
    ReleaseDisk(u8),
    Crash(u8, u8),
    CrashLeader(u8),
    Restart(u8),
    RestartAll,
    /// One direction is cut; a node alone; a majority with or without the leader; all mended.
    Cut(u8, u8),
    Isolate(u8),
    Halve(u8),
    Heal,
    Compact(u8),
    Transfer(u8, u8),
    /// A hint that the leader died: right if it did, else wrong.
    LeaderGone(u8),
    /// All who follow the dead leader get the hint, as when the kernel closes its connections.
    LeaderDies(u8),
    /// A node is added, or one is removed.
    Add(u8),
    Remove(u8),
    /// A machine outside of the members begins again, on a fresh directory.
    Renew(u8),
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        20 => (1_u8..12).prop_map(Deliver),
        14 => any::<u16>().prop_map(Overtake),
        4 => any::<u16>().prop_map(Double),
        5 => any::<u16>().prop_map(Drop),
        3 => any::<u16>().prop_map(Lose),
        12 => (1_u16..700).prop_map(Run),
        8 => any::<u8>().prop_map(Tick),
        2 => (1_u16..1500).prop_map(Sleep),
        2 => any::<u8>().prop_map(Propose),
        14 => (1_u8..5).prop_map(ProposeToLeader),
        4 => any::<u8>().prop_map(HoldDisk),
        8 => any::<u8>().prop_map(Persist),
        3 => any::<u8>().prop_map(ReleaseDisk),
        2 => any::<(u8, u8)>().prop_map(|(node, kept)| Crash(node, kept)),
        2 => any::<u8>().prop_map(CrashLeader),
        6 => any::<u8>().prop_map(Restart),
        1 => Just(RestartAll),
        2 => any::<(u8, u8)>().prop_map(|(from, to)| Cut(from, to)),
        1 => any::<u8>().prop_map(Isolate),
        1 => any::<u8>().prop_map(Halve),
        3 => Just(Heal),
        4 => any::<u8>().prop_map(Compact),
        2 => any::<(u8, u8)>().prop_map(|(from, to)| Transfer(from, to)),
        2 => any::<u8>().prop_map(LeaderGone),
        2 => any::<u8>().prop_map(LeaderDies),
    ]
}

/// The same with other members all the time.
fn action_with_changes() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => action(),
        2 => any::<u8>().prop_map(Action::Add),
        1 => any::<u8>().prop_map(Action::Remove),
        1 => any::<u8>().prop_map(Action::Renew),
    ]
}

fn node(cluster: &Cluster, number: u8) -> NodeId {
    let ids = cluster.ids();
    ids[usize::from(number) % ids.len()]
}

fn message(cluster: &Cluster, number: u16) -> Option<usize> {
    let count = cluster.in_flight.len();
    (count > 0).then(|| usize::from(number) % count)
}

/// The harness bounds nothing by itself; a schedule of doubles must not fill the memory.
const IN_FLIGHT_MAX: usize = 500;

fn perform(cluster: &mut Cluster, action: &Action) {
    match *action {
        Action::Deliver(count) => {
            for _ in 0..count {
                if !cluster.in_flight.is_empty() {
                    cluster.deliver(0);
                }
            }
        }
        Action::Overtake(number) => {
            if let Some(position) = message(cluster, number) {
                cluster.deliver(position);
            }
        }
        Action::Double(number) => {
            if let Some(position) =
                message(cluster, number).filter(|_| cluster.in_flight.len() < IN_FLIGHT_MAX)
            {
                cluster.deliver_twice(position);
            }
        }
        Action::Drop(number) => {
            if let Some(position) = message(cluster, number) {
                cluster.drop_message(position);
            }
        }
        Action::Lose(number) => {
            if let Some(position) = message(cluster, number) {
                cluster.lose_message(position);
            }
        }
        Action::Run(milliseconds) => cluster.run_for(Duration::from_millis(u64::from(milliseconds))),
        Action::Tick(number) => cluster.tick(node(cluster, number)),
        Action::Sleep(milliseconds) => cluster.now += Duration::from_millis(u64::from(milliseconds)),
        Action::Propose(number) => {
            cluster.propose_next(node(cluster, number));
        }
        Action::ProposeToLeader(count) => {
            for _ in 0..count {
                if let Some(leader) = cluster.leader() {
                    cluster.propose_next(leader);
                }
            }
        }
        Action::HoldDisk(number) => {
            let id = node(cluster, number);
            cluster.node_mut(id).disk_held = true;
        }
        Action::Persist(number) => {
            cluster.persist(node(cluster, number));
        }
        Action::ReleaseDisk(number) => {
            let id = node(cluster, number);
            cluster.release_disk(id);
        }
        Action::Crash(number, kept) => cluster.crash(node(cluster, number), usize::from(kept % 8)),
        Action::CrashLeader(kept) => {
            if let Some(leader) = cluster.leader() {
                cluster.crash(leader, usize::from(kept % 8));
            }
        }
        Action::Restart(number) => cluster.restart(node(cluster, number)),
        Action::RestartAll => {
            for id in cluster.ids() {
                cluster.crash(id, 0);
                cluster.restart(id);
            }
        }
        Action::Cut(from, to) => {
            let cut = (node(cluster, from), node(cluster, to));
            cluster.cut.insert(cut);
        }
        Action::Isolate(number) => cluster.isolate(node(cluster, number)),
        Action::Halve(number) => {
            // Neighbours in a ring; what is left is the other side.
            let ids = cluster.ids();
            let inside = |id: NodeId| (id as usize + usize::from(number)) % ids.len() < ids.len().div_ceil(2);
            for (from, to) in ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to))) {
                if inside(from) != inside(to) {
                    cluster.cut.insert((from, to));
                }
            }
        }
        Action::Heal => cluster.heal(),
        Action::Compact(number) => cluster.compact(node(cluster, number)),
        Action::Transfer(from, to) => {
            let from = if from % 4 == 0 { node(cluster, from) } else { cluster.leader().unwrap_or(1) };
            let to = (to % 2 == 0).then(|| node(cluster, to));
            cluster.step(from, Event::Transfer { to });
        }
        Action::LeaderGone(number) => {
            let id = node(cluster, number);
            cluster.leader_gone(id);
        }
        Action::Add(number) | Action::Remove(number) => {
            let Some(leader) = cluster.leader() else { return };
            let id = node(cluster, number);
            if let Action::Add(_) = action {
                cluster.add(leader, id)
            } else {
                cluster.remove(leader, id)
            };
        }
        Action::Renew(number) => {
            // Who may still become a member again must not forget: a list that is not committed may be truncated, or be lost in a
            // crash, and then the one before it counts.
            let id = node(cluster, number);
            let has_left = |raft: &Raft| {
                let list = raft.configuration();
                !list.members.contains(id) && list.index <= raft.commit_index()
            };
            if cluster.up().all(|(_, raft)| has_left(raft)) && cluster.up().count() == cluster.nodes.len() {
                cluster.wipe(id);
            }
        }
        Action::LeaderDies(kept) => {
            if let Some(leader) = cluster.leader() {
                cluster.crash(leader, usize::from(kept % 8));
                for id in cluster.ids() {
                    cluster.leader_gone(id);
                }
            }
        }
    }
}

/// What the schedules brought about, over all cases: a run in which nothing happened proves nothing.
#[derive(Default, Debug)]
struct Seen {
    cases: u64,
    leaders: u64,
    committed: u64,
    snapshots_sent: u64,
    truncations: u64,
    added: u64,
    removed: u64,
    lists_truncated: u64,
}

fn run(cases: u32, nodes: u64, tune: impl Fn(&mut rakit::raft::Settings)) -> Seen {
    run_with(cases, nodes, 0, &action().boxed(), tune)
}

/// Some machines are no members in the beginning.
fn run_with(
    cases: u32,
    nodes: u64,
    spares: u64,
    action: &BoxedStrategy<Action>,
    tune: impl Fn(&mut rakit::raft::Settings),
) -> Seen {
    let config = Config {
        cases: std::env::var("RAKIT_PROPERTY_CASES")
            .ok()
            .map_or(cases, |cases| cases.parse().expect("RAKIT_PROPERTY_CASES is a number")),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let seen = std::cell::RefCell::new(Seen::default());
    let schedule = (any::<u64>(), prop::collection::vec(action.clone(), ACTIONS));
    let result = TestRunner::new(config).run(&schedule, |(seed, actions)| {
        let mut cluster = match spares {
            0 => Cluster::with(nodes, &tune),
            _ => Cluster::founded(nodes, &tune),
        };
        for spare in 1..=spares {
            cluster.add_machine(nodes + spare);
        }
        cluster = cluster.seeded(seed);
        cluster.transcript = Some(Vec::new());
        for action in &actions {
            perform(&mut cluster, action);
        }
        let mut seen = seen.borrow_mut();
        seen.cases += 1;
        seen.committed += cluster.properties.committed_index();
        seen.leaders += cluster.properties.leaders() as u64;
        let lines = cluster.transcript.take().unwrap_or_default();
        seen.snapshots_sent += lines.iter().filter(|line| line.contains("has installed")).count() as u64;
        seen.truncations += lines.iter().filter(|line| line.contains("uncommitted entries")).count() as u64;
        seen.added += lines.iter().filter(|line| line.contains("has caught up")).count() as u64;
        seen.removed += lines.iter().filter(|line| line.contains("was removed from")).count() as u64;
        seen.lists_truncated += lines.iter().filter(|line| line.contains("goes back to")).count() as u64;
        if let Some(line) = lines.iter().find(|line| line.contains("suspicious")) {
            return Err(TestCaseError::fail(format!("honest nodes called each other suspicious: {line}")));
        }
        cluster.demand_progress();
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let seen = seen.into_inner();
    println!("{nodes} nodes: {seen:?}");
    seen
}

#[test]
fn three_nodes_are_safe_under_any_schedule_and_live_after_it() {
    let seen = run(CASES_DEFAULT, 3, |_| {});
    assert!(
        seen.leaders > seen.cases && seen.committed > seen.cases,
        "the schedules do too little: {seen:?}"
    );
}

#[test]
fn five_nodes_are_safe_under_any_schedule_and_live_after_it() {
    let seen = run(CASES_DEFAULT / 2, 5, |_| {});
    assert!(seen.leaders > seen.cases / 2 && seen.committed > seen.cases / 2, "{seen:?}");
}

#[test]
fn an_even_number_of_nodes_is_safe_too() {
    run(CASES_DEFAULT / 4, 4, |_| {});
    run(CASES_DEFAULT / 4, 2, |_| {});
}

#[test]
fn a_single_node_is_safe_and_live() {
    run(CASES_DEFAULT / 4, 1, |_| {});
}

/// Nothing is kept before a snapshot, chunks are tiny, appends bring one entry: snapshots are sent all the time, and logs
/// are replaced bit by bit (Figure 8 needs that).
#[test]
fn short_logs_small_chunks_and_single_entries_are_safe() {
    let seen = run(CASES_DEFAULT, 3, |settings| {
        settings.trailing_entries = 0;
        settings.snapshot_chunk_bytes = 16;
        settings.append_entries_max = 1;
        settings.uncommitted_entries_max = 20;
    });
    assert!(seen.snapshots_sent > 0, "no snapshot was sent: {seen:?}");
    assert!(seen.truncations > 0, "no log was ever repaired: {seen:?}");
}

/// Three founders and three more machines; nodes come and go, also such as have left before.
#[test]
fn members_that_change_all_the_time_are_safe_and_live_after_it() {
    let seen = run_with(CASES_DEFAULT, 3, 3, &action_with_changes().boxed(), |_| {});
    assert!(
        seen.added > seen.cases / 4 && seen.removed > seen.cases / 4,
        "hardly a change was made: {seen:?}"
    );
    let seen = run_with(CASES_DEFAULT / 2, 2, 2, &action_with_changes().boxed(), |settings| {
        settings.trailing_entries = 0;
        settings.snapshot_chunk_bytes = 16;
        settings.append_entries_max = 1;
    });
    assert!(seen.snapshots_sent > 0, "no snapshot was sent: {seen:?}");
}
