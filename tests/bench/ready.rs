//! Waiting until what was started is ready to be measured.

use std::time::{Duration, Instant};

use crate::Fallible;
use crate::members::Cluster;
use crate::wire::PATIENCE;

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until every node knows so many servers, all alive.
///
/// # Errors
/// When that does not come true.
pub fn await_servers(cluster: &Cluster, servers: usize) -> Fallible {
    look_until(&format!("every node knows {servers} living servers"), || {
        for id in cluster.ids() {
            let status = cluster.status(id)?;
            let known = status["servers"].as_array().map_or(&[][..], Vec::as_slice);
            if known.iter().filter(|server| server["alive"] == true).count() != servers {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Looks until the condition holds.
///
/// # Errors
/// When it does not hold in time, or cannot be looked at.
pub fn look_until(what: &str, mut condition: impl FnMut() -> Fallible<bool>) -> Fallible {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() >= deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
