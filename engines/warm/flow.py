"""What a command does around its worker so that the model may stay loaded: look for one, use it, leave it behind.

::

    target = make_warm_target(model, asked_for_engine, plan_request)   # when the files are known
    worker = attach_warm(target)                                       # None: start one, with a plan that fits
    plan = worker.plan if worker is not None else …                    # judged only if nothing is loaded
    if worker is None:
        worker = early.take_worker(plan.engine)
    try:
        worker.send_load(plan)                                         # a warm worker has its model already
        …
    finally:
        notices.add(*release(worker, target, keep_seconds))            # keeps it, detaches from it, or ends it

A plan that does not fit in memory may fit once `stop_idle()` has ended the workers that wait: try it again then.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName
from llmrun.engines.warm.folder import lock_folder
from llmrun.engines.warm.place import unix_sockets
from llmrun.engines.warm.record import WarmTarget, make_target
from llmrun.engines.warm.workers import attach, find_warm, stop_idle, stop_warm
from llmrun.errors import LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.engines.plan import PlanRequest
    from llmrun.models.types import LocalModel

__all__ = ["attach_warm", "keep_alive_seconds", "make_warm_target", "release", "slow_start_hint", "stop_idle"]

_SLOW_SECONDS = 5.0
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(s|m|h|)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_SECONDS = 10 * 365 * 86_400.0


def keep_alive_seconds(text: str) -> float:
    """Return the seconds that `10m`, `30s`, `1h`, `0` or `forever` means; infinity for the last.

    Raises:
        UsageError: It is none of these.
    """
    wanted = text.strip().lower()
    if wanted == "forever":
        return math.inf
    found = _DURATION.fullmatch(wanted)
    if found is None:
        raise UsageError(
            f"--keep-alive wants a time such as 10m, 30s or 1h, or 0, or forever; found {text!r}",
            fix="--keep-alive 10m",
        )
    seconds = float(found[1]) * _UNITS[found[2]]
    return seconds if seconds <= _LONGEST_SECONDS else math.inf


def make_warm_target(
    model: "LocalModel", engine: EngineName | None, request: "PlanRequest", others: Sequence[Path] = ()
) -> WarmTarget | None:
    """Return what to look for, or None where no worker can be kept.

    Args:
        model: The model on this disk.
        engine: The engine that the user asked for; None: the best one.
        request: What the user asked for. Without weights (`--dry-run`) nothing is worth keeping.
        others: Other files that are loaded with it: those of a draft model.
    """
    if request.vocabulary_only or not unix_sockets():
        return None
    files = [*(file.path for file in model.files), *others]
    return make_target(model.ref.text, model.path, files, engine, dataclasses.asdict(request))


def attach_warm(target: WarmTarget | None) -> WorkerClient | None:
    """Return a client of a worker that has the model loaded, or None if there is none, or it is busy.

    Raises:
        SecurityError: The runtime folder, or what listens there, is not this user's alone.
    """
    if target is None:
        return None
    worker = find_warm(target)
    return None if worker is None else attach(worker)  # even if busy: it may be rid of its last client by now


def release(worker: WorkerClient, target: WarmTarget | None, keep_seconds: float | None) -> tuple[str, ...]:
    """Let go of a worker when the command is done with it. Never raises; returns notices.

    Args:
        worker: The worker, in whatever state it is.
        target: What it has loaded.
        keep_seconds: How long it stays for the next command; 0: it ends, warm or not; None: a warm one waits on as it
            was told before, any other ends.
    """
    try:
        if target is None or not worker.loaded or keep_seconds is None:
            return ()
        if keep_seconds > 0:
            return _keep(worker, target, keep_seconds)
        worker.close()
        if worker.warm:
            found = find_warm(target)
            if found is not None and found.pid == worker.pid:
                stop_warm(found)
    except (LlmrunError, OSError) as error:
        cause = error.message if isinstance(error, LlmrunError) else str(error)
        return (f"--keep-alive: the model does not stay loaded: {cause}",)
    finally:
        worker.close()
    return ()


def _keep(worker: WorkerClient, target: WarmTarget, keep_seconds: float) -> tuple[str, ...]:
    change = target.change()
    if change is not None:
        return (f"--keep-alive: the model does not stay loaded: {change}",)
    seconds = None if math.isinf(keep_seconds) else keep_seconds
    if worker.warm:
        worker.keep(seconds, target)
        return ()
    with lock_folder():
        if find_warm(target) is None:  # otherwise another command's worker waits already, and one is enough
            worker.keep(seconds, target)
    return ()


def slow_start_hint(worker: WorkerClient) -> str | None:
    """Return what would have spared the user a long start, if it was one."""
    seconds = sum(worker.phases.values())
    if worker.warm or seconds < _SLOW_SECONDS or not unix_sockets():
        return None
    return f"starting took {seconds:.0f} s; with --keep-alive 10m the model stays loaded for the next command"
