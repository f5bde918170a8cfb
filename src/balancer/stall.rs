//! The stall rule (docs/balancing.md, "The stall"): a server that swallows requests looks idle and would
//! draw them all.
//!
//! > A server that has owed this node an answer for longer than `stall_ms`, while a report of it taken after the
//! > request was sent says that its worker did nothing, is stalled. It is passed over until it answers, and what waits
//! > there is also sent to the next best server; the first whole answer wins.
//!
//! Slow is not stalled: a worker that computes, or would if it got a processor, is active, and its report says so. What
//! the sentence leaves open is decided here:
//!
//! - **Which report counts.** The newest, if it was applied here after the request was sent. One that arrives within
//!   [`REPORT_TRAVEL`] was measured before.
//! - **What "nothing" is.** `"worker_active":false`. Where the daemon cannot know and leaves that out: less than
//!   [`BUSY_CORES_MIN`] busy.
//! - **Since when the answer is owed.** Since the request, or the server's last whole answer if that is later: a worker
//!   that takes one request at a time owes the fifth in its queue nothing yet while it answers the other four.
//! - **What ends a stall.** Any whole answer, also a bad one (it moves again). A connection that the server itself
//!   broke, if it owes nothing else: that is a failure, and failures have their own rule. Another incarnation of the
//!   server (a new epoch, another worker address). *Not* that this node gave up waiting, and not a busy CPU.
//! - **How a stalled server that owes nothing any more gets back.** It could answer nothing. So its mark ages: after
//!   [`TRIAL_AFTER`] it may be chosen again, and its first request, the trial, is at once also sent to the next best:
//!   nobody waits for it.
//! - **A server that is dead or gone from the table** shows no report at all. What has waited there longer than
//!   `stall_ms` is sent elsewhere too: a machine without power never resets a connection.
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

/// After this time a stalled server that owes nothing may be tried with one request that is also sent elsewhere.
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
    /// Whether it is also sent elsewhere: [`Debts::hedges`] named it, or it is a trial.
    hedged: bool,
}

/// A server was found stalled.
#[derive(Clone, Copy, Debug)]
struct Stall {
    /// Who is. Its successor is not.
    who: Incarnation,
    /// When it may be tried again.
    trial_at: Duration,
}

/// What speaks for or against choosing a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Clear,
    /// It was stalled, and its mark has aged. The next request there is a trial.
    OnTrial,
    /// It is passed over.
    Stalled,
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

    /// How many of them were sent at this moment or before.
    pub(super) fn sent_until(&self, moment: Duration) -> usize {
        self.owed.values().filter(|owed| owed.sent_at <= moment).count()
    }

    /// A request was sent; `hedged` if it is also sent to the next best already.
    pub(super) fn sent(&mut self, ticket: u64, server: &ServerView, hedged: bool, now: Duration) {
        self.owed.insert(ticket, Owed { sent_at: now, to: Incarnation::of(server), hedged });
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

    /// How the server stands, by its newest report.
    pub(super) fn judge(&mut self, server: &ServerView, limit: Duration, now: Duration) -> Verdict {
        let who = Incarnation::of(server);
        self.stall = self.stall.filter(|stall| stall.who == who);
        // The oldest has waited longest, and was sent before any other was.
        if self.stall.is_none()
            && let Some(oldest) = self.owed.values().find(|owed| owed.to == who)
            && self.is_evidence(server, oldest, limit, now)
        {
            self.stall = Some(Stall { who, trial_at: now + TRIAL_AFTER });
        }
        match self.stall {
            None => Verdict::Clear,
            Some(stall) if self.owed.is_empty() && stall.trial_at <= now => Verdict::OnTrial,
            Some(_) => Verdict::Stalled,
        }
    }

    /// The trial begins: until it ends, and some time after it if it says nothing, the server stays stalled.
    pub(super) fn begin_trial(&mut self, now: Duration) {
        if let Some(stall) = &mut self.stall {
            stall.trial_at = now + TRIAL_AFTER;
        }
    }

    /// The requests that should also be sent elsewhere and were not named before. `server` is `None` when it left the
    /// table.
    pub(super) fn hedges(&mut self, server: Option<&ServerView>, limit: Duration, now: Duration) -> Vec<u64> {
        let stalled = server.is_some_and(|server| self.judge(server, limit, now) == Verdict::Stalled);
        let is_due = |owed: &Owed| match server {
            Some(server) if server.record.alive && owed.to == Incarnation::of(server) => stalled,
            // Another incarnation will hardly answer for its predecessor, but a daemon alone may have been started anew
            // while the worker computes: so the same evidence, for this request alone.
            Some(server) if server.record.alive => self.is_evidence(server, owed, limit, now),
            _ => owed.sent_at + limit <= now,
        };
        let waiting = self.owed.iter().filter(|(_, owed)| !owed.hedged);
        let due: Vec<u64> = waiting.filter(|(_, owed)| is_due(owed)).map(|(ticket, _)| *ticket).collect();
        for ticket in &due {
            if let Some(owed) = self.owed.get_mut(ticket) {
                owed.hedged = true;
            }
        }
        due
    }

    /// Whether this debt shows that the server is stalled.
    fn is_evidence(&self, server: &ServerView, owed: &Owed, limit: Duration, now: Duration) -> bool {
        let since = owed.sent_at.max(self.answered_at);
        since + limit <= now && since + REPORT_TRAVEL < server.applied_at && !is_active(server)
    }
}

/// Whether the worker did something, by the newest report.
fn is_active(server: &ServerView) -> bool {
    let report = server.report();
    // A load that nobody knows shows nothing against the worker.
    report.worker_active.unwrap_or(!report.cpu_known || report.busy_cores() >= BUSY_CORES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::report::Report;
    use crate::balancer::table::tests::{report, seen_at};
    use std::sync::Arc;

    const LIMIT: Duration = Duration::from_millis(2_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn view(applied_ms: u64, cpu: f64, worker_active: Option<bool>) -> ServerView {
        let report = Report { worker_active, ..report("a", cpu, 1, applied_ms) };
        seen_at(report, ms(applied_ms))
    }

    /// A server with four cores whose daemon does not know what the worker does.
    fn server(applied_ms: u64, cpu: f64) -> ServerView {
        view(applied_ms, cpu, None)
    }

    fn owing_since(sent_ms: u64) -> Debts {
        let mut debts = Debts::default();
        debts.sent(1, &server(0, 0.0), false, ms(sent_ms));
        debts
    }

    fn is_stalled(debts: &mut Debts, server: &ServerView, now_ms: u64) -> bool {
        debts.judge(server, LIMIT, ms(now_ms)) == Verdict::Stalled
    }

    #[test]
    fn a_worker_that_did_nothing_and_owes_for_too_long_is_stalled() {
        // Whatever the machine is busy with: that is not the worker.
        for cpu in [0.0, 100.0] {
            let idle = view(12_000, cpu, Some(false));
            assert!(!is_stalled(&mut owing_since(10_000), &idle, 11_999), "not for so long yet");
            assert!(is_stalled(&mut owing_since(10_000), &idle, 12_000));
        }
    }

    #[test]
    fn a_worker_that_is_active_is_not_stalled_however_little_it_gets_done() {
        for cpu in [0.0, 5.0, 100.0] {
            assert!(!is_stalled(&mut owing_since(10_000), &view(60_000, cpu, Some(true)), 60_000));
        }
    }

    #[test]
    fn if_the_report_does_not_say_half_a_busy_core_is_active() {
        assert!(
            !is_stalled(&mut owing_since(10_000), &server(60_000, 12.5), 60_000),
            "exactly half of one of four"
        );
        assert!(is_stalled(&mut owing_since(10_000), &server(60_000, 12.4), 60_000));
    }

    #[test]
    fn a_report_from_before_the_request_proves_nothing() {
        for applied_ms in [9_900, 10_050] {
            let before = view(applied_ms, 0.0, Some(false));
            assert!(!is_stalled(&mut owing_since(10_000), &before, 60_000), "it was on its way");
        }
        assert!(is_stalled(&mut owing_since(10_000), &view(10_051, 0.0, Some(false)), 60_000));
    }

    #[test]
    fn a_whole_answer_ends_the_stall_and_starts_the_clock_again() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), false, ms(10_000));
        assert!(is_stalled(&mut debts, &server(12_100, 0.0), 12_200));
        debts.settle(1, Settled::Answered, ms(12_500));
        assert!(!is_stalled(&mut debts, &server(12_100, 0.0), 12_500));
        assert!(!is_stalled(&mut debts, &server(14_100, 0.0), 14_400), "the second is owed since the answer");
        assert!(is_stalled(&mut debts, &server(14_100, 0.0), 14_500));
    }

    #[test]
    fn a_stall_outlives_a_busy_cpu_and_our_patience_but_not_a_broken_connection() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), false, ms(10_000));
        assert!(is_stalled(&mut debts, &server(12_100, 0.0), 12_200));
        assert!(is_stalled(&mut debts, &server(13_100, 100.0), 13_200));
        debts.settle(1, Settled::Broken, ms(13_300));
        assert!(is_stalled(&mut debts, &server(13_100, 100.0), 13_400), "it still owes the other");
        debts.sent(3, &server(0, 0.0), false, ms(13_400));
        debts.settle(2, Settled::GivenUp, ms(13_500));
        assert!(is_stalled(&mut debts, &server(13_100, 100.0), 13_600));
        debts.settle(3, Settled::Broken, ms(13_700));
        assert!(!is_stalled(&mut debts, &server(13_100, 100.0), 13_800));
    }

    #[test]
    fn another_incarnation_owes_nothing() {
        let mut debts = owing_since(10_000);
        assert!(is_stalled(&mut debts, &server(12_100, 0.0), 12_200));
        let mut reborn = server(13_000, 0.0);
        Arc::make_mut(&mut reborn.record).report.epoch = 2;
        assert!(!is_stalled(&mut debts, &reborn, 13_000));
        let due = debts.hedges(Some(&reborn), LIMIT, ms(13_000));
        assert_eq!(due, [1], "but what waits there is sent elsewhere");
        assert!(!is_stalled(&mut debts, &reborn, 13_000));
    }

    #[test]
    fn all_that_waits_at_a_stalled_server_is_hedged_once() {
        let mut debts = owing_since(10_000);
        debts.sent(2, &server(0, 0.0), false, ms(12_150));
        debts.sent(3, &server(0, 0.0), true, ms(12_150));
        let idle = server(12_100, 0.0);
        assert_eq!(
            debts.hedges(Some(&idle), LIMIT, ms(12_200)),
            [1, 2],
            "the third was sent elsewhere at once"
        );
        assert_eq!(debts.hedges(Some(&idle), LIMIT, ms(12_200)), [0u64; 0]);
    }

    #[test]
    fn what_waits_at_the_dead_and_gone_is_hedged() {
        let mut gone = server(9_000, 100.0);
        Arc::make_mut(&mut gone.record).alive = false;
        for server in [Some(&gone), None] {
            let mut debts = owing_since(10_000);
            assert!(debts.hedges(server, LIMIT, ms(11_999)).is_empty());
            assert_eq!(debts.hedges(server, LIMIT, ms(12_000)), [1]);
        }
    }

    #[test]
    fn the_mark_of_one_that_owes_nothing_any_more_ages_and_a_trial_follows() {
        let mut debts = owing_since(10_000);
        let idle = server(12_100, 0.0);
        assert!(is_stalled(&mut debts, &idle, 12_200));
        assert!(is_stalled(&mut debts, &idle, 99_000), "it may still answer what it owes");
        debts.settle(1, Settled::GivenUp, ms(13_000));
        assert!(is_stalled(&mut debts, &idle, 17_199));
        assert_eq!(debts.judge(&idle, LIMIT, ms(17_200)), Verdict::OnTrial);
        debts.begin_trial(ms(17_200));
        debts.sent(2, &idle, true, ms(17_200));
        assert!(is_stalled(&mut debts, &idle, 17_201), "one at a time");
        debts.settle(2, Settled::GivenUp, ms(18_000));
        assert!(is_stalled(&mut debts, &idle, 22_199));
        assert_eq!(debts.judge(&idle, LIMIT, ms(22_200)), Verdict::OnTrial);
        debts.sent(3, &idle, true, ms(22_200));
        debts.settle(3, Settled::Answered, ms(22_300));
        assert_eq!(debts.judge(&idle, LIMIT, ms(22_300)), Verdict::Clear);
    }
}
