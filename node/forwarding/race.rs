//! One request, and everybody who works on it.
//!
//! Called by the forwarder. As a rule one thread works on a request, and nothing here is contended. In a *race*
//! (docs/balancing.md, "The stall") a helper thread asks a second server; the first whole answer wins, and the others
//! are cut off. So a race has one state that several threads may touch, behind one short lock.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::retry::Attempts;
use super::{Delivered, ForwardFailure};
use crate::balancer::{Compared, TicketId};
use crate::http::ClientHandle;
use crate::http::worker_client::{Answered, CancelHandle, WorkerError};

/// How long a request goes on after its client has closed its side. A client that has closed only its sending side
/// (`nc -N`) still waits for the answer, and the node cannot see the difference. So most requests are answered all the
/// same, and no worker computes for long for a client that has gone.
const CLIENT_GONE_AFTER: Duration = Duration::from_secs(5);

/// One request.
#[derive(Debug)]
pub(super) struct Race {
    pub(super) n: u64,
    pub(super) request_id: String,
    pub(super) deadline: Instant,
    client: ClientHandle,
    state: Mutex<RaceState>,
    /// A helper has ended, or the race is decided.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct RaceState {
    pub(super) attempts: Attempts,
    /// The attempts under way: how to cut each off.
    running: Vec<(TicketId, CancelHandle)>,
    /// Helpers that have not ended.
    helpers: usize,
    winner: Option<Delivered>,
    deadline_passed: bool,
    /// When the client was first seen to have closed its side.
    client_closed_at: Option<Instant>,
    client_gone: bool,
    /// The client has its answer: a helper that starts late does nothing.
    over: bool,
}

impl RaceState {
    fn goes_on(&self) -> bool {
        !self.over && self.winner.is_none() && !self.deadline_passed && !self.client_gone
    }

    /// Whether another server may be asked, if there is one.
    pub(super) fn may_ask_another(&self) -> bool {
        self.goes_on() && self.attempts.may_ask_another()
    }

    /// An attempt begins, which `cancel` ends.
    pub(super) fn begin(&mut self, id: TicketId, cancel: &CancelHandle) {
        self.running.push((id, cancel.clone()));
    }

    fn cut_off_all(&self) {
        for (_, cancel) in &self.running {
            cancel.cancel();
        }
    }
}

/// What an attempt means for its race.
pub(super) enum After {
    /// The thread that made the attempt is done.
    Done,
    /// This server failed; the next one may be asked, if there is one.
    Failed(WorkerError),
}

impl Race {
    pub(super) fn new(n: u64, request_id: &str, client: ClientHandle, deadline: Instant) -> Arc<Self> {
        Arc::new(Self {
            n,
            request_id: request_id.to_owned(),
            deadline,
            client,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, RaceState> {
        // A thread that panicked while it held the lock left counts that may be off by one; the deadline still ends
        // all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what came of the attempt `id` at `server`, which was chosen for this load, compared with these.
    pub(super) fn note(
        &self,
        id: TicketId,
        server: &str,
        (load, compared): (Option<f64>, Option<Vec<Compared>>),
        hedged: bool,
        answer: Result<Answered, WorkerError>,
    ) -> After {
        let mut state = self.state();
        state.running.retain(|(running, _)| *running != id);
        let after = match answer {
            Ok(answer) => {
                if state.winner.is_none() {
                    state.winner = Some(Delivered {
                        answered: answer,
                        server: server.to_owned(),
                        load,
                        compared,
                        hedged,
                    });
                    state.cut_off_all(); // The first whole answer wins.
                }
                After::Done
            }
            Err(WorkerError::Cancelled) => After::Done,
            Err(WorkerError::DeadlinePassed) => {
                state.deadline_passed = true;
                After::Done
            }
            Err(error) => {
                state.attempts.failed(server, error.clone());
                After::Failed(error)
            }
        };
        self.tell(&state);
        after
    }

    /// Wakes the request's own thread if it may be waiting: it does so only while there are helpers. (To notify a
    /// condition that nobody waits for is a system call, too.)
    fn tell(&self, state: &RaceState) {
        if state.helpers > 0 {
            self.changed.notify_all();
        }
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
            state.cut_off_all();
            self.tell(&state);
        }
    }

    /// Waits until the race is decided, and returns how it ended, and how many servers were asked.
    pub(super) fn end(&self) -> (Result<Delivered, ForwardFailure>, usize) {
        let mut state = self.state();
        // Usually the race is decided by now. Otherwise helpers still ask their servers.
        while state.goes_on() && state.helpers > 0 {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.deadline_passed = true;
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.over = true;
        state.cut_off_all(); // Nobody waits for the other answers any more.
        let tries = state.attempts.tried().len();
        let outcome = match state.winner.take() {
            Some(winner) => Ok(winner),
            None if state.client_gone => Err(ForwardFailure::ClientGone),
            None if state.deadline_passed => Err(ForwardFailure::DeadlinePassed),
            None => Err(state.attempts.verdict()),
        };
        (outcome, tries)
    }

    /// A helper joins; the race hears of its end when the [`Helping`] is dropped, be it by a panic.
    pub(super) fn help(self: &Arc<Self>) -> Helping {
        self.state().helpers += 1;
        Helping(Arc::clone(self))
    }
}

/// A helper at work.
pub(super) struct Helping(pub(super) Arc<Race>);

impl Drop for Helping {
    fn drop(&mut self) {
        let mut state = self.0.state();
        self.0.tell(&state);
        state.helpers -= 1;
    }
}

/// The races in flight, by each of their tickets.
#[derive(Debug, Default)]
pub(super) struct Races(Mutex<HashMap<TicketId, Weak<Race>>>);

impl Races {
    fn lock(&self) -> MutexGuard<'_, HashMap<TicketId, Weak<Race>>> {
        // Each change of the map is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, ticket: TicketId, race: &Arc<Race>) {
        self.lock().insert(ticket, Arc::downgrade(race));
    }

    pub(super) fn remove(&self, ticket: TicketId) {
        self.lock().remove(&ticket);
    }

    pub(super) fn get(&self, ticket: TicketId) -> Option<Arc<Race>> {
        self.lock().get(&ticket).and_then(Weak::upgrade)
    }

    /// Gives up those whose clients have gone. `false` if there is none in flight.
    pub(super) fn look_after_clients(&self) -> bool {
        let races: Vec<Arc<Race>> = self.lock().values().filter_map(Weak::upgrade).collect();
        races.iter().for_each(|race| race.look_after_client());
        !races.is_empty()
    }
}
