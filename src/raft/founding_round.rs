//! What a node without memory has heard in its round of questions. `joining.rs` asks them, and says what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::{Founders, NodeId, RpcId};

/// The round of questions of a node that may help to found the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct FoundingRound {
    /// Who has not answered yet, by the question.
    pub(super) asked: BTreeMap<NodeId, RpcId>,
    /// Who is joining and fresh.
    pub(super) joining: Founders,
    /// Who counts and is fresh, and does not know this node as a founder.
    pub(super) counting: Founders,
    /// Who has lived.
    pub(super) lived: BTreeSet<NodeId>,
    /// Who refused the question: it has another founding.
    pub(super) refused: BTreeSet<NodeId>,
}

impl FoundingRound {
    /// See `fingerprint.rs`.
    pub(super) fn fingerprint(&self, rpc_name: &dyn Fn(RpcId) -> Option<u64>, hasher: &mut impl Hasher) {
        for (peer, rpc) in &self.asked {
            (peer, rpc_name(*rpc)).hash(hasher);
        }
        (&self.joining, &self.counting, &self.lived, &self.refused).hash(hasher);
    }
}
