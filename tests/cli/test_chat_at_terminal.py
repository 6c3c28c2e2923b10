"""`llmrun chat` as somebody at a terminal has it: the real command behind a pseudo-terminal, with the fake engine."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf_builder as build
import psutil
import pytest

PROGRAM = Path(sys.executable).with_name("llmrun")
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")


class Terminal:
    """The program, and the terminal that it runs in."""

    def __init__(self, environment: dict[str, str], *arguments: str | Path) -> None:
        self._ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.text = ""
        self.process = subprocess.Popen(
            [PROGRAM, "chat", *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=self._own_terminal,
        )

    def _own_terminal(self) -> None:
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, wanted: str, seconds: float = 15) -> str:
        """Read until a text comes; return what came, and forget it."""
        deadline = time.monotonic() + seconds
        while wanted not in self.text and time.monotonic() < deadline:
            self._read()
        assert wanted in self.text, self.text
        seen, _, self.text = self.text.partition(wanted)
        return seen + wanted

    def _read(self) -> None:
        if not select.select([self._ours], [], [], 0.1)[0]:
            return
        data = os.read(self._ours, 1 << 16).decode("utf-8", "replace")
        if "\x1b[6n" in data:  # prompt_toolkit asks where the cursor is
            os.write(self._ours, b"\x1b[1;1R")
        self.text += ESCAPES.sub("", data)

    def end(self, seconds: float = 15) -> int:
        """Return the exit code; what is still written is read meanwhile."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        return self.process.wait(timeout=0.1)

    def is_as_before(self) -> bool:
        """Whether the terminal's settings are those that it had."""
        return termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf(build.llama_pairs(**{"llama.context_length": build.u32(4096)})))
    return path


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def opened(
    terminals: list[Terminal], environment: dict[str, str], model: Path, term: str = "xterm-256color", **script: Any
) -> Terminal:
    fake = {"LLMRUN_ENGINE": "fake", "LLMRUN_FAKE": json.dumps(script), "TERM": term}
    terminals.append(Terminal(environment | fake, model, "--session", "s"))
    return terminals[-1]


def answers(environment: dict[str, str]) -> list[dict[str, Any]]:
    lines = Path(environment["LLMRUN_DATA_DIR"], "sessions", "s.jsonl").read_bytes().splitlines()
    return [record for record in map(json.loads, lines) if record.get("role") == "assistant"]


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_chat_from_its_beginning_to_its_end(
    terminals: list[Terminal], environment: dict[str, str], model: Path, term: str
) -> None:
    terminal = opened(terminals, environment, model, term, answer="The first answer.")
    terminal.wait_for("/help lists the commands")
    terminal.wait_for(">")
    terminal.type("one\r")
    terminal.wait_for("The first answer.")
    terminal.wait_for(">")
    terminal.type("/udno\r")
    terminal.wait_for("there is no command /udno")
    terminal.wait_for(">")
    terminal.type("/exit\r")
    terminal.wait_for("session s; llmrun chat --continue goes on with it")
    assert terminal.end() == 0
    assert terminal.is_as_before()
    assert [answer["content"] for answer in answers(environment)] == ["The first answer."]


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_ctrl_c_stops_an_answer_and_then_leaves(
    terminals: list[Terminal], environment: dict[str, str], model: Path, term: str
) -> None:
    """FAULTS 39."""
    terminal = opened(terminals, environment, model, term, answer="word " * 500, token_seconds=0.02)
    terminal.wait_for(">")
    terminal.type("one\r")
    terminal.wait_for("word word")
    began = time.monotonic()
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    assert time.monotonic() - began < 3  # one second, on a machine that is busy with other tests
    terminal.wait_for(">")
    time.sleep(1.5)  # one that follows at once is taken to be for the answer
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C")
    terminal.type("\x03")
    assert terminal.end() == 0
    (answer,) = answers(environment)
    assert answer["cancelled"] is True
    assert answer["content"].startswith("word word")


def test_ctrl_d_leaves_at_once_while_the_model_loads(
    terminals: list[Terminal], environment: dict[str, str], model: Path
) -> None:
    terminal = opened(terminals, environment, model, load_seconds=60)
    terminal.wait_for(">")
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    assert children
    terminal.type("\x04")
    assert terminal.end(seconds=10) == 0
    assert not psutil.wait_procs(children, timeout=5)[1]


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, id="TERM"), pytest.param(signal.SIGHUP, 129, id="HUP")]
)
def test_a_signal_at_the_prompt(
    terminals: list[Terminal], environment: dict[str, str], model: Path, number: signal.Signals, code: int
) -> None:
    terminal = opened(terminals, environment, model, answer="yes")
    terminal.wait_for(">")
    terminal.type("one\r")
    terminal.wait_for("yes")
    terminal.wait_for(">")
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    terminal.process.send_signal(number)
    assert terminal.end() == code
    assert terminal.is_as_before()
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert len(answers(environment)) == 1


def test_a_killed_engine_is_loaded_again(terminals: list[Terminal], environment: dict[str, str], model: Path) -> None:
    """FAULTS 33: by the system, between two turns."""
    terminal = opened(terminals, environment, model, answer="yes")
    terminal.wait_for(">")
    terminal.type("one\r")
    terminal.wait_for("yes")
    terminal.wait_for(">")
    worker = next(
        child
        for child in psutil.Process(terminal.process.pid).children(recursive=True)
        if "worker" in " ".join(child.cmdline())
    )
    worker.kill()
    terminal.type("two\r")
    terminal.wait_for("nothing of the conversation is lost")
    terminal.wait_for("yes")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert len(answers(environment)) == 2


def test_an_interrupt_from_outside_does_not_end_the_chat(
    terminals: list[Terminal], environment: dict[str, str], model: Path
) -> None:
    """As one does that comes a moment after an answer ended."""
    terminal = opened(terminals, environment, model, answer="yes")
    terminal.wait_for(">")
    for _ in range(3):
        terminal.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    terminal.type("one\r")
    terminal.wait_for("yes")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_session_that_goes_on_shows_where_it_is(
    terminals: list[Terminal], environment: dict[str, str], model: Path
) -> None:
    for first, last in (("one", "the answer"), ("two", "another")):
        terminal = opened(terminals, environment, model, answer=last)
        if first == "two":
            terminal.wait_for("session s: 1 turn")
            terminal.wait_for("> one")
            terminal.wait_for("the answer")
        terminal.wait_for(">")
        terminal.type(f"{first}\r")
        terminal.wait_for(last)
        terminal.wait_for(">")
        terminal.type("\x04")
        assert terminal.end() == 0
