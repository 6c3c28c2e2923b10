"""The process that waits: it imports what a command needs, and forks for each one that comes.

It has one thread and no native engine, so that a fork is safe. It ends when no model is kept loaded any more, when its
own code was changed, or when its socket was removed. Called as `python -m llmrun.cli.standby.serving`.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from llmrun.cli.standby.circumstances import describe_circumstances
from llmrun.cli.standby.command import Command, decode_command
from llmrun.cli.standby.copy import carry_out
from llmrun.cli.standby.message import GO, LIMIT_BYTES, SOCKET_NAME, WILLING
from llmrun.cli.standby.renderer import SpareRenderer
from llmrun.engines.selection.headers import read_gguf_facts
from llmrun.engines.warm.folder import find_names, process_born, runtime_folder
from llmrun.engines.warm.peer import peer_user
from llmrun.engines.warm.record import WarmWorker
from llmrun.errors import LlmrunError

__all__ = ["serve"]

# What `run` imports on its way to an answer from a loaded model. Nothing that reads the environment when imported.
_MODULES = (
    *("typer", "rich.console", "rich.segment", "subprocess", "threading", "ctypes", "traceback"),
    *("llmrun.cli.app", "llmrun.cli.early", "llmrun.cli.output", "llmrun.cli.config", "llmrun.cli.run"),
    *("llmrun.cli.run_flow", "llmrun.cli.progress", "llmrun.cli.signals", "llmrun.engines.warm.link"),
    *("llmrun.engines.warm.workers", "llmrun.engines.client", "llmrun.engines.prepare", "llmrun.engines.prompting"),
    *("llmrun.models.prompt.render", "llmrun.models.prompt.conversation", "llmrun.models.catalogue"),
    *("llmrun.models.resolver.resolve", "llmrun.models.resolver.disk", "llmrun.engines.crash"),
)
_CHECK_SECONDS = 1.0
_HELLO_SECONDS = 0.5


@dataclass
class _Served:
    """A command that came: its connection and, once it has begun, the process that carries it out."""

    connection: socket.socket
    command: Command
    descriptors: list[int]
    pid: int | None = None
    pending: list[int] = field(default_factory=list)

    def close(self) -> None:
        self.connection.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class _Standby:
    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._path = path
        self._inode = path.stat().st_ino
        self._served: list[_Served] = []
        self._spare: SpareRenderer | None = None
        self._circumstances = describe_circumstances()
        self._code = _code_stamps()
        self._checked = 0.0
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until there is nothing to wait for."""
        while self._served or self._is_wanted():
            watched: list[socket.socket | int] = [
                self._listener,
                self._wake,
                *(served.connection for served in self._served),
            ]
            ready, _, _ = select.select(watched, [], [], _CHECK_SECONDS)
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 1 << 10)
            self._collect()
            for served in [served for served in self._served if served.connection in ready]:
                self._hear(served)
            if self._listener in ready:
                self._accept()

    def _is_wanted(self) -> bool:
        """Whether a model is kept loaded, and this process is still what a new one would be."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS / 2:
            return True
        self._checked = now
        try:
            waiting = [record for record, pid in find_names() if process_born(pid) is not None]
            _remember(waiting)
            if self._spare is None and hasattr(os, "pidfd_open"):
                self._spare = SpareRenderer()
            return bool(waiting) and self._path.stat().st_ino == self._inode and _code_stamps() == self._code
        except (OSError, LlmrunError):
            return False

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        descriptors: list[int] = []
        try:
            connection.settimeout(_HELLO_SECONDS)
            if peer_user(connection) != os.geteuid():
                raise ValueError("another user's process")
            command = _receive(connection, descriptors)
            if command.circumstances != self._circumstances or _code_stamps() != self._code:
                raise ValueError("other circumstances")
            connection.sendall(WILLING)
        except (OSError, ValueError):
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self._served.append(_Served(connection, command, descriptors))

    def _hear(self, served: _Served) -> None:
        """Begin, pass signals on, or end what nobody waits for any more."""
        try:
            data = served.connection.recv(64)
        except OSError:
            data = b""
        if not data:
            if served.pid is None:
                self._forget(served)
            else:
                _send_signal(served.pid, signal.SIGCONT)
                _send_signal(served.pid, signal.SIGTERM)
                served.connection.close()
                self._served.remove(served)
            return
        for byte in data:
            if byte == GO[0]:
                self._begin(served)
            elif served.pid is None:
                served.pending.append(byte)
            else:
                _send_signal(served.pid, byte)

    def _begin(self, served: _Served) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for other in self._served:
                other.connection.close()
                if other is not served:
                    other.close()
            self._listener.close()
            os.close(self._wake)
            os.close(self._waker)
            carry_out(served.command, served.descriptors, self._spare)
        served.pid = pid
        if self._spare is not None:
            self._spare.give_up()
            self._spare = None
        for descriptor in served.descriptors:
            os.close(descriptor)
        served.descriptors = []
        for number in served.pending:
            _send_signal(pid, number)

    def _collect(self) -> None:
        """Tell the commands whose process has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for served in [served for served in self._served if served.pid == pid]:
                with contextlib.suppress(OSError):
                    served.connection.sendall(code.to_bytes(4, "big", signed=True))
                self._forget(served)

    def _forget(self, served: _Served) -> None:
        served.close()
        self._served.remove(served)


def serve() -> None:
    """Wait for commands; nothing happens if another process does so already."""
    import fcntl

    folder = runtime_folder()
    lock = os.open(folder / "standby.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    for name in _MODULES:
        import_module(name)
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(8)
    standby = _Standby(listener, path)
    try:
        standby.run()
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _receive(connection: socket.socket, descriptors: list[int]) -> Command:
    """Return the command that is sent now; its descriptors are added to the list as soon as they are there."""
    head, received, _, _ = socket.recv_fds(connection, 8, 8)
    descriptors += received
    size = int.from_bytes(head, "big")
    if len(head) < 8 or size > LIMIT_BYTES or len(received) != 4:
        raise ValueError("no command")
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ValueError("half a command")
        data += piece
    return decode_command(bytes(data))


def _code_stamps() -> tuple[tuple[str, int], ...]:
    """Return when each file of llmrun's that is loaded was changed last."""
    files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("llmrun")}
    stamps = []
    for file in sorted(file for file in files if file):
        with contextlib.suppress(OSError):
            stamps.append((file, Path(file).stat().st_mtime_ns))
    return tuple(stamps)


def _remember(records: list[Path]) -> None:
    """Read the headers of the models that are loaded: the next command will want them."""
    for record in records:
        worker = WarmWorker.read(record)
        if worker is not None and Path(worker.target.path).is_file():
            with contextlib.suppress(LlmrunError, OSError):
                read_gguf_facts(Path(worker.target.path))


def _send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(pid, number)


if __name__ == "__main__":
    serve()
