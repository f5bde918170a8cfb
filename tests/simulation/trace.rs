//! The transcript of a seed: what a person reads when it fails, and what two runs are compared by.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::rc::Rc;

use super::plan::Time;

/// So many lines at the end are kept for printing.
const LINES_KEPT: usize = 400;

/// A transcript. Clones are the same one: the runner keeps one, to read it after a panic.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Rc<RefCell<Lines>>>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    hash: u64,
    count: u64,
}

impl Trace {
    /// One that records nothing and costs nothing: seeds are run with it first, and once more, recorded, if they fail.
    pub fn off() -> Self {
        Self(None)
    }

    pub fn on() -> Self {
        Self(Some(Rc::default()))
    }

    /// One line, made only if somebody reads it.
    pub fn line(&self, now: Time, text: impl FnOnce() -> String) {
        let Some(lines) = &self.0 else { return };
        let mut line = format!("{:>6}.{:03} ms  ", now / 1_000, now % 1_000);
        let _ = write!(line, "{}", text());
        let mut lines = lines.borrow_mut();
        // FNV-1a over every byte of every line.
        let mut hash = lines.hash ^ 0xcbf2_9ce4_8422_2325;
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        lines.hash = hash;
        lines.count += 1;
        if lines.kept.len() == LINES_KEPT {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }

    /// How many lines there were, and a hash of them all.
    pub fn fingerprint(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |lines| {
            let lines = lines.borrow();
            (lines.count, lines.hash)
        })
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let Some(lines) = &self.0 else { return String::new() };
        let lines = lines.borrow();
        let kept: Vec<&str> = lines.kept.iter().map(String::as_str).collect();
        format!("(last {} of {} lines)\n{}", kept.len(), lines.count, kept.join("\n"))
    }
}
