//! The counters of one listener. Its threads add to them, and `/metrics` shows them.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counts of one listener since it was bound. `connections_open` and `threads` are the current numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections open now.
    pub connections_open: u64,
    /// Threads that serve a connection or wait for the next one.
    pub threads: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections answered with 503: the cap was reached, or no thread or descriptor was left.
    pub turned_away: u64,
    /// Connections cut off because a new one needed their place.
    pub cut_for_room: u64,
    /// Requests with a valid head.
    pub requests: u64,
    /// Requests refused for breaking the protocol or a limit.
    pub refusals: u64,
    /// Connections closed because nothing came for too long.
    pub idle_closed: u64,
    /// Requests answered with 500 because their handler panicked.
    pub panics: u64,
    /// Times that accepting failed.
    pub accept_errors: u64,
    /// Threads started.
    pub threads_started: u64,
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add_one(&self) {
        // Relaxed: no other memory access depends on a counter.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind [`Counters`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: Count,
    pub(super) turned_away: Count,
    pub(super) cut_for_room: Count,
    pub(super) requests: Count,
    pub(super) refusals: Count,
    pub(super) idle_closed: Count,
    pub(super) panics: Count,
    pub(super) accept_errors: Count,
    pub(super) threads_started: Count,
}

impl Tally {
    pub(super) fn counters(&self, connections_open: usize, threads: usize) -> Counters {
        Counters {
            connections_open: connections_open as u64,
            threads: threads as u64,
            accepted: self.accepted.get(),
            turned_away: self.turned_away.get(),
            cut_for_room: self.cut_for_room.get(),
            requests: self.requests.get(),
            refusals: self.refusals.get(),
            idle_closed: self.idle_closed.get(),
            panics: self.panics.get(),
            accept_errors: self.accept_errors.get(),
            threads_started: self.threads_started.get(),
        }
    }
}
