//! `rakit init`: writes everything that several machines need to be one cluster, into one directory.
//!
//! | in DIR | holds |
//! | --- | --- |
//! | `cluster.toml` | the configuration, for `rakit status` and `rakit check` here |
//! | `cluster.key` | the secret, mode 0600 |
//! | `hosts/HOST/` | a folder to copy to each machine ([`folder`]) |
//! | `commands.txt` | what to type: the same as is printed |
//!
//! With all flags it asks nobody. Without `--nodes` or `--servers`, at a terminal, it asks. It checks everything before
//! it writes anything, and never writes over a file.
//!
//! A further server is set up by the same command on its own machine, with the *report key* in place of a new secret. `rakit
//! init` prints that command: the join line. Who reads it can report loads, but cannot vote.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rakit::balancer::{NAME_BYTES_MAX, is_name};
use rakit::config::Config;
use rakit::linux::random_u64;
use rakit::program::{EXIT_OK, LogFlags};
use rakit::signing::Secret;

use super::Failure;
use super::children::shell_word;
use super::configuration::NewConfiguration;
use super::layout::{DIRECTORY_DEFAULT, shown};
use super::screen::say;

mod folder;
mod hosts;

use hosts::{Host, Plan};

/// The file of the running program (proc_pid_exe(5)).
const SELF: &str = "/proc/self/exe";
/// The directory in DIR that holds a folder for each machine.
const HOSTS_DIRECTORY: &str = "hosts";
/// The key file, in DIR and in each folder. cluster.toml names it.
const KEY_FILE: &str = "cluster.key";
/// What to type, in DIR.
const COMMANDS_FILE: &str = "commands.txt";
/// The name of a cluster without `--name`.
const NAME_DEFAULT: &str = "lab";
/// The directory that the join line makes on a new server.
const JOIN_DIRECTORY: &str = "rakit-server";
/// The longest answer to a question that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Flags of `rakit init`.
#[derive(clap::Args, Debug)]
#[command(after_help = INIT_HELP)]
pub struct InitFlags {
    /// The machines of the nodes, three or five: names or addresses, each with :PORT if clients shall not use port 8000. The
    /// cluster port is 1000 above
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    nodes: Option<Vec<String>>,

    /// The machines of the servers, each with :PORT if its worker shall not use port 13337. A machine may be in both lists
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    servers: Option<Vec<String>>,

    /// The cluster's name; nodes of another cluster are refused
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT, value_parser = cluster_name)]
    name: String,

    /// Set up servers for a cluster that exists, with its report key: the join line of `rakit init` uses this
    #[arg(long, value_name = "KEY", requires = "nodes", requires = "servers")]
    report_key: Option<String>,

    /// Where to write; made if it is missing
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    dir: PathBuf,
}

const INIT_HELP: &str = "\
Examples:
  rakit init --nodes 10.0.0.1,10.0.0.2,10.0.0.3 --servers 10.0.0.11,10.0.0.12
  rakit init --nodes lab-01,lab-02,lab-03 --servers lab-01,lab-02,lab-03,lab-04 --dir class
  rakit init --nodes [fd00::1]:8100,[fd00::2]:8100,[fd00::3]:8100 --servers [fd00::4]:4000

DIR/cluster.toml  the configuration, the same on every machine
DIR/cluster.key   the secret, mode 0600: keep it
DIR/hosts/HOST    a folder to copy to each machine, with scripts that start what runs there
DIR/commands.txt  what to type on which machine, as it is printed

It changes nothing outside DIR and writes over no file. Names of nodes are looked up here, since
cluster.toml holds addresses. Without --nodes or --servers, at a terminal, it asks.

Exit codes: 0 if all is written; 1 if DIR holds a cluster already or can't be written; 2 on bad
usage.";

fn cluster_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("give 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-', a letter or digit first"))
}

/// Runs `rakit init`.
///
/// # Errors
/// The hosts cannot be those of a cluster, or DIR can't be written.
pub fn run(flags: &InitFlags, log: &LogFlags) -> Result<ExitCode, Failure> {
    rakit::logging::start(log.log_level, log.log_file.as_deref()).map_err(Failure::usage)?;
    let (nodes, servers) = wanted(flags)?;
    let plan = hosts::plan(&nodes, &servers, &lookup).map_err(Failure::usage)?;
    let cluster = NewCluster::new(flags, plan)?;
    cluster.refuse_what_is_there()?;
    let config = cluster.write().map_err(|(path, error)| {
        let mend = format!("remove {} and try again, or give another --dir", shown(&flags.dir));
        Failure::other(format!("{}: can't be written: {error}; {mend}", shown(&path)))
    })?;
    cluster.commands().lines().for_each(say);
    config.warnings(None).iter().for_each(|warning| say(&format!("\nnote: {warning}")));
    Ok(ExitCode::from(EXIT_OK))
}

/// The hosts from the flags, or from a person at the terminal.
fn wanted(flags: &InitFlags) -> Result<(Vec<String>, Vec<String>), Failure> {
    let ask = |question: &str| -> Result<Vec<String>, Failure> {
        let text = answer(question).map_err(|error| Failure::other(format!("the terminal: {error}")))?;
        Ok(text.split([',', ' ']).filter(|host| !host.is_empty()).map(str::to_owned).collect())
    };
    let given = |hosts: &[String]| -> Vec<String> {
        hosts.iter().map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let at_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    match (&flags.nodes, &flags.servers) {
        (Some(nodes), Some(servers)) => Ok((given(nodes), given(servers))),
        (Some(nodes), None) if !at_terminal => Ok((given(nodes), Vec::new())),
        (None, _) if !at_terminal => Err(Failure::usage(
            "which machines? give --nodes HOST,HOST,HOST --servers HOST,… (see rakit init --help)"
                .to_string(),
        )),
        (nodes, servers) => {
            let nodes = match nodes {
                Some(nodes) => given(nodes),
                None => ask("Machines of the nodes, three or five (names or addresses, with commas): ")?,
            };
            let servers = match servers {
                Some(servers) => given(servers),
                None => ask("Machines of the servers, with a worker each (none: just Enter): ")?,
            };
            Ok((nodes, servers))
        }
    }
}

/// Asks on standard error, so that the commands alone are on standard output.
fn answer(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    io::Read::take(io::stdin().lock(), ANSWER_BYTES_MAX).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The addresses of a name (getaddrinfo(3)).
fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// All that will be written.
struct NewCluster<'a> {
    flags: &'a InitFlags,
    plan: Plan,
    configuration: String,
    /// The key file of a node. `None` when only servers are set up.
    secret: Option<String>,
    /// The key file of a server, without the line break.
    report_key: String,
}

impl<'a> NewCluster<'a> {
    fn new(flags: &'a InitFlags, mut plan: Plan) -> Result<Self, Failure> {
        let configuration = NewConfiguration {
            origin: "written by `rakit init`: the same file on every machine.\n\
                     # Who changes it changes it on all of them, and restarts nodes and daemons one after the other.",
            name: &flags.name,
            secret: "secret_file = \"cluster.key\"       # beside this file, mode 0600; the cluster address is signed with it",
            nodes: plan.nodes().iter().map(|node| (node.public, node.cluster)).collect(),
        };
        let configuration = configuration.text();
        let (secret, report_key) = match &flags.report_key {
            None => {
                let secret = new_secret().map_err(Failure::other)?;
                let report_key = Secret::parse(secret.as_bytes())
                    .ok()
                    .and_then(|secret| secret.report_key_line(&flags.name))
                    .expect("the new secret is long enough, and no report key");
                (Some(secret), report_key)
            }
            Some(key) => {
                // The nodes run already, with folders of their own.
                plan.hosts.iter_mut().for_each(|host| host.nodes.clear());
                plan.hosts.retain(|host| !host.servers.is_empty());
                plan.remarks.clear();
                (None, report_key(key, &flags.name).map_err(Failure::usage)?)
            }
        };
        Ok(Self { flags, configuration, plan, secret, report_key })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.flags.dir.join(name)
    }

    fn folder(&self, host: &Host) -> PathBuf {
        self.path(HOSTS_DIRECTORY).join(host.folder())
    }

    /// A cluster's files are never written again: with another secret its nodes would refuse each other.
    fn refuse_what_is_there(&self) -> Result<(), Failure> {
        let names = ["cluster.toml", KEY_FILE, HOSTS_DIRECTORY, COMMANDS_FILE];
        let Some(path) =
            names.map(|name| self.path(name)).into_iter().find(|path| path.symlink_metadata().is_ok())
        else {
            return Ok(());
        };
        Err(Failure::other(format!(
            "{}: is there already, and is kept; give another --dir, or remove it if no machine uses this cluster",
            shown(&path)
        )))
    }

    /// Writes everything. Returns the configuration as the programs will read it.
    ///
    /// # Errors
    /// The file that can't be written, and why.
    fn write(&self) -> Result<Config, (PathBuf, io::Error)> {
        let dir = &self.flags.dir;
        let at = |path: PathBuf| move |error: io::Error| (path, error);
        fs::create_dir_all(dir).map_err(at(dir.clone()))?;
        let key = self.secret.as_ref().unwrap_or(&self.report_key).clone() + "\n";
        let new = |name: &str, text: &str, mode| {
            let path = self.path(name);
            folder::new_file(&path, text, mode).map_err(at(path))
        };
        new(KEY_FILE, &key, 0o600)?;
        new("cluster.toml", &self.configuration, 0o644)?;
        let configuration = self.path("cluster.toml");
        // What the programs will read is read by their own rules first.
        let config = Config::load(&configuration)
            .map_err(|error| (configuration.clone(), io::Error::other(error.to_string())))?;
        let hosts = self.path(HOSTS_DIRECTORY);
        fs::create_dir(&hosts).map_err(at(hosts.clone()))?;
        let program = hosts.join("rakit");
        fs::copy(SELF, &program).map_err(at(program.clone()))?;
        let shared = folder::Shared {
            configuration: &self.configuration,
            secret: self.secret.is_some().then_some(key.as_str()),
            report_key: &(self.report_key.clone() + "\n"),
            ipv6: config.nodes.iter().any(|node| node.cluster.is_ipv6()),
            program: &program,
        };
        for host in &self.plan.hosts {
            let folder = self.folder(host);
            folder::write(&folder, host, &shared).map_err(at(folder))?;
        }
        fs::remove_file(&program).map_err(at(program))?;
        // The join line holds the report key.
        new(COMMANDS_FILE, &self.commands(), 0o600)?;
        Ok(config)
    }

    /// What to type on which machine.
    fn commands(&self) -> String {
        let dir = &self.flags.dir;
        let mut lines = vec![format!(
            "{} is written. What to type is in {}, too.",
            shown(dir),
            shown(&self.path(COMMANDS_FILE))
        )];
        lines.extend(self.plan.remarks.iter().cloned());
        for host in &self.plan.hosts {
            lines.push(format!("\n# {}: {}", host.name, folder::contents(host)));
            let folder = self.folder(host);
            if self.secret.is_none() || is_here(host) {
                lines.push(shell_path(&folder.join("start.sh")));
                continue;
            }
            // scp(1) wants the colons of an address in brackets.
            let to = if host.name.contains(':') { format!("'[{}]'", host.name) } else { host.name.clone() };
            lines.push(format!("scp -rp {} {to}:rakit", shell_path(&folder)));
            lines.push(format!("ssh {} rakit/start.sh", host.name));
        }
        if self.secret.is_some() {
            lines.extend(self.after_the_start());
        }
        lines.join("\n") + "\n"
    }

    fn after_the_start(&self) -> Vec<String> {
        let config = shell_path(&self.path("cluster.toml"));
        let nodes = self.plan.nodes();
        let addresses: Vec<String> = nodes.iter().map(|node| node.public.to_string()).collect();
        vec![
            "\n# To have it start with the machines: in place of start.sh, as root, install.sh makes services for systemd".to_string(),
            "# (ssh -t HOST sudo rakit/install.sh). stop.sh stops what start.sh has started.".to_string(),
            "\n# Does it work?".to_string(),
            format!("rakit check --config {config}"),
            format!("rakit status --config {config}"),
            format!("curl http://{}/1000", addresses[0]),
            "\n# A further server, later: copy the program rakit to it, and paste this line there. It holds the report key, not the"
                .to_string(),
            "# secret: who has it can report loads, but cannot vote.".to_string(),
            format!(
                "./rakit init --name {} --nodes {} --servers \"$(hostname)\" --report-key {} --dir {JOIN_DIRECTORY} && \
                 {JOIN_DIRECTORY}/{HOSTS_DIRECTORY}/\"$(hostname)\"/start.sh",
                self.flags.name,
                shell_word(&addresses.join(",")),
                self.report_key
            ),
        ]
    }
}

/// Whether the host is surely this machine, so that there is nothing to copy.
fn is_here(host: &Host) -> bool {
    let nodes = host.nodes.iter().map(|node| node.public.ip());
    nodes.chain(host.servers.iter().filter_map(|server| server.ip)).any(rakit::config::is_loopback)
}

/// A path as the shell reads it. A program needs a slash to be found.
fn shell_path(path: &Path) -> String {
    shell_word(&shown(path))
}

/// The report key of the join line, checked.
fn report_key(key: &str, cluster: &str) -> Result<String, String> {
    let parsed = Secret::parse(key.as_bytes()).map_err(|wrong| format!("--report-key: {wrong}"))?;
    if parsed.report_key_line(cluster).is_some() {
        // The cluster's secret belongs neither on a server nor into the history of a shell.
        return Err("--report-key: that is no report key, which begins with report-key:; copy the join line that `rakit \
                    init` has printed (commands.txt in its DIR)"
            .to_string());
    }
    Ok(key.trim().to_owned())
}

/// 256 random bits, as hexadecimal digits.
fn new_secret() -> Result<String, String> {
    (0..4).map(|_| random_u64().map(|word| format!("{word:016x}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        init: InitFlags,
        #[command(flatten)]
        log: LogFlags,
    }

    fn init(dir: &Path, words: &[&str]) -> Result<(), Failure> {
        let dir = dir.to_str().expect("a temporary directory has a plain name");
        let line = [&["rakit", "--dir", dir], words].concat();
        let line = Line::try_parse_from(line).map_err(|error| Failure::usage(error.to_string()))?;
        let (nodes, servers) = wanted(&line.init)?;
        let plan = hosts::plan(&nodes, &servers, &lookup).map_err(Failure::usage)?;
        let cluster = NewCluster::new(&line.init, plan)?;
        cluster.refuse_what_is_there()?;
        cluster.write().map(drop).map_err(|(path, error)| Failure::other(format!("{path:?}: {error}")))
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    #[test]
    fn each_machine_gets_what_it_needs_and_only_nodes_get_the_secret() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path().join("new");
        init(&dir, &["--nodes", "10.0.0.1,10.0.0.2:8100", "--servers", "10.0.0.2,10.0.0.3"])
            .expect("written");
        let config = Config::load(&dir.join("cluster.toml")).expect("a good file");
        assert_eq!((config.cluster_name.as_str(), config.nodes.len()), ("lab", 2));
        assert_eq!(config.nodes[1].cluster.to_string(), "10.0.0.2:9100");
        assert_eq!(config.check_exposure(false), Ok(None), "no --insecure is needed");
        let secret = read(dir.join(KEY_FILE));
        for (host, has_node, has_server) in
            [("10.0.0.1", true, false), ("10.0.0.2", true, true), ("10.0.0.3", false, true)]
        {
            let of = |name: &str| dir.join(HOSTS_DIRECTORY).join(host).join(name);
            let key = read(of(KEY_FILE));
            assert_eq!(key == secret, has_node, "{host}");
            assert_eq!(key.starts_with("report-key:"), !has_node, "{host}");
            let mode = fs::metadata(of(KEY_FILE)).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{host}");
            assert_eq!(read(of("cluster.toml")), read(dir.join("cluster.toml")), "{host}");
            Config::load(&of("cluster.toml")).expect("good there, too");
            assert_eq!(of("rakit-node@.service").exists(), has_node, "{host}");
            for name in ["worker.py", "rakit-worker@.service", "rakit-daemon@.service"] {
                assert_eq!(of(name).exists(), has_server, "{host} {name}");
            }
            let mode = fs::metadata(of("rakit")).expect("the program").permissions().mode();
            assert_eq!(mode & 0o111, 0o111, "{host}");
        }
        let commands = read(dir.join("commands.txt"));
        assert!(commands.contains("scp -rp") && commands.contains(" --report-key report-key:"), "{commands}");
        assert!(!commands.contains(secret.trim()), "the secret is shown to nobody");
    }

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["cluster.toml", KEY_FILE, HOSTS_DIRECTORY, COMMANDS_FILE] {
            let path = dir.path().join(name);
            fs::write(&path, "mine").expect("written");
            let refused =
                init(dir.path(), &["--nodes", "10.0.0.1", "--servers", ""]).expect_err("it is there");
            assert_eq!(refused.exit_code, 1);
            assert!(refused.line.contains(name) && refused.line.contains("--dir"), "{}", refused.line);
            assert_eq!(read(path.clone()), "mine");
            assert_eq!(
                fs::read_dir(dir.path()).expect("it is there").count(),
                1,
                "nothing was written beside it"
            );
            fs::remove_file(path).expect("removed");
        }
    }

    /// The join line makes a folder for the new server alone, from the report key alone.
    #[test]
    fn a_further_server_is_set_up_without_the_secret() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = format!("report-key:{}", "ab".repeat(32));
        let nodes = ["--nodes", "10.0.0.1:8000,10.0.0.2:8000", "--servers", "10.0.0.9"];
        let line = [&nodes[..], &["--report-key", &key]].concat();
        init(dir.path(), &line).expect("written");
        let hosts: Vec<_> =
            fs::read_dir(dir.path().join(HOSTS_DIRECTORY)).expect("it is there").flatten().collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(read(hosts[0].path().join(KEY_FILE)).trim(), key);
        assert!(!hosts[0].path().join("rakit-node@.service").exists());
        assert_eq!(Config::load(&hosts[0].path().join("cluster.toml")).expect("good").nodes.len(), 2);
        for wrong in ["report-key:ab", "the whole secret of the cluster"] {
            let line = [&nodes[..], &["--report-key", wrong]].concat();
            let other = tempfile::tempdir().expect("a temporary directory");
            assert_eq!(init(other.path(), &line).expect_err(wrong).exit_code, 2);
        }
    }

    #[test]
    fn two_secrets_differ() {
        let (one, other) = (new_secret().expect("randomness"), new_secret().expect("randomness"));
        assert!(one != other && one.len() == 64);
    }
}
