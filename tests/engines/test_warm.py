"""Workers that outlive their command: handed over, found again, and shared."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from warm_helpers import SAMPLING, Warm, ask, ended, eventually, segments, text_of, warm

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, EngineName, FinishReason
from llmrun.engines.warm.folder import find_names, process_born, runtime_path
from llmrun.engines.warm.workers import attach, find_warm, list_warm, stop_warm
from llmrun.errors import EngineCrashedError, NoUsableEngineError, UsageError

__all__ = ["warm"]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_kept_worker_answers_the_next_command(warm: Warm) -> None:
    worker = warm.kept()
    client = warm.attached(worker)
    assert (client.pid, client.warm, client.plan) == (worker.pid, True, warm.plan())
    assert client.load(warm.plan()) == 4096
    assert ask(client, "hello") == "hello"
    assert client.tokenize(segments("ab")) == [97, 98]
    assert set(client.phases) == {"attach"}


def test_a_cold_start_tells_its_phases(warm: Warm) -> None:
    warm.script(load_seconds=0.2)
    client = warm.cold()
    assert set(client.phases) == {"spawn", "import", "load"}
    assert client.phases["load"] >= 0.2
    assert 0 < sum(client.phases.values()) < 10


def test_detaching_leaves_it_for_the_next_one(warm: Warm) -> None:
    worker = warm.kept()
    for text in ("one", "two", "three"):
        client = warm.attached(worker)
        assert ask(client, text) == text
        client.close()
        client.close()
    assert process_born(worker.pid) == worker.born


def test_twenty_commands_leak_no_descriptor(warm: Warm) -> None:
    worker = warm.kept()
    warm.attached(worker).close()
    here, there = open_descriptors(), Path(f"/proc/{worker.pid}/fd")
    assert eventually(lambda: not list_warm()[0].busy)
    before = len(list(there.iterdir()))
    for _ in range(20):
        client = attach(worker)
        assert client is not None
        assert ask(client, "x") == "x"
        client.close()
    assert open_descriptors() == here
    assert eventually(lambda: len(list(there.iterdir())) <= before)


def test_nothing_ties_it_to_its_first_command(warm: Warm) -> None:
    worker = warm.kept()
    links = [str(link.readlink()) for link in Path(f"/proc/{worker.pid}/fd").glob("[012]")]
    assert sorted(links) == sorted([os.devnull, worker.log_path, worker.log_path])
    assert Path(f"/proc/{worker.pid}/cwd").readlink() == Path("/")
    assert os.getsid(worker.pid) == worker.pid
    for path, mode in ((worker.socket_path, 0o600), (worker.record_path, 0o600), (worker.log_path, 0o600)):
        assert Path(path).stat().st_mode & 0o777 == mode
    assert runtime_path().stat().st_mode & 0o777 == 0o700


def test_it_survives_the_process_that_started_it(warm: Warm) -> None:
    code = f"""
import os
from pathlib import Path
from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.warm.record import make_target
client, path = WorkerClient(EngineName.FAKE), Path({str(warm.model)!r})
client.load(LoadPlan(engine=EngineName.FAKE, model_path=str(path), context_length=4096, threads=1))
client.keep(60, make_target("some-model", path, [path], EngineName.FAKE, {{}}))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    worker = find_warm(warm.target())
    assert worker is not None
    client = warm.attached(worker)
    assert ask(client, "still here") == "still here"
    client.close()
    assert stop_warm(worker)
    assert process_born(worker.pid) is None


def test_one_that_finds_it_busy_goes_elsewhere(warm: Warm) -> None:
    worker = warm.kept()
    first = warm.attached(worker)
    began = time.monotonic()
    assert attach(worker) is None
    assert time.monotonic() - began < 0.5
    found = find_warm(warm.target())
    assert found is not None
    assert found.busy
    first.close()
    assert ask(warm.attached(worker), "free again") == "free again"


def test_an_idle_one_is_preferred(warm: Warm) -> None:
    workers = [warm.cold(), warm.cold()]
    for client in workers:
        client.keep(60, warm.target())
    one = find_warm(warm.target())
    assert one is not None
    warm.attached(one)
    other = find_warm(warm.target())
    assert other is not None
    assert (other.busy, {one.pid, other.pid}) == (False, {client.pid for client in workers})


@pytest.mark.parametrize("how", ["other option", "other file", "other environment", "other engine"])
def test_what_is_not_the_same_is_not_found(warm: Warm, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm.kept(context_length=100)
    if how == "other file":
        other = warm.folder / "other.gguf"
        other.write_bytes(b"weights")
        warm.model = other
    if how == "other environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    target = warm.target(context_length=101 if how == "other option" else 100)
    if how == "other engine":
        from llmrun.engines.warm.record import make_target

        target = make_target("some-model", warm.model, [warm.model], EngineName.LLAMA_CPP, {"context_length": 100})
    assert find_warm(target) is None
    assert len(list_warm()) == 1  # and it is left alone


def test_an_answer_whose_reader_goes_is_cancelled(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    worker = warm.kept()
    client = warm.attached(worker)
    assert isinstance(next(client.generate(segments("hi"), SAMPLING)), Delta)
    client.close()
    assert eventually(lambda: not list_warm()[0].busy, 1)
    assert isinstance(next(warm.attached(worker).generate(segments("hi"), SAMPLING)), Delta)


def test_a_worker_in_mid_answer_can_be_kept(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    client = warm.cold()
    events = client.generate(segments("hi"), SAMPLING)
    next(events)
    client.keep(60, warm.target())
    worker = find_warm(warm.target())
    assert worker is not None
    assert isinstance(next(warm.attached(worker).generate(segments("hi"), SAMPLING)), Delta)


def test_cancelling_works_as_with_a_worker_of_ones_own(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    client = warm.attached(warm.kept())
    next(client.generate(segments("hi"), SAMPLING))
    _, done = text_of(client.cancel())
    assert done.finish_reason is FinishReason.CANCELLED
    assert client.tokenize(segments("a")) == [97]


@pytest.mark.slow
def test_an_engine_deaf_to_the_end_of_its_client_ends(warm: Warm) -> None:
    warm.script(answer="abc", hang_at=2)
    worker = warm.kept()
    client = warm.attached(worker)
    next(client.generate(segments("hi"), SAMPLING))
    time.sleep(0.2)  # until it hangs
    client.close()
    assert ended(worker, 12)


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        pytest.param(signal.SIGKILL, EngineCrashedError, "killed by the system", id="kill"),
        pytest.param(signal.SIGSEGV, EngineCrashedError, "SIGSEGV", id="segv"),
        pytest.param(signal.SIGABRT, EngineCrashedError, "SIGABRT", id="abrt"),
        pytest.param(signal.SIGBUS, EngineCrashedError, "SIGBUS", id="bus"),
        pytest.param(signal.SIGILL, NoUsableEngineError, "SIGILL", id="ill"),
    ],
)
def test_death_in_mid_answer_is_told_with_its_cause(
    warm: Warm, number: signal.Signals, kind: type[Exception], said: str
) -> None:
    warm.script(answer="abcdef", crash_signal=int(number), crash_at=4)
    worker = warm.kept()
    client = warm.attached(worker)
    got = []
    with pytest.raises(kind, match=said):
        got.extend(client.generate(segments("hi"), SAMPLING))
    assert "".join(event.text for event in got if isinstance(event, Delta)) == "abc"
    assert find_warm(warm.target()) is None
    assert list(runtime_path().iterdir()) == []  # the next command starts anew, and has tidied up
    assert warm.kept().pid != worker.pid


def test_killed_from_outside_while_a_command_waits(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.05)
    worker = warm.kept()
    client = warm.attached(worker)
    threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(EngineCrashedError, match="SIGKILL"):
        list(client.generate(segments("hi"), SAMPLING))


def test_a_bug_in_an_adapter_is_told_with_its_last_line(warm: Warm) -> None:
    warm.script(answer="abc", raise_at=2)
    client = warm.attached(warm.kept())
    with pytest.raises(EngineCrashedError, match="ZeroDivisionError: a bug in an adapter"):
        list(client.generate(segments("hi"), SAMPLING))


def test_nothing_is_kept_that_has_loaded_nothing(warm: Warm) -> None:
    client = WorkerClient(EngineName.FAKE)
    warm.clients.append(client)
    with pytest.raises(UsageError, match="nothing to keep"):
        client.keep(60, warm.target())
    assert not client.loaded
    assert find_names() == []
