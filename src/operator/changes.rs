//! What has happened between two answers of a node, one sentence per event: the story of a cluster as seen from outside,
//! for `rakit up` and `rakit status --watch` where no table can be drawn, and for the log.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::belief::{Answer, Belief, clean, freshest};

/// The latest answer of each of several nodes, and what was told about them.
#[derive(Debug)]
pub struct Story {
    /// One per address that is asked, in its order.
    answers: Vec<Answer>,
    /// Whether each server is alive, as was told last.
    told_alive: BTreeMap<String, bool>,
    /// The freshest table that was told from: an older one, of a node that lags, tells nothing new.
    told_index: u64,
}

/// The reason in an [`Answer`] that stands for "not asked yet".
const NOT_ASKED: &str = "not asked yet";

impl Story {
    /// Nobody has answered yet.
    pub fn new(addresses: &[SocketAddr]) -> Story {
        let answers = addresses
            .iter()
            .map(|address| Answer { address: *address, belief: Err(NOT_ASKED.to_string()) })
            .collect();
        Story { answers, told_alive: BTreeMap::new(), told_index: 0 }
    }

    /// The latest answers.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Whether every node was asked at least once.
    pub fn complete(&self) -> bool {
        !self.answers.iter().any(|answer| answer.belief == Err(NOT_ASKED.to_string()))
    }

    /// Takes the newer answer of the node at `position` and gives the sentences that tell what is new in it.
    pub fn take(&mut self, position: usize, answer: Answer) -> Vec<String> {
        let Some(known) = self.answers.get_mut(position) else { return Vec::new() };
        let before = std::mem::replace(known, answer);
        let mut sentences = Vec::new();
        match (&before.belief, &self.answers[position].belief) {
            (Ok(before), Ok(after)) => sentences.extend(role_change(before, after)),
            (Err(_), Ok(after)) => {
                sentences.push(format!("node {} answers", after.node));
                if after.role == "leader" {
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
        let Some(belief) = freshest(&self.answers) else { return };
        if belief.applied_index < self.told_index {
            return;
        }
        self.told_index = belief.applied_index;
        for server in &belief.servers {
            if self.told_alive.insert(server.id.clone(), server.alive) != Some(server.alive) {
                let state = if server.alive { "alive" } else { "dead" };
                sentences.push(format!("{} is {state}", clean(&server.id)));
            }
        }
    }
}

fn role_change(before: &Belief, after: &Belief) -> Option<String> {
    if after.role == "leader" && (before.role != "leader" || before.term != after.term) {
        Some(leads(after))
    } else if after.role != before.role {
        Some(format!("node {} is {} in term {}", after.node, clean(&after.role), after.term))
    } else {
        None
    }
}

fn leads(belief: &Belief) -> String {
    format!("node {} leads in term {}", belief.node, belief.term)
}

#[cfg(test)]
mod tests {
    use super::super::belief::tests::{answers, belief};
    use super::*;

    fn story() -> (Story, Vec<Answer>) {
        let all = answers(vec![Ok(belief(1)), Ok(belief(2))]);
        let addresses: Vec<SocketAddr> = all.iter().map(|answer| answer.address).collect();
        let mut story = Story::new(&addresses);
        assert!(!story.complete());
        assert_eq!(
            story.take(0, all[0].clone()),
            ["node 1 answers", "node 1 leads in term 2", "server-1 is alive"]
        );
        assert!(!story.complete());
        assert_eq!(story.take(1, all[1].clone()), ["node 2 answers"]);
        assert!(story.complete());
        (story, all)
    }

    #[test]
    fn a_death_and_an_election_are_told_once() {
        let (mut story, all) = story();
        let dead = Answer { belief: Err("connection refused".to_string()), ..all[0].clone() };
        assert_eq!(story.take(0, dead.clone()), ["node 1 does not answer: connection refused"]);
        assert!(story.take(0, dead).is_empty());
        let mut new_leader = all[1].clone();
        let belief = new_leader.belief.as_mut().expect("it answers");
        (belief.role, belief.term) = ("leader".to_string(), 3);
        assert_eq!(story.take(1, new_leader.clone()), ["node 2 leads in term 3"]);
        assert!(story.take(1, new_leader).is_empty());
        let mut back = all[0].clone();
        back.belief.as_mut().expect("it answers").role = "follower".to_string();
        assert_eq!(story.take(0, back), ["node 1 answers"]);
    }

    /// A node that lags still believes in the server; that is not a resurrection.
    #[test]
    fn a_server_s_death_is_told_once_and_not_taken_back_by_a_node_that_lags() {
        let (mut story, all) = story();
        let mut fresh = all[0].clone();
        let belief = fresh.belief.as_mut().expect("it answers");
        belief.applied_index += 1;
        belief.servers[0].alive = false;
        assert_eq!(story.take(0, fresh.clone()), ["server-1 is dead"]);
        assert!(story.take(1, all[1].clone()).is_empty());
        // Now only the one that lags answers.
        fresh.belief = Err("no answer".to_string());
        assert_eq!(story.take(0, fresh), ["node 1 does not answer: no answer"]);
        assert!(story.take(1, all[1].clone()).is_empty());
    }
}
