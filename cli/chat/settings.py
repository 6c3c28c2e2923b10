"""`/set`: the options that may change while a chat runs, with the checks that the command line has for them.

An option is defined once, in `cli/options`: its type, its range and its own check are read from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args

import typer

from llmrun.cli import options as common
from llmrun.cli.chat.state import Settings
from llmrun.engines.conversation.window import OVERFLOWS
from llmrun.errors import UsageError

__all__ = ["OPTION_NAMES", "THINK", "changed", "describe_settings", "option_choices"]

THINK = ("show", "hide", "dim")
_NONE = ("none", "default")


@dataclass(frozen=True, slots=True)
class _Option:
    """One that can be set.

    Attributes:
        annotation: How the command line defines it; None for those of the chat itself.
        choices: What the others may be.
        optional: `none` takes it back.
    """

    annotation: Any = None
    choices: tuple[str, ...] = ()
    optional: bool = False


_OPTIONS: Mapping[str, _Option] = {
    "temperature": _Option(common.Temperature),
    "top-p": _Option(common.TopP),
    "top-k": _Option(common.TopK),
    "min-p": _Option(common.MinP),
    "repeat-penalty": _Option(common.RepeatPenalty),
    "max-tokens": _Option(common.MaxTokens, optional=True),
    "seed": _Option(common.Seed, optional=True),
    "stop": _Option(common.Stop, optional=True),
    "on-overflow": _Option(choices=OVERFLOWS),
    "think": _Option(choices=THINK),
}
OPTION_NAMES: tuple[str, ...] = tuple(_OPTIONS)


def option_choices(name: str) -> tuple[str, ...]:
    """Return what an option may be, if it is one of a few."""
    return _OPTIONS[name].choices if name in _OPTIONS else ()


def changed(settings: Settings, name: str, text: str) -> Settings:
    """Return the settings with one of them changed.

    Raises:
        UsageError: There is no such option, or it cannot have that value.
    """
    name = name.removeprefix("--").replace("_", "-")
    option = _OPTIONS.get(name)
    if option is None:
        near = get_close_matches(name, OPTION_NAMES, n=1)
        raise UsageError(
            f"there is no option {name} to set",
            fix=f"/set {near[0]} VALUE" if near else f"one of {', '.join(OPTION_NAMES)}",
        )
    value = _value(name, option, text)
    if name == "seed":
        return replace(settings, seed=value)
    if name == "on-overflow":
        return replace(settings, overflow=value)
    if name == "think":
        return replace(settings, think=value)
    if name == "stop":
        value = tuple(value or ())
    return replace(settings, sampling=replace(settings.sampling, **{name.replace("-", "_"): value}))


def _value(name: str, option: _Option, text: str) -> Any:
    if option.optional and text in _NONE:
        return None
    if option.annotation is None:
        if text not in option.choices:
            raise UsageError(f"{name} is one of {', '.join(option.choices)}, and not {text!r}")
        return text
    kind, info = get_args(option.annotation)
    if name == "stop":
        return _checked(name, info.callback, [text.encode().decode("unicode_escape") if "\\" in text else text])
    number: Callable[[str], float] = float if kind is float else int
    try:
        value = number(text)
    except ValueError:
        raise UsageError(f"{name} wants a number, and not {text!r}") from None
    if (info.min is not None and value < info.min) or (info.max is not None and value > info.max):
        bounds = " and ".join(
            f"{word} {bound:,}" for word, bound in (("at least", info.min), ("at most", info.max)) if bound is not None
        )
        raise UsageError(f"{name} is {bounds}, and not {text}")
    return _checked(name, info.callback, value)


def _checked(name: str, check: Callable[[Any], Any] | None, value: Any) -> Any:
    try:
        return value if check is None else check(value)
    except typer.BadParameter as error:
        raise UsageError(f"{name}: {error.message}") from None


def describe_settings(settings: Settings) -> str:
    """Return every option with its value."""
    sampling = settings.sampling
    values: dict[str, Any] = {
        "seed": settings.seed,
        "on-overflow": settings.overflow,
        "think": settings.think,
        "stop": " ".join(map(repr, sampling.stop)) or None,
    }
    width = max(map(len, OPTION_NAMES))
    lines = []
    for name in OPTION_NAMES:
        value = values[name] if name in values else getattr(sampling, name.replace("-", "_"))
        lines.append(f"  {name:<{width}}  {'none' if value is None else value}")
    return "\n".join(lines)
