//! Lets a cluster run by itself for a while: delivers all messages, holds an election, lets network and clocks run, or mends
//! everything and demands progress.

use std::time::Duration;

use rakit::raft::NodeId;

use super::{Cluster, ELECTION_TIMEOUT, Event, HEARTBEAT, Node};

/// No run may take more events than this in one instant of the virtual clock: it would be a busy loop.
const EVENTS_PER_INSTANT_MAX: usize = 200_000;

impl Cluster {
    /// Delivers everything under way, in order, and all that this causes; no time passes.
    pub fn settle(&mut self) {
        for _ in 0..EVENTS_PER_INSTANT_MAX {
            if self.in_flight.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the messages never end");
    }

    /// The node's election timeout passes, and the network carries all that follows.
    pub fn campaign(&mut self, id: NodeId) {
        self.tick(id);
        self.settle();
    }

    /// Makes a node leader in a calm cluster. Panics if it does not win.
    pub fn elect(&mut self, id: NodeId) {
        // On all nodes the election timeout of an earlier leader passes.
        self.now += ELECTION_TIMEOUT.1;
        self.campaign(id);
        assert!(self.raft(id).is_leader(), "node {id} should have been elected");
    }

    /// Lets the network and the clocks run for so long.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// The same, until something holds. Whether it did.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        let (mut instant, mut events) = (self.now, 0);
        loop {
            if done(self) {
                return true;
            }
            let message =
                self.in_flight.iter().enumerate().min_by_key(|(_, message)| (message.due, message.id));
            let message = message.map(|(position, message)| (message.due, position));
            let tick = self.up().map(|(id, raft)| (raft.deadline(), id)).min();
            // What has arrived is read before the clock is looked at.
            let (at, deliver) = match (message, tick) {
                (Some((due, position)), Some((deadline, _))) if due <= deadline => (due, Some(position)),
                (Some((due, position)), None) => (due, Some(position)),
                (_, Some((deadline, _))) => (deadline, None),
                (None, None) => (until, None),
            };
            if at >= until {
                self.now = until;
                return done(self);
            }
            self.now = self.now.max(at);
            events = if self.now == instant { events + 1 } else { 0 };
            instant = self.now;
            assert!(events < EVENTS_PER_INSTANT_MAX, "a busy loop at {instant:?}");
            match (deliver, tick) {
                (Some(position), _) => self.deliver(position),
                (None, Some((_, id))) => self.step(id, Event::Tick),
                (None, None) => unreachable!("nothing to do ends the run above"),
            }
        }
    }

    /// Everything is mended: cuts, disks, dead processes, the network. Then the cluster must come to rest with one
    /// leader and one log, and a new proposal must be applied on all.
    pub fn demand_progress(&mut self) {
        /// Ample: a few elections that collide, and a few snapshots.
        const PATIENCE: Duration = Duration::from_secs(30);
        self.heal();
        self.network.loss_per_mille = 0;
        for id in self.ids() {
            self.release_disk(id);
            self.restart(id);
        }
        assert!(self.run_until(PATIENCE, Self::is_settled), "no progress after healing: {}", self.describe());
        // A leader that hands over refuses proposals until that has succeeded or timed out: clients ask again.
        let asked_at = self.now;
        loop {
            assert!(self.now < asked_at + PATIENCE, "no new entry after healing: {}", self.describe());
            let proposal = self.leader().map(|leader| self.propose_next(leader));
            let committed = |cluster: &Self| {
                proposal.is_some_and(|id| cluster.properties.committed_index_of(id).is_some())
            };
            if self.run_until(HEARTBEAT, committed) {
                break;
            }
        }
        assert!(self.run_until(PATIENCE, Self::is_settled), "no rest after healing: {}", self.describe());
        // A leader that is no member any more finds out a little later that it leads nobody.
        self.run_until(PATIENCE, |cluster| !cluster.properties.somebody_waits());
        self.properties.all_resolved();
    }

    /// One line per node.
    pub fn describe(&self) -> String {
        let line = |(id, node): (&NodeId, &Node)| match &node.raft {
            None => format!("{id}: down, disk {}..{}", node.disk.snapshot_index(), node.disk.last_index()),
            Some(raft) => format!(
                "{id}: {}{} term={} vote={} leader={} log={}..{}/{} commit={} applied={}",
                raft.role_name(),
                if raft.is_joining() { " joining" } else { "" },
                raft.hard_state().term,
                raft.hard_state().voted_for.map_or("-".into(), |vote| vote.to_string()),
                raft.leader().map_or("-".into(), |leader| leader.to_string()),
                raft.log().first_index(),
                raft.log().last_index(),
                raft.log().last_term(),
                raft.commit_index(),
                node.machine.index,
            ),
        };
        self.nodes.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
