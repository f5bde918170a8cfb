#!/usr/bin/env python3
"""Makes or checks every transcript in README.md and the manuals, from two runs of the release programs.

    cargo build --release
    python3 tests/transcripts --check     # .ci/run does this
    python3 tests/transcripts --write     # puts the new outputs into the pages
    python3 tests/transcripts --write docs/classroom.md    # into this one alone, from a run of its own

Both do the same runs. For the pages about one machine (PAGES): a fresh directory and two terminals, as the
pages tell their reader. Every command of the pages is typed as it stands there, page after page. The commands find
their programs in target/release of this repository. Only the ports (8001, ...) are others, so that the run needs
no port that somebody may have; what is compared and written has the ports of the pages again.

For the page about several machines (NETWORK_PAGES): a terminal at a machine of a network of its own
(machines.py). Only keys, and what computer this is, are left out of its outputs. Where the system allows no
namespaces, it is SKIPPED.

Dates, process ids, times and who leads differ from run to run. So --check does not compare the text. It
fails, with the page and the line, if
  - a claim does not hold in this run: `<!-- claims: ... -->` above a block names claims of claims.py;
  - a claim does not hold for the text that stands in the page: then the page was not made by one run;
  - the lines of a block have another form than those of this run, with digits and the like masked (only
    the claims count for a block with `<!-- varies -->` above it: its lines depend on who wins an election);
  - a command takes longer than it should, or a line of the page is wider than 80 columns.

Python 3.9 or newer, standard library only. Exit codes: 0 if all is well, 1 if not, 2 on bad usage.
"""

import argparse
import os
import random
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path

import machines
from claims import GENERAL, NAMED, Wrong
from page import Page, mask
from terminal import Failed, Terminal

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
PAGES = ["README.md", "docs/demo.md", "docs/panduan-demo.md", "docs/classroom.md"]
NETWORK_PAGES = ["docs/several-machines.md"]
COLUMNS_MAX = 80

# The first terminal runs the cluster and nothing else.
UP = "cargo run --release -- up"
CONTROL_C = "^C"
COMMAND_SECONDS_MAX = 60

# The ports in the pages are 8001..., 9001... and 10001..., those of `rakit up` without --base-port.
BASE_PORT_OF_PAGES = 8000
OFFSETS = (0, 1000, 2000)
PORTS_PER_OFFSET = 5
TOKEN = re.compile("#token=[0-9a-f]{32}")
# On the page about several machines: keys, and what computer this is.
NETWORK_HIDDEN = [
    (re.compile("report-key:[0-9a-f]{64}"), "report-key:…"),
    (re.compile(r"Linux \S+, glibc \S+,"), "Linux …, glibc …,"),
]
# Below 32768, from where on the kernel takes ports for outgoing connections. The last digit is 0, as in the pages.
BASE_PORTS = range(18000, 30000, 10)


class Ports:
    """Turns the ports of the pages into those of this run, and back."""

    def __init__(self):
        # At random, so that two runs on one machine hardly meet.
        self.base = next(filter(self.free, random.sample(BASE_PORTS, len(BASE_PORTS))), None)
        if self.base is None:
            sys.exit("no base port is free")

    @staticmethod
    def free(base):
        for offset in OFFSETS:
            for number in range(PORTS_PER_OFFSET + 1):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind(("127.0.0.1", base + offset + number))
                    except OSError:
                        return False
        return True

    def _replace(self, text, source, target):
        # The last digit is the node's or server's number, or a shell variable that holds it.
        for offset in OFFSETS:
            for before in ("127.0.0.1:", "--port "):
                prefix = before + str((source + offset) // 10)
                for digit in "$0123456789":
                    text = text.replace(prefix + digit, before + str((target + offset) // 10) + digit)
        return text

    def to_run(self, text):
        return self._replace(text, BASE_PORT_OF_PAGES, self.base)

    def to_page(self, text):
        # A token is nobody's business, and another one in each run.
        text = TOKEN.sub("#token=…", text)
        # The pages are typed in the project's directory, where cargo starts the program by a relative path.
        text = text.replace(f"{REPOSITORY}/target/", "target/")
        return self._replace(text, self.base, BASE_PORT_OF_PAGES)


class Run:
    """The two terminals of one run."""

    def __init__(self, directory):
        self.ports = Ports()
        self.directory = Path(directory).resolve()
        (self.directory / "target").symlink_to(REPOSITORY / TARGET)
        self.first = Terminal(directory)
        self.second = Terminal(directory)
        # cargo is typed as in the repository, and runs its program in the fresh directory.
        self.first.define(
            'cargo() { command cargo "$1" --manifest-path '
            f'"{REPOSITORY}/Cargo.toml" "${{@:2}}" --base-port {self.ports.base}; }}'
        )

    def type(self, command):
        """Types a command of a page; gives what the terminal shows, as lines."""
        if command == UP:
            shown = self.first.start(command, cluster_is_shown, COMMAND_SECONDS_MAX)
            shown = shown[next(i for i, line in enumerate(shown) if line.startswith("starting ")):]
        elif command == CONTROL_C:
            shown = self.first.interrupt(COMMAND_SECONDS_MAX)
            shown = shown[next(i for i, line in enumerate(shown) if line.startswith("stopping ")):]
        else:
            shown = self.second.type(self.ports.to_run(command), COMMAND_SECONDS_MAX)
        return [self.ports.to_page(line) for line in shown]

    def close(self):
        """Closes both terminals, ends what still runs in the directory, and gives its command lines."""
        for terminal in (self.second, self.first):
            terminal.close()
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if Path(os.readlink(process / "cwd")) == self.directory:
                    left.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                pass  # It has ended, or belongs to another user.
        return left


class NetworkRun:
    """The terminal at a machine of a network, and the other machines."""

    def __init__(self):
        self.machines = machines.start()
        self.terminal = Terminal(machines.directory(REPOSITORY, TARGET))

    def type(self, command):
        """Types a command of a page; gives what the terminal shows, as lines."""
        shown = self.terminal.type(command, COMMAND_SECONDS_MAX)
        for secret, instead in NETWORK_HIDDEN:
            shown = [secret.sub(instead, line) for line in shown]
        return shown

    def close(self):
        """Closes the terminal, and gives the command lines of what still runs on any machine."""
        self.terminal.close()
        return machines.left(self.machines)


def cluster_is_shown(lines):
    """Whether `rakit up` says `ready`, and its table shows all five nodes with one digest, and how it began."""
    if "ready" not in lines:
        return False
    lines = lines[lines.index("ready"):]
    rows = [line.replace("★", " ").split() for line in lines]
    digests = [row[7] for row in rows if len(row) == 9 and row[8].startswith("127.0.0.1:")]
    begun = [line for line in lines if " is new (log index " in line or ", elected in " in line]
    return len(digests) == 5 and len(set(digests)) == 1 and len(begun) == 4


def run_pages(pages, run):
    """Types every command of every page; gives for each page its steps with this run's outputs."""
    results = []
    for page in pages:
        steps = []
        for step in page.steps:
            if step.needs and not machines.can_run(step.needs):
                print(f"{page.name}:{step.line}: SKIPPED: {step.needs} can't run here", flush=True)
                steps.append(step)
                continue
            print(f"{page.name}:{step.line}: $ {step.command}", flush=True)
            try:
                output = run.type(step.command)
            except Failed as error:
                sys.exit(f"{page.name}:{step.line}: {error}")
            print("\n".join(output), flush=True)
            steps.append(step.with_output(output))
        results.append(steps)
    return results


def complaint_of(claim, words, steps):
    """Why a claim does not hold after the last of these steps; None if it does."""
    try:
        claim(steps, *words)
    except Wrong as error:
        return f"{claim.__name__}: {error}"
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return f"{claim.__name__}: the output has not the form that it reads: {error!r}"
    return None


def claim_complaints(name, steps, whose):
    """Every claim that does not hold for these steps, one sentence each, at the first step where it fails so."""
    found = {}
    for number, step in enumerate(steps, 1):
        for claim, *words in [[claim] for claim in GENERAL] + step.claims:
            claim = NAMED.get(claim, claim)
            if isinstance(claim, str):
                sys.exit(f"{name}:{step.line}: claims.py has no claim {claim}")
            complaint = complaint_of(claim, words, steps[:number])
            if complaint:
                found.setdefault(complaint, f"{name}:{step.line}: {whose}: {complaint}")
    return list(found.values())


def form_complaints(name, steps, fresh):
    """Every block whose lines have another form in the page than in this run."""
    found = []
    for step, now in zip(steps, fresh):
        if not step.shown or step.varies:
            continue
        in_page, in_run = {mask(line) for line in step.output}, {mask(line) for line in now.output}
        for verb, lines in (("lacks", in_run - in_page), ("has, and this run has not", in_page - in_run)):
            found += [f"{name}:{step.line}: the page {verb}: {line}" for line in sorted(lines)]
    return found


def wide_lines(page):
    return [
        f"{page.name}:{number}: {len(line)} columns, {COLUMNS_MAX} are the most"
        for number, line in enumerate(page.lines, 1)
        if len(line) > COLUMNS_MAX
    ]


def work(names, write, run):
    """Types the commands of these pages, and checks or writes them; whether there is nothing to complain about."""
    pages = [Page(REPOSITORY, name) for name in names]
    try:
        results = run_pages(pages, run)
    finally:
        left = run.close()

    complaints = [f"{names[-1]}: this is still running at its end: {command}" for command in left]
    for page, fresh in zip(pages, results):
        complaints += claim_complaints(page.name, fresh, "in this run")
        if write and not complaints:
            page.write(fresh)
        if not write:
            complaints += claim_complaints(page.name, page.steps, "as the page stands")
            complaints += form_complaints(page.name, page.steps, fresh)
        complaints += wide_lines(page) if page.name in PAGES else []
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    commands = sum(len(steps) for steps in results)
    if not complaints:
        print(f"{', '.join(names)}: {commands} commands, all as the pages say", flush=True)
    return not complaints


def main():
    parser = argparse.ArgumentParser(prog="transcripts", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare with the pages, and check their claims")
    what.add_argument("--write", action="store_true", help="put this run's outputs into the pages")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="all, unless some are named; demo.md needs README.md")
    flags = parser.parse_args()

    names = flags.pages or PAGES + NETWORK_PAGES
    if not set(names) <= {*PAGES, *NETWORK_PAGES}:
        parser.error(f"no such page; there are {', '.join(PAGES + NETWORK_PAGES)}")
    of_network = [name for name in names if name in NETWORK_PAGES]
    if machines.INSIDE in os.environ:
        return 0 if work(of_network, flags.write, NetworkRun()) else 1
    good = True
    if of_network:
        code = machines.again(["--write" if flags.write else "--check", *of_network])
        good = code in (0, None)
    of_one_machine = [name for name in names if name in PAGES]
    if of_one_machine:
        with tempfile.TemporaryDirectory(prefix="rakit-transcripts-") as directory:
            good &= work(of_one_machine, flags.write, Run(directory))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
