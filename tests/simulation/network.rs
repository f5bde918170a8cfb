//! The links between the nodes, and between daemons and nodes: which are cut, which are slow, and how long a message takes.

use std::collections::{BTreeMap, BTreeSet};

use rakit::raft::{NodeId, RpcId, RpcRequest};

use super::plan::{MS, Plan, Time};
use rakit::raft::Random;

/// Which of a peer's two senders: the log's or the elections' (`node/peers.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Log,
    Election,
}

impl Purpose {
    pub fn of(request: &RpcRequest) -> Self {
        match request {
            RpcRequest::AppendEntries(_) | RpcRequest::InstallSnapshot(_) => Self::Log,
            RpcRequest::PreVote(_)
            | RpcRequest::RequestVote(_)
            | RpcRequest::TimeoutNow(_)
            | RpcRequest::CompareState(_)
            | RpcRequest::Founding(_) => Self::Election,
        }
    }
}

/// A sender: one request under way, the newest of the others waits.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    pub under_way: Option<u64>,
    pub waiting: Option<(RpcId, RpcRequest)>,
}

/// How long a message takes, if it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Arrives { after: Time, slow: bool, late: bool },
}

/// A link that carries few bytes. Its messages wait for each other, whatever their purpose.
struct SlowLink {
    bytes_per_ms: u64,
    /// All that was put on it so far has arrived by then.
    busy_until: Time,
}

/// All links.
pub struct Network {
    /// By number of the partition: the links (from, to) that it cuts.
    partitions: BTreeMap<u64, BTreeSet<(NodeId, NodeId)>>,
    slow_links: BTreeMap<(NodeId, NodeId), SlowLink>,
    /// Links from a daemon (by number) to a node.
    pub daemon_cuts: BTreeSet<(u64, NodeId)>,
    pub slots: BTreeMap<(NodeId, NodeId, Purpose), Slot>,
    /// While a storm lasts, more messages are lost, late or doubled.
    pub storm: bool,
    /// In the second phase: the healed nodes. No message between two of them is lost.
    pub healed: BTreeSet<NodeId>,
}

impl Network {
    pub fn new() -> Self {
        Self {
            partitions: BTreeMap::new(),
            slow_links: BTreeMap::new(),
            daemon_cuts: BTreeSet::new(),
            slots: BTreeMap::new(),
            storm: false,
            healed: BTreeSet::new(),
        }
    }

    pub fn cut(&mut self, number: u64, links: BTreeSet<(NodeId, NodeId)>) {
        self.partitions.insert(number, links);
    }

    pub fn mend(&mut self, number: u64) {
        self.partitions.remove(&number);
    }

    pub fn mend_all(&mut self) {
        self.partitions.clear();
        self.slow_links.clear();
        self.daemon_cuts.clear();
        self.storm = false;
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.partitions.values().any(|links| links.contains(&(from, to)))
    }

    /// From now on, this link carries so many bytes in a millisecond; as many as there are if `None`.
    pub fn set_rate(&mut self, link: (NodeId, NodeId), bytes_per_ms: Option<u64>) {
        match bytes_per_ms {
            Some(bytes_per_ms) => {
                let slow = self.slow_links.entry(link).or_insert(SlowLink { bytes_per_ms, busy_until: 0 });
                slow.bytes_per_ms = bytes_per_ms;
            }
            None => {
                self.slow_links.remove(&link);
            }
        }
    }

    /// How long a message of so many bytes waits for a slow link, and is on it; 0 on any other. `None` if the link's queue has
    /// no room for it: it would arrive later than any other message does.
    pub fn queues(
        &mut self,
        plan: &Plan,
        now: Time,
        link: (NodeId, NodeId),
        bytes: impl FnOnce() -> u64,
    ) -> Option<Time> {
        let Some(slow) = self.slow_links.get_mut(&link) else { return Some(0) };
        let arrives = slow.busy_until.max(now) + bytes() * MS / slow.bytes_per_ms;
        let takes = arrives - now;
        (takes < plan.latest()).then(|| {
            slow.busy_until = arrives;
            takes
        })
    }

    /// Whether nothing reaches this node and nothing leaves it.
    pub fn is_isolated(&self, node: NodeId, nodes: u64) -> bool {
        nodes > 1
            && (1..=nodes)
                .filter(|peer| *peer != node)
                .all(|peer| self.is_cut(node, peer) && self.is_cut(peer, node))
    }

    /// Draws the fate of a message from one node to another.
    pub fn fate(&self, plan: &Plan, random: &mut Random, from: NodeId, to: NodeId) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Lost;
        }
        let healed = self.healed.contains(&from) && self.healed.contains(&to);
        self.draw(plan, random, healed)
    }

    /// The same for a daemon's report.
    pub fn daemon_fate(&self, plan: &Plan, random: &mut Random, daemon: u64, to: NodeId) -> Fate {
        if self.daemon_cuts.contains(&(daemon, to)) {
            return Fate::Lost;
        }
        self.draw(plan, random, self.healed.contains(&to))
    }

    fn draw(&self, plan: &Plan, random: &mut Random, healed: bool) -> Fate {
        let worse = if self.storm { 300 } else { 0 };
        let quick = 50 + random.below(450);
        if healed {
            return Fate::Arrives { after: quick, slow: false, late: false };
        }
        if random.below(1_000) < plan.loss + worse {
            return Fate::Lost;
        }
        if random.below(1_000) < plan.late {
            let after = random.below(plan.latest());
            return Fate::Arrives { after, slow: false, late: true };
        }
        if random.below(1_000) < plan.slow + worse {
            return Fate::Arrives { after: MS + random.below(59 * MS), slow: true, late: false };
        }
        Fate::Arrives { after: quick, slow: false, late: false }
    }

    /// Whether a message comes twice.
    pub fn doubles(&self, plan: &Plan, random: &mut Random) -> bool {
        random.below(1_000) < plan.duplicates + if self.storm { 100 } else { 0 }
    }
}
