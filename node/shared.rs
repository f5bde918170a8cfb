//! What the threads of a node share, each piece behind a lock that is held for the time of a copy; and the two services
//! and the senders that are made of it. `wiring.rs` makes one `Shared` and starts the threads.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;

use super::cluster_service::{ClusterCounters, ClusterService};
use super::consensus_counts::ConsensusCounts;
use super::cuts::Cuts;
use super::exchange::Exchange;
use super::forwarding::Forwarder;
use super::inbox::Inbox;
use super::live::Live;
use super::metrics::{Listeners, Metrics, Sources};
use super::peers::Sending;
use super::primes::Primes;
use super::public_service::PublicService;
use super::raft_loop::NodeReplica;
use super::recent::Recent;
use super::refusals::PeerRefusals;
use super::relays::Relays;
use super::request_counts::RequestCounts;
use super::rivals::Rivals;
use super::roster::Roster;
use super::standing::StandingBoard;
use super::status::NodeStatus;
use crate::balancer::{Chooser, Policy, Published};
use crate::config::{Config, Server};
use crate::linux::random_u64;
use crate::protocol::{Times, node_name};
use crate::raft::NodeId;
use crate::signing::{Gate, Seal, Secret};

/// What the threads share. All of it can be cloned cheaply.
pub struct Shared {
    /// This node.
    pub id: NodeId,
    /// When the process began: the moment that every `now` counts from.
    pub started: Instant,
    /// The upper end of `election_timeout_ms`: how long to wait for a leader, or for a peer's reply.
    pub election_timeout_max: Duration,
    /// Who the members are and where.
    pub roster: Arc<Roster>,
    /// Signs what this node sends.
    pub seal: Seal,
    /// The server table as it was last applied.
    pub published: Arc<Published>,
    /// Role, term and indexes.
    pub standing: Arc<StandingBoard>,
    /// Chooses servers, and knows what is in flight.
    pub chooser: Arc<Chooser>,
    /// Cut cables, in a demonstration.
    pub cuts: Arc<Cuts>,
    /// What happened last, for the page.
    pub recent: Arc<Recent>,
    /// What is counted of the consensus, for `/metrics`.
    pub consensus_counts: Arc<ConsensusCounts>,
    /// The counters of the listeners, for `/metrics`; `wiring.rs` hands them in.
    pub listeners: Listeners,
    times: Times,
    cluster_name: String,
    policy: Policy,
    request_timeout: Duration,
    servers: Vec<Server>,
    /// This node's public port.
    port: u16,
    incarnation: u64,
    gate: Arc<Gate>,
    refusals: Arc<PeerRefusals>,
    rivals: Arc<Rivals>,
    request_counts: Arc<RequestCounts>,
    cluster_counters: Arc<ClusterCounters>,
}

impl Shared {
    /// As it is before the first thread runs: what `replica` has recovered, no leader.
    ///
    /// # Errors
    /// When the system gives no randomness, or the secret cannot be used.
    pub fn new(
        config: &Config,
        id: NodeId,
        secret: Option<&Secret>,
        incarnation: u64,
        replica: &NodeReplica,
        cuts: Cuts,
        started: Instant,
    ) -> Result<Self, String> {
        let no_randomness = |error: std::io::Error| format!("no randomness for signing: {error}");
        let (name, founding) = (node_name(id), config.founding());
        let standing = StandingBoard::new(config.election_timeout.1);
        standing.set(replica.standing());
        Ok(Self {
            id,
            started,
            election_timeout_max: config.election_timeout.1,
            roster: Arc::new(Roster::new(id, &config.nodes, replica.raft().configuration())),
            seal: Seal::new(&config.cluster_name, &name, secret).map_err(no_randomness)?.founded(&founding),
            gate: Arc::new(Gate::new(&config.cluster_name, &name, secret)?.founded(&founding)),
            published: Arc::new(Published::new(replica.table(), started.elapsed())),
            standing: Arc::new(standing),
            chooser: Chooser::new(config.stall, random_u64()?),
            cuts: Arc::new(cuts),
            recent: Arc::default(),
            consensus_counts: Arc::default(),
            listeners: Arc::default(),
            times: Times {
                heartbeat_ms: ms(config.heartbeat),
                election_timeout_ms: ms(config.election_timeout.1),
                report_interval_ms: ms(config.report_interval),
                server_timeout_ms: ms(config.server_timeout),
            },
            cluster_name: config.cluster_name.clone(),
            policy: config.policy,
            request_timeout: config.request_timeout,
            servers: config.servers.clone(),
            port: config.nodes.iter().find(|node| node.id == id).map_or(0, |node| node.public.port()),
            incarnation,
            refusals: Arc::default(),
            rivals: Arc::new(Rivals::new(config.server_timeout)),
            request_counts: Arc::default(),
            cluster_counters: Arc::default(),
        })
    }

    /// Takes other keys while the node runs: first they are accepted, then they sign.
    pub fn secret_taker(&self) -> impl Fn(&Secret) -> Result<(), String> + Send + 'static {
        let (gate, seal) = (Arc::clone(&self.gate), self.seal.clone());
        move |secret| {
            gate.replace_secret(secret)?;
            seal.replace_secret(secret);
            Ok(())
        }
    }

    /// What passes requests on to workers. It wakes the `exchange` whenever a request begins or ends.
    pub fn forwarder(&self, exchange: Exchange) -> Arc<Forwarder> {
        Forwarder::new(
            Arc::clone(&self.chooser),
            exchange,
            Arc::clone(&self.published),
            self.policy,
            self.request_timeout,
            self.started,
        )
    }

    /// What answers on the cluster address. It ends its long waits when `stopping` closes.
    pub fn cluster_service(&self, inbox: &Inbox, stopping: &Receiver<()>) -> Arc<ClusterService> {
        Arc::new(ClusterService {
            id: self.id,
            roster: Arc::clone(&self.roster),
            servers: self.servers.clone(),
            rivals: Arc::clone(&self.rivals),
            published: Arc::clone(&self.published),
            incarnation: self.incarnation,
            chooser: Arc::clone(&self.chooser),
            started: self.started,
            gate: Arc::clone(&self.gate),
            relays: Relays::new(&self.seal),
            inbox: inbox.clone(),
            standing: Arc::clone(&self.standing),
            stopping: stopping.clone(),
            cuts: Arc::clone(&self.cuts),
            refusals: Arc::clone(&self.refusals),
            counters: Arc::clone(&self.cluster_counters),
        })
    }

    /// What answers on the public address.
    pub fn public_service(&self, inbox: &Inbox, forwarder: &Arc<Forwarder>) -> Arc<PublicService> {
        let status = Arc::new(NodeStatus {
            id: self.id,
            cluster: self.cluster_name.clone(),
            policy: self.policy,
            started: self.started,
            chooser: Arc::clone(&self.chooser),
            published: Arc::clone(&self.published),
            standing: Arc::clone(&self.standing),
            roster: Arc::clone(&self.roster),
            rivals: Arc::clone(&self.rivals),
            refusals: Arc::clone(&self.refusals),
            inbox: inbox.clone(),
            cuts: Arc::clone(&self.cuts),
        });
        Arc::new(PublicService {
            cuts: Arc::clone(&self.cuts),
            port: self.port,
            primes: Primes {
                id: self.id,
                election_timeout_max: self.election_timeout_max,
                started: self.started,
                forwarder: Arc::clone(forwarder),
                standing: Arc::clone(&self.standing),
                published: Arc::clone(&self.published),
                counts: Arc::clone(&self.request_counts),
                next_request: AtomicU64::new(0),
                recent: Arc::clone(&self.recent),
            },
            live: Live {
                roster: Arc::clone(&self.roster),
                election_timeout_max: self.election_timeout_max,
                times: self.times,
                recent: Arc::clone(&self.recent),
            },
            metrics: Metrics::new(Sources {
                status: Arc::clone(&status),
                requests: Arc::clone(&self.request_counts),
                forwarder: Arc::clone(forwarder),
                consensus: Arc::clone(&self.consensus_counts),
                cluster: Arc::clone(&self.cluster_counters),
                gate: Arc::clone(&self.gate),
                listeners: Arc::clone(&self.listeners),
                started_at: SystemTime::now(),
            }),
            status,
        })
    }

    /// What the senders to the peers need.
    pub fn sending(&self, inbox: &Inbox) -> Sending {
        Sending {
            own_id: self.id,
            seal: self.seal.clone(),
            incarnation: self.incarnation,
            reply_timeout: self.election_timeout_max,
            inbox: inbox.clone(),
            refusals: Arc::clone(&self.refusals),
            cuts: Arc::clone(&self.cuts),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
