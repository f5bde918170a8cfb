//! The live table in a real terminal: a pseudo-terminal (pty(7)), and behind it a small one that knows what the program uses.
//!
//! A sequence that it does not know is a failure. So what a user's terminal has to know, and to have undone at the end, stands
//! here.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use super::programs::cluster::{Cluster, ClusterOptions};
use super::up::{RAKIT, base_port, eventually, nobody_is_left, ordered, signal, temporary};

/// A row of the screen.
#[derive(Clone, Debug, Default)]
struct Row {
    text: Vec<char>,
    /// The row above was full, and went on here.
    continued: bool,
}

/// What stands on the screen, and what was done to it.
#[derive(Debug, Default)]
struct Screen {
    columns: usize,
    rows: usize,
    /// At most `rows`; the cursor is in one of them.
    lines: Vec<Row>,
    row: usize,
    column: usize,
    /// A control sequence that has begun.
    sequence: Option<String>,
    /// Bytes of a character that has begun.
    character: Vec<u8>,
    /// SGR parameters in force; empty for the default.
    style: String,
    /// How many times the style was changed.
    styled: usize,
}

impl Screen {
    fn new(columns: usize, rows: usize) -> Screen {
        Screen { columns, rows, lines: vec![Row::default()], ..Screen::default() }
    }

    fn resize(&mut self, columns: usize, rows: usize) {
        (self.columns, self.rows) = (columns, rows);
        for line in &mut self.lines {
            line.text.truncate(columns);
        }
        let gone = (self.row + 1).saturating_sub(rows);
        self.lines.drain(..gone);
        self.row -= gone;
        self.lines.truncate(rows);
    }

    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.character.push(*byte);
            if let Ok(text) = std::str::from_utf8(&self.character) {
                let c = text.chars().next().expect("one character");
                self.character.clear();
                self.put(c);
            }
            assert!(self.character.len() < 4, "not UTF-8: {:?}", self.character);
        }
    }

    fn put(&mut self, c: char) {
        if let Some(mut sequence) = self.sequence.take() {
            sequence.push(c);
            if sequence == "[" || c.is_ascii_digit() || c == ';' || c == '?' {
                self.sequence = Some(sequence);
            } else {
                self.control(&sequence);
            }
            return;
        }
        match c {
            '\u{1b}' => self.sequence = Some(String::new()),
            '\r' => self.column = 0,
            '\n' => self.feed_line(false),
            '\u{7}' => {}
            _ => {
                assert!(!c.is_control(), "a control character: {c:?}");
                if self.column >= self.columns {
                    self.feed_line(true);
                    self.column = 0;
                }
                let text = &mut self.lines[self.row].text;
                text.resize(text.len().max(self.column + 1), ' ');
                text[self.column] = c;
                self.column += 1;
            }
        }
    }

    fn feed_line(&mut self, continued: bool) {
        self.row += 1;
        if self.row == self.lines.len() {
            self.lines.push(Row::default());
        }
        self.lines[self.row].continued = continued;
        if self.lines.len() > self.rows {
            self.lines.remove(0);
            self.row -= 1;
        }
    }

    fn control(&mut self, sequence: &str) {
        let (parameters, letter) = sequence[1..].split_at(sequence.len() - 2);
        match letter {
            "A" => self.row = self.row.saturating_sub(parameters.parse().expect("a number")),
            "J" => {
                assert_eq!(parameters, "", "from the cursor on");
                self.lines.truncate(self.row + 1);
                self.lines[self.row].text.truncate(self.column);
            }
            "m" => {
                self.style = if parameters == "0" { String::new() } else { parameters.to_string() };
                self.styled += 1;
            }
            // What bash does at its prompt, too: bracketed paste.
            "h" | "l" if parameters == "?2004" => {}
            _ => panic!("a sequence that not every terminal knows: {sequence:?}"),
        }
    }

    fn text(&self) -> Vec<String> {
        let text = |row: &Row| row.text.iter().collect::<String>().trim_end().to_string();
        self.lines.iter().map(text).collect()
    }

    /// The newest line that contains all these words, with how far from the top it stands.
    fn line(&self, words: &[&str]) -> Option<(usize, String)> {
        let text = self.text();
        let position = text.iter().rposition(|line| words.iter().all(|word| line.contains(word)))?;
        Some((position, text[position].clone()))
    }
}

/// The screen, and word of each change to it.
struct Shared {
    screen: Mutex<Screen>,
    changed: Condvar,
}

impl Shared {
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().expect("the reader has not failed")
    }
}

/// Wakes who waits for the screen, also when its reader fails.
struct WakeOnDrop(Arc<Shared>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.changed.notify_all();
    }
}

/// A program in a terminal of its own, which somebody reads or not.
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
    shared: Arc<Shared>,
    child: Option<Child>,
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("it opens");
        let screen = Mutex::new(Screen::new(columns.into(), rows.into()));
        let shared = Arc::new(Shared { screen, changed: Condvar::new() });
        let terminal = Terminal { master, slave, shared, child: None };
        terminal.set_size(columns, rows);
        terminal
    }

    fn set_size(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        // The lock keeps what was meant for the other size apart.
        self.shared.screen().resize(columns.into(), rows.into());
        tcsetwinsize(&self.slave, size).expect("it is a terminal");
    }

    /// From now on, all that is written there comes on the screen.
    fn read(&self) {
        let mut master = File::from(self.master.try_clone().expect("a descriptor"));
        let waking = WakeOnDrop(Arc::clone(&self.shared));
        std::thread::spawn(move || {
            let shared = &waking.0;
            let mut bytes = [0; 4096];
            // EIO: nobody has the other side open any more.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                shared.screen().feed(&bytes[..read]);
                shared.changed.notify_all();
            }
        });
    }

    /// Starts the program with this as its controlling terminal.
    fn run(&mut self, environment: &[(&str, &str)], program: &[&str]) {
        let side = || Stdio::from(self.slave.try_clone().expect("a descriptor"));
        let mut command = Command::new("setsid");
        command.args(["--ctty"]).args(program).stdin(side()).stdout(side()).stderr(side());
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(environment.iter().copied());
        self.child = Some(command.spawn().expect("setsid of util-linux"));
    }

    fn up(&mut self, dir: &Path, base: u16, (nodes, servers): (u16, u16), environment: &[(&str, &str)]) {
        let words = up_words(dir, base, nodes, servers);
        self.run(environment, &words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn type_in(&self, text: &str) {
        File::from(self.master.try_clone().expect("a descriptor"))
            .write_all(text.as_bytes())
            .expect("the terminal takes it");
    }

    /// Waits until a line contains all these words.
    fn shows(&self, words: &[&str]) -> String {
        let missing = |screen: &mut Screen| screen.line(words).is_none();
        let waited =
            self.shared.changed.wait_timeout_while(self.shared.screen(), super::up::PATIENCE, missing);
        let (screen, _) = waited.expect("the reader has not failed");
        let line = screen.line(words).map(|(_, line)| line);
        line.unwrap_or_else(|| panic!("no line with {words:?} in:\n{}", screen.text().join("\n")))
    }

    /// Waits for the line `ready`, and nothing else in it.
    fn ready(&self) {
        let missing = |screen: &mut Screen| screen.text().iter().all(|line| line != "ready");
        let waited =
            self.shared.changed.wait_timeout_while(self.shared.screen(), super::up::PATIENCE, missing);
        let (screen, waited) = waited.expect("the reader has not failed");
        assert!(!waited.timed_out(), "`ready` never came:\n{}", screen.text().join("\n"));
    }

    fn signal(&self, with: Signal) {
        signal(self.child.as_ref().expect("it was started").id(), with);
    }

    /// Waits for the end of the program; gives its exit code.
    fn ended(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("it was started");
        eventually("the program ends", || child.try_wait().expect("it is our child")).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its children end with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn up_words(dir: &Path, base: u16, nodes: u16, servers: u16) -> Vec<String> {
    let dir = dir.display().to_string();
    let numbers = [base, nodes, servers].map(|number| number.to_string());
    let [base, nodes, servers] = numbers.each_ref().map(String::as_str);
    [RAKIT, "up", "--dir", &dir, "--base-port", base, "--nodes", nodes, "--servers", servers]
        .map(ToString::to_string)
        .to_vec()
}

/// Who leads, as the headline says.
fn leader_of(headline: &str) -> String {
    let words: Vec<&str> = headline.split(' ').collect();
    assert_eq!((words[0], words[2]), ("node", "leads"), "{headline}");
    words[1].to_string()
}

fn same_headline(one: &Terminal, other: &Terminal) {
    let headline = |terminal: &Terminal| {
        let screen = terminal.shared.screen();
        screen.line(&["node ", " leads term ", ", elected by ", " · "]).map(|(_, line)| line)
    };
    eventually("both show the same headline", || {
        headline(one).filter(|line| headline(other).as_ref() == Some(line))
    });
}

#[test]
fn the_table_tells_who_leads_who_is_dead_and_when_there_is_no_majority_in_any_window() {
    let dir = temporary();
    let base = base_port(3, 1);
    let mut terminal = Terminal::new(80, 24);
    let before = format!("{:?}", tcgetattr(&terminal.slave).expect("it is a terminal"));
    terminal.read();
    terminal.up(dir.path(), base, (3, 1), &[]);
    terminal.ready();
    let first = eventually("the headline and the table show one leader", || {
        let screen = terminal.shared.screen();
        let (_, headline) = screen.line(&[" leads term ", ", elected by ", " · 1 of 3 may still fail"])?;
        let leads = leader_of(&headline);
        screen.line(&[&format!(" ★ {leads}  leader ")]).map(|_| leads)
    });
    terminal.shows(&["server-1  ● alive "]);
    terminal.shows(&["server-1 is new (log index "]);

    // Somebody who watches from elsewhere sees the same.
    let mut watcher = Terminal::new(100, 30);
    watcher.read();
    let config = dir.path().join("cluster.toml").display().to_string();
    watcher.run(&[], &[RAKIT, "status", "--watch", "--config", &config]);
    same_headline(&terminal, &watcher);

    ordered(dir.path(), &format!("kill node-{first}"));
    terminal.shows(&[&format!(" ✕ {first}  dead, "), " old "]);
    let headline = terminal.shows(&[" leads term ", ", elected by ", " · no other node may fail"]);
    let second = leader_of(&headline);
    assert_ne!(first, second);
    terminal.shows(&[&format!("The leader, node {first} of term "), " was lost: "]);
    terminal.shows(&[&format!("Node {second} leads term "), ", elected in "]);
    same_headline(&terminal, &watcher);
    watcher.shows(&[&format!(" ? {first}  no answer, "), " old "]);

    ordered(dir.path(), &format!("kill node-{second}"));
    terminal.shows(&["NO MAJORITY: 1 of 3. Primes are served from a state ", " s old"]);
    watcher.shows(&["NO MAJORITY: 1 of 3. Primes are served from a state ", " s old"]);
    watcher.signal(Signal::INT);
    assert_eq!(watcher.ended(), Some(0));

    // A small window: all but the headline is short, and no line of the table goes on in the next row.
    for (columns, rows) in [(40, 24), (40, 8), (20, 6), (80, 24)] {
        terminal.set_size(columns, rows);
        eventually("the table is drawn for the new size", || {
            let screen = terminal.shared.screen();
            let (start, _) = screen.line(&["NO MAJORITY:"])?;
            let table = &screen.lines[start..];
            let whole = screen.line(&["NO MAJORITY: 1 of 3. Primes are served from a state"]).is_some();
            // Only in the window that is wide enough it is one line again.
            // A table that was under way was drawn for the size before, and is drawn over.
            (whole == (columns == 80) && table.iter().all(|row| !row.continued)).then_some(())
        });
    }

    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), Some(0));
    terminal.shows(&["stopped"]);
    nobody_is_left(dir.path());
    let after = format!("{:?}", tcgetattr(&terminal.slave).expect("it is a terminal"));
    assert_eq!(before, after, "the terminal is as before");
    let screen = terminal.shared.screen();
    assert!(screen.styled > 0, "there was colour");
    drop(screen);
    // The rest of what was written may come a moment after its last line.
    eventually("the prompt begins where it should, without colour", || {
        let screen = terminal.shared.screen();
        (screen.style.is_empty() && screen.column == 0).then_some(())
    });
}

/// Ctrl-S, a stalled connection, a window that hangs: the terminal is full, and takes nothing.
#[test]
fn a_terminal_that_nobody_reads_does_not_keep_it_from_stopping() {
    let dir = temporary();
    let base = base_port(1, 1);
    let mut terminal = Terminal::new(80, 24);
    let flags = rustix::fs::fcntl_getfl(&terminal.slave).expect("it is open");
    rustix::fs::fcntl_setfl(&terminal.slave, flags | OFlags::NONBLOCK).expect("it is ours");
    let full = loop {
        match rustix::io::write(&terminal.slave, b"no room is left here\n") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(full, Errno::AGAIN);
    rustix::fs::fcntl_setfl(&terminal.slave, flags).expect("it is ours");
    terminal.up(dir.path(), base, (1, 1), &[]);
    eventually("it is ready all the same", || {
        let log = fs::read_to_string(dir.path().join("logs/up.log")).ok()?;
        log.lines().any(|line| line.ends_with("ready")).then_some(())
    });
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), Some(0));
    nobody_is_left(dir.path());
}

#[test]
fn after_ctrl_z_and_fg_the_table_stands_below_what_the_shell_has_written() {
    let dir = temporary();
    let base = base_port(1, 0);
    let mut terminal = Terminal::new(100, 40);
    terminal.read();
    terminal.run(&[("PS1", "$ ")], &["bash", "--norc", "--noprofile", "--noediting", "-i"]);
    terminal.shows(&["$"]);
    terminal.type_in(&format!("{}\n", up_words(dir.path(), base, 1, 0).join(" ")));
    terminal.shows(&["node 1 leads term ", ", elected by 1"]);
    terminal.type_in("\u{1a}");
    terminal.shows(&["Stopped"]);
    terminal.type_in("echo at the $((40 + 2))\n");
    terminal.shows(&["at the 42"]);
    terminal.type_in("fg\n");
    eventually("the table is drawn again, below", || {
        let screen = terminal.shared.screen();
        let (shell, _) = screen.line(&["at the 42"]).expect("what the shell has written stays");
        screen.line(&["node 1 leads term "]).filter(|(table, _)| *table > shell)
    });
    terminal.type_in("\u{3}");
    terminal.shows(&["stopped"]);
    terminal.type_in("exit\n");
    terminal.ended();
    nobody_is_left(dir.path());
}

#[test]
fn no_colour_and_no_table_where_they_are_not_wanted() {
    let dir = temporary();
    let base = base_port(1, 0);
    let mut terminal = Terminal::new(80, 24);
    terminal.read();
    terminal.up(dir.path(), base, (1, 0), &[("NO_COLOR", "1")]);
    terminal.shows(&["node 1 leads term "]);
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), Some(0));
    assert_eq!(terminal.shared.screen().styled, 0);

    let mut terminal = Terminal::new(80, 24);
    terminal.read();
    terminal.up(dir.path(), base, (1, 0), &[("TERM", "dumb")]);
    terminal.ready();
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), Some(0));
    terminal.shows(&["stopped"]);
    let screen = terminal.shared.screen();
    assert!(screen.line(&["node", "role"]).is_none(), "{:#?}", screen.text());
}

/// A node that cluster.toml does not name has its row as soon as it is a member.
#[test]
fn the_table_of_a_watch_follows_the_members() {
    let mut cluster = Cluster::start(ClusterOptions::nodes(3));
    let mut terminal = Terminal::new(120, 40);
    terminal.read();
    let config = cluster.config().display().to_string();
    terminal.run(&[], &[RAKIT, "status", "--watch", "--config", &config]);
    eventually("the table shows the leader", || {
        let leader = cluster.public(cluster.agreed_leader()?).to_string();
        terminal.shared.screen().line(&["leader", &leader]).map(|_| ())
    });
    cluster.add_machine(4);
    cluster.restart(4);
    let (cluster_address, public) = (cluster.cluster_address(4).to_string(), cluster.public(4).to_string());
    let said = Command::new(RAKIT)
        .args([
            "members",
            "add",
            "4",
            "--cluster",
            &cluster_address,
            "--public",
            &public,
            "--config",
            &config,
        ])
        .output()
        .expect("rakit starts");
    assert!(said.status.success(), "{said:?}");
    terminal.shows(&["follower", &public]);
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.ended(), Some(0));
}
