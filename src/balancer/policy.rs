//! The two policies by which a node may choose a server. cluster.toml names one (`[balancer] policy`);
//! `choice.rs` applies it.

use std::fmt;

/// How a server is chosen; docs/protocol.md, "Choice of the server".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The lowest agreed CPU load.
    LowestCpu,
    /// The fewest requests in flight per core, from all nodes, with the load that is not ours; the lowest agreed CPU
    /// load when nothing is in flight.
    #[default]
    Projected,
}

impl Policy {
    /// Every policy.
    const ALL: [Self; 2] = [Self::Projected, Self::LowestCpu];

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
