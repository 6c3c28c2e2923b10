"""The vllm engine against `LLM.generate` on the same folder: many prompts at once, and a single stream."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator

from bench import HERE, Bench, Helper, answer, greedy
from pairs import Row, compare, take_turns
from texts import questions, starting_text
from twin import CONTEXT, find_twin, twin_worker

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Done, EngineName, Segment

__all__ = ["measure_vllm"]

_PROMPTS = 32
_PROMPT_TOKENS = 64
_DECODED = 64
_PAUSE_SECONDS = (
    1.5  # after an answer, vLLM's own worker process keeps a core busy for a second: it looks for more work
)
_index = itertools.count(1)


def measure_vllm(bench: Bench) -> Iterator[Row]:
    """Measure both through llmrun's worker, and directly."""
    library = Helper([sys.executable, HERE / "vllm_library.py", find_twin(), str(bench.threads), str(CONTEXT)])
    try:
        with twin_worker(bench, EngineName.VLLM, parallel=_PROMPTS) as worker:
            taken = take_turns(
                lambda: many_rate(worker),
                lambda: library.ask("many", _PROMPTS, _PROMPT_TOKENS)[0],
                bench.fewer(0.5),
            )
            name = f"vllm, {_PROMPTS} prompts of {_PROMPT_TOKENS} tokens each: llmrun's worker / `LLM.generate`"
            yield compare(name, "tokens/s", taken, "0.95x")
            taken = take_turns(
                lambda: decode_rate(worker), lambda: library.ask("decode", _DECODED)[0], bench.fewer(0.7)
            )
            name = f"vllm, decode of {_DECODED} tokens, one prompt: llmrun's worker / `LLM.generate`"
            yield compare(name, "tokens/s", taken, "0.95x")
    finally:
        with contextlib.suppress(SystemExit, OSError):
            library.ask("quit")  # it has processes of its own, which a signal to it alone would leave behind
        library.close()


def many_rate(worker: WorkerClient) -> float:
    """Return the tokens of all answers over the whole time, pipes included."""
    time.sleep(_PAUSE_SECONDS)
    requests = [
        (str(number), [Segment(text=f"{next(_index)} {text}", special=False)], greedy(_PROMPT_TOKENS))
        for number, text in enumerate(questions(_PROMPTS))
    ]
    started = time.perf_counter()
    events = worker.generate_many(requests, _PROMPTS)
    tokens = sum(event.stats.completion_tokens for _id, event in events if isinstance(event, Done))
    return tokens / (time.perf_counter() - started)


def decode_rate(worker: WorkerClient) -> float:
    """Return the rate of one answer that comes through the worker's pipes."""
    time.sleep(_PAUSE_SECONDS)
    stats, _first = answer(worker, starting_text(next(_index)), _DECODED)
    return float((stats.completion_tokens - 1) / stats.decode_seconds)
