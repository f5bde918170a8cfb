//! Measures how busy all processors were between two readings of `/proc/stat` (proc_stat(5)). `meter.rs`
//! calls it.
//!
//! It uses the first line (`cpu`, the sum over all processors), in ticks since boot: total = user + nice +
//! system + idle + iowait + irq + softirq + steal; user and nice already contain guest and guest_nice. busy =
//! total − idle − iowait: a processor that waits for a disk could compute. Steal counts as busy: the
//! hypervisor gave that time to another virtual machine, so it was not available here.
//!
//! Counters may decrease: iowait and idle do so on kernels with tickless idle (the manual page calls iowait
//! "not reliable"), and all fields do when a processor is unplugged. So the difference of each field is
//! computed alone. A field that decreased counts as 0 for that interval; the other fields stay exact, and
//! nothing overflows.
use procfs::prelude::*;
use procfs::{CpuTime, KernelStats};

/// One reading, in ticks since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// user, nice, system, irq, softirq, steal.
    busy: [u64; 6],
    /// idle, iowait.
    idle: [u64; 2],
    /// How many processors are online; at least 1.
    pub(super) cores: u32,
}

/// Reads `/proc/stat`.
///
/// # Errors
/// When the file cannot be read or parsed, for example in a container without it.
pub(super) fn read() -> procfs::ProcResult<Reading> {
    Ok(Reading::of(&KernelStats::current()?))
}

impl Reading {
    fn of(stats: &KernelStats) -> Self {
        let CpuTime { user, nice, system, idle, iowait, irq, softirq, steal, .. } = stats.total;
        // Fields that an old kernel lacks are 0 in every reading.
        let [iowait, irq, softirq, steal] = [iowait, irq, softirq, steal].map(Option::unwrap_or_default);
        Self {
            busy: [user, nice, system, irq, softirq, steal],
            idle: [idle, iowait],
            cores: u32::try_from(stats.cpu_time.len()).unwrap_or(u32::MAX).max(1),
        }
    }

    /// The busy part of all processors between `before` and this reading, in percent, 0 to 100. `None` when
    /// no counter grew.
    pub(super) fn load_since(&self, before: &Self) -> Option<f64> {
        let busy = steps(&self.busy, &before.busy);
        let idle = steps(&self.idle, &before.idle);
        let total = busy + idle;
        // Exact: even the ticks of a year are far below 2^53.
        (total > 0).then(|| (busy as f64 / total as f64 * 100.0).clamp(0.0, 100.0))
    }

    /// Whether all counters stand where they stood: nobody counts. On a real machine, an idle processor counts its idle time.
    pub(super) fn is_frozen_since(&self, before: &Self) -> bool {
        (self.busy, self.idle) == (before.busy, before.idle)
    }
}

/// The sum of the fields' increases; wider than a field, so that it cannot overflow.
fn steps(now: &[u64], before: &[u64]) -> u128 {
    now.iter().zip(before).map(|(now, before)| u128::from(now.saturating_sub(*before))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(cpu: &str, cores: usize) -> Reading {
        let each: String = (0..cores).map(|i| format!("cpu{i} {cpu}\n")).collect();
        let text = format!(
            "cpu  {cpu}\n{each}intr 33 0 1 2\nctxt 900\nbtime 1700000000\nprocesses 5\nprocs_running 1\n\
             procs_blocked 0\nsoftirq 4 1 1 1\nsomething_new 1 2 3\n"
        );
        let stats = KernelStats::from_buf_read(text.as_bytes(), procfs::current_system_info());
        Reading::of(&stats.expect("the text of a kernel"))
    }

    fn load(before: &str, after: &str) -> Option<f64> {
        reading(after, 2).load_since(&reading(before, 2))
    }

    #[test]
    fn busy_is_all_but_idle_and_iowait() {
        //     user nice system idle iowait irq softirq steal guest guest_nice
        let before = "1000 100 500 9000 300 10 20 30 0 0";
        assert_eq!(load(before, "1050 100 500 9050 300 10 20 30 0 0"), Some(50.0));
        assert_eq!(
            load(before, "1000 100 500 9050 350 10 20 30 0 0"),
            Some(0.0),
            "waiting for a disk is idle"
        );
        assert_eq!(
            load(before, "1001 102 503 9000 300 14 25 36 0 0"),
            Some(100.0),
            "each kind of work counts"
        );
        assert_eq!(
            load(before, "1000 100 500 9075 300 10 20 55 0 0"),
            Some(25.0),
            "stolen time is not to be had"
        );
    }

    #[test]
    fn guest_time_is_in_user_time_already() {
        assert_eq!(load("100 0 0 100 0 0 0 0 50 0", "150 0 0 150 0 0 0 0 100 0"), Some(50.0));
    }

    #[test]
    fn only_the_interval_counts_not_the_time_since_boot() {
        assert_eq!(load("1000000 0 0 0 0 0 0 0", "1000000 0 0 200 0 0 0 0"), Some(0.0));
    }

    #[test]
    fn a_counter_that_steps_back_counts_as_nothing_and_the_others_stay_exact() {
        assert_eq!(load("100 0 0 1000 500 0 0 0", "150 0 0 1050 400 0 0 0"), Some(50.0));
        assert_eq!(load("100 0 0 1000 0 0 0 0", "200 0 0 900 0 0 0 0"), Some(100.0));
        assert_eq!(load("100 50 0 1000 0 0 0 0", "0 0 0 1100 0 0 0 0"), Some(0.0));
        assert_eq!(load("9 9 9 9 9 9 9 9", "1 1 1 1 1 1 1 1"), None);
        let end = u64::MAX;
        let most = format!("{end} {end} {end} {end} 0 0 0 0");
        assert_eq!(load("0 0 0 0 0 0 0 0", &most), Some(75.0), "sums do not overflow");
    }

    #[test]
    fn counters_that_did_not_move_say_nothing() {
        assert_eq!(load("5 5 5 5 5 5 5 5", "5 5 5 5 5 5 5 5"), None);
        let before = reading("5 5 5 5 5 5 5 5", 2);
        assert!(before.is_frozen_since(&before));
        assert!(!reading("5 5 5 6 5 5 5 5", 2).is_frozen_since(&before), "an idle machine counts");
        assert!(!reading("5 5 5 4 5 5 5 5", 2).is_frozen_since(&before), "a step back is no standstill");
    }

    #[test]
    fn kernels_with_fewer_or_more_fields_are_understood() {
        assert_eq!(load("10 0 0 10", "20 0 0 20"), Some(50.0), "Linux 2.4");
        assert_eq!(load("10 0 0 10 0 0 0 0 0 0 7 7", "20 0 0 40 0 0 0 0 0 0 99 99"), Some(25.0));
    }

    #[test]
    fn processors_are_counted() {
        assert_eq!(reading("1 1 1 1 1 1 1 1", 1).cores, 1);
        assert_eq!(reading("1 1 1 1 1 1 1 1", 256).cores, 256);
        assert_eq!(reading("1 1 1 1 1 1 1 1", 0).cores, 1, "a kernel without SMP lists none");
    }

    #[test]
    fn this_machine_can_be_read() {
        let first = read().expect("a Linux machine");
        let second = read().expect("a Linux machine");
        assert!(first.cores >= 1);
        if let Some(load) = second.load_since(&first) {
            assert!((0.0..=100.0).contains(&load));
        }
    }
}
