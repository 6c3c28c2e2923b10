"""Long spins while every compute thread has a core for itself, short ones while other programs want some of them.

What the others use is measured, not tried out: they are seen whether the threads spin or sleep, so that nothing is lost
in finding out whether they have gone.
"""

from typing import Any

from llmrun.engines.threads.neighbours import Neighbours
from llmrun.engines.threads.spinning import Spinning, find_openmp

__all__ = ["SpinControl", "wants_short"]

_LOOK_SECONDS = 0.3  # the clock of the cores has ticks of 0.01 s
_DISTURBED_CORES = 0.3  # that the others use more than there are to spare
_CALM_CORES = 0.15


def wants_short(others: float, spare: int, *, short: bool) -> bool:
    """Return whether spins should be short.

    Args:
        others: Cores that other programs use.
        spare: Cores that the compute threads leave free.
        short: Whether spins are short now; a use between the two limits changes nothing.
    """
    return others - spare > (_CALM_CORES if short else _DISTURBED_CORES)


class SpinControl:
    """Chooses for one session. Where spins cannot be chosen, it does nothing.

    Args:
        threads: Threads that compute.
        spinning: The switch, or None.
        neighbours: What others use, or None.
    """

    def __init__(
        self, threads: int = 1, spinning: Spinning | None = None, neighbours: Neighbours | None = None
    ) -> None:
        self._threads = threads
        self._spinning = spinning
        self._neighbours = neighbours

    @classmethod
    def for_torch(cls, torch: Any, threads: int) -> "SpinControl":
        """Return the control of PyTorch's threads in this process."""
        openmp = find_openmp(torch) if threads > 1 and Neighbours.available() else None
        if openmp is None:
            return cls()
        neighbours = Neighbours()
        return cls(threads, Spinning.of_runtime(openmp, threads, neighbours.cores), neighbours)

    def begin(self) -> None:
        """Begin a request: nothing has been measured yet, so that what runs at this moment decides."""
        if self._neighbours is not None:
            self._choose(float(self._neighbours.begin()))

    def look(self) -> None:
        """Choose again, if it is time; to be called between the pieces of a prompt and between tokens."""
        if self._neighbours is not None and self._neighbours.seconds >= _LOOK_SECONDS:
            self._choose(self._neighbours.end())

    def _choose(self, others: float) -> None:
        assert self._spinning is not None
        assert self._neighbours is not None
        spare = max(0, self._neighbours.cores - self._threads)
        if wants_short(others, spare, short=self._spinning.short):
            self._spinning.shorten()
        else:
            self._spinning.lengthen()

    def close(self) -> None:
        """End what was started."""
        if self._spinning is not None:
            self._spinning.lengthen()
        if self._neighbours is not None:
            self._neighbours.close()
            self._neighbours = None
