//! The replicated commands of the server table, as JSON that a person can read in the log file and in `GET
//! /log`:
//!
//! ```json
//! {"report":{"server":"lab-01","worker":"10.0.0.11:13337","cpu":37.5,"cores":4,"epoch":1795000000000,"sequence":7,"worker_up":true}}
//! {"dead":{"server":"lab-01","epoch":1795000000000,"sequence":7,"silent_ms":5003}}
//! {"order":{"drain":"lab-01"}}
//! ```
//!
//! The leader makes a command from a report, from a verdict of its silence detector, or from an operator's order. Every
//! node reads it in [`ServerTable::apply`](super::ServerTable::apply). The JSON form is exact, also for floating-point
//! numbers: a follower reads the same bits that the leader wrote.

use serde::{Deserialize, Serialize};

use super::name::is_name;
use super::report::{COUNTER_MAX, Report, ReportError, Stamp, told};
use crate::raft::Command;

/// The verdict that a server is dead: the leader had no report for too long. It names the last report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dead {
    /// The server's name.
    pub server: String,
    /// With `sequence`: the newest report that the leader had applied. A newer report cancels the verdict.
    pub epoch: u64,
    /// See `epoch`.
    pub sequence: u64,
    /// How long the leader had no report, in milliseconds of its monotonic clock. Only for the reader of the
    /// log.
    pub silent_ms: u64,
}

impl Dead {
    /// The report that the verdict is about.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, sequence: self.sequence }
    }
}

/// What an operator orders about a server: `rakit servers`. Also the body of the request that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerOrder {
    /// No node shall choose this server any more. It stays in the table, and its reports count.
    Drain(String),
    /// It may be chosen again.
    Undrain(String),
    /// It shall leave the table. Only a dead one does.
    Forget(String),
}

impl ServerOrder {
    /// The server that it is about.
    pub fn server(&self) -> &str {
        match self {
            Self::Drain(server) | Self::Undrain(server) | Self::Forget(server) => server,
        }
    }

    /// Reads an order, and checks the name in it.
    ///
    /// # Errors
    /// One line.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(body).map_err(|error| told(&error))?;
        order.check()
    }

    fn check(self) -> Result<Self, String> {
        let is_fit = is_name(self.server());
        is_fit.then_some(self).ok_or_else(|| "the order names no server".to_owned())
    }
}

/// What an order came to when it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderEffect {
    /// The table is as ordered.
    Done,
    /// It was so already: nothing changed.
    AlreadySo,
    /// There is no such server: nothing changed.
    NoSuchServer,
    /// The server lives, so it is not forgotten: its next report would only bring it back.
    StillAlive,
}

/// One replicated command of the server table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServerCommand {
    /// A daemon reported.
    Report(Report),
    /// A server is dead.
    Dead(Dead),
    /// An operator ordered something.
    Order(ServerOrder),
}

impl ServerCommand {
    /// The form in which Raft carries it.
    pub fn to_command(&self) -> Command {
        Command::from_value(self).expect("a struct of strings and finite numbers always has a JSON form")
    }

    /// Reads a command from the log. The result depends only on the text, so all nodes of one build agree on
    /// it.
    ///
    /// # Errors
    /// One line, when the text is no command of the server table or a value is out of its range.
    pub fn parse(command: &Command) -> Result<Self, String> {
        match serde_json::from_str(command.as_json()).map_err(|error| told(&error))? {
            Self::Report(report) => {
                Ok(Self::Report(report.check().map_err(|error: ReportError| error.to_string())?))
            }
            Self::Dead(dead) => {
                let named = is_name(&dead.server)
                    && (1..=COUNTER_MAX).contains(&dead.epoch)
                    && dead.sequence <= COUNTER_MAX;
                named
                    .then_some(Self::Dead(dead))
                    .ok_or_else(|| "the verdict names no server and report".to_owned())
            }
            Self::Order(order) => Ok(Self::Order(order.check()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::table::tests::report;
    use proptest::prelude::*;

    #[test]
    fn the_words_in_the_log() {
        let command = ServerCommand::Report(report("lab-01", 37.5, 1, 7)).to_command();
        assert_eq!(
            command.as_json(),
            r#"{"report":{"server":"lab-01","worker":"10.0.0.11:13337","cpu":37.5,"cores":4,"epoch":1,"sequence":7,"worker_up":true}}"#
        );
        let dead = Dead { server: "lab-01".into(), epoch: 1, sequence: 7, silent_ms: 5003 };
        assert_eq!(
            ServerCommand::Dead(dead).to_command().as_json(),
            r#"{"dead":{"server":"lab-01","epoch":1,"sequence":7,"silent_ms":5003}}"#
        );
        let order = ServerOrder::parse(br#"{"forget":"lab-01"}"#).expect("an order");
        assert_eq!(ServerCommand::Order(order).to_command().as_json(), r#"{"order":{"forget":"lab-01"}}"#);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for text in [
            "{}",
            "7",
            "\"report\"",
            r#"{"reborn":{}}"#,
            r#"{"order":{}}"#,
            r#"{"order":"drain"}"#,
            r#"{"order":{"drain":""}}"#,
            r#"{"order":{"drain":"a b"}}"#,
            r#"{"order":{"drain":"a","forget":"a"}}"#,
            r#"{"order":{"kill":"a"}}"#,
            r#"{"report":{}}"#,
            r#"{"dead":{"server":"a","epoch":1,"sequence":1}}"#,
            r#"{"dead":{"server":"","epoch":1,"sequence":1,"silent_ms":1}}"#,
            r#"{"dead":{"server":"a","epoch":0,"sequence":1,"silent_ms":1}}"#,
            r#"{"report":{"server":"a","worker":"10.0.0.1:1","cpu":1.0,"cores":0,"epoch":1,"sequence":7,"worker_up":true}}"#,
            r#"{"report":{"server":"a","worker":"10.0.0.1:1","cpu":101.0,"cores":1,"epoch":1,"sequence":7,"worker_up":true}}"#,
        ] {
            let command: Command = serde_json::from_str(text).expect("JSON");
            assert!(ServerCommand::parse(&command).is_err(), "{text}");
        }
    }

    #[test]
    fn the_error_is_one_line_whatever_stands_in_the_text() {
        let text = "{\"a\\r\\nb\":{}}";
        let command: Command = serde_json::from_str(text).expect("JSON");
        for error in [ServerCommand::parse(&command).err(), ServerOrder::parse(text.as_bytes()).err()] {
            let error = error.expect("it is neither a command nor an order");
            assert!(!error.contains(['\r', '\n']) && error.contains("a\\r\\nb"), "{error:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_round_trip_is_exact(cpu in 0.0f64..=100.0, epoch in 1..=COUNTER_MAX, sequence in 0..=COUNTER_MAX, up: bool, ms: u64) {
            let meant = ServerCommand::Report(Report { cpu, worker_up: up, ..report("a", 0.0, epoch, sequence) });
            let read = ServerCommand::parse(&meant.to_command()).expect("our own words");
            prop_assert_eq!(&read, &meant);
            let ServerCommand::Report(read) = read else { panic!("a report stays one") };
            prop_assert_eq!(read.cpu.to_bits(), cpu.to_bits());
            let meant = ServerCommand::Dead(Dead { server: "a".into(), epoch, sequence, silent_ms: ms });
            prop_assert_eq!(ServerCommand::parse(&meant.to_command()), Ok(meant));
        }
    }
}
