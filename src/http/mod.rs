//! The edge: what the given HTTP crates need around them to be safe to run for months.
//!
//! - Towards those who ask: [`server`] is the bounded accept loop behind both addresses of a node; [`head`] and
//!   [`message`] are what it reads and answers. `docs/http-edge.md` tells why tiny_http's own `Server` does not stand
//!   there, names every limit, and says what each refusal answers.
//! - Towards those who are asked: [`client`] talks to nodes, [`worker_client`] asks a worker for a prime; `dial` is how
//!   their bytes travel.
//!
//! The edge knows nothing of seals: [`crate::signing`] is a layer above it.

pub mod client;
mod connect;
mod connection;
mod dial;
pub mod head;
mod limits;
pub mod message;
mod open;
pub mod server;
mod service;
mod tally;
pub mod worker_client;

pub use connection::BODY_STEP_BYTES;
pub use limits::Limits;
pub use message::{ClientHandle, Request, Response};
pub use server::Server;
pub use service::Service;
pub use tally::Counters;
