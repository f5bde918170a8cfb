//! The errors of a node's directory. Each one is a line that says what happened, where, and what to do.
//!
//! After any of them, `rakit-node` logs the line and ends. It never retries. One exception: it goes on if only the
//! commit hint could not be written ([`Storage::remember`](super::Storage::remember)).

use std::fmt::Write as _;
use std::io;

use super::Identity;
use super::fold::Disorder;
use crate::logging::OneLine;
use crate::raft::PROTOCOL_VERSION;

/// How to replace a damaged directory.
///
/// A node that starts with an empty directory has forgotten its vote and the entries that it acknowledged. It
/// knows that: it is joining, and does not count until a leader has filled it (`raft/joining.rs`). A node that
/// starts with an older copy does not know it.
pub(super) const MEND_DAMAGED: &str = "mend: start this node once with --repair: it moves the directory aside, deletes \
     nothing, begins with an empty one, and counts again when a leader has filled it; never put an older copy in its \
     place: with that, a node votes twice and undoes what was acknowledged";

/// The longest piece of a file's own text in a line, in bytes: what follows it, the mend, must be read, too.
const FOREIGN_BYTES_MAX: usize = 512;

/// Text from a file, which may hold anything, as a piece of a line.
fn foreign(text: &dyn std::fmt::Display) -> String {
    let mut line = OneLine::new(FOREIGN_BYTES_MAX);
    write!(line, "{text}").expect("collecting into memory cannot fail");
    line.finish()
}

/// An error of the disk, of its contents, or of a request to write.
#[derive(Debug)]
pub enum StorageError {
    /// The system refused an operation. What the disk holds since is unknown.
    Io {
        /// What was tried: "sync", "append to", …
        operation: &'static str,
        /// On which file or directory.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A process holds the directory's lock.
    Locked {
        /// The directory.
        directory: String,
        /// The process that holds the lock, if the lock file names it.
        pid: Option<u32>,
    },
    /// A file holds what this program never writes and no crash leaves.
    Corrupt {
        /// The file.
        file: String,
        /// Where in it the damaged line begins, in bytes from 0.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The directory belongs to another node or another founding.
    WrongDirectory {
        /// The file that says so.
        file: String,
        /// Its owner.
        found: Box<Identity>,
        /// The owner that was expected.
        expected: Box<Identity>,
    },
    /// The directory was written by a program of another version of the protocol.
    OtherVersion {
        /// The file that says so.
        file: String,
        /// Its version.
        version: u64,
    },
    /// The caller asked to write a record that breaks a rule. A bug in the caller; nothing was written.
    Refused(Disorder),
    /// An earlier operation failed; since then nothing is written.
    Poisoned {
        /// The text of the first error.
        first: String,
    },
}

impl StorageError {
    /// Whether the directory holds what no crash leaves, so that `--repair` sets it aside.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// Whether the directory is sound and only this program or its configuration is not the right one for it.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::WrongDirectory { .. } | Self::OtherVersion { .. })
    }
}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { operation, path, source } => write!(
                f,
                "cannot {operation} {path}: {source}; mend: see that the disk is sound, has room (df -h) and may be \
                 written by this user, then start the node again"
            ),
            Self::Locked { directory, pid: Some(pid) } => write!(
                f,
                "{directory} is in use by another process (pid {pid}); mend: stop that one first, or correct --id or \
                 data_dir: no two processes may be the same node"
            ),
            Self::Locked { directory, pid: None } => write!(
                f,
                "{directory} is in use by another process; mend: stop that one first (fuser -v {directory}/lock names \
                 it), or correct --id or data_dir: no two processes may be the same node"
            ),
            Self::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at byte {offset}: {}; {MEND_DAMAGED}", foreign(what))
            }
            Self::WrongDirectory { file, found, expected } => write!(
                f,
                "{file} belongs to {}; this is {expected}; mend: correct data_dir, --id, the cluster's name or the \
                 [[node]] list (it must name the members of the founding), or give this node a directory of its own",
                foreign(found)
            ),
            Self::OtherVersion { file, version } => write!(
                f,
                "{file} is of version {version} of the protocol, this program speaks version {PROTOCOL_VERSION}; mend: \
                 start a build of version {version}, the same on all machines"
            ),
            Self::Refused(disorder) => write!(f, "refused to write to the log: {disorder}; this is a bug"),
            Self::Poisoned { first } => write!(f, "nothing is written since an earlier error: {first}"),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Refused(disorder) => Some(disorder),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Founding;

    #[test]
    fn every_error_is_one_line_with_the_place_and_the_mend() {
        let identity = |node| Box::new(Identity { founding: Founding::new("lab", [1, 2]), node });
        let file = || "data/node-1/log".to_owned();
        let errors = [
            StorageError::Io { operation: "sync", path: file(), source: io::Error::from_raw_os_error(5) },
            StorageError::Locked { directory: "data/node-1".into(), pid: Some(7) },
            StorageError::Locked { directory: "data/node-1".into(), pid: None },
            StorageError::Corrupt { file: file(), offset: 12, what: "bad CRC".into() },
            StorageError::WrongDirectory { file: file(), found: identity(1), expected: identity(2) },
            StorageError::OtherVersion { file: file(), version: 9 },
        ];
        for error in errors {
            let line = error.to_string();
            assert!(line.contains("data/node-1") && line.contains("; mend: "), "{line}");
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
    }

    /// Found by tests/fuzz: JSON that is not ours, in a line whose checksum is right.
    #[test]
    fn text_of_a_file_neither_breaks_the_line_nor_pushes_the_mend_out_of_it() {
        let what = format!("unknown field `\n\u{1b}{}`", "x".repeat(10_000));
        let line = StorageError::Corrupt { file: "log".into(), offset: 0, what }.to_string();
        assert!(line.len() < 1_500 && line.contains("; mend: "), "{line}");
        assert!(!line.contains(['\n', '\u{1b}']), "{line}");
    }
}
