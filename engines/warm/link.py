"""The connection between a command and a warm worker: a Unix socket, where each side knows whose process the other is.

The folder and the socket are closed to other users already; asking the kernel who is at the other end costs nothing
and holds even where somebody loosened them.
"""

import contextlib
import os
import re
import signal
import socket
import time
from typing import Any

from llmrun.engines import wire
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.warm.folder import process_born
from llmrun.engines.warm.peer import peer_user
from llmrun.engines.warm.record import PROTOCOL, WarmWorker
from llmrun.errors import EngineCrashedError, LlmrunError, SecurityError

__all__ = ["HELLO_SECONDS", "SocketLink", "check_peer", "connect", "receive"]

HELLO_SECONDS = 1.0
_DEATH_SECONDS = 2.0
# What faulthandler prints, which a warm worker has on.
_FATAL = re.compile(r"Fatal Python error: (.+)")
_SIGNALS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
}


def check_peer(connection: socket.socket) -> None:
    """See that the other end belongs to this user.

    Raises:
        SecurityError: It does not.
    """
    user = peer_user(connection)
    if user != os.geteuid():
        raise SecurityError(
            f"the other end of a warm worker's socket belongs to user {user}, not to {os.geteuid()}",
            fix="set XDG_RUNTIME_DIR to a folder of yours",
        )


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Return the one message that the other side sends now, or None if it ends or keeps silent."""
    reader = wire.FrameReader()
    try:
        while data := connection.recv(1 << 16):
            for message in reader.feed(data):
                return message if isinstance(message, dict) else None
    except (OSError, EngineCrashedError):
        pass
    return None


def connect(worker: WarmWorker, want: str) -> "tuple[socket.socket, dict[str, Any]] | None":
    """Reach a worker and say what is wanted of it: `attach` or `stop`.

    Returns:
        The connection and the worker's answer, or None if it is gone, does not answer, or speaks another protocol.

    Raises:
        SecurityError: Something of another user listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(HELLO_SECONDS)
        connection.connect(worker.socket_path)
        check_peer(connection)
        connection.sendall(wire.frame({"request": want, "protocol": PROTOCOL, "version": worker.version}))
        answer = receive(connection)
        if answer is not None and answer.get("protocol") == PROTOCOL and answer.get("pid") == worker.pid:
            connection.settimeout(None)
            return connection, answer
    except OSError:
        pass
    except SecurityError:
        connection.close()
        raise
    connection.close()
    return None


class SocketLink:
    """A warm worker that this process is attached to. Ending the link ends the connection, not the worker."""

    def __init__(self, worker: WarmWorker, connection: socket.socket) -> None:
        self.pid = worker.pid
        self.began = time.monotonic()
        self.closed = False
        self._worker = worker
        self._connection = connection
        self._log: int | None = None
        with contextlib.suppress(OSError):  # opened now: whoever finds the worker dead removes it
            self._log = os.open(worker.log_path, os.O_RDONLY)
            os.lseek(self._log, 0, os.SEEK_END)

    def send(self, data: bytes) -> None:
        """Write to the connection."""
        with contextlib.suppress(OSError):
            self._connection.sendall(data)

    def name_weights(self, path: str) -> None:
        """Nothing to say: it has loaded its model."""

    def messages(self) -> int:
        """Return the connection's descriptor."""
        return self._connection.fileno()

    def prints(self) -> int | None:
        """Nothing to watch: what the engine prints goes to a file."""
        return None

    def post_mortem(self, engine: EngineName, plan: LoadPlan | None, evidence: bytearray) -> LlmrunError:
        """Explain the end of the connection.

        The worker is not this process's child, so nobody can be asked for its exit status. What it printed last says
        by which signal it died, and if it printed nothing it was killed from outside.
        """
        from llmrun.engines.crash import crash_error

        deadline = time.monotonic() + _DEATH_SECONDS
        while (alive := process_born(self.pid) == self._worker.born) and time.monotonic() < deadline:
            time.sleep(0.01)
        evidence += self._read_log()
        del evidence[: -wire.EVIDENCE_BYTES]
        if alive:
            return EngineCrashedError(f"the warm worker of {engine} (process {self.pid}) closed the connection")
        text = evidence.decode("utf-8", "replace")
        fatal = _FATAL.search(text)
        if fatal is not None:
            number = _SIGNALS.get(fatal[1].strip(), signal.SIGABRT)
            return crash_error(engine, -number, text[: fatal.start()], plan)
        return crash_error(engine, 1 if "Traceback (most recent" in text else -signal.SIGKILL, text, plan)

    def end(self) -> None:
        """Detach. A request that is still running is cancelled by that."""
        self.closed = True
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def hand_over(self) -> None:
        """Detach."""
        self.end()

    def _read_log(self) -> bytes:
        """Return what was printed since this process attached."""
        if self._log is None:
            return b""
        found = bytearray()
        with contextlib.suppress(OSError):
            while data := os.read(self._log, 1 << 16):
                found += data
        return bytes(found[-wire.EVIDENCE_BYTES :])
