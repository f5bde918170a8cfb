#!/usr/bin/env python3
"""How long a cluster is without a leader, Rakit's beside etcd's, measured from outside in one run.

    cargo build --release
    apt-get install etcd-server etcd-client       # optional: without it, etcd's rows are left out, and the output says so
    python3 tests/bench/failover.py [--kills 30] [--etcd-kills 10] [--writes 500000]

What is measured, all on this machine, all with default timeouts:

- kill:    `kill -9` of the leader, to the first write that was sent afterwards and that the next leader committed;
- pause:   SIGSTOP of the leader, to the same. Nothing closes, so only the election timeout can tell;
- restart: every node killed and started again after so many writes, from the first start to the first commit.

The probe is the same for both systems: one thread opens a fresh connection to one survivor after the other, sends
one write on it (Rakit: a report with `"forward":true`, so that any node will do; etcd: a put by its JSON gateway), and
takes the first answer that says "committed", whichever of the writes under way it belongs to. A new write starts at
least every 2 ms, later every 2 % of the time that has passed: that is the resolution. Writes that wait do not hold up
the next ones, since some of them will have been handed to the dead leader and are lost.

Before each kill the cluster is whole: every member answers and has caught up.

Only processes that this program started are signalled, each by its pid, and all of them end with it.
"""

import argparse
import atexit
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

# A new probe at least so often, in seconds, ...
PROBE_INTERVAL_MIN = 0.002
# ... and at least after so much of the time that has already passed.
PROBE_INTERVAL_SHARE = 0.02
# So many probes may be under way; beyond it, the oldest is given up.
PROBES_MAX = 200
# A cluster that has not recovered after so many seconds never will.
PATIENCE = 60.0
# The loader: connections, and requests on each that are sent ahead of the answers.
LOAD_CONNECTIONS = 64
LOAD_AHEAD = 8
# The loader's servers. The same number of keys in etcd.
LOAD_NAMES = 64
# prctl(2): the children get SIGKILL when this program dies, however it dies.
PR_SET_PDEATHSIG = 1

LOG_LEVEL = os.environ.get("BENCH_LOG_LEVEL", "info")

LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(count):
    """Ports that are free now. Below the ephemeral range they stay free while a node is dead."""
    ports, candidate = [], 20000 + os.getpid() % 5000
    while len(ports) < count:
        candidate += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
                ports.append(candidate)
            except OSError:
                pass
    return ports


def request_bytes(port, path, body):
    body = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get_json(port, path, data=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as answer:
        return json.load(answer)


class Answers:
    """Cuts a stream of bytes into HTTP answers."""

    def __init__(self):
        self.buffer = b""

    def feed(self, data):
        """Adds bytes; gives each whole answer as (status, body)."""
        self.buffer += data
        while True:
            head_end = self.buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = self.buffer[:head_end].lower()
            start = head_end + 4
            at = head.find(b"content-length:")
            if at >= 0:
                end = start + int(head[at + 15:].split(b"\r\n", 1)[0])
                if len(self.buffer) < end:
                    return
                body = self.buffer[start:end]
            else:  # Chunked, as etcd's gateway answers now and then; the bodies are short and come as one chunk.
                end = self.buffer.find(b"\r\n0\r\n\r\n", head_end)
                if end < 0:
                    return
                body = self.buffer[start:end]
                end += 7
            status = int(self.buffer[9:12])
            self.buffer = self.buffer[end:]
            yield status, body


class Member:
    def __init__(self, number, command, client_port, log):
        self.number, self.command, self.client_port, self.log = number, command, client_port, log
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None


class Cluster:
    """What both systems have in common. A subclass says how to start a member, ask for the leader and write."""

    def __init__(self, size, directory):
        self.size, self.directory, self.sequence = size, directory, 0
        os.makedirs(directory)
        atexit.register(self.stop)

    def start(self):
        for member in self.members:
            member.start()
        self.wait_until_whole()

    def stop(self):
        for member in self.members:
            if member.process is not None:
                member.kill()

    def wait_until_whole(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                leader = self.leader_if_whole()
                if leader is not None:
                    return leader
            except (OSError, ValueError, KeyError, IndexError):
                pass
            time.sleep(0.05)
        sys.exit(f"{self.name}: the {self.size} members do not agree; see {self.directory}")

    def time_to_commit(self, members, since):
        """Seconds from `since` to the first commit of a write that was sent after it, asking these members in turn."""
        selector, under_way, turn, next_probe = selectors.DefaultSelector(), [], 0, since

        def give_up(probe):
            if probe in under_way:
                under_way.remove(probe)
                try:
                    selector.unregister(probe)
                except KeyError:
                    pass
                probe.close()

        try:
            while True:
                now = time.monotonic()
                if now - since > PATIENCE:
                    sys.exit(f"{self.name}: nothing was committed for {PATIENCE} s; see {self.directory}")
                if now >= next_probe:
                    next_probe = now + max(PROBE_INTERVAL_MIN, (now - since) * PROBE_INTERVAL_SHARE)
                    member = members[turn % len(members)]
                    turn += 1
                    probe = socket.socket()
                    probe.setblocking(False)
                    probe.connect_ex(("127.0.0.1", member.client_port))
                    under_way.append(probe)
                    state = (probe, self.write_request(member.client_port), Answers())
                    selector.register(probe, selectors.EVENT_WRITE, state)
                    if len(under_way) > PROBES_MAX:
                        give_up(under_way[0])
                for key, events in selector.select(max(0, next_probe - time.monotonic())):
                    probe, request, answers = key.data
                    try:
                        if events & selectors.EVENT_WRITE:
                            probe.sendall(request)
                            selector.modify(probe, selectors.EVENT_READ, key.data)
                            continue
                        data = probe.recv(65536)
                    except OSError:
                        give_up(probe)
                        continue
                    if not data:
                        give_up(probe)
                    for status, body in answers.feed(data):
                        if self.is_committed(status, body):
                            return time.monotonic() - since
                        give_up(probe)
        finally:
            for probe in list(under_way):
                give_up(probe)
            selector.close()

    def kill_leader(self):
        leader = self.wait_until_whole()
        survivors = [member for member in self.members if member is not leader]
        since = time.monotonic()
        leader.signal(signal.SIGKILL)
        took = self.time_to_commit(survivors, since)
        leader.process.wait()
        leader.start()
        return took

    def pause_leader(self):
        leader = self.wait_until_whole()
        survivors = [member for member in self.members if member is not leader]
        since = time.monotonic()
        leader.signal(signal.SIGSTOP)
        took = self.time_to_commit(survivors, since)
        leader.signal(signal.SIGCONT)
        return took

    def restart_all(self):
        self.wait_until_whole()
        for member in self.members:
            member.signal(signal.SIGKILL)
        for member in self.members:
            member.process.wait()
        since = time.monotonic()
        for member in self.members:
            member.start()
        return self.time_to_commit(self.members, since)

    def load(self, writes):
        """So many committed writes, as fast as one Python thread can hand them over. Gives the seconds it took."""
        leader, selector = self.wait_until_whole(), selectors.DefaultSelector()
        began, sent, committed, refused = time.monotonic(), 0, 0, 0

        def more(key, connection, name):
            nonlocal sent
            if sent < writes:
                sent += 1
                connection.sendall(self.load_request(leader.client_port, name))

        for name in range(LOAD_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", leader.client_port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, (name % LOAD_NAMES, Answers()))
            for _ in range(LOAD_AHEAD):
                more(None, connection, name % LOAD_NAMES)
        while committed + refused < sent:
            for key, _ in selector.select(PATIENCE):
                name, answers = key.data
                for status, body in answers.feed(key.fileobj.recv(1 << 16)):
                    if self.is_committed(status, body):
                        committed += 1
                    else:
                        refused += 1
                    more(key, key.fileobj, name)
        for key in list(selector.get_map().values()):
            key.fileobj.close()
        selector.close()
        if refused:
            print(f"  {self.name}: {refused} of {sent} writes were refused")
        return time.monotonic() - began


class Rakit(Cluster):
    name = "rakit"

    def __init__(self, size, directory, program):
        super().__init__(size, directory)
        ports = free_ports(2 * size)
        lines = ['[cluster]', 'name = "bench"']
        for number in range(1, size + 1):
            public, cluster = ports[2 * number - 2], ports[2 * number - 1]
            lines += ['[[node]]', f'id = {number}', f'public = "127.0.0.1:{public}"',
                      f'cluster = "127.0.0.1:{cluster}"']
        config = os.path.join(directory, "cluster.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        self.publics = ports[0::2]
        self.members = [
            Member(n, [program, "--config", config, "--id", str(n), "--log-level", LOG_LEVEL], ports[2 * n - 1],
                   os.path.join(directory, f"node-{n}.log"))
            for n in range(1, size + 1)]

    def leader_if_whole(self):
        seen = [get_json(port, "/status") for port in self.publics]
        same = {(status["leader"], status["term"], status["commit_index"], status["applied_index"])
                for status in seen}
        leader = seen[0]["leader"]
        return self.members[leader - 1] if len(same) == 1 and leader else None

    def report(self, port, name):
        self.sequence += 1
        return request_bytes(port, "/report", {
            "server": name, "worker": "127.0.0.1:13337", "cpu": 10.0, "cores": 2, "epoch": 1_795_000_000_000,
            "sequence": self.sequence, "worker_up": False, "forward": True})

    def write_request(self, port):
        return self.report(port, "probe")

    def load_request(self, port, name):
        return self.report(port, f"load-{name}")

    @staticmethod
    def is_committed(status, body):
        return status == 200 and b'"committed"' in body


class Etcd(Cluster):
    name = "etcd"

    def __init__(self, size, directory, program):
        super().__init__(size, directory)
        ports = free_ports(2 * size)
        peer = [f"http://127.0.0.1:{port}" for port in ports[1::2]]
        everybody = ",".join(f"m{n}={peer[n - 1]}" for n in range(1, size + 1))
        self.members = []
        for number in range(1, size + 1):
            client = f"http://127.0.0.1:{ports[2 * number - 2]}"
            command = [program, "--name", f"m{number}", "--data-dir", os.path.join(directory, f"m{number}"),
                       "--listen-client-urls", client, "--advertise-client-urls", client,
                       "--listen-peer-urls", peer[number - 1], "--initial-advertise-peer-urls", peer[number - 1],
                       "--initial-cluster", everybody, "--initial-cluster-state", "new"]
            self.members.append(
                Member(number, command, ports[2 * number - 2], os.path.join(directory, f"m{number}.log")))
        self.by_id = {}

    def leader_if_whole(self):
        leaders, applied = set(), set()
        for member in self.members:
            status = get_json(member.client_port, "/v3/maintenance/status", b"{}")
            self.by_id[status["header"]["member_id"]] = member
            leaders.add(status.get("leader", "0"))
            applied.add((status["raftTerm"], status["raftAppliedIndex"]))
        (leader,) = leaders if len(leaders) == 1 and len(applied) == 1 else (None,)
        return self.by_id.get(leader)

    def put(self, port, key):
        self.sequence += 1
        # Base64 of anything will do; the lengths are about those of a report.
        return request_bytes(port, "/v3/kv/put", {"key": key, "value": f"{self.sequence:0160d}"})

    def write_request(self, port):
        return self.put(port, "cHJvYmU=")

    def load_request(self, port, name):
        return self.put(port, f"bG9hZA{name:02d}")

    @staticmethod
    def is_committed(status, body):
        return status == 200 and b'"revision"' in body


def row(what, name, size, seconds):
    ms = sorted(second * 1000 for second in seconds)
    p90 = ms[min(len(ms) - 1, int(0.9 * len(ms)))]
    print(f"| {what} | {name} | {size} | {len(ms)} | {ms[0]:.1f} | {statistics.median(ms):.1f} | {p90:.1f} "
          f"| {ms[-1]:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="rakit-node (default: target/release/rakit-node)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--etcd-kills", type=int, default=10)
    parser.add_argument("--pauses", type=int, default=5)
    parser.add_argument("--writes", type=int, default=0, help="before the restart of all (0: no such part)")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--no-etcd", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the logs")
    arguments = parser.parse_args()
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(os.path.dirname(__file__), "..", "target"))
    program = arguments.program or os.path.join(target, "release", "rakit-node")
    etcd = None if arguments.no_etcd else shutil.which("etcd")
    if etcd is None:
        print("etcd is left out:", "as told" if arguments.no_etcd else "it is not installed")
    directory = tempfile.mkdtemp(prefix="rakit-failover-")
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, load average at the start {load[0]:.1f}; logs in {directory}\n")
    print("| what | system | members | rounds | min ms | median ms | p90 ms | max ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        systems = [(Rakit, program, arguments.kills)] + ([(Etcd, etcd, arguments.etcd_kills)] if etcd else [])
        for system, path, kills in systems:
            cluster = system(size, os.path.join(directory, f"{system.name}-{size}"), path)
            cluster.start()
            if kills:
                row("kill -9 of the leader", system.name, size, [cluster.kill_leader() for _ in range(kills)])
            if arguments.pauses:
                row("SIGSTOP of the leader", system.name, size,
                    [cluster.pause_leader() for _ in range(arguments.pauses)])
            if arguments.writes and arguments.restarts:
                row("restart of all, few writes", system.name, size,
                    [cluster.restart_all() for _ in range(arguments.restarts)])
                took = cluster.load(arguments.writes)
                row(f"restart of all after {arguments.writes} writes ({arguments.writes / took:.0f}/s)",
                    system.name, size, [cluster.restart_all() for _ in range(arguments.restarts)])
            cluster.stop()
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")
    if not arguments.keep:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
