//! Measures how many ticks a process and its living descendants used, from `/proc/PID/stat`
//! (proc_pid_stat(5)).
//!
//! `meter.rs` uses it when several servers share a machine (`rakit up`), where the machine's load would be
//! the same for all, and `activity.rs` for every worker.
//!
//! Two readings of the same tree of processes are compared. When a child ends and its parent waits for it,
//! all its ticks move into the parent's `cutime` and `cstime`, also those that an earlier reading counted. So
//! the ticks of processes that left the tree are subtracted from the increase.
use std::collections::BTreeMap;

use procfs::process::{Process, Stat, all_processes};
use procfs::{Current, Uptime};

/// The most processes of a tree: more than any server has. It stops a walk over a tree that grows while it is
/// read.
const PROCESSES_MAX: usize = 4_096;

/// The state of a thread that runs, or would if it got a processor: proc_pid_stat(5).
const RUNNABLE: char = 'R';

/// A process. The kernel reuses ids, so the start time (in ticks since boot) is part of the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessIdentity {
    pub(super) pid: i32,
    pub(super) started: u64,
}

impl ProcessIdentity {
    /// The process that has this id now; `None` when there is none, or it is a zombie.
    pub(super) fn of(pid: i32) -> Option<Self> {
        stat(pid).filter(is_living).map(|stat| Self { pid, started: stat.starttime })
    }
}

/// What one process used until now, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    /// Ticks of the process itself: utime + stime.
    own: u64,
    /// Ticks of its children that ended and that it waited for: cutime + cstime.
    reaped: u64,
}

/// One reading of a process and its living descendants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    /// The process at its top.
    root: ProcessIdentity,
    processes: BTreeMap<ProcessIdentity, Ticks>,
    /// Whether a process of one thread was running, or would have been if it had got a processor.
    is_one_runnable: bool,
    /// The processes of several threads. Of these, the state in `/proc/PID/stat` is that of the first thread only.
    threaded: Vec<i32>,
    /// When it was read, in ticks since boot: the clock that [`ProcessIdentity::started`] is on.
    read_at: u64,
}

/// Reads the tree under `root`; `None` when that process has ended, also if another one has its id now.
pub(super) fn read(root: ProcessIdentity) -> Option<Tree> {
    // Taken before the walk, so that a process that starts during the walk counts as new in the next reading.
    let read_at = ticks_since_boot();
    let root_stat = stat(root.pid).filter(is_living).filter(|stat| stat.starttime == root.started)?;
    let (mut processes, mut is_one_runnable, mut threaded) = (BTreeMap::new(), false, Vec::new());
    let mut waiting = vec![root_stat];
    let mut parents = ParentScan::default();
    while let Some(stat) = waiting.pop() {
        for child in children(&stat, &mut parents) {
            if processes.len() + waiting.len() < PROCESSES_MAX {
                // A process that ended since it was listed is skipped. Its parent's ticks include its own.
                waiting.extend(self::stat(child).filter(|child| child.ppid == stat.pid));
            }
        }
        let ticks = Ticks {
            own: stat.utime.saturating_add(stat.stime),
            reaped: u64::try_from(stat.cutime.saturating_add(stat.cstime)).unwrap_or(0),
        };
        match stat.num_threads {
            1 => is_one_runnable |= stat.state == RUNNABLE,
            _ => threaded.push(stat.pid),
        }
        processes.insert(ProcessIdentity { pid: stat.pid, started: stat.starttime }, ticks);
    }
    Some(Tree { root, processes, is_one_runnable, threaded, read_at })
}

impl Tree {
    /// The process at its top.
    pub(super) fn root(&self) -> ProcessIdentity {
        self.root
    }

    /// How many ticks the tree used since `before`. Never negative, and in doubt too low, so that starts and
    /// ends of processes cannot make an idle server look busy.
    pub(super) fn ticks_since(&self, before: &Self) -> u64 {
        let mut used = 0_u64;
        let mut appeared = 0_u64;
        for (identity, now) in &self.processes {
            match before.processes.get(identity) {
                Some(then) => {
                    used = used.saturating_add(now.own.saturating_sub(then.own));
                    appeared = appeared.saturating_add(now.reaped.saturating_sub(then.reaped));
                }
                // Started since `before`: all its ticks are new.
                None if identity.started >= before.read_at => {
                    used = used.saturating_add(now.own).saturating_add(now.reaped);
                }
                // Started earlier, but new in the tree: its earlier ticks are unknown.
                None => {}
            }
        }
        let vanished = before
            .processes
            .iter()
            .filter(|(identity, _)| !self.processes.contains_key(identity))
            .fold(0_u64, |sum, (_, then)| sum.saturating_add(then.own).saturating_add(then.reaped));
        used.saturating_add(appeared.saturating_sub(vanished))
    }

    /// Whether a thread of one of these processes runs, or would if it got a processor.
    pub(super) fn is_runnable(&self) -> bool {
        self.is_one_runnable || self.threaded.iter().any(|pid| threads_run(*pid).unwrap_or(false))
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Process::new(pid).and_then(|process| process.stat()).ok()
}

/// Whether a thread of this process is runnable: state R in `/proc/PID/task/TID/stat`.
fn threads_run(pid: i32) -> procfs::ProcResult<bool> {
    let mut threads = Process::new(pid)?.tasks()?.flatten();
    Ok(threads.any(|thread| thread.stat().is_ok_and(|stat| stat.state == RUNNABLE)))
}

/// A zombie has ended. It keeps its entry until its parent waits for it.
fn is_living(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x')
}

fn ticks_since_boot() -> u64 {
    let seconds = Uptime::current().map_or(0.0, |uptime| uptime.uptime);
    // Rounded down, so that a process that started within this tick counts as new.
    (seconds * procfs::ticks_per_second() as f64) as u64
}

/// All processes by parent. Made at most once per reading, and only on a kernel that does not list children.
#[derive(Default)]
struct ParentScan(Option<BTreeMap<i32, Vec<i32>>>);

/// The children of a process: from `/proc/PID/task/TID/children`, or, where the kernel was built without that
/// (CONFIG_PROC_CHILDREN), from all processes' parents.
fn children(parent: &Stat, scan: &mut ParentScan) -> Vec<i32> {
    let listed = || -> procfs::ProcResult<Vec<i32>> {
        let process = Process::new(parent.pid)?;
        let mut all = Vec::new();
        if parent.num_threads == 1 {
            // Most processes of a worker wait with one thread: a list of their threads would cost more than all the
            // rest.
            all.extend(process.task_main_thread()?.children()?);
        } else {
            for task in process.tasks()? {
                all.extend(task?.children()?);
            }
        }
        Ok(all.into_iter().filter_map(|child| i32::try_from(child).ok()).collect())
    };
    if let Ok(children) = listed() {
        return children;
    }
    let parents = scan.0.get_or_insert_with(|| {
        let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for stat in all_processes().into_iter().flatten().flatten().filter_map(|process| process.stat().ok())
        {
            parents.entry(stat.ppid).or_default().push(stat.pid);
        }
        parents
    });
    parents.remove(&parent.pid).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(pid, started, own, reaped)`.
    fn tree(read_at: u64, processes: &[(i32, u64, u64, u64)]) -> Tree {
        let processes = processes
            .iter()
            .map(|&(pid, started, own, reaped)| (ProcessIdentity { pid, started }, Ticks { own, reaped }))
            .collect();
        let root = ProcessIdentity { pid: 1, started: 10 };
        Tree { root, processes, is_one_runnable: false, threaded: Vec::new(), read_at }
    }

    #[test]
    fn the_process_and_its_children_count() {
        let before = tree(1000, &[(1, 10, 100, 50), (2, 20, 30, 0)]);
        let after = tree(1100, &[(1, 10, 105, 50), (2, 20, 60, 0)]);
        assert_eq!(after.ticks_since(&before), 35);
        assert_eq!(after.ticks_since(&after), 0);
    }

    #[test]
    fn a_child_that_ended_counts_only_with_what_it_used_since() {
        let before = tree(1000, &[(1, 10, 100, 50), (2, 20, 30, 0)]);
        // It used 12 more ticks, ended with 42, and its parent has them now.
        let after = tree(1100, &[(1, 10, 100, 92)]);
        assert_eq!(after.ticks_since(&before), 12);
    }

    #[test]
    fn a_child_that_came_and_went_between_the_readings_counts() {
        let before = tree(1000, &[(1, 10, 100, 50)]);
        assert_eq!(tree(1100, &[(1, 10, 100, 57)]).ticks_since(&before), 7);
    }

    #[test]
    fn a_child_that_is_born_counts_from_birth_and_an_adopted_one_from_now() {
        let before = tree(1000, &[(1, 10, 100, 0)]);
        assert_eq!(tree(1100, &[(1, 10, 100, 0), (7, 1000, 9, 1)]).ticks_since(&before), 10);
        assert_eq!(tree(1100, &[(1, 10, 100, 0), (7, 999, 5000, 0)]).ticks_since(&before), 0);
    }

    #[test]
    fn a_child_whose_end_nobody_waited_for_takes_nothing_back() {
        let before = tree(1000, &[(1, 10, 100, 0), (2, 20, 5000, 0)]);
        assert_eq!(tree(1100, &[(1, 10, 140, 0)]).ticks_since(&before), 40);
    }

    #[test]
    fn an_id_used_again_is_another_process() {
        let before = tree(1000, &[(1, 10, 100, 0), (2, 20, 5000, 0)]);
        let after = tree(1100, &[(1, 10, 100, 5000), (2, 1050, 3, 0)]);
        assert_eq!(after.ticks_since(&before), 3);
    }

    #[test]
    fn a_real_tree_is_read_with_its_children() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep(1)");
        let me =
            ProcessIdentity::of(i32::try_from(std::process::id()).expect("a pid")).expect("this test lives");
        let pid = i32::try_from(child.id()).expect("a pid");
        let tree = read(me).expect("this test lives");
        assert!(tree.processes.contains_key(&me));
        assert!(tree.processes.keys().any(|identity| identity.pid == pid), "{tree:?}");
        let identity = ProcessIdentity::of(pid).expect("the child lives");
        assert_eq!(
            read(ProcessIdentity { started: identity.started + 1, ..identity }),
            None,
            "not that process"
        );
        child.kill().expect("our own child");
        // Killed, but not waited for: a zombie, with an entry in /proc. SIGKILL is not instantaneous; wait
        // for the state without taking the zombie away.
        let id = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::waitid(
            rustix::process::WaitId::Pid(id),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .expect("our own child");
        assert_eq!(read(identity), None, "a zombie is gone");
        child.wait().expect("our own child");
        assert_eq!(ProcessIdentity::of(pid), None);
    }
}
