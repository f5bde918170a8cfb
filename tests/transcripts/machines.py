"""Machines for a page: network namespaces with a cable (veth) to one bridge, each with a hostname, a home, a /tmp and a
/var/log of its own. The terminal of the page is one machine more, at the bridge.

Everything is done inside one `unshare`d network, mount and process namespace (namespaces(7)). So the addresses are free,
and nothing can be left behind: when this program ends, in whatever way, the kernel ends all processes in there and takes
the interfaces and the mounts away; all files are in a file system of this mount namespace. tests/system/network.rs does the same for the tests in Rust.

`ssh` and `scp` are two scripts here, and `lose` is what a fire does. Called by __main__.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

INSIDE = "RAKIT_TRANSCRIPTS_INSIDE"

# The machines: the last number of the address, and the hostname.
MACHINES = {1: "lab-01", 2: "lab-02", 3: "lab-03", 4: "lab-04", 5: "lab-05", 9: "lab-09", 21: "client"}
# Of the machine at which the reader sits.
OPERATOR = "10.0.0.254/24"
PLACE = Path("/run/machines")
HOME = "/home/student"
# Where a machine looks for programs.
SEARCHED = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

# As root it works as it is; else a user namespace may allow it.
NAMESPACES = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
WAYS = (["unshare", *NAMESPACES], ["unshare", "--user", "--map-root-user", *NAMESPACES])
# Ends what was unshared when this program is killed.
TETHER = ["setpriv", "--pdeathsig", "KILL"]
# A small trial of everything that the machines need.
TRIAL = (
    "set -e; mount -t tmpfs none /run; ip link set lo up; ip link add hub type bridge; "
    "unshare --net --mount --uts sh -c 'hostname trial; mount -t tmpfs none /tmp' & wait $!; "
    "ip link add v1 type veth peer name eth0"
)

# A machine: it waits for its cable, and goes on until it is killed.
MACHINE = """set -e
hostname {name}
ip link set lo up
mount -t tmpfs none /tmp
mount -t tmpfs none /var/log
mkdir -p {place}/{address}/student
mount --bind {place}/{address} /home
echo up
exec sleep infinity
"""
# A login shell on a machine, as ssh(1) gives it.
SSH = """#!/bin/sh
machine=$(cat "{place}/$1.pid") || exit 255; shift
exec nsenter --target "$machine" --net --mount --uts env -i HOME={home} LC_ALL=C.UTF-8 PATH={searched} bash -c "cd && { $*
}"
"""
# Copies files to a machine, or from one. As scp(1) does, `-p` keeps modes and times, and no owner.
SCP = """#!/bin/bash
words=()
for word; do
  case $word in
    -p) words+=(--preserve=mode,timestamps) ;;
    -rp) words+=(-r --preserve=mode,timestamps) ;;
    10.0.0.*:*) words+=("{place}/${word%%:*}/student/${word#*:}") ;;
    *) words+=("$word") ;;
  esac
done
exec cp "${words[@]}"
"""
# The machine is gone at once, with all that was on its disk. A new one has its address.
LOSE = """#!/bin/bash
machine=$(cat "{place}/$1.pid") || exit 1
ip link set "v${1##*.}" down
for process in /proc/[0-9]*; do
  if [ "${process#/proc/}" != "$machine" ] && [ "$process/ns/net" -ef "/proc/$machine/ns/net" ]; then
    kill -9 "${process#/proc/}"
  fi
done
rm -rf "{place}/$1/student"
mkdir "{place}/$1/student"
ip link set "v${1##*.}" up
"""


def again(arguments):
    """Runs this program once more inside namespaces; gives its exit code, or None and says why there are none."""
    refusals = []
    for way in WAYS:
        try:
            trial = subprocess.run([*TETHER, *way, "sh", "-c", TRIAL], capture_output=True, text=True)
        except OSError as error:
            refusals.append(str(error))
            continue
        if trial.returncode == 0:
            # bash is process 1, and waits for every process that has lost its parent.
            command = [*TETHER, *way, "bash", "-c", '"$@"; exit $?', "bash", sys.executable, sys.argv[0], *arguments]
            return subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode
        refusals.append(trial.stderr.strip().replace("\n", "; "))
    print(f"SKIPPED: several machines: no namespaces here: {' | '.join(refusals)}")
    return None


def must(command):
    subprocess.run(["sh", "-ec", command], check=True)


def start():
    """Makes the machines, and the programs with which the terminal reaches them. Only inside the namespaces."""
    must("mount -t tmpfs none /run; ip link set lo up; ip link add hub type bridge")
    must(f"ip addr add {OPERATOR} dev hub; ip link set hub up")
    programs = PLACE / "bin"
    programs.mkdir(parents=True)
    for name, text in {"ssh": SSH, "scp": SCP, "lose": LOSE}.items():
        text = text.replace("{place}", str(PLACE)).replace("{home}", HOME).replace("{searched}", SEARCHED)
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    started = {}
    for number, name in MACHINES.items():
        address = f"10.0.0.{number}"
        script = MACHINE.format(name=name, place=PLACE, address=address)
        machine = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", script], stdout=subprocess.PIPE, cwd="/"
        )
        assert machine.stdout.readline() == b"up\n", f"{address} does not start"
        (PLACE / f"{address}.pid").write_text(f"{machine.pid}\n", encoding="utf-8")
        must(
            f"ip link add v{number} type veth peer name eth0 netns {machine.pid}; ip link set v{number} master hub up; "
            f"nsenter --target {machine.pid} --net sh -ec 'ip addr add {address}/24 dev eth0; ip link set eth0 up'"
        )
        started[machine.pid] = machine
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    return started


def can_run(program):
    """Whether the machines have this program. nginx changes its user: a user namespace with one user is not enough."""
    users = int(Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2])
    if program == "nginx" and users == 1:
        return False
    return shutil.which(program, path=SEARCHED) is not None


def left(machines):
    """The command lines of all processes that still run beside these machines, this program and process 1."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) in {1, *machines, os.getpid()}:
            continue
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if line:
            found.append(line)
    return found


def directory(repository, target):
    """Where the page is typed: the project's programs and documents, and nothing else."""
    place = PLACE / "project"
    place.mkdir()
    (place / "target").symlink_to(repository / target)
    for name in ("docs", "worker.py"):
        (place / name).symlink_to(repository / name)
    return place
