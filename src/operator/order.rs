//! What a person may do to a running local cluster: the orders of `rakit ctl`, and of the buttons of the control room.
//!
//! One type for the command line (clap) and for the way to `rakit up` (JSON), so that both always know the same orders.
//! `ctl.rs` sends them, `control_room.rs` receives them, `steering.rs` carries them out.

use serde::{Deserialize, Serialize};

use super::layout::Part;

/// The most requests per second that `requests` sends: enough to load a local cluster, too few to drown the machine.
pub const REQUESTS_PER_SECOND_MAX: u32 = 1_000;
/// The N of the requests, unless another is given: the greatest that worker.py looks up in its table, so that it costs
/// next to no work.
const N_DEFAULT: u64 = 100_000;
/// The greatest N that the worker takes.
const N_MAX: u64 = 1_000_000_000_000;

/// One order.
#[derive(clap::Subcommand, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order", deny_unknown_fields)]
pub enum Order {
    /// End a process at once (SIGKILL): node-2, server-1/worker, server-1/daemon
    Kill {
        /// The process, as pids.json names it
        name: Part,
    },
    /// Stop a process without ending it (SIGSTOP)
    Pause {
        /// The process, as pids.json names it
        name: Part,
    },
    /// Let a paused process go on (SIGCONT)
    Resume {
        /// The process, as pids.json names it
        name: Part,
    },
    /// Start a process that has ended
    Start {
        /// The process, as pids.json names it
        name: Part,
    },
    /// End a process cleanly (SIGTERM) and start it again
    Restart {
        /// The process, as pids.json names it
        name: Part,
    },
    /// Cut the traffic between two nodes, or between one node and all others
    Cut(Link),
    /// Undo `cut`; with one node alone, `drop` and `fail` as well
    Heal(Link),
    /// Lose messages of one kind on their way to a node, until `heal NODE`
    Drop {
        /// What is lost
        what: Dropped,
        /// node-2, or 2
        #[arg(value_parser = node_number)]
        node: u16,
    },
    /// Lose the votes for a node in the next election that it calls
    Fail {
        /// What fails
        what: Failing,
        /// node-2, or 2
        #[arg(value_parser = node_number)]
        node: u16,
    },
    /// Keep a server busy, as another program on it would: percent of its processors, 0 to end it
    Load {
        /// server-1, or 1
        #[arg(value_parser = server_number)]
        server: u16,
        /// 0 to 100
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Send requests to all nodes in turn, so many per second; 0 to end it
    Requests {
        /// 0 to 1000
        #[arg(value_name = "RATE", value_parser = clap::value_parser!(u32).range(0..=i64::from(REQUESTS_PER_SECOND_MAX)))]
        per_second: u32,
        /// Which prime they ask for
        #[arg(long, value_name = "N", default_value_t = N_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=N_MAX))]
        n: u64,
    },
}

impl Order {
    /// As it stands on the command line after `rakit ctl`.
    pub fn words(&self) -> String {
        let link = |word: &str, Link { node, other, one_way }: &Link| {
            let other = other.map(|other| format!(" {other}")).unwrap_or_default();
            format!("{word} {node}{other}{}", if *one_way { " --one-way" } else { "" })
        };
        match self {
            Order::Kill { name } => format!("kill {}", name.name()),
            Order::Pause { name } => format!("pause {}", name.name()),
            Order::Resume { name } => format!("resume {}", name.name()),
            Order::Start { name } => format!("start {}", name.name()),
            Order::Restart { name } => format!("restart {}", name.name()),
            Order::Cut(cables) => link("cut", cables),
            Order::Heal(cables) => link("heal", cables),
            Order::Drop { what: Dropped::Heartbeats, node } => format!("drop heartbeats {node}"),
            Order::Drop { what: Dropped::Votes, node } => format!("drop votes {node}"),
            Order::Fail { what: Failing::Vote, node } => format!("fail vote {node}"),
            Order::Load { server, percent } => format!("load {server} {percent}"),
            Order::Requests { per_second, n } => format!("requests {per_second} --n {n}"),
        }
    }
}

/// What is lost on its way to a node.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// What leaders send: heartbeats are AppendEntries, so entries are lost, too. Votes arrive
    Heartbeats,
    /// The answers of those whom it asks for votes. Pre-votes and heartbeats arrive
    Votes,
}

/// What fails once.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failing {
    /// The next election that the node calls
    Vote,
}

/// Between whom the traffic is cut.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// node-2, or 2
    #[arg(value_parser = node_number)]
    pub node: u16,
    /// The other end; without it, every other node
    #[arg(value_parser = node_number)]
    pub other: Option<u16>,
    /// Only what the first node sends to the other
    #[arg(long)]
    #[serde(default)]
    pub one_way: bool,
}

fn node_number(text: &str) -> Result<u16, String> {
    number("node-", text)
}

fn server_number(text: &str) -> Result<u16, String> {
    number("server-", text)
}

fn number(prefix: &str, text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix(prefix).unwrap_or(text);
    digits.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("give {prefix}1, or 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        order: Order,
    }

    fn order(line: &str) -> Result<Order, clap::Error> {
        Line::try_parse_from(["ctl"].into_iter().chain(line.split(' '))).map(|line| line.order)
    }

    #[test]
    fn the_promised_lines_are_orders_and_survive_the_way_to_rakit_up() {
        let two_ways = Link { node: 1, other: Some(2), one_way: false };
        for (line, expected) in [
            ("kill node-2", Order::Kill { name: Part::Node(2) }),
            ("pause server-1/worker", Order::Pause { name: Part::Worker(1) }),
            ("resume server-1/daemon", Order::Resume { name: Part::Daemon(1) }),
            ("start node-2", Order::Start { name: Part::Node(2) }),
            ("restart node-2", Order::Restart { name: Part::Node(2) }),
            ("cut node-1 node-2", Order::Cut(two_ways.clone())),
            ("heal 1 2", Order::Heal(two_ways)),
            ("cut 3 --one-way", Order::Cut(Link { node: 3, other: None, one_way: true })),
            ("drop heartbeats node-3", Order::Drop { what: Dropped::Heartbeats, node: 3 }),
            ("drop votes 3", Order::Drop { what: Dropped::Votes, node: 3 }),
            ("fail vote 3", Order::Fail { what: Failing::Vote, node: 3 }),
            ("load server-2 80", Order::Load { server: 2, percent: 80 }),
            ("requests 20", Order::Requests { per_second: 20, n: N_DEFAULT }),
            ("requests 5 --n 1000", Order::Requests { per_second: 5, n: 1000 }),
        ] {
            let parsed = order(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(parsed, expected, "{line}");
            assert_eq!(order(&parsed.words()).expect("words of an order"), parsed);
            let json = serde_json::to_string(&parsed).expect("JSON");
            assert_eq!(serde_json::from_str::<Order>(&json).expect("the same type"), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for line in [
            "kill",
            "kill node",
            "kill server-1",
            "kill node-0",
            "cut",
            "drop 3",
            "fail heartbeats 3",
            "load 1 101",
            "requests -1",
        ] {
            assert!(order(line).is_err(), "{line}");
        }
    }
}
