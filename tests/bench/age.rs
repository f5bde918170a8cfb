//! Part `age`: a million reports. Neither memory nor disk nor the rate may depend on how many reports there were before. The part
//! fails if a node's directory exceeds the bound of docs/storage.md.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Fallible;
use crate::closed_loop::Until;
use crate::consensus;
use crate::members::{Cluster, Site, System};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::process::cost;
use crate::results::Results;

pub const PART: Part = Part {
    name: "age",
    about: "a million reports: rate, memory and disk over time",
    layout: Layout::OneTable,
    figures: &[
        Figure::new("reports/s", 0),
        Figure::new("median ms", 2),
        Figure::new("p99 ms", 2),
        Figure::new("memory of the leader MB", 1),
        Figure::new("greatest memory of a follower MB", 1),
        Figure::new("greatest directory MB", 2),
    ],
    plots: &[Plot {
        title: "The greatest directory of a node, after so many reports",
        figure: "greatest directory MB",
        settings: &[],
        shape: Shape::Lines,
    }],
    run,
};

const REPORTS: usize = 1_000_000;
const REPORTS_QUICK: usize = 50_000;
const ROWS: usize = 5;

/// Clients at the leader, each of one server.
const CLIENTS: usize = 256;

/// Between two looks at the sizes of the directories: the peak is during a compaction.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// docs/storage.md, "The bound": the default `snapshot_entries`, and the entries beyond it: those not committed, and one append.
const SNAPSHOT_ENTRIES: u64 = 10_000;
const ENTRIES_BEYOND: u64 = 16_384 + 4_096;

/// The same: the longest line of one entry, and of one server in a snapshot, in bytes; and the table's servers at most.
const LINE_BYTES_MAX: u64 = 400;
const SERVERS_MAX: u64 = 1_024;

/// The same: what a node's directory may take, in bytes.
const DIRECTORY_BYTES_MAX: u64 = (SNAPSHOT_ENTRIES + ENTRIES_BEYOND) * LINE_BYTES_MAX
    + ENTRIES_BEYOND * LINE_BYTES_MAX
    + 2 * SERVERS_MAX * LINE_BYTES_MAX
    + 64 * 1024;

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let step = setup.quick_or(REPORTS_QUICK, REPORTS) / ROWS;
    for nodes in [3, 5] {
        let directory = setup.fresh_directory(&format!("{nodes}"))?;
        let system = System::rakit(&setup.programs);
        let mut cluster = Cluster::start(system, nodes, Site::loopback(), &directory)?;
        for row in 1..=ROWS {
            setup.say(&format!("{nodes} nodes, {} reports", row * step));
            one_row(&mut cluster, nodes, row * step, step, results)?;
        }
    }
    Ok(())
}

fn one_row(cluster: &mut Cluster, nodes: u8, so_far: usize, step: usize, results: &mut Results) -> Fallible {
    let data: Vec<_> = cluster.ids().into_iter().map(|id| cluster.data(id)).collect();
    let (over, greatest) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for directory in &data {
                    greatest.fetch_max(crate::members::directory_bytes(directory), Ordering::SeqCst);
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        });
        let outcome = consensus::load(cluster, CLIENTS, Until::Requests(step));
        over.store(true, Ordering::SeqCst);
        outcome
    })?;
    let greatest = greatest.into_inner();
    if greatest > DIRECTORY_BYTES_MAX {
        return Err(format!("a directory takes {greatest} bytes; the bound is {DIRECTORY_BYTES_MAX}").into());
    }
    let leader = cluster.await_whole()?;
    let mut followers = 0;
    for id in cluster.others(leader) {
        followers = followers.max(cost(cluster.pid(id)?)?.resident_bytes);
    }
    let setting = format!("{} reports", crate::page::thousands(&so_far.to_string()));
    let system = format!("Rakit, {nodes} nodes");
    let figures = [
        ("reports/s", outcome.per_second()),
        ("median ms", outcome.quantile_ms(0.5)),
        ("p99 ms", outcome.quantile_ms(0.99)),
        ("memory of the leader MB", cost(cluster.pid(leader)?)?.resident_bytes as f64 / 1e6),
        ("greatest memory of a follower MB", followers as f64 / 1e6),
        ("greatest directory MB", greatest as f64 / 1e6),
    ];
    for (figure, value) in figures {
        results.record(&setting, &system, figure, value);
    }
    Ok(())
}
