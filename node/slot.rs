//! A slot for one thing, of which only the newest counts. Putting never waits: a thing that was not taken yet
//! is replaced. Used towards the senders (a newer append makes the older one pointless) and the watcher of the
//! leader; and, once each, for the Raft loop's answers to the threads that wait for one.
//!
//! It is no channel, because the receiver of a channel spins and yields before it sleeps. That pays if the next message
//! comes within microseconds. Here, it comes after a heartbeat interval or after an fdatasync(2): the spinning was a
//! fifth of what an idle leader did, and a sixth of what the threads of a busy one did.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvError, RecvTimeoutError};

/// The putting end. Dropping it tells the taker.
#[derive(Debug)]
pub struct Slot<T>(Arc<Shared<T>>);

/// The taking end.
#[derive(Debug)]
pub struct Taker<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    newest: Option<T>,
    ended: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Each change of the state is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slot<T> {
    /// An empty slot and its taking end.
    pub fn new() -> (Self, Taker<T>) {
        let state = Mutex::new(State { newest: None, ended: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        (Self(Arc::clone(&shared)), Taker(shared))
    }

    /// Puts something in. Never waits.
    pub fn put(&self, newest: T) {
        let displaced = self.0.lock().newest.replace(newest);
        self.0.changed.notify_one();
        drop(displaced); // Without the lock: it may be large.
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl<T> Taker<T> {
    /// Takes the newest thing; waits for one.
    ///
    /// # Errors
    /// When the slot is empty, and was dropped.
    pub fn recv(&self) -> Result<T, RecvError> {
        let mut state = self.0.lock();
        loop {
            match state.newest.take() {
                Some(newest) => return Ok(newest),
                None if state.ended => return Err(RecvError),
                None => state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// As [`recv`](Self::recv), but waits for at most `time`.
    ///
    /// # Errors
    /// When nothing came in that time, or the slot is empty and was dropped.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        let end = Instant::now() + time;
        let mut state = self.0.lock();
        loop {
            match state.newest.take() {
                Some(newest) => return Ok(newest),
                None if state.ended => return Err(RecvTimeoutError::Disconnected),
                None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_the_taker_learns_of_the_end() {
        let (slot, taker) = Slot::new();
        assert_eq!(taker.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        for number in 1..=3 {
            slot.put(number);
        }
        assert_eq!(taker.recv(), Ok(3));
        assert_eq!(taker.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        slot.put(4);
        drop(slot);
        assert_eq!(taker.recv_timeout(Duration::ZERO), Ok(4), "what was put in is not lost by the end");
        assert_eq!(taker.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
        assert_eq!(taker.recv(), Err(RecvError));
    }

    #[test]
    fn a_taker_that_waits_is_woken_by_a_thing_and_by_the_end() {
        let (slot, taker) = Slot::new();
        let waiting = std::thread::spawn(move || [taker.recv(), taker.recv()]);
        slot.put(1);
        while slot.0.lock().newest.is_some() {
            std::thread::yield_now();
        }
        drop(slot);
        assert_eq!(waiting.join().expect("it does not panic"), [Ok(1), Err(RecvError)]);
    }
}
