//! Measures the load for a report: it compares two readings, of the machine or of a process, that are at
//! least half a second apart. The daemon's main loop calls it.
use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::Measure;
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
    /// In percent of all processors, 0 to 100, in steps of 0.01; [`PERCENT_UNKNOWN`] if it is not known.
    pub(super) percent: f64,
    /// How many processors there are; at least 1.
    pub(super) cores: u32,
    /// Whether `percent` was measured.
    pub(super) known: bool,
}

/// Measures the load since the newest earlier reading that is old enough.
pub(super) struct Meter {
    machine: Window<machine_load::Reading>,
    process: Option<ProcessMeter>,
    /// How many processors there were when `/proc/stat` was read last; at least 1.
    cores: u32,
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
        let process = match measure {
            Measure::Machine => None,
            Measure::Process(pid) => Some(ProcessMeter::new(pid, also)),
        };
        let mut meter = Self { machine: Window::default(), process, cores: 1, last: None, told: false };
        // A failure is told with the first report.
        let _ = meter.read(now, &Listening::Nobody);
        meter
    }

    /// Takes a reading and returns the load since an earlier one. Logs when the load is not known, and when it is known
    /// again.
    pub(super) fn measure(&mut self, now: Instant, listening: &Listening) -> Load {
        match self.read(now, listening) {
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
        Load { percent, cores: self.cores, known }
    }

    /// The load now, in percent.
    fn read(&mut self, now: Instant, listening: &Listening) -> Result<f64, Unknown> {
        let reading = match machine_load::read() {
            Ok(reading) => reading,
            Err(error) => {
                // A load over the whole time without a reading would say nothing of now.
                self.machine = Window::default();
                return Err(format!("/proc/stat cannot be read: {error}"));
            }
        };
        self.cores = reading.cores;
        let machine = self.machine.load(now, reading, |_, before, after| match after.load_since(before) {
            None if after.is_frozen_since(before) => Err("the counters in /proc/stat stand still".to_owned()),
            load => Ok(load),
        });
        if let Some(process) = &mut self.process {
            return process.measure(now, self.cores, listening);
        }
        match machine {
            Some(load) => {
                load?.or(self.last).ok_or_else(|| "the counters in /proc/stat only fell".to_owned())
            }
            None => Err("/proc/stat was read only once so far".to_owned()),
        }
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

    /// The load in percent of `cores` processors; `None` when there is no such process, or it has ended.
    fn measure(&mut self, now: Instant, cores: u32) -> Option<f64> {
        let Some(tree) = self.root.and_then(process_load::read) else {
            *self = Self::default();
            return None;
        };
        let percent = self.window.load(now, tree, |elapsed, before, after| {
            let used = after.ticks_since(before) as f64 / procfs::ticks_per_second() as f64;
            (used / elapsed.as_secs_f64() / f64::from(cores) * 100.0).clamp(0.0, 100.0)
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
    fn measure(&mut self, now: Instant, cores: u32, listening: &Listening) -> Result<f64, Unknown> {
        if self.worker.root.is_none() {
            self.follow(listening);
        }
        let root = self.worker.root;
        let worker = self.worker.measure(now, cores);
        if let (Some(root), None) = (root, worker) {
            warn!("process {} is gone: reporting a load of 0 until a worker listens again", root.pid);
        }
        if worker.is_none() && listening.is_up() {
            return Err("the process of the worker is hidden from this user".to_owned());
        }
        Ok((worker.unwrap_or(0.0) + self.measure_also(now, cores)).min(100.0))
    }

    /// The load of the process that the file names now; 0 if there is none.
    fn measure_also(&mut self, now: Instant, cores: u32) -> f64 {
        let Some((file, meter)) = &mut self.also else { return 0.0 };
        let named = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if meter.root.map(|root| root.pid) != named {
            *meter = TreeMeter::of(named.and_then(ProcessIdentity::of));
        }
        meter.measure(now, cores).unwrap_or(0.0)
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
            seen = meter.measure(Instant::now(), &Listening::Nobody).percent;
        }
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        assert!(seen > 0.0 && seen <= 100.0, "{seen}");
        assert_eq!(meter.measure(Instant::now(), &Listening::Nobody).percent, 0.0);
        // Another process listens on the worker's address now: this test. The meter must follow it.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listening =
            WorkerSocket::new(socket.local_addr().expect("bound"), WorkerCheck::Listen, Duration::ZERO)
                .look();
        meter.measure(Instant::now(), &listening);
        let followed = meter.process.and_then(|process| process.worker.root).map(|root| root.pid);
        assert_eq!(followed, i32::try_from(std::process::id()).ok());
    }
}
