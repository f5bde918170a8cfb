//! Relays: how a follower hands reports on to the leader. Called by the cluster service's threads.
//!
//! There are few, and a report waits until one is free: with one connection and one stream of signed requests per
//! listener thread, a follower could hold thousands of both at the leader.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::http::client::{Answer, Client, ClientTimeouts};
use crate::protocol::Purpose;
use crate::signing::{Recipient, Seal, SealedCallError};

/// How many reports a node hands on at a time. One takes about a millisecond.
const RELAYS: usize = 8;

/// How long a report waits for a relay, and then for the leader's answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The leader's answer is a line.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// One connection and one stream to the leader.
struct Relay {
    client: Client,
    seal: Seal,
}

/// The relays of a node. Those that are free wait in the channel.
pub struct Relays {
    put_back: Sender<Relay>,
    free: Receiver<Relay>,
}

impl Relays {
    /// As many as a node has, all free. `seal` signs as this node; each relay takes a clone.
    pub fn new(seal: &Seal) -> Self {
        let (put_back, free) = bounded(RELAYS);
        let second = Duration::from_secs(1);
        let timeouts = ClientTimeouts { connect: second, send: second, receive: TIMEOUT };
        for _ in 0..RELAYS {
            let relay = Relay { client: Client::new(timeouts), seal: seal.clone() };
            put_back.send(relay).expect("there is room for all, and we hold the other end");
        }
        Self { put_back, free }
    }

    /// Posts a report to the leader. `None` if no relay was free in time.
    pub fn post(&self, to: &Recipient, path: &str, body: &[u8]) -> Option<Result<Answer, SealedCallError>> {
        let mut relay = self.free.recv_timeout(TIMEOUT).ok()?;
        let answer = relay.seal.post(&mut relay.client, to, Purpose::Raft, path, body, ANSWER_BYTES_MAX);
        // There is room: the channel has a place for each.
        let _ = self.put_back.send(relay);
        Some(answer)
    }
}
