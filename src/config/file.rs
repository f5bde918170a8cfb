//! The form of cluster.toml: its keys as TOML gives them, before any rule.
//!
//! Every key is optional here and keeps its place in the text, so that `check.rs` can complain about a missing or
//! wrong value in this project's words and with a line number, instead of in the parser's.
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) cluster: Cluster,
    #[serde(default)]
    pub(super) raft: Raft,
    #[serde(default)]
    pub(super) balancer: Balancer,
    #[serde(default)]
    pub(super) node: Vec<Spanned<Node>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) name: Option<Spanned<String>>,
    pub(super) secret_file: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raft {
    pub(super) heartbeat_ms: Option<Spanned<i64>>,
    pub(super) election_timeout_ms: Option<Spanned<Vec<i64>>>,
    pub(super) data_dir: Option<Spanned<String>>,
    pub(super) snapshot_entries: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balancer {
    pub(super) policy: Option<Spanned<String>>,
    pub(super) server_timeout_ms: Option<Spanned<i64>>,
    pub(super) report_interval_ms: Option<Spanned<i64>>,
    pub(super) request_timeout_ms: Option<Spanned<i64>>,
    pub(super) stall_ms: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) id: Option<Spanned<i64>>,
    pub(super) public: Option<Spanned<String>>,
    pub(super) cluster: Option<Spanned<String>>,
}

impl File {
    /// # Errors
    /// When the text is no TOML, or has a key or a type of value that a cluster.toml has not.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let place = Place { text, path };
            // The parser's message may stand on several lines: "expected …\nfound …".
            let message: Vec<&str> = error.message().lines().map(str::trim).collect();
            let key = error.span().map(|span| place.key_at(&span)).unwrap_or_default();
            place.error(error.span(), &key, format!("{}; mend or remove it", message.join(": ")))
        })
    }
}

/// Where in which file something stands.
pub(super) struct Place<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Place<'_> {
    /// A complaint about what stands at `span`, or about the whole file when it has no place.
    pub(super) fn error(
        &self,
        span: Option<Range<usize>>,
        key: &str,
        complaint: impl std::fmt::Display,
    ) -> ConfigError {
        ConfigError::new(self.path, span.map(|span| self.line_at(span.start)), key, complaint)
    }

    /// The line, from 1, that holds this byte.
    fn line_at(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The key on the line where the parser stumbled, with its table, as in `raft.heartbeat_ms`.
    ///
    /// The parser does not tell; this reads the line as people write it (`key = value` under a `[table]` header), which
    /// for a message is enough: the line number is there as well.
    fn key_at(&self, span: &Range<usize>) -> String {
        let number = self.line_at(span.start);
        let lines: Vec<&str> = self.text.lines().take(number).collect();
        let line = lines.last().copied().unwrap_or("").trim();
        if line.starts_with('[') {
            return line.to_owned();
        }
        let key = line.split(['=', '#']).next().unwrap_or("").trim();
        let table = lines.iter().rev().map(|line| line.trim()).find(|line| line.starts_with('['));
        match table.map(|header| header.split('#').next().unwrap_or(header).trim_matches(['[', ']', ' '])) {
            Some(table) if !key.is_empty() => format!("{table}.{key}"),
            _ => key.to_owned(),
        }
    }
}
