"""How many threads compute, followed from one evaluation to the next by the processor time that they got.

The threads of this library wait for each other by spinning, some hundred times a token. Beside a program that wants one
of two cores, a token took up to a hundred times as long as alone; one thread by itself took twice as long. A thread
that spins uses its core all the time, so what the threads did not get of their cores is what others took.
The results do not depend on the number of threads: each number is computed by one of them.
"""

import time
from collections.abc import Callable

from llmrun.engines.threads.tuner import ThreadTuner
from llmrun.engines.types import LoadPlan

__all__ = ["ComputeThreads"]

_PIECE_TOKENS = 16  # a piece of a prompt is told as if it were of so many


class ComputeThreads:
    """The number of threads of one session.

    The prompt and the answer are followed apart, because a token of one costs less than a token of the other.

    Attributes:
        now: How many to compute with next.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self.now = plan.threads
        # With layers on a GPU, the threads are not what is waited for.
        self._follows = plan.threads > 1 and not plan.threads_are_fixed and not plan.gpu_layers
        self._waited = 0.0
        self._tuners = {prompt: ThreadTuner(plan.threads, lambda: self._waited) for prompt in (True, False)}

    def begin(self, *, prompt: bool) -> None:
        """Begin a prompt or an answer, with as many threads as were the best until now."""
        if self._follows:
            self._tuners[prompt].restart(self.now)
            self.now = self._tuners[prompt].threads

    def timed(self, compute: Callable[[], None], tokens: int, *, prompt: bool) -> float:
        """Compute, and return the seconds that it took."""
        processor, began = time.process_time(), time.perf_counter()
        compute()
        seconds = time.perf_counter() - began
        if self._follows:
            share = _PIECE_TOKENS / tokens if prompt else 1.0
            missing = self.now * seconds - (time.process_time() - processor)
            self._waited += max(0.0, missing) * share
            self.now = self._tuners[prompt].observe(seconds * share)
        return seconds
