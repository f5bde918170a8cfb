-------------------------------- MODULE Raft --------------------------------
(***************************************************************************)
(* Rakit's Raft, written from the paper and the thesis: what a node may do,*)
(* step by step, and nothing about when.                                   *)
(*                                                                         *)
(* A node's state is one record.  Each rule is a function from such a      *)
(* record to the next one, so that a rule reads as the text it comes from. *)
(* An action gives one node its next record, and puts messages into the    *)
(* network.  The network is a set.  A message in it may arrive at any time,*)
(* several times, or never: so loss, duplicates and reordering need no     *)
(* rules of their own.                                                     *)
(*                                                                         *)
(* Time is left out.  Wherever a clock decides in the code, the            *)
(* specification lets both happen.  Safety must not depend on clocks.      *)
(*                                                                         *)
(* RaftCheck.tla lets TLC visit all states at small bounds.  RaftTrace.tla *)
(* holds a recorded run of the simulator against these actions.            *)
(* README.md tells how to run both.                                        *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Server,    \* The nodes: all that are, or may become, members.
    Nil,       \* No node.
    Lost,      \* Types of messages that always get lost (fewer states).  Usually none.
    Clocks,    \* TRUE: a node remembers that it heard its leader just now.  FALSE: it never does (fewer states).
    Joins,     \* TRUE: a fresh directory is a joining one.  FALSE: it is a full member at once, which is unsafe after a loss.
    DiskLags   \* FALSE: what is written is durable at once.  TRUE: a write takes its time, and a crash may lose it.

VARIABLES
    node,      \* The state of each node.
    network,   \* The messages that may still arrive.
    lists,     \* The lists of members that were ever appended: which entry carries which.
    together   \* History.  Who was fresh and joining at one time, as pairs of node and life: one set for each such time.

Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b

(***************************************************************************)
(* A log is a sequence of terms.  An entry is known by its index and its   *)
(* term: a leader writes at most one entry at each index of its term.  So  *)
(* the command adds nothing here.                                          *)
(*                                                                         *)
(* A compacted log keeps its entries here, and snap says up to where they  *)
(* are in the snapshot.  For what a snapshot holds is what those entries   *)
(* come to.                                                                *)
(***************************************************************************)
TermAt(log, index) == IF index = 0 THEN 0 ELSE log[index]
LastTerm(log) == TermAt(log, Len(log))
Holds(log, index, term) == index = 0 \/ (index <= Len(log) /\ log[index] = term)

-----------------------------------------------------------------------------
(* Members: chapter 4 of the thesis.  An entry may carry a whole list of   *)
(* members.  Index and term name that entry, so the logs stay as they are, *)
(* and `lists` says what it carries.  The first list is the founding's.    *)
(*                                                                         *)
(* A node goes by the newest list in its log, committed or not (4.1).  If  *)
(* the entry is truncated, it goes back to the list before.  Appends and   *)
(* snapshots bring the entries, and with them the lists.                   *)

FoundingTerm == 1
FoundingList(founders) == [index |-> 1, term |-> FoundingTerm, voters |-> founders, learners |-> {}]
Founders == (CHOOSE l \in lists : l.index = 1).voters

\* The newest of these lists in this log.
NewestOf(all, log) ==
    LET held == {l \in all : Holds(log, l.index, l.term)} IN
    CHOOSE l \in held : \A other \in held : other.index <= l.index
Newest(log) == NewestOf(lists, log)
Voters(log) == Newest(log).voters
Members(log) == Newest(log).voters \cup Newest(log).learners

\* Only voters count: no learner, and nobody who was removed, not even a leader or candidate itself (4.2.1, 4.2.2).
IsMajority(nodes, voters) == 2 * Cardinality(nodes \cap voters) > Cardinality(voters)
Quorum(nodes, log) == IsMajority(nodes, Voters(log))

\* A voter may campaign.  So may one that is being removed, while it does not know that this is committed: of two nodes,
\* perhaps only it can win (4.2.2).
MayCampaign(n, s) ==
    \/ n \in Voters(s.log)
    \/ /\ n \notin Members(s.log) /\ Newest(s.log).index > Max(s.commit, 1)
       /\ n \in Voters(SubSeq(s.log, 1, Newest(s.log).index - 1))

\* The lists that one change makes of the newest one.  (When a learner has caught up is a matter of speed.)
NextLists(log) ==
    LET v == Voters(log)
        l == Newest(log).learners
    IN  {[voters |-> v, learners |-> l \cup {p}] : p \in Server \ (v \cup l)}
        \cup {[voters |-> v \cup {p}, learners |-> l \ {p}] : p \in l}
        \cup {[voters |-> v, learners |-> l \ {p}] : p \in l}
        \cup {[voters |-> v \ {p}, learners |-> l] : p \in IF Cardinality(v) > 1 THEN v ELSE {}}

-----------------------------------------------------------------------------
(* The disk.  It is a fold of records: what a write appends to the log     *)
(* file, one record after the other.  A crash may keep any number of the   *)
(* first records of what was not durable yet.                              *)

\* A fresh directory holds the founding: the first entry of every log, in a term without leader (src/raft/founding.rs).
FreshDisk(life) ==
    [term |-> FoundingTerm, voted |-> Nil, joining |-> Joins, life |-> life, log |-> <<FoundingTerm>>, snap |-> 0]

HardState(term, voted, joining) == [kind |-> "hard state", term |-> term, voted |-> voted, joining |-> joining]
Truncate(from) == [kind |-> "truncate", from |-> from]
Entry(term) == [kind |-> "entry", term |-> term]
Replace(disk) == [kind |-> "replace", disk |-> disk]

Replay(disk, record) ==
    CASE record.kind = "hard state" -> [disk EXCEPT !.term = record.term, !.voted = record.voted,
                                                   !.joining = record.joining]
      [] record.kind = "truncate"   -> [disk EXCEPT !.log = SubSeq(@, 1, record.from - 1)]
      [] record.kind = "entry"      -> [disk EXCEPT !.log = Append(@, record.term)]
      [] record.kind = "replace"    -> record.disk

RECURSIVE ReplayAll(_, _)
ReplayAll(disk, records) ==
    IF records = <<>> THEN disk ELSE ReplayAll(Replay(disk, Head(records)), Tail(records))

Write(s, records) ==
    IF DiskLags THEN [s EXCEPT !.pending = @ \o records] ELSE [s EXCEPT !.disk = ReplayAll(@, records)]

-----------------------------------------------------------------------------
(* The state of one node.                                                  *)

NoMatch == [p \in Server |-> 0]

\* A process that starts, with what its disk remembers.  Only the snapshot is known to be committed.
Started(disk) == [
    role    |-> "follower",
    term    |-> disk.term,    \* Figure 2: currentTerm
    voted   |-> disk.voted,   \* Figure 2: votedFor
    log     |-> disk.log,     \* Figure 2: log[]
    snap    |-> disk.snap,    \* The entries up to here are in the snapshot.
    joining |-> disk.joining, \* Whether it may have forgotten promises, so that it makes none.
    life    |-> disk.life,    \* Which of this node's directories it runs on.
    commit  |-> disk.snap,    \* Figure 2: commitIndex
    leader  |-> Nil,          \* Whom it follows; itself, if it leads.
    hears   |-> FALSE,        \* Whether it heard that leader within the lower election timeout (thesis 4.2.3).
    hinted  |-> FALSE,        \* Whether it has a hint that the leader's process died, and no word since.
    votes   |-> {},           \* As candidate: who voted for it.  As pre-candidate: who would.
    match   |-> NoMatch,      \* As leader: Figure 2's matchIndex[].
    lifeOf  |-> NoMatch,      \* As leader: the life of each peer, as last heard; 0 if not yet.
    barrier |-> NoMatch,      \* As leader: a joining peer counts once this entry is committed without it; 0: it counts.
    disk    |-> disk,         \* What a crash leaves for certain.
    pending |-> <<>>,         \* Records on their way to the disk.
    held    |-> {}            \* Promises that wait for the disk: each with the number of records before it.
  ]

(***************************************************************************)
(* Node n comes to state s.  `now` leaves at once.  `promises` leave when  *)
(* everything that was written before them is durable: Figure 2, "updated  *)
(* on stable storage before responding to RPCs".  `used` will not arrive   *)
(* again: TLC need not carry it on.                                        *)
(***************************************************************************)
Become(n, s, now, promises, used) ==
    LET waits == Len(s.pending) IN
    /\ node' = [node EXCEPT ![n] =
           IF waits = 0 THEN s
           ELSE [s EXCEPT !.held = @ \cup {[after |-> waits, message |-> m] : m \in promises}]]
    /\ network' = (network \ used)
           \cup {m \in now \cup (IF waits = 0 THEN promises ELSE {}) : m.type \notin Lost}
    /\ UNCHANGED <<lists, together>>

-----------------------------------------------------------------------------
(* Changes of role (Figure 4).                                             *)

\* Figure 2, "All Servers": a newer term makes a follower.  Also: a leader of the own term was found.
Follow(s, term, leader) ==
    LET newer == term > s.term IN
    Write([s EXCEPT !.role = "follower", !.term = term, !.voted = IF newer THEN Nil ELSE @, !.leader = leader,
                    !.hears = @ /\ leader # Nil, !.votes = {},
                    !.match = NoMatch, !.lifeOf = NoMatch, !.barrier = NoMatch],
          IF newer THEN <<HardState(term, Nil, s.joining)>> ELSE <<>>)

\* 5.2: a new term, and a vote for itself.  The own vote counts once it is durable: see Durable.
Candidate(n, s) ==
    Write([s EXCEPT !.role = "candidate", !.term = @ + 1, !.voted = n, !.leader = Nil, !.hears = FALSE,
                    !.votes = IF DiskLags THEN {} ELSE {n}],
          <<HardState(s.term + 1, n, FALSE)>>)

\* Section 8: a leader begins with an entry of its own term.
Leader(n, s) ==
    Write([s EXCEPT !.role = "leader", !.leader = n, !.hears = FALSE, !.hinted = FALSE, !.votes = {},
                    !.match = NoMatch, !.log = Append(@, s.term)],
          <<Entry(s.term)>>)

-----------------------------------------------------------------------------
(* Messages.  A refusal tells its term and nothing else that matters:      *)
(* where the leader looks next for the end of a follower's log is a matter *)
(* of speed.                                                               *)

AskVote(n, p, s, type, term, transfer) ==
    [type |-> type, from |-> n, to |-> p, term |-> term, last |-> Len(s.log), lastTerm |-> LastTerm(s.log),
     transfer |-> transfer]

\* A candidate asks the voters of its list.
VoteRequests(n, s, to, transfer) ==
    {AskVote(n, p, s, "request-vote", s.term, transfer) : p \in to \cap Voters(s.log)}

Refusal(n, p, s) == [type |-> "refusal", from |-> n, to |-> p, term |-> s.term]

\* The replies of a follower to its leader say which life of it speaks, and whether it counts.
Mismatched(n, p, s) ==
    [type |-> "no match", from |-> n, to |-> p, term |-> s.term, life |-> s.life, joining |-> s.joining]
Matched(n, p, s, index) ==
    [type |-> "match", from |-> n, to |-> p, term |-> s.term, index |-> index, life |-> s.life, joining |-> s.joining]

-----------------------------------------------------------------------------
(* Joining.  A node whose directory was lost has forgotten its promises: a *)
(* vote, an acknowledgement.  So a fresh directory makes none, until one   *)
(* of two things has shown that the forgotten ones do no harm.             *)
(*                                                                         *)
(* By a leader: it appends an entry when it hears of the new life, and a   *)
(* majority without this node commits it.  Whoever could still win with a  *)
(* forgotten vote needs a voter of that majority, and that voter has an    *)
(* entry which the candidate lacks.                                        *)
(*                                                                         *)
(* By the founding: nodes that were fresh and joining at one time, and are *)
(* a majority, begin.  Once anybody voted, a majority counted, so there is *)
(* no such time again while a majority goes on counting.  How nodes find   *)
(* such a time out (two rounds of questions, src/raft/joining.rs) is left  *)
(* out; that there was one is what is checked.                             *)

\* A leader hears of a life of a peer: what it knew of another life's log is void.  A joining one gets a barrier: an entry
\* that is younger than this life.
TakeNote(s, m) ==
    LET anew == s.lifeOf[m.from] # m.life
        t == IF anew THEN [s EXCEPT !.match[m.from] = 0, !.barrier[m.from] = 0, !.lifeOf[m.from] = m.life] ELSE s
    \* Who was removed does not count anyway, and is not admitted.
    IN  IF ~m.joining \/ m.from \notin Members(t.log) THEN [t EXCEPT !.barrier[m.from] = 0]
        ELSE IF t.barrier[m.from] # 0 THEN t
        ELSE Write([t EXCEPT !.log = Append(@, s.term), !.barrier[m.from] = Len(s.log) + 1], <<Entry(s.term)>>)

\* What an append to p, up to index last, says of its admission: the life that is meant, and the barrier that it must have.
NotAdmitted == <<0, 0>>
Admits(s, p, last) ==
    IF s.barrier[p] # 0 /\ Min(s.commit, last) >= s.barrier[p] THEN <<s.lifeOf[p], s.barrier[p]>> ELSE NotAdmitted

IsFresh(s) == s.term = FoundingTerm /\ Len(s.log) = 1 /\ s.snap = 0

\* If all first members are fresh at one time, joining or not, nobody remembers anything.  Other nodes found nothing.
Moments(nodes) ==
    LET all == {<<n, nodes[n].life>> : n \in {n \in Founders : IsFresh(nodes[n])}}
        joining == {<<n, nodes[n].life>> : n \in {n \in Founders : IsFresh(nodes[n]) /\ nodes[n].joining}}
    IN  {joining} \cup (IF Cardinality(all) = Cardinality(Founders) THEN {all} ELSE {})

Init(founders) ==
    /\ lists = {FoundingList(founders)}
    /\ node = [n \in Server |-> Started(FreshDisk(1))]
    /\ network = {}
    /\ together = Moments(node)

Found(n, founders) ==
    LET s == node[n] IN
    /\ s.joining /\ IsFresh(s)
    /\ <<n, s.life>> \in founders /\ IsMajority({f[1] : f \in founders}, Founders)
    /\ \E moment \in together : founders \subseteq moment
    \* Two records: with whom, and that it counts.
    /\ Become(n, Write([s EXCEPT !.joining = FALSE],
                       <<HardState(s.term, s.voted, TRUE), HardState(s.term, s.voted, FALSE)>>), {}, {}, {})

\* Time: a joining node does not campaign when it hears no leader.  Nor does who is no voter.
LoseLeader(n) ==
    LET s == node[n] IN
    /\ s.joining \/ ~MayCampaign(n, s)
    /\ s.leader # Nil
    /\ Become(n, [s EXCEPT !.leader = Nil, !.hears = FALSE], {}, {}, {})

-----------------------------------------------------------------------------
(* Elections.  In each action that sends, `to` or `kept` says which of its *)
(* messages can still arrive.  RaftCheck.tla keeps all.                    *)

\* Time: the lower election timeout has passed since the last word of the leader.
Quiet(n) ==
    /\ node[n].hears
    /\ Become(n, [node[n] EXCEPT !.hears = FALSE], {}, {}, {})

\* The connection to the leader's process was refused (docs/raft.md, "The death hint").  It may be wrong.
LeaderGone(n) ==
    LET s == node[n] IN
    /\ s.role = "follower" /\ s.leader # Nil
    /\ Become(n, [s EXCEPT !.hears = FALSE, !.hinted = TRUE], {}, {}, {})

\* Thesis 9.6: whoever heard no leader asks first whether it could win.  Term and vote stay as they are.  After a hint
\* it keeps its leader, for the hint may be wrong.
AskPreVotes(n, to, keepsLeader) ==
    LET s == node[n] IN
    /\ s.role # "leader" /\ ~s.joining /\ MayCampaign(n, s)
    /\ keepsLeader => s.hinted
    /\ LET t == [s EXCEPT !.role = "pre-candidate", !.votes = {n},
                          !.leader = IF keepsLeader THEN @ ELSE Nil, !.hears = @ /\ keepsLeader] IN
       Become(n, t, {AskVote(n, p, s, "pre-vote", s.term + 1, FALSE) : p \in to \cap Voters(s.log)}, {}, {})

\* A round of pre-votes cannot be won, or another node goes first.
GiveUp(n) ==
    /\ node[n].role = "pre-candidate"
    /\ Become(n, [node[n] EXCEPT !.role = "follower", !.votes = {}], {}, {}, {})

Campaign(n, to) ==
    /\ node[n].role = "pre-candidate" /\ Quorum(node[n].votes, node[n].log)
    /\ LET s == Candidate(n, node[n]) IN Become(n, s, {}, VoteRequests(n, s, to, FALSE), {})

Lead(n) ==
    /\ node[n].role = "candidate" /\ Quorum(node[n].votes, node[n].log)
    /\ Become(n, Leader(n, node[n]), {}, {}, {})

\* Thesis 6.2 (CheckQuorum): a leader without a majority steps down.
StepDown(n) ==
    /\ node[n].role = "leader"
    /\ Become(n, Follow(node[n], node[n].term, Nil), {}, {}, {})

\* Thesis 4.2.3: who leads, or heard a leader just now, neither votes nor takes the term over.  Nor who joins.  Who is asked
\* does not look whether it is a voter itself: the candidate may have a newer list (4.2.2).
Objects(s, m) == s.joining \/ (~(m.transfer /\ m.from \in Voters(s.log)) /\ (s.role = "leader" \/ s.hears))

\* 5.4.1
UpToDate(s, m) == m.lastTerm > LastTerm(s.log) \/ (m.lastTerm = LastTerm(s.log) /\ m.last >= Len(s.log))

ReceivePreVote(n, m, kept, used) ==
    LET s == node[n]
        granted == ~Objects(s, m) /\ m.term > s.term /\ UpToDate(s, m)
        reply == IF granted
                 THEN [type |-> "would-vote", from |-> n, to |-> m.from, term |-> s.term, for |-> m.term]
                 ELSE Refusal(n, m.from, s)
    IN  Become(n, s, {}, IF kept THEN {reply} ELSE {}, used)

\* Figure 2, RequestVote, receiver.
ReceiveRequestVote(n, m, kept, used) ==
    LET s == node[n]
        refused == Objects(s, m) \/ m.term < s.term
        t == IF ~refused /\ m.term > s.term THEN Follow(s, m.term, Nil) ELSE s
        granted == ~refused /\ t.voted \in {Nil, m.from} /\ UpToDate(t, m)
        u == IF granted /\ t.voted = Nil
             THEN Write([t EXCEPT !.voted = m.from, !.hinted = FALSE], <<HardState(t.term, m.from, FALSE)>>)
             ELSE t
        reply == IF granted THEN [type |-> "vote", from |-> n, to |-> m.from, term |-> u.term]
                 ELSE Refusal(n, m.from, u)
    IN  Become(n, u, {}, IF kept THEN {reply} ELSE {}, used)

ReceiveWouldVote(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil)
              ELSE IF s.role = "pre-candidate" /\ m.for = s.term + 1 THEN [s EXCEPT !.votes = @ \cup {m.from}]
              ELSE s,
           {}, {}, used)

ReceiveVote(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil)
              ELSE IF s.role = "candidate" /\ m.term = s.term THEN [s EXCEPT !.votes = @ \cup {m.from}]
              ELSE s,
           {}, {}, used)

ReceiveRefusal(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil)
              ELSE s,
           {}, {}, used)

\* A node may tell its term, or an earlier one, at any time: the comparison of digests does (src/replica/agreement.rs).
TellTerm(n, p, term) ==
    /\ term <= node[n].term
    /\ Become(n, node[n], {[type |-> "term", from |-> n, to |-> p, term |-> term]}, {}, {})

ReceiveTerm(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil) ELSE s, {}, {}, used)

\* Thesis 3.10: a leader hands over.
HandOver(n, p) ==
    LET s == node[n] IN
    /\ s.role = "leader"
    /\ Become(n, s, {[type |-> "timeout-now", from |-> n, to |-> p, term |-> s.term]}, {}, {})

ReceiveTimeoutNow(n, m, kept, to, used) ==
    LET s == node[n]
        obeys == m.term = s.term /\ s.leader = m.from /\ s.role # "leader" /\ ~s.joining /\ MayCampaign(n, s)
        t == IF obeys THEN Candidate(n, s) ELSE s
    IN  Become(n, t, {},
               (IF obeys THEN VoteRequests(n, t, to, TRUE) ELSE {}) \cup (IF kept THEN {Refusal(n, m.from, t)} ELSE {}),
               used)

-----------------------------------------------------------------------------
(* Replication.                                                            *)

\* 5.3: a leader appends what its clients want.
Propose(n, count) ==
    LET s == node[n]
        new == [i \in 1..count |-> s.term]
    IN  /\ s.role = "leader"
        /\ Become(n, Write([s EXCEPT !.log = @ \o new], [i \in 1..count |-> Entry(s.term)]), {}, {}, {})

\* An operator asks a leader for a change, or a learner has caught up.  4.1: a change begins only after the one before is
\* committed, and (the correction of 2015) only after an entry of the leader's own term is.
Change(n, list) ==
    LET s == node[n]
        index == Len(s.log) + 1
    IN  /\ s.role = "leader"
        /\ Newest(s.log).index <= s.commit
        /\ TermAt(s.log, s.commit) = s.term
        /\ list \in NextLists(s.log)
        /\ lists' = lists \cup {[index |-> index, term |-> s.term, voters |-> list.voters, learners |-> list.learners]}
        /\ node' = [node EXCEPT ![n] = Write([s EXCEPT !.log = Append(@, s.term)], <<Entry(s.term)>>)]
        /\ UNCHANGED <<network, together>>

AppendOf(n, p, term, log, commit, admit, prev, count) ==
    [type |-> "append", from |-> n, to |-> p, term |-> term, prev |-> prev, prevTerm |-> TermAt(log, prev),
     entries |-> SubSeq(log, prev + 1, prev + count), commit |-> commit, admit |-> admit]

SnapshotOf(n, p, term, log, index) ==
    [type |-> "snapshot", from |-> n, to |-> p, term |-> term, prefix |-> SubSeq(log, 1, index)]

\* A leader sends any part of its log.  nextIndex[] says which part helps, and is left out.
SendAppend(n, p, prev, count) ==
    LET s == node[n] IN
    /\ s.role = "leader" /\ prev + count <= Len(s.log)
    /\ Become(n, s, {AppendOf(n, p, s.term, s.log, s.commit, Admits(s, p, prev + count), prev, count)}, {}, {})

\* Section 7: a leader sends its snapshot, or one of a little earlier.
SendSnapshot(n, p, index) ==
    LET s == node[n] IN
    /\ s.role = "leader" /\ 0 < index /\ index <= s.snap
    /\ Become(n, s, {SnapshotOf(n, p, s.term, s.log, index)}, {}, {})

\* Figure 2, AppendEntries, 1.: not of an earlier term.  Nor of a second leader of this term.
AcceptsLeader(s, m) ==
    \/ m.term > s.term
    \/ m.term = s.term /\ m.term > 0 /\ s.role # "leader" /\ s.leader \in {Nil, m.from}

HeardLeader(s, m) == [Follow(s, m.term, m.from) EXCEPT !.hears = Clocks, !.hinted = FALSE]

\* Figure 2, AppendEntries, receiver.
ReceiveAppend(n, m, kept, used) ==
    LET s == node[n]
        accepts == AcceptsLeader(s, m)
        t == IF accepts THEN HeardLeader(s, m) ELSE s
        last == m.prev + Len(m.entries)
        conflicts == {i \in m.prev + 1 .. Min(last, Len(t.log)) : t.log[i] # m.entries[i - m.prev]}
        \* 2. The entry before must match.  A committed entry is never contradicted.
        fits == accepts /\ Holds(t.log, m.prev, m.prevTerm) /\ \A i \in conflicts : i > t.commit
        \* 3. A conflict, and all that follows it, goes; only then.
        agrees == IF conflicts = {} THEN Max(Len(t.log), m.prev)
                  ELSE (CHOOSE i \in conflicts : \A j \in conflicts : i <= j) - 1
        \* 4. What is new is appended.
        new == IF agrees >= last THEN <<>> ELSE SubSeq(m.entries, agrees - m.prev + 1, Len(m.entries))
        \* The leader admits this life of this node, and it has all up to the barrier: it is a full member from here on.
        \* It may have voted in this term, in an earlier life: then for this leader, the only one that was elected.
        admitted == t.joining /\ m.admit[1] = t.life /\ last >= m.admit[2]
        u == Write([t EXCEPT !.log = SubSeq(@, 1, agrees) \o new,
                             \* 5. Only what this request verified can be committed by it.
                             !.commit = Max(@, Min(m.commit, last)),
                             !.joining = @ /\ ~admitted,
                             !.voted = IF admitted THEN m.from ELSE @],
                   (IF conflicts = {} THEN <<>> ELSE <<Truncate(agrees + 1)>>)
                       \o [i \in 1..Len(new) |-> Entry(new[i])]
                       \o (IF admitted THEN <<HardState(t.term, m.from, FALSE)>> ELSE <<>>))
    IN  IF fits THEN Become(n, u, {}, IF kept THEN {Matched(n, m.from, u, last)} ELSE {}, used)
        ELSE Become(n, t, {}, IF kept THEN {Mismatched(n, m.from, t)} ELSE {}, used)

\* Figure 13.  `whole`: this was the last chunk.  All chunks of a snapshot are one message here.
ReceiveSnapshot(n, m, whole, kept, used) ==
    LET s == node[n]
        accepts == AcceptsLeader(s, m)
        t == IF accepts THEN HeardLeader(s, m) ELSE s
        index == Len(m.prefix)
        \* Entries after the snapshot stay if the log has its last entry (Figure 13, 6.).
        log == IF Holds(t.log, index, m.prefix[index]) THEN t.log ELSE m.prefix
        u == Write([t EXCEPT !.log = log, !.snap = index, !.commit = index],
                   <<Replace([term |-> t.term, voted |-> t.voted, joining |-> t.joining, life |-> t.life, log |-> log,
                              snap |-> index])>>)
        reply(answer) == IF kept THEN {answer} ELSE {}
    IN  IF accepts /\ index <= t.commit THEN Become(n, t, {}, reply(Matched(n, m.from, t, index)), used)
        ELSE IF accepts /\ whole THEN Become(n, u, {}, reply(Matched(n, m.from, u, index)), used)
        ELSE Become(n, t, {}, reply(Mismatched(n, m.from, t)), used)

ReceiveNoMatch(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil)
              ELSE IF s.role = "leader" /\ m.term = s.term THEN TakeNote(s, m)
              ELSE s,
           {}, {}, used)

ReceiveMatch(n, m, used) ==
    LET s == node[n] IN
    Become(n, IF m.term > s.term THEN Follow(s, m.term, Nil)
              ELSE IF s.role = "leader" /\ m.term = s.term /\ m.index <= Len(s.log)
                   THEN [TakeNote(s, m) EXCEPT !.match[m.from] = Max(@, m.index)]
              ELSE s,
           {}, {}, used)

\* A leader forgets what it knew of a peer's log: the peer runs on another data directory, or its disk lost entries.
Forget(n, p) ==
    /\ node[n].role = "leader"
    /\ Become(n, [node[n] EXCEPT !.match[p] = 0, !.lifeOf[p] = 0, !.barrier[p] = 0], {}, {}, {})

\* 5.4.2: only an entry of the leader's own term is committed by counting, and the leader counts with its own disk.
AdvanceCommit(n, index) ==
    LET s == node[n]
        have == {p \in Server \ {n} : s.match[p] >= index /\ s.barrier[p] = 0}
                    \cup (IF Holds(s.disk.log, index, TermAt(s.log, index)) THEN {n} ELSE {})
    IN  /\ s.role = "leader" /\ s.commit < index /\ index <= Len(s.log)
        /\ s.log[index] = s.term
        /\ Quorum(have, s.log)
        /\ Become(n, [s EXCEPT !.commit = index], {}, {}, {})

\* Section 7: what is applied may go into a snapshot.
Compact(n, index) ==
    LET s == node[n] IN
    /\ s.snap < index /\ index <= s.commit
    /\ Become(n, Write([s EXCEPT !.snap = index],
                       <<Replace([term |-> s.term, voted |-> s.voted, joining |-> s.joining, life |-> s.life,
                                  log |-> s.log, snap |-> index])>>), {}, {}, {})

-----------------------------------------------------------------------------
(* The disk, and crashes.                                                  *)

\* The first `count` records that were on their way are durable now.  So promises that waited for them leave, and a
\* candidate's vote for itself counts.
Durable(n, count) ==
    LET s == node[n]
        disk == ReplayAll(s.disk, SubSeq(s.pending, 1, count))
        ownVote == s.role = "candidate" /\ disk.term = s.term /\ disk.voted = n
    IN  /\ 0 < count /\ count <= Len(s.pending)
        /\ node' = [node EXCEPT ![n] = [s EXCEPT
               !.disk = disk,
               !.pending = SubSeq(@, count + 1, Len(@)),
               !.votes = IF ownVote THEN @ \cup {n} ELSE @,
               !.held = {[h EXCEPT !.after = @ - count] : h \in {h \in s.held : h.after > count}}]]
        /\ network' = network
               \cup {m \in {h.message : h \in {h \in s.held : h.after <= count}} : m.type \notin Lost}
        /\ UNCHANGED <<lists, together>>

\* The process dies and is started again.  Any first part of what was on its way to the disk may have got there.  The disk
\* may also remember a commit index, not the newest perhaps (docs/storage.md, "The commit hint").
Restart(n, count, remembered) ==
    LET s == node[n]
        t == Started(ReplayAll(s.disk, SubSeq(s.pending, 1, count)))
    IN  /\ count <= Len(s.pending)
        /\ remembered = t.commit \/ (t.commit < remembered /\ remembered <= s.commit /\ remembered <= Len(t.log))
        /\ node' = [node EXCEPT ![n] = [t EXCEPT !.commit = remembered]]
        /\ UNCHANGED <<network, lists, together>>

\* A directory is lost, and the node comes back with an empty one.  It has forgotten what it promised.
Wipe(n) ==
    /\ node' = [node EXCEPT ![n] = Started(FreshDisk(node[n].life + 1))]
    /\ together' = together \cup Moments(node')
    /\ UNCHANGED <<network, lists>>

=============================================================================
