"""What an answer has to keep to, as it is given on the command line: a JSON schema, a grammar."""

import json
from pathlib import Path

from llmrun.errors import UsageError

__all__ = ["read_grammar", "read_schema"]

_MAX_BYTES = 1 << 20


def read_schema(given: str | None) -> str | None:
    """Return the text of a JSON schema that is given as such, or as the name of a file.

    Raises:
        UsageError: There is no such file, or it holds no JSON schema.
    """
    if given is None:
        return None
    text = given if given.lstrip().startswith(("{", "true", "false")) else _read(Path(given), "--json-schema")
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--json-schema is not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise UsageError(f"--json-schema wants a JSON object, found {type(schema).__name__}")
    return text


def read_grammar(path: Path | None) -> str | None:
    """Return the text of a grammar.

    Raises:
        UsageError: It cannot be read.
    """
    return None if path is None else _read(path, "--grammar")


def _read(path: Path, option: str) -> str:
    try:
        if not path.is_file():
            raise UsageError(f"{option}: there is no file {path}")
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{option}: {path} is larger than the {_MAX_BYTES >> 20} MiB it may be")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: {path} cannot be read: {error}") from error
