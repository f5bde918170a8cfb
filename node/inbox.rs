//! How messages reach the Raft loop: two bounded inboxes, so that a flood of reports cannot delay the consensus.
//!
//! What happens when an inbox is full differs on purpose. A message of consensus *waits* for room: a lost
//! reply would look like a slow peer, and each peer has only a few messages under way. A report is *refused*:
//! the same server sends a newer one soon, and waiting would only make this one older.
//!
//! Filled by `cluster_service.rs`, `peers.rs`, `leader_watch.rs`, `status.rs`, `live.rs` and `running.rs`, read by
//! `raft_loop.rs`.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::slot::Slot;
use crate::raft::{Entry, Index, Picture, RpcReply};
use crate::replica::{Input, ReportOutcome};

/// How many messages of consensus may wait. Each peer has at most a few under way, so only a stranger can fill
/// it.
pub const CONSENSUS_INBOX_MAX: usize = 1_024;

/// How many reports and questions may wait. When it is full, a daemon gets a 503 and reports again a second later.
pub const REPORT_INBOX_MAX: usize = 4_096;

/// What the replica is told, with the slots by which this node answers. Each is used once.
pub type NodeInput = Input<Slot<RpcReply>, Slot<ReportOutcome>>;

/// What daemons and readers wait for.
pub enum ServiceInput {
    /// A daemon's report.
    Report(NodeInput),
    /// `GET /ui/state`: the consensus as a picture.
    Picture(Slot<Picture>),
    /// `GET /log`.
    ReadLog {
        /// Entries after this index.
        after: Index,
        /// At most so many.
        limit: usize,
        /// Where they go.
        entries: Slot<Vec<Entry>>,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The inbox stayed full.
    Full,
    /// The loop has ended.
    Closed,
}

/// The senders' end of both inboxes.
#[derive(Clone)]
pub struct Inbox {
    consensus: Sender<NodeInput>,
    service: Sender<ServiceInput>,
}

/// The loop's end of both inboxes.
pub struct Inboxes {
    /// Messages of consensus.
    pub consensus: Receiver<NodeInput>,
    /// Reports and questions.
    pub service: Receiver<ServiceInput>,
}

/// Both ends, with room for so many messages and so many reports.
pub fn inbox(consensus_max: usize, service_max: usize) -> (Inbox, Inboxes) {
    let (consensus, consensus_read) = bounded(consensus_max);
    let (service, service_read) = bounded(service_max);
    (Inbox { consensus, service }, Inboxes { consensus: consensus_read, service: service_read })
}

impl Inbox {
    /// Hands in a message of consensus. Waits while there is no room.
    ///
    /// # Errors
    /// [`Refused::Closed`] when the loop has ended.
    pub fn deliver(&self, message: NodeInput) -> Result<(), Refused> {
        self.consensus.send(message).map_err(|_| Refused::Closed)
    }

    /// The same, but waits no longer than `patience`.
    ///
    /// # Errors
    /// [`Refused::Full`] when there was no room in all that time, [`Refused::Closed`] when the loop has ended.
    pub fn deliver_within(&self, patience: Duration, message: NodeInput) -> Result<(), Refused> {
        self.consensus
            .send_timeout(message, patience)
            .map_err(|error| if error.is_timeout() { Refused::Full } else { Refused::Closed })
    }

    /// Hands in a report or a question. Never waits.
    ///
    /// # Errors
    /// [`Refused::Full`] when there is no room now, [`Refused::Closed`] when the loop has ended.
    pub fn offer(&self, input: ServiceInput) -> Result<(), Refused> {
        self.service.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Full,
            TrySendError::Disconnected(_) => Refused::Closed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(rpc: u64) -> NodeInput {
        Input::Lost { to: 2, rpc }
    }

    fn question() -> ServiceInput {
        ServiceInput::ReadLog { after: 0, limit: 1, entries: Slot::new().0 }
    }

    #[test]
    fn messages_wait_for_room_and_none_is_lost() {
        let (inbox, read) = inbox(1, 1);
        let sending = std::thread::spawn(move || (1..=1_000).try_for_each(|rpc| inbox.deliver(lost(rpc))));
        for expected in 1..=1_000 {
            let message = read.consensus.recv().expect("each message arrives");
            assert!(
                matches!(message, Input::Lost { rpc, .. } if rpc == expected),
                "{message:?}, not {expected}"
            );
        }
        assert_eq!(sending.join().expect("it does not panic"), Ok(()));
    }

    #[test]
    fn patience_ends() {
        let (inbox, read) = inbox(1, 1);
        inbox.deliver(lost(1)).expect("there is room");
        assert_eq!(inbox.deliver_within(Duration::from_millis(1), lost(2)), Err(Refused::Full));
        drop(read);
        assert_eq!(inbox.deliver_within(Duration::from_secs(60), lost(3)), Err(Refused::Closed));
        assert_eq!(inbox.deliver(lost(4)), Err(Refused::Closed));
    }

    #[test]
    fn a_report_is_turned_away_by_a_full_inbox_and_leaves_the_consensus_alone() {
        let (inbox, read) = inbox(1, 1);
        assert_eq!(inbox.offer(question()), Ok(()));
        assert_eq!(inbox.offer(question()), Err(Refused::Full));
        assert_eq!(inbox.deliver(lost(1)), Ok(()), "it has an inbox of its own");
        assert!(read.service.recv().is_ok());
        assert_eq!(inbox.offer(question()), Ok(()), "there is room again");
        drop(read);
        assert_eq!(inbox.offer(question()), Err(Refused::Closed));
    }
}
