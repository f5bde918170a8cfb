//! The log in memory: what Figure 2 calls `log[]`, after the part that a snapshot has replaced.
//!
//! It holds the entries `first_index()..=last_index()` and remembers index and term of the entry just before them
//! (its *base*). The base lies at or before the snapshot: after compaction a few entries older than the snapshot are
//! kept, so that a follower that is only a little behind gets entries rather than a whole snapshot.

use std::collections::VecDeque;

use super::{Entry, Index, Term};

/// What an entry costs in an append besides its command: index, term and JSON around them, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 64;

impl Entry {
    /// What it costs in an append, in bytes.
    pub(super) fn bytes_in_append(&self) -> usize {
        self.command.as_json().len() + ENTRY_OVERHEAD_BYTES
    }
}

/// The entries that a node holds in memory.
#[derive(Clone, Debug, Default)]
pub struct Log {
    base_index: Index,
    base_term: Term,
    entries: VecDeque<Entry>,
}

impl Log {
    /// A log whose first entry will follow the one at `base_index`, which has `base_term`; (0, 0) for a new cluster.
    ///
    /// # Panics
    /// If the entries do not follow the base and each other, or their terms decrease: storage checks this first.
    pub(super) fn new(base_index: Index, base_term: Term, entries: Vec<Entry>) -> Self {
        let mut log = Self { base_index, base_term, entries: VecDeque::with_capacity(entries.len()) };
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The first index held; one more than the last if the log is empty.
    pub fn first_index(&self) -> Index {
        self.base_index + 1
    }

    /// Figure 2's lastLogIndex; the base's index if the log is empty.
    pub fn last_index(&self) -> Index {
        self.base_index + self.entries.len() as u64
    }

    /// Figure 2's lastLogTerm.
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    /// The term of the entry at `index`; `None` if it is not held (beyond the end, or compacted away). The base
    /// itself is known.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base_index { Some(self.base_term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// The entry at `index`, if held.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let position = index.checked_sub(self.first_index())?;
        self.entries.get(usize::try_from(position).ok()?)
    }

    /// The entries from `from` on, as far as they are held: at most `count_max` of them and `bytes_max` bytes, but at
    /// least one if there is one (else a large entry could never be sent).
    pub fn slice(&self, from: Index, count_max: usize, bytes_max: usize) -> Vec<Entry> {
        let start = usize::try_from(from.max(self.first_index()) - self.first_index()).unwrap_or(usize::MAX);
        let mut bytes = 0;
        self.entries
            .range(start.min(self.entries.len())..)
            .take(count_max)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.bytes_in_append();
                first || bytes <= bytes_max
            })
            .cloned()
            .collect()
    }

    /// The first index held whose entry has the term of the one at `index`: the hint of the paper's section 5.3.
    pub(super) fn first_index_of_term_at(&self, index: Index) -> Index {
        let term = self.term_at(index);
        let mut first = index;
        while first > self.first_index() && self.term_at(first - 1) == term {
            first -= 1;
        }
        first
    }

    /// The last index held, at or before `limit`, whose entry has a term of at most `term`. Terms never decrease along a
    /// log, so every entry after it has a higher term, and none of those matches a follower's entry of `term`.
    pub(super) fn last_index_not_above_term(&self, limit: Index, term: Term) -> Index {
        let count = limit.min(self.last_index()).saturating_sub(self.base_index);
        let end = usize::try_from(count).unwrap_or(usize::MAX);
        // Terms are sorted along the log, so a binary search does: a divergence of millions costs no walk.
        let inside = self.entries.partition_point(|entry| entry.term <= term).min(end);
        self.base_index + inside as u64
    }

    /// Appends one entry.
    ///
    /// # Panics
    /// If it does not follow the last one, or its term is lower.
    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index() + 1, "an entry must follow the last one");
        assert!(entry.term >= self.last_term(), "terms never decrease along a log");
        self.entries.push_back(entry);
    }

    /// Drops the entries from `from` on.
    ///
    /// # Panics
    /// If `from` is at or before the base.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.base_index, "what a snapshot holds is committed and stays");
        self.entries.truncate(usize::try_from(from - self.first_index()).unwrap_or(usize::MAX));
    }

    /// Drops the entries up to and including `index`, which must be held or be the base.
    pub(super) fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index) else { return };
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.entries.pop_front();
        }
        (self.base_index, self.base_term) = (index, term);
        // A burst may have grown the buffer far beyond what is left: give it back (memory stays bounded at any age).
        if self.entries.capacity() > 4 * (self.entries.len() + 64) {
            self.entries.shrink_to(2 * (self.entries.len() + 64));
        }
    }

    /// Drops everything: the log now begins after `index`, whose entry has `term`.
    pub(super) fn reset(&mut self, index: Index, term: Term) {
        *self = Self { base_index: index, base_term: term, entries: VecDeque::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;

    fn log(base: (Index, Term), terms: &[Term]) -> Log {
        let entries = terms.iter().zip(base.0 + 1..).map(|(&term, index)| Entry {
            index,
            term,
            command: Command::noop(),
        });
        Log::new(base.0, base.1, entries.collect())
    }

    #[test]
    fn an_empty_log_knows_its_base_alone() {
        let log = log((5, 2), &[]);
        assert_eq!((log.first_index(), log.last_index(), log.last_term()), (6, 5, 2));
        assert_eq!((log.term_at(4), log.term_at(5), log.term_at(6)), (None, Some(2), None));
        assert!(log.slice(1, 10, 10).is_empty() && log.slice(99, 10, 10).is_empty());
    }

    #[test]
    fn a_slice_is_bounded_by_count_and_bytes_but_never_empty_while_entries_wait() {
        let log = log((5, 2), &[2, 3, 3, 4]);
        let indexes = |from, count, bytes| -> Vec<_> {
            log.slice(from, count, bytes).iter().map(|entry| entry.index).collect()
        };
        assert_eq!(indexes(7, 99, 9999), [7, 8, 9]);
        assert_eq!(indexes(7, 2, 9999), [7, 8]);
        assert_eq!(indexes(7, 99, 1), [7]);
        assert_eq!(indexes(6, 99, 2 * (ENTRY_OVERHEAD_BYTES + 4)), [6, 7]);
    }

    #[test]
    fn the_hints_find_the_ends_of_a_term() {
        let log = log((5, 2), &[2, 3, 3, 3, 5]);
        assert_eq!(log.first_index_of_term_at(9), 7);
        assert_eq!(log.first_index_of_term_at(10), 10);
        assert_eq!(log.last_index_not_above_term(99, 4), 9);
        assert_eq!(log.last_index_not_above_term(8, 4), 8);
        assert_eq!(log.last_index_not_above_term(99, 1), 5);
    }

    #[test]
    fn truncating_and_compacting_leave_the_rest_as_it_was() {
        let mut log = log((0, 0), &[1, 1, 2, 2, 3]);
        log.truncate(5);
        assert_eq!((log.last_index(), log.last_term()), (4, 2));
        log.compact(2);
        assert_eq!((log.first_index(), log.last_index(), log.term_at(2)), (3, 4, Some(1)));
        log.compact(4);
        assert_eq!((log.first_index(), log.last_index(), log.last_term()), (5, 4, 2));
        log.reset(9, 7);
        assert_eq!((log.first_index(), log.last_index(), log.last_term()), (10, 9, 7));
    }

    #[test]
    #[should_panic(expected = "must follow")]
    fn a_gap_is_refused() {
        log((0, 0), &[1]).push(Entry { index: 3, term: 1, command: Command::noop() });
    }
}
