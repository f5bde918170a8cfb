//! The death detector (docs/raft.md, "The death hint"): each follower keeps one request open at its leader.
//! When the leader's process dies, the kernel closes its sockets, and the follower knows within a millisecond,
//! long before the election timeout.
//!
//! It is a hint, not proof. A connection may also end because the leader stops listening to it, or because something
//! between the two cut it. So after a close the follower tries to connect again. Only if the connection is refused does
//! it send the hint to the loop. The core then asks for pre-votes, and a majority that still hears the leader refuses
//! them. A machine or a cable that is gone closes nothing: that is what the election timeout is for.
//!
//! One try is not enough. A dying process closes its descriptors one after the other, in the order of their
//! numbers (`close_files` in Linux). On a busy machine it may lose the processor in between: the watched
//! connection is closed, and the listening socket still takes connections. So a follower whose connection was
//! accepted tries a few times more before it believes that the leader lives.
//!
//! The hint is repeated for a moment. The dead leader's last heartbeat may still be on its way through this
//! node's threads. If the loop reads it after the hint, it believes that the leader lives.
//!
//! One thread per node, beside the loop: it waits for a leader, watches it, and starts over when there is
//! another. When the loop names another leader ([`LeaderNews`]), this thread cuts the open request off and
//! watches the new leader. The old leader may live, or hang, and keep the request open for long.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use log::{debug, info};

use super::cuts::Cuts;
use super::inbox::Inbox;
use super::roster::Roster;
use super::slot::{Slot, Taker};
use crate::http::client::{CallErrorKind, CancelHandle, Client, ClientTimeouts};
use crate::protocol::{Purpose, WatchRequest, node_name, path, to_json};
use crate::raft::NodeId;
use crate::replica::Input;
use crate::signing::{Recipient, Seal, SealedCallError};

/// A leader answers a watch after so long, and the follower asks again. This finds a connection that the other
/// side has forgotten.
pub const WATCH_ANSWER_AFTER: Duration = Duration::from_secs(10);

/// A leader that does not answer for so long hangs. That is a matter of the election timeout.
const WATCH_RECEIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Opening a connection to a leader that lives takes less.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The pauses between the tries to connect to a leader whose connection was closed. A dying process has closed
/// its listening socket within the first few. A living one gets so many tries and no more.
const KNOCK_PAUSES: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(15),
    Duration::from_millis(30),
    Duration::from_millis(60),
];

/// While the loop names no other leader, the hint is sent again after each of these pauses, if connections are
/// still refused.
const REPEAT_PAUSES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
];

/// If the loop still names the same leader after so long, it hears that leader, so the leader lives. Then the
/// watch begins again.
const HINT_OLD_AFTER: Duration = Duration::from_secs(5);

/// After a watch that failed for another reason than a death, the next begins not before this.
const PAUSE: Duration = Duration::from_millis(200);

/// The answer is a word.
const ANSWER_BYTES_MAX: usize = 1024;

/// The loop's end: it names the leader that this node follows.
pub struct LeaderNews {
    newest: Slot<Option<NodeId>>,
    watch: Arc<Mutex<CancelHandle>>,
}

impl LeaderNews {
    /// To be called each time that changes, by the loop alone. Never waits.
    pub fn tell(&self, leader: Option<NodeId>) {
        // In this order: the watching thread prepares its watch before it looks for news, so it misses none.
        self.newest.put(leader);
        lock(&self.watch).cancel();
    }
}

/// The watching thread's end.
pub struct LeaderNewsReceiver {
    newest: Taker<Option<NodeId>>,
    watch: Arc<Mutex<CancelHandle>>,
}

/// Both ends.
pub fn leader_news() -> (LeaderNews, LeaderNewsReceiver) {
    let (slot, newest) = Slot::new();
    let watch = Arc::new(Mutex::new(CancelHandle::new()));
    (LeaderNews { newest: slot, watch: Arc::clone(&watch) }, LeaderNewsReceiver { newest, watch })
}

/// What is behind the lock is replaced as a whole, so it is sound even if a holder panicked.
fn lock(watch: &Mutex<CancelHandle>) -> MutexGuard<'_, CancelHandle> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the watching thread needs.
pub struct LeaderWatch {
    /// Where each other node can be reached.
    roster: Arc<Roster>,
    /// Signs as this node; not shared with other threads.
    seal: Seal,
    /// Opens the streams of signed requests. A watch itself has a client of its own, which another thread can end.
    opener: Client,
    /// Receives the leader that this node follows, each time it changes.
    leaders: LeaderNewsReceiver,
    /// To the loop.
    inbox: Inbox,
    /// Cut cables, in a demonstration.
    cuts: Arc<Cuts>,
}

impl LeaderWatch {
    /// A watch of whichever node leads.
    pub fn new(
        roster: Arc<Roster>,
        seal: Seal,
        leaders: LeaderNewsReceiver,
        inbox: Inbox,
        cuts: Arc<Cuts>,
    ) -> Self {
        let opener = Client::new(ClientTimeouts {
            connect: CONNECT_TIMEOUT,
            send: CONNECT_TIMEOUT,
            receive: CONNECT_TIMEOUT,
        });
        Self { roster, seal, opener, leaders, inbox, cuts }
    }

    /// Watches until the loop has ended.
    pub fn run(mut self) {
        let mut leader = None;
        loop {
            let cancel = CancelHandle::new();
            lock(&self.leaders.watch).clone_from(&cancel);
            // Without a leader there is nothing to watch; with one, the next word of a change is only peeked at.
            let word = match leader {
                None => self.leaders.newest.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => self.leaders.newest.recv_timeout(Duration::ZERO),
            };
            match word {
                Ok(next) => {
                    leader = next;
                    continue; // With a handle of its own.
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let address = leader.and_then(|id| Some((id, self.roster.address_of(id)?)));
            let Some((id, address)) = address else {
                leader = None;
                continue;
            };
            match self.watch(id, address, &cancel) {
                // The end of a connection does not get through a cut cable.
                Watched::Gone if self.cuts.is_cut(id) => self.cuts.hold(id, WATCH_ANSWER_AFTER),
                Watched::Alive | Watched::Superseded => {}
                Watched::Unclear => {
                    if let Ok(next) = self.leaders.newest.recv_timeout(PAUSE) {
                        leader = next;
                    }
                }
                Watched::Gone => {
                    info!(
                        "leader watch: the process of node {id}, the leader, seems to have died: nobody listens at {address}"
                    );
                    match self.tell_of_death(id, address) {
                        Ok(next) => leader = next,
                        Err(_) => return,
                    }
                }
            }
        }
    }

    /// Sends the hint to the loop until it names another leader, or the hint is old. Returns whom to watch
    /// then.
    ///
    /// # Errors
    /// When the loop has ended.
    fn tell_of_death(&self, id: NodeId, address: SocketAddr) -> Result<Option<NodeId>, RecvTimeoutError> {
        for pause in REPEAT_PAUSES {
            if self.inbox.deliver(Input::LeaderGone { leader: id }).is_err() {
                return Err(RecvTimeoutError::Disconnected);
            }
            match self.leaders.newest.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                word => return word,
            }
            if !refuses(address) {
                // The process was started again already. Perhaps it leads again, and the loop never names
                // another leader in between.
                return Ok(Some(id));
            }
        }
        match self.leaders.newest.recv_timeout(HINT_OLD_AFTER) {
            Err(RecvTimeoutError::Timeout) => Ok(Some(id)),
            word => word,
        }
    }

    /// One watch: blocks until the leader answers, the connection ends, or `cancel` says that there is news.
    fn watch(&mut self, id: NodeId, address: SocketAddr, cancel: &CancelHandle) -> Watched {
        let timeouts = ClientTimeouts {
            connect: CONNECT_TIMEOUT,
            send: CONNECT_TIMEOUT,
            receive: WATCH_RECEIVE_TIMEOUT,
        };
        let mut client = Client::for_one_call(timeouts, cancel.clone());
        let began = Instant::now();
        let to = Recipient { name: node_name(id), address };
        let body = to_json(&WatchRequest {});
        let opened = self.seal.open_stream(&mut self.opener, &to, Purpose::Raft);
        let answer = opened.and_then(|()| {
            self.seal.post_once(&mut client, &to, Purpose::Raft, path::WATCH, &body, ANSWER_BYTES_MAX)
        });
        match answer {
            _ if cancel.is_cancelled() => Watched::Superseded,
            // The leader lives; or it stops as planned, and the loop will soon follow another leader.
            Ok(answer) if answer.status == 200 && began.elapsed() >= PAUSE => Watched::Alive,
            Ok(_) => Watched::Unclear,
            Err(error) => {
                debug!("watch of leader node {id} ended: {error}");
                let SealedCallError::Call(error) = error else { return Watched::Unclear };
                match error.kind {
                    CallErrorKind::Refused => Watched::Gone,
                    CallErrorKind::Closed if nobody_listens(|| refuses(address)) => Watched::Gone,
                    _ => Watched::Unclear,
                }
            }
        }
    }
}

/// Whether connections are refused, now or within the next moment. Connections that are taken are closed at
/// once: the listener may be that of a process that lives and serves others.
fn nobody_listens(mut refuses: impl FnMut() -> bool) -> bool {
    refuses()
        || KNOCK_PAUSES.iter().any(|pause| {
            std::thread::sleep(*pause);
            refuses()
        })
}

/// One try to connect. A reset in the middle of the handshake is no refusal: the next try decides.
fn refuses(address: SocketAddr) -> bool {
    let knock = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
    knock.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// How a watch ended.
enum Watched {
    /// The leader answered.
    Alive,
    /// It ended for a reason that says nothing about the leader.
    Unclear,
    /// Nobody listens there any more.
    Gone,
    /// It was cut off: the loop names another leader, or none.
    Superseded,
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_that_closes_a_moment_after_its_connections_is_found_gone() {
        let mut knocks = [false, false, true].into_iter();
        assert!(nobody_listens(|| knocks.next().expect("no knock after the answer is known")));
        assert_eq!(knocks.next(), None);
    }

    #[test]
    fn a_process_that_lives_is_not_called_gone_because_its_connection_was_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        assert!(!nobody_listens(|| refuses(address)));
        drop(listener);
        crate::linux::let_go::wait_until(|| refuses(address));
    }
}
