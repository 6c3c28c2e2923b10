"""What a shell is told at a Tab: names of models and engines, values of options; options and commands Typer knows."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmrun.cli.completion.script import SHELLS, VARIABLE
from llmrun.errors import LlmrunError

__all__ = ["answer_shell", "model_names"]

_Found = tuple[str, str]
"""A value, and what is said of it where a shell shows that."""
_Complete = Callable[[str], Iterator[_Found]]
_MODEL_SUFFIXES = (".gguf", ".ggml")


def answer_shell() -> int:
    """Answer what a shell asks; whatever is wrong (a configuration file, a cache), a Tab says nothing of it."""
    from typer.completion import completion_init  # type: ignore[attr-defined]
    from typer.main import get_command

    from llmrun.cli.app import COMMANDS, build_app

    completion_init()
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()
    name = words[1] if len(words) > 1 else ""
    command = get_command(build_app((name,) if name in COMMANDS and not line.endswith(name) else COMMANDS))
    _attach(command)
    command(args=[], prog_name="llmrun", complete_var=VARIABLE, standalone_mode=False)
    return 0


def _attach(command: Any) -> None:
    """Tell every parameter of a command, and of those below it, what can complete it."""
    for param in command.params:
        complete = _completion_of(param)
        if complete is not None:
            # Typer offers this in the declaration of an option, where it would cost time at every start.
            param.shell_complete = partial(_items, complete)
    for child in getattr(command, "commands", {}).values():
        _attach(child)


def _items(complete: _Complete, _context: Any, incomplete: str) -> list[Any]:
    from typer.core import CompletionItem  # type: ignore[attr-defined]

    try:
        return [CompletionItem(value, help=about) for value, about in complete(incomplete)]
    except (LlmrunError, OSError):
        return []


def _completion_of(param: Any) -> _Complete | None:
    from llmrun.cli import options

    if param.param_type_name == "argument":
        by_metavar: dict[str, _Complete] = {"MODEL": model_names, "ENGINE": _engines, "SHELL": partial(_one_of, SHELLS)}
        return by_metavar.get((param.metavar or "").strip("[]."))
    values = {
        "--on-overflow": options.OVERFLOWS,
        "--lookup": options.LOOKUPS,
        "--dtype": options.DTYPES,
        "--quantization": options.QUANTIZATIONS,
        "--model-type": options.MODEL_TYPES,
        "--kv-type": ("f16", "q8_0", "q4_0"),
        "--keep-alive": ("30s", "10m", "1h", "forever", "0"),
    }
    for option in param.opts:
        if option == "--engine":
            return _engines
        if option in ("--draft", "--model"):
            return model_names
        # A command may allow other values than the one that the list was made for.
        if option in values and not (option == "--on-overflow" and "stop" in (param.help or "")):
            return partial(_one_of, values[option])
    return None


def _one_of(values: tuple[str, ...], incomplete: str) -> Iterator[_Found]:
    return ((value, "") for value in values if value.startswith(incomplete))


def _engines(incomplete: str) -> Iterator[_Found]:
    from llmrun.engines.types import EngineName

    return _one_of(tuple(name for name in EngineName if name is not EngineName.FAKE), incomplete)


def model_names(incomplete: str) -> Iterator[_Found]:
    """Return what MODEL can be; with a slash in front it is a path, which shells complete better by themselves."""
    if incomplete.startswith(("/", "./", "../", "~")):
        return
    yield from _files(incomplete)
    if ":" in incomplete and "/" not in incomplete:
        yield from _tags(incomplete)
        return
    from llmrun.models.catalogue import families
    from llmrun.models.store.stored import list_models

    for family in families():
        if family.name.startswith(incomplete.lower()):
            formats = dict.fromkeys(str(variant.format) for variant in family.variants)
            yield family.name, f"{family.kind}, {', '.join(formats)}"
    for model in list_models():
        if model.name.startswith(incomplete):
            yield model.name, "on this disk"


def _tags(incomplete: str) -> Iterator[_Found]:
    from llmrun.models.catalogue import candidate_tag, find_family, resolve_tag

    name, _, start = incomplete.partition(":")
    family = find_family(name)
    for candidate in resolve_tag(family, None):
        tag = candidate_tag(family, candidate)
        if tag.startswith(start.lower()):
            yield f"{name}:{tag}", f"{candidate.variant.format}, {candidate.quantization or 'unquantized'}"


def _files(incomplete: str) -> Iterator[_Found]:
    """Return models in the current folder: files that are called like one."""
    with os.scandir() as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(_MODEL_SUFFIXES) and entry.is_file())
    return ((name, "a file") for name in names if name.startswith(incomplete))
