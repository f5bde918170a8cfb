//! The faults: how each begins and ends, and which nodes it affects.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::clients::{Condition, Health};
use super::cluster::Cluster;
use super::dice::Dice;
use super::members::Members;
use super::place::{NODES, NodeId, Place};

/// What can happen. The deck of a round holds each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of the leader.
    KillLeader,
    /// `kill -9` of any node.
    KillOne,
    /// Of three at once: no majority is left.
    KillThree,
    /// Of all.
    KillAll,
    /// SIGSTOP of the leader, SIGCONT later.
    PauseLeader,
    /// SIGSTOP of any node.
    PauseOne,
    /// A node's disk is full to the last byte.
    FullDisk,
    /// Every fsync of a node fails: EIO, as of a broken disk.
    FailingSync,
    /// The leader's host is off the network.
    UnplugLeader,
    /// Any host is.
    UnplugOne,
    /// What one node sends to another is lost, not the other way round.
    OneWay,
    /// What the leader sends reaches no peer; it receives everything.
    MuteLeader,
    /// The leader receives nothing from its peers; they receive everything.
    DeafLeader,
    /// Two nodes on one side, the others on the other; clients, daemons and workers reach both sides.
    Split,
    /// A node that was removed has lost its directory: it is killed, and started again with an empty one.
    EmptyOutsider,
    /// All connections to and from a living node's cluster address are reset.
    CloseConnections,
}

impl Kind {
    /// All that can be done in this place and, if `traced`, to a system call.
    pub fn deck(place: Place, traced: bool) -> Vec<Self> {
        let everywhere = [
            Self::KillLeader,
            Self::KillOne,
            Self::KillThree,
            Self::KillAll,
            Self::PauseLeader,
            Self::PauseOne,
            Self::EmptyOutsider,
        ];
        let isolated = [
            Self::FullDisk,
            Self::UnplugLeader,
            Self::UnplugOne,
            Self::OneWay,
            Self::MuteLeader,
            Self::DeafLeader,
            Self::Split,
            Self::CloseConnections,
        ];
        let isolated = isolated.into_iter().filter(|_| place == Place::Namespaces);
        let traced = traced.then_some(Self::FailingSync);
        everywhere.into_iter().chain(isolated).chain(traced).collect()
    }

    /// Whether the node ends by this fault as soon as it has something to write.
    pub fn is_of_the_disk(self) -> bool {
        matches!(self, Self::FullDisk | Self::FailingSync)
    }
}

/// A fault that has begun.
#[derive(Debug)]
pub struct Fault {
    /// Which.
    pub kind: Kind,
    /// The nodes that it affects: while it lasts, their requests may fail.
    pub sick: Vec<NodeId>,
    /// The ways that it cut.
    cuts: Vec<(NodeId, NodeId)>,
}

/// Begins a fault, unless the nodes that it needs are faulty already.
pub fn begin(
    kind: Kind,
    leader: Option<NodeId>,
    active: &[Fault],
    cluster: &mut Cluster,
    members: &Members,
    conditions: &BTreeMap<NodeId, Condition>,
    dice: &mut Dice,
) -> Option<Fault> {
    let is_sick = |id: &NodeId| active.iter().any(|fault| fault.sick.contains(id));
    let mut well: Vec<NodeId> = (1..=NODES).filter(|id| !is_sick(id)).collect();
    dice.shuffle(&mut well);
    let leader = leader.filter(|leader| well.contains(leader));
    let others = |of: NodeId| (1..=NODES).filter(move |id| *id != of);
    let (sick, cuts) = match kind {
        Kind::KillLeader | Kind::PauseLeader | Kind::UnplugLeader => (vec![leader?], vec![]),
        Kind::KillOne | Kind::PauseOne | Kind::FullDisk | Kind::FailingSync | Kind::UnplugOne => {
            (vec![*well.first()?], vec![])
        }
        Kind::EmptyOutsider => (vec![members.hold_outsider(&well)?], vec![]),
        Kind::KillThree => (well.get(..3)?.to_vec(), vec![]),
        Kind::KillAll => (well.get(..usize::from(NODES))?.to_vec(), vec![]),
        Kind::OneWay => (vec![], vec![(*well.first()?, *well.get(1)?)]),
        Kind::MuteLeader => (vec![], others(leader?).map(|to| (leader.expect("checked"), to)).collect()),
        Kind::DeafLeader => (vec![], others(leader?).map(|from| (from, leader.expect("checked"))).collect()),
        Kind::Split => {
            let (few, many) = well.get(..usize::from(NODES))?.split_at(2);
            let ways = few.iter().flat_map(|a| many.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect();
            (vec![], ways)
        }
        Kind::CloseConnections => {
            cluster.hosts.close_connections(*well.first()?);
            (vec![], vec![])
        }
    };
    for id in &sick {
        conditions[id].set(Health::Faulty);
        match kind {
            Kind::KillLeader | Kind::KillOne | Kind::KillThree | Kind::KillAll => cluster.kill(*id),
            Kind::EmptyOutsider => {
                cluster.kill(*id);
                cluster.hosts.empty(*id);
            }
            Kind::PauseLeader | Kind::PauseOne => cluster.signal(*id, Signal::STOP),
            Kind::FullDisk => cluster.hosts.fill(*id),
            Kind::FailingSync => cluster.fail_syncs(*id),
            Kind::UnplugLeader | Kind::UnplugOne => cluster.hosts.cable(*id, false),
            _ => unreachable!("the others make nobody sick"),
        }
    }
    for (from, to) in &cuts {
        cluster.hosts.cut(*from, *to);
    }
    Some(Fault { kind, sick, cuts })
}

/// Ends it.
pub fn end(
    fault: &Fault,
    cluster: &mut Cluster,
    members: &Members,
    conditions: &BTreeMap<NodeId, Condition>,
) {
    for (from, to) in &fault.cuts {
        cluster.hosts.mend(*from, *to);
    }
    for id in &fault.sick {
        match fault.kind {
            Kind::PauseLeader | Kind::PauseOne => cluster.signal(*id, Signal::CONT),
            Kind::UnplugLeader | Kind::UnplugOne => cluster.hosts.cable(*id, true),
            Kind::FullDisk | Kind::FailingSync => {
                // It has ended itself as soon as it had something to write. If it had not, it may be in the middle of
                // that now.
                if cluster.runs(*id) {
                    cluster.kill(*id);
                }
                match fault.kind {
                    Kind::FullDisk => cluster.hosts.clear(*id),
                    _ => cluster.end_trace(*id),
                }
            }
            _ => {}
        }
        if !cluster.runs(*id) {
            cluster.start(*id);
        }
        conditions[id].set(Health::Recovering);
    }
    if fault.kind == Kind::EmptyOutsider {
        members.release_outsider();
    }
}
