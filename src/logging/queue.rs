//! The lines that wait to be written: bounded, and never in the way of whoever logs.
//!
//! Called by the logger ([`Queues::push`]), by [`flush`](super::flush), and by the one writing thread of `writer.rs`, which
//! takes what waits. A lock is held for as long as it takes to copy a line, never while something is written. So a disk
//! that takes nothing costs lines, and neither a request nor an election.
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use log::Level;

/// What waits of the lines of [`Class::Request`], in bytes, at most: half a second of requests at full speed.
pub(super) const REQUESTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The same for all other lines. They are few: whoever can be made to speak often by others limits the rate of its lines.
pub(super) const OTHERS_BYTES_MAX: usize = 512 * 1024;

/// How long the writer waits for more lines of requests once it has one: many lines leave in one write(2), and a request
/// seldom has to wake the writer. All other lines are written at once.
const GATHERING: Duration = Duration::from_millis(5);

/// A buffer that grew beyond this, in bytes, is given back after it was written.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What a line is about. Each class has a queue of its own, so that a flood of requests costs no line about an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// What a client can cause, as often as it likes.
    Request,
    /// Everything else: elections, the Raft log, peers, the disk, start and stop. It is written first.
    Other,
}

/// Modules whose lines are about single requests and connections.
const REQUEST_MODULES: [&str; 3] = ["rakit::http", "rakit::node::forwarding", "rakit::node::primes"];

impl Class {
    /// The class of what the module `target` tells at this level.
    pub(super) fn of(target: &str, level: Level) -> Self {
        let inside = |module: &&str| {
            target.strip_prefix(*module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // A client may cause an error, but that does not make it unimportant.
        if level > Level::Error && REQUEST_MODULES.iter().any(inside) { Self::Request } else { Self::Other }
    }
}

/// What the writing thread is doing.
const WRITING: u8 = 0;
/// It sleeps until there is a line.
const IDLE: u8 = 1;
/// It sleeps for [`GATHERING`], or until there is a line that is not a request's.
const GATHERS: u8 = 2;

/// The queues of one process.
#[derive(Debug, Default)]
pub(super) struct Queues {
    requests: Mutex<Vec<u8>>,
    others: Mutex<Vec<u8>>,
    /// Lines that found their queue full since the writer last asked.
    refused: AtomicU64,
    /// There is something that the writer should not wait with.
    urgent: AtomicBool,
    writer: OnceLock<Thread>,
    doing: AtomicU8,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
}

/// Wishes to have everything written, numbered in their order.
#[derive(Debug, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

/// What the writer takes at once: whole lines.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) others: Vec<u8>,
    pub(super) requests: Vec<u8>,
    /// Lines that should have followed these, but found their queue full.
    pub(super) refused: u64,
    /// The last flush that this batch fulfils.
    flush: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked with the lock left whole lines: each is added in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    /// Leaves one whole line for the writer. `false` if its queue is full: the line is lost, and counted.
    pub(super) fn push(&self, class: Class, line: &[u8]) -> bool {
        let (queue, bytes_max) = match class {
            Class::Request => (&self.requests, REQUESTS_BYTES_MAX),
            Class::Other => (&self.others, OTHERS_BYTES_MAX),
        };
        let mut waiting = lock(queue);
        if waiting.len() + line.len() > bytes_max {
            drop(waiting);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        waiting.extend_from_slice(line);
        drop(waiting);
        // The writer says what it is going to do and then looks once more for lines. So it sees this one, or this sees it.
        match (class, self.doing.load(Ordering::SeqCst)) {
            (Class::Request, IDLE) => self.wake(),
            (Class::Request, _) => {}
            (Class::Other, doing) => {
                self.urgent.store(true, Ordering::SeqCst);
                if doing != WRITING {
                    self.wake();
                }
            }
        }
        true
    }

    /// Waits until everything that was pushed before is written, or was given up since it cannot be; `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        if self.writer.get().is_none_or(|writer| writer.id() == thread::current().id()) {
            return; // It would wait for itself.
        }
        let mut flushes = lock(&self.flushes);
        flushes.asked += 1;
        let mine = flushes.asked;
        self.urgent.store(true, Ordering::SeqCst);
        self.wake();
        let waited = self.flushed.wait_timeout_while(flushes, limit, |flushes| flushes.done < mine);
        drop(waited);
    }

    /// `writer` is the thread to wake. Told by that thread before it looks for lines, and by whoever started it before it goes on:
    /// so no line and no flush finds nobody to wake.
    pub(super) fn set_writer(&self, writer: Thread) {
        let known = self.writer.get_or_init(|| writer.clone());
        assert!(known.id() == writer.id(), "one thread writes the lines of a process");
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    // ------------------------------------------------------------------------------------------- the writing thread

    /// Sleeps until there is something to do, or `limit` has passed; may also wake for nothing.
    pub(super) fn wait(&self, limit: Option<Duration>) {
        self.doing.store(IDLE, Ordering::SeqCst);
        if self.is_empty() && !self.urgent.load(Ordering::SeqCst) {
            match limit {
                None => thread::park(),
                Some(limit) => thread::park_timeout(limit),
            }
        }
        self.doing.store(GATHERS, Ordering::SeqCst);
        if !self.urgent.load(Ordering::SeqCst) && !self.is_empty() {
            thread::park_timeout(GATHERING);
        }
        self.doing.store(WRITING, Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        lock(&self.requests).is_empty() && lock(&self.others).is_empty()
    }

    /// Takes all that waits into `batch`, whose last content was written.
    pub(super) fn take(&self, batch: &mut Batch) {
        self.urgent.store(false, Ordering::SeqCst);
        batch.flush = lock(&self.flushes).asked;
        for (taken, queue) in [(&mut batch.others, &self.others), (&mut batch.requests, &self.requests)] {
            taken.clear();
            taken.shrink_to(KEPT_BYTES_MAX);
            std::mem::swap(taken, &mut *lock(queue));
        }
        batch.refused = self.refused.swap(0, Ordering::Relaxed);
    }

    /// What this batch held has been written, or given up.
    pub(super) fn done(&self, batch: &Batch) {
        let mut flushes = lock(&self.flushes);
        if flushes.done < batch.flush {
            flushes.done = batch.flush;
            self.flushed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_requests_takes_no_room_from_other_lines() {
        let queues = Queues::default();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let mut batch = Batch::default();
        let fill = |class| (0..).take_while(|_| queues.push(class, &line)).count() * line.len();
        assert_eq!((fill(Class::Request), fill(Class::Other)), (REQUESTS_BYTES_MAX, OTHERS_BYTES_MAX));
        queues.take(&mut batch);
        assert_eq!((batch.requests.len(), batch.others.len()), (REQUESTS_BYTES_MAX, OTHERS_BYTES_MAX));
        assert_eq!(batch.refused, 2);
        queues.take(&mut batch);
        assert!(batch.requests.is_empty() && batch.others.is_empty() && batch.refused == 0);
    }

    #[test]
    fn the_class_is_that_of_the_module() {
        for (target, class) in [
            ("rakit::http::server", Class::Request),
            ("rakit::node::forwarding::retry", Class::Request),
            ("rakit::node::raft_loop", Class::Other),
            ("rakit::raft::election", Class::Other),
            ("rakit::httpd", Class::Other),
            ("ureq", Class::Other),
        ] {
            assert_eq!(Class::of(target, Level::Warn), class, "{target}");
            assert_eq!(Class::of(target, Level::Error), Class::Other, "{target}");
        }
    }
}
