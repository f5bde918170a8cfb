//! Shows what tiny_http 0.12's own `Server` does, and why the nodes do not listen with it (docs/http-edge.md).
//!
//! The tests here test nothing of Rakit but assert the defects of another crate, so a person runs them by hand. If one fails after an
//! upgrade of tiny_http, that defect is mended there:
//! `cargo test --test edge tiny_http_server:: -- --ignored --nocapture`

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What a connection is given before it counts as never served.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer that Nagle's algorithm holds back until the delayed acknowledgement: tcp(7), RFC 1122 section 4.2.3.
const BODY_BYTES: usize = 8 * 1024;

fn start(body_bytes: usize) -> SocketAddr {
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("binds"));
    let address = server.server_addr().to_ip().expect("is an IP address");
    thread::spawn(move || {
        for request in server.incoming_requests() {
            let answer = tiny_http::Response::from_data(vec![b'x'; body_bytes]);
            let _ = request.respond(answer);
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("has a time-out");
    stream
}

/// Sends a GET and reads the whole answer. Whether it came.
fn get(mut stream: &TcpStream) -> bool {
    if stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err() {
        return false;
    }
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if !matches!(reader.read_line(&mut line), Ok(1..)) {
            return false;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a number");
        }
    }
    reader.read_exact(&mut vec![0; length]).is_ok()
}

#[test]
#[ignore = "shows defects of tiny_http's own Server; run by hand: cargo test --test edge tiny_http_server:: -- --ignored --nocapture"]
fn connections_opened_at_once_are_never_served() {
    let address = start(2);
    let streams: Vec<TcpStream> = (0..64).map(|_| connect(address)).collect();
    let served: Vec<bool> = thread::scope(|scope| {
        let threads: Vec<_> = streams.iter().map(|stream| scope.spawn(move || get(stream))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let starved = served.iter().filter(|served| !**served).count();
    println!("{starved} of 64 keep-alive connections were not served within {PATIENCE:?}");
    assert!(starved > 0);
}

#[test]
#[ignore = "shows defects of tiny_http's own Server; run by hand: cargo test --test edge tiny_http_server:: -- --ignored --nocapture"]
fn an_answer_of_a_few_kilobytes_waits_for_an_acknowledgement() {
    let stream = connect(start(BODY_BYTES));
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let start = Instant::now();
            assert!(get(&stream));
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("median answer of {BODY_BYTES} bytes: {:?}", times[times.len() / 2]);
    assert!(times[times.len() / 2] > Duration::from_millis(20));
}

/// The child of the next test: one packet ends it.
#[test]
#[ignore = "is started by the test of the abort, as a process of its own"]
fn a_victim() {
    if std::env::var_os("RAKIT_TEST_VICTIM").is_none() {
        return;
    }
    let server = tiny_http::Server::http("127.0.0.1:0").expect("binds");
    println!("listening on {}", server.server_addr());
    for mut request in server.incoming_requests() {
        let mut body = Vec::new();
        let _ = request.as_reader().read_to_end(&mut body);
        let _ = request.respond(tiny_http::Response::from_string("alive"));
    }
}

#[test]
#[ignore = "shows defects of tiny_http's own Server; run by hand: cargo test --test edge tiny_http_server:: -- --ignored --nocapture"]
fn one_packet_aborts_the_process() {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "tiny_http_server::a_victim", "--ignored", "--nocapture", "--test-threads", "1"])
        .env("RAKIT_TEST_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once("listening on ").map(|(_, address)| address.parse()));
    let address: SocketAddr = address.expect("it says where").expect("an address");
    let mut stream = connect(address);
    // The length is claimed; not one byte of the body is sent.
    let packet = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000000000\r\n\r\n";
    stream.write_all(packet).expect("takes it");
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().expect("is our child") {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    if status.is_none() {
        child.kill().expect("is our child");
        child.wait().expect("ends");
    }
    println!("one packet of {} bytes, and the process ended with {status:?}", packet.len());
    assert!(status.is_some_and(|status| !status.success()), "it survived");
}
