//! The behaviour of the Raft core as readable transcripts: one script in `tests/raft/scripts/` for each rule of the
//! paper's Figure 2, for its Figures 7 and 8, and for what the thesis adds. The file names are the list of cases.
//!
//! A script has blocks of commands, `---`, and what happened then: the lines of the core's notices (`role: node 1 leads …`),
//! the messages at the moment they are sent (`1→2 AppendEntries term=2 prev=3/1 entries=4/2:x commit=3`), and `✗` before those
//! that are lost. A position in the log is written index/term. All is deterministic. After a deliberate change of behaviour:
//! `UPDATE_GOLDENFILES=1 cargo test --test raft transcripts::`, then read the difference.
//!
//! The commands (N is a node, times are milliseconds of the virtual clock):
//!
//! | command | does |
//! | --- | --- |
//! | `cluster N [chunk=BYTES] [entries=N] [trailing=N]` | begins with N new nodes; bounds of snapshots' chunks and appends |
//! | `founded N` | begins with N nodes that have just founded the cluster |
//! | `node N term=T [vote=N] [log="1,1,4"] [snapshot=I]` | gives a node this past: the terms of its entries |
//! | `campaign N` | N's election timeout passes, and all that follows is delivered |
//! | `tick N`, `sleep MS`, `run MS` | N's timer fires; only time passes; network and clocks run |
//! | `run-up-to N` | network and clocks run until a millisecond before N's timer fires |
//! | `deliver [from=N] [to=N] [count=K]` | what is under way now arrives (without what that causes) |
//! | `settle` | what is under way arrives, and all that it causes |
//! | `drop`, `lose`, `double` (filters as `deliver`) | lost silently; lost with word to the sender; delivered twice |
//! | `propose N X…` | clients want these commands, in one batch of the loop each |
//! | `cut A B`, `isolate N`, `heal` | A's messages to B vanish; N alone; all mended |
//! | `hold N`, `persist N`, `release N` | N's disk is slow; finishes one write; is fast again |
//! | `crash N [kept=K]`, `restart N` | the process dies (K records of unfinished writes survive); starts |
//! | `wipe N` | the process dies, its disk is emptied, and it starts without memory |
//! | `compact N`, `transfer N [to=N]`, `gone N` | a snapshot; leadership handed over; N's watch on its leader closes |
//! | `machine N`, `add L N`, `remove L N` | a further node on an empty directory; L is asked to add or to remove N |
//! | `forge FROM TO vote/prevote/append/install/timeout …` | a message that no core wrote: for the receivers' rules |
//! | `status`, `logs`, `in-flight`, `progress N` | shows the nodes, their logs, what is under way, a leader's view |

use std::error::Error;
use std::time::Duration;

use crate::harness::{Cluster, Message, Payload, command, entries_of_terms, words};
use goldenscript::{ArgumentConsumer, Command, Context};
use rakit::raft::{
    AppendEntries, Entry, Event, HardState, Index, InstallSnapshot, NodeId, RequestVote, RpcRequest, Term,
    TimeoutNow,
};

/// What a script talks to. `plays.rs` runs the same commands.
pub struct Script {
    pub cluster: Cluster,
}

/// The numbers of requests that a script forges begin here, far from the cores' own.
const FORGED_RPC: u64 = 1_000_000;

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn key<T: std::str::FromStr>(arguments: &mut ArgumentConsumer<'_>, name: &str) -> Result<Option<T>, String> {
    arguments.take_key(name).map(number).transpose()
}

fn needed<T: std::str::FromStr>(arguments: &mut ArgumentConsumer<'_>, name: &str) -> Result<T, String> {
    key(arguments, name)?.ok_or_else(|| format!("{name}= is missing"))
}

fn next_number<T: std::str::FromStr>(arguments: &mut ArgumentConsumer<'_>) -> Result<T, String> {
    number(arguments.next_pos().ok_or("a number is missing")?)
}

/// A position in the log, index/term.
fn place(text: &str) -> Result<(Index, Term), String> {
    let (index, term) = text.split_once('/').ok_or_else(|| format!("`{text}` is not index/term"))?;
    Ok((number(index)?, number(term)?))
}

/// Which of the messages under way are meant.
fn filter(cluster: &Cluster, arguments: &mut ArgumentConsumer<'_>) -> Result<Vec<u64>, String> {
    let from: Option<NodeId> = key(arguments, "from")?;
    let to: Option<NodeId> = key(arguments, "to")?;
    let count: usize = key(arguments, "count")?.unwrap_or(usize::MAX);
    let meant = |message: &&Message| {
        from.is_none_or(|from| from == message.from) && to.is_none_or(|to| to == message.to)
    };
    let ids: Vec<u64> =
        cluster.in_flight.iter().filter(meant).take(count).map(|message| message.id).collect();
    if ids.is_empty() { Err("no such message is under way".into()) } else { Ok(ids) }
}

fn position(cluster: &Cluster, id: u64) -> Option<usize> {
    cluster.in_flight.iter().position(|message| message.id == id)
}

impl Script {
    pub fn new() -> Script {
        Script { cluster: Cluster::new(1) }
    }

    /// The log of each node, one line each.
    pub fn logs(&self) -> String {
        let cluster = &self.cluster;
        let line = |id: NodeId| {
            let node = cluster.node(id);
            let log = node.raft.as_ref().map_or_else(
                || node.disk.entries.clone(),
                |raft| raft.log().slice(raft.log().first_index(), usize::MAX, usize::MAX),
            );
            let log: Vec<String> = log.iter().map(words::entry).collect();
            let from = node.raft.as_ref().map_or(node.disk.snapshot_index(), |raft| raft.snapshot_index());
            let snapshot = if from > 0 { format!("[snapshot {from}] ") } else { String::new() };
            let state = if node.raft.is_some() { "" } else { " (down, on disk)" };
            format!("{id}: {snapshot}{}{state}", log.join(" "))
        };
        cluster.ids().into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn forge(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Result<(), Box<dyn Error>> {
        let cluster = &mut self.cluster;
        let (from, to): (NodeId, NodeId) = (next_number(arguments)?, next_number(arguments)?);
        let kind = arguments.next_pos().ok_or("the kind of the message is missing")?;
        let term: Term = needed(arguments, "term")?;
        let request = match kind {
            "vote" | "prevote" => {
                let last = arguments.take_key("last").map(place).transpose()?.unwrap_or((0, 0));
                let vote = RequestVote {
                    term,
                    candidate_id: key(arguments, "candidate")?.unwrap_or(from),
                    last_log_index: last.0,
                    last_log_term: last.1,
                    leadership_transfer: key(arguments, "transfer")?.unwrap_or(false),
                };
                if kind == "vote" { RpcRequest::RequestVote(vote) } else { RpcRequest::PreVote(vote) }
            }
            "append" => {
                let prev = arguments.take_key("prev").map(place).transpose()?.unwrap_or((0, 0));
                let entries = arguments.take_key("entries").unwrap_or_default();
                let entries = entries.split(',').filter(|entry| !entry.is_empty()).map(|entry| {
                    place(entry).map(|(index, term)| Entry {
                        index,
                        term,
                        command: command(&format!("{index}@{term}")),
                    })
                });
                RpcRequest::AppendEntries(AppendEntries {
                    term,
                    leader_id: from,
                    prev_log_index: prev.0,
                    prev_log_term: prev.1,
                    entries: entries.collect::<Result<_, _>>()?,
                    leader_commit: key(arguments, "commit")?.unwrap_or(0),
                    admit: None,
                })
            }
            "install" => {
                let last = place(arguments.take_key("last").ok_or("last= is missing")?)?;
                // The state's text is that of another cluster's node with as many entries of that term.
                let mut machine = crate::harness::Machine::default();
                for entry in entries_of_terms(&vec![last.1; last.0 as usize]) {
                    machine = machine.after(&entry);
                }
                let text = machine.to_state().as_json().to_owned();
                let damage: bool = key(arguments, "damaged")?.unwrap_or(false);
                let checksum = crc32fast_of(&text) ^ u32::from(damage);
                let offset: usize = key(arguments, "offset")?.unwrap_or(0);
                let end = key(arguments, "bytes")?.map_or(text.len(), |bytes: usize| offset + bytes);
                RpcRequest::InstallSnapshot(InstallSnapshot {
                    term,
                    leader_id: from,
                    last_included_index: last.0,
                    last_included_term: last.1,
                    offset: offset as u64,
                    data: text[offset..end].to_owned(),
                    done: end == text.len(),
                    checksum,
                    members: None,
                })
            }
            "timeout" => RpcRequest::TimeoutNow(TimeoutNow { term, leader_id: from }),
            other => return Err(format!("unknown message `{other}`").into()),
        };
        // From here on, the nodes are not all honest.
        cluster.checked = false;
        let incarnation = 0; // No process: the reply is shown, and reaches nobody.
        let payload = Payload::Request { rpc: FORGED_RPC, request };
        let line = format!("(forged) {from}→{to} {}", words::payload(&payload));
        cluster.transcript.get_or_insert_default().push(line);
        let message = Message { id: 0, due: cluster.now, from, to, incarnation, digest: 0, payload };
        cluster.in_flight.insert(0, message);
        cluster.deliver(0);
        cluster.in_flight.retain(|message| message.incarnation != 0);
        Ok(())
    }

    fn show(&self, what: &str, arguments: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let cluster = &self.cluster;
        Ok(match what {
            "status" => cluster.describe(),
            "logs" => self.logs(),
            "in-flight" => {
                let line = |message: &Message| {
                    format!("{}→{} {}", message.from, message.to, words::payload(&message.payload))
                };
                let lines: Vec<String> = cluster.in_flight.iter().map(line).collect();
                if lines.is_empty() { "(nothing)".into() } else { lines.join("\n") }
            }
            "progress" => {
                let leader: NodeId = next_number(arguments)?;
                let line = |id: &NodeId| {
                    let (matched, next) = cluster.raft(leader).progress(*id)?;
                    Some(format!("node {id}: match={matched} next={next}"))
                };
                cluster.ids().iter().filter_map(line).collect::<Vec<_>>().join("\n")
            }
            other => return Err(format!("unknown command `{other}`").into()),
        })
    }
}

/// CRC-32 as the core computes it (the tests do not see the crate's own dependencies under another name).
fn crc32fast_of(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let mut arguments = command.consume_args();
        let arguments = &mut arguments;
        let mut shown = String::new();
        match command.name.as_str() {
            "cluster" => {
                let count = next_number(arguments)?;
                let chunk: Option<usize> = key(arguments, "chunk")?;
                let entries: Option<usize> = key(arguments, "entries")?;
                let trailing: Option<u64> = key(arguments, "trailing")?;
                self.cluster = Cluster::with(count, |settings| {
                    settings.snapshot_chunk_bytes = chunk.unwrap_or(settings.snapshot_chunk_bytes);
                    settings.append_entries_max = entries.unwrap_or(settings.append_entries_max);
                    settings.trailing_entries = trailing.unwrap_or(settings.trailing_entries);
                });
                self.cluster.transcript = Some(Vec::new());
            }
            "founded" => {
                self.cluster = Cluster::founded(next_number(arguments)?, |_| {});
                self.cluster.transcript = Some(Vec::new());
            }
            "node" => {
                let id = next_number(arguments)?;
                let hard_state = HardState {
                    term: needed(arguments, "term")?,
                    voted_for: key(arguments, "vote")?,
                    joining: false,
                };
                let terms = arguments.take_key("log").unwrap_or_default();
                let terms = terms.split(',').filter(|term| !term.is_empty()).map(number);
                let terms = terms.collect::<Result<Vec<Term>, _>>()?;
                let snapshot = key(arguments, "snapshot")?.unwrap_or(0);
                self.cluster.set_node(id, hard_state, entries_of_terms(&terms), snapshot);
            }
            "campaign" => self.cluster.campaign(next_number(arguments)?),
            "tick" => self.cluster.tick(next_number(arguments)?),
            "sleep" => self.cluster.now += Duration::from_millis(next_number(arguments)?),
            "run" => self.cluster.run_for(Duration::from_millis(next_number(arguments)?)),
            "run-up-to" => {
                let deadline = self.cluster.raft(next_number(arguments)?).deadline();
                let duration = deadline.saturating_sub(self.cluster.now + Duration::from_millis(1));
                self.cluster.run_for(duration);
            }
            "settle" => self.cluster.settle(),
            "deliver" | "drop" | "lose" | "double" => {
                for id in filter(&self.cluster, arguments)? {
                    let Some(position) = position(&self.cluster, id) else { continue };
                    match command.name.as_str() {
                        "deliver" => self.cluster.deliver(position),
                        "drop" => self.cluster.drop_message(position),
                        "lose" => self.cluster.lose_message(position),
                        _ => self.cluster.deliver_twice(position),
                    }
                }
            }
            "propose" => {
                let id = next_number(arguments)?;
                while let Some(text) = arguments.next_pos() {
                    self.cluster.propose(id, crate::harness::command(text));
                }
            }
            "cut" => {
                let cut = (next_number(arguments)?, next_number(arguments)?);
                self.cluster.cut.insert(cut);
            }
            "isolate" => self.cluster.isolate(next_number(arguments)?),
            "heal" => self.cluster.heal(),
            "hold" => {
                let id: NodeId = next_number(arguments)?;
                self.cluster.node_mut(id).disk_held = true;
            }
            "persist" => {
                if !self.cluster.persist(next_number(arguments)?) {
                    return Err("its disk has nothing to do".into());
                }
            }
            "release" => self.cluster.release_disk(next_number(arguments)?),
            "crash" => {
                let id = next_number(arguments)?;
                self.cluster.crash(id, key(arguments, "kept")?.unwrap_or(0));
            }
            "wipe" => self.cluster.wipe(next_number(arguments)?),
            "restart" => self.cluster.restart(next_number(arguments)?),
            "compact" => self.cluster.compact(next_number(arguments)?),
            "transfer" => {
                let id = next_number(arguments)?;
                let to = key(arguments, "to")?;
                self.cluster.step(id, Event::Transfer { to });
            }
            "machine" => self.cluster.add_machine(next_number(arguments)?),
            "add" => {
                let leader = next_number(arguments)?;
                self.cluster.add(leader, next_number(arguments)?);
            }
            "remove" => {
                let leader = next_number(arguments)?;
                self.cluster.remove(leader, next_number(arguments)?);
            }
            "gone" => self.cluster.leader_gone(next_number(arguments)?),
            "forge" => self.forge(arguments)?,
            other => shown = self.show(other, arguments)?,
        }
        arguments.reject_next()?;
        let mut lines: Vec<String> = self.cluster.transcript.as_mut().map(std::mem::take).unwrap_or_default();
        if !shown.is_empty() {
            lines.push(shown);
        }
        Ok(lines.join("\n"))
    }
}

/// Each file in the directory is a case. One test for all, which names every one that failed.
#[test]
fn the_transcripts_are_as_recorded() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft/scripts");
    let mut cases: Vec<_> = std::fs::read_dir(&directory)
        .expect("the directory of the cases is part of the source")
        .map(|entry| entry.expect("its entries can be read").path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 30, "cases are missing: only {} are there", cases.len());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let run = || goldenscript::run(&mut Script::new(), case);
            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match std::panic::catch_unwind(run) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{name}: {error}")),
                Err(_) => Some(format!("{name}: see above")),
            }
        })
        .collect();
    assert!(failed.is_empty(), "transcripts differ:\n{}", failed.join("\n"));
}
