"""How many threads decode with, decided while running: all of them, or fewer when something else wants the cores.

A token is computed in some hundred steps, and after each the threads wait for the slowest of them. One thread that
shares its core with another program holds all of them up at every step: on two cores, one of them busy, decode fell
to a quarter of its speed, where one thread alone keeps half. Fewer threads than cores is no rule either: undisturbed,
each one counts.

So it is measured. The times of tokens are taken together into windows of a few. When the threads had to wait for a
core, or a window is much slower than the best before it, one window is tried with fewer threads and the faster number
is kept. From fewer threads, one window with more is tried now and then. A trial that did not pay makes the next one
later, up to a longest pause, so that trials cost little however long the trouble lasts; undisturbed there are none.

This is a pure controller: it is told times and answers with a number, so it is tested as tables.
"""

from collections.abc import Callable

__all__ = ["ThreadTuner"]

_WINDOW_TOKENS = 3
_WINDOW_SECONDS = 0.03
_WAITED_SHARE = 0.15  # of the time, summed over the threads; undisturbed it was below 0.03
_SLOWER = 1.3  # than the best window at the same number of threads
_WORTHWHILE = 0.95  # a trial must take less than this share of the time
_HOPELESS = 1.5  # a trial that takes so much longer ends before its window does,
_HOPELESS_TOKENS = 2  # but not before so many tokens
_FORGET = 1.02  # what the best window is multiplied by at each window: a growing context makes tokens slower
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 8.0


class ThreadTuner:
    """The controller of one sequence of tokens.

    Attributes:
        threads: How many to compute the next token with.
    """

    def __init__(self, most: int, waited: Callable[[], float] | None = None) -> None:
        """Begin with all threads.

        Args:
            most: How many there are; with one, nothing is ever tried.
            waited: Returns the seconds that this process's threads have been ready to run but waited for a core, all
                together since they began. None: the system does not say.
        """
        self.threads = most
        self._most = most
        self._waited = waited
        self._waited_before = waited() if waited and most > 1 else 0.0
        self._clock = 0.0  # the sum of all times told
        self._settled = most  # the number that trials are compared with
        self._settled_seconds = 0.0  # mean of a token in the last window with it
        self._best_seconds = 0.0  # least of those means, which grows slowly; 0: not known
        self._steps = {-1: 1, +1: 1}  # how far the next trial goes
        self._pauses = {-1: 0.0, +1: _FIRST_PAUSE_SECONDS}
        self._not_before = {-1: 0.0, +1: 0.0}
        self._skip = True  # the first token after a change pays for the change
        self._tokens = 0
        self._seconds = 0.0

    def restart(self, threads: int | None = None) -> None:
        """Begin a new answer: what tokens took before, with another context, says nothing about it.

        Time may have passed: whether all threads are faster again is tried at once.

        Args:
            threads: How many to begin with; None: those that were the best before.
        """
        self._settled = threads or self._settled
        self.threads = self._settled
        self._best_seconds = 0.0
        self._pauses[+1], self._not_before[+1] = _FIRST_PAUSE_SECONDS, self._clock
        self._begin_window()
        if self._waited and self._most > 1:
            self._waited_before = self._waited()

    def observe(self, seconds: float) -> int:
        """Take in how long a token took, and return how many threads to compute the next one with."""
        if self._most == 1:
            return 1
        self._clock += seconds
        if self._skip:
            self._skip = False
            return self.threads
        self._tokens += 1
        self._seconds += seconds
        trial = self.threads != self._settled
        full = self._tokens >= _WINDOW_TOKENS and self._seconds >= _WINDOW_SECONDS
        if full or (trial and self._is_hopeless()):
            mean, before = self._seconds / self._tokens, self.threads
            if trial:
                self._judge_trial(mean)
            else:
                self._look(mean)
            self._begin_window()
            self._skip = self.threads != before
        return self.threads

    @property
    def patience(self) -> int | None:
        """After how many more tokens it may change its mind, if that is early; None: when the window is over."""
        if self.threads == self._settled:
            return None
        return max(1, int(self._skip) + _HOPELESS_TOKENS - self._tokens)

    def _is_hopeless(self) -> bool:
        return self._tokens >= _HOPELESS_TOKENS and self._seconds > _HOPELESS * self._tokens * self._settled_seconds

    def _begin_window(self) -> None:
        self._tokens, self._seconds = 0, 0.0

    def _look(self, mean: float) -> None:
        """Decide after an ordinary window whether to try another number."""
        self._settled_seconds = mean
        disturbed = self._was_disturbed(mean)
        self._best_seconds = min(self._best_seconds * _FORGET, mean) if self._best_seconds else mean
        if disturbed and self.threads > 1 and self._clock >= self._not_before[-1]:
            self._try(-1)
        elif self.threads < self._most and self._clock >= self._not_before[+1]:
            self._try(+1)

    def _was_disturbed(self, mean: float) -> bool:
        slower = bool(self._best_seconds) and mean > _SLOWER * self._best_seconds
        if self._waited is None:
            return slower
        waited, before = self._waited(), self._waited_before
        self._waited_before = waited
        return slower or waited - before > _WAITED_SHARE * self._seconds

    def _try(self, direction: int) -> None:
        self.threads = min(max(self._settled + direction * self._steps[direction], 1), self._most)

    def _farther(self) -> int:
        """Return the next step down after one that did not help: twice as far, or one again after the farthest."""
        return 2 * self._steps[-1] if 2 * self._steps[-1] < self._settled else 1

    def _judge_trial(self, mean: float) -> None:
        """Keep the number that was tried if it is faster; otherwise go back, and wait longer before the next trial."""
        direction = 1 if self.threads > self._settled else -1
        if self._waited is not None:
            self._waited_before = self._waited()
        if mean < _WORTHWHILE * self._settled_seconds:
            self._settled, self._settled_seconds, self._best_seconds = self.threads, mean, mean
            self._pauses = {-1: 0.0, +1: _FIRST_PAUSE_SECONDS}
            self._not_before[-direction] = self._clock + _FIRST_PAUSE_SECONDS
            self._not_before[direction] = self._clock
            self._steps[direction] *= 2
            self._steps[-direction] = 1
            return
        self.threads = self._settled
        # One thread less may not help where three are in the way; one more always helps where there is room.
        self._steps[direction] = self._farther() if direction < 0 else 1
        pause = min(max(2 * self._pauses[direction], _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._pauses[direction] = pause
        self._not_before[direction] = self._clock + pause
