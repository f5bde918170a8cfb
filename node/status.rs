//! What a node says about itself on its public address: status, log, readiness, usage. Called by
//! `public_service.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cuts::Cuts;
use super::inbox::{Inbox, ServiceInput};
use super::refusals::PeerRefusals;
use super::rivals::Rivals;
use super::roster::Roster;
use super::slot::Slot;
use super::standing::StandingBoard;
use crate::balancer::{Chooser, Policy, Published, View};
use crate::http::message::{Response, header, json, text};
use crate::protocol::{LOG_LIMIT_MAX, LogQuery, PROTOCOL_VERSION, ServerStatus, Status};
use crate::raft::{Membership, NodeId};

/// How long `GET /log` waits for the loop.
const LOOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The routes that tell how this node stands.
pub struct NodeStatus {
    /// This node.
    pub id: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// How a server is chosen.
    pub policy: Policy,
    /// The clock's beginning.
    pub started: Instant,
    /// This node's memory of its requests.
    pub chooser: Arc<Chooser>,
    /// The agreed table.
    pub published: Arc<Published>,
    /// How this node stands.
    pub standing: Arc<StandingBoard>,
    /// Who the members are.
    pub roster: Arc<Roster>,
    /// Servers that two daemons report.
    pub rivals: Arc<Rivals>,
    /// Who does not work with it.
    pub refusals: Arc<PeerRefusals>,
    /// To the loop, for the log.
    pub inbox: Inbox,
    /// Cut cables, in a demonstration.
    pub cuts: Arc<Cuts>,
}

impl NodeStatus {
    /// `GET /status`: this node's own view.
    pub fn status(&self) -> Response {
        json(200, &self.of_view(&self.published.view()))
    }

    /// The status with the server table of `view`.
    pub fn of_view(&self, view: &View) -> Status {
        let (standing, list) = (self.standing.get(), self.roster.answer());
        // The digest and the applied index come from one view, so that they always belong together; the standing may be
        // one batch older or newer.
        let applied_index = view.applied_index();
        let local = self.chooser.local_states(view, self.started.elapsed());
        let servers = view.servers().iter().zip(local).map(|(server, local)| {
            let report = server.report();
            ServerStatus {
                id: report.server.clone(),
                worker: report.worker,
                cpu: report.cpu,
                cores: report.cores,
                cpu_known: report.cpu_known,
                alive: server.record.alive,
                drained: server.record.drained_at.is_some(),
                worker_up: report.worker_up,
                epoch: report.epoch,
                sequence: report.sequence,
                in_flight: local.in_flight,
                stalled: local.stalled,
                avoided: local.avoided,
                also_reported: self.rivals.of(report, self.started.elapsed()),
            }
        });
        Status {
            cluster: self.cluster.clone(),
            node: self.id,
            role: standing.role,
            term: standing.term,
            leader: standing.leader,
            voted_for: standing.voted_for,
            commit_index: standing.commit_index.max(applied_index),
            applied_index,
            last_index: standing.last_index.max(applied_index),
            snapshot_index: standing.snapshot_index,
            joining: standing.joining,
            membership: standing.membership,
            members_index: list.index,
            members: list.members,
            state_digest: view.digest().to_owned(),
            policy: self.policy.name().to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            refusals: self.refusals.list(),
            stuck_ms: self
                .standing
                .stuck()
                .map(|stuck| u64::try_from(stuck.time.as_millis()).unwrap_or(u64::MAX)),
            contradiction: standing.contradiction.map(|contradiction| contradiction.text(self.id)),
            deaf_to: self.cuts.list(),
            loses: self.cuts.loses(),
            servers: servers.collect(),
        }
    }

    /// `GET /readyz`: 200 once a leader is known and the committed state is applied.
    pub fn readyz(&self) -> Response {
        self.unready().map_or_else(|| text(200, "ready"), |why| unavailable(&why))
    }

    /// Why this node is not ready, if it is not.
    pub fn unready(&self) -> Option<String> {
        let standing = self.standing.get();
        if let Some(stuck) = self.standing.stuck() {
            Some(stuck.text())
        } else if let Some(contradiction) = standing.contradiction {
            Some(contradiction.text(self.id))
        } else if standing.membership == Membership::Removed {
            Some("this node was removed from the cluster; it may be stopped".to_owned())
        } else if standing.leader.is_none() {
            Some("no leader is known".to_owned())
        } else if standing.applied_index < standing.commit_index || !standing.settled {
            Some("the committed state is not applied yet".to_owned())
        } else {
            None
        }
    }

    /// `GET /log`: entries of this node's Raft log.
    pub fn log(&self, query: &str) -> Response {
        let Some(LogQuery { after, limit }) = LogQuery::parse(query) else {
            return text(
                400,
                &format!(
                    "use /log?after=INDEX&limit=COUNT, with whole numbers and COUNT from 1 to {LOG_LIMIT_MAX}"
                ),
            );
        };
        let (entries, waits) = Slot::new();
        let asked = self.inbox.offer(ServiceInput::ReadLog { after, limit, entries });
        match asked.ok().and_then(|()| waits.recv_timeout(LOOP_TIMEOUT).ok()) {
            Some(entries) => json(200, &entries),
            None => unavailable("the Raft loop is busy"),
        }
    }

    /// `GET /`: what there is.
    pub fn usage(&self) -> Response {
        let id = self.id;
        text(
            200,
            &format!(
                "Rakit node {id} of cluster {}.\n\n\
                 GET /N        the Nth prime, computed by the server with the lowest load: curl http://HOST/10001\n\
                 GET /status   what this node believes, as JSON\n\
                 GET /log      its Raft log, as JSON: /log?after=INDEX&limit=COUNT\n\
                 GET /healthz  200 while the process serves\n\
                 GET /readyz   200 once it knows a leader and has applied the committed state\n\
                 GET /metrics  counters, for Prometheus\n\n\
                 A browser shows this node's page at the same address.",
                self.cluster
            ),
        )
    }
}

fn unavailable(why: &str) -> Response {
    text(503, why).with_header(header("Retry-After", "1"))
}
