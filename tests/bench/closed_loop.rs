//! Clients that each wait for the answer before they send the next request: how many are answered a second, and how late. One
//! thread with epoll(7) plays all clients, so that the loader costs both systems the same and little.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::poll::Poll;
use crate::statistics::quantile;
use crate::wire::{self, Answers, PATIENCE};

/// What one client says and hears on its connection.
pub trait Dialogue {
    /// The bytes that open the connection, before any request; none for HTTP/1.1.
    fn greeting(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// The next request.
    fn request(&mut self) -> Vec<u8>;

    /// Takes what came, and puts into `reply` what has to be sent at once. Whether the answer to the request is whole.
    ///
    /// # Errors
    /// When it is another answer than success.
    fn hear(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Fallible<bool>;
}

/// A client that asks one path after the other, and is content with status 200.
pub struct Gets<P> {
    paths: P,
    answers: Answers,
}

impl<P: Iterator<Item = String>> Gets<P> {
    /// `paths` has no end.
    pub fn new(paths: P) -> Self {
        Self { paths, answers: Answers::default() }
    }
}

impl<P: Iterator<Item = String>> Dialogue for Gets<P> {
    fn request(&mut self) -> Vec<u8> {
        wire::get(&self.paths.next().expect("paths without end"))
    }

    fn hear(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Fallible<bool> {
        self.answers.push(bytes);
        match self.answers.next()? {
            Some(answer) if answer.status == 200 => Ok(true),
            Some(answer) => {
                Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)).into())
            }
            None => Ok(false),
        }
    }
}

/// What a run measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Sorted, in seconds.
    pub latencies: Vec<f64>,
    pub seconds: f64,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// In milliseconds.
    pub fn quantile_ms(&self, part: f64) -> f64 {
        quantile(&self.latencies, part).unwrap_or(f64::NAN) * 1e3
    }
}

/// When a run ends: no request is sent after it, and those under way are awaited.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    After(Duration),
    Requests(usize),
}

struct Client<D> {
    dialogue: D,
    stream: TcpStream,
    sent: Instant,
}

/// Runs all dialogues, each against its address.
///
/// # Errors
/// When an answer is no success, or none comes.
pub fn run<D: Dialogue>(dialogues: Vec<(SocketAddr, D)>, until: Until) -> Fallible<Outcome> {
    let poll = Poll::new()?;
    let mut clients = BTreeMap::new();
    for (token, (address, mut dialogue)) in dialogues.into_iter().enumerate() {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.write_all(&dialogue.greeting())?;
        stream.set_nonblocking(true)?;
        let token = token as u64;
        poll.add(&stream, token)?;
        clients.insert(token, Client { dialogue, stream, sent: Instant::now() });
    }
    let started = Instant::now();
    let (mut outcome, mut sent, mut open) = (Outcome::default(), 0, 0_usize);
    let goes_on = |sent: usize| match until {
        Until::After(time) => started.elapsed() < time,
        Until::Requests(count) => sent < count,
    };
    for client in clients.values_mut() {
        if goes_on(sent) {
            client.send()?;
            (sent, open) = (sent + 1, open + 1);
        }
    }
    let mut heard = Instant::now();
    while open > 0 {
        for token in poll.wait(Duration::from_secs(1))? {
            heard = Instant::now();
            let Some(client) = clients.get_mut(&token) else { continue };
            if !client.hear()? {
                continue;
            }
            outcome.latencies.push(client.sent.elapsed().as_secs_f64());
            if goes_on(sent) {
                client.send()?;
                sent += 1;
            } else {
                open -= 1;
            }
        }
        if heard.elapsed() > PATIENCE {
            return Err(format!("no answer came for {PATIENCE:?}").into());
        }
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.latencies.sort_by(f64::total_cmp);
    Ok(outcome)
}

impl<D: Dialogue> Client<D> {
    fn send(&mut self) -> Fallible {
        let request = self.dialogue.request();
        self.sent = Instant::now();
        // A few hundred bytes on a connection with nothing under way: the kernel takes them whole.
        self.stream.write_all(&request)?;
        Ok(())
    }

    fn hear(&mut self) -> Fallible<bool> {
        let (mut bytes, mut whole) = ([0; 16 * 1024], false);
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err("the connection was closed before an answer came".into()),
                Ok(read) => {
                    let mut reply = Vec::new();
                    whole |= self.dialogue.hear(&bytes[..read], &mut reply)?;
                    self.stream.write_all(&reply)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(whole),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
