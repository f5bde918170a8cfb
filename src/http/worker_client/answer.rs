//! Reads the answer of a worker: finds its end, its status and body, and whether its connection may be kept. No I/O:
//! the worker client passes a function that gets more bytes.
//!
//! Follows RFC 9112 section 6.3 (the length of a body), 7.1 (chunks) and 9.3 (persistence); RFC 2068 section 19.7.1.1
//! (`Keep-Alive`).

use std::time::Duration;

use httparse::{Header, Status};

use super::super::chunked::{ChunkError, Chunks};
use super::{CLIENT_ERROR_BYTES_MAX, PRIME_BYTES_MAX};

/// The longest head of an answer, with all interim answers before it, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most fields of a head.
const HEADERS_MAX: usize = 64;

/// The room for one read: nearly always enough for the whole answer.
const READ_BYTES: usize = 1024;

/// A chunked body may be so many times longer than its content, plus [`HEAD_BYTES_MAX`]: a chunk of one byte takes six.
const CHUNKS_OVERHEAD: usize = 6;

/// This side closes an idle connection so long before the worker would. So a request seldom meets the worker's close.
const MARGIN: Duration = Duration::from_secs(1);

/// How long a connection is kept if the worker gives no time. Less than the shortest default of common servers (Apache
/// and Node.js, five seconds).
const KEPT_BY_DEFAULT: Duration = Duration::from_secs(4);

/// The longest time that a connection is kept idle.
const KEPT_MAX: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug)]
pub(super) struct RawAnswer {
    pub(super) status: u16,
    /// Whole, and within the bound of its status; empty for a status that no client gets.
    pub(super) body: Vec<u8>,
    /// What `Retry-After` says, in seconds, if it says a number.
    pub(super) retry_after_s: Option<u32>,
    /// How long the connection may be kept; `None` if it must not be.
    pub(super) kept_for: Option<Duration>,
}

/// Why there is no whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection ended before the first byte of the answer.
    Unheard,
    /// The connection ended before the answer was whole.
    Cut,
    /// The caller's deadline passed.
    DeadlinePassed,
    /// What came is no HTTP answer; the reason in words.
    NotHttp(String),
}

/// How the end of a body is found.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// The parts of a head that are used.
struct AnswerHead {
    /// Its length in bytes.
    length: usize,
    status: u16,
    framing: Framing,
    retry_after_s: Option<u32>,
    kept_for: Option<Duration>,
}

/// Reads one answer. `receive` adds the next bytes to a buffer with room, and returns how many: 0 when the worker
/// closed its side, [`Broken::Cut`] when the connection broke.
pub(super) fn read(
    mut receive: impl FnMut(&mut Vec<u8>) -> Result<usize, Broken>,
) -> Result<RawAnswer, Broken> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    // Returns whether more bytes came.
    let mut more = |bytes: &mut Vec<u8>| -> Result<bool, Broken> {
        bytes.reserve(READ_BYTES / 2);
        match receive(bytes) {
            Ok(received) => Ok(received > 0),
            Err(Broken::Cut) if bytes.is_empty() => Err(Broken::Unheard),
            Err(broken) => Err(broken),
        }
    };

    // Interim answers (1xx) come before the one that counts.
    let mut start = 0;
    let head = loop {
        match parse_head(&bytes[start..])? {
            Some(head) if (100..200).contains(&head.status) && head.status != 101 => start += head.length,
            Some(head) => break head,
            None if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(Broken::NotHttp(format!("the head is longer than {HEAD_BYTES_MAX} bytes")));
            }
            None if more(&mut bytes)? => {}
            None if bytes.is_empty() => return Err(Broken::Unheard),
            None => return Err(Broken::Cut),
        }
    };
    let AnswerHead { length, status, framing, retry_after_s, kept_for } = head;
    let body_bytes_max = match status {
        200 => PRIME_BYTES_MAX,
        400..=499 => CLIENT_ERROR_BYTES_MAX,
        // Nobody uses the body of any other answer.
        _ => {
            let (body, kept_for) = (Vec::new(), None);
            return Ok(RawAnswer { status, body, retry_after_s, kept_for });
        }
    };
    let too_long = || Broken::NotHttp(format!("the body is longer than {body_bytes_max} bytes"));
    let start = start + length;

    let (body, end) = match framing {
        Framing::Length(length) => {
            let length = usize::try_from(length).ok().filter(|length| *length <= body_bytes_max);
            let end = start + length.ok_or_else(too_long)?;
            while bytes.len() < end {
                if !more(&mut bytes)? {
                    return Err(Broken::Cut);
                }
            }
            (bytes[start..end].to_vec(), end)
        }
        Framing::Chunked => {
            let (mut chunks, mut body, mut end) = (Chunks::default(), Vec::new(), start);
            loop {
                end +=
                    chunks.decode(&bytes[end..], &mut body, body_bytes_max).map_err(|error| match error {
                        ChunkError::TooLong => too_long(),
                        ChunkError::Malformed => {
                            Broken::NotHttp("not a whole HTTP answer: a bad chunk".to_owned())
                        }
                    })?;
                if chunks.is_whole() {
                    break (body, end);
                }
                if bytes.len() - start > CHUNKS_OVERHEAD * body_bytes_max + HEAD_BYTES_MAX {
                    return Err(too_long());
                }
                if !more(&mut bytes)? {
                    return Err(Broken::Cut);
                }
            }
        }
        Framing::UntilClose => {
            while more(&mut bytes)? {
                if bytes.len() - start > body_bytes_max {
                    return Err(too_long());
                }
            }
            (bytes[start..].to_vec(), bytes.len())
        }
    };
    if body.len() > body_bytes_max {
        return Err(too_long());
    }
    // Bytes after the answer would be taken for the next answer.
    let fit = matches!(framing, Framing::Length(_)) && end == bytes.len();
    Ok(RawAnswer { status, body, retry_after_s, kept_for: kept_for.filter(|_| fit) })
}

/// The first head in `bytes`; `None` if it is not whole yet.
fn parse_head(bytes: &[u8]) -> Result<Option<AnswerHead>, Broken> {
    let not_http =
        |reason: &dyn std::fmt::Display| Broken::NotHttp(format!("not a whole HTTP answer: {reason}"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(not_http(&error)),
    };
    let is_http_10 = head.version == Some(0);
    let status = head.code.unwrap_or_default();
    let headers = &*head.headers;
    let framing = framing(headers, is_http_10).map_err(|reason| not_http(&reason))?;
    let retry_after_s = values(headers, "retry-after").find_map(|value| value.parse().ok());
    Ok(Some(AnswerHead { length, status, framing, retry_after_s, kept_for: kept_for(headers) }))
}

/// The values of a field, in their order. A value that is no text counts as empty.
fn values<'a>(headers: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| std::str::from_utf8(header.value).unwrap_or_default())
}

/// The members of a field that is a list, over all lines of this name.
fn members<'a>(headers: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a str> {
    values(headers, name).flat_map(|value| value.split(',')).map(str::trim)
}

fn framing(headers: &[Header<'_>], is_http_10: bool) -> Result<Framing, &'static str> {
    let mut codings = members(headers, "transfer-encoding").peekable();
    if codings.peek().is_some() {
        let chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        return match chunked && codings.next().is_none() && !is_http_10 {
            // With both fields, another program on the way could see the end of the body elsewhere (RFC 9112, 6.3).
            true if values(headers, "content-length").next().is_none() => Ok(Framing::Chunked),
            true => Err("Transfer-Encoding and Content-Length"),
            false => Err("an unknown Transfer-Encoding"),
        };
    }
    let mut length = None;
    for value in members(headers, "content-length") {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let value: u64 =
            digits.then(|| value.parse().ok()).flatten().ok_or("a Content-Length that is no number")?;
        if length.replace(value).is_some_and(|other| other != value) {
            return Err("two different values of Content-Length");
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// How long the connection may wait for the next request, if a header offers that.
fn kept_for(headers: &[Header<'_>]) -> Option<Duration> {
    let says = |word: &str| members(headers, "connection").any(|member| member.eq_ignore_ascii_case(word));
    let mut parameters = members(headers, "keep-alive").peekable();
    if says("close") || !(says("keep-alive") || parameters.peek().is_some()) {
        return None;
    }
    let mut kept = KEPT_BY_DEFAULT;
    for (name, value) in parameters.filter_map(|parameter| parameter.split_once('=')) {
        match (name.trim().to_ascii_lowercase().as_str(), value.trim().trim_matches('"').parse::<u64>()) {
            ("timeout", Ok(seconds)) => {
                kept = Duration::from_secs(seconds).saturating_sub(MARGIN).min(KEPT_MAX)
            }
            // How many more requests the worker takes on this connection.
            ("max", Ok(0)) => return None,
            _ => {}
        }
    }
    (!kept.is_zero()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read from a stream that brings these pieces and then ends without an error.
    fn read_pieces(pieces: &[&str]) -> Result<RawAnswer, Broken> {
        let mut pieces = pieces.iter();
        read(|bytes| {
            let piece = pieces.next().map_or(&b""[..], |piece| piece.as_bytes());
            bytes.extend_from_slice(piece);
            Ok(piece.len())
        })
    }

    fn kept_for(head_and_body: &str) -> Option<Duration> {
        read_pieces(&[head_and_body]).expect("a whole answer").kept_for
    }

    #[test]
    fn kept_only_if_offered_in_words_and_for_less_than_was_announced() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (fields, expected) in [
            ("Keep-Alive: timeout=5\r\n", seconds(4)),
            ("Keep-Alive: timeout=5, max=7\r\n", seconds(4)),
            ("keep-alive: TIMEOUT = 20\r\n", seconds(19)),
            ("Keep-Alive: timeout=86400\r\n", Some(KEPT_MAX)),
            ("Connection: keep-alive\r\n", Some(KEPT_BY_DEFAULT)),
            ("Connection: upgrade, Keep-Alive\r\n", Some(KEPT_BY_DEFAULT)),
            ("", None),
            ("Connection: close\r\nKeep-Alive: timeout=5\r\n", None),
            ("Connection: keep-alive, close\r\n", None),
            ("Connection: keep-alive\r\nConnection: close\r\n", None),
            ("Keep-Alive: timeout=1\r\n", None),
            ("Keep-Alive: timeout=5, max=0\r\n", None),
        ] {
            for version in ["HTTP/1.0", "HTTP/1.1"] {
                let answer = format!("{version} 200 OK\r\n{fields}Content-Length: 3\r\n\r\n97\n");
                assert_eq!(kept_for(&answer), expected, "{answer:?}");
            }
        }
    }

    #[test]
    fn not_kept_without_a_length_with_bytes_behind_it_or_for_a_status_whose_body_is_not_read() {
        let offer = "Connection: keep-alive\r\n";
        assert_eq!(kept_for(&format!("HTTP/1.1 200 OK\r\n{offer}\r\n97")), None);
        assert_eq!(kept_for(&format!("HTTP/1.1 200 OK\r\n{offer}Content-Length: 2\r\n\r\n97\n")), None);
        assert_eq!(kept_for(&format!("HTTP/1.1 500 Oh\r\n{offer}Content-Length: 2\r\n\r\n97")), None);
        let chunked =
            format!("HTTP/1.1 200 OK\r\n{offer}Transfer-Encoding: chunked\r\n\r\n2\r\n97\r\n0\r\n\r\n");
        assert_eq!(kept_for(&chunked), None);
    }

    #[test]
    fn an_answer_may_come_in_any_pieces() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n97\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n97\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\n9\r\n2\r\n7\n\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n97\n",
        ] {
            for cut in 0..answer.len() {
                let (first, second) = answer.split_at(cut);
                let pieces: Vec<&str> =
                    [first, second].into_iter().filter(|piece| !piece.is_empty()).collect();
                assert_eq!(read_pieces(&pieces).expect("whole").body, b"97\n", "cut at {cut} of {answer:?}");
            }
            let bytes: Vec<String> = answer.chars().map(String::from).collect();
            let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
            assert_eq!(read_pieces(&bytes).expect("whole").body, b"97\n", "byte by byte: {answer:?}");
        }
    }

    #[test]
    fn an_end_is_unheard_only_before_the_first_byte() {
        assert_eq!(read_pieces(&[]).expect_err("broken"), Broken::Unheard);
        assert_eq!(read(|_| Err(Broken::Cut)).expect_err("broken"), Broken::Unheard);
        assert_eq!(read(|_| Err(Broken::DeadlinePassed)).expect_err("broken"), Broken::DeadlinePassed);
        assert_eq!(read_pieces(&["H"]).expect_err("broken"), Broken::Cut);
    }

    #[test]
    fn a_framing_that_two_could_read_differently_is_no_answer() {
        for fields in [
            "Content-Length: 2\r\nContent-Length: 3\r\n",
            "Content-Length: 2, 3\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
        ] {
            let outcome = read_pieces(&[&format!("HTTP/1.1 200 OK\r\n{fields}\r\n97")]);
            assert!(matches!(outcome, Err(Broken::NotHttp(_))), "{fields:?}: {outcome:?}");
        }
        // The same length twice is one length.
        assert!(read_pieces(&["HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n97"]).is_ok());
        let chunks_in_10 = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n97\r\n0\r\n\r\n";
        assert!(matches!(read_pieces(&[chunks_in_10]), Err(Broken::NotHttp(_))));
    }

    #[test]
    fn endless_chunks_and_trailers_end_at_a_bound() {
        for endless in ["1\r\n9\r\n", "0000000000\r", "0\r\nX: y\r\n"] {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut first = true;
            let outcome = read(|bytes| {
                let piece = if std::mem::take(&mut first) { head } else { endless };
                bytes.extend_from_slice(piece.as_bytes());
                Ok(piece.len())
            });
            assert!(matches!(outcome, Err(Broken::NotHttp(_))), "{endless:?}: {outcome:?}");
        }
    }
}
