//! The whole service as a user has it: nodes, and servers with a real `worker.py` and a real `rakit-daemon` each.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::Fallible;
use crate::members::{Cluster, Programs, Site, System};
use crate::process::Process;
use crate::ready::await_servers;

/// The first server's worker listens here, the next one's on the next port.
const WORKER_PORT: u16 = 13_000;

/// Three servers, started as they are.
pub const THREE: &[&[&str]] = &[&[], &[], &[]];

/// The nodes, daemons and workers. When it is dropped, all of them end.
#[derive(Debug)]
pub struct Stack {
    pub cluster: Cluster,
    pub workers: Vec<SocketAddr>,
    pub daemons: Vec<Process>,
    _worker_processes: Vec<Process>,
}

impl Stack {
    /// Starts it, and waits until every node knows every server. Each server's daemon measures its own worker, since all share this
    /// machine. `commands` are put in front of the workers' commands, such as `taskset -c 0`; there are as many servers as
    /// commands.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(
        system: System,
        programs: &Programs,
        nodes: u8,
        commands: &[&[&str]],
        directory: &Path,
    ) -> Fallible<Self> {
        let cluster = Cluster::start(system, nodes, Site::loopback(), directory)?;
        let mut stack =
            Self { cluster, workers: Vec::new(), daemons: Vec::new(), _worker_processes: Vec::new() };
        for (number, prefix) in commands.iter().enumerate() {
            let number = u16::try_from(number)?;
            let address = SocketAddr::new(stack.cluster.site.ip(100), WORKER_PORT + number);
            let worker = start_worker(address, prefix, &directory.join(format!("worker-{number}.log")))?;
            let mut daemon = Command::new(&programs.daemon);
            daemon.arg("--config").arg(stack.cluster.configuration());
            daemon.args(["--server", &format!("server-{}", number + 1), "--worker", &address.to_string()]);
            daemon.args(["--measure", &format!("process:{}", worker.pid())]);
            let log = directory.join(format!("daemon-{number}.log"));
            stack.daemons.push(Process::start(&daemon, &log)?);
            stack._worker_processes.push(worker);
            stack.workers.push(address);
        }
        await_servers(&stack.cluster, commands.len())?;
        Ok(stack)
    }

    /// Where clients ask.
    pub fn publics(&self) -> Vec<SocketAddr> {
        self.cluster.ids().into_iter().map(|id| self.cluster.public(id)).collect()
    }
}

/// Starts `worker.py` and waits until it listens.
///
/// # Errors
/// When it does not.
pub fn start_worker(address: SocketAddr, prefix: &[&str], log: &Path) -> Fallible<Process> {
    let mut words = prefix.iter().copied().chain(["python3"]);
    let mut command = Command::new(words.next().expect("python3 at least"));
    command.args(words).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.py"));
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    Process::start_listening(&command, log, address)
}
