------------------------------ MODULE RaftTrace ------------------------------
(***************************************************************************)
(* Holds runs of the simulator against Raft.tla (after Cirstea, Kuppe,     *)
(* Loillier and Merz, "Validating Traces of Distributed Programs Against   *)
(* TLA+ Specifications", 2024).                                            *)
(*                                                                         *)
(* Each line of a trace names one action of Raft.tla, its arguments, and   *)
(* what the core showed after it.  So there is one next state, or none:    *)
(* TLC walks along each trace, and where no step is possible the program   *)
(* did what the specification forbids.                                     *)
(*                                                                         *)
(* The module Traces is made by tests/spec.py from what                    *)
(* tests/simulation/behaviour.rs wrote.                                    *)
(***************************************************************************)
EXTENDS Raft, TLC, Traces

VARIABLES
    trace,   \* Which trace.
    line     \* Which of its lines is next.

TraceInit ==
    /\ trace \in 1 .. Len(Traces) /\ line = 1
    /\ Init(Traces[trace].founders)

\* A message, as the traces name it.
Name(m) ==
    <<m.type, m.from, m.to,
      CASE m.type = "pre-vote"     -> <<m.term, m.last, m.lastTerm>>
        [] m.type = "request-vote" -> <<m.term, m.last, m.lastTerm, IF m.transfer THEN 1 ELSE 0>>
        [] m.type = "append"       -> <<m.term, m.prev, Len(m.entries), m.commit, m.admit[1], m.admit[2]>>
        [] m.type = "snapshot"     -> <<m.term, Len(m.prefix)>>
        [] m.type = "would-vote"   -> <<m.term, m.for>>
        [] m.type = "match"        -> <<m.term, m.index, m.life, IF m.joining THEN 1 ELSE 0>>
        [] m.type = "no match"     -> <<m.term, m.life, IF m.joining THEN 1 ELSE 0>>
        [] OTHER                   -> <<m.term>> >>

InNetwork(name) == {m \in network : m.type = name[1] /\ m.to = name[3] /\ Name(m) = name}

\* A node sends what the trace says it sent, and a leader's commit index is the one in the message.
Send(n, name) ==
    LET p == name[3]
        numbers == name[4]
    IN  /\ name[1] # "term" => numbers[1] = node[n].term
        /\ CASE name[1] = "append"      -> /\ numbers[4] = node[n].commit
                                            /\ Admits(node[n], p, numbers[2] + numbers[3]) = <<numbers[5], numbers[6]>>
                                            /\ SendAppend(n, p, numbers[2], numbers[3])
             [] name[1] = "snapshot"    -> SendSnapshot(n, p, numbers[2])
             [] name[1] = "timeout-now" -> HandOver(n, p)
             [] name[1] = "term"        -> TellTerm(n, p, numbers[1])

Receive(n, m, kept, to, installs, last) ==
    LET used == IF last THEN {m} ELSE {} IN
    CASE m.type = "pre-vote"     -> ReceivePreVote(n, m, kept, used)
      [] m.type = "request-vote" -> ReceiveRequestVote(n, m, kept, used)
      [] m.type = "append"       -> ReceiveAppend(n, m, kept, used)
      [] m.type = "snapshot"     -> ReceiveSnapshot(n, m, installs, kept, used)
      [] m.type = "timeout-now"  -> ReceiveTimeoutNow(n, m, kept, to, used)
      [] m.type = "would-vote"   -> ReceiveWouldVote(n, m, used)
      [] m.type = "vote"         -> ReceiveVote(n, m, used)
      [] m.type = "match"        -> ReceiveMatch(n, m, used)
      [] m.type = "no match"     -> ReceiveNoMatch(n, m, used)
      [] m.type = "refusal"      -> ReceiveRefusal(n, m, used)
      [] m.type = "term"         -> ReceiveTerm(n, m, used)

\* The log in runs of equal terms: <<index before the first run, last index, term, last index, term, ...>>.  Terms never
\* decrease along a log, so the two ends of a run tell all of it.
HasRuns(log, runs) ==
    /\ Len(log) = IF Len(runs) = 1 THEN runs[1] ELSE runs[Len(runs) - 1]
    /\ \A i \in 1 .. (Len(runs) - 1) \div 2 :
        LET first == (IF i = 1 THEN runs[1] ELSE runs[2 * i - 2]) + 1 IN
        log[first] = runs[2 * i + 1] /\ log[runs[2 * i]] = runs[2 * i + 1]

\* The list that a node goes by: <<index, voters, learners>>, or <<>> for the founding's.
HasList(list, shown) ==
    IF shown = <<>> THEN list.index = 1 ELSE <<list.index, list.voters, list.learners>> = shown

\* The core shows what the specification has.  `all`: the lists that there are then.
Shows(s, all, shown) ==
    /\ s.role = shown[1]
    /\ s.term = shown[2]
    /\ s.voted = shown[3]
    /\ s.leader = shown[4]
    /\ s.commit = shown[5]
    /\ s.snap = shown[6]
    /\ HasRuns(s.log, shown[7])
    /\ s.joining = shown[8]
    /\ HasList(NewestOf(all, s.log), shown[11])
    /\ s.role = "leader" => \A p \in Server : 
        /\ s.match[p] = shown[9][p]
        /\ IF s.lifeOf[p] = 0 THEN shown[10][p] = 0
           ELSE shown[10][p] = 2 * s.lifeOf[p] + (IF s.barrier[p] = 0 THEN 0 ELSE 1)

\* A compaction is written aside while the node goes on.  A crash before its end leaves the older snapshot, and all entries.
RestartAmidCompaction(n, count, remembered, snap) ==
    LET s == node[n]
        disk == ReplayAll(s.disk, SubSeq(s.pending, 1, count))
    IN  /\ snap < disk.snap
        /\ snap <= remembered /\ remembered <= s.commit /\ remembered <= Len(disk.log)
        /\ node' = [node EXCEPT ![n] = [Started([disk EXCEPT !.snap = snap]) EXCEPT !.commit = remembered]]
        /\ UNCHANGED <<network, lists, together>>

\* A restart finds on the disk what the core shows.
Restarts(n, shown) ==
    \E count \in 0 .. Len(node[n].pending) :
        /\ Restart(n, count, shown[5]) \/ RestartAmidCompaction(n, count, shown[5], shown[6])
        /\ Shows(node'[n], lists', shown)

Happens(l) ==
    LET n == l[2] IN
    CASE l[1] = "receive"       -> \E m \in InNetwork(l[4]) : Receive(n, m, l[5], l[6], l[7], l[8])
      [] l[1] = "send"          -> Send(n, l[4])
      [] l[1] = "leaves"        -> InNetwork(l[4]) # {} /\ UNCHANGED <<node, network, lists, together>>
      [] l[1] = "durable"       -> Durable(n, l[4])
      [] l[1] = "propose"       -> Propose(n, l[4])
      [] l[1] = "change"        -> Change(n, [voters |-> l[4], learners |-> l[5]])
      [] l[1] = "commit"        -> AdvanceCommit(n, l[4])
      [] l[1] = "compact"       -> Compact(n, l[4])
      [] l[1] = "forget"        -> Forget(n, l[4])
      [] l[1] = "found"         -> Found(n, l[4])
      [] l[1] = "lose leader"   -> LoseLeader(n)
      [] l[1] = "quiet"         -> Quiet(n)
      [] l[1] = "leader gone"   -> LeaderGone(n)
      [] l[1] = "ask pre-votes" -> AskPreVotes(n, l[4], l[5])
      [] l[1] = "give up"       -> GiveUp(n)
      [] l[1] = "campaign"      -> Campaign(n, l[4])
      [] l[1] = "lead"          -> Lead(n)
      [] l[1] = "step down"     -> StepDown(n)
      [] l[1] = "restart"       -> Restarts(n, l[3])
      [] l[1] = "wipe"          -> Wipe(n)

Step == Traces[trace].steps[line]
IsOver == line > Len(Traces[trace].steps)

TraceNext ==
    /\ ~IsOver
    /\ LET l == Step IN
       /\ Happens(l)
       /\ l[3] # <<>> => Shows(node'[l[2]], lists', l[3])
    /\ line' = line + 1
    /\ UNCHANGED trace

traceVars == <<node, network, lists, together, trace, line>>

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* There is one state for each line of each trace.
TraceView == <<trace, line>>

-----------------------------------------------------------------------------
(* For a trace that is not accepted: where it ends, and what was expected. *)

IsRefused == ~IsOver /\ ~ENABLED TraceNext

\* Index and term of the last entry of each run.
Ends(log) == {<<i, log[i]>> : i \in {i \in 1 .. Len(log) : i = Len(log) \/ log[i] # log[i + 1]}}

Brief(s) == [s EXCEPT !.log = Ends(@), !.disk.log = Ends(@), !.pending = Len(@), !.held = {Name(h.message) : h \in @}]

Explain(n, l) == PrintT(<<"refused", line, l, Brief(node[n]), Newest(node[n].log), {Name(m) : m \in {m \in network : m.to = n}}>>)

ExplainNext ==
    \/ TraceNext
    \/ IsRefused /\ Explain(Step[2], Step) /\ UNCHANGED traceVars

ExplainSpec == TraceInit /\ [][ExplainNext]_traceVars

=============================================================================
