"""The options of `run` that are for batches, and what the others mean there."""

from pathlib import Path
from typing import Annotated

import typer

from llmrun.errors import UsageError

__all__ = ["BATCH_PANEL", "Batch", "Output", "Parallel", "Resume", "RetryErrors", "check_batch_options"]

BATCH_PANEL = "Batch"
_FOR_ONE_PROMPT = {
    "prompt": "PROMPT",
    "file": "--file",
    "dry_run": "--dry-run",
    "manifest": "--manifest",
    "replay": "--replay",
}
_FOR_BATCHES = {
    "output": "--output",
    "resume": "--resume",
    "retry_errors": "--retry-errors",
    "parallel": "--parallel",
}

Batch = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="FILE",
        help='Answer many prompts: one JSON object a line, such as {"id": "a", "prompt": "Why?"}; - is standard input.',
        rich_help_panel=BATCH_PANEL,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Append each result here as soon as it is there, as JSON; - is standard output.",
        rich_help_panel=BATCH_PANEL,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an --output that is there already.", rich_help_panel=BATCH_PANEL),
]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="The same, and ask again what failed.", rich_help_panel=BATCH_PANEL),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        metavar="N",
        min=1,
        max=1024,
        help="Answers written at once, where the engine can [default: what suits the engine].",
        rich_help_panel=BATCH_PANEL,
    ),
]


def check_batch_options(given: frozenset[str], batch: str | None, output: Path | None, *, goes_on: bool) -> None:
    """Refuse what does not go together.

    Args:
        given: The names of the parameters on the command line.
        batch: What `--batch` says.
        output: What `--output` says.
        goes_on: Whether an output that is there is to be gone on with.

    Raises:
        UsageError: Names the option.
    """
    if batch is None:
        wrong = [option for name, option in _FOR_BATCHES.items() if name in given]
        if wrong:
            raise UsageError(f"{wrong[0]} is for batches", fix="--batch FILE, with one request a line")
        return
    wrong = [option for name, option in _FOR_ONE_PROMPT.items() if name in given]
    if wrong:
        raise UsageError(
            f"{wrong[0]} is for one prompt, and --batch has prompts of its own", fix="leave one of them out"
        )
    if output is None:
        raise UsageError("--batch needs a file for the results", fix="--output FILE, or --output - for standard output")
    if goes_on and str(output) == "-":
        raise UsageError("what went to standard output cannot be gone on with", fix="--output FILE")
