//! Reads the hosts of `rakit init` and plans who runs where: [`plan`]. It writes nothing.
//!
//! cluster.toml holds addresses, because a name may mean another address later, or on another machine. So the names of
//! nodes are looked up here, once. A server may keep its name: its daemon finds its own address, and follows it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rakit::balancer::is_name;
use rakit::balancer::report::is_worker_address;
use rakit::config::{NODES_MAX, is_loopback};

/// A node's public port without one on the command line.
pub const PUBLIC_PORT: u16 = 8000;
/// A node's cluster port is its public port + this.
pub const CLUSTER_PORT_OFFSET: u16 = super::super::layout::CLUSTER_PORT_OFFSET;
/// A worker's port without one on the command line; also the daemon's and the worker's own default.
pub const WORKER_PORT: u16 = 13_337;

/// Looks a host name up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>;

/// `HOST` or `HOST:PORT` as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The name, or the address without brackets.
    host: String,
    /// The address, if the host was given as one.
    ip: Option<IpAddr>,
    port: Option<u16>,
}

/// A node: its id is its position on the command line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    /// From 1.
    pub id: u64,
    /// For clients.
    pub public: SocketAddr,
    /// For nodes and daemons.
    pub cluster: SocketAddr,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedServer {
    /// Its name in the cluster's table.
    pub name: String,
    /// Its worker's address if it was given as one. If not, the daemon finds this machine's address.
    pub ip: Option<IpAddr>,
    /// Its worker's port.
    pub port: u16,
}

/// One machine, with what runs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the user calls it, without port and brackets.
    pub name: String,
    /// The nodes on it.
    pub nodes: Vec<PlannedNode>,
    /// The servers on it.
    pub servers: Vec<PlannedServer>,
}

impl Host {
    /// The name of its folder: a colon in a path means another machine to scp(1).
    pub fn folder(&self) -> String {
        plain(&self.name, "host")
    }
}

/// All machines, in the order of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nodes first.
    pub hosts: Vec<Host>,
    /// What was decided and can be read nowhere else, one sentence each.
    pub remarks: Vec<String>,
}

impl Plan {
    /// All nodes, by id.
    pub fn nodes(&self) -> Vec<&PlannedNode> {
        let mut nodes: Vec<_> = self.hosts.iter().flat_map(|host| &host.nodes).collect();
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    fn host(&mut self, name: &str) -> &mut Host {
        let found = self.hosts.iter().position(|host| host.name == name);
        let position = found.unwrap_or_else(|| {
            self.hosts.push(Host { name: name.to_owned(), nodes: Vec::new(), servers: Vec::new() });
            self.hosts.len() - 1
        });
        &mut self.hosts[position]
    }
}

/// Plans the machines of a cluster.
///
/// # Errors
/// One line with the mend: a host that is none, has no usable address, or is given twice.
pub fn plan(nodes: &[String], servers: &[String], lookup: Lookup<'_>) -> Result<Plan, String> {
    if nodes.is_empty() {
        return Err("no node is given; give --nodes HOST,HOST,HOST".to_string());
    }
    if nodes.len() > NODES_MAX {
        return Err(format!("--nodes: {} of them; give at most {NODES_MAX}", nodes.len()));
    }
    let mut plan = Plan::default();
    // Which host has an address, to find one machine under two names.
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut reach = Reach::default();
    for (id, text) in (1..).zip(nodes) {
        let place = place(text).map_err(|wrong| format!("--nodes {text}: {wrong}"))?;
        let (ip, remark) =
            node_address(&place, lookup).map_err(|wrong| format!("--nodes {text}: {wrong}"))?;
        plan.remarks.extend(remark);
        own(&mut owners, ip, &place.host)?;
        reach.see(&place.host, ip);
        let port = place.port.unwrap_or(PUBLIC_PORT);
        let cluster_port = port.checked_add(CLUSTER_PORT_OFFSET).ok_or_else(|| {
            format!(
                "--nodes {text}: its cluster port would be {port} + {CLUSTER_PORT_OFFSET}; give at most port {}",
                u16::MAX - CLUSTER_PORT_OFFSET
            )
        })?;
        let node =
            PlannedNode { id, public: SocketAddr::new(ip, port), cluster: SocketAddr::new(ip, cluster_port) };
        plan.host(&place.host).nodes.push(node);
    }
    let places: Vec<(&String, Place)> = servers
        .iter()
        .map(|text| Ok((text, place(text).map_err(|wrong| format!("--servers {text}: {wrong}"))?)))
        .collect::<Result<_, String>>()?;
    for (text, place) in &places {
        let port = place.port.unwrap_or(WORKER_PORT);
        let same_host = places.iter().filter(|(_, other)| other.host == place.host);
        let same_port = same_host.clone().filter(|(_, other)| other.port.unwrap_or(WORKER_PORT) == port);
        if same_port.count() > 1 {
            return Err(format!(
                "--servers {text}: given twice; give each server of one machine another port"
            ));
        }
        if let Some(ip) = place.ip {
            if !is_worker_address(&SocketAddr::new(ip, port)) {
                return Err(format!(
                    "--servers {text}: no node takes that as a worker's address; give the machine's own address, and a \
                     port from 1024"
                ));
            }
            own(&mut owners, ip, &place.host)?;
            reach.see(&place.host, ip);
        } else if port < 1024 {
            return Err(format!("--servers {text}: no node takes a worker's port below 1024"));
        } else {
            // It need not be known here. If it is, one machine under two names can be told. A loopback address would mean
            // this machine, which has others.
            let found = lookup(&place.host).unwrap_or_default();
            if !found.iter().any(|ip| is_loopback(*ip)) {
                reach.far.get_or_insert_with(|| place.host.clone());
                found.into_iter().try_for_each(|ip| own(&mut owners, ip, &place.host))?;
            }
        }
        let name = server_name(&place.host, (same_host.count() > 1).then_some(port));
        if !is_name(&name) {
            return Err(format!(
                "--servers {text}: {name} is too long for a server's name; give a shorter one"
            ));
        }
        plan.host(&place.host).servers.push(PlannedServer { name, ip: place.ip, port });
    }
    check_ports(&plan)?;
    reach.check()?;
    Ok(plan)
}

/// One machine must be written in one way, or its two folders would overwrite each other there.
fn own(owners: &mut BTreeMap<IpAddr, String>, ip: IpAddr, host: &str) -> Result<(), String> {
    match owners.insert(ip.to_canonical(), host.to_owned()) {
        Some(other) if other != host => {
            Err(format!("{other} and {host} are one machine, {ip}; write it in the same way each time"))
        }
        _ => Ok(()),
    }
}

/// Two programs on one machine need different ports.
fn check_ports(plan: &Plan) -> Result<(), String> {
    for host in &plan.hosts {
        let mut taken: Vec<(u16, String)> = Vec::new();
        let of_nodes = host.nodes.iter().flat_map(|node| {
            [
                (node.public.port(), format!("node {}", node.id)),
                (node.cluster.port(), format!("node {}, for its peers", node.id)),
            ]
        });
        let of_servers =
            host.servers.iter().map(|server| (server.port, format!("the worker of {}", server.name)));
        for (port, owner) in of_nodes.chain(of_servers) {
            if let Some((_, other)) = taken.iter().find(|(other, _)| *other == port) {
                return Err(format!(
                    "{}: port {port} is that of {other} and of {owner}; give one of them another, as in {}:{}",
                    host.name,
                    if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() },
                    port.saturating_add(1)
                ));
            }
            taken.push((port, owner));
        }
    }
    Ok(())
}

/// Who has a loopback address here, and who is elsewhere: one host of each kind is enough for a complaint.
#[derive(Default)]
struct Reach {
    local: Option<String>,
    far: Option<String>,
}

impl Reach {
    /// A host with this address.
    fn see(&mut self, host: &str, ip: IpAddr) {
        let kind = if is_loopback(ip) { &mut self.local } else { &mut self.far };
        kind.get_or_insert_with(|| host.to_owned());
    }

    /// A loopback address means this machine only. Debian gives a machine's own name 127.0.1.1 (/etc/hosts), so this
    /// happens to whoever names the machine that runs `rakit init`.
    fn check(&self) -> Result<(), String> {
        let (Some(local), Some(far)) = (&self.local, &self.far) else { return Ok(()) };
        Err(format!(
            "{local} is a loopback address here, which {far} cannot reach; give the machine's address in the network \
             (`hostname -I` shows it) in place of {local}"
        ))
    }
}

/// Reads `HOST` or `HOST:PORT`.
fn place(text: &str) -> Result<Place, String> {
    let of_ip = |ip: IpAddr, port| {
        let ip = ip.to_canonical();
        Place { host: ip.to_string(), ip: Some(ip), port }
    };
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(of_ip(ip, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((host, port)) => {
            let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| no_host(text))?;
            (host, Some(port))
        }
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(of_ip(address.ip(), port));
    }
    if !is_name(host) {
        return Err(no_host(text));
    }
    Ok(Place { host: host.to_owned(), ip: None, port })
}

fn no_host(text: &str) -> String {
    format!(
        "{text:?} is no host; give a name or an address, with or without a port: lab-01, 10.0.0.1:8000, [fd00::1]:8000"
    )
}

/// The address of a node for cluster.toml, and what to tell about it.
fn node_address(place: &Place, lookup: Lookup<'_>) -> Result<(IpAddr, Option<String>), String> {
    let host = &place.host;
    if let Some(ip) = place.ip {
        return if is_of_one_machine(&ip) {
            Ok((ip, None))
        } else {
            Err("that is no address of one machine in the network; give the node's own".to_string())
        };
    }
    let found = lookup(host).map_err(|error| {
        format!("the name is not known here ({error}); give the machine's address, as in 10.0.0.1")
    })?;
    let usable = || found.iter().map(IpAddr::to_canonical).filter(is_of_one_machine);
    // An address that other machines can reach, of IPv4 if there is one: every machine has that.
    let best = usable().min_by_key(|ip| (is_loopback(*ip), ip.is_ipv6()));
    let ip = best.ok_or_else(|| {
        "the name has no address that other machines can use; give the machine's address".to_string()
    })?;
    let remark = format!(
        "{host} is {ip} in cluster.toml: a name may mean another address later, or on another machine"
    );
    Ok((ip, Some(remark)))
}

/// Not the wildcard, not of many machines, and not an address that has a meaning on one cable only (link-local).
fn is_of_one_machine(ip: &IpAddr) -> bool {
    !ip.is_unspecified()
        && !ip.is_multicast()
        && match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}

/// A server's name: that of its host, as far as the rule for names allows.
fn server_name(host: &str, port: Option<u16>) -> String {
    let host = plain(host, "server");
    match port {
        Some(port) => format!("{host}-{port}"),
        None => host,
    }
}

/// The host without colons. `::1` would then begin with a hyphen, as an option does; so it gets a word in front.
fn plain(host: &str, word: &str) -> String {
    let plain = host.replace(':', "-");
    if is_name(&plain) { plain } else { format!("{word}{plain}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
        let found: &[&str] = match name {
            "lab-01" => &["fe80::1", "fd00::1", "10.0.0.1"],
            "lab-02" => &["10.0.0.2"],
            "six" => &["fd00::6"],
            "here" => &["127.0.1.1"],
            _ => return Err(io::Error::other("no such name")),
        };
        Ok(found.iter().map(|ip| ip.parse().expect("an address")).collect())
    }

    fn planned(nodes: &[&str], servers: &[&str]) -> Result<Plan, String> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        plan(&owned(nodes), &owned(servers), &lookup)
    }

    #[test]
    fn hosts_are_names_and_addresses_with_and_without_ports() {
        let plan = planned(
            &["lab-01", "10.0.0.2:8100", "fd00::3", "[fd00::4]:8000"],
            &["lab-01", "unknown-here", "10.0.0.9:4000", "fd00::9"],
        )
        .expect("all good");
        let addresses: Vec<_> =
            plan.nodes().iter().map(|node| format!("{} {} {}", node.id, node.public, node.cluster)).collect();
        assert_eq!(
            addresses,
            [
                "1 10.0.0.1:8000 10.0.0.1:9000",
                "2 10.0.0.2:8100 10.0.0.2:9100",
                "3 [fd00::3]:8000 [fd00::3]:9000",
                "4 [fd00::4]:8000 [fd00::4]:9000",
            ]
        );
        assert!(plan.remarks[0].contains("lab-01 is 10.0.0.1"), "{:?}", plan.remarks);
        let servers: Vec<_> = plan.hosts.iter().flat_map(|host| &host.servers).collect();
        let names: Vec<_> = servers.iter().map(|server| (server.name.as_str(), server.port)).collect();
        assert_eq!(
            names,
            [("lab-01", 13_337), ("unknown-here", 13_337), ("10.0.0.9", 4000), ("fd00--9", 13_337)]
        );
        assert_eq!(servers[0].ip, None, "a server given by its name finds its own address");
        assert_eq!((plan.hosts.len(), plan.hosts[0].servers.len()), (7, 1), "one machine has one folder");
        assert_eq!(plan.hosts[2].folder(), "fd00--3");
    }

    #[test]
    fn servers_of_one_machine_have_names_of_their_own() {
        let plan = planned(&["::1"], &["::1:1", "[::1]:5000", "[::1]:5001"]);
        // `::1:1` is an address, and another machine's.
        assert!(plan.expect_err("half local").contains("loopback"));
        let plan = planned(&["::1"], &["[::1]:5000", "[::1]:5001"]).expect("all good");
        let names: Vec<_> = plan.hosts[0].servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["server--1-5000", "server--1-5001"]);
        assert_eq!(plan.hosts[0].folder(), "host--1");
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_mend() {
        for (nodes, servers, said) in [
            (&[][..], &[][..], "--nodes HOST"),
            (&["10.0.0.1:0"], &[], "is no host"),
            (&["10.0.0.1:x"], &[], "is no host"),
            (&["fe80::1%eth0"], &[], "is no host"),
            (&["-x"], &[], "is no host"),
            (&[""], &[], "is no host"),
            (&["nobody"], &[], "not known here"),
            (&["0.0.0.0"], &[], "give the node's own"),
            (&["224.0.0.1"], &[], "give the node's own"),
            (&["fe80::1"], &[], "give the node's own"),
            (&["10.0.0.1:65000"], &[], "at most port 64535"),
            (&["10.0.0.1", "10.0.0.1"], &[], "10.0.0.1:8001"),
            (&["10.0.0.1", "10.0.0.1:9000"], &[], "port 9000 is that of node 1, for its peers"),
            (&["10.0.0.1"], &["10.0.0.1:8000"], "the worker of 10.0.0.1"),
            (&["10.0.0.1", "lab-01"], &[], "10.0.0.1 and lab-01 are one machine"),
            (&["10.0.0.1"], &["lab-01"], "are one machine"),
            (&["lab-02", "here"], &[], "`hostname -I`"),
            (&["here"], &["10.0.0.7"], "`hostname -I`"),
            (&["10.0.0.1"], &["10.0.0.7:80"], "port from 1024"),
            (&["10.0.0.1"], &["elsewhere:80"], "below 1024"),
            (&["10.0.0.1"], &["10.0.0.7", "10.0.0.7:13337"], "given twice"),
        ] {
            let wrong = planned(nodes, servers).expect_err(said);
            assert!(wrong.contains(said) && !wrong.contains('\n'), "{nodes:?} {servers:?}: {wrong}");
        }
        assert!(planned(&["six"], &[]).is_ok(), "a name of IPv6 alone");
        assert!(planned(&["here"], &["127.0.0.5"]).is_ok(), "all on this machine");
        let many: Vec<String> = (1..=32).map(|i| format!("10.0.1.{i}")).collect();
        assert!(plan(&many, &[], &lookup).expect_err("too many").contains("at most 31"));
    }
}
