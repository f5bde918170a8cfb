//! The clients that ask for primes, and the played daemons (reporters) that remember every acknowledged report.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use rakit::http::client::{Client, ClientTimeouts};
use rakit::protocol::{Purpose, ReportAnswer, node_name, path};
use rakit::signing::{Recipient, Seal, SealedCallError, Secret};
use serde_json::{Value, json};

use super::dice::Dice;
use super::place::NodeId;

/// The epoch of every report here: an arbitrary moment.
pub const EPOCH: u64 = 1_795_000_000_000;

/// The cluster's name.
pub const CLUSTER: &str = "chaos";

/// Primes are asked for up to this N.
const N_MAX: usize = 2_000;

/// The pause between two requests of one client.
const CLIENT_PAUSE: Duration = Duration::from_millis(25);

/// The pause between two reports of one reporter.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// How long a client waits for its answer. Nothing here takes so long unless it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reporter waits: it has other nodes to turn to.
const REPORT_TIMEOUTS: ClientTimeouts = ClientTimeouts {
    connect: Duration::from_secs(1),
    send: Duration::from_secs(1),
    receive: Duration::from_secs(3),
};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Whether a node owes its clients an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Killed, paused, cut from the workers, or without a disk.
    Faulty,
    /// The fault is over, but the node has not answered since: it may be starting, or the network may not carry packets yet.
    Recovering,
    /// It has answered, and there was no fault since: from now on every request must succeed.
    Healthy,
}

/// A node's health, and how often it changed: a request counts only if nothing changed while it was under way.
#[derive(Debug)]
pub struct Condition(Mutex<(Health, u64)>);

impl Condition {
    /// Not started yet.
    pub fn new() -> Self {
        Self(Mutex::new((Health::Faulty, 0)))
    }

    /// The health, and the number of changes before.
    pub fn get(&self) -> (Health, u64) {
        *lock(&self.0)
    }

    /// It is `health` now. To be called before a fault begins, and after it has ended.
    pub fn set(&self, health: Health) {
        let mut condition = lock(&self.0);
        *condition = (health, condition.1 + 1);
    }

    /// It answered. If nothing changed since `seen`, and it was recovering, it is healthy.
    fn answered(&self, seen: u64) {
        let mut condition = lock(&self.0);
        if *condition == (Health::Recovering, seen) {
            condition.0 = Health::Healthy;
        }
    }
}

/// Everything that clients and reporters share.
#[derive(Debug)]
pub struct Suffering {
    /// Set when they shall end.
    pub over: AtomicBool,
    /// How many requests were answered well.
    pub answered: AtomicU64,
    /// How many failed on nodes that were not healthy: nothing is wrong with that.
    pub excused: AtomicU64,
    /// Every promise.
    pub promises: Mutex<Vec<Promise>>,
    /// What must not happen.
    pub violations: Sender<String>,
}

/// A report that was said to be committed.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Whose report.
    pub server: String,
    /// Which one.
    pub sequence: u64,
    /// Where it is in the log.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
}

/// Locks. If another thread panicked with the lock, its own message says so.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `GET path` on a connection of its own: the status and the body, or what went wrong.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).map_err(told)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(told)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(told)?;
    let _ = stream.shutdown(Shutdown::Both); // The other side has closed already.
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no whole head: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(|| format!("no status: {head:?}"))?, body.to_owned()))
}

/// `GET /status`, if the node answers.
pub fn status(address: SocketAddr) -> Option<Value> {
    let (status, body) = get(address, "/status").ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok())?
}

/// One node's client: asks until the run is over, and notes each request that a healthy node fails.
pub fn ask_for_primes(
    id: NodeId,
    address: SocketAddr,
    condition: &Condition,
    shared: &Suffering,
    mut dice: Dice,
) {
    let primes = primes();
    while !shared.over.load(Ordering::Relaxed) {
        let n = 1 + dice.below(N_MAX);
        let (health, seen) = condition.get();
        let answer = get(address, &format!("/{n}"));
        let right = matches!(&answer, Ok((200, body)) if body.trim_end() == primes[n - 1].to_string());
        let wrong = matches!(&answer, Ok((200, _))) && !right;
        if right {
            shared.answered.fetch_add(1, Ordering::Relaxed);
            condition.answered(seen);
        } else if wrong || (health == Health::Healthy && condition.get() == (health, seen)) {
            let _ = shared
                .violations
                .send(format!("node {id} was healthy and answered GET /{n} with {answer:?}"));
        } else {
            shared.excused.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(CLIENT_PAUSE);
    }
}

/// The first [`N_MAX`] primes, by trial division.
fn primes() -> Vec<u64> {
    let mut primes: Vec<u64> = Vec::with_capacity(N_MAX);
    let mut candidate = 2;
    while primes.len() < N_MAX {
        if primes.iter().take_while(|p| *p * *p <= candidate).all(|p| candidate % p != 0) {
            primes.push(candidate);
        }
        candidate += 1;
    }
    primes
}

/// One server's daemon, played: a new report to any node, again and again, each remembered if it is acknowledged. Its
/// worker is said not to listen, so that the server is kept out of the choice.
#[derive(Debug)]
pub struct Reporter {
    /// The server's name.
    pub server: String,
    worker: SocketAddr,
    nodes: BTreeMap<NodeId, SocketAddr>,
    client: Client,
    seal: Seal,
    sequence: u64,
    dice: Dice,
}

impl Reporter {
    /// A reporter that has sent nothing yet.
    pub fn new(
        server: String,
        worker: SocketAddr,
        nodes: BTreeMap<NodeId, SocketAddr>,
        secret: &str,
        dice: Dice,
    ) -> Self {
        let secret = Secret::parse(secret.as_bytes()).expect("long enough");
        let seal = Seal::new(CLUSTER, &format!("daemon:{server}"), Some(&secret)).expect("randomness");
        Self { server, worker, nodes, client: Client::new(REPORT_TIMEOUTS), seal, sequence: 0, dice }
    }

    /// Reports until it is over.
    pub fn run(mut self, conditions: &BTreeMap<NodeId, Condition>, shared: &Suffering) -> Self {
        while !shared.over.load(Ordering::Relaxed) {
            self.report(conditions, shared);
            std::thread::sleep(REPORT_PAUSE);
        }
        self
    }

    /// Sends one report to one node. Returns whether it was acknowledged.
    pub fn report(&mut self, conditions: &BTreeMap<NodeId, Condition>, shared: &Suffering) -> bool {
        self.sequence += 1;
        let at = self.dice.below(self.nodes.len());
        let (id, address) =
            self.nodes.iter().nth(at).map(|(id, address)| (*id, *address)).expect("below their number");
        let body = json!({
            "server": self.server, "worker": self.worker.to_string(), "cpu": 1.0, "cores": 1, "epoch": EPOCH,
            "sequence": self.sequence, "worker_up": false, "forward": true,
        });
        let (to, body) = (Recipient { name: node_name(id.into()), address }, body.to_string());
        let before = conditions[&id].get();
        let answer = self.seal.post(
            &mut self.client,
            &to,
            Purpose::Report,
            path::REPORT,
            body.as_bytes(),
            ANSWER_BYTES_MAX,
        );
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // A node that was restarted twice during this call knows neither the first stream nor the second. One that
                // has been well all the time has no excuse.
                let well = before.0 == Health::Healthy && conditions[&id].get() == before;
                if well && matches!(error, SealedCallError::Refused(..)) {
                    let _ =
                        shared.violations.send(format!("an honest report to node {id} was refused: {error}"));
                }
                return false;
            }
        };
        match ReportAnswer::parse(answer.status, &answer.body) {
            Some(ReportAnswer::Committed { committed, term, .. }) => {
                let (server, sequence) = (self.server.clone(), self.sequence);
                lock(&shared.promises).push(Promise { server, sequence, index: committed, term });
                true
            }
            // Only this reporter speaks for this server, and it never repeats itself. But its client may: a request that
            // met a closed connection is sent twice, and the first may have counted. Then the promise is the same.
            Some(ReportAnswer::Stale { .. }) => true,
            Some(ReportAnswer::NotLeader { .. }) | None => false,
        }
    }
}
