//! Random faults on real processes: the programs as they are installed, while clients ask for primes and daemons report.
//! docs/testing.md lists the faults, docs/test-results.md the results.
//!
//! ```text
//! cargo test --test system chaos::                                  # a short run
//! RAKIT_CHAOS_SECONDS=600 cargo test --release --test system chaos::   # as long as you like
//! RAKIT_CHAOS_SEED=17 cargo test --test system chaos::              # the same plan of faults again
//! ```
//!
//! What must hold:
//! - every report that was acknowledged is accounted for, at its index and term, or by a newer one of its server;
//! - in each term, at most one node's log says that it led;
//! - at the end, the list of members is what was acknowledged to the operator who changed them meanwhile, on all of them;
//! - at equal applied indexes the digests are equal, at every look, and at the end on all nodes;
//! - no request failed on a healthy node: one that runs, is not paused, and is not cut off from the workers; whatever
//!   its peers suffer, and whether or not there is a leader;
//! - no node ends by itself, but one whose disk is full or fails; nothing panics; no honest message is refused.
//!
//! The seed fixes the plan, not the outcome: real processes run as the kernel pleases. The simulator is the place for
//! repeatable histories; this is the place for real sockets, real disks and real signals.

mod clients;
mod cluster;
mod dice;
mod faults;
mod members;
mod place;
mod verdict;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clients::{Condition, Health, Reporter, Suffering, ask_for_primes, lock};
use cluster::Cluster;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use dice::Dice;
use faults::{Fault, Kind};
use members::Members;
use place::{NODES, NodeId, Place};
use verdict::Witness;

use crate::network::{self, Entered};
use crate::programs::tracer;

/// How long faults go on, unless RAKIT_CHAOS_SECONDS says otherwise. Start and end come on top.
const SECONDS: u64 = 30;

/// Reporters that note every promise.
const REPORTERS: usize = 4;

/// So many faults at once.
const ACTIVE_MAX: usize = 3;

/// A fault lasts so many milliseconds ...
const FAULT_MS: (u64, u64) = (300, 2_500);

/// ... and the next one begins after so many: often before the cluster has got over the one before.
const PAUSE_MS: (u64, u64) = (200, 1_200);

/// How often all connections between nodes are closed before the faults begin, ...
const CLOSE_ROUNDS: usize = 5;

/// ... and the pause between two such faults. It is longer than the pause of the leader watch, so that each fault
/// closes a watch.
const CLOSE_PAUSE: Duration = Duration::from_millis(500);

/// How long a node with a full or failing disk may go on, if it has nothing to write. It is killed then.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a cluster may take to be whole again after the last fault. It needs a second or two; only a failure waits
/// longer.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The pause between two looks at a condition that can only be asked for.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long nobody led after the leader was killed, paused or unplugged, as far as it was seen. It is printed, not judged.
#[derive(Default)]
struct Vacancies {
    /// The fault, its beginning, and who led. Forgotten when anything else happens before another one leads.
    open: Option<(Kind, Instant, NodeId)>,
    milliseconds: BTreeMap<Kind, Vec<u128>>,
}

impl Vacancies {
    fn begin(&mut self, kind: Kind, leader: Option<NodeId>) {
        let of_leader = matches!(kind, Kind::KillLeader | Kind::PauseLeader | Kind::UnplugLeader);
        self.open = leader.filter(|_| of_leader).map(|leader| (kind, Instant::now(), leader));
    }

    fn look(&mut self, leader: Option<NodeId>) {
        if let Some((kind, since, _)) =
            self.open.take_if(|(_, _, old)| leader.is_some_and(|leader| leader != *old))
        {
            self.milliseconds.entry(kind).or_default().push(since.elapsed().as_millis());
        }
    }

    fn tell(mut self) {
        for (kind, milliseconds) in &mut self.milliseconds {
            milliseconds.sort_unstable();
            let (count, max) = (milliseconds.len(), milliseconds[milliseconds.len() - 1]);
            let median = milliseconds[count / 2];
            let look = 2 * LOOK_AGAIN.as_millis();
            say(&format!(
                "{kind:?}, {count} times alone: another led after {median} ms (median), {max} ms at most, seen {look} ms late at most"
            ));
        }
    }
}

/// A line for a person, past the test harness, which swallows what a passing test prints.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {line}");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    match network::enter("chaos::nothing_acknowledged_is_lost_whatever_happens") {
        Entered::Inside => run(Place::Namespaces),
        Entered::Passed => {}
        Entered::Refused(why) => {
            say(&format!("SKIPPED: cuts between hosts and full disks: no namespaces here: {why}"));
            say("kills and pauses go on, on loopback");
            run(Place::Loopback);
        }
    }
}

fn run(place: Place) {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let seed = number("RAKIT_CHAOS_SEED").unwrap_or_else(|| clock() % 1_000_000);
    let seconds = number("RAKIT_CHAOS_SECONDS").unwrap_or(SECONDS);
    say(&format!("seed {seed} (RAKIT_CHAOS_SEED), {seconds} s of faults (RAKIT_CHAOS_SECONDS), {place:?}"));
    let mut directory = tempfile::Builder::new().prefix("rakit-chaos-").tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("logs")).expect("an empty directory");
    // If anything below panics, the directory stays: it holds the logs that show the reason.
    directory.disable_cleanup(true);
    let complaints = play(place, directory.path(), Dice::new(seed), Duration::from_secs(seconds));
    assert!(
        complaints.is_empty(),
        "seed {seed}: {} violations; logs in {}\n{}",
        complaints.len(),
        directory.path().display(),
        complaints.join("\n")
    );
    directory.disable_cleanup(false);
}

/// The whole run. Returns all violations.
fn play(place: Place, directory: &Path, mut dice: Dice, length: Duration) -> Vec<String> {
    let began = Instant::now();
    let mut cluster = Cluster::new(place, directory);
    let conditions: BTreeMap<NodeId, Condition> = (1..=NODES).map(|id| (id, Condition::new())).collect();
    let (violations, complaints) = unbounded();
    let shared = Suffering {
        over: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        excused: AtomicU64::new(0),
        promises: Mutex::default(),
        violations,
    };
    for id in 1..=NODES {
        cluster.start(id);
        conditions[&id].set(Health::Recovering);
    }
    cluster.start_servers();
    let publics: BTreeMap<NodeId, _> = (1..=NODES).map(|id| (id, cluster.hosts.public(id))).collect();
    let witness = Witness::default();
    let members = Members::new(directory, &cluster.hosts);

    let mut found = std::thread::scope(|scope| {
        // However this scope is left, its threads end.
        let _over = SetOnDrop(&shared.over);
        for (id, condition) in &conditions {
            let (address, dice, shared) = (publics[id], dice.split(), &shared);
            scope.spawn(move || ask_for_primes(*id, address, condition, shared, dice));
        }
        let mut reporters = Vec::new();
        for number in 0..REPORTERS {
            let reporter = Reporter::new(
                format!("chaos-{number}"),
                cluster.hosts.worker(200),
                cluster.cluster_addresses(),
                cluster::SECRET,
                dice.split(),
            );
            let (conditions, shared) = (&conditions, &shared);
            reporters.push(scope.spawn(move || reporter.run(conditions, shared)));
        }
        scope.spawn(|| witness.watch(&publics, &shared));

        let mut found: Vec<String> = members.begin().err().into_iter().collect();
        if found.is_empty() {
            found = wait_until_well(&mut cluster, &conditions, &complaints);
        }
        if found.is_empty() && place == Place::Namespaces {
            found = close_connections(&cluster, &witness);
        }
        if found.is_empty() {
            // An operator changes members meanwhile. What he has begun at the end, he ends in peace.
            let ends = AtomicBool::new(false);
            found = std::thread::scope(|scope| {
                let _ends = SetOnDrop(&ends);
                let (dice_of_operator, violations) = (dice.split(), &shared.violations);
                scope.spawn(|| members.change(dice_of_operator, &ends, violations));
                let plan = Plan { length, place };
                torment(&mut cluster, &members, &conditions, &witness, &complaints, &mut dice, plan)
            });
        }
        if found.is_empty() {
            found = members.judge(&complaints);
        }
        if found.is_empty() {
            found = wait_until_well(&mut cluster, &conditions, &complaints);
        }
        shared.over.store(true, Ordering::Relaxed);
        let mut last = true;
        for reporter in reporters {
            // One more of each: with it, everything before must be in the state.
            let mut reporter = reporter.join().expect("a reporter does not panic");
            let deadline = Instant::now() + PATIENCE;
            while found.is_empty() && last && !reporter.report(&conditions, &shared) {
                last = Instant::now() < deadline;
            }
        }
        if !last {
            found.push("nothing was committed any more after all faults had ended".into());
        }
        found
    });
    cluster.stop_servers();
    found.extend(complaints.try_iter());
    let promises = std::mem::take(&mut *lock(&shared.promises));
    if found.is_empty() {
        found = verdict::judge(&mut cluster, &publics, &promises);
    }
    found.extend(verdict::read_logs(&cluster));
    say(&format!(
        "{} requests answered, {} failed on sick nodes, none on a healthy one; {} reports acknowledged; {} terms, {}; \
         {} s in all",
        shared.answered.load(Ordering::Relaxed),
        shared.excused.load(Ordering::Relaxed),
        promises.len(),
        verdict::terms_led(&cluster).len(),
        witness.summary(),
        began.elapsed().as_secs(),
    ));
    if !found.is_empty() && place == Place::Namespaces {
        // The disks vanish with the namespace.
        let _ = Command::new("cp").arg("-a").arg(directory.join("data")).arg(directory.join("kept")).status();
    }
    found
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until every node has answered a client since its last fault. A complaint ends the wait.
fn wait_until_well(
    cluster: &mut Cluster,
    conditions: &BTreeMap<NodeId, Condition>,
    complaints: &Receiver<String>,
) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sick: Vec<_> = conditions
            .iter()
            .filter(|(_, condition)| condition.get().0 != Health::Healthy)
            .map(|(id, _)| id)
            .collect();
        if sick.is_empty() {
            return Vec::new();
        }
        if let Ok(complaint) = complaints.recv_timeout(LOOK_AGAIN) {
            return vec![complaint];
        }
        if let Some((id, status)) = cluster.ended().first() {
            return vec![format!("node {id} ended by itself: {status}")];
        }
        if Instant::now() > deadline {
            return vec![format!("nodes {sick:?} have no fault any more and do not answer")];
        }
    }
}

/// A closed connection to a living leader must change nothing: as long as no process has died, no node may believe that one
/// has. (The core's tests show that a wrong belief would do no harm.)
fn close_connections(cluster: &Cluster, witness: &Witness) -> Vec<String> {
    for _ in 0..CLOSE_ROUNDS {
        let before = witness.leader();
        for id in 1..=NODES {
            cluster.hosts.close_connections(id);
        }
        // The pace of this fault: the followers get time to watch the leader again.
        std::thread::sleep(CLOSE_PAUSE);
        if before != witness.leader() {
            say(
                "the leader changed while connections were closed: a busy machine; the logs tell whether it was taken for dead",
            );
        }
    }
    (1..=NODES)
        .filter(|id| verdict::log_text(cluster, *id).contains("seems to have died"))
        .map(|id| format!("nobody had died, but node {id} says so in its log"))
        .collect()
}

/// How long faults go on at least, and where.
#[derive(Clone, Copy)]
struct Plan {
    length: Duration,
    place: Place,
}

/// One fault after the other, and some at once, until the time is over and every kind has had its turn.
fn torment(
    cluster: &mut Cluster,
    members: &Members,
    conditions: &BTreeMap<NodeId, Condition>,
    witness: &Witness,
    complaints: &Receiver<String>,
    dice: &mut Dice,
    Plan { length, place }: Plan,
) -> Vec<String> {
    let traced = tracer::is_possible();
    if let Err(why) = &traced {
        say(&format!("SKIPPED: a failing fsync: strace cannot attach itself to a process here: {why}"));
    }
    let kinds = Kind::deck(place, traced.is_ok());
    let (began, mut deck) = (Instant::now(), Vec::new());
    let mut fired: BTreeMap<Kind, u32> = kinds.iter().map(|kind| (*kind, 0)).collect();
    let deck_of_disk = fired.keys().copied().filter(|kind| kind.is_of_the_disk());
    let mut disk_deaths: BTreeMap<Kind, u32> = deck_of_disk.map(|kind| (kind, 0)).collect();
    let mut active: Vec<Fault> = Vec::new();
    let mut ends: Vec<Instant> = Vec::new();
    let mut next = began;
    let mut found = Vec::new();
    let mut vacancies = Vacancies::default();
    loop {
        let now = Instant::now();
        vacancies.look(witness.leader());
        let learnt = fired.values().chain(disk_deaths.values()).all(|count| *count > 0)
            && members.missing().is_empty();
        let done = now >= began + length && learnt;
        // If the leader is never found healthy, the test must end all the same.
        if done || now >= began + length + PATIENCE {
            break;
        }
        // A node whose disk fails gets some time to notice.
        let unnoticed = |fault: &Fault| fault.kind.is_of_the_disk() && cluster.runs(fault.sick[0]);
        let due = |(fault, end): (&Fault, &Instant)| {
            now >= if unnoticed(fault) { *end + DISK_PATIENCE } else { *end }
        };
        if let Some(at) = active.iter().zip(&ends).position(due) {
            ends.remove(at);
            vacancies.open = None;
            faults::end(&active.remove(at), cluster, members, conditions);
            continue;
        }
        if now >= next && active.len() < ACTIVE_MAX {
            if deck.is_empty() {
                deck = kinds.clone();
                dice.shuffle(&mut deck);
            }
            let wish = deck.pop().expect("just filled");
            let leader = witness.leader();
            match faults::begin(wish, leader, &active, cluster, members, conditions, dice) {
                Some(fault) => {
                    vacancies.begin(wish, leader.filter(|_| active.is_empty()));
                    *fired.entry(wish).or_default() += 1;
                    active.push(fault);
                    ends.push(now + dice.millis(FAULT_MS.0, FAULT_MS.1));
                    next = now + dice.millis(PAUSE_MS.0, PAUSE_MS.1);
                }
                // The nodes that this fault needs are faulty already: try again when there are fewer faults.
                None => {
                    let at = dice.below(deck.len() + 1);
                    deck.insert(at, wish);
                    if deck.len() == 1 || active.len() > 1 {
                        next = ends.iter().min().copied().unwrap_or(now) + LOOK_AGAIN;
                    }
                }
            }
        }
        match complaints.recv_timeout(LOOK_AGAIN) {
            Ok(complaint) => found.push(complaint),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is held by the caller"),
        }
        for (id, status) in cluster.ended() {
            let of_disk = active.iter().find(|fault| fault.kind.is_of_the_disk() && fault.sick.contains(&id));
            match of_disk {
                // It is started again when there is room, or the disk is sound.
                Some(fault) if status.code() == Some(1) => *disk_deaths.entry(fault.kind).or_default() += 1,
                _ => found.push(format!("node {id} ended by itself: {status}")),
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    for fault in active.drain(..) {
        faults::end(&fault, cluster, members, conditions);
    }
    vacancies.tell();
    say(&format!("faults: {fired:?}; nodes that their disk ended: {disk_deaths:?}"));
    say(&members.summary());
    let none = |counts: &BTreeMap<Kind, u32>| -> Vec<Kind> {
        counts.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| *kind).collect()
    };
    let never = members.missing();
    if found.is_empty() && !never.is_empty() {
        found.push(format!("these changes of members were never acknowledged: {never:?}"));
    }
    let (missing, unnoticed) = (none(&fired), none(&disk_deaths));
    if found.is_empty() && !missing.is_empty() {
        found.push(format!("these faults never happened, so nothing was learnt about them: {missing:?}"));
    }
    if found.is_empty() && !unnoticed.is_empty() {
        found.push(format!("no node noticed these, so nothing was learnt about them: {unnoticed:?}"));
    }
    found
}
