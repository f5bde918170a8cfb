//! Signing: proves who sent a request, to which node and for what purpose, that it is no repetition, and who answered
//! it.
//!
//! Who calls it: every sender on a cluster address (peer senders, daemons, the operator's program) holds a
//! [`Seal`] and sends with [`Seal::post`]. The node's cluster listener holds the one [`Gate`]. Answers are
//! signed, too: Raft assumes that machines fail, not that they lie, so a forged vote or acknowledgement would
//! break its safety. docs/security.md says what signing protects from, what it does not, and how an operator
//! sets it up.
//!
//! # Streams
//! How does a node know that a request is no repetition? If a clock decided that, a wrong clock would make a node deaf.
//! So each sending thread opens a *stream* at a node, with one round trip:
//!
//! 1. The sender draws a nonce and sends it, sealed, to [`path::STREAM`](crate::protocol::path::STREAM).
//! 2. The node answers with a nonce of its own, the *ticket*, also sealed.
//! 3. From then on the sender seals each request over both nonces and a number that grows. The node accepts a number
//!    only if it is above the last one.
//!
//! The node's nonce makes requests fresh for the node: it gave out this ticket itself, in this life of its process. The
//! sender's nonce makes answers fresh for the sender. A node that does not know the stream (it was restarted, say)
//! says so in a sealed answer, and the sender opens another and repeats the request. A stream ends, for the sender,
//! with the first request that has no believable answer: so a request that was overtaken after a time-out is never
//! taken for a repetition. The node's part is in `streams.rs`. docs/security.md argues why each attack fails.
//!
//! # What is signed
//! HMAC-SHA-256 (RFC 2104) over a *frame* of fields. Each field has its length in front, so that no two lists of fields
//! give the same bytes. The frame of a request: `rakit request`, method, path with query, and the values of
//! [`SEALED_HEADERS`]. The frame of an answer: `rakit answer`, the request's signature (so it fits one request only),
//! the status, SHA-256 of the body, and the values of [`ANSWER_HEADERS`]. The digest of a request's body stands in a
//! header. So the node checks a seal before it reads the body: what has no valid seal costs no memory.
//!
//! # Versions
//! The version of the protocol is checked first, since another version may sign in another way. The node's
//! refusal names both versions. Every answer to a request that the [`Gate`] has judged carries the node's version in a
//! header, and the sender checks it. What is refused elsewhere carries none: by the HTTP edge, with a 503, say; without
//! a secret also with 404 or 405.
//!
//! # Keys
//! Each purpose has its own key, derived from the secret and the cluster's name: with the `report` key nobody
//! can make a request of purpose `raft`. A route takes only its own purposes. A daemon may be given a secret
//! file that holds the derived report key alone ([`Secret::report_key_line`]); then it *cannot* vote, even if
//! it is broken into.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::protocol::{
    HEADER_CLUSTER, HEADER_DIGEST, HEADER_FOUNDING, HEADER_NUMBER, HEADER_PURPOSE, HEADER_RECIPIENT,
    HEADER_SENDER, HEADER_STREAM, HEADER_VERSION, PROTOCOL_VERSION,
};

use gate::name_header;

mod call;
mod founded;
mod gate;
mod keys;
mod seal;
mod streams;

pub use call::{Recipient, SealedCallError};
pub use gate::{Gate, Opened, Verdict};
pub use keys::{KEYS_MAX, Secret};
pub use seal::{Seal, SealedRequest};
pub use streams::{SENDERS_MAX, STREAMS_PER_SENDER_MAX, TICKET_VALID};

/// The headers of a request that its signature covers, in the order of the frame. A header that is missing counts as an
/// empty one. To sign another header, add it here.
pub const SEALED_HEADERS: [&str; 9] = [
    HEADER_VERSION,
    HEADER_CLUSTER,
    HEADER_FOUNDING,
    HEADER_SENDER,
    HEADER_RECIPIENT,
    HEADER_PURPOSE,
    HEADER_STREAM,
    HEADER_NUMBER,
    HEADER_DIGEST,
];

/// The headers of an answer that its signature covers, in the order of the frame.
pub const ANSWER_HEADERS: [&str; 2] = [HEADER_VERSION, HEADER_FOUNDING];

/// The status of every refusal.
pub const REFUSED_STATUS: u16 = 401;

/// The first fields of the two frames. They differ, so that the signature of an answer never fits a request.
const REQUEST_FRAME: &[u8] = b"rakit request";
const ANSWER_FRAME: &[u8] = b"rakit answer";

type HmacSha256 = Hmac<Sha256>;

/// Why a request or an answer is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// A secret is configured here, and there is no signature.
    Unsigned,
    /// The signature is not that of what came with it.
    Altered,
    /// Its number is not above the newest of its stream.
    Replayed,
    /// The node does not know the stream. No fault of the sender, which opens another one.
    UnknownStream,
    /// Its purpose is not one that this route accepts.
    WrongPurpose,
    /// Meant for another node.
    WrongRecipient,
    /// It has another version of the protocol.
    WrongVersion,
    /// It belongs to another cluster.
    WrongCluster,
    /// It comes from a cluster with other founding members.
    WrongFounding,
    /// A header is missing or has no valid value.
    Malformed,
}

/// All kinds in their order, each with one word for metrics and log lines.
const KINDS: [(RefusalKind, &str); 10] = [
    (RefusalKind::Unsigned, "unsigned"),
    (RefusalKind::Altered, "altered"),
    (RefusalKind::Replayed, "replayed"),
    (RefusalKind::UnknownStream, "unknown-stream"),
    (RefusalKind::WrongPurpose, "wrong-purpose"),
    (RefusalKind::WrongRecipient, "wrong-recipient"),
    (RefusalKind::WrongVersion, "wrong-version"),
    (RefusalKind::WrongCluster, "wrong-cluster"),
    (RefusalKind::WrongFounding, "wrong-founding"),
    (RefusalKind::Malformed, "malformed"),
];

impl RefusalKind {
    /// One word, for metrics and log lines.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

/// A refusal, with its reason and the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which rule was broken.
    pub kind: RefusalKind,
    /// What was wrong and how to mend it, in one line of printable characters.
    pub detail: String,
    /// The HTTP status of the answer that cannot be trusted, if an answer is refused because nobody signed it. With
    /// [`REFUSED_STATUS`], its sender says that it refused our request.
    pub said: Option<u16>,
}

impl Refusal {
    fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), said: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

impl std::error::Error for Refusal {}

/// The version of this build, as it stands in a header and in a frame.
fn version() -> String {
    PROTOCOL_VERSION.to_string()
}

/// Compares the version in a header with ours. `by` names who sent it; `optional`: whether it may be left out, as in
/// every request and in some answers (`Seal::open_answer`).
///
/// # Errors
/// `WrongVersion`, with both versions and the mend; `Malformed`, if the header's value is not fit for a log
/// line.
fn check_version(by: &str, theirs: Option<&str>, optional: bool) -> Result<(), Refusal> {
    let ours = version();
    let theirs = match name_header(HEADER_VERSION, theirs)? {
        Some(theirs) if theirs == ours => return Ok(()),
        Some(theirs) => format!("version {theirs}"),
        None if optional => return Ok(()),
        None => {
            let detail =
                format!("{by} names no version of the protocol; is a node of Rakit at that address?");
            return Err(Refusal::new(RefusalKind::WrongVersion, detail));
        }
    };
    let detail = format!(
        "{by} speaks {theirs} of the protocol, this program version {ours}; run the same build of rakit on all machines"
    );
    Err(Refusal::new(RefusalKind::WrongVersion, detail))
}

/// Puts fields into one string of bytes, so that different lists of fields give different bytes: first the
/// number of fields, then each field with its length in front. Number and lengths have 32 bits, in network
/// order.
fn frame(fields: &[&[u8]]) -> Vec<u8> {
    let length = |n: usize| {
        u32::try_from(n).expect("fields are names, heads and digests: far below 4 GiB").to_be_bytes()
    };
    let mut bytes = Vec::with_capacity(4 + fields.iter().map(|field| 4 + field.len()).sum::<usize>());
    bytes.extend_from_slice(&length(fields.len()));
    for field in fields {
        bytes.extend_from_slice(&length(field.len()));
        bytes.extend_from_slice(field);
    }
    bytes
}

/// A name as it stands in a header and in the frame. Each byte that is not a letter, a digit or one of `-_.:`
/// becomes `%` and two hexadecimal digits. So a cluster may be called "Prüfung 3", and its header is still
/// visible ASCII.
fn header_form(name: &str) -> String {
    let mut form = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_name_byte(byte) {
            form.push(char::from(byte));
        } else {
            form.push('%');
            form.push(char::from(HEX[usize::from(byte >> 4)]).to_ascii_uppercase());
            form.push(char::from(HEX[usize::from(byte & 15)]).to_ascii_uppercase());
        }
    }
    form
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        digits.push(char::from(HEX[usize::from(byte >> 4)]));
        digits.push(char::from(HEX[usize::from(byte & 15)]));
    }
    digits
}

/// The reverse of [`hex`], for exactly `N` bytes. Upper case is refused, so that each value has one spelling.
fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// The HMAC over these fields, with the key of one purpose.
fn mac(key: &HmacSha256, fields: &[&[u8]]) -> HmacSha256 {
    let mut mac = key.clone();
    mac.update(&frame(fields));
    mac
}

fn signature(mac: HmacSha256) -> String {
    hex(&mac.finalize().into_bytes())
}

/// Checks a signature, in constant time.
fn verify(mac: HmacSha256, signature: &str) -> Result<(), Refusal> {
    let claimed: [u8; 32] = unhex(signature).ok_or_else(|| {
        Refusal::new(RefusalKind::Malformed, "the signature is not 64 hexadecimal digits, in lower case")
    })?;
    mac.verify_slice(&claimed).map_err(|_| {
        Refusal::new(
            RefusalKind::Altered,
            "the signature does not match; was it altered on the way, or is secret_file not the same on both machines?",
        )
    })
}

/// What the signature of a request covers. `value` gives the value of a header.
fn request_mac<'a>(
    key: &HmacSha256,
    method: &str,
    target: &str,
    value: impl Fn(&'static str) -> Option<&'a str>,
) -> HmacSha256 {
    let headers = SEALED_HEADERS.map(|name| value(name).unwrap_or_default().as_bytes());
    mac(key, &[&[REQUEST_FRAME, method.as_bytes(), target.as_bytes()], &headers[..]].concat())
}

/// What the signature of an answer covers. `value` gives the value of a header of the answer.
fn answer_mac<'a>(
    key: &HmacSha256,
    request_signature: &str,
    status: u16,
    body: &[u8],
    value: impl Fn(&'static str) -> Option<&'a str>,
) -> HmacSha256 {
    let headers = ANSWER_HEADERS.map(|name| value(name).unwrap_or_default().as_bytes());
    let (status, digest) = (status.to_be_bytes(), Sha256::digest(body));
    let own: [&[u8]; 4] = [ANSWER_FRAME, request_signature.as_bytes(), &status, &digest];
    mac(key, &[&own, &headers[..]].concat())
}

#[cfg(test)]
mod tests;
