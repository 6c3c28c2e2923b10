"""What the command does when it is told to stop.

HUP and TERM end it at once through the interpreter's own clean-up, with exit codes 129 and 143. INT raises
KeyboardInterrupt as usual, except while an answer streams: there it is noticed between two events, so that the answer
so far is complete and the engine can be told to stop.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

__all__ = ["StopRequest", "exit_on_signals", "interrupt_descriptor", "stop_descriptor"]


def exit_on_signals() -> None:
    """Turn HUP and TERM into an orderly exit, unless the caller had them ignored (nohup)."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def interrupt_descriptor() -> Iterator[int]:
    """Within the block, Ctrl-C raises nothing and makes the returned descriptor readable instead."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(read_end, False)

    def note(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(write_end, b"!")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield read_end
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(read_end)
        os.close(write_end)


@dataclass(slots=True)
class StopRequest:
    """Whether the command was told to stop.

    Attributes:
        descriptor: Becomes readable when it is.
        signal: By which signal it was, 0 before.
    """

    descriptor: int
    signal: int = 0


@contextlib.contextmanager
def stop_descriptor() -> Iterator[StopRequest]:
    """Within the block, INT, TERM and HUP are only noted, so that work can be left in order; not those ignored."""
    with interrupt_descriptor() as descriptor:
        request = StopRequest(descriptor)
        noted = signal.getsignal(signal.SIGINT)
        assert callable(noted)

        def note(number: int, frame: FrameType | None) -> None:
            request.signal = request.signal or number
            noted(number, frame)

        before = {
            number: signal.signal(number, note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield request
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
