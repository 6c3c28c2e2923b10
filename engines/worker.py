"""The child process that runs one engine: it loads a model once and answers requests until its parent goes away.

It owns nothing that outlives it, unless it is asked to stay for later commands (`engines/warm/server.py`). Its first
two file descriptors are moved aside for the messages; what native code prints goes to standard error, which the parent
keeps as evidence. A thread reads requests, so that a request to cancel, or the end of the parent, is seen while the
engine computes.
"""

import contextlib
import gc
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from llmrun.engines import wire
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.incoming import Incoming
from llmrun.engines.protocol import BatchRequest, Engine, Failure, Phased, Preloading, Session, check_prompt
from llmrun.engines.shared_memory import remove_openmp_mark
from llmrun.engines.types import EngineName, LoadPlan, Prompt
from llmrun.errors import EngineCrashedError, LlmrunError, NoUsableEngineError, UsageError

if TYPE_CHECKING:
    import socket

    from llmrun.engines.warm.server import WarmServer

__all__ = ["main"]

_Reply = Callable[[bytes], object]
_REPORT_SECONDS = 0.1


def main(engine: str, entered: float) -> None:
    """Serve requests for one engine until standard input ends; `entered` is when this process ran its first line."""
    requests, replies = _take_streams()
    _die_with_parent()
    worker = _Worker(engine, replies, entered)
    threading.Thread(target=worker.read_parent, args=(requests,), daemon=True).start()
    worker.serve()


def make_engine(name: EngineName) -> Engine:
    """Import the adapter of an engine and its native library.

    Raises:
        NoUsableEngineError: The engine is not installed, or cannot be loaded here.
    """
    if name is EngineName.LLAMA_CPP:
        from llmrun.engines.llama_cpp.engine import LlamaCppEngine

        return LlamaCppEngine()
    if name is EngineName.PYTORCH:
        from llmrun.engines.pytorch.engine import PytorchEngine

        return PytorchEngine()
    if name is EngineName.VLLM:
        from llmrun.engines.vllm.engine import VllmEngine

        return VllmEngine()
    if name is EngineName.CTRANSFORMERS:
        from llmrun.engines.ctransformers.engine import CtransformersEngine

        return CtransformersEngine()
    if name is EngineName.FAKE:
        from llmrun.engines.fake import FakeEngine

        return FakeEngine()
    raise NoUsableEngineError(f"this version of llmrun has no adapter for {name}")


class _Worker:
    def __init__(self, engine: str, replies: BinaryIO, entered: float) -> None:
        self._name = EngineName(engine)
        self._entered = entered
        self._reply: _Reply = replies.write  # to whoever made the request that is being answered
        self._requests: queue.SimpleQueue[tuple[_Reply, dict[str, Any]]] = queue.SimpleQueue()
        self._more: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()  # for the batch that runs
        self._cancel = Cancellation()
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._plan: LoadPlan | None = None
        self._server: WarmServer | None = None
        self._preload_seconds = 0.0

    def read_parent(self, requests: BinaryIO) -> None:
        """Queue the parent's requests; when it is gone, go too, unless this worker is kept."""
        self._read(partial(os.read, requests.fileno(), 1 << 16), self._reply)
        if self._server is None:
            os._exit(0)
        requests.close()

    def read_client(self, connection: "socket.socket") -> None:
        """Queue the requests of a command that attached to this kept worker; when it is gone, cancel what it wanted."""
        reply = partial(_send_if_there, connection)
        with contextlib.suppress(OSError, EngineCrashedError):
            self._read(partial(connection.recv, 1 << 16), reply)
        assert self._server is not None
        self._server.left()
        self._stop_answer()
        self._requests.put((reply, {"request": "detach", "connection": connection}))

    def _read(self, read: Callable[[], bytes], reply: _Reply) -> None:
        """Queue requests as they come, but cancel at once."""
        reader = wire.FrameReader()
        while data := read():
            for message in reader.feed(data):
                if message["request"] == "cancel":
                    self._stop_answer()
                    continue
                if message["request"] == "more":
                    self._more.put(message)
                    continue
                if message["request"] != "keep":  # which may follow a cancel that has not been seen yet
                    self._cancel.clear()  # here and not by the other thread: a cancel that follows must not be lost
                self._requests.put((reply, message))

    def _stop_answer(self) -> None:
        self._cancel.request()
        self._more.put(None)

    def serve(self) -> None:
        """Answer one request after another. An error ends the request, a bug ends the process."""
        handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "preload": self._preload,
            "load": self._load,
            "tokenize": self._tokenize,
            "generate": self._generate,
            "generate_many": self._generate_many,
            "keep": self._keep,
            "detach": self._detach,
        }
        self._guarded(self._start)
        while True:
            self._reply, message = self._requests.get()
            self._guarded(partial(handlers[message["request"]], message))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LlmrunError as error:
            self._send({"event": "error", **wire.encode_error(error)})
        except BrokenPipeError:
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a bug in an adapter: its traceback is the evidence
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _start(self) -> None:
        self._engine = make_engine(self._name)
        self._send({"event": "ready", "entered": self._entered, "imported": time.monotonic()})

    def _preload(self, message: dict[str, Any]) -> None:
        """Load what the next plan will most likely want; if that fails, `_load` says why."""
        if isinstance(self._engine, Preloading):
            began = time.monotonic()
            with contextlib.suppress(LlmrunError):
                self._engine.preload(message["path"], self._progress())
            self._preload_seconds = time.monotonic() - began

    def _load(self, message: dict[str, Any]) -> None:
        plan = wire.decode_plan(message)
        if self._engine is None:
            return  # _start has reported why
        began = time.monotonic()
        self._session = self._engine.load(plan, self._progress())
        self._plan = plan
        gc.freeze()  # what was imported and loaded stays
        gc.enable()
        seconds = self._preload_seconds + time.monotonic() - began
        self._send({"event": "loaded", "context_length": self._session.context_length, "seconds": seconds})

    def _progress(self) -> Callable[[float], None]:
        """Return what tells the command how much has been read, now and then."""
        last_report = time.monotonic()

        def report(fraction: float) -> None:
            nonlocal last_report
            now = time.monotonic()
            if now - last_report >= _REPORT_SECONDS:
                last_report = now
                phase = self._engine.phase if isinstance(self._engine, Phased) else ""
                self._send({"event": "loading", "fraction": fraction, "phase": phase})

        return report

    def _tokenize(self, message: dict[str, Any]) -> None:
        segments, _ = wire.decode_request(message)
        if self._session is not None:
            self._send({"event": "tokens", "tokens": _tokens(self._session, segments)})

    def _generate(self, message: dict[str, Any]) -> None:
        segments, options = wire.decode_request(message)
        session = self._session
        if session is None:
            return  # _load has reported why
        if options is None:
            raise UsageError("a generate request came without sampling options")
        tokens = _tokens(session, segments)
        self._send({"event": "prompt", "tokens": len(tokens)})
        check_prompt(tokens, session.context_length)
        for number, event in enumerate(session.generate(tokens, options, self._cancel)):
            self._send(wire.encode_event(event))
            if number == 0:  # the engine has begun to compute, so that its mark is there
                remove_openmp_mark(os.getpid())

    def _generate_many(self, message: dict[str, Any]) -> None:
        session = self._session
        if session is None:
            return  # _load has reported why
        requests = self._batch(session, int(message["ahead"]))
        for name, event in session.generate_many(requests, int(message["parallel"]), self._cancel):
            if isinstance(event, Failure):
                self._send({"event": "failed", "id": name, **wire.encode_error(event.error)})
            else:
                self._send({**wire.encode_event(event), "id": name})
        self._send({"event": "complete"})
        remove_openmp_mark(os.getpid())

    def _batch(self, session: Session, ahead: int) -> Iterator[BatchRequest]:
        """Tokenize each prompt when its turn comes: nobody waits for those of the others."""

        def ask(count: int) -> None:
            self._send({"event": "wanted", "count": count})

        for request in Incoming(self._more, ahead, ask, self._cancel):
            segments, options = wire.decode_request(request)
            if options is None:
                raise UsageError("a generate request came without sampling options")
            self._send({"event": "begun", "id": request["id"]})
            yield BatchRequest(id=request["id"], tokens=_tokens(session, segments), options=options)

    def _keep(self, message: dict[str, Any]) -> None:
        """Stay when this command ends, for so long as nobody else comes."""
        if self._session is None or self._plan is None:
            raise UsageError("there is nothing to keep: no model is loaded")
        seconds = message["seconds"]
        if self._server is None:
            from llmrun.engines.warm.record import target_from
            from llmrun.engines.warm.server import WarmServer

            target = target_from(message["target"])
            server = WarmServer(target, self._plan, self._session.context_length, seconds, self.read_client)
            server.open()
            self._server = server
            server.idle()
        else:
            self._server.extend(seconds)
        self._send({"event": "kept"})

    def _detach(self, message: dict[str, Any]) -> None:
        assert self._server is not None
        message["connection"].close()
        self._server.idle()

    def _send(self, message: dict[str, Any]) -> None:
        self._reply(wire.frame(message))


def _tokens(session: Session, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt that may be some already."""
    numbers = [part for part in prompt if isinstance(part, int)]
    return numbers or session.tokenize([part for part in prompt if not isinstance(part, int)])


def _send_if_there(connection: "socket.socket", data: bytes) -> None:
    """Send to a command that may have gone; whoever reads from it sees that, and cancels what it wanted."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


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
