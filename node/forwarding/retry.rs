//! The rules of trying again: which outcome is a failure of the server, which server is asked next, and how a request
//! ends that no server answered. No I/O.
//!
//! Called by the race of a request (`race.rs`), under its lock.
//!
//! - refused, unreachable, closed or reset before a whole answer, a 200 without digits, a 5xx: the server's
//!   failure. The next best is tried at once, until [`FAILURES_MAX`] have failed.
//! - a 4xx: the client's. It is passed on.
//! - busy (503 with `Retry-After`): nobody's failure. The next best is tried; if all are busy, the client gets a 503.
//! - not accepted in time: the server may only be busy, with a full queue. If no other server is left, the node asks it
//!   once more, and waits until the request's deadline: the connection may still be accepted.
//! - slow: nobody's failure. There is one deadline for the whole request, and no retry after it: the first worker would
//!   compute on, and a second one would compute the same.

use super::ForwardFailure;
use crate::balancer::{Outcome, View};
use crate::http::worker_client::{Answered, WorkerError};

/// A request has failed when so many servers have failed it. A server that stalled, was busy, or did not accept the
/// connection has not failed.
pub const FAILURES_MAX: usize = 3;

/// The outcomes of the attempts of one request so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Servers that were chosen for it, with any outcome.
    tried: Vec<String>,
    /// Those that failed, and those that did not accept.
    failures: Vec<(String, WorkerError)>,
    /// Those that did not accept the connection, and may be asked once more.
    not_accepted: Vec<String>,
    /// The shortest time, in seconds, that a busy one asks to wait.
    busy_for_s: Option<u32>,
}

impl Attempts {
    /// Whether another server may be asked, if there is one.
    pub(super) fn may_ask_another(&self) -> bool {
        let failed = self.failures.iter().filter(|(_, error)| *error != WorkerError::ConnectTimeout);
        failed.count() < FAILURES_MAX
    }

    /// The servers that were chosen for it.
    pub(super) fn tried(&self) -> &[String] {
        &self.tried
    }

    /// This one was chosen.
    pub(super) fn chose(&mut self, server: &str) {
        self.tried.push(server.to_owned());
    }

    /// Every server was tried. Returns the names that the next choice must leave out: all but those that did not accept
    /// the connection. `None` if there is none of these.
    pub(super) fn all_but_not_accepted(&mut self, view: &View) -> Option<Vec<String>> {
        let again = std::mem::take(&mut self.not_accepted);
        if again.is_empty() {
            return None;
        }
        let names = view.servers().iter().map(|server| &server.report().server);
        Some(names.filter(|name| !again.contains(name)).cloned().collect())
    }

    /// This server did not answer. `error` is neither the request's own deadline nor a cancelled call.
    pub(super) fn failed(&mut self, server: &str, error: WorkerError) {
        match error {
            WorkerError::Busy { retry_after_s } => {
                self.busy_for_s =
                    Some(self.busy_for_s.map_or(retry_after_s, |other| other.min(retry_after_s)));
                return;
            }
            WorkerError::ConnectTimeout => self.not_accepted.push(server.to_owned()),
            _ => {}
        }
        self.failures.push((server.to_owned(), error));
    }

    /// How a request ends that no server answered and that was not given up.
    pub(super) fn verdict(&mut self) -> ForwardFailure {
        match self.busy_for_s {
            Some(retry_after_s) if self.may_ask_another() => ForwardFailure::AllBusy { retry_after_s },
            _ if self.failures.is_empty() => ForwardFailure::NoServer,
            _ => ForwardFailure::AllFailed(std::mem::take(&mut self.failures)),
        }
    }
}

/// What the result of an attempt says about its server.
pub(super) fn outcome(answer: &Result<Answered, WorkerError>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Answered,
        Err(WorkerError::DeadlinePassed | WorkerError::Cancelled) => Outcome::GivenUp,
        Err(WorkerError::Busy { .. }) => Outcome::Busy,
        Err(WorkerError::BadBody(_) | WorkerError::ServerError(_)) => Outcome::BadAnswer,
        Err(WorkerError::ConnectTimeout) => Outcome::NotAccepted,
        Err(_) => Outcome::Broken,
    }
}
