//! How much of a server's load our own requests explain, and so how much of it is not ours (docs/balancing.md, "The
//! load that is not ours"). Kept by the [`Chooser`](super::Chooser) for each server, under its lock.
//!
//! A report says how many cores were busy, on average, since the report before it. A request of ours keeps one core
//! busy while it is in flight, and together they keep no more busy than there are. So their average number over the
//! same time, from all nodes, is what we explain. The rest is somebody else's: a process that the server's owner runs,
//! another cluster.

use std::time::Duration;

use super::report::Stamp;
use super::view::ServerView;

/// One server's busy cores, ours and others'.
#[derive(Debug, Default)]
pub(super) struct OwnWork {
    in_flight: u32,
    cores: f64,
    /// The core-seconds that our requests can have used until `at`.
    used: f64,
    at: Duration,
    /// The newest report seen, when it was applied, and `used` then.
    report: Option<(Stamp, Duration, f64)>,
    foreign: f64,
}

impl OwnWork {
    /// From `now` on, so many of our requests are in flight there.
    pub(super) fn set_in_flight(&mut self, in_flight: u32, now: Duration) {
        self.advance(now);
        self.in_flight = in_flight;
    }

    /// How many of the server's cores are busy with what is not ours, by its newest report.
    pub(super) fn foreign(&mut self, server: &ServerView, now: Duration) -> f64 {
        let report = server.report();
        if self.report.is_some_and(|(stamp, ..)| stamp == report.stamp()) {
            return self.foreign;
        }
        self.cores = f64::from(report.cores);
        self.advance(now);
        // Since the report was applied, a moment ago, the number in flight has hardly changed.
        let used = self.used - self.pace() * now.saturating_sub(server.applied_at).as_secs_f64();
        let explained = match self.report {
            // Only the same daemon measures on from its last report.
            Some((stamp, before, used_before))
                if stamp.epoch == report.epoch && before < server.applied_at =>
            {
                (used - used_before) / (server.applied_at - before).as_secs_f64()
            }
            _ => 0.0,
        };
        self.foreign = (report.busy_cores() - explained.max(0.0)).max(0.0);
        self.report = Some((report.stamp(), server.applied_at, used));
        self.foreign
    }

    /// Cores that our requests can keep busy now.
    fn pace(&self) -> f64 {
        f64::from(self.in_flight).min(self.cores)
    }

    fn advance(&mut self, now: Duration) {
        self.used += self.pace() * now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::table::tests::{report, seen_at};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A server with four cores whose report was applied at this moment.
    fn server(cpu: f64, epoch: u64, applied_ms: u64) -> ServerView {
        let report = report("a", cpu, epoch, applied_ms);
        seen_at(report, ms(applied_ms))
    }

    fn seen(work: &mut OwnWork, cpu: f64, at_ms: u64) -> f64 {
        (work.foreign(&server(cpu, 1, at_ms), ms(at_ms)) * 1_000.0).round() / 1_000.0
    }

    #[test]
    fn what_our_requests_explain_is_not_foreign() {
        let mut work = OwnWork::default();
        assert_eq!(
            seen(&mut work, 50.0, 0),
            2.0,
            "nothing is known of the time before: all of it is foreign"
        );
        work.set_in_flight(1, ms(0));
        work.set_in_flight(3, ms(500));
        // One for half a second and three for half a second explain two of the three busy cores.
        assert_eq!(seen(&mut work, 75.0, 1_000), 1.0);
        work.set_in_flight(0, ms(1_000));
        assert_eq!(work.foreign, 1.0, "until the next report");
        assert_eq!(seen(&mut work, 0.0, 2_000), 0.0);
        work.set_in_flight(3, ms(2_000));
        assert_eq!(seen(&mut work, 10.0, 3_000), 0.0, "ours may wait for something: never below zero");
    }

    #[test]
    fn our_requests_use_no_more_cores_than_there_are() {
        let mut work = OwnWork::default();
        seen(&mut work, 0.0, 0);
        work.set_in_flight(100, ms(0));
        work.set_in_flight(0, ms(500));
        assert_eq!(
            seen(&mut work, 75.0, 1_000),
            1.0,
            "a hundred on four cores for half a second explain two cores"
        );
    }

    #[test]
    fn a_report_that_is_seen_late_counts_from_when_it_was_applied() {
        let mut work = OwnWork::default();
        seen(&mut work, 0.0, 0);
        work.set_in_flight(2, ms(0));
        assert!(work.foreign(&server(50.0, 1, 1_000), ms(1_400)) < 1e-9);
        assert_eq!(seen(&mut work, 50.0, 2_000), 0.0);
    }

    #[test]
    fn a_daemon_that_was_started_anew_measures_from_nobody_knows_when() {
        let mut work = OwnWork::default();
        seen(&mut work, 0.0, 0);
        work.set_in_flight(2, ms(0));
        assert_eq!(work.foreign(&server(50.0, 2, 1_000), ms(1_000)), 2.0);
    }
}
