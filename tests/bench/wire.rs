//! The client's half of HTTP/1.1, as much as a measurement needs: requests as bytes, and a stream of bytes cut into answers.
//! Every part that speaks to a system by itself uses it, for Rakit and the peers alike.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A healthy system answers any request of the benchmark within this time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// The other side closes the connection after it.
    pub closes: bool,
}

/// Cuts what a connection delivers into answers.
#[derive(Debug, Default)]
pub struct Answers {
    buffer: Vec<u8>,
}

impl Answers {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole answer, if it has come. A body has a length, or comes in chunks (etcd's gateway now and then).
    ///
    /// # Errors
    /// When it is no answer.
    pub fn next(&mut self) -> io::Result<Option<Answer>> {
        let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let Some(start) = find(&self.buffer, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
        let head = String::from_utf8_lossy(&self.buffer[..start]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| broken("no status line"))?;
        let header = |name: &str| {
            let values = head.lines().filter_map(|line| line.split_once(':'));
            values.filter(|(n, _)| *n == name).map(|(_, value)| value.trim()).next()
        };
        let closes = header("connection") == Some("close");
        let (body, end) = if let Some(length) = header("content-length") {
            let end = start + length.parse::<usize>().map_err(|_| broken("a length that is no number"))?;
            match self.buffer.get(start..end) {
                Some(body) => (body.to_vec(), end),
                None => return Ok(None),
            }
        } else {
            match chunks(&self.buffer[start..]).map_err(|()| broken("neither a length nor chunks"))? {
                Some((body, length)) => (body, start + length),
                None => return Ok(None),
            }
        };
        self.buffer.drain(..end);
        Ok(Some(Answer { status, body, closes }))
    }
}

/// RFC 9112, section 7.1: the body and the bytes that its chunks take; `None` if it is not whole.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| ())?;
        let length = usize::from_str_radix(digits.trim(), 16).map_err(|_| ())?;
        let (start, end) = (at + line + 2, at + line + 2 + length);
        let Some(chunk) = bytes.get(start..end) else { return Ok(None) };
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        body.extend_from_slice(chunk);
        at = end + 2;
        if length == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// `GET path`.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// `POST path` with a JSON body.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends one request over a connection of its own and reads the answer.
///
/// # Errors
/// When there is none.
pub fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    exchange(&mut stream, request)
}

/// The same over a connection that stays.
///
/// # Errors
/// When there is no answer.
pub fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut answers, mut bytes) = (Answers::default(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answers.push(&bytes[..read]),
        }
        if let Some(answer) = answers.next()? {
            return Ok(answer);
        }
    }
}

/// A connection that is kept for the next request, as long as the other side keeps it.
#[derive(Debug)]
pub struct Kept {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Kept {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request and reads the answer. If the kept connection was closed meanwhile, it asks once more on a fresh one.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        let mut answer = self.stream.take().map(|stream| self.exchange(stream, request));
        if !matches!(answer, Some(Ok(_))) {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            answer = Some(self.exchange(stream, request));
        }
        answer.expect("asked above")
    }

    fn exchange(&mut self, mut stream: TcpStream, request: &[u8]) -> io::Result<Answer> {
        let answer = exchange(&mut stream, request)?;
        self.stream = (!answer.closes).then_some(stream);
        Ok(answer)
    }

    /// `GET /N`: the number in an answer with status 200.
    ///
    /// # Errors
    /// When that is not what comes.
    pub fn prime(&mut self, n: u64) -> io::Result<u64> {
        let address = self.address;
        let failed = |why: String| io::Error::other(format!("GET /{n} of {address}: {why}"));
        let answer = self.ask(&get(&format!("/{n}"))).map_err(|error| failed(error.to_string()))?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        match body.trim().parse() {
            Ok(prime) if answer.status == 200 => Ok(prime),
            _ => Err(failed(format!("{} {body}", answer.status))),
        }
    }
}

/// The JSON of an answer with status 200 to one request.
///
/// # Errors
/// When that is not what comes.
pub fn ask_json(address: SocketAddr, request: &[u8]) -> io::Result<Value> {
    let answer = ask(address, request)?;
    if answer.status != 200 {
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(io::Error::other(format!("{address} answered {}: {said}", answer.status)));
    }
    Ok(serde_json::from_slice(&answer.body)?)
}
