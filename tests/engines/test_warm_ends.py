"""When workers that outlived their command end, what is left of dead ones, and whom they serve."""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from warm_helpers import SAMPLING, Warm, ask, ended, eventually, segments, warm

from llmrun.engines.warm import link as warm_link
from llmrun.engines.warm import peer as warm_peer
from llmrun.engines.warm.folder import process_born, runtime_folder, runtime_path, seems_loaded
from llmrun.engines.warm.record import WarmWorker
from llmrun.engines.warm.server import WarmServer, is_short_of_memory
from llmrun.engines.warm.workers import attach, find_warm, list_warm, stop_idle, stop_warm
from llmrun.errors import EngineCrashedError, SecurityError
from llmrun.hardware.types import MemoryInfo

__all__ = ["warm"]


def test_it_ends_when_nobody_comes(warm: Warm) -> None:
    worker = warm.kept(0.5)
    assert ended(worker, 2)
    assert list(runtime_path().iterdir()) == []


@pytest.mark.slow
def test_use_prolongs_its_life(warm: Warm) -> None:
    worker = warm.kept(1)
    for _ in range(4):
        time.sleep(0.5)
        client = warm.attached(worker)
        assert ask(client, "x") == "x"
        client.close()
    assert ended(worker, 3)


def test_a_command_can_say_anew_how_long(warm: Warm) -> None:
    worker = warm.kept(60)
    client = warm.attached(worker)
    client.keep(0.5, warm.target())
    assert client.closed
    assert ended(worker, 2)


def test_forever_has_no_end(warm: Warm) -> None:
    worker = warm.kept(None)
    assert (worker.keep_seconds, worker.expires) == (None, None)


@pytest.mark.parametrize("how", ["changed", "removed", "replaced"])
def test_another_model_file_ends_it(warm: Warm, how: str) -> None:
    worker = warm.kept(5)  # looks around ten times in that time
    if how == "changed":
        warm.model.write_bytes(b"other weights")
    elif how == "removed":
        warm.model.unlink()
    else:
        other = warm.folder / "other"
        other.write_bytes(b"weights")
        other.rename(warm.model)
    assert attach(worker) is None
    assert ended(worker, 2)


def test_looking_for_a_changed_model_ends_the_worker_that_has_the_old_one(warm: Warm) -> None:
    worker = warm.kept(600)
    warm.model.write_bytes(b"other weights")
    assert find_warm(warm.target()) is None
    assert ended(worker, 1)


def test_an_upgrade_ends_it(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmrun

    worker = warm.kept(600)
    code = warm.folder / "__init__.py"
    code.write_text("")
    with monkeypatch.context() as changed:
        changed.setattr(llmrun, "__file__", str(code))
        assert find_warm(warm.target()) is None  # another installation beside it wants one of its own
    assert find_warm(warm.target()) == worker  # and leaves this one alone
    older = tuple(replace(file, modified_ns=1) for file in worker.target.code)
    replace(worker, target=replace(worker.target, code=older)).write()
    assert find_warm(warm.target()) is None
    assert ended(worker, 1)


@pytest.mark.parametrize(
    ("memory", "short"),
    [
        pytest.param((100, 6, None), False, id="enough"),
        pytest.param((100, 4, None), True, id="too little"),
        pytest.param((1000, 6, 100), False, id="enough of the limit"),
        pytest.param((1000, 40, None), True, id="too little of all"),
        pytest.param((0, 0, None), False, id="unknown"),
    ],
)
def test_short_of_memory(memory: tuple[int, int, int | None], short: bool) -> None:
    total, available, limit = memory
    info = MemoryInfo(total_bytes=total, available_bytes=available, limit_bytes=limit, limit_source=None)
    assert is_short_of_memory(info) is short


@pytest.mark.parametrize(
    ("available", "reason"), [pytest.param(60, None, id="enough"), pytest.param(40, "short of memory", id="short")]
)
def test_it_gives_its_memory_back_when_others_need_it(
    warm: Warm, monkeypatch: pytest.MonkeyPatch, available: int, reason: str | None
) -> None:
    memory = MemoryInfo(total_bytes=1000, available_bytes=available, limit_bytes=None, limit_source=None)
    server = WarmServer(warm.target(), warm.plan(), 4096, 600, lambda _connection: None, lambda: memory)
    monkeypatch.setattr(server, "_change", lambda: None)
    server._checked = -1000.0
    assert server._why_end() is None  # not while it is busy
    server.idle()
    server._checked = -1000.0
    assert server._why_end() == reason
    server._remove_files()
    server.close()


@pytest.mark.parametrize("missing", [".json", ".sock"])
def test_one_that_cannot_be_found_any_more_ends(warm: Warm, missing: str) -> None:
    worker = warm.kept(5)
    Path(worker.stem + missing).unlink()
    assert find_warm(warm.target()) is None
    assert ended(worker, 2)
    assert list(runtime_path().iterdir()) == []


@pytest.mark.parametrize("what", ["dead", "recycled pid", "garbage", "foreign version", "no description"])
def test_what_dead_workers_left_is_removed(warm: Warm, what: str) -> None:
    worker = warm.kept()
    os.kill(worker.pid, signal.SIGKILL)
    assert ended(worker)
    record = Path(worker.record_path)
    if what == "recycled pid":
        text = record.read_text().replace(f'"pid": {worker.pid}', f'"pid": {os.getpid()}')
        record.unlink()
        record.with_name(f"{worker.target.mark}-{os.getpid()}.json").write_text(text)
    elif what == "garbage":
        record.write_text("{")
    elif what == "foreign version":
        record.write_text(record.read_text().replace('"protocol": 1', '"protocol": 2'))
    elif what == "no description":
        record.unlink()
    else:
        assert Path(worker.socket_path).is_socket()
    assert find_warm(warm.target()) is None
    left = {path.name for path in runtime_path().iterdir()}
    # A new owner of the process id only lends its name: what belongs to the dead one is found under the old name.
    assert left == set()


def test_a_socket_without_a_listener_is_not_waited_for(warm: Warm) -> None:
    worker = warm.kept()
    os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert attach(worker) is None
    assert time.monotonic() - began < 1.5
    assert stop_warm(worker, force=True)
    assert attach(worker) is None


def test_a_process_of_another_user_is_refused(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = warm.kept()
    monkeypatch.setattr(warm_link, "peer_user", lambda _connection: os.geteuid() + 1)
    with pytest.raises(SecurityError, match="belongs to user"):
        attach(worker)


def test_the_kernel_says_whose_process_it_is() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert warm_peer.peer_user(one) == os.geteuid()


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_folder_open_to_others_is_refused(warm: Warm, mode: int) -> None:
    runtime_folder().chmod(mode)
    for step in (runtime_folder, list_warm, lambda: find_warm(warm.target())):
        with pytest.raises(SecurityError, match="open to others"):
            step()
    client = warm.cold()
    with pytest.raises(SecurityError, match="open to others"):
        client.keep(60, warm.target())
    assert not seems_loaded(["some-model"])
    assert ask(client, "the answer came before") == "the answer came before"


def test_a_link_in_place_of_the_folder_is_refused(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime_path().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecurityError, match="something else"):
        runtime_folder()


def test_a_folder_of_another_user_is_refused(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runtime_folder()
    with monkeypatch.context() as changed:
        changed.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        changed.setattr("llmrun.engines.warm.folder.runtime_path", lambda: folder)
        with pytest.raises(SecurityError, match="belongs to user"):
            runtime_folder()


def test_long_paths_still_have_room_for_a_socket(warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / ("cache" * 30)))
    worker = warm.kept()
    assert len(worker.socket_path) < 104
    assert ask(warm.attached(worker), "hi") == "hi"


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLMRUN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/shm" if os.geteuid() == 0 else str(tmp_path))
    plain = runtime_path()
    assert plain.name == "llmrun"
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "one"))
    one = runtime_path()
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "two"))
    assert len({plain, one, runtime_path()}) == 3
    monkeypatch.delenv("LLMRUN_CACHE_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "not there"))
    assert runtime_path() == Path(f"/tmp/llmrun-{os.geteuid()}")


def test_stopping(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    idle, busy = warm.kept(context_length=1), warm.kept(context_length=2)
    client = warm.attached(busy)
    next(client.generate(segments("hi"), SAMPLING))
    assert stop_idle() == 1
    assert ended(idle, 0)
    assert stop_warm(busy) is False  # it ends after its answer
    assert process_born(busy.pid) == busy.born
    client.close()
    assert ended(busy, 2)


def test_stopping_by_force_does_not_wait(warm: Warm) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    worker = warm.kept()
    client = warm.attached(worker)
    events = client.generate(segments("hi"), SAMPLING)
    next(events)
    assert stop_warm(worker, force=True)
    with pytest.raises(EngineCrashedError):
        list(events)


def test_garbage_on_the_socket_changes_nothing(warm: Warm) -> None:
    worker = warm.kept()
    for data in (b"", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{}", b"\0\0\0\1{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(worker.socket_path)
            connection.sendall(data)
    assert ask(warm.attached(worker), "hi") == "hi"


def test_a_description_is_read_as_it_was_written(warm: Warm) -> None:
    worker = warm.kept()
    assert WarmWorker.read(Path(worker.record_path)) == worker
    assert (worker.plan, worker.target) == (warm.plan(), warm.target())
    assert worker.expires == worker.used + 60


def test_looking_for_live_workers_is_quick(warm: Warm) -> None:
    assert not seems_loaded(["some-model"])
    worker = warm.kept()
    assert seems_loaded(["--offline", "some-model", "hi"])
    assert not seems_loaded(["other-model", "hi"])
    client = warm.attached(worker)
    assert not seems_loaded(["some-model"])  # it is busy
    client.close()
    assert eventually(lambda: seems_loaded(["some-model"]))
    best = min(_seconds_to_look() for _ in range(20))
    assert best < 0.001


def _seconds_to_look() -> float:
    began = time.perf_counter()
    seems_loaded(["some-model"])
    return time.perf_counter() - began
