"""From sampling options to vLLM's parameters, and what has to be said about them.

vLLM divides by the temperature first and truncates afterwards, and its repetition penalty covers the whole prompt and
answer; with llama.cpp the last 64 tokens are penalized, then the set is truncated, then the temperature applies. So
penalties, truncation and grammars are left to a logits processor of ours (`processor.py`), which runs before the
temperature, and vLLM gets the temperature and the seed only. vLLM takes no such processors while it guesses ahead: then
its own parameters are used, and where they mean something else, a notice says so.

Source: Sampler.forward in vllm/v1/sample/sampler.py; common_sampler_init and llama_sampler_penalties in llama.cpp.
"""

from typing import Any

from llmrun.engines.types import SamplingOptions

__all__ = ["extra_arguments", "native_notices", "sampling_arguments"]

_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.01, 2.0


def sampling_arguments(options: SamplingOptions, limit: int, *, native: bool) -> dict[str, Any]:
    """Return the arguments of `SamplingParams`, structured outputs and the ids that end an answer left out.

    Args:
        options: What the user asked for.
        limit: Most tokens of the answer.
        native: vLLM is to penalize and truncate by itself, because it guesses ahead.
    """
    arguments: dict[str, Any] = {
        "temperature": options.temperature if native or _within(options.temperature) else 1.0,
        "seed": options.seed if options.temperature > 0 else None,
        "max_tokens": limit,
        "logprobs": options.logprobs,
        "detokenize": False,
    }
    if native:
        arguments |= {"repetition_penalty": options.repeat_penalty}
        if options.temperature > 0:
            arguments |= {"top_p": options.top_p, "top_k": max(0, options.top_k)}
    return arguments


def _within(temperature: float) -> bool:
    """Whether vLLM takes a temperature as it is: it refuses those above 2, and raises those below 0.01."""
    return temperature == 0 or _LOWEST_TEMPERATURE <= temperature <= _HIGHEST_TEMPERATURE


def extra_arguments(options: SamplingOptions, folder: str) -> dict[str, Any] | None:
    """Return what our own processor has to know of a request; None when it has nothing to do."""
    extra: dict[str, Any] = {}
    if not _within(options.temperature):
        extra["temperature"] = options.temperature
    if options.repeat_penalty != 1:
        extra["repeat_penalty"] = options.repeat_penalty
    if options.temperature > 0 and (options.top_k > 0 or options.top_p < 1 or options.min_p > 0):
        extra["truncate"] = [max(0, options.top_k), options.top_p, options.min_p]
    if options.json_schema is not None or options.grammar is not None:
        extra |= {"json_schema": options.json_schema, "grammar": options.grammar, "folder": folder}
    return extra or None


def native_notices(options: SamplingOptions) -> tuple[str, ...]:
    """Return what the options mean otherwise while vLLM guesses ahead."""
    notices = []
    if options.repeat_penalty != 1:
        notices.append(
            "while vLLM guesses ahead, --repeat-penalty covers the whole prompt and answer, not the last 64 tokens"
        )
    if options.temperature > 0 and options.min_p > 0:
        notices.append("while vLLM guesses ahead, --min-p has no effect; --lookup off honours it")
    if options.temperature not in (0, 1) and (options.top_k > 0 or options.top_p < 1):
        notices.append(
            "while vLLM guesses ahead, --top-k and --top-p apply after the temperature, not before it; "
            "--lookup off applies them before it"
        )
    return tuple(notices)
