//! Where the chaos happens: one network namespace per node, joined by a bridge, and a small disk per node; or, where the
//! system does not allow that, this machine's loopback.
//!
//! Everything is done inside one `unshare`d network, mount and process namespace of its own (namespaces(7), unshare(1)),
//! in which the test is process 1. So nothing needs a unique name, and nothing can be left behind: when the test
//! ends, in whatever way, the kernel ends its children and takes the interfaces and the mounts away.
//!
//! A cut is made without a packet filter, which not every kernel has:
//! - a cable is pulled by setting the bridge's port down;
//! - *one direction* between two nodes is cut by a permanent neighbour entry with a hardware address that nobody has
//!   (ip-neighbour(8)): the sender's frames leave as usual, the bridge sends them to all ports, and all hosts drop
//!   them. Neither side gets an error, as with a real loss.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A node's id: 1 to [`NODES`].
pub type NodeId = u8;

/// How many nodes there are.
pub const NODES: NodeId = 5;

/// This environment variable is set for the test's second process, inside the namespaces.
pub const INSIDE: &str = "RAKIT_CHAOS_INSIDE";

/// The disk of a node. A compacted log of a few hundred entries takes a hundredth of it.
const DISK_MEGABYTES: u32 = 12;

/// The hardware address that nobody has (locally administered).
const NOBODY: &str = "02:00:00:00:00:fe";

/// A small trial of everything that the real set-up needs.
const TRIAL: &str = "set -e; mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up; ip link add hub type bridge; \
    ip netns add trial; ip link add v1 type veth peer name eth0 netns trial; ip netns exec trial true; \
    ip -n trial neigh replace 10.77.0.2 lladdr 02:00:00:00:00:fe dev eth0 nud permanent";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Every node on a host of its own.
    Namespaces,
    /// All on 127.0.0.0/8, where nothing can be cut and no disk be filled.
    Loopback,
}

/// The command that runs another one inside fresh namespaces, or why that is not possible.
pub fn unshared() -> Result<Vec<&'static str>, String> {
    let inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    // As root it works as it is; else a user namespace may allow it.
    let as_user = ["unshare", "--user", "--map-root-user"].iter().chain(&inside[1..]).copied().collect();
    let mut refusals = Vec::new();
    for way in [inside.to_vec(), as_user] {
        match Command::new(way[0]).args(&way[1..]).args(["sh", "-c", TRIAL]).output() {
            Ok(output) if output.status.success() => return Ok(way),
            Ok(output) => refusals.push(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
            Err(error) => refusals.push(format!("{}: {error}", way[0])),
        }
    }
    Err(refusals.join(" | "))
}

/// Runs a command that must succeed.
#[track_caller]
fn must(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {said}");
}

/// The hosts, their addresses, and which ways between them are cut.
#[derive(Debug)]
pub struct Hosts {
    place: Place,
    directory: PathBuf,
    /// On loopback: the second and third byte of all addresses.
    corner: (u8, u8),
    /// How many faults cut the way from the first to the second.
    cuts: BTreeMap<(NodeId, NodeId), u32>,
}

impl Hosts {
    /// Sets everything up.
    pub fn new(place: Place, directory: &Path) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        let corner = (64 | (high & 63), low);
        let hosts = Self { place, directory: directory.to_owned(), corner, cuts: BTreeMap::new() };
        if place == Place::Namespaces {
            must(
                "mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up; ip link add hub type bridge",
            );
            must("ip addr add 10.77.0.254/24 dev hub && ip link set hub up");
            for id in 1..=NODES {
                must(&format!(
                    "set -e; ip netns add h{id}; ip link add v{id} type veth peer name eth0 netns h{id}; \
                     ip link set v{id} master hub up; ip -n h{id} link set lo up; \
                     ip -n h{id} addr add 10.77.0.{id}/24 dev eth0; ip -n h{id} link set eth0 up"
                ));
                let disk = hosts.disk(id);
                std::fs::create_dir_all(&disk).expect("a directory of our own");
                must(&format!("mount -t tmpfs -o size={DISK_MEGABYTES}m none {}", disk.display()));
            }
        }
        hosts
    }

    fn address(&self, host: u8, port: u16) -> SocketAddr {
        let ip = match self.place {
            Place::Namespaces => Ipv4Addr::new(10, 77, 0, host),
            Place::Loopback => Ipv4Addr::new(127, self.corner.0, self.corner.1, host),
        };
        SocketAddr::from((ip, port))
    }

    /// A node's address for clients.
    pub fn public(&self, id: NodeId) -> SocketAddr {
        self.address(id, 8_000)
    }

    /// A node's address for peers and daemons.
    pub fn cluster(&self, id: NodeId) -> SocketAddr {
        self.address(id, 9_000)
    }

    /// Where a worker listens: all workers, daemons and clients are on the hub.
    pub fn worker(&self, number: u8) -> SocketAddr {
        self.address(254, 10_000 + u16::from(number))
    }

    /// A node's directory, on a disk of its own.
    pub fn disk(&self, id: NodeId) -> PathBuf {
        self.directory.join(format!("data/node-{id}"))
    }

    /// A command that will run on a node's host; the process that is started is the program itself.
    pub fn command(&self, id: NodeId, program: &str) -> Command {
        match self.place {
            Place::Namespaces => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &format!("h{id}"), program]);
                command
            }
            Place::Loopback => {
                let mut command = Command::new(program);
                // Here no namespace ends it, should the test be killed.
                command.arg(format!("--stop-with-parent={}", std::process::id()));
                command
            }
        }
    }

    // ------------------------------------------------------------------------------------------------- cuts

    /// Pulls a host's cable, or puts it back.
    pub fn cable(&self, id: NodeId, plugged: bool) {
        must(&format!("ip link set v{id} {}", if plugged { "up" } else { "down" }));
    }

    /// From now on, nothing that `from` sends reaches `to`. Several faults may cut the same way.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        let cuts = self.cuts.entry((from, to)).or_default();
        *cuts += 1;
        if *cuts == 1 {
            must(&format!("ip -n h{from} neigh replace 10.77.0.{to} lladdr {NOBODY} dev eth0 nud permanent"));
        }
    }

    /// Takes one such cut back.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        let cuts = self.cuts.get_mut(&(from, to)).expect("only what was cut is mended");
        *cuts -= 1;
        if *cuts == 0 {
            self.cuts.remove(&(from, to));
            must(&format!("ip -n h{from} neigh del 10.77.0.{to} dev eth0"));
        }
    }

    /// Destroys every connection to or from a node's cluster address, at its end of it; the process is not touched.
    pub fn close_connections(&self, id: NodeId) {
        let ends = "( sport = :9000 or dport = :9000 )";
        must(&format!(
            "ip netns exec h{id} ss -K -t state established '{ends}' > {}/ss",
            self.directory.display()
        ));
    }

    // ------------------------------------------------------------------------------------------------- disks

    /// Fills a node's disk to the last byte.
    pub fn fill(&self, id: NodeId) {
        let mut filler = File::create(self.disk(id).join("filler")).expect("a disk of our own");
        for step in [64 * 1024, 1] {
            loop {
                match filler.write(&vec![b'#'; step]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk of node {id}: {error}"),
                }
            }
        }
    }

    /// Makes room again.
    pub fn clear(&self, id: NodeId) {
        std::fs::remove_file(self.disk(id).join("filler")).expect("it was filled before");
    }
}

impl Drop for Hosts {
    /// The kernel would take the disks away by itself, but a directory can only be removed when nothing is mounted in it.
    fn drop(&mut self) {
        if self.place == Place::Namespaces {
            for id in 1..=NODES {
                let _ = Command::new("umount").arg("--lazy").arg(self.disk(id)).status();
            }
        }
    }
}
