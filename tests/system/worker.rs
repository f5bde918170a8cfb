//! Tests of `worker.py` from outside: the real program on a free port of the loopback, over plain sockets. Its own head and
//! docs/protocol.md say what it must do.
//!
//! Nothing here sleeps: a test waits for a byte, a log line, an exit, or the end of the program's standard
//! error, which comes only when the last process that holds it (each that computes does) is gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::programs::ports::KeptPort;
use crate::programs::within;

/// How long anything that must happen may take. Generous: the machine may be busy with other tests.
const EVENTUALLY: Duration = Duration::from_secs(120);

/// An N that keeps a process busy for longer than a test needs: half a minute of a core.
const ENDLESS_N: u64 = 1_000_000_000_000;

/// The end of a worker and all its processes: generous, and yet too short for a process to end only because it has
/// come to the end of `ENDLESS_N`.
const AT_ONCE: Duration = Duration::from_secs(12);

/// One running worker and its log. The worker ends with the test.
struct Worker {
    process: Child,
    address: SocketAddr,
    log: Receiver<String>,
}

impl Worker {
    fn start(arguments: &[&str]) -> Worker {
        let mut command = Command::new("python3");
        command
            .arg(script())
            .args(["--bind", "127.0.0.1", "--port", "0", "--log-level", "debug"])
            .args(arguments);
        Worker::start_command(command)
    }

    fn start_command(mut command: Command) -> Worker {
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 is installed");
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in stderr.lines() {
                // Nobody listening any more is the end of the test.
                if sender.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut first_line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first_line).unwrap();
        let address = first_line
            .strip_prefix("worker listening on ")
            .unwrap_or_else(|| panic!("unexpected first line {first_line:?}"))
            .trim_end()
            .parse()
            .unwrap();
        Worker { process, address, log }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(EVENTUALLY)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    fn get(&self, path: &str) -> Answer {
        let mut client = self.connect();
        client.send_get(path);
        client.answer()
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// The process that forks those that compute: the worker's only child.
    fn fork_server(&self) -> u32 {
        let all = children(self.pid());
        assert_eq!(all.len(), 1, "children of the worker: {all:?}");
        all[0]
    }

    /// Waits for a log line that contains `what`, and returns it.
    fn wait_for_log(&self, what: &str) -> String {
        let end = Instant::now() + EVENTUALLY;
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return line,
                Ok(_) => {}
                Err(error) => panic!("no log line with {what:?}: {error}"),
            }
        }
    }

    /// Sends a GET for `n` and returns when a process computes it: the client and that process.
    fn start_computing(&self, n: u64) -> (Client, u32) {
        let mut client = self.connect();
        client.send_get(&format!("/{n}"));
        let line = self.wait_for_log(&format!("computes n={n}"));
        let pid =
            line.split("process ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        (client, pid)
    }

    /// Waits until the worker and all its processes are gone: the log's pipe has then no writer left.
    /// Returns the exit status and the rest of the log.
    fn wait_for_end(&mut self) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + AT_ONCE;
        let mut lines = Vec::new();
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("some process of the worker is still there: {lines:?}")
                }
            }
        }
        (self.process.wait().unwrap(), lines)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its processes follow by themselves: `killed_outright_it_leaves_no_process_behind` shows it.
        let _gone_already = self.process.kill();
        let _status = self.process.wait();
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn send_get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n").as_bytes());
    }

    /// Reads one answer: the head, and a body of exactly Content-Length bytes.
    fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    fn answer_to(&mut self, method: &str) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            self.stream.read_line(&mut head).unwrap();
            assert!(head.len() > before, "closed in the middle of a head: {head:?}");
        }
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length: usize =
            answer.header("content-length").expect("every answer says its length").parse().unwrap();
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        if method != "HEAD" {
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).unwrap();
            answer.body = String::from_utf8(body).unwrap();
        }
        answer
    }

    /// Waits for the server's end of file (or its reset) and asserts that nothing else came before it.
    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}"),
        }
        assert!(rest.is_empty(), "unexpected bytes: {:?}", String::from_utf8_lossy(&rest));
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("worker.py")
}

fn send_signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Waits until a process has ended, also if it is no child of this one: pidfd_open(2).
fn wait_for_exit(pid: u32) {
    let Ok(pidfd) = pidfd_open(Pid::from_raw(pid.try_into().unwrap()).unwrap(), PidfdFlags::empty()) else {
        return; // it has ended and its parent knows
    };
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let patience = Timespec::try_from(AT_ONCE).unwrap();
    assert_eq!(poll(&mut ended, Some(&patience)).unwrap(), 1, "process {pid} is still there");
}

/// The live children of a process, as the daemon finds them: by the parent's pid in /proc/PID/stat.
fn children(parent: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        // A process may end between the listing and the reading.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (name) state ppid": the name may hold spaces and brackets, hence from the right.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

/// How far a process gives way to others: nice(2), from proc_pid_stat(5).
fn nice(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// The greatest memory that a process has had, in KiB: VmHWM of proc_pid_status(5).
fn memory_peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs the program to its end: for wrong usage and the like.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new("python3").arg(script()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn sieve(limit: usize) -> Vec<usize> {
    let mut composite = vec![false; limit + 1];
    let mut primes = Vec::new();
    for n in 2..=limit {
        if !composite[n] {
            primes.push(n);
            for multiple in (n * n..=limit).step_by(n) {
                composite[multiple] = true;
            }
        }
    }
    primes
}

// ---- primes ----

#[test]
fn the_first_thousand_primes_are_those_of_trial_division() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    let is_prime = |n: u32| (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    for (index, prime) in (2..).filter(|&n| is_prime(n)).take(1000).enumerate() {
        client.send_get(&format!("/{}", index + 1));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body), (200, format!("{prime}\n")), "p({})", index + 1);
    }
}

#[test]
fn known_primes_far_out() {
    let worker = Worker::start(&[]);
    for (n, prime) in [
        // Up to 100,000 the worker looks up; from there on it counts.
        (99_999, 1_299_689_u64),
        (100_000, 1_299_709),
        (100_001, 1_299_721),
        (1_000_000, 15_485_863),
        (10_000_000, 179_424_673),
        (100_000_000, 2_038_074_743),
        (1_000_000_000, 22_801_763_489),
    ] {
        let answer = worker.get(&format!("/{n}"));
        assert_eq!((answer.status, answer.body), (200, format!("{prime}\n")), "p({n})");
    }
}

/// Counting has many branches (the cube root, the fourth root, the ends of segments): a scan over the range
/// where a sieve can still check it, in steps that share no factor with any of them.
#[test]
fn counted_primes_are_those_of_a_sieve() {
    let primes = sieve(20_000_000);
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    for n in (100_001..primes.len()).step_by(11_987) {
        client.send_get(&format!("/{n}"));
        assert_eq!(client.answer().body, format!("{}\n", primes[n - 1]), "p({n})");
    }
}

#[test]
fn memory_does_not_grow_with_n() {
    let peak_kib = |n: u64| -> u64 {
        let program = format!(
            "import resource, worker; print(worker.nth_prime({n}), \
             resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        );
        let output = Command::new("python3")
            .args(["-B", "-c", &program])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        words.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (small, big) = (peak_kib(1_000_000), peak_kib(10_000_000_000));
    // A list of the primes so far would be 40 GB; what grows is the sieve up to the square root.
    assert!(big < small + 16 * 1024, "{small} KiB, then {big} KiB");
}

/// The worker's only child is the fork server, and each computation is a child of the fork server: the daemon, which
/// measures the worker with its descendants, sees all of them.
#[test]
fn several_requests_at_once_use_several_processes() {
    let worker = Worker::start(&["--processes", "4"]);
    let (_clients, mut busy): (Vec<_>, Vec<_>) =
        (0..3).map(|i| worker.start_computing(ENDLESS_N - i)).unzip();
    let all = children(worker.fork_server());
    assert!(busy.iter().all(|pid| all.contains(pid)), "{busy:?} of {all:?}");
    busy.sort_unstable();
    busy.dedup();
    assert_eq!(busy.len(), 3, "{busy:?}");
}

/// A small N finds a process that was forked before it came, and leaves it to the next. A process cannot raise its own
/// priority again, so the one that computed a big N is replaced.
#[test]
fn a_process_computes_one_small_n_after_the_other_and_ends_after_a_big_one() {
    let worker = Worker::start(&["--processes", "1"]);
    let pid_of = |n| {
        let (mut client, pid) = worker.start_computing(n);
        assert_eq!(client.answer().status, 200);
        pid
    };
    // It may have been started with less than the usual priority itself; 19 is the lowest.
    let (of_worker, nice_max) = (nice(worker.pid()), 19);
    let gives_way_by = |more: i32| (of_worker + more).min(nice_max);
    let first = pid_of(1_000_000);
    assert_eq!(nice(first), gives_way_by(5));
    assert_eq!(pid_of(100_000_000), first);
    assert_eq!(pid_of(100_000_001), first);
    wait_for_exit(first);
    let second = pid_of(1_000_000);
    assert_ne!(second, first);
    assert_eq!(nice(second), gives_way_by(5));
    let (_client, computing) = worker.start_computing(ENDLESS_N);
    assert_eq!((computing, nice(computing)), (second, gives_way_by(10)));
}

#[test]
fn a_process_that_is_killed_while_it_waits_is_replaced() {
    let worker = Worker::start(&["--processes", "1"]);
    let (mut client, pid) = worker.start_computing(1_000_000);
    assert_eq!(client.answer().body, "15485863\n");
    send_signal(pid, Signal::KILL);
    wait_for_exit(pid);
    assert_eq!(worker.get("/1000000").body, "15485863\n");
}

// ---- who computes and who waits ----

#[test]
fn big_computations_leave_places_for_a_small_one() {
    let worker = Worker::start(&["--processes", "4"]);
    let _running: Vec<_> = (0..3).map(|_| worker.start_computing(ENDLESS_N)).collect();
    let mut waiting = worker.connect();
    waiting.send_get(&format!("/{ENDLESS_N}"));
    worker.wait_for_log("n=1000000000000 waits for a place");
    assert_eq!(worker.get("/1000000").body, "15485863\n");
    // The process that was free was for the small one: the big one still waits.
    assert!(worker.wait_for_log(" computes ").ends_with("n=1000000"));
}

#[test]
fn of_those_that_wait_the_smallest_is_next() {
    let worker = Worker::start(&["--processes", "1"]);
    let (running, _pid) = worker.start_computing(ENDLESS_N);
    let mut waiting = Vec::new();
    for n in [ENDLESS_N - 1, 1_000_000, 1_000_000_000] {
        let mut client = worker.connect();
        client.send_get(&format!("/{n}"));
        worker.wait_for_log(&format!("n={n} waits for a place"));
        waiting.push(client);
    }
    drop(running);
    for n in ["n=1000000", "n=1000000000", "n=999999999999"] {
        assert!(worker.wait_for_log(" computes ").ends_with(n));
    }
}

// ---- HTTP ----

#[test]
fn a_bad_n_is_refused_with_one_line_that_says_what_n_must_be() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    let huge = format!("/{}", "9".repeat(7000));
    for path in [
        "/0",
        "/-1",
        "/abc",
        "/1.5",
        "/1000000000001",
        "/99999999999999999999",
        "/+5",
        "/5a",
        "/%35",
        "/00",
        &huge,
    ] {
        client.send_get(path);
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.body, "N must be a whole number from 1 to 1000000000000, in decimal digits\n");
    }
    // The connection still works.
    client.send_get("/5");
    assert_eq!(client.answer().body, "11\n");
}

#[test]
fn other_paths_and_methods() {
    let worker = Worker::start(&[]);
    for path in ["/", "/5/6", "//5", "/a/b"] {
        assert_eq!(worker.get(path).status, 404, "{path}");
    }
    assert_eq!(worker.get("/5?x=1").body, "11\n");
    assert_eq!(worker.get("http://anywhere:80/5").body, "11\n");
    let allowed = Some("GET, HEAD, OPTIONS");
    for (method, path, status, allow) in [
        ("HEAD", "/5", 200, None),
        ("HEAD", "/", 404, None),
        ("OPTIONS", "*", 200, allowed),
        ("OPTIONS", "/5", 200, allowed),
        ("GET", "*", 404, None),
        ("POST", "/5", 405, allowed),
        ("PUT", "/5", 405, allowed),
        ("DELETE", "/5", 405, allowed),
        ("BREW", "/5", 405, allowed),
    ] {
        let mut client = worker.connect();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: worker\r\n\r\n").as_bytes());
        let answer = client.answer_to(method);
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}");
        if status == 200 && method == "HEAD" {
            assert_eq!(answer.header("content-length"), Some("3"), "as the answer to GET says it");
        }
        // The answer to HEAD must have left nothing behind that the next answer begins with.
        client.send_get("/5");
        assert_eq!(client.answer().body, "11\n", "after {method} {path}");
    }
}

/// RFC 9110, section 6.6.1: a server with a clock says when it answered.
#[test]
fn every_answer_has_a_date() {
    let worker = Worker::start(&[]);
    for path in ["/5", "/1000000", "/abc", "/"] {
        let answer = worker.get(path);
        let date = answer.header("date").unwrap_or_default().to_owned();
        // Sun, 06 Nov 1994 08:49:37 GMT
        assert!(date.len() == 29 && date.get(3..5) == Some(", ") && date.ends_with(" GMT"), "{date:?}");
    }
}

#[test]
fn heads_that_are_none_are_refused_and_the_connection_closed() {
    let worker = Worker::start(&[]);
    let endless_header = format!("GET /5 HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(70_000));
    let many_headers = format!("GET /5 HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let cases: &[(&[u8], u16)] = &[
        (b"GET /5\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /5 HTTP/1.1\r\n\r\n", 400),
        (b"GET /5 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /5 HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET /5 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000000000\r\n\r\n", 413),
        (endless_header.as_bytes(), 431),
        (many_headers.as_bytes(), 431),
    ];
    for (bytes, status) in cases {
        let mut client = worker.connect();
        client.send(bytes);
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.body.lines().count(), 1);
        client.assert_closed();
    }
}

/// What a client sends cannot forge a log line or drive the operator's terminal.
#[test]
fn control_characters_are_escaped_in_the_log() {
    let worker = Worker::start(&[]);
    assert_eq!(worker.get("/\x1b[31m5").status, 400);
    worker.wait_for_log(r"line='GET /\x1b[31m5 HTTP/1.1'");
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    client.send(b"GET /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("11\n", Some("keep-alive")));
    client.send(b"GET /6 HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("13\n", Some("close")));
    client.assert_closed();
}

/// RFC 9112, section 2.3, and RFC 9110, section 2.5: a greater minor version is served as the greatest known one.
#[test]
fn http_1_2_is_served_as_1_1() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    client.send(b"GET /5 HTTP/1.2\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("11\n", Some("keep-alive")));
}

#[test]
fn http_1_1_keeps_unless_asked_to_close() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    for left in [999, 998] {
        client.send_get("/5");
        let answer = client.answer();
        let offer = format!("timeout=60, max={left}");
        assert_eq!(
            (answer.header("connection"), answer.header("keep-alive")),
            (Some("keep-alive"), Some(&*offer))
        );
    }
    for wish in [
        "Connection: Close",
        "Connection: keep-alive, close",
        "Connection: keep-alive\r\nConnection: x,close",
    ] {
        let mut client = worker.connect();
        client.send(format!("GET /6 HTTP/1.1\r\nHost: a\r\n{wish}\r\n\r\n").as_bytes());
        let answer = client.answer();
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("13\n", Some("close")), "{wish}");
        assert_eq!(answer.header("keep-alive"), None);
        client.assert_closed();
    }
}

#[test]
fn the_last_request_that_was_offered_is_answered_and_the_connection_closed() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    for left in (0..1000).rev() {
        client.send_get("/5");
        let answer = client.answer();
        let expected = if left == 0 { "close" } else { "keep-alive" };
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("11\n", Some(expected)));
    }
    client.assert_closed();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    let mut all = String::new();
    // Slow ones, quick ones and bad ones, all in one packet.
    let paths = ["/3000000", "/1", "/abc", "/200000", "/2", "/3000000", "/3"];
    for path in paths {
        write!(all, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    client.send(all.as_bytes());
    let bodies: Vec<_> = paths.iter().map(|_| client.answer().body).collect();
    let n_rule = "N must be a whole number from 1 to 1000000000000, in decimal digits\n";
    assert_eq!(bodies, ["49979687\n", "2\n", n_rule, "2750159\n", "3\n", "49979687\n", "5\n"]);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    for byte in b"GET /1000000 HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.answer().body, "15485863\n");
}

#[test]
fn a_head_that_does_not_end_is_cut_off_and_blocks_nobody() {
    let worker = Worker::start(&[]);
    let mut slow: Vec<_> = (0..50).map(|_| worker.connect()).collect();
    for client in &mut slow {
        client.send(b"GET /5 HT");
    }
    let _idle: Vec<_> = (0..200).map(|_| worker.connect()).collect();
    assert_eq!(worker.get("/1000000").body, "15485863\n");
    for client in &mut slow {
        client.assert_closed();
    }
    worker.wait_for_log("Request timed out");
}

/// More idle connections than the worker has descriptors for: the longest idle ones make room.
#[test]
fn with_few_descriptors_it_says_so_and_serves() {
    let mut command = Command::new("sh");
    let line = "ulimit -n 64; exec python3 \"$0\" --bind 127.0.0.1 --port 0";
    command.args(["-c", line]).arg(script());
    let worker = Worker::start_command(command);
    worker.wait_for_log("only 64 descriptors (ulimit -n): at most 16 connections at a time");
    let mut idle: Vec<_> = (0..100).map(|_| worker.connect()).collect();
    assert_eq!(worker.get("/1000000").body, "15485863\n");
    idle[0].assert_closed();
    let newest = idle.last_mut().unwrap();
    newest.send_get("/5");
    assert_eq!(newest.answer().body, "11\n");
}

#[test]
fn many_short_connections_cost_no_memory() {
    let worker = Worker::start(&["--log-level", "off"]);
    let ask = |times| {
        for _ in 0..times {
            let mut client = worker.connect();
            client.send(b"GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert_eq!(client.answer().body, "11\n");
            client.assert_closed();
        }
    };
    ask(100);
    let before = memory_peak_kib(worker.pid());
    ask(5000);
    let after = memory_peak_kib(worker.pid());
    assert!(after < before + 4 * 1024, "{before} KiB, then {after} KiB");
}

// ---- the queue, and clients that go ----

#[test]
fn a_full_queue_is_answered_with_503_and_retry_after() {
    let worker = Worker::start(&["--processes", "1", "--queue", "1"]);
    let (running, _) = worker.start_computing(ENDLESS_N);
    // Of these two, whichever is read first waits in the queue and the other is refused.
    let (sender, answers) = channel();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = worker.connect();
            client.send_get(&format!("/{ENDLESS_N}"));
            let other_half = client.stream.get_ref().try_clone().unwrap();
            let sender = sender.clone();
            thread::spawn(move || {
                let mut first = String::new();
                let _closed_at_the_end = client.stream.read_line(&mut first);
                if first.starts_with("HTTP/1.1 503") {
                    let mut retry_after = String::new();
                    while !retry_after.starts_with("Retry-After: ") {
                        retry_after.clear();
                        client.stream.read_line(&mut retry_after).unwrap();
                    }
                    sender.send(retry_after.trim_end().to_owned()).unwrap();
                }
            });
            other_half
        })
        .collect();
    assert_eq!(answers.recv_timeout(EVENTUALLY).unwrap(), "Retry-After: 1");
    // What needs no process is served all the same.
    assert_eq!(worker.get("/5").body, "11\n");
    // All go: the one that ran and the one that waited are abandoned, and there is room again.
    running.stream.get_ref().shutdown(Shutdown::Both).unwrap();
    for stream in &waiting {
        let _closed_already = stream.shutdown(Shutdown::Both);
    }
    worker.wait_for_log("abandoned n=1000000000000");
    worker.wait_for_log("abandoned n=1000000000000");
    // Each says so a moment before it leaves its place.
    let answer = within(EVENTUALLY, "there is room again", || {
        Some(worker.get("/1000000")).filter(|answer| answer.status != 503)
    });
    assert_eq!(answer.body, "15485863\n");
    assert!(answers.try_recv().is_err(), "only one of the two was refused");
}

#[test]
fn the_work_for_a_client_that_has_gone_is_abandoned() {
    let worker = Worker::start(&["--processes", "1"]);
    let (client, pid) = worker.start_computing(ENDLESS_N);
    drop(client);
    worker.wait_for_log("abandoned n=1000000000000");
    assert_eq!(worker.get("/1000000").body, "15485863\n");
    wait_for_exit(pid);
}

/// `printf 'GET /N HTTP/1.0\r\n\r\n' | nc` ends its side after the request, and waits for the answer.
#[test]
fn a_client_that_only_ends_its_sending_side_gets_its_answer() {
    let worker = Worker::start(&[]);
    let mut client = worker.connect();
    client.send(b"GET /100001 HTTP/1.0\r\n\r\n");
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().body, "1299721\n");
    client.assert_closed();
}

// ---- processes ----

/// A balancer asks another server then.
#[test]
fn a_job_whose_process_was_killed_is_a_500_and_the_next_is_served() {
    let worker = Worker::start(&["--processes", "1"]);
    let (mut client, pid) = worker.start_computing(ENDLESS_N);
    send_signal(pid, Signal::KILL);
    assert_eq!(client.answer().status, 500);
    client.send_get("/1000000");
    assert_eq!(client.answer().body, "15485863\n");
}

/// A worker that could only look up would pass for a healthy one.
#[test]
fn without_its_fork_server_the_worker_says_so_and_ends() {
    let mut worker = Worker::start(&[]);
    let _busy = worker.start_computing(ENDLESS_N);
    let fork_server = worker.fork_server();
    send_signal(fork_server, Signal::KILL);
    worker.wait_for_log("the fork server was killed");
    let (status, _log) = worker.wait_for_end();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn killed_outright_it_leaves_no_process_behind() {
    let mut worker = Worker::start(&["--processes", "3"]);
    let _busy = worker.start_computing(ENDLESS_N);
    worker.signal(Signal::KILL);
    let (status, _log) = worker.wait_for_end();
    assert_eq!(status.code(), None, "it was killed");
}

#[test]
fn after_a_kill_its_port_is_free_for_the_next() {
    let kept = KeptPort::new();
    let port = kept.address().port().to_string();
    let mut worker = Worker::start(&["--port", &port]);
    let _busy = worker.start_computing(ENDLESS_N);
    let mut served = worker.connect();
    served.send_get("/5");
    assert_eq!(served.answer().body, "11\n");
    worker.signal(Signal::KILL);
    worker.wait_for_end();
    let next = Worker::start(&["--port", &port]);
    assert_eq!(next.address, worker.address);
    assert_eq!(next.get("/5").body, "11\n");
}

#[test]
fn a_stop_signal_is_a_clean_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut worker = Worker::start(&[]);
        let (mut computing, _pid) = worker.start_computing(ENDLESS_N);
        let mut idle = worker.connect();
        idle.send_get("/5");
        assert_eq!(idle.answer().body, "11\n");
        worker.signal(signal);
        let answer = computing.answer();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        idle.assert_closed();
        let (status, log) = worker.wait_for_end();
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(log.last().unwrap().ends_with("stopped"), "{log:?}");
        assert!(!log.iter().any(|line| line.contains("Traceback")), "{log:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_exit_1_and_one_line_with_the_mend() {
    let worker = Worker::start(&[]);
    let port = worker.address.port().to_string();
    let (code, _stdout, stderr) = run(&["--bind", "127.0.0.1", "--port", &port]);
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains(&format!("127.0.0.1:{port}")) && stderr.contains("another --port"), "{stderr}");
}

#[test]
fn bad_usage_is_exit_2_and_one_line() {
    for arguments in [
        &["--port", "65536"][..],
        &["--port", "-1"],
        &["--port", "x"],
        &["--port"],
        &["--processes", "0"],
        &["--queue", "1.5"],
        &["--log-level", "loud"],
        &["--bind", "256.1.1.1"],
        &["--por", "1"],
        &["--unknown"],
        &["13337"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty());
    }
}

#[test]
fn help_version_and_log_file() {
    let (code, stdout, _stderr) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for flag in
        ["--bind", "--port", "--processes", "--queue", "--log-level", "--log-file", "--version", "--help"]
    {
        assert!(stdout.contains(flag), "{flag}");
    }
    assert_eq!(run(&["--version"]), (Some(0), "worker.py 0.1.0\n".to_owned(), String::new()));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.log");
    let worker = Worker::start(&["--log-file", file.to_str().unwrap()]);
    assert_eq!(worker.get("/5").status, 200);
    let line = worker.wait_for_log("request n=5 status=200 ms=");
    worker.signal(Signal::TERM);
    worker.wait_for_log("stopped");
    assert!(fs::read_to_string(&file).unwrap().lines().any(|logged| logged == line));

    // After logrotate(8) has renamed the file and sent SIGHUP, the next line begins a new one.
    let worker = Worker::start(&["--log-file", file.to_str().unwrap()]);
    worker.wait_for_log("started");
    fs::rename(&file, directory.path().join("worker.log.1")).unwrap();
    worker.signal(Signal::HUP);
    worker.wait_for_log("SIGHUP");
    assert_eq!(worker.get("/7").status, 200);
    worker.wait_for_log("request n=7 status=200");
    worker.signal(Signal::TERM);
    worker.wait_for_log("stopping: SIGTERM");
    worker.wait_for_log("stopped");
    assert!(fs::read_to_string(&file).unwrap().contains("request n=7 status=200"));

    // A directory that is missing is made, as the other programs do; what cannot be made is bad usage.
    let below_a_file = file.join("worker.log");
    let (code, _stdout, stderr) = run(&["--port", "0", "--log-file", below_a_file.to_str().unwrap()]);
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
    let deeper = directory.path().join("missing/worker.log");
    let worker = Worker::start(&["--log-file", deeper.to_str().unwrap()]);
    worker.wait_for_log("started");
    assert!(fs::read_to_string(&deeper).unwrap().contains("started"));
}

/// As `rakit up` starts it: standard error is appended to the log file.
#[test]
fn a_log_file_that_is_standard_error_too_has_each_line_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.log");
    let mut command = Command::new("sh");
    let line = "exec python3 \"$0\" --bind 127.0.0.1 --port 0 --log-file \"$1\" 2>>\"$1\"";
    command.args(["-c", line]).arg(script()).arg(&file);
    let mut worker = Worker::start_command(command);
    assert_eq!(worker.get("/7").status, 200);
    worker.signal(Signal::TERM);
    assert_eq!(worker.process.wait().unwrap().code(), Some(0));
    let log = fs::read_to_string(&file).unwrap();
    for words in ["started", "request n=7", "stopping", "stopped"] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
}

#[test]
fn a_log_file_that_is_full_becomes_the_older_one() {
    const FULL_BYTES: u64 = 64 * 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let [file, older] = ["worker.log", "worker.log.1"].map(|name| directory.path().join(name));
    fs::File::create(&file).unwrap().set_len(FULL_BYTES).unwrap(); // sparse
    let worker = Worker::start(&["--log-file", file.to_str().unwrap()]);
    assert_eq!(worker.get("/7").status, 200);
    worker.wait_for_log("request n=7");
    assert_eq!(fs::metadata(&older).unwrap().len(), FULL_BYTES);
    assert!(fs::read_to_string(&file).unwrap().contains("started"));
}
