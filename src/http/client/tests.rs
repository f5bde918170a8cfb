//! Stand-in nodes on std's TcpListener: each connection they accept follows a script.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::*;
use crate::linux::let_go::refusing;

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 1000;

fn client() -> Client {
    Client::new(ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: PATIENCE })
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// One request as it came: the head's lines and the body.
struct Seen {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Reads a whole request; `None` when the connection ends before one begins.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            assert!(head.is_empty(), "closed within a head");
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        head.push(line.to_owned());
    }
    let mut seen = Seen { head, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    seen.body.resize(length, 0);
    reader.read_exact(&mut seen.body).unwrap();
    Some(seen)
}

fn answer(stream: &mut TcpStream, body: &str) {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

/// A node whose connections each serve the next number of requests in `script` and close right after reading
/// one more; the count of requests that came is its result.
fn node_that_closes(script: &'static [usize]) -> (SocketAddr, JoinHandle<Vec<Seen>>) {
    let (listener, address) = listen();
    let node = thread::spawn(move || {
        let mut all = Vec::new();
        for requests in script {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for _ in 0..*requests {
                all.push(read_request(&mut reader).unwrap());
                answer(&mut stream, "ok");
            }
            // The request that crosses the close.
            all.extend(read_request(&mut reader));
        }
        all
    });
    (address, node)
}

#[test]
fn a_request_says_what_it_must_and_no_more() {
    let (address, node) = node_that_closes(&[2]);
    let mut client = client();
    let post = client
        .post(address, "/report?x=1", || vec![("X-A", "b".into())], b"hello", ANSWER_BYTES_MAX)
        .unwrap();
    assert_eq!(
        (post.status, post.body.as_slice(), post.header("CONTENT-length")),
        (200, &b"ok"[..], Some("2"))
    );
    assert_eq!(post.header("x-none"), None);
    client.get(address, "/status", &[], ANSWER_BYTES_MAX).unwrap();
    drop(client);
    let seen = node.join().unwrap();
    let mut head: Vec<String> = seen[0].head.iter().map(|line| line.to_ascii_lowercase()).collect();
    head[1..].sort_unstable();
    assert_eq!(
        head,
        [
            "post /report?x=1 http/1.1",
            "content-length: 5",
            "content-type: application/json",
            &format!("host: {address}"),
            "x-a: b"
        ]
    );
    assert_eq!(seen[0].body, b"hello");
    assert_eq!(seen[1].head[0], "GET /status HTTP/1.1");
    assert_eq!(seen[1].head.len(), 2, "{:?}", seen[1].head);
}

#[test]
fn connections_are_kept_and_one_that_closed_is_replaced() {
    // Connection 1 serves two and closes on the third, which is repeated on connection 2.
    let (address, node) = node_that_closes(&[2, 1]);
    let mut client = client();
    for body in [b"1", b"2", b"3"] {
        assert_eq!(
            client.post(address, "/raft/append", Vec::new, body, ANSWER_BYTES_MAX).unwrap().body,
            b"ok"
        );
    }
    drop(client);
    let bodies: Vec<Vec<u8>> = node.join().unwrap().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [b"1", b"2", b"3", b"3"]);
}

#[test]
fn a_request_is_repeated_once_and_not_on_a_fresh_connection() {
    // Connection 1 serves one and closes on the second. Connection 2, a fresh one, closes on the repetition:
    // an error.
    let (address, node) = node_that_closes(&[1, 0]);
    let mut client = client();
    client.post(address, "/", Vec::new, b"1", ANSWER_BYTES_MAX).unwrap();
    let error = client.post(address, "/", Vec::new, b"2", ANSWER_BYTES_MAX).unwrap_err();
    assert_eq!(error, CallError { address, kind: CallErrorKind::Closed });
    assert_eq!(node.join().unwrap().len(), 3);

    // What may not be carried out twice is not repeated.
    let (address, node) = node_that_closes(&[1]);
    let mut once =
        Client::without_repetition(ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: PATIENCE });
    once.post(address, "/", Vec::new, b"1", ANSWER_BYTES_MAX).unwrap();
    let error = once.post(address, "/", Vec::new, b"2", ANSWER_BYTES_MAX).unwrap_err();
    assert_eq!(error, CallError { address, kind: CallErrorKind::Closed });
    assert_eq!(node.join().unwrap().len(), 2);

    let (address, node) = node_that_closes(&[0]);
    let error = client.get(address, "/", &[], ANSWER_BYTES_MAX).unwrap_err();
    assert_eq!(error.kind, CallErrorKind::Closed);
    assert_eq!(node.join().unwrap().len(), 1);
}

#[test]
fn no_repetition_once_an_answer_has_begun() {
    let (listener, address) = listen();
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        answer(&mut stream, "ok");
        read_request(&mut reader).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    });
    let mut client = client();
    client.get(address, "/", &[], ANSWER_BYTES_MAX).unwrap();
    let error = client.get(address, "/", &[], ANSWER_BYTES_MAX).unwrap_err();
    // If the request were repeated, nobody would listen any more, and the error would be `Refused`.
    assert_eq!(error.kind, CallErrorKind::Closed);
    node.join().unwrap();
}

#[test]
fn a_close_that_has_arrived_costs_nothing() {
    let (listener, address) = listen();
    let (closed, is_closed) = mpsc::channel();
    let node = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_request(&mut reader).unwrap();
            answer(&mut stream, "ok");
            // Not by close(2): a child that another test starts just now has the socket, too, until its execve(2).
            stream.shutdown(Shutdown::Both).unwrap();
            closed.send(()).unwrap();
        }
    });
    let mut client = client();
    let mut attempts = 0;
    for _ in 0..2 {
        let request =
            Call { address, method: Method::POST, path: "/", body: b"x", answer_bytes_max: ANSWER_BYTES_MAX };
        let counting = |builder| {
            attempts += 1;
            builder
        };
        client.call(&request, counting).unwrap();
        is_closed.recv().unwrap();
    }
    // The pool saw that the kept connection was closed: the second request needed no repetition.
    assert_eq!(attempts, 2);
    node.join().unwrap();
}

/// The client's result when these bytes are the answer.
fn outcome_of(bytes: &'static str) -> Result<Answer, CallErrorKind> {
    let (listener, address) = listen();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
    });
    client().get(address, "/", &[], 10).map_err(|e| e.kind)
}

#[test]
fn every_status_is_an_answer() {
    for status in [400, 401, 404, 500, 503, 302, 307] {
        let bytes: &'static str =
            format!("HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nno")
                .leak();
        let answer = outcome_of(bytes).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (status, &b"no"[..]));
    }
}

#[test]
fn answers_that_are_none() {
    for (bytes, kind) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", CallErrorKind::AnswerTooLarge(10)),
        ("HTTP/1.0 200 OK\r\n\r\n12345678901", CallErrorKind::AnswerTooLarge(10)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123456789", CallErrorKind::Closed),
        ("HTTP/1.1 200 OK\r\nContent-Le", CallErrorKind::Closed),
    ] {
        assert_eq!(outcome_of(bytes).map(|answer| answer.status), Err(kind), "{bytes:?}");
    }
    assert!(matches!(outcome_of("nonsense\r\n\r\n"), Err(CallErrorKind::Protocol(_))));
    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nno", "x".repeat(8_191));
    match outcome_of(long_head.leak()) {
        Err(CallErrorKind::Protocol(why)) => assert!(why.contains("head") && why.contains("8191"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome_of("HTTP/1.0 200 OK\r\n\r\n1234567890").unwrap().body, b"1234567890");
    let (_keeps_the_port, address) = refusing();
    let error = client().get(address, "/", &[], 10).unwrap_err();
    assert_eq!(error.kind, CallErrorKind::Refused);
    assert!(error.to_string().contains(&address.to_string()));
}

#[test]
fn a_node_that_does_not_answer_or_does_not_read() {
    // The kernel accepts the connection into the backlog, and nobody reads from it.
    let (_listener, address) = listen();
    let mut impatient =
        Client::new(ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: Duration::from_millis(50) });
    assert_eq!(impatient.get(address, "/", &[], 10).unwrap_err().kind, CallErrorKind::ReceiveTimeout);
    let mut hasty =
        Client::new(ClientTimeouts { connect: PATIENCE, send: Duration::from_millis(50), receive: PATIENCE });
    let large = vec![0; 64 << 20];
    assert_eq!(hasty.post(address, "/", Vec::new, &large, 10).unwrap_err().kind, CallErrorKind::SendTimeout);
}

#[test]
fn a_long_body_arrives_whole() {
    let (address, node) = node_that_closes(&[1]);
    let body: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    client().post(address, "/raft/append", Vec::new, &body, ANSWER_BYTES_MAX).unwrap();
    assert!(node.join().unwrap()[0].body == body);
}
