"""How far vLLM has come while it starts, what it is doing, and what it said: it tells that to nothing but its log.

The phases, their names and their shares of the time are fixed; within one, the share grows with time, ever more slowly,
so that whoever waits sees that it goes on. The log is kept off the terminal, and its last error is there as a cause.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["FIRST_PHASE", "StartupLog", "watch_startup"]

FIRST_PHASE = "importing vLLM"
_PHASES = (
    ("Resolved architecture", 0.08, "starting the engine"),
    ("world_size=", 0.10, "starting the engine"),
    ("Starting to load model", 0.15, "loading weights"),
    ("Loading weights took", 0.70, "preparing the weights"),
    ("Model loading took", 0.72, "measuring memory"),
    ("KV cache size", 0.80, "allocating the KV cache"),
    ("Capturing CUDA graphs", 0.85, "capturing CUDA graphs"),
    ("Graph capturing finished", 0.95, "warming up"),
    ("init engine", 0.98, "warming up"),
)
"""What a line of the log has in it, the share of the start that is over then, and what begins. Source: vLLM 0.32."""
_TICK_SECONDS = 0.5
_SECOND_BYTES = 1_000_000_000  # weights that are read in a second, for the guess of how long a phase takes
_LEAST_SECONDS = 5.0


class StartupLog(logging.Handler):
    """Turns vLLM's log into shares of its start.

    Args:
        progress: Gets the shares, which never fall.
        weights_bytes: What has to be read.

    Attributes:
        last_error: The last error that was logged.
        phase: What is going on.
    """

    def __init__(self, progress: Callable[[float], None], weights_bytes: int) -> None:
        super().__init__()
        self.last_error = ""
        self.phase = FIRST_PHASE
        self._progress = progress
        self._typical_seconds = _LEAST_SECONDS + weights_bytes / _SECOND_BYTES
        self._guard = threading.Lock()
        self._reached, self._next, self._since = 0.02, _PHASES[0][1], time.monotonic()
        self._shown = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one line of the log."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            self.last_error = lines[-1][:400] if lines else self.last_error
        for words, share, phase in _PHASES:
            if words in text and share > self._reached:
                following = [other for _, other, _ in _PHASES if other > share]
                with self._guard:
                    self.phase = phase
                    self._reached, self._next, self._since = share, min(following, default=1.0), time.monotonic()
                self.tick()

    def tick(self) -> None:
        """Report the share that time lets expect, never more than the next phase."""
        with self._guard:
            passed = time.monotonic() - self._since
            part = passed / (passed + self._typical_seconds)
            self._shown = max(self._shown, self._reached + (self._next - self._reached) * part)
            self._progress(self._shown)


@contextmanager
def watch_startup(progress: Callable[[float], None], weights_bytes: int) -> Iterator[StartupLog]:
    """Report progress while the block runs."""
    logger = logging.getLogger("vllm")
    log = StartupLog(progress, weights_bytes)
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    over = threading.Event()

    def tick() -> None:
        while not over.wait(_TICK_SECONDS):
            log.tick()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield log
    finally:
        over.set()
        ticker.join()
        logger.removeHandler(log)
        logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.ERROR)
