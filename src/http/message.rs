//! A request as a handler sees it, the answers it may give, and how an answer is written.
//!
//! Called by every [`Service`](super::service::Service) (the node's two addresses) and by `connection.rs`.
//! The parts are tiny_http's: `Method`, `Header`, `StatusCode` and `Response`. Its *serializer* is not used
//! for answers, for five reasons: it drops `Connection`; it switches to chunks at 32 KiB; it sends a
//! Content-Length with 204; it passes on CR and LF in a header value, so that one answer becomes two; and it
//! allocates a dozen times per answer. Its calendar is used (see `DateCache`).
//!
//! Follows RFC 9112 section 4 and 6, and RFC 9110 section 6.6.1 (Date) and 8.6 (Content-Length).

use super::head::{Head, path_of, value_of};
use super::open::Open;
use crate::logging::one_line;
use serde::Serialize;
use std::any::Any;
use std::io::{Cursor, Write};
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::{SystemTime, UNIX_EPOCH};
use tiny_http::{HTTPVersion, Header, Method, StatusCode};

/// An answer: tiny_http's, with its whole body in memory.
pub type Response = tiny_http::Response<Cursor<Vec<u8>>>;

/// One whole request: its head checked, its body read to the end and within the route's limit.
#[derive(Debug)]
pub struct Request {
    /// The method, any token.
    pub method: Method,
    /// Path and query as the client sent them, not decoded. Begins with `/`.
    pub target: String,
    /// All header fields, in their order.
    pub headers: Vec<Header>,
    /// The body; empty if there was none.
    pub body: Vec<u8>,
    /// The sender's address, from the socket.
    pub peer: SocketAddr,
    /// What the service noted about this request when it judged the head.
    pub note: Option<Box<dyn Any + Send>>,
    /// The connection, for [`Request::client`]. Weak, so that a handler that keeps its request for
    /// long does not keep the descriptor.
    pub(super) connection: Weak<Open>,
}

impl Request {
    pub(super) fn new(
        head: Head,
        body: Vec<u8>,
        peer: SocketAddr,
        note: Option<Box<dyn Any + Send>>,
        connection: Weak<Open>,
    ) -> Request {
        Request {
            method: head.method,
            target: head.target,
            headers: head.headers,
            body,
            peer,
            note,
            connection,
        }
    }

    /// A request that came over no socket, for the tests of a handler.
    pub fn local(method: Method, target: &str, headers: Vec<Header>, body: Vec<u8>) -> Request {
        let peer = SocketAddr::from(([127, 0, 0, 1], 0));
        let target = target.to_owned();
        Request { method, target, headers, body, peer, note: None, connection: Weak::new() }
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        path_of(&self.target)
    }

    /// What follows the first `?` of the target, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The value of the first header field of this name (in any case), without the blanks around it.
    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }

    /// The client that waits for the answer: the handler, or another thread, can ask whether it has gone.
    pub fn client(&self) -> ClientHandle {
        ClientHandle(Weak::clone(&self.connection))
    }
}

/// The client of a request. Holds no descriptor.
#[derive(Clone, Debug)]
pub struct ClientHandle(Weak<Open>);

impl ClientHandle {
    /// Whether the client has closed its side, so that probably nobody waits for the answer. One system call
    /// that never blocks.
    ///
    /// Only a hint: a client that closes its sending side after its last request (`nc -N`) looks the same. A
    /// client that sent another request before it closed looks open.
    pub fn has_closed(&self) -> bool {
        self.0.upgrade().is_some_and(|open| open.peer_has_closed())
    }
}

/// An answer of one line of plain text; the newline is added. What would break the line or deceive its reader is
/// escaped: the text may quote a stranger.
pub fn text(status: u16, line: &str) -> Response {
    let mut body = one_line(line).into_bytes();
    body.push(b'\n');
    with_body(status, "text/plain; charset=utf-8", body)
}

/// An answer of one JSON value. A value that JSON cannot express (a map whose keys are no strings) is a bug
/// in the caller: it is logged and answered with 500.
pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => with_body(status, "application/json", body),
        Err(error) => {
            log::error!("an answer could not be written as JSON: {error}");
            text(500, "the answer could not be written as JSON")
        }
    }
}

/// An answer with this body, as it is.
pub fn with_body(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
    with_headers(status, vec![header("Content-Type", content_type)], body)
}

/// An answer with these headers and this body: for an answer that is passed on from another program.
pub fn with_headers(status: u16, headers: Vec<Header>, body: Vec<u8>) -> Response {
    let length = body.len();
    Response::new(StatusCode(status), headers, Cursor::new(body), Some(length), None)
}

/// A header field for `Response::with_header`. In the value, control characters and non-ASCII bytes become
/// `?`, so that text from another program cannot add header fields.
///
/// # Panics
/// If `name` is not a token: names are written in the source, never taken from a client.
pub fn header(name: &'static str, value: &str) -> Header {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(is_token), "a header field needs a proper name");
    let printable = |byte: u8| if matches!(byte, b' '..=b'~' | b'\t') { byte } else { b'?' };
    let value: Vec<u8> = value.bytes().map(printable).collect();
    Header::from_bytes(name, value).expect("both were just made ASCII")
}

/// What the `Connection` header of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// Nothing: HTTP/1.1 keeps connections open.
    Implied,
    /// `keep-alive`: an HTTP/1.0 client asked for it, and needs the header to know.
    KeepAlive,
    /// `close`: this is the last answer.
    Close,
}

/// Writes everything before the body into `out`, and returns the body (empty if the status forbids one, or
/// with `without_body`, for HEAD).
pub(super) fn print(
    response: Response,
    connection: Connection,
    without_body: bool,
    date: &mut DateCache,
    out: &mut Vec<u8>,
) -> Vec<u8> {
    let status = response.status_code();
    out.extend_from_slice(b"HTTP/1.1 ");
    print_number(u64::from(status.0), out);
    out.push(b' ');
    out.extend_from_slice(status.default_reason_phrase().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(date.line());
    for header in response.headers() {
        out.extend_from_slice(header.field.as_str().as_str().as_bytes());
        out.extend_from_slice(b": ");
        // Checked again, because a handler may have made its header without `header()`.
        out.extend(
            header.value.as_str().bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }),
        );
        out.extend_from_slice(b"\r\n");
    }
    match connection {
        Connection::Implied => {}
        Connection::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Connection::Close => out.extend_from_slice(b"Connection: close\r\n"),
    }
    // The true length of the body, not the one in the response: a wrong length would break every later
    // answer.
    let body = response.into_reader().into_inner();
    let status_has_body = status.0 != 204 && status.0 != 304;
    if status_has_body {
        out.extend_from_slice(b"Content-Length: ");
        print_number(body.len() as u64, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if status_has_body && !without_body { body } else { Vec::new() }
}

fn print_number(number: u64, out: &mut Vec<u8>) {
    write!(out, "{number}").expect("a vector takes all that is written to it");
}

/// The `Date` line of the current second. RFC 9110 section 6.6.1 requires it in every 2xx, 3xx and 4xx of a server with
/// a clock; here every answer has it. It changes once a second. Each connection keeps its own, so that no lock is
/// needed.
#[derive(Default)]
pub(super) struct DateCache {
    unix_seconds: u64,
    line: Vec<u8>,
}

impl DateCache {
    fn line(&mut self) -> &[u8] {
        // A clock before 1970 is wrong. Then the answer has the first day of 1970.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.line.is_empty() || self.unix_seconds != now {
            self.unix_seconds = now;
            self.line = date_line();
        }
        &self.line
    }
}

/// tiny_http's calendar is private to its serializer. So this prints an empty answer and keeps its Date line.
fn date_line() -> Vec<u8> {
    let mut printed = Vec::new();
    let printing =
        tiny_http::Response::empty(200).raw_print(&mut printed, HTTPVersion(1, 1), &[], true, None);
    let mut lines = printed.split_inclusive(|&byte| byte == b'\n');
    match (printing, lines.find(|line| line.starts_with(b"Date: "))) {
        (Ok(()), Some(line)) => line.to_vec(),
        // Cannot happen with tiny_http 0.12. An answer without a date is better than no answer.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(response: Response, connection: Connection, without_body: bool) -> String {
        let mut out = Vec::new();
        let body = print(response, connection, without_body, &mut DateCache::default(), &mut out);
        out.extend_from_slice(&body);
        let text = String::from_utf8(out).expect("text");
        let (before, rest) = text.split_once("Date: ").expect("every answer has a date");
        let (date, after) = rest.split_once("\r\n").expect("a whole line");
        assert!(date.ends_with(" GMT") && date.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
        format!("{before}{after}")
    }

    #[test]
    fn an_answer_is_one_status_line_its_fields_and_its_body() {
        let answer = text(200, "5").with_header(header("X-Rakit-Node", "1"));
        assert_eq!(
            printed(answer, Connection::Implied, false),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Rakit-Node: 1\r\nContent-Length: 2\r\n\r\n5\n"
        );
        assert_eq!(
            printed(json(404, &["a"]), Connection::Close, false),
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 5\r\n\r\n[\"a\"]"
        );
    }

    #[test]
    fn what_a_stranger_wrote_stays_in_its_line() {
        let answer = printed(text(400, "no field `a\r\nb\u{1b}[2J`"), Connection::Close, false);
        assert!(answer.ends_with("\r\n\r\nno field `a\\r\\nb\\u{1b}[2J`\n"), "{answer:?}");
    }

    #[test]
    fn an_answer_to_head_has_the_length_but_not_the_body() {
        let answer = printed(text(200, "5"), Connection::KeepAlive, true);
        assert!(answer.ends_with("Connection: keep-alive\r\nContent-Length: 2\r\n\r\n"), "{answer}");
    }

    #[test]
    fn statuses_without_a_body_have_neither_body_nor_length() {
        for status in [204, 304] {
            let answer = printed(text(status, "x"), Connection::Implied, false);
            assert!(!answer.contains("Content-Length") && answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }

    #[test]
    fn a_header_value_cannot_add_a_line() {
        let smuggled = Header::from_bytes("X-A", "1\r\nX-B: 2").expect("tiny_http takes it");
        let answer = printed(text(200, "x").with_header(smuggled), Connection::Implied, false);
        assert!(answer.contains("\r\nX-A: 1  X-B: 2\r\n"), "{answer}");
        assert_eq!(header("X-A", "1\r\nX-B: \u{e9}").value.as_str(), "1??X-B: ??");
    }

    #[test]
    fn the_length_is_the_true_one_and_large_bodies_are_not_chunked() {
        let mut answer = with_body(200, "text/plain", vec![b'x'; 100_000]);
        answer.add_header(header("Content-Length", "7"));
        let answer = printed(answer, Connection::Implied, false);
        assert!(answer.contains("\r\nContent-Length: 100000\r\n") && !answer.contains("chunked"));
    }

    #[test]
    fn the_parts_of_a_request_are_at_hand() {
        let headers = vec![header("X-Request-Id", "q7")];
        let request = Request::local(Method::Get, "/log?after=3&limit=4", headers, Vec::new());
        assert_eq!((request.path(), request.query()), ("/log", Some("after=3&limit=4")));
        assert_eq!(request.header("x-request-ID"), Some("q7"));
        assert_eq!(request.header("Host"), None);
        assert!(!request.client().has_closed());
    }
}
