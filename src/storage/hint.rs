//! The commit hint: how far the log was committed, as far as the node knew, in a small file that is never synced.
//!
//! Figure 2 of the Raft paper keeps the commit index in memory only: after a restart, a leader tells it again. Without
//! a majority there is no leader, and a node that knows nothing committed can serve nothing, although its log holds the
//! state. So the node writes the hint down now and then, and its next process serves from the state that the hint
//! names.
//!
//! A hint may be lost, old or torn: then only freshness is lost. It is honoured only if the log that was recovered
//! holds an entry with its index and its term. By the Log Matching Property (section 5.3), everything before that entry
//! is then what was committed, too. [`super::Storage::remember`] writes it, after the entry is durable; `Storage::open`
//! reads it.

use serde::{Deserialize, Serialize};

use super::fold::Shape;
use super::line;
use crate::linux::BootMoment;
use crate::raft::{Index, Term};

/// The name of the hint's file in its directory.
pub(super) const COMMIT: &str = "commit";

/// Up to where the log was committed, and until when that was known to be fresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitHint {
    /// An entry that is committed, with all before it.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// When the node last had word of a working leader.
    pub fresh_at: BootMoment,
}

/// The first line of the file. A shorter line may leave the end of a longer one behind it; that end means nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HintLine {
    /// The directory's: a hint about another log of the same node is not believed.
    incarnation: u64,
    commit: CommitHint,
}

/// The bytes of the file.
///
/// # Errors
/// When a hint has no JSON form.
pub(super) fn write(incarnation: u64, hint: &CommitHint) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    line::write(&mut bytes, &HintLine { incarnation, commit: hint.clone() })?;
    Ok(bytes)
}

/// The hint in a file of the directory with this incarnation. `None` for whatever is no such hint.
pub(super) fn read(bytes: &[u8], incarnation: u64) -> Option<CommitHint> {
    let first = bytes.split(|&byte| byte == b'\n').next()?;
    let line: HintLine = serde_json::from_slice(line::verify(first).ok()?).ok()?;
    (line.incarnation == incarnation).then_some(line.commit)
}

impl CommitHint {
    /// Whether this log holds the entry that the hint names. Only then it may be honoured.
    pub(super) fn is_in(&self, log: &Shape) -> bool {
        log.term_at(self.index) == Some(self.term)
    }
}
