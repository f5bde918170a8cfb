//! The core's settings, and the greatest jump of a term or an index in a message. The replica (`src/replica/`), the
//! simulator and the explorer make them. Of the settings, only `founders` changes while the process runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Command, Founders, Index, Members, NodeId, Term};

/// A message whose term is further ahead than this is refused: a corrupt or hostile one must not bring the term near
/// the end of its range, where it could not be raised any more. Honest terms grow by one for each election.
pub const TERM_JUMP_MAX: Term = 1 << 32;

/// The same for indexes: a snapshot that reaches further beyond the log's end than this is refused. Otherwise
/// one hostile message could use the indexes up. At a million entries a second, an honest log needs days for
/// it.
pub const INDEX_JUMP_MAX: Index = 1 << 40;

/// Judges the state in a received snapshot, which ends with the given index: see [`Settings::state_is_valid`].
pub type StateCheck = fn(Index, &Command) -> Result<(), String>;

/// What the core needs to know. Timeouts and founding members come from cluster.toml, the id from the command line,
/// incarnation and founders from the data directory, the seed from the kernel. The bounds have their defaults here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub id: NodeId,
    /// The random number of its data directory: a life of the node.
    pub incarnation: u64,
    /// With whom it founded the cluster, as its data directory says; empty if it did not, or was compacted since.
    pub founders: Founders,
    /// The members that founded the cluster. They count until the log has another list (`members.rs`). A node that was
    /// added later is not one of them.
    pub founding: Members,
    /// Each election timeout is drawn from this range (both ends included).
    pub election_timeout: (Duration, Duration),
    /// A leader sends to each follower at least this often.
    pub heartbeat: Duration,
    /// At most so many entries in one AppendEntries.
    pub append_entries_max: usize,
    /// At most so many bytes of entries in one AppendEntries (but always at least one entry).
    pub append_bytes_max: usize,
    /// At most so many bytes of a snapshot in one InstallSnapshot.
    pub snapshot_chunk_bytes: usize,
    /// A follower takes no larger snapshot.
    pub snapshot_bytes_max: usize,
    /// Whether the state machine understands a state. Asked before a received snapshot takes the log's place:
    /// a snapshot that it does not understand must never become durable, because this node could then never
    /// start again. It must be a pure function.
    pub state_is_valid: StateCheck,
    /// A leader takes no proposal while so many entries are not committed.
    pub uncommitted_entries_max: u64,
    /// So many entries before the snapshot are kept in memory, for followers that are a little behind.
    pub trailing_entries: u64,
    /// Seeds the election timeouts; different on each node and at each start.
    pub seed: u64,
}

impl Settings {
    /// Settings with the default bounds, for a cluster that these nodes founded. Nobody's address is known.
    pub fn new(
        id: NodeId,
        founding: BTreeSet<NodeId>,
        election_timeout: (Duration, Duration),
        heartbeat: Duration,
        seed: u64,
    ) -> Self {
        Self {
            id,
            incarnation: 0,
            founders: Founders::new(),
            founding: Members::voters_of(founding),
            election_timeout,
            heartbeat,
            append_entries_max: 4096,
            append_bytes_max: 1 << 20,
            snapshot_chunk_bytes: 256 << 10,
            snapshot_bytes_max: 64 << 20,
            state_is_valid: |_, _| Ok(()),
            uncommitted_entries_max: 16_384,
            trailing_entries: 1_000,
            seed,
        }
    }
}
