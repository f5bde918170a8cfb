//! Where the chaos happens: one network namespace per node, joined by a bridge, and a small disk per node; or, where the
//! system does not allow that, this machine's loopback.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::network::{HUB, Network, must};

/// A node's id: 1 to [`NODES`].
pub type NodeId = u8;

/// How many nodes there are: five founders, and one more.
pub const NODES: NodeId = 6;

/// The disk of a node. A compacted log of a few hundred entries takes a hundredth of it.
const DISK_MEGABYTES: u32 = 12;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Every node on a host of its own.
    Namespaces,
    /// All on 127.0.0.0/8, where nothing can be cut and no disk be filled.
    Loopback,
}

/// The hosts, their addresses and disks.
#[derive(Debug)]
pub struct Hosts {
    /// `None` on loopback, where nothing is cut.
    network: Option<Network>,
    directory: PathBuf,
    /// On loopback: the second and third byte of all addresses.
    corner: (u8, u8),
}

impl Hosts {
    /// Sets everything up.
    pub fn new(place: Place, directory: &Path) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        let corner = (64 | (high & 63), low);
        let network = (place == Place::Namespaces).then(|| Network::new(1..=NODES));
        let hosts = Self { network, directory: directory.to_owned(), corner };
        if hosts.network.is_some() {
            for id in 1..=NODES {
                let disk = hosts.disk(id);
                std::fs::create_dir_all(&disk).expect("a directory of our own");
                must(&format!("mount -t tmpfs -o size={DISK_MEGABYTES}m none {}", disk.display()));
            }
        }
        hosts
    }

    fn address(&self, host: u8, port: u16) -> SocketAddr {
        let ip = match self.network {
            Some(_) => Network::address(host),
            None => Ipv4Addr::new(127, self.corner.0, self.corner.1, host),
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
        self.address(HUB, 10_000 + u16::from(number))
    }

    /// A node's directory, on a disk of its own.
    pub fn disk(&self, id: NodeId) -> PathBuf {
        self.directory.join(format!("data/node-{id}"))
    }

    /// A command that will run on a node's host; the process that is started is the program itself.
    pub fn command(&self, id: NodeId, program: &str) -> Command {
        match &self.network {
            Some(network) => network.command(id, program),
            None => {
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
        self.network.as_ref().expect("no cuts on loopback").cable(id, plugged);
    }

    /// From now on, nothing that `from` sends reaches `to`. Several faults may cut the same way.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.network.as_mut().expect("no cuts on loopback").cut(from, to);
    }

    /// Takes one such cut back.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        self.network.as_mut().expect("no cuts on loopback").mend(from, to);
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

    /// Removes everything in the directory of a node that does not run: its disk was replaced.
    pub fn empty(&self, id: NodeId) {
        let Ok(entries) = std::fs::read_dir(self.disk(id)) else { return };
        for entry in entries {
            let path = entry.expect("a disk of our own").path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
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
        if self.network.is_some() {
            for id in 1..=NODES {
                let _ = Command::new("umount").arg("--lazy").arg(self.disk(id)).status();
            }
        }
    }
}
