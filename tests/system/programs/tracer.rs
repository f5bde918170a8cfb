//! strace(1) between a node and its disk: it lets every fsync of a process fail or take its time, as a bad or slow disk does.

use std::path::Path;
use std::process::{Child, Command, Stdio};
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

/// Whether strace may attach itself to a process that it did not start, or why not.
pub fn is_possible() -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let mut sleep = Command::new("sleep").arg("600").spawn().map_err(words)?;
    let tried = attaches(&sleep);
    sleep.kill().and_then(|()| sleep.wait()).map_err(words)?;
    let (is_attached, strace) = tried.map_err(words)?;
    let output = strace.wait_with_output().map_err(words)?;
    if is_attached { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")) }
}

/// Starts strace on a process, and waits until it is attached or has ended.
fn attaches(process: &Child) -> std::io::Result<(bool, Child)> {
    let mut strace = tracer(process.id(), Syncs::Fail, Path::new("/dev/null"));
    let mut strace = strace.stderr(Stdio::piped()).spawn()?;
    loop {
        if is_traced(process.id()) {
            return Ok((true, strace));
        }
        if strace.try_wait()?.is_some() {
            return Ok((false, strace));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether all threads of a process are traced (proc(5), `TracerPid`).
pub fn is_traced(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("our own child").flatten();
    let mut statuses =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    statuses.all(|status| !status.contains("\nTracerPid:\t0\n"))
}
