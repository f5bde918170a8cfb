//! What is old news after a start.
//!
//! A node that starts applies again what its log holds from before the start. A log line for each of these changes would tell old
//! deaths as new ones. So there is one notice instead, when the last of them is applied. A leader's snapshot is old news, too.

use crate::raft::Index;

/// How far the past reaches.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Entries up to this one are from before. `None` when they have all been applied.
    to: Option<Index>,
}

impl Recovery {
    /// For a node that starts with a log up to `last_index`.
    pub(super) fn new(last_index: Index) -> Self {
        Self { to: (last_index > 0).then_some(last_index) }
    }

    /// The log was cut: entries from `from` on were never committed, and what comes in their place is new.
    pub(super) fn truncated(&mut self, from: Index) {
        self.to = self.to.map(|to| to.min(from - 1));
    }

    /// A leader's snapshot up to `index` has taken the table's place.
    pub(super) fn restored(&mut self, index: Index) {
        self.to = Some(index);
    }

    /// Whether what is applied now is old.
    pub(super) fn is_going_on(&self) -> bool {
        self.to.is_some()
    }

    /// Whether all that is old has been applied by now. True once.
    pub(super) fn ends(&mut self, applied_index: Index) -> bool {
        self.to.take_if(|to| applied_index >= *to).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_once_when_the_last_old_entry_is_applied() {
        let mut recovery = Recovery::new(3);
        assert!(!recovery.ends(2) && recovery.is_going_on());
        assert!(recovery.ends(3) && !recovery.is_going_on());
        assert!(!recovery.ends(3));
        assert!(!Recovery::new(0).is_going_on(), "a fresh node has no past");
    }

    #[test]
    fn what_takes_the_place_of_entries_that_were_never_committed_is_new() {
        let mut recovery = Recovery::new(9);
        recovery.truncated(4);
        assert!(!recovery.ends(2));
        recovery.truncated(3);
        assert!(recovery.ends(2));
    }
}
