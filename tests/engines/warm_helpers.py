"""Warm workers for tests: a runtime folder of the test's own, and nothing left running at its end."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, Event, LoadPlan, SamplingOptions, Segment
from llmrun.engines.warm.folder import find_names, process_born, runtime_path
from llmrun.engines.warm.record import WarmTarget, WarmWorker, make_target
from llmrun.engines.warm.workers import attach, find_warm

SAMPLING = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=None, seed=0, stop=())


class Warm:
    """Makes workers of the fake engine for one model file, and remembers them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.model = folder / "model.gguf"
        self.model.write_bytes(b"weights")
        self.clients: list[WorkerClient] = []
        self._monkeypatch = monkeypatch

    def script(self, **script: Any) -> None:
        self._monkeypatch.setenv("LLMRUN_FAKE", json.dumps(script))

    def target(self, reference: str = "some-model", **asked: Any) -> WarmTarget:
        return make_target(reference, self.model, [self.model], EngineName.FAKE, asked)

    def plan(self) -> LoadPlan:
        return LoadPlan(engine=EngineName.FAKE, model_path=str(self.model), context_length=4096, threads=1)

    def cold(self) -> WorkerClient:
        client = WorkerClient(EngineName.FAKE)
        self.clients.append(client)
        client.load(self.plan())
        return client

    def kept(self, seconds: float | None = 60, **asked: Any) -> WarmWorker:
        """Start a worker, keep it, and return it as the next command would find it."""
        client = self.cold()
        client.keep(seconds, self.target(**asked))
        found = find_warm(self.target(**asked))
        assert found is not None
        assert found.pid == client.pid
        return found

    def attached(self, worker: WarmWorker) -> WorkerClient:
        client = attach(worker)
        assert client is not None
        self.clients.append(client)
        return client


def segments(text: str) -> list[Segment]:
    return [Segment(text=text, special=True)]


def text_of(events: Iterator[Event]) -> tuple[str, Done]:
    got = list(events)
    done = got.pop()
    assert isinstance(done, Done)
    return "".join(event.text for event in got if isinstance(event, Delta)), done


def ask(client: WorkerClient, text: str) -> str:
    return text_of(client.generate(segments(text), SAMPLING))[0]


def eventually(check: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ended(worker: WarmWorker, seconds: float = 5) -> bool:
    """Whether a worker ends in time. It is a child of the process that runs the tests: a zombie counts as ended."""
    return eventually(lambda: process_born(worker.pid) != worker.born, seconds)


def reap() -> None:
    """Collect the workers that were handed over and have ended."""
    from llmrun.engines import client_process

    for process in client_process._handed_over:
        if process_born(process.pid) is None:
            process.wait(timeout=5)
    client_process._handed_over[:] = [each for each in client_process._handed_over if each.returncode is None]


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMRUN_FAKE", raising=False)
    made = Warm(tmp_path, monkeypatch)
    yield made
    kill_all(made)


def kill_all(made: Warm) -> None:
    for client in made.clients:
        client.close()
    pids = {client.pid for client in made.clients}
    with contextlib.suppress(Exception):
        pids |= {pid for _, pid in find_names()}
    for pid in pids:
        if pid != os.getpid() and process_born(pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            assert eventually(lambda pid=pid: process_born(pid) is None)  # type: ignore[misc]
    reap()
    for path in runtime_path().glob("*"):
        path.unlink()
    if runtime_path().is_symlink():
        runtime_path().unlink()
    elif runtime_path().exists():
        runtime_path().rmdir()
