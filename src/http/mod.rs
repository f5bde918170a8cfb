//! The HTTP edge: a server and two clients around the HTTP crates, with a bound on everything.
//!
//! - The server: [`server`] is the accept loop behind both addresses of a node. `admission` says who gets a place when
//!   all are taken, `connection` serves one connection (`open` is what is shared of it), [`head`] checks the head of a
//!   request, [`message`] writes an answer, and `service` is what a node puts behind it. `limits` has the bounds that
//!   can be set, `body_budget` bounds the memory of all bodies, and `tally` counts. `docs/http-edge.md` says why
//!   tiny_http's own `Server` is not used, and lists every limit and every refusal. [`foreign`] refuses what a web page
//!   of another site makes a browser send.
//! - The clients: [`client`] sends requests to nodes, [`worker_client`] asks a worker for a prime. `connect` opens
//!   their connections; `dial` moves the bytes of [`client`].
//! - Both sides: `chunked` decodes bodies that come in chunks.
//!
//! Signatures are a layer above: [`crate::signing`].

mod admission;
mod body_budget;
pub mod chunked;
pub mod client;
mod connect;
mod connection;
mod dial;
pub mod foreign;
pub mod head;
mod limits;
pub mod message;
mod open;
pub mod server;
mod service;
mod tally;
pub mod worker_client;

pub use connection::BODY_STEP_BYTES;
pub use limits::{Limits, MakesRoom};
pub use message::{ClientHandle, Request, Response};
pub use server::{CountersOf, Server};
pub use service::{Acceptance, Ruling, Service};
pub use tally::Counters;
