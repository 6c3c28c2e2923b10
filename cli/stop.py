"""`llmrun stop`: end workers that keep a model loaded."""

from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli.options import JsonOutput, Quiet

if TYPE_CHECKING:
    from llmrun.engines.warm.record import WarmWorker

__all__ = ["stop"]


def stop(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The model as it was given to `run`, its path, or a PID of `llmrun ps`."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model that is loaded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not wait for an answer that is being written.")] = False,
    json_output: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Unload models that --keep-alive left loaded.

    One that is answering ends after its answer. Ends with exit code 3 when the model is not loaded.

    \b
    llmrun stop smollm2-135m-instruct
    llmrun stop --all
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.output import report_line, write_json
    from llmrun.engines.warm.workers import stop_warm

    outcome = [(worker, stop_warm(worker, force=force)) for worker in _choose(model, every=every)]
    if json_output:
        entries = [{"model": worker.target.reference, "pid": worker.pid, "ended": ended} for worker, ended in outcome]
        write_json({"version": 1, "workers": entries})
    elif not quiet:
        for worker, ended in outcome:
            what = "was unloaded" if ended else "ends after the answer that it is writing"
            report_line(f"llmrun: {worker.target.reference} (process {worker.pid}) {what}")
        if not outcome:
            report_line("llmrun: no model is loaded")


def _choose(model: str | None, *, every: bool) -> "list[WarmWorker]":
    """Return the workers that are meant.

    Raises:
        UsageError: It was not said which.
        ModelNotFoundError: The model is not loaded.
    """
    from llmrun.engines.warm.workers import list_warm, select_warm
    from llmrun.errors import ModelNotFoundError, UsageError

    if every == (model is not None):
        raise UsageError("stop wants either a MODEL or --all", fix="llmrun ps shows the models that are loaded")
    workers = list_warm()
    if model is None:
        return workers
    found = select_warm(workers, model) or select_warm(workers, _path_on_disk(model))
    if not found:
        raise ModelNotFoundError(f"{model} is not loaded", fix="llmrun ps shows the models that are")
    return found


def _path_on_disk(model: str) -> str:
    """Return where a model lies that may be named in other words than those it was loaded with."""
    from llmrun.errors import LlmrunError
    from llmrun.models.reference import parse_reference
    from llmrun.models.resolver.resolve import find_on_disk

    try:
        found = find_on_disk(parse_reference(model))
    except LlmrunError:
        return ""
    return "" if found is None else str(found.path)
