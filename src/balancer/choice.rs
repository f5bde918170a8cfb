//! The choice of a server (docs/protocol.md, "Choice of the server"), and what one node must remember for it: what is in
//! flight from here, who failed here a moment ago, who was chosen when, who is stalled.
//!
//! Called by every request thread of a node: [`Chooser::choose`] before a request is sent, [`Ticket::end`] after it. The
//! agreed loads come from a [`View`], which is read without a lock; the node's own memory is behind one short lock. Choosing
//! and counting the request as in flight are one step under that lock: sixty-four threads that ask at the same moment see
//! each other's choices, and do not all fall upon the same server.
//!
//! The rules, in their order:
//!
//! 1. Only servers that are alive and whose worker is up; none that this request was at already.
//! 2. Servers without blemish before those that failed within the last [`AVOID`], those before stalled ones. A blemished
//!    server is still better than none: to fail quickly costs little, and a stalled one may wake up.
//! 3. The lowest load: the agreed `cpu`; with the policy `projected`, plus 100/cores for each request that this node sent
//!    there since it applied that report and that has not ended.
//! 4. The fewest requests in flight from this node.
//! 5. The one chosen longest ago; at last, the first by name.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::policy::Policy;
use super::report::Stamp;
use super::stall::{Debts, Settled};
use super::table::SERVERS_MAX;
use super::view::{ServerView, View};

/// For how long a server that failed is avoided. About one report: then its daemon has seen what became of the worker.
pub const AVOID: Duration = Duration::from_secs(1);

/// Memories of servers that left the table are swept out when there are more than this many.
const MEMORIES_MAX: usize = 2 * SERVERS_MAX;

/// Names one request in flight, for as long as this process lives.
pub type TicketId = u64;

/// How a request that was sent to a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole, good answer (a 4xx is one).
    Answered,
    /// A whole answer that is the server's failure: a 5xx, a 200 whose body is not digits.
    BadAnswer,
    /// The connection was refused, reset, or cut before the answer was whole.
    Broken,
    /// The connection was not accepted in time: its queue is full, since it is busy or hangs, or no packet reaches it. Avoided
    /// like one that failed; but a stall does not end by it.
    NotAccepted,
    /// This node stopped waiting: the client left, the deadline passed, another server was faster. Says nothing about the
    /// server. A [`Ticket`] that is dropped ends so.
    GivenUp,
}

/// The choice for one request, which counts as in flight there from now on.
#[derive(Debug)]
pub struct Chosen {
    /// The server, as it was seen when it was chosen.
    pub server: Arc<ServerView>,
    /// The load that decided, in percent: the agreed `cpu`, or what was projected from it (then it may exceed 100).
    pub load: f64,
    /// The server is stalled, and this request is the trial whether it still is: send it to the next best at once, too.
    pub hedge_now: bool,
    /// To be ended when the request ends.
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

/// One request in flight. Ends by [`end`](Self::end), or as [`Outcome::GivenUp`] when it is dropped, so that a handler that
/// panics or returns early leaves no request in flight for ever.
#[derive(Debug)]
pub struct Ticket {
    chooser: Arc<Chooser>,
    server: Arc<ServerView>,
    id: TicketId,
    ended: bool,
}

impl Ticket {
    /// Its name, as [`Chooser::hedges`] tells it.
    pub fn id(&self) -> TicketId {
        self.id
    }

    /// The request ended.
    pub fn end(mut self, outcome: Outcome, now: Duration) {
        self.ended = true;
        self.chooser.end(&self.server.report().server, self.id, outcome, now);
    }

    /// Whether the request should also be sent to the next best server: its server is stalled, or gone.
    pub fn must_hedge(&self, view: &View, now: Duration) -> bool {
        let name = &self.server.report().server;
        let stall = self.chooser.stall;
        self.chooser.memory().servers.get_mut(name).is_some_and(|memory| {
            memory.debts.must_hedge(self.id, view.get(name).map(|server| &**server), stall, now)
        })
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

/// What this node alone knows of a server: for `/status` and `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// Requests from this node that have not ended.
    pub in_flight: usize,
    /// It is passed over until it answers.
    pub stalled: bool,
    /// It failed a moment ago.
    pub avoided: bool,
}

/// What is remembered of one server.
#[derive(Debug, Default)]
struct ServerMemory {
    debts: Debts,
    /// The number of the last choice that fell on it; 0: never.
    chosen: u64,
    /// It failed, and is avoided before this moment.
    avoided_until: Option<Duration>,
    /// The newest report under which a request was sent there, and the tickets sent under it that have not ended.
    since_report: (Stamp, u64),
    /// Under which report each ticket was sent.
    sent_under: HashMap<TicketId, Stamp>,
}

impl ServerMemory {
    fn is_avoided(&self, now: Duration) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }

    /// How many requests that were sent since this report was applied here have not ended.
    fn sent_since(&self, report: Stamp) -> u64 {
        if self.since_report.0 == report { self.since_report.1 } else { 0 }
    }
}

#[derive(Debug, Default)]
struct Memory {
    servers: BTreeMap<String, ServerMemory>,
    /// How many choices were made.
    choices: u64,
}

/// One node's memory of its requests. One per node, shared by all its request threads.
#[derive(Debug)]
pub struct Chooser {
    stall: Duration,
    memory: Mutex<Memory>,
}

/// What a server is compared by; smaller is better. The order of the fields is the order of the rules.
#[derive(Clone, Copy, Debug)]
struct Key {
    blemish: u8,
    load: f64,
    in_flight: usize,
    chosen: u64,
}

const CLEAN: u8 = 0;
const AVOIDED: u8 = 1;
const STALLED: u8 = 2;

impl Key {
    fn is_better_than(&self, other: &Self) -> bool {
        let order = self.blemish.cmp(&other.blemish).then(self.load.total_cmp(&other.load));
        order.then(self.in_flight.cmp(&other.in_flight)).then(self.chosen.cmp(&other.chosen)).is_lt()
    }
}

impl Chooser {
    /// `stall` is the configuration's `stall_ms`.
    pub fn new(stall: Duration) -> Arc<Self> {
        Arc::new(Self { stall, memory: Mutex::default() })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Poisoned means that a thread panicked in here, a bug; but the counts are still the best that is known, and to
        // refuse every further request would make one lost answer a dead node.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses a server for a request, of which `tried` names the servers it was at already. `None` if there is no other.
    ///
    /// Costs a walk over the servers in the order of their load, up to the first that cannot win any more: usually the
    /// few with equal lowest load.
    pub fn choose(
        self: &Arc<Self>,
        view: &View,
        policy: Policy,
        now: Duration,
        tried: &[String],
    ) -> Option<Chosen> {
        let by_load = view.by_load(); // Sorted, if it must be, before the lock is taken.
        let mut guard = self.memory();
        let memory = &mut *guard;
        if memory.servers.len() > MEMORIES_MAX {
            memory.servers.retain(|name, memory| memory.debts.len() > 0 || view.get(name).is_some());
        }

        let mut best: Option<(Key, &Arc<ServerView>)> = None;
        let mut trial: Option<(Key, &Arc<ServerView>)> = None;
        for server in by_load {
            let cpu = server.report().cpu;
            // No load is below its cpu, so all that follow lose.
            if best.is_some_and(|(key, _)| key.blemish == CLEAN && cpu > key.load) {
                break;
            }
            if tried.contains(&server.report().server) {
                continue;
            }
            let key = self.judge(memory, server, policy, now);
            if key.blemish == STALLED && trial.is_none_or(|(other, _)| key.is_better_than(&other)) {
                trial = Some((key, server));
            }
            if best.is_none_or(|(other, _)| key.is_better_than(&other)) {
                best = Some((key, server));
            }
        }
        let (mut key, mut server) = best?;

        // A stalled server that would have won by its load, and that owes nothing it could still answer, gets a trial.
        let mut hedge_now = false;
        if let Some((trial_key, stalled)) = trial
            && key.blemish != STALLED
            && tried.is_empty()
            && let Some(debts) =
                memory.servers.get_mut(&stalled.report().server).map(|memory| &mut memory.debts)
            && debts.begin_trial(now)
        {
            (key, server, hedge_now) = (trial_key, stalled, true);
        }

        let id = memory.begin(server, now);
        drop(guard);
        let ticket = Ticket { chooser: Arc::clone(self), server: Arc::clone(server), id, ended: false };
        Some(Chosen { server: Arc::clone(server), load: key.load, hedge_now, ticket })
    }

    fn judge(&self, memory: &mut Memory, server: &ServerView, policy: Policy, now: Duration) -> Key {
        let report = server.report();
        let Some(memory) = memory.servers.get_mut(&report.server) else {
            return Key { blemish: CLEAN, load: report.cpu, in_flight: 0, chosen: 0 };
        };
        let blemish = if memory.debts.is_stalled(server, self.stall, now) {
            STALLED
        } else if memory.is_avoided(now) {
            AVOIDED
        } else {
            CLEAN
        };
        let load = match policy {
            Policy::LowestCpu => report.cpu,
            Policy::Projected => {
                report.cpu + 100.0 / f64::from(report.cores) * memory.sent_since(report.stamp()) as f64
            }
        };
        Key { blemish, load, in_flight: memory.debts.len(), chosen: memory.chosen }
    }

    fn end(&self, server: &str, id: TicketId, outcome: Outcome, now: Duration) {
        let mut memory = self.memory();
        let Some(memory) = memory.servers.get_mut(server) else {
            return;
        };
        let sent_under = memory.sent_under.remove(&id);
        if sent_under == Some(memory.since_report.0) {
            memory.since_report.1 = memory.since_report.1.saturating_sub(1);
        }
        let settled = match outcome {
            Outcome::Answered | Outcome::BadAnswer => Settled::Answered,
            Outcome::Broken => Settled::Broken,
            Outcome::NotAccepted | Outcome::GivenUp => Settled::GivenUp,
        };
        memory.debts.settle(id, settled, now);
        match outcome {
            Outcome::Answered => memory.avoided_until = None,
            Outcome::BadAnswer | Outcome::Broken | Outcome::NotAccepted => {
                memory.avoided_until = Some(now + AVOID);
            }
            Outcome::GivenUp => {}
        }
    }

    /// The requests that should also be sent to the next best server, each told once: for a thread that watches over all of
    /// them. A thread that waits for its own request asks [`Ticket::must_hedge`] instead.
    pub fn hedges(&self, view: &View, now: Duration) -> Vec<TicketId> {
        let mut due = Vec::new();
        for (name, memory) in &mut self.memory().servers {
            due.extend(memory.debts.hedges(view.get(name).map(|server| &**server), self.stall, now));
        }
        due
    }

    /// When to ask [`hedges`](Self::hedges) again if no new view comes before; `None` if only a new view can change anything.
    pub fn next_hedge(&self, view: &View) -> Option<Duration> {
        let memory = self.memory();
        let next = |(name, memory): (&String, &ServerMemory)| {
            memory.debts.next_hedge(view.get(name).map(|server| &**server), self.stall)
        };
        memory.servers.iter().filter_map(next).min()
    }

    /// What this node alone knows of the servers of `view`, in the same order.
    pub fn local_states(&self, view: &View, now: Duration) -> Vec<LocalState> {
        let mut memory = self.memory();
        let state = |server: &Arc<ServerView>| {
            let Some(memory) = memory.servers.get_mut(&server.report().server) else {
                return LocalState::default();
            };
            LocalState {
                in_flight: memory.debts.len(),
                stalled: memory.debts.is_stalled(server, self.stall, now),
                avoided: memory.is_avoided(now),
            }
        };
        view.servers().iter().map(state).collect()
    }
}

impl Memory {
    /// Counts a request as in flight.
    fn begin(&mut self, server: &ServerView, now: Duration) -> TicketId {
        self.choices += 1;
        let id = self.choices; // Each choice is one request.
        let report = server.report();
        if !self.servers.contains_key(&report.server) {
            self.servers.insert(report.server.clone(), ServerMemory::default());
        }
        let memory = self.servers.get_mut(&report.server).expect("it was just inserted if it was missing");
        memory.chosen = id;
        memory.debts.sent(id, server, now);
        // A thread with a view that is just being replaced may come with an older report: it does not count for the newer.
        let stamp = report.stamp();
        if stamp > memory.since_report.0 {
            memory.since_report = (stamp, 0);
        }
        if stamp == memory.since_report.0 {
            memory.since_report.1 += 1;
        }
        memory.sent_under.insert(id, stamp);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::command::{Dead, ServerCommand};
    use crate::balancer::report::Report;
    use crate::balancer::table::tests::{Log, report};
    use crate::balancer::view::Published;
    use std::collections::BTreeSet;

    const STALL: Duration = Duration::from_millis(2_000);
    const LOWEST: Policy = Policy::LowestCpu;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A node: its table, what it shows of it, its chooser.
    struct Node {
        log: Log,
        published: Published,
        chooser: Arc<Chooser>,
        sequence: u64,
    }

    impl Node {
        fn new(loads: &[(&str, f64)]) -> Self {
            let mut node = Self {
                log: Log::default(),
                published: Published::new(),
                chooser: Chooser::new(STALL),
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

        fn choose_by(&self, policy: Policy, now: Duration, tried: &[&str]) -> Option<Chosen> {
            let tried: Vec<String> = tried.iter().map(|&name| name.to_owned()).collect();
            self.chooser.choose(&self.published.view(), policy, now, &tried)
        }

        fn choose(&self, now: Duration) -> Chosen {
            self.choose_by(LOWEST, now, &[]).expect("there is a server")
        }

        /// Chooses, answers at once, and says who it was.
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
        let mut node = Node::new(&[("a", 30.0), ("b", 10.0), ("c", 20.0)]);
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
        let mut node = Node::new(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
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
    fn equal_loads_share_evenly() {
        let node = Node::new(&[("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 5.5)]);
        let one_by_one: Vec<_> = (0..9).map(|_| node.ask(ms(0))).collect();
        assert_eq!(one_by_one.concat(), "abcabcabc", "chosen longest ago");
        let at_once: Vec<_> = (0..30).map(|_| node.choose(ms(0))).collect();
        for name in ["a", "b", "c"] {
            assert_eq!(at_once.iter().filter(|chosen| chosen.name() == name).count(), 10);
        }
    }

    #[test]
    fn the_fewest_in_flight_come_before_the_longest_ago() {
        let node = Node::new(&[("a", 5.0), ("b", 5.0)]);
        let held = node.choose(ms(0));
        assert_eq!(held.name(), "a");
        assert_eq!([node.ask(ms(0)), node.ask(ms(0))], ["b", "b"], "though b was chosen last");
        held.ticket.end(Outcome::Answered, ms(1));
        assert_eq!(node.ask(ms(1)), "a");
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let node = Node::new(&[("a", 1.0), ("b", 2.0)]);
        assert_eq!(node.choose_by(LOWEST, ms(0), &["a"]).expect("b is left").name(), "b");
        assert!(node.choose_by(LOWEST, ms(0), &["a", "b"]).is_none());
    }

    #[test]
    fn one_that_failed_is_avoided_for_a_moment_unless_nothing_else_is_left() {
        for failure in [Outcome::Broken, Outcome::BadAnswer, Outcome::NotAccepted] {
            let node = Node::new(&[("a", 1.0), ("b", 90.0)]);
            node.choose(ms(0)).ticket.end(failure, ms(0));
            assert!(node.local("a", ms(0)).avoided);
            assert_eq!(node.ask(ms(999)), "b");
            assert_eq!(node.choose_by(LOWEST, ms(999), &["b"]).expect("better than none").name(), "a");
            assert_eq!(node.ask(ms(1_000)), "a");
        }
        let node = Node::new(&[("a", 1.0), ("b", 90.0)]);
        let slow = node.choose(ms(0));
        node.choose(ms(0)).ticket.end(Outcome::Broken, ms(0));
        slow.ticket.end(Outcome::Answered, ms(1));
        assert_eq!(node.ask(ms(2)), "a", "an answer clears the name");
        node.choose(ms(3)).ticket.end(Outcome::GivenUp, ms(3));
        assert_eq!(node.ask(ms(4)), "a", "to give up is no failure of the server");
    }

    #[test]
    fn a_ticket_that_is_dropped_is_not_in_flight_for_ever() {
        let node = Node::new(&[("a", 1.0)]);
        let chosen = node.choose(ms(0));
        assert_eq!(node.local("a", ms(0)).in_flight, 1);
        drop(chosen);
        assert_eq!(node.local("a", ms(0)), LocalState::default());
    }

    #[test]
    fn projected_adds_what_was_sent_since_the_report() {
        let by = Policy::Projected;
        let mut node = Node::new(&[("a", 10.0), ("b", 40.0)]); // Four cores: 25 % each.
        let one = node.choose_by(by, ms(0), &[]).expect("a");
        let two = node.choose_by(by, ms(0), &[]).expect("a");
        assert_eq!([(one.name(), one.load), (two.name(), two.load)], [("a", 10.0), ("a", 35.0)]);
        let three = node.choose_by(by, ms(0), &[]).expect("b");
        assert_eq!((three.name(), three.load), ("b", 40.0), "a would be at 60");
        one.ticket.end(Outcome::Answered, ms(1));
        assert_eq!(
            node.choose_by(by, ms(1), &[]).map(|chosen| chosen.load),
            Some(35.0),
            "what ended does not count"
        );
        // The next report shows the load of what still runs: it is not counted twice.
        node.report(&[("a", 36.0)], ms(2));
        let four = node.choose_by(by, ms(2), &[]).expect("a");
        assert_eq!((four.name(), four.load), ("a", 36.0));
        two.ticket.end(Outcome::Answered, ms(3));
        assert_eq!(
            node.choose_by(by, ms(3), &["b"]).map(|chosen| chosen.load),
            Some(61.0),
            "an older one does not count"
        );
    }

    #[test]
    fn a_stalled_server_is_passed_over_until_it_answers() {
        let mut node = Node::new(&[("a", 0.0), ("b", 50.0)]);
        let swallowed = node.choose(ms(100));
        assert_eq!(swallowed.name(), "a");
        node.report(&[("a", 0.0), ("b", 50.0)], ms(1_000));
        let view = node.published.view();
        assert_eq!(node.chooser.next_hedge(&view), Some(ms(2_100)));
        assert_eq!(node.ask(ms(2_099)), "a");
        // The answer that just came shows that it moves: the clock starts again.
        let second = node.choose(ms(2_200));
        assert_eq!(second.name(), "a");
        node.report(&[("a", 0.0), ("b", 50.0)], ms(4_000));
        let view = node.published.view();
        assert_eq!(node.ask(ms(4_150)), "b");
        assert!(node.local("a", ms(4_150)).stalled);
        assert_eq!(node.chooser.hedges(&view, ms(4_150)), [swallowed.ticket.id(), second.ticket.id()]);
        assert!(second.ticket.must_hedge(&view, ms(4_150)));
        assert!(node.chooser.hedges(&view, ms(4_200)).is_empty());
        assert_eq!(node.choose_by(LOWEST, ms(4_200), &["b"]).expect("the last resort").name(), "a");
        second.ticket.end(Outcome::Answered, ms(4_300));
        assert_eq!(node.ask(ms(4_300)), "a");
        drop(swallowed);
    }

    #[test]
    fn a_failed_server_is_better_than_a_stalled_one() {
        let mut node = Node::new(&[("a", 0.0), ("b", 50.0)]);
        let _swallowed = node.choose(ms(100));
        node.report(&[("a", 0.0), ("b", 50.0)], ms(2_000));
        node.choose(ms(2_200)).ticket.end(Outcome::Broken, ms(2_200));
        assert!(node.local("b", ms(2_300)).avoided);
        assert_eq!(node.ask(ms(2_300)), "b");
    }

    #[test]
    fn a_stalled_server_that_owes_nothing_gets_a_trial_beside_another() {
        let mut node = Node::new(&[("a", 0.0), ("b", 50.0)]);
        let swallowed = node.choose(ms(100));
        node.report(&[("a", 0.0), ("b", 50.0)], ms(2_000));
        assert_eq!(node.ask(ms(2_200)), "b");
        swallowed.ticket.end(Outcome::GivenUp, ms(2_300));
        assert_eq!(node.ask(ms(7_199)), "b");
        let retry = node.choose_by(LOWEST, ms(7_200), &["b"]).expect("a");
        assert!(!retry.hedge_now, "the last resort is no trial");
        drop(retry);
        // A third server comes. A request that failed there has waited enough to be no guinea pig.
        node.report(&[("a", 0.0), ("b", 50.0), ("c", 60.0)], ms(7_200));
        let retry = node.choose_by(LOWEST, ms(7_200), &["c"]).expect("b");
        assert_eq!((retry.name(), retry.hedge_now), ("b", false));
        drop(retry);
        let trial = node.choose(ms(7_200));
        assert_eq!((trial.name(), trial.hedge_now), ("a", true));
        let beside = node.choose_by(LOWEST, ms(7_200), &["a"]).expect("b");
        assert_eq!((beside.name(), beside.hedge_now), ("b", false));
        assert_eq!(node.ask(ms(99_000)), "b", "one trial at a time");
        // Its queue is full: that is no sign of life.
        trial.ticket.end(Outcome::NotAccepted, ms(99_001));
        assert!(node.local("a", ms(99_002)).stalled);
        let trial = node.choose(ms(200_000));
        assert_eq!((trial.name(), trial.hedge_now), ("a", true));
        trial.ticket.end(Outcome::Answered, ms(200_001));
        assert_eq!(node.ask(ms(200_002)), "a");
    }

    #[test]
    fn threads_that_ask_at_once_see_each_other() {
        let node = Node::new(&[("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 5.0)]);
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
        let chooser = Chooser::new(STALL);
        for round in 0..4 {
            let mut log = Log::default();
            let published = Published::new();
            for number in 0..SERVERS_MAX {
                log.report(report(&format!("r{round}-{number}"), 1.0, 1, 1));
            }
            let view = published.publish(&log.0, ms(0));
            let mut chosen = BTreeSet::new();
            for _ in 0..SERVERS_MAX {
                let choice = chooser.choose(&view, LOWEST, ms(0), &[]).expect("there are many");
                chosen.insert(choice.name().to_owned());
            }
            assert_eq!(chosen.len(), SERVERS_MAX, "each was its turn");
        }
        assert!(chooser.memory().servers.len() <= MEMORIES_MAX + 1);
    }

    /// Not a test: `cargo test --release --lib -- --ignored --nocapture cost_of_a_choice` prints what a choice and a view cost.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_choice() {
        for servers in [3, 30, SERVERS_MAX] {
            let names: Vec<String> = (0..servers).map(|number| format!("server-{number}")).collect();
            let loads: Vec<(&str, f64)> =
                names.iter().enumerate().map(|(n, name)| (name.as_str(), n as f64 / 100.0)).collect();
            let mut node = Node::new(&loads);
            for policy in [Policy::LowestCpu, Policy::Projected] {
                let start = std::time::Instant::now();
                for _ in 0..100_000 {
                    node.choose_by(policy, ms(0), &[])
                        .expect("a server")
                        .ticket
                        .end(Outcome::Answered, ms(0));
                }
                println!(
                    "{servers} servers, {policy:?}: {} ns a choice",
                    start.elapsed().as_nanos() / 100_000
                );
            }
            let rounds = 10_000;
            let (mut apply, mut publish) = (Duration::ZERO, Duration::ZERO);
            for round in 0..rounds {
                let command = ServerCommand::Report(report("server-1", 1.0, 2, round)).to_command();
                let start = std::time::Instant::now();
                node.log.apply(&command);
                apply += start.elapsed();
                let start = std::time::Instant::now();
                node.published.publish(&node.log.0, ms(round));
                publish += start.elapsed();
            }
            let view = node.published.view();
            let start = std::time::Instant::now();
            let digest = view.digest().len();
            println!(
                "{servers} servers: apply {} ns, publish {} ns, digest ({digest}) {} ns",
                apply.as_nanos() / u128::from(rounds),
                publish.as_nanos() / u128::from(rounds),
                start.elapsed().as_nanos()
            );
        }
    }
}
