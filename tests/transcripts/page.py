"""A page with transcripts: its commands, the outputs that stand under them, and the marks above them.

A fenced block `console` holds commands after `$ `, continued after `> `, and under each what the terminal
shows. A block `bash` is typed as one command and shows nothing. Blocks of any other kind are not typed.
The line `^C` is Ctrl-C in the first terminal. A block under `<!-- needs: PROGRAM -->` is left out where that program is
missing. Called by __main__.py.
"""

import dataclasses
import re
from pathlib import Path

FENCE = "```"
MARK = re.compile(r"<!-- (claims: (?P<claims>.*)|needs: (?P<needs>.*)|(?P<varies>varies)) -->$")

# What differs from run to run, most particular first.
MASKS = [
    (re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d+ [A-Z][a-z]{2} "), "DAY "),
    (re.compile(r"\b\d+-[0-9a-f]+-\d+\b"), "REQUEST"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "HEX"),
    (re.compile(r"\b\d+(\.\d)? m?s\b"), "TIME"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
]


@dataclasses.dataclass(frozen=True)
class Step:
    """One command and what follows it."""

    command: str
    output: list
    line: int  # of the command, in the page; from 1
    after: int  # the last line of the output, or of the command
    claims: list
    varies: bool
    shown: bool  # whether the block shows outputs
    needs: str = ""  # a program that not every machine has

    def with_output(self, output):
        """The same command with the output of another run."""
        return dataclasses.replace(self, output=output)


class Page:
    """One file."""

    def __init__(self, repository, name):
        self.path, self.name = Path(repository) / name, name
        self.lines = self.path.read_text(encoding="utf-8").splitlines()
        self.steps = list(self._steps())

    def _steps(self):
        number = 0
        claims, varies, needs = [], False, ""
        while number < len(self.lines):
            line = self.lines[number]
            mark = MARK.match(line)
            if mark and mark["varies"]:
                varies = True
            elif mark and mark["needs"]:
                needs = mark["needs"]
            elif mark:
                claims += [claim.split() for claim in mark["claims"].split(";")]
            elif line.startswith(FENCE):
                end = self.lines.index(FENCE, number + 1)
                kind = line[len(FENCE):]
                if kind == "console":
                    for step in self._console(number + 1, end, claims, varies):
                        yield dataclasses.replace(step, needs=needs)
                elif kind == "bash":
                    group = "\n".join(["{", *self.lines[number + 1 : end], "}"])
                    yield Step(group, [], number + 1, end, claims, False, False)
                number, claims, varies, needs = end, [], False, ""
            number += 1

    def _console(self, number, end, claims, varies):
        steps = []
        while number < end:
            line = self.lines[number]
            command = line[2:] if line.startswith("$ ") else line
            if command == line and line != "^C":
                raise SystemExit(f"{self.name}:{number + 1}: a block begins with `$ ` and a command")
            start = number
            number += 1
            while number < end and self.lines[number].startswith("> "):
                command += "\n" + self.lines[number][2:]
                number += 1
            first = number
            while number < end and not self.lines[number].startswith("$ "):
                number += 1
            output = self.lines[first:number]
            steps.append(Step(command, output, start + 1, number, [], varies, True))
        # The claims are about the whole block, so they are checked after its last command.
        steps[-1] = dataclasses.replace(steps[-1], claims=claims)
        yield from steps

    def write(self, fresh):
        """Replaces the outputs by those of these steps."""
        for step in reversed(fresh):
            if step.shown:
                begin = step.line + step.command.count("\n")
                self.lines[begin : step.after] = step.output
        self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def mask(line):
    """The form of a line: what differs from run to run is masked."""
    for pattern, replacement in MASKS:
        line = pattern.sub(replacement, line)
    return line.strip()
