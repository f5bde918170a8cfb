//! Part `failover`: how long a cluster commits nothing after its leader was killed, paused or cut off, or after all members were
//! killed. Rakit beside etcd, both with their default timeouts, round by round.
//!
//! After the fault, one thread asks the surviving members in turn. For each write it opens a new connection. The first answer
//! "committed" ends the round, whichever write it belongs to. The thread does not wait for earlier writes: the member may have
//! handed them to the leader that is gone, and then no answer comes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Fallible;
use crate::closed_loop::Until;
use crate::consensus;
use crate::members::{Cluster, Site, System, is_committed};
use crate::part::{Figure, Layout, Part, Plot, Setup, Shape};
use crate::place::{Hosts, Place};
use crate::poll::Poll;
use crate::results::Results;
use crate::wire::{Answers, PATIENCE};

pub const PART: Part = Part {
    name: "failover",
    about: "time without a commit after the leader was killed, paused or cut off, beside etcd",
    layout: Layout::OneTable,
    figures: &[Figure::new("ms", 1)],
    plots: &[Plot {
        title: "Time until the next commit",
        figure: "ms",
        settings: &[
            "5 members, kill -9 of the leader",
            "5 members, SIGSTOP of the leader",
            "5 members, the leader cut off",
        ],
        shape: Shape::LogBars,
    }],
    run,
};

/// How often each fault is done to each cluster of five, and of three.
const ROUNDS: usize = 30;
const ROUNDS_OF_THREE: usize = 5;
const ROUNDS_QUICK: usize = 3;

/// How often all members are killed and started again.
const RESTARTS: usize = 3;

/// Writes before the second restart of all, in clients that each wait for an answer.
const WRITES: usize = 100_000;
const WRITES_QUICK: usize = 20_000;
const WRITERS: usize = 256;

/// A new probe is sent after this time, …
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// … or after this part of the time since the fault, if that is longer. So the result is exact to 2 %.
const PROBE_PART: f64 = 0.02;
/// This many probes may wait for an answer. Then the oldest is given up.
const PROBES_MAX: usize = 200;

/// What is done to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Pause,
    Cut,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the leader",
            Self::Pause => "SIGSTOP of the leader",
            Self::Cut => "the leader cut off",
        }
    }
}

/// Does this to the leader of a cluster that is whole, measures, and undoes it.
///
/// # Errors
/// When the cluster never commits again.
pub fn one_round(cluster: &mut Cluster, fault: Fault) -> Fallible<Duration> {
    let leader = cluster.await_whole()?;
    let survivors = cluster.others(leader);
    let committed = if cluster.is_signed() { Some(commit_index(cluster, leader)?) } else { None };
    let since = match fault {
        Fault::Kill => cluster.kill(leader)?,
        Fault::Pause => cluster.pause(leader)?,
        Fault::Cut => cluster.cut_off(leader, true)?,
    };
    let took = match committed {
        Some(committed) => time_to_next_leader(cluster, &survivors, committed, since)?,
        None => time_to_commit(cluster, &survivors, since)?,
    };
    match fault {
        Fault::Kill => cluster.restart(leader)?,
        Fault::Pause => cluster.resume(leader)?,
        Fault::Cut => cluster.cut_off(leader, false).map(|_| ())?,
    }
    Ok(took)
}

/// Kills all and starts them again: from the first start to the first commit.
///
/// # Errors
/// When the cluster never commits again.
pub fn restart_all(cluster: &mut Cluster) -> Fallible<Duration> {
    cluster.await_whole()?;
    for id in cluster.ids() {
        cluster.kill(id)?;
    }
    let since = Instant::now();
    for id in cluster.ids() {
        cluster.restart(id)?;
    }
    let all = cluster.ids();
    time_to_commit(cluster, &all, since)
}

/// How far a node of Rakit has committed.
fn commit_index(cluster: &Cluster, id: u8) -> Fallible<u64> {
    Ok(cluster.status(id)?["commit_index"].as_u64().ok_or("a status without a commit_index")?)
}

/// The same for a signed cluster, where no stranger can write: to the moment when one of these members shows itself as the leader,
/// and has committed more than before. Nobody reports here, so that more is the first entry of its own term.
fn time_to_next_leader(
    cluster: &Cluster,
    members: &[u8],
    committed: u64,
    since: Instant,
) -> Fallible<Duration> {
    while since.elapsed() < PATIENCE {
        for id in members {
            // Whoever does not answer is asked again.
            let Ok(status) = cluster.status(*id) else { continue };
            if status["role"] == "leader" && status["commit_index"].as_u64() > Some(committed) {
                return Ok(since.elapsed());
            }
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
    Err(format!("nobody has led for {PATIENCE:?}").into())
}

/// From `since` to the first commit of a write that was sent after it, asking these members in turn.
fn time_to_commit(cluster: &mut Cluster, members: &[u8], since: Instant) -> Fallible<Duration> {
    let poll = Poll::new()?;
    let mut probes: VecDeque<(u64, TcpStream, Vec<u8>, Answers)> = VecDeque::new();
    let (mut next_token, mut next_probe) = (0, since);
    loop {
        let now = Instant::now();
        let passed = now - since;
        if passed > PATIENCE {
            return Err(format!("{} has not committed for {PATIENCE:?}", cluster.system.name()).into());
        }
        if now >= next_probe {
            next_probe = now + PROBE_INTERVAL.max(passed.mul_f64(PROBE_PART));
            let address = cluster.writes(members[next_token as usize % members.len()]);
            // Not awaited: a host that is cut off answers nothing, not even that it is not there.
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            let _ = socket.connect(&address.into());
            let stream = TcpStream::from(socket);
            poll.add_writer(&stream, next_token)?;
            probes.push_back((next_token, stream, cluster.write_request("probe"), Answers::default()));
            next_token += 1;
            if probes.len() > PROBES_MAX {
                probes.pop_front();
            }
        }
        for token in poll.wait(next_probe.saturating_duration_since(Instant::now()))? {
            let Some(place) = probes.iter().position(|(known, ..)| *known == token) else { continue };
            let (_, stream, request, answers) = &mut probes[place];
            if !request.is_empty() {
                // Connected, or refused.
                let sent = stream.write_all(request);
                request.clear();
                if sent.is_err() || poll.now_reads(stream, token).is_err() {
                    probes.remove(place);
                }
                continue;
            }
            let mut bytes = [0; 4_096];
            match stream.read(&mut bytes) {
                Ok(read @ 1..) => answers.push(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(_) | Err(_) => {
                    probes.remove(place);
                    continue;
                }
            }
            if let Some(answer) = answers.next()? {
                if is_committed(&answer) {
                    return Ok(since.elapsed());
                }
                probes.remove(place);
            }
        }
    }
}

fn run(setup: &Setup, results: &mut Results) -> Fallible {
    let rounds = |usual| setup.rounds_asked.unwrap_or(setup.quick_or(ROUNDS_QUICK, usual));
    for (size, rounds) in [(3, rounds(ROUNDS_OF_THREE)), (5, rounds(ROUNDS))] {
        let mut clusters = Vec::new();
        for system in [System::rakit(&setup.programs), System::Etcd] {
            let directory = setup.fresh_directory(&format!("{}-{size}", system.name()))?;
            clusters.push(Cluster::start(system, size, Site::loopback(), &directory)?);
        }
        for fault in [Fault::Kill, Fault::Pause] {
            setup.say(&format!("{size} members, {}: {rounds} rounds", fault.name()));
            for _ in 0..rounds {
                for cluster in &mut clusters {
                    let took = one_round(cluster, fault)?;
                    record(results, cluster, size, fault.name(), took);
                }
            }
        }
        if size == 5 {
            restarts(setup, &mut clusters, results)?;
        }
    }
    if !setup.isolated {
        results.note("the cuts are left out: this system allows no network namespaces");
        return Ok(());
    }
    let rounds = rounds(ROUNDS);
    setup.say(&format!("5 members, {}: {rounds} rounds", Fault::Cut.name()));
    // The hosts are the same for both: one cluster after the other.
    let mut site = Site::Hosts(Hosts::new(Place::Namespaces, &setup.fresh_directory("hosts")?));
    for system in [System::rakit(&setup.programs), System::Etcd] {
        let directory = setup.fresh_directory(&format!("{}-cut", system.name()))?;
        let mut cluster = Cluster::start(system, 5, site, &directory)?;
        for _ in 0..rounds {
            let took = one_round(&mut cluster, Fault::Cut)?;
            record(results, &cluster, 5, Fault::Cut.name(), took);
        }
        site = cluster.site;
    }
    Ok(())
}

fn record(results: &mut Results, cluster: &Cluster, size: u8, what: &str, took: Duration) {
    let setting = format!("{size} members, {what}");
    results.record(&setting, cluster.system.name(), "ms", took.as_secs_f64() * 1e3);
}

/// All members killed and started again, with little and with much behind them.
fn restarts(setup: &Setup, clusters: &mut [Cluster], results: &mut Results) -> Fallible {
    let rounds = setup.rounds(RESTARTS);
    let writes = setup.quick_or(WRITES_QUICK, WRITES);
    for (before, what) in
        [(0, "restart of all".to_owned()), (writes, format!("restart of all after {writes} writes"))]
    {
        setup.say(&what);
        for cluster in &mut *clusters {
            consensus::load(cluster, WRITERS, Until::Requests(before))?;
        }
        for _ in 0..rounds {
            for cluster in &mut *clusters {
                let took = restart_all(cluster)?;
                record(results, cluster, 5, &what, took);
            }
        }
    }
    Ok(())
}
