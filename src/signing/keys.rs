//! The secret, and the keys that are derived from it. Used by [`Seal`](super::Seal) and
//! [`Gate`](super::Gate).
//!
//! Each purpose has its own key: who holds the key of one purpose cannot make a request of another.

use std::fmt;

use hmac::{KeyInit, Mac};

use super::{HmacSha256, frame, header_form, hex, unhex};
use crate::protocol::Purpose;

/// The shortest secret, in bytes. The command in docs/security.md makes one of 44 bytes.
const SECRET_BYTES_MIN: usize = 16;

/// The first field of the frame from which a key is derived. The frame has no version: the keys stay the same
/// in every version, and a report key in a file stays valid.
const KEY_FRAME: &[u8] = b"rakit key";
const REPORT_KEY_PREFIX: &str = "report-key:";

/// What the secret file holds: the cluster's secret, or the report key alone. Never printed.
#[derive(Clone)]
pub struct Secret(SecretKind);

#[derive(Clone)]
enum SecretKind {
    Whole(Vec<u8>),
    ReportKey([u8; 32]),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            SecretKind::Whole(_) => "Secret(whole)",
            SecretKind::ReportKey(_) => "Secret(report key)",
        })
    }
}

impl Secret {
    /// The secret itself, for a node and for `rakit transfer`: the report key is not enough for them.
    ///
    /// # Errors
    /// One line, if the file holds the report key alone.
    pub fn whole(self) -> Result<Self, String> {
        match self.0 {
            SecretKind::Whole(_) => Ok(self),
            SecretKind::ReportKey(_) => {
                Err("the file holds the report key alone, which is for daemons; name the file \
                                             with the cluster's secret"
                    .to_owned())
            }
        }
    }

    /// Reads the content of a secret file. White space around it does not count.
    ///
    /// # Errors
    /// One line: too short, or `report-key:` without 64 hexadecimal digits.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let content = content.trim_ascii();
        if let Some(key) = content.strip_prefix(REPORT_KEY_PREFIX.as_bytes()) {
            let key = str::from_utf8(key).ok().and_then(|hex| unhex(hex.trim()));
            let key =
                key.ok_or_else(|| format!("after {REPORT_KEY_PREFIX} there must be 64 hexadecimal digits"))?;
            return Ok(Self(SecretKind::ReportKey(key)));
        }
        if content.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes and needs {SECRET_BYTES_MIN} at least: make one with \
                 `head -c 32 /dev/urandom | base64`",
                content.len()
            ));
        }
        Ok(Self(SecretKind::Whole(content.to_vec())))
    }

    /// The line for the secret file of a machine that may only report.
    /// `None` if this is a report key already: no key can be derived from it.
    pub fn report_key_line(&self, cluster: &str) -> Option<String> {
        match &self.0 {
            SecretKind::Whole(secret) => {
                let key = derive(secret, &header_form(cluster), Purpose::Report);
                Some(format!("{REPORT_KEY_PREFIX}{}", hex(&key)))
            }
            SecretKind::ReportKey(_) => None,
        }
    }

    /// Whether it can sign and check requests of this purpose.
    pub fn serves(&self, purpose: Purpose) -> bool {
        purpose == Purpose::Report || matches!(self.0, SecretKind::Whole(_))
    }
}

/// The keys of the three purposes, each ready to start an HMAC; `None` where the secret file holds no such
/// key.
pub(super) struct Keys([Option<HmacSha256>; 3]);

impl Keys {
    pub(super) fn new(cluster: &str, secret: &Secret) -> Self {
        Self(Purpose::ALL.map(|purpose| match &secret.0 {
            SecretKind::Whole(secret) => Some(keyed(&derive(secret, cluster, purpose))),
            SecretKind::ReportKey(key) => (purpose == Purpose::Report).then(|| keyed(key)),
        }))
    }

    pub(super) fn of(&self, purpose: Purpose) -> Option<&HmacSha256> {
        self.0[purpose as usize].as_ref()
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

pub(super) fn derive(secret: &[u8], cluster: &str, purpose: Purpose) -> [u8; 32] {
    let mut mac = keyed(secret);
    mac.update(&frame(&[KEY_FRAME, cluster.as_bytes(), purpose.name().as_bytes()]));
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}
