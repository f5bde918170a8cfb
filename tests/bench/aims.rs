//! The aims of the project as a table: what was to be reached, what was measured, and whether it holds. Each line is computed from
//! the stored results, so that no claim is older than its figures.

use std::fmt::Write as _;

use crate::Fallible;
use crate::consensus::{DISK, SYNC};
use crate::forwarding::{IDLE, NEW_CONNECTIONS};
use crate::idle;
use crate::plot::number;
use crate::results::Results;
use crate::scale::MANY;
use crate::worker::LOADED;

/// The result in words, and whether the aim holds.
type Verdict = (String, bool);

/// One aim.
struct Aim {
    what: &'static str,
    aim: &'static str,
    part: &'static str,
    /// Gives `None` if the part was not measured.
    judge: fn(&Results) -> Option<Verdict>,
}

const HEADLINE: &str = "4 servers, load 0.8, reports each 1 s";
const SIXTEEN: &str = "16 servers, load 0.8, reports each 1 s";
const RAKIT: &str = "Rakit projected, 5 nodes";

const AIMS: &[Aim] = &[
    Aim {
        what: "mean time of a request, mixed work, unequal servers, load 0.8, five nodes",
        aim: "0.135 s",
        part: "balance",
        judge: |results| {
            let mean = results.spread(HEADLINE, RAKIT, "mean s")?.median;
            Some((format!("{mean:.3} s"), mean <= 0.135))
        },
    },
    Aim {
        what: "the same, slowdown at p99",
        aim: "7.5",
        part: "balance",
        judge: |results| {
            let slowdown = results.spread(HEADLINE, RAKIT, "slowdown p99")?.median;
            Some((number(slowdown), slowdown <= 7.5))
        },
    },
    Aim {
        what: "the same, p99",
        aim: "within 10 % of the best peer",
        part: "balance",
        judge: |results| beside_peers(results, HEADLINE, "p99 s", 1.1),
    },
    Aim {
        what: "the same, makespan",
        aim: "within 10 % of the best peer",
        part: "balance",
        judge: |results| beside_peers(results, HEADLINE, "makespan s", 1.1),
    },
    Aim {
        what: "the same with sixteen servers, mean",
        aim: "better than every peer",
        part: "balance",
        judge: |results| beside_peers(results, SIXTEEN, "mean s", 1.0),
    },
    Aim {
        what: "four servers in virtual time, over many seeds: mean",
        aim: "0.135 s",
        part: "simulate",
        judge: |results| {
            let mean = results.spread(HEADLINE, RAKIT, "mean s")?.median;
            Some((format!("{mean:.3} s"), mean <= 0.135))
        },
    },
    Aim {
        what: "the same, p99",
        aim: "within 10 % of the best peer",
        part: "simulate",
        judge: |results| beside_peers(results, HEADLINE, "p99 s", 1.1),
    },
    Aim {
        what: "the same, makespan",
        aim: "within 10 % of the best peer",
        part: "simulate",
        judge: |results| beside_peers(results, HEADLINE, "makespan s", 1.1),
    },
    Aim {
        what: "sixteen servers in virtual time, over many seeds: mean",
        aim: "better than every peer",
        part: "simulate",
        judge: |results| beside_peers(results, SIXTEEN, "mean s", 1.0),
    },
    Aim {
        what: "latency of a forwarded request, one client, p50",
        aim: "no slower than HAProxy",
        part: "forwarding",
        judge: |results| beside(results, "1 client", "p50 µs", "HAProxy", 1.0, true),
    },
    Aim {
        what: "requests per second, 16 clients",
        aim: "0.75 of HAProxy",
        part: "forwarding",
        judge: |results| beside(results, "16 clients", "requests/s", "HAProxy", 0.75, false),
    },
    Aim {
        what: "requests per second, 64 clients",
        aim: "0.75 of HAProxy",
        part: "forwarding",
        judge: |results| beside(results, "64 clients", "requests/s", "HAProxy", 0.75, false),
    },
    Aim {
        what: "requests per second, 256 clients",
        aim: "0.75 of HAProxy",
        part: "forwarding",
        judge: |results| beside(results, "256 clients", "requests/s", "HAProxy", 0.75, false),
    },
    Aim {
        what: "p99 there",
        aim: "at most twice HAProxy's",
        part: "forwarding",
        judge: |results| beside(results, "256 clients", "p99 µs", "HAProxy", 2.0, true),
    },
    Aim {
        what: "each request on a new connection, 32 clients",
        aim: "0.8 of HAProxy",
        part: "forwarding",
        judge: |results| beside(results, NEW_CONNECTIONS, "requests/s", "HAProxy", 0.8, false),
    },
    Aim {
        what: "memory with 1,000 idle connections",
        aim: "64 MB",
        part: "forwarding",
        judge: |results| {
            let memory = results.spread(IDLE, "Rakit, 5 nodes", "memory MB")?.median;
            Some((format!("{} MB", number(memory)), memory <= 64.0))
        },
    },
    Aim {
        what: "a report acknowledged, one client, five nodes, median",
        aim: "three fdatasyncs",
        part: "consensus",
        judge: |results| {
            let ours = results.spread("5 members, 1 client", "Rakit", "median ms")?.median;
            let sync = results.spread(SYNC, DISK, "median ms")?.median;
            let holds = ours <= 3.0 * sync;
            Some((format!("{} ms, one fdatasync {} ms", number(ours), number(sync)), holds))
        },
    },
    Aim {
        what: "reports acknowledged per second, 256 clients, five nodes",
        aim: "three times etcd",
        part: "consensus",
        judge: |results| {
            let setting = "5 members, 256 clients";
            let ours = results.spread(setting, "Rakit", "writes/s")?.median;
            let theirs = results.spread(setting, "etcd", "writes/s")?.median;
            let words = format!("{} beside {}: {:.1}", number(ours), number(theirs), ours / theirs);
            Some((words, ours >= 3.0 * theirs))
        },
    },
    Aim {
        what: "kill -9 of the leader to the next commit, five nodes, median",
        aim: "10 ms, a hundredth of etcd",
        part: "failover",
        judge: |results| {
            let setting = "5 members, kill -9 of the leader";
            let ours = results.spread(setting, "Rakit", "ms")?.median;
            let theirs = results.spread(setting, "etcd", "ms")?.median;
            Some((format!("{} ms beside {} ms", number(ours), number(theirs)), ours <= 10.0))
        },
    },
    Aim {
        what: "1,000 servers reporting each second to five nodes: reports that were lost",
        aim: "none",
        part: "scale",
        judge: |results| {
            let lost = results.spread(MANY, "Rakit", "lost")?.max;
            let sent = results.spread(MANY, "Rakit", "reports sent")?.median;
            Some((format!("{} of {}", number(lost), number(sent)), lost == 0.0))
        },
    },
    Aim {
        what: "N = 10^6 while six N = 10^11 run on three servers of one machine, p95",
        aim: "100 ms",
        part: "worker",
        judge: |results| {
            let ours = results.spread(LOADED, "five nodes", "p95 ms")?.median;
            Some((format!("{} ms", number(ours)), ours <= 100.0))
        },
    },
    Aim {
        what: "the leader of an idle cluster",
        aim: "0.5 % of a core",
        part: "idle",
        judge: |results| idle(results, "the leader", 0.5),
    },
    Aim {
        what: "the daemon of an idle server",
        aim: "0.1 % of a core",
        part: "idle",
        judge: |results| idle(results, "a daemon", 0.1),
    },
];

fn idle(results: &Results, process: &str, percent: f64) -> Option<Verdict> {
    let ours = results.spread(idle::SETTING, process, "% of a core")?.median;
    Some((format!("{} %", number(ours)), ours < percent))
}

/// Compares Rakit's five nodes with the best peer among those without hand-made weights. Smaller is better.
fn beside_peers(results: &Results, setting: &str, figure: &str, factor: f64) -> Option<Verdict> {
    let ours = results.spread(setting, RAKIT, figure)?.median;
    let peers = results.systems(setting).into_iter();
    let peers = peers
        .filter(|system| !system.contains("Rakit") && !system.contains("weights") && *system != "oracle");
    let of_peer = |system| Some((results.spread(setting, system, figure)?.median, system));
    let (best, name) = peers.filter_map(of_peer).min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((format!("{} beside {} of {name}", number(ours), number(best)), ours <= best * factor))
}

/// Compares Rakit's five nodes with one peer, and gives the ratio.
fn beside(
    results: &Results,
    setting: &str,
    figure: &str,
    peer: &str,
    factor: f64,
    smaller_is_better: bool,
) -> Option<Verdict> {
    let ours = results.spread(setting, "Rakit, 5 nodes", figure)?.median;
    let theirs = results.spread(setting, peer, figure)?.median;
    let ratio = ours / theirs;
    let holds = if smaller_is_better { ratio <= factor } else { ratio >= factor };
    Some((format!("{} beside {}: {ratio:.2}", number(ours), number(theirs)), holds))
}

/// The table of all aims, as Markdown.
///
/// # Errors
/// When stored results cannot be read.
pub fn table() -> Fallible<String> {
    let mut text = "| what | aim | measured | holds |\n| --- | --- | --- | --- |\n".to_owned();
    for Aim { what, aim, part, judge } in AIMS {
        let verdict = Results::load(part)?.as_ref().and_then(judge);
        let (measured, holds) = match verdict {
            Some((measured, true)) => (measured, "yes"),
            Some((measured, false)) => (measured, "**no**"),
            None => (format!("not measured: part `{part}`"), ""),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {what} | {aim} | {measured} | {holds} |");
    }
    Ok(text)
}
