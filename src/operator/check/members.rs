//! What `rakit check` finds about the members: whether the nodes of the file are the members in the log, whether all nodes go by
//! the same list, and whether learners catch up.
//!
//! A change takes a moment. So whatever may be a change under way is a finding only if it is the same at the second look.

use std::net::SocketAddr;

use rakit::config::{Config, Node};
use rakit::protocol::{MemberStatus, Status};
use rakit::raft::{Index, Membership, NodeId};

use super::super::asking::{ask_all, newest_of};
use super::super::comparison::{Asked, differences};
use super::Remark;

/// The nodes of the file and the other members, with the answer of each.
#[derive(Clone, Debug)]
pub struct View {
    /// One for each node of the file, in its order, asked at the address in the file.
    pub file: Vec<Asked>,
    /// The members that the file does not have, or has at another address.
    more: Vec<(Node, Asked)>,
}

impl View {
    /// Asks all nodes of the file, and then the members that they name.
    pub fn ask(config: &Config) -> View {
        let file = ask_all(&config.nodes.iter().map(|node| node.public).collect::<Vec<_>>());
        let missing = missing(config, &file);
        let answers = ask_all(&missing.iter().map(|node| node.public).collect::<Vec<_>>());
        View { file, more: missing.into_iter().zip(answers).collect() }
    }

    /// The answer that knows the newest list; `None` if no node of this cluster answers.
    fn newest(&self, config: &Config) -> Option<&Status> {
        newest_of_cluster(config, self.file.iter().chain(self.more.iter().map(|(_, answer)| answer)))
    }

    /// How many members vote, by the newest list; `None` if no node of this cluster answers.
    pub fn voters(&self, config: &Config) -> Option<usize> {
        self.newest(config).map(|status| status.members.iter().filter(|member| member.voter).count())
    }

    /// The members, with their answers; all nodes of the file, if nobody says who is one.
    pub fn members(&self, config: &Config) -> Vec<(Node, Asked)> {
        let newest = self.newest(config);
        let is_member = |node: &Node| {
            newest.is_none_or(|status| {
                status.members.iter().any(|member| member.id == node.id && member.public == node.public)
            })
        };
        let of_file = config.nodes.iter().zip(&self.file).filter(|(node, _)| is_member(node));
        let of_file = of_file.map(|(node, answer)| (node.clone(), answer.clone()));
        of_file.chain(self.more.iter().cloned()).collect()
    }

    /// The members that answer.
    pub fn answered(&self, config: &Config) -> Vec<Asked> {
        let members = self.members(config).into_iter().map(|(_, answer)| answer);
        members.filter(|answer| answer.status.is_ok()).collect()
    }

    /// Whether a second look may show something else: the nodes differ, or a change of members is under way.
    pub fn may_change(&self, config: &Config) -> bool {
        let answered = self.answered(config);
        let Some(newest) = self.newest(config) else { return !differences(&answered).is_empty() };
        let statuses = answered.iter().filter_map(|answer| answer.status.as_ref().ok());
        !differences(&answered).is_empty()
            || newest.members.iter().any(|member| !member.voter)
            || statuses
                .into_iter()
                .any(|one| one.members_index != newest.members_index || one.commit_index < one.members_index)
    }

    /// What this node says, if it answers.
    fn status(&self, id: NodeId) -> Option<&Status> {
        let answers = self.file.iter().chain(self.more.iter().map(|(_, answer)| answer));
        answers.filter_map(|answer| answer.status.as_ref().ok()).find(|status| status.node == id)
    }
}

fn newest_of_cluster<'a>(config: &Config, answers: impl Iterator<Item = &'a Asked>) -> Option<&'a Status> {
    let is_ours =
        |answer: &&Asked| answer.status.as_ref().is_ok_and(|status| status.cluster == config.cluster_name);
    newest_of(answers.filter(is_ours))
}

/// The members that the file does not have at their public address.
fn missing(config: &Config, file: &[Asked]) -> Vec<Node> {
    let Some(newest) = newest_of_cluster(config, file.iter()) else { return Vec::new() };
    let in_file = |id: NodeId, public: SocketAddr| {
        config.nodes.iter().any(|node| node.id == id && node.public == public)
    };
    let others = newest.members.iter().filter(|member| !in_file(member.id, member.public));
    let node = |member: &MemberStatus| Node {
        id: member.id,
        public: member.public,
        cluster: member.cluster,
        founder: config.nodes.iter().any(|node| node.id == member.id && node.founder),
    };
    others.map(node).collect()
}

/// Compares the file with the list of members, and the nodes' lists with each other. `before` is an earlier look; the same as
/// `now` if there was no reason for a second one.
pub fn look(config: &Config, before: &View, now: &View) -> Vec<Remark> {
    // That nobody answers is said elsewhere.
    let Some(newest) = now.newest(config) else { return Vec::new() };
    let mut remarks = Vec::new();
    for (node, answer) in config.nodes.iter().zip(&now.file) {
        match newest.members.iter().find(|member| member.id == node.id) {
            None => remarks.push(no_member(config, node, answer, newest)),
            Some(member) if (member.cluster, member.public) != (node.cluster, node.public) => {
                remarks.push(Remark::finding(
                    format!(
                        "{} has other addresses for node {} than the members have",
                        config.path.display(),
                        node.id
                    ),
                    format!(
                        "write public = \"{}\" and cluster = \"{}\" into the section of node {} on all machines",
                        member.public, member.cluster, node.id
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    for member in newest.members.iter().filter(|member| config.nodes.iter().all(|node| node.id != member.id))
    {
        remarks.push(Remark::Note(format!(
            "node {} is a member, and {} does not name it; put it into the file of every machine at the next occasion: a \
             section [[node]] with id = {}, public = \"{}\", cluster = \"{}\", founder = false",
            member.id,
            config.path.display(),
            member.id,
            member.public,
            member.cluster
        )));
    }
    let learners = newest.members.iter().filter(|member| !member.voter);
    remarks.extend(learners.map(|member| learner(member, before, now, newest)));
    remarks.extend(lists(config, before, now));
    if remarks.is_empty() {
        let from = match newest.members_index {
            0 => "of the founding".to_owned(),
            index => format!("of entry {index} of the log"),
        };
        let ids: Vec<String> = newest.members.iter().map(|member| member.id.to_string()).collect();
        remarks.push(Remark::Fine(format!(
            "the members {from} are those of the file: nodes {}",
            ids.join(", ")
        )));
    }
    remarks
}

/// A node of the file that is no member.
fn no_member(config: &Config, node: &Node, answer: &Asked, newest: &Status) -> Remark {
    let (id, file) = (node.id, config.path.display());
    let runs = answer.status.as_ref().ok().filter(|status| status.node == id);
    let add = format!("rakit members add {id} --cluster {} --public {}", node.cluster, node.public);
    match (node.founder, runs) {
        (true, None) => Remark::Note(format!(
            "node {id} is no member any more; its section in {file} stays, since the founders are the cluster's identity"
        )),
        (true, Some(_)) => Remark::finding(
            format!(
                "node {id} is no member any more, by entry {} of the log, and still runs at {}",
                newest.members_index, node.public
            ),
            format!("stop it (its section in {file} stays, since it is a founder); or {add}"),
        ),
        (false, Some(status)) if status.membership == Membership::NotYet => Remark::finding(
            format!("node {id} runs at {}, and is no member yet: nobody added it", node.public),
            format!("{add}; or stop it, and take its section out of {file}"),
        ),
        (false, Some(_)) => Remark::finding(
            format!("node {id} is no member any more, and still runs at {}", node.public),
            format!("stop it, and take its section out of {file} on all machines; or {add}"),
        ),
        (false, None) => Remark::finding(
            format!("{file} names node {id}, which is no member"),
            format!("take its section out on all machines; or start it, and {add}"),
        ),
    }
}

/// A learner: whether it comes nearer to the end of the log.
fn learner(member: &MemberStatus, before: &View, now: &View, newest: &Status) -> Remark {
    let id = member.id;
    let Some(status) = now.status(id) else {
        return Remark::finding(
            format!("node {id} is a learner and does not answer at {}, so it will not vote", member.public),
            format!("start it; `rakit members remove {id}` takes the change back"),
        );
    };
    let end = status.last_index;
    let came_nearer = before.status(id).is_none_or(|earlier| earlier.last_index < end);
    if end < newest.commit_index && !came_nearer {
        return Remark::finding(
            format!(
                "node {id} is a learner and does not catch up: its log ends at entry {end}, and entry {} is committed",
                newest.commit_index
            ),
            format!(
                "see its log, and whether the leader reaches {}; `rakit members remove {id}` takes the change back",
                member.cluster
            ),
        );
    }
    Remark::Note(format!(
        "node {id} is a learner: its log ends at entry {end}, entry {} is committed; it votes when it has caught up",
        newest.commit_index
    ))
}

/// Where the members that answer go by other lists than the newest, at both looks.
fn lists(config: &Config, before: &View, now: &View) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let (Some(earlier), Some(newest)) = (before.newest(config), now.newest(config)) else { return remarks };
    let ids = |status: &Status| -> String {
        let ids: Vec<String> = status.members.iter().map(|member| member.id.to_string()).collect();
        ids.join(", ")
    };
    for answer in now.answered(config) {
        let Ok(status) = &answer.status else { continue };
        let index_before: Option<Index> = before.status(status.node).map(|status| status.members_index);
        let stays_behind =
            status.members_index < earlier.members_index && index_before == Some(status.members_index);
        if status.members_index == newest.members_index && status.members != newest.members {
            remarks.push(Remark::finding(
                format!(
                    "DIFFERENT MEMBERS BY ONE ENTRY, which must never be: by entry {}, node {} has {}, and node {} has {}",
                    status.members_index,
                    status.node,
                    ids(status),
                    newest.node,
                    ids(newest)
                ),
                "if it is of the founding, the same cluster.toml on all machines; else see the logs of both",
            ));
        } else if stays_behind {
            remarks.push(Remark::finding(
                format!(
                    "node {} goes by older members (entry {}: {}) than node {} (entry {}: {})",
                    status.node,
                    status.members_index,
                    ids(status),
                    newest.node,
                    newest.members_index,
                    ids(newest)
                ),
                format!(
                    "node {} does not get the log: see its log, and the network between the two",
                    status.node
                ),
            ));
        }
    }
    let waits = |status: &Status| status.members_index > status.commit_index;
    if waits(newest) && waits(earlier) && earlier.members_index == newest.members_index {
        remarks.push(Remark::finding(
            format!(
                "the change of members of entry {} is not committed: no majority of the members {} keeps it",
                newest.members_index,
                ids(newest)
            ),
            "start the members that do not answer",
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::super::super::comparison::tests::{answers, status};
    use super::*;
    use std::path::Path;

    /// Three founders at the addresses of [`answers`].
    fn config() -> Config {
        let mut text = "[cluster]\nname = \"lab\"\n".to_owned();
        for id in 1..=3 {
            text += &format!(
                "[[node]]\nid = {id}\npublic = \"127.0.0.1:800{id}\"\ncluster = \"127.0.0.1:900{id}\"\n"
            );
        }
        Config::parse(&text, Path::new("lab.toml")).expect("a good file")
    }

    fn member(id: NodeId, voter: bool) -> MemberStatus {
        let port = u16::try_from(id).expect("a small number");
        let at = |base: u16| SocketAddr::from(([127, 0, 0, 1], base + port));
        MemberStatus { id, cluster: at(9_000), public: at(8_000), voter }
    }

    /// Node `id`, which goes by this list.
    fn by(id: NodeId, index: Index, members: &[MemberStatus]) -> Status {
        Status { members_index: index, members: members.to_vec(), ..status(id) }
    }

    /// The first three statuses are those of the file.
    fn view(statuses: Vec<Result<Status, String>>) -> View {
        let mut file = answers(statuses);
        let more = file.split_off(3);
        let more = more.into_iter().zip(4..).map(|(answer, id)| {
            let MemberStatus { id, public, cluster, .. } = member(id, false);
            (Node { id, public, cluster, founder: false }, answer)
        });
        View { file, more: more.collect() }
    }

    fn said(before: &View, now: &View) -> Vec<String> {
        look(&config(), before, now).iter().map(Remark::line).collect()
    }

    #[test]
    fn a_file_that_names_the_members_is_fine() {
        let three = [member(1, true), member(2, true), member(3, true)];
        let now = view((1..=3).map(|id| Ok(by(id, 0, &three))).collect());
        assert_eq!(
            said(&now, &now),
            ["ok: the members of the founding are those of the file: nodes 1, 2, 3"]
        );
        assert!(!now.may_change(&config()));
    }

    #[test]
    fn whom_the_file_lacks_and_whom_the_log_lacks_are_told_with_the_mend() {
        let list = [member(1, true), member(2, true), member(4, true)];
        let mut removed = by(3, 0, &[member(1, true), member(2, true), member(3, true)]);
        removed.membership = Membership::Removed;
        let runs = view(vec![Ok(by(1, 7, &list)), Ok(by(2, 7, &list)), Ok(removed), Ok(by(4, 7, &list))]);
        let lines = said(&runs, &runs);
        assert!(lines[0].starts_with("finding: node 3 is no member any more, by entry 7"), "{lines:?}");
        assert!(lines[0].contains("; mend: stop it (its section in lab.toml stays"), "{lines:?}");
        assert_eq!(
            lines[1],
            "note: node 4 is a member, and lab.toml does not name it; put it into the file of every machine at the next \
             occasion: a section [[node]] with id = 4, public = \"127.0.0.1:8004\", cluster = \"127.0.0.1:9004\", \
             founder = false"
        );
        assert_eq!(lines.len(), 2, "who was removed is not behind: {lines:?}");
        let gone = Err("connection refused".to_owned());
        let stopped = view(vec![Ok(by(1, 7, &list)), Ok(by(2, 7, &list)), gone, Ok(by(4, 7, &list))]);
        assert!(said(&stopped, &stopped)[0].starts_with("note: node 3 is no member any more"));
    }

    #[test]
    fn a_learner_is_a_finding_only_if_it_stands_still() {
        let list = [member(1, true), member(2, true), member(3, true), member(4, false)];
        let with = |last_index: Index| {
            let mut learner = by(4, 9, &list);
            (learner.membership, learner.last_index) = (Membership::Learner, last_index);
            let founders = (1..=3).map(|id| Ok(by(id, 9, &list)));
            view(founders.chain([Ok(learner)]).collect())
        };
        let line = |before: &View, now: &View| said(before, now).pop().expect("a line");
        assert!(with(5).may_change(&config()), "a second look tells");
        assert!(line(&with(5), &with(5)).starts_with("finding: node 4 is a learner and does not catch up"));
        assert!(line(&with(5), &with(6)).starts_with("note: node 4 is a learner: its log ends at entry 6"));
        assert!(line(&with(9), &with(9)).starts_with("note: "), "it has caught up");
        let founders = (1..=3).map(|id| Ok(by(id, 9, &list)));
        let silent = view(founders.chain([Err("no answer".to_owned())]).collect());
        assert!(line(&silent, &silent).starts_with("finding: node 4 is a learner and does not answer"));
    }

    #[test]
    fn a_list_that_lags_is_a_finding_only_if_it_stays_so() {
        // Entry 8 removes node 4.
        let four = [1, 2, 3, 4].map(|id| member(id, true));
        let three = &four[..3];
        let of = |indexes: [Index; 3]| {
            let list = |index| if index < 8 { &four[..] } else { three };
            view((1..).zip(indexes).map(|(id, index)| Ok(by(id, index, list(index)))).collect())
        };
        let behind = of([8, 8, 5]);
        assert!(behind.may_change(&config()));
        assert_eq!(
            said(&behind, &behind),
            ["finding: node 3 goes by older members (entry 5: 1, 2, 3, 4) than node 2 (entry 8: 1, 2, 3); mend: node 3 does \
              not get the log: see its log, and the network between the two"
                .to_owned()]
        );
        assert!(said(&behind, &of([8, 8, 8]))[0].starts_with("ok: "), "it was under way");
        assert!(said(&of([5, 5, 5]), &of([8, 8, 5]))[0].starts_with("ok: "), "a change since the first look");
        assert!(said(&of([8, 8, 3]), &behind)[0].starts_with("ok: "), "it comes nearer");

        let mut other = of([8, 8, 8]);
        other.file[0].status.as_mut().expect("it answers").members.pop();
        assert!(said(&other, &other)[0].starts_with("finding: DIFFERENT MEMBERS BY ONE ENTRY"));
        // Entry 12 is not committed: the status has the commit index 9.
        let waits = view((1..=3).map(|id| Ok(by(id, 12, three))).collect());
        assert!(
            said(&waits, &waits)[0]
                .starts_with("finding: the change of members of entry 12 is not committed")
        );
    }

    #[test]
    fn a_node_of_another_cluster_names_no_members() {
        let foreign = Status { cluster: "other".into(), ..by(1, 7, &[member(9, true)]) };
        let now = view(vec![Ok(foreign), Err("no answer".into()), Err("no answer".into())]);
        assert_eq!(said(&now, &now), [""; 0]);
        assert_eq!(now.members(&config()).len(), 3, "the nodes of the file");
    }
}
