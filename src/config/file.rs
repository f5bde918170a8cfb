//! The keys of cluster.toml as the TOML parser gives them, before they are checked.
//!
//! Every key is optional here, and nearly every one keeps its position in the text (not `founder`, of which no value is
//! wrong). So `check.rs` can report a missing or wrong value in its own words and with a line number.
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) cluster: ClusterSection,
    #[serde(default)]
    pub(super) raft: RaftSection,
    #[serde(default)]
    pub(super) balancer: BalancerSection,
    #[serde(default)]
    pub(super) node: Vec<Spanned<NodeSection>>,
    #[serde(default)]
    pub(super) server: Vec<Spanned<ServerSection>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterSection {
    pub(super) name: Option<Spanned<String>>,
    pub(super) secret_file: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RaftSection {
    pub(super) heartbeat_ms: Option<Spanned<i64>>,
    pub(super) election_timeout_ms: Option<Spanned<Vec<i64>>>,
    pub(super) data_dir: Option<Spanned<String>>,
    pub(super) snapshot_entries: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BalancerSection {
    pub(super) policy: Option<Spanned<String>>,
    pub(super) server_timeout_ms: Option<Spanned<i64>>,
    pub(super) report_interval_ms: Option<Spanned<i64>>,
    pub(super) request_timeout_ms: Option<Spanned<i64>>,
    pub(super) stall_ms: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSection {
    pub(super) id: Option<Spanned<i64>>,
    pub(super) public: Option<Spanned<String>>,
    pub(super) cluster: Option<Spanned<String>>,
    pub(super) founder: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSection {
    pub(super) id: Option<Spanned<String>>,
    pub(super) worker: Option<Spanned<String>>,
}

impl File {
    /// # Errors
    /// When the text is not TOML, or has an unknown key or a value of the wrong type.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let place = Place { text, path };
            // The parser's message may have several lines: "expected …\nfound …".
            let message: Vec<&str> = error.message().lines().map(str::trim).collect();
            let key = error.span().map(|span| place.key_at(&span)).unwrap_or_default();
            place.error(error.span(), &key, format!("{}; mend or remove it", message.join(": ")))
        })
    }
}

/// The file and its text, to name the place of an error.
pub(super) struct Place<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Place<'_> {
    /// An error about the text at `span`, or about the whole file without a span.
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

    /// The key on the line of a parser error, with its table: `raft.heartbeat_ms`.
    ///
    /// The parser does not give the key. This function expects `key = value` under a `[table]` header. That
    /// is enough for a message, which names the line, too.
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
