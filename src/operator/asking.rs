//! Sends `GET /status` to several nodes, for the commands of `rakit` that ask nodes. Each node has its own thread, so
//! that a paused, dead or slow node delays no other answer.
//!
//! [`ask`] asks once; [`Poller`] asks repeatedly.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rakit::config::Config;
use rakit::http::client::{CallError, CallErrorKind, Client, ClientTimeouts};
use rakit::protocol::{Status, path};
use rakit::raft::{Membership, NodeId};

use super::comparison::{Asked, NoAnswer};

/// How long a node may take to accept the connection, and then to answer. A living node on a busy machine can
/// take a second; with a longer time-out, a person would look at an old table.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest `/status` that is read, in bytes: room for some ten thousand servers.
const STATUS_BYTES_MAX: usize = 4 << 20;
/// The pause after a node did not answer in time. Each request to a paused node leaves a connection in its
/// queue.
const PAUSE_AFTER_SILENCE: Duration = Duration::from_secs(2);

/// A client for questions.
pub fn client() -> Client {
    Client::new(ClientTimeouts { connect: ANSWER_TIMEOUT, send: ANSWER_TIMEOUT, receive: ANSWER_TIMEOUT })
}

/// Asks one node once.
pub fn ask(address: SocketAddr) -> Asked {
    Asked { address, id: None, status: question(&mut client(), address) }
}

fn question(client: &mut Client, address: SocketAddr) -> Result<Status, NoAnswer> {
    let answer =
        client.get(address, path::STATUS, &[], STATUS_BYTES_MAX).map_err(|error| no_answer(&error))?;
    if answer.status != 200 {
        return Err(NoAnswer::Failed(format!("not a Rakit node: GET /status gave {}", answer.status)));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| NoAnswer::Failed(format!("its answer to GET /status can't be read: {error}")))
}

fn no_answer(error: &CallError) -> NoAnswer {
    NoAnswer::Failed(match &error.kind {
        CallErrorKind::ConnectTimeout | CallErrorKind::SendTimeout | CallErrorKind::ReceiveTimeout => {
            return NoAnswer::Silent;
        }
        CallErrorKind::Refused => "connection refused".to_string(),
        CallErrorKind::Closed => "connection closed".to_string(),
        CallErrorKind::Unreachable(why) => why.clone(),
        CallErrorKind::AnswerTooLarge(_) | CallErrorKind::Protocol(_) => error.to_string(),
    })
}

/// The error in a few words. The address is shown beside it.
pub fn reason(error: &CallError) -> String {
    no_answer(error).to_string()
}

/// Asks all addresses in parallel, once.
pub fn ask_all(addresses: &[SocketAddr]) -> Vec<Asked> {
    thread::scope(|scope| {
        let asked: Vec<_> =
            addresses.iter().map(|address| (address, scope.spawn(|| ask(*address)))).collect();
        asked
            .into_iter()
            .map(|(address, thread)| {
                thread.join().unwrap_or_else(|_| Asked {
                    address: *address,
                    id: None,
                    status: Err(NoAnswer::Failed("asking it failed".to_string())),
                })
            })
            .collect()
    })
}

/// All nodes of the file, and all members that they name; of both, whom [`followed`] leaves.
pub fn ask_members(config: &Config) -> Vec<Asked> {
    let known = of_file(config);
    let mut answers = ask_all(&known.iter().map(|(_, address)| *address).collect::<Vec<_>>());
    let more: Vec<SocketAddr> = followed(&known, &answers)
        .into_iter()
        .map(|(_, address)| address)
        .filter(|address| answers.iter().all(|answer| answer.address != *address))
        .collect();
    answers.extend(ask_all(&more));
    let followed = followed(&known, &answers);
    answers.retain(|answer| followed.iter().any(|(_, address)| *address == answer.address));
    answers
}

/// The nodes of the file: their ids and public addresses.
pub fn of_file(config: &Config) -> Vec<(NodeId, SocketAddr)> {
    config.nodes.iter().map(|node| (node.id, node.public)).collect()
}

/// Whom to ask, by the answers so far: the `known` nodes, and the members that the newest answer names. But not who says that it
/// was removed, and not who is silent and no member any more: what a file still names and the cluster does not know is nobody's
/// concern.
pub fn followed(known: &[(NodeId, SocketAddr)], answers: &[Asked]) -> Vec<(NodeId, SocketAddr)> {
    let newest = newest_of(answers);
    let members: Vec<(NodeId, SocketAddr)> = newest.map_or_else(Vec::new, |status| {
        status.members.iter().map(|member| (member.id, member.public)).collect()
    });
    let have_changed = newest.is_some_and(|status| status.members_index > 0);
    let is_in =
        |list: &[(NodeId, SocketAddr)], address: SocketAddr| list.iter().any(|(_, one)| *one == address);
    let more = members.iter().filter(|(_, address)| !is_in(known, *address));
    let mut all: Vec<(NodeId, SocketAddr)> = known.iter().chain(more).copied().collect();
    all.retain(|(_, address)| {
        let answer = answers.iter().find(|answer| answer.address == *address);
        match answer.map(|answer| &answer.status) {
            Some(Ok(status)) => status.membership != Membership::Removed,
            Some(Err(NoAnswer::NotAsked)) => true,
            Some(Err(NoAnswer::Silent | NoAnswer::Failed(_))) | None => {
                !have_changed || is_in(&members, *address)
            }
        }
    });
    all
}

/// Of the answers that name a leader (of all, if none does): that of the newest term, and in it of the newest list. Not
/// of a node that was removed.
pub fn newest_of<'a>(answers: impl IntoIterator<Item = &'a Asked>) -> Option<&'a Status> {
    let statuses = answers.into_iter().filter_map(|answer| answer.status.as_ref().ok());
    statuses
        .filter(|status| status.membership != Membership::Removed)
        .max_by_key(|status| (status.leader.is_some(), status.term, status.members_index))
}

/// Asks nodes repeatedly until it is dropped.
#[derive(Debug)]
pub struct Poller {
    /// Dropping it ends the threads' pauses, and with them the threads.
    _running: Sender<()>,
}

impl Poller {
    /// Starts one thread per address. The thread passes each answer, with the position of its address, to
    /// `deliver`, and pauses for `interval` between two requests. It ends when `deliver` returns false.
    pub fn start(
        addresses: &[SocketAddr],
        interval: Duration,
        deliver: impl Fn(usize, Asked) -> bool + Clone + Send + 'static,
    ) -> std::io::Result<Poller> {
        let (running, stopped) = bounded(0);
        for (position, address) in addresses.iter().copied().enumerate() {
            let (stopped, deliver) = (stopped.clone(), deliver.clone());
            thread::Builder::new()
                .name(format!("ask-{position}"))
                .spawn(move || poll(position, address, interval, &stopped, deliver))?;
        }
        Ok(Poller { _running: running })
    }
}

fn poll(
    position: usize,
    address: SocketAddr,
    interval: Duration,
    stopped: &Receiver<()>,
    deliver: impl Fn(usize, Asked) -> bool,
) {
    let mut client = client();
    loop {
        let status = question(&mut client, address);
        let silent = status == Err(NoAnswer::Silent);
        if !deliver(position, Asked { address, id: None, status }) {
            return;
        }
        let pause = if silent { PAUSE_AFTER_SILENCE.max(interval) } else { interval };
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::refusing;
    use super::*;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU16, Ordering};

    #[test]
    fn the_reason_of_no_answer_is_in_plain_words() {
        let (_keeps_the_port, address) = refusing([127, 83, 9, 5]);
        assert_eq!(ask(address).status, Err(NoAnswer::Failed("connection refused".to_string())));
    }

    /// A listener that never accepts is what a paused process looks like from outside.
    #[test]
    fn a_paused_node_keeps_nobody_waiting_for_ever() {
        let listener = TcpListener::bind("127.83.9.5:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        assert_eq!(ask(address).status, Err(NoAnswer::Silent));
    }

    #[test]
    fn something_else_at_the_address_is_told_apart_from_a_node() {
        let server = tiny_http::Server::http("127.83.9.5:0").expect("loopback has a free port");
        let address = server.server_addr().to_ip().expect("an IP address");
        let status = AtomicU16::new(404);
        thread::scope(|scope| {
            scope.spawn(|| {
                for request in server.incoming_requests() {
                    let status = status.load(Ordering::SeqCst);
                    // Who has waited too long has gone.
                    let _ = request.respond(tiny_http::Response::from_string("{}").with_status_code(status));
                }
            });
            // On a machine that stands still, the answer may come too late. Then it is asked again.
            let said = || {
                let answers = (0..30).map(|_| ask(address).status.expect_err("not a node"));
                answers.map(|why| why.to_string()).find(|why| *why != NoAnswer::Silent.to_string())
            };
            let not_found = said();
            status.store(200, Ordering::SeqCst);
            let empty = said();
            server.unblock();
            assert!(not_found.as_ref().is_some_and(|said| said.contains("404")), "{not_found:?}");
            assert!(empty.as_ref().is_some_and(|said| said.contains("missing field")), "{empty:?}");
        });
    }

    /// The poller goes on through failures, and ends when it is dropped.
    #[test]
    fn the_poller_asks_until_it_is_dropped() {
        let listener = TcpListener::bind("127.83.9.5:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        drop(listener);
        let (sender, answers) = crossbeam_channel::unbounded();
        let poller = Poller::start(&[address], Duration::from_millis(1), move |position, answer| {
            sender.send((position, answer)).is_ok()
        })
        .expect("threads can be started");
        for _ in 0..3 {
            let (position, answer) =
                answers.recv_timeout(Duration::from_secs(30)).expect("it goes on asking");
            assert_eq!((position, answer.address), (0, address));
        }
        drop(poller);
        // The thread's sender goes with it: the channel runs dry and closes.
        assert!(answers.iter().count() < 1_000_000);
    }
}
