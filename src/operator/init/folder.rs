//! Writes one host's folder for `rakit init`: all that the machine needs, and two scripts that start it.
//!
//! | file | holds |
//! | --- | --- |
//! | `rakit` | this program: node, daemon and the operator's commands |
//! | `cluster.toml` | the configuration, the same on every machine |
//! | `cluster.key` | mode 0600: the secret on a node; on a server alone the report key, with which nobody can vote |
//! | `worker.py`, `server-NAME.env` | on a server: the worker; what its two services are started with |
//! | `start.sh` | starts by hand what runs on the machine, and `stop.sh` stops it |
//! | `install.sh`, `*.service` | make services of it, for systemd |

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::super::children::shell_word;
use super::super::programs::WORKER_SOURCE;
use super::hosts::{Host, PlannedServer, WORKER_PORT};

/// Readable for everybody; for the owner alone; executable.
const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;
const PROGRAM: u32 = 0o755;

const NODE_UNIT: (&str, &str) = ("rakit-node@.service", include_str!("../../../node/rakit-node@.service"));
const DAEMON_UNIT: (&str, &str) =
    ("rakit-daemon@.service", include_str!("../../../daemon/rakit-daemon@.service"));
const WORKER_UNIT: (&str, &str) =
    ("rakit-worker@.service", include_str!("../../../daemon/rakit-worker@.service"));

/// A unit as Debian's package has it, with the places of what was installed by hand.
fn installed_by_hand(unit: &str) -> String {
    unit.replace("/usr/bin/rakit", "/usr/local/bin/rakit").replace("/usr/lib/rakit", "/usr/local/lib/rakit")
}

/// What all folders share.
pub struct Shared<'a> {
    /// The text of cluster.toml.
    pub configuration: &'a str,
    /// The content of the key file of a machine with a node; `None` when only servers are set up.
    pub secret: Option<&'a str>,
    /// The content of the key file of a machine without one.
    pub report_key: &'a str,
    /// Whether workers must listen on IPv6, too.
    pub ipv6: bool,
    /// A copy of this program in the directory of all folders.
    pub program: &'a Path,
}

/// Makes the folder, which must not exist.
///
/// # Errors
/// A file can't be written.
pub fn write(folder: &Path, host: &Host, shared: &Shared<'_>) -> io::Result<()> {
    fs::create_dir(folder)?;
    // One file on this disk, however many folders there are. Some file systems have no links.
    let program = folder.join("rakit");
    fs::hard_link(shared.program, &program).or_else(|_| fs::copy(shared.program, &program).map(drop))?;
    let new = |name: &str, text: &str, mode| new_file(&folder.join(name), text, mode);
    new("cluster.toml", shared.configuration, PUBLIC)?;
    let key =
        if host.nodes.is_empty() { shared.report_key } else { shared.secret.unwrap_or(shared.report_key) };
    new("cluster.key", key, SECRET)?;
    if !host.nodes.is_empty() {
        new(NODE_UNIT.0, &installed_by_hand(NODE_UNIT.1), PUBLIC)?;
    }
    if !host.servers.is_empty() {
        new("worker.py", WORKER_SOURCE, PUBLIC)?;
        for unit in [DAEMON_UNIT, WORKER_UNIT] {
            new(unit.0, &installed_by_hand(unit.1), PUBLIC)?;
        }
    }
    for server in &host.servers {
        let options = format!(
            "WORKER_OPTIONS={}\nDAEMON_OPTIONS={}\n",
            worker_options(server, shared.ipv6).join(" "),
            daemon_options(server).join(" ")
        );
        new(&environment_file(server), &options, PUBLIC)?;
    }
    new("start.sh", &start_script(host, shared.ipv6), PROGRAM)?;
    new("stop.sh", &stop_script(host), PROGRAM)?;
    new("install.sh", &install_script(host), PROGRAM)
}

/// Writes a file that must not exist.
///
/// # Errors
/// It exists, or can't be written.
pub fn new_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn environment_file(server: &PlannedServer) -> String {
    format!("server-{}.env", server.name)
}

/// What the worker is started with. Without an address it listens on all of them, so that it can follow the machine's.
fn worker_options(server: &PlannedServer, ipv6: bool) -> Vec<String> {
    let mut options = Vec::new();
    match server.ip {
        Some(ip) => options.extend(["--bind".to_string(), ip.to_string()]),
        None if ipv6 => options.extend(["--bind", "::"].map(str::to_string)),
        None => {}
    }
    if server.port != WORKER_PORT {
        options.extend(["--port".to_string(), server.port.to_string()]);
    }
    options
}

/// What the daemon is started with, beside the configuration and the name.
fn daemon_options(server: &PlannedServer) -> Vec<String> {
    let worker = server.ip.map(|ip| std::net::SocketAddr::new(ip, server.port).to_string());
    worker.map_or_else(Vec::new, |worker| vec!["--worker".to_string(), worker])
}

/// What runs on the machine, in words.
pub fn contents(host: &Host) -> String {
    let nodes = host.nodes.iter().map(|node| format!("node {}", node.id));
    let servers =
        host.servers.iter().map(|server| format!("server {} (its worker and its daemon)", server.name));
    nodes.chain(servers).collect::<Vec<_>>().join(", ")
}

fn start_script(host: &Host, ipv6: bool) -> String {
    let mut text = format!(
        r#"#!/bin/sh
# Starts by hand, in the background, what runs on {}: {}.
# ./stop.sh stops it; the logs are in logs/. For services that start with the machine, see install.sh.
cd "$(dirname "$0")" || exit 1
mkdir -p logs run

# start NAME COMMAND...: run/NAME.pid gets its process id, logs/NAME.log what it says.
start() {{
  name=$1; shift
  if [ -f "run/$name.pid" ] && [ "/proc/$(cat "run/$name.pid")/cwd" -ef . ]; then
    echo "$name runs already, with process id $(cat "run/$name.pid")"
    return
  fi
  nohup "$@" </dev/null >>"logs/$name.log" 2>&1 &
  echo $! >"run/$name.pid"
  echo "$name is started, with process id $!"
}}

"#,
        host.name,
        contents(host)
    );
    let mut start = |name: &str, command: &str| {
        // It finds that its log file is its standard error, and writes each line once.
        text.push_str(&format!("start {name} {command}\n"));
    };
    for node in &host.nodes {
        let name = format!("node-{}", node.id);
        start(
            &name,
            &format!("./rakit node --config cluster.toml --id {} --log-file logs/{name}.log", node.id),
        );
    }
    for server in &host.servers {
        let words = |options: Vec<String>| {
            options.iter().map(|word| format!(" {}", shell_word(word))).collect::<String>()
        };
        let name = format!("worker-{}", server.name);
        start(
            &name,
            &format!("python3 worker.py{} --log-file logs/{name}.log", words(worker_options(server, ipv6))),
        );
        let name = format!("daemon-{}", server.name);
        start(
            &name,
            &format!(
                "./rakit daemon --config cluster.toml --server {}{} --log-file logs/{name}.log",
                server.name,
                words(daemon_options(server))
            ),
        );
    }
    text
}

fn stop_script(host: &Host) -> String {
    format!(
        r#"#!/bin/sh
# Stops what start.sh has started on {}.
cd "$(dirname "$0")" || exit 1
for file in run/*.pid; do
  [ -f "$file" ] || {{ echo "nothing is started here"; exit 0; }}
  pid=$(cat "$file") || exit 1
  # After a restart of the machine, the id may be that of another process.
  if [ "/proc/$pid/cwd" -ef . ]; then kill "$pid"; fi
done
for file in run/*.pid; do
  pid=$(cat "$file")
  # A node finishes its clients' requests and hands leadership over. That takes some seconds at most.
  while [ "/proc/$pid/cwd" -ef . ]; do sleep 0.1; done
  rm -f "$file"
  echo "$file: process $pid has ended"
done
"#,
        host.name
    )
}

fn install_script(host: &Host) -> String {
    let mut services: Vec<String> =
        host.nodes.iter().map(|node| format!("rakit-node@{}.service", node.id)).collect();
    for server in &host.servers {
        services.extend(["worker", "daemon"].map(|which| format!("rakit-{which}@{}.service", server.name)));
    }
    let services = services.join(" ");
    let worker = if host.servers.is_empty() {
        ""
    } else {
        "install -D -m 644 worker.py /usr/local/lib/rakit/worker.py\ninstall -m 644 server-*.env /etc/rakit/\n"
    };
    format!(
        r#"#!/bin/sh
# Makes services of what runs on {}: {}.
# Run it as root on that machine; again after a change or with a newer program. It needs systemd.
set -e
cd "$(dirname "$0")"
./stop.sh
id rakit >/dev/null 2>&1 || useradd --system --home-dir /var/lib/rakit --shell /usr/sbin/nologin rakit
install -m 755 rakit /usr/local/bin/rakit
install -d -m 755 /etc/rakit
install -m 644 cluster.toml /etc/rakit/cluster.toml
install -m 600 -o rakit -g rakit cluster.key /etc/rakit/cluster.key
{worker}# The data is where a system keeps such things; cluster.toml finds it beside itself.
install -d -m 700 -o rakit -g rakit /var/lib/rakit
ln -sfn /var/lib/rakit /etc/rakit/data
# What a node has promised while it ran by hand goes with it. It is moved: two copies must never run.
if [ -d data ]; then mv -n data/* /var/lib/rakit/; rmdir data; chown -R rakit:rakit /var/lib/rakit; fi
install -m 644 rakit-*.service /etc/systemd/system/
# man rakit, man rakit-node; completions for the shells.
/usr/local/bin/rakit manual /usr/local/share
systemctl daemon-reload
systemctl enable {services}
# A node whose address is not there yet is waited for by systemd, not here.
systemctl restart --no-block {services}
echo "rakit check --config /etc/rakit/cluster.toml says what is not as it should be"
"#,
        host.name,
        contents(host)
    )
}

#[cfg(test)]
mod tests {
    use super::super::hosts::PlannedNode;
    use super::*;

    fn host() -> Host {
        let address = |text: &str| text.parse().expect("an address");
        Host {
            name: "lab-01".to_string(),
            nodes: vec![PlannedNode {
                id: 1,
                public: address("10.0.0.1:8000"),
                cluster: address("10.0.0.1:9000"),
            }],
            servers: vec![
                PlannedServer { name: "lab-01-13337".to_string(), ip: None, port: 13_337 },
                PlannedServer {
                    name: "lab-01-4000".to_string(),
                    ip: Some("10.0.0.1".parse().expect("one")),
                    port: 4000,
                },
            ],
        }
    }

    #[test]
    fn what_is_started_by_hand_is_what_the_services_start() {
        let (start, install) = (start_script(&host(), true), install_script(&host()));
        for line in [
            "start node-1 ./rakit node --config cluster.toml --id 1 --log-file logs/node-1.log\n",
            "start worker-lab-01-13337 python3 worker.py --bind :: --log-file logs/worker-lab-01-13337.log\n",
            "start daemon-lab-01-13337 ./rakit daemon --config cluster.toml --server lab-01-13337 --log-file",
            "start worker-lab-01-4000 python3 worker.py --bind 10.0.0.1 --port 4000 --log-file logs/",
            "--server lab-01-4000 --worker 10.0.0.1:4000 --log-file",
        ] {
            assert!(start.contains(line), "{line}: {start}");
        }
        let services = "rakit-node@1.service rakit-worker@lab-01-13337.service rakit-daemon@lab-01-13337.service \
                        rakit-worker@lab-01-4000.service rakit-daemon@lab-01-4000.service\n";
        assert!(install.contains(&format!("systemctl enable {services}")), "{install}");
        assert!(!start_script(&host(), false).contains("--bind ::"));
    }

    /// A hardening that hides /proc/stat, the sockets or the worker's processes would make a busy server look idle.
    #[test]
    fn the_units_come_back_and_the_daemon_still_sees_what_it_measures() {
        for (name, unit) in [NODE_UNIT, DAEMON_UNIT, WORKER_UNIT] {
            for line in
                ["\nRestart=always\n", "\nRestartSec=2\n", "\nStartLimitIntervalSec=0\n", "\nUser=rakit\n"]
            {
                assert!(unit.contains(line), "{name}: {line}");
            }
        }
        for blind in
            ["\nProcSubset=", "\nProtectProc=", "\nPrivateNetwork=", "\nPrivateUsers=", "\nDynamicUser="]
        {
            assert!(!DAEMON_UNIT.1.contains(blind) && !WORKER_UNIT.1.contains(blind), "{blind}");
        }
        for unit in [NODE_UNIT, DAEMON_UNIT, WORKER_UNIT] {
            let unit = installed_by_hand(unit.1);
            let starts =
                unit.lines().find(|line| line.starts_with("ExecStart=")).expect("it starts something");
            assert!(starts.contains("/usr/local/") && !starts.contains("/usr/bin/rakit"), "{starts}");
        }
        assert!(DAEMON_UNIT.1.contains("\nRestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX\n"));
    }
}
