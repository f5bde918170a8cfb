//! Reads the shared secret of a cluster for `check.rs`.
//!
//! A file that other users of the machine can read is refused, as ssh does with its keys. One exception: a file of
//! root's that the service's own group may read, so that the service can use its key and not change it.
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::signing::Secret;

/// The shortest secret, in bytes. With less than 128 bits, it can be guessed from one recorded request.
pub const SECRET_BYTES_MIN: usize = 16;
/// The longest secret, in bytes. A longer file is probably the wrong one, and no safer: HMAC hashes a long key.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// Reads the secret. Spaces and line breaks around it are ignored, because editors and `echo` add them.
///
/// # Errors
/// What is wrong with the file and how to mend it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |error| unreadable(path, &error);
    // Checked before the file is opened: opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{shown} is no regular file; name the file that holds the secret"));
    }
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 && !is_for_own_group(&metadata) {
        return Err(not_private(path, mode, metadata.uid() == 0));
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

/// The file cannot be read. Only of a file that is missing it may be said how one is made: whoever makes a new one in
/// the place of one that he may not read overwrites the secret of the cluster.
fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let shown = path.display();
    if error.kind() == ErrorKind::NotFound {
        format!(
            "{shown}: {error}; copy it from another machine of the cluster; only for a new cluster make it: \
             head -c 32 /dev/urandom | base64 > {shown}; chmod 600 {shown}"
        )
    } else {
        format!("{shown}: {error}; let the user of this program read the file; do not make a new one")
    }
}

/// Others may read the file. With mode 0600, a service that reads it through its group could read it no longer.
fn not_private(path: &Path, mode: u32, is_of_root: bool) -> String {
    let shown = path.display();
    if is_of_root && is_for_one_group(mode) {
        format!(
            "{shown} has mode {mode:04o}, its group may read it; if a service reads it through this group, leave it \
             so, and run this program as the user of that service; otherwise run: chmod 600 {shown}"
        )
    } else {
        format!(
            "{shown} has mode {mode:04o}, others may read it; run: chmod 600 {shown} (0640 is accepted if it belongs \
             to root and to the group of this program, which is not root's)"
        )
    }
}

/// Whether the file's group may read it and nothing more, and nobody else anything.
fn is_for_one_group(mode: u32) -> bool {
    mode & 0o077 == 0o040
}

/// Whether the file belongs to root, and nobody else but a group of this process may read it. Not for root itself: it
/// gives its files mode 0600.
fn is_for_own_group(metadata: &std::fs::Metadata) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let own =
        |gid| rustix::process::getegid().as_raw() == gid || groups.iter().any(|own| own.as_raw() == gid);
    metadata.uid() == 0
        && is_for_one_group(metadata.mode())
        && !rustix::process::geteuid().is_root()
        && own(metadata.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_a_missing_secret_it_is_said_how_one_is_made() {
        let path = Path::new("/etc/rakit/cluster.key");
        let missing = unreadable(path, &std::io::Error::from_raw_os_error(2));
        assert!(
            missing.contains("copy it from another machine") && missing.contains("chmod 600"),
            "{missing}"
        );
        // EACCES, EIO, ENOTDIR
        for code in [13, 5, 20] {
            let line = unreadable(path, &std::io::Error::from_raw_os_error(code));
            assert!(line.starts_with("/etc/rakit/cluster.key: ") && !line.contains("/dev/urandom"), "{line}");
            assert!(line.contains("do not make a new one"), "{line}");
        }
    }

    #[test]
    fn root_is_not_told_to_take_the_key_from_the_group_of_a_service() {
        let path = Path::new("/etc/rakit/cluster.key");
        for mode in [0o640, 0o440] {
            let line = not_private(path, mode, true);
            assert!(line.contains("run this program as the user of that service"), "{line}");
        }
        for (mode, is_of_root) in [(0o644, true), (0o660, true), (0o640, false), (0o604, false)] {
            let line = not_private(path, mode, is_of_root);
            assert!(line.contains("others may read it; run: chmod 600 /etc/rakit/cluster.key"), "{line}");
        }
    }
}
