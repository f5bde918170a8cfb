//! What this node's threads see of the server table: an immutable picture, published by the Raft loop after each batch of
//! applied entries, read by every request without waiting for anybody.
//!
//! The loop owns the table and changes it ten thousand times a second; a request thread wants to look at one state in
//! peace. So the loop calls [`Published::publish`] once per batch, which shares every record that did not change (an `Arc`
//! each), and swaps one pointer. What costs more, the order by load and the digest, is made by the first reader that
//! asks, once per picture, and never in the loop.
//!
//! A view knows one thing that the table must not: *when* a report was applied here, by this node's clock. The stall rule
//! needs it (`stall.rs`).

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::report::Report;
use super::table::{self, ServerRecord, ServerTable};
use crate::raft::Index;

/// One server as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView {
    /// What is agreed.
    pub record: Arc<ServerRecord>,
    /// When this node applied the newest report.
    pub applied_at: Duration,
    /// How long after its predecessor that was: about the time over which its `cpu` was measured. `None` for the first
    /// report that this node saw of the server, whose measurement began nobody knows when.
    pub interval: Option<Duration>,
}

impl ServerView {
    /// The newest committed report.
    pub fn report(&self) -> &Report {
        &self.record.report
    }

    /// Whether the server may be chosen: alive, and its worker is up.
    pub fn is_eligible(&self) -> bool {
        self.record.alive && self.record.report.worker_up
    }
}

/// What views of the same table share.
#[derive(Debug, Default)]
struct Picture {
    servers: Vec<Arc<ServerView>>,
    servers_max: usize,
    ignored: u64,
    by_load: OnceLock<Vec<Arc<ServerView>>>,
    digest: OnceLock<String>,
}

/// The server table as of one applied index. Cheap to clone and to share.
#[derive(Clone, Debug, Default)]
pub struct View {
    applied_index: Index,
    picture: Arc<Picture>,
}

impl View {
    /// The view that follows this one: `table` at `now`. Work for the loop: one walk over the servers.
    pub fn next(&self, table: &ServerTable, now: Duration) -> Self {
        let old = &self.picture.servers;
        let mut place = 0;
        let mut changed = self.picture.ignored != table.ignored()
            || self.picture.servers_max != table.servers_max()
            || old.len() != table.servers().len();
        let mut servers = Vec::with_capacity(table.servers().len());
        // Both are in the order of names: walk them side by side.
        for record in table.servers() {
            while old.get(place).is_some_and(|view| view.report().server < record.report.server) {
                place += 1;
            }
            let before = old.get(place).filter(|view| view.report().server == record.report.server);
            match before {
                Some(view) if Arc::ptr_eq(&view.record, record) => servers.push(Arc::clone(view)),
                before => {
                    changed = true;
                    servers.push(Arc::new(seen(before, record, now)));
                }
            }
        }
        let picture = if changed {
            let (servers_max, ignored) = (table.servers_max(), table.ignored());
            Arc::new(Picture { servers, servers_max, ignored, ..Picture::default() })
        } else {
            Arc::clone(&self.picture)
        };
        Self { applied_index: table.applied_index(), picture }
    }

    /// The last entry that this view knows of.
    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// All servers, by name.
    pub fn servers(&self) -> &[Arc<ServerView>] {
        &self.picture.servers
    }

    /// One server.
    pub fn get(&self, server: &str) -> Option<&Arc<ServerView>> {
        let servers = &self.picture.servers;
        let place = servers.binary_search_by(|view| view.report().server.as_str().cmp(server)).ok()?;
        servers.get(place)
    }

    /// The servers that may be chosen, by load, then by name. Sorted by the first who asks, then kept.
    pub fn by_load(&self) -> &[Arc<ServerView>] {
        self.picture.by_load.get_or_init(|| {
            let mut eligible: Vec<_> =
                self.picture.servers.iter().filter(|view| view.is_eligible()).cloned().collect();
            // Stable: equal loads stay in the order of their names.
            eligible.sort_by(|a, b| a.report().cpu.total_cmp(&b.report().cpu));
            eligible
        })
    }

    /// The digest of the table, equal to [`ServerTable::digest`]. Computed by the first who asks, then kept.
    pub fn digest(&self) -> &str {
        let Picture { servers, servers_max, ignored, digest, .. } = &*self.picture;
        digest.get_or_init(|| table::digest(*servers_max, *ignored, servers.iter().map(|view| &*view.record)))
    }
}

/// How a record that is new in the table is seen, given how its server was seen before.
fn seen(before: Option<&Arc<ServerView>>, record: &Arc<ServerRecord>, now: Duration) -> ServerView {
    let record = Arc::clone(record);
    match before {
        // The same report (a verdict came, or the table was rebuilt from a snapshot): it was applied when it was applied.
        Some(view) if view.report().stamp() == record.report.stamp() => {
            ServerView { record, applied_at: view.applied_at, interval: view.interval }
        }
        // Only the same daemon measures on from its last report; one that was started anew begins afresh.
        Some(view) if view.report().epoch == record.report.epoch => {
            ServerView { record, applied_at: now, interval: Some(now.saturating_sub(view.applied_at)) }
        }
        _ => ServerView { record, applied_at: now, interval: None },
    }
}

/// The place where the loop puts the newest view and all other threads find it. The lock is held for a pointer's time.
#[derive(Debug, Default)]
pub struct Published(RwLock<Arc<View>>);

impl Published {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        // A lock is poisoned when a holder panics; no holder does more than copy a pointer, so the pointer is whole.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows the table as it is now. Called by the loop, and by nobody else, after each batch of applied entries.
    pub fn publish(&self, table: &ServerTable, now: Duration) -> Arc<View> {
        let next = Arc::new(self.view().next(table, now));
        let old = {
            let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, Arc::clone(&next))
        };
        drop(old); // Outside the lock: it may be the last reference to a thousand records.
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::command::{Dead, ServerCommand};
    use crate::balancer::table::tests::{Log, report};

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_view_shows_the_table_and_when_it_came() {
        let (mut log, published) = (Log::default(), Published::new());
        log.report(report("b", 10.0, 1, 1));
        log.report(report("a", 20.0, 1, 1));
        let first = published.publish(&log.0, seconds(5));
        assert_eq!(first.digest(), log.0.digest());
        log.report(report("b", 30.0, 1, 2));
        let second = published.publish(&log.0, seconds(6));
        assert_eq!((second.digest(), second.applied_index()), (log.0.digest().as_str(), 3));
        assert_ne!(first.digest(), second.digest(), "an old view stays as it was");
        let times = |name| second.get(name).map(|view| (view.report().cpu, view.applied_at, view.interval));
        assert_eq!(times("a"), Some((20.0, seconds(5), None)));
        assert_eq!(times("b"), Some((30.0, seconds(6), Some(seconds(1)))));
        assert_eq!(times("c"), None);
        let order: Vec<_> = second.by_load().iter().map(|view| view.report().server.as_str()).collect();
        assert_eq!(order, ["a", "b"]);
    }

    #[test]
    fn a_verdict_and_a_snapshot_do_not_make_a_report_younger() {
        let (mut log, published) = (Log::default(), Published::new());
        log.report(report("a", 10.0, 1, 1));
        log.report(report("b", 10.0, 1, 1));
        published.publish(&log.0, seconds(5));
        log.apply(
            &ServerCommand::Dead(Dead { server: "a".into(), epoch: 1, sequence: 1, silent_ms: 1 })
                .to_command(),
        );
        let table = ServerTable::from_snapshot(&log.0.to_snapshot()).expect("our own words");
        let view = published.publish(&table, seconds(9));
        let a = view.get("a").expect("there");
        assert_eq!((a.record.alive, a.applied_at), (false, seconds(5)));
        assert_eq!(view.by_load().len(), 1, "the dead are not chosen");
    }

    #[test]
    fn a_daemon_started_anew_measures_from_nobody_knows_when() {
        let (mut log, published) = (Log::default(), Published::new());
        log.report(report("a", 10.0, 1, 1));
        published.publish(&log.0, seconds(5));
        log.report(report("a", 10.0, 2, 1));
        assert_eq!(published.publish(&log.0, seconds(6)).get("a").expect("there").interval, None);
    }

    #[test]
    fn entries_that_change_nothing_share_the_picture() {
        let (mut log, published) = (Log::default(), Published::new());
        log.report(report("a", 10.0, 1, 1));
        let first = published.publish(&log.0, seconds(5));
        log.report(report("a", 10.0, 1, 1));
        let second = published.publish(&log.0, seconds(6));
        assert!(Arc::ptr_eq(&first.picture, &second.picture));
        assert_eq!(second.applied_index(), 2);
    }

    #[test]
    fn a_server_that_left_is_gone() {
        let (mut log, published) = (Log::default(), Published::new());
        for name in ["a", "b", "c"] {
            log.report(report(name, 10.0, 1, 1));
        }
        published.publish(&log.0, seconds(5));
        let mut other = Log::default();
        other.report(report("b", 11.0, 1, 2));
        let view = published.publish(&other.0, seconds(6));
        assert_eq!(view.servers().len(), 1);
        assert_eq!(view.get("b").expect("there").interval, Some(seconds(1)));
        assert_eq!(view.digest(), other.0.digest());
    }
}
