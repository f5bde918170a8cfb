//! Draws pictures as SVG: a bar is a `<rect>`, a line is a `<polyline>`. That is too little for a plotting library. The text stays
//! text, so that a reader can search it. Called by `page.rs`.

use std::fmt::Write as _;

use crate::page::thousands;
use crate::part::{Plot, Shape};
use crate::results::Results;
use crate::statistics::Spread;

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 290.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 48.0;
const BAR: f64 = 18.0;
const LINES_HEIGHT: f64 = 320.0;

/// From here on, a power of ten is shorter as such.
const POWER_SHOWN_FROM: f64 = 1e6;

/// Also distinct for readers who cannot tell red from green (Okabe and Ito, 2008).
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000"];

/// The picture; `None` if nothing of it was measured.
pub fn svg(plot: &Plot, results: &Results) -> Option<String> {
    let settings: Vec<&str> = if plot.settings.is_empty() {
        results.settings()
    } else {
        plot.settings.iter().copied().filter(|setting| results.settings().contains(setting)).collect()
    };
    match plot.shape {
        Shape::Bars => bars(plot, results, &settings, false),
        Shape::LogBars => bars(plot, results, &settings, true),
        Shape::Lines => lines(plot, results, &settings),
    }
}

/// A scale from a range of values to a range of pixels.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64, logarithmic: bool) -> Self {
        let high = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        if !logarithmic {
            return Self { low: 0.0, high, from, to, logarithmic };
        }
        let low = values.filter(|value| *value > 0.0).fold(high, f64::min);
        let (low, high) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
        Self { low, high: high.max(low * 10.0), from, to, logarithmic }
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        self.from + part * (self.to - self.from)
    }

    /// Where lines with a number are drawn.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.high / self.low).log10().round() as i32;
            return (0..=decades).map(|power| self.low * 10_f64.powi(power)).collect();
        }
        // 1, 2 or 5 times a power of ten, so that there are four to ten of them.
        let power = 10_f64.powf((self.high / 4.0).log10().floor());
        let step =
            [5.0, 2.0, 1.0].map(|times| times * power).into_iter().find(|step| self.high / step >= 4.0);
        let step = step.unwrap_or(power);
        (0..=(self.high / step) as usize).map(|number| number as f64 * step).collect()
    }
}

fn bars(plot: &Plot, results: &Results, settings: &[&str], logarithmic: bool) -> Option<String> {
    let mut rows: Vec<(Option<&str>, &str, Spread)> = Vec::new();
    for setting in settings {
        let mut heading = Some(*setting);
        for system in results.systems(setting) {
            if let Some(spread) = results.spread(setting, system, plot.figure) {
                rows.push((heading.take(), system, spread));
            }
        }
    }
    let values: Vec<f64> = rows.iter().flat_map(|(_, _, spread)| [spread.min, spread.max]).collect();
    values.first()?;
    let scale = Scale::new(values.iter().copied(), LABEL_WIDTH, WIDTH - RIGHT, logarithmic);
    let headings = rows.iter().filter(|(heading, _, _)| heading.is_some()).count() as f64;
    let bottom = TOP + (rows.len() as f64 + headings * 1.6) * BAR + 6.0;
    let mut svg = begin(plot.title, plot.figure, bottom + 28.0);
    for tick in scale.ticks() {
        let x = scale.place(tick);
        let _ = writeln!(
            svg,
            "<line x1='{x:.1}' x2='{x:.1}' y1='{TOP}' y2='{bottom:.1}' stroke='#ddd'/>\
             <text x='{x:.1}' y='{:.1}' text-anchor='middle'>{}</text>",
            bottom + 16.0,
            number(tick)
        );
    }
    // One colour for each program, the same in every setting: the first word of a system is its program.
    let mut programs: Vec<&str> = Vec::new();
    let mut y = TOP;
    for (heading, system, spread) in rows {
        if let Some(heading) = heading {
            y += 1.6 * BAR;
            let _ = writeln!(
                svg,
                "<text x='4' y='{:.1}' font-weight='bold'>{}</text>",
                y - 6.0,
                escaped(heading)
            );
        }
        let program = system.split([' ', ',']).next().unwrap_or(system);
        if !programs.contains(&program) {
            programs.push(program);
        }
        let place = programs.iter().position(|known| *known == program).unwrap_or(0);
        let colour = COLOURS[place % COLOURS.len()];
        let (x, middle) = (scale.place(spread.median), y + BAR / 2.0);
        let (min, max) = (scale.place(spread.min), scale.place(spread.max));
        let _ = writeln!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>\
             <rect x='{LABEL_WIDTH}' y='{:.1}' width='{:.1}' height='{:.1}' fill='{colour}'/>\
             <line x1='{min:.1}' x2='{max:.1}' y1='{middle:.1}' y2='{middle:.1}' stroke='#000'/>\
             <text x='{:.1}' y='{:.1}'>{}</text>",
            LABEL_WIDTH - 6.0,
            middle + 4.0,
            escaped(system),
            y + 2.0,
            (x - LABEL_WIDTH).max(1.0),
            BAR - 4.0,
            max.max(x) + 5.0,
            middle + 4.0,
            number(spread.median)
        );
        y += BAR;
    }
    Some(svg + "</svg>\n")
}

fn lines(plot: &Plot, results: &Results, settings: &[&str]) -> Option<String> {
    // The systems, each with its points.
    let mut all: Vec<(&str, Vec<(f64, Spread)>)> = Vec::new();
    for setting in settings {
        let Some(x) = first_number(setting) else { continue };
        for system in results.systems(setting) {
            let Some(spread) = results.spread(setting, system, plot.figure) else { continue };
            match all.iter_mut().find(|(known, _)| *known == system) {
                Some((_, points)) => points.push((x, spread)),
                None => all.push((system, vec![(x, spread)])),
            }
        }
    }
    let points: Vec<(f64, Spread)> = all.iter().flat_map(|(_, points)| points.clone()).collect();
    points.first()?;
    let bottom = TOP + LINES_HEIGHT;
    let across = Scale::new(points.iter().map(|(x, _)| *x), 70.0, WIDTH - 250.0, true);
    let up = Scale::new(points.iter().map(|(_, spread)| spread.median), bottom, TOP, true);
    let mut svg = begin(plot.title, plot.figure, bottom + 40.0);
    for tick in up.ticks() {
        let y = up.place(tick);
        let _ = writeln!(
            svg,
            "<line x1='70' x2='{:.1}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/>\
             <text x='64' y='{:.1}' text-anchor='end'>{}</text>",
            WIDTH - 250.0,
            y + 4.0,
            number(tick)
        );
    }
    let mut marked: Vec<f64> = points.iter().map(|(x, _)| *x).collect();
    marked.sort_by(f64::total_cmp);
    marked.dedup();
    for x in marked {
        let _ = writeln!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='middle'>{}</text>",
            across.place(x),
            bottom + 18.0,
            number(x)
        );
    }
    for (place, (system, points)) in all.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let mut path = String::new();
        for (x, spread) in points {
            let (x, y) = (across.place(*x), up.place(spread.median));
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = writeln!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{colour}'/>");
        }
        let y = TOP + 18.0 * place as f64;
        let _ = writeln!(
            svg,
            "<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>\
             <rect x='{:.1}' y='{:.1}' width='12' height='12' fill='{colour}'/><text x='{:.1}' y='{:.1}'>{}</text>",
            WIDTH - 230.0,
            y,
            WIDTH - 212.0,
            y + 11.0,
            escaped(system)
        );
    }
    Some(svg + "</svg>\n")
}

fn begin(title: &str, figure: &str, height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' font-family='sans-serif' font-size='12'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n<text x='4' y='20' font-size='15' font-weight='bold'>{}</text>\n\
         <text x='4' y='38' fill='#555'>{}; median of all rounds, black: smallest to greatest</text>\n",
        escaped(title),
        escaped(figure)
    )
}

/// The first number in a setting such as "64 clients".
fn first_number(setting: &str) -> Option<f64> {
    let digits = |c: char| c.is_ascii_digit() || c == ',' || c == '.';
    let start = setting.find(|c: char| c.is_ascii_digit())?;
    let rest = &setting[start..];
    let end = rest.find(|c| !digits(c)).unwrap_or(rest.len());
    rest[..end].trim_end_matches([',', '.']).replace(',', "").parse().ok()
}

/// With three digits that say something, and thousands kept whole; great powers of ten as such.
pub fn number(value: f64) -> String {
    if value >= POWER_SHOWN_FROM && value.log10().fract() == 0.0 {
        return format!("10^{:.0}", value.log10());
    }
    let digits = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).max(0) };
    let text = format!("{value:.0$}", digits.min(6) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    thousands(text)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
