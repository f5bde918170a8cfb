//! The two phases of a seed (after TigerBeetle's VOPR): first everything is broken, and nothing wrong may happen; then a
//! majority is healed, the rest stays broken, and the right things must happen within a bound.

use std::collections::BTreeSet;

use rakit::raft::NodeId;

use super::behaviour::Behaviour;
use super::coverage::Coverage;
use super::plan::{Plan, Time};
use super::trace::Trace;
use super::world::World;

/// Within so many upper election time-outs, after the server time-out has passed twice, the healed majority must have a
/// leader, commit new reports of all living servers, and have declared the dead ones dead.
const PROGRESS_PATIENCES: Time = 12;

/// Then the healed nodes are watched for so many upper election time-outs: the leader stays, what is committed shows.
const CALM_PATIENCES: Time = 6;

/// What a commit may take to show on another node besides one heartbeat: two messages and three writes.
const VISIBLE_SLACK: Time = 10_000;

/// What one seed did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    pub steps: u64,
    pub committed: u64,
    /// Simulated time, and how long progress took after the healing.
    pub simulated: Time,
    pub progress: Time,
    pub coverage: Coverage,
}

/// Runs one seed. Panics, with the reason, if anything is wrong.
pub fn run(plan: Plan, trace: Trace, behaviour: Behaviour) -> Done {
    trace.line(0, || format!("{plan:?}"));
    let mut world = World::new(plan, trace, behaviour);
    world.run_until(world.plan.chaos);
    let healed = heal(&mut world);
    let progress = await_progress(&mut world, &healed);
    // What was sent before the healing may still disturb: a late report with the greatest stamp takes a verdict to be rid of.
    world.run_until(world.old_messages_gone());
    await_progress(&mut world, &healed);
    let healed = members(&world, &healed);
    stay_calm(&mut world, &healed);
    // Nothing new is proposed. Soon all nodes have applied everything (appends of one entry need a while for a backlog).
    world.daemons.iter_mut().for_each(|daemon| daemon.is_running = false);
    let end = world.now + CALM_PATIENCES * world.plan.patience();
    while world.now < end && !healed.iter().all(|id| has_all(&world, *id)) {
        world.run_until(world.now + 2 * world.plan.heartbeat_us() + VISIBLE_SLACK);
    }
    for id in &healed {
        let process = world.process(*id).expect("healed nodes live");
        world.oracle.nothing_lost(*id, process.replica.table());
    }
    Done {
        steps: world.steps,
        committed: world.oracle.commit_index(),
        simulated: world.now,
        progress,
        coverage: world.into_coverage(),
    }
}

fn has_all(world: &World, id: NodeId) -> bool {
    world
        .process(id)
        .is_some_and(|process| process.replica.table().applied_index() == world.oracle.commit_index())
}

/// Heals a majority, and draws the lasting fault of each other node.
fn heal(world: &mut World) -> BTreeSet<NodeId> {
    let nodes = world.plan.nodes;
    let size = nodes / 2 + 1 + world.random.below(nodes - nodes / 2);
    let mut healed = BTreeSet::new();
    if world.plan.changes_members() {
        // Which nodes are a majority depends on whose list counts in the end. So all machines are healed.
        healed.extend(1..=world.plan.machines());
    }
    while (healed.len() as u64) < size {
        healed.insert(1 + world.random.below(nodes));
    }
    // Without a majority of nodes that remember, nobody can lead. (On the first day nobody has anything to remember.)
    let counts = |world: &World, id: &NodeId| {
        world.machines.iter().any(|machine| machine.id == *id && machine.counts())
    };
    while world.counting() > nodes / 2
        && healed.iter().filter(|id| counts(world, id)).count() as u64 <= nodes / 2
    {
        healed.insert(1 + world.random.below(nodes));
    }
    // A founding that is half done waits for its founders, and one whose founder's disk was emptied at once may wait for all.
    let half_done = world.counting() > 0 || world.machines.iter().any(|machine| machine.wipes > 0);
    if world.counting() <= nodes / 2 && half_done {
        healed.extend(1..=nodes);
    }
    world.begin_healing(&healed);
    let mut links = BTreeSet::new();
    for broken in (1..=world.plan.machines()).filter(|id| !healed.contains(id)) {
        let others = (1..=world.plan.machines()).filter(|other| *other != broken);
        let way = world.random.below(5);
        world.trace.line(world.now, || format!("node {broken}: stays broken in way {way}"));
        match way {
            0 => {
                world.machine(broken).broken = true;
                if world.machine(broken).process.is_some() {
                    world.die(broken, false);
                }
            }
            1 => {
                // Also if it is paused already: else it would run again when that pause ends.
                if world.machine(broken).process.is_some() {
                    world.pause(broken, Time::MAX / 4);
                }
                world.machine(broken).broken = true;
            }
            2 => links.extend(others.flat_map(|other| [(other, broken), (broken, other)])),
            3 => links.extend(others.map(|other| (other, broken))),
            _ => links.extend(others.map(|other| (broken, other))),
        }
    }
    world.partitions += 1;
    world.network.cut(world.partitions, links);
    world.note_isolation();
    // Some servers are dead for good, the others live, all the time from here on. The table has room for those that live.
    for daemon in &mut world.daemons {
        daemon.turns += 1;
        daemon.is_running = true;
        daemon.sent_since_healing.clear();
    }
    let mut places = world.plan.servers_max;
    for number in 0..world.daemons.len() {
        let runs = (number == 0 || world.random.below(3) > 0) && places > 0;
        places -= usize::from(runs);
        world.daemons[number].is_running = runs;
    }
    world.trace.line(world.now, || format!("------- healed: {healed:?}"));
    healed
}

/// Those of the healed nodes that are members, by the list of the newest leader: the others are not promised anything.
fn members(world: &World, healed: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let leader = world.leaders().last().copied().and_then(|leader| world.process(leader));
    let is_member = |id: &NodeId| leader.is_none_or(|process| process.replica.raft().members().contains(*id));
    healed.iter().copied().filter(is_member).collect()
}

/// Waits for the progress that must come. Returns how long it took.
fn await_progress(world: &mut World, healed: &BTreeSet<NodeId>) -> Time {
    let began = world.now;
    let bound = 2 * world.server_timeout() + PROGRESS_PATIENCES * world.plan.patience();
    loop {
        world.run_until(world.now + world.plan.heartbeat_us() / 2);
        let missing = missing(world, healed);
        match missing {
            None => return world.now - began,
            Some(what) => assert!(
                world.now - began <= bound,
                "no progress within {} ms after the healing of {healed:?}: {what}",
                bound / 1_000
            ),
        }
    }
}

/// What is still missing, in words.
fn missing(world: &World, healed: &BTreeSet<NodeId>) -> Option<String> {
    let mut followed = BTreeSet::new();
    let healed = &members(world, healed);
    for id in healed {
        let Some(process) = world.process(*id) else { return Some(format!("node {id} is down")) };
        if process.replica.raft().is_joining() {
            return Some(format!("node {id} does not count yet"));
        }
        let Some(leader) = process.replica.raft().leader() else {
            return Some(format!("node {id} knows no leader"));
        };
        followed.insert((leader, process.replica.raft().hard_state().term));
        for daemon in &world.daemons {
            let record = process.replica.table().get(&daemon.name);
            let stamp = record.map(|record| record.report.stamp());
            let alive = record.is_some_and(|record| record.alive);
            let fresh = stamp.is_some_and(|stamp| daemon.sent_since_healing.contains(&stamp));
            if daemon.is_running && !(alive && fresh) {
                return Some(format!(
                    "node {id} has no new report of {}: {stamp:?}, alive {alive}",
                    daemon.name
                ));
            }
            if !daemon.is_running && alive {
                return Some(format!("node {id} takes {} for alive", daemon.name));
            }
        }
    }
    let leads = followed.iter().all(|(leader, _)| healed.contains(leader));
    (followed.len() != 1 || !leads).then(|| format!("the leaders followed are {followed:?}"))
}

/// With a healed majority and nothing new going wrong, the leader stays, no living server dies, and what is committed
/// shows on all healed nodes within one heartbeat.
fn stay_calm(world: &mut World, healed: &BTreeSet<NodeId>) {
    let leader_and_term = |world: &World| {
        let process = world.process(*healed.first().expect("a majority")).expect("healed nodes live");
        (process.replica.raft().leader(), process.replica.raft().hard_state().term)
    };
    let before = leader_and_term(world);
    let end = world.now + CALM_PATIENCES * world.plan.patience();
    let limit = world.plan.heartbeat_us() + VISIBLE_SLACK;
    world.watch_commits = true;
    while world.now < end {
        world.run_until(world.now + world.plan.heartbeat_us() / 4);
        for id in healed {
            let process = world.process(*id).expect("healed nodes live");
            let late = world.commit_times.iter().find(|(index, at)| {
                **index > process.replica.table().applied_index() && **at + limit < world.now
            });
            assert!(
                world.plan.is_narrow || late.is_none(),
                "node {id}: entry {late:?} is committed and does not show within a heartbeat"
            );
            for daemon in world.daemons.iter().filter(|daemon| daemon.is_running) {
                let alive = process.replica.table().get(&daemon.name).is_some_and(|record| record.alive);
                assert!(alive, "node {id} takes the living {} for dead", daemon.name);
            }
        }
    }
    let after = leader_and_term(world);
    assert_eq!(before, after, "a healthy leader was deposed: (leader, term) was {before:?}, is {after:?}");
    let term = before.1;
    assert_eq!(world.oracle.leader_of(term), before.0, "all follow the leader of their term");
}
