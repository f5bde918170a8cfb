//! The checks: a witness reads the nodes' status all the time, and at the end state, logs and promises are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;

use super::clients::{EPOCH, Promise, Suffering, get, lock, status};
use super::cluster::Cluster;
use super::place::{NODES, NodeId};
use super::{LOOK_AGAIN, PATIENCE};

/// What the witness saw.
#[derive(Debug, Default)]
struct Seen {
    /// The digest at each applied index, and who showed it first.
    digests: BTreeMap<u64, (NodeId, String)>,
    /// The leader of each term.
    leaders: BTreeMap<u64, NodeId>,
    looks: u64,
}

/// Looks at every node again and again.
#[derive(Debug, Default)]
pub struct Witness(Mutex<Seen>);

impl Witness {
    /// Who leads, as far as it has been seen.
    pub fn leader(&self) -> Option<NodeId> {
        lock(&self.0).leaders.last_key_value().map(|(_, leader)| *leader)
    }

    /// For the last line.
    pub fn summary(&self) -> String {
        let seen = lock(&self.0);
        format!("{} looks at {} states", seen.looks, seen.digests.len())
    }

    /// Looks until it is over, each node by a thread of its own, since one that is paused does not answer.
    pub fn watch(&self, publics: &BTreeMap<NodeId, SocketAddr>, shared: &Suffering) {
        std::thread::scope(|scope| {
            for (id, address) in publics {
                scope.spawn(move || {
                    while !shared.over.load(Ordering::Relaxed) {
                        if let Some(status) = status(*address)
                            && let Some(complaint) = self.note(*id, &status)
                        {
                            let _ = shared.violations.send(complaint);
                        }
                        std::thread::sleep(LOOK_AGAIN);
                    }
                });
            }
        });
    }

    fn note(&self, id: NodeId, status: &Value) -> Option<String> {
        let mut seen = lock(&self.0);
        seen.looks += 1;
        let (applied, term) = (status["applied_index"].as_u64()?, status["term"].as_u64()?);
        let digest = status["state_digest"].as_str()?.to_owned();
        if status["role"] == "leader" {
            let leader = *seen.leaders.entry(term).or_insert(id);
            if leader != id {
                return Some(format!("nodes {leader} and {id} both led term {term}"));
            }
        }
        let (first, known) = seen.digests.entry(applied).or_insert((id, digest.clone()));
        (*known != digest).then(|| {
            format!("at index {applied}, node {first} shows the state {known} and node {id} {digest}")
        })
    }
}

/// Waits, after the last fault, for one leader and one state that holds all promises.
pub fn judge(
    cluster: &mut Cluster,
    publics: &BTreeMap<NodeId, SocketAddr>,
    promises: &[Promise],
) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let statuses = loop {
        let statuses: Vec<Value> = publics.values().filter_map(|address| status(*address)).collect();
        let look = |status: &Value| {
            ["leader", "term", "commit_index", "applied_index", "state_digest"].map(|key| status[key].clone())
        };
        let looks: BTreeSet<String> = statuses.iter().map(|status| format!("{:?}", look(status))).collect();
        if statuses.len() == publics.len() && looks.len() == 1 && !statuses[0]["leader"].is_null() {
            break statuses;
        }
        if let Some((id, status)) = cluster.ended().first() {
            return vec![format!("node {id} ended by itself: {status}")];
        }
        if Instant::now() > deadline {
            return vec![format!("the nodes do not come to one state: {looks:#?}")];
        }
        std::thread::sleep(LOOK_AGAIN);
    };

    let mut found = Vec::new();
    if promises.is_empty() {
        found.push("nothing was acknowledged: the run shows nothing".into());
    }
    // Each index is promised only once: to one server, in one term.
    let mut by_index: BTreeMap<u64, &Promise> = BTreeMap::new();
    for promise in promises {
        if let Some(other) = by_index.insert(promise.index, promise)
            && (&other.server, other.sequence, other.term)
                != (&promise.server, promise.sequence, promise.term)
        {
            found.push(format!("one index, two promises: {other:?} and {promise:?}"));
        }
    }
    // The final table holds each server's newest promised report, or a newer one.
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for promise in promises {
        let newest = newest.entry(&promise.server).or_default();
        *newest = promise.sequence.max(*newest);
    }
    for status in &statuses {
        for (server, sequence) in &newest {
            let servers = status["servers"].as_array().cloned().unwrap_or_default();
            let row = servers.iter().find(|row| row["id"] == *server).cloned().unwrap_or_default();
            let shown = (row["epoch"].as_u64().unwrap_or(0), row["sequence"].as_u64().unwrap_or(0));
            if shown < (EPOCH, *sequence) {
                found.push(format!(
                    "node {}: {server}'s report {sequence} was acknowledged, and the table shows {shown:?}",
                    status["node"]
                ));
            }
        }
    }
    // Each promised entry that is still in a log is the very report that was promised.
    let mut compared = 0;
    for (id, address) in publics {
        for entry in log_entries(*address) {
            let Some(promise) = entry["index"].as_u64().and_then(|index| by_index.get(&index)) else {
                continue;
            };
            let report = &entry["command"]["report"];
            compared += 1;
            if entry["term"] != promise.term
                || report["server"] != promise.server.as_str()
                || report["sequence"] != promise.sequence
            {
                found.push(format!("node {id} holds {entry}, but promised was {promise:?}"));
            }
        }
    }
    if compared == 0 {
        found.push("no promise was found in any log, so none was compared".into());
    }
    found
}

/// All that a node's log holds. Since no node was started again after the last promises, they are among it: where a
/// snapshot was taken just now, the entries before it are kept for a while.
fn log_entries(address: SocketAddr) -> Vec<Value> {
    let (mut entries, mut after) = (Vec::new(), 0);
    while let Ok((200, body)) = get(address, &format!("/log?after={after}&limit=1000")) {
        let Ok(Value::Array(page)) = serde_json::from_str(&body) else { break };
        let Some(last) = page.last().and_then(|entry| entry["index"].as_u64()) else { break };
        after = last;
        entries.extend(page);
    }
    entries
}

/// All that a node has logged since the start of the run.
pub fn log_text(cluster: &Cluster, id: NodeId) -> String {
    std::fs::read_to_string(cluster.log(&format!("node-{id}"))).unwrap_or_default()
}

/// Which nodes led each term, by their own logs.
pub fn terms_led(cluster: &Cluster) -> BTreeMap<u64, Vec<NodeId>> {
    let mut terms: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for id in 1..=NODES {
        for line in log_text(cluster, id).lines() {
            let Some((_, rest)) = line.split_once(&format!("role: node {id} leads term ")) else { continue };
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            terms.entry(digits.parse().unwrap_or(0)).or_default().push(id);
        }
    }
    terms
}

/// Returns the log lines that must not be there.
pub fn read_logs(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let terms = terms_led(cluster);
    if terms.is_empty() {
        found.push("no log tells of a leader: are its lines called otherwise now?".into());
    }
    for (term, leaders) in terms {
        if leaders.len() > 1 {
            found.push(format!("term {term} was led by {leaders:?}"));
        }
    }
    for id in 1..=NODES {
        for line in log_text(cluster, id).lines() {
            if ["panicked", "suspicious", "a bug"].iter().any(|word| line.contains(word)) {
                found.push(format!("node {id}: {line}"));
            }
        }
    }
    found
}
