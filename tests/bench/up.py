#!/usr/bin/env python3
"""A million reports to a cluster as `rakit up` runs it, and what disk and memory they cost: age must cost nothing.

    cargo build --release
    python3 tests/bench/up.py [--reports 1000000] [--base-port 27000]

One thread posts the reports of 64 servers to the leader, beside those of the three real daemons, with eight under way on each
connection. While it does, the length of each node's directory and its highest resident memory (VmHWM, proc_pid_status(5)) are
looked at. Fails when a directory is ever longer than the bound of docs/storage.md, or a report is refused, or the nodes
do not end with one state. (`tests/bench/reports.rs` measures rates and latencies, of nodes alone.)
"""

import argparse
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time

from bench_failover import LOAD_AHEAD, LOAD_CONNECTIONS, PATIENCE, Answers, get_json, request_bytes

# docs/storage.md, "The bound", with the default configuration.
DIRECTORY_BYTES_MAX = 21_268_736
# A look at the directories after so many answers, and a line after so many.
LOOK_EVERY, TELL_EVERY = 10_000, 100_000
NODES = range(1, 6)


def directory_bytes(directory):
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:  # An older snapshot that has just gone.
            pass
    return total


def peak_kilobytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


class Load:
    def __init__(self, port, reports):
        self.port, self.left, self.sequence, self.committed = port, reports, 0, 0
        self.epoch = int(time.time() * 1000)
        self.selector = selectors.DefaultSelector()
        for number in range(LOAD_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(connection, selectors.EVENT_READ, (number, Answers()))
            for _ in range(LOAD_AHEAD):
                self.send(connection, number)

    def send(self, connection, number):
        if self.left:
            self.left -= 1
            self.sequence += 1
            # Its worker is said not to listen, so that nobody is sent there.
            report = {"server": f"load-{number}", "worker": "127.0.0.1:1", "cpu": 1.5, "cores": 4, "epoch": self.epoch,
                      "sequence": self.sequence, "worker_up": False}
            connection.sendall(request_bytes(self.port, "/report", report))

    def answers(self):
        """Takes what has come; gives how many answers that were."""
        count = 0
        for key, _ in self.selector.select(PATIENCE):
            number, answers = key.data
            for status, body in answers.feed(key.fileobj.recv(1 << 16)):
                if status != 200:
                    sys.exit(f"a report was answered {status}: {body!r}")
                count += 1
                self.send(key.fileobj, number)
        if not count:
            sys.exit(f"no answer in {PATIENCE} s")
        return count


def run(arguments, directory):
    program = os.path.join(os.path.dirname(__file__), "..", "target", "release", "rakit")
    command = [program, "up", "--base-port", str(arguments.base_port), "--dir", directory]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in up.stdout:
            if line.strip() == "ready":
                break
        else:
            sys.exit("rakit up ended before it was ready")
        with open(os.path.join(directory, "pids.json"), encoding="utf-8") as file:
            pids = json.load(file)
        status = {node: arguments.base_port + node for node in NODES}
        leader = get_json(status[1], "/status")["leader"]
        load, began = Load(arguments.base_port + 1000 + leader, arguments.reports), time.monotonic()
        done, looked, told, longest, highest = 0, 0, 0, 0, 0
        while done < arguments.reports:
            done += load.answers()
            if done - looked >= LOOK_EVERY or done == arguments.reports:
                looked = done
                longest = max(longest, *(directory_bytes(os.path.join(directory, "data", f"node-{node}")) for node in NODES))
                highest = max(highest, *(peak_kilobytes(pids[f"node-{node}"]) for node in NODES))
                if longest > DIRECTORY_BYTES_MAX:
                    sys.exit(f"after {done} reports a directory has {longest} bytes; the bound is {DIRECTORY_BYTES_MAX}")
            if done - told >= TELL_EVERY or done == arguments.reports:
                told = done
                print(f"{done:8} reports, {done / (time.monotonic() - began):.0f} per second; the longest directory "
                      f"{longest} bytes, the highest VmHWM {highest} kB", flush=True)
        deadline = time.monotonic() + PATIENCE
        while len({get_json(port, "/status")["state_digest"] for port in status.values()}) > 1:
            if time.monotonic() > deadline:
                sys.exit("the nodes do not come to one state")
        print(f"one state on all nodes; the bound of a directory is {DIRECTORY_BYTES_MAX} bytes")
    finally:
        up.send_signal(signal.SIGINT)
        print(f"rakit up ended with {up.wait()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=1_000_000)
    parser.add_argument("--base-port", type=int, default=27_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rakit-bench-up-") as directory:
        run(arguments, os.path.join(directory, "cluster"))


if __name__ == "__main__":
    main()
