//! `rakit check`: the doctor. It looks at this machine and at the running cluster, and says in one line each what is not as
//! it should be, with the mend. It changes nothing, but for a small file that it writes beside the data and removes again.
//!
//! | file | looks at |
//! | --- | --- |
//! | `check/here.rs` | this machine: kernel, C library, key, ports, disk |
//! | `check/nodes.rs` | the nodes: who answers, whether they work together and agree, versions, clocks |
//! | `check/keys.rs` | the keys: whether each node takes those of this machine, and which signs |
//! | `check/members.rs` | the members: the file beside the log, the nodes' lists beside each other, learners |
//! | `check/workers.rs` | the servers: alive, drained, a worker that listens and answers, a load that is known |
//!
//! Every node's view is asked for once ([`View::ask`]), also of members that only the log has. If the nodes differ, or a change of
//! members is under way, they are asked once more a moment later: a commit or an election under way is no finding.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rakit::config::Config;
use rakit::program::{EXIT_FAILURE, EXIT_OK, LogFlags};
use rakit::signing::Secret;

use super::comparison::clean;
use super::layout::DIRECTORY_DEFAULT;
use super::screen::say;
use super::{Failure, load_config};

mod here;
mod keys;
mod members;
mod nodes;
mod workers;

use members::View;

/// The pause before the nodes are asked again because they differ: longer than a usual election.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Flags of `rakit check`.
#[derive(clap::Args, Debug)]
#[command(after_help = CHECK_HELP)]
pub struct CheckFlags {
    /// The cluster's configuration [default: the first of cluster.toml, rakit-cluster/cluster.toml and
    /// /etc/rakit/cluster.toml that is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const CHECK_HELP: &str = "\
Run it on the machine that is in question, or on any other. Each line begins with `ok`, `note` (worth knowing, no harm) or
`finding`. A finding ends with its mend.

Exit codes: 0 without a finding; 1 with one; 2 on bad usage, or a cluster.toml that no program would take.";

/// What a check has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// As it should be.
    Fine(String),
    /// Worth knowing, no harm.
    Note(String),
    /// Not as it should be, and what to do about it.
    Finding {
        /// What is wrong, and where.
        what: String,
        /// What to do.
        mend: String,
    },
}

impl Remark {
    /// A finding.
    fn finding(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Finding { what: what.into(), mend: mend.into() }
    }

    /// The line for a person. Parts of it come from other machines.
    fn line(&self) -> String {
        clean(&match self {
            Self::Fine(what) => format!("ok: {what}"),
            Self::Note(what) => format!("note: {what}"),
            Self::Finding { what, mend } => format!("finding: {what}; mend: {mend}"),
        })
    }
}

/// Runs `rakit check`.
///
/// # Errors
/// There is no configuration, or a bad one.
pub fn run(flags: &CheckFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let config = load_config(&file(flags)?)?;
    let secret = config.secret.as_deref().map(Secret::parse).transpose();
    let secret =
        secret.map_err(|wrong| Failure::usage(format!("{}: secret_file: {wrong}", config.path.display())))?;
    let (before, now) = asked(&config);
    let mut remarks = of_the_file(&config, now.voters(&config));
    remarks.extend(here::look(&config, secret.as_ref(), &now.file));
    remarks.extend(nodes::look(&config, secret.as_ref(), &now.members(&config)));
    remarks.extend(members::look(&config, &before, &now));
    remarks.extend(workers::look(&now.answered(&config)));
    remarks.iter().for_each(|remark| say(&remark.line()));
    let findings = remarks.iter().filter(|remark| matches!(remark, Remark::Finding { .. })).count();
    say(&match findings {
        0 => "all is well".to_string(),
        1 => "1 finding".to_string(),
        more => format!("{more} findings"),
    });
    Ok(ExitCode::from(if findings == 0 { EXIT_OK } else { EXIT_FAILURE }))
}

fn file(flags: &CheckFlags) -> Result<PathBuf, Failure> {
    if let Some(file) = &flags.config {
        return Ok(file.clone());
    }
    let name = Path::new("cluster.toml");
    let usual =
        [name.to_owned(), Path::new(DIRECTORY_DEFAULT).join(name), Path::new("/etc/rakit").join(name)];
    usual.into_iter().find(|file| file.exists()).ok_or_else(|| {
        Failure::usage(format!(
            "there is no cluster.toml here, nor in {DIRECTORY_DEFAULT} or /etc/rakit; give --config FILE"
        ))
    })
}

/// Two looks at all nodes; twice the same, if there is no reason for a second one.
fn asked(config: &Config) -> (View, View) {
    let before = View::ask(config);
    if !before.may_change(config) {
        return (before.clone(), before);
    }
    std::thread::sleep(ASK_AGAIN);
    (before, View::ask(config))
}

/// What the file itself says. `voters` is how many members vote, if a node has told.
fn of_the_file(config: &Config, voters: Option<usize>) -> Vec<Remark> {
    let ids: Vec<String> = config.nodes.iter().map(|node| node.id.to_string()).collect();
    let signed = if config.secret.is_some() { "signed" } else { "not signed" };
    let mut remarks = vec![Remark::Fine(format!(
        "{}: cluster {}, nodes {}, {signed}",
        config.path.display(),
        config.cluster_name,
        ids.join(", ")
    ))];
    if let Err(error) = config.check_exposure(false) {
        remarks.push(Remark::finding(error.to_string(), "as it says, on all machines"));
    }
    remarks.extend(config.warnings(voters).into_iter().map(Remark::Note));
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_its_kind_and_nothing_in_it_moves_the_cursor() {
        assert_eq!(Remark::Fine("all\u{1b}[2J".into()).line(), "ok: all?[2J");
        assert_eq!(
            Remark::finding("the port is taken", "free it").line(),
            "finding: the port is taken; mend: free it"
        );
    }

    #[test]
    fn the_file_is_judged_as_the_programs_judge_it() {
        let text = "[cluster]\nname = \"lab\"\n[[node]]\nid = 1\npublic = \"10.0.0.1:8000\"\ncluster = \"10.0.0.1:9000\"\n\
                    [[node]]\nid = 2\npublic = \"10.0.0.2:8000\"\ncluster = \"10.0.0.2:9000\"\n";
        let config = Config::parse(text, Path::new("lab.toml")).expect("a file that can be read");
        let lines: Vec<String> = of_the_file(&config, None).iter().map(Remark::line).collect();
        assert_eq!(lines[0], "ok: lab.toml: cluster lab, nodes 1, 2, not signed");
        assert!(lines[1].starts_with("finding: lab.toml: cluster.secret_file: missing"), "{lines:?}");
        assert!(lines[2].starts_with("note: ") && lines[2].contains("take an odd number"), "{lines:?}");
        // As soon as the members are known, they count, and not the file.
        let even = |voters| {
            of_the_file(&config, Some(voters)).iter().any(|one| one.line().contains("take an odd number"))
        };
        assert_eq!([2, 3, 4].map(even), [true, false, true]);
    }
}
