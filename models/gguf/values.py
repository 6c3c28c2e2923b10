"""Take single values out of a header by key, checked for type, with the key named in every refusal."""

from llmrun.errors import ModelFileError
from llmrun.models.gguf.types import GgufArray, GgufHeader
from llmrun.models.gguf.window import damaged

__all__ = ["find_array", "find_number", "find_text", "find_whole", "find_whole_or_each", "need_text", "need_whole"]


def find_whole(header: GgufHeader, key: str) -> int | None:
    """Return a whole number, or None when the key is absent.

    Raises:
        ModelFileError: The value is something else.
    """
    value = header.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(header, key, "a whole number")
    return value


def find_number(header: GgufHeader, key: str) -> float | None:
    """Return a whole or floating-point number, or None when the key is absent.

    Raises:
        ModelFileError: The value is something else.
    """
    value = header.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_type(header, key, "a number")
    return value


def find_text(header: GgufHeader, key: str) -> str | None:
    """Return a text, or None when the key is absent.

    Raises:
        ModelFileError: The value is something else.
    """
    value = header.metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(header, key, "a text")
    return value


def find_array(header: GgufHeader, key: str) -> GgufArray | None:
    """Return an array, or None when the key is absent.

    Raises:
        ModelFileError: The value is something else.
    """
    value = header.metadata.get(key)
    if value is not None and not isinstance(value, GgufArray):
        raise _wrong_type(header, key, "an array")
    return value


def find_whole_or_each(header: GgufHeader, key: str, count: int) -> tuple[int, ...] | None:
    """Return `count` whole numbers, from one value for all or an array with one for each; None when absent.

    Raises:
        ModelFileError: The value is something else, or the array has another length.
    """
    value = header.metadata.get(key)
    if not isinstance(value, GgufArray):
        whole = find_whole(header, key)
        return None if whole is None else (whole,) * count
    if value.count != count:
        raise damaged(header.path, f"{key} has {value.count:,} entries for {count:,} blocks")
    if value.values is None or not all(isinstance(entry, int) for entry in value.values):
        raise _wrong_type(header, key, "an array of whole numbers")
    return tuple(int(entry) for entry in value.values)


def need_text(header: GgufHeader, key: str) -> str:
    """Return a text that no model can do without.

    Raises:
        ModelFileError: It is missing, empty, or not a text.
    """
    value = find_text(header, key)
    if not value:
        raise _missing(header, key)
    return value


def need_whole(header: GgufHeader, key: str) -> int:
    """Return a whole number that no model can do without.

    Raises:
        ModelFileError: It is missing or not a whole number.
    """
    value = find_whole(header, key)
    if value is None:
        raise _missing(header, key)
    return value


def _missing(header: GgufHeader, key: str) -> ModelFileError:
    return ModelFileError(f"{header.path} lacks the metadata key {key}", fix="take another GGUF of this model")


def _wrong_type(header: GgufHeader, key: str, wanted: str) -> ModelFileError:
    found = header.value_types[key].name.lower()
    return damaged(header.path, f"{key} should be {wanted}, and is of type {found}")
