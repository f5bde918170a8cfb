//! Part `edge`: how fast the HTTP edge of the nodes answers, beside tiny_http's own `Server` in the same run. Both answer two
//! bytes to GETs on kept connections. The clients run on the same processors and are the same for both, so only the ratio counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rakit::http::message::text;
use rakit::http::{Limits, Request, Response, Server, Service};
use tiny_http::Method;

use crate::Fallible;
use crate::closed_loop::{self, Gets, Until};
use crate::part::{Figure, Layout, Part, Setup};
use crate::results::Results;

pub const PART: Part = Part {
    name: "edge",
    about: "the HTTP edge of the nodes beside tiny_http's own server",
    layout: Layout::OneTable,
    figures: &[Figure::new("requests/s", 0), Figure::new("median ms", 3), Figure::new("p99 ms", 3)],
    plots: &[],
    run,
};

const ROUNDS: usize = 3;
const SECONDS: u64 = 2;
const SECONDS_QUICK: u64 = 1;

/// No more than tiny_http serves: of many connections opened at once it forgets some (docs/http-edge.md).
const CLIENTS: [usize; 3] = [1, 2, 4];

struct Five;

impl Service for Five {
    fn body_limit(&self, _: &Method, _: &str) -> Result<usize, Response> {
        Ok(0)
    }

    fn call(&self, _: Request) -> Response {
        text(200, "5")
    }
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ours = Server::bind("bench", any, Limits::default(), Arc::new(Five))?;
    let theirs = Arc::new(tiny_http::Server::http(any)?);
    let their_address = theirs.server_addr().to_ip().ok_or("tiny_http listens on no IP address")?;
    let over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..CLIENTS[CLIENTS.len() - 1])
        .map(|_| {
            let (theirs, over) = (Arc::clone(&theirs), Arc::clone(&over));
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    if let Ok(Some(request)) = theirs.recv_timeout(Duration::from_millis(100)) {
                        // The client may be gone at the end of a run.
                        let _ = request.respond(tiny_http::Response::from_string("5\n"));
                    }
                }
            })
        })
        .collect();
    let time = Duration::from_secs(setup.quick_or(SECONDS_QUICK, SECONDS));
    for round in 0..setup.rounds(ROUNDS) {
        setup.say(&format!("round {}", round + 1));
        for clients in CLIENTS {
            let setting = format!("{clients} client{}", if clients == 1 { "" } else { "s" });
            for (system, address) in
                [("Rakit's edge", ours.local_addr()), ("tiny_http's Server", their_address)]
            {
                let client = |_| (address, Gets::new(std::iter::repeat("/3".to_owned())));
                let outcome = closed_loop::run((0..clients).map(client).collect(), Until::After(time))?;
                results.record(&setting, system, "requests/s", outcome.per_second());
                results.record(&setting, system, "median ms", outcome.quantile_ms(0.5));
                results.record(&setting, system, "p99 ms", outcome.quantile_ms(0.99));
            }
        }
    }
    over.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().map_err(|_| "tiny_http's thread failed")?;
    }
    Ok(())
}
