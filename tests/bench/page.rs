//! Makes docs/benchmarks.md and its pictures from the stored results of all parts and from the prose in `page.md`.
//!
//! In the template, `{{aims}}` becomes the table of the aims, `{{times}}` the list of the parts with the time that each took, and
//! `{{part NAME}}` the part's pictures and tables with what a reader must know to repeat them. So no figure gets into the page by
//! hand. docs/balancing.md shows the parts [`IN_BALANCING`] between two comments each, and everything else there stays as it is.

use std::fmt::Write as _;
use std::path::Path;

use crate::Fallible;
use crate::aims;
use crate::compare::{AFTER, BEFORE};
use crate::part::{Figure, Layout, Part};
use crate::plot;
use crate::results::Results;
use crate::statistics::Spread;

/// A build is no worse if its median is worse by no more than this part: the rounds of one build differ as much.
const WORSE_PART_MAX: f64 = 0.05;

/// With fewer rounds nothing is known about how much they differ.
const ROUNDS_TO_JUDGE: usize = 3;

/// How many versions stand in one line of the page's text: so no line is longer than the docs' other lines.
const VERSIONS_PER_LINE: usize = 5;

const TEMPLATE: &str = include_str!("page.md");

/// The parts that docs/balancing.md shows.
const IN_BALANCING: [&str; 2] = ["simulate", "choice"];

/// Writes the page, what other pages show, and all pictures.
///
/// # Errors
/// When results cannot be read, a file cannot be written, or a page names what is not there.
pub fn write(parts: &[&Part]) -> Fallible {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let find = |name: &str| -> Fallible<&Part> {
        let part = parts.iter().find(|part| part.name == name);
        part.copied().ok_or_else(|| format!("page.md: there is no part {name}").into())
    };
    let mut page = String::new();
    for line in TEMPLATE.lines() {
        match line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}")) {
            Some("aims") => page.push_str(&aims::table()?),
            Some("times") => page.push_str(&times(parts)?),
            Some(what) => {
                let name = what.strip_prefix("part ").ok_or_else(|| format!("page.md: {what}?"))?;
                page.push_str(&section(find(name)?, &docs)?);
            }
            None => {
                page.push_str(line);
                page.push('\n');
            }
        }
    }
    std::fs::write(docs.join("benchmarks.md"), page)?;
    let path = docs.join("balancing.md");
    let mut page = std::fs::read_to_string(&path)?;
    for name in IN_BALANCING {
        page = filled(&page, name, &section(find(name)?, &docs)?)
            .ok_or_else(|| format!("{}: the comments around {name} are missing", path.display()))?;
    }
    std::fs::write(path, page)?;
    Ok(())
}

/// The page with this text between the two comments that name the part; `None` if they are not there.
fn filled(page: &str, part: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- rakit-bench {part} -->\n"), format!("<!-- end of {part} -->\n"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{text}{end}{after}"))
}

/// What each part is about, and how long it took.
fn times(parts: &[&Part]) -> Fallible<String> {
    let mut text = "| part | what it measures | took |\n| --- | --- | --- |\n".to_owned();
    for part in parts {
        let took = match Results::load(part.name)? {
            Some(results) => {
                let quick = if results.quick { ", a quick run" } else { "" };
                let failed = if results.failed.is_some() { ", **failed**" } else { "" };
                time(results.seconds) + quick + failed
            }
            None => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {took} |", part.name, part.about);
    }
    Ok(text)
}

fn time(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

fn section(part: &Part, docs: &Path) -> Fallible<String> {
    let Some(results) = Results::load(part.name)? else {
        return Ok(format!("*Not measured yet:* `cargo bench --bench rakit-bench -- {}`\n", part.name));
    };
    let mut text = String::new();
    for (number, picture) in part.plots.iter().enumerate() {
        if let Some(svg) = plot::svg(picture, &results) {
            let file = format!("bench-{}-{}.svg", part.name, number + 1);
            std::fs::write(docs.join(&file), svg)?;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "![{}]({file})\n", picture.title);
        }
    }
    text.push_str(&tables(part, &results));
    text.push_str(&provenance(&results));
    Ok(text)
}

/// The results as Markdown, which is also what the command prints.
pub fn tables(part: &Part, results: &Results) -> String {
    let settings = results.settings();
    match part.layout {
        Layout::OneTable => table(part, results, &settings, true),
        Layout::TablePerSetting => {
            let one =
                |setting: &&str| format!("**{setting}**\n\n{}", table(part, results, &[*setting], false));
            settings.iter().map(one).collect()
        }
        Layout::BeforeAfter => before_after(part, results, &settings),
        Layout::Own(tables) => tables(results),
    }
}

fn table(part: &Part, results: &Results, settings: &[&str], with_setting: bool) -> String {
    let measured = |figure: &&Figure| {
        results.measurements.iter().any(|m| m.figure == figure.name && settings.contains(&m.setting.as_str()))
    };
    let figures: Vec<&Figure> = part.figures.iter().filter(measured).collect();
    let mut head: Vec<String> = if with_setting { vec!["setting".into()] } else { vec![] };
    head.push("system".into());
    head.extend(figures.iter().map(|figure| figure.name.to_owned()));
    head.push("rounds".into());
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for setting in settings {
        let mut shown = Some(*setting);
        for system in results.systems(setting) {
            let mut row = if with_setting { vec![shown.take().unwrap_or("").to_owned()] } else { vec![] };
            row.push(system.to_owned());
            let mut rounds = 0;
            for figure in &figures {
                let values = results.values(setting, system, figure.name);
                rounds = rounds.max(values.len());
                row.push(
                    Spread::of(values).map_or(String::new(), |spread| cell(spread, values.len(), figure)),
                );
            }
            row.push(rounds.to_string());
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
    }
    text.push('\n');
    text
}

/// Each figure as a row with its ratio. What counts something per second shall grow; everything else shall not.
fn before_after(part: &Part, results: &Results, settings: &[&str]) -> String {
    let mut text =
        "| setting | figure | before | after | after : before | no worse |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for setting in settings {
        for figure in part.figures {
            let (before, after) =
                (results.values(setting, BEFORE, figure.name), results.values(setting, AFTER, figure.name));
            let (Some(old), Some(new)) = (Spread::of(before), Spread::of(after)) else { continue };
            // Nothing before and nothing now is as good as before.
            let ratio = if old.median == new.median { 1.0 } else { new.median / old.median };
            let worse = if figure.name.ends_with("/s") { 1.0 / ratio } else { ratio };
            let verdict = if before.len().min(after.len()) < ROUNDS_TO_JUDGE {
                "too few rounds"
            } else if worse <= 1.0 + WORSE_PART_MAX {
                "yes"
            } else if new.min <= old.max && old.min <= new.max {
                "within the spread"
            } else {
                "**no**"
            };
            let _ = writeln!(
                text,
                "| {setting} | {} | {} | {} | {ratio:.2} | {verdict} |",
                figure.name,
                cell(old, before.len(), figure),
                cell(new, after.len(), figure)
            );
        }
    }
    text.push('\n');
    text
}

/// The median, and in brackets the smallest and the greatest value.
fn cell(spread: Spread, values: usize, figure: &Figure) -> String {
    let show = |value: f64| thousands(&format!("{value:.0$}", figure.decimals));
    if values == 1 || spread.min == spread.max {
        return show(spread.median);
    }
    format!("**{}** ({} to {})", show(spread.median), show(spread.min), show(spread.max))
}

/// 12345.6 as 12,345.6.
pub fn thousands(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 && text.ends_with(|c: char| c.is_ascii_digit()) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

fn provenance(results: &Results) -> String {
    let Results { date, command, machine, load_average, .. } = results;
    let mut text = String::new();
    if let Some(why) = &results.failed {
        let _ = writeln!(text, "- **This part failed, and shows what it had measured until then:** {why}");
    }
    for note in &results.notes {
        let _ = writeln!(text, "- {note}.");
    }
    if results.quick {
        text.push_str("- **A quick run: shorter and with fewer rounds than the documented one. A look, not a claim.**\n");
    }
    let versions: Vec<String> =
        results.versions.iter().map(|(name, said)| format!("{name}: {said}")).collect();
    let took = time(results.seconds);
    let _ = writeln!(
        text,
        "- `{command}`,\n  {date}, took {took}; {machine}; load average before {load_average:.2}."
    );
    let lines: Vec<String> = versions.chunks(VERSIONS_PER_LINE).map(|some| some.join("; ")).collect();
    let _ = writeln!(text, "- {}.", lines.join(";\n  "));
    text
}
