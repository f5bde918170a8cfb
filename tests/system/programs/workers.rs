//! Stand-ins for workers. They answer well, badly, late or not at all, as real workers have done.
//!
//! A stand-in knows its own number and answers `number × 1,000,000 + N` instead of a prime, so that a test sees whose
//! answer it holds. It keeps the head of every request word by word, and a test can wait until the next one has come.
//! How it behaves may be changed while it runs.
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::ports::KeptPort;
use super::{PATIENCE, eventually, http};

/// How many connections wait to be accepted at the course's worker: `socketserver.TCPServer.request_queue_size`.
const COURSE_BACKLOG: i32 = 5;

/// How many wait at any other.
const BACKLOG: i32 = 1_024;

/// A head longer than this is a test's mistake.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What a stand-in does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// HTTP/1.1, Content-Length, a newline after the digits.
    Good,
    /// HTTP/1.0, the status line sent before it computes, no Content-Length, no newline, closes.
    Course,
    /// Says 200, and dies before the first byte of the body.
    DiesHalfway,
    /// Closes the connection without an answer.
    ClosesAtOnce,
    /// Answers with this status and this body.
    Answers(u16, &'static str),
    /// Answers 503 with this `Retry-After`, in seconds.
    Busy(u32),
    /// Takes the request and answers when it is [`Worker::release`]d: paused, or just slow.
    Holds,
}

#[derive(Debug, Default)]
struct State {
    behaviour: Option<Behaviour>,
    /// The heads of all requests, word by word.
    heads: Vec<String>,
    /// Requests that were taken and are not answered: the connection and N.
    held: Vec<(TcpStream, u64)>,
    /// While set, the course's worker waits between its status line and its body.
    course_waits: bool,
    answered: usize,
    ending: bool,
}

#[derive(Debug)]
struct Shared {
    number: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running stand-in; ends when it is dropped.
#[derive(Debug)]
pub struct Worker {
    port: KeptPort,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts number `number`.
    pub fn start(number: u64, behaviour: Behaviour) -> Self {
        let mut worker = Self::refusing(number);
        worker.shared.state().behaviour = Some(behaviour);
        worker.listen();
        worker
    }

    /// A worker that answers well.
    pub fn good(number: u64) -> Self {
        Self::start(number, Behaviour::Good)
    }

    /// A worker that does not listen: its port refuses connections until [`listen`](Self::listen).
    pub fn refusing(number: u64) -> Self {
        let state = Mutex::new(State { behaviour: Some(Behaviour::Good), ..State::default() });
        let shared = Arc::new(Shared { number, state, changed: Condvar::new() });
        Self { port: KeptPort::new(), shared, listening: None }
    }

    /// Begins to listen.
    pub fn listen(&mut self) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option that every socket has");
        socket.bind(&self.address().into()).expect("a port that is kept for us");
        let course = self.shared.state().behaviour == Some(Behaviour::Course);
        socket.listen(if course { COURSE_BACKLOG } else { BACKLOG }).expect("nobody else listens");
        let (listener, shared) = (TcpListener::from(socket), Arc::clone(&self.shared));
        self.shared.state().ending = false;
        self.listening = Some(std::thread::spawn(move || accept(&listener, &shared)));
    }

    /// Stops listening: from now on, connections are refused.
    pub fn refuse(&mut self) {
        let Some(thread) = self.listening.take() else { return };
        {
            let mut state = self.shared.state();
            state.ending = true;
            state.held.clear();
            self.shared.changed.notify_all();
        }
        // Wakes up the thread that accepts.
        drop(TcpStream::connect_timeout(&self.address(), PATIENCE));
        let _ = thread.join();
        // A program that another test starts just now has our listener until its execve(2).
        eventually("connections are refused", || {
            let refused = TcpStream::connect_timeout(&self.address(), PATIENCE);
            refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
        });
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The body of its answer for N, without the newline.
    pub fn answer(&self, n: u64) -> String {
        prime(self.shared.number, n)
    }

    /// Changes its behaviour for all further requests.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.state().behaviour = Some(behaviour);
    }

    /// How many requests have come so far.
    pub fn requests(&self) -> usize {
        self.shared.state().heads.len()
    }

    /// How many whole answers it gave.
    pub fn answered(&self) -> usize {
        self.shared.state().answered
    }

    /// The heads of all requests so far, word by word.
    pub fn heads(&self) -> Vec<String> {
        self.shared.state().heads.clone()
    }

    /// Waits until so many requests have come since it started.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        self.wait(&format!("{count} requests"), |state| state.heads.len() >= count);
    }

    /// Waits until it holds `count` requests.
    #[track_caller]
    pub fn wait_for_held(&self, count: usize) {
        self.wait(&format!("{count} requests held"), |state| state.held.len() >= count);
    }

    /// How many requests it holds.
    pub fn held(&self) -> usize {
        self.shared.state().held.len()
    }

    /// Answers all requests that it holds, as a good worker would. Returns how many.
    pub fn release(&self) -> usize {
        let held = std::mem::take(&mut self.shared.state().held);
        let count = held.len();
        for (mut stream, n) in held {
            // The client may have gone.
            let _ = stream.write_all(&good_answer(self.shared.number, n));
            self.shared.state().answered += 1;
        }
        count
    }

    /// The course's worker waits after its status line, or goes on.
    pub fn course_waits(&self, waits: bool) {
        self.shared.state().course_waits = waits;
        self.shared.changed.notify_all();
    }

    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        while !wanted(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "worker {}: waited in vain for {what}", self.shared.number);
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn prime(number: u64, n: u64) -> String {
    (number * 1_000_000 + n).to_string()
}

fn good_answer(number: u64, n: u64) -> Vec<u8> {
    let body = prime(number, n) + "\n";
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let behaviour = {
            let state = shared.state();
            if state.ending {
                return;
            }
            state.behaviour.clone().expect("set at the start")
        };
        if behaviour == Behaviour::Course {
            serve(stream, &behaviour, shared); // One at a time.
        } else {
            let shared = Arc::clone(shared);
            std::thread::spawn(move || serve(stream, &behaviour, &shared));
        }
    }
}

/// One request; the connection is closed afterwards, unless it is held.
fn serve(mut stream: TcpStream, behaviour: &Behaviour, shared: &Shared) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Some(head) = read_head(&mut stream) else { return };
    let path = head.split(' ').nth(1).unwrap_or("").to_owned();
    let n = path.trim_start_matches('/').parse().unwrap_or(0);
    {
        let mut state = shared.state();
        state.heads.push(head);
        if *behaviour == Behaviour::Holds {
            state.held.extend(stream.try_clone().ok().map(|stream| (stream, n)));
        }
        shared.changed.notify_all();
    }
    let _ = match behaviour {
        Behaviour::Good => stream.write_all(&good_answer(shared.number, n)),
        Behaviour::Course => {
            // Python's BaseHTTPRequestHandler, as the course's worker uses it.
            let head = "HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\n\
                        Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-type: text/html\r\n\r\n";
            let begun = stream.write_all(head.as_bytes());
            wait_while_told(shared);
            begun.and_then(|()| stream.write_all(prime(shared.number, n).as_bytes()))
        }
        Behaviour::DiesHalfway => stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n"),
        Behaviour::ClosesAtOnce => Ok(()),
        Behaviour::Answers(status, body) => stream.write_all(
            format!(
                "HTTP/1.1 {status} As Told\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        ),
        Behaviour::Busy(seconds) => stream.write_all(
            format!("HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\nContent-Length: 5\r\n\r\nbusy\n")
                .as_bytes(),
        ),
        Behaviour::Holds => return,
    };
    shared.state().answered += 1;
    shared.changed.notify_all();
    let _ = stream.shutdown(Shutdown::Write);
}

fn wait_while_told(shared: &Shared) {
    let mut state = shared.state();
    while state.course_waits && !state.ending {
        let waited = shared.changed.wait_timeout(state, Duration::from_secs(1));
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") && seen.len() < HEAD_BYTES_MAX {
        match http::read_some(stream, &mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&seen).into_owned())
}
