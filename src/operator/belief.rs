//! What a node believes, as its `GET /status` says it, and where several nodes believe different things.
//!
//! `rakit up` asks its own nodes, `rakit status` any. Comparing is pure: answers in, sentences out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

/// `GET /status`; docs/protocol.md. Fields that are not shown anywhere are left out, unknown ones are passed over, so that this
/// program can ask nodes of a later version.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Belief {
    /// The cluster's name.
    pub cluster: String,
    /// The node's own id.
    pub node: u64,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    pub role: String,
    /// Its current term.
    pub term: u64,
    /// Whom it believes to lead.
    pub leader: Option<u64>,
    /// The last index that it knows to be committed.
    pub commit_index: u64,
    /// The last index that is in its table.
    pub applied_index: u64,
    /// The hash over the replicated state at `applied_index`.
    pub state_digest: String,
    /// The server table.
    pub servers: Vec<Server>,
}

/// One row of the server table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Server {
    /// Its name.
    pub id: String,
    /// Where its worker listens.
    pub worker: String,
    /// Percent of its processors that were busy at its last committed report.
    pub cpu: f64,
    /// How many processors it has.
    pub cores: u64,
    /// Whether it lives, by consensus.
    pub alive: bool,
    /// Whether its worker listened at its last committed report: without, no request goes there.
    pub worker_up: bool,
    /// When its daemon started, milliseconds since 1970.
    pub epoch: u64,
    /// Requests of this node that it has not answered yet.
    pub in_flight: u64,
}

/// One node's answer to the question, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The node's public address.
    pub address: SocketAddr,
    /// The reason is for a person: "connection refused".
    pub belief: Result<Belief, String>,
}

impl Answer {
    /// How a sentence calls the node: by its id where it has told us.
    fn name(&self) -> String {
        match &self.belief {
            Ok(belief) => format!("node {}", belief.node),
            Err(_) => format!("the node at {}", self.address),
        }
    }
}

/// The belief of the node that has applied most: the freshest server table there is.
pub fn freshest(answers: &[Answer]) -> Option<&Belief> {
    answers.iter().filter_map(|answer| answer.belief.as_ref().ok()).max_by_key(|belief| belief.applied_index)
}

/// Requests in flight to a server, over all nodes that answered: each node knows only its own.
pub fn in_flight(answers: &[Answer], server: &str) -> u64 {
    let beliefs = answers.iter().filter_map(|answer| answer.belief.as_ref().ok());
    let of_server = beliefs.flat_map(|belief| belief.servers.iter().filter(|one| one.id == server));
    of_server.fold(0, |sum, one| sum.saturating_add(one.in_flight))
}

/// Every point on which the nodes don't agree, one sentence each; empty if they all answer and agree, with a leader.
///
/// How far each has committed and applied is not compared: it differs for a moment whenever something is committed, and is
/// shown in the table. The tables are compared by their digest, where two nodes have applied equally far; and by
/// who lives, at any time, as that is what a person asks.
pub fn differences(answers: &[Answer]) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for answer in answers {
        if let Err(reason) = &answer.belief {
            sentences.push(format!("{} does not answer: {reason}", answer.name()));
        }
    }
    let beliefs: Vec<&Belief> = answers.iter().filter_map(|answer| answer.belief.as_ref().ok()).collect();

    let by_cluster = grouped(&beliefs, |belief| belief.cluster.clone());
    if by_cluster.len() > 1 {
        sentences.push(format!(
            "they are of different clusters: {}",
            told(&by_cluster, |name| format!("\"{name}\""))
        ));
    }
    let by_leader = grouped(&beliefs, |belief| belief.leader);
    match by_leader.len() {
        0 => {}
        1 if by_leader.contains_key(&None) => sentences.push("no node knows a leader".to_string()),
        1 => {}
        _ => {
            let whom = |leader: &Option<u64>| match leader {
                Some(id) => format!("node {id}"),
                None => "nobody".to_string(),
            };
            sentences.push(format!("they follow different leaders: {}", told(&by_leader, whom)));
        }
    }
    let by_term = grouped(&beliefs, |belief| belief.term);
    if by_term.len() > 1 {
        sentences
            .push(format!("they are in different terms: {}", told(&by_term, |term| format!("term {term}"))));
    }
    // Election Safety and State Machine Safety (Raft paper, Figure 3) forbid the next two. The nodes are not asked at one
    // instant, but a leader's term and an applied index don't change their meaning between two questions.
    let leaders: Vec<&Belief> = beliefs.iter().copied().filter(|belief| belief.role == "leader").collect();
    for (term, ids) in grouped(&leaders, |belief| belief.term).into_iter().filter(|(_, ids)| ids.len() > 1) {
        sentences
            .push(format!("TWO LEADERS IN ONE TERM, which must never be: {} in term {term}", nodes(&ids)));
    }
    for applied_index in grouped(&beliefs, |belief| belief.applied_index).into_keys() {
        let equally_far: Vec<&Belief> =
            beliefs.iter().copied().filter(|belief| belief.applied_index == applied_index).collect();
        let by_digest = grouped(&equally_far, |belief| belief.state_digest.clone());
        if by_digest.len() > 1 {
            sentences.push(format!(
                "DIFFERENT TABLES AT ONE INDEX, which must never be: at index {applied_index}, {}",
                told(&by_digest, |digest| format!("digest {}", clean(digest)))
            ));
        }
    }
    let mut names: Vec<&str> =
        beliefs.iter().flat_map(|belief| belief.servers.iter().map(|server| server.id.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let by_life = grouped(&beliefs, |belief| {
            belief.servers.iter().find(|server| server.id == name).map(|server| server.alive)
        });
        if by_life.len() > 1 {
            let life = |alive: &Option<bool>| match alive {
                Some(true) => "alive".to_string(),
                Some(false) => "dead".to_string(),
                None => "unknown".to_string(),
            };
            sentences.push(format!("{}: {}", clean(name), told(&by_life, life)));
        }
    }
    sentences
}

/// The ids of the nodes, by what each believes.
fn grouped<K: Ord>(beliefs: &[&Belief], key: impl Fn(&Belief) -> K) -> BTreeMap<K, Vec<u64>> {
    let mut groups: BTreeMap<K, Vec<u64>> = BTreeMap::new();
    for belief in beliefs {
        groups.entry(key(belief)).or_default().push(belief.node);
    }
    groups
}

/// "term 3 (nodes 1, 2), term 4 (node 3)".
fn told<K>(groups: &BTreeMap<K, Vec<u64>>, what: impl Fn(&K) -> String) -> String {
    let parts: Vec<String> =
        groups.iter().map(|(key, ids)| format!("{} ({})", clean(&what(key)), nodes(ids))).collect();
    parts.join(", ")
}

/// "node 3", "nodes 1, 2".
fn nodes(ids: &[u64]) -> String {
    let numbers: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, numbers.join(", "))
}

/// Text from another machine, made safe for a terminal: no control character, which could move the cursor.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Node `node` of three, in term 2 under node 1, with one living server.
    pub fn belief(node: u64) -> Belief {
        Belief {
            cluster: "lab".to_string(),
            node,
            role: if node == 1 { "leader" } else { "follower" }.to_string(),
            term: 2,
            leader: Some(1),
            commit_index: 9,
            applied_index: 9,
            state_digest: "abc".to_string(),
            servers: vec![Server {
                id: "server-1".to_string(),
                worker: "127.0.0.1:10001".to_string(),
                cpu: 12.5,
                cores: 2,
                alive: true,
                worker_up: true,
                epoch: 1,
                in_flight: node,
            }],
        }
    }

    /// These beliefs as the answers of nodes at 127.0.0.1:8001 and so on.
    pub fn answers(beliefs: Vec<Result<Belief, String>>) -> Vec<Answer> {
        let addressed = beliefs.into_iter().zip(8001..);
        addressed.map(|(belief, port)| Answer { address: ([127, 0, 0, 1], port).into(), belief }).collect()
    }

    fn changed(node: u64, change: impl FnOnce(&mut Belief)) -> Result<Belief, String> {
        let mut belief = belief(node);
        change(&mut belief);
        Ok(belief)
    }

    #[test]
    fn equal_beliefs_differ_nowhere_even_if_one_lags() {
        let lagging = changed(3, |belief| {
            belief.applied_index = 8;
            belief.commit_index = 8;
            belief.state_digest = "of index 8".to_string();
        });
        assert!(differences(&answers(vec![Ok(belief(1)), Ok(belief(2)), lagging])).is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_told_with_who_believes_what() {
        let cases: [(Result<Belief, String>, &str); 8] = [
            (
                Err("connection refused".into()),
                "the node at 127.0.0.1:8003 does not answer: connection refused",
            ),
            (
                changed(3, |belief| belief.leader = Some(2)),
                "they follow different leaders: node 1 (nodes 1, 2), node 2 (node 3)",
            ),
            (
                changed(3, |belief| belief.leader = None),
                "they follow different leaders: nobody (node 3), node 1 (nodes 1, 2)",
            ),
            (
                changed(3, |belief| belief.term = 7),
                "they are in different terms: term 2 (nodes 1, 2), term 7 (node 3)",
            ),
            (
                changed(3, |belief| belief.role = "leader".to_string()),
                "TWO LEADERS IN ONE TERM, which must never be: nodes 1, 3 in term 2",
            ),
            (
                changed(3, |belief| belief.state_digest = "x\u{1b}y".to_string()),
                "DIFFERENT TABLES AT ONE INDEX, which must never be: at index 9, digest abc (nodes 1, 2), digest x?y \
                 (node 3)",
            ),
            (
                changed(3, |belief| belief.servers[0].alive = false),
                "server-1: dead (node 3), alive (nodes 1, 2)",
            ),
            (changed(3, |belief| belief.servers.clear()), "server-1: unknown (node 3), alive (nodes 1, 2)"),
        ];
        for (third, sentence) in cases {
            let said = differences(&answers(vec![Ok(belief(1)), Ok(belief(2)), third]));
            assert_eq!(said, [sentence]);
        }
    }

    #[test]
    fn a_cluster_that_agrees_to_have_no_leader_is_not_well() {
        let leaderless = |node| {
            changed(node, |belief| {
                belief.leader = None;
                belief.role = "follower".to_string();
            })
        };
        assert_eq!(differences(&answers(vec![leaderless(1), leaderless(2)])), ["no node knows a leader"]);
    }

    #[test]
    fn requests_in_flight_are_summed_and_the_freshest_table_is_shown() {
        let fresher = changed(3, |belief| belief.applied_index = 10);
        let all = answers(vec![Ok(belief(1)), Err("away".into()), fresher]);
        assert_eq!(in_flight(&all, "server-1"), 4);
        assert_eq!(freshest(&all).map(|belief| belief.node), Some(3));
    }
}
