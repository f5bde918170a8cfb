//! A request's way to a server and back: choose, ask, and ask the next best if that fails.
//!
//! Called by the public listener's threads ([`Forwarder::prime`]), each for its own request. The choice is made from
//! this node's applied table alone; nobody is asked first, neither a server nor the leader. The request's own thread
//! asks the worker and waits; in the usual case nothing else takes part.
//!
//! The unusual case is a *race* (`race.rs`): while a request waits at a server that has stalled, it is also sent to the
//! next best, by a helper thread. One watcher thread finds the requests that need it, and those whose client has gone.
//!
//! `retry.rs` alone decides which outcome is a server's failure, and which server is tried next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};

use super::exchange::Exchange;
use crate::balancer::{Chooser, Chosen, Compared, Policy, Published, ServerView};
use crate::http::ClientHandle;
use crate::http::worker_client::{Answered, CancelHandle, WorkerAnswer, WorkerClient, WorkerError};
use race::{After, Helping, Race, Races};
use reasons::ReasonCounts;

mod race;
mod reasons;
mod retry;

/// How often the watcher looks while requests are in flight. It adds at most this to `stall_ms`, if that is longer than
/// [`IDLE_WATCH_INTERVAL`].
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How often the watcher looks while no request is in flight.
const IDLE_WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How many helper threads may run at once. If all of them are busy, a stalled request waits for its own server alone.
const HELPERS_MAX: usize = 512;

/// A helper asks one server after the other; that needs little stack.
const HELPER_STACK_BYTES: usize = 256 * 1024;

/// How a request ended, if it did not end with an answer.
#[derive(Debug)]
pub enum ForwardFailure {
    /// No server may be chosen: none is alive with its worker up.
    NoServer,
    /// Every server that was tried failed: its name, and how it failed.
    AllFailed(Vec<(String, WorkerError)>),
    /// There are servers in good standing, but they are busy.
    AllBusy {
        /// The shortest time that one of them asks to wait, in seconds.
        retry_after_s: u32,
    },
    /// The deadline passed.
    DeadlinePassed,
    /// The client has gone.
    ClientGone,
}

impl ForwardFailure {
    /// The status of the answer that the client gets.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoServer | Self::AllBusy { .. } => 503,
            Self::AllFailed(_) => 502,
            Self::DeadlinePassed | Self::ClientGone => 504,
        }
    }
}

/// A whole answer, and which server gave it.
#[derive(Debug)]
pub struct Delivered {
    /// The worker's answer, and when its parts came.
    pub answered: Answered,
    /// The server's name.
    pub server: String,
    /// The load that it was chosen for, in percent, if its load is known.
    pub load: Option<f64>,
    /// What the server was compared with, if this choice is explained.
    pub compared: Option<Vec<Compared>>,
    /// Whether a helper thread brought it, because the first server had stalled.
    pub hedged: bool,
}

impl Delivered {
    /// The status of the answer that the client gets.
    pub fn status(&self) -> u16 {
        match self.answered.answer {
            WorkerAnswer::Prime(_) => 200,
            WorkerAnswer::ClientError { status, .. } => status,
        }
    }
}

/// Counts since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct ForwardCounters {
    /// Attempts that failed and were tried elsewhere or given up.
    pub failed_attempts: AtomicU64,
    /// Attempts after one that brought no answer, by the reason of that one.
    pub retries: ReasonCounts,
    /// Requests that were also sent to a second server because the first had stalled.
    pub hedges: AtomicU64,
    /// Requests that waited at a stalled server and got no second one, because all helpers were busy.
    pub hedges_denied: AtomicU64,
}

/// Sends requests to servers. One per node.
#[derive(Debug)]
pub struct Forwarder {
    chooser: Arc<Chooser>,
    /// Tells the other nodes what is in flight from here.
    exchange: Exchange,
    published: Arc<Published>,
    policy: Policy,
    request_timeout: Duration,
    started: Instant,
    workers: WorkerClient,
    races: Races,
    helpers: AtomicUsize,
    /// Counts for `/metrics`.
    pub counters: ForwardCounters,
}

impl Forwarder {
    /// A forwarder that chooses from what is published, on the clock that counts from `started`.
    pub fn new(
        chooser: Arc<Chooser>,
        exchange: Exchange,
        published: Arc<Published>,
        policy: Policy,
        request_timeout: Duration,
        started: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            chooser,
            exchange,
            published,
            policy,
            request_timeout,
            started,
            workers: WorkerClient::new(),
            races: Races::default(),
            helpers: AtomicUsize::new(0),
            counters: ForwardCounters::default(),
        })
    }

    /// The `n`th prime, from whichever server is best, and how many servers were asked. Blocks until there is an
    /// answer, or none can come any more.
    pub fn prime(
        self: &Arc<Self>,
        n: u64,
        request_id: &str,
        client: ClientHandle,
    ) -> (Result<Delivered, ForwardFailure>, usize) {
        let race = Race::new(n, request_id, client, Instant::now() + self.request_timeout);
        self.run(&race, false);
        race.end()
    }

    /// Tries one server after the other for this race, until there is an answer or nobody is left to be tried.
    fn run(self: &Arc<Self>, race: &Arc<Race>, hedged: bool) {
        let mut failed: Option<WorkerError> = None;
        loop {
            let cancel = CancelHandle::new();
            let Some((chosen, patient)) = self.begin(race, &cancel) else { return };
            if let Some(why) = &failed {
                self.counters.retries.count(why);
            }
            let id = chosen.ticket.id();
            self.races.insert(id, race);
            if chosen.hedge_now {
                self.hedge(race);
            }
            let answer = match patient {
                false => self.workers.ask(chosen.worker(), race.n, race.deadline, &cancel),
                true => self.workers.ask_patiently(chosen.worker(), race.n, race.deadline, &cancel),
            };
            self.races.remove(id);
            match self.finish(race, chosen, answer, hedged) {
                After::Done => return,
                After::Failed(why) => failed = Some(why),
            }
        }
    }

    /// Chooses the next server, and notes it in the race, in one step: two helpers never choose the same one. The
    /// `bool` says whether no other server is left, so that the request waits for this one.
    fn begin(&self, race: &Race, cancel: &CancelHandle) -> Option<(Chosen, bool)> {
        let mut state = race.state();
        if !state.may_ask_another() {
            return None;
        }
        let view = self.published.view();
        let choose = |without: &[String]| self.chooser.choose(&view, self.policy, self.now(), without);
        let (chosen, patient) = match choose(state.attempts.tried()) {
            Some(chosen) => (chosen, false),
            None => (choose(&state.attempts.all_but_not_accepted(&view)?)?, true),
        };
        if patient {
            info!("request {}: N={} waits for its turn at {}", race.request_id, race.n, chosen.name());
        } else {
            state.attempts.chose(chosen.name());
        }
        self.exchange.changed();
        state.begin(chosen.ticket.id(), cancel);
        Some((chosen, patient))
    }

    /// Notes the outcome of an attempt.
    fn finish(
        &self,
        race: &Race,
        chosen: Chosen,
        answer: Result<Answered, WorkerError>,
        hedged: bool,
    ) -> After {
        let id = chosen.ticket.id();
        let Chosen { server, load, compared, ticket, .. } = chosen;
        ticket.end(retry::outcome(&answer), self.now());
        self.exchange.changed();
        let server = server.report();
        let load = server.cpu_known.then_some(load);
        let after = race.note(id, &server.server, (load, compared), hedged, answer);
        if let After::Failed(error) = &after {
            if !matches!(error, WorkerError::Busy { .. }) {
                self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
            }
            let next = if race.state().may_ask_another() { "trying the next best" } else { "giving up" };
            let (id, n, name, worker) = (&race.request_id, race.n, &server.server, server.worker);
            warn!("request {id}: N={n}: server {name} ({worker}) {error}; {next}");
        }
        after
    }

    // ------------------------------------------------------------------------------------------------- stalls

    /// Watches all requests in flight until `stop` is closed. A request that waits at a stalled server gets a helper; a
    /// request whose client has gone is cut off. Closes idle connections to workers, too.
    pub fn watch_races(self: &Arc<Self>, stop: &Receiver<()>) {
        // The chooser names each ticket once. Those that could not get a helper at once wait here for the next look.
        let mut later = Vec::new();
        let mut interval = IDLE_WATCH_INTERVAL;
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(interval) {
            let view = self.published.view();
            let named = self.chooser.hedges(&view, self.now());
            for ticket in std::mem::take(&mut later).into_iter().chain(named.iter().copied()) {
                let done = match self.races.get(ticket) {
                    // If there is no other server, one may come.
                    Some(race) => self.hedge(&race),
                    // The request has ended; or the chooser named it before its thread noted it in its race.
                    None => !named.contains(&ticket),
                };
                if !done {
                    later.push(ticket);
                }
            }
            interval = if self.races.look_after_clients() { WATCH_INTERVAL } else { IDLE_WATCH_INTERVAL };
            self.workers.close_idle();
        }
    }

    /// Why no server can be chosen now, and when to try again.
    pub fn why_no_server(&self) -> (&'static str, &'static str) {
        let view = self.published.view();
        let works = |server: &&Arc<ServerView>| server.record.alive && server.report().worker_up;
        if view.servers().iter().any(|server| works(&server)) {
            ("every server that works is drained by an operator", "try again when one is undrained")
        } else {
            ("no server is alive with its worker up", "try again when one reports")
        }
    }

    /// Starts a helper for this race; `false` if there is no other server that it could ask.
    fn hedge(self: &Arc<Self>, race: &Arc<Race>) -> bool {
        let tried = {
            let state = race.state();
            if !state.may_ask_another() {
                return true;
            }
            state.attempts.tried().to_vec()
        };
        let view = self.published.view();
        let untried = |server: &ServerView| server.is_eligible() && !tried.contains(&server.report().server);
        if !view.servers().iter().any(|server| untried(server)) {
            return false;
        }
        let helpers = self.helpers.fetch_add(1, Ordering::Relaxed);
        let place = HelperPlace(Arc::clone(self));
        if helpers >= HELPERS_MAX {
            self.counters.hedges_denied.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.counters.hedges.fetch_add(1, Ordering::Relaxed);
        let slow = tried.join(", ");
        info!(
            "request {}: N={} waits at {slow}, which has stalled; also sent to the next best",
            race.request_id, race.n
        );
        // Also if it panics, or never starts, the race must hear that its helper is gone.
        let helping = race.help();
        let helper = move || {
            let (Helping(race), HelperPlace(forwarder)) = (&helping, &place);
            forwarder.run(race, true);
        };
        let thread = std::thread::Builder::new().name("race-helper".into()).stack_size(HELPER_STACK_BYTES);
        if let Err(error) = thread.spawn(helper) {
            warn!("request {}: the system gives no thread to ask another server: {error}", race.request_id);
        }
        true
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A place among the [`HELPERS_MAX`]; given back when it is dropped.
struct HelperPlace(Arc<Forwarder>);

impl Drop for HelperPlace {
    fn drop(&mut self) {
        self.0.helpers.fetch_sub(1, Ordering::Relaxed);
    }
}
