//! The two policies by which a node may choose a server. cluster.toml names one (`[balancer] policy`);
//! `choice.rs` applies it.

use std::fmt;

/// How a server is chosen; docs/protocol.md, "Choice of the server".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The lowest agreed CPU load.
    #[default]
    LowestCpu,
    /// The lowest sum of the agreed CPU load and a load for each request that this node has sent since the
    /// report.
    Projected,
}

impl Policy {
    /// Every policy.
    const ALL: [Self; 2] = [Self::LowestCpu, Self::Projected];

    /// Its name in cluster.toml and `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LowestCpu => "lowest-cpu",
            Self::Projected => "projected",
        }
    }

    /// The policy with this name; `None` if there is no such policy.
    pub fn from_name(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == word)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
