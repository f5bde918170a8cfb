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

use std::time::Duration;

/// How long a condition may take to come true. Far more than anything needs on an idle machine: only a failure, or a machine
/// that does ten things at once, waits for long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a condition that can only be asked for, not awaited.
pub const LOOK_AGAIN: Duration = Duration::from_millis(25);
