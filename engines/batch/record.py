"""A result as it is written: one JSON object, described in docs/batch.md."""

import json
from collections.abc import Sequence
from typing import Any

from llmrun.engines.batch.results import SCHEMA_VERSION
from llmrun.engines.batch.runner import Outcome
from llmrun.engines.conversation.reasoning import ReasoningSplitter
from llmrun.engines.conversation.shorten import Shortened
from llmrun.engines.prepare import Prepared
from llmrun.engines.types import Done, FinishReason, TokenLogprob
from llmrun.errors import LlmrunError

__all__ = ["model_identity", "result_record"]


def model_identity(prepared: Prepared) -> tuple[str, str | None]:
    """Return what tells a model from others: the reference as typed, and its SHA-256 if that is known."""
    files = prepared.model.files
    return prepared.model.ref.text, files[0].sha256 if files else None


def result_record(outcome: Outcome, prepared: Prepared) -> dict[str, Any]:
    """Return the result of a request. Its version and its id come first, by which a torn line is known."""
    reference, sha256 = model_identity(prepared)
    item = outcome.item
    return {
        "version": SCHEMA_VERSION,
        "id": item.id,
        "request": item.digest,
        **(_failed(outcome.error) if outcome.done is None else _answered(outcome, outcome.done)),
        "seed": item.sampling.seed,
        "overflow": _overflow(outcome.overflow),
        "notices": outcome.notices,
        "engine": prepared.plan.engine,
        "model": {"reference": reference, "sha256": sha256},
        "error": None if outcome.error is None else _error(outcome.error),
    }


def _failed(error: LlmrunError | None) -> dict[str, Any]:
    assert error is not None
    return {"text": None, "finish_reason": None, "usage": None, "timings": None}


def _error(error: LlmrunError) -> dict[str, Any]:
    code = error.exit_code
    return {
        "code": code.name.lower().replace("_", "-"),
        "message": error.message,
        "fix": error.fix,
        "exit_code": int(code),
    }


def _answered(outcome: Outcome, done: Done) -> dict[str, Any]:
    sampling, stats = outcome.item.sampling, done.stats
    text, reasoning = _split(outcome)
    return {
        "text": text,
        **({} if reasoning is None else {"reasoning": reasoning}),
        **({} if sampling.json_schema is None else {"value": _value(text, done)}),
        "finish_reason": done.finish_reason,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
            "cached_tokens": stats.cached_tokens,
        },
        "timings": {"prefill_seconds": stats.prefill_seconds, "decode_seconds": stats.decode_seconds},
        **({} if sampling.logprobs is None else {"logprobs": _logprobs(outcome.logprobs)}),
    }


def _split(outcome: Outcome) -> tuple[str, str | None]:
    """Return the answer, and the reasoning before it if there is any."""
    if outcome.item.sampling.json_schema is not None or outcome.item.sampling.grammar is not None:
        return outcome.text, None
    splitter = ReasoningSplitter(starts_inside=outcome.starts_inside)
    pieces = [*splitter.feed(outcome.text), *splitter.finish()]
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    if not reasoning and not outcome.starts_inside:
        return outcome.text, None
    return "".join(piece.text for piece in pieces if piece.kind == "answer"), reasoning


def _value(text: str, done: Done) -> Any:
    """Return the answer as the value that a schema promised; None when it was cut before its end."""
    try:
        return json.loads(text) if done.finish_reason is FinishReason.STOP else None
    except ValueError:
        return None


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "id": token.id,
            "text": token.text,
            "logprob": token.logprob,
            "top": [{"id": number, "text": text, "logprob": logprob} for number, text, logprob in token.top],
        }
        for token in tokens
    ]


def _overflow(shortened: Shortened | None) -> dict[str, Any] | None:
    if shortened is None:
        return None
    return {
        "policy": shortened.policy,
        "prompt_tokens": shortened.prompt_tokens,
        "left_out_tokens": shortened.left_out_tokens,
        "reserved_tokens": shortened.reserved_tokens,
    }
