//! How a program learns that it shall stop: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal is gone).
//!
//! A signal handler may do next to nothing (signal-safety(7)), so signal-hook's thread waits for signals and turns the
//! first into a message, which the program's own loop meets in its `select!` beside everything else it waits for.
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A second signal that comes so much later means: "at once, I said". Not sooner: a Ctrl-C reaches every process of
/// the terminal, and `rakit up` then sends its children a SIGTERM as well; these two are one wish.
const IMPATIENT_AFTER: Duration = Duration::from_secs(1);

/// The wish to stop, by its signal's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(pub &'static str);

/// Tells when the program shall stop. One message, for one receiver: whoever gets it passes it on as its program
/// needs.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: Receiver<StopSignal>,
}

impl Stop {
    /// Listens for signals from now on, for the rest of the process's life.
    ///
    /// A second signal after a pause ends the process at once, with exit code 1.
    ///
    /// SIGHUP is left alone when the process was started with it ignored: that is how nohup(1) asks to outlive
    /// the terminal.
    ///
    /// # Errors
    /// When the system gives no signal handler, descriptor or thread.
    pub fn on_signals() -> io::Result<Self> {
        let mut wanted = vec![SIGTERM, SIGINT];
        if !is_ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        let mut signals = Signals::new(wanted)?;
        let (sender, receiver) = bounded(1);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                let name = name(signal);
                match first {
                    None => {
                        info!("{name}: stopping");
                        first = Some(Instant::now());
                        // The channel has room for the one message that is ever sent.
                        let _ = sender.send(StopSignal(name));
                    }
                    Some(first) if first.elapsed() >= IMPATIENT_AFTER => {
                        warn!("{name} again: ending at once");
                        crate::logging::flush();
                        std::process::exit(super::EXIT_FAILURE.into());
                    }
                    Some(_) => {}
                }
            }
        })?;
        Ok(Self { receiver })
    }

    /// Where the wish arrives; for `select!` and for waiting with a deadline.
    pub fn receiver(&self) -> &Receiver<StopSignal> {
        &self.receiver
    }

    /// Waits for the wish.
    pub fn wait(&self) -> StopSignal {
        // The sender lives in a thread that never ends; were it gone, nobody could ever stop this program.
        self.receiver.recv().unwrap_or(StopSignal("the end of the signal thread"))
    }
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// Whether a signal was set to be ignored when this process was started (proc_pid_status(5), SigIgn).
fn is_ignored(signal: i32) -> bool {
    procfs::process::Process::myself()
        .and_then(|process| process.status())
        .is_ok_and(|status| status.sigign & (1 << (signal - 1)) != 0)
}
