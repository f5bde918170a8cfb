//! The few operations on one directory that durability needs. They are a trait, so that a test can replace
//! the disk.
//!
//! [`super::Storage`] calls them; `DirectoryDisk` and the simulator in `tests/` implement them. Each
//! operation promises what POSIX promises, and no more:
//!
//! * `append` and `create` promise nothing about a power cut; `sync` (fdatasync(2)) makes a file's *contents*
//!   durable;
//! * a file's *name* is part of its directory. A new name, a rename and a removal are durable only after
//!   `sync_directory` (fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory
//!   containing the file has also reached disk");
//! * `rename` is atomic: after a crash the name belongs to the old file or to the new one.

use std::io;

/// One directory. Names are plain file names, never paths. Single-threaded.
///
/// The caller never retries after an error: after a failed write or fsync it is unknown what the disk holds.
/// (On Linux a failed fsync marks the pages clean, and a second fsync "succeeds" without having written
/// anything.)
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

    /// Makes an empty file. A file that exists is emptied.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Writes all bytes at the end of a file that exists. After an error, any number of the bytes may be in
    /// the file.
    ///
    /// # Errors
    /// When the file does not exist, the disk is full, or the write fails.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Writes these bytes over the beginning of a file, which is made if it does not exist. What they do not cover
    /// stays. Nothing makes them durable: a power cut may leave the old bytes, the new ones, or some of each.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

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

    /// Gives a file another name, and replaces the file that had this name.
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

    /// How a message to a person names the file `name`. A real disk gives the whole path.
    fn place(&self, name: &str) -> String {
        name.to_owned()
    }
}
