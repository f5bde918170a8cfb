//! One node's decisions around the Raft core: a state machine between the node's inboxes and its effects.
//!
//! The core ([`raft`](crate::raft)) agrees on a log. A node has more to decide: which reports become one proposal, who waits for
//! which proposal, what each of them is told, when a server is called dead, when the log is compacted, and in which order
//! all that happens. These decisions stand here, and nowhere else. This module is pure: it has no socket, file, clock, thread or
//! randomness. Inputs and the time come in, effects come out.
//!
//! Two drivers run the same type. `node/raft_loop.rs` runs it on real channels and a real disk. The simulator
//! (`tests/simulation/`) runs it on a simulated network, disk and clock. So what is tested is what runs.
//!
//! # How it is driven
//! ```text
//! loop:
//!     wait for the first input, or for Replica::deadline
//!     Replica::receive       once for each input that waits, up to a bound: together they are one batch
//!     Replica::end_batch     with the time, and with how many inputs still wait unread
//!     Replica::next_effect   until it has no more; carry out each one in turn
//! ```
//! The driver carries out the effects in the order in which it gets them. It cannot do them too early, since the replica holds
//! back what must wait:
//!
//! | effect | comes out |
//! | --- | --- |
//! | [`Effect::Send`] of an append, a pre-vote | at once: it promises nothing that this disk must remember |
//! | [`Effect::Reply`] to a comparison of states | at once, for the same reason |
//! | [`Effect::Write`] | at once; the driver makes it durable, and says so with [`Replica::durable`] |
//! | [`Effect::Send`] of a vote request, any other [`Effect::Reply`] | when everything is durable that was decided before it |
//! | [`Effect::Publish`] | when all that is committed and durable is applied to the table |
//! | [`Effect::Remember`] | when its entry is applied, and so durable |
//! | [`Effect::ProposalEnded`] | when its entry is applied, or when it failed |
//! | [`Effect::Answer`] to a report that was taken | after the picture that shows the report is published |
//!
//! A driver may take its time for a write and go on with further inputs. The node does not: it waits for each write.
//! The simulator does both.
//!
//! Callers are answered by tokens: `P` stands for a peer that waits for a reply, `D` for a daemon that waits for the outcome of its
//! report. The node uses channels. The simulator uses names of its own. The replica only stores them and gives them back, each
//! exactly once.
//!
//! | file | holds |
//! | --- | --- |
//! | `input.rs` | what comes in |
//! | `effect.rs` | what comes out |
//! | `decisions.rs` | the decisions, in the order in which they are made |
//! | `batch.rs` | how the reports of one batch become proposals |
//! | `notice.rs`, `recovery.rs` | what a person reads in the log file, and what is old news after a start |
//! | `agreement.rs` | whether the nodes' states are the same |
//! | `mail_first.rs` | why nothing is decided by the clock before the mail is read |

mod agreement;
mod batch;
mod decisions;
mod effect;
mod input;
mod mail_first;
mod notice;
mod recovery;

pub use agreement::Contradiction;
pub use decisions::{Replica, ReplicaSettings};
pub use effect::{Effect, ReportOutcome, Standing, Write};
pub use input::{Input, Unread};
pub use notice::ReplicaNotice;

#[cfg(test)]
mod tests;
