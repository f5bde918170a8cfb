//! What is fuzzed: one function for each kind of bytes that somebody else writes. It gets any bytes, and panics if they make
//! the code break a promise. `main.rs` calls them with changed seeds in `cargo test`, `fuzz_targets/` with what libFuzzer finds.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rakit::balancer::{InFlight, IncomingReport, SERVERS_MAX, ServerOrder};
use rakit::config::Config;
use rakit::http::chunked::{ChunkError, Chunks};
use rakit::http::head::{HEADERS_MAX, Scanner, parse};
use rakit::protocol::{
    KnownLeader, LogQuery, MembersAnswer, MembersChanged, PROTOCOL_VERSION, Purpose, ReplyEnvelope,
    ReportAnswer, RequestEnvelope, TransferRequest, parse_member_change, to_json,
};
use rakit::raft::{self, Founding, NodeId};
use rakit::replica::{Effect, Input, Replica, ReplicaSettings, Unread};
use rakit::signing::{Gate, Seal, Secret, Verdict};
use rakit::storage::{Fresh, Identity, LOG, Recovered, Storage};

use super::memory_disk::MemoryDisk;

/// A name, as in `corpus/NAME`, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 8] = [
    ("head", head),
    ("chunked", chunked),
    ("report", report),
    ("rpc", rpc),
    ("log", log),
    ("snapshot", snapshot),
    ("configuration", configuration),
    ("seal", seal),
];

/// Stands in the corpus for the version of the protocol, which would soon be an old one.
const VERSION: &str = "$VERSION";

/// The members of the cluster that the log, the snapshot and the RPCs are of.
const MEMBERS: [NodeId; 3] = [1, 2, 3];

/// The head of a request. It may arrive in any pieces.
pub fn head(input: &[u8]) {
    let whole = Scanner::default().scan(input);
    let step = 1 + input.len() % 7;
    let mut scanner = Scanner::default();
    let piecewise = (1..=input.len().div_ceil(step))
        .map(|pieces| scanner.scan(&input[..(pieces * step).min(input.len())]))
        .find(|scanned| *scanned != Ok(None));
    assert_eq!(whole, piecewise.unwrap_or(Ok(None)), "pieces of {step} bytes");
    let Ok(Some(range)) = whole else { return };
    let head = match parse(&input[range], HEADERS_MAX) {
        Ok(head) => head,
        Err(refusal) => return assert!((400..600).contains(&refusal.status) && !refusal.line.contains('\n')),
    };
    let is_asterisk = head.target == "*" && head.method == tiny_http::Method::Options;
    assert!(is_asterisk || head.target.starts_with('/'), "{:?}", head.target);
    assert!(head.target.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", head.target);
    assert!(!(head.is_chunked && head.content_length.is_some()), "two lengths of one body");
    assert!(head.headers.len() <= HEADERS_MAX);
    for header in &head.headers {
        let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
        assert!(!name.is_empty() && !name.contains([':', ' ']), "{name:?}");
        assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
    }
}

/// A body in chunks. It may arrive in any pieces, and never takes more room than it may.
pub fn chunked(input: &[u8]) {
    /// Little, so that two small chunks are too much.
    const BYTES_MAX: usize = 16;
    let decode = |step: usize| -> Result<(bool, Vec<u8>, usize), ChunkError> {
        let (mut chunks, mut body, mut used, mut there) = (Chunks::default(), Vec::new(), 0, 0);
        while there < input.len() && !chunks.is_whole() {
            there = (there + step).min(input.len());
            used += chunks.decode(&input[used..there], &mut body, BYTES_MAX)?;
            assert!(used <= there && body.len() <= BYTES_MAX);
        }
        Ok((chunks.is_whole(), body, used))
    };
    let whole = decode(input.len().max(1));
    for step in [1, 2, 3] {
        let piecewise = decode(step);
        assert_eq!(whole.is_ok(), piecewise.is_ok(), "pieces of {step} bytes");
        if let (Ok(whole), Ok(piecewise)) = (&whole, piecewise) {
            assert_eq!(*whole, piecewise, "pieces of {step} bytes");
        }
    }
}

/// The body of `POST /report`.
pub fn report(input: &[u8]) {
    match IncomingReport::parse(input) {
        Ok(incoming) => {
            assert!((0.0..=100.0).contains(&incoming.report.cpu));
            let again = IncomingReport::parse(&incoming.to_json());
            assert_eq!(again.as_ref(), Ok(&incoming), "a report that is handed on is another one");
        }
        Err(error) => is_one_line(&error.to_string()),
    }
}

/// The other bodies on the cluster address, both ways. An RPC goes through a node's decisions, too: a new node's, and a
/// candidate's.
pub fn rpc(input: &[u8]) {
    if let Ok(envelope) = serde_json::from_slice::<RequestEnvelope>(input) {
        let again: RequestEnvelope = serde_json::from_slice(&to_json(&envelope)).expect("our own JSON");
        assert_eq!(again, envelope);
        let RequestEnvelope { incarnation, request } = envelope;
        for waits in [Duration::ZERO, Duration::from_secs(2)] {
            let mut node = Node::new();
            node.batch(waits, None);
            let input = Input::Request { from: 2, incarnation, request: request.clone(), caller: () };
            node.batch(waits, Some(input.clone()));
            node.batch(waits, Some(input));
            node.batch(Duration::from_secs(10), None);
        }
    }
    if let Ok(envelope) = serde_json::from_slice::<ReplyEnvelope>(input) {
        let again: ReplyEnvelope = serde_json::from_slice(&to_json(&envelope)).expect("our own JSON");
        assert_eq!(again, envelope);
        let ReplyEnvelope { incarnation, reply } = envelope;
        let mut node = Node::new();
        for (to, rpc) in node.batch(Duration::from_secs(2), None) {
            node.batch(
                Duration::from_secs(2),
                Some(Input::Reply { from: to, incarnation, rpc, reply: reply.clone() }),
            );
        }
        node.batch(Duration::from_secs(10), None);
    }
    if let Ok(counts) = serde_json::from_slice::<InFlight>(input) {
        assert_eq!(serde_json::from_slice::<InFlight>(&to_json(&counts)).ok(), Some(counts));
    }
    if let Ok(wish) = TransferRequest::parse(input) {
        assert_eq!(TransferRequest::parse(&to_json(&wish)).ok(), Some(wish));
    }
    if let Ok(order) = ServerOrder::parse(input) {
        assert_eq!(ServerOrder::parse(&to_json(&order)).ok(), Some(order));
    }
    if let Ok(change) = parse_member_change(input) {
        assert_eq!(parse_member_change(&to_json(&change)).ok(), Some(change));
    }
    if let Ok(answer) = serde_json::from_slice::<MembersAnswer>(input) {
        assert_eq!(serde_json::from_slice::<MembersAnswer>(&to_json(&answer)).ok(), Some(answer));
    }
    let _ = serde_json::from_slice::<MembersChanged>(input);
    if let Some(answer) = [200, 202].into_iter().find_map(|status| ReportAnswer::parse(status, input)) {
        assert_eq!(ReportAnswer::parse(answer.status(), &to_json(&answer)), Some(answer));
    }
    let _ = serde_json::from_slice::<KnownLeader>(input);
    if let Some(query) = std::str::from_utf8(input).ok().and_then(LogQuery::parse) {
        let target = query.target();
        let query_text = target.split_once('?').map_or("", |(_, query)| query);
        assert_eq!(LogQuery::parse(query_text), Some(query), "{target}");
    }
}

/// A log on disk, in the form of [`file`].
pub fn log(input: &[u8]) {
    log_is_taken(input);
}

/// The same; whether a node starts with it.
pub fn log_is_taken(input: &[u8]) -> bool {
    let disk = MemoryDisk::default();
    disk.put(LOG, &file(input));
    open(disk)
}

/// A snapshot and the log beside it, in the form of [`file`]: the first line is the snapshot's file.
pub fn snapshot(input: &[u8]) {
    snapshot_is_taken(input);
}

/// The same; whether a node starts with it.
pub fn snapshot_is_taken(input: &[u8]) -> bool {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, rest) = input.split_at((end + 1).min(input.len()));
    // The file is named after the last entry that it holds.
    let json = serde_json::from_str::<serde_json::Value>(&with_version(line));
    let named = json.ok().and_then(|value| value["snapshot"]["last_index"].as_u64());
    let disk = MemoryDisk::default();
    disk.put(&format!("snapshot-{:020}.json", named.unwrap_or(1)), &file(line));
    disk.put(LOG, &file(rest));
    open(disk)
}

/// A cluster.toml.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // No key file is there: what is read must not depend on this machine.
    let path = Path::new("/nonexistent/cluster.toml");
    match Config::parse(text, path) {
        Ok(config) => {
            assert!(!config.nodes.is_empty() && config.election_timeout.0 <= config.election_timeout.1);
            for node in &config.nodes {
                assert_eq!(config.node(node.id).map(|found| found.cluster), Ok(node.cluster));
            }
            for insecure in [false, true] {
                if let Err(error) = config.check_exposure(insecure) {
                    is_one_line(&error.to_string());
                }
            }
            config.warnings(None).iter().for_each(|warning| is_one_line(warning));
        }
        Err(error) => {
            let error = error.to_string();
            is_one_line(&error);
            assert!(error.starts_with("/nonexistent/"), "{error}");
        }
    }
}

/// The headers of a request, and of an answer, by somebody who does not have the secret: `Name: value`, one in each line; the
/// first line is the target. Nothing is taken.
pub fn seal(input: &[u8]) {
    let text = with_version(input);
    let _ = Secret::parse(input);
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default();
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let header = |name: &'static str| {
        headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    };
    let secret =
        Secret::parse(b"0123456789abcdef0123456789abcdef").expect("32 bytes").whole().expect("no report key");
    let founding = Founding::new("fuzz", MEMBERS);
    let peer: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    for secret in [Some(&secret), None] {
        let gate = Gate::new("fuzz", "node-1", secret).expect("a whole secret").founded(&founding);
        match gate.judge("POST", target, header, &Purpose::ALL, peer, Duration::from_secs(1)) {
            Verdict::Refused(refusal) => is_one_line(&refusal.to_string()),
            Verdict::Accepted(_) | Verdict::Answer { .. } => assert!(secret.is_none(), "it is not signed"),
        }
        let seal = Seal::new("fuzz", "node-2", secret).expect("randomness").founded(&founding);
        let sealed = seal.opening("node-1", Purpose::Raft, &"0".repeat(32));
        let opened = seal.open_answer(&sealed, 200, header, input);
        assert!(opened.is_err() || secret.is_none(), "the answer is not signed");
    }
}

fn is_one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains(['\n', '\r', '\u{1b}']), "{text:?}");
}

/// The bytes as text, with the version of the protocol in its places.
fn with_version(input: &[u8]) -> String {
    String::from_utf8_lossy(input).replace(VERSION, &PROTOCOL_VERSION.to_string())
}

/// A file in a node's directory. After `#` the bytes are the file as they are. Otherwise each line gets a checksum that fits, since
/// no fuzzer guesses one; and if the first line is `!CUT ZEROS`, so many bytes are missing at the end, and so many zeros follow.
fn file(input: &[u8]) -> Vec<u8> {
    if let Some(raw) = input.strip_prefix(b"#") {
        return raw.to_vec();
    }
    let text = with_version(input);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let end = first.strip_prefix('!').and_then(|words| words.split_once(' '));
    let end = end.and_then(|(cut, zeros)| Some((cut.parse::<u16>().ok()?, zeros.parse::<u16>().ok()?)));
    let mut lines = Vec::new();
    for line in if end.is_some() { rest } else { &text }.split_inclusive('\n') {
        let body = line.strip_suffix('\n').unwrap_or(line);
        lines.extend_from_slice(format!("{:08x} {line}", crc32fast::hash(body.as_bytes())).as_bytes());
    }
    if let Some((cut, zeros)) = end {
        lines.truncate(lines.len().saturating_sub(cut.into()));
        lines.resize(lines.len() + usize::from(zeros), 0);
    }
    lines
}

/// Opens a directory: it is refused in one line, or is a sound one that a node can start with, and that is the same when it is
/// opened again. Whether it is taken.
fn open(disk: MemoryDisk) -> bool {
    let founding = Founding::new("fuzz", MEMBERS);
    let identity = Identity { founding: founding.clone(), node: 1 };
    let fresh = Fresh { incarnation: 7, records: founding.records() };
    let before = disk.files();
    let recovered = match Storage::open(disk.clone(), &identity, fresh.clone()) {
        Ok((_, recovered)) => recovered,
        Err(error) => {
            assert_eq!(disk.files(), before, "a directory that is refused stays as it was found: {error}");
            is_one_line(&error.to_string());
            return false;
        }
    };
    let (_, again) = Storage::open(disk, &identity, fresh).expect("what was mended can be opened");
    let first = Recovered { repaired: None, ..recovered.clone() };
    assert_eq!(Recovered { repaired: None, ..again }, first);
    let Recovered { hard_state, snapshot, entries, commit, .. } = recovered;
    let Ok(mut replica) = Replica::<(), ()>::new(settings(), hard_state, snapshot, entries, Duration::ZERO)
    else {
        return false;
    };
    if let Some(hint) = commit {
        replica.recall_commit(hint.index, Duration::ZERO);
    }
    let mut node = Node { replica, now: Duration::ZERO };
    node.batch(Duration::from_secs(2), None);
    true
}

fn settings() -> ReplicaSettings {
    let timeouts = (Duration::from_millis(500), Duration::from_millis(1_000));
    ReplicaSettings {
        raft: raft::Settings::new(1, MEMBERS.into(), timeouts, Duration::from_millis(100), 7),
        server_timeout: Duration::from_secs(5),
        snapshot_entries: 100,
        servers_max: SERVERS_MAX,
    }
}

/// The decisions of node 1, with a disk that is done at once.
struct Node {
    replica: Replica<(), ()>,
    now: Duration,
}

impl Node {
    /// With the log of a new cluster.
    fn new() -> Self {
        let founding = Founding::new("fuzz", MEMBERS);
        let hard_state = raft::HardState { term: 1, voted_for: None, joining: false };
        let replica = Replica::new(settings(), hard_state, None, vec![founding.entry()], Duration::ZERO);
        Self { replica: replica.expect("a sound start"), now: Duration::ZERO }
    }

    /// Lets time pass and takes one input in; what was sent, and to whom.
    fn batch(&mut self, waits: Duration, input: Option<Input<(), ()>>) -> Vec<(NodeId, raft::RpcId)> {
        self.now += waits;
        if let Some(input) = input {
            self.replica.receive(self.now, input);
        }
        self.replica.end_batch(self.now, Unread::default());
        let mut sent = Vec::new();
        while let Some(effect) = self.replica.next_effect() {
            match effect {
                Effect::Write(write) => self.replica.durable(self.now, write.mark),
                Effect::Send { to, rpc, .. } => sent.push((to, rpc)),
                Effect::Notice(notice) => is_one_line(&notice.line(1)),
                _ => {}
            }
        }
        sent
    }
}
