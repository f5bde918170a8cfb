//! `rakit-daemon`: the load monitor on each server. It reads `/proc` and sends reports to all nodes.
//!
//! The main thread runs one loop: measure, make one report, give it to all senders, wait until the next
//! report is due or the program has to stop. One thread per node sends the reports (`sender.rs`), so that a
//! dead or slow node delays no other and cannot stop the loop. `machine_load.rs`, `cpu_quota.rs`,
//! `process_load.rs` and `meter.rs` measure the load; `worker_socket.rs` finds out whether the worker listens,
//! and `activity.rs` whether it does something.
//!
//! At level `info` only changes are logged, not each report. docs/protocol.md shows the report,
//! docs/log-lines.md the log lines.
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, never, select, tick};
use log::{debug, info, warn};

use crate::balancer::report::{COUNTER_MAX, is_worker_address};
use crate::balancer::{IncomingReport, Report, Stamp, is_name};
use crate::config::{Config, Node, follow_secret, is_loopback};
use crate::linux;
use crate::program::{self, LogFlags, ParentFlags, ServiceManager, Stop};
use crate::raft::Random;

mod acknowledged;
mod activity;
mod cpu_quota;
mod local_address;
mod machine_load;
mod meter;
mod node_list;
mod process_load;
mod sender;
mod stamps;
mod worker_socket;

use acknowledged::Acknowledged;
use activity::Activity;
use meter::{MEASURE_MIN, Meter};
use node_list::NodeList;
use sender::Sender;
use stamps::Stamps;
use worker_socket::{WorkerCheck, WorkerSocket};

const PROGRAM: &str = "rakit-daemon";

/// The port of a worker without `--worker`.
const WORKER_PORT: u16 = 13_337;

/// Each pause is the interval, longer or shorter by up to this fraction, so that daemons that started
/// together do not always report at the same moment.
const JITTER: f64 = 0.1;

/// How long a daemon that stops waits until its last report is committed. That report gives the name free: a daemon
/// that starts in its place need not wait until this one counts as silent.
const FAREWELL: Duration = Duration::from_millis(500);

/// With `--worker-check connect`: the part of the report interval within which the worker must accept, and its bounds.
/// The report waits for it.
const CONNECT_SHARE: f64 = 0.5;
const CONNECT_MIN: Duration = Duration::from_millis(50);
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The pause before the next attempt to find this machine's address, while it has no route to the nodes (at
/// boot).
const ADDRESS_RETRY: Duration = Duration::from_secs(1);

/// Measures how busy this server is and reports it to every node of the cluster
#[derive(clap::Parser, Clone, Debug)]
#[command(name = PROGRAM, version)]
struct DaemonFlags {
    /// The cluster's configuration, the same file as on the nodes
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// This server's name: 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server: String,
    /// Where this server's worker listens, as the nodes reach it [default: the address from which this
    /// machine reaches the nodes, also when it changes; port 13337]
    #[arg(long, value_name = "IP:PORT", value_parser = worker_address)]
    worker: Option<SocketAddr>,
    /// How to find out whether the worker is up. For a worker behind address translation (DNAT), say in a container:
    /// connect or none
    #[arg(long, value_enum, value_name = "HOW", default_value_t = WorkerCheck::Listen)]
    worker_check: WorkerCheck,
    /// What to measure: the whole machine (of a machine of which the worker may use a part, that part), or one process
    /// and its living children
    #[arg(long, value_name = "machine|process:PID", default_value = "machine", value_parser = measure)]
    measure: Measure,
    /// With `process:PID`: a file that may name one more process whose load counts (`rakit ctl load`)
    #[arg(long, value_name = "FILE", hide = true)]
    measure_also: Option<PathBuf>,
    /// Run without a secret although the cluster has addresses off loopback: anybody who reaches them can
    /// take it over
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    parent: ParentFlags,
}

/// What a report's load is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// All processors that the worker may use.
    Machine,
    /// A process and its living children, in percent of these processors, for several servers on one machine.
    Process(i32),
}

fn server_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("give 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first".to_owned())
    }
}

fn worker_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "give IP:PORT, for example 10.0.0.11:13337".to_owned())?;
    if is_worker_address(&address) {
        return Ok(address);
    }
    Err("no node takes that as a worker's address; give this server's own address and a port from 1024"
        .to_owned())
}

fn measure(text: &str) -> Result<Measure, String> {
    if text == "machine" {
        return Ok(Measure::Machine);
    }
    text.strip_prefix("process:")
        .and_then(|pid| pid.parse().ok())
        .filter(|&pid: &i32| pid > 0)
        .map(Measure::Process)
        .ok_or_else(|| "give machine or process:PID".to_owned())
}

/// The command line of `rakit-daemon`, for manual pages and completions.
pub fn command() -> clap::Command {
    <DaemonFlags as clap::CommandFactory>::command()
}

/// Runs the program `rakit-daemon` with these arguments (the first is the program's name) until it is
/// stopped.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(arguments).unwrap_or_else(|code| code)
}

/// # Errors
/// The exit code of a start that failed. The reason was printed on standard error.
fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<ExitCode, ExitCode> {
    let flags: DaemonFlags = program::parse(arguments)?;
    let refuse = |reason: &dyn std::fmt::Display| program::refuse(PROGRAM, reason);
    let config = Config::load(&flags.config).map_err(|error| refuse(&error))?;
    let exposure = config.check_exposure(flags.insecure).map_err(|error| refuse(&error))?;
    if let Some(worker) = flags.worker {
        check_worker(worker, &config).map_err(|reason| refuse(&reason))?;
    }
    let stop = program::start(PROGRAM, &flags.log, flags.parent)?;
    for warning in exposure.into_iter().chain(config.warnings(None)) {
        warn!("{warning}");
    }
    info!(
        "{PROGRAM} {} starts: server {} of cluster {}, {} nodes, a report every {} ms",
        env!("CARGO_PKG_VERSION"),
        flags.server,
        config.cluster_name,
        config.nodes.len(),
        config.report_interval.as_millis()
    );
    let Some(worker) = find_worker(flags.worker, &config, &stop) else {
        return Ok(ExitCode::from(program::EXIT_OK));
    };
    report_until_stopped(&flags, &config, worker, &stop)
        .map_err(|error| program::fail(PROGRAM, &format!("cannot start: {error}")))?;
    Ok(ExitCode::from(program::EXIT_OK))
}

/// Checks the worker's address. With a loopback address, nodes on other machines would send requests to
/// themselves.
fn check_worker(worker: SocketAddr, config: &Config) -> Result<(), String> {
    if let Some(node) = config.nodes.iter().find(|node| [node.public, node.cluster].contains(&worker)) {
        return Err(format!(
            "--worker {worker}: that is an address of node {}, which would ask itself; give the worker's own, usually \
             with port {WORKER_PORT}",
            node.id
        ));
    }
    if !is_loopback(worker.ip()) {
        return Ok(());
    }
    match config.nodes.iter().find(|node| !linux::is_own_address(node.cluster.ip())) {
        None => Ok(()),
        Some(node) => Err(format!(
            "--worker {worker}: node {} ({}) is on another machine and would look for the worker on itself; give the \
             address under which the nodes reach this machine, or leave --worker out",
            node.id, node.cluster
        )),
    }
}

/// The worker's address: from `--worker`, or the address from which this machine reaches the nodes. Waits
/// until there is a route. `None` if a signal to stop came first.
fn find_worker(given: Option<SocketAddr>, config: &Config, stop: &Stop) -> Option<SocketAddr> {
    if given.is_some() {
        return given;
    }
    let mut logged = false;
    loop {
        match local_address::towards(&config.nodes) {
            Ok(ip) => {
                let worker = SocketAddr::new(ip, WORKER_PORT);
                info!("no --worker given: reporting {worker}, the address from which the nodes are reached");
                return Some(worker);
            }
            Err(error) if !logged => {
                warn!("no route to the nodes yet ({error}); waiting for one, as no --worker was given");
                logged = true;
            }
            Err(_) => {}
        }
        if stop.receiver().recv_timeout(ADDRESS_RETRY) != Err(RecvTimeoutError::Timeout) {
            return None;
        }
    }
}

/// The loop of the program, until a signal to stop.
fn report_until_stopped(
    flags: &DaemonFlags,
    config: &Config,
    mut worker: SocketAddr,
    stop: &Stop,
) -> std::io::Result<()> {
    let (acknowledged, held) = Acknowledged::new();
    let acknowledged = Arc::new(acknowledged);
    let seal = sender::seal(config, &flags.server)?;
    let list: Arc<NodeList> = Arc::default();
    let start =
        |node: &Node| Sender::start(node, config, seal.clone(), Arc::clone(&acknowledged), Arc::clone(&list));
    let mut senders: Vec<Sender> = config.nodes.iter().map(start).collect::<Result<_, _>>()?;
    let followed = seal.clone();
    follow_secret(config, stop.hangups(), move |secret| {
        followed.replace_secret(secret);
        Ok(())
    })?;

    let connect_max = config.report_interval.mul_f64(CONNECT_SHARE).clamp(CONNECT_MIN, CONNECT_MAX);
    let watch = |worker| WorkerSocket::new(worker, flags.worker_check, connect_max);
    let mut socket = watch(worker);
    let mut meter = Meter::new(flags.measure, flags.measure_also.clone(), Instant::now());
    let mut activity = Activity::default();
    let mut worker_up_before = None;
    let mut decision = acknowledged::ForwardDecision::new(&flags.server);
    let mut stamps = Stamps::new(&flags.server);
    // The last report, until it was sent again in another epoch. It is sent again at most once before the next one
    // is due: otherwise two daemons with one name would raise each other's epoch without a pause.
    let mut repeatable: Option<IncomingReport> = None;
    let mut last: Option<Report> = None;
    let mut random = Random::new(linux::random_u64().map_err(std::io::Error::other)?);
    let instance = 1 + random.below(COUNTER_MAX);
    // The first report is sent as soon as possible: a cluster that starts waits for it.
    let mut due = Instant::now() + MEASURE_MIN;
    // The signs of life come from this loop, not from a thread of their own: if reading /proc hangs, they must stop.
    let manager = ServiceManager::from_environment();
    manager.ready(&format!("reports server {} to {} nodes", flags.server, senders.len()));
    let signs = manager.sign_interval().map_or_else(never, tick);
    loop {
        match wait(stop, &held, &signs, due) {
            Occasion::Due => {}
            Occasion::SignOfLife => {
                manager.alive();
                continue;
            }
            Occasion::Held(stamp) => {
                if stamps.learn(stamp)
                    && let Some(mut incoming) = repeatable.take()
                {
                    incoming.report.set_stamp(stamps.next());
                    send(&senders, &incoming);
                }
                continue;
            }
            Occasion::Stop => break,
        }
        // The members are others now.
        if let Some(nodes) = list.take() {
            let ids: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
            info!("the nodes of the cluster are now {}: reporting to those", ids.join(", "));
            senders.retain(|sender| nodes.iter().any(|node| sender.is_to(node)));
            for node in &nodes {
                if !senders.iter().any(|sender| sender.is_to(node)) {
                    senders.push(start(node)?);
                }
            }
        }
        // Without a route, as between two leases of DHCP, the old address stands: nobody would hear of another.
        if flags.worker.is_none()
            && let Ok(ip) = local_address::towards(&config.nodes)
            && ip != worker.ip()
        {
            info!("the address of this machine has changed from {} to {ip}: reporting that one", worker.ip());
            worker.set_ip(ip);
            socket = watch(worker);
        }
        let now = Instant::now();
        let listening = socket.look();
        let worker_up = listening.is_up();
        if worker_up_before.replace(worker_up) != Some(worker_up) {
            match (worker_up, flags.worker_check) {
                (true, WorkerCheck::None) => info!("the worker at {worker} is taken to be up, as ordered"),
                (true, _) => info!("the worker listens on {worker}"),
                (false, WorkerCheck::Connect) => {
                    warn!(
                        "no worker takes a connection at {worker}: this server reports, but gets no requests"
                    );
                }
                (false, _) => {
                    warn!("no worker listens on {worker}: this server reports, but gets no requests");
                }
            }
        }
        let worker_active = activity.look(listening);
        let load = meter.measure(now, &listening, activity.worker());
        // Asked before the sequence grows: the question is about the previous report.
        let forward = decision.forward(&acknowledged, stamps.last_sequence());
        let Stamp { epoch, sequence } = stamps.next();
        let report = Report {
            server: flags.server.clone(),
            worker,
            cpu: load.percent,
            cores: load.cores,
            cpu_known: load.known,
            epoch,
            sequence,
            worker_up,
            worker_active,
            instance: Some(instance),
        };
        debug!(
            "report {sequence}: {:.2} % of {} processors, worker up: {worker_up}",
            load.percent, load.cores
        );
        last = Some(report.clone());
        let incoming = IncomingReport { report, forward };
        send(&senders, &incoming);
        repeatable = Some(incoming);
        due = next_due(due, now, config.report_interval, random.next_u64());
    }
    manager.stopping();
    if let Some(mut report) = last.filter(|_| acknowledged.owns_name()) {
        let forward = decision.forward(&acknowledged, stamps.last_sequence());
        report.set_stamp(stamps.next());
        report.instance = None;
        send(&senders, &IncomingReport { report, forward });
        acknowledged.await_committed(stamps.last_sequence(), Instant::now() + FAREWELL);
    }
    // The sender threads end with the process, possibly during a request. They hold nothing that must be
    // saved.
    info!("{PROGRAM} stops after {} reports", stamps.last_sequence());
    Ok(())
}

/// What the loop of the program wakes up for.
enum Occasion {
    /// The next report is due.
    Due,
    /// A leader holds a report with this stamp, and called one of this daemon's stale.
    Held(Stamp),
    /// The service manager wants to hear that this loop goes on.
    SignOfLife,
    /// A signal to stop.
    Stop,
}

fn wait(stop: &Stop, held: &Receiver<Stamp>, signs: &Receiver<Instant>, due: Instant) -> Occasion {
    select! {
        // Disconnected with the signal thread, which never ends.
        recv(stop.receiver()) -> _ => Occasion::Stop,
        recv(held) -> stamp => stamp.map_or(Occasion::Stop, Occasion::Held),
        recv(signs) -> _ => Occasion::SignOfLife,
        default(due.saturating_duration_since(Instant::now())) => Occasion::Due,
    }
}

fn send(senders: &[Sender], incoming: &IncomingReport) {
    let body: Arc<[u8]> = incoming.to_json().into();
    for sender in senders {
        sender.send(incoming.report.sequence, Arc::clone(&body));
    }
}

/// When the next report is due, after a report that was due at `due` and made at `now`.
fn next_due(due: Instant, now: Instant, interval: Duration, random: u64) -> Instant {
    // A number from -1 to 1, from as many of the upper bits as a f64 holds.
    let swing = (random >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    let pause = interval.mul_f64(1.0 + JITTER * swing);
    // Counted from `due`, not from `now`: otherwise the time to make a report would be added to each pause.
    // After a suspend of the machine, the missed reports are not sent.
    if due + pause > now { due + pause } else { now + pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        assert_eq!(measure("machine"), Ok(Measure::Machine));
        assert_eq!(measure("process:12"), Ok(Measure::Process(12)));
        for bad in ["", "process", "process:", "process:0", "process:-4", "process:x", "Machine"] {
            assert!(measure(bad).is_err(), "{bad}");
        }
        assert!(worker_address("10.0.0.11:1024").is_ok());
        for bad in [
            "",
            "x",
            "127.0.0.1",
            "localhost:1024",
            "127.0.0.1:1023",
            "0.0.0.0:1024",
            "[::]:1024",
            "224.0.0.1:1024",
            "169.254.1.1:1024",
        ] {
            assert!(worker_address(bad).is_err(), "{bad}");
        }
        assert!(server_name("lab-01.room_2").is_ok());
        for bad in ["", ".x", "-x", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pauses_swing_around_the_interval_and_missed_reports_are_not_made_up_for() {
        let due = Instant::now();
        let interval = Duration::from_millis(1000);
        let pause = |random| next_due(due, due, interval, random).duration_since(due).as_millis();
        assert_eq!((pause(0), pause(1 << 63), pause(u64::MAX)), (900, 1000, 1100));
        let much_later = due + Duration::from_secs(60);
        assert_eq!(next_due(due, much_later, interval, 1 << 63), much_later + interval);
    }
}
