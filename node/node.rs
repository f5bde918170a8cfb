//! One node of the load balancer: the threads and channels around the library, wired here in one place.
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
//! | main | signals, the loop's end | this one |
//! | public listener, one per open connection | its socket | `public_service.rs` (`primes.rs`, `status.rs`, `metrics.rs`), `forwarding.rs` |
//! | cluster listener, one per open connection | its socket, the loop's outcome | `cluster_service.rs` |
//! | Raft loop, one | inboxes, deadline | `raft_loop.rs` |
//! | peer senders, two per peer | their slot, one RPC in flight | `peers.rs` |
//! | count senders, one per peer | a request that begins or ends, one message in flight | `exchange.rs` |
//! | leader watch, one | one request kept open at the leader | `leader_watch.rs` |
//! | race watcher, one; helpers, when a server stalls | the clock; a worker | `forwarding.rs`, `forwarding/race.rs` |
//!
//! No thread holds a lock while it waits for a socket or a disk. Every channel is bounded.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};
use log::{error, info, warn};

use crate::balancer::{Chooser, Published, SERVERS_MAX};
use crate::config::Config;
use crate::http::{Limits, Server};
use crate::linux::random_u64;
use crate::program::{self, EXIT_OK, LogFlags, ParentFlags, Stop};
use crate::protocol::node_name;
use crate::raft::{self, NodeId};
use crate::replica::{Input, Replica, Settings};
use crate::signing::{Gate, Seal, Secret};
use crate::storage::{DirectoryDisk, Identity, Storage, StorageError};

mod cluster_service;
mod exchange;
mod forwarding;
mod inbox;
mod leader_watch;
mod metrics;
mod peers;
mod primes;
mod public_service;
mod raft_loop;
mod refusals;
mod slot;
mod standing;
mod status;

use cluster_service::{ClusterCounters, ClusterService};
use exchange::Exchange;
use forwarding::Forwarder;
use inbox::{CONSENSUS_INBOX_MAX, Inbox, REPORT_INBOX_MAX, inbox};
use leader_watch::{LeaderWatch, leader_news};
use metrics::Metrics;
use peers::{Peers, Sending};
use primes::{PrimeCounters, Primes};
use public_service::PublicService;
use raft_loop::{NodeReplica, RaftLoop};
use refusals::PeerRefusals;
use standing::StandingBoard;
use status::NodeStatus;

/// The program's name in messages.
const PROGRAM: &str = "rakit-node";

/// How long requests that are under way may take to end once the node was told to stop.
const PUBLIC_DRAIN: Duration = Duration::from_secs(10);

/// The same for reports and RPCs, which take milliseconds.
const CLUSTER_DRAIN: Duration = Duration::from_secs(1);

/// Descriptors that connections of clients, daemons and peers to this node may not use: log files, data files, listeners,
/// and the connections of this node to its peers (three each).
const DESCRIPTORS_RESERVED: u64 = 64;

/// Each address takes at least so many connections, however few descriptors there are: a cluster of five with a few servers
/// needs about that many.
const CONNECTIONS_MIN: usize = 32;

/// How long answers that are under way may take when the node must end because its disk failed.
const FAILURE_DRAIN: Duration = Duration::from_millis(500);

/// One node of the Rakit load balancer.
///
/// It serves primes, status and metrics on its public address, and talks to the other nodes and to the daemons on its
/// cluster address, both from cluster.toml.
#[derive(clap::Parser, Debug)]
#[command(name = PROGRAM, version, max_term_width = 100)]
struct Cli {
    /// The cluster's configuration, the same file on every machine
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Which [[node]] of it this is
    #[arg(long, value_name = "ID")]
    id: NodeId,

    /// Run without a secret although an address is not on loopback: anybody who reaches it can take the cluster over
    #[arg(long)]
    insecure: bool,

    #[command(flatten)]
    log: LogFlags,

    #[command(flatten)]
    parent: ParentFlags,
}

/// Runs the program `rakit-node` with these arguments (the first is the program's name) until it is stopped.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli: Cli = match program::parse(arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let prepared = Config::load(&cli.config).and_then(|config| {
        let warning = config.check_exposure(cli.insecure)?;
        let node = config.node(cli.id)?.clone();
        Ok((config, node, warning))
    });
    let (config, node, exposure) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return program::refuse(PROGRAM, &error),
    };
    let secret = config.secret.as_deref().map(Secret::parse).transpose();
    let secret = match secret.and_then(|secret| secret.map(Secret::whole).transpose()) {
        Ok(secret) => secret,
        Err(error) => {
            return program::refuse(PROGRAM, &format!("{}: secret_file: {error}", cli.config.display()));
        }
    };
    let stop = match program::start(PROGRAM, &cli.log, cli.parent) {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    info!(
        "start: rakit-node {} as node {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        node.id,
        config.cluster_name
    );
    for warning in config.warnings().into_iter().chain(exposure) {
        warn!("configuration: {warning}");
    }
    match run(&config, &node, secret.as_ref(), &stop) {
        Ok(()) => {
            info!("stop: node {} has stopped cleanly", node.id);
            ExitCode::from(EXIT_OK)
        }
        Err(Ending::Misconfigured(reason)) => {
            error!("stop: {reason}");
            program::refuse(PROGRAM, &reason)
        }
        Err(Ending::Failed(reason)) => {
            error!("stop: {reason}");
            program::fail(PROGRAM, &reason)
        }
    }
}

/// Why a node ends although nobody has stopped it.
enum Ending {
    /// Its directory is another node's, another cluster's, or of another version. It is sound.
    Misconfigured(String),
    /// Anything else.
    Failed(String),
}

impl From<String> for Ending {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<StorageError> for Ending {
    fn from(error: StorageError) -> Self {
        let reason = error.to_string();
        if error.is_misconfiguration() { Self::Misconfigured(reason) } else { Self::Failed(reason) }
    }
}

/// Puts the node together, runs it until a signal comes or its disk fails, and takes it apart in order.
fn run(
    config: &Config,
    node: &crate::config::Node,
    secret: Option<&Secret>,
    stop: &Stop,
) -> Result<(), Ending> {
    let started = Instant::now();
    let (id, patience) = (node.id, config.election_timeout.1);
    let peer_addresses: Vec<(NodeId, SocketAddr)> =
        config.nodes.iter().filter(|other| other.id != id).map(|other| (other.id, other.cluster)).collect();

    let no_thread = |error: std::io::Error| format!("the system gives no thread: {error}");

    // What the disk remembers.
    let (replica, storage, incarnation) = recover(config, id, started)?;

    // Who we are to the others.
    let told = |error: std::io::Error| format!("no randomness for signing: {error}");
    let seal = Seal::new(&config.cluster_name, &node_name(id), secret).map_err(told)?;
    let gate = Arc::new(Gate::new(&config.cluster_name, &node_name(id), secret)?);

    // Channels: everything that reaches the loop, and what tells the threads to end.
    let (inbox, inboxes) = inbox(CONSENSUS_INBOX_MAX, REPORT_INBOX_MAX);
    let (leaders, leader_changes) = leader_news();
    let (stopping_sender, stopping) = bounded::<()>(0);

    // What threads share, each behind a short lock.
    let published = Arc::new(Published::new());
    let standing = Arc::new(StandingBoard::default());
    let chooser = Chooser::new(config.stall, random_u64()?);
    let cluster_counters = Arc::new(ClusterCounters::default());
    let prime_counters = Arc::new(PrimeCounters::default());
    let refusals = Arc::new(PeerRefusals::default());
    let exchange = Exchange::start(&peer_addresses, &seal, &chooser, random_u64()?, started, &stopping)
        .map_err(no_thread)?;
    let forwarder = Forwarder::new(
        Arc::clone(&chooser),
        exchange,
        Arc::clone(&published),
        config.policy,
        config.request_timeout,
        started,
    );

    let (cluster_limits, public_limits) = listener_limits(program::descriptor_limit());

    // The listeners are bound before the loop starts, so that a node that is elected can be reached.
    let cluster_server = Server::bind(
        "cluster",
        node.cluster,
        cluster_limits,
        Arc::new(ClusterService {
            id,
            peers: peer_addresses.clone(),
            addresses: config
                .nodes
                .iter()
                .flat_map(|node| [(node.id, node.public), (node.id, node.cluster)])
                .collect(),
            incarnation,
            chooser: Arc::clone(&chooser),
            started,
            gate: Arc::clone(&gate),
            seal: seal.clone(),
            inbox: inbox.clone(),
            standing: Arc::clone(&standing),
            stopping: stopping.clone(),
            counters: Arc::clone(&cluster_counters),
        }),
    )
    .map_err(|error| cannot_bind("cluster", node.cluster, &error))?;
    let public_server = Server::bind(
        "public",
        node.public,
        public_limits,
        Arc::new(PublicService {
            primes: Primes {
                id,
                patience,
                started,
                forwarder: Arc::clone(&forwarder),
                standing: Arc::clone(&standing),
                counters: Arc::clone(&prime_counters),
            },
            status: NodeStatus {
                id,
                cluster: config.cluster_name.clone(),
                policy: config.policy,
                started,
                chooser: Arc::clone(&chooser),
                published: Arc::clone(&published),
                standing: Arc::clone(&standing),
                refusals: Arc::clone(&refusals),
                inbox: inbox.clone(),
            },
            metrics: Metrics {
                id,
                started,
                primes: prime_counters,
                forwarder: Arc::clone(&forwarder),
                cluster: cluster_counters,
                gate,
                standing: Arc::clone(&standing),
                chooser,
                published: Arc::clone(&published),
            },
        }),
    )
    .map_err(|error| cannot_bind("public", node.public, &error))?;
    info!(
        "start: node {id} listens for clients at {}, for nodes and daemons at {}",
        public_server.local_addr(),
        cluster_server.local_addr()
    );

    // The threads that live as long as the node.
    let sending = Sending {
        own_id: id,
        seal: seal.clone(),
        incarnation,
        reply_timeout: config.election_timeout.1,
        inbox: inbox.clone(),
        refusals,
    };
    let peers = Peers::start(&peer_addresses, &sending).map_err(no_thread)?;
    let watch = LeaderWatch { peers: peer_addresses, seal, leaders: leader_changes, inbox: inbox.clone() };
    spawn("leader-watch", move || watch.run()).map_err(no_thread)?;
    let (racing, races_stop) = (Arc::clone(&forwarder), stopping.clone());
    spawn("race-watch", move || racing.watch_races(&races_stop)).map_err(no_thread)?;
    let raft_loop =
        RaftLoop { replica, storage, peers, published, standing: Arc::clone(&standing), leaders, started };
    let (loop_stop_sender, loop_stop) = bounded::<()>(0);
    let (ended_sender, ended) = bounded::<Result<(), StorageError>>(1);
    let loop_thread = spawn("raft", move || {
        // If nobody receives this any more, the process is ending.
        let _ = ended_sender.send(raft_loop.run(&inboxes, &loop_stop));
    })
    .map_err(no_thread)?;

    // Until somebody wants it to end, or it cannot go on.
    let failure = select! {
        recv(stop.receiver()) -> _ => None,
        recv(ended) -> ended => Some(loop_failure(ended.ok())),
    };
    if let Some(reason) = failure {
        // It may no longer vote or acknowledge. There is no leadership to hand over, and no client waits for
        // long.
        drop(stopping_sender);
        public_server.stop(FAILURE_DRAIN);
        cluster_server.stop(FAILURE_DRAIN);
        return Err(Ending::Failed(reason));
    }

    // A clean stop. First the clients' requests end, then leadership is handed over, then consensus ends.
    let cut_off = public_server.stop(PUBLIC_DRAIN);
    if cut_off > 0 {
        warn!("stop: {cut_off} connections of clients were cut off after {} s", PUBLIC_DRAIN.as_secs());
    }
    if config.nodes.len() > 1 {
        hand_over(id, &standing, &inbox, patience);
    }
    drop(stopping_sender);
    cluster_server.stop(CLUSTER_DRAIN);
    drop(loop_stop_sender);
    match ended.recv().ok() {
        Some(Ok(())) => {
            // It has returned, so this does not wait.
            let _ = loop_thread.join();
            Ok(())
        }
        other => Err(Ending::Failed(loop_failure(other))),
    }
}

/// How many connections each address takes, so that clients alone can never use up the descriptors of this process: a node
/// that cannot open the file for its next snapshot must stop, and one that cannot call its peers loses its leader.
///
/// A connection on the public address needs a second descriptor, towards a worker; one on the cluster address may, towards
/// the leader, when a report is handed on.
fn listener_limits(descriptors: u64) -> (Limits, Limits) {
    let default = Limits::default();
    // A quarter each: two addresses, and two descriptors for every connection.
    let share = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 4).unwrap_or(usize::MAX);
    let connections_max = share.clamp(CONNECTIONS_MIN, default.connections_max);
    if connections_max < default.connections_max {
        warn!(
            "each address takes {connections_max} connections at most, since this process may open only {descriptors} \
             descriptors; raise the limit (ulimit -Hn) to {} for {}",
            DESCRIPTORS_RESERVED + 4 * default.connections_max as u64,
            default.connections_max
        );
    }
    let limits = Limits { connections_max, ..default };
    (limits.clone(), limits)
}

/// Opens the node's directory and makes a replica of what is in it.
fn recover(
    config: &Config,
    id: NodeId,
    started: Instant,
) -> Result<(NodeReplica, Storage<DirectoryDisk>, u64), Ending> {
    let directory = config.node_dir(id);
    let disk = DirectoryDisk::open(&directory)?;
    let identity = Identity { cluster: config.cluster_name.clone(), node: id };
    let fresh_incarnation = random_u64()?;
    let (storage, recovered) = Storage::open(disk, &identity, fresh_incarnation)?;
    if let Some(repair) = &recovered.repaired {
        warn!("recovery: {repair}");
    }
    let snapshot_index = recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.last_index);
    let last_index = recovered.entries.last().map_or(snapshot_index, |entry| entry.index);
    let hard_state = recovered.hard_state;
    info!(
        "recovery: node {id} finds {} in {}: term {}, vote for {}, snapshot up to index {snapshot_index}, log up to \
         index {last_index}, incarnation {:016x}",
        if recovered.fresh { "nothing, and starts fresh," } else { "its state" },
        directory.display(),
        hard_state.term,
        hard_state.voted_for.map_or("nobody".to_owned(), |node| format!("node {node}")),
        recovered.incarnation,
    );
    let voters: BTreeSet<NodeId> = config.nodes.iter().map(|node| node.id).collect();
    let mut raft = raft::Settings::new(id, voters, config.election_timeout, config.heartbeat, random_u64()?);
    raft.trailing_entries = raft.trailing_entries.min(config.snapshot_entries);
    let settings = Settings {
        raft,
        server_timeout: config.server_timeout,
        snapshot_entries: config.snapshot_entries,
        servers_max: SERVERS_MAX,
    };
    let (snapshot, entries) = (recovered.snapshot, recovered.entries);
    let replica = Replica::new(settings, hard_state, snapshot, entries, started.elapsed()).map_err(|reason| {
        format!(
            "{}: the snapshot up to index {snapshot_index} holds no server table: {reason}; mend: see docs/storage.md, \
             \"A node without memory\"",
            directory.display()
        )
    })?;
    Ok((replica, storage, recovered.incarnation))
}

/// Before a leader stops on purpose, it hands leadership over, so that nobody waits for an election timeout.
fn hand_over(id: NodeId, standing: &StandingBoard, inbox: &Inbox, patience: Duration) {
    if standing.get().leader != Some(id) {
        return;
    }
    if inbox.deliver_within(patience, Input::Transfer { to: None }).is_ok()
        && standing.wait_for_leader(patience, |leader| leader.is_some_and(|leader| leader != id))
    {
        info!("stop: node {id} has handed leadership over");
    } else {
        warn!("stop: node {id} could not hand leadership over in time; the others will elect a leader");
    }
}

fn loop_failure(ended: Option<Result<(), StorageError>>) -> String {
    match ended {
        Some(Err(error)) => format!("this node can no longer keep its promises and ends: {error}"),
        Some(Ok(())) => "the Raft loop ended although nobody asked it to".into(),
        None => "the Raft loop panicked: a bug; the log says where. The node ends rather than vote on".into(),
    }
}

fn cannot_bind(which: &str, address: SocketAddr, error: &std::io::Error) -> String {
    format!(
        "cannot listen on the {which} address {address}: {error}; is another node running there, or is the address \
         not one of this machine?"
    )
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}
