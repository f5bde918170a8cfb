//! Tests each limit of the HTTP edge (the table in docs/http-edge.md) through real sockets. While floods of idle, slow and
//! senseless clients come, a good client must still be served.

use rakit::http::message::{json, text};
use rakit::http::{Limits, MakesRoom, Server, Service};
use rakit::http::{Request, Response};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tiny_http::Method;

/// The largest body that `POST /echo` takes.
const ECHO_BYTES_MAX: usize = 64 * 1024;
/// The length of the answer to `GET /large`: more than the buffers of a connection hold.
const LARGE_BYTES: usize = 16 * 1024 * 1024;
/// Far longer than any step here takes. A test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// `/echo` returns the body, `/parse` its JSON, `/panic` panics, `/large` returns [`LARGE_BYTES`] bytes, `/wait`
/// answers when the test allows it, and any other path returns method and path.
#[derive(Default)]
struct Demo {
    /// Signals to the test that a request waits, with a channel that lets it go on.
    waiting: Option<Mutex<Sender<Sender<()>>>>,
}

impl Service for Demo {
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response> {
        match (method, path) {
            (Method::Post, "/echo" | "/parse") => Ok(ECHO_BYTES_MAX),
            (_, "/panic-early") => panic!("on purpose, before the body"),
            (_, "/echo") => Err(text(405, "POST only")),
            (_, "/nothing") => Err(text(404, "nothing here")),
            _ => Ok(0),
        }
    }

    fn call(&self, request: Request) -> Response {
        match request.path() {
            "/echo" => Response::from_data(request.body),
            "/parse" => match serde_json::from_slice::<serde_json::Value>(&request.body) {
                Ok(value) => json(200, &value),
                Err(error) => text(400, &error.to_string()),
            },
            "/panic" => panic!("on purpose"),
            "/large" => Response::from_data(vec![b'x'; LARGE_BYTES]),
            "/wait" => {
                let (go, gone) = channel();
                let waiting = self.waiting.as_ref().expect("this test waits");
                waiting.lock().expect("no test panics with it").send(go).expect("the test listens");
                gone.recv_timeout(PATIENCE).expect("the test lets it go");
                text(200, if request.client().has_closed() { "closed" } else { "waited" })
            }
            _ => text(200, &format!("{} {}", request.method, request.target)),
        }
    }
}

fn start(limits: Limits) -> Server {
    start_with(limits, Demo::default())
}

fn start_with(limits: Limits, service: Demo) -> Server {
    Server::bind("edge", SocketAddr::from(([127, 0, 0, 1], 0)), limits, Arc::new(service)).expect("binds")
}

fn start_waiting(limits: Limits) -> (Server, Receiver<Sender<()>>) {
    let (sender, waiting) = channel();
    (start_with(limits, Demo { waiting: Some(Mutex::new(sender)) }), waiting)
}

fn connect(server: &Server) -> TcpStream {
    connect_to(server.local_addr())
}

fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("has a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("has a time-out");
    stream
}

/// All that the server says until it closes. A reset in place of a close shows as an error.
fn read_to_close(mut stream: &TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server closes in good order");
    String::from_utf8(answer).expect("text")
}

/// Sends this and nothing more, and reads until the server closes.
fn say(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    stream.write_all(bytes).expect("takes it");
    read_to_close(&stream)
}

/// One answer of a connection that stays open: its status, its head and its body.
fn read_answer(reader: &mut impl BufRead) -> (u16, String, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(
            reader.read_line(&mut head).expect("a line of the head"),
            0,
            "closed in the head: {head:?}"
        );
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.expect("a length").parse().expect("a number")];
    reader.read_exact(&mut body).expect("the whole body");
    (status_of(&head), head, String::from_utf8(body).expect("text"))
}

fn status_of(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().expect("a status")
}

fn get_ok(server: &Server) {
    let answer = say(server, b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&answer), 200, "{answer}");
    assert!(answer.ends_with("GET /good\n"), "{answer}");
}

/// Waits for a condition that only the counters show: no event announces it.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A deadline that a test lets pass. A client here that stands still may be late for it at any time.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn every_breach_has_its_status_and_closes_the_connection() {
    let server = start(Limits::default());
    let long_line = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let endless = format!("GET /{}", "x".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    let post = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let rows: Vec<(u16, String)> = vec![
        (400, "GET / HTTP/1.1\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\nHost: a\n\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n".into()),
        (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}".into()),
        (400, "GET 3 HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (400, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (400, post("Content-Length: +5\r\n")),
        (400, post("Content-Length: 5, 5\r\n")),
        (400, post("Content-Length: 5\r\nContent-Length: 5\r\n")),
        (400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        (411, post("")),
        (413, post("Content-Length: 60000000000000\r\n")),
        (413, post("Content-Length: 99999999999999999999999999\r\n")),
        (413, post("Content-Length: 65537\r\n")),
        (413, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".into()),
        (417, post("Content-Length: 5\r\nExpect: the-unexpected\r\n")),
        (431, long_line),
        (431, endless),
        (431, many),
        (400, post("Transfer-Encoding: chunked\r\n") + "5\r\nhello!\r\n0\r\n\r\n"),
        (400, post("Transfer-Encoding: chunked\r\n") + &"5;".repeat(10_000)),
        (413, post("Transfer-Encoding: chunked\r\n") + "10001\r\n"),
        (413, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".into()),
        (501, post("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into()),
    ];
    let refused = rows.len() as u64;
    for (status, request) in rows {
        let answer = say(&server, request.as_bytes());
        assert_eq!(status_of(&answer), status, "{request:?} -> {answer:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer:?}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(body.ends_with('\n') && body.lines().count() == 1, "one line that says why: {answer:?}");
        assert!(head.contains("\r\nContent-Type: text/plain"), "{answer:?}");
    }
    get_ok(&server);
    assert_eq!(server.counters().refusals, refused);
}

#[test]
fn a_refused_body_that_is_still_being_sent_does_not_hide_the_answer() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").expect("takes it");
    for _ in 0..50 {
        stream.write_all(&[b'x'; 10_000]).expect("is read away");
    }
    stream.shutdown(Shutdown::Write).expect("closes");
    assert_eq!(status_of(&read_to_close(&stream)), 413);
}

#[test]
fn bodies_are_echoed_whole_in_whatever_pieces_they_come() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    for length in [0, 1, 8_000, 8_192, 40_000, ECHO_BYTES_MAX] {
        let body: String = (0..length).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        for piece in request.as_bytes().chunks(3_001) {
            stream.write_all(piece).expect("takes it");
        }
        let (status, _, answer) = read_answer(&mut reader);
        assert_eq!(status, 200);
        assert!(answer == body, "the body of {length} bytes came back changed");
    }
}

#[test]
fn a_request_split_at_any_byte_gets_the_same_answer() {
    let server = start(Limits::default());
    let request = b"POST /echo?x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let mut stream = connect(&server);
    stream.set_nodelay(true).expect("sets it");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    for cut in 1..request.len() {
        let before = server.counters().requests;
        stream.write_all(&request[..cut]).expect("takes it");
        if cut >= request.len() - 5 {
            // The rest is sent only after the server has read the head: it sees two pieces.
            eventually("the head is read", || server.counters().requests > before);
        }
        stream.write_all(&request[cut..]).expect("takes it");
        let (status, _, body) = read_answer(&mut reader);
        assert_eq!((status, body.as_str()), (200, "hello"), "split at {cut}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut all = String::new();
    for i in 0..500 {
        all += &format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n");
        all += &format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n{i:04}");
    }
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let sender = thread::spawn(move || stream.write_all(all.as_bytes()));
    for i in 0..500 {
        assert_eq!(read_answer(&mut reader).2, format!("GET /{i}\n"));
        assert_eq!(read_answer(&mut reader).2, format!("{i:04}"));
    }
    sender.join().expect("no panic").expect("takes it all");
    assert_eq!(server.counters().accepted, 1);
}

#[test]
fn what_follows_a_last_request_is_not_served() {
    let server = start(Limits::default());
    let first = "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = say(&server, format!("{first}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert!(answer.ends_with("GET /1\n"), "{answer}");
    // What stands in place of chunks is not read as the next request, and neither is a chunked body that nobody takes.
    for path in ["/echo", "/nothing"] {
        let chunked = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let smuggled = format!("{chunked}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(say(&server, smuggled.as_bytes()).matches("HTTP/1.1 ").count(), 1);
    }
}

#[test]
fn chunked_bodies_are_decoded_and_the_next_request_follows() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    stream.set_nodelay(true).expect("sets it");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let long = "x".repeat(ECHO_BYTES_MAX);
    let chunks =
        format!("8000\r\n{}\r\n8000;x=y\r\n{}\r\n0\r\nX: y\r\n\r\n", &long[..32_768], &long[32_768..]);
    for (body, decoded) in [("5\r\nhello\r\n0\r\n\r\n", "hello"), ("0\r\n\r\n", ""), (&chunks, &long)] {
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for piece in format!("{head}{body}").as_bytes().chunks(3_001) {
            stream.write_all(piece).expect("takes it");
        }
        let (status, _, answer) = read_answer(&mut reader);
        assert!(status == 200 && answer == decoded, "{status}, {} bytes of {}", answer.len(), decoded.len());
    }
    // Some proxies send a GET with an empty body in chunks.
    let get = "GET /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    stream.write_all(format!("{get}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("takes it");
    assert_eq!(read_answer(&mut reader).2, "GET /1\n");
    assert_eq!(read_answer(&mut reader).2, "GET /2\n");
}

#[test]
fn heads_with_the_cookies_of_other_ports_are_served() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    for bytes in [100, 4_000, 8_000, 16_000, 100] {
        let cookies = "c".repeat(bytes);
        let request = format!("GET /1 HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("takes it");
        assert_eq!(read_answer(&mut reader).2, "GET /1\n", "{bytes}");
    }
}

#[test]
fn options_of_the_server_itself_is_answered() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    stream
        .write_all(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.2\r\nHost: a\r\n\r\n")
        .expect("takes it");
    let (status, head, body) = read_answer(&mut reader);
    assert!(status == 200 && head.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{head}");
    assert!(body.contains("GET, HEAD, OPTIONS"), "the text says the same: {body}");
    assert_eq!(read_answer(&mut reader).2, "GET /1\n");
}

#[test]
fn connections_live_and_end_as_each_version_defines_it() {
    let server = start(Limits::default());
    let old = say(&server, b"GET /1 HTTP/1.0\r\n\r\n");
    assert!(old.contains("\r\nConnection: close\r\n") && old.ends_with("GET /1\n"), "{old}");

    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    stream.write_all(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("takes it");
    assert!(read_answer(&mut reader).1.contains("\r\nConnection: keep-alive\r\n"));
    stream.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    assert!(!read_answer(&mut reader).1.contains("Connection"));
    stream.write_all(b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("takes it");
    assert!(read_answer(&mut reader).1.contains("\r\nConnection: close\r\n"));
    assert_eq!(reader.read(&mut [0]).expect("closes in good order"), 0);
}

#[test]
fn absolute_targets_and_head() {
    let server = start(Limits::default());
    let answer = say(&server, b"GET http://host/3?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nGET /3?q\n"), "{answer}");
    let answer = say(&server, b"HEAD /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("\r\nContent-Length: 8\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_client_that_waits_for_100_gets_it_unless_it_is_refused() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n";
    stream.write_all(format!("{head}Content-Length: 5\r\n\r\n").as_bytes()).expect("takes it");
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    reader.read_line(&mut line).expect("a line");
    stream.write_all(b"hello").expect("takes it");
    assert_eq!(read_answer(&mut reader).2, "hello");
    // A client that did not wait gets no `100 Continue`.
    stream.write_all(format!("{head}Content-Length: 5\r\n\r\nhello").as_bytes()).expect("takes it");
    assert_eq!(read_answer(&mut reader).0, 200);

    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).expect("takes it");
    line.clear();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    reader.read_line(&mut line).expect("a line");
    stream.write_all(b"5\r\nhello\r\n0\r\n\r\n").expect("takes it");
    assert_eq!(read_answer(&mut reader).2, "hello");

    let refused = say(&server, format!("{head}Content-Length: 99999\r\n\r\n").as_bytes());
    assert_eq!(status_of(&refused), 413);
}

#[test]
fn a_route_refuses_before_the_body_and_lives_on_without_one() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let two = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(two).expect("takes it");
    assert_eq!(read_answer(&mut reader).0, 404);
    assert_eq!(read_answer(&mut reader).2, "GET /1\n");
    let answer = say(&server, b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(status_of(&answer), 405);
}

#[test]
fn a_panic_costs_one_answer() {
    let server = start(Limits::default());
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    for path in ["/panic", "/panic-early"] {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("takes it");
        assert_eq!(read_answer(&mut reader).0, 500);
    }
    stream.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    assert_eq!(read_answer(&mut reader).2, "GET /1\n", "the same connection and thread go on");
    let counters = server.counters();
    assert_eq!((counters.panics, counters.threads_started), (2, 1));
}

#[test]
fn the_stack_of_a_thread_suffices_for_the_deepest_json() {
    let server = start(Limits::default());
    for (depth, expected) in [(127, 200), (128, 400), (30_000, 400)] {
        let body = "[".repeat(depth) + &"]".repeat(depth);
        let length = body.len();
        let request = format!(
            "POST /parse HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        assert_eq!(status_of(&say(&server, request.as_bytes())), expected, "depth {depth}");
    }
}

#[test]
fn each_deadline_is_kept_however_slowly_the_bytes_drip() {
    let server = start(Limits { head_deadline: SHORT, ..Limits::default() });
    let mut late = 0;
    let answer = loop {
        let stream = connect(&server);
        let mut writer = stream.try_clone().expect("clones");
        // A byte every 20 ms: each byte comes long before the deadline, but the head never ends.
        let dripping = thread::spawn(move || {
            while writer.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        // What drips on after the answer may end the connection by a reset.
        let mut answer = [0; 12];
        let read = (&stream).read_exact(&mut answer);
        let _ = stream.shutdown(Shutdown::Both); // Ends the dripping.
        dripping.join().expect("no panic");
        if read.is_ok() {
            break String::from_utf8_lossy(&answer).into_owned();
        }
        late += 1; // Even the first byte was.
        assert!(late < 100, "no answer");
    };
    assert_eq!(status_of(&answer), 408, "a head of a byte at a time");
    // A silent connection, fresh or after a request, is closed without an answer.
    assert_eq!(read_to_close(&connect(&server)), "");
    assert_eq!(server.counters().idle_closed, late + 1);
    let server = start(Limits { idle_deadline: SHORT, ..Limits::default() });
    let mut stream = connect(&server);
    stream.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    assert_eq!(read_to_close(&stream).matches("HTTP/1.1 ").count(), 1);
    assert_eq!(server.counters().idle_closed, 1);

    let server = start(Limits { body_deadline: SHORT, ..Limits::default() });
    let mut stream = connect(&server);
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nhel")
        .expect("takes it");
    assert_eq!(status_of(&read_to_close(&stream)), 408, "a body that stops");
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = start(Limits { write_deadline: Duration::from_millis(200), ..Limits::default() });
    let mut stream = connect(&server);
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    eventually("the connection is accepted", || server.counters().accepted == 1);
    eventually("the connection is given up", || server.counters().connections_open == 0);
    get_ok(&server);
}

#[test]
fn a_client_that_takes_a_little_at_a_time_is_given_up_too() {
    let server = start(Limits { write_deadline: Duration::from_millis(200), ..Limits::default() });
    let mut stream = connect(&server);
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    let (mut taken, mut piece) = (0, vec![0; 64 * 1024]);
    // At this pace the client would need about 13 s for the answer: each write makes progress, but the whole takes too long.
    while let Ok(received @ 1..) = stream.read(&mut piece) {
        taken += received;
        thread::sleep(Duration::from_millis(50));
    }
    assert!(taken < LARGE_BYTES, "it was served for all its time");
}

#[test]
fn beyond_the_cap_clients_are_told_at_once_and_cost_no_thread() {
    let server = start(Limits { connections_max: 4, ..Limits::default() });
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    eventually("all are open", || server.counters().connections_open == 4);
    for _ in 0..100 {
        // The server keeps such a client for half a second only. On a busy machine its request may come later, and then
        // a reset follows the answer.
        let mut stream = connect(&server);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).expect("text");
        assert_eq!(status_of(&answer), 503, "{answer}");
        assert!(answer.contains("\r\nRetry-After: 1\r\n") && answer.contains("\r\nConnection: close\r\n"));
    }
    // Refused clients that neither send nor close do not make the others wait.
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    silent.iter().for_each(|stream| assert_eq!(status_of(&read_to_close(stream)), 503));
    let counters = server.counters();
    assert_eq!((counters.turned_away, counters.threads_started), (200, 4));
    drop(held);
    eventually("the others have gone", || server.counters().connections_open == 0);
    get_ok(&server);
}

/// A connection from this address of the machine.
fn connect_from(ip: [u8; 4], server: &Server) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address of loopback");
    socket.connect(&server.local_addr().into()).expect("connects");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("has a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("has a time-out");
    stream
}

#[test]
fn a_source_with_all_places_keeps_no_other_source_out() {
    let limits = Limits { connections_max: 8, makes_room: MakesRoom::LargestSource, ..Limits::default() };
    let (server, waiting) = start_waiting(limits);
    let (hog, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let ask = |mut stream: TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is open");
        status_of(&read_to_close(&stream))
    };
    let idle: Vec<TcpStream> = (0..8).map(|_| connect_from(hog, &server)).collect();
    eventually("all places are taken", || server.counters().connections_open == 8);
    assert_eq!(ask(connect_from(other, &server)), 200);
    assert_eq!(
        ask(connect_from(hog, &server)),
        200,
        "idle connections make room for those of the same source, too"
    );
    drop(idle);
    eventually("they have gone", || server.counters().connections_open == 0);
    // Each with a request in flight. Nothing is idle, and the other source is served all the same.
    let busy: Vec<TcpStream> = (0..8).map(|_| connect_from(hog, &server)).collect();
    for mut stream in &busy {
        stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is open");
    }
    let go: Vec<Sender<()>> = (0..8).map(|_| waiting.recv_timeout(PATIENCE).expect("it has begun")).collect();
    assert_eq!(ask(connect_from(other, &server)), 200);
    assert_eq!(server.counters().turned_away, 0);
    drop(go);
}

#[test]
fn strangers_make_room_and_whoever_has_proven_itself_stays() {
    let limits = Limits { connections_max: 4, makes_room: MakesRoom::Strangers, ..Limits::default() };
    let server = start(limits);
    let mut member = connect(&server);
    let mut answers = BufReader::new(member.try_clone().expect("a second handle"));
    let mut ask = |server: &Server| {
        member.write_all(b"GET /member HTTP/1.1\r\nHost: a\r\n\r\n").expect("its connection lives");
        assert_eq!(read_answer(&mut answers).0, 200, "{:?}", server.counters());
    };
    ask(&server);
    // An answer that refuses proves nothing, however often it is asked for.
    let mut refused: Vec<TcpStream> = (0..3).map(|_| connect(&server)).collect();
    for stranger in &mut refused {
        stranger
            .write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\nPOST /parse HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\njunk")
            .expect("takes it");
        let mut answers = BufReader::new(&*stranger);
        assert_eq!([404, 400], [(); 2].map(|()| read_answer(&mut answers).0));
    }
    // All places are taken. Each new connection gets one, and the stranger that came first loses it.
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    refused.iter().chain(&silent[..197]).for_each(|stranger| assert_eq!(read_to_close(stranger), ""));
    get_ok(&server);
    ask(&server);
    let counters = server.counters();
    assert_eq!((counters.turned_away, counters.accepted), (0, 205), "{counters:?}");
    assert!(counters.cut_for_room >= 200, "{counters:?}");
}

#[test]
fn where_all_have_proven_themselves_nobody_makes_room() {
    let limits = Limits { connections_max: 4, makes_room: MakesRoom::Strangers, ..Limits::default() };
    let server = start(limits);
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    for mut member in &held {
        member.write_all(b"GET /member HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
        assert_eq!(read_answer(&mut BufReader::new(member)).0, 200);
    }
    assert_eq!(status_of(&read_to_close(&connect(&server))), 503);
    assert_eq!(server.counters().cut_for_room, 0);
}

#[test]
fn all_bodies_together_have_a_bound() {
    // Room for one body of those who have proven themselves, and for half of one of a stranger.
    let server = start(Limits { bodies_bytes_max: ECHO_BYTES_MAX, ..Limits::default() });
    let mut stranger = connect(&server);
    let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {ECHO_BYTES_MAX}\r\n\r\n");
    stranger.write_all(head.as_bytes()).expect("takes it");
    stranger.write_all(&[b'x'; ECHO_BYTES_MAX]).expect("takes it");
    stranger.shutdown(Shutdown::Write).expect("our own socket");
    let answer = read_to_close(&stranger);
    assert!(status_of(&answer) == 503 && answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    eventually("it is closed", || server.counters().connections_open == 0);
    let mut member = connect(&server);
    let mut answers = BufReader::new(member.try_clone().expect("a second handle"));
    let body = vec![b'x'; ECHO_BYTES_MAX];
    let mut post = |length: usize| {
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        member.write_all(head.as_bytes()).expect("takes it");
        member.write_all(&body[..length]).expect("takes it");
        read_answer(&mut answers).0
    };
    assert_eq!(post(ECHO_BYTES_MAX / 2), 200);
    // Now it has proven itself, and its share is given back each time.
    for _ in 0..3 {
        assert_eq!(post(ECHO_BYTES_MAX), 200);
    }
}

#[test]
fn threads_are_kept_and_used_again() {
    let server = start(Limits::default());
    for _ in 0..50 {
        get_ok(&server);
        eventually("it is closed", || server.counters().connections_open == 0);
    }
    // A thread may still be on its way back to the others when the next client comes.
    let counters = server.counters();
    assert!(counters.threads_started < 10, "{counters:?}");
    assert_eq!(counters.accepted, 50);
}

#[test]
fn sixty_four_connections_opened_at_once_are_all_served() {
    let server = start(Limits::default());
    // Some threads already wait for work: they must not be promised to more connections than there are threads.
    drop((0..8).map(|_| connect(&server)).collect::<Vec<_>>());
    eventually("they came and went", || {
        let counters = server.counters();
        counters.accepted == 8 && counters.connections_open == 0
    });
    let mut streams: Vec<TcpStream> = (0..64).map(|_| connect(&server)).collect();
    for _ in 0..3 {
        for stream in &mut streams {
            stream.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
        }
        for stream in &streams {
            assert_eq!(read_answer(&mut BufReader::new(stream)).0, 200);
        }
    }
}

#[test]
fn a_thousand_idle_and_slow_clients_do_not_keep_others_waiting() {
    // Time enough that none of them is ended while the machine is busy.
    let server = start(Limits { head_deadline: 2 * PATIENCE, ..Limits::default() });
    let mut idle: Vec<TcpStream> = (0..1_000).map(|_| connect(&server)).collect();
    for stream in idle.iter_mut().step_by(2) {
        stream.write_all(b"GET /slow HTTP/1.1\r\nHo").expect("takes it");
    }
    eventually("all are open", || server.counters().connections_open == 1_000);
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    for _ in 0..200 {
        get_ok(&server);
        stream.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
        assert_eq!(read_answer(&mut reader).0, 200);
    }
    // The slow clients did no wrong: when they send the rest of their request, it is answered.
    for stream in idle.iter_mut().step_by(2) {
        stream.write_all(b"st: a\r\n\r\n").expect("takes it");
        let (status, _, body) = read_answer(&mut BufReader::new(&*stream));
        assert_eq!((status, body.as_str()), (200, "GET /slow\n"));
    }
}

#[test]
fn a_handler_can_ask_whether_its_client_has_gone() {
    let (server, waiting) = start_waiting(Limits::default());
    let wait = || {
        let mut stream = connect(&server);
        stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
        (waiting.recv_timeout(PATIENCE).expect("waits"), stream)
    };
    let (go, stream) = wait();
    go.send(()).expect("it waits");
    assert_eq!(read_answer(&mut BufReader::new(&stream)).2, "waited\n");
    let (go, stream) = wait();
    stream.shutdown(Shutdown::Write).expect("closes its side");
    go.send(()).expect("it waits");
    assert_eq!(read_answer(&mut BufReader::new(&stream)).2, "closed\n");
}

#[test]
fn stopping_closes_what_is_idle_and_drains_what_is_in_flight() {
    let (server, waiting) = start_waiting(Limits::default());
    let address = server.local_addr();
    let fresh = connect(&server);
    let mut idle = connect(&server);
    idle.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    let mut idle_reader = BufReader::new(idle);
    assert_eq!(read_answer(&mut idle_reader).0, 200);
    let mut busy = connect(&server);
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    let go = waiting.recv_timeout(PATIENCE).expect("waits");

    thread::scope(|scope| {
        let stopping = scope.spawn(|| server.stop(PATIENCE));
        assert_eq!(idle_reader.read(&mut [0]).expect("closes in good order"), 0);
        assert_eq!(read_to_close(&fresh), "");
        eventually("nobody is let in", || TcpStream::connect(address).is_err());
        assert!(!stopping.is_finished(), "one request is in flight");
        go.send(()).expect("it waits");
        let answer = read_to_close(&busy);
        assert!(answer.contains("\r\nConnection: close\r\n") && answer.ends_with("waited\n"), "{answer}");
        assert_eq!(stopping.join().expect("no panic"), 0, "none was cut off");
    });
    assert_eq!(server.stop(Duration::ZERO), 0, "again is harmless");
    drop(server);
    // The port is free for the next server.
    let again =
        Server::bind("edge", address, Limits::default(), Arc::new(Demo::default())).expect("binds again");
    get_ok(&again);
}

#[test]
fn stopping_cuts_off_what_is_not_done_in_time() {
    let (server, waiting) = start_waiting(Limits::default());
    let mut busy = connect(&server);
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("takes it");
    let go = waiting.recv_timeout(PATIENCE).expect("waits");
    assert_eq!(server.stop(Duration::from_millis(50)), 1);
    // The client's connection is closed at once; the handler's thread goes on until it returns.
    assert_eq!(busy.read(&mut [0]).unwrap_or(0), 0);
    go.send(()).expect("it waits");
}

/// The child of the next test: a server in a process of its own, with few descriptors.
#[test]
#[ignore = "is started by the test of descriptors, as a process of its own"]
fn a_server_with_few_descriptors() {
    let Ok(limit) = std::env::var("RAKIT_TEST_DESCRIPTORS") else { return };
    let server = start(Limits::default());
    let limit = limit.parse().ok();
    let limits = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).expect("may be lowered");
    println!("listening on {}", server.local_addr());
    // Until the parent closes our input.
    let _ = std::io::stdin().read(&mut [0]);
    println!("counters {:?}", server.counters());
}

#[test]
fn without_descriptors_the_listener_survives_and_says_so() {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "limits::a_server_with_few_descriptors",
            "--ignored",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env("RAKIT_TEST_DESCRIPTORS", "40")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once("listening on ").map(|(_, address)| address.parse()));
    let address: SocketAddr = address.expect("it says where").expect("an address");

    let request = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut served, mut told) = (Vec::new(), 0);
    for _ in 0..200 {
        let mut stream = connect_to(address);
        // A refused connection may be closed before the client has sent this.
        let _ = stream.write_all(request);
        let mut status = [0; 12];
        match stream.read_exact(&mut status) {
            Ok(()) if status.ends_with(b"200") => served.push(stream),
            Ok(()) => told += u32::from(status.ends_with(b"503")),
            // A reset is possible: no descriptor is left to keep the connection until the client has read the answer.
            Err(_) => {}
        }
    }
    assert!((10..40).contains(&served.len()), "{} were served", served.len());
    assert!(told > 0, "nobody was told");
    drop(served);
    // Descriptors are back: it serves again.
    eventually("it serves again", || {
        let mut stream = connect_to(address);
        let mut status = [0; 12];
        let _ = stream.write_all(request);
        stream.read_exact(&mut status).is_ok() && status.ends_with(b"200")
    });
    drop(child.stdin.take());
    let counters = lines.find(|line| line.contains("counters ")).expect("it ends in good order");
    assert!(!counters.contains("accept_errors: 0"), "the errors were met: {counters}");
    assert!(child.wait().expect("ends").success());
}

mod fuzz {
    //! Bytes that nobody planned: the server must neither panic nor hang, and must serve the next client.

    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static SERVER: LazyLock<Server> = LazyLock::new(|| start(Limits::default()));

    /// Sends `bytes`, closes the sending side, reads to the end; then a good request on a new connection.
    fn survives(bytes: &[u8]) {
        let before = SERVER.counters().panics;
        let mut stream = connect(&SERVER);
        // It may be refused and cut off before all is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
        get_ok(&SERVER);
        assert_eq!(SERVER.counters().panics, before);
    }

    const VALID: &[u8] =
        b"POST /echo?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n\
        helloGET /1 HTTP/1.0\r\n\r\n";

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            survives(&bytes);
        }

        #[test]
        fn mutated_requests(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 1..6),
        ) {
            let mut bytes = VALID.to_vec();
            for (at, kind, byte) in edits {
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => {
                        let piece = bytes[at..(at + usize::from(byte % 32)).min(bytes.len())].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            survives(&bytes);
        }
    }
}
