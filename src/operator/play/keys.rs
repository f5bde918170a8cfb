//! Single keys from the terminal, without waiting for Enter (termios(3), non-canonical mode).
//!
//! The terminal is as before when [`Keys`] is dropped, also after Ctrl-C, which is a key here, and after SIGTERM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};

/// The most bytes that are taken at once: a key is at most a few.
const KEY_BYTES_MAX: usize = 32;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The next step.
    Next,
    /// The step before.
    Back,
    /// One step after the other, by itself.
    Run,
    /// The end.
    Quit,
    /// The window has another size, or the key is none of ours.
    Redraw,
}

/// The terminal, with single keys.
pub struct Keys {
    before: Termios,
    /// Bytes that were read and are no key yet: somebody types fast.
    pending: Vec<u8>,
    ended: Arc<AtomicBool>,
}

impl Keys {
    /// # Errors
    /// Standard input is no terminal, or the system gives no signal handler.
    pub fn open() -> io::Result<Keys> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        // It only has to interrupt poll(2).
        signal_hook::flag::register(SIGWINCH, Arc::default())?;
        let before = tcgetattr(io::stdin())?;
        let mut single = before.clone();
        single.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Now, &single)?;
        Ok(Keys { before, pending: Vec::new(), ended })
    }

    /// The next key; `None` if none comes within `limit`.
    ///
    /// # Errors
    /// The terminal can't be read.
    pub fn next(&mut self, limit: Option<Duration>) -> io::Result<Option<Key>> {
        // A signal that came while a step was drawn has interrupted no poll(2).
        if self.ended.load(Ordering::SeqCst) {
            return Ok(Some(Key::Quit));
        }
        if !self.pending.is_empty() {
            return Ok(Some(take_key(&mut self.pending)));
        }
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let stdin = io::stdin();
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], limit.as_ref()) {
            Err(Errno::INTR) if self.ended.load(Ordering::SeqCst) => return Ok(Some(Key::Quit)),
            Err(Errno::INTR) => return Ok(Some(Key::Redraw)),
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        let count = rustix::io::read(&stdin, &mut bytes)?;
        if count == 0 {
            return Ok(Some(Key::Quit)); // The terminal is gone.
        }
        self.pending.extend(&bytes[..count]);
        Ok(Some(take_key(&mut self.pending)))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Takes the first key from bytes as terminals send them (ECMA-48; xterm's cursor keys in both modes).
fn take_key(bytes: &mut Vec<u8>) -> Key {
    let length = match bytes.as_slice() {
        // A control sequence ends with its first byte from @ on.
        [0x1b, b'[', rest @ ..] => {
            rest.iter().position(|byte| *byte >= b'@').map_or(bytes.len(), |end| end + 3)
        }
        [0x1b, b'O', _, ..] => 3,
        _ => 1,
    };
    let taken: Vec<u8> = bytes.drain(..length.min(bytes.len())).collect();
    match taken.as_slice() {
        [0x03 | 0x04 | b'q' | b'Q' | 0x1b] => Key::Quit,
        [b' ' | b'\n' | b'\r' | b'n' | b'N'] | [0x1b, b'[' | b'O', b'C' | b'B'] => Key::Next,
        [b'b' | b'B' | b'p' | b'P' | 0x7f] | [0x1b, b'[' | b'O', b'D' | b'A'] => Key::Back,
        [b'r' | b'R'] => Key::Run,
        _ => Key::Redraw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_terminals_send_however_fast() {
        let mut bytes = b"\x1b[C\x1bOC\r\x1b[D\x7fr\x1b[15~ \x03\x1b".to_vec();
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            keys.push(take_key(&mut bytes));
        }
        use Key::{Back, Next, Quit, Redraw, Run};
        assert_eq!(keys, [Next, Next, Next, Back, Back, Run, Redraw, Next, Quit, Quit]);
    }
}
