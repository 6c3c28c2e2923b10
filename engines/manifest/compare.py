"""What is different between two answers to the same request, and in what they depended on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llmrun.engines.manifest.values import FileRecord, Manifest

__all__ = ["Difference", "compare", "describe_difference", "first_difference"]

_CONTEXT_CHARACTERS = 30
_LONGEST_VALUE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One of them: the field of the manifest, and its values then and now."""

    field: str
    then: str
    now: str

    @property
    def text(self) -> str:
        """It in a sentence."""
        return f"{self.field}: was {self.then}, is {self.now}"


def compare(then: Manifest, now: Manifest) -> tuple[Difference, ...]:
    """Return every difference but that of the answer, the causes that change most first."""
    return (
        *_of_files("model", then.model.files, now.model.files),
        *_of_files("draft", then.draft_files, now.draft_files),
        *_of_value("template.sha256", then.template.sha256, now.template.sha256),
        *_of_attached(then, now),
        *_of_value("prompt as the model sees it (sha256)", *_rendered(then, now)),
        *_of_record("engine", then.engine, now.engine, skip="build"),
        *_of_build(then, now),
        *_of_record("plan", then.plan, now.plan),
        *_of_record("machine", then.machine, now.machine, skip="isa_flags"),
        *_of_flags(then, now),
        *_of_value("llmrun", then.llmrun, now.llmrun),
    )


def first_difference(then: str, now: str) -> int | None:
    """Return the first character (from 0) in which two texts differ, or None where they are the same."""
    if then == now:
        return None
    pairs = enumerate(zip(then, now, strict=False))
    return next((index for index, (old, new) in pairs if old != new), min(len(then), len(now)))


def describe_difference(then: str, now: str, place: int) -> str:
    """Say how two texts go on from the character in which they part."""
    return f"from character {place + 1:,} on: was {_excerpt(then, place)}, is {_excerpt(now, place)}"


def _excerpt(text: str, place: int) -> str:
    piece = text[place : place + _CONTEXT_CHARACTERS]
    if not piece:
        return "at its end"
    return repr(piece) + ("…" if len(text) > place + _CONTEXT_CHARACTERS else "")


def _rendered(then: Manifest, now: Manifest) -> tuple[str, str]:
    return then.prompt.rendered_sha256, now.prompt.rendered_sha256


def _of_value(field: str, then: Any, now: Any) -> Iterator[Difference]:
    if then != now:
        yield Difference(field=field, then=_shown(then), now=_shown(now))


def _of_record(field: str, then: Any, now: Any, *, skip: str = "") -> Iterator[Difference]:
    for each in fields(then):
        if each.name != skip:
            yield from _of_value(f"{field}.{each.name}", getattr(then, each.name), getattr(now, each.name))


def _of_files(what: str, then: Sequence[FileRecord], now: Sequence[FileRecord]) -> Iterator[Difference]:
    """Compare files by content: a file that was only renamed is the same."""
    if [file.sha256 for file in then] == [file.sha256 for file in now]:
        return
    old, new = ({file.name: file.sha256 for file in files} for files in (then, now))
    if len(old) == len(new) == 1:
        ((name, before),), (after,) = old.items(), new.values()
        yield from _of_value(f"{what} file {name} (sha256)", before, after)
        return
    for name in sorted(old.keys() | new.keys()):
        yield from _of_value(f"{what} file {name} (sha256)", old.get(name), new.get(name))


def _of_attached(then: Manifest, now: Manifest) -> Iterator[Difference]:
    for old, new in zip(then.prompt.attached, now.prompt.attached, strict=False):
        yield from _of_value(f"{old.path or 'standard input'} (sha256)", old.sha256, new.sha256)


def _of_flags(then: Manifest, now: Manifest) -> Iterator[Difference]:
    """Name only the instruction sets that one of the machines has and the other has not."""
    old, new = set(then.machine.isa_flags), set(now.machine.isa_flags)
    yield from _of_value("machine.isa_flags", tuple(sorted(old - new)), tuple(sorted(new - old)))


def _of_build(then: Manifest, now: Manifest) -> Iterator[Difference]:
    """Compare builds of the same engine; those of two engines have nothing in common."""
    if then.engine.name is not now.engine.name:
        return
    old, new = dict(then.engine.build), dict(now.engine.build)
    for name in sorted(old.keys() | new.keys()):
        yield from _of_value(f"engine.build.{name}", old.get(name), new.get(name))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, tuple):
        return _cut(", ".join(getattr(item, "name", str(item)) for item in value)) or "none"
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"
