//! Runs a local cluster, from the start of the first process to the end of the last. `rakit up` calls it.
//!
//! The main thread starts, reaps and stops the processes and says what the live table shows. It waits on one channel. A
//! thread for signals and one thread per node (see [`super::asking`]) send events into it. A node that hangs
//! delays the main thread only at a first table, by as long as [`super::lookout`] waits for it. A terminal that takes nothing
//! delays nobody (see [`super::live_screen`]).
//!
//! States: *starting*, *ready*, *stopping*. Nodes and workers start at once; each daemon starts when its
//! worker listens, so that its first report says so. If a node ends while starting, its data may be damaged, or
//! its disk full: a line says why, and the cluster goes on as long as most of its nodes run. If another process
//! dies while starting, the configuration or the machine is at fault: the end of its log is shown, and everything
//! is stopped. If a process dies later, a line says so, and the cluster goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rakit::protocol::PageState;
use rakit::raft::RoleName;
use rakit::storage;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::asking::Poller;
use super::changes::Story;
use super::children::{Children, how};
use super::comparison::{Asked, clean};
use super::control_room::{ControlRoom, Done};
use super::headline::is_fresh;
use super::layout::{Layout, Part, server_name, shown};
use super::live_screen::LiveScreen;
use super::live_table::LiveTable;
use super::lookout::{Known, Lookout};
use super::order::Order;
use super::programs::Programs;
use super::under_way::UnderWay;
use super::{Failure, NAME, ports};

/// How often each node is asked and the table is redrawn: often enough to watch an election, and far below
/// one per cent of a processor for all nodes together.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often the main thread checks, while starting, whether a worker listens.
const STARTING_INTERVAL: Duration = Duration::from_millis(50);
/// If the cluster is not ready after this time, and again after each further such time, lines say what is
/// missing. Nothing is stopped: a slow machine may still become ready, and otherwise the user wants to look
/// at the processes.
const READY_EXPECTED: Duration = Duration::from_secs(60);
/// A second signal stops everything at once if it comes at least this long after the first. An earlier one
/// does not count: `timeout`, and a terminal that closes, send two signals together.
const IMPATIENT_AFTER: Duration = Duration::from_millis(500);
/// The most events in the channel. A thread that finds it full waits.
const EVENTS_MAX: usize = 256;
/// How much of the end of a dead process's log is shown, in lines and in bytes.
const LAST_WORDS_LINES: usize = 8;
const LAST_WORDS_BYTES: u64 = 4096;

/// What wakes the main thread.
#[derive(Debug)]
enum SessionEvent {
    Signal(i32),
    Answer(usize, Box<Asked>),
    Order(Order, Sender<Done>),
}

/// The cluster while it runs.
#[derive(Debug)]
pub struct Session {
    layout: Layout,
    programs: Programs,
    children: Children,
    story: Story,
    /// `ready` was printed.
    is_ready: bool,
    screen: LiveScreen,
    events: Receiver<SessionEvent>,
    /// For the threads that send events: the poller's and the control room's.
    sender: Sender<SessionEvent>,
    /// When this run began, in milliseconds since 1970. A report with an earlier epoch is of an earlier run.
    began_ms: u64,
    /// When each dead process died, in milliseconds since 1970.
    died_ms: BTreeMap<Part, u64>,
    under_way: UnderWay,
    /// What the page of the control room and the live table show.
    lookout: Arc<Lookout>,
    /// Open until the cluster stops.
    control_room: Option<ControlRoom>,
}

/// Why the loop of [`Session::run`] has ended.
enum SessionEnd {
    /// This signal arrived.
    Stop(i32),
    /// The cluster cannot run. The reason was printed.
    Failed,
}

impl Session {
    /// Starts nodes and workers.
    ///
    /// # Errors
    /// A process cannot be started, or the system refuses a thread or a signal handler. Processes that were
    /// started are killed.
    pub fn start(layout: Layout, programs: Programs, resumed: bool) -> Result<Session, Failure> {
        let (sender, events) = bounded(EVENTS_MAX);
        // Before the first child, so that no SIGCHLD is missed.
        listen_for_signals(sender.clone())
            .map_err(|error| Failure::other(format!("can't listen for signals: {error}")))?;
        let addresses: Vec<SocketAddr> = layout.node_ids().map(|id| layout.public(id)).collect();
        let no_thread = |error| Failure::other(format!("the system gives no thread: {error}"));
        let lookout = Lookout::start(&layout.public_nodes(), layout.parts().collect()).map_err(no_thread)?;
        let screen = LiveScreen::start().map_err(no_thread)?;
        let mut session = Session {
            story: Story::new(&addresses),
            is_ready: false,
            screen,
            children: Children::default(),
            began_ms: now_ms(),
            died_ms: BTreeMap::new(),
            under_way: UnderWay::default(),
            lookout: Arc::new(lookout),
            control_room: None,
            layout,
            programs,
            events,
            sender,
        };
        let orders = session.sender.clone();
        let deliver = move |order, outcome| orders.send(SessionEvent::Order(order, outcome)).is_ok();
        session.control_room =
            Some(ControlRoom::open(&session.layout, Arc::clone(&session.lookout), deliver)?);
        let (nodes, servers) = (session.layout.nodes, session.layout.servers);
        session.tell(&format!(
            "{} {nodes} node{} and {servers} server{} in {}, logs in {}",
            if resumed { "resuming" } else { "starting" },
            if nodes == 1 { "" } else { "s" },
            if servers == 1 { "" } else { "s" },
            shown(&session.layout.dir),
            shown(&session.layout.logs()),
        ));
        let nodes = session.layout.node_ids().map(Part::Node);
        let workers = session.layout.server_numbers().map(Part::Worker);
        for part in nodes.chain(workers) {
            session.start_part(part)?;
        }
        session.write_pids()?;
        Ok(session)
    }

    /// `ready` was printed.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn children(&self) -> &Children {
        &self.children
    }

    pub(super) fn children_mut(&mut self) -> &mut Children {
        &mut self.children
    }

    pub(super) fn under_way(&mut self) -> &mut UnderWay {
        &mut self.under_way
    }

    pub(super) fn start_part(&mut self, part: Part) -> Result<(), Failure> {
        let invocation = self.programs.invocation(
            &self.layout,
            part,
            self.worker_pid(part),
            &self.under_way.deaf_to(part),
        );
        let started = self.children.start(part, &invocation, &self.layout.log_file(part));
        let pid =
            started.map_err(|error| Failure::other(format!("{} can't be started: {error}", part.name())))?;
        self.died_ms.remove(&part);
        let by_hand = self.programs.by_hand(&self.layout, part, self.worker_pid(part));
        log::info!("{} started (pid {pid}); by hand that is: {by_hand}", part.name());
        Ok(())
    }

    /// The process that the daemon of the same server measures; 0 for a part that is no daemon.
    fn worker_pid(&self, part: Part) -> u32 {
        match part {
            Part::Daemon(j) => self.children.get(Part::Worker(j)).map_or(0, |worker| worker.pid),
            Part::Node(_) | Part::Worker(_) | Part::Burner(_) => 0,
        }
    }

    /// Runs the cluster until the user stops it. No process remains afterwards.
    pub fn run(mut self) -> ExitCode {
        let (sender, addresses) = (self.sender.clone(), self.addresses());
        let deliver =
            move |position, answer| sender.send(SessionEvent::Answer(position, Box::new(answer))).is_ok();
        let end = match Poller::start(&addresses, INTERVAL, deliver) {
            Ok(_poller) => match self.starting() {
                Some(end) => end,
                None => self.ready(),
            },
            Err(error) => {
                self.tell(&format!("{NAME}: can't start a thread: {error}"));
                SessionEnd::Failed
            }
        };
        self.stop(&end)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.layout.node_ids().map(|id| self.layout.public(id)).collect()
    }

    /// Runs until everything is ready (`None`) or the cluster has to stop.
    fn starting(&mut self) -> Option<SessionEnd> {
        let mut remind = Instant::now() + READY_EXPECTED;
        let mut next_draw = Instant::now();
        loop {
            if let Some(end) = self.wait(Instant::now() + STARTING_INTERVAL) {
                return Some(end);
            }
            if let Some(part) = self.died_ms.keys().find(|part| !self.can_do_without(**part)).copied() {
                self.tell_last_words(part);
                return Some(SessionEnd::Failed);
            }
            if let Err(failure) = self.start_daemons() {
                self.tell(&format!("{NAME}: {}", failure.line));
                return Some(SessionEnd::Failed);
            }
            let missing = self.missing();
            if missing.is_empty() {
                return None;
            }
            if Instant::now() >= remind {
                remind += READY_EXPECTED;
                self.tell("not ready yet:");
                for sentence in missing {
                    self.tell(&format!("  {sentence}"));
                }
            }
            if Instant::now() >= next_draw {
                self.draw(Lookout::state);
                next_draw = Instant::now() + INTERVAL;
            }
        }
    }

    /// Starts the daemon of each server whose worker listens now.
    fn start_daemons(&mut self) -> Result<(), Failure> {
        let waiting: Vec<u16> =
            self.layout.server_numbers().filter(|j| self.children.get(Part::Daemon(*j)).is_none()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let addresses: Vec<SocketAddr> = waiting.iter().map(|j| self.layout.worker(*j)).collect();
        let listening = ports::listening(&addresses);
        for (j, _) in waiting.into_iter().zip(listening).filter(|(_, listens)| *listens) {
            self.start_part(Part::Daemon(j))?;
        }
        self.write_pids()
    }

    /// Writes `pids.json`, for scripts and demonstrations: the processes that run now. Called after each start and each
    /// death, so that it is true at any time; at the end it is empty.
    pub(super) fn write_pids(&self) -> Result<(), Failure> {
        self.show_room();
        let listed = |part: Part| !matches!(part, Part::Burner(_));
        let running = self.children.iter().filter(|child| child.ended.is_none() && listed(child.part));
        let pids: serde_json::Map<String, serde_json::Value> =
            running.map(|child| (child.part.name(), child.pid.into())).collect();
        let path = self.layout.pids_file();
        let mut text = serde_json::Value::Object(pids).to_string();
        text.push('\n');
        storage::replace(&path, text.as_bytes())
            .map_err(|error| Failure::other(format!("{}: can't be written: {error}", shown(&path))))
    }

    /// Tells the page of the control room which processes run and what was ordered.
    pub(super) fn show_room(&self) {
        let running = self.children.iter().filter(|child| child.ended.is_none());
        let pids = running.map(|child| (child.part, child.pid)).collect();
        let (cut, requests_per_second) = (self.under_way.cut().clone(), self.under_way.requests_per_second());
        self.lookout.note(Known { pids, cut, requests_per_second });
    }

    /// What is missing for `ready`: one sentence each, with the log file to read.
    fn missing(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let see = |part: Part| format!("see {}", shown(&self.layout.log_file(part)));
        for j in self.layout.server_numbers() {
            if self.children.get(Part::Daemon(j)).is_none() {
                sentences.push(format!(
                    "the worker of {} does not listen: {}",
                    server_name(j),
                    see(Part::Worker(j))
                ));
            }
        }
        let answers = self.story.answers();
        for (id, answer) in self.layout.node_ids().zip(answers) {
            if self.died_ms.contains_key(&Part::Node(id)) {
                continue; // It ended while starting, and a line has said why.
            }
            let status = match &answer.status {
                Ok(status) => status,
                Err(reason) => {
                    sentences.push(format!("node {id} does not answer ({reason}): {}", see(Part::Node(id))));
                    continue;
                }
            };
            let leader = status.leader.and_then(|leader| {
                answers
                    .iter()
                    .filter_map(|answer| answer.status.as_ref().ok())
                    .find(|other| other.node == leader)
            });
            if leader.is_none_or(|leader| leader.role != RoleName::Leader || leader.term != status.term) {
                sentences.push(format!("node {id} knows no leader: {}", see(Part::Node(id))));
            }
            for j in self.layout.server_numbers() {
                // A report of an earlier run in this directory may still be in the table. It does not count.
                let alive = status.servers.iter().any(|server| {
                    server.id == server_name(j) && server.alive && server.epoch >= self.began_ms
                });
                if !alive {
                    sentences.push(format!(
                        "node {id} has no report of {}: {}",
                        server_name(j),
                        see(Part::Daemon(j))
                    ));
                }
            }
        }
        sentences
    }

    /// Runs from `ready` until the cluster has to stop.
    fn ready(&mut self) -> SessionEnd {
        let first = self.layout.public(1);
        self.tell(&format!("try: curl http://{first}/1000    the 1000th prime, from any node"));
        self.tell(&format!(
            "     {}    steers it; Ctrl-C stops it",
            self.programs.ctl(&self.layout, "--help")
        ));
        if let Some(room) = &self.control_room {
            // Not logged: who reads it may steer.
            self.screen.say(&format!("see: {}", room.page));
        }
        self.tell("ready");
        self.is_ready = true;
        // The first table shows what is ready, not what was seen a moment before.
        self.draw(Lookout::next_state);
        let mut next_draw = Instant::now() + INTERVAL;
        loop {
            if Instant::now() >= next_draw {
                self.draw(Lookout::state);
                next_draw = Instant::now() + INTERVAL;
            }
            if let Some(end) = self.wait(next_draw) {
                return end;
            }
        }
    }

    /// Waits for an event until `until`, and handles it.
    fn wait(&mut self, until: Instant) -> Option<SessionEnd> {
        match self.events.recv_deadline(until) {
            Ok(SessionEvent::Signal(SIGCHLD)) => {
                for part in self.children.reap() {
                    self.tell_death(part);
                    if let Err(failure) = self.write_pids() {
                        self.tell(&failure.line);
                    }
                    self.has_ended(part);
                }
                self.children.reap_orphans();
            }
            Ok(SessionEvent::Signal(signal)) => return Some(SessionEnd::Stop(signal)),
            Ok(SessionEvent::Answer(position, answer)) => {
                for sentence in self.story.take(position, *answer) {
                    log::info!("{sentence}");
                    // On a terminal, the table shows the change.
                    if !self.screen.is_terminal() {
                        self.screen.say(&sentence);
                    }
                }
            }
            Ok(SessionEvent::Order(order, outcome)) => self.carry_out(order, outcome),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("this struct holds a sender of its own"),
        }
        None
    }

    /// Prints one line and logs it.
    pub(super) fn tell(&mut self, line: &str) {
        log::info!("{line}");
        self.screen.say(line);
    }

    fn tell_death(&mut self, part: Part) {
        self.died_ms.insert(part, now_ms());
        let Some(child) = self.children.get(part) else { return };
        let Some(status) = child.ended else { return };
        let mut line = format!("{} (pid {}) {}", part.name(), child.pid, how(status));
        // Killed from outside, it had no last words.
        if status.code().is_some_and(|code| code != 0)
            && let Some(reason) = reason(&self.layout.log_file(part), part)
        {
            line.push_str(&format!(": {reason}"));
        }
        if self.can_do_without(part) && !self.under_way.expects_end_of(part) {
            line.push_str(&format!(
                "; {}; to start it again: {}",
                self.what_goes_on(part),
                self.way_back(part)
            ));
        }
        self.tell(&line);
    }

    /// The command that starts this part again.
    pub(super) fn way_back(&self, part: Part) -> String {
        let order = match part {
            // The order for a load starts what makes it.
            Part::Burner(j) => format!("load {} PERCENT", server_name(j)),
            Part::Node(_) | Part::Worker(_) | Part::Daemon(_) => format!("start {}", part.name()),
        };
        self.programs.ctl(&self.layout, &order)
    }

    /// How many nodes run, and whether they are a majority.
    fn nodes_running(&self) -> (usize, bool) {
        let runs = |id: &u16| self.children.get(Part::Node(*id)).is_some_and(|node| node.ended.is_none());
        let running = self.layout.node_ids().filter(runs).count();
        (running, running > usize::from(self.layout.nodes / 2))
    }

    /// Whether the cluster goes on, or starts, without this part.
    fn can_do_without(&self, part: Part) -> bool {
        self.is_ready || (matches!(part, Part::Node(_)) && self.nodes_running().1)
    }

    /// What the death of this part means for the whole.
    fn what_goes_on(&self, part: Part) -> String {
        let Part::Node(_) = part else { return "the cluster goes on".to_string() };
        let (all, (running, majority)) = (self.layout.nodes, self.nodes_running());
        if majority {
            format!("the cluster goes on with {running} of {all} nodes")
        } else {
            format!(
                "no majority: {running} of {all} nodes run, which serve primes from the last agreed state and agree on nothing new"
            )
        }
    }

    /// Prints the end of the log of a process that died while starting. It usually names the reason.
    fn tell_last_words(&mut self, part: Part) {
        let path = self.layout.log_file(part);
        self.tell(&format!(
            "{} ended before the cluster was ready; the end of {}:",
            part.name(),
            shown(&path)
        ));
        let words = last_words(&path).unwrap_or_else(|error| vec![format!("(it can't be read: {error})")]);
        for line in words {
            self.tell(&format!("  {}", clean(&line)));
        }
    }

    /// The live table, on a terminal, of what is seen now.
    fn draw(&self, look: impl FnOnce(&Lookout) -> PageState) {
        if !self.screen.is_terminal() {
            return;
        }
        let state = look(&self.lookout);
        let node_pid = |id: u16| match self.children.get(Part::Node(id)) {
            None => "-".to_string(),
            Some(child) if child.ended.is_none() => child.pid.to_string(),
            // It answers although the process of this run is dead: the user has started it again.
            Some(_) if state.nodes.get(usize::from(id) - 1).is_some_and(is_fresh) => "by hand".to_string(),
            Some(_) => "gone".to_string(),
        };
        let server_pids = |j: u16| (server_name(j), self.server_pids(j));
        let table = LiveTable {
            addresses: self.addresses(),
            node_pids: self.layout.node_ids().map(node_pid).collect(),
            server_pids: self.layout.server_numbers().map(server_pids).collect(),
            state,
        };
        self.screen.draw(Box::new(move |columns, rows| table.lines(columns, rows)));
    }

    /// The processes of a server, of its worker and its daemon.
    fn server_pids(&self, j: u16) -> (String, String) {
        let process = |part: Part, lives_again: &dyn Fn() -> bool| match self.children.get(part) {
            Some(child) if child.ended.is_none() => child.pid.to_string(),
            Some(_) if lives_again() => "by hand".to_string(),
            Some(_) => "gone".to_string(),
            None => "-".to_string(),
        };
        let worker = process(Part::Worker(j), &|| ports::listening(&[self.layout.worker(j)]) == [true]);
        // The user has started a daemon after the daemon of this run died.
        let daemon = process(Part::Daemon(j), &|| {
            let reported = super::comparison::freshest(self.story.answers())
                .and_then(|status| status.servers.iter().find(|server| server.id == server_name(j)));
            let died_ms = self.died_ms.get(&Part::Daemon(j));
            reported.is_some_and(|server| server.alive && Some(&server.epoch) > died_ms)
        });
        (worker, daemon)
    }

    /// Stops everything. Returns exit code 0 if the user stopped the cluster and no process remains.
    fn stop(mut self, end: &SessionEnd) -> ExitCode {
        self.screen.leave();
        let why = match end {
            SessionEnd::Stop(signal) => signal_hook::low_level::signal_name(*signal).unwrap_or("a signal"),
            SessionEnd::Failed => "the cluster can't be run",
        };
        self.tell(&format!("stopping ({why})"));
        let began = Instant::now();
        let events = &self.events;
        self.children.stop(|until| {
            // The children are checked after any event, which is cheap.
            match events.recv_deadline(until) {
                Ok(SessionEvent::Signal(SIGINT | SIGTERM)) => began.elapsed() >= IMPATIENT_AFTER,
                _ => false,
            }
        });
        let left: Vec<String> = self
            .children
            .iter()
            .filter(|child| child.ended.is_none())
            .map(|child| format!("{} (pid {})", child.part.name(), child.pid))
            .collect();
        self.control_room = None;
        if let Err(failure) = self.write_pids() {
            self.tell(&failure.line);
        }
        if left.is_empty() {
            self.tell("stopped");
        } else {
            self.tell(&format!("still running after SIGKILL: {}", left.join(", ")));
        }
        match end {
            SessionEnd::Stop(_) if left.is_empty() => ExitCode::SUCCESS,
            SessionEnd::Stop(_) | SessionEnd::Failed => ExitCode::from(super::EXIT_FAILURE),
        }
    }
}

/// Passes every signal that matters to the main thread.
///
/// SIGHUP counts even if it was ignored at the start: `rakit up` ends with its terminal. `setsid rakit up`
/// runs a cluster that outlives the terminal.
fn listen_for_signals(sender: Sender<SessionEvent>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    std::thread::Builder::new().name("signals".to_string()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(SessionEvent::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Why this part has ended, as its log says: the program's last line, which begins with its name.
fn reason(log: &std::path::Path, part: Part) -> Option<String> {
    let program = match part {
        Part::Node(_) => "rakit-node: ",
        Part::Daemon(_) => "rakit-daemon: ",
        Part::Worker(_) => "worker.py: ",
        Part::Burner(_) => "rakit: ",
    };
    let words = last_words(log).ok()?;
    words.iter().rev().find_map(|line| line.strip_prefix(program)).map(clean)
}

/// The last lines of a file.
fn last_words(path: &std::path::Path) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].iter().map(ToString::to_string).collect())
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
