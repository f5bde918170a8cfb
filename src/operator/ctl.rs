//! `rakit ctl`: steers a local cluster that `rakit up` runs, from another terminal. It sends one [`Order`] to the control
//! room (`control_room.rs`) and prints what has been done.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rakit::http::client::{CallErrorKind, Client, ClientTimeouts};
use rakit::program::{EXIT_OK, LogFlags};
use rakit::protocol::to_json;

use super::Failure;
use super::control_room::{Key, ORDER_PATH, ORDER_TIMEOUT, TOKEN_HEADER};
use super::layout::{CONTROL_FILE, DIRECTORY_DEFAULT, shown};
use super::order::Order;
use super::screen::say;

/// The longest answer that is read, in bytes. The answer is one line.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Flags of `rakit ctl`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Names are those of pids.json: node-2, server-1/worker, server-1/daemon.\n\
    Exit codes: 0 when it is done; 1 when it can't be done; 2 on bad usage.")]
pub struct CtlFlags {
    /// The directory that `rakit up` was given
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT, global = true)]
    dir: PathBuf,

    #[command(subcommand)]
    order: Order,
}

/// Runs `rakit ctl`.
///
/// # Errors
/// No cluster runs in that directory, or the order can't be carried out.
pub fn run(flags: &CtlFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    say(&give(&flags.dir, &flags.order)?);
    Ok(ExitCode::from(EXIT_OK))
}

/// Gives an order to the cluster that runs in `dir`; returns what was done, in one line.
///
/// # Errors
/// As for [`run`].
pub fn give(dir: &Path, order: &Order) -> Result<String, Failure> {
    let key = key(dir)?;
    let mut client = Client::new(ClientTimeouts {
        connect: ORDER_TIMEOUT,
        send: ORDER_TIMEOUT,
        receive: 2 * ORDER_TIMEOUT,
    });
    let headers =
        || vec![(TOKEN_HEADER, key.token.clone()), ("Content-Type", "application/json".to_string())];
    let answer = client.post(key.address, ORDER_PATH, headers, &to_json(order), ANSWER_BYTES_MAX).map_err(
        |error| match error.kind {
            CallErrorKind::Refused => not_running(dir),
            _ => Failure::other(error.to_string()),
        },
    )?;
    let said = String::from_utf8_lossy(&answer.body).trim().to_string();
    if answer.status == 200 { Ok(said) } else { Err(Failure::other(said)) }
}

/// Whether a cluster runs in `dir`. A `rakit up` that was killed has left its file: so it counts that somebody listens
/// there.
pub fn runs(dir: &Path) -> bool {
    key(dir).is_ok_and(|key| TcpStream::connect_timeout(&key.address, ORDER_TIMEOUT).is_ok())
}

fn key(dir: &Path) -> Result<Key, Failure> {
    let path = dir.join(CONTROL_FILE);
    let text = std::fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => not_running(dir),
        _ => Failure::other(format!("{}: can't be read: {error}", shown(&path))),
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::other(format!(
            "{}: not written by `rakit up`: {error}; start the cluster again",
            shown(&path)
        ))
    })
}

fn not_running(dir: &Path) -> Failure {
    let dir = shown(dir);
    Failure::other(format!("no `rakit up` runs in {dir}; start it, or name its directory with --dir"))
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::refusing;
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn a_cluster_runs_where_somebody_listens_and_not_where_a_file_was_left() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(!runs(dir.path()), "no file");
        let write = |address: SocketAddr| {
            let key = Key { address, token: "secret".to_string() };
            std::fs::write(dir.path().join(CONTROL_FILE), to_json(&key)).expect("our own directory");
        };
        let (_refuses, address) = refusing([127, 83, 9, 11]);
        write(address);
        assert!(!runs(dir.path()), "it was left by a process that was killed");
        let listener = TcpListener::bind("127.83.9.11:0").expect("loopback has a free port");
        write(listener.local_addr().expect("bound"));
        assert!(runs(dir.path()));
    }
}
