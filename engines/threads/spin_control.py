"""Long spins while every compute thread has a core for itself, short ones while other programs want some of them.

What the others use is measured, not tried out: they are seen whether the threads spin or sleep, so that nothing is lost
in finding out whether they have gone.
"""

from typing import Any

from llmrun.engines.threads.neighbours import Neighbours
from llmrun.engines.threads.spinning import Spinning, find_openmp

__all__ = ["SpinControl", "wants_short"]

_LOOK_SECONDS = 0.3  # the clock of the cores has ticks of 0.01 s
_FIRST_LOOK_SECONDS = 0.15
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
        neighbours: What others use, or None. What was measured while the model was loaded decides how the first
            request begins, and the end of one how the next one does.
    """

    def __init__(
        self, threads: int = 1, spinning: Spinning | None = None, neighbours: Neighbours | None = None
    ) -> None:
        self._threads = threads
        self._spinning = spinning
        self._neighbours = neighbours
        self._wait_seconds = _FIRST_LOOK_SECONDS
        self.look()

    @classmethod
    def for_torch(cls, torch: Any, threads: int, neighbours: Neighbours | None) -> "SpinControl":
        """Return the control of PyTorch's threads in this process."""
        openmp = find_openmp(torch) if threads > 1 and neighbours is not None else None
        if openmp is None or neighbours is None:
            return cls()
        return cls(threads, Spinning.of_runtime(openmp, threads, neighbours.cores), neighbours)

    def begin(self) -> None:
        """Begin a request: what others did before it does not count."""
        if self._neighbours is not None:
            self._neighbours.begin()
            self._wait_seconds = _FIRST_LOOK_SECONDS

    def look(self) -> None:
        """Choose again, if it is time; to be called between the pieces of a prompt and between tokens."""
        if self._spinning is None or self._neighbours is None or self._neighbours.seconds < self._wait_seconds:
            return
        self._wait_seconds = _LOOK_SECONDS
        spare = max(0, self._neighbours.cores - self._threads)
        if wants_short(self._neighbours.end(), spare, short=self._spinning.short):
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
