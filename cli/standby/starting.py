"""Leave a process behind that waits for the next command, when a model stays loaded."""

import os
import sys

__all__ = ["leave_standby"]


def leave_standby() -> None:
    """Start the process that waits, unless one does. Never raises: it only saves time."""
    from llmrun.cli.standby.asking import is_off
    from llmrun.cli.standby.message import SOCKET_NAME
    from llmrun.engines.warm.place import runtime_place

    if is_off() or _answers(os.path.join(runtime_place(), SOCKET_NAME)):  # noqa: PTH118
        return
    import subprocess

    quiet = subprocess.DEVNULL
    try:
        subprocess.Popen(
            [sys.executable, "-m", "llmrun.cli.standby.serving"],
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
    except OSError:
        return


def _answers(path: str) -> bool:
    """Whether somebody listens there."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.2)
        try:
            connection.connect(path)
        except OSError:
            return False
    return True
