//! What must be true of a cluster at every moment: Figure 3 of the paper, and what the promises of the disk demand. Each is
//! asserted after each step, against the whole history, crashes included.
//!
//! | property | where |
//! | --- | --- |
//! | Election Safety: at most one leader in a term | `leadership` |
//! | Leader Append-Only: a leader never overwrites or deletes entries in its log | `append_only` |
//! | Log Matching: equal (index, term) → equal up to there | `log_matching` |
//! | Leader Completeness: what is committed is in the logs of all later leaders | `completeness` |
//! | State Machine Safety: nobody applies another entry at the same index | `applied` |
//! | one vote per term over the whole history; a promise leaves only once the disk remembers it | `promise` |
//! | a commit is durable on a majority; first known to a leader of the entry's own term | `commits` |
//! | a leader's match index is never above the peer's durable log, nor a node's durable index above its own | `matches`, `after_step` |
//! | each proposal is resolved exactly once, and truly | `resolved`, `all_resolved` |
//!
//! Log Matching is checked by induction. The first node that appends an entry (index, term) fixes its command and its
//! predecessor. Every other node that appends it must have the same ones. This costs one look-up per entry instead of a
//! comparison of all pairs of logs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use rakit::raft::{
    AppendResult, Apply, Command, Durable, Entry, Index, NodeId, Output, ProposalId, Raft, Record,
    Resolution, RpcReply, RpcRequest, SendOnceDurable, Term,
};

use super::{Cluster, Disk, Machine};

/// A committed entry, and the term of the leader that committed it.
#[derive(Clone, Debug)]
struct Committed {
    term: Term,
    command: Command,
    in_term: Term,
}

/// A client's command and its fate.
#[derive(Clone, Debug)]
struct Proposal {
    node: NodeId,
    command: Command,
    resolution: Option<Resolution>,
    /// Its node crashed before it was resolved: the client's connection is gone with it.
    orphaned: bool,
}

/// What a node showed after its last step, in this incarnation.
#[derive(Clone, Copy, Debug)]
struct Shown {
    term: Term,
    commit_index: Index,
    applied_index: Index,
    /// (term, last index, its term) if it led.
    led: Option<(Term, Index, Term)>,
}

/// The history of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// (index, term) → (term of the predecessor, command).
    entries: BTreeMap<(Index, Term), (Term, Command)>,
    committed: BTreeMap<Index, Committed>,
    digests: BTreeMap<Index, u64>,
    proposals: BTreeMap<ProposalId, Proposal>,
    shown: BTreeMap<NodeId, Shown>,
    /// Changes of members: at which node, and what became of them.
    pub changes: BTreeMap<ProposalId, (NodeId, Option<Resolution>)>,
    /// What was durable on disks that were emptied since, and counted: (index, term), by node.
    forgotten: BTreeMap<NodeId, BTreeSet<(Index, Term)>>,
}

impl Properties {
    // --------------------------------------------------------------------------------------- what the harness tells

    /// A test begins with logs of its own making.
    pub fn presume_entries(&mut self, entries: &[Entry]) {
        let mut previous = 0;
        for entry in entries {
            self.entries.insert((entry.index, entry.term), (previous, entry.command.clone()));
            previous = entry.term;
        }
    }

    /// A test begins with a committed entry.
    pub fn presume_committed(&mut self, entry: &Entry, digest: u64) {
        let (term, command) = (entry.term, entry.command.clone());
        self.committed.insert(entry.index, Committed { term, command, in_term: term });
        self.digests.insert(entry.index, digest);
    }

    pub fn proposed(&mut self, id: ProposalId, node: NodeId, command: &Command) {
        let proposal = Proposal { node, command: command.clone(), resolution: None, orphaned: false };
        assert!(self.proposals.insert(id, proposal).is_none(), "proposal numbers are not used twice");
    }

    /// A process died or was started: its volatile state is gone.
    pub fn crashed(&mut self, node: NodeId) {
        self.shown.remove(&node);
        for proposal in self.proposals.values_mut() {
            proposal.orphaned |= proposal.node == node && proposal.resolution.is_none();
        }
    }

    /// A node's disk was emptied. What it had acknowledged stays acknowledged.
    pub fn wiped(&mut self, node: NodeId, lost: &Disk) {
        if !lost.hard_state.joining {
            let places = lost.entries.iter().map(|entry| (entry.index, entry.term));
            self.forgotten.entry(node).or_default().extend(places);
        }
    }

    // ------------------------------------------------------------------------------------------------- the checks

    /// After a step of `id` with this output, before anything of it was done.
    pub fn after_step(cluster: &mut Cluster, id: NodeId, output: &Output) {
        let mut history = std::mem::take(&mut cluster.properties);
        let raft = cluster.raft(id);
        let shown = history.shown.get(&id).copied();
        history.log_matching(id, raft, output);
        history.append_only(id, raft, output, shown);
        history.leadership(id, raft);
        history.commits(cluster, id, raft, shown);
        history.completeness(cluster, id, raft, shown);
        history.matches(cluster, id, raft);
        // The disk reports that an entry was written. This says nothing about another entry that took its place since.
        if let Some(term) = raft.log().term_at(raft.durable_index()) {
            let durable = cluster.node(id).disk.covers(raft.durable_index(), term);
            assert!(durable, "node {id} believes index {} durable on its own disk", raft.durable_index());
        }
        if let Some(shown) = shown {
            assert!(raft.hard_state().term >= shown.term, "node {id}: the term went back");
            assert!(raft.commit_index() >= shown.commit_index, "node {id}: the commit index went back");
            assert!(raft.applied_index() >= shown.applied_index, "node {id}: the applied index went back");
        }
        let led = raft
            .is_leader()
            .then(|| (raft.hard_state().term, raft.log().last_index(), raft.log().last_term()));
        let shown = Shown {
            term: raft.hard_state().term,
            commit_index: raft.commit_index(),
            applied_index: raft.applied_index(),
            led,
        };
        history.shown.insert(id, shown);
        cluster.properties = history;
    }

    /// Figure 3, Election Safety.
    fn leadership(&mut self, id: NodeId, raft: &Raft) {
        if raft.is_leader() {
            let term = raft.hard_state().term;
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "Election Safety: two leaders in term {term}");
        }
    }

    /// Figure 3, Leader Append-Only.
    fn append_only(&mut self, id: NodeId, raft: &Raft, output: &Output, shown: Option<Shown>) {
        let Some((term, last_index, last_term)) = shown.and_then(|shown| shown.led) else { return };
        if !raft.is_leader() || raft.hard_state().term != term {
            return;
        }
        let truncates = |durable: &Durable| matches!(durable, Durable::Record(Record::Truncate { .. }));
        assert!(!output.durable.iter().any(truncates), "Leader Append-Only: leader {id} truncated its log");
        let log = raft.log();
        let kept = last_index < log.first_index() || log.term_at(last_index) == Some(last_term);
        assert!(kept && log.last_index() >= last_index, "Leader Append-Only: leader {id} lost entries");
    }

    /// Figure 3, Log Matching.
    fn log_matching(&mut self, id: NodeId, raft: &Raft, output: &Output) {
        let log = raft.log();
        for durable in &output.durable {
            let Durable::Record(Record::Entry(entry)) = durable else { continue };
            // An entry of this very output may be compacted already; then its predecessor is not known any more.
            let Some(previous) = log.term_at(entry.index - 1) else { continue };
            let known = self.entries.entry((entry.index, entry.term));
            let (first_previous, first_command) = known.or_insert((previous, entry.command.clone()));
            assert_eq!(*first_previous, previous, "Log Matching: node {id}, before index {}", entry.index);
            assert_eq!(*first_command, entry.command, "Log Matching: node {id}, index {}", entry.index);
        }
    }

    /// Checks what is newly committed. The rule of 5.4.2 and Figure 8: the leader counts replicas only for an entry of
    /// its own term. And it counts only replicas that are durable.
    fn commits(&mut self, cluster: &Cluster, id: NodeId, raft: &Raft, shown: Option<Shown>) {
        let before = shown.map_or(raft.snapshot_index(), |shown| shown.commit_index);
        for index in before + 1..=raft.commit_index() {
            // Inside a snapshot that was just installed: the digest is compared when it is applied.
            let Some(entry) = raft.log().get(index) else { continue };
            if let Some(known) = self.committed.get(&index) {
                assert_eq!(
                    (known.term, &known.command),
                    (entry.term, &entry.command),
                    "State Machine Safety: node {id} commits another entry at index {index}"
                );
                continue;
            }
            assert!(raft.is_leader(), "node {id} commits index {index} before any leader did");
            let in_term = raft.hard_state().term;
            self.committed
                .insert(index, Committed { term: entry.term, command: entry.command.clone(), in_term });
        }
        if raft.is_leader() && raft.commit_index() > before {
            let (index, term) = (raft.commit_index(), raft.hard_state().term);
            assert_eq!(
                raft.log().term_at(index),
                Some(term),
                "5.4.2: leader {id} counts replicas for an entry of an earlier term (Figure 8)"
            );
            let holders =
                cluster.nodes.iter().filter(|(id, _)| raft.members().is_voter(**id)).filter(|(id, node)| {
                    let held = self.forgotten.get(*id).is_some_and(|places| places.contains(&(index, term)));
                    held || node.disk.covers(index, term) && !node.disk.hard_state.joining
                });
            let holders = holders.count();
            assert!(
                holders >= raft.majority(),
                "leader {id} commits index {index}, which is durable on {holders} nodes that count only"
            );
        }
    }

    /// Figure 3, Leader Completeness.
    fn completeness(&self, cluster: &Cluster, id: NodeId, raft: &Raft, shown: Option<Shown>) {
        let holds = |raft: &Raft, index: Index, entry: &Committed| {
            index < raft.log().first_index() || raft.log().term_at(index) == Some(entry.term)
        };
        let term = raft.hard_state().term;
        let new_leader =
            raft.is_leader() && shown.and_then(|shown| shown.led).is_none_or(|led| led.0 != term);
        if new_leader {
            for (index, entry) in self.committed.iter().filter(|(_, entry)| entry.in_term < term) {
                assert!(
                    holds(raft, *index, entry),
                    "Leader Completeness: leader {id} of term {term} lacks the committed index {index}"
                );
            }
        }
        let before = shown.map_or(0, |shown| shown.commit_index);
        if raft.is_leader() && raft.commit_index() > before {
            // Committed only now, by a leader of an older term: the leaders of newer terms have it already.
            for (other, later) in cluster.up().filter(|(_, other)| other.is_leader()) {
                for (index, entry) in self.committed.range(before + 1..=raft.commit_index()) {
                    assert!(
                        later.hard_state().term <= entry.in_term || holds(later, *index, entry),
                        "Leader Completeness: leader {other} lacks index {index}, which leader {id} commits"
                    );
                }
            }
        }
    }

    /// What a leader believes of a peer's log is true of the peer's disk.
    fn matches(&self, cluster: &Cluster, id: NodeId, raft: &Raft) {
        if !raft.is_leader() {
            return;
        }
        for (peer, node) in &cluster.nodes {
            let Some((match_index, _)) = raft.progress(*peer) else { continue };
            // The leader may not know yet that the peer's disk was emptied.
            let is_known =
                raft.known_life(*peer).is_some_and(|life| life.incarnation == node.settings.incarnation);
            // A peer that follows a newer leader may have given up what this one still counts on.
            if match_index == 0 || !is_known || node.disk.hard_state.term > raft.hard_state().term {
                continue;
            }
            let Some(term) = raft.log().term_at(match_index) else { continue };
            assert!(
                node.disk.covers(match_index, term),
                "leader {id} believes index {match_index} durable on node {peer}"
            );
        }
    }

    /// A message that is a promise leaves `id`: the promise must already be on its disk.
    pub fn promise(cluster: &mut Cluster, id: NodeId, send: &SendOnceDurable) {
        let disk = &cluster.node(id).disk;
        let vote = match send {
            SendOnceDurable::Request { request: RpcRequest::RequestVote(arguments), .. } => {
                Some((arguments.term, arguments.candidate_id))
            }
            SendOnceDurable::Reply { to, reply: RpcReply::RequestVote(reply), .. } if reply.vote_granted => {
                Some((reply.for_term, *to))
            }
            SendOnceDurable::Reply { reply: RpcReply::AppendEntries(reply), .. } => {
                if let AppendResult::Success { match_index } = reply.result {
                    let last = disk.last_index();
                    assert!(
                        match_index <= last,
                        "node {id} acknowledges {match_index}, its disk ends at {last}"
                    );
                }
                None
            }
            SendOnceDurable::Reply { reply: RpcReply::InstallSnapshot(reply), .. } if reply.installed => {
                assert!(
                    reply.last_included_index <= disk.last_index(),
                    "node {id} acknowledges a snapshot that its disk does not have"
                );
                None
            }
            _ => None,
        };
        if let Some((term, candidate)) = vote {
            assert!(!disk.hard_state.joining, "node {id} votes while it is joining");
            assert!(
                disk.hard_state.term > term
                    || (disk.hard_state.term, disk.hard_state.voted_for) == (term, Some(candidate)),
                "node {id} votes for {candidate} in term {term}, and its disk does not know"
            );
            let first = *cluster.properties.votes.entry((term, id)).or_insert(candidate);
            assert_eq!(first, candidate, "node {id} votes twice in term {term}");
        }
    }

    /// Figure 3, State Machine Safety, as far as the state machines themselves.
    pub fn applied(&mut self, id: NodeId, apply: &Apply, machine: Machine) {
        let digest = *self.digests.entry(machine.index).or_insert(machine.digest);
        assert_eq!(
            digest, machine.digest,
            "State Machine Safety: node {id} has another state after index {}",
            machine.index
        );
        if let Apply::Entry(entry) = apply {
            let committed = self.committed.get(&entry.index);
            let same =
                committed.is_some_and(|known| (known.term, &known.command) == (entry.term, &entry.command));
            assert!(same, "node {id} applies index {}, which is not committed so", entry.index);
        }
    }

    /// A client gets its answer.
    pub fn resolved(&mut self, id: ProposalId, resolution: Resolution) {
        if let Some((_, before)) = self.changes.get_mut(&id) {
            assert_eq!(*before, None, "change {id} is resolved twice");
            *before = Some(resolution);
            return;
        }
        let proposal = self.proposals.get_mut(&id).expect("only what was proposed is resolved");
        assert_eq!(proposal.resolution, None, "proposal {id} is resolved twice");
        proposal.resolution = Some(resolution);
        if let Resolution::Committed { index, term } = resolution {
            let entry = self.committed.get(&index).expect("it says that it is committed");
            assert_eq!((entry.term, &entry.command), (term, &proposal.command), "proposal {id} is another's");
        }
    }

    /// In a settled cluster, every client has its answer, and the answers are true.
    pub fn all_resolved(&self) {
        for (id, proposal) in &self.proposals {
            let places = || self.entries.values().filter(|(_, command)| *command == proposal.command).count();
            match proposal.resolution {
                None => {
                    assert!(proposal.orphaned, "proposal {id} at node {} was never resolved", proposal.node)
                }
                Some(Resolution::NotLeader { .. } | Resolution::Busy | Resolution::Refused(_)) => {
                    assert_eq!(places(), 0, "proposal {id} was refused, but is in a log");
                }
                Some(Resolution::Committed { .. } | Resolution::Unknown) => {}
            }
        }
    }

    // -------------------------------------------------------------------------------------------------- questions

    /// Whether a client still waits for the answer of a process that lives.
    pub fn somebody_waits(&self) -> bool {
        self.proposals.values().any(|proposal| proposal.resolution.is_none() && !proposal.orphaned)
    }

    /// The state of a change so far.
    pub fn change_of(&self, id: ProposalId) -> Option<Resolution> {
        self.changes.get(&id).and_then(|(_, resolution)| *resolution)
    }

    /// The state of a proposal so far.
    pub fn resolution_of(&self, id: ProposalId) -> Option<Resolution> {
        self.proposals.get(&id).and_then(|proposal| proposal.resolution)
    }

    /// The index and term at which a proposal was committed, by the answer to its client.
    pub fn committed_index_of(&self, id: ProposalId) -> Option<Index> {
        match self.resolution_of(id) {
            Some(Resolution::Committed { index, .. }) => Some(index),
            _ => None,
        }
    }

    /// How many leaders there have been.
    pub fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// The highest index that is known to be committed.
    pub fn committed_index(&self) -> Index {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The part of the history that decides whether a later step is an offence. (Earlier entries, digests and the votes of
    /// terms that nobody is in any more cannot matter again; the explorer would only see more states.)
    pub fn fingerprint(&self, oldest_term: Term, hasher: &mut impl Hasher) {
        for (term, leader) in self.leaders.range(oldest_term..) {
            (0_u8, term, leader).hash(hasher);
        }
        for (place, candidate) in self.votes.range((oldest_term, 0)..) {
            (1_u8, place, candidate).hash(hasher);
        }
        (3_u8, &self.forgotten).hash(hasher);
        for (index, entry) in &self.committed {
            (2_u8, index, entry.term, entry.in_term).hash(hasher);
        }
    }
}
