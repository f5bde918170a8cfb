//! Machines for a test: network namespaces, each with an address of its own and a cable (veth) to one bridge. The chaos test,
//! `hosts.rs` and the benchmark use them.
//!
//! Everything is done inside one `unshare`d network, mount and process namespace of its own (namespaces(7), unshare(1)),
//! in which the test is process 1. So nothing needs a unique name, and nothing can be left behind: when the test
//! ends, in whatever way, the kernel ends its children and takes the interfaces and the mounts away.
//!
//! A cut is made without a packet filter, which not every kernel has:
//! - a cable is pulled by setting the bridge's port down;
//! - *one direction* between two machines is cut by a permanent neighbour entry with a hardware address that nobody has
//!   (ip-neighbour(8)): the sender's frames leave as usual, the bridge sends them to all ports, and all machines drop
//!   them. Neither side gets an error, as with a real loss.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;

/// This environment variable is set for the test's second process, inside the namespaces.
pub const INSIDE: &str = "RAKIT_TEST_INSIDE";

/// The test itself is a machine, too: it sits at the bridge.
pub const HUB: u8 = 254;

/// The hardware address that nobody has (locally administered).
const NOBODY: &str = "02:00:00:00:00:fe";

/// A small trial of everything that the real set-up needs.
const TRIAL: &str = "set -e; mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up; ip link add hub type bridge; \
    ip netns add trial; ip link add v1 type veth peer name eth0 netns trial; ip netns exec trial true; \
    ip -n trial neigh replace 10.77.0.2 lladdr 02:00:00:00:00:fe dev eth0 nud permanent";

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

/// Where a test finds itself.
#[derive(Debug)]
pub enum Entered {
    /// In namespaces of its own: it goes on.
    Inside,
    /// It has run inside, in a process of its own, and passed.
    Passed,
    /// Here are no namespaces, for this reason.
    Refused(String),
}

/// Runs this test once more, inside fresh namespaces. `test` is its full name.
#[track_caller]
pub fn enter(test: &str) -> Entered {
    if std::env::var_os(INSIDE).is_some() {
        return Entered::Inside;
    }
    let way = match unshared() {
        Ok(way) => way,
        Err(why) => return Entered::Refused(why),
    };
    let this = std::env::current_exe().expect("this program is a file");
    let status = Command::new(way[0])
        .args(&way[1..])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("it was possible a moment ago");
    assert!(status.success(), "{test} failed in namespaces ({status}); what it said is above");
    Entered::Passed
}

/// Runs a command that must succeed.
#[track_caller]
pub fn must(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {said}");
}

/// The machines, and which ways between them are cut.
#[derive(Debug)]
pub struct Network {
    /// How many faults cut the way from the first to the second.
    cuts: BTreeMap<(u8, u8), u32>,
}

impl Network {
    /// Makes the bridge and these machines. Only inside the namespaces of a test.
    pub fn new(machines: impl IntoIterator<Item = u8>) -> Self {
        must("mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up; ip link add hub type bridge");
        must(&format!("ip addr add {}/24 dev hub && ip link set hub up", Self::address(HUB)));
        for id in machines {
            must(&format!(
                "set -e; ip netns add h{id}; ip link add v{id} type veth peer name eth0 netns h{id}; \
                 ip link set v{id} master hub up; ip -n h{id} link set lo up; \
                 ip -n h{id} addr add {}/24 dev eth0; ip -n h{id} link set eth0 up",
                Self::address(id)
            ));
        }
        Self { cuts: BTreeMap::new() }
    }

    /// A machine's address.
    pub const fn address(id: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, id)
    }

    /// A command that will run on a machine; the process that is started is the program itself.
    pub fn command(&self, id: u8, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("h{id}"), program]);
        command
    }

    /// Pulls a machine's cable, or puts it back.
    pub fn cable(&self, id: u8, plugged: bool) {
        must(&format!("ip link set v{id} {}", if plugged { "up" } else { "down" }));
    }

    /// From now on, nothing that `from` sends reaches `to`. Several faults may cut the same way.
    pub fn cut(&mut self, from: u8, to: u8) {
        let cuts = self.cuts.entry((from, to)).or_default();
        *cuts += 1;
        if *cuts == 1 {
            must(&format!(
                "ip -n h{from} neigh replace {} lladdr {NOBODY} dev eth0 nud permanent",
                Self::address(to)
            ));
        }
    }

    /// Takes one such cut back.
    pub fn mend(&mut self, from: u8, to: u8) {
        let cuts = self.cuts.get_mut(&(from, to)).expect("only what was cut is mended");
        *cuts -= 1;
        if *cuts == 0 {
            self.cuts.remove(&(from, to));
            must(&format!("ip -n h{from} neigh del {} dev eth0", Self::address(to)));
        }
    }
}
