"""From JSON to frozen dataclasses, by the types that they declare; what does not fit is named by its field.

Fields that are not known are passed over, so that a newer llmrun may add some. Nothing is converted: a number in
quotes is no number, and true is not 1.
"""

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["FieldError", "decode"]


class FieldError(Exception):
    """A value is missing or is not of its type."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")


def decode(kind: Any, value: Any, field: str) -> Any:
    """Return the value as an instance of `kind`.

    Args:
        kind: A dataclass, an enumeration, a plain type, a tuple, a literal, or a union of such.
        value: From `json.loads`.
        field: What to call it in an error.

    Raises:
        FieldError: It is not one.
    """
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, field)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, field)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, field)
    if origin is Literal:
        return _one_of(get_args(kind), value, field)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(_one_of(tuple(member.value for member in kind), value, field))
    return _decode_plain(kind, value, field)


def _decode_dataclass(kind: Any, value: Any, field: str) -> Any:
    if not isinstance(value, dict):
        raise FieldError(field or "the manifest", f"wants an object, found {_named(value)}")
    hints, found = get_type_hints(kind), {}
    for each in fields(kind):
        name = f"{field}.{each.name}" if field else each.name
        if each.name in value:
            found[each.name] = decode(hints[each.name], value[each.name], name)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise FieldError(name, "is missing")
    return kind(**found)


def _decode_union(kinds: tuple[Any, ...], value: Any, field: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    for kind in rest[:-1]:
        try:
            return decode(kind, value, field)
        except FieldError:
            continue
    return decode(rest[-1], value, field)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise FieldError(field, f"wants an array, found {_named(value)}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise FieldError(field, f"wants {len(kinds)} values, found {len(value)}")
    return tuple(
        decode(kind, item, f"{field}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _one_of(allowed: tuple[Any, ...], value: Any, field: str) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise FieldError(field, f"wants one of {', '.join(map(str, allowed))}, found {_named(value)}")
    return value


def _decode_plain(kind: Any, value: Any, field: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise FieldError(field, f"wants {_KINDS[kind]}, found {_named(value)}")
    return value


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _named(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value}"
