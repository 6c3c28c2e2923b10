"""What is said about an answer besides its text, in the documents of `run` and of batches, and on a terminal."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmrun.engines.types import Done, FinishReason, SamplingOptions, Stats, TokenLogprob

if TYPE_CHECKING:
    from llmrun.engines.conversation.shorten import Shortened

__all__ = ["decode_rate", "finish_notice", "logprob_fields", "overflow_fields", "prefill_rate", "value_fields"]


def finish_notice(done: Done, limit: str, context_length: int) -> tuple[str, ...]:
    """Say when an answer was cut, and by what, or is empty; nothing when the model ended it after some words.

    Args:
        done: Its end.
        limit: What the user calls the limit of its tokens, and how many they are.
        context_length: Tokens of prompt and answer together.
    """
    if done.finish_reason is FinishReason.STOP and not done.stats.completion_tokens:
        return ("the model ended its answer before the first word",)
    match done.finish_reason:
        case FinishReason.LENGTH:
            return (f"the answer was cut at {limit}",)
        case FinishReason.CONTEXT:
            return (f"the answer was cut: the context of {context_length:,} tokens is full",)
        case _:
            return ()


def prefill_rate(stats: Stats) -> float:
    """Return tokens of the prompt that were processed, per second; those from a cache do not count."""
    processed = stats.prompt_tokens - stats.cached_tokens
    return processed / stats.prefill_seconds if stats.prefill_seconds > 0 else 0.0


def decode_rate(stats: Stats) -> float:
    """Return tokens per second after the first: (n - 1) / (t_last - t_first), as vLLM defines it."""
    if stats.completion_tokens < 2 or stats.decode_seconds <= 0:
        return 0.0
    return (stats.completion_tokens - 1) / stats.decode_seconds


def value_fields(text: str, sampling: SamplingOptions, done: Done) -> dict[str, Any]:
    """Return the answer as the value that a schema promised; None when it was cut before its end."""
    if sampling.json_schema is None:
        return {}
    try:
        return {"value": json.loads(text) if done.finish_reason is FinishReason.STOP else None}
    except ValueError:
        return {"value": None}


def logprob_fields(tokens: Sequence[TokenLogprob], sampling: SamplingOptions) -> dict[str, Any]:
    """Return the log probabilities, if they were asked for."""
    return {} if sampling.logprobs is None else {"logprobs": [_logprob(token) for token in tokens]}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    top = [{"id": number, "text": text, "logprob": logprob} for number, text, logprob in token.top]
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "top": top}


def overflow_fields(shortened: "Shortened | None") -> dict[str, Any] | None:
    """Return what was left out of the prompt; None when nothing was."""
    if shortened is None:
        return None
    return {
        "policy": shortened.policy,
        "prompt_tokens": shortened.prompt_tokens,
        "left_out_tokens": shortened.left_out_tokens,
        "reserved_tokens": shortened.reserved_tokens,
    }
