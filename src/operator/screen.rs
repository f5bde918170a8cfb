//! Standard output, as every command of `rakit` needs it: lines, and what is known of the terminal. What goes on (`rakit up`,
//! `rakit status --watch`) writes through `live_screen.rs`.
//!
//! Nothing here fails: a closed terminal or a closed pipe must not hide the exit code.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

/// The assumed size if the terminal gives none, in columns and rows: that of a VT100.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Prints a line.
pub fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Whether it is a terminal that can move its cursor.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal.
pub fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE_DEFAULT,
    }
}

/// Whether there may be colours: only where a person looks, and wants them (<https://no-color.org>).
pub fn has_colours() -> bool {
    is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
