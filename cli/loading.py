"""Waiting for the weights of a model, in sight when it takes more than a second."""

import contextlib
import time
from collections.abc import Callable, Iterator

from llmrun.engines.client import WorkerClient
from llmrun.engines.prepare import Prepared
from llmrun.progress import StagedProgress

__all__ = ["shown_loading", "wait_loaded"]

_PATIENCE_SECONDS = 1.0
_STEPS = 100  # of a start in phases, which is not all reading


def wait_loaded(worker: WorkerClient, prepared: Prepared, progress: StagedProgress) -> int:
    """Wait for the weights and return the context length; after a second of it, show how far they are."""
    with shown_loading(worker, prepared, progress) as report:
        return worker.wait_loaded(report)


@contextlib.contextmanager
def shown_loading(
    worker: WorkerClient, prepared: Prepared, progress: StagedProgress
) -> Iterator[Callable[[float], None]]:
    """Within the block, show what the returned function is told: the share that is loaded, and the worker's phase."""
    shown = _Shown(worker, prepared.info.tensor_bytes, progress)
    is_loaded = False
    try:
        yield shown.report
        is_loaded = True
    finally:
        shown.end(is_loaded=is_loaded)


class _Shown:
    def __init__(self, worker: WorkerClient, size_bytes: int, progress: StagedProgress) -> None:
        self._worker = worker
        self._size_bytes = size_bytes
        self._progress = progress
        self._began = time.monotonic()
        self._total = self._done = 0
        self._phase = ""

    def report(self, fraction: float) -> None:
        phase = self._worker.phase
        if not self._total:
            if time.monotonic() - self._began < _PATIENCE_SECONDS:
                return
            self._total = _STEPS if phase else max(1, self._size_bytes)
            self._progress.begin("loading", self._total, "steps" if phase else "bytes")
        if phase != self._phase:
            self._phase = phase
            self._progress.stage(phase)
        self._move(int(fraction * self._total))

    def _move(self, done: int) -> None:
        self._progress.advance(max(0, done - self._done))
        self._done = max(done, self._done)

    def end(self, *, is_loaded: bool) -> None:
        if not self._total:
            return
        if is_loaded:
            self._move(self._total)
        self._progress.finish()
