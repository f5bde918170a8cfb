//! The silence detector: finds servers whose reports have stopped, so that the leader can declare them dead
//! (docs/balancing.md, "The silence").
//!
//! The replica (`src/replica/`) calls [`heard`](SilenceDetector::heard) for every report that reaches this
//! node and is news to its table ([`ServerTable::fit`]). Every daemon reports to every node, so followers
//! call it, too. Only the leader uses the verdicts.
//! The detector only *proposes* a verdict: a server is dead when the verdict is committed, on all nodes at
//! the same index.
//!
//! - The silence of a server is measured on the leader's monotonic clock, from the moment when the leader last
//!   received a report that was newer than the *committed* one. A report that is not newer does not count: a
//!   replayed or delayed report must not keep a dead server alive. Reports that were received and never
//!   committed do not raise the bar: else one false report with the greatest stamp, sent to a follower that
//!   leads later, would hide every true report from it.
//! - A new leader measures from its own receipts, but at the earliest from its election, because it may have
//!   been cut off before.
//! - A verdict names the newest committed report and is proposed once. It is proposed again only if the
//!   proposal was [`lost`](SilenceDetector::lost), or if it had no effect for another whole timeout.
//! - A node that did not run for a while (paused, starved, its machine suspended) received nothing in that
//!   time, and reports of living servers still wait in its sockets. The detector sees this as a long gap
//!   between two calls. Then it measures all silence anew from now.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::Dead;
use super::report::Stamp;
use super::table::{SERVERS_MAX, ServerTable};

/// A gap between two calls of more than the timeout divided by this counts as a pause of this process. A gap
/// of less than half the timeout goes unnoticed. Alone it makes no server dead, because daemons report
/// several times within a timeout.
const PAUSE_DIVISOR: u32 = 2;

/// The detector must be called at least once per timeout divided by this: much more often than the gap that
/// counts as a pause.
const TICK_DIVISOR: u32 = 8;

/// The most servers for which receipts are kept. More than the table holds, because a report is received
/// before it is committed.
const RECEIPTS_MAX: usize = 2 * SERVERS_MAX;

/// A verdict that was proposed: the committed report that it names, and when it was proposed.
#[derive(Clone, Copy, Debug)]
struct Proposed {
    stamp: Stamp,
    at: Duration,
}

/// When one node last received a report of each server, and which verdicts it has proposed.
#[derive(Debug)]
pub struct SilenceDetector {
    timeout: Duration,
    /// When this node last received news of each server.
    receipts: BTreeMap<String, Duration>,
    /// Set while this node leads.
    lead_since: Option<Duration>,
    /// No silence is measured from before this: the election, or the end of the last pause.
    counted_from: Duration,
    /// The last call.
    ran_at: Option<Duration>,
    /// The verdicts that were proposed and are not applied yet.
    proposed: BTreeMap<String, Proposed>,
    /// Before this moment no server can be overdue.
    next_look: Duration,
}

impl SilenceDetector {
    /// `timeout` is the configuration's `server_timeout_ms`.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            receipts: BTreeMap::new(),
            lead_since: None,
            counted_from: Duration::ZERO,
            ran_at: None,
            proposed: BTreeMap::new(),
            next_look: Duration::ZERO,
        }
    }

    /// Notes that a report reached this node, from its daemon or from a follower that forwarded it, and that it
    /// is newer than the committed one.
    pub fn heard(&mut self, server: &str, now: Duration) {
        self.notice_pause(now);
        if let Some(heard_at) = self.receipts.get_mut(server) {
            *heard_at = now;
            return;
        }
        if self.receipts.len() >= RECEIPTS_MAX {
            // Forget the oldest receipt: its server is silent, or not in the table.
            let oldest = self.receipts.iter().min_by_key(|(_, heard_at)| **heard_at);
            let oldest = oldest.map(|(name, _)| name.clone()).expect("there are many");
            self.receipts.remove(&oldest);
        }
        self.receipts.insert(server.to_owned(), now);
    }

    /// Notes that a report reached this node that is not news, or was sent by a daemon that may not report this
    /// server. It is no sign of life, but this process runs.
    pub fn heard_nothing_new(&mut self, now: Duration) {
        self.notice_pause(now);
    }

    /// Notes when this node was elected, or (`None`) that it is not the leader. Forgets earlier proposals:
    /// they were lost with the leadership, or the table will show their effect.
    pub fn lead_since(&mut self, since: Option<Duration>) {
        if since == self.lead_since {
            return;
        }
        self.lead_since = since;
        self.proposed.clear();
        if let Some(since) = since {
            self.counted_from = self.counted_from.max(since);
            self.ran_at = self.ran_at.max(Some(since));
            self.next_look = since;
        }
    }

    /// Notes that the proposal of this verdict will probably not be committed: it may be proposed again.
    pub fn lost(&mut self, verdict: &Dead) {
        if self.proposed.get(&verdict.server).is_some_and(|proposed| proposed.stamp == verdict.stamp()) {
            // Proposed again at the next tick, not at once: a proposal that is always lost must not make a
            // busy loop.
            self.proposed.remove(&verdict.server);
        }
    }

    /// The verdicts to propose now; none unless this node leads. `table` is this node's applied state.
    /// Returns at once before [`deadline`](Self::deadline).
    pub fn overdue(&mut self, table: &ServerTable, now: Duration) -> Vec<Dead> {
        self.notice_pause(now);
        if self.lead_since.is_none() || now < self.next_look {
            return Vec::new();
        }
        self.proposed.retain(|name, proposed| {
            table.get(name).is_some_and(|record| record.alive && record.report.stamp() == proposed.stamp)
        });
        let mut verdicts = Vec::new();
        let mut next_look = now + self.timeout / TICK_DIVISOR;
        for record in table.servers().filter(|record| record.alive) {
            let (name, committed) = (&record.report.server, record.report.stamp());
            // What this leader committed it has received itself. What earlier leaders committed they received
            // before its election, from which it counts anyway. Without a receipt, it counts from now.
            let heard_at = self.receipts.get(name).copied().unwrap_or_else(|| {
                self.heard(name, now);
                now
            });
            let mut from = heard_at.max(self.counted_from);
            if let Some(proposed) = self.proposed.get(name) {
                from = from.max(proposed.at);
            }
            if from + self.timeout <= now {
                // The whole silence, also if an earlier verdict had no effect.
                let silent = now.saturating_sub(heard_at);
                self.proposed.insert(name.clone(), Proposed { stamp: committed, at: now });
                verdicts.push(Dead {
                    server: name.clone(),
                    epoch: committed.epoch,
                    sequence: committed.sequence,
                    silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                });
            } else {
                next_look = next_look.min(from + self.timeout);
            }
        }
        self.next_look = next_look;
        verdicts
    }

    /// When [`overdue`](Self::overdue) must be called again at the latest: `None` unless this node leads.
    pub fn deadline(&self) -> Option<Duration> {
        self.lead_since.map(|_| self.next_look)
    }

    fn notice_pause(&mut self, now: Duration) {
        // A follower is not called regularly. It measures no silence, and begins at its election.
        if let Some(ran_at) = self.ran_at
            && self.lead_since.is_some()
            && now.saturating_sub(ran_at) > self.timeout / PAUSE_DIVISOR
        {
            self.counted_from = self.counted_from.max(now);
        }
        self.ran_at = self.ran_at.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::command::ServerCommand;
    use crate::balancer::table::Fit;
    use crate::balancer::table::tests::{Log, report};

    const TIMEOUT: Duration = Duration::from_millis(5_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A leader with its table, and a loop that runs as the detector wants it.
    struct LeadingDetector {
        log: Log,
        detector: SilenceDetector,
        now: u64,
    }

    impl LeadingDetector {
        /// Elected at 10 s.
        fn new() -> Self {
            let mut leader =
                Self { log: Log::default(), detector: SilenceDetector::new(TIMEOUT), now: 10_000 };
            leader.detector.lead_since(Some(ms(10_000)));
            leader
        }

        fn heard(&mut self, server: &str, sequence: u64) {
            if self.log.0.fit(&report(server, 1.0, 1, sequence)) == Fit::News {
                self.detector.heard(server, ms(self.now));
            } else {
                self.detector.heard_nothing_new(ms(self.now));
            }
        }

        fn reported(&mut self, server: &str, sequence: u64) {
            self.heard(server, sequence);
            self.log.report(report(server, 1.0, 1, sequence));
        }

        /// Runs up to `until_ms`, stopping at each deadline; who was found overdue, and when.
        fn run(&mut self, until_ms: u64) -> Vec<(u64, Dead)> {
            let mut found = Vec::new();
            loop {
                let deadline = self.detector.deadline().expect("a leader has one").as_millis() as u64;
                self.now = self.now.max(deadline).min(until_ms);
                let verdicts = self.detector.overdue(&self.log.0, ms(self.now));
                found.extend(verdicts.into_iter().map(|dead| (self.now, dead)));
                if self.now == until_ms {
                    return found;
                }
            }
        }
    }

    fn verdict(server: &str, sequence: u64, silent_ms: u64) -> Dead {
        Dead { server: server.to_owned(), epoch: 1, sequence, silent_ms }
    }

    #[test]
    fn silence_for_the_whole_timeout_is_a_verdict_told_once() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 7);
        assert_eq!(leader.run(14_999), []);
        assert_eq!(leader.run(15_000), [(15_000, verdict("a", 7, 5_000))]);
        assert_eq!(leader.run(19_999), [], "once");
        assert_eq!(
            leader.run(20_000),
            [(20_000, verdict("a", 7, 10_000))],
            "nothing came of it for a whole timeout"
        );
    }

    #[test]
    fn a_server_that_reports_is_never_overdue() {
        let mut leader = LeadingDetector::new();
        for sequence in 0..60 {
            leader.reported("a", sequence);
            assert_eq!(leader.run(10_000 + (sequence + 1) * 1_000), []);
        }
    }

    #[test]
    fn the_dead_are_left_alone_and_the_revived_are_heard_again() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 1);
        leader.reported("b", 1);
        let found = leader.run(15_000);
        assert_eq!(found, [(15_000, verdict("a", 1, 5_000)), (15_000, verdict("b", 1, 5_000))]);
        for (_, dead) in found {
            leader.log.apply(&ServerCommand::Dead(dead).to_command());
        }
        assert_eq!(leader.run(40_000), []);
        leader.reported("a", 2);
        assert_eq!(leader.run(44_999), []);
        assert_eq!(leader.run(45_000), [(45_000, verdict("a", 2, 5_000))]);
    }

    #[test]
    fn a_replayed_report_is_no_sign_of_life() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 7);
        leader.run(12_000);
        leader.heard("a", 7);
        leader.run(14_000);
        leader.heard("a", 6);
        assert_eq!(leader.run(15_000), [(15_000, verdict("a", 7, 5_000))]);
    }

    #[test]
    fn an_old_report_that_this_node_never_heard_is_none_either() {
        let mut leader = LeadingDetector::new();
        leader.heard("a", 3);
        leader.log.report(report("a", 1.0, 1, 7)); // Committed by another leader; this node missed 4 to 7.
        leader.run(13_000);
        leader.heard("a", 5);
        assert_eq!(leader.run(15_000), [(15_000, verdict("a", 7, 5_000))]);
    }

    #[test]
    fn a_report_that_is_not_committed_yet_is_a_sign_of_life_and_the_verdict_names_the_committed() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 7);
        leader.run(13_000);
        leader.heard("a", 8);
        assert_eq!(leader.run(17_999), []);
        assert_eq!(leader.run(18_000), [(18_000, verdict("a", 7, 5_000))]);
    }

    /// The report with the greatest stamp was given to a follower, which then leads: nobody committed it.
    #[test]
    fn a_false_report_that_was_never_committed_hides_no_true_one() {
        let mut log = Log::default();
        log.report(report("a", 1.0, 1, 1));
        let mut detector = SilenceDetector::new(TIMEOUT);
        detector.heard("a", ms(9_000)); // It is news to the follower's table.
        detector.lead_since(Some(ms(10_000)));
        let mut leader = LeadingDetector { log, detector, now: 10_000 };
        for sequence in 2..20 {
            leader.reported("a", sequence);
            assert_eq!(leader.run(10_000 + (sequence - 1) * 1_000), []);
        }
    }

    #[test]
    fn a_fresh_leader_counts_from_its_election_at_the_earliest() {
        let mut log = Log::default();
        log.report(report("heard", 1.0, 1, 1));
        log.report(report("unheard", 1.0, 1, 1));
        let mut detector = SilenceDetector::new(TIMEOUT);
        detector.heard("heard", ms(1_000));
        assert_eq!(detector.overdue(&log.0, ms(100_000)), [], "a follower judges nobody");
        assert_eq!(detector.deadline(), None);
        detector.lead_since(Some(ms(100_000)));
        let mut leader = LeadingDetector { log, detector, now: 100_000 };
        assert_eq!(leader.run(104_999), []);
        let found: Vec<_> = leader.run(105_000).into_iter().map(|(_, dead)| dead.server).collect();
        assert_eq!(found, ["heard", "unheard"]);
    }

    #[test]
    fn a_receipt_of_a_follower_counts_when_it_leads() {
        let mut log = Log::default();
        log.report(report("a", 1.0, 1, 1));
        let mut detector = SilenceDetector::new(TIMEOUT);
        detector.lead_since(Some(ms(1_000)));
        detector.lead_since(None);
        detector.heard("a", ms(9_000));
        detector.lead_since(Some(ms(8_000)));
        let mut leader = LeadingDetector { log, detector, now: 9_000 };
        assert_eq!(leader.run(13_999), []);
        assert_eq!(leader.run(14_000), [(14_000, verdict("a", 1, 5_000))]);
    }

    #[test]
    fn a_lost_proposal_and_a_lost_leadership_make_the_verdict_anew() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 1);
        let found = leader.run(15_000);
        leader.detector.lost(&found[0].1);
        assert_eq!(leader.run(15_001), [], "not at once: that could spin");
        let again = leader.run(15_000 + 5_000 / u64::from(TICK_DIVISOR));
        assert_eq!(again.len(), 1, "proposed again: {again:?}");
        leader.detector.lead_since(None);
        assert_eq!(leader.detector.overdue(&leader.log.0, ms(15_700)), []);
        leader.detector.lead_since(Some(ms(16_000)));
        assert_eq!(leader.run(20_999), []);
        assert_eq!(leader.run(21_000).len(), 1);
    }

    #[test]
    fn a_pause_of_this_process_kills_nobody() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 1);
        leader.run(11_000);
        leader.now = 60_000; // SIGSTOP, SIGCONT.
        assert_eq!(leader.detector.overdue(&leader.log.0, ms(60_000)), []);
        assert_eq!(leader.run(64_999), []);
        assert_eq!(leader.run(65_000).len(), 1, "but the dead stay dead");
    }

    #[test]
    fn a_pause_is_noticed_too_if_the_first_call_after_it_brings_a_report() {
        let mut leader = LeadingDetector::new();
        leader.reported("a", 1);
        leader.reported("b", 1);
        leader.run(11_000);
        leader.now = 60_000;
        leader.heard("b", 2);
        assert_eq!(leader.run(60_001), [], "a's report is still in the socket");
    }

    #[test]
    fn receipts_are_bounded_and_the_newest_stay() {
        let mut detector = SilenceDetector::new(TIMEOUT);
        for number in 0..RECEIPTS_MAX as u64 + 10 {
            detector.heard(&format!("s{number}"), ms(number));
        }
        assert_eq!(detector.receipts.len(), RECEIPTS_MAX);
        assert!(!detector.receipts.contains_key("s9") && detector.receipts.contains_key("s10"));
    }
}
