//! Every bound of a listener: its name, its value, and what happens beyond it. `server.rs` and `connection.rs` keep to
//! them; `docs/http-edge.md` has the same table in words.

use super::head::HEADERS_MAX;
use std::time::Duration;

/// Most connections open at once on one listener: each has a thread, so this bounds the threads too.
pub const CONNECTIONS_MAX: usize = 2048;
/// Most bytes of a request's head, its empty line included.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Time for a whole head, from its first byte; and for the first byte of a fresh connection.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a whole body, from the end of the head.
pub const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may wait between two requests.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// Time for the client to take an answer; a slow but moving one gets it twice.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// How long, after a last answer, to read away what the client still sends.
pub const LINGER_DEADLINE: Duration = Duration::from_secs(2);
/// How many bytes of it.
pub const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// How long a server that is dropped waits for the requests in flight.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// The bounds of one listener. `Default` gives the constants of this module.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once; 1 or more. Beyond it: 503 with Retry-After.
    pub connections_max: usize,
    /// Bytes of a head, its empty line included; 16 or more. Beyond it: 431.
    pub head_bytes_max: usize,
    /// Header fields of a head, at most [`HEADERS_MAX`]. Beyond it: 431.
    pub headers_max: usize,
    /// Time for a whole head. Beyond it: 408; for a connection that never said anything, a close without a word.
    pub head_deadline: Duration,
    /// Time for a whole body. Beyond it: 408.
    pub body_deadline: Duration,
    /// Pause between two requests. Beyond it: a close without a word.
    pub idle_deadline: Duration,
    /// Time for the client to take an answer. Beyond it: cut off.
    pub write_deadline: Duration,
    /// Time to read away what follows a last answer.
    pub linger_deadline: Duration,
    /// Bytes of it.
    pub linger_bytes_max: usize,
    /// What `Drop` gives the requests in flight.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: CONNECTIONS_MAX,
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
