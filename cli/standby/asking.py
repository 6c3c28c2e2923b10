"""The command that was typed: hand it over to a process that has everything imported, and wait for its end.

Everything here is light, and nothing here raises: a command that cannot be handed over is carried out by itself.
"""

import os
import sys

from llmrun.cli.standby.message import GO, SOCKET_NAME, WILLING, encode_command

TYPE_CHECKING = False  # as in `typing`, which takes five milliseconds to import
if TYPE_CHECKING:
    import socket

__all__ = ["hand_over", "is_off"]

_ANSWER_SECONDS = 0.5
_OFF = "LLMRUN_NO_STANDBY"


def hand_over(arguments: list[str]) -> int | None:
    """Have a `run` with a loaded model carried out by the process that waits for it; None: nobody does, or can.

    Returns:
        The exit code, or None.
    """
    if arguments[:1] != ["run"] or len(arguments) < 2 or is_off():
        return None
    from llmrun.engines.warm.place import runtime_place, unix_sockets

    path = os.path.join(runtime_place(), SOCKET_NAME)  # noqa: PTH118 - a text is wanted
    if not unix_sockets() or not os.path.exists(path):  # noqa: PTH110
        return None
    from llmrun.engines.warm.folder import seems_loaded

    if not seems_loaded(arguments[1:]):
        return None
    connection = _reach(path, arguments)
    if connection is None:
        return None
    with connection:
        return _wait(connection)


def is_off() -> bool:
    """Whether the user wants no process to wait."""
    return bool(os.environ.get(_OFF))


def _reach(path: str, arguments: list[str]) -> "socket.socket | None":
    """Return the connection to a process that has begun to carry out the command."""
    import socket

    from llmrun.engines.warm.peer import peer_user

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(path)
        if peer_user(connection) != os.geteuid():
            raise OSError("somebody else listens")
        _send_command(connection, arguments)
        if connection.recv(1) != WILLING:
            raise OSError("it is not willing")
        _pass_signals_on(connection)
        connection.settimeout(None)
        connection.sendall(GO)
    except (OSError, ValueError):
        connection.close()
        return None
    return connection


def _send_command(connection: "socket.socket", arguments: list[str]) -> None:
    import signal
    import socket

    from llmrun.cli.standby.circumstances import describe_circumstances

    umask = os.umask(0o077)
    os.umask(umask)
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    data = encode_command(
        describe_circumstances(),
        umask,
        [int(number) for number in numbers if signal.getsignal(number) == signal.SIG_IGN],
        arguments,
        [f"{name}={value}" for name, value in os.environ.items()],
    )
    folder = os.open(".", os.O_RDONLY)
    try:
        socket.send_fds(connection, [len(data).to_bytes(8, "big")], [0, 1, 2, folder])
    finally:
        os.close(folder)
    connection.sendall(data)


def _pass_signals_on(connection: "socket.socket") -> None:
    """Have the signals that this process gets reach the one that does its work."""
    import contextlib
    import signal
    from types import FrameType

    def send(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            connection.send(bytes([number]))

    def stop(_number: int, _frame: FrameType | None) -> None:
        send(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, send)
    if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)
        signal.signal(signal.SIGCONT, send)


def _wait(connection: "socket.socket") -> int:
    """Return the exit code of the process that does the work; die by the signal that it died of."""
    import signal

    from llmrun.errors import ExitCode

    data = b""
    while len(data) < 4:
        try:
            piece = connection.recv(4 - len(data))
        except OSError:
            piece = b""
        if not piece:
            os.write(2, b"llmrun: error: the process that carried out this command was ended from outside\n")
            return ExitCode.ENGINE_CRASHED
        data += piece
    status = int.from_bytes(data, "big", signed=True)
    if status >= 0:
        return status
    signal.signal(-status, signal.SIG_DFL)
    sys.stdout.flush()
    os.kill(os.getpid(), -status)
    return 128 - status
