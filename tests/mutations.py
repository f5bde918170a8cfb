#!/usr/bin/env python3
"""Plants each defect of the list below in a copy of the source, one at a time, and tells which test kills it, and after how
many seeds the simulator alone sees it.

The list follows the defects that real implementations of Raft have shipped (docs/test-results.md keeps a table of which
test killed which). A defect that no test kills is a missing test. The work tree is never touched: the script works in a
clone in a temporary directory, with a build directory of its own.

    python3 tests/mutations.py               # all of them: hours on two cores
    python3 tests/mutations.py --fast        # only whether a test kills each, not after how many seeds
    python3 tests/mutations.py 11 12 13      # only these rows
    python3 tests/mutations.py --list
    python3 tests/mutations.py --check       # only whether each can be planted: `.ci/run` does that

Each mutant is a replacement of one piece of text that must stand in its file exactly once: if the source changes so
that it does not, the script says so and fails, rather than testing nothing.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# By the room that the defect is planted in; in this order, cheapest first. The first that fails has killed the mutant. A
# test that hangs has noticed too.
SUITES = {
    "src/raft": [
        ["--test", "raft", "--", "transcripts::", "paper::", "thesis::", "limits::", "joining::", "members::"],
        ["--test", "raft", "properties::"],
        ["--test", "simulation"],
        ["--test", "raft", "explore::"],
    ],
    "src/storage": [
        ["--test", "storage"],
        ["--test", "simulation"],
    ],
    "src/balancer": [["--lib", "balancer"], ["--test", "simulation"]],
    "src/replica": [["--lib", "replica"], ["--test", "simulation"]],
    "src/signing": [["--lib", "signing"], ["--test", "system", "--", "secret::", "version::"]],
    "src/http": [["--lib", "http"], ["--test", "edge", "limits::"]],
    "node": [
        ["--lib", "node"],
        ["--test", "system", "--", "hostile::strangers", "hostile::a_body", "hostile::the_cluster_address", "secret::a_daemon",
         "routing::a_request_that_comes_back", "cluster::a_bad_report"],
        ["--test", "system", "--", "cluster::", "disk_trouble::", "version::"],
    ],
}
SUITE_SECONDS_MAX = 600
# The simulator runs over each mutant with so many seeds: twice as many as in `cargo test`. A seed that never ends has seen
# the defect too.
SIMULATOR_SEEDS = 600
SIMULATOR_SECONDS_MAX = 300

CORE, ELECTION, REPLICATION = "src/raft/core.rs", "src/raft/election.rs", "src/raft/replication.rs"
SNAPSHOT, INCOMING, TRANSFER = "src/raft/snapshot.rs", "src/raft/incoming.rs", "src/raft/transfer.rs"
TRANSITIONS, PACE = "src/raft/transitions.rs", "src/raft/pace.rs"
CONFIGURATION, MEMBERS = "src/raft/configuration.rs", "src/raft/members.rs"
JOINING, FOUNDING, PROGRESS = "src/raft/joining.rs", "src/raft/founding.rs", "src/raft/progress.rs"
STORE, RECOVERY, HINT = "src/storage/store.rs", "src/storage/recovery.rs", "src/storage/hint.rs"
REPORT, TABLE, SILENCE = "src/balancer/report.rs", "src/balancer/table.rs", "src/balancer/silence.rs"
CHOICE, AGREEMENT, VIEW = "src/balancer/choice.rs", "src/replica/agreement.rs", "src/balancer/view.rs"
DECISIONS, BATCH, MAIL_FIRST = "src/replica/decisions.rs", "src/replica/batch.rs", "src/replica/mail_first.rs"
RAFT_LOOP, INBOX, PEERS = "node/raft_loop.rs", "node/inbox.rs", "node/peers.rs"
WIRING, SERVICE = "node/wiring.rs", "node/cluster_service.rs"
GATE, SEAL, CALL = "src/signing/gate.rs", "src/signing/seal.rs", "src/signing/call.rs"
SIGNING, STREAMS, KEYS = "src/signing/mod.rs", "src/signing/streams.rs", "src/signing/keys.rs"
ADMISSION, BODIES, CONNECTION = "src/http/admission.rs", "src/http/body_budget.rs", "src/http/connection.rs"
FOREIGN, FOUNDED, PRIMES = "src/http/foreign.rs", "src/signing/founded.rs", "node/primes.rs"

# (row of the list of known defects, what is planted, file, what stands there, what is put in its place)
MUTANTS = [
    ("1", "term and vote never reach the disk", CORE,
     "        self.output.durable.push(Durable::Record(Record::HardState(hard_state)));\n", ""),
    ("2", "a refused vote resets the election timer", ELECTION,
     "        let (to, term) = (arguments.candidate_id, arguments.term);\n        self.output.notices.push(Notice::VoteRefused",
     "        self.reset_election_timer();\n        let (to, term) = (arguments.candidate_id, arguments.term);\n"
     "        self.output.notices.push(Notice::VoteRefused"),
    ("3a", "log freshness by index alone", ELECTION,
     "(arguments.last_log_term, arguments.last_log_index) >= (self.log.last_term(), self.log.last_index())",
     "arguments.last_log_index >= self.log.last_index()"),
    ("3b", "log freshness field by field", ELECTION,
     "(arguments.last_log_term, arguments.last_log_index) >= (self.log.last_term(), self.log.last_index())",
     "arguments.last_log_term >= self.log.last_term() && arguments.last_log_index >= self.log.last_index()"),
    ("4", "a refusal carries no term", ELECTION,
     "VoteReply { term: self.hard_state.term, for_term: arguments.term, vote_granted: false }",
     "VoteReply { term: 0, for_term: arguments.term, vote_granted: false }"),
    ("5", "a leader without a majority never steps down", REPLICATION,
     "if now >= silent_since + self.settings.election_timeout.1 {",
     "if false && now >= silent_since + self.settings.election_timeout.1 {"),
    ("6", "no leader stickiness", ELECTION,
     "if !arguments.leadership_transfer || !self.members().is_voter(from) {", "if false {"),
    ("M12", "whoever says that the leadership is handed to it disturbs a living leader", ELECTION,
     "if !arguments.leadership_transfer || !self.members().is_voter(from) {", "if !arguments.leadership_transfer {"),
    ("6b", "no PreVote", ELECTION,
     "        self.begin_pre_vote(reason);\n    }\n", "        self.begin_election(false, reason.into());\n    }\n"),
    ("7", "the first timeout after a start is a whole one", CORE,
     "self.random.between((low, self.settings.election_timeout.0))",
     "self.random.between((low.max(self.settings.election_timeout.0), self.settings.election_timeout.1))"),
    ("8", "a transfer is never given up", TRANSFER,
     "take_if(|transfer| now >= transfer.deadline)", "take_if(|transfer| false && now >= transfer.deadline)"),
    ("8b", "a transfer does not wait for the target's log", TRANSFER,
     "!transfer.timeout_now_sent && progress.match_index == last_index", "!transfer.timeout_now_sent && progress.match_index <= last_index"),
    ("9", "any term is believed", CORE,
     "let plausible = term.saturating_sub(self.hard_state.term) <= TERM_JUMP_MAX;", "let plausible = true;"),
    ("10a", "votes for another term count", ELECTION,
     "if reply.for_term != self.hard_state.term {", "if false {"),
    ("10b", "pre-votes for another term count", ELECTION,
     "if reply.for_term != self.hard_state.term + 1 {", "if false {"),
    ("11", "entries of earlier terms commit by counting (Figure 8)", REPLICATION,
     "on_majority > self.commit_index && self.log.term_at(on_majority) == Some(self.hard_state.term)",
     "on_majority > self.commit_index"),
    ("12", "a short append truncates what follows it", REPLICATION,
     "        self.commit_to(leader_commit.min(last_verified));\n",
     "        self.commit_to(leader_commit.min(last_verified));\n"
     "        if last_verified >= self.commit_index && last_verified < self.log.last_index() {\n"
     "            self.truncate(last_verified + 1);\n        }\n"),
    ("13", "a follower commits beyond what the append verified", REPLICATION,
     "self.commit_to(leader_commit.min(last_verified));",
     "self.commit_to(leader_commit.min(self.log.last_index()));"),
    ("14", "a follower acknowledges its own last index", REPLICATION,
     "let result = AppendResult::Success { match_index: last_verified };",
     "let result = AppendResult::Success { match_index: self.log.last_index() };"),
    ("15a", "half of the nodes are a majority", CONFIGURATION,
     "        self.voters().count() / 2 + 1", "        self.voters().count().div_ceil(2)"),
    ("15b", "the leader counts before its own disk", REPLICATION,
     "matches.push(self.durable_index());", "matches.push(self.log.last_index());"),
    ("16", "word of the disk is believed for a rewritten entry", CORE,
     "if self.log.term_at(pending.last_index) == Some(pending.last_term) {",
     "if pending.last_index <= self.log.last_index() {"),
    ("17", "one entry back per refusal", REPLICATION,
     "let next_index = hint.clamp(match_index + 1, prev_log_index.max(match_index + 1));",
     "let next_index = (hint * 0 + prev_log_index).max(match_index + 1);"),
    ("18", "a candidate's own vote counts before its disk", ELECTION,
     "            self.send_once_durable(peer, RpcRequest::RequestVote(arguments));\n        }\n",
     "            self.send_once_durable(peer, RpcRequest::RequestVote(arguments));\n        }\n"
     "        self.count_vote(self.settings.id);\n"),
    ("19", "a lost reply stops replication", REPLICATION,
     "if now >= last_sent + UNANSWERED_HEARTBEATS * heartbeat &&",
     "if false && now >= last_sent + UNANSWERED_HEARTBEATS * heartbeat &&"),
    ("20", "no no-op at the start of a term", TRANSITIONS,
     "        self.append(Command::noop());\n", ""),
    ("21", "a failed fsync is ignored", STORE,
     "self.disk.sync(name).map_err(|error| self.io(\"sync\", name, error))",
     "{ let _ = self.disk.sync(name); Ok(()) }"),
    ("21b", "the log is not synced", STORE,
     "        self.sync(LOG)?;\n        self.log_length += ", "        self.log_length += "),
    ("22", "corruption in the middle is cut like a torn tail", RECOVERY,
     "Err(_) if is_unfinished_append(&bytes, offset) => {", "Err(_) => {"),
    ("25", "after a failed write the node goes on", STORE,
     "            self.poisoned = Some(error.to_string());\n", "            let _ = error;\n"),
    ("23", "no fsync of the directory", STORE,
     "self.disk.sync_directory().map_err(|error| self.io(\"sync the directory\", \"\", error))", "Ok(())"),
    ("24", "the log is replaced before the snapshot is written", STORE,
     "        self.write_snapshot(snapshot)?;\n        self.shape = shape;\n        self.write_log(retained)?;\n",
     "        self.shape = shape;\n        self.write_log(retained)?;\n        self.write_snapshot(snapshot)?;\n"),
    ("28", "an older snapshot is installed over a newer state", SNAPSHOT,
     "if last_index <= self.commit_index {", "if false {"),
    ("29", "a snapshot at the commit index is never acknowledged", SNAPSHOT,
     "            self.incoming_snapshot = None;\n            return reply(self, 0, true);\n",
     "            self.incoming_snapshot = None;\n            return reply(self, 0, false);\n"),
    ("30", "chunks of two snapshots mix", INCOMING,
     "(self.last_index, self.last_term, self.checksum)\n            == (chunk.last_included_index, chunk.last_included_term, chunk.checksum)",
     "chunk.last_included_index > 0"),
    ("31", "a compacted previous entry is a conflict", REPLICATION,
     "if prev_log_index + 1 >= self.log.first_index() {", "if prev_log_index < u64::MAX {"),
    ("33", "proposals are forgotten when leadership is lost", TRANSITIONS,
     "self.output.resolved.extend(proposals.into_values().map(|id| (id, Resolution::Unknown)));",
     "drop(proposals);"),
    ("35", "an uncertain outcome is called a refusal", TRANSITIONS,
     "(id, Resolution::Unknown)", "(id, Resolution::NotLeader { leader: None })"),
    ("36", "a pause of the leader counts as silence of the servers", SILENCE,
     "            self.counted_from = self.counted_from.max(now);\n", "            let _ = now;\n"),
    ("37", "a verdict overrides a newer report", TABLE,
     "if !slot.alive || slot.report.stamp() != dead.stamp() {", "if !slot.alive {"),
    ("S", "an older report overwrites a newer one", TABLE,
     "stamp > committed || (!self.alive", "stamp != committed || (!self.alive"),
    ("S2", "a dead server comes back only with a greater stamp", TABLE,
     "stamp > committed || (!self.alive && stamp.epoch != committed.epoch)", "stamp > committed"),
    ("S3", "a delayed report of its own epoch revives a dead server", TABLE,
     "(!self.alive && stamp.epoch != committed.epoch)", "!self.alive"),
    ("S4", "a report that is not news is a sign of life", DECISIONS,
     "        if fit == Fit::News {\n", "        if fit == Fit::News || !report.server.is_empty() {\n"),
    ("S7", "a second daemon takes a name over by a greater stamp", TABLE,
     "if self.alive && of_another {", "if self.alive && of_another && stamp <= committed {"),
    ("S9", "a load that nobody knows wins", CHOICE, "load_unknown: !report.cpu_known,", "load_unknown: false,"),
    ("S10", "the digest says not whether a load is known", TABLE, "u64::from(*cpu_known) << 4", "u64::from(*cpu_known && false) << 4"),
    ("S8", "a name belongs to a dead daemon", TABLE, "if self.alive && of_another {", "if of_another {"),
    ("O1", "a drained server is chosen", VIEW,
     " && self.record.drained_at.is_none()", ""),
    ("O2", "a living server is forgotten", TABLE,
     "ServerOrder::Forget(_) if slot.alive => return", "ServerOrder::Forget(_) if slot.alive && false => return"),
    ("O3", "a report undrains its server", TABLE, "drained_at: slot.drained_at,", "drained_at: None,"),
    ("O4", "a snapshot forgets who is drained", TABLE,
     "drained_at.is_some_and(|index| !(1..=saved.applied_index).contains(&index))", "drained_at.is_some()"),
    ("O5", "the digest says not who is drained", TABLE, "drained_at.unwrap_or(0)]", "0 * drained_at.unwrap_or(0)]"),
    ("O6", "an order that was lost is never answered", DECISIONS,
     "            Waiting::Operator(caller) => {\n                self.answers.push_back(Effect::Answer { caller, outcome: without_commit(resolution) });\n",
     "            Waiting::Operator(caller) => {\n                let _ = caller;\n"),
    ("P1", "appends begin as large as they may be", PACE,
     "const BYTES_MIN: usize = 4 << 10;", "const BYTES_MIN: usize = 1 << 20;"),
    ("P2", "what took too long is sent as large as before", PACE,
     "self.bytes_max.min(fits).max(BYTES_MIN)", "self.bytes_max.max(fits)"),
    ("P3", "an append without an answer is sent again behind the first", REPLICATION,
     "progress.in_flight.take().is_some() {\n                progress.probing = true;\n", "progress.in_flight.take().is_some() {\n"),
    ("P4", "chunks of a snapshot are as large as they may be", SNAPSHOT,
     "self.settings.snapshot_chunk_bytes.min(progress.pace.bytes_max())", "self.settings.snapshot_chunk_bytes"),
    ("P5", "what was lost is sent again before the peer answers", CORE,
     "            progress.probing = true;\n            progress.pause_until", "            progress.pause_until"),
    ("S5", "a daemon goes on beside the committed stamp, not above it", REPORT,
     "            Some(self.epoch + 1)\n", "            Some(self.epoch)\n"),
    ("S6", "a daemon in the greatest epoch waits for ever", REPORT,
     "(own.epoch == COUNTER_MAX).then_some(1)", "None"),
    ("38", "a fresh leader counts silence from before its election", SILENCE,
     "self.counted_from = self.counted_from.max(since);\n            self.ran_at", "self.ran_at"),
    ("26", "a peer's new data directory is ignored", REPLICATION,
     "            *progress = Progress::new(last_index, now);\n", "            let _ = (&progress, last_index, now);\n"),
    ("H1", "a commit hint is honoured without its entry", HINT,
     "log.term_at(self.index) == Some(self.term)", "self.index <= log.last_index()"),
    ("H2", "a commit hint is written before its entry is durable", DECISIONS,
     "        let index = self.table.applied_index();\n        // While a leader's", "        let index = self.raft.log().last_index();\n        // While a leader's"),
    ("H3", "the log is truncated below what it remembers to be committed", STORE,
     "&& *from <= self.committed", "&& *from < 1"),
    ("H4", "what the disk remembers to be committed is not served", DECISIONS,
     "        self.raft.recall_commit(index);\n", "        let _ = index;\n"),
    ("Z1", "zeros are cut although a later append stands behind them", RECOVERY,
     "is_left_out && batches.all(|batch| batch != 0 && batch <= length(offset))", "is_left_out && batches.all(|_| true)"),
    ("Z2", "zeros are cut although the commit hint names an entry behind them", STORE,
     "&& *index > shape.last_index()", "&& *index > shape.last_index() + 1_000_000"),
    ("Z3", "zeros before whole lines of an append that nobody acknowledged are refused", RECOVERY,
     "Err(_) if is_unfinished_append(&bytes, offset) => {", "Err(_) if false && is_unfinished_append(&bytes, offset) => {"),
    ("D1", "a state that differs is not told apart", AGREEMENT,
     "if *own == said.digest {", "if *own == said.digest || !own.is_empty() {"),
    ("D2", "a node whose state contradicts a majority campaigns", ELECTION,
     "        if self.is_barred {\n            return", "        if false && self.is_barred {\n            return"),
    ("D3", "a leader whose state contradicts a majority leads on", ELECTION,
     "Role::Leader(_) => self.start_transfer(None),", "Role::Leader(_) => {}"),
    ("D4", "a state that may be wrong takes the place of the log", DECISIONS,
     "            && self.contradiction().is_none();", "            ;"),
    ("K1", "a node whose disk hangs is shown as it was", "node/standing.rs",
     "(doing != Doing::Waiting && time > self.election_timeout_max)",
     "(false && doing != Doing::Waiting && time > self.election_timeout_max)"),
    ("C1", "a compaction of the own log is done at once", STORE,
     "self.begin_compaction(snapshot, hard_state, retained)?;\n", "self.begin_compaction(snapshot, hard_state, retained)?;\n"
     "                        while self.continue_compaction()? {}\n"),
    ("C2", "what is appended during a compaction is missing in the new log", STORE,
     "        if let Some(compaction) = &mut self.compaction {\n            let added", "        if false && let Some(compaction) = &mut self.compaction {\n            let added"),
    ("T1", "a living server is evicted", TABLE,
     "self.servers.values().filter(|record| !record.alive).min_by_key", "self.servers.values().min_by_key"),
    ("R1", "sent before it is durable", DECISIONS,
     "self.held.push_back(Held { mark: self.written, sends", "self.held.push_back(Held { mark: 0, sends"),
    ("R2", "answered before it is published", DECISIONS,
     "                self.publish();\n                self.ready.append(&mut self.answers);\n",
     "                self.ready.append(&mut self.answers);\n                self.publish();\n"),
    ("R3", "answered from the batch, and not from what applying it changed", DECISIONS,
     "let outcome = if change.took_report() && !superseded {",
     "let outcome = if *change != Change::Stale && !superseded {"),
    ("R4", "a stale answer carries the current term", DECISIONS,
     "term: record.reported_term,", "term: self.raft.hard_state().term,"),
    ("R5", "a verdict that was lost is not proposed again", DECISIONS,
     "                self.silence.lost(&dead);\n", ""),
    ("R6", "another incarnation of a peer goes unnoticed", DECISIONS,
     "&& before != incarnation", "&& before != incarnation && incarnation == 0"),
    ("R7", "the tick comes before the mail", DECISIONS,
     "self.tick.decide(self.now, is_due, unread.messages)", "self.tick.decide(self.now, is_due, 0 * unread.messages)"),
    ("R7b", "a verdict comes before the mail", DECISIONS,
     "self.verdicts.decide(self.now, is_due, unread)", "self.verdicts.decide(self.now, is_due, 0 * unread)"),
    ("R7c", "a flood puts the clock off for ever", MAIL_FIRST,
     "put_off.unread = put_off.unread.min(unread);", "put_off.unread = unread;"),
    ("R8", "a compaction is never due", DECISIONS,
     "let is_due = self.held.is_empty()\n", "let is_due = false && self.held.is_empty()\n"),
    ("R8b", "a compaction does not wait for the disk", DECISIONS,
     "let is_due = self.held.is_empty()\n            && applied", "let is_due = applied"),
    ("R9", "of a batch the oldest report is proposed", BATCH,
     "let is_newer = stamp > proposal.stamp;", "let is_newer = stamp < proposal.stamp;"),
    ("R10", "who reported something older is told that it counts", BATCH,
     "Reporter { caller, superseded: !is_newer }", "Reporter { caller, superseded: false && is_newer }"),
    ("R11", "only one daemon of a proposal is answered", DECISIONS,
     "for Reporter { caller, superseded } in reporters {",
     "for Reporter { caller, superseded } in reporters.into_iter().take(1) {"),
    ("R12", "a new leader is not watched", DECISIONS,
     "if watched != self.watched {", "if false && watched != self.watched {"),
    ("M1", "a list counts only from its commit", CONFIGURATION,
     "        self.later.last().unwrap_or(&self.base)", "        self.former().unwrap_or(&self.base)"),
    ("M2", "a second change before the first is committed", MEMBERS,
     "        if !self.is_change_committed() {\n            return Err(ChangeRefused::UnderWay);", "        if false {\n            return Err(ChangeRefused::UnderWay);"),
    ("M3", "a change before an entry of the own term is committed (the correction of 2015)", MEMBERS,
     "        if self.log.term_at(self.commit_index) != Some(self.hard_state.term) {", "        if false {"),
    ("M4", "a learner counts", CONFIGURATION,
     "        self.0.iter().filter(|member| member.voter).map(|member| member.id)", "        self.0.iter().map(|member| member.id)"),
    ("M5", "a removed leader counts its own disk", REPLICATION,
     "        if self.members().is_voter(self.settings.id) {\n            matches.push(self.durable_index());\n        }",
     "        matches.push(self.durable_index());"),
    ("M6", "a truncated list goes on counting", CORE,
     "if self.configurations.truncated(from) {", "if false {"),
    ("M7", "a snapshot carries no list", CORE,
     "let members = self.configurations.compacted(at);", "let members = self.configurations.compacted(at).filter(|_| false);"),
    ("M8", "a removed node campaigns", ELECTION,
     "        if !self.may_campaign() {\n            return self.wait_outside();", "        if false {\n            return self.wait_outside();"),
    ("M9", "the votes of others than voters count", MEMBERS,
     "nodes.iter().filter(|node| self.members().is_voter(**node)).count()", "nodes.len()"),
    ("M10", "a removed node is not told", MEMBERS,
     "        for (_, progress) in leader.progress.iter_mut().filter(|(peer, _)| !members.contains(**peer)) {",
     "        leader.progress.retain(|peer, _| members.contains(*peer));\n"
     "        for (_, progress) in leader.progress.iter_mut().filter(|(peer, _)| !members.contains(**peer)) {"),
    ("M11", "a learner votes before it has caught up", MEMBERS,
     "Some((target, _)) if progress.match_index < target => return,", "Some((target, _)) if false && progress.match_index < target => return,"),
    ("M14", "a learner's vote and acknowledgement count", CONFIGURATION,
     "self.get(id).is_some_and(|member| member.voter)", "self.get(id).is_some()"),
    ("J1", "a joining node votes", ELECTION,
     "        if self.is_joining() {\n            return Some(", "        if false {\n            return Some("),
    ("J2", "the acknowledgements of a joining node count", PROGRESS,
     "self.barrier.is_none()", "true"),
    ("J3", "the barrier is an old entry", JOINING,
     "let barrier = self.append(Command::noop());", "let barrier = self.commit_index;"),
    ("J4", "an admission is for any life", JOINING,
     "admission.incarnation == self.settings.incarnation && admission.barrier <= last_verified",
     "admission.barrier <= last_verified"),
    ("J5", "the node does not vote for the leader that admits it", JOINING,
     "voted_for: Some(leader), joining: false", "voted_for: None, joining: false"),
    ("J6", "a fresh directory has no mark", FOUNDING, "joining: true", "joining: false"),
    ("J7", "a leader carries the acknowledgements of one life over to the next", JOINING,
     "is_some_and(|known| known != life.incarnation)", "is_some_and(|known| known == 0 && known != life.incarnation)"),
    ("J8", "a node that counts is taken for new", JOINING,
     "counting.is_empty() && known.len() >= majority", "known.len() >= majority"),
    ("J9", "one round is enough to found a cluster", JOINING, "if is_enough(&both) {", "if is_enough(&fresh) {"),
    ("J10", "a node founds a cluster beside one that has lived", JOINING, "if !lived.is_empty() || ", "if "),
    ("J11", "a node is admitted before its barrier is committed", JOINING,
     "(barrier <= self.commit_index.min(last))", "(barrier <= last)"),
    ("N1", "the loop goes on after a failed write", RAFT_LOOP,
     "self.storage.make_durable(write.steps)?;", "let _ = self.storage.make_durable(write.steps);"),
    ("N2", "the loop publishes nothing", RAFT_LOOP,
     "                self.published.publish(self.replica.table(), self.now());\n", ""),
    ("N3", "a full inbox loses a message for good", INBOX,
     "self.consensus.send(message).map_err(|_| Refused::Closed)",
     "match self.consensus.try_send(message) { Err(TrySendError::Disconnected(_)) => Err(Refused::Closed), _ => Ok(()) }"),
    ("N4", "a peer that refuses this node is not named", PEERS,
     "        self.sending.refusals.refused(self.id, why);\n", ""),
    ("V1", "a node takes requests of any version", GATE,
     'check_version("the sender", version, true)?;', 'let _ = check_version("the sender", version, true);'),
    ("V2", "a sender believes answers of any version", SEAL,
     "check_version(&request.recipient, header(HEADER_VERSION), optional)?;",
     "let _ = check_version(&request.recipient, header(HEADER_VERSION), optional);"),
    ("V3", "a directory of any version is read", RECOVERY,
     "Ok(version) if version != u64::from(PROTOCOL_VERSION) =>", "Ok(version) if version == 0 =>"),
    ("G1", "a number of a stream is accepted twice", STREAMS,
     "if number <= known.newest_number {", "if number < known.newest_number {"),
    ("G2", "a stream that was pushed out can be opened again", STREAMS,
     "            known.floor = known.floor.max(forgotten.ticket.issued);\n", "            let _ = forgotten.ticket.issued;\n"),
    ("G2b", "a stream of a sender that was pushed out can be opened again", STREAMS,
     "        self.floor = issues.chain([self.floor, sender.floor]).max().expect(\"two at least\");\n",
     "        let _ = (issues, sender.floor);\n"),
    ("G3", "a ticket need not be this node's own", STREAMS,
     "mac.verify_truncated_left(&ticket.mac).is_ok()", "mac.verify_truncated_left(&ticket.mac).is_ok() || true"),
    ("G4", "a ticket opens its stream for ever", STREAMS,
     "<= nanoseconds(TICKET_VALID);", "<= u64::MAX;"),
    ("G5", "the report key pushes out the streams of nodes", STREAMS,
     "self.of_purpose[purpose as usize].lock()", "self.of_purpose[0].lock()"),
    ("G6", "any body does for a sealed head", GATE,
     "hex(&Sha256::digest(body)) == opened.digest", "hex(&Sha256::digest(body)).len() == opened.digest.len()"),
    ("G7", "the number is not sealed", SIGNING,
     "    HEADER_NUMBER,\n    HEADER_DIGEST,\n];", "    HEADER_DIGEST,\n    HEADER_DIGEST,\n];"),
    ("G8", "an answer fits every request", SIGNING,
     "[ANSWER_FRAME, request_signature.as_bytes(), &status, &digest]",
     "[ANSWER_FRAME, &request_signature.as_bytes()[..0], &status, &digest]"),
    ("G9", "a request of a stream that the node does not know is not repeated", CALL,
     "if refusal.kind == RefusalKind::UnknownStream =>", "if refusal.kind == RefusalKind::WrongVersion =>"),
    ("G10", "a stream goes on after a request without an answer", CALL,
     "answer_bytes_max, seal_anew)?;\n        self.streams.extend(stream);\n        Ok(answer)\n",
     "answer_bytes_max, seal_anew);\n        self.streams.extend(stream);\n        answer\n"),
    ("Y1", "only the first key is accepted", GATE,
     "accepted.find(|key| verify(key).is_ok())", "accepted.find(|_| false)"),
    ("Y2", "an answer is signed with the first key, whatever signed the request", GATE,
     "        if let Some(UsedKey(key)) = &request.key {\n",
     "        if let (Some(signed), Some(_)) = (&self.signed, &request.key)\n            && let Some(key) = &signed.keys.signing(request.purpose)\n        {\n"),
    ("Y3", "a key that was dropped is accepted", KEYS,
     "        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;\n", "        let _ = keys;\n"),
    ("Y4", "an answer is checked with the key of the moment", SEAL,
     "let key = request.key.as_ref().ok_or_else(|| {", "let key = &self.key(purpose).ok_or_else(|| {"),
    ("E1", "strangers keep their places", ADMISSION,
     "MakesRoom::Strangers => self.strangers.first().copied(),", "MakesRoom::Strangers => None,"),
    ("E2", "the newest stranger makes room", ADMISSION,
     "MakesRoom::Strangers => self.strangers.first().copied(),", "MakesRoom::Strangers => self.strangers.last().copied(),"),
    ("E3", "whoever has proven itself makes room like a stranger", ADMISSION,
     "    pub(super) fn prove(&mut self, id: u64) {\n        self.strangers.remove(&id);\n",
     "    pub(super) fn prove(&mut self, id: u64) {\n        let _ = id;\n"),
    ("E4", "a refusal proves that somebody is no stranger", CONNECTION,
     "self.prove_if(answer.status_code().0 < 300);", "self.prove_if(answer.status_code().0 < 600);"),
    ("E5", "bodies take as much memory as they like", BODIES,
     ".filter(|taken| *taken <= self.bytes_max)", ".filter(|taken| *taken < usize::MAX)"),
    ("E6", "the memory of a body is never given back", BODIES,
     "fetch_sub(self.bytes, Ordering::Relaxed)", "fetch_sub(0 * self.bytes, Ordering::Relaxed)"),
    ("N5", "on the cluster address nobody makes room", WIRING,
     "makes_room: MakesRoom::Strangers", "makes_room: MakesRoom::Nobody"),
    ("N6", "the cluster address reads the body of what it refuses", SERVICE,
     "                Ruling::Close(self.refused(&refusal))\n",
     "                let opened = self.gate.own_headers();\n"
     "                Ruling::Accept(Acceptance { body_bytes_max, is_proven: false, note: Some(Box::new(opened)) })\n"),
    ("A1", "nodes with other founding members work together", FOUNDED,
     "    if theirs == ours {\n", "    if !theirs.is_empty() {\n"),
    ("A2", "a directory of another founding is taken", RECOVERY,
     "if header.identity() != *identity {", "if header.identity().node != identity.node {"),
    ("A3", "a browser may send what a page of another site wants", FOREIGN,
     "&& !is_own(origin, request.header(\"Host\"))", "&& origin.is_empty()"),
    ("A4", "the cluster address does not ask where a request comes from", SERVICE,
     "route.and_then(|route| foreign::refusal(&request).map_or(Ok(route), Err));", "route;"),
    ("A5", "a request that comes back to a node is passed on again", PRIMES,
     "_ if request.header(HEADER_HOP).is_some() => {", "_ if request.header(HEADER_HOP) == Some(\"\") => {"),
    ("A6", "a daemon may report a worker on any machine", SERVICE,
     "self.gate.is_signed() && !self.may_report(", "!self.gate.is_signed() && !self.may_report("),
    ("A7", "a node's own address counts as a worker's", SERVICE,
     "if let Some(id) = NodeAddresses::new(self.id, &self.roster.nodes()).owner(worker) {",
     "if let Some(id) = NodeAddresses::new(self.id, &self.roster.nodes()).owner(worker).filter(|id| *id == 0) {"),
]


def plant(tree, file, old, new):
    path = tree / file
    text = path.read_text()
    must_stand_once(file, text, old)
    path.write_text(text.replace(old, new))
    return text


def must_be_rows(wanted):
    unknown = set(wanted) - {mutant[0] for mutant in MUTANTS}
    if unknown:
        sys.exit(f"there is no row {', '.join(sorted(unknown))}; `mutations.py --list` shows them")


def must_stand_once(file, text, old):
    if text.count(old) != 1:
        sys.exit(f"{file}: this must stand there exactly once, and stands {text.count(old)} times:\n{old}")


def cargo_test(tree, environment, arguments, seconds_max):
    """Builds these tests, however long that takes, and runs them for so long at most. Exit code and output; the code is
    None if they were still running, and "compiler" if they could not be built."""
    build = arguments[: arguments.index("--")] if "--" in arguments else arguments
    ran = subprocess.run(["cargo", "test", "--quiet", "--no-run", *build], cwd=tree, env=environment,
                         capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode != 0:
        return "compiler", ran.stderr
    # In a session of its own: what does not end is killed with all its children.
    tests = subprocess.Popen(["cargo", "test", "--quiet", "--no-fail-fast", *arguments], cwd=tree, env=environment, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = tests.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)
        tests.communicate()
        return None, ""
    return tests.returncode, output


def killed_by(tree, environment, file):
    """The tests that failed, or None if all passed."""
    for suite in SUITES[os.path.dirname(file)]:
        code, output = cargo_test(tree, environment, suite, SUITE_SECONDS_MAX)
        if code is None:
            return f"{' '.join(suite)}: still running after {SUITE_SECONDS_MAX} s"
        if code == "compiler":
            return "the compiler: " + next(line for line in output.splitlines() if line.startswith("error"))
        if code != 0:
            failed = list(dict.fromkeys(re.findall(r"^    ([\w:/ -]+)$", output, re.M)))
            return ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "") or "a crash"
    return None


def seeds_until_seen(tree, environment):
    """How many seeds the simulator ran until one failed, in words."""
    environment = dict(environment, RAKIT_SIM_SEEDS=str(SIMULATOR_SEEDS))
    arguments = ["--test", "simulation", "seeds_break_nothing"]
    code, output = cargo_test(tree, environment, arguments, SIMULATOR_SECONDS_MAX)
    if code is None:
        return f"one did not end in {SIMULATOR_SECONDS_MAX} s"
    if code == 0:
        return f"not in {SIMULATOR_SEEDS}"
    seeds = re.search(r"\(after (\d+) seeds\)", output)
    if seeds:
        return seeds.group(1)
    return "by coverage" if "these never happened" in output else "a crash"


def main():
    fast = "--fast" in sys.argv[1:]
    wanted = [argument for argument in sys.argv[1:] if argument != "--fast"]
    mutants = MUTANTS
    if wanted == ["--list"]:
        for row, title, file, *_ in mutants:
            print(f"{row:4} {title} ({file})")
        return
    if wanted == ["--check"]:
        for _, _, file, old, _ in mutants:
            must_stand_once(file, (ROOT / file).read_text(), old)
        print(f"each of {len(mutants)} defects has its place in the source")
        return
    if wanted:
        mutants = [mutant for mutant in mutants if mutant[0] in wanted]
        must_be_rows(wanted)
    with tempfile.TemporaryDirectory(prefix="rakit-mutations-") as directory:
        tree = Path(directory) / "tree"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
        environment = dict(os.environ, CARGO_TARGET_DIR=str(Path(directory) / "target"))
        print("| row | defect | killed by | seeds | seconds |\n| --- | --- | --- | --- | --- |", flush=True)
        survivors = 0
        for row, title, file, old, new in mutants:
            text = plant(tree, file, old, new)
            began = time.monotonic()
            killer = killed_by(tree, environment, file)
            # The simulator stands in for the threads and channels of node/ and for the network, so it cannot see a defect
            # there.
            unseen = file.startswith(("node/", "src/signing/", "src/http/")) or (killer and killer.startswith("the compiler"))
            unseen = unseen or fast
            seeds = "–" if unseen else seeds_until_seen(tree, environment)
            (tree / file).write_text(text)
            survivors += killer is None
            print(f"| {row} | {title} | {killer or '**survived**'} | {seeds} | {time.monotonic() - began:.0f} |", flush=True)
        print(f"\n{len(mutants) - survivors} of {len(mutants)} killed")
        sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
