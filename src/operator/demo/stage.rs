//! What a step of the demonstration can do to the cluster and see of it: orders, requests, reports, the nodes' status, and
//! the log lines since the step began.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rakit::config::Config;
use rakit::http::client::{Client, ClientTimeouts};
use rakit::protocol::{Status, path};

use super::super::Failure;
use super::super::asking::ask_all;
use super::super::comparison::freshest;
use super::super::ctl;
use super::super::layout::{LOGS_DIRECTORY, Part};
use super::super::order::{Link, Order};
use super::super::story::{Event, Story};
use super::{Language, Words};

/// How long a claim may take to become true. On a busy machine everything takes longer; nothing here claims a speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the cluster, while something is awaited.
const LOOK: Duration = Duration::from_millis(20);
/// How long log lines are awaited.
const LINES_PATIENCE: Duration = Duration::from_secs(5);
/// How long one request may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The most log lines that a step shows as its proof.
const PROOF_LINES_MAX: usize = 8;
/// The members that the demonstration needs: five nodes survive the loss of two.
const NODES: usize = 5;
/// The servers that the steps name.
const SERVERS_MIN: usize = 3;

/// The outcome of a step: what is wrong, in words, or nothing.
pub type Played = Result<(), String>;

/// The answer to a request for a prime.
#[derive(Clone, Debug)]
pub struct Prime {
    pub status: u16,
    pub server: Option<String>,
    pub stale_ms: Option<u64>,
}

/// The cluster, seen and steered from outside.
pub struct Stage {
    dir: PathBuf,
    language: Language,
    nodes: Vec<(u16, SocketAddr, SocketAddr)>,
    story: Story,
}

impl Stage {
    /// # Errors
    /// The cluster in `dir` has not five nodes and three servers, or its `cluster.toml` can't be read.
    pub fn enter(dir: PathBuf, language: Language) -> Result<Stage, Failure> {
        let config: Config = super::super::load_config(&dir.join("cluster.toml"))?;
        let addresses: Vec<SocketAddr> = config.nodes.iter().map(|node| node.public).collect();
        let alive = freshest(&ask_all(&addresses))
            .map(|status| status.servers.iter().filter(|server| server.alive).count());
        if !suits(config.nodes.len(), alive) {
            return Err(Failure::other(format!(
                "the demonstration needs a cluster of {NODES} nodes and {SERVERS_MIN} servers that are \
                 alive; give another --dir, where none is yet"
            )));
        }
        let nodes = config
            .nodes
            .iter()
            .filter_map(|node| Some((u16::try_from(node.id).ok()?, node.public, node.cluster)))
            .collect();
        Ok(Stage { story: Story::new(dir.join(LOGS_DIRECTORY)), dir, language, nodes })
    }

    /// Plays one step, from a state in which all nodes agree.
    pub fn play(&mut self, step: fn(&mut Stage) -> Played) -> Played {
        self.agreed()?;
        self.forget_story();
        step(self)
    }

    /// Says what was seen.
    pub fn say(&self, en: &str, id: &str) {
        println!("  {}", if self.language == Language::En { en } else { id });
    }

    /// Says a claim that holds, or fails the step with it.
    pub fn claim(&self, holds: bool, en: &str, id: &str) -> Played {
        let words = if self.language == Language::En { en } else { id };
        if holds {
            println!("  ✓ {words}");
            Ok(())
        } else {
            Err(words.to_string())
        }
    }

    /// Gives an order, as `rakit ctl` does, and shows it.
    pub fn order(&self, order: &Order) -> Played {
        println!("  $ rakit ctl {}", order.words());
        ctl::give(&self.dir, order).map(|_| ()).map_err(|failure| failure.line)
    }

    /// Cuts or heals the cable between two nodes, in both directions.
    pub fn cable(&self, node: u16, other: u16, cut: bool) -> Played {
        let link = Link { node, other: Some(other), one_way: false };
        self.order(&if cut { Order::Cut(link) } else { Order::Heal(link) })
    }

    pub fn kill(&self, name: Part) -> Played {
        self.order(&Order::Kill { name })
    }

    pub fn start(&self, name: Part) -> Played {
        self.order(&Order::Start { name })
    }

    /// The nodes' ids.
    pub fn ids(&self) -> Vec<u16> {
        self.nodes.iter().map(|(id, ..)| *id).collect()
    }

    /// The status of every node that answers, by id.
    pub fn statuses(&self) -> Vec<(u16, Status)> {
        let addresses: Vec<SocketAddr> = self.nodes.iter().map(|(_, public, _)| *public).collect();
        let answers = ask_all(&addresses).into_iter().zip(self.ids());
        answers.filter_map(|(answer, id)| Some((id, answer.status.ok()?))).collect()
    }

    /// Waits until `look` finds something.
    pub fn until<T>(&self, what: Words, mut look: impl FnMut(&Stage) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} ({} s)", what.say(self.language), PATIENCE.as_secs()));
            }
            thread::sleep(LOOK);
        }
    }

    /// The leader that a majority of all nodes follows, and its term.
    pub fn leader(&self) -> Option<(u16, u64)> {
        let statuses = self.statuses();
        let leads = |id: u16, term| {
            let follows = |one: &&(u16, Status)| one.1.term == term && one.1.leader == Some(u64::from(id));
            statuses.iter().filter(follows).count() > NODES / 2
        };
        statuses.iter().find(|(id, one)| leads(*id, one.term)).map(|(id, one)| (*id, one.term))
    }

    /// Waits for a leader of a later term; returns it, and how long that took.
    pub fn next_leader(&self, term: u64) -> Result<(u16, u64, Duration), String> {
        let began = Instant::now();
        let what = Words { en: "no other node was elected", id: "tidak ada node lain yang terpilih" };
        let (leader, term) = self.until(what, |stage| stage.leader().filter(|(_, next)| *next > term))?;
        Ok((leader, term, began.elapsed()))
    }

    /// Waits until all nodes answer, follow one leader and have equal tables at an equal index.
    pub fn agreed(&self) -> Result<(u16, u64), String> {
        let what = Words { en: "the nodes do not agree", id: "node-node belum sepakat" };
        self.until(what, |stage| {
            let leader = stage.leader()?;
            let statuses = stage.statuses();
            let first = &statuses.first()?.1;
            let equal = |one: &Status| {
                (one.applied_index, &one.state_digest, one.leader)
                    == (first.applied_index, &first.state_digest, first.leader)
            };
            (statuses.len() == NODES && statuses.iter().all(|(_, one)| equal(one))).then_some(leader)
        })
    }

    /// Waits until this holds for a server in the table of every node that answers.
    pub fn server_becomes(
        &self,
        server: &str,
        what: Words,
        holds: impl Fn(&rakit::protocol::ServerStatus) -> bool,
    ) -> Played {
        self.until(what, |stage| {
            let statuses = stage.statuses();
            let known = |one: &Status| one.servers.iter().any(|found| found.id == server && holds(found));
            (!statuses.is_empty() && statuses.iter().all(|(_, one)| known(one))).then_some(())
        })
    }

    /// Asks a node for the Nth prime.
    pub fn prime(&self, node: u16, n: u64) -> Result<Prime, String> {
        ask(self.address(node).0, n)
    }

    /// Asks nodes on threads of their own, one after the other with a short pause; returns the answers in that order.
    pub fn primes_at_once(&self, nodes: &[u16], n: u64, pause: Duration) -> Vec<Result<Prime, String>> {
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| {
                let address = self.address(*node).0;
                let asked = thread::spawn(move || ask(address, n));
                thread::sleep(pause);
                asked
            })
            .collect();
        let answers = threads.into_iter().map(|asked| asked.join());
        answers.map(|answer| answer.unwrap_or_else(|_| Err("the thread failed".to_string()))).collect()
    }

    /// Asks in the background.
    pub fn prime_in_background(&self, node: u16, n: u64) -> thread::JoinHandle<Result<Prime, String>> {
        let address = self.address(node).0;
        thread::spawn(move || ask(address, n))
    }

    /// Sends a report to a node; returns the status of the answer, or why there is none.
    pub fn report(&self, node: u16, body: &str) -> Result<u16, String> {
        let headers = || vec![("Content-Type", "application/json".to_string())];
        let answer =
            client().post(self.address(node).1, path::REPORT, headers, body.as_bytes(), ANSWER_BYTES_MAX);
        answer.map(|answer| answer.status).map_err(|error| error.to_string())
    }

    fn address(&self, node: u16) -> (SocketAddr, SocketAddr) {
        let found = self.nodes.iter().find(|(id, ..)| *id == node);
        found.map(|(_, public, cluster)| (*public, *cluster)).expect("only ids of this cluster are asked for")
    }

    fn forget_story(&mut self) {
        let _ = self.story.news();
    }

    /// The log lines since the step began, or since the last call, that contain one of these words. A line is written a
    /// moment after its event, so this waits until there are `enough`, but not long: too few are no failure here.
    pub fn lines(&mut self, words: &[&str], enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + LINES_PATIENCE;
        let mut lines = Vec::new();
        loop {
            let news = self.story.news().unwrap_or_default();
            let found = news.iter().filter(|event| words.iter().any(|word| event.text().contains(word)));
            lines.extend(found.map(Event::line));
            if enough(&lines) || Instant::now() >= deadline {
                lines.sort();
                return lines;
            }
            thread::sleep(LOOK);
        }
    }

    /// Shows log lines as the proof.
    pub fn show(&self, lines: &[String]) {
        for line in lines.iter().take(PROOF_LINES_MAX) {
            println!("  | {line}");
        }
        if lines.len() > PROOF_LINES_MAX {
            println!("  | … ({} more)", lines.len() - PROOF_LINES_MAX);
        }
    }
}

/// Whether the steps can be played with so many nodes and living servers. If no node says how many servers live, the
/// steps are tried.
fn suits(nodes: usize, alive: Option<usize>) -> bool {
    nodes == NODES && alive.is_none_or(|alive| alive >= SERVERS_MIN)
}

fn client() -> Client {
    Client::new(ClientTimeouts { connect: ANSWER_TIMEOUT, send: ANSWER_TIMEOUT, receive: ANSWER_TIMEOUT })
}

fn ask(address: SocketAddr, n: u64) -> Result<Prime, String> {
    let answer =
        client().get(address, &format!("/{n}"), &[], ANSWER_BYTES_MAX).map_err(|error| error.to_string())?;
    Ok(Prime {
        status: answer.status,
        server: answer.header("X-Rakit-Server").map(str::to_string),
        stale_ms: answer.header("X-Rakit-Stale-Ms").and_then(|ms| ms.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_the_nodes_or_servers_of_the_steps_is_refused_at_once() {
        assert!(suits(5, Some(3)) && suits(5, Some(4)) && suits(5, None));
        assert!(!suits(3, Some(3)) && !suits(5, Some(1)) && !suits(5, Some(0)));
    }
}
