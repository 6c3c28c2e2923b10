"""Checks of the values of options that Typer's own types do not make."""

import math
from collections.abc import Callable

import typer

from llmrun.engines.memory.kv import KV_BYTES
from llmrun.engines.types import EngineName

__all__ = ["finite", "given_parameters", "known_engine", "known_kv_type", "one_of", "positive", "stop_texts"]


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def positive(value: float) -> float:
    """Refuse what is not above 0."""
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is not a finite number above 0")
    return value


def known_engine(value: str | None) -> str | None:
    """Refuse a name that no engine has."""
    if value is not None and value not in EngineName.__members__.values():
        names = ", ".join(name for name in EngineName if name is not EngineName.FAKE)
        raise typer.BadParameter(f"{value!r} is not one of {names}")
    return value


def known_kv_type(value: str) -> str:
    """Refuse a type that the KV cache cannot have."""
    if value not in KV_BYTES:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(KV_BYTES)}")
    return value


def one_of(allowed: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """Return a check that refuses everything else."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return check


def stop_texts(values: list[str]) -> list[str]:
    """Refuse an empty stop text."""
    if any(not value for value in values):
        raise typer.BadParameter("an empty stop text would end every answer at once")
    return values


def given_parameters(context: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that stand on the command line itself."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return frozenset(name for name, source in sources if source is not None and source.name == "COMMANDLINE")
