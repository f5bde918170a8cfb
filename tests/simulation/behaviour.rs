//! What the nodes of a seed did, in the words of docs/spec/Raft.tla. TLC then says whether the specification allows it:
//! `python3 tests/spec.py traces`, which runs the test `traces_for_the_specification`.
//!
//! A line is one action of the specification, with what the core showed after it. A step of the core that is several actions
//! (a vote arrives, and with it the majority) becomes several lines; only the last of them has a state to compare.
//!
//! A run has thousands of heartbeats that change nothing. They are left out: the specification lets any message be lost, and
//! whether one is lost or changes nothing is the same. So at the end the lines are gone through backwards, and a message is
//! kept if something depends on its arrival.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use rakit::raft::{AppendResult, Durable, Index, NodeId, Raft, Record, RoleName, RpcReply, RpcRequest, Term};
use rakit::replica::Input;

use super::plan::Plan;
use super::process::{Back, Mail};

/// The behaviour of one seed. Clones are the same one: the runner keeps one, to read it after a panic.
#[derive(Clone, Default)]
pub struct Behaviour(Option<Rc<RefCell<Recorder>>>);

#[derive(Default)]
struct Recorder {
    /// The spares, too.
    nodes_count: u64,
    lines: Vec<Line>,
    nodes: BTreeMap<NodeId, Known>,
    /// The directories of each node, in the order in which they were seen: the specification counts lives from 1 on.
    lives: BTreeMap<NodeId, Vec<u64>>,
    /// The lines at which a request of this exchange was taken in at this node, while their replies are owed.
    owed: HashMap<(NodeId, u64), VecDeque<usize>>,
}

struct Line {
    node: NodeId,
    action: Action,
    /// What the core shows after it; `None` if the step has more lines, or changes nothing that is shown.
    after: Option<Shown>,
    /// Whether it changes the node. If not, it counts only for what it sends.
    matters: bool,
}

enum Action {
    Restart,
    Wipe,
    Quiet,
    LeaderGone,
    AskPreVotes {
        to: Vec<Message>,
        keeps_leader: bool,
    },
    GiveUp,
    Campaign {
        to: BTreeSet<NodeId>,
    },
    Lead,
    StepDown,
    Propose {
        count: u64,
    },
    /// Something leaves that is no promise: a leader's append, snapshot or TimeoutNow, a word of the own term.
    Send(Message),
    /// `kept`: its reply arrives, and matters there. `to`: the same for the requests of the election that it begins.
    /// `installs`: it is the last chunk of a snapshot.
    Receive {
        message: Message,
        kept: bool,
        to: BTreeSet<NodeId>,
        installs: bool,
        last: bool,
    },
    /// A promise leaves. It was made at this earlier line.
    Leaves {
        message: Message,
        made_at: usize,
    },
    Forget {
        peer: NodeId,
    },
    /// The node is a founder, with these nodes in these lives.
    Found {
        founders: Vec<(NodeId, u64)>,
    },
    /// A joining node heard no leader.
    LoseLeader,
    /// A leader appends this list of members.
    Change(List),
    Commit {
        index: Index,
    },
    Compact {
        index: Index,
    },
    Durable {
        records: usize,
    },
}

/// A message: type, sender, receiver, and the numbers that tell it from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Message {
    kind: &'static str,
    from: NodeId,
    to: NodeId,
    numbers: Vec<u64>,
}

/// A list of members, as a node goes by it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    /// The index of its entry; 0 for the founding's.
    index: Index,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

/// What a core shows. No node is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    role: RoleName,
    term: Term,
    voted: NodeId,
    leader: NodeId,
    commit: Index,
    snapshot: Index,
    /// The log in runs of equal terms: the index before the first run, then the last index and the term of each.
    runs: Vec<u64>,
    joining: bool,
    /// A leader's match index of each node in turn, 0 for itself.
    matches: Vec<Index>,
    /// Twice the life of each node in turn that it heard of last, and one more if it does not count that; 0 if of none.
    lives: Vec<u64>,
    list: List,
}

/// What is remembered of a node.
struct Known {
    shown: Shown,
    /// As in the specification.
    hears: bool,
    hinted: bool,
    /// The line of its newest campaign. The requests for it leave later.
    campaign: usize,
    /// The line at which it helped to found the cluster. With whom shows in what it writes.
    found: Option<usize>,
    /// The line of the pre-votes that it asks for, until its next step.
    asks: Option<usize>,
}

/// What is about to be taken in.
pub enum Arrival {
    Nothing,
    LeaderGone,
    Request(Box<(NodeId, RpcRequest, Back)>),
    Reply(NodeId, RpcReply),
}

impl Behaviour {
    pub fn on(plan: &Plan) -> Self {
        Self(Some(Rc::new(RefCell::new(Recorder { nodes_count: plan.machines(), ..Recorder::default() }))))
    }

    /// A process started with what its disk remembers. Its first life begins as the specification does.
    pub fn started(&self, raft: &Raft, life: u64, incarnation: u64) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        // A first start that was interrupted may draw the number twice. That is another directory, too.
        let is_other = recorder.lives.get(&raft.id()).is_some_and(|lives| !lives.contains(&incarnation));
        if is_other {
            recorder.push(raft.id(), Action::Wipe);
        }
        recorder.life(raft.id(), incarnation);
        let shown = recorder.show(raft);
        recorder.nodes.insert(
            raft.id(),
            Known { shown: shown.clone(), hears: false, hinted: false, campaign: 0, found: None, asks: None },
        );
        if life > 1 {
            recorder.push(raft.id(), Action::Restart);
            recorder.settle(raft.id(), shown);
        }
    }

    /// Before a message is taken in. `sticky_for`: the lower election timeout.
    pub fn arrives(&self, raft: &Raft, mail: &Mail, now: Duration, sticky_for: Duration) -> Arrival {
        let Some(recorder) = &self.0 else { return Arrival::Nothing };
        match mail {
            // The replica answers the first, not the core. The second is a question of which the specification keeps only the outcome.
            Input::Request { request: RpcRequest::CompareState(_) | RpcRequest::Founding(_), .. } => {
                Arrival::Nothing
            }
            Input::Reply { reply: RpcReply::Founding(_), .. } => Arrival::Nothing,
            Input::Request { from, request, caller, .. } => {
                let asks_vote = matches!(request, RpcRequest::PreVote(_) | RpcRequest::RequestVote(_));
                let is_silent = raft.leader_contact().is_none_or(|contact| now >= contact + sticky_for);
                if asks_vote && is_silent {
                    recorder.borrow_mut().quiet(raft.id());
                }
                Arrival::Request(Box::new((*from, request.clone(), *caller)))
            }
            Input::Reply { from, reply, .. } => Arrival::Reply(*from, reply.clone()),
            Input::LeaderGone { leader }
                if raft.leader() == Some(*leader) && raft.role_name() == RoleName::Follower =>
            {
                Arrival::LeaderGone
            }
            _ => Arrival::Nothing,
        }
    }

    /// After it was taken in.
    pub fn taken_in(&self, raft: &Raft, arrival: Arrival) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        match arrival {
            Arrival::Nothing => recorder.other_step(raft),
            Arrival::LeaderGone => recorder.leader_gone(raft.id()),
            Arrival::Request(request) => recorder.request(raft, request.0, &request.1, request.2),
            Arrival::Reply(from, reply) => recorder.reply(raft, from, &reply),
        }
    }

    /// A batch ended: proposals and the clock.
    pub fn batch_ended(&self, raft: &Raft) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        let (id, after) = (raft.id(), recorder.show(raft));
        let before = recorder.step(id, &after);
        let led = before.role == RoleName::Leader;
        recorder.founds(id, &before, &after);
        let proposed = raft.log().last_index() - before.last_index();
        if led && proposed > 0 {
            recorder.push(id, Action::Propose { count: proposed });
        }
        match after.role {
            RoleName::Follower if led => recorder.push(id, Action::StepDown),
            RoleName::Follower if before.leader != 0 && after.leader == 0 => {
                recorder.push(id, Action::LoseLeader)
            }
            // A node alone needs nobody's pre-vote. Of others, `sends` sees that they ask.
            RoleName::Candidate if after.term > before.term => {
                recorder.push(id, Action::AskPreVotes { to: Vec::new(), keeps_leader: false });
                recorder.push(id, Action::Campaign { to: BTreeSet::new() });
            }
            RoleName::PreCandidate => return,
            _ => {}
        }
        recorder.settle(id, after);
    }

    /// A request leaves.
    pub fn sends(&self, raft: &Raft, to: NodeId, request: &RpcRequest) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        let id = raft.id();
        let message = recorder.name_request(id, to, request);
        match request {
            RpcRequest::PreVote(_) => {
                let after = recorder.show(raft);
                recorder.asks_pre_vote(id, message, after);
            }
            RpcRequest::RequestVote(_) => {
                let made_at = recorder.known(id).campaign;
                recorder.push(id, Action::Leaves { message, made_at });
            }
            RpcRequest::AppendEntries(_) | RpcRequest::InstallSnapshot(_) | RpcRequest::TimeoutNow(_) => {
                recorder.push(id, Action::Send(message));
            }
            RpcRequest::CompareState(_) | RpcRequest::Founding(_) => {}
        }
    }

    /// A reply leaves.
    pub fn replies(&self, id: NodeId, back: Back, reply: &RpcReply) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        let message = recorder.name_reply(id, back.node, reply);
        match reply {
            RpcReply::CompareState(_) => return recorder.push(id, Action::Send(message)),
            RpcReply::Founding(_) => return,
            _ => {}
        }
        let owed = recorder.owed.get_mut(&(id, back.exchange)).and_then(VecDeque::pop_front);
        let made_at = owed.expect("each reply answers a request");
        recorder.push(id, Action::Leaves { message, made_at });
    }

    /// A node is about to write: with whom it founds the cluster.
    pub fn writes(&self, id: NodeId, steps: &[Durable]) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        for step in steps {
            let Durable::Record(Record::Founders(with)) = step else { continue };
            let with =
                with.iter().map(|(node, incarnation)| (*node, recorder.life(*node, *incarnation))).collect();
            let line = recorder.known(id).found.take().expect("the step before was seen");
            recorder.lines[line].action = Action::Found { founders: with };
        }
    }

    /// Between effects: only a compaction changes what is shown.
    pub fn looked_at(&self, raft: &Raft) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        let index = raft.snapshot_index();
        if index > recorder.known(raft.id()).shown.snapshot {
            recorder.push(raft.id(), Action::Compact { index });
            let after = recorder.show(raft);
            recorder.settle(raft.id(), after);
        }
    }

    /// So many records are durable that were not before, and the core has heard it.
    pub fn durable(&self, raft: &Raft, records: usize) {
        let Some(recorder) = &self.0 else { return };
        let mut recorder = recorder.borrow_mut();
        let (id, after) = (raft.id(), recorder.show(raft));
        let before = recorder.step(id, &after);
        recorder.push(id, Action::Durable { records });
        recorder.follow_up(id, &before, &after);
        recorder.settle(id, after);
    }

    /// The lines, as TLA+ tuples.
    pub fn lines(&self) -> String {
        let Some(recorder) = &self.0 else { return String::new() };
        let mut recorder = recorder.borrow_mut();
        let kept = recorder.prune();
        let mut text = String::new();
        for (line, _) in recorder.lines.iter().zip(kept).filter(|(_, kept)| *kept) {
            let _ = writeln!(text, "{}", line.text());
        }
        text
    }
}

impl Recorder {
    fn push(&mut self, node: NodeId, action: Action) {
        self.lines.push(Line { node, action, after: None, matters: true });
    }

    fn known(&mut self, id: NodeId) -> &mut Known {
        self.nodes.get_mut(&id).expect("it started")
    }

    /// Which of the node's directories this is.
    fn life(&mut self, node: NodeId, incarnation: u64) -> u64 {
        let lives = self.lives.entry(node).or_default();
        let place = lives.iter().position(|life| *life == incarnation).unwrap_or_else(|| {
            lives.push(incarnation);
            lives.len() - 1
        });
        place as u64 + 1
    }

    /// A step that no message of the specification brought about.
    fn other_step(&mut self, raft: &Raft) {
        let (id, after) = (raft.id(), self.show(raft));
        let before = self.step(id, &after);
        self.founds(id, &before, &after);
        self.changes(id, &before, &after);
        self.settle(id, after);
    }

    /// A leader appended a list: it was asked to, or a learner has caught up. It is the last entry of this step.
    fn changes(&mut self, id: NodeId, before: &Shown, after: &Shown) {
        let leads = before.role == RoleName::Leader && after.role == RoleName::Leader;
        if leads && before.list.index < after.list.index {
            self.push(id, Action::Change(after.list.clone()));
        }
    }

    fn founds(&mut self, id: NodeId, before: &Shown, after: &Shown) {
        if before.joining && !after.joining {
            self.known(id).found = Some(self.lines.len());
            self.push(id, Action::Found { founders: Vec::new() });
        }
    }

    /// A step of the core: what it showed before. What a leader forgot of its peers is an action of its own: a peer runs on
    /// another directory, or was removed and needs to be told nothing more.
    fn step(&mut self, id: NodeId, after: &Shown) -> Shown {
        let known = self.known(id);
        known.asks = None;
        let forgotten = known.shown.forgotten(after);
        for (position, _) in &forgotten {
            known.shown.matches[*position] = 0;
            known.shown.lives[*position] = 0;
        }
        let before = known.shown.clone();
        for (_, peer) in forgotten {
            self.push(id, Action::Forget { peer });
        }
        before
    }

    /// The last line of a step: what the core shows now.
    fn settle(&mut self, id: NodeId, after: Shown) {
        let is_last_line = self.lines.last().is_some_and(|line| line.node == id);
        let known = self.known(id);
        known.hears &= after.leader != 0 && after.role != RoleName::Leader;
        if known.shown == after && !is_last_line {
            return;
        }
        known.shown = after.clone();
        if let Some(line) = self.lines.last_mut() {
            assert_eq!(line.node, id, "a change that is no action of the specification");
            line.after = Some(after);
        }
    }

    fn quiet(&mut self, id: NodeId) {
        if std::mem::take(&mut self.known(id).hears) {
            self.push(id, Action::Quiet);
        }
    }

    fn leader_gone(&mut self, id: NodeId) {
        let known = self.known(id);
        (known.hears, known.hinted) = (false, true);
        self.push(id, Action::LeaderGone);
    }

    fn request(&mut self, raft: &Raft, from: NodeId, request: &RpcRequest, back: Back) {
        let (id, after) = (raft.id(), self.show(raft));
        let before = self.step(id, &after);
        self.owed.entry((id, back.exchange)).or_default().push_back(self.lines.len());
        let message = self.name_request(from, id, request);
        let line = self.lines.len();
        let known = self.known(id);
        let is_heard = matches!(message.kind, "append" | "snapshot") && after.leader == from;
        let is_news = is_heard && (!known.hears || known.hinted);
        if is_heard {
            (known.hears, known.hinted) = (true, false);
        }
        if after.voted != before.voted {
            known.hinted = false;
        }
        // The second of two begins nothing: the requests that leave later are the first one's.
        if message.kind == "timeout-now" && after.term > before.term {
            known.campaign = line;
        }
        let gives_up = message.kind == "pre-vote" && before.gave_up(&after);
        let installs = message.kind == "snapshot" && after.snapshot > before.snapshot;
        self.receive(id, message, is_news || (before != after && !gives_up), installs);
        if gives_up {
            self.push(id, Action::GiveUp);
        }
        self.settle(id, after);
    }

    fn reply(&mut self, raft: &Raft, from: NodeId, reply: &RpcReply) {
        let (id, after) = (raft.id(), self.show(raft));
        let before = self.step(id, &after);
        let message = self.name_reply(from, id, reply);
        let is_vote = matches!(message.kind, "vote" | "would-vote")
            && matches!(before.role, RoleName::Candidate | RoleName::PreCandidate);
        let gives_up = message.kind == "refusal" && before.gave_up(&after);
        self.receive(id, message, is_vote || (before != after && !gives_up), false);
        if gives_up {
            self.push(id, Action::GiveUp);
        }
        self.follow_up(id, &before, &after);
        self.changes(id, &before, &after);
        self.settle(id, after);
    }

    fn receive(&mut self, id: NodeId, message: Message, matters: bool, installs: bool) {
        let action = Action::Receive { message, kept: false, to: BTreeSet::new(), installs, last: false };
        self.lines.push(Line { node: id, action, after: None, matters });
    }

    /// What a step brings with it: a campaign, a victory, a commit.
    fn follow_up(&mut self, id: NodeId, before: &Shown, after: &Shown) {
        if after.role == RoleName::Candidate && after.term > before.term {
            self.known(id).campaign = self.lines.len();
            self.push(id, Action::Campaign { to: BTreeSet::new() });
        }
        if after.role == RoleName::Leader && before.role != RoleName::Leader {
            self.push(id, Action::Lead);
        }
        if after.role == RoleName::Leader && after.commit > before.commit {
            self.push(id, Action::Commit { index: after.commit });
        }
    }

    fn asks_pre_vote(&mut self, id: NodeId, message: Message, after: Shown) {
        if let Some(line) = self.known(id).asks {
            let Action::AskPreVotes { to, .. } = &mut self.lines[line].action else {
                unreachable!("the line of a round of pre-votes")
            };
            return to.push(message);
        }
        self.known(id).asks = Some(self.lines.len());
        self.push(id, Action::AskPreVotes { to: vec![message], keeps_leader: after.leader != 0 });
        self.settle(id, after);
    }

    /// Which lines are needed. Goes backwards: whether a message is needed shows at its arrival.
    fn prune(&mut self) -> Vec<bool> {
        let mut kept = vec![true; self.lines.len()];
        // Messages whose arrival comes later and whose departure was not met yet; messages that any later line names.
        let (mut awaited, mut named) = (HashSet::new(), HashSet::new());
        for position in (0..self.lines.len()).rev() {
            let matters = self.lines[position].matters;
            let mut made = None;
            kept[position] = match &mut self.lines[position].action {
                Action::Receive { message, kept, to, last, .. } => {
                    let is_needed = matters || *kept || !to.is_empty();
                    if is_needed {
                        awaited.insert(message.clone());
                        *last = named.insert(message.clone());
                    }
                    is_needed
                }
                Action::Leaves { message, made_at } => {
                    let is_needed = awaited.remove(message);
                    if is_needed {
                        named.insert(message.clone());
                        made = Some((*made_at, message.clone()));
                    }
                    is_needed
                }
                Action::Send(message) => awaited.remove(message),
                Action::AskPreVotes { to, .. } => {
                    to.retain(|message| awaited.remove(message));
                    true
                }
                _ => true,
            };
            match made.map(|(made_at, message)| (&mut self.lines[made_at].action, message)) {
                Some((Action::Receive { to, .. } | Action::Campaign { to }, message))
                    if message.kind == "request-vote" =>
                {
                    to.insert(message.to);
                }
                Some((Action::Receive { kept, .. }, _)) => *kept = true,
                Some(_) => unreachable!("a promise is made by a request or a campaign"),
                None => {}
            }
        }
        kept
    }
}

impl Shown {
    fn last_index(&self) -> Index {
        if self.runs.len() == 1 { self.runs[0] } else { self.runs[self.runs.len() - 2] }
    }

    fn gave_up(&self, after: &Self) -> bool {
        (self.role, after.role) == (RoleName::PreCandidate, RoleName::Follower) && self.term == after.term
    }

    /// The peers of which a leader knew more before: place in `matches`, and id.
    fn forgotten(&self, after: &Self) -> Vec<(usize, NodeId)> {
        let peers = (0..self.matches.len().min(after.matches.len())).filter(|place| {
            let (before, now) = (self.lives[*place], after.lives[*place]);
            after.matches[*place] < self.matches[*place] || (before != 0 && now / 2 != before / 2)
        });
        peers.filter(|_| self.term == after.term).map(|place| (place, place as NodeId + 1)).collect()
    }

    fn text(&self) -> String {
        let Self { role, term, voted, leader, commit, snapshot, runs, joining, matches, lives, list } = self;
        let list =
            if list.index == 0 { "<<>>".into() } else { format!("<<{}, {}>>", list.index, list.text()) };
        format!(
            "<<\"{role}\", {term}, {voted}, {leader}, {commit}, {snapshot}, {}, {}, {}, {}, {list}>>",
            sequence(runs),
            boolean(*joining),
            sequence(matches),
            sequence(lives)
        )
    }
}

impl List {
    fn text(&self) -> String {
        format!("{}, {}", set(&self.voters), set(&self.learners))
    }
}

impl Line {
    fn text(&self) -> String {
        let (name, arguments) = match &self.action {
            Action::Restart => ("restart", String::new()),
            Action::Wipe => ("wipe", String::new()),
            Action::Quiet => ("quiet", String::new()),
            Action::LeaderGone => ("leader gone", String::new()),
            Action::AskPreVotes { to, keeps_leader } => {
                let to = to.iter().map(|message| message.to).collect();
                ("ask pre-votes", format!("{}, {}", set(&to), boolean(*keeps_leader)))
            }
            Action::GiveUp => ("give up", String::new()),
            Action::Campaign { to } => ("campaign", set(to)),
            Action::Lead => ("lead", String::new()),
            Action::StepDown => ("step down", String::new()),
            Action::Propose { count } => ("propose", count.to_string()),
            Action::Send(message) => ("send", message.text()),
            Action::Receive { message, kept, to, installs, last } => (
                "receive",
                format!(
                    "{}, {}, {}, {}, {}",
                    message.text(),
                    boolean(*kept),
                    set(to),
                    boolean(*installs),
                    boolean(*last)
                ),
            ),
            Action::Leaves { message, .. } => ("leaves", message.text()),
            Action::LoseLeader => ("lose leader", String::new()),
            Action::Found { founders } => {
                let founders: Vec<String> =
                    founders.iter().map(|(node, life)| format!("<<{node}, {life}>>")).collect();
                ("found", format!("{{{}}}", founders.join(", ")))
            }
            Action::Forget { peer } => ("forget", peer.to_string()),
            Action::Change(list) => ("change", list.text()),
            Action::Commit { index } => ("commit", index.to_string()),
            Action::Compact { index } => ("compact", index.to_string()),
            Action::Durable { records } => ("durable", records.to_string()),
        };
        let after = self.after.as_ref().map_or_else(|| "<<>>".to_owned(), Shown::text);
        let arguments = if arguments.is_empty() { arguments } else { format!(", {arguments}") };
        format!("<<\"{name}\", {}, {after}{arguments}>>", self.node)
    }
}

impl Message {
    fn text(&self) -> String {
        format!("<<\"{}\", {}, {}, {}>>", self.kind, self.from, self.to, sequence(&self.numbers))
    }
}

fn sequence(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("<<{}>>", numbers.join(", "))
}

fn set(nodes: &BTreeSet<NodeId>) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("{{{}}}", nodes.join(", "))
}

const fn boolean(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}

impl Recorder {
    fn show(&mut self, raft: &Raft) -> Shown {
        let (log, hard_state) = (raft.log(), raft.hard_state());
        let mut runs = vec![log.first_index() - 1];
        for index in log.first_index()..=log.last_index() {
            let term = log.term_at(index).expect("it is held");
            if runs.len() > 1 && runs.last() == Some(&term) {
                let last = runs.len() - 2;
                runs[last] = index;
            } else {
                runs.extend([index, term]);
            }
        }
        let (mut matches, mut lives) = (Vec::new(), Vec::new());
        for node in (1..=self.nodes_count).filter(|_| raft.is_leader()) {
            matches.push(raft.progress(node).map_or(0, |(match_index, _)| match_index));
            let known = raft.known_life(node);
            lives.push(
                known.map_or(0, |life| 2 * self.life(node, life.incarnation) + u64::from(life.joining)),
            );
        }
        let configuration = raft.configuration();
        let those = |votes: bool| {
            configuration
                .members
                .iter()
                .filter(move |member| member.voter == votes)
                .map(|member| member.id)
                .collect()
        };
        let list = List { index: configuration.index, voters: those(true), learners: those(false) };
        Shown {
            role: raft.role_name(),
            term: hard_state.term,
            voted: hard_state.voted_for.unwrap_or(0),
            leader: raft.leader().unwrap_or(0),
            commit: raft.commit_index(),
            snapshot: raft.snapshot_index(),
            runs,
            joining: raft.is_joining(),
            matches,
            lives,
            list,
        }
    }
}

impl Recorder {
    fn name_request(&mut self, from: NodeId, to: NodeId, request: &RpcRequest) -> Message {
        let (kind, numbers) = match request {
            RpcRequest::PreVote(ask) => ("pre-vote", vec![ask.term, ask.last_log_index, ask.last_log_term]),
            RpcRequest::RequestVote(ask) => {
                let transfer = u64::from(ask.leadership_transfer);
                ("request-vote", vec![ask.term, ask.last_log_index, ask.last_log_term, transfer])
            }
            RpcRequest::AppendEntries(append) => {
                let count = append.entries.len() as u64;
                let (life, barrier) =
                    append.admit.map_or((0, 0), |admit| (self.life(to, admit.incarnation), admit.barrier));
                (
                    "append",
                    vec![append.term, append.prev_log_index, count, append.leader_commit, life, barrier],
                )
            }
            RpcRequest::InstallSnapshot(chunk) => ("snapshot", vec![chunk.term, chunk.last_included_index]),
            RpcRequest::TimeoutNow(word) => ("timeout-now", vec![word.term]),
            RpcRequest::CompareState(said) => ("compare", vec![said.term]),
            RpcRequest::Founding(_) => ("founding", Vec::new()),
        };
        Message { kind, from, to, numbers }
    }

    fn name_reply(&mut self, from: NodeId, to: NodeId, reply: &RpcReply) -> Message {
        let (kind, numbers) = match reply {
            RpcReply::PreVote(reply) if reply.vote_granted => {
                ("would-vote", vec![reply.term, reply.for_term])
            }
            RpcReply::RequestVote(reply) if reply.vote_granted => ("vote", vec![reply.term]),
            RpcReply::PreVote(reply) | RpcReply::RequestVote(reply) => ("refusal", vec![reply.term]),
            RpcReply::AppendEntries(reply) => {
                let (life, joining) =
                    (self.life(from, reply.life.incarnation), u64::from(reply.life.joining));
                match reply.result {
                    AppendResult::Success { match_index } => {
                        ("match", vec![reply.term, match_index, life, joining])
                    }
                    AppendResult::StaleTerm | AppendResult::Conflict { .. } => {
                        ("no match", vec![reply.term, life, joining])
                    }
                }
            }
            RpcReply::InstallSnapshot(reply) => {
                let (life, joining) =
                    (self.life(from, reply.life.incarnation), u64::from(reply.life.joining));
                if reply.installed {
                    ("match", vec![reply.term, reply.last_included_index, life, joining])
                } else {
                    ("no match", vec![reply.term, life, joining])
                }
            }
            RpcReply::Founding(_) => ("founding", Vec::new()),
            RpcReply::TimeoutNow(reply) => ("refusal", vec![reply.term]),
            RpcReply::CompareState(reply) => ("term", vec![reply.term]),
        };
        Message { kind, from, to, numbers }
    }
}
