//! What `rakit check` finds at the members: whether each answers as the one that the file or the log names, whether its cluster
//! address takes requests of this cluster (`keys.rs`), whether all agree, and how far their clocks are apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rakit::config::{Config, Node};
use rakit::protocol::{PROTOCOL_VERSION, Status, path};
use rakit::signing::Secret;
use time::{Date, Month, PrimitiveDateTime, Time};

use super::super::asking::{ANSWER_TIMEOUT, client};
use super::super::comparison::{Asked, differences};
use super::{Remark, keys};

/// Clocks that differ by more are told. `Date` has whole seconds.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(3);
/// The longest answer that is read, in bytes; it is one line.
const ANSWER_BYTES_MAX: usize = 4_096;

/// Looks at all members.
pub fn look(config: &Config, secret: Option<&Secret>, members: &[(Node, Asked)]) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for (node, answer) in members {
        match &answer.status {
            Ok(status) => {
                let wrong = identity(config, node, status);
                let well = wrong.is_empty();
                remarks.extend(wrong);
                let refused = match secret {
                    None => cluster_port(node).into_iter().collect(),
                    Some(secret) => keys::look(config, secret, node),
                };
                if well && refused.is_empty() {
                    remarks.push(Remark::Fine(format!(
                        "node {} answers at {}: {}, term {}, last index {}, version {}",
                        node.id, node.public, status.role, status.term, status.last_index, status.version
                    )));
                }
                remarks.extend(refused);
                remarks.extend(clock(node));
            }
            Err(reason) => remarks.push(Remark::finding(
                format!("node {} does not answer at {}: {reason}", node.id, node.public),
                "start it; if it runs, see its log and the firewall between here and there",
            )),
        }
    }
    let mend = "if it stays so, the logs of these nodes say why (docs/log-lines.md)";
    let answered: Vec<Asked> =
        members.iter().map(|(_, answer)| answer.clone()).filter(|answer| answer.status.is_ok()).collect();
    remarks.extend(differences(&answered).into_iter().map(|what| Remark::finding(what, mend)));
    remarks
}

/// Whether it is the node that the file has at this address.
fn identity(config: &Config, node: &Node, status: &Status) -> Vec<Remark> {
    let mut wrong = Vec::new();
    let address = node.public;
    if status.cluster != config.cluster_name || status.node != node.id {
        wrong.push(Remark::finding(
            format!(
                "at {address}, node {} of cluster {} answers, not node {}",
                status.node, status.cluster, node.id
            ),
            "the same cluster.toml on all machines, and its own --id for each node",
        ));
    } else if status.policy != config.policy.name() {
        wrong.push(Remark::finding(
            format!(
                "node {} has the policy {}, and this file {}",
                node.id,
                status.policy,
                config.policy.name()
            ),
            "the same cluster.toml on all machines, then restart that node",
        ));
    }
    if status.protocol != PROTOCOL_VERSION {
        wrong.push(Remark::finding(
            format!(
                "node {} has protocol version {}, and this program {PROTOCOL_VERSION}",
                node.id, status.protocol
            ),
            "the same build of rakit on all machines",
        ));
    } else if status.version != env!("CARGO_PKG_VERSION") {
        wrong.push(Remark::Note(format!(
            "node {} is of version {}; the two work together",
            node.id, status.version
        )));
    }
    wrong
}

/// Whether the cluster address can be reached, where nothing is signed.
fn cluster_port(node: &Node) -> Option<Remark> {
    let error = std::net::TcpStream::connect_timeout(&node.cluster, ANSWER_TIMEOUT).err()?;
    Some(Remark::finding(
        format!("node {} does not work with this machine at {}: {error}", node.id, node.cluster),
        "open its cluster port in the firewall",
    ))
}

/// Clocks decide nothing here, but the lines of several logs are read in the order of their times.
fn clock(node: &Node) -> Option<Remark> {
    let before = SystemTime::now();
    let answer = client().get(node.public, path::HEALTHZ, &[], ANSWER_BYTES_MAX).ok()?;
    let here = before + before.elapsed().ok()? / 2;
    let there = seconds_of(answer.header("Date")?)?;
    let here = i64::try_from(here.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let apart = there - here;
    (apart.unsigned_abs() > CLOCK_DIFFERENCE_MAX.as_secs()).then(|| {
        Remark::Note(format!(
            "the clock of node {} is {} s {} this machine's; the cluster does not mind, but logs are hard to compare \
             (timedatectl set-ntp true)",
            node.id,
            apart.unsigned_abs(),
            if apart > 0 { "ahead of" } else { "behind" }
        ))
    })
}

/// The seconds since 1970 of a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn seconds_of(date: &str) -> Option<i64> {
    let (_, date) = date.split_once(", ")?;
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let [day, month, year, hour, minute, second, "GMT"] = words[..] else { return None };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    let time = Time::from_hms(hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::super::super::comparison::tests::status;
    use super::*;
    use std::path::Path;

    fn config() -> Config {
        let text = "[cluster]\nname = \"lab\"\n[[node]]\nid = 1\npublic = \"127.0.0.1:8001\"\ncluster = \"127.0.0.1:9001\"\n";
        Config::parse(text, Path::new("lab.toml")).expect("a good file")
    }

    #[test]
    fn a_node_that_is_not_the_one_in_the_file_is_told() {
        let (config, mut status) = (config(), status(1));
        status.version = env!("CARGO_PKG_VERSION").to_string();
        let said = |status: &Status| -> Vec<String> {
            identity(&config, &config.nodes[0], status).iter().map(Remark::line).collect()
        };
        assert_eq!(said(&status), [""; 0]);
        let other = Status { node: 3, cluster: "other".into(), ..status.clone() };
        assert!(
            said(&other)[0].contains("node 3 of cluster other answers, not node 1"),
            "{:?}",
            said(&other)
        );
        let other = Status { policy: "lowest-cpu".into(), ..status.clone() };
        assert!(said(&other)[0].contains("has the policy lowest-cpu, and this file projected"));
        let other = Status { protocol: PROTOCOL_VERSION + 1, ..status.clone() };
        assert!(said(&other)[0].contains("mend: the same build"));
        let other = Status { version: "9.9.9".into(), ..status };
        assert!(said(&other)[0].starts_with("note: "), "versions that work together are no finding");
    }

    #[test]
    fn dates_of_http_are_understood() {
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for bad in ["", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, x"] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }
}
