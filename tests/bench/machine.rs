//! What the figures were measured on, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use procfs::Current as _;

use crate::Fallible;

/// Processors, memory and kernel, as a phrase.
///
/// # Errors
/// When /proc cannot be read.
pub fn description() -> Fallible<String> {
    let processors = procfs::CpuInfo::current()?;
    let model = processors.model_name(0).unwrap_or("an unknown processor").to_owned();
    let memory = procfs::Meminfo::current()?.mem_total as f64 / f64::from(1 << 30);
    let kernel = procfs::sys::kernel::Version::current()?;
    Ok(format!(
        "{} × {model}, {memory:.0} GiB, Linux {}.{}.{}",
        processors.num_cores(),
        kernel.major,
        kernel.minor,
        kernel.patch
    ))
}

/// The load average of the last minute.
///
/// # Errors
/// When /proc cannot be read.
pub fn load_average() -> Fallible<f64> {
    Ok(f64::from(procfs::LoadAverage::current()?.one))
}

/// Today in UTC, as 2026-11-26.
pub fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(0);
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or(String::new(), |now| now.date().to_string())
}
