//! One core alone, for the rules of a single node: a test steps it with messages and checks its decisions.

use std::collections::BTreeMap;
use std::time::Duration;

use rakit::raft::{
    AppendEntries, AppendReply, AppendResult, Entry, Event, HardState, Index, Life, Output, Raft,
    RequestVote, RoleName, RpcId, RpcReply, RpcRequest, SendOnceDurable, Settings, Term, VoteReply,
};

use super::{ELECTION_TIMEOUT, HEARTBEAT, command, entries_of_terms};

/// A single core without disk and network: the tests look only at its decisions.
pub struct Lone {
    pub raft: Raft,
    pub now: Duration,
    pub last: Output,
    /// The newest request to each peer.
    pub under_way: BTreeMap<u64, RpcId>,
}

impl Lone {
    /// Node 1 of `count`, in `term`, with a log of these terms.
    pub fn new(count: u64, term: Term, terms: &[Term]) -> Self {
        Self::seeded(count, term, terms, 1)
    }

    pub fn seeded(count: u64, term: Term, terms: &[Term], seed: u64) -> Self {
        let settings = Settings::new(1, (1..=count).collect(), ELECTION_TIMEOUT, HEARTBEAT, seed);
        let hard_state = HardState { term, voted_for: None, joining: false };
        let raft = Raft::new(settings, hard_state, None, entries_of_terms(terms), Duration::ZERO);
        Self { raft, now: Duration::ZERO, last: Output::default(), under_way: BTreeMap::new() }
    }

    pub fn step(&mut self, event: Event) -> &Output {
        self.raft.step(self.now, event);
        self.last = self.raft.take_output();
        self.under_way.extend(self.last.send_now.iter().map(|send| (send.to, send.rpc)));
        &self.last
    }

    /// The disk is fast: everything handed out so far is durable.
    pub fn persisted(&mut self) -> &Output {
        self.step(Event::Persisted { mark: u64::MAX })
    }

    pub fn request(&mut self, from: u64, request: RpcRequest) -> RpcReply {
        let output = self.step(Event::Request { from, token: 7, request });
        let replies: Vec<RpcReply> = output
            .send_once_durable
            .iter()
            .filter_map(|send| match send {
                SendOnceDurable::Reply { to, token: 7, reply } if *to == from => Some(reply.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(replies.len(), 1, "each request gets one reply");
        replies[0].clone()
    }

    pub fn vote(&mut self, from: u64, term: Term, last: (Index, Term)) -> VoteReply {
        match self.request(from, RpcRequest::RequestVote(vote(from, term, last))) {
            RpcReply::RequestVote(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub fn append(
        &mut self,
        from: u64,
        term: Term,
        prev: (Index, Term),
        terms: &[Term],
        commit: Index,
    ) -> AppendReply {
        match self.request(from, append(from, term, prev, terms, commit)) {
            RpcReply::AppendEntries(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// The election timeout passes; the pre-vote is won by the grants of these nodes.
    pub fn campaign(&mut self, supporters: &[u64]) -> Term {
        self.now = self.now.max(self.raft.deadline());
        self.step(Event::Tick);
        let term = self.raft.hard_state().term;
        for &from in supporters {
            if self.raft.role_name() == RoleName::PreCandidate {
                let reply = VoteReply { term, for_term: term + 1, vote_granted: true };
                self.step(Event::Reply { from, rpc: 0, reply: RpcReply::PreVote(reply) });
            }
        }
        self.raft.hard_state().term
    }

    pub fn granted(&mut self, from: u64, term: Term, vote_granted: bool) {
        let reply = VoteReply { term, for_term: term, vote_granted };
        self.step(Event::Reply { from, rpc: 0, reply: RpcReply::RequestVote(reply) });
    }

    /// Elected by these nodes; its no-op is durable here.
    pub fn elected(mut self, supporters: &[u64]) -> Self {
        let term = self.campaign(supporters);
        self.persisted();
        for &from in supporters {
            self.granted(from, term, true);
        }
        assert!(self.raft.is_leader(), "elected");
        self.persisted();
        self
    }

    pub fn acknowledge(&mut self, from: u64, match_index: Index) {
        let term = self.raft.hard_state().term;
        let reply = RpcReply::AppendEntries(AppendReply {
            term,
            life: Life::default(),
            result: AppendResult::Success { match_index },
        });
        let rpc = self.under_way.get(&from).copied().unwrap_or(0);
        self.step(Event::Reply { from, rpc, reply });
    }
}

pub fn vote(candidate_id: u64, term: Term, last: (Index, Term)) -> RequestVote {
    RequestVote {
        term,
        candidate_id,
        last_log_index: last.0,
        last_log_term: last.1,
        leadership_transfer: false,
    }
}

pub fn append(from: u64, term: Term, prev: (Index, Term), terms: &[Term], commit: Index) -> RpcRequest {
    let entry =
        |(index, &term): (Index, &Term)| Entry { index, term, command: command(&format!("{index}@{term}")) };
    RpcRequest::AppendEntries(AppendEntries {
        term,
        leader_id: from,
        prev_log_index: prev.0,
        prev_log_term: prev.1,
        entries: (prev.0 + 1..).zip(terms).map(entry).collect(),
        leader_commit: commit,
        admit: None,
    })
}

pub fn terms_of(raft: &Raft) -> Vec<Term> {
    (raft.log().first_index()..=raft.log().last_index())
        .filter_map(|index| raft.log().term_at(index))
        .collect()
}

pub fn appends(output: &Output) -> BTreeMap<u64, AppendEntries> {
    let append = |send: &rakit::raft::SendNow| match &send.request {
        RpcRequest::AppendEntries(arguments) => Some((send.to, arguments.clone())),
        _ => None,
    };
    output.send_now.iter().filter_map(append).collect()
}
