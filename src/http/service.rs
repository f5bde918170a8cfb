//! What stands behind a listener: whoever answers its requests. A node has two services, one for each address.

use super::message::{Request, Response};
use tiny_http::Method;

/// What answers the requests of one address. Called by many threads at once.
pub trait Service: Send + Sync + 'static {
    /// Asked once the head is read, before a byte of the body is read or reserved: the most bytes of body that this
    /// method and path take (0 for none), or the answer that refuses them (404, 405 with Allow). `path` has no query.
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response>;

    /// Answers one request. May block: it holds its own connection's thread and nothing else. A panic is answered with
    /// 500 and logged.
    fn call(&self, request: Request) -> Response;
}
