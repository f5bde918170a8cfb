//! The founding: the name of a cluster and the ids of the nodes that founded it. It is what tells one cluster from another.
//!
//! All nodes of a cluster must count majorities over the same members. If one node believed in five members and another
//! in three, each of them could commit without the other. So every node writes the founding as the first entry of its
//! log, before it receives anything: index 1, term 1, the same on all of them. The founding also stands at the head of
//! each file (`storage`) and in each envelope (`signing`). A node never works with one of another founding.
//!
//! The addresses are no part of it: an address may change, and cluster.toml says where the nodes are found.
//! The founding stays the same when members are added or removed later (thesis, chapter 4): such a change is an entry
//! further along in the log, and the founding is still the first one.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, Entry, HardState, Index, NodeId, Record, Term};

/// Where the founding stands in the log.
pub const FOUNDING_INDEX: Index = 1;

/// The term of the founding. It has no leader, and nobody votes in it: a candidate's term is at least one higher.
pub const FOUNDING_TERM: Term = 1;

/// The name of a cluster, and its first members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// `[cluster] name` of cluster.toml.
    pub cluster: String,
    /// The ids of its `[[node]]`.
    pub members: BTreeSet<NodeId>,
}

/// The command of the first entry: `{"founding":{"cluster":"lab","members":[1,2,3]}}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FoundingCommand {
    founding: Founding,
}

impl Founding {
    /// The founding of a cluster with this name and these members.
    pub fn new(cluster: &str, members: impl IntoIterator<Item = NodeId>) -> Self {
        Self { cluster: cluster.to_owned(), members: members.into_iter().collect() }
    }

    /// The first entry of the log of each member.
    pub fn entry(&self) -> Entry {
        let command = Command::from_value(&FoundingCommand { founding: self.clone() });
        let command = command.expect("a name and numbers always have a JSON form");
        Entry { index: FOUNDING_INDEX, term: FOUNDING_TERM, command }
    }

    /// How the disk of each member begins: in the founding's term, joining, with the first entry.
    pub fn records(&self) -> Vec<Record> {
        let hard_state = HardState { term: FOUNDING_TERM, voted_for: None, joining: true };
        vec![Record::HardState(hard_state), Record::Entry(self.entry())]
    }

    /// The founding in a command of the log; `None` if it is another command.
    pub fn of_command(command: &Command) -> Option<Self> {
        serde_json::from_str(command.as_json()).ok().map(|FoundingCommand { founding }| founding)
    }
}

/// In words: `lab: 1, 2, 3`.
impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = self.members.iter().map(NodeId::to_string).collect();
        write!(f, "{}: {}", self.cluster, members.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_says_who_founded_the_cluster() {
        let founding = Founding::new("lab", [3, 1, 2]);
        let entry = founding.entry();
        assert_eq!((entry.index, entry.term), (1, 1));
        assert_eq!(entry.command.as_json(), r#"{"founding":{"cluster":"lab","members":[1,2,3]}}"#);
        assert_eq!(Founding::of_command(&entry.command), Some(founding.clone()));
        assert_eq!(Founding::of_command(&Command::noop()), None);
        assert_eq!(founding.to_string(), "lab: 1, 2, 3");
    }
}
