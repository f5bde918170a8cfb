//! Cut cables, for demonstrations on one machine: this node takes nothing from some of the other nodes, or takes no
//! heartbeats, or gets no votes.
//!
//! `rakit ctl cut` and the control room of `rakit up` set it, over `POST /ui/cuts` on the public address. A node takes
//! such an order only if it was started for it (`--deaf-to`), with both of its addresses on loopback.
//!
//! A cut cable closes nothing: packets just do not arrive. So a request from the other side is held until nobody waits
//! for its answer, and an answer from the other side is held as long as it may take, and counts as lost then.
//! Everything is done where it would arrive, so one list at the receiving node is enough, also for a cut in one
//! direction. Messages of one kind are lost in the same way.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::info;
use serde::Deserialize;

use crate::http::foreign::is_this_machine;
use crate::http::message::{Request, Response, text};
use crate::protocol::Lost;
use crate::raft::{NodeId, Term};

/// The longest list of cut cables, in bytes.
pub const CUTS_BYTES_MAX: usize = 4 * 1024;

/// What does not arrive at this node.
#[derive(Debug, Default)]
pub struct Cuts {
    /// This node was started for it.
    allowed: bool,
    /// Whether the list has entries: the only thing that is read on the usual way.
    any: AtomicBool,
    orders: Mutex<Orders>,
    changed: Condvar,
}

/// The body of `POST /ui/cuts`: all that does not arrive from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    /// From these nodes nothing arrives.
    deaf_to: BTreeSet<NodeId>,
    /// This does not arrive from anybody.
    #[serde(default)]
    loses: BTreeSet<Lost>,
    /// An earlier order to lose the next votes stands, if it is not done yet. Who sends the list can't know whether it
    /// is.
    #[serde(default)]
    keeps_next_vote: bool,
    /// The term whose votes are lost by [`Lost::NextVote`], once it is known.
    #[serde(skip)]
    failing: Option<Term>,
}

impl Orders {
    fn is_empty(&self) -> bool {
        self.deaf_to.is_empty() && self.loses.is_empty()
    }
}

impl Cuts {
    /// As the flag says: `None` for a node that takes no such order.
    ///
    /// # Errors
    /// One line, when one of the node's addresses is not on loopback.
    pub fn new(deaf_to: Option<&[NodeId]>, addresses: [SocketAddr; 2]) -> Result<Cuts, String> {
        if deaf_to.is_some()
            && let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback())
        {
            return Err(format!(
                "--deaf-to is for a cluster on one machine, and {address} is not on loopback"
            ));
        }
        let cuts = Cuts { allowed: deaf_to.is_some(), ..Cuts::default() };
        let deaf_to = deaf_to.unwrap_or_default().iter().copied().collect();
        cuts.set(Orders { deaf_to, ..Orders::default() });
        Ok(cuts)
    }

    /// Whether this node takes orders about cuts.
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// From which nodes nothing arrives now.
    pub fn list(&self) -> Vec<NodeId> {
        self.lock().deaf_to.iter().copied().collect()
    }

    /// What is lost on its way to this node.
    pub fn loses(&self) -> Vec<Lost> {
        self.lock().loses.iter().copied().collect()
    }

    /// Whether nothing arrives from this node. Costs one read of memory as long as nothing is cut.
    pub fn is_cut(&self, from: NodeId) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().deaf_to.contains(&from)
    }

    /// Whether heartbeats are lost on their way to this node.
    pub fn loses_heartbeats(&self) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().loses.contains(&Lost::Heartbeats)
    }

    /// Whether the votes for this node in this term are lost. The first term that is asked for after an order to lose
    /// the next vote is the one whose votes are lost; with a later one the order is done.
    pub fn loses_votes_of(&self, term: Term) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut orders = self.lock();
        if orders.loses.contains(&Lost::NextVote) {
            let failing = *orders.failing.get_or_insert(term);
            if term <= failing {
                return true;
            }
            orders.loses.remove(&Lost::NextVote);
            orders.failing = None;
            self.any.store(!orders.is_empty(), Ordering::Relaxed);
            self.changed.notify_all();
            info!("cut: the votes of term {failing} were lost by order; the next ones arrive");
        }
        orders.loses.contains(&Lost::Votes)
    }

    /// Waits until the cable is healed, and no longer than `limit`.
    pub fn hold(&self, from: NodeId, limit: Duration) {
        self.hold_while(limit, |orders| orders.deaf_to.contains(&from));
    }

    /// The same for what is lost whoever sends it.
    pub fn hold_lost(&self, what: &[Lost], limit: Duration) {
        self.hold_while(limit, |orders| what.iter().any(|lost| orders.loses.contains(lost)));
    }

    fn hold_while(&self, limit: Duration, lost: impl Fn(&Orders) -> bool) {
        let deadline = Instant::now() + limit;
        let mut list = self.lock();
        while lost(&list) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            list = self.changed.wait_timeout(list, left).map_or_else(|p| p.into_inner().0, |(list, _)| list);
        }
    }

    /// `POST /ui/cuts`. `port` is this node's public port.
    pub fn order(&self, request: &Request, port: u16) -> Response {
        // A page of another site in a browser on this machine can send neither this type nor this Host unasked.
        let is_own = request.header("Host").is_some_and(|host| is_this_machine(host, port));
        if !is_own || request.header("Origin").is_some() {
            return text(403, "only `rakit up` on this machine may cut cables");
        }
        if request.header("Content-Type") != Some("application/json") {
            return text(415, "send application/json");
        }
        match serde_json::from_slice(&request.body) {
            Ok(orders) => {
                self.set(orders);
                text(200, "done")
            }
            Err(error) => text(400, &format!("not a list of what is cut: {error}")),
        }
    }

    fn set(&self, mut orders: Orders) {
        let mut list = self.lock();
        let keeps = std::mem::take(&mut orders.keeps_next_vote);
        if keeps && list.loses.contains(&Lost::NextVote) && orders.loses.insert(Lost::NextVote) {
            orders.failing = list.failing;
        }
        if *list == orders {
            return;
        }
        let shown: Vec<String> = orders.deaf_to.iter().map(NodeId::to_string).collect();
        if !shown.is_empty() {
            info!("cut: nothing arrives from node {} by order", shown.join(", "));
        }
        for lost in &orders.loses {
            match lost {
                Lost::Heartbeats => info!("cut: no heartbeat and no entry arrives by order"),
                Lost::Votes => info!("cut: no vote arrives by order"),
                Lost::NextVote => info!("cut: the votes of the next election are lost by order"),
            }
        }
        if orders.is_empty() {
            info!("cut: everything arrives again");
        }
        self.any.store(!orders.is_empty(), Ordering::Relaxed);
        *list = orders;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        // The orders are replaced in one step, so they are whole even if a holder panicked.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::header;
    use tiny_http::Method;

    fn addresses(ip: [u8; 4]) -> [SocketAddr; 2] {
        [SocketAddr::from(([127, 0, 0, 1], 8001)), SocketAddr::from((ip, 9001))]
    }

    fn order(cuts: &Cuts, headers: &[(&'static str, &str)], body: &str) -> u16 {
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
        let request = Request::local(Method::Post, "/ui/cuts", headers, body.as_bytes().to_vec());
        cuts.order(&request, 8001).status_code().0
    }

    #[test]
    fn the_list_is_what_was_ordered_last_and_a_page_of_another_site_orders_nothing() {
        let cuts = Cuts::new(Some(&[4]), addresses([127, 0, 0, 1])).expect("loopback");
        assert!(cuts.is_cut(4) && !cuts.is_cut(2));
        let (host, json) = (("Host", "127.0.0.1:8001"), ("Content-Type", "application/json"));
        let list = r#"{"deaf_to":[2,3]}"#;
        assert_eq!(order(&cuts, &[("Host", "evil.example:8001"), json], list), 403);
        assert_eq!(order(&cuts, &[host, json, ("Origin", "http://127.0.0.1:8001")], list), 403);
        assert_eq!(order(&cuts, &[host, ("Content-Type", "text/plain")], list), 415);
        assert_eq!(order(&cuts, &[host, json], "[2]"), 400);
        assert_eq!(cuts.list(), [4]);
        assert_eq!(order(&cuts, &[host, json], list), 200);
        assert_eq!(cuts.list(), [2, 3]);
        assert_eq!(order(&cuts, &[host, json], r#"{"deaf_to":[]}"#), 200);
        assert!(!cuts.is_cut(2) && !cuts.any.load(Ordering::Relaxed));
    }

    #[test]
    fn who_waits_at_a_cut_goes_on_when_it_is_healed() {
        let cuts = Cuts::new(Some(&[2]), addresses([127, 0, 0, 1])).expect("loopback");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| cuts.hold(2, Duration::from_secs(3600)));
            cuts.set(Orders::default());
            waits.join().expect("healed");
        });
        cuts.hold(2, Duration::from_secs(3600));
    }

    #[test]
    fn the_votes_of_one_term_are_lost_and_those_of_the_next_arrive() {
        let cuts = Cuts::new(Some(&[]), addresses([127, 0, 0, 1])).expect("loopback");
        let headers = [("Host", "127.0.0.1:8001"), ("Content-Type", "application/json")];
        assert_eq!(order(&cuts, &headers, r#"{"deaf_to":[],"loses":["next-vote","heartbeats"]}"#), 200);
        assert!(cuts.loses_heartbeats() && cuts.loses_votes_of(7) && cuts.loses_votes_of(7));
        assert!(!cuts.loses_votes_of(8) && !cuts.loses_votes_of(9));
        assert_eq!(cuts.loses(), [Lost::Heartbeats]);
        assert_eq!(order(&cuts, &headers, r#"{"deaf_to":[],"loses":["votes"]}"#), 200);
        assert!(!cuts.loses_heartbeats() && cuts.loses_votes_of(10) && cuts.loses_votes_of(11));
        assert_eq!(order(&cuts, &headers, r#"{"deaf_to":[],"loses":["all"]}"#), 400);
    }

    #[test]
    fn an_order_for_the_next_votes_stands_beside_a_newer_list_until_it_is_done() {
        let cuts = Cuts::new(Some(&[]), addresses([127, 0, 0, 1])).expect("loopback");
        let headers = [("Host", "127.0.0.1:8001"), ("Content-Type", "application/json")];
        let (fail, keeps) = (
            r#"{"deaf_to":[],"loses":["next-vote"]}"#,
            r#"{"deaf_to":[2],"loses":["votes"],"keeps_next_vote":true}"#,
        );
        assert_eq!(order(&cuts, &headers, keeps), 200);
        assert_eq!(cuts.loses(), [Lost::Votes], "there was none");
        assert_eq!((order(&cuts, &headers, fail), order(&cuts, &headers, keeps)), (200, 200));
        assert_eq!(cuts.loses(), [Lost::Votes, Lost::NextVote]);
        // The term whose votes are lost stays the same.
        assert!(cuts.loses_votes_of(7));
        assert_eq!(order(&cuts, &headers, r#"{"deaf_to":[],"keeps_next_vote":true}"#), 200);
        assert!(cuts.loses_votes_of(7) && !cuts.loses_votes_of(8));
        assert!(cuts.loses().is_empty() && !cuts.any.load(Ordering::Relaxed));
        // A list that keeps nothing ends it.
        assert_eq!((order(&cuts, &headers, fail), order(&cuts, &headers, r#"{"deaf_to":[]}"#)), (200, 200));
        assert!(!cuts.loses_votes_of(9));
    }

    #[test]
    fn only_a_node_on_loopback_takes_such_orders() {
        assert!(
            Cuts::new(Some(&[]), addresses([10, 0, 0, 1]))
                .expect_err("not loopback")
                .contains("10.0.0.1:9001")
        );
        assert!(!Cuts::new(None, addresses([10, 0, 0, 1])).expect("no orders").allowed());
    }
}
