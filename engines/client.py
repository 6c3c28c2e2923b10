"""The parent's side of a worker process: start it, ask it, read its events, and outlive whatever happens to it.

The process is started before anything is known about the model, so that it imports its engine while the parent reads
headers and renders the prompt. Whatever way it ends, the caller gets an answer or one `LlmrunError`.
"""

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmrun.engines import wire
from llmrun.engines.crash import crash_error
from llmrun.engines.types import Done, EngineName, Event, LoadPlan, SamplingOptions, Segment
from llmrun.errors import EngineCrashedError, EngineTimeoutError, UsageError

__all__ = ["Interrupted", "WorkerClient"]

_EVIDENCE_BYTES = 64 << 10
_TIMEOUT_SECONDS = 600.0
_CANCEL_SECONDS = 0.9
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


class Interrupted(Exception):
    """The interrupt descriptor became readable while an event was waited for."""


class WorkerClient:
    """One worker process, from its start to its end.

    Attributes:
        engine: The engine that the process was started for.
        pid: Its process id, which is also its process group.
        interrupt_descriptor: When this descriptor becomes readable, waiting for an event raises `Interrupted`.
    """

    def __init__(self, engine: EngineName) -> None:
        self.engine = engine
        self._timeout = _read_timeout()
        self._process = _start_process(engine)
        self.pid = self._process.pid
        self._reader = wire.FrameReader()
        self._pending: list[dict[str, Any]] = []
        self._evidence = bytearray()
        self._plan: LoadPlan | None = None
        self.interrupt_descriptor: int | None = None

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> int:
        """Load a model and return the context length that the engine set up.

        Raises:
            LlmrunError: What the engine reported, or what its death means.
        """
        self.send_load(plan)
        return self.wait_loaded(progress)

    def send_load(self, plan: LoadPlan) -> None:
        """Ask for a model to be loaded, without waiting for it."""
        self._plan = plan
        self._send({"request": "load", "plan": dataclasses.asdict(plan)})

    def wait_loaded(self, progress: Callable[[float], None] = lambda _fraction: None) -> int:
        """Wait for the answer to `send_load`."""
        while True:
            message = self._next()
            if message["event"] == "loading":
                progress(message["fraction"])
            elif message["event"] == "loaded":
                return int(message["context_length"])

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Return the token ids of a prompt."""
        self._send({"request": "tokenize", "segments": _plain(segments)})
        while (message := self._next())["event"] != "tokens":
            pass
        return list(message["tokens"])

    def generate(
        self,
        segments: Sequence[Segment],
        options: SamplingOptions,
        on_prompt: Callable[[int], None] = lambda _tokens: None,
    ) -> Iterator[Event]:
        """Yield the events of one answer, `Done` last. `on_prompt` gets the prompt's token count before them."""
        self.send_generate(segments, options)
        yield from self.events(on_prompt)

    def send_generate(self, segments: Sequence[Segment], options: SamplingOptions) -> None:
        """Ask for an answer, without waiting for it."""
        self._send({"request": "generate", "segments": _plain(segments), "options": dataclasses.asdict(options)})

    def events(self, on_prompt: Callable[[int], None] = lambda _tokens: None) -> Iterator[Event]:
        """Yield the events of the answer that was asked for."""
        while True:
            message = self._next()
            if message["event"] == "prompt":
                on_prompt(message["tokens"])
                continue
            event = wire.decode_event(message)
            yield event
            if isinstance(event, Done):
                return

    def cancel(self) -> Iterator[Event]:
        """Ask the engine to stop, and yield what it still says; if it does not stop within a second, end it."""
        self._send({"request": "cancel"})
        deadline = time.monotonic() + _CANCEL_SECONDS
        try:
            while (left := deadline - time.monotonic()) > 0:
                message = self._next(left)
                if message["event"] in ("delta", "notice", "done"):
                    event = wire.decode_event(message)
                    yield event
                    if isinstance(event, Done):
                        return
        except EngineTimeoutError:
            pass
        self.kill()

    def close(self) -> None:
        """End the process and everything it started. Never raises, may be called again."""
        self.kill()

    def kill(self) -> None:
        """Kill the whole process group, and collect it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        data = memoryview(wire.frame(message))
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except (BrokenPipeError, ValueError):
            return  # it is dead: the next read says why

    def _next(self, seconds: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Raises:
            EngineTimeoutError: None came in time.
            LlmrunError: The worker reported it, or died.
        """
        deadline = time.monotonic() + (self._timeout if seconds is None else seconds)
        while True:
            while self._pending:
                message = self._pending.pop(0)
                if message["event"] == "error":
                    raise wire.error_from(message)
                if message["event"] != "ready":
                    return message
            if not self._read(deadline - time.monotonic()):
                raise EngineTimeoutError(
                    f"{self.engine} has said nothing for {self._timeout:.0f} s",
                    fix="LLMRUN_ENGINE_TIMEOUT=SECONDS allows more",
                )

    def _read(self, seconds: float) -> bool:
        """Take in what the worker wrote within `seconds`; False if that was nothing."""
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.closed:
            raise crash_error(self.engine, process.returncode or 0, self.evidence, self._plan)
        watched: list[Any] = [process.stdout, process.stderr]
        if self.interrupt_descriptor is not None:
            watched.append(self.interrupt_descriptor)
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self.interrupt_descriptor in ready:
            raise Interrupted
        if process.stderr in ready:
            self._evidence += os.read(process.stderr.fileno(), 1 << 16)
            del self._evidence[:-_EVIDENCE_BYTES]
        if process.stdout in ready:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                self._bury()
            self._pending += self._reader.feed(data)
        return bool(ready)

    def _bury(self) -> None:
        """Raise what the end of the worker's messages means."""
        process = self._process
        assert process.stderr is not None
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            status = process.returncode
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(process.stderr.fileno(), 1 << 16):
                self._evidence += data
        del self._evidence[:-_EVIDENCE_BYTES]
        error = crash_error(self.engine, status, self.evidence, self._plan)
        self.kill()
        raise error

    @property
    def evidence(self) -> str:
        """The last that the process printed."""
        return self._evidence.decode("utf-8", "replace")


def _start_process(engine: EngineName) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-c", f"from llmrun.engines.worker import main; main({engine.value!r})"]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=_environment(), start_new_session=True
        )
    except OSError as error:
        raise EngineCrashedError(f"no process could be started for {engine}: {error.strerror}") from error


def _plain(segments: Sequence[Segment]) -> list[tuple[str, bool]]:
    return [(segment.text, segment.special) for segment in segments]


def _environment() -> dict[str, str]:
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


def _read_timeout() -> float:
    text = os.environ.get("LLMRUN_ENGINE_TIMEOUT")
    if text is None:
        return _TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"LLMRUN_ENGINE_TIMEOUT wants seconds, more than 0; found {text!r}")
    return seconds
