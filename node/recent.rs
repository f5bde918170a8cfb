//! What happened at this node last, for the page: the last requests for primes, and the story of the consensus.
//!
//! The public listener's threads note requests (`primes.rs`), the Raft loop notes events (`raft_loop.rs`), and
//! `live.rs` reads both. Two small rings, each behind a lock that is held for the time of a copy. A request thread
//! never waits for it: a request that finds the lock taken is not kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::forwarding::Delivered;
use crate::balancer::{Change, Compared, OrderEffect, ServerCommand, ServerOrder};
use crate::protocol::{RequestPicture, StoryEvent, StoryKind};
use crate::raft::{self, NodeId, RoleName};
use crate::replica::ReplicaNotice;

/// How many requests are kept.
const REQUESTS_MAX: usize = 24;

/// How many events are kept.
const STORY_MAX: usize = 64;

/// How many of the compared servers a request names.
const COMPARED_MAX: usize = 8;

/// The last requests and events.
#[derive(Debug, Default)]
pub struct Recent {
    requests: Mutex<Ring<RequestPicture>>,
    story: Mutex<Ring<StoryEvent>>,
}

#[derive(Debug)]
struct Ring<T> {
    last: VecDeque<T>,
    sequence: u64,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { last: VecDeque::new(), sequence: 0 }
    }
}

impl<T> Ring<T> {
    fn push(&mut self, most: usize, make: impl FnOnce(u64) -> T) {
        if self.last.len() == most {
            self.last.pop_front();
        }
        self.sequence += 1;
        self.last.push_back(make(self.sequence));
    }
}

fn lock<T>(ring: &Mutex<Ring<T>>) -> MutexGuard<'_, Ring<T>> {
    // Each change of a ring leaves it whole.
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine's clock, in microseconds since 1970. For people only: no decision depends on it.
pub fn now_us() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

impl Recent {
    /// A request was answered. It is kept only if its choice is explained: the chooser explains some twenty a second.
    pub fn answered(&self, n: u64, status: u16, delivered: &Delivered, tries: usize, ms: f64) {
        let Some(compared) = &delivered.compared else { return };
        self.note(|sequence| RequestPicture {
            sequence,
            at_us: now_us(),
            n: n.to_string(),
            status,
            server: Some(delivered.server.clone()),
            compared: named(compared),
            ms,
            tries,
            hedged: delivered.hedged,
        });
    }

    /// A request got no server's answer.
    pub fn failed(&self, n: u64, status: u16, tries: usize, ms: f64) {
        self.note(|sequence| RequestPicture {
            sequence,
            at_us: now_us(),
            n: n.to_string(),
            status,
            server: None,
            compared: Vec::new(),
            ms,
            tries,
            hedged: false,
        });
    }

    fn note(&self, make: impl FnOnce(u64) -> RequestPicture) {
        match self.requests.try_lock() {
            Ok(mut ring) => ring.push(REQUESTS_MAX, make),
            Err(TryLockError::Poisoned(ring)) => ring.into_inner().push(REQUESTS_MAX, make),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Something happened at node `id`; kept if it is part of the story.
    pub fn happened(&self, notice: &ReplicaNotice, id: NodeId) {
        let Some(event) = event(notice) else { return };
        let line = notice.line(id);
        lock(&self.story).push(STORY_MAX, |sequence| StoryEvent { sequence, at_us: now_us(), line, ..event });
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<RequestPicture> {
        lock(&self.requests).last.iter().cloned().collect()
    }

    /// The last events, oldest first.
    pub fn story(&self) -> Vec<StoryEvent> {
        lock(&self.story).last.iter().cloned().collect()
    }
}

/// The compared servers by load, the lowest first.
fn named(compared: &[Compared]) -> Vec<(String, Option<f64>)> {
    let mut compared: Vec<&Compared> = compared.iter().collect();
    compared.sort_by(|a, b| a.load.total_cmp(&b.load));
    let named = |one: &&Compared| {
        let report = one.server.report();
        (report.server.clone(), report.cpu_known.then_some(one.load))
    };
    compared.iter().take(COMPARED_MAX).map(named).collect()
}

/// The event that a notice is; `None` for what only the log file tells.
fn event(notice: &ReplicaNotice) -> Option<StoryEvent> {
    let of_node = |kind, term, other| StoryEvent { term: Some(term), other, ..StoryEvent::new(kind) };
    let of_server = |kind, server: &str, index| StoryEvent {
        server: Some(server.to_owned()),
        index,
        ..StoryEvent::new(kind)
    };
    Some(match notice {
        ReplicaNotice::Raft(raft::Notice::Role { role, term, .. }) => {
            let kind = match role {
                RoleName::Leader => StoryKind::Leads,
                RoleName::Candidate => StoryKind::Candidate,
                RoleName::PreCandidate => StoryKind::PreCandidate,
                RoleName::Follower => StoryKind::Follower,
            };
            of_node(kind, *term, None)
        }
        ReplicaNotice::Raft(raft::Notice::VoteGranted { to, term, pre }) => {
            of_node(if *pre { StoryKind::PreVote } else { StoryKind::Vote }, *term, Some(*to))
        }
        ReplicaNotice::Raft(raft::Notice::LeaderFound { leader, term }) => {
            of_node(StoryKind::LeaderFound, *term, Some(*leader))
        }
        ReplicaNotice::Raft(raft::Notice::LeaderLost { leader, term, reason }) => StoryEvent {
            reason: Some(reason.clone()),
            ..of_node(StoryKind::LeaderLost, *term, Some(*leader))
        },
        ReplicaNotice::Raft(raft::Notice::Truncated { from, .. }) => {
            StoryEvent { index: Some(*from), ..StoryEvent::new(StoryKind::Truncated) }
        }
        ReplicaNotice::Raft(raft::Notice::SnapshotInstalled { index }) => {
            StoryEvent { index: Some(*index), ..StoryEvent::new(StoryKind::SnapshotInstalled) }
        }
        ReplicaNotice::Overdue(dead) => of_server(StoryKind::Overdue, &dead.server, None),
        ReplicaNotice::Applied { entry, change } => {
            let kind = match change {
                Change::New { .. } => StoryKind::ServerNew,
                Change::Died => StoryKind::ServerDead,
                Change::Revived => StoryKind::ServerBack,
                Change::WorkerUp => StoryKind::WorkerUp,
                Change::WorkerDown => StoryKind::WorkerDown,
                Change::Ordered(OrderEffect::Done) => {
                    let ServerCommand::Order(order) = ServerCommand::parse(&entry.command).ok()? else {
                        return None;
                    };
                    let kind = match order {
                        ServerOrder::Drain(_) => StoryKind::ServerDrained,
                        ServerOrder::Undrain(_) => StoryKind::ServerUndrained,
                        ServerOrder::Forget(_) => StoryKind::ServerForgotten,
                    };
                    return Some(of_server(kind, order.server(), Some(entry.index)));
                }
                _ => return None,
            };
            match ServerCommand::parse(&entry.command).ok()? {
                ServerCommand::Report(report) => of_server(kind, &report.server, Some(entry.index)),
                ServerCommand::Dead(dead) => of_server(kind, &dead.server, Some(entry.index)),
                ServerCommand::Order(_) => return None,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rings_keep_the_newest_and_never_grow() {
        let recent = Recent::default();
        for n in 1..=100 {
            recent.failed(n, 503, 1, 0.5);
            let found = raft::Notice::LeaderFound { leader: 2, term: n };
            recent.happened(&ReplicaNotice::Raft(found), 1);
        }
        let (requests, story) = (recent.requests(), recent.story());
        assert_eq!((requests.len(), story.len()), (REQUESTS_MAX, STORY_MAX));
        let newest = requests.last().expect("kept");
        assert_eq!((newest.n.as_str(), newest.sequence), ("100", 100));
        let newest = story.last().expect("kept");
        assert_eq!((newest.kind, newest.term, newest.other), (StoryKind::LeaderFound, Some(100), Some(2)));
        assert!(newest.line.contains("node 1 follows node 2"), "{}", newest.line);
    }

    #[test]
    fn a_request_does_not_wait_for_a_reader() {
        let recent = Recent::default();
        let reader = recent.requests.lock().expect("a fresh lock");
        recent.failed(7, 503, 1, 0.5);
        drop(reader);
        assert!(recent.requests().is_empty());
    }
}
