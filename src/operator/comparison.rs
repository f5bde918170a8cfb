//! Compares the nodes' answers to `GET /status`, and gives one sentence per difference.
//!
//! Every command that asks nodes uses it. It does no input or output.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use rakit::protocol::Status;
use rakit::raft::{NodeId, RoleName};

/// One node that was asked for its status, and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The node's public address.
    pub address: SocketAddr,
    /// Which node is there by the configuration, or by what the others say; `None` if that is not known.
    pub id: Option<NodeId>,
    /// Its answer, or why there is none.
    pub status: Result<Status, NoAnswer>,
}

/// Why there is no status of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NoAnswer {
    /// Nobody has asked it yet.
    NotAsked,
    /// It was asked, and said nothing in time: its machine is off, or it is paused.
    Silent,
    /// It was asked in vain in another way; the reason for a person: "connection refused".
    Failed(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked => "not asked yet",
            Self::Silent => "no answer",
            Self::Failed(reason) => reason,
        })
    }
}

impl Asked {
    /// Its id: as it says itself, or as others know it.
    pub fn known_id(&self) -> Option<NodeId> {
        self.status.as_ref().map(|status| status.node).ok().or(self.id)
    }

    /// How a sentence names the node: by its id, and by its address if it did not answer.
    fn name(&self) -> String {
        match (&self.status, self.id) {
            (Ok(status), _) => format!("node {}", status.node),
            (Err(_), Some(id)) => format!("node {id} at {}", self.address),
            (Err(_), None) => format!("the node at {}", self.address),
        }
    }
}

/// The sentence for nodes that agree to have no leader.
pub const NO_LEADER: &str = "no node knows a leader";

/// The status of the node with the highest applied index, and so with the newest server table.
pub fn freshest(answers: &[Asked]) -> Option<&Status> {
    answers.iter().filter_map(|answer| answer.status.as_ref().ok()).max_by_key(|status| status.applied_index)
}

/// Requests in flight to a server, summed over all nodes that answered. Each node counts only its own.
pub fn in_flight(answers: &[Asked], server: &str) -> usize {
    let statuses = answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    let of_server = statuses.flat_map(|status| status.servers.iter().filter(|one| one.id == server));
    of_server.fold(0, |sum, one| sum.saturating_add(one.in_flight))
}

/// One sentence for each point on which the nodes differ. Empty if all nodes answer and agree, and there is a
/// leader.
///
/// The commit and applied indexes are not compared: they differ for a moment after each commit, and the table
/// shows them. The digests of two tables are compared if their applied index is equal. Which servers are
/// alive is always compared.
pub fn differences(answers: &[Asked]) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for answer in answers {
        if let Err(reason) = &answer.status {
            sentences.push(format!("{} does not answer: {reason}", answer.name()));
        }
    }
    for answer in answers {
        if let (Ok(status), Some(id)) = (&answer.status, answer.id)
            && status.node != id
        {
            sentences.push(format!(
                "node {} answers at {}, the address of node {id}; check the addresses in cluster.toml",
                status.node, answer.address
            ));
        }
    }
    let statuses: Vec<&Status> = answers.iter().filter_map(|answer| answer.status.as_ref().ok()).collect();

    let by_protocol = grouped(&statuses, |status| status.protocol);
    if by_protocol.len() > 1 {
        let version = |version: &u32| format!("version {version}");
        sentences.push(format!(
            "they speak different versions of the protocol, so they do not work together: {}",
            listed(&by_protocol, version)
        ));
    }
    for status in statuses.iter().filter(|status| status.joining) {
        sentences.push(format!(
            "node {} is joining: its directory is new or was emptied, and it does not count until a leader has filled it",
            status.node
        ));
    }
    for status in &statuses {
        sentences.extend(status.refusals.iter().map(|peer| {
            format!("node {} does not work with node {}: {}", status.node, peer.node, clean(&peer.reason))
        }));
        let node = status.node;
        sentences.extend(status.stuck_ms.map(|ms| {
            format!("node {node} is stuck: its disk or its Raft loop has not moved for {ms} ms; see its log and disk")
        }));
        sentences.extend(status.contradiction.as_deref().map(clean));
        let twice = status.servers.iter().filter_map(|server| Some((&server.id, server.also_reported?)));
        sentences.extend(twice.map(|(id, worker)| {
            format!("{} is also the name of a second daemon, for the worker {worker}; rename one", clean(id))
        }));
    }
    // Several nodes may say the same.
    let mut said = BTreeSet::new();
    sentences.retain(|sentence| said.insert(sentence.clone()));
    let by_cluster = grouped(&statuses, |status| status.cluster.clone());
    if by_cluster.len() > 1 {
        sentences.push(format!(
            "they are of different clusters: {}",
            listed(&by_cluster, |name| format!("\"{name}\""))
        ));
    }
    let by_leader = grouped(&statuses, |status| status.leader);
    match by_leader.len() {
        0 => {}
        1 if by_leader.contains_key(&None) => sentences.push(NO_LEADER.to_string()),
        1 => {}
        _ => {
            let whom = |leader: &Option<u64>| match leader {
                Some(id) => format!("node {id}"),
                None => "nobody".to_string(),
            };
            sentences.push(format!("they follow different leaders: {}", listed(&by_leader, whom)));
        }
    }
    let by_term = grouped(&statuses, |status| status.term);
    if by_term.len() > 1 {
        sentences.push(format!(
            "they are in different terms: {}",
            listed(&by_term, |term| format!("term {term}"))
        ));
    }
    // Election Safety and State Machine Safety (Raft paper, Figure 3) forbid the next two. The nodes answer
    // at different moments. That is no problem: a term has one leader for ever, and an applied index one
    // table.
    let leaders: Vec<&Status> =
        statuses.iter().copied().filter(|status| status.role == RoleName::Leader).collect();
    for (term, ids) in grouped(&leaders, |status| status.term).into_iter().filter(|(_, ids)| ids.len() > 1) {
        sentences
            .push(format!("TWO LEADERS IN ONE TERM, which must never be: {} in term {term}", nodes(&ids)));
    }
    for applied_index in grouped(&statuses, |status| status.applied_index).into_keys() {
        let equally_far: Vec<&Status> =
            statuses.iter().copied().filter(|status| status.applied_index == applied_index).collect();
        let by_digest = grouped(&equally_far, |status| status.state_digest.clone());
        if by_digest.len() > 1 {
            sentences.push(format!(
                "DIFFERENT TABLES AT ONE INDEX, which must never be: at index {applied_index}, {}",
                listed(&by_digest, |digest| format!("digest {}", clean(digest)))
            ));
        }
    }
    let mut names: Vec<&str> =
        statuses.iter().flat_map(|status| status.servers.iter().map(|server| server.id.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let by_life = grouped(&statuses, |status| {
            status.servers.iter().find(|server| server.id == name).map(|server| server.alive)
        });
        if by_life.len() > 1 {
            let life = |alive: &Option<bool>| match alive {
                Some(true) => "alive".to_string(),
                Some(false) => "dead".to_string(),
                None => "unknown".to_string(),
            };
            sentences.push(format!("{}: {}", clean(name), listed(&by_life, life)));
        }
    }
    sentences
}

/// The ids of the nodes, grouped by the value of `key`.
fn grouped<K: Ord>(statuses: &[&Status], key: impl Fn(&Status) -> K) -> BTreeMap<K, Vec<u64>> {
    let mut groups: BTreeMap<K, Vec<u64>> = BTreeMap::new();
    for status in statuses {
        groups.entry(key(status)).or_default().push(status.node);
    }
    groups
}

/// "term 3 (nodes 1, 2), term 4 (node 3)".
fn listed<K>(groups: &BTreeMap<K, Vec<u64>>, what: impl Fn(&K) -> String) -> String {
    let parts: Vec<String> =
        groups.iter().map(|(key, ids)| format!("{} ({})", clean(&what(key)), nodes(ids))).collect();
    parts.join(", ")
}

/// "node 3", "nodes 1, 2".
fn nodes(ids: &[u64]) -> String {
    let numbers: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, numbers.join(", "))
}

/// Text from another machine without its control characters, which could move the terminal's cursor.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use rakit::protocol::{PROTOCOL_VERSION, PeerRefusal, ServerStatus};
    use rakit::raft::Membership;

    /// Node `node` of three, in term 2 under node 1, with one living server.
    pub fn status(node: u64) -> Status {
        Status {
            cluster: "lab".to_string(),
            node,
            role: if node == 1 { RoleName::Leader } else { RoleName::Follower },
            term: 2,
            leader: Some(1),
            voted_for: Some(1),
            commit_index: 9,
            applied_index: 9,
            last_index: 9,
            snapshot_index: 0,
            joining: false,
            membership: Membership::Voter,
            members_index: 0,
            members: Vec::new(),
            state_digest: "abc".to_string(),
            policy: "projected".to_string(),
            uptime_ms: 1_000,
            version: "0.1.0".to_string(),
            protocol: PROTOCOL_VERSION,
            refusals: Vec::new(),
            stuck_ms: None,
            contradiction: None,
            deaf_to: Vec::new(),
            loses: Vec::new(),
            servers: vec![ServerStatus {
                id: "server-1".to_string(),
                worker: ([127, 0, 0, 1], 10_001).into(),
                cpu: 12.5,
                cpu_known: true,
                cores: 2,
                alive: true,
                drained: false,
                worker_up: true,
                epoch: 1,
                sequence: 1,
                in_flight: usize::try_from(node).expect("a small number"),
                stalled: false,
                also_reported: None,
                avoided: false,
            }],
        }
    }

    /// An address on this loopback address that refuses connections for as long as the socket lives: it is bound, so that nobody
    /// else gets the port, and does not listen.
    pub fn refusing(ip: [u8; 4]) -> (socket2::Socket, SocketAddr) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((ip, 0)).into()).expect("loopback has a free port");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("an IP address");
        (socket, address)
    }

    /// These statuses as the answers of nodes at 127.0.0.1:8001 and so on.
    pub fn answers(statuses: Vec<Result<Status, String>>) -> Vec<Asked> {
        let addressed = statuses.into_iter().zip(8001..);
        addressed
            .map(|(status, port)| Asked {
                address: ([127, 0, 0, 1], port).into(),
                id: None,
                status: status.map_err(NoAnswer::Failed),
            })
            .collect()
    }

    fn changed(node: u64, change: impl FnOnce(&mut Status)) -> Result<Status, String> {
        let mut status = status(node);
        change(&mut status);
        Ok(status)
    }

    #[test]
    fn equal_beliefs_differ_nowhere_even_if_one_lags() {
        let lagging = changed(3, |status| {
            status.applied_index = 8;
            status.commit_index = 8;
            status.state_digest = "of index 8".to_string();
        });
        assert!(differences(&answers(vec![Ok(status(1)), Ok(status(2)), lagging])).is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_told_with_who_believes_what() {
        let cases: [(Result<Status, String>, &str); 13] = [
            (
                Err("connection refused".into()),
                "the node at 127.0.0.1:8003 does not answer: connection refused",
            ),
            (
                changed(3, |status| status.protocol = 99),
                "they speak different versions of the protocol, so they do not work together: version OWN (nodes 1, 2), \
                 version 99 (node 3)",
            ),
            (
                changed(3, |status| {
                    let reason = "speaks\nversion 2".to_string();
                    status.refusals = vec![PeerRefusal { node: 1, reason }];
                }),
                "node 3 does not work with node 1: speaks?version 2",
            ),
            (
                changed(3, |status| status.stuck_ms = Some(1200)),
                "node 3 is stuck: its disk or its Raft loop has not moved for 1200 ms; see its log and disk",
            ),
            (changed(3, |status| status.contradiction = Some("it\ndiffers".to_string())), "it?differs"),
            (
                changed(3, |status| status.servers[0].also_reported = "127.0.0.1:9".parse().ok()),
                "server-1 is also the name of a second daemon, for the worker 127.0.0.1:9; rename one",
            ),
            (
                changed(3, |status| status.leader = Some(2)),
                "they follow different leaders: node 1 (nodes 1, 2), node 2 (node 3)",
            ),
            (
                changed(3, |status| status.leader = None),
                "they follow different leaders: nobody (node 3), node 1 (nodes 1, 2)",
            ),
            (
                changed(3, |status| status.term = 7),
                "they are in different terms: term 2 (nodes 1, 2), term 7 (node 3)",
            ),
            (
                changed(3, |status| status.role = RoleName::Leader),
                "TWO LEADERS IN ONE TERM, which must never be: nodes 1, 3 in term 2",
            ),
            (
                changed(3, |status| status.state_digest = "x\u{1b}y".to_string()),
                "DIFFERENT TABLES AT ONE INDEX, which must never be: at index 9, digest abc (nodes 1, 2), digest x?y \
                 (node 3)",
            ),
            (
                changed(3, |status| status.servers[0].alive = false),
                "server-1: dead (node 3), alive (nodes 1, 2)",
            ),
            (changed(3, |status| status.servers.clear()), "server-1: unknown (node 3), alive (nodes 1, 2)"),
        ];
        for (third, sentence) in cases {
            let said = differences(&answers(vec![Ok(status(1)), Ok(status(2)), third]));
            assert_eq!(said, [sentence.replace("OWN", &PROTOCOL_VERSION.to_string())]);
        }
    }

    #[test]
    fn a_silent_node_and_one_in_the_wrong_place_are_named_by_the_configuration() {
        let mut all = answers(vec![Ok(status(1)), Err("connection refused".into()), Ok(status(2))]);
        (all[1].id, all[2].id) = (Some(2), Some(3));
        assert_eq!(
            differences(&all),
            [
                "node 2 at 127.0.0.1:8002 does not answer: connection refused",
                "node 2 answers at 127.0.0.1:8003, the address of node 3; check the addresses in cluster.toml",
            ]
        );
    }

    #[test]
    fn a_cluster_that_agrees_to_have_no_leader_is_not_well() {
        let leaderless = |node| {
            changed(node, |status| {
                status.leader = None;
                status.role = RoleName::Follower;
            })
        };
        assert_eq!(differences(&answers(vec![leaderless(1), leaderless(2)])), ["no node knows a leader"]);
    }

    #[test]
    fn requests_in_flight_are_summed_and_the_freshest_table_is_shown() {
        let fresher = changed(3, |status| status.applied_index = 10);
        let all = answers(vec![Ok(status(1)), Err("away".into()), fresher]);
        assert_eq!(in_flight(&all, "server-1"), 4);
        assert_eq!(freshest(&all).map(|status| status.node), Some(3));
    }
}
