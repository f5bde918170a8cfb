//! Numbers this daemon's reports with `(epoch, sequence)`. The daemon's main loop calls it.
//!
//! The first epoch is the time of the start by this machine's clock, which may be wrong. So the daemon does not
//! rely on it: when a leader answers that it holds a report above this daemon's (an earlier process had a clock
//! that was ahead, or somebody reported by hand), the daemon goes on above that one.
use std::time::{SystemTime, UNIX_EPOCH};

use log::{info, warn};

use crate::balancer::Stamp;
use crate::balancer::report::COUNTER_MAX;

/// The stamps of one daemon's reports.
pub(super) struct Stamps {
    server: String,
    newest: Stamp,
    /// Whether it was logged that only a verdict helps.
    waits: bool,
}

impl Stamps {
    /// The stamps of a daemon that starts now. The first report has sequence 1.
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            newest: Stamp { epoch: epoch_of(SystemTime::now()), sequence: 0 },
            waits: false,
        }
    }

    /// The sequence of the last report; 0 before the first.
    pub(super) fn last_sequence(&self) -> u64 {
        self.newest.sequence
    }

    /// The stamp of the next report.
    pub(super) fn next(&mut self) -> Stamp {
        self.newest.sequence += 1;
        self.newest
    }

    /// A leader holds a report with this stamp. Returns whether the reports go on in another epoch because of it.
    pub(super) fn learn(&mut self, committed: Stamp) -> bool {
        let Stamp { epoch, sequence } = committed;
        let server = &self.server;
        let Some(above) = committed.epoch_above(self.newest) else {
            if committed > self.newest && !std::mem::replace(&mut self.waits, true) {
                warn!(
                    "the leader holds a report of server {server} with the greatest epoch, {epoch}: this daemon's reports \
                     count again as soon as the server is declared dead"
                );
            }
            return false;
        };
        info!(
            "the leader holds a report of server {server} with epoch {epoch} and sequence {sequence}, above this \
             daemon's epoch {}: going on in epoch {above}",
            self.newest.epoch
        );
        self.newest.epoch = above;
        self.waits = false;
        true
    }
}

/// A time in milliseconds since 1970, brought into the range of an epoch.
fn epoch_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(COUNTER_MAX).clamp(1, COUNTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_is_above_the_one_before_and_above_what_the_leader_holds() {
        let mut stamps = Stamps::new("lab-01");
        let first = stamps.next();
        assert_eq!(first.sequence, 1);
        assert!(!stamps.learn(first), "its own report");
        let ahead = Stamp { epoch: first.epoch + 7 * 3_600_000, sequence: 5 };
        assert!(stamps.learn(ahead));
        assert!(!stamps.learn(ahead), "the same answer from another node");
        assert!(stamps.next() > ahead);
        assert_eq!(stamps.last_sequence(), 2);
        assert!(!stamps.learn(Stamp { epoch: COUNTER_MAX, sequence: 0 }), "there is nothing above");
    }

    #[test]
    fn any_clock_gives_an_epoch_in_range() {
        assert_eq!(epoch_of(UNIX_EPOCH), 1);
        let before = UNIX_EPOCH.checked_sub(std::time::Duration::from_secs(5)).expect("a time");
        assert_eq!(epoch_of(before), 1);
        let far = UNIX_EPOCH.checked_add(std::time::Duration::from_millis(COUNTER_MAX + 5)).expect("a time");
        assert_eq!(epoch_of(far), COUNTER_MAX);
    }
}
