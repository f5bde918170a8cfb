//! Sends reports to one node, on a thread of its own. The daemon's main loop starts one sender per node.
//!
//! The main loop puts each report into a slot with room for one ([`Newest`]). The sender takes the newest
//! report and posts it. While a node is slow, newer reports replace older ones in the slot. Nothing is lost
//! by that, because each report is complete.
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{debug, info, warn};

use super::acknowledged::Acknowledged;
use super::local_address::Source;
use super::node_list::NodeList;
use crate::balancer::Stamp;
use crate::config::{Config, Node};
use crate::http::client::{Client, ClientTimeouts};
use crate::logging::OneLine;
use crate::protocol::{MembersAnswer, Purpose, ReportAnswer, daemon_name, node_name, path};
use crate::raft::{Index, NodeId};
use crate::signing::{Recipient, Seal, SealedCallError, Secret};

/// The part of the server timeout that each phase of a request (connect, send, answer) may take. A slow link needs that
/// much: across a round trip of 280 ms a connection takes longer than a quarter of the usual report interval. It costs
/// nothing: each node has a thread of its own, and a newer report takes the place of the one that waits.
const TIMEOUT_SHARE: f64 = 0.25;
/// Each phase may take this part of the report interval, too, where that is longer.
const INTERVAL_SHARE: f64 = 0.5;
/// The bounds of a phase's time, for timeouts that are very short or very long.
const PHASE_MIN: Duration = Duration::from_millis(50);
const PHASE_MAX: Duration = Duration::from_secs(5);

/// How long each phase may take.
fn timeouts(server_timeout: Duration, report_interval: Duration) -> ClientTimeouts {
    let phase = server_timeout.mul_f64(TIMEOUT_SHARE).max(report_interval.mul_f64(INTERVAL_SHARE));
    let phase = phase.clamp(PHASE_MIN, PHASE_MAX);
    ClientTimeouts { connect: phase, send: phase, receive: phase }
}

/// The longest answer that is read, in bytes. An answer is one line of JSON.
const ANSWER_BYTES_MAX: usize = 4_096;
/// The longest list of members that is read, in bytes. A member takes about 100.
const MEMBERS_BYTES_MAX: usize = 64 * 1024;
/// The longest part of a node's refusal in the log, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// A report to send.
struct Outgoing {
    sequence: u64,
    body: Arc<[u8]>,
}

/// The sending side for one node.
pub(super) struct Sender {
    node: Node,
    slot: Arc<Newest<Outgoing>>,
}

/// The seal of the daemon of `server`: each [`Sender`] gets a clone.
///
/// # Errors
/// When the secret is none, or the system gives no random numbers.
pub(super) fn seal(config: &Config, server: &str) -> io::Result<Seal> {
    let secret = config.secret.as_deref().map(Secret::parse).transpose().map_err(io::Error::other)?;
    let seal = Seal::new(&config.cluster_name, &daemon_name(server), secret.as_ref())?;
    Ok(seal.founded(&config.founding()))
}

impl Sender {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        node: &Node,
        config: &Config,
        seal: Seal,
        acknowledged: Arc<Acknowledged>,
        list: Arc<NodeList>,
    ) -> io::Result<Self> {
        let slot = Arc::new(Newest::default());
        let waiting = Arc::clone(&slot);
        let mut link = Link {
            id: node.id,
            address: node.cluster,
            line: Line::new(node, config, seal),
            attitude: None,
            acknowledged,
            list,
        };
        std::thread::Builder::new().name(format!("to-node-{}", node.id)).spawn(move || {
            while let Some(report) = waiting.take() {
                link.serve(&report);
            }
        })?;
        Ok(Self { node: node.clone(), slot })
    }

    /// Whether it sends to this node, at this address.
    pub(super) fn is_to(&self, node: &Node) -> bool {
        (self.node.id, self.node.cluster) == (node.id, node.cluster)
    }

    /// Puts a report into the slot, in place of one that was not taken yet.
    pub(super) fn send(&self, sequence: u64, body: Arc<[u8]>) {
        self.slot.put(Outgoing { sequence, body });
    }
}

/// The thread ends after the report that is under way.
impl Drop for Sender {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// What is in the slot.
enum Waiting<T> {
    Nothing,
    Value(T),
    /// Nothing will come any more.
    Closed,
}

/// A channel with room for one value. A newer value replaces an older one.
struct Newest<T> {
    value: Mutex<Waiting<T>>,
    filled: Condvar,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self { value: Mutex::new(Waiting::Nothing), filled: Condvar::new() }
    }
}

impl<T> Newest<T> {
    fn put(&self, value: T) {
        *self.lock() = Waiting::Value(value);
        self.filled.notify_one();
    }

    fn close(&self) {
        *self.lock() = Waiting::Closed;
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a value; `None` if none will come any more.
    fn take(&self) -> Option<T> {
        let mut value = self.lock();
        loop {
            match std::mem::replace(&mut *value, Waiting::Nothing) {
                Waiting::Value(value) => return Some(value),
                Waiting::Closed => return None,
                Waiting::Nothing => {}
            }
            value = self.filled.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The result of sending a report to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Delivery {
    /// The node leads or asked the leader, and the report is committed.
    Committed,
    /// The node leads, and already had this report or a newer one: the one with this stamp.
    Stale(Stamp),
    /// A follower took note (202), or the node cannot say what becomes of the report (503: no leader, busy, stopping).
    NotDecided,
    /// The node leads or asked the leader, and another daemon has this server's name.
    NotOurs(String),
    /// The node answered that the report or its sender is wrong.
    Refused(String),
    /// The node gave no answer.
    Unreachable(String),
}

impl Delivery {
    /// Reads an answer; see docs/protocol.md.
    fn of(status: u16, body: &[u8]) -> Self {
        match status {
            200 | 202 => match ReportAnswer::parse(status, body) {
                Some(ReportAnswer::Committed { .. }) => Self::Committed,
                Some(ReportAnswer::Stale { epoch, sequence, .. }) => Self::Stale(Stamp { epoch, sequence }),
                Some(ReportAnswer::NotLeader { .. }) => Self::NotDecided,
                None => Self::Refused(format!("an answer that is not understood: {}", shown(body))),
            },
            409 => Self::NotOurs(shown(body)),
            503 => Self::NotDecided,
            _ => Self::Refused(format!("{status}: {}", shown(body))),
        }
    }

    /// The attitude of the node towards reports. A change of it is logged.
    fn attitude(&self) -> Attitude {
        match self {
            Self::Committed | Self::Stale(_) | Self::NotDecided => Attitude::Takes,
            Self::NotOurs(_) | Self::Refused(_) => Attitude::Refuses,
            Self::Unreachable(_) => Attitude::Silent,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attitude {
    Takes,
    Refuses,
    Silent,
}

/// The first line of a node's answer, shortened and escaped for the log.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut line = OneLine::new(REASON_BYTES_MAX);
    std::fmt::Write::write_str(&mut line, text.lines().next().unwrap_or("")).expect("into memory");
    line.finish()
}

/// The data of the thread: the node, the connection to it, and its last state.
struct Link {
    id: NodeId,
    address: SocketAddr,
    line: Line,
    attitude: Option<Attitude>,
    acknowledged: Arc<Acknowledged>,
    list: Arc<NodeList>,
}

impl Link {
    /// Posts one report and records the result.
    fn serve(&mut self, report: &Outgoing) {
        let (delivery, members) = self.line.post(&report.body);
        if self.list.is_news(members) {
            match self.line.ask_members() {
                Ok(list) => self.list.put(&list),
                Err(why) => debug!("node {} did not tell its members: {why}", self.id),
            }
        }
        match delivery {
            Delivery::Committed => self.acknowledged.committed(report.sequence),
            Delivery::NotOurs(_) => self.acknowledged.not_ours(report.sequence),
            Delivery::Stale(held) => self.acknowledged.stale(report.sequence, held),
            _ => {}
        }
        debug!("report {} to node {}: {delivery:?}", report.sequence, self.id);
        let attitude = delivery.attitude();
        if self.attitude.replace(attitude) != Some(attitude) {
            let (id, address) = (self.id, self.address);
            match &delivery {
                Delivery::NotOurs(reason) | Delivery::Refused(reason) => {
                    warn!("node {id} ({address}) refuses reports: {reason}")
                }
                Delivery::Unreachable(reason) => {
                    warn!("node {id} ({address}) does not take reports: {reason}")
                }
                _ => info!("node {id} ({address}) takes reports"),
            }
        }
    }
}

/// The connection to one node, and the seal for its requests (empty without a secret).
struct Line {
    client: Client,
    timeouts: ClientTimeouts,
    /// The address of this machine from which the connection comes; `None` before the first.
    source: Option<Source>,
    seal: Seal,
    to: Recipient,
}

impl Line {
    /// Each thread has its own clone of the seal, and so its own stream. A node detects repetitions by the order
    /// within a stream, which two threads with one stream would break.
    fn new(node: &Node, config: &Config, seal: Seal) -> Self {
        let to = Recipient { name: node_name(node.id), address: node.cluster };
        let timeouts = timeouts(config.server_timeout, config.report_interval);
        Self { client: Client::new(timeouts), timeouts, source: None, seal, to }
    }

    /// Posts a report. If the node had closed the kept connection, the client repeats the request. A request
    /// without an answer is not repeated: the next report is newer. Also returns the index of the node's list of
    /// members; 0 if it told none.
    fn post(&mut self, body: &[u8]) -> (Delivery, Index) {
        self.follow_address();
        let answer =
            self.seal.post(&mut self.client, &self.to, Purpose::Report, path::REPORT, body, ANSWER_BYTES_MAX);
        match answer {
            Ok(answer) => {
                let members =
                    ReportAnswer::parse(answer.status, &answer.body).map_or(0, |answer| answer.members());
                (Delivery::of(answer.status, &answer.body), members)
            }
            Err(SealedCallError::Refused(_, refusal)) => (Delivery::Refused(refusal.to_string()), 0),
            Err(error) => (Delivery::Unreachable(error.to_string()), 0),
        }
    }

    /// Asks the node who the members are.
    fn ask_members(&mut self) -> Result<MembersAnswer, String> {
        let answer = self
            .seal
            .post(&mut self.client, &self.to, Purpose::Report, path::MEMBERS, b"{}", MEMBERS_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
    }

    /// After a change of this machine's address, leaves the kept connection, which comes from the old one: it may lead
    /// nowhere now, and a node with a secret compares a worker's address with that from which the report comes.
    fn follow_address(&mut self) {
        // Without a route there is nothing to leave for.
        let Ok(source) = Source::towards(self.to.address) else { return };
        if self.source.replace(source) != Some(source) {
            self.client = Client::coming_from(source.to_bind(), self.timeouts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_report_takes_the_place_of_one_that_waits() {
        let slot = Newest::default();
        slot.put(1);
        slot.put(2);
        assert_eq!(slot.take(), Some(2));
        slot.put(3);
        assert_eq!(slot.take(), Some(3));
        slot.close();
        assert_eq!(slot.take(), None);
    }

    #[test]
    fn a_slow_link_has_time_for_several_round_trips() {
        let times = timeouts(Duration::from_secs(5), Duration::from_secs(1));
        assert!(times.connect >= Duration::from_millis(3 * 280) && times.receive >= times.connect);
        assert_eq!(timeouts(Duration::from_millis(1), Duration::from_millis(1)).connect, PHASE_MIN);
        assert_eq!(timeouts(Duration::from_secs(3_600), Duration::from_secs(1)).connect, PHASE_MAX);
    }

    #[test]
    fn a_taker_waits_for_what_comes() {
        let slot = Newest::default();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| slot.take());
            slot.put(7);
            assert_eq!(taker.join().expect("no panic"), Some(7));
        });
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(Delivery::of(200, br#"{"committed":5,"term":2}"#), Delivery::Committed);
        let stale = br#"{"committed":5,"term":2,"stale":true,"epoch":7,"sequence":9}"#;
        assert_eq!(Delivery::of(200, stale), Delivery::Stale(Stamp { epoch: 7, sequence: 9 }));
        assert_eq!(Delivery::of(202, br#"{"leader":3}"#), Delivery::NotDecided);
        assert_eq!(Delivery::of(503, b"no leader\n"), Delivery::NotDecided);
        assert_eq!(Delivery::of(409, b"another daemon\n"), Delivery::NotOurs("another daemon".to_owned()));
        for (status, body) in [
            (200, &b"hello"[..]),
            (200, b""),
            (200, b"{}"),
            (202, b"{}"),
            (404, b""),
            (301, b""),
            (500, b"x"),
        ] {
            assert!(matches!(Delivery::of(status, body), Delivery::Refused(_)), "{status}");
        }
        let refused = Delivery::of(400, "cpu: out\u{1b}[2J of range\nsecond line".as_bytes());
        assert_eq!(refused, Delivery::Refused("400: cpu: out\\u{1b}[2J of range".to_owned()));
    }
}
