//! What a receiver remembers so that no request is accepted twice.
//!
//! Who calls it: [`Gate`](super::Gate), after it has checked the signature, so that only holders of the key
//! can fill this memory. The head of `mod.rs` explains streams, counters, window and horizon. The window
//! follows RFC 4303, 3.4.3.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{CLOCK_APART_MS_MAX, STREAMS_MAX, WINDOW};
use crate::protocol::Purpose;

/// The least time between two sweeps, in milliseconds: a sweep looks at every stream.
const SWEEP_MS: u64 = 1_000;

const WORDS: usize = (WINDOW / 64) as usize;

/// Names a stream. The purpose is a part of the name: streams are visible on the wire, and otherwise a holder
/// of the report key could use up the counters of a stream of purpose `raft`.
pub(super) type StreamId = (Purpose, u64);

/// Why a nonce is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Seen before, or below the window, so that nobody can say.
    Replayed,
    /// Its stream is unknown, and it was sealed this many milliseconds before the horizon.
    BeforeHorizon(u64),
    /// No room for another stream.
    Full,
}

/// The streams of about the last minute.
pub(super) struct Replays {
    streams: HashMap<StreamId, Stream>,
    /// A request of an unknown stream is refused if it was sealed before this time.
    horizon_ms: u64,
    swept_ms: u64,
    streams_max: usize,
}

struct Stream {
    highest: u64,
    /// Bit `c % WINDOW` says whether counter `c` was seen, for the `WINDOW` counters up to `highest`.
    seen: [u64; WORDS],
    /// The latest time at which one of its accepted requests was sealed.
    latest_ms: u64,
}

impl Replays {
    /// Without any stream; the horizon is `born_ms`.
    pub(super) fn new(born_ms: u64) -> Self {
        Self { streams: HashMap::new(), horizon_ms: born_ms, swept_ms: 0, streams_max: STREAMS_MAX }
    }

    #[cfg(test)]
    pub(super) fn with_streams_max(born_ms: u64, streams_max: usize) -> Self {
        Self { streams_max, ..Self::new(born_ms) }
    }

    /// Remembers a request that was sealed at `said_ms` and came at `now_ms`, or returns why it must be
    /// refused. The caller has checked that the two times are close enough.
    pub(super) fn admit(
        &mut self,
        id: StreamId,
        counter: u64,
        said_ms: u64,
        now_ms: u64,
    ) -> Result<(), Rejected> {
        if let Some(stream) = self.streams.get_mut(&id) {
            return stream.admit(counter, said_ms);
        }
        if said_ms < self.horizon_ms {
            return Err(Rejected::BeforeHorizon(self.horizon_ms - said_ms));
        }
        self.sweep(now_ms);
        if self.streams.len() >= self.streams_max {
            return Err(Rejected::Full);
        }
        if let Entry::Vacant(place) = self.streams.entry(id) {
            let stream = place.insert(Stream { highest: counter, seen: [0; WORDS], latest_ms: said_ms });
            stream.mark(counter);
        }
        Ok(())
    }

    /// Forgets the streams whose requests are all too old to be accepted again. The horizon rises with them,
    /// so that the requests stay refused even if this machine's clock is set back.
    fn sweep(&mut self, now_ms: u64) {
        // After the clock was set back, `now_ms` is below `swept_ms`: then sweep at once, not when it catches
        // up.
        if now_ms >= self.swept_ms && now_ms - self.swept_ms < SWEEP_MS {
            return;
        }
        self.swept_ms = now_ms;
        let horizon_ms = &mut self.horizon_ms;
        self.streams.retain(|_, stream| {
            let keep = stream.latest_ms.saturating_add(CLOCK_APART_MS_MAX) >= now_ms;
            if !keep {
                *horizon_ms = (*horizon_ms).max(stream.latest_ms.saturating_add(1));
            }
            keep
        });
    }

    #[cfg(test)]
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }
}

impl Stream {
    fn admit(&mut self, counter: u64, said_ms: u64) -> Result<(), Rejected> {
        if counter > self.highest {
            // The counters in between have not been seen, but their bits still belong to older counters.
            let steps = counter - self.highest;
            if steps >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.highest + 1..counter {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW || self.has(counter) {
            return Err(Rejected::Replayed);
        }
        self.mark(counter);
        self.latest_ms = self.latest_ms.max(said_ms);
        Ok(())
    }

    fn has(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let position = counter % WINDOW;
    ((position / 64) as usize, 1 << (position % 64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_795_000_000_000;
    const A: StreamId = (Purpose::Raft, 1);

    fn admit(replays: &mut Replays, counter: u64) -> Result<(), Rejected> {
        replays.admit(A, counter, NOW, NOW)
    }

    #[test]
    fn once_each_in_any_order_within_the_window() {
        let mut replays = Replays::new(NOW);
        for counter in [5, 3, 4, 900, 0, 899] {
            assert_eq!(admit(&mut replays, counter), Ok(()), "{counter}");
        }
        for counter in [5, 3, 4, 900, 0, 899] {
            assert_eq!(admit(&mut replays, counter), Err(Rejected::Replayed), "{counter}");
        }
    }

    #[test]
    fn the_edge_of_the_window() {
        let mut replays = Replays::new(NOW);
        assert_eq!(admit(&mut replays, 10_000), Ok(()));
        assert_eq!(admit(&mut replays, 10_000 - WINDOW), Err(Rejected::Replayed));
        assert_eq!(admit(&mut replays, 10_000 - WINDOW + 1), Ok(()));
        assert_eq!(admit(&mut replays, 10_000 - WINDOW + 1), Err(Rejected::Replayed));
        assert_eq!(admit(&mut replays, u64::MAX), Ok(()));
        assert_eq!(admit(&mut replays, u64::MAX), Err(Rejected::Replayed));
        assert_eq!(admit(&mut replays, 10_001), Err(Rejected::Replayed));
    }

    #[test]
    fn streams_and_purposes_do_not_touch_each_other() {
        let mut replays = Replays::new(NOW);
        for id in [A, (Purpose::Raft, 2), (Purpose::Report, 1)] {
            assert_eq!(replays.admit(id, 7, NOW, NOW), Ok(()));
            assert_eq!(replays.admit(id, 7, NOW, NOW), Err(Rejected::Replayed));
        }
    }

    #[test]
    fn nothing_from_before_the_birth() {
        let mut replays = Replays::new(NOW);
        assert_eq!(replays.admit(A, 0, NOW - 1, NOW), Err(Rejected::BeforeHorizon(1)));
        assert_eq!(replays.admit(A, 0, NOW, NOW), Ok(()));
        // In a known stream, the counter decides, not the horizon.
        assert_eq!(replays.admit(A, 1, NOW - 1, NOW), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing_that_could_be_replayed() {
        let mut replays = Replays::with_streams_max(NOW, 100);
        for stream in 0..100 {
            assert_eq!(replays.admit((Purpose::Report, stream), 0, NOW, NOW), Ok(()));
        }
        let late = NOW + CLOCK_APART_MS_MAX;
        assert_eq!(replays.admit((Purpose::Report, 100), 0, late, late), Err(Rejected::Full));
        for stream in 0..100 {
            assert_eq!(replays.admit((Purpose::Report, stream), 0, NOW, late), Err(Rejected::Replayed));
        }
        assert_eq!(replays.streams(), 100);
        // When their requests are too old to be accepted, the streams are forgotten, and there is room again.
        let later = late + SWEEP_MS;
        assert_eq!(replays.admit((Purpose::Report, 100), 0, later, later), Ok(()));
        assert_eq!(replays.streams(), 1);
    }

    #[test]
    fn a_clock_set_back_brings_nothing_back() {
        let mut replays = Replays::new(NOW);
        assert_eq!(replays.admit(A, 0, NOW + 5, NOW), Ok(()));
        let later = NOW + 2 * CLOCK_APART_MS_MAX;
        assert_eq!(replays.admit((Purpose::Raft, 2), 0, later, later), Ok(()));
        assert_eq!(replays.streams(), 1, "the first stream is forgotten");
        assert_eq!(replays.admit(A, 0, NOW + 5, NOW + 5), Err(Rejected::BeforeHorizon(1)));
        assert_eq!(replays.admit(A, 1, NOW + 6, NOW + 6), Ok(()));
    }

    proptest! {
        /// Compared with a plain set: no counter is admitted twice, and within the window no new one is
        /// refused.
        #[test]
        fn agrees_with_a_set(counters in prop::collection::vec(0_u64..5_000, 1..300)) {
            let mut replays = Replays::new(NOW);
            let mut seen = BTreeSet::new();
            for counter in counters {
                let behind = seen.last().is_some_and(|highest| highest - counter.min(*highest) >= WINDOW);
                let fresh = !behind && !seen.contains(&counter);
                prop_assert_eq!(admit(&mut replays, counter).is_ok(), fresh);
                if fresh {
                    seen.insert(counter);
                }
            }
        }
    }
}
