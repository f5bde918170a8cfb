//! A clock that a restart of the process does not reset: `CLOCK_BOOTTIME` of clock_gettime(2), the time since the
//! machine was booted, its sleep included. With the boot's id (random(4)), a moment can be written to disk and
//! understood by the next process. No wall clock takes part, so nobody can set it.
//!
//! `node/` keeps the age of its state by it over its own restart.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where Linux shows a random number that it draws at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This machine's boot clock.
#[derive(Clone, Debug)]
pub struct BootClock {
    boot: String,
}

/// A moment of one boot of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootMoment {
    /// The boot's id.
    pub boot: String,
    /// Since that boot, in milliseconds.
    pub ms: u64,
}

impl BootClock {
    /// The clock of the present boot. Where /proc shows no id of it, all boots count as the same one.
    pub fn new() -> Self {
        let id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self { boot: id.trim().to_owned() }
    }

    /// The moment that was so long ago; the boot itself at the earliest.
    pub fn ago(&self, age: Duration) -> BootMoment {
        let ms = since_boot().saturating_sub(age).as_millis();
        BootMoment { boot: self.boot.clone(), ms: u64::try_from(ms).unwrap_or(u64::MAX) }
    }

    /// How long ago a moment was: the least that it can be. A moment of an earlier boot is older than this boot.
    pub fn age_of(&self, moment: &BootMoment) -> Duration {
        moment.age(&self.boot, since_boot())
    }
}

impl Default for BootClock {
    fn default() -> Self {
        Self::new()
    }
}

impl BootMoment {
    /// How long ago it was, at the time `now` of the boot `boot`: the least that it can be.
    pub fn age(&self, boot: &str, now: Duration) -> Duration {
        if self.boot == boot { now.saturating_sub(Duration::from_millis(self.ms)) } else { now }
    }
}

fn since_boot() -> Duration {
    // The seconds since a boot are never negative, and this clock exists on every Linux that Rust runs on.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_counts_within_a_boot_and_is_the_boots_own_after_another() {
        let moment = BootMoment { boot: "monday".into(), ms: 5_000 };
        let at = |boot, seconds| moment.age(boot, Duration::from_secs(seconds));
        assert_eq!(at("monday", 7), Duration::from_secs(2));
        assert_eq!(at("tuesday", 3), Duration::from_secs(3), "it was before the machine was booted");
        assert_eq!(at("monday", 4), Duration::ZERO, "never less than nothing");
    }

    #[test]
    fn the_machines_own_clock_goes_on() {
        let clock = BootClock::new();
        let then = clock.ago(Duration::from_millis(20));
        assert!(clock.age_of(&then) >= Duration::from_millis(20));
        assert!(BootClock::new().age_of(&then) >= Duration::from_millis(20), "also for the next process");
    }
}
