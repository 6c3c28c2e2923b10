"""Two results set against each other: ratios with intervals, and which of the differences are real.

Rows belong together when all their settings are equal. A setting that has one value in the one result and another one
in the other is what is compared: it may differ.

A difference is called real when Welch's test finds it, with Holm's correction for the number of comparisons, and when
even the near end of its interval is beyond a margin. The margin is there because repetitions of one run do not show
what changes between runs: memory that is laid out otherwise, a host that became busier. No margin covers a host that
changes by a fifth from minute to minute, as was seen on a shared one: there, only runs in turns tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmrun.engines.measure.samples import DEFINITIONS, Metric
from llmrun.engines.measure.speeds import DRIFT
from llmrun.engines.measure.statistics import Difference, adjust_holm, compare_welch
from llmrun.engines.measure.stored import SETTINGS, StoredResult, StoredRow

__all__ = ["Compared", "Comparison", "compare_results"]

_SIGNIFICANT = 0.05
_TOLD_BANDWIDTH = 0.05
_COMPARED = (Metric.PREFILL, Metric.DECODE, Metric.THROUGHPUT, Metric.TTFT, Metric.TPOT, Metric.LOAD, Metric.COLD_START)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of one pair of rows.

    Attributes:
        settings: What the rows have in common.
        first: Mean of the first result; second likewise.
        difference: Their ratio, its interval, and the p value as it is.
        adjusted: The p value with Holm's correction; None where a side is a single repetition.
        real: Whether the difference is to be believed.
    """

    settings: dict[str, Any]
    metric: Metric
    first: float
    second: float
    difference: Difference
    adjusted: float | None = None
    real: bool = False

    @property
    def better(self) -> bool:
        """Whether the second result is the better one."""
        return (self.difference.ratio > 1) is DEFINITIONS[self.metric].more_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of it.

    Attributes:
        changed: Settings that differ between the results throughout, with both values.
        pairs: Every figure of every pair of rows.
        unmatched: Rows of either result that the other has no row for.
        cautions: What may have made a difference besides what is compared.
    """

    changed: dict[str, tuple[Any, Any]]
    pairs: tuple[Compared, ...]
    unmatched: int
    cautions: tuple[str, ...]


def compare_results(first: StoredResult, second: StoredResult) -> Comparison:
    """Compare the second result with the first."""
    changed = _changed(first, second)
    names = [name for name in SETTINGS if name not in changed]
    ours, theirs = _by_key(second.rows, names), _by_key(first.rows, names)
    common = [key for key in theirs if key in ours]
    pairs = [
        pair for key in common for pair in _compare_rows(dict(zip(names, key, strict=True)), theirs[key], ours[key])
    ]
    return Comparison(
        changed=changed,
        pairs=_judge(pairs),
        unmatched=len(ours.keys() ^ theirs.keys()),
        cautions=tuple(_cautions(first, second, [row for key in common for row in (*theirs[key], *ours[key])])),
    )


def _changed(first: StoredResult, second: StoredResult) -> dict[str, tuple[Any, Any]]:
    """Return the settings that have one value in each result, and not the same."""
    changed = {}
    for name in SETTINGS:
        values = [{row.settings[name] for row in result.rows} for result in (first, second)]
        if len(values[0]) == len(values[1]) == 1 and values[0] != values[1]:
            changed[name] = (values[0].pop(), values[1].pop())
    return changed


def _by_key(rows: Sequence[StoredRow], names: Sequence[str]) -> dict[tuple[Any, ...], list[StoredRow]]:
    found: dict[tuple[Any, ...], list[StoredRow]] = {}
    for row in rows:
        if row.samples:
            found.setdefault(tuple(row.settings[name] for name in names), []).append(row)
    return found


def _compare_rows(settings: dict[str, Any], first: Sequence[StoredRow], second: Sequence[StoredRow]) -> list[Compared]:
    pairs = []
    for metric in _COMPARED:
        before = [value for row in first for value in row.samples.get(metric, ())]
        after = [value for row in second for value in row.samples.get(metric, ())]
        if before and after:
            pairs.append(
                Compared(
                    settings=settings,
                    metric=metric,
                    first=sum(before) / len(before),
                    second=sum(after) / len(after),
                    difference=compare_welch(before, after),
                )
            )
    return pairs


def _judge(pairs: Sequence[Compared]) -> tuple[Compared, ...]:
    """Say which differences are real, all of them together."""
    tested = [pair for pair in pairs if pair.difference.p_value is not None]
    adjusted = dict(zip(map(id, tested), adjust_holm([pair.difference.p_value or 0.0 for pair in tested]), strict=True))
    return tuple(
        Compared(
            settings=pair.settings,
            metric=pair.metric,
            first=pair.first,
            second=pair.second,
            difference=pair.difference,
            adjusted=adjusted.get(id(pair)),
            real=adjusted.get(id(pair), 1.0) < _SIGNIFICANT and _beyond_drift(pair.difference),
        )
        for pair in pairs
    )


def _beyond_drift(difference: Difference) -> bool:
    low, high = difference.low, difference.high
    return low is not None and high is not None and (low > 1 + DRIFT or high < 1 / (1 + DRIFT))


def _cautions(first: StoredResult, second: StoredResult, rows: Sequence[StoredRow]) -> list[str]:
    cautions = []
    if first.processor != second.processor:
        cautions.append(f"the processors differ: {first.processor}, and {second.processor}")
    for threads in first.bandwidths.keys() & second.bandwidths.keys():
        ratio = second.bandwidths[threads] / first.bandwidths[threads]
        if abs(ratio - 1) > _TOLD_BANDWIDTH:
            cautions.append(
                f"the machine itself was another one: it read memory {ratio:.2f} times as fast in the second result "
                f"({threads} threads)"
            )
    cautions += [
        f"{engine} is another build or version in the second result"
        for engine in first.builds.keys() & second.builds.keys()
        if first.builds[engine] != second.builds[engine]
    ]
    digests = {row.tokens_digest for row in rows}
    if len(digests) > 1:
        cautions.append("the token ids were not the same")
    noisy = sum(any(warning.startswith(("too noisy", "disturbed")) for warning in row.warnings) for row in rows)
    if noisy:
        cautions.append(f"{noisy} of the {len(rows)} rows were disturbed or noisy when they were measured")
    return cautions
