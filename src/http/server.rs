//! The bounded accept loop: the listener behind each address that a program of Rakit serves.
//!
//! Called by rakit-node, once for its public and once for its cluster address, and by `rakit up` for its control room,
//! each with a [`Service`] of its own.
//! `docs/http-edge.md` says why the nodes do not use tiny_http's own `Server`, and what the edge answers at each limit.
//!
//! One thread accepts connections. Each open connection has a thread that serves it (`connection.rs`) and then takes
//! the next one. The accepting thread starts a new thread when no thread is free, up to the cap on connections. A
//! thread without work ends after `THREAD_IDLE`. Only a connection goes from one thread to another, never a request:
//! between `recv` and `writev` no thread waits for another, and no lock is taken. One exception: once in the life of a
//! connection, when its client proves that it is no stranger, the lock of the connections is taken.
//!
//! Everything is bounded by [`Limits`]. The server answers and counts what exceeds a bound; it does not queue it.
//!
//! Follows `accept(2)` (which errors are the connection's and which the machine's), `listen(2)`, `socket(7)`,
//! `shutdown(2)`; RFC 9110 section 15.6.4 and 10.2.3 (503 with Retry-After).

use super::admission::{Admission, Entry, Source};
use super::body_budget::BodyBudget;
use super::connection::{self, Context};
use super::head::HEADERS_MAX;
use super::limits::Limits;
use super::message::{Connection, DateCache, header, print, text};
use super::open::Open;
use super::service::Service;
use super::tally::{Counters, Tally};
use crate::logging::RateLimit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many connections may wait in the kernel to be accepted. The kernel lowers this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Stack of a connection's thread. docs/http-edge.md says what was measured and why this suffices.
const THREAD_STACK_BYTES: usize = 256 * 1024;
/// A thread that has had no connection for so long ends.
const THREAD_IDLE: Duration = Duration::from_secs(10);
/// The `Retry-After` of a refused client, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";
/// How many refused connections stay open for a moment, so that the client can read the answer.
const REFUSED_KEPT_MAX: usize = 32;
/// How long a refused connection stays open.
const REFUSED_KEPT: Duration = Duration::from_millis(500);
/// How many bytes of a refused client are read and dropped before it is cut off.
const REFUSED_BYTES_MAX: usize = 16 * 1024;
/// The pause after an accept that failed because something is short (memory, descriptors) and may be there again soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At most one log line per kind of error in this time.
const LOG_PAUSE: Duration = Duration::from_secs(5);
/// When the server stops: how long its accepting thread may go on to accept the connections that wait in the backlog.
const BACKLOG_GRACE: Duration = Duration::from_secs(1);
/// The pause between two looks whether the backlog is empty.
const BACKLOG_LOOK: Duration = Duration::from_micros(200);
/// After the drain: how long to wait for the threads whose connections were cut off.
const CUT_PAUSE: Duration = Duration::from_secs(1);

/// A server that listens. Dropping it stops it, with [`Limits::drain_deadline`].
#[derive(Debug)]
pub struct Server {
    shared: Arc<ServerShared>,
    local_addr: SocketAddr,
    /// Taken by the first `stop`.
    accepting: Mutex<Option<(Arc<TcpListener>, JoinHandle<()>)>>,
}

impl Server {
    /// Listens on `address` and serves it until it is stopped. The names of its threads and its lines in the log begin
    /// with `name`. Keep it to eight characters: Linux cuts a thread's name at 15, and the longest here is
    /// `NAME-accept`.
    ///
    /// # Errors
    /// What `socket(2)`, `bind(2)`, `listen(2)` and the start of a thread may return.
    ///
    /// # Panics
    /// If a limit is outside the range that [`Limits`] gives for it.
    pub fn bind(
        name: &str,
        address: SocketAddr,
        limits: Limits,
        service: Arc<dyn Service>,
    ) -> io::Result<Server> {
        assert!(limits.connections_max > 0, "a listener without connections serves nobody");
        assert!(limits.head_bytes_max >= 16, "not even GET / HTTP/1.0 would fit");
        assert!((1..=HEADERS_MAX).contains(&limits.headers_max), "headers_max is 1 to {HEADERS_MAX}");
        let listener = Arc::new(listen(address)?);
        let local_addr = listener.local_addr()?;
        let state = Connections::new(Admission::new(limits.connections_max, limits.makes_room));
        let shared = Arc::new(ServerShared {
            name: name.to_owned(),
            bodies: BodyBudget::new(limits.bodies_bytes_max),
            limits,
            service,
            tally: Tally::default(),
            stopping: AtomicBool::new(false),
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: Condvar::new(),
        });
        let door = Door::new(Arc::clone(&shared), Arc::clone(&listener));
        let thread = thread::Builder::new()
            .name(format!("{name}-accept"))
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || door.run())?;
        Ok(Server { shared, local_addr, accepting: Mutex::new(Some((listener, thread))) })
    }

    /// The address of the listener. If port 0 was asked for, it has the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Lets the accepting thread accept the connections that were made before the stop. Closing a listener resets all
    /// connections in its backlog (tcp(7), `inet_csk_listen_stop` in Linux), although their clients sent a request to a
    /// server that was up. In a flood the backlog is never empty, so the wait is bounded by [`BACKLOG_GRACE`].
    fn await_empty_backlog(&self) {
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((listener, _)) = accepting.as_ref() else { return };
        let deadline = Instant::now() + BACKLOG_GRACE;
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waits = || poll(&mut [PollFd::new(&**listener, PollFlags::IN)], Some(&at_once)) == Ok(1);
        while waits() && Instant::now() < deadline {
            thread::sleep(BACKLOG_LOOK);
        }
    }

    /// The counters since the start.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Reads the counters from elsewhere.
    pub fn counters_of(&self) -> CountersOf {
        CountersOf(Arc::downgrade(&self.shared))
    }

    /// Stops listening and closes idle connections at once. Requests in flight have the time `drain` to be answered
    /// (with `Connection: close`); then the connections that are left are cut off. Returns how many were cut off. Takes
    /// longer than `drain` by `BACKLOG_GRACE` at most before it (connections that wait to be accepted), and by
    /// `CUT_PAUSE` at most after it (threads that were cut off). A second call does no harm. A handler of this server
    /// must not call it: it would wait for itself.
    pub fn stop(&self, drain: Duration) -> usize {
        let shared = &self.shared;
        self.await_empty_backlog();
        shared.lock().stopping = true;
        shared.stopping.store(true, Ordering::SeqCst);
        shared.work.notify_all();
        shared.changed.notify_all();

        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((listener, thread)) = accepting {
            // On Linux, this ends an accept() that waits. It needs no free descriptor and no connection.
            if let Err(error) = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both) {
                log::warn!("{}: the listener did not shut down: {error}", shared.name);
            }
            if thread.join().is_err() {
                log::error!("{}: the accepting thread had panicked", shared.name);
            }
        }
        // From here on, nothing is added to the open connections.
        let mut state = shared.lock();
        state.open.values().for_each(|open| open.end_if_idle());
        state = shared.wait_until_closed(state, drain);
        let cut = state.open.len();
        if cut > 0 {
            log::warn!("{}: {cut} connections were not done after {drain:?} and are cut off", shared.name);
            state.open.values().for_each(|open| open.cut());
            drop(shared.wait_until_closed(state, CUT_PAUSE));
        }
        cut
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(self.shared.limits.drain_deadline);
    }
}

/// The counters of a [`Server`], for a service of that server or of another one. It keeps the server from nothing.
#[derive(Clone, Debug)]
pub struct CountersOf(Weak<ServerShared>);

impl CountersOf {
    /// The counters since the start; `None` if the server is gone.
    pub fn read(&self) -> Option<Counters> {
        self.0.upgrade().map(|shared| shared.counters())
    }
}

/// SO_REUSEADDR: a restarted node gets its port back although connections of its old process are still in TIME_WAIT.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What the accepting thread, the threads of the connections and the [`Server`] share.
struct ServerShared {
    name: String,
    limits: Limits,
    service: Arc<dyn Service>,
    tally: Tally,
    bodies: BodyBudget,
    /// A copy of `Connections::stopping` that threads read between requests without the lock.
    stopping: AtomicBool,
    /// Locked when a connection opens, proves itself or closes; never across I/O, never per request.
    state: Mutex<Connections>,
    /// A connection was queued for a waiting thread, or the server stops.
    work: Condvar,
    /// The server stops; or a connection has closed that was to make room, or while the server stops.
    changed: Condvar,
}

impl std::fmt::Debug for ServerShared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerShared").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Connections {
    admission: Admission,
    open: HashMap<u64, Arc<Open>>,
    /// Connections handed to waiting threads that have not woken yet.
    queue: VecDeque<(u64, Arc<Open>)>,
    /// Waiting threads for which no connection is queued. The threads that wait in `work` are
    /// `unclaimed + queue.len()`. If a thread counted as free until it *wakes*, one thread could be promised to several
    /// connections, and these would wait behind each other.
    unclaimed: usize,
    /// Threads in all.
    threads: usize,
    last_id: u64,
    stopping: bool,
}

impl Connections {
    fn new(admission: Admission) -> Connections {
        let (open, queue) = (HashMap::new(), VecDeque::new());
        Connections { admission, open, queue, unclaimed: 0, threads: 0, last_id: 0, stopping: false }
    }
}

impl ServerShared {
    fn counters(&self) -> Counters {
        let state = self.lock();
        self.tally.counters(state.open.len(), state.threads)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing that is done under the lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_closed<'a>(
        &self,
        state: MutexGuard<'a, Connections>,
        time: Duration,
    ) -> MutexGuard<'a, Connections> {
        let waited = self.changed.wait_timeout_while(state, time, |state| !state.open.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What a thread does: it serves its first connection, then others, until it has waited [`THREAD_IDLE`] for one.
    fn work(&self, first: (u64, Arc<Open>)) {
        let mut next = Some(first);
        while let Some((id, open)) = next {
            let context = Context {
                name: &self.name,
                limits: &self.limits,
                service: &*self.service,
                tally: &self.tally,
                bodies: &self.bodies,
                prove: &|| self.lock().admission.prove(id),
                stopping: &self.stopping,
            };
            // `connection.rs` catches a handler's panic itself. This catches a panic of the edge, so that the
            // connection and the thread are still counted off.
            if catch_unwind(AssertUnwindSafe(|| connection::serve(&context, &open))).is_err() {
                log::error!("{}: serving {} panicked; its connection is closed", self.name, open.peer);
            }
            self.close(id, open);
            next = self.next_connection();
        }
    }

    fn close(&self, id: u64, open: Arc<Open>) {
        let mut state = self.lock();
        let registered = state.open.remove(&id);
        let is_awaited = state.stopping || state.admission.is_crowded();
        state.admission.leave(id);
        drop(state);
        // The descriptor closes here, without the lock.
        drop((registered, open));
        if is_awaited {
            self.changed.notify_all();
        }
    }

    fn next_connection(&self) -> Option<(u64, Arc<Open>)> {
        let mut state = self.lock();
        state.unclaimed += 1;
        let idle = |state: &mut Connections| state.queue.is_empty() && !state.stopping;
        state =
            self.work.wait_timeout_while(state, THREAD_IDLE, idle).unwrap_or_else(PoisonError::into_inner).0;
        let next = state.queue.pop_front();
        if next.is_none() {
            state.unclaimed -= 1;
            state.threads -= 1;
        }
        next
    }
}

/// The accepting thread.
struct Door {
    shared: Arc<ServerShared>,
    listener: Arc<TcpListener>,
    /// A descriptor to close when no other is left. Then the next client can be accepted, answered with 503 and closed;
    /// else it would hang in the backlog. Any descriptor does: this is a second one of the listener.
    spare: Option<TcpListener>,
    turned_away: VecDeque<TurnedAway>,
    date: DateCache,
    accept_trouble: RateLimit,
    thread_trouble: RateLimit,
    full: RateLimit,
}

/// A client that was answered with 503, and has until `until` to read it.
struct TurnedAway {
    stream: TcpStream,
    until: Instant,
    drained: usize,
}

impl Door {
    fn new(shared: Arc<ServerShared>, listener: Arc<TcpListener>) -> Door {
        Door {
            shared,
            spare: listener.try_clone().ok(),
            listener,
            turned_away: VecDeque::new(),
            date: DateCache::default(),
            accept_trouble: RateLimit::new(LOG_PAUSE),
            thread_trouble: RateLimit::new(LOG_PAUSE),
            full: RateLimit::new(LOG_PAUSE),
        }
    }

    fn run(mut self) {
        while !self.shared.stopping.load(Ordering::SeqCst) {
            if !self.turned_away.is_empty() && !self.tend_turned_away() {
                continue;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                // `stop` has shut the listener down, and the loop ends.
                Err(_) if self.shared.stopping.load(Ordering::SeqCst) => {}
                Err(error) => self.accept_failed(&error),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let shared = &self.shared;
        shared.tally.accepted.add_one();
        let mut state = shared.lock();
        if state.admission.is_crowded() {
            let crowded = |state: &mut Connections| state.admission.is_crowded() && !state.stopping;
            let waited = shared.changed.wait_timeout_while(state, ACCEPT_PAUSE, crowded);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.last_id += 1;
        let id = state.last_id;
        let Connections { admission, open, .. } = &mut *state;
        let entry =
            admission.enter(id, Source::of(peer.ip()), |id| open.get(&id).is_some_and(|open| open.is_idle()));
        if entry != Entry::Free
            && let Some(held_back) = self.full.allow(Instant::now())
        {
            let (name, places) = (&shared.name, shared.limits.connections_max);
            let fate = if entry == Entry::Full { "is turned away" } else { "takes another's place" };
            log::warn!(
                "{name}: {places} connections are open, the most allowed: {peer} {fate} ({held_back} more like it)"
            );
        }
        match entry {
            Entry::Free => {}
            Entry::InsteadOf(victim) => {
                shared.tally.cut_for_room.add_one();
                state.open.get(&victim).iter().for_each(|open| open.cut());
            }
            Entry::Full => {
                drop(state);
                return self.turn_away(stream, "too many connections are open");
            }
        }
        let open = Arc::new(Open::new(stream, peer));
        state.open.insert(id, Arc::clone(&open));
        if state.unclaimed > 0 {
            state.unclaimed -= 1;
            state.queue.push_back((id, open));
            drop(state);
            shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        self.start_thread(id, open);
    }

    fn start_thread(&mut self, id: u64, open: Arc<Open>) {
        let shared = Arc::clone(&self.shared);
        let first = (id, Arc::clone(&open));
        let started = thread::Builder::new()
            .name(format!("{}-{id}", self.shared.name))
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || shared.work(first));
        let Err(error) = started else {
            return self.shared.tally.threads_started.add_one();
        };
        let mut state = self.shared.lock();
        state.threads -= 1;
        state.open.remove(&id);
        state.admission.leave(id);
        drop(state);
        if let Some(held_back) = self.thread_trouble.allow(Instant::now()) {
            let name = &self.shared.name;
            log::error!("{name}: no thread for {}: {error} ({held_back} more like it)", open.peer);
        }
        // The thread never ran, and `open` is off the list: this is the last reference.
        if let Some(open) = Arc::into_inner(open) {
            self.turn_away(open.stream, "no thread is left");
        }
    }

    /// Answers 503. It waits for nothing: the answer fits into the empty send buffer of a fresh socket.
    fn turn_away(&mut self, stream: TcpStream, line: &'static str) {
        self.tell_unavailable(&stream, line);
        if self.turned_away.len() == REFUSED_KEPT_MAX {
            self.turned_away.pop_front();
        }
        self.turned_away.push_back(TurnedAway { stream, until: Instant::now() + REFUSED_KEPT, drained: 0 });
    }

    fn tell_unavailable(&mut self, stream: &TcpStream, line: &'static str) {
        self.shared.tally.turned_away.add_one();
        let answer = text(503, line).with_header(header("Retry-After", RETRY_AFTER_SECONDS));
        let mut bytes = Vec::new();
        let body = print(answer, Connection::Close, false, &mut self.date, &mut bytes);
        bytes.extend_from_slice(&body);
        // If the client has gone, nobody needs the answer.
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }

    /// Reads and drops what refused clients send: closing a socket with unread input resets the connection, and the
    /// client might lose the answer. Closes those that have ended or had their time. Returns whether a new connection
    /// waits.
    fn tend_turned_away(&mut self) -> bool {
        let now = Instant::now();
        self.turned_away.retain_mut(|client| {
            let mut bytes = [0_u8; 1024];
            match recv(&client.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return false,
                Ok((_, received)) => client.drained += received,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
            now < client.until && client.drained < REFUSED_BYTES_MAX
        });
        let wait = self.turned_away.iter().map(|client| client.until).min();
        let wait = wait.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.min(REFUSED_KEPT).subsec_nanos().into() };
        let mut watched = vec![PollFd::new(&*self.listener, PollFlags::IN)];
        watched.extend(self.turned_away.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN)));
        // If poll failed, the calls that follow report the error.
        let _ = poll(&mut watched, Some(&wait));
        !watched[0].revents().is_empty()
    }

    fn accept_failed(&mut self, error: &io::Error) {
        self.shared.tally.accept_errors.add_one();
        if let Some(held_back) = self.accept_trouble.allow(Instant::now()) {
            log::error!("{}: accept failed: {error} ({held_back} more like it)", self.shared.name);
        }
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => self.accept_without_descriptors(),
            // accept(2): these are errors of the one connection that was next. It is gone; the listener is well.
            Some(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP,
            ) => {}
            // Memory or buffers are short, or the error is unknown. It may pass with time, but not at once.
            _ => self.pause(),
        }
    }

    /// With no descriptor left, accept() fails again and again, while clients hang in the backlog. So the server closes
    /// its spare descriptor and accepts the next client in its place.
    fn accept_without_descriptors(&mut self) {
        // Refused connections that are still open hold descriptors, too.
        self.turned_away.clear();
        if self.spare.take().is_none() {
            // There is no spare: the last time, another thread took the free descriptor first.
            self.spare = self.listener.try_clone().ok();
            if self.spare.take().is_none() {
                return self.pause();
            }
        }
        // This accept may wait: Linux reserves the descriptor before it looks whether a client is there. When a client
        // comes, other descriptors may be free again. Then it is served like any other.
        let accepted = self.listener.accept();
        self.spare = self.listener.try_clone().ok();
        match accepted {
            Ok((stream, peer)) if self.spare.is_some() => self.admit(stream, peer),
            Ok((stream, _)) => {
                self.shared.tally.accepted.add_one();
                self.tell_unavailable(&stream, "no descriptor is left");
                // Its descriptor is needed: the connection cannot stay open until the client has read the answer. Input
                // that has already come is read, so that the close is usually no reset.
                let _ = recv(&stream, &mut [0_u8; 4096][..], RecvFlags::DONTWAIT);
                drop(stream);
                self.spare = self.listener.try_clone().ok();
            }
            Err(_) => self.pause(),
        }
    }

    /// Waits [`ACCEPT_PAUSE`], or until the server stops.
    fn pause(&self) {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, ACCEPT_PAUSE, |state| !state.stopping);
        drop(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Request, Response};
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;
    use tiny_http::Method;

    /// Says when a request has come, and answers it when it is told to.
    struct Waiting {
        came: Mutex<mpsc::Sender<()>>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Service for Waiting {
        fn body_limit(&self, _: &Method, _: &str) -> Result<usize, Response> {
            Ok(0)
        }

        fn call(&self, _: Request) -> Response {
            self.came.lock().expect("sound").send(()).expect("the test waits");
            let _ = self.go_on.lock().expect("sound").recv();
            text(200, "answered")
        }
    }

    fn server() -> (Server, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (came, has_come) = mpsc::channel();
        let (let_go, go_on) = mpsc::channel();
        let service = Arc::new(Waiting { came: Mutex::new(came), go_on: Mutex::new(go_on) });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (Server::bind("test", any, Limits::default(), service).expect("a free port"), has_come, let_go)
    }

    #[test]
    fn at_a_stop_a_second_request_that_came_meanwhile_costs_the_first_no_answer() {
        let (server, has_come, let_go) = server();
        let mut client = TcpStream::connect(server.local_addr()).expect("it listens");
        let request = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(request).expect("taken");
        has_come.recv().expect("the first request");
        client.write_all(request).expect("taken");
        thread::scope(|scope| {
            let stop = scope.spawn(|| server.stop(Duration::from_secs(60)));
            while !server.shared.stopping.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let_go.send(()).expect("the service waits");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("no reset");
            let answer = String::from_utf8(answer).expect("text");
            assert!(answer.contains("Connection: close") && answer.ends_with("answered\n"), "{answer}");
            drop(client);
            assert_eq!(stop.join().expect("no panic"), 0, "none was cut off");
        });
        assert!(has_come.try_recv().is_err(), "the second one was not begun");
    }

    #[test]
    fn a_line_about_a_failed_accept_holds_no_other_kind_of_line_back() {
        let (server, _has_come, _let_go) = server();
        let listener = Arc::new(listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port"));
        let mut door = Door::new(Arc::clone(&server.shared), listener);
        for _ in 0..3 {
            door.accept_failed(&io::Error::from(Errno::CONNABORTED));
        }
        assert_eq!(door.thread_trouble.allow(Instant::now()), Some(0));
        assert_eq!(door.accept_trouble.allow(Instant::now()), None);
    }
}
