//! Servers that only calculate how long they would compute, behind real sockets: workers that speak HTTP/1.1 and keep
//! connections, and a daemon beside each. One thread with epoll(7) and timers runs all servers of one system, so that a hundred busy
//! cores cost this machine almost nothing. The balancers in front of them see no difference.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::server::Server;
use super::workload::{Event, FOREIGN_SECONDS, JITTER, SLOWED, Setting, work_of};
use crate::Fallible;
use crate::poll::Poll;
use crate::random::Random;
use crate::wire;

/// The first server's worker listens here, the next one's on the next port; and so do the agents for HAProxy.
const WORKER_PORT: u16 = 13_000;
const AGENT_PORT: u16 = 14_000;

/// The thread looks at least this often whether the round has begun or ended.
const LOOK_SECONDS: f64 = 0.02;

/// The epoch of all reports: an arbitrary moment.
const EPOCH: u64 = 1_795_000_000_000;

/// The running servers of one system. They end when it is dropped.
#[derive(Debug)]
pub struct Farm {
    pub workers: Vec<SocketAddr>,
    /// Each tells HAProxy's agent-check what part of the server was idle at its last report.
    pub agents: Vec<SocketAddr>,
    begin: Arc<OnceLock<Instant>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Fallible>>,
}

impl Farm {
    /// Starts all servers of a setting. They report at once, and the foreign load waits for [`begin`](Self::begin).
    ///
    /// # Errors
    /// When the addresses are taken.
    pub fn start(setting: &Setting, seconds: f64, ip: IpAddr, nodes: Vec<SocketAddr>) -> Fallible<Self> {
        let mut work = Work::new(setting, seconds, nodes)?;
        let (mut workers, mut agents) = (Vec::new(), Vec::new());
        for number in 0..setting.servers {
            let offset = u16::try_from(number)?;
            let worker = SocketAddr::new(ip, WORKER_PORT + offset);
            let agent = SocketAddr::new(ip, AGENT_PORT + offset);
            work.listen(worker, Socket::Worker(number))?;
            work.listen(agent, Socket::Agent(number))?;
            workers.push(worker);
            agents.push(agent);
        }
        work.workers.clone_from(&workers);
        let (begin, over) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (began, ended) = (Arc::clone(&begin), Arc::clone(&over));
        let thread = std::thread::spawn(move || work.run(&began, &ended));
        Ok(Self { workers, agents, begin, over, thread: Some(thread) })
    }

    /// The moment from which the foreign load and the event count.
    pub fn begin(&self, at: Instant) {
        self.begin.get_or_init(|| at);
    }

    /// Ends the servers.
    ///
    /// # Errors
    /// What went wrong in their thread.
    pub fn end(mut self) -> Fallible {
        self.over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it is taken here and in drop alone");
        thread.join().map_err(|_| "the simulated servers failed")?
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a descriptor belongs to.
enum Socket {
    /// Where a server's worker listens.
    Worker(usize),
    /// Where HAProxy asks for a server's load.
    Agent(usize),
    /// A connection to a worker.
    Client(Client),
    /// A daemon's connection to a node.
    Node { server: usize, node: usize },
}

struct Client {
    server: usize,
    stream: TcpStream,
    received: Vec<u8>,
    /// The N that is computed for it.
    computing: Option<u64>,
    /// It asked to be closed after the answer.
    closes: bool,
}

/// A daemon's connection to one node.
#[derive(Default)]
struct Way {
    stream: Option<(u64, TcpStream)>,
    /// A report is under way: the node gets the next one.
    waits: bool,
}

struct Work {
    poll: Poll,
    sockets: BTreeMap<u64, Socket>,
    listeners: BTreeMap<u64, TcpListener>,
    next_token: u64,
    servers: Vec<Server<u64>>,
    workers: Vec<SocketAddr>,
    /// Percent, as last reported.
    loads: Vec<f64>,
    next_reports: Vec<f64>,
    nodes: Vec<SocketAddr>,
    ways: Vec<Vec<Way>>,
    sequence: u64,
    interval: f64,
    event: Event,
    /// Seconds from the beginning to the event.
    middle: f64,
    started: Instant,
    random: Random,
}

impl Work {
    fn new(setting: &Setting, seconds: f64, nodes: Vec<SocketAddr>) -> Fallible<Self> {
        let servers: Vec<Server<u64>> = setting.specs().into_iter().map(Server::new).collect();
        let interval = setting.report_interval_ms as f64 / 1e3;
        let mut random = Random::new(setting.servers as u64);
        let ways = |_| nodes.iter().map(|_| Way::default()).collect();
        Ok(Self {
            poll: Poll::new()?,
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next_token: 0,
            workers: Vec::new(),
            loads: vec![0.0; servers.len()],
            // Real daemons do not report at the same moment.
            next_reports: servers.iter().map(|_| random.uniform() * interval).collect(),
            ways: (0..servers.len()).map(ways).collect(),
            servers,
            nodes,
            sequence: 0,
            interval,
            event: setting.event,
            middle: seconds / 2.0,
            started: Instant::now(),
            random,
        })
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn listen(&mut self, address: SocketAddr, socket: Socket) -> Fallible {
        let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
        listener.set_nonblocking(true)?;
        let token = self.token();
        self.poll.add(&listener, token)?;
        self.sockets.insert(token, socket);
        self.listeners.insert(token, listener);
        Ok(())
    }

    fn run(mut self, begin: &OnceLock<Instant>, over: &AtomicBool) -> Fallible {
        let mut toggles = 0.0;
        let mut slowed = false;
        while !over.load(Ordering::SeqCst) {
            let now = self.started.elapsed().as_secs_f64();
            let begun = begin.get().map(|at| at.saturating_duration_since(self.started).as_secs_f64());
            self.advance(now);
            if let Some(begun) = begun {
                if now >= begun + (toggles + 1.0) * FOREIGN_SECONDS {
                    toggles += 1.0;
                    for server in &mut self.servers {
                        server.disturbed = !server.disturbed;
                    }
                }
                if self.event == Event::ServerSlows && !slowed && now >= begun + self.middle {
                    slowed = true;
                    self.servers[0].spec.speed *= SLOWED;
                }
            }
            for number in 0..self.servers.len() {
                if now >= self.next_reports[number] {
                    self.report(number);
                    let jitter = 1.0 + JITTER * (2.0 * self.random.uniform() - 1.0);
                    self.next_reports[number] = now + self.interval * jitter;
                }
            }
            let ends = self.servers.iter().filter_map(Server::next_end);
            let next = ends.chain(self.next_reports.iter().copied()).fold(now + LOOK_SECONDS, f64::min);
            let rest = next - self.started.elapsed().as_secs_f64();
            for token in self.poll.wait(Duration::from_secs_f64(rest.max(0.0)))? {
                self.ready(token)?;
            }
        }
        Ok(())
    }

    /// Lets the servers compute until now, and answers what is done.
    fn advance(&mut self, now: f64) {
        for number in 0..self.servers.len() {
            for token in self.servers[number].advance(now) {
                self.answer(token);
            }
        }
    }

    fn answer(&mut self, token: u64) {
        let Some(Socket::Client(client)) = self.sockets.get_mut(&token) else { return };
        let Some(n) = client.computing.take() else { return };
        let body = format!("{n}\n");
        let offer = if client.closes {
            "Connection: close"
        } else {
            "Connection: keep-alive\r\nKeep-Alive: timeout=60"
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{offer}\r\n\r\n{body}",
            body.len()
        );
        // A few hundred bytes on a connection with nothing under way: the kernel takes them whole.
        let sent = client.stream.write_all(answer.as_bytes());
        if sent.is_err() || client.closes {
            self.sockets.remove(&token);
        }
    }

    fn ready(&mut self, token: u64) -> Fallible {
        match self.sockets.get_mut(&token) {
            Some(Socket::Worker(server)) => {
                let server = *server;
                while let Some(stream) = self.accept(token)? {
                    let token = self.token();
                    self.poll.add(&stream, token)?;
                    let client =
                        Client { server, stream, received: Vec::new(), computing: None, closes: false };
                    self.sockets.insert(token, Socket::Client(client));
                }
            }
            Some(Socket::Agent(server)) => {
                // At least 1: at 0 % HAProxy sends nothing more.
                let idle = (100.0 - self.loads[*server]).round().max(1.0);
                while let Some(mut stream) = self.accept(token)? {
                    let _ = stream.write_all(format!("{idle}%\n").as_bytes());
                }
            }
            Some(Socket::Client(_)) => self.hear_client(token),
            Some(Socket::Node { server, node }) => {
                let (server, node) = (*server, *node);
                let way = &mut self.ways[server][node];
                let alive = way.stream.as_mut().is_some_and(|(_, stream)| drain(stream));
                way.waits = false;
                if !alive {
                    way.stream = None;
                    self.sockets.remove(&token);
                }
            }
            None => {}
        }
        Ok(())
    }

    fn accept(&mut self, token: u64) -> Fallible<Option<TcpStream>> {
        match self.listeners[&token].accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Some(stream))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A request, or the end of a connection: then nobody wants its answer any more.
    fn hear_client(&mut self, token: u64) {
        let now = self.started.elapsed().as_secs_f64();
        let Some(Socket::Client(client)) = self.sockets.get_mut(&token) else { return };
        let server = client.server;
        let mut bytes = [0; 4_096];
        let alive = loop {
            match client.stream.read(&mut bytes) {
                Ok(0) => break false,
                Ok(read) => client.received.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(_) => break false,
            }
        };
        if !alive {
            self.servers[server].abandon(token);
            self.sockets.remove(&token);
            return;
        }
        if client.computing.is_some() || !client.received.ends_with(b"\r\n\r\n") {
            return;
        }
        let head = String::from_utf8_lossy(&client.received).to_ascii_lowercase();
        client.received.clear();
        client.closes = head.contains("\r\nconnection: close\r\n");
        let n =
            head.split(' ').nth(1).and_then(|path| path.trim_start_matches('/').parse().ok()).unwrap_or(1);
        client.computing = Some(n);
        // Others of this server may have ended before this one came.
        for done in self.servers[server].advance(now) {
            self.answer(done);
        }
        self.servers[server].add(token, work_of(n));
    }

    /// The daemon of this server measures, and tells all nodes.
    fn report(&mut self, server: usize) {
        let cpu = self.servers[server].look_at_load();
        self.loads[server] = cpu;
        self.sequence += 1;
        let (worker, cores, sequence) =
            (self.workers[server], self.servers[server].spec.cores, self.sequence);
        let body = format!(
            "{{\"server\":\"server-{}\",\"worker\":\"{worker}\",\"cpu\":{cpu:.1},\"cores\":{cores},\"epoch\":{EPOCH},\
             \"sequence\":{sequence},\"worker_up\":true,\"forward\":false}}",
            server + 1
        );
        let request = wire::post("/report", &body);
        for node in 0..self.nodes.len() {
            if self.ways[server][node].waits {
                continue;
            }
            if self.ways[server][node].stream.is_none() {
                // On loopback: taken or refused at once.
                let Ok(stream) = TcpStream::connect(self.nodes[node]) else { continue };
                let token = self.token();
                let set_up = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
                if set_up.is_err() || self.poll.add(&stream, token).is_err() {
                    continue;
                }
                self.sockets.insert(token, Socket::Node { server, node });
                self.ways[server][node].stream = Some((token, stream));
            }
            let way = &mut self.ways[server][node];
            if let Some((token, stream)) = &mut way.stream {
                way.waits = stream.write_all(&request).is_ok();
                if !way.waits {
                    self.sockets.remove(token);
                    way.stream = None;
                }
            }
        }
    }
}

/// Reads what has come; whether the connection still lives.
fn drain(stream: &mut (impl Read + AsFd)) -> bool {
    let mut bytes = [0; 4_096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
