//! What the page of the control room and the live table show: the views of all nodes side by side, and how each process is.
//!
//! `control_room.rs` asks for it at each `GET /ui/state`, `session.rs` and `status.rs` for each table; the main thread notes
//! processes and orders here (`session.rs`, `steering.rs`). A thread for each node asks it for its view, but only while a page
//! or a table is open: what nobody looks at costs nothing. A node that hangs delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rakit::http::client::{Client, ClientTimeouts};
use rakit::protocol::{NodeOnPage, NodeView, PageState, ProcessState, Room, path};
use rakit::raft::NodeId;

use super::asking::reason;
use super::comparison::clean;
use super::layout::Part;

/// How often each node is asked while somebody looks: a little more often than the page asks (500 ms).
const INTERVAL: Duration = Duration::from_millis(450);
/// For so long after the last question somebody counts as looking.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// How long the first answer to a page waits for the nodes, so that it does not begin with an empty picture.
const FIRST_WAIT: Duration = Duration::from_millis(600);
/// How long a node may take to answer. A paused node takes all of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest view that is read, in bytes.
const VIEW_BYTES_MAX: usize = 1 << 20;

/// What the main thread knows and the page shows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The process of each part that runs.
    pub pids: BTreeMap<Part, u32>,
    /// Cut cables.
    pub cut: BTreeSet<(u16, u16)>,
    /// Requests per second that are being sent.
    pub requests_per_second: u32,
}

/// The newest views. Dropping it ends its threads.
#[derive(Debug)]
pub struct Lookout {
    shared: Arc<Shared>,
    /// Empty if this program runs no cluster.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// One for each node, in the order of the list that [`Lookout::start`] got.
    seen: Vec<Seen>,
    known: Known,
    /// Until when somebody counts as looking; `None`: nobody has looked yet.
    open_until: Option<Instant>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// 0 as long as it is not known.
    id: NodeId,
    view: Option<(NodeView, Instant)>,
    /// When the newest answer, or word of its failure, came.
    asked_at: Option<Instant>,
    silent: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a few assignments that can't panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lookout {
    /// Starts a thread for each node: its id, 0 if that is not known, and its public address. They wait until somebody looks.
    /// `parts` are the processes that this program runs.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(nodes: &[(NodeId, SocketAddr)], parts: Vec<Part>) -> std::io::Result<Lookout> {
        let seen = nodes.iter().map(|(id, _)| Seen { id: *id, ..Seen::default() }).collect();
        let state = State { seen, known: Known::default(), open_until: None, closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let lookout = Lookout { shared: Arc::clone(&shared), parts };
        for (position, (_, address)) in nodes.iter().copied().enumerate() {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("look-{position}"))
                .spawn(move || watch(&shared, position, address))?;
        }
        Ok(lookout)
    }

    /// Notes what the main thread knows now.
    pub fn note(&self, known: Known) {
        self.shared.lock().known = known;
    }

    /// What is seen now. The first time after a while it waits a moment for the nodes.
    pub fn state(&self) -> PageState {
        let was_open = self.shared.lock().open_until.is_some_and(|until| Instant::now() < until);
        self.look(!was_open)
    }

    /// What is seen after now: waits a moment for the nodes.
    pub fn next_state(&self) -> PageState {
        self.look(true)
    }

    fn look(&self, waits: bool) -> PageState {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.open_until = Some(now + OPEN_FOR);
        self.shared.changed.notify_all();
        if waits {
            let missing = |state: &mut State| {
                !state.closed && state.seen.iter().any(|seen| seen.asked_at.is_none_or(|at| at < now))
            };
            let waited = self.shared.changed.wait_timeout_while(state, FIRST_WAIT, missing);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let node = |seen: &Seen| NodeOnPage {
            node: seen.view.as_ref().map_or(seen.id, |(view, _)| view.status.node),
            view: seen.view.as_ref().map(|(view, _)| view.clone()),
            age_ms: seen
                .view
                .as_ref()
                .map_or(0, |(_, at)| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            silent: seen.silent.clone(),
        };
        let nodes = state.seen.iter().map(node).collect();
        let known = state.known.clone();
        drop(state);
        let processes = self.parts.iter().map(|part| (part.name(), process(known.pids.get(part))));
        let room = Room {
            processes: processes.collect(),
            cut: known.cut.into_iter().collect(),
            requests_per_second: known.requests_per_second,
        };
        PageState { nodes, room: (!self.parts.is_empty()).then_some(room) }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// How a process is, as the kernel says: somebody may have stopped it by hand.
fn process(pid: Option<&u32>) -> ProcessState {
    let stat = pid
        .and_then(|pid| i32::try_from(*pid).ok())
        .and_then(|pid| procfs::process::Process::new(pid).and_then(|process| process.stat()).ok());
    match stat.map(|stat| stat.state) {
        Some('T') => ProcessState::Paused,
        Some('Z' | 'X') | None => ProcessState::Dead,
        Some(_) => ProcessState::Running,
    }
}

/// The thread of one node.
fn watch(shared: &Shared, position: usize, address: SocketAddr) {
    let timeouts = ClientTimeouts { connect: ANSWER_TIMEOUT, send: ANSWER_TIMEOUT, receive: ANSWER_TIMEOUT };
    let mut client = Client::new(timeouts);
    let idle =
        |state: &mut State| !state.closed && state.open_until.is_none_or(|until| until <= Instant::now());
    loop {
        let state = shared.changed.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        drop(state);
        let answer = ask(&mut client, address);
        let now = Instant::now();
        let mut state = shared.lock();
        let seen = &mut state.seen[position];
        seen.asked_at = Some(now);
        match answer {
            Ok(view) => (seen.view, seen.silent) = (Some((view, now)), None),
            Err(why) => seen.silent = Some(why),
        }
        shared.changed.notify_all();
        let pause = |state: &mut State| !state.closed;
        let waited = shared.changed.wait_timeout_while(state, INTERVAL, pause);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

fn ask(client: &mut Client, address: SocketAddr) -> Result<NodeView, String> {
    let answer =
        client.get(address, path::PAGE_STATE, &[], VIEW_BYTES_MAX).map_err(|error| reason(&error))?;
    if answer.status != 200 {
        return Err(format!("GET {} gave {}", path::PAGE_STATE, answer.status));
    }
    let state: PageState = serde_json::from_slice(&answer.body)
        .map_err(|error| clean(&format!("its answer can't be read, is it of another version? {error}")))?;
    state.nodes.into_iter().next().and_then(|node| node.view).ok_or_else(|| "it gives no view".to_string())
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;

    fn layout() -> Layout {
        Layout { dir: std::path::PathBuf::new(), nodes: 2, servers: 1, base_port: 1 }
    }

    /// Nothing runs there.
    fn lookout() -> Lookout {
        let layout = layout();
        Lookout::start(&layout.public_nodes(), layout.parts().collect()).expect("threads")
    }

    #[test]
    fn a_process_is_what_the_kernel_says() {
        assert_eq!(process(Some(&std::process::id())), ProcessState::Running);
        assert_eq!(process(None), ProcessState::Dead);
        assert_eq!(process(Some(&u32::MAX)), ProcessState::Dead);
    }

    #[test]
    fn nodes_that_do_not_answer_are_named_with_the_reason() {
        // Ports 2 and 3 of loopback: nobody listens there.
        let lookout = lookout();
        let known = Known { cut: [(1, 2)].into(), requests_per_second: 7, ..Known::default() };
        lookout.note(known);
        let state = lookout.state();
        for (node, id) in state.nodes.iter().zip(1..) {
            assert_eq!((node.node, node.view.is_none()), (id, true));
            assert_eq!(node.silent.as_deref(), Some("connection refused"));
        }
        let room = state.room.expect("on the control room");
        assert_eq!((room.cut, room.requests_per_second), (vec![(1, 2)], 7));
        let names: Vec<&str> = room.processes.keys().map(String::as_str).collect();
        assert_eq!(names, ["node-1", "node-2", "server-1/daemon", "server-1/worker"]);
        assert!(room.processes.values().all(|state| *state == ProcessState::Dead));
    }
}
