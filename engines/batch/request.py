"""One line of a batch: a prompt or a conversation, and how it is to be answered."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from llmrun.engines.batch.fields import SAMPLING_FIELDS, FieldError, read_sampling_fields, shown, text_of
from llmrun.engines.conversation.shorten import Overflow
from llmrun.engines.types import SamplingOptions
from llmrun.errors import UsageError
from llmrun.models.prompt.conversation import Message

__all__ = ["BatchDefaults", "BatchItem", "parse_item"]

_FIELDS = frozenset({"id", "prompt", "messages", "system", *SAMPLING_FIELDS})
_ROLES = ("system", "user", "assistant")
_LONGEST_ID = 1024
_SEEDS = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDefaults:
    """What holds for requests that do not say otherwise: the options of the command.

    Attributes:
        sampling: The sampling options; its seed counts only if `seed_is_given`.
        seed_is_given: All requests have this seed; otherwise each gets one of its own.
        system: The system message.
        raw: Prompts are sent without the model's chat template.
        overflow: What is done with prompts that are too long.
    """

    sampling: SamplingOptions
    seed_is_given: bool = False
    system: str | None = None
    raw: bool = False
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """A request, checked.

    Attributes:
        id: Its own, or the number of its line.
        line: Where it stands in the file.
        messages: The conversation to answer; of a raw prompt, one message with its text.
        raw: The prompt is sent as it is.
        sampling: How it is sampled.
        digest: Changes when anything changes that the user asked for.
    """

    id: str
    line: int
    messages: tuple[Message, ...]
    raw: bool
    sampling: SamplingOptions
    digest: str


def parse_item(data: bytes, line: int, defaults: BatchDefaults) -> BatchItem:
    """Return the request that a line holds.

    Raises:
        UsageError: Names the line, and the field that cannot be honoured.
    """
    values = _parse_object(data, line)
    try:
        unknown = values.keys() - _FIELDS
        if unknown:
            raise FieldError(sorted(unknown)[0], f"is no field of a request; those are {', '.join(sorted(_FIELDS))}")
        name = _read_id(values, line)
        messages = _read_messages(values, defaults)
        fields = read_sampling_fields(values)
    except FieldError as error:
        raise UsageError(f"line {line}: {error.field} {error.problem}") from error
    sampling, seed_is_given = _sampling(fields, defaults)
    return BatchItem(
        id=name,
        line=line,
        messages=messages,
        raw=defaults.raw,
        sampling=sampling,
        digest=_digest(messages, sampling, defaults, seed_is_given=seed_is_given),
    )


def _parse_object(data: bytes, line: int) -> Mapping[str, Any]:
    try:
        values = json.loads(data.decode("utf-8-sig" if line == 1 else "utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UsageError(f"line {line}: byte {error.start} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"line {line} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"line {line}: a request is a JSON object, found {shown(values)}")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _read_id(values: Mapping[str, Any], line: int) -> str:
    found = values.get("id")
    if found is None:
        return str(line)
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 2**63:
        return str(found)
    name = text_of("id", found)
    if not 0 < len(name) <= _LONGEST_ID:
        raise FieldError("id", f"wants 1 to {_LONGEST_ID:,} characters, found {len(name):,}")
    return name


def _read_messages(values: Mapping[str, Any], defaults: BatchDefaults) -> tuple[Message, ...]:
    prompt, given = values.get("prompt"), values.get("messages")
    if (prompt is None) == (given is None):
        raise FieldError(
            "prompt", "and messages: a request has one of them" + (", this has none" if prompt is None else "")
        )
    system = values.get("system")
    if system is not None:
        text_of("system", system)
    messages: tuple[Message, ...]
    if prompt is not None:
        messages = (Message(role="user", content=_filled("prompt", prompt)),)
    else:
        if defaults.raw:
            raise FieldError("messages", "need the chat template that --raw leaves out: give a prompt")
        messages = _conversation(given)
    if messages[0].role == "system":
        if system is not None:
            raise FieldError("system", "is there twice: as a field and as the first of the messages")
        return messages
    system = defaults.system if system is None else system
    return (Message(role="system", content=system), *messages) if system and not defaults.raw else messages


def _conversation(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list):
        raise FieldError("messages", f"wants a list of objects with role and content, found {shown(given)}")
    messages = []
    for index, message in enumerate(given):
        field = f"messages[{index}]"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise FieldError(field, f"wants an object with role and content, found {shown(message)}")
        role = message["role"]
        if role not in _ROLES:
            raise FieldError(f"{field}.role", f"wants one of {', '.join(_ROLES)}, found {shown(role)}")
        if role == "system" and index:
            raise FieldError(f"{field}.role", "is system, which only the first message may be")
        text = text_of(f"{field}.content", message["content"])
        messages.append(Message(role=role, content=text))
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise FieldError("messages", "have nothing of a user to answer")
    return tuple(messages)


def _filled(field: str, value: Any) -> str:
    text = text_of(field, value)
    if not text.strip():
        raise FieldError(field, "is empty")
    return text


def _sampling(fields: dict[str, Any], defaults: BatchDefaults) -> tuple[SamplingOptions, bool]:
    """Return the sampling options, and whether the user chose the seed."""
    seed = fields.get("seed")
    if seed is None and defaults.seed_is_given:
        seed = defaults.sampling.seed
    is_given = seed is not None
    if seed is None:
        seed = int.from_bytes(os.urandom(8)) % _SEEDS
    repeatable = is_given or fields.get("temperature", defaults.sampling.temperature) == 0
    return replace(defaults.sampling, **(fields | {"seed": seed, "repeatable": repeatable})), is_given


def _digest(
    messages: tuple[Message, ...], sampling: SamplingOptions, defaults: BatchDefaults, *, seed_is_given: bool
) -> str:
    """Return what tells this request from one that is to be answered otherwise; a seed that was drawn does not."""
    asked = [
        [(message.role, message.content) for message in messages],
        [getattr(sampling, field) for field in SAMPLING_FIELDS if field != "seed"],
        sampling.seed if seed_is_given else None,
        defaults.raw,
        defaults.overflow,
    ]
    return hashlib.blake2b(json.dumps(asked).encode(), digest_size=12).hexdigest()
