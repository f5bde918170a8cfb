//! What travels between programs, as types. Sender, receiver and tests use the same ones, so that each word
//! of the protocol is written down once. docs/protocol.md shows every request with its answers.
//!
//! | file | holds | from whom to whom |
//! | --- | --- | --- |
//! | `path.rs` | the paths, and the purpose of each | |
//! | `envelope.rs` | names, the headers around a request, purposes | all senders to a node's cluster address |
//! | `rpc.rs` | the RPCs of Raft, the watch of the leader | node to node |
//! | `report.rs` | a report and the answers to it | daemon to node |
//! | `balancer/in_flight.rs` | what a node has in flight at each server | node to node |
//! | `transfer.rs` | the wish that another node shall lead | operator to node |
//! | `members.rs` | the list of members, and a change of it | node to everyone, operator to node |
//! | `order.rs` | the answer to an operator's order about a server | node to operator |
//! | `status.rs` | a node's own view, and its log | node to everyone |
//! | `page.rs` | what the page for browsers shows | node, control room to browser |
//!
//! # The version
//! [`PROTOCOL_VERSION`] is the one number for everything that two builds must have in common. Each request on
//! a cluster address and each answer carries it, and so do the first line of a node's log and its snapshots.
//! A program that finds another number refuses it by name: the node that receives the request, the program
//! that receives the answer, the node that opens the directory. No other version is understood, not even an
//! older one.
//!
//! This module imports `balancer` and `raft` only. They own the report, the entry and the arguments of the
//! RPCs, since these are also replicated or written to disk.

mod envelope;
mod members;
mod order;
mod page;
pub mod path;
mod report;
mod rpc;
mod status;
mod transfer;

pub use crate::balancer::InFlight;
pub use crate::raft::PROTOCOL_VERSION;
pub use envelope::*;
pub use members::*;
pub use order::*;
pub use page::*;
pub use report::*;
pub use rpc::*;
pub use status::*;
pub use transfer::*;

use serde::Serialize;

/// The JSON text of a body.
///
/// # Panics
/// Never: the types of this module hold names, finite numbers and raw JSON, which always have a JSON form.
pub fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("names, finite numbers and raw JSON always have a JSON form")
}
