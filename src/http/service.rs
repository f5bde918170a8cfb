//! The handler behind a listener. A node has two services, one for each address.

use super::message::{Request, Response};
use tiny_http::Method;

/// Answers the requests of one address. Many threads call it at once.
pub trait Service: Send + Sync + 'static {
    /// The longest body, in bytes, for this method and path (0 for none), or the answer that refuses the
    /// request (404, 405 with Allow). Called after the head is read, before memory for the body is reserved.
    /// `path` has no query.
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response>;

    /// Answers one request. It may block: only its own connection's thread waits. A panic is logged and
    /// answered with 500.
    fn call(&self, request: Request) -> Response;
}
