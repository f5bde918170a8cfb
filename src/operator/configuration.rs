//! Writes `DIR/cluster.toml` for a new cluster, and checks and keeps it for an existing one. `rakit init` writes the same text
//! with the addresses of several machines ([`NewConfiguration`]).
//!
//! `rakit up` calls [`settle`] once, with the directory locked. In a directory that holds a cluster, the
//! file is never written again: the user's changes are kept, and a node that was started by hand still finds its
//! addresses there. So neither the base port nor the number of nodes can change. Another number of nodes would be a
//! change of membership (Raft paper, section 6) without consensus. For example, three nodes have data and two empty
//! ones are added. Then the two empty nodes and one old node could elect a leader that lacks committed entries.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rakit::config::Config;
use rakit::storage;

use super::Failure;
use super::layout::{
    BASE_PORT_DEFAULT, CLUSTER_PORT_OFFSET, Layout, NODES_DEFAULT, NODES_MAX, SERVERS_DEFAULT, shown,
};

/// What the user asked for; `None` where the flag was not given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// `--nodes`.
    pub nodes: Option<u16>,
    /// `--servers`.
    pub servers: Option<u16>,
    /// `--base-port`.
    pub base_port: Option<u16>,
}

/// The cluster to run in a directory: what the user asked for, combined with what the directory holds.
#[derive(Debug)]
pub struct SettledCluster {
    /// The processes, their ports and files.
    pub layout: Layout,
    /// Whether the directory held a cluster before.
    pub resumed: bool,
}

impl SettledCluster {
    /// Writes the `cluster.toml` of a new cluster.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self) -> Result<(), Failure> {
        if self.resumed {
            return Ok(());
        }
        let path = self.layout.config_file();
        storage::replace(&path, template(&self.layout).as_bytes())
            .map_err(|error| Failure::other(format!("{}: can't be written: {error}", shown(&path))))
    }
}

/// Decides which cluster runs in `dir`. Reads `cluster.toml` if it exists; writes nothing.
///
/// # Errors
/// The file cannot be read, is invalid, does not have the addresses that `rakit up` gives, or has another
/// number of nodes than the user asked for.
pub fn settle(dir: &Path, wish: Wish) -> Result<SettledCluster, Failure> {
    let wished = |nodes, base_port| Layout {
        dir: dir.to_path_buf(),
        nodes,
        servers: wish.servers.unwrap_or(SERVERS_DEFAULT),
        base_port,
    };
    let new = wished(wish.nodes.unwrap_or(NODES_DEFAULT), wish.base_port.unwrap_or(BASE_PORT_DEFAULT));
    let path = new.config_file();
    if fs::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(SettledCluster { layout: new, resumed: false });
    }
    let config = super::load_config(&path)?;
    let (nodes, base_port) = shape(&config).ok_or_else(|| {
        Failure::usage(format!(
            "{}: its [[node]] addresses are not those of a local cluster (node i at 127.0.0.1:BASE+i, its peers at \
             127.0.0.1:BASE+{CLUSTER_PORT_OFFSET}+i); give another --dir",
            shown(&path)
        ))
    })?;
    if let Some(asked) = wish.nodes.filter(|asked| *asked != nodes) {
        return Err(Failure::usage(format!(
            "{}: holds a cluster of {nodes} nodes, and --nodes asks for {asked}; to change the members of a cluster \
             that has data could lose what it agreed on: leave --nodes out, or give another --dir",
            shown(&path)
        )));
    }
    if let Some(asked) = wish.base_port.filter(|asked| *asked != base_port) {
        return Err(Failure::usage(format!(
            "{}: holds a cluster whose base port is {base_port}, and --base-port asks for {asked}; leave --base-port out, \
             or give another --dir for another cluster",
            shown(&path)
        )));
    }
    Ok(SettledCluster { layout: wished(nodes, base_port), resumed: true })
}

/// The number of nodes and the base port, if the nodes have the ids and addresses that [`template`] gives.
fn shape(config: &Config) -> Option<(u16, u16)> {
    let nodes = u16::try_from(config.nodes.len()).ok().filter(|nodes| (1..=NODES_MAX).contains(nodes))?;
    let base_port = config.nodes.first()?.public.port().checked_sub(1)?;
    if !(1..=super::layout::BASE_PORT_MAX).contains(&base_port) {
        return None;
    }
    let expected = Layout { dir: Default::default(), nodes, servers: SERVERS_DEFAULT, base_port };
    let fits = config.nodes.iter().zip(expected.node_ids()).all(|(node, id)| {
        node.id == u64::from(id) && node.public == expected.public(id) && node.cluster == expected.cluster(id)
    });
    fits.then_some((nodes, base_port))
}

/// A new cluster's `cluster.toml`.
fn template(layout: &Layout) -> String {
    let new = NewConfiguration {
        origin: "written once by `rakit up`; every node and daemon reads it when it starts.\n\
                 # Change what you like but [[node]], and run `rakit up` again: file and data are kept.",
        name: "lab",
        secret: "# secret_file = \"cluster.key\"     # a file of mode 0600; needed once an address is not on this machine",
        nodes: layout.node_ids().map(|id| (layout.public(id), layout.cluster(id))).collect(),
    };
    new.text()
}

/// What differs between the `cluster.toml` of `rakit up` and that of `rakit init`.
pub struct NewConfiguration<'a> {
    /// Who wrote the file and what to do with it. Each line after the first begins with `#`.
    pub origin: &'a str,
    /// `[cluster] name`.
    pub name: &'a str,
    /// The line about `secret_file`.
    pub secret: &'a str,
    /// The public and the cluster address of nodes 1, 2, …
    pub nodes: Vec<(SocketAddr, SocketAddr)>,
}

impl NewConfiguration<'_> {
    /// The file, with an explanation of each line: a student may read it before the documentation.
    pub fn text(&self) -> String {
        let Self { origin, name, secret, nodes } = self;
        let name = format!("name = \"{name}\"");
        let mut text = format!(
            "# The configuration of this cluster, {origin}\n\
             \n\
             [cluster]\n\
             {name:<33} # nodes of another cluster are refused\n\
             {secret}\n\
             \n\
             [raft]\n\
             heartbeat_ms = 100                # how often a leader sends a heartbeat to each follower\n\
             election_timeout_ms = [500, 1000] # a follower that hears no leader for a random time in this range asks for votes\n\
             data_dir = \"data\"                 # node i keeps its log, term and vote in data/node-i, beside this file\n\
             snapshot_entries = 10000          # the log is compacted after so many applied entries\n\
             \n\
             [balancer]\n\
             policy = \"projected\"              # or \"lowest-cpu\": docs/balancing.md\n\
             server_timeout_ms = 5000          # a server without a report for so long is declared dead, by consensus\n\
             report_interval_ms = 1000         # how often the daemons report\n\
             request_timeout_ms = 300000       # a big N takes a slow worker minutes\n\
             stall_ms = 2000                   # a server that owes an answer for so long, and is idle, is not chosen\n\
             \n\
             # public: clients ask here for primes and status. cluster: the other nodes and the daemons talk here.\n"
        );
        for (id, (public, cluster)) in (1..).zip(nodes) {
            let written =
                write!(text, "[[node]]\nid = {id}\npublic = \"{public}\"\ncluster = \"{cluster}\"\n\n");
            written.expect("writing into a String can't fail");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(dir: &Path, wish: Wish) -> Result<SettledCluster, Failure> {
        let settled = settle(dir, wish)?;
        settled.write()?;
        Ok(settled)
    }

    /// What is written can be read back by the programs that it is for, and settles to the same cluster.
    #[test]
    fn a_new_file_is_good_and_is_kept_by_the_next_run() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = settled(dir.path(), Wish { nodes: Some(3), servers: Some(2), base_port: Some(7100) })
            .expect("a new directory");
        assert!(!first.resumed);
        let before = fs::read_to_string(first.layout.config_file()).expect("it was written");
        let second =
            settled(dir.path(), Wish { servers: Some(2), ..Wish::default() }).expect("the same again");
        assert!(second.resumed);
        assert_eq!(second.layout, first.layout, "nodes and ports come from the file");
        assert_eq!(fs::read_to_string(first.layout.config_file()).expect("it is there"), before);
    }

    #[test]
    fn the_default_file_has_the_defaults() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settled = settled(dir.path(), Wish::default()).expect("a new directory");
        let config = super::super::load_config(&settled.layout.config_file()).expect("a good file");
        assert_eq!(config.cluster_name, "lab");
        assert_eq!(config.nodes.len(), 5);
        assert_eq!(config.nodes[4].public.to_string(), "127.0.0.1:8005");
        assert_eq!(config.nodes[4].cluster.to_string(), "127.0.0.1:9005");
        assert_eq!(config.data_dir, dir.path().join("data"));

        // Every value that it shows is the one that counts without it.
        let text = fs::read_to_string(settled.layout.config_file()).expect("it was written");
        let nodes = text.split_once("\n[[node]]").expect("it has nodes").1;
        let least = format!("[cluster]\nname = \"lab\"\n[[node]]{nodes}");
        assert_eq!(config, Config::parse(&least, &settled.layout.config_file()).expect("all has defaults"));
    }

    #[test]
    fn another_number_of_nodes_or_base_port_is_refused_and_the_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = settled(dir.path(), Wish { nodes: Some(3), ..Wish::default() }).expect("a new directory");
        let before = fs::read_to_string(first.layout.config_file()).expect("it was written");
        for wish in
            [Wish { nodes: Some(5), ..Wish::default() }, Wish { base_port: Some(8100), ..Wish::default() }]
        {
            let refused = settled(dir.path(), wish).expect_err("it would be another cluster");
            assert_eq!(refused.exit_code, 2);
            assert!(refused.line.contains("--dir"), "the line names the mend: {}", refused.line);
            assert_eq!(fs::read_to_string(first.layout.config_file()).expect("it is there"), before);
        }
        let same = Wish { nodes: Some(3), base_port: Some(BASE_PORT_DEFAULT), servers: None };
        assert!(settled(dir.path(), same).expect("as it is").resumed);
    }

    #[test]
    fn a_configuration_of_another_shape_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = settled(dir.path(), Wish { nodes: Some(2), ..Wish::default() }).expect("a new directory");
        let path = first.layout.config_file();
        let text =
            fs::read_to_string(&path).expect("it was written").replace("127.0.0.1:8002", "127.0.0.1:8007");
        fs::write(&path, text).expect("it can be written");
        let refused = settled(dir.path(), Wish::default()).expect_err("not ours");
        assert_eq!(refused.exit_code, 2);
    }
}
