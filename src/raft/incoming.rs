//! A leader's snapshot on its way in: the chunks that a follower has so far (Figure 13, steps 2 to 4). `snapshot.rs`
//! decides what is taken in; this file only gathers.

use std::hash::{Hash, Hasher};

use super::{Command, Index, InstallSnapshot, Term};

/// The part of a leader's snapshot that has arrived so far: its first bytes, without a gap.
#[derive(Clone, Debug)]
pub(super) struct IncomingSnapshot {
    last_index: Index,
    last_term: Term,
    checksum: u32,
    data: String,
}

impl IncomingSnapshot {
    /// Of the snapshot that this chunk belongs to, nothing has arrived yet.
    pub(super) fn begin(chunk: &InstallSnapshot) -> Self {
        Self {
            last_index: chunk.last_included_index,
            last_term: chunk.last_included_term,
            checksum: chunk.checksum,
            data: String::new(),
        }
    }

    /// Whether this chunk belongs to the same snapshot.
    pub(super) fn continues_with(&self, chunk: &InstallSnapshot) -> bool {
        (self.last_index, self.last_term, self.checksum)
            == (chunk.last_included_index, chunk.last_included_term, chunk.checksum)
    }

    /// How many bytes have arrived: the offset of the chunk that comes next.
    pub(super) fn next_offset(&self) -> u64 {
        self.data.len() as u64
    }

    /// Takes in the bytes that come next; `false` if the snapshot would then be longer than `bytes_max`.
    pub(super) fn push(&mut self, data: &str, bytes_max: usize) -> bool {
        let fits = self.data.len() + data.len() <= bytes_max;
        if fits {
            self.data.push_str(data);
        }
        fits
    }

    /// The whole state, once the last chunk is in; `None` if it is not what the leader sent.
    pub(super) fn finish(self) -> Option<Command> {
        let whole = crc32fast::hash(self.data.as_bytes()) == self.checksum;
        whole.then(|| Command::from_json(self.data).ok()).flatten()
    }

    /// See `fingerprint.rs`.
    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.last_index, self.last_term, self.checksum, &self.data).hash(hasher);
    }
}
