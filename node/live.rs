//! `GET /ui/state`: what the page shows of this node, as one small JSON. Called by `public_service.rs`; the page asks
//! twice a second while somebody looks at it. The types are in `protocol/page.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::ServiceInput;
use super::recent::{Recent, now_us};
use super::roster::Roster;
use super::slot::Slot;
use super::status::NodeStatus;
use crate::http::message::{Response, json};
use crate::protocol::{NodeOnPage, NodeView, PageState, SERVERS_SHOWN_MAX, ServerPicture, Times};
use crate::raft::{NodeId, Picture};

/// How long the page waits for the Raft loop. A loop that takes longer (its disk hangs) is shown as such.
const PICTURE_TIMEOUT: Duration = Duration::from_millis(250);

/// What the page needs beside the status.
pub struct Live {
    /// Who the members are.
    pub roster: Arc<Roster>,
    /// After so long without a leader, answers are marked with the age of the state.
    pub election_timeout_max: Duration,
    /// From cluster.toml.
    pub times: Times,
    /// The last requests and events.
    pub recent: Arc<Recent>,
}

impl Live {
    /// The answer to `GET /ui/state`.
    pub fn state(&self, status: &NodeStatus) -> Response {
        let view = Some(self.view(status));
        let own = NodeOnPage { node: status.id, view, age_ms: 0, silent: None };
        json(200, &PageState { nodes: vec![own], room: None })
    }

    fn view(&self, node: &NodeStatus) -> NodeView {
        let now = node.started.elapsed();
        let (view, standing) = (node.published.view(), node.standing.get());
        let mut status = node.of_view(&view);
        let locals = node.chooser.local_states(&view, now);
        let heard = node.chooser.heard();
        let of_server =
            |(server, local): (&Arc<crate::balancer::ServerView>, crate::balancer::LocalState)| {
                let name = &server.report().server;
                let mut in_flight: BTreeMap<NodeId, u32> = heard
                    .iter()
                    .filter_map(|(other, counts)| Some((*other, *counts.get(name)?)))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                if local.in_flight > 0 {
                    in_flight.insert(node.id, u32::try_from(local.in_flight).unwrap_or(u32::MAX));
                }
                ServerPicture {
                    decided_at: server.record.decided_at,
                    report_age_ms: ms(now.saturating_sub(server.applied_at)),
                    chosen: local.chosen,
                    in_flight,
                }
            };
        let servers = view.servers().iter().zip(locals).take(SERVERS_SHOWN_MAX).map(of_server).collect();
        let servers_hidden = status.servers.len().saturating_sub(SERVERS_SHOWN_MAX);
        status.servers.truncate(SERVERS_SHOWN_MAX);
        NodeView {
            status,
            servers_hidden,
            members: self.roster.ids(),
            now_us: now_us(),
            age_ms: ms(standing.age(now)),
            stale_ms: standing.stale_for(now, self.election_timeout_max).map(ms),
            times: self.times,
            consensus: picture(node),
            servers,
            requests: self.recent.requests(),
            story: self.recent.story(),
        }
    }
}

/// The consensus of this node, as its Raft loop sees it; `None` if the loop does not answer at once.
pub fn picture(node: &NodeStatus) -> Option<Picture> {
    let (page, waits) = Slot::new();
    node.inbox.offer(ServiceInput::Picture(page)).ok()?;
    waits.recv_timeout(PICTURE_TIMEOUT).ok()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
