//! epoll(7) for the loaders and the simulated servers: which of many descriptors can be read.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::Fallible;

/// Events taken at once.
const EVENTS_MAX: usize = 256;

#[derive(Debug)]
pub struct Poll {
    descriptor: OwnedFd,
}

impl Poll {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> Fallible<Self> {
        Ok(Self { descriptor: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// From now on `token` is given when this descriptor can be read, until it is closed.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add(&self, descriptor: &impl AsFd, token: u64) -> Fallible {
        epoll::add(&self.descriptor, descriptor, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// The same, once it can be written to: it is connected, or never will be.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add_writer(&self, descriptor: &impl AsFd, token: u64) -> Fallible {
        epoll::add(&self.descriptor, descriptor, epoll::EventData::new_u64(token), epoll::EventFlags::OUT)?;
        Ok(())
    }

    /// What was written to is read from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn now_reads(&self, descriptor: &impl AsFd, token: u64) -> Fallible {
        epoll::modify(&self.descriptor, descriptor, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Waits for something to read, for so long at most. Gives the tokens.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait(&self, at_most: Duration) -> Fallible<Vec<u64>> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs())?,
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        match epoll::wait(&self.descriptor, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(error.into()),
        }
    }
}
