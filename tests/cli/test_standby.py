"""Commands that are carried out by the process that waits behave as those that are not."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from warm_helpers import Warm, eventually, warm

from llmrun.engines.warm.folder import runtime_folder
from llmrun.engines.warm.workers import list_warm

__all__ = ["warm"]

Run = Callable[..., Any]


class Standby:
    """`llmrun run` with a model that is loaded and a process that waits."""

    def __init__(self, llmrun: Run, start: Callable[..., subprocess.Popen[bytes]], warm: Warm) -> None:
        self._llmrun, self._start = llmrun, start
        self.environment = {"LLMRUN_ENGINE": "fake", "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}
        pairs = build.llama_pairs(**{"llama.context_length": build.u32(4096)})
        warm.model.write_bytes(build.build_gguf(pairs))
        self.model = str(warm.model)
        self.socket = runtime_folder() / "standby.sock"

    def load(self, **script: Any) -> None:
        """Leave a worker and a waiting process behind."""
        self.environment["LLMRUN_FAKE"] = json.dumps(script)
        assert self("run", self.model, "x", "--raw", "--keep-alive", "1m", "--max-tokens", "1").code == 0
        assert eventually(self.socket.exists)
        assert eventually(lambda: not list_warm()[0].busy)
        time.sleep(0.3)  # it reads the model's header before it answers for the first time

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Any:
        return self._llmrun(*arguments, env=self.environment | (env or {}), **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return self._start(*arguments, env=self.environment, **options)

    def pid(self) -> int:
        """Return the process that waits."""
        (worker,) = list_warm()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != worker.pid:
                try:
                    named = b"llmrun.cli.standby.serving" in (entry / "cmdline").read_bytes()
                    here = f"XDG_RUNTIME_DIR={self.environment['XDG_RUNTIME_DIR']}".encode()
                    if named and here in (entry / "environ").read_bytes():
                        return int(entry.name)
                except OSError:
                    continue
        raise AssertionError("nobody waits")

    def copies(self) -> list[int]:
        """Return the processes that carry out commands."""
        pid = self.pid()
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@pytest.fixture
def standby(llmrun: Run, start_llmrun: Callable[..., subprocess.Popen[bytes]], warm: Warm) -> Standby:
    return Standby(llmrun, start_llmrun, warm)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("hello", "--raw"), 0, id="an answer"),
        pytest.param(("hello", "--raw", "--json", "--seed", "1"), 0, id="a document"),
        pytest.param(("hello", "--raw", "--max-tokens", "2"), 0, id="a notice"),
        pytest.param(("",), 2, id="an empty prompt"),
        pytest.param(("hello", "--no-such-option"), 2, id="a wrong option"),
        pytest.param(("hello", "--file", "no-such-file"), 2, id="a missing file"),
        pytest.param(("x" * 5000, "--raw"), 10, id="a prompt that is too long"),
    ],
)
def test_the_same_comes_out(standby: Standby, arguments: tuple[str, ...], code: int) -> None:
    standby.load()
    handed = standby("run", standby.model, *arguments)
    own = standby("run", standby.model, *arguments, env={"LLMRUN_NO_STANDBY": "1"})
    assert (handed.code, _timeless(handed.text), handed.errors) == (own.code, _timeless(own.text), own.errors)
    assert handed.code == code


def _timeless(text: str) -> Any:
    """Leave out of a document what is measured."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    return {name: value for name, value in document.items() if name != "timings"}


def test_it_is_really_handed_over(standby: Standby) -> None:
    standby.load(answer="x" * 4000, token_seconds=0.02)
    process = standby.start("run", standby.model, "hello", "--raw")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    assert any(_is_alive(pid) for pid in standby.copies())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_the_callers_files_folder_and_environment_are_used(standby: Standby, tmp_path: Path) -> None:
    standby.load()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "note.txt").write_text("from a file")
    command = [str(word) for word in (_program(), "run", standby.model, "--raw", "--file", "note.txt", "--quiet")]
    done = subprocess.run(
        command,
        cwd=tmp_path / "here",
        input=b"from a pipe",
        capture_output=True,
        env={**os.environ, **standby.environment, "LLMRUN_MAX_TOKENS": "11"},
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"from a file\n", b"")


def _program() -> Path:
    import sys

    return Path(sys.executable).with_name("llmrun")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_arrive(standby: Standby, number: signal.Signals, code: int) -> None:
    standby.load(answer="x" * 4000, token_seconds=0.02)
    process = standby.start("run", standby.model, "hello", "--raw")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    process.send_signal(number)
    assert process.wait(timeout=10) == code
    assert eventually(lambda: not [pid for pid in standby.copies() if _is_alive(pid)])


def test_a_killed_command_ends_its_copy(standby: Standby) -> None:
    standby.load(answer="x" * 4000, token_seconds=0.02)
    process = standby.start("run", standby.model, "hello", "--raw")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    process.kill()
    process.wait(timeout=10)
    assert eventually(lambda: not [pid for pid in standby.copies() if _is_alive(pid)])


def test_a_killed_standby_is_named(standby: Standby) -> None:
    standby.load(answer="x" * 4000, token_seconds=0.02)
    process = standby.start("run", standby.model, "hello", "--raw")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    os.kill(standby.pid(), signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 70
    assert b"ended from outside" in errors


def test_a_reader_that_leaves_ends_it_silently(standby: Standby) -> None:
    standby.load(answer="x" * 4000, token_seconds=0.005)
    process = standby.start("run", standby.model, "hello", "--raw")
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=10) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.parametrize("changed", [{"PYTHONUTF8": "1"}, {"LC_ALL": "POSIX"}])
def test_other_circumstances_take_the_ordinary_way(standby: Standby, changed: dict[str, str]) -> None:
    standby.load(answer="x" * 400, token_seconds=0.02)
    process = standby._start("run", standby.model, "hello", "--raw", env=standby.environment | changed)
    assert process.stdout is not None
    process.stdout.read(1)
    assert not [pid for pid in standby.copies() if _is_alive(pid)]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_it_ends_with_the_last_worker(standby: Standby) -> None:
    standby.load()
    pid = standby.pid()
    assert standby("stop", "--all").code == 0
    assert eventually(lambda: not _is_running(pid))
    assert not standby.socket.exists()


def test_garbage_on_its_socket_does_no_harm(standby: Standby) -> None:
    import socket

    standby.load()
    for data in (b"", b"x", (1 << 60).to_bytes(8, "big"), b"\0" * 4096):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(standby.socket))
            connection.sendall(data)
    assert standby("run", standby.model, "still here", "--raw").text == "still here\n"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    """Whether it is a copy of the waiting process, not the renderer that waits too."""
    try:
        return _is_running(pid) and b"render_child" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
