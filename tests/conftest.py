"""What every test may use: the installed program, the real model, and an environment without the user's settings."""

import importlib.util
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pty_output import read_to_end

PROGRAM = Path(sys.executable).with_name("llmrun")


@dataclass(frozen=True)
class Result:
    """What a run of the program left behind."""

    stdout: bytes
    stderr: bytes
    code: int
    seconds: float

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def errors(self) -> str:
        return self.stderr.decode()


def clean_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's is seen, and everything is kept below `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMRUN_", "HF_"))}
    return kept | {
        "LLMRUN_CACHE_DIR": str(folder / "cache"),
        "LLMRUN_DATA_DIR": str(folder / "data"),
        "HF_HOME": str(folder / "huggingface"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # no test asks the real hub; nothing listens there
        "NO_COLOR": "1",
        "COLUMNS": "80",
    }


# Which engines `make test` promises to have: their names; 1 stands for llama-cpp.
REQUIRED = set(os.environ.get("LLMRUN_REQUIRE_ENGINES", "").replace("1", "llama-cpp").split())
PACKAGES = {"pytorch": ("torch", "transformers"), "vllm": ("vllm", "torch"), "ctransformers": ("ctransformers",)}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests of an engine that is not installed, unless it was promised."""
    for engine, packages in PACKAGES.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if item.get_closest_marker(engine) is None or not missing:
            continue
        if engine in REQUIRED:
            pytest.fail(f"{engine} is required, and {', '.join(missing)} cannot be imported")
        pytest.skip(f"{engine} is not installed here: llmrun install {engine}")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path)


@pytest.fixture
def llmrun(environment: dict[str, str]) -> Callable[..., Result]:
    """Run the installed console script to its end, and return what it wrote."""

    def run(
        *arguments: str | bytes | Path,
        stdin: bytes | int | None = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Result:
        started = time.monotonic()
        feed: Any = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, timeout=timeout, env=environment | (env or {}), **feed
        )
        return Result(done.stdout, done.stderr, done.returncode, time.monotonic() - started)

    return run


@pytest.fixture(autouse=True, scope="session")
def heed_signals() -> None:
    """Undo what nohup and background jobs hand down: ignored signals would be ignored by the program under test too."""
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture
def start_llmrun(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the program and leave it running; whatever is left at the end of the test is killed."""
    started = []

    def start(
        *arguments: str | Path,
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [PROGRAM, *arguments], env=environment | (env or {}), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def in_terminal(environment: dict[str, str]) -> Callable[..., tuple[str, int]]:
    """Run the program with a terminal as its standard output; return what the terminal got, and the exit code."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[str, int]:
        ours, theirs = pty.openpty()
        coloured = {name: value for name, value in environment.items() if name != "NO_COLOR"}
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=coloured | {"TERM": "xterm-256color"} | (env or {}),
        )
        os.close(theirs)
        return read_to_end(ours).decode(), process.wait(timeout=10)

    return run


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct, which `make test` fetches; without it the test is skipped, or fails where it must run."""
    path = os.environ.get("LLMRUN_TEST_MODEL")
    if path and Path(path).is_file():
        return Path(path)
    if os.environ.get("LLMRUN_REQUIRE_ENGINES"):
        pytest.fail("LLMRUN_TEST_MODEL names no file, and LLMRUN_REQUIRE_ENGINES is set")
    pytest.skip("LLMRUN_TEST_MODEL names no file (make test sets it)")


@pytest.fixture(scope="session")
def twin() -> Path:
    """The safetensors twin of that model, which `make test` makes where engines that read it are required."""
    path = os.environ.get("LLMRUN_TEST_TWIN")
    if path and Path(path, "config.json").is_file():
        return Path(path)
    if {"pytorch", "vllm"} & set(os.environ.get("LLMRUN_REQUIRE_ENGINES", "").split()):
        pytest.fail("LLMRUN_TEST_TWIN names no folder, and engines that read it are required")
    pytest.skip("LLMRUN_TEST_TWIN names no folder (make test sets it)")
