"""How OpenMP's threads wait: long while the cores are theirs alone, shortly beside others, or as the user says."""

import os
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.threads.spin_control import SpinControl, wants_short
from llmrun.engines.threads.spinning import Spinning, find_openmp, limit_spinning

TASKS = Path("/proc/self/task")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, (True, "20000"), id="nothing said"),
        pytest.param({"OMP_WAIT_POLICY": "active"}, (False, None), id="policy"),
        pytest.param({"GOMP_SPINCOUNT": "7"}, (False, "7"), id="count"),
    ],
)
def test_what_the_user_says_counts(
    given: dict[str, str], expected: tuple[bool, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, given.get(name, ""))  # so that whatever is set is undone
        if name not in given:
            monkeypatch.delenv(name)
    assert (limit_spinning(), os.environ.get("GOMP_SPINCOUNT")) == expected


def test_a_thread_with_a_team_of_its_own_makes_spins_short() -> None:
    teams: list[tuple[int, threading.Thread]] = []
    spinning = Spinning(lambda count: teams.append((count, threading.current_thread())), 3)
    assert not spinning.short
    for _ in range(2):
        spinning.shorten()
    (count, holder), *others = teams
    assert (count, others) == (4, [])
    assert holder is not threading.current_thread()
    assert (spinning.short, holder.is_alive()) == (True, True)
    for _ in range(2):
        spinning.lengthen()
    assert (spinning.short, holder.is_alive()) == (False, False)


def count_native_threads() -> int:
    return len(list(TASKS.iterdir())) - threading.active_count()


@pytest.mark.pytorch
@pytest.mark.skipif(not TASKS.exists(), reason="Linux tells which threads there are")
def test_the_real_runtime_has_more_threads_than_cores_meanwhile() -> None:
    torch: Any = import_module("torch")
    openmp = find_openmp(torch)
    assert openmp is not None, "the builds of PyTorch for Linux come with GNU's runtime"
    cores = 3
    spinning = Spinning.of_runtime(openmp, 1, cores)
    torch.ones(1 << 18).add_(1)
    before = count_native_threads()
    spinning.shorten()
    assert count_native_threads() == before + cores
    spinning.lengthen()
    deadline = time.monotonic() + 20
    while count_native_threads() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_native_threads() == before


@pytest.mark.parametrize(
    ("others", "spare", "short", "expected"),
    [
        pytest.param(0.0, 0, False, False, id="alone"),
        pytest.param(1.0, 0, False, True, id="beside one"),
        pytest.param(1.0, 1, False, False, id="there is a core for it"),
        pytest.param(1.9, 1, False, True, id="for one of two"),
        pytest.param(0.2, 0, False, False, id="little: long stays"),
        pytest.param(0.2, 0, True, True, id="little: short stays"),
        pytest.param(0.1, 0, True, False, id="gone"),
    ],
)
def test_when_spins_are_short(others: float, spare: int, short: bool, expected: bool) -> None:
    assert wants_short(others, spare, short=short) is expected


class Others:
    """What other programs use, by script."""

    def __init__(self) -> None:
        self.cores, self.seconds, self.use, self.closed = 4, 0.0, 0.0, False

    def begin(self) -> None:
        self.seconds = 0.0

    def end(self) -> float:
        self.seconds = 0.0
        return self.use

    def close(self) -> None:
        self.closed = True


def test_a_session_looks_around_now_and_then() -> None:
    others = Others()
    spinning = Spinning(lambda _count: None, 1)
    others.seconds, others.use = 9.0, 1.9  # while the model was loaded; for one core there is room
    control = SpinControl(3, spinning, others)  # type: ignore[arg-type]
    seen = [spinning.short]

    def after(step: Any, **facts: Any) -> None:
        for name, value in facts.items():
            setattr(others, name, value)
        step()
        seen.append(spinning.short)

    after(control.begin, use=0.0, seconds=9.0)  # what was before does not count
    after(control.look, seconds=0.1)  # too early to tell
    after(control.look, seconds=0.2)
    after(control.look, use=2.0, seconds=0.2)  # too early again: the first time only is so short
    after(control.look, seconds=0.4)
    after(control.begin, use=0.0)
    after(control.close)
    assert seen == [True, True, True, False, False, True, True, False]
    assert others.closed
    after(control.look, use=2.0, seconds=9.0)
    assert not spinning.short, "what is closed chooses no more"


def test_where_nothing_can_be_chosen_nothing_happens() -> None:
    control = SpinControl()
    for step in (control.begin, control.look, control.close):
        step()
    assert SpinControl.for_torch(object(), 2, None)._spinning is None
