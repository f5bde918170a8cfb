//! The senders: how this node's requests reach the other nodes.
//!
//! Two threads for each peer, one for the log (AppendEntries, InstallSnapshot) and one for elections, so that a vote never
//! waits behind a megabyte of entries. Each has a slot for one request: the loop puts the newest in, displacing one that
//! has not left yet (the core has given that one up, and would have sent this one in its place), and never waits. Each
//! request that leaves ends with exactly one message to the loop: the reply, or that it was lost.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::Receiver;
use log::{info, warn};
use serde::{Deserialize, Serialize};

use super::inbox::Inbox;
use super::slot::Slot;
use crate::http::client::{Client, ClientTimeouts};
use crate::raft::{NodeId, RpcId, RpcReply, RpcRequest};
use crate::replica::Input;
use crate::signing::{Purpose, Recipient, Seal};

/// How long opening a connection to a peer may take. On a local network it takes less than a millisecond; a peer whose
/// machine is gone answers nothing at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A reply is a few dozen bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// A sender's stack: serialising a request needs little.
const STACK_BYTES: usize = 512 * 1024;

/// What goes over the wire: the request, and which data directory the sender runs on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestEnvelope {
    /// The incarnation of the sender's data directory.
    pub incarnation: u64,
    /// The request.
    pub request: RpcRequest,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyEnvelope {
    /// The incarnation of the replier's data directory.
    pub incarnation: u64,
    /// The reply.
    pub reply: RpcReply,
}

/// The path of a request: it says what its body holds, so that an access log or a packet dump can be read.
pub fn path_of(request: &RpcRequest) -> &'static str {
    match request {
        RpcRequest::PreVote(_) => "/raft/pre-vote",
        RpcRequest::RequestVote(_) => "/raft/request-vote",
        RpcRequest::AppendEntries(_) => "/raft/append-entries",
        RpcRequest::InstallSnapshot(_) => "/raft/install-snapshot",
        RpcRequest::TimeoutNow(_) => "/raft/timeout-now",
    }
}

/// The name under which a node signs and is spoken to.
pub fn node_name(id: NodeId) -> String {
    format!("node-{id}")
}

/// The id in such a name.
pub fn node_id(name: &str) -> Option<NodeId> {
    name.strip_prefix("node-")?.parse().ok()
}

/// One request on its way to a sender.
type Job = (RpcId, RpcRequest);

/// The senders to one peer.
struct Peer {
    id: NodeId,
    log: Slot<Job>,
    election: Slot<Job>,
}

/// The senders to all peers. Dropping it ends their threads.
pub struct Peers {
    peers: Vec<Peer>,
}

/// What a sender needs to know.
#[derive(Clone)]
pub struct Sending {
    /// Signs as this node. Each sender takes a clone of its own: a seal numbers what it signs, and the receiver expects
    /// the numbers of one seal nearly in order.
    pub seal: Seal,
    /// The incarnation of this node's data directory.
    pub incarnation: u64,
    /// How long a reply may take: at most an election timeout, since then nobody waits for it.
    pub reply_timeout: Duration,
    /// To the loop.
    pub inbox: Inbox,
}

impl Peers {
    /// Starts the senders.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(peers: &[(NodeId, SocketAddr)], sending: &Sending) -> std::io::Result<Self> {
        let start = |id: NodeId, address: SocketAddr, purpose: &'static str| {
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
            };
            std::thread::Builder::new()
                .name(format!("peer-{id}-{purpose}"))
                .stack_size(STACK_BYTES)
                .spawn(move || worker.run(&jobs))?;
            std::io::Result::Ok(slot)
        };
        let peers = peers
            .iter()
            .map(|&(id, address)| {
                let log = start(id, address, "log")?;
                let election = start(id, address, "election")?;
                Ok(Peer { id, log, election })
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { peers })
    }

    /// Hands a request to the right sender; never blocks.
    pub fn send(&self, to: NodeId, rpc: RpcId, request: RpcRequest) {
        let Some(peer) = self.peers.iter().find(|peer| peer.id == to) else { return };
        let slot = match request {
            RpcRequest::AppendEntries(_) | RpcRequest::InstallSnapshot(_) => &peer.log,
            RpcRequest::PreVote(_) | RpcRequest::RequestVote(_) | RpcRequest::TimeoutNow(_) => &peer.election,
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
}

impl PeerSender {
    fn run(mut self, jobs: &Receiver<Job>) {
        for (rpc, request) in jobs {
            let input = match self.exchange(&request) {
                Ok(ReplyEnvelope { incarnation, reply }) => {
                    self.note_reachable(None);
                    Input::Reply { from: self.id, incarnation, rpc, reply }
                }
                Err(why) => {
                    self.note_reachable(Some(&why));
                    Input::Lost { to: self.id, rpc }
                }
            };
            if self.sending.inbox.deliver(input).is_err() {
                return; // The loop has ended.
            }
        }
    }

    fn exchange(&mut self, request: &RpcRequest) -> Result<ReplyEnvelope, String> {
        let path = path_of(request);
        let envelope = RequestEnvelope { incarnation: self.sending.incarnation, request: request.clone() };
        let body =
            serde_json::to_vec(&envelope).map_err(|error| format!("cannot be said in JSON: {error}"))?;
        let answer = self
            .sending
            .seal
            .post(&mut self.client, &self.to, Purpose::Raft, path, &body, REPLY_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        if answer.status != 200 {
            let said = String::from_utf8_lossy(&answer.body);
            return Err(format!("{} answered {} to {path}: {}", self.to.address, answer.status, said.trim()));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{} gave no reply to {path}: {error}", self.to.address))
    }

    /// One line when a peer is lost, one when it is back; none in between.
    fn note_reachable(&mut self, failure: Option<&str>) {
        let reachable = failure.is_none();
        if self.purpose == "log" && self.reachable != Some(reachable) {
            match failure {
                Some(why) => warn!("peer node {}: not reached: {why}", self.id),
                None if self.reachable.is_some() => info!("peer node {}: reached again", self.id),
                None => info!("peer node {}: reached at {}", self.id, self.to.address),
            }
            self.reachable = Some(reachable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_of_nodes_convert_into_each_other() {
        assert_eq!(node_id(&node_name(12)), Some(12));
        assert_eq!((node_id("daemon:1"), node_id("node-x"), node_id("node-")), (None, None, None));
    }
}
