//! The receiver's side: checks sealed requests and signs their answers. Called by the node's cluster
//! listener, in two steps: [`Gate::judge`] before the body is read, [`Gate::check_body`] after that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use sha2::{Digest, Sha256};

use super::founded::{check_founding, founding_form};
use super::keys::{Key, Keyring, Secret};
use super::streams::{Rejected, StreamName, Streams};
use super::{
    KINDS, REFUSED_STATUS, Refusal, RefusalKind, answer_mac, check_version, header_form, hex, is_name_byte,
    request_mac, signature, verify, version,
};
use crate::linux::random_u64;
use crate::logging::RateLimit;
use crate::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_CLUSTER, HEADER_DIGEST, HEADER_FOUNDING, HEADER_NUMBER, HEADER_PURPOSE,
    HEADER_RECIPIENT, HEADER_SENDER, HEADER_SIGNATURE, HEADER_STREAM, HEADER_VERSION, Purpose, path,
};
use crate::raft::Founding;

/// Each kind of refusal is logged once in this time; the line says how many were left out.
const REFUSAL_LINE_PAUSE: Duration = Duration::from_secs(5);

/// The longest value, in bytes, of a header that holds a name or a version.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// Checks requests and signs their answers. A node has exactly one: two would each accept the same request
/// once.
pub struct Gate {
    cluster: String,
    me: String,
    /// The founding, as it stands in the header; `None` if nothing is known of it.
    founding: Option<String>,
    signed: Option<Signed>,
    /// Requests that the first key did not sign, and the second one did.
    by_second_key: AtomicU64,
    /// One per kind, in the order of `KINDS`.
    refused: [RefusalCount; KINDS.len()],
}

/// What a gate with a secret has.
struct Signed {
    keys: Keyring,
    streams: Streams,
}

/// How often one kind of refusal happened, and when a line may be written about it.
struct RefusalCount {
    count: AtomicU64,
    lines: RateLimit,
}

/// A request whose head was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it, such as `node-2` or `daemon:lab-01`. Empty if a report names no sender, which only a gate
    /// without a secret accepts. The signature proves the key, not the name: a holder of the key can use
    /// every name.
    pub sender: String,
    /// What it is for: one of the purposes that the route accepts.
    pub purpose: Purpose,
    /// The request's signature, which its answer is bound to; empty without a secret.
    pub signature: String,
    /// The digest that its body must have; empty without a secret.
    digest: String,
    /// The key that signed it, which signs the answer, too; `None` without a secret.
    key: Option<UsedKey>,
}

/// The key that a request was signed with.
#[derive(Clone)]
struct UsedKey(Key);

impl std::fmt::Debug for UsedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UsedKey")
    }
}

impl PartialEq for UsedKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for UsedKey {}

/// What the gate says to the head of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Read the body, check it, and carry the request out.
    Accepted(Opened),
    /// Do not carry the request out, but give this answer, sealed: a ticket for a stream, or the word that the
    /// stream is not known here.
    Answer {
        /// What to seal the answer for.
        opened: Opened,
        /// The status of the answer.
        status: u16,
        /// Its body, one line.
        line: String,
    },
    /// Answer 401 and close the connection. The gate has counted the refusal and, at a bounded rate, logged it.
    Refused(Refusal),
}

impl Gate {
    /// The gate of the node `me` (`node-1`) in this cluster.
    ///
    /// # Errors
    /// One line, if the secret is a report key alone, or the system gives no randomness.
    pub fn new(cluster: &str, me: &str, secret: Option<&Secret>) -> Result<Self, String> {
        if secret.is_some_and(|secret| !secret.serves(Purpose::Raft)) {
            return Err("the secret file holds the report key alone, which is for daemons: \
                        a node needs the cluster's secret"
                .to_owned());
        }
        let cluster = header_form(cluster);
        let mut ticket_key = [0; 32];
        for part in ticket_key.chunks_exact_mut(8) {
            part.copy_from_slice(&random_u64()?.to_ne_bytes());
        }
        Ok(Self {
            signed: secret.map(|secret| Signed {
                keys: Keyring::new(&cluster, secret),
                streams: Streams::new(&ticket_key),
            }),
            cluster,
            me: header_form(me),
            founding: None,
            by_second_key: AtomicU64::new(0),
            refused: KINDS.map(|_| RefusalCount {
                count: AtomicU64::new(0),
                lines: RateLimit::new(REFUSAL_LINE_PAUSE),
            }),
        })
    }

    /// The same gate, which refuses whoever says another founding, and nodes that say none.
    #[must_use]
    pub fn founded(self, founding: &Founding) -> Self {
        Self { founding: Some(founding_form(founding)), ..self }
    }

    /// From now on the keys of `secret` are accepted, and no others. Does nothing if the gate was made without a
    /// secret. Streams stay open, and what was accepted before is answered with the key that signed it.
    ///
    /// # Errors
    /// One line, if the secret is a report key alone: then the gate keeps its keys.
    pub fn replace_secret(&self, secret: &Secret) -> Result<(), String> {
        if let Some(signed) = &self.signed {
            signed.keys.replace(&secret.clone().whole()?);
        }
        Ok(())
    }

    /// How many requests were signed with the second key of the secret file: while a secret is being changed, who still
    /// signs with the other one.
    pub fn signed_with_second_key(&self) -> u64 {
        self.by_second_key.load(Ordering::Relaxed)
    }

    /// Whether requests must be signed.
    pub fn is_signed(&self) -> bool {
        self.signed.is_some()
    }

    /// Decides by its head whether a request is accepted on a route for these purposes. An accepted number is
    /// used up, whatever becomes of the body. `target` is that of the request line as it came, with the query;
    /// `header` looks up a header of the request; `peer` is for the log line; `now` is the time since some moment in
    /// the life of this process.
    pub fn judge<'a>(
        &self,
        method: &str,
        target: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        purposes: &[Purpose],
        peer: SocketAddr,
        now: Duration,
    ) -> Verdict {
        self.examine(method, target, header, purposes, now).unwrap_or_else(|refusal| {
            self.note(&refusal, method, target, peer);
            Verdict::Refused(refusal)
        })
    }

    fn examine<'a>(
        &self,
        method: &str,
        target: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        purposes: &[Purpose],
        now: Duration,
    ) -> Result<Verdict, Refusal> {
        // The version comes first, since another version may sign in another way.
        let version = header(HEADER_VERSION);
        check_version("the sender", version, true)?;
        let signature = header(HEADER_SIGNATURE);
        if self.is_signed() && signature.is_none() {
            let why =
                "requests to this node must be signed, and this one is not; give its sender the secret_file";
            return Err(Refusal::new(RefusalKind::Unsigned, why));
        }
        // Names come before the signature, since they give the better message: "it is meant for node-2, check
        // the addresses" helps more than "the signature does not match".
        let cluster = name_header(HEADER_CLUSTER, header(HEADER_CLUSTER))?;
        let sender = name_header(HEADER_SENDER, header(HEADER_SENDER))?;
        let recipient = name_header(HEADER_RECIPIENT, header(HEADER_RECIPIENT))?;
        if let Some(theirs) = cluster.filter(|theirs| *theirs != self.cluster) {
            let why = format!(
                "it is of cluster {theirs}, this is cluster {}; check [cluster] name and the addresses",
                self.cluster
            );
            return Err(Refusal::new(RefusalKind::WrongCluster, why));
        }
        let founding = header(HEADER_FOUNDING);
        check_founding(self.founding.as_deref(), founding, &self.me, sender.unwrap_or_default())?;
        if let Some(meant) = recipient.filter(|meant| *meant != self.me) {
            let why =
                format!("it is meant for {meant}, this is {}; check the addresses in [[node]]", self.me);
            return Err(Refusal::new(RefusalKind::WrongRecipient, why));
        }
        let purpose = match header(HEADER_PURPOSE) {
            Some(name) => Purpose::of_name(name)
                .ok_or_else(|| malformed(HEADER_PURPOSE, "must be raft, report or admin"))?,
            // Without a secret, a report needs none of the headers, so that `curl` can send one.
            None if !self.is_signed() && purposes.contains(&Purpose::Report) => Purpose::Report,
            None => return Err(missing(HEADER_PURPOSE)),
        };
        if !purposes.contains(&purpose) {
            let why = format!("it is for purpose {}, which has no business here", purpose.name());
            return Err(Refusal::new(RefusalKind::WrongPurpose, why));
        }
        let mut opened = Opened {
            sender: sender.unwrap_or_default().to_owned(),
            purpose,
            signature: String::new(),
            digest: String::new(),
            key: None,
        };
        if !self.is_signed() && purpose == Purpose::Report {
            return Ok(Verdict::Accepted(opened));
        }
        // From here on every header is required, without a secret, too: a web page can make a browser send a
        // POST to a loopback address, but not with such headers.
        version.ok_or_else(|| missing(HEADER_VERSION))?;
        cluster.ok_or_else(|| missing(HEADER_CLUSTER))?;
        let sender = sender.ok_or_else(|| missing(HEADER_SENDER))?;
        recipient.ok_or_else(|| missing(HEADER_RECIPIENT))?;
        if purpose == Purpose::Raft && self.founding.is_some() {
            founding.ok_or_else(|| missing(HEADER_FOUNDING))?;
        }
        let (Some(Signed { keys, streams }), Some(signature)) = (&self.signed, signature) else {
            return Ok(Verdict::Accepted(opened));
        };
        let stream = header(HEADER_STREAM).ok_or_else(|| missing(HEADER_STREAM))?;
        let number = header(HEADER_NUMBER).ok_or_else(|| missing(HEADER_NUMBER))?;
        let digest = header(HEADER_DIGEST).ok_or_else(|| missing(HEADER_DIGEST))?;
        let stream = StreamName::parse(stream)
            .ok_or_else(|| malformed(HEADER_STREAM, "must be 32 or 80 hexadecimal digits"))?;
        let number = decimal(number).ok_or_else(|| malformed(HEADER_NUMBER, "must be a decimal number"))?;
        opened.key =
            Some(UsedKey(self.signer(keys, purpose, |key| {
                verify(request_mac(key, method, target, &header), signature)
            })?));
        // The seal is genuine. Now find out whether this request was accepted before.
        signature.clone_into(&mut opened.signature);
        digest.clone_into(&mut opened.digest);
        if stream.opens() {
            return if target == path::STREAM {
                let line = streams.ticket(purpose, sender, &stream, now);
                Ok(Verdict::Answer { opened, status: 200, line })
            } else {
                Err(malformed(HEADER_STREAM, "holds no ticket: open a stream first"))
            };
        }
        match streams.admit(purpose, sender, &stream, number, now) {
            Ok(()) => Ok(Verdict::Accepted(opened)),
            Err(Rejected::NotNewer) => {
                let why = "this very request was accepted before, or a later one of its sender has overtaken it; \
                           if this lasts, somebody repeats what was said by another";
                Err(Refusal::new(RefusalKind::Replayed, why))
            }
            Err(Rejected::Unknown) => {
                // Nothing is wrong: this node was restarted. So there is no line.
                let refusal = Refusal::new(RefusalKind::UnknownStream, "open another stream and repeat");
                self.refused[refusal.kind as usize].count.fetch_add(1, Ordering::Relaxed);
                Ok(Verdict::Answer { opened, status: REFUSED_STATUS, line: refusal.to_string() })
            }
        }
    }

    /// The key that `verify` accepts. The refusal is that of the first key.
    fn signer(
        &self,
        keys: &Keyring,
        purpose: Purpose,
        verify: impl Fn(&Key) -> Result<(), Refusal>,
    ) -> Result<Key, Refusal> {
        let mut accepted = keys.accepted(purpose);
        let first = accepted.next().expect("a gate has the whole secret, and with it all keys");
        let Err(refusal) = verify(&first) else { return Ok(first) };
        let second = accepted.find(|key| verify(key).is_ok()).ok_or(refusal)?;
        self.by_second_key.fetch_add(1, Ordering::Relaxed);
        Ok(second)
    }

    /// Checks that the body of an accepted request is the one that was sealed.
    ///
    /// # Errors
    /// `Altered`. It is counted and logged as in [`judge`](Self::judge).
    pub fn check_body(
        &self,
        opened: &Opened,
        method: &str,
        target: &str,
        body: &[u8],
        peer: SocketAddr,
    ) -> Result<(), Refusal> {
        if !self.is_signed() || hex(&Sha256::digest(body)) == opened.digest {
            return Ok(());
        }
        let refusal = Refusal::new(
            RefusalKind::Altered,
            "the body is not the one that was signed; was it altered on the way?",
        );
        self.note(&refusal, method, target, peer);
        Err(refusal)
    }

    /// The headers for the answer to a request that was accepted: version and founding, and with a secret the
    /// signature.
    pub fn seal_answer(&self, request: &Opened, status: u16, body: &[u8]) -> Vec<(&'static str, String)> {
        let mut headers = self.own_headers();
        if let Some(UsedKey(key)) = &request.key {
            let value = |wanted| headers.iter().find(|(name, _)| *name == wanted).map(|(_, v)| v.as_str());
            let signature = signature(answer_mac(key, &request.signature, status, body, value));
            headers.push((HEADER_ANSWER_SIGNATURE, signature));
        }
        headers
    }

    /// The headers of every answer to a request that this gate has judged, also if it was refused: what
    /// [`ANSWER_HEADERS`](super::ANSWER_HEADERS) lists.
    pub fn own_headers(&self) -> Vec<(&'static str, String)> {
        let founding = self.founding.clone().map(|founding| (HEADER_FOUNDING, founding));
        std::iter::once((HEADER_VERSION, version())).chain(founding).collect()
    }

    /// How many requests were refused since the start, per kind.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalKind, u64)> {
        KINDS.iter().map(|(kind, _)| (*kind, self.refused[*kind as usize].count.load(Ordering::Relaxed)))
    }

    /// Counts a refusal and logs it, at most once per kind in `REFUSAL_LINE_PAUSE`.
    fn note(&self, refusal: &Refusal, method: &str, path: &str, peer: SocketAddr) {
        let of_kind = &self.refused[refusal.kind as usize];
        of_kind.count.fetch_add(1, Ordering::Relaxed);
        let Some(left_out) = of_kind.lines.allow(Instant::now()) else { return };
        let more =
            if left_out == 0 { String::new() } else { format!(" ({left_out} more since the last line)") };
        warn!("refused {method} {path} from {peer}: {refusal}{more}");
    }
}

/// A name or version from a header: absent, or fit to be compared, signed and logged.
pub(super) fn name_header<'a>(name: &str, value: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
    let fit = |value: &str| {
        (1..=NAME_BYTES_MAX).contains(&value.len())
            && value.bytes().all(|byte| is_name_byte(byte) || byte == b'%')
    };
    match value {
        Some(value) if !fit(value) => {
            let why = format!("{name} must be 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 - _ . : %");
            Err(Refusal::new(RefusalKind::Malformed, why))
        }
        value => Ok(value),
    }
}

fn missing(header: &str) -> Refusal {
    malformed(header, "is missing")
}

fn malformed(header: &str, what: &str) -> Refusal {
    Refusal::new(RefusalKind::Malformed, format!("the header {header} {what}"))
}

/// Digits only: `u64::from_str` would take a sign.
fn decimal(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
