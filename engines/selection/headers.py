"""What the header of a GGUF file says, read and checked once: the next command finds it in llmrun's cache.

To read and check a vocabulary takes longer than everything else that this process does before an engine can load the
model. What is kept counts as long as the file is the same: its size, inode, time of change and time of status change
(which no program can set back), and the code that read it.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import llmrun
from llmrun.engines.installed.kept import keep, read_kept
from llmrun.models.types import ModelFile, ModelFormat, ModelInfo, SpecialTokens
from llmrun.values import value

__all__ = ["GgufFacts", "read_gguf_facts"]

_FOLDER = "headers"
_memory: dict[str, tuple[Any, "GgufFacts"]] = {}


@value
class GgufFacts:
    """What is needed of a header once it has been checked.

    Attributes:
        info: The model's facts.
        control_tokens: Texts of the control tokens, longest first.
        user_defined_tokens: Texts of the tokens that engines find in any text, likewise.
    """

    info: ModelInfo
    control_tokens: tuple[str, ...]
    user_defined_tokens: tuple[str, ...]


def read_gguf_facts(path: Path, *, family: str | None = None) -> GgufFacts:
    """Return the facts of a GGUF file.

    Args:
        path: The file; of a split model, any part.
        family: Catalogue family, which is only handed on.

    Raises:
        ModelNotFoundError: There is no such path.
        ModelFileError: The file is not a model, is damaged or incomplete, or is of an unknown kind.
    """
    key = os.path.abspath(path)  # noqa: PTH100 - not resolved: parts are looked for beside it
    facts = _remembered(key) or _read(path, key)
    return replace(facts, info=replace(facts.info, family=family, files=_as_named(facts.info.files, path)))


def _remembered(key: str) -> GgufFacts | None:
    """Return what was found before, if the files are still the same."""
    if key in _memory:
        identity, facts = _memory[key]
        return facts if identity == _identify(facts.info.files) else None
    kept = read_kept(_FOLDER, key)
    try:
        facts = _decode(kept["facts"])
        if kept["identity"] != _identify(facts.info.files):
            return None
    except (TypeError, KeyError, ValueError):
        return None
    _memory[key] = (kept["identity"], facts)
    return facts


def _read(path: Path, key: str) -> GgufFacts:
    from llmrun.models.gguf.header import read_gguf_header
    from llmrun.models.gguf.info import describe_gguf
    from llmrun.models.gguf.vocabulary import read_control_tokens

    header = read_gguf_header(path)
    files = tuple(ModelFile(path=part, size_bytes=size_bytes) for part, size_bytes in header.parts)
    identity = _identify(files)  # before the rest is read: a change from now on is seen next time
    facts = GgufFacts(
        info=describe_gguf(header),
        control_tokens=read_control_tokens(header),
        user_defined_tokens=read_control_tokens(header, user_defined=True),
    )
    _memory[key] = (identity, facts)
    keep(_FOLDER, key, {"identity": identity, "facts": _encode(facts)})
    return facts


def _as_named(files: tuple[ModelFile, ...], path: Path) -> tuple[ModelFile, ...]:
    """Return the files as they are reached now, from this folder and by this way of naming it."""
    return tuple(replace(file, path=path.with_name(file.path.name)) for file in files)


def _identify(files: tuple[ModelFile, ...]) -> list[Any]:
    """Return a value that is another one when a file or the code that reads it was changed."""
    found: list[Any] = [llmrun.__version__, *_code_stamps()]
    for file in files:
        try:
            status = os.stat(file.path)  # noqa: PTH116
        except OSError:
            return []
        found.append([str(file.path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return found


def _code_stamps() -> list[int]:
    folder = Path(llmrun.__file__).with_name("models") / "gguf"
    with os.scandir(folder) as entries:
        return sorted(entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(".py"))


def _encode(facts: GgufFacts) -> dict[str, Any]:
    info = facts.info
    files = [[str(file.path), file.size_bytes, file.sha256] for file in info.files]
    return {
        "info": {**asdict(replace(info, files=())), "files": files},
        "control_tokens": facts.control_tokens,
        "user_defined_tokens": facts.user_defined_tokens,
    }


def _decode(document: Mapping[str, Any]) -> GgufFacts:
    """Return the facts that `_encode` made plain.

    Raises:
        TypeError, KeyError, ValueError: It is something else.
    """
    values = {name: _frozen(value) for name, value in document["info"].items()}
    if set(values) != {field.name for field in fields(ModelInfo)}:
        raise ValueError("other fields")
    values["format"] = ModelFormat(values["format"])
    values["special_tokens"] = SpecialTokens(**document["info"]["special_tokens"])
    values["files"] = tuple(
        ModelFile(path=Path(path), size_bytes=size_bytes, sha256=sha256) for path, size_bytes, sha256 in values["files"]
    )
    return GgufFacts(
        info=ModelInfo(**values),
        control_tokens=_frozen(document["control_tokens"]),
        user_defined_tokens=_frozen(document["user_defined_tokens"]),
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
