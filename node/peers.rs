//! The senders: how this node's requests reach the other nodes.
//!
//! Two threads for each peer, one for the log (AppendEntries, InstallSnapshot) and one for all other requests, so that
//! a vote never waits behind entries. (On a slow link, the core makes the requests small: `src/raft/pace.rs`.) Each
//! thread has a slot for one request. The loop puts the newest request in and never waits. A request that has not left
//! yet is replaced: the core has given it up. Each request that leaves ends with exactly one message to the loop: the
//! reply, or that it was lost, or refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use log::{debug, info, warn};

use super::cuts::Cuts;
use super::inbox::Inbox;
use super::refusals::PeerRefusals;
use super::slot::{Slot, Taker};
use crate::http::client::{Client, ClientTimeouts};
use crate::logging::RateLimit;
use crate::protocol::{Lost, Purpose, ReplyEnvelope, RequestEnvelope, node_name, path, to_json};
use crate::raft::{NodeId, RpcId, RpcRequest};
use crate::replica::Input;
use crate::signing::{Recipient, Seal, SealedCallError};

/// How long opening a connection to a peer may take. On a local network it takes less than a millisecond; a peer whose
/// machine is gone answers nothing at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A reply is a few dozen bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// A sender's stack. Writing a request as JSON needs little.
const STACK_BYTES: usize = 512 * 1024;

/// Lines about a peer that refuses this node, or is refused: one per sender in this time.
const REFUSAL_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How often a sender that has nothing to send makes sure that its connection and its stream are ready, so that an
/// election waits for neither. A kept connection lives for 15 s.
const KEEP_READY_INTERVAL: Duration = Duration::from_secs(10);

/// One request on its way to a sender.
type Job = (RpcId, RpcRequest);

/// The senders to one peer.
struct Peer {
    id: NodeId,
    address: SocketAddr,
    log: Slot<Job>,
    election: Slot<Job>,
}

/// The senders to all peers. Dropping it ends their threads.
pub struct Peers {
    sending: Sending,
    peers: Vec<Peer>,
}

/// What a sender needs to know.
#[derive(Clone)]
pub struct Sending {
    /// This node's id, for its log lines.
    pub own_id: NodeId,
    /// Signs as this node. Each sender takes a clone of its own: a seal numbers what it signs, and the receiver expects
    /// the numbers of one seal in order.
    pub seal: Seal,
    /// The incarnation of this node's data directory.
    pub incarnation: u64,
    /// How long a reply may take: at most an election timeout. After that nobody waits for it.
    pub reply_timeout: Duration,
    /// To the loop.
    pub inbox: Inbox,
    /// The peers that do not work with this node, for `/status`.
    pub refusals: Arc<PeerRefusals>,
    /// Cut cables, in a demonstration.
    pub cuts: Arc<Cuts>,
}

impl Peers {
    /// Senders to nobody yet: see [`reach`](Self::reach).
    pub fn new(sending: Sending) -> Self {
        Self { sending, peers: Vec::new() }
    }

    /// Starts and ends senders, so that there are some to these nodes at these addresses, and to no others. A thread
    /// that the system does not give is asked for again with the next call.
    pub fn reach(&mut self, nodes: &[(NodeId, SocketAddr)]) {
        self.peers.retain(|peer| nodes.contains(&(peer.id, peer.address)));
        for &(id, address) in nodes {
            if self.peers.iter().any(|peer| peer.id == id) {
                continue;
            }
            match self.start(id, address) {
                Ok(peer) => self.peers.push(peer),
                Err(error) => warn!("peer: the system gives no thread for node {id}: {error}"),
            }
        }
    }

    fn start(&self, id: NodeId, address: SocketAddr) -> std::io::Result<Peer> {
        let sending = &self.sending;
        let start = |purpose: &'static str| {
            let (slot, jobs) = Slot::new();
            let worker = PeerSender {
                id,
                to: Recipient { name: node_name(id), address },
                purpose,
                sending: sending.clone(),
                client: Client::new(ClientTimeouts {
                    connect: CONNECT_TIMEOUT,
                    send: sending.reply_timeout,
                    receive: sending.reply_timeout,
                }),
                reachable: None,
                refusal_lines: RateLimit::new(REFUSAL_LINE_INTERVAL),
            };
            std::thread::Builder::new()
                .name(format!("peer-{id}-{purpose}"))
                .stack_size(STACK_BYTES)
                .spawn(move || worker.run(&jobs))?;
            std::io::Result::Ok(slot)
        };
        let (log, election) = (start("log")?, start("election")?);
        Ok(Peer { id, address, log, election })
    }

    /// Hands a request to the right sender; never blocks.
    pub fn send(&self, to: NodeId, rpc: RpcId, request: RpcRequest) {
        let Some(peer) = self.peers.iter().find(|peer| peer.id == to) else { return };
        let slot = match request {
            RpcRequest::AppendEntries(_) | RpcRequest::InstallSnapshot(_) => &peer.log,
            RpcRequest::PreVote(_)
            | RpcRequest::RequestVote(_)
            | RpcRequest::TimeoutNow(_)
            | RpcRequest::CompareState(_)
            | RpcRequest::Founding(_) => &peer.election,
        };
        slot.put((rpc, request));
    }
}

/// One sender's thread.
struct PeerSender {
    id: NodeId,
    to: Recipient,
    purpose: &'static str,
    sending: Sending,
    client: Client,
    /// As of the last request; nothing is known before the first.
    reachable: Option<bool>,
    refusal_lines: RateLimit,
}

impl PeerSender {
    fn run(mut self, jobs: &Taker<Job>) {
        self.keep_ready();
        loop {
            let (rpc, request) = match jobs.recv_timeout(KEEP_READY_INTERVAL) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.keep_ready();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let answered = self.exchange(&request);
            let arrived = if self.sending.cuts.is_cut(self.id) {
                self.sending.cuts.hold(self.id, self.sending.reply_timeout);
                Err(NoReply::Lost("the cable was cut by order".to_string()))
            } else if let RpcRequest::RequestVote(asked) = &request
                && self.sending.cuts.loses_votes_of(asked.term)
            {
                self.sending.cuts.hold_lost(&[Lost::Votes, Lost::NextVote], self.sending.reply_timeout);
                Err(NoReply::Lost("the vote was lost by order".to_string()))
            } else {
                answered
            };
            let input = match arrived {
                Ok(ReplyEnvelope { incarnation, reply }) => {
                    self.note_reachable(None);
                    Input::Reply { from: self.id, incarnation, rpc, reply }
                }
                Err(NoReply::Lost(why)) => {
                    self.note_reachable(Some(&why));
                    Input::Lost { to: self.id, rpc }
                }
                Err(NoReply::Refused(why)) => {
                    self.note_refusal(&why);
                    Input::Refused { from: self.id, rpc }
                }
            };
            if self.sending.inbox.deliver(input).is_err() {
                return; // The loop has ended.
            }
        }
    }

    /// Makes the connection and the stream ready. If that fails, the next request shows it: only a debug line here.
    fn keep_ready(&mut self) {
        if self.sending.cuts.is_cut(self.id) {
            return;
        }
        if let Err(error) = self.sending.seal.keep_ready(&mut self.client, &self.to, Purpose::Raft) {
            debug!("peer: nothing is kept ready for node {}: {error}", self.id);
        }
    }

    fn exchange(&mut self, request: &RpcRequest) -> Result<ReplyEnvelope, NoReply> {
        let path = path::of_rpc(request);
        let envelope = RequestEnvelope { incarnation: self.sending.incarnation, request: request.clone() };
        let answer = self
            .sending
            .seal
            .post(&mut self.client, &self.to, Purpose::Raft, path, &to_json(&envelope), REPLY_BYTES_MAX)
            .map_err(|error| match error {
                SealedCallError::Call(error) => NoReply::Lost(error.to_string()),
                SealedCallError::Refused(..) => NoReply::Refused(error.to_string()),
            })?;
        let address = self.to.address;
        if answer.status != 200 {
            let said = String::from_utf8_lossy(&answer.body);
            let why = format!("{address} answered {} to {path}: {}", answer.status, said.trim());
            return Err(if answer.status == 401 { NoReply::Refused(why) } else { NoReply::Lost(why) });
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| NoReply::Lost(format!("{address} gave no reply to {path}: {error}")))
    }

    /// One line when a peer is lost, one when it is back; none in between.
    fn note_reachable(&mut self, failure: Option<&str>) {
        self.sending.refusals.not_refused(self.id);
        let (own, peer, reachable) = (self.sending.own_id, self.id, failure.is_none());
        if self.purpose == "log" && self.reachable != Some(reachable) {
            match failure {
                Some(why) => warn!("peer: node {own} does not reach node {peer}: {why}"),
                None if self.reachable.is_some() => info!("peer: node {own} reaches node {peer} again"),
                None => info!("peer: node {own} reaches node {peer} at {}", self.to.address),
            }
            self.reachable = Some(reachable);
        }
    }

    /// The peer answers, but one of the two refuses what the other says. Writes a line at a bounded rate as long as
    /// that lasts.
    fn note_refusal(&mut self, why: &str) {
        self.sending.refusals.refused(self.id, why);
        self.reachable = Some(false);
        if let Some(left_out) = self.refusal_lines.allow(Instant::now()) {
            let more =
                if left_out == 0 { String::new() } else { format!(" ({left_out} more since the last line)") };
            let (own, peer) = (self.sending.own_id, self.id);
            warn!("peer: node {own} does not work with node {peer}: {why}{more}");
        }
    }
}

/// Why an exchange brought no reply.
enum NoReply {
    /// No answer, or not now.
    Lost(String),
    /// The peer refused what this node said, or this node refuses the answer.
    Refused(String),
}
