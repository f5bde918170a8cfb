//! One process at a time: a node's data directory and the directory of `rakit up` each have a lock file.
//!
//! The lock is the kernel's (flock(2)). It ends with the process that holds it, however that process ends, so that a
//! kill -9 leaves nothing that a person would have to clear away. The process id in the file is for messages alone: no
//! program decides by it, and nothing needs it to be durable.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// As much of a lock file as is read to find the process id in it, in bytes.
const LOCK_BYTES_READ: u64 = 64;

/// Holds a lock file until it is dropped. Children do not inherit it: the descriptor is closed when they start.
#[derive(Debug)]
pub struct FileLock {
    /// Held, never read.
    _file: File,
}

/// Why a lock could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// A process has it (this one counts, too); its id, if it has written that already.
    Held {
        /// The process id.
        pid: Option<u32>,
    },
    /// The file cannot be opened, locked or written.
    Io {
        /// What failed: a verb.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { pid: Some(pid) } => write!(f, "process {pid} has the lock"),
            Self::Held { pid: None } => f.write_str("another process has the lock"),
            Self::Io { operation, source } => write!(f, "cannot {operation} it: {source}"),
        }
    }
}

impl std::error::Error for LockError {}

impl FileLock {
    /// Takes the lock and writes the id of this process into the file at `path`, which is made if need be.
    ///
    /// # Errors
    /// See [`LockError`]. Never waits.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |operation| move |source| LockError::Io { operation, source };
        // Not truncated here: as long as we do not hold the lock, the id in it is somebody else's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The holder may not have written its id yet: then the message goes without.
                let pid = match file.take(LOCK_BYTES_READ).read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(LockError::Held { pid });
            }
            Err(errno) => return Err(failed("lock")(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write"))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_first_one_s_pid_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("lock");
        let first = FileLock::take(&path).expect("nobody has it");
        match FileLock::take(&path) {
            Err(LockError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("the first has it: {other:?}"),
        }
        drop(first);
        super::super::let_go::wait_until(|| FileLock::take(&path).is_ok());
    }

    #[test]
    fn a_lock_file_that_cannot_be_made_says_so() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let refused = FileLock::take(&dir.path().join("missing/lock"));
        assert!(matches!(refused, Err(LockError::Io { operation: "open", .. })), "{refused:?}");
    }
}
