//! The one thread of a process that writes log lines.
//!
//! Started by [`start`](super::start). Takes the waiting lines of the [`Queues`] as one batch and writes the
//! batch to each output, the lines of requests last. If a write does not return (a frozen file system), the
//! queues fill and lines are lost, but no other thread waits.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::layout::LineLayout;
use super::output::LogOutput;
use super::queue::{QueuedLines, Queues};

/// How often the writer tries an output that has lost lines, until it takes the line that says how many.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// How many lines are missing in the log of this process.
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines are missing in the log since this process started: they found their queue full, or the log
/// file did not take them (without `--log-file`: standard error).
pub fn lines_dropped() -> u64 {
    LINES_DROPPED.load(Ordering::Relaxed)
}

pub(super) struct Writer {
    pub(super) queues: Arc<Queues>,
    /// The first one is the log file, if there is one. Only its losses count in `lines_dropped`.
    pub(super) outputs: Vec<LogOutput>,
}

impl Writer {
    /// Never returns.
    pub(super) fn run(mut self) {
        self.queues.set_writer(std::thread::current());
        let layout = LineLayout::new();
        let mut batch = QueuedLines::default();
        loop {
            let behind = self.outputs.iter().any(LogOutput::is_behind);
            self.queues.wait(behind.then_some(TELL_INTERVAL));
            self.queues.take(&mut batch);
            let lost = self.write(&batch, &layout);
            LINES_DROPPED.fetch_add(lost, Ordering::Relaxed);
            self.queues.done(&batch);
        }
    }

    /// Writes a batch. Returns how many of its lines the first output has lost.
    fn write(&mut self, batch: &QueuedLines, layout: &LineLayout) -> u64 {
        let mut lost_by_record = None;
        for output in &mut self.outputs {
            let lost = output.write(&batch.others, layout) + output.write(&batch.requests, layout);
            output.lose(batch.refused, "they came faster than they could be written");
            output.tell(layout);
            lost_by_record.get_or_insert(lost);
        }
        batch.refused + lost_by_record.unwrap_or(0)
    }
}
