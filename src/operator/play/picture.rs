//! A step of a play as lines of text: what it means, the nodes with their logs, and what the core said.
//!
//! A cell of a log is the term of an entry. All left of the thick line is committed. With colours, each term has its own, as
//! on the page; the text alone says the same.

use rakit::plays::{NodeThen, Play, Sentence, Step};
use rakit::raft::{Index, RoleName, Term};

use super::super::demo::{Language, Words};

/// The backgrounds of the terms, in xterm's 256 colours: near those of the page (`node/page/drawing.js`).
const TERM_COLOURS: [u8; 8] = [25, 130, 22, 90, 94, 125, 30, 240];
/// The columns before the logs.
const BEFORE_LOGS: usize = 29;
/// A cell and the place for the line after it.
const CELL_WIDTH: usize = 4;
/// Lines of the core that are shown at least, as far as the terminal has rows.
const LINES_MIN: usize = 2;

/// What is needed to draw a step.
pub struct Picture<'a> {
    /// The recording.
    pub play: &'a Play,
    /// Its name on the command line.
    pub name: &'a str,
    /// Of the sentences.
    pub language: Language,
    /// Columns of the terminal.
    pub width: usize,
    /// Whether terms have colours.
    pub coloured: bool,
}

/// A sentence in this language.
pub fn said(sentence: &Sentence, language: Language) -> &str {
    match language {
        Language::En => &sentence.en,
        Language::Id => &sentence.id,
    }
}

/// The first `width` characters.
fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// A line that is not longer than the terminal is wide.
pub fn fitting(line: &str, width: usize) -> String {
    cut(line, width.saturating_sub(1))
}

impl Picture<'_> {
    /// The lines of this step, at most `rows`.
    pub fn lines(&self, number: usize, rows: usize) -> Vec<String> {
        let step = &self.play.steps[number];
        let of = Words { en: "step", id: "langkah" }.say(self.language);
        let place = format!("{of} {}/{}", number + 1, self.play.steps.len());
        let title = said(&self.play.title, self.language);
        let mut lines = wrapped(&format!("{title} · {place} · {}", self.section(step)), self.width);
        lines.iter_mut().for_each(|line| *line = self.styled("1", line));
        lines.push(String::new());
        lines.extend(wrapped(said(&step.says, self.language), self.width));
        lines.push(String::new());
        lines.extend(self.nodes(step));
        if !step.cut.is_empty() {
            let cables = Words { en: "cut cables:", id: "kabel terputus:" }.say(self.language);
            lines.extend(wrapped(&format!("{cables} {}", cables_of(step).join(" ")), self.width));
        }
        lines.push(String::new());
        let left = if rows == usize::MAX { rows } else { rows.saturating_sub(lines.len()).max(LINES_MIN) };
        lines.extend(self.told(step, left));
        lines.truncate(rows);
        lines
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.coloured { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// Where one reads about it.
    fn section(&self, step: &Step) -> String {
        let (source, section) = match step.section.strip_prefix("thesis ") {
            Some(section) => (Words { en: "Raft thesis", id: "tesis Raft" }, section),
            None => (Words { en: "Raft paper", id: "makalah Raft" }, step.section.as_str()),
        };
        let figure = Words { en: "Figure", id: "Gambar" }.say(self.language);
        format!("{} {}", source.say(self.language), section.replace("Figure", figure))
    }

    /// The table of nodes, a line each.
    fn nodes(&self, step: &Step) -> Vec<String> {
        let heads = Words {
            en: "term vote  log: terms, committed ┃ not",
            id: "term suara log: term, committed ┃ belum",
        };
        let head = format!(
            "{:4} {:13} {}",
            "node",
            Words { en: "role", id: "peran" }.say(self.language),
            heads.say(self.language)
        );
        let last = step.nodes.iter().map(|node| node.last_index).max().unwrap_or(0);
        let shown = (self.width.saturating_sub(BEFORE_LOGS) / CELL_WIDTH).max(1) as Index;
        let from = last.saturating_sub(shown) + 1;
        let row = |node: &NodeThen| {
            let vote = node.voted_for.map_or("–".to_string(), |vote| vote.to_string());
            let mut line = format!("{:>4} {:13} {:>4} {vote:>4}  ", node.node, self.role(node), node.term);
            let mut width = BEFORE_LOGS;
            for index in from..=node.last_index {
                let (text, style) = cell(node, index);
                line.push_str(&self.styled(&style, &text));
                line.push(if index == node.commit_index { '┃' } else { ' ' });
                width += CELL_WIDTH;
            }
            let note = cut(&self.note(node), self.width.saturating_sub(width + 1));
            format!("{line} {note}").trim_end().to_string()
        };
        std::iter::once(fitting(&head, self.width)).chain(step.nodes.iter().map(row)).collect()
    }

    fn role(&self, node: &NodeThen) -> &'static str {
        let words = match node.role {
            None => Words { en: "dead", id: "mati" },
            Some(_) if node.joining => Words { en: "joining", id: "bergabung" },
            Some(RoleName::Leader) => Words { en: "LEADER", id: "LEADER" },
            Some(RoleName::Candidate) => Words { en: "candidate", id: "kandidat" },
            Some(RoleName::PreCandidate) => Words { en: "pre-candidate", id: "pra-kandidat" },
            Some(RoleName::Follower) => Words { en: "follower", id: "follower" },
        };
        words.say(self.language)
    }

    /// What stands behind a log: the votes of who asks for them, and the snapshot.
    fn note(&self, node: &NodeThen) -> String {
        let asks = matches!(node.role, Some(RoleName::Candidate | RoleName::PreCandidate));
        let mut notes = Vec::new();
        if asks {
            let votes: Vec<String> = node.consensus.votes.iter().map(ToString::to_string).collect();
            let word = Words { en: "votes:", id: "suara:" }.say(self.language);
            notes.push(format!("{word} {}", votes.join(" ")));
        }
        if node.snapshot_index > 0 {
            notes.push(format!("≡ snapshot {}", node.snapshot_index));
        }
        notes.join(", ")
    }

    /// What the core said. If that is too much, the messages that arrived are left out first.
    fn told(&self, step: &Step, rows: usize) -> Vec<String> {
        let is_sent = |line: &&String| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains('→');
        let mut lines: Vec<&String> = step.lines.iter().collect();
        if lines.len() > rows {
            lines.retain(|line| !is_sent(line));
        }
        let fits = if lines.len() < step.lines.len() || lines.len() > rows { rows - 1 } else { rows };
        lines.truncate(fits);
        let hidden = step.lines.len() - lines.len();
        // Where there is room for all lines, nothing is left out of one.
        let width = if rows == usize::MAX { rows } else { self.width };
        let mut shown: Vec<String> = lines.iter().map(|line| fitting(&format!("  {line}"), width)).collect();
        if hidden > 0 {
            let more = match self.language {
                Language::En => format!("  … {hidden} more lines: rakit play {} --run", self.name),
                Language::Id => format!("  … {hidden} baris lagi: rakit play {} --run", self.name),
            };
            shown.push(fitting(&more, self.width));
        }
        shown
    }
}

/// The text and the style (ECMA-48, SGR) of one entry.
fn cell(node: &NodeThen, index: Index) -> (String, String) {
    match term_at(node, index) {
        Some(term) => {
            let colour = TERM_COLOURS[(term % TERM_COLOURS.len() as Term) as usize];
            (format!("{term:^3}"), format!("97;48;5;{colour}"))
        }
        None => (" ≡ ".to_string(), "2".to_string()),
    }
}

/// The term of an entry; `None` if it is in the snapshot.
fn term_at(node: &NodeThen, index: Index) -> Option<Term> {
    let mut position = index.checked_sub(node.consensus.log_from)?;
    for (term, count) in &node.consensus.log_terms {
        if position < *count {
            return Some(*term);
        }
        position -= count;
    }
    None
}

/// `1–3` for a cable that is cut in both directions, `1→3` in one.
fn cables_of(step: &Step) -> Vec<String> {
    let is_cut = |from, to| step.cut.contains(&(from, to));
    let cables = step.cut.iter().filter(|(from, to)| from < to || !is_cut(*to, *from));
    cables.map(|(from, to)| format!("{from}{}{to}", if is_cut(*to, *from) { '–' } else { '→' })).collect()
}

/// The text in lines that fit, broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        let needed = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && needed >= width {
            lines.push(word.to_string());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use rakit::plays::PLAYS;

    use super::*;

    fn picture<'a>(play: &'a Play, name: &'a str, language: Language) -> Picture<'a> {
        Picture { play, name, language, width: 80, coloured: false }
    }

    #[test]
    fn every_step_of_every_play_fits_a_terminal_of_80_by_24_with_its_sentences_and_nodes() {
        for (name, _) in PLAYS {
            let play = Play::of(name).expect("it is in the list");
            for language in [Language::En, Language::Id] {
                for (number, step) in play.steps.iter().enumerate() {
                    let lines = picture(&play, name, language).lines(number, 22);
                    let text = lines.join("\n");
                    assert!(
                        lines.len() <= 22 && lines.iter().all(|line| line.chars().count() < 80),
                        "{text}"
                    );
                    let flat = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(flat.contains(said(&step.says, language)), "{name} {number}: {text}");
                    let rows = lines
                        .iter()
                        .filter(|line| line.get(..4).is_some_and(|id| id.trim().parse::<u64>().is_ok()));
                    assert_eq!(rows.count(), step.nodes.len(), "{name} {number}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_log_shows_its_terms_and_the_line_after_what_is_committed() {
        let play = Play::of("figure-8").expect("it is in the list");
        let last = picture(&play, "figure-8", Language::En).lines(4, usize::MAX);
        let row = |id: &str| last.iter().find(|line| line.starts_with(id)).expect("a row for each node");
        assert_eq!(row("   1"), "   1 LEADER           4    1   1   2   4 ┃");
        assert_eq!(row("   3"), "   3 follower         4    1   1 ┃ 2   4");
        assert_eq!(row("   5"), "   5 dead             3    5   1   3");
        assert!(last.contains(&"cut cables: 1→4".to_string()), "{last:#?}");
        let coloured = Picture { coloured: true, ..picture(&play, "figure-8", Language::En) };
        assert!(coloured.lines(4, usize::MAX).join("").contains("\u{1b}[97;48;5;22m 2 \u{1b}[0m"));
    }
}
