"""The user's own defaults for options, from a TOML file.

::

    # ~/.config/llmrun/config.toml
    keep-alive = "10m"        # for every command that has the option
    [run]
    temperature = 0.2         # for one command

The command line wins over the environment, and the environment over the file. The file is LLMRUN_CONFIG, or
`llmrun/config.toml` in `XDG_CONFIG_HOME` (`~/.config`), on Windows in `APPDATA`. A name that no option has is an error:
a default that silently does nothing is worse than none.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.errors import UsageError

if TYPE_CHECKING:
    import typer

__all__ = ["config_path", "read_defaults", "read_table"]

_MAX_BYTES = 1 << 20


def config_path() -> Path:
    """Return where the file is, or would be."""
    named = os.environ.get("LLMRUN_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(base or Path.home() / ".config", "llmrun", "config.toml")


def read_defaults(app: "typer.Typer", path: Path) -> dict[str, Any]:
    """Return the defaults of the file in the form that the command line takes: by command, by parameter.

    Args:
        app: The application with every command, which says what options there are.
        path: The file.

    Raises:
        UsageError: It cannot be read, is no TOML, or names an option that does not exist.
    """
    from typer.main import get_command

    return _defaults(get_command(app), read_table(path), {}, path)


def read_table(path: Path) -> dict[str, Any]:
    """Return what is in the file, unchecked.

    Raises:
        UsageError: It cannot be read, or is no TOML.
    """
    import tomllib

    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UsageError(f"the configuration file {path} is larger than {_MAX_BYTES >> 20} MiB")
        return tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"the configuration file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from error


def _defaults(command: Any, table: dict[str, Any], above: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what one command takes from its table and from those around it, and the same of its subcommands."""
    commands: dict[str, Any] = getattr(command, "commands", {})
    known = _options_below(command)
    # `stop` is a command and an option: a table is for the one, anything else for the other.
    inner = {name: value for name, value in table.items() if name in commands and isinstance(value, dict)}
    own = {name: value for name, value in table.items() if name not in inner}
    misplaced = next((name for name in own if name in commands and name not in known), None)
    if misplaced is not None:
        raise UsageError(f"{path}: {misplaced} is a command, and its defaults belong into a table: [{misplaced}]")
    unknown = next((name for name in own if name not in known), None)
    if unknown is not None:
        raise _unknown(unknown, known, path)
    options, wanted = _options(command), {**above, **own}
    found = {options[name]: value for name, value in wanted.items() if name in options}
    for name, child in commands.items():
        found[name] = _defaults(child, inner.get(name, {}), wanted, path)
    return found


def _options(command: Any) -> dict[str, str]:
    """Return the long options of a command, without the hyphens, and the parameters that they set."""
    return {
        option[2:]: param.name
        for param in command.params
        if param.param_type_name == "option" and not param.is_eager
        for option in param.opts
        if option.startswith("--")
    }


def _options_below(command: Any) -> dict[str, str]:
    found = _options(command)
    for child in getattr(command, "commands", {}).values():
        found |= _options_below(child)
    return found


def _unknown(name: str, known: dict[str, str], path: Path) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]}?" if near else "the names are those of the options: llmrun run --help"
    return UsageError(f"{path}: there is no option --{name} to set", fix=fix)
