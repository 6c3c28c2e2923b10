"""The requests of a batch as the worker sees them: asked for while there is room, so that no side holds all of them.

The worker says how many more it wants, and the command line answers with so many, or says that there are no more. A few
are asked for ahead, so that the engine does not wait for a prompt to be rendered. Nobody waits for a side that waits
itself: the command line answers as soon as it reads, and what it sends is read by a thread of its own.
"""

import queue
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from llmrun.engines.cancellation import Cancellation

__all__ = ["Incoming"]


class Incoming:
    """An iterator over requests that are still to come.

    Args:
        messages: What the command line sent: messages called `more`; None wakes who waits, to look at `cancel`.
        ahead: How many are kept ready at most.
        ask: Tells the command line how many more are wanted.
        cancel: Once it is requested, only what is here already comes.
    """

    def __init__(
        self,
        messages: "queue.SimpleQueue[dict[str, Any] | None]",
        ahead: int,
        ask: Callable[[int], None],
        cancel: Cancellation,
    ) -> None:
        self._messages = messages
        self._ahead = max(1, ahead)
        self._ask = ask
        self._cancel = cancel
        self._ready: deque[dict[str, Any]] = deque()
        self._due = 0  # asked for, and not here yet
        self._ended = False
        while not messages.empty():  # of a batch before this one, which was cancelled
            messages.get()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        while not self._messages.empty():
            self._take(self._messages.get())
        if self._open:
            self._top_up()
        while self._open and not self._ready:
            self._take(self._messages.get())
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    @property
    def _open(self) -> bool:
        return not (self._ended or self._cancel.requested)

    def _top_up(self) -> None:
        missing = self._ahead - len(self._ready) - self._due
        if missing * 2 >= self._ahead:
            self._due += missing
            self._ask(missing)

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is not None:
            self._ready.extend(message["requests"])
            self._due -= len(message["requests"])
            self._ended = message["last"]
