"""The forked process: it takes the place of the command that was typed, and never returns to the one that waits."""

import io
import os
import signal
import sys
from typing import NoReturn

from llmrun.cli import early
from llmrun.cli.standby.command import Command
from llmrun.cli.standby.renderer import SpareRenderer

__all__ = ["carry_out"]


def carry_out(command: Command, descriptors: list[int], spare: SpareRenderer | None) -> NoReturn:
    """Run a command on the files, in the folder and with the environment of whoever asked for it."""
    code = 1
    try:
        _take_place(command, descriptors)
        if spare is not None:
            early.lend_renderer(spare.take())
        code = _run(list(command.arguments))
    except BaseException:  # noqa: BLE001 - a bug: shown as the interpreter would have shown it
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 1
        os._exit(code)


def _take_place(command: Command, descriptors: list[int]) -> None:
    os.setpgid(0, 0)
    _die_with_parent()
    *files, folder = descriptors
    os.fchdir(folder)
    for number, descriptor in enumerate(files):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.umask(command.umask)
    os.environ.clear()
    os.environ.update(entry.partition("=")[::2] for entry in command.environment)
    sys.argv = ["llmrun", *command.arguments]
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        _open_stream(number, mode)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGTSTP, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN if number in command.ignored else signal.SIG_DFL)
    if signal.SIGINT not in command.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_stream(number: int, mode: str) -> None:
    """Open one of the standard files as the interpreter does when it starts."""
    name = ("stdin", "stdout", "stderr")[number]
    before: io.TextIOWrapper = getattr(sys, f"__{name}__")
    stream = io.TextIOWrapper(
        open(number, f"{mode}b", buffering=-1, closefd=False),  # noqa: SIM115 - it stays open
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=number == 2 or os.isatty(number),
        write_through=before.write_through,
    )
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _die_with_parent() -> None:
    """End when the process that waits is killed: nobody could pass signals on any more."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)


def _run(arguments: list[str]) -> int:
    from llmrun.cli.app import run_here

    try:
        return run_here(arguments)
    except SystemExit as error:
        if isinstance(error.code, int) or error.code is None:
            return error.code or 0
        os.write(2, f"{error.code}\n".encode("utf-8", "replace"))
        return 1
