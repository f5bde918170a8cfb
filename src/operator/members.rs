//! `rakit members`: shows the members of a cluster, and changes them through the log, one node at a time (thesis, chapter 4).
//!
//! A change goes to the leader's cluster address, and is signed if there is a secret, as with `rakit transfer`. The nodes of
//! cluster.toml are asked who leads, and so are the members that they name: the file need not know all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rakit::config::Config;
use rakit::program::{EXIT_OK, LogFlags};
use rakit::protocol::{MembersChanged, Status, path, to_json};
use rakit::raft::{MemberChange, NodeId};

use super::Failure;
use super::asking::{ask_members, newest_of};
use super::comparison::clean;
use super::layout::DIRECTORY_DEFAULT;
use super::leader::{ClusterFlag, Leadership, not_carried_out};
use super::screen::say;

/// How long a change is tried again that cannot begin just now: another is under way, or the leader is new.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause between two tries, and between two looks at a learner.
const PAUSE: Duration = Duration::from_millis(250);

/// Flags of `rakit members`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
One node at a time: a change begins when the one before is committed. `add` prints what the new machine needs.
Exit codes: 0 if it is done; 1 if not; 2 on bad usage or configuration.")]
pub struct MembersFlags {
    #[command(subcommand)]
    what: What,

    /// The cluster's configuration
    #[arg(long, global = true, value_name = "FILE", default_value_os_t = Path::new(DIRECTORY_DEFAULT).join("cluster.toml"))]
    config: PathBuf,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Show the members, as the nodes go by them
    List,
    /// Add a node: first as a learner, which does not count; it votes when it has caught up
    Add(Place),
    /// Remove a node; it is told, campaigns no more, and may be stopped
    Remove {
        /// Its id
        id: NodeId,
    },
    /// Remove a node and add it again, at another address or with an empty directory
    Replace(Place),
}

/// A node, and where it will be.
#[derive(clap::Args, Debug)]
struct Place {
    /// Its id
    id: NodeId,

    /// Its cluster address, for nodes and daemons
    #[arg(long, value_name = "IP:PORT")]
    cluster: SocketAddr,

    /// Its public address, for clients
    #[arg(long, value_name = "IP:PORT")]
    public: SocketAddr,

    /// Wait at most so long until it votes; it must be started meanwhile
    #[arg(long, value_name = "MS", default_value_t = 0)]
    wait_ms: u64,
}

/// Runs `rakit members`.
///
/// # Errors
/// No node answers, there is no leader, or the change is refused or not committed in time.
pub fn run(flags: &MembersFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let leadership = &mut Leadership::new(&ClusterFlag { config: flags.config.clone() })?;
    match &flags.what {
        What::List => list(&leadership.config)?,
        What::Add(place) => add(leadership, place)?,
        What::Remove { id } => remove(leadership, *id)?,
        What::Replace(place) => {
            // It may be that an earlier try removed it already.
            let newest = newest(&leadership.config)?;
            if newest.members.iter().any(|member| member.id == place.id) {
                remove(leadership, place.id)?;
            }
            add(leadership, place)?;
        }
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn list(config: &Config) -> Result<(), Failure> {
    let newest = newest(config)?;
    let from = match newest.members_index {
        0 => "the founding".to_owned(),
        index => format!("entry {index} of the log"),
    };
    say(&format!("members of {}, by {from}:", newest.cluster));
    for member in &newest.members {
        let kind = if member.voter { "voter" } else { "learner" };
        let leads = if newest.leader == Some(member.id) { ", leads" } else { "" };
        say(&format!(
            "  node {}: {kind}{leads}, cluster {}, public {}",
            member.id, member.cluster, member.public
        ));
    }
    for node in &config.nodes {
        match newest.members.iter().find(|member| member.id == node.id) {
            None => say(&format!("cluster.toml names node {}, which is no member", node.id)),
            Some(member) if (member.cluster, member.public) != (node.cluster, node.public) => {
                say(&format!("cluster.toml has other addresses for node {}; those above count", node.id));
            }
            Some(_) => {}
        }
    }
    for member in newest.members.iter().filter(|member| config.nodes.iter().all(|node| node.id != member.id))
    {
        say(&format!("cluster.toml does not name node {}", member.id));
    }
    Ok(())
}

fn add(leadership: &mut Leadership, place: &Place) -> Result<(), Failure> {
    let Place { id, cluster, public, wait_ms } = place;
    if *public == *cluster {
        return Err(Failure::usage(
            "--cluster and --public are one address; give each its own port".to_owned(),
        ));
    }
    let change = MemberChange::Add { id: *id, cluster: cluster.to_string(), public: public.to_string() };
    let index = order(leadership, &change)?;
    let config = &leadership.config;
    say(&format!(
        "node {id} is a learner now (entry {index}): it gets the log, and votes when it has caught up"
    ));
    let is_in_file =
        config.nodes.iter().any(|node| (node.id, node.cluster, node.public) == (*id, *cluster, *public));
    if !is_in_file {
        let founder = if config.founding().members.contains(id) { "" } else { "founder = false\n" };
        say(
            "cluster.toml of the new machine needs this; put it into the file of every machine, at the next occasion:",
        );
        say(&format!("\n[[node]]\nid = {id}\npublic = \"{public}\"\ncluster = \"{cluster}\"\n{founder}"));
    }
    say(&format!("start it there: rakit node --config cluster.toml --id {id}"));
    if *wait_ms == 0 {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_millis(*wait_ms);
    while Instant::now() < deadline {
        if newest(config)
            .is_ok_and(|status| status.members.iter().any(|member| member.id == *id && member.voter))
        {
            say(&format!("node {id} votes now"));
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    Err(Failure::other(format!(
        "node {id} is still a learner after {wait_ms} ms: it is not started, not reached at {cluster}, or slower than the log \
         grows; see its log, and `rakit members list`; `rakit members remove {id}` takes the change back"
    )))
}

fn remove(leadership: &mut Leadership, id: NodeId) -> Result<(), Failure> {
    let index = order(leadership, &MemberChange::Remove { id })?;
    say(&format!(
        "node {id} is no member any more (entry {index}); its process goes on, outside of the cluster, until you stop it"
    ));
    Ok(())
}

fn newest(config: &Config) -> Result<Status, Failure> {
    newest_of(&ask_members(config)).cloned().ok_or_else(|| {
        Failure::other(format!("no node of {} answers; see `rakit status`", config.path.display()))
    })
}

/// Whether the nodes that answer know this node as a member.
pub fn is_member(config: &Config, id: NodeId) -> bool {
    newest(config).is_ok_and(|status| status.members.iter().any(|member| member.id == id))
}

/// Has the leader make a change, and returns the index of its entry. What cannot begin just now is tried again for a while. An
/// answer that was lost is not: the change may have been made.
fn order(leadership: &mut Leadership, change: &MemberChange) -> Result<u64, Failure> {
    let body = to_json(change);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match leadership.find() {
            Err(failure) => failure,
            Ok((leader, _)) => {
                let answer = leadership.order_once(&leader, path::CHANGE_MEMBERS, &body)?;
                let said = clean(String::from_utf8_lossy(&answer.body).trim());
                match answer.status {
                    200 => {
                        let changed: MembersChanged =
                            serde_json::from_slice(&answer.body).map_err(|error| {
                                Failure::other(format!("node {}: {error}: {said}", leader.id))
                            })?;
                        return Ok(changed.committed);
                    }
                    409 => not_carried_out(&leader, &answer),
                    503 if !said.starts_with("unknown") => Failure::other(said),
                    _ => return Err(Failure::other(said)),
                }
            }
        };
        if Instant::now() >= deadline {
            return Err(why);
        }
        thread::sleep(PAUSE);
    }
}
