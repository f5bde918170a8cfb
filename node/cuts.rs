//! Cut cables, for demonstrations on one machine: this node takes nothing from some of the other nodes.
//!
//! `rakit ctl cut` and the control room of `rakit up` set it, over `POST /ui/cuts` on the public address. A node takes such
//! an order only if it was started for it (`--deaf-to`), with both of its addresses on loopback.
//!
//! A cut cable closes nothing: packets just do not arrive. So a request from the other side is held until nobody waits for
//! its answer, and an answer from the other side is held as long as it may take, and counts as lost then. Everything is
//! done where it would arrive, so one list at the receiving node is enough, also for a cut in one direction.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::info;
use serde::Deserialize;

use crate::http::foreign::is_this_machine;
use crate::http::message::{Request, Response, text};
use crate::raft::NodeId;

/// The longest list of cut cables, in bytes.
pub const CUTS_BYTES_MAX: usize = 4 * 1024;

/// From which nodes nothing arrives.
#[derive(Debug, Default)]
pub struct Cuts {
    /// This node was started for it.
    allowed: bool,
    /// Whether the list has entries: the only thing that is read on the usual way.
    any: AtomicBool,
    deaf_to: Mutex<BTreeSet<NodeId>>,
    changed: Condvar,
}

/// The body of `POST /ui/cuts`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CutList {
    deaf_to: BTreeSet<NodeId>,
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
        cuts.set(deaf_to.unwrap_or_default().iter().copied().collect());
        Ok(cuts)
    }

    /// Whether this node takes orders about cuts.
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// From which nodes nothing arrives now.
    pub fn list(&self) -> Vec<NodeId> {
        self.lock().iter().copied().collect()
    }

    /// Whether nothing arrives from this node. Costs one read of memory as long as nothing is cut.
    pub fn is_cut(&self, from: NodeId) -> bool {
        self.any.load(Ordering::Relaxed) && self.lock().contains(&from)
    }

    /// Waits until the cable is healed, and no longer than `limit`.
    pub fn hold(&self, from: NodeId, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut list = self.lock();
        while list.contains(&from) {
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
            Ok(CutList { deaf_to }) => {
                self.set(deaf_to);
                text(200, "done")
            }
            Err(error) => text(400, &format!("not a list of nodes: {error}")),
        }
    }

    fn set(&self, deaf_to: BTreeSet<NodeId>) {
        let mut list = self.lock();
        if *list == deaf_to {
            return;
        }
        let shown: Vec<String> = deaf_to.iter().map(NodeId::to_string).collect();
        match shown.is_empty() {
            true => info!("cut: everything arrives again"),
            false => info!("cut: nothing arrives from node {} by order", shown.join(", ")),
        }
        self.any.store(!deaf_to.is_empty(), Ordering::Relaxed);
        *list = deaf_to;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // The list is replaced in one step, so it is whole even if a holder panicked.
        self.deaf_to.lock().unwrap_or_else(PoisonError::into_inner)
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
            cuts.set(BTreeSet::new());
            waits.join().expect("healed");
        });
        cuts.hold(2, Duration::from_secs(3600));
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
