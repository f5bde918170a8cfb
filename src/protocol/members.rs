//! The members of the cluster: the list that every node tells, and the operator's request to change it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::raft::{Index, MemberChange, NodeId, Term};

/// One member, as a node goes by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: NodeId,
    /// Where nodes and daemons reach it.
    pub cluster: SocketAddr,
    /// Where clients reach it.
    pub public: SocketAddr,
    /// Whether it votes and counts; a learner does not yet.
    pub voter: bool,
}

/// The answer to a question for the members, which has an empty JSON object as its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// The index of the list in the log: a newer list has a higher one. 0 is the founding.
    pub index: Index,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
}

/// Status 200: the change is committed. (A node that does not lead answers 409 with
/// [`KnownLeader`](super::KnownLeader); other answers have one line of text.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembersChanged {
    /// The index of the new list.
    pub committed: Index,
    /// Its term.
    pub term: Term,
}

/// Reads the body of a request for a change: `{"add":{"id":4,"cluster":"…","public":"…"}}` or `{"remove":{"id":4}}`.
///
/// # Errors
/// When it is none.
pub fn parse_member_change(body: &[u8]) -> Result<MemberChange, serde_json::Error> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let add = br#"{"add":{"id":4,"cluster":"10.0.0.4:9000","public":"10.0.0.4:8000"}}"#;
        let read = parse_member_change(add).expect("a change");
        let (cluster, public) = ("10.0.0.4:9000".to_owned(), "10.0.0.4:8000".to_owned());
        assert_eq!(read, MemberChange::Add { id: 4, cluster, public });
        let remove = parse_member_change(br#"{"remove":{"id":4}}"#).expect("a change");
        assert_eq!(remove, MemberChange::Remove { id: 4 });
        for body in ["", "{}", r#"{"remove":4}"#, r#"{"add":{"id":4}}"#, r#"{"remove":{"id":4,"x":1}}"#] {
            assert!(parse_member_change(body.as_bytes()).is_err(), "{body}");
        }
    }
}
