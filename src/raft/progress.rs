//! What a leader knows of one follower: Figure 2's `nextIndex[]` and `matchIndex[]`, and how to talk to it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::pace::Pace;
use super::{Index, RpcId, Snapshot};

/// For so many requests to one peer, the leader remembers when it sent them. One is in flight at a time. A
/// late reply to an older one still shows that the peer is alive.
const SENT_REQUESTS_MAX: usize = 8;

/// A leader's view of one follower.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The next entry to send (Figure 2). Always above `match_index`.
    pub(super) next_index: Index,
    /// The highest entry known to be durable there (Figure 2).
    pub(super) match_index: Index,
    /// The directory that the follower spoke of last; `None` before its first reply.
    pub(super) incarnation: Option<u64>,
    /// The follower is joining: it does not count before it has this entry, and the leader has admitted it.
    pub(super) barrier: Option<Index>,
    /// For a learner: the entries that the leader had when its round began, and when that was (`members.rs`).
    pub(super) round: Option<(Index, Duration)>,
    /// It is no member any more, since then; it is still to be told.
    pub(super) leaving_since: Option<Duration>,
    /// The greatest commit index that it was sent together with its entry, or after it.
    pub(super) commit_sent: Index,
    /// The request that is under way, if any: one at a time, as HTTP does it.
    pub(super) in_flight: Option<RpcId>,
    /// When the last request was sent.
    pub(super) last_sent: Option<Duration>,
    /// When the newest request that was answered had been sent. At that time the follower certainly listened
    /// to this leader. CheckQuorum counts from it (thesis 6.2).
    pub(super) last_acknowledged: Duration,
    /// No request before this time. The last one was lost, and a dead peer must not get a request with each
    /// new proposal.
    pub(super) pause_until: Duration,
    /// A heartbeat is due, even if there is no entry to send.
    pub(super) heartbeat_due: bool,
    /// The last append was refused, or it may be lost. The leader asks with empty ones: where do the logs differ, and does
    /// the peer answer at all? A large append that is sent twice only makes a slow link slower.
    pub(super) probing: bool,
    /// The snapshot that is being sent, if the entries it needs are compacted, and the next byte of it.
    pub(super) snapshot: Option<(Arc<Snapshot>, u64)>,
    /// How much one request may carry.
    pub(super) pace: Pace,
    /// Requests, when they were sent, and the bytes that they carried.
    sent: VecDeque<(RpcId, Duration, usize)>,
}

impl Progress {
    /// At the beginning of a leader's term (Figure 2: "reinitialized after election").
    pub(super) fn new(last_index: Index, now: Duration) -> Self {
        Self {
            next_index: last_index + 1,
            match_index: 0,
            incarnation: None,
            barrier: None,
            round: None,
            leaving_since: None,
            commit_sent: 0,
            in_flight: None,
            last_sent: None,
            last_acknowledged: now,
            pause_until: now,
            heartbeat_due: true,
            probing: false,
            snapshot: None,
            pace: Pace::new(),
            sent: VecDeque::new(),
        }
    }

    /// Whether the follower counts: for a commit, for CheckQuorum, as a successor.
    pub(super) fn counts(&self) -> bool {
        self.barrier.is_none()
    }

    /// What a commit may count on.
    pub(super) fn counted_match(&self) -> Index {
        if self.counts() { self.match_index } else { 0 }
    }

    /// What CheckQuorum may count on.
    pub(super) fn counted_contact(&self) -> Duration {
        if self.counts() { self.last_acknowledged } else { Duration::ZERO }
    }

    /// A request goes out, with so many bytes of entries or of a snapshot.
    pub(super) fn sent(&mut self, rpc: RpcId, bytes: usize, now: Duration) {
        if self.sent.len() == SENT_REQUESTS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((rpc, now, bytes));
        self.in_flight = Some(rpc);
        self.last_sent = Some(now);
        self.heartbeat_due = false;
    }

    /// The reply to `rpc` came in. Whether that is a request of this leadership (a recent one): a reply may also be to one
    /// that this node sent as leader of an earlier term. `allowed`: see [`Pace::answered`].
    pub(super) fn answered(&mut self, rpc: RpcId, now: Duration, allowed: Duration) -> bool {
        let position = self.sent.iter().position(|(id, ..)| *id == rpc);
        if let Some((_, sent_at, bytes)) = position.and_then(|position| self.sent.remove(position)) {
            self.last_acknowledged = self.last_acknowledged.max(sent_at);
            self.pace.answered(bytes, now.saturating_sub(sent_at), allowed);
        }
        if self.in_flight == Some(rpc) {
            self.in_flight = None;
        }
        position.is_some()
    }

    /// The sender says that `rpc` gets no reply. (If one comes all the same, it counts.)
    pub(super) fn lost(&mut self, rpc: RpcId, now: Duration, allowed: Duration) {
        if let Some((_, sent_at, bytes)) = self.sent.iter().find(|(id, ..)| *id == rpc) {
            self.pace.lost(*bytes, now.saturating_sub(*sent_at), allowed);
        }
    }

    /// The follower's log is durable and equal up to `index`. Never goes backwards.
    pub(super) fn matched(&mut self, index: Index) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index + 1);
    }

    /// See `fingerprint.rs`. Requests that no message carries any more can never be answered: they do not matter.
    pub(super) fn fingerprint(
        &self,
        now: Duration,
        rpc_name: &dyn Fn(RpcId) -> Option<u64>,
        hasher: &mut impl Hasher,
    ) {
        let since = |moment: Duration| (now.saturating_sub(moment), moment.saturating_sub(now));
        (self.next_index, self.match_index, self.heartbeat_due, self.probing).hash(hasher);
        (self.incarnation, self.barrier, self.commit_sent).hash(hasher);
        self.round.map(|(target, began)| (target, since(began))).hash(hasher);
        self.leaving_since.map(since).hash(hasher);
        self.in_flight.map(rpc_name).hash(hasher);
        (self.last_sent.map(since), since(self.last_acknowledged)).hash(hasher);
        // A pause that is over counts as no pause.
        self.pause_until.saturating_sub(now).hash(hasher);
        self.snapshot.as_ref().map(|(snapshot, offset)| (snapshot.last_index, offset)).hash(hasher);
        self.pace.fingerprint(hasher);
        for (rpc, sent_at, bytes) in &self.sent {
            if let Some(name) = rpc_name(*rpc) {
                (name, since(*sent_at), bytes).hash(hasher);
            }
        }
    }
}
