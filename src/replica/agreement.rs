//! Whether the nodes' states agree, while they run.
//!
//! Equal logs make equal states, unless memory, a disk or a program is at fault. So every node notes the digest of its state
//! at the same indexes, and the leader names one of its own to its followers at intervals (`CompareState`).
//!
//! * A follower whose digest differs has another state than its leader. It says so, is not ready and serves nothing. While
//!   only the leader speaks against it, either may be wrong: when that leader goes, the follower is free again.
//! * If the leader and the followers that agree with it are a majority, the leader says that, too. Then the follower is in
//!   the wrong: it must not lead before it agrees with a leader again. It goes on voting and storing.
//! * A leader from which a majority differs is in the wrong itself: it is not ready, and gives way.
//!
//! The digests here come from the replica's table; `decisions.rs` sends, receives, and tells the core who is barred.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::raft::{CompareState, Index, NodeId, StateVerdict, Term};

/// Two checkpoints are at least so many entries apart. A power of two, see [`is_checkpoint`].
const CHECKPOINT_ENTRIES_MIN: Index = 16;

/// So many entries share the cost of a digest for each server in it: less than a hundredth of what an entry costs otherwise.
const CHECKPOINT_ENTRIES_PER_SERVER: Index = 4;

/// So many digests are kept: at a thousand entries per second, those of the last four seconds or more.
const CHECKPOINTS_MAX: usize = 256;

/// A leader names a digest this often. It names one that was its newest at the last time, so that followers have reached it.
const NAMING_INTERVAL: Duration = Duration::from_secs(1);

/// Whether every node notes the digest of its state after the entry of this index, when its table has so many `servers`.
///
/// A digest reads the whole table, so a larger table has fewer checkpoints. The distances are powers of two: where tables
/// differ in size, which is a contradiction too, the checkpoints of the larger one are checkpoints of the other.
pub(super) fn is_checkpoint(index: Index, servers: usize) -> bool {
    let distance = CHECKPOINT_ENTRIES_PER_SERVER * servers.next_power_of_two() as Index;
    index.is_multiple_of(distance.max(CHECKPOINT_ENTRIES_MIN))
}

/// This node's state and that of others cannot both be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// At this index the digests differed first.
    pub index: Index,
    /// The leader whose digest is another one; for a leader: itself.
    pub leader: NodeId,
    /// The leader's term.
    pub term: Term,
    /// A majority is known to have another digest.
    pub by_majority: bool,
}

impl Contradiction {
    /// In words, for the log, `/readyz` and `/status` of node `id`.
    pub fn text(&self, id: NodeId) -> String {
        let Self { index, leader, by_majority, .. } = *self;
        let who = match (leader == id, by_majority) {
            (true, _) => "a majority of the nodes".to_owned(),
            (false, true) => format!("node {leader}, the leader, and a majority of the nodes"),
            (false, false) => format!("node {leader}, the leader"),
        };
        format!(
            "the state of node {id} at index {index} differs from that of {who}; mend: keep a copy of its data directory, \
             then start the node again; if it differs again, see \"A node whose state differs\" in docs/storage.md"
        )
    }
}

/// What a leader named, and who said what.
#[derive(Debug)]
struct Named {
    term: Term,
    index: Index,
    digest: String,
    same: BTreeSet<NodeId>,
    differ: BTreeSet<NodeId>,
}

/// One node's comparison of states.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// The newest digests of this node's own state, in the order of their indexes.
    checkpoints: VecDeque<(Index, String)>,
    contradiction: Option<Contradiction>,
    named: Option<Named>,
    named_at: Option<Duration>,
    /// The newest digest at that time.
    newest_before: Option<(Index, String)>,
}

impl Agreement {
    /// This node's state as of `index` has this digest.
    pub(super) fn note(&mut self, index: Index, digest: String) {
        self.checkpoints.push_back((index, digest));
        if self.checkpoints.len() > CHECKPOINTS_MAX {
            self.checkpoints.pop_front();
        }
    }

    /// A leader's snapshot has taken the place of the state: earlier digests were those of another one.
    pub(super) fn replaced(&mut self) {
        self.checkpoints.clear();
        self.newest_before = None;
    }

    /// What contradicts this node now, in `term`.
    pub(super) fn contradiction(&self, term: Term) -> Option<Contradiction> {
        self.contradiction.filter(|found| found.by_majority || found.term == term)
    }

    // ------------------------------------------------------------------------------------------- as a follower

    /// The leader of this node names its digest. `Some` besides the verdict: there is a contradiction that was not known.
    pub(super) fn compare(&mut self, said: &CompareState) -> (StateVerdict, Option<Contradiction>) {
        let own = self.checkpoints.iter().find(|(index, _)| *index == said.index);
        let Some((_, own)) = own else { return (StateVerdict::Unknown, None) };
        if *own == said.digest {
            self.contradiction = None;
            return (StateVerdict::Same, None);
        }
        let before = self.contradiction(said.term);
        let found = Contradiction {
            index: before.map_or(said.index, |before| before.index),
            leader: said.leader_id,
            term: said.term,
            by_majority: said.by_majority || before.is_some_and(|before| before.by_majority),
        };
        self.contradiction = Some(found);
        let is_news = before.is_none_or(|before| before.by_majority != found.by_majority);
        (StateVerdict::Differs, is_news.then_some(found))
    }

    // ------------------------------------------------------------------------------------------- as a leader

    /// What this leader of `term` asks its followers to compare now, if it is time.
    pub(super) fn next_comparison(
        &mut self,
        now: Duration,
        term: Term,
        own: NodeId,
        majority: usize,
    ) -> Option<CompareState> {
        if self.named_at.is_some_and(|at| now < at + NAMING_INTERVAL) {
            return None;
        }
        self.named_at = Some(now);
        let newest = self.checkpoints.back().cloned();
        let (index, digest) = std::mem::replace(&mut self.newest_before, newest)?;
        if self.named.as_ref().is_none_or(|named| (named.term, named.index) != (term, index)) {
            let (same, differ) = (BTreeSet::new(), BTreeSet::new());
            self.named = Some(Named { term, index, digest, same, differ });
        }
        self.named.as_ref().map(|named| named.comparison(own, majority))
    }

    /// A follower's verdict on what this leader named.
    pub(super) fn judged(
        &mut self,
        from: NodeId,
        index: Index,
        verdict: StateVerdict,
        (own, term, majority): (NodeId, Term, usize),
    ) -> Judged {
        let Some(named) = self.named.as_mut().filter(|named| named.index == index && named.term == term)
        else {
            return Judged::Nothing;
        };
        match verdict {
            StateVerdict::Same => named.same.insert(from),
            StateVerdict::Differs => named.differ.insert(from),
            StateVerdict::Unknown => false,
        };
        if named.differ.len() >= majority && self.contradiction.is_none_or(|known| !known.by_majority) {
            let found = Contradiction { index, leader: own, term, by_majority: true };
            self.contradiction = Some(found);
            return Judged::OwnStateIsWrong(found);
        }
        // This leader agrees with a majority, whatever an earlier one said.
        let is_right = named.same.len() + 1 >= majority;
        if is_right {
            self.contradiction = self.contradiction.filter(|known| known.by_majority);
        }
        if is_right && verdict == StateVerdict::Differs {
            return Judged::TheirStateIsWrong(named.comparison(own, majority));
        }
        Judged::Nothing
    }
}

/// What follows from a verdict.
pub(super) enum Judged {
    Nothing,
    /// The leader gives way.
    OwnStateIsWrong(Contradiction),
    /// To be told to the follower that differs.
    TheirStateIsWrong(CompareState),
}

impl Named {
    fn comparison(&self, own: NodeId, majority: usize) -> CompareState {
        let by_majority = self.same.len() + 1 >= majority;
        let (term, index, digest) = (self.term, self.index, self.digest.clone());
        CompareState { term, leader_id: own, index, digest, by_majority }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_table_has_fewer_checkpoints_and_all_of_them_are_checkpoints_of_a_smaller_one() {
        const ENTRIES: Index = 4_096;
        let of =
            |servers| (1..=ENTRIES).filter(|index| is_checkpoint(*index, servers)).collect::<BTreeSet<_>>();
        assert_eq!(of(0), of(4));
        assert_eq!(of(3).first(), Some(&16));
        let mut smaller = of(0);
        for servers in 1..=1_024 {
            let these = of(servers);
            assert!(4 * these.len() * servers <= ENTRIES as usize, "{servers} servers");
            assert!(!these.is_empty() && these.is_subset(&smaller), "{servers} servers");
            smaller = these;
        }
    }
}
