//! The head of a request: from raw bytes to a checked [`Head`], or to the answer that refuses it.
//!
//! Called by `connection.rs` alone, which reads the bytes and sends the refusals. Nothing here touches a
//! socket, so every rule can be tested, and fuzzed, with byte strings.
//!
//! Follows RFC 9112 (HTTP/1.1): section 2.2 (lines), 3 (request line), 3.2 (target and Host), 5 (fields), 6
//! (framing of the body), 9.3 (keep-alive); and RFC 9110 section 10.1.1 (Expect).
//!
//! `httparse` splits the head, but it accepts more than a server should: a bare LF as the end of a line, and
//! any number of empty lines. If two programs disagree on where a line or a body ends, an attacker can make
//! them disagree on where the next *request* begins ("request smuggling"). So where the RFC lets a server
//! choose, this one refuses.

use std::mem::MaybeUninit;
use std::str::FromStr;
use tiny_http::{Header, Method};

/// Most header fields in one head, for any listener. Their array is on the small stack of a thread.
pub const HEADERS_MAX: usize = 64;

/// Why a request is refused, for its head or its body: the status, and the one line that tells the client what to mend.
///
/// After a refusal the server cannot know where the next request begins, so the connection closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRefusal {
    /// Status code, 400 to 599.
    pub status: u16,
    /// One line, without its newline. Never contains anything the client sent.
    pub line: &'static str,
}

const fn refuse<T>(status: u16, line: &'static str) -> Result<T, RequestRefusal> {
    Err(RequestRefusal { status, line })
}

/// Finds the end of a head in bytes that arrive piece by piece, looking at each byte once.
///
/// It refuses an invalid byte as soon as it arrives, so that a client with TLS or another binary protocol
/// gets its answer at once, and not after the deadline.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes looked at so far.
    scanned: usize,
    /// Where the current line begins.
    line_start: usize,
    /// Where the head begins: 0, or after the one empty line that may precede it.
    head_start: usize,
}

impl Scanner {
    /// Looks at the new bytes in `bytes`, which must begin with the bytes of all earlier calls.
    ///
    /// `Some(range)` once the head is complete: its place, with the empty line at its end.
    ///
    /// # Errors
    /// A line that does not end with CR LF, a control character, or more than one empty line before the request.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, RequestRefusal> {
        while let Some(&byte) = bytes.get(self.scanned) {
            let at = self.scanned;
            self.scanned += 1;
            // RFC 9112 section 2.2: a server may refuse or guess at a lone CR or LF. This one refuses.
            let after_cr = at > 0 && bytes[at - 1] == b'\r';
            if after_cr != (byte == b'\n') {
                return refuse(400, "a line of the head must end with CR LF, and neither may stand alone");
            }
            if byte == b'\n' {
                let line_is_empty = at == self.line_start + 1;
                self.line_start = self.scanned;
                if !line_is_empty {
                    continue;
                }
                if self.line_start > self.head_start + 2 {
                    return Ok(Some(self.head_start..self.scanned));
                }
                // RFC 9112 section 2.2 asks to ignore *at least one* empty line before the request: old clients sent it
                // after a body. This server ignores one, and refuses a second one.
                if self.head_start > 0 {
                    return refuse(400, "the request begins with empty lines");
                }
                self.head_start = self.scanned;
            } else if byte.is_ascii_control() && byte != b'\r' && byte != b'\t' {
                return refuse(400, "the head contains a control character; is this HTTP?");
            }
        }
        Ok(None)
    }
}

/// What the head of a request says, checked.
#[derive(Debug)]
pub struct Head {
    /// The method, any token.
    pub method: Method,
    /// The request target in origin form: begins with `/`, may have a query. An absolute form is reduced to
    /// this. Or `*`, with the method OPTIONS only.
    pub target: String,
    /// All header fields, in their order. A byte of a value that is not ASCII reads as `?`.
    pub headers: Vec<Header>,
    /// The body's length in bytes, if there was a Content-Length. Saturates at `u64::MAX`.
    pub content_length: Option<u64>,
    /// The body comes in chunks. Then there is no Content-Length.
    pub is_chunked: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The client would like to send another request on this connection.
    pub keep_alive: bool,
    /// The request is HTTP/1.0. Its client needs a header that says when the connection stays open.
    pub is_http_10: bool,
}

impl Head {
    /// Whether a body follows. It may be empty.
    pub fn has_body(&self) -> bool {
        self.is_chunked || self.content_length.is_some_and(|length| length > 0)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        path_of(&self.target)
    }

    /// The value of the first header field of this name (in any case), without the blanks around it.
    pub fn header(&self, name: &str) -> Option<&str> {
        value_of(&self.headers, name)
    }
}

/// The value of the first field of this name, in any case.
pub(super) fn value_of<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let is_it = |header: &&Header| header.field.as_str().as_str().eq_ignore_ascii_case(name);
    headers.iter().find(is_it).map(|header| header.value.as_str())
}

/// The part of a target in front of the `?`.
pub(super) fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Parses one whole head, as [`Scanner`] has found it, with at most `headers_max` fields (never more than
/// [`HEADERS_MAX`]).
///
/// # Errors
/// What breaks RFC 9112 or a limit, or could be read in two ways: the status and the line that refuse the request.
pub fn parse(bytes: &[u8], headers_max: usize) -> Result<Head, RequestRefusal> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut fields[..headers_max.min(HEADERS_MAX)]) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return refuse(400, "the head ends in the middle"),
        Err(httparse::Error::TooManyHeaders) => return refuse(431, "too many header fields"),
        Err(httparse::Error::Version) => {
            return match version_digits(bytes) {
                // RFC 9110 section 2.5: a later minor version is served as the latest one that is known here.
                Some((b'1', b'2'..=b'9', at)) => {
                    let mut as_1_1 = bytes.to_vec();
                    as_1_1[at] = b'1';
                    parse(&as_1_1, headers_max)
                }
                Some(_) => refuse(505, "this server speaks HTTP/1.0 and HTTP/1.1"),
                None => refuse(400, "the request line is not METHOD TARGET HTTP/1.1"),
            };
        }
        Err(httparse::Error::HeaderName) => {
            return refuse(400, "a header field has no proper name (folded lines are not accepted)");
        }
        Err(httparse::Error::HeaderValue) => return refuse(400, "a header field has no proper value"),
        Err(_) => return refuse(400, "the request line is not METHOD TARGET HTTP/1.1"),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return refuse(400, "the request line is not METHOD TARGET HTTP/1.1");
    };
    let is_http_10 = minor == 0;

    let fields = Fields::gather(parsed.headers)?;
    fields.check_host(is_http_10)?;
    fields.check_transfer_encoding(is_http_10)?;

    let Ok(method) = Method::from_str(method) else {
        return refuse(400, "the method is not a token");
    };
    // RFC 9112 section 3.2.4: this target is the server itself.
    let is_asterisk = method == Method::Options && target == "*";
    Ok(Head {
        method,
        target: if is_asterisk { target.to_owned() } else { origin_form(target)? },
        content_length: fields.content_length,
        is_chunked: fields.transfer_coding.is_some(),
        // RFC 9110 section 10.1.1: ignored from an HTTP/1.0 client, which would not understand the 100.
        expects_continue: !is_http_10 && fields.expects_continue()?,
        keep_alive: !fields.close && (!is_http_10 || fields.keep_alive),
        is_http_10,
        headers: fields.headers,
    })
}

/// The digits of the version of HTTP at the end of the request line (`HTTP/`, digit, dot, digit), as in the HTTP/2
/// preface `PRI * HTTP/2.0`, and where the second one stands. Any other line is not HTTP, and is answered 400.
fn version_digits(head: &[u8]) -> Option<(u8, u8, usize)> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    match line.rsplit(|&byte| byte == b' ').next()? {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some((*major, *minor, line.len() - 1))
        }
        _ => None,
    }
}

/// The target in origin form. A server must accept the absolute form, too (RFC 9112 section 3.2.2). The
/// authority form (CONNECT) names nothing that is served here, and neither does `*` without OPTIONS.
fn origin_form(target: &str) -> Result<String, RequestRefusal> {
    if !target.is_ascii() {
        return refuse(400, "the target of the request must be ASCII");
    }
    if target.starts_with('/') {
        return Ok(target.to_owned());
    }
    const SCHEME: &str = "http://";
    if target.len() > SCHEME.len() && target[..SCHEME.len()].eq_ignore_ascii_case(SCHEME) {
        let rest = &target[SCHEME.len()..];
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        if !authority.is_empty() && host_is_valid(authority.as_bytes()) {
            return Ok(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") });
        }
    }
    refuse(400, "the target of the request must begin with /")
}

/// Whether a host and port has only the characters of RFC 3986 section 3.2.2. More is not needed: nothing
/// here routes by it. It may be empty.
fn host_is_valid(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte))
}

/// How a body is coded for its transfer.
enum Coding {
    Chunked,
    Other,
}

/// All fields, and the values of those that this server acts upon.
#[derive(Default)]
struct Fields {
    headers: Vec<Header>,
    hosts: usize,
    host_is_bad: bool,
    content_length: Option<u64>,
    /// Whether the body comes in chunks and in no other coding, if it has a Transfer-Encoding.
    transfer_coding: Option<Coding>,
    expect: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn gather(parsed: &[httparse::Header<'_>]) -> Result<Fields, RequestRefusal> {
        let mut fields = Fields { headers: Vec::with_capacity(parsed.len()), ..Fields::default() };
        for field in parsed {
            fields.note(field.name, field.value)?;
            fields.headers.push(to_tiny_http(field)?);
        }
        Ok(fields)
    }

    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), RequestRefusal> {
        if name.eq_ignore_ascii_case("Host") {
            self.hosts += 1;
            self.host_is_bad |= !host_is_valid(value);
        } else if name.eq_ignore_ascii_case("Content-Length") {
            if self.content_length.is_some() {
                return refuse(400, "Content-Length is given twice");
            }
            self.content_length = Some(decimal(value)?);
        } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
            let is_chunked = self.transfer_coding.is_none() && value.eq_ignore_ascii_case(b"chunked");
            self.transfer_coding = Some(if is_chunked { Coding::Chunked } else { Coding::Other });
        } else if name.eq_ignore_ascii_case("Expect") {
            self.expect = Some(self.expect != Some(false) && value.eq_ignore_ascii_case(b"100-continue"));
        } else if name.eq_ignore_ascii_case("Connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// RFC 9112 section 3.2: 400 for HTTP/1.1 without a Host, and for any request with two or with an invalid
    /// one.
    fn check_host(&self, is_http_10: bool) -> Result<(), RequestRefusal> {
        match self.hosts {
            0 if !is_http_10 => refuse(400, "HTTP/1.1 needs a Host header field"),
            0 | 1 if !self.host_is_bad => Ok(()),
            1 => refuse(400, "the Host header field is not a host"),
            _ => refuse(400, "Host is given twice"),
        }
    }

    /// RFC 9112 section 6.1: 501 for a transfer coding that is not implemented, which is any but `chunked` once. 400
    /// for one together with Content-Length, or from HTTP/1.0: two programs could then read two different bodies.
    fn check_transfer_encoding(&self, is_http_10: bool) -> Result<(), RequestRefusal> {
        match (&self.transfer_coding, self.content_length) {
            (None, _) => Ok(()),
            (Some(_), Some(_)) => refuse(400, "Transfer-Encoding and Content-Length contradict each other"),
            (Some(_), None) if is_http_10 => refuse(400, "HTTP/1.0 has no Transfer-Encoding"),
            (Some(Coding::Chunked), None) => Ok(()),
            (Some(Coding::Other), None) => {
                refuse(501, "no Transfer-Encoding but chunked is implemented; send a Content-Length")
            }
        }
    }

    fn expects_continue(&self) -> Result<bool, RequestRefusal> {
        match self.expect {
            Some(false) => refuse(417, "no expectation but 100-continue is understood"),
            expect => Ok(expect.is_some()),
        }
    }
}

/// RFC 9110 section 8.6: decimal digits only. No sign, no list, no blank (the parser has removed those at the
/// ends). A number that is too large becomes `u64::MAX`, which is beyond every limit.
fn decimal(value: &[u8]) -> Result<u64, RequestRefusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return refuse(400, "Content-Length must be one decimal number");
    }
    Ok(value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// tiny_http's header holds ASCII only. Other bytes are legal in a value, but have no certain meaning (RFC
/// 9110 section 5.5). A browser may send them in a cookie of another program on the same host, so the request
/// must not be refused.
fn to_tiny_http(field: &httparse::Header<'_>) -> Result<Header, RequestRefusal> {
    let header = if field.value.is_ascii() {
        Header::from_bytes(field.name, field.value)
    } else {
        let ascii: Vec<u8> =
            field.value.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }).collect();
        Header::from_bytes(field.name, ascii)
    };
    header.or_else(|()| refuse(400, "a header field has no proper name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans and parses `text` as one head, as the connection would.
    fn head(text: &str) -> Result<Head, u16> {
        let mut scanner = Scanner::default();
        let range = scanner.scan(text.as_bytes()).map_err(|refusal| refusal.status)?.ok_or(0_u16)?;
        parse(&text.as_bytes()[range], HEADERS_MAX).map_err(|refusal| refusal.status)
    }

    fn status(text: &str) -> u16 {
        head(text).map_or_else(|status| status, |_| 200)
    }

    fn with(fields: &str) -> String {
        format!("POST /report HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    }

    #[test]
    fn a_plain_head_is_read() {
        let head = head("GET /3?x=1 HTTP/1.1\r\nHost: a:80\r\nX-Request-Id:  q7 \r\n\r\n").expect("valid");
        assert_eq!(head.method, Method::Get);
        assert_eq!((head.target.as_str(), head.path()), ("/3?x=1", "/3"));
        assert_eq!(head.headers[1].to_string(), "X-Request-Id: q7");
        assert!(head.keep_alive && !head.expects_continue && !head.is_http_10);
        assert_eq!(head.content_length, None);
    }

    #[test]
    fn the_target_is_reduced_to_its_path_or_refused() {
        for (target, expected) in [
            ("/", Ok("/")),
            ("http://host/3", Ok("/3")),
            ("HTTP://host:80/3?q", Ok("/3?q")),
            ("http://host", Ok("/")),
            ("http://host?q", Ok("/?q")),
            ("http:///3", Err(400)),
            ("http://", Err(400)),
            ("https://host/3", Err(400)),
            ("3", Err(400)),
            ("*", Err(400)),
            ("host:80", Err(400)),
            ("/\u{e9}", Err(400)),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(head(&text).map(|head| head.target), expected.map(str::to_owned), "{target}");
        }
    }

    #[test]
    fn lines_end_with_cr_lf_and_nothing_else() {
        for bad in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\tX: a\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost a\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
        assert_eq!(
            status("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            200,
            "one empty line in front is forgiven"
        );
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n"), 0, "not yet whole");
    }

    #[test]
    fn only_versions_1_x_are_spoken() {
        for (line, expected) in [
            ("GET / HTTP/1.0", 200),
            ("GET / HTTP/1.1", 200),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/1.2", 200),
            ("GET / HTTP/1.9", 200),
            ("GET / HTTP/0.9", 505),
            ("GET / HTTP/3.1", 505),
            ("GET /", 400),
            ("GET / http/1.1", 400),
            ("GET / HTTP/11", 400),
            ("GET / HTTP/1.10", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GE(T / HTTP/1.1", 400),
            ("nonsense", 400),
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: a\r\n\r\n")), expected, "{line}");
        }
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\n"), 505);
    }

    #[test]
    fn host_is_given_once() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
        for version in ["1.0", "1.1"] {
            assert_eq!(status(&format!("GET / HTTP/{version}\r\nHost: a\r\nhost: a\r\n\r\n")), 400);
            assert_eq!(status(&format!("GET / HTTP/{version}\r\nHost: a/b\r\n\r\n")), 400);
        }
        assert_eq!(status("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 200, "RFC 9112 allows an empty one");
    }

    #[test]
    fn the_length_is_one_decimal_number() {
        for bad in ["+5", "-5", "5, 5", "5,5", "0x5", "5.0", "", "five", "5 5"] {
            assert_eq!(status(&with(&format!("Content-Length: {bad}\r\n"))), 400, "{bad:?}");
        }
        assert_eq!(status(&with("Content-Length: 5\r\ncontent-length: 5\r\n")), 400);
        for (good, expected) in [("0", 0), (" 5 ", 5), ("007", 7), ("99999999999999999999999", u64::MAX)] {
            let head = head(&with(&format!("Content-Length: {good}\r\n"))).expect("valid");
            assert_eq!(head.content_length, Some(expected));
        }
    }

    #[test]
    fn a_later_minor_version_is_served_as_1_1() {
        let later = head("GET /3?x=HTTP/1.2 HTTP/1.2\r\nHost: a\r\n\r\n").expect("valid");
        assert!(later.keep_alive && !later.is_http_10);
        assert_eq!(later.target, "/3?x=HTTP/1.2");
        assert_eq!(status("GET / HTTP/1.2\r\n\r\n"), 400, "it needs a Host, as 1.1 does");
    }

    #[test]
    fn the_asterisk_is_a_target_of_options_alone() {
        assert_eq!(head("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").expect("valid").target, "*");
        assert_eq!(status("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        for good in ["chunked", "Chunked", " CHUNKED "] {
            let head = head(&with(&format!("Transfer-Encoding: {good}\r\n"))).expect("valid");
            assert!(head.is_chunked && head.has_body() && head.content_length.is_none());
        }
        assert!(!head(&with("Content-Length: 0\r\n")).expect("valid").has_body());
        for bad in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", "chunked;q=1", ""] {
            assert_eq!(status(&with(&format!("Transfer-Encoding: {bad}\r\n"))), 501, "{bad}");
        }
        assert_eq!(status(&with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n")), 501);
        assert_eq!(status(&with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")), 501);
        assert_eq!(status(&with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")), 400);
        assert_eq!(status(&with("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n")), 400);
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn keep_alive_as_each_version_defines_it() {
        for (version, field, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, CLOSE\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = head(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")).expect("valid");
            assert_eq!(head.keep_alive, expected, "{version} {field:?}");
        }
    }

    #[test]
    fn only_one_expectation_is_understood() {
        assert!(head(&with("Expect: 100-Continue\r\n")).expect("valid").expects_continue);
        assert_eq!(status(&with("Expect: 200-ok\r\n")), 417);
        assert_eq!(status(&with("Expect: 200-ok\r\nExpect: 100-continue\r\n")), 417);
        let old = head("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expect("valid");
        assert!(!old.expects_continue, "an HTTP/1.0 client would take the 100 for the answer");
    }

    #[test]
    fn fields_are_counted() {
        let fields = |count: usize| (1..count).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
        assert_eq!(status(&with(&fields(HEADERS_MAX))), 200);
        assert_eq!(status(&with(&fields(HEADERS_MAX + 1))), 431);
    }

    #[test]
    fn a_value_beyond_ascii_does_not_cost_the_request() {
        let head = head(&with("Cookie: caf\u{e9}\r\n")).expect("valid");
        assert_eq!(head.headers[1].value.as_str(), "caf??");
    }

    #[test]
    fn the_pieces_in_which_a_head_arrives_do_not_matter() {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        let mut scanner = Scanner::default();
        let mut found = None;
        for length in 0..=text.len() {
            found = scanner.scan(&text[..length]).expect("valid");
            if found.is_some() {
                break;
            }
        }
        assert_eq!(found, Some(2..text.len() - 3));
    }
}
