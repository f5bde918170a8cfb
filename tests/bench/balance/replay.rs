//! The clients: one thread with epoll(7) sends each request at its moment, whether or not the earlier ones are answered, and notes how
//! long each took.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::workload::Arrival;
use crate::Fallible;
use crate::poll::Poll;
use crate::wire::{self, Answers};

/// A client asks so often before it gives up, each time at the next node.
const ATTEMPTS_MAX: usize = 5;

/// After the last request has been sent, all answers come within this time, or never.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// N, and seconds from the moment when it was to be sent to the whole answer.
    pub answered: Vec<(u64, f64)>,
    /// Seconds from the first moment to the last answer.
    pub makespan: f64,
    /// Requests that no attempt brought an answer.
    pub failed: usize,
}

struct Asking {
    request: usize,
    attempt: usize,
    target: usize,
    stream: TcpStream,
    answers: Answers,
}

struct Replay<'a> {
    poll: Poll,
    targets: &'a [SocketAddr],
    arrivals: &'a [Arrival],
    begin: Instant,
    next_token: u64,
    asking: BTreeMap<u64, Asking>,
    /// Connections without a request, by target.
    idle: Vec<Vec<(u64, TcpStream)>>,
    outcome: Outcome,
}

/// Sends all requests from `begin` on, to the targets in turn. Each target keeps the connections that it offers to keep.
///
/// # Errors
/// When the system gives no sockets, or requests never end.
pub fn replay(targets: &[SocketAddr], arrivals: &[Arrival], begin: Instant) -> Fallible<Outcome> {
    let mut replay = Replay {
        poll: Poll::new()?,
        targets,
        arrivals,
        begin,
        next_token: 0,
        asking: BTreeMap::new(),
        idle: targets.iter().map(|_| Vec::new()).collect(),
        outcome: Outcome::default(),
    };
    let last = arrivals.last().map_or(0.0, |arrival| arrival.at);
    let deadline = begin + Duration::from_secs_f64(last) + PATIENCE;
    let mut next = 0;
    while next < arrivals.len() || !replay.asking.is_empty() {
        let now = Instant::now();
        let due = |arrival: &Arrival| begin + Duration::from_secs_f64(arrival.at);
        let wait = match arrivals.get(next) {
            Some(arrival) if due(arrival) <= now => {
                replay.ask(next, 0, next % targets.len())?;
                next += 1;
                continue;
            }
            Some(arrival) => due(arrival) - now,
            None => deadline.checked_duration_since(now).ok_or("requests are never answered")?,
        };
        for token in replay.poll.wait(wait)? {
            replay.ready(token)?;
        }
    }
    Ok(replay.outcome)
}

impl Replay<'_> {
    /// Sends a request to a target, or to the next one if that takes no connection.
    fn ask(&mut self, request: usize, mut attempt: usize, mut target: usize) -> Fallible {
        let bytes = wire::get(&format!("/{}", self.arrivals[request].n));
        while attempt < ATTEMPTS_MAX {
            let kept = self.idle[target].pop();
            let connected = match kept {
                Some(kept) => Some(kept),
                None => self.connect(target)?,
            };
            if let Some((token, mut stream)) = connected
                && stream.write_all(&bytes).is_ok()
            {
                let asking = Asking { request, attempt, target, stream, answers: Answers::default() };
                self.asking.insert(token, asking);
                return Ok(());
            }
            attempt += 1;
            target = (target + 1) % self.targets.len();
        }
        self.outcome.failed += 1;
        Ok(())
    }

    fn connect(&mut self, target: usize) -> Fallible<Option<(u64, TcpStream)>> {
        // On loopback: taken or refused at once.
        let Ok(stream) = TcpStream::connect(self.targets[target]) else { return Ok(None) };
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.next_token += 1;
        self.poll.add(&stream, self.next_token)?;
        Ok(Some((self.next_token, stream)))
    }

    fn ready(&mut self, token: u64) -> Fallible {
        let Some(mut asking) = self.asking.remove(&token) else {
            // A kept connection that the other side closed.
            self.idle.iter_mut().for_each(|idle| idle.retain(|(kept, _)| *kept != token));
            return Ok(());
        };
        let mut bytes = [0; 4_096];
        let alive = loop {
            match asking.stream.read(&mut bytes) {
                Ok(0) => break false,
                Ok(read) => asking.answers.push(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(_) => break false,
            }
        };
        let (request, attempt, target) = (asking.request, asking.attempt, asking.target);
        match asking.answers.next()? {
            Some(answer) if answer.status == 200 => {
                let (now, arrival) = (self.begin.elapsed().as_secs_f64(), self.arrivals[request]);
                self.outcome.answered.push((arrival.n, now - arrival.at));
                self.outcome.makespan = now;
                if alive && !answer.closes {
                    self.idle[target].push((token, asking.stream));
                }
            }
            None if alive => {
                self.asking.insert(token, asking);
            }
            _ => self.ask(request, attempt + 1, (target + 1) % self.targets.len())?,
        }
        Ok(())
    }
}
