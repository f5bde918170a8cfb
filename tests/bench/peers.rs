//! The programs that Rakit is measured beside, from Debian: how they are installed, configured and started, and their
//! versions. Each is configured as its manual advises for speed. No peer writes a log of requests; Rakit does.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Fallible;
use crate::process::Process;

/// A program, Debian's package that brings it, and what makes it tell its version.
struct Peer {
    program: &'static str,
    package: &'static str,
    version: &'static [&'static str],
}

const PEERS: [Peer; 5] = [
    Peer { program: "nginx", package: "nginx", version: &["-v"] },
    Peer { program: "haproxy", package: "haproxy", version: &["-v"] },
    Peer { program: "etcd", package: "etcd-server", version: &["--version"] },
    Peer { program: "wrk", package: "wrk", version: &["-v"] },
    Peer { program: "primesieve", package: "primesieve", version: &["--version"] },
];

/// Further programs that the measurements call.
const TOOLS: [Peer; 3] = [
    Peer { program: "ip", package: "iproute2", version: &["-V"] },
    Peer { program: "setpriv", package: "util-linux", version: &["--version"] },
    Peer { program: "python3", package: "python3", version: &["--version"] },
];

/// Idle connections that each worker process of nginx keeps to its upstreams.
const NGINX_KEPT: usize = 256;

/// More than any measurement opens. HAProxy wants twice as many descriptors before it starts.
const CONNECTIONS_MAX: usize = 5_000;

/// Installs what is missing, as root or with sudo without a password. Services that Debian starts on installation are stopped
/// again.
///
/// # Errors
/// When apt-get fails: the message says what to install by hand.
pub fn install() -> Fallible {
    let missing: Vec<&Peer> = PEERS.iter().chain(&TOOLS).filter(|peer| !is_there(peer.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|peer| peer.package).collect();
    println!("installing {}", packages.join(", "));
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&packages);
    for arguments in [vec!["update"], install] {
        let status = as_root("apt-get").args(&arguments).stdin(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("apt-get cannot install {}: install them by hand", packages.join(" ")).into());
        }
    }
    for service in ["nginx", "haproxy", "etcd"] {
        if missing.iter().any(|peer| peer.program == service) {
            // On a machine without a service manager there is nothing to stop, and nothing was started.
            let stop = as_root("service").args([service, "stop"]).stdin(Stdio::null()).output();
            let _ = stop.map(|output| output.status);
        }
    }
    Ok(())
}

/// The same command, through sudo if this user is not root.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        return command;
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
    command
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The version of each peer.
pub fn versions() -> Vec<(String, String)> {
    let told = |peer: &Peer| {
        let output = Command::new(peer.program).args(peer.version).stdin(Stdio::null()).output().ok()?;
        // nginx writes to standard error.
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // As in "nginx version: nginx/1.22.1".
        let number = text.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()))?;
        let number = number.trim_start_matches("nginx/").trim_end_matches(',');
        Some((peer.program.to_owned(), number.to_owned()))
    };
    PEERS.iter().chain(&TOOLS).filter(|peer| peer.program != "ip").filter_map(told).collect()
}

/// A server behind a load balancer.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    /// What the operator wrote beside it; servers of equal weight are treated alike.
    pub weight: u32,
    /// Where it tells how idle it is, for HAProxy's agent-check.
    pub agent: Option<SocketAddr>,
}

impl Upstream {
    /// One of many that are treated alike.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, weight: 1, agent: None }
    }
}

/// How many processes (nginx) or threads (HAProxy) a peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    One,
    /// One for each processor.
    Auto,
}

/// nginx, choosing the server with the fewest connections; returns when it listens.
///
/// # Errors
/// When it does not start.
pub fn nginx(directory: &Path, listen: SocketAddr, upstreams: &[Upstream], size: Size) -> Fallible<Process> {
    let mut servers = String::new();
    for Upstream { address, weight, .. } in upstreams {
        // Writing to a String cannot fail.
        let _ = writeln!(servers, "server {address} weight={weight};");
    }
    nginx_with(
        directory,
        listen,
        size,
        &format!(
            "upstream workers {{ zone workers 256k; least_conn; {servers} keepalive {NGINX_KEPT}; \
             keepalive_requests 1000000; }}\n\
             server {{ listen {listen} backlog=4096; location / {{ proxy_pass http://workers; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_read_timeout 300s; }} }}"
        ),
    )
}

/// nginx as a worker that answers every request at once, and offers to keep the connection; returns when it listens.
///
/// # Errors
/// When it does not start.
pub fn instant_worker(directory: &Path, listen: SocketAddr) -> Fallible<Process> {
    nginx_with(
        directory,
        listen,
        Size::One,
        &format!(
            "server {{ listen {listen} backlog=4096; default_type text/plain; location / {{ return 200 \"5\\n\"; }} }}"
        ),
    )
}

fn nginx_with(directory: &Path, listen: SocketAddr, size: Size, servers: &str) -> Fallible<Process> {
    std::fs::create_dir_all(directory)?;
    let processes = if size == Size::One { "1" } else { "auto" };
    let path = directory.display();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "{kind}_temp_path {path}/{kind};");
    }
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let text = format!(
        "{user}\ndaemon off;\nworker_processes {processes};\n\
         pid {path}/pid;\nerror_log {path}/error.log;\nevents {{ worker_connections {CONNECTIONS_MAX}; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 1000000;\nkeepalive_timeout 300s 300s;\n{temporary}\n{servers}\n}}\n"
    );
    let configuration = directory.join("nginx.conf");
    std::fs::write(&configuration, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(configuration);
    command.arg("-e").arg(directory.join("error.log"));
    Process::start_listening(&command, &directory.join("output"), listen)
}

/// HAProxy, choosing the server with the fewest connections for its weight; returns when it listens.
///
/// # Errors
/// When it does not start.
pub fn haproxy(
    directory: &Path,
    listen: SocketAddr,
    upstreams: &[Upstream],
    agent_interval_ms: u64,
    size: Size,
) -> Fallible<Process> {
    std::fs::create_dir_all(directory)?;
    let threads = if size == Size::One { "nbthread 1" } else { "" };
    let mut text = format!(
        "global\n maxconn {CONNECTIONS_MAX}\n {threads}\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n\
         listen workers\n bind {listen} backlog 4096\n balance leastconn\n http-reuse always\n"
    );
    for (number, Upstream { address, weight, agent }) in upstreams.iter().enumerate() {
        let _ = write!(text, " server s{number} {address} weight {weight}");
        if let Some(agent) = agent {
            let _ = write!(
                text,
                " agent-check agent-addr {} agent-port {} agent-inter {agent_interval_ms}ms",
                agent.ip(),
                agent.port()
            );
        }
        text.push('\n');
    }
    let configuration = directory.join("haproxy.cfg");
    std::fs::write(&configuration, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(configuration);
    Process::start_listening(&command, &directory.join("output"), listen)
}
