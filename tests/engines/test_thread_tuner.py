"""The controller of the decode threads, on simulated machines: it must react, and cost nothing where it is quiet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from llmrun.engines.threads.tuner import ThreadTuner

TOKEN = 0.010  # seconds of a token with all threads, undisturbed


@dataclass
class SimulatedMachine:
    """Cores of which some are kept busy by others for a while: `busy(clock)` tells how many.

    With fewer threads than free cores a token takes in proportion longer; with more, the barrier costs `stall` times.
    """

    cores: int
    busy: Callable[[float], int] = lambda _clock: 0
    stall: float = 3.7
    noise: float = 0.0
    growth: float = 0.0
    clock: float = 0.0
    waited: float = 0.0
    tokens: int = 0
    random: Random = field(default_factory=lambda: Random(1))
    used: list[int] = field(default_factory=list)

    def decode(self, threads: int) -> float:
        free = self.cores - self.busy(self.clock)
        seconds = TOKEN * (1 + self.growth * self.tokens) * self.cores / threads
        if threads > free:
            seconds = TOKEN * self.stall
            self.waited += seconds / 2
        seconds *= 1 + self.noise * self.random.random()
        self.tokens += 1
        self.clock += seconds
        self.used.append(threads)
        return seconds

    def run(self, tuner: ThreadTuner, seconds: float) -> int:
        """Decode for so long, and return the number of tokens."""
        begin, until = self.tokens, self.clock + seconds
        while self.clock < until:
            tuner.observe(self.decode(tuner.threads))
        return self.tokens - begin

    def run_in_bursts(self, tuner: ThreadTuner, seconds: float) -> int:
        """Do the same, but tell of the tokens of each frame together; those after a change say nothing about it."""
        begin, until = self.tokens, self.clock + seconds
        while self.clock < until:
            threads, end = tuner.threads, self.clock + 1 / 30
            times: list[float] = []
            while self.clock < end and len(times) < (tuner.patience or 256):
                times.append(self.decode(threads))
            for each in times:
                if tuner.observe(each) != threads:
                    break
        return self.tokens - begin


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
@pytest.mark.parametrize("knows_waiting", [True, False])
@pytest.mark.parametrize(
    ("noise", "growth"),
    [
        pytest.param(0.0, 0.0, id="steady"),
        pytest.param(0.15, 0.0, id="noisy"),
        pytest.param(0.1, 0.002, id="a context that grows"),
    ],
)
def test_all_threads_stay_when_nothing_disturbs(cores: int, knows_waiting: bool, noise: float, growth: float) -> None:
    machine = SimulatedMachine(cores=cores, noise=noise, growth=growth)
    machine.run(ThreadTuner(cores, (lambda: machine.waited) if knows_waiting else None), 20)
    assert set(machine.used) == {cores}


@pytest.mark.parametrize(
    ("cores", "busy_cores", "expected"),
    [
        pytest.param(2, 1, 1, id="one of two"),
        pytest.param(4, 1, 3, id="one of four"),
        pytest.param(8, 3, 5, id="three of eight"),
        pytest.param(16, 1, 15, id="one of sixteen"),
    ],
)
def test_disturbed_from_the_start_it_takes_the_free_cores(cores: int, busy_cores: int, expected: int) -> None:
    machine = SimulatedMachine(cores=cores, busy=lambda _clock: busy_cores)
    tuner = ThreadTuner(cores, lambda: machine.waited)
    machine.run(tuner, 1.5)
    machine.used.clear()
    machine.run(tuner, 20)
    assert sorted(machine.used)[len(machine.used) // 2] == expected
    assert machine.used.count(expected) / len(machine.used) > 0.9


@pytest.mark.parametrize("knows_waiting", [True, False])
def test_disturbed_later_it_reacts_and_returns(knows_waiting: bool) -> None:
    machine = SimulatedMachine(cores=2, busy=lambda clock: 1 if 2 <= clock < 8 else 0)
    tuner = ThreadTuner(2, (lambda: machine.waited) if knows_waiting else None)
    quiet = machine.run(tuner, 2) / 2
    disturbed = machine.run(tuner, 6) / 6
    assert disturbed > 0.45 * quiet  # 0.27 with all threads, 0.5 at best
    machine.run(tuner, 8)  # the longest pause between two trials
    assert machine.run(tuner, 2) / 2 > 0.99 * quiet


@pytest.mark.parametrize("token", [0.001, 0.003, 0.010])
@pytest.mark.parametrize("knows_waiting", [True, False])
def test_told_of_many_tokens_together_it_reacts_and_returns(
    monkeypatch: pytest.MonkeyPatch, token: float, knows_waiting: bool
) -> None:
    monkeypatch.setitem(globals(), "TOKEN", token)
    machine = SimulatedMachine(cores=2, busy=lambda clock: 1 if 4 <= clock < 14 else 0)
    tuner = ThreadTuner(2, (lambda: machine.waited) if knows_waiting else None)
    quiet = machine.run_in_bursts(tuner, 4) / 4
    assert set(machine.used) == {2}
    disturbed = machine.run_in_bursts(tuner, 10) / 10
    assert disturbed > 0.43 * quiet
    machine.run_in_bursts(tuner, 8)
    assert machine.run_in_bursts(tuner, 2) / 2 > 0.99 * quiet


def test_without_a_word_on_waiting_and_disturbed_from_the_start_nothing_is_known() -> None:
    machine = SimulatedMachine(cores=2, busy=lambda _clock: 1)
    machine.run(ThreadTuner(2), 5)
    assert set(machine.used) == {2}


def test_trials_that_do_not_pay_cost_little() -> None:
    """Threads that wait, and yet fewer are slower: the machine is shared evenly by a hypervisor."""
    machine = SimulatedMachine(cores=2)

    def waited() -> float:
        return machine.clock / 2

    tuner = ThreadTuner(2, waited)
    machine.run(tuner, 4)
    assert machine.run(tuner, 60) > 0.99 * 60 / TOKEN


def test_one_slow_token_changes_nothing() -> None:
    tuner = ThreadTuner(2)
    for index in range(300):
        tuner.observe(TOKEN * (1.6 if index % 40 == 20 else 1))
        assert tuner.threads == 2


def test_a_new_answer_begins_without_the_old_ones_times() -> None:
    tuner = ThreadTuner(2)
    for _ in range(50):
        tuner.observe(TOKEN)
    tuner.restart()
    for _ in range(50):
        assert tuner.observe(3 * TOKEN) == 2  # a long context, not a disturbance


def test_a_new_answer_soon_finds_that_the_cores_are_free_again() -> None:
    machine = SimulatedMachine(cores=2, busy=lambda clock: 1 if clock < 30 else 0)
    tuner = ThreadTuner(2, lambda: machine.waited)
    machine.run(tuner, 30)
    assert tuner.threads == 1
    tuner.restart()
    machine.run(tuner, 0.2)
    assert tuner.threads == 2


def test_slow_models_are_not_tried_for_seconds() -> None:
    """With half a second a token, a window is three tokens."""
    tuner = ThreadTuner(2)
    for _ in range(9):
        tuner.observe(0.5)
    changed = [tuner.observe(1.5) for _ in range(6)]
    assert 1 in changed
