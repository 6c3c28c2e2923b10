"""The number of threads that a llama.cpp context decodes with, kept at what the tuner finds fastest."""

import threading
from collections.abc import Sequence
from typing import Any

from llmrun.engines.threads.tuner import ThreadTuner
from llmrun.engines.threads.waiting import ThreadWaiting
from llmrun.engines.types import LoadPlan

__all__ = ["DecodeThreads"]


class DecodeThreads:
    """Watches the single tokens of one session.

    The prefill keeps all threads, which were faster beside another program too: its large pieces can be shared out. The
    few tokens of a guess are computed with as many as a single token is.
    """

    def __init__(self, api: Any, plan: LoadPlan) -> None:
        self._api = api
        self._most = plan.threads
        self._waiting: ThreadWaiting | None = None
        self._tuner: ThreadTuner | None = None
        # With layers on a GPU, decoding does not wait for threads.
        self._is_used = plan.gpu_layers == 0 and plan.threads > 1 and not plan.threads_are_fixed
        self._set = plan.threads
        self._follows = False
        self._reader = 0  # the thread whose point of view `_waiting` has

    def begin(self, context: Any, *, repeatable: bool = False) -> None:
        """Begin an answer, after its prompt has been processed: by then the library has started its threads.

        A repeatable one keeps all threads: in long contexts their number changes how sums are rounded.
        """
        self._follows = self._is_used and not repeatable
        if not self._follows:
            if self._set != self._most:
                self._apply(context, self._most)
            return
        if self._tuner is None or self._reader != threading.get_native_id():
            self._make_tuner()
        if self._waiting is not None:
            self._waiting.refresh()
        assert self._tuner is not None
        self._tuner.restart()
        self._apply(context, self._tuner.threads)

    def observe(self, context: Any, seconds: Sequence[float]) -> None:
        """Take in how long each of some tokens took; those after a change of mind say nothing about its result."""
        if not self._follows or self._tuner is None:
            return
        for each in seconds:
            threads = self._tuner.observe(each)
            if threads != self._set:
                self._apply(context, threads)
                return

    @property
    def patience(self) -> int | None:
        """After how many more tokens `observe` is to be called early; None: not before it is convenient."""
        return self._tuner.patience if self._follows and self._tuner is not None else None

    def apply(self, context: Any) -> None:
        """Give a new context the number that the last one had."""
        self._apply(context, self._set)

    def end(self, context: Any) -> None:
        """End the answer: what follows is a prompt."""
        self._api.llama_set_n_threads(context, self._set, self._most)

    def _apply(self, context: Any, threads: int) -> None:
        self._set = threads
        self._api.llama_set_n_threads(context, threads, threads)

    def _make_tuner(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = ThreadWaiting() if ThreadWaiting.available() else None
        self._tuner = ThreadTuner(self._most, self._waiting)
        self._reader = threading.get_native_id()
