//! What was ordered in the control room and is still going on. `steering.rs` changes it; `session.rs` keeps it, and asks it what a
//! new process must know.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use rakit::protocol::Lost;

use super::control_room::Done;
use super::layout::Part;
use super::traffic::Traffic;

/// What was ordered and is still going on.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// Orders that wait for the death of a process.
    pub(super) waiting: Vec<Waiting>,
    /// The requests that are sent at present.
    pub(super) traffic: Option<Traffic>,
    /// The cut cables: what the first node sends does not arrive at the second.
    pub(super) cut: BTreeSet<(u16, u16)>,
    /// What is lost on its way to a node.
    pub(super) lost: BTreeMap<u16, BTreeSet<Lost>>,
    /// The thread that tells the nodes of the last change of cables. The next one waits for it: an older order must not arrive
    /// after a newer one.
    pub(super) telling: Option<JoinHandle<()>>,
}

/// An order that waits for the death of a process.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) part: Part,
    /// It is started again when it has ended.
    pub(super) starts_again: bool,
    pub(super) outcome: Sender<Done>,
}

impl UnderWay {
    /// Whether the death of this part was ordered.
    pub(super) fn expects_end_of(&self, part: Part) -> bool {
        self.waiting.iter().any(|waiting| waiting.part == part)
    }

    /// The cut cables.
    pub(super) fn cut(&self) -> &BTreeSet<(u16, u16)> {
        &self.cut
    }

    /// Requests per second that are being sent.
    pub(super) fn requests_per_second(&self) -> u32 {
        self.traffic.as_ref().map_or(0, Traffic::per_second)
    }

    /// From which nodes nothing arrives at this one.
    pub(super) fn deaf_to(&self, part: Part) -> Vec<u16> {
        let Part::Node(id) = part else { return Vec::new() };
        self.cut.iter().filter(|(_, to)| *to == id).map(|(from, _)| *from).collect()
    }
}
