//! Requests at a steady rate, for a demonstration: `rakit ctl requests`. `steering.rs` starts and ends them.
//!
//! One thread keeps the pace, and some threads send. If none is free, a request is left out: a cluster that answers slowly
//! gets no longer and longer queue from here.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rakit::http::client::{Client, ClientTimeouts};

/// The most requests under way at once.
const UNDER_WAY_MAX: usize = 64;
/// How long a request may take until its answer comes: a big N takes a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes: a prime, or a line about an error.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The requests that are being sent; dropping it ends them.
#[derive(Debug)]
pub struct Traffic {
    per_second: u32,
    /// Dropping it ends the pacing thread, which ends the others.
    _running: Sender<()>,
}

impl Traffic {
    /// Asks these nodes in turn for the Nth prime, `per_second` times a second (at least 1).
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(nodes: Vec<SocketAddr>, per_second: u32, n: u64) -> std::io::Result<Traffic> {
        let (running, ended) = bounded(0);
        let (jobs, to_send) = bounded::<SocketAddr>(0);
        let threads = UNDER_WAY_MAX.min(per_second as usize * 2);
        for i in 0..threads {
            let to_send = to_send.clone();
            thread::Builder::new().name(format!("request-{i}")).spawn(move || send(&to_send, n))?;
        }
        let pause = Duration::from_secs(1) / per_second.max(1);
        thread::Builder::new()
            .name("request-pace".to_string())
            .spawn(move || keep_pace(&nodes, pause, &ended, &jobs))?;
        Ok(Traffic { per_second, _running: running })
    }

    /// How many requests it sends a second.
    pub fn per_second(&self) -> u32 {
        self.per_second
    }
}

fn keep_pace(nodes: &[SocketAddr], pause: Duration, ended: &Receiver<()>, jobs: &Sender<SocketAddr>) {
    let mut next = Instant::now();
    for node in nodes.iter().cycle() {
        if ended.recv_deadline(next) != Err(RecvTimeoutError::Timeout)
            || matches!(jobs.try_send(*node), Err(TrySendError::Disconnected(_)))
        {
            return;
        }
        // After a pause of this process, the missed requests are not made up for.
        next = (next + pause).max(Instant::now());
    }
}

fn send(to_send: &Receiver<SocketAddr>, n: u64) {
    let mut client = Client::new(ClientTimeouts {
        connect: CONNECT_TIMEOUT,
        send: CONNECT_TIMEOUT,
        receive: ANSWER_TIMEOUT,
    });
    let path = format!("/{n}");
    for node in to_send {
        // The node's log tells how it went.
        let _ = client.get(node, &path, &[], ANSWER_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_asked_in_turn_until_the_end() {
        let servers: Vec<tiny_http::Server> =
            (0..2).map(|_| tiny_http::Server::http("127.0.0.1:0").expect("a free port")).collect();
        let nodes =
            servers.iter().map(|server| server.server_addr().to_ip().expect("an IP address")).collect();
        let traffic = Traffic::start(nodes, 200, 7).expect("threads");
        for server in servers.iter().chain(&servers) {
            let request = server.recv().expect("a request");
            assert_eq!(request.url(), "/7");
            request.respond(tiny_http::Response::from_string("17")).expect("answered");
        }
        drop(traffic);
        // What was under way comes; then nothing more.
        while servers[0].recv_timeout(Duration::from_millis(500)).expect("it listens").is_some() {}
    }
}
