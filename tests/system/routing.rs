//! The way of a request through real nodes to workers of every kind: whom a node chooses, what it does when a server fails,
//! and what reaches the worker and the client. The rules are docs/protocol.md's, "Choice of the server".
//!
//! No test here measures speed. The order of events shows that a client does not wait for a server that hangs: its
//! answer comes from another server while the first one still holds the request.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::http::{self, Answer};
use crate::programs::reports::{Report, Reporter};
use crate::programs::workers::{Behaviour, Worker};

/// How often the played daemons report.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// A request under way.
fn ask(cluster: &Cluster, id: NodeId, target: &str) -> JoinHandle<Answer> {
    let (address, target) = (cluster.public(id), target.to_owned());
    std::thread::spawn(move || http::get(address, &target).expect("an answer"))
}

#[track_caller]
fn assert_answered_by(answer: &Answer, server: &str, worker: &Worker, n: u64) {
    assert_eq!((answer.status, answer.server()), (200, server), "{answer:?}");
    assert_eq!(answer.body.trim_end(), worker.answer(n), "the answer of another worker");
}

#[test]
fn each_request_leaves_one_line_and_its_answer_says_the_same_times() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (good, refusing) = (Worker::good(1), Worker::refusing(2));
    let no_server = cluster.get_with(1, "/7", &["X-Request-Id: early"]);
    cluster.report("good", &good, 50.0);
    cluster.report("refusing", &refusing, 0.0);
    let tried_twice = cluster.get_with(1, "/7", &["X-Request-Id: twice"]);
    let no_number = cluster.get_with(1, "/seven", &["X-Request-Id: words"]);
    assert_eq!((no_server.status, tried_twice.status, no_number.status), (503, 200, 400));

    for (id, answer, start, end) in [
        (
            "early",
            no_server,
            "N=7 from 127.0.0.1:",
            "answered by no server: 503 in -/-/-/{} ms, tries 0, no server is alive with its worker up",
        ),
        (
            "twice",
            tried_twice,
            "N=7 from 127.0.0.1:",
            "answered by good (load when chosen 50.0 %): 200 in {} ms, tries 2",
        ),
        (
            "words",
            no_number,
            "N=? from 127.0.0.1:",
            "answered by no server: 400 in -/-/-/{} ms, tries 0, N is no whole number from 1 on",
        ),
    ] {
        // The values of the header, in the order in which the line has them.
        let timing = answer.header("server-timing").unwrap_or_else(|| panic!("{answer:?}"));
        let times: Vec<&str> = timing.split(',').filter_map(|part| part.split(";dur=").nth(1)).collect();
        assert_eq!(times.len(), if answer.status == 200 { 4 } else { 1 }, "{timing}");
        assert!(times.iter().all(|ms| ms.parse::<f64>().is_ok()), "{timing}");
        let end = end.replace("{}", &times.join("/"));
        let line = cluster.wait_for("the line is written", || {
            let log = cluster.log_text(1);
            let of_request =
                |line: &&str| line.contains(&format!("request {id}: ")) && line.contains("answered by");
            let lines: Vec<String> = log.lines().filter(of_request).map(str::to_owned).collect();
            assert!(lines.len() <= 1, "{lines:?}");
            lines.into_iter().next()
        });
        assert!(
            line.contains(&format!("request {id}: {start}")) && line.ends_with(&end),
            "{line}\nand not {end}"
        );
    }
}

// ----------------------------------------------------------------------------------------------------- the choice

#[test]
fn requests_go_where_the_agreed_load_is_lowest_on_every_node() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let (one, two, three) = (Worker::good(1), Worker::good(2), Worker::good(3));
    cluster.report("s1", &one, 50.0);
    cluster.report("s2", &two, 20.0);
    cluster.report("s3", &three, 80.0);
    for id in cluster.ids() {
        for n in 1..=4 {
            let answer = cluster.get(id, &format!("/{n}"));
            assert_answered_by(&answer, "s2", &two, n);
            assert_eq!(answer.header("x-rakit-node"), Some(id.to_string().as_str()));
            assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
        }
    }
    assert_eq!((one.requests(), three.requests()), (0, 0));

    // The load changes, and every node follows.
    cluster.report("s3", &three, 5.0);
    for id in cluster.ids() {
        assert_answered_by(&cluster.get(id, "/9"), "s3", &three, 9);
    }
    // The worker is down: out of the choice, though its daemon lives and its load is lowest.
    let down = Report { worker_up: false, ..Report::new("s3", three.address(), 0.0) };
    cluster.send_report(down);
    let before = three.requests();
    for id in cluster.ids() {
        assert_eq!(cluster.server(id, "s3").expect("known")["alive"], true);
        assert_answered_by(&cluster.get(id, "/9"), "s2", &two, 9);
    }
    assert_eq!(three.requests(), before);

    // A follower needs nobody to choose: alone, with the leader and the other stopped, it serves from its own table.
    let leader = cluster.wait_for_leader();
    let alone = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    for id in cluster.ids().into_iter().filter(|id| *id != alone) {
        cluster.stop(id);
    }
    assert_answered_by(&cluster.get(alone, "/11"), "s2", &two, 11);

    // No worker up at all.
    for id in cluster.ids().into_iter().filter(|id| *id != alone) {
        cluster.cont(id);
    }
    for (server, worker) in [("s1", &one), ("s2", &two)] {
        cluster.send_report(Report { worker_up: false, ..Report::new(server, worker.address(), 0.0) });
    }
    let none = cluster.get(alone, "/5");
    assert_eq!(none.status, 503, "{none:?}");
    assert!(none.header("retry-after").is_some(), "{none:?}");
}

#[test]
fn a_server_that_does_not_know_its_load_gets_a_request_only_if_no_other_is_there() {
    let cluster = Cluster::start(ClusterOptions::calm(3));
    let (busy, unknown) = (Worker::good(1), Worker::good(2));
    cluster.report("busy", &busy, 99.0);
    let report = Report::new("unknown", unknown.address(), 0.0);
    let mut body = report.json();
    body["cpu_known"] = json!(false);
    let leader = cluster.wait_for_leader();
    let posted = http::post(cluster.cluster_address(leader), "/report", body.to_string().as_bytes());
    assert_eq!(posted.expect("an answer").status, 200);
    cluster.wait_for_server("unknown", "as it was reported", |server| server["cpu_known"] == false);
    cluster.wait_for_equal_digests();
    for id in cluster.ids() {
        assert_eq!(cluster.server(id, "busy").expect("known")["cpu_known"], true);
        for n in 1..=4 {
            assert_answered_by(&cluster.get(id, &format!("/{n}")), "busy", &busy, n);
        }
        let metrics = cluster.get(id, "/metrics").body;
        assert!(metrics.contains("rakit_server_cpu_ratio{server=\"busy\"} 0.99"), "{metrics}");
        assert!(!metrics.contains("rakit_server_cpu_ratio{server=\"unknown\"}"), "{metrics}");
    }
    assert_eq!(unknown.requests(), 0);
    cluster.send_report(Report { worker_up: false, ..Report::new("busy", busy.address(), 1.0) });
    for id in cluster.ids() {
        assert_answered_by(&cluster.get(id, "/9"), "unknown", &unknown, 9);
    }
}

#[test]
fn equal_loads_are_drawn_at_random_and_requests_in_flight_count() {
    let cluster = Cluster::start(ClusterOptions::nodes(3));
    let (one, two) = (Worker::good(1), Worker::good(2));
    cluster.report("s1", &one, 30.0);
    cluster.report("s2", &two, 30.0);
    // The chance that one of them gets none of forty is one in a million millions.
    for _ in 0..40 {
        assert_eq!(cluster.get(1, "/5").status, 200);
    }
    assert!(one.requests() > 0 && two.requests() > 0, "{} and {}", one.requests(), two.requests());

    // Requests in flight count before chance: while one server owes an answer, all other requests go to the other one.
    one.behave(Behaviour::Holds);
    two.behave(Behaviour::Holds);
    let first = ask(&cluster, 1, "/6");
    cluster.wait_for("it is held", || (one.held() + two.held() == 1).then_some(()));
    let (holds, free, free_name) = if one.held() == 1 { (&one, &two, "s2") } else { (&two, &one, "s1") };
    free.behave(Behaviour::Good);
    let before = holds.requests();
    for _ in 0..3 {
        assert_answered_by(&cluster.get(1, "/7"), free_name, free, 7);
    }
    assert_eq!(holds.requests(), before);
    let name = if free_name == "s1" { "s2" } else { "s1" };
    assert_eq!(cluster.server(1, name).expect("known")["in_flight"], 1);
    assert_eq!(cluster.server(2, name).expect("known")["in_flight"], 0, "each node counts its own");
    let digests: Vec<_> =
        cluster.ids().iter().map(|id| cluster.status(*id)["state_digest"].clone()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "what is in flight is no part of the state");
    assert_eq!(holds.release(), 1);
    assert_answered_by(&first.join().expect("an answer"), name, holds, 6);
}

#[test]
fn projected_adds_what_is_in_flight_and_lowest_cpu_does_not() {
    for (policy, second_goes_to) in [("projected", "s2"), ("lowest-cpu", "s1")] {
        let cluster = Cluster::start(ClusterOptions { policy, ..ClusterOptions::nodes(1) });
        let (one, two) = (Worker::start(1, Behaviour::Holds), Worker::start(2, Behaviour::Holds));
        assert_eq!(cluster.status(1)["policy"], policy);
        // Two cores: a request adds 50 to the 10 of s1, which is more than the 40 of s2.
        cluster.report("s1", &one, 10.0);
        cluster.report("s2", &two, 40.0);
        let first = ask(&cluster, 1, "/3");
        one.wait_for_held(1);
        let second = ask(&cluster, 1, "/4");
        let there = if second_goes_to == "s1" { (&one, 2) } else { (&two, 1) };
        there.0.wait_for_held(there.1);
        one.release();
        two.release();
        assert_answered_by(&first.join().expect("an answer"), "s1", &one, 3);
        assert_answered_by(&second.join().expect("an answer"), second_goes_to, there.0, 4);
    }
}

// ------------------------------------------------------------------------------------- what goes in and comes out

#[test]
fn the_worker_gets_n_and_nothing_else_of_the_client() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 1.0);
    let headers =
        ["Cookie: secret=1", "Authorization: Basic secret", "User-Agent: secret", "X-Secret: secret"];
    let answer = cluster.get_with(1, "/007?secret=1&b=/../etc", &headers);
    assert_answered_by(&answer, "s1", &worker, 7);
    let heads = worker.heads();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with("GET /7 HTTP/1."), "the path is rebuilt from N: {}", heads[0]);
    assert!(!heads[0].to_lowercase().contains("secret"), "{}", heads[0]);

    // A wrong N, path or method: the node answers itself, and no worker gets the request.
    for bad in ["/0", "/-1", "/abc", "/1.5", "/99999999999999999999", "/+1", "/%37", "/7%00", "/1e3", "/0x10"]
    {
        let answer = cluster.get(1, bad);
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert_eq!(answer.body.trim_end().lines().count(), 1, "{bad}: {answer:?}");
        assert!(answer.body.contains('N'), "it says what N must be: {answer:?}");
    }
    for nowhere in ["/5/6", "/5/", "//5", "/a/b", "/../5"] {
        assert_eq!(cluster.get(1, nowhere).status, 404, "{nowhere}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = http::request(cluster.public(1), method, "/5", &[], b"").expect("an answer");
        assert_eq!(answer.status, 405, "{answer:?}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{answer:?}");
    }
    let usage = cluster.get_with(1, "/", &["Accept: */*", "User-Agent: curl/8"]);
    assert_eq!(usage.status, 200);
    assert!(usage.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{usage:?}");
    assert_eq!(worker.requests(), 1);
}

#[test]
fn a_request_keeps_its_id_if_it_has_a_valid_one() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 1.0);
    let id = |header: &str| {
        let answer = cluster.get_with(1, "/5", &[header]);
        answer.header("x-request-id").expect("every answer has one").to_owned()
    };
    assert_eq!(id("X-Request-Id: lab_7.a-B"), "lab_7.a-B");
    let (one, other) = (id("X-Other: 1"), id("X-Other: 1"));
    assert_ne!(one, other);
    for invalid in ["a b", "", "<script>", "a\"b", &"x".repeat(300)] {
        let given = id(&format!("X-Request-Id: {invalid}"));
        assert_ne!(given, invalid);
        assert!(!given.is_empty() && given.is_ascii());
    }
    let failed = cluster.get_with(1, "/abc", &["X-Request-Id: kept-on-errors"]);
    assert_eq!(failed.header("x-request-id"), Some("kept-on-errors"));
}

/// A device between the machines (a port that is forwarded) leads from a worker's address back to the node. No check of the
/// address can know that.
#[test]
fn a_request_that_comes_back_to_a_node_is_not_passed_on_again() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let device = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (leads_back, node) = (device.local_addr().expect("bound"), cluster.public(1));
    std::thread::spawn(move || {
        for mut inward in device.incoming().map_while(Result::ok) {
            std::thread::spawn(move || -> std::io::Result<u64> {
                let mut outward = TcpStream::connect(node)?;
                let (mut back, mut answer) = (inward.try_clone()?, outward.try_clone()?);
                std::thread::spawn(move || std::io::copy(&mut answer, &mut back));
                std::io::copy(&mut inward, &mut outward)
            });
        }
    });
    let worker = Worker::good(1);
    cluster.send_report(Report::new("circle", leads_back, 1.0));
    let answer = cluster.get(1, "/7");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.body.contains("circle"), "{answer:?}");
    cluster.report("s1", &worker, 50.0);
    assert_answered_by(&cluster.get(1, "/8"), "s1", &worker, 8);
    let again = cluster.get_with(1, "/7", &["X-Rakit-Hop: 1"]);
    assert_eq!((again.status, again.body.trim_end().lines().count()), (508, 1), "{again:?}");
}

#[test]
fn a_workers_4xx_is_the_clients_and_is_passed_on() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (one, two) = (Worker::good(1), Worker::good(2));
    cluster.report("s1", &one, 1.0);
    cluster.report("s2", &two, 50.0);
    for (status, body) in [(400, "N is above my cap\n"), (404, "no\n"), (422, "never\n"), (429, "later\n")] {
        one.behave(Behaviour::Answers(status, body));
        let answer = cluster.get(1, "/5");
        assert_eq!((answer.status, answer.body.as_str(), answer.server()), (status, body, "s1"));
        assert_eq!(answer.header("content-type"), Some("text/plain"), "the worker said text/html");
    }
    assert_eq!(two.requests(), 0, "nobody else is asked");
}

#[test]
fn a_busy_worker_has_not_failed_and_if_all_are_busy_the_client_is_told_so() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    // More servers than may fail a request.
    let busy: Vec<Worker> =
        (1..=4).map(|number| Worker::start(number, Behaviour::Busy(number as u32 + 6))).collect();
    for (worker, name) in busy.iter().zip(["b1", "b2", "b3", "b4"]) {
        cluster.report(name, worker, 1.0);
    }
    let answer = cluster.get(1, "/5");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")), "{answer:?}");
    assert!(busy.iter().all(|worker| worker.requests() == 1), "each was asked once");

    let good = Worker::good(9);
    cluster.report("good", &good, 90.0);
    assert_answered_by(&cluster.get(1, "/5"), "good", &good, 5);
    assert_eq!(cluster.metric(1, "rakit_failed_attempts_total"), 0.0);
}

// ------------------------------------------------------------------------------------------------- bad workers

/// Every way to fail except to hang. `None`: nobody listens.
fn failures() -> Vec<Option<Behaviour>> {
    vec![
        None,
        Some(Behaviour::DiesHalfway),
        Some(Behaviour::ClosesAtOnce),
        Some(Behaviour::Answers(500, "")),
        Some(Behaviour::Answers(503, "busy\n")),
        Some(Behaviour::Answers(200, "letters\n")),
        Some(Behaviour::Answers(200, "")),
        Some(Behaviour::Answers(200, "\n")),
        Some(Behaviour::Answers(200, "12 13\n")),
        Some(Behaviour::Answers(200, "-7\n")),
        Some(Behaviour::Answers(200, "7\n\n")),
        Some(Behaviour::Answers(302, "7\n")),
    ]
}

fn failing(number: u64, failure: &Option<Behaviour>) -> Worker {
    match failure {
        None => Worker::refusing(number),
        Some(behaviour) => Worker::start(number, behaviour.clone()),
    }
}

#[test]
fn when_one_server_fails_the_next_best_answers() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (good, worst) = (Worker::good(100), Worker::good(101));
    cluster.report("good", &good, 50.0);
    cluster.report("worst", &worst, 90.0);
    for (number, failure) in failures().into_iter().enumerate() {
        let name = format!("bad-{number}");
        let bad = failing(number as u64, &failure);
        cluster.report(&name, &bad, 1.0);
        assert_answered_by(&cluster.get(1, "/5"), "good", &good, 5);
        assert_eq!(
            bad.requests(),
            usize::from(failure.is_some()),
            "{failure:?}: it was tried first, and once"
        );
        // Takes this server out of the choice for the next case.
        cluster.send_report(Report { worker_up: false, ..Report::new(&name, bad.address(), 1.0) });
    }
    assert_eq!(worst.requests(), 0, "the next best, not just another");
}

#[test]
fn when_all_servers_fail_the_answer_is_502_and_names_them_and_no_more_than_three_are_tried() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let mut bad = Vec::new();
    for (number, failure) in failures().into_iter().enumerate() {
        // One more server each time: with up to three servers all of them are tried, with four only three.
        let name = format!("bad-{number}");
        let worker = failing(number as u64, &failure);
        cluster.report(&name, &worker, number as f64);
        bad.push((name, worker));
        let tried: Vec<usize> = bad.iter().map(|(_, worker)| worker.requests()).collect();
        let answer = cluster.get(1, "/5");
        assert_eq!(answer.status, 502, "{answer:?}");
        assert_eq!(answer.body.trim_end().lines().count(), 1, "{answer:?}");
        let words: Vec<&str> = answer.body.split([' ', ';', ',', '\n']).collect();
        let named: Vec<&String> =
            bad.iter().map(|(name, _)| name).filter(|name| words.contains(&name.as_str())).collect();
        assert_eq!(named.len(), bad.len().min(3), "those that were tried are named: {answer:?}");
        // The servers that the answer names were asked exactly once, the others not at all. (Nobody listens at bad-0.)
        for ((name, worker), before) in bad.iter().zip(tried) {
            let asked = usize::from(named.contains(&name) && name != "bad-0");
            assert_eq!(worker.requests() - before, asked, "{name}: {answer:?}");
        }
    }
}

#[test]
fn a_worker_that_comes_back_is_asked_again() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (mut one, two) = (Worker::refusing(1), Worker::good(2));
    cluster.report("s1", &one, 1.0);
    cluster.report("s2", &two, 50.0);
    assert_answered_by(&cluster.get(1, "/5"), "s2", &two, 5);
    one.listen();
    cluster.wait_for("s1 is asked again", || (cluster.get(1, "/5").server() == "s1").then_some(()));
    one.refuse();
    assert_answered_by(&cluster.get(1, "/5"), "s2", &two, 5);
}

// ------------------------------------------------------------------------------------------- hanging and slow ones

#[test]
fn a_worker_that_hangs_while_its_daemon_lives_is_passed_over() {
    let cluster = Cluster::start(ClusterOptions { stall_ms: 300, ..ClusterOptions::nodes(3) });
    let (hung, good) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    // A server that swallows requests looks idle.
    let _hung_daemon = Reporter::start(&cluster, "hung", hung.address(), 0.0, REPORT_INTERVAL);
    let _good_daemon = Reporter::start(&cluster, "good", good.address(), 90.0, REPORT_INTERVAL);
    for server in ["hung", "good"] {
        cluster.wait_for_server(server, "alive", |server| server["alive"] == true);
    }
    // On every node, several clients at once: all go to the hung one, and all are answered by the other while it holds them.
    let clients: Vec<_> =
        cluster.ids().iter().flat_map(|id| [*id; 3]).map(|id| ask(&cluster, id, "/5")).collect();
    for client in clients {
        assert_answered_by(&client.join().expect("an answer"), "good", &good, 5);
    }
    // Each node had sent a request there.
    hung.wait_for_held(3);
    assert_eq!(hung.answered(), 0, "it still hangs");
    for id in cluster.ids() {
        assert_eq!(cluster.server(id, "hung").expect("known")["alive"], true, "its daemon lives");
        assert_answered_by(&cluster.get(id, "/6"), "good", &good, 6);
    }
    // The server wakes up. After a while it gets a trial request, for which no client waits, and can be chosen again.
    hung.behave(Behaviour::Good);
    cluster.wait_for("the woken server is asked again", || {
        let answer = cluster.get(1, "/7");
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.server() == "hung").then_some(())
    });
}

#[test]
fn when_all_workers_hang_the_deadline_ends_it_with_504() {
    // The deadline leaves a busy machine time for a report that shows the stall, and for a second server.
    let options = ClusterOptions { stall_ms: 200, request_timeout_ms: 20_000, ..ClusterOptions::nodes(1) };
    let cluster = Cluster::start(options);
    let workers: Vec<_> = (1..=3).map(|number| Worker::start(number, Behaviour::Holds)).collect();
    let _daemons: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(at, worker)| {
            Reporter::start(&cluster, &format!("s{at}"), worker.address(), 0.0, REPORT_INTERVAL)
        })
        .collect();
    for at in 0..workers.len() {
        cluster.wait_for_server(&format!("s{at}"), "alive", |server| server["alive"] == true);
    }
    let answer = cluster.get(1, "/5");
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.body.trim_end().lines().count(), 1, "{answer:?}");
    for worker in &workers {
        assert!(worker.requests() <= 1, "nobody is asked twice");
    }
    assert!(
        workers.iter().map(Worker::requests).sum::<usize>() >= 2,
        "a second one was tried in the meantime"
    );
    // The requests that still waited there are cut off, so soon nothing is in flight.
    for at in 0..workers.len() {
        cluster.wait_for_server(&format!("s{at}"), "free", |server| server["in_flight"] == 0);
    }
}

#[test]
fn slow_is_no_failure_and_is_not_retried() {
    // The worker computes: its machine shows it. Far longer than stall_ms, nobody else is asked.
    let options = ClusterOptions { stall_ms: 100, request_timeout_ms: 60_000, ..ClusterOptions::nodes(3) };
    let cluster = Cluster::start(options);
    let (slow, other) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    let slow_daemon = Reporter::start(&cluster, "slow", slow.address(), 60.0, REPORT_INTERVAL);
    let _other_daemon = Reporter::start(&cluster, "other", other.address(), 90.0, REPORT_INTERVAL);
    for server in ["slow", "other"] {
        cluster.wait_for_server(server, "alive", |server| server["alive"] == true);
    }
    let clients: Vec<_> = cluster.ids().into_iter().map(|id| ask(&cluster, id, "/5")).collect();
    slow.wait_for_held(3);
    slow_daemon.wait_for_commits(&cluster, 10);
    assert_eq!((slow.requests(), other.requests()), (3, 0));
    assert_eq!(slow.release(), 3);
    for client in clients {
        assert_answered_by(&client.join().expect("an answer"), "slow", &slow, 5);
    }
    assert_eq!((slow.requests(), other.requests()), (3, 0));
}

#[test]
fn after_the_deadline_nobody_else_is_asked() {
    let options = ClusterOptions { request_timeout_ms: 500, ..ClusterOptions::nodes(1) };
    let cluster = Cluster::start(options);
    let (slow, other) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    cluster.report("slow", &slow, 1.0);
    cluster.report("other", &other, 90.0);
    // A node that stands still for the whole time asks nobody. Then it is asked again.
    let mut answers = 0;
    cluster.wait_for("the slow one is asked", || {
        let answer = cluster.get(1, "/5");
        assert_eq!(answer.status, 504, "{answer:?}");
        answers += 1;
        (slow.requests() > 0).then_some(())
    });
    assert!(slow.requests() <= answers && other.requests() == 0, "a retry would double the cost");
}

/// A server that hangs has not failed: after three of them, the fourth is asked.
#[test]
fn however_many_servers_hang_the_one_that_does_not_is_asked() {
    let cluster = Cluster::start(ClusterOptions { stall_ms: 200, ..ClusterOptions::nodes(1) });
    let hung: Vec<_> = (1..=4).map(|number| Worker::start(number, Behaviour::Holds)).collect();
    let good = Worker::good(5);
    let daemon = |(at, worker): (usize, &Worker)| {
        Reporter::start(&cluster, &format!("hung-{at}"), worker.address(), 0.0, REPORT_INTERVAL)
    };
    let _hung_daemons: Vec<_> = hung.iter().enumerate().map(daemon).collect();
    let _good_daemon = Reporter::start(&cluster, "good", good.address(), 90.0, REPORT_INTERVAL);
    for server in ["hung-0", "hung-1", "hung-2", "hung-3", "good"] {
        cluster.wait_for_server(server, "alive", |server| server["alive"] == true);
    }
    assert_answered_by(&cluster.get(1, "/5"), "good", &good, 5);
    // Each was asked before it.
    hung.iter().for_each(|worker| worker.wait_for_requests(1));
    assert_eq!(hung.iter().map(Worker::requests).collect::<Vec<_>>(), [1; 4], "and once");
}

/// A server that comes later, too, gets the requests that wait at the server that hangs.
#[test]
fn a_server_that_comes_while_the_only_one_hangs_answers_what_waits() {
    let cluster = Cluster::start(ClusterOptions { stall_ms: 200, ..ClusterOptions::nodes(1) });
    let (hung, good) = (Worker::start(1, Behaviour::Holds), Worker::good(2));
    let _hung_daemon = Reporter::start(&cluster, "hung", hung.address(), 0.0, REPORT_INTERVAL);
    cluster.wait_for_server("hung", "alive", |server| server["alive"] == true);
    let client = ask(&cluster, 1, "/5");
    cluster.wait_for_server("hung", "stalled", |server| server["stalled"] == true);
    let _good_daemon = Reporter::start(&cluster, "good", good.address(), 90.0, REPORT_INTERVAL);
    assert_answered_by(&client.join().expect("an answer"), "good", &good, 5);
}

/// A listener with a queue that strangers have filled, until a handshake is not answered any more. It is free when they go.
fn full_queue() -> (TcpListener, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(1).expect("nobody else listens there");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("it is bound");
    let mut strangers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        strangers.push(stream);
        assert!(strangers.len() < 16, "the queue never filled");
    }
    (listener, strangers)
}

/// A server that does not accept the connection has not failed either: the next server is asked.
#[test]
fn a_worker_whose_queue_is_full_is_not_waited_for_if_there_is_another() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (refusing, other_refusing, good) = (Worker::refusing(1), Worker::refusing(2), Worker::good(3));
    let (listener, _strangers) = full_queue();
    cluster.report("r1", &refusing, 1.0);
    cluster.report("r2", &other_refusing, 2.0);
    cluster.send_report(Report::new("busy", listener.local_addr().expect("it is bound"), 3.0));
    cluster.report("good", &good, 90.0);
    assert_answered_by(&cluster.get(1, "/5"), "good", &good, 5);
}

/// A full queue may mean "busy": if no other server is left, the node waits until this one accepts.
#[test]
fn a_worker_whose_queue_is_full_is_waited_for_if_there_is_no_other() {
    let cluster = Cluster::start(ClusterOptions::nodes(1));
    let (listener, mut queue) = full_queue();
    let address = listener.local_addr().expect("it is bound");
    cluster.send_report(Report::new("busy", address, 100.0));
    let client = ask(&cluster, 1, "/25");
    cluster.wait_for("it waits for its turn", || {
        cluster.log_text(1).contains("N=25 waits for its turn at busy").then_some(())
    });
    queue.clear();
    let serving = std::thread::spawn(move || {
        // The strangers' connections come first, and close without a request.
        for mut stream in listener.incoming().map(|stream| stream.expect("a connection")) {
            let mut head = [0; 1024];
            if http::read_some(&mut stream, &mut head).unwrap_or(0) > 0 {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n97\n";
                return stream.write_all(answer.as_bytes()).expect("the node waits for it");
            }
        }
    });
    let answer = client.join().expect("an answer");
    assert_eq!((answer.status, answer.body.as_str(), answer.server()), (200, "97\n", "busy"), "{answer:?}");
    serving.join().expect("it served");
}

/// No worker computes for a client that has gone.
#[test]
fn a_request_whose_client_has_gone_is_cut_off_at_the_worker() {
    let cluster =
        Cluster::start(ClusterOptions { request_timeout_ms: 3_600_000, ..ClusterOptions::nodes(1) });
    let worker = Worker::start(1, Behaviour::Holds);
    cluster.report("s1", &worker, 100.0);
    let mut client = TcpStream::connect(cluster.public(1)).expect("the node listens");
    client.write_all(b"GET /5 HTTP/1.1\r\nHost: node\r\n\r\n").expect("it takes the request");
    worker.wait_for_held(1);
    assert_eq!(cluster.server(1, "s1").expect("it is known")["in_flight"], 1);
    drop(client);
    cluster.wait_for_server("s1", "free", |server| server["in_flight"] == 0);
    cluster.wait_for("the log tells", || {
        let told = |line: &str| {
            line.contains("N=5 from ") && line.ends_with("given up: its client closed the connection")
        };
        cluster.log_text(1).lines().any(told).then_some(())
    });
}

#[test]
fn the_courses_worker_is_a_worker_in_good_standing() {
    let options = ClusterOptions { stall_ms: 100, ..ClusterOptions::nodes(3) };
    let cluster = Cluster::start(options);
    let (course, other) = (Worker::start(1, Behaviour::Course), Worker::good(2));
    let course_daemon = Reporter::start(&cluster, "course", course.address(), 60.0, REPORT_INTERVAL);
    let _other_daemon = Reporter::start(&cluster, "other", other.address(), 90.0, REPORT_INTERVAL);
    for server in ["course", "other"] {
        cluster.wait_for_server(server, "alive", |server| server["alive"] == true);
    }
    // One after the other; the answer is passed on as it was sent, without a newline.
    for id in cluster.ids() {
        let answer = cluster.get(id, "/12");
        assert_answered_by(&answer, "course", &course, 12);
        assert_eq!(answer.body, course.answer(12));
    }
    // Several at once: it takes them one by one, sends the status line of the first and computes for long. The others
    // wait in its queue. Nobody loses patience, and nobody else is asked.
    course.course_waits(true);
    let clients: Vec<_> =
        cluster.ids().iter().flat_map(|id| [*id; 2]).map(|id| ask(&cluster, id, "/13")).collect();
    course.wait_for_requests(4);
    course_daemon.wait_for_commits(&cluster, 10);
    assert_eq!((course.requests(), course.answered()), (4, 3), "one at a time");
    course.course_waits(false);
    for client in clients {
        assert_answered_by(&client.join().expect("an answer"), "course", &course, 13);
    }
    assert_eq!((course.requests(), other.requests()), (9, 0));
}
