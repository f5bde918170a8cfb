//! One test for each rule of the Raft paper, in the order of its sections; where a rule has cases, all of them. Read it beside
//! the paper ("In Search of an Understandable Consensus Algorithm", extended version) and `src/raft/`.
//!
//! The transcripts (`transcripts.rs`) show single cases in full; the tests here state rules over ranges of cases. The limits
//! that a user feels, counts of messages above all, are in `limits.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::harness::lone::{Lone, appends, terms_of, vote};
use crate::harness::{Cluster, ELECTION_TIMEOUT, HEARTBEAT, Payload, command, entries_of_terms};
use rakit::raft::{
    AppendReply, AppendResult, Command, Durable, Entry, Event, HardState, Index, Life, Notice, Output, Raft,
    Record, RequestVote, Resolution, RoleName, RpcReply, RpcRequest, SendOnceDurable, Settings, Snapshot,
    TERM_JUMP_MAX, Term, VoteReply,
};

/// The three roles that a node can be in, in term 3 of three nodes.
fn in_each_role() -> [(RoleName, Lone); 4] {
    let mut pre_candidate = Lone::new(3, 3, &[1]);
    pre_candidate.campaign(&[]);
    let mut candidate = Lone::new(3, 2, &[1]);
    candidate.campaign(&[2]);
    let roles = [
        (RoleName::Follower, Lone::new(3, 3, &[1])),
        (RoleName::PreCandidate, pre_candidate),
        (RoleName::Candidate, candidate),
        (RoleName::Leader, Lone::new(3, 2, &[1]).elected(&[2])),
    ];
    for (role, lone) in &roles {
        assert_eq!((lone.raft.role_name(), lone.raft.hard_state().term), (*role, 3));
    }
    roles
}

// ------------------------------------------------------------------------------------------------------------ 5.1

/// 5.1: "if one server's current term is smaller than the other's, then it updates its current term to the larger value. If a
/// candidate or leader discovers that its term is out of date, it immediately reverts to follower state."
#[test]
fn s5_1_a_newer_term_in_any_message_is_adopted_by_every_role() {
    let newer = |lone: &mut Lone, message: usize| {
        let refused = VoteReply { term: 9, for_term: 3, vote_granted: false };
        let reply = match message {
            0 => {
                lone.append(2, 9, (0, 0), &[], 0);
                return;
            }
            1 => {
                // A leader protects itself (thesis 4.2.3), unless a leader asked for this election.
                let leadership_transfer = lone.raft.is_leader();
                let arguments = RequestVote { leadership_transfer, ..vote(2, 9, (9, 9)) };
                lone.request(2, RpcRequest::RequestVote(arguments));
                return;
            }
            2 => RpcReply::RequestVote(refused),
            3 => RpcReply::PreVote(refused),
            4 => RpcReply::AppendEntries(AppendReply {
                term: 9,
                life: Life::default(),
                result: AppendResult::StaleTerm,
            }),
            _ => RpcReply::TimeoutNow(rakit::raft::TimeoutNowReply { term: 9, accepted: false }),
        };
        lone.step(Event::Reply { from: 2, rpc: 0, reply });
    };
    for message in 0..6 {
        for (role, mut lone) in in_each_role() {
            newer(&mut lone, message);
            assert_eq!(lone.raft.hard_state().term, 9, "{role}, message {message}");
            assert_eq!(lone.raft.role_name(), RoleName::Follower, "{role}, message {message}");
        }
    }
}

/// 5.1: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn s5_1_a_request_of_a_stale_term_is_rejected_and_changes_nothing() {
    for (role, mut lone) in in_each_role() {
        let before = (lone.raft.hard_state(), terms_of(&lone.raft), lone.raft.leader());
        let reply = lone.append(2, 2, (0, 0), &[2, 2], 2);
        assert_eq!((reply.term, reply.result), (3, AppendResult::StaleTerm), "{role}");
        assert!(lone.last.durable.is_empty() && lone.last.apply.is_empty(), "{role}");
        let reply = lone.vote(2, 2, (9, 2));
        assert_eq!((reply.term, reply.vote_granted), (3, false), "{role}");
        assert_eq!(lone.raft.role_name(), role);
        assert_eq!((lone.raft.hard_state(), terms_of(&lone.raft), lone.raft.leader()), before, "{role}");
    }
}

/// An append that a node sent as leader of an earlier term may reach a peer only when that has voted for it in a later one.
/// The refusal then carries the leader's own term: no sign of anything wrong, unlike one to a request of this term.
#[test]
fn s5_1_a_late_refusal_of_an_earlier_terms_append_raises_no_alarm() {
    let mut leader = Lone::new(3, 1, &[]).elected(&[2]);
    let own = leader.under_way[&3];
    for (rpc, alarm) in [(own + 1000, false), (own, true)] {
        let reply = RpcReply::AppendEntries(AppendReply {
            term: 2,
            life: Life::default(),
            result: AppendResult::StaleTerm,
        });
        let output = leader.step(Event::Reply { from: 3, rpc, reply });
        let suspicious = |notice: &Notice| matches!(notice, Notice::Suspicious { .. });
        assert_eq!(output.notices.iter().any(suspicious), alarm);
        assert!(leader.raft.is_leader());
    }
}

/// Beyond the paper: a term that no election can have led to is refused, in whatever message it comes.
#[test]
fn s5_1_an_absurd_term_is_refused_by_every_role() {
    for absurd in [3 + TERM_JUMP_MAX + 1, u64::MAX] {
        for (role, mut lone) in in_each_role() {
            lone.append(2, absurd, (0, 0), &[], 0);
            lone.vote(2, absurd, (9, 9));
            let result = AppendResult::StaleTerm;
            let reply = RpcReply::AppendEntries(AppendReply { term: absurd, life: Life::default(), result });
            lone.step(Event::Reply { from: 2, rpc: 0, reply });
            assert_eq!((lone.raft.role_name(), lone.raft.hard_state().term), (role, 3));
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ 5.2

/// 5.2: "When servers start up, they begin as followers."
#[test]
fn s5_2_a_node_starts_as_follower_whatever_it_was() {
    let settings = Settings::new(1, (1..=3).collect(), ELECTION_TIMEOUT, HEARTBEAT, 1);
    let voted = HardState { term: 4, voted_for: Some(1), joining: false };
    let raft = Raft::new(settings, voted, None, entries_of_terms(&[1, 4]), Duration::ZERO);
    assert_eq!((raft.role_name(), raft.leader(), raft.hard_state()), (RoleName::Follower, None, voted));
    assert_eq!((raft.commit_index(), raft.applied_index()), (0, 0), "volatile state begins at 0");
}

/// 5.2: "Leaders send periodic heartbeats (AppendEntries RPCs that carry no log entries) to all followers".
#[test]
fn s5_2_a_leader_sends_heartbeats_to_all_in_each_interval() {
    let mut leader = Lone::new(5, 1, &[1, 1]).elected(&[2, 3]);
    for round in 0..20 {
        for peer in 2..=5 {
            leader.acknowledge(peer, 3);
        }
        leader.now = leader.raft.deadline();
        let due = leader.now;
        let sent = appends(leader.step(Event::Tick));
        assert_eq!(sent.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5], "round {round}");
        assert!(sent.values().all(|arguments| arguments.entries.is_empty()));
        assert!(leader.raft.deadline() <= due + HEARTBEAT, "the next is due within the interval");
    }
}

/// 5.2: "If a follower receives no communication over a period of time called the election timeout, then it assumes there is no
/// viable leader and begins an election": follower, pre-candidate and candidate alike. "it then votes for itself and
/// issues RequestVote RPCs in parallel to each of the other servers".
#[test]
fn s5_2_whoever_is_no_leader_begins_an_election_after_the_timeout() {
    for (role, mut lone) in in_each_role().into_iter().take(3) {
        lone.now = lone.raft.deadline() - Duration::from_micros(1);
        lone.step(Event::Tick);
        assert_eq!(lone.raft.role_name(), role, "not before the deadline");
        let before = lone.raft.hard_state().term;
        let term = lone.campaign(&[3]);
        assert_eq!(term, before + 1, "{role}");
        assert_eq!(lone.raft.role_name(), RoleName::Candidate, "{role}");
        assert_eq!(lone.raft.hard_state().voted_for, Some(1), "{role}");
        let asked = |send: &SendOnceDurable| match send {
            SendOnceDurable::Request { to, request: RpcRequest::RequestVote(arguments), .. } => {
                assert_eq!(*arguments, vote(1, term, (1, 1)));
                Some(*to)
            }
            _ => None,
        };
        assert_eq!(
            lone.last.send_once_durable.iter().filter_map(asked).collect::<Vec<_>>(),
            [2, 3],
            "{role}"
        );
        let own = HardState { term, voted_for: Some(1), joining: false };
        assert!(lone.last.durable.contains(&Durable::Record(Record::HardState(own))), "{role}");
    }
}

/// 5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same
/// term". All outcomes for all sizes from 1 to 9: its own vote is one of them, and counts when it is durable.
#[test]
fn s5_2_a_candidate_wins_with_exactly_a_majority() {
    for count in 1..=9_u64 {
        let majority = count / 2 + 1;
        for grants in 0..count {
            let mut lone = Lone::new(count, 1, &[]);
            let all: Vec<u64> = (2..=count).collect();
            let term = lone.campaign(&all);
            for &peer in &all {
                lone.granted(peer, term, peer < 2 + grants);
            }
            let won_by_others = grants >= majority;
            assert_eq!(lone.raft.is_leader(), won_by_others, "{grants} of {count}, the own vote not durable");
            lone.persisted();
            assert_eq!(lone.raft.is_leader(), grants + 1 >= majority, "{grants} of {count} and its own");
            assert_eq!(lone.raft.majority() as u64, majority);
        }
    }
}

/// Replies are counted by voter, and only for the term that was asked about.
#[test]
fn s5_2_duplicate_and_late_votes_do_not_count() {
    let mut lone = Lone::new(5, 1, &[]);
    let first = lone.campaign(&[2, 3]);
    lone.persisted();
    for _ in 0..5 {
        lone.granted(2, first, true);
    }
    assert_eq!(lone.raft.role_name(), RoleName::Candidate, "one voter, five times");
    let second = lone.campaign(&[2, 3]);
    lone.persisted();
    lone.granted(3, first, true);
    lone.granted(4, first, true);
    // Even if the voter has reached the new term meanwhile, its answer was about the old one.
    let late = VoteReply { term: second, for_term: first, vote_granted: true };
    lone.step(Event::Reply { from: 5, rpc: 0, reply: RpcReply::RequestVote(late) });
    assert_eq!(lone.raft.role_name(), RoleName::Candidate, "late votes");
    lone.granted(99, second, true);
    lone.granted(1, second, true);
    assert_eq!(lone.raft.role_name(), RoleName::Candidate, "votes of strangers, and its own from outside");
    lone.granted(4, second, true);
    lone.granted(5, second, true);
    assert!(lone.raft.is_leader());
}

/// The same for pre-votes (thesis 9.6): a late one, for the round of an earlier term, starts no campaign.
#[test]
fn s5_2_late_pre_votes_do_not_count() {
    let mut lone = Lone::new(5, 3, &[]);
    lone.campaign(&[]);
    let mut pre_vote = |from, for_term| {
        let reply = VoteReply { term: 3, for_term, vote_granted: true };
        lone.step(Event::Reply { from, rpc: 0, reply: RpcReply::PreVote(reply) });
        (lone.raft.role_name(), lone.raft.hard_state().term)
    };
    for from in 2..=5 {
        assert_eq!(
            pre_vote(from, 3),
            (RoleName::PreCandidate, 3),
            "asked about term 4, node {from} speaks of 3"
        );
    }
    assert_eq!(pre_vote(2, 4), (RoleName::PreCandidate, 3));
    assert_eq!(pre_vote(3, 4), (RoleName::Candidate, 4));
}

/// 5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis".
#[test]
fn s5_2_one_vote_per_term_first_come_first_served() {
    for first in 2..=3 {
        for second in 2..=3 {
            let mut lone = Lone::new(3, 1, &[]);
            assert!(lone.vote(first, 2, (0, 0)).vote_granted);
            assert_eq!(lone.raft.hard_state(), HardState { term: 2, voted_for: Some(first), joining: false });
            assert_eq!(lone.vote(second, 2, (0, 0)).vote_granted, first == second);
            assert_eq!(lone.raft.hard_state().voted_for, Some(first));
            assert!(lone.vote(second, 3, (0, 0)).vote_granted, "a new term, a new vote");
        }
    }
}

/// 5.2: "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes the leader as
/// legitimate and returns to follower state. If the term in the RPC is smaller, the candidate rejects the RPC".
#[test]
fn s5_2_a_candidate_returns_to_follower_for_a_legitimate_leader_only() {
    for (leader_term, accepted) in [(2, false), (3, true), (4, true)] {
        let mut lone = Lone::new(3, 2, &[]);
        assert_eq!(lone.campaign(&[2]), 3);
        lone.append(2, leader_term, (0, 0), &[], 0);
        let role = if accepted { RoleName::Follower } else { RoleName::Candidate };
        assert_eq!((lone.raft.role_name(), lone.raft.leader()), (role, accepted.then_some(2)));
    }
}

/// 5.2: "Raft uses randomized election timeouts to ensure that split votes are rare [...] chosen randomly from a fixed
/// interval": each draw lies in the interval, and they are spread over the whole of it; followers' and candidates' alike.
#[test]
fn s5_2_election_timeouts_are_drawn_from_the_whole_interval() {
    for role in [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate] {
        let mut drawn = BTreeSet::new();
        for seed in 0..500 {
            let mut lone = Lone::seeded(3, 1, &[], seed);
            match role {
                RoleName::Follower => assert_eq!(lone.append(2, 1, (0, 0), &[], 0).term, 1),
                RoleName::PreCandidate => assert_eq!(lone.campaign(&[]), 1),
                _ => assert_eq!(lone.campaign(&[2]), 2),
            }
            assert_eq!(lone.raft.role_name(), role);
            drawn.insert(lone.raft.deadline() - lone.now);
        }
        let (low, high) = ELECTION_TIMEOUT;
        assert!(drawn.iter().all(|timeout| *timeout >= low && *timeout <= high), "{role}");
        for tenth in 0..10 {
            let low = low + tenth * (high - low) / 10;
            let hit = drawn.range(low..=low + (high - low) / 10).next();
            assert!(hit.is_some(), "{role}: nothing was drawn in the interval's part {tenth}");
        }
    }
}

/// 5.2: "This spreads out the servers so that in most cases only a single server will time out". Five nodes lose their leader
/// 300 times: seldom are the two shortest timeouts so close that a round trip does not fit between them.
#[test]
fn s5_2_election_timeouts_rarely_collide() {
    let round_trip = Duration::from_millis(2);
    let collisions = (0..300)
        .filter(|round| {
            let timeout = |id: u64| {
                let mut lone = Lone::seeded(6, 1, &[], round * 10 + id);
                lone.append(2, 1, (0, 0), &[], 0);
                lone.raft.deadline()
            };
            let mut timeouts: Vec<Duration> = (0..5).map(timeout).collect();
            timeouts.sort();
            timeouts[1] - timeouts[0] < round_trip
        })
        .count();
    // Expected: about 2 % (4 gaps to the smallest of 5 draws from 500 ms). A tenth is far beyond chance.
    assert!(collisions < 30, "{collisions} of 300");
}

/// The election timer is reset by a valid leader's message and by a granted vote, by nothing else.
#[test]
fn s5_2_the_election_timer_is_reset_by_leader_and_granted_vote_alone() {
    let fresh = || {
        let mut lone = Lone::new(3, 3, &[1, 3]);
        lone.append(2, 3, (2, 3), &[], 0);
        let deadline = lone.raft.deadline();
        lone.now = Duration::from_millis(499);
        (lone, deadline)
    };
    let (mut lone, deadline) = fresh();
    lone.append(2, 3, (2, 3), &[], 0);
    assert!(lone.raft.deadline() >= lone.now + ELECTION_TIMEOUT.0, "a heartbeat resets");
    assert_ne!(lone.raft.deadline(), deadline);

    let (mut lone, deadline) = fresh();
    lone.append(3, 2, (2, 3), &[], 0);
    assert_eq!(lone.raft.deadline(), deadline, "a stale leader does not");

    let (mut lone, deadline) = fresh();
    lone.request(3, RpcRequest::PreVote(vote(3, 4, (9, 9))));
    assert_eq!(lone.raft.deadline(), deadline, "nor a pre-vote");

    let (mut lone, deadline) = fresh();
    lone.now = Duration::from_millis(500);
    assert!(!lone.vote(3, 4, (1, 1)).vote_granted);
    assert_eq!(lone.raft.deadline(), deadline, "nor a vote that is denied, even if its term is taken");
    assert_eq!(lone.raft.hard_state().term, 4);
    assert!(lone.vote(2, 4, (2, 3)).vote_granted);
    assert!(lone.raft.deadline() >= lone.now + ELECTION_TIMEOUT.0, "a granted vote does");
}

// ------------------------------------------------------------------------------------------------------------ 5.3

/// 5.3: "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel to each of the
/// other servers": with the index and term of the entry before.
#[test]
fn s5_3_a_leader_replicates_to_all_in_parallel() {
    let mut leader = Lone::new(5, 1, &[1, 1]).elected(&[2, 3]);
    for peer in 2..=5 {
        leader.acknowledge(peer, 3);
    }
    let output = leader.step(Event::Propose { id: 9, command: command("x") });
    let sent = appends(output);
    let entry = Entry { index: 4, term: 2, command: command("x") };
    assert_eq!(sent.len(), 4);
    for arguments in sent.values() {
        assert_eq!((arguments.term, arguments.prev_log_index, arguments.prev_log_term), (2, 3, 2));
        assert_eq!(arguments.entries, std::slice::from_ref(&entry));
    }
    assert_eq!(leader.last.durable, [Durable::Record(Record::Entry(entry))]);
}

/// 5.3: "Only a leader takes commands"; others say who leads, and write nothing.
#[test]
fn s5_3_only_a_leader_takes_proposals() {
    for (role, mut lone) in in_each_role().into_iter().take(3) {
        let last = lone.raft.log().last_index();
        let output = lone.step(Event::Propose { id: 9, command: command("x") });
        assert_eq!(output.resolved, [(9, Resolution::NotLeader { leader: None })], "{role}");
        assert!(output.durable.is_empty());
        assert_eq!(lone.raft.log().last_index(), last);
    }
}

/// 5.3: "A log entry is committed once the leader that created the entry has replicated it on a majority of the servers": the
/// matrix of all sets of acknowledgements for sizes 1 to 7, with and without the leader's own disk.
#[test]
fn s5_3_an_entry_is_committed_by_exactly_a_majority_of_disks() {
    for count in 1..=7_u64 {
        let majority = (count / 2 + 1) as u32;
        for acknowledged in 0_u64..1 << (count - 1) {
            for own_disk in [false, true] {
                let supporters: Vec<u64> = (2..=count).collect();
                let mut leader = Lone::new(count, 1, &[]).elected(&supporters);
                for &peer in &supporters {
                    leader.acknowledge(peer, 1);
                }
                assert_eq!(leader.raft.commit_index(), 1, "the no-op");
                leader.step(Event::Propose { id: 9, command: command("x") });
                let (mut applied, mut resolved) = (Vec::new(), Vec::new());
                let mut note = |output: &Output| {
                    applied.extend(output.apply.clone());
                    resolved.extend(output.resolved.clone());
                };
                for &peer in &supporters {
                    if acknowledged >> (peer - 2) & 1 == 1 {
                        leader.acknowledge(peer, 2);
                        note(&leader.last);
                    }
                }
                if own_disk {
                    note(leader.persisted());
                }
                let holders = acknowledged.count_ones() + u32::from(own_disk);
                let committed = holders >= majority;
                assert_eq!(leader.raft.commit_index(), if committed { 2 } else { 1 }, "{holders} of {count}");
                assert_eq!(applied.len(), usize::from(committed), "applied once, when committed");
                let answer = (9, Resolution::Committed { index: 2, term: 2 });
                assert_eq!(resolved, if committed { vec![answer] } else { vec![] });
            }
        }
    }
}

/// 5.3: "This also commits all preceding entries in the leader's log, including entries created by previous leaders."
#[test]
fn s5_3_a_commit_includes_all_preceding_entries() {
    for earlier in [&[][..], &[1], &[1, 1], &[1, 2, 2, 4]] {
        let mut leader = Lone::new(3, 4, earlier).elected(&[2]);
        let last = earlier.len() as Index + 1;
        leader.acknowledge(2, last);
        let applied: Vec<Index> = leader
            .last
            .apply
            .iter()
            .map(|apply| match apply {
                rakit::raft::Apply::Entry(entry) => entry.index,
                rakit::raft::Apply::Restore(_) => panic!("there is no snapshot"),
            })
            .collect();
        assert_eq!(applied, (1..=last).collect::<Vec<_>>(), "in order");
    }
}

/// 5.3: "The leader keeps track of the highest index it knows to be committed, and it includes that index in future
/// AppendEntries RPCs (including heartbeats)".
#[test]
fn s5_3_the_commit_index_travels_with_every_append() {
    let mut leader = Lone::new(3, 1, &[]).elected(&[2]);
    leader.acknowledge(2, 1);
    leader.acknowledge(3, 1);
    let sent = appends(leader.step(Event::Propose { id: 9, command: command("x") }));
    assert!(sent.len() == 2 && sent.values().all(|arguments| arguments.leader_commit == 1));
}

/// 5.3: "Once a follower learns that a log entry is committed, it applies the entry to its local state machine (in log order)",
/// up to what this append has verified: all commit indexes, all lengths.
#[test]
fn s5_3_a_follower_applies_what_is_committed_and_verified() {
    for held in 0..4_u64 {
        for brought in 0..4_u64 {
            for commit in 0..8 {
                let mut lone = Lone::new(3, 2, &[1; 3]);
                let prev = if held == 0 { (0, 0) } else { (held, 1) };
                if held == 0 || held <= 3 {
                    let entries = vec![2; brought as usize];
                    let reply = lone.append(2, 2, prev, &entries, commit);
                    let verified = held + brought;
                    assert_eq!(reply.result, AppendResult::Success { match_index: verified });
                    let expected = commit.min(verified);
                    assert_eq!(lone.raft.commit_index(), expected, "{held} {brought} {commit}");
                    assert_eq!(lone.last.apply.len() as u64, expected);
                }
            }
        }
    }
}

/// 5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses the new entries."
#[test]
fn s5_3_a_follower_checks_the_preceding_entry() {
    let log = [1, 1, 2, 4, 4, 4];
    for index in 0..9_u64 {
        for term in 0..5 {
            let mut lone = Lone::new(3, 4, &log);
            let reply = lone.append(2, 4, (index, term), &[], 0);
            let own = if index == 0 { Some(0) } else { log.get(index as usize - 1).copied() };
            match reply.result {
                AppendResult::Success { match_index } => {
                    assert!(own == Some(term) || index == 0, "{index}/{term}");
                    assert_eq!(match_index, index, "what was verified, not what the log has");
                }
                AppendResult::Conflict { prev_log_index, conflict_term, conflict_index } => {
                    assert_ne!(own, Some(term));
                    assert_eq!((prev_log_index, conflict_term), (index, own));
                    let hint = own.map_or(7, |own| 1 + log.iter().filter(|&&term| term < own).count() as u64);
                    assert_eq!(conflict_index, hint, "{index}/{term}");
                }
                AppendResult::StaleTerm => panic!("the term is the current one"),
            }
            assert_eq!(terms_of(&lone.raft), log, "a probe changes nothing");
        }
    }
}

/// 5.3: "conflicting entries in follower logs will be overwritten with entries from the leader's log", and nothing else is:
/// every prefix of one log, offered to every other log with an agreeing past.
#[test]
fn s5_3_a_follower_overwrites_exactly_what_conflicts() {
    let leader_log: [Term; 5] = [1, 1, 3, 3, 4];
    let follower_logs: [&[Term]; 7] =
        [&[], &[1], &[1, 1], &[1, 1, 2, 2, 2, 2], &[1, 1, 3, 3, 4], &[1, 1, 3, 3, 4, 4, 4], &[1, 1, 3]];
    for log in follower_logs {
        let agreed = log.iter().zip(leader_log).take_while(|(own, term)| **own == *term).count();
        for prev in 0..=agreed {
            for end in prev..=leader_log.len() {
                let mut lone = Lone::new(3, 4, log);
                let prev_term = if prev == 0 { 0 } else { leader_log[prev - 1] };
                let reply = lone.append(2, 4, (prev as u64, prev_term), &leader_log[prev..end], 0);
                assert_eq!(reply.result, AppendResult::Success { match_index: end as u64 });
                // Without a conflict, what is longer stays.
                let expected = if end <= agreed { log.to_vec() } else { leader_log[..end].to_vec() };
                assert_eq!(terms_of(&lone.raft), expected, "{log:?} {prev}..{end}");
                // What the disk is told leads to the same log.
                let mut disk = crate::harness::Disk::default();
                for entry in entries_of_terms(log) {
                    disk.write(&Durable::Record(Record::Entry(entry)));
                }
                lone.last.durable.iter().for_each(|durable| disk.write(durable));
                assert_eq!(disk.entries.iter().map(|entry| entry.term).collect::<Vec<_>>(), expected);
            }
        }
    }
}

/// Figure 7: a leader brings each of the paper's six followers to its own log.
#[test]
fn s5_3_figure_7_every_follower_is_brought_to_the_leaders_log() {
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [(char, Term, &[Term]); 6] = [
        ('a', 6, &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ('b', 4, &[1, 1, 1, 4]),
        ('c', 6, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ('d', 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ('e', 4, &[1, 1, 1, 4, 4, 4, 4]),
        ('f', 3, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ];
    for (name, term, log) in followers {
        for entries_max in [1, 2, 4096] {
            let mut cluster = Cluster::with(3, |settings| settings.append_entries_max = entries_max);
            cluster.set_log(1, 7, &leader_log);
            cluster.set_log(2, 7, &leader_log);
            cluster.set_log(3, term, log);
            cluster.cut.extend([(1, 3), (3, 1)]);
            cluster.elect(1);
            cluster.heal();
            assert!(cluster.run_until(Duration::from_secs(5), Cluster::is_settled), "follower {name}");
            assert_eq!(cluster.log_terms(3), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8], "follower {name}");
        }
    }
}

/// 5.3: "If followers crash or run slowly, or if network packets are lost, the leader retries AppendEntries RPCs indefinitely":
/// a lost append is sent again without a new proposal.
#[test]
fn s5_3_a_lost_append_is_sent_again_in_a_quiet_cluster() {
    for told in [false, true] {
        let mut cluster = Cluster::new(3);
        cluster.elect(1);
        cluster.run_for(Duration::from_millis(300));
        cluster.propose_next(1);
        while let Some(position) =
            cluster.in_flight.iter().position(|message| matches!(message.payload, Payload::Request { .. }))
        {
            if told { cluster.lose_message(position) } else { cluster.drop_message(position) }
        }
        assert!(cluster.run_until(4 * HEARTBEAT, Cluster::is_settled), "told: {told}");
    }
}

// ------------------------------------------------------------------------------------------------------------ 5.4

/// 5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate": the matrix of all last
/// entries, for RequestVote and PreVote.
#[test]
fn s5_4_1_the_voter_matrix_of_log_freshness() {
    for own_length in 0..4_usize {
        for own_term in 1..4 {
            let own_log = vec![own_term; own_length];
            let own_last = if own_length == 0 { (0, 0) } else { (own_length as u64, own_term) };
            for index in 0..5_u64 {
                for term in 0..5 {
                    if (index == 0) != (term == 0) {
                        continue;
                    }
                    // The later term; or the same, and not shorter.
                    let fresh = term > own_last.1 || (term == own_last.1 && index >= own_last.0);
                    let mut lone = Lone::new(3, 4, &own_log);
                    let reply = lone.request(2, RpcRequest::PreVote(vote(2, 5, (index, term))));
                    let RpcReply::PreVote(reply) = reply else { panic!("{reply:?}") };
                    assert_eq!(reply.vote_granted, fresh, "pre-vote {index}/{term} by {own_last:?}");
                    assert_eq!(lone.raft.hard_state().term, 4, "a pre-vote raises no term");
                    let reply = lone.vote(2, 5, (index, term));
                    assert_eq!(reply.vote_granted, fresh, "vote {index}/{term} by {own_last:?}");
                }
            }
        }
    }
}

/// 5.4.1: the arguments of the candidate are those of its last entry, also if that is the snapshot's.
#[test]
fn s5_4_1_a_candidate_tells_its_last_entry() {
    let settings = Settings::new(1, (1..=3).collect(), ELECTION_TIMEOUT, HEARTBEAT, 1);
    let snapshot = Snapshot { last_index: 7, last_term: 3, state: Command::noop(), members: None };
    let hard_state = HardState { term: 4, voted_for: None, joining: false };
    let raft = Raft::new(settings, hard_state, Some(snapshot), Vec::new(), Duration::ZERO);
    let mut lone = Lone { raft, now: Duration::ZERO, last: Output::default(), under_way: BTreeMap::new() };
    lone.now = lone.raft.deadline();
    let output = lone.step(Event::Tick);
    assert_eq!(output.send_now[0].request, RpcRequest::PreVote(vote(1, 5, (7, 3))));
    let mut lone = Lone::new(3, 4, &[1, 2, 4]);
    lone.now = lone.raft.deadline();
    assert_eq!(lone.step(Event::Tick).send_now[0].request, RpcRequest::PreVote(vote(1, 5, (3, 4))));
}

/// 5.4.2 and Figure 8: "Raft never commits log entries from previous terms by counting replicas."
#[test]
fn s5_4_2_only_entries_of_the_current_term_are_committed_by_counting() {
    let log = [1, 2, 2, 3];
    for match_index in 0..=5 {
        let mut leader = Lone::new(3, 3, &log).elected(&[2]);
        leader.acknowledge(2, match_index);
        let expected = if match_index == 5 { 5 } else { 0 };
        assert_eq!(leader.raft.commit_index(), expected, "acknowledged up to {match_index}");
    }
}

/// 5.4.3: Leader Completeness, Figure 9's argument: who lacks a committed entry is not elected, by any majority.
#[test]
fn s5_4_3_who_lacks_a_committed_entry_is_never_elected() {
    for absent in 2..=5 {
        let mut cluster = Cluster::new(5);
        cluster.elect(1);
        cluster.settle();
        cluster.isolate(absent);
        cluster.propose_next(1);
        cluster.settle();
        let committed = cluster.raft(1).commit_index();
        cluster.crash(1, 0);
        cluster.heal();
        for _ in 0..3 {
            cluster.now += ELECTION_TIMEOUT.1;
            cluster.campaign(absent);
            assert!(!cluster.raft(absent).is_leader());
        }
        assert!(cluster.run_until(Duration::from_secs(10), |cluster| cluster.leader().is_some()));
        let leader = cluster.leader().expect("awaited");
        assert!(leader != absent && cluster.raft(leader).log().last_index() >= committed);
    }
}

// ------------------------------------------------------------------------------------------------- 5.5, 5.6, 8

/// 5.5: "Raft RPCs are idempotent": an append that arrives again is acknowledged again, and writes nothing.
#[test]
fn s5_5_requests_are_idempotent() {
    let mut lone = Lone::new(3, 1, &[1]);
    let first = lone.append(2, 1, (1, 1), &[1, 1], 2);
    let second = lone.append(2, 1, (1, 1), &[1, 1], 2);
    assert_eq!(first, second);
    assert!(lone.last.durable.is_empty() && lone.last.apply.is_empty());
    let first = lone.vote(2, 1, (3, 1));
    let second = lone.vote(2, 1, (3, 1));
    assert_eq!(first, second);
}

/// 5.6: "broadcastTime ≪ electionTimeout": with delays of up to a fifth of the timeout, one leader is elected and stays.
#[test]
fn s5_6_a_steady_leader_while_messages_are_faster_than_the_timeout() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(5).seeded(seed);
        cluster.network.latency = (Duration::from_millis(1), Duration::from_millis(100));
        assert!(cluster.run_until(Duration::from_secs(20), |cluster| cluster.leader().is_some()));
        cluster.run_for(Duration::from_secs(2));
        let (leader, leaders) = (cluster.leader(), cluster.properties.leaders());
        cluster.run_for(Duration::from_secs(30));
        assert_eq!((cluster.leader(), cluster.properties.leaders()), (leader, leaders), "seed {seed}");
    }
}

/// Section 8: "each leader commit[s] a blank no-op entry into the log at the start of its term".
#[test]
fn s8_a_leader_begins_with_a_no_op() {
    let leader = Lone::new(3, 4, &[1, 4]).elected(&[3]);
    let last = leader.raft.log().get(3).expect("the entry after the log it had");
    assert!(last.command.is_noop() && last.term == 5);
}
