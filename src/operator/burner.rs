//! Load on a server of a local cluster, as another program on it would make: `rakit ctl load`.
//!
//! `steering.rs` starts one process for a server, `rakit burner`, and writes a percentage to its standard input whenever it
//! changes. The process keeps that part of every processor busy. The server's daemon measures it together with the worker:
//! `DIR/server-1.load` names its process id. It ends when its standard input closes, so it can't outlive `rakit up`.

use std::io::{self, BufRead as _};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Each thread works for the first part of this time and rests for the other. Short beside the interval of two readings of
/// the daemon, and long beside a tick of the kernel's accounting.
const PERIOD: Duration = Duration::from_millis(50);
/// The priority of the worker, which lowers its own too: the two compete as equals, and never with a node.
const NICENESS: i32 = 5;

/// The wanted percentage, and how idle threads wait for it.
#[derive(Default)]
struct Wanted {
    percent: AtomicU8,
    idle: Mutex<()>,
    changed: Condvar,
}

/// Runs until standard input is closed. Each line is the percentage from now on, 0 to 100; another line is ignored.
///
/// # Errors
/// The system gives no thread.
pub fn run() -> io::Result<()> {
    // Not lower than asked for is the only loss if this fails.
    let _ = rustix::process::nice(NICENESS);
    let wanted = Wanted::default();
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            thread::Builder::new().spawn_scoped(scope, || burn(&wanted))?;
        }
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Some(percent) = line.trim().parse().ok().filter(|percent| *percent <= 100) {
                wanted.set(percent);
            }
        }
        // The threads would burn on.
        std::process::exit(0)
    })
}

impl Wanted {
    fn set(&self, percent: u8) {
        let _idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.percent.store(percent, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The percentage; waits while it is 0.
    fn get(&self) -> u8 {
        let zero = |_: &mut ()| self.percent.load(Ordering::Relaxed) == 0;
        if zero(&mut ()) {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.changed.wait_while(idle, zero));
        }
        self.percent.load(Ordering::Relaxed)
    }
}

fn burn(wanted: &Wanted) -> ! {
    loop {
        let busy = PERIOD * u32::from(wanted.get()) / 100;
        let began = Instant::now();
        let mut number = began.elapsed().as_nanos();
        while began.elapsed() < busy {
            number = std::hint::black_box(number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1));
        }
        // The rest of the period is what this thread is not asked to use.
        thread::sleep(PERIOD.saturating_sub(began.elapsed()));
    }
}
