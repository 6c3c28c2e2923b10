"""`llmrun models cache`: what the prefix cache holds, and emptying it.

The cache keeps the state of long prompts between runs; nothing is lost with it but time.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.options import JsonOutput

if TYPE_CHECKING:
    from llmrun.engines.prefix_cache.file import EntryHead

__all__ = ["cache_app", "cache_document", "cache_text"]

_HELP = """Show or clear what is kept of long prompts.

A prompt that took long to process leaves its state on this disk, and the next one that begins like it goes on from
there: a script that asks about the same text again is answered sooner.

\b
llmrun models cache show
llmrun models cache clear
"""

cache_app = typer.Typer(name="cache", help=_HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@cache_app.command()
def show(json_output: JsonOutput = False) -> None:
    """Show how much is kept, of which models, and how much may be.

    \b
    llmrun models cache show
    LLMRUN_PREFIX_CACHE_LIMIT=1G llmrun models cache show
    llmrun models cache show --json | jq .size_bytes
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.output import inert, write_json, write_out
    from llmrun.engines.prefix_cache.folder import limit_bytes, list_entries, list_files

    folder, limit = _folder(), limit_bytes()
    size = sum(file.size_bytes for file in list_files(folder))
    entries = list(list_entries(folder))
    if json_output:
        write_json(cache_document(folder, entries, size, limit))
        return
    text = cache_text(folder, entries, size, limit, time.time())
    write_out(inert(text) if os.isatty(1) else text)


@cache_app.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, json_output: JsonOutput = False
) -> None:
    """Remove everything that is kept of prompts. Models stay where they are.

    \b
    llmrun models cache clear
    llmrun models cache clear --yes --json
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.output import report_line, write_json
    from llmrun.cli.progress import format_size
    from llmrun.engines.prefix_cache.folder import list_files, remove_everything
    from llmrun.errors import StorageError

    folder = _folder()
    files = list_files(folder)
    if files and not yes and not _confirmed(folder, sum(file.size_bytes for file in files)):
        report_line("llmrun: nothing was removed")
        return
    try:
        count, freed = remove_everything(folder)
    except OSError as error:
        raise StorageError(f"cannot clear {folder}: {error.strerror or error}") from error
    if json_output:
        write_json({"version": 1, "folder": str(folder), "removed": count, "freed_bytes": freed})
    else:
        report_line(f"llmrun: removed {_entries(count)}, {format_size(freed)}")


def cache_document(folder: Path, entries: "Sequence[EntryHead]", size: int, limit: int) -> dict[str, Any]:
    """Return what `models cache show --json` prints."""
    used = [entry.used_at for entry in entries]
    return {
        "version": 1,
        "folder": str(folder),
        "entries": len(entries),
        "size_bytes": size,
        "limit_bytes": limit,
        "oldest_used": min(used, default=None),
        "newest_used": max(used, default=None),
        "models": [
            {
                "name": name,
                "entries": len(own),
                "tokens": sum(len(entry.tokens) for entry in own),
                "size_bytes": sum(entry.size_bytes for entry in own),
                "newest_used": max(entry.used_at for entry in own),
            }
            for name, own in _by_model(entries)
        ],
    }


def cache_text(folder: Path, entries: "Sequence[EntryHead]", size: int, limit: int, now: float) -> str:
    """Return the summary, and a table with a line for each model."""
    from llmrun.cli.layout import pairs
    from llmrun.cli.progress import format_size

    facts = [
        ("folder", str(folder)),
        ("entries", f"{len(entries):,}"),
        ("size", f"{format_size(size)} of at most {format_size(limit)}"),
    ]
    if not entries:
        return pairs(facts)
    used = [entry.used_at for entry in entries]
    facts += [("oldest", f"used {_ago(now - min(used))}"), ("newest", f"used {_ago(now - max(used))}")]
    rows = [("SIZE", "ENTRIES", "TOKENS", "USED", "MODEL")]
    for name, own in _by_model(entries):
        newest = max(entry.used_at for entry in own)
        sizes = format_size(sum(entry.size_bytes for entry in own))
        tokens = f"{sum(len(entry.tokens) for entry in own):,}"
        rows.append((sizes, str(len(own)), tokens, _ago(now - newest), name))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join([*(f"{cell:<{widths[i]}}" for i, cell in enumerate(row[:4])), row[4]]) for row in rows]
    return pairs(facts) + "\n" + "\n".join(table) + "\n"


def _by_model(entries: "Sequence[EntryHead]") -> "list[tuple[str, list[EntryHead]]]":
    """Return the entries of each model, sorted by its name."""
    grouped: dict[str, list[EntryHead]] = {}
    for entry in entries:
        grouped.setdefault(entry.label or "-", []).append(entry)
    return sorted(grouped.items())


def _folder() -> Path:
    from llmrun.engines.prefix_cache.name import FOLDER
    from llmrun.folders import cache_folder

    return cache_folder(FOLDER).absolute()


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _ago(seconds: float) -> str:
    """Return a time span for people: `5 min ago`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now" if seconds < 60 else "1 min ago"


def _confirmed(folder: Path, size: int) -> bool:
    from llmrun.cli.output import report_line
    from llmrun.cli.progress import format_size
    from llmrun.errors import UsageError

    if not (os.isatty(0) and os.isatty(2)):
        raise UsageError("without a terminal nobody can be asked whether to clear the cache", fix="add --yes")
    report_line(f"clear {folder} ({format_size(size)})? Type y for yes.")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
