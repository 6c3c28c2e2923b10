"""The child process that runs one engine: it loads a model once and answers requests until its parent goes away.

It owns nothing that outlives it. Its first two file descriptors are moved aside for the messages; what native code
prints goes to standard error, which the parent keeps as evidence. A thread reads requests, so that a request to cancel,
or the end of the parent, is seen while the engine computes.
"""

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from llmrun.engines import wire
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.protocol import Engine, Session
from llmrun.engines.types import EngineName
from llmrun.errors import LlmrunError, NoUsableEngineError, PromptTooLongError, UsageError

__all__ = ["main"]

_REPORT_SECONDS = 0.1


def main(engine: str) -> None:
    """Serve requests for one engine until standard input ends."""
    requests, replies = _take_streams()
    _die_with_parent()
    worker = _Worker(engine, replies)
    threading.Thread(target=worker.read_requests, args=(requests,), daemon=True).start()
    worker.serve()


def make_engine(name: EngineName) -> Engine:
    """Import the adapter of an engine and its native library.

    Raises:
        NoUsableEngineError: The engine is not installed, or cannot be loaded here.
    """
    if name is EngineName.LLAMA_CPP:
        from llmrun.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine()
    if name is EngineName.FAKE:
        from llmrun.engines.fake import FakeEngine

        return FakeEngine()
    raise NoUsableEngineError(f"this version of llmrun has no adapter for {name}")


class _Worker:
    def __init__(self, engine: str, replies: BinaryIO) -> None:
        self._name = EngineName(engine)
        self._replies = replies
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancel = Cancellation()
        self._engine: Engine | None = None
        self._session: Session | None = None

    def read_requests(self, requests: BinaryIO) -> None:
        """Queue requests as they come; cancel at once; leave when the parent is gone."""
        reader = wire.FrameReader()
        descriptor = requests.fileno()
        while data := os.read(descriptor, 1 << 16):
            for message in reader.feed(data):
                if message["request"] == "cancel":
                    self._cancel.request()
                    continue
                self._cancel.clear()  # here and not by the other thread: a cancel that follows must not be lost
                self._requests.put(message)
        os._exit(0)

    def serve(self) -> None:
        """Answer one request after another. An error ends the request, a bug ends the process."""
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "load": self._load,
            "tokenize": self._tokenize,
            "generate": self._generate,
        }
        self._guarded(self._start)
        while True:
            message = self._requests.get()
            self._guarded(partial(handlers[message["request"]], message))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LlmrunError as error:
            self._send({"event": "error", "class": type(error).__name__, "message": error.message, "fix": error.fix})
        except BrokenPipeError:
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a bug in an adapter: its traceback is the evidence
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _start(self) -> None:
        self._engine = make_engine(self._name)
        self._send({"event": "ready"})

    def _load(self, message: dict[str, Any]) -> None:
        plan = wire.decode_plan(message)
        if self._engine is None:
            return  # _start has reported why
        last_report = time.monotonic()

        def progress(fraction: float) -> None:
            nonlocal last_report
            now = time.monotonic()
            if now - last_report >= _REPORT_SECONDS:
                last_report = now
                self._send({"event": "loading", "fraction": fraction})

        self._session = self._engine.load(plan, progress)
        self._send({"event": "loaded", "context_length": self._session.context_length})

    def _tokenize(self, message: dict[str, Any]) -> None:
        segments, _ = wire.decode_request(message)
        if self._session is not None:
            self._send({"event": "tokens", "tokens": self._session.tokenize(segments)})

    def _generate(self, message: dict[str, Any]) -> None:
        segments, options = wire.decode_request(message)
        session = self._session
        if session is None:
            return  # _load has reported why
        if options is None:
            raise UsageError("a generate request came without sampling options")
        tokens = session.tokenize(segments)
        self._send({"event": "prompt", "tokens": len(tokens)})
        if not tokens:
            raise UsageError("the prompt is empty: it has no tokens", fix="give a prompt")
        if len(tokens) >= session.context_length:
            raise PromptTooLongError(
                f"the prompt has {len(tokens):,} tokens and the context holds {session.context_length:,}, "
                "of which at least one is for the answer",
                fix="a larger --context-length, or a shorter prompt",
            )
        for event in session.generate(tokens, options, self._cancel):
            self._send(wire.encode_event(event))

    def _send(self, message: dict[str, Any]) -> None:
        self._replies.write(wire.frame(message))


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Move the message pipes off descriptors 0 and 1, so that nothing an engine prints or reads can touch them."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere the end of standard input tells)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig, sigkill = 1, 9
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, sigkill, 0, 0, 0)
    if os.environ.get("LLMRUN_PARENT") != str(os.getppid()):
        os._exit(0)  # it died before the line above
