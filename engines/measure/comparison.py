"""Results set against each other: ratios with intervals, and which of the differences are real.

Rows belong together when all their settings are equal. A setting that has one value on the one side and another one on
the other is what is compared: it may differ.

Where a side has several runs, each of them counts as one number, the mean of its repetitions: Welch's test of their
logarithms then has in it what changes from run to run; what it finds is real if the sides were measured in turns, and
often enough.
Where each side is one run, there are only repetitions, which do not show that: memory that is laid out otherwise, a
host that became busier or moved the machine to other cores. A margin covers the least of it, and as much as the machine
itself changed; what is found beyond it is a difference between these two runs, and no more is claimed.

Holm's correction is for the number of comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any

from llmrun.engines.measure.cautions import find_cautions, in_turns
from llmrun.engines.measure.machine_change import machine_change
from llmrun.engines.measure.samples import DEFINITIONS, Metric
from llmrun.engines.measure.speeds import DRIFT
from llmrun.engines.measure.statistics import Difference, adjust_holm, compare_means, compare_welch
from llmrun.engines.measure.stored import SETTINGS, StoredRow, StoredSide

__all__ = ["ENOUGH_RUNS", "Claim", "Compared", "Comparison", "compare_results"]

ENOUGH_RUNS = 6
"""Fewer, of both sides together, show nothing real. A machine that has two speeds, as a virtual one whose cores the
host moves, makes all n runs of A at the one and all m of B at the other with a probability of 2^(1-n-m): 6% for five.
"""
_SIGNIFICANT = 0.05
_COMPARED = (Metric.PREFILL, Metric.DECODE, Metric.THROUGHPUT, Metric.TTFT, Metric.TPOT, Metric.LOAD, Metric.COLD_START)


class Claim(StrEnum):
    """What a difference that was found is one of."""

    REAL = "real"
    """What is compared: several runs in turns show it."""
    THESE_RUNS = "these runs"
    """The runs that were measured; what else changed between them may have made it."""
    MACHINE = "the machine"
    """Maybe of nothing else: the machine itself changed by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of one pair of rows.

    Attributes:
        settings: What the rows have in common.
        first: Mean of the first side; second likewise.
        runs: How many of each side have this figure; with one of each, repetitions are compared, else runs.
        margin: How far from 1 the near end of the interval has to be, as a share; 0 where runs are compared.
        difference: Their ratio, its interval, and the p value as it is.
        adjusted: The p value with Holm's correction; None where nothing can be tested.
        claim: What is claimed of the difference; None if it may be chance.
    """

    settings: dict[str, Any]
    metric: Metric
    first: float
    second: float
    runs: tuple[int, int]
    margin: float
    difference: Difference
    adjusted: float | None = None
    claim: Claim | None = None

    @property
    def better(self) -> bool:
        """Whether the second result is the better one."""
        return (self.difference.ratio > 1) is DEFINITIONS[self.metric].more_is_better

    @property
    def real(self) -> bool:
        """Whether a difference was found that is more than the machine's own."""
        return self.claim in (Claim.REAL, Claim.THESE_RUNS)

    @property
    def by_runs(self) -> bool:
        """Whether runs were compared, not the repetitions of one run on each side."""
        return max(self.runs) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of it.

    Attributes:
        changed: Settings that differ between the sides throughout, with both values.
        pairs: Every figure of every pair of rows.
        unmatched: Rows of either side that the other has no row for.
        in_turns: Whether the runs of the sides were measured in turns, not one side after the other.
        cautions: What may have made a difference besides what is compared.
    """

    changed: dict[str, tuple[Any, Any]]
    pairs: tuple[Compared, ...]
    unmatched: int
    in_turns: bool
    cautions: tuple[str, ...]


_Key = tuple[Any, ...]
_Run = dict[_Key, list[StoredRow]]


def compare_results(first: StoredSide, second: StoredSide) -> Comparison:
    """Compare the second side with the first."""
    changed = _changed(first, second)
    names = [name for name in SETTINGS if name not in changed]
    before, after = ([_by_key(run.rows, names) for run in side.runs] for side in (first, second))
    ours, theirs = (dict.fromkeys(key for run in side for key in run) for side in (after, before))
    common = [key for key in theirs if key in ours]
    rows = {key: [row for run in (*before, *after) for row in run.get(key, ())] for key in common}
    pairs = [
        pair
        for key in common
        for pair in _compare_rows(
            dict(zip(names, key, strict=True)),
            [run.get(key, []) for run in before],
            [run.get(key, []) for run in after],
            _margin(first, second, rows[key]),
        )
    ]
    turns = in_turns(first, second)
    return Comparison(
        changed=changed,
        pairs=_judge(pairs, turns=turns),
        unmatched=len(ours.keys() ^ theirs.keys()),
        in_turns=turns,
        cautions=tuple(find_cautions(first, second, [row for each in rows.values() for row in each])),
    )


def _changed(first: StoredSide, second: StoredSide) -> dict[str, tuple[Any, Any]]:
    """Return the settings that have one value on each side, and not the same."""
    changed = {}
    for name in SETTINGS:
        values = [{row.settings[name] for run in side.runs for row in run.rows} for side in (first, second)]
        if len(values[0]) == len(values[1]) == 1 and values[0] != values[1]:
            changed[name] = (values[0].pop(), values[1].pop())
    return changed


def _by_key(rows: Sequence[StoredRow], names: Sequence[str]) -> _Run:
    found: _Run = {}
    for row in rows:
        if row.samples:
            found.setdefault(tuple(row.settings[name] for name in names), []).append(row)
    return found


def _margin(first: StoredSide, second: StoredSide, rows: Sequence[StoredRow]) -> float:
    """Return what two single runs differ by anyway: a little, and as much as the machine itself changed."""
    threads = {row.settings["threads"] for row in rows}
    if len(threads) > 1 or all(row.on_gpu for row in rows):
        return DRIFT
    return max(DRIFT, machine_change(first, second, threads.pop()) or 0.0)


def _compare_rows(
    settings: dict[str, Any],
    first: Sequence[Sequence[StoredRow]],
    second: Sequence[Sequence[StoredRow]],
    margin: float,
) -> list[Compared]:
    """Compare the rows that each run of both sides has of the same settings."""
    pairs = []
    for metric in _COMPARED:
        before, after = _samples(first, metric), _samples(second, metric)
        if not before or not after:
            continue
        means = [[fmean(run) for run in side] for side in (before, after)]
        single = len(before) == len(after) == 1
        pairs.append(
            Compared(
                settings=settings,
                metric=metric,
                first=fmean(means[0]),
                second=fmean(means[1]),
                runs=(len(before), len(after)),
                margin=margin if single else 0.0,
                difference=compare_welch(before[0], after[0]) if single else compare_means(*means),
            )
        )
    return pairs


def _samples(runs: Sequence[Sequence[StoredRow]], metric: Metric) -> list[list[float]]:
    """Return the repetitions of each run that has the figure."""
    found = ([value for row in rows for value in row.samples.get(metric, ())] for rows in runs)
    return [values for values in found if values]


def _judge(pairs: Sequence[Compared], *, turns: bool) -> tuple[Compared, ...]:
    """Say which differences are claimed, all of them together."""
    tested = [pair for pair in pairs if pair.difference.p_value is not None]
    adjusted = dict(zip(map(id, tested), adjust_holm([pair.difference.p_value or 0.0 for pair in tested]), strict=True))
    return tuple(
        replace(pair, adjusted=adjusted.get(id(pair)), claim=_claim(pair, adjusted.get(id(pair), 1.0), turns=turns))
        for pair in pairs
    )


def _claim(pair: Compared, adjusted: float, *, turns: bool) -> Claim | None:
    if adjusted >= _SIGNIFICANT:
        return None
    if pair.by_runs:
        return Claim.REAL if turns and sum(pair.runs) >= ENOUGH_RUNS else Claim.THESE_RUNS
    if not _beyond(DRIFT, pair.difference):
        return None
    return Claim.THESE_RUNS if _beyond(pair.margin, pair.difference) else Claim.MACHINE


def _beyond(margin: float, difference: Difference) -> bool:
    low, high = difference.low, difference.high
    return low is not None and high is not None and (low > 1 + margin or high < 1 / (1 + margin))
