//! Bodies in chunks (RFC 9112 section 7.1), decoded while their bytes arrive. `connection.rs` reads requests with it,
//! the worker client's `answer.rs` answers. No I/O.
//!
//! A chunk is its size in hexadecimal digits, CR LF, so many bytes, CR LF. The last one has size 0. After it come
//! trailer fields, which are dropped, and an empty line. Where the RFC lets a recipient guess, this one refuses: two
//! programs that find different ends of one body would disagree on where the next message begins.

/// The longest line of a size with its extensions, or of a trailer field, in bytes. Nobody here uses either.
pub(super) const LINE_BYTES_MAX: usize = 1024;

/// The longest size: 16 hexadecimal digits are 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It is not made of chunks.
    Malformed,
    /// Its content is longer than it may be.
    TooLong,
}

/// Where in a body the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// At the beginning of a line with a size.
    #[default]
    Size,
    /// In a chunk, before so many more bytes of content.
    Content(u64),
    /// After the content of a chunk.
    ContentEnd,
    /// At the beginning of a trailer field, or of the empty line at the end.
    Trailer,
    /// Behind the body.
    End,
}

/// A body that arrives.
#[derive(Debug, Default)]
pub struct Chunks {
    place: Place,
}

impl Chunks {
    /// Whether the body is whole.
    pub fn is_whole(&self) -> bool {
        self.place == Place::End
    }

    /// Decodes from `input` as much as it can, and adds the content to `body`, which never grows beyond `bytes_max`.
    /// Returns how many bytes of `input` it has used. The rest must be given again, with more bytes behind it. `body`
    /// must not be longer than `bytes_max` already.
    ///
    /// # Errors
    /// When this is no chunked body, or its content is too long. A size counts as soon as it is read.
    pub fn decode(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, ChunkError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.place {
                Place::Size => {
                    let Some(line) = line_of(rest)? else { return Ok(used) };
                    let size = size_of(line)?;
                    if size > (bytes_max - body.len()) as u64 {
                        return Err(ChunkError::TooLong);
                    }
                    used += line.len() + 2;
                    self.place = if size == 0 { Place::Trailer } else { Place::Content(size) };
                }
                Place::Content(left) => {
                    let came = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&rest[..came]);
                    used += came;
                    match left - came as u64 {
                        0 => self.place = Place::ContentEnd,
                        left => {
                            self.place = Place::Content(left);
                            return Ok(used);
                        }
                    }
                }
                Place::ContentEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        used += 2;
                        self.place = Place::Size;
                    }
                    [] | [b'\r'] => return Ok(used),
                    _ => return Err(ChunkError::Malformed),
                },
                Place::Trailer => {
                    let Some(line) = line_of(rest)? else { return Ok(used) };
                    used += line.len() + 2;
                    if line.is_empty() {
                        self.place = Place::End;
                    }
                }
                Place::End => return Ok(used),
            }
        }
    }
}

/// The line at the beginning of `bytes`, without its CR LF; `None` if it is not whole yet.
fn line_of(bytes: &[u8]) -> Result<Option<&[u8]>, ChunkError> {
    let end = bytes.iter().take(LINE_BYTES_MAX).position(|byte| byte.is_ascii_control() && *byte != b'\t');
    match end.map(|end| &bytes[end..]) {
        Some([b'\r', b'\n', ..]) => Ok(end.map(|end| &bytes[..end])),
        Some([b'\r']) => Ok(None),
        None if bytes.len() < LINE_BYTES_MAX => Ok(None),
        // A lone CR or LF, another control character, or no end of the line.
        _ => Err(ChunkError::Malformed),
    }
}

/// The size that a line gives. Extensions may follow it after a semicolon; they are dropped.
fn size_of(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = line[digits..].trim_ascii_start();
    if !(1..=SIZE_DIGITS_MAX).contains(&digits) || !(digits == line.len() || extension.starts_with(b";")) {
        return Err(ChunkError::Malformed);
    }
    let digits = std::str::from_utf8(&line[..digits]).expect("hexadecimal digits are ASCII");
    Ok(u64::from_str_radix(digits, 16).expect("16 digits fit into 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a whole stream decodes to, and how many of its bytes are left, if it comes in pieces of this length.
    fn decode(stream: &[u8], piece: usize, bytes_max: usize) -> Result<Option<(Vec<u8>, usize)>, ChunkError> {
        let (mut chunks, mut body, mut held) = (Chunks::default(), Vec::new(), Vec::new());
        let mut pieces = stream.chunks(piece);
        while !chunks.is_whole() {
            let Some(piece) = pieces.next() else { return Ok(None) };
            held.extend_from_slice(piece);
            let used = chunks.decode(&held, &mut body, bytes_max)?;
            held.drain(..used);
        }
        let unread: usize = pieces.map(<[u8]>::len).sum();
        Ok(Some((body, held.len() + unread)))
    }

    #[test]
    fn whole_bodies_are_decoded_in_whatever_pieces_they_come() {
        for (stream, body, left) in [
            ("0\r\n\r\n", "", 0),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
            ("1\r\nh\r\n4\r\nello\r\n000\r\n\r\nGET", "hello", 3),
            ("A;x=y\r\n0123456789\r\n0;z\r\nX: y\r\nZ:\r\n\r\n", "0123456789", 0),
            ("5 \t;name=\"a;b\"\r\nhello\r\n0\r\n\r\n", "hello", 0),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", 0),
        ] {
            for piece in 1..=stream.len() {
                let decoded = decode(stream.as_bytes(), piece, 10).expect("well-formed");
                assert_eq!(decoded, Some((body.into(), left)), "{stream:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn nothing_but_chunks_is_taken_for_them() {
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 5\r\n",
            "5\n",
            "5\rx",
            "00000000000000000\r\n",
            "5;\u{1}\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "1\r\nh\n0\r\n\r\n",
            "0\r\nX: y\n\r\n",
        ] {
            for piece in 1..=bad.len() {
                assert_eq!(decode(bad.as_bytes(), piece, 10), Err(ChunkError::Malformed), "{bad:?}");
            }
        }
        let endless = "5;".to_owned() + &"x".repeat(LINE_BYTES_MAX);
        assert_eq!(decode(endless.as_bytes(), 100, 10), Err(ChunkError::Malformed));
    }

    #[test]
    fn what_is_not_whole_waits_and_what_is_too_long_does_not() {
        let whole = "5\r\nhello\r\n5;x\r\nhello\r\n0\r\nX: y\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(decode(&whole.as_bytes()[..end], 7, 10), Ok(None), "{:?}", &whole[..end]);
        }
        assert_eq!(decode(whole.as_bytes(), 7, 9), Err(ChunkError::TooLong));
        assert_eq!(decode(b"ffffffffffffffff\r\n", 7, 10), Err(ChunkError::TooLong));
        assert_eq!(decode(b"1\r\n", 7, 0), Err(ChunkError::TooLong));
    }
}
