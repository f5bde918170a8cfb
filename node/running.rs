//! A node at work: the main thread waits here for the end, and then takes the node apart in order.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, never, select, tick};
use log::{error, info, warn};

use super::ending::Ending;
use super::inbox::Inbox;
use super::shared::Shared;
use crate::http::Server;
use crate::program::{ServiceManager, Stop};
use crate::replica::Input;
use crate::storage::StorageError;

/// How long requests that are under way may take to end once the node was told to stop.
const PUBLIC_DRAIN: Duration = Duration::from_secs(10);

/// The same for reports and RPCs, which take milliseconds.
const CLUSTER_DRAIN: Duration = Duration::from_secs(1);

/// How long answers that are under way may take when the node must end because its disk failed.
const FAILURE_DRAIN: Duration = Duration::from_millis(500);

/// The Raft loop is not called stuck before this time has passed without a turn, however impatient the service manager
/// is.
const STUCK_MIN: Duration = Duration::from_secs(5);

/// All threads of a node, and how to end them.
pub struct RunningNode {
    /// What they share.
    pub shared: Shared,
    /// To the Raft loop.
    pub inbox: Inbox,
    /// The listener for peers and daemons.
    pub cluster: Server,
    /// The listener for clients.
    pub public: Server,
    /// Dropped: whoever waits for long on the cluster address is answered, and the race watch ends.
    pub stop_waiting: Sender<()>,
    /// Dropped: the Raft loop ends.
    pub stop_loop: Sender<()>,
    /// The Raft loop.
    pub loop_thread: JoinHandle<()>,
    /// How the Raft loop ended.
    pub ended: Receiver<Result<(), StorageError>>,
}

impl RunningNode {
    /// Waits until a signal comes or the node cannot go on, and ends it. Until then it tells the service manager that
    /// the node lives, as long as the Raft loop does.
    ///
    /// # Errors
    /// The node could not go on.
    pub fn run_until_stopped(self, stop: &Stop, manager: &ServiceManager) -> Result<(), Ending> {
        let signs = manager.sign_interval().map_or_else(never, tick);
        let patience = manager.sign_interval().unwrap_or_default().max(STUCK_MIN);
        let mut stuck_before = false;
        let failure = loop {
            select! {
                recv(stop.receiver()) -> _ => break None,
                recv(self.ended) -> ended => break Some(loop_failure(ended.ok())),
                recv(signs) -> _ => {
                    let stuck = !self.shared.standing.makes_progress(patience);
                    if !stuck {
                        manager.alive();
                    } else if !stuck_before {
                        error!("the Raft loop is stuck: a bug; the service manager is told no more, and will start the node again");
                    }
                    stuck_before = stuck;
                }
            }
        };
        manager.stopping();
        match failure {
            None => self.stop(),
            Some(reason) => Err(self.fail(reason)),
        }
    }

    /// The node may no longer vote or acknowledge. There is no leadership to hand over, and no client waits for long.
    fn fail(self, reason: String) -> Ending {
        drop(self.stop_waiting);
        self.public.stop(FAILURE_DRAIN);
        self.cluster.stop(FAILURE_DRAIN);
        Ending::Failed(reason)
    }

    /// A clean stop. First the clients' requests end, then leadership is handed over, then consensus ends.
    fn stop(self) -> Result<(), Ending> {
        let cut_off = self.public.stop(PUBLIC_DRAIN);
        if cut_off > 0 {
            warn!("stop: {cut_off} connections of clients were cut off after {} s", PUBLIC_DRAIN.as_secs());
        }
        self.hand_over();
        drop(self.stop_waiting);
        self.cluster.stop(CLUSTER_DRAIN);
        drop(self.stop_loop);
        match self.ended.recv().ok() {
            Some(Ok(())) => {
                // It has returned, so this does not wait.
                let _ = self.loop_thread.join();
                Ok(())
            }
            other => Err(Ending::Failed(loop_failure(other))),
        }
    }

    /// Before a leader stops on purpose, it hands leadership over, so that nobody waits for an election timeout.
    fn hand_over(&self) {
        let Shared { id, election_timeout_max, ref standing, ref roster, .. } = self.shared;
        if !roster.has_other_voters() || standing.get().leader != Some(id) {
            return;
        }
        if self.inbox.deliver_within(election_timeout_max, Input::Transfer { to: None }).is_ok()
            && standing
                .wait_for_leader(election_timeout_max, |leader| leader.is_some_and(|leader| leader != id))
        {
            info!("stop: node {} has handed leadership over", self.shared.id);
        } else {
            warn!(
                "stop: node {} could not hand leadership over in time; the others will elect a leader",
                self.shared.id
            );
        }
    }
}

fn loop_failure(ended: Option<Result<(), StorageError>>) -> String {
    match ended {
        Some(Err(error)) => format!("this node can no longer keep its promises and ends: {error}"),
        Some(Ok(())) => "the Raft loop ended although nobody asked it to".into(),
        None => "the Raft loop panicked: a bug; the log says where. The node ends rather than vote on".into(),
    }
}
