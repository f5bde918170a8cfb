//! strace(1) between a node and its disk: it lets every fsync of a process fail or take its time, as a bad or slow disk does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What becomes of each fsync and fdatasync.
#[derive(Clone, Copy, Debug)]
pub enum Syncs {
    /// It fails with EIO, the error of a broken disk.
    Fail,
    /// It takes so much longer.
    Take(Duration),
}

/// The command that attaches itself to a process and all its threads, now and later. It ends with that process; if it is
/// killed, the process goes on as before. It writes a line for each call to `calls`.
pub fn tracer(process: u32, syncs: Syncs, calls: &Path) -> Command {
    let becomes = match syncs {
        Syncs::Fail => "error=EIO".to_owned(),
        Syncs::Take(time) => format!("delay_exit={}", time.as_micros()),
    };
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e"]);
    strace.arg(format!("inject=fdatasync,fsync:{becomes}"));
    strace.arg("-o").arg(calls).args(["-p", &process.to_string()]);
    strace
}

/// Whether strace may attach itself to a process that it did not start, or why not. Tried on one that ends soon.
pub fn is_possible() -> Result<(), String> {
    let mut sleep = Command::new("sleep").arg("0.2").spawn().map_err(|error| error.to_string())?;
    let tried = tracer(sleep.id(), Syncs::Fail, Path::new("/dev/null")).output();
    sleep.wait().map_err(|error| error.to_string())?;
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether all threads of a process are traced (proc(5), `TracerPid`).
pub fn is_traced(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("our own child").flatten();
    let mut statuses =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    statuses.all(|status| !status.contains("\nTracerPid:\t0\n"))
}
