//! Measures how busy all processors were between two readings of `/proc/stat` (proc_stat(5)). `meter.rs`
//! calls it.
//!
//! It uses the line of each processor that the worker may run on, in ticks since boot: total = user + nice +
//! system + idle + iowait + irq + softirq + steal; user and nice already contain guest and guest_nice. busy =
//! total − idle − iowait: a processor that waits for a disk could compute. Steal counts as busy: the
//! hypervisor gave that time to another virtual machine, so it was not available here.
//!
//! Counters may decrease: iowait and idle do so on kernels with tickless idle (the manual page calls iowait
//! "not reliable"), and all fields do when a processor is unplugged. So the difference of each field is
//! computed alone. A field that decreased counts as 0 for that interval; the other fields stay exact, and
//! nothing overflows.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use procfs::prelude::*;
use procfs::{CpuTime, KernelStats, ProcError};

/// One reading: the counters of each processor that is online, by its number. Never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading(BTreeMap<u32, Counters>);

/// In ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    /// user, nice, system, irq, softirq, steal.
    busy: [u64; 6],
    /// idle, iowait.
    idle: [u64; 2],
}

/// Reads `stat` in `proc`, which is `/proc`.
///
/// # Errors
/// When the file cannot be read or parsed, for example in a container without it. The reason, for a log line.
pub(super) fn read(proc: &Path) -> Result<Reading, String> {
    let file = proc.join("stat");
    let text =
        fs::read_to_string(&file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    Reading::of(&text)
        .map_err(|_| format!("{} cannot be read: it is empty, or not as in proc_stat(5)", file.display()))
}

impl Reading {
    fn of(text: &str) -> Result<Self, ProcError> {
        let stats = KernelStats::from_buf_read(text.as_bytes(), procfs::current_system_info())?;
        // The crate keeps the order of the lines, but not the numbers: processors that are offline have no line.
        let numbers =
            text.lines().filter_map(|line| line.strip_prefix("cpu")).filter(|rest| !rest.starts_with(' '));
        let numbers = numbers.map(|rest| rest.split_whitespace().next()?.parse().ok());
        let each =
            numbers.zip(&stats.cpu_time).filter_map(|(number, times)| Some((number?, Counters::of(times))));
        let mut all: BTreeMap<u32, Counters> = each.collect();
        if all.is_empty() {
            all.insert(0, Counters::of(&stats.total)); // A kernel without SMP lists none.
        }
        Ok(Self(all))
    }

    /// How many of these processors are online; at least 1. No ranges: all.
    pub(super) fn cores(&self, cpus: &[(u32, u32)]) -> u32 {
        u32::try_from(self.of_cpus(cpus).len()).unwrap_or(u32::MAX).max(1)
    }

    /// The counters of the processors in these ranges; of all, if none of them is online.
    fn of_cpus(&self, cpus: &[(u32, u32)]) -> Vec<(&u32, &Counters)> {
        let within = |number: &u32| cpus.iter().any(|(first, last)| (first..=last).contains(&number));
        let chosen: Vec<_> = self.0.iter().filter(|(number, _)| within(number)).collect();
        if chosen.is_empty() { self.0.iter().collect() } else { chosen }
    }

    /// The busy part of these processors between `before` and this reading, from 0 to 1. `None` when no counter grew.
    pub(super) fn load_since(&self, before: &Self, cpus: &[(u32, u32)]) -> Option<f64> {
        let (mut busy, mut idle) = (0, 0);
        for (number, now) in self.of_cpus(cpus) {
            if let Some(before) = before.0.get(number) {
                busy += steps(&now.busy, &before.busy);
                idle += steps(&now.idle, &before.idle);
            }
        }
        let total = busy + idle;
        // Exact: even the ticks of a year are far below 2^53.
        (total > 0).then(|| (busy as f64 / total as f64).clamp(0.0, 1.0))
    }
}

impl Counters {
    fn of(times: &CpuTime) -> Self {
        let CpuTime { user, nice, system, idle, iowait, irq, softirq, steal, .. } = *times;
        // Fields that an old kernel lacks are 0 in every reading.
        let [iowait, irq, softirq, steal] = [iowait, irq, softirq, steal].map(Option::unwrap_or_default);
        Self { busy: [user, nice, system, irq, softirq, steal], idle: [idle, iowait] }
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
        Reading::of(&text).expect("the text of a kernel")
    }

    fn load(before: &str, after: &str) -> Option<f64> {
        reading(after, 2).load_since(&reading(before, 2), &[]).map(|part| part * 100.0)
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
    }

    #[test]
    fn kernels_with_fewer_or_more_fields_are_understood() {
        assert_eq!(load("10 0 0 10", "20 0 0 20"), Some(50.0), "Linux 2.4");
        assert_eq!(load("10 0 0 10 0 0 0 0 0 0 7 7", "20 0 0 40 0 0 0 0 0 0 99 99"), Some(25.0));
    }

    #[test]
    fn processors_are_counted() {
        assert_eq!(reading("1 1 1 1 1 1 1 1", 1).cores(&[]), 1);
        let many = reading("1 1 1 1 1 1 1 1", 256);
        assert_eq!((many.cores(&[]), many.cores(&[(2, 5), (9, 9), (255, 300)])), (256, 6));
        assert_eq!(many.cores(&[(300, 400)]), 256, "none of them is online: then it is not true");
        assert_eq!(reading("1 1 1 1 1 1 1 1", 0).cores(&[]), 1, "a kernel without SMP lists none");
    }

    #[test]
    fn only_the_processors_that_the_worker_may_use_count() {
        // Processor 1 is offline, 0 is busy, 2 is idle.
        let text = |ticks: u64| {
            format!(
                "cpu  {ticks} 0 0 {ticks} 0 0 0 0\ncpu0 {ticks} 0 0 7 0 0 0 0\ncpu2 7 0 0 {ticks} 0 0 0 0\n\
                 ctxt 900\nbtime 1700000000\nprocesses 5\n"
            )
        };
        let (before, after) = (Reading::of(&text(100)), Reading::of(&text(200)));
        let (before, after) = (before.expect("a kernel's text"), after.expect("a kernel's text"));
        let load = |cpus: &[(u32, u32)]| after.load_since(&before, cpus);
        assert_eq!([load(&[]), load(&[(0, 1)]), load(&[(1, 2)])], [Some(0.5), Some(1.0), Some(0.0)]);
    }

    #[test]
    fn what_is_not_of_a_kernel_is_no_reading() {
        for text in ["", "cpu\n", "hello\n", "cpu  1 2 3\n"] {
            assert!(Reading::of(text).is_err(), "{text:?}");
        }
        let root = tempfile::tempdir().expect("a directory");
        assert!(read(root.path()).expect_err("no file").contains("stat cannot be read: "));
    }

    #[test]
    fn this_machine_can_be_read() {
        let first = read(Path::new("/proc")).expect("a Linux machine");
        let second = read(Path::new("/proc")).expect("a Linux machine");
        if let Some(load) = second.load_since(&first, &[]) {
            assert!((0.0..=1.0).contains(&load));
        }
    }
}
