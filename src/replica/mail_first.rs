//! Mail first, then the clock.
//!
//! A process that was stopped for a while (by a debugger, a busy machine, its own disk) finds two things when it runs on: the clock
//! says that a deadline has passed, and the mail that would have moved the deadline waits unread. If it looked at the clock first,
//! a follower would take its own sleep for its leader's, and a leader would call a server dead whose report lies in the inbox.
//!
//! So what falls due waits until the mail has been read that waited at that moment. It waits no longer: a flood of mail
//! that never ends puts it off once, by at most one full inbox.

use std::time::Duration;

/// One thing that the clock decides, and that mail may still change.
#[derive(Debug, Default)]
pub(super) struct MailFirst {
    put_off: Option<PutOff>,
}

#[derive(Clone, Copy, Debug)]
struct PutOff {
    /// When it fell due.
    due_since: Duration,
    /// How many of the inputs that waited at that moment are still unread.
    unread: usize,
}

impl MailFirst {
    /// An input was read.
    pub(super) fn read_one(&mut self) {
        if let Some(put_off) = &mut self.put_off {
            put_off.unread = put_off.unread.saturating_sub(1);
        }
    }

    /// At the end of a batch: whether the decision may be made, and as of which moment. All mail is read that had come by that
    /// moment. `is_due` says whether the deadline has passed; `unread` counts the inputs that wait now.
    pub(super) fn decide(&mut self, now: Duration, is_due: bool, unread: usize) -> Option<Duration> {
        if !is_due {
            self.put_off = None;
            return None;
        }
        let put_off = self.put_off.get_or_insert(PutOff { due_since: now, unread });
        // An inbox also holds what is not for the replica. Whatever it was, an empty inbox is read.
        put_off.unread = put_off.unread.min(unread);
        if put_off.unread > 0 {
            return None;
        }
        self.put_off.take().map(|put_off| put_off.due_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_mail_it_happens_at_once() {
        let mut tick = MailFirst::default();
        assert_eq!(tick.decide(ms(1), false, 0), None, "not due");
        assert_eq!(tick.decide(ms(2), true, 0), Some(ms(2)));
    }

    #[test]
    fn what_waited_is_read_first_and_a_flood_puts_it_off_no_longer() {
        let mut tick = MailFirst::default();
        assert_eq!(tick.decide(ms(1), true, 2), None);
        tick.read_one();
        assert_eq!(tick.decide(ms(2), true, 5), None, "one of the two is unread");
        tick.read_one();
        assert_eq!(tick.decide(ms(3), true, 9), Some(ms(1)), "as of the moment when it fell due");
    }

    #[test]
    fn mail_that_moves_the_deadline_calls_it_off() {
        let mut tick = MailFirst::default();
        assert_eq!(tick.decide(ms(1), true, 1), None);
        tick.read_one();
        assert_eq!(tick.decide(ms(2), false, 0), None);
        assert_eq!(tick.decide(ms(9), true, 1), None, "the next time it waits anew");
    }

    #[test]
    fn an_empty_inbox_is_read_whatever_was_in_it() {
        let mut tick = MailFirst::default();
        assert_eq!(tick.decide(ms(1), true, 3), None);
        assert_eq!(tick.decide(ms(2), true, 0), Some(ms(1)));
    }
}
