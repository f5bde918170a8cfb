//! `rakit play`: the recorded schedules of `rakit::plays`, step by step on a terminal.
//!
//! On a terminal each step stands alone, and keys go on and back. Without one, or with `--run`, all steps are printed one
//! after the other. `play/picture.rs` draws a step as text, `play/keys.rs` reads keys.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use rakit::plays::{PLAYS, Play};
use rakit::program::{EXIT_OK, LogFlags};

use super::Failure;
use super::demo::{Language, Words};
use super::screen;
use keys::{Key, Keys};
use picture::{Picture, fitting};

mod keys;
mod picture;

/// How long each step stays while the play runs by itself: its sentences can be read aloud.
const RUN_PAUSE: Duration = Duration::from_secs(8);
/// Erases the screen and goes to its first place (ECMA-48: ED, CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

const KEYS: Words = Words {
    en: "→ or Enter: next   ←: back   r: run   q: quit",
    id: "→ atau Enter: lanjut   ←: kembali   r: putar   q: selesai",
};

/// Flags of `rakit play`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    rakit play                       which plays there are\n  \
    rakit play figure-8              step by step: → or Enter next, ← back, r run, q quit\n  \
    rakit play figure-8 --run        all steps, one after the other\n  \
    rakit play election --lang id    in Indonesian\n\n\
    The steps are recorded from Rakit's own Raft core by its tests. The page has the same plays.")]
pub struct PlayFlags {
    /// Which play; without it, all are listed
    name: Option<String>,

    /// Print all steps instead of waiting for keys
    #[arg(long)]
    run: bool,

    /// In English or in Indonesian; the lines of the core stay as they are
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,
}

/// Runs `rakit play`.
///
/// # Errors
/// There is no play of that name, or the terminal can't be read.
pub fn run(flags: &PlayFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let done = match &flags.name {
        None => print(&list(flags.lang)),
        Some(name) => {
            let play = Play::of(name).ok_or_else(|| {
                Failure::usage(format!(
                    "there is no play `{name}`; there are: {}",
                    PLAYS.map(|(name, _)| name).join(", ")
                ))
            })?;
            let by_hand = !flags.run && io::stdin().is_terminal() && screen::is_terminal();
            if by_hand { step_by_hand(&play, name, flags.lang) } else { print(&all(&play, name, flags.lang)) }
        }
    };
    match done {
        Ok(()) => Ok(ExitCode::from(EXIT_OK)),
        // Whoever read it (head, less) has gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::from(EXIT_OK)),
        Err(error) => Err(Failure::other(format!("the terminal: {error}"))),
    }
}

fn print(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    out.flush()
}

fn list(language: Language) -> Vec<String> {
    let titles = PLAYS.iter().filter_map(|(name, _)| Some((name, Play::of(name)?.title)));
    let width = PLAYS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut lines: Vec<String> =
        titles.map(|(name, title)| format!("{name:width$}  {}", picture::said(&title, language))).collect();
    let how = Words { en: "Play one: rakit play figure-8", id: "Mainkan salah satu: rakit play figure-8" };
    lines.extend([String::new(), how.say(language).to_string()]);
    lines
}

fn all(play: &Play, name: &str, language: Language) -> Vec<String> {
    let (width, _) = screen::size();
    let picture = Picture { play, name, language, width, coloured: screen::has_colours() };
    let mut lines = Vec::new();
    for number in 0..play.steps.len() {
        lines.extend(picture.lines(number, usize::MAX));
        lines.push(String::new());
    }
    lines
}

fn step_by_hand(play: &Play, name: &str, language: Language) -> io::Result<()> {
    let mut keys = Keys::open()?;
    let (mut number, mut runs) = (0, false);
    let last = play.steps.len() - 1;
    loop {
        let (width, rows) = screen::size();
        let picture = Picture { play, name, language, width, coloured: screen::has_colours() };
        // The row below the last line stays free: a newline there would scroll.
        let mut lines = picture.lines(number, rows.saturating_sub(2));
        lines.push(fitting(KEYS.say(language), width));
        let mut out = io::stdout().lock();
        write!(out, "{CLEAR}{}", lines.join("\n"))?;
        out.flush()?;
        drop(out);
        runs = runs && number < last;
        match keys.next(runs.then_some(RUN_PAUSE))? {
            Some(Key::Next) => (number, runs) = ((number + 1).min(last), false),
            Some(Key::Back) => (number, runs) = (number.saturating_sub(1), false),
            Some(Key::Run) => {
                runs = !runs;
                // Who runs a play that has ended wants to see it again.
                number = if runs && number == last { 0 } else { number };
            }
            Some(Key::Redraw) => {}
            Some(Key::Quit) => break,
            None => number += 1,
        }
    }
    print(&[String::new()])
}
