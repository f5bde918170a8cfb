//! Finds out how much of the machine's processors the worker may use: its control group may have a quota (`cpu.max`),
//! and it may be bound to some processors (a cpuset, taskset(1)). `meter.rs` calls it.
//!
//! A container with half a processor on an idle machine is full when it uses half a processor. Measured against the
//! machine it would look nearly idle, and the fullest server would draw the next request.
//!
//! Control groups are directories (cgroups(7)). A quota holds for a group with everything below it, so all groups on
//! the way up count. Version 2 has `cpu.max` and `cpu.stat`; version 1 has `cpu.cfs_quota_us`, `cpu.cfs_period_us`, and
//! `cpuacct.usage` of the group with the same path.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::process::Process;

/// What a process may use of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Allowance {
    /// The processors that it may run on, as ranges with both ends; none: all.
    pub(super) cpus: Vec<(u32, u32)>,
    /// The quotas of its groups, the closest first; usually none.
    pub(super) quotas: Vec<Quota>,
}

/// The quota of one group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quota {
    /// The group's directory.
    pub(super) group: PathBuf,
    /// How many processors it may keep busy; above 0, and 0.5 is half a processor.
    pub(super) cores: f64,
    /// What its processes have used so far.
    pub(super) used: Duration,
}

/// Where this machine shows its control groups.
pub(super) struct ControlGroups {
    proc: PathBuf,
    mounts: Vec<Mount>,
}

/// One mounted hierarchy.
struct Mount {
    point: PathBuf,
    /// The group that is seen at the mount point: `/`, but for a container perhaps its own.
    root: PathBuf,
    /// The controllers of a hierarchy of version 1; `None`: version 2.
    controllers: Option<Vec<String>>,
}

impl ControlGroups {
    /// Looks for the mounted hierarchies. `proc` is `/proc`.
    pub(super) fn new(proc: &Path) -> Self {
        let mounted = Process::new_with_root(proc.join("self")).and_then(|process| process.mountinfo());
        let mount = |one: procfs::process::MountInfo| {
            let controllers = match one.fs_type.as_str() {
                "cgroup2" => None,
                "cgroup" => Some(one.super_options.into_keys().collect()),
                _ => return None,
            };
            Some(Mount { point: one.mount_point, root: one.root.into(), controllers })
        };
        // Without the list there are no groups to be seen, and so no quotas.
        let mounts = mounted.into_iter().flatten().filter_map(mount).collect();
        Self { proc: proc.to_owned(), mounts }
    }

    /// What this process may use; `None`: the daemon itself.
    ///
    /// # Errors
    /// When a group has a quota and does not tell what it used. The reason, for a log line.
    pub(super) fn allowance(&self, pid: Option<i32>) -> Result<Allowance, String> {
        let directory = self.proc.join(pid.map_or("self".to_owned(), |pid| pid.to_string()));
        let Ok(process) = Process::new_with_root(directory) else {
            return Ok(Allowance::default()); // It has just ended: the next look finds another one.
        };
        let cpus = process.status().ok().and_then(|status| status.cpus_allowed_list).unwrap_or_default();
        let mut quotas = Vec::new();
        for group in process.cgroups().into_iter().flatten() {
            let path = Path::new(&group.pathname);
            if group.hierarchy == 0 {
                for directory in self.up(path, None) {
                    quotas.extend(quota_2(directory)?);
                }
            } else if group.controllers.iter().any(|one| one == "cpu") {
                let accounts = self.up(path, Some("cpuacct"));
                for (level, directory) in self.up(path, Some("cpu")).into_iter().enumerate() {
                    quotas.extend(quota_1(directory, accounts.get(level))?);
                }
            }
        }
        Ok(Allowance { cpus, quotas })
    }

    /// The directories of a group and of those above it, the closest first, in the hierarchy with this controller
    /// (`None`: version 2). None if the group cannot be seen from here.
    fn up(&self, path: &Path, controller: Option<&str>) -> Vec<PathBuf> {
        let has = |mount: &&Mount| match (controller, &mount.controllers) {
            (None, None) => true,
            (Some(wanted), Some(all)) => all.iter().any(|one| one == wanted),
            _ => false,
        };
        let Some(mount) = self.mounts.iter().find(has) else { return Vec::new() };
        let Ok(below) = path.strip_prefix(&mount.root) else { return Vec::new() };
        below.ancestors().map(|group| mount.point.join(group)).collect()
    }
}

/// The quota of a group of version 2. `cpu.max` has the microseconds that it may use in each period, or `max`, and the
/// period.
fn quota_2(group: PathBuf) -> Result<Option<Quota>, String> {
    // The root has none, nor has a group for which the controller is not turned on.
    let Ok(text) = fs::read_to_string(group.join("cpu.max")) else { return Ok(None) };
    let mut words = text.split_whitespace().map(|word| word.parse::<f64>().ok());
    let Some(cores) = cores(words.next().flatten(), words.next().flatten()) else { return Ok(None) };
    let file = group.join("cpu.stat");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok());
    let used = used.map(Duration::from_micros).ok_or_else(|| untold(&group, &file))?;
    Ok(Some(Quota { group, cores, used }))
}

/// The quota of a group of version 1. `account` is the directory that tells what it used.
fn quota_1(group: PathBuf, account: Option<&PathBuf>) -> Result<Option<Quota>, String> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
    // A quota of -1 is none.
    let Some(cores) = cores(number("cpu.cfs_quota_us"), number("cpu.cfs_period_us")) else { return Ok(None) };
    let file = account.unwrap_or(&group).join("cpuacct.usage");
    let used = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let used = used.map(Duration::from_nanos).ok_or_else(|| untold(&group, &file))?;
    Ok(Some(Quota { group, cores, used }))
}

fn cores(quota: Option<f64>, period: Option<f64>) -> Option<f64> {
    let (quota, period) = (quota?, period?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

fn untold(group: &Path, file: &Path) -> String {
    format!(
        "the control group {} has a CPU quota, but {} does not tell what it used",
        group.display(),
        file.display()
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes a file with the directories above it.
    pub(in crate::daemon) fn write(root: &Path, name: &str, text: &str) {
        let file = root.join(name);
        fs::create_dir_all(file.parent().expect("below root")).expect("our own directory");
        fs::write(file, text).expect("our own directory");
    }

    /// A line of mountinfo (proc_pid_mountinfo(5)).
    pub(in crate::daemon) fn mount(seen: &str, point: &Path, kind: &str, options: &str) -> String {
        format!("30 24 0:27 {seen} {} rw,nosuid - {kind} {kind} rw{options}\n", point.display())
    }

    /// A status of proc_pid_status(5), as far as the crate needs it, of a process bound to these processors.
    pub(in crate::daemon) fn status(cpus: &str) -> String {
        let real = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = |line: &str| match line.starts_with("Cpus_allowed_list:") {
            true => format!("Cpus_allowed_list:\t{cpus}\n"),
            false => format!("{line}\n"),
        };
        real.lines().map(line).collect()
    }

    /// The link that names the daemon's own process, which is 7.
    pub(in crate::daemon) fn own_process_is_7(root: &Path) {
        std::os::unix::fs::symlink("7", root.join("proc/self")).expect("our own directory");
    }

    #[test]
    fn version_2_counts_every_group_on_the_way_up() {
        let root = tempfile::tempdir().expect("a directory");
        let (root, groups) = (root.path(), root.path().join("groups"));
        write(root, "proc/7/mountinfo", &mount("/", &groups, "cgroup2", ",nsdelegate"));
        write(root, "proc/7/cgroup", "0::/lab.slice/worker.service\n");
        write(root, "proc/7/status", &status("0-3,6"));
        write(&groups, "lab.slice/worker.service/cpu.max", "50000 100000\n");
        write(&groups, "lab.slice/worker.service/cpu.stat", "usage_usec 1500000\nuser_usec 1\n");
        write(&groups, "lab.slice/cpu.max", "max 100000\n");
        own_process_is_7(root);
        let seen = ControlGroups::new(&root.join("proc"));
        let quota = |group: &str, cores, ms| Quota {
            group: groups.join(group),
            cores,
            used: Duration::from_millis(ms),
        };
        let own = quota("lab.slice/worker.service", 0.5, 1_500);
        let expected = Allowance { cpus: vec![(0, 3), (6, 6)], quotas: vec![own.clone()] };
        assert_eq!(seen.allowance(Some(7)), Ok(expected));
        write(&groups, "lab.slice/cpu.max", "150000 100000\n");
        write(&groups, "lab.slice/cpu.stat", "usage_usec 2000000\n");
        let both = seen.allowance(Some(7)).expect("as before").quotas;
        assert_eq!(both, [own, quota("lab.slice", 1.5, 2_000)]);
        fs::remove_file(groups.join("lab.slice/cpu.stat")).expect("just written");
        assert!(seen.allowance(Some(7)).expect_err("nobody tells").contains("lab.slice has a CPU quota"));
        assert_eq!(seen.allowance(Some(8)), Ok(Allowance::default()), "it has ended");
    }

    #[test]
    fn version_1_has_its_own_files_and_a_container_sees_its_own_group_as_the_root() {
        let root = tempfile::tempdir().expect("a directory");
        let (root, cpu) = (root.path(), root.path().join("cpu"));
        let mounts = mount("/docker/ab12", &cpu, "cgroup", ",cpuacct,cpu") + &mount("/", root, "tmpfs", "");
        write(root, "proc/7/mountinfo", &mounts);
        write(root, "proc/7/cgroup", "4:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12\n");
        write(root, "proc/7/status", &status("0-7"));
        write(&cpu, "cpu.cfs_quota_us", "-1\n");
        write(&cpu, "cpu.cfs_period_us", "100000\n");
        write(&cpu, "cpuacct.usage", "2500000000\n");
        own_process_is_7(root);
        let seen = ControlGroups::new(&root.join("proc"));
        assert_eq!(seen.allowance(None), Ok(Allowance { cpus: vec![(0, 7)], quotas: vec![] }));
        write(&cpu, "cpu.cfs_quota_us", "250000\n");
        let quota = Quota { group: cpu.clone(), cores: 2.5, used: Duration::from_millis(2_500) };
        // `join("")` ends with a slash, which makes no difference between paths.
        assert_eq!(seen.allowance(None).expect("as before").quotas, [quota]);
        write(root, "proc/7/cgroup", "3:cpu,cpuacct:/another\n");
        assert_eq!(seen.allowance(None).expect("a group that is not to be seen").quotas, []);
    }

    #[test]
    fn this_machine_can_be_asked() {
        let allowance =
            ControlGroups::new(Path::new("/proc")).allowance(None).expect("told or without a quota");
        assert!(!allowance.cpus.is_empty(), "{allowance:?}");
    }
}
