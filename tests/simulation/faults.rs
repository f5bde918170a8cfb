//! The strikes of the first phase: each does one fault to one node, link or daemon.

use std::collections::BTreeSet;

use rakit::balancer::ServerOrder;
use rakit::balancer::report::COUNTER_MAX;
use rakit::raft::{MemberChange, NodeId, Random};

use super::coverage::Seen;
use super::plan::{MS, Strike, Time};
use super::process::{Caller, Mail, ReportMail, spurious_reset};
use super::world::{Happening, World};
use crate::disk::Failure;

/// Draws the victim of one kind of strike, and strikes.
pub fn strike(world: &mut World, strike: Strike) {
    let node = 1 + world.random.below(world.plan.machines());
    // Every other strike hits a leader, if there is one: a fault of the leader disturbs the cluster most.
    let leader = world.leaders().last().copied();
    let node = if world.random.below(2) == 0 { leader.unwrap_or(node) } else { node };
    let patience = world.plan.patience();
    let server = 1 + world.random.below(world.plan.servers);
    match strike {
        Strike::Partition => partition(world, node),
        Strike::Kill => crash(world, node, false),
        Strike::PowerCut => crash(world, node, true),
        Strike::CrashInDisk => plan_failure(world, node, Failure::Crash),
        Strike::FailWrite => plan_failure(world, node, Failure::Write),
        Strike::FailSync => plan_failure(world, node, Failure::Sync),
        Strike::FullDisk => {
            let room = world.random.below(600);
            let machine = world.machine(node);
            let bytes = machine.disk.bytes();
            machine.disk.set_capacity(Some(bytes + room));
            let length = world.random.below(2 * patience);
            world.after(length, Happening::DiskRoom { node });
        }
        Strike::SlowDisk => {
            world.oracle.count(Seen::SlowDisk);
            world.machine(node).slow = true;
            let length = world.random.below(4 * patience);
            world.after(length, Happening::DiskQuick { node });
        }
        Strike::FalseCommitHint => {
            if world.machine(node).process.is_some() {
                world.die(node, false);
                world.plant_false_hint(node);
            }
        }
        Strike::Pause => {
            let longest = if world.random.below(2) == 0 { patience / 4 } else { 4 * patience };
            let length = world.random.below(longest);
            let machine = world.machine(node);
            if machine.process.is_some() && !machine.paused {
                world.pause(node, length);
            }
        }
        Strike::ClockJump => {
            let jump = world.random.below(3 * patience);
            if let Some(process) = world.machine(node).process.as_mut() {
                process.ahead += jump;
                world.oracle.count(Seen::ClockJumped);
                world.trace.line(world.now, || format!("node {node}: clock jumps {} ms ahead", jump / MS));
                let life = world.machine(node).life;
                // Its own timer notices at some time; a message does at once.
                let now = world.now;
                world.machine(node).wake_soon(now);
                world.at(now, Happening::Wake { node, life });
            }
        }
        Strike::RestartAll => {
            world.oracle.count(Seen::RestartAll);
            let power_cut = world.random.below(2) == 0;
            for node in 1..=world.plan.machines() {
                crash(world, node, power_cut);
            }
        }
        Strike::Wipe => wipe(world, node),
        Strike::WrongHint => {
            if let Some(process) = world.process(node)
                && let Some(leader) = process.replica.raft().leader()
                && leader != node
                && world.process(leader).is_some()
            {
                let life = process.life;
                world.oracle.count(Seen::HintWrong);
                world
                    .trace
                    .line(world.now, || format!("node {node}: wrong hint that leader {leader} is gone"));
                world.deliver(node, life, Mail::LeaderGone { leader });
            }
        }
        Strike::Members => change_members(world),
        Strike::Transfer => {
            let to = 1 + world.random.below(world.plan.machines());
            let to = (world.random.below(2) == 0).then_some(to);
            if let Some(process) = leader.and_then(|leader| world.process(leader)) {
                let (leader, life) = (process.id, process.life);
                world.oracle.count(Seen::TransferAsked);
                world.deliver(leader, life, Mail::Transfer { to });
            }
        }
        Strike::SpuriousReset => {
            let peer = 1 + world.random.below(world.plan.machines());
            if let Some(process) = leader.and_then(|leader| world.process(leader)) {
                let (leader, life) = (process.id, process.life);
                world.oracle.count(Seen::SpuriousReset);
                world.deliver(leader, life, spurious_reset(peer));
            }
        }
        Strike::Storm => {
            world.oracle.count(Seen::Storm);
            world.network.storm = true;
            let length = world.random.below(2 * patience);
            world.after(length, Happening::StormOver);
        }
        Strike::SlowLink => {
            // From what takes a heartbeat for one heartbeat to what a few entries do not notice. Both ways, as a cable is.
            let other = 1 + world.random.below(world.plan.machines());
            let bytes_per_ms = 1 + world.random.below(100);
            let length = world.random.below(world.plan.patience() * 6);
            world
                .trace
                .line(world.now, || format!("network: {node} - {other} carry {bytes_per_ms} bytes/ms"));
            for link in [(node, other), (other, node)] {
                world.network.set_rate(link, Some(bytes_per_ms));
                world.after(length, Happening::LinkQuick { link });
            }
        }
        Strike::DaemonSilent => {
            world.oracle.count(Seen::DaemonSilent);
            let length = world.random.below(3 * world.server_timeout());
            daemon_stops(world, server, length, None);
            if world.random.below(2) == 0 {
                // Somebody cleans up, perhaps after the chaos, perhaps too early.
                let later = world.random.below(3 * world.server_timeout());
                let order = ServerOrder::Forget(world.daemon(server).name.clone());
                world.after(later, Happening::Order { order });
            }
        }
        Strike::DaemonRestart => {
            world.oracle.count(Seen::DaemonRestart);
            let length = world.random.below(world.plan.report_interval);
            let epoch = world.daemon(server).stamp.epoch.saturating_add(1).min(COUNTER_MAX);
            daemon_stops(world, server, length, Some(epoch));
        }
        Strike::DaemonClock => {
            world.oracle.count(Seen::DaemonClock);
            let length = world.random.below(world.plan.report_interval);
            let epoch = world.daemon(server).stamp.epoch;
            let epoch = match world.random.below(4) {
                0 => 1,
                1 => epoch.saturating_sub(world.random.below(100)).max(1),
                2 => epoch.saturating_add(world.random.below(100_000)).min(COUNTER_MAX),
                _ => COUNTER_MAX,
            };
            daemon_stops(world, server, length, Some(epoch));
        }
        Strike::FalseReport => {
            world.oracle.count(Seen::FalseReport);
            let mut random = Random::new(world.random.next_u64());
            let report = world.daemon(server).false_report(&mut random);
            world.trace.line(world.now, || format!("a stranger reports {report:?}"));
            // To one node, as with curl, or to some.
            let all = world.random.below(2) == 0;
            for to in (1..=world.plan.machines()).filter(|to| all || *to == node) {
                let mail = ReportMail { report: report.clone(), forward: world.random.below(2) == 0 };
                world.after(MS, Happening::Report { to, mail });
            }
        }
        Strike::Order => {
            // Mostly an order that changes something.
            let dead = world.oracle.a_dead_server().filter(|_| world.random.below(4) > 0);
            let name = world.daemon(server).name.clone();
            match world.random.below(5) {
                0 | 1 => {
                    order(world, &ServerOrder::Drain(name.clone()));
                    let later = world.random.below(2 * patience);
                    world.after(later, Happening::Order { order: ServerOrder::Undrain(name) });
                }
                2 => order(world, &ServerOrder::Undrain(name)),
                _ => order(world, &ServerOrder::Forget(dead.unwrap_or(name))),
            }
        }
        Strike::DaemonCut => {
            world.oracle.count(Seen::DaemonCut);
            let length = world.random.below(2 * world.server_timeout());
            for node in 1..=world.plan.machines() {
                if world.random.below(2) == 0 {
                    world.network.daemon_cuts.insert((server, node));
                    world.after(length, Happening::DaemonMended { number: server, node });
                }
            }
        }
    }
}

/// An operator orders something at every node, one after the other, until one leads. Those that do not lead say so.
pub fn order(world: &mut World, order: &ServerOrder) {
    world.trace.line(world.now, || format!("an operator orders {order:?}"));
    for to in 1..=world.plan.nodes {
        let Some(life) = world.process(to).map(|process| process.life) else { continue };
        let caller = Caller::Operator(order.clone());
        world.deliver(to, life, Mail::Order { order: order.clone(), caller });
    }
}

fn crash(world: &mut World, node: NodeId, power_cut: bool) {
    if world.machine(node).process.is_some() {
        world.die(node, power_cut);
    }
}

fn plan_failure(world: &mut World, node: NodeId, failure: Failure) {
    let skip = world.random.below(6);
    world.trace.line(world.now, || format!("node {node}: disk will do {failure:?} after {skip} operations"));
    world.machine(node).disk.plan(failure, skip);
}

/// Empties a node's disk at any moment, unless too few would remember then.
fn wipe(world: &mut World, node: NodeId) {
    if !world.may_wipe(node) {
        return world.oracle.count(Seen::WipeForbidden);
    }
    let counted = world.machine(node).counts();
    world.oracle.count(if counted { Seen::Wiped } else { Seen::WipedJoining });
    world.trace.line(world.now, || format!("node {node}: its directory is emptied"));
    empty(world, node);
}

/// An operator asks some leader to add or to remove a node: perhaps one that follows an older term.
fn change_members(world: &mut World) {
    let leaders = world.leaders();
    let node = 1 + world.random.below(world.plan.machines());
    let Some(leader) =
        leaders.get(usize::try_from(world.random.below(leaders.len().max(1) as u64)).expect("small"))
    else {
        return;
    };
    let Some(process) = world.process(*leader) else { return };
    let (members, life) = (process.replica.raft().members(), process.life);
    let change = if members.contains(node) {
        MemberChange::Remove { id: node }
    } else {
        MemberChange::Add { id: node, cluster: format!("c{node}"), public: format!("p{node}") }
    };
    world.oracle.count(Seen::ChangeAsked);
    world.trace.line(world.now, || format!("node {leader}: is asked for {change:?}"));
    let leader = *leader;
    let is_removal = matches!(change, MemberChange::Remove { .. });
    world.ask_for_change(leader, life, change);
    if is_removal && world.random.below(2) == 0 {
        let soon = world.random.below(2 * world.plan.patience());
        world.after(soon, Happening::Replace { node, tries: REPLACE_TRIES });
    }
}

/// So often an operator looks whether the removal is committed, before he gives the replacement up.
const REPLACE_TRIES: u8 = 8;

/// As `rakit members replace` does it: once the removal is committed, a machine with an empty directory and another address is
/// added in place of the old one, under the same id.
pub fn replace(world: &mut World, node: NodeId, tries: u8) {
    let leader = world.leaders().last().copied();
    let leader = leader.filter(|leader| *leader != node).and_then(|leader| world.process(leader));
    let is_removed = leader.is_some_and(|process| {
        let raft = process.replica.raft();
        let list = raft.configuration();
        !list.members.contains(node) && list.index > 0 && list.index <= raft.commit_index()
    });
    let Some((leader, life)) = leader
        .filter(|_| is_removed && world.founders_allow_wipe(node))
        .map(|process| (process.id, process.life))
    else {
        if tries > 0 {
            let soon = world.random.below(world.plan.patience());
            world.after(soon, Happening::Replace { node, tries: tries - 1 });
        }
        return;
    };
    world.trace.line(world.now, || format!("node {node}: a machine with an empty directory takes its place"));
    empty(world, node);
    world.oracle.replaced(node);
    let wipes = world.machine(node).wipes;
    let (cluster, public) = (format!("c{node}-{wipes}"), format!("p{node}-{wipes}"));
    world.ask_for_change(leader, life, MemberChange::Add { id: node, cluster, public });
}

/// The process dies, and its directory is empty afterwards.
fn empty(world: &mut World, node: NodeId) {
    if world.machine(node).process.is_some() {
        world.die(node, false);
    }
    world.machine(node).wipe();
}

/// Lets a daemon stop; later it goes on, as a new process in this epoch if there is one.
fn daemon_stops(world: &mut World, server: u64, length: Time, epoch: Option<u64>) {
    let daemon = world.daemon(server);
    daemon.turns += 1;
    daemon.is_running = false;
    let turn = daemon.turns;
    world.after(length, Happening::DaemonTurn { number: server, turn, runs: true, epoch });
}

/// Cuts links, for a while.
fn partition(world: &mut World, node: NodeId) {
    let nodes = world.plan.machines();
    if nodes == 1 {
        return;
    }
    let leader = world.leaders().last().copied();
    let all: BTreeSet<NodeId> = (1..=nodes).collect();
    let mut links = BTreeSet::new();
    let both = |links: &mut BTreeSet<(NodeId, NodeId)>, one: NodeId, other: NodeId| {
        links.insert((one, other));
        links.insert((other, one));
    };
    let others = |node: NodeId| all.iter().copied().filter(move |other| *other != node);
    match world.random.below(5) {
        0 | 1 => {
            // Two sides; the one with `node` has from 1 node to a bare majority.
            let size = 1 + world.random.below(nodes / 2 + 1);
            let mut side = BTreeSet::from([node]);
            while (side.len() as u64) < size.min(nodes - 1) {
                side.insert(1 + world.random.below(nodes));
            }
            for one in &side {
                for other in all.difference(&side) {
                    both(&mut links, *one, *other);
                }
            }
            if let Some(leader) = leader {
                let with_leader = if side.contains(&leader) { side.len() } else { all.len() - side.len() };
                let majority = with_leader > all.len() / 2;
                world.oracle.count(if majority { Seen::LeaderInMajority } else { Seen::LeaderInMinority });
            }
        }
        2 => {
            world.oracle.count(Seen::Isolated);
            others(node).for_each(|other| both(&mut links, node, other));
        }
        3 => {
            world.oracle.count(Seen::OneWay);
            let deaf = world.random.below(2) == 0;
            let count = 1 + world.random.below(nodes - 1);
            links.extend(
                others(node)
                    .take(usize::try_from(count).expect("small"))
                    .map(|other| if deaf { (other, node) } else { (node, other) }),
            );
        }
        _ => {
            world.oracle.count(Seen::Partial);
            let other = others(node).nth(usize::try_from(world.random.below(nodes - 1)).expect("small"));
            both(&mut links, node, other.expect("there is another"));
        }
    }
    world.partitions += 1;
    let partition = world.partitions;
    world.trace.line(world.now, || format!("network: partition {partition} cuts {links:?}"));
    world.network.cut(partition, links);
    world.note_isolation();
    let length = world.random.below(world.plan.patience() * 6);
    world.after(length, Happening::Mended { partition });
}
