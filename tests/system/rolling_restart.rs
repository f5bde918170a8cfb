//! Planned work on a cluster that is in use (thesis 3.10): every node is stopped with SIGTERM and started again, one
//! after the other, while clients ask and daemons report; and `rakit transfer` hands leadership to a chosen node.
//!
//! The tests demand: no acknowledged report is lost; no request fails that was sent to a node before its SIGTERM; a leader
//! that gets SIGTERM hands over, so that nobody waits for an election timeout; each exit code is 0.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rakit::http::message::{Request, Response, text};
use rakit::http::{Limits, Server, Service};

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::load::{Steady, assert_kept};
use crate::programs::reports::{Report, Reporter};
use crate::programs::workers::Worker;
use crate::programs::{LOOK_AGAIN, PATIENCE};

/// Threads that ask each node, without a pause.
const CLIENTS_PER_NODE: usize = 2;

/// Each asks for this prime.
const N: u64 = 7;

/// Clients that ask all nodes that are up for primes, and remember each request that was not answered with 200.
struct Clients {
    /// Whether this node may be asked. A client holds the lock for reading until its request is sent. So when the test
    /// has set it to false, all requests before were sent to a node that was up.
    up: Arc<Vec<(NodeId, RwLock<bool>)>>,
    answered: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(cluster: &Cluster) -> Self {
        let up: Vec<_> = cluster.ids().into_iter().map(|id| (id, RwLock::new(true))).collect();
        let (up, answered) = (Arc::new(up), Arc::new(AtomicU64::new(0)));
        let ending = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (place, id) in cluster.ids().into_iter().enumerate() {
            for _ in 0..CLIENTS_PER_NODE {
                let (address, up) = (cluster.public(id), Arc::clone(&up));
                let (answered, ending) = (Arc::clone(&answered), Arc::clone(&ending));
                threads.push(std::thread::spawn(move || {
                    let mut failures = Vec::new();
                    while !ending.load(Ordering::SeqCst) {
                        let asked = {
                            let may_ask = up[place].1.read().unwrap_or_else(PoisonError::into_inner);
                            may_ask.then(|| ask(address))
                        };
                        let Some(asked) = asked else {
                            std::thread::sleep(LOOK_AGAIN);
                            continue;
                        };
                        match asked.and_then(answer) {
                            Ok(text) if text.starts_with("HTTP/1.1 200 ") => {
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            Ok(text) => failures.push(format!("node {id}: {text}")),
                            Err(error) => failures.push(format!("node {id}: {error}")),
                        }
                    }
                    failures
                }));
            }
        }
        Self { up, answered, ending, threads }
    }

    fn set_up(&self, id: NodeId, up: bool) {
        let (_, lock) = self.up.iter().find(|(node, _)| *node == id).expect("a node");
        *lock.write().unwrap_or_else(PoisonError::into_inner) = up;
    }

    fn wait_for(&self, cluster: &Cluster, more: u64) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        cluster.wait_for("further requests are answered", || {
            (self.answered.load(Ordering::SeqCst) >= goal).then_some(())
        });
    }

    fn end(self) -> Vec<String> {
        self.ending.store(true, Ordering::SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client asserts nothing")).collect()
    }
}

fn ask(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{N} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn answer(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The lines of a node's log about its role: "node 2 leads term 5, elected by nodes 1, 2, 3".
fn roles(log: &str) -> Vec<&str> {
    log.lines().filter_map(|line| Some(line.split_once("role: ")?.1)).collect()
}

/// Fails unless `heir` became leader since its log had `logged` bytes because `from` handed over to it.
#[track_caller]
fn assert_handed_over(cluster: &Cluster, from: NodeId, heir: NodeId, logged: usize) {
    let leads = format!("node {heir} leads term ");
    let log = cluster.wait_for("its log says that it leads", || {
        Some(cluster.log_text(heir)[logged..].to_owned()).filter(|log| log.contains(&leads))
    });
    let roles = roles(&log);
    let led = roles.iter().position(|role| role.starts_with(&leads));
    let campaign = led.and_then(|place| place.checked_sub(1)).map(|place| roles[place]);
    let reason = format!("node {from}, the leader, hands over to it");
    assert!(
        campaign.is_some_and(|role| {
            role.starts_with(&format!("node {heir} is a candidate in term ")) && role.ends_with(&reason)
        }),
        "node {heir} leads for another reason than '{reason}': {roles:?}\n{}",
        cluster.story()
    );
}

#[test]
fn all_five_are_restarted_in_turn_and_nobody_notices() {
    let worker = Worker::good(1);
    // Calm: who leads when its turn comes still leads when it is told to stop.
    let options = ClusterOptions { snapshot_entries: 500, ..ClusterOptions::calm(5) };
    let mut cluster = Cluster::start(options);
    cluster.report("lab-01", &worker, 10.0);
    let (reporter, load) = (
        Reporter::start(&cluster, "lab-01", worker.address(), 10.0, Duration::from_millis(100)),
        Steady::start(&cluster, 16),
    );
    let clients = Clients::start(&cluster);
    load.wait_for(&cluster, 100);
    let mut handed_over = 0;
    // First the present leader, then the others in turn. Another node may lead when its turn comes.
    let first = cluster.wait_for_leader();
    let order = std::iter::once(first).chain(cluster.ids().into_iter().filter(|id| *id != first));
    for id in order.collect::<Vec<_>>() {
        clients.wait_for(&cluster, 20);
        let leader = cluster.wait_for_leader();
        let logged: Vec<(NodeId, usize)> =
            cluster.ids().into_iter().map(|node| (node, cluster.log_text(node).len())).collect();
        let before = logged.iter().find(|(node, _)| *node == id).expect("a node").1;
        clients.set_up(id, false);
        let status = cluster.terminate(id);
        assert_eq!(status.code(), Some(0), "node {id} was told to stop\n{}", cluster.story());
        let said = cluster.log_text(id)[before..].to_owned();
        assert!(said.contains("has stopped cleanly"), "{}", cluster.story());
        if leader == id {
            assert!(said.contains("hands leadership over to node"), "{}", cluster.story());
            assert!(said.contains("has handed leadership over"), "{}", cluster.story());
            let heir = cluster.wait_for_leader();
            let logged = logged.iter().find(|(node, _)| *node == heir).expect("a node").1;
            assert_handed_over(&cluster, id, heir, logged);
            handed_over += 1;
        }
        // The other four go on.
        load.wait_for(&cluster, 100);
        reporter.wait_for_commits(&cluster, 2);
        cluster.restart(id);
        cluster.wait_until_ready();
        let goal = cluster.status(cluster.wait_for_leader())["commit_index"].as_u64().expect("a number");
        cluster.wait_for("it has caught up", || {
            (cluster.try_status(id)?["applied_index"].as_u64()? >= goal).then_some(())
        });
        clients.set_up(id, true);
    }
    assert!(handed_over >= 1, "the first one led");
    let failures = clients.end();
    assert!(
        failures.is_empty(),
        "{} requests failed: {:?}\n{}",
        failures.len(),
        failures.first(),
        cluster.story()
    );
    drop(reporter);
    let promises = load.end();
    cluster.wait_for_equal_digests();
    assert_kept(&cluster, &promises);
    println!("{handed_over} leaders handed over; {} promises kept", promises.len());
}

/// Answers every request with 200.
struct Yes;

impl Service for Yes {
    fn body_limit(&self, _: &tiny_http::Method, _: &str) -> Result<usize, Response> {
        Ok(0)
    }

    fn call(&self, _: Request) -> Response {
        text(200, "yes")
    }
}

#[test]
fn who_connected_before_a_listener_stops_is_answered() {
    // The first ones of so many are accepted while the last ones still wait in the backlog.
    for _ in 0..20 {
        let server = Server::bind(
            "test",
            "127.0.0.1:0".parse().expect("an address"),
            Limits::default(),
            Arc::new(Yes),
        );
        let server = server.expect("a free port");
        let address = server.local_addr();
        let asked: Vec<TcpStream> = (0..100).map(|_| ask(address).expect("it listens")).collect();
        assert_eq!(server.stop(PATIENCE), 0, "all are done");
        for stream in asked {
            let text = answer(stream).expect("no reset: it connected before the stop");
            assert!(text.starts_with("HTTP/1.1 200 "), "{text:?}");
        }
    }
}

// ------------------------------------------------------------------------------------------------- rakit transfer

fn transfer(config: &std::path::Path, to: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rakit"));
    command.arg("transfer").arg("--config").arg(config);
    if let Some(to) = to {
        command.args(["--to", to]);
    }
    command.output().expect("rakit starts")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A report is committed: proposals are taken.
#[track_caller]
fn assert_commits(cluster: &Cluster, server: &str) {
    cluster.send_report(Report::new(server, "127.0.0.1:13337".parse().expect("an address"), 1.0));
}

#[test]
fn rakit_transfer_moves_leadership_and_nothing_else() {
    let cluster = Cluster::start(ClusterOptions {
        secret: Some("f00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeedf00dfeed".into()),
        ..ClusterOptions::calm(3)
    });
    let config = cluster.config();
    assert_commits(&cluster, "lab-01");

    // To a chosen node. The request is signed: the cluster has a secret.
    let leader = cluster.wait_for_leader();
    let heir = cluster.ids().into_iter().find(|id| *id != leader).expect("two others");
    let logged = cluster.log_text(heir).len();
    let output = transfer(&config, Some(&heir.to_string()));
    assert!(output.status.success(), "{}\n{}", words(&output), cluster.story());
    assert!(
        words(&output).contains(&format!("node {leader} has handed over to node {heir}")),
        "{}",
        words(&output)
    );
    cluster.wait_for("the heir leads", || (cluster.agreed_leader() == Some(heir)).then_some(()));
    assert_handed_over(&cluster, leader, heir, logged);
    assert_commits(&cluster, "lab-02");

    // To the leader itself: nothing happens, and `rakit transfer` says so.
    let term = cluster.status(heir)["term"].clone();
    let output = transfer(&config, Some(&heir.to_string()));
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains(&format!("node {heir} leads already")), "{}", words(&output));

    // To a node that does not exist.
    let output = transfer(&config, Some("9"));
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains('9'), "{}", words(&output));

    // Without the secret: refused, and nothing happens.
    let open = cluster.path("open.toml");
    let text = std::fs::read_to_string(&config).expect("our own").replace("secret_file", "# secret_file");
    std::fs::write(&open, text).expect("our own directory");
    let output = transfer(&open, Some(&leader.to_string()));
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("401"), "{}", words(&output));
    let status = cluster.status(heir);
    assert_eq!(
        (&status["role"], &status["term"]),
        (&"leader".into(), &term),
        "the refused ones changed something"
    );

    // Without a name: to the follower whose log is furthest along.
    let output = transfer(&config, None);
    assert!(output.status.success(), "{}", words(&output));
    cluster.wait_for("another one leads", || cluster.agreed_leader().filter(|leader| *leader != heir));
    assert_commits(&cluster, "lab-03");
    cluster.wait_for_equal_digests();
}

#[test]
fn a_transfer_to_a_dead_node_is_given_up_and_reports_are_taken_again() {
    let mut cluster = Cluster::start(ClusterOptions::calm(3));
    assert_commits(&cluster, "lab-01");
    let leader = cluster.wait_for_leader();
    let dead = cluster.ids().into_iter().find(|id| *id != leader).expect("two others");
    cluster.kill9(dead);
    assert_commits(&cluster, "lab-02");
    let term = cluster.status(leader)["term"].clone();
    let output = transfer(&cluster.config(), Some(&dead.to_string()));
    assert_eq!(output.status.code(), Some(1), "{}\n{}", words(&output), cluster.story());
    let why = format!(" ms; the log of node {leader} says why");
    assert!(
        words(&output).contains("no other node leads after ") && words(&output).contains(&why),
        "{}",
        words(&output)
    );
    cluster.wait_for_line(leader, &format!("transfer: node {leader} hands leadership over to node {dead}"));
    let given_up = format!("transfer: node {dead} did not take over in time; node {leader} leads on");
    cluster.wait_for_line(leader, &given_up);
    assert_commits(&cluster, "lab-03");
    assert_eq!(cluster.status(leader)["term"], term, "nobody needed an election");

    // One follower is dead and one lives: the leader chooses the living one by itself.
    let output = transfer(&cluster.config(), None);
    assert!(output.status.success(), "{}\n{}", words(&output), cluster.story());
    cluster.restart(dead);
    cluster.wait_until_ready();
    cluster.wait_for_equal_digests();
}
