"""A process of its own for an engine, as the client sees it: where messages go and come from, and how it ended.

`Link` is what the client needs of whatever is at the other end; a warm worker that was found running is another one.
"""

import contextlib
import os
import signal
import subprocess
from typing import Protocol

from llmrun.engines import wire
from llmrun.engines.crash import crash_error
from llmrun.engines.shared_memory import remove_openmp_mark
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.worker_process import StartedWorker
from llmrun.errors import LlmrunError

__all__ = ["Link", "ProcessLink"]

_handed_over: "list[subprocess.Popen[bytes]]" = []


class Link(Protocol):
    """The other end of a client.

    Attributes:
        pid: Its process id.
        began: When it was started or reached, in seconds of the monotonic clock.
        closed: Whether `end` was called.
    """

    pid: int
    began: float
    closed: bool

    def send(self, data: bytes) -> None:
        """Write all of it. If nobody is there to read it, nothing happens: the next read says why."""

    def name_weights(self, path: str) -> None:
        """Say which weights will most likely be wanted, to a process that may not have imported its engine yet."""

    def messages(self) -> int:
        """Return the descriptor that messages come from."""

    def prints(self) -> int | None:
        """Return the descriptor that everything comes from that the engine prints, if there is one to watch."""

    def post_mortem(self, engine: EngineName, plan: LoadPlan | None, evidence: bytearray) -> LlmrunError:
        """Return what it means that the messages ended; what else was printed is added to the evidence."""

    def end(self) -> None:
        """End the process if it is this client's own, and the connection in any case. May be called again."""

    def hand_over(self) -> None:
        """Let go of everything and leave the process running."""


class ProcessLink:
    """A child process and its pipes."""

    def __init__(self, started: StartedWorker) -> None:
        self._started = started
        self._process = started.process
        self.pid = self._process.pid
        self.began = started.began
        self.closed = False

    def send(self, data: bytes) -> None:
        """Write to the child's standard input."""
        assert self._process.stdin is not None
        left = memoryview(data)
        with contextlib.suppress(BrokenPipeError, ValueError):
            while left:
                left = left[self._process.stdin.write(left) or 0 :]

    def name_weights(self, path: str) -> None:
        """Write to the pipe that is for that."""
        self._started.name_weights(path)

    def messages(self) -> int:
        """Return the child's standard output."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def prints(self) -> int | None:
        """Return the child's standard error."""
        assert self._process.stderr is not None
        return self._process.stderr.fileno()

    def post_mortem(self, engine: EngineName, plan: LoadPlan | None, evidence: bytearray) -> LlmrunError:
        """Wait for the child, which has closed its messages, and explain its exit status."""
        if not self.closed:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._kill()
            prints = self.prints()
            assert prints is not None
            os.set_blocking(prints, False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(prints, 1 << 16):
                    evidence += data
            del evidence[: -wire.EVIDENCE_BYTES]
        text = evidence.decode("utf-8", "replace")
        return crash_error(engine, self._process.returncode or 0, text, plan)

    def end(self) -> None:
        """Kill the whole process group, and collect it; not if it was handed over."""
        if not self.closed:
            self._kill()
            self._close_pipes()

    def hand_over(self) -> None:
        """Close the pipes; the child is collected later, if this process lives so long."""
        self._close_pipes()
        _handed_over[:] = [process for process in _handed_over if process.poll() is None]
        _handed_over.append(self._process)

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        remove_openmp_mark(self.pid)  # also of a child that others killed

    def _close_pipes(self) -> None:
        self.closed = True
        self._started.close_weights()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
