------------------------------ MODULE RaftCheck ------------------------------
(***************************************************************************)
(* For TLC: all states of Raft.tla within small bounds, and what must hold *)
(* in each of them.  README.md tells what each configuration is for.       *)
(*                                                                         *)
(* A leader's log only grows in its term.  So the longest log of each term *)
(* tells every append and snapshot that its leader can have sent, and it   *)
(* is kept in place of those messages.  An append may then come with an    *)
(* older or a newer commit index than it had: older is as if it were lost, *)
(* and newer is as if the same entries were sent again.  An append carries *)
(* one entry, or none: several are as if one came after the other.         *)
(***************************************************************************)
EXTENDS Raft, TLC

CONSTANTS
    TermMax,       \* Nobody campaigns beyond this term.
    LogMax,        \* No log is longer.
    RestartsMax,   \* So many crashes, of all nodes together.
    WipesMax,      \* So many lost directories, of all nodes together.
    First,         \* Who leads at the beginning, if anybody does.
    Begins,        \* "fresh": with fresh directories.  "founded": all have founded the cluster together.
                   \* "led": and one leads.  "elected by all": and all have voted for it.
    Explored       \* Which of the actions that not every configuration needs: see README.md.

VARIABLES
    restarts, wipes,
    led,           \* History.  For each term that was led: by whom, the log at the election, the longest log, commit, snap.
    committed      \* History.  What was committed: <<index, term, in which term>>

vars == <<node, network, lists, together, restarts, wipes, led, committed>>

\* A node as the founding leaves it.
Founder == Started([FreshDisk(1) EXCEPT !.joining = Joins /\ Begins = "fresh"])

\* Node n was elected just now, in the first term after the founding, by these voters.  Nobody has heard of it yet.
Elected(n, voters) ==
    LET votesFor == [p \in voters |-> Started([Founder.disk EXCEPT !.term = @ + 1, !.voted = n])]
        leader == Leader(n, votesFor[n])
    IN  /\ node = [p \in Server |-> IF p = n THEN leader ELSE IF p \in voters THEN votesFor[p] ELSE Founder]
        /\ led = [t \in {leader.term} |-> [by |-> n, from |-> votesFor[n].log, rivals |-> {n}, log |-> leader.log,
                                          commit |-> leader.commit, snap |-> leader.snap, admits |-> {}]]

CheckInit ==
    /\ lists = {FoundingList(Server)}
    /\ CASE Begins = "elected by all" -> Elected(First, Server)
         [] Begins = "led" -> \E voters \in SUBSET Server : First \in voters /\ IsMajority(voters, Server) /\ Elected(First, voters)
         [] OTHER -> node = [n \in Server |-> Founder] /\ led = <<>>
    /\ together = Moments([n \in Server |-> Founder])
    /\ network = {} /\ restarts = 0 /\ wipes = 0 /\ committed = {}

Others(n) == Server \ {n}

\* The histories after a step of node n.
Note(n) ==
    LET s == node'[n]
        news == {i \in node[n].commit + 1 .. s.commit : ~\E c \in committed : c[1] = i /\ c[2] = s.log[i]}
    IN  /\ committed' = committed \cup {<<i, s.log[i], s.term>> : i \in news}
        /\ led' = IF s.role # "leader" THEN led
                  ELSE [t \in DOMAIN led \cup {s.term} |->
                        IF t # s.term THEN led[t]
                        ELSE [by |-> n, from |-> IF t \in DOMAIN led THEN led[t].from ELSE s.log,
                              rivals |-> (IF t \in DOMAIN led THEN led[t].rivals ELSE {}) \cup {n},
                              log |-> s.log, commit |-> s.commit, snap |-> s.snap,
                              admits |-> (IF t \in DOMAIN led THEN led[t].admits ELSE {})
                                  \cup {<<p, Admits(s, p, Len(s.log))>> : p \in {p \in Server : Admits(s, p, Len(s.log)) # NotAdmitted}}]]

Step(n, action) == action /\ Len(node'[n].log) <= LogMax /\ Note(n) /\ UNCHANGED <<restarts, wipes>>

\* What the leaders of all terms can have sent to node n.
FromLeaders(n) ==
    UNION {LET l == led[t]
               admits == {NotAdmitted} \cup {a[2] : a \in {a \in l.admits : a[1] = n}}
           IN
           {AppendOf(l.by, n, t, l.log, l.commit, NotAdmitted, prev, 1) : prev \in 1 .. Len(l.log) - 1}
           \cup {AppendOf(l.by, n, t, l.log, l.commit, a, Len(l.log), 0) : a \in admits}
           \cup {SnapshotOf(l.by, n, t, l.log, index) : index \in IF l.snap = 0 THEN {} ELSE {l.snap}}
           : t \in {t \in DOMAIN led : led[t].by # n /\ t >= node[n].term}}

\* The acknowledgements of node n that the answer to this append makes superfluous: what they allow, the new one allows.
Outdone(n, m) ==
    LET s == node[n]
        last == m.prev + Len(m.entries)
    IN  IF s.joining \/ s.term # m.term \/ ~Holds(s.log, m.prev, m.prevTerm) THEN {}
        ELSE {k \in network : /\ k.type = "match" /\ k.from = n /\ k.to = m.from /\ k.term = m.term
                              /\ k.life = s.life /\ ~k.joining /\ k.index < last}

Receive(n, m) ==
    CASE m.type = "pre-vote"     -> ReceivePreVote(n, m, TRUE, {})
      [] m.type = "request-vote" -> ReceiveRequestVote(n, m, TRUE, {})
      [] m.type = "would-vote"   -> ReceiveWouldVote(n, m, {})
      [] m.type = "vote"         -> ReceiveVote(n, m, {})
      [] m.type = "refusal"      -> ReceiveRefusal(n, m, {})
      [] m.type = "timeout-now"  -> ReceiveTimeoutNow(n, m, TRUE, Others(n), {})
      [] m.type = "match"        -> ReceiveMatch(n, m, {})
      [] m.type = "no match"     -> ReceiveNoMatch(n, m, {})
      [] m.type = "append"       -> ReceiveAppend(n, m, TRUE, Outdone(n, m))
      [] m.type = "snapshot"     -> ReceiveSnapshot(n, m, TRUE, TRUE, {})

\* Without PreVote, as in the paper: who times out campaigns.
CampaignAtOnce(n) ==
    LET s == Candidate(n, node[n]) IN
    node[n].role # "leader" /\ ~node[n].joining /\ Become(n, s, {}, VoteRequests(n, s, Others(n), FALSE), {})

Crash(n) ==
    /\ restarts < RestartsMax
    /\ \E count \in 0 .. Len(node[n].pending) : \E remembered \in {node[n].snap, node[n].commit} : Restart(n, count, remembered)
    /\ restarts' = restarts + 1
    /\ UNCHANGED <<wipes, led, committed>>

\* A majority of full members is left.
Loses(n) ==
    /\ wipes < WipesMax
    /\ node[n].joining \/ IsMajority({p \in Others(n) : ~node[p].disk.joining}, Server)
    /\ Wipe(n)
    /\ wipes' = wipes + 1
    /\ UNCHANGED <<restarts, led, committed>>

Next == \E n \in Server :
    \* Nobody campaigns whose log has no room for the entry that a leader begins with.
    \/ node[n].term < TermMax /\ Len(node[n].log) < LogMax /\
        IF "pre-vote" \in Explored
        THEN Step(n, Campaign(n, Others(n)) \/ \E keeps \in BOOLEAN : AskPreVotes(n, Others(n), keeps))
        ELSE Step(n, CampaignAtOnce(n))
    \/ Len(node[n].log) < LogMax /\ Step(n, Lead(n) \/ ("propose" \in Explored /\ Propose(n, 1)))
    \/ \E index \in 1 .. Len(node[n].log) : Step(n, AdvanceCommit(n, index))
    \/ \E count \in 1 .. Len(node[n].pending) : Step(n, Durable(n, count))
    \/ Crash(n)
    \/ Loses(n)
    \/ "founding" \in Explored /\ \E founders \in UNION {SUBSET moment : moment \in together} : Step(n, Found(n, founders))
    \/ \E m \in {m \in network : m.to = n} \cup FromLeaders(n) : Step(n, Receive(n, m))
    \/ Step(n, Quiet(n))
    \/ "hint" \in Explored /\ Step(n, LeaderGone(n))
    \/ "step down" \in Explored /\ Step(n, StepDown(n))
    \/ "transfer" \in Explored /\ \E p \in Others(n) : Step(n, HandOver(n, p))
    \/ "snapshot" \in Explored /\ \E index \in 1 .. node[n].commit : Step(n, Compact(n, index))

Spec == CheckInit /\ [][Next]_vars

Symmetry == Permutations(IF Begins \in {"led", "elected by all"} THEN Server \ {First} ELSE Server)

-----------------------------------------------------------------------------
(* Figure 3 of the paper.                                                  *)

ElectionSafety == \A t \in DOMAIN led : Cardinality(led[t].rivals) = 1

LogMatching ==
    \A n, p \in Server : \A i \in 1 .. Min(Len(node[n].log), Len(node[p].log)) :
        node[n].log[i] = node[p].log[i] => SubSeq(node[n].log, 1, i) = SubSeq(node[p].log, 1, i)

LeaderCompleteness == \A c \in committed : \A t \in DOMAIN led : t > c[3] => Holds(led[t].from, c[1], c[2])

StateMachineSafety == \A c, d \in committed : c[1] = d[1] => c[2] = d[2]

\* What the core asserts of itself after each step.
Consistent ==
    \A n \in Server : LET s == node[n] IN
        /\ s.snap <= s.commit /\ s.commit <= Len(s.log)
        /\ LastTerm(s.log) <= s.term
        /\ s.role \in {"candidate", "leader"} => s.voted = n
        /\ s.role = "leader" <=> s.leader = n
        /\ s.hears => s.leader # Nil
        /\ s.disk.term <= s.term /\ s.disk.snap <= s.snap

=============================================================================
