//! Checks the values of cluster.toml for `Config::load`, with one function per kind of rule. Each error names
//! the key and ends with the mend.
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::file::{BalancerSection, File, Place, RaftSection, ServerSection};
use super::{Config, ConfigError, Node, Server, secret};
use crate::balancer::report::is_worker_address;
use crate::balancer::{NAME_BYTES_MAX, Policy, SERVERS_MAX, is_name};
use crate::raft::NodeId;

/// The most nodes. A cluster of 31 survives the loss of 15. More nodes would only make agreement slower.
pub const NODES_MAX: usize = 31;
/// The highest node id: short enough to read in a log line.
pub const NODE_ID_MAX: NodeId = 999_999;
/// The longest election timeout: ten minutes. The bound keeps sums of times far from overflow.
pub const ELECTION_TIMEOUT_MS_MAX: i64 = 600_000;
/// Five minutes, so that a class can look at one heartbeat at a time.
const HEARTBEAT_MS_MAX: i64 = ELECTION_TIMEOUT_MS_MAX / 2;
/// A day.
const BALANCER_MS_MAX: i64 = 86_400_000;
/// The shortest interval between reports. More frequent reports would load the machine that they measure.
const REPORT_INTERVAL_MS_MIN: i64 = 10;
/// The highest `snapshot_entries`. A log of so many entries has some tens of gigabytes.
pub const SNAPSHOT_ENTRIES_MAX: i64 = 100_000_000;

// The defaults. docs/operations.md shows them in its sample.
const HEARTBEAT_MS: i64 = 100;
const ELECTION_TIMEOUT_MS: [i64; 2] = [500, 1_000];
const DATA_DIR: &str = "data";
const SNAPSHOT_ENTRIES: i64 = 10_000;
const SERVER_TIMEOUT_MS: i64 = 5_000;
const REPORT_INTERVAL_MS: i64 = 1_000;
const REQUEST_TIMEOUT_MS: i64 = 300_000;
const STALL_MS: i64 = 2_000;

/// Checks the values of the file.
pub(super) fn check(file: File, place: &Place<'_>) -> Result<Config, ConfigError> {
    let cluster_name = cluster_name(file.cluster.name, place)?;
    let (heartbeat, election_timeout) = timeouts(&file.raft, place)?;
    let snapshot_entries =
        number(file.raft.snapshot_entries.as_ref(), SNAPSHOT_ENTRIES, 1..=SNAPSHOT_ENTRIES_MAX)
            .map_err(|wrong| wrong.into_error("raft.snapshot_entries", "entries", place))?;
    let data_dir = path(file.raft.data_dir.as_ref(), "raft.data_dir", place)?
        .unwrap_or_else(|| beside(place.path, DATA_DIR));
    let (policy, times) = balancer(&file.balancer, place)?;
    let nodes = nodes(file.node, place)?;
    let servers = servers(file.server, place)?;
    // Last, because this is the only rule that reads another file.
    let secret = match path(file.cluster.secret_file.as_ref(), "cluster.secret_file", place)? {
        None => None,
        Some(path) => {
            let span = file.cluster.secret_file.as_ref().map(Spanned::span);
            Some(secret::read(&path).map_err(|wrong| place.error(span, "cluster.secret_file", wrong))?)
        }
    };
    Ok(Config {
        path: place.path.to_owned(),
        cluster_name,
        secret,
        heartbeat,
        election_timeout,
        data_dir,
        snapshot_entries,
        policy,
        server_timeout: times.server_timeout,
        report_interval: times.report_interval,
        request_timeout: times.request_timeout,
        stall: times.stall,
        nodes,
        servers,
    })
}

fn cluster_name(name: Option<Spanned<String>>, place: &Place<'_>) -> Result<String, ConfigError> {
    let Some(name) = name else {
        return Err(place.error(None, "cluster.name", "missing; write name = \"lab\" under [cluster]"));
    };
    if !is_name(name.get_ref()) {
        let complaint = format!(
            "{:?} is no name; take 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-', a letter or digit first",
            name.get_ref()
        );
        return Err(place.error(Some(name.span()), "cluster.name", complaint));
    }
    Ok(name.into_inner())
}

/// A number out of its range.
struct OutOfRange {
    span: Range<usize>,
    value: i64,
    range: RangeInclusive<i64>,
}

impl OutOfRange {
    fn into_error(self, key: &str, unit: &str, place: &Place<'_>) -> ConfigError {
        let (low, high) = (self.range.start(), self.range.end());
        let complaint = format!("{} is out of range; give {low} to {high} {unit}", self.value);
        place.error(Some(self.span), key, complaint)
    }
}

fn number(value: Option<&Spanned<i64>>, default: i64, range: RangeInclusive<i64>) -> Result<u64, OutOfRange> {
    let checked = match value {
        None => default,
        Some(value) if range.contains(value.get_ref()) => *value.get_ref(),
        Some(value) => return Err(OutOfRange { span: value.span(), value: *value.get_ref(), range }),
    };
    Ok(u64::try_from(checked).expect("every range here begins at 0 or above"))
}

/// `heartbeat_ms` and `election_timeout_ms`, which depend on each other.
fn timeouts(raft: &RaftSection, place: &Place<'_>) -> Result<(Duration, (Duration, Duration)), ConfigError> {
    let heartbeat = number(raft.heartbeat_ms.as_ref(), HEARTBEAT_MS, 1..=HEARTBEAT_MS_MAX)
        .map_err(|wrong| wrong.into_error("raft.heartbeat_ms", "milliseconds", place))?;
    let key = "raft.election_timeout_ms";
    let given = raft.election_timeout_ms.as_ref();
    let span = given.map(Spanned::span);
    let values = given.map_or(&ELECTION_TIMEOUT_MS[..], |given| given.get_ref());
    let &[low, high] = values else {
        let complaint = format!("{} numbers; give two, [shortest, longest], as in [500, 1000]", values.len());
        return Err(place.error(span, key, complaint));
    };
    for value in [low, high] {
        if !(1..=ELECTION_TIMEOUT_MS_MAX).contains(&value) {
            let complaint =
                format!("{value} is out of range; give 1 to {ELECTION_TIMEOUT_MS_MAX} milliseconds");
            return Err(place.error(span, key, complaint));
        }
    }
    if low > high {
        let complaint = format!("[{low}, {high}] is upside down; write [{high}, {low}]");
        return Err(place.error(span, key, complaint));
    }
    if low == high {
        // Paper, 5.2: random timeouts make it likely that one candidate is first. Equal ones split the vote.
        let (from, to) = if low <= ELECTION_TIMEOUT_MS_MAX / 2 { (low, low * 2) } else { (low / 2, low) };
        let complaint = format!(
            "[{low}, {high}] leaves nothing to draw from, and votes would be split again and again; \
             write [{from}, {to}]"
        );
        return Err(place.error(span, key, complaint));
    }
    let [low, high] = [low, high].map(|value| u64::try_from(value).expect("checked to be at least 1"));
    if heartbeat * 2 > low {
        // One lost heartbeat must not cause an election: two heartbeats fit into the shortest timeout.
        let mend = match low / 2 {
            0 => "raise election_timeout_ms: its first number must be at least twice heartbeat_ms".to_owned(),
            most => format!("give heartbeat_ms at most {most} or raise election_timeout_ms"),
        };
        let complaint =
            format!("{heartbeat} ms is more than half of the shortest election timeout, {low} ms; {mend}");
        let span = raft.heartbeat_ms.as_ref().map(Spanned::span).or(span);
        return Err(place.error(span, "raft.heartbeat_ms", complaint));
    }
    let ms = Duration::from_millis;
    Ok((ms(heartbeat), (ms(low), ms(high))))
}

struct Times {
    server_timeout: Duration,
    report_interval: Duration,
    request_timeout: Duration,
    stall: Duration,
}

fn balancer(balancer: &BalancerSection, place: &Place<'_>) -> Result<(Policy, Times), ConfigError> {
    let policy = match &balancer.policy {
        None => Policy::default(),
        Some(word) => Policy::from_name(word.get_ref()).ok_or_else(|| {
            let complaint =
                format!("{:?} is no policy; write \"lowest-cpu\" or \"projected\"", word.get_ref());
            place.error(Some(word.span()), "balancer.policy", complaint)
        })?,
    };
    let time = |value: &Option<Spanned<i64>>, default: i64, low: i64, key: &str| {
        number(value.as_ref(), default, low..=BALANCER_MS_MAX)
            .map(Duration::from_millis)
            .map_err(|wrong| wrong.into_error(key, "milliseconds", place))
    };
    let times = Times {
        server_timeout: time(
            &balancer.server_timeout_ms,
            SERVER_TIMEOUT_MS,
            1,
            "balancer.server_timeout_ms",
        )?,
        report_interval: time(
            &balancer.report_interval_ms,
            REPORT_INTERVAL_MS,
            REPORT_INTERVAL_MS_MIN,
            "balancer.report_interval_ms",
        )?,
        request_timeout: time(
            &balancer.request_timeout_ms,
            REQUEST_TIMEOUT_MS,
            1,
            "balancer.request_timeout_ms",
        )?,
        stall: time(&balancer.stall_ms, STALL_MS, 1, "balancer.stall_ms")?,
    };
    Ok((policy, times))
}

/// `[[node]]`: each has all its keys, and no id or address is given twice.
fn nodes(given: Vec<Spanned<super::file::NodeSection>>, place: &Place<'_>) -> Result<Vec<Node>, ConfigError> {
    if given.is_empty() {
        let complaint = "there is none; add one [[node]] with id, public and cluster for each node";
        return Err(place.error(None, "[[node]]", complaint));
    }
    if given.len() > NODES_MAX {
        let complaint = format!("{} of them; keep at most {NODES_MAX}", given.len());
        return Err(place.error(Some(given[NODES_MAX].span()), "[[node]]", complaint));
    }
    let mut nodes: Vec<Node> = Vec::with_capacity(given.len());
    // Every address so far, with its owner.
    let mut taken: Vec<(SocketAddr, NodeId, &str)> = Vec::with_capacity(2 * given.len());
    for entry in given {
        let whole = entry.span();
        let entry = entry.into_inner();
        let missing = |key: &str, sample: &str| missing(place, whole.clone(), "[[node]]", key, sample);
        let id_given = entry.id.ok_or_else(|| missing("id", "1"))?;
        let id_range = 1..=i64::try_from(NODE_ID_MAX).expect("a constant that fits");
        let id = number(Some(&id_given), 1, id_range)
            .map_err(|wrong| wrong.into_error("[[node]] id", "(a whole number)", place))?;
        if nodes.iter().any(|node| node.id == id) {
            let complaint = format!("{id} is another node's id already; give each node its own");
            return Err(place.error(Some(id_given.span()), "[[node]] id", complaint));
        }
        let mut address = |key: &'static str, given: Option<Spanned<String>>, sample: &str| {
            let given = given.ok_or_else(|| missing(key, sample))?;
            let full_key = format!("[[node]] {key}");
            let wrong = |complaint: String| place.error(Some(given.span()), &full_key, complaint);
            let address = parse_address(given.get_ref()).map_err(&wrong)?;
            if let Some((other, owner, owner_key)) = taken.iter().find(|(other, ..)| collide(*other, address))
            {
                return Err(wrong(format!(
                    "{address} is taken by the {owner_key} address {other} of node {owner}; give every address another \
                     port"
                )));
            }
            taken.push((address, id, key));
            Ok(address)
        };
        let public = address("public", entry.public, "\"127.0.0.1:8001\"")?;
        let cluster = address("cluster", entry.cluster, "\"127.0.0.1:9001\"")?;
        nodes.push(Node { id, public, cluster, founder: entry.founder.unwrap_or(true) });
    }
    if !nodes.iter().any(|node| node.founder) {
        let complaint = "false for every node; leave it out for those that founded the cluster";
        return Err(place.error(None, "[[node]] founder", complaint));
    }
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

/// A key that an entry of `table` lacks. `whole` is the entry's place in the file.
fn missing(place: &Place<'_>, whole: Range<usize>, table: &str, key: &str, sample: &str) -> ConfigError {
    place.error(Some(whole), &format!("{table} {key}"), format!("missing; add {key} = {sample}"))
}

/// `[[server]]`: each has both its keys, and no id is given twice.
fn servers(given: Vec<Spanned<ServerSection>>, place: &Place<'_>) -> Result<Vec<Server>, ConfigError> {
    if given.len() > SERVERS_MAX {
        let complaint = format!("{} of them; keep at most {SERVERS_MAX}", given.len());
        return Err(place.error(Some(given[SERVERS_MAX].span()), "[[server]]", complaint));
    }
    let mut servers: Vec<Server> = Vec::with_capacity(given.len());
    for entry in given {
        let whole = entry.span();
        let entry = entry.into_inner();
        let missing = |key: &str, sample: &str| missing(place, whole.clone(), "[[server]]", key, sample);
        let id = entry.id.ok_or_else(|| missing("id", "\"lab-01\""))?;
        let worker = entry.worker.ok_or_else(|| missing("worker", "\"10.0.0.11:13337\""))?;
        let wrong_id = |complaint: String| place.error(Some(id.span()), "[[server]] id", complaint);
        if !is_name(id.get_ref()) {
            return Err(wrong_id(format!(
                "{:?} is no name; write it as the daemon's --server has it",
                id.get_ref()
            )));
        }
        if servers.iter().any(|server| server.id == *id.get_ref()) {
            return Err(wrong_id(format!("{} has an entry already; keep one of the two", id.get_ref())));
        }
        let address = worker.get_ref().parse().ok().filter(is_worker_address).ok_or_else(|| {
            let complaint = format!(
                "{:?} is no worker's address; write IP:PORT as 10.0.0.11:13337, with a port from 1024",
                worker.get_ref()
            );
            place.error(Some(worker.span()), "[[server]] worker", complaint)
        })?;
        servers.push(Server { id: id.into_inner(), worker: address });
    }
    Ok(servers)
}

/// `IP:PORT`. Host names are refused: a name may resolve to another address later, or on another machine.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!(
            "{text:?} is not IP:PORT; write an address as 127.0.0.1:8001, 10.0.0.1:8001 or [fd00::1]:8001"
        )
    })?;
    let broadcast = matches!(address.ip(), std::net::IpAddr::V4(ip) if ip.is_broadcast());
    if address.port() == 0 {
        return Err(format!("{text:?} has port 0, which nobody can connect to; give 1 to 65535"));
    }
    if broadcast || address.ip().is_multicast() {
        return Err(format!("{text:?} is an address of many machines; give the node's own"));
    }
    Ok(address)
}

/// Whether two addresses collide: they are equal, or they have the same port and one is a wildcard. 0.0.0.0
/// takes the port of every IPv4 address, [::] the port of every address.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (a_ip == b_ip || a_ip.is_unspecified() || b_ip.is_unspecified())
}

/// A path from the file, resolved against the file's directory.
fn path(
    given: Option<&Spanned<String>>,
    key: &str,
    place: &Place<'_>,
) -> Result<Option<PathBuf>, ConfigError> {
    match given {
        None => Ok(None),
        Some(text) if text.get_ref().is_empty() => {
            Err(place.error(Some(text.span()), key, "empty; name a path or remove the key"))
        }
        Some(text) => Ok(Some(beside(place.path, text.get_ref()))),
    }
}

fn beside(file: &Path, path: &str) -> PathBuf {
    // `join` keeps an absolute path.
    file.parent().unwrap_or(Path::new("")).join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said about these lines of `[raft]`, if they are refused.
    fn told(lines: &str) -> Option<String> {
        let text = format!(
            "[cluster]\nname = \"lab\"\n[raft]\n{lines}\n[[node]]\nid = 1\npublic = \"127.0.0.1:8001\"\n\
             cluster = \"127.0.0.1:9001\"\n"
        );
        Config::parse(&text, Path::new("cluster.toml")).err().map(|error| error.to_string())
    }

    #[test]
    fn the_mend_of_equal_election_timeouts_is_accepted() {
        for value in [1, 2, 3, 500, 299_999, 300_000, 300_001, 400_000, ELECTION_TIMEOUT_MS_MAX] {
            let line = told(&format!("heartbeat_ms = 1\nelection_timeout_ms = [{value}, {value}]"));
            let line = line.expect("it leaves nothing to draw from");
            let (_, mend) = line.rsplit_once("write ").expect("a mend");
            let again = told(&format!("heartbeat_ms = 1\nelection_timeout_ms = {mend}"));
            // Of [1, 2] the heartbeat is refused, not the range.
            let is_mended =
                again.as_ref().is_none_or(|line| value == 1 && line.contains("raft.heartbeat_ms: "));
            assert!(is_mended, "{line}: {again:?}");
        }
    }

    #[test]
    fn no_heartbeat_of_zero_is_asked_for() {
        let line = told("heartbeat_ms = 1\nelection_timeout_ms = [1, 2]").expect("two heartbeats do not fit");
        assert!(!line.contains("at most 0") && line.contains("raise election_timeout_ms"), "{line}");
        let line = told("heartbeat_ms = 2\nelection_timeout_ms = [2, 3]").expect("two heartbeats do not fit");
        assert!(line.contains("2 ms is more than half") && line.contains("at most 1 or raise"), "{line}");
    }
}
