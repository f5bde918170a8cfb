//! Waiting until what was started is ready to be measured.

use std::time::{Duration, Instant};

use serde_json::Value;

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

/// Waits until every node shows a report of every server that was measured after now alone.
///
/// # Errors
/// When that does not come true.
pub fn await_fresh_reports(cluster: &Cluster) -> Fallible {
    // The next report of a server also tells of the time before now. The one after it does not.
    for _ in 0..2 {
        let before = stamps(cluster)?;
        look_until("every server has reported again", || {
            Ok(stamps(cluster)?.iter().zip(&before).all(|(stamp, before)| stamp != before))
        })?;
    }
    Ok(())
}

/// Epoch and sequence of every server's report, as every node shows it.
fn stamps(cluster: &Cluster) -> Fallible<Vec<[Value; 2]>> {
    let mut stamps = Vec::new();
    for id in cluster.ids() {
        let status = cluster.status(id)?;
        let servers = status["servers"].as_array().map_or(&[][..], Vec::as_slice);
        stamps.extend(servers.iter().map(|server| ["epoch", "sequence"].map(|key| server[key].clone())));
    }
    Ok(stamps)
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
