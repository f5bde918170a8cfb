//! A false node at the address of a real one: it is glad to found a cluster, grants every vote and acknowledges everything. With a gate, it is somebody
//! between two nodes who lets the openings of streams through, and answers everything else himself.
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rakit::protocol::{Purpose, ReplyEnvelope, RequestEnvelope, to_json};
use rakit::raft::{AppendReply, AppendResult, FoundingReply, Life, RpcReply, RpcRequest, VoteReply};
use rakit::signing::{Gate, Verdict};

use super::http;

/// Starts it; it ends with the test's process. `gate` answers openings of streams. `headers` makes the headers of an answer from the number of votes and
/// foundings that were granted so far. Gives that number.
pub fn start(
    address: SocketAddr,
    gate: Option<Gate>,
    headers: impl Fn(usize) -> Vec<(&'static str, String)> + Copy + Send + 'static,
) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).expect("a port that is kept for us");
    let granted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&granted);
    let gate = Arc::new(gate);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
            std::thread::spawn(move || grant_all(stream, gate.as_ref().as_ref(), &count, headers));
        }
    });
    granted
}

/// One connection, request after request, until it is closed.
fn grant_all(
    mut stream: TcpStream,
    gate: Option<&Gate>,
    granted: &AtomicUsize,
    headers: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> Option<()> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let (body_at, length) = loop {
            let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
            if let Some(end) = text.find("\r\n\r\n") {
                let length: usize =
                    text.split("content-length:").nth(1)?.split("\r\n").next()?.trim().parse().ok()?;
                if seen.len() >= end + 4 + length {
                    break (end + 4, length);
                }
            }
            match http::read_some(&mut stream, &mut buffer).ok()? {
                0 => return None,
                read => seen.extend_from_slice(&buffer[..read]),
            }
        };
        let head = String::from_utf8_lossy(&seen[..body_at]).into_owned();
        if let Some(answer) = gate.and_then(|gate| opening(gate, &head)) {
            seen.drain(..body_at + length);
            stream.write_all(&answer).ok()?;
            continue;
        }
        let envelope: RequestEnvelope = serde_json::from_slice(&seen[body_at..body_at + length]).ok()?;
        seen.drain(..body_at + length);
        let grant = |own_term, for_term| {
            granted.fetch_add(1, Ordering::SeqCst);
            VoteReply { term: own_term, for_term, vote_granted: true }
        };
        let reply = match envelope.request {
            RpcRequest::PreVote(vote) => RpcReply::PreVote(grant(vote.term - 1, vote.term)),
            RpcRequest::RequestVote(vote) => RpcReply::RequestVote(grant(vote.term, vote.term)),
            RpcRequest::AppendEntries(append) => {
                let match_index = append.prev_log_index + append.entries.len() as u64;
                let result = AppendResult::Success { match_index };
                RpcReply::AppendEntries(AppendReply { term: append.term, life: Life::default(), result })
            }
            RpcRequest::Founding(_) => {
                granted.fetch_add(1, Ordering::SeqCst);
                RpcReply::Founding(FoundingReply::Joining { incarnation: 3 })
            }
            RpcRequest::InstallSnapshot(_) | RpcRequest::TimeoutNow(_) | RpcRequest::CompareState(_) => {
                return None;
            }
        };
        let body = to_json(&ReplyEnvelope { incarnation: 3, reply });
        stream.write_all(&answer(&headers(granted.load(Ordering::SeqCst)), &body)).ok()?;
    }
}

/// The answer to the opening of a stream; `None` to anything else.
fn opening(gate: &Gate, head: &str) -> Option<Vec<u8>> {
    let header = |wanted: &'static str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let target = head.split(' ').nth(1)?;
    let peer = SocketAddr::from(([127, 0, 0, 1], 0));
    match gate.judge("POST", target, header, &[Purpose::Raft], peer, Duration::from_secs(1)) {
        Verdict::Answer { opened, status: 200, line } => {
            Some(answer(&gate.seal_answer(&opened, 200, line.as_bytes()), line.as_bytes()))
        }
        _ => None,
    }
}

fn answer(headers: &[(&'static str, String)], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        write!(answer, "{name}: {value}\r\n").expect("into memory");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(body);
    answer
}
