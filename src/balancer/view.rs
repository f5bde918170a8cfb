//! An immutable copy of the server table for this node's threads. The Raft loop publishes it after each batch
//! of applied entries, and every request reads it without waiting.
//!
//! The loop owns the table and may change it ten thousand times a second, while a request thread needs one
//! unchanging state. So the loop calls [`Published::publish`] once per batch. That call shares every
//! unchanged record (an `Arc` each) and swaps one pointer. The digest costs more: the first reader that needs
//! it computes it, once per view, and never the loop.
//!
//! A view also holds *when* this node applied a report, by its own clock. The table must not hold that,
//! because it differs between nodes. The stall rule (`stall.rs`) needs it.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::report::Report;
use super::table::{self, ServerRecord, ServerTable};
use crate::raft::Index;

/// One server as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerView {
    /// The agreed state.
    pub record: Arc<ServerRecord>,
    /// When this node applied the newest report.
    pub applied_at: Duration,
}

impl ServerView {
    /// The newest committed report.
    pub fn report(&self) -> &Report {
        &self.record.report
    }

    /// Whether the server may be chosen: alive, its worker is up, and no operator drained it.
    pub fn is_eligible(&self) -> bool {
        self.record.alive && self.record.report.worker_up && self.record.drained_at.is_none()
    }
}

/// The part that views of the same table share.
#[derive(Debug, Default)]
struct Picture {
    servers: Vec<Arc<ServerView>>,
    servers_max: usize,
    ignored: u64,
    digest: OnceLock<String>,
}

/// The server table as of one applied index. Cheap to clone and to share.
#[derive(Clone, Debug, Default)]
pub struct View {
    applied_index: Index,
    picture: Arc<Picture>,
}

impl View {
    /// The next view: `table` at `now`. The Raft loop calls it. It walks once over the servers.
    pub fn next(&self, table: &ServerTable, now: Duration) -> Self {
        let old = &self.picture.servers;
        let mut place = 0;
        let mut changed = self.picture.ignored != table.ignored()
            || self.picture.servers_max != table.servers_max()
            || old.len() != table.servers().len();
        let mut servers = Vec::with_capacity(table.servers().len());
        // Both lists are sorted by name, so one walk compares them.
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

    /// The index of the last entry that is applied in this view.
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

    /// The digest of the table, equal to [`ServerTable::digest`]. Computed at the first call, then kept.
    pub fn digest(&self) -> &str {
        let Picture { servers, servers_max, ignored, digest } = &*self.picture;
        digest.get_or_init(|| table::digest(*servers_max, *ignored, servers.iter().map(|view| &*view.record)))
    }
}

/// The view of a new record, given the earlier view of its server.
fn seen(before: Option<&Arc<ServerView>>, record: &Arc<ServerRecord>, now: Duration) -> ServerView {
    let record = Arc::clone(record);
    match before {
        // The same report, after a verdict or in a table from a snapshot: the time of its application stays.
        Some(view) if view.report().stamp() == record.report.stamp() => {
            ServerView { record, applied_at: view.applied_at }
        }
        _ => ServerView { record, applied_at: now },
    }
}

/// The newest view, set by the Raft loop and read by all other threads. The lock is held only to copy a
/// pointer.
#[derive(Debug)]
pub struct Published(RwLock<Arc<View>>);

impl Published {
    /// Shows `table` from the start: a thread that looks before the Raft loop runs sees what this node recovered.
    pub fn new(table: &ServerTable, now: Duration) -> Self {
        Self(RwLock::new(Arc::new(View::default().next(table, now))))
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        // A lock is poisoned when its holder panics. Every holder only copies a pointer, so the pointer is
        // valid.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes the table as it is now. Only the Raft loop calls it, after each batch of applied entries.
    pub fn publish(&self, table: &ServerTable, now: Duration) -> Arc<View> {
        let next = Arc::new(self.view().next(table, now));
        let old = {
            let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, Arc::clone(&next))
        };
        drop(old); // Outside the lock: it may be the last reference to a thousand records, which takes time.
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::command::{Dead, ServerCommand};
    use crate::balancer::table::tests::{Log, report};

    #[test]
    fn before_the_first_publication_the_recovered_table_is_shown() {
        let mut log = Log::default();
        for _ in 0..2 {
            let view = Published::new(&log.0, seconds(0)).view();
            assert_eq!(
                (view.digest(), view.applied_index()),
                (log.0.digest().as_str(), log.0.applied_index())
            );
            log.report(report("a", 10.0, 1, 1));
        }
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_view_shows_the_table_and_when_it_came() {
        let mut log = Log::default();
        let published = Published::new(&log.0, seconds(0));
        log.report(report("b", 10.0, 1, 1));
        log.report(report("a", 20.0, 1, 1));
        let first = published.publish(&log.0, seconds(5));
        assert_eq!(first.digest(), log.0.digest());
        log.report(report("b", 30.0, 1, 2));
        let second = published.publish(&log.0, seconds(6));
        assert_eq!((second.digest(), second.applied_index()), (log.0.digest().as_str(), 3));
        assert_ne!(first.digest(), second.digest(), "an old view stays as it was");
        let times = |name| second.get(name).map(|view| (view.report().cpu, view.applied_at));
        assert_eq!(times("a"), Some((20.0, seconds(5))));
        assert_eq!(times("b"), Some((30.0, seconds(6))));
        assert_eq!(times("c"), None);
        let order: Vec<_> = second.servers().iter().map(|view| view.report().server.as_str()).collect();
        assert_eq!(order, ["a", "b"]);
    }

    #[test]
    fn a_verdict_and_a_snapshot_do_not_make_a_report_younger() {
        let mut log = Log::default();
        let published = Published::new(&log.0, seconds(0));
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
        assert_eq!((a.record.alive, a.is_eligible(), a.applied_at), (false, false, seconds(5)));
        assert!(view.get("b").expect("there").is_eligible());
    }

    #[test]
    fn entries_that_change_nothing_share_the_picture() {
        let mut log = Log::default();
        let published = Published::new(&log.0, seconds(0));
        log.report(report("a", 10.0, 1, 1));
        let first = published.publish(&log.0, seconds(5));
        log.report(report("a", 10.0, 1, 1));
        let second = published.publish(&log.0, seconds(6));
        assert!(Arc::ptr_eq(&first.picture, &second.picture));
        assert_eq!(second.applied_index(), 2);
    }

    #[test]
    fn a_server_that_left_is_gone() {
        let mut log = Log::default();
        let published = Published::new(&log.0, seconds(0));
        for name in ["a", "b", "c"] {
            log.report(report(name, 10.0, 1, 1));
        }
        published.publish(&log.0, seconds(5));
        let mut other = Log::default();
        other.report(report("b", 11.0, 1, 2));
        let view = published.publish(&other.0, seconds(6));
        assert_eq!(view.servers().len(), 1);
        assert_eq!(view.get("b").expect("there").applied_at, seconds(6));
        assert_eq!(view.digest(), other.0.digest());
    }
}
