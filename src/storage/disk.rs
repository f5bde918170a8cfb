//! The few operations on one directory that durability needs, as a trait, so that a test can be the disk.
//!
//! Its two users are [`super::Storage`], which calls it, and the simulator in `tests/`, which implements it. What each
//! operation promises is what POSIX promises, and no more:
//!
//! * `append` and `create` promise nothing about a power cut; `sync` (fdatasync(2)) makes a file's *contents* durable;
//! * a file's *name* is in its directory, which is a file of its own: a new name, a rename and a removal are durable
//!   only after `sync_directory` (fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory
//!   containing the file has also reached disk");
//! * `rename` is atomic: after a crash the old file or the new one has the name, never none.

use std::io;

/// One directory. Names are plain file names, never paths. Single-threaded.
///
/// No error is ever retried by the caller: after a failed write or fsync nobody knows what the disk holds (on Linux a
/// failed fsync marks the pages clean, and a second fsync "succeeds" without having written anything).
pub trait Disk {
    /// The names of the files, in any order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A file's whole contents.
    ///
    /// # Errors
    /// When the file does not exist or cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes an empty file: new, or an old one emptied.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Writes at the end of a file that exists: all bytes, or an error (after which any number of them may be there).
    ///
    /// # Errors
    /// When the file does not exist, the disk is full, or the write fails.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file to `length` bytes.
    ///
    /// # Errors
    /// When the file does not exist or cannot be cut.
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;

    /// Makes a file's contents and length durable: fdatasync(2).
    ///
    /// # Errors
    /// When they may not be durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in place of the file that had it.
    ///
    /// # Errors
    /// When it could not be renamed.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it does not exist or cannot be removed.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes new names, renames and removals durable: fsync(2) of the directory.
    ///
    /// # Errors
    /// When they may not be durable.
    fn sync_directory(&mut self) -> io::Result<()>;

    /// How a message to a person names the file `name`: a real disk says the whole path.
    fn place(&self, name: &str) -> String {
        name.to_owned()
    }
}
