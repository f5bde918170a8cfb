//! Records which reports a leader has committed, and decides whether the next report asks followers to
//! forward it. The senders write it, the main loop reads it.
use std::sync::atomic::{AtomicU64, Ordering};

use log::{info, warn};

/// The newest sequences that any node acknowledged. All senders write them and the main loop reads them. The
/// values are independent and only grow, so relaxed ordering is enough.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    committed: AtomicU64,
    stale: AtomicU64,
}

impl Acknowledged {
    /// A leader committed this report.
    pub(super) fn committed(&self, sequence: u64) {
        self.committed.fetch_max(sequence, Ordering::Relaxed);
    }

    /// A leader had the same or a newer report already.
    pub(super) fn stale(&self, sequence: u64) {
        self.stale.fetch_max(sequence, Ordering::Relaxed);
    }
}

/// How many reports in a row must be stale before the daemon logs a warning. A single one can be harmless:
/// the answer to the commit was lost, and only the answer to the forwarded copy arrived.
const STALE_IN_A_ROW: u32 = 3;

/// Decides whether reports must be forwarded, and logs each change.
pub(super) struct Judge<'a> {
    server: &'a str,
    /// Whether the last report was committed; unknown before the first.
    committed: Option<bool>,
    stale_in_a_row: u32,
}

impl<'a> Judge<'a> {
    pub(super) fn new(server: &'a str) -> Self {
        Self { server, committed: None, stale_in_a_row: 0 }
    }

    /// Whether the report after `last` asks followers to forward it: it does if no node committed report
    /// `last`. The first report (`last` is 0) does not ask.
    pub(super) fn forward(&mut self, acknowledged: &Acknowledged, last: u64) -> bool {
        if last == 0 {
            return false;
        }
        let committed = acknowledged.committed.load(Ordering::Relaxed) >= last;
        // "Stale" means that a leader answered and has this report or a newer one. Forwarding would not help.
        let stale = acknowledged.stale.load(Ordering::Relaxed) >= last;
        self.watch_stale(committed, stale, last);
        let taken = committed || stale;
        if self.committed.replace(taken) != Some(taken) {
            if taken {
                info!("report {last} of server {} is committed", self.server);
            } else {
                warn!(
                    "no node committed report {last}: asking all nodes to forward the next ones to the leader"
                );
            }
        }
        !taken
    }

    fn watch_stale(&mut self, committed: bool, stale: bool, last: u64) {
        if committed || !stale {
            self.stale_in_a_row = 0;
            return;
        }
        self.stale_in_a_row = self.stale_in_a_row.saturating_add(1);
        if self.stale_in_a_row == STALE_IN_A_ROW {
            warn!(
                "report {last} is stale to the leader, like those before it: another daemon reports as {}, or this \
                 machine's clock was set back; stop the other one, or restart this daemon once the clock is right",
                self.server
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_is_asked_for_exactly_when_nobody_took_the_last_report() {
        let acknowledged = Acknowledged::default();
        let mut judge = Judge::new("lab-01");
        assert!(!judge.forward(&acknowledged, 0), "there is no last report");
        assert!(judge.forward(&acknowledged, 1));
        acknowledged.committed(2);
        assert!(!judge.forward(&acknowledged, 2));
        assert!(judge.forward(&acknowledged, 3));
        acknowledged.committed(3); // The answer to an earlier report comes late, and changes nothing for the newer.
        assert!(judge.forward(&acknowledged, 4));
        acknowledged.stale(5);
        assert!(!judge.forward(&acknowledged, 5), "a leader was reached");
        assert!(judge.forward(&acknowledged, 6));
    }

    #[test]
    fn only_stale_reports_in_a_row_are_a_defect() {
        let acknowledged = Acknowledged::default();
        let mut judge = Judge::new("lab-01");
        for sequence in 1..=5 {
            acknowledged.stale(sequence);
            judge.forward(&acknowledged, sequence);
        }
        assert_eq!(judge.stale_in_a_row, 5);
        acknowledged.committed(6);
        judge.forward(&acknowledged, 6);
        assert_eq!(judge.stale_in_a_row, 0);
    }
}
