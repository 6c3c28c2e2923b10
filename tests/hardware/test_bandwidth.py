"""Memory bandwidth: a plausible figure in time, kept privately, taken once."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from llmrun.errors import StorageError
from llmrun.hardware import bandwidth
from llmrun.hardware.bandwidth import (
    keep_bandwidth,
    known_bandwidth,
    learn_bandwidth,
    measure_bandwidth,
    read_bandwidth,
)
from llmrun.hardware.types import CpuInfo, Machine, MemoryInfo

MIB = 1 << 20
GIB = 1 << 30


def machine(
    *,
    name: str = "Test CPU",
    threads: int = 2,
    memory: int = 8 * GIB,
    available: int = 4 * GIB,
    known: float | None = None,
) -> Machine:
    cpu = CpuInfo(
        name=name,
        architecture="x86_64",
        physical_cores=threads,
        logical_cores=threads,
        affinity=threads,
        quota=None,
        isa_flags=frozenset(),
    )
    return Machine(
        system="linux",
        python_version="3.11.7",
        cpu=cpu,
        memory=MemoryInfo(total_bytes=memory, available_bytes=available),
        memory_bandwidth_bytes_per_second=known,
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the measurement by one that takes no time; what it was asked to take is written down."""
    asked: list[int] = []

    def measure(threads: int, seconds: float = 1.0, buffer_bytes: int | None = None) -> float:
        asked.append(buffer_bytes or 0)
        return 2.5e10

    monkeypatch.setattr(bandwidth, "measure_bandwidth", measure)
    return asked


def test_a_measurement_is_plausible_and_leaves_no_thread() -> None:
    before = threading.active_count()
    assert 1e8 < measure_bandwidth(2, seconds=0.05, buffer_bytes=16 * MIB) < 1e13
    assert threading.active_count() == before


@pytest.mark.slow
def test_the_whole_measurement_takes_under_two_seconds() -> None:
    started = time.monotonic()
    assert measure_bandwidth(2) > 1e8
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("threads", "buffer_bytes"),
    [
        pytest.param(2, 1, id="less than a byte for each thread"),
        pytest.param(2, 1 << 62, id="more than there is"),
        pytest.param(1, 0, id="nothing"),
    ],
)
def test_no_buffer_is_no_figure(threads: int, buffer_bytes: int) -> None:
    assert measure_bandwidth(threads, seconds=0.01, buffer_bytes=buffer_bytes) == 0.0


def test_no_such_function_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_load_memchr", lambda: None)
    assert measure_bandwidth(1) == 0.0


def test_no_more_threads_is_no_figure_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_one(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    before = time.monotonic()
    assert measure_bandwidth(2, buffer_bytes=2 * MIB) == 0.0
    assert time.monotonic() - before < 0.9
    assert not started[0].is_alive()


def test_the_best_slice_counts_and_only_where_all_read() -> None:
    slow = [bandwidth._Read(0.0, 0.2, 20), bandwidth._Read(0.2, 0.4, 40)]
    late = [bandwidth._Read(0.1, 0.2, 10), bandwidth._Read(0.2, 0.3, 10), bandwidth._Read(0.3, 0.5, 60)]
    # From 0.1 to 0.4 both read: 100 + 100, 200 + 100, 200 + 300 bytes per second.
    assert bandwidth._find_best_slice([slow, late]) == pytest.approx(500)
    assert bandwidth._find_best_slice([slow, []]) == 0.0


def test_kept_and_read(cache: Path) -> None:
    keep_bandwidth(machine(), 2.56e10)
    assert read_bandwidth(machine()) == known_bandwidth(machine()) == 2.56e10
    (file,) = (cache / "machine").iterdir()
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("other", "found"),
    [
        pytest.param(machine(name="Other CPU"), False, id="processor"),
        pytest.param(machine(threads=1), False, id="threads"),
        pytest.param(machine(memory=16 * GIB), False, id="memory"),
        pytest.param(machine(memory=8 * GIB - 5 * MIB), True, id="a few pages less"),
        pytest.param(machine(available=GIB), True, id="another amount of free memory"),
    ],
)
def test_it_counts_for_the_machine_it_was_measured_on(other: Machine, found: bool) -> None:
    keep_bandwidth(machine(), 2e10)
    assert (read_bandwidth(other) is not None) == found


@pytest.mark.skipif(sys.platform == "win32", reason="the kernel is not part of the key")
def test_a_new_kernel_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_bandwidth(machine(), 2e10)
    now = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((now[0], now[1], "9.9.9", now[3], now[4])))
    assert read_bandwidth(machine()) is None


@pytest.mark.parametrize(
    "text",
    ["", "null", "[1]", "{", "[" * 100_000, '{"bytes_per_second": 1e10}', "\0" * 9],
    ids=["empty", "null", "list", "cut", "deep", "no machine", "zeros"],
)
def test_a_damaged_file_counts_as_none(cache: Path, text: str) -> None:
    keep_bandwidth(machine(), 2e10)
    (file,) = (cache / "machine").iterdir()
    file.write_text(text)
    assert read_bandwidth(machine()) is None


@pytest.mark.parametrize("value", [0, -1, 1e300, float("nan"), float("inf"), "fast", None, True, [1]])
def test_an_impossible_value_counts_as_none(cache: Path, value: object) -> None:
    keep_bandwidth(machine(), 2e10)
    (file,) = (cache / "machine").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bytes_per_second": value}))
    assert read_bandwidth(machine()) is None


def test_taken_once(measurements: list[int]) -> None:
    assert known_bandwidth(machine()) is None
    assert learn_bandwidth(machine()) == 2.5e10
    assert learn_bandwidth(machine()) == 2.5e10
    assert len(measurements) == 1
    learn_bandwidth(machine(), again=True)
    assert len(measurements) == 2


def test_what_is_stated_is_not_measured(measurements: list[int]) -> None:
    assert learn_bandwidth(machine(known=5.46e11)) == known_bandwidth(machine(known=5.46e11)) == 5.46e11
    assert measurements == []


def test_it_takes_a_quarter_of_the_free_memory_at_most(measurements: list[int]) -> None:
    learn_bandwidth(machine(available=512 * MIB))
    learn_bandwidth(machine(threads=16, available=64 * GIB))
    assert measurements == [128 * MIB, 1024 * MIB]
    assert learn_bandwidth(machine(name="full", available=200 * MIB)) is None
    assert len(measurements) == 2


def test_a_cache_that_cannot_be_written(cache: Path, measurements: list[int]) -> None:
    cache.write_text("a file in its place")
    assert known_bandwidth(machine()) is None
    assert learn_bandwidth(machine()) == 2.5e10
    with pytest.raises(StorageError):
        keep_bandwidth(machine(), 2e10)


def test_a_file_that_cannot_be_replaced_leaves_no_draft(cache: Path) -> None:
    keep_bandwidth(machine(), 2e10)
    (file,) = (cache / "machine").iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        keep_bandwidth(machine(), 2e10)
    assert list((cache / "machine").iterdir()) == [file]
