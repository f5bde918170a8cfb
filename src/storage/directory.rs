//! A directory on a real disk. `rakit-node` opens and locks its directory at its start and gives it to
//! [`super::Storage`].
//!
//! Manual pages: open(2) for `O_APPEND`, fsync(2) for what is durable when.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::{LOCK, StorageError};
use crate::linux::{FileLock, LockError};

/// A directory of this machine. The directory of a node stays locked until this value is dropped.
#[derive(Debug)]
pub struct DirectoryDisk {
    path: PathBuf,
    /// The open directory, for fsync.
    directory: File,
    /// Held, never read.
    _lock: Option<FileLock>,
    /// The file that was written last. It stays open and is usually the log, so that an append needs no
    /// open(2). A compaction writes two other files; the second one becomes the log.
    current: Option<(String, File)>,
    /// The file that was overwritten last. It has a handle of its own, so that it does not close the log.
    overwritten: Option<(String, File)>,
}

impl DirectoryDisk {
    /// Opens the directory and locks it. A missing directory is made first, durably.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if a process (also this one) holds the lock; [`StorageError::Io`] if the
    /// directory cannot be made, opened or locked.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        make_durably(path)?;
        let directory = File::open(path).map_err(|source| io_error("open", path, source))?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), directory, _lock: Some(lock), current: None, overwritten: None })
    }

    /// Opens an existing directory without a lock, for a file whose writers have another lock.
    pub(super) fn without_lock(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        Ok(Self { path: path.to_owned(), directory, _lock: None, current: None, overwritten: None })
    }

    /// The handle for appending to `name`, which must exist.
    fn handle(&mut self, name: &str) -> io::Result<&mut File> {
        // `take` and `insert`, because the borrow checker refuses a `match` that returns the borrow in one
        // arm only.
        let file = match self.current.take() {
            Some((open, file)) if open == name => file,
            _ => OpenOptions::new().append(true).open(self.path.join(name))?,
        };
        Ok(&mut self.current.insert((name.to_owned(), file)).1)
    }

    /// Closes the handle of `name`, which is about to be replaced or removed.
    fn forget(&mut self, name: &str) {
        if self.current.as_ref().is_some_and(|(open, _)| open == name) {
            self.current = None;
        }
        if self.overwritten.as_ref().is_some_and(|(open, _)| open == name) {
            self.overwritten = None;
        }
    }
}

impl Disk for DirectoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 belongs to a foreign file. Those are ignored.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        // The standard library refuses O_TRUNC together with O_APPEND: the file is emptied, then opened
        // again.
        File::create(&path)?;
        let file = OpenOptions::new().append(true).open(&path)?;
        self.current = Some((name.to_owned(), file));
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // With O_APPEND, the bytes land at the end also after a truncation. `write_all` continues a short
        // write; a full disk then shows as an error of the next write.
        self.handle(name)?.write_all(bytes)
    }

    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = match self.overwritten.take() {
            Some((open, file)) if open == name => file,
            _ => OpenOptions::new().write(true).create(true).truncate(false).open(self.path.join(name))?,
        };
        self.overwritten.insert((name.to_owned(), file)).1.write_all_at(bytes, 0)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.handle(name)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        // fdatasync(2) makes the length durable, which is needed to read the data, but not the time of
        // modification.
        self.handle(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.forget(to);
        if let Some((open, _)) = &mut self.current
            && open == from
        {
            // A handle belongs to the file, not to its name, and stays valid.
            to.clone_into(open);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.forget(name);
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Makes a directory and its missing parents. Each new name is made durable in its parent: otherwise a power
/// cut could remove the whole directory, although its files were synced. The name of an existing directory is
/// made durable, too: the process that made it may have been killed before its fsync, or may not sync at all
/// (mkdir(1)).
fn make_durably(path: &Path) -> Result<(), StorageError> {
    let mut missing = Vec::new();
    let mut above = Some(path);
    while let Some(directory) = above {
        // The parent of "data" is "": the working directory, which exists.
        if directory.as_os_str().is_empty() || directory.exists() {
            break;
        }
        missing.push(directory);
        above = directory.parent();
    }
    for directory in missing.iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => {}
            // Another node on this machine made this directory at the same time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(io_error("create the directory", directory, error)),
        }
    }
    let names = if missing.is_empty() { &[path] } else { missing.as_slice() };
    for name in names.iter().rev() {
        let parent = match name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match File::open(parent) {
            Ok(directory) => {
                directory.sync_all().map_err(|source| io_error("sync the directory", parent, source))?;
            }
            // This user may not read the parent and so cannot have made the name. Whoever made it is
            // responsible.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && missing.is_empty() => {}
            Err(error) => return Err(io_error("open the directory", parent, error)),
        }
    }
    Ok(())
}

/// Renames the directory of a node, so that the node can begin with an empty one: `node-2` becomes
/// `node-2.damaged-1`, or the next number that is free. Nothing in it changes. Returns the new path.
///
/// # Errors
/// As [`DirectoryDisk::open`], which must succeed: no process may work in the directory. And the error of the renaming.
pub fn set_aside(path: &Path) -> Result<PathBuf, StorageError> {
    let held = DirectoryDisk::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = (1_u32..).map(|number| path.with_file_name(format!("{name}.damaged-{number}")));
    let aside = free.into_iter().find(|aside| !aside.exists()).expect("some number is free");
    fs::rename(path, &aside).map_err(|source| io_error("rename", path, source))?;
    // Its new name is made durable in its parent, and with it the end of the old one.
    make_durably(&aside)?;
    drop(held);
    Ok(aside)
}

/// Locks the directory.
fn lock(directory: &Path) -> Result<FileLock, StorageError> {
    let path = directory.join(LOCK);
    FileLock::take(&path).map_err(|error| match error {
        LockError::Held { pid } => StorageError::Locked { directory: directory.display().to_string(), pid },
        LockError::Io { operation, source } => io_error(operation, &path, source),
    })
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { operation, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::let_go;

    #[test]
    fn a_second_opening_names_the_directory_and_the_holder() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("data/node-1");
        let first = DirectoryDisk::open(&path).expect("a new directory opens");
        let refusal = DirectoryDisk::open(&path).expect_err("the directory is in use");
        let StorageError::Locked { directory, pid } = &refusal else { panic!("not Locked: {refusal}") };
        assert_eq!(directory, &path.display().to_string());
        assert_eq!(*pid, Some(std::process::id()));
        drop(first);
        let_go::wait_until(|| DirectoryDisk::open(&path).is_ok());
    }

    #[test]
    fn what_is_set_aside_is_kept_as_it_was() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("node-2");
        for number in 1..=2 {
            let held = DirectoryDisk::open(&path).expect("a new directory opens");
            fs::write(path.join("log"), format!("damaged {number}")).expect("a file can be written");
            assert!(matches!(set_aside(&path), Err(StorageError::Locked { .. })), "somebody works in it");
            drop(held);
            let_go::wait_until(|| FileLock::take(&path.join("lock")).is_ok());
            let aside = set_aside(&path).expect("nobody works in it");
            assert_eq!(aside, place.path().join(format!("node-2.damaged-{number}")));
            assert_eq!(
                fs::read(aside.join("log")).expect("it is there"),
                format!("damaged {number}").into_bytes()
            );
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let file = place.path().join("data");
        fs::write(&file, "in the way").expect("a file can be written");
        let error = DirectoryDisk::open(file.join("node-1")).expect_err("a file is in the way").to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
    }

    #[test]
    fn the_handle_follows_the_file_through_truncation_and_rename() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let mut disk = DirectoryDisk::open(place.path()).expect("opens");
        disk.create("log").expect("create");
        disk.append("log", b"old").expect("append");
        disk.create("log.new").expect("create");
        disk.append("log.new", b"12345").expect("append");
        disk.truncate("log.new", 3).expect("truncate");
        disk.append("log.new", b"67").expect("append");
        disk.sync("log.new").expect("sync");
        disk.rename("log.new", "log").expect("rename");
        disk.sync_directory().expect("sync the directory");
        disk.append("log", b"8").expect("append");
        assert_eq!(disk.read("log").expect("read"), b"123678");
        // Now the open handle belongs to the file that is replaced.
        disk.create("log.new").expect("create");
        disk.append("log.new", b"new").expect("append");
        disk.append("log", b"9").expect("append");
        disk.rename("log.new", "log").expect("rename");
        disk.append("log", b"er").expect("append");
        assert_eq!(disk.read("log").expect("read"), b"newer");
        disk.remove("log").expect("remove");
        assert!(disk.append("log", b"x").is_err(), "what was removed cannot be written");
        assert_eq!(disk.list().expect("list"), ["lock"]);
    }
}
