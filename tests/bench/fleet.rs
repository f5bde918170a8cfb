//! Many daemons in one thread: each reports at its interval to every node, over kept connections, as `rakit-daemon` does, and
//! notes what the nodes answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::members::{is_committed, report};
use crate::poll::Poll;
use crate::random::Random;
use crate::wire::{self, Answers, PATIENCE};

/// The greatest difference of a daemon's pause from the interval, as a part of the interval.
const JITTER: f64 = 0.1;

/// What became of all reports.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub sent: u64,
    /// Acknowledged by the leader.
    pub committed: u64,
    /// Not acknowledged, but a newer report of the same server was: what it said is no longer of interest.
    pub superseded: u64,
    /// Neither acknowledged nor superseded.
    pub lost: u64,
    /// From each report to its acknowledgement, sorted, in seconds.
    pub latencies: Vec<f64>,
}

/// A daemon's connection to one node, and what it knows of it.
struct Way {
    stream: TcpStream,
    server: usize,
    answers: Answers,
    /// The report that this node has not answered.
    waits: Option<u64>,
}

struct Daemon {
    name: String,
    sequence: u64,
    /// The newest that was acknowledged.
    committed: u64,
    /// How many were acknowledged.
    acknowledged: u64,
    sent: Instant,
}

/// Lets this many servers report to these nodes, each at the interval, for this time. Then waits for the answer to every server's
/// last report.
///
/// # Errors
/// When a node refuses a report or closes a connection.
pub fn run(nodes: &[SocketAddr], servers: usize, interval: Duration, time: Duration) -> Fallible<Outcome> {
    let (poll, mut ways) = (Poll::new()?, Vec::new());
    let mut random = Random::new(servers as u64);
    let begin = Instant::now();
    let mut daemons = Vec::new();
    let mut turns = BinaryHeap::new();
    for server in 0..servers {
        for node in nodes {
            let stream = TcpStream::connect_timeout(node, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            poll.add(&stream, ways.len() as u64)?;
            ways.push(Way { stream, server, answers: Answers::default(), waits: None });
        }
        let name = format!("fleet-{server:04}");
        daemons.push(Daemon { name, sequence: 0, committed: 0, acknowledged: 0, sent: begin });
        // Real daemons do not report at the same moment.
        turns.push(Reverse((Instant::now() + interval.mul_f64(random.uniform()), server)));
    }
    let mut outcome = Outcome::default();
    let end = Instant::now() + time;
    let deadline = end + PATIENCE;
    loop {
        let now = Instant::now();
        let all_answered = || daemons.iter().all(|daemon| daemon.committed == daemon.sequence);
        if now >= deadline || (now >= end && all_answered()) {
            break;
        }
        let mut wait = Duration::from_millis(20);
        while let Some(Reverse((due, server))) = turns.peek().copied() {
            if now >= end {
                break;
            }
            if due > now {
                wait = wait.min(due - now);
                break;
            }
            turns.pop();
            let jitter = 1.0 + JITTER * (2.0 * random.uniform() - 1.0);
            turns.push(Reverse((due + interval.mul_f64(jitter), server)));
            let daemon = &mut daemons[server];
            daemon.sequence += 1;
            daemon.sent = Instant::now();
            outcome.sent += 1;
            let request = wire::post("/report", &report(&daemon.name, daemon.sequence, false));
            for way in &mut ways[server * nodes.len()..(server + 1) * nodes.len()] {
                // A node that still owes an answer gets the next report instead.
                if way.waits.is_none() {
                    way.stream.write_all(&request)?;
                    way.waits = Some(daemon.sequence);
                }
            }
        }
        for token in poll.wait(wait)? {
            let way = &mut ways[usize::try_from(token)?];
            let Some(answer) = way.hear()? else { continue };
            let sequence = way.waits.take();
            let daemon = &mut daemons[way.server];
            if let Some(sequence) = sequence.filter(|_| is_committed(&answer)) {
                if sequence == daemon.sequence {
                    outcome.latencies.push(daemon.sent.elapsed().as_secs_f64());
                }
                daemon.acknowledged += 1;
                daemon.committed = daemon.committed.max(sequence);
            } else if answer.status != 202 {
                let said = String::from_utf8_lossy(&answer.body).into_owned();
                return Err(format!("{}: {} {said}", daemon.name, answer.status).into());
            }
        }
    }
    for daemon in &daemons {
        outcome.committed += daemon.acknowledged;
        outcome.superseded += daemon.committed - daemon.acknowledged;
        outcome.lost += daemon.sequence - daemon.committed;
    }
    outcome.latencies.sort_by(f64::total_cmp);
    Ok(outcome)
}

impl Way {
    fn hear(&mut self) -> Fallible<Option<wire::Answer>> {
        let mut bytes = [0; 4_096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err("a node closed a daemon's connection".into()),
                Ok(read) => self.answers.push(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.answers.next()?)
    }
}
