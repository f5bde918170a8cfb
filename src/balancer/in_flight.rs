//! The requests in flight at each server *from the other nodes*: what nodes tell each other of it, and for how long it
//! is believed (docs/balancing.md, "What the other nodes have in flight").
//!
//! Who calls it: a sender thread per peer asks [`Announcer`] what to say; the [`Chooser`](super::Chooser) keeps a
//! `Board` of what was heard. Nothing of this is agreed, written to disk, or part of a Raft message.
//!
//! A count that is never taken back would keep a server without requests for ever. So counts are absolute, never "one
//! more": the next message mends whatever an earlier one, lost or late, left wrong. A count that is not repeated is
//! forgotten after [`BELIEVED_FOR`]. And a message of another process of the same node replaces all that its
//! predecessor said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

/// A request counts for the other nodes once it has been in flight for so long. A shorter one is over before they could
/// use the news, and would cost two messages.
pub const TOLD_AFTER: Duration = Duration::from_millis(5);

/// The pause after each message, unless the last request in flight ends: that is told at once. It makes about
/// 100 messages a second to each peer, and twice as many at the most.
pub const PAUSE: Duration = Duration::from_millis(10);

/// How old the counts of two nodes about each other are, added up. In this time each sends requests that the other does
/// not know of yet.
pub const BLIND_TIME: Duration = Duration::from_millis(15);

/// Counts that do not change are repeated after this time, as long as anything is in flight. What did not arrive is
/// sent again after this time, too.
pub const REPEAT: Duration = Duration::from_millis(500);

/// For how long counts are believed: a node that vanished takes them along. Four repetitions, so that a lost one does
/// no harm.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// The time over which the rate of new requests is averaged.
const RATE_TIME: Duration = Duration::from_millis(500);

/// How many requests one node has in flight at each server: what nodes tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// The process that counts, by a number that it drew when it started.
    pub process: u64,
    /// Grows with every message from this process to this peer.
    pub sequence: u64,
    /// By the server's name; servers with none are left out.
    pub servers: BTreeMap<String, u32>,
}

/// What one node tells one peer, and when. One per sender thread.
#[derive(Debug)]
pub struct Announcer {
    process: u64,
    sequence: u64,
    /// What the peer knows, and when it was told. `None`: it must be told, since it knows nothing, or nobody knows what
    /// it knows.
    told: Option<(BTreeMap<String, u32>, Duration)>,
}

impl Announcer {
    /// For the process that drew this number. The first announcement is always due: it replaces what a predecessor
    /// said.
    pub fn new(process: u64) -> Self {
        Self { process, sequence: 0, told: None }
    }

    /// What to tell the peer, given what is in flight `now`; `None` if it knows.
    pub fn announce(&mut self, servers: BTreeMap<String, u32>, now: Duration) -> Option<InFlight> {
        let knows = self.told.as_ref().is_some_and(|(told, at)| {
            *told == servers && (servers.is_empty() || now.saturating_sub(*at) < REPEAT)
        });
        if knows {
            return None;
        }
        self.sequence += 1;
        self.told = Some((servers.clone(), now));
        Some(InFlight { process: self.process, sequence: self.sequence, servers })
    }

    /// The announcement may not have arrived.
    pub fn lost(&mut self) {
        self.told = None;
    }

    /// Whether the peer was told of requests in flight, or may have been: then something must be said again after
    /// [`REPEAT`], though nothing changes, and at once when they have all ended.
    pub fn holds(&self) -> bool {
        self.told.as_ref().is_none_or(|(told, _)| !told.is_empty())
    }
}

/// What one other node said last.
#[derive(Debug)]
struct Heard {
    counts: InFlight,
    at: Duration,
    /// Requests a second that appeared in its counts, averaged over [`RATE_TIME`], as of `at`.
    rate: f64,
}

impl Heard {
    fn rate_at(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.rate * (-age / RATE_TIME.as_secs_f64()).exp()
    }
}

/// What all other nodes said last.
#[derive(Debug, Default)]
pub(super) struct Board(BTreeMap<NodeId, Heard>);

impl Board {
    /// Notes what a node said. Returns the servers whose count may have changed.
    pub(super) fn hear(&mut self, node: NodeId, counts: InFlight, now: Duration) -> BTreeSet<String> {
        let before = self.0.remove(&node);
        if let Some(heard) = &before
            && heard.counts.process == counts.process
            && heard.counts.sequence >= counts.sequence
        {
            // It was overtaken on its way.
            self.0.extend(before.map(|heard| (node, heard)));
            return BTreeSet::new();
        }
        let none = BTreeMap::new();
        let old = before.as_ref().map_or(&none, |heard| &heard.counts.servers);
        let appeared = counts
            .servers
            .iter()
            .map(|(server, count)| f64::from(count.saturating_sub(old.get(server).copied().unwrap_or(0))));
        let rate = before.as_ref().map_or(0.0, |heard| heard.rate_at(now))
            + appeared.sum::<f64>() / RATE_TIME.as_secs_f64();
        let touched = old.keys().chain(counts.servers.keys()).cloned().collect();
        self.0.insert(node, Heard { counts, at: now, rate });
        touched
    }

    /// Forgets what is not believed any more. Returns the servers whose count may have changed.
    pub(super) fn forget(&mut self, now: Duration) -> BTreeSet<String> {
        let old = |heard: &Heard| heard.at + BELIEVED_FOR <= now;
        let touched =
            self.0.values().filter(|heard| old(heard)).flat_map(|heard| heard.counts.servers.keys().cloned());
        let touched = touched.collect();
        self.0.retain(|_, heard| !old(heard));
        touched
    }

    /// What each node said last.
    pub(super) fn all(&self) -> BTreeMap<NodeId, BTreeMap<String, u32>> {
        self.0.iter().map(|(node, heard)| (*node, heard.counts.servers.clone())).collect()
    }

    /// How many requests the other nodes have in flight at this server.
    pub(super) fn at(&self, server: &str) -> u32 {
        let counts = self.0.values().filter_map(|heard| heard.counts.servers.get(server));
        counts.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many requests the other nodes send while neither side hears of the other's: in [`BLIND_TIME`].
    pub(super) fn expected(&self, now: Duration) -> f64 {
        self.0.values().map(|heard| heard.rate_at(now)).sum::<f64>() * BLIND_TIME.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn servers(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn said(process: u64, sequence: u64, counts: &[(&str, u32)]) -> InFlight {
        InFlight { process, sequence, servers: servers(counts) }
    }

    #[test]
    fn nothing_is_said_while_nothing_changes_and_what_is_in_flight_is_repeated() {
        let mut announcer = Announcer::new(7);
        assert!(announcer.holds(), "a fresh process has something to say");
        assert_eq!(
            announcer.announce(servers(&[]), ms(0)),
            Some(said(7, 1, &[])),
            "it replaces its predecessor"
        );
        assert!(!announcer.holds());
        assert_eq!(announcer.announce(servers(&[]), ms(1_000_000)), None);
        assert_eq!(announcer.announce(servers(&[("a", 1)]), ms(10)), Some(said(7, 2, &[("a", 1)])));
        assert!(announcer.holds());
        assert_eq!(announcer.announce(servers(&[("a", 1)]), ms(509)), None);
        assert_eq!(announcer.announce(servers(&[("a", 1)]), ms(510)), Some(said(7, 3, &[("a", 1)])));
        assert_eq!(announcer.announce(servers(&[]), ms(511)), Some(said(7, 4, &[])));
        announcer.lost();
        assert!(announcer.holds());
        assert_eq!(announcer.announce(servers(&[]), ms(512)), Some(said(7, 5, &[])));
    }

    #[test]
    fn counts_are_absolute_and_the_newest_of_a_node_replaces_all_before() {
        let mut board = Board::default();
        board.hear(1, said(7, 1, &[("a", 3), ("b", 1)]), ms(0));
        board.hear(2, said(9, 1, &[("a", 2)]), ms(0));
        assert_eq!((board.at("a"), board.at("b"), board.at("c")), (5, 1, 0));
        let touched = board.hear(1, said(7, 3, &[("c", 4)]), ms(1));
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((board.at("a"), board.at("b"), board.at("c")), (2, 0, 4));
        assert!(board.hear(1, said(7, 2, &[("a", 100)]), ms(2)).is_empty(), "overtaken on its way");
        assert_eq!((board.at("a"), board.at("c")), (2, 4));
    }

    #[test]
    fn a_node_that_restarts_takes_its_counts_along() {
        let mut board = Board::default();
        board.hear(1, said(7, 900, &[("a", 3)]), ms(0));
        board.hear(1, said(8, 1, &[]), ms(1));
        assert_eq!(board.at("a"), 0);
    }

    #[test]
    fn a_node_that_vanishes_takes_its_counts_along() {
        let mut board = Board::default();
        board.hear(1, said(7, 1, &[("a", 3)]), ms(0));
        board.hear(2, said(9, 1, &[("a", 1)]), ms(1_000));
        assert!(board.forget(ms(1_999)).is_empty());
        assert_eq!(board.forget(ms(2_000)).into_iter().collect::<Vec<_>>(), ["a"]);
        assert_eq!(board.at("a"), 1);
        board.forget(ms(3_000));
        assert_eq!((board.at("a"), board.expected(ms(3_000))), (0, 0.0));
    }

    #[test]
    fn what_to_expect_is_what_appeared_lately() {
        let mut board = Board::default();
        board.hear(1, said(7, 1, &[("a", 1)]), ms(0));
        for sequence in 2..=101 {
            // Each time one ends and another begins elsewhere: a hundred in two seconds.
            let server = if sequence % 2 == 0 { "b" } else { "a" };
            board.hear(1, said(7, sequence, &[(server, 1)]), ms(20 * sequence));
        }
        let expected = board.expected(ms(2_020));
        assert!((0.7..0.8).contains(&expected), "50 a second make 0.75 in 15 ms: {expected}");
        assert!(board.expected(ms(3_900)) < 0.05, "and none when they have stopped");
    }
}
