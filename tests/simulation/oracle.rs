//! The oracle sees all nodes at once, remembers the whole history, and checks at each step that nothing forbidden has
//! happened. It looks from outside: at the core after each call, at each effect before it is carried out, at what is
//! published, and at each answer.
//!
//! The five properties are those of Figure 3 of the Raft paper, in its order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rakit::balancer::{Change, OrderEffect, Report, ServerCommand, ServerOrder, ServerTable, View};
use rakit::raft::{
    Command, Durable, Entry, Index, NodeId, Notice, Raft, Record, RoleName, RpcReply, RpcRequest, Term,
};
use rakit::replica::ReportOutcome;

use super::coverage::{Coverage, Seen};

/// An entry that some node has handed out to be applied: from then on it must never change.
struct Committed {
    term: Term,
    /// The term of the node that committed it first: leaders of later terms must have it.
    committed_in: Term,
    command: Command,
    /// What applying it changed.
    change: Change,
}

/// What is known of a node while its process lives.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    commit_index: Index,
    snapshot_index: Index,
    term: Term,
    /// Set while it leads: its term, and the last index that was seen.
    leading: Option<(Term, Index)>,
}

/// The whole history of one seed.
pub struct Oracle {
    leaders: BTreeMap<Term, NodeId>,
    campaigns: BTreeSet<Term>,
    /// Every entry that was ever in a log: its command, and the term of the entry before it.
    entries: HashMap<(Index, Term), (Command, Term)>,
    committed: Vec<Committed>,
    /// The table after all committed entries.
    table: ServerTable,
    /// The digest of the table at each index.
    digests: Vec<String>,
    lives: BTreeMap<NodeId, Life>,
    /// By voter, how often its disk was emptied, and term.
    votes: BTreeMap<(NodeId, u64, Term), NodeId>,
    pre_votes: BTreeMap<(NodeId, Term), BTreeSet<NodeId>>,
    handed_over: BTreeSet<(NodeId, Term)>,
    acknowledged: BTreeMap<String, Index>,
    /// The servers that are drained, by the orders alone.
    drained: BTreeSet<String>,
    /// The last entry that evicted each server, or had it forgotten. Earlier promises about that server are void, because it was dead.
    evicted: BTreeMap<String, Index>,
    /// Nodes whose state was changed behind their back.
    pub flipped: BTreeSet<NodeId>,
    /// Nodes that were replaced, and do not vote yet.
    replaced: BTreeSet<NodeId>,
    pub coverage: Coverage,
}

impl Oracle {
    pub fn new(servers_max: usize) -> Self {
        let table = ServerTable::new(servers_max);
        Self {
            leaders: BTreeMap::new(),
            campaigns: BTreeSet::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            digests: vec![table.digest()],
            table,
            lives: BTreeMap::new(),
            votes: BTreeMap::new(),
            pre_votes: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            drained: BTreeSet::new(),
            evicted: BTreeMap::new(),
            flipped: BTreeSet::new(),
            replaced: BTreeSet::new(),
            coverage: Coverage::default(),
        }
    }

    pub fn count(&mut self, seen: Seen) {
        self.coverage.count(seen);
    }

    /// How many entries are committed.
    pub fn commit_index(&self) -> Index {
        self.committed.len() as Index
    }

    pub fn leader_of(&self, term: Term) -> Option<NodeId> {
        self.leaders.get(&term).copied()
    }

    /// A process started with what its disk remembers.
    pub fn started(&mut self, id: NodeId, wipes: u64, raft: &Raft, entries: &[Entry]) {
        let (commit_index, snapshot_index) = (raft.commit_index(), raft.snapshot_index());
        self.lives
            .insert(id, Life { commit_index, snapshot_index, term: raft.hard_state().term, leading: None });
        // It must still know all its promises: its votes (Figure 2, "persistent state").
        let last = self.votes.range((id, wipes, 0)..=(id, wipes, Term::MAX)).next_back();
        if let Some(((_, _, term), to)) = last {
            let now = raft.hard_state();
            assert!(
                now.term > *term || (now.term == *term && now.voted_for == Some(*to)),
                "durable votes: node {id} voted for {to} in term {term}, and has forgotten it: {now:?}"
            );
        }
        for entry in entries {
            self.entry(raft, entry);
        }
        // What it remembers to be committed beyond its snapshot was committed, by somebody, before.
        assert!(
            commit_index <= self.commit_index(),
            "node {id} remembers that {commit_index} is committed, which it is not"
        );
        self.commits(raft, snapshot_index);
        self.restored(raft.snapshot_index(), raft.log().term_at(raft.snapshot_index()));
    }

    /// Called after each call of a replica: checks the new state of its core.
    pub fn stepped(&mut self, raft: &Raft) {
        let (id, term) = (raft.id(), raft.hard_state().term);
        let life = self.lives.entry(id).or_default();
        assert!(term >= life.term, "node {id}: its term went back");
        assert!(raft.commit_index() >= life.commit_index, "node {id}: its commit index went back");
        assert!(raft.snapshot_index() >= life.snapshot_index, "node {id}: its snapshot went back");
        let before = std::mem::replace(
            life,
            Life {
                commit_index: raft.commit_index(),
                snapshot_index: raft.snapshot_index(),
                term,
                leading: life.leading,
            },
        );
        if raft.snapshot_index() > before.snapshot_index {
            self.restored(raft.snapshot_index(), raft.log().term_at(raft.snapshot_index()));
        }
        if raft.commit_index() > before.commit_index {
            self.commits(raft, before.commit_index);
        }
        if raft.role_name() == RoleName::Candidate {
            self.campaigns.insert(term);
        }
        let life = self.lives.entry(id).or_default();
        if !raft.is_leader() {
            life.leading = None;
            return;
        }
        // Leader Append-Only: a leader never overwrites or deletes entries in its log.
        let last_index = raft.log().last_index();
        let new = match life.leading {
            Some((leading, last)) if leading == term => {
                assert!(last_index >= last, "leader append-only: node {id} lost entries of its own log");
                false
            }
            _ => true,
        };
        life.leading = Some((term, last_index));
        if new {
            self.elected(raft);
        }
    }

    fn elected(&mut self, raft: &Raft) {
        let (id, term) = (raft.id(), raft.hard_state().term);
        self.coverage.count(Seen::LeaderElected);
        // Election Safety: at most one leader can be elected in a given term.
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "election safety: nodes {leader} and {id} both lead term {term}");
        // Leader Completeness: if an entry is committed in a given term, it is in the logs of the leaders of all later
        // terms.
        for (index, committed) in (1..).zip(&self.committed) {
            if committed.committed_in < term && index >= raft.log().first_index() {
                assert_eq!(
                    raft.log().term_at(index),
                    Some(committed.term),
                    "leader completeness: node {id} leads term {term} without the committed entry {index}"
                );
            }
        }
    }

    /// Log Matching: if two logs contain an entry with the same index and term, the logs are identical in all entries up
    /// through it. By induction: each entry goes with one command and one predecessor.
    fn entry(&mut self, raft: &Raft, entry: &Entry) {
        if raft.log().term_at(entry.index) != Some(entry.term) {
            return; // Truncated again in the same batch.
        }
        let Some(before) = raft.log().term_at(entry.index - 1) else { return };
        let known =
            self.entries.entry((entry.index, entry.term)).or_insert_with(|| (entry.command.clone(), before));
        assert!(
            known.0 == entry.command && known.1 == before,
            "log matching: entry {} of term {} is {:?} after term {before} at node {}, and {:?} after term {} elsewhere",
            entry.index,
            entry.term,
            entry.command,
            raft.id(),
            known.0,
            known.1
        );
    }

    /// A core commits more than before.
    fn commits(&mut self, raft: &Raft, before: Index) {
        let (id, commit) = (raft.id(), raft.commit_index());
        if raft.is_leader() && commit > before {
            // 5.4.2 and Figure 8: "only log entries from the leader's current term are committed by counting replicas".
            let term = raft.hard_state().term;
            assert_eq!(
                raft.log().term_at(commit),
                Some(term),
                "figure 8: leader {id} of term {term} commits up to {commit}, an entry of an earlier term"
            );
        }
        for index in before + 1..=commit {
            match raft.log().get(index) {
                Some(entry) => self.committed(raft, entry),
                None => {
                    assert!(index <= raft.snapshot_index(), "node {id} commits {index}, which it has not")
                }
            }
        }
    }

    /// Before a driver writes what a replica wants to be durable.
    pub fn writes(&mut self, raft: &Raft, steps: &[Durable]) {
        for step in steps {
            match step {
                Durable::Record(Record::Entry(entry)) => self.entry(raft, entry),
                // Whether it may be truncated there is for the storage to judge: it asserts it before it writes. In one
                // batch, a truncation and a snapshot that covers its place may follow each other.
                Durable::Record(Record::Truncate { .. }) => self.coverage.count(Seen::Truncated),
                Durable::Record(Record::HardState(_) | Record::Founders(_)) => {}
                Durable::Compact { snapshot, retained, .. } => {
                    self.restored(snapshot.last_index, Some(snapshot.last_term));
                    for entry in retained {
                        self.entry(raft, entry);
                    }
                }
            }
        }
    }

    /// State Machine Safety: if a server has applied an entry at a given index, no other server will ever apply a different
    /// entry for the same index. What a core commits is applied next; that it was is seen by the digest of the table.
    fn committed(&mut self, raft: &Raft, entry: &Entry) {
        let id = raft.id();
        let position = usize::try_from(entry.index - 1).expect("a short log");
        if let Some(committed) = self.committed.get(position) {
            assert!(
                committed.term == entry.term && committed.command == entry.command,
                "state machine safety: node {id} commits {entry:?}, but {:?} of term {} is committed there",
                committed.command,
                committed.term
            );
            return;
        }
        assert_eq!(
            position,
            self.committed.len(),
            "node {id} commits entry {} before its predecessor",
            entry.index
        );
        let alive: BTreeSet<String> = self
            .table
            .servers()
            .filter(|record| record.alive)
            .map(|record| record.report.server.clone())
            .collect();
        let change = self.table.apply(entry);
        match &change {
            Change::Died => self.coverage.count(Seen::ServerDied),
            Change::Revived => self.coverage.count(Seen::ServerRevived),
            Change::NoRoom => self.coverage.count(Seen::TableFull),
            Change::Ignored(reason) => panic!("entry {} was ignored: {reason}", entry.index),
            Change::New { evicted: Some(evicted) } => {
                self.coverage.count(Seen::Evicted);
                assert!(!alive.contains(evicted), "entry {} evicts {evicted}, which lives", entry.index);
                self.gone(evicted.clone(), entry.index);
            }
            _ => {}
        }
        if let Ok(ServerCommand::Order(order)) = ServerCommand::parse(&entry.command) {
            self.order_applied(entry, &order, &change, &alive);
        }
        let drained = self.table.servers().filter(|record| record.drained_at.is_some());
        let drained: BTreeSet<String> = drained.map(|record| record.report.server.clone()).collect();
        assert_eq!(
            drained, self.drained,
            "after entry {}, other servers are drained than ordered",
            entry.index
        );
        self.digests.push(self.table.digest());
        let (term, command, committed_in) = (entry.term, entry.command.clone(), raft.hard_state().term);
        self.committed.push(Committed { term, committed_in, command, change });
    }

    /// A server that is dead by all that is committed.
    pub fn a_dead_server(&self) -> Option<String> {
        let dead = self.table.servers().find(|record| !record.alive);
        dead.map(|record| record.report.server.clone())
    }

    /// A server left the table: what was promised of it is void.
    fn gone(&mut self, server: String, index: Index) {
        self.drained.remove(&server);
        self.acknowledged.remove(&server);
        self.evicted.insert(server, index);
    }

    /// An order was applied. `alive` are the servers that lived before it.
    fn order_applied(
        &mut self,
        entry: &Entry,
        order: &ServerOrder,
        change: &Change,
        alive: &BTreeSet<String>,
    ) {
        let (index, server) = (entry.index, order.server());
        let Change::Ordered(effect) = change else { panic!("order {index} came to {change:?}") };
        match (effect, order) {
            (OrderEffect::Done, ServerOrder::Drain(_)) => {
                assert!(self.drained.insert(server.to_owned()), "entry {index} drains {server} again");
                self.coverage.count(Seen::Drained);
            }
            (OrderEffect::Done, ServerOrder::Undrain(_)) => {
                assert!(
                    self.drained.remove(server),
                    "entry {index} undrains {server}, which was not drained"
                );
                self.coverage.count(Seen::Undrained);
            }
            (OrderEffect::Done, ServerOrder::Forget(_)) => {
                assert!(!alive.contains(server), "entry {index} forgets {server}, which lives");
                assert!(self.table.get(server).is_none(), "entry {index} forgets {server}, which stays");
                self.gone(server.to_owned(), index);
                self.coverage.count(Seen::Forgotten);
            }
            (OrderEffect::StillAlive, _) => {
                assert!(alive.contains(server), "entry {index} takes the dead {server} for alive");
                self.coverage.count(Seen::ForgetRefused);
            }
            (OrderEffect::AlreadySo | OrderEffect::NoSuchServer, _) => self.coverage.count(Seen::OrderVoid),
        }
    }

    /// An operator gets the answer to his order: it must be true, and what he is told is published.
    pub fn ordered(&mut self, id: NodeId, order: &ServerOrder, outcome: ReportOutcome, view: &View) {
        let (index, term, effect) = match outcome {
            ReportOutcome::Ordered { index, term, effect } => (index, term, effect),
            ReportOutcome::NotLeader { .. } | ReportOutcome::Unknown | ReportOutcome::Busy => {
                return self.coverage.count(Seen::OrderLost);
            }
            other => panic!("{order:?} was answered with {other:?}"),
        };
        self.coverage.count(Seen::OrderAcknowledged);
        let position = usize::try_from(index - 1).expect("a short log");
        let entry = self.committed.get(position).expect("what is acknowledged is committed");
        assert_eq!(term, entry.term, "{order:?} was told that entry {index} is of another term");
        let in_log = ServerCommand::parse(&entry.command);
        assert_eq!(in_log, Ok(ServerCommand::Order(order.clone())), "another command is at {index}");
        assert_eq!(
            entry.change,
            Change::Ordered(effect),
            "{order:?} was told something else than came to be"
        );
        assert!(
            view.applied_index() >= index,
            "node {id} tells that {order:?} at {index} is done, and shows {}",
            view.applied_index()
        );
    }

    /// A snapshot holds committed entries alone.
    fn restored(&self, index: Index, term: Option<Term>) {
        let Some(position) = index.checked_sub(1) else { return };
        let committed = self.committed.get(usize::try_from(position).expect("a short log"));
        let committed =
            committed.unwrap_or_else(|| panic!("a snapshot up to {index}, which is not committed"));
        if let Some(term) = term {
            assert_eq!(
                term, committed.term,
                "a snapshot up to entry {index} of another term than the committed one"
            );
        }
    }

    /// Equal applied index, equal digest.
    pub fn table(&self, id: NodeId, table: &ServerTable) {
        if self.flipped.contains(&id) {
            return;
        }
        let index = usize::try_from(table.applied_index()).expect("a short log");
        assert_eq!(
            Some(&table.digest()),
            self.digests.get(index),
            "node {id}: the digest of its table at index {index} differs"
        );
    }

    pub fn noticed(&mut self, notice: &Notice) {
        match notice {
            Notice::Compacted { .. } => self.coverage.count(Seen::Compacted),
            Notice::SnapshotInstalled { .. } => self.coverage.count(Seen::SnapshotInstalled),
            Notice::Founded { .. } => self.coverage.count(Seen::Founded),
            Notice::FoundingWaits { .. } => self.coverage.count(Seen::FoundingWaits),
            Notice::Admitted { .. } => self.coverage.count(Seen::Admitted),
            Notice::CaughtUp { peer } => {
                self.coverage.count(Seen::MemberPromoted);
                if self.replaced.remove(peer) {
                    self.coverage.count(Seen::Replaced);
                }
            }
            Notice::Removed { .. } => self.coverage.count(Seen::MemberRemoved),
            Notice::Members { index: 0, .. } => self.coverage.count(Seen::ListTruncated),
            Notice::Role { role: RoleName::Follower, reason, .. }
                if reason.contains("no answer from a majority") =>
            {
                self.coverage.count(Seen::SteppedDown);
            }
            _ => {}
        }
    }

    /// A request leaves a node. If it is a promise, it must be kept from now on, over any crash.
    pub fn sends(&mut self, raft: &Raft, wipes: u64, to: NodeId, request: &RpcRequest) {
        let id = raft.id();
        match request {
            // A leader told a peer to campaign.
            RpcRequest::TimeoutNow(arguments) => {
                self.handed_over.insert((to, arguments.term));
            }
            RpcRequest::AppendEntries(append) if raft.is_leader() => {
                assert_eq!(append.term, raft.hard_state().term, "a leader speaks for its own term alone");
            }
            RpcRequest::RequestVote(arguments) => {
                self.voted(id, wipes, arguments.term, id);
                if arguments.leadership_transfer {
                    assert!(
                        self.handed_over.contains(&(id, arguments.term - 1)),
                        "node {id} claims that a leader handed term {} over to it",
                        arguments.term - 1
                    );
                } else {
                    // PreVote (thesis 9.6): no term is raised that a majority would not have voted in.
                    let members = raft.members();
                    let granted = self.pre_votes.get(&(id, arguments.term));
                    let granted =
                        granted.into_iter().flatten().filter(|node| members.is_voter(**node)).count();
                    assert!(
                        granted + usize::from(members.is_voter(id)) >= raft.majority(),
                        "node {id} campaigns in term {} with {granted} pre-votes of others",
                        arguments.term
                    );
                }
            }
            _ => {}
        }
    }

    /// A reply leaves a node, and is a promise.
    pub fn replies(&mut self, id: NodeId, wipes: u64, to: NodeId, reply: &RpcReply) {
        match reply {
            RpcReply::RequestVote(reply) if reply.vote_granted => self.voted(id, wipes, reply.for_term, to),
            RpcReply::PreVote(reply) if reply.vote_granted => {
                self.pre_votes.entry((to, reply.for_term)).or_default().insert(id);
            }
            RpcReply::TimeoutNow(reply) if reply.accepted => self.coverage.count(Seen::TransferElection),
            _ => {}
        }
    }

    fn voted(&mut self, id: NodeId, wipes: u64, term: Term, to: NodeId) {
        // Also over the disks that it lost. (A vote for the leader that was elected already changes nothing.)
        let others =
            (0..=wipes).filter_map(|life| self.votes.get(&(id, life, term))).find(|first| **first != to);
        assert!(
            others.is_none() || self.leaders.get(&term) == Some(&to),
            "durable votes: node {id} votes twice in term {term}, for {others:?} and for {to}"
        );
        self.votes.entry((id, wipes, term)).or_insert(to);
    }

    /// An operator replaces a node: another directory, under the same id.
    pub fn replaced(&mut self, node: NodeId) {
        self.coverage.count(Seen::ReplacementAsked);
        self.replaced.insert(node);
    }

    /// An operator gets the answer to a change of members.
    pub fn change_answered(&mut self, outcome: ReportOutcome) {
        match outcome {
            ReportOutcome::Committed { index, .. } => {
                assert!(index <= self.commit_index(), "a change is said to be committed, and is not");
                self.coverage.count(Seen::ChangeCommitted);
            }
            ReportOutcome::Refused(_) => self.coverage.count(Seen::ChangeRefused),
            _ => {}
        }
    }

    /// A daemon gets the answer to its report. The answer must be true for ever, and `view`, which its node publishes, must
    /// show it already.
    pub fn answered(&mut self, id: NodeId, report: &Report, outcome: ReportOutcome, view: &View) {
        let (server, stamp) = (&report.server, report.stamp());
        let (index, term, promised) = match outcome {
            ReportOutcome::Committed { index, term } => {
                self.coverage.count(Seen::Acknowledged);
                (index, term, stamp)
            }
            ReportOutcome::Stale { index, term, newest } => {
                self.coverage.count(Seen::AcknowledgedStale);
                assert!(newest >= stamp, "{server}: {stamp:?} is called stale, and the newest is {newest:?}");
                (index, term, newest)
            }
            ReportOutcome::OtherDaemon { .. } => {
                assert!(report.instance.is_some(), "a report by hand is refused: {report:?}");
                return self.coverage.count(Seen::OtherDaemon);
            }
            ReportOutcome::NotLeader { .. } => return self.coverage.count(Seen::NotLeader),
            ReportOutcome::Unknown => return self.coverage.count(Seen::Unknown),
            ReportOutcome::Refused(why) => panic!("a report was refused as a change of members: {why:?}"),
            ReportOutcome::Busy => return self.coverage.count(Seen::Busy),
            ReportOutcome::TableFull => return self.coverage.count(Seen::TurnedAwayFull),
            ReportOutcome::Ordered { .. } => panic!("a report of {server} is answered as an order"),
        };
        let position = usize::try_from(index - 1).expect("a short log");
        let entry = self.committed.get(position).expect("what is acknowledged is committed");
        assert_eq!(term, entry.term, "{server} was told that entry {index} is of another term");
        let Ok(ServerCommand::Report(in_log)) = ServerCommand::parse(&entry.command) else {
            panic!("{server} was told of index {index}, which holds {:?}", entry.command);
        };
        assert!(
            in_log.server == *server && in_log.stamp() == promised,
            "{server} was told that its {promised:?} is at {index}, which holds {in_log:?}"
        );
        assert!(
            entry.change.took_report(),
            "{server} was told that {promised:?} at {index} counts, but applying it came to {:?}",
            entry.change
        );
        // Dead, and evicted since: then nothing of it is left to be shown or kept.
        if self.evicted.get(server).is_some_and(|evicted| *evicted > index) {
            return;
        }
        let shown = view.get(server).map(|shown| shown.record.reported_at);
        assert!(
            shown >= Some(index),
            "node {id} tells {server} that {promised:?} at {index} counts, and shows {shown:?}"
        );
        let newest = self.acknowledged.entry(server.clone()).or_default();
        *newest = index.max(*newest);
    }

    /// At the end, once more on a node's own table: nothing that was acknowledged is lost.
    pub fn nothing_lost(&self, id: NodeId, table: &ServerTable) {
        for (server, index) in &self.acknowledged {
            let known = table.get(server).map(|record| record.reported_at);
            assert!(
                known >= Some(*index),
                "node {id}: {server}'s acknowledged report at {index} is lost, the newest is at {known:?}"
            );
        }
    }

    /// At the end: counts the terms in which somebody campaigned and nobody won.
    pub fn finish(&mut self) {
        let without = self.campaigns.iter().filter(|term| !self.leaders.contains_key(term)).count();
        for _ in 0..without {
            self.coverage.count(Seen::TermWithoutLeader);
        }
    }
}
