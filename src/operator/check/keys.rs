//! What `rakit check` finds about the keys: whether each member takes those of this machine, and whether it signs with the same
//! one. So a change of the secret that is half done is seen (docs/operations.md, "Changing the secret").
//!
//! Nothing shows a key, or a digest of one, to strangers. This program signs a request with each of its own keys, and sees which
//! the node takes; who has no key learns nothing by that. Which of two keys comes first at the node is seen by a number that
//! every node publishes: it grows with each request that the second key signed. Keys that this machine does not have cannot be
//! seen from here, nor those of daemons: they answer nobody.

use rakit::config::{Config, Node};
use rakit::protocol::{OPERATOR, Purpose, node_name, path};
use rakit::signing::{REFUSED_STATUS, Recipient, Seal, SealedCallError, Secret};

use super::super::asking::client;
use super::Remark;

/// The number of requests that the second key signed, as the page of metrics names it.
const BY_SECOND_KEY: &str = "rakit_requests_with_second_key_total";
/// The longest page of metrics that is read, in bytes.
const METRICS_BYTES_MAX: usize = 4 << 20;
/// How often a key is tried: others sign, too, and the number may grow by them. A key that is the second makes it grow at each.
const TRIES: usize = 20;

const ROTATION: &str = "docs/operations.md, \"Changing the secret\"";

/// What a node says to a request that one key signed.
enum Said {
    Taken,
    /// It refused who asks: another key, cluster, founding or version.
    Refused(String),
    /// No answer that can be trusted.
    Lost(String),
}

/// Tries each key of this machine at the cluster address of a node. This opens streams, which changes nothing at the node.
pub fn look(config: &Config, secret: &Secret, node: &Node) -> Vec<Remark> {
    let (keys, names) = (secret.each(), secret.names(&config.cluster_name));
    let said: Vec<Said> = keys.iter().map(|key| try_key(config, key, node)).collect();
    let file = config.path.display();
    match &said[..] {
        [Said::Taken] => match comes_first(config, &keys[0], node) {
            Some(false) => vec![Remark::finding(
                format!(
                    "node {} has another key in its first line, and the key {} of this machine in its second",
                    node.id, names[0]
                ),
                format!(
                    "give this machine the same two lines, or end the change of the secret there: {ROTATION}"
                ),
            )],
            _ => Vec::new(),
        },
        [Said::Taken, Said::Taken] => {
            let orders = [comes_first(config, &keys[0], node), comes_first(config, &keys[1], node)];
            match orders {
                [Some(false), Some(true)] => vec![Remark::finding(
                    format!(
                        "node {} has the two keys in the other order: it signs with {}, and this machine with {}",
                        node.id, names[1], names[0]
                    ),
                    format!(
                        "swap the lines on the machines that still have the old order, then SIGHUP: {ROTATION}"
                    ),
                )],
                _ => Vec::new(),
            }
        }
        [Said::Taken, Said::Refused(_)] => vec![Remark::finding(
            format!("node {} does not take the second key of this machine, {}", node.id, names[1]),
            format!(
                "if that key comes, add it as the second line there, then SIGHUP; if it goes, remove it here: {ROTATION}"
            ),
        )],
        [Said::Refused(_), Said::Taken] => vec![Remark::finding(
            format!(
                "node {} does not take the first key of this machine, {}, which signs; it takes the second, {}",
                node.id, names[0], names[1]
            ),
            format!("write the same two lines there, then SIGHUP; until then swap them here: {ROTATION}"),
        )],
        _ => {
            let why = said.into_iter().find_map(|said| match said {
                Said::Taken => None,
                Said::Refused(why) | Said::Lost(why) => Some(why),
            });
            vec![Remark::finding(
                format!(
                    "node {} does not work with this machine at {}: {}",
                    node.id,
                    node.cluster,
                    why.unwrap_or_default()
                ),
                format!(
                    "the same cluster.toml and cluster.key on all machines (here {file}), and its cluster port open in the \
                     firewall"
                ),
            )]
        }
    }
}

/// Opens a stream. With the key for reports, which every machine of the cluster has.
fn try_key(config: &Config, key: &Secret, node: &Node) -> Said {
    let mut seal = match Seal::new(&config.cluster_name, OPERATOR, Some(key)) {
        Ok(seal) => seal.founded(&config.founding()),
        Err(error) => return Said::Lost(format!("no randomness for signing: {error}")),
    };
    let to = Recipient { name: node_name(node.id), address: node.cluster };
    match seal.open_stream(&mut client(), &to, Purpose::Report) {
        Ok(()) => Said::Taken,
        Err(error @ SealedCallError::Refused(..)) => match &error {
            SealedCallError::Refused(_, refusal) if refusal.said == Some(REFUSED_STATUS) => {
                Said::Refused(error.to_string())
            }
            _ => Said::Lost(error.to_string()),
        },
        Err(error) => Said::Lost(error.to_string()),
    }
}

/// Whether this key, which the node takes, is the first of the node; `None` if the node does not say.
fn comes_first(config: &Config, key: &Secret, node: &Node) -> Option<bool> {
    for _ in 0..TRIES {
        let before = by_second_key(node)?;
        if !matches!(try_key(config, key, node), Said::Taken) {
            return None;
        }
        if by_second_key(node)? == before {
            return Some(true);
        }
    }
    Some(false)
}

fn by_second_key(node: &Node) -> Option<u64> {
    let answer = client().get(node.public, path::METRICS, &[], METRICS_BYTES_MAX).ok()?;
    count(&String::from_utf8_lossy(&answer.body))
}

/// The number on a page of metrics.
fn count(page: &str) -> Option<u64> {
    let value = page.lines().find_map(|line| line.strip_prefix(BY_SECOND_KEY)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_on_the_page() {
        let page =
            "# TYPE rakit_requests_with_second_key counter\nrakit_requests_with_second_key_total 7\n# EOF\n";
        assert_eq!(count(page), Some(7));
        assert_eq!(count("rakit_requests_with_second_key_total_of_another 7\n"), None);
    }
}
