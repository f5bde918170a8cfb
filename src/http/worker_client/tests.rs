//! Stand-in workers on std's TcpListener, each with one way of answering or failing.

#![allow(clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use super::super::client::{Client, ClientTimeouts};
use super::super::connect::connect;
use super::*;
use crate::linux::let_go::refusing;

/// Long enough for the slowest machine; no test waits for it unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads the head of one request, then calls `serve` with the connection. Returns the worker's address and the head.
fn worker(serve: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, heads_seen) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap() == 0 {
                break;
            }
        }
        heads.send(head).unwrap();
        serve(stream);
    });
    (address, heads_seen)
}

fn ask(worker: SocketAddr) -> Result<WorkerAnswer, WorkerError> {
    ask_with(&WorkerClient::new(), worker)
}

fn ask_with(client: &WorkerClient, worker: SocketAddr) -> Result<WorkerAnswer, WorkerError> {
    let asked = client.ask(worker, 25, Instant::now() + PATIENCE, &CancelHandle::new());
    asked.map(|answered| answered.answer)
}

/// The outcome of asking a worker that sends `answer` and closes.
fn outcome_of(answer: &'static str) -> Result<WorkerAnswer, WorkerError> {
    let (address, _head) = worker(move |mut stream| stream.write_all(answer.as_bytes()).unwrap());
    ask(address)
}

fn prime(bytes: &str) -> Result<WorkerAnswer, WorkerError> {
    Ok(WorkerAnswer::Prime(bytes.as_bytes().to_vec()))
}

#[test]
fn the_request_holds_the_number_and_nothing_of_the_client() {
    let (address, head) = worker(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n97\n").unwrap();
    });
    assert_eq!(ask(address), prime("97\n"));
    let head = head.recv().unwrap().to_ascii_lowercase();
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["get /25 http/1.1", &format!("host: {address}"), "x-rakit-hop: 1"]);
}

#[test]
fn answers_that_count() {
    // The course's worker: HTTP/1.0, no Content-Length, no newline, closes.
    assert_eq!(outcome_of("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n97"), prime("97"));
    assert_eq!(outcome_of("HTTP/1.0 200 OK\r\n\r\n97"), prime("97"));
    assert_eq!(outcome_of("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n97\n"), prime("97\n"));
    assert_eq!(
        outcome_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n9\r\n2\r\n7\n\r\n0\r\n\r\n"),
        prime("97\n")
    );
    let digits = "1".repeat(PRIME_BYTES_MAX);
    let (address, _head) =
        worker(move |mut stream| write!(stream, "HTTP/1.0 200 OK\r\n\r\n{digits}").unwrap());
    assert!(matches!(ask(address), Ok(WorkerAnswer::Prime(body)) if body.len() == PRIME_BYTES_MAX));
}

#[test]
fn two_hundreds_that_do_not_count() {
    for (answer, reason) in [
        ("HTTP/1.0 200 OK\r\n\r\n", "empty"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "empty"),
        ("HTTP/1.0 200 OK\r\n\r\n\n", "empty"),
        ("HTTP/1.0 200 OK\r\n\r\n97\n\n", "'\\n'"),
        ("HTTP/1.0 200 OK\r\n\r\n97\r\n", "'\\r'"),
        ("HTTP/1.0 200 OK\r\n\r\n 97", "' '"),
        ("HTTP/1.0 200 OK\r\n\r\n-97", "'-'"),
        ("HTTP/1.0 200 OK\r\n\r\n9.7", "'.'"),
        ("HTTP/1.0 200 OK\r\n\r\nninety-seven", "'n'"),
        ("HTTP/1.0 200 OK\r\n\r\n9\u{0667}", "\\xd9"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n97", "longer than 64"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not a whole HTTP answer"),
    ] {
        match outcome_of(answer) {
            Err(WorkerError::BadBody(why)) => assert!(why.contains(reason), "{answer:?}: {why}"),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
}

/// The server broke the connection. This is no answer: a stall does not end by it.
#[test]
fn a_body_that_ends_before_its_announced_end_is_a_broken_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n129",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 404 No\r\nContent-Length: 7\r\n\r\n129",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n9\r\n2\r\n7",
    ] {
        assert_eq!(outcome_of(answer), Err(WorkerError::Closed), "{answer:?}");
    }
}

#[test]
fn statuses() {
    assert_eq!(
        outcome_of(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\ntoo big\n"
        ),
        Ok(WorkerAnswer::ClientError { status: 400, body: b"too big\n".to_vec() })
    );
    assert_eq!(
        outcome_of("HTTP/1.0 404 Not Found\r\n\r\n"),
        Ok(WorkerAnswer::ClientError { status: 404, body: Vec::new() })
    );
    assert_eq!(outcome_of("HTTP/1.0 500 Internal Server Error\r\n\r\n"), Err(WorkerError::ServerError(500)));
    assert_eq!(
        outcome_of("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"),
        Err(WorkerError::Busy { retry_after_s: 7 })
    );
    assert_eq!(
        outcome_of("HTTP/1.1 503 Bad\r\nContent-Length: 0\r\n\r\n"),
        Err(WorkerError::ServerError(503))
    );
    for redirect in ["HTTP/1.1 302 Found", "HTTP/1.0 307 Temporary Redirect"] {
        let answer = format!("{redirect}\r\nLocation: http://127.0.0.1:1/97\r\nContent-Length: 0\r\n\r\n");
        let (address, _head) = worker(move |mut stream| stream.write_all(answer.as_bytes()).unwrap());
        assert!(matches!(ask(address), Err(WorkerError::ServerError(302 | 307))));
    }
    assert_eq!(outcome_of("HTTP/1.1 204 No Content\r\n\r\n"), Err(WorkerError::ServerError(204)));
}

#[test]
fn an_oversized_client_error_is_no_answer() {
    let (address, _head) = worker(|mut stream| {
        let body = "x".repeat(CLIENT_ERROR_BYTES_MAX + 1);
        let _ = write!(stream, "HTTP/1.0 400 Bad Request\r\n\r\n{body}");
    });
    assert!(matches!(ask(address), Err(WorkerError::BadBody(_))));
}

#[test]
fn an_endless_body_ends_at_the_bound() {
    let (address, _head) = worker(|mut stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        // Ends with an error when the client closes.
        while stream.write_all(&[b'9'; 1024]).is_ok() {}
    });
    assert!(matches!(ask(address), Err(WorkerError::BadBody(why)) if why.contains("longer than")));
}

#[test]
fn an_endless_head_ends_at_the_bound() {
    let (address, _head) = worker(|mut stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\nX: ").unwrap();
        while stream.write_all(&[b'9'; 1024]).is_ok() {}
    });
    assert!(matches!(ask(address), Err(WorkerError::BadBody(_))));
}

#[test]
fn refused_and_closed_without_a_word() {
    let (_keeps_the_port, nobody) = refusing();
    assert_eq!(ask(nobody), Err(WorkerError::Refused));
    let (address, _head) = worker(drop);
    assert_eq!(ask(address), Err(WorkerError::Closed));
    assert_eq!(outcome_of("HTTP/1.0 200 O"), Err(WorkerError::Closed));
}

/// Ends the connection with RST instead of FIN, as the kernel does for a killed process with unread input.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_is_no_end_of_a_body() {
    let (address, _head) = worker(reset);
    assert_eq!(ask(address), Err(WorkerError::Closed));
    // The client reads the digits before the reset is sent: a reset makes the kernel drop what was not read.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n129").unwrap();
        while unread_by_peer(&stream) > 0 {
            thread::yield_now();
        }
        reset(stream);
    });
    assert_eq!(ask(address), Err(WorkerError::Closed));
    server.join().unwrap();
}

/// How many bytes wait in the receive queue of the other end of this loopback connection, from /proc/net/tcp.
fn unread_by_peer(stream: &TcpStream) -> u64 {
    let (here, there) = (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port());
    let entries = procfs::net::tcp().unwrap();
    entries
        .iter()
        .find(|entry| entry.local_address.port() == there && entry.remote_address.port() == here)
        .map_or(0, |entry| u64::from(entry.rx_queue))
}

/// How many connections wait for accept(2) at a listening socket, from /proc/net/tcp.
fn waiting_at(listening: SocketAddr) -> u32 {
    let entries = procfs::net::tcp().unwrap();
    let listens = |entry: &&procfs::net::TcpNetEntry| {
        entry.local_address == listening && entry.state == procfs::net::TcpState::Listen
    };
    entries.iter().find(listens).map_or(0, |entry| entry.rx_queue)
}

#[test]
fn the_deadline_ends_a_silent_and_a_trickling_worker() {
    let (address, _head) = worker(|stream| {
        // Holds the connection open until the other side gives up.
        let _ = BufReader::new(stream).read_line(&mut String::new());
    });
    let soon = || Instant::now() + Duration::from_millis(100);
    let outcome = WorkerClient::new().ask(address, 25, soon(), &CancelHandle::new());
    assert_eq!(outcome, Err(WorkerError::DeadlinePassed));

    // One byte after another, each well within the time that is left: the deadline is for the whole answer. The body
    // has no end, so only the deadline or the bound can end the wait; the bytes come too slowly for the bound, which
    // would take 19 s.
    let (address, _head) = worker(|mut stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        let (_never, pause) = mpsc::channel::<()>();
        while stream.write_all(b"7").is_ok() {
            let _ = pause.recv_timeout(Duration::from_millis(300));
        }
    });
    let deadline = Instant::now() + Duration::from_millis(700);
    let outcome = WorkerClient::new().ask(address, 25, deadline, &CancelHandle::new());
    assert_eq!(outcome, Err(WorkerError::DeadlinePassed));

    let past = WorkerClient::new().ask(address, 25, Instant::now(), &CancelHandle::new());
    assert_eq!(past, Err(WorkerError::DeadlinePassed));
}

#[test]
fn cancelled_from_another_thread_while_waiting() {
    for head in ["", "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n129"] {
        let cancel = CancelHandle::new();
        let canceller = cancel.clone();
        let (address, _head) = worker(move |mut stream| {
            stream.write_all(head.as_bytes()).unwrap();
            while unread_by_peer(&stream) > 0 {
                thread::yield_now();
            }
            canceller.cancel();
            // The worker sees the connection close, and may stop computing.
            assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
        });
        let outcome = WorkerClient::new().ask(address, 25, Instant::now() + PATIENCE, &cancel);
        assert_eq!(outcome, Err(WorkerError::Cancelled), "after {head:?}");
        // Once cancelled, a handle stays so, and nobody is asked.
        let again = WorkerClient::new().ask(address, 25, Instant::now() + PATIENCE, &cancel);
        assert_eq!(again, Err(WorkerError::Cancelled));
    }
}

#[test]
fn cancelled_before_the_socket_is_lent_is_not_lost() {
    // First cancelled, then connected: the connection is closed at once.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let socket = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let cancel = CancelHandle::new();
    cancel.cancel();
    assert!(cancel.lend(&socket).is_err());
}

#[test]
fn a_handle_keeps_no_descriptor_after_the_call() {
    let (address, _head) = worker(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n97").unwrap();
        // Returns when the client has closed, although it still holds its handle.
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    });
    let cancel = CancelHandle::new();
    let client = WorkerClient::new();
    let asked = client.ask(address, 25, Instant::now() + PATIENCE, &cancel);
    assert_eq!(asked.map(|answered| answered.answer), prime("97"));
    assert!(!cancel.holds_a_socket());
}

#[test]
fn a_busy_listener_ends_in_a_connect_timeout() {
    // A backlog that is full drops the handshake: what the course's worker does under load.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut kept = Vec::new();
    while waiting_at(address) <= 1 {
        // A time-out here means nothing on a machine that stands still: the kernel's own count does.
        kept.extend(TcpStream::connect_timeout(&address, Duration::from_millis(200)));
        assert!(kept.len() < 16, "the backlog never filled");
    }
    assert_eq!(ask(address), Err(WorkerError::ConnectTimeout));
    // A call that waits for the handshake can be cancelled, too. The kernel's own time-out would give another error.
    let cancel = CancelHandle::new();
    let canceller = cancel.clone();
    let cancelling = thread::spawn(move || {
        while !canceller.holds_a_socket() {
            thread::yield_now();
        }
        canceller.cancel();
    });
    let outcome = connect(&address, None, Duration::from_secs(3_600), Some(&cancel));
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    cancelling.join().unwrap();
    // With less time left than that, the deadline passes first.
    let soon = Instant::now() + Duration::from_millis(100);
    let outcome = WorkerClient::new().ask(address, 25, soon, &CancelHandle::new());
    assert_eq!(outcome, Err(WorkerError::DeadlinePassed));
}

const OFFERS: &str = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 3\r\n\r\n97\n";
const OFFERS_NOT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n97\n";

/// A worker that accepts one connection after the other. Each connection has a list of answers, one per request. The
/// worker closes the connection after the last answer, or after half of one. It reports for each request on which
/// connection it came.
fn worker_of_lists(lists: &'static [&'static [&'static str]]) -> (SocketAddr, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, seen) = mpsc::channel();
    thread::spawn(move || {
        for (connection, answers) in lists.iter().enumerate() {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            for answer in answers.iter().map(Some).chain([None]) {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
                if head.is_empty() {
                    break; // The client has closed.
                }
                requests.send(connection).unwrap();
                let Some(answer) = answer else { break };
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
                if !answer.ends_with('\n') {
                    break; // It was no whole answer, and no more comes.
                }
            }
        }
    });
    (address, seen)
}

/// Asks the worker so many times, one after the other. Returns the outcomes, and on which connection each request came.
fn ask_in_turn(
    lists: &'static [&'static [&'static str]],
    times: usize,
) -> (Vec<Result<WorkerAnswer, WorkerError>>, Vec<usize>) {
    let (address, seen) = worker_of_lists(lists);
    let client = WorkerClient::new();
    let ask = |_| ask_with(&client, address);
    let outcomes = (0..times).map(ask).collect();
    (outcomes, seen.try_iter().collect())
}

#[test]
fn a_connection_is_kept_for_a_worker_that_offers_it_and_for_no_other() {
    let (outcomes, seen) = ask_in_turn(&[&[OFFERS, OFFERS, OFFERS]], 3);
    assert_eq!((outcomes, seen), (vec![prime("97\n"); 3], vec![0, 0, 0]));
    // The worker may offer and later no longer offer: its last answer counts.
    let (outcomes, seen) = ask_in_turn(&[&[OFFERS_NOT], &[OFFERS, OFFERS_NOT], &[OFFERS]], 4);
    assert_eq!((outcomes, seen), (vec![prime("97\n"); 4], vec![0, 1, 1, 2]));
}

#[test]
fn the_parts_of_the_time_are_in_order_and_a_kept_connection_costs_none() {
    let (address, _seen) = worker_of_lists(&[&[OFFERS, OFFERS]]);
    let client = WorkerClient::new();
    for round in 0..2 {
        let began = Instant::now();
        let asked = client.ask(address, 25, began + PATIENCE, &CancelHandle::new()).unwrap();
        assert_eq!(asked.connect.is_zero(), round == 1, "{asked:?}");
        assert!(!asked.first_byte.is_zero() && asked.asked_at >= began, "{asked:?}");
        assert!(asked.asked_at + asked.connect + asked.first_byte <= Instant::now(), "{asked:?}");
    }
}

#[test]
fn a_kept_connection_that_ends_before_a_byte_is_no_failure_and_the_worker_is_asked_again() {
    // The worker reads the second request and closes without an answer.
    let (outcomes, seen) = ask_in_turn(&[&[OFFERS], &[OFFERS]], 2);
    assert_eq!((outcomes, seen), (vec![prime("97\n"); 2], vec![0, 0, 1]));
    // Only once: if the fresh connection ends so, too, that is a failure.
    let (outcomes, seen) = ask_in_turn(&[&[OFFERS], &[]], 2);
    assert_eq!((outcomes, seen), (vec![prime("97\n"), Err(WorkerError::Closed)], vec![0, 0, 1]));
}

#[test]
fn a_kept_connection_that_ends_after_a_byte_is_a_failure() {
    const IN_THE_BODY: &str = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 3\r\n\r\n9";
    const LISTS: [&[&[&str]]; 2] = [&[&[OFFERS, "H"], &[OFFERS]], &[&[OFFERS, IN_THE_BODY], &[OFFERS]]];
    for lists in LISTS {
        let (outcomes, seen) = ask_in_turn(lists, 2);
        assert_eq!(outcomes[1], Err(WorkerError::Closed), "{outcomes:?}");
        assert_eq!(seen, [0, 0]);
    }
}

#[test]
fn what_comes_unasked_on_a_kept_connection_is_no_answer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = WorkerClient::new();
    let accepting = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let _ = first.read(&mut [0; 1024]).unwrap();
        first.write_all(OFFERS.as_bytes()).unwrap();
        (first, listener)
    });
    let ask = || ask_with(&client, address);
    assert_eq!(ask(), prime("97\n"));
    let (mut first, listener) = accepting.join().unwrap();
    // As some servers do before they close an idle connection.
    first.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").unwrap();
    while unread_by_peer(&first) == 0 {
        thread::yield_now();
    }
    let serving = thread::spawn(move || {
        let (mut second, _) = listener.accept().unwrap();
        let _ = second.read(&mut [0; 1024]).unwrap();
        second.write_all(OFFERS.as_bytes()).unwrap();
    });
    assert_eq!(ask(), prime("97\n"));
    serving.join().unwrap();
}

/// Not a test of behaviour: `cargo test --release -- --ignored --nocapture microseconds_per_call`.
#[test]
#[ignore = "a measurement"]
fn microseconds_per_call() {
    const CALLS: u32 = 20_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = [0; 1024];
                while stream.read(&mut head).is_ok_and(|read| read > 0) {
                    stream.write_all(OFFERS.as_bytes()).unwrap();
                }
            });
        }
    });
    let timed = |mut call: Box<dyn FnMut()>| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed() / CALLS
    };
    for round in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = [0; 1024];
        let bare = timed(Box::new(move || {
            stream.write_all(b"GET /25 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
            assert_eq!(stream.read(&mut answer).unwrap(), OFFERS.len());
        }));
        let client = WorkerClient::new();
        let ours = timed(Box::new(move || {
            client.ask(address, 25, Instant::now() + PATIENCE, &CancelHandle::new()).unwrap();
        }));
        let timeouts = ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: PATIENCE };
        let mut client = Client::new(timeouts);
        let ureqs = timed(Box::new(move || {
            client.get(address, "/25", &[], 1_024).unwrap();
        }));
        println!("round {round}: bare socket {bare:?}, WorkerClient {ours:?}, ureq {ureqs:?}");
    }
}
