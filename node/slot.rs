//! A slot for one thing, of which only the newest counts. Putting never waits: a thing that was not taken yet
//! is replaced. Used towards the senders (a newer append makes the older one pointless) and the watcher of the
//! leader.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// The putting end. The taking end is an ordinary receiver, which ends when this is dropped.
#[derive(Debug)]
pub struct Slot<T> {
    sender: Sender<T>,
    /// The same channel's other end, to take out what is displaced.
    displaced: Receiver<T>,
}

impl<T> Slot<T> {
    /// An empty slot and its taking end.
    pub fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = bounded(1);
        (Self { sender, displaced: receiver.clone() }, receiver)
    }

    /// Puts something in. Never waits. To be called from one thread at a time, else two may displace each other.
    pub fn put(&self, mut newest: T) {
        // With one putting thread there is room at the second try at the latest: the taker only makes more.
        while let Err(TrySendError::Full(back)) = self.sender.try_send(newest) {
            let _ = self.displaced.try_recv();
            newest = back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_the_taker_learns_of_the_end() {
        let (slot, taker) = Slot::new();
        for number in 1..=3 {
            slot.put(number);
        }
        assert_eq!(taker.try_iter().collect::<Vec<_>>(), [3]);
        slot.put(4);
        assert_eq!(taker.recv(), Ok(4));
    }
}
