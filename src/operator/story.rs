//! `rakit story`: all log files of a local cluster as one, in the order of events.
//!
//! ```text
//! 15:51:20.123456  node-3           [INFO] node: role: node 3 is a pre-candidate in term 2: …
//! ```
//!
//! The lines are sorted by their times, which are microseconds on one machine's clock. Lines of the same microsecond are
//! sorted by cause: who asks for votes comes before who grants them, and that before who leads ([`cause`]). A line without a
//! time (a traceback, a panic) belongs to the line before it.
//!
//! With `--follow`, it waits for changes in the directory (inotify(7)), then a moment longer than any program keeps a line
//! back, and prints what came, in order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rakit::program::{EXIT_OK, LogFlags};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::Failure;
use super::comparison::clean;
use super::layout::{DIRECTORY_DEFAULT, LOGS_DIRECTORY, shown};

/// How long `--follow` waits after a change before it prints: a program gathers lines for 5 ms, and a busy machine may
/// hold up its writer.
const GATHERING: Duration = Duration::from_millis(60);
/// The most bytes that are taken from one file at once, so that a log of any size needs bounded memory.
const PIECE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The length of a date and the `T` after it: the story does not repeat the day.
const DATE_LENGTH: usize = "2026-11-23T".len();

/// Flags of `rakit story`.
#[derive(clap::Args, Debug)]
pub struct StoryFlags {
    /// Go on as it happens, until Ctrl-C
    #[arg(long)]
    follow: bool,

    /// The directory that `rakit up` was given
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    dir: PathBuf,
}

/// Runs `rakit story`.
///
/// # Errors
/// There are no logs in that directory, or they can't be read.
pub fn run(flags: &StoryFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let directory = flags.dir.join(LOGS_DIRECTORY);
    let failed = |error: io::Error| {
        Failure::other(format!("{}: {error}; name the directory of `rakit up` with --dir", shown(&directory)))
    };
    let watch = flags.follow.then(|| watch(&directory)).transpose().map_err(failed)?;
    let mut story = Story::new(directory.clone());
    loop {
        match print(&story.news().map_err(failed)?) {
            Ok(()) => {}
            // Whoever read it (head, less) has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(Failure::other(format!("standard output: {error}"))),
        }
        let Some(watch) = &watch else { break };
        await_change(watch).map_err(failed)?;
        thread::sleep(GATHERING);
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn watch(directory: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, directory, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    Ok(watch)
}

/// Blocks until something in the directory has changed, and takes all that is known of it.
fn await_change(watch: &rustix::fd::OwnedFd) -> io::Result<()> {
    let mut buffer = [const { MaybeUninit::uninit() }; 16 * 1024];
    match Reader::new(watch, &mut buffer).next() {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// One event: the sort key, and what is printed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Date and time as the log writes them, which sort as text; in a worker's log to the millisecond.
    time: String,
    cause: u8,
    /// The file, then its lines in their order.
    part: String,
    position: u64,
    text: String,
}

impl Event {
    /// The line without its time.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As it is printed.
    pub fn line(&self) -> String {
        let time = self.time.get(DATE_LENGTH..).unwrap_or_default();
        format!("{time:15}  {:15}  {}", self.part, self.text)
    }
}

/// The files and how far they were read.
pub struct Story {
    directory: PathBuf,
    /// By inode, which stays the same when a full log is renamed.
    read: BTreeMap<u64, ReadSoFar>,
}

/// How far a file was read.
#[derive(Default)]
struct ReadSoFar {
    /// In bytes.
    offset: u64,
    /// The time of the last line that has one: lines without a time that come later belong to it.
    time: String,
}

impl Story {
    /// All log files in this directory, from their beginning.
    pub fn new(directory: PathBuf) -> Story {
        Story { directory, read: BTreeMap::new() }
    }

    /// The events since the last call, in order.
    ///
    /// # Errors
    /// The directory or a file in it can't be read.
    pub fn news(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for found in fs::read_dir(&self.directory)? {
            let path = found?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(part) = name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.1")) else {
                continue;
            };
            self.read_on(&path, &clean(part), &mut events)?;
        }
        events.sort();
        Ok(events)
    }

    fn read_on(&mut self, path: &Path, part: &str, events: &mut Vec<Event>) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let mut file = match File::open(path) {
            Ok(file) => file,
            // Renamed or removed a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let read = self.read.entry(found.ino()).or_default();
        if found.len() < read.offset {
            *read = ReadSoFar::default(); // Another file, which has got the inode of a removed one.
        }
        file.seek(SeekFrom::Start(read.offset))?;
        let mut lines = BufReader::new(file.take(PIECE_BYTES_MAX));
        let mut bytes = Vec::new();
        // A line that is not complete yet is read the next time.
        while lines.read_until(b'\n', &mut bytes)? > 0 && bytes.ends_with(b"\n") {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end();
            let text = match time_of(line) {
                Some(of_line) => {
                    of_line.clone_into(&mut read.time);
                    line[of_line.len() + 1..].trim_start()
                }
                None => line,
            };
            let text = clean(text);
            events.push(Event {
                time: read.time.clone(),
                cause: cause(&text),
                part: part.to_string(),
                position: read.offset,
                text,
            });
            read.offset += bytes.len() as u64;
            bytes.clear();
        }
        Ok(())
    }
}

/// The time at the beginning of a line, without its `Z`; `None` if there is none.
fn time_of(line: &str) -> Option<&str> {
    let (time, _) = line.split_once('Z')?;
    let digits = |c: char| c.is_ascii_digit() || "-T:.".contains(c);
    (time.len() > DATE_LENGTH
        && time.as_bytes().get(DATE_LENGTH - 1) == Some(&b'T')
        && time.chars().all(digits))
    .then_some(time)
}

/// The place of an event among those of the same microsecond: causes before their effects.
fn cause(text: &str) -> u8 {
    const ORDER: [&str; 5] = ["is a pre-candidate", "pre-vote:", "is a candidate", "vote:", "leads term"];
    ORDER.iter().position(|words| text.contains(words)).unwrap_or(ORDER.len()) as u8
}

fn print(events: &[Event]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for event in events {
        writeln!(out, "{}", event.line())?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(story: &mut Story) -> Vec<String> {
        let news = story.news().expect("readable");
        news.into_iter().map(|event| format!("{} {}", event.part, event.text)).collect()
    }

    #[test]
    fn events_come_in_the_order_of_time_and_then_of_cause_and_each_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let file = fs::OpenOptions::new().append(true).create(true).open(dir.path().join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("our own directory");
        };
        write(
            "node-1.log",
            "2026-11-23T10:00:00.000002Z [INFO] node: role: node 1 leads term 2, elected by nodes 1, 2\n",
        );
        write(
            "node-2.log",
            "2026-11-23T10:00:00.000002Z [INFO] node: vote: node 2 votes for node 1 in term 2\n",
        );
        write(
            "node-2.log",
            "2026-11-23T10:00:00.000004Z [ERROR] thread 'raft': panicked\nstack backtrace:\n",
        );
        write(
            "node-3.log",
            "2026-11-23T10:00:00.000001Z [INFO] node: role: node 1 is a candidate\n2026-11-23T10:00:00.0000",
        );
        write("server-1-worker.log", "2026-11-23T10:00:00.003Z INFO  request \"/7\" status=200\n");
        write("notes.txt", "2026-11-23T10:00:00.000000Z not a log\n");
        let mut story = Story::new(dir.path().to_path_buf());
        assert_eq!(
            told(&mut story),
            [
                "node-3 [INFO] node: role: node 1 is a candidate",
                "node-2 [INFO] node: vote: node 2 votes for node 1 in term 2",
                "node-1 [INFO] node: role: node 1 leads term 2, elected by nodes 1, 2",
                "node-2 [ERROR] thread 'raft': panicked",
                "node-2 stack backtrace:",
                "server-1-worker INFO  request \"/7\" status=200",
            ]
        );
        assert!(told(&mut story).is_empty());
        // The line that was not complete is told when it is; a renamed log is not told again.
        write("node-3.log", "09Z [INFO] node: later\n");
        fs::rename(dir.path().join("node-1.log"), dir.path().join("node-1.log.1"))
            .expect("our own directory");
        write("node-1.log", "2026-11-23T10:00:00.000008Z [INFO] node: in the new file\n");
        assert_eq!(told(&mut story), ["node-1 [INFO] node: in the new file", "node-3 [INFO] node: later"]);
        // A line without a time belongs to the line before it, also if that was told before.
        write("node-3.log", "   1: of the backtrace\n");
        write("node-1.log", "2026-11-23T10:00:00.0000085Z [INFO] node: just before\n");
        assert_eq!(
            told(&mut story),
            ["node-1 [INFO] node: just before", "node-3    1: of the backtrace"],
            "sorted by its time"
        );
    }
}
