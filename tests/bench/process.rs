//! A program that the benchmark started: where it runs, what it costs, and that it ends with the benchmark.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use procfs::process::Process as ProcFs;
use rustix::process::{Pid, Signal, kill_process};

use crate::Fallible;
use crate::ready::look_until;

/// A started program. When it is dropped, it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    /// It has processes of its own (nginx, `worker.py`), so it must be asked to end, and not be killed.
    has_children: bool,
}

impl Process {
    /// Starts a program; what it says goes to `log`.
    ///
    /// It is told to end when the thread that started it ends (`PR_SET_PDEATHSIG`, prctl(2), by setpriv(1)): also when the
    /// benchmark is killed, nothing stays. So start programs on the main thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &Command, log: &Path) -> Fallible<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut leashed = Command::new("setpriv");
        leashed.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        leashed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            leashed.current_dir(directory);
        }
        let child = leashed.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self {
            child: child.map_err(|error| format!("cannot start {name}: {error}"))?,
            name,
            has_children: false,
        })
    }

    /// Starts a program that is to listen there and may have processes of its own, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead: with the last lines of what it said.
    pub fn start_listening(command: &Command, log: &Path, address: SocketAddr) -> Fallible<Self> {
        let mut process = Self::start(command, log)?;
        process.has_children = true;
        look_until(&format!("{} listens on {address}", process.name), || {
            if let Some(status) = process.child.try_wait()? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{} ended with {status}:\n{said}", process.name).into());
            }
            Ok(TcpStream::connect(address).is_ok())
        })?;
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Fallible {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| format!("{} {}: {error}", self.name, self.pid()).into())
    }

    /// `kill -9`, without waiting for its end: dropping it does.
    ///
    /// # Errors
    /// When it has ended.
    pub fn kill(&self) -> Fallible {
        self.signal(Signal::KILL)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is only waited for. SIGKILL ends also what is paused.
        let _ = if self.has_children { self.signal(Signal::TERM) } else { self.kill() };
        let _ = self.child.wait();
    }
}

/// What a process and its living descendants have cost so far, and hold now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds of processor time, its own and the system's on its behalf.
    pub processor_seconds: f64,
    /// VmRSS.
    pub resident_bytes: u64,
    /// Caused to be written to the disk (`write_bytes` in proc_pid_io(5)).
    pub written_bytes: u64,
}

/// Reads it from /proc. A process that ends meanwhile is left out.
///
/// # Errors
/// When the process itself is gone.
pub fn cost(pid: u32) -> Fallible<Cost> {
    let mut cost = Cost::default();
    let ticks = procfs::ticks_per_second() as f64;
    for pid in family(i32::try_from(pid)?) {
        let Ok(process) = ProcFs::new(pid) else { continue };
        let Ok(stat) = process.stat() else { continue };
        cost.processor_seconds += (stat.utime + stat.stime) as f64 / ticks;
        cost.resident_bytes += stat.rss * procfs::page_size();
        cost.written_bytes += process.io().map_or(0, |io| io.write_bytes);
    }
    if cost.resident_bytes == 0 {
        return Err(format!("process {pid} is gone").into());
    }
    Ok(cost)
}

/// A process and all its living descendants.
fn family(first: i32) -> Vec<i32> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let tasks = ProcFs::new(pid).and_then(|process| process.tasks());
        for task in tasks.into_iter().flatten().flatten() {
            all.extend(task.children().unwrap_or_default().into_iter().map(|child| child as i32));
        }
        next += 1;
    }
    all
}

/// Processor time that the whole machine has spent working, and all there was, in seconds of one processor.
///
/// # Errors
/// When /proc/stat cannot be read.
pub fn machine_seconds() -> Fallible<(f64, f64)> {
    use procfs::CurrentSI as _;
    let total = procfs::KernelStats::current()?.total;
    let ticks = procfs::ticks_per_second() as f64;
    let idle = total.idle + total.iowait.unwrap_or(0);
    let busy = total.user + total.nice + total.system;
    let busy = busy + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0) + total.steal.unwrap_or(0);
    Ok((busy as f64 / ticks, (busy + idle) as f64 / ticks))
}
