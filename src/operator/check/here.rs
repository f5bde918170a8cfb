//! What `rakit check` finds on this machine: kernel and C library, and for each node that belongs here its key, its ports and
//! its disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rakit::config::{Config, Node};
use rakit::linux::is_own_address;
use rakit::protocol::PROTOCOL_VERSION;
use rakit::signing::Secret;

use super::super::comparison::Asked;
use super::super::ports::{holder, obstacle};
use super::Remark;

/// So often the disk is asked to keep a record.
const WRITES: usize = 20;
/// The size of a record: about that of a report in the log.
const RECORD_BYTES: usize = 512;
/// A disk that needs longer for all of them hangs.
const DISK_PATIENCE: Duration = Duration::from_secs(10);
/// Less free room than this is a finding: the log files stop there, and leave the rest to the data.
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// Looks at this machine.
pub fn look(config: &Config, secret: Option<&Secret>, answers: &[Asked]) -> Vec<Remark> {
    let mut remarks = vec![system()];
    let here: Vec<(&Node, bool)> = config
        .nodes
        .iter()
        .zip(answers)
        .filter(|(node, _)| is_own_address(node.cluster.ip()))
        .map(|(node, answer)| (node, answer.status.is_ok()))
        .collect();
    if here.is_empty() {
        remarks.push(Remark::Note(
            "no node of this cluster belongs on this machine, by the addresses in the file".into(),
        ));
        return remarks;
    }
    if let Some(secret) = secret
        && let Err(wrong) = secret.clone().whole()
    {
        remarks.push(Remark::finding(
            format!("the key file of this machine is not enough for its node: {wrong}"),
            "copy cluster.key from a machine with a node",
        ));
    }
    for (node, runs) in &here {
        if *runs {
            remarks.push(Remark::Fine(format!("node {} runs here", node.id)));
        } else {
            remarks.extend(ports(node));
        }
    }
    remarks.extend(disk(config, here.iter().all(|(_, runs)| *runs)));
    remarks
}

/// Kernel and C library. A program that runs has what it needs; the numbers help to compare machines.
fn system() -> Remark {
    let system = rustix::system::uname();
    let c_library = Command::new("getconf").arg("GNU_LIBC_VERSION").stderr(Stdio::null()).output();
    let c_library = c_library.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let c_library = c_library.as_deref().map(str::trim).filter(|text| !text.is_empty()).unwrap_or("no glibc");
    Remark::Fine(format!(
        "this machine: {} {}, {c_library}, rakit {}, protocol version {PROTOCOL_VERSION}",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        env!("CARGO_PKG_VERSION")
    ))
}

/// Of a node that belongs here and does not answer: whether it runs all the same, and if not, whether it could start.
fn ports(node: &Node) -> Vec<Remark> {
    if let Some(pid) = [node.public, node.cluster].into_iter().find_map(|address| process_of(node, address)) {
        return vec![Remark::finding(
            format!("node {} runs here (pid {pid}), but does not answer: it is paused, or it hangs", node.id),
            format!("kill -CONT {pid} if somebody has paused it; else see its log and its disk"),
        )];
    }
    let both = [("public", node.public), ("cluster", node.cluster)];
    both.into_iter()
        .map(|(which, address)| match obstacle(address) {
            None => Remark::Note(format!("the {which} address {address} of node {} is free", node.id)),
            Some(why) => Remark::finding(
                format!("the {which} address {address} of node {} {why}", node.id),
                format!(
                    "end the program, if one is named; else wait a minute, or give node {} another \
                     address on all machines",
                    node.id
                ),
            ),
        })
        .collect()
}

/// The process of this node, if it holds this address.
fn process_of(node: &Node, address: SocketAddr) -> Option<i32> {
    let pid = holder(address)?.pid;
    let words = procfs::process::Process::new(pid).ok()?.cmdline().ok()?;
    let id = ["--id".to_string(), node.id.to_string()];
    words.windows(2).any(|pair| pair == id).then_some(pid)
}

/// Whether the disk takes records, how fast, and for how long yet.
fn disk(config: &Config, all_run: bool) -> Vec<Remark> {
    let Some(place) = existing(&config.data_dir) else { return Vec::new() };
    let shown = place.display().to_string();
    let mut remarks = Vec::new();
    match rustix::fs::statvfs(&place) {
        Ok(room) if room.f_bavail.saturating_mul(room.f_frsize) < FREE_BYTES_MIN => {
            remarks.push(Remark::finding(
                format!(
                    "{shown}: {} MiB are free on the disk",
                    (room.f_bavail.saturating_mul(room.f_frsize)) >> 20
                ),
                "make room; below 256 MiB the log files give way, and without any the node ends",
            ))
        }
        Ok(_) => {}
        Err(error) => {
            remarks.push(Remark::finding(format!("{shown}: {error}"), "see whether the disk is mounted"))
        }
    }
    // In a thread of its own: a frozen disk keeps a system call for ever.
    let (sender, done) = mpsc::channel();
    let at = place.clone();
    let started = std::thread::Builder::new().name("disk".into()).spawn(move || {
        // Nobody waits any more if it took too long.
        let _ = sender.send(time_to_keep(&at));
    });
    let outcome = match started {
        Err(error) => Err(error),
        Ok(_) => done.recv_timeout(DISK_PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    };
    remarks.push(match outcome {
        Ok(time) if time > config.heartbeat => Remark::finding(
            format!(
                "{shown}: the disk needs {:.1} ms to keep a record, longer than a heartbeat ({} ms)",
                time.as_secs_f64() * 1e3,
                config.heartbeat.as_millis()
            ),
            "a faster disk, or raise heartbeat_ms and election_timeout_ms on all machines",
        ),
        Ok(time) => Remark::Fine(format!(
            "{shown}: the disk keeps a record in {:.1} ms (fdatasync)",
            time.as_secs_f64() * 1e3
        )),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && all_run => Remark::Note(format!(
            "{shown}: not looked at, since this user may not write there; try it with sudo"
        )),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Remark::finding(
            format!("{shown}: this user may not write there"),
            "give the directory to the user that runs the node (chown), or run this as that user",
        ),
        Err(error) => Remark::finding(
            format!("{shown}: the disk takes no record: {error}"),
            "see the disk and its mount",
        ),
    });
    remarks
}

/// The directory itself, or the one in which it will be made.
fn existing(data_dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(data_dir).ok()?;
    absolute.ancestors().find(|path| path.is_dir()).map(Path::to_path_buf)
}

/// The median time to write a record and to have it on the disk, as a node does before it acknowledges.
fn time_to_keep(directory: &Path) -> io::Result<Duration> {
    let path = directory.join(format!(".rakit-check-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    // Its name goes at once: nothing is left, however this ends.
    fs::remove_file(&path)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&[b'.'; RECORD_BYTES])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[WRITES / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_taken_port_is_a_finding_and_names_its_holder() {
        let listener = TcpListener::bind("127.83.9.6:0").expect("loopback has a free port");
        let taken = listener.local_addr().expect("bound");
        let free = "127.83.9.6:0".parse().expect("an address");
        let remarks = ports(&Node { id: 4, public: taken, cluster: free, founder: true });
        let line = remarks[0].line();
        assert!(
            line.starts_with("finding: ") && line.contains(&format!("(pid {})", std::process::id())),
            "{line}"
        );
        assert!(line.contains("mend: end the program, if one is named; else wait a minute, or "), "{line}");
        assert!(matches!(remarks[1], Remark::Note(_)), "{remarks:?}");
    }

    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("not/yet/made");
        assert_eq!(existing(&data).as_deref(), Some(dir.path()));
        time_to_keep(dir.path()).expect("a disk that works");
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
        assert!(time_to_keep(&data).is_err());
    }

    #[test]
    fn the_system_is_named() {
        let Remark::Fine(line) = system() else { panic!("it runs") };
        assert!(line.contains("Linux ") && line.contains(env!("CARGO_PKG_VERSION")), "{line}");
    }
}
