//! The sender's side: signs requests and checks their answers. Each sending thread owns a [`Seal`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::founded::{check_founding, founding_form};
use super::keys::{Keys, Secret};
use super::{
    AnswerFields, Refusal, RefusalKind, RequestFields, check_version, header_form, hex, signature, unix_ms,
    verify, version,
};
use crate::linux::random_u64;
use crate::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_CLUSTER, HEADER_FOUNDING, HEADER_NONCE, HEADER_PURPOSE, HEADER_RECIPIENT,
    HEADER_SENDER, HEADER_SIGNATURE, HEADER_TIME, HEADER_VERSION, Purpose,
};
use crate::raft::Founding;

/// Signs requests and checks their answers. Give every sending thread a clone of its own: see "Replays" in
/// `mod.rs`.
///
/// Without a secret the requests carry version, cluster, sender, recipient and purpose, unsigned. This finds
/// a wrong address in a configuration, but protects from nobody.
#[derive(Debug)]
pub struct Seal {
    cluster: Arc<str>,
    me: Arc<str>,
    /// The founding, as it stands in the header; `None` if the sender does not know it.
    founding: Option<Arc<str>>,
    pub(super) keys: Option<Arc<Keys>>,
    stream: u64,
    counter: AtomicU64,
    /// The stream of the next clone; shared by all clones.
    next_stream: Arc<AtomicU64>,
}

/// A sealed request: its headers, and what is needed to check its answer.
#[derive(Debug)]
pub struct SealedRequest {
    /// All of them must be sent with the request.
    pub headers: Vec<(&'static str, String)>,
    nonce: String,
    recipient: String,
    purpose: Purpose,
}

impl Seal {
    /// A seal of `me` (`node-1`, `daemon:lab-01`, `operator`) in this cluster.
    ///
    /// # Errors
    /// If the system gives no random number.
    pub fn new(cluster: &str, me: &str, secret: Option<&Secret>) -> io::Result<Self> {
        let cluster = header_form(cluster);
        let stream = random_u64().map_err(io::Error::other)?;
        Ok(Self {
            keys: secret.map(|secret| Arc::new(Keys::new(&cluster, secret))),
            cluster: cluster.into(),
            me: header_form(me).into(),
            founding: None,
            stream,
            counter: AtomicU64::new(0),
            next_stream: Arc::new(AtomicU64::new(stream.wrapping_add(1))),
        })
    }

    /// The same sender, which says this founding and refuses an answer from another one.
    #[must_use]
    pub fn founded(self, founding: &Founding) -> Self {
        Self { founding: Some(founding_form(founding).into()), ..self }
    }

    /// Seals a request to `recipient` (`node-2`). `path` is the target of the request line, with the query.
    pub fn request(
        &self,
        recipient: &str,
        purpose: Purpose,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> SealedRequest {
        self.request_at(recipient, purpose, method, path, body, unix_ms())
    }

    /// [`request`](Self::request) at a time that the caller gives, for tests.
    pub fn request_at(
        &self,
        recipient: &str,
        purpose: Purpose,
        method: &str,
        path: &str,
        body: &[u8],
        now_ms: u64,
    ) -> SealedRequest {
        let recipient = header_form(recipient);
        let mut headers = Vec::with_capacity(9);
        headers.push((HEADER_VERSION, version()));
        headers.push((HEADER_CLUSTER, self.cluster.to_string()));
        headers.push((HEADER_SENDER, self.me.to_string()));
        headers.push((HEADER_RECIPIENT, recipient.clone()));
        headers.push((HEADER_PURPOSE, purpose.name().to_owned()));
        headers.extend(self.founding.as_ref().map(|founding| (HEADER_FOUNDING, founding.to_string())));
        let mut nonce = String::new();
        // A machine that has only the report key cannot sign for another purpose. It sends the request
        // unsigned, and the node refuses it with a line that says so. The programs refuse such a file when
        // they start.
        if let Some(key) = self.keys.as_ref().and_then(|keys| keys.of(purpose)) {
            let counter = self.counter.fetch_add(1, Ordering::Relaxed);
            nonce = hex(&(u128::from(self.stream) << 64 | u128::from(counter)).to_be_bytes());
            let time = now_ms.to_string();
            let fields = RequestFields {
                cluster: &self.cluster,
                sender: &self.me,
                recipient: &recipient,
                purpose,
                founding: self.founding.as_deref().unwrap_or_default(),
                method,
                path,
                body,
                time: &time,
                nonce: &nonce,
            };
            let signature = signature(fields.mac(key));
            headers.push((HEADER_TIME, time));
            headers.push((HEADER_NONCE, nonce.clone()));
            headers.push((HEADER_SIGNATURE, signature));
        }
        SealedRequest { headers, nonce, recipient, purpose }
    }

    /// Checks that the recipient gave this answer to this request. `header` looks up a header of the answer.
    /// The signature covers status and body, not the other headers. Without a secret, only version and founding
    /// are checked. (The answer to a report may have no version, so that a simple program can stand in for a
    /// node.)
    ///
    /// # Errors
    /// `WrongVersion`, `WrongFounding`, `Unsigned`, `Malformed`, `Altered` or `WrongPurpose`. Then nothing in the answer can
    /// be trusted.
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
        let Some(keys) = &self.keys else { return Ok(()) };
        let key = keys.of(purpose).ok_or_else(|| {
            let why = format!("this machine's secret file holds no key for purpose {}", purpose.name());
            Refusal::new(RefusalKind::WrongPurpose, why)
        })?;
        let signature = header(HEADER_ANSWER_SIGNATURE).ok_or_else(|| {
            let why = "the answer is not signed; did that node refuse the request, or has it no secret_file?";
            Refusal::new(RefusalKind::Unsigned, why)
        })?;
        let answer = AnswerFields {
            cluster: &self.cluster,
            answerer: &request.recipient,
            asker: &self.me,
            purpose,
            nonce: &request.nonce,
            status,
            body,
        };
        verify(answer.mac(key), signature)
    }
}

impl Clone for Seal {
    /// The same sender, with a stream of its own.
    fn clone(&self) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            me: Arc::clone(&self.me),
            founding: self.founding.clone(),
            keys: self.keys.clone(),
            stream: self.next_stream.fetch_add(1, Ordering::Relaxed),
            counter: AtomicU64::new(0),
            next_stream: Arc::clone(&self.next_stream),
        }
    }
}
