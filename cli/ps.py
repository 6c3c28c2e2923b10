"""`llmrun ps`: the models that are loaded and wait for the next command."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmrun.cli.options import JsonOutput, Quiet

if TYPE_CHECKING:
    from llmrun.engines.warm.record import WarmWorker

__all__ = ["document", "ps", "table"]

_TITLES = ("MODEL", "ENGINE", "PID", "MEMORY", "CONTEXT", "UNTIL")
_LONGEST_MODEL = 40


def ps(json_output: JsonOutput = False, quiet: Quiet = False) -> None:
    """Show the models that --keep-alive left loaded.

    Each takes memory until it was not used for as long as it was told to wait, its file or llmrun changes, or memory
    runs short.

    \b
    llmrun run smollm2-135m-instruct "Hello" --keep-alive 10m
    llmrun ps
    llmrun ps --json | jq '.workers[].pid'
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    import os

    from llmrun.cli.output import inert, report_line, write_json, write_out
    from llmrun.engines.warm.workers import list_warm, resident_bytes

    found = [(worker, resident_bytes(worker)) for worker in list_warm()]
    if json_output:
        write_json(document(found))
    elif found:
        text = table(found, time.time())
        write_out(inert(text) if os.isatty(1) else text)
    elif not quiet:
        report_line("llmrun: no model is loaded; `llmrun run MODEL PROMPT --keep-alive 10m` leaves one")


def document(found: "Sequence[tuple[WarmWorker, int | None]]") -> dict[str, Any]:
    """Return the workers, each with the memory that it takes, for scripts."""
    return {
        "version": 1,
        "workers": [
            {
                "model": worker.target.reference,
                "path": worker.target.path,
                "engine": worker.plan.engine,
                "pid": worker.pid,
                "resident_bytes": resident,
                "context_length": worker.context_length,
                "busy": worker.busy,
                "started": worker.started,
                "used": worker.used,
                "keep_seconds": worker.keep_seconds,
                "expires": worker.expires,
            }
            for worker, resident in found
        ],
    }


def table(found: "Sequence[tuple[WarmWorker, int | None]]", now: float) -> str:
    """Return the workers as columns."""
    rows = [_TITLES, *(_row(worker, resident, now) for worker, resident in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _row(worker: "WarmWorker", resident: int | None, now: float) -> tuple[str, ...]:
    from llmrun.cli.progress import format_size

    model = worker.target.reference
    if len(model) > _LONGEST_MODEL:
        model = "…" + model[1 - _LONGEST_MODEL :]
    return (
        model,
        worker.plan.engine.value,
        str(worker.pid),
        "?" if resident is None else format_size(resident),
        f"{worker.context_length:,}",
        _until(worker, now),
    )


def _until(worker: "WarmWorker", now: float) -> str:
    if worker.busy:
        return "answering"
    if worker.expires is None:
        return "stopped"
    return f"idle, {_minutes(max(0.0, worker.expires - now))} left"


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} h"
