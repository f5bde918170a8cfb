"""A terminal with bash in it, as a person has it: commands go in, and what the screen shows comes out.

A pseudo-terminal (pty(7)) and not a pipe, since programs behave otherwise on a pipe: curl shows a progress
meter, bash says nothing of its jobs, and `rakit up` draws no table. Called by __main__.py.
"""

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import time

# Stands where the prompt of the reader stands; nothing else prints it.
PROMPT = "<<prompt of the transcripts>>"
ROWS, COLUMNS = 50, 80
# Only what a program on this machine needs; no proxy and no language of whoever runs this.
KEPT = ("PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR")
ENVIRONMENT = {
    "TERM": "xterm", "LC_ALL": "C.UTF-8", "PS1": PROMPT, "PS2": "", "HISTFILE": "/dev/null",
    "CARGO_TERM_COLOR": "never", "CARGO_TERM_PROGRESS_WHEN": "never", "CARGO_NET_OFFLINE": "true",
}
CONTROL_C = b"\x03"
CLOSE_SECONDS_MAX = 15
CONTROL_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Failed(Exception):
    """A command has not ended in time, or not shown what was awaited."""


class Terminal:
    """One terminal with one interactive bash in `directory`."""

    def __init__(self, directory):
        self.text = ""
        self.bash, self.master = pty.fork()
        if self.bash == 0:
            os.chdir(directory)
            kept = {name: os.environ[name] for name in KEPT if name in os.environ}
            arguments = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
            os.execvpe("bash", arguments, {**kept, **ENVIRONMENT})
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        # Reads all the time: a program that draws on a terminal that nobody reads would wait.
        self.grown = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self._await(lambda text: text.endswith(PROMPT), 10, "bash to start")
        # What is typed shall not be part of what is shown.
        self.type("stty -echo", 10)

    def define(self, line):
        """Types a line of preparation that shows nothing."""
        shown = self.type(line, 10)
        assert not shown, shown

    def type(self, command, seconds):
        """Types a command, waits for the next prompt, and gives the lines shown in between."""
        self._send(command)
        self._await(lambda text: text.endswith(PROMPT), seconds, f"the prompt after: {command}")
        return screen(self.text[: -len(PROMPT)])

    def start(self, command, enough, seconds):
        """Types a command that goes on; gives the screen as soon as `enough(lines)`."""
        self._send(command)
        self._await(
            lambda text: text.endswith(PROMPT) or enough(screen(text)), seconds, f"what {command} shall show"
        )
        if self.text.endswith(PROMPT):
            raise Failed(f"{command} has ended:\n{self.text[: -len(PROMPT)]}")
        return screen(self.text)

    def interrupt(self, seconds):
        """Types Ctrl-C; gives the lines that are shown from then on until the prompt."""
        before = len(screen(self.text))
        os.write(self.master, CONTROL_C)
        self._await(lambda text: text.endswith(PROMPT), seconds, "the prompt after Ctrl-C")
        return screen(self.text[: -len(PROMPT)])[before:]

    def close(self):
        """Hangs up, as one who closes the window: bash and its jobs get SIGHUP. Waits for the end of bash."""
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        os.kill(self.bash, signal.SIGHUP)
        while time.monotonic() < deadline:
            if os.waitpid(self.bash, os.WNOHANG)[0]:
                return
            time.sleep(0.05)
        os.kill(self.bash, signal.SIGKILL)
        os.waitpid(self.bash, 0)

    def _send(self, command):
        with self.grown:
            self.text = ""
        os.write(self.master, command.encode() + b"\n")

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            try:
                text = decoder.decode(os.read(self.master, 65536))
            except OSError:  # bash has ended.
                return
            with self.grown:
                self.text += text
                self.grown.notify_all()

    def _await(self, enough, seconds, what):
        with self.grown:
            if not self.grown.wait_for(lambda: enough(self.text), seconds):
                raise Failed(f"waited {seconds} s for {what}; the terminal shows:\n{self.text}")


def screen(text):
    """The lines on a screen that got this text. Knows what `rakit up` uses: carriage return, CUU and ED."""
    lines, row, column = [""], 0, 0
    position = 0
    while position < len(text):
        sequence = CONTROL_SEQUENCE.match(text, position)
        if sequence:
            position = sequence.end()
            if sequence[2] == "A":
                row = max(0, row - int(sequence[1] or 1))
            elif sequence[2] == "J":
                lines[row:] = [lines[row][:column]]
            continue
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1:]
            column += 1
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
