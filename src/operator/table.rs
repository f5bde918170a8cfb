//! Text in columns, and the tables of nodes and servers that `rakit status` prints. `live_table.rs` makes its tables of the
//! same columns.
//!
//! The most important columns come first: those that do not fit are left out.

use rakit::protocol::{ServerStatus, Status};

use super::comparison::{Asked, freshest, in_flight};
use super::line::{Line, Style};

/// Between two columns.
const GAP: &str = "  ";

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    /// How it stands out.
    pub style: Style,
    /// Its text.
    pub text: String,
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Cell {
        Cell { style: Style::Plain, text: value.to_string() }
    }
}

/// Text in columns. Each column is as wide as its widest cell.
#[derive(Debug, Default)]
pub struct Table {
    /// The first is the heading.
    rows: Vec<Vec<Line>>,
    /// Whether each column is aligned to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings. A heading that starts with `>` belongs to a column that is aligned to the
    /// right.
    pub fn new(headings: &[&str]) -> Table {
        let heading = |text: &&str| Line::new(Style::Plain, text.trim_start_matches('>'));
        Table {
            rows: vec![headings.iter().map(heading).collect()],
            right: headings.iter().map(|text| text.starts_with('>')).collect(),
        }
    }

    /// Adds a row, one cell per heading.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells.iter().map(|cell| Line::new(cell.style, &cell.text)).collect());
    }

    /// The lines, without blanks at their ends, each at most `width` characters long: of the columns, as many as fit. The
    /// first is always there, cut if need be.
    pub fn lines(&self, width: usize) -> Vec<Line> {
        let width_of =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(Line::width).max();
        let widths: Vec<usize> = (0..self.right.len()).map(|column| width_of(column).unwrap_or(0)).collect();
        let mut shown = 0;
        let mut taken = 0;
        for of_column in &widths {
            taken += of_column + if shown > 0 { GAP.len() } else { 0 };
            if shown > 0 && taken > width {
                break;
            }
            shown += 1;
        }
        self.rows
            .iter()
            .map(|row| {
                let mut line = Line::default();
                let mut blanks = 0;
                for (column, cell) in row.iter().take(shown).enumerate() {
                    let padding = widths[column] - cell.width();
                    if self.right[column] {
                        blanks += padding;
                    }
                    if cell.width() > 0 {
                        line = line.with(Style::Plain, &" ".repeat(blanks)).joined(cell);
                        blanks = 0;
                    }
                    blanks += GAP.len() + if self.right[column] { 0 } else { padding };
                }
                line.cut(width)
            })
            .collect()
    }
}

/// The nodes, one row each.
pub fn nodes(answers: &[Asked]) -> Vec<Line> {
    let mut table =
        Table::new(&[">node", "role", ">term", ">leader", ">commit", ">applied", "digest", "address"]);
    for answer in answers {
        let mut cells = match &answer.status {
            Ok(status) => believing(status),
            Err(_) => {
                // `rakit status` gives the reason below its tables.
                let id = answer.id.map_or("?".to_string(), |id| id.to_string());
                let mut cells = vec![id.into(), "no answer".into()];
                cells.resize(7, "-".into());
                cells
            }
        };
        cells.push(answer.address.into());
        table.row(cells);
    }
    table.lines(usize::MAX)
}

/// The first characters of the digest: enough to compare two by eye.
pub fn digest(status: &Status) -> String {
    const DIGEST_CHARACTERS: usize = 8;
    status.state_digest.chars().take(DIGEST_CHARACTERS).collect()
}

fn believing(status: &Status) -> Vec<Cell> {
    vec![
        status.node.into(),
        status.role.into(),
        status.term.into(),
        status.leader.map_or("-".to_string(), |id| id.to_string()).into(),
        status.commit_index.into(),
        status.applied_index.into(),
        digest(status).into(),
    ]
}

/// The agreed load of a server, in percent.
pub fn cpu(server: &ServerStatus) -> String {
    if server.cpu_known { format!("{:.1}", server.cpu) } else { "unknown".to_string() }
}

/// The servers, one row each, as the node with the highest applied index has them. Empty if no node answers.
pub fn servers(answers: &[Asked]) -> Vec<Line> {
    let Some(status) = freshest(answers) else { return Vec::new() };
    let mut table = Table::new(&["server", "state", ">cpu %", ">cores", ">in flight", "worker"]);
    for server in &status.servers {
        let state = match (server.alive, server.drained, server.worker_up) {
            (true, true, _) => "alive, drained",
            (true, false, true) => "alive",
            (true, false, false) => "alive, no worker",
            (false, true, _) => "dead, drained",
            (false, false, _) => "dead",
        };
        table.row(vec![
            server.id.as_str().into(),
            state.into(),
            cpu(server).into(),
            server.cores.into(),
            in_flight(answers, &server.id).into(),
            server.worker.into(),
        ]);
    }
    table.lines(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::{answers, status};
    use super::*;

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(Line::text).collect()
    }

    #[test]
    fn nodes_and_servers_stand_in_columns() {
        let all = answers(vec![Ok(status(1)), Err("connection refused".to_string())]);
        assert_eq!(
            texts(&nodes(&all)),
            [
                "node  role       term  leader  commit  applied  digest  address",
                "   1  leader        2       1       9        9  abc     127.0.0.1:8001",
                "   ?  no answer     -       -       -        -  -       127.0.0.1:8002",
            ]
        );
        assert_eq!(
            texts(&servers(&all)),
            [
                "server    state  cpu %  cores  in flight  worker",
                "server-1  alive   12.5      2          1  127.0.0.1:10001",
            ]
        );
    }

    #[test]
    fn a_server_that_gets_no_request_does_not_look_like_one_that_does() {
        let mut down = status(1);
        down.servers[0].worker_up = false;
        let row = texts(&servers(&answers(vec![Ok(down.clone())]))).remove(1);
        assert!(row.starts_with("server-1  alive, no worker  "), "{row}");
        down.servers[0].cpu_known = false;
        let row = texts(&servers(&answers(vec![Ok(down.clone())]))).remove(1);
        assert!(row.starts_with("server-1  alive, no worker  unknown  "), "{row}");
        down.servers[0].alive = false;
        let row = texts(&servers(&answers(vec![Ok(down)]))).remove(1);
        assert!(row.starts_with("server-1  dead  "), "{row}");
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_whole() {
        let mut table = Table::new(&["name", ">count", "place"]);
        table.row(vec!["first".into(), 12.into(), "here".into()]);
        let lines = |width| texts(&table.lines(width));
        assert_eq!(lines(19), ["name   count  place", "first     12  here"]);
        assert_eq!(lines(18), ["name   count", "first     12"]);
        assert_eq!(lines(11), ["name", "first"]);
        assert_eq!(lines(4), ["name", "fir…"]);
        assert_eq!(lines(0), ["", ""]);
    }

    #[test]
    fn nothing_that_a_node_says_can_move_the_cursor() {
        let mut hostile = status(1);
        hostile.state_digest = "a\u{1b}[2J".to_string();
        hostile.servers[0].id = "\r\nserver".to_string();
        let all = answers(vec![Ok(hostile)]);
        let lines = [texts(&nodes(&all)), texts(&servers(&all))].concat();
        assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
    }
}
