//! Which servers are reported by two daemons at present. A name belongs to the running daemon that reports it; this is
//! what the other one is remembered by. The cluster listener writes it, `/status` shows it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;

use crate::balancer::{Fit, Report, SERVERS_MAX, View};

/// The second daemon of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rival {
    instance: Option<u64>,
    /// The address that it reports as its worker's.
    worker: SocketAddr,
    heard_at: Duration,
}

/// The second daemons that reported to this node.
#[derive(Debug)]
pub struct Rivals {
    /// A daemon that has not reported for so long is none any more.
    timeout: Duration,
    heard: Mutex<BTreeMap<String, Rival>>,
}

impl Rivals {
    /// With nobody heard. `timeout` is the configuration's `server_timeout_ms`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, heard: Mutex::default() }
    }

    /// A report reached this node, whose table is `view`. Logs a second daemon when it is first heard.
    pub fn hear(&self, report: &Report, view: &View, now: Duration) {
        let Some(owner) =
            view.get(&report.server).filter(|server| server.record.fit(report) == Fit::OtherDaemon)
        else {
            return;
        };
        let rival = Rival { instance: report.instance, worker: report.worker, heard_at: now };
        let mut heard = self.lock();
        heard.retain(|_, rival| now.saturating_sub(rival.heard_at) < self.timeout);
        if heard.len() >= SERVERS_MAX && !heard.contains_key(&report.server) {
            return;
        }
        let before = heard.insert(report.server.clone(), rival);
        drop(heard);
        if before.is_none_or(|before| before.instance != rival.instance) {
            warn!(
                "two daemons report server {}: the one with worker {} keeps the name, the one with worker {} is \
                 refused until the first is silent or stops; stop one of them, or give it another --server",
                report.server,
                owner.report().worker,
                report.worker
            );
        }
    }

    /// What the second daemon of a server reports as its worker's address, if there is one. `owner` is the report in
    /// the table.
    pub fn of(&self, owner: &Report, now: Duration) -> Option<SocketAddr> {
        let heard = self.lock();
        let rival = heard.get(&owner.server)?;
        // A node that catches up has an old table: it may have taken the owner of today for a second daemon.
        let is_owner = rival.instance == owner.instance;
        (!is_owner && now.saturating_sub(rival.heard_at) < self.timeout).then_some(rival.worker)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Rival>> {
        // An insertion or removal is complete or did not happen, also if its thread panicked.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(instance: u64) -> Report {
        let json = format!(
            r#"{{"server":"lab-01","worker":"127.0.0.1:13337","cpu":1.0,"cores":2,"epoch":1,"sequence":1,"worker_up":true,
                "instance":{instance}}}"#
        );
        serde_json::from_str(&json).expect("a report")
    }

    #[test]
    fn the_owner_in_the_table_is_no_second_daemon_even_if_an_older_table_took_it_for_one() {
        let rivals = Rivals::new(Duration::from_secs(5));
        let (restarted, old) = (report(8), report(7));
        let rival =
            Rival { instance: restarted.instance, worker: restarted.worker, heard_at: Duration::ZERO };
        rivals.lock().insert(restarted.server.clone(), rival);
        let soon = Duration::from_secs(1);
        assert_eq!(rivals.of(&old, soon), Some(restarted.worker), "while the old table holds");
        assert_eq!(rivals.of(&restarted, soon), None, "the table has caught up");
        assert_eq!(rivals.of(&old, Duration::from_secs(5)), None, "it is silent");
    }
}
