//! Writes to standard output: on a terminal, a table that is redrawn in place; otherwise plain lines.
//!
//! Events are lines that stay; on a terminal they scroll above the table. Nothing here fails: a closed
//! terminal (SIGHUP follows) or a closed pipe must not end a cluster.
//!
//! It uses only three control sequences (ECMA-48: CUU, ED, and carriage return), which every terminal
//! supports.

use std::io::{self, IsTerminal as _, Write as _};

use super::table::cut;

/// The assumed size if the terminal gives none, in columns and rows: that of a VT100.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    /// The table as it was drawn last; empty if there is none on the screen.
    drawn: Vec<String>,
}

impl Screen {
    /// Finds out whether standard output is a terminal.
    pub fn new() -> Screen {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Screen { terminal: io::stdout().is_terminal() && !dumb, drawn: Vec::new() }
    }

    /// Whether a table can be drawn in place.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns and rows of the terminal.
    pub fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if self.terminal && size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => SIZE_DEFAULT,
        }
    }

    /// Prints a line that stays, above the table.
    pub fn say(&mut self, line: &str) {
        let table = std::mem::take(&mut self.drawn);
        let mut text = erase(&table, self.size().0);
        text.push_str(line);
        text.push('\n');
        write(&text);
        self.draw(table);
    }

    /// Draws these lines in place of the earlier ones; does nothing if this is no terminal. Lines that do not
    /// fit the terminal are cut, in both directions: a table taller than the screen could not be erased.
    pub fn draw(&mut self, lines: Vec<String>) {
        if !self.terminal {
            return;
        }
        let (columns, rows) = self.size();
        let mut text = erase(&self.drawn, columns);
        // After a line as wide as the terminal, some terminals move the cursor to the next line and others do
        // not.
        self.drawn = lines.iter().take(rows.saturating_sub(1)).map(|line| cut(line, columns - 1)).collect();
        for line in &self.drawn {
            text.push_str(line);
            text.push('\n');
        }
        write(&text);
    }

    /// Keeps the table on the screen. Later lines are printed below it.
    pub fn leave(&mut self) {
        self.drawn.clear();
    }
}

/// The control sequence that moves the cursor to the first of these lines and erases the screen from there.
/// If the terminal has become narrower, it has wrapped each line into several; the sequence counts them.
fn erase(drawn: &[String], columns: usize) -> String {
    let height: usize = drawn.iter().map(|line| line.chars().count().div_ceil(columns.max(1)).max(1)).sum();
    if height == 0 { String::new() } else { format!("\r\u{1b}[{height}A\u{1b}[J") }
}

fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erasing_counts_the_lines_that_the_terminal_has_broken() {
        let drawn = vec!["x".repeat(20), String::new(), "short".to_string()];
        assert_eq!(erase(&[], 80), "");
        assert_eq!(erase(&drawn, 80), "\r\u{1b}[3A\u{1b}[J");
        assert_eq!(erase(&drawn, 10), "\r\u{1b}[4A\u{1b}[J");
    }
}
