"""A worker that outlived its command: it listens on its socket, serves one client after another, and knows when to end.

One thread accepts connections and watches the reasons to end; both happen in the same place, so that a client cannot
be let in by a worker that has just decided to go. The engine goes on working in the thread that loaded it.
"""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import llmrun
from llmrun.engines import wire
from llmrun.engines.types import LoadPlan
from llmrun.engines.warm.folder import process_born, runtime_folder
from llmrun.engines.warm.link import HELLO_SECONDS, check_peer, receive
from llmrun.engines.warm.record import PROTOCOL, WarmTarget, WarmWorker
from llmrun.errors import SecurityError, StorageError
from llmrun.hardware.memory import probe_memory
from llmrun.hardware.types import MemoryInfo

__all__ = ["WarmServer", "is_short_of_memory"]

_CHECK_SECONDS = 5.0  # between two looks at memory and files
_PATIENCE_SECONDS = 0.3  # for a client that has gone, and whose request is being cancelled
_NOTICE_SECONDS = 0.03  # for one that may have gone this very moment
_DEAF_SECONDS = 5.0  # for a request that goes on after its client has gone
_SHORT_SHARE = 0.05
_LOG_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1


def is_short_of_memory(memory: MemoryInfo) -> bool:
    """Whether so little is left that waiting for a command that may never come is too dear: 5% of what there is."""
    size = memory.total_bytes if memory.limit_bytes is None else min(memory.total_bytes, memory.limit_bytes)
    return size > 0 and memory.available_bytes < _SHORT_SHARE * size


class WarmServer:
    """The socket of one warm worker, and its end.

    Attributes:
        worker: Its description, as it lies in the runtime folder.
    """

    def __init__(
        self,
        target: WarmTarget,
        plan: LoadPlan,
        context_length: int,
        keep_seconds: float | None,
        serve: Callable[[socket.socket], None],
        probe: Callable[[], MemoryInfo] = lambda: probe_memory()[0],
    ) -> None:
        """Describe the worker; `serve` reads requests from a connection until it ends."""
        pid, now = os.getpid(), time.time()
        self.worker = WarmWorker(
            pid=pid,
            born=process_born(pid) or 0,
            target=target,
            plan=plan,
            version=llmrun.__version__,
            context_length=context_length,
            started=now,
            used=now,
            keep_seconds=keep_seconds,
            busy=True,
            stem=str(runtime_folder() / f"{target.mark}-{pid}"),
        )
        self._serve = serve
        self._probe = probe
        self._state = threading.Condition()
        self._idle_since: float | None = None
        self._left_at: float | None = None
        self._stopping = False
        self._checked = time.monotonic()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)

    def open(self) -> None:
        """Become independent of the command that started this process.

        Must be called by the process's first thread: the kernel keeps for each thread apart that it is to die with
        the parent.

        Raises:
            StorageError: The socket cannot be made.
        """
        try:
            self._listener.bind(self.worker.socket_path)
            Path(self.worker.socket_path).chmod(0o600)
            self._listener.listen(8)
            self._log_to_file()
            self.worker.write()
        except OSError as error:
            self._remove_files()
            raise StorageError(f"cannot make the socket {self.worker.socket_path}: {error.strerror}") from error
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
        faulthandler.enable(file=2)
        self._leave_folder()
        threading.Thread(target=self._run, daemon=True).start()

    def extend(self, keep_seconds: float | None) -> None:
        """Wait for so long from now on."""
        with self._state:
            self.worker = replace(self.worker, keep_seconds=keep_seconds)
        self._look_again()

    def left(self) -> None:
        """Note that the client has gone: its request has to end soon."""
        with self._state:
            self._left_at = time.monotonic()
        self._look_again()

    def idle(self) -> None:
        """Note that nothing is left to do for a client that has gone."""
        with self._state:
            self._left_at = None
            self._idle_since = time.monotonic()
            self._note(busy=False)
            self._state.notify_all()
        self._look_again()

    def _look_again(self) -> None:
        """Have the other thread work out anew how long it may sleep."""
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"!")

    def close(self) -> None:
        """Close the descriptors; who listens for ever has no need of it."""
        for each in (self._listener, self._wake, self._waker):
            each.close()

    def _run(self) -> None:
        try:
            while self._why_end() is None:
                ready, _, _ = select.select([self._listener, self._wake], [], [], self._seconds_to_wait())
                if self._wake in ready:
                    self._wake.recv(1 << 10)
                if self._listener in ready:
                    with contextlib.suppress(OSError):
                        connection, _ = self._listener.accept()
                        self._greet(connection)
        finally:  # also after a bug: a worker that nobody can reach any more must not stay
            self._end()

    def _seconds_to_wait(self) -> float:
        with self._state:
            keep = self.worker.keep_seconds
            if self._left_at is not None:
                return _DEAF_SECONDS / 10
            if self._idle_since is None or keep is None:
                return _CHECK_SECONDS
            left = self._idle_since + keep - time.monotonic()
            return max(0.0, min(_CHECK_SECONDS, keep / 10, left))

    def _greet(self, connection: socket.socket) -> None:
        """Let a client in, tell it to go elsewhere, or note that it wants this worker to end."""
        answer = {"event": "busy", "protocol": PROTOCOL, "pid": self.worker.pid}
        connection.settimeout(HELLO_SECONDS)
        try:
            check_peer(connection)
        except SecurityError:
            connection.close()
            return
        hello = receive(connection)
        if hello is None or hello.get("protocol") != PROTOCOL:
            connection.close()
            return
        with self._state:
            if hello.get("request") == "stop":
                self._stopping = True
                answer |= {"event": "stopping", "busy": not self._becomes_idle()}
            elif hello.get("request") == "attach" and self._take():
                answer |= {"event": "attached", "context_length": self.worker.context_length}
        self._answer(connection, answer)

    def _answer(self, connection: socket.socket, answer: dict[str, object]) -> None:
        attached = answer["event"] == "attached"
        try:
            connection.sendall(wire.frame(answer))
        except OSError:
            attached, taken = False, attached
            if taken:
                self.idle()
        if not attached:
            connection.close()
            return
        connection.settimeout(None)
        threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _take(self) -> bool:
        """Become busy, if this worker is idle or about to be."""
        if not self._becomes_idle() or self._stopping or self._change() is not None:
            return False
        self._idle_since = None
        self._note(busy=True)
        return True

    def _becomes_idle(self) -> bool:
        patience = _NOTICE_SECONDS if self._left_at is None else _PATIENCE_SECONDS
        return self._state.wait_for(lambda: self._idle_since is not None, patience)

    def _note(self, *, busy: bool) -> None:
        self.worker = replace(self.worker, busy=busy, used=time.time())
        with contextlib.suppress(OSError):
            self.worker.write()

    def _why_end(self) -> str | None:
        """Return a reason to end now, if there is one. No client can come in between: the caller lets them in."""
        with self._state:
            return self._reason()

    def _reason(self) -> str | None:
        now = time.monotonic()
        due = self._is_due(now)
        if self._idle_since is None:
            deaf = self._left_at is not None and now - self._left_at > _DEAF_SECONDS
            return "deaf to the end of its client" if deaf else None
        if self._stopping:
            return "told to"
        keep = self.worker.keep_seconds
        if keep is not None and now >= self._idle_since + keep:
            return "not used"
        if not due:
            return None
        return self._change() or ("short of memory" if is_short_of_memory(self._probe()) else None)

    def _is_due(self, now: float) -> bool:
        """Whether it is time to look around again."""
        keep = self.worker.keep_seconds
        if now - self._checked < (_CHECK_SECONDS if keep is None else min(_CHECK_SECONDS, keep / 10)):
            return False
        self._checked = now
        self._trim_log()
        return True

    def _change(self) -> str | None:
        """Return what has changed so that nobody can use this worker any more."""
        if not (Path(self.worker.socket_path).is_socket() and Path(self.worker.record_path).exists()):
            return "not to be found any more"
        return self.worker.target.change()

    def _leave_folder(self) -> None:
        """Do not keep the folder busy that the command was started in, unless paths depend on it."""
        folder = self.worker.plan.cache_folder
        if folder is None or folder.startswith("/"):
            sys.path[:] = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - texts, as Python wants them
            os.chdir("/")

    def _log_to_file(self) -> None:
        """Send what the engine prints to a file; nobody reads the pipe any more, and a full one would block."""
        log = os.open(self.worker.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def _trim_log(self) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > _LOG_BYTES:
                os.ftruncate(2, 0)

    def _end(self) -> None:
        """End this process and everything that the engine started."""
        self._remove_files()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def _remove_files(self) -> None:
        for path in (
            self.worker.socket_path,
            self.worker.log_path,
            f"{self.worker.stem}.part",
            self.worker.record_path,
        ):
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)
