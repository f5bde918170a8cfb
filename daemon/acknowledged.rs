//! Records which reports a leader has committed, and decides whether the next report asks followers to
//! forward it. The senders write it, the main loop reads it.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{info, warn};

use crate::balancer::Stamp;

/// The newest sequences that any node acknowledged. All senders write them and the main loop reads them. The
/// values are independent and only grow, so relaxed ordering is enough.
#[derive(Debug)]
pub(super) struct Acknowledged {
    committed: AtomicU64,
    stale: AtomicU64,
    /// Refused, because the name is another daemon's.
    not_ours: AtomicU64,
    held: Sender<Stamp>,
    /// Full while the main loop has not looked since a commit.
    commits: (Sender<()>, Receiver<()>),
}

impl Acknowledged {
    /// Nothing is acknowledged yet. Also returns where the main loop receives the stamps that leaders hold.
    pub(super) fn new() -> (Self, Receiver<Stamp>) {
        let (held, stamps) = bounded(1);
        let (committed, stale, not_ours) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        (Self { committed, stale, not_ours, held, commits: bounded(1) }, stamps)
    }

    /// A leader committed this report.
    pub(super) fn committed(&self, sequence: u64) {
        self.committed.fetch_max(sequence, Ordering::Relaxed);
        let _ = self.commits.0.try_send(());
    }

    /// A leader refused this report, because another daemon has the name.
    pub(super) fn not_ours(&self, sequence: u64) {
        self.not_ours.fetch_max(sequence, Ordering::Relaxed);
    }

    /// Whether the name is this daemon's, by the newest answer of a leader.
    pub(super) fn owns_name(&self) -> bool {
        self.committed.load(Ordering::Relaxed) > self.not_ours.load(Ordering::Relaxed)
    }

    /// Waits until this report is committed, and no longer than `deadline`.
    pub(super) fn await_committed(&self, sequence: u64, deadline: Instant) {
        while self.committed.load(Ordering::Relaxed) < sequence
            && self.commits.1.recv_deadline(deadline).is_ok()
        {}
    }

    /// A leader held the same or a newer report already: one with this stamp.
    pub(super) fn stale(&self, sequence: u64, held: Stamp) {
        self.stale.fetch_max(sequence, Ordering::Relaxed);
        // Full: the main loop has one to read, and the answer to a next report says the same again.
        let _ = self.held.try_send(held);
    }
}

/// How many reports in a row must be stale before the daemon logs a warning. A single one can be harmless:
/// the answer to the commit was lost, and only the answer to the forwarded copy arrived.
const STALE_IN_A_ROW: u32 = 3;

/// Decides whether reports must be forwarded, and logs each change.
pub(super) struct ForwardDecision<'a> {
    server: &'a str,
    /// Whether a leader has the last report, or a newer one; unknown before the first report.
    taken: Option<bool>,
    stale_in_a_row: u32,
}

impl<'a> ForwardDecision<'a> {
    pub(super) fn new(server: &'a str) -> Self {
        Self { server, taken: None, stale_in_a_row: 0 }
    }

    /// Whether the report after `last` asks followers to forward it: it does if no leader is known to have report
    /// `last`, or a newer one. The first report (`last` is 0) does not ask.
    pub(super) fn forward(&mut self, acknowledged: &Acknowledged, last: u64) -> bool {
        if last == 0 {
            return false;
        }
        let committed = acknowledged.committed.load(Ordering::Relaxed) >= last;
        // "Stale" means that a leader answered and has this report or a newer one. Forwarding would not help.
        let stale = acknowledged.stale.load(Ordering::Relaxed) >= last;
        if self.name_is_taken(acknowledged, last) {
            return false; // A leader was reached, and other nodes would only hand the report on to it.
        }
        self.watch_stale(committed, stale, last);
        let taken = committed || stale;
        if self.taken.replace(taken) != Some(taken) {
            if taken {
                info!("a leader has report {last} of server {}, or a newer one", self.server);
            } else {
                warn!(
                    "no node committed report {last}: asking all nodes to forward the next ones to the leader"
                );
            }
        }
        !taken
    }

    fn name_is_taken(&self, acknowledged: &Acknowledged, last: u64) -> bool {
        acknowledged.not_ours.load(Ordering::Relaxed) >= last
    }

    fn watch_stale(&mut self, committed: bool, stale: bool, last: u64) {
        if committed || !stale {
            self.stale_in_a_row = 0;
            return;
        }
        self.stale_in_a_row = self.stale_in_a_row.saturating_add(1);
        if self.stale_in_a_row == STALE_IN_A_ROW {
            warn!(
                "report {last} is stale to the leader, like those before it: somebody else reports as {}, each time \
                 above this daemon; stop the other one, or give this daemon another name with --server",
                self.server
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Stamp = Stamp { epoch: 9, sequence: 9 };

    #[test]
    fn forward_is_asked_for_exactly_when_nobody_took_the_last_report() {
        let (acknowledged, _held) = Acknowledged::new();
        let mut decision = ForwardDecision::new("lab-01");
        assert!(!decision.forward(&acknowledged, 0), "there is no last report");
        assert!(decision.forward(&acknowledged, 1));
        acknowledged.committed(2);
        assert!(!decision.forward(&acknowledged, 2));
        assert!(decision.forward(&acknowledged, 3));
        acknowledged.committed(3); // The answer to an earlier report comes late, and changes nothing for the newer.
        assert!(decision.forward(&acknowledged, 4));
        acknowledged.stale(5, HELD);
        assert!(!decision.forward(&acknowledged, 5), "a leader was reached");
        assert!(decision.forward(&acknowledged, 6));
    }

    #[test]
    fn whose_name_it_is_follows_from_the_newest_answer() {
        let (acknowledged, _held) = Acknowledged::new();
        let mut decision = ForwardDecision::new("lab-01");
        assert!(!acknowledged.owns_name(), "nobody has answered");
        acknowledged.committed(1);
        assert!(acknowledged.owns_name());
        acknowledged.not_ours(2);
        assert!(!acknowledged.owns_name() && !decision.forward(&acknowledged, 2));
        acknowledged.committed(3);
        assert!(acknowledged.owns_name());
        acknowledged.await_committed(3, Instant::now());
    }

    #[test]
    fn only_stale_reports_in_a_row_are_a_defect() {
        let (acknowledged, held) = Acknowledged::new();
        let mut decision = ForwardDecision::new("lab-01");
        for sequence in 1..=5 {
            acknowledged.stale(sequence, HELD);
            assert_eq!(held.try_recv(), Ok(HELD));
            decision.forward(&acknowledged, sequence);
        }
        assert_eq!(decision.stale_in_a_row, 5);
        acknowledged.committed(6);
        decision.forward(&acknowledged, 6);
        assert_eq!(decision.stale_in_a_row, 0);
    }
}
