//! The decisions one by one, on a node whose peers and disk are the test itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Effect, Input, Replica, ReplicaNotice, ReplicaSettings, ReportOutcome, Unread, Write};
use crate::balancer::{Change, Dead, OrderEffect, Report, ServerCommand, ServerOrder, Stamp};
use crate::raft::{
    self, AppendEntries, AppendReply, AppendResult, Durable, Entry, HardState, Index, Life, NodeId, Record,
    RpcId, RpcReply, RpcRequest, VoteReply,
};

/// A daemon or a peer, by any number.
type Who = u32;

const TIMEOUT: Duration = Duration::from_millis(5_000);
const SNAPSHOT_ENTRIES: u64 = 100;

/// A replica with its clock. Effects are kept until the test asks for them.
struct TestNode {
    replica: Replica<Who, Who>,
    now: Duration,
    /// The newest append to node 2, and the last index that it brings.
    appended: (RpcId, Index),
}

impl TestNode {
    /// Node 1 of so many, with room for so many servers.
    fn new(nodes: NodeId, servers_max: usize) -> Self {
        Self::recovered(nodes, servers_max, HardState::default(), Vec::new())
    }

    /// The same, with this on its disk.
    fn recovered(nodes: NodeId, servers_max: usize, hard_state: HardState, entries: Vec<Entry>) -> Self {
        let (low, high) = (Duration::from_millis(500), Duration::from_millis(1_000));
        let mut raft =
            raft::Settings::new(1, (1..=nodes).collect(), (low, high), Duration::from_millis(100), 7);
        raft.trailing_entries = 10;
        let settings = ReplicaSettings {
            raft,
            server_timeout: TIMEOUT,
            snapshot_entries: SNAPSHOT_ENTRIES,
            servers_max,
        };
        let now = Duration::from_secs(10);
        let replica = Replica::new(settings, hard_state, None, entries, now).expect("a fresh start");
        let mut node = Self { replica, now, appended: (0, 0) };
        node.settle();
        node
    }

    /// A node that is alone, and leads.
    fn alone(servers_max: usize) -> Self {
        let mut node = Self::new(1, servers_max);
        node.now += Duration::from_secs(1);
        node.batch([]);
        assert!(node.replica.raft().is_leader());
        node
    }

    /// Node 1 of three that leads with the votes of node 2.
    fn leader_of_three() -> Self {
        let mut node = Self::new(3, 10);
        node.now += Duration::from_secs(1);
        node.batch([]);
        let term = node.term() + 1;
        let vote = |pre: bool, for_term| {
            let vote = VoteReply { term: for_term - u64::from(pre), for_term, vote_granted: true };
            if pre { RpcReply::PreVote(vote) } else { RpcReply::RequestVote(vote) }
        };
        node.batch([reply(2, vote(true, term))]);
        node.batch([reply(2, vote(false, term))]);
        assert!(node.replica.raft().is_leader());
        node.batch([node.acknowledged()]);
        node
    }

    fn term(&self) -> u64 {
        self.replica.raft().hard_state().term
    }

    /// Takes these in as one batch, with nothing left unread; what came out, with a disk that is done at once.
    fn batch(&mut self, inputs: impl IntoIterator<Item = Input<Who, Who>>) -> Vec<Effect<Who, Who>> {
        self.read(inputs, Unread::default());
        self.settle()
    }

    fn read(&mut self, inputs: impl IntoIterator<Item = Input<Who, Who>>, unread: Unread) {
        for input in inputs {
            self.replica.receive(self.now, input);
        }
        self.replica.end_batch(self.now, unread);
    }

    /// Everything that comes out until the disk has to be waited for, and the write that is to be waited for.
    fn until_write(&mut self) -> (Vec<Effect<Who, Who>>, Option<Write>) {
        let mut effects = Vec::new();
        while let Some(effect) = self.replica.next_effect() {
            if let Effect::Send { to: 2, rpc, request: RpcRequest::AppendEntries(append) } = &effect {
                self.appended = (*rpc, append.prev_log_index + append.entries.len() as u64);
            }
            match effect {
                Effect::Write(write) => return (effects, Some(write)),
                effect => effects.push(effect),
            }
        }
        (effects, None)
    }

    fn settle(&mut self) -> Vec<Effect<Who, Who>> {
        let mut all = Vec::new();
        loop {
            let (effects, write) = self.until_write();
            all.extend(effects);
            let Some(write) = write else { return all };
            self.replica.durable(self.now, write.mark);
        }
    }

    /// Lets time pass, waking up as the replica wants it; what came out.
    fn sleep(&mut self, time: Duration) -> Vec<Effect<Who, Who>> {
        let (end, mut all) = (self.now + time, Vec::new());
        while self.now < end {
            self.now = self.replica.deadline().max(self.now + Duration::from_millis(1)).min(end);
            all.extend(self.batch([]));
        }
        all
    }

    /// Node 2 takes the newest append in.
    fn acknowledged(&self) -> Input<Who, Who> {
        let (rpc, match_index) = self.appended;
        let result = AppendResult::Success { match_index };
        let reply = RpcReply::AppendEntries(AppendReply { term: self.term(), life: Life::default(), result });
        Input::Reply { from: 2, incarnation: 2, rpc, reply }
    }

    /// An append of the leader, node 2, that the log takes in, whatever is in it.
    fn append(&self, term: u64, commands: &[&Report], leader_commit: u64, caller: Who) -> Input<Who, Who> {
        let log = self.replica.raft().log();
        let entries = (log.last_index() + 1..).zip(commands).map(|(index, report)| {
            let command = ServerCommand::Report((*report).clone()).to_command();
            Entry { index, term, command }
        });
        let request = RpcRequest::AppendEntries(AppendEntries {
            term,
            leader_id: 2,
            prev_log_index: log.last_index(),
            prev_log_term: log.last_term(),
            entries: entries.collect(),
            leader_commit,
            admit: None,
        });
        Input::Request { from: 2, incarnation: 2, request, caller }
    }
}

fn reply(from: NodeId, reply: RpcReply) -> Input<Who, Who> {
    Input::Reply { from, incarnation: from, rpc: u64::MAX, reply }
}

fn report(server: &str, sequence: u64) -> Report {
    let worker = "10.0.0.11:13337".parse().expect("an address");
    let server = server.to_owned();
    Report {
        server,
        worker,
        cpu: 10.0,
        cores: 4,
        cpu_known: true,
        epoch: 1,
        sequence,
        worker_up: true,
        worker_active: None,
        instance: None,
    }
}

/// An entry of term 1.
fn entry(index: Index, report: &Report) -> Entry {
    Entry { index, term: 1, command: ServerCommand::Report(report.clone()).to_command() }
}

fn reported(server: &str, sequence: u64, caller: Who) -> Input<Who, Who> {
    let report = report(server, sequence);
    let command = ServerCommand::Report(report.clone()).to_command();
    Input::Report { report, command, caller }
}

fn answers(effects: &[Effect<Who, Who>]) -> Vec<(Who, ReportOutcome)> {
    let answer = |effect: &Effect<Who, Who>| match effect {
        Effect::Answer { caller, outcome } => Some((*caller, *outcome)),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

fn committed(index: u64, term: u64) -> ReportOutcome {
    ReportOutcome::Committed { index, term }
}

fn stale(index: u64, term: u64, sequence: u64) -> ReportOutcome {
    ReportOutcome::Stale { index, term, newest: Stamp { epoch: 1, sequence } }
}

fn verdicts(effects: &[Effect<Who, Who>]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Notice(ReplicaNotice::Overdue(_)))).count()
}

// -------------------------------------------------------------------------------------------------- reports

#[test]
fn of_each_server_the_newest_report_of_a_batch_is_proposed_and_everybody_is_answered() {
    let mut node = TestNode::alone(10);
    let first = node.replica.raft().log().last_index() + 1;
    let effects = node.batch([
        reported("a", 1, 1),
        reported("b", 5, 2),
        reported("a", 3, 3),
        reported("a", 2, 4),
        reported("a", 3, 5),
    ]);
    assert_eq!(node.replica.raft().log().last_index(), first + 1, "one entry for each server");
    let of_a = stale(first, 1, 3);
    let expected = [(1, of_a), (3, committed(first, 1)), (4, of_a), (5, of_a), (2, committed(first + 1, 1))];
    assert_eq!(answers(&effects), expected);
}

fn drained(server: &str, caller: Who) -> Input<Who, Who> {
    Input::Order { order: ServerOrder::Drain(server.to_owned()), caller }
}

#[test]
fn an_order_is_answered_with_what_applying_it_changed_and_after_it_is_published() {
    let mut node = TestNode::alone(10);
    node.batch([reported("a", 1, 1)]);
    let first = node.replica.raft().log().last_index() + 1;
    let effects = node.batch([drained("a", 2), drained("a", 3), drained("b", 4)]);
    let ordered = |index, effect| ReportOutcome::Ordered { index, term: 1, effect };
    let expected = [
        (2, ordered(first, OrderEffect::Done)),
        (3, ordered(first + 1, OrderEffect::AlreadySo)),
        (4, ordered(first + 2, OrderEffect::NoSuchServer)),
    ];
    assert_eq!(answers(&effects), expected);
    let place = |wanted: fn(&Effect<Who, Who>) -> bool| effects.iter().position(wanted).expect("it is there");
    assert!(
        place(|effect| matches!(effect, Effect::Publish))
            < place(|effect| matches!(effect, Effect::Answer { .. }))
    );
}

#[test]
fn an_order_at_a_follower_is_answered_with_who_leads() {
    let mut node = TestNode::new(3, 10);
    let effects = node.batch([drained("a", 2)]);
    assert_eq!(answers(&effects), [(2, ReportOutcome::NotLeader { leader: None })]);
}

#[test]
fn an_order_is_not_answered_before_a_majority_has_it_and_not_forgotten_when_leadership_is_lost() {
    let mut node = TestNode::leader_of_three();
    node.batch([reported("a", 1, 1)]);
    node.batch([node.acknowledged()]);
    assert_eq!(answers(&node.batch([drained("a", 2)])), []);
    // Nobody answers: the leader steps down.
    let effects = node.sleep(Duration::from_secs(10));
    assert_eq!(answers(&effects), [(2, ReportOutcome::Unknown)]);
    assert_eq!(node.replica.table().get("a").expect("there").drained_at, None);
}

#[test]
fn two_new_servers_and_one_place_are_one_commit_and_one_refusal() {
    let mut node = TestNode::alone(2);
    node.batch([reported("a", 1, 1)]);
    let effects = node.batch([reported("b", 1, 2), reported("c", 1, 3)]);
    let outcomes = answers(&effects);
    assert_eq!(outcomes[1], (3, ReportOutcome::TableFull));
    assert!(matches!(outcomes[0], (2, ReportOutcome::Committed { .. })), "{outcomes:?}");
    assert!(node.replica.table().get("b").is_some() && node.replica.table().get("c").is_none());
    let last_index = node.replica.raft().log().last_index();
    assert_eq!(answers(&node.batch([reported("c", 2, 4)])), [(4, ReportOutcome::TableFull)]);
    assert_eq!(node.replica.raft().log().last_index(), last_index, "no entry for a server too many");
}

#[test]
fn a_stale_report_costs_no_entry_and_is_told_where_the_newest_stands_with_its_own_term() {
    // Reported in term 1, before the start. Now the node leads term 2, and the entry is compacted.
    let hard_state = HardState { term: 1, voted_for: Some(1), joining: false };
    let mut node = TestNode::recovered(1, 10, hard_state, vec![entry(1, &report("a", 7))]);
    node.now += Duration::from_secs(1);
    node.batch([]);
    for sequence in 1..=SNAPSHOT_ENTRIES + 20 {
        node.batch([reported("b", sequence, 2)]);
    }
    assert_eq!((node.term(), node.replica.raft().log().term_at(1)), (2, None));
    let last_index = node.replica.raft().log().last_index();
    let effects = node.batch([reported("a", 7, 3), reported("a", 6, 4)]);
    assert_eq!(answers(&effects), [(3, stale(1, 1, 7)), (4, stale(1, 1, 7))]);
    assert_eq!(node.replica.raft().log().last_index(), last_index);
}

#[test]
fn a_report_that_was_overtaken_in_the_log_is_stale() {
    let mut node = TestNode::leader_of_three();
    // Two batches before anything is committed: the later one holds the older report.
    node.batch([reported("a", 2, 1)]);
    node.batch([reported("a", 1, 2)]);
    let last = node.replica.raft().log().last_index();
    let first = node.batch([node.acknowledged()]);
    assert_eq!(answers(&first), [(1, committed(last - 1, node.term()))]);
    let second = node.batch([node.acknowledged()]);
    assert_eq!(answers(&second), [(2, stale(last - 1, node.term(), 2))]);
}

#[test]
fn the_picture_is_published_before_anybody_is_told() {
    let mut node = TestNode::alone(10);
    let effects = node.batch([reported("a", 1, 1)]);
    let place = |wanted: fn(&Effect<Who, Who>) -> bool| effects.iter().position(wanted).expect("it came");
    let published = place(|effect| matches!(effect, Effect::Publish));
    assert!(published < place(|effect| matches!(effect, Effect::Answer { .. })));
    // And in the picture is what is told.
    node.read([reported("b", 1, 2)], Unread::default());
    let mut seen = None;
    while let Some(effect) = node.replica.next_effect() {
        match effect {
            Effect::Write(write) => node.replica.durable(node.now, write.mark),
            Effect::Publish => seen = Some(node.replica.table().get("b").is_some()),
            _ => {}
        }
    }
    assert_eq!(seen, Some(true));
}

#[test]
fn a_lost_leadership_leaves_the_outcome_open() {
    let mut node = TestNode::leader_of_three();
    node.batch([reported("a", 1, 1)]);
    let effects = node.batch([node.append(node.term() + 1, &[], 0, 9)]);
    assert_eq!(answers(&effects), [(1, ReportOutcome::Unknown)]);
    let effects = node.batch([reported("a", 2, 2)]);
    assert_eq!(answers(&effects), [(2, ReportOutcome::NotLeader { leader: Some(2) })]);
}

// -------------------------------------------------------------------------------------------------- the disk

#[test]
fn an_acknowledgement_leaves_after_the_write_and_not_before() {
    let mut node = TestNode::new(3, 10);
    let append = node.append(1, &[&report("a", 1)], 0, 5);
    node.read([append], Unread::default());
    let (before, write) = node.until_write();
    let write = write.expect("term and entry must be written");
    let entries = |step: &&Durable| matches!(step, Durable::Record(Record::Entry(_)));
    assert_eq!(write.steps.iter().filter(entries).count(), 1);
    let (more, _) = node.until_write();
    let replied = |effect: &Effect<Who, Who>| matches!(effect, Effect::Reply { .. });
    assert!(!before.iter().chain(&more).any(replied), "the disk does not have it yet");
    node.replica.durable(node.now, write.mark);
    let after = node.settle();
    assert!(matches!(after.iter().find(|effect| replied(effect)), Some(Effect::Reply { caller: 5, .. })));
}

#[test]
fn with_several_writes_under_way_each_promise_waits_for_its_own() {
    let mut node = TestNode::new(3, 10);
    let mut marks = Vec::new();
    for caller in [1, 2, 3] {
        let append = node.append(1, &[&report("a", u64::from(caller))], 0, caller);
        node.read([append], Unread::default());
        marks.push(node.until_write().1.expect("an entry to write").mark);
        assert_eq!(replies(&node.until_write().0), [0; 0]);
    }
    // A reply without a write of its own (the same entries again) waits for those before it.
    let again = node.append(1, &[], 0, 4);
    node.read([again], Unread::default());
    assert_eq!(replies(&node.settle()), [0; 0]);
    node.replica.durable(node.now, marks[1]);
    assert_eq!(replies(&node.settle()), [1, 2]);
    node.replica.durable(node.now, marks[2]);
    assert_eq!(replies(&node.settle()), [3, 4]);
}

fn replies(effects: &[Effect<Who, Who>]) -> Vec<Who> {
    let caller = |effect: &Effect<Who, Who>| match effect {
        Effect::Reply { caller, .. } => Some(*caller),
        _ => None,
    };
    effects.iter().filter_map(caller).collect()
}

#[test]
#[should_panic(expected = "not under way")]
fn a_write_is_done_once() {
    let mut node = TestNode::new(3, 10);
    let append = node.append(1, &[&report("a", 1)], 0, 5);
    node.read([append], Unread::default());
    let mark = node.until_write().1.expect("an entry to write").mark;
    node.replica.durable(node.now, mark);
    node.replica.durable(node.now, mark);
}

#[test]
fn the_log_is_compacted_when_it_is_time_and_the_disk_has_caught_up() {
    let mut node = TestNode::alone(10);
    let mut snapshots = Vec::new();
    for sequence in 1..=3 * SNAPSHOT_ENTRIES {
        node.batch([reported("a", sequence, 1)]);
        let raft = node.replica.raft();
        assert!(raft.applied_index() - raft.snapshot_index() < SNAPSHOT_ENTRIES);
        snapshots.push(raft.snapshot_index());
    }
    snapshots.dedup();
    assert_eq!(snapshots, [0, 100, 200, 300]);
}

// -------------------------------------------------------------------------------------------------- the clock

#[test]
fn mail_is_read_before_the_clock_is_looked_at() {
    let mut node = TestNode::new(3, 10);
    node.batch([node.append(1, &[], 0, 1)]);
    assert_eq!(node.replica.raft().leader(), Some(2));
    // The process was stopped. The leader's append waits, and so does something else.
    node.now += Duration::from_secs(60);
    node.read([Input::Lost { to: 3, rpc: 0 }], Unread { messages: 1, reports: 0 });
    assert_eq!(node.replica.raft().leader(), Some(2), "first the mail");
    node.batch([node.append(1, &[], 0, 2)]);
    assert_eq!(node.replica.raft().leader(), Some(2), "it lives");
    // A flood puts the clock off no longer than until that was read which waited.
    node.now += Duration::from_secs(60);
    node.read([], Unread { messages: 2, reports: 0 });
    for unread in [1_000, 2_000] {
        assert_eq!(node.replica.raft().role_name(), raft::RoleName::Follower);
        node.read([Input::Lost { to: 3, rpc: 0 }], Unread { messages: unread, reports: 0 });
    }
    assert_eq!(node.replica.raft().role_name(), raft::RoleName::PreCandidate);
}

#[test]
fn no_verdict_while_the_report_waits_in_the_inbox() {
    let mut node = TestNode::alone(10);
    node.batch([reported("a", 1, 1)]);
    node.sleep(TIMEOUT - Duration::from_millis(1));
    node.now += Duration::from_millis(1);
    node.read([], Unread { messages: 0, reports: 1 });
    assert_eq!(verdicts(&node.settle()), 0);
    assert_eq!(verdicts(&node.batch([reported("a", 2, 2)])), 0);
    assert!(node.replica.table().get("a").expect("there").alive);
}

#[test]
fn a_silent_server_is_dead_and_revives() {
    let mut node = TestNode::alone(10);
    node.batch([reported("a", 1, 1)]);
    let effects = node.sleep(TIMEOUT);
    assert_eq!(verdicts(&effects), 1);
    let died = |effect: &Effect<Who, Who>| {
        matches!(effect, Effect::Notice(ReplicaNotice::Applied { change: Change::Died, .. }))
    };
    assert!(effects.iter().any(died));
    assert!(!node.replica.table().get("a").expect("there").alive);
    node.batch([reported("a", 2, 2)]);
    assert!(node.replica.table().get("a").expect("there").alive);
}

#[test]
fn a_verdict_that_was_lost_is_proposed_again() {
    let mut node = TestNode::leader_of_three();
    node.batch([reported("a", 1, 1)]);
    // While leadership is being handed over (it never succeeds here), nothing is written.
    let mut judged = Vec::new();
    let (mut lost, mut counted) = (0, 0);
    let end = node.now + 2 * TIMEOUT;
    while node.now < end {
        node.now += Duration::from_millis(10);
        let effects = node.batch([node.acknowledged(), Input::Transfer { to: Some(3) }]);
        if verdicts(&effects) > 0 {
            judged.push(node.now);
        }
        lost += effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Notice(ReplicaNotice::VerdictLost { .. })))
            .count();
        let failed =
            |effect: &&Effect<Who, Who>| matches!(effect, Effect::ProposalEnded { committed: false, .. });
        counted += effects.iter().filter(failed).count();
    }
    assert!(node.replica.raft().is_leader());
    assert_eq!((judged.len(), counted), (lost, lost));
    assert_eq!(node.replica.standing().proposals_pending, 0);
    assert!(judged.len() > 2 && judged[1] < judged[0] + TIMEOUT / 2, "not proposed again: {judged:?}");
}

// -------------------------------------------------------------------------------------------------- the others

#[test]
fn a_peer_with_another_data_directory_is_noticed_and_its_log_is_filled_again() {
    let mut node = TestNode::leader_of_three();
    let last = node.replica.raft().log().last_index();
    assert_eq!(node.replica.raft().progress(2), Some((last, last + 1)));
    let result = AppendResult::Success { match_index: 0 };
    let from_another = Input::Reply {
        from: 2,
        incarnation: 99,
        rpc: u64::MAX,
        reply: RpcReply::AppendEntries(AppendReply { term: node.term(), life: Life::default(), result }),
    };
    let effects = node.batch([from_another]);
    let noticed = |effect: &Effect<Who, Who>| {
        matches!(effect, Effect::Notice(ReplicaNotice::PeerReset { peer: 2, before: 2, now: 99 }))
    };
    assert!(effects.iter().any(noticed));
    assert_eq!(node.replica.raft().progress(2).expect("a peer").0, 0, "nothing is known of its log");
}

#[test]
fn the_leader_that_is_followed_is_watched_and_never_oneself() {
    let watched = |effects: &[Effect<Who, Who>]| -> Vec<Option<NodeId>> {
        let leader = |effect: &Effect<Who, Who>| match effect {
            Effect::Watch(leader) => Some(*leader),
            _ => None,
        };
        effects.iter().filter_map(leader).collect()
    };
    let mut node = TestNode::new(3, 10);
    let effects = node.batch([node.append(1, &[], 0, 1)]);
    assert_eq!(watched(&effects), [Some(2)]);
    let effects = node.batch([node.append(1, &[], 0, 2)]);
    assert_eq!(watched(&effects), [None; 0], "told once");
    node.now += Duration::from_secs(60);
    assert_eq!(watched(&node.batch([])), [None]);
    let mut leader = TestNode::leader_of_three();
    assert_eq!(watched(&leader.batch([])), [None; 0]);
}

#[test]
fn after_a_start_what_the_log_held_is_one_notice_and_what_comes_is_news() {
    let hard_state = HardState { term: 1, voted_for: Some(1), joining: false };
    let entries = vec![entry(1, &report("a", 1)), entry(2, &report("b", 1))];
    let mut node = TestNode::recovered(1, 10, hard_state, entries);
    node.now += Duration::from_secs(1);
    let mut effects = node.batch([]);
    effects.extend(node.batch([reported("c", 1, 1)]));
    let told: Vec<String> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notice(notice @ (ReplicaNotice::Applied { .. } | ReplicaNotice::Recovered { .. })) => {
                Some(notice.line(1))
            }
            _ => None,
        })
        .collect();
    let expected = [
        "recovered: node 1 has the server table up to log index 2: 2 servers are alive",
        "server c is new, its worker is 10.0.0.11:13337 (log index 4)",
    ];
    assert_eq!(told, expected);
}

#[test]
fn notices_are_whole_sentences() {
    let dead = Dead { server: "a".into(), epoch: 1, sequence: 7, silent_ms: 5_003 };
    let text = ReplicaNotice::Overdue(dead).line(2);
    let proposed = "server a has sent no report for 5003 ms; node 2, the leader, proposes that it is dead (last report 1/7)";
    assert_eq!(text, proposed);
    let command = ServerCommand::Report(report("a", 1)).to_command();
    let entry = Entry { index: 4, term: 1, command };
    let text = ReplicaNotice::Applied { entry, change: Change::New { evicted: None } }.line(2);
    assert_eq!(text, "server a is new, its worker is 10.0.0.11:13337 (log index 4)");
}

#[test]
fn a_snapshot_that_is_no_table_is_refused() {
    let voters = BTreeSet::from([1]);
    let range = (Duration::from_millis(500), Duration::from_millis(1_000));
    let raft = raft::Settings::new(1, voters, range, Duration::from_millis(100), 7);
    let settings = ReplicaSettings { raft, server_timeout: TIMEOUT, snapshot_entries: 100, servers_max: 10 };
    let state = raft::Command::from_value(&7).expect("JSON");
    let snapshot = raft::Snapshot { last_index: 1, last_term: 1, state, members: None };
    let hard_state = HardState { term: 1, voted_for: None, joining: false };
    let refused = Replica::<Who, Who>::new(settings, hard_state, Some(snapshot), Vec::new(), Duration::ZERO);
    assert!(refused.is_err_and(|reason| reason.contains("not a server table")));
}
