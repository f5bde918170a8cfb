//! How fast the HTTP edge answers, beside tiny_http's own `Server` in the same run. By hand:
//! `cargo test --release --test bench http_edge:: -- --ignored --nocapture`
//!
//! Both answer the same two bytes to keep-alive GETs; the clients are the same threads with the same buffers, so the
//! ratio is of the servers, though the figures themselves contain the client's half.

use rakit::http::message::text;
use rakit::http::{Limits, Server, Service};
use rakit::http::{Request, Response};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use tiny_http::Method;

const REQUESTS_PER_CLIENT: usize = 20_000;
const ROUNDS: usize = 3;
const REQUEST: &[u8] = b"GET /3 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

struct Five;

impl Service for Five {
    fn body_limit(&self, _: &Method, _: &str) -> Result<usize, Response> {
        Ok(0)
    }

    fn call(&self, _: Request) -> Response {
        text(200, "5")
    }
}

/// Requests per second, and the median time of one in microseconds.
fn measure(address: SocketAddr, clients: usize) -> (f64, f64) {
    let start = Instant::now();
    let mut times: Vec<f64> = thread::scope(|scope| {
        let client = || {
            let mut stream = TcpStream::connect(address).expect("connects");
            stream.set_nodelay(true).expect("sets it");
            let mut answer = [0; 4096];
            let mut times = Vec::with_capacity(REQUESTS_PER_CLIENT);
            for _ in 0..REQUESTS_PER_CLIENT {
                let start = Instant::now();
                stream.write_all(REQUEST).expect("takes it");
                let mut end = 0;
                while !answer[..end].ends_with(b"5\n") {
                    let received = stream.read(&mut answer[end..]).expect("answers");
                    assert_ne!(received, 0, "it closed");
                    end += received;
                }
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            times
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    (rate, times[times.len() / 2])
}

#[test]
#[ignore = "measures; run by hand: cargo test --release --test bench http_edge:: -- --ignored --nocapture"]
fn keep_alive_gets_beside_tiny_http() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ours = Server::bind("bench", any, Limits::default(), Arc::new(Five)).expect("binds");
    let theirs = Arc::new(tiny_http::Server::http(any).expect("binds"));
    let their_address = theirs.server_addr().to_ip().expect("is an IP address");
    // One thread per connection takes requests, as a program on tiny_http would do it.
    for _ in 0..4 {
        let theirs = Arc::clone(&theirs);
        thread::spawn(move || {
            for request in theirs.incoming_requests() {
                let _ = request.respond(tiny_http::Response::from_string("5\n"));
            }
        });
    }
    println!("clients | edge /s | tiny_http /s | ratio | edge median us | tiny_http median us");
    for clients in [1, 2, 4] {
        for _ in 0..ROUNDS {
            let (rate, median) = measure(ours.local_addr(), clients);
            let (their_rate, their_median) = measure(their_address, clients);
            let ratio = rate / their_rate;
            println!(
                "{clients} | {rate:.0} | {their_rate:.0} | {ratio:.2} | {median:.1} | {their_median:.1}"
            );
        }
    }
    assert_eq!(ours.counters().requests, (7 * ROUNDS * REQUESTS_PER_CLIENT) as u64);
}
