"""What the machine itself changed between two runs, and while they were made.

A virtual machine is moved to other cores, its host becomes busy, a processor grows warm. Two virtual cores of a server
had two speeds, and went from one to the other between seconds: behind one last-level cache, where a word went from core
to core in 35 ns, memory was read at 30 GB/s and prefill was 1.2 times as fast; and behind two, with 170 ns and 43 GB/s,
where decoding was 1.1 times as fast. No other program was to be seen, and products of matrices hardly told one from the
other; reading memory told.

So the speed of memory, taken at the start of a run and whenever an engine was done, stands for the machine. Of 30
runs of the same thing it went with the speed of the engine where both readings were within 10% of each other (17
runs: r = -0.89 for prefill, 0.80 for decode), and not where the machine had changed in between (13 runs: r = -0.2 and
0.0). So one reading forecasts nothing, and the range of all of them counts: whatever the machine changed by, up or
down, between the runs or within one, an engine may have changed by too. Of the pairs of these runs 73% differed by
more than 3% in prefill and 80% in decode; by more than that range, 1% and 5%. With the readings dealt out to other
runs these would be 9% and 6%: most of what the range does is to show that a machine is an unsteady one.
"""

import math
from statistics import fmean

from llmrun.engines.measure.stored import StoredSide

__all__ = ["find_changes", "machine_change"]

_TOLD = 0.1  # readings of one machine are off by some percent


def machine_change(first: StoredSide, second: StoredSide, threads: int) -> float | None:
    """Return by how much memory was read at another speed, between the runs or within one, as a share.

    None where it was not measured on both sides on so many threads.
    """
    before, after = _seen(first).get(threads), _seen(second).get(threads)
    if not before or not after:
        return None
    seen = (*before, *after)
    return max(seen) / min(seen) - 1


def find_changes(first: StoredSide, second: StoredSide) -> list[str]:
    """Return what is to be said of it."""
    told = [
        f"the machine itself changed while {letter} was measured: it read memory at {min(seen) / 1e9:.1f} to "
        f"{max(seen) / 1e9:.1f} GB/s ({_count(threads)})"
        for letter, side in (("A", first), ("B", second))
        for threads, seen in _seen(side).items()
        if len(side.runs) == 1 and max(seen) / min(seen) - 1 > _TOLD
    ]
    before, after = _seen(first), _seen(second)
    common = sorted(before.keys() & after.keys())
    if not common and len(first.runs) == len(second.runs) == 1:
        told.append("whether the machine itself changed is not known: memory was not read on as many threads in both")
    for threads in common:
        ratio = _geometric_mean(after[threads]) / _geometric_mean(before[threads])
        if abs(ratio - 1) > _TOLD:
            told.append(
                f"the machine itself changed: it read memory {ratio:.2f} times as fast in B ({_count(threads)})"
            )
    return told


def _seen(side: StoredSide) -> dict[int, list[float]]:
    """Return every measurement of all runs, by the number of threads."""
    found: dict[int, list[float]] = {}
    for run in side.runs:
        for threads, values in run.bandwidths.items():
            found.setdefault(threads, []).extend(values)
    return found


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _geometric_mean(values: list[float]) -> float:
    return math.exp(fmean(map(math.log, values)))
