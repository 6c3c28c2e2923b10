"""A result as it is written: one JSON object, described in docs/batch.md."""

from typing import Any

from llmrun.engines.answer_fields import logprob_fields, overflow_fields, value_fields
from llmrun.engines.batch.results import SCHEMA_VERSION
from llmrun.engines.batch.runner import Outcome
from llmrun.engines.conversation.reasoning import split_answer
from llmrun.engines.prepare import Prepared
from llmrun.engines.types import Done
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
        "overflow": overflow_fields(outcome.overflow),
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
        **value_fields(text, sampling, done),
        "finish_reason": done.finish_reason,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
            "cached_tokens": stats.cached_tokens,
        },
        "timings": {"prefill_seconds": stats.prefill_seconds, "decode_seconds": stats.decode_seconds},
        **logprob_fields(outcome.logprobs, sampling),
    }


def _split(outcome: Outcome) -> tuple[str, str | None]:
    """Return the answer, and the reasoning before it if there is any."""
    if outcome.item.sampling.json_schema is not None or outcome.item.sampling.grammar is not None:
        return outcome.text, None
    answer, reasoning = split_answer(outcome.text, outcome.opened)
    return (answer, reasoning) if reasoning or outcome.opened else (outcome.text, None)
