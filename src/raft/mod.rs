//! Consensus: Raft, as a library without a single system call.
//!
//! # What Raft is
//! Five nodes shall hold the same table of servers, although messages get lost and nodes die. They cannot compare their
//! tables all the time: a table changes while somebody compares it. So Raft asks a simpler question. Can the nodes agree on
//! one *log*, a list of commands that only grows? If all nodes apply the same commands in the same order, all tables are
//! equal.
//!
//! Raft is described in two texts: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), below
//! "the paper", and Ongaro's thesis, "Consensus: Bridging Theory and Practice" (2014). Five words carry everything:
//!
//! * A *term* is a period with at most one leader. Terms are numbered: 1, 2, 3, … Every message carries the term of its
//!   sender. So a node always sees which of two messages belongs to an older time.
//! * The *leader* of a term is the only node that adds commands to the log. The other nodes are *followers*: they copy.
//! * A *majority* is more than half of all nodes, the dead ones included: three of five. Any two majorities have at least
//!   one node in common. This one fact makes Raft safe.
//! * An *entry* of the log is *committed* when the leader that made it knows it to be on the disks of a majority, and all
//!   entries before it are committed with it. A committed entry is never lost.
//! * A *candidate* is a node that asks the others for their votes. A node gives one vote per term.
//!
//! # One report, told along these files
//! Node 1 leads term 7. Nodes 2 to 5 follow. The daemon of server-2 reports a load of 12.5 %.
//!
//! 1. *The leader appends.* The report reaches node 1 as a command. `propose` (`replication.rs`) puts it into the leader's own
//!    log as a new entry, say index 120, term 7.
//! 2. *The leader sends, and writes.* `send_appends` makes one AppendEntries request for each follower. The request holds
//!    the new entry, and index and term of the entry before it. At the same time the leader's own disk begins to write. The
//!    order does not matter here: the request promises nothing about the leader's disk (thesis 10.2.1).
//! 3. *A follower checks.* `receive_append_entries` looks at the entry before the new one. Does the follower have an entry
//!    with this index and this term? If it does, both logs are equal up to there (the paper proves this in 5.3), and the
//!    new entry may follow. If not, the follower refuses, and says how far back the leader should look.
//! 4. *A follower writes, then answers.* The acknowledgement is a promise: "I have entry 120 on my disk". So the reply may only
//!    leave after the disk is done. `output.rs` has a type of its own for this: `SendOnceDurable`.
//! 5. *The leader counts.* `advance_commit` counts the disks that have entry 120: its own, and those of nodes 2 and 3. That
//!    is three of five. The entry is committed. Nodes 4 and 5 may be slow, or dead: nobody waits for them.
//! 6. *All nodes apply.* The leader hands entry 120 to its table (`commit_to` in `core.rs`), and answers the daemon. The next AppendEntries
//!    carries the new commit index, and the followers apply the entry, too. If no new entry comes, the next heartbeat carries
//!    it.
//!
//! # One election, told along these files
//! Somebody kills node 1 with `kill -9`.
//!
//! 1. *A follower notices.* Every message of the leader resets the follower's election timer (`reset_election_timer` in
//!    `election.rs`). Now no message comes. The timer of node 4 runs out first, since each node draws its timeout at random.
//!    (There is a quicker way to notice a dead process: `leader_gone`.)
//! 2. *It asks whether it could win.* Node 4 becomes a *pre-candidate*, and asks all nodes with PreVote (thesis 9.6). Nothing
//!    changes by this question: no term, no vote. A node that heard its leader a moment ago refuses. So a node whose own cable is
//!    loose cannot disturb the others.
//! 3. *It asks for votes.* Three of five said yes, node 4 included. Now node 4 becomes a *candidate* for term 8. It votes for
//!    itself, writes this to its disk, and then sends RequestVote (`begin_election`).
//! 4. *The others vote.* `receive_request_vote` asks two questions. Did I give my vote of term 8 to somebody else? Is the
//!    candidate's log older than mine? Twice "no" means: the vote goes to node 4. It is written to the disk before the answer leaves,
//!    so that a restart does not make the node vote twice.
//! 5. *Why nothing is lost.* Entry 120 is on the disks of a majority. Node 4 needs the votes of a majority. So at least one voter
//!    has entry 120, and it votes only for a candidate whose log is not older than its own. Whoever wins has entry 120
//!    (5.4.1).
//! 6. *The new leader begins.* `count_vote` finds three votes, `become_leader` takes over. Node 4 appends an entry without a
//!    command, a *no-op* of term 8. When this entry is committed, everything before it is committed as well. A leader never counts the
//!    disks for an entry of an *earlier* term: Figure 8 of the paper shows how that would lose an entry (5.4.2).
//! 7. *The old leader comes back.* Node 1 starts again: as a follower in term 7, without a leader. The first message with
//!    term 8 raises its term (`become_follower`). Entries that it had and that nobody else has are replaced by the new
//!    leader's: they were never committed, so nobody was told that they were.
//!
//! Without a majority there is no leader, and nothing new is committed. That is the price: Raft prefers no answer to a wrong
//! one. (Rakit still routes requests then, from the last table that was agreed.)
//!
//! # How the code maps to the papers
//! | file | holds | source |
//! | --- | --- | --- |
//! | `message.rs` | the RPCs' arguments and results, entries, what must be remembered | Figures 2 and 13 |
//! | `event.rs` | what can happen to a node | |
//! | `founding.rs` | the first entry of every log: the cluster's name and its first members | |
//! | `core.rs` | the state, the entrance for events, invariants | Figure 2 |
//! | `role.rs` | the four roles, with what exists in each alone | Figure 2, "Volatile state" |
//! | `transitions.rs` | every change of a role | Figure 4 |
//! | `configuration.rs`, `members.rs` | the lists of members, and how they change | thesis, chapter 4 |
//! | `joining.rs` | a node without memory: how it becomes a member that counts, how a cluster begins | |
//! | `founding_round.rs` | what such a node has heard from the others in one round of questions | |
//! | `election.rs` | elections, PreVote, leader stickiness, the quick start after a death | 5.2, 5.4.1; thesis 9.6, 4.2.3 |
//! | `replication.rs` | AppendEntries on both sides, the commit rule, heartbeats, CheckQuorum | 5.3, 5.4.2; thesis 6.2 |
//! | `snapshot.rs`, `incoming.rs` | InstallSnapshot on both sides | 7, Figure 13 |
//! | `transfer.rs` | handing leadership over before a clean stop | thesis 3.10 |
//! | `log.rs` | the log in memory | 5.3, 7 |
//! | `progress.rs` | what a leader knows of each follower | Figure 2 |
//! | `pace.rs` | how much one append may carry to it | |
//! | `output.rs` | the decisions, told apart by what they must wait for | 5.1 "persistent state", thesis 10.2.1 |
//! | `settings.rs`, `random.rs` | the settings, the random draws | |
//! | `picture.rs`, `fingerprint.rs` | the core as the page shows it, and as the explorer compares it | |
//!
//! docs/raft.md goes through both papers section by section and through Figure 2 line by line.
//!
//! # How it is driven
//! The core owns no socket, file, clock or thread. Whoever drives it (the replica in `src/replica/`, the explorer in
//! `tests/`) calls [`Raft::step`] with whatever happened, and the time; then [`Raft::take_output`], and does what it
//! says in the order that [`Output`] demands; and comes back at [`Raft::deadline`] at the latest. Time, random draws
//! (from a seed), messages and the disk's completions all come in from outside: the same inputs give the same outputs,
//! byte for byte, which is what makes a failure found by a random schedule a failure that can be looked at.
//!
//! # What is left out, and why
//! * *Joint consensus* (paper, section 6): members change one at a time (thesis, chapter 4). A dead node changes nothing
//!   by itself: the majority of five stays three, whoever is dead.
//! * *Reads through the log or a lease* (section 8, thesis 6.4): requests are routed from each node's own applied state, by
//!   design, leader or no leader; its age is told.
//! * *Exactly-once client sessions* (section 8, thesis 6.3): the commands carry (epoch, sequence) and applying one twice
//!   changes nothing, so that is built into the state machine.
//! * *Pipelining* (thesis 10.2.1): one AppendEntries is under way to each follower at a time, as HTTP/1.1 does it; what
//!   arrives meanwhile leaves with the next. Batches grow with the load by themselves.

mod configuration;
mod core;
mod election;
mod event;
mod fingerprint;
mod founding;
mod founding_round;
mod incoming;
mod joining;
mod log;
mod members;
mod message;
mod output;
mod pace;
mod picture;
mod progress;
mod random;
mod replication;
mod role;
mod settings;
mod snapshot;
mod transfer;
mod transitions;

pub use configuration::{Configuration, MEMBERS_MAX, Member, Members};
pub use core::Raft;
pub use event::Event;
pub use founding::{FOUNDING_INDEX, FOUNDING_TERM, Founding};
pub use log::Log;
pub use members::*;
pub use message::*;
pub use output::*;
pub use picture::{FollowerPicture, LOG_SHOWN_MAX, Picture};
pub use random::Random;
pub use role::RoleName;
pub use settings::{INDEX_JUMP_MAX, Settings, StateCheck, TERM_JUMP_MAX};
