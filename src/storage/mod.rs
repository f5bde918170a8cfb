//! The disk of one node: what it must not forget, whatever happens to its process or its machine.
//!
//! Raft is only as good as its disk. Figure 2 of the Raft paper marks three things as *persistent*: the current term,
//! the vote in it, and the log. A node that forgets one of them can vote twice in one term (two leaders), or lose an
//! entry that a majority had (a report that was acknowledged, and is gone). So the rule of this room is: **durable
//! first, then answer**, and its second rule: **when in doubt, refuse**. A node that stands still costs a cluster of
//! five nothing; a node that continues from half a memory can cost it the truth.
//!
//! One directory per node, readable with `cat`:
//!
//! ```text
//! lock                                  held by the running process; its pid
//! log                                   one record per line: CRC-32, space, JSON
//! snapshot-00000000000000010000.json    one such line: the state as of entry 10000
//! ```
//!
//! * [`Storage`] is the door: `open`, `make_durable`, `append`, `compact`. The Raft loop of a node is its only caller.
//! * [`Disk`] is the handful of operations on a directory that durability needs; [`DirectoryDisk`] does them for real,
//!   and `tests/simulation/disk.rs` does them in memory, with every fault that we could think of.
//! * [`State`] folds records into the state they mean. It is the only place that knows what may follow what, and it
//!   checks twice: each record before it is written, and again when it is read.
//! * `whole_file` puts a file in its place, completely or not at all.
//! * `line` is the form of one line, `recovery` the reading of a directory and the judgement over it.
//!
//! docs/storage.md shows a real directory and says what an operator does on each error.

mod directory;
mod disk;
mod error;
mod fold;
mod line;
mod recovery;
mod store;
mod whole_file;

pub use directory::DirectoryDisk;
pub use disk::Disk;
pub use error::StorageError;
pub use fold::{Disorder, Shape, State, fold};
pub use recovery::{Recovered, Repair};
pub use store::Storage;
pub use whole_file::replace;

use std::fmt;

use crate::raft::NodeId;

/// The name of the log in its directory.
pub const LOG: &str = "log";

/// The name of the lock in its directory. Only [`DirectoryDisk`] knows locks; to the others it is a foreign file.
pub const LOCK: &str = "lock";

/// An empty file that says: a write or an fsync failed here, and since then the page cache may show what the disk does
/// not hold. See [`Storage::open`].
const SUSPECT: &str = "suspect";

/// Whose directory it is. A directory of another node or another cluster is refused: with a stranger's log, a node
/// would claim entries it never received and hold a vote it never gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `[cluster] name` of cluster.toml.
    pub cluster: String,
    /// The node's `id`.
    pub node: NodeId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {:?}", self.node, self.cluster)
    }
}
