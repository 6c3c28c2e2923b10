"""The fields of a request that change how it is sampled: called like the options, with their types and ranges.

A field that is there wins over the option of the command. What a field must not be is an error that names it; nothing
is ever turned into something else, so `"temperature": "0"` and `"max_tokens": true` are refused.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["SAMPLING_FIELDS", "FieldError", "read_sampling_fields", "shown", "text_of"]

_LARGEST = 2**31 - 1
_LARGEST_SEED = 2**32 - 2  # 2^32 - 1 means "any seed" to llama.cpp
_MOST_LOGPROBS = 100


class FieldError(Exception):
    """A field that cannot be honoured.

    Attributes:
        field: Its name.
        problem: What is wrong with it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


_Reader = Callable[[str, Any], Any]


def shown(value: Any) -> str:
    """Return a value for a message, not more of it than helps."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def text_of(field: str, value: Any) -> str:
    """Return a text, of whole characters."""
    if not isinstance(value, str):
        raise FieldError(field, f"wants a text, found {shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FieldError(field, f"has half a character ({value[error.start]!a}) at {error.start}") from error
    return value


def _number(least: float, most: float = math.inf, *, above: bool = False) -> _Reader:
    wanted = f"more than {least:g}" if above else f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"

    def read(field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FieldError(field, f"wants a number, found {shown(value)}")
        if not least <= value <= most or (above and value == least) or abs(value) > 1e300:
            raise FieldError(field, f"wants {wanted}, found {shown(value)}")
        return float(value)

    return read


def _integer(least: int, most: int) -> _Reader:
    def read(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise FieldError(field, f"wants a whole number, found {shown(value)}")
        if not least <= value <= most:
            raise FieldError(field, f"wants {least:,} to {most:,}, found {shown(value)}")
        return value

    return read


def _or_nothing(reader: _Reader) -> _Reader:
    return lambda field, value: None if value is None else reader(field, value)


def _stop(field: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise FieldError(field, f"wants a text or a list of texts, found {shown(value)}")
    for text in texts:
        if not text_of(field, text):
            raise FieldError(field, "has an empty text, which would end every answer at once")
    return tuple(texts)


def _schema(field: str, value: Any) -> str:
    """Take a schema as the value that it is, or as a JSON text of it."""
    if isinstance(value, str):
        try:
            value = json.loads(text_of(field, value))
        except (ValueError, RecursionError) as error:
            raise FieldError(field, f"is not JSON: {error}") from error
    if not isinstance(value, dict | bool):
        raise FieldError(field, f"wants a JSON schema, found {shown(value)}")
    return json.dumps(value)


SAMPLING_FIELDS: Mapping[str, _Reader] = {
    "temperature": _number(0),
    "top_p": _number(0, 1),
    "top_k": _integer(0, _LARGEST),
    "min_p": _number(0, 1),
    "repeat_penalty": _number(0, above=True),
    "max_tokens": _or_nothing(_integer(1, _LARGEST)),
    "seed": _or_nothing(_integer(0, _LARGEST_SEED)),
    "stop": _stop,
    "logprobs": _or_nothing(_integer(0, _MOST_LOGPROBS)),
    "json_schema": _or_nothing(_schema),
    "grammar": _or_nothing(text_of),
}
"""What reads each field."""


def read_sampling_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that change its sampling, checked.

    Raises:
        FieldError: One is of the wrong type or out of range.
    """
    return {field: SAMPLING_FIELDS[field](field, value) for field, value in values.items() if field in SAMPLING_FIELDS}
