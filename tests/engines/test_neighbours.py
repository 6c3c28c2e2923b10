"""Reading how many cores other programs use, from a file like /proc/stat."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrun.engines.threads import neighbours as threads_neighbours
from llmrun.engines.threads.neighbours import Neighbours

pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux keeps count")
Write = Callable[[dict[int, tuple[int, int, int]]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write idle, waiting and stolen ticks of cores, of which 0 and 1 are allowed."""
    path = tmp_path / "stat"
    monkeypatch.setattr(threads_neighbours, "_STAT", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})

    def put(cores: dict[int, tuple[int, int, int]]) -> None:
        lines = [f"cpu{core} 7 8 9 {idle} {wait} 3 4 {stolen} 0 0" for core, (idle, wait, stolen) in cores.items()]
        path.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8", *lines, "ctxt 5", ""]))

    return put


def test_what_was_neither_idle_nor_ones_own_is_that_of_others(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    now = {"monotonic": 100.0, "process_time": 5.0}
    for name in now:
        monkeypatch.setattr(time, name, lambda name=name: now[name])
    write({0: (50, 0, 0), 1: (70, 0, 0), 2: (0, 0, 0)})
    others = Neighbours.watch()
    assert others is not None
    assert others.cores == 2
    now.update(monotonic=102.0, process_time=6.5)
    assert others.seconds == 2.0
    write({0: (50 + ticks, 0, 0), 1: (70, ticks // 2, ticks // 2), 2: (9999, 0, 0)})
    assert others.end() == pytest.approx((2 * 2.0 - 2.0 - 1.5) / 2.0)
    assert others.seconds == 0.0
    now.update(monotonic=103.0)
    assert others.end() == pytest.approx(2.0), "nothing was idle since"
    others.close()


@pytest.mark.parametrize("cores", [{}, {0: (5, 5, 5)}])
def test_a_file_without_what_is_wanted_does_no_harm(write: Write, cores: dict[int, tuple[int, int, int]]) -> None:
    write(cores)
    others = Neighbours()
    assert others.end() >= 0
    others.close()


def test_where_nothing_is_counted_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_neighbours, "_STAT", tmp_path / "stat")
    assert Neighbours.watch() is None


def test_a_busy_process_is_seen() -> None:
    others = Neighbours()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.2)
            others.begin()
            time.sleep(0.5)
            assert others.end() > 0.2
        finally:
            busy.kill()
    others.close()
