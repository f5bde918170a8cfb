//! The one central loop of a node: it carries out, one batch after the other, what the replica decides.
//!
//! ```text
//! listeners ──┐                              ┌─► peer senders
//! peers ──────┼─► inboxes ─► Replica ─► effects ─► storage: one write, one fdatasync
//! the clock ──┘                              ├─► the published view and standing
//!                                            └─► peers and daemons that wait for an answer
//! ```
//!
//! The loop blocks on its inboxes and on the replica's next deadline, and on nothing else: it never does network I/O, and
//! it hands requests to slots, which never make it wait. It decides nothing: [`Replica`] decides, and the
//! simulator drives the same type. Started by `wiring.rs`; fed through `inbox.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, select};
use log::{debug, error, info, warn};

use super::inbox::{Inboxes, ServiceInput};
use super::leader_watch::LeaderNews;
use super::peers::Peers;
use super::standing::StandingBoard;
use crate::balancer::{Change, Published};
use crate::logging::RateLimit;
use crate::raft::{self, NodeId, RpcReply};
use crate::replica::{Effect, Notice, Replica, ReportOutcome, Unread};
use crate::storage::{Disk, Storage, StorageError};

/// How much of an inbox is taken in one batch: it bounds the time between two looks at the clock.
const BATCH_MAX: usize = 1_024;

/// Lines about suspicious messages: at most one in this time.
const SUSPICIOUS_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Lines about votes and transfers in the same time.
const VOTE_LINES_MAX: u64 = 100;

/// The replica, answering through this node's channels.
pub type NodeReplica = Replica<Sender<RpcReply>, Sender<ReportOutcome>>;

/// Everything the loop owns.
pub struct RaftLoop<D: Disk> {
    /// Decides.
    pub replica: NodeReplica,
    /// What it must not forget.
    pub storage: Storage<D>,
    /// The senders to the other nodes.
    pub peers: Peers,
    /// Where the table is shown to the threads that route.
    pub published: Arc<Published>,
    /// Where role, term and indexes are shown.
    pub standing: Arc<StandingBoard>,
    /// The leader that the death detector watches.
    pub leaders: LeaderNews,
    /// The moment that the loop's clock counts from.
    pub started: Instant,
}

/// Lines about messages that cannot be right: strangers may cause any number of them.
static SUSPICIOUS: RateLimit = RateLimit::new(SUSPICIOUS_LINE_INTERVAL);

/// Lines about peers that seem to have another data directory: strangers may cause any number of them.
static INCARNATIONS: RateLimit = RateLimit::new(SUSPICIOUS_LINE_INTERVAL);

/// Lines about servers that a full table did not let in: a stranger without a secret may cause these, too.
static NO_ROOM: RateLimit = RateLimit::new(SUSPICIOUS_LINE_INTERVAL);

/// Lines about votes asked for and transfers. Elections come in clusters of a few dozen at the most.
static VOTES: RateLimit = RateLimit::burst(VOTE_LINES_MAX, SUSPICIOUS_LINE_INTERVAL);

impl<D: Disk> RaftLoop<D> {
    /// Runs until `stop` is closed, or until the disk fails.
    ///
    /// # Errors
    /// Any error of the disk: from then on this node may neither vote nor acknowledge, since it cannot know what the disk
    /// remembers. Its process ends.
    pub fn run(mut self, inboxes: &Inboxes, stop: &Receiver<()>) -> Result<(), StorageError> {
        let Inboxes { consensus, service } = inboxes;
        self.carry_out()?;
        loop {
            let deadline = self.started + self.replica.deadline();
            // Wait for the first of: a message, the deadline, the end.
            select! {
                recv(consensus) -> input => if let Ok(input) = input { self.replica.receive(self.now(), input) },
                recv(service) -> input => if let Ok(input) = input { self.serve(input) },
                recv(stop) -> _ => return Ok(()),
                recv(at(deadline)) -> _ => {}
            }
            // Then take what else has arrived, without waiting: all of it shares one write and one sync.
            for input in consensus.try_iter().take(BATCH_MAX) {
                self.replica.receive(self.now(), input);
            }
            for input in service.try_iter().take(BATCH_MAX) {
                self.serve(input);
            }
            // The clock first, then the counts: a message that arrives in between is counted as unread, and
            // never the other way round.
            let now = self.now();
            self.replica.end_batch(now, Unread { messages: consensus.len(), reports: service.len() });
            self.carry_out()?;
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn serve(&mut self, input: ServiceInput) {
        match input {
            ServiceInput::Report(report) => self.replica.receive(self.now(), report),
            ServiceInput::ReadLog { after, limit, entries } => {
                let log = self.replica.raft().log();
                // The reader may be gone. Then nobody needs the answer.
                let _ = entries.send(log.slice(after.saturating_add(1), limit, usize::MAX));
            }
        }
    }

    fn carry_out(&mut self) -> Result<(), StorageError> {
        while let Some(effect) = self.replica.next_effect() {
            match effect {
                Effect::Send { to, rpc, request } => self.peers.send(to, rpc, request),
                Effect::Write(write) => {
                    self.storage.make_durable(write.steps)?;
                    self.replica.durable(self.now(), write.mark);
                }
                Effect::Publish => {
                    self.published.publish(self.replica.table(), self.now());
                    self.standing.set(self.replica.standing());
                }
                Effect::Watch(leader) => self.leaders.tell(leader),
                // Whoever waited may have hung up.
                Effect::Reply { caller, reply } => drop(caller.send(reply)),
                Effect::Answer { caller, outcome } => drop(caller.send(outcome)),
                Effect::Notice(notice) => log_notice(&notice, self.replica.raft().id()),
            }
        }
        Ok(())
    }
}

/// Writes a notice to the log of node `id`, at its level and no more often than its kind may.
fn log_notice(notice: &Notice, id: NodeId) {
    let line = notice.line(id);
    let at_most = |limit: &RateLimit| {
        if let Some(more) = limit.allow(Instant::now()) {
            warn!("{line}{}", more_like_it(more));
        }
    };
    match notice {
        Notice::Raft(raft::Notice::Suspicious { .. }) => at_most(&SUSPICIOUS),
        Notice::PeerReset { .. } => at_most(&INCARNATIONS),
        Notice::Applied { change: Change::NoRoom, .. } => at_most(&NO_ROOM),
        // A stranger can ask for votes, and for transfers, as often as he likes.
        Notice::Raft(
            raft::Notice::VoteGranted { .. }
            | raft::Notice::VoteRefused { .. }
            | raft::Notice::Transfer { .. },
        ) => match VOTES.allow(Instant::now()) {
            Some(0) => info!("{line}"),
            Some(more) => info!("{line} ({more} lines of this kind were left out before it)"),
            None => {}
        },
        Notice::Raft(raft::Notice::VoteReceived { .. }) | Notice::VerdictLost { .. } => debug!("{line}"),
        Notice::Overdue(_)
        | Notice::Applied {
            change: Change::WorkerDown | Change::Died | Change::New { evicted: Some(_) },
            ..
        } => warn!("{line}"),
        Notice::Applied { change: Change::Ignored(_), .. } => error!("{line}"),
        Notice::Raft(_) | Notice::Applied { .. } | Notice::Recovered { .. } => info!("{line}"),
    }
}

/// What a line that is logged at a bounded rate says of those that were not.
fn more_like_it(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" ({more} more like it since the last such line)") }
}
