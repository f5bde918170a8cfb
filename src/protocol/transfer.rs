//! The operator's request to hand leadership over, and the leader's answer.

use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

/// The body of a transfer request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// The next leader. Without it, the leader chooses the node whose log is furthest along.
    #[serde(default)]
    pub to: Option<NodeId>,
}

impl TransferRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is no JSON object, or has other keys.
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        // First into a map: serde alone would also accept a list, as the fields in their order.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        serde_json::from_value(object.into())
    }
}

/// Status 202: the leader tries it. `GET /status` shows when it is done. (A node that does not lead answers
/// 409 with [`KnownLeader`](super::KnownLeader).)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferBegun {
    /// The node that leads.
    pub from: NodeId,
    /// The next leader, if the request named one.
    pub to: Option<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_an_object_with_one_key_or_none() {
        assert_eq!(TransferRequest::parse(b"{}").expect("a wish"), TransferRequest { to: None });
        assert_eq!(TransferRequest::parse(b"{\"to\":4}").expect("a wish"), TransferRequest { to: Some(4) });
        for body in ["", "[4]", "[]", "4", "{\"to\":\"4\"}", "{\"too\":4}", "{\"to\":4,\"x\":1}"] {
            assert!(TransferRequest::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
