"""Which model architectures each engine supports.

The engine itself knows best, so an installed one is asked, once per version, in a child process, and the answer is
kept. For an engine that is not installed, or was not asked yet, a table that ships with llmrun answers; it says which
release it was read from. Asking imports the engine, which takes seconds, so `run` never asks.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmrun.engines.types import EngineName

__all__ = [
    "Architectures",
    "architecture_of_family",
    "ask_architectures",
    "gguf_in_transformers",
    "kept_architectures",
    "shipped_architectures",
    "shipped_version",
]

_DATA = Path(__file__).with_name("architectures.json")
_TIMEOUT_SECONDS = 120.0
_FOLDER = "architectures"
_MARK = "llmrun-architectures:"
_ASK_VLLM = """
from vllm.model_executor.models import registry
found = {
    "supported": sorted(registry.ModelRegistry.get_supported_archs()),
    "last_version": dict(getattr(registry, "_PREVIOUSLY_SUPPORTED_MODELS", {})),
}
"""
_ASK_TRANSFORMERS = """
import transformers.models.auto.modeling_auto as modeling_auto
names = set()
for table in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
    for value in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}).values():
        names.update((value,) if isinstance(value, str) else value)
found = {"supported": sorted(names)}
"""
_QUESTIONS = {EngineName.VLLM: _ASK_VLLM, EngineName.PYTORCH: _ASK_TRANSFORMERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architectures:
    """What an engine supports.

    Attributes:
        supported: Class names as in config.json; for llama-cpp and ctransformers, the names that their files carry.
        last_versions: What it supported once, with the last version that did.
        source: `installed` when the engine itself was asked, `shipped` for llmrun's own table.
    """

    supported: frozenset[str]
    last_versions: tuple[tuple[str, str], ...] = ()
    source: str


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    return tables


@cache
def shipped_architectures(engine: EngineName) -> Architectures:
    """Return what llmrun's table says of an engine."""
    if engine is EngineName.LLAMA_CPP:
        from llmrun.models.gguf.checks import known_architectures

        return Architectures(supported=known_architectures(), source="shipped")
    found = _from_entry(_tables()[engine.value], "shipped")
    assert found is not None  # the table is part of the package
    return found


def shipped_version(engine: EngineName) -> str | None:
    """Return the release that llmrun's table was read from; None for llama-cpp, whose version llmrun sets itself."""
    entry = _tables().get(engine.value)
    return str(entry["version"]) if entry else None


@cache
def gguf_in_transformers() -> frozenset[str]:
    """Return the GGUF architectures that transformers can read."""
    return frozenset(_tables()["pytorch"]["gguf"])


def architecture_of_family(family: str, size_label: str | None = None) -> str | None:
    """Return the class name of a family of the catalogue that records none, or None."""
    families = _tables()["families"]
    name: str | None = families.get(f"{family.lower()}:{size_label}") or families.get(family.lower())
    return name


def kept_architectures(engine: EngineName, version: str | None) -> Architectures | None:
    """Return what that version of the engine answered when it was asked, or None."""
    if engine not in _QUESTIONS or version is None:
        return None
    from llmrun.engines.installed.kept import read_kept

    return _from_entry(read_kept(_FOLDER, _key(engine, version)), "installed")


def ask_architectures(
    engine: EngineName,
    version: str | None,
    *,
    again: bool = False,
    path: Sequence[str] = (),
    python: str = sys.executable,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Architectures:
    """Ask the installed engine, in a child process, and keep the answer; if it has none, return the shipped table.

    Args:
        engine: Which engine.
        version: Its version, under which the answer is kept.
        again: Forget the answer that is kept.
        path: Folders to look for packages in before the environment's own.
        python: The interpreter of the child.
        timeout_seconds: When to give up.
    """
    question = _QUESTIONS.get(engine)
    if question is None or version is None:
        return shipped_architectures(engine)
    from llmrun.engines.installed.kept import forget, keep, read_kept

    key = _key(engine, version)
    if again:
        forget(_FOLDER, key)
    entry = read_kept(_FOLDER, key)
    if entry is None:
        entry = _run(question, path, python, timeout_seconds)
        keep(_FOLDER, key, entry)  # an engine that cannot be asked would take its time to say so every time
    return _from_entry(entry, "installed") or shipped_architectures(engine)


def _run(question: str, path: Sequence[str], python: str, timeout_seconds: float) -> Any:
    """Return what the child printed behind the mark (an engine may print anything before it); if nothing, {}."""
    import subprocess

    lines = (
        f"import sys; sys.path[:0] = {list(path)!r}",
        question,
        f"import json; print('\\n{_MARK}' + json.dumps(found))",
    )
    try:
        done = subprocess.run(
            [python, "-P", "-c", "\n".join(lines)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    answers = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    try:
        return json.loads(answers[-1]) if answers else {}
    except ValueError:
        return {}


def _from_entry(entry: Any, source: str) -> Architectures | None:
    """Return the value of a table's entry, or None when it is not of the right form."""
    if not isinstance(entry, dict) or not isinstance(entry.get("supported"), list) or not entry["supported"]:
        return None
    last = entry.get("last_version") or {}
    return Architectures(
        supported=frozenset(str(name) for name in entry["supported"]),
        last_versions=tuple((str(name), str(version)) for name, version in last.items()),
        source=source,
    )


def _key(engine: EngineName, version: str) -> str:
    return f"{engine.value} {version}"
