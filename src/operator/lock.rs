//! One `rakit up` at a time per directory: two would share log files, `pids.json` and the nodes' data.
//!
//! The lock is the kernel's (man 2 flock), so that it is gone with the process that held it, however it died; the
//! process's id in the file is for the message alone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Failure;
use super::layout::shown;

/// The longest process id that is read from the file, in bytes.
const PID_BYTES_MAX: u64 = 20;

/// Holds the directory until it is dropped. Children don't inherit it: the descriptor is closed when they start.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes our process id into the file at `path`.
    ///
    /// # Errors
    /// Another process has it, or the file can't be opened.
    pub fn take(path: &Path) -> Result<Lock, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::other(format!("{}: can't be locked: {error}", shown(path)))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| failed(&error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Whoever has just taken the lock may not have written its id yet: then the message lacks it.
                let pid = match file.take(PID_BYTES_MAX).read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => format!(" (pid {})", text.trim()),
                    _ => String::new(),
                };
                return Err(Failure::other(format!(
                    "{}: another `rakit up`{pid} runs this directory; stop that one, or give another --dir",
                    shown(path)
                )));
            }
            Err(error) => return Err(failed(&error)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| failed(&error))?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_first_one_s_pid_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("up.lock");
        let first = Lock::take(&path).expect("nobody has it");
        let refused = Lock::take(&path).expect_err("the first has it");
        assert_eq!(refused.exit_code, 1);
        assert!(refused.line.contains(&format!("(pid {})", std::process::id())), "{}", refused.line);
        drop(first);
        Lock::take(&path).expect("free again");
    }
}
