//! The one line that each request for a prime leaves in the log, in the manner of HAProxy: who asked, for what, who
//! answered, where the time went, how many servers were asked, and how it ended. Written by `primes.rs`.
//!
//! docs/log-lines.md explains each part; `rakit demo` and tests/transcripts look for `answered by`.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

/// The parts of the time of a request, in their order; each is a metric of the header `Server-Timing`.
const PARTS: [&str; 4] = ["queue", "connect", "wait", "total"];

/// Where the time of one request went, written once for both the line and the header: `0.0/0.1/1.2/1.3`, in
/// milliseconds, with `-` for a part that never began.
#[derive(Debug)]
pub struct RequestTimes(String);

impl RequestTimes {
    /// Of a request that a server answered. `queue`: until that server was asked; `connect`: until there was a
    /// connection to it; `wait`: until the first byte of its answer came; `total`: until the answer was ready for the
    /// client.
    pub fn answered(queue: Duration, connect: Duration, wait: Duration, total: Duration) -> Self {
        let mut text = String::with_capacity(32);
        for (part, time) in [queue, connect, wait, total].into_iter().enumerate() {
            let tenths = (time.as_micros() + 50) / 100;
            let slash = if part == 0 { "" } else { "/" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{slash}{}.{}", tenths / 10, tenths % 10);
        }
        Self(text)
    }

    /// Of a request that no server answered.
    pub fn unanswered(total: Duration) -> Self {
        let Self(text) = Self::answered(Duration::ZERO, Duration::ZERO, Duration::ZERO, total);
        let (_, total) = text.rsplit_once('/').expect("it was just written with three slashes");
        Self(format!("-/-/-/{total}"))
    }

    /// The value of `Server-Timing` (W3C), without the parts that never began.
    pub fn server_timing(&self) -> String {
        let mut value = String::with_capacity(80);
        for (part, ms) in PARTS.iter().zip(self.0.split('/')).filter(|(_, ms)| *ms != "-") {
            let comma = if value.is_empty() { "" } else { "," };
            let _ = write!(value, "{comma}{part};dur={ms}");
        }
        value
    }
}

/// The line, as it is displayed.
pub struct RequestLine<'a> {
    /// The request's id.
    pub id: &'a str,
    /// What was asked for; `None` if that is no number.
    pub n: Option<u64>,
    /// Who asked.
    pub client: SocketAddr,
    /// Who answered, and its load in percent when it was chosen, if that was known.
    pub server: Option<(&'a str, Option<f64>)>,
    /// The status of the answer.
    pub status: u16,
    /// Where the time went.
    pub times: &'a RequestTimes,
    /// How many servers were asked.
    pub tries: usize,
    /// What else is worth saying; empty if nothing is.
    pub note: &'a str,
}

impl fmt::Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, n, client, server, status, times: RequestTimes(times), tries, note } = self;
        write!(f, "request {id}: N=")?;
        match n {
            Some(n) => write!(f, "{n}")?,
            None => f.write_str("?")?,
        }
        write!(f, " from {client} answered by ")?;
        match server {
            Some((server, Some(load))) => write!(f, "{server} (load when chosen {load:.1} %)")?,
            Some((server, None)) => write!(f, "{server} (load when chosen not known)")?,
            None => f.write_str("no server")?,
        }
        write!(f, ": {status} in {times} ms, tries {tries}")?;
        if note.is_empty() { Ok(()) } else { write!(f, ", {note}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_and_the_header_say_the_same_times() {
        let us = Duration::from_micros;
        let times = RequestTimes::answered(us(12), us(149), us(1_251), us(12_345_678));
        let client = SocketAddr::from(([10, 0, 0, 9], 51_234));
        let mut line = RequestLine {
            id: "3-1ef-6",
            n: Some(1_000),
            client,
            server: Some(("server-2", Some(12.34))),
            status: 200,
            times: &times,
            tries: 2,
            note: "another server had stalled",
        };
        assert_eq!(
            line.to_string(),
            "request 3-1ef-6: N=1000 from 10.0.0.9:51234 answered by server-2 (load when chosen 12.3 %): 200 in \
             0.0/0.1/1.3/12345.7 ms, tries 2, another server had stalled"
        );
        assert_eq!(times.server_timing(), "queue;dur=0.0,connect;dur=0.1,wait;dur=1.3,total;dur=12345.7");

        let times = RequestTimes::unanswered(us(49));
        (line.n, line.server, line.status, line.times) = (None, None, 400, &times);
        (line.tries, line.note) = (0, "");
        assert_eq!(
            line.to_string(),
            "request 3-1ef-6: N=? from 10.0.0.9:51234 answered by no server: 400 in -/-/-/0.0 ms, tries 0"
        );
        assert_eq!(times.server_timing(), "total;dur=0.0");
    }
}
