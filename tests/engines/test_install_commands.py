"""Calling pip or uv, reading what they print, and stopping them."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from llmrun.engines.install.build_output import BuildMonitor
from llmrun.engines.install.commands import find_installer, run_command
from llmrun.engines.install.types import Command
from llmrun.errors import NoUsableEngineError, StorageError
from llmrun.progress import Unit


class Events:
    """Progress as a list of what happened."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def begin(self, task: str, total: int | None, unit: Unit = "bytes", done: int = 0) -> None:
        self.seen.append(("begin", task, total, unit))

    def advance(self, amount: int) -> None:
        self.seen.append(("advance", amount))

    def finish(self) -> None:
        self.seen.append(("finish",))

    def note(self, text: str) -> None:
        self.seen.append(("note", text))


def test_output_becomes_progress() -> None:
    events = Events()
    monitor = BuildMonitor(events, "thing 1.0")
    for line in [
        "Collecting llama-cpp-python==0.3.36",
        "  Downloading https://files.example/llama_cpp_python-0.3.36.tar.gz (76.6 MB)",
        "Progress 5000000 of 76589250",
        "Progress 76589250 of 76589250",
        "  Installing build dependencies: started",
        "  Installing build dependencies: finished with status 'done'",
        "  *** Configuring CMake...",
        "  -- The C compiler identification is Clang 19.1.7",
        "  [1/75] /usr/bin/clang++-19 -c a.cpp",
        "  [3/75] /usr/bin/clang++-19 -c b.cpp",
        "  [75/75] : && clang++-19 -shared",
        "  *** Installing project into wheel...",
    ]:
        monitor.feed(line)
    monitor.finish()
    monitor.finish()
    archive = "fetching llama_cpp_python-0.3.36.tar.gz"
    assert events.seen == [
        ("begin", archive, None, "bytes"),
        ("finish",),
        ("begin", archive, 76589250, "bytes"),
        ("advance", 5000000),
        ("advance", 71589250),
        ("finish",),
        ("begin", "fetching the build tools", None, "bytes"),
        ("finish",),
        ("begin", "configuring", None, "bytes"),
        ("finish",),
        ("begin", "compiling thing 1.0", 75, "steps"),
        ("advance", 1),
        ("advance", 2),
        ("advance", 72),
        ("finish",),
        ("begin", "packaging", None, "bytes"),
        ("finish",),
    ]


def test_make_counts_in_percent() -> None:
    events = Events()
    monitor = BuildMonitor(events, "thing")
    for line in ["[  1%] Building CXX object a.o", "[ 50%] Building CXX object b.o", "[100%] Built target llama"]:
        monitor.feed(line)
    assert events.seen == [
        ("begin", "compiling thing", 100, "steps"),
        ("advance", 1),
        ("advance", 49),
        ("advance", 50),
    ]


def test_small_downloads_are_not_worth_a_bar() -> None:
    events = Events()
    monitor = BuildMonitor(events, "thing")
    for line in ["Downloading https://files.example/ninja-1.12-py3-none-any.whl (0.4 MB)", "Progress 100 of 400000"]:
        monitor.feed(line)
    assert events.seen == [("begin", "fetching ninja-1.12-py3-none-any.whl", None, "bytes")]


def test_pip_comes_before_uv() -> None:
    found = find_installer(python="/env/bin/python", has_pip=True, which=lambda _: "/bin/uv")
    assert found.install == ("/env/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install")


def test_uv_serves_an_environment_without_pip() -> None:
    found = find_installer(python="/env/bin/python", has_pip=False, which=lambda name: f"/bin/{name}")
    assert found.install == ("/bin/uv", "pip", "install", "--python", "/env/bin/python")
    assert found.pip[:2] == ("/bin/uv", "run")
    assert "/env/bin/python" in found.pip


def test_neither_pip_nor_uv() -> None:
    with pytest.raises(NoUsableEngineError) as caught:
        find_installer(python="/env/bin/python", has_pip=False, which=lambda _: None)
    assert caught.value.fix == "/env/bin/python -m ensurepip"


def test_every_line_is_watched_and_logged(tmp_path: Path) -> None:
    program = (
        "import os, sys; print('one', flush=True); os.write(2, b'two \\xff\\n'); sys.exit(int(os.environ['CODE']))"
    )
    lines: list[str] = []
    command = Command(argv=(sys.executable, "-c", program), variables=(("CODE", "7"),))
    run = run_command(command, tmp_path / "log", lines.append)
    assert run.code == 7
    assert lines == list(run.tail) == ["one", "two \ufffd"]
    log = (tmp_path / "log").read_text()
    assert log.startswith("$ CODE=7 ")
    assert log.endswith("one\ntwo \ufffd\nexit status 7\n")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoUsableEngineError, match="cannot be started: No such file"):
        run_command(Command(argv=(str(tmp_path / "missing"),)), tmp_path / "log", lambda _: None)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        run_command(Command(argv=("true",)), tmp_path / "no" / "log", lambda _: None)


def test_an_interruption_ends_the_whole_family(tmp_path: Path) -> None:
    """A compiler below pip does not notice that nobody reads any more."""
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\nchild.wait()\n"
    )
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command(Command(argv=(sys.executable, "-c", program)), tmp_path / "log", interrupt)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pids[0]) and psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
