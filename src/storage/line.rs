//! The format of one line on disk: `CCCCCCCC JSON\n`, where C is the CRC-32 of what follows the space, in 8
//! hexadecimal digits. A record of the log has one number more: `CCCCCCCC BATCH JSON\n`. `store` writes lines,
//! `recovery` reads them.
//!
//! **The batch.** All records of one append carry the offset in the file at which that append began; the records that
//! stood in the log when it got its name carry 0. An append begins only after the one before it is durable. So a record
//! of a later batch is proof that everything before that batch was on the disk. Without it, zeros that a power cut left
//! in an append that nobody acknowledged look like damage.
//!
//! CRC-32 (the one of Ethernet, gzip and PNG) detects every error burst of up to 32 bits: each flipped bit
//! and each damaged byte. It does not protect against a person who changes the file on purpose.

use serde::{Deserialize, Serialize};

use super::Identity;
use crate::raft::{Founding, Index, NodeId, Record, Snapshot, Term};

/// Digits of the checksum in front of each line.
const CRC_DIGITS: usize = 8;

/// The first line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine {
    pub header: Header,
}

/// Whose log it is, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// [`PROTOCOL_VERSION`](crate::raft::PROTOCOL_VERSION) of the program that wrote it.
    pub version: u32,
    pub founding: Founding,
    pub node: NodeId,
    /// A random number, drawn when this directory was made. If it changes, the other nodes know that this
    /// node has lost its disk.
    pub incarnation: u64,
    /// The log's first entry has the index after this one. 0: the log is complete. Otherwise a snapshot up to
    /// this index or a later one must exist. If somebody removes it, this field shows the loss, even if the
    /// log is empty.
    pub after_index: Index,
    /// The term of the entry at `after_index`.
    pub after_term: Term,
}

impl Header {
    pub(super) fn identity(&self) -> Identity {
        Identity { founding: self.founding.clone(), node: self.node }
    }
}

/// The only line of a snapshot's file, as it is written.
#[derive(Serialize)]
pub(super) struct SnapshotLine<'a> {
    pub version: u32,
    pub founding: &'a Founding,
    pub snapshot: &'a Snapshot,
}

/// The only line of a snapshot's file, as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadSnapshotLine {
    #[serde(rename = "version")]
    pub _version: u32,
    pub founding: Founding,
    pub snapshot: Snapshot,
}

/// Adds one line to `buffer`.
///
/// # Errors
/// When `value` has no JSON form.
pub(super) fn write<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    write_after(buffer, b"", value)
}

/// Adds the line of one record of the batch that begins at this offset.
///
/// # Errors
/// When `record` has no JSON form.
pub(super) fn write_record(
    buffer: &mut Vec<u8>,
    batch: u64,
    record: &Record,
) -> Result<(), serde_json::Error> {
    write_after(buffer, format!("{batch} ").as_bytes(), record)
}

fn write_after<T: Serialize>(
    buffer: &mut Vec<u8>,
    prefix: &[u8],
    value: &T,
) -> Result<(), serde_json::Error> {
    let start = buffer.len();
    // The checksum is filled in afterwards, so that the JSON need not be written elsewhere and copied.
    buffer.extend_from_slice(b"........ ");
    let body = buffer.len();
    buffer.extend_from_slice(prefix);
    serde_json::to_writer(&mut *buffer, value)?;
    let crc = crc32fast::hash(&buffer[body..]);
    for (place, digit) in buffer[start..start + CRC_DIGITS].iter_mut().zip((0..CRC_DIGITS).rev()) {
        *place = b"0123456789abcdef"[(crc >> (4 * digit) & 0xf) as usize];
    }
    buffer.push(b'\n');
    Ok(())
}

/// The batch and the JSON of a record, from a line whose checksum is right.
///
/// # Errors
/// When it is no record.
pub(super) fn split_batch(body: &[u8]) -> Result<(u64, &[u8]), String> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let batch = str::from_utf8(&body[..digits]).ok().and_then(|digits| digits.parse().ok());
    match (batch, body[digits..].strip_prefix(b" ")) {
        (Some(batch), Some(json)) => Ok((batch, json)),
        _ => Err("the checksum is right, but the line names no batch".to_owned()),
    }
}

/// What the checksum of one line (without its newline) covers, if it is right.
///
/// # Errors
/// What is wrong with the line, as a text for a person.
pub(super) fn verify(line: &[u8]) -> Result<&[u8], String> {
    let Some((digits, rest)) = line.split_at_checked(CRC_DIGITS) else {
        return Err(format!("a line of {} bytes is too short for a checksum", line.len()));
    };
    let mut stated: u32 = 0;
    for digit in digits {
        // Lower case only: each line has exactly one correct form.
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err("the line does not begin with a checksum of 8 hexadecimal digits".to_owned()),
        };
        stated = stated << 4 | u32::from(value);
    }
    let Some(body) = rest.strip_prefix(b" ") else {
        return Err("no space after the checksum".to_owned());
    };
    let computed = crc32fast::hash(body);
    if computed == stated {
        Ok(body)
    } else {
        Err(format!("the checksum says {stated:08x}, the line gives {computed:08x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_the_standard_crc_of_its_json() {
        let mut buffer = b"before".to_vec();
        write(&mut buffer, &123_456_789_u32).expect("a number has a JSON form");
        // "123456789" is the standard check input of CRC catalogues: cbf43926 is its CRC-32.
        assert_eq!(buffer, b"beforecbf43926 123456789\n");
        assert_eq!(verify(b"cbf43926 123456789"), Ok(&b"123456789"[..]));
    }

    #[test]
    fn a_record_names_its_batch() {
        let mut buffer = Vec::new();
        write_record(&mut buffer, 4711, &Record::Truncate { from: 2 }).expect("a record has a JSON form");
        let body = verify(&buffer[..buffer.len() - 1]).expect("our own line");
        assert_eq!(split_batch(body), Ok((4711, &br#"{"truncate":{"from":2}}"#[..])));
        for wrong in [&b"{}"[..], b"12", b"", b" {}", b"-1 {}", b"99999999999999999999 {}"] {
            assert!(split_batch(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn anything_else_is_told_apart() {
        for (line, what) in [
            (&b"cbf4392"[..], "too short"),
            (b"", "too short"),
            (b"cbf43926", "no space"),
            (b"cbf43926\t123456789", "no space"),
            (b"CBF43926 123456789", "hexadecimal"),
            (b"+bf43926 123456789", "hexadecimal"),
            (b"cbf43926 123456780", "the line gives"),
            (b"cbf43927 123456789", "the line gives"),
            (b"cbf43926  123456789", "the line gives"),
        ] {
            let error = verify(line).expect_err("not a line of ours");
            assert!(error.contains(what), "{error}");
        }
    }
}
