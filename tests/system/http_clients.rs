//! Real clients at the public address: curl, ab, wrk, h2load, Python's http.client; HAProxy and nginx in front, as
//! docs/operations.md sets them up. None may meet an error, and no node may see a request that breaks the protocol. A client
//! that is not installed is skipped, and named.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::programs::cluster::{Cluster, ClusterOptions};
use crate::programs::http;
use crate::programs::ports::KeptPort;
use crate::programs::workers::Worker;

/// Requests of each load, and how many of them at once.
const REQUESTS: &str = "300";
const AT_ONCE: &str = "8";

/// Further requests through a proxy after a node behind it was killed.
const AFTER_DEATH: usize = 20;

/// A client's own time-out. Nothing here takes a second.
const SECONDS_MAX: &str = "30";

/// A program that is ended with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended already.
        let _ = self.0.wait();
    }
}

/// Whether it is installed here; says so if not.
fn is_here(program: &str) -> bool {
    let search = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let here = search.split(':').any(|directory| Path::new(directory).join(program).is_file());
    if !here {
        eprintln!("SKIPPED: http_clients: {program} is not installed");
    }
    here
}

/// A command that also finds what stands where only root looks.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin").stdin(Stdio::null());
    command
}

/// Runs a client that must succeed: what it printed. `None` if it is not installed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    if !is_here(program) {
        return None;
    }
    let output =
        command("timeout").arg(SECONDS_MAX).arg(program).args(arguments).output().expect("timeout(1)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    Some(said)
}

/// Three nodes and a server that answers at once.
fn cluster() -> (Cluster, Worker) {
    let cluster = Cluster::start(ClusterOptions { server_timeout_ms: 600_000, ..ClusterOptions::nodes(3) });
    let worker = Worker::good(1);
    cluster.report("s1", &worker, 10.0);
    cluster.wait_for_server("s1", "alive", |server| server["alive"] == true);
    (cluster, worker)
}

/// Fails if a node refused a request of the public address because of its form.
#[track_caller]
fn assert_nothing_refused(cluster: &Cluster) {
    for id in cluster.running() {
        let page = cluster.get(id, "/metrics").body;
        let name = "rakit_http_requests_refused_total{address=\"public\"} ";
        let refused = page.lines().find_map(|line| line.strip_prefix(name)).expect("a metric of every node");
        assert_eq!(refused, "0", "node {id} saw requests that break the protocol");
    }
}

#[test]
fn clients_of_every_kind_are_served_without_an_error() {
    let (cluster, worker) = cluster();
    let url = format!("http://{}/7", cluster.public(1));
    let digits = worker.answer(7);

    // Two requests on one connection; `-w` is written after each.
    let marks = ["-sS", "-w", "%{http_code} %{num_connects}\n"];
    let curl = |more: &[&str]| run("curl", &[&marks, more].concat());
    if let Some(said) = curl(&[&url, &url]) {
        assert_eq!(said, format!("{digits}\n200 1\n{digits}\n200 0\n"));
        let cookie = format!("Cookie: of-another-port={}", "c".repeat(8_000));
        for (more, status) in [
            (&["-0"][..], "200 1"),
            (&["-H", &cookie], "200 1"),
            // An empty body in chunks, as some proxies send it with a GET.
            (&["-X", "GET", "-H", "Transfer-Encoding: chunked", "-d", ""], "200 1"),
        ] {
            let said = curl(&[more, &[&url]].concat()).expect("it is here");
            assert_eq!(said, format!("{digits}\n{status}\n"), "curl {more:?}");
        }
        let said = curl(&["-I", &url]).expect("it is here");
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n200 1\n"), "{said}");
        let said = curl(&["-i", "-X", "OPTIONS", "--request-target", "*", &url]).expect("it is here");
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{said}");
    }

    // ab speaks HTTP/1.0, with and without kept connections.
    for kept in [false, true] {
        let flag: &[&str] = if kept { &["-k"] } else { &[] };
        let Some(said) = run("ab", &[flag, &["-q", "-n", REQUESTS, "-c", AT_ONCE, &url]].concat()) else {
            break;
        };
        let has = |name: &str, value: &str| {
            said.lines().any(|line| line.starts_with(name) && line.split_whitespace().last() == Some(value))
        };
        assert!(has("Complete requests:", REQUESTS) && has("Failed requests:", "0"), "{said}");
        assert!(!said.contains("Non-2xx") && has("Keep-Alive requests:", REQUESTS) == kept, "{said}");
    }
    if let Some(said) = run("wrk", &["-t1", "-c", AT_ONCE, "-d1", "--timeout", SECONDS_MAX, &url]) {
        assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    }
    if let Some(said) = run("h2load", &["--h1", "-n", REQUESTS, "-c", AT_ONCE, "-m", "2", &url]) {
        let all = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(said.contains(&all) && said.contains(&format!("{REQUESTS} 2xx")), "{said}");
    }
    let program = "
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
def ask(method, path, **more):
    connection.request(method, path, **more)
    socket = connection.sock
    answer = connection.getresponse()
    body = answer.read()
    assert connection.sock is socket, (method, path, 'the connection was closed')
    return answer.status, body
digits = sys.argv[2].encode() + b'\\n'
for _ in range(20):
    assert ask('GET', '/7') == (200, digits)
assert ask('HEAD', '/7') == (200, b'')
assert ask('GET', '/abc')[0] == 400
assert ask('POST', '/7', body=b'')[0] == 405
assert ask('GET', '/nothing/here')[0] in (400, 404)
assert ask('GET', '/7', body=iter([]), encode_chunked=True,
           headers={'Transfer-Encoding': 'chunked'}) == (200, digits)
assert ask('GET', '/7') == (200, digits)
";
    run("python3", &["-c", program, &cluster.public(1).to_string(), &digits]);
    assert_nothing_refused(&cluster);
}

/// Starts a proxy, whose configuration stands in this file, and waits until it serves.
#[track_caller]
fn proxy(cluster: &Cluster, program: &str, arguments: &[&str], address: SocketAddr) -> Background {
    let log = std::fs::File::create(cluster.path(program)).expect("our own directory");
    let child = command(program)
        .args(arguments)
        .current_dir(cluster.path(""))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it is installed");
    let proxy = Background(child);
    cluster.wait_for(&format!("{program} serves"), || {
        http::get(address, "/7").ok().filter(|answer| answer.status == 200)
    });
    proxy
}

#[test]
fn proxies_in_front_go_on_when_a_node_behind_them_dies() {
    let (mut cluster, worker) = cluster();
    let digits = worker.answer(7) + "\n";
    let publics: Vec<(u64, SocketAddr)> =
        cluster.ids().into_iter().map(|id| (id, cluster.public(id))).collect();
    let list = |line: &dyn Fn(&(u64, SocketAddr)) -> String| publics.iter().map(line).collect::<String>();
    let mut proxies = Vec::new();

    let port = KeptPort::new();
    if is_here("haproxy") {
        let servers = list(&|(id, address)| format!("  server node{id} {address} check inter 100ms\n"));
        let text = format!(
            "global\n  maxconn 256\ndefaults\n  mode http\n  timeout connect 20s\n  timeout client 20s\n  timeout server 20s\n\
             \x20 timeout check 20s\n\
             frontend primes\n  bind {}\n  default_backend nodes\nbackend nodes\n  option httpchk GET /healthz\n{servers}",
            port.address()
        );
        std::fs::write(cluster.path("haproxy.cfg"), text).expect("our own directory");
        let process = proxy(&cluster, "haproxy", &["-db", "-f", "haproxy.cfg"], port.address());
        proxies.push(("haproxy", port.address(), process));
    }
    // As the manual says; and with connections to the nodes that are kept.
    let (plain, kept) = (KeptPort::new(), KeptPort::new());
    if is_here("nginx") {
        let servers = list(&|(_, address)| format!("server {address}; "));
        let here = cluster.path("").display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {here}/{name}; "))
            .collect();
        let text = format!(
            "daemon off; master_process off; pid {here}/nginx.pid; events {{ }}\n\
             http {{ access_log off; {temporary}\n\
             upstream nodes {{ {servers} }}\n\
             upstream kept {{ {servers} keepalive 8; }}\n\
             server {{ listen {}; location / {{ proxy_pass http://nodes; }} }}\n\
             server {{ listen {}; location / {{ proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n",
            plain.address(),
            kept.address()
        );
        std::fs::write(cluster.path("nginx.conf"), text).expect("our own directory");
        let arguments = ["-e", "stderr", "-c", &format!("{here}/nginx.conf")];
        let process = proxy(&cluster, "nginx", &arguments, plain.address());
        proxies.push(("nginx", plain.address(), process));
    }
    let mut addresses: Vec<(&str, SocketAddr)> = proxies.iter().map(|(name, at, _)| (*name, *at)).collect();
    if addresses.iter().any(|(name, _)| *name == "nginx") {
        addresses.push(("nginx, kept", kept.address()));
    }

    let asks = |name: &str, address| {
        let answer = http::get(address, "/7").unwrap_or_else(|error| panic!("{name}: {error}"));
        (answer.status, answer.body.clone()) == (200, digits.clone())
    };
    for (name, address) in &addresses {
        for _ in 0..AFTER_DEATH {
            assert!(asks(name, *address), "{name}");
        }
        // A wrong N is no reason for a proxy to call a node bad.
        assert_eq!(http::get(*address, "/abc").expect("an answer").status, 400, "{name}");
        let url = format!("http://{address}/7");
        if let Some(said) = run("ab", &["-k", "-q", "-n", REQUESTS, "-c", AT_ONCE, &url]) {
            assert!(!said.contains("Non-2xx"), "{name}: {said}");
        }
    }
    assert_nothing_refused(&cluster);

    cluster.kill9(1);
    for (name, address) in &addresses {
        // HAProxy sends requests there until its check has failed; nginx asks the next one at once.
        cluster.wait_for(&format!("{name} has left the dead node"), || {
            (0..AFTER_DEATH).all(|_| asks(name, *address)).then_some(())
        });
    }
    assert_nothing_refused(&cluster);
}
