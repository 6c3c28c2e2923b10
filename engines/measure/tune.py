"""Finding settings that are faster than the defaults with few runs: successive halving, then a proper comparison.

Every candidate is measured a little; the slower half is dropped, the rest is measured again, until few are left. These
and the defaults are then measured in turns, and only from these last runs is it judged whether a candidate is really
faster: what made it this far may have been lucky before. What counts is the time to read a prompt and to write an
answer.

Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (2016).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median

from llmrun.engines.client import WorkerClient
from llmrun.engines.measure.contention import Contention
from llmrun.engines.measure.points import Sizes
from llmrun.engines.measure.run import Instruments, measure_point
from llmrun.engines.measure.samples import Metric
from llmrun.engines.measure.speeds import DRIFT
from llmrun.engines.measure.statistics import Difference, adjust_holm, compare_welch
from llmrun.engines.measure.workload import Workload
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import LlmrunError
from llmrun.progress import StagedProgress

__all__ = ["Settings", "Trial", "TuneResult", "candidates", "count_steps", "measure_settings", "tune"]

_FINALISTS = 2
_TURNS = 4
_TURN_REPETITIONS = 3
_SIGNIFICANT = 0.05
_BATCHES = (128, 256, 512)
_FLASH = ("auto", "on", "off")

Measure = Callable[["Settings", int], list[float]]
"""Measures settings so many times; returns the seconds of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is tried."""

    threads: int
    batch_tokens: int
    flash_attention: str
    kv_type: str = "f16"
    gpu_layers: int | None = None

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        parts = [threads, f"micro-batch {self.batch_tokens}", f"flash {self.flash_attention}"]
        parts += [f"KV {self.kv_type}"] if self.kv_type != "f16" else []
        parts += [] if self.gpu_layers is None else [f"{self.gpu_layers} GPU layers"]
        return ", ".join(parts)


@dataclass(slots=True, kw_only=True)
class Trial:
    """Settings and the seconds that they took, or why they failed."""

    settings: Settings
    seconds: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What came of it.

    Attributes:
        trials: All candidates; the first one has the defaults.
        best: The fastest finalist that is not the default; None if all others failed.
        difference: The default's time over that of the best one: how many times as fast it is.
        real: Whether that is to be believed.
    """

    trials: tuple[Trial, ...]
    best: Trial | None
    difference: Difference | None
    real: bool


def candidates(
    engine: EngineName, default: Settings, threads: Sequence[int], kv_types: Sequence[str], layers: Sequence[int | None]
) -> list[Settings]:
    """Return what is tried on an engine, the default first; micro-batch and attention can be set for llama.cpp only."""
    own = engine is EngineName.LLAMA_CPP
    batches = _BATCHES if own else (default.batch_tokens,)
    flash = _FLASH if own else (default.flash_attention,)
    every = (
        Settings(threads=count, batch_tokens=batch, flash_attention=attention, kv_type=kind, gpu_layers=layer)
        for count, batch, attention, kind, layer in product(threads, batches, flash, kv_types, layers)
    )
    return [default, *(each for each in every if each != default)]


def count_steps(count: int) -> int:
    """Return how many runs the search takes at most."""
    steps, left = 0, count - 1
    while left > _FINALISTS:
        steps += left
        left = max(_FINALISTS, left // 2)
    return steps + _TURNS * (1 + left)


def tune(settings: Sequence[Settings], measure: Measure, step: Callable[[], None] = lambda: None) -> TuneResult:
    """Search for settings that are faster than the first ones.

    Args:
        settings: The defaults, and what to try.
        measure: Runs them.
        step: Called after each run.

    Raises:
        LlmrunError: The defaults themselves fail.
    """
    trials = [Trial(settings=each) for each in settings]
    left = trials[1:]
    while len(left) > _FINALISTS:
        for trial in left:
            _run(trial, trial.seconds, measure, 1)
            step()
        working = sorted((trial for trial in left if trial.failure is None), key=lambda trial: median(trial.seconds))
        left = working[: max(_FINALISTS, len(left) // 2)]
    for turn in range(_TURNS):  # in turns, the order changing: a machine that drifts is not taken for a setting
        for trial in (trials[0], *left) if turn % 2 else (*left, trials[0]):
            if trial.failure is None:
                _run(trial, trial.final, measure, _TURN_REPETITIONS, must=trial is trials[0])
            step()
    return _judge(trials, [trial for trial in left if trial.failure is None])


def _run(trial: Trial, seconds: list[float], measure: Measure, repetitions: int, *, must: bool = False) -> None:
    try:
        seconds += measure(trial.settings, repetitions)
    except LlmrunError as error:
        if must:
            raise
        trial.failure = error.message


def _judge(trials: Sequence[Trial], finalists: Sequence[Trial]) -> TuneResult:
    if not finalists:
        return TuneResult(trials=tuple(trials), best=None, difference=None, real=False)
    differences = [compare_welch(trial.final, trials[0].final) for trial in finalists]
    adjusted = adjust_holm([1.0 if each.p_value is None else each.p_value for each in differences])
    index = max(range(len(finalists)), key=lambda place: differences[place].ratio)
    found = differences[index]
    beyond = found.low is not None and found.low > 1 + DRIFT
    return TuneResult(
        trials=tuple(trials),
        best=finalists[index],
        difference=found,
        real=adjusted[index] < _SIGNIFICANT and beyond,
    )


def measure_settings(
    plan_for: Callable[[Settings], LoadPlan],
    sizes: Sizes,
    instruments: Instruments,
    progress: StagedProgress,
    seen: list[Contention],
) -> Measure:
    """Return what runs settings in a process of their own.

    Args:
        plan_for: Gives the plan, in which micro-batch and attention are not yet set.
        sizes: What is run.
        instruments: What is read besides the clock.
        progress: Hears what is being run.
        seen: Gets what disturbed each run.
    """
    tokens: tuple[int, ...] = ()

    def measure(settings: Settings, repetitions: int) -> list[float]:
        nonlocal tokens
        progress.stage(str(settings))
        plan = replace(plan_for(settings), batch_tokens=settings.batch_tokens, flash_attention=settings.flash_attention)
        worker = WorkerClient(plan.engine)
        try:
            worker.load(plan)
            workload = Workload(tokens) if tokens else Workload.from_tokenizer(worker.tokenize)
            tokens = workload.tokens
            measured = measure_point(worker, workload, sizes, 1, repetitions, instruments)
            if measured.stopped is not None:
                raise measured.stopped
            seen.append(measured.contention)
        finally:
            worker.close()
        rates = zip(measured.samples[Metric.PREFILL], measured.samples[Metric.DECODE], strict=True)
        return [sizes.prompt_tokens / prefill + sizes.answer_tokens / decode for prefill, decode in rates]

    return measure
