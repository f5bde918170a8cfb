//! `rakit servers`: shows the servers, and orders something about one of them: drain, undrain, forget.
//!
//! An order goes to the leader, becomes an entry of the log, and is answered once it is applied. So it survives every
//! restart, and all nodes follow it alike (docs/operations.md, "Servers by order").

use std::process::ExitCode;

use clap::Subcommand;
use rakit::balancer::{OrderEffect, ServerOrder, is_name};
use rakit::program::{EXIT_OK, LogFlags};
use rakit::protocol::{OrderAnswer, path, to_json};

use super::Failure;
use super::asking::ask_members;
use super::comparison::clean;
use super::leader::{ClusterFlag, Leadership};
use super::line::Line;
use super::screen::say;
use super::table;

/// Flags of `rakit servers`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 if it is as ordered now; 1 if not; 2 on bad usage or configuration.")]
pub struct ServersFlags {
    #[command(subcommand)]
    command: ServersCommand,
}

#[derive(Subcommand, Debug)]
enum ServersCommand {
    /// Show the servers, as the node with the newest table has them
    List {
        #[command(flatten)]
        cluster: ClusterFlag,
    },
    /// Send a server no new requests; those that run end by themselves, and it stays alive
    Drain(Order),
    /// Let a drained server have requests again
    Undrain(Order),
    /// Let a dead server leave the table; a daemon that reports again makes it new
    Forget(Order),
}

#[derive(clap::Args, Debug)]
struct Order {
    /// The server's name, as `rakit servers list` shows it
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    cluster: ClusterFlag,
}

/// Runs `rakit servers`.
///
/// # Errors
/// No node answers, there is no leader, or the table cannot be made as ordered.
pub fn run(flags: &ServersFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let (cluster, order) = match &flags.command {
        ServersCommand::List { cluster } => return list(cluster),
        ServersCommand::Drain(Order { name, cluster }) => (cluster, ServerOrder::Drain(name.clone())),
        ServersCommand::Undrain(Order { name, cluster }) => (cluster, ServerOrder::Undrain(name.clone())),
        ServersCommand::Forget(Order { name, cluster }) => (cluster, ServerOrder::Forget(name.clone())),
    };
    if !is_name(order.server()) {
        let name = clean(order.server());
        return Err(Failure::usage(format!("{name} is no name of a server; see `rakit servers list`")));
    }
    let ordered = Leadership::new(cluster)?.order(path::SERVERS, &to_json(&order))?;
    let Ok(answer) = serde_json::from_slice::<OrderAnswer>(&ordered.body) else {
        let said = clean(String::from_utf8_lossy(&ordered.body).trim());
        return Err(Failure::other(format!("the leader refused with {}: {said}", ordered.status)));
    };
    let words = words(&order, answer.effect, ordered.repeated).map_err(Failure::other)?;
    say(&format!("{words} (log index {})", answer.committed));
    Ok(ExitCode::from(EXIT_OK))
}

/// What the order came to, in words; an error if the table is not as ordered.
fn words(order: &ServerOrder, effect: OrderEffect, repeated: bool) -> Result<String, String> {
    let server = order.server();
    Ok(match (order, effect) {
        (ServerOrder::Drain(_), OrderEffect::Done) => {
            format!("{server} is drained: it gets no new requests; those that run end by themselves")
        }
        (ServerOrder::Drain(_), OrderEffect::AlreadySo) => format!("{server} is drained already"),
        (ServerOrder::Undrain(_), OrderEffect::Done) => format!("{server} may get requests again"),
        (ServerOrder::Undrain(_), OrderEffect::AlreadySo) => format!("{server} is not drained"),
        (ServerOrder::Forget(_), OrderEffect::Done | OrderEffect::AlreadySo) => {
            format!("{server} is forgotten")
        }
        // The first try was carried out, and its answer was lost.
        (ServerOrder::Forget(_), OrderEffect::NoSuchServer) if repeated => {
            format!("{server} is forgotten")
        }
        (_, OrderEffect::NoSuchServer) => {
            return Err(format!("there is no server {server}; `rakit servers list` shows them"));
        }
        (_, OrderEffect::StillAlive) => {
            return Err(format!(
                "{server} is alive, so its next report would bring it back; stop its daemon, wait until it is dead \
                 (server_timeout_ms), and forget it then; to send it no requests: rakit servers drain {server}"
            ));
        }
    })
}

fn list(cluster: &ClusterFlag) -> Result<ExitCode, Failure> {
    let answers = ask_members(&super::load_config(&cluster.config)?);
    if answers.iter().all(|answer| answer.status.is_err()) {
        return Err(Failure::other("no node answers; see `rakit status`".to_owned()));
    }
    table::servers(&answers).iter().map(Line::text).for_each(|line| say(&line));
    Ok(ExitCode::from(EXIT_OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_mend() {
        let forget = ServerOrder::Forget("lab-01".into());
        let refused = words(&forget, OrderEffect::StillAlive, false).expect_err("it lives");
        assert!(refused.contains("stop its daemon") && refused.contains("drain lab-01"), "{refused}");
        assert!(words(&forget, OrderEffect::NoSuchServer, false).is_err());
        assert!(words(&forget, OrderEffect::NoSuchServer, true).is_ok(), "the first try did it");
        let drain = ServerOrder::Drain("lab-01".into());
        assert!(words(&drain, OrderEffect::NoSuchServer, true).is_err());
        assert_eq!(words(&drain, OrderEffect::AlreadySo, false).as_deref(), Ok("lab-01 is drained already"));
    }
}
