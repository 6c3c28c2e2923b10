"""A process of its own for an engine, as the client sees it: where messages go and come from, and how it ended.

`Link` is what the client needs of whatever is at the other end; a warm worker that was found running is another one.
"""

import contextlib
import os
import signal
import subprocess
import sys
from typing import Protocol

from llmrun.engines import wire
from llmrun.engines.crash import crash_error
from llmrun.engines.shared_memory import remove_openmp_mark
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import EngineCrashedError, LlmrunError

__all__ = ["Link", "ProcessLink", "worker_environment"]

_PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "LANG",
    "TZ",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LLAMA_CPP_LIB_PATH",
)
_PASSED_ON_PREFIXES = (
    "LC_",
    "PYTHON",
    "OMP_",
    "KMP_",
    "GOMP_",
    "GGML_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "XDG_",
    "LLMRUN_",
)
_handed_over: "list[subprocess.Popen[bytes]]" = []


class Link(Protocol):
    """The other end of a client.

    Attributes:
        pid: Its process id.
        closed: Whether `end` was called.
    """

    pid: int
    closed: bool

    def send(self, data: bytes) -> None:
        """Write all of it. If nobody is there to read it, nothing happens: the next read says why."""

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
    """A child process and its three pipes."""

    def __init__(self, engine: EngineName) -> None:
        self._process = _start_process(engine)
        self.pid = self._process.pid
        self.closed = False

    def send(self, data: bytes) -> None:
        """Write to the child's standard input."""
        assert self._process.stdin is not None
        left = memoryview(data)
        with contextlib.suppress(BrokenPipeError, ValueError):
            while left:
                left = left[self._process.stdin.write(left) or 0 :]

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
            remove_openmp_mark(self.pid)

    def _close_pipes(self) -> None:
        self.closed = True
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _start_process(engine: EngineName) -> "subprocess.Popen[bytes]":
    # Modules are no garbage: looking for some while they are imported takes a fifteenth of the time. `load` enables it.
    program = f"import gc; gc.disable(); from llmrun.engines.worker import main; main({engine.value!r})"
    command = [sys.executable, "-P", "-c", program]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=worker_environment(), start_new_session=True
        )
    except OSError as error:
        raise EngineCrashedError(f"no process could be started for {engine}: {error.strerror}") from error


def worker_environment() -> dict[str, str]:
    """Return the worker's environment: what an engine may need, and no tokens or keys."""
    environment = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "GGML_NO_BACKTRACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "LLMRUN_PARENT": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    return environment
