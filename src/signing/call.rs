//! A sealed request over HTTP: seals it, sends it, opens the answer.
//!
//! Called by everyone who sends on a cluster address: a node's peer senders, its leader watch, its exchange of counts,
//! its relays (a follower hands a report or an order on), the daemons, and `rakit transfer`, `servers`, `members` and
//! `check`. [`crate::http`] below has no seals.

use std::fmt;
use std::net::SocketAddr;

use super::seal::SendingStream;
use super::streams::TICKET_DIGITS;
use super::{Refusal, RefusalKind, Seal, SealedRequest};
use crate::http::client::{Answer, CallError, Client};
use crate::protocol::{Purpose, path};

/// How many bytes of a refusal's body an error quotes at most.
const QUOTE_BYTES_MAX: usize = 200;

/// The answer to an opening is a ticket, or a line that says why there is none.
const OPENING_ANSWER_BYTES_MAX: usize = 4 * 1024;

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
    /// Seals and sends `POST target`, and opens the answer. With a secret, the returned answer is proven to be
    /// the recipient's answer to this request. The answer's body may have `answer_bytes_max` bytes.
    ///
    /// If no stream is open for this recipient and purpose, it opens one first. If the node does not know the stream,
    /// it opens another and repeats the request, once: the node has proved that it has not carried the first one out.
    ///
    /// # Errors
    /// `Call` when no answer came. `Refused` when the answer cannot be trusted, or when the node refused
    /// *our* request; then the error quotes the node's answer.
    pub fn post(
        &mut self,
        client: &mut Client,
        to: &Recipient,
        purpose: Purpose,
        target: &str,
        body: &[u8],
        answer_bytes_max: usize,
    ) -> Result<Answer, SealedCallError> {
        self.open_stream(client, to, purpose)?;
        match self.post_once(client, to, purpose, target, body, answer_bytes_max) {
            Err(SealedCallError::Refused(_, refusal)) if refusal.kind == RefusalKind::UnknownStream => {
                self.open_stream(client, to, purpose)?;
                self.post_once(client, to, purpose, target, body, answer_bytes_max)
            }
            outcome => outcome,
        }
    }

    /// [`post`](Self::post) on the stream that is open, and without a repetition: exactly one call of `client`.
    ///
    /// # Errors
    /// As there; `Refused` with `UnknownStream` if the node does not know the stream. After each error the stream is
    /// closed.
    ///
    /// # Panics
    /// If there is a secret and no stream was opened.
    pub fn post_once(
        &mut self,
        client: &mut Client,
        to: &Recipient,
        purpose: Purpose,
        target: &str,
        body: &[u8],
        answer_bytes_max: usize,
    ) -> Result<Answer, SealedCallError> {
        // Taken out, and put back if the answer can be believed.
        let mut stream = self.place_of_stream(to, purpose).map(|place| self.streams.swap_remove(place));
        assert!(stream.is_some() || self.key(purpose).is_none(), "whoever seals has opened a stream");
        // When `client` repeats the request on a fresh connection, the repetition has the next number: the node may
        // have accepted the first one before the connection broke.
        let seal_anew = || {
            let (name, number) = stream.as_mut().map_or(("", 0), |stream| {
                stream.number += 1;
                (stream.name.as_str(), stream.number)
            });
            self.request(&to.name, purpose, "POST", target, body, name, number)
        };
        let answer = self.exchange(client, to, target, body, answer_bytes_max, seal_anew)?;
        self.streams.extend(stream);
        Ok(answer)
    }

    /// Opens a stream to `to`, unless there is one, or no secret. One round trip.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub fn open_stream(
        &mut self,
        client: &mut Client,
        to: &Recipient,
        purpose: Purpose,
    ) -> Result<(), SealedCallError> {
        if self.key(purpose).is_none() || self.place_of_stream(to, purpose).is_some() {
            return Ok(());
        }
        let nonce = self.nonce();
        let seal = || self.opening(&to.name, purpose, &nonce);
        let answer = self.exchange(client, to, path::STREAM, b"", OPENING_ANSWER_BYTES_MAX, seal)?;
        let ticket = str::from_utf8(&answer.body).ok().map(str::trim);
        let Some(ticket) = ticket.filter(|ticket| answer.status == 200 && ticket.len() == TICKET_DIGITS)
        else {
            let why = format!("no stream was opened: it said {}: {}", answer.status, quote(&answer.body));
            return Err(SealedCallError::Refused(to.address, Refusal::new(RefusalKind::Malformed, why)));
        };
        let (recipient, name) = (to.name.clone(), nonce + ticket);
        self.streams.push(SendingStream { recipient, purpose, name, number: 0 });
        Ok(())
    }

    /// Makes sure that the next request to `to` waits for nothing: that a connection is open, and a stream which the
    /// node knows. To be called from time to time by a thread that has nothing to send. Does nothing without a secret.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    pub fn keep_ready(
        &mut self,
        client: &mut Client,
        to: &Recipient,
        purpose: Purpose,
    ) -> Result<(), SealedCallError> {
        if self.key(purpose).is_none() {
            return Ok(());
        }
        self.post(client, to, purpose, path::STREAM, b"", OPENING_ANSWER_BYTES_MAX).map(drop)
    }

    fn place_of_stream(&self, to: &Recipient, purpose: Purpose) -> Option<usize> {
        self.streams.iter().position(|stream| stream.purpose == purpose && stream.recipient == to.name)
    }

    /// Sends what `seal` makes, for each attempt anew, and gives the answer if it can be believed.
    fn exchange(
        &self,
        client: &mut Client,
        to: &Recipient,
        target: &str,
        body: &[u8],
        answer_bytes_max: usize,
        mut seal: impl FnMut() -> SealedRequest,
    ) -> Result<Answer, SealedCallError> {
        let mut newest = None;
        let headers = || newest.insert(seal()).headers.clone();
        let answer = client.post(to.address, target, headers, body, answer_bytes_max);
        let answer = answer.map_err(SealedCallError::Call)?;
        let request = newest.expect("an answer came, so a request was sealed and sent");
        let judged = self.open_answer(&request, answer.status, |name| answer.header(name), &answer.body);
        let Err(mut refusal) = judged else { return Ok(answer) };
        // A node that refuses our request does not sign its answer. So the unsigned words prove
        // nothing, but they are the operator's best hint.
        if refusal.kind == RefusalKind::Unsigned {
            let said = quote(&answer.body);
            refusal.detail = format!("{} (it said {}: {said})", refusal.detail, answer.status);
            refusal.said = Some(answer.status);
        }
        Err(SealedCallError::Refused(to.address, refusal))
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

    use super::super::{Gate, Secret, Verdict};
    use super::*;
    use crate::http::client::ClientTimeouts;

    const PATIENCE: Duration = Duration::from_secs(60);
    const BODY: &[u8] = b"vote";

    fn secret() -> Secret {
        Secret::parse(b"0123456789abcdef").unwrap()
    }

    fn gate() -> Gate {
        Gate::new("lab", "node-1", Some(&secret())).unwrap()
    }

    fn listen() -> (TcpListener, Recipient) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Recipient { name: "node-1".to_owned(), address })
    }

    /// What node 2 posts to this listener.
    struct Poster {
        seal: Seal,
        client: Client,
        to: Recipient,
    }

    impl Poster {
        fn new(to: &Recipient) -> Self {
            let timeouts = ClientTimeouts { connect: PATIENCE, send: PATIENCE, receive: PATIENCE };
            let seal = Seal::new("lab", "node-2", Some(&secret())).unwrap();
            Self { seal, client: Client::new(timeouts), to: to.clone() }
        }

        fn post(&mut self) -> Result<Vec<u8>, SealedCallError> {
            let target = path::REQUEST_VOTE;
            let answer = self.seal.post(&mut self.client, &self.to, Purpose::Raft, target, BODY, 1000);
            answer.map(|answer| answer.body)
        }
    }

    /// One connection of a node that has this gate.
    struct Served {
        stream: TcpStream,
        reader: BufReader<TcpStream>,
        peer: SocketAddr,
    }

    impl Served {
        fn accept(listener: &TcpListener) -> Self {
            let (stream, peer) = listener.accept().unwrap();
            let reader = BufReader::new(stream.try_clone().unwrap());
            Self { stream, reader, peer }
        }

        /// The target and what the gate says to the next request; `None` when the connection ends before one begins.
        fn judge_next(&mut self, gate: &Gate) -> Option<(String, Verdict)> {
            let lines: Vec<String> = self
                .reader
                .by_ref()
                .lines()
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty())
                .collect();
            let target = lines.first()?.split(' ').nth(1).unwrap().to_owned();
            let header = |wanted: &'static str| {
                let mut fields = lines.iter().filter_map(|line| line.split_once(": "));
                fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
            };
            let length = header("Content-Length").map_or(0, |length| length.parse().unwrap());
            self.reader.read_exact(&mut vec![0; length]).unwrap();
            let verdict =
                gate.judge("POST", &target, header, &[Purpose::Raft], self.peer, Duration::from_secs(1));
            Some((target, verdict))
        }

        fn answer(&mut self, status: u16, headers: &[(&'static str, String)], body: &str) {
            write!(self.stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len()).unwrap();
            for (name, value) in headers {
                write!(self.stream, "{name}: {value}\r\n").unwrap();
            }
            write!(self.stream, "\r\n{body}").unwrap();
        }

        /// Answers what the gate answers itself; gives anything else, with its target.
        fn next_accepted(&mut self, gate: &Gate) -> Option<(String, crate::signing::Opened)> {
            loop {
                match self.judge_next(gate)? {
                    (target, Verdict::Accepted(opened)) => return Some((target, opened)),
                    (_, Verdict::Answer { opened, status, line }) => {
                        let headers = gate.seal_answer(&opened, status, line.as_bytes());
                        self.answer(status, &headers, &line);
                    }
                    (target, Verdict::Refused(refusal)) => panic!("{target}: {refusal}"),
                }
            }
        }

        /// Says "yes", sealed.
        fn agree(&mut self, gate: &Gate, opened: &crate::signing::Opened) {
            self.answer(200, &gate.seal_answer(opened, 200, b"yes"), "yes");
        }
    }

    #[test]
    fn a_repetition_has_a_number_of_its_own() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let gate = gate();
            // The gate accepts every request; on this connection, the second one is never answered.
            let mut first = Served::accept(&listener);
            let (_, opened) = first.next_accepted(&gate).unwrap();
            first.agree(&gate, &opened);
            first.next_accepted(&gate).unwrap();
            drop(first);
            let mut second = Served::accept(&listener);
            let (_, opened) = second.next_accepted(&gate).unwrap();
            second.agree(&gate, &opened);
        });
        let mut poster = Poster::new(&to);
        for _ in 0..2 {
            assert_eq!(poster.post().unwrap(), b"yes");
        }
        drop(poster);
        node.join().unwrap();
    }

    #[test]
    fn to_a_node_that_was_restarted_another_stream_is_opened() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let mut connection = Served::accept(&listener);
            let mut targets = Vec::new();
            for gate in [gate(), gate()] {
                for _ in 0..2 {
                    let (target, opened) = connection.next_accepted(&gate).unwrap();
                    targets.push(target);
                    connection.agree(&gate, &opened);
                }
            }
            targets
        });
        let mut poster = Poster::new(&to);
        for _ in 0..3 {
            assert_eq!(poster.post().unwrap(), b"yes");
        }
        // One that has nothing to say keeps the stream ready.
        poster.seal.keep_ready(&mut poster.client, &to, Purpose::Raft).unwrap();
        assert_eq!(poster.seal.streams.len(), 1);
        let vote = path::REQUEST_VOTE;
        assert_eq!(node.join().unwrap(), [vote, vote, vote, path::STREAM]);
    }

    #[test]
    fn a_node_that_never_knows_a_stream_is_not_asked_for_ever() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let mut connection = Served::accept(&listener);
            let mut asked = 0;
            // A fresh gate for each request: it opens streams, and knows none.
            while let Some((_, verdict)) = connection.judge_next(&gate()) {
                let Verdict::Answer { opened, status, line } = verdict else { panic!("{verdict:?}") };
                asked += 1;
                let headers = gate().seal_answer(&opened, status, line.as_bytes());
                connection.answer(status, &headers, &line);
            }
            asked
        });
        let mut poster = Poster::new(&to);
        let error = poster.post().unwrap_err();
        assert!(error.to_string().contains("unknown-stream"), "{error}");
        drop(poster);
        assert_eq!(node.join().unwrap(), 4);
    }

    #[test]
    fn after_a_request_without_an_answer_the_stream_is_closed() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let gate = gate();
            let mut names = Vec::new();
            for _ in 0..2 {
                let mut connection = Served::accept(&listener);
                names.push(connection.next_accepted(&gate).unwrap().1.sender);
                // Half an answer: the client may not repeat the request.
                write!(connection.stream, "HTTP/1.1 200 OK\r\n").unwrap();
            }
            names
        });
        let mut poster = Poster::new(&to);
        for _ in 0..2 {
            assert!(matches!(poster.post(), Err(SealedCallError::Call(_))));
            assert!(poster.seal.streams.is_empty());
        }
        assert_eq!(node.join().unwrap().len(), 2);
    }

    #[test]
    fn an_answer_without_a_seal_is_not_believed_but_quoted() {
        let (listener, to) = listen();
        let node = thread::spawn(move || {
            let mut connection = Served::accept(&listener);
            let gate = gate();
            connection.judge_next(&gate).unwrap();
            connection.answer(200, &gate.own_headers(), "ok");
        });
        let error = Poster::new(&to).post().unwrap_err();
        let line = error.to_string();
        assert!(matches!(error, SealedCallError::Refused(..)), "{line}");
        assert!(line.starts_with(&to.address.to_string()) && line.ends_with("(it said 200: ok)"), "{line}");
        node.join().unwrap();
    }
}
