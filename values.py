"""Values: what travels between modules, frozen and compared by content.

`@value` makes what `@dataclass(frozen=True, slots=True, kw_only=True)` makes, in a tenth of the time. A dataclass
writes and compiles the source of six methods for each class, half a millisecond; a command that answers a short prompt
spent more on that than on anything else of its own. Here all classes share their methods, which look up the fields of
the object at hand. Making an object takes a microsecond longer, so what is made by the million stays a dataclass.
`dataclasses.fields`, `replace` and `asdict` work.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

__all__ = ["value"]

_Class = TypeVar("_Class", bound=type)
_set = object.__setattr__


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def value(made: _Class) -> _Class:
    """Make a class of values: fields by keyword only, read-only, compared and hashed by what they hold."""
    for name, method in _METHODS.items():
        if name not in made.__dict__:
            setattr(made, name, method)
    return dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(made)  # type: ignore[return-value]


def _init(self: Any, /, **given: Any) -> None:
    fields = self.__dataclass_fields__
    for name, field in fields.items():
        if name in given:
            content = given[name]
        elif field.default is not dataclasses.MISSING:
            content = field.default
        elif field.default_factory is not dataclasses.MISSING:
            content = field.default_factory()
        else:
            missing = [name for name in fields if not _is_optional(fields[name]) and name not in given]
            raise TypeError(f"{type(self).__name__} wants a value for {', '.join(missing)}")
        _set(self, name, content)
    if given.keys() - fields.keys():
        raise TypeError(f"{type(self).__name__} has no field {', '.join(given.keys() - fields.keys())}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _is_optional(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _contents(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__dataclass_fields__)


def _repr(self: Any) -> str:
    inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
    return f"{type(self).__qualname__}({inner})"


def _eq(self: Any, other: object) -> bool:
    return _contents(self) == _contents(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_contents(self))


def _setattr(_self: Any, name: str, _content: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> tuple[Any, ...]:
    return _contents(self)


def _setstate(self: Any, state: tuple[Any, ...]) -> None:
    for name, content in zip(self.__dataclass_fields__, state, strict=True):
        _set(self, name, content)


_METHODS = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}
