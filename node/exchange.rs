//! The exchange of requests in flight: how each node learns what the other nodes have in flight at each server
//! (docs/balancing.md, "What the other nodes have in flight").
//!
//! One watching thread sleeps until a request begins or ends here ([`Exchange::changed`]). Then it waits for
//! [`TOLD_AFTER`], and looks whether the counts are others than at its last look. Only then it wakes the senders, one
//! thread for each peer, which tell their peers at a bounded rate. So an idle node sends nothing, and a node whose
//! requests are all answered within [`TOLD_AFTER`] sends nothing either, and costs one look in that time. Only the end
//! of the last request is told without a wait: until the peers hear of it, they count it, and avoid a server that is
//! free. The exchange needs no leader, and has nothing to do with the Raft log.
//!
//! The cluster address hands what a peer says to [`Chooser::hear`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, bounded, never, select};
use log::{debug, warn};

use crate::balancer::in_flight::{Announcer, PAUSE, REPEAT, TOLD_AFTER};
use crate::balancer::{Chooser, NAME_BYTES_MAX, SERVERS_MAX};
use crate::http::client::{Client, ClientTimeouts};
use crate::protocol::{InFlight, Purpose, node_name, path, to_json};
use crate::raft::NodeId;
use crate::signing::{Recipient, Seal};

/// The longest message: a name, a count and what JSON adds, for as many servers as a table holds.
pub const IN_FLIGHT_BYTES_MAX: usize = SERVERS_MAX * (NAME_BYTES_MAX + 32) + 256;

/// How long each step of sending may take. Later, the counts are old, and newer ones are waiting.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

/// An answer says nothing.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// A sender's stack: serialising a message needs little.
const STACK_BYTES: usize = 256 * 1024;

/// Wakes the watching thread. One per node, held by whoever begins and ends requests.
#[derive(Clone, Debug)]
pub struct Exchange {
    chooser: Arc<Chooser>,
    /// It has one place: that something happened is all that there is to say.
    changed: Sender<()>,
    peers: Arc<Mutex<Vec<PeerNews>>>,
    starting: Arc<Starting>,
}

/// What a new sender needs.
#[derive(Debug)]
struct Starting {
    seal: Seal,
    process: u64,
    started: Instant,
    stopping: Receiver<()>,
}

/// What wakes one sender. Dropping it ends the sender's thread.
#[derive(Clone, Debug)]
struct PeerNews {
    peer: (NodeId, SocketAddr),
    /// The counts are others.
    wake: Sender<()>,
    /// The last request has ended.
    quiet: Sender<()>,
    /// Whether the peer was told of requests in flight.
    holds: Arc<AtomicBool>,
}

impl Exchange {
    /// Starts the watching thread, and no sender yet: see [`reach`](Self::reach). All end when `stopping` is closed.
    /// `process` is a random number that names this process.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        seal: &Seal,
        chooser: &Arc<Chooser>,
        process: u64,
        started: Instant,
        stopping: &Receiver<()>,
    ) -> std::io::Result<Self> {
        let (changed, changes) = bounded(1);
        let peers = Arc::default();
        let watch = CountWatch {
            chooser: Arc::clone(chooser),
            started,
            changes,
            peers: Arc::clone(&peers),
            stopping: stopping.clone(),
        };
        std::thread::Builder::new()
            .name("counts-watch".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || watch.run())?;
        let starting = Starting { seal: seal.clone(), process, started, stopping: stopping.clone() };
        Ok(Self { chooser: Arc::clone(chooser), changed, peers, starting: Arc::new(starting) })
    }

    /// Starts and ends senders, so that there are some to these nodes at these addresses, and to no others. A thread
    /// that the system does not give is asked for again with the next call.
    pub fn reach(&self, nodes: &[(NodeId, SocketAddr)]) {
        let mut peers = lock(&self.peers);
        peers.retain(|news| nodes.contains(&news.peer));
        for peer in nodes {
            if peers.iter().any(|news| news.peer == *peer) {
                continue;
            }
            match self.start_sender(*peer) {
                Ok(news) => peers.push(news),
                Err(error) => warn!("counts: the system gives no thread for node {}: {error}", peer.0),
            }
        }
    }

    fn start_sender(&self, peer: (NodeId, SocketAddr)) -> std::io::Result<PeerNews> {
        let Starting { seal, process, started, stopping } = &*self.starting;
        let (id, address) = peer;
        let (wake, changes) = bounded(1);
        let (quiet, quiets) = bounded(1);
        let holds = Arc::new(AtomicBool::new(true));
        let sender = CountSender {
            to: Recipient { name: node_name(id), address },
            seal: seal.clone(),
            client: Client::new(ClientTimeouts {
                connect: SEND_TIMEOUT,
                send: SEND_TIMEOUT,
                receive: SEND_TIMEOUT,
            }),
            chooser: Arc::clone(&self.chooser),
            announcer: Announcer::new(*process),
            started: *started,
            holds: Arc::clone(&holds),
            changes,
            quiets,
            stopping: stopping.clone(),
        };
        std::thread::Builder::new()
            .name(format!("peer-{id}-counts"))
            .stack_size(STACK_BYTES)
            .spawn(move || sender.run())?;
        Ok(PeerNews { peer, wake, quiet, holds })
    }

    /// A request began or ended. Never waits. It costs next to nothing while the watching thread has not looked yet.
    pub fn changed(&self) {
        // Full: they will look anyway. Disconnected: the node is stopping.
        if self.chooser.is_quiet() {
            for peer in lock(&self.peers).iter().filter(|peer| peer.holds.load(Ordering::Relaxed)) {
                let _ = peer.quiet.try_send(());
            }
        }
        let _ = self.changed.try_send(());
    }
}

/// The list is changed by whole entries, so it is sound even if a holder panicked.
fn lock(peers: &Mutex<Vec<PeerNews>>) -> MutexGuard<'_, Vec<PeerNews>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watching thread.
struct CountWatch {
    chooser: Arc<Chooser>,
    started: Instant,
    changes: Receiver<()>,
    peers: Arc<Mutex<Vec<PeerNews>>>,
    stopping: Receiver<()>,
}

impl CountWatch {
    fn run(self) {
        let mut seen = BTreeMap::new();
        loop {
            select! {
                recv(self.changes) -> change => if change.is_err() { return },
                recv(self.stopping) -> _ => return,
            }
            if lock(&self.peers).is_empty() {
                continue; // A node that is alone.
            }
            // What began just now is old enough to be told after this, if it has not ended.
            if self.stopping.recv_timeout(TOLD_AFTER) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let counts = self.chooser.in_flight(self.started.elapsed());
            if counts != seen {
                seen = counts;
                for peer in lock(&self.peers).iter() {
                    let _ = peer.wake.try_send(()); // Full: it will look anyway.
                }
            }
        }
    }
}

/// One sender's thread.
struct CountSender {
    to: Recipient,
    seal: Seal,
    client: Client,
    chooser: Arc<Chooser>,
    announcer: Announcer,
    holds: Arc<AtomicBool>,
    started: Instant,
    changes: Receiver<()>,
    quiets: Receiver<()>,
    stopping: Receiver<()>,
}

impl CountSender {
    fn run(mut self) {
        loop {
            let now = self.started.elapsed();
            if let Some(message) = self.announcer.announce(self.chooser.in_flight(now), now) {
                let goes_on = match self.tell(&message) {
                    Ok(()) => {
                        self.holds.store(self.announcer.holds(), Ordering::Relaxed);
                        self.pause(PAUSE)
                    }
                    Err(why) => {
                        debug!("counts of requests in flight did not reach {}: {why}", self.to.name);
                        self.announcer.lost();
                        self.holds.store(true, Ordering::Relaxed);
                        self.stopping.recv_timeout(REPEAT) == Err(RecvTimeoutError::Timeout)
                    }
                };
                if !goes_on {
                    return;
                }
            }
            let repeat = if self.announcer.holds() { after(REPEAT) } else { never() };
            select! {
                recv(self.changes) -> change => if change.is_err() { return },
                recv(self.quiets) -> quiet => if quiet.is_err() { return },
                recv(repeat) -> _ => {}
                recv(self.stopping) -> _ => return,
            }
        }
    }

    /// Waits for so long, or until the last request in flight has ended; `false` if the node stops meanwhile.
    fn pause(&self, time: Duration) -> bool {
        select! {
            recv(self.quiets) -> _ => true,
            recv(self.stopping) -> _ => false,
            default(time) => true,
        }
    }

    fn tell(&mut self, message: &InFlight) -> Result<(), String> {
        let body = to_json(message);
        let answer = self
            .seal
            .post(&mut self.client, &self.to, Purpose::Raft, path::IN_FLIGHT, &body, ANSWER_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("it answered {}", answer.status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Chosen, Outcome, Policy, Published, Report, ServerCommand, ServerTable};
    use crate::raft::Entry;

    /// A view with one server.
    fn published() -> Published {
        let report = Report {
            server: "a".into(),
            worker: "10.0.0.11:13337".parse().expect("an address"),
            cpu: 1.0,
            cores: 1,
            cpu_known: true,
            epoch: 1,
            sequence: 1,
            worker_up: true,
            worker_active: None,
            instance: None,
        };
        let mut table = ServerTable::new(SERVERS_MAX);
        table.apply(&Entry { index: 1, term: 1, command: ServerCommand::Report(report).to_command() });
        Published::new(&table, Duration::ZERO)
    }

    #[test]
    fn a_sender_wakes_for_a_request_that_stays_and_for_its_end_and_for_none_that_is_answered_at_once() {
        let (chooser, published, started) = (Chooser::new(Duration::MAX, 1), published(), Instant::now());
        let choose = || -> Chosen {
            let view = published.view();
            chooser.choose(&view, Policy::Projected, started.elapsed(), &[]).expect("there is a server")
        };
        let (changed, changes) = bounded(1);
        let (wake, woken) = bounded(1);
        let peer = (2, SocketAddr::from(([127, 0, 0, 1], 9)));
        let news = PeerNews { peer, wake, quiet: bounded(1).0, holds: Arc::default() };
        let (_stop, stopping) = bounded(0);
        let watch = CountWatch {
            chooser: Arc::clone(&chooser),
            started,
            changes,
            peers: Arc::new(Mutex::new(vec![news])),
            stopping,
        };
        let watching = std::thread::spawn(move || watch.run());

        let stays = choose();
        changed.send(()).expect("it watches");
        woken.recv().expect("it wakes for a request that stays");
        stays.ticket.end(Outcome::Answered, started.elapsed());
        changed.send(()).expect("it watches");
        woken.recv().expect("it wakes when the counts are back");

        choose().ticket.end(Outcome::Answered, started.elapsed());
        changed.send(()).expect("it watches");
        drop(changed); // It looks once more, and ends.
        watching.join().expect("it does not panic");
        assert!(woken.try_recv().is_err(), "nothing that another node would have to know");
    }
}
