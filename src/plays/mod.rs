//! The plays: recordings of instructive schedules on the real Raft core, step by step, each step with what it means.
//!
//! `rakit play` shows them on a terminal (`operator/play.rs`), the page in a browser (`node/page.rs` serves them,
//! `node/page/play.js` draws them). The states and lines are made by the tests from the core itself, by the scripts in
//! `tests/raft/plays/`; only the sentences there are written by hand. `tests/raft/plays.rs` fails if the core does anything
//! else than recorded, and has the command that records anew.

use serde::{Deserialize, Serialize};

use crate::raft::{Index, NodeId, Picture, RoleName, Term};

/// Every play: its name, which is the name of its files, and the recording. In the order in which one learns from them.
pub const PLAYS: [(&str, &str); 10] = [
    ("one-entry", include_str!("one-entry.json")),
    ("election", include_str!("election.json")),
    ("split-vote", include_str!("split-vote.json")),
    ("pre-vote", include_str!("pre-vote.json")),
    ("lost-reply", include_str!("lost-reply.json")),
    ("old-leader", include_str!("old-leader.json")),
    ("figure-7", include_str!("figure-7.json")),
    ("figure-8", include_str!("figure-8.json")),
    ("snapshot", include_str!("snapshot.json")),
    ("no-memory", include_str!("no-memory.json")),
];

/// A recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Play {
    /// What it is about.
    pub title: Sentence,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// A text in both languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentence {
    /// English.
    pub en: String,
    /// Bahasa Indonesia.
    pub id: String,
}

/// What has happened since the step before, and what is so now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What it means.
    pub says: Sentence,
    /// Where one reads about it: a section of the Raft paper, or `thesis` and a section of Ongaro's thesis.
    pub section: String,
    /// What the core noticed, and the messages: `1→2 RequestVote …` when one is sent, `✗ 1→2 …` when it is lost.
    pub lines: Vec<String>,
    /// The nodes, by id.
    pub nodes: Vec<NodeThen>,
    /// Cut cables: what the first node sends does not arrive at the second.
    pub cut: Vec<(NodeId, NodeId)>,
}

/// A node at the end of a step. Of one that is down, what is on its disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeThen {
    /// Which one.
    pub node: NodeId,
    /// Its process runs.
    pub up: bool,
    /// Its role; a node that is down has none.
    pub role: Option<RoleName>,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<NodeId>,
    /// Whom it follows.
    pub leader: Option<NodeId>,
    /// It began without memory, and has no vote yet.
    pub joining: bool,
    /// Up to where its log is committed, as it knows.
    pub commit_index: Index,
    /// The last index of its log.
    pub last_index: Index,
    /// Up to where its log has become a snapshot; 0 without one.
    pub snapshot_index: Index,
    /// Votes, time-out and log.
    pub consensus: Picture,
}

impl Play {
    /// The play of this name.
    pub fn of(name: &str) -> Option<Play> {
        let (_, recording) = PLAYS.iter().find(|(of_play, _)| *of_play == name)?;
        Some(serde_json::from_str(recording).expect("the tests have written it with this type"))
    }

    /// As it is kept in its file: a line for each step.
    pub fn to_text(&self) -> String {
        let line = |step| serde_json::to_string(step).expect("it has only keys that are texts");
        let steps: Vec<String> = self.steps.iter().map(line).collect();
        let title = serde_json::to_string(&self.title).expect("two texts are JSON");
        format!("{{\"title\":{title},\"steps\":[\n{}\n]}}\n", steps.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_can_be_read_and_is_kept_as_it_would_be_written() {
        for (name, recording) in PLAYS {
            let play = Play::of(name).expect("it is in the list");
            assert!(play.steps.len() > 1, "{name}");
            assert_eq!(play.to_text(), recording, "{name}");
        }
        assert_eq!(Play::of("none"), None);
    }
}
