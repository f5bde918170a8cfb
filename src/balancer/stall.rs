//! The stall rule (docs/balancing.md, "The stall"): a server that swallows requests looks idle and would
//! draw them all.
//!
//! > A server that has owed this node an answer for longer than `stall_ms`, while a report of it taken after the request
//! > was sent shows less than half a core busy, is stalled. It is passed over until it answers, and what waits there is
//! > also sent to the next best server; the first whole answer wins.
//!
//! Slow is not stalled: a worker that computes keeps a core busy, and its report says so. What the sentence leaves open is
//! decided here:
//!
//! - **Which report counts.** The newest, if it was applied here after the request was sent. But its `cpu` is an average
//!   since the report before it; if the request was sent in the middle of that, an honest worker had only the rest of the
//!   time to show. So half a core is demanded for the share of the interval that lies after the request: a worker that
//!   computes on one core shows at least that share, and is called stalled below half of it. For a report whose whole
//!   interval lies after the request this is the sentence to the letter; before that it is only stricter. Waiting for the
//!   second report instead would be simpler, but would make clients wait `stall_ms` plus two reports.
//! - **How long a report travels.** What arrives within [`REPORT_TRAVEL`] of the request was measured before it.
//! - **Since when the answer is owed.** Since the request, or the server's last whole answer if that is later: a worker that
//!   takes one request at a time owes the fifth in its queue nothing yet while it answers the other four.
//! - **What ends a stall.** Any whole answer, also a bad one (it moves again). A connection that the server itself broke,
//!   if it owes nothing else: that is a failure, and failures have their own rule. Another incarnation of the server
//!   (a new epoch, another worker address). *Not* that this node gave up waiting, and not a busy CPU.
//! - **How a stalled server that owes nothing any more gets back.** Nothing is in flight that it could answer. After
//!   [`TRIAL_AFTER`] it is tried with one request, which is at once also sent to the next best: nobody waits for it.
//! - **A server that is dead or gone from the table** shows no report at all. What has waited there longer than `stall_ms`
//!   is sent elsewhere too: a machine without power never resets a connection.
//!
//! Called by the [`Chooser`](super::Chooser) under its lock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::view::ServerView;

/// How many cores a worker that computes keeps busy at the least.
pub const BUSY_CORES_MIN: f64 = 0.5;

/// The time that a report may take from its measurement to its application on this node, as long as nothing is wrong.
pub const REPORT_TRAVEL: Duration = Duration::from_millis(50);

/// After this time a stalled server may be tried with one request that is also sent elsewhere.
pub const TRIAL_AFTER: Duration = Duration::from_secs(5);

/// Which worker a request went to. A server that came back is another one, and owes nothing for its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incarnation {
    epoch: u64,
    worker: SocketAddr,
}

impl Incarnation {
    fn of(server: &ServerView) -> Self {
        Self { epoch: server.report().epoch, worker: server.report().worker }
    }
}

/// One request that was sent and not yet answered.
#[derive(Clone, Copy, Debug)]
struct Owed {
    sent_at: Duration,
    to: Incarnation,
    /// Whether [`Debts::hedges`] named it already.
    hedged: bool,
}

/// A server is stalled.
#[derive(Clone, Copy, Debug)]
struct Stall {
    /// Who is. Its successor is not.
    who: Incarnation,
    /// When it may be tried again.
    trial_at: Duration,
}

/// How a request ended, as far as the debt is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// A whole answer came.
    Answered,
    /// The server refused, reset or cut the connection.
    Broken,
    /// This node stopped waiting: the server still owes the answer, but nobody listens for it.
    GivenUp,
}

/// What one server owes this node.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// By ticket; tickets grow, so the first one waits longest.
    owed: BTreeMap<u64, Owed>,
    /// The last whole answer.
    answered_at: Duration,
    stall: Option<Stall>,
}

impl Debts {
    /// How many requests are in flight.
    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }

    /// A request was sent.
    pub(super) fn sent(&mut self, ticket: u64, server: &ServerView, now: Duration) {
        self.owed.insert(ticket, Owed { sent_at: now, to: Incarnation::of(server), hedged: false });
    }

    /// A request ended at `now` (which counts only for an answer).
    pub(super) fn settle(&mut self, ticket: u64, how: Settled, now: Duration) {
        let Some(owed) = self.owed.remove(&ticket) else {
            return;
        };
        let owes_nothing = !self.owed.values().any(|other| other.to == owed.to);
        match how {
            Settled::Answered => {
                self.answered_at = self.answered_at.max(now);
                self.stall = self.stall.filter(|stall| stall.who != owed.to);
            }
            Settled::Broken if owes_nothing => self.stall = self.stall.filter(|stall| stall.who != owed.to),
            Settled::Broken | Settled::GivenUp => {}
        }
    }

    /// Whether the server is stalled, by its newest report.
    pub(super) fn is_stalled(&mut self, server: &ServerView, limit: Duration, now: Duration) -> bool {
        let who = Incarnation::of(server);
        self.stall = self.stall.filter(|stall| stall.who == who);
        if self.stall.is_none()
            && let Some(oldest) = self.oldest_of(who)
            && self.owed_since(oldest) + limit <= now
            && shows_idle(server, self.owed_since(oldest))
        {
            self.stall = Some(Stall { who, trial_at: now + TRIAL_AFTER });
        }
        self.stall.is_some()
    }

    /// Whether a stalled server may be tried again. Asked once per trial: it sets the time of the next.
    pub(super) fn begin_trial(&mut self, now: Duration) -> bool {
        match &mut self.stall {
            Some(stall) if self.owed.is_empty() && stall.trial_at <= now => {
                stall.trial_at = now + TRIAL_AFTER;
                true
            }
            _ => false,
        }
    }

    /// Whether the request should also be sent elsewhere. `server` is `None` when it left the table.
    pub(super) fn must_hedge(
        &mut self,
        ticket: u64,
        server: Option<&ServerView>,
        limit: Duration,
        now: Duration,
    ) -> bool {
        let stalled = server.is_some_and(|server| self.is_stalled(server, limit, now));
        let Some(owed) = self.owed.get(&ticket).copied() else {
            return false;
        };
        match server {
            Some(server) if server.record.alive => {
                let here = owed.to == Incarnation::of(server);
                // Another incarnation will hardly answer for its predecessor, but a daemon alone may have been started
                // anew while the worker computes: so the same evidence, for this request alone.
                stalled && here
                    || !here && owed.sent_at + limit <= now && shows_idle(server, self.owed_since(&owed))
            }
            _ => owed.sent_at + limit <= now,
        }
    }

    /// The requests that should also be sent elsewhere and were not named before.
    pub(super) fn hedges(&mut self, server: Option<&ServerView>, limit: Duration, now: Duration) -> Vec<u64> {
        let waiting: Vec<u64> =
            self.owed.iter().filter(|(_, owed)| !owed.hedged).map(|(ticket, _)| *ticket).collect();
        let due: Vec<u64> =
            waiting.into_iter().filter(|ticket| self.must_hedge(*ticket, server, limit, now)).collect();
        for ticket in &due {
            if let Some(owed) = self.owed.get_mut(ticket) {
                owed.hedged = true;
            }
        }
        due
    }

    /// When, at the earliest, a request becomes one to hedge if no other report comes. A new report may make it earlier.
    pub(super) fn next_hedge(&self, server: Option<&ServerView>, limit: Duration) -> Option<Duration> {
        let waiting = self.owed.values().filter(|owed| !owed.hedged);
        match server {
            Some(server) if server.record.alive => {
                if self.stall.is_some_and(|stall| stall.who == Incarnation::of(server)) {
                    return waiting.map(|owed| owed.sent_at).min();
                }
                waiting
                    .map(|owed| self.owed_since(owed))
                    .find(|since| shows_idle(server, *since))
                    .map(|since| since + limit)
            }
            _ => waiting.map(|owed| owed.sent_at + limit).min(),
        }
    }

    fn oldest_of(&self, who: Incarnation) -> Option<&Owed> {
        // Judging the oldest is enough: it has waited longest, and of every report the largest share lies after it.
        self.owed.values().find(|owed| owed.to == who)
    }

    fn owed_since(&self, owed: &Owed) -> Duration {
        owed.sent_at.max(self.answered_at)
    }
}

/// Whether the newest report shows that the server did not work on what it owes `since` then.
fn shows_idle(server: &ServerView, since: Duration) -> bool {
    let Some(interval) = server.interval else {
        return false;
    };
    let after = server.applied_at.saturating_sub(since + REPORT_TRAVEL);
    if after.is_zero() {
        return false;
    }
    // An interval of zero (two reports in one batch) makes this infinite, hence 1.
    let share = (after.as_secs_f64() / interval.as_secs_f64()).min(1.0);
    server.report().busy_cores() < BUSY_CORES_MIN * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::report::Report;
    use crate::balancer::table::ServerRecord;
    use crate::balancer::table::tests::report;
    use std::sync::Arc;

    const LIMIT: Duration = Duration::from_millis(2_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A server with four cores whose newest report was applied at `applied_ms`, one second after its predecessor.
    fn server(applied_ms: u64, cpu: f64) -> ServerView {
        let report = Report { worker_up: true, ..report("a", cpu, 1, applied_ms) };
        let record =
            Arc::new(ServerRecord { report, alive: true, reported_at: 1, reported_term: 1, decided_at: 1 });
        ServerView { record, applied_at: ms(applied_ms), interval: Some(ms(1_000)) }
    }

    fn owing_since(sent_ms: u64) -> Debts {
        let mut debts = Debts::default();
        debts.sent(1, &server(0, 0.0), ms(sent_ms));
        debts
    }

    #[test]
    fn idle_and_owing_for_too_long_is_stalled() {
        let idle = server(12_100, 5.0); // 0.2 of 4 cores.
        assert!(!owing_since(10_000).is_stalled(&idle, LIMIT, ms(11_999)), "not for so long yet");
        assert!(owing_since(10_000).is_stalled(&idle, LIMIT, ms(12_100)));
    }

    #[test]
    fn slow_is_not_stalled() {
        let busy = server(60_000, 12.5); // Exactly half a core.
        assert!(!owing_since(10_000).is_stalled(&busy, LIMIT, ms(60_000)));
        assert!(owing_since(10_000).is_stalled(&server(60_000, 12.4), LIMIT, ms(60_000)));
    }

    #[test]
    fn a_report_from_before_the_request_proves_nothing() {
        assert!(!owing_since(10_000).is_stalled(&server(9_900, 0.0), LIMIT, ms(60_000)));
        assert!(
            !owing_since(10_000).is_stalled(&server(10_040, 0.0), LIMIT, ms(60_000)),
            "it was on its way"
        );
        assert!(owing_since(10_000).is_stalled(&server(10_100, 0.0), LIMIT, ms(60_000)));
    }

    #[test]
    fn a_report_counts_for_the_share_that_lies_after_the_request() {
        // Sent 250 ms (and the travel) before the report: a quarter of the interval, so 0.125 cores: 3.125 % of four.
        assert!(!owing_since(10_000).is_stalled(&server(10_300, 3.2), LIMIT, ms(13_000)));
        assert!(owing_since(10_000).is_stalled(&server(10_300, 3.1), LIMIT, ms(13_000)));
    }

    #[test]
    fn the_first_report_of_a_daemon_proves_nothing() {
        let first = ServerView { interval: None, ..server(12_000, 0.0) };
        assert!(!owing_since(10_000).is_stalled(&first, LIMIT, ms(60_000)));
    }

    #[test]
    fn a_whole_answer_ends_the_stall_and_starts_the_clock_again() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), ms(10_000));
        assert!(debts.is_stalled(&server(12_100, 0.0), LIMIT, ms(12_200)));
        debts.settle(1, Settled::Answered, ms(12_500));
        assert!(!debts.is_stalled(&server(12_100, 0.0), LIMIT, ms(12_500)));
        assert!(
            !debts.is_stalled(&server(14_100, 0.0), LIMIT, ms(14_400)),
            "the second is owed since the answer"
        );
        assert!(debts.is_stalled(&server(14_100, 0.0), LIMIT, ms(14_500)));
    }

    #[test]
    fn a_stall_outlives_a_busy_cpu_and_our_patience_but_not_a_broken_connection() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), ms(10_000));
        assert!(debts.is_stalled(&server(12_100, 0.0), LIMIT, ms(12_200)));
        assert!(debts.is_stalled(&server(13_100, 100.0), LIMIT, ms(13_200)));
        debts.settle(1, Settled::Broken, ms(13_300));
        assert!(debts.is_stalled(&server(13_100, 100.0), LIMIT, ms(13_400)), "it still owes the other");
        debts.sent(3, &server(0, 0.0), ms(13_400));
        debts.settle(2, Settled::GivenUp, ms(13_500));
        assert!(debts.is_stalled(&server(13_100, 100.0), LIMIT, ms(13_600)));
        debts.settle(3, Settled::Broken, ms(13_700));
        assert!(!debts.is_stalled(&server(13_100, 100.0), LIMIT, ms(13_800)));
    }

    #[test]
    fn another_incarnation_owes_nothing() {
        let mut debts = owing_since(10_000);
        assert!(debts.is_stalled(&server(12_100, 0.0), LIMIT, ms(12_200)));
        let mut reborn = server(13_000, 0.0);
        Arc::make_mut(&mut reborn.record).report.epoch = 2;
        assert!(!debts.is_stalled(&reborn, LIMIT, ms(13_000)));
        assert_eq!(
            debts.hedges(Some(&reborn), LIMIT, ms(13_000)),
            [1],
            "but what waits there is sent elsewhere"
        );
        assert!(!debts.is_stalled(&reborn, LIMIT, ms(13_000)));
    }

    #[test]
    fn all_that_waits_at_a_stalled_server_is_hedged_once() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), ms(12_150));
        let idle = server(12_100, 0.0);
        assert_eq!(debts.next_hedge(Some(&server(9_000, 0.0)), LIMIT), None, "only a report can change that");
        assert_eq!(debts.next_hedge(Some(&server(11_500, 0.0)), LIMIT), Some(ms(12_000)));
        assert_eq!(debts.hedges(Some(&idle), LIMIT, ms(12_200)), [1, 2]);
        assert_eq!(debts.hedges(Some(&idle), LIMIT, ms(12_200)), [0u64; 0]);
        assert_eq!(debts.next_hedge(Some(&idle), LIMIT), None);
        assert!(
            debts.must_hedge(1, Some(&idle), LIMIT, ms(12_300)),
            "whoever asks for one ticket is told each time"
        );
        assert!(!debts.must_hedge(9, Some(&idle), LIMIT, ms(12_300)));
    }

    #[test]
    fn what_waits_at_the_dead_and_gone_is_hedged() {
        let mut gone = server(9_000, 100.0);
        Arc::make_mut(&mut gone.record).alive = false;
        for server in [Some(&gone), None] {
            let mut debts = owing_since(10_000);
            assert_eq!(debts.next_hedge(server, LIMIT), Some(ms(12_000)));
            assert!(debts.hedges(server, LIMIT, ms(11_999)).is_empty());
            assert_eq!(debts.hedges(server, LIMIT, ms(12_000)), [1]);
        }
    }

    #[test]
    fn a_trial_comes_after_a_while_and_only_if_nothing_is_in_flight() {
        let mut debts = owing_since(10_000);
        assert!(!debts.begin_trial(ms(99_000)), "not stalled");
        assert!(debts.is_stalled(&server(12_100, 0.0), LIMIT, ms(12_200)));
        assert!(!debts.begin_trial(ms(99_000)), "it may still answer what it owes");
        debts.settle(1, Settled::GivenUp, ms(13_000));
        assert!(!debts.begin_trial(ms(17_199)));
        assert!(debts.begin_trial(ms(17_200)));
        assert!(!debts.begin_trial(ms(17_201)), "one at a time");
        assert!(debts.begin_trial(ms(22_200)));
    }
}
