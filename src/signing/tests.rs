//! A sender and a gate, without a network in between.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use std::net::SocketAddr;
use std::time::Instant;

use super::gate::{NAME_BYTES_MAX, name_header};
use super::keys::derive;
use super::*;
use crate::protocol::{
    HEADER_ANSWER_SIGNATURE, HEADER_CLUSTER, HEADER_PURPOSE, HEADER_RECIPIENT, HEADER_SIGNATURE,
};

const NOW: u64 = 1_795_000_000_000;
const BORN: u64 = NOW - 100_000;
const BODY: &[u8] = br#"{"term":7}"#;

fn secret() -> Secret {
    Secret::parse(b"0123456789abcdef0123456789abcdef\n").unwrap()
}

fn seal(me: &str) -> Seal {
    Seal::new("lab", me, Some(&secret())).unwrap()
}

fn gate() -> Gate {
    Gate::new_at("lab", "node-1", Some(&secret()), BORN).unwrap()
}

fn peer() -> SocketAddr {
    "10.0.0.2:40000".parse().unwrap()
}

/// A request on its way. An attacker can change each part of it.
#[derive(Clone)]
struct Message {
    method: String,
    path: String,
    body: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

fn sealed(seal: &Seal, recipient: &str, purpose: Purpose, at_ms: u64) -> (SealedRequest, Message) {
    let request = seal.request_at(recipient, purpose, "POST", "/raft/append?x=1", BODY, at_ms);
    let message = Message {
        method: "POST".to_owned(),
        path: "/raft/append?x=1".to_owned(),
        body: BODY.to_vec(),
        headers: request.headers.clone(),
    };
    (request, message)
}

fn vote(at_ms: u64) -> Message {
    sealed(&seal("node-2"), "node-1", Purpose::Raft, at_ms).1
}

fn lookup<'a>(headers: &'a [(&'static str, String)]) -> impl Fn(&'static str) -> Option<&'a str> {
    |wanted| headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str())
}

fn open_for(gate: &Gate, message: &Message, purposes: &[Purpose], now_ms: u64) -> Result<Opened, Refusal> {
    let Message { method, path, body, headers } = message;
    gate.open_request_at(method, path, lookup(headers), body, purposes, peer(), now_ms)
}

fn open(gate: &Gate, message: &Message, now_ms: u64) -> Result<Opened, Refusal> {
    open_for(gate, message, &[Purpose::Raft], now_ms)
}

/// The value of a header, to be changed.
fn value<'a>(message: &'a mut Message, name: &str) -> &'a mut String {
    message.headers.iter_mut().find(|(known, _)| *known == name).map(|(_, value)| value).unwrap()
}

fn kind<T: fmt::Debug>(outcome: Result<T, Refusal>) -> RefusalKind {
    outcome.unwrap_err().kind
}

#[test]
fn a_sealed_request_is_opened_once() {
    let gate = gate();
    let message = vote(NOW);
    let opened = open(&gate, &message, NOW).unwrap();
    assert_eq!((opened.sender.as_str(), opened.purpose), ("node-2", Purpose::Raft));
    assert_eq!(kind(open(&gate, &message, NOW)), RefusalKind::Replayed);
    assert_eq!(kind(open(&gate, &message, NOW + CLOCK_APART_MS_MAX)), RefusalKind::Replayed);
    let counted: Vec<_> = gate.refusals().into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted, [(RefusalKind::Replayed, 2)]);
}

#[test]
fn every_altered_byte_is_refused() {
    let message = vote(NOW);
    let gate = gate();
    let mut altered = Vec::new();
    for at in 0..message.headers.len() {
        for byte in 0..message.headers[at].1.len() {
            for new in [b'0', b'9', b'a', b'Z', b'-'] {
                let mut other = message.clone();
                let mut value = other.headers[at].1.clone().into_bytes();
                if value[byte] == new {
                    continue;
                }
                value[byte] = new;
                other.headers[at].1 = String::from_utf8(value).unwrap();
                altered.push(other);
            }
        }
        let mut shorter = message.clone();
        shorter.headers[at].1.pop();
        altered.push(shorter);
        let mut longer = message.clone();
        longer.headers[at].1.push('0');
        altered.push(longer);
        let mut without = message.clone();
        without.headers.remove(at);
        altered.push(without);
    }
    for byte in 0..message.body.len() {
        let mut other = message.clone();
        other.body[byte] ^= 1;
        altered.push(other);
    }
    for path in ["/raft/append", "/raft/append?x=2", "/raft/vote?x=1", "/raft/append?x=1&", ""] {
        altered.push(Message { path: path.to_owned(), ..message.clone() });
    }
    for method in ["PUT", "post", "POST "] {
        altered.push(Message { method: method.to_owned(), ..message.clone() });
    }
    altered.push(Message { body: Vec::new(), ..message.clone() });
    for other in &altered {
        let refusal = open(&gate, other, NOW).expect_err("an altered request was accepted");
        assert!(
            !matches!(refusal.kind, RefusalKind::Replayed | RefusalKind::ClockApart | RefusalKind::TooOld),
            "{refusal}: judged as if it were genuine"
        );
    }
    // None of them used up the nonce of the genuine request.
    open(&gate, &message, NOW).unwrap();
}

#[test]
fn each_refusal() {
    let me = seal("node-2");
    let of = |seal: &Seal, to: &str, purpose, at| sealed(seal, to, purpose, at).1;
    let other_secret = Secret::parse(b"fedcba9876543210fedcba9876543210").unwrap();
    let unsigned = Seal::new("lab", "node-2", None).unwrap();
    let other_cluster = Seal::new("lab2", "node-2", Some(&secret())).unwrap();
    let stranger = Seal::new("lab", "node-2", Some(&other_secret)).unwrap();
    let mut relabelled = of(&seal("daemon:lab-01"), "node-1", Purpose::Report, NOW);
    *value(&mut relabelled, HEADER_PURPOSE) = "raft".to_owned();
    let mut garbled = vote(NOW);
    value(&mut garbled, HEADER_SIGNATURE).push('0');
    let mut other_version = vote(NOW);
    *value(&mut other_version, HEADER_VERSION) = "9".to_owned();
    // A later version is refused by name, whatever else it changes.
    let mut later = other_version.clone();
    later.headers.retain(|(name, _)| *name == HEADER_VERSION);
    for (message, expected, words) in [
        (of(&unsigned, "node-1", Purpose::Raft, NOW), RefusalKind::Unsigned, "secret_file"),
        (of(&stranger, "node-1", Purpose::Raft, NOW), RefusalKind::Altered, "secret_file"),
        (of(&me, "node-3", Purpose::Raft, NOW), RefusalKind::WrongRecipient, "meant for node-3"),
        (of(&other_cluster, "node-1", Purpose::Raft, NOW), RefusalKind::WrongCluster, "cluster lab2"),
        (of(&me, "node-1", Purpose::Report, NOW), RefusalKind::WrongPurpose, "report"),
        (of(&me, "node-1", Purpose::Admin, NOW), RefusalKind::WrongPurpose, "admin"),
        (relabelled, RefusalKind::Altered, "does not match"),
        (garbled, RefusalKind::Malformed, "64 hexadecimal digits"),
        (
            other_version,
            RefusalKind::WrongVersion,
            "speaks version 9 of the protocol, this program version 2; run",
        ),
        (later, RefusalKind::WrongVersion, "version 9"),
        (of(&me, "node-1", Purpose::Raft, NOW - 30_001), RefusalKind::ClockApart, "30001 ms behind"),
        (of(&me, "node-1", Purpose::Raft, NOW + 30_001), RefusalKind::ClockApart, "30001 ms ahead"),
    ] {
        let refusal = open(&gate(), &message, NOW).unwrap_err();
        assert_eq!(refusal.kind, expected, "{refusal}");
        assert!(refusal.detail.contains(words), "{refusal}");
        assert_eq!(refusal.status(), 401);
    }
    let born_late = Gate::new_at("lab", "node-1", Some(&secret()), NOW + 5).unwrap();
    let refusal = open(&born_late, &vote(NOW), NOW + 6).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TooOld);
    assert!(refusal.detail.contains("5 ms before this node started"), "{refusal}");
}

#[test]
fn thirty_seconds_exactly_are_allowed() {
    for said in [NOW - CLOCK_APART_MS_MAX, NOW + CLOCK_APART_MS_MAX] {
        open(&gate(), &vote(said), NOW).unwrap();
    }
}

#[test]
fn requests_may_overtake_each_other_and_clones_do_not_collide() {
    let gate = gate();
    let first = seal("node-2");
    let second = first.clone();
    let mut messages: Vec<Message> = (0..100)
        .flat_map(|_| [&first, &second])
        .map(|seal| sealed(seal, "node-1", Purpose::Raft, NOW).1)
        .collect();
    messages.reverse();
    for message in &messages {
        open(&gate, message, NOW).unwrap();
    }
    for message in &messages {
        assert_eq!(kind(open(&gate, message, NOW)), RefusalKind::Replayed);
    }
}

#[test]
fn a_request_to_one_node_is_not_good_for_another_nor_after_a_restart() {
    let message = vote(NOW);
    open(&gate(), &message, NOW).unwrap();
    let node_3 = Gate::new_at("lab", "node-3", Some(&secret()), BORN).unwrap();
    assert_eq!(kind(open(&node_3, &message, NOW)), RefusalKind::WrongRecipient);
    let mut readdressed = message.clone();
    *value(&mut readdressed, HEADER_RECIPIENT) = "node-3".to_owned();
    assert_eq!(kind(open(&node_3, &readdressed, NOW)), RefusalKind::Altered);
    let restarted = Gate::new_at("lab", "node-1", Some(&secret()), NOW + 1).unwrap();
    assert_eq!(kind(open(&restarted, &message, NOW + 2)), RefusalKind::TooOld);
}

#[test]
fn answers() {
    let gate = gate();
    let node_2 = seal("node-2");
    let exchange = || {
        let (request, message) = sealed(&node_2, "node-1", Purpose::Raft, NOW);
        let opened = open(&gate, &message, NOW).unwrap();
        (request, opened)
    };
    let (request, opened) = exchange();
    let (other_request, other_opened) = exchange();
    let granted = br#"{"granted":true}"#;
    let headers = gate.seal_answer(&opened, 200, granted);
    node_2.open_answer(&request, 200, lookup(&headers), granted).unwrap();

    let check = |request: &SealedRequest, status, headers: &[(&'static str, String)], body: &[u8]| {
        node_2.open_answer(request, status, lookup(headers), body).unwrap_err().kind
    };
    // Altered, or the answer to another request (a replay of an old answer is the same case).
    assert_eq!(check(&request, 202, &headers, granted), RefusalKind::Altered);
    assert_eq!(check(&request, 200, &headers, br#"{"granted":false}"#), RefusalKind::Altered);
    assert_eq!(check(&other_request, 200, &headers, granted), RefusalKind::Altered);
    let swapped = gate.seal_answer(&other_opened, 200, granted);
    assert_eq!(check(&request, 200, &swapped, granted), RefusalKind::Altered);
    // Forged: by nobody, by another node, by a holder of another purpose's key, by the request's own
    // signature.
    assert_eq!(check(&request, 200, &[], granted), RefusalKind::Unsigned);
    let node_3 = Gate::new_at("lab", "node-3", Some(&secret()), BORN).unwrap();
    assert_eq!(
        check(&request, 200, &node_3.seal_answer(&opened, 200, granted), granted),
        RefusalKind::Altered
    );
    let by_daemon = gate.seal_answer(&Opened { purpose: Purpose::Report, ..opened.clone() }, 200, granted);
    assert_eq!(check(&request, 200, &by_daemon, granted), RefusalKind::Altered);
    let own_signature = lookup(&request.headers)(HEADER_SIGNATURE).unwrap().to_owned();
    let echo = vec![(HEADER_ANSWER_SIGNATURE, own_signature)];
    assert_eq!(check(&request, 200, &echo, BODY), RefusalKind::Altered);
    for garbage in ["", "00", "v1:00"] {
        let headers = vec![(HEADER_ANSWER_SIGNATURE, garbage.to_owned())];
        assert_eq!(check(&request, 200, &headers, granted), RefusalKind::Malformed);
    }
    let signature = lookup(&headers)(HEADER_ANSWER_SIGNATURE).unwrap();
    for byte in 0..signature.len() {
        let new = if &signature[byte..=byte] == "0" { "1" } else { "0" };
        let mut forged = vec![(HEADER_ANSWER_SIGNATURE, signature.to_owned())];
        forged[0].1.replace_range(byte..=byte, new);
        assert_eq!(check(&request, 200, &forged, granted), RefusalKind::Altered);
    }
}

#[test]
fn an_answer_of_another_version_is_refused_by_name() {
    for secret in [None, Some(secret())] {
        let seal = Seal::new("lab", "node-2", secret.as_ref()).unwrap();
        let judge = |purpose, status, headers: &[(&'static str, String)]| {
            let request = seal.request_at("node-1", purpose, "POST", "/", BODY, NOW);
            seal.open_answer(&request, status, lookup(headers), BODY)
        };
        // Whatever the status is, and with or without a signature.
        for status in [200, 202, 401] {
            let refusal = judge(Purpose::Report, status, &[(HEADER_VERSION, "9".to_owned())]).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::WrongVersion);
            assert!(refusal.detail.starts_with("node-1 speaks version 9"), "{refusal}");
        }
        let spoilt = judge(Purpose::Raft, 200, &[(HEADER_VERSION, "2\n".to_owned())]);
        assert_eq!(kind(spoilt), RefusalKind::Malformed);
        if secret.is_none() {
            assert_eq!(kind(judge(Purpose::Raft, 200, &[])), RefusalKind::WrongVersion);
            // The HTTP edge refuses without a version; and a program that stands in for a node may name none.
            judge(Purpose::Raft, 503, &[]).unwrap();
            judge(Purpose::Report, 200, &[]).unwrap();
        }
    }
}

#[test]
fn the_report_key_reports_and_cannot_vote() {
    let line = secret().report_key_line("lab").unwrap();
    let report_only = Secret::parse(line.as_bytes()).unwrap();
    let daemon = Seal::new("lab", "daemon:lab-01", Some(&report_only)).unwrap();
    let gate = gate();
    let (request, report) = sealed(&daemon, "node-1", Purpose::Report, NOW);
    let opened = open_for(&gate, &report, &[Purpose::Report], NOW).unwrap();
    assert_eq!(opened.sender, "daemon:lab-01");
    daemon.open_answer(&request, 200, lookup(&gate.seal_answer(&opened, 200, b"ok")), b"ok").unwrap();

    let (request, vote) = sealed(&daemon, "node-1", Purpose::Raft, NOW);
    assert_eq!(kind(open(&gate, &vote, NOW)), RefusalKind::Unsigned);
    assert_eq!(kind(daemon.open_answer(&request, 200, |_| None, b"")), RefusalKind::WrongPurpose);
    assert!(report_only.serves(Purpose::Report));
    assert!(!report_only.serves(Purpose::Raft) && !report_only.serves(Purpose::Admin));
    assert_eq!(report_only.report_key_line("lab"), None);
    let refused = Gate::new("lab", "node-1", Some(&report_only)).map(|_| ());
    assert!(refused.unwrap_err().contains("needs the cluster's secret"));
}

#[test]
fn secrets_that_are_none() {
    assert!(Secret::parse(b"").unwrap_err().contains("/dev/urandom"));
    assert!(Secret::parse(b"  fifteen bytes..  \n").unwrap_err().contains("15 bytes"));
    assert!(Secret::parse(b"sixteen bytes...").is_ok());
    assert!(Secret::parse(b"report-key:abc").unwrap_err().contains("64"));
    assert_eq!(format!("{:?} {:?}", secret(), seal("node-1").keys), "Secret(whole) Some(Keys)");
}

#[test]
fn keys_differ_by_purpose_and_cluster() {
    let keys: std::collections::BTreeSet<[u8; 32]> = ["lab", "lab2", "labraft", ""]
        .iter()
        .flat_map(|cluster| Purpose::ALL.map(|purpose| derive(b"secret", cluster, purpose)))
        .collect();
    assert_eq!(keys.len(), 12);
}

#[test]
fn without_a_secret_the_headers_still_find_a_wrong_address() {
    let gate = Gate::new_at("lab", "node-1", None, BORN).unwrap();
    let plain = |cluster: &str, to: &str, purpose| {
        let seal = Seal::new(cluster, "node-2", None).unwrap();
        sealed(&seal, to, purpose, NOW)
    };
    let both = [Purpose::Report, Purpose::Raft];
    let (request, message) = plain("lab", "node-1", Purpose::Raft);
    assert_eq!(request.headers.len(), 5);
    let opened = open(&gate, &message, NOW).unwrap();
    assert_eq!(opened.sender, "node-2");
    let headers = gate.seal_answer(&opened, 200, b"x");
    assert_eq!(headers, gate.own_headers());
    Seal::new("lab", "node-2", None).unwrap().open_answer(&request, 200, lookup(&headers), b"x").unwrap();
    for (message, expected) in [
        (plain("lab2", "node-1", Purpose::Raft).1, RefusalKind::WrongCluster),
        (plain("lab2", "node-1", Purpose::Report).1, RefusalKind::WrongCluster),
        (plain("lab", "node-3", Purpose::Report).1, RefusalKind::WrongRecipient),
    ] {
        assert_eq!(kind(open_for(&gate, &message, &both, NOW)), expected);
    }
    assert_eq!(kind(open(&gate, &plain("lab", "node-1", Purpose::Report).1, NOW)), RefusalKind::WrongPurpose);
    // A request of curl is accepted as a report, but not as a vote or a command.
    let bare = Message { headers: Vec::new(), ..message.clone() };
    let opened = open_for(&gate, &bare, &[Purpose::Report], NOW).unwrap();
    assert_eq!((opened.sender.as_str(), opened.purpose), ("", Purpose::Report));
    for purpose in [Purpose::Raft, Purpose::Admin] {
        assert_eq!(kind(open_for(&gate, &bare, &[purpose], NOW)), RefusalKind::Malformed);
    }
    for missing in 0..5 {
        let mut message = message.clone();
        message.headers.remove(missing);
        assert_eq!(kind(open(&gate, &message, NOW)), RefusalKind::Malformed, "without header {missing}");
    }
    // A gate without a secret serves a sender with one. Then the sender refuses the unsigned answer.
    let (request, message) = sealed(&seal("node-2"), "node-1", Purpose::Raft, NOW);
    open(&gate, &message, NOW).unwrap();
    assert_eq!(kind(seal("node-2").open_answer(&request, 200, |_| None, b"")), RefusalKind::Unsigned);
}

#[test]
fn names_that_are_not_ascii_travel() {
    let seal = Seal::new("Prüfung 3", "daemon:größe", Some(&secret())).unwrap();
    let gate = Gate::new_at("Prüfung 3", "node-1", Some(&secret()), BORN).unwrap();
    let message = sealed(&seal, "node-1", Purpose::Raft, NOW).1;
    assert_eq!(lookup(&message.headers)(HEADER_CLUSTER), Some("Pr%C3%BCfung%203"));
    assert_eq!(open(&gate, &message, NOW).unwrap().sender, "daemon:gr%C3%B6%C3%9Fe");
}

#[test]
fn headers_that_could_spoil_a_log_line_are_refused() {
    for bad in ["node-2\nINFO all is well", "", "node 2", "n\u{1b}[31m", &"x".repeat(NAME_BYTES_MAX + 1)] {
        for at in 0..4 {
            let mut message = vote(NOW);
            message.headers[at].1 = bad.to_owned();
            let refusal = open(&gate(), &message, NOW).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Malformed);
            assert!(refusal.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{refusal}");
        }
    }
}

#[test]
fn with_the_system_clock() {
    let gate = Gate::new("lab", "node-1", Some(&secret())).unwrap();
    let request = seal("node-2").request("node-1", Purpose::Raft, "POST", "/raft/vote", BODY);
    let headers = lookup(&request.headers);
    gate.open_request("POST", "/raft/vote", headers, BODY, &[Purpose::Raft], peer()).unwrap();
}

proptest! {
    /// A frame can be parsed back into its fields, so no two lists of fields share one.
    #[test]
    fn framing_is_injective(fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let borrowed: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        let bytes = frame(&borrowed);
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut taken_apart = Vec::new();
        let mut at = 4;
        for _ in 0..number(0) {
            let length = number(at);
            taken_apart.push(bytes[at + 4..at + 4 + length].to_vec());
            at += 4 + length;
        }
        prop_assert_eq!(at, bytes.len());
        prop_assert_eq!(taken_apart, fields);
    }

    /// Two names have different forms in a header, and each form is fit for a header.
    #[test]
    fn names_in_headers_are_injective_and_fit(name in "\\PC{1,20}", other in "\\PC{1,20}") {
        prop_assert!(name_header("x", Some(&header_form(&name))).is_ok());
        prop_assert_eq!(name == other, header_form(&name) == header_form(&other));
    }
}

/// Not a test of behaviour: `cargo test --release --lib -- --ignored --nocapture microseconds`.
#[test]
#[ignore = "a measurement"]
fn microseconds_per_seal() {
    const TIMES: u32 = 200_000;
    let body = [b'x'; 200];
    let gate = Gate::new("lab", "node-1", Some(&secret())).unwrap();
    let seal = seal("node-2");
    let start = Instant::now();
    let requests: Vec<SealedRequest> =
        (0..TIMES).map(|_| seal.request("node-1", Purpose::Raft, "POST", "/raft/append", &body)).collect();
    let sealing = start.elapsed() / TIMES;
    let start = Instant::now();
    for request in &requests {
        let header = lookup(&request.headers);
        gate.open_request("POST", "/raft/append", header, &body, &[Purpose::Raft], peer()).unwrap();
    }
    println!("200 bytes: sealed in {sealing:?}, opened in {:?}", start.elapsed() / TIMES);
}
