//! The server table that all nodes agree on, and what one node makes of it.
//!
//! Two kinds of knowledge live here, and are kept apart on purpose:
//!
//! - **Agreed** ([`report`], [`command`], [`table`]): the Raft log carries reports and verdicts; [`ServerTable::apply`]
//!   turns them into the same table on every node. No clock, no randomness, no hash-map order in there.
//! - **This node's own** ([`view`], [`choice`], [`stall`], [`silence`]): when a report was applied here, what is in
//!   flight from here, who failed here a moment ago, when this node last heard a daemon. It may differ between nodes, is
//!   never written to the log, and is forgotten at a restart.
//!
//! Everything is pure logic: no socket, no file, no thread. Time is passed in as `now`, the time since any fixed moment on
//! this process's monotonic clock (never a wall clock, never another machine's). Called by the replica
//! (apply, verdicts) and by the node's threads (publish, choice). docs/balancing.md tells the whole story.

pub mod choice;
pub mod command;
mod name;
mod policy;
pub mod report;
pub mod silence;
pub mod stall;
pub mod table;
pub mod view;

pub use choice::{Chooser, Chosen, LocalState, Outcome, Ticket, TicketId};
pub use command::{Dead, ServerCommand};
pub use name::{NAME_BYTES_MAX, is_name};
pub use policy::Policy;
pub use report::{IncomingReport, Report, ReportError, Stamp};
pub use silence::SilenceDetector;
pub use table::{Change, SERVERS_MAX, ServerRecord, ServerTable};
pub use view::{Published, ServerView, View};
