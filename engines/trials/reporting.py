"""The child's side of a trial: it ends with its parent, says one JSON object, or one line of what went wrong.

The process leaves without taking the interpreter down in order: what an engine does at its very end, such as a fault
in a destructor, or a warning printed late, says nothing about whether it works.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from llmrun.engines.shared_memory import remove_openmp_mark
from llmrun.engines.trials.process import LIFELINE

__all__ = ["report"]


def report(trial: Callable[[], dict[str, Any]]) -> None:
    """Run the trial and leave the process: what it returns goes to standard output, why it raised to standard error."""
    _end_with_parent()
    try:
        found = trial()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what was found
        traceback.print_exc()
        print(_in_one_line(error), file=sys.stderr, flush=True)  # noqa: T201 - the answer to the parent process
        _leave(1)
    print("\n" + json.dumps(found), flush=True)  # noqa: T201 - the answer to the parent process
    _leave(0)


def _leave(status: int) -> None:
    """End the process at once, but for the one thing that LLVM's OpenMP only puts away at an orderly end."""
    remove_openmp_mark(os.getpid())
    os._exit(status)


def _in_one_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # what transformers raises about a missing package does not name it
        error = error.__cause__
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, SystemExit):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _end_with_parent() -> None:
    """End this process and all that it started when the parent is gone, however it went."""
    descriptor = os.environ.get(LIFELINE, "")
    if not descriptor.isdigit():
        return

    def wait() -> None:
        try:
            os.read(int(descriptor), 1)
        except OSError:
            return
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
