//! Part `scale`: what ten, a hundred and a thousand servers cost that report each second, and what more nodes cost. Every report
//! must be committed or superseded by a newer one, and at the end every node must show the last one of every server.

use std::time::Duration;

use crate::Fallible;
use crate::fleet;
use crate::members::{Cluster, Site, System, directory_bytes};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::process::{Cost, cost};
use crate::ready::look_until;
use crate::results::Results;
use crate::statistics::quantile;

pub const PART: Part = Part {
    name: "scale",
    about: "10, 100 and 1,000 servers reporting each second, to 3, 5, 7 and 9 nodes",
    layout: Layout::OneTable,
    figures: &[
        Figure::new("reports sent", 0),
        Figure::new("committed", 0),
        Figure::new("superseded", 0),
        Figure::new("lost", 0),
        Figure::new("p50 ms", 2),
        Figure::new("p99 ms", 2),
        Figure::new("% of a core, leader", 2),
        Figure::new("% of a core, a follower", 2),
        Figure::new("memory MB, greatest", 1),
        Figure::new("directory MB, greatest", 2),
        Figure::new("written MB/min, a node", 2),
        Figure::new("network kB/s", 0),
    ],
    plots: &[Plot {
        title: "Processor time of the leader, five nodes, over the number of servers",
        figure: "% of a core, leader",
        settings: &["10 servers, 5 nodes", "100 servers, 5 nodes", MANY],
        shape: Shape::Lines,
    }],
    run,
};

pub const MANY: &str = "1,000 servers, 5 nodes";

const INTERVAL: Duration = Duration::from_secs(1);

/// The servers and the nodes.
const SETTINGS: [(usize, u8); 6] = [(10, 5), (100, 5), (1_000, 5), (100, 3), (100, 7), (100, 9)];

/// How long the servers report, and how long the thousand do; the same with `--full`.
const SECONDS: u64 = 20;
const SECONDS_OF_MANY: u64 = 120;
const SECONDS_FULL: u64 = 120;
const SECONDS_OF_MANY_FULL: u64 = 600;
const SECONDS_QUICK: u64 = 10;

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    for _ in 0..setup.rounds(1) {
        for (servers, nodes) in SETTINGS {
            let count = crate::page::thousands(&servers.to_string());
            let setting = format!("{count} servers, {nodes} nodes");
            let usual = match (setting == MANY, setup.full) {
                (false, false) => SECONDS,
                (true, false) => SECONDS_OF_MANY,
                (false, true) => SECONDS_FULL,
                (true, true) => SECONDS_OF_MANY_FULL,
            };
            let time = Duration::from_secs(setup.quick_or(SECONDS_QUICK, usual));
            setup.say(&format!("{setting}, {} s", time.as_secs()));
            one_setting(setup, &setting, servers, nodes, time, results)?;
        }
    }
    Ok(())
}

fn one_setting(
    setup: &Setup,
    setting: &str,
    servers: usize,
    nodes: u8,
    time: Duration,
    results: &mut Results,
) -> Fallible {
    let directory = setup.fresh_directory("scale")?;
    let cluster = Cluster::start(System::rakit(&setup.programs), nodes, Site::loopback(), &directory)?;
    let leader = cluster.await_whole()?;
    let costs = || -> Fallible<Vec<(u8, Cost)>> {
        cluster.ids().into_iter().map(|id| Ok((id, cost(cluster.pid(id)?)?))).collect()
    };
    let (before, network) = (costs()?, loopback_bytes()?);
    let inner: Vec<_> = cluster.ids().into_iter().map(|id| cluster.inner(id)).collect();
    let started = std::time::Instant::now();
    let outcome = fleet::run(&inner, servers, INTERVAL, time)?;
    let seconds = started.elapsed().as_secs_f64();
    let (after, network) = (costs()?, loopback_bytes()? - network);
    if cluster.await_whole()? != leader {
        results.note(format!("{setting}: the leader changed, so its column mixes two nodes"));
    }
    // What was acknowledged shows everywhere.
    let shown = |status: &serde_json::Value| {
        let known = status["servers"].as_array().map_or(&[][..], Vec::as_slice);
        known.iter().filter_map(|server| server["sequence"].as_u64()).sum::<u64>()
    };
    look_until("every node shows every server's last report", || {
        for id in cluster.ids() {
            if shown(&cluster.status(id)?) != outcome.sent {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let percent = |wanted: &dyn Fn(u8) -> bool| {
        let of = |((id, before), (_, after)): (&(u8, Cost), &(u8, Cost))| {
            wanted(*id).then(|| 100.0 * (after.processor_seconds - before.processor_seconds) / seconds)
        };
        crate::statistics::mean(&before.iter().zip(&after).filter_map(of).collect::<Vec<f64>>())
    };
    let written: u64 = before.iter().zip(&after).map(|(b, a)| a.1.written_bytes - b.1.written_bytes).sum();
    let directories = cluster.ids().into_iter().map(|id| directory_bytes(&cluster.data(id)));
    let memory = after.iter().map(|(_, cost)| cost.resident_bytes).max().unwrap_or(0);
    let figures = [
        ("reports sent", Some(outcome.sent as f64)),
        ("committed", Some(outcome.committed as f64)),
        ("superseded", Some(outcome.superseded as f64)),
        ("lost", Some(outcome.lost as f64)),
        ("p50 ms", quantile(&outcome.latencies, 0.5).map(|seconds| seconds * 1e3)),
        ("p99 ms", quantile(&outcome.latencies, 0.99).map(|seconds| seconds * 1e3)),
        ("% of a core, leader", percent(&|id| id == leader)),
        ("% of a core, a follower", percent(&|id| id != leader)),
        ("memory MB, greatest", Some(memory as f64 / 1e6)),
        ("directory MB, greatest", directories.max().map(|bytes| bytes as f64 / 1e6)),
        ("written MB/min, a node", Some(written as f64 / 1e6 / f64::from(nodes) / (seconds / 60.0))),
        ("network kB/s", Some(network as f64 / 1e3 / seconds)),
    ];
    for (figure, value) in figures {
        if let Some(value) = value {
            results.record(setting, "Rakit", figure, value);
        }
    }
    Ok(())
}

/// What has gone over loopback so far: all that nodes and daemons say to each other, if this network is the benchmark's own.
fn loopback_bytes() -> Fallible<u64> {
    let devices = procfs::net::dev_status()?;
    Ok(devices.get("lo").map_or(0, |device| device.sent_bytes))
}
