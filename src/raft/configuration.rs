//! The lists of members that a node may have to go by, and how a list stands in the log. `members.rs` says which one counts when,
//! and changes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, Index, NodeId};

/// The most members of a cluster: as many as cluster.toml may name.
pub const MEMBERS_MAX: usize = 31;

/// How the command of a new list begins.
const COMMAND_PREFIX: &str = r#"{"members":"#;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where the other nodes and the daemons reach it. Opaque to Raft.
    pub cluster: String,
    /// Where clients reach it. Opaque to Raft.
    pub public: String,
    /// Whether it votes and counts. A member that does not is a learner.
    pub voter: bool,
}

/// All members, sorted by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Members(Vec<Member>);

/// The command of an entry that carries a new list: `{"members":[{"id":1,…},…]}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersCommand {
    members: Members,
}

impl Members {
    /// Voters with these ids, at no addresses: for tests, and for who knows the addresses otherwise.
    pub fn voters_of(ids: impl IntoIterator<Item = NodeId>) -> Self {
        ids.into_iter()
            .map(|id| Member { id, cluster: String::new(), public: String::new(), voter: true })
            .collect()
    }

    /// The members, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// How many there are, learners included.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The member with this id.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.0.iter().find(|member| member.id == id)
    }

    /// Whether this node is a member.
    pub fn contains(&self, id: NodeId) -> bool {
        self.get(id).is_some()
    }

    /// Whether this node is a member that votes and counts.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(|member| member.voter)
    }

    /// Who votes and counts.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().filter(|member| member.voter).map(|member| member.id)
    }

    /// More than half of the voters, the dead included.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The list with this member, in place of the one with its id, if there is one.
    pub(super) fn with(&self, member: Member) -> Self {
        let others = self.0.iter().filter(|other| other.id != member.id).cloned();
        others.chain([member.clone()]).collect()
    }

    /// The list without this member.
    pub(super) fn without(&self, id: NodeId) -> Self {
        self.0.iter().filter(|other| other.id != id).cloned().collect()
    }

    /// The command that puts the list into the log.
    pub fn to_command(&self) -> Command {
        let command = Command::from_value(&MembersCommand { members: self.clone() });
        command.expect("numbers and strings always have a JSON form")
    }

    /// The list in a command of the log; `None` if it is another command. Nearly all are, so it looks at the beginning first.
    pub fn of_command(command: &Command) -> Option<Self> {
        if !command.as_json().starts_with(COMMAND_PREFIX) {
            return None;
        }
        let MembersCommand { members } = serde_json::from_str(command.as_json()).ok()?;
        members.is_sound().then_some(members)
    }

    /// Whether a leader can have made this list.
    pub(super) fn is_sound(&self) -> bool {
        self.0.is_sorted_by(|a, b| a.id < b.id) && self.voters().next().is_some()
    }
}

impl FromIterator<Member> for Members {
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Self {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort_by_key(|member| member.id);
        Self(members)
    }
}

/// In words: `1, 2, 3, 4 (learner)`.
impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |member: &Member| match member.voter {
            true => member.id.to_string(),
            false => format!("{} (learner)", member.id),
        };
        f.write_str(&self.0.iter().map(word).collect::<Vec<_>>().join(", "))
    }
}

/// A list, and where it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The index of its entry; 0 for the founding.
    pub index: Index,
    /// The list.
    pub members: Members,
}

impl Configuration {
    /// Whether a snapshot of the state as of this entry can carry it: a leader can have made the list, at or before that entry.
    pub fn is_possible_at(&self, last_index: Index) -> bool {
        self.index <= last_index && self.members.is_sound()
    }
}

/// All lists that a node may still have to go by: the last one that its snapshot covers, and those of the entries after it.
#[derive(Clone, Debug)]
pub(super) struct Configurations {
    founding: Members,
    base: Configuration,
    later: Vec<Configuration>,
}

impl Configurations {
    /// As of a snapshot; without one, or if it names no list, as of the founding.
    pub(super) fn new(founding: Members, snapshot: Option<Configuration>) -> Self {
        let base = snapshot.unwrap_or_else(|| Configuration { index: 0, members: founding.clone() });
        Self { founding, base, later: Vec::new() }
    }

    /// What the node goes by.
    pub(super) fn latest(&self) -> &Configuration {
        self.later.last().unwrap_or(&self.base)
    }

    /// The one before.
    pub(super) fn former(&self) -> Option<&Configuration> {
        let count = self.later.len();
        match count {
            0 => None,
            1 => Some(&self.base),
            _ => self.later.get(count - 2),
        }
    }

    /// The one as of an index, for a snapshot; `None` for the founding.
    fn as_of(&self, index: Index) -> Option<Configuration> {
        let of_log = self.later.iter().rfind(|configuration| configuration.index <= index);
        Some(of_log.unwrap_or(&self.base)).filter(|configuration| configuration.index > 0).cloned()
    }

    /// An entry came into the log. Tells whether it is a list.
    pub(super) fn appended(&mut self, index: Index, command: &Command) -> bool {
        let Some(members) = Members::of_command(command) else { return false };
        assert!(index > self.latest().index, "lists come in the order of the log");
        self.later.push(Configuration { index, members });
        true
    }

    /// The entries from `from` on are gone. Tells whether a list went with them.
    pub(super) fn truncated(&mut self, from: Index) -> bool {
        let before = self.later.len();
        self.later.retain(|configuration| configuration.index < from);
        self.later.len() < before
    }

    /// A snapshot covers everything up to `index`; returns its list.
    pub(super) fn compacted(&mut self, index: Index) -> Option<Configuration> {
        let list = self.as_of(index);
        self.restored(index, list.clone());
        list
    }

    /// A snapshot up to `index` took the place of what was before it. What is after it stays.
    pub(super) fn restored(&mut self, index: Index, list: Option<Configuration>) {
        self.base = list.unwrap_or_else(|| Configuration { index: 0, members: self.founding.clone() });
        self.later.retain(|configuration| configuration.index > index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_stands_in_the_log_as_one_command() {
        let members = Members::voters_of([2, 1]).with(Member {
            id: 3,
            cluster: "10.0.0.3:9000".into(),
            public: "10.0.0.3:8000".into(),
            voter: false,
        });
        let command = members.to_command();
        assert!(command.as_json().starts_with(r#"{"members":[{"id":1,"#), "{command:?}");
        assert_eq!(Members::of_command(&command), Some(members.clone()));
        assert_eq!(members.to_string(), "1, 2, 3 (learner)");
        assert_eq!((members.majority(), members.count()), (2, 3));
        for other in [r#"{"members":[]}"#, r#"{"members":7}"#, "null", r#"{"report":{}}"#] {
            let command = Command::from_json(other.to_owned()).expect("JSON");
            assert_eq!(Members::of_command(&command), None, "{other}");
        }
    }

    #[test]
    fn the_newest_list_in_the_log_counts_until_it_is_truncated() {
        let list = |ids: &[NodeId]| Members::voters_of(ids.iter().copied());
        let mut lists = Configurations::new(list(&[1, 2, 3]), None);
        assert!(!lists.appended(2, &Command::noop()));
        assert!(lists.appended(5, &list(&[1, 2, 3, 4]).to_command()));
        assert!(lists.appended(9, &list(&[1, 2, 4]).to_command()));
        assert_eq!((lists.latest().index, lists.former().map(|former| former.index)), (9, Some(5)));
        assert!(lists.truncated(7));
        assert_eq!((lists.latest().index, lists.former().map(|former| former.index)), (5, Some(0)));
        assert_eq!(lists.as_of(4), None);
        assert_eq!(lists.compacted(6).map(|list| list.index), Some(5));
        assert!(!lists.truncated(7), "what a snapshot covers stays");
        assert_eq!(lists.latest().members, list(&[1, 2, 3, 4]));
        lists.restored(20, Some(Configuration { index: 12, members: list(&[4]) }));
        assert_eq!(lists.latest().index, 12);
    }
}
