//! What a part of the benchmark is: a name, something to run, and how its results are shown.

use std::path::{Path, PathBuf};

use crate::Fallible;
use crate::members::Programs;
use crate::results::Results;

/// One part.
pub struct Part {
    /// As on the command line, in the template of the page and in the name of the file with the results.
    pub name: &'static str,
    /// For `--help`.
    pub about: &'static str,
    pub layout: Layout,
    /// The columns, in their order.
    pub figures: &'static [Figure],
    pub plots: &'static [Plot],
    /// Measures everything and records it.
    pub run: fn(&Setup, &mut Results) -> Fallible,
}

/// How settings become tables.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// The settings are a column.
    OneTable,
    /// Each setting is a heading with a table of its own.
    TablePerSetting,
    /// Two systems, [`crate::compare::BEFORE`] and [`crate::compare::AFTER`]: each figure is a row, with the ratio.
    BeforeAfter,
    /// The part makes its tables itself.
    Own(fn(&Results) -> String),
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// With its unit.
    pub name: &'static str,
    pub decimals: usize,
}

impl Figure {
    pub const fn new(name: &'static str, decimals: usize) -> Self {
        Self { name, decimals }
    }
}

/// One picture.
pub struct Plot {
    pub title: &'static str,
    /// The figure that is shown.
    pub figure: &'static str,
    /// The settings that are shown; none: all.
    pub settings: &'static [&'static str],
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A bar for each system in each setting, from 0.
    Bars,
    /// The same on a logarithmic scale.
    LogBars,
    /// A line for each system over the first number in the settings. Both scales are logarithmic.
    Lines,
}

/// What all parts are given.
pub struct Setup {
    pub programs: Programs,
    /// Two builds to compare.
    pub compared: Option<(Programs, Programs)>,
    pub quick: bool,
    /// The whole cross product of the settings.
    pub full: bool,
    pub rounds_asked: Option<usize>,
    /// Whether this process has networks of its own, in which hosts can be set up and cut.
    pub isolated: bool,
    /// For the data of clusters, on the disk that holds the build.
    pub directory: PathBuf,
}

impl Setup {
    /// How many rounds: what the command line says, else one with `--quick`, else this.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds_asked.unwrap_or(if self.quick { 1 } else { usual })
    }

    /// One of two, by `--quick`.
    pub fn quick_or<T>(&self, quick: T, usual: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// Tells a person who waits.
    pub fn say(&self, what: &str) {
        println!("  {what}");
    }

    /// An empty directory.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn fresh_directory(&self, name: &str) -> Fallible<PathBuf> {
        let path = self.directory.join(name);
        remove(&path)?;
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

fn remove(path: &Path) -> Fallible {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
