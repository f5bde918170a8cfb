//! Why a node ends although nobody has stopped it; `node.rs` makes an exit code of it.

use crate::storage::StorageError;

/// Why a node ends although nobody has stopped it.
pub enum Ending {
    /// Its directory is another node's, another cluster's, or of another version. It is sound.
    Misconfigured(String),
    /// Anything else.
    Failed(String),
}

impl From<String> for Ending {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<StorageError> for Ending {
    fn from(error: StorageError) -> Self {
        let reason = error.to_string();
        if error.is_misconfiguration() { Self::Misconfigured(reason) } else { Self::Failed(reason) }
    }
}
