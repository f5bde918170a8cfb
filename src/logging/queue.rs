//! The bounded queues of lines that wait to be written. A thread that logs never waits for a disk.
//!
//! Called by the logger ([`Queues::push`]), by [`flush`](super::flush), and by the writer thread of
//! `writer.rs`, which takes the waiting lines. A lock is held only while a line is copied, never during a
//! write. So a disk that takes nothing costs lines, but no request and no election.
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use log::Level;

/// The most waiting lines of [`Class::Request`], in bytes: half a second of requests at full speed.
pub(super) const REQUESTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The same for all other lines. They are few: where clients or peers could cause many lines, the code limits their
/// rate.
pub(super) const OTHERS_BYTES_MAX: usize = 512 * 1024;

/// How long the writer waits for more lines of requests once it has one. So one write(2) takes many lines,
/// and a request seldom has to wake the writer. All other lines are written at once.
const GATHERING: Duration = Duration::from_millis(5);

/// A buffer that grew beyond this, in bytes, is shrunk after it was written.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What a line is about. Each class has a queue of its own, so that a flood of requests costs no line about
/// an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Lines that a client can cause as often as it likes.
    Request,
    /// Everything else: elections, the Raft log, peers, the disk, start and stop. It is written first.
    Other,
}

/// Modules whose lines are about single requests and connections.
const REQUEST_MODULES: [&str; 3] = ["rakit::http", "rakit::node::forwarding", "rakit::node::primes"];

impl Class {
    /// The class of a line of the module `target` at this level.
    pub(super) fn of(target: &str, level: Level) -> Self {
        let inside = |module: &&str| {
            target.strip_prefix(*module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // An error is important even if a client caused it.
        if level > Level::Error && REQUEST_MODULES.iter().any(inside) { Self::Request } else { Self::Other }
    }
}

/// The writer thread works.
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
    /// Lines that found their queue full since the writer last took a batch.
    refused: AtomicU64,
    /// There is a line or a flush for which the writer should not wait.
    urgent: AtomicBool,
    writer: OnceLock<Thread>,
    doing: AtomicU8,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
}

/// Calls of `flush`, numbered in their order.
#[derive(Debug, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

/// The whole lines that the writer takes at once.
#[derive(Debug, Default)]
pub(super) struct QueuedLines {
    pub(super) others: Vec<u8>,
    pub(super) requests: Vec<u8>,
    /// How many later lines were lost, since their queue was full.
    pub(super) refused: u64,
    /// The number of the last flush that this batch completes.
    flush: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked with the lock has left whole lines: each line is added in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    /// Puts one whole line into its queue. `false` if the queue is full: the line is lost and counted.
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
        // The writer first stores `doing` and then looks for lines once more. So either the writer sees this
        // line, or this thread sees that the writer sleeps.
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

    /// Waits until all earlier lines are written, or lost because their output failed; `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        if self.writer.get().is_none_or(|writer| writer.id() == thread::current().id()) {
            return; // The writer would wait for itself.
        }
        let mut flushes = lock(&self.flushes);
        flushes.asked += 1;
        let mine = flushes.asked;
        self.urgent.store(true, Ordering::SeqCst);
        self.wake();
        let waited = self.flushed.wait_timeout_while(flushes, limit, |flushes| flushes.done < mine);
        drop(waited);
    }

    /// `writer` is the thread to wake. Called by that thread before it looks for lines, and by the thread
    /// that started it before it goes on. So every line and every flush finds a thread to wake.
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

    /// Sleeps until there is something to do, or `limit` has passed. It may also wake without a reason.
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

    /// Takes all waiting lines into `batch`. The old content of `batch` is written already, and is dropped.
    pub(super) fn take(&self, batch: &mut QueuedLines) {
        self.urgent.store(false, Ordering::SeqCst);
        batch.flush = lock(&self.flushes).asked;
        for (taken, queue) in [(&mut batch.others, &self.others), (&mut batch.requests, &self.requests)] {
            taken.clear();
            taken.shrink_to(KEPT_BYTES_MAX);
            std::mem::swap(taken, &mut *lock(queue));
        }
        batch.refused = self.refused.swap(0, Ordering::Relaxed);
    }

    /// Reports that the lines of this batch were written or lost.
    pub(super) fn done(&self, batch: &QueuedLines) {
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
        let mut batch = QueuedLines::default();
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
