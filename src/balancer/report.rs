//! Reads and checks a daemon's report: the body of `POST /report` (docs/protocol.md, "POST /report").
//!
//! The cluster listener calls it for each report before the report is proposed, so that a bad report never
//! enters the log. [`Report::check`] runs again when the entry is applied, where it is part of the replicated
//! rules.
//!
//! A good body is parsed once, into a typed struct. If that fails, the body is parsed again without types, to
//! find the field at fault: serde says "expected f64 at column 40", but a person needs "`cpu` must be a
//! number …".

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::name::is_name;

/// The largest body of `POST /report`, in bytes.
pub const REPORT_BODY_BYTES_MAX: usize = 64 * 1024;

/// The most processors of a server: above any machine of today, and low enough for exact arithmetic.
pub const CORES_MAX: u32 = 65_536;

/// The largest epoch and sequence: 2^53 - 1, the largest integer that every JSON reader (a browser too) holds
/// exactly.
pub const COUNTER_MAX: u64 = (1 << 53) - 1;

/// The longest text of a [`ReportError`], in characters.
pub const ERROR_CHARS_MAX: usize = 300;

/// The longest part of a client's input that an error quotes, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// Each field of the body, and what it must be, as an error says it. In the order of docs/protocol.md.
const FIELDS: [(&str, &str); 11] = [
    ("server", "a name of 1 to 64 letters, digits, '.', '_' or '-' that starts with a letter or digit"),
    (
        "worker",
        "IP:port, such as \"10.0.0.11:13337\", with a port from 1024 and an address that others can reach",
    ),
    ("cpu", "a number from 0 to 100, the percent of all processors that was busy"),
    ("cores", "an integer from 1 to 65536"),
    ("epoch", "an integer from 1 to 9007199254740991, when the daemon started"),
    ("sequence", "an integer from 0 to 9007199254740991, one more with every report"),
    ("cpu_known", "true or false (true if it is left out)"),
    ("worker_up", "true or false (true if it is left out)"),
    ("worker_active", "true or false (left out if it is not known)"),
    ("instance", "an integer from 1 to 9007199254740991, which the daemon's process drew (may be left out)"),
    ("forward", "true or false (false if it is left out)"),
];

/// How many of [`FIELDS`], from the first on, are required.
const REQUIRED: usize = 6;

/// Orders the reports of one server while it is alive: it grows with every report. The epoch is compared first,
/// so that the reports of a restarted daemon, whose sequence begins again, are newer.
///
/// The epoch usually comes from a clock, but no clock has to be right: a daemon whose stamp is too low learns
/// the committed one from the answer and goes on above it ([`Stamp::epoch_above`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When the daemon started, in milliseconds since 1970 by its own clock, or one above the epoch of another
    /// report of this server; 1 to [`COUNTER_MAX`].
    pub epoch: u64,
    /// The number of the report since then; 0 to [`COUNTER_MAX`].
    pub sequence: u64,
}

impl Stamp {
    /// The epoch in which a daemon goes on whose report was stale, where `self` is the committed stamp and `own`
    /// the newest that the daemon has sent. `None`: the daemon goes on as it is.
    ///
    /// No epoch is above the greatest one. Then the daemon waits: the leader declares the server dead, because
    /// it hears nothing new of it, and a dead server comes back with any other epoch.
    pub fn epoch_above(self, own: Self) -> Option<u64> {
        if self <= own {
            None // The daemon's own report, or an earlier one.
        } else if self.epoch < COUNTER_MAX {
            Some(self.epoch + 1)
        } else {
            // Any other epoch will do once the server is dead.
            (own.epoch == COUNTER_MAX).then_some(1)
        }
    }
}

/// The state of one server as its daemon measured it: what is replicated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The server's name: [`is_name`].
    pub server: String,
    /// Where its worker listens.
    pub worker: SocketAddr,
    /// Percent of the processors that was busy since the last report; 0 to 100, never -0.0. Of those that the worker
    /// may use: all of the machine, or what a quota or a cpuset leaves.
    pub cpu: f64,
    /// How many processors the worker may use, rounded; 1 to [`CORES_MAX`].
    pub cores: u32,
    /// Whether `cpu` was measured. False when the daemon cannot measure: then no node chooses the server while another
    /// one is there. Only false is written, so that the usual report stays short.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub cpu_known: bool,
    /// See [`Stamp`].
    pub epoch: u64,
    /// See [`Stamp`].
    pub sequence: u64,
    /// Whether something listens at `worker`. False keeps the server alive but out of the choice.
    pub worker_up: bool,
    /// Whether the worker did something since the last report, or would have if it had got a processor. `None`: not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_active: Option<bool>,
    /// The number that the daemon's process drew when it started; 1 to [`COUNTER_MAX`]. It tells two daemons of one
    /// name apart. `None` (a report by hand, or the last one of a daemon that stops): the name belongs to nobody after
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
}

/// A checked body of `POST /report`. A daemon writes it and a node reads it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IncomingReport {
    /// The part that is replicated.
    #[serde(flatten)]
    pub report: Report,
    /// The daemon asks a follower to forward the report to the leader, because no node committed its last
    /// one.
    pub forward: bool,
}

/// Why a body is not a report: one line that names the field and the mend, without control characters, of at
/// most [`ERROR_CHARS_MAX`] characters. It is used in an answer with status 400 and in a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportError(String);

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReportError {}

impl ReportError {
    fn new(text: &str) -> Self {
        Self(one_line(text, ERROR_CHARS_MAX))
    }

    /// The error of a field that holds `shown`.
    fn field(name: &str, shown: impl fmt::Display) -> Self {
        let mend = FIELDS.iter().find(|(field, _)| *field == name).map_or("", |(_, mend)| *mend);
        let shown = one_line(&shown.to_string(), QUOTED_CHARS_MAX);
        Self::new(&format!("`{name}` must be {mend}, not {shown}"))
    }
}

/// Why JSON from elsewhere is not what it should be, in one line: serde's own words quote the text as it is.
pub(super) fn told(error: &serde_json::Error) -> String {
    one_line(&error.to_string(), ERROR_CHARS_MAX)
}

/// `text` with its control characters escaped, cut off after `chars_max` characters.
fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    // One character may become several (`\u{7f}`), so the result is cut and not the input.
    let escaped = text.chars().flat_map(|c| {
        let escape = c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let escaped = escape.then(|| c.escape_default());
        let plain = (!escape).then_some(c);
        escaped.into_iter().flatten().chain(plain)
    });
    for (count, c) in escaped.enumerate() {
        if count + 1 == chars_max {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}

/// The body as serde reads it, before ranges are checked. Integers are wider than needed, so that a value
/// slightly out of range gets the same error as one far out of range.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    server: String,
    worker: String,
    cpu: f64,
    cores: u64,
    #[serde(default = "yes")]
    cpu_known: bool,
    epoch: u64,
    sequence: u64,
    #[serde(default = "yes")]
    worker_up: bool,
    #[serde(default, deserialize_with = "said")]
    worker_active: Option<bool>,
    #[serde(default, deserialize_with = "said")]
    instance: Option<u64>,
    #[serde(default)]
    forward: bool,
}

fn yes() -> bool {
    true
}

// serde calls it with a reference.
fn is_yes(flag: &bool) -> bool {
    *flag
}

/// `null` is no way to leave a field out.
fn said<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The smallest port of a worker. Below it are the system's services (ip(7), "privileged ports"): a false report
/// must not make the nodes talk to those.
pub const WORKER_PORT_MIN: u16 = 1_024;

/// Whether a worker may be there: the address is that of one machine, and means the same machine to every node.
/// `0.0.0.0`, to which a worker binds, is a common mistake: every node would connect to itself. A link-local
/// address (RFC 3927, RFC 4291 section 2.5.6) means another machine on each network.
pub fn is_worker_address(worker: &SocketAddr) -> bool {
    let ip = worker.ip().to_canonical();
    let of_one_machine = match ip {
        IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    worker.port() >= WORKER_PORT_MIN && of_one_machine && !ip.is_unspecified() && !ip.is_multicast()
}

impl Report {
    /// The report's place in the order of the reports of its server.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, sequence: self.sequence }
    }

    /// Gives the report another place in that order.
    pub fn set_stamp(&mut self, stamp: Stamp) {
        (self.epoch, self.sequence) = (stamp.epoch, stamp.sequence);
    }

    /// How many processors were busy: 0.5 is half a core.
    pub fn busy_cores(&self) -> f64 {
        self.cpu * f64::from(self.cores) / 100.0
    }

    /// The report, if every value is in its range. -0.0 in `cpu` becomes 0.0, because equal tables must have
    /// equal digests. These ranges are part of the replicated rules: nodes with different ranges would get
    /// different tables.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn check(mut self) -> Result<Self, ReportError> {
        if !is_name(&self.server) {
            return Err(ReportError::field("server", format_args!("{:?}", self.server)));
        }
        if !is_worker_address(&self.worker) {
            return Err(ReportError::field("worker", self.worker));
        }
        // NaN is in no range, so it is refused, too.
        if !(0.0..=100.0).contains(&self.cpu) {
            return Err(ReportError::field("cpu", self.cpu));
        }
        if !(1..=CORES_MAX).contains(&self.cores) {
            return Err(ReportError::field("cores", self.cores));
        }
        if !(1..=COUNTER_MAX).contains(&self.epoch) {
            return Err(ReportError::field("epoch", self.epoch));
        }
        if self.sequence > COUNTER_MAX {
            return Err(ReportError::field("sequence", self.sequence));
        }
        if let Some(instance) = self.instance.filter(|instance| !(1..=COUNTER_MAX).contains(instance)) {
            return Err(ReportError::field("instance", instance));
        }
        self.cpu += 0.0; // IEEE 754: -0.0 + 0.0 is 0.0; every other value stays.
        Ok(self)
    }
}

impl IncomingReport {
    /// The body of the request that carries the report.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and finite numbers always have a JSON form")
    }

    /// Reads the body of `POST /report`.
    ///
    /// An unknown field is refused, because a misspelt `worker_up` would otherwise silently mean its default.
    /// A field given twice is refused, because two parsers could read it differently.
    ///
    /// # Errors
    /// One line that names the field and the mend.
    pub fn parse(body: &[u8]) -> Result<Self, ReportError> {
        if body.len() > REPORT_BODY_BYTES_MAX {
            return Err(ReportError::new(&format!(
                "the body must have at most {REPORT_BODY_BYTES_MAX} bytes"
            )));
        }
        // serde would also accept an array of the fields. docs/protocol.md demands an object.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(diagnose(body, "the body must be a JSON object"));
        }
        let raw: Body = serde_json::from_slice(body).map_err(|error| diagnose(body, &error.to_string()))?;
        let Ok(worker) = raw.worker.parse() else {
            return Err(ReportError::field("worker", format_args!("{:?}", raw.worker)));
        };
        let Ok(cores) = u32::try_from(raw.cores) else {
            return Err(ReportError::field("cores", raw.cores));
        };
        let report = Report {
            server: raw.server,
            worker,
            cpu: raw.cpu,
            cores,
            cpu_known: raw.cpu_known,
            epoch: raw.epoch,
            sequence: raw.sequence,
            worker_up: raw.worker_up,
            worker_active: raw.worker_active,
            instance: raw.instance,
        };
        Ok(Self { report: report.check()?, forward: raw.forward })
    }
}

/// The error for a body that is not a report. `otherwise` is the error of the strict parse, used if no field
/// is at fault.
fn diagnose(body: &[u8], otherwise: &str) -> ReportError {
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return ReportError::new(&format!("the body must be JSON: {error}")),
    };
    let Value::Object(fields) = value else {
        return ReportError::new("the body must be a JSON object with the fields of a report");
    };
    if let Some(unknown) = fields.keys().find(|key| FIELDS.iter().all(|(field, _)| field != key)) {
        let unknown = one_line(unknown, QUOTED_CHARS_MAX);
        let known = FIELDS.map(|(field, _)| field).join(", ");
        return ReportError::new(&format!("`{unknown}` is no field of a report; the fields are {known}"));
    }
    for (place, (field, mend)) in FIELDS.iter().enumerate() {
        let right = match fields.get(*field) {
            None if place < REQUIRED => {
                return ReportError::new(&format!("`{field}` is missing: it must be {mend}"));
            }
            None => true,
            Some(value) => match *field {
                "server" | "worker" => value.is_string(),
                "cpu" => value.is_number(),
                "cpu_known" | "worker_up" | "worker_active" | "forward" => value.is_boolean(),
                _ => value.is_u64(),
            },
        };
        if !right {
            return ReportError::field(field, &fields[*field]);
        }
    }
    // For example a field given twice: the second parse keeps the last one and finds no fault.
    ReportError::new(&format!("the body must be a report: {otherwise}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::NAME_BYTES_MAX;

    const GOOD: &str = r#"{"server":"lab-01","worker":"10.0.0.11:13337","cpu":37.5,"cores":4,"epoch":1795000000000,"sequence":7}"#;

    fn with(field: &str, json: &str) -> String {
        let mut value: serde_json::Map<String, Value> = serde_json::from_str(GOOD).expect("GOOD is JSON");
        value.insert(field.to_owned(), Value::Null);
        let text = Value::Object(value).to_string();
        // By text, so that numbers that no Value holds (1e999) can be tried too.
        text.replace(&format!("\"{field}\":null"), &format!("\"{field}\":{json}"))
    }

    fn refused(body: &str) -> String {
        let line = IncomingReport::parse(body.as_bytes()).expect_err(body).to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.chars().count() <= ERROR_CHARS_MAX, "{line:?}");
        line
    }

    #[test]
    fn the_example_of_the_protocol_page_is_a_report() {
        let body = with("forward", "true");
        let incoming = IncomingReport::parse(body.as_bytes()).expect("good");
        assert!(incoming.forward);
        let report = incoming.report;
        assert_eq!(report.server, "lab-01");
        assert_eq!(report.worker, "10.0.0.11:13337".parse().expect("an address"));
        assert_eq!((report.cpu, report.cores, report.worker_up), (37.5, 4, true));
        assert_eq!(report.stamp(), Stamp { epoch: 1_795_000_000_000, sequence: 7 });
        assert_eq!(report.busy_cores(), 1.5);
    }

    #[test]
    fn optional_fields_have_defaults() {
        let incoming = IncomingReport::parse(GOOD.as_bytes()).expect("good");
        assert!(incoming.report.worker_up && incoming.report.cpu_known && !incoming.forward);
        let down = IncomingReport::parse(with("worker_up", "false").as_bytes()).expect("good");
        assert!(!down.report.worker_up);
        let unknown = IncomingReport::parse(with("cpu_known", "false").as_bytes()).expect("good");
        assert!(!unknown.report.cpu_known);
    }

    #[test]
    fn every_end_of_every_range_is_inside() {
        for (field, json) in [
            ("cpu", "0"),
            ("cpu", "100"),
            ("cpu", "100.0"),
            ("cpu", "-0.0"),
            ("cpu", "1e-300"),
            ("cores", "1"),
            ("cores", "65536"),
            ("epoch", "1"),
            ("epoch", "9007199254740991"),
            ("sequence", "0"),
            ("sequence", "9007199254740991"),
            ("instance", "1"),
            ("instance", "9007199254740991"),
            ("worker", r#""[::1]:1024""#),
            ("worker", r#""127.0.0.1:65535""#),
            ("server", r#""a""#),
            ("server", &format!("{:?}", "x".repeat(NAME_BYTES_MAX))),
            ("server", r#""9.A_b-c""#),
        ] {
            IncomingReport::parse(with(field, json).as_bytes())
                .unwrap_or_else(|error| panic!("{field} {json}: {error}"));
        }
    }

    #[test]
    fn a_value_that_is_wrong_is_named_with_its_mend() {
        for (field, json) in [
            ("cpu", "-0.1"),
            ("cpu", "100.001"),
            ("cpu", "\"5\""),
            ("cpu", "null"),
            ("cpu", "[1]"),
            ("cpu", "true"),
            ("cores", "0"),
            ("cores", "65537"),
            ("cores", "4294967297"),
            ("cores", "2.0"),
            ("cores", "-1"),
            ("epoch", "0"),
            ("epoch", "9007199254740992"),
            ("epoch", "1.5"),
            ("epoch", "99999999999999999999999"),
            ("sequence", "-1"),
            ("sequence", "9007199254740992"),
            ("sequence", "\"7\""),
            ("worker", "\"lab:80\""),
            ("worker", "\"10.0.0.1\""),
            ("worker", "\"10.0.0.1:0\""),
            ("worker", "\"10.0.0.1:1023\""),
            ("worker", "\"0.0.0.0:8000\""),
            ("worker", "\"[::]:8000\""),
            ("worker", "\"[::ffff:0.0.0.0]:8000\""),
            ("worker", "\"10.0.0.1:65536\""),
            ("worker", "\" 10.0.0.1:8000\""),
            ("worker", "\"224.0.0.1:8000\""),
            ("worker", "\"[ff02::1]:8000\""),
            ("worker", "\"255.255.255.255:8000\""),
            ("worker", "\"[::ffff:255.255.255.255]:8000\""),
            ("worker", "\"169.254.169.254:8000\""),
            ("worker", "\"[::ffff:169.254.1.1]:8000\""),
            ("worker", "\"[fe80::1]:8000\""),
            ("worker", "80"),
            ("server", "\"\""),
            ("server", "\"-a\""),
            ("server", "\"a b\""),
            ("server", "\"a/b\""),
            ("server", "\"ä\""),
            ("server", "\"a\\u0000\""),
            ("server", "\"a\\nb\""),
            ("server", "7"),
            ("server", &format!("{:?}", "x".repeat(NAME_BYTES_MAX + 1))),
            ("cpu_known", "0"),
            ("cpu_known", "null"),
            ("worker_up", "1"),
            ("worker_up", "null"),
            ("forward", "\"true\""),
            ("instance", "0"),
            ("instance", "9007199254740992"),
            ("instance", "-1"),
            ("instance", "null"),
            ("instance", "\"7\""),
        ] {
            let line = refused(&with(field, json));
            assert!(line.starts_with(&format!("`{field}` must be ")), "{field} {json}: {line}");
        }
    }

    #[test]
    fn a_missing_an_unknown_and_a_repeated_field_are_named() {
        for field in ["server", "worker", "cpu", "cores", "epoch", "sequence"] {
            let mut value: serde_json::Map<String, Value> = serde_json::from_str(GOOD).expect("GOOD is JSON");
            value.remove(field);
            let line = refused(&Value::Object(value).to_string());
            assert!(line.starts_with(&format!("`{field}` is missing")), "{line}");
        }
        assert!(refused(&with("worker_upp", "false")).starts_with("`worker_upp` is no field of a report"));
        let twice = GOOD.replacen("\"cpu\":37.5", "\"cpu\":1,\"cpu\":37.5", 1);
        assert!(refused(&twice).contains("duplicate field `cpu`"));
    }

    #[test]
    fn what_is_not_a_json_object_is_refused() {
        for body in
            ["", " ", "{", "[]", "7", "null", "\u{0}", "{}x", r#"["lab-01","10.0.0.11:13337",37.5,4,1,7]"#]
        {
            refused(body);
        }
        assert!(refused(&with("cpu", "NaN")).starts_with("the body must be JSON"));
        assert!(refused(&with("cpu", "1e999")).starts_with("the body must be JSON"));
        assert!(IncomingReport::parse(&[b'{', 0xff, b'}']).is_err());
        assert!(refused(&"[".repeat(1000)).starts_with("the body must be JSON"));
        assert!(refused(&" ".repeat(REPORT_BODY_BYTES_MAX + 1)).contains("65536 bytes"));
    }

    #[test]
    fn a_hostile_text_is_escaped_and_cut() {
        let line = refused(&with(&format!("a\\u001b[31m\\n{}", "z".repeat(5000)), "1").replace("\\\\", "\\"));
        assert!(line.contains("\\u{1b}[31m\\n") && line.contains('…'), "{line}");
        let line = refused(&with("server", &format!("\"\\u001b{}\"", "y".repeat(5000))));
        assert!(line.starts_with("`server` must be"), "{line}");
    }

    #[test]
    fn minus_zero_is_zero() {
        let incoming = IncomingReport::parse(with("cpu", "-0.0").as_bytes()).expect("good");
        assert_eq!(incoming.report.cpu.to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn a_daemon_goes_on_above_what_is_committed_and_waits_at_the_greatest_epoch() {
        let stamp = |epoch, sequence| Stamp { epoch, sequence };
        for (committed, own, expected) in [
            (stamp(9, 7), stamp(9, 7), None),
            (stamp(9, 6), stamp(9, 7), None),
            (stamp(8, 99), stamp(9, 7), None),
            (stamp(9, 8), stamp(9, 7), Some(10)),
            (stamp(20, 0), stamp(9, 7), Some(21)),
            (stamp(COUNTER_MAX - 1, COUNTER_MAX), stamp(9, 7), Some(COUNTER_MAX)),
            (stamp(COUNTER_MAX, 0), stamp(9, 7), None),
            (stamp(COUNTER_MAX, COUNTER_MAX), stamp(COUNTER_MAX, 7), Some(1)),
            (stamp(COUNTER_MAX, COUNTER_MAX), stamp(1, 8), None),
        ] {
            assert_eq!(committed.epoch_above(own), expected, "{committed:?} {own:?}");
        }
    }

    #[test]
    fn a_daemon_started_anew_is_newer() {
        assert!(Stamp { epoch: 2, sequence: 1 } > Stamp { epoch: 1, sequence: 900 });
        assert!(Stamp { epoch: 2, sequence: 2 } > Stamp { epoch: 2, sequence: 1 });
    }
}
