"""Comparing two things on a machine that is never quiet: in turns, as ratios, with an interval.

Absolute speeds of a shared machine drift by half from hour to hour and by a tenth within minutes. So both sides run in
turns (A B, B A, A B, …), every pair gives one ratio, and a row tells their median with a bootstrap interval of 95%.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["HEADING", "Row", "bootstrap_interval", "compare", "difference", "take_turns"]

HEADING = "| what | medians | ratio (95% interval) | wanted | pairs |\n|---|---|---|---|---|"
_DRAWS = 4000
_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        name: What against what.
        medians: Both medians with their unit.
        ratio: Median of the ratios and its interval.
        wanted: The goal, or nothing.
        pairs: How many ratios there are.
        notes: Sentences for below the table.
    """

    name: str
    medians: str
    ratio: str
    wanted: str
    pairs: int
    notes: tuple[str, ...] = field(default=())

    def render(self) -> str:
        """Return the row as Markdown."""
        return f"| {self.name} | {self.medians} | {self.ratio} | {self.wanted or '-'} | {self.pairs} |"


def bootstrap_interval(values: Sequence[float], share: float = _SHARE) -> tuple[float, float]:
    """Return the interval in which the median lies, by drawing the values again with replacement.

    Source: Efron, Bootstrap methods: another look at the jackknife (1979); the percentile interval.
    """
    drawn = random.Random(0)  # the same interval for the same values
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(_DRAWS))
    edge = round((1 - share) / 2 * _DRAWS)
    return medians[edge], medians[-1 - edge]


def take_turns(
    ours: Callable[[], float], theirs: Callable[[], float], pairs: int, *, discard: int = 1
) -> list[tuple[float, float]]:
    """Run both in turns, the first one changing each time; the first `discard` pairs do not count."""
    taken = []
    for index in range(pairs + discard):
        if index % 2:
            mine = ours()
            other = theirs()
        else:
            other = theirs()
            mine = ours()
        if index >= discard:
            taken.append((mine, other))
    return taken


def compare(name: str, unit: str, taken: Sequence[tuple[float, float]], wanted: str = "", *notes: str) -> Row:
    """Make the row of a comparison: ours over theirs, pair by pair."""
    ratios = [mine / other for mine, other in taken]
    low, high = bootstrap_interval(ratios)
    return _shown(
        Row(
            name=name,
            medians=" / ".join(f"{statistics.median(column):.3g}" for column in zip(*taken, strict=True)) + f" {unit}",
            ratio=f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})",
            wanted=wanted,
            pairs=len(taken),
            notes=notes,
        )
    )


def difference(name: str, unit: str, taken: Sequence[tuple[float, float]], wanted: str) -> Row:
    """Make the row of a comparison where the difference counts."""
    differences = [mine - other for mine, other in taken]
    low, high = bootstrap_interval(differences)
    return _shown(
        Row(
            name=name,
            medians=" / ".join(f"{statistics.median(column):.3g}" for column in zip(*taken, strict=True)) + f" {unit}",
            ratio=f"{statistics.median(differences):+.0f} {unit} ({low:+.0f} to {high:+.0f})",
            wanted=wanted,
            pairs=len(taken),
        )
    )


def _shown(row: Row) -> Row:
    print(row.render(), flush=True)
    return row
