//! A request's way to a server and back: choose, ask, and ask the next best if that fails.
//!
//! Called by the public listener's threads ([`Forwarder::prime`]), each for its own request. The choice is made from this
//! node's applied table alone; nobody is asked first, neither a server nor the leader. The request's own thread asks the
//! worker and waits; in the usual case nothing else takes part.
//!
//! The unusual case is a *race* (docs/balancing.md, "The stall"): while a request waits at a server that has
//! stalled, it is also sent to the next best, by a helper thread; the first whole answer wins, and the others are cut
//! off. One watcher thread finds the requests that need it. So a race has one state that several threads may touch,
//! behind one short lock.
//!
//! What counts as whose failure, and what is tried again, is decided here and nowhere else:
//! - refused, unreachable, closed or reset before a whole answer, a 200 without digits, a 5xx: the server's
//!   failure. The next best is tried at once, until [`FAILURES_MAX`] have failed.
//! - a 4xx: the client's. It is passed on.
//! - not accepted in time: perhaps only busy, with a full queue. If nobody else is left to be asked, it is asked once more, and
//!   then for as long as the request may take: its turn may come.
//! - slow: nobody's failure. There is one deadline for the whole request, and no retry after it: the worker that computes
//!   on would only be joined by a second one.
//!
//! A client that has gone waits for nothing: soon after, its request is cut off at the worker as well.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};

use crate::balancer::{Chooser, Chosen, Outcome, Policy, Published, TicketId};
use crate::http::ClientHandle;
use crate::http::worker_client::{Answer, CancelHandle, WorkerClient, WorkerError};

/// When so many servers have failed a request, it has failed. A stalled server has not, nor has one that did not accept.
pub const FAILURES_MAX: usize = 3;

/// How often the watcher looks for requests that wait at a stalled server. It adds at most this to `stall_ms`.
const RACE_WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// A client that has closed its side is given up after so long. Not at once: it looks the same when it has only closed its
/// sending side (`nc -N`), and waits. So most requests are answered, and no worker computes on for a client that has gone.
const CLIENT_GONE_AFTER: Duration = Duration::from_secs(5);

/// How many helper threads may run at once; a stalled request beyond it waits for its own server alone.
const HELPERS_MAX: usize = 512;

/// A helper asks one server after the other; that needs little stack.
const HELPER_STACK_BYTES: usize = 256 * 1024;

thread_local! {
    /// Each thread has its own client: nothing is shared, no lock is taken on the way to a worker.
    static CLIENT: RefCell<WorkerClient> = RefCell::new(WorkerClient::new());
}

/// How a request ended, if it did not end with an answer.
#[derive(Debug)]
pub enum Failure {
    /// No server may be chosen: none is alive with its worker up.
    NoServer,
    /// So many were tried, and all failed: who and how.
    AllFailed(Vec<(String, WorkerError)>),
    /// The deadline passed.
    DeadlinePassed,
    /// The client has gone.
    ClientGone,
}

/// A whole answer, and whose it is.
#[derive(Debug)]
pub struct Delivered {
    /// The worker's answer.
    pub answer: Answer,
    /// The server's name.
    pub server: String,
    /// The load that it was chosen for, in percent.
    pub load: f64,
    /// How many servers had failed before.
    pub retries: usize,
    /// Whether it came by a helper, since the first server had stalled.
    pub hedged: bool,
}

/// Counts since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct ForwardCounters {
    /// Attempts that failed and were tried elsewhere or given up.
    pub failed_attempts: AtomicU64,
    /// Requests that were also sent to a second server because the first had stalled.
    pub hedges: AtomicU64,
    /// Requests that should have been, but too many helpers were busy.
    pub hedges_denied: AtomicU64,
}

/// Sends requests to servers. One per node.
#[derive(Debug)]
pub struct Forwarder {
    chooser: Arc<Chooser>,
    published: Arc<Published>,
    policy: Policy,
    request_timeout: Duration,
    started: Instant,
    /// The races in flight, by each of their tickets.
    races: Mutex<HashMap<TicketId, Weak<Race>>>,
    helpers: AtomicUsize,
    /// Counts for `/metrics`.
    pub counters: ForwardCounters,
}

/// One request, and everybody who works on it.
#[derive(Debug)]
struct Race {
    n: u64,
    request_id: String,
    client: ClientHandle,
    deadline: Instant,
    state: Mutex<RaceState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct RaceState {
    /// Servers that were chosen for it, whatever came of it.
    tried: Vec<String>,
    /// Those that failed.
    failures: Vec<(String, WorkerError)>,
    /// Those of them that did not accept the connection, and may be asked once more.
    not_accepted: Vec<String>,
    /// The attempts under way: how to cut each off.
    running: Vec<(TicketId, CancelHandle)>,
    /// Helpers that have not ended.
    helpers: usize,
    winner: Option<Delivered>,
    deadline_passed: bool,
    /// When the client was first seen to have closed its side.
    client_closed_at: Option<Instant>,
    client_gone: bool,
    /// Its client has its answer: whoever comes late shall not begin.
    over: bool,
}

impl RaceState {
    fn goes_on(&self) -> bool {
        !self.over && self.winner.is_none() && !self.deadline_passed && !self.client_gone
    }

    /// Whether another server may be asked, if there is one.
    fn may_ask_another(&self) -> bool {
        let failed = self.failures.iter().filter(|(_, error)| *error != WorkerError::ConnectTimeout);
        self.goes_on() && failed.count() < FAILURES_MAX
    }
}

impl Race {
    fn state(&self) -> MutexGuard<'_, RaceState> {
        // A thread that panicked while it held the lock left counts that may be off by one; the deadline still ends all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the race up if its client has been gone for long enough.
    fn look_after_client(&self) {
        if !self.client.has_closed() {
            return;
        }
        let mut state = self.state();
        let closed_at = *state.client_closed_at.get_or_insert_with(Instant::now);
        if closed_at.elapsed() >= CLIENT_GONE_AFTER && state.goes_on() {
            state.client_gone = true;
            for (_, cancel) in &state.running {
                cancel.cancel();
            }
            self.changed.notify_all();
        }
    }
}

impl Forwarder {
    /// A forwarder that chooses from what is published, on the clock that counts from `started`.
    pub fn new(
        chooser: Arc<Chooser>,
        published: Arc<Published>,
        policy: Policy,
        request_timeout: Duration,
        started: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            chooser,
            published,
            policy,
            request_timeout,
            started,
            races: Mutex::default(),
            helpers: AtomicUsize::new(0),
            counters: ForwardCounters::default(),
        })
    }

    /// The `n`th prime, from whichever server is best. Blocks until there is an answer, or none can come any more.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn prime(
        self: &Arc<Self>,
        n: u64,
        request_id: &str,
        client: ClientHandle,
    ) -> Result<Delivered, Failure> {
        let race = Arc::new(Race {
            n,
            request_id: request_id.to_owned(),
            client,
            deadline: Instant::now() + self.request_timeout,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        self.run(&race, false);
        let mut state = race.state();
        // Usually all is over by now. In a race, helpers may still be at it.
        while state.goes_on() && state.helpers > 0 {
            let left = race.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.deadline_passed = true;
                break;
            }
            state = race.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.over = true;
        for (_, cancel) in &state.running {
            cancel.cancel(); // Whoever still works on it works for nobody.
        }
        if let Some(winner) = state.winner.take() {
            return Ok(winner);
        }
        if state.client_gone {
            return Err(Failure::ClientGone);
        }
        if state.deadline_passed {
            return Err(Failure::DeadlinePassed);
        }
        let failures = std::mem::take(&mut state.failures);
        Err(if failures.is_empty() { Failure::NoServer } else { Failure::AllFailed(failures) })
    }

    /// Tries one server after the other for this race, until there is an answer or nobody is left to be tried.
    fn run(self: &Arc<Self>, race: &Arc<Race>, hedged: bool) {
        loop {
            let cancel = CancelHandle::new();
            let Some((chosen, patient)) = self.begin(race, &cancel) else { return };
            let id = chosen.ticket.id();
            self.races().insert(id, Arc::downgrade(race));
            if chosen.hedge_now {
                self.hedge(race);
            }
            let answer = CLIENT.with_borrow_mut(|client| match patient {
                false => client.ask(chosen.worker(), race.n, race.deadline, &cancel),
                true => client.ask_patiently(chosen.worker(), race.n, race.deadline, &cancel),
            });
            self.races().remove(&id);
            if self.finish(race, chosen, answer, hedged) {
                return;
            }
        }
    }

    /// Chooses the next server, and notes it in the race, in one step: two helpers never choose the same one. Tells also
    /// whether it is the last hope, to be waited for.
    fn begin(&self, race: &Race, cancel: &CancelHandle) -> Option<(Chosen, bool)> {
        let mut state = race.state();
        if !state.may_ask_another() {
            return None;
        }
        let view = self.published.view();
        let choose = |without: &[String]| self.chooser.choose(&view, self.policy, self.now(), without);
        let (chosen, patient) = match choose(&state.tried) {
            Some(chosen) => {
                state.tried.push(chosen.name().to_owned());
                (chosen, false)
            }
            None if state.not_accepted.is_empty() => return None,
            None => {
                let again = std::mem::take(&mut state.not_accepted);
                let others = view.by_load().iter().map(|server| &server.report().server);
                let others: Vec<String> = others.filter(|name| !again.contains(name)).cloned().collect();
                let chosen = choose(&others)?;
                info!("request {}: N={} waits for its turn at {}", race.request_id, race.n, chosen.name());
                (chosen, true)
            }
        };
        state.running.push((chosen.ticket.id(), cancel.clone()));
        Some((chosen, patient))
    }

    /// Notes what came of an attempt; tells whether this thread is done with the race.
    fn finish(&self, race: &Race, chosen: Chosen, answer: Result<Answer, WorkerError>, hedged: bool) -> bool {
        let (server, worker, load) = (chosen.name().to_owned(), chosen.worker(), chosen.load);
        let id = chosen.ticket.id();
        let outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(WorkerError::DeadlinePassed | WorkerError::Cancelled) => Outcome::GivenUp,
            Err(WorkerError::BadBody(_) | WorkerError::ServerError(_)) => Outcome::BadAnswer,
            Err(WorkerError::ConnectTimeout) => Outcome::NotAccepted,
            Err(_) => Outcome::Broken,
        };
        chosen.ticket.end(outcome, self.now());
        let mut state = race.state();
        state.running.retain(|(running, _)| *running != id);
        let done = match answer {
            Ok(answer) => {
                if state.winner.is_none() {
                    let retries = state.failures.len();
                    state.winner = Some(Delivered { answer, server, load, retries, hedged });
                    for (_, cancel) in &state.running {
                        cancel.cancel(); // The first whole answer wins.
                    }
                }
                true
            }
            Err(WorkerError::Cancelled) => true,
            Err(WorkerError::DeadlinePassed) => {
                state.deadline_passed = true;
                true
            }
            Err(error) => {
                self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                if error == WorkerError::ConnectTimeout {
                    state.not_accepted.push(server.clone());
                }
                state.failures.push((server.clone(), error.clone()));
                let next = if state.may_ask_another() { "trying the next best" } else { "giving up" };
                let (id, n) = (&race.request_id, race.n);
                warn!("request {id}: N={n}: server {server} ({worker}) {error}; {next}");
                false
            }
        };
        drop(state);
        race.changed.notify_all();
        done
    }

    // ------------------------------------------------------------------------------------------------- stalls

    /// Watches over all requests in flight until `stop` is closed: what waits at a stalled server gets a helper, and what nobody
    /// waits for is cut off.
    pub fn watch_races(self: &Arc<Self>, stop: &Receiver<()>) {
        // Each ticket is told once. Here is what could not be done about it at once.
        let mut later = Vec::new();
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(RACE_WATCH_INTERVAL) {
            let view = self.published.view();
            let told = self.chooser.hedges(&view, self.now());
            for ticket in std::mem::take(&mut later).into_iter().chain(told.iter().copied()) {
                let race = self.races().get(&ticket).and_then(Weak::upgrade);
                let done = match race {
                    // If there is no other server, one may come.
                    Some(race) => self.hedge(&race),
                    // It has ended; or it was told of before its thread has noted it.
                    None => !told.contains(&ticket),
                };
                if !done {
                    later.push(ticket);
                }
            }
            let races: Vec<Arc<Race>> = self.races().values().filter_map(Weak::upgrade).collect();
            for race in races {
                race.look_after_client();
            }
        }
    }

    /// Starts a helper for this race; `false` if there is no other server that it could ask.
    fn hedge(self: &Arc<Self>, race: &Arc<Race>) -> bool {
        let tried = {
            let state = race.state();
            if !state.may_ask_another() {
                return true;
            }
            state.tried.clone()
        };
        let view = self.published.view();
        if view.by_load().iter().all(|server| tried.contains(&server.report().server)) {
            return false;
        }
        if self.helpers.fetch_add(1, Ordering::Relaxed) >= HELPERS_MAX {
            self.helpers.fetch_sub(1, Ordering::Relaxed);
            self.counters.hedges_denied.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.counters.hedges.fetch_add(1, Ordering::Relaxed);
        let slow = tried.join(", ");
        info!(
            "request {}: N={} waits at {slow}, which has stalled; also sent to the next best",
            race.request_id, race.n
        );
        race.state().helpers += 1;
        // Also if it panics, or never starts, the race must hear that its helper is gone.
        let helping = Helping { forwarder: Arc::clone(self), race: Arc::clone(race) };
        let helper = move || helping.forwarder.run(&helping.race, true);
        let thread = std::thread::Builder::new().name("race-helper".into()).stack_size(HELPER_STACK_BYTES);
        if let Err(error) = thread.spawn(helper) {
            warn!("request {}: no thread for a helper: {error}", race.request_id);
        }
        true
    }

    fn races(&self) -> MutexGuard<'_, HashMap<TicketId, Weak<Race>>> {
        self.races.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A helper at work; when it is dropped, be it by a panic, the race hears of it.
struct Helping {
    forwarder: Arc<Forwarder>,
    race: Arc<Race>,
}

impl Drop for Helping {
    fn drop(&mut self) {
        self.race.state().helpers -= 1;
        self.race.changed.notify_all();
        self.forwarder.helpers.fetch_sub(1, Ordering::Relaxed);
    }
}
