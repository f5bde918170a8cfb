//! The test as a daemon: reports to all nodes, once or steadily, with an `(epoch, sequence)` that grows.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use rakit::http::client::{Client, ClientTimeouts};
use rakit::protocol::{Purpose, ReportAnswer, daemon_name, node_name, path};
use rakit::signing::{Recipient, Seal, Secret};
use serde_json::{Value, json};

use super::cluster::{CLUSTER_NAME, Cluster, NodeId};
use super::workers::Worker;
use super::{LOOK_AGAIN, PATIENCE};

/// The epoch of every report here: an arbitrary moment.
pub const EPOCH: u64 = 1_795_000_000_000;

/// Grows with every report of this process.
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

/// For nodes that are stopped or busy: a daemon does not wait for them for ever either.
const TIMEOUTS: ClientTimeouts = ClientTimeouts {
    connect: Duration::from_secs(2),
    send: Duration::from_secs(2),
    receive: Duration::from_secs(12),
};

/// The longest answer to a report.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The next sequence number: larger than all before.
pub fn next_sequence() -> u64 {
    SEQUENCE.fetch_add(1, Ordering::SeqCst)
}

/// A report of a daemon.
#[derive(Clone, Debug)]
pub struct Report {
    pub server: String,
    pub worker: SocketAddr,
    pub cpu: f64,
    pub cores: u32,
    pub epoch: u64,
    pub sequence: u64,
    pub worker_up: bool,
    pub forward: bool,
}

impl Report {
    /// A new report, of a machine with two cores whose worker listens.
    pub fn new(server: &str, worker: SocketAddr, cpu: f64) -> Self {
        let server = server.to_owned();
        let (epoch, sequence) = (EPOCH, next_sequence());
        Self { server, worker, cpu, cores: 2, epoch, sequence, worker_up: true, forward: false }
    }

    /// Its body.
    pub fn json(&self) -> Value {
        json!({
            "server": self.server, "worker": self.worker.to_string(), "cpu": self.cpu, "cores": self.cores,
            "epoch": self.epoch, "sequence": self.sequence, "worker_up": self.worker_up, "forward": self.forward,
        })
    }

    /// Whether a server in a node's `/status` shows this report or a newer one.
    pub fn is_in(&self, server: &Value) -> bool {
        let shown = (server["epoch"].as_u64().unwrap_or(0), server["sequence"].as_u64().unwrap_or(0));
        shown >= (self.epoch, self.sequence)
    }
}

/// A promise: this report is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub index: u64,
    pub term: u64,
    pub sequence: u64,
}

impl Acknowledged {
    /// The promise in an answer to a report, if it is one about this very report.
    fn of(status: u16, body: &Value, sequence: u64) -> Option<Self> {
        match ReportAnswer::parse(status, body.to_string().as_bytes())? {
            ReportAnswer::Committed { committed, term, .. } => {
                Some(Self { index: committed, term, sequence })
            }
            ReportAnswer::Stale { .. } | ReportAnswer::NotLeader { .. } => None,
        }
    }

    /// Fails unless this entry is in the node's log, with this report in it.
    #[track_caller]
    pub fn assert_in(&self, log: &[Value], id: NodeId) {
        let entry = log.iter().find(|entry| entry["index"] == self.index);
        let entry =
            entry.unwrap_or_else(|| panic!("node {id} lost index {} that was acknowledged", self.index));
        assert_eq!(entry["term"], self.term, "node {id} holds another entry than was acknowledged: {entry}");
        let sequence = &entry["command"]["report"]["sequence"];
        assert_eq!(*sequence, self.sequence, "node {id} holds another entry than was acknowledged: {entry}");
    }
}

/// The way to one node's cluster address, signed if the cluster has a secret.
struct Way {
    client: Client,
    seal: Seal,
    to: Recipient,
}

impl Way {
    fn new(cluster: &Cluster, id: NodeId, server: &str, receive: Duration) -> Self {
        let secret = cluster.options.secret.as_deref();
        let secret = secret.map(|text| Secret::parse(text.as_bytes()).expect("a good secret"));
        let seal = Seal::new(CLUSTER_NAME, &daemon_name(server), secret.as_ref()).expect("randomness");
        let client = Client::new(ClientTimeouts { receive, ..TIMEOUTS });
        let to = Recipient { name: node_name(id), address: cluster.cluster_address(id) };
        Self { client, seal, to }
    }

    /// The answer: status and body (a body that is no JSON as a string); the error's words if there is none.
    fn post(&mut self, body: &str) -> Result<(u16, Value), String> {
        let answer = self.seal.post(
            &mut self.client,
            &self.to,
            Purpose::Report,
            path::REPORT,
            body.as_bytes(),
            ANSWER_BYTES_MAX,
        );
        let answer = answer.map_err(|error| error.to_string())?;
        let text = || Value::from(String::from_utf8_lossy(&answer.body).into_owned());
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_else(|_| text())))
    }
}

impl Cluster {
    /// Posts a report to one node: status and body of the answer.
    pub fn post_report(&self, id: NodeId, report: &Report) -> Result<(u16, Value), String> {
        Way::new(self, id, &report.server, TIMEOUTS.receive).post(&report.json().to_string())
    }

    /// Posts a report to all nodes that run; gives the promise, if one of them gave it.
    pub fn try_report(&self, report: &Report) -> Option<Acknowledged> {
        let mut promise = None;
        for id in self.running() {
            if let Ok((status, body)) = self.post_report(id, report) {
                promise = promise.or(Acknowledged::of(status, &body, report.sequence));
            }
        }
        promise
    }

    /// Posts this server's load to all nodes that run, again and again (each time as a new report) until it is committed,
    /// and waits until it shows on every node that runs. Gives the last report and the promise.
    #[track_caller]
    pub fn send_report(&self, report: Report) -> (Report, Acknowledged) {
        let mut report = report;
        let promise = self.wait_for("a report is committed", || {
            report.sequence = next_sequence();
            self.try_report(&report)
        });
        self.wait_for_server(&report.server, "as it was reported", |server| report.is_in(server));
        (report, promise)
    }

    /// [`send_report`](Self::send_report) of a server with two cores whose worker is up.
    #[track_caller]
    pub fn report(&self, server: &str, worker: &Worker, cpu: f64) -> (Report, Acknowledged) {
        self.send_report(Report::new(server, worker.address(), cpu))
    }
}

#[derive(Debug)]
struct Life {
    silent: bool,
    /// Reports that wait for their thread or for an answer.
    under_way: usize,
    acknowledged: Vec<Acknowledged>,
}

/// A played daemon that reports steadily: at each interval it sends a new report to all nodes. Each node has a thread and a
/// connection of its own, so that a dead or stopped node delays no other. Ends when it is dropped.
#[derive(Debug)]
pub struct Reporter {
    life: Arc<Mutex<Life>>,
    /// A report is under way no longer.
    answered: Arc<Condvar>,
    poke: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Reporter {
    /// Starts to report about this server.
    pub fn start(cluster: &Cluster, server: &str, worker: SocketAddr, cpu: f64, interval: Duration) -> Self {
        let life = Arc::new(Mutex::new(Life { silent: false, under_way: 0, acknowledged: Vec::new() }));
        let answered = Arc::new(Condvar::new());
        let mut threads = Vec::new();
        let mut senders = Vec::new();
        for id in cluster.ids() {
            let mut way = Way::new(cluster, id, server, Duration::from_secs(2));
            let (sender, reports) = bounded::<Report>(1);
            senders.push(sender);
            let (life, answered) = (Arc::clone(&life), Arc::clone(&answered));
            threads.push(std::thread::spawn(move || {
                for report in reports {
                    let answer = way.post(&report.json().to_string());
                    // Nobody there, or no commit: the next report is newer.
                    let promise = answer
                        .ok()
                        .and_then(|(status, body)| Acknowledged::of(status, &body, report.sequence));
                    let mut life = lock(&life);
                    life.acknowledged.extend(promise);
                    life.under_way -= 1;
                    answered.notify_all();
                }
            }));
        }
        let (poke, pokes) = bounded::<()>(1);
        let (living, server) = (Arc::clone(&life), server.to_owned());
        threads.push(std::thread::spawn(move || {
            loop {
                {
                    let mut life = lock(&living);
                    if !life.silent {
                        let report = Report::new(&server, worker, cpu);
                        for sender in &senders {
                            let sent: Result<(), TrySendError<Report>> = sender.try_send(report.clone());
                            // Full: the node has not answered the report before this one. It gets the next report.
                            life.under_way += usize::from(sent.is_ok());
                        }
                    }
                }
                if let Err(RecvTimeoutError::Disconnected) = pokes.recv_timeout(interval) {
                    return;
                }
            }
        }));
        Self { life, answered, poke: Some(poke), threads }
    }

    /// Stops sending and waits until no report is under way, or sends again at once.
    pub fn set_silent(&self, silent: bool) {
        let mut life = lock(&self.life);
        life.silent = silent;
        while silent && life.under_way > 0 {
            life = self.answered.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
        drop(life);
        self.poke();
    }

    /// All promises so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        lock(&self.life).acknowledged.clone()
    }

    /// Waits until there are so many promises more than now.
    #[track_caller]
    pub fn wait_for_commits(&self, cluster: &Cluster, more: usize) {
        let before = lock(&self.life).acknowledged.len();
        let deadline = Instant::now() + PATIENCE;
        while lock(&self.life).acknowledged.len() < before + more {
            assert!(Instant::now() < deadline, "no further report is committed\n{}", cluster.story());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn poke(&self) {
        // Full: it is about to look anyway.
        let _ = self.poke.as_ref().map(|poke| poke.try_send(()));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.poke = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}
