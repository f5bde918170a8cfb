//! The leader's answer to an operator's order about a server: `POST /servers`. Its body is a
//! [`ServerOrder`](crate::balancer::ServerOrder), as in `{"drain":"lab-01"}`.
//!
//! (A node that does not lead answers 409 with [`KnownLeader`](super::KnownLeader), as to a transfer.)

use serde::{Deserialize, Serialize};

use crate::balancer::OrderEffect;
use crate::raft::{Index, Term};

/// The order is committed and applied on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderAnswer {
    /// Its index in the log.
    pub committed: Index,
    /// The term of the entry at that index.
    pub term: Term,
    /// What it came to.
    pub effect: OrderEffect,
}

impl OrderAnswer {
    /// The HTTP status: 200 if the table is as ordered, 422 if it could not be made so.
    pub fn status(&self) -> u16 {
        match self.effect {
            OrderEffect::Done | OrderEffect::AlreadySo => 200,
            OrderEffect::NoSuchServer | OrderEffect::StillAlive => 422,
        }
    }
}
