//! The secret, and the keys that are derived from it. Used by [`Seal`](super::Seal) and
//! [`Gate`](super::Gate).
//!
//! Each purpose has its own key: who holds the key of one purpose cannot make a request of another.
//!
//! A secret file may hold two keys, so that a cluster changes its secret without a stop: the first signs, and both are
//! accepted. A [`Keyring`] takes the content of the file again while it is in use. docs/operations.md has the steps.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use hmac::{KeyInit, Mac};

use super::{HmacSha256, frame, header_form, hex, unhex};
use crate::protocol::Purpose;

/// The shortest secret, in bytes. The command in docs/security.md makes one of 44 bytes.
const SECRET_BYTES_MIN: usize = 16;

/// The most keys of a file: the one that signs, and the one that goes or comes.
pub const KEYS_MAX: usize = 2;

/// The first field of the frame from which a key is derived. The frame has no version: the keys stay the same
/// in every version, and a report key in a file stays valid.
const KEY_FRAME: &[u8] = b"rakit key";
const REPORT_KEY_PREFIX: &str = "report-key:";
/// In place of a purpose, for the few digits by which a person tells keys apart in a log.
const NICKNAME: &[u8] = b"nickname";

/// What the secret file holds: the cluster's secret, or the report key alone; or two of one kind. Never printed.
#[derive(Clone)]
pub struct Secret {
    /// The first signs.
    keys: Vec<SecretKind>,
}

#[derive(Clone)]
enum SecretKind {
    Whole(Vec<u8>),
    ReportKey([u8; 32]),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.keys[0] {
            SecretKind::Whole(_) => "whole",
            SecretKind::ReportKey(_) => "report key",
        };
        write!(f, "Secret({kind}, {})", self.keys.len())
    }
}

impl Secret {
    /// The secret itself, for a node and for the commands that give orders (`rakit transfer`, `servers`, `members`):
    /// the report key is not enough for them.
    ///
    /// # Errors
    /// One line, if the file holds the report key alone.
    pub fn whole(self) -> Result<Self, String> {
        if self.serves(Purpose::Raft) {
            Ok(self)
        } else {
            Err("the file holds the report key alone, which is for daemons; name the file with the cluster's secret"
                .to_owned())
        }
    }

    /// Reads the content of a secret file: one key in a line, or two. Empty lines, and white space around a key, do not
    /// count.
    ///
    /// # Errors
    /// One line: too short, too many, of two kinds, twice the same, or `report-key:` without 64 hexadecimal digits.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let lines =
            content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let lines: Vec<&[u8]> = lines.collect();
        if lines.len() > KEYS_MAX {
            return Err(format!(
                "there are {} keys, and {KEYS_MAX} at most may stand there: in the first line the one that signs, in the \
                 second the one that is accepted, too",
                lines.len()
            ));
        }
        // Without a line: one key, which is too short.
        let keys: Vec<SecretKind> = match &lines[..] {
            [] => vec![SecretKind::parse(b"")?],
            lines => lines.iter().map(|line| SecretKind::parse(line)).collect::<Result<_, _>>()?,
        };
        if let [one, other] = &keys[..]
            && std::mem::discriminant(one) != std::mem::discriminant(other)
        {
            return Err(format!(
                "one line is a report key and the other is not; on a machine that only reports, both begin with \
                 {REPORT_KEY_PREFIX}"
            ));
        }
        if lines.len() == KEYS_MAX && lines[0] == lines[1] {
            return Err("both lines hold the same key; remove one".to_owned());
        }
        Ok(Self { keys })
    }

    /// The lines for the secret file of a machine that may only report, one for each key.
    /// `None` if these are report keys already: no key can be derived from them.
    pub fn report_key_lines(&self, cluster: &str) -> Option<Vec<String>> {
        let line = |key: &SecretKind| match key {
            SecretKind::Whole(secret) => {
                let key = derive(secret, &header_form(cluster), Purpose::Report);
                Some(format!("{REPORT_KEY_PREFIX}{}", hex(&key)))
            }
            SecretKind::ReportKey(_) => None,
        };
        self.keys.iter().map(line).collect()
    }

    /// The first of [`report_key_lines`](Self::report_key_lines).
    pub fn report_key_line(&self, cluster: &str) -> Option<String> {
        self.report_key_lines(cluster)?.into_iter().next()
    }

    /// Whether it can sign and check requests of this purpose.
    pub fn serves(&self, purpose: Purpose) -> bool {
        purpose == Purpose::Report || matches!(self.keys[0], SecretKind::Whole(_))
    }

    /// Each key alone, in the order of the file: as a file that holds nothing else.
    pub fn each(&self) -> Vec<Self> {
        self.keys.iter().map(|key| Self { keys: vec![key.clone()] }).collect()
    }

    /// The keys in a few digits each, in the order of the file: who looks at two machines sees whether they have the
    /// same. They say no more of a key than one signed request does.
    pub fn names(&self, cluster: &str) -> Vec<String> {
        let nickname = |key: &SecretKind| {
            let report_key = match key {
                SecretKind::Whole(secret) => derive(secret, &header_form(cluster), Purpose::Report),
                SecretKind::ReportKey(key) => *key,
            };
            let mut mac = keyed(&report_key);
            mac.update(&frame(&[KEY_FRAME, NICKNAME]));
            hex(&mac.finalize().into_bytes()[..4])
        };
        self.keys.iter().map(nickname).collect()
    }

    /// The same as a sentence for the log.
    pub fn nicknames(&self, cluster: &str) -> String {
        let mut names = self.names(cluster).into_iter();
        let first = names.next().expect("there is a key");
        names.next().map_or_else(
            || format!("key {first} signs, and no other is accepted"),
            |second| format!("key {first} signs, and key {second} is accepted, too"),
        )
    }
}

impl SecretKind {
    fn parse(line: &[u8]) -> Result<Self, String> {
        if let Some(key) = line.strip_prefix(REPORT_KEY_PREFIX.as_bytes()) {
            let key = str::from_utf8(key).ok().and_then(|hex| unhex(hex.trim()));
            let key =
                key.ok_or_else(|| format!("after {REPORT_KEY_PREFIX} there must be 64 hexadecimal digits"))?;
            return Ok(Self::ReportKey(key));
        }
        if line.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes and needs {SECRET_BYTES_MIN} at least: make one with \
                 `head -c 32 /dev/urandom | base64`",
                line.len()
            ));
        }
        Ok(Self::Whole(line.to_vec()))
    }
}

/// The key of one purpose, ready to start an HMAC.
pub(super) type Key = Arc<HmacSha256>;

/// The keys of the three purposes; `None` where the secret file holds no such key.
type Keys = [Option<Key>; 3];

/// The keys in use: shared by all who sign with them, and replaced for all at once.
pub(super) struct Keyring {
    cluster: String,
    /// The first signs.
    keys: RwLock<Arc<[Keys]>>,
}

impl Keyring {
    /// `cluster` in the form of a header.
    pub(super) fn new(cluster: &str, secret: &Secret) -> Self {
        Self { cluster: cluster.to_owned(), keys: RwLock::new(keys(cluster, secret)) }
    }

    /// From now on these keys.
    pub(super) fn replace(&self, secret: &Secret) {
        let keys = keys(&self.cluster, secret);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn now(&self) -> Arc<[Keys]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key that signs.
    pub(super) fn signing(&self, purpose: Purpose) -> Option<Key> {
        self.now()[0][purpose as usize].clone()
    }

    /// All keys that are accepted, the one that signs first.
    pub(super) fn accepted(&self, purpose: Purpose) -> impl Iterator<Item = Key> {
        let keys = self.now();
        (0..keys.len()).filter_map(move |place| keys[place][purpose as usize].clone())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

fn keys(cluster: &str, secret: &Secret) -> Arc<[Keys]> {
    let keys = |kind: &SecretKind| {
        Purpose::ALL.map(|purpose| match kind {
            SecretKind::Whole(secret) => Some(Arc::new(keyed(&derive(secret, cluster, purpose)))),
            SecretKind::ReportKey(key) => (purpose == Purpose::Report).then(|| Arc::new(keyed(key))),
        })
    };
    secret.keys.iter().map(keys).collect()
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

pub(super) fn derive(secret: &[u8], cluster: &str, purpose: Purpose) -> [u8; 32] {
    let mut mac = keyed(secret);
    mac.update(&frame(&[KEY_FRAME, cluster.as_bytes(), purpose.name().as_bytes()]));
    mac.finalize().into_bytes().into()
}
