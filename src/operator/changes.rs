//! Finds what changed between two answers of a node, and gives one sentence per change. `rakit up` and `rakit
//! status --watch` print the sentences where no table can be drawn; `rakit up` also logs them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rakit::protocol::Status;
use rakit::raft::RoleName;

use super::comparison::{Asked, NoAnswer, clean, freshest};

/// The latest answer of each node, and the state that was reported last.
#[derive(Debug)]
pub struct Story {
    /// One per address that is asked, in its order.
    answers: Vec<Asked>,
    /// Whether each server is alive, as reported last.
    reported_alive: BTreeMap<String, bool>,
    /// The servers that were drained, as reported last.
    reported_drained: BTreeSet<String>,
    /// The highest applied index of the tables that were reported. An older table, of a node that lags, is
    /// ignored.
    reported_index: u64,
}

impl Story {
    /// Nobody has answered yet.
    pub fn new(addresses: &[SocketAddr]) -> Story {
        Story {
            answers: addresses.iter().map(|address| not_asked(*address)).collect(),
            reported_alive: BTreeMap::new(),
            reported_drained: BTreeSet::new(),
            reported_index: 0,
        }
    }

    /// From now on, these addresses are asked. What is known of those that were asked before stays.
    pub fn follow(&mut self, addresses: &[SocketAddr]) {
        let before = std::mem::take(&mut self.answers);
        let answer = |address: &SocketAddr| {
            let known = before.iter().find(|answer| answer.address == *address).cloned();
            known.unwrap_or_else(|| not_asked(*address))
        };
        self.answers = addresses.iter().map(answer).collect();
    }

    /// The latest answers.
    pub fn answers(&self) -> &[Asked] {
        &self.answers
    }

    /// Stores the newer answer of the node at `position`, and gives one sentence for each change in it.
    pub fn take(&mut self, position: usize, answer: Asked) -> Vec<String> {
        let Some(known) = self.answers.get_mut(position) else { return Vec::new() };
        let before = std::mem::replace(known, answer);
        let mut sentences = Vec::new();
        match (&before.status, &self.answers[position].status) {
            (Ok(before), Ok(after)) => sentences.extend(role_change(before, after)),
            (Err(_), Ok(after)) => {
                sentences.push(format!("node {} answers", after.node));
                if after.role == RoleName::Leader {
                    sentences.push(leads(after));
                }
            }
            (Ok(before), Err(reason)) => {
                sentences.push(format!("node {} does not answer: {reason}", before.node));
            }
            (Err(_), Err(_)) => {}
        }
        self.tell_servers(&mut sentences);
        sentences
    }

    fn tell_servers(&mut self, sentences: &mut Vec<String>) {
        let Some(status) = freshest(&self.answers) else { return };
        if status.applied_index < self.reported_index {
            return;
        }
        self.reported_index = status.applied_index;
        self.reported_alive.retain(|name, _| {
            let is_there = status.servers.iter().any(|server| server.id == *name);
            if !is_there {
                self.reported_drained.remove(name);
                sentences.push(format!("{} is forgotten: it left the table", clean(name)));
            }
            is_there
        });
        for server in &status.servers {
            if self.reported_alive.insert(server.id.clone(), server.alive) != Some(server.alive) {
                let state = if server.alive { "alive" } else { "dead" };
                sentences.push(format!("{} is {state}", clean(&server.id)));
            }
            if server.drained && self.reported_drained.insert(server.id.clone()) {
                sentences.push(format!("{} is drained: it gets no new requests", clean(&server.id)));
            } else if !server.drained && self.reported_drained.remove(&server.id) {
                sentences.push(format!("{} is undrained: it may get requests again", clean(&server.id)));
            }
        }
    }
}

fn not_asked(address: SocketAddr) -> Asked {
    Asked { address, id: None, status: Err(NoAnswer::NotAsked) }
}

fn role_change(before: &Status, after: &Status) -> Option<String> {
    if after.role == RoleName::Leader && (before.role != RoleName::Leader || before.term != after.term) {
        Some(leads(after))
    } else if after.role != before.role {
        Some(format!("node {} is {} in term {}", after.node, after.role, after.term))
    } else {
        None
    }
}

fn leads(status: &Status) -> String {
    format!("node {} leads in term {}", status.node, status.term)
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::{answers, status};
    use super::*;

    fn story() -> (Story, Vec<Asked>) {
        let all = answers(vec![Ok(status(1)), Ok(status(2))]);
        let addresses: Vec<SocketAddr> = all.iter().map(|answer| answer.address).collect();
        let mut story = Story::new(&addresses);
        assert_eq!(
            story.take(0, all[0].clone()),
            ["node 1 answers", "node 1 leads in term 2", "server-1 is alive"]
        );
        assert_eq!(story.take(1, all[1].clone()), ["node 2 answers"]);
        (story, all)
    }

    #[test]
    fn a_death_and_an_election_are_told_once() {
        let (mut story, all) = story();
        let dead =
            Asked { status: Err(NoAnswer::Failed("connection refused".to_string())), ..all[0].clone() };
        assert_eq!(story.take(0, dead.clone()), ["node 1 does not answer: connection refused"]);
        assert!(story.take(0, dead).is_empty());
        let mut new_leader = all[1].clone();
        let status = new_leader.status.as_mut().expect("it answers");
        (status.role, status.term) = (RoleName::Leader, 3);
        assert_eq!(story.take(1, new_leader.clone()), ["node 2 leads in term 3"]);
        assert!(story.take(1, new_leader).is_empty());
        let mut back = all[0].clone();
        back.status.as_mut().expect("it answers").role = RoleName::Follower;
        assert_eq!(story.take(0, back), ["node 1 answers"]);
    }

    #[test]
    fn an_operator_s_orders_are_told_once() {
        let (mut story, all) = story();
        let with = |index: u64, change: &dyn Fn(&mut Status)| {
            let mut answer = all[0].clone();
            let status = answer.status.as_mut().expect("it answers");
            status.applied_index += index;
            change(status);
            answer
        };
        let drained = with(1, &|status| status.servers[0].drained = true);
        assert_eq!(story.take(0, drained.clone()), ["server-1 is drained: it gets no new requests"]);
        assert!(story.take(0, drained).is_empty());
        assert_eq!(story.take(0, with(2, &|_| ())), ["server-1 is undrained: it may get requests again"]);
        let gone = with(3, &|status| status.servers.clear());
        assert_eq!(story.take(0, gone.clone()), ["server-1 is forgotten: it left the table"]);
        assert!(story.take(0, gone).is_empty());
    }

    /// A node that lags still believes in the server; that is not a resurrection.
    #[test]
    fn a_server_s_death_is_told_once_and_not_taken_back_by_a_node_that_lags() {
        let (mut story, all) = story();
        let mut fresh = all[0].clone();
        let status = fresh.status.as_mut().expect("it answers");
        status.applied_index += 1;
        status.servers[0].alive = false;
        assert_eq!(story.take(0, fresh.clone()), ["server-1 is dead"]);
        assert!(story.take(1, all[1].clone()).is_empty());
        // Now only the one that lags answers.
        fresh.status = Err(NoAnswer::Silent);
        assert_eq!(story.take(0, fresh), ["node 1 does not answer: no answer"]);
        assert!(story.take(1, all[1].clone()).is_empty());
    }
}
