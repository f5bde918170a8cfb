//! How many connections the two listeners of a node take, so that a flood of them cannot use up what the node itself
//! needs. Asked once, by `wiring.rs`.

use log::warn;

use crate::http::Limits;

/// Descriptors that connections of clients, daemons and peers to this node may not use: log files, data files,
/// listeners, and the connections of this node to its peers (three each).
const DESCRIPTORS_RESERVED: u64 = 64;

/// Each address takes at least so many connections, however few descriptors there are: a cluster of five with a few
/// servers needs about that many.
const CONNECTIONS_MIN: usize = 32;

/// How many connections each address takes, so that clients alone can never use up the descriptors of this process: a
/// node that cannot open the file for its next snapshot must stop, and one that cannot call its peers loses its leader.
///
/// A connection on the public address needs a second descriptor, towards a worker. What this node opens itself (to its
/// peers, and as relays to the leader) is bounded, and far less than a quarter.
pub fn listener_limits(descriptors: u64) -> Limits {
    let default = Limits::default();
    // A quarter for each address, one for the connections to workers, and one for what this node opens itself.
    let share = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 4).unwrap_or(usize::MAX);
    let connections_max = share.clamp(CONNECTIONS_MIN, default.connections_max);
    if connections_max < default.connections_max {
        warn!(
            "each address takes {connections_max} connections at most, since this process may open only {descriptors} \
             descriptors; raise the limit (ulimit -Hn) to {} for {}",
            DESCRIPTORS_RESERVED + 4 * default.connections_max as u64,
            default.connections_max
        );
    }
    Limits { connections_max, ..default }
}
