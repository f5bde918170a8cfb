//! The threads and channels of a node. [`start`] makes all of them except these: a thread for each open connection,
//! which its listener starts; the senders to other members, which the Raft loop starts and ends; the helpers of a race
//! (`forwarding.rs`); and the threads for signals, the log and the secret, which `node.rs` starts.
//!
//! ```text
//!   clients ──► public listener ──► forwarding ──► workers
//!                     │ reads           │ chooses from
//!                     ▼                 ▼
//!                 standing          published table ◄──┐
//!                                                      │ applies
//!   daemons ─┐                                         │
//!   peers  ──┴► cluster listener ══inboxes══► Raft loop ──► storage
//!                                              ▲   │
//!   leader watch ══════════════════════════════╝   └══slots══► peer senders ──► peers
//! ```
//!
//! | thread | blocks on | file |
//! | --- | --- | --- |
//! | main | signals, the loop's end | `running.rs` |
//! | public listener, one per open connection | its socket | `public_service.rs` (`primes.rs`, `status.rs`, `live.rs`, `page.rs`, `metrics.rs`), `forwarding.rs` |
//! | cluster listener, one per open connection | its socket, the loop's outcome | `cluster_service.rs` |
//! | Raft loop, one | inboxes, deadline, its disk | `raft_loop.rs` |
//! | peer senders, two per peer | their slot, one RPC in flight | `peers.rs` |
//! | count watch, one | a request that begins or ends | `exchange.rs` |
//! | count senders, one per peer | counts that changed, one message in flight | `exchange.rs` |
//! | leader watch, one | one request kept open at the leader | `leader_watch.rs` |
//! | race watcher, one; helpers, when a server stalls | the clock; a worker | `forwarding.rs`, `forwarding/race.rs` |
//!
//! No thread holds a lock while it waits for a socket or a disk. Every channel is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::bounded;
use log::info;

use super::connection_limits::listener_limits;
use super::cuts::Cuts;
use super::ending::Ending;
use super::exchange::Exchange;
use super::inbox::{CONSENSUS_INBOX_MAX, REPORT_INBOX_MAX, inbox};
use super::leader_watch::{LeaderWatch, leader_news};
use super::peers::Peers;
use super::raft_loop::RaftLoop;
use super::recovery::{RecoveredNode, recover};
use super::running::RunningNode;
use super::shared::Shared;
use crate::config::{Config, Node};
use crate::http::{Limits, MakesRoom, Server, Service};
use crate::linux::{BootClock, random_u64};
use crate::program;
use crate::signing::Secret;

/// Puts the node together and starts it. `repair`: see [`recover`].
///
/// # Errors
/// Its directory cannot be used, an address cannot be listened on, or the system gives no thread.
pub fn start(
    config: &Config,
    node: &Node,
    secret: Option<&Secret>,
    repair: bool,
    cuts: Cuts,
) -> Result<RunningNode, Ending> {
    let started = Instant::now();
    let boot_clock = BootClock::new();
    let RecoveredNode { replica, storage, incarnation } =
        recover(config, node.id, repair, started, &boot_clock)?;
    let shared = Shared::new(config, node.id, secret, incarnation, &replica, cuts, started)?;
    shared.roster.tell_differences(&config.nodes);

    // The channels: two inboxes to the Raft loop; from it, whom to watch and how it ended; to the threads, the end.
    let (inbox, inboxes) = inbox(CONSENSUS_INBOX_MAX, REPORT_INBOX_MAX);
    let (leaders, leader_changes) = leader_news();
    let (ended_sender, ended) = bounded(1);
    let (stop_waiting, stopping) = bounded::<()>(0);
    let (stop_loop, loop_stop) = bounded::<()>(0);

    // What this node has in flight at each server: a thread that watches, and a sender to each peer.
    let process = random_u64()?;
    let exchange =
        Exchange::start(&shared.seal, &shared.chooser, process, started, &stopping).map_err(no_thread)?;
    let forwarder = shared.forwarder(exchange.clone());

    // The listeners, each with a thread per connection. They are bound before the loop starts, so that a node that is
    // elected can be reached.
    let limits = listener_limits(program::descriptor_limit());
    let of_cluster = Limits { makes_room: MakesRoom::Strangers, ..limits.clone() };
    let of_public = Limits { makes_room: MakesRoom::LargestSource, ..limits };
    let cluster = listen("cluster", node.cluster, &of_cluster, shared.cluster_service(&inbox, &stopping))?;
    let public = listen("public", node.public, &of_public, shared.public_service(&inbox, &forwarder))?;
    shared.listeners.get_or_init(|| [("public", public.counters_of()), ("cluster", cluster.counters_of())]);
    info!(
        "start: node {} listens for clients at {}, for nodes and daemons at {}",
        node.id,
        public.local_addr(),
        cluster.local_addr()
    );

    // Two senders to each peer: the loop starts them, as members come and go.
    let peers = Peers::new(shared.sending(&inbox));

    // The death detector.
    let (seal, watched, cuts) = (shared.seal.clone(), Arc::clone(&shared.roster), Arc::clone(&shared.cuts));
    let watch = LeaderWatch::new(watched, seal, leader_changes, inbox.clone(), cuts);
    spawn("leader-watch", move || watch.run())?;

    // What waits at a stalled server is sent to another one, too.
    spawn("race-watch", move || forwarder.watch_races(&stopping))?;

    // The Raft loop.
    let (published, standing) = (Arc::clone(&shared.published), Arc::clone(&shared.standing));
    let roster = Arc::clone(&shared.roster);
    let (recent, counts) = (Arc::clone(&shared.recent), Arc::clone(&shared.consensus_counts));
    let raft_loop = RaftLoop {
        replica,
        storage,
        peers,
        exchange,
        roster,
        published,
        standing,
        leaders,
        recent,
        counts,
        boot_clock,
        started,
    };
    let loop_thread = spawn("raft", move || {
        // If nobody receives this any more, the process is ending.
        let _ = ended_sender.send(raft_loop.run(&inboxes, &loop_stop));
    })?;

    Ok(RunningNode { shared, inbox, cluster, public, stop_waiting, stop_loop, loop_thread, ended })
}

fn listen(
    which: &str,
    address: SocketAddr,
    limits: &Limits,
    service: Arc<dyn Service>,
) -> Result<Server, String> {
    Server::bind(which, address, limits.clone(), service).map_err(|error| {
        format!(
            "cannot listen on the {which} address {address}: {error}; is another program running there? (`ss -ltnp`)"
        )
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> String {
    format!("the system gives no thread: {error}")
}
