"""Values of options that are lists: `128,512`. Each value is checked before anything is started."""

from llmrun.cli.option_checks import known_engine
from llmrun.engines.memory.kv import KV_BYTES
from llmrun.engines.types import EngineName
from llmrun.errors import UsageError

__all__ = ["engine_list", "kv_type_list", "layer_list", "number_list"]

_MOST_VALUES = 64


def number_list(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Return whole numbers within bounds, each once.

    Raises:
        UsageError: Some value is none.
    """
    numbers = []
    for word in _words(option, text):
        try:
            number = int(word)
        except ValueError:
            raise UsageError(f"{option} wants whole numbers, as in {option} 128,512; found {word!r}") from None
        if not least <= number <= most:
            raise UsageError(f"{option} wants numbers from {least} to {most}; found {word}")
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))


def layer_list(text: str | None) -> tuple[int | None, ...]:
    """Return numbers of layers; without a list, as many as fit."""
    return (None,) if text is None else number_list("--gpu-layers", text, -1, 100_000)


def kv_type_list(text: str) -> tuple[str, ...]:
    """Return types of the KV cache.

    Raises:
        UsageError: Some value is none.
    """
    words = _words("--kv-type", text)
    unknown = next((word for word in words if word not in KV_BYTES), None)
    if unknown is not None:
        raise UsageError(f"--kv-type: {unknown!r} is not one of {', '.join(KV_BYTES)}")
    return tuple(dict.fromkeys(words))


def engine_list(text: str | None) -> tuple[tuple[EngineName, ...] | None, bool]:
    """Return the engines that were named (None: the best one), and whether all are wanted."""
    if text is None or text == "all":
        return None, text == "all"
    return tuple(EngineName(str(known_engine(word))) for word in dict.fromkeys(_words("--engine", text))), False


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words) or len(words) > _MOST_VALUES:
        raise UsageError(f"{option} wants a value, or up to {_MOST_VALUES} with commas between; found {text!r}")
    return words
