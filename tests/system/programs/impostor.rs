//! A false node at the address of a real one: it grants every vote and acknowledges everything.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rakit::protocol::{ReplyEnvelope, RequestEnvelope, to_json};
use rakit::raft::{AppendReply, AppendResult, RpcReply, RpcRequest, VoteReply};

/// Starts it; it ends with the test's process. `headers` makes the headers of an answer from the number of votes that were
/// granted so far. Gives that number.
pub fn start(
    address: SocketAddr,
    headers: impl Fn(usize) -> Vec<(&'static str, String)> + Copy + Send + 'static,
) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).expect("a port that is kept for us");
    let granted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&granted);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || grant_all(stream, &count, headers));
        }
    });
    granted
}

/// One connection, request after request, until it is closed.
fn grant_all(
    mut stream: TcpStream,
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
            match stream.read(&mut buffer).ok()? {
                0 => return None,
                read => seen.extend_from_slice(&buffer[..read]),
            }
        };
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
                RpcReply::AppendEntries(AppendReply { term: append.term, result })
            }
            RpcRequest::InstallSnapshot(_) | RpcRequest::TimeoutNow(_) => return None,
        };
        let body = to_json(&ReplyEnvelope { incarnation: 3, reply });
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len()).into_bytes();
        for (name, value) in headers(granted.load(Ordering::SeqCst)) {
            write!(answer, "{name}: {value}\r\n").expect("into memory");
        }
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(&body);
        stream.write_all(&answer).ok()?;
    }
}
