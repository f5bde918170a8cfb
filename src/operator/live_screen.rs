//! Standard output of a program that goes on: lines that stay, and on a terminal a table below them that is redrawn in place.
//! `rakit up` and `rakit status --watch` write here.
//!
//! A thread of its own does the writing, since a terminal may take nothing: Ctrl-S, a stalled connection, a window that
//! hangs. Whoever has something to say leaves it here and never waits: of tables the newest is kept, of lines the last
//! [`LINES_WAITING_MAX`]. At the end the thread has [`CLOSING_MAX`]; then the program ends without it.
//!
//! The terminal is never in a state that would have to be undone: no raw mode, no other screen, a visible cursor. So it is as
//! before after any end, kill -9 included. The only control sequences are CUU, ED and SGR (ECMA-48), which every terminal
//! supports, and each line ends with the default colours.
//!
//! Another thread waits for two signals: SIGWINCH (the window has another size) and SIGCONT (`fg` after Ctrl-Z: the shell has
//! written below the table). In the background nothing is drawn; a shell is at work there.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGCONT, SIGWINCH};
use signal_hook::iterator::Signals;

use super::line::Line;
use super::screen;

/// The most lines that wait for a terminal that takes nothing. Of more, the oldest are left out, and a line says how many.
const LINES_WAITING_MAX: usize = 1_000;
/// How long the end of the program waits for a terminal that takes nothing.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Gives the table for so many columns and rows. It is asked again when the window has another size.
pub type Frame = Box<dyn Fn(usize, usize) -> Vec<Line> + Send>;

/// Standard output. Dropping it writes what waits.
#[derive(Debug)]
pub struct LiveScreen {
    terminal: bool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    left_out: usize,
    frame: Option<Frame>,
    /// The table has to be drawn again.
    redraw: bool,
    /// What is drawn now stays where it is.
    leave: bool,
    /// No table is drawn any more.
    over: bool,
    closing: bool,
    /// Everything is written.
    closed: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("lines", &self.lines)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a few assignments that can't panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl LiveScreen {
    /// Finds out whether standard output is a terminal, and starts the threads.
    ///
    /// # Errors
    /// The system gives no thread or no signal handler.
    pub fn start() -> io::Result<LiveScreen> {
        let terminal = screen::is_terminal();
        let shared = Arc::new(Shared::default());
        let writer = Writer { colours: screen::has_colours(), drawn: Vec::new(), broken: false };
        let of_writer = Arc::clone(&shared);
        thread::Builder::new().name("screen".to_string()).spawn(move || writer.run(&of_writer))?;
        if terminal {
            let mut signals = Signals::new([SIGWINCH, SIGCONT])?;
            let of_signals = Arc::clone(&shared);
            thread::Builder::new().name("window".to_string()).spawn(move || {
                for signal in signals.forever() {
                    of_signals.change(|state| {
                        state.redraw = true;
                        state.leave |= signal == SIGCONT;
                    });
                }
            })?;
        }
        Ok(LiveScreen { terminal, shared })
    }

    /// Whether a table can be drawn in place.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line that stays, above the table.
    pub fn say(&self, line: &str) {
        self.shared.change(|state| {
            if state.lines.len() >= LINES_WAITING_MAX {
                state.lines.pop_front();
                state.left_out += 1;
            }
            state.lines.push_back(line.to_string());
        });
    }

    /// Draws this table in place of the earlier one; does nothing if this is no terminal.
    pub fn draw(&self, frame: Frame) {
        if self.terminal {
            self.shared.change(|state| {
                state.frame = Some(frame);
                state.redraw = true;
            });
        }
    }

    /// Keeps the table on the screen, for good. Later lines are printed below it.
    pub fn leave(&self) {
        self.shared.change(|state| {
            state.leave = true;
            state.over = true;
        });
    }
}

impl Drop for LiveScreen {
    fn drop(&mut self) {
        self.shared.change(|state| state.closing = true);
        let open = |state: &mut State| !state.closed;
        // If it takes longer, the terminal takes nothing, and the process ends under the thread that waits for it.
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), CLOSING_MAX, open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// The thread that writes.
struct Writer {
    colours: bool,
    /// The table as it stands on the screen; empty if there is none.
    drawn: Vec<Line>,
    /// Standard output is closed.
    broken: bool,
}

impl Writer {
    fn run(mut self, shared: &Shared) {
        let mut frame: Option<Frame> = None;
        let mut size = screen::size();
        loop {
            let idle =
                |state: &mut State| !state.closing && !state.redraw && !state.leave && state.lines.is_empty();
            let mut state =
                shared.changed.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut state.lines);
            let left_out = std::mem::take(&mut state.left_out);
            let leave = std::mem::take(&mut state.leave);
            state.redraw = false;
            frame = state.frame.take().or(frame).filter(|_| !state.over);
            let closing = state.closing;
            drop(state);

            let before = std::mem::replace(&mut size, screen::size());
            if leave {
                self.drawn.clear();
            }
            let (columns, rows) = size;
            let table = match &frame {
                Some(frame) if in_foreground() => fitting(frame(columns, rows), columns, rows),
                _ => Vec::new(),
            };
            if !lines.is_empty() || table != self.drawn || before != size {
                let mut text = erase(&self.drawn, columns);
                if left_out > 0 {
                    text.push_str(&format!("({left_out} lines were left out: the terminal took nothing)\n"));
                }
                lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
                for line in &table {
                    text.push_str(&if self.colours { line.painted() } else { line.text() });
                    text.push('\n');
                }
                self.drawn = table;
                self.broken = self.broken || write(text.as_bytes()).is_err();
            }
            if closing {
                shared.change(|state| state.closed = true);
                return;
            }
        }
    }
}

/// Lines that do not fit are cut, in both directions: a table taller than the screen could not be erased. After a line as
/// wide as the terminal, some terminals move the cursor to the next line and others do not.
fn fitting(lines: Vec<Line>, columns: usize, rows: usize) -> Vec<Line> {
    lines.into_iter().take(rows.saturating_sub(1)).map(|line| line.cut(columns.saturating_sub(1))).collect()
}

/// Whether this program has the terminal. One that is not the controlling terminal has no foreground.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(io::stdout()).map_or(true, |group| group == rustix::process::getpgrp())
}

/// The control sequence that moves the cursor to the first of these lines and erases the screen from there.
/// If the terminal has become narrower, it has wrapped each line into several; the sequence counts them.
fn erase(drawn: &[Line], columns: usize) -> String {
    let height: usize = drawn.iter().map(|line| line.width().div_ceil(columns.max(1)).max(1)).sum();
    if height == 0 { String::new() } else { format!("\r\u{1b}[{height}A\u{1b}[J") }
}

/// Writes all of it, however long that takes. Without the lock of std's standard output: nobody else may wait here.
fn write(mut bytes: &[u8]) -> rustix::io::Result<()> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(&stdout, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Somebody else has set it to non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::line::Style;
    use super::*;

    #[test]
    fn erasing_counts_the_lines_that_the_terminal_has_broken() {
        let drawn: Vec<Line> =
            ["x".repeat(20).as_str(), "", "short"].iter().map(|text| Line::new(Style::Bad, text)).collect();
        assert_eq!(erase(&[], 80), "");
        assert_eq!(erase(&drawn, 80), "\r\u{1b}[3A\u{1b}[J");
        assert_eq!(erase(&drawn, 10), "\r\u{1b}[4A\u{1b}[J");
    }

    #[test]
    fn a_table_leaves_the_last_row_and_the_last_column_free() {
        let table = vec![Line::new(Style::Plain, &"x".repeat(100)); 30];
        let fits = fitting(table, 80, 24);
        assert_eq!((fits.len(), fits[0].width()), (23, 79));
    }
}
