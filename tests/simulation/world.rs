//! The world of one seed: a queue of happenings in simulated time, the nodes and their disks, the daemons, the network. One
//! thread, one source of chance, ordered collections only: the same seed is the same world, to the byte.

use std::collections::{BTreeMap, BTreeSet};

use rakit::balancer::ServerOrder;
use rakit::raft::{Index, MemberChange, NodeId, RpcId, RpcReply, RpcRequest, Term};
use rakit::replica::{Input, ReportOutcome};
use rakit::storage::StorageError;

use super::behaviour::Behaviour;
use super::coverage::{Coverage, Seen};
use super::daemon::Daemon;
use super::network::{Fate, Network, Purpose};
use super::oracle::Oracle;
use super::plan::{MS, Plan, Strike, Time, Transport, micros};
use super::process::{Back, Caller, Context, Deed, Mail, Process, ReportMail};
use super::trace::Trace;
use crate::disk::{Failure, SimDisk};
use rakit::raft::Random;

/// An event of the simulated world.
pub enum Happening {
    /// The process's loop wakes up.
    Wake {
        node: NodeId,
        life: u64,
    },
    /// Its disk is done.
    Disk {
        node: NodeId,
        life: u64,
    },
    /// A stopped process runs on.
    Resume {
        node: NodeId,
        pause: u64,
    },
    /// A request arrives.
    Request {
        to: NodeId,
        from: NodeId,
        incarnation: u64,
        request: RpcRequest,
        back: Back,
        sent: u64,
    },
    /// A reply arrives.
    Reply {
        back: Back,
        from: NodeId,
        incarnation: u64,
        reply: RpcReply,
        sent: u64,
    },
    /// A sender learns that its request was lost (or its time-out passes, with the same effect).
    Lost {
        to: NodeId,
        back: Back,
        by_timeout: bool,
    },
    /// Something for a process, from nowhere.
    Mail {
        to: NodeId,
        life: u64,
        mail: Mail,
    },
    /// A daemon's time to report.
    Daemon {
        number: u64,
    },
    /// Its report arrives.
    Report {
        to: NodeId,
        mail: ReportMail,
    },
    /// A daemon hears of its report.
    Outcome {
        mail: ReportMail,
        outcome: ReportOutcome,
    },
    /// A daemon stops or starts, perhaps as a new process in another epoch.
    DaemonTurn {
        number: u64,
        turn: u64,
        runs: bool,
        /// A new process, in this epoch.
        epoch: Option<u64>,
    },
    DaemonMended {
        number: u64,
        node: NodeId,
    },
    /// An operator orders something.
    Order {
        order: ServerOrder,
    },
    /// A removed node's machine is replaced, and the new one is added.
    Replace {
        node: NodeId,
        tries: u8,
    },
    /// A node is started.
    Start {
        node: NodeId,
        life: u64,
    },
    /// Something bad.
    Strike,
    Mended {
        partition: u64,
    },
    StormOver,
    LinkQuick {
        link: (NodeId, NodeId),
    },
    DiskRoom {
        node: NodeId,
    },
    DiskQuick {
        node: NodeId,
    },
}

/// A machine: what outlives its process.
pub struct Machine {
    pub id: NodeId,
    pub disk: SimDisk,
    pub process: Option<Process>,
    /// Lives so far; also names the present one.
    pub life: u64,
    pub wipes: u64,
    /// How often its power was cut: the id of its present boot.
    boots: u64,
    /// What its present directory certainly remembers to be committed.
    hinted: Index,
    /// Its hint was replaced by a false one.
    has_false_hint: bool,
    /// Whether the node counted when its process died, as its disk said: see [`Machine::counts`].
    pub counted: bool,
    pub paused: bool,
    pauses: u64,
    pub slow: bool,
    wake_at: Option<Time>,
    /// While nothing reaches it and nothing leaves it: its term at the beginning.
    isolated: Option<Term>,
    /// The newest message of each sender that has arrived, to see overtaking.
    arrived: BTreeMap<NodeId, u64>,
    /// Leaders whose snapshot it was sent and has not installed, for the coverage.
    snapshot_from: Option<NodeId>,
    /// Not to be started again.
    pub broken: bool,
}

impl Machine {
    /// Whether its disk says for certain that the node counts.
    pub fn counts(&self) -> bool {
        self.process.as_ref().map_or(self.counted, |process| process.counts)
    }

    /// Its directory is emptied.
    pub fn wipe(&mut self) {
        self.disk.wipe();
        self.wipes += 1;
        (self.hinted, self.has_false_hint, self.counted) = (0, false, false);
    }

    /// Its loop wakes up at this moment. An earlier plan is void.
    pub fn wake_soon(&mut self, now: Time) {
        self.wake_at = Some(now);
    }
}

/// Everything.
pub struct World {
    pub plan: Plan,
    pub now: Time,
    pub random: Random,
    queue: BTreeMap<(Time, u64), Happening>,
    next: u64,
    pub machines: Vec<Machine>,
    pub daemons: Vec<Daemon>,
    pub network: Network,
    pub oracle: Oracle,
    pub trace: Trace,
    pub behaviour: Behaviour,
    pub steps: u64,
    exchanges: u64,
    pub chaos: bool,
    pub partitions: u64,
    deeds: Vec<Deed>,
    /// When each index was seen committed first, for the promise of the heartbeat. Filled while `watch_commits`.
    pub commit_times: BTreeMap<Index, Time>,
    pub watch_commits: bool,
}

impl World {
    pub fn new(plan: Plan, trace: Trace, behaviour: Behaviour) -> Self {
        let mut random = Random::new(plan.seed);
        let machine = |id: NodeId, random: &mut Random| Machine {
            id,
            disk: SimDisk::new(random.next_u64()),
            process: None,
            life: 0,
            wipes: 0,
            boots: 0,
            hinted: 0,
            has_false_hint: false,
            counted: false,
            paused: false,
            pauses: 0,
            slow: false,
            wake_at: None,
            isolated: None,
            arrived: BTreeMap::new(),
            snapshot_from: None,
            broken: false,
        };
        let machines = (1..=plan.machines()).map(|id| machine(id, &mut random)).collect();
        let daemons: Vec<Daemon> = (1..=plan.servers).map(Daemon::new).collect();
        let mut world = Self {
            now: 0,
            random,
            queue: BTreeMap::new(),
            next: 0,
            machines,
            network: Network::new(),
            oracle: Oracle::new(plan.servers_max),
            trace,
            behaviour,
            steps: 0,
            exchanges: 0,
            chaos: true,
            partitions: 0,
            deeds: Vec::new(),
            commit_times: BTreeMap::new(),
            watch_commits: false,
            daemons,
            plan,
        };
        for id in 1..=world.plan.machines() {
            let at = world.random.below(world.plan.heartbeat_us());
            world.at(at, Happening::Start { node: id, life: 0 });
        }
        for number in 1..=world.plan.servers {
            let at = world.random.below(world.plan.report_interval);
            world.at(at, Happening::Daemon { number });
        }
        if !world.plan.strikes.is_empty() {
            world.next_strike();
        }
        world
    }

    // ------------------------------------------------------------------------------------------------ the queue

    pub fn at(&mut self, time: Time, happening: Happening) {
        self.next += 1;
        self.queue.insert((time.max(self.now), self.next), happening);
    }

    pub fn after(&mut self, delay: Time, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    /// Lets happen what happens up to this moment.
    pub fn run_until(&mut self, end: Time) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((time, _), happening) = entry.remove_entry();
            self.now = time;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { node, life } => self.wake(node, life),
            Happening::Disk { node, life } => self.disk(node, life),
            Happening::Resume { node, pause } => self.resume(node, pause),
            Happening::Request { to, from, incarnation, request, back, sent } => {
                self.request_arrives(to, from, incarnation, request, back, sent);
            }
            Happening::Reply { back, from, incarnation, reply, sent } => {
                self.reply_arrives(back, from, incarnation, reply, sent);
            }
            Happening::Lost { to, back, by_timeout } => self.lost(to, back, by_timeout),
            Happening::Mail { to, life, mail } => self.deliver(to, life, mail),
            Happening::Daemon { number } => self.daemon_reports(number),
            Happening::Report { to, mail } => self.report_arrives(to, mail),
            Happening::Outcome { mail, outcome } => self.outcome_arrives(&mail, outcome),
            Happening::DaemonTurn { number, turn, runs, epoch } => {
                self.daemon_turn(number, turn, runs, epoch)
            }
            Happening::DaemonMended { number, node } => {
                self.network.daemon_cuts.remove(&(number, node));
            }
            Happening::Order { order } => super::faults::order(self, &order),
            Happening::Replace { node, tries } if self.chaos => super::faults::replace(self, node, tries),
            Happening::Replace { .. } => {}
            Happening::Start { node, life } => self.start(node, life),
            Happening::Strike if self.chaos => {
                if let Some(strike) = self.plan.clone().strike(&mut self.random) {
                    self.strike(strike);
                }
                self.next_strike();
            }
            Happening::Strike => {}
            Happening::Mended { partition } => {
                self.trace.line(self.now, || format!("network: partition {partition} is mended"));
                self.network.mend(partition);
                self.note_isolation();
            }
            Happening::StormOver => self.network.storm = false,
            Happening::LinkQuick { link } => self.network.set_rate(link, None),
            Happening::DiskRoom { node } => self.machine(node).disk.set_capacity(None),
            Happening::DiskQuick { node } => self.machine(node).slow = false,
        }
    }

    fn next_strike(&mut self) {
        let delay = self.random.below(2 * self.plan.strike_interval) + 1;
        self.after(delay, Happening::Strike);
    }

    pub fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.machines[usize::try_from(id - 1).expect("at most 7")]
    }

    pub fn process(&self, id: NodeId) -> Option<&Process> {
        self.machines[usize::try_from(id - 1).expect("at most 7")].process.as_ref()
    }

    // ------------------------------------------------------------------------------------------------ processes

    fn latency(&mut self, node: NodeId) -> Time {
        if let Some(fsync) = self.plan.fsync {
            return fsync;
        }
        let max = if self.network.healed.contains(&node) { 1_000 } else { self.plan.disk_latency_max };
        let latency = 50 + self.random.below(max);
        if self.machine(node).slow { latency + self.random.below(400 * MS) } else { latency }
    }

    /// Calls a process, and carries out what it does.
    fn call(
        &mut self,
        node: NodeId,
        call: impl FnOnce(&mut Process, &mut Context<'_>) -> Result<(), StorageError>,
    ) {
        let latency = self.latency(node);
        let position = usize::try_from(node - 1).expect("at most 7");
        let Some(process) = self.machines[position].process.as_mut() else { return };
        let committed = self.oracle.commit_index();
        let mut deeds = std::mem::take(&mut self.deeds);
        let mut context = Context {
            now: self.now,
            oracle: &mut self.oracle,
            trace: &self.trace,
            behaviour: &self.behaviour,
            deeds: &mut deeds,
            steps: &mut self.steps,
            latency,
        };
        let result = call(process, &mut context);
        if self.watch_commits {
            for index in committed + 1..=self.oracle.commit_index() {
                self.commit_times.insert(index, self.now);
            }
        }
        // Messages that were sent before the disk failed stay sent.
        for deed in deeds.drain(..) {
            self.carry_out(node, deed);
        }
        self.deeds = deeds;
        match result {
            Ok(()) => {
                self.check(node);
                self.schedule(node);
            }
            Err(error) => self.disk_failed(node, &error),
        }
    }

    /// When the process runs next.
    fn schedule(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.machine(node);
        let Some(process) = machine.process.as_mut() else { return };
        if machine.paused {
            return;
        }
        let life = process.life;
        let disk = process.write_done.take();
        let wake = (!process.is_blocked()).then(|| process.wakes_at(now));
        let wake = wake.filter(|wake| machine.wake_at.is_none_or(|planned| *wake < planned || planned < now));
        if let Some(wake) = wake {
            machine.wake_at = Some(wake);
        }
        if let Some(done) = disk {
            self.at(done, Happening::Disk { node, life });
        }
        if let Some(wake) = wake {
            self.at(wake, Happening::Wake { node, life });
        }
    }

    fn wake(&mut self, node: NodeId, life: u64) {
        let now = self.now;
        let machine = self.machine(node);
        if machine.life != life || machine.wake_at != Some(now) || machine.paused {
            return;
        }
        machine.wake_at = None;
        if machine.process.as_ref().is_some_and(|process| !process.is_blocked()) {
            self.call(node, Process::wake);
        }
    }

    fn disk(&mut self, node: NodeId, life: u64) {
        let at_once = usize::try_from(1 + self.random.below(3)).expect("small");
        let machine = self.machine(node);
        if machine.life != life {
            return;
        }
        if machine.paused {
            if let Some(process) = machine.process.as_mut() {
                process.write_done = Some(0); // Taken up when the process runs again.
            }
            return;
        }
        self.call(node, |process, context| process.disk_done(at_once, context));
    }

    fn resume(&mut self, node: NodeId, pause: u64) {
        let machine = self.machine(node);
        if !machine.paused || machine.pauses != pause {
            return;
        }
        machine.paused = false;
        machine.wake_at = None;
        self.trace.line(self.now, || format!("node {node}: runs again"));
        self.schedule(node);
    }

    pub fn pause(&mut self, node: NodeId, length: Time) {
        let machine = self.machine(node);
        machine.paused = true;
        machine.pauses += 1;
        let pause = machine.pauses;
        self.oracle.count(Seen::Paused);
        self.trace.line(self.now, || format!("node {node}: stopped (SIGSTOP) for {} ms", length / MS));
        self.after(length, Happening::Resume { node, pause });
    }

    fn start(&mut self, node: NodeId, life: u64) {
        let seed = self.random.next_u64();
        let (now, plan) = (self.now, self.plan.clone());
        let position = usize::try_from(node - 1).expect("at most 7");
        let machine = &mut self.machines[position];
        if machine.process.is_some() || machine.life != life || machine.broken {
            return;
        }
        machine.life += 1;
        (machine.wake_at, machine.paused) = (None, false);
        let (life, wipes, disk) = (machine.life, machine.wipes, machine.disk.clone());
        // The recovery is interrupted, too, now and then.
        if self.chaos && plan.strikes.contains_key(&Strike::CrashInDisk) && self.random.below(6) == 0 {
            disk.plan(Failure::Crash, self.random.below(4));
        }
        let (boot, hinted, is_false) = (machine.boots.to_string(), machine.hinted, machine.has_false_hint);
        match Process::start(&plan, node, life, wipes, disk, now, seed, &boot, &mut self.oracle) {
            Ok(process) => {
                let raft = process.replica.raft();
                self.behaviour.started(raft, life, process.storage.incarnation());
                self.machines[position].has_false_hint = false;
                let remembered = raft.commit_index();
                assert!(remembered >= hinted, "node {node} forgot that {hinted} is committed: {remembered}");
                if remembered > raft.snapshot_index() {
                    assert!(
                        !is_false,
                        "node {node} honours a hint about an entry that its log does not hold"
                    );
                    self.oracle.count(Seen::HintHonoured);
                    if remembered < self.oracle.commit_index() {
                        self.oracle.count(Seen::HintOld);
                    }
                } else if is_false {
                    self.oracle.count(Seen::HintFalse);
                }
                self.trace.line(now, || {
                    let (state, last) = (raft.hard_state(), raft.log().last_index());
                    format!(
                        "node {node}: starts: {state:?}, snapshot {}, log up to {last}",
                        raft.snapshot_index()
                    )
                });
                self.machines[position].process = Some(process);
                self.note_isolation();
                self.schedule(node);
            }
            Err(error @ StorageError::Io { .. }) => {
                self.oracle.count(Seen::DeadInRecovery);
                self.disk_failed(node, &error);
            }
            Err(error) => panic!("node {node} refuses to start: {error}"),
        }
    }

    /// The disk failed or the crash that was planned in it came: the process is gone.
    fn disk_failed(&mut self, node: NodeId, error: &StorageError) {
        assert!(matches!(error, StorageError::Io { .. }), "node {node}: {error}");
        let crashed = self.machine(node).disk.is_crashed();
        if !crashed {
            self.oracle.count(Seen::StoppedByDisk);
        }
        self.trace.line(self.now, || format!("node {node}: ends: {error}"));
        self.die(node, crashed && self.now.is_multiple_of(2));
    }

    /// The process ends, with or without its machine; later it is started again.
    pub fn die(&mut self, node: NodeId, power_cut: bool) {
        let followers: Vec<(NodeId, u64)> = self
            .machines
            .iter()
            .filter(|machine| {
                machine.process.as_ref().is_some_and(|process| process.replica.raft().leader() == Some(node))
            })
            .filter(|machine| machine.id != node)
            .map(|machine| (machine.id, machine.life))
            .collect();
        let seed = self.random.next_u64();
        let machine = self.machine(node);
        machine.counted = machine.counts();
        let process = machine.process.take();
        let hinted = process.as_ref().and_then(|process| process.hinted).unwrap_or(machine.hinted);
        machine.hinted = if power_cut { 0 } else { hinted };
        let (life, was_writing) = (machine.life, process.as_ref().is_some_and(Process::is_writing));
        (machine.paused, machine.isolated) = (false, None);
        if power_cut {
            machine.boots += 1;
            let hint = machine.disk.contents().remove("commit");
            machine.disk.power_cut(seed);
            let is_kept = hint.is_some() && hint == machine.disk.contents().remove("commit");
            // The true one may be back: neither the false one nor its removal in a recovery was ever synced.
            machine.has_false_hint &= is_kept;
            if hint.is_some() && !is_kept {
                self.oracle.count(Seen::HintLost);
            }
        } else {
            machine.disk.kill();
        }
        self.oracle.count(if power_cut { Seen::PowerCut } else { Seen::Killed });
        if was_writing {
            self.oracle.count(Seen::CrashWhileWriting);
        }
        self.trace
            .line(self.now, || format!("node {node}: {}", if power_cut { "power cut" } else { "killed" }));
        self.network.slots.retain(|(from, _, _), _| *from != node);
        if let Some(process) = process
            && !power_cut
        {
            // The kernel closes the connections of the process. Peers and daemons that wait for its answers notice, and
            // so do the
            // followers that watch it.
            for back in process.unanswered().iter().copied() {
                if self.random.below(10) < 8 && !self.network.is_cut(node, back.node) {
                    self.after(200, Happening::Lost { to: node, back, by_timeout: false });
                }
            }
            for (follower, life) in followers {
                if self.random.below(10) < 8 && !self.network.is_cut(node, follower) {
                    self.oracle.count(Seen::HintRight);
                    let delay = 100 + self.random.below(2 * MS);
                    let mail = Input::LeaderGone { leader: node };
                    self.after(delay, Happening::Mail { to: follower, life, mail });
                }
            }
        }
        let delay = match self.random.below(3) {
            0 => self.random.below(5 * MS),
            1 => self.random.below(self.plan.patience() / 2),
            _ => self.random.below(self.plan.patience() * 3),
        };
        self.after(delay + 1, Happening::Start { node, life });
    }

    /// Puts a hint into a dead node's directory that names an entry which its log does not hold: as after a log that was
    /// lost or replaced behind the hint's back. Only beside a log that ends with a whole record: a torn one below what is
    /// said to be committed is damage.
    pub fn plant_false_hint(&mut self, node: NodeId) {
        let beyond = self.random.below(2) == 0;
        let machine = self.machine(node);
        let contents = machine.disk.contents();
        let (Some(log), Some(hint)) = (contents.get("log"), contents.get("commit")) else { return };
        let hint = String::from_utf8_lossy(hint).into_owned();
        let Some(json) = hint.lines().next().and_then(|line| line.get(9..)) else { return };
        let Ok(mut json) = serde_json::from_str::<serde_json::Value>(json) else { return };
        if log.last() != Some(&b'\n') {
            return;
        }
        let number = &mut json["commit"][if beyond { "index" } else { "term" }];
        *number = (number.as_u64().expect("a number") + 100_000).into();
        let json = json.to_string();
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        machine.disk.put("commit", line.as_bytes());
        (machine.hinted, machine.has_false_hint) = (0, true);
    }

    // ------------------------------------------------------------------------------------------------ messages

    fn carry_out(&mut self, node: NodeId, deed: Deed) {
        match deed {
            Deed::Send { to, rpc, request } => self.send(node, to, rpc, request),
            Deed::Reply { back, reply } => self.reply(node, back, reply),
            Deed::Answer { mail, outcome } => self.outcome(node, mail, outcome),
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, rpc: RpcId, request: RpcRequest) {
        if self.plan.transport == Transport::Wild {
            return self.transmit(from, to, rpc, request);
        }
        let slot = self.network.slots.entry((from, to, Purpose::of(&request))).or_default();
        if slot.under_way.is_none() {
            return self.transmit(from, to, rpc, request);
        }
        if slot.waiting.replace((rpc, request)).is_some() {
            self.oracle.count(Seen::Displaced);
        }
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, rpc: RpcId, request: RpcRequest) {
        self.exchanges += 1;
        let exchange = self.exchanges;
        let Some(process) = self.process(from) else { return };
        let (incarnation, life) = (process.storage.incarnation(), process.life);
        let back = Back { node: from, life, rpc, exchange };
        self.trace.line(self.now, || format!("{from} -> {to} #{rpc} {}", brief(&request)));
        if self.plan.transport == Transport::Http {
            self.network.slots.entry((from, to, Purpose::of(&request))).or_default().under_way =
                Some(exchange);
            let patience = self.plan.patience();
            self.after(patience, Happening::Lost { to, back, by_timeout: true });
        }
        if self.network.doubles(&self.plan, &mut self.random)
            && let Some(after) = self.travel(from, to, || bytes_of(&request))
        {
            self.oracle.count(Seen::Duplicated);
            let request = request.clone();
            self.after(after, Happening::Request { to, from, incarnation, request, back, sent: exchange });
        }
        match self.travel(from, to, || bytes_of(&request)) {
            Some(after) => {
                self.after(
                    after,
                    Happening::Request { to, from, incarnation, request, back, sent: exchange },
                );
            }
            None => self.maybe_tell(to, back),
        }
    }

    /// How long a message of so many bytes takes; `None` if it is lost.
    fn travel(&mut self, from: NodeId, to: NodeId, bytes: impl FnOnce() -> u64) -> Option<Time> {
        match self.network.fate(&self.plan, &mut self.random, from, to) {
            Fate::Lost => {
                self.oracle.count(Seen::Lost);
                None
            }
            Fate::Arrives { after, slow, late } => {
                if slow {
                    self.oracle.count(Seen::Delayed);
                }
                if late {
                    self.oracle.count(Seen::VeryLate);
                }
                let Some(queues) = self.network.queues(&self.plan, self.now, (from, to), bytes) else {
                    self.oracle.count(Seen::SlowLinkFull);
                    return None;
                };
                if queues > MS {
                    self.oracle.count(Seen::SlowLink);
                }
                Some(queues + after)
            }
        }
    }

    /// A lost message: its sender hears of it, or never does.
    fn maybe_tell(&mut self, to: NodeId, back: Back) {
        if self.random.below(2) == 0 {
            self.oracle.count(Seen::LossTold);
            let delay = 200 + self.random.below(self.plan.patience());
            self.after(delay, Happening::Lost { to, back, by_timeout: false });
        } else {
            self.oracle.count(Seen::LossSilent);
        }
    }

    fn request_arrives(
        &mut self,
        to: NodeId,
        from: NodeId,
        incarnation: u64,
        request: RpcRequest,
        back: Back,
        sent: u64,
    ) {
        if self.network.is_cut(from, to) {
            self.oracle.count(Seen::Lost);
            return self.maybe_tell(to, back);
        }
        let Some(process) = self.process(to) else {
            // Nobody listens there.
            self.oracle.count(Seen::Refused);
            return self.after(100, Happening::Lost { to, back, by_timeout: false });
        };
        let life = process.life;
        self.note_order(to, from, sent);
        if let RpcRequest::InstallSnapshot(_) = &request
            && self.machine(to).snapshot_from.replace(from).is_some_and(|before| before != from)
        {
            self.oracle.count(Seen::SnapshotRestarted);
        }
        self.deliver(to, life, Input::Request { from, incarnation, request, caller: back });
    }

    fn note_order(&mut self, to: NodeId, from: NodeId, sent: u64) {
        let newest = self.machine(to).arrived.entry(from).or_default();
        if sent < *newest {
            self.oracle.count(Seen::Reordered);
        } else {
            *newest = sent;
        }
    }

    fn reply(&mut self, from: NodeId, back: Back, reply: RpcReply) {
        let Some(process) = self.process(from) else { return };
        let incarnation = process.storage.incarnation();
        let sent = self.exchanges;
        self.trace.line(self.now, || format!("{from} => {} #{} {reply:?}", back.node, back.rpc));
        if self.network.doubles(&self.plan, &mut self.random)
            && let Some(after) = self.travel(from, back.node, || bytes_of(&reply))
        {
            self.oracle.count(Seen::Duplicated);
            let reply = reply.clone();
            self.after(after, Happening::Reply { back, from, incarnation, reply, sent });
        }
        match self.travel(from, back.node, || bytes_of(&reply)) {
            Some(after) => self.after(after, Happening::Reply { back, from, incarnation, reply, sent }),
            None => self.maybe_tell(from, back),
        }
    }

    fn reply_arrives(&mut self, back: Back, from: NodeId, incarnation: u64, reply: RpcReply, _sent: u64) {
        if self.network.is_cut(from, back.node) {
            return self.maybe_tell(from, back);
        }
        if self.machine(back.node).life != back.life {
            return; // The connection died with the process.
        }
        if self.plan.transport == Transport::Http && !self.free_slot(from, back) {
            self.oracle.count(Seen::LateReply);
            return;
        }
        self.deliver(back.node, back.life, Input::Reply { from, incarnation, rpc: back.rpc, reply });
        self.next_request(from, back);
    }

    fn lost(&mut self, to: NodeId, back: Back, by_timeout: bool) {
        if self.machine(back.node).life != back.life {
            return;
        }
        let is_over = match self.plan.transport {
            Transport::Http => !self.free_slot(to, back),
            Transport::Wild => by_timeout,
        };
        if is_over {
            return;
        }
        self.deliver(back.node, back.life, Input::Lost { to, rpc: back.rpc });
        self.next_request(to, back);
    }

    /// Ends the exchange at the sender, if it is still under way there.
    fn free_slot(&mut self, peer: NodeId, back: Back) -> bool {
        [Purpose::Log, Purpose::Election].into_iter().any(|purpose| {
            let slot = self.network.slots.get_mut(&(back.node, peer, purpose));
            slot.is_some_and(|slot| slot.under_way.take_if(|under_way| *under_way == back.exchange).is_some())
        })
    }

    /// The sender takes what waits in its slot.
    fn next_request(&mut self, peer: NodeId, back: Back) {
        for purpose in [Purpose::Log, Purpose::Election] {
            if let Some(slot) = self.network.slots.get_mut(&(back.node, peer, purpose))
                && slot.under_way.is_none()
                && let Some((rpc, request)) = slot.waiting.take()
            {
                self.transmit(back.node, peer, rpc, request);
            }
        }
    }

    pub fn deliver(&mut self, to: NodeId, life: u64, mail: Mail) {
        let machine = self.machine(to);
        if machine.life != life {
            return;
        }
        let Some(process) = machine.process.as_mut() else { return };
        let (waits, is_blocked) = (process.deliver(mail), process.is_blocked());
        if waits {
            self.oracle.count(Seen::ConsensusInboxFull);
        }
        if is_blocked {
            self.oracle.count(Seen::MailWhileWriting);
        }
        self.schedule(to);
    }

    // ------------------------------------------------------------------------------------------------ daemons

    pub fn daemon(&mut self, number: u64) -> &mut Daemon {
        &mut self.daemons[usize::try_from(number - 1).expect("a few")]
    }

    fn daemon_reports(&mut self, number: u64) {
        let jitter = self.random.below(self.plan.report_interval / 5 + 1);
        self.after(self.plan.report_interval * 9 / 10 + jitter, Happening::Daemon { number });
        if !self.daemon(number).is_running {
            return;
        }
        let mut random = Random::new(self.random.next_u64());
        let (report, forward) = self.daemon(number).report(&mut random);
        for to in 1..=self.plan.machines() {
            if let Fate::Arrives { after, .. } =
                self.network.daemon_fate(&self.plan, &mut self.random, number, to)
            {
                let mail = ReportMail { report: report.clone(), forward };
                self.after(after, Happening::Report { to, mail });
            }
        }
    }

    /// An operator's order for a leader.
    pub fn ask_for_change(&mut self, leader: NodeId, life: u64, change: MemberChange) {
        self.deliver(leader, life, Input::ChangeMembers { change, caller: Caller::Members });
    }

    fn report_arrives(&mut self, to: NodeId, mail: ReportMail) {
        let now = self.now;
        let Some(process) = self.machine(to).process.as_mut() else { return };
        if !process.offer(mail, now) {
            // It is told so, and reports again, as always.
            self.oracle.count(Seen::ReportInboxFull);
        }
        self.schedule(to);
    }

    fn outcome(&mut self, node: NodeId, mail: ReportMail, outcome: ReportOutcome) {
        if let ReportOutcome::NotLeader { leader: Some(leader) } = outcome
            && mail.forward
            && leader != node
        {
            self.oracle.count(Seen::Forwarded);
            if let Some(after) = self.travel(node, leader, || bytes_of(&mail.report)) {
                let mail = ReportMail { forward: false, ..mail };
                self.after(after, Happening::Report { to: leader, mail });
            }
            return;
        }
        self.after(500, Happening::Outcome { mail, outcome });
    }

    fn outcome_arrives(&mut self, mail: &ReportMail, outcome: ReportOutcome) {
        let stamp = mail.report.stamp();
        let committed = match outcome {
            ReportOutcome::Committed { .. } => stamp,
            ReportOutcome::Stale { newest, .. } => newest,
            _ => return,
        };
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.name == mail.report.server);
        if daemon.is_some_and(|daemon| daemon.answered(stamp, committed)) {
            self.oracle.count(Seen::WentAbove);
        }
    }

    fn daemon_turn(&mut self, number: u64, turn: u64, runs: bool, epoch: Option<u64>) {
        let daemon = self.daemon(number);
        if daemon.turns != turn {
            return;
        }
        daemon.is_running = runs;
        if let Some(epoch) = epoch {
            daemon.restart(epoch);
        }
        let name = daemon.name.clone();
        self.trace
            .line(self.now, || format!("{name}: {}", if runs { "reports again" } else { "falls silent" }));
    }

    // ------------------------------------------------------------------------------------------------ checks

    /// Checks that need the state of several nodes.
    fn check(&mut self, node: NodeId) {
        let Some(process) = self.process(node) else { return };
        let isolated = self.machines[usize::try_from(node - 1).expect("at most 7")].isolated;
        // Who is the only voter needs nobody.
        if let Some(term) = isolated.filter(|_| process.replica.raft().majority() > 1) {
            let own = process.replica.raft().hard_state().term;
            assert_eq!(own, term, "node {node} is alone, and its term rose from {term} to {own}");
        }
        // What a node takes for durable in its own log is on its own disk, and the same.
        let (durable, shape) = (process.replica.raft().durable_index(), process.storage.shape());
        assert!(
            durable <= shape.last_index(),
            "node {node} takes entry {durable} for durable, and has {} on its disk",
            shape.last_index()
        );
        if let (Some(own), Some(on_disk)) =
            (process.replica.raft().log().term_at(durable), shape.term_at(durable))
        {
            assert_eq!(
                own, on_disk,
                "node {node} takes another entry {durable} for durable than is on its disk"
            );
        }
        // A leader's match never above the peer's durable log.
        for peer in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            let Some((match_index, _)) = process.replica.raft().progress(peer.id) else { continue };
            let known = process.incarnations.get(&peer.id).copied();
            // What a follower acknowledged to a leader of an earlier term, a later one may have truncated.
            let is_later = peer.replica.raft().hard_state().term > process.replica.raft().hard_state().term;
            if match_index == 0 || is_later || known != Some(peer.storage.incarnation()) {
                continue;
            }
            let shape = peer.storage.shape();
            assert!(
                match_index <= shape.last_index(),
                "leader {node} believes that node {} has {match_index}, which has {} on its disk",
                peer.id,
                shape.last_index()
            );
            if let (Some(own), Some(other)) =
                (process.replica.raft().log().term_at(match_index), shape.term_at(match_index))
            {
                assert_eq!(own, other, "leader {node} counts on entry {match_index} of node {}", peer.id);
            }
        }
        let unapplied = process.replica.raft().log().last_index() - process.replica.raft().applied_index();
        let bound = self.plan.snapshot_entries + self.plan.trailing_entries + unapplied;
        let held = process.entries_in_memory();
        let may_compact = process.replica.standing().contradiction.is_none();
        assert!(
            process.is_writing() || !may_compact || held <= bound,
            "node {node} holds {held} entries in memory"
        );
    }

    /// The partitions changed: who is alone now must not raise its term from here on.
    pub fn note_isolation(&mut self) {
        let (network, nodes) = (&self.network, self.plan.machines());
        for machine in &mut self.machines {
            let alone = network.is_isolated(machine.id, nodes);
            machine.isolated = match &machine.process {
                // With mail in its inbox, or an output under way, it may not have read the others' last messages yet.
                Some(process) if alone && !process.has_mail() && !process.is_writing() => {
                    machine.isolated.or(Some(process.replica.raft().hard_state().term))
                }
                _ => None,
            };
        }
    }

    /// How many nodes count.
    pub fn counting(&self) -> u64 {
        self.machines.iter().filter(|machine| machine.counts()).count() as u64
    }

    /// A disk may be emptied as long as a majority remembers (docs/raft.md, "The founding, and nodes without memory"). A node
    /// that does not count has nothing to forget.
    pub fn may_wipe(&self, node: NodeId) -> bool {
        if self.plan.changes_members() {
            // Only who is no member in anybody's log: the lists of those that are down are not known here.
            let is_nowhere = self.machines.iter().all(|machine| {
                machine
                    .process
                    .as_ref()
                    .is_some_and(|process| !process.replica.raft().members().contains(node))
            });
            return is_nowhere && self.founders_remember();
        }
        self.founders_allow_wipe(node)
    }

    /// Founders without memory could found a second cluster.
    pub fn founders_allow_wipe(&self, node: NodeId) -> bool {
        let counts = self.machines.iter().any(|machine| machine.id == node && machine.counts());
        !counts || self.founders_remember()
    }

    /// Whether a majority of the founders remembers, also with one less.
    fn founders_remember(&self) -> bool {
        let founders = self.machines.iter().filter(|machine| machine.id <= self.plan.nodes);
        founders.filter(|machine| machine.counts()).count() as u64 > self.plan.nodes / 2 + 1
    }

    /// The nodes that lead, in their own opinion, newest term last.
    pub fn leaders(&self) -> Vec<NodeId> {
        let mut leaders: Vec<(Term, NodeId)> = self
            .machines
            .iter()
            .filter_map(|machine| machine.process.as_ref())
            .filter(|process| process.replica.raft().is_leader())
            .map(|process| (process.replica.raft().hard_state().term, process.id))
            .collect();
        leaders.sort_unstable();
        leaders.into_iter().map(|(_, id)| id).collect()
    }

    /// The counts of the whole seed.
    pub fn into_coverage(mut self) -> Coverage {
        self.oracle.finish();
        let mut coverage = std::mem::take(&mut self.oracle.coverage);
        for machine in &self.machines {
            coverage.count_disk(&machine.disk.coverage());
        }
        coverage
    }

    /// Ends all faults of these nodes at once. The second phase decides about the others.
    pub fn begin_healing(&mut self, healed: &BTreeSet<NodeId>) {
        self.chaos = false;
        self.network.mend_all();
        self.network.healed.clone_from(healed);
        for id in healed.iter().copied() {
            let machine = self.machine(id);
            machine.slow = false;
            machine.disk.set_capacity(None);
            machine.disk.call_off();
            let (life, pause, paused, down) =
                (machine.life, machine.pauses, machine.paused, machine.process.is_none());
            if paused {
                self.resume(id, pause);
            }
            if down {
                self.after(MS, Happening::Start { node: id, life });
            }
        }
        self.note_isolation();
    }

    /// The latest by which something sent now has arrived, everywhere: before, old messages may still come.
    pub fn old_messages_gone(&self) -> Time {
        self.now + self.plan.patience() * 3
    }

    pub fn server_timeout(&self) -> Time {
        micros(self.plan.server_timeout)
    }

    /// Takes a strike, unless it makes no sense now.
    pub fn strike(&mut self, strike: Strike) {
        super::faults::strike(self, strike);
    }
}

/// As it is on the wire, the head left aside.
fn bytes_of(message: &impl serde::Serialize) -> u64 {
    serde_json::to_vec(message).expect("messages have a JSON form").len() as u64
}

fn brief(request: &RpcRequest) -> String {
    match request {
        RpcRequest::AppendEntries(append) => format!(
            "AppendEntries term {} after {}/{} {} entries, commit {}",
            append.term,
            append.prev_log_index,
            append.prev_log_term,
            append.entries.len(),
            append.leader_commit
        ),
        RpcRequest::InstallSnapshot(chunk) => format!(
            "InstallSnapshot term {} up to {} offset {} done {}",
            chunk.term, chunk.last_included_index, chunk.offset, chunk.done
        ),
        other => format!("{other:?}"),
    }
}
