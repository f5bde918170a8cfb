//! What the kernel says of this process: proc_pid_stat(5), proc_pid_fd(5). `metrics.rs` asks, at each `GET /metrics`.

use procfs::WithCurrentSystemInfo as _;
use procfs::process::Process;

use crate::program::descriptor_limit;

/// The figures that Prometheus' own libraries give of a process.
pub struct ProcessFigures {
    /// User and system time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Memory that is not swapped out, in bytes.
    pub resident_bytes: u64,
    /// All mapped addresses, in bytes.
    pub virtual_bytes: u64,
    /// Descriptors that are open.
    pub open_fds: u64,
    /// Descriptors that may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessFigures {
    /// The figures now; `None` if /proc does not tell.
    pub fn read() -> Option<Self> {
        let own = Process::myself().ok()?;
        let stat = own.stat().ok()?;
        Some(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_fds: u64::try_from(own.fd_count().ok()?).unwrap_or(u64::MAX),
            max_fds: descriptor_limit(),
            threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        })
    }
}
