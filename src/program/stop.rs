//! Receives the signals that stop a program: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal was closed).
//!
//! A signal handler may do very little (signal-safety(7)). So a thread waits for signals and sends a message
//! for the first one. The program's main loop receives the message in its `select!`.
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A second signal ends the process at once if it comes at least this long after the first. An earlier one
/// does not count: Ctrl-C reaches every process of the terminal, and `rakit up` then also sends SIGTERM to
/// its children.
const IMPATIENT_AFTER: Duration = Duration::from_secs(1);

/// The name of the signal that stops the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(pub &'static str);

/// Receives the signal to stop. There is one message, for one receiver.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: Receiver<StopSignal>,
}

impl Stop {
    /// Listens for signals from now on, for the rest of the process's life.
    ///
    /// A second signal after a pause ends the process at once, with exit code 1.
    ///
    /// SIGHUP stays ignored if the process was started with it ignored: nohup(1) uses this to outlive the
    /// terminal.
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
                        // The channel has room for the only message that is sent.
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

    /// The channel of the message, for `select!` and for waiting with a deadline.
    pub fn receiver(&self) -> &Receiver<StopSignal> {
        &self.receiver
    }

    /// Waits for the signal to stop.
    pub fn wait(&self) -> StopSignal {
        // The thread of the sender never ends. If it did, nothing could stop this program, so it stops.
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
