"""`llmrun config`: which value every option has before anything is typed, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.options import JsonOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Setting", "config_app", "settings_of"]

_HELP = """Show the configuration file and what every option is set to.

\b
llmrun config path
llmrun config show
llmrun config show run
"""
_JSON_VERSION = 1

config_app = typer.Typer(name="config", help=_HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One option of one command.

    Attributes:
        option: As it is typed.
        value: What it is when it is not typed.
        source: `default`, `file` or `environment`.
        where: The file with its table, or the name of the variable; None for a default.
        variable: The environment variable that sets it, or None.
        problem: Why the value cannot be used, or None.
    """

    option: str
    value: Any
    source: str
    where: str | None
    variable: str | None
    problem: str | None


@config_app.command("path")
def path_command() -> None:
    """Print where the configuration file is, or would be.

    \b
    llmrun config path
    $EDITOR "$(llmrun config path)"
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli.config import config_path
    from llmrun.cli.output import write_out

    write_out(f"{config_path()}\n")


@config_app.command("show")
def show_command(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="One command only, such as `models pull`.")
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """Show the value of every option, and where it comes from: a default, the file or a variable.

    The command line wins over the environment, the environment over the file, and in the file a command's table over
    what stands above it.

    \b
    llmrun config show
    llmrun config show run
    llmrun config show models pull --json
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli.config import config_path
    from llmrun.cli.output import write_json, write_out
    from llmrun.errors import UsageError

    path = config_path()
    found = settings_of(path)
    wanted = " ".join(command or ())
    chosen = {name: each for name, each in found.items() if not wanted or f"{name} ".startswith(f"{wanted} ")}
    if not chosen:
        raise UsageError(f"there is no command called {wanted}", fix=f"one of: {', '.join(found)}")
    if json_output:
        write_json(_document(path, chosen))
    else:
        write_out(_text(path, chosen))


def settings_of(path: Path) -> dict[str, tuple[Setting, ...]]:
    """Return the settings of every command that has options, by the words that call it.

    Raises:
        UsageError: The file is there (or was named) and cannot be used.
    """
    import os

    from typer.main import get_command

    from llmrun.cli.app import build_app
    from llmrun.cli.config import read_defaults, read_table

    app = build_app()
    there = path.exists() or "LLMRUN_CONFIG" in os.environ
    defaults = read_defaults(app, path) if there else {}
    table = read_table(path) if there else {}
    return dict(_of_command(get_command(app), (), defaults, table, path))


def _of_command(
    command: Any, words: tuple[str, ...], defaults: dict[str, Any], table: dict[str, Any], path: Path
) -> "Iterator[tuple[str, tuple[Setting, ...]]]":
    context = typer.Context(command, info_name=words[-1] if words else "llmrun", resilient_parsing=True)
    context.default_map = defaults
    options = [param for param in command.params if param.param_type_name == "option" and not param.is_eager]
    if words and options:
        yield " ".join(words), tuple(_setting(context, param, words, table, path) for param in options)
    for name, child in getattr(command, "commands", {}).items():
        below = defaults.get(name)
        yield from _of_command(child, (*words, name), below if isinstance(below, dict) else {}, table, path)


def _setting(context: Any, param: Any, words: tuple[str, ...], table: dict[str, Any], path: Path) -> Setting:
    option = next((name for name in param.opts if name.startswith("--")), param.opts[0])
    raw, source = param.consume_value(context, {})
    value, problem = raw, None
    try:
        value = param.process_value(context, raw)
        if param.callback is not None:
            context.resilient_parsing = False
            value = param.callback(context, param, value)
    except typer.BadParameter as error:
        problem = error.message
    finally:
        context.resilient_parsing = True
    names = {"ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}
    kind = names.get(source.name, "default")
    variable = param.envvar if isinstance(param.envvar, str) else None
    where = {"environment": variable, "file": f"{path} {_table_of(option[2:], words, table)}".rstrip()}.get(kind)
    return Setting(
        option=option,
        value=list(value) if isinstance(value, tuple) else value,
        source=kind,
        where=where,
        variable=variable,
        problem=problem,
    )


def _table_of(option: str, words: tuple[str, ...], table: dict[str, Any]) -> str:
    """Return the innermost table of the file that sets an option for a command, as TOML writes it; the top is ''."""
    found, place, way = "", table, []
    for word in words:
        inner = place.get(word)
        if not isinstance(inner, dict):
            break
        place = inner
        way.append(word)
        if option in place and not isinstance(place[option], dict):
            found = f"[{'.'.join(way)}]"
    return found


def _document(path: Path, found: dict[str, tuple[Setting, ...]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "version": _JSON_VERSION,
        "file": {"path": str(path), "exists": path.exists()},
        "commands": {name: [_plain(asdict(setting)) for setting in settings] for name, settings in found.items()},
    }


def _plain(setting: dict[str, Any]) -> dict[str, Any]:
    value = setting["value"]
    return setting | {"value": str(value) if isinstance(value, Path) else value}


def _text(path: Path, found: dict[str, tuple[Setting, ...]]) -> str:
    lines = [f"configuration file: {path}{'' if path.exists() else ' (not there)'}"]
    width = max(len(setting.option) for settings in found.values() for setting in settings)
    for name, settings in found.items():
        lines += ["", f"llmrun {name}"]
        lines += [
            f"  {setting.option:<{width}}  {_shown(setting.value):<14}  {_origin(setting)}" for setting in settings
        ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _origin(setting: Setting) -> str:
    said = setting.where or setting.source
    return said if setting.problem is None else f"{said}: NOT VALID: {setting.problem}"


def _shown(value: Any) -> str:
    from llmrun.cli.output import inert

    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return inert(text).replace("\n", " ")
