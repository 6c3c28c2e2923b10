"""Sampling options for tests: the likeliest token always, with nothing in between."""

from typing import Any

from llmrun.engines.types import SamplingOptions

__all__ = ["greedy_options"]


def greedy_options(**changes: Any) -> SamplingOptions:
    """Return greedy options of 24 tokens, but for the changes."""
    values: dict[str, Any] = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "max_tokens": 24,
        "seed": 0,
    }
    return SamplingOptions(**(values | changes))
