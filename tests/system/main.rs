//! Tests of the real programs, as a user runs them. `programs/` starts clusters, plays daemons and workers, and makes load.
//!
//! | file | asks |
//! | --- | --- |
//! | `cluster.rs` | do nodes agree when any of them is killed or paused? |
//! | `routing.rs` | which server gets a request, and what if it fails? |
//! | `hostile.rs`, `secret.rs` | what can strangers do, without and with a secret? |
//! | `http_clients.rs` | are curl, ab, wrk, h2load, http.client, HAProxy and nginx served without an error? |
//! | `founding.rs` | do nodes with other members keep apart, and say why? |
//! | `joining.rs` | what does a node do whose directory is new, emptied or damaged? |
//! | `version.rs` | is every other version of the protocol refused by name, on both sides? |
//! | `daemon.rs`, `worker.rs` | do the two programs on a server keep their promises? |
//! | `hosts.rs` | does a class's network of real machines work, and how does it bear cables, links, clocks and strangers? |
//! | `field.rs` | does the daemon follow an address that changes, and a worker behind address translation? |
//! | `in_flight.rs` | do nodes count each other's requests, and forget them in time? |
//! | `services.rs` | do the programs tell systemd when they serve, live and stop, and the journal how grave a line is? |
//! | `init.rs` | does what `rakit init` writes for several machines become a cluster? |
//! | `check.rs` | does `rakit check` see members that the file lacks, and a secret that is changed by halves? |
//! | `up.rs` | does `rakit up` run and end a whole cluster? |
//! | `terminal.rs` | does the live table show the truth in a real terminal of any size, and leave it as it was? |
//! | `orders.rs` | does the cluster follow an operator's orders about servers? |
//! | `members.rs` | does a cluster go on while `rakit members` adds, removes and replaces nodes? |
//! | `page.rs` | does the page show the truth in a real browser, and do its buttons work? |
//! | `play.rs` | does `rakit play` show every step, with keys and without a terminal? |
//! | `config.rs`, `bad_configuration.rs` | which `cluster.toml` is accepted, and what do the programs say to the others? |
//! | `snapshots.rs`, `disk_trouble.rs`, `rolling_restart.rs` | compaction, bad disks, restarts, all under load |
//! | `slow_disk.rs` | does a slow disk cost an election? |
//! | `memory.rs` | what does a node know after its restart, without a majority? |
//! | `metrics.rs` | does `/metrics` please Prometheus, and do the alert rules and the dashboard name what exists? |
//! | `contradiction.rs` | is a node found whose state differs? |
//! | `chaos.rs` | is anything lost under random faults of every kind? |
//!
//! `network.rs` makes machines in network namespaces, for `hosts.rs`, `chaos.rs` and the benchmark.

mod bad_configuration;
mod chaos;
mod check;
mod cluster;
mod config;
mod contradiction;
mod daemon;
mod disk_trouble;
mod field;
mod founding;
mod hostile;
mod hosts;
mod http_clients;
mod in_flight;
mod init;
mod joining;
mod members;
mod memory;
mod metrics;
mod network;
mod orders;
mod page;
mod play;
mod programs;
mod rolling_restart;
mod routing;
mod secret;
mod services;
mod slow_disk;
mod snapshots;
mod terminal;
mod up;
mod version;
mod worker;
