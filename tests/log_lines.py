#!/usr/bin/env python3
"""Checks that docs/log-lines.md has every line that the programs log. `.ci/run` calls it.

    python3 tests/log_lines.py

A line must stand between backticks on the page, with any words in the place of its values; the page may leave out the
end with a "…". Looked at are the texts in log macros, those that the core and the replica put together, and those of
worker.py. Exits with 1, and names file, line and text, if one is missing. It does not notice a line that is on the page
and is logged no more.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/log-lines.md"

HEAD_MAX = 15  # a text with fewer letters that do not change is no line of its own
PREFIX_MIN = 12  # so many letters of a line the page shows at least, if it leaves out the rest
VALUE_MAX = 24  # the page's words for one value have at most so many letters

TEXT = r'"((?:[^"\\]|\\.|\\\n)*)"'
LITERAL = re.compile(TEXT)
MACRO = re.compile(r"\b(?:error|warn|info|debug|trace)!\(\s*" + TEXT)
LOGGED = re.compile(r"\b(?:log\.(?:debug|info|warning|error)|log_message)\(\s*" + TEXT)
# What is no log line: the words of a broken invariant, comments, attributes.
OTHER = re.compile(
    r"\b(?:assert(?:_eq|_ne)?|debug_assert|panic|unreachable)!\(.*?\);|\.expect\(" + TEXT + r"\)|//[^\n]*|#\[[^\n]*", re.S)

# In these rooms every text is a log line, or a part of one: a reason, or what is suspicious.
PURE = ("src/raft/", "src/replica/")
PURE_BUT = {"src/raft/message.rs", "src/raft/configuration.rs"}  # the errors of what cannot be read


def is_pure(path):
    return path.startswith(PURE) and path not in PURE_BUT and not path.endswith("tests.rs")


def texts(path):
    """(line, text) of everything that this file logs, as far as it has a text of its own."""
    source = (ROOT / path).read_text().split("\n#[cfg(test)]\nmod tests")[0]
    pattern = LOGGED if path.endswith(".py") else LITERAL if is_pure(path) else MACRO
    if pattern is not LOGGED:
        source = OTHER.sub(lambda match: "\n" * match[0].count("\n"), source)
    for match in pattern.finditer(source):
        text = re.sub(r"\\\n\s*", "", match[1]).replace('\\"', '"')
        if "log_message" in match[0]:
            text += " ms=%d client=%s"  # Connection.log_message() adds it
        yield source.count("\n", 0, match.start()) + 1, text


def pieces(text):
    """What does not change in this text, in order. Between any two stands a value."""
    return re.split(r"\{[^{}]*\}|%[a-z]", text)


def tells(quoted, wanted, is_part):
    """Whether this line of the page is the text of these pieces: whole, or up to where the page leaves out the rest. A
    part of a line may begin after any word, and more may follow."""
    begins = [0] + [space.end() for space in re.finditer("[ …]", quoted) if is_part]
    return any(tells_from(quoted[begin:], wanted, is_part) for begin in begins)


def tells_from(quoted, wanted, is_part):
    """The same, of a line that begins where the text begins."""
    shown, left_out, _ = quoted.partition("…")
    at = 0
    for number, piece in enumerate(wanted):
        # A value may be empty, and is short.
        values = range(at, at + (VALUE_MAX if number else 0) + 1)
        at = next((place + len(piece) for place in values if shown.startswith(piece, place)), None)
        if at is None:
            begun = [len(shown) - place for place in values if place <= len(shown) and piece.startswith(shown[place:])]
            return bool(left_out and begun) and sum(map(len, wanted[:number])) + max(begun) >= PREFIX_MIN
    return is_part or at == len(shown) or not wanted[-1] and len(shown) <= at + VALUE_MAX


def main():
    files = subprocess.run(["git", "ls-files", "src", "node", "daemon", "worker.py"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()
    page = re.sub(r"```.*?```", "", (ROOT / PAGE).read_text(), flags=re.S).replace("\n", " ")
    on_page = [quoted for _, quoted in re.findall(r"(`+)(.+?)\1(?!`)", page)]
    found, missing = 0, 0
    for path in files:
        if not path.endswith((".rs", ".py")):
            continue
        for line, text in texts(path):
            wanted = pieces(text)
            if len("".join(wanted)) <= HEAD_MAX:
                continue  # a head such as `transfer: ` only: the rest is made elsewhere
            found += 1
            is_part = is_pure(path) or not wanted[0]
            if not any(tells(quoted, wanted, is_part) for quoted in on_page):
                missing += 1
                print(f"{path}:{line}: {PAGE} lacks {text!r}")
    print(f"{found} lines of the programs, {missing} of them not on {PAGE}")
    sys.exit(missing > 0)


if __name__ == "__main__":
    main()
