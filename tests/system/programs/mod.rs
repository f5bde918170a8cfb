//! What whole-system tests are made of: a cluster of real `rakit-node`s in a temporary directory ([`cluster`]), servers
//! whose daemons the test plays itself ([`reports`]), and workers that answer well, badly or not at all ([`workers`]).
//!
//! No port is fixed. Nothing is left running when a test ends, also when it panics. A wait that fails prints what every node
//! believed and logged.

pub mod browser;
pub mod cluster;
pub mod http;
pub mod impostor;
pub mod load;
pub mod ports;
pub mod reports;
pub mod tracer;
pub mod workers;

use std::time::{Duration, Instant};

/// How long a condition may take to come true. Far more than anything needs on an idle machine: only a failure, or a machine
/// that does ten things at once, waits for long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a condition that can only be asked for, not awaited.
pub const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Waits until `look` finds something, for [`PATIENCE`] at most.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// The same with another patience.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "it never came to this: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
