//! wrk, the loader of HTTP requests, on one thread: how it is called and what it says.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::Fallible;

/// What one run of wrk measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub requests: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Answers other than 2xx and 3xx, and connections that failed.
    pub errors: f64,
}

/// Asks for `path` as fast as answers come, on so many connections.
///
/// # Errors
/// When wrk fails or says something that is not understood.
pub fn run(
    address: SocketAddr,
    path: &str,
    connections: usize,
    seconds: u64,
    new_connections: bool,
) -> Fallible<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    command.args(["--timeout", "10s"]);
    if new_connections {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{address}{path}"));
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse(&text).ok_or_else(|| format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

fn parse(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let (mut seen_rate, mut seen_latency) = (false, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => load.p50_us = microseconds(time)?,
            ["99%", time] => {
                load.p99_us = microseconds(time)?;
                seen_latency = true;
            }
            ["Requests/sec:", rate] => {
                load.per_second = rate.parse().ok()?;
                seen_rate = true;
            }
            [count, "requests", "in", ..] => load.requests = count.parse().ok()?,
            ["Non-2xx", .., count] => load.errors += count.parse::<f64>().ok()?,
            ["Socket", "errors:", counts @ ..] => {
                let counts = counts.iter().filter_map(|word| word.trim_end_matches(',').parse::<f64>().ok());
                load.errors += counts.sum::<f64>();
            }
            _ => {}
        }
    }
    (seen_rate && seen_latency).then_some(load)
}

/// "74.00us", "1.20ms" and "2.05s" as microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)];
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}
