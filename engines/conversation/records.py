"""The lines of a session file, as values, and the checks that a line is one. docs/sessions.md has them for others.

A record says what happened, and nothing that was written is ever changed: what was taken back stays in the file, and a
later record says so. Which turns count in the end is worked out in `conversation`.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

__all__ = [
    "VERSION",
    "Header",
    "MessageRecord",
    "ModelRecord",
    "Record",
    "RewindRecord",
    "SummaryRecord",
    "WindowRecord",
]
__all__ += ["decode_header", "decode_record", "encode_record"]

VERSION = 1
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line: what this file is.

    Attributes:
        version: Of the schema.
        created: When it was begun, ISO 8601 in UTC.
        program: What wrote it, with its version.
    """

    version: int = VERSION
    created: str
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """From here on, this model answers.

    Attributes:
        time: ISO 8601 in UTC.
        model: As it was typed; it is what `--continue` loads.
        engine: The engine that was chosen for it.
        engine_asked: The engine that was asked for by name, or None.
        context_length: Tokens of prompt and answer together.
    """

    time: str
    model: str
    engine: str
    engine_asked: str | None = None
    context_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """One message. One of the role `system` replaces the system message; an empty one takes it away.

    Attributes:
        time: ISO 8601 in UTC.
        role: `system`, `user` or `assistant`.
        content: The text; of an answer without its reasoning.
        reasoning: What the model wrote before its answer, or None. It is not sent back to it.
        finish_reason: Of an answer: `stop`, `length`, `context` or `cancelled`.
        cancelled: The answer was interrupted; `content` is what there was of it.
        model: What answered, and engine on what.
        seed: Of an answer.
        prompt_tokens: Tokens that the model saw before the answer; None if the engine had to be ended.
        completion_tokens: Tokens of the answer, reasoning included.
        cached_tokens: How many of the prompt did not have to be processed.
    """

    time: str
    role: Role
    content: str
    reasoning: str | None = None
    finish_reason: str | None = None
    cancelled: bool = False
    model: str | None = None
    engine: str | None = None
    seed: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindRecord:
    """The newest messages do not count any more.

    Attributes:
        time: ISO 8601 in UTC.
        messages: How many, of the roles user and assistant.
        reason: `undo`, `retry`, `edit`, `clear`, or `unanswered` for a turn that came to nothing.
    """

    time: str
    messages: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRecord:
    """The model is sent this text in place of the oldest turns.

    Attributes:
        time: ISO 8601 in UTC.
        turns: How many turns it stands for, counted from the first that counts.
        content: The text.
        model: What wrote it.
    """

    time: str
    turns: int
    content: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRecord:
    """The context was full: the oldest turns are not sent to the model any more. They are still in this file.

    Attributes:
        time: ISO 8601 in UTC.
        turns: How many turns are left out now, counted from the first that counts.
        tokens: Tokens that leaving them out made room for, this time.
    """

    time: str
    turns: int
    tokens: int


Record = ModelRecord | MessageRecord | RewindRecord | SummaryRecord | WindowRecord
_KINDS: dict[str, type[Record]] = {
    "model": ModelRecord,
    "message": MessageRecord,
    "rewind": RewindRecord,
    "summary": SummaryRecord,
    "window": WindowRecord,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode_record(record: Header | Record) -> bytes:
    """Return the line of a record, with its newline. What a record has no value for is left out."""
    name = "session" if isinstance(record, Header) else _NAMES[type(record)]
    values = {
        key: value for key, value in dataclasses.asdict(record).items() if value is not None and value is not False
    }
    # Surrogates cannot be written as UTF-8: a text that has one is escaped.
    line = json.dumps({"type": name} | values, ensure_ascii=False)
    try:
        return (line + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps({"type": name} | values) + "\n").encode()


def decode_header(line: bytes) -> Header:
    """Return the header that a first line is.

    Raises:
        ValueError: It is none, with what is wrong with it.
    """
    values = _object(line)
    if values.pop("type", None) != "session":
        raise ValueError('the first line does not have the type "session"')
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ValueError(f"it was written by a newer llmrun: version {version}, and this one knows {VERSION}")
    header: Header = _build(Header, values)
    if header.version != VERSION:
        raise ValueError(f"no version is numbered {header.version}")
    return header


def decode_record(line: bytes) -> Record:
    """Return the record that a line is. Keys that nobody knows are passed over.

    Raises:
        ValueError: It is none, with what is wrong with it.
    """
    values = _object(line)
    name = values.pop("type", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"no record has the type {name!r}")
    record: Record = _build(kind, values)
    if isinstance(record, MessageRecord) and record.role not in get_args(Role):
        raise ValueError(f"no role is called {record.role!r}")
    if isinstance(record, RewindRecord) and record.messages < 0:
        raise ValueError(f"{record.messages} messages cannot be taken back")
    if isinstance(record, SummaryRecord | WindowRecord) and record.turns < 0:
        raise ValueError(f"{record.turns} turns cannot be left out")
    return record


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def _build(kind: Any, values: dict[str, Any]) -> Any:
    known: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = field.name
        if name in values:
            value = values[name]
            wanted: Any = str if field.type is Role else field.type
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise ValueError(f"its {name!r} is {json.dumps(value)[:40]}")
            known[name] = value
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"it has no {name!r}")
    return kind(**known)
