//! Who gets a place when all are taken. `server.rs` asks, and carries the decision out.
//!
//! A listener has so many places for connections. What happens when they are taken depends on who may come
//! ([`MakesRoom`]):
//!
//! - At the cluster address, *strangers* make room. A stranger is a connection that has not yet brought a request which
//!   the service takes for proof ([`Acceptance::is_proven`](super::Acceptance), or an answer below 300). The one that
//!   came first gives its place to a new connection. So a flood of strangers pushes out strangers only, and a new
//!   connection has as long to prove itself as the flood needs to fill all places once.
//! - At the public address anybody may come, and nobody can prove anything. There the *source* with the most
//!   connections makes room: one address, or one IPv6 network of 64 bits, since one machine has all addresses of such a
//!   network. It loses its oldest idle connection. If it has no idle one, it loses its youngest one, but only to a
//!   source that has at least two connections fewer. So one source cannot keep another out, however many connections it
//!   opens.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use super::limits::MakesRoom;

/// How many connections may have lost their place and not be closed yet. They hold descriptors and threads beyond the
/// cap for a moment, so there is a bound.
const LEAVING_MAX: usize = 64;

/// Who shares one share of the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl Source {
    /// The source of a connection from this address.
    pub(super) fn of(peer: IpAddr) -> Source {
        match peer.to_canonical() {
            IpAddr::V4(v4) => Source(v4.into()),
            IpAddr::V6(v6) => Source(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into()),
        }
    }
}

/// The places of one listener. Connections are known by a number that grows.
#[derive(Debug)]
pub(super) struct Admission {
    places: usize,
    makes_room: MakesRoom,
    /// Connections with a place that are not closed yet, those that are leaving included.
    open: HashMap<u64, Source>,
    /// The connections of each source, those that are leaving excluded. Only if sources make room.
    sources: HashMap<Source, BTreeSet<u64>>,
    strangers: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// There is a place.
    Free,
    /// There will be, once this connection is cut off: cut it off at once.
    InsteadOf(u64),
    /// There is no place.
    Full,
}

impl Admission {
    pub(super) fn new(places: usize, makes_room: MakesRoom) -> Admission {
        let (strangers, leaving) = (BTreeSet::new(), BTreeSet::new());
        Admission { places, makes_room, open: HashMap::new(), sources: HashMap::new(), strangers, leaving }
    }

    /// Whether as many as may be were cut off and are not closed yet. Then [`enter`](Self::enter) should wait a moment.
    pub(super) fn is_crowded(&self) -> bool {
        self.leaving.len() >= LEAVING_MAX
    }

    /// Decides about the new connection `id`, and counts it in with [`Entry::Free`] and [`Entry::InsteadOf`]. `is_idle`
    /// tells whether an open connection waits for a request.
    pub(super) fn enter(&mut self, id: u64, source: Source, is_idle: impl Fn(u64) -> bool) -> Entry {
        let entry = if self.open.len() - self.leaving.len() < self.places {
            Entry::Free
        } else if self.is_crowded() {
            Entry::Full
        } else {
            let victim = match self.makes_room {
                MakesRoom::Nobody => None,
                MakesRoom::Strangers => self.strangers.first().copied(),
                MakesRoom::LargestSource => self.of_largest_source(source, is_idle),
            };
            victim.map_or(Entry::Full, Entry::InsteadOf)
        };
        if let Entry::InsteadOf(victim) = entry {
            self.forget(victim);
            self.leaving.insert(victim);
        }
        if entry != Entry::Full {
            self.open.insert(id, source);
            match self.makes_room {
                MakesRoom::Nobody => {}
                MakesRoom::Strangers => drop(self.strangers.insert(id)),
                MakesRoom::LargestSource => drop(self.sources.entry(source).or_default().insert(id)),
            }
        }
        entry
    }

    /// The connection that gives its place to one from `newcomer`.
    fn of_largest_source(&self, newcomer: Source, is_idle: impl Fn(u64) -> bool) -> Option<u64> {
        // Among equals the newcomer's own: then it takes nothing from anybody.
        let (largest, connections) =
            self.sources.iter().max_by_key(|(source, ids)| (ids.len(), **source == newcomer, **source))?;
        let own = self.sources.get(&newcomer).map_or(0, BTreeSet::len);
        let idle = connections.iter().copied().find(|id| is_idle(*id));
        idle.or_else(|| {
            // With fewer than two more, the two sources would take places from each other for ever.
            let takes = *largest != newcomer && connections.len() >= own + 2;
            takes.then(|| connections.last().copied()).flatten()
        })
    }

    /// The connection has proven itself: it keeps its place.
    pub(super) fn prove(&mut self, id: u64) {
        self.strangers.remove(&id);
    }

    /// The connection is closed.
    pub(super) fn leave(&mut self, id: u64) {
        self.forget(id);
        self.open.remove(&id);
        self.leaving.remove(&id);
    }

    /// The connection is none to choose from any more.
    fn forget(&mut self, id: u64) {
        self.strangers.remove(&id);
        let Some(source) = self.open.get(&id) else { return };
        if let Some(connections) = self.sources.get_mut(source) {
            connections.remove(&id);
            if connections.is_empty() {
                self.sources.remove(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().expect("an address"))
    }

    fn enter(admission: &mut Admission, id: u64) -> Entry {
        admission.enter(id, source("127.0.0.1"), |_| true)
    }

    fn full(makes_room: MakesRoom) -> Admission {
        let mut admission = Admission::new(3, makes_room);
        for id in 1..=3 {
            assert_eq!(enter(&mut admission, id), Entry::Free);
        }
        admission
    }

    #[test]
    fn the_stranger_that_came_first_makes_room() {
        let mut admission = full(MakesRoom::Strangers);
        admission.prove(1);
        assert_eq!(enter(&mut admission, 4), Entry::InsteadOf(2));
        assert_eq!(enter(&mut admission, 5), Entry::InsteadOf(3));
        admission.leave(2);
        assert_eq!(enter(&mut admission, 6), Entry::InsteadOf(4));
        admission.leave(1);
        assert_eq!(enter(&mut admission, 7), Entry::Free);
    }

    #[test]
    fn whoever_has_proven_itself_keeps_its_place() {
        let mut admission = full(MakesRoom::Strangers);
        (1..=3).for_each(|id| admission.prove(id));
        assert_eq!(enter(&mut admission, 4), Entry::Full);
    }

    #[test]
    fn without_that_rule_nobody_makes_room() {
        assert_eq!(enter(&mut full(MakesRoom::Nobody), 4), Entry::Full);
    }

    #[test]
    fn those_that_were_cut_off_and_are_not_closed_yet_are_few() {
        let mut admission = full(MakesRoom::Strangers);
        for id in 4..4 + LEAVING_MAX as u64 {
            assert!(matches!(enter(&mut admission, id), Entry::InsteadOf(_)));
        }
        assert!(admission.is_crowded());
        assert_eq!(enter(&mut admission, 1_000), Entry::Full);
        admission.leave(1);
        assert!(!admission.is_crowded());
        assert!(matches!(enter(&mut admission, 1_000), Entry::InsteadOf(_)));
    }

    #[test]
    fn the_source_with_the_most_connections_makes_room_with_its_oldest_idle_one() {
        let (one, two, three) = (source("127.0.0.1"), source("127.0.0.2"), source("127.0.0.3"));
        let mut admission = Admission::new(4, MakesRoom::LargestSource);
        for id in 1..=3 {
            assert_eq!(admission.enter(id, one, |_| true), Entry::Free);
        }
        assert_eq!(admission.enter(4, two, |_| true), Entry::Free);
        let busy = |busy: &'static [u64]| move |id: u64| !busy.contains(&id);
        assert_eq!(admission.enter(5, three, busy(&[1])), Entry::InsteadOf(2));
        assert_eq!(admission.enter(6, three, busy(&[1])), Entry::InsteadOf(3), "two of one are idle or not");
        // One has 1, two has 4, three has 5 and 6: the largest is the newcomer itself.
        assert_eq!(admission.enter(7, three, busy(&[5])), Entry::InsteadOf(6));
        admission.leave(2);
        assert_eq!(admission.enter(8, three, busy(&[5, 7])), Entry::Full, "nothing of its own is idle");
    }

    #[test]
    fn a_source_whose_connections_are_all_busy_gives_its_youngest_to_one_with_less() {
        let (one, two) = (source("10.0.0.1"), source("10.0.0.2"));
        let mut admission = Admission::new(3, MakesRoom::LargestSource);
        for id in 1..=3 {
            admission.enter(id, one, |_| false);
        }
        assert_eq!(admission.enter(4, one, |_| false), Entry::Full);
        assert_eq!(admission.enter(5, two, |_| false), Entry::InsteadOf(3));
        assert_eq!(admission.enter(6, two, |_| false), Entry::Full, "two and one: nothing is won");
        admission.leave(3);
        admission.leave(1);
        assert_eq!(admission.enter(7, two, |_| false), Entry::Free);
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    }

    #[test]
    fn who_has_left_is_not_counted() {
        let one = source("10.0.0.1");
        let mut admission = Admission::new(2, MakesRoom::LargestSource);
        for id in 0..100 {
            assert_ne!(admission.enter(id, one, |_| true), Entry::Full);
            admission.leave(id);
        }
        assert!(admission.sources.is_empty() && admission.open.is_empty());
    }
}
