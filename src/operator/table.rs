//! The tables of nodes and servers as plain text, for `rakit up` and `rakit status`.
//!
//! The most important columns come first: on a narrow terminal each line is cut at the right edge. There is
//! no colour and no box drawing, so that the tables stay readable on a projector, in a file and in a mail.

use rakit::protocol::Status;

use super::comparison::{Asked, clean, freshest, in_flight};

/// Between two columns.
const GAP: &str = "  ";

/// Text in columns. Each column is as wide as its widest cell.
#[derive(Debug, Default)]
pub struct Table {
    /// The first is the heading.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings. A heading that starts with `>` belongs to a column that is aligned to the
    /// right.
    pub fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row, one cell per heading.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    /// The lines, without blanks at their ends, each at most `width` characters long.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let right = |column: usize| self.rows[0].get(column).is_some_and(|heading| heading.starts_with('>'));
        let text = |row: usize, column: usize| -> &str {
            let cell = self.rows[row].get(column).map_or("", String::as_str);
            if row == 0 { cell.trim_start_matches('>') } else { cell }
        };
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column| (0..self.rows.len()).map(|row| text(row, column).chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
        (0..self.rows.len())
            .map(|row| {
                let cells: Vec<String> = (0..self.rows[row].len())
                    .map(|column| {
                        let (cell, width) = (text(row, column), widths[column]);
                        if right(column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                    })
                    .collect();
                cut(cells.join(GAP).trim_end(), width)
            })
            .collect()
    }
}

/// The first `width` characters.
pub fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// The process of a node, if this program has started it.
#[derive(Clone, Debug, Default)]
pub struct NodeNote {
    /// Its process id, or `-`.
    pub pid: String,
    /// The text for a node that does not answer. If it is empty, the reason of the failed request is shown.
    pub instead: String,
}

/// The nodes, one row each. `notes` is empty or has one entry per answer.
pub fn nodes(answers: &[Asked], notes: &[NodeNote], width: usize) -> Vec<String> {
    let mut headings = vec![">node", "role", ">term", ">leader", ">commit", ">applied"];
    if !notes.is_empty() {
        headings.push(">pid");
    }
    headings.extend(["digest", "address"]);
    let mut table = Table::new(&headings);
    for (position, answer) in answers.iter().enumerate() {
        let note = notes.get(position);
        let mut cells = match &answer.status {
            Ok(status) => believing(status),
            Err(reason) => {
                let (known_id, why) = match note {
                    // `rakit status` gives the reason below its tables.
                    None => ("?".to_string(), "no answer"),
                    Some(note) if note.instead.is_empty() => ((position + 1).to_string(), reason.as_str()),
                    Some(note) => ((position + 1).to_string(), note.instead.as_str()),
                };
                let mut cells = vec![known_id, why.to_string()];
                cells.resize(6, "-".to_string());
                cells
            }
        };
        cells.extend(note.map(|note| note.pid.clone()));
        cells.push(answer.status.as_ref().map_or("-".to_string(), digest));
        cells.push(answer.address.to_string());
        table.row(cells);
    }
    table.lines(width)
}

/// The first characters of the digest: enough to compare two by eye.
fn digest(status: &Status) -> String {
    const DIGEST_CHARACTERS: usize = 8;
    cut(&status.state_digest, DIGEST_CHARACTERS)
}

fn believing(status: &Status) -> Vec<String> {
    vec![
        status.node.to_string(),
        status.role.to_string(),
        status.term.to_string(),
        status.leader.map_or("-".to_string(), |id| id.to_string()),
        status.commit_index.to_string(),
        status.applied_index.to_string(),
    ]
}

/// The process ids of a server, or a text in place of them, if this program has started its processes.
#[derive(Clone, Debug)]
pub struct ServerNote {
    /// Of the worker.
    pub worker_pid: String,
    /// Of the daemon.
    pub daemon_pid: String,
}

/// The servers, one row each, as the node with the highest applied index has them. `note` gives the processes
/// of a server by its name. Empty if no node answers.
pub fn servers(answers: &[Asked], note: impl Fn(&str) -> Option<ServerNote>, width: usize) -> Vec<String> {
    let Some(status) = freshest(answers) else { return Vec::new() };
    let notes: Vec<Option<ServerNote>> = status.servers.iter().map(|server| note(&server.id)).collect();
    let mut headings = vec!["server", "state", ">cpu %", ">cores", ">in flight", "worker"];
    if notes.iter().any(Option::is_some) {
        headings.extend([">pid", ">daemon pid"]);
    }
    let mut table = Table::new(&headings);
    for (server, note) in status.servers.iter().zip(notes) {
        let mut cells = vec![
            server.id.clone(),
            match (server.alive, server.worker_up) {
                (true, true) => "alive",
                (true, false) => "alive, no worker",
                (false, _) => "dead",
            }
            .to_string(),
            if server.cpu_known { format!("{:.1}", server.cpu) } else { "unknown".to_string() },
            server.cores.to_string(),
            in_flight(answers, &server.id).to_string(),
            server.worker.to_string(),
        ];
        cells.extend(note.into_iter().flat_map(|note| [note.worker_pid, note.daemon_pid]));
        table.row(cells);
    }
    table.lines(width)
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::{answers, status};
    use super::*;

    /// The widest process id of Linux (proc_sys_kernel(5), pid_max), and a daemon that has died.
    fn note(_: &str) -> Option<ServerNote> {
        Some(ServerNote { worker_pid: "4194303".into(), daemon_pid: "gone".into() })
    }

    #[test]
    fn nodes_and_servers_stand_in_columns() {
        let all = answers(vec![Ok(status(1)), Err("connection refused".to_string())]);
        assert_eq!(
            nodes(&all, &[], 200),
            [
                "node  role       term  leader  commit  applied  digest  address",
                "   1  leader        2       1       9        9  abc     127.0.0.1:8001",
                "   ?  no answer     -       -       -        -  -       127.0.0.1:8002",
            ]
        );
        assert_eq!(
            servers(&all, note, 200),
            [
                "server    state  cpu %  cores  in flight  worker               pid  daemon pid",
                "server-1  alive   12.5      2          1  127.0.0.1:10001  4194303        gone",
            ]
        );
    }

    #[test]
    fn a_server_that_gets_no_request_does_not_look_like_one_that_does() {
        let mut down = status(1);
        down.servers[0].worker_up = false;
        let row = servers(&answers(vec![Ok(down.clone())]), |_| None, 200).remove(1);
        assert!(row.starts_with("server-1  alive, no worker  "), "{row}");
        down.servers[0].cpu_known = false;
        let row = servers(&answers(vec![Ok(down.clone())]), |_| None, 200).remove(1);
        assert!(row.starts_with("server-1  alive, no worker  unknown  "), "{row}");
        down.servers[0].alive = false;
        let row = servers(&answers(vec![Ok(down)]), |_| None, 200).remove(1);
        assert!(row.starts_with("server-1  dead  "), "{row}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_at_any_width() {
        let all = answers(vec![Ok(status(1)), Err("connection refused".to_string())]);
        let notes = vec![NodeNote::default(); 2];
        for width in 0..120 {
            for line in nodes(&all, &notes, width).iter().chain(&servers(&all, note, width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn nothing_that_a_node_says_can_move_the_cursor() {
        let mut hostile = status(1);
        hostile.state_digest = "a\u{1b}[2J".to_string();
        hostile.servers[0].id = "\r\nserver".to_string();
        let all = answers(vec![Ok(hostile)]);
        let lines = [nodes(&all, &[], 200), servers(&all, |_| None, 200)].concat();
        assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
    }
}
