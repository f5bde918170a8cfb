//! `rakit status`: shows the status of every node of a cluster, and where they differ.
//!
//! It asks all nodes in parallel and changes nothing. With addresses on the command line it needs no
//! configuration.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, select};
use rakit::config::Config;
use rakit::program::{self, EXIT_FAILURE, EXIT_OK, LogFlags, ParentFlags, Stop};
use rakit::raft::NodeId;

use super::asking::{ANSWER_TIMEOUT, Poller, ask_all, ask_members, followed, newest_of, of_file};
use super::changes::Story;
use super::comparison::{Asked, differences};
use super::contact::{Contact, contacts, name, rows};
use super::layout::DIRECTORY_DEFAULT;
use super::line::Line;
use super::live_screen::LiveScreen;
use super::live_table::{LiveTable, answers};
use super::lookout::Lookout;
use super::screen::say;
use super::{Failure, NAME, load_config, table};

/// How often `--watch` draws, on a terminal.
const DRAW_INTERVAL: Duration = Duration::from_millis(500);
/// How often `--watch` asks, without a terminal.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The most answers that wait. A thread that finds the channel full waits.
const ANSWERS_MAX: usize = 256;

/// Flags of `rakit status`.
#[derive(clap::Args, Debug)]
#[command(after_help = STATUS_HELP)]
pub struct StatusFlags {
    /// Public addresses of nodes: http://10.0.0.1:8001, or 10.0.0.1:8001
    #[arg(value_name = "URL")]
    urls: Vec<String>,

    /// Ask the nodes of this cluster.toml [default without any URL: rakit-cluster/cluster.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "urls")]
    config: Option<PathBuf>,

    /// Continue until Ctrl-C: redraw twice a second; without a terminal, print a line per event
    #[arg(long)]
    watch: bool,
}

const STATUS_HELP: &str = "\
Exit codes: 0 if every node answers and all agree, under one leader; 1 if not; 2 on bad usage. With --watch, 0 when stopped.
The commit and applied indexes are shown, not compared: they differ for a moment after each commit.";

/// Runs `rakit status`.
///
/// # Errors
/// No node's address is known, or (with `--watch`) the system refuses a thread.
pub fn run(flags: &StatusFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    let nodes = nodes(flags)?;
    if flags.watch {
        return watch(&nodes, flags.urls.is_empty(), log);
    }
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let mut answers = match config(flags)? {
        Some(config) => ask_members(&config),
        None => ask_all(&nodes.iter().map(|(_, address)| *address).collect::<Vec<_>>()),
    };
    // Not cut to the terminal's width: the output may go into a file, and a terminal wraps long lines.
    let contacts = contacts(&answers);
    let told =
        answers.iter().filter_map(|answer| answer.status.as_ref().ok()).flat_map(|status| &status.members);
    let known: Vec<_> = nodes.into_iter().chain(told.map(|member| (member.id, member.public))).collect();
    name(&mut answers, &known, &contacts);
    lines(&answers, &contacts).iter().for_each(|line| say(line));
    let well = differences(&answers).is_empty();
    Ok(ExitCode::from(if well { EXIT_OK } else { EXIT_FAILURE }))
}

/// The tables, and where the nodes differ.
fn lines(answers: &[Asked], contacts: &BTreeMap<SocketAddr, Contact>) -> Vec<String> {
    let texts = |lines: Vec<Line>| lines.iter().map(Line::text).collect::<Vec<_>>();
    let mut lines = texts(table::nodes(answers));
    lines.push(String::new());
    let servers = texts(table::servers(answers));
    if !servers.is_empty() {
        lines.extend(servers);
        lines.push(String::new());
    }
    lines.extend(texts(rows(answers, contacts)));
    lines.push(String::new());
    let differences = differences(answers);
    if differences.is_empty() {
        lines.push(match answers.len() {
            1 => "one node was asked, and it knows a leader".to_string(),
            nodes => format!("all {nodes} nodes agree"),
        });
    } else {
        lines.extend(differences);
    }
    lines
}

/// `follows`: whether the members in the nodes' answers are asked, too, as without `--watch`.
fn watch(nodes: &[(NodeId, SocketAddr)], follows: bool, log: &LogFlags) -> Result<ExitCode, Failure> {
    let stop = match program::start(NAME, log, ParentFlags::default()) {
        Ok(stop) => stop,
        // The reason was printed on standard error.
        Err(exit) => return Ok(exit),
    };
    let screen = LiveScreen::start().map_err(no_thread)?;
    let asked_next = |now: &[(NodeId, SocketAddr)], answers: &[Asked]| {
        // Who is not heard at all tells nothing new.
        let is_heard = newest_of(answers).is_some();
        if follows && is_heard { followed(nodes, answers) } else { now.to_vec() }
    };
    if screen.is_terminal() {
        draw(&screen, &stop, nodes.to_vec(), &asked_next)?;
    } else {
        tell(&screen, &stop, nodes.to_vec(), &asked_next)?;
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::other(format!("can't start a thread: {error}"))
}

fn addresses(nodes: &[(NodeId, SocketAddr)]) -> Vec<SocketAddr> {
    nodes.iter().map(|(_, address)| *address).collect()
}

/// Whom to ask next, by whom was asked and what they answered.
type AskedNext<'a> = &'a dyn Fn(&[(NodeId, SocketAddr)], &[Asked]) -> Vec<(NodeId, SocketAddr)>;

/// Draws the live table until it is to stop.
fn draw(
    screen: &LiveScreen,
    stop: &Stop,
    mut nodes: Vec<(NodeId, SocketAddr)>,
    asked_next: AskedNext<'_>,
) -> Result<(), Failure> {
    let mut lookout = Lookout::start(&nodes, Vec::new()).map_err(no_thread)?;
    loop {
        let state = lookout.state();
        let next = asked_next(&nodes, &answers(&state, &addresses(&nodes)));
        if next == nodes {
            let table = LiveTable {
                state,
                addresses: addresses(&nodes),
                node_pids: Vec::new(),
                server_pids: BTreeMap::new(),
            };
            screen.draw(Box::new(move |columns, rows| table.lines(columns, rows)));
        } else {
            // The table stays as it is until the others have been asked, too.
            lookout = Lookout::start(&next, Vec::new()).map_err(no_thread)?;
            nodes = next;
        }
        if stop.receiver().recv_timeout(DRAW_INTERVAL) != Err(RecvTimeoutError::Timeout) {
            screen.leave();
            return Ok(());
        }
    }
}

/// Prints a line for each event until it is to stop.
fn tell(
    screen: &LiveScreen,
    stop: &Stop,
    mut nodes: Vec<(NodeId, SocketAddr)>,
    asked_next: AskedNext<'_>,
) -> Result<(), Failure> {
    let mut story = Story::new(&addresses(&nodes));
    loop {
        let (sender, answers) = bounded(ANSWERS_MAX);
        let deliver = move |position, answer| sender.send((position, answer)).is_ok();
        let _poller = Poller::start(&addresses(&nodes), WATCH_INTERVAL, deliver).map_err(no_thread)?;
        let next = loop {
            let sentences = select! {
                recv(stop.receiver()) -> _ => return Ok(()),
                recv(answers) -> answer => match answer {
                    Ok((position, answer)) => story.take(position, answer),
                    // The threads hold their senders until the poller is dropped.
                    Err(_) => return Err(Failure::other("the threads that ask the nodes have ended".to_string())),
                },
            };
            sentences.iter().for_each(|sentence| screen.say(sentence));
            let next = asked_next(&nodes, story.answers());
            if next != nodes {
                break next;
            }
        };
        for (id, address) in next.iter().filter(|node| !nodes.contains(node)) {
            screen.say(&format!("node {id} at {address} is a member, and is asked from now on"));
        }
        for (id, address) in nodes.iter().filter(|node| !next.contains(node)) {
            screen.say(&format!("node {id} at {address} is no member, and is not asked any more"));
        }
        story.follow(&addresses(&next));
        nodes = next;
    }
}

/// The nodes to ask, as (id, address). The id is 0 if it is not known.
fn nodes(flags: &StatusFlags) -> Result<Vec<(NodeId, SocketAddr)>, Failure> {
    match config(flags)? {
        None => flags.urls.iter().map(|url| Ok((0, address(url)?))).collect(),
        Some(config) => Ok(of_file(&config)),
    }
}

/// The configuration, if no addresses are given.
fn config(flags: &StatusFlags) -> Result<Option<Config>, Failure> {
    if !flags.urls.is_empty() {
        return Ok(None);
    }
    let default = Path::new(DIRECTORY_DEFAULT).join("cluster.toml");
    let file = match &flags.config {
        Some(file) => file,
        None if default.exists() => &default,
        None => {
            return Err(Failure::usage(format!(
                "there is no {} here; give the nodes' addresses (rakit status http://127.0.0.1:8001) or \
                 --config FILE",
                default.display()
            )));
        }
    };
    load_config(file).map(Some)
}

/// The socket address in `http://HOST:PORT[/]` or `HOST:PORT`. Of several addresses of a name, the first where a node answers.
fn address(url: &str) -> Result<SocketAddr, Failure> {
    let bare = url.strip_prefix("http://").unwrap_or(url);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let wrong = |why: String| {
        Failure::usage(format!("{url}: {why}; give a node's public address, like http://127.0.0.1:8001"))
    };
    let found: Vec<SocketAddr> = bare.to_socket_addrs().map_err(|error| wrong(error.to_string()))?.collect();
    // A name may have several addresses, as localhost has ::1 and 127.0.0.1, and a node listens on one of them. Something else
    // may listen on another.
    let connects = |address: &&SocketAddr| TcpStream::connect_timeout(address, ANSWER_TIMEOUT).is_ok();
    let reached = match &found[..] {
        [] | [_] => None,
        several => {
            let answers = ask_all(several);
            let answers = answers.iter().find(|answer| answer.status.is_ok()).map(|answer| answer.address);
            answers.or_else(|| several.iter().find(connects).copied())
        }
    };
    reached.or(found.first().copied()).ok_or_else(|| wrong("the name has no address".to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::{answers, status};
    use super::*;

    #[test]
    fn an_address_may_be_a_url_or_bare() {
        let expected: SocketAddr = "127.0.0.1:8001".parse().expect("an address");
        for url in ["http://127.0.0.1:8001", "http://127.0.0.1:8001/", "127.0.0.1:8001"] {
            assert_eq!(address(url).expect("a good one"), expected);
        }
        for url in
            ["https://127.0.0.1:8001", "127.0.0.1", "http://127.0.0.1:8001/status", "127.0.0.1:99999", ""]
        {
            assert_eq!(address(url).expect_err(url).exit_code, 2);
        }
    }

    #[test]
    fn the_verdict_stands_below_the_tables() {
        let all = lines(&answers(vec![Ok(status(1)), Ok(status(2))]), &BTreeMap::new());
        assert_eq!(all.last().map(String::as_str), Some("all 2 nodes agree"));
        let all = lines(&answers(vec![Ok(status(1)), Err("no answer".to_string())]), &BTreeMap::new());
        assert_eq!(
            all.last().map(String::as_str),
            Some("the node at 127.0.0.1:8002 does not answer: no answer")
        );
    }
}
