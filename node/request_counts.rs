//! How the requests for primes ended: by status and server, and how long they took. For `/metrics`; `primes.rs` counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::durations::Durations;

/// The statuses that a request for a prime can end with; `0` stands for any other 4xx of a worker.
const STATUSES: [u16; 7] = [200, 400, 502, 503, 504, 508, 0];

/// The upper bounds of the buckets for requests, in microseconds: from a kept connection on one machine to the minutes
/// of a big N.
const BOUNDS_US: [u64; 16] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// Counts by status.
#[derive(Debug, Default)]
struct ByStatus([AtomicU64; STATUSES.len()]);

impl ByStatus {
    fn count(&self, status: u16) {
        let place = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        // Relaxed: no other memory access depends on a counter.
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that are not 0, or that `always` wants all the same.
    fn counted(&self, always: impl Fn(u16) -> bool) -> Vec<(String, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let shown = STATUSES.iter().zip(counts).filter(|(status, count)| *count > 0 || always(**status));
        let code = |status: u16| if status == 0 { "4xx".to_owned() } else { status.to_string() };
        shown.map(|(status, count)| (code(*status), count)).collect()
    }
}

/// The counts since the start.
#[derive(Debug)]
pub struct RequestCounts {
    /// Requests that no server answered.
    by_none: ByStatus,
    /// The others, by the server that answered.
    by_server: RwLock<HashMap<String, ByStatus>>,
    /// How long the requests took.
    pub durations: Durations,
}

impl Default for RequestCounts {
    fn default() -> Self {
        let durations = Durations::new(&BOUNDS_US);
        Self { by_none: ByStatus::default(), by_server: RwLock::default(), durations }
    }
}

impl RequestCounts {
    /// A request ended so, after this time. `is_known` says which servers are in the table: the counts of the others
    /// are forgotten when a new one comes, so that they do not grow for ever.
    pub fn count(&self, status: u16, server: Option<&str>, took: Duration, is_known: impl Fn(&str) -> bool) {
        self.durations.add(took);
        let Some(server) = server else { return self.by_none.count(status) };
        {
            // A thread that panicked under this lock left a map that is whole: each change is one step.
            let by_server = self.by_server.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(counts) = by_server.get(server) {
                return counts.count(status);
            }
        }
        let mut by_server = self.by_server.write().unwrap_or_else(PoisonError::into_inner);
        by_server.retain(|known, _| is_known(known));
        by_server.entry(server.to_owned()).or_default().count(status);
    }

    /// Each status with its count, of the requests that no server answered.
    pub fn by_none(&self) -> Vec<(String, u64)> {
        self.by_none.counted(|status| ![200, 0].contains(&status))
    }

    /// Each status with its count, of the requests that this server answered.
    pub fn by_server(&self, server: &str) -> Vec<(String, u64)> {
        let by_server = self.by_server.read().unwrap_or_else(PoisonError::into_inner);
        let usual = |status| status == 200;
        by_server
            .get(server)
            .map_or_else(|| ByStatus::default().counted(usual), |counts| counts.counted(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_servers_that_left_the_table_are_forgotten_when_another_comes() {
        let counts = RequestCounts::default();
        let count = |status, server: Option<&str>, table: &[&str]| {
            counts.count(status, server, Duration::from_millis(1), |name| table.contains(&name));
        };
        count(200, Some("a"), &["a"]);
        count(200, Some("a"), &["a"]);
        count(404, Some("a"), &["a"]);
        count(503, None, &[]);
        assert_eq!(counts.by_server("a"), [("200".to_owned(), 2), ("4xx".to_owned(), 1)]);
        for name in (0..100).map(|number| format!("s{number}")) {
            count(200, Some(&name), &[&name]);
        }
        assert_eq!(counts.by_server.read().expect("nobody panicked").len(), 1);
        assert_eq!(counts.by_server("a"), [("200".to_owned(), 0)]);
        assert_eq!(counts.by_server("s99"), [("200".to_owned(), 1)]);
        assert!(counts.by_none().contains(&("503".to_owned(), 1)), "{:?}", counts.by_none());
        assert_eq!(counts.durations.buckets().iter().map(|(_, count)| count).sum::<u64>(), 104);
    }
}
