//! What a run of one part measured, and the file that keeps it: `tests/bench/results/PART.json`.
//!
//! A part records single values: in this setting, this system had this figure. Nothing else about a part's results is stored,
//! and nothing else gets into docs/benchmarks.md: `page.rs` makes its tables and plots from these files alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Fallible;
use crate::statistics::Spread;

/// One figure of one system in one setting, a value for each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// As in "5 members, 64 clients"; plots over a number take the first number in it.
    pub setting: String,
    /// As in "nginx" or "Rakit, 5 nodes".
    pub system: String,
    /// With its unit, as in "median ms".
    pub figure: String,
    pub values: Vec<f64>,
}

/// A run of one part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// UTC.
    pub date: String,
    /// What repeats it.
    pub command: String,
    /// Shorter and with fewer rounds than the documented run: good for a look, not for a claim.
    pub quick: bool,
    /// How long the part took.
    pub seconds: f64,
    pub machine: String,
    /// The load average of the minute before: what else the machine did.
    pub load_average: f64,
    pub versions: BTreeMap<String, String>,
    /// Why the part ended before its end, if it did.
    #[serde(default)]
    pub failed: Option<String>,
    /// What a reader has to know about this very run, such as what was left out and why.
    pub notes: Vec<String>,
    pub measurements: Vec<Measurement>,
}

impl Results {
    /// Adds one round's value.
    pub fn record(&mut self, setting: &str, system: &str, figure: &str, value: f64) {
        let same = |m: &&mut Measurement| m.setting == setting && m.system == system && m.figure == figure;
        match self.measurements.iter_mut().find(same) {
            Some(measurement) => measurement.values.push(value),
            None => self.measurements.push(Measurement {
                setting: setting.to_owned(),
                system: system.to_owned(),
                figure: figure.to_owned(),
                values: vec![value],
            }),
        }
    }

    /// Adds what a reader has to know, once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The values of one cell; none if it was not measured.
    pub fn values(&self, setting: &str, system: &str, figure: &str) -> &[f64] {
        let same = |m: &&Measurement| m.setting == setting && m.system == system && m.figure == figure;
        self.measurements.iter().find(same).map_or(&[], |measurement| &measurement.values)
    }

    /// Median and extremes of one cell.
    pub fn spread(&self, setting: &str, system: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.values(setting, system, figure))
    }

    /// All settings, in the order in which they were measured.
    pub fn settings(&self) -> Vec<&str> {
        distinct(self.measurements.iter().map(|m| m.setting.as_str()))
    }

    /// All systems of one setting, in the order in which they were measured.
    pub fn systems(&self, setting: &str) -> Vec<&str> {
        distinct(self.measurements.iter().filter(|m| m.setting == setting).map(|m| m.system.as_str()))
    }

    /// # Errors
    /// When there is a file that cannot be read or holds something else. That there is none is no error.
    pub fn load(part: &str) -> Fallible<Option<Self>> {
        let path = path_of(part);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, part: &str) -> Fallible {
        let path = path_of(part);
        std::fs::create_dir_all(path.parent().expect("a file in a directory"))?;
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

fn path_of(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bench/results/{part}.json"))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}
