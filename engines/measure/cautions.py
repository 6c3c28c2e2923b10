"""What may have made a difference between two sides of a comparison besides what is compared."""

from collections.abc import Sequence

from llmrun.engines.measure.machine_change import find_changes
from llmrun.engines.measure.stored import StoredRow, StoredSide

__all__ = ["find_cautions", "in_turns"]


def in_turns(first: StoredSide, second: StoredSide) -> bool:
    """Return whether neither side was wholly measured before the other began."""
    times = [[run.moment for run in side.runs] for side in (first, second)]
    return max(times[0]) >= min(times[1]) and max(times[1]) >= min(times[0])


def find_cautions(first: StoredSide, second: StoredSide, rows: Sequence[StoredRow]) -> list[str]:
    """Return what a reader has to know before a difference is believed; `rows` are those that were compared."""
    cautions = [*_within("A", first), *_within("B", second), *_between(first, second)]
    if not all(row.on_gpu for row in rows):
        cautions += find_changes(first, second)
    if len({row.tokens_digest for row in rows}) > 1:
        cautions.append("the token ids were not the same")
    cautions += _disturbed(rows, by_runs=max(len(first.runs), len(second.runs)) > 1)
    return cautions


def _disturbed(rows: Sequence[StoredRow], *, by_runs: bool) -> list[str]:
    """Count the rows that were; noise within a run is in the variance between runs, and no caution there."""
    words = ("disturbed",) if by_runs else ("disturbed", "too noisy")
    count = sum(any(warning.startswith(words) for warning in row.warnings) for row in rows)
    if not count:
        return []
    return [f"{count} of the {len(rows)} rows were disturbed{'' if by_runs else ' or noisy'} when they were measured"]


def _within(letter: str, side: StoredSide) -> list[str]:
    """Return what is wrong with the runs of one side: they should be the same thing, measured again."""
    cautions = []
    if side.strangers:
        cautions.append(f"{letter}: what is no result was left out (files: {side.strangers})")
    if side.copies:
        cautions.append(f"{letter}: a run that was there twice counts once (copies: {side.copies})")
    machines = list(dict.fromkeys(run.machine for run in side.runs))
    if len(machines) > 1:
        cautions.append(f"{letter}: the runs are of different machines: {', and '.join(machines)}")
    if len({run.llmrun for run in side.runs}) > 1:
        cautions.append(f"{letter}: the runs are of different versions of llmrun")
    cautions += [
        f"{letter}: the runs are of different builds or versions of {engine}"
        for engine, builds in _builds(side).items()
        if len(builds) > 1
    ]
    return cautions


def _between(first: StoredSide, second: StoredSide) -> list[str]:
    """Return what differs between the sides besides what was measured."""
    cautions = []
    if max(len(first.runs), len(second.runs)) > 1 and not in_turns(first, second):
        cautions.append(
            "the one side was measured before the other: what the machine did in between counts as a difference; "
            "in turns (A, B, A, B, …) it would not"
        )
    machines = [", ".join(dict.fromkeys(run.machine for run in side.runs)) for side in (first, second)]
    if machines[0] != machines[1]:
        cautions.append(f"the machines differ: {machines[0]}, and {machines[1]}")
    ours, theirs = _builds(second), _builds(first)
    cautions += [
        f"{engine} is another build or version in B"
        for engine in theirs
        if engine in ours and theirs[engine] != ours[engine]
    ]
    return cautions


def _builds(side: StoredSide) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in side.runs:
        for engine, build in run.builds.items():
            found.setdefault(engine, set()).add(build)
    return found
