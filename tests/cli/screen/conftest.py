"""A terminal that tests can look at: what is written to it, and what it shows."""

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf_builder as build
import pyte
import pytest
from rich.color import ColorSystem

from llmrun.cli.chat.screen.pane import Paint, Pane

PROGRAM = Path(sys.executable).with_name("llmrun")
_OWN = re.compile(r"\x1b\[[0-9;]*[mAJK]")


class Terminal:
    """An emulated terminal, with all that has scrolled away."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.written = ""
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self._screen)

    def answer_to(self, send: Callable[[str], None]) -> None:
        """Have questions of the program, such as where the cursor is, answered."""
        self._screen.write_process_input = send

    def write(self, text: str) -> None:
        self.written += text
        for character in text:  # the emulator drops what follows a zero-width character in the same call
            self._stream.feed(character)

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows

    def resize(self, columns: int, rows: int) -> None:
        """Become larger; the emulator has no way to break rows anew for a smaller one."""
        assert columns >= self.columns
        self.columns, self.rows = columns, rows
        self._screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """Return everything that was ever shown, without the blank end."""
        return [line.rstrip() for line in self._text(lambda cell: str(cell.data))]

    def styled(self) -> list[str]:
        """Return the same with the looks of every character."""

        def look(cell: pyte.screens.Char) -> str:
            marks = (cell.bold, cell.italics, cell.underscore, cell.strikethrough, cell.fg != "default")
            return str(cell.data) + "".join(mark for mark, is_on in zip("biusc", marks, strict=True) if is_on)

        return self._text(look)

    def _text(self, look: Callable[[pyte.screens.Char], str]) -> list[str]:
        kept = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(self._screen.lines))]
        lines = ["".join(look(line[column]) for column in range(self.columns)) for line in kept]
        while lines and not lines[-1].strip():
            lines.pop()
        return lines

    def foreign(self) -> str:
        """Return the control characters that were written, but newlines and what the pane itself needs."""
        return "".join(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]",
                                  _OWN.sub("", self.written).replace("\r", "")))  # fmt: skip


@pytest.fixture
def new_terminal() -> type[Terminal]:
    return Terminal


@pytest.fixture
def new_pane() -> Callable[[Terminal], Pane]:
    return lambda terminal: Pane(Paint(ColorSystem.EIGHT_BIT), terminal.write, terminal.size)


class Program:
    """`llmrun` with a terminal of its own; keys go in, and the screen can be looked at."""

    def __init__(self, terminal: Terminal, command: list[str], environment: dict[str, str]) -> None:
        self.terminal = terminal
        self._ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (terminal.rows, terminal.columns))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        terminal.answer_to(self.press)
        self.process = subprocess.Popen(
            command, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, env=environment,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.terminal.resize(columns, rows)
        termios.tcsetwinsize(self.theirs, (rows, columns))
        os.killpg(self.process.pid, signal.SIGWINCH)

    def look(self, until: Callable[[list[str]], bool], seconds: float = 30) -> list[str]:
        """Return the screen as soon as it is as it should be."""
        end = time.monotonic() + seconds
        while not until(lines := self.terminal.lines()):
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                pytest.fail("the screen never was as it should be:\n" + "\n".join(lines))
        return lines

    def prompt(self, count: int) -> list[str]:
        """Return the screen once it shows so many prompts, the last of them empty."""
        return self.look(lambda lines: sum(line.startswith(">") for line in lines) >= count and lines[-1] == ">")

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        data = os.read(self._ours, 65536)
        self.terminal.write(self._decoder.decode(data))
        return bool(data)

    def wait(self) -> int:
        """Return the exit code."""
        while self.process.poll() is None:
            self._read(0.05)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@pytest.fixture
def start_chat(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Begin a chat with the fake engine, which answers from a script."""
    programs: list[Program] = []
    model = tmp_path / "tiny.gguf"
    model.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))

    def start(*arguments: str, size: tuple[int, int] = (80, 24), **script: object) -> Program:
        env = {name: value for name, value in environment.items() if name != "NO_COLOR"}
        env |= {"TERM": "xterm-256color", "LLMRUN_FAKE": json.dumps(script)}
        env["LLMRUN_DATA_DIR"] = str(tmp_path / "data")
        command = [str(PROGRAM), "chat", str(model), "--engine", "fake", *arguments]
        programs.append(Program(Terminal(*size), command, env))
        return programs[-1]

    yield start
    for program in programs:
        program.close()
