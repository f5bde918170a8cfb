//! Rakit's nodes in virtual time: the program's own table, views, choosers and announcements (`rakit::balancer`), not a copy of
//! them. What the threads of a node do around these is calculated here: a report is applied a moment after it was taken, and the
//! exchange of requests in flight wakes, sends and pauses as `node/exchange.rs` does. Called by `simulate.rs` and `choice.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rakit::balancer::in_flight::{PAUSE, REPEAT, TOLD_AFTER};
use rakit::balancer::{
    Announcer, Chooser, Chosen, InFlight, Outcome, Policy, Published, Report, SERVERS_MAX, ServerCommand,
    ServerTable,
};
use rakit::raft::{Entry, NodeId};

use super::server::{Server, Spec};
use super::virtual_time::Spreader;
use crate::random::Random;

/// From the measurement of a report until every node has applied it.
const COMMIT: Duration = Duration::from_millis(2);

/// From one node to another.
const TRAVEL: Duration = Duration::from_micros(500);

/// The configuration's default.
pub const STALL: Duration = Duration::from_millis(2_000);

/// An arbitrary moment for daemons to have started at.
const EPOCH: u64 = 1_795_000_000_000;

/// What the nodes do without, to see what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// No node tells another what it has in flight.
    Exchange,
    /// Nobody expects requests of other nodes: their counts are heard as if they were almost too old to be believed, and by then the
    /// rate of new ones has faded.
    Water,
    /// All reports say that the server is idle.
    Load,
}

/// How old the counts are made for [`Without::Water`].
const FADED: Duration = Duration::from_millis(1_900);

/// All workers are said to be there: nobody connects to them.
const PORT: u16 = 13_337;

/// So many different seeds are drawn for choosers.
const SEEDS: f64 = 1e15;

/// One node.
struct Node {
    chooser: Arc<Chooser>,
    /// What the watching thread saw at its last look, and when it will look next.
    seen: BTreeMap<String, u32>,
    look_at: Option<Duration>,
    /// Something changed since the look that is to come was arranged.
    look_again: bool,
    /// The senders to all peers do the same at the same moments: one of them stands for all.
    announcer: Announcer,
    send_at: Option<Duration>,
    paused_until: Duration,
    /// What each peer said last.
    heard: BTreeMap<NodeId, InFlight>,
    sequence: u64,
}

/// What is under way.
#[derive(Debug)]
enum Event {
    /// A report, to be applied.
    Report { server: usize, cpu: f64 },
    /// What a node has in flight, to a peer.
    Counts { from: usize, to: usize, message: InFlight },
}

/// The nodes of one cluster.
pub struct Choosers {
    policy: Policy,
    without: Without,
    specs: Vec<Spec>,
    table: ServerTable,
    published: Published,
    nodes: Vec<Option<Node>>,
    /// By the moment when it comes, and then in order.
    under_way: BTreeMap<(Duration, u64), Event>,
    number: u64,
    /// The node of each request in flight, and its choice.
    sent: BTreeMap<usize, (usize, Chosen)>,
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Choosers {
    pub fn new(policy: Policy, nodes: usize, without: Without, specs: Vec<Spec>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut node = |process: usize| {
            Some(Node {
                chooser: Chooser::new(STALL, (random.uniform() * SEEDS) as u64),
                seen: BTreeMap::new(),
                look_at: None,
                look_again: false,
                announcer: Announcer::new(process as u64),
                send_at: None,
                paused_until: Duration::ZERO,
                heard: BTreeMap::new(),
                sequence: 0,
            })
        };
        let nodes = (0..nodes).map(&mut node).collect();
        let table = ServerTable::new(SERVERS_MAX);
        let published = Published::new(&table, Duration::ZERO);
        let mut choosers = Self {
            policy,
            without,
            specs,
            table,
            published,
            nodes,
            under_way: BTreeMap::new(),
            number: 0,
            sent: BTreeMap::new(),
        };
        // Before the first request every server has reported that it is idle.
        for server in 0..choosers.specs.len() {
            choosers.apply(server, 0.0, Duration::ZERO);
        }
        choosers
    }

    fn apply(&mut self, server: usize, cpu: f64, now: Duration) {
        self.number += 1;
        let cpu = if self.without == Without::Load { 0.0 } else { cpu };
        let report = Report { sequence: self.number, ..report(server, cpu, self.specs[server].cores) };
        let (index, command) = (self.table.applied_index() + 1, ServerCommand::Report(report).to_command());
        self.table.apply(&Entry { index, term: 1, command });
        self.published.publish(&self.table, now);
    }

    fn later(&mut self, when: Duration, event: Event) {
        self.number += 1;
        self.under_way.insert((when, self.number), event);
    }

    /// `Exchange::changed`: a request began or ended at this node.
    fn changed(&mut self, node: usize, now: Duration) {
        if self.without == Without::Exchange || self.nodes.len() == 1 {
            return;
        }
        let Some(node) = &mut self.nodes[node] else { return };
        if node.chooser.is_quiet() && node.announcer.holds() {
            (node.paused_until, node.send_at) = (now, Some(now));
        }
        node.look_again = node.look_at.is_some();
        node.look_at = node.look_at.or(Some(now + TOLD_AFTER));
    }

    /// What the watching thread and the senders of a node do at this moment.
    fn exchange(&mut self, place: usize, now: Duration) {
        let Some(node) = &mut self.nodes[place] else { return };
        if node.look_at.is_some_and(|at| at <= now) {
            node.look_at = node.look_again.then_some(now + TOLD_AFTER);
            node.look_again = false;
            let counts = node.chooser.in_flight(now);
            if counts != node.seen {
                node.seen = counts;
                node.send_at = Some(node.paused_until.max(now));
            }
        }
        if node.send_at.is_none_or(|at| at > now) {
            return;
        }
        let message = node.announcer.announce(node.chooser.in_flight(now), now);
        if message.is_some() {
            node.paused_until = now + 2 * TRAVEL + PAUSE;
        }
        node.send_at = node.announcer.holds().then_some(node.paused_until.max(now) + REPEAT);
        let Some(message) = message else { return };
        for to in (0..self.nodes.len()).filter(|to| *to != place) {
            let message = message.clone();
            self.later(now + TRAVEL, Event::Counts { from: place, to, message });
        }
    }

    fn hear(&mut self, from: usize, to: usize, message: InFlight, now: Duration) {
        let Some(node) = &mut self.nodes[to] else { return };
        let from = from as NodeId + 1;
        match self.without {
            Without::Water => drop(node.heard.insert(from, message)),
            _ => node.chooser.hear(from, message, now),
        }
    }
}

/// The first report of a server that has so many cores, and so many percent of them busy.
pub fn report(server: usize, cpu: f64, cores: u32) -> Report {
    Report {
        server: name(server),
        worker: ([127, 0, 0, 1], PORT).into(),
        cpu,
        cores,
        epoch: EPOCH,
        sequence: 1,
        worker_up: true,
        cpu_known: true,
        worker_active: None,
        instance: None,
    }
}

fn name(server: usize) -> String {
    format!("server-{server:04}")
}

impl Spreader for Choosers {
    fn choose(&mut self, request: usize, _: f64, _: &[Server<usize>], now: f64) -> usize {
        // The clients ask the nodes in turn, and the next one if there is none.
        let living = (0..self.nodes.len()).map(|step| (request + step) % self.nodes.len());
        let place = living.into_iter().find(|place| self.nodes[*place].is_some()).expect("one node lives");
        let node = self.nodes[place].as_mut().expect("it lives");
        if self.without == Without::Water {
            for (from, message) in &node.heard {
                node.sequence += 1;
                let message = InFlight { sequence: node.sequence, ..message.clone() };
                node.chooser.hear(*from, message, at(now).saturating_sub(FADED));
            }
        }
        let chosen = node.chooser.choose(&self.published.view(), self.policy, at(now), &[]);
        let chosen = chosen.expect("there are servers");
        let server = (0..self.specs.len()).find(|server| name(*server) == chosen.name());
        self.sent.insert(request, (place, chosen));
        self.changed(place, at(now));
        server.expect("one of them")
    }

    fn ended(&mut self, request: usize, now: f64) {
        let (node, chosen) = self.sent.remove(&request).expect("it was sent");
        chosen.ticket.end(Outcome::Answered, at(now));
        self.changed(node, at(now));
    }

    fn reported(&mut self, server: usize, cpu: f64, now: f64) {
        self.later(at(now) + COMMIT, Event::Report { server, cpu });
    }

    fn next_step(&self) -> f64 {
        let nodes = self.nodes.iter().flatten().flat_map(|node| [node.look_at, node.send_at]).flatten();
        let under_way = self.under_way.keys().next().map(|(when, _)| *when);
        nodes.chain(under_way).min().map_or(f64::INFINITY, |when| when.as_secs_f64())
    }

    fn step(&mut self, now: f64) {
        let now = at(now);
        while let Some(first) = self.under_way.first_entry().filter(|first| first.key().0 <= now) {
            match first.remove() {
                Event::Report { server, cpu } => self.apply(server, cpu, now),
                Event::Counts { from, to, message } => self.hear(from, to, message, now),
            }
        }
        (0..self.nodes.len()).for_each(|node| self.exchange(node, now));
    }

    fn lose_node(&mut self) -> Vec<usize> {
        if self.nodes.len() == 1 {
            return Vec::new(); // Nobody would be left.
        }
        self.nodes[0] = None;
        for node in self.nodes.iter_mut().flatten() {
            node.heard.remove(&1);
        }
        let lost: Vec<usize> =
            self.sent.iter().filter(|(_, (node, _))| *node == 0).map(|(request, _)| *request).collect();
        lost.iter().for_each(|request| drop(self.sent.remove(request)));
        lost
    }
}
