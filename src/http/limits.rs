//! The bounds of a listener that can be set, with their defaults. `server.rs`, `connection.rs`, `admission.rs` and
//! `body_budget.rs` enforce them; `docs/http-edge.md` has the table of all limits.

use super::head::HEADERS_MAX;
use std::time::Duration;

/// Most connections open at once on one listener: each has a thread, so this bounds the threads too.
pub const CONNECTIONS_MAX: usize = 2048;
/// Most bytes of a request's head, its empty line included.
///
/// A browser sends the cookies of all ports of a host to each of them, and may send 8 KiB and more.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for a whole head, from its first byte; and for the first byte of a fresh connection.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a whole body, from the end of the head.
pub const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may wait between two requests.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// Time for the client to take an answer. A client that takes a part gets it once more for the rest.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// How long, after the last answer, the server reads and drops what the client still sends.
pub const LINGER_DEADLINE: Duration = Duration::from_secs(2);
/// How many bytes the server reads and drops after the last answer.
pub const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// How long a `Server` that is dropped waits for the requests in flight.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Memory for the bodies of all requests at a time: two of the longest (an append's), and as many again for reports.
pub const BODIES_BYTES_MAX: usize = 64 << 20;

/// Which connection is cut off for a new one when all are taken: see `admission.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MakesRoom {
    /// None: the new one is turned away.
    Nobody,
    /// The oldest that has not yet brought a valid request.
    Strangers,
    /// One of the source that has the most.
    LargestSource,
}

/// The bounds of one listener. `Default` gives the constants of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once; 1 or more. Beyond it: 503 with Retry-After.
    pub connections_max: usize,
    /// Which connection makes room for a new one when all are taken.
    pub makes_room: MakesRoom,
    /// Bytes of all bodies at a time. Beyond it: 503 with Retry-After. Half of it for connections that have not yet
    /// brought a valid request.
    pub bodies_bytes_max: usize,
    /// Bytes of a head, its empty line included; 16 or more. Beyond it: 431.
    pub head_bytes_max: usize,
    /// Header fields of a head, at most [`HEADERS_MAX`]. Beyond it: 431.
    pub headers_max: usize,
    /// Time for a whole head. Beyond it: 408; a connection on which no byte came is closed without an answer.
    pub head_deadline: Duration,
    /// Time for a whole body. Beyond it: 408.
    pub body_deadline: Duration,
    /// Pause between two requests. Beyond it: closed without an answer.
    pub idle_deadline: Duration,
    /// Time for the client to take an answer. Beyond it: cut off.
    pub write_deadline: Duration,
    /// Time to read and drop what follows the last answer.
    pub linger_deadline: Duration,
    /// How many bytes to read and drop.
    pub linger_bytes_max: usize,
    /// Time that `Drop` gives to the requests in flight.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: CONNECTIONS_MAX,
            makes_room: MakesRoom::Nobody,
            bodies_bytes_max: BODIES_BYTES_MAX,
            head_bytes_max: HEAD_BYTES_MAX,
            headers_max: HEADERS_MAX,
            head_deadline: HEAD_DEADLINE,
            body_deadline: BODY_DEADLINE,
            idle_deadline: IDLE_DEADLINE,
            write_deadline: WRITE_DEADLINE,
            linger_deadline: LINGER_DEADLINE,
            linger_bytes_max: LINGER_BYTES_MAX,
            drain_deadline: DRAIN_DEADLINE,
        }
    }
}
