//! Writes a file atomically: the new text goes to a second file, which is made durable and renamed. `store` writes a
//! node's log and snapshots so; `rakit up` writes its own files with [`replace`]: `cluster.toml`, `pids.json`, the
//! worker's script, the process id of a load.

use std::io;
use std::path::Path;

use super::{DirectoryDisk, Disk, StorageError};

/// A file has this ending until it is complete and durable; then it is renamed. After a crash, a file with
/// this ending is removed.
pub(super) const UNFINISHED: &str = ".new";

/// A step that failed.
pub(super) struct Failed {
    operation: &'static str,
    /// The name of the file; empty for the directory.
    name: String,
    source: io::Error,
}

impl Failed {
    pub(super) fn on(self, disk: &impl Disk) -> StorageError {
        StorageError::Io { operation: self.operation, path: disk.place(&self.name), source: self.source }
    }
}

/// Makes the empty file that is renamed to `name` later, and returns its present name.
pub(super) fn begin(disk: &mut impl Disk, name: &str) -> Result<String, Failed> {
    let unfinished = format!("{name}{UNFINISHED}");
    step("create", &unfinished, disk.create(&unfinished))?;
    Ok(unfinished)
}

/// Makes the contents durable, renames the file, and makes the name durable. In any other order, a power cut
/// can leave an empty file under this name, or no file.
pub(super) fn complete(disk: &mut impl Disk, unfinished: &str, name: &str) -> Result<(), Failed> {
    sync(disk, unfinished)?;
    publish(disk, unfinished, name)
}

/// The first half of [`complete`]: the contents.
pub(super) fn sync(disk: &mut impl Disk, unfinished: &str) -> Result<(), Failed> {
    step("sync", unfinished, disk.sync(unfinished))
}

/// The second half of [`complete`]: the name.
pub(super) fn publish(disk: &mut impl Disk, unfinished: &str, name: &str) -> Result<(), Failed> {
    step("rename", unfinished, disk.rename(unfinished, name))?;
    step("sync the directory", "", disk.sync_directory())
}

fn step(operation: &'static str, name: &str, done: io::Result<()>) -> Result<(), Failed> {
    done.map_err(|source| Failed { operation, name: name.to_owned(), source })
}

/// Replaces or makes the file at `path`. A reader sees the old text or the new text, never a part.
///
/// # Errors
/// The error of the file system. The file is unchanged, unless the last fsync of the directory failed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no name of a file"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut disk = DirectoryDisk::without_lock(directory)?;
    let unfinished = begin(&mut disk, name).map_err(|failed| failed.source)?;
    disk.append(&unfinished, content)?;
    complete(&mut disk, &unfinished, name).map_err(|failed| failed.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_new_text_takes_the_place_of_the_old_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pids.json");
        replace(&path, b"a longer first text").expect("written");
        replace(&path, b"short").expect("replaced");
        assert_eq!(fs::read(&path).expect("it is there"), b"short");
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1);
    }
}
