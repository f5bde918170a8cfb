//! A loader for reports that costs little itself: one thread, `epoll(7)`, a kept connection per server, one report of each
//! server under way at a time.
//!
//! Closed loop: each connection sends its next report when the last one was answered, as a daemon does. So the number of
//! connections is the number of reports that wait at the leader, and reports per second follow from how fast it answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{Timespec, epoll};

use super::cluster::Cluster;
use super::reports::{EPOCH, next_sequence};
use super::{LOOK_AGAIN, PATIENCE, http};

/// Events taken per `epoll_wait`.
const EVENTS_MAX: usize = 256;

/// Longer than any answer to a report.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Reports in one run of a steady load.
const STEADY_REPORTS: u64 = 200;

/// The worker in each report, which is said not to listen: nobody asks it. The prefix is for documentation (RFC 3849).
const WORKER: &str = "[2001:db8:1111:2222:3333:4444:5555:6666]:13337";

/// One connection, which speaks for one server.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    server: String,
    answer: Vec<u8>,
    sequence: u64,
    /// Whether a report was sent that is not answered yet.
    under_way: bool,
    /// The newest report that was acknowledged.
    promise: Option<Promise>,
}

/// A report that was acknowledged as committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub server: String,
    pub sequence: u64,
    pub index: u64,
    pub term: u64,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Reports acknowledged with 200.
    pub acknowledged: u64,
    /// The newest promise of each server.
    pub promises: Vec<Promise>,
    /// Why it ended before all were sent, if it did: another answer than 200, or none.
    pub ended_by: Option<String>,
}

/// Posts `count` reports to the leader at `address`, of as many servers as there are names. Ends at once when an answer
/// is not 200, and when `stop` is set: the caller looks for the leader and goes on. All reports that are under way are
/// awaited first.
pub fn post(address: SocketAddr, names: &[String], count: u64, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor");
    let mut connections = Vec::with_capacity(names.len());
    for (number, server) in names.iter().enumerate() {
        let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
            outcome.ended_by = Some(format!("{address} takes no connection"));
            return outcome;
        };
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)
            .expect("a new descriptor");
        let server = server.clone();
        let answer = Vec::new();
        connections.push(Connection { stream, server, answer, sequence: 0, under_way: false, promise: None });
    }
    let mut left = count;
    for connection in connections.iter_mut().take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if let Err(error) = connection.send() {
            outcome.ended_by = Some(error);
            break;
        }
        left -= 1;
    }
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut heard = Instant::now();
    while connections.iter().any(|connection| connection.under_way) {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll_wait: {error}"),
        }
        if events.is_empty() && heard.elapsed() > PATIENCE {
            outcome.ended_by = Some(format!("no answer for {PATIENCE:?}"));
            break;
        }
        for event in &events {
            heard = Instant::now();
            let connection =
                &mut connections[usize::try_from(event.data.u64()).expect("a number given above")];
            match connection.receive() {
                Ok(None) => {}
                Ok(Some((index, term))) => {
                    connection.under_way = false;
                    outcome.acknowledged += 1;
                    let (server, sequence) = (connection.server.clone(), connection.sequence);
                    connection.promise = Some(Promise { server, sequence, index, term });
                    if left == 0 || outcome.ended_by.is_some() || stop.load(Ordering::SeqCst) {
                        continue;
                    }
                    if let Err(error) = connection.send() {
                        outcome.ended_by = Some(error);
                    } else {
                        left -= 1;
                    }
                }
                // A connection without a report under way may close, too. Its report is not counted again.
                Err(why) => {
                    connection.under_way = false;
                    let _ = epoll::delete(&poll, &connection.stream);
                    outcome.ended_by = Some(why);
                }
            }
        }
    }
    outcome.promises = connections.into_iter().filter_map(|connection| connection.promise).collect();
    outcome
}

/// `count` names of servers.
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number:04}")).collect()
}

/// Names of different batches in a [`Steady`] load: after these they come again, so that the table has room for all.
const BATCHES_MAX: u64 = 32;

/// Reports without end, to whoever leads, by a thread of its own, until it is ended.
///
/// After each change of leader it goes on with servers of other names: a report that was acknowledged and then lost
/// cannot be hidden by a later one of the same server.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<Promise>>>,
}

impl Steady {
    /// Starts it, with so many servers at a time.
    pub fn start(cluster: &Cluster, servers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let nodes: Vec<(SocketAddr, SocketAddr)> =
            cluster.ids().into_iter().map(|id| (cluster.public(id), cluster.cluster_address(id))).collect();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            let (mut promises, mut batch) = (Vec::new(), 0);
            while !stopped.load(Ordering::SeqCst) {
                let leads = |(public, _): &&(SocketAddr, SocketAddr)| {
                    http::get(*public, "/status")
                        .is_ok_and(|answer| answer.status == 200 && answer.json()["role"] == "leader")
                };
                let Some((_, leader)) = nodes.iter().find(leads) else {
                    std::thread::sleep(LOOK_AGAIN);
                    continue;
                };
                let names = names(&format!("batch-{}-", batch % BATCHES_MAX), servers);
                // Short runs, so that the count moves on while the load does.
                let outcome = post(*leader, &names, STEADY_REPORTS, &stopped);
                batch += 1;
                count.fetch_add(outcome.acknowledged, Ordering::SeqCst);
                promises.extend(outcome.promises);
            }
            promises
        });
        Self { stop, acknowledged, thread: Some(thread) }
    }

    /// Waits until so many more reports were acknowledged than now.
    #[track_caller]
    pub fn wait_for(&self, cluster: &Cluster, more: u64) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + more;
        cluster.wait_for("further reports are acknowledged", || {
            (self.acknowledged.load(Ordering::SeqCst) >= goal).then_some(())
        });
    }

    /// Ends it; gives the newest promise of every server of every batch.
    pub fn end(mut self) -> Vec<Promise> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it is taken here and in drop alone");
        thread.join().expect("the loader asserts nothing")
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Fails unless every running node's table holds each promised report, or a newer one of that server.
///
/// Waits until a node has applied the last promised index: a new leader knows that the entries of the old one are committed
/// only when its own no-op is.
#[track_caller]
pub fn assert_kept(cluster: &Cluster, promises: &[Promise]) {
    let last = promises.iter().map(|promise| promise.index).max();
    let last = last.expect("nothing was promised, so nothing is proved");
    for id in cluster.running() {
        let status = cluster.wait_for("what was promised is applied", || {
            Some(cluster.status(id)).filter(|status| status["applied_index"].as_u64() >= Some(last))
        });
        let servers = status["servers"].as_array().expect("a list");
        let held: BTreeMap<&str, u64> = servers
            .iter()
            .filter_map(|server| Some((server["id"].as_str()?, server["sequence"].as_u64()?)))
            .collect();
        for promise in promises {
            let sequence = held.get(promise.server.as_str()).copied();
            assert!(
                sequence >= Some(promise.sequence),
                "node {id} lost {promise:?}: its table has {sequence:?}\n{}",
                cluster.story()
            );
        }
    }
}

impl Connection {
    fn send(&mut self) -> Result<(), String> {
        self.sequence = next_sequence();
        let (server, sequence) = (&self.server, self.sequence);
        let body = format!(
            "{{\"server\":\"{server}\",\"worker\":\"{WORKER}\",\"cpu\":{}.5,\"cores\":4,\"epoch\":{EPOCH},\
             \"sequence\":{sequence},\"worker_up\":false,\"forward\":false}}",
            sequence % 100
        );
        let request = format!(
            "POST /report HTTP/1.1\r\nHost: loader\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.answer.clear();
        // A few hundred bytes on a connection with nothing under way: the kernel takes them whole.
        self.stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
        self.under_way = true;
        Ok(())
    }

    /// Reads what has come: index and term, once the answer is whole.
    fn receive(&mut self) -> Result<Option<(u64, u64)>, String> {
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let read =
            http::read_some(&mut self.stream, &mut buffer).map_err(|error| format!("no answer: {error}"))?;
        if read == 0 {
            return Err("closed without an answer".into());
        }
        self.answer.extend_from_slice(&buffer[..read]);
        let text = std::str::from_utf8(&self.answer).map_err(|error| error.to_string())?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() < length.ok_or("no Content-Length")? {
            return Ok(None);
        }
        if !head.starts_with("HTTP/1.1 200") || body.contains("stale") {
            return Err(format!("answered {}: {body}", head.lines().next().unwrap_or_default()));
        }
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = body.split_once(name)?;
            rest.trim_start_matches([':', ' ']).split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        Ok(Some((number("\"committed\"").ok_or("no index")?, number("\"term\"").ok_or("no term")?)))
    }
}
