//! Who gets a place when all are taken. `server.rs` asks, and carries the decision out.
//!
//! A listener has so many places for connections. A *stranger* is a connection that has not yet brought a request which
//! the service takes for proof ([`Acceptance::is_proven`](super::Acceptance), or an answer below 300). Where strangers
//! make room, the one that came first gives its place to a new connection. So a flood of strangers pushes out strangers
//! only, and a new connection has as long to prove itself as the flood needs to fill all places once.

use std::collections::BTreeSet;

/// How many connections may have lost their place and not be closed yet. They hold descriptors and threads beyond the
/// cap for a moment, so there is a bound.
const LEAVING_MAX: usize = 64;

/// The places of one listener. Connections are known by a number that grows.
#[derive(Debug)]
pub(super) struct Admission {
    places: usize,
    strangers_make_room: bool,
    /// Connections with a place that are not closed yet, those that are leaving included.
    open: usize,
    strangers: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// There is a place.
    Free,
    /// There will be, once this stranger is cut off: cut it off at once.
    InsteadOf(u64),
    /// There is no place.
    Full,
}

impl Admission {
    pub(super) fn new(places: usize, strangers_make_room: bool) -> Admission {
        let (strangers, leaving) = (BTreeSet::new(), BTreeSet::new());
        Admission { places, strangers_make_room, open: 0, strangers, leaving }
    }

    /// Whether as many as may be were cut off and are not closed yet. Then [`enter`](Self::enter) should wait a moment.
    pub(super) fn is_crowded(&self) -> bool {
        self.leaving.len() >= LEAVING_MAX
    }

    /// Decides about the new connection `id`, and counts it in with [`Entry::Free`] and [`Entry::InsteadOf`].
    pub(super) fn enter(&mut self, id: u64) -> Entry {
        let entry = match self.strangers.first() {
            _ if self.open - self.leaving.len() < self.places => Entry::Free,
            Some(oldest) if self.strangers_make_room && !self.is_crowded() => Entry::InsteadOf(*oldest),
            _ => Entry::Full,
        };
        if let Entry::InsteadOf(stranger) = entry {
            self.strangers.remove(&stranger);
            self.leaving.insert(stranger);
        }
        if matches!(entry, Entry::Free | Entry::InsteadOf(_)) {
            self.open += 1;
            self.strangers.insert(id);
        }
        entry
    }

    /// The connection has proven itself: it keeps its place.
    pub(super) fn prove(&mut self, id: u64) {
        self.strangers.remove(&id);
    }

    /// The connection is closed.
    pub(super) fn leave(&mut self, id: u64) {
        self.open -= 1;
        self.strangers.remove(&id);
        self.leaving.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(strangers_make_room: bool) -> Admission {
        let mut admission = Admission::new(3, strangers_make_room);
        for id in 1..=3 {
            assert_eq!(admission.enter(id), Entry::Free);
        }
        admission
    }

    #[test]
    fn the_stranger_that_came_first_makes_room() {
        let mut admission = full(true);
        admission.prove(1);
        assert_eq!(admission.enter(4), Entry::InsteadOf(2));
        assert_eq!(admission.enter(5), Entry::InsteadOf(3));
        admission.leave(2);
        assert_eq!(admission.enter(6), Entry::InsteadOf(4));
        admission.leave(1);
        assert_eq!(admission.enter(7), Entry::Free);
    }

    #[test]
    fn whoever_has_proven_itself_keeps_its_place() {
        let mut admission = full(true);
        (1..=3).for_each(|id| admission.prove(id));
        assert_eq!(admission.enter(4), Entry::Full);
    }

    #[test]
    fn without_that_rule_nobody_makes_room() {
        assert_eq!(full(false).enter(4), Entry::Full);
    }

    #[test]
    fn those_that_were_cut_off_and_are_not_closed_yet_are_few() {
        let mut admission = full(true);
        for id in 4..4 + LEAVING_MAX as u64 {
            assert!(matches!(admission.enter(id), Entry::InsteadOf(_)));
        }
        assert!(admission.is_crowded());
        assert_eq!(admission.enter(1_000), Entry::Full);
        admission.leave(1);
        assert!(!admission.is_crowded());
        assert!(matches!(admission.enter(1_000), Entry::InsteadOf(_)));
    }
}
