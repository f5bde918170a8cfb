//! The one central loop of a node: it carries out, one batch after the other, what the replica decides.
//!
//! ```text
//! listeners ──┐                              ┌─► peer senders
//! peers ──────┼─► inboxes ─► Replica ─► effects ─► storage: one write, one fdatasync
//! the clock ──┘                              ├─► the published view and standing
//!                                            └─► peers and daemons that wait for an answer
//! ```
//!
//! The loop waits for its inboxes, for the replica's next deadline and for its disk, and for nothing else. It does no
//! network I/O: it hands requests to slots, which never make it wait. It decides nothing: [`Replica`] decides, and the
//! simulator drives the same type. Started by `wiring.rs`; fed through `inbox.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use log::{debug, error, info, warn};

use super::consensus_counts::ConsensusCounts;
use super::exchange::Exchange;
use super::inbox::{Inboxes, ServiceInput};
use super::leader_watch::LeaderNews;
use super::peers::Peers;
use super::recent::Recent;
use super::roster::Roster;
use super::slot::Slot;
use super::standing::{Doing, StandingBoard};
use crate::balancer::{Change, Published};
use crate::linux::BootClock;
use crate::logging::RateLimit;
use crate::raft::{self, Index, NodeId, RpcReply, Term};
use crate::replica::{Effect, Replica, ReplicaNotice, ReportOutcome, Unread};
use crate::storage::{CommitHint, Disk, Storage, StorageError};

/// How much of an inbox is taken in one batch: it bounds the time between two looks at the clock.
const BATCH_MAX: usize = 1_024;

/// The loop takes a turn at least this often, also if nothing comes: who watches it can tell waiting from hanging.
const TURN_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Lines about suspicious messages: at most one in this time.
const SUSPICIOUS_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Lines about votes and transfers in the same time.
const VOTE_LINES_MAX: u64 = 100;

/// The replica, answering through this node's channels.
pub type NodeReplica = Replica<Slot<RpcReply>, Slot<ReportOutcome>>;

/// Everything the loop owns.
pub struct RaftLoop<D: Disk> {
    /// Decides.
    pub replica: NodeReplica,
    /// What it must not forget.
    pub storage: Storage<D>,
    /// The senders to the other nodes.
    pub peers: Peers,
    /// Tells the other nodes what this one has in flight.
    pub exchange: Exchange,
    /// Who the members are, for the other threads.
    pub roster: Arc<Roster>,
    /// Where the table is shown to the threads that route.
    pub published: Arc<Published>,
    /// Where role, term and indexes are shown.
    pub standing: Arc<StandingBoard>,
    /// The leader that the death detector watches.
    pub leaders: LeaderNews,
    /// What happened last, for the page.
    pub recent: Arc<Recent>,
    /// What is counted and measured, for `/metrics`.
    pub counts: Arc<ConsensusCounts>,
    /// Dates what is remembered of the commit index.
    pub boot_clock: BootClock,
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
    /// Any error of the disk: from then on this node may neither vote nor acknowledge, since it cannot know what the
    /// disk remembers. Its process ends.
    pub fn run(mut self, inboxes: &Inboxes, stop: &Receiver<()>) -> Result<(), StorageError> {
        let Inboxes { consensus, service } = inboxes;
        self.carry_out()?;
        loop {
            // A compaction goes on whether or not a message comes.
            let until_deadline = if self.storage.is_compacting() {
                Duration::ZERO
            } else {
                self.replica.deadline().saturating_sub(self.now()).min(TURN_INTERVAL_MAX)
            };
            self.standing.does(Doing::Waiting);
            // Wait for the first of: a message, the deadline, the end.
            select! {
                recv(consensus) -> input => if let Ok(input) = input { self.replica.receive(self.now(), input) },
                recv(service) -> input => if let Ok(input) = input { self.serve(input) },
                recv(stop) -> _ => return self.remember_at_the_end(),
                default(until_deadline) => {}
            }
            self.standing.does(Doing::Working);
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
            if self.storage.is_compacting() {
                // The write of this batch may have taken its time: a heartbeat that is due goes out first.
                let now = self.now();
                self.replica.end_batch(now, Unread { messages: consensus.len(), reports: service.len() });
                self.carry_out()?;
                self.standing.does(Doing::Writing);
                self.storage.continue_compaction()?;
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn serve(&mut self, input: ServiceInput) {
        match input {
            ServiceInput::Report(report) => self.replica.receive(self.now(), report),
            ServiceInput::Picture(page) => page.put(self.replica.raft().picture(self.now())),
            ServiceInput::ReadLog { after, limit, entries } => {
                let log = self.replica.raft().log();
                entries.put(log.slice(after.saturating_add(1), limit, usize::MAX));
            }
        }
    }

    /// A clean end: the next process shall serve from the newest state.
    fn remember_at_the_end(&mut self) -> Result<(), StorageError> {
        self.replica.hint().map_or(Ok(()), |hint| self.do_one(hint))
    }

    fn carry_out(&mut self) -> Result<(), StorageError> {
        while let Some(effect) = self.replica.next_effect() {
            self.do_one(effect)?;
        }
        Ok(())
    }

    fn do_one(&mut self, effect: Effect<Slot<RpcReply>, Slot<ReportOutcome>>) -> Result<(), StorageError> {
        match effect {
            Effect::Send { to, rpc, request } => self.peers.send(to, rpc, request),
            Effect::Write(write) => {
                self.standing.does(Doing::Writing);
                let began = Instant::now();
                self.storage.make_durable(write.steps)?;
                self.counts.syncs.add(began.elapsed());
                self.standing.does(Doing::Working);
                self.replica.durable(self.now(), write.mark);
            }
            Effect::Publish => {
                self.published.publish(self.replica.table(), self.now());
                self.standing.set(self.replica.standing());
            }
            Effect::Members { configuration, leaving } => {
                self.roster.set(&configuration);
                self.peers.reach(&self.roster.reached(&leaving));
                self.exchange.reach(&self.roster.reached(&[]));
            }
            Effect::Watch(leader) => self.leaders.tell(leader),
            Effect::Reply { caller, reply } => caller.put(reply),
            Effect::Answer { caller, outcome } => caller.put(outcome),
            Effect::ProposalEnded { took, committed } => self.counts.proposal_ended(took, committed),
            Effect::Remember { index, term } => self.remember(index, term)?,
            Effect::Notice(notice) => {
                let id = self.replica.raft().id();
                self.recent.happened(&notice, id);
                self.counts.happened(&notice);
                log_notice(&notice, id);
            }
        }
        Ok(())
    }

    fn remember(&mut self, index: Index, term: Term) -> Result<(), StorageError> {
        let fresh_at = self.boot_clock.ago(self.replica.standing().age(self.now()));
        self.standing.does(Doing::Writing);
        let remembered = self.storage.remember(&CommitHint { index, term, fresh_at });
        self.standing.does(Doing::Working);
        match remembered {
            // A hint that is lost costs only freshness. If the disk is ill, the next append says so.
            Err(error @ StorageError::Io { .. }) => {
                debug!("the commit hint was not written: {error}");
                Ok(())
            }
            result => result,
        }
    }
}

/// Writes a notice to the log of node `id`, at its level and no more often than its kind may.
fn log_notice(notice: &ReplicaNotice, id: NodeId) {
    let line = notice.line(id);
    let at_most = |limit: &RateLimit| {
        if let Some(more) = limit.allow(Instant::now()) {
            warn!("{line}{}", more_like_it(more));
        }
    };
    match notice {
        ReplicaNotice::Raft(raft::Notice::Suspicious { .. }) => at_most(&SUSPICIOUS),
        ReplicaNotice::PeerReset { .. } => at_most(&INCARNATIONS),
        ReplicaNotice::Applied { change: Change::NoRoom, .. } => at_most(&NO_ROOM),
        // A stranger can ask for votes, and for transfers, as often as he likes.
        ReplicaNotice::Raft(
            raft::Notice::VoteGranted { .. }
            | raft::Notice::VoteRefused { .. }
            | raft::Notice::Transfer { .. },
        ) => match VOTES.allow(Instant::now()) {
            Some(0) => info!("{line}"),
            Some(more) => info!("{line} ({more} lines of this kind were left out before it)"),
            None => {}
        },
        ReplicaNotice::Raft(raft::Notice::VoteReceived { .. }) | ReplicaNotice::VerdictLost { .. } => {
            debug!("{line}")
        }
        ReplicaNotice::Overdue(_)
        | ReplicaNotice::Applied {
            change: Change::WorkerDown | Change::Died | Change::New { evicted: Some(_) },
            ..
        } => warn!("{line}"),
        ReplicaNotice::Applied { change: Change::Ignored(_), .. } | ReplicaNotice::Contradiction(_) => {
            error!("{line}")
        }
        ReplicaNotice::Raft(_)
        | ReplicaNotice::Applied { .. }
        | ReplicaNotice::Recovered { .. }
        | ReplicaNotice::Agrees { .. } => {
            info!("{line}")
        }
    }
}

/// What a line that is logged at a bounded rate says of those that were not.
fn more_like_it(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" ({more} more like it since the last such line)") }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crossbeam_channel::Sender;

    use super::*;
    use crate::balancer::{Chooser, Report, SERVERS_MAX, ServerCommand};
    use crate::node::inbox::{Inbox, inbox};
    use crate::node::leader_watch::leader_news;
    use crate::node::peers::Sending;
    use crate::node::slot::Taker;
    use crate::raft::{Founding, RoleName};
    use crate::replica::{Input, ReplicaSettings};
    use crate::signing::Seal;
    use crate::storage::{DirectoryDisk, Fresh, Identity};

    /// A directory whose files cannot be written any more once the test says so.
    struct Failing {
        disk: DirectoryDisk,
        fails: Arc<AtomicBool>,
        /// While a test holds this, the disk finishes no write.
        frozen: Arc<Mutex<()>>,
    }

    impl Disk for Failing {
        fn list(&self) -> io::Result<Vec<String>> {
            self.disk.list()
        }
        fn read(&self, name: &str) -> io::Result<Vec<u8>> {
            self.disk.read(name)
        }
        fn create(&mut self, name: &str) -> io::Result<()> {
            self.disk.create(name)
        }
        fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
            if self.fails.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            drop(self.frozen.lock());
            self.disk.append(name, bytes)
        }
        fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.disk.overwrite(name, bytes)
        }
        fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
            self.disk.truncate(name, length)
        }
        fn sync(&mut self, name: &str) -> io::Result<()> {
            self.disk.sync(name)
        }
        fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
            self.disk.rename(from, to)
        }
        fn remove(&mut self, name: &str) -> io::Result<()> {
            self.disk.remove(name)
        }
        fn sync_directory(&mut self) -> io::Result<()> {
            self.disk.sync_directory()
        }
    }

    /// The loop of a node that is alone, on a thread of its own.
    struct Running {
        inbox: Inbox,
        published: Arc<Published>,
        standing: Arc<StandingBoard>,
        fails: Arc<AtomicBool>,
        frozen: Arc<Mutex<()>>,
        stop: Sender<()>,
        thread: std::thread::JoinHandle<Result<(), StorageError>>,
        directory: tempfile::TempDir,
    }

    impl Running {
        fn start() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let fails = Arc::default();
            let disk = DirectoryDisk::open(directory.path().join("node-1")).expect("a new directory");
            let frozen = Arc::default();
            let disk = Failing { disk, fails: Arc::clone(&fails), frozen: Arc::clone(&frozen) };
            let founding = Founding::new("test", [1]);
            let fresh = Fresh { incarnation: 7, records: founding.records() };
            let identity = Identity { founding: founding.clone(), node: 1 };
            let (storage, recovered) = Storage::open(disk, &identity, fresh).expect("an empty directory");
            let timeouts = (Duration::from_millis(20), Duration::from_millis(40));
            let settings = ReplicaSettings {
                raft: raft::Settings::new(1, [1].into(), timeouts, Duration::from_millis(5), 7),
                server_timeout: Duration::from_secs(60),
                snapshot_entries: 100,
                servers_max: SERVERS_MAX,
            };
            let replica =
                Replica::new(settings, recovered.hard_state, None, recovered.entries, Duration::ZERO)
                    .expect("a fresh start");
            let (inbox, inboxes) = inbox(4, 4);
            let sending = Sending {
                own_id: 1,
                seal: Seal::new("test", "node-1", None).expect("randomness").founded(&founding),
                incarnation: 7,
                reply_timeout: timeouts.1,
                inbox: inbox.clone(),
                refusals: Arc::default(),
                cuts: Arc::default(),
            };
            let published = Arc::new(Published::new(replica.table(), Duration::ZERO));
            let standing = Arc::new(StandingBoard::new(timeouts.1));
            let roster = Arc::new(Roster::new(1, &[], replica.raft().configuration()));
            let (stop, stopped) = crossbeam_channel::bounded(0);
            let chooser = Chooser::new(Duration::MAX, 1);
            let exchange =
                Exchange::start(&sending.seal, &chooser, 1, Instant::now(), &stopped).expect("a thread");
            let raft_loop = RaftLoop {
                replica,
                storage,
                peers: Peers::new(sending),
                exchange,
                roster,
                published: Arc::clone(&published),
                standing: Arc::clone(&standing),
                leaders: leader_news().0,
                recent: Arc::default(),
                counts: Arc::default(),
                boot_clock: BootClock::new(),
                started: Instant::now(),
            };
            let thread = std::thread::spawn(move || raft_loop.run(&inboxes, &stopped));
            assert!(standing.wait_for_leader(Duration::from_secs(60), |leader| leader == Some(1)));
            Self { inbox, published, standing, fails, frozen, stop, thread, directory }
        }

        /// Hands a report in. The channel ends without an answer if the loop does.
        fn report(&self, sequence: u64) -> Taker<ReportOutcome> {
            let worker = "10.0.0.11:13337".parse().expect("an address");
            let report = Report {
                server: "a".into(),
                worker,
                cpu: 1.0,
                cores: 1,
                cpu_known: true,
                epoch: 1,
                sequence,
                worker_up: true,
                worker_active: None,
                instance: None,
            };
            let command = ServerCommand::Report(report.clone()).to_command();
            let (caller, outcome) = Slot::new();
            let input = ServiceInput::Report(Input::Report { report, command, caller });
            self.inbox.offer(input).expect("the inbox is empty");
            outcome
        }
    }

    #[test]
    fn who_is_told_that_a_report_is_committed_finds_it_on_the_disk_and_in_the_view() {
        let node = Running::start();
        let Ok(ReportOutcome::Committed { index, term }) = node.report(1).recv() else {
            panic!("a node that is alone commits");
        };
        let view = node.published.view();
        assert_eq!(view.get("a").map(|server| server.report().sequence), Some(1));
        assert!(node.standing.get().applied_index >= index && node.standing.get().term == term);
        let log = std::fs::read_to_string(node.directory.path().join("node-1/log")).expect("a log");
        assert!(log.contains("\"sequence\":1"), "{log}");
        drop(node.stop);
        assert!(node.thread.join().expect("it does not panic").is_ok());
    }

    #[test]
    fn a_leader_whose_disk_hangs_is_shown_as_stuck_and_leads_no_more_until_the_disk_is_back() {
        let node = Running::start();
        let frozen = node.frozen.lock().expect("no holder panics");
        let report = node.report(1);
        let deadline = Instant::now() + Duration::from_secs(60);
        // Before it writes, the machine may let it stand still at its work; and the disk may be slow before it hangs.
        let is_shown = || {
            let writes = node.standing.stuck().is_some_and(|stuck| stuck.doing == Doing::Writing);
            let shown = node.standing.get();
            writes && (shown.role, shown.leader) == (RoleName::Follower, None)
        };
        while !is_shown() {
            assert!(Instant::now() < deadline, "nobody notices that the disk hangs");
            std::thread::yield_now();
        }
        drop(frozen);
        assert!(matches!(report.recv(), Ok(ReportOutcome::Committed { .. })), "nothing was lost");
        // A node that is stuck shows no leader.
        while node.standing.get().leader != Some(1) {
            assert!(Instant::now() < deadline + Duration::from_secs(60), "{:?}", node.standing.stuck());
            std::thread::yield_now();
        }
    }

    #[test]
    fn after_a_failed_write_nobody_is_told_anything_and_the_loop_ends() {
        let node = Running::start();
        // With it, all that a new leader writes by itself is on the disk.
        let before = node.report(1).recv();
        assert!(matches!(before, Ok(ReportOutcome::Committed { .. })), "{before:?}");
        node.fails.store(true, Ordering::SeqCst);
        let promised = node.report(2).recv();
        assert!(promised.is_err(), "the disk did not take it, and its daemon was told {promised:?}");
        let ended = node.thread.join().expect("it does not panic");
        assert!(matches!(ended, Err(StorageError::Io { .. })), "{ended:?}");
        let view = node.published.view();
        assert_eq!(view.get("a").map(|server| server.report().sequence), Some(1));
    }
}
