//! Makes the plays of `rakit play` and of the page, and sees to it that they are what the core does.
//!
//! A play is a script in `tests/raft/plays/NAME.toml`. Each step has the commands of `transcripts.rs` (`does`), what they
//! mean in both languages (`en`, `id`), where one reads about it (`section`), and what must be seen (`sees`): lines of the
//! core, or of the nodes' states, that make the sentence true. What happens at the commands, and what the nodes are
//! afterwards, is recorded in `src/plays/NAME.json`, which is part of the programs. The test fails if the recording is not
//! what the core does now. After a deliberate change:
//! `UPDATE_PLAYS=1 cargo test --test raft plays::`, then read the difference.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use goldenscript::{Command, Context, Runner};
use rakit::plays::{NodeThen, PLAYS, Play, Sentence, Step};
use rakit::raft::{NodeId, Picture, Term};
use serde::Deserialize;

use crate::harness::Node;
use crate::transcripts::Script;

/// A script.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: Sentence,
    step: Vec<WrittenStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    section: String,
    en: String,
    id: String,
    does: String,
    #[serde(default)]
    sees: Vec<String>,
}

/// Runs the commands of a step, and keeps the lines that are not silenced by parentheses.
struct Recorder {
    script: Script,
    lines: Vec<String>,
}

impl Runner for Recorder {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let output = self.script.run(command, context)?;
        if !context.silent {
            self.lines.extend(output.lines().map(ToOwned::to_owned));
        }
        Ok(output)
    }
}

impl Recorder {
    /// # Errors
    /// A command fails, or what the sentence says is not there.
    fn step(&mut self, step: WrittenStep) -> Result<Step, Box<dyn Error>> {
        self.lines.clear();
        goldenscript::generate(self, &format!("{}\n---\n", step.does.trim()))?;
        let cluster = &self.script.cluster;
        let state = format!("{}\n{}", cluster.describe(), self.script.logs());
        let seen = |wanted: &&String| {
            self.lines.iter().map(String::as_str).chain(state.lines()).any(|line| line.contains(*wanted))
        };
        if let Some(missing) = step.sees.iter().find(|wanted| !seen(wanted)) {
            let lines = self.lines.join("\n");
            return Err(format!("`{missing}` is not seen at: {}\n{lines}\n{state}", step.en).into());
        }
        Ok(Step {
            says: Sentence { en: step.en.trim().to_owned(), id: step.id.trim().to_owned() },
            section: step.section,
            lines: std::mem::take(&mut self.lines),
            nodes: cluster.nodes.iter().map(|(id, node)| then(*id, node, cluster.now)).collect(),
            cut: cluster.cut.iter().copied().filter(|(from, to)| from != to).collect(),
        })
    }
}

fn then(id: NodeId, node: &Node, now: std::time::Duration) -> NodeThen {
    match &node.raft {
        Some(raft) => NodeThen {
            node: id,
            up: true,
            role: Some(raft.role_name()),
            term: raft.hard_state().term,
            voted_for: raft.hard_state().voted_for,
            leader: raft.leader(),
            joining: raft.is_joining(),
            commit_index: raft.commit_index(),
            last_index: raft.log().last_index(),
            snapshot_index: raft.snapshot_index(),
            // What a leader knows of its followers is not drawn.
            consensus: Picture { followers: Vec::new(), ..raft.picture(now) },
        },
        None => NodeThen {
            node: id,
            up: false,
            role: None,
            term: node.disk.hard_state.term,
            voted_for: node.disk.hard_state.voted_for,
            leader: None,
            joining: node.disk.hard_state.joining,
            // The commit index is not on the disk (Figure 2, volatile state), but a snapshot is committed.
            commit_index: node.disk.snapshot_index(),
            last_index: node.disk.last_index(),
            snapshot_index: node.disk.snapshot_index(),
            consensus: Picture {
                votes: Vec::new(),
                election_in_ms: None,
                followers: Vec::new(),
                log_from: node.disk.snapshot_index() + 1,
                log_terms: runs(node.disk.entries.iter().map(|entry| entry.term)),
            },
        },
    }
}

fn runs(terms: impl Iterator<Item = Term>) -> Vec<(Term, u64)> {
    let mut runs: Vec<(Term, u64)> = Vec::new();
    for term in terms {
        match runs.last_mut() {
            Some((of_run, count)) if *of_run == term => *count += 1,
            _ => runs.push((term, 1)),
        }
    }
    runs
}

fn record(script: &Path) -> Result<Play, Box<dyn Error>> {
    let written: Written = toml::from_str(&fs::read_to_string(script)?)?;
    let mut recorder = Recorder { script: Script::new(), lines: Vec::new() };
    let steps = written.step.into_iter().map(|step| recorder.step(step));
    Ok(Play { title: written.title, steps: steps.collect::<Result<_, _>>()? })
}

#[test]
fn the_plays_are_what_the_core_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recording = |name: &str| root.join("src/plays").join(format!("{name}.json"));
    let mut scripts: Vec<PathBuf> = fs::read_dir(root.join("tests/raft/plays"))
        .expect("the directory of the scripts is part of the source")
        .map(|entry| entry.expect("its entries can be read").path())
        .collect();
    scripts.sort();
    let names: Vec<String> =
        scripts.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    let mut listed = PLAYS.map(|(name, _)| name);
    listed.sort_unstable();
    assert_eq!(names, listed, "the scripts, and the list in src/plays/mod.rs");
    let mut failed = Vec::new();
    for (script, name) in scripts.iter().zip(&names) {
        match record(script) {
            Err(error) => failed.push(format!("{name}: {error}")),
            Ok(play) if std::env::var_os("UPDATE_PLAYS").is_some() => {
                fs::write(recording(name), play.to_text()).expect("the recording can be written");
            }
            Ok(play) => {
                let recorded =
                    fs::read_to_string(recording(name)).expect("the recording is part of the source");
                if let Some((now, then)) = play.to_text().lines().zip(recorded.lines()).find(|(a, b)| a != b)
                {
                    failed.push(format!("{name}: recorded was\n{then}\nand now it is\n{now}"));
                } else if play.to_text() != recorded {
                    failed.push(format!("{name}: the recording is longer or shorter"));
                }
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{}\nIf the core shall do this: UPDATE_PLAYS=1 cargo test --test raft plays::",
        failed.join("\n\n")
    );
}
