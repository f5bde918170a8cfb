------------------------------- MODULE Members -------------------------------
(***************************************************************************)
(* How the members change: chapter 4 of the thesis, one node at a time.    *)
(* For TLC: all states within small bounds, and what must hold in each.    *)
(* The code is src/raft/members.rs.                                        *)
(*                                                                         *)
(* Raft.tla has the whole protocol with fixed members.  This module has    *)
(* the part of it that a change touches: who may campaign, whose votes and *)
(* acknowledgements count, when a leader may append a list.  All disks     *)
(* work at once, and nobody loses a directory.                             *)
(*                                                                         *)
(* Messages are not kept.  What a message can do is done when it is        *)
(* possible, or never:                                                     *)
(*  - A leader's log only grows in its term.  So the log of each term      *)
(*    (`led`) tells all appends that were ever sent.  They may arrive late.*)
(*  - A vote and an acknowledgement arrive at once, and are counted at     *)
(*    once.  One that comes later, or never, makes nothing possible that   *)
(*    is not possible now.  Nobody votes for a node that has given up.     *)
(*  - What only tells a newer term is left out.  A leader that steps down, *)
(*    or crashes and starts again, is as one that does nothing more.       *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Server,      \* The nodes that are, or may become, members.
    Founders,    \* The first members.  All of them vote.
    First,       \* Who leads at the beginning.
    Nil,         \* No node.
    TermMax,     \* Nobody campaigns beyond this term.
    LogMax,      \* No log is longer.
    ChangesMax,  \* No log has more lists after the founding.
    Without      \* The rule that is left out, to see what it is for: see README.md.  "nothing": all rules are kept.

VARIABLES
    node,        \* The state of each node.
    led          \* For each term that was led: by whom, the leader's log, who has what of it, up to where it is committed.

vars == <<node, led>>

Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Greatest(indexes) == CHOOSE i \in indexes : \A j \in indexes : j <= i
Least(indexes) == CHOOSE i \in indexes : \A j \in indexes : i <= j

-----------------------------------------------------------------------------
(* The list.  An entry may carry a whole list of members.  A node goes by  *)
(* the newest list in its log, committed or not (4.1).  If the entry is    *)
(* truncated, the node goes back to the list before.                       *)

\* An entry that carries no list has no voters.
Entry(term) == [term |-> term, voters |-> {}, learners |-> {}]
ListEntry(term, list) == [term |-> term, voters |-> list.voters, learners |-> list.learners]

FoundingTerm == 1
Founding == ListEntry(FoundingTerm, [voters |-> Founders, learners |-> {}])

Lists(log) == {i \in 1 .. Len(log) : log[i].voters # {}}
Newest(log) == Greatest(Lists(log))
Former(log) == IF Cardinality(Lists(log)) = 1 THEN Newest(log) ELSE Greatest(Lists(log) \ {Newest(log)})

Voters(log) == log[Newest(log)].voters
Learners(log) == log[Newest(log)].learners

IsMajority(nodes, voters) == 2 * Cardinality(nodes \cap voters) > Cardinality(voters)

\* The lists that one change makes of the newest one.
NextLists(log) ==
    LET v == Voters(log)
        l == Learners(log)
    IN  \* 4.2.1: a new member is a learner first.
        {[voters |-> v, learners |-> l \cup {p}] : p \in Server \ (v \cup l)}
        \* It has caught up.  When this is so is a matter of speed, so it may be at any time here.
        \cup {[voters |-> v \cup {p}, learners |-> l \ {p}] : p \in l}
        \cup {[voters |-> v, learners |-> l \ {p}] : p \in l}
        \* The last voter stays.
        \cup {[voters |-> v \ {p}, learners |-> l] : p \in IF Cardinality(v) > 1 THEN v ELSE {}}

-----------------------------------------------------------------------------
(* Leaders.                                                                *)

TermAt(log, index) == log[index].term
LastTerm(log) == TermAt(log, Len(log))
Holds(log, index, term) == index <= Len(log) /\ TermAt(log, index) = term

\* How far two logs agree.
Agreed(a, b) ==
    LET differ == {i \in 1 .. Min(Len(a), Len(b)) : a[i].term # b[i].term}
    IN  IF differ = {} THEN Min(Len(a), Len(b)) ELSE Least(differ) - 1

NoMatch == [p \in Server |-> 0]

\* Who has the leader's log up to index, and counts.  The voters of the newest list do, whichever list was in use when the
\* entry was appended.  A leader that is no voter does not count itself (4.2.2).  Learners do not count.
Have(n, l, index) ==
    LET counts == Voters(l.log) \cup (IF Without = "learners do not count" THEN Learners(l.log) ELSE {})
                                \cup (IF Without = "a removed leader does not count" THEN {n} ELSE {})
    IN  {p \in counts : p = n \/ l.match[p] >= index}

\* 5.4.2: an entry of the leader's own term is committed when a majority has it, and with it all entries before.
Counted(n, l, term) ==
    LET committed == {i \in l.commit + 1 .. Len(l.log) :
                         /\ TermAt(l.log, i) = term
                         /\ 2 * Cardinality(Have(n, l, i)) > Cardinality(Voters(l.log))}
    IN  IF committed = {} THEN l ELSE [l EXCEPT !.commit = Greatest(committed)]

Leads(n, t) == node[n].role = "leader" /\ node[n].term = t

\* What nobody can see any more is forgotten: fewer states.  It is what a former leader knew of the others, and what it
\* appended, when all others are in later terms.
Tidy(all) ==
    [t \in DOMAIN all |->
        LET l == all[t]
            leads == \E n \in l.by : node'[n].role = "leader" /\ node'[n].term = t
            own == Least({i \in 1 .. Len(l.log) : TermAt(l.log, i) = t})
        IN  IF leads THEN l
            ELSE IF \E n \in Server \ l.by : node'[n].term <= t THEN [l EXCEPT !.match = NoMatch]
            ELSE [l EXCEPT !.match = NoMatch, !.log = SubSeq(@, 1, Max(own, l.commit))]]

\* Leader n appends an entry.
Extend(n, entry) ==
    LET t == node[n].term
        log == Append(node[n].log, entry)
    IN  /\ node[n].role = "leader" /\ Len(node[n].log) < LogMax
        /\ node' = [node EXCEPT ![n].log = log]
        /\ led' = Tidy([led EXCEPT ![t] = Counted(n, [@ EXCEPT !.log = log], t)])

Propose(n) == Extend(n, Entry(node[n].term))

\* 4.1: a change begins only after the one before is committed, ...
IsBeforeCommitted(l) == Newest(l.log) <= l.commit \/ Without = "one change at a time"

\* ... and only after an entry of the leader's own term is committed.  This is the correction of 2015.
IsTermCommitted(l, t) == TermAt(l.log, l.commit) = t \/ Without = "own entry first"

Change(n, list) ==
    LET t == node[n].term IN
    /\ node[n].role = "leader"
    /\ IsBeforeCommitted(led[t]) /\ IsTermCommitted(led[t], t)
    /\ Cardinality(Lists(node[n].log)) <= ChangesMax
    /\ Extend(n, ListEntry(t, list))

-----------------------------------------------------------------------------
(* Elections.                                                              *)

\* A voter of the own list may campaign.  So may one that is being removed: of two nodes, perhaps only it can win (4.2.2).
\* One that knows its removal to be committed does not, in the code.  Here it may, for a restart forgets what is committed.
MayCampaign(n) == n \in Voters(node[n].log) \cup node[n].log[Former(node[n].log)].voters

\* 5.4.1
UpToDate(candidate, voter) ==
    \/ LastTerm(candidate) > LastTerm(voter)
    \/ LastTerm(candidate) = LastTerm(voter) /\ Len(candidate) >= Len(voter)

\* Node c of these nodes is a candidate, and asks node v.  A candidate asks the voters of its list.  Who is asked does not
\* look at its own list: the candidate may have a newer one.
Grants(nodes, c, v) ==
    LET t == nodes[c].term
        s == nodes[v]
    IN  /\ nodes[c].role = "candidate" /\ v # c /\ v \in Voters(nodes[c].log)
        /\ t > s.term \/ (t = s.term /\ s.voted = Nil)
        /\ UpToDate(nodes[c].log, s.log)

Voted(nodes, c, v) ==
    [nodes EXCEPT ![v] = [@ EXCEPT !.role = "follower", !.term = nodes[c].term, !.voted = c, !.votes = {}],
                  ![c].votes = @ \cup {v}]

\* Only voters of the own list count, and not the candidate itself if it is none.
Wins(nodes, c) == IsMajority(nodes[c].votes, Voters(nodes[c].log))

\* Whoever has the votes leads.  Section 8: a leader begins with an entry of its own term.
Decide(nodes, c) ==
    LET s == nodes[c]
        log == Append(s.log, Entry(s.term))
        by == {c} \cup (IF s.term \in DOMAIN led THEN led[s.term].by ELSE {})
        new == Counted(c, [by |-> by, log |-> log, match |-> NoMatch, commit |-> 1], s.term)
    IN  IF Wins(nodes, c)
        THEN /\ node' = [nodes EXCEPT ![c] = [@ EXCEPT !.role = "leader", !.votes = {}, !.log = log]]
             /\ led' = Tidy([t \in DOMAIN led \cup {s.term} |-> IF t = s.term THEN new ELSE led[t]])
        ELSE /\ node' = nodes
             /\ led' = Tidy(led)

\* Node n campaigns, in the next term or in a later one: it may have campaigned in vain meanwhile.  It does so in the step in
\* which the first other node votes for it.  Nobody campaigns who cannot win, or whose log has no room for the entry that a
\* leader begins with.
Campaign(n, t) ==
    LET asks == [node EXCEPT ![n] = [@ EXCEPT !.role = "candidate", !.term = t, !.voted = n, !.votes = {n}]]
    IN  /\ t > node[n].term /\ MayCampaign(n) /\ Len(node[n].log) < LogMax
        /\ LET mayVote == {p \in Server : node[p].term < t \/ (node[p].term = t /\ node[p].voted = Nil)} IN
           IsMajority(mayVote \cup {n}, Voters(node[n].log))
        /\ IF Wins(asks, n) THEN Decide(asks, n)
           ELSE \E v \in Server : Grants(asks, n, v) /\ Decide(Voted(asks, n, v), n)

Vote(n, c) == Grants(node, c, n) /\ Decide(Voted(node, c, n), c)

\* 4.2.2: a leader that was removed leads on until this is committed.  Then it hands over to a voter that has its whole log
\* (thesis 3.10).  That one campaigns at once, which any voter may here at any time.
HandOver(n, p) ==
    LET t == node[n].term IN
    /\ node[n].role = "leader" /\ n \notin Voters(node[n].log) /\ Newest(node[n].log) <= led[t].commit
    /\ p \in Voters(node[n].log) /\ led[t].match[p] = Len(node[n].log)
    /\ node[p].term = t /\ t < TermMax /\ Campaign(p, t + 1)

-----------------------------------------------------------------------------
(* Followers.                                                              *)

\* A leader sends entries to all members, learners too, and to those that it has removed, so that they are told.
Reached(log) == UNION {log[i].voters \cup log[i].learners : i \in Lists(log)}

\* Figure 2, AppendEntries: an entry that this node lacks, of the leader of term t.  A leader that is not in the node's list is
\* followed as well (4.1).
Receive(n, t) ==
    LET s == node[n]
        l == led[t]
        index == Agreed(s.log, l.log) + 1
        log == Append(SubSeq(s.log, 1, index - 1), l.log[index])
        \* Only what the leader counts is remembered: fewer states.
        heard == IF TermAt(l.log, index) = t THEN [l EXCEPT !.match[n] = Max(@, index)] ELSE l
        leaders == {p \in l.by : Leads(p, t)}
    IN  /\ n \notin l.by /\ s.term <= t /\ n \in Reached(l.log) /\ index <= Len(l.log)
        /\ node' = [node EXCEPT ![n] = [role |-> "follower", term |-> t, voted |-> IF t > s.term THEN Nil ELSE s.voted,
                                        votes |-> {}, log |-> log]]
        /\ led' = Tidy(IF leaders = {} THEN led
                       ELSE [led EXCEPT ![t] = Counted(CHOOSE p \in leaders : TRUE, heard, t)])

-----------------------------------------------------------------------------
\* All founders have elected the first leader just now, in the first term after the founding.  Nobody has heard of it yet.
Init ==
    LET term == FoundingTerm + 1
        log == <<Founding, Entry(term)>>
        first == [role |-> "leader", term |-> term, voted |-> First, votes |-> {}, log |-> log]
        founder == [role |-> "follower", term |-> term, voted |-> First, votes |-> {}, log |-> <<Founding>>]
        outside == [founder EXCEPT !.term = FoundingTerm, !.voted = Nil]
    IN  /\ node = [n \in Server |-> IF n = First THEN first ELSE IF n \in Founders THEN founder ELSE outside]
        /\ led = [t \in {term} |-> [by |-> {First}, log |-> log, match |-> NoMatch, commit |-> 1]]

Next == \E n \in Server :
    \/ \E t \in 1 .. TermMax : Campaign(n, t)
    \/ \E c \in Server : Vote(n, c)
    \/ Propose(n)
    \/ \E list \in NextLists(node[n].log) : Change(n, list)
    \/ \E t \in DOMAIN led : Receive(n, t)
    \/ \E p \in Server : HandOver(n, p)

Spec == Init /\ [][Next]_vars

Symmetry == Permutations(Founders \ {First}) \cup Permutations(Server \ Founders)

-----------------------------------------------------------------------------
(* Figure 3 of the paper.                                                  *)

ElectionSafety == \A t \in DOMAIN led : Cardinality(led[t].by) = 1

LogMatching ==
    \A n, p \in Server : \A i \in 1 .. Min(Len(node[n].log), Len(node[p].log)) :
        node[n].log[i].term = node[p].log[i].term => SubSeq(node[n].log, 1, i) = SubSeq(node[p].log, 1, i)

\* What was committed is never lost: each leader of a later term has it.
LeaderCompleteness ==
    \A t, u \in DOMAIN led : t < u => \A i \in 1 .. led[t].commit : Holds(led[u].log, i, TermAt(led[t].log, i))

StateMachineSafety ==
    \A t, u \in DOMAIN led : \A i \in 1 .. Min(led[t].commit, led[u].commit) :
        led[t].log[i] = led[u].log[i]

\* What the core asserts of itself, and what the words above take for granted.
Consistent ==
    /\ \A n \in Server : LET s == node[n] IN
        /\ LastTerm(s.log) <= s.term
        /\ s.role \in {"candidate", "leader"} => s.voted = n
        /\ s.role = "leader" => led[s.term].log = s.log
    /\ \A t \in DOMAIN led : led[t].commit <= Len(led[t].log)

=============================================================================
