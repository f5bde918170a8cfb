//! A simple HTTP client: one connection per request, exactly the bytes that the test wrote, and no repetition.
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The server that computed it.
    pub fn server(&self) -> &str {
        self.header("x-rakit-server").unwrap_or_else(|| panic!("no server is named: {self:?}"))
    }
}

/// Sends these bytes and reads one answer, however long the connection stays open afterwards.
///
/// # Errors
/// When the connection fails, or what comes is no whole answer.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    read_answer(&mut stream)
}

/// `GET target`, with these further header lines (each `"Name: value"`).
pub fn get_with(address: SocketAddr, target: &str, headers: &[&str]) -> io::Result<Answer> {
    request(address, "GET", target, headers, b"")
}

/// `GET target`.
pub fn get(address: SocketAddr, target: &str) -> io::Result<Answer> {
    get_with(address, target, &[])
}

/// `POST target` with this body, unsigned.
pub fn post(address: SocketAddr, target: &str, body: &[u8]) -> io::Result<Answer> {
    request(address, "POST", target, &["Content-Type: application/json"], body)
}

/// The headers by which an operator's program without a secret says who asks which node; the purpose comes beside them.
pub fn operator_asks(node: u64) -> [String; 4] {
    [
        format!("X-Rakit-Version: {}", rakit::raft::PROTOCOL_VERSION),
        "X-Rakit-Cluster: systest".to_owned(),
        "X-Rakit-Sender: operator".to_owned(),
        format!("X-Rakit-Recipient: node-{node}"),
    ]
}

/// Any request.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> io::Result<Answer> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        bytes.push_str(header);
        bytes.push_str("\r\n");
    }
    if !body.is_empty() || method == "POST" {
        bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes)
}

/// Reads what is there, as [`Read::read`] does, and goes on after a signal: Linux does not restart a read that has a time-out
/// when the process was stopped, or the machine stood still, and goes on (signal(7)).
///
/// # Errors
/// As [`Read::read`], but never [`io::ErrorKind::Interrupted`].
pub fn read_some(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let broken = |why: &str, seen: &[u8]| {
        let seen = String::from_utf8_lossy(seen);
        io::Error::new(io::ErrorKind::InvalidData, format!("{why}: {seen:?}"))
    };
    let (mut seen, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let head_end = loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        match read_some(stream, &mut buffer)? {
            0 => return Err(broken("closed before a whole head", &seen)),
            read => seen.extend_from_slice(&buffer[..read]),
        }
    };
    let head = String::from_utf8_lossy(&seen[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| broken("no status", &seen))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: Option<usize> =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let length = length.ok_or_else(|| broken("no Content-Length", &seen))?;
    let whole = head_end + 4 + length;
    while seen.len() < whole {
        match read_some(stream, &mut buffer)? {
            0 => return Err(broken("closed before a whole body", &seen)),
            read => seen.extend_from_slice(&buffer[..read]),
        }
    }
    let body = String::from_utf8_lossy(&seen[head_end + 4..whole]).into_owned();
    // The other side may have closed already.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(Answer { status, headers, body })
}
