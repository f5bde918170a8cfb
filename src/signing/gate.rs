//! The receiver's side: checks sealed requests and signs their answers. Called by the node's cluster
//! listener.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::warn;

use super::founded::{check_founding, founding_form};
use super::keys::{Keys, Secret};
use super::replays::{Rejected, Replays};
use super::{
    AnswerFields, CLOCK_APART_MS_MAX, Refusal, RefusalKind, RequestFields, STREAMS_MAX, check_version,
    header_form, is_name_byte, signature, unhex, unix_ms, verify, version,
};
use crate::logging::RateLimit;
use crate::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_CLUSTER, HEADER_FOUNDING, HEADER_NONCE, HEADER_PURPOSE, HEADER_RECIPIENT,
    HEADER_SENDER, HEADER_SIGNATURE, HEADER_TIME, HEADER_VERSION, Purpose,
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
    /// The founding, as it stands in the header.
    founding: Option<String>,
    keys: Option<Keys>,
    replays: Mutex<Replays>,
    /// One per kind, in the order of [`RefusalKind::ALL`].
    refused: [RefusalCount; RefusalKind::ALL.len()],
}

/// How often one kind of refusal happened, and when a line may be written about it.
struct RefusalCount {
    count: AtomicU64,
    lines: RateLimit,
}

/// A request that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it, such as `node-2` or `daemon:lab-01`. Empty if a report names no sender, which only a gate
    /// without a secret accepts. The signature proves the key, not the name: a holder of the key can use
    /// every name.
    pub sender: String,
    /// What it is for: one of the purposes that the route accepts.
    pub purpose: Purpose,
    /// The nonce of the request; empty without a secret.
    pub nonce: String,
}

impl Gate {
    /// The gate of the node `me` (`node-1`) in this cluster. It refuses what was sealed before this moment.
    ///
    /// # Errors
    /// One line, if the secret is a report key alone.
    pub fn new(cluster: &str, me: &str, secret: Option<&Secret>) -> Result<Self, String> {
        Self::new_at(cluster, me, secret, unix_ms())
    }

    /// [`new`](Self::new) at a time that the caller gives, for tests.
    ///
    /// # Errors
    /// As there.
    pub fn new_at(cluster: &str, me: &str, secret: Option<&Secret>, now_ms: u64) -> Result<Self, String> {
        if secret.is_some_and(|secret| !secret.serves(Purpose::Raft)) {
            return Err("the secret file holds the report key alone, which is for daemons: \
                        a node needs the cluster's secret"
                .to_owned());
        }
        let cluster = header_form(cluster);
        Ok(Self {
            keys: secret.map(|secret| Keys::new(&cluster, secret)),
            cluster,
            me: header_form(me),
            founding: None,
            replays: Mutex::new(Replays::new(now_ms)),
            refused: RefusalKind::ALL.map(|_| RefusalCount {
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

    /// Whether requests must be signed.
    pub fn is_signed(&self) -> bool {
        self.keys.is_some()
    }

    /// Decides whether a request is accepted on a route for these purposes. `path` is the target of the
    /// request line as it came, with the query; `header` looks up a header of the request; `peer` is for the
    /// log line.
    ///
    /// # Errors
    /// Every [`RefusalKind`]. The gate has counted the refusal and, at a bounded rate, logged it.
    pub fn open_request<'a>(
        &self,
        method: &str,
        path: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
        purposes: &[Purpose],
        peer: SocketAddr,
    ) -> Result<Opened, Refusal> {
        self.open_request_at(method, path, header, body, purposes, peer, unix_ms())
    }

    /// [`open_request`](Self::open_request) at a time that the caller gives, for tests.
    ///
    /// # Errors
    /// As there.
    #[expect(clippy::too_many_arguments, reason = "they are what a request is made of")]
    pub(super) fn open_request_at<'a>(
        &self,
        method: &str,
        path: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
        purposes: &[Purpose],
        peer: SocketAddr,
        now_ms: u64,
    ) -> Result<Opened, Refusal> {
        self.judge(method, path, header, body, purposes, now_ms).inspect_err(|refusal| {
            self.note(refusal, method, path, peer);
        })
    }

    fn judge<'a>(
        &self,
        method: &str,
        path: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
        purposes: &[Purpose],
        now_ms: u64,
    ) -> Result<Opened, Refusal> {
        // The version comes first, since another version may sign in another way.
        let version = header(HEADER_VERSION);
        check_version("the sender", version, true)?;
        let signature = header(HEADER_SIGNATURE);
        if self.keys.is_some() && signature.is_none() {
            let why =
                "requests to this node must be signed, and this one is not; give its sender the secret_file";
            return Err(Refusal::new(RefusalKind::Unsigned, why));
        }
        // Names come before the signature, since they give the better message: "it is meant for node-2, check
        // the addresses" helps more than "the signature does not match".
        let cluster = name_header(HEADER_CLUSTER, header(HEADER_CLUSTER))?;
        let sender = name_header(HEADER_SENDER, header(HEADER_SENDER))?;
        let recipient = name_header(HEADER_RECIPIENT, header(HEADER_RECIPIENT))?;
        let purpose = header(HEADER_PURPOSE);
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
        let purpose = match purpose {
            Some(name) => Purpose::of_name(name).ok_or_else(|| {
                Refusal::new(
                    RefusalKind::Malformed,
                    format!("{HEADER_PURPOSE} must be raft, report or admin"),
                )
            })?,
            // Without a secret, a report needs none of the headers, so that `curl` can send one.
            None if self.keys.is_none() && purposes.contains(&Purpose::Report) => Purpose::Report,
            None => return Err(missing(HEADER_PURPOSE)),
        };
        if !purposes.contains(&purpose) {
            let why = format!("it is for purpose {}, which has no business here", purpose.name());
            return Err(Refusal::new(RefusalKind::WrongPurpose, why));
        }
        if self.keys.is_none() && purpose == Purpose::Report {
            return Ok(Opened {
                sender: sender.unwrap_or_default().to_owned(),
                purpose,
                nonce: String::new(),
            });
        }
        // From here on every header is required, without a secret, too: a web page can make a browser send a
        // POST to a loopback address, but not with such headers.
        version.ok_or_else(|| missing(HEADER_VERSION))?;
        let cluster = cluster.ok_or_else(|| missing(HEADER_CLUSTER))?;
        let sender = sender.ok_or_else(|| missing(HEADER_SENDER))?;
        let recipient = recipient.ok_or_else(|| missing(HEADER_RECIPIENT))?;
        if purpose == Purpose::Raft && self.founding.is_some() {
            founding.ok_or_else(|| missing(HEADER_FOUNDING))?;
        }
        let (Some(key), Some(signature)) = (self.keys.as_ref().and_then(|keys| keys.of(purpose)), signature)
        else {
            return Ok(Opened { sender: sender.to_owned(), purpose, nonce: String::new() });
        };
        let time = header(HEADER_TIME).ok_or_else(|| missing(HEADER_TIME))?;
        let nonce = header(HEADER_NONCE).ok_or_else(|| missing(HEADER_NONCE))?;
        let said_ms = decimal(time).ok_or_else(|| {
            Refusal::new(RefusalKind::Malformed, format!("{HEADER_TIME} must be Unix time in milliseconds"))
        })?;
        let number = unhex(nonce).map(u128::from_be_bytes).ok_or_else(|| {
            Refusal::new(RefusalKind::Malformed, format!("{HEADER_NONCE} must be 32 hexadecimal digits"))
        })?;
        let fields = RequestFields {
            cluster,
            sender,
            recipient,
            purpose,
            founding: founding.unwrap_or_default(),
            method,
            path,
            body,
            time,
            nonce,
        };
        verify(fields.mac(key), signature)?;
        // The signature is genuine. Now check that the request is recent, and that it was not accepted
        // before.
        let apart_ms = now_ms.abs_diff(said_ms);
        if apart_ms > CLOCK_APART_MS_MAX {
            let side = if said_ms < now_ms { "behind" } else { "ahead of" };
            let why = format!(
                "its clock is {apart_ms} ms {side} this node's ({CLOCK_APART_MS_MAX} ms are allowed), or it was held \
                 up; synchronise the clocks, for example with chrony"
            );
            return Err(Refusal::new(RefusalKind::ClockApart, why));
        }
        let (stream, counter) = ((number >> 64) as u64, number as u64);
        let verdict = {
            let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
            replays.admit((purpose, stream), counter, said_ms, now_ms)
        };
        match verdict {
            Ok(()) => Ok(Opened { sender: sender.to_owned(), purpose, nonce: nonce.to_owned() }),
            Err(Rejected::Replayed) => {
                let why = "this very request was accepted before; somebody repeats what was said by another";
                Err(Refusal::new(RefusalKind::Replayed, why))
            }
            Err(Rejected::BeforeHorizon(by_ms)) => {
                let why = format!(
                    "it was sealed {by_ms} ms before this node started to listen; if this lasts, its clock is behind: \
                     synchronise the clocks, for example with chrony"
                );
                Err(Refusal::new(RefusalKind::TooOld, why))
            }
            Err(Rejected::Full) => {
                let why = format!(
                    "{STREAMS_MAX} senders were heard within a minute, and none can be forgotten yet"
                );
                Err(Refusal::new(RefusalKind::NonceCacheFull, why))
            }
        }
    }

    /// The headers for the answer to a request that was accepted: version and founding, and with a secret the
    /// signature.
    pub fn seal_answer(&self, request: &Opened, status: u16, body: &[u8]) -> Vec<(&'static str, String)> {
        let Some(key) = self.keys.as_ref().and_then(|keys| keys.of(request.purpose)) else {
            return self.own_headers();
        };
        let answer = AnswerFields {
            cluster: &self.cluster,
            answerer: &self.me,
            asker: &request.sender,
            purpose: request.purpose,
            nonce: &request.nonce,
            status,
            body,
        };
        let mut headers = self.own_headers();
        headers.push((HEADER_ANSWER_SIGNATURE, signature(answer.mac(key))));
        headers
    }

    /// Every answer has these headers, also the one to a refused request: the version of this build, and the founding.
    pub fn own_headers(&self) -> Vec<(&'static str, String)> {
        let founding = self.founding.clone().map(|founding| (HEADER_FOUNDING, founding));
        std::iter::once(version_header()).chain(founding).collect()
    }

    /// How many requests were refused since the start, per kind.
    pub fn refusals(&self) -> [(RefusalKind, u64); RefusalKind::ALL.len()] {
        RefusalKind::ALL.map(|kind| (kind, self.refused[kind as usize].count.load(Ordering::Relaxed)))
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

/// The header with the version of this build.
fn version_header() -> (&'static str, String) {
    (HEADER_VERSION, version())
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
    Refusal::new(RefusalKind::Malformed, format!("the header {header} is missing"))
}

/// Digits only: `u64::from_str` would take a sign.
fn decimal(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
