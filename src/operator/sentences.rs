//! What happened, in sentences: the event strip of the live table (`live_table.rs`).
//!
//! Each node tells its own events with its view. Here the events of all nodes become one story, in which an election is one
//! sentence, told once. The words are those of the page, and so are the rules (`tell` in `node/page/page.js`), but for the
//! question whether all members were asked (see `headline.rs`). Whoever changes one changes both.
//! `story.rs` shows the log lines themselves, all of them.

use std::collections::BTreeSet;

use rakit::protocol::{StoryEvent, StoryKind};
use rakit::raft::{NodeId, RoleName, Term};
use time::OffsetDateTime;
use time::macros::format_description;

use super::headline::{Picture, listed, span};

/// One sentence, and when it happened, in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    at_us: u64,
    text: String,
    /// A sentence with the same key tells the same event.
    key: (StoryKind, u64, u64, String),
}

impl Sentence {
    /// With the time of day in front, as the log files have it (UTC).
    pub fn line(&self) -> String {
        let seconds = i64::try_from(self.at_us / 1_000_000).unwrap_or(i64::MAX);
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let clock = at.format(format_description!("[hour]:[minute]:[second]")).unwrap_or_default();
        format!("{clock}  {}", self.text)
    }
}

/// All that the views tell, oldest first. A node that does not answer any more has told its part before.
pub fn tell(picture: &Picture<'_>) -> Vec<Sentence> {
    let views = picture.asked.iter().filter_map(|node| node.view.as_ref());
    let mut events: Vec<(NodeId, &StoryEvent)> =
        views.flat_map(|view| view.story.iter().map(|event| (view.status.node, event))).collect();
    events.sort_by_key(|(node, event)| (event.at_us, *node));
    let mut told = Told { sentences: Vec::new() };
    // When the election began that is not over yet, and who has asked for votes.
    let mut election: Option<(u64, BTreeSet<NodeId>)> = None;
    let all_asked = picture.asked.len() >= picture.members.len();
    for (node, event) in events {
        let begun = || (event.at_us, BTreeSet::new());
        let (term, other) = (event.term.unwrap_or_default(), event.other.unwrap_or_default());
        match event.kind {
            StoryKind::Leads => {
                let took = election.take().map(|(began, _)| event.at_us.saturating_sub(began) / 1_000);
                told.leads(event, node, term, took);
            }
            StoryKind::LeaderFound if !all_asked => {
                told.leads(event, other, term, None);
                election = None;
            }
            StoryKind::LeaderLost => {
                // A node that is cut off loses a leader that still leads.
                let leads_still = picture.fresh.iter().any(|view| {
                    let status = &view.status;
                    (status.node, status.term, status.role) == (other, term, RoleName::Leader)
                });
                if !leads_still {
                    let why = event.reason.as_deref().unwrap_or("for no reason that was told");
                    told.add(
                        event,
                        other,
                        term,
                        format!("The leader, node {other} of term {term}, was lost: {why}."),
                    );
                }
                election.get_or_insert_with(begun);
            }
            StoryKind::PreCandidate | StoryKind::Candidate => {
                election.get_or_insert_with(begun).1.insert(node);
            }
            StoryKind::Vote | StoryKind::PreVote | StoryKind::Follower | StoryKind::LeaderFound => {}
            StoryKind::Truncated | StoryKind::SnapshotInstalled | StoryKind::Overdue => {
                let text = alone(node, event);
                told.add(event, node, event.at_us, text);
            }
            StoryKind::ServerNew
            | StoryKind::ServerDead
            | StoryKind::ServerBack
            | StoryKind::WorkerUp
            | StoryKind::WorkerDown
            | StoryKind::ServerDrained
            | StoryKind::ServerUndrained
            | StoryKind::ServerForgotten => {
                let text = alone(node, event);
                told.add(event, 0, event.index.unwrap_or_default(), text);
            }
        }
    }
    if let (Some((at_us, asked)), None) = (election, picture.leader)
        && !asked.is_empty()
    {
        let asked: Vec<NodeId> = asked.into_iter().collect();
        let who = if asked.len() == 1 { "Node" } else { "Nodes" };
        let ask = if asked.len() == 1 { "asks" } else { "ask" };
        let text = format!("{who} {} {ask} for votes; nobody is elected yet.", listed(&asked));
        told.sentences.push(Sentence { at_us, text, key: (StoryKind::Candidate, 0, at_us, String::new()) });
    }
    told.sentences.sort_by_key(|sentence| sentence.at_us);
    told.sentences
}

/// The sentence of an event that needs no other one to be understood.
fn alone(node: NodeId, event: &StoryEvent) -> String {
    let server = event.server.as_deref().unwrap_or_default();
    let index = event.index.unwrap_or_default();
    match event.kind {
        StoryKind::Truncated => {
            format!("Node {node} drops what was never committed, from log index {index} on.")
        }
        StoryKind::SnapshotInstalled => {
            format!("Node {node} got the leader's snapshot up to log index {index}.")
        }
        StoryKind::Overdue => format!("The leader proposes that {server} is dead."),
        StoryKind::ServerNew => format!("{server} is new (log index {index})."),
        StoryKind::ServerDead => format!("{server} is dead: so the nodes agreed at log index {index}."),
        StoryKind::ServerBack => format!("{server} is alive again (log index {index})."),
        StoryKind::WorkerUp => {
            format!("{server} gets requests again: its worker listens (log index {index}).")
        }
        StoryKind::WorkerDown => {
            format!("{server} gets no requests: its worker does not listen (log index {index}).")
        }
        StoryKind::ServerDrained => {
            format!("{server} is drained by order: it gets no new requests (log index {index}).")
        }
        StoryKind::ServerUndrained => {
            format!("{server} is undrained by order: it may get requests again (log index {index}).")
        }
        StoryKind::ServerForgotten => format!("{server} is forgotten by order (log index {index})."),
        _ => event.line.clone(),
    }
}

struct Told {
    sentences: Vec<Sentence>,
}

impl Told {
    fn add(&mut self, event: &StoryEvent, of: u64, number: u64, text: String) {
        let key = (event.kind, of, number, event.server.clone().unwrap_or_default());
        if self.sentences.iter().all(|sentence| sentence.key != key) {
            self.sentences.push(Sentence { at_us: event.at_us, text, key });
        }
    }

    fn leads(&mut self, event: &StoryEvent, node: NodeId, term: Term, took_ms: Option<u64>) {
        let took = took_ms.map(|ms| format!(", elected in {}", span(ms))).unwrap_or_default();
        let event = StoryEvent { kind: StoryKind::Leads, ..event.clone() };
        self.add(&event, node, term, format!("Node {node} leads term {term}{took}."));
    }
}

#[cfg(test)]
mod tests {
    use super::super::headline::tests::{five, without};
    use super::*;
    use rakit::protocol::PageState;

    fn happened(state: &mut PageState, node: usize, at_ms: u64, kind: StoryKind) -> &mut StoryEvent {
        let story = &mut state.nodes[node - 1].view.as_mut().expect("a view").story;
        story.push(StoryEvent { at_us: at_ms * 1_000, ..StoryEvent::new(kind) });
        story.last_mut().expect("just pushed")
    }

    fn said(state: &PageState) -> Vec<String> {
        tell(&Picture::new(state)).iter().map(Sentence::line).collect()
    }

    #[test]
    fn an_election_is_one_sentence_though_every_node_tells_its_part() {
        let mut state = five();
        for node in [2, 3] {
            let lost = happened(&mut state, node, 1_000 + node as u64, StoryKind::LeaderLost);
            (lost.term, lost.other) = (Some(1), Some(4));
            lost.reason = Some("its connection was closed".to_string());
        }
        happened(&mut state, 1, 1_009, StoryKind::PreCandidate).term = Some(2);
        happened(&mut state, 1, 1_010, StoryKind::Candidate).term = Some(2);
        happened(&mut state, 2, 1_012, StoryKind::Vote).other = Some(1);
        happened(&mut state, 1, 1_014, StoryKind::Leads).term = Some(2);
        for node in [2, 3] {
            let found = happened(&mut state, node, 1_015, StoryKind::LeaderFound);
            (found.term, found.other) = (Some(2), Some(1));
            let dead = happened(&mut state, node, 7_000, StoryKind::ServerDead);
            (dead.server, dead.index) = (Some("server-2".to_string()), Some(12));
        }
        assert_eq!(
            said(&state),
            [
                "00:00:01  The leader, node 4 of term 1, was lost: its connection was closed.",
                "00:00:01  Node 1 leads term 2, elected in 12 ms.",
                "00:00:07  server-2 is dead: so the nodes agreed at log index 12.",
            ]
        );
    }

    #[test]
    fn who_asks_in_vain_is_named() {
        let mut state = without(&[1, 2, 3], Some(12_000));
        happened(&mut state, 5, 1_000, StoryKind::PreCandidate);
        happened(&mut state, 4, 1_300, StoryKind::PreCandidate);
        assert_eq!(said(&state), ["00:00:01  Nodes 4, 5 ask for votes; nobody is elected yet."]);
    }

    #[test]
    fn a_node_that_is_cut_off_does_not_lose_a_leader_that_leads() {
        let mut state = five();
        let lost = happened(&mut state, 3, 1_000, StoryKind::LeaderLost);
        (lost.term, lost.other) = (Some(2), Some(1));
        assert_eq!(said(&state), Vec::<String>::new());
    }
}
