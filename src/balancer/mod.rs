//! The server table that all nodes agree on, and how one node chooses a server with it. The replica calls it
//! to apply entries and to find dead servers, the node's threads to publish the table and to choose.
//!
//! Two kinds of state are kept apart:
//!
//! - **Agreed** ([`report`], [`command`], [`table`]): the Raft log carries reports and verdicts;
//!   [`ServerTable::apply`] makes the same table from them on every node. It uses no clock, no randomness and
//!   no hash-map order.
//! - **Local** ([`view`], [`choice`], [`in_flight`], [`stall`], [`silence`]): when this node applied a report, which
//!   requests are in flight, which servers failed it a moment ago, when a report last reached it. Local state
//!   may differ between nodes, is never written to the log, and is lost at a restart.
//!
//! Everything is pure logic: no socket, no file, no thread. Time is passed in as `now`, the time since a
//! fixed moment on this process's monotonic clock. docs/balancing.md describes the rules.

pub mod choice;
pub mod command;
pub mod in_flight;
mod name;
mod own_work;
mod policy;
mod projected;
pub mod report;
pub mod silence;
pub mod stall;
pub mod table;
pub mod view;

pub use choice::{Chooser, Chosen, Compared, LocalState, Outcome, Ticket, TicketId};
pub use command::{Dead, OrderEffect, ServerCommand, ServerOrder};
pub use in_flight::{Announcer, InFlight};
pub use name::{NAME_BYTES_MAX, is_name};
pub use policy::Policy;
pub use report::{IncomingReport, Report, ReportError, Stamp};
pub use silence::SilenceDetector;
pub use table::{Change, Fit, SERVERS_MAX, ServerRecord, ServerTable};
pub use view::{Published, ServerView, View};
