//! Signing: proves who sent a request, when, to which node and for what purpose; and who answered it.
//!
//! Who calls it: every sender on a cluster address (peer senders, daemons, the operator's program) holds a
//! [`Seal`] and sends with [`Seal::post`]. The node's cluster listener holds the one [`Gate`]. Answers are
//! signed, too: Raft assumes that machines fail, not that they lie, so a forged vote or acknowledgement would
//! break its safety. docs/security.md says what signing protects from, what it does not, and how an operator
//! sets it up.
//!
//! # What is signed
//! HMAC-SHA-256 (RFC 2104) over a *frame* of fields: `rakit request`, version, cluster, sender, recipient,
//! purpose, founding, method, path with query, SHA-256 of the body, time (Unix, milliseconds), nonce. Each field has
//! its length in front, so that no two lists of fields give the same bytes. An answer's frame holds `rakit
//! answer`, version, cluster, answerer, asker, purpose, the request's nonce, the status, and SHA-256 of the
//! body.
//!
//! # Versions
//! The version of the protocol is checked first, since another version may sign in another way. The node's
//! refusal names both versions. Every answer of the node carries its version in a header, and the sender
//! checks it.
//!
//! # Keys
//! Each purpose has its own key, derived from the secret and the cluster's name: with the `report` key nobody
//! can make a request of purpose `raft`. A route takes only its own purposes. A daemon may be given a secret
//! file that holds the derived report key alone ([`Secret::report_key_line`]); then it *cannot* vote, even if
//! it is broken into.
//!
//! # Replays
//! To remember every nonce for a minute would cost some 60 MB at 30,000 requests a second. Therefore a nonce
//! has two parts, as in IPsec (RFC 4303, 3.4.3: the anti-replay window): a *stream* and a counter in that
//! stream. The stream has 64 bits, drawn at random when a seal is made; each clone of a seal takes the next
//! one. A receiver keeps per stream the highest counter and a bitmap of the last [`WINDOW`] counters: 150
//! bytes, however many requests come. Requests of one stream may overtake each other within the window. A
//! request further behind is refused. This never happens to an honest sender, since each sending thread has
//! its own clone and one request under way.
//!
//! The gate forgets a stream when its newest request is too old to be accepted again. Then the clock may be
//! set back, or the node may restart and remember no stream. For these cases the gate keeps the *horizon*, a
//! time: a request of an unknown stream is refused if it was sealed before the horizon. The horizon starts at
//! the gate's creation and rises with each forgotten stream. The price: if a sender's clock is five seconds
//! behind, a node that has just started refuses that sender for five seconds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::protocol::{HEADER_VERSION, PROTOCOL_VERSION, Purpose};

use gate::name_header;

mod call;
mod founded;
mod gate;
mod keys;
mod replays;
mod seal;

pub use call::{Recipient, SealedCallError};
pub use gate::{Gate, Opened};
pub use keys::Secret;
pub use seal::{Seal, SealedRequest};

/// How far the clocks of sender and receiver may be apart, in milliseconds.
pub const CLOCK_APART_MS_MAX: u64 = 30_000;

/// For how many counters of a stream, up to the highest, the gate remembers one by one whether it has seen
/// them.
pub const WINDOW: u64 = 1024;

/// How many streams a gate remembers (10 MB), over about the last minute. A stream is one sending thread of
/// one process. When all places are taken, new streams are refused: to forget a stream early would allow a
/// replay.
pub const STREAMS_MAX: usize = 65_536;

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
    /// This request was accepted before, or its counter is below the window, so that nobody can say.
    Replayed,
    /// Sealed before the horizon: before this node started, or before the newest request of a forgotten
    /// stream.
    TooOld,
    /// Sealed further from this node's time than [`CLOCK_APART_MS_MAX`].
    ClockApart,
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
    /// The gate remembers [`STREAMS_MAX`] streams and has no place for this one.
    NonceCacheFull,
}

impl RefusalKind {
    /// All of them, in the order of [`Gate::refusals`].
    pub const ALL: [Self; 12] = [
        Self::Unsigned,
        Self::Altered,
        Self::Replayed,
        Self::TooOld,
        Self::ClockApart,
        Self::WrongPurpose,
        Self::WrongRecipient,
        Self::WrongVersion,
        Self::WrongCluster,
        Self::WrongFounding,
        Self::Malformed,
        Self::NonceCacheFull,
    ];

    /// One word, for metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Altered => "altered",
            Self::Replayed => "replayed",
            Self::TooOld => "too-old",
            Self::ClockApart => "clock-apart",
            Self::WrongPurpose => "wrong-purpose",
            Self::WrongRecipient => "wrong-recipient",
            Self::WrongVersion => "wrong-version",
            Self::WrongCluster => "wrong-cluster",
            Self::WrongFounding => "wrong-founding",
            Self::Malformed => "malformed",
            Self::NonceCacheFull => "nonce-cache-full",
        }
    }
}

/// A refusal, with its reason and the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which rule was broken.
    pub kind: RefusalKind,
    /// What was wrong and how to mend it, in one line of printable characters.
    pub detail: String,
}

impl Refusal {
    fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The status of the HTTP answer: 503 if this node has no room to remember the sender, else 401.
    pub fn status(&self) -> u16 {
        match self.kind {
            RefusalKind::NonceCacheFull => 503,
            _ => 401,
        }
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

/// Compares the version in a header with ours. `by` names who sent it; `optional`: whether it may be left
/// out.
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
        None => "no version that it names".to_owned(),
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

/// Milliseconds since 1970 on this machine's clock; 0 if the clock stands before 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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

/// What the signature of a request covers.
struct RequestFields<'a> {
    cluster: &'a str,
    sender: &'a str,
    recipient: &'a str,
    purpose: Purpose,
    founding: &'a str,
    method: &'a str,
    path: &'a str,
    body: &'a [u8],
    time: &'a str,
    nonce: &'a str,
}

impl RequestFields<'_> {
    fn mac(&self, key: &HmacSha256) -> HmacSha256 {
        mac(
            key,
            &[
                REQUEST_FRAME,
                version().as_bytes(),
                self.cluster.as_bytes(),
                self.sender.as_bytes(),
                self.recipient.as_bytes(),
                self.purpose.name().as_bytes(),
                self.founding.as_bytes(),
                self.method.as_bytes(),
                self.path.as_bytes(),
                &Sha256::digest(self.body),
                self.time.as_bytes(),
                self.nonce.as_bytes(),
            ],
        )
    }
}

/// What the signature of an answer covers.
struct AnswerFields<'a> {
    cluster: &'a str,
    answerer: &'a str,
    asker: &'a str,
    purpose: Purpose,
    nonce: &'a str,
    status: u16,
    body: &'a [u8],
}

impl AnswerFields<'_> {
    fn mac(&self, key: &HmacSha256) -> HmacSha256 {
        mac(
            key,
            &[
                ANSWER_FRAME,
                version().as_bytes(),
                self.cluster.as_bytes(),
                self.answerer.as_bytes(),
                self.asker.as_bytes(),
                self.purpose.name().as_bytes(),
                self.nonce.as_bytes(),
                &self.status.to_be_bytes(),
                &Sha256::digest(self.body),
            ],
        )
    }
}

#[cfg(test)]
mod tests;
