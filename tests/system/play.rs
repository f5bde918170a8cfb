//! `rakit play`, as a person uses it: without a terminal, and with keys on a terminal that script(1) makes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use rakit::plays::{PLAYS, Play};

const RAKIT: &str = env!("CARGO_BIN_EXE_rakit");

fn rakit(arguments: &[&str]) -> Output {
    Command::new(RAKIT).arg("play").args(arguments).stdin(Stdio::null()).output().expect("it starts")
}

fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn without_a_terminal_all_plays_are_listed_and_all_steps_of_one_are_printed() {
    let listed = words(&rakit(&[]).stdout);
    for (name, _) in PLAYS {
        let play = Play::of(name).expect("it is in the list");
        assert!(listed.contains(&format!("{name} {}", play.title.en)), "{listed}");
        for (language, of) in [("en", 0), ("id", 1)] {
            let printed = words(&rakit(&[name, "--run", "--lang", language]).stdout);
            for step in &play.steps {
                let says = [&step.says.en, &step.says.id][of];
                assert!(printed.contains(says.as_str()), "{says}");
                let lines = step.lines.iter().map(|line| words(line.as_bytes()));
                lines.for_each(|line| assert!(printed.contains(&line), "{line}"));
            }
        }
    }
    let unknown = rakit(&["figure-9"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(words(&unknown.stderr).contains("there is no play `figure-9`; there are: one-entry,"));
}

#[test]
fn on_a_terminal_keys_go_on_and_back_and_the_terminal_is_as_before() {
    // The terminal says its settings before and after: stty(1).
    let command = format!("stty rows 24 cols 80; echo; stty -g; {RAKIT} play figure-7; echo; stty -g");
    let mut shell = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) is part of every Debian");
    let mut keys = shell.stdin.take().expect("it is piped");
    let mut screen = BufReader::new(shell.stdout.take().expect("it is piped"));
    let is_settings = |line: &str| line.matches(':').count() > 20;
    // What is typed earlier, the terminal shows in the midst of the settings.
    let mut text = String::new();
    while !text.lines().any(is_settings) {
        assert_ne!(screen.read_line(&mut text).expect("text"), 0, "{text}");
    }
    // On, on, back with the cursor keys; then the end. All at once: nothing that is typed is lost.
    keys.write_all(b"\x1b[C \x1b[Dq").expect("it reads");
    screen.read_to_string(&mut text).expect("text");
    assert!(shell.wait().expect("it ends").success(), "{text}");
    drop(keys);
    let steps: Vec<&str> =
        text.match_indices("step ").map(|(at, _)| &text[at..(at + "step 1/6".len())]).collect();
    assert_eq!(steps, ["step 1/6", "step 2/6", "step 3/6", "step 2/6"], "{text}");
    let settings: Vec<&str> = text.lines().map(str::trim).filter(|line| is_settings(line)).collect();
    assert!(settings.len() == 2 && settings[0] == settings[1], "{settings:?}");
}
