//! The real daemon on machines as they are: an address that changes, a worker behind address translation. Each machine is a
//! network namespace with a cable (veth) to another one, made and taken away with the test. Where the system allows no
//! namespaces, a test says SKIPPED.

use std::path::Path;
use std::process::{Command, Output};

const RAKIT: &str = env!("CARGO_BIN_EXE_rakit");

/// Far more than a script here takes; only a failure waits for it.
const SCRIPT_SECONDS_MAX: &str = "180";

/// Two machines: the daemon's, `near` with the address 10.88.0.5, and the node's, `far`. `wait_for FILE WORDS` waits until a
/// program has said so.
const MACHINES: &str = "
    fail() { echo \"$@\" >&2; exit 1; }
    skip() { echo \"$@\" >&2; exit 77; }
    set -e
    { mount -t tmpfs none /run && mkdir /run/netns && ip netns add far && ip link set lo up &&
      ip link add near type veth peer name eth0 netns far; } || skip 'no machines can be made here'
    far() { ip netns exec far \"$@\"; }
    far ip link set lo up; far ip link set eth0 up; ip link set near up
    far ip addr add 10.88.0.1/24 dev eth0; ip addr add 10.88.0.5/24 dev near
    far ip -6 addr add fd88::1/64 dev eth0 nodad
    wait_for() { while ! grep -q \"$2\" \"$1\"; do sleep 0.05; done; }
    shows() { while ! \"$RAKIT\" status \"$NODE\" > status; ! grep -q \"$1\" status; do sleep 0.05; done; }
";

/// Runs a shell script on [`MACHINES`], in this directory. Nothing that it starts outlives it. `None`: it skipped itself.
#[track_caller]
fn on_machines(directory: &Path, script: &str) -> Option<Output> {
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = Command::new("timeout");
    command.args(["-k", "1", SCRIPT_SECONDS_MAX, "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(namespaces).args(["sh", "-c", &format!("{MACHINES}\n{script}")]);
    let output = command.current_dir(directory).env("RAKIT", RAKIT).output().expect("timeout(1)");
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || told.contains("unshare: ") {
        eprintln!("SKIPPED: {told}");
        return None;
    }
    let logs: String = ["node.log", "daemon.log", "status"]
        .iter()
        .map(|name| std::fs::read_to_string(directory.join(name)).unwrap_or_default())
        .collect();
    assert!(output.status.success(), "{output:?}\n{told}\n{logs}");
    Some(output)
}

/// A directory with a cluster of one node at this address, with a secret: then a node compares a worker's address with that
/// from which the report comes.
fn cluster_at(address: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let toml = format!(
        "[cluster]\nname = \"field\"\nsecret_file = \"key\"\n[balancer]\nreport_interval_ms = 100\n\
         [[node]]\nid = 1\npublic = \"{address}:8000\"\ncluster = \"{address}:9000\"\n"
    );
    std::fs::write(directory.path().join("cluster.toml"), toml).expect("our own directory");
    let key = directory.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").expect("our own directory");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    directory
}

#[test]
fn without_worker_the_daemon_follows_its_address() {
    let directory = cluster_at("10.88.0.1");
    // A report from another address than it names is refused: that of the moment in which the address changes, at most.
    let script = "
        NODE=10.88.0.1:8000
        far \"$RAKIT\" node --config cluster.toml --id 1 2> node.log &
        \"$RAKIT\" daemon --config cluster.toml --server lab-01 2> daemon.log &
        shows 10.88.0.5:13337
        # What a DHCP client does when it gets another lease, or the laptop another Wi-Fi.
        ip addr del 10.88.0.5/24 dev near
        ip addr add 10.88.0.6/24 dev near
        shows 10.88.0.6:13337
        # The old address stays for a while, and the route prefers the new one.
        ip addr add 10.88.0.7/24 dev near
        ip route change 10.88.0.0/24 dev near src 10.88.0.7
        shows 10.88.0.7:13337
        grep -c 'the address of this machine has changed from 10.88.0.5 to 10.88.0.6' daemon.log
        grep -c 'the address of this machine has changed from 10.88.0.6 to 10.88.0.7' daemon.log";
    let Some(output) = on_machines(directory.path(), script) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n");
}

#[test]
fn a_stable_ipv6_address_is_reported_and_not_a_temporary_one() {
    let directory = cluster_at("[fd88::1]");
    let script = "
        NODE='[fd88::1]:8000'
        sysctl -qw net.ipv6.conf.near.use_tempaddr=2 || skip 'no IPv6 here'
        ip -6 addr add fd88::5/64 dev near nodad mngtmpaddr || skip 'no IPv6 here'
        # The kernel's choice is the temporary one, as soon as it is usable.
        while ! ip route get fd88::1 | grep -v 'src fd88::5 ' | grep -q 'src fd88::'; do sleep 0.05; done
        far \"$RAKIT\" node --config cluster.toml --id 1 2> node.log &
        \"$RAKIT\" daemon --config cluster.toml --server lab-01 2> daemon.log &
        shows '\\[fd88::5\\]:13337'
        ! grep -q refuses daemon.log || fail 'refused'";
    on_machines(directory.path(), script);
}

/// Port 13337 of this machine is published from a worker on another one, as Docker does it for a container.
#[test]
fn a_worker_behind_address_translation_can_be_declared() {
    let directory = cluster_at("10.88.0.1");
    let script = "
        NODE=10.88.0.1:8000
        command -v nft > /dev/null || skip 'nft(8) is not installed'
        # The worker's container, behind the daemon's machine.
        ip netns add box; ip link add inside type veth peer name eth0 netns box
        ip link set inside up; ip addr add 10.99.0.1/24 dev inside
        ip -n box link set lo up; ip -n box link set eth0 up; ip -n box addr add 10.99.0.2/24 dev eth0
        ip -n box route add default via 10.99.0.1
        sysctl -qw net.ipv4.ip_forward=1
        nft -f - <<END || skip 'no address translation here'
            table ip nat {
                chain in { type nat hook prerouting priority -100; tcp dport 13337 dnat to 10.99.0.2:13337; }
                chain own { type nat hook output priority -100; ip daddr 10.88.0.5 tcp dport 13337 dnat to 10.99.0.2:13337; }
            }
END
        far \"$RAKIT\" node --config cluster.toml --id 1 2> node.log &
        start() { \"$RAKIT\" daemon --config cluster.toml --server lab-01 --worker 10.88.0.5:13337 $1 2> daemon.log & daemon=$!; }
        work() { ip netns exec box python3 \"$WORKER\" & worker=$!; }
        work
        # As before: no socket of this machine listens.
        start ''; shows 'lab-01  alive, no worker'; kill $daemon; wait $daemon
        start '--worker-check none'; shows 'lab-01  alive  '; wait_for daemon.log 'taken to be up'; kill $daemon; wait $daemon
        start '--worker-check connect'; wait_for daemon.log 'the worker listens on'; shows 'lab-01  alive  '
        [ \"$(curl -sf http://$NODE/1000)\" = 7919 ]
        kill $worker; wait $worker
        shows 'lab-01  alive, no worker'; wait_for daemon.log 'no worker takes a connection at 10.88.0.5:13337'
        work; shows 'lab-01  alive  '";
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.py");
    on_machines(directory.path(), &format!("WORKER='{}'\n{script}", worker.display()));
}
