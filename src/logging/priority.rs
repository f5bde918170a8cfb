//! The priority of a line as the journal reads it: `<3>` in front of an error (sd-daemon(3)), so that `journalctl -p
//! warning` finds it.
//!
//! Called by `output.rs`. Only the journal wants this, and a service may send its standard error elsewhere. So the
//! journal says in `$JOURNAL_STREAM` which stream is its own: device and inode (systemd.exec(5)).
use std::ffi::OsStr;
use std::os::fd::AsFd;

use log::Level;

/// What is put in front of a line takes so many bytes.
pub(super) const BYTES: usize = "<6>".len();

/// Whether what is written here goes to the journal.
pub(super) fn is_journal(place: impl AsFd) -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some_and(|stream| {
        rustix::fs::fstat(place).is_ok_and(|found| names(&stream, found.st_dev, found.st_ino))
    })
}

fn names(stream: &OsStr, device: u64, inode: u64) -> bool {
    stream == OsStr::new(&format!("{device}:{inode}"))
}

/// The lines, each with its priority in front. `layout.rs` has made them: `2026-11-23T15:51:20.123456Z [INFO] …`. A
/// line without a level in its place is the last one of a program that can't go on: an error.
pub(super) fn before_each(lines: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(lines.len() + lines.len() / 16);
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        marked.extend_from_slice(priority(level(line)));
        marked.extend_from_slice(line);
    }
    marked
}

/// The levels of syslog(3).
fn priority(level: Level) -> &'static [u8; BYTES] {
    match level {
        Level::Error => b"<3>",
        Level::Warn => b"<4>",
        Level::Info => b"<6>",
        Level::Debug | Level::Trace => b"<7>",
    }
}

fn level(line: &[u8]) -> Level {
    let word = line.splitn(3, |byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok());
    let word = word.and_then(|word| word.strip_prefix('[')?.strip_suffix(']'));
    word.and_then(|word| word.parse().ok()).unwrap_or(Level::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_the_priority_of_its_level() {
        let layout = super::super::layout::LineLayout::new();
        let mut lines = Vec::new();
        for level in Level::iter() {
            layout
                .line(level, "raft", "[ERROR] is a word of a message", |line| lines.extend_from_slice(line));
        }
        lines.extend_from_slice(b"rakit-node: cluster.toml: there is none\n");
        let marked = String::from_utf8(before_each(&lines)).expect("text");
        let priorities: Vec<&str> = marked.lines().map(|line| &line[..BYTES]).collect();
        assert_eq!(priorities, ["<3>", "<4>", "<6>", "<7>", "<7>", "<3>"]);
    }

    #[test]
    fn the_journal_is_the_stream_that_it_names() {
        let stream = OsStr::new("8:12345");
        assert!(names(stream, 8, 12_345));
        assert!(!names(stream, 8, 1_234) && !names(stream, 81, 2345) && !names(OsStr::new(""), 0, 0));
    }
}
