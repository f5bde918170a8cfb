//! The node's cluster address: daemons' reports and peers' RPCs. docs/protocol.md describes every route with examples.
//!
//! Runs on the cluster listener's threads, one per open connection. They are never the public listener's
//! threads: a flood of clients must not cost an election. A handler checks a request (first its seal, by the head
//! alone; then its body's digest and form), hands it to the Raft loop, and waits for the outcome at a slot of its own.
//! It decides nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tiny_http::Method;

use super::cuts::Cuts;
use super::exchange::IN_FLIGHT_BYTES_MAX;
use super::inbox::{Inbox, Refused, ServiceInput};
use super::leader_watch::WATCH_ANSWER_AFTER;
use super::node_addresses::NodeAddresses;
use super::refusals::PeerRefusals;
use super::relays::Relays;
use super::rivals::Rivals;
use super::roster::Roster;
use super::slot::Slot;
use super::standing::StandingBoard;
use crate::balancer::report::REPORT_BODY_BYTES_MAX;
use crate::balancer::{Chooser, Published, Report, SERVERS_MAX, ServerCommand, ServerOrder};
use crate::config::{NODE_ID_MAX, Server};
use crate::http::foreign;
use crate::http::head::Head;
use crate::http::message::{Request, Response, header, json, text, with_headers};
use crate::http::{Acceptance, Ruling, Service};
use crate::linux::is_own_address;
use crate::protocol::{
    HEADER_SENDER, IncomingReport, KnownLeader, Lost, MembersChanged, OrderAnswer, Purpose, ReplyEnvelope,
    ReportAnswer, RequestEnvelope, TransferBegun, TransferRequest, node_id, node_name, parse_member_change,
    path,
};
use crate::raft::{ChangeRefused, MEMBERS_MAX, MemberChange, NodeId};
use crate::replica::{Input, ReportOutcome};
use crate::signing::{Gate, Opened, REFUSED_STATUS, Recipient, Refusal, RefusalKind, Verdict};

/// The longest body of AppendEntries and InstallSnapshot. The core's own limits stay far below.
pub const APPEND_BYTES_MAX: usize = 16 << 20;

/// The longest body of all other RPCs.
pub const RPC_BYTES_MAX: usize = 64 * 1024;

/// How long a handler waits for the loop. Every proposal ends before that: a leader without a majority steps
/// down. Only a loop that hangs on its disk takes longer.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct ClusterCounters {
    /// Reports that were well-formed.
    pub reports: AtomicU64,
    /// Reports that were answered 503 because too many waited.
    pub reports_turned_away: AtomicU64,
}

/// The cluster address's service.
pub struct ClusterService {
    /// This node.
    pub id: NodeId,
    /// Who the members are and where. A worker cannot be there.
    pub roster: Arc<Roster>,
    /// Workers that are allowed at another address than their daemon's.
    pub servers: Vec<Server>,
    /// Second daemons of one name are remembered here, ...
    pub rivals: Arc<Rivals>,
    /// ... by this, the agreed table.
    pub published: Arc<Published>,
    /// The incarnation of this node's data directory.
    pub incarnation: u64,
    /// Checks what comes in and signs the answers.
    pub gate: Arc<Gate>,
    /// Hand reports on to the leader.
    pub relays: Relays,
    /// Is told what other nodes have in flight, ...
    pub chooser: Arc<Chooser>,
    /// ... on the clock that counts from here.
    pub started: Instant,
    /// To the loop.
    pub inbox: Inbox,
    /// How this node stands.
    pub standing: Arc<StandingBoard>,
    /// Closed when the node stops: then open watches are answered.
    pub stopping: Receiver<()>,
    /// Cut cables, in a demonstration.
    pub cuts: Arc<Cuts>,
    /// The members that do not work with this node, for `/status`.
    pub refusals: Arc<PeerRefusals>,
    /// For `/metrics`.
    pub counters: Arc<ClusterCounters>,
}

impl Service for ClusterService {
    fn body_limit(&self, method: &Method, path: &str) -> Result<usize, Response> {
        route(method, path).map(|(limit, _)| limit)
    }

    fn judge(&self, head: &Head, peer: SocketAddr) -> Ruling {
        let route = route(&head.method, head.path());
        let (body_bytes_max, purposes) = match route {
            Ok(route) => route,
            // With a secret, the signature is checked first, so that strangers do not see which paths exist.
            Err(_) if self.gate.is_signed() => (RPC_BYTES_MAX, &Purpose::ALL[..]),
            Err(answer) => return Ruling::Answer(answer),
        };
        let header = |name| head.header(name);
        match self.gate.judge(
            head.method.as_str(),
            &head.target,
            header,
            purposes,
            peer,
            self.started.elapsed(),
        ) {
            Verdict::Accepted(opened) | Verdict::Answer { opened, .. }
                if self.is_cut_off(&opened, head.path()) =>
            {
                Ruling::Close(unavailable("the cable was cut by order"))
            }
            Verdict::Accepted(opened) => {
                // Without a secret, who writes the headers of a node or an operator is taken for one. Who reports is
                // known only after an answer below 300 (`prove_if` in `src/http/connection.rs`).
                let is_proven = self.gate.is_signed() || opened.purpose != Purpose::Report;
                Ruling::Accept(Acceptance { body_bytes_max, is_proven, note: Some(Box::new(opened)) })
            }
            Verdict::Answer { opened, status, line } => {
                Ruling::Answer(self.sealed(&opened, text(status, &line)))
            }
            Verdict::Refused(refusal) => {
                self.note_stranger(head.header(HEADER_SENDER), &refusal);
                Ruling::Close(self.refused(&refusal))
            }
        }
    }

    fn call(&self, mut request: Request) -> Response {
        let note = request.note.take().and_then(|note| note.downcast::<Opened>().ok());
        let opened = note.expect("`judge` accepted this request, with this note");
        let (method, target) = (request.method.as_str(), &request.target);
        if let Err(refusal) = self.gate.check_body(&opened, method, target, &request.body, request.peer) {
            return self.refused(&refusal);
        }
        let route = route(&request.method, request.path());
        let route = route.and_then(|route| foreign::refusal(&request).map_or(Ok(route), Err));
        let answer = match (route, request.path()) {
            (Err(answer), _) => answer,
            (Ok(_), path::REPORT) => self.report(&opened, request.peer, &request.body),
            (Ok(_), path::TRANSFER) => self.transfer(&request.body),
            (Ok(_), path::SERVERS) => self.order(&request.body),
            (Ok(_), path::MEMBERS) => json(200, &self.roster.answer()),
            (Ok(_), path::CHANGE_MEMBERS) => self.change_members(&request.body),
            (Ok(_), path::WATCH) => self.watch(),
            (Ok(_), path::IN_FLIGHT) => self.in_flight(&opened, &request.body),
            (Ok(_), path::STREAM) => text(200, "ready"),
            (Ok(_), path) => self.rpc(path, &opened, &request.body),
        };
        self.sealed(&opened, answer)
    }
}

/// The longest body of a request to this path, and its purposes; or the answer, if there is no such path or method.
fn route(method: &Method, path: &str) -> Result<(usize, &'static [Purpose]), Response> {
    let Some(purposes) = path::purposes(path) else {
        return Err(text(
            404,
            "there are POST /report and POST /servers here, and what nodes say to each other under /raft/",
        ));
    };
    if *method != Method::Post {
        return Err(text(405, "only POST").with_header(header("Allow", "POST")));
    }
    let limit = match path {
        path::REPORT => REPORT_BODY_BYTES_MAX,
        path::APPEND_ENTRIES | path::INSTALL_SNAPSHOT => APPEND_BYTES_MAX,
        path::IN_FLIGHT => IN_FLIGHT_BYTES_MAX,
        path::STREAM => 0,
        _ => RPC_BYTES_MAX,
    };
    Ok((limit, purposes))
}

impl ClusterService {
    /// A member that was set up for another cluster is shown in `/status` here, too: this node may have no reason to
    /// send to it, and so would not learn it as a sender. Nothing proves who sent this; it is a hint for the operator,
    /// and changes nothing else.
    fn note_stranger(&self, sender: Option<&str>, refusal: &Refusal) {
        let of_another = [RefusalKind::WrongVersion, RefusalKind::WrongCluster, RefusalKind::WrongFounding]
            .contains(&refusal.kind);
        let member = sender.and_then(node_id).filter(|from| self.roster.is_peer(*from));
        if let Some(member) = member.filter(|_| of_another) {
            self.refusals.refused(member, &refusal.to_string());
        }
    }

    /// Whether the sender's cable was cut, in a demonstration; then the request waits in vain.
    fn is_cut_off(&self, opened: &Opened, path: &str) -> bool {
        if let Some(from) = node_id(&opened.sender).filter(|from| self.cuts.is_cut(*from)) {
            self.cuts.hold(from, OUTCOME_TIMEOUT);
            true
        } else if [path::APPEND_ENTRIES, path::INSTALL_SNAPSHOT].contains(&path)
            && self.cuts.loses_heartbeats()
        {
            self.cuts.hold_lost(&[Lost::Heartbeats], OUTCOME_TIMEOUT);
            true
        } else {
            false
        }
    }

    fn refused(&self, refusal: &Refusal) -> Response {
        let answer = text(REFUSED_STATUS, &refusal.to_string());
        let own = self.gate.own_headers().into_iter();
        own.fold(answer, |answer, (name, value)| answer.with_header(header(name, &value)))
    }

    /// Marks an answer with the version, and signs it: a forged vote or acknowledgement would break safety as surely as
    /// a forged request.
    fn sealed(&self, opened: &Opened, answer: Response) -> Response {
        let (status, mut headers) = (answer.status_code().0, answer.headers().to_vec());
        // The body is in memory: taken out to be hashed, and put back as it was.
        let body = answer.into_reader().into_inner();
        let seals = self.gate.seal_answer(opened, status, &body);
        headers.extend(seals.into_iter().map(|(name, value)| header(name, &value)));
        with_headers(status, headers, body)
    }

    // ----------------------------------------------------------------------------------------------- reports

    fn report(&self, opened: &Opened, peer: SocketAddr, body: &[u8]) -> Response {
        let incoming = match IncomingReport::parse(body) {
            Ok(incoming) => incoming,
            Err(error) => return text(400, &error.to_string()),
        };
        let worker = incoming.report.worker;
        if let Some(id) = NodeAddresses::new(self.id, &self.roster.nodes()).owner(worker) {
            return text(400, &format!("worker: {worker} is an address of node {id}; give the worker's own"));
        }
        let from_its_daemon = opened.purpose == Purpose::Report;
        if from_its_daemon && self.gate.is_signed() && !self.may_report(&incoming.report, peer.ip()) {
            let server = &incoming.report.server;
            return text(
                400,
                &format!(
                    "worker: {worker} is not at {}, from where this report comes; give the daemon its own address with \
                     --worker, or allow it in cluster.toml on every node: [[server]] id = \"{server}\", worker = \"{worker}\"",
                    peer.ip().to_canonical()
                ),
            );
        }
        self.counters.reports.fetch_add(1, Ordering::Relaxed);
        let IncomingReport { report, forward } = incoming;
        self.rivals.hear(&report, &self.published.view(), self.started.elapsed());
        let command = ServerCommand::Report(report.clone()).to_command();
        let (caller, waits) = Slot::new();
        let to_hand_on = forward.then(|| report.clone());
        match self.inbox.offer(ServiceInput::Report(Input::Report { report, command, caller })) {
            Ok(()) => {}
            Err(Refused::Full) => {
                self.counters.reports_turned_away.fetch_add(1, Ordering::Relaxed);
                return unavailable("too many reports are waiting; report again in a second");
            }
            Err(Refused::Closed) => return unavailable("this node is stopping"),
        }
        match waits.recv_timeout(OUTCOME_TIMEOUT) {
            Ok(ReportOutcome::Committed { index, term }) => {
                answered(&ReportAnswer::Committed { committed: index, term, members: self.roster.index() })
            }
            Ok(ReportOutcome::Stale { index, term, newest }) => {
                answered(&ReportAnswer::stale(index, term, newest, self.roster.index()))
            }
            Ok(ReportOutcome::OtherDaemon { worker }) => text(409, &other_daemon(worker)),
            Ok(ReportOutcome::NotLeader { leader: None }) => unavailable("no leader is known; try again"),
            Ok(ReportOutcome::NotLeader { leader: Some(leader) }) => match to_hand_on {
                Some(report) => self.hand_on(leader, report),
                None => answered(&ReportAnswer::NotLeader { leader, members: self.roster.index() }),
            },
            Ok(ReportOutcome::Busy) => unavailable(
                "leadership is being handed over, or too many entries wait for a majority; try again",
            ),
            Ok(ReportOutcome::Ordered { .. } | ReportOutcome::Refused(_)) => {
                unavailable("a report is no order")
            }
            Ok(ReportOutcome::TableFull) => {
                unavailable(&format!("the table holds {SERVERS_MAX} living servers, and no more fit"))
            }
            // This is not a failure: the report may still be committed. Reporting again is safe: what is not newer
            // changes nothing.
            Ok(ReportOutcome::Unknown) => {
                unavailable("unknown: leadership was lost before the commit; the report may or may not count")
            }
            Err(_) => unavailable(
                "unknown: no outcome came in time, or this node is stopping; the report may or may not count",
            ),
        }
    }

    /// Whether a daemon at `sender` may report this worker: its own address, or one that the configuration allows.
    /// Whoever holds only the key for reports can then make the nodes send requests to its own machine, and to no
    /// other.
    fn may_report(&self, report: &Report, sender: IpAddr) -> bool {
        let worker = report.worker.ip();
        sender.to_canonical() == worker.to_canonical()
            // A daemon on this machine: which of the machine's addresses it takes is the kernel's choice.
            || (is_own_address(sender) && is_own_address(worker))
            || self.servers.iter().any(|server| server.id == report.server && server.worker == report.worker)
    }

    /// Hands a report on to the leader and its answer back. The report goes without `forward`: otherwise two
    /// nodes that take each other for the leader would hand it to and fro.
    fn hand_on(&self, leader: NodeId, report: Report) -> Response {
        let Some(address) = self.roster.address_of(leader) else {
            return unavailable("the address of the leader is unknown to this node");
        };
        let body = IncomingReport { report, forward: false }.to_json();
        let to = Recipient { name: node_name(leader), address };
        let Some(answer) = self.relays.post(&to, path::REPORT, &body) else {
            return unavailable("too many reports are being handed on; report again in a second");
        };
        match answer {
            Ok(answer) => {
                let headers =
                    vec![header("Content-Type", answer.header("Content-Type").unwrap_or("text/plain"))];
                with_headers(answer.status, headers, answer.body)
            }
            Err(error) => {
                unavailable(&format!("unknown: the report was handed on to node {leader}, but {error}"))
            }
        }
    }

    // ------------------------------------------------------------------------------------------------ RPCs

    /// Which other node sent this. It need not be a member, as this node goes by them: a leader may have been added
    /// since, and a node that was removed asks for votes until it is told (thesis 4.1).
    fn peer(&self, opened: &Opened) -> Result<NodeId, Response> {
        let is_other = |from: &NodeId| *from != self.id && (1..=NODE_ID_MAX).contains(from);
        node_id(&opened.sender).filter(is_other).ok_or_else(|| {
            text(400, &format!("'{}' is no other node of this cluster", opened.sender.escape_debug()))
        })
    }

    fn rpc(&self, path: &str, opened: &Opened, body: &[u8]) -> Response {
        let from = match self.peer(opened) {
            Ok(from) => from,
            Err(answer) => return answer,
        };
        let RequestEnvelope { incarnation, request } = match serde_json::from_slice(body) {
            Ok(envelope) => envelope,
            Err(error) => return text(400, &format!("not a request of Raft: {error}")),
        };
        self.refusals.not_refused(from);
        if path::of_rpc(&request) != path {
            return text(400, &format!("this request belongs to {}", path::of_rpc(&request)));
        }
        let (caller, waits) = Slot::new();
        let input = Input::Request { from, incarnation, request, caller };
        if self.inbox.deliver_within(OUTCOME_TIMEOUT, input).is_err() {
            return unavailable("this node is stopping, or its disk hangs");
        }
        match waits.recv_timeout(OUTCOME_TIMEOUT) {
            Ok(reply) => json(200, &ReplyEnvelope { incarnation: self.incarnation, reply }),
            Err(_) => unavailable("this node is stopping, or its disk hangs"),
        }
    }

    /// A peer says what it has in flight.
    fn in_flight(&self, opened: &Opened, body: &[u8]) -> Response {
        let from = match self.peer(opened) {
            Ok(from) => from,
            Err(answer) => return answer,
        };
        match serde_json::from_slice(body) {
            Ok(_) if !self.roster.is_peer(from) => text(400, &format!("node {from} is no member")),
            Ok(counts) => {
                self.chooser.hear(from, counts, self.started.elapsed());
                text(200, "noted")
            }
            Err(error) => text(400, &format!("not counts of requests in flight: {error}")),
        }
    }

    /// A follower watches this process (see `leader_watch.rs`). Only a missing answer means something: the
    /// process has died.
    fn watch(&self) -> Response {
        // Disconnected means that the node stops. It answers at once, because a planned stop is no death.
        let _ = self.stopping.recv_timeout(WATCH_ANSWER_AFTER);
        json(200, &KnownLeader { leader: self.standing.get().leader })
    }

    /// The operator wants other members. The answer comes when the change is committed.
    fn change_members(&self, body: &[u8]) -> Response {
        let change = match parse_member_change(body) {
            Ok(change) => change,
            Err(error) => return text(400, &format!("not a change of members: {error}")),
        };
        if let Some(why) = objection(&change, self.gate.is_signed()) {
            return text(400, &why);
        }
        let (caller, waits) = Slot::new();
        if self.inbox.deliver_within(OUTCOME_TIMEOUT, Input::ChangeMembers { change, caller }).is_err() {
            return unavailable("this node is stopping, or its disk hangs");
        }
        match waits.recv_timeout(OUTCOME_TIMEOUT) {
            Ok(ReportOutcome::Committed { index, term }) => {
                json(200, &MembersChanged { committed: index, term })
            }
            Ok(ReportOutcome::NotLeader { leader }) => json(409, &KnownLeader { leader }),
            Ok(ReportOutcome::Refused(why @ (ChangeRefused::TermNotCommitted | ChangeRefused::UnderWay))) => {
                unavailable(&refused_change(why))
            }
            Ok(ReportOutcome::Refused(why)) => text(400, &refused_change(why)),
            Ok(ReportOutcome::Busy) => unavailable("leadership is being handed over; try again"),
            _ => unavailable(
                "unknown: the change was not committed in time, and may still be; see `rakit members list`",
            ),
        }
    }

    /// What an operator is told by a node that does not lead: who does.
    fn not_leader(&self) -> Option<Response> {
        let leader = self.standing.get().leader;
        (leader != Some(self.id)).then(|| json(409, &KnownLeader { leader }))
    }

    fn transfer(&self, body: &[u8]) -> Response {
        let wish = match TransferRequest::parse(body) {
            Ok(wish) => wish,
            Err(error) => return text(400, &format!("not a transfer request: {error}")),
        };
        if let Some(answer) = self.not_leader() {
            return answer;
        }
        if let Some(to) = wish.to
            && !self.roster.is_peer(to)
        {
            return text(400, &format!("there is no other node {to} in this cluster"));
        }
        match self.inbox.deliver_within(OUTCOME_TIMEOUT, Input::Transfer { to: wish.to }) {
            Ok(()) => json(202, &TransferBegun { from: self.id, to: wish.to }),
            Err(_) => unavailable("this node is stopping, or its disk hangs"),
        }
    }

    /// An operator's order about a server: answered once it is committed and applied here.
    fn order(&self, body: &[u8]) -> Response {
        let order = match ServerOrder::parse(body) {
            Ok(order) => order,
            Err(error) => return text(400, &format!("not an order about a server: {error}")),
        };
        if let Some(answer) = self.not_leader() {
            return answer;
        }
        let (caller, waits) = Slot::new();
        if self.inbox.deliver_within(OUTCOME_TIMEOUT, Input::Order { order, caller }).is_err() {
            return unavailable("this node is stopping, or its disk hangs");
        }
        match waits.recv_timeout(OUTCOME_TIMEOUT) {
            Ok(ReportOutcome::Ordered { index, term, effect }) => {
                let answer = OrderAnswer { committed: index, term, effect };
                json(answer.status(), &answer)
            }
            Ok(ReportOutcome::NotLeader { leader }) => json(409, &KnownLeader { leader }),
            Ok(ReportOutcome::Busy) => {
                unavailable("leadership is being handed over, or too much waits; order again")
            }
            // It may still be committed. Ordering again is safe: an order that is carried out already changes nothing.
            Ok(_) => {
                unavailable("unknown: leadership was lost before the commit; the order may or may not count")
            }
            Err(_) => unavailable(
                "unknown: no outcome came in time, or this node is stopping; the order may or may not count",
            ),
        }
    }
}

/// Why an operator's change cannot be, if its values are at fault.
fn objection(change: &MemberChange, signed: bool) -> Option<String> {
    let MemberChange::Add { id, cluster, public } = change else { return None };
    if !(1..=NODE_ID_MAX).contains(id) {
        return Some(format!("{id} is no id of a node; give 1 to {NODE_ID_MAX}"));
    }
    for (key, text) in [("cluster", cluster), ("public", public)] {
        let Some(address) = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0) else {
            return Some(format!("{key}: {text:?} is not IP:PORT; write it as 10.0.0.4:9000"));
        };
        if key == "cluster" && address.ip().is_unspecified() {
            return Some(format!(
                "cluster: {address} is a wildcard: other machines connect to themselves there; give the node's own"
            ));
        }
        if !signed && !address.ip().to_canonical().is_loopback() {
            return Some(format!(
                "{key}: {address} is not on loopback, and this cluster has no secret; give it a secret_file first"
            ));
        }
    }
    None
}

/// Why a leader does not begin a change, with the mend.
fn refused_change(why: ChangeRefused) -> String {
    match why {
        ChangeRefused::TermNotCommitted => {
            "the leader was elected just now; try again in a second".to_owned()
        }
        ChangeRefused::UnderWay => {
            "another change of members is under way; try again when `rakit members list` shows it".to_owned()
        }
        ChangeRefused::AlreadyMember => {
            "there is a member with this id already; take another id, or `rakit members replace`".to_owned()
        }
        ChangeRefused::AddressTaken(id) => {
            format!("node {id} has one of these addresses; give the new node its own")
        }
        ChangeRefused::NoMember => "there is no member with this id; see `rakit members list`".to_owned(),
        ChangeRefused::LastVoter => "it is the last member that votes; add another one first".to_owned(),
        ChangeRefused::TooFewLeft => {
            "of the nodes that would be left, fewer than a majority answer; start those that are down first"
                .to_owned()
        }
        ChangeRefused::TooMany => format!("there are {MEMBERS_MAX} members already; remove one first"),
    }
}

/// What the second daemon of a server is told.
fn other_daemon(worker: SocketAddr) -> String {
    format!(
        "another daemon reports this server, with worker {worker}; the name is its until it stops or is silent; stop one of the two, \
         or give this one another --server"
    )
}

fn answered(answer: &ReportAnswer) -> Response {
    json(answer.status(), answer)
}

fn unavailable(why: &str) -> Response {
    text(503, why).with_header(header("Retry-After", "1"))
}
