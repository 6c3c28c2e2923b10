"""The parent's side of a worker process: start it, ask it, read its events, and outlive whatever happens to it.

The process is started before anything is known about the model, so that it imports its engine while the parent reads
headers and renders the prompt. Whatever way it ends, the caller gets an answer or one `LlmrunError`.

A worker may also be one that an earlier command left running (`engines/warm`): it has its model already, so that
loading answers at once, and closing only detaches from it.
"""

import dataclasses
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmrun.engines import wire
from llmrun.engines.types import Done, EngineName, Event, LoadPlan, Prompt, SamplingOptions, Segment
from llmrun.errors import EngineTimeoutError, LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.engines.client_process import Link
    from llmrun.engines.warm.record import WarmTarget

__all__ = ["Interrupted", "WorkerClient"]

wire.EVIDENCE_BYTES = 64 << 10
_TIMEOUT_SECONDS = 600.0
_CANCEL_SECONDS = 0.9
_KEEP_SECONDS = 3.0
_AHEAD = 2  # requests of a batch that wait in the worker, besides as many as are answered at once


class Interrupted(Exception):
    """The interrupt descriptor became readable while an event was waited for."""


class WorkerClient:
    """One worker process, from its start, or from attaching to it, to its end.

    Attributes:
        engine: The engine that the process was started for.
        pid: Its process id, which is also its process group.
        interrupt_descriptor: When this descriptor becomes readable, waiting for an event raises `Interrupted`.
        warm: It was left running by an earlier command, and its model is loaded.
        phase: What the engine said that it is doing while it loads; empty: it did not say.
        phases: Seconds that each step took, as far as they are over: `spawn` (from here to the first line of the
            worker), `import` (of the engine), `load` (of the model), or `attach` to a warm worker.
    """

    def __init__(self, engine: EngineName, link: "Link | None" = None) -> None:
        self.engine = engine
        self._timeout = _read_timeout()
        if link is None:
            from llmrun.engines.client_process import ProcessLink
            from llmrun.engines.worker_process import StartedWorker

            link = ProcessLink(StartedWorker(engine))
        self._link: Link = link
        self.pid = link.pid
        self._reader = wire.FrameReader()
        self._pending: list[dict[str, Any]] = []
        self._evidence = bytearray()
        self._plan: LoadPlan | None = None
        self._loaded: int | None = None
        self._answering = False
        self.interrupt_descriptor: int | None = None
        self.warm = False
        self.phase = ""
        self.phases: dict[str, float] = {}

    @property
    def plan(self) -> LoadPlan | None:
        """How the model was loaded, or is to be."""
        return self._plan

    def attached(self, plan: LoadPlan, context_length: int, seconds: float) -> None:
        """Take over a worker that has loaded its model."""
        self.warm = True
        self._plan = plan
        self._loaded = context_length
        self.phases["attach"] = seconds

    def preload(self, path: str) -> None:
        """Have the weights of a GGUF file read that `load` will most likely be asked for."""
        self._link.name_weights(path)
        self._send({"request": "preload", "path": path})

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> int:
        """Load a model and return the context length that the engine set up.

        Raises:
            LlmrunError: What the engine reported, or what its death means.
        """
        self.send_load(plan)
        return self.wait_loaded(progress)

    def send_load(self, plan: LoadPlan) -> None:
        """Ask for a model to be loaded, without waiting for it. A warm worker has its own already."""
        if self._loaded is not None:
            return
        self._plan = plan
        self._send({"request": "load", "plan": dataclasses.asdict(plan)})

    def wait_loaded(self, progress: Callable[[float], None] = lambda _fraction: None) -> int:
        """Wait for the answer to `send_load`."""
        while self._loaded is None:
            message = self._next()
            if message["event"] == "loading":
                self.phase = str(message.get("phase", ""))
                progress(message["fraction"])
            elif message["event"] == "loaded":
                self._loaded = int(message["context_length"])
                self.phases["load"] = float(message["seconds"])
        return self._loaded

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Return the token ids of a prompt."""
        self._send({"request": "tokenize", "segments": _plain(segments)})
        while (message := self._next())["event"] != "tokens":
            pass
        return list(message["tokens"])

    def generate(
        self,
        prompt: Prompt,
        options: SamplingOptions,
        on_prompt: Callable[[int], None] = lambda _tokens: None,
    ) -> Iterator[Event]:
        """Yield the events of one answer, `Done` last. `on_prompt` gets the prompt's token count before them."""
        self.send_generate(prompt, options)
        yield from self.events(on_prompt)

    def send_generate(self, prompt: Prompt, options: SamplingOptions) -> None:
        """Ask for an answer, without waiting for it."""
        self._answering = True
        self._send({"request": "generate", "segments": _plain(prompt), "options": dataclasses.asdict(options)})

    def events(self, on_prompt: Callable[[int], None] = lambda _tokens: None) -> Iterator[Event]:
        """Yield the events of the answer that was asked for."""
        while True:
            message = self._next()
            if message["event"] == "prompt":
                on_prompt(message["tokens"])
                continue
            event = wire.decode_event(message)
            if isinstance(event, Done):
                self._answering = False
                yield event
                return
            yield event

    def generate_many(
        self,
        requests: Iterable[tuple[str, Prompt, SamplingOptions]],
        parallel: int,
        on_begin: Callable[[str], None] = lambda _name: None,
    ) -> Iterator[tuple[str, Event | LlmrunError]]:
        """Answer many prompts, up to `parallel` at once; the events of different ids are interleaved.

        Args:
            requests: An id, the prompt and the options of each. They are taken as the worker has room for them.
            parallel: How many answers are written at the same time, if the engine can do that.
            on_begin: Gets the id of a request when the engine is about to have it.

        Yields:
            An id with its next event. Each id ends with `Done`, or with the error that kept it from being answered.
        """
        self._answering = True
        source = iter(requests)
        self._send({"request": "generate_many", "parallel": parallel, "ahead": parallel + _AHEAD})
        while (message := self._next())["event"] != "complete":
            if message["event"] == "wanted":
                self._feed(source, int(message["count"]))
            elif message["event"] == "begun":
                on_begin(str(message["id"]))
            elif "id" in message:
                yield str(message["id"]), _event_or_error(message)
        self._answering = False

    def _feed(self, source: Iterator[tuple[str, Prompt, SamplingOptions]], count: int) -> None:
        """Send the next requests of a batch, each as soon as it is there."""
        for _ in range(count):
            found = next(source, None)
            if found is None:
                self._send({"request": "more", "requests": [], "last": True})
                return
            name, segments, options = found
            plain = {"id": name, "segments": _plain(segments), "options": dataclasses.asdict(options)}
            self._send({"request": "more", "requests": [plain], "last": False})

    def cancel(self) -> Iterator[Event]:
        """Ask the engine to stop, and yield what it still says; if it does not stop within a second, end it."""
        for message in self._cancel():
            if message["event"] in ("delta", "notice", "done"):
                event = wire.decode_event(message)
                self._answering = not isinstance(event, Done)
                yield event
                if isinstance(event, Done):
                    return

    def cancel_many(self) -> Iterator[tuple[str, Event | LlmrunError]]:
        """Do the same to many answers; each that was begun still ends with an event of its own, if it can hear."""
        for message in self._cancel():
            if message["event"] == "complete":
                self._answering = False
                return
            if "id" in message and message["event"] != "begun":
                yield str(message["id"]), _event_or_error(message)

    def _cancel(self) -> Iterator[dict[str, Any]]:
        """Yield what the engine says within a second of being asked to stop, and end it if it goes on."""
        self._send({"request": "cancel"})
        deadline = time.monotonic() + _CANCEL_SECONDS
        try:
            while (left := deadline - time.monotonic()) > 0:
                yield self._next(left)
        except EngineTimeoutError:
            pass
        self.kill()

    def keep(self, seconds: float | None, target: "WarmTarget") -> None:
        """Leave the worker running for the next command, and let go of it. An answer in progress is cancelled.

        Args:
            seconds: How long it waits for one; None: for ever.
            target: What commands have to ask for to find it.

        Raises:
            LlmrunError: It cannot be kept; it is still this client's, to be closed.
        """
        if self._answering:
            self._send({"request": "cancel"})
        self._send({"request": "keep", "seconds": seconds, "target": dataclasses.asdict(target)})
        deadline = time.monotonic() + _KEEP_SECONDS
        while True:
            of_answer = self._answering
            try:
                message = self._next(deadline - time.monotonic())
            except LlmrunError:
                if self._link.closed or time.monotonic() >= deadline or not of_answer:
                    raise
                continue  # it ended the answer, which nobody waits for any more
            if message["event"] == "kept":
                break
            if message["event"] in ("done", "complete") and "id" not in message:
                self._answering = False
        self._link.hand_over()

    @property
    def loaded(self) -> bool:
        """Whether the worker is there and has its model, so that it can be kept."""
        return self._loaded is not None and not self._link.closed

    @property
    def closed(self) -> bool:
        """Whether the process was ended, or let go."""
        return self._link.closed

    def close(self) -> None:
        """End the process and everything it started, or detach from a warm one. Never raises, may be called again."""
        self._link.end()

    def kill(self) -> None:
        """Do the same: a warm worker that is deaf to the end of its connection ends by itself."""
        self._link.end()

    def _send(self, message: dict[str, Any]) -> None:
        if not self._link.closed:
            self._link.send(wire.frame(message))

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
                    self._answering = False
                    raise wire.error_from(message)
                if message["event"] != "ready":
                    return message
                self.phases["spawn"] = max(0.0, message["entered"] - self._link.began)
                self.phases["import"] = message["imported"] - message["entered"]
            if not self._read(deadline - time.monotonic()):
                raise EngineTimeoutError(
                    f"{self.engine} has said nothing for {self._timeout:.0f} s",
                    fix="LLMRUN_ENGINE_TIMEOUT=SECONDS allows more",
                )

    def _read(self, seconds: float) -> bool:
        """Take in what the worker wrote within `seconds`; False if that was nothing."""
        link = self._link
        if link.closed:
            raise link.post_mortem(self.engine, self._plan, self._evidence)
        messages, prints = link.messages(), link.prints()
        watched = [each for each in (messages, prints, self.interrupt_descriptor) if each is not None]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self.interrupt_descriptor in ready:
            raise Interrupted
        if prints is not None and prints in ready:
            self._evidence += os.read(prints, 1 << 16)
            del self._evidence[: -wire.EVIDENCE_BYTES]
        if messages in ready:
            try:
                data = os.read(messages, 1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                error = link.post_mortem(self.engine, self._plan, self._evidence)
                link.end()
                raise error
            self._pending += self._reader.feed(data)
        return bool(ready)

    @property
    def evidence(self) -> str:
        """The last that the process printed."""
        return self._evidence.decode("utf-8", "replace")


def _event_or_error(message: dict[str, Any]) -> Event | LlmrunError:
    return wire.error_from(message) if message["event"] == "failed" else wire.decode_event(message)


def _plain(prompt: Prompt) -> list[Any]:
    return [part if isinstance(part, int) else (part.text, part.special) for part in prompt]


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
