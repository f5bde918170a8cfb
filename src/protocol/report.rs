//! The answers to a report. The report itself is [`IncomingReport`]: `balancer` owns it, since it is
//! replicated.

use serde::{Deserialize, Serialize};

pub use crate::balancer::IncomingReport;
use crate::balancer::Stamp;
use crate::raft::{Index, NodeId, Term};

/// The answers of a node to a valid report. All other answers have another status and one line of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ReportAnswer {
    /// Status 200: the report is committed.
    Committed {
        /// Its index in the log.
        committed: Index,
        /// The term of that entry.
        term: Term,
        /// The index of the node's list of members; left out for that of the founding. A daemon asks for a list that it does not know.
        #[serde(default, skip_serializing_if = "is_founding")]
        members: Index,
    },
    /// Status 200: the report changed nothing, since it is not newer than a committed one of the same server.
    Stale {
        /// The index of the newest committed report of the server.
        committed: Index,
        /// The term of that entry.
        term: Term,
        /// Always true. A program tells this answer from the one above by its keys; this key is for a person.
        stale: bool,
        /// The epoch of that report. A report above this epoch and sequence is newer.
        epoch: u64,
        /// The sequence of that report.
        sequence: u64,
        /// As above.
        #[serde(default, skip_serializing_if = "is_founding")]
        members: Index,
    },
    /// Status 202: the node does not lead. It has noted that the server reported.
    NotLeader {
        /// The leader's id.
        leader: NodeId,
        /// As above.
        #[serde(default, skip_serializing_if = "is_founding")]
        members: Index,
    },
}

/// serde hands a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_founding(members: &Index) -> bool {
    *members == 0
}

impl ReportAnswer {
    /// The answer to a report that is not newer than `newest`, which is committed at `committed` in `term`.
    pub fn stale(committed: Index, term: Term, newest: Stamp, members: Index) -> Self {
        Self::Stale { committed, term, stale: true, epoch: newest.epoch, sequence: newest.sequence, members }
    }

    /// The index of the node's list of members.
    pub fn members(&self) -> Index {
        match self {
            Self::Committed { members, .. }
            | Self::Stale { members, .. }
            | Self::NotLeader { members, .. } => *members,
        }
    }

    /// The status of the HTTP answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Committed { .. } | Self::Stale { .. } => 200,
            Self::NotLeader { .. } => 202,
        }
    }

    /// Reads an answer; `None` if it is not one of these.
    pub fn parse(status: u16, body: &[u8]) -> Option<Self> {
        let answer: Self = serde_json::from_slice(body).ok()?;
        (answer.status() == status).then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::to_json;
    use super::*;

    #[test]
    fn each_answer_is_read_as_what_was_said() {
        let committed = ReportAnswer::Committed { committed: 5, term: 2, members: 0 };
        let stale = ReportAnswer::stale(5, 2, Stamp { epoch: 9, sequence: 7 }, 0);
        for (answer, json) in [
            (committed, r#"{"committed":5,"term":2}"#),
            (stale, r#"{"committed":5,"term":2,"stale":true,"epoch":9,"sequence":7}"#),
            (ReportAnswer::NotLeader { leader: 3, members: 0 }, r#"{"leader":3}"#),
        ] {
            assert_eq!(String::from_utf8(to_json(&answer)).expect("JSON is UTF-8"), json);
            assert_eq!(ReportAnswer::parse(answer.status(), json.as_bytes()), Some(answer));
        }
    }

    #[test]
    fn nothing_else_is_taken_for_an_answer() {
        for (status, body) in [
            (200, "{}"),
            (200, "hello"),
            (200, r#"{"committed":5,"term":2,"stale":true}"#),
            (200, r#"{"committed":5}"#),
            (200, r#"{"leader":3}"#),
            (202, r#"{"committed":5,"term":2}"#),
            (202, r#"{"leader":null}"#),
            (503, r#"{"leader":3}"#),
        ] {
            assert_eq!(ReportAnswer::parse(status, body.as_bytes()), None, "{status} {body}");
        }
    }
}
