//! Stores on disk what one node must not forget when its process or its machine stops. `node/recovery.rs` opens it at
//! the start of a node; from then on only the node's Raft loop calls it.
//!
//! Figure 2 of the Raft paper marks three things as *persistent*: the current term, the vote in that term,
//! and the log. A node that forgets its vote can vote twice in one term, and then there are two leaders. A
//! node that forgets an entry can undo a report that was acknowledged. Two rules follow. **Durable first,
//! then answer**: nothing leaves the node before the disk holds it. **When in doubt, refuse**: a cluster of
//! five works without a stopped node, but a node that continues from a damaged log can make the cluster lose
//! entries.
//!
//! One directory per node, readable with `cat`:
//!
//! ```text
//! lock                                  held by the running process; its pid
//! log                                   a header, then one record per line: CRC-32, space, batch, space, JSON
//! snapshot-00000000000000010000.json    one line (CRC-32, space, JSON): the state as of entry 10000
//! commit                                one such line: the commit hint, which may be lost
//! suspect                               empty; there only after a write or an fsync has failed
//! ….new                                 a file that is not complete yet
//! ```
//!
//! * [`Storage`] is the interface: `open`, `append`, `make_durable`, `compact`, `continue_compaction`, `remember`.
//! * [`Disk`] lists the few operations on a directory that durability needs. [`DirectoryDisk`] does them on a
//!   real disk. `tests/simulation/disk.rs` does them in memory and injects faults.
//! * [`State`] is the result of all records, applied in order. Its rules say which record may follow which.
//!   Each record is checked before it is written, and again when it is read.
//! * `compaction` spreads a compaction over several turns of the Raft loop.
//! * `whole_file` writes a file atomically. `hint` remembers how far the log is committed.
//! * `line` defines the format of one line. `recovery` reads a directory and decides whether it may be used.
//!
//! docs/storage.md shows a real directory and says what an operator does on each error.

mod compaction;
mod directory;
mod disk;
mod error;
mod fold;
mod hint;
mod line;
mod recovery;
mod store;
mod whole_file;

pub use directory::{DirectoryDisk, set_aside};
pub use disk::Disk;
pub use error::StorageError;
pub use fold::{Disorder, Shape, State, fold};
pub use hint::CommitHint;
pub use recovery::{Fresh, Recovered, Repair};
pub use store::Storage;
pub use whole_file::replace;

use std::fmt;

use crate::raft::{Founding, NodeId};

/// The name of the log in its directory.
pub const LOG: &str = "log";

/// The name of the lock in its directory. Only [`DirectoryDisk`] uses it.
pub const LOCK: &str = "lock";

/// An empty file. It says that a write or an fsync failed in this directory, so that the page cache may
/// differ from the disk. [`Storage::open`] then writes all files anew.
const SUSPECT: &str = "suspect";

/// The owner of a directory. A directory of another node or cluster is refused: with a foreign log, a node
/// would claim entries that it never received and a vote that it never gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name and its first members.
    pub founding: Founding,
    /// The node's `id`.
    pub node: NodeId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}, founded as {}", self.node, self.founding)
    }
}
