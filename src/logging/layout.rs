//! The layout of a line: time, level, target and message. simplelog makes it.
//!
//! Called by the logger, which keeps one [`LineLayout`] per thread so that no thread waits for another, and by
//! the writer for its lines about lost lines.
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The longest line, in bytes, with its line break: PIPE_BUF of Linux. A write of this size to a pipe is
/// never mixed with another process's (pipe(7)), and does not block once poll(2) reports the pipe writable.
pub const LINE_BYTES_MAX: usize = 4_096;

/// Time, level and target take less than this, in bytes; the rest of a line is the message's.
const HEAD_BYTES_MAX: usize = 160;
const CUT_MARK_BYTES_MAX: usize = 48;
const _: () = assert!(
    super::priority::BYTES + HEAD_BYTES_MAX + super::MESSAGE_BYTES_MAX + CUT_MARK_BYTES_MAX <= LINE_BYTES_MAX
);

/// Makes a line from each record, one at a time.
pub(super) struct LineLayout {
    simplelog: Box<simplelog::WriteLogger<Pieces>>,
    pieces: Pieces,
}

/// Collects the pieces in which simplelog hands over a line. Shared with simplelog, which gives no access to
/// its writer. No two threads ever contend for the lock.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<Vec<u8>>>);

impl Pieces {
    fn line(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.line().extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LineLayout {
    pub(super) fn new() -> Self {
        let layout = simplelog::ConfigBuilder::new()
            // simplelog's own RFC 3339 format drops zeros at the end of the second, so the columns would not
            // line up. Microseconds, since a vote and the election that it decides are less than a
            // millisecond apart.
            .set_time_format_custom(time::macros::format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
            ))
            // "From this level on, show …": the target always, thread and source line never.
            .set_target_level(LevelFilter::Error)
            .set_thread_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off)
            .build();
        let pieces = Pieces::default();
        // The logger has checked the level already.
        let simplelog = simplelog::WriteLogger::new(LevelFilter::Trace, layout, pieces.clone());
        Self { simplelog, pieces }
    }

    /// Gives the line of this event to `receive`, with the current time and a line break. `message` is one
    /// line already.
    pub(super) fn line<R>(
        &self,
        level: Level,
        room: &str,
        message: &str,
        receive: impl FnOnce(&[u8]) -> R,
    ) -> R {
        let metadata = Metadata::builder().level(level).target(room).build();
        self.pieces.line().clear();
        self.simplelog.log(&Record::builder().metadata(metadata).args(format_args!("{message}")).build());
        receive(&self.pieces.line())
    }
}
