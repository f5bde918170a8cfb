//! Finds the leader of a cluster and gives it an order over its cluster address. Called by the commands that change the
//! cluster: `rakit transfer`, `rakit servers`, `rakit members`.
//!
//! They need cluster.toml: it names the addresses, and the secret that signs the order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rakit::config::{Config, Node};
use rakit::http::client::{Answer, CallErrorKind, Client, ClientTimeouts};
use rakit::protocol::{KnownLeader, MemberStatus, OPERATOR, Purpose, node_name};
use rakit::raft::Term;
use rakit::signing::{REFUSED_STATUS, Recipient, Seal, SealedCallError, Secret};

use super::asking::ask_members;
use super::comparison::{Asked, clean};
use super::layout::DIRECTORY_DEFAULT;
use super::{Failure, load_config};

/// How long each phase of the request may take. A node answers an order within ten seconds, if it does at all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// How long an order is given again, beyond an election timeout, while no node leads or the leader changes.
const GRACE: Duration = Duration::from_secs(5);

/// The pause before an order is given again.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest answer that is read, in bytes. The answer is one line.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The flag of every command that needs the cluster's configuration and nothing else.
#[derive(clap::Args, Debug)]
pub struct ClusterFlag {
    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(DIRECTORY_DEFAULT).join("cluster.toml"))]
    pub config: PathBuf,
}

/// A cluster, and the seal for orders to it.
#[derive(Debug)]
pub struct Leadership {
    /// The cluster's configuration.
    pub config: Config,
    seal: Seal,
    client: Client,
}

/// The leader's answer to an order.
#[derive(Debug)]
pub struct Ordered {
    /// The HTTP status: never 409 or 503, which make [`Leadership::order`] ask on.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// An earlier try of the same order may have been carried out: its answer was lost.
    pub repeated: bool,
}

impl Leadership {
    /// Reads the configuration and makes the seal.
    ///
    /// # Errors
    /// The configuration cannot be read, or its secret file holds no secret that may give orders.
    pub fn new(flag: &ClusterFlag) -> Result<Self, Failure> {
        let config = load_config(&flag.config)?;
        let secret = config.secret.as_deref().map(Secret::parse).transpose();
        let secret = secret
            .and_then(|secret| secret.map(Secret::whole).transpose())
            .map_err(|error| Failure::usage(format!("{}: secret_file: {error}", config.path.display())))?;
        let seal = Seal::new(&config.cluster_name, OPERATOR, secret.as_ref())
            .map_err(|error| Failure::other(format!("no randomness for signing: {error}")))?
            .founded(&config.founding());
        let client = Client::without_repetition(ClientTimeouts {
            connect: REQUEST_TIMEOUT,
            send: REQUEST_TIMEOUT,
            receive: REQUEST_TIMEOUT,
        });
        Ok(Self { config, seal, client })
    }

    /// The public addresses of the members, silent ones too, and of the nodes of cluster.toml that were not removed.
    pub fn public(&self) -> Vec<SocketAddr> {
        ask_members(&self.config).into_iter().map(|asked| asked.address).collect()
    }

    /// Asks all nodes who leads.
    ///
    /// # Errors
    /// No node that answers knows a leader.
    pub fn find(&self) -> Result<(Node, Term), Failure> {
        leader(&ask_members(&self.config)).ok_or_else(|| {
            Failure::other("no node that answers knows a leader; see `rakit status`".to_owned())
        })
    }

    /// Sends an order to this node, once.
    ///
    /// # Errors
    /// No answer came that can be trusted, or the node refused who asks.
    pub fn order_once(&mut self, to: &Node, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        self.send(to, path, body).map_err(|unanswered| match unanswered {
            Unanswered::Denied(failure) | Unanswered::NotSent(failure) | Unanswered::Lost(failure) => failure,
        })
    }

    fn send(&mut self, to: &Node, path: &str, body: &[u8]) -> Result<Answer, Unanswered> {
        let recipient = Recipient { name: node_name(to.id), address: to.cluster };
        let answer =
            self.seal.post(&mut self.client, &recipient, Purpose::Admin, path, body, ANSWER_BYTES_MAX);
        let why = match answer {
            Ok(answer) if answer.status == REFUSED_STATUS => {
                clean(String::from_utf8_lossy(&answer.body).trim())
            }
            Ok(answer) => return Ok(answer),
            Err(SealedCallError::Refused(_, refusal)) if refusal.said == Some(REFUSED_STATUS) => {
                refusal.to_string()
            }
            Err(SealedCallError::Call(error))
                if matches!(
                    error.kind,
                    CallErrorKind::Refused | CallErrorKind::ConnectTimeout | CallErrorKind::Unreachable(_)
                ) =>
            {
                return Err(Unanswered::NotSent(Failure::other(error.to_string())));
            }
            Err(error) => {
                let line = format!("{error}; whether the order was carried out is not known");
                return Err(Unanswered::Lost(Failure::other(line)));
            }
        };
        // To ask again would not help: who asks has another key than the node, or none.
        Err(Unanswered::Denied(Failure::other(format!(
            "node {} refused the order with {REFUSED_STATUS}: {why}; mend: order with the cluster.toml and the secret_file of \
             its cluster; `rakit check --config {}` says what differs",
            to.id,
            self.config.path.display()
        ))))
    }

    /// Gives an order to whoever leads. While no node leads, or leadership changes under it, it gives the order again. So
    /// the order must be one that may be given twice.
    ///
    /// # Errors
    /// Nobody carried it out in time, or the leader refused who asks: that is told at once.
    pub fn order(&mut self, path: &str, body: &[u8]) -> Result<Ordered, Failure> {
        let deadline = Instant::now() + self.config.election_timeout.1 + GRACE;
        let mut repeated = false;
        loop {
            let failure = match self.find() {
                Err(failure) => failure,
                Ok((to, _)) => match self.send(&to, path, body) {
                    Ok(answer) if answer.status != 409 && answer.status != 503 => {
                        return Ok(Ordered { status: answer.status, body: answer.body, repeated });
                    }
                    Ok(answer) => {
                        repeated |= answer.status == 503;
                        not_carried_out(&to, &answer)
                    }
                    Err(Unanswered::Denied(failure)) => return Err(failure),
                    Err(Unanswered::NotSent(failure)) => failure,
                    Err(Unanswered::Lost(failure)) => {
                        repeated = true;
                        failure
                    }
                },
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Why an order has no answer that counts.
enum Unanswered {
    /// The node refused who asks.
    Denied(Failure),
    /// There was no connection: nobody has heard of the order.
    NotSent(Failure),
    /// Nothing came, or nothing that can be trusted. The order may have been carried out.
    Lost(Failure),
}

/// What a person reads if a node did not do what it was told.
pub fn not_carried_out(node: &Node, answer: &Answer) -> Failure {
    if answer.status == 409
        && let Ok(KnownLeader { leader }) = serde_json::from_slice(&answer.body)
    {
        let leader = leader.map_or("nobody".to_owned(), |id| format!("node {id}"));
        return Failure::other(format!("node {} does not lead; it follows {leader}; try again", node.id));
    }
    let said = clean(String::from_utf8_lossy(&answer.body).trim());
    Failure::other(format!("node {} refused with {}: {said}", node.id, answer.status))
}

/// The newest term among the answers of the nodes, and its leader.
pub fn leader(answers: &[Asked]) -> Option<(Node, Term)> {
    let believed = answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    let newest = believed.filter(|status| status.leader.is_some()).max_by_key(|status| status.term)?;
    let MemberStatus { id, public, cluster, .. } =
        *newest.members.iter().find(|member| Some(member.id) == newest.leader)?;
    Some((Node { id, public, cluster, founder: true }, newest.term))
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::refusing;
    use super::*;
    use std::net::TcpListener;

    /// An order that nobody can have heard is told apart from one that may have been carried out.
    #[test]
    fn without_a_connection_nothing_was_sent_and_without_an_answer_nobody_knows() {
        let text = "[cluster]\nname = \"lab\"\n[[node]]\nid = 1\npublic = \"127.83.9.9:8001\"\ncluster = \"127.83.9.9:9001\"\n";
        let config = Config::parse(text, Path::new("lab.toml")).expect("a good file");
        let patience = Duration::from_secs(60);
        let mut leadership = Leadership {
            seal: Seal::new("lab", OPERATOR, None).expect("randomness").founded(&config.founding()),
            client: Client::without_repetition(ClientTimeouts {
                connect: patience,
                send: patience,
                receive: patience,
            }),
            config,
        };
        let mut send = |cluster| {
            let node = Node { cluster, ..leadership.config.nodes[0].clone() };
            leadership.send(&node, "/members", b"{}")
        };
        let (_keeps_the_port, nobody) = refusing([127, 83, 9, 9]);
        match send(nobody) {
            Err(Unanswered::NotSent(failure)) => {
                assert!(!failure.line.contains("not known"), "{}", failure.line)
            }
            _ => panic!("there is no connection"),
        }
        let listener = TcpListener::bind("127.83.9.9:0").expect("loopback has a free port");
        let closing = listener.local_addr().expect("it is bound");
        let accepting = thread::spawn(move || drop(listener.accept()));
        match send(closing) {
            Err(Unanswered::Lost(failure)) => {
                assert!(
                    failure.line.ends_with("; whether the order was carried out is not known"),
                    "{}",
                    failure.line
                );
            }
            _ => panic!("there is no answer"),
        }
        accepting.join().expect("it accepted");
    }
}
