//! What `rakit status` shows of each node beside its status: the members, and how long ago which node was heard by the leader.
//!
//! This is part of what the page shows (`GET /ui/state`). Only the keys that are needed are read, and a node that does not
//! give them (another build, say) has a row with dashes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;

use rakit::protocol::path;
use rakit::raft::{NodeId, RoleName};
use serde::Deserialize;

use super::asking::client;
use super::comparison::Asked;
use super::headline::span;
use super::line::Line;
use super::table::{Cell, Table};

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What one node says of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Contact {
    /// The ids of all nodes, as it knows them.
    pub members: Vec<NodeId>,
    /// How long ago it had word of a working leader, in milliseconds; as the leader, of a majority.
    pub age_ms: u64,
    /// Its consensus; `None` if its Raft loop did not answer in time.
    pub consensus: Option<Followers>,
}

/// What it knows of its followers, if it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Followers {
    followers: Vec<Follower>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Follower {
    node: NodeId,
    contact_ms: u64,
}

/// `GET /ui/state` of a node.
#[derive(Deserialize)]
struct State {
    nodes: Vec<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    view: Option<Contact>,
}

/// Asks every node that answered before, in parallel. Others, and those that give nothing of use, are missing in the result.
pub fn contacts(answers: &[Asked]) -> BTreeMap<SocketAddr, Contact> {
    let answering = answers.iter().filter(|answer| answer.status.is_ok()).map(|answer| answer.address);
    thread::scope(|scope| {
        let asked: Vec<_> =
            answering.map(|address| (address, scope.spawn(move || contact(address)))).collect();
        asked
            .into_iter()
            .filter_map(|(address, thread)| Some((address, thread.join().ok().flatten()?)))
            .collect()
    })
}

fn contact(address: SocketAddr) -> Option<Contact> {
    let answer = client().get(address, path::PAGE_STATE, &[], ANSWER_BYTES_MAX).ok()?;
    let state: State = serde_json::from_slice(&answer.body).ok()?;
    state.nodes.into_iter().find_map(|seen| seen.view)
}

/// Names the nodes that do not answer: by the configuration, or, if only one member is missing among those that do, by that.
pub fn name(answers: &mut [Asked], known: &[(NodeId, SocketAddr)], contacts: &BTreeMap<SocketAddr, Contact>) {
    for answer in answers.iter_mut() {
        let configured = known.iter().find(|(id, address)| *id != 0 && *address == answer.address);
        answer.id = configured.map(|(id, _)| *id);
    }
    let members: BTreeSet<NodeId> =
        contacts.values().flat_map(|contact| contact.members.iter().copied()).collect();
    let there: BTreeSet<NodeId> =
        answers.iter().filter_map(|answer| Some(answer.status.as_ref().ok()?.node)).collect();
    let missing: Vec<NodeId> = members.difference(&there).copied().collect();
    let mut silent = answers.iter_mut().filter(|answer| answer.status.is_err());
    if let (Some(one), None, [id]) = (silent.next(), silent.next(), &missing[..])
        && one.id.is_none()
    {
        one.id = Some(*id);
    }
}

/// One row for each node: the end of its log, how long ago it was heard, its version, whom it takes for members, and with
/// whom it does not work.
pub fn rows(answers: &[Asked], contacts: &BTreeMap<SocketAddr, Contact>) -> Vec<Line> {
    let of = |answer: &Asked| contacts.get(&answer.address);
    // What the leader of the newest term says of the others.
    let leads = |answer: &&Asked| answer.status.as_ref().is_ok_and(|status| status.role == RoleName::Leader);
    let leader =
        answers.iter().filter(leads).max_by_key(|answer| answer.status.as_ref().map_or(0, |one| one.term));
    let followers = leader.and_then(of).and_then(|contact| contact.consensus.as_ref());
    let heard = |answer: &Asked| -> Option<u64> {
        let id = answer.known_id()?;
        let by_leader = followers.and_then(|all| all.followers.iter().find(|one| one.node == id));
        by_leader.map(|one| one.contact_ms).or_else(|| Some(of(answer)?.age_ms))
    };
    let list = |ids: &[NodeId]| -> String {
        let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
        if ids.is_empty() { "-".to_owned() } else { ids.join(",") }
    };
    let mut table = Table::new(&[">node", ">last", "contact", "version", "members", "refuses"]);
    for answer in answers {
        let id = answer.known_id().map_or("?".to_owned(), |id| id.to_string());
        let contact = heard(answer).map_or("-".to_owned(), |ms| format!("{} ago", span(ms)));
        let members = of(answer).map_or("-".to_owned(), |contact| list(&contact.members));
        let [last, version, refuses] = match &answer.status {
            Ok(status) => {
                let refused: Vec<NodeId> = status.refusals.iter().map(|peer| peer.node).collect();
                let version = super::comparison::clean(&status.version);
                [status.last_index.to_string(), format!("{version} ({})", status.protocol), list(&refused)]
            }
            Err(_) => ["-", "-", "-"].map(str::to_owned),
        };
        let cells = [id, last, contact, version, members, refuses];
        table.row(cells.into_iter().map(Cell::from).collect());
    }
    table.lines(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::comparison::NoAnswer;
    use super::super::comparison::tests::{answers, status};
    use super::*;
    use rakit::protocol::PROTOCOL_VERSION;

    fn contact(members: &[NodeId], age_ms: u64, followers: &[(NodeId, u64)]) -> Contact {
        let followers =
            followers.iter().map(|(node, contact_ms)| Follower { node: *node, contact_ms: *contact_ms });
        let consensus = Some(Followers { followers: followers.collect() });
        Contact { members: members.to_vec(), age_ms, consensus }
    }

    fn three() -> (Vec<Asked>, BTreeMap<SocketAddr, Contact>) {
        let all = answers(vec![Ok(status(1)), Ok(status(2)), Err("connection refused".to_string())]);
        let contacts = BTreeMap::from([
            (all[0].address, contact(&[1, 2, 3], 3, &[(2, 40), (3, 12_300)])),
            (all[1].address, contact(&[1, 2, 3], 55, &[])),
        ]);
        (all, contacts)
    }

    #[test]
    fn a_dead_node_has_its_id_and_how_long_ago_the_leader_heard_it() {
        let (mut all, contacts) = three();
        name(&mut all, &[], &contacts);
        assert_eq!(all[2].id, Some(3), "the only member that is missing");
        let version = format!("0.1.0 ({PROTOCOL_VERSION})");
        let rows: Vec<String> = rows(&all, &contacts).iter().map(Line::text).collect();
        assert_eq!(
            rows,
            [
                "node  last  contact    version    members  refuses".to_owned(),
                format!("   1     9  3 ms ago   {version}  1,2,3    -"),
                format!("   2     9  40 ms ago  {version}  1,2,3    -"),
                "   3     -  12 s ago   -          -        -".to_owned(),
            ]
        );
    }

    #[test]
    fn of_two_silent_nodes_only_the_configuration_knows_which_is_which() {
        let (mut all, mut contacts) = three();
        all[1].status = Err(NoAnswer::Silent);
        contacts.remove(&all[1].address);
        name(&mut all, &[], &contacts);
        assert_eq!((all[1].id, all[2].id), (None, None));
        let known: Vec<(NodeId, SocketAddr)> = (1..).zip(all.iter().map(|answer| answer.address)).collect();
        name(&mut all, &known, &contacts);
        assert_eq!((all[1].id, all[2].id), (Some(2), Some(3)));
    }

    #[test]
    fn a_node_of_another_build_has_a_row_with_dashes() {
        let (all, _) = three();
        let rows: Vec<String> = rows(&all, &BTreeMap::new()).iter().map(Line::text).collect();
        assert!(rows[1].contains("     9  -") && rows[3].starts_with("   ?"), "{rows:?}");
    }
}
