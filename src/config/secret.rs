//! Reads the shared secret of a cluster for `check.rs`.
//!
//! A file that other users of the machine can read is refused, as ssh does with its keys. One exception: a file of root's that
//! the service's own group may read, so that the service can use its key and not change it.
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::signing::Secret;

/// The shortest secret, in bytes. With less than 128 bits, it can be guessed from one recorded request.
pub const SECRET_BYTES_MIN: usize = 16;
/// The longest secret, in bytes. A longer file is probably the wrong one, and no safer: HMAC hashes a long
/// key.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// Reads the secret. Spaces and line breaks around it are ignored, because editors and `echo` add them.
///
/// # Errors
/// What is wrong with the file and how to mend it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        format!("{shown}: {error}; make it: head -c 32 /dev/urandom | base64 > {shown}; chmod 600 {shown}")
    };
    // Checked before the file is opened: opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{shown} is no regular file; name the file that holds the secret"));
    }
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 && !is_for_own_group(&metadata) {
        return Err(format!(
            "{shown} has mode {mode:04o}, others may read it; run: chmod 600 {shown} (0640 is accepted if it belongs to root \
             and to the group of this program, which is not root's)"
        ));
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
    // A file that holds only the report key (docs/security.md) has its own format.
    if let Err(wrong) = Secret::parse(secret) {
        return Err(format!("{shown}: {wrong}"));
    }
    Ok(secret.to_vec())
}

/// Whether the file belongs to root, and nobody else but a group of this process may read it. Root itself needs no group.
fn is_for_own_group(metadata: &std::fs::Metadata) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let own =
        |gid| rustix::process::getegid().as_raw() == gid || groups.iter().any(|own| own.as_raw() == gid);
    metadata.uid() == 0
        && metadata.mode() & 0o077 == 0o040
        && !rustix::process::geteuid().is_root()
        && own(metadata.gid())
}
