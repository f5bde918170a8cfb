//! The smallest state machine that notices everything: a digest of all that was applied, in order.

use rakit::raft::{Apply, Command, Entry, Index};
use serde::{Deserialize, Serialize};

/// The state after the entry at `index` was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// The applied index.
    pub index: Index,
    /// FNV-1a over all entries up to there: equal exactly if the histories are.
    pub digest: u64,
}

impl Machine {
    /// One step; the rule of `Apply` is checked: the next entry, or a snapshot from further on.
    pub fn apply(&mut self, apply: &Apply) {
        match apply {
            Apply::Entry(entry) => {
                assert_eq!(entry.index, self.index + 1, "entries are applied one after the other");
                *self = self.after(entry);
            }
            Apply::Restore(snapshot) => {
                let restored = Self::from_state(&snapshot.state);
                assert!(restored.index > self.index, "the applied index went back");
                assert_eq!(restored.index, snapshot.last_index, "a snapshot of another index than it says");
                *self = restored;
            }
        }
    }

    /// The state after one more entry.
    pub fn after(&self, entry: &Entry) -> Self {
        let text = format!("{}/{}/{}", entry.index, entry.term, entry.command.as_json());
        let digest = digest_of(&text, self.digest);
        Self { index: entry.index, digest }
    }

    /// What goes into a snapshot.
    pub fn to_state(self) -> Command {
        Command::from_value(&self).expect("two numbers have a JSON form")
    }

    /// What comes out of a snapshot.
    pub fn from_state(state: &Command) -> Self {
        serde_json::from_str(state.as_json()).expect("a snapshot's state arrives as it was sent")
    }
}

/// FNV-1a of a text, after what `seed` stands for.
pub fn digest_of(text: &str, seed: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    text.bytes().fold(start, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
