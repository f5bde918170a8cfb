//! The shared secret of a cluster: a file that nobody but its owner can read.
//!
//! Like ssh with its keys, a secret that others on the machine could have read is refused rather than used.
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::signing::Secret;

/// A secret shorter than 128 bits can be guessed from one signed request that was overheard.
pub const SECRET_BYTES_MIN: usize = 16;
/// More is no safer (HMAC hashes it down) and surely the wrong file.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// Reads the secret; spaces and line breaks around it do not count, so that editors and `echo` do no harm.
///
/// # Errors
/// What is wrong with the file and how to mend it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        format!("{shown}: {error}; make it: head -c 32 /dev/urandom | base64 > {shown}; chmod 600 {shown}")
    };
    // Asked before it is opened: opening a named pipe would wait for somebody to write to it.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{shown} is no regular file; name the file that holds the secret"));
    }
    let file = File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} has mode {mode:04o}, others may read it; run: chmod 600 {shown}"));
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(format!(
            "{shown} is longer than {SECRET_BYTES_MAX} bytes; name the file that holds the secret"
        ));
    }
    let secret = bytes.trim_ascii();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "{shown} holds {} bytes, which can be guessed; write at least {SECRET_BYTES_MIN} random ones: \
             head -c 32 /dev/urandom | base64 > {shown}",
            secret.len()
        ));
    }
    // A file with the report key alone (docs/security.md) has a form of its own.
    if let Err(wrong) = Secret::parse(secret) {
        return Err(format!("{shown}: {wrong}"));
    }
    Ok(secret.to_vec())
}
