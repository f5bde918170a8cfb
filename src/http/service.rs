//! The handler behind a listener. A node has two services, one for each address; `rakit up` has one, its control room.

use super::head::Head;
use super::message::{Request, Response, header, text};
use std::any::Any;
use std::net::SocketAddr;
use tiny_http::Method;

/// Answers the requests of one address. Many threads call it at once.
pub trait Service: Send + Sync + 'static {
    /// The longest body, in bytes, for this method and path (0 for none). `path` has no query.
    ///
    /// # Errors
    /// The answer that refuses the request: 404, or 405 with Allow.
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response>;

    /// All methods that some path here takes, and OPTIONS, as the header Allow lists them. `OPTIONS *` is answered with
    /// it.
    fn methods(&self) -> &'static str {
        "GET, HEAD, OPTIONS"
    }

    /// Decides by its head what becomes of a request. Called after the head is read, before memory for the body is
    /// reserved. Unless a service says otherwise, its [`body_limit`](Self::body_limit) decides.
    fn judge(&self, head: &Head, peer: SocketAddr) -> Ruling {
        let _ = peer;
        if head.target == "*" {
            // RFC 9110 section 9.3.7: OPTIONS of the server itself asks what it can do at all; section 10.2.1: Allow
            // says it.
            let methods = self.methods();
            let answer = text(200, &format!("an HTTP server is here; its methods: {methods}"));
            return Ruling::Answer(answer.with_header(header("Allow", methods)));
        }
        match self.body_limit(&head.method, head.path()) {
            Ok(body_bytes_max) => Ruling::Accept(Acceptance { body_bytes_max, is_proven: false, note: None }),
            Err(answer) => Ruling::Answer(answer),
        }
    }

    /// Answers one request that was accepted. It may block: only its own connection's thread waits. A panic is logged
    /// and answered with 500.
    fn call(&self, request: Request) -> Response;
}

/// What becomes of a request.
pub enum Ruling {
    /// Its body is read, and then it goes to [`Service::call`].
    Accept(Acceptance),
    /// It gets this answer. The connection lives on, if the request has no body.
    Answer(Response),
    /// It gets this answer, and the connection closes.
    Close(Response),
}

/// How a request is accepted.
#[derive(Debug)]
pub struct Acceptance {
    /// The longest body, in bytes; 0 for none.
    pub body_bytes_max: usize,
    /// Whether the head proves that the client is no stranger: see [`MakesRoom::Strangers`](super::MakesRoom).
    pub is_proven: bool,
    /// What [`Service::call`] finds in [`Request::note`].
    pub note: Option<Box<dyn Any + Send>>,
}
