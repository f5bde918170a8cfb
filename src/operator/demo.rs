//! `rakit demo`: a demonstration that runs itself, on the real cluster.
//!
//! Each step says what will happen and why, does it with the orders of `rakit ctl`, measures it, shows the log lines that
//! prove it, and checks what it claimed. The steps are in `demo/steps.rs`, in English and in Indonesian; what they can do
//! to the cluster is in `demo/stage.rs`. It uses the cluster that runs in DIR, or runs one itself.

use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use clap::ValueEnum;
use rakit::program::{EXIT_FAILURE, EXIT_OK, LogFlags};
use rustix::process::{Pid, Signal, kill_process};

use super::layout::{DIRECTORY_DEFAULT, shown};
use super::{Failure, ctl};
use stage::Stage;
use steps::STEPS;

mod stage;
mod steps;

/// The program of the running process (man 5 proc_pid_exe).
const SELF: &str = "/proc/self/exe";

/// Flags of `rakit demo`.
#[derive(clap::Args, Debug)]
pub struct DemoFlags {
    /// In English or in Indonesian
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,

    /// Wait for the Enter key before each step
    #[arg(long)]
    pause: bool,

    /// The directory of the cluster: as `rakit up` was given, or for a cluster that runs as long as the demonstration
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    dir: PathBuf,

    /// For a cluster that is not running yet, as for `rakit up`
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
}

/// The language of the demonstration. Log lines stay as they are.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Bahasa Indonesia.
    Id,
}

/// One sentence in every language.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// English.
    pub en: &'static str,
    /// Bahasa Indonesia.
    pub id: &'static str,
}

impl Words {
    /// In this language.
    pub fn say(self, language: Language) -> &'static str {
        match language {
            Language::En => self.en,
            Language::Id => self.id,
        }
    }
}

/// Runs `rakit demo`.
///
/// # Errors
/// There is no cluster, and none can be started.
pub fn run(flags: &DemoFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let own = if ctl::runs(&flags.dir) { None } else { Some(OwnCluster::start(flags)?) };
    let mut stage = Stage::enter(flags.dir.clone(), flags.lang)?;
    let mut failed = Vec::new();
    for (number, step) in STEPS.iter().enumerate() {
        let title = format!("{}. {}", number + 1, step.title.say(flags.lang));
        println!("\n{title}\n{}", "=".repeat(title.chars().count()));
        println!("{}", step.why.say(flags.lang));
        if flags.pause {
            print_prompt(flags.lang);
            let _ = io::stdin().lock().read_line(&mut String::new());
        }
        if let Err(why) = stage.play(step.play) {
            println!("  ✗ {why}");
            failed.push(title);
        }
    }
    println!();
    let all = STEPS.len();
    if failed.is_empty() {
        let done = Words { en: "steps, and every claim held.", id: "langkah, dan semua klaim terbukti." };
        println!("{all} {}", done.say(flags.lang));
    } else {
        let wrong = Words { en: "A claim did not hold in:", id: "Ada klaim yang tidak terbukti pada:" };
        println!("{} {}", wrong.say(flags.lang), failed.join("; "));
    }
    drop(own);
    Ok(ExitCode::from(if failed.is_empty() { EXIT_OK } else { EXIT_FAILURE }))
}

fn print_prompt(language: Language) {
    println!("  {}", Words { en: "(Enter)", id: "(tekan Enter)" }.say(language));
}

/// A cluster that runs as long as the demonstration: `rakit up` as a child of this process.
struct OwnCluster {
    up: Child,
}

impl OwnCluster {
    fn start(flags: &DemoFlags) -> Result<OwnCluster, Failure> {
        let mut command = Command::new(SELF);
        command.args(["up", "--dir"]).arg(&flags.dir);
        if let Some(port) = flags.base_port {
            command.args(["--base-port", &port.to_string()]);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let up = spawned.map_err(|error| Failure::other(format!("`rakit up` can't be started: {error}")))?;
        let mut own = OwnCluster { up };
        let lines = BufReader::new(own.up.stdout.take().expect("it is piped")).lines();
        for line in lines.map_while(Result::ok) {
            if line == "ready" {
                return Ok(own);
            }
            println!("{line}");
        }
        Err(Failure::other(format!("no cluster gets ready in {}", shown(&flags.dir))))
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.up), Signal::TERM);
        let _ = self.up.wait();
    }
}
