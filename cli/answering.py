"""The events of an answer, and what Ctrl-C does to it. A command makes a descriptor readable when that is pressed."""

import contextlib
import os
from collections.abc import Iterator

from llmrun.engines.client import Interrupted, WorkerClient
from llmrun.engines.types import Event
from llmrun.errors import EngineTimeoutError

__all__ = ["events_until_stopped", "heed"]


def events_until_stopped(worker: WorkerClient, interrupt: int) -> Iterator[Event]:
    """Yield the events of the answer; when interrupted ask the engine to stop, the second time end it.

    Raises:
        LlmrunError: What the worker reported, or what its death means. One that has fallen silent was ended.
    """
    worker.interrupt_descriptor = interrupt
    try:
        yield from worker.events()
    except Interrupted:
        heed(interrupt)
        try:
            yield from worker.cancel()
        except Interrupted:
            heed(interrupt)
            worker.kill()
    except EngineTimeoutError:  # it will not hear the next request either
        worker.kill()
        raise
    finally:
        worker.interrupt_descriptor = None


def heed(interrupt: int) -> None:
    """Take note of an interruption, so that it does not end the next answer too."""
    with contextlib.suppress(BlockingIOError):
        os.read(interrupt, 64)
