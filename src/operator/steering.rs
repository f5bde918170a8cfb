//! Carries out the orders of the control room on the main thread of `rakit up`. `session.rs` calls it.
//!
//! An order is answered when it is done: `kill` when the process has ended and `pids.json` says so, `restart` when the next
//! process runs. Nothing here waits for a process; what must wait for a death is kept in [`UnderWay`](super::under_way::UnderWay) until SIGCHLD.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use rakit::http::client::{Client, ClientTimeouts};
use rakit::protocol::{Lost, path};
use rakit::storage;
use rustix::process::Signal;

use super::Failure;
use super::children::Child;
use super::control_room::Done;
use super::layout::{Part, server_name, shown};
use super::order::{Dropped, Failing, Link, Order};
use super::session::Session;
use super::traffic::Traffic;
use super::under_way::Waiting;

/// How long a node may take to answer an order about its cables, at its public address. One that is cut off answers
/// there; one that is paused never does.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer of a node that is read, in bytes. It is one line.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

impl Session {
    /// Carries out an order, and sends the outcome now or when the process has ended.
    pub fn carry_out(&mut self, order: Order, outcome: Sender<Done>) {
        if !self.is_ready() {
            answer(&outcome, Err("the cluster is not ready yet; try again in a moment".to_string()));
            return;
        }
        let done = match order {
            Order::Kill { name } => return self.end(name, Signal::KILL, false, outcome),
            Order::Restart { name } => return self.end(name, Signal::TERM, true, outcome),
            Order::Start { name } => self.start_again(name),
            Order::Pause { name } => self.pause(name, true),
            Order::Resume { name } => self.pause(name, false),
            Order::Cut(link) => return self.cut(&link, true, outcome),
            Order::Heal(link) => return self.cut(&link, false, outcome),
            Order::Drop { what: Dropped::Heartbeats, node } => {
                return self.lose(node, Lost::Heartbeats, outcome);
            }
            Order::Drop { what: Dropped::Votes, node } => return self.lose(node, Lost::Votes, outcome),
            Order::Fail { what: Failing::Vote, node } => return self.lose(node, Lost::NextVote, outcome),
            Order::Load { server, percent } => self.put_load(server, percent),
            Order::Requests { per_second, n } => self.send_requests(per_second, n),
        };
        answer(&outcome, done);
    }

    /// The running process, or why there is none.
    fn running(&self, part: Part) -> Result<&Child, String> {
        self.check(part)?;
        match self.children().get(part) {
            Some(child) if child.ended.is_none() => Ok(child),
            _ => Err(format!("{} does not run; start it with `{}`", part.name(), self.way_back(part))),
        }
    }

    /// Whether this cluster has such a part.
    fn check(&self, part: Part) -> Result<(), String> {
        let layout = self.layout();
        let (number, count, what) = match part {
            Part::Node(id) => (id, layout.nodes, "nodes"),
            Part::Worker(j) | Part::Daemon(j) | Part::Burner(j) => (j, layout.servers, "servers"),
        };
        let name = if let Part::Burner(j) = part { server_name(j) } else { part.name() };
        if number <= count { Ok(()) } else { Err(format!("there are {count} {what}, so no {name}")) }
    }

    fn end(&mut self, part: Part, with: Signal, starts_again: bool, outcome: Sender<Done>) {
        match self.running(part) {
            Ok(child) => {
                child.signal_group(with);
                // A paused process handles SIGTERM only after SIGCONT.
                child.signal_group(Signal::CONT);
                self.under_way().waiting.push(Waiting { part, starts_again, outcome });
            }
            Err(why) if starts_again && self.check(part).is_ok() => {
                let done = self.start_again(part).map_err(|error| format!("{why}; {error}"));
                answer(&outcome, done);
            }
            Err(why) => answer(&outcome, Err(why)),
        }
    }

    /// Answers the orders that waited for the end of this part.
    pub fn has_ended(&mut self, part: Part) {
        let waiting = std::mem::take(&mut self.under_way().waiting);
        let (done, still) = waiting.into_iter().partition(|waiting| waiting.part == part);
        self.under_way().waiting = still;
        for Waiting { part, starts_again, outcome } in done {
            let done =
                if starts_again { self.start_again(part) } else { Ok(format!("{} is dead", part.name())) };
            answer(&outcome, done);
        }
    }

    fn start_again(&mut self, part: Part) -> Done {
        self.check(part)?;
        if let Ok(child) = self.running(part) {
            return Err(format!("{} runs already (pid {})", part.name(), child.pid));
        }
        if let Part::Node(id) = part {
            // A process begins with the cut cables, and with nothing else that was ordered.
            self.under_way().lost.remove(&id);
        }
        let started = self.start_part(part).and_then(|()| self.write_pids());
        started.map_err(|Failure { line, .. }| line)?;
        let pid = self.running(part)?.pid;
        self.tell(&format!("{} was started again (pid {pid})", part.name()));
        Ok(format!("{} runs (pid {pid})", part.name()))
    }

    fn pause(&mut self, part: Part, pause: bool) -> Done {
        let (signal, state) = if pause { (Signal::STOP, "is paused") } else { (Signal::CONT, "goes on") };
        let child = self.running(part)?;
        child.signal_group(signal);
        let line = format!("{} (pid {}) {state}", part.name(), child.pid);
        self.tell(&line);
        Ok(line)
    }

    /// Notes which cables are cut now, and tells the nodes at their ends, on a thread of its own: a node may be paused.
    fn cut(&mut self, link: &Link, cut: bool, outcome: Sender<Done>) {
        let others = match link.other {
            Some(other) if other == link.node => Err("a node has no cable to itself".to_string()),
            Some(other) => self.check(Part::Node(other)).map(|()| vec![other]),
            None => Ok(self.layout().node_ids().filter(|id| *id != link.node).collect()),
        };
        let others = match self.check(Part::Node(link.node)).and(others) {
            Ok(others) => others,
            Err(why) => return answer(&outcome, Err(why)),
        };
        let one_way = others.iter().map(|other| (link.node, *other));
        let back = others.iter().map(|other| (*other, link.node)).filter(|_| !link.one_way);
        let cables: Vec<(u16, u16)> = one_way.chain(back).collect();
        for cable in &cables {
            if cut {
                self.under_way().cut.insert(*cable)
            } else {
                self.under_way().cut.remove(cable)
            };
        }
        let whole = (!cut && link.other.is_none() && !link.one_way).then_some(link.node);
        if let Some(node) = whole {
            self.under_way().lost.remove(&node);
        }
        self.show_room();
        let receivers: BTreeSet<u16> = cables.iter().map(|(_, to)| *to).collect();
        let far = link.other.map_or("all other nodes".to_string(), |other| format!("node {other}"));
        let (from, to) = if link.one_way { ("from", "to") } else { ("between", "and") };
        let state = if cut { "cut" } else { "healed" };
        let line = format!("the cable {from} node {} {to} {far} is {state}", link.node);
        self.tell_nodes(receivers, whole, line, outcome);
    }

    /// Loses what is sent to a node, until it is healed.
    fn lose(&mut self, node: u16, lost: Lost, outcome: Sender<Done>) {
        if let Err(why) = self.running(Part::Node(node)) {
            return answer(&outcome, Err(why));
        }
        let under_way = self.under_way();
        let all = under_way.lost.entry(node).or_default();
        all.insert(lost);
        let line = match lost {
            Lost::Heartbeats => format!("no heartbeat and no entry arrives at node {node}"),
            Lost::Votes => format!("no vote arrives at node {node}"),
            Lost::NextVote => format!("the next election of node {node} fails"),
        };
        self.tell_nodes([node].into(), None, line, outcome);
        // "Fail the next vote" ends by itself at the node. So it is sent once, and not again with a later order.
        if let Some(all) = self.under_way().lost.get_mut(&node) {
            all.remove(&Lost::NextVote);
        }
    }

    /// Says it, tells these nodes what does not arrive at them now, and answers the order. At a node that is made
    /// `whole`, an earlier order to fail the next vote ends; at the others it stands.
    fn tell_nodes(
        &mut self,
        receivers: BTreeSet<u16>,
        whole: Option<u16>,
        line: String,
        outcome: Sender<Done>,
    ) {
        let runs = |id: &u16| self.running(Part::Node(*id)).is_ok();
        let receivers: Vec<u16> = receivers.into_iter().filter(runs).collect();
        let mut orders: Vec<(u16, SocketAddr, String)> = Vec::new();
        for id in receivers {
            let address = self.layout().public(id);
            let under_way = self.under_way();
            let (deaf_to, lost) = (under_way.deaf_to(Part::Node(id)), under_way.lost.get(&id));
            let lost = serde_json::to_string(&lost.cloned().unwrap_or_default()).expect("words are JSON");
            let keeps = whole != Some(id);
            let body = format!("{{\"deaf_to\":{deaf_to:?},\"loses\":{lost},\"keeps_next_vote\":{keeps}}}");
            orders.push((id, address, body));
        }
        self.tell(&line);
        let before = self.under_way().telling.take();
        let told = thread::Builder::new().name("cut".to_string()).spawn(move || {
            if let Some(before) = before {
                // A panic of it was told; this order stands for itself.
                let _ = before.join();
            }
            let failed: Vec<String> =
                orders.into_iter().filter_map(|(id, at, body)| tell_node(id, at, &body).err()).collect();
            answer(
                &outcome,
                if failed.is_empty() { Ok(line) } else { Err(format!("{line}, but {}", failed.join("; "))) },
            );
        });
        match told {
            Ok(thread) => self.under_way().telling = Some(thread),
            Err(error) => self.tell(&format!("the system gives no thread: {error}")),
        }
    }

    /// The process that makes the load starts with the first such order, and stays.
    fn put_load(&mut self, server: u16, percent: u8) -> Done {
        let burner = Part::Burner(server);
        if self.running(burner).is_err() {
            self.check(burner)?;
            self.start_part(burner).map_err(|Failure { line, .. }| line)?;
            let pid = self.running(burner)?.pid;
            let path = self.layout().load_file(server);
            storage::replace(&path, format!("{pid}\n").as_bytes())
                .map_err(|error| format!("{}: can't be written: {error}", shown(&path)))?;
        }
        self.children_mut()
            .write_to(burner, &format!("{percent}\n"))
            .map_err(|error| format!("{} takes no order: {error}", burner.name()))?;
        let server = server_name(server);
        let line = match percent {
            0 => format!("{server} is not kept busy any more"),
            _ => format!("{server} is kept busy with {percent} % of its processors"),
        };
        self.tell(&line);
        Ok(line)
    }

    fn send_requests(&mut self, per_second: u32, n: u64) -> Done {
        self.under_way().traffic = None;
        let line = if per_second == 0 {
            "no more requests are sent".to_string()
        } else {
            let nodes = self.layout().node_ids().map(|id| self.layout().public(id)).collect();
            let traffic = Traffic::start(nodes, per_second, n)
                .map_err(|error| format!("the system gives no thread: {error}"))?;
            self.under_way().traffic = Some(traffic);
            format!("{per_second} requests per second ask for /{n}, each node in turn")
        };
        self.show_room();
        self.tell(&line);
        Ok(line)
    }
}

/// Tells a node what shall not arrive at it.
fn tell_node(id: u16, address: SocketAddr, body: &str) -> Result<(), String> {
    let mut client =
        Client::new(ClientTimeouts { connect: CUT_TIMEOUT, send: CUT_TIMEOUT, receive: CUT_TIMEOUT });
    match client.post(address, path::CUTS, Vec::new, body.as_bytes(), ANSWER_BYTES_MAX) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("node {id} answered {}", answer.status)),
        Err(error) => Err(format!("node {id} did not hear it: {error}")),
    }
}

fn answer(outcome: &Sender<Done>, done: Done) {
    // Whoever asked may have gone.
    let _ = outcome.send(done);
}
