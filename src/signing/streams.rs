//! The streams that a node knows: which numbers of each were used. Used by the [`Gate`](super::Gate) alone.
//!
//! A sender opens a stream with a nonce of its own, and the node answers with a *ticket*. From then on the sender
//! numbers its requests, and the node accepts only growing numbers. To hand out a ticket costs the node no memory: the
//! ticket holds the time of its issue, and a MAC with a key that only this process has. The node remembers a stream
//! from its first request on. (TCP SYN cookies, RFC 4987 section 3.6, are the same idea.)
//!
//! # Why a forgotten stream stays closed
//! A stream may be forgotten: each sender has room for [`STREAMS_PER_SENDER_MAX`], and the one that was used longest
//! ago makes room for a new one. Its old requests must not open it again. So the sender's *floor* rises to the issue of
//! the forgotten ticket, and a ticket opens a stream only if it was issued above the floor. Tickets at or below the
//! floor that are still unused are lost with it: their senders ask for others.
//!
//! Time here is the time since the gate was made, on the monotonic clock of this process. No other machine's clock
//! takes part. A restarted node has another ticket key, so no ticket of its former life is valid.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hmac::{KeyInit, Mac};

use super::{HmacSha256, frame, hex, unhex};
use crate::protocol::Purpose;

/// How long after its issue a ticket may open a stream. A sender uses its ticket at once, so this only has to be longer
/// than a slow round trip.
pub const TICKET_VALID: Duration = Duration::from_secs(10);

/// How many streams of one sender a node remembers (40 bytes each). A node has about a dozen at another one, a daemon
/// has one.
pub const STREAMS_PER_SENDER_MAX: usize = 64;

/// How many senders of one purpose a node remembers: all daemons that a table has room for, and as many again. Only a
/// holder of the purpose's key can be remembered at all.
pub const SENDERS_MAX: usize = 2_048;

const TICKET_FRAME: &[u8] = b"rakit ticket";

/// The name of a stream, as it stands in a header: the sender's nonce, and behind it the node's ticket. Hexadecimal,
/// lower case. In a request that opens a stream, the ticket is missing.
pub(super) struct StreamName<'a> {
    nonce: &'a str,
    ticket: Option<Ticket>,
}

#[derive(Clone, Copy)]
struct Ticket {
    /// When it was issued, in nanoseconds.
    issued: u64,
    mac: [u8; 16],
}

/// Digits of a nonce of 16 bytes.
pub(super) const NONCE_DIGITS: usize = 32;
/// Digits of a ticket: time of issue (8 bytes) and MAC (16 bytes).
pub(super) const TICKET_DIGITS: usize = 48;

impl<'a> StreamName<'a> {
    /// `None` if it is no name of a stream.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let (nonce, ticket) = name.split_at_checked(NONCE_DIGITS)?;
        unhex::<16>(nonce)?;
        if ticket.is_empty() {
            return Some(Self { nonce, ticket: None });
        }
        let (issued, mac) = ticket.split_at_checked(16)?;
        let ticket = Ticket { issued: u64::from_be_bytes(unhex(issued)?), mac: unhex(mac)? };
        Some(Self { nonce, ticket: Some(ticket) })
    }

    /// Whether a request with this name opens a stream.
    pub(super) fn opens(&self) -> bool {
        self.ticket.is_none()
    }
}

/// Why a request of a stream is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The number is not above the newest of its stream.
    NotNewer,
    /// This node does not know the stream: it was restarted, or has forgotten the stream, or the ticket is too old.
    Unknown,
}

/// All streams of all senders.
pub(super) struct Streams {
    ticket_key: HmacSha256,
    /// One per purpose: who holds the key of one purpose cannot make the node forget a stream of another.
    of_purpose: [Mutex<Senders>; 3],
}

impl Streams {
    /// No streams yet. `ticket_key` is random, and of this process alone.
    pub(super) fn new(ticket_key: &[u8]) -> Self {
        let ticket_key = HmacSha256::new_from_slice(ticket_key).expect("HMAC takes a key of any length");
        Self { ticket_key, of_purpose: Default::default() }
    }

    /// A ticket for the stream that `sender` opens with this name. Nothing is remembered.
    pub(super) fn ticket(
        &self,
        purpose: Purpose,
        sender: &str,
        name: &StreamName<'_>,
        now: Duration,
    ) -> String {
        let issued = nanoseconds(now);
        let mac = self.ticket_mac(purpose, sender, name.nonce, issued).finalize().into_bytes();
        hex(&issued.to_be_bytes()) + &hex(&mac[..16])
    }

    /// Accepts the request `number` of a stream, once. Its seal must have been checked before.
    pub(super) fn admit(
        &self,
        purpose: Purpose,
        sender: &str,
        name: &StreamName<'_>,
        number: u64,
        now: Duration,
    ) -> Result<(), Rejected> {
        let ticket = name.ticket.ok_or(Rejected::Unknown)?;
        let mut senders = self.of_purpose[purpose as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let now = nanoseconds(now);
        if let Some(known) = senders.stream(sender, ticket.mac) {
            if number <= known.newest_number {
                return Err(Rejected::NotNewer);
            }
            (known.newest_number, known.used) = (number, now);
            return Ok(());
        }
        let is_fresh = ticket.issued > senders.floor(sender)
            && now.saturating_sub(ticket.issued) <= nanoseconds(TICKET_VALID);
        let is_ours = || {
            let mac = self.ticket_mac(purpose, sender, name.nonce, ticket.issued);
            mac.verify_truncated_left(&ticket.mac).is_ok()
        };
        if !is_fresh || !is_ours() {
            return Err(Rejected::Unknown);
        }
        senders.remember(sender, Stream { ticket, newest_number: number, used: now });
        Ok(())
    }

    fn ticket_mac(&self, purpose: Purpose, sender: &str, nonce: &str, issued: u64) -> HmacSha256 {
        let purpose = purpose.name().as_bytes();
        let fields: [&[u8]; 5] =
            [TICKET_FRAME, purpose, sender.as_bytes(), nonce.as_bytes(), &issued.to_be_bytes()];
        let mut mac = self.ticket_key.clone();
        mac.update(&frame(&fields));
        mac
    }
}

/// One stream.
struct Stream {
    ticket: Ticket,
    /// The highest number that was accepted.
    newest_number: u64,
    /// When, in nanoseconds.
    used: u64,
}

/// The streams of one sender.
#[derive(Default)]
struct Sender {
    streams: Vec<Stream>,
    /// The latest issue among the tickets of its forgotten streams.
    floor: u64,
}

/// The senders of one purpose.
#[derive(Default)]
struct Senders {
    by_name: HashMap<String, Sender>,
    /// The latest issue among the tickets of all forgotten senders.
    floor: u64,
}

impl Senders {
    fn stream(&mut self, sender: &str, mac: [u8; 16]) -> Option<&mut Stream> {
        self.by_name.get_mut(sender)?.streams.iter_mut().find(|stream| stream.ticket.mac == mac)
    }

    fn floor(&self, sender: &str) -> u64 {
        self.floor.max(self.by_name.get(sender).map_or(0, |known| known.floor))
    }

    fn remember(&mut self, sender: &str, stream: Stream) {
        if self.by_name.len() == SENDERS_MAX && !self.by_name.contains_key(sender) {
            self.forget_a_sender();
        }
        let known = self.by_name.entry(sender.to_owned()).or_default();
        if known.streams.len() == STREAMS_PER_SENDER_MAX {
            let oldest = (0..known.streams.len()).min_by_key(|at| known.streams[*at].used);
            let forgotten = known.streams.swap_remove(oldest.expect("it has many"));
            known.floor = known.floor.max(forgotten.ticket.issued);
        }
        known.streams.push(stream);
    }

    /// Forgets the sender that was heard longest ago.
    fn forget_a_sender(&mut self) {
        let heard = |sender: &Sender| sender.streams.iter().map(|stream| stream.used).max();
        let oldest =
            self.by_name.iter().min_by_key(|(_, sender)| heard(sender)).map(|(name, _)| name.clone());
        let Some(sender) = oldest.and_then(|name| self.by_name.remove(&name)) else { return };
        let issues = sender.streams.iter().map(|stream| stream.ticket.issued);
        self.floor = issues.chain([self.floor, sender.floor]).max().expect("two at least");
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("no process lives for 584 years")
}
