"""Waiting for the weights of a model, in sight when it takes more than a second."""

import time

from llmrun.engines.client import WorkerClient
from llmrun.engines.prepare import Prepared
from llmrun.progress import StagedProgress

__all__ = ["wait_loaded"]


def wait_loaded(worker: WorkerClient, prepared: Prepared, progress: StagedProgress) -> int:
    """Wait for the weights and return the context length; after a second of it, show how far they are."""
    started, total, shown, phase = time.monotonic(), 0, 0, ""

    def report(fraction: float) -> None:
        nonlocal total, shown, phase
        if not shown and time.monotonic() - started < 1:
            return
        if not shown:
            total = 100 if worker.phase else prepared.info.tensor_bytes  # a start in phases is not all reading
            progress.begin("loading", total, "steps" if worker.phase else "bytes")
        read = max(1, int(fraction * total))
        if worker.phase != phase:
            phase = worker.phase
            progress.stage(phase)
        progress.advance(max(0, read - shown))
        shown = max(read, shown)

    is_loaded = False
    try:
        context_length = worker.wait_loaded(report)
        is_loaded = True
        return context_length
    finally:
        if shown:
            progress.advance(max(0, total - shown) if is_loaded else 0)
            progress.finish()
