//! A sealed request over HTTP: seals it, sends it, opens the answer.
//!
//! Called by everyone who sends on a cluster address: a node's peer senders and its leader watch, a follower
//! that hands a report on, the daemons, `rakit transfer`. [`crate::http`] below has no seals.

use std::fmt;
use std::net::SocketAddr;

use super::{Refusal, RefusalKind, Seal};
use crate::http::client::{Answer, CallError, Client};
use crate::protocol::Purpose;

/// How many bytes of a refusal's body an error quotes at most.
const QUOTE_BYTES_MAX: usize = 200;

/// A node to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// What the node is called in a seal: `node-2`.
    pub name: String,
    /// Its cluster address.
    pub address: SocketAddr,
}

/// Why there is no answer that can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedCallError {
    /// No answer came.
    Call(CallError),
    /// An answer came from this address. It cannot be trusted, or it is the node's refusal of our request.
    Refused(SocketAddr, Refusal),
}

impl fmt::Display for SealedCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Refused(address, refusal) => write!(f, "{address}: {refusal}"),
        }
    }
}

impl std::error::Error for SealedCallError {}

impl Seal {
    /// Seals and sends `POST path`, and opens the answer. With a secret, the returned answer is proven to be
    /// the recipient's answer to this request. The answer's body may have `answer_bytes_max` bytes.
    ///
    /// When `client` repeats the request on a fresh connection, the repetition is sealed anew, with its own
    /// nonce: the node may have accepted the first one before the connection broke, and would refuse the same
    /// nonce as replayed.
    ///
    /// # Errors
    /// `Call` when no answer came. `Refused` when the answer cannot be trusted, or when the node refused
    /// *our* request; then the error quotes the node's answer.
    pub fn post(
        &self,
        client: &mut Client,
        to: &Recipient,
        purpose: Purpose,
        path: &str,
        body: &[u8],
        answer_bytes_max: usize,
    ) -> Result<Answer, SealedCallError> {
        let mut newest = None;
        let seal_anew = || newest.insert(self.request(&to.name, purpose, "POST", path, body)).headers.clone();
        let answer = client
            .post(to.address, path, seal_anew, body, answer_bytes_max)
            .map_err(SealedCallError::Call)?;
        let sealed = newest.expect("an answer came, so a request was sealed and sent");
        match self.open_answer(&sealed, answer.status, |name| answer.header(name), &answer.body) {
            Ok(()) => Ok(answer),
            Err(mut refusal) => {
                // A node that refuses our request does not sign its answer. So the unsigned words prove
                // nothing, but they are the operator's best hint.
                if refusal.kind == RefusalKind::Unsigned {
                    let said = quote(&answer.body);
                    refusal.detail = format!("{} (it said {}: {said})", refusal.detail, answer.status);
                }
                Err(SealedCallError::Refused(to.address, refusal))
            }
        }
    }
}

/// The beginning of a body, fit for a log line.
fn quote(body: &[u8]) -> String {
    body[..body.len().min(QUOTE_BYTES_MAX)].trim_ascii().escape_ascii().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::super::{Gate, Secret};
    use super::*;
    use crate::http::client::ClientTimeouts;

    const PATIENCE: Duration = Duration::from_secs(60);
    const BODY: &[u8] = b"vote";

    fn secret() -> Secret {
        Secret::parse(b"0123456789abcdef").unwrap()
    }

    fn listen() -> (TcpListener, Recipient) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Recipient { name: "node-1".to_owned(), address })
    }

    fn post(seal: &Seal, client: &mut Client, to: &Recipient) -> Result<Answer, SealedCallError> {
        seal.post(client, to, Purpose::Raft, "/raft/vote", BODY, 1000)
    }

    fn client() -> Client {
        Client::new(ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: PATIENCE })
    }

    /// The headers of the next request; `None` when the connection ends before one begins.
    fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Vec<(String, String)>> {
        let lines: Vec<String> =
            reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            return None;
        }
        let mut body = [0; BODY.len()];
        reader.read_exact(&mut body).unwrap();
        let split =
            |line: &String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(lines.iter().filter_map(split).collect())
    }

    #[test]
    fn a_repetition_is_sealed_anew() {
        let gate = Gate::new("lab", "node-1", Some(&secret())).unwrap();
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let mut opened = 0;
            for _ in 0..2 {
                let (mut stream, client) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                // The gate accepts every request; on this connection, the second one is never answered.
                let mut answered = false;
                while let Some(headers) = read_request(&mut reader) {
                    let header = |wanted: &'static str| {
                        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                        found.map(|(_, value)| value.as_str())
                    };
                    let request = gate
                        .open_request("POST", "/raft/vote", header, BODY, &[Purpose::Raft], client)
                        .unwrap();
                    opened += 1;
                    if answered {
                        break;
                    }
                    answered = true;
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n").unwrap();
                    for (name, value) in gate.seal_answer(&request, 200, b"yes") {
                        write!(stream, "{name}: {value}\r\n").unwrap();
                    }
                    write!(stream, "\r\nyes").unwrap();
                }
            }
            opened
        });
        let seal = Seal::new("lab", "node-2", Some(&secret())).unwrap();
        let mut client = client();
        for _ in 0..2 {
            assert_eq!(post(&seal, &mut client, &to).unwrap().body, b"yes");
        }
        drop(client);
        assert_eq!(node.join().unwrap(), 3);
    }

    #[test]
    fn an_answer_without_a_seal_is_not_believed_but_quoted() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        });
        let seal = Seal::new("lab", "node-2", Some(&secret())).unwrap();
        let error = post(&seal, &mut client(), &to).unwrap_err();
        let line = error.to_string();
        assert!(matches!(error, SealedCallError::Refused(..)), "{line}");
        assert!(line.starts_with(&to.address.to_string()) && line.ends_with("(it said 200: ok)"), "{line}");
        node.join().unwrap();
    }
}
