//! Chooses a server for each request (docs/balancing.md, "The choice"), and remembers what this needs: the requests in
//! flight from this node and, as they report it, from the other nodes; which servers failed a moment ago; which are
//! stalled.
//!
//! Called by every request thread of a node: [`Chooser::choose`] before a request is sent, [`Ticket::end`] after it.
//! The agreed loads come from a [`View`], which is read without a lock; the node's own memory is behind one short lock.
//! A thread chooses a server and counts its request there in one step under that lock. So threads that ask at the same
//! moment see each other's choices, and do not all choose the same server.
//!
//! docs/balancing.md lists the rules in their order. [`Chooser::choose`] applies them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::in_flight::{Board, InFlight, TOLD_AFTER};
use super::own_work::OwnWork;
use super::policy::Policy;
use super::projected::{self, Candidate};
use super::stall::{Debts, Settled, Verdict};
use super::table::SERVERS_MAX;
use super::view::{ServerView, View};
use crate::raft::{NodeId, Random};

/// How long a server that failed is avoided: about the time from one report to the next. The next report says whether
/// its worker is up.
pub const AVOID: Duration = Duration::from_secs(1);

/// When more servers than this are remembered, those that have left the table are forgotten.
const MEMORIES_MAX: usize = 2 * SERVERS_MAX;

/// A choice is explained at most once in this time: an explanation costs a list, and people read no faster.
const EXPLAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Names one request in flight. Unique in this process.
pub type TicketId = u64;

/// How a request that was sent to a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole, good answer (a 4xx is one).
    Answered,
    /// A whole answer that is the server's failure: a 5xx, a 200 whose body is not digits.
    BadAnswer,
    /// A 503 with `Retry-After`: too many wait there already. Avoided like one that failed, but no failure.
    Busy,
    /// The connection was refused, reset, or cut before the answer was whole.
    Broken,
    /// The connection was not accepted in time: the worker is busy or hangs and its queue is full, or no packet reaches
    /// it. Avoided like one that failed. A stall does not end by it.
    NotAccepted,
    /// This node stopped waiting: the client left, the deadline passed, or another server was faster. This says nothing
    /// about the server. A [`Ticket`] that is dropped ends so.
    GivenUp,
}

/// The choice for one request. From now on the request counts as in flight at this server.
#[derive(Debug)]
pub struct Chosen {
    /// The server, as it was seen when it was chosen.
    pub server: Arc<ServerView>,
    /// The load that decided, in percent: the agreed `cpu`, or what `projected` counts per core (then it may exceed
    /// 100).
    pub load: f64,
    /// What it was compared with, for people who watch; most choices of a busy node are not explained.
    pub compared: Option<Vec<Compared>>,
    /// The server was stalled, and this request tries whether it still is. Send it to the next best server at once,
    /// too.
    pub hedge_now: bool,
    /// End it when the request ends.
    pub ticket: Ticket,
}

impl Chosen {
    /// The server's name.
    pub fn name(&self) -> &str {
        &self.server.report().server
    }

    /// Where its worker listens.
    pub fn worker(&self) -> SocketAddr {
        self.server.report().worker
    }
}

/// One request in flight. It ends by [`end`](Self::end), or as [`Outcome::GivenUp`] when it is dropped. So no request
/// stays in flight for ever when a handler panics or returns early.
#[derive(Debug)]
pub struct Ticket {
    chooser: Arc<Chooser>,
    server: Arc<ServerView>,
    id: TicketId,
    ended: bool,
}

impl Ticket {
    /// Its name: [`Chooser::hedges`] returns these.
    pub fn id(&self) -> TicketId {
        self.id
    }

    /// The request ended.
    pub fn end(mut self, outcome: Outcome, now: Duration) {
        self.ended = true;
        self.chooser.end(&self.server.report().server, self.id, outcome, now);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            // The time counts only for answers.
            self.chooser.end(&self.server.report().server, self.id, Outcome::GivenUp, Duration::ZERO);
        }
    }
}

/// One server that took part in a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The server, as it was seen.
    pub server: Arc<ServerView>,
    /// Its load, by the same measure as [`Chosen::load`].
    pub load: f64,
}

/// What this node alone knows of a server: for `/status` and `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// Requests from this node that have not ended.
    pub in_flight: usize,
    /// Requests in flight there from the other nodes, as they report them.
    pub in_flight_elsewhere: u32,
    /// How many requests this node has sent there since its start.
    pub chosen: u64,
    /// It is passed over until it answers.
    pub stalled: bool,
    /// It failed a moment ago.
    pub avoided: bool,
}

/// What is remembered of one server.
#[derive(Debug, Default)]
struct ServerMemory {
    debts: Debts,
    /// Requests in flight there from the other nodes, as they report them.
    others: u32,
    /// How many requests this node has sent there.
    chosen: u64,
    work: OwnWork,
    /// It failed, and is avoided until this moment.
    avoided_until: Option<Duration>,
}

impl ServerMemory {
    fn is_avoided(&self, now: Duration) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }

    /// Requests in flight there from all nodes.
    fn in_flight(&self) -> u32 {
        u32::try_from(self.debts.len()).unwrap_or(u32::MAX).saturating_add(self.others)
    }

    /// To be called after each change of what is in flight.
    fn note_in_flight(&mut self, now: Duration) {
        self.work.set_in_flight(self.in_flight(), now);
    }
}

#[derive(Debug)]
struct Memory {
    servers: BTreeMap<String, ServerMemory>,
    /// The counts that the other nodes sent.
    board: Board,
    dice: Random,
    /// The ticket that was given out last.
    ticket: TicketId,
    /// From when on a choice is explained again.
    explain_from: Duration,
}

/// One node's memory of its requests. One per node, shared by all its request threads.
#[derive(Debug)]
pub struct Chooser {
    stall: Duration,
    /// Tickets that have not ended.
    tickets: AtomicUsize,
    memory: Mutex<Memory>,
}

/// The reasons not to choose a server, the gravest first: two servers are compared by these in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Blemishes {
    /// It swallows requests.
    stalled: bool,
    /// It failed a moment ago. (Of a stalled server, this is not asked.)
    avoided: bool,
    /// Its daemon cannot measure its load. A load that nobody knows must not win against one that is known,
    /// unless that server swallows or has just failed.
    load_unknown: bool,
}

/// One server that may be chosen.
struct Rated<'a> {
    server: &'a Arc<ServerView>,
    blemishes: Blemishes,
    /// It was stalled, and this request would try whether it still is.
    trial: bool,
    /// Requests in flight there from this node.
    own: usize,
    candidate: Candidate,
}

impl<'a> Rated<'a> {
    fn of(
        server: &'a Arc<ServerView>,
        memory: Option<&mut ServerMemory>,
        stall: Duration,
        now: Duration,
    ) -> Self {
        let report = server.report();
        let (cores, cpu) = (f64::from(report.cores), report.cpu);
        let clean = Blemishes { load_unknown: !report.cpu_known, ..Blemishes::default() };
        let Some(memory) = memory else {
            // This node knows of no request that was ever sent there: all of its load is foreign.
            let candidate = Candidate { cores, cpu, foreign: report.busy_cores(), in_flight: 0.0 };
            return Self { server, blemishes: clean, trial: false, own: 0, candidate };
        };
        let verdict = memory.debts.judge(server, stall, now);
        let stalled = verdict == Verdict::Stalled;
        let blemishes = Blemishes { stalled, avoided: !stalled && memory.is_avoided(now), ..clean };
        let foreign = memory.work.foreign(server, now);
        let candidate = Candidate { cores, cpu, foreign, in_flight: f64::from(memory.in_flight()) };
        Self { server, blemishes, trial: verdict == Verdict::OnTrial, own: memory.debts.len(), candidate }
    }
}

/// The index of the server with the lowest agreed CPU load, and that load.
fn lowest_cpu(standing: &[Rated<'_>], dice: &mut Random) -> Option<(usize, f64)> {
    let key = |one: &Rated<'_>| (one.server.report().cpu, one.own);
    let lowest = standing.iter().map(key).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
    let equal: Vec<usize> = (0..standing.len()).filter(|&place| key(&standing[place]) == lowest).collect();
    let drawn = dice.below(equal.len() as u64) as usize;
    Some((equal[drawn], lowest.0))
}

impl Chooser {
    /// `stall` is the configuration's `stall_ms`. `seed` is drawn at random: nodes with the same one would draw the
    /// same servers.
    pub fn new(stall: Duration, seed: u64) -> Arc<Self> {
        let (servers, board, dice) = (BTreeMap::new(), Board::default(), Random::new(seed));
        let memory = Mutex::new(Memory { servers, board, dice, ticket: 0, explain_from: Duration::ZERO });
        Arc::new(Self { stall, tickets: AtomicUsize::new(0), memory })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // The lock is poisoned if a thread panicked while it held it: a bug. The counts may be off by one, but they are
        // the best that this node has. If every further request failed, one lost answer would become a dead node.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses a server for a request. `tried` names the servers that this request was sent to before. `None` if there
    /// is no other server.
    ///
    /// It walks once over all servers.
    pub fn choose(
        self: &Arc<Self>,
        view: &View,
        policy: Policy,
        now: Duration,
        tried: &[String],
    ) -> Option<Chosen> {
        let mut guard = self.memory();
        let memory = &mut *guard;
        memory.tidy(view, now);

        let mut standing = Vec::with_capacity(view.servers().len());
        // Both are in the order of names: walk them side by side.
        let mut memories = memory.servers.iter_mut().peekable();
        for server in view.servers() {
            let name = &server.report().server;
            while memories.next_if(|(other, _)| *other < name).is_some() {}
            if !server.is_eligible() || tried.contains(name) {
                continue;
            }
            let known = memories.next_if(|(other, _)| *other == name).map(|(_, memory)| memory);
            let mut one = Rated::of(server, known, self.stall, now);
            if one.trial && !tried.is_empty() {
                // A request that has already waited elsewhere is no trial.
                one.blemishes = Blemishes { stalled: true, avoided: false, ..one.blemishes };
                one.trial = false;
            }
            standing.push(one);
        }
        let best = standing.iter().map(|one| one.blemishes).min()?;
        standing.retain(|one| one.blemishes == best);

        let explained = now >= memory.explain_from;
        let compare = |load: &dyn Fn(&Rated<'_>) -> f64| {
            let one = |one: &Rated<'_>| Compared { server: Arc::clone(one.server), load: load(one) };
            explained.then(|| standing.iter().map(one).collect::<Vec<_>>())
        };
        let ((place, load), compared) = match policy {
            Policy::LowestCpu => {
                let chosen = lowest_cpu(&standing, &mut memory.dice)?;
                (chosen, compare(&|one| one.server.report().cpu))
            }
            Policy::Projected => {
                let candidates: Vec<Candidate> = standing.iter().map(|one| one.candidate).collect();
                let expected = memory.board.expected(now);
                let chosen = projected::choose(&candidates, expected, &mut memory.dice)?;
                let idle = projected::is_idle(&candidates, expected);
                (chosen, compare(&|one| one.candidate.load(idle)))
            }
        };
        if explained {
            memory.explain_from = now + EXPLAIN_INTERVAL;
        }
        let Rated { server, trial, .. } = standing[place];
        // If it is the only server, there is no next best that could get the request, too.
        let hedge_now = trial && view.servers().iter().filter(|server| server.is_eligible()).count() > 1;
        let id = memory.begin(server, trial, hedge_now, now);
        self.tickets.fetch_add(1, Ordering::Relaxed);
        drop(guard);
        let ticket = Ticket { chooser: Arc::clone(self), server: Arc::clone(server), id, ended: false };
        Some(Chosen { server: Arc::clone(server), load, compared, hedge_now, ticket })
    }

    fn end(&self, server: &str, id: TicketId, outcome: Outcome, now: Duration) {
        let mut memory = self.memory();
        self.tickets.fetch_sub(1, Ordering::Relaxed);
        let Some(memory) = memory.servers.get_mut(server) else {
            return;
        };
        let settled = match outcome {
            Outcome::Answered | Outcome::BadAnswer | Outcome::Busy => Settled::Answered,
            Outcome::Broken => Settled::Broken,
            Outcome::NotAccepted | Outcome::GivenUp => Settled::GivenUp,
        };
        memory.debts.settle(id, settled, now);
        memory.note_in_flight(now);
        match outcome {
            Outcome::Answered => memory.avoided_until = None,
            Outcome::BadAnswer | Outcome::Busy | Outcome::Broken | Outcome::NotAccepted => {
                memory.avoided_until = Some(now + AVOID);
            }
            Outcome::GivenUp => {}
        }
    }

    /// Whether this node has nothing in flight. Takes no lock.
    pub fn is_quiet(&self) -> bool {
        self.tickets.load(Ordering::Relaxed) == 0
    }

    /// For the other nodes: how many requests this node has had in flight at each server for [`TOLD_AFTER`] or longer.
    pub fn in_flight(&self, now: Duration) -> BTreeMap<String, u32> {
        let before = now.saturating_sub(TOLD_AFTER);
        let memory = self.memory();
        let count = |(name, memory): (&String, &ServerMemory)| {
            let count = u32::try_from(memory.debts.sent_until(before)).unwrap_or(u32::MAX);
            (count > 0).then(|| (name.clone(), count))
        };
        memory.servers.iter().filter_map(count).collect()
    }

    /// Another node has sent what it has in flight.
    pub fn hear(&self, node: NodeId, counts: InFlight, now: Duration) {
        let mut memory = self.memory();
        let touched = memory.board.hear(node, counts, now);
        memory.count_others(&touched, now);
    }

    /// What each other node has in flight at each server, as it reported it.
    pub fn heard(&self) -> BTreeMap<NodeId, BTreeMap<String, u32>> {
        self.memory().board.all()
    }

    /// The requests that should also be sent to the next best server. Each is returned once. Called by the thread that
    /// watches all requests in flight.
    pub fn hedges(&self, view: &View, now: Duration) -> Vec<TicketId> {
        let mut due = Vec::new();
        for (name, memory) in &mut self.memory().servers {
            due.extend(memory.debts.hedges(view.get(name).map(|server| &**server), self.stall, now));
        }
        due
    }

    /// What this node alone knows of the servers of `view`, in the same order.
    pub fn local_states(&self, view: &View, now: Duration) -> Vec<LocalState> {
        let mut memory = self.memory();
        memory.tidy(view, now);
        let state = |server: &Arc<ServerView>| {
            let Some(memory) = memory.servers.get_mut(&server.report().server) else {
                return LocalState::default();
            };
            LocalState {
                in_flight: memory.debts.len(),
                in_flight_elsewhere: memory.others,
                chosen: memory.chosen,
                stalled: memory.debts.judge(server, self.stall, now) == Verdict::Stalled,
                avoided: memory.is_avoided(now),
            }
        };
        view.servers().iter().map(state).collect()
    }
}

impl Memory {
    /// A request is sent to this server.
    fn begin(&mut self, server: &ServerView, trial: bool, hedged: bool, now: Duration) -> TicketId {
        self.ticket += 1;
        let name = &server.report().server;
        if !self.servers.contains_key(name) {
            self.servers.insert(name.clone(), ServerMemory::default());
        }
        let memory = self.servers.get_mut(name).expect("it was just inserted if it was missing");
        if trial {
            memory.debts.begin_trial(now);
        }
        memory.chosen += 1;
        memory.debts.sent(self.ticket, server, hedged, now);
        memory.note_in_flight(now);
        self.ticket
    }

    /// Forgets counts of other nodes that are too old, and servers that left the table.
    fn tidy(&mut self, view: &View, now: Duration) {
        let touched = self.board.forget(now);
        self.count_others(&touched, now);
        if self.servers.len() > MEMORIES_MAX {
            self.servers.retain(|name, memory| memory.debts.len() > 0 || view.get(name).is_some());
        }
    }

    /// Counts anew what the other nodes have in flight at these servers.
    fn count_others(&mut self, servers: &BTreeSet<String>, now: Duration) {
        for name in servers {
            let others = self.board.at(name);
            let memory = self.servers.entry(name.clone()).or_default();
            memory.others = others;
            memory.note_in_flight(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::command::{Dead, ServerCommand, ServerOrder};
    use crate::balancer::report::Report;
    use crate::balancer::table::tests::{Log, report};
    use crate::balancer::view::Published;

    const STALL: Duration = Duration::from_millis(2_000);
    const LOWEST: Policy = Policy::LowestCpu;
    const PROJECTED: Policy = Policy::Projected;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A node: its table, the view of it, and its chooser.
    struct ChoosingNode {
        log: Log,
        published: Published,
        chooser: Arc<Chooser>,
        sequence: u64,
    }

    impl ChoosingNode {
        fn new(loads: &[(&str, f64)]) -> Self {
            let log = Log::default();
            let mut node = Self {
                published: Published::new(&log.0, ms(0)),
                log,
                chooser: Chooser::new(STALL, 1),
                sequence: 0,
            };
            node.report(loads, ms(0));
            node
        }

        fn report(&mut self, loads: &[(&str, f64)], now: Duration) {
            self.sequence += 1;
            for (server, cpu) in loads {
                self.log.report(report(server, *cpu, 1, self.sequence));
            }
            self.published.publish(&self.log.0, now);
        }

        /// Another node reports what it has in flight.
        fn hear(&self, node: NodeId, sequence: u64, counts: &[(&str, u32)], now: Duration) {
            let servers = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            self.chooser.hear(node, InFlight { process: 7, sequence, servers }, now);
        }

        fn choose_by(&self, policy: Policy, now: Duration, tried: &[&str]) -> Option<Chosen> {
            let tried: Vec<String> = tried.iter().map(|&name| name.to_owned()).collect();
            self.chooser.choose(&self.published.view(), policy, now, &tried)
        }

        fn choose(&self, now: Duration) -> Chosen {
            self.choose_by(LOWEST, now, &[]).expect("there is a server")
        }

        /// Chooses a server, ends the request at once with an answer, and returns the server's name.
        fn ask(&self, now: Duration) -> String {
            let chosen = self.choose(now);
            let name = chosen.name().to_owned();
            chosen.ticket.end(Outcome::Answered, now);
            name
        }

        fn local(&self, name: &str, now: Duration) -> LocalState {
            let view = self.published.view();
            let place =
                view.servers().iter().position(|server| server.report().server == name).expect("there");
            self.chooser.local_states(&view, now)[place]
        }
    }

    #[test]
    fn the_lowest_load_wins() {
        let mut node = ChoosingNode::new(&[("a", 30.0), ("b", 10.0), ("c", 20.0)]);
        let busy: Vec<_> = (0..10).map(|_| node.choose(ms(0))).collect();
        assert!(
            busy.iter().all(|chosen| chosen.name() == "b" && chosen.load == 10.0),
            "the agreed load decides alone"
        );
        assert_eq!(node.local("b", ms(0)).in_flight, 10);
        node.report(&[("b", 25.0)], ms(1));
        assert_eq!(node.ask(ms(1)), "c");
    }

    #[test]
    fn the_dead_and_those_whose_worker_is_down_are_not_chosen() {
        let mut node = ChoosingNode::new(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
        node.log.apply(
            &ServerCommand::Dead(Dead { server: "a".into(), epoch: 1, sequence: 1, silent_ms: 1 })
                .to_command(),
        );
        node.log.report(Report { worker_up: false, ..report("b", 2.0, 1, 2) });
        node.published.publish(&node.log.0, ms(1));
        assert_eq!(node.ask(ms(1)), "c");
        assert!(node.choose_by(LOWEST, ms(1), &["c"]).is_none());
        node.report(&[("a", 1.0)], ms(2));
        assert_eq!(node.ask(ms(2)), "a");
    }

    #[test]
    fn a_drained_server_is_not_chosen_and_what_runs_there_stays_counted() {
        let mut node = ChoosingNode::new(&[("a", 1.0), ("b", 50.0)]);
        let running = node.choose(ms(0));
        assert_eq!(running.name(), "a");
        let order = |order: ServerOrder| ServerCommand::Order(order).to_command();
        node.log.apply(&order(ServerOrder::Drain("a".into())));
        node.published.publish(&node.log.0, ms(1));
        for _ in 0..10 {
            assert_eq!(node.ask(ms(1)), "b");
        }
        assert!(node.choose_by(LOWEST, ms(1), &["b"]).is_none(), "not even as the last resort");
        assert_eq!(node.local("a", ms(1)).in_flight, 1);
        node.log.apply(&order(ServerOrder::Undrain("a".into())));
        node.published.publish(&node.log.0, ms(2));
        assert_eq!(node.ask(ms(2)), "a");
    }

    #[test]
    fn equal_loads_go_to_the_fewest_in_flight_from_this_node() {
        let node = ChoosingNode::new(&[("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 5.5)]);
        let held: Vec<_> = (0..30).map(|_| node.choose(ms(0))).collect();
        for name in ["a", "b", "c"] {
            assert_eq!(held.iter().filter(|chosen| chosen.name() == name).count(), 10);
        }
        // What the other nodes have in flight does not count.
        let node = ChoosingNode::new(&[("a", 5.0), ("b", 5.0)]);
        node.hear(2, 1, &[("b", 100)], ms(0));
        let held = node.choose_by(LOWEST, ms(0), &["b"]).expect("a");
        assert_eq!(node.ask(ms(0)), "b");
        drop(held);
    }

    #[test]
    fn among_equals_each_node_draws_at_random() {
        for policy in [LOWEST, PROJECTED] {
            // Nodes that are asked at the same moment must not all choose the same server.
            let first = |seed| {
                let mut node = ChoosingNode::new(&[("a", 5.0), ("b", 5.0), ("c", 5.0)]);
                node.chooser = Chooser::new(STALL, seed);
                node.choose_by(policy, ms(0), &[]).expect("there are servers").name().to_owned()
            };
            let names: Vec<String> = (0..300).map(first).collect();
            for name in ["a", "b", "c"] {
                let count = names.iter().filter(|other| *other == name).count();
                assert!((70..130).contains(&count), "{policy}: {name} {count} times");
            }
        }
    }

    #[test]
    fn projected_takes_the_lowest_cpu_as_long_as_nothing_is_in_flight() {
        let mut node = ChoosingNode::new(&[("a", 10.0), ("b", 40.0), ("c", 7.9)]);
        let ask = |node: &ChoosingNode, now| {
            node.choose_by(PROJECTED, now, &[]).expect("a server").name().to_owned()
        };
        for round in 0..100 {
            assert_eq!(ask(&node, ms(round)), "c", "two points below a");
        }
        // Right after a burst: all of the reported load was ours.
        let burst: Vec<_> = (0..100).map(|_| node.choose_by(PROJECTED, ms(1_000), &["a", "b"])).collect();
        node.report(&[("a", 10.0), ("b", 40.0), ("c", 100.0)], ms(2_000));
        drop(burst);
        assert_eq!(ask(&node, ms(2_001)), "a");
    }

    #[test]
    fn projected_counts_what_all_nodes_have_in_flight() {
        let node = ChoosingNode::new(&[("a", 10.0), ("b", 40.0)]); // Four cores each.
        let choose = |now| node.choose_by(PROJECTED, now, &[]).expect("a server");
        let one = choose(ms(0));
        assert_eq!((one.name(), one.load), ("a", 10.0));
        let two = choose(ms(0));
        assert_eq!(
            (two.name(), two.load),
            ("a", 35.0),
            "one in flight on four cores, and 10 % that is not ours"
        );
        let three = choose(ms(0));
        assert_eq!((three.name(), three.load), ("b", 40.0), "a is at 60");
        node.hear(2, 1, &[("b", 1)], ms(1));
        let four = choose(ms(1));
        assert_eq!((four.name(), four.load), ("a", 60.0), "b is at 90");
        drop(four);
        // The request ended at the other node; then the one here.
        node.hear(2, 2, &[], ms(2));
        three.ticket.end(Outcome::Answered, ms(2));
        assert_eq!(choose(ms(2)).name(), "b");
        drop((one, two));
    }

    #[test]
    fn no_count_of_another_node_outlives_the_node() {
        let node = ChoosingNode::new(&[("a", 10.0), ("b", 40.0)]);
        let ask = |now| node.choose_by(PROJECTED, now, &[]).expect("a server").name().to_owned();
        node.hear(2, 1, &[("a", 50)], ms(0));
        assert_eq!(ask(ms(10)), "b");
        assert_eq!(ask(ms(1_999)), "b");
        assert_eq!(ask(ms(60_000)), "a", "it was not repeated: the node has gone, or the network");
        node.hear(2, 2, &[("a", 50)], ms(70_000));
        assert_eq!(ask(ms(70_001)), "b");
        let restarted = InFlight { process: 99, sequence: 1, servers: BTreeMap::new() };
        node.chooser.hear(2, restarted, ms(70_002));
        assert_eq!(ask(ms(75_000)), "a");
    }

    #[test]
    fn the_others_are_told_what_has_been_in_flight_for_a_moment() {
        let node = ChoosingNode::new(&[("a", 10.0)]);
        let held = [node.choose(ms(100)), node.choose(ms(100)), node.choose(ms(103))];
        assert!(node.chooser.in_flight(ms(104)).is_empty(), "it may be answered at once");
        assert_eq!(node.chooser.in_flight(ms(105)), BTreeMap::from([("a".to_owned(), 2)]));
        assert_eq!(node.chooser.in_flight(ms(108)), BTreeMap::from([("a".to_owned(), 3)]));
        drop(held);
        assert!(node.chooser.in_flight(ms(109)).is_empty());
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let node = ChoosingNode::new(&[("a", 1.0), ("b", 2.0)]);
        assert_eq!(node.choose_by(LOWEST, ms(0), &["a"]).expect("b is left").name(), "b");
        assert!(node.choose_by(LOWEST, ms(0), &["a", "b"]).is_none());
    }

    #[test]
    fn one_that_failed_is_avoided_for_a_moment_unless_nothing_else_is_left() {
        for failure in [Outcome::Broken, Outcome::BadAnswer, Outcome::Busy, Outcome::NotAccepted] {
            let node = ChoosingNode::new(&[("a", 1.0), ("b", 90.0)]);
            node.choose(ms(0)).ticket.end(failure, ms(0));
            assert!(node.local("a", ms(0)).avoided);
            assert_eq!(node.ask(ms(999)), "b");
            assert_eq!(node.choose_by(LOWEST, ms(999), &["b"]).expect("better than none").name(), "a");
            assert_eq!(node.ask(ms(1_000)), "a");
        }
        let node = ChoosingNode::new(&[("a", 1.0), ("b", 90.0)]);
        let slow = node.choose(ms(0));
        node.choose(ms(0)).ticket.end(Outcome::Broken, ms(0));
        slow.ticket.end(Outcome::Answered, ms(1));
        assert_eq!(node.ask(ms(2)), "a", "an answer clears the name");
        node.choose(ms(3)).ticket.end(Outcome::GivenUp, ms(3));
        assert_eq!(node.ask(ms(4)), "a", "to give up is no failure of the server");
    }

    #[test]
    fn a_server_whose_load_nobody_knows_is_chosen_only_if_no_other_is_there() {
        for policy in [LOWEST, PROJECTED] {
            let mut node = ChoosingNode::new(&[("busy", 99.0), ("full", 100.0)]);
            // Whatever its report says of a load that was not measured.
            for (name, cpu) in [("unknown", 0.0), ("unknown-2", 100.0)] {
                node.log.report(Report { cpu_known: false, ..report(name, cpu, 1, 1) });
            }
            node.published.publish(&node.log.0, ms(0));
            let ask = |node: &ChoosingNode, now, tried: &[&str]| {
                node.choose_by(policy, now, tried).expect("there are servers").name().to_owned()
            };
            for round in 0..100 {
                assert!(!ask(&node, ms(round), &[]).starts_with("unknown"), "{policy}");
            }
            // Under load, too: what waits at the others does not count.
            let held: Vec<_> =
                (0..50).map(|_| node.choose_by(policy, ms(100), &[]).expect("there are servers")).collect();
            assert!(held.iter().all(|chosen| !chosen.name().starts_with("unknown")), "{policy}");
            drop(held);
            // Where the others failed a moment ago, a request would find nobody.
            for name in ["busy", "full"] {
                let chosen = node.choose_by(policy, ms(200), &[name]).expect("there are servers");
                chosen.ticket.end(Outcome::Broken, ms(200));
            }
            assert!(ask(&node, ms(201), &[]).starts_with("unknown"), "{policy}");
            // Its load is known again.
            node.log.report(report("unknown", 10.0, 1, 2));
            node.published.publish(&node.log.0, ms(2_000));
            assert_eq!(ask(&node, ms(2_000), &[]), "unknown", "{policy}");
        }
    }

    #[test]
    fn a_server_whose_load_nobody_knows_is_better_than_one_that_swallows_requests() {
        let mut node = ChoosingNode::new(&[("a", 0.0)]);
        let _swallowed = node.choose(ms(100));
        node.log.report(Report { cpu_known: false, ..report("unknown", 0.0, 1, 1) });
        node.report(&[("a", 0.0)], ms(1_000));
        assert_eq!(node.choose(ms(1_500)).name(), "a", "it owes an answer, but not for long");
        node.report(&[("a", 0.0)], ms(2_100));
        assert!(node.local("a", ms(2_200)).stalled);
        assert_eq!(node.ask(ms(2_200)), "unknown");
    }

    #[test]
    fn a_ticket_that_is_dropped_is_not_in_flight_for_ever() {
        let node = ChoosingNode::new(&[("a", 1.0)]);
        let chosen = node.choose(ms(0));
        assert_eq!((node.local("a", ms(0)).in_flight, node.chooser.is_quiet()), (1, false));
        drop(chosen);
        assert!(node.chooser.is_quiet());
        assert_eq!(node.local("a", ms(0)), LocalState { chosen: 1, ..LocalState::default() });
    }

    #[test]
    fn a_choice_is_explained_by_the_loads_that_were_compared_and_not_every_one() {
        let node = ChoosingNode::new(&[("a", 30.0), ("b", 10.0)]);
        let loads = |chosen: &Chosen| {
            let compared = chosen.compared.as_ref()?;
            let one = |one: &Compared| (one.server.report().server.clone(), one.load);
            Some(compared.iter().map(one).collect::<Vec<_>>())
        };
        let expected = Some(vec![("a".to_owned(), 30.0), ("b".to_owned(), 10.0)]);
        assert_eq!(loads(&node.choose(ms(0))), expected);
        let soon = EXPLAIN_INTERVAL - ms(1);
        assert_eq!(loads(&node.choose(soon)), None, "nobody reads so fast");
        assert_eq!(loads(&node.choose(EXPLAIN_INTERVAL)), expected);
        assert_eq!(node.local("b", EXPLAIN_INTERVAL).chosen, 3);
    }

    #[test]
    fn a_stalled_server_is_passed_over_until_it_answers() {
        let mut node = ChoosingNode::new(&[("a", 0.0), ("b", 50.0)]);
        let swallowed = node.choose(ms(100));
        assert_eq!(swallowed.name(), "a");
        node.report(&[("a", 0.0), ("b", 50.0)], ms(1_000));
        assert_eq!(node.ask(ms(2_099)), "a");
        // The answer that just came shows that the server works: the stall time starts again.
        let second = node.choose(ms(2_200));
        assert_eq!(second.name(), "a");
        node.report(&[("a", 0.0), ("b", 50.0)], ms(4_000));
        let view = node.published.view();
        assert_eq!(node.ask(ms(4_150)), "b");
        assert!(node.local("a", ms(4_150)).stalled);
        assert_eq!(node.chooser.hedges(&view, ms(4_150)), [swallowed.ticket.id(), second.ticket.id()]);
        assert!(node.chooser.hedges(&view, ms(4_200)).is_empty());
        assert_eq!(node.choose_by(LOWEST, ms(4_200), &["b"]).expect("the last resort").name(), "a");
        second.ticket.end(Outcome::Answered, ms(4_300));
        assert_eq!(node.ask(ms(4_300)), "a");
        drop(swallowed);
    }

    #[test]
    fn a_failed_server_is_better_than_a_stalled_one() {
        let mut node = ChoosingNode::new(&[("a", 0.0), ("b", 50.0)]);
        let _swallowed = node.choose(ms(100));
        node.report(&[("a", 0.0), ("b", 50.0)], ms(2_000));
        node.choose(ms(2_200)).ticket.end(Outcome::Broken, ms(2_200));
        assert!(node.local("b", ms(2_300)).avoided);
        assert_eq!(node.ask(ms(2_300)), "b");
    }

    #[test]
    fn a_stalled_server_that_owes_nothing_gets_a_trial_beside_another() {
        let mut node = ChoosingNode::new(&[("a", 0.0), ("b", 50.0)]);
        let swallowed = node.choose(ms(100));
        node.report(&[("a", 0.0), ("b", 50.0)], ms(2_000));
        assert_eq!(node.ask(ms(2_200)), "b");
        swallowed.ticket.end(Outcome::GivenUp, ms(2_300));
        assert_eq!(node.ask(ms(7_199)), "b");
        let retry = node.choose_by(LOWEST, ms(7_200), &["b"]).expect("a");
        assert!(!retry.hedge_now, "the last resort is no trial");
        drop(retry);
        // A third server comes. A request that failed there has already waited, and is not used as a trial.
        node.report(&[("a", 0.0), ("b", 50.0), ("c", 60.0)], ms(7_200));
        let retry = node.choose_by(LOWEST, ms(7_200), &["c"]).expect("b");
        assert_eq!((retry.name(), retry.hedge_now), ("b", false));
        drop(retry);
        let trial = node.choose(ms(7_200));
        assert_eq!((trial.name(), trial.hedge_now), ("a", true));
        let beside = node.choose_by(LOWEST, ms(7_200), &["a"]).expect("b");
        assert_eq!((beside.name(), beside.hedge_now), ("b", false));
        assert_eq!(node.ask(ms(7_201)), "b", "one trial at a time");
        // The connection was not accepted: that does not show that the server works.
        trial.ticket.end(Outcome::NotAccepted, ms(8_000));
        assert!(node.local("a", ms(8_001)).stalled);
        assert_eq!(node.ask(ms(12_199)), "b");
        assert!(!node.local("a", ms(12_200)).stalled, "the mark ages");
        let trial = node.choose(ms(12_200));
        assert_eq!((trial.name(), trial.hedge_now), ("a", true));
        trial.ticket.end(Outcome::Answered, ms(12_201));
        assert_eq!(node.ask(ms(12_202)), "a");
    }

    #[test]
    fn threads_that_ask_at_once_see_each_other() {
        let node = ChoosingNode::new(&[("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 5.0)]);
        let names: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(|| node.choose(ms(0)))).collect();
            // All are held until all have chosen.
            let held: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            held.iter().map(|chosen| chosen.name().to_owned()).collect()
        });
        for name in ["a", "b", "c", "d"] {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 16);
        }
        assert_eq!(node.local("a", ms(0)).in_flight, 0);
    }

    #[test]
    fn memory_is_bounded_by_the_table() {
        let chooser = Chooser::new(STALL, 1);
        for round in 0..4 {
            let mut log = Log::default();
            let published = Published::new(&log.0, ms(0));
            for number in 0..SERVERS_MAX {
                log.report(report(&format!("r{round}-{number}"), 1.0, 1, 1));
            }
            let view = published.publish(&log.0, ms(0));
            let choose = |_| chooser.choose(&view, LOWEST, ms(0), &[]).expect("there are many");
            let held: Vec<_> = (0..SERVERS_MAX).map(choose).collect();
            let names: BTreeSet<_> = held.iter().map(Chosen::name).collect();
            assert_eq!(names.len(), SERVERS_MAX, "each was its turn");
        }
        assert!(chooser.memory().servers.len() <= MEMORIES_MAX + 1);
    }
}
