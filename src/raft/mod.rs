//! Consensus: Raft, as a library without a single system call.
//!
//! # What Raft is
//! Several machines shall hold the same table although messages get lost and machines die. Raft (Ongaro and Ousterhout,
//! "In Search of an Understandable Consensus Algorithm", 2014; below "the paper") turns that into one question: how do
//! they agree on one *log*? Whoever applies the same log in the same order has the same table. A *leader*, elected by a
//! majority for a *term*, puts new entries into its log and copies them to the others; an entry that stands on a majority
//! of disks is *committed* and never lost, since any later leader needs the votes of a majority, and of any two
//! majorities at least one node is in both: a voter that has the entry votes only for a candidate that has it too.
//!
//! # How the code maps to the papers
//! | file | holds | source |
//! | --- | --- | --- |
//! | `message.rs` | the RPCs' arguments and results, entries, what must be remembered | Figures 2 and 13 |
//! | `core.rs` | the state, the entrance for events, the change of roles, invariants | Figures 2 and 4 |
//! | `election.rs` | elections, PreVote, leader stickiness, the quick start after a death | 5.2, 5.4.1; thesis 9.6, 4.2.3 |
//! | `replication.rs` | AppendEntries on both sides, the commit rule, heartbeats, CheckQuorum | 5.3, 5.4.2; thesis 6.2 |
//! | `snapshot.rs` | InstallSnapshot on both sides | 7, Figure 13 |
//! | `transfer.rs` | handing leadership over before a clean stop | thesis 3.10 |
//! | `log.rs` | the log in memory | 5.3, 7 |
//! | `progress.rs` | what a leader knows of each follower | Figure 2 |
//! | `output.rs` | the decisions, told apart by what they must wait for | 5.1 "persistent state", thesis 10.2.1 |
//!
//! docs/raft.md goes through both papers section by section and through Figure 2 line by line.
//!
//! # How it is driven
//! The core owns no socket, file, clock or thread. Whoever drives it (the loop in `node/`, the simulator and the explorer in
//! `tests/`) calls [`Raft::step`] with whatever happened, and the time; then [`Raft::take_output`], and does what it
//! says in the order that [`Output`] demands; and comes back at [`Raft::deadline`] at the latest. Time, random draws
//! (from a seed), messages and the disk's completions all come in from outside: the same inputs give the same outputs,
//! byte for byte, which is what makes a failure found by a random schedule a failure that can be looked at.
//!
//! # What is left out, and why
//! * *Changes of membership* (paper, section 6): the configuration file names the nodes; a dead one is restarted, not
//!   replaced. The majority of five stays three, whoever is dead.
//! * *Reads through the log or a lease* (section 8, thesis 6.4): requests are routed from each node's own applied state, by
//!   design, leader or no leader; its age is told.
//! * *Exactly-once client sessions* (section 8, thesis 6.3): the commands carry (epoch, sequence) and applying one twice
//!   changes nothing, so that is built into the state machine.
//! * *Pipelining* (thesis 10.2.1): one AppendEntries is under way to each follower at a time, as HTTP/1.1 does it; what
//!   arrives meanwhile leaves with the next. Batches grow with the load by themselves.

mod core;
mod election;
mod fingerprint;
mod log;
mod message;
mod output;
mod progress;
mod random;
mod replication;
mod snapshot;
mod transfer;

pub use core::{Event, INDEX_JUMP_MAX, Raft, RoleName, Settings, StateCheck, TERM_JUMP_MAX};
pub use log::Log;
pub use message::*;
pub use output::*;
