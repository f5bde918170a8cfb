//! Members that change during the chaos: an operator types `rakit members add`, `remove` and `replace` at random, whatever
//! happens to the nodes meanwhile, and notes what was acknowledged.
//!
//! One node, [`NEWCOMER`], is no founder. It is added before the faults begin. At the end, the operator adds all that are
//! outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use serde_json::Value;

use super::clients::{lock, status};
use super::dice::Dice;
use super::place::{Hosts, NODES, NodeId};
use super::{LOOK_AGAIN, PATIENCE};

/// The node that is no founder.
pub const NEWCOMER: NodeId = NODES;

/// So many members are left at least: enough for a majority with one of them dead.
const MEMBERS_MIN: usize = 3;

/// The pause between two changes, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 1_500);

/// The program tries for twenty seconds, and may then wait for one answer.
const PROGRAM_SECONDS: &str = "90";

/// What the leader says to a change that it does not begin, so that nothing has changed.
const ALREADY: &str = "there is a member with this id already";
const NO_MEMBER: &str = "there is no member with this id";
const NOT_BEGUN: [&str; 2] = ["fewer than a majority answer", "it is the last member that votes"];

/// What the operator types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Add,
    Remove,
    Replace,
}

/// How a node stands to the members, by the last answer that the operator got about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It was acknowledged: a member.
    Inside,
    /// It was acknowledged: none.
    Outside,
    /// The last change of it had no clear answer. The guess is for the next change alone.
    Unclear { guess_inside: bool },
}

impl Standing {
    fn seems_inside(self) -> bool {
        matches!(self, Self::Inside | Self::Unclear { guess_inside: true })
    }
}

#[derive(Debug)]
struct Notes {
    nodes: BTreeMap<NodeId, Standing>,
    /// The node that the operator is changing.
    changing: Option<NodeId>,
    /// The node whose directory is being emptied.
    emptied: Option<NodeId>,
    /// The highest index that was acknowledged.
    index: u64,
    acknowledged: BTreeMap<Change, u32>,
    not_begun: u32,
    unclear: u32,
}

/// The operator, and what he knows.
#[derive(Debug)]
pub struct Members {
    config: PathBuf,
    addresses: BTreeMap<NodeId, (SocketAddr, SocketAddr)>,
    notes: Mutex<Notes>,
}

impl Members {
    /// The founders are members, and the newcomer is not.
    pub fn new(directory: &Path, hosts: &Hosts) -> Self {
        let standing = |id| if id == NEWCOMER { Standing::Outside } else { Standing::Inside };
        Self {
            config: directory.join("cluster.toml"),
            addresses: (1..=NODES).map(|id| (id, (hosts.cluster(id), hosts.public(id)))).collect(),
            notes: Mutex::new(Notes {
                nodes: (1..=NODES).map(|id| (id, standing(id))).collect(),
                changing: None,
                emptied: None,
                index: 0,
                acknowledged: BTreeMap::new(),
                not_begun: 0,
                unclear: 0,
            }),
        }
    }

    /// Changes members until it is over.
    pub fn change(&self, mut dice: Dice, over: &AtomicBool, violations: &Sender<String>) {
        while !over.load(Ordering::Relaxed) {
            let plan = self.plan(&mut dice);
            if let Some((change, id)) = plan
                && let Err(violation) = self.make(change, id)
            {
                let _ = violations.send(violation);
            }
            // The pace of the operator, and time for a node to be outside.
            std::thread::sleep(dice.millis(PAUSE_MS.0, PAUSE_MS.1));
        }
    }

    /// The next change, of a node that is not emptied just now.
    fn plan(&self, dice: &mut Dice) -> Option<(Change, NodeId)> {
        let mut notes = lock(&self.notes);
        let (inside, outside): (Vec<NodeId>, Vec<NodeId>) =
            notes.nodes.keys().partition(|id| notes.nodes[id].seems_inside());
        let outside: Vec<NodeId> = outside.into_iter().filter(|id| notes.emptied != Some(*id)).collect();
        let mut wishes = Vec::new();
        if !outside.is_empty() {
            wishes.push(Change::Add);
        }
        if inside.len() > MEMBERS_MIN {
            wishes.extend([Change::Remove, Change::Replace]);
        }
        let change = *wishes.get(dice.below(wishes.len().max(1)))?;
        let of = if change == Change::Add { outside } else { inside };
        let id = of[dice.below(of.len())];
        notes.changing = Some(id);
        Some((change, id))
    }

    /// Types it, and notes what came of it.
    ///
    /// # Errors
    /// What must not be.
    fn make(&self, change: Change, id: NodeId) -> Result<(), String> {
        let (cluster, public) = self.addresses[&id];
        let mut command = Command::new("timeout");
        command.args([PROGRAM_SECONDS, env!("CARGO_BIN_EXE_rakit"), "members"]);
        let (id_text, cluster, public) = (id.to_string(), cluster.to_string(), public.to_string());
        match change {
            Change::Remove => command.args(["remove", &id_text]),
            Change::Add => command.args(["add", &id_text, "--cluster", &cluster, "--public", &public]),
            Change::Replace => {
                command.args(["replace", &id_text, "--cluster", &cluster, "--public", &public])
            }
        };
        let output = command.arg("--config").arg(&self.config).output().expect("coreutils are here");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&output.stderr);
        let mut notes = lock(&self.notes);
        notes.changing = None;
        let before = notes.nodes[&id];
        let what = format!("`rakit members {change:?} {id}`, when node {id} was {before:?}");
        let after = match output.status.code() {
            Some(0) => {
                let index = said.rsplit_once("(entry ").and_then(|(_, rest)| rest.split_once(')'));
                let index = index.and_then(|(index, _)| index.parse().ok());
                let index: u64 = index.ok_or_else(|| format!("{what}: no index in {said:?}"))?;
                if index <= notes.index {
                    return Err(format!("{what}: entry {index}, and {} was acknowledged", notes.index));
                }
                notes.index = index;
                *notes.acknowledged.entry(change).or_default() += 1;
                if change == Change::Remove { Standing::Outside } else { Standing::Inside }
            }
            Some(1) if said.contains(ALREADY) && change == Change::Add => match before {
                Standing::Outside => return Err(format!("{what}: {said}")),
                _ => Standing::Unclear { guess_inside: true },
            },
            Some(1) if said.contains(NO_MEMBER) => match before {
                Standing::Inside => return Err(format!("{what}: {said}")),
                _ => Standing::Unclear { guess_inside: false },
            },
            // Half of a replacement may have been made.
            Some(1) if change != Change::Replace && NOT_BEGUN.iter().any(|why| said.contains(why)) => {
                notes.not_begun += 1;
                before
            }
            Some(1) => {
                notes.unclear += 1;
                Standing::Unclear { guess_inside: change != Change::Remove }
            }
            code => return Err(format!("{what}: exit code {code:?}: {said}")),
        };
        notes.nodes.insert(id, after);
        Ok(())
    }

    /// Adds the newcomer. Nothing else goes on yet.
    ///
    /// # Errors
    /// It was not added.
    pub fn begin(&self) -> Result<(), String> {
        let added = self.add_in_peace(NEWCOMER);
        lock(&self.notes).acknowledged.clear(); // What counts is what is acknowledged among faults.
        added
    }

    /// Adds a node that is outside, and waits until that is acknowledged. On a busy machine an election may come between: then
    /// the change may not have begun, or what came of it is not known, and the operator replaces what may be there.
    fn add_in_peace(&self, id: NodeId) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut change = Change::Add;
        loop {
            self.make(change, id)?;
            let standing = lock(&self.notes).nodes[&id];
            match standing {
                Standing::Inside => return Ok(()),
                _ if Instant::now() > deadline => {
                    return Err(format!("node {id} was not added in peace: {standing:?}"));
                }
                Standing::Outside => change = Change::Add,
                Standing::Unclear { .. } => change = Change::Replace,
            }
        }
    }

    /// One of these nodes that is surely no member, and is not being changed. Until it is released, nobody adds it.
    pub fn hold_outsider(&self, among: &[NodeId]) -> Option<NodeId> {
        let mut notes = lock(&self.notes);
        if notes.emptied.is_some() {
            return None;
        }
        let is_free = |id: &&NodeId| notes.nodes[id] == Standing::Outside && notes.changing != Some(**id);
        let id = among.iter().find(is_free).copied();
        notes.emptied = id;
        id
    }

    /// Takes [`hold_outsider`](Self::hold_outsider) back.
    pub fn release_outsider(&self) {
        lock(&self.notes).emptied = None;
    }

    /// The changes that were never acknowledged among faults.
    pub fn missing(&self) -> Vec<Change> {
        let notes = lock(&self.notes);
        let all = [Change::Add, Change::Remove, Change::Replace];
        all.into_iter().filter(|change| !notes.acknowledged.contains_key(change)).collect()
    }

    /// For the last lines.
    pub fn summary(&self) -> String {
        let notes = lock(&self.notes);
        format!(
            "members: {:?} acknowledged, {} not begun, {} without a clear answer",
            notes.acknowledged, notes.not_begun, notes.unclear
        )
    }

    /// After the last fault: waits until all members go by one committed list, holds it against what was acknowledged, and
    /// then adds all that are outside.
    pub fn judge(&self, complaints: &crossbeam_channel::Receiver<String>) -> Vec<String> {
        let (index, members) = match self.one_list(complaints) {
            Ok(list) => list,
            Err(why) => return vec![why],
        };
        let mut found = Vec::new();
        let (nodes, newest) = {
            let notes = lock(&self.notes);
            (notes.nodes.clone(), notes.index)
        };
        if index < newest {
            found.push(format!("the list of members is that of entry {index}; {newest} was acknowledged"));
        }
        for (id, standing) in &nodes {
            let is_inside = members.contains(id);
            match standing {
                Standing::Inside if !is_inside => found
                    .push(format!("node {id} was added, which was acknowledged, and is not in {members:?}")),
                Standing::Outside if is_inside => found
                    .push(format!("node {id} was removed, which was acknowledged, and is in {members:?}")),
                _ => {}
            }
        }
        for id in nodes.keys().filter(|id| !members.contains(id)) {
            lock(&self.notes).nodes.insert(*id, Standing::Outside);
            if let Err(violation) = self.add_in_peace(*id) {
                found.push(violation);
            }
        }
        if found.is_empty() {
            let all: Vec<NodeId> = nodes.keys().copied().collect();
            match self.one_list(complaints) {
                Ok((_, members)) if members == all => {}
                Ok((_, members)) => {
                    found.push(format!("all nodes were added, and the members are {members:?}"))
                }
                Err(why) => found.push(why),
            }
        }
        found
    }

    /// Waits until a leader's list is committed, all in it vote, and all of them show the same. Gives its index and the ids.
    fn one_list(
        &self,
        complaints: &crossbeam_channel::Receiver<String>,
    ) -> Result<(u64, Vec<NodeId>), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses: BTreeMap<NodeId, Value> =
                self.addresses.iter().filter_map(|(id, (_, public))| Some((*id, status(*public)?))).collect();
            if let Some(list) = agreed(&statuses, &self.addresses) {
                return Ok(list);
            }
            if Instant::now() > deadline {
                let lists: Vec<String> = statuses
                    .iter()
                    .map(|(id, status)| {
                        format!(
                            "node {id}: term {}, leader {}, {} of entry {}: {}",
                            status["term"],
                            status["leader"],
                            status["membership"],
                            status["members_index"],
                            status["members"]
                        )
                    })
                    .collect();
                return Err(format!("the nodes do not come to one list of members: {lists:#?}"));
            }
            if let Ok(complaint) = complaints.recv_timeout(LOOK_AGAIN) {
                return Err(complaint);
            }
        }
    }
}

/// The index and the ids, if the newest leader's list is that of all whom it names.
fn agreed(
    statuses: &BTreeMap<NodeId, Value>,
    addresses: &BTreeMap<NodeId, (SocketAddr, SocketAddr)>,
) -> Option<(u64, Vec<NodeId>)> {
    let newest = statuses
        .values()
        .filter(|status| status["role"] == "leader")
        .max_by_key(|status| status["term"].as_u64())?;
    let index = newest["members_index"].as_u64()?;
    let list = newest["members"].as_array()?;
    if index > newest["commit_index"].as_u64()? {
        return None;
    }
    let mut ids = Vec::new();
    for member in list {
        let id = NodeId::try_from(member["id"].as_u64()?).ok()?;
        let (cluster, public) = addresses.get(&id)?;
        let as_told = member["cluster"] == cluster.to_string() && member["public"] == public.to_string();
        let theirs = statuses.get(&id)?;
        let same =
            ["members", "members_index", "leader", "term"].iter().all(|key| theirs[key] == newest[key]);
        if !as_told || !same || member["voter"] != true || theirs["membership"] != "voter" {
            return None;
        }
        ids.push(id);
    }
    Some((index, ids))
}
