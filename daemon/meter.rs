//! Measures the load for a report: it compares two readings, of the machine or of a process, that are at
//! least half a second apart. The daemon's main loop calls it.
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::Measure;
use super::cpu_quota::{Allowance, ControlGroups};
use super::machine_load;
use super::process_load::{self, ProcessIdentity, Tree};
use super::worker_socket::Listening;
use crate::linux;

/// The shortest time between two compared readings. Closer readings are too coarse: with 100 ticks a second
/// and two processors, 100 ms give the load in steps of 5 %. The intervals of more frequent reports overlap.
pub(super) const MEASURE_MIN: Duration = Duration::from_millis(500);

/// What a report says while the load is not known. Who does not look at `cpu_known` must not take the server for idle.
const PERCENT_UNKNOWN: f64 = 100.0;

/// The load and the number of processors for a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// In percent of what the worker may use, 0 to 100, in steps of 0.01; [`PERCENT_UNKNOWN`] if it is not known.
    pub(super) percent: f64,
    /// How many processors it may use, rounded; at least 1.
    pub(super) cores: u32,
    /// Whether `percent` was measured.
    pub(super) known: bool,
}

/// Measures the load since the newest earlier reading that is old enough.
pub(super) struct Meter {
    /// `/proc`.
    proc: PathBuf,
    groups: ControlGroups,
    machine: Window<Usage>,
    process: Option<ProcessMeter>,
    /// How many processors the worker may use, by the last reading; above 0, and 0.5 is half of one.
    cores: f64,
    /// The last load that was measured, in percent; `None` while it is not known.
    last: Option<f64>,
    /// Whether it was logged that the load is not known.
    told: bool,
}

/// Why the load is not known, in the words of a log line.
type Unknown = String;

impl Meter {
    /// Takes the first reading. `also` is a file that may name a process whose load counts as the worker's.
    pub(super) fn new(measure: Measure, also: Option<PathBuf>, now: Instant) -> Self {
        Self::of(Path::new("/proc"), measure, also, now)
    }

    fn of(proc: &Path, measure: Measure, also: Option<PathBuf>, now: Instant) -> Self {
        let process = match measure {
            Measure::Machine => None,
            Measure::Process(pid) => Some(ProcessMeter::new(pid, also)),
        };
        let (groups, machine) = (ControlGroups::new(proc), Window::default());
        let proc = proc.to_owned();
        let mut meter = Self { proc, groups, machine, process, cores: 0.0, last: None, told: false };
        // A failure is told with the first report.
        let _ = meter.read(now, &Listening::Nobody, None);
        meter
    }

    /// Takes a reading and returns the load since an earlier one. Logs when the load is not known, and when it is known
    /// again. `worker` are the worker's processes, if they are known; else the daemon's own limits hold.
    pub(super) fn measure(&mut self, now: Instant, listening: &Listening, worker: Option<&Tree>) -> Load {
        match self.read(now, listening, worker) {
            // The counters are coarser than two digits; more digits would only make reports longer.
            Ok(percent) => self.last = Some((percent * 100.0).round() / 100.0),
            Err(reason) => {
                self.last = None;
                if !std::mem::replace(&mut self.told, true) {
                    warn!(
                        "the load of this server is not known ({reason}): the nodes choose it only if no other server is there"
                    );
                }
            }
        }
        if let Some(percent) = self.last.filter(|_| std::mem::take(&mut self.told)) {
            info!("the load of this server is known again: {percent:.1} %");
        }
        let (percent, known) = (self.last.unwrap_or(PERCENT_UNKNOWN), self.last.is_some());
        // A report has whole processors. A server with half of one counts as one: its percents are still of the half.
        let cores = self.cores.round().max(1.0) as u32;
        Load { percent, cores, known }
    }

    /// The load now, in percent.
    fn read(&mut self, now: Instant, listening: &Listening, worker: Option<&Tree>) -> Result<f64, Unknown> {
        let pid = worker.map(|tree| tree.root().pid);
        let usage = machine_load::read(&self.proc)
            .and_then(|machine| Ok(Usage { machine, allowance: self.groups.allowance(pid)? }));
        let usage = match usage {
            Ok(usage) => usage,
            Err(reason) => {
                // A load over the whole time without a reading would say nothing of now.
                self.machine = Window::default();
                return Err(reason);
            }
        };
        let (cores, all) = (usage.cores(), usage.machine.cores(&[]));
        let before = std::mem::replace(&mut self.cores, cores);
        if before != cores && cores < f64::from(all) {
            info!("the worker may use {cores:.2} of {all} processors: its load is in percent of that");
        } else if before != cores && before > 0.0 {
            info!("the worker may use all {all} processors: its load is in percent of these");
        }
        let load = self.machine.load(now, usage, |elapsed, before, after| after.load_since(before, elapsed));
        if let Some(process) = &mut self.process {
            return process.measure(now, self.cores, listening, worker);
        }
        match load {
            Some(load) => {
                load?.or(self.last).ok_or_else(|| "the counters in /proc/stat only fell".to_owned())
            }
            None => Err("/proc/stat was read only once so far".to_owned()),
        }
    }
}

/// One reading of the machine, and of what the worker may use of it.
struct Usage {
    machine: machine_load::Reading,
    allowance: Allowance,
}

impl Usage {
    /// How many processors the worker may use: those that it may run on, and no more than the smallest quota.
    fn cores(&self) -> f64 {
        let bound = f64::from(self.machine.cores(&self.allowance.cpus));
        self.allowance.quotas.iter().map(|quota| quota.cores).fold(bound, f64::min)
    }

    /// The load since `before`, in percent of [`cores`](Self::cores). What is free is what the machine leaves idle on
    /// those processors, and no more than a quota leaves; the rest is busy, whoever uses it. `None` if the counters
    /// only fell.
    fn load_since(&self, before: &Self, elapsed: Duration) -> Result<Option<f64>, Unknown> {
        let cpus = &self.allowance.cpus;
        let Some(busy) = self.machine.load_since(&before.machine, cpus) else {
            // On a real machine, an idle processor counts its idle time.
            let frozen = self.machine == before.machine;
            return if frozen { Err("the counters in /proc/stat stand still".to_owned()) } else { Ok(None) };
        };
        let mut free = f64::from(self.machine.cores(cpus)) * (1.0 - busy);
        for quota in &self.allowance.quotas {
            // Of a group that is new to the worker, nothing is known until the next reading.
            if let Some(then) = before.allowance.quotas.iter().find(|then| then.group == quota.group) {
                let used = quota.used.saturating_sub(then.used).as_secs_f64() / elapsed.as_secs_f64();
                free = free.min(quota.cores - used);
            }
        }
        Ok(Some(((1.0 - free / self.cores()) * 100.0).clamp(0.0, 100.0)))
    }
}

/// Measures the worker and its children. When it ends, measures the process that listens in its place.
struct ProcessMeter {
    worker: TreeMeter,
    /// The socket whose owner was searched last. Each is searched once, because the search reads all
    /// descriptors.
    looked_for: Option<u64>,
    /// The file that names a process whose load counts, too, and that process.
    also: Option<(PathBuf, TreeMeter)>,
}

/// Measures one process and its children.
#[derive(Default)]
struct TreeMeter {
    /// The process that is measured; `None` when it has ended.
    root: Option<ProcessIdentity>,
    window: Window<Tree>,
    percent: f64,
}

impl TreeMeter {
    fn of(root: Option<ProcessIdentity>) -> Self {
        Self { root, ..Self::default() }
    }

    /// The load in percent of `cores` processors; `None` when there is no such process, or it has ended. `just_read` is
    /// taken if it is of this process: to read one costs more than all else that an idle daemon does.
    fn measure(&mut self, now: Instant, cores: f64, just_read: Option<&Tree>) -> Option<f64> {
        let just_read = just_read.filter(|tree| Some(tree.root()) == self.root).cloned();
        let Some(tree) = just_read.or_else(|| self.root.and_then(process_load::read)) else {
            *self = Self::default();
            return None;
        };
        let percent = self.window.load(now, tree, |elapsed, before, after| {
            let used = after.ticks_since(before) as f64 / procfs::ticks_per_second() as f64;
            (used / elapsed.as_secs_f64() / cores * 100.0).clamp(0.0, 100.0)
        });
        self.percent = percent.unwrap_or(self.percent);
        Some(self.percent)
    }
}

impl ProcessMeter {
    fn new(pid: i32, also: Option<PathBuf>) -> Self {
        let root = ProcessIdentity::of(pid);
        match root {
            Some(_) => info!("measuring process {pid} and its children"),
            None => {
                warn!("there is no process {pid} to measure: reporting a load of 0 until a worker listens")
            }
        }
        Self {
            worker: TreeMeter::of(root),
            looked_for: None,
            also: also.map(|file| (file, TreeMeter::default())),
        }
    }

    /// The load in percent of `cores` processors. No process and nobody who listens: no load.
    fn measure(
        &mut self,
        now: Instant,
        cores: f64,
        listening: &Listening,
        just_read: Option<&Tree>,
    ) -> Result<f64, Unknown> {
        if self.worker.root.is_none() {
            self.follow(listening);
        }
        let root = self.worker.root;
        let worker = self.worker.measure(now, cores, just_read);
        if let (Some(root), None) = (root, worker) {
            warn!("process {} is gone: reporting a load of 0 until a worker listens again", root.pid);
        }
        if worker.is_none() && listening.is_up() {
            return Err("the process of the worker is hidden from this user".to_owned());
        }
        Ok((worker.unwrap_or(0.0) + self.measure_also(now, cores)).min(100.0))
    }

    /// The load of the process that the file names now; 0 if there is none.
    fn measure_also(&mut self, now: Instant, cores: f64) -> f64 {
        let Some((file, meter)) = &mut self.also else { return 0.0 };
        let named = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if meter.root.map(|root| root.pid) != named {
            *meter = TreeMeter::of(named.and_then(ProcessIdentity::of));
        }
        meter.measure(now, cores, None).unwrap_or(0.0)
    }

    /// After a restart of the worker, the process that owns the listening socket is the one to measure.
    fn follow(&mut self, listening: &Listening) {
        let &Listening::Socket { inode } = listening else { return };
        if self.looked_for.replace(inode) == Some(inode) {
            return;
        }
        self.worker.root = linux::holder(inode).and_then(|holder| ProcessIdentity::of(holder.pid));
        match self.worker.root {
            Some(root) => info!("a worker listens again: measuring process {} and its children", root.pid),
            None => warn!("a worker listens again, but its process belongs to another user"),
        }
    }
}

/// Earlier readings, the oldest first: as many as are needed for one that is old enough.
struct Window<T> {
    readings: VecDeque<(Instant, T)>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { readings: VecDeque::new() }
    }
}

impl<T> Window<T> {
    /// Adds a reading. Returns the result of `compare` for it and the newest earlier one that is at least
    /// [`MEASURE_MIN`] old; `None` when there is none.
    fn load<R>(
        &mut self,
        now: Instant,
        reading: T,
        compare: impl FnOnce(Duration, &T, &T) -> R,
    ) -> Option<R> {
        let age = |then: &Instant| now.saturating_duration_since(*then);
        // Keep only one that is old enough. The number of younger ones is bounded by the shortest report
        // interval.
        while self.readings.get(1).is_some_and(|(second, _)| age(second) >= MEASURE_MIN) {
            self.readings.pop_front();
        }
        let load = self
            .readings
            .front()
            .filter(|(then, _)| age(then) >= MEASURE_MIN)
            .map(|(then, before)| compare(age(then), before, &reading));
        self.readings.push_back((now, reading));
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::worker_socket::{WorkerCheck, WorkerSocket};

    #[test]
    fn readings_are_compared_over_half_a_second_or_more() {
        let mut window = Window::default();
        let start = Instant::now();
        let mut at = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            window.load(now, ms, |elapsed, &before, &after| {
                assert_eq!(elapsed, Duration::from_millis(after - before));
                (after - before) as f64
            })
        };
        assert_eq!(at(0), None);
        assert_eq!(at(200), None);
        assert_eq!(at(499), None);
        assert_eq!(at(500), Some(500.0));
        assert_eq!(at(700), Some(500.0));
        assert_eq!(at(710), Some(510.0));
        assert_eq!(at(3000), Some(2290.0));
        assert_eq!(window.readings.len(), 2, "what is no longer needed is forgotten");
    }

    /// A process uses one processor: the meter must show its load, and 0 after its end. The load depends on the other
    /// programs of this machine, so the test demands only that it is above zero.
    #[test]
    fn the_load_of_a_process_shows_and_ends_with_it() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh(1)");
        let start = Instant::now();
        let mut meter = Meter::new(Measure::Process(i32::try_from(child.id()).expect("a pid")), None, start);
        // On a busy machine it may take long until the process has used a tick.
        let mut seen = 0.0;
        while seen == 0.0 && start.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(MEASURE_MIN);
            seen = meter.measure(Instant::now(), &Listening::Nobody, None).percent;
        }
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        assert!(seen > 0.0 && seen <= 100.0, "{seen}");
        assert_eq!(meter.measure(Instant::now(), &Listening::Nobody, None).percent, 0.0);
        // Another process listens on the worker's address now: this test. The meter must follow it.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listening =
            WorkerSocket::new(socket.local_addr().expect("bound"), WorkerCheck::Listen, Duration::ZERO)
                .look();
        meter.measure(Instant::now(), &listening, None);
        let followed = meter.process.and_then(|process| process.worker.root).map(|root| root.pid);
        assert_eq!(followed, i32::try_from(std::process::id()).ok());
    }

    /// The machine has four processors, of which two are idle; the group may use half of one.
    #[test]
    fn the_load_is_in_percent_of_the_quota_and_of_the_processors_that_may_be_used() {
        use super::super::cpu_quota::tests::{mount, own_process_is_7, status, write};
        let root = tempfile::tempdir().expect("a directory");
        let (root, groups) = (root.path(), root.path().join("groups"));
        let start = Instant::now();
        write(root, "proc/7/mountinfo", &mount("/", &groups, "cgroup2", ""));
        write(root, "proc/7/cgroup", "0::/box\n");
        let stat = |second: u64| {
            // Processors 0 and 1 are busy, 2 and 3 idle.
            let ticks = 1_000 + second * 100;
            let line = |n: u32| match n < 2 {
                true => format!("cpu{n} {ticks} 0 0 5 0 0 0 0\n"),
                false => format!("cpu{n} 5 0 0 {ticks} 0 0 0 0\n"),
            };
            let each: String = (0..4).map(line).collect();
            write(root, "proc/stat", &format!("cpu  1 0 0 1 0 0 0 0\n{each}ctxt 9\nbtime 9\nprocesses 5\n"));
        };
        let bound = |cpus: &str| write(root, "proc/7/status", &status(cpus));
        let quota = |cpu_max: &str, used_ms: u64| {
            write(&groups, "box/cpu.max", cpu_max);
            write(&groups, "box/cpu.stat", &format!("usage_usec {}\n", used_ms * 1_000));
        };
        bound("0-3");
        quota("max 100000", 0);
        stat(0);
        own_process_is_7(root);
        let mut meter = Meter::of(&root.join("proc"), Measure::Machine, None, start);
        let mut second = 0;
        let mut next = |meter: &mut Meter| {
            second += 1;
            stat(second);
            let load = meter.measure(start + Duration::from_secs(second), &Listening::Nobody, None);
            (load.percent, load.cores, load.known)
        };
        assert_eq!(next(&mut meter), (50.0, 4, true), "no quota: of the machine");
        quota("50000 100000", 0);
        assert_eq!(
            next(&mut meter),
            (0.0, 1, true),
            "the first look at the quota: the machine has room for it"
        );
        quota("50000 100000", 400);
        assert_eq!(next(&mut meter), (80.0, 1, true), "0.4 of 0.5 processors");
        quota("250000 100000", 1_400);
        assert_eq!(next(&mut meter), (40.0, 3, true), "1 of 2.5; the machine has room for the other 1.5");
        quota("max 100000", 1_400);
        bound("2-3");
        assert_eq!(next(&mut meter), (0.0, 2, true), "the idle ones");
        bound("1-2");
        assert_eq!(next(&mut meter), (50.0, 2, true));
        quota("50000 100000", 1_400);
        bound("0-1");
        assert_eq!(
            next(&mut meter),
            (100.0, 1, true),
            "nothing used, but others leave nothing on these processors"
        );
        fs::remove_file(groups.join("box/cpu.stat")).expect("just written");
        assert!(!next(&mut meter).2, "nobody tells what was used");
    }
}
