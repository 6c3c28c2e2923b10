"""What every row of `make perf` needs: the model, the peers, and the ways to run a command or a helper and time it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from peers import Peers

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, LoadPlan, SamplingOptions, Segment, Stats

__all__ = [
    "ENVIRONMENT",
    "HERE",
    "PAUSE_SECONDS",
    "PROGRAM",
    "Bench",
    "Command",
    "Helper",
    "answer",
    "busy_core",
    "first_byte",
    "greedy",
    "once",
    "output",
    "peak_memory",
    "plan_for",
    "worker_for",
]

PROGRAM = Path(sys.executable).with_name("llmrun")
HERE = Path(__file__).resolve().parent
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"NO_COLOR": "1"}
PAUSE_SECONDS = 0.3  # until the OpenMP threads of the other side have stopped spinning
_LIMIT_SECONDS = 300.0
_SAMPLE_SECONDS = 0.005

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured with what.

    Attributes:
        model: The GGUF file.
        threads: Threads of every side.
        pairs: Pairs of a row that takes seconds; longer ones take fewer.
        peers: llama.cpp's programs, if `make peers` was run.
        xllamacpp: The Python that has xllamacpp, likewise.
        scratch: A folder that is removed at the end.
    """

    model: str
    threads: int
    pairs: int
    peers: Peers | None
    xllamacpp: Path | None
    scratch: Path

    def fewer(self, share: float) -> int:
        """Return the pairs of a row that takes longer."""
        return max(3, round(self.pairs * share))


def once(command: Command, env: Mapping[str, str] | None = None) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    _run(command, env)
    return time.perf_counter() - started


def output(command: Command) -> str:
    """Return what a command prints."""
    return _run(command).stdout


def _run(command: Command, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=ENVIRONMENT | dict(env or {}),
        timeout=_LIMIT_SECONDS,
        encoding="utf-8",
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done


def first_byte(command: Command) -> float:
    """Return the seconds from the start of a command to the first byte of its output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        if not os.read(process.stdout.fileno(), 1):
            raise SystemExit(f"{' '.join(map(str, command))} printed nothing")
        seconds = time.perf_counter() - started
        process.communicate(timeout=_LIMIT_SECONDS)
    return seconds


def peak_memory(command: Command) -> float:
    """Return the largest sum of the proportional set sizes (PSS) of a command's processes, in MiB."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            members = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in members))
        except psutil.Error:
            continue
        time.sleep(_SAMPLE_SECONDS)
    return peak / 2**20


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep the first core busy from another process, meanwhile."""
    command = [sys.executable, "-c", f"import time\nend = time.monotonic() + {_LIMIT_SECONDS}\n{_SPIN}"]
    process = subprocess.Popen(command)
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        time.sleep(PAUSE_SECONDS)
        yield
    finally:
        process.kill()
        process.wait()


_SPIN = "while time.monotonic() < end:\n    pass"


class Helper:
    """A program that answers lines of words with lines of numbers, so that its model stays loaded between turns."""

    def __init__(self, command: Command) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            encoding="utf-8",
        )

    def ask(self, *words: object) -> list[float]:
        """Ask for one measurement."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        time.sleep(PAUSE_SECONDS)
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended")
        return [float(word) for word in line.split()]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def plan_for(bench: Bench, model: str | None = None, **more: Any) -> LoadPlan:
    """Return a plan in which nothing is guessed ahead and nothing is kept on disk."""
    common: dict[str, Any] = {"context_length": 2048, "context_is_fixed": True, "lookup": "off"}
    return LoadPlan(
        engine=EngineName.LLAMA_CPP, model_path=model or bench.model, threads=bench.threads, **(common | more)
    )


@contextlib.contextmanager
def worker_for(plan: LoadPlan) -> Iterator[WorkerClient]:
    """Have a worker process with a model loaded."""
    worker = WorkerClient(EngineName.LLAMA_CPP)
    try:
        worker.load(plan)
        yield worker
    finally:
        worker.close()


def greedy(tokens: int) -> SamplingOptions:
    """Return options with which every side chooses the same tokens."""
    return SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=tokens, seed=0, stop=()
    )


def answer(worker: WorkerClient, text: str, tokens: int, *, special: bool = False) -> tuple[Stats, float]:
    """Have a text continued; return the statistics, and the seconds to the first text that was handed out."""
    started = time.perf_counter()
    first = 0.0
    for event in worker.generate([Segment(text=text, special=special)], greedy(tokens)):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter() - started
        elif isinstance(event, Done):
            return event.stats, first
    raise SystemExit("the worker ended without Done")
