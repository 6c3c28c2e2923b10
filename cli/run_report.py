"""What `run` says about an answer besides its text: notices, a line of statistics, and the JSON documents."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmrun.engines.answer_fields import decode_rate, logprob_fields, overflow_fields, prefill_rate, value_fields
from llmrun.engines.prepare import Prepared
from llmrun.engines.types import Done, SamplingOptions, Stats, TokenLogprob
from llmrun.models.prompt.conversation import RenderedPrompt

if TYPE_CHECKING:
    from llmrun.engines.conversation.shorten import Shortened

__all__ = ["answer_document", "dry_run_document", "stats_lines"]

SCHEMA_VERSION = 1


def stats_lines(
    prepared: Prepared, sampling: SamplingOptions, done: Done, first_seconds: float, phases: Mapping[str, float]
) -> tuple[str, ...]:
    """Return counts and speeds of an answer in one line, and in a second one where the time before it went."""
    stats = done.stats
    processed = stats.prompt_tokens - stats.cached_tokens
    counts = (
        f"llmrun: {prepared.plan.engine}; "
        f"prompt {stats.prompt_tokens:,} tokens{_of_cache(stats)} at {prefill_rate(stats):,.1f} tokens/s; "
        f"answer {stats.completion_tokens:,} tokens at {decode_rate(stats):,.1f} tokens/s{_of_guesses(stats)}; "
        f"first text after {first_seconds:.2f} s; seed {sampling.seed}; {done.finish_reason}"
    )
    steps = [f"{name} {seconds:.2f} s" for name, seconds in phases.items()]
    steps.append(f"prefill of {processed:,} tokens {stats.prefill_seconds:.2f} s")
    return counts, f"llmrun: start: {', '.join(steps)}"


def _of_cache(stats: Stats) -> str:
    return f" ({stats.cached_tokens:,} from the cache)" if stats.cached_tokens else ""


def _of_guesses(stats: Stats) -> str:
    if not stats.drafted_tokens:
        return ""
    return f" ({stats.accepted_tokens:,} of {stats.drafted_tokens:,} guesses right)"


def _model(prepared: Prepared) -> dict[str, Any]:
    return {
        "reference": prepared.model.ref.text,
        "path": str(prepared.model.path),
        "format": prepared.info.format,
        "architecture": prepared.info.architecture,
        "architecture_source": prepared.info.architecture_source,
        "quantization": prepared.info.quantization,
        "sha256": prepared.model.files[0].sha256 if prepared.model.files else None,
    }


def answer_document(
    prepared: Prepared,
    rendered: RenderedPrompt,
    shortened: "Shortened | None",
    sampling: SamplingOptions,
    text: str,
    logprobs: Sequence[TokenLogprob],
    done: Done,
    notices: tuple[str, ...],
    phases: Mapping[str, float],
) -> dict[str, Any]:
    """Return the document that `run --json` prints; its fields are listed in docs/json.md."""
    stats = done.stats
    return {
        "version": SCHEMA_VERSION,
        "text": text,
        **value_fields(text, sampling, done),
        **logprob_fields(logprobs, sampling),
        "finish_reason": done.finish_reason,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
            "cached_tokens": stats.cached_tokens,
            "drafted_tokens": stats.drafted_tokens,
            "accepted_tokens": stats.accepted_tokens,
        },
        "timings": {
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
            "prefill_tokens_per_second": prefill_rate(stats),
            "decode_tokens_per_second": decode_rate(stats),
            "start_seconds": dict(phases),
        },
        "model": _model(prepared),
        "engine": {"name": prepared.plan.engine, "because": prepared.selection.because},
        "plan": {
            "context_length": prepared.plan.context_length,
            "threads": prepared.plan.threads,
            "gpu_layers": prepared.plan.gpu_layers,
            "kv_type": prepared.plan.kv_type,
        },
        "sampling": asdict(sampling),
        "template": rendered.template_source,
        "overflow": overflow_fields(shortened),
        "notices": notices,
    }


def dry_run_document(
    prepared: Prepared, rendered: RenderedPrompt, shortened: "Shortened | None", tokens: list[int]
) -> dict[str, Any]:
    """Return the document that `run --dry-run --json` prints."""
    return {
        "version": SCHEMA_VERSION,
        "prompt": rendered.text,
        "template": rendered.template_source,
        "tokens": tokens,
        "token_count": len(tokens),
        "context_length": prepared.plan.context_length,
        "overflow": overflow_fields(shortened),
        "model": _model(prepared),
        "engine": {"name": prepared.plan.engine, "because": prepared.selection.because},
    }
