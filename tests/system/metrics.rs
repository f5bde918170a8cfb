//! `/metrics` of real nodes, and what docs/ builds on it: does Prometheus' own tool find anything to complain about, and does
//! every name that the alert rules, the dashboard and the list of metrics use exist in the output of a node?
//!
//! Without promtool (Debian's package prometheus) the tests that need it say that they are skipped.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::programs::cluster::{Cluster, ClusterOptions, NodeId};
use crate::programs::reports::next_sequence;
use crate::programs::workers::Worker;

/// What Prometheus itself adds to each target.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Nodes with servers, traffic, a retry and a refusal behind them, and what they say.
struct Asked {
    leader: String,
    follower: String,
    /// What the two said before the last two reports. They were committed in one term, and the leader led it all the time.
    leader_before: String,
    follower_before: String,
}

impl Asked {
    fn pages() -> Self {
        let cluster = Cluster::start(ClusterOptions::nodes(3));
        let (good, refusing) = (Worker::good(1), Worker::refusing(2));
        let mut reports =
            vec![cluster.report("good", &good, 50.0).0, cluster.report("refusing", &refusing, 0.0).0];
        for id in cluster.ids() {
            // The one that refuses is chosen first: its load is lower.
            assert_eq!(cluster.get(id, "/7").server(), "good");
            assert_eq!(cluster.get(id, "/0").status, 400);
        }
        let page = |id: NodeId| cluster.get(id, "/metrics").body;
        // A busy machine elects at any time. What a leader says is looked at in a term that it led from the first look to the last.
        cluster.wait_for("two reports are committed in one term", || {
            let leader = cluster.agreed_leader()?;
            let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
            let (leader_before, follower_before) = (page(leader), page(follower));
            let term = cluster.status(leader)["term"].as_u64()?;
            for report in &mut reports {
                report.sequence = next_sequence();
                if cluster.try_report(report)?.term != term {
                    return None;
                }
            }
            let asked =
                Self { leader: page(leader), follower: page(follower), leader_before, follower_before };
            let led = cluster.agreed_leader() == Some(leader) && cluster.status(leader)["term"] == term;
            // A follower may have missed its leader for a moment.
            let ready = [&asked.leader, &asked.follower].iter().all(|page| value(page, "rakit_ready") == 1.0);
            (led && ready).then_some(asked)
        })
    }
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(docs(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// The value of one series, written as in the output.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in\n{page}"))
}

/// Gives `input` to promtool. What it prints, unless it is not there.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: promtool (Debian's package prometheus) is not installed: {arguments:?}");
        return None;
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("promtool reads all of it");
    drop(stdin);
    let output = child.wait_with_output().expect("our own child");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

// --------------------------------------------------------------------------------------------------- what is measured

#[test]
fn a_node_counts_what_it_did_and_promtool_finds_nothing_to_complain_about() {
    let pages = Asked::pages();
    for page in [&pages.leader, &pages.follower] {
        assert_eq!(value(page, "rakit_requests_total{code=\"200\",server=\"good\"}"), 1.0);
        assert_eq!(value(page, "rakit_requests_total{code=\"400\",server=\"<NOSRV>\"}"), 1.0);
        assert_eq!(value(page, "rakit_retries_total{reason=\"refused\"}"), 1.0);
        assert_eq!(value(page, "rakit_failed_attempts_total"), 1.0);
        assert_eq!(value(page, "rakit_request_duration_seconds_count"), 2.0);
        assert_eq!(value(page, "rakit_request_duration_seconds_bucket{le=\"+Inf\"}"), 2.0);
        assert_eq!(value(page, "rakit_server_cpu_ratio{server=\"good\"}"), 0.5);
        assert_eq!(value(page, "rakit_servers_eligible"), 2.0);
        assert_eq!((value(page, "rakit_ready"), value(page, "rakit_raft_has_leader")), (1.0, 1.0));
        for at_least_one in [
            "rakit_raft_leader_changes_total",
            "rakit_disk_fsync_duration_seconds_count",
            "rakit_http_requests_total{address=\"public\"}",
            "rakit_http_requests_total{address=\"cluster\"}",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            assert!(value(page, at_least_one) >= 1.0, "{at_least_one} in\n{page}");
        }
    }
    // Two reports were committed, each by a proposal of its own.
    let of_leader = |name: &str| value(&pages.leader, name) - value(&pages.leader_before, name);
    let of_follower = |name: &str| value(&pages.follower, name) - value(&pages.follower_before, name);
    assert_eq!(of_leader("rakit_raft_commit_duration_seconds_count"), 2.0);
    assert_eq!(of_leader("rakit_raft_proposals_committed_total"), 2.0);
    assert_eq!(value(&pages.leader, "rakit_raft_proposals_pending"), 0.0);
    assert_eq!(of_follower("rakit_raft_commit_duration_seconds_count"), 0.0);
    let peers =
        |page: &str| page.lines().filter(|line| line.starts_with("rakit_raft_peer_lag_entries{")).count();
    assert_eq!((peers(&pages.leader), peers(&pages.follower)), (2, 0), "only a leader knows of the others");

    for page in [&pages.leader, &pages.follower] {
        if let Some((good, said)) = promtool(&["check", "metrics"], page) {
            assert!(good && said.trim().is_empty(), "promtool complains:\n{said}\nabout\n{page}");
        }
    }
}

// ------------------------------------------------------------------------------------------------ what is built on it

/// The names that a query of Prometheus uses: what is not a label, a function, a keyword, a number or a text.
fn metrics_of(query: &str) -> BTreeSet<String> {
    const KEYWORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "group_left"];
    const BEFORE_LABELS: [&str; 4] = ["by", "on", "ignoring", "without"];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut names = BTreeSet::new();
    let mut rest = query;
    while let Some(next) = rest.chars().next() {
        // Past the closing character. None of our queries nests these.
        let after = |close: char| rest[1..].split_once(close).map_or("", |(_, rest)| rest);
        rest = match next {
            '"' => after('"'),
            '{' => after('}'),
            '[' => after(']'),
            _ if is_word(next) => {
                let (word, behind) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
                let opens = ["(", "by ("].iter().any(|start| behind.trim_start().starts_with(start));
                if BEFORE_LABELS.contains(&word) {
                    behind.split_once(')').map_or("", |(_, rest)| rest)
                } else {
                    if !opens && !KEYWORDS.contains(&word) && !word.starts_with(|c: char| c.is_ascii_digit())
                    {
                        names.insert(word.to_owned());
                    }
                    behind
                }
            }
            _ => &rest[next.len_utf8()..],
        };
    }
    names
}

/// The queries of docs/alerts.yml, each of which stands on one line.
fn queries_of_alerts() -> Vec<String> {
    let rules = text("alerts.yml");
    let queries: Vec<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect();
    assert_eq!(queries.len(), rules.matches("- alert: ").count(), "each alert has its query on one line");
    queries
}

/// The queries of docs/grafana.json.
fn queries_of_dashboard() -> Vec<String> {
    fn collect(value: &Value, queries: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                queries.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect(value, queries));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, queries)),
            _ => {}
        }
    }
    let mut queries = Vec::new();
    collect(&serde_json::from_str(&text("grafana.json")).expect("JSON"), &mut queries);
    queries
}

#[test]
fn every_metric_that_the_docs_name_exists_and_every_one_that_exists_is_listed() {
    let page = Asked::pages().leader;
    let series = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    let exist: BTreeSet<String> = page.lines().filter(|line| !line.starts_with('#')).map(series).collect();
    let (alerts, dashboard) = (queries_of_alerts(), queries_of_dashboard());
    assert!(alerts.len() >= 20 && dashboard.len() >= 20, "{} and {}", alerts.len(), dashboard.len());
    for query in alerts.iter().chain(&dashboard) {
        let names = metrics_of(query);
        assert!(!names.is_empty(), "no metric in {query}");
        for name in names {
            let known = exist.contains(&name) || OF_PROMETHEUS.contains(&name.as_str());
            assert!(known, "no node has {name}, which stands in {query}");
        }
    }

    let families: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let operations = text("operations.md");
    // The lines of the tables of metrics begin so.
    let listed: BTreeSet<&str> = operations
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['{', '`']).next())
        .filter(|name| name.starts_with("rakit_") || name.starts_with("process_"))
        .collect();
    assert_eq!(listed, families, "docs/operations.md lists, and a node has");
}

#[test]
fn the_names_in_a_query_are_found() {
    let query = "sum by (job, reason) (rate(a_total{code=~\"5..\", x=\"y\"}[5m])) / ignoring (reason) group_left \
                 max(b) > 0.05 and c{d=\"e\"} == 1e3";
    assert_eq!(Vec::from_iter(metrics_of(query)), ["a_total", "b", "c"]);
}

#[test]
fn every_alert_fires_on_what_it_is_for_and_none_in_peace() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/alerts_test.yml");
    let expected = std::fs::read_to_string(&tests).expect("our own file");
    let rules = text("alerts.yml");
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(expected.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
    }
    if let Some((good, said)) = promtool(&["test", "rules", &tests.to_string_lossy()], "") {
        assert!(good, "{said}");
    }
}

#[test]
fn promtool_takes_the_alert_rules_and_the_queries_of_the_dashboard() {
    let rules = docs("alerts.yml");
    if let Some((good, said)) = promtool(&["check", "rules", &rules.to_string_lossy()], "") {
        assert!(good, "{said}");
    }
    // As rules, the queries of the dashboard are checked, too. Grafana puts a time in the place of its variable.
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(file, "groups:\n- name: dashboard\n  rules:").expect("our own file");
    for (number, query) in queries_of_dashboard().iter().enumerate() {
        let query = query.replace("$__rate_interval", "1m");
        writeln!(file, "  - record: query_{number}\n    expr: {}", serde_json::json!(query))
            .expect("our own file");
    }
    if let Some((good, said)) = promtool(&["check", "rules", &file.path().to_string_lossy()], "") {
        assert!(good, "{said}");
    }
}
