//! A small deterministic cluster in memory: real cores, and around them a network, a clock and disks that do exactly what
//! a test says. All tests in `tests/raft/` use it.
//!
//! - The *network* is a list of messages under way. Each can be delivered, dropped, doubled, or overtaken by another.
//!   `run_for` delivers them by their due time instead, as a real network would.
//! - The *clock* is virtual and shared. Nothing happens between two events.
//! - The *disk* of a node is a queue of writes and what is behind them. By default, a write is durable at once; `hold_disk`
//!   makes it wait for `persist`. A crash loses what waits, or all but its first records.
//! - The driver's duties are those of `rakit::raft::output`: send now; write; send once durable; apply; resolve.
//! - After each step, the properties of the paper's Figure 3 and others are asserted: see `properties.rs`.

// Each of the test programs uses a part of this.

pub mod disk;
pub mod lone;
pub mod machine;
pub mod properties;
pub mod stretches;
pub mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rakit::raft::{
    Apply, Command, Durable, Entry, Event, Founders, Founding, HardState, Index, MemberChange, NodeId,
    Output, ProposalId, Raft, Random, Resolution, RpcId, RpcReply, RpcRequest, SendOnceDurable, Settings,
    Snapshot, Term,
};

pub use disk::Disk;
pub use machine::Machine;
pub use properties::Properties;

/// The defaults of cluster.toml.
pub const ELECTION_TIMEOUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1000));
/// The default of cluster.toml.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// What a message carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A request, with the number its sender gave it.
    Request { rpc: RpcId, request: RpcRequest },
    /// The reply to the request of that number.
    Reply { rpc: RpcId, reply: RpcReply },
    /// The transport reports that the request of that number will get no reply.
    Lost { rpc: RpcId },
}

/// One message under way.
#[derive(Clone, Debug)]
pub struct Message {
    /// Grows with each message sent.
    pub id: u64,
    /// When `run_for` delivers it.
    pub due: Duration,
    pub from: NodeId,
    pub to: NodeId,
    /// Of the process that sent the request. A reply goes back over the request's connection, so it never reaches a
    /// process that was started later.
    pub incarnation: u64,
    /// Of the payload's words: equal exactly if the payloads are, the numbers of requests left aside.
    pub digest: u64,
    pub payload: Payload,
}

/// One output's demands on the disk, and what waits for them.
#[derive(Clone, Debug, Default)]
pub struct Write {
    pub mark: u64,
    pub durable: Vec<Durable>,
    pub sends: Vec<SendOnceDurable>,
    pub apply: Vec<Apply>,
    pub resolved: Vec<(ProposalId, Resolution)>,
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Node {
    pub settings: Settings,
    /// `None` while it is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// The writes that the disk has not finished yet, oldest first.
    pub writes: VecDeque<Write>,
    pub machine: Machine,
    /// How often it was started.
    pub incarnation: u64,
    /// Writes wait for `persist`.
    pub disk_held: bool,
}

/// How `run_for` carries messages. Draws come from a generator of its own, so the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Network {
    /// The range of a message's time under way.
    pub latency: (Duration, Duration),
    /// How many of 1,000 messages are lost.
    pub loss_per_mille: u64,
    /// The time after which the sender of a lost request learns of the loss.
    pub lost_after: Duration,
    pub dice: Random,
}

/// What was sent, since the counts were last reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests of any kind.
    pub requests: u64,
    /// AppendEntries among them.
    pub appends: u64,
    /// PreVote and RequestVote among them.
    pub votes: u64,
    /// InstallSnapshot among them.
    pub installs: u64,
    /// Entries in the appends.
    pub entries: u64,
    /// Bytes of the commands in these entries.
    pub bytes: u64,
}

/// The cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub now: Duration,
    /// Messages under way, in the order they were sent.
    pub in_flight: Vec<Message>,
    /// One-way cuts: (from, to).
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub network: Network,
    pub properties: Properties,
    /// Off when a script forges messages: the properties hold for honest nodes.
    pub checked: bool,
    pub counts: Counts,
    /// Readable lines of what happened, if wanted.
    pub transcript: Option<Vec<String>>,
    /// Restarted nodes draw other timeouts than before. (The explorer wants the same.)
    pub vary_seed: bool,
    next_message: u64,
    next_proposal: ProposalId,
    next_change: ProposalId,
}

/// Changes of members are numbered from here on.
pub const FIRST_CHANGE: ProposalId = 1 << 40;

/// Entries with these terms, from index 1. The command of each names its index and term.
pub fn entries_of_terms(terms: &[Term]) -> Vec<Entry> {
    let entry = |(index, term): (Index, Term)| Entry {
        index,
        term,
        command: Command::from_value(&format!("{index}@{term}")).expect("a string has a JSON form"),
    };
    (1..).zip(terms.iter().copied()).map(entry).collect()
}

/// A command with this text.
pub fn command(text: &str) -> Command {
    Command::from_value(&text).expect("a string has a JSON form")
}

impl Cluster {
    /// Nodes 1 to `count`, as new, with the default settings.
    pub fn new(count: u64) -> Self {
        Self::with(count, |_| {})
    }

    /// The same with other settings.
    pub fn with(count: u64, tune: impl Fn(&mut Settings)) -> Self {
        let voters: BTreeSet<NodeId> = (1..=count).collect();
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now: Duration::ZERO,
            in_flight: Vec::new(),
            cut: BTreeSet::new(),
            network: Network {
                latency: (Duration::from_millis(1), Duration::from_millis(1)),
                loss_per_mille: 0,
                lost_after: 2 * HEARTBEAT,
                dice: Random::new(count),
            },
            properties: Properties::default(),
            checked: true,
            counts: Counts::default(),
            transcript: None,
            vary_seed: true,
            next_message: 1,
            next_proposal: 1,
            next_change: FIRST_CHANGE,
        };
        for &id in &voters {
            let mut settings = Settings::new(id, voters.clone(), ELECTION_TIMEOUT, HEARTBEAT, id);
            tune(&mut settings);
            let node = Node {
                settings,
                raft: None,
                disk: Disk::default(),
                writes: VecDeque::new(),
                machine: Machine::default(),
                incarnation: 0,
                disk_held: false,
            };
            cluster.nodes.insert(id, node);
            cluster.restart(id);
        }
        cluster
    }

    /// Nodes 1 to `count` on fresh directories: joining, with the founding as their log.
    pub fn fresh(count: u64, tune: impl Fn(&mut Settings)) -> Self {
        let mut cluster = Self::with(count, tune);
        let disk = Disk::fresh(&cluster.founding());
        cluster.properties.presume_entries(&disk.entries);
        for id in cluster.ids() {
            cluster.node_mut(id).disk = disk.clone();
            cluster.boot(id);
        }
        cluster
    }

    /// The same a moment after the founding: all of them count.
    pub fn founded(count: u64, tune: impl Fn(&mut Settings)) -> Self {
        let mut cluster = Self::fresh(count, tune);
        for id in cluster.ids() {
            cluster.node_mut(id).disk.hard_state.joining = false;
            cluster.boot(id);
        }
        cluster
    }

    pub fn founding(&self) -> Founding {
        let founders = self.nodes.values().next().expect("a cluster has nodes");
        Founding::new("test", founders.settings.founding.voters())
    }

    /// A machine on which a node may be started that the founding does not know: on a fresh directory.
    pub fn add_machine(&mut self, id: NodeId) {
        let mut settings = self.nodes.values().next().expect("a cluster has nodes").settings.clone();
        settings.id = id;
        settings.seed = settings.seed.wrapping_add(id);
        settings.incarnation = 1;
        let node = Node {
            settings,
            raft: None,
            disk: Disk::fresh(&self.founding()),
            writes: VecDeque::new(),
            machine: Machine::default(),
            incarnation: 0,
            disk_held: false,
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    /// Another seed for all timeouts and the network.
    pub fn seeded(mut self, seed: u64) -> Self {
        self.network.dice = Random::new(seed);
        for id in self.ids() {
            self.node_mut(id).settings.seed = seed.wrapping_mul(1_000_003).wrapping_add(id);
            self.boot(id);
        }
        self
    }

    /// Gives a node another past: its disk has this, and its process starts from it. Of `entries`, which begin at index 1,
    /// those up to `snapshot` are compacted; they count as committed.
    pub fn set_node(&mut self, id: NodeId, hard_state: HardState, entries: Vec<Entry>, snapshot: Index) {
        let mut machine = Machine::default();
        for entry in entries.iter().take_while(|entry| entry.index <= snapshot) {
            machine.apply(&Apply::Entry(entry.clone()));
            self.properties.presume_committed(entry, machine.digest);
        }
        self.properties.presume_entries(&entries);
        let last = entries.iter().rfind(|entry| entry.index <= snapshot);
        let snapshot = last.map(|entry| {
            let (last_index, last_term) = (entry.index, entry.term);
            Snapshot { last_index, last_term, state: machine.to_state(), members: None }.into()
        });
        let entries = entries.into_iter().filter(|entry| entry.index > machine.index).collect();
        self.node_mut(id).disk = Disk { hard_state, founders: Founders::new(), snapshot, entries };
        self.boot(id);
    }

    /// The same, by the terms of the entries; nothing compacted, no vote.
    pub fn set_log(&mut self, id: NodeId, term: Term, terms: &[Term]) {
        self.set_node(id, HardState { term, voted_for: None, joining: false }, entries_of_terms(terms), 0);
    }

    // ------------------------------------------------------------------------------------------------ questions

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(&id).expect("a node of this cluster")
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this cluster")
    }

    /// The core of a node that is up.
    pub fn raft(&self, id: NodeId) -> &Raft {
        self.node(id).raft.as_ref().expect("the node is up")
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.node(id).raft.is_some()
    }

    pub fn up(&self) -> impl Iterator<Item = (NodeId, &Raft)> {
        self.nodes.iter().filter_map(|(id, node)| node.raft.as_ref().map(|raft| (*id, raft)))
    }

    /// The leader of the newest term among the nodes that are up.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.up().filter(|(_, raft)| raft.is_leader());
        leaders.max_by_key(|(_, raft)| raft.hard_state().term).map(|(id, _)| id)
    }

    /// The term of a node that is up.
    pub fn term(&self, id: NodeId) -> Term {
        self.raft(id).hard_state().term
    }

    /// The terms of the entries a node holds.
    pub fn log_terms(&self, id: NodeId) -> Vec<Term> {
        let log = self.raft(id).log();
        (log.first_index()..=log.last_index()).filter_map(|index| log.term_at(index)).collect()
    }

    /// Whether all nodes are up, one leads and the others follow it, and all hold and have applied the same log.
    pub fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let raft = self.raft(leader);
        let (term, last, last_term) =
            (raft.hard_state().term, raft.log().last_index(), raft.log().last_term());
        let members = raft.members();
        let is_member = |node: &&Node| members.contains(node.settings.id);
        members.voters().all(|voter| !self.node(voter).disk.hard_state.joining)
            && self.nodes.values().filter(is_member).all(|node| {
                node.writes.is_empty()
                    && node.machine.index == last
                    && node.raft.as_ref().is_some_and(|raft| {
                        (raft.leader(), raft.hard_state().term) == (Some(leader), term)
                            && (raft.log().last_index(), raft.log().last_term()) == (last, last_term)
                            && raft.commit_index() == last
                    })
            })
    }

    // --------------------------------------------------------------------------------------------------- events

    /// Steps a node that is up, and does what its output says.
    pub fn step(&mut self, id: NodeId, event: Event) {
        let now = self.now;
        let Some(raft) = &mut self.node_mut(id).raft else { return };
        raft.step(now, event);
        let output = raft.take_output();
        self.perform(id, output);
    }

    fn perform(&mut self, id: NodeId, output: Output) {
        if self.checked {
            Properties::after_step(self, id, &output);
        }
        let incarnation = self.node(id).incarnation;
        for notice in &output.notices {
            self.note(|| notice.line(id));
        }
        for send in output.send_now {
            self.send(id, send.to, incarnation, Payload::Request { rpc: send.rpc, request: send.request });
        }
        let write = Write {
            mark: output.mark,
            durable: output.durable,
            sends: output.send_once_durable,
            apply: output.apply,
            resolved: output.resolved,
        };
        self.node_mut(id).writes.push_back(write);
        self.flush(id);
    }

    /// Finishes the writes that need not wait.
    fn flush(&mut self, id: NodeId) {
        loop {
            let node = self.node(id);
            match node.writes.front() {
                Some(write) if write.durable.is_empty() || !node.disk_held => self.finish_write(id),
                _ => return,
            }
        }
    }

    /// The disk of `id` finishes its oldest write. False if there was none.
    pub fn persist(&mut self, id: NodeId) -> bool {
        if self.node(id).writes.is_empty() {
            return false;
        }
        self.finish_write(id);
        self.flush(id);
        true
    }

    fn finish_write(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let Some(write) = node.writes.pop_front() else { return };
        for durable in &write.durable {
            node.disk.write(durable);
        }
        let incarnation = node.incarnation;
        for apply in &write.apply {
            self.node_mut(id).machine.apply(apply);
            let machine = self.node(id).machine;
            if self.checked {
                self.properties.applied(id, apply, machine);
            }
        }
        for (proposal, resolution) in &write.resolved {
            self.note(|| match proposal.checked_sub(FIRST_CHANGE) {
                None => format!("{id}: proposal {proposal} {}", words::resolution(resolution)),
                Some(before) => format!("{id}: change {} {}", before + 1, words::resolution(resolution)),
            });
            if self.checked {
                self.properties.resolved(*proposal, *resolution);
            }
        }
        for send in write.sends {
            if self.checked {
                Properties::promise(self, id, &send);
            }
            match send {
                SendOnceDurable::Request { to, rpc, request } => {
                    self.send(id, to, incarnation, Payload::Request { rpc, request });
                }
                SendOnceDurable::Reply { to, token, reply } => {
                    // The token holds what names the request: its sender's incarnation and number.
                    let (incarnation, rpc) = (token >> 32, token & 0xffff_ffff);
                    self.send(id, to, incarnation, Payload::Reply { rpc, reply });
                }
            }
        }
        if write.mark > 0 {
            self.step(id, Event::Persisted { mark: write.mark });
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, incarnation: u64, payload: Payload) {
        let text = words::payload(&payload);
        let digest = machine::digest_of(&text, 0);
        self.note(|| format!("{from}→{to} {text}"));
        if let Payload::Request { request, .. } = &payload {
            self.counts.requests += 1;
            match request {
                RpcRequest::AppendEntries(arguments) => {
                    self.counts.appends += 1;
                    self.counts.entries += arguments.entries.len() as u64;
                    self.counts.bytes += arguments
                        .entries
                        .iter()
                        .map(|entry| entry.command.as_json().len() as u64)
                        .sum::<u64>();
                }
                RpcRequest::PreVote(_) | RpcRequest::RequestVote(_) => self.counts.votes += 1,
                RpcRequest::InstallSnapshot(_) => self.counts.installs += 1,
                RpcRequest::TimeoutNow(_) | RpcRequest::CompareState(_) | RpcRequest::Founding(_) => {}
            }
        }
        let network = &mut self.network;
        let (low, high) = network.latency;
        let width = (high - low).as_micros() as u64;
        let mut due = self.now + low;
        if width > 0 {
            due += Duration::from_micros(network.dice.below(width + 1));
        }
        let (mut from, mut to, mut payload) = (from, to, payload);
        if network.loss_per_mille > 0 && network.dice.below(1000) < network.loss_per_mille {
            // The request or its reply was lost. In both cases the transport reports it to the sender of the request.
            due = self.now + network.lost_after;
            payload = match payload {
                Payload::Request { rpc, .. } => {
                    std::mem::swap(&mut from, &mut to);
                    Payload::Lost { rpc }
                }
                Payload::Reply { rpc, .. } | Payload::Lost { rpc } => Payload::Lost { rpc },
            };
        }
        let id = self.next_message;
        self.next_message += 1;
        self.in_flight.push(Message { id, due, from, to, incarnation, digest, payload });
    }

    /// The message at this position of `in_flight` arrives.
    pub fn deliver(&mut self, position: usize) {
        let message = self.in_flight.remove(position);
        self.arrive(message);
    }

    /// It arrives, and will arrive once more.
    pub fn deliver_twice(&mut self, position: usize) {
        let message = self.in_flight[position].clone();
        self.arrive(message);
    }

    /// The message is lost, and nobody learns of it.
    pub fn drop_message(&mut self, position: usize) {
        let message = self.in_flight.remove(position);
        self.note(|| format!("✗ {}→{} {}", message.from, message.to, words::payload(&message.payload)));
    }

    /// The message is lost, and the sender of the request learns of it.
    pub fn lose_message(&mut self, position: usize) {
        let message = self.in_flight.remove(position);
        self.note(|| format!("✗ {}→{} {}", message.from, message.to, words::payload(&message.payload)));
        match message.payload {
            Payload::Request { rpc, .. } => {
                self.requester_told(message.from, message.to, message.incarnation, rpc);
            }
            Payload::Reply { rpc, .. } | Payload::Lost { rpc } => {
                self.requester_told(message.to, message.from, message.incarnation, rpc);
            }
        }
    }

    fn requester_told(&mut self, requester: NodeId, peer: NodeId, incarnation: u64, rpc: RpcId) {
        if self.node(requester).incarnation == incarnation {
            self.step(requester, Event::Lost { to: peer, rpc });
        }
    }

    fn arrive(&mut self, message: Message) {
        let Message { from, to, incarnation, payload, .. } = message;
        let is_word = matches!(payload, Payload::Lost { .. });
        if self.cut.contains(&(from, to)) && !is_word {
            self.note(|| format!("✗ {from}→{to} {}", words::payload(&payload)));
            return;
        }
        match payload {
            Payload::Request { rpc, .. } if !self.is_up(to) => {
                self.note(|| format!("✗ {from}→{to} refused: node {to} is down"));
                self.requester_told(from, to, incarnation, rpc);
            }
            Payload::Request { rpc, request } => {
                assert!(rpc < 1 << 32 && incarnation < 1 << 32, "the token holds both");
                let token = incarnation << 32 | rpc;
                self.step(to, Event::Request { from, token, request });
            }
            _ if self.node(to).incarnation != incarnation => {}
            Payload::Reply { rpc, reply } => self.step(to, Event::Reply { from, rpc, reply }),
            Payload::Lost { rpc } => self.step(to, Event::Lost { to: from, rpc }),
        }
    }

    /// The clock goes on to the node's deadline (never back), and the node notices.
    pub fn tick(&mut self, id: NodeId) {
        let Some(raft) = &self.node(id).raft else { return };
        self.now = self.now.max(raft.deadline());
        self.step(id, Event::Tick);
    }

    /// A client's command. The number of the proposal.
    pub fn propose(&mut self, id: NodeId, command: Command) -> ProposalId {
        let proposal = self.next_proposal;
        self.next_proposal += 1;
        if self.is_up(id) {
            self.properties.proposed(proposal, id, &command);
            self.step(id, Event::Propose { id: proposal, command });
        }
        proposal
    }

    /// The same with a command that nobody proposed before.
    pub fn propose_next(&mut self, id: NodeId) -> ProposalId {
        let text = format!("p{}", self.next_proposal);
        self.propose(id, command(&text))
    }

    /// An operator's order. The number of the change.
    pub fn change(&mut self, id: NodeId, change: MemberChange) -> ProposalId {
        let number = self.next_change;
        self.next_change += 1;
        if self.is_up(id) {
            self.properties.changes.insert(number, (id, None));
            self.step(id, Event::ChangeMembers { id: number, change });
        }
        number
    }

    pub fn add(&mut self, leader: NodeId, id: NodeId) -> ProposalId {
        let (cluster, public) = (format!("c{id}"), format!("p{id}"));
        self.change(leader, MemberChange::Add { id, cluster, public })
    }

    pub fn remove(&mut self, leader: NodeId, id: NodeId) -> ProposalId {
        self.change(leader, MemberChange::Remove { id })
    }

    /// The disk of a node finishes all that waits, and is fast from now on.
    pub fn release_disk(&mut self, id: NodeId) {
        self.node_mut(id).disk_held = false;
        self.flush(id);
    }

    /// The connection by which a follower watched its leader's process is closed.
    pub fn leader_gone(&mut self, id: NodeId) {
        let leader = self.node(id).raft.as_ref().and_then(Raft::leader);
        if let Some(leader) = leader.filter(|leader| *leader != id) {
            self.step(id, Event::LeaderGone { leader });
        }
    }

    /// The node's state machine hands its state to the core.
    pub fn compact(&mut self, id: NodeId) {
        let machine = self.node(id).machine;
        if machine.index > 0 {
            self.step(id, Event::Compact { at: machine.index, state: machine.to_state() });
        }
    }

    /// The process dies. Of what its disk had not finished, the first `kept` records are there afterwards.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        let node = self.node_mut(id);
        if node.raft.take().is_none() {
            return;
        }
        let unfinished: Vec<Write> = node.writes.drain(..).collect();
        for durable in unfinished.iter().flat_map(|write| &write.durable).take(kept) {
            node.disk.write(durable);
        }
        self.properties.crashed(id);
        self.note(|| format!("{id}: crashed"));
    }

    /// The process dies and its directory is emptied. It starts again as a node without memory, in another life.
    pub fn wipe(&mut self, id: NodeId) {
        self.crash(id, 0);
        let fresh = Disk::fresh(&self.founding());
        let node = self.node_mut(id);
        let lost = std::mem::replace(&mut node.disk, fresh);
        node.settings.incarnation += 1;
        self.properties.wiped(id, &lost);
        self.note(|| format!("{id}: wiped"));
        self.restart(id);
    }

    /// The process starts, with what is on its disk.
    pub fn restart(&mut self, id: NodeId) {
        if self.is_up(id) {
            return;
        }
        self.boot(id);
        self.note(|| format!("{id}: started"));
    }

    fn boot(&mut self, id: NodeId) {
        let (now, vary_seed) = (self.now, self.vary_seed);
        let node = self.node_mut(id);
        node.incarnation += 1;
        let mut settings = node.settings.clone();
        if vary_seed {
            settings.seed = settings.seed.wrapping_add(node.incarnation.wrapping_mul(7919));
        }
        let disk = node.disk.clone();
        settings.founders.clone_from(&disk.founders);
        node.writes.clear();
        node.machine = disk
            .snapshot
            .as_ref()
            .map_or(Machine::default(), |snapshot| Machine::from_state(&snapshot.state));
        let snapshot = disk.snapshot.map(|snapshot| (*snapshot).clone());
        node.raft = Some(Raft::new(settings, disk.hard_state, snapshot, disk.entries, now));
        self.properties.crashed(id);
    }

    /// How many nodes count, as their disks say.
    pub fn counting(&self) -> usize {
        self.nodes.values().filter(|node| !node.disk.hard_state.joining).count()
    }

    /// Nobody hears this node, and it hears nobody.
    pub fn isolate(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    /// All cuts are mended.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(line());
        }
    }
}
