"""A process for chat templates that is started before a command comes, and handed to the copy that carries it out.

It is the child of the process that waits, not of the copy, so the copy cannot wait for it as for a child of its own. A
process descriptor (Linux) names it without fail, even when its id has been given to another process meanwhile.
"""

import contextlib
import os
import select
import signal
import subprocess
from typing import IO

from llmrun.models.prompt.render import TemplateRenderer

__all__ = ["SpareRenderer"]


class SpareRenderer:
    """One renderer that waits to be handed over."""

    def __init__(self) -> None:
        self._renderer = TemplateRenderer()
        process = self._renderer.process
        assert isinstance(process, subprocess.Popen)
        self._process = process
        self._descriptor = os.pidfd_open(process.pid)

    def take(self) -> TemplateRenderer:
        """Return it, in the copy."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._renderer.process = _Relative(self._descriptor, self._process.stdin, self._process.stdout)
        return self._renderer

    def give_up(self) -> None:
        """Let go of it, in the process that waits: it ends when the copy does."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        os.close(self._descriptor)
        self._process.returncode = 0  # its end is seen by whoever collects all children


class _Relative:
    """What a `TemplateRenderer` needs of a process that is no child of this one."""

    def __init__(self, descriptor: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._descriptor = descriptor
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end. How it ended only its parent is told."""
        select.select([self._descriptor], [], [], 2.0)
        return -signal.SIGKILL
