//! A class's network: five nodes, three servers, a client and a stranger, each on a machine of its own (`network.rs`). What
//! runs there is what `rakit init` has written, started by the commands that it prints, signed. Where the system allows no
//! namespaces, each test says SKIPPED.
//!
//! `ssh` and `scp` are two scripts here: a machine's home is a directory, and a command runs in its namespace.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::network::{self, Entered, Network, must};
use crate::programs::{eventually, http};

/// The machines. Each server is told to `rakit init` by its name, and reports the address that it has.
const NODES: [u8; 5] = [1, 2, 3, 4, 5];
const SERVERS: [u8; 3] = [11, 12, 13];
const CLIENT: u8 = 21;
const STRANGER: u8 = 66;

const PUBLIC_PORT: u16 = 8_000;
const CLUSTER_PORT: u16 = 9_000;

/// For sed(1): the configuration's election timeout, raised as that of `ClusterOptions::calm`, and the time without a report
/// after which a server is dead.
const CALM: &str = "s/^election_timeout_ms = .*/election_timeout_ms = [8000, 16000]/; \
    s/^server_timeout_ms = .*/server_timeout_ms = 20000/";

/// So many lines of each log are shown when a test fails.
const LOG_TAIL_LINES: usize = 12;

/// Makes the machine's home the current directory and runs a command there, as ssh(1) does. A file `environment` is read first.
const SSH: &str = "#!/bin/sh
host=$1; shift
cd \"$HOMES/$host\" && if [ -e environment ]; then . ./environment; fi
exec ip netns exec \"h${host##*[.-]}\" sh -c \"$*\"
";

/// Copies a folder there. The program in it is one file, however many machines have it.
const SCP: &str = "#!/bin/sh
mkdir -p \"$HOMES/${3%%:*}\" && exec cp -rpl \"$2\" \"$HOMES/${3%%:*}/${3#*:}\"
";

/// What the machines run.
struct Class {
    network: Network,
    directory: tempfile::TempDir,
    /// What `rakit init` has printed.
    said: String,
}

impl Class {
    /// Five nodes and three servers, started as `rakit init` says, with these environments on some machines.
    fn start(environments: &[(u8, &str)]) -> Self {
        let network = Network::new(NODES.into_iter().chain(SERVERS).chain([CLIENT, STRANGER]));
        let directory = tempfile::tempdir().expect("a directory");
        let mut class = Self { network, directory, said: String::new() };
        let programs = class.path("bin");
        fs::create_dir_all(&programs).expect("our own directory");
        symlink(env!("CARGO_BIN_EXE_rakit"), programs.join("rakit")).expect("our own directory");
        for (name, text) in [("ssh", SSH), ("scp", SCP)] {
            let program = programs.join(name);
            fs::write(&program, text).expect("our own directory");
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("our own file");
        }
        for (id, environment) in environments {
            let home = class.home(*id);
            fs::create_dir_all(&home).expect("our own directory");
            fs::write(home.join("environment"), environment).expect("our own directory");
        }
        let list = |ids: &[u8]| ids.iter().map(|id| Self::name(*id)).collect::<Vec<_>>().join(",");
        let init = format!("rakit init --nodes {} --servers {} --dir class", list(&NODES), list(&SERVERS));
        class.said = class.shell(network::HUB, &init);
        // As an operator does it for machines that stand still at times: this one runs other tests, too. What is tested is
        // who deposes a leader, and not how fast this machine is.
        class.shell(
            network::HUB,
            &format!("sed -i '{CALM}' class/cluster.toml class/hosts/*/cluster.toml; grep -q 8000, class/cluster.toml && grep -q 20000 class/cluster.toml"),
        );
        let lines: Vec<String> = class
            .said
            .lines()
            .filter(|line| line.starts_with("scp ") || line.starts_with("ssh "))
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), 2 * (NODES.len() + SERVERS.len()), "{}", class.said);
        for line in lines {
            class.shell(network::HUB, &line);
        }
        class
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a machine is called on the command line: a node by its address, a server by its name.
    fn name(id: u8) -> String {
        if SERVERS.contains(&id) { format!("lab-{id}") } else { Network::address(id).to_string() }
    }

    fn home(&self, id: u8) -> PathBuf {
        self.path("homes").join(Self::name(id))
    }

    fn public(id: u8) -> SocketAddr {
        SocketAddr::from((Network::address(id), PUBLIC_PORT))
    }

    fn cluster(id: u8) -> SocketAddr {
        SocketAddr::from((Network::address(id), CLUSTER_PORT))
    }

    /// Types a line at a machine, in the directory in which `rakit init` has written.
    fn type_at(&self, id: u8, line: &str) -> Output {
        let mut command = if id == network::HUB {
            std::process::Command::new("sh")
        } else {
            self.network.command(id, "sh")
        };
        let search = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-c", line])
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{search}", self.path("bin").display()))
            .env("HOMES", self.path("homes"))
            .stdin(Stdio::null());
        command.output().expect("there is a shell")
    }

    /// The same for a line that must succeed; what it printed.
    #[track_caller]
    fn shell(&self, id: u8, line: &str) -> String {
        let output = self.type_at(id, line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the client gets from a node: the head and the body.
    #[track_caller]
    fn client_asks(&self, id: u8, n: u32) -> String {
        self.shell(CLIENT, &format!("curl -sSi -m 20 http://{}/{n}", Self::public(id)))
    }

    fn status(id: u8) -> Option<Value> {
        Some(http::get(Self::public(id), "/status").ok()?.json())
    }

    /// The sum of all requests that a node has refused.
    fn refusals(id: u8) -> u64 {
        let page = http::get(Self::public(id), "/metrics").expect("the node serves").body;
        let values = page.lines().filter(|line| line.starts_with("rakit_refusals_total{"));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// The leader and its term, if these nodes agree on one.
    fn agreed(ids: &[u8]) -> Option<(u8, u64)> {
        let statuses: Vec<Value> = ids.iter().map(|id| Self::status(*id)).collect::<Option<_>>()?;
        let first = statuses.first()?;
        let same =
            statuses.iter().all(|one| one["leader"] == first["leader"] && one["term"] == first["term"]);
        let leader = u8::try_from(first["leader"].as_u64()?).ok()?;
        same.then_some((leader, first["term"].as_u64()?))
    }

    /// Waits until all nodes agree on a leader and see all servers at work: the leader and its term.
    #[track_caller]
    fn whole(&self) -> (u8, u64) {
        eventually("all nodes agree, and all servers work", || {
            let at_work = |id: u8| {
                let status = Self::status(id)?;
                let working = |one: &&Value| one["alive"] == true && one["worker_up"] == true;
                let count = status["servers"].as_array()?.iter().filter(working).count();
                (count == SERVERS.len()).then_some(())
            };
            NODES.iter().all(|id| at_work(*id).is_some()).then_some(())?;
            Self::agreed(&NODES)
        })
    }

    /// A server's last report, as a node knows it.
    fn stamp(id: u8, server: u8) -> Option<(u64, u64)> {
        let status = Self::status(id)?;
        let name = Self::name(server);
        let known = status["servers"].as_array()?.iter().find(|one| one["id"] == name)?;
        Some((known["epoch"].as_u64()?, known["sequence"].as_u64()?))
    }

    /// Waits until so many more reports of every server are committed, and applied at this node.
    #[track_caller]
    fn more_reports(&self, id: u8, more: u64) {
        let known = SERVERS.map(|server| eventually("the server is known", || Self::stamp(id, server)));
        for (server, (epoch, sequence)) in SERVERS.into_iter().zip(known) {
            eventually("reports go on", || {
                Self::stamp(id, server).filter(|now| *now >= (epoch, sequence + more))
            });
        }
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for id in NODES {
            eprintln!("--- node {id}: {:?}", Self::status(id).map(|status| status.to_string()));
        }
        for id in NODES.into_iter().chain(SERVERS) {
            for entry in fs::read_dir(self.home(id).join("rakit/logs")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n    ");
                eprintln!("--- {}\n    {tail}", entry.path().display());
            }
        }
    }
}

/// Runs a test inside namespaces of its own, or says why not.
#[track_caller]
fn on_hosts(test: &str, run: fn()) {
    match network::enter(&format!("hosts::{test}")) {
        Entered::Inside => run(),
        Entered::Passed => {}
        Entered::Refused(why) => eprintln!("SKIPPED: hosts::{test}: no machines can be made here: {why}"),
    }
}

fn others(id: u8) -> Vec<u8> {
    NODES.into_iter().filter(|other| *other != id).collect()
}

// ------------------------------------------------------------------------------------------------ cables and links

/// Too little for the speech of a healthy cluster at once, enough for it on average.
const SLOW_LINK: &str = "256kbit";

#[test]
fn what_init_prints_leads_to_a_prime_and_a_pulled_cable_costs_one_election() {
    on_hosts("what_init_prints_leads_to_a_prime_and_a_pulled_cable_costs_one_election", || {
        let class = Class::start(&[]);
        let (leader, term) = class.whole();

        // The last lines that `rakit init` prints for the first day, as they stand there, typed at the client's machine.
        let line = |begins: &str| {
            let found = class.said.lines().find(|line| line.starts_with(begins));
            found.unwrap_or_else(|| panic!("no {begins} in {}", class.said)).to_owned()
        };
        // A busy machine may have a slow disk for a moment, which is a finding.
        eventually("all is well", || {
            class.type_at(CLIENT, &line("rakit check ")).status.success().then_some(())
        });
        eventually("the nodes agree", || {
            class.type_at(CLIENT, &line("rakit status ")).status.success().then_some(())
        });
        assert_eq!(class.shell(CLIENT, &line("curl ")), "7919\n");
        for id in NODES {
            let answer = class.client_asks(id, 1_000);
            assert!(answer.contains("X-Rakit-Server: lab-") && answer.ends_with("\r\n7919\n"), "{answer}");
        }

        class.network.cable(leader, false);
        let rest = others(leader);
        let (second, later) = eventually("another leads", || {
            Class::agreed(&rest).filter(|(id, new)| *id != leader && *new > term)
        });
        for id in &rest {
            let answer = class.client_asks(*id, 1_000);
            assert!(answer.ends_with("\r\n7919\n"), "{answer}");
        }
        class.more_reports(second, 2);
        // Nobody hears the old leader. It must know by itself that it leads no longer.
        let alone = format!("ssh {0} 'curl -sS -m 20 http://{0}:8000/status'", Class::name(leader));
        eventually("it gave up", || {
            let status: Value = serde_json::from_str(&class.shell(network::HUB, &alone)).ok()?;
            (status["role"] != "leader" && status["leader"].is_null()).then_some(())
        });

        class.network.cable(leader, true);
        let (third, last) = class.whole();
        assert_eq!((third, last), (second, later), "a cable that is put back costs no election");
        class.more_reports(leader, 2);
    });
}

#[test]
fn one_way_loss_ends_no_working_leadership_and_a_slow_link_neither() {
    on_hosts("one_way_loss_ends_no_working_leadership_and_a_slow_link_neither", || {
        let mut class = Class::start(&[]);
        let (leader, term) = class.whole();

        // One follower does not hear the leader. The others do, so they do not vote for it.
        let deaf = others(leader)[0];
        class.network.cut(leader, deaf);
        eventually("it misses the leader", || {
            Class::status(deaf).filter(|status| status["role"] == "pre-candidate")
        });
        // It says so once it has missed a leader for longer than the upper election timeout, and serves all the time.
        eventually("it says how old its state is", || {
            let answer = class.client_asks(deaf, 1_000);
            assert!(answer.ends_with("\r\n7919\n"), "{answer}");
            answer.contains("X-Rakit-Stale-Ms: ").then_some(())
        });
        class.more_reports(leader, 2);
        class.network.mend(leader, deaf);
        assert_eq!(class.whole(), (leader, term));

        // Nobody hears the leader, which hears all: it is none.
        let rest = others(leader);
        for id in &rest {
            class.network.cut(leader, *id);
        }
        let (second, later) = eventually("another leads", || {
            Class::agreed(&rest).filter(|(id, new)| *id != leader && *new > term)
        });
        class.more_reports(second, 2);
        for id in &rest {
            class.network.mend(leader, *id);
        }
        assert_eq!(class.whole(), (second, later));

        // A machine is away for a while and comes back over a slow link.
        let far = others(second)[0];
        class.network.cable(far, false);
        class.more_reports(second, 4);
        let slow = format!("root tbf rate {SLOW_LINK} burst 4kb latency 400ms");
        let made = class.type_at(
            network::HUB,
            &format!("tc qdisc add dev v{far} {slow} && tc -n h{far} qdisc add dev eth0 {slow}"),
        );
        if !made.status.success() {
            eprintln!("SKIPPED: the slow link: {}", String::from_utf8_lossy(&made.stderr));
        }
        class.network.cable(far, true);
        assert_eq!(class.whole(), (second, later), "a slow link deposes nobody");
        class.more_reports(far, 4);
        let answer = class.client_asks(far, 1_000);
        assert!(answer.ends_with("\r\n7919\n"), "{answer}");
        // A page that is longer than the link's burst: it is full for a moment, and what the node says waits behind the page.
        let page = class.shell(CLIENT, &format!("curl -sS -m 60 http://{}/metrics", Class::public(far)));
        assert!(page.len() > 2 * 4_096, "{} bytes fit into the burst", page.len());
        assert_eq!(class.whole(), (second, later), "a slow link deposes nobody");
        if made.status.success() {
            let told = class.shell(network::HUB, &format!("tc -n h{far} -s qdisc show dev eth0"));
            assert!(!told.contains("overlimits 0 "), "the link was never the limit: {told}");
        }
    });
}

// ---------------------------------------------------------------------------------------------- clocks and addresses

#[test]
fn clocks_hours_apart_and_an_address_that_changes_cost_nothing() {
    on_hosts("clocks_hours_apart_and_an_address_that_changes_cost_nothing", || {
        // libfaketime of the package `faketime`, for the machine of a node and that of a server. The monotonic clock is a
        // machine's own affair, and is left alone.
        let library = fs::read_dir("/usr/lib")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists());
        let shifted = |hours: &str| {
            library.as_ref().map(|library| {
                format!(
                    "export LD_PRELOAD={} FAKETIME={hours}h DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1\n",
                    library.display()
                )
            })
        };
        let (ahead, behind) = (shifted("+7"), shifted("-5"));
        let class = match (&ahead, &behind) {
            (Some(ahead), Some(behind)) => Class::start(&[(2, ahead), (4, behind), (12, ahead)]),
            _ => {
                eprintln!("SKIPPED: clocks hours apart: there is no libfaketime (package faketime)");
                Class::start(&[])
            }
        };
        class.whole();
        if ahead.is_some() {
            eventually("the clocks are apart", || {
                let check = class.type_at(network::HUB, "rakit check --config class/cluster.toml");
                let said = String::from_utf8_lossy(&check.stdout).into_owned();
                said.contains("the clock of node 2 is 25").then_some(())
            });
            // The node from the future leads, then one from the past.
            for leader in [2, 4] {
                // A target that does not catch up in time is a refusal, and the order is given again.
                eventually("it leads", || {
                    let order = format!("rakit transfer --config class/cluster.toml --to {leader}");
                    class.type_at(network::HUB, &order).status.success().then_some(())?;
                    Class::agreed(&NODES).filter(|(id, _)| *id == leader)
                });
                class.more_reports(leader, 2);
            }
            // The server's clock is set right: its new epoch is hours before the old one.
            let (before, _) = eventually("it is known", || Class::stamp(4, 12));
            fs::write(class.home(12).join("environment"), "").expect("our own file");
            class.shell(network::HUB, "ssh lab-12 rakit/stop.sh; ssh lab-12 rakit/start.sh");
            eventually("its new epoch is newer than the old one", || {
                Class::stamp(4, 12).filter(|(epoch, _)| *epoch > before)
            });
            class.more_reports(4, 2);
            let (leader, _) = class.whole();
            assert_eq!(leader, 4);
        }

        // Another lease of DHCP. The daemon was started without an address, so it follows.
        must("ip -n h13 addr del 10.77.0.13/24 dev eth0; ip -n h13 addr add 10.77.0.113/24 dev eth0");
        for id in NODES {
            eventually("the new address is known", || {
                let status = Class::status(id)?;
                let servers = status["servers"].as_array()?.clone();
                let moved = |one: &Value| one["id"] == "lab-13" && one["worker"] == "10.77.0.113:13337";
                servers.iter().any(moved).then_some(())
            });
        }
        class.whole();
        // The two others stop, so the next prime comes from there.
        class.shell(network::HUB, "ssh lab-11 rakit/stop.sh; ssh lab-12 rakit/stop.sh");
        eventually("it answers at its new address", || {
            let answer = class.client_asks(1, 1_000);
            (answer.contains("X-Rakit-Server: lab-13") && answer.ends_with("\r\n7919\n")).then_some(())
        });
    });
}

// ------------------------------------------------------------------------------------------------------ the stranger

/// More connections than any address of a node takes.
const HELD_CONNECTIONS: usize = 2_100;

/// Rounds of false requests to every node.
const ROUNDS: usize = 20;

const STRANGER_PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/hosts/stranger.py");

#[test]
fn a_stranger_who_posts_votes_replays_and_floods_changes_nothing() {
    on_hosts("a_stranger_who_posts_votes_replays_and_floods_changes_nothing", || {
        let class = Class::start(&[]);
        let (leader, term) = class.whole();
        let victim = others(leader)[0];

        // He listens at the cable of a node, and has what a daemon and the leader have said there.
        let captured = class.shell(
            network::HUB,
            &format!(
                "python3 {STRANGER_PROGRAM} capture v{victim} {CLUSTER_PORT} /report /raft/append-entries"
            ),
        );
        let captured: Value = serde_json::from_str(&captured).expect("JSON");
        let vote =
            json!({"term": 9_000, "candidate_id": victim, "last_log_index": 9_000, "last_log_term": 9_000});
        let post = |path: &str, body: &Value| {
            let body = body.to_string();
            format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let evil = json!({"server": "evil", "worker": format!("{}:13337", Network::address(STRANGER)), "cpu": 0.0,
            "cores": 64, "epoch": 1, "sequence": 1, "worker_up": true, "forward": true});
        let rpc = |name: &str, body: &Value| json!({"incarnation": 9, "request": {name: body}});
        let append = json!({"term": 9_000, "leader_id": victim, "prev_log_index": 0, "prev_log_term": 0, "entries": [],
            "leader_commit": 9_000});
        let requests = [
            post("/report", &evil),
            post("/raft/pre-vote", &rpc("pre_vote", &vote)),
            post("/raft/request-vote", &rpc("request_vote", &vote)),
            post("/raft/append-entries", &rpc("append_entries", &append)),
            captured["/report"].as_str().expect("captured").to_owned(),
            captured["/raft/append-entries"].as_str().expect("captured").to_owned(),
        ];
        let mut said = Vec::new();
        for _ in 0..ROUNDS {
            for id in NODES {
                for request in &requests {
                    said.push(json!([Network::address(id).to_string(), CLUSTER_PORT, request]));
                }
            }
        }
        let before: Vec<u64> = NODES.iter().map(|id| Class::refusals(*id)).collect();
        fs::write(class.path("said.json"), Value::from(said.clone()).to_string()).expect("our own directory");
        let file = class.path("said.json").display().to_string();
        let statuses = class.shell(STRANGER, &format!("python3 {STRANGER_PROGRAM} post < '{file}'"));
        let statuses: Value = serde_json::from_str(&statuses).expect("JSON");
        assert_eq!(statuses, json!({"401": said.len()}), "each is refused");
        for (id, before) in NODES.iter().zip(before) {
            let counted = usize::try_from(Class::refusals(*id) - before).expect("a few hundred");
            assert!(counted >= ROUNDS * requests.len(), "node {id} counts each: {counted}");
        }
        assert_eq!(class.whole(), (leader, term));

        // He opens all the connections that he can, at both addresses of the leader, and keeps them.
        let mut flood = class
            .network
            .command(STRANGER, "python3")
            .args([STRANGER_PROGRAM, "hold", &HELD_CONNECTIONS.to_string()])
            .args([Class::cluster(leader).to_string(), Class::public(leader).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        BufReader::new(flood.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "held\n");
        // A restarted daemon and a restarted node need new connections to that leader.
        class.shell(network::HUB, "ssh lab-11 rakit/stop.sh; ssh lab-11 rakit/start.sh");
        let name = Class::name(victim);
        class.shell(network::HUB, &format!("ssh {name} rakit/stop.sh; ssh {name} rakit/start.sh"));
        assert_eq!(class.whole(), (leader, term));
        class.more_reports(leader, 2);
        for id in NODES {
            let answer = class.client_asks(id, 1_000);
            assert!(answer.ends_with("\r\n7919\n"), "{answer}");
        }
        flood.stdin.take().expect("piped").flush().expect("a pipe");
        assert!(flood.wait().expect("our own child").success());

        assert_eq!(Class::agreed(&NODES), Some((leader, term)), "one leader from the beginning to the end");
        for id in NODES {
            let servers = Class::status(id).expect("it serves")["servers"].to_string();
            assert!(!servers.contains("evil"), "{servers}");
        }
    });
}
