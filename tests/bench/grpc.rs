//! The part of gRPC over HTTP/2 (RFC 9113, RFC 7541) that a client needs to put keys into etcd, one call at a time. etcd also takes
//! JSON, but its translation of JSON costs more than the writes.

use crate::Fallible;
use crate::closed_loop::Dialogue;

/// RFC 9113, 6: the types of frames that are looked at.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const RST_STREAM: u8 = 3;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
const ACK: u8 = 1;

const FRAME_HEAD_BYTES: usize = 9;

/// The name of the status, as an HPACK string without Huffman coding, and its value 0. A call that fails has another value; etcd
/// does not compress its trailers with Huffman codes where that saves nothing.
const STATUS_NAME: &[u8] = b"grpc-status";

/// A client that puts one key again and again, each time with another value.
pub struct Put {
    key: String,
    sequence: u64,
    stream: u32,
    received: Vec<u8>,
    /// The call was answered with a message, which only a successful put has.
    message: bool,
}

impl Put {
    pub fn new(key: String) -> Self {
        Self { key, sequence: 0, stream: 0, received: Vec::new(), message: false }
    }
}

impl Dialogue for Put {
    fn greeting(&mut self) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        bytes
    }

    fn request(&mut self) -> Vec<u8> {
        self.sequence += 1;
        // The client's streams are odd.
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.message = false;
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, self.stream, &headers());
        // etcdserverpb.PutRequest: key = 1, value = 2. As long as a report.
        let value = format!("{:0160}", self.sequence);
        let mut message = Vec::new();
        for (field, text) in [(1_u8, &self.key), (2, &value)] {
            message.push(field << 3 | 2);
            varint(&mut message, text.len());
            message.extend_from_slice(text.as_bytes());
        }
        // A gRPC message: not compressed, its length, itself.
        let mut data = vec![0];
        data.extend_from_slice(&(message.len() as u32).to_be_bytes());
        data.extend_from_slice(&message);
        frame(&mut bytes, DATA, END_STREAM, self.stream, &data);
        bytes
    }

    fn hear(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Fallible<bool> {
        self.received.extend_from_slice(bytes);
        let mut over = false;
        loop {
            let Some(head) = self.received.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(over) };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let Some(payload) = self.received.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length) else {
                return Ok(over);
            };
            match kind {
                SETTINGS if flags & ACK == 0 => frame(reply, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(reply, PING, ACK, 0, payload),
                DATA => {
                    self.message |= !payload.is_empty();
                    // Gives the room back to the connection; the stream ends with this answer.
                    frame(reply, WINDOW_UPDATE, 0, 0, &(length.max(1) as u32).to_be_bytes());
                }
                HEADERS if flags & END_STREAM != 0 => {
                    if !self.message {
                        return Err(format!("etcd refused a put: {}", failure(payload)).into());
                    }
                    over = true;
                }
                RST_STREAM | GO_AWAY => return Err("etcd broke a call off".into()),
                _ => {}
            }
            self.received.drain(..FRAME_HEAD_BYTES + length);
        }
    }
}

fn failure(payload: &[u8]) -> String {
    let known = payload.windows(STATUS_NAME.len()).any(|window| window == STATUS_NAME);
    let text = String::from_utf8_lossy(payload);
    if known { text.into_owned() } else { "its trailers are compressed".to_owned() }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// The head of every call. RFC 7541, 6.1 and 6.2.2: indexed fields, and literals that nobody has to remember.
fn headers() -> Vec<u8> {
    // :method POST and :scheme http stand in the static table.
    let mut block = vec![0x80 | 3, 0x80 | 6];
    let mut literal = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8); // All are shorter than 127 bytes.
            block.extend_from_slice(text.as_bytes());
        }
    };
    literal(":path", "/etcdserverpb.KV/Put");
    literal(":authority", "bench");
    literal("content-type", "application/grpc");
    literal("te", "trailers");
    block
}

fn varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
