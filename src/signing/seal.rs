//! The sender's side: signs requests and checks their answers. Each sending thread owns a [`Seal`]; `call.rs` sends
//! with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::founded::{check_founding, founding_form};
use super::keys::{Key, Keyring, Secret};
use super::{
    REFUSED_STATUS, Refusal, RefusalKind, answer_mac, check_version, header_form, hex, request_mac,
    signature, verify, version,
};
use crate::linux::random_u64;
use crate::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_CLUSTER, HEADER_DIGEST, HEADER_FOUNDING, HEADER_NUMBER, HEADER_PURPOSE,
    HEADER_RECIPIENT, HEADER_SENDER, HEADER_SIGNATURE, HEADER_STREAM, HEADER_VERSION, Purpose, path,
};
use crate::raft::Founding;

/// Signs requests and checks their answers. Give every sending thread a clone of its own: the requests of a stream must
/// arrive in the order of their numbers.
///
/// Without a secret the requests carry version, cluster, founding (if the sender knows it), sender, recipient and
/// purpose, unsigned. This finds a wrong address in a configuration, but protects from nobody.
#[derive(Debug)]
pub struct Seal {
    cluster: Arc<str>,
    me: Arc<str>,
    /// The founding, as it stands in the header; `None` if the sender does not know it.
    founding: Option<Arc<str>>,
    /// Shared with all clones.
    pub(super) keys: Option<Arc<Keyring>>,
    nonces: Arc<Nonces>,
    /// The streams that are open, one per recipient and purpose.
    pub(super) streams: Vec<SendingStream>,
}

/// Nonces of this process, each used once: a random number of 128 bits, plus a counter that all clones of a seal share.
#[derive(Debug)]
struct Nonces {
    base: u128,
    used: AtomicU64,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct SendingStream {
    pub(super) recipient: String,
    pub(super) purpose: Purpose,
    /// Our nonce and the node's ticket, as they stand in the header.
    pub(super) name: String,
    /// The number of the last request.
    pub(super) number: u64,
}

/// A sealed request: its headers, and what is needed to check its answer.
pub struct SealedRequest {
    /// All of them must be sent with the request.
    pub headers: Vec<(&'static str, String)>,
    /// Empty if the request is not signed.
    signature: String,
    recipient: String,
    purpose: Purpose,
    /// The key that signed it. The answer is signed with the same, also if this side has another one by then.
    key: Option<Key>,
}

impl std::fmt::Debug for SealedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedRequest").field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl Seal {
    /// A seal of `me` (`node-1`, `daemon:lab-01`, `operator`) in this cluster.
    ///
    /// # Errors
    /// If the system gives no random number.
    pub fn new(cluster: &str, me: &str, secret: Option<&Secret>) -> io::Result<Self> {
        let cluster = header_form(cluster);
        let random = || random_u64().map_err(io::Error::other);
        let base = u128::from(random()?) << 64 | u128::from(random()?);
        Ok(Self {
            keys: secret.map(|secret| Arc::new(Keyring::new(&cluster, secret))),
            cluster: cluster.into(),
            me: header_form(me).into(),
            founding: None,
            nonces: Arc::new(Nonces { base, used: AtomicU64::new(0) }),
            streams: Vec::new(),
        })
    }

    /// The same sender, which says this founding and refuses an answer from another one.
    #[must_use]
    pub fn founded(self, founding: &Founding) -> Self {
        Self { founding: Some(founding_form(founding).into()), ..self }
    }

    /// From now on this seal and all its clones sign with the first key of `secret`. Does nothing if the seal was made
    /// without a secret. A stream that is open stays open.
    pub fn replace_secret(&self, secret: &Secret) {
        if let Some(keys) = &self.keys {
            keys.replace(secret);
        }
    }

    /// The key for this purpose. A machine that has only the report key cannot sign for another purpose. It sends the
    /// request unsigned, and the node refuses it with a line that says so. (The programs refuse such a file when they
    /// start.)
    pub(super) fn key(&self, purpose: Purpose) -> Option<Key> {
        self.keys.as_ref()?.signing(purpose)
    }

    /// The name of a new stream, without a ticket: 32 hexadecimal digits that were never used before.
    pub fn nonce(&self) -> String {
        let used = self.nonces.used.fetch_add(1, Ordering::Relaxed);
        hex(&self.nonces.base.wrapping_add(u128::from(used)).to_be_bytes())
    }

    /// The request that opens the stream with this nonce; the answer's body is the ticket.
    pub fn opening(&self, recipient: &str, purpose: Purpose, nonce: &str) -> SealedRequest {
        self.request(recipient, purpose, "POST", path::STREAM, b"", nonce, 0)
    }

    /// Seals a request to `recipient` (`node-2`). `target` is that of the request line, with the query. `stream` is
    /// nonce and ticket; `number` must be above all earlier ones of this stream. Without a secret, neither is used.
    #[expect(clippy::too_many_arguments, reason = "they are what a request is made of")]
    pub fn request(
        &self,
        recipient: &str,
        purpose: Purpose,
        method: &str,
        target: &str,
        body: &[u8],
        stream: &str,
        number: u64,
    ) -> SealedRequest {
        let recipient = header_form(recipient);
        let mut headers = Vec::with_capacity(10);
        headers.push((HEADER_VERSION, version()));
        headers.push((HEADER_CLUSTER, self.cluster.to_string()));
        headers.push((HEADER_SENDER, self.me.to_string()));
        headers.push((HEADER_RECIPIENT, recipient.clone()));
        headers.push((HEADER_PURPOSE, purpose.name().to_owned()));
        headers.extend(self.founding.as_ref().map(|founding| (HEADER_FOUNDING, founding.to_string())));
        let mut signed = String::new();
        let key = self.key(purpose);
        if let Some(key) = &key {
            headers.push((HEADER_STREAM, stream.to_owned()));
            headers.push((HEADER_NUMBER, number.to_string()));
            headers.push((HEADER_DIGEST, hex(&Sha256::digest(body))));
            let value = |wanted| headers.iter().find(|(name, _)| *name == wanted).map(|(_, v)| v.as_str());
            signed = signature(request_mac(key, method, target, value));
            headers.push((HEADER_SIGNATURE, signed.clone()));
        }
        SealedRequest { headers, signature: signed, recipient, purpose, key }
    }

    /// Checks that the recipient gave this answer to this request. `header` looks up a header of the answer.
    /// The signature covers status, body and the headers that are listed in [`ANSWER_HEADERS`](super::ANSWER_HEADERS).
    /// Without a secret, only version and founding are checked. (The answer to a report may have no version, so that a
    /// simple program can stand in for a node.)
    ///
    /// # Errors
    /// `WrongVersion`, `WrongFounding`, `Unsigned`, `Malformed`, `Altered` or `WrongPurpose`: then nothing in the
    /// answer can be trusted. `UnknownStream`: the node has said, sealed, that it did not carry the request out.
    pub fn open_answer<'a>(
        &self,
        request: &SealedRequest,
        status: u16,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let purpose = request.purpose;
        // The node's HTTP edge, which adds no version, may have refused the request.
        let optional = purpose == Purpose::Report || !(200..300).contains(&status) || self.keys.is_some();
        check_version(&request.recipient, header(HEADER_VERSION), optional)?;
        check_founding(self.founding.as_deref(), header(HEADER_FOUNDING), &self.me, &request.recipient)?;
        if self.keys.is_none() {
            return Ok(());
        }
        let key = request.key.as_ref().ok_or_else(|| {
            let why = format!("this machine's secret file holds no key for purpose {}", purpose.name());
            Refusal::new(RefusalKind::WrongPurpose, why)
        })?;
        let signature = header(HEADER_ANSWER_SIGNATURE).ok_or_else(|| {
            let why = "the answer is not signed; did that node refuse the request, or has it no secret_file?";
            Refusal::new(RefusalKind::Unsigned, why)
        })?;
        verify(answer_mac(key, &request.signature, status, body, header), signature)?;
        // A node seals no other refusal than this one.
        if status == REFUSED_STATUS {
            let why = format!("{} does not know the stream of this request", request.recipient);
            return Err(Refusal::new(RefusalKind::UnknownStream, why));
        }
        Ok(())
    }
}

impl Clone for Seal {
    /// The same sender, with no stream open.
    fn clone(&self) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            me: Arc::clone(&self.me),
            founding: self.founding.clone(),
            keys: self.keys.clone(),
            nonces: Arc::clone(&self.nonces),
            streams: Vec::new(),
        }
    }
}
