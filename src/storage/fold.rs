//! Applies a node's records in order, and checks that each record may follow those before it.
//!
//! A node's durable state is the result of all its records (see [`Record`]). The rules are those of Figures 2
//! and 3 of the Raft paper, as far as one node's disk can check them:
//!
//! * the term never decreases, and in one term there is one vote, which never changes ("Election Safety");
//! * a node that joins does not vote, and one that counts never joins again;
//! * entries follow each other without a gap, and their terms never decrease ("Log Matching", section 5.3);
//! * no entry has a later term than the node: the node stores a new term before entries of that term;
//! * nothing at or below the snapshot is ever removed: it is committed ("Leader Completeness").
//!
//! [`super::Storage`] checks a record before it writes it, and `recovery` checks it after reading. A record
//! that breaks a rule is not written; a directory that holds such a record is not used.

use std::fmt;

use crate::raft::{Entry, FOUNDING_INDEX, Founders, HardState, Index, Record, Term};

/// The greatest term, and the greatest index of a snapshot, that a directory may hold. No cluster reaches it, and
/// counting on from the greatest number of all would overflow.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2;

/// Why a record may not follow those before it, as a text for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disorder(pub String);

impl fmt::Display for Disorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Disorder {}

/// A durable state without its commands. It is enough to check the next record, and it is small: one pair of
/// numbers per *term*, not per entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    hard_state: HardState,
    /// With whom the node founded the cluster: matters until it has lived.
    founders: Founders,
    /// Index and term of the entry that the log continues from: the snapshot's last one; 0 and 0 without a
    /// snapshot.
    after: (Index, Term),
    last_index: Index,
    /// For each term in the log, its first index and the term; both ascend.
    runs: Vec<(Index, Term)>,
}

impl Shape {
    /// An empty log that continues after the entry `after` (index, term); (0, 0) at the very beginning.
    pub fn new(after: (Index, Term)) -> Self {
        Self {
            hard_state: HardState::default(),
            founders: Founders::new(),
            after,
            last_index: after.0,
            runs: Vec::new(),
        }
    }

    /// Term and vote.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// With whom the node founded the cluster; empty if it did not, or after a compaction.
    pub fn founders(&self) -> &Founders {
        &self.founders
    }

    /// Index and term of the entry that the log continues from; (0, 0) at the very beginning.
    pub fn after(&self) -> (Index, Term) {
        self.after
    }

    /// The index of the last entry, or of the one that an empty log continues from.
    pub fn last_index(&self) -> Index {
        self.last_index
    }

    /// The term of the last entry, or of the one that an empty log continues from.
    pub fn last_term(&self) -> Term {
        self.runs.last().map_or(self.after.1, |&(_, term)| term)
    }

    /// The term of the entry at `index`, if the log holds it or continues from it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.after.0 {
            return Some(self.after.1);
        }
        if index < self.after.0 || index > self.last_index {
            return None;
        }
        let runs_until = self.runs.partition_point(|&(first, _)| first <= index);
        Some(self.runs[runs_until.checked_sub(1).expect("the first run begins with the first entry")].1)
    }

    /// Applies the next record.
    ///
    /// # Errors
    /// When the record may not follow. The shape is then unchanged.
    pub fn apply(&mut self, record: &Record) -> Result<(), Disorder> {
        match record {
            Record::HardState(new) => self.apply_hard_state(*new),
            Record::Truncate { from } => self.truncate(*from),
            Record::Entry(entry) => self.apply_entry(entry),
            Record::Founders(founders) => self.apply_founders(founders),
        }
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// When the entry may not follow. The shape is then unchanged.
    pub fn apply_entry(&mut self, entry: &Entry) -> Result<(), Disorder> {
        self.push(entry.index, entry.term)
    }

    fn apply_hard_state(&mut self, new: HardState) -> Result<(), Disorder> {
        let old = self.hard_state;
        if new.term < old.term {
            return disorder(format!("term {} after term {}", new.term, old.term));
        }
        if new.term > NUMBER_MAX {
            return disorder(format!("term {}, which no cluster reaches", new.term));
        }
        if new.term == old.term && old.voted_for.is_some() && new.voted_for != old.voted_for {
            return disorder(format!(
                "in term {} a vote for {} after a vote for {}",
                new.term,
                candidate(new),
                candidate(old)
            ));
        }
        if new.term == 0 && new.voted_for.is_some() {
            return disorder("a vote in term 0, in which there is no election".to_owned());
        }
        if new.joining && !self.may_begin_to_join() {
            return disorder("a node that counts begins to join".to_owned());
        }
        if new.joining && new.voted_for.is_some() {
            return disorder(format!("a vote for {} of a node that is joining", candidate(new)));
        }
        self.hard_state = new;
        Ok(())
    }

    fn apply_founders(&mut self, founders: &Founders) -> Result<(), Disorder> {
        // A crash may have come between the founders and the end of the mark: then there are other founders later.
        let known = !self.founders.is_empty() && !self.hard_state.joining;
        if self.last_index > FOUNDING_INDEX || known {
            return disorder(format!("founders after entry {}", self.last_index));
        }
        self.founders.clone_from(founders);
        Ok(())
    }

    /// The mark stands in the first record of a directory, or in the first one of a log that continues it.
    fn may_begin_to_join(&self) -> bool {
        self.hard_state.joining || self.hard_state == HardState::default()
    }

    fn truncate(&mut self, from: Index) -> Result<(), Disorder> {
        if from <= self.after.0 {
            return disorder(format!(
                "truncation from entry {from}, which the snapshot up to entry {} covers",
                self.after.0
            ));
        }
        if from > self.last_index {
            return disorder(format!("truncation from entry {from} after entry {}", self.last_index));
        }
        self.runs.retain(|&(first, _)| first < from);
        self.last_index = from - 1;
        Ok(())
    }

    fn push(&mut self, index: Index, term: Term) -> Result<(), Disorder> {
        // No index follows u64::MAX. No cluster reaches it, but a damaged or hostile number can be that
        // large.
        if self.last_index.checked_add(1) != Some(index) {
            return disorder(format!("entry {index} after entry {}", self.last_index));
        }
        if term == 0 || term < self.last_term() {
            return disorder(format!("entry {index} of term {term} after one of term {}", self.last_term()));
        }
        if term > self.hard_state.term {
            return disorder(format!(
                "entry {index} of term {term}, while the node is in term {}",
                self.hard_state.term
            ));
        }
        if self.runs.is_empty() || term > self.last_term() {
            self.runs.push((index, term));
        }
        self.last_index = index;
        Ok(())
    }
}

/// A durable state: what a node has after it read its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    shape: Shape,
    entries: Vec<Entry>,
}

impl State {
    /// An empty log that continues after the entry `after` (index, term); (0, 0) at the very beginning.
    pub fn new(after: (Index, Term)) -> Self {
        Self { shape: Shape::new(after), entries: Vec::new() }
    }

    /// Applies the next record.
    ///
    /// # Errors
    /// When the record may not follow. The state is then unchanged.
    pub fn apply(&mut self, record: Record) -> Result<(), Disorder> {
        self.shape.apply(&record)?;
        match record {
            Record::HardState(_) | Record::Founders(_) => {}
            Record::Truncate { from } => {
                let kept = from - self.shape.after.0 - 1;
                self.entries.truncate(usize::try_from(kept).expect("no more entries than fit into memory"));
            }
            Record::Entry(entry) => self.entries.push(entry),
        }
        Ok(())
    }

    /// Term and vote, first and last index, and the terms of the entries.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The entries, in order and without a gap.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The shape and the entries.
    pub fn into_parts(self) -> (Shape, Vec<Entry>) {
        (self.shape, self.entries)
    }
}

/// The state after `records`, applied in order to a log that continues after the entry `after` (index, term).
///
/// # Errors
/// When a record may not follow those before it.
pub fn fold(after: (Index, Term), records: impl IntoIterator<Item = Record>) -> Result<State, Disorder> {
    let mut state = State::new(after);
    for record in records {
        state.apply(record)?;
    }
    Ok(state)
}

fn candidate(hard_state: HardState) -> String {
    hard_state.voted_for.map_or_else(|| "nobody".to_owned(), |node| format!("node {node}"))
}

fn disorder<T>(what: String) -> Result<T, Disorder> {
    Err(Disorder(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Command;

    fn hard(term: Term, voted_for: Option<u64>) -> Record {
        Record::HardState(HardState { term, voted_for, joining: false })
    }

    fn entry(index: Index, term: Term) -> Record {
        Record::Entry(Entry { index, term, command: Command::noop() })
    }

    fn cut(from: Index) -> Record {
        Record::Truncate { from }
    }

    #[test]
    fn records_fold_into_term_vote_and_entries() {
        let records = [
            hard(1, None),
            hard(1, Some(2)),
            entry(1, 1),
            entry(2, 1),
            entry(3, 1),
            hard(3, None),
            cut(2),
            entry(2, 3),
            entry(3, 3),
        ];
        let state = fold((0, 0), records).expect("in order");
        assert_eq!(state.shape().hard_state(), HardState { term: 3, voted_for: None, joining: false });
        let log: Vec<_> = state.entries().iter().map(|entry| (entry.index, entry.term)).collect();
        assert_eq!(log, [(1, 1), (2, 3), (3, 3)]);
        for (index, term) in [(0, Some(0)), (1, Some(1)), (2, Some(3)), (3, Some(3)), (4, None)] {
            assert_eq!(state.shape().term_at(index), term, "entry {index}");
        }
    }

    #[test]
    fn a_node_that_counts_never_joins_again_and_one_that_joins_does_not_vote() {
        let joins = |term| Record::HardState(HardState { term, voted_for: None, joining: true });
        let founders = |incarnation| Record::Founders([(1, incarnation), (2, 7)].into());
        // A crash came between the founders and the end of the mark: the second time counts.
        let begin = [joins(1), entry(1, 1), founders(5), founders(6), hard(1, None)];
        let state = fold((0, 0), begin.clone()).expect("in order");
        assert_eq!(state.shape().founders(), &[(1, 6), (2, 7)].into());
        for (record, what) in
            [(joins(1), "begins to join"), (joins(2), "begins to join"), (founders(9), "founders after")]
        {
            let disorder = fold((0, 0), begin.iter().cloned().chain([record])).expect_err(what);
            assert!(disorder.0.contains(what), "{disorder}");
        }
        let votes = Record::HardState(HardState { term: 2, voted_for: Some(1), joining: true });
        assert!(fold((0, 0), [joins(1), votes]).is_err());
    }

    #[test]
    fn a_log_may_continue_after_a_snapshot() {
        let state = fold((10, 2), [hard(4, Some(1)), entry(11, 2), entry(12, 4)]).expect("in order");
        assert_eq!(state.shape().term_at(9), None);
        assert_eq!(state.shape().term_at(10), Some(2));
        assert_eq!((state.shape().last_index(), state.shape().last_term()), (12, 4));
    }

    #[test]
    fn what_may_not_follow_is_refused_and_changes_nothing() {
        let start = [hard(5, Some(3)), entry(11, 4), entry(12, 5)];
        for (record, what) in [
            (hard(4, None), "term 4 after term 5"),
            (hard(5, Some(2)), "a vote for node 2 after a vote for node 3"),
            (hard(5, None), "a vote for nobody after a vote for node 3"),
            (entry(12, 5), "entry 12 after entry 12"),
            (entry(14, 5), "entry 14 after entry 12"),
            (entry(u64::MAX, 5), "after entry 12"),
            (entry(13, 4), "of term 4 after one of term 5"),
            (entry(13, 0), "of term 0"),
            (entry(13, 6), "while the node is in term 5"),
            (cut(10), "the snapshot up to entry 10 covers"),
            (cut(0), "covers"),
            (cut(13), "truncation from entry 13 after entry 12"),
            (cut(u64::MAX), "after entry 12"),
        ] {
            let mut state = fold((10, 4), start.clone()).expect("in order");
            let before = state.clone();
            let disorder = state.apply(record).expect_err(what);
            assert!(disorder.0.contains(what), "{disorder}");
            assert_eq!(state, before);
        }
        assert!(fold((0, 0), [hard(0, Some(1))]).is_err(), "there is no vote in term 0");
        assert!(fold((u64::MAX, 1), [hard(1, None), entry(0, 1)]).is_err(), "no index follows the last one");
    }
}
