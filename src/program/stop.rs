//! Receives the signals that stop a program, SIGTERM and SIGINT (Ctrl-C), and the one that has it open its log
//! file and read its secret again, SIGHUP (logrotate(8) sends it after it has renamed the log file).
//!
//! A signal handler may do very little (signal-safety(7)). So a thread waits for signals and sends a message
//! for the first one that stops the program. The program's main loop receives the message in its `select!`.
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
    hangups: Receiver<()>,
}

impl Stop {
    /// Listens for signals from now on, for the rest of the process's life.
    ///
    /// A second signal after a pause ends the process at once, with exit code 1.
    ///
    /// SIGHUP never stops the program: a service that ends with code 0 when its log is rotated would not be
    /// started again.
    ///
    /// # Errors
    /// When the system gives no signal handler, descriptor or thread.
    pub fn on_signals() -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let (sender, receiver) = bounded(1);
        // One place: several hang-ups in a row are one.
        let (hang_up, hangups) = bounded(1);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                let name = name(signal);
                if signal == SIGHUP {
                    crate::logging::reopen();
                    info!("{name}: the log file, if there is one, is opened again");
                    // Full: it will be read again anyway. Closed: nobody reads anything again.
                    let _ = hang_up.try_send(());
                    continue;
                }
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
        Ok(Self { receiver, hangups })
    }

    /// A message after SIGHUP, for one receiver.
    pub fn hangups(&self) -> &Receiver<()> {
        &self.hangups
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
