//! Makes any text fit to be one line of a log, of an error or of a terminal.
//!
//! Called by the logger for every message, and by code that shows the text of a peer, a client or a file to a
//! person. The escapes are for people and cannot be decoded: a backslash in the text stays as it is.
use std::fmt;

/// How many bytes of a message a log line shows, its escapes included.
pub const MESSAGE_BYTES_MAX: usize = 3_840;

/// The longest escape of one character, in bytes: `\u{10ffff}`.
const ESCAPE_BYTES_MAX: usize = 10;

/// Collects text and escapes characters that could break the line or deceive its reader. It counts the bytes
/// beyond the bound and does not keep them, so that a message of a gigabyte costs no memory.
#[derive(Debug)]
pub struct OneLine {
    text: String,
    bytes_max: usize,
    bytes_left_out: usize,
}

impl OneLine {
    /// An empty line. It keeps at most `bytes_max` bytes of text, and says at its end how many bytes were
    /// left out.
    pub fn new(bytes_max: usize) -> Self {
        Self { text: String::with_capacity(128.min(bytes_max)), bytes_max, bytes_left_out: 0 }
    }

    /// The line, without a line break at its end.
    pub fn finish(mut self) -> String {
        if self.bytes_left_out > 0 {
            self.text.push_str(&format!("… ({} more bytes)", self.bytes_left_out));
        }
        self.text
    }
}

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The fast path for nearly every text: nothing to escape, and enough room.
        let harmless = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if harmless
            && self.bytes_left_out == 0
            && self.text.len() + text.len() + ESCAPE_BYTES_MAX <= self.bytes_max
        {
            self.text.push_str(text);
            return Ok(());
        }
        for character in text.chars() {
            if self.bytes_left_out > 0 || self.text.len() + ESCAPE_BYTES_MAX > self.bytes_max {
                self.bytes_left_out += character.len_utf8();
                continue;
            }
            match character {
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                _ if deceives(character) => self.text.extend(character.escape_unicode()),
                _ => self.text.push(character),
            }
        }
        Ok(())
    }
}

/// `text` on one line, at most about [`MESSAGE_BYTES_MAX`] bytes of it.
pub fn one_line(text: &str) -> String {
    let mut line = OneLine::new(MESSAGE_BYTES_MAX);
    fmt::Write::write_str(&mut line, text).expect("collecting into memory cannot fail");
    line.finish()
}

/// Whether a character moves the cursor, ends the line, or changes the order or look of the text around it.
fn deceives(character: char) -> bool {
    // C0 (with ESC), DEL and C1 (with CSI as one character, which some terminals obey).
    character.is_control()
        || matches!(character,
            // Line and paragraph separator: a line break for some viewers.
            '\u{2028}' | '\u{2029}'
            // Marks, embeddings, overrides and isolates of the bidirectional algorithm (Unicode Annex 9):
            // they make a reader see another order than the bytes have.
            | '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Characters without any width: two names that look the same.
            | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_breaks_a_line_or_deceives_and_nothing_else() {
        for (text, expected) in [
            ("plain, ümläut, 素数, \\ and \"", "plain, ümläut, 素数, \\ and \""),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\u{0}\u{1b}[31m\u{7f}\u{9b}2J", "\\u{0}\\u{1b}[31m\\u{7f}\\u{9b}2J"),
            ("abc\u{202e}fed\u{2066}", "abc\\u{202e}fed\\u{2066}"),
            ("two\u{2028}lines, no\u{200b}width", "two\\u{2028}lines, no\\u{200b}width"),
        ] {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_says_how_much_is_missing() {
        let line = one_line(&"é".repeat(MESSAGE_BYTES_MAX));
        let (kept, rest) = line.split_once('…').expect("a mark where it was cut");
        assert!(kept.len() <= MESSAGE_BYTES_MAX && kept.chars().all(|c| c == 'é'));
        assert_eq!(rest, format!(" ({} more bytes)", 2 * MESSAGE_BYTES_MAX - kept.len()));
    }

    #[test]
    fn nothing_follows_what_was_left_out() {
        // Otherwise the end of a long message could follow its beginning, and the gap would be invisible.
        let line = one_line(&format!("{}\u{10ffff}end", "x".repeat(MESSAGE_BYTES_MAX - 5)));
        assert!(!line.contains("end"), "{line}");
    }
}
