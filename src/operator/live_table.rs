//! The live table of `rakit up` and `rakit status --watch`: the headline, what the nodes differ in, the nodes, the servers,
//! and the last sentences of the story, for a terminal of any size.
//!
//! A small window gets the same, only shorter: first the sentences go, then the servers become one line, then the nodes.
//! The headline stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rakit::protocol::{NodeOnPage, NodeView, PageState, ServerPicture, ServerStatus};
use rakit::raft::{NodeId, RoleName};

use super::comparison::{Asked, NO_LEADER, NoAnswer, differences};
use super::headline::{Picture, Shape, is_fresh, listed, span};
use super::line::{Line, Style};
use super::sentences::{Sentence, tell};
use super::table::{Cell, Table, cpu, digest};

/// The most sentences of the story that are shown.
const SENTENCES_MAX: usize = 6;
/// The most lines on what the nodes differ in.
const DIFFERENCES_MAX: usize = 3;
/// A report is late after so many tenths of the interval of reports.
const LATE_TENTHS: u64 = 25;

/// What is shown, beside the size of the terminal.
#[derive(Debug)]
pub struct LiveTable {
    /// What the nodes say.
    pub state: PageState,
    /// The public address of each node in `state`, in the same order.
    pub addresses: Vec<SocketAddr>,
    /// The process of each node in `state`, in the same order; empty if this program has started none.
    pub node_pids: Vec<String>,
    /// The processes of each server, of its worker and its daemon, by its name.
    pub server_pids: BTreeMap<String, (String, String)>,
}

/// The nodes of a page as answers to `GET /status`: one for each of these addresses.
pub fn answers(state: &PageState, addresses: &[SocketAddr]) -> Vec<Asked> {
    let answer = |(node, address): (&NodeOnPage, &SocketAddr)| {
        let status = match (&node.view, &node.silent) {
            (_, Some(why)) => Err(NoAnswer::Failed(why.clone())),
            (Some(view), None) => Ok(view.status.clone()),
            (None, None) => Err(NoAnswer::NotAsked),
        };
        Asked { address: *address, id: (node.node != 0).then_some(node.node), status }
    };
    state.nodes.iter().zip(addresses).map(answer).collect()
}

impl LiveTable {
    /// The lines for a terminal of this size: fewer than its rows, and each shorter than its columns.
    pub fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let (width, height) = (columns.saturating_sub(1), rows.saturating_sub(1));
        let picture = Picture::new(&self.state);
        let (style, words) = picture.headline();
        let mut head = Line::wrapped(style, &words, width);
        head.extend(self.differences(&picture, width));
        let nodes = self.nodes(&picture, width);
        let servers = self.servers(&picture, width);
        let story: Vec<Line> =
            tell(&picture).iter().map(Sentence::line).map(|text| sentence(&text, width)).collect();

        // A blank line before each part, if all parts fit with it.
        let parts = 4;
        let whole = head.len() + nodes.len() + servers.len();
        let blank = usize::from(whole + parts + story.len().min(1) <= height);
        let servers_at_least = servers.len().min(1);
        let nodes = shortened(nodes, height.saturating_sub(head.len() + servers_at_least), || {
            summary_of_nodes(&picture)
        });
        let servers = shortened(servers, height.saturating_sub(head.len() + nodes.len()), || {
            summary_of_servers(&picture)
        });
        let taken = head.len() + nodes.len() + servers.len() + parts * blank;
        let shown = height.saturating_sub(taken).min(SENTENCES_MAX).min(story.len());
        let story = story[story.len() - shown..].to_vec();

        let mut lines = Vec::new();
        for part in [head, nodes, servers, story] {
            if !part.is_empty() {
                lines.extend(vec![Line::default(); blank]);
                lines.extend(part.into_iter().map(|line| line.cut(width)));
            }
        }
        lines.truncate(height);
        lines
    }

    /// What the nodes differ in. That a process is dead or paused is said in its row.
    fn differences(&self, picture: &Picture<'_>, width: usize) -> Vec<Line> {
        let answers: Vec<Asked> = self
            .state
            .nodes
            .iter()
            .zip(answers(&self.state, &self.addresses))
            .filter(|(node, _)| !matches!(picture.shape(node), Shape::Dead | Shape::Paused))
            .map(|(_, answer)| answer)
            .collect();
        let mut all = differences(&answers);
        // The headline says so.
        all.retain(|said| said != NO_LEADER);
        let mut lines: Vec<Line> = all
            .iter()
            .take(if all.len() > DIFFERENCES_MAX { DIFFERENCES_MAX - 1 } else { DIFFERENCES_MAX })
            .map(|said| Line::new(Style::Warn, &format!("! {said}")).cut(width))
            .collect();
        if all.len() > lines.len() {
            let more = all.len() - lines.len();
            lines.push(Line::new(Style::Warn, &format!("! and {more} more: rakit status")).cut(width));
        }
        lines
    }

    fn nodes(&self, picture: &Picture<'_>, width: usize) -> Vec<Line> {
        let mut headings = vec![">node", "role", ">term", ">leader", ">commit", ">applied"];
        if !self.node_pids.is_empty() {
            headings.push(">pid");
        }
        headings.extend(["digest", "address"]);
        let mut table = Table::new(&headings);
        for (position, (node, address)) in self.state.nodes.iter().zip(&self.addresses).enumerate() {
            let fresh = is_fresh(node);
            let shape = picture.shape(node);
            let (mark, style) = mark(shape);
            // What is not of the present is grey, and says how old it is.
            let of_row = if fresh { Style::Plain } else { Style::Old };
            let cell = |text: String| Cell { style: of_row, text };
            let id = if node.node == 0 { "?".to_string() } else { node.node.to_string() };
            let mut cells = vec![
                Cell { style, text: format!("{mark} {id}").trim().to_string() },
                Cell { style, text: words(shape, node) },
            ];
            let status = node.view.as_ref().map(|view| &view.status);
            let number =
                |number: Option<u64>| cell(number.map_or("-".to_string(), |number| number.to_string()));
            cells.extend([
                number(status.map(|status| status.term)),
                number(status.and_then(|status| status.leader)),
                number(status.map(|status| status.commit_index)),
                number(status.map(|status| status.applied_index)),
            ]);
            cells.extend(self.node_pids.get(position).cloned().map(cell));
            cells.push(cell(status.map_or("-".to_string(), digest)));
            cells.push(cell(address.to_string()));
            table.row(cells);
        }
        table.lines(width)
    }

    /// As the node with the newest table has them. Empty if no node has answered yet.
    fn servers(&self, picture: &Picture<'_>, width: usize) -> Vec<Line> {
        let Some(newest) = picture.newest else { return Vec::new() };
        if newest.status.servers.is_empty() {
            return vec![Line::new(Style::Plain, "no server has reported yet").cut(width)];
        }
        let mut headings = vec!["server", "state", ">cpu %", ">in flight", ">requests", "worker"];
        if !self.server_pids.is_empty() {
            headings.extend([">pid", ">daemon"]);
        }
        headings.push(">cores");
        let mut table = Table::new(&headings);
        // If nobody answers, all of it is old.
        let style = if picture.fresh.is_empty() { Style::Old } else { Style::Plain };
        let cell = |text: String| Cell { style, text };
        for (server, more) in newest.status.servers.iter().zip(&newest.servers) {
            let (in_flight, requests) = traffic(picture, &server.id);
            let mut cells = vec![
                cell(server.id.clone()),
                state(picture, newest, server, more),
                cell(cpu(server)),
                cell(in_flight.to_string()),
                cell(requests.to_string()),
                cell(server.worker.to_string()),
            ];
            if let Some((worker, daemon)) = self.server_pids.get(&server.id) {
                cells.extend([cell(worker.clone()), cell(daemon.clone())]);
            } else if !self.server_pids.is_empty() {
                cells.extend(["-".into(), "-".into()]);
            }
            cells.push(cell(server.cores.to_string()));
            table.row(cells);
        }
        let mut lines = table.lines(width);
        if newest.servers_hidden > 0 {
            lines.push(Line::new(style, &format!("and {} more", newest.servers_hidden)).cut(width));
        }
        lines
    }
}

/// A sentence of the story: when it happened stands back.
fn sentence(text: &str, width: usize) -> Line {
    let (clock, words) = text.split_once("  ").unwrap_or(("", text));
    Line::new(Style::Old, clock).with(Style::Plain, "  ").with(Style::Plain, words).cut(width)
}

/// The lines, or as many as fit with the summary as the last one. A heading alone says nothing.
fn shortened(mut lines: Vec<Line>, height: usize, summary: impl FnOnce() -> String) -> Vec<Line> {
    const HEADING: usize = 1;
    if lines.len() <= height {
        return lines;
    }
    // The heading, a row and the summary.
    let kept = if height > HEADING + 1 { height - 1 } else { 0 };
    lines.truncate(kept);
    lines.push(Line::new(Style::Plain, &summary()));
    lines.truncate(height);
    lines
}

/// The shape of the page, and a colour.
fn mark(shape: Shape) -> (char, Style) {
    match shape {
        Shape::Role(RoleName::Leader) => ('★', Style::Good),
        Shape::Role(RoleName::Candidate) => ('▲', Style::Warn),
        Shape::Role(RoleName::PreCandidate) => ('△', Style::Warn),
        Shape::Role(RoleName::Follower) => (' ', Style::Plain),
        Shape::Dead => ('✕', Style::Bad),
        Shape::Paused => ('‖', Style::Warn),
        Shape::Silent => ('?', Style::Bad),
    }
}

/// What a node is, and if it does not answer, how old its row is.
fn words(shape: Shape, node: &NodeOnPage) -> String {
    let what = match shape {
        Shape::Role(role) => return role.to_string(),
        Shape::Dead => "dead",
        Shape::Paused => "paused",
        Shape::Silent => "no answer",
    };
    if node.view.is_some() { format!("{what}, {} old", span(node.age_ms)) } else { what.to_string() }
}

/// How a server is: dead by a log entry, silent, without a worker, passed over, or as it should be.
fn state(picture: &Picture<'_>, newest: &NodeView, server: &ServerStatus, more: &ServerPicture) -> Cell {
    let times = &newest.times;
    let late = !picture.fresh.is_empty()
        && more.report_age_ms.saturating_mul(10) > LATE_TENTHS.saturating_mul(times.report_interval_ms);
    let led = picture.fresh.iter().any(|view| view.status.leader.is_some());
    let age = span(more.report_age_ms);
    let who = |flag: fn(&ServerStatus) -> bool| -> Vec<NodeId> {
        let says = |view: &&&NodeView| view.status.servers.iter().any(|one| one.id == server.id && flag(one));
        picture.fresh.iter().filter(says).map(|view| view.status.node).collect()
    };
    let (stalled, avoided) = (who(|one| one.stalled), who(|one| one.avoided));
    let (style, text) = if !server.alive {
        (Style::Bad, format!("✕ dead by log index {}", more.decided_at))
    } else if late && !led {
        (Style::Warn, format!("◐ no report agreed for {age}"))
    } else if late {
        (Style::Warn, format!("◐ silent for {age}; dead at {}", span(times.server_timeout_ms)))
    } else if server.drained {
        (Style::Warn, "○ drained by order".to_string())
    } else if !server.worker_up {
        (Style::Warn, "○ no worker".to_string())
    } else if !stalled.is_empty() {
        (Style::Warn, format!("⏸ stalled for node {}", listed(&stalled)))
    } else if !avoided.is_empty() {
        (Style::Warn, format!("▽ avoided by node {}", listed(&avoided)))
    } else {
        (Style::Good, "● alive".to_string())
    };
    Cell { style: if picture.fresh.is_empty() { Style::Old } else { style }, text }
}

/// Requests in flight at a server, and sent there since the nodes have started, from all nodes. What a node says of itself
/// goes before what others have heard of it. Those that a dead node had sent stay in the count, or it would go backwards.
fn traffic(picture: &Picture<'_>, server: &str) -> (u64, u64) {
    let of = |view: &NodeView| {
        let mut servers = view.status.servers.iter().zip(&view.servers);
        servers.find(|(one, _)| one.id == server).map(|(_, more)| more.clone())
    };
    let mut in_flight: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut own: BTreeMap<NodeId, u32> = BTreeMap::new();
    for view in &picture.fresh {
        if let Some(more) = of(view) {
            own.insert(view.status.node, more.in_flight.get(&view.status.node).copied().unwrap_or(0));
            in_flight.extend(more.in_flight);
        }
    }
    in_flight.extend(own);
    let views = picture.asked.iter().filter_map(|node| node.view.as_ref());
    let requests = views.filter_map(of).map(|more| more.chosen).sum();
    (in_flight.values().copied().map(u64::from).sum(), requests)
}

fn summary_of_nodes(picture: &Picture<'_>) -> String {
    let all = picture.asked.len();
    let answer = picture.asked.iter().filter(|node| is_fresh(node)).count();
    format!("{all} nodes: {answer} answer, {} do not", all - answer)
}

fn summary_of_servers(picture: &Picture<'_>) -> String {
    let Some(newest) = picture.newest else { return String::new() };
    let servers = &newest.status.servers;
    let alive = servers.iter().filter(|server| server.alive).count();
    let (in_flight, requests) = servers.iter().map(|server| traffic(picture, &server.id)).fold(
        (0, 0),
        |(all_in_flight, all_requests), (in_flight, requests)| {
            (all_in_flight + in_flight, all_requests + requests)
        },
    );
    format!(
        "{} servers: {alive} alive, {} dead · {in_flight} in flight, {requests} requests",
        servers.len() + newest.servers_hidden,
        servers.len() - alive
    )
}

#[cfg(test)]
mod tests {
    use super::super::headline::tests::{five, without};
    use super::*;

    fn table(state: PageState) -> LiveTable {
        let addresses = (8001..).take(state.nodes.len()).map(|port| ([127, 0, 0, 1], port).into()).collect();
        // The widest process id of Linux (proc_sys_kernel(5), pid_max).
        let pid = || "4194303".to_string();
        LiveTable {
            node_pids: state.nodes.iter().map(|_| pid()).collect(),
            server_pids: [("server-1".to_string(), (pid(), "gone".to_string()))].into(),
            addresses,
            state,
        }
    }

    fn texts(table: &LiveTable, columns: usize, rows: usize) -> Vec<String> {
        table.lines(columns, rows).iter().map(Line::text).collect()
    }

    #[test]
    fn the_headline_the_nodes_and_the_servers_stand_below_each_other() {
        assert_eq!(
            texts(&table(five()), 100, 24),
            [
                "",
                "node 1 leads term 2, elected by 1, 3, 5 · 2 of 5 may still fail",
                "",
                "node  role      term  leader  commit  applied      pid  digest  address",
                " ★ 1  leader       2       1       9        9  4194303  abc     127.0.0.1:8001",
                "   2  follower     2       1       9        9  4194303  abc     127.0.0.1:8002",
                "   3  follower     2       1       9        9  4194303  abc     127.0.0.1:8003",
                "   4  follower     2       1       9        9  4194303  abc     127.0.0.1:8004",
                "   5  follower     2       1       9        9  4194303  abc     127.0.0.1:8005",
                "",
                "server    state    cpu %  in flight  requests  worker               pid  daemon  cores",
                "server-1  ● alive   12.5          5       150  127.0.0.1:10001  4194303    gone      2",
            ]
        );
    }

    #[test]
    fn the_row_of_a_node_that_does_not_answer_is_old_and_says_so() {
        let mut state = without(&[4], None);
        state.nodes[3].age_ms = 12_000;
        let lines = table(state).lines(100, 24);
        let row = lines.iter().find(|line| line.text().contains("✕ 4")).expect("its row");
        assert!(row.text().starts_with(" ✕ 4  dead, 12 s old     2 "), "{}", row.text());
        // Words in red, numbers in grey.
        assert!(row.painted().contains("\u{1b}[1;31mdead, 12 s old\u{1b}[0m"), "{:?}", row.painted());
        assert!(row.painted().contains("\u{1b}[2m2\u{1b}[0m"), "{:?}", row.painted());
    }

    #[test]
    fn a_server_shows_why_it_gets_no_requests() {
        type Change<'a> = &'a dyn Fn(&mut NodeView);
        let with = |change: Change<'_>| {
            let mut state = five();
            for node in &mut state.nodes {
                change(node.view.as_mut().expect("a view"));
            }
            let lines = texts(&table(state), 100, 24);
            lines.into_iter().find(|line| line.starts_with("server-1")).expect("its row")
        };
        let cases: [(Change<'_>, &str); 7] = [
            (&|view| view.status.servers[0].alive = false, "✕ dead by log index 4"),
            (&|view| view.servers[0].report_age_ms = 3_000, "◐ silent for 3.0 s; dead at 5.0 s"),
            (
                &|view| (view.servers[0].report_age_ms, view.status.leader) = (3_000, None),
                "◐ no report agreed for 3.0 s",
            ),
            (&|view| view.status.servers[0].worker_up = false, "○ no worker"),
            (&|view| view.status.servers[0].drained = true, "○ drained by order"),
            (&|view| view.status.servers[0].stalled = view.status.node < 3, "⏸ stalled for node 1, 2"),
            (&|view| view.status.servers[0].avoided = view.status.node == 5, "▽ avoided by node 5"),
        ];
        for (change, words) in cases {
            let row = with(change);
            assert!(row.contains(words), "{row}");
        }
    }

    #[test]
    fn it_fits_every_terminal_and_the_headline_stays() {
        let mut many = without(&[2], None);
        for node in &mut many.nodes {
            let view = node.view.as_mut().expect("a view");
            for j in 2..=64 {
                let mut server = view.status.servers[0].clone();
                server.id = format!("server-{j}");
                view.status.servers.push(server);
                view.servers.push(view.servers[0].clone());
            }
        }
        for state in [five(), many, without(&[1, 2, 3], Some(9_000)), without(&[1, 2, 3, 4, 5], None)] {
            let table = table(state);
            for columns in [0, 1, 2, 20, 40, 80, 120] {
                for rows in (0..12).chain([23, 24, 40, 80]) {
                    let lines = table.lines(columns, rows);
                    assert!(lines.len() <= rows.saturating_sub(1), "{columns}×{rows}: {lines:?}");
                    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
                    assert!(widest <= columns.saturating_sub(1), "{columns}×{rows}: {lines:?}");
                }
            }
            let first = |lines: Vec<String>| lines.into_iter().find(|line| !line.is_empty());
            let headline = first(texts(&table, 100, 60));
            assert!(headline.is_some());
            for rows in 2..24 {
                assert_eq!(first(texts(&table, 100, rows)), headline, "{rows} rows");
            }
        }
    }

    #[test]
    fn with_fewer_rows_the_sentences_go_first_and_then_the_servers_become_one_line() {
        let mut state = five();
        let story = &mut state.nodes[0].view.as_mut().expect("a view").story;
        for index in 1..=9 {
            story.push(rakit::protocol::StoryEvent {
                sequence: index,
                at_us: index,
                kind: rakit::protocol::StoryKind::ServerDead,
                term: None,
                other: None,
                server: Some("server-1".to_string()),
                index: Some(index),
                reason: None,
                line: String::new(),
            });
        }
        for node in &mut state.nodes {
            let view = node.view.as_mut().expect("a view");
            let server = view.status.servers[0].clone();
            view.status.servers.push(ServerStatus { id: "server-2".to_string(), alive: false, ..server });
            view.servers.push(view.servers[0].clone());
        }
        let table = table(state);
        let counted = |rows| {
            let lines = texts(&table, 100, rows);
            let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
            (count("so the nodes agreed"), count("127.0.0.1:10001"), count("2 servers: 1 alive, 1 dead"))
        };
        assert_eq!(counted(24), (6, 2, 0));
        assert_eq!(counted(16), (1, 2, 0));
        assert_eq!(counted(12), (1, 2, 0));
        assert_eq!(counted(11), (0, 2, 0));
        assert_eq!(counted(10), (1, 0, 1));
        assert_eq!(counted(9), (0, 0, 1));
        assert!(texts(&table, 100, 24).last().expect("a line").ends_with("at log index 9."), "the newest");
    }
}
